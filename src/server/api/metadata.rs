//! Metadata, DescribeCluster, DescribeTopicPartitions: answered from the published image.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::{Instant, sleep_until};

use crate::{
    base::{ErrorCode, NodeId, Uuid, limits::TOPIC_NAME_LEN_MAX},
    metadata::{Image, PartitionRegistration, Topic},
    pb::controller::{self as pb, submit_request::Command},
    server::{
        api::{allowed, is_internal, share_state},
        context::{Admin, Broker, Caller, NodeAddress, Role},
        dispatch::Outcome,
    },
    wire::api::metadata::{
        Cursor, DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
        DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
        DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
        MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
        MetadataResponseTopic,
    },
};

/// How long a request waits for topics that it has created by naming them.
const AUTO_CREATE_TIMEOUT_MS: i32 = 5000;

/// Whether a topic may have this name (`Topic.java`).
pub(crate) fn valid_topic_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=TOPIC_NAME_LEN_MAX).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(legal)
}

/// Metadata. Topics that are named and missing are created first where that is allowed. An answer
/// that would name a leader whose connection broke just now waits for the controller's decision.
pub(crate) fn metadata(broker: &Arc<Broker>, caller: Caller, request: MetadataRequest) -> Outcome {
    if to_create(broker, &request).is_empty() && in_doubt(broker, &caller, &request).is_none() {
        return caller.ready(&answer(broker, &caller, &request));
    }
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        decided(&broker, &caller, &request).await;
        let missing = to_create(&broker, &request);
        if !missing.is_empty() {
            create(&broker, missing).await;
        }
        caller.chunks(&answer(&broker, &caller, &request))
    }))
}

/// Until when the answer should wait for the controller to decide about a leader that it would name.
fn in_doubt(broker: &Broker, caller: &Caller, request: &MetadataRequest) -> Option<Instant> {
    let image = broker.image();
    let topics = asked_for(caller, request, &image).filter_map(Result::ok);
    let leaders = topics.flat_map(Topic::iter).filter_map(|(_, partition)| partition.leader);
    broker.lost_leaders.in_doubt(leaders)
}

/// Waits until no leader of the answer is in doubt.
async fn decided(broker: &Broker, caller: &Caller, request: &MetadataRequest) {
    let (mut published, mut lost) = (broker.published.subscribe(), broker.lost_leaders.watch());
    while let Some(until) = in_doubt(broker, caller, request) {
        tokio::select! {
            _ = published.changed() => {}
            _ = lost.changed() => {}
            () = sleep_until(until) => {}
        }
    }
}

fn to_create(broker: &Broker, request: &MetadataRequest) -> Vec<String> {
    if !request.allow_auto_topic_creation || !broker.settings.cluster.auto_create_topics {
        return Vec::new();
    }
    let image = broker.image();
    let named = request.topics.iter().flatten().filter(|t| t.topic_id.is_zero());
    let names: BTreeSet<&String> = named.filter_map(|t| t.name.as_ref()).collect();
    let missing = names.into_iter().filter(|n| image.topics().id_of(n).is_none());
    missing.filter(|n| valid_topic_name(n)).cloned().collect()
}

/// Creates topics with the broker's defaults; internal ones with their own. What fails is told by
/// the answer that still lacks them.
pub(crate) async fn create(broker: &Broker, names: Vec<String>) {
    let topics = names.into_iter().map(|name| match name.as_str() {
        "__consumer_offsets" => offsets_topic(broker),
        "__transaction_state" => transactions_topic(broker),
        "__share_group_state" => share_state::topic(broker),
        _ => pb::CreatableTopic {
            name,
            num_partitions: -1,
            replication_factor: -1,
            ..Default::default()
        },
    });
    let command = pb::CreateTopics { topics: topics.collect(), ..Default::default() };
    let done = broker.submit(Command::CreateTopics(command), AUTO_CREATE_TIMEOUT_MS).await;
    match done {
        Ok(pb::submit_reply::Reply::CreateTopics(reply)) => {
            let failed = reply.topics.iter().filter(|t| {
                t.error != 0 && t.error != i32::from(ErrorCode::TopicAlreadyExists.code())
            });
            for t in failed {
                let why = t.error_message.as_deref().unwrap_or_default();
                tracing::warn!(topic = t.name, error = t.error, "topic was not created: {why}");
            }
        }
        Ok(_) => {}
        Err(failure) => {
            let why = failure.message.unwrap_or_default();
            tracing::warn!(error = %failure.code, "topics were not created: {why}");
        }
    }
}

