//! Real nodes for the tests of share groups, and raw frames to them. Each test uses a part of it.

#![allow(dead_code)]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use vltava::{
    base::{ErrorCode, Uuid},
    net::{NetError, PeerClient, PeerConfig},
    testing::batches::Batch,
    wire::{
        api::{
            groups::FindCoordinatorRequest,
            metadata::{MetadataRequest, MetadataRequestTopic},
            produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
            share_state::{
                InitializeShareGroupStateRequest, InitializeStateData, InitializeStatePartition,
            },
            topics::{CreatableTopic, CreateTopicsRequest},
        },
        frame::{decode_response, encode_request},
        message::Request,
        records::Records,
    },
};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const GROUP: &str = "g";

fn vltava(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

pub(crate) struct Node {
    config: PathBuf,
    pub(crate) port: u16,
    process: Child,
    _dir: Arc<tempfile::TempDir>,
}

impl Node {
    pub(crate) fn start(extra: &str) -> Self {
        Self::cluster(1, extra).remove(0)
    }

    /// Nodes that are brokers and controllers; that at `n` has the id `n + 1`.
    pub(crate) fn cluster(count: usize, extra: &str) -> Vec<Self> {
        // All are held until all are known, so that none is drawn twice.
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let held: Vec<_> = (0..count * 2).map(|_| bind()).collect();
        let ports: Vec<u16> = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(held);
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let voter = |n: usize| format!("{}@127.0.0.1:{}", n + 1, ports[n * 2]);
        let voters: Vec<_> = (0..count).map(voter).collect();
        let start = |n: usize| {
            let (controller, port) = (ports[n * 2], ports[n * 2 + 1]);
            let config = dir.path().join(format!("{n}.properties"));
            let text = format!(
                "process.roles=broker,controller\nnode.id={}\ncontroller.quorum.voters={}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 controller.listener.names=CONTROLLER\nlog.dirs={at}/data{n}\n\
                 share.coordinator.state.topic.replication.factor={count}\n\
                 share.coordinator.state.topic.min.isr={}\n\
                 share.coordinator.state.topic.num.partitions=2\n\
                 transaction.state.log.replication.factor={count}\n\
                 transaction.state.log.min.isr=1\nvltava.log.file={at}/node{n}.log\n{extra}",
                n + 1,
                voters.join(","),
                count.min(2),
                at = dir.path().display(),
            );
            fs::write(&config, text).unwrap();
            let id = "AAAAAAAAAAAAAAAAAAAABA";
            let format = ["storage", "format", "-t", id, "-c", config.to_str().unwrap()];
            assert!(vltava(&format).status().unwrap().success());
            let process = Self::run(&config);
            Self { config, port, process, _dir: Arc::clone(&dir) }
        };
        let nodes: Vec<_> = (0..count).map(start).collect();
        nodes.iter().for_each(Self::await_listening);
        nodes
    }

    fn run(config: &Path) -> Child {
        vltava(&["server", "start", config.to_str().unwrap()]).spawn().unwrap()
    }

    fn await_listening(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "the node does not listen");
            sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGSTOP freezes the process, SIGCONT lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    pub(crate) fn restart(&mut self) {
        self.process = Self::run(&self.config);
        self.await_listening();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) struct Raw(PeerClient);

impl Raw {
    pub(crate) async fn connect(port: u16) -> Self {
        let config = PeerConfig { request_timeout: PATIENCE, ..PeerConfig::new() };
        Self(PeerClient::connect("127.0.0.1", port, &config).await.unwrap())
    }

    pub(crate) async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let frame = encode_request(1, Some("test"), request, version).unwrap();
        let answer = self.0.call(frame).await.unwrap();
        decode_response(&answer, version).unwrap().1
    }

    /// A connection that may fail, on which an answer is waited for so long.
    pub(crate) async fn dial(port: u16, request_timeout: Duration) -> Result<Self, NetError> {
        let config = PeerConfig { request_timeout, ..PeerConfig::new() };
        Ok(Self(PeerClient::connect("127.0.0.1", port, &config).await?))
    }

    /// The answer, if one comes that can be read.
    pub(crate) async fn try_ask<R: Request>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Option<R::Response> {
        let frame = encode_request(1, Some("test"), request, version).unwrap();
        let answer = self.0.call(frame).await.ok()?;
        Some(decode_response(&answer, version).ok()?.1)
    }

    /// Creates a topic that the group reads from its start.
    pub(crate) async fn create(&mut self, name: &str) -> Uuid {
        self.create_with(name, 1).await
    }

    pub(crate) async fn create_with(&mut self, name: &str, replication_factor: i16) -> Uuid {
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: 1,
            replication_factor,
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let made = self.ask(&request, 7).await;
        assert_eq!(made.topics[0].error_code, ErrorCode::None);
        let topic = made.topics[0].topic_id;
        let start = Instant::now();
        while self.initialize(topic).await != ErrorCode::None {
            assert!(start.elapsed() < PATIENCE, "no coordinator");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        topic
    }

    async fn initialize(&mut self, topic_id: Uuid) -> ErrorCode {
        let coordinator = FindCoordinatorRequest {
            key_type: 2,
            coordinator_keys: vec![format!("{GROUP}:{topic_id}:0")],
            ..Default::default()
        };
        let found = self.ask(&coordinator, 6).await.coordinators.remove(0);
        if found.error_code != ErrorCode::None {
            return found.error_code;
        }
        let mut coordinator = Self::connect(u16::try_from(found.port).unwrap()).await;
        let p = InitializeStatePartition { partition: 0, state_epoch: 1, start_offset: 0 };
        let topic = InitializeStateData { topic_id, partitions: vec![p] };
        let group_id = GROUP.to_owned();
        let request = InitializeShareGroupStateRequest { group_id, topics: vec![topic] };
        coordinator.ask(&request, 0).await.results[0].partitions[0].error_code
    }

    /// The place of the node that leads the topic's partition, once it is another than `not`.
    pub(crate) async fn leader(&mut self, topic: &str, not: Option<usize>) -> usize {
        let named = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![named]), ..Default::default() };
        let start = Instant::now();
        loop {
            let answer = self.ask(&request, 12).await;
            let partition = answer.topics[0].partitions.first();
            let leader = partition.and_then(|p| usize::try_from(p.leader_id - 1).ok());
            match leader.filter(|l| Some(*l) != not) {
                Some(leader) => return leader,
                None => assert!(start.elapsed() < PATIENCE, "{answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn append(&mut self, topic: &str, batch: Batch) {
        self.append_as(topic, batch, None).await;
    }

    pub(crate) async fn append_as(
        &mut self,
        topic: &str,
        batch: Batch,
        transactional_id: Option<&str>,
    ) {
        let partition =
            PartitionProduceData { index: 0, records: Records::Bytes(batch.bytes().into()) };
        let topic = TopicProduceData {
            name: topic.to_owned(),
            partition_data: vec![partition],
            ..Default::default()
        };
        let request = ProduceRequest {
            transactional_id: transactional_id.map(str::to_owned),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![topic],
        };
        let done = self.ask(&request, 12).await;
        let code = done.responses[0].partition_responses[0].error_code;
        assert_eq!(code, ErrorCode::None);
    }
}
