//! Compaction by a real node, seen by a real client, librdkafka: the topic gets small, the last value
//! of every key stays, and a node that starts again has the same.

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
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "t";
const KEYS: usize = 50;
const UPDATES: usize = 6000;

struct Node {
    dir: PathBuf,
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
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\nlog.cleaner.backoff.ms=20\n\
             log.retention.check.interval.ms=200\nvltava.log.file={}\n",
            dir.join("data").display(),
            dir.join("node.log").display(),
        );
        let file = dir.join("server.properties");
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let id = "AAAAAAAAAAAAAAAAAAAABA";
        assert!(vltava(&["storage", "format", "-t", id, "-c", file]).status().unwrap().success());
        let process = vltava(&["server", "start", file]).spawn().unwrap();
        let node = Self { dir: dir.to_owned(), port, process };
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

    /// Ends it, by kill -9 or cleanly, and starts it again.
    fn restart(&mut self, clean: bool) {
        if clean {
            let pid = self.process.id().to_string();
            assert!(Command::new("kill").arg(pid).status().unwrap().success());
            assert!(self.process.wait().unwrap().success(), "a clean stop exits with 0");
        } else {
            self.process.kill().unwrap();
            self.process.wait().unwrap();
        }
        let file = self.dir.join("server.properties");
        self.process = vltava(&["server", "start", file.to_str().unwrap()]).spawn().unwrap();
        self.await_listening();
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", format!("127.0.0.1:{}", self.port));
        config
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    /// Bytes of batches in the topic's only partition.
    fn bytes(&self) -> u64 {
        let folder = fs::read_dir(self.dir.join(format!("data/{TOPIC}-0"))).unwrap();
        let logs = folder.map(Result::unwrap).filter(|e| {
            let name = e.file_name().into_string().unwrap();
            name.ends_with(".log")
        });
        // A file may be renamed just now.
        logs.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
    }

    fn await_size(&self, what: &str, fits: impl Fn(u64) -> bool) -> u64 {
        let start = Instant::now();
        loop {
            let bytes = self.bytes();
            if fits(bytes) {
                return bytes;
            }
            assert!(start.elapsed() < PATIENCE, "{what}: still {bytes} bytes");
            sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn create(node: &Node, policy: &str) {
    let topic = NewTopic::new(TOPIC, 1, TopicReplication::Fixed(1))
        .set("cleanup.policy", policy)
        .set("segment.bytes", "1048576")
        .set("min.cleanable.dirty.ratio", "0.01");
    let done = wait(node.admin().create_topics([&topic], &AdminOptions::new())).unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}

/// Update `n` of its key; every seventh key is deleted by its last one.
fn update(n: usize) -> (String, Option<String>) {
    let deletes = n % KEYS % 7 == 3 && n + KEYS >= UPDATES;
    // Digits that no codec makes small.
    let mut random = n as u64 + 1;
    let noise: String = (0..45)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{random:020}")
        })
        .collect();
    (format!("key-{}", n % KEYS), (!deletes).then(|| format!("{n} {noise}")))
}

fn produce(node: &Node) {
    let mut config = node.client();
    config.set("enable.idempotence", "true").set("linger.ms", "5");
    config.set("compression.type", "lz4").set("batch.num.messages", "100");
    let producer: BaseProducer = config.create().unwrap();
    for n in 0..UPDATES {
        let (key, value) = update(n);
        let mut record = BaseRecord::to(TOPIC).partition(0).key(&key);
        record.payload = value.as_ref();
        while let Err((_, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = back;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(PATIENCE).unwrap();
}

/// What each key says, and how many records there are; deleted keys say nothing.
fn contents(node: &Node) -> (BTreeMap<String, String>, usize) {
    let mut config = node.client();
    config.set("group.id", "reader").set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut at = TopicPartitionList::new();
    at.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
    consumer.assign(&at).unwrap();
    let (mut out, mut count, start) = (BTreeMap::new(), 0, Instant::now());
    loop {
        assert!(start.elapsed() < PATIENCE, "the end is not reached");
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return (out, count),
            Some(Err(e)) => panic!("{e}"),
            Some(Ok(message)) => {
                count += 1;
                let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
                match message.payload() {
                    Some(v) => _ = out.insert(key, String::from_utf8(v.to_vec()).unwrap()),
                    None => _ = out.remove(&key),
                }
            }
        }
    }
}

fn expected() -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for n in 0..UPDATES {
        match update(n) {
            (key, Some(value)) => _ = out.insert(key, value),
            (key, None) => _ = out.remove(&key),
        }
    }
    out
}

#[test]
fn a_compacted_topic_gets_small_and_keeps_the_last_value_of_every_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path());
    // The policy is changed at run time: nothing is compacted before.
    create(&node, "delete");
    produce(&node);
    assert!(node.bytes() > 2 << 20, "several segments");
    let topic = ResourceSpecifier::Topic(TOPIC);
    let change = AlterConfig::new(topic)
        .set("cleanup.policy", "compact")
        .set("segment.bytes", "1048576")
        .set("segment.ms", "500")
        .set("min.cleanable.dirty.ratio", "0.01");
    wait(node.admin().alter_configs([&change], &AdminOptions::new())).unwrap();
    // The active segment is closed by its age, then cleaned.
    let small = node.await_size("compaction", |bytes| bytes > 0 && bytes < 100_000);
    let (found, count) = contents(&node);
    assert_eq!(found, expected());
    assert!(count <= 2 * KEYS, "{count} records in {small} bytes");
    for clean in [false, true] {
        node.restart(clean);
        assert_eq!(contents(&node).0, expected());
    }
    // It goes on: the same again, and small again.
    produce(&node);
    node.await_size("compaction", |bytes| bytes > 0 && bytes < 100_000);
    assert_eq!(contents(&node).0, expected());
    let points = fs::read_to_string(dir.path().join("data/cleaner-offset-checkpoint")).unwrap();
    assert!(points.lines().any(|l| l.starts_with("t 0 ")), "{points}");
}