/// `__consumer_offsets` (`GroupCoordinatorService.groupMetadataTopicConfigs`).
fn offsets_topic(broker: &Broker) -> pb::CreatableTopic {
    let entry =
        |name: &str, value: String| pb::ConfigEntry { name: name.to_owned(), value: Some(value) };
    let s = &broker.settings.group;
    pb::CreatableTopic {
        name: "__consumer_offsets".to_owned(),
        num_partitions: s.offsets_partitions,
        replication_factor: i32::from(s.offsets_replication_factor),
        assignments: Vec::new(),
        configs: vec![
            entry("cleanup.policy", "compact".to_owned()),
            entry("segment.bytes", s.offsets_segment_bytes.to_string()),
            entry("compression.type", "producer".to_owned()),
        ],
    }
}

/// `__transaction_state` (`TransactionStateManager.transactionTopicConfigs`).
fn transactions_topic(broker: &Broker) -> pb::CreatableTopic {
    let entry =
        |name: &str, value: String| pb::ConfigEntry { name: name.to_owned(), value: Some(value) };
    let s = &broker.settings.transaction;
    pb::CreatableTopic {
        name: "__transaction_state".to_owned(),
        num_partitions: s.partitions,
        replication_factor: i32::from(s.replication_factor),
        assignments: Vec::new(),
        configs: vec![
            entry("unclean.leader.election.enable", "false".to_owned()),
            entry("compression.type", "uncompressed".to_owned()),
            entry("cleanup.policy", "compact".to_owned()),
            entry("min.insync.replicas", s.min_insync_replicas.to_string()),
            entry("segment.bytes", s.segment_bytes.to_string()),
        ],
    }
}

fn answer(broker: &Broker, caller: &Caller, request: &MetadataRequest) -> MetadataResponse {
    let image = broker.image();
    let topics = asked_for(caller, request, &image).map(|asked| match asked {
        Ok(topic) => topic_metadata(caller, request, &image, topic),
        Err((name, id)) => unknown(name.cloned(), id),
    });
    let alive = image.brokers().alive().filter_map(|b| {
        let at = b.endpoint(&caller.listener)?;
        Some(MetadataResponseBroker {
            node_id: b.id.0,
            host: at.host.to_string(),
            port: i32::from(at.port),
            rack: b.rack.as_deref().map(str::to_owned),
        })
    });
    MetadataResponse {
        throttle_time_ms: 0,
        brokers: alive.collect(),
        cluster_id: Some(broker.cluster_id.to_string()),
        controller_id: broker.controller_for_clients(),
        topics: topics.collect(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            allowed::CLUSTER
        } else {
            allowed::NOT_ASKED
        },
        error_code: ErrorCode::None,
    }
}

/// The topics that a request is about; those that are not there by the name or id it gives.
fn asked_for<'a>(
    caller: &Caller,
    request: &'a MetadataRequest,
    image: &'a Image,
) -> impl Iterator<Item = Result<&'a Topic, (Option<&'a String>, Uuid)>> {
    let all = match &request.topics {
        None => true,
        Some(list) => caller.version == 0 && list.is_empty(),
    };
    let every = all.then(|| image.topics().iter().map(Ok)).into_iter().flatten();
    let named = request.topics.iter().flatten().map(|t| {
        // Kafka's own consumers send an empty name with an id.
        let name = t.name.as_ref().filter(|_| t.topic_id.is_zero());
        let found = match name {
            Some(name) => image.topics().by_name(name),
            None => image.topics().by_id(t.topic_id),
        };
        found.ok_or((name, t.topic_id))
    });
    every.chain(named)
}

fn unknown(name: Option<String>, topic_id: Uuid) -> MetadataResponseTopic {
    let error_code = match &name {
        None => ErrorCode::UnknownTopicId,
        Some(n) if !valid_topic_name(n) => ErrorCode::InvalidTopicException,
        Some(_) => ErrorCode::UnknownTopicOrPartition,
    };
    let is_internal = name.as_deref().is_some_and(is_internal);
    MetadataResponseTopic { error_code, name, topic_id, is_internal, ..Default::default() }
}

