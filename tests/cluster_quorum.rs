//! Quorums of real processes: they form, elect, lose their active controller by kill -9 and by a
//! clean stop, and brokers ride through it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiKey, CreateTopicsRequest, CreateTopicsResponse, RequestHeader, TopicName,
        create_topics_request::CreatableTopic,
    },
    protocol::{Decodable as _, Encodable as _, StrBytes},
};
use rdkafka::{ClientConfig, admin::AdminClient, client::DefaultClientContext};

const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAABA";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn vltava(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Roles {
    Controller,
    Broker,
    Both,
}

struct Node {
    id: i32,
    roles: Roles,
    dir: PathBuf,
    /// Where clients connect; 0 without the broker role.
    port: u16,
    /// Where controllers connect; 0 without the controller role.
    controller: u16,
    process: Option<Child>,
}

impl Node {
    fn new(root: &Path, id: i32, roles: Roles) -> Self {
        let dir = root.join(id.to_string());
        fs::create_dir(&dir).unwrap();
        let port = if roles == Roles::Controller { 0 } else { free_port() };
        let controller = if roles == Roles::Broker { 0 } else { free_port() };
        Self { id, roles, dir, port, controller, process: None }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn configure(&self, quorum: &str) {
        let (roles, listeners) = match self.roles {
            Roles::Controller => {
                ("controller", format!("CONTROLLER://127.0.0.1:{}", self.controller))
            }
            Roles::Broker => ("broker", format!("PLAINTEXT://127.0.0.1:{}", self.port)),
            Roles::Both => (
                "broker,controller",
                format!(
                    "PLAINTEXT://127.0.0.1:{},CONTROLLER://127.0.0.1:{}",
                    self.port, self.controller
                ),
            ),
        };
        let text = format!(
            "process.roles={roles}\nnode.id={}\n{quorum}\nlisteners={listeners}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\nvltava.log.file={}\n",
            self.id,
            self.dir.join("data").display(),
            self.dir.join("node.log").display(),
        );
        fs::write(self.config(), text).unwrap();
    }

    fn format(&self, cluster: &str, more: &[&str]) {
        let config = self.config();
        let args = ["storage", "format", "-t", cluster, "-c", config.to_str().unwrap()];
        assert!(vltava(&[&args[..], more].concat()).status().unwrap().success());
    }

    fn start(&mut self) {
        let config = self.config();
        let process = vltava(&["server", "start", config.to_str().unwrap()]).spawn().unwrap();
        self.process = Some(process);
    }

    fn await_serving(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "node {} does not listen: {}", self.id, self.log());
            sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("node.log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn signal(&self, name: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// The last epoch in which this node became the active controller, if it did not leave since.
    fn leads(&self) -> Option<i32> {
        let log = self.log();
        let active = log.rfind("this node is the active controller")?;
        if log[active..].contains("no longer the active controller") {
            return None;
        }
        let line = log[..active].rfind('\n').map_or(0, |n| n + 1);
        let line = log[line..].lines().next()?;
        let digits = line.split("epoch=").nth(1)?;
        digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

struct Cluster {
    nodes: Vec<Node>,
    _root: tempfile::TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                println!("---- node {}\n{}", node.id, node.log());
            }
        }
    }
}

impl Cluster {
    /// Configured, formatted and started; voters are configured.
    fn start(roles: &[Roles]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let ids = 1..;
        let mut nodes: Vec<_> =
            ids.zip(roles).map(|(id, roles)| Node::new(root.path(), id, *roles)).collect();
        let voters = nodes.iter().filter(|n| n.controller != 0);
        let voters: Vec<_> =
            voters.map(|n| format!("{}@127.0.0.1:{}", n.id, n.controller)).collect();
        let quorum = format!("controller.quorum.voters={}", voters.join(","));
        for node in &mut nodes {
            node.configure(&quorum);
            node.format(CLUSTER_ID, &[]);
            node.start();
        }
        let cluster = Self { nodes, _root: root };
        for node in cluster.nodes.iter().filter(|n| n.port != 0) {
            node.await_serving();
        }
        cluster
    }

    /// The place in `nodes` of the active controller.
    fn active(&self) -> usize {
        let start = Instant::now();
        loop {
            let running = self.nodes.iter().enumerate().filter(|(_, n)| n.process.is_some());
            let active = running.filter_map(|(at, n)| Some((n.leads()?, at))).max();
            if let Some((_, at)) = active {
                return at;
            }
            assert!(start.elapsed() < PATIENCE, "no controller is active");
            sleep(Duration::from_millis(5));
        }
    }

