//! `Coordinators` over a log in memory: the group and offset APIs from wire to wire, elections and
//! resignations.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use tokio::sync::watch;
use vltava::{
    base::{ErrorCode, NodeId, Offset, PartitionId, Uuid},
    coordinator::{
        Appended, Bounds, Chunk, Client, Coordinators, OffsetsLog, Settings, TopicNames,
        calls_consumer::ChangedTopics,
        records::{OffsetAndMetadata, Record},
    },
    metadata::{self, Delta, Image, PartitionRegistration, record::Partition},
    os::clock::{OsClock, OsEntropy},
    record::{BatchBuilder, Compression, batch},
    replica::txn::Origin,
    wire::api::{
        consumer_groups::{ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest},
        group_offsets::{
            OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
            OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
            OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
            OffsetFetchRequestTopics,
        },
        groups::{
            DeleteGroupsRequest, DescribeGroupsRequest, HeartbeatRequest, JoinGroupRequest,
            JoinGroupRequestProtocol, LeaveGroupRequest, ListGroupsRequest, SyncGroupRequest,
            SyncGroupRequestAssignment,
        },
    },
};

/// One partition's log in memory.
#[derive(Debug)]
struct MemoryLog {
    batches: Mutex<Vec<(Offset, Bytes)>>,
    end: watch::Sender<Offset>,
    high_watermark: watch::Sender<Offset>,
    held: AtomicBool,
}

impl MemoryLog {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            batches: Mutex::default(),
            end: watch::Sender::new(0),
            high_watermark: watch::Sender::new(0),
            held: AtomicBool::new(false),
        })
    }

    fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
        if !held {
            self.high_watermark.send_replace(*self.end.borrow());
        }
    }
}

impl OffsetsLog for MemoryLog {
    fn append(&self, _: i32, epoch: i32, batch: Bytes) -> Result<Appended, ErrorCode> {
        let base = *self.end.borrow();
        let mut bytes = BytesMut::from(&*batch);
        batch::assign(&mut bytes, base, epoch);
        let next = batch::BatchHeader::read(&bytes).unwrap().next_offset();
        self.batches.lock().unwrap().push((base, bytes.freeze()));
        self.end.send_replace(next);
        if !self.held.load(Ordering::SeqCst) {
            self.high_watermark.send_replace(next);
        }
        let high_watermark = *self.high_watermark.borrow();
        Ok(Appended { last_offset: next - 1, high_watermark })
    }

    fn append_in_txn(
        &self,
        partition: i32,
        epoch: i32,
        batch: Bytes,
        _: Origin,
    ) -> Result<Appended, ErrorCode> {
        self.append(partition, epoch, batch)
    }

    fn committed(
        &self,
        _: i32,
        _: i32,
        offset: Offset,
    ) -> BoxFuture<'static, Result<Offset, ErrorCode>> {
        let mut seen = self.high_watermark.subscribe();
        Box::pin(async move {
            let passed = seen.wait_for(|hw| *hw > offset).await;
            passed.map(|hw| *hw).map_err(|_| ErrorCode::NotLeaderOrFollower)
        })
    }

    fn bounds(&self, _: i32, _: i32) -> Result<Bounds, ErrorCode> {
        Ok(Bounds { start: 0, end: *self.end.borrow() })
    }

    fn read(
        &self,
        _: i32,
        _: i32,
        offset: Offset,
        _: usize,
    ) -> BoxFuture<'static, Result<Chunk, ErrorCode>> {
        let batches = self.batches.lock().unwrap();
        let found = batches.iter().filter(|(base, _)| *base >= offset).take(2);
        let bytes: Vec<u8> = found.flat_map(|(_, b)| b.to_vec()).collect();
        let high_watermark = *self.high_watermark.borrow();
        Box::pin(async move { Ok(Chunk { bytes: bytes.into(), high_watermark }) })
    }
}

/// Topic `t` with one partition.
struct OneTopic;

const TOPIC_ID: Uuid = Uuid([7; 16]);

impl TopicNames for OneTopic {
    fn id_of(&self, name: &str) -> Result<Uuid, ErrorCode> {
        if name == "t" { Ok(TOPIC_ID) } else { Err(ErrorCode::UnknownTopicOrPartition) }
    }

    fn name_of(&self, id: Uuid) -> Result<Arc<str>, ErrorCode> {
        if id == TOPIC_ID { Ok("t".into()) } else { Err(ErrorCode::UnknownTopicId) }
    }

    fn has_partition(&self, name: &str, partition: PartitionId) -> bool {
        name == "t" && partition == 0
    }
}

fn start(log: &Arc<MemoryLog>) -> Coordinators {
    let settings = Settings { initial_rebalance_delay_ms: 0, ..Settings::default() };
    Coordinators::start(log.clone(), Arc::new(OsClock::new()), Arc::new(OsEntropy), settings)
}

