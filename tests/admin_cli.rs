//! The admin tools against a real node: what they print, by a broker and by a controller.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTER: &str = "AAAAAAAAAAAAAAAAAAAABA";

struct Node {
    port: u16,
    controller: u16,
    process: Child,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The binary under the name of one of Kafka's scripts.
fn tool(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.arg0(name).args(args).stdin(Stdio::null());
    command
}

impl Node {
    /// A node of `roles` in a quorum of node 1 alone; the other half may be another process.
    fn start(dir: &Path, id: u16, roles: &str, ports: (u16, u16)) -> Self {
        let quorum = format!("controller.quorum.voters=1@127.0.0.1:{}", ports.1);
        Self::start_in(&quorum, dir, id, roles, ports, &[])
    }

    fn start_in(
        quorum: &str,
        dir: &Path,
        id: u16,
        roles: &str,
        (port, controller): (u16, u16),
        format: &[&str],
    ) -> Self {
        let listeners = match roles {
            "controller" => format!("CONTROLLER://127.0.0.1:{controller}"),
            "broker" => format!("PLAINTEXT://127.0.0.1:{port}"),
            _ => format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}"),
        };
        let file = dir.join(format!("{id}.properties"));
        let text = format!(
            "process.roles={roles}\nnode.id={id}\n\
             {quorum}\nlisteners={listeners}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\nvltava.log.file={}\n",
            dir.join(format!("data-{id}")).display(),
            dir.join(format!("{id}.log")).display(),
        );
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let format = [&["format", "-t", CLUSTER, "-c", file], format].concat();
        assert!(tool("kafka-storage.sh", &format).output().unwrap().status.success());
        let start = || tool("kafka-server-start.sh", &[file]);
        let process = start().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let node = Self { port, controller, process };
        let wanted = if roles == "controller" { controller } else { port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", wanted)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the node does not listen");
            sleep(Duration::from_millis(5));
        }
        node
    }

    fn servers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn controllers(&self) -> String {
        format!("127.0.0.1:{}", self.controller)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn run(name: &str, args: &[&str]) -> String {
    text(tool(name, args).output().unwrap())
}

/// What a tool says that fails: standard output and error.
fn refused(name: &str, args: &[&str]) -> String {
    let output = tool(name, args).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

fn topics(node: &Node, args: &str) -> Output {
    let servers = node.servers();
    let words = ["--bootstrap-server", &servers].into_iter().chain(args.split(' '));
    tool("kafka-topics.sh", &words.collect::<Vec<_>>()).output().unwrap()
}

fn life_of_a_topic(node: &Node) {
    assert_eq!(text(topics(node, "--list")), "\n");
    let create = "--create --topic t.1 --partitions 2 --replication-factor 1 \
                  --config retention.ms=1000 --config min.insync.replicas=1";
    let text_of = |args: &str| text(topics(node, args));
    let created = text_of(create);
    let (warning, done) = created.split_once('\n').unwrap();
    assert!(warning.starts_with("WARNING: Due to limitations in metric names"), "{created}");
    assert_eq!(done, "Created topic t.1.\n");
    let again = topics(node, create);
    assert_eq!(again.status.code(), Some(1));
    let again = String::from_utf8(again.stdout).unwrap();
    let error = "Error while executing topic command : Topic 't.1' already exists.\n";
    assert!(again.ends_with(error), "{again}");
    text_of(&format!("{create} --if-not-exists"));
    text_of("--create --topic other --replica-assignment 1,1,1");
    assert_eq!(text_of("--list"), "other\nt.1\n");
    assert_eq!(text_of("--list --topic o.*"), "other\n");

    let described = text_of("--describe --topic t.1");
    let lines: Vec<Vec<&str>> = described.lines().map(|l| l.split('\t').collect()).collect();
    assert_eq!(lines[0][0], "Topic: t.1");
    let id = lines[0][1].strip_prefix("TopicId: ").unwrap();
    assert_eq!(lines[0][2..4], ["PartitionCount: 2", "ReplicationFactor: 1"]);
    let configs = lines[0][4].strip_prefix("Configs: ").unwrap();
    let mut configs: Vec<&str> = configs.split(',').collect();
    configs.sort_unstable();
    assert_eq!(configs, ["min.insync.replicas=1", "retention.ms=1000"]);
    let partition = ["", "Topic: t.1", "Partition: 0", "Leader: 1", "Replicas: 1", "Isr: 1"];
    assert_eq!(lines[1][..6], partition);
    assert_eq!(lines[1][6..], ["Elr: ", "LastKnownElr: "]);
    assert_eq!(lines.len(), 3);
    assert_eq!(text_of(&format!("--describe --topic-id {id}")), described);
    assert_eq!(text_of("--describe --under-replicated-partitions"), "");
    assert_eq!(text_of("--describe --topics-with-overrides").lines().count(), 2);

    assert_eq!(text_of("--alter --topic t.1 --partitions 3"), "");
    assert_eq!(text_of("--describe --topic t.1").lines().count(), 4);
    assert_eq!(text_of("--delete --topic .*"), "");
    assert_eq!(text_of("--list"), "\n");
    let missing = String::from_utf8(topics(node, "--delete --topic t.1").stdout).unwrap();
    let error = "Error while executing topic command : Topic 't.1' does not exist as expected\n";
    assert_eq!(missing, error);
    assert_eq!(text_of("--delete --topic t.1 --if-exists"), "");
}

fn quorum_as_told_by(connection: [&str; 2], node: &Node, observers: usize) {
    let quorum = |args: &[&str]| run("kafka-metadata-quorum.sh", &[&connection[..], args].concat());
    let status = quorum(&["describe", "--status"]);
    let labels: Vec<&str> = status.lines().map(|l| &l[..24]).map(str::trim_end).collect();
    let expected = [
        "ClusterId:",
        "LeaderId:",
        "LeaderEpoch:",
        "HighWatermark:",
        "MaxFollowerLag:",
        "MaxFollowerLagTimeMs:",
        "CurrentVoters:",
        "CurrentObservers:",
    ];
    assert_eq!(labels, expected);
    let values: Vec<&str> = status.lines().map(|l| &l[24..]).collect();
    assert_eq!(values[0], CLUSTER);
    assert_eq!((values[1], values[4], values[5]), ("1", "0", "0"));
    let endpoint = format!("\"endpoints\": [\"CONTROLLER://{}\"]}}]", node.controllers());
    assert!(values[6].starts_with("[{\"id\": 1, \"directoryId\": \""), "{status}");
    assert!(values[6].ends_with(&endpoint), "{status}");
    assert_eq!(values[7].matches("\"id\"").count(), observers, "{status}");

    let table = quorum(&["describe", "--replication", "--human-readable"]);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|l| l.split('\t').map(str::trim).collect()).collect();
    let head = ["NodeId", "DirectoryId", "LogEndOffset", "Lag", "LastFetchTimestamp"];
    assert_eq!(rows[0][..5], head);
    assert_eq!(rows[0][5..], ["LastCaughtUpTimestamp", "Status", ""]);
    assert_eq!((rows[1][0], rows[1][3], rows[1][6]), ("1", "0", "Leader"));
    assert!(rows[1][4].ends_with(" ms ago"), "{table}");
    assert_eq!(rows.len(), 2 + observers);
    assert!(rows[2..].iter().all(|r| r[6] == "Observer"), "{table}");

    let id = run("kafka-cluster.sh", &["cluster-id", connection[0], connection[1]]);
    assert_eq!(id, format!("Cluster ID: {CLUSTER}\n"));
    let refused = refused(
        "kafka-metadata-quorum.sh",
        &[&connection[..], &["remove-controller", "-i", "7", "-d", CLUSTER]].concat(),
    );
    assert!(refused.contains("kraft.version is 0"), "{refused}");
    let gone = ["unregister", connection[0], connection[1], "--id", "9"];
    let gone = self::refused("kafka-cluster.sh", &gone);
    assert!(gone.contains("Broker ID 9 is not currently registered"), "{gone}");
}

#[test]
fn one_node_tells_of_itself_by_both_listeners() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), 1, "broker,controller", (free_port(), free_port()));
    let (servers, controllers) = (node.servers(), node.controllers());
    life_of_a_topic(&node);
    quorum_as_told_by(["--bootstrap-server", &servers], &node, 0);
    quorum_as_told_by(["--bootstrap-controller", &controllers], &node, 0);

    let endpoints = |args: &[&str]| run("kafka-cluster.sh", args);
    let brokers = endpoints(&["list-endpoints", "--bootstrap-server", &servers]);
    let rows: Vec<Vec<&str>> = brokers.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "HOST", "PORT", "RACK", "STATE", "ENDPOINT_TYPE"]);
    let port = node.port.to_string();
    assert_eq!(rows[1], ["1", "127.0.0.1", &port, "null", "unfenced", "broker"]);
    let listed = endpoints(&["list-endpoints", "--bootstrap-controller", &controllers]);
    let row: Vec<&str> = listed.lines().nth(1).unwrap().split_whitespace().collect();
    let port = node.controller.to_string();
    assert_eq!(row, ["1", "127.0.0.1", &port, "null", "controller"]);

    let versions = run("kafka-broker-api-versions.sh", &["--bootstrap-server", &servers]);
    let head = format!("{servers} (id: 1 rack: null isFenced: false) -> (");
    let lines: Vec<&str> = versions.lines().collect();
    assert_eq!(lines[..2], [&head, "\tProduce(0): 0 to 13 [usable: 13],"]);
    assert!(lines.contains(&"\tDescribeQuorum(55): 0 to 2 [usable: 2],"), "{versions}");
    assert_eq!(lines.last(), Some(&")"));
}