fn topic_metadata(
    caller: &Caller,
    request: &MetadataRequest,
    image: &Image,
    topic: &Topic,
) -> MetadataResponseTopic {
    let partitions = topic.iter().map(|(p, r)| partition_metadata(caller, image, p, r));
    MetadataResponseTopic {
        error_code: ErrorCode::None,
        name: Some(topic.name.to_string()),
        topic_id: topic.id,
        is_internal: is_internal(&topic.name),
        partitions: partitions.collect(),
        topic_authorized_operations: if request.include_topic_authorized_operations {
            allowed::TOPIC
        } else {
            allowed::NOT_ASKED
        },
    }
}

fn partition_metadata(
    caller: &Caller,
    image: &Image,
    partition_index: i32,
    r: &PartitionRegistration,
) -> MetadataResponsePartition {
    // Clients of version 0 take every replica for one that they can reach.
    let shown = |nodes: &[NodeId]| -> Vec<i32> {
        let known = |n: &&NodeId| caller.version > 0 || reachable(image, &caller.listener, **n);
        nodes.iter().filter(known).map(|n| n.0).collect()
    };
    let (replica_nodes, isr_nodes) = (shown(&r.replicas), shown(&r.isr));
    let whole = replica_nodes.len() == r.replicas.len() && isr_nodes.len() == r.isr.len();
    let (error_code, leader_id) = match leader(image, caller, r) {
        Ok(id) if whole => (ErrorCode::None, id),
        Ok(id) => (ErrorCode::ReplicaNotAvailable, id),
        Err(code) => (code, -1),
    };
    MetadataResponsePartition {
        error_code,
        partition_index,
        leader_id,
        leader_epoch: r.leader_epoch,
        replica_nodes,
        isr_nodes,
        offline_replicas: offline(image, &caller.listener, r),
    }
}

fn ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|n| n.0).collect()
}

/// Whether clients of `listener` can reach that broker.
fn reachable(image: &Image, listener: &str, node: NodeId) -> bool {
    let broker = image.brokers().get(node).filter(|b| !b.fenced);
    broker.is_some_and(|b| b.endpoint(listener).is_some())
}

/// The leader if clients of that listener can reach it; otherwise why not.
fn leader(image: &Image, caller: &Caller, p: &PartitionRegistration) -> Result<i32, ErrorCode> {
    match p.leader {
        Some(leader) if reachable(image, &caller.listener, leader) => Ok(leader.0),
        Some(leader) if caller.version >= 6 && image.brokers().get(leader).is_some() => {
            Err(ErrorCode::ListenerNotFound)
        }
        Some(_) | None => Err(ErrorCode::LeaderNotAvailable),
    }
}

fn offline(image: &Image, listener: &str, p: &PartitionRegistration) -> Vec<i32> {
    let up = |node: NodeId| {
        let dir = p.directory(node).unwrap_or(Uuid::UNASSIGNED_DIR);
        reachable(image, listener, node)
            && image.brokers().get(node).is_some_and(|b| b.has_online_dir(dir))
    };
    p.replicas.iter().filter(|n| !up(**n)).map(|n| n.0).collect()
}

/// DescribeCluster: the brokers from a broker, the controllers from a controller (KIP-919).
pub(crate) fn describe_cluster(
    node: &dyn Admin,
    caller: &Caller,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let cluster_id = node.cluster_id().to_owned();
    if let Some((error_code, message)) = wrong_endpoint(node.role(), caller, request.endpoint_type)
    {
        return DescribeClusterResponse {
            error_code,
            error_message: Some(message),
            endpoint_type: request.endpoint_type,
            cluster_id,
            ..Default::default()
        };
    }
    let mut nodes = node.nodes(&caller.listener);
    nodes.retain(|n| request.include_fenced_brokers || !n.fenced);
    // A controller that clients could not find in the list would only confuse them.
    let controller_id = node.controller_for_clients();
    let listed = nodes.iter().any(|n| n.id.0 == controller_id);
    DescribeClusterResponse {
        endpoint_type: request.endpoint_type,
        cluster_id,
        controller_id: if listed { controller_id } else { -1 },
        brokers: nodes.into_iter().map(described_node).collect(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            allowed::CLUSTER
        } else {
            allowed::NOT_ASKED
        },
        ..Default::default()
    }
}