async fn elect(coordinators: &Coordinators, epoch: i32) {
    coordinators.elected(coordinators.partition_of("g"), epoch);
    while fetch(coordinators, 7).await.1 == ErrorCode::CoordinatorLoadInProgress {
        tokio::task::yield_now().await;
    }
}

/// The offset of t-0 in group g, as a client of `version` sees it, and the group's error.
async fn fetch(coordinators: &Coordinators, version: i16) -> (i64, ErrorCode) {
    let mut request = OffsetFetchRequest::default();
    if version < 8 {
        request.group_id = "g".into();
        request.topics =
            Some(vec![OffsetFetchRequestTopic { name: "t".into(), partition_indexes: vec![0] }]);
    } else {
        request.groups = vec![OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: Some(vec![OffsetFetchRequestTopics {
                name: if version < 10 { "t".into() } else { String::new() },
                topic_id: if version < 10 { Uuid::ZERO } else { TOPIC_ID },
                partition_indexes: vec![0],
            }]),
            ..Default::default()
        }];
    }
    let r = coordinators.offset_fetch(request, version, &OneTopic).await;
    if version < 8 {
        let found = r.topics.first().map_or(-1, |t| t.partitions[0].committed_offset);
        (found, r.error_code)
    } else {
        let group = &r.groups[0];
        let found = group.topics.first().map_or(-1, |t| t.partitions[0].committed_offset);
        (found, group.error_code)
    }
}

fn commit_request(offset: i64, version: i16) -> OffsetCommitRequest {
    let topic = |name: &str, topic_id, partitions: &[i32]| OffsetCommitRequestTopic {
        name: if version < 10 { name.into() } else { String::new() },
        topic_id: if version < 10 { Uuid::ZERO } else { topic_id },
        partitions: partitions
            .iter()
            .map(|p| OffsetCommitRequestPartition {
                partition_index: *p,
                committed_offset: offset,
                ..Default::default()
            })
            .collect(),
    };
    OffsetCommitRequest {
        group_id: "g".into(),
        topics: vec![topic("gone", Uuid([8; 16]), &[0]), topic("t", TOPIC_ID, &[1, 0])],
        ..Default::default()
    }
}

async fn commit(coordinators: &Coordinators, offset: i64, version: i16) -> Vec<ErrorCode> {
    let request = commit_request(offset, version);
    let r = coordinators.offset_commit(request, version, &OneTopic).await;
    r.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code).collect()
}

fn join(member_id: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".into(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member_id.into(),
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata: Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 0]),
        }],
        ..Default::default()
    }
}

fn sync_request(member_id: &str) -> SyncGroupRequest {
    SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: member_id.to_owned(),
        protocol_type: Some("consumer".into()),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: member_id.to_owned(),
            assignment: Bytes::from_static(b"all"),
        }],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_group_lives_its_life_over_the_wire() {
    use ErrorCode as E;
    let log = MemoryLog::new();
    let c = start(&log);
    let client = Client { id: "c".into(), host: "/127.0.0.1".into() };
    assert_eq!(c.join_group(join(""), 9, &client).await.error_code, E::NotCoordinator);
    assert_eq!(fetch(&c, 1).await.1, E::None, "version 1 has errors in partitions only");
    assert_eq!(fetch(&c, 8).await.1, E::NotCoordinator);
    elect(&c, 1).await;

    let first = c.join_group(join(""), 9, &client).await;
    assert_eq!(first.error_code, E::MemberIdRequired);
    let joined = c.join_group(join(&first.member_id), 9, &client).await;
    assert_eq!((joined.error_code, joined.generation_id), (E::None, 1));
    assert_eq!((joined.members.len(), &joined.leader), (1, &first.member_id));
    let sync = sync_request(&first.member_id);
    let nameless = c.sync_group(sync.clone(), 5).await;
    assert_eq!(nameless.error_code, E::InconsistentGroupProtocol);
    let synced = c.sync_group(sync, 4).await;
    assert_eq!((synced.error_code, &*synced.assignment), (E::None, &b"all"[..]));
    let beat = HeartbeatRequest {
        group_id: "g".into(),
        generation_id: 1,
        member_id: first.member_id.clone(),
        ..Default::default()
    };
    assert_eq!(c.heartbeat(beat).await.error_code, E::None);

    let listed = c.list_groups(ListGroupsRequest {
        states_filter: vec!["stable".into()],
        types_filter: vec!["Classic".into()],
    });
    assert_eq!((listed.groups.len(), &*listed.groups[0].group_state), (1, "Stable"));
    let describe = |groups: &[&str]| DescribeGroupsRequest {
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
        ..Default::default()
    };
    let described = c.describe_groups(describe(&["g"]), 6);
    let member = &described.groups[0].members[0];
    assert_eq!((&*member.client_id, &*member.member_assignment), ("c", &b"all"[..]));
    // A group of the same partition that nobody knows.
    let unknown = (0..).map(|n| format!("u{n}"));
    let unknown = unknown.into_iter().find(|u| c.partition_of(u) == c.partition_of("g"));
    let unknown = unknown.unwrap();
    let old = c.describe_groups(describe(&[&unknown]), 5);
    assert_eq!((old.groups[0].error_code, &*old.groups[0].group_state), (E::None, "Dead"));
    let new = c.describe_groups(describe(&[&unknown]), 6);
    assert_eq!(new.groups[0].error_code, E::GroupIdNotFound);

    let names = DeleteGroupsRequest { groups_names: vec!["g".into(), unknown.clone(), "g".into()] };
    let deleted = c.delete_groups(names).await;
    let codes: Vec<_> = deleted.results.iter().map(|r| r.error_code).collect();
    assert_eq!(codes, [E::NonEmptyGroup, E::GroupIdNotFound]);
    let leave = LeaveGroupRequest {
        group_id: "g".into(),
        member_id: first.member_id.clone(),
        ..Default::default()
    };
    assert_eq!(c.leave_group(leave.clone(), 2).await.error_code, E::None);
    assert_eq!(c.leave_group(leave, 2).await.error_code, E::UnknownMemberId);
    let deleted = c.delete_groups(DeleteGroupsRequest { groups_names: vec!["g".into()] }).await;
    assert_eq!(deleted.results[0].error_code, E::None);
    c.stop();
    assert_eq!(fetch(&c, 8).await.1, E::NotCoordinator);
}

