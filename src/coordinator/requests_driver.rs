//! The group and offset APIs, each from the wire's request to the wire's response. May wait: for a
//! rebalance, or for the high watermark.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;

use super::{
    calls::{
        Call, Client, CommitReply, DeleteOffsetsReply, FetchReply, JoinReply, LeaveReply, Reply,
        SyncReply,
    },
    driver::Coordinators,
    ports::TopicNames,
    translate::{
        described, described_ids, heartbeat_call, join_call, join_response, leave_call,
        leave_response, list_filter, listed, not_described, sync_call, sync_response,
    },
    translate_offsets::{Commit, Delete, Fetch, fetch_response},
};
use crate::{
    base::{ErrorCode, PartitionId},
    wire::api::{
        group_offsets::{
            OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
            OffsetFetchRequest, OffsetFetchResponse, OffsetFetchResponseGroup,
        },
        groups::{
            DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest,
            DescribeGroupsResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest,
            JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest,
            ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
        },
    },
};

/// Takes the reply of the expected kind. A shard answers a call with its own kind of reply, so that
/// anything else is a bug of the machine.
macro_rules! expect {
    ($asked:expr, $kind:ident, $failed:expr) => {
        match $asked {
            Ok(Reply::$kind(reply)) => reply,
            Ok(other) => unreachable!("a call was answered with {other:?}"),
            Err(error) => {
                #[expect(clippy::redundant_closure_call, reason = "the macro takes a closure")]
                let failed = $failed(error);
                failed
            }
        }
    };
}

impl Coordinators {
    /// JoinGroup. Waits until the rebalance ends.
    pub async fn join_group(
        &self,
        request: JoinGroupRequest,
        version: i16,
        client: &Client,
    ) -> JoinGroupResponse {
        let member_id = request.member_id.clone();
        let call = join_call(request, version, client, self.unique(), self.settings());
        let reply = match call {
            Ok(call) => {
                let group = call.group.clone();
                let asked = self.ask(&group, Call::Join(call)).await;
                expect!(asked, Join, |error| JoinReply::error("", error))
            }
            Err(error) => JoinReply::error(member_id, error),
        };
        join_response(reply)
    }

    /// SyncGroup. Waits until the leader's assignment is stored.
    pub async fn sync_group(&self, request: SyncGroupRequest, version: i16) -> SyncGroupResponse {
        let reply = match sync_call(request, version) {
            Ok(call) => {
                let group = call.group.clone();
                let asked = self.ask(&group, Call::Sync(call)).await;
                expect!(asked, Sync, SyncReply::error)
            }
            Err(error) => SyncReply::error(error),
        };
        sync_response(reply)
    }

    /// Heartbeat. While the shard loads the member is left in peace.
    pub async fn heartbeat(&self, request: HeartbeatRequest) -> HeartbeatResponse {
        let error_code = match heartbeat_call(request) {
            Ok(call) => {
                let group = call.group.clone();
                let asked = self.ask(&group, Call::Heartbeat(call)).await;
                expect!(asked, Heartbeat, |error| match error {
                    ErrorCode::CoordinatorLoadInProgress => ErrorCode::None,
                    e => e,
                })
            }
            Err(error) => error,
        };
        HeartbeatResponse { error_code, ..Default::default() }
    }

    /// LeaveGroup.
    pub async fn leave_group(
        &self,
        request: LeaveGroupRequest,
        version: i16,
    ) -> LeaveGroupResponse {
        let failed = |error| LeaveReply { error, members: Vec::new() };
        let reply = match leave_call(request, version) {
            Ok(call) => {
                let group = call.group.clone();
                let asked = self.ask(&group, Call::Leave(call)).await;
                expect!(asked, Leave, failed)
            }
            Err(error) => failed(error),
        };
        leave_response(reply, version)
    }

    /// OffsetCommit. Waits for the high watermark, at most `offsets.commit.timeout.ms`.
    pub async fn offset_commit(
        &self,
        request: OffsetCommitRequest,
        version: i16,
        names: &dyn TopicNames,
    ) -> OffsetCommitResponse {
        let failed = |error| CommitReply { error, topics: Vec::new() };
        let mut commit = Commit::new(request, version, names);
        let reply = match commit.take_call() {
            Some(call) => {
                let group = call.group.clone();
                let asked = self.ask(&group, Call::Commit(call)).await;
                expect!(asked, Commit, failed)
            }
            None => failed(ErrorCode::None),
        };
        commit.response(&reply)
    }

    /// OffsetFetch, for all the groups it names.
    pub async fn offset_fetch(
        &self,
        request: OffsetFetchRequest,
        version: i16,
        names: &dyn TopicNames,
    ) -> OffsetFetchResponse {
        let groups = Fetch::all(request, version, names).into_iter();
        let groups = groups.map(|fetch| self.fetch_group(fetch, names));
        fetch_response(join_all(groups).await, version)
    }

    async fn fetch_group(&self, fetch: Fetch, names: &dyn TopicNames) -> OffsetFetchResponseGroup {
        let asked = self.ask(&fetch.call.group, Call::Fetch(fetch.call.clone())).await;
        let reply = expect!(asked, Fetch, |error| FetchReply { error, topics: Vec::new() });
        fetch.response(reply, names)
    }

    /// OffsetDelete.
    pub async fn offset_delete(
        &self,
        request: OffsetDeleteRequest,
        names: &dyn TopicNames,
    ) -> OffsetDeleteResponse {
        let failed = |error| DeleteOffsetsReply { error, topics: Vec::new() };
        match Delete::new(request, names) {
            Ok(delete) => {
                let call = delete.call.clone();
                let asked = self.ask(&delete.call.group, Call::DeleteOffsets(call)).await;
                let reply = expect!(asked, DeleteOffsets, failed);
                delete.response(&reply)
            }
            Err(error_code) => OffsetDeleteResponse { error_code, ..Default::default() },
        }
    }

