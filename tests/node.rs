//! A real node and a real client, librdkafka: produce, consume in a group, die by kill -9 in
//! between, and stop cleanly.

use std::{
    collections::BTreeMap,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

const PATIENCE: Duration = Duration::from_secs(60);

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

    /// Dies without a chance to tidy up, and comes back.
    fn kill_and_restart(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.restart();
    }

    fn restart(&mut self) {
        let file = self.config.to_str().unwrap();
        self.process = vltava(&["server", "start", file]).spawn().unwrap();
        self.await_listening();
    }

    /// SIGTERM; the exit code must be 0.
    fn stop(&mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        assert!(self.process.wait().unwrap().success(), "a clean stop exits with 0");
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", format!("127.0.0.1:{}", self.port));
        config
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn create(node: &Node, topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = node.client().create().unwrap();
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}

fn send(producer: &BaseProducer, topic: &str, from: i32, to: i32) {
    for n in from..to {
        let value = n.to_string();
        let mut record = BaseRecord::to(topic).key(&value).payload(&value);
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
}

fn idempotent(node: &Node) -> BaseProducer {
    let mut config = node.client();
    config.set("enable.idempotence", "true").set("linger.ms", "1");
    config.set("compression.type", "lz4").set("message.timeout.ms", "60000");
    config.create().unwrap()
}

/// Reads until `count` values are there or nothing new comes.
fn consume(consumer: &BaseConsumer, count: usize) -> BTreeMap<String, usize> {
    let (mut seen, start) = (BTreeMap::new(), Instant::now());
    while seen.values().sum::<usize>() < count && start.elapsed() < PATIENCE {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let value = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
            *seen.entry(value).or_default() += 1;
        }
    }
    seen
}

fn group(node: &Node, id: &str) -> BaseConsumer {
    let mut config = node.client();
    config.set("group.id", id).set("auto.offset.reset", "earliest");
    config.set("enable.auto.commit", "false");
    config.create().unwrap()
}

#[test]
fn acknowledged_records_survive_kill_and_each_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    create(&node, "t", 3);
    let producer = idempotent(&node);
    send(&producer, "t", 0, 5_000);
    node.kill_and_restart();
    send(&producer, "t", 5_000, 10_000);
    producer.flush(PATIENCE).unwrap();

    let consumer = group(&node, "readers");
    consumer.subscribe(&["t"]).unwrap();
    let seen = consume(&consumer, 10_000);
    assert_eq!(seen.len(), 10_000, "every acknowledged record");
    assert!(seen.values().all(|n| *n == 1), "each once");
    // Nothing follows.
    assert!(consumer.poll(Duration::from_millis(300)).is_none());
}

#[test]
fn a_group_goes_on_where_it_committed_after_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    create(&node, "t", 1);
    let producer = idempotent(&node);
    send(&producer, "t", 0, 100);
    producer.flush(PATIENCE).unwrap();

    let consumer = group(&node, "readers");
    consumer.subscribe(&["t"]).unwrap();
    assert_eq!(consume(&consumer, 100).len(), 100);
    let mut at = TopicPartitionList::new();
    at.add_partition_offset("t", 0, Offset::Offset(60)).unwrap();
    consumer.commit(&at, CommitMode::Sync).unwrap();
    drop(consumer);

    node.stop();
    assert!(dir.path().join("data/.kafka_cleanshutdown").exists(), "the marker is left");
    node.restart();
    let consumer = group(&node, "readers");
    consumer.subscribe(&["t"]).unwrap();
    let seen = consume(&consumer, 40);
    let expected: BTreeMap<String, usize> = (60..100).map(|n| (n.to_string(), 1)).collect();
    assert_eq!(seen, expected, "the rest, from the committed offset on");
    assert_eq!(consumer.fetch_watermarks("t", 0, PATIENCE).unwrap(), (0, 100));
}