#[tokio::test]
async fn offsets_go_by_name_and_by_id_and_can_be_deleted() {
    use ErrorCode as E;
    let log = MemoryLog::new();
    let c = start(&log);
    elect(&c, 1).await;
    let by_name = [E::UnknownTopicOrPartition, E::UnknownTopicOrPartition, E::None];
    assert_eq!(commit(&c, 5, 9).await, by_name);
    let by_id = [E::UnknownTopicId, E::UnknownTopicOrPartition, E::None];
    assert_eq!(commit(&c, 6, 10).await, by_id);
    for version in [1, 7, 8, 9, 10] {
        assert_eq!(fetch(&c, version).await, (6, E::None), "version {version}");
    }
    let all = OffsetFetchRequest {
        groups: vec![OffsetFetchRequestGroup {
            group_id: "g".into(),
            topics: None,
            ..Default::default()
        }],
        ..Default::default()
    };
    let all = c.offset_fetch(all, 10, &OneTopic).await;
    assert_eq!(all.groups[0].topics[0].topic_id, TOPIC_ID);
    let delete = OffsetDeleteRequest {
        group_id: "g".into(),
        topics: vec![OffsetDeleteRequestTopic {
            name: "t".into(),
            partitions: [1, 0]
                .map(|partition_index| OffsetDeleteRequestPartition { partition_index })
                .to_vec(),
        }],
    };
    let deleted = c.offset_delete(delete, &OneTopic).await;
    let codes: Vec<_> = deleted.topics[0].partitions.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [E::UnknownTopicOrPartition, E::None]);
    assert_eq!(fetch(&c, 10).await, (-1, E::None));
    c.stop();
}

#[tokio::test]
async fn what_is_led_is_loaded_once_the_broker_serves() {
    let coordinators = start(&MemoryLog::new());
    coordinators.hold();
    coordinators.elected(coordinators.partition_of("g"), 1);
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert_eq!(fetch(&coordinators, 7).await.1, ErrorCode::CoordinatorLoadInProgress);
    }
    coordinators.serve();
    elect(&coordinators, 1).await;
    assert_eq!(fetch(&coordinators, 7).await, (-1, ErrorCode::None));
    coordinators.stop();
}