    /// ListGroups: the groups of all shards here. One that loads makes the whole an error, so that
    /// nobody takes the list for complete.
    #[must_use]
    pub fn list_groups(&self, request: ListGroupsRequest) -> ListGroupsResponse {
        let filter = list_filter(request);
        let mut groups = Vec::new();
        for partition in self.coordinated() {
            match self.read(partition, |shard| shard.list(&filter)) {
                Ok(found) => groups.extend(found.iter().map(listed)),
                // Left between two looks.
                Err(ErrorCode::NotCoordinator) => {}
                Err(error_code) => {
                    return ListGroupsResponse { error_code, ..Default::default() };
                }
            }
        }
        ListGroupsResponse { groups, ..Default::default() }
    }

    /// DescribeGroups, for all the groups it names. Authorized operations are the handler's.
    #[must_use]
    pub fn describe_groups(
        &self,
        request: DescribeGroupsRequest,
        version: i16,
    ) -> DescribeGroupsResponse {
        let describe = |group: Arc<str>| {
            let partition = self.partition_of(&group);
            match self.read(partition, |shard| shard.describe(&group)) {
                Ok(found) => described(found, version),
                Err(error) => not_described(&group, error),
            }
        };
        let groups = described_ids(request).into_iter().map(describe).collect();
        DescribeGroupsResponse { groups, ..Default::default() }
    }

    /// DeleteGroups, for all the groups it names; each once.
    pub async fn delete_groups(&self, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
        let mut by_partition: BTreeMap<PartitionId, Vec<Arc<str>>> = BTreeMap::new();
        for group in request.groups_names {
            let groups = by_partition.entry(self.partition_of(&group)).or_default();
            if !groups.iter().any(|g| **g == *group) {
                groups.push(group.into());
            }
        }
        let asked = by_partition.into_iter().map(|(partition, groups)| async move {
            let asked = self.ask_partition(partition, Call::DeleteGroups(groups.clone())).await;
            expect!(asked, DeleteGroups, |error| {
                groups.into_iter().map(|g| (g, error)).collect()
            })
        });
        let results = join_all(asked).await.into_iter().flatten();
        let result = |(group, error_code): (Arc<str>, ErrorCode)| DeletableGroupResult {
            group_id: group.to_string(),
            error_code,
        };
        DeleteGroupsResponse { results: results.map(result).collect(), ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use bytes::{Bytes, BytesMut};
    use futures::future::BoxFuture;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        base::{Offset, Uuid},
        coordinator::{
            ports::{Appended, Bounds, Chunk, OffsetsLog},
            records::{OffsetAndMetadata, Record},
            settings::Settings,
        },
        os::clock::{OsClock, OsEntropy},
        record::{BatchBuilder, Compression, batch},
        wire::api::{
            group_offsets::{
                OffsetCommitRequestPartition, OffsetCommitRequestTopic,
                OffsetDeleteRequestPartition, OffsetDeleteRequestTopic, OffsetFetchRequestGroup,
                OffsetFetchRequestTopic, OffsetFetchRequestTopics,
            },
            groups::{JoinGroupRequestProtocol, SyncGroupRequestAssignment},
        },
    };

    /// One partition's log in memory.
    #[derive(Debug)]
    struct MemoryLog {
        batches: Mutex<Vec<(Offset, Bytes)>>,
        end: watch::Sender<Offset>,
        high_watermark: watch::Sender<Offset>,
        held: Mutex<bool>,
    }

    impl MemoryLog {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                batches: Mutex::default(),
                end: watch::Sender::new(0),
                high_watermark: watch::Sender::new(0),
                held: Mutex::new(false),
            })
        }

        fn hold(&self, held: bool) {
            *self.held.lock().unwrap() = held;
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
            if !*self.held.lock().unwrap() {
                self.high_watermark.send_replace(next);
            }
            let high_watermark = *self.high_watermark.borrow();
            Ok(Appended { last_offset: next - 1, high_watermark })
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
            let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
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
            request.topics = Some(vec![OffsetFetchRequestTopic {
                name: "t".into(),
                partition_indexes: vec![0],
            }]);
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
        let sync = SyncGroupRequest {
            group_id: "g".into(),
            generation_id: 1,
            member_id: first.member_id.clone(),
            protocol_type: Some("consumer".into()),
            assignments: vec![SyncGroupRequestAssignment {
                member_id: first.member_id.clone(),
                assignment: Bytes::from_static(b"all"),
            }],
            ..Default::default()
        };
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

        let names =
            DeleteGroupsRequest { groups_names: vec!["g".into(), unknown.clone(), "g".into()] };
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
    async fn a_resignation_ends_the_waiting_and_the_next_election_reads_the_log() {
        use ErrorCode as E;
        let log = MemoryLog::new();
        // Written by someone who compresses, among records of other kinds.
        let mut batch = BatchBuilder::new(Compression::Lz4 { level: 9 });
        let value = OffsetAndMetadata {
            offset: 41,
            leader_epoch: -1,
            metadata: "".into(),
            commit_ms: 1,
            expire_ms: None,
            topic_id: Uuid::ZERO,
        };
        let record = Record::Offset {
            group: "g".into(),
            topic: "t".into(),
            partition: 0,
            value: Some(value),
        };
        let (key, value) = record.encode().unwrap();
        batch.append(1, Some(&[0, 3, 0, 1, b'g']), Some(&[0, 0]), &[]).unwrap();
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
}