    fn admin(&self) -> Admin {
        let brokers = self.nodes.iter().filter(|n| n.port != 0 && n.process.is_some());
        let brokers: Vec<_> = brokers.map(|n| format!("127.0.0.1:{}", n.port)).collect();
        Admin::new(&brokers.join(","))
    }
}

/// CreateTopics, put to one broker, which forwards it; the topic's error code. Clients send it to
/// any broker, and a client's own choice may be one that was killed.
fn create_through(broker: &str, name: &str) -> std::io::Result<i16> {
    let request = CreateTopicsRequest::default().with_timeout_ms(5_000).with_topics(vec![
        CreatableTopic::default()
            .with_name(TopicName(StrBytes::from(name.to_owned())))
            .with_num_partitions(3)
            .with_replication_factor(1),
    ]);
    let header = RequestHeader::default()
        .with_request_api_key(ApiKey::CreateTopics as i16)
        .with_request_api_version(VERSION)
        .with_correlation_id(1);
    let mut body = BytesMut::new();
    header.encode(&mut body, 2).unwrap();
    request.encode(&mut body, VERSION).unwrap();
    let mut stream = TcpStream::connect(broker)?;
    stream.set_read_timeout(Some(Duration::from_secs(6)))?;
    stream.write_all(&[&(body.len() as u32).to_be_bytes()[..], &body].concat())?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let mut reply = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut reply)?;
    // After the correlation id and the header's empty tags.
    let reply = CreateTopicsResponse::decode(&mut Bytes::from(reply).slice(5..), VERSION).unwrap();
    Ok(reply.topics[0].error_code)
}

/// Of CreateTopics.
const VERSION: i16 = 7;

struct Admin {
    broker: String,
    admin: AdminClient<DefaultClientContext>,
}

