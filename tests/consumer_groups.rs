//! Consumer groups (KIP-848) of a real client, librdkafka, on a real node: members share the
//! partitions, the coordinator dies in the middle, and classic members live among them.

use std::{
    collections::BTreeSet,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

const PATIENCE: Duration = Duration::from_secs(90);

struct Node {
    config: PathBuf,
    port: u16,
    process: Child,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn vltava(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Node {
    fn start(dir: &Path) -> Self {
        let (port, controller) = (free_port(), free_port());
        let config = dir.join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\ngroup.initial.rebalance.delay.ms=0\n\
             group.consumer.min.heartbeat.interval.ms=200\n\
             group.consumer.heartbeat.interval.ms=200\n\
             group.consumer.assignment.interval.ms=0\n\
             vltava.log.file={}\n",
            dir.join("data").display(),
            dir.join("node.log").display(),
        );
        fs::write(&config, text).unwrap();
        let file = config.to_str().unwrap();
        let id = "AAAAAAAAAAAAAAAAAAAABA";
        assert!(vltava(&["storage", "format", "-t", id, "-c", file]).status().unwrap().success());
        let process = vltava(&["server", "start", file]).spawn().unwrap();
        let node = Self { config, port, process };
        node.await_listening();
        node
    }

    fn await_listening(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "the node does not listen");
            sleep(Duration::from_millis(5));
        }
    }

    fn kill_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let file = self.config.to_str().unwrap();
        self.process = vltava(&["server", "start", file]).spawn().unwrap();
        self.await_listening();
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", format!("127.0.0.1:{}", self.port));
        config.set("topic.metadata.refresh.interval.ms", "1000");
        config
    }

    fn create(&self, topic: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }

    fn send(&self, topic: &str, from: i32, to: i32) {
        let mut config = self.client();
        config.set("enable.idempotence", "true").set("linger.ms", "1");
        let producer: BaseProducer = config.create().unwrap();
        for n in from..to {
            let value = n.to_string();
            let record = BaseRecord::to(topic).key(&value).payload(&value);
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    fn member(&self, protocol: &str, topics: &[&str]) -> BaseConsumer {
        let mut config = self.client();
        config.set("group.id", "g").set("group.protocol", protocol);
        config.set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
        if protocol == "classic" {
            config.set("partition.assignment.strategy", "range");
            config.set("session.timeout.ms", "10000").set("heartbeat.interval.ms", "200");
        }
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(topics).unwrap();
        consumer
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn share(consumer: &BaseConsumer) -> BTreeSet<(String, i32)> {
    let assigned = consumer.assignment().unwrap();
    assigned.elements().iter().map(|e| (e.topic().to_owned(), e.partition())).collect()
}

/// Polls all members, committing what they read, until `done` holds of what was read and of the
/// members' shares.
fn poll_until(
    what: &str,
    members: &[&BaseConsumer],
    seen: &mut BTreeSet<String>,
    done: impl Fn(&BTreeSet<String>, &[BTreeSet<(String, i32)>]) -> bool,
) {
    let start = Instant::now();
    loop {
        for member in members {
            if let Some(Ok(message)) = member.poll(Duration::from_millis(20)) {
                seen.insert(String::from_utf8(message.payload().unwrap().to_vec()).unwrap());
                // Refused during a rebalance; then somebody reads it again.
                let _ = member.commit_message(&message, CommitMode::Async);
            }
        }
        let shares: Vec<_> = members.iter().map(|m| share(m)).collect();
        if done(seen, &shares) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: {} read, shares {shares:?}", seen.len());
    }
}

fn sizes(shares: &[BTreeSet<(String, i32)>]) -> Vec<usize> {
    let mut sizes: Vec<_> = shares.iter().map(BTreeSet::len).collect();
    sizes.sort_unstable();
    sizes
}

fn disjoint(shares: &[BTreeSet<(String, i32)>]) -> bool {
    let all: BTreeSet<_> = shares.iter().flatten().collect();
    all.len() == shares.iter().map(BTreeSet::len).sum::<usize>()
}

#[test]
fn members_share_partitions_and_go_on_when_their_coordinator_dies() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    node.create("t", 6);
    node.send("t", 0, 500);
    let mut seen = BTreeSet::new();
    let a = node.member("consumer", &["t"]);
    poll_until("one member", &[&a], &mut seen, |_, s| sizes(s) == [6]);
    let b = node.member("consumer", &["t"]);
    poll_until("two members", &[&a, &b], &mut seen, |_, s| sizes(s) == [3, 3] && disjoint(s));
    let before = [share(&a), share(&b)];

    node.kill_and_restart();
    node.send("t", 500, 1_000);
    poll_until("after the restart", &[&a, &b], &mut seen, |seen, _| seen.len() == 1_000);
    assert_eq!([share(&a), share(&b)], before, "nobody had to rejoin");

    let c = node.member("consumer", &["t"]);
    poll_until("three members", &[&a, &b, &c], &mut seen, |_, s| {
        sizes(s) == [2, 2, 2] && disjoint(s)
    });
    drop(b);
    poll_until("one has left", &[&a, &c], &mut seen, |_, s| sizes(s) == [3, 3] && disjoint(s));
}

#[test]
fn classic_members_live_in_a_consumer_group_until_the_last_consumer_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.create("t", 4);
    node.send("t", 0, 200);
    let mut seen = BTreeSet::new();
    let old = node.member("classic", &["t"]);
    poll_until("a classic group", &[&old], &mut seen, |seen, s| {
        sizes(s) == [4] && seen.len() == 200
    });
    let new = node.member("consumer", &["t"]);
    poll_until("upgraded", &[&old, &new], &mut seen, |_, s| sizes(s) == [2, 2] && disjoint(s));
    node.send("t", 200, 400);
    poll_until("both read", &[&old, &new], &mut seen, |seen, _| seen.len() == 400);
    drop(new);
    poll_until("downgraded", &[&old], &mut seen, |_, s| sizes(s) == [4]);
    node.send("t", 400, 500);
    poll_until("reads on", &[&old], &mut seen, |seen, _| seen.len() == 500);
}

#[test]
fn a_regular_expression_finds_topics_that_come_later() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path());
    node.create("r1", 1);
    node.create("s1", 1);
    let mut seen = BTreeSet::new();
    let member = node.member("consumer", &["^r.*"]);
    poll_until("one topic", &[&member], &mut seen, |_, s| sizes(s) == [1]);
    node.create("r2", 2);
    poll_until("two topics", &[&member], &mut seen, |_, s| sizes(s) == [3]);
}
