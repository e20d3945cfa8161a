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
            Err(error) => $failed(error),
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
            let (groups, mut refused) = self.forget_share_groups(partition, groups).await;
            let asked = self.ask_partition(partition, Call::DeleteGroups(groups.clone())).await;
            refused.extend(expect!(asked, DeleteGroups, |error| {
                groups.into_iter().map(|g| (g, error)).collect::<Vec<_>>()
            }));
            refused
        });
        let results = join_all(asked).await.into_iter().flatten();
        let result = |(group, error_code): (Arc<str>, ErrorCode)| DeletableGroupResult {
            group_id: group.to_string(),
            error_code,
        };
        DeleteGroupsResponse { results: results.map(result).collect(), ..Default::default() }
    }
}