impl Admin {
    fn new(bootstrap: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap);
        let broker = bootstrap.split(',').next().unwrap().to_owned();
        Self { broker, admin: config.create().unwrap() }
    }

    /// Creates a topic through the first broker, trying again as applications do; how long it took.
    fn create(&self, name: &str) -> Duration {
        let start = Instant::now();
        loop {
            match create_through(&self.broker, name) {
                Ok(0) => return start.elapsed(),
                other => assert!(start.elapsed() < PATIENCE, "{name}: {other:?}"),
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Waits until so many topics are listed: any broker may answer, also one that is about to hear
    /// of the last one.
    fn await_topics(&self, count: usize) {
        let start = Instant::now();
        loop {
            let metadata = self.admin.inner().fetch_metadata(None, PATIENCE).unwrap();
            if metadata.topics().len() == count {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{} topics", metadata.topics().len());
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until so many brokers are listed.
    fn await_brokers(&self, count: usize) {
        let start = Instant::now();
        loop {
            let metadata = self.admin.inner().fetch_metadata(None, PATIENCE).unwrap();
            if metadata.brokers().len() == count {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{} brokers", metadata.brokers().len());
            sleep(Duration::from_millis(20));
        }
    }
}

/// A quorum of three outlives the loss of its active controller, twice.
fn survives(roles: &[Roles]) {
    let mut cluster = Cluster::start(roles);
    let brokers = roles.iter().filter(|r| **r != Roles::Controller).count();
    cluster.admin().await_brokers(brokers);
    cluster.admin().create("before");

    let active = cluster.active();
    let spared: Vec<_> = (0..cluster.nodes.len()).filter(|n| *n != active).collect();
    let broker = spared.iter().find(|n| cluster.nodes[**n].port != 0).unwrap();
    let admin = Admin::new(&format!("127.0.0.1:{}", cluster.nodes[*broker].port));
    admin.create("connected");
    cluster.nodes[active].kill();
    let took = admin.create("after-kill");
    println!("CreateTopics after kill -9 of the active controller: {took:?}");
    assert!(took < Duration::from_millis(1500), "{took:?}");

    cluster.nodes[active].start();
    let again = cluster.active();
    assert_ne!(again, active);
    let broker = (0..cluster.nodes.len()).find(|n| *n != again && cluster.nodes[*n].port != 0);
    let broker = &cluster.nodes[broker.unwrap()];
    broker.await_serving();
    let admin = Admin::new(&format!("127.0.0.1:{}", broker.port));
    admin.create("connected-again");
    cluster.nodes[again].signal("-TERM");
    let took = admin.create("after-stop");
    println!("CreateTopics after a clean stop of the active controller: {took:?}");
    let status = cluster.nodes[again].process.take().unwrap().wait().unwrap();
    assert!(status.success(), "a clean stop exits with 0");
    admin.await_topics(5);
    assert_ne!(cluster.active(), again);
}

#[test]
fn three_combined_nodes_outlive_their_active_controller() {
    survives(&[Roles::Both; 3]);
}

#[test]
fn three_controllers_and_three_brokers_outlive_the_active_controller() {
    use Roles::{Broker, Controller};
    survives(&[Controller, Controller, Controller, Broker, Broker, Broker]);
}

#[test]
fn a_dynamic_quorum_grows_from_one_formatted_node() {
    let root = tempfile::tempdir().unwrap();
    let roles = [Roles::Both, Roles::Controller, Roles::Both, Roles::Broker];
    let mut nodes: Vec<_> =
        (1..).zip(roles).map(|(id, roles)| Node::new(root.path(), id, roles)).collect();
    let controllers = nodes.iter().filter(|n| n.controller != 0);
    let servers: Vec<_> = controllers.map(|n| format!("127.0.0.1:{}", n.controller)).collect();
    let servers = format!("controller.quorum.bootstrap.servers={}", servers.join(","));
    for node in &mut nodes {
        let joins = node.roles != Roles::Broker && node.id != 1;
        let join = if joins { "\ncontroller.quorum.auto.join.enable=true" } else { "" };
        node.configure(&format!("{servers}{join}"));
        let how: &[&str] = match (node.id, node.roles) {
            (1, _) => &["--standalone"],
            (_, Roles::Broker) => &[],
            _ => &["--no-initial-controllers"],
        };
        node.format(CLUSTER_ID, how);
        node.start();
    }
    for node in nodes.iter().filter(|n| n.port != 0) {
        node.await_serving();
    }
    let mut cluster = Cluster { nodes, _root: root };
    let admin = Admin::new(&format!("127.0.0.1:{}", cluster.nodes[3].port));
    admin.await_brokers(3);
    admin.create("before");
    assert_eq!(cluster.active(), 0);
    // The leader says so at each change; the last is the third voter's.
    let all = |log: &str| {
        let last = log.lines().rfind(|l| l.contains("the members of the quorum changed"));
        last.is_some_and(|l| {
            l.contains("learners:[]") && ["1:", "2:", "3:"].iter().all(|id| l.contains(id))
        })
    };
    let start = Instant::now();
    while !all(&cluster.nodes[0].log()) {
        assert!(start.elapsed() < PATIENCE, "{}", cluster.nodes[0].log());
        sleep(Duration::from_millis(20));
    }
    cluster.nodes[0].kill();
    admin.create("after");
    assert_ne!(cluster.active(), 0);
    cluster.nodes[0].start();
    cluster.nodes[0].await_serving();
    cluster.admin().await_topics(2);
}

/// Waits until what a node logged contains `text`.
fn await_log(node: &Node, text: &str) {
    let start = Instant::now();
    while !node.log().contains(text) {
        assert!(start.elapsed() < PATIENCE, "node {} never said: {text}\n{}", node.id, node.log());
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_node_of_another_cluster_is_refused_and_both_ids_are_named() {
    let mut cluster = Cluster::start(&[Roles::Both; 3]);
    let active = cluster.active();
    let other = (active + 1) % 3;
    cluster.nodes[other].kill();
    let data = cluster.nodes[other].dir.join("data");
    fs::remove_dir_all(&data).unwrap();
    cluster.nodes[other].format("BBBBBBBBBBBBBBBBBBBBBA", &[]);
    cluster.nodes[other].start();
    for node in [&cluster.nodes[active], &cluster.nodes[other]] {
        await_log(node, "INCONSISTENT_CLUSTER_ID");
        let log = node.log();
        let line = log.lines().find(|l| l.contains("INCONSISTENT_CLUSTER_ID")).unwrap();
        assert!(line.contains(CLUSTER_ID) && line.contains("BBBBBBBBBBBBBBBBBBBBBA"), "{line}");
    }
    assert_eq!(cluster.active(), active);
}

#[test]
fn a_node_without_a_majority_names_who_does_not_answer() {
    let mut cluster = Cluster::start(&[Roles::Controller; 3]);
    let active = cluster.active();
    let (a, b) = ((active + 1) % 3, (active + 2) % 3);
    cluster.nodes[a].kill();
    cluster.nodes[b].kill();
    await_log(&cluster.nodes[active], "resigned: a majority of the voters does not answer");
    await_log(&cluster.nodes[active], "these voters do not answer");
    let log = cluster.nodes[active].log();
    let line = log.lines().find(|l| l.contains("these voters do not answer")).unwrap();
    for node in [&cluster.nodes[a], &cluster.nodes[b]] {
        assert!(line.contains(&format!("{} (127.0.0.1:{}", node.id, node.controller)), "{line}");
    }
    cluster.nodes[a].start();
    await_log(&cluster.nodes[active], "quorum leader=Some");
    cluster.active();
}