fn described_node(node: NodeAddress) -> DescribeClusterBroker {
    let NodeAddress { id, host, port, rack, fenced } = node;
    DescribeClusterBroker { broker_id: id.0, host, port, rack, is_fenced: fenced }
}

/// The error if nodes of another kind are asked for than this listener knows.
fn wrong_endpoint(role: Role, caller: &Caller, asked: i8) -> Option<(ErrorCode, String)> {
    let name = |kind| match kind {
        1 => Some("BROKER"),
        2 => Some("CONTROLLER"),
        _ => None,
    };
    let ours: i8 = match role {
        Role::Broker => 1,
        Role::Controller => 2,
    };
    // Version 0 has no endpoint types, and so none of their errors.
    let coded = |code| if caller.version == 0 { ErrorCode::InvalidRequest } else { code };
    match name(asked) {
        Some(_) if asked == ours => None,
        Some(wanted) => Some((
            coded(ErrorCode::MismatchedEndpointType),
            format!(
                "The request was sent to an endpoint of type {}, but we wanted an endpoint of \
                 type {wanted}",
                name(ours).unwrap_or_default()
            ),
        )),
        None => Some((
            coded(ErrorCode::UnsupportedEndpointType),
            format!("Unsupported endpoint type {asked}"),
        )),
    }
}

/// DescribeTopicPartitions (KIP-966): topics in order of their names, a page at a time.
pub(crate) fn describe_topic_partitions(
    broker: &Broker,
    caller: &Caller,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let image = broker.image();
    let cap = broker.settings.cluster.max_request_partitions.max(1);
    let mut room = usize::try_from(request.response_partition_limit.clamp(1, cap)).unwrap_or(1);
    let mut response = DescribeTopicPartitionsResponse::default();
    let (from, first) =
        request.cursor.map_or((String::new(), 0), |c| (c.topic_name, c.partition_index.max(0)));
    let names: BTreeSet<String> = if request.topics.is_empty() {
        image.topics().names_from(&from).map(|(n, _)| n.to_string()).collect()
    } else {
        request.topics.into_iter().map(|t| t.name).filter(|n| *n >= from).collect()
    };
    for name in names {
        if room == 0 {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: 0 });
            break;
        }
        let start = if name == from { first } else { 0 };
        let Some(topic) = image.topics().by_name(&name) else {
            response.topics.push(DescribeTopicPartitionsResponseTopic {
                error_code: unknown(Some(name.clone()), Uuid::ZERO).error_code,
                name: Some(name),
                ..Default::default()
            });
            continue;
        };
        let rest = topic.iter().filter(|(p, _)| *p >= start);
        let partitions: Vec<_> =
            rest.take(room).map(|(p, r)| described(&image, caller, p, r)).collect();
        room -= partitions.len();
        let next = partitions.last().map_or(start, |p| p.partition_index + 1);
        response.topics.push(DescribeTopicPartitionsResponseTopic {
            error_code: ErrorCode::None,
            name: Some(name.clone()),
            topic_id: topic.id,
            is_internal: is_internal(&name),
            partitions,
            topic_authorized_operations: allowed::TOPIC,
        });
        if next < topic.partition_count() {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: next });
            break;
        }
    }
    response
}

