//! Share state (KIP-932) from end to end, with real nodes: by raw frames as brokers send them, through
//! kill -9, snapshots and pruning; and through the persister, from outside a cluster of three that
//! loses a coordinator.

mod nodes;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _, join_all, ready};
use nodes::{Node, PATIENCE};
use vltava::{
    base::{ErrorCode, NodeId, Offset, PartitionId, Uuid},
    coordinator::{
        Appended, Bounds, Chunk, OffsetsLog, SharePersister, ShareStates,
        share_persister::{ShareKey, ShareState, ShareSummary, ShareWrite, StateBatch},
        share_persister_driver::Persister,
        share_ports::{PrunedLog, ShareBroker, ShareCoordinator},
        share_settings::ShareSettings,
    },
    net::{PeerClient, PeerConfig},
    os::clock::OsClock,
    replica::txn::Origin,
    wire::{
        api::{
            groups::FindCoordinatorRequest,
            metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse},
            offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
            share_state::{
                DeleteShareGroupStateRequest, DeleteStateData, DeleteStatePartition,
                InitializeShareGroupStateRequest, InitializeStateData, InitializeStatePartition,
                ReadShareGroupStateRequest, ReadShareGroupStateSummaryRequest, ReadStateData,
                ReadStatePartition, ReadStatePartitionResult, ShareStateBatch,
                WriteShareGroupStateRequest, WriteStateData, WriteStatePartition,
            },
            topics::{CreatableTopic, CreateTopicsRequest, DeleteTopicState, DeleteTopicsRequest},
        },
        frame::{decode_response, encode_request},
        message::Request,
    },
};

const STATE_TOPIC: &str = "__share_group_state";

