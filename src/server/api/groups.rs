//! FindCoordinator and the classic group APIs: what is about topics is checked here, the rest is
//! the coordinators'.

use std::sync::Arc;

use crate::{
    base::{ErrorCode, PartitionId, Uuid},
    coordinator::{calls::Client, ports::TopicNames, share_persister::ShareKey},
    metadata::Image,
    server::{
        api::{allowed, metadata, produce::endpoint, share_state},
        context::{Broker, Caller},
    },
    wire::api::{
        group_offsets::{
            OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse,
            OffsetFetchRequest, OffsetFetchResponse,
        },
        groups::{
            Coordinator, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest,
            DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse,
            HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
            LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse,
            SyncGroupRequest, SyncGroupResponse,
        },
    },
};

pub(super) const OFFSETS_TOPIC: &str = "__consumer_offsets";
const TRANSACTIONS_TOPIC: &str = "__transaction_state";
const SHARE_STATE_TOPIC: &str = share_state::TOPIC;
const KEY_TYPE_GROUP: i8 = 0;
const KEY_TYPE_TRANSACTION: i8 = 1;
const KEY_TYPE_SHARE: i8 = 2;
/// The first version that knows share partitions.
const SHARE_VERSION_MIN: i16 = 6;

/// Topics as the image has them.
pub(super) struct Names(pub(super) Arc<Image>);

impl TopicNames for Names {
    fn id_of(&self, name: &str) -> Result<Uuid, ErrorCode> {
        self.0.topics().id_of(name).ok_or(ErrorCode::UnknownTopicOrPartition)
    }

    fn name_of(&self, id: Uuid) -> Result<Arc<str>, ErrorCode> {
        let topic = self.0.topics().by_id(id);
        topic.map(|t| Arc::clone(&t.name)).ok_or(ErrorCode::UnknownTopicId)
    }

    fn has_partition(&self, name: &str, partition: PartitionId) -> bool {
        self.0.topics().by_name(name).is_some_and(|t| t.partition(partition).is_some())
    }
}

pub(crate) fn client(caller: &Caller) -> Client {
    Client { id: Arc::clone(&caller.client_id), host: Arc::clone(&caller.host) }
}

/// FindCoordinator. The topic that keeps groups, transactions, or share state is created at the first
/// question.
pub(crate) async fn find_coordinator(
    broker: &Broker,
    caller: &Caller,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let keys = if caller.version >= 4 { request.coordinator_keys } else { vec![request.key] };
    let topic = match request.key_type {
        KEY_TYPE_GROUP => Some(OFFSETS_TOPIC),
        KEY_TYPE_TRANSACTION => Some(TRANSACTIONS_TOPIC),
        KEY_TYPE_SHARE if caller.version >= SHARE_VERSION_MIN => Some(SHARE_STATE_TOPIC),
        _ => None,
    };
    let is_meant =
        |key: &String| topic != Some(SHARE_STATE_TOPIC) || ShareKey::parse(key).is_some();
    if let Some(topic) = topic
        && keys.iter().any(is_meant)
        && broker.image().topics().by_name(topic).is_none()
    {
        metadata::create(broker, vec![topic.to_owned()]).await;
    }
    let image = broker.image();
    let found = keys.into_iter().map(|key| {
        if let Some(topic) = topic {
            coordinator_of(broker, caller, &image, topic, key)
        } else {
            let why = format!("Coordinators of type {} are not supported.", request.key_type);
            nobody(key, ErrorCode::InvalidRequest, Some(why))
        }
    });
    let mut coordinators: Vec<Coordinator> = found.collect();
    if caller.version >= 4 {
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let only = coordinators.pop().unwrap_or_default();
    FindCoordinatorResponse {
        throttle_time_ms: 0,
        error_code: only.error_code,
        error_message: only.error_message,
        node_id: only.node_id,
        host: only.host,
        port: only.port,
        coordinators: Vec::new(),
    }
}

fn nobody(key: String, error_code: ErrorCode, error_message: Option<String>) -> Coordinator {
    Coordinator { key, node_id: -1, host: String::new(), port: -1, error_code, error_message }
}

fn coordinator_of(
    broker: &Broker,
    caller: &Caller,
    image: &Image,
    topic: &str,
    key: String,
) -> Coordinator {
    let partition = match topic {
        TRANSACTIONS_TOPIC => broker.transactions.partition_of(&key),
        SHARE_STATE_TOPIC => match ShareKey::parse(&key) {
            Some(of) => broker.share_states.partition_of(&of),
            None => return nobody(key, ErrorCode::InvalidRequest, None),
        },
        _ => broker.groups.partition_of(&key),
    };
    let topic = image.topics().by_name(topic);
    let leader = topic.and_then(|t| t.partition(partition)).and_then(|p| p.leader);
    match leader.and_then(|l| endpoint(image, l, &caller.listener)) {
        Some(at) => Coordinator {
            key,
            node_id: at.node_id,
            host: at.host,
            port: at.port,
            error_code: ErrorCode::None,
            error_message: None,
        },
        None => nobody(key, ErrorCode::CoordinatorNotAvailable, None),
    }
}

/// JoinGroup.
pub(crate) async fn join_group(
    broker: &Broker,
    caller: &Caller,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    broker.groups.join_group(request, caller.version, &client(caller)).await
}

/// SyncGroup.
pub(crate) async fn sync_group(
    broker: &Broker,
    caller: &Caller,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    broker.groups.sync_group(request, caller.version).await
}

/// Heartbeat.
pub(crate) async fn heartbeat(
    broker: &Broker,
    _caller: &Caller,
    request: HeartbeatRequest,
) -> HeartbeatResponse {
    broker.groups.heartbeat(request).await
}

/// LeaveGroup.
pub(crate) async fn leave_group(
    broker: &Broker,
    caller: &Caller,
    request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    broker.groups.leave_group(request, caller.version).await
}

/// OffsetCommit.
pub(crate) async fn offset_commit(
    broker: &Broker,
    caller: &Caller,
    request: OffsetCommitRequest,
) -> OffsetCommitResponse {
    broker.groups.offset_commit(request, caller.version, &Names(broker.image())).await
}

/// OffsetFetch.
pub(crate) async fn offset_fetch(
    broker: &Broker,
    caller: &Caller,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    broker.groups.offset_fetch(request, caller.version, &Names(broker.image())).await
}

/// OffsetDelete.
pub(crate) async fn offset_delete(
    broker: &Broker,
    _caller: &Caller,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    broker.groups.offset_delete(request, &Names(broker.image())).await
}

/// ListGroups.
pub(crate) fn list_groups(
    broker: &Broker,
    _caller: &Caller,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    broker.groups.list_groups(request)
}

/// DescribeGroups.
pub(crate) fn describe_groups(
    broker: &Broker,
    caller: &Caller,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let operations =
        if request.include_authorized_operations { allowed::GROUP } else { allowed::NOT_ASKED };
    let mut response = broker.groups.describe_groups(request, caller.version);
    for group in &mut response.groups {
        group.authorized_operations = operations;
    }
    response
}

/// DeleteGroups.
pub(crate) async fn delete_groups(
    broker: &Broker,
    _caller: &Caller,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    broker.groups.delete_groups(request).await
}
