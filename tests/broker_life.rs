//! The life of brokers with real processes: killed, frozen, started twice, stopped in order or not
//! let go, and with a log directory that fails. Sessions are long where the point is that nobody
//! waits for their end.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
};

const PATIENCE: Duration = Duration::from_secs(60);
/// A session that no test waits for.
const LONG_SESSION: &str = "broker.session.timeout.ms=300000\n";
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAABA";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn vltava(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Waits until it is so, which may take long where the machine is slow.
fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(20));
    }
}

struct Node {
    id: i32,
    dir: PathBuf,
    port: u16,
    process: Child,
}

impl Node {
    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn restart(&mut self) {
        self.process = run(&self.dir);
    }

    fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("node.log")).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(dir: &Path) -> Child {
    vltava(&["server", "start", dir.join("server.properties").to_str().unwrap()]).spawn().unwrap()
}

/// A cluster of processes in one directory; they end with it.
struct Cluster {
    dir: tempfile::TempDir,
    voters: Vec<(i32, u16)>,
    nodes: Vec<Node>,
}

impl Cluster {
    fn new(controllers: &[i32]) -> Self {
        let voters = controllers.iter().map(|id| (*id, free_port())).collect();
        Self { dir: tempfile::tempdir().unwrap(), voters, nodes: Vec::new() }
    }

    /// One controller, node 1, and brokers.
    fn with_brokers(brokers: &[i32], extra: &str) -> Self {
        let mut cluster = Self::new(&[1]);
        cluster.add(1, "controller", "", extra);
        for id in brokers {
            cluster.add(*id, "broker", "", extra);
        }
        cluster.await_brokers(brokers);
        cluster
    }

    fn add(&mut self, id: i32, roles: &str, suffix: &str, extra: &str) -> &mut Node {
        let dir = self.dir.path().join(format!("{id}{suffix}"));
        fs::create_dir(&dir).unwrap();
        let port = free_port();
        let own = self.voters.iter().find(|(voter, _)| *voter == id).map(|(_, port)| *port);
        let voters: Vec<_> =
            self.voters.iter().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
        let mut listeners = Vec::new();
        if roles.contains("broker") {
            listeners.push(format!("PLAINTEXT://127.0.0.1:{port}"));
        }
        if let Some(own) = own.filter(|_| roles.contains("controller")) {
            listeners.push(format!("CONTROLLER://127.0.0.1:{own}"));
        }
        let text = format!(
            "process.roles={roles}\nnode.id={id}\ncontroller.quorum.voters={}\nlisteners={}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={2}/a,{2}/b\nvltava.log.file={2}/node.log\n\
             broker.heartbeat.interval.ms=500\nreplica.high.watermark.checkpoint.interval.ms=200\n\
             offsets.topic.replication.factor=1\n{extra}",
            voters.join(","),
            listeners.join(","),
            dir.display(),
        );
        fs::write(dir.join("server.properties"), text).unwrap();
        let file = dir.join("server.properties");
        let format = ["storage", "format", "-t", CLUSTER_ID, "-c", file.to_str().unwrap()];
        assert!(vltava(&format).status().unwrap().success());
        let process = run(&dir);
        self.nodes.push(Node { id, dir, port, process });
        self.nodes.last_mut().unwrap()
    }

    fn node(&mut self, id: i32) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.id == id).unwrap()
    }

    fn client(&self, id: i32) -> ClientConfig {
        let port = self.nodes.iter().find(|n| n.id == id).unwrap().port;
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", format!("127.0.0.1:{port}"));
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    /// The brokers that clients of broker `at` are told of, and the leaders of topic `t`; nothing
    /// while it cannot be asked.
    fn seen(&self, at: i32) -> (Vec<i32>, Vec<i32>) {
        let consumer: BaseConsumer = self.client(at).create().unwrap();
        let Ok(metadata) = consumer.fetch_metadata(None, Duration::from_secs(5)) else {
            return Default::default();
        };
        let mut brokers: Vec<i32> = metadata.brokers().iter().map(|b| b.id()).collect();
        brokers.sort_unstable();
        let topics = metadata.topics().iter().filter(|t| t.name() == "t");
        let leaders = topics.flat_map(|t| t.partitions().iter().map(|p| p.leader())).collect();
        (brokers, leaders)
    }

    fn await_brokers(&self, ids: &[i32]) {
        eventually(&format!("brokers {ids:?}"), || self.seen(ids[0]).0 == ids);
    }

    fn create(&self, at: i32, replicas: &[&[i32]], min_insync: &str) {
        let admin: AdminClient<DefaultClientContext> = self.client(at).create().unwrap();
        let topic = NewTopic::new(
            "t",
            i32::try_from(replicas.len()).unwrap(),
            TopicReplication::Variable(replicas),
        );
        let topic = topic.set("min.insync.replicas", min_insync);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }
}