/// Nodes that end with it.
struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    fn start(count: usize, extra: &str) -> Self {
        let rf = count.min(3);
        let settings = format!(
            "share.coordinator.state.topic.replication.factor={rf}\n\
             share.coordinator.state.topic.min.isr={}\n\
             share.coordinator.state.topic.num.partitions=3\n{extra}",
            rf.min(2),
        );
        Self { nodes: Node::cluster(count, &settings) }
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

    async fn metadata(&mut self, topic: &str) -> MetadataResponse {
        let named = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![named]), ..Default::default() };
        self.ask(&request, 12).await
    }

    /// Creates a topic and gives its id.
    async fn create(&mut self, name: &str, partitions: i32, replicas: i16) -> Uuid {
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partitions,
            replication_factor: replicas,
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let made = self.ask(&request, 7).await;
        assert_eq!(made.topics[0].error_code, ErrorCode::None);
        made.topics[0].topic_id
    }

    async fn coordinator(&mut self, key: &str, version: i16) -> (ErrorCode, i32) {
        let request = FindCoordinatorRequest {
            key_type: 2,
            coordinator_keys: vec![key.to_owned()],
            ..Default::default()
        };
        let found = self.ask(&request, version).await.coordinators.remove(0);
        (found.error_code, found.node_id)
    }

    async fn await_coordinator(&mut self, key: &ShareKey) {
        let ShareKey { group, topic, partition } = key;
        let text = format!("{group}:{topic}:{partition}");
        let start = Instant::now();
        while self.coordinator(&text, 6).await.0 != ErrorCode::None {
            assert!(start.elapsed() < PATIENCE, "no coordinator");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn initialize(&mut self, key: &ShareKey, state_epoch: i32, start: i64) -> ErrorCode {
        let partition = key.partition;
        let p = InitializeStatePartition { partition, state_epoch, start_offset: start };
        let topic = InitializeStateData { topic_id: key.topic, partitions: vec![p] };
        let group_id = key.group.to_string();
        let request = InitializeShareGroupStateRequest { group_id, topics: vec![topic] };
        let answer = self.ask(&request, 0).await;
        assert_eq!(answer.results[0].topic_id, key.topic);
        answer.results[0].partitions[0].error_code
    }

    async fn write(&mut self, key: &ShareKey, write: &ShareWrite) -> ErrorCode {
        let batches = write.batches.iter().map(|b| ShareStateBatch {
            first_offset: b.first,
            last_offset: b.last,
            delivery_state: b.state,
            delivery_count: b.delivery_count,
        });
        let p = WriteStatePartition {
            partition: key.partition,
            state_epoch: write.state_epoch,
            leader_epoch: write.leader_epoch,
            start_offset: write.start_offset,
            delivery_complete_count: write.delivery_complete,
            state_batches: batches.collect(),
        };
        let topic = WriteStateData { topic_id: key.topic, partitions: vec![p] };
        let group_id = key.group.to_string();
        let request = WriteShareGroupStateRequest { group_id, topics: vec![topic] };
        self.ask(&request, 1).await.results[0].partitions[0].error_code
    }

    async fn read(&mut self, key: &ShareKey, leader_epoch: i32) -> ReadStatePartitionResult {
        let request = ReadShareGroupStateRequest {
            group_id: key.group.to_string(),
            topics: who(key, leader_epoch),
        };
        self.ask(&request, 0).await.results[0].partitions.remove(0)
    }

    /// Reads as soon as the coordinator has loaded.
    async fn read_loaded(&mut self, key: &ShareKey) -> ReadStatePartitionResult {
        let start = Instant::now();
        loop {
            let read = self.read(key, -1).await;
            if !matches!(
                read.error_code,
                ErrorCode::NotCoordinator | ErrorCode::CoordinatorLoadInProgress
            ) {
                return read;
            }
            assert!(start.elapsed() < PATIENCE, "{read:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// State epoch, leader epoch, start offset, records that are finished with.
    async fn summary(&mut self, key: &ShareKey) -> (i32, i32, i64, i32) {
        let group_id = key.group.to_string();
        let request = ReadShareGroupStateSummaryRequest { group_id, topics: who(key, -1) };
        let p = self.ask(&request, 1).await.results[0].partitions.remove(0);
        assert_eq!(p.error_code, ErrorCode::None);
        (p.state_epoch, p.leader_epoch, p.start_offset, p.delivery_complete_count)
    }

    async fn delete(&mut self, key: &ShareKey) -> ErrorCode {
        let p = DeleteStatePartition { partition: key.partition };
        let topic = DeleteStateData { topic_id: key.topic, partitions: vec![p] };
        let group_id = key.group.to_string();
        let request = DeleteShareGroupStateRequest { group_id, topics: vec![topic] };
        self.ask(&request, 0).await.results[0].partitions[0].error_code
    }

    /// The first offset that a partition still has.
    async fn log_start(&mut self, topic: &str, partition: i32) -> i64 {
        let p = ListOffsetsPartition {
            partition_index: partition,
            current_leader_epoch: -1,
            timestamp: -2,
        };
        let topic = ListOffsetsTopic { name: topic.to_owned(), partitions: vec![p] };
        let request =
            ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let answer = self.ask(&request, 7).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, ErrorCode::None);
        answer.topics[0].partitions[0].offset
    }
}

fn who(key: &ShareKey, leader_epoch: i32) -> Vec<ReadStateData> {
    let p = ReadStatePartition { partition: key.partition, leader_epoch };
    vec![ReadStateData { topic_id: key.topic, partitions: vec![p] }]
}

fn batch(first: Offset, last: Offset, state: i8, delivery_count: i16) -> StateBatch {
    StateBatch { first, last, state, delivery_count }
}

fn change(start_offset: Offset, batches: &[StateBatch]) -> ShareWrite {
    ShareWrite {
        state_epoch: 1,
        leader_epoch: 5,
        start_offset,
        delivery_complete: 3,
        batches: batches.to_vec(),
    }
}

/// State epoch, start offset, batches.
type Read = (i32, i64, Vec<(i64, i64, i8, i16)>);

fn offsets(read: &ReadStatePartitionResult) -> Read {
    let batches = read
        .state_batches
        .iter()
        .map(|b| (b.first_offset, b.last_offset, b.delivery_state, b.delivery_count));
    (read.state_epoch, read.start_offset, batches.collect())
}

#[tokio::test]
async fn state_is_kept_through_kill_9_snapshots_and_pruning() {
    let extra = "share.coordinator.snapshot.update.records.per.snapshot=3\n\
                 share.coordinator.state.topic.prune.interval.ms=100\n";
    let mut cluster = Cluster::start(1, extra);
    let mut raw = Raw::connect(cluster.nodes[0].port).await;
    let topic = raw.create("orders", 2, 1).await;
    let key = ShareKey { group: "a:group".into(), topic, partition: 1 };
    let text = format!("a:group:{topic}:1");

    // Who keeps it.
    assert_eq!(raw.coordinator(&text, 5).await.0, ErrorCode::InvalidRequest, "too old");
    assert_eq!(raw.coordinator("a:group:1", 6).await.0, ErrorCode::InvalidRequest);
    raw.await_coordinator(&key).await;
    assert_eq!(raw.coordinator(&text, 6).await, (ErrorCode::None, 1));
    let made = raw.metadata(STATE_TOPIC).await;
    assert_eq!((made.topics[0].partitions.len(), made.topics[0].is_internal), (3, true));

    // What is refused.
    assert_eq!(raw.read_loaded(&key).await.error_code, ErrorCode::InvalidRequest, "not there yet");
    assert_eq!(raw.write(&key, &change(-1, &[])).await, ErrorCode::InvalidRequest);
    assert_eq!(raw.summary(&key).await, (0, 0, -1, -1));
    let nowhere = ShareKey { partition: 2, ..key.clone() };
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(raw.initialize(&nowhere, 1, -1).await, unknown);
    let unasked = ReadShareGroupStateRequest { group_id: String::new(), topics: who(&key, -1) };
    assert_eq!(raw.ask(&unasked, 0).await.results, []);

    // Set, read by a leader, changed.
    assert_eq!(raw.initialize(&key, 1, -1).await, ErrorCode::None);
    assert_eq!(raw.summary(&key).await, (1, 0, -1, -1));
    assert_eq!(offsets(&raw.read(&key, 5).await), (1, -1, vec![]));
    let first = change(10, &[batch(10, 14, 2, 1), batch(15, 19, 0, 1)]);
    assert_eq!(raw.write(&key, &first).await, ErrorCode::None);
    assert_eq!(raw.write(&key, &change(-1, &[batch(15, 16, 4, 2)])).await, ErrorCode::None);
    let state = (1, 10, vec![(10, 14, 2, 1), (15, 16, 4, 2), (17, 19, 0, 1)]);
    assert_eq!(offsets(&raw.read(&key, 5).await), state);
    assert_eq!(raw.summary(&key).await, (1, 5, 10, 3));

    // Who comes too late.
    let stale = ShareWrite { leader_epoch: 4, ..change(-1, &[]) };
    assert_eq!(raw.write(&key, &stale).await, ErrorCode::FencedLeaderEpoch);
    assert_eq!(raw.read(&key, 4).await.error_code, ErrorCode::FencedLeaderEpoch);
    let stale = ShareWrite { state_epoch: 0, ..change(-1, &[]) };
    assert_eq!(raw.write(&key, &stale).await, ErrorCode::FencedStateEpoch);
    assert_eq!(raw.initialize(&key, 0, 7).await, ErrorCode::FencedStateEpoch);
    let backwards = change(-1, &[batch(9, 8, 0, 1)]);
    assert_eq!(raw.write(&key, &backwards).await, ErrorCode::InvalidRequest);

    // kill -9, before and after the update that becomes a snapshot.
    cluster.nodes[0].kill();
    cluster.nodes[0].restart();
    let mut raw = Raw::connect(cluster.nodes[0].port).await;
    assert_eq!(offsets(&raw.read_loaded(&key).await), state);
    assert_eq!(raw.read(&key, 4).await.error_code, ErrorCode::FencedLeaderEpoch, "still");
    assert_eq!(raw.write(&key, &change(15, &[batch(20, 20, 2, 1)])).await, ErrorCode::None);
    let state = (1, 15, vec![(15, 16, 4, 2), (17, 19, 0, 1), (20, 20, 2, 1)]);
    assert_eq!(offsets(&raw.read(&key, 5).await), state);
    let place = key.state_partition(3);
    let start = Instant::now();
    while raw.log_start(STATE_TOPIC, place).await == 0 {
        assert!(start.elapsed() < PATIENCE, "nothing is given up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.nodes[0].kill();
    cluster.nodes[0].restart();
    let mut raw = Raw::connect(cluster.nodes[0].port).await;
    assert_eq!(offsets(&raw.read_loaded(&key).await), state);

    // Forgotten, and with its topic.
    assert_eq!(raw.delete(&key).await, ErrorCode::None);
    assert_eq!(raw.delete(&key).await, ErrorCode::None, "again");
    assert_eq!(raw.read(&key, 5).await.error_code, ErrorCode::InvalidRequest);
    assert_eq!(raw.initialize(&key, 0, 3).await, ErrorCode::None, "the epochs are forgotten, too");
    assert_eq!(raw.summary(&key).await, (0, 0, 3, 0));
    let gone = DeleteTopicState { name: Some("orders".to_owned()), ..Default::default() };
    let request =
        DeleteTopicsRequest { topics: vec![gone], timeout_ms: 30_000, ..Default::default() };
    assert_eq!(raw.ask(&request, 6).await.responses[0].error_code, ErrorCode::None);
    let start = Instant::now();
    while raw.read(&key, -1).await.error_code != ErrorCode::InvalidRequest {
        assert!(start.elapsed() < PATIENCE, "state of a topic that is gone");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A broker that leads nothing.
#[derive(Debug)]
struct NoLog;

const NOT_HERE: ErrorCode = ErrorCode::NotLeaderOrFollower;

impl OffsetsLog for NoLog {
    fn append(&self, _: i32, _: i32, _: Bytes) -> Result<Appended, ErrorCode> {
        Err(NOT_HERE)
    }

    fn append_in_txn(&self, _: i32, _: i32, _: Bytes, _: Origin) -> Result<Appended, ErrorCode> {
        Err(NOT_HERE)
    }

    fn committed(
        &self,
        _: i32,
        _: i32,
        _: Offset,
    ) -> BoxFuture<'static, Result<Offset, ErrorCode>> {
        ready(Err(NOT_HERE)).boxed()
    }

    fn bounds(&self, _: i32, _: i32) -> Result<Bounds, ErrorCode> {
        Err(NOT_HERE)
    }

    fn read(
        &self,
        _: i32,
        _: i32,
        _: Offset,
        _: usize,
    ) -> BoxFuture<'static, Result<Chunk, ErrorCode>> {
        ready(Err(NOT_HERE)).boxed()
    }
}

impl PrunedLog for NoLog {
    fn delete_before(&self, _: i32, _: i32, _: Offset) -> Result<(), ErrorCode> {
        Err(NOT_HERE)
    }
}

/// Knows the coordinators from what a node last said of `__share_group_state`.
#[derive(Debug, Default)]
struct Outside {
    leaders: Mutex<Vec<Option<(NodeId, u16)>>>,
}

impl Outside {
    async fn look(&self, raw: &mut Raw) {
        let said = raw.metadata(STATE_TOPIC).await;
        let mut partitions = said.topics[0].partitions.clone();
        partitions.sort_by_key(|p| p.partition_index);
        let leaders = partitions.iter().map(|p| {
            let broker = said.brokers.iter().find(|b| b.node_id == p.leader_id)?;
            Some((NodeId(broker.node_id), u16::try_from(broker.port).unwrap()))
        });
        *self.leaders.lock().unwrap() = leaders.collect();
    }
}

impl ShareBroker for Outside {
    fn coordinator(&self, place: &dyn Fn(i32) -> PartitionId) -> ShareCoordinator {
        let leaders = self.leaders.lock().unwrap();
        let place = usize::try_from(place(i32::try_from(leaders.len()).unwrap())).unwrap();
        match leaders.get(place).copied().flatten() {
            Some((node, port)) => ShareCoordinator::At { node, host: "127.0.0.1".into(), port },
            None => ShareCoordinator::Unknown,
        }
    }

    fn create_topic(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

#[tokio::test]
async fn the_persister_reaches_every_coordinator_and_survives_the_loss_of_one() {
    const PARTITIONS: i32 = 40;
    let mut cluster = Cluster::start(3, "");
    let mut raw = Raw::connect(cluster.nodes[0].port).await;
    let topic = raw.create("orders", PARTITIONS, 3).await;
    let keys: Vec<_> = ["g", "h"]
        .into_iter()
        .flat_map(|g| (0..PARTITIONS).map(move |p| (g, p)))
        .map(|(group, partition)| ShareKey { group: group.into(), topic, partition })
        .collect();
    raw.await_coordinator(&keys[0]).await;
    let outside = Arc::new(Outside::default());
    outside.look(&mut raw).await;
    let clock = Arc::new(OsClock::new());
    let states = ShareStates::start(Arc::new(NoLog), clock, ShareSettings::default());
    let persister = Persister::start(states.clone(), outside.clone(), Duration::from_secs(5));

    let all =
        |done: Vec<Result<(), ErrorCode>>| assert!(done.iter().all(|d| *d == Ok(())), "{done:?}");
    all(join_all(keys.iter().map(|k| persister.initialize(k.clone(), 1, 100))).await);
    let write = |k: &ShareKey, n: Offset| {
        let write = change(-1, &[batch(100 + n, 100 + n, 2, 1)]);
        persister.write(k.clone(), write)
    };
    // Several for one share partition at once.
    let writes = (0..5).flat_map(|n| keys.iter().map(move |k| (k, n)));
    all(join_all(writes.map(|(k, n)| write(k, n))).await);
    let state = |last| ShareState {
        state_epoch: 1,
        start_offset: 100,
        batches: vec![batch(100, last, 2, 1)],
    };
    let read = join_all(keys.iter().map(|k| persister.read(k.clone(), 5))).await;
    assert!(read.iter().all(|r| *r == Ok(state(104))), "{read:?}");
    let other = ShareKey { group: "nobody".into(), ..keys[0].clone() };
    assert_eq!(persister.read(other, 5).await, Err(ErrorCode::InvalidRequest));

    // A coordinator is lost, under way and before.
    let mut raw = Raw::connect(cluster.nodes[1].port).await;
    let writes = join_all(keys.iter().map(|k| write(k, 5)));
    let lose = async {
        cluster.nodes[0].kill();
        let start = Instant::now();
        loop {
            outside.look(&mut raw).await;
            let leaders = outside.leaders.lock().unwrap().clone();
            if leaders.iter().all(|l| l.is_some_and(|(node, _)| node != NodeId(1))) {
                break;
            }
            assert!(start.elapsed() < PATIENCE, "no new leaders");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (done, ()) = futures::future::join(writes, lose).await;
    all(done);
    let read = join_all(keys.iter().map(|k| persister.read(k.clone(), 6))).await;
    assert!(read.iter().all(|r| *r == Ok(state(105))), "{read:?}");
    let summary = persister.summary(keys[3].clone(), 6).await;
    let expected =
        ShareSummary { state_epoch: 1, leader_epoch: 6, start_offset: 100, delivery_complete: 3 };
    assert_eq!(summary, Ok(expected));
    assert_eq!(write(&keys[7], 6).await, Err(ErrorCode::FencedLeaderEpoch), "of epoch 5");

    all(join_all(keys.iter().map(|k| persister.delete(k.clone()))).await);
    let gone = persister.read(keys[9].clone(), 6).await;
    assert_eq!(gone, Err(ErrorCode::InvalidRequest));
    states.stop();
    let stopped = persister.read(keys[9].clone(), 6).await;
    assert_eq!(stopped, Err(ErrorCode::CoordinatorNotAvailable));
}