fn described(
    image: &Image,
    caller: &Caller,
    partition_index: i32,
    r: &PartitionRegistration,
) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition {
        // A missing leader is no error here: the client sees that there is none.
        error_code: ErrorCode::None,
        partition_index,
        leader_id: leader(image, caller, r).unwrap_or(-1),
        leader_epoch: r.leader_epoch,
        replica_nodes: ids(&r.replicas),
        isr_nodes: ids(&r.isr),
        eligible_leader_replicas: Some(ids(r.elr())),
        last_known_elr: Some(ids(r.last_known_elr())),
        offline_replicas: offline(image, &caller.listener, r),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{
        Endpoint, Loader, Position, Record,
        record::{Partition, RegisterBroker},
    };

    const TOPIC: Uuid = Uuid([7; 16]);
    const DIR: Uuid = Uuid([9; 16]);

    fn broker(id: i32, listeners: &[&str], fenced: bool) -> Record {
        let endpoint = |name: &&str| Endpoint {
            name: (*name).into(),
            host: "h".into(),
            port: 9092,
            security_protocol: 0,
        };
        Record::RegisterBroker(RegisterBroker {
            id: NodeId(id),
            incarnation: Uuid::ONE,
            epoch: None,
            endpoints: listeners.iter().map(endpoint).collect(),
            features: Vec::new(),
            rack: None,
            log_dirs: vec![DIR],
            fenced,
            in_controlled_shutdown: false,
            cordoned_dirs: None,
        })
    }

    /// Partition p is led by broker p on 1 and p; broker 1 has both listeners, 2 lacks ONE, 3 is
    /// fenced, 4 is not registered.
    fn image() -> Arc<Image> {
        let mut records = vec![
            Record::FeatureLevel { name: "metadata.version".into(), level: 30 },
            broker(1, &["ONE", "TWO"], false),
            broker(2, &["TWO"], false),
            broker(3, &["ONE", "TWO"], true),
            Record::Topic { name: "t".into(), id: TOPIC },
        ];
        for p in 0..5 {
            let nodes = [NodeId(1), NodeId(p.max(2))];
            let mut state = PartitionRegistration::new(&nodes, &[DIR, DIR], &nodes);
            state.leader = (p > 0).then_some(NodeId(p));
            records.push(Record::Partition(Partition { topic_id: TOPIC, partition: p, state }));
        }
        let mut loader = Loader::default();
        loader.load_batch(Position { offset: 0, epoch: 1 }, &records).unwrap().unwrap().image
    }

    fn caller(version: i16) -> Caller {
        let (host, client_id) = ("/h".into(), "".into());
        Caller { listener: "ONE".into(), conn: 1, host, client_id, version, correlation_id: 1 }
    }

    fn told(version: i16, p: i32) -> (ErrorCode, i32, Vec<i32>, Vec<i32>) {
        let image = image();
        let topic = image.topics().by_id(TOPIC).unwrap();
        let (_, r) = topic.iter().find(|(at, _)| *at == p).unwrap();
        let m = partition_metadata(&caller(version), &image, p, r);
        (m.error_code, m.leader_id, m.replica_nodes, m.offline_replicas)
    }

    #[test]
    fn a_client_is_told_of_what_it_can_reach_by_its_listener() {
        use ErrorCode::{LeaderNotAvailable, ListenerNotFound, None, ReplicaNotAvailable};
        assert_eq!(told(13, 0), (LeaderNotAvailable, -1, vec![1, 2], vec![2]));
        assert_eq!(told(13, 1), (None, 1, vec![1, 2], vec![2]));
        assert_eq!(told(13, 2), (ListenerNotFound, -1, vec![1, 2], vec![2]));
        assert_eq!(told(13, 3), (ListenerNotFound, -1, vec![1, 3], vec![3]));
        assert_eq!(told(13, 4), (LeaderNotAvailable, -1, vec![1, 4], vec![4]));
        assert_eq!(told(5, 2), (LeaderNotAvailable, -1, vec![1, 2], vec![2]));
        assert_eq!(told(0, 1), (ReplicaNotAvailable, 1, vec![1], vec![2]));
    }

    #[test]
    fn each_kind_of_listener_describes_its_own_kind_of_node() {
        let wrong = |role, version, asked| {
            wrong_endpoint(role, &caller(version), asked).map(|(code, _)| code)
        };
        assert_eq!(wrong(Role::Broker, 2, 1), None);
        assert_eq!(wrong(Role::Controller, 2, 2), None);
        assert_eq!(wrong(Role::Broker, 2, 2), Some(ErrorCode::MismatchedEndpointType));
        assert_eq!(wrong(Role::Controller, 1, 1), Some(ErrorCode::MismatchedEndpointType));
        assert_eq!(wrong(Role::Controller, 0, 1), Some(ErrorCode::InvalidRequest));
        assert_eq!(wrong(Role::Broker, 1, 3), Some(ErrorCode::UnsupportedEndpointType));
    }
}
