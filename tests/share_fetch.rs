//! Share fetches and acknowledgements (KIP-932) from end to end, by raw frames to a real node: who gets
//! which records, how often, and what a kill -9, a lost connection or a lock that ends does to them.

use std::{
    collections::BTreeSet,
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
    net::{PeerClient, PeerConfig},
    testing::batches::Batch,
    wire::{
        api::{
            cluster::{InitProducerIdRequest, InitProducerIdResponse},
            configs::{
                IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource,
                IncrementalAlterableConfig,
            },
            groups::FindCoordinatorRequest,
            metadata::{MetadataRequest, MetadataRequestTopic},
            offsets::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic},
            produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
            share_fetch::{
                AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch,
                ShareAcknowledgeRequest, ShareFetchPartition, ShareFetchRequest,
                ShareFetchResponse, ShareFetchTopic, SharePartitionData,
            },
            share_state::{
                InitializeShareGroupStateRequest, InitializeStateData, InitializeStatePartition,
            },
            topics::{CreatableTopic, CreateTopicsRequest, DeleteTopicState, DeleteTopicsRequest},
            txn::EndTxnRequest,
        },
        frame::{decode_response, encode_request},
        message::Request,
        records::Records,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);
const GROUP: &str = "g";
const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;
const RENEW: i8 = 4;