#[test]
fn a_killed_broker_is_fenced_at_once_and_comes_back_and_a_live_one_keeps_its_id() {
    let mut cluster = Cluster::with_brokers(&[2, 3], LONG_SESSION);
    cluster.create(2, &[&[3, 2]], "1");
    eventually("broker 3 leads", || cluster.seen(2).1 == [3]);

    let twin = cluster.add(3, "broker", "-twin", LONG_SESSION);
    eventually("the second broker 3 is refused", || {
        twin.log().contains("DUPLICATE_BROKER_REGISTRATION")
    });
    twin.kill();
    cluster.nodes.pop();
    assert_eq!(cluster.seen(2), (vec![2, 3], vec![3]), "the first one stays");

    cluster.node(3).kill();
    eventually("broker 2 takes over", || cluster.seen(2) == (vec![2], vec![2]));

    cluster.node(3).restart();
    cluster.await_brokers(&[2, 3]);
    // Killed and started again before anybody looks.
    cluster.node(3).kill();
    cluster.node(3).restart();
    cluster.await_brokers(&[2, 3]);
}

#[test]
fn a_frozen_broker_is_fenced_when_its_session_ends() {
    let mut cluster = Cluster::with_brokers(&[2, 3], "broker.session.timeout.ms=4000\n");
    cluster.node(3).signal("-STOP");
    let frozen = Instant::now();
    eventually("broker 3 is fenced", || cluster.seen(2).0 == [2]);
    // It was last heard of within an interval of heartbeats before.
    assert!(frozen.elapsed() > Duration::from_millis(3400), "{:?}", frozen.elapsed());
    cluster.node(3).signal("-CONT");
    cluster.await_brokers(&[2, 3]);
}

#[test]
fn brokers_outlive_their_controller_and_the_next_one_finds_who_died_with_it() {
    let mut cluster = Cluster::new(&[1, 2, 3]);
    for id in [1, 2, 3] {
        cluster.add(id, "broker,controller", "", LONG_SESSION);
    }
    cluster.await_brokers(&[1, 2, 3]);
    let leads = |n: &Node| n.log().contains("this node is the active controller");
    let active = cluster.nodes.iter().find(|n| leads(n)).unwrap().id;
    let rest: Vec<i32> = [1, 2, 3].into_iter().filter(|id| *id != active).collect();
    cluster.node(active).kill();
    eventually("the other brokers go on", || cluster.seen(rest[0]).0 == rest);
    assert!(!cluster.node(rest[1]).log().contains("fenced this broker"));
}

#[test]
fn a_stop_is_refused_below_min_insync_and_a_second_signal_forces_it() {
    let mut cluster = Cluster::with_brokers(&[2, 3, 4], LONG_SESSION);
    cluster.create(2, &[&[3, 2, 4]], "2");
    cluster.node(4).kill();
    cluster.await_brokers(&[2, 3]);

    cluster.node(3).signal("-TERM");
    let node = cluster.node(3);
    eventually("the refusal names the partition", || {
        node.log().contains("partition t-0 would have 1 in-sync replica(s)")
    });
    assert!(node.is_running());
    assert_eq!(cluster.seen(2), (vec![2, 3], vec![3]), "it serves on");

    cluster.node(3).signal("-TERM");
    assert!(cluster.node(3).process.wait().unwrap().success(), "a clean stop exits with 0");
    eventually("broker 2 takes over", || cluster.seen(2) == (vec![2], vec![2]));
    cluster.node(3).restart();
    cluster.await_brokers(&[2, 3]);
}

#[test]
fn leaders_leave_a_failed_directory_and_a_broker_without_any_ends() {
    let mut cluster = Cluster::with_brokers(&[2, 3], LONG_SESSION);
    let replicas: [&[i32]; 4] = [&[3, 2]; 4];
    cluster.create(2, &replicas, "1");
    eventually("broker 3 leads", || cluster.seen(2).1 == [3; 4]);
    let dir = cluster.node(3).dir.clone();
    fs::rename(dir.join("a"), dir.join("gone")).unwrap();
    eventually("half of the leaders moved", || {
        let mut leaders = cluster.seen(2).1;
        leaders.sort_unstable();
        leaders == [2, 2, 3, 3]
    });
    assert!(cluster.node(3).is_running());
    fs::rename(dir.join("b"), dir.join("gone-too")).unwrap();
    assert!(!cluster.node(3).process.wait().unwrap().success());
    eventually("broker 2 leads all", || cluster.seen(2) == (vec![2], vec![2; 4]));
}
