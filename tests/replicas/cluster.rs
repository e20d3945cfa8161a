//! Clusters of real processes, asked by requests in the wire's own schemas.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, Message as _, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use vltava::{
    base::ErrorCode,
    wire::{
        api::{
            cluster::{DescribeLogDirsRequest, DescribeLogDirsResult},
            configs::{
                AlterConfigsResourceResponse, IncrementalAlterConfigsRequest,
                IncrementalAlterConfigsResource, IncrementalAlterableConfig,
            },
            metadata::{MetadataRequest, MetadataResponsePartition},
            partitions::{
                AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
            },
            topics::{CreatableReplicaAssignment, CreatableTopic, CreateTopicsRequest},
        },
        codec::Chunk,
        frame::{decode_response, encode_request},
        message::Request,
    },
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
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
pub(crate) fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        sleep(Duration::from_millis(20));
    }
}

pub(crate) struct Node {
    pub(crate) id: i32,
    pub(crate) dir: PathBuf,
    port: u16,
    process: Child,
}

impl Node {
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.kill_and_restart_after(|| ());
    }

    /// Dies, and comes back after `meanwhile`.
    pub(crate) fn kill_and_restart_after(&mut self, meanwhile: impl FnOnce()) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        meanwhile();
        self.process = run(&self.dir);
    }

    /// The answer to one request.
    pub(crate) fn try_ask<R: Request>(&self, request: &R, version: i16) -> Option<R::Response> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for chunk in encode_request(7, Some("test"), request, version).unwrap() {
            let Chunk::Bytes(bytes) = chunk else { panic!("requests are of memory") };
            stream.write_all(&bytes).ok()?;
        }
        let mut length = [0; 4];
        stream.read_exact(&mut length).ok()?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut frame).ok()?;
        Some(decode_response(&Bytes::from(frame), version).unwrap().1)
    }

    pub(crate) fn ask<R: Request>(&self, request: &R, version: i16) -> R::Response {
        self.try_ask(request, version).expect("an answer")
    }

    /// Sets keys of a resource of this type and name.
    pub(crate) fn configure(
        &self,
        (resource_type, name): (i8, &str),
        keys: &[(&str, &str)],
    ) -> AlterConfigsResourceResponse {
        let set = |(name, value): &(&str, &str)| IncrementalAlterableConfig {
            name: (*name).to_owned(),
            config_operation: 0,
            value: Some((*value).to_owned()),
        };
        let request = IncrementalAlterConfigsRequest {
            resources: vec![IncrementalAlterConfigsResource {
                resource_type,
                resource_name: name.to_owned(),
                configs: keys.iter().map(set).collect(),
            }],
            validate_only: false,
        };
        self.ask(&request, 1).responses.remove(0)
    }

    /// The log directories.
    pub(crate) fn log_dirs(&self) -> Vec<DescribeLogDirsResult> {
        self.ask(&DescribeLogDirsRequest { topics: None }, 5).results
    }

    /// Directories of replicas of a topic in the log directory `dir`, by their names.
    pub(crate) fn on_disk(&self, dir: &str, topic: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join(dir)).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|n| n.starts_with(&format!("{topic}-"))).collect();
        names.sort_unstable();
        names
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

/// A controller, node 1, and brokers with the log directories `a` and `b`, in one directory; they
/// end with it.
pub(crate) struct Cluster {
    _dir: tempfile::TempDir,
    nodes: Vec<Node>,
}

impl Cluster {
    pub(crate) fn new(brokers: &[i32], extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let voter = free_port();
        let start = |id: i32, role: &str| {
            let dir = dir.path().join(id.to_string());
            fs::create_dir(&dir).unwrap();
            let port = if role == "controller" { voter } else { free_port() };
            let listener = if role == "controller" { "CONTROLLER" } else { "PLAINTEXT" };
            let text = format!(
                "process.roles={role}\nnode.id={id}\n\
                 controller.quorum.voters=1@127.0.0.1:{voter}\n\
                 listeners={listener}://127.0.0.1:{port}\n\
                 controller.listener.names=CONTROLLER\nlog.dirs={0}/a,{0}/b\n\
                 vltava.log.file={0}/node.log\nbroker.heartbeat.interval.ms=500\n\
                 broker.session.timeout.ms=300000\noffsets.topic.replication.factor=1\n{extra}",
                dir.display(),
            );
            let file = dir.join("server.properties");
            fs::write(&file, text).unwrap();
            let format = ["storage", "format", "-t", CLUSTER_ID, "-c", file.to_str().unwrap()];
            assert!(vltava(&format).status().unwrap().success());
            let process = run(&dir);
            Node { id, dir, port, process }
        };
        let mut nodes = vec![start(1, "controller")];
        nodes.extend(brokers.iter().map(|id| start(*id, "broker")));
        let cluster = Self { _dir: dir, nodes };
        eventually("all brokers are there", || {
            let seen = cluster.node(brokers[0]).try_ask(&MetadataRequest::default(), 12);
            seen.is_some_and(|m| m.brokers.len() == brokers.len())
        });
        cluster
    }