fn vltava(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

struct Node {
    config: PathBuf,
    port: u16,
    process: Child,
    _dir: Arc<tempfile::TempDir>,
}

impl Node {
    fn start(extra: &str) -> Self {
        Self::cluster(1, extra).remove(0)
    }

    /// Nodes that are brokers and controllers; that at `n` has the id `n + 1`.
    fn cluster(count: usize, extra: &str) -> Vec<Self> {
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

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn kill_and_restart(&mut self) {
        self.kill();
        self.process = Self::run(&self.config);
        self.await_listening();
    }

    async fn member(&self, id: &str) -> Member {
        Member { raw: Raw::connect(self.port).await, id: id.to_owned(), epoch: 0 }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Raw(PeerClient);

impl Raw {
    async fn connect(port: u16) -> Self {
        let config = PeerConfig { request_timeout: PATIENCE, ..PeerConfig::new() };
        Self(PeerClient::connect("127.0.0.1", port, &config).await.unwrap())
    }

    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let frame = encode_request(1, Some("test"), request, version).unwrap();
        let answer = self.0.call(frame).await.unwrap();
        decode_response(&answer, version).unwrap().1
    }

    /// Creates a topic that the group reads from its start.
    async fn create(&mut self, name: &str) -> Uuid {
        self.create_with(name, 1).await
    }

    async fn create_with(&mut self, name: &str, replication_factor: i16) -> Uuid {
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
    async fn leader(&mut self, topic: &str, not: Option<usize>) -> usize {
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

    async fn append(&mut self, topic: &str, batch: Batch) {
        self.append_as(topic, batch, None).await;
    }

    async fn append_as(&mut self, topic: &str, batch: Batch, transactional_id: Option<&str>) {
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

struct Member {
    raw: Raw,
    id: String,
    epoch: i32,
}

/// First and last offset, and how often they were handed out.
type Got = Vec<(i64, i64, i16)>;

fn got(data: &SharePartitionData) -> Got {
    let one = data.acquired_records.iter();
    one.map(|a| (a.first_offset, a.last_offset, a.delivery_count)).collect()
}

fn said(acks: &[(i64, i64, &[i8])]) -> Vec<AcknowledgementBatch> {
    let one = |&(first_offset, last_offset, types): &(i64, i64, &[i8])| AcknowledgementBatch {
        first_offset,
        last_offset,
        acknowledge_types: types.to_vec(),
    };
    acks.iter().map(one).collect()
}

impl Member {
    fn request(&mut self, topic: Uuid, acks: &[(i64, i64, &[i8])]) -> ShareFetchRequest {
        let p = ShareFetchPartition { partition_index: 0, acknowledgement_batches: said(acks) };
        let topics = vec![ShareFetchTopic { topic_id: topic, partitions: vec![p] }];
        let share_session_epoch = self.epoch;
        self.epoch += 1;
        ShareFetchRequest {
            group_id: Some(GROUP.to_owned()),
            member_id: Some(self.id.clone()),
            share_session_epoch,
            max_wait_ms: 20_000,
            min_bytes: 1,
            max_records: 500,
            batch_size: 500,
            topics,
            ..Default::default()
        }
    }

    /// Acquires up to `max` records, and waits for them.
    async fn fetch(&mut self, topic: Uuid, max: i32) -> Got {
        let request = ShareFetchRequest { max_records: max, ..self.request(topic, &[]) };
        let answer = self.raw.ask(&request, 2).await;
        assert_eq!(answer.error_code, ErrorCode::None);
        let data = only(&answer);
        assert_eq!((data.error_code, data.acknowledge_error_code), Default::default());
        got(data)
    }

    /// Acquires records until it has the one at `last`; gives their offsets.
    async fn fetch_up_to(&mut self, topic: Uuid, last: i64) -> BTreeSet<i64> {
        let mut all = BTreeSet::new();
        while !all.contains(&last) {
            all.extend(self.fetch(topic, 100).await.into_iter().flat_map(|(a, b, _)| a..=b));
        }
        all
    }

    /// Whether there is nothing to acquire now.
    async fn finds_nothing(&mut self, topic: Uuid) -> bool {
        let request = ShareFetchRequest { max_wait_ms: 100, ..self.request(topic, &[]) };
        let answer = self.raw.ask(&request, 2).await;
        assert_eq!(answer.error_code, ErrorCode::None);
        answer.responses.iter().flat_map(|t| &t.partitions).all(|p| p.acquired_records.is_empty())
    }

    /// Says what became of records, outside of a fetch.
    async fn say(&mut self, topic: Uuid, acks: &[(i64, i64, &[i8])]) -> ErrorCode {
        let p = AcknowledgePartition { partition_index: 0, acknowledgement_batches: said(acks) };
        let topics = vec![AcknowledgeTopic { topic_id: topic, partitions: vec![p] }];
        let request = ShareAcknowledgeRequest {
            group_id: Some(GROUP.to_owned()),
            member_id: Some(self.id.clone()),
            share_session_epoch: self.epoch,
            is_renew_ack: acks.iter().any(|(.., types)| types.contains(&RENEW)),
            topics,
        };
        let answer = self.raw.ask(&request, 2).await;
        if answer.error_code != ErrorCode::None {
            return answer.error_code;
        }
        self.epoch += 1;
        answer.responses[0].partitions[0].error_code
    }
}

fn only(answer: &ShareFetchResponse) -> &SharePartitionData {
    let [topic] = &answer.responses[..] else { panic!("{answer:?}") };
    let [partition] = &topic.partitions[..] else { panic!("{answer:?}") };
    partition
}

#[tokio::test]
async fn members_share_records_and_what_they_say_outlives_the_node() {
    let mut node = Node::start("");
    let (mut a, mut b) = (node.member("a").await, node.member("b").await);
    let topic = a.raw.create("orders").await;
    for n in 0..3 {
        a.raw.append("orders", Batch::of(10, 20, n)).await;
    }
    let request = ShareFetchRequest { max_records: 10, ..a.request(topic, &[]) };
    let answer = a.raw.ask(&request, 2).await;
    let data = only(&answer);
    assert_eq!(got(data), [(0, 9, 1)]);
    assert_eq!(answer.acquisition_lock_timeout_ms, 30_000);
    let bytes = data.records.bytes().unwrap();
    assert_eq!(bytes.len(), Batch::of(10, 20, 0).bytes().len(), "one batch of the three");
    assert_eq!(b.fetch(topic, 15).await, [(10, 29, 1)]);

    // Each says something else, one within its next fetch.
    let types = [ACCEPT, ACCEPT, RELEASE, REJECT, ACCEPT, ACCEPT, ACCEPT, ACCEPT, ACCEPT, ACCEPT];
    assert_eq!(a.say(topic, &[(0, 9, &types)]).await, ErrorCode::None);
    assert_eq!(a.say(topic, &[(0, 9, &types)]).await, ErrorCode::InvalidRecordState);
    let request = b.request(topic, &[(10, 19, &[ACCEPT]), (25, 29, &[RELEASE])]);
    let answer = b.raw.ask(&request, 2).await;
    assert_eq!(only(&answer).acknowledge_error_code, ErrorCode::None);
    let mut again = got(only(&answer));
    // The fetch may have found one before the other was written.
    while again.iter().map(|(from, to, _)| to - from + 1).sum::<i64>() < 6 {
        again.extend(b.fetch(topic, 100).await);
    }
    assert_eq!(again, [(2, 2, 2), (25, 29, 2)]);
    assert_eq!(b.say(topic, &[(2, 2, &[ACCEPT]), (20, 24, &[ACCEPT])]).await, ErrorCode::None);

    // What was not said anything of is handed out anew.
    node.kill_and_restart();
    let mut c = node.member("c").await;
    assert_eq!(c.fetch(topic, 100).await, [(25, 29, 2)]);
    assert_eq!(c.say(topic, &[(25, 29, &[ACCEPT])]).await, ErrorCode::None);
    assert!(c.finds_nothing(topic).await);
}

#[tokio::test]
async fn a_share_partition_moves_with_its_leader() {
    let mut nodes = Node::cluster(3, "");
    let mut raw = Raw::connect(nodes[0].port).await;
    let topic = raw.create_with("orders", 3).await;
    let leader = raw.leader("orders", None).await;
    let mut a = nodes[leader].member("a").await;
    a.raw.append("orders", Batch::of(20, 20, 0)).await;
    assert_eq!(a.fetch(topic, 20).await, [(0, 19, 1)]);
    assert_eq!(a.say(topic, &[(0, 9, &[ACCEPT]), (10, 14, &[RELEASE])]).await, ErrorCode::None);

    // Another broker says who leads.
    let other = (leader + 1) % 3;
    let mut b = nodes[other].member("b").await;
    let request = b.request(topic, &[]);
    let answer = b.raw.ask(&request, 2).await;
    let data = only(&answer);
    assert_eq!(data.error_code, ErrorCode::NotLeaderOrFollower);
    assert_eq!(data.current_leader.leader_id, i32::try_from(leader).unwrap() + 1);
    assert_eq!(answer.node_endpoints[0].port, i32::from(nodes[leader].port));

    nodes[leader].kill();
    let next = b.raw.leader("orders", Some(leader)).await;
    let mut c = nodes[next].member("c").await;
    let (start, mut seen) = (Instant::now(), Vec::new());
    while seen.iter().map(|(from, to, _)| to - from + 1).sum::<i64>() < 10 {
        let request = ShareFetchRequest { max_wait_ms: 500, ..c.request(topic, &[]) };
        let answer = c.raw.ask(&request, 2).await;
        assert_eq!(answer.error_code, ErrorCode::None);
        let parts = answer.responses.iter().flat_map(|t| &t.partitions);
        seen.extend(parts.flat_map(got));
        assert!(start.elapsed() < PATIENCE, "{answer:?}");
    }
    assert_eq!(seen, [(10, 14, 2), (15, 19, 1)], "what was not said anything of counts anew");
}

#[tokio::test]
async fn a_fetch_waits_for_records_new_ones_or_such_as_come_back() {
    let node = Node::start("");
    let (mut a, mut b) = (node.member("a").await, node.member("b").await);
    let topic = a.raw.create("orders").await;
    let mut other = Raw::connect(node.port).await;
    assert!(a.finds_nothing(topic).await);
    let (first, ()) = tokio::join!(a.fetch(topic, 10), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.append("orders", Batch::of(5, 9, 0)).await;
    });
    assert_eq!(first, [(0, 4, 1)]);
    // The connection of a member is lost: what it had goes to the next.
    let (second, ()) = tokio::join!(b.fetch(topic, 10), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(a);
    });
    assert_eq!(second, [(0, 4, 2)]);
    // A member that leaves gives back what it does not speak of.
    let mut c = node.member("c").await;
    let leaving =
        ShareFetchRequest { share_session_epoch: -1, ..b.request(topic, &[(0, 1, &[1])]) };
    let (third, answer) = tokio::join!(c.fetch(topic, 10), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        b.raw.ask(&leaving, 1).await
    });
    assert_eq!(only(&answer).acknowledge_error_code, ErrorCode::None);
    assert_eq!(third, [(2, 4, 3)]);
}

#[tokio::test]
async fn sessions_and_requests_are_checked() {
    let node = Node::start("group.share.max.size=2\ngroup.share.max.share.sessions=2\n");
    let mut a = node.member("a").await;
    let topic = a.raw.create("orders").await;
    a.raw.append("orders", Batch::of(4, 9, 0)).await;
    let fails = async |m: &mut Member, request: &ShareFetchRequest, code| {
        assert_eq!(m.raw.ask(request, 2).await.error_code, code, "{request:?}");
    };
    let first = a.request(topic, &[]);
    let not_found = ErrorCode::ShareSessionNotFound;
    for (bad, code) in [
        (ShareFetchRequest { group_id: None, ..first.clone() }, ErrorCode::InvalidRequest),
        (
            ShareFetchRequest { member_id: Some(String::new()), ..first.clone() },
            ErrorCode::InvalidRequest,
        ),
        (
            ShareFetchRequest { member_id: Some("x".repeat(37)), ..first.clone() },
            ErrorCode::InvalidRequest,
        ),
        (ShareFetchRequest { share_session_epoch: 1, ..first.clone() }, not_found),
        (ShareFetchRequest { share_session_epoch: -1, ..first.clone() }, not_found),
        (ShareFetchRequest { is_renew_ack: true, ..first.clone() }, ErrorCode::InvalidRequest),
    ] {
        fails(&mut a, &bad, code).await;
    }
    assert_eq!(got(only(&a.raw.ask(&first, 2).await)), [(0, 3, 1)]);
    let wrong = ShareFetchRequest { share_session_epoch: 5, ..first.clone() };
    fails(&mut a, &wrong, ErrorCode::InvalidShareSessionEpoch).await;

    // Acknowledgements that cannot be read, or are of nothing.
    let invalid = ErrorCode::InvalidRequest;
    for (acks, code) in [
        (&[(3_i64, 2_i64, &[1_i8][..])][..], invalid),
        (&[(0, 3, &[])], invalid),
        (&[(0, 3, &[1, 1])], invalid),
        (&[(0, 3, &[5])], invalid),
        (&[(2, 3, &[1]), (0, 1, &[1])], invalid),
        (&[(0, 7, &[1])], invalid),
    ] {
        assert_eq!(a.say(topic, acks).await, code, "{acks:?}");
    }
    assert_eq!(a.say(Uuid::ONE, &[(0, 3, &[1])]).await, ErrorCode::UnknownTopicId);
    let mut b = node.member("b").await;
    assert!(b.finds_nothing(topic).await);
    assert_eq!(b.say(topic, &[(0, 3, &[1])]).await, ErrorCode::InvalidRecordState, "not its own");
    assert_eq!(a.say(topic, &[(0, 3, &[RENEW])]).await, ErrorCode::None);

    // One more than there may be waits for its error.
    let mut c = node.member("c").await;
    let third = ShareFetchRequest { max_wait_ms: 10, ..c.request(topic, &[]) };
    fails(&mut c, &third, ErrorCode::ShareSessionLimitReached).await;
    assert_eq!(a.say(topic, &[(0, 3, &[1])]).await, ErrorCode::None, "it is as it was");

    // The topic goes, and the log's start before.
    a.raw.append("orders", Batch::of(6, 9, 0)).await;
    let cut = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: "orders".to_owned(),
            partitions: vec![DeleteRecordsPartition { partition_index: 0, offset: 7 }],
        }],
        timeout_ms: 30_000,
    };
    a.raw.ask(&cut, 2).await;
    let fetched = a.fetch(topic, 10).await;
    assert_eq!(fetched, [(7, 9, 1)]);
    let gone = DeleteTopicState { name: Some("orders".to_owned()), ..Default::default() };
    let delete =
        DeleteTopicsRequest { topics: vec![gone], timeout_ms: 30_000, ..Default::default() };
    a.raw.ask(&delete, 6).await;
    let request = a.request(topic, &[]);
    assert_eq!(only(&a.raw.ask(&request, 2).await).error_code, ErrorCode::UnknownTopicId);
}

#[tokio::test]
async fn locks_end_and_records_are_handed_out_so_often_and_no_more() {
    let node = Node::start(
        "group.share.min.record.lock.duration.ms=1000\ngroup.share.record.lock.duration.ms=1000\n\
         group.share.delivery.count.limit=2\n",
    );
    let (mut a, mut b) = (node.member("a").await, node.member("b").await);
    let topic = a.raw.create("orders").await;
    a.raw.append("orders", Batch::of(3, 9, 0)).await;
    assert_eq!(a.fetch(topic, 10).await, [(0, 2, 1)]);
    assert_eq!(b.fetch(topic, 10).await, [(0, 2, 2)], "as the lock ended");
    assert_eq!(a.say(topic, &[(0, 2, &[ACCEPT])]).await, ErrorCode::InvalidRecordState);
    a.raw.append("orders", Batch::of(1, 9, 0)).await;
    assert_eq!(b.say(topic, &[(0, 0, &[ACCEPT])]).await, ErrorCode::None);
    let mut seen = b.fetch(topic, 10).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    seen.extend(a.fetch(topic, 10).await);
    assert_eq!(seen, [(3, 3, 1), (3, 3, 2)], "the others are archived");
}

#[tokio::test]
async fn groups_that_read_committed_get_nothing_of_aborted_transactions() {
    let node = Node::start("");
    let mut a = node.member("a").await;
    let topic = a.raw.create("orders").await;
    let committed = IncrementalAlterableConfig {
        name: "share.isolation.level".to_owned(),
        config_operation: 0,
        value: Some("read_committed".to_owned()),
    };
    let resource = IncrementalAlterConfigsResource {
        resource_type: 32,
        resource_name: GROUP.to_owned(),
        configs: vec![committed],
    };
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let done = a.raw.ask(&request, 1).await;
    assert_eq!(done.responses[0].error_code, ErrorCode::None);
    for (n, commits) in [(0, true), (1, false), (2, true)] {
        let id = format!("t{n}");
        let InitProducerIdResponse { producer_id, producer_epoch, .. } =
            init(&mut a.raw, &id).await;
        let batch = Batch::of(5, 9, n).by(producer_id, producer_epoch, 0).in_txn();
        a.raw.append_as("orders", batch, Some(&id)).await;
        if n == 2 {
            let mut other = node.member("b").await;
            let seen = other.fetch_up_to(topic, 11).await;
            let expected: BTreeSet<_> = (0..=5).chain([11]).collect();
            assert_eq!(seen, expected, "nothing aborted, nor what is open");
        }
        let end = EndTxnRequest {
            transactional_id: id.clone(),
            producer_id,
            producer_epoch,
            committed: commits,
        };
        assert_eq!(a.raw.ask(&end, 4).await.error_code, ErrorCode::None);
        // Done once the marker is in the log.
        init(&mut a.raw, &id).await;
    }
    let mut seen = a.fetch_up_to(topic, 17).await;
    if !seen.contains(&11) {
        // What the other had comes as its connection is found closed.
        seen.extend(a.fetch_up_to(topic, 11).await);
    }
    assert_eq!(seen, (0..=5).chain(11..=17).collect());
}

async fn init(raw: &mut Raw, id: &str) -> InitProducerIdResponse {
    let coordinator = FindCoordinatorRequest {
        key_type: 1,
        coordinator_keys: vec![id.to_owned()],
        ..Default::default()
    };
    let request = InitProducerIdRequest {
        transactional_id: Some(id.to_owned()),
        transaction_timeout_ms: 60_000,
        producer_id: -1,
        producer_epoch: -1,
    };
    let start = Instant::now();
    loop {
        raw.ask(&coordinator, 4).await;
        let answer = raw.ask(&request, 4).await;
        if answer.error_code == ErrorCode::None {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