#[test]
fn a_broker_forwards_to_a_controller_of_its_own_process() {
    let dir = tempfile::tempdir().unwrap();
    let ports = (free_port(), free_port());
    let _controller = Node::start(dir.path(), 1, "controller", ports);
    let broker = Node::start(dir.path(), 2, "broker", ports);
    let (servers, controllers) = (broker.servers(), broker.controllers());
    quorum_as_told_by(["--bootstrap-server", &servers], &broker, 1);
    quorum_as_told_by(["--bootstrap-controller", &controllers], &broker, 1);
    let created = topics(&broker, "--create --topic t --partitions 1");
    assert_eq!(text(created), "Created topic t.\n");
}

/// The rows of `describe --replication`: id, directory, status.
fn members(connection: [&str; 2]) -> Vec<[String; 3]> {
    let describe = ["describe", "--replication"];
    let table = run("kafka-metadata-quorum.sh", &[&connection[..], &describe].concat());
    let rows = table.lines().skip(1).map(|l| l.split('\t').map(str::trim).collect::<Vec<_>>());
    rows.map(|r| [r[0].to_owned(), r[1].to_owned(), r[6].to_owned()]).collect()
}

#[test]
fn a_controller_is_added_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = ((free_port(), free_port()), (0, free_port()));
    let quorum = format!("controller.quorum.bootstrap.servers=127.0.0.1:{}", first.1);
    let roles = "broker,controller";
    let one = Node::start_in(&quorum, dir.path(), 1, roles, first, &["--standalone"]);
    let waits = ["--no-initial-controllers"];
    let _two = Node::start_in(&quorum, dir.path(), 2, "controller", second, &waits);
    let (servers, controllers) = (one.servers(), one.controllers());
    let by = [["--bootstrap-server", &servers], ["--bootstrap-controller", &controllers]];
    let status = |id: &str, status: &str| {
        let found = members(by[0]).into_iter().find(|m| m[0] == id);
        found.is_some_and(|m| m[2] == status)
    };
    let await_status = |id: &str, wanted: &str| {
        let begun = Instant::now();
        while !status(id, wanted) {
            assert!(begun.elapsed() < PATIENCE, "{:?}", members(by[0]));
            sleep(Duration::from_millis(20));
        }
    };
    let file = dir.path().join("2.properties");
    let file = ["--command-config", file.to_str().unwrap()];
    let quorum =
        |by: [&str; 2], args: &[&str]| run("kafka-metadata-quorum.sh", &[&by[..], args].concat());
    for by in by {
        await_status("2", "Observer");
        let added = quorum(by, &[&file[..], &["add-controller"]].concat());
        let members = members(by);
        let [_, directory, status] = members.iter().find(|m| m[0] == "2").unwrap();
        assert_eq!(status, "Follower");
        let endpoint = format!("CONTROLLER://127.0.0.1:{}", second.1);
        assert_eq!(
            added,
            format!("Added controller 2 with directory id {directory} and endpoints: {endpoint}\n")
        );
        let twice = [&by[..], &file, &["add-controller"]].concat();
        assert!(refused("kafka-metadata-quorum.sh", &twice).contains("already part of the set"));
        let removed = quorum(by, &["remove-controller", "-i", "2", "-d", directory]);
        let text = format!("Removed  KRaft controller 2 with directory id {directory}\n");
        assert_eq!(removed, text);
    }
}