    pub(crate) fn node(&self, id: i32) -> &Node {
        self.nodes.iter().find(|n| n.id == id).unwrap()
    }

    pub(crate) fn node_mut(&mut self, id: i32) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.id == id).unwrap()
    }

    /// Makes a topic whose partitions have these replicas.
    pub(crate) fn create(&self, at: i32, topic: &str, replicas: &[&[i32]]) {
        let of = |(n, ids): (usize, &&[i32])| CreatableReplicaAssignment {
            partition_index: i32::try_from(n).unwrap(),
            broker_ids: ids.to_vec(),
        };
        let topic = CreatableTopic {
            name: topic.to_owned(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: replicas.iter().enumerate().map(of).collect(),
            ..CreatableTopic::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, validate_only: false };
        let done = self.node(at).ask(&request, 7).topics.remove(0);
        assert_eq!(done.error_code, ErrorCode::None, "{done:?}");
        let led = || (0..).zip(replicas).all(|(n, ids)| self.led(at, &done.name, n) == ids[0]);
        eventually("the topic is led", led);
    }

    fn led(&self, at: i32, topic: &str, partition: i32) -> i32 {
        self.partition(at, topic, partition).map_or(-1, |p| p.leader_id)
    }

    /// What broker `at` says of a partition.
    pub(crate) fn partition(
        &self,
        at: i32,
        topic: &str,
        partition: i32,
    ) -> Option<MetadataResponsePartition> {
        let seen = self.node(at).try_ask(&MetadataRequest::default(), 12)?;
        let topic = seen.topics.into_iter().find(|t| t.name.as_deref() == Some(topic))?;
        topic.partitions.into_iter().find(|p| p.partition_index == partition)
    }

    /// Moves partition 0 of a topic to these replicas.
    pub(crate) fn reassign(&self, at: i32, topic: &str, replicas: &[i32]) {
        let partition =
            ReassignablePartition { partition_index: 0, replicas: Some(replicas.to_vec()) };
        let request = AlterPartitionReassignmentsRequest {
            topics: vec![ReassignableTopic { name: topic.to_owned(), partitions: vec![partition] }],
            ..Default::default()
        };
        let done = self.node(at).ask(&request, 0);
        assert_eq!(done.error_code, ErrorCode::None);
        assert_eq!(done.responses[0].partitions[0].error_code, ErrorCode::None, "{done:?}");
    }

    fn client(&self, at: i32) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", format!("127.0.0.1:{}", self.node(at).port));
        config.set("message.max.bytes", "1000000").set("acks", "all");
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    /// Writes `count` records of `size` bytes to partition 0, acknowledged by all in sync.
    pub(crate) fn produce(&self, at: i32, topic: &str, count: usize, size: usize) {
        let producer: BaseProducer = self.client(at).create().unwrap();
        for n in 0..count {
            let payload: Vec<u8> = (0..size).map(|i| (i * 7 + n) as u8).collect();
            let key = n.to_string();
            let record = BaseRecord::to(topic).key(&key).payload(&payload).partition(0);
            producer.send(record).map_err(|(e, _)| e).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// The keys of all records of partition 0, in order.
    pub(crate) fn keys(&self, at: i32, topic: &str, count: usize) -> Vec<String> {
        let mut config = self.client(at);
        config.set("group.id", "none").set("enable.auto.commit", "false");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset(topic, 0, rdkafka::Offset::Beginning).unwrap();
        consumer.assign(&all).unwrap();
        let (start, mut keys) = (Instant::now(), Vec::new());
        while keys.len() < count {
            assert!(start.elapsed() < PATIENCE, "{} records came", keys.len());
            if let Some(record) = consumer.poll(Duration::from_millis(100)) {
                keys.push(String::from_utf8(record.unwrap().key().unwrap().to_vec()).unwrap());
            }
        }
        keys
    }
}