#[tokio::test]
async fn a_resignation_ends_the_waiting_and_the_next_election_reads_the_log() {
    use ErrorCode as E;
    let log = MemoryLog::new();
    // Written by someone who compresses, among records of other kinds.
    let mut batch = BatchBuilder::new(Compression::Lz4(9));
    let value = OffsetAndMetadata {
        offset: 41,
        leader_epoch: -1,
        metadata: "".into(),
        commit_ms: 1,
        expire_ms: None,
        topic_id: Uuid::ZERO,
    };
    let record =
        Record::Offset { group: "g".into(), topic: "t".into(), partition: 0, value: Some(value) };
    let (key, value) = record.encode().unwrap();
    batch.append(1, Some(&[0, 11, 0, 1, b'g']), Some(&[0, 0]), &[]).unwrap();
    batch.append(1, Some(&key), value.as_deref(), &[]).unwrap();
    batch.append(1, None, None, &[]).unwrap();
    log.append(0, 0, batch.finish()).unwrap();

    let c = start(&log);
    elect(&c, 3).await;
    assert_eq!(fetch(&c, 9).await, (41, E::None));
    log.hold(true);
    let waits = {
        let c = c.clone();
        tokio::spawn(async move { commit(&c, 42, 9).await })
    };
    while *log.end.borrow() == 3 {
        tokio::task::yield_now().await;
    }
    assert_eq!(fetch(&c, 9).await, (41, E::None), "not committed yet");
    c.resigned(c.partition_of("g"), Some(2));
    assert_eq!(fetch(&c, 9).await.1, E::None, "an older resignation");
    c.resigned(c.partition_of("g"), Some(4));
    assert_eq!(waits.await.unwrap().last(), Some(&E::NotCoordinator));
    assert_eq!(fetch(&c, 9).await.1, E::NotCoordinator);

    elect(&c, 5).await;
    assert_eq!(fetch(&c, 9).await, (41, E::None), "above the high watermark");
    log.hold(false);
    while fetch(&c, 9).await != (42, E::None) {
        tokio::task::yield_now().await;
    }
    c.topics_deleted(&[("t".into(), TOPIC_ID)]);
    assert_eq!(fetch(&c, 9).await, (-1, E::None));
    c.stop();
}

/// Metadata with topic `t` of two partitions.
fn image() -> Arc<Image> {
    let mut delta = Delta::new(&Image::default());
    let state = PartitionRegistration::new(&[NodeId(1)], &[Uuid([9; 16])], &[NodeId(1)]);
    let partition = |partition| {
        let state = state.clone();
        metadata::Record::Partition(Partition { topic_id: TOPIC_ID, partition, state })
    };
    let topic = metadata::Record::Topic { name: "t".into(), id: TOPIC_ID };
    for record in [topic, partition(0), partition(1)] {
        delta.replay(&record, 0).unwrap();
    }
    Arc::new(delta.apply())
}

#[tokio::test]
async fn a_consumer_group_from_wire_to_wire() {
    let log = MemoryLog::new();
    let coordinators = start(&log);
    coordinators.metadata_changed(&image(), &ChangedTopics::default());
    elect(&coordinators, 1).await;
    let client = Client { id: "c".into(), host: "/h".into() };
    let mut request = ConsumerGroupHeartbeatRequest {
        group_id: "g".into(),
        member_id: "m".into(),
        rebalance_timeout_ms: 1_000,
        subscribed_topic_regex: Some("t|u".into()),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    };
    let joined = coordinators.consumer_group_heartbeat(request.clone(), 1, &client).await;
    assert_eq!((joined.error_code, joined.member_epoch), (ErrorCode::None, 1));
    // What the expression stands for is looked up beside.
    (request.rebalance_timeout_ms, request.subscribed_topic_regex) = (-1, None);
    (request.topic_partitions, request.member_epoch) = (None, 1);
    let assigned = loop {
        let reply = coordinators.consumer_group_heartbeat(request.clone(), 1, &client).await;
        match reply.assignment {
            Some(assignment) if !assignment.topic_partitions.is_empty() => break assignment,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(assigned.topic_partitions[0].topic_id, TOPIC_ID);
    assert_eq!(assigned.topic_partitions[0].partitions, [0, 1]);

    // The next leader knows it all.
    coordinators.resigned(coordinators.partition_of("g"), Some(2));
    elect(&coordinators, 3).await;
    let ask = ConsumerGroupDescribeRequest {
        group_ids: vec!["g".into(), "nobody".into(), String::new()],
        ..Default::default()
    };
    let shown = coordinators.consumer_group_describe(&ask).groups;
    let codes: Vec<_> = shown.iter().map(|g| g.error_code).collect();
    // The coordinator of "nobody" is another.
    assert_eq!(codes, [ErrorCode::None, ErrorCode::NotCoordinator, ErrorCode::InvalidGroupId]);
    assert_eq!((&*shown[0].group_state, shown[0].group_epoch), ("Stable", 2));
    let member = &shown[0].members[0];
    assert_eq!((&*member.member_id, member.member_type), ("m", 1));
    assert_eq!(member.subscribed_topic_regex.as_deref(), Some("t|u"));
    assert_eq!(member.assignment, member.target_assignment);
    assert_eq!(member.assignment.topic_partitions[0].topic_name, "t");
    let listed = coordinators.list_groups(ListGroupsRequest::default());
    assert_eq!(
        (&*listed.groups[0].group_type, &*listed.groups[0].group_state),
        ("consumer", "Stable")
    );
    coordinators.stop();
}