#[test]
fn every_controller_leads_to_the_active_one() {
    let dir = tempfile::tempdir().unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let voter = |(id, port): (usize, &u16)| format!("{id}@127.0.0.1:{port}");
    let voters: Vec<String> = (1..).zip(&ports).map(voter).collect();
    let quorum = format!("controller.quorum.voters={}", voters.join(","));
    let nodes: Vec<Node> = (1..)
        .zip(ports)
        .map(|(id, port)| Node::start_in(&quorum, dir.path(), id, "controller", (0, port), &[]))
        .collect();
    let told: Vec<Vec<[String; 3]>> =
        nodes.iter().map(|n| members(["--bootstrap-controller", &n.controllers()])).collect();
    assert_eq!(
        told[0].iter().map(|m| &*m[2]).collect::<Vec<_>>(),
        ["Leader", "Follower", "Follower"]
    );
    assert_eq!(told, vec![told[0].clone(); 3]);
    for node in &nodes {
        let at = ["unregister", "--bootstrap-controller", &node.controllers(), "--id", "9"];
        let gone = refused("kafka-cluster.sh", &at);
        assert!(gone.contains("Broker ID 9 is not currently registered"), "{gone}");
    }
}

#[test]
fn mistakes_are_named() {
    let quorum = |args: &[&str]| refused("kafka-metadata-quorum.sh", args);
    let at = ["--bootstrap-server", "127.0.0.1:1"];
    for (args, text) in [
        (&["describe"][..], "One of --status or --replication must be specified"),
        (&["describe", "--status", "--replication"][..], "Only one of --status or --replication"),
        (&["describe", "--status", "--human-readable"][..], "only supported along with"),
        (&["add-controller"][..], "You must supply the configuration file of the controller"),
        (&["remove-controller", "-i", "-1", "-d", CLUSTER][..], "Invalid negative --controller-id"),
        (&["remove-controller", "-i", "1", "-d", "x"][..], "Failed to parse"),
    ] {
        let said = quorum(&[&at[..], args].concat());
        assert!(said.contains(text), "{args:?}: {said}");
    }
    let neither = quorum(&["describe", "--status"]);
    assert!(neither.contains("--bootstrap-server"), "{neither}");
    let both = [&at[..], &["--bootstrap-controller", "h:1", "describe", "--status"]].concat();
    assert!(quorum(&both).contains("cannot be used with"));
    let dry = ["remove-controller", "-i", "3", "-d", CLUSTER, "--dry-run"];
    let dry = run("kafka-metadata-quorum.sh", &[&at[..], &dry].concat());
    let expected = format!("DRY RUN of removing  KRaft controller 3 with directory id {CLUSTER}\n");
    assert_eq!(dry, expected);
}
