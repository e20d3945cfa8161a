//! Metadata, DescribeCluster, DescribeTopicPartitions: answered from the published image.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    base::{ErrorCode, NodeId, Uuid, limits::TOPIC_NAME_LEN_MAX},
    metadata::{BrokerRegistration, Image, PartitionRegistration, Topic},
    pb::controller::{self as pb, submit_request::Command},
    server::{
        api::{allowed, is_internal},
        context::{Broker, Caller},
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

/// Metadata. Topics that are named and missing are created first where that is allowed.
pub(crate) fn metadata(broker: &Arc<Broker>, caller: Caller, request: MetadataRequest) -> Outcome {
    let missing = to_create(broker, &request);
    if missing.is_empty() {
        return caller.ready(&answer(broker, &caller, &request));
    }
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        create(&broker, missing).await;
        caller.chunks(&answer(&broker, &caller, &request))
    }))
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

fn answer(broker: &Broker, caller: &Caller, request: &MetadataRequest) -> MetadataResponse {
    let image = broker.image();
    let all = match &request.topics {
        None => true,
        Some(list) => caller.version == 0 && list.is_empty(),
    };
    let describe = |topic: &Topic| topic_metadata(caller, request, &image, topic);
    let topics = if all {
        image.topics().iter().map(describe).collect()
    } else {
        let wanted = request.topics.iter().flatten();
        wanted
            .map(|t| {
                let found = match &t.name {
                    Some(name) => image.topics().by_name(name),
                    None => image.topics().by_id(t.topic_id),
                };
                found.map_or_else(|| unknown(t.name.clone(), t.topic_id), describe)
            })
            .collect()
    };
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
        controller_id: any_alive(broker, &image),
        topics,
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            allowed::CLUSTER
        } else {
            allowed::NOT_ASKED
        },
        error_code: ErrorCode::None,
    }
}

/// Clients send what is for the controller to the node named here; with KRaft that is any broker,
/// which forwards it. -1 if none is alive.
fn any_alive(broker: &Broker, image: &Image) -> i32 {
    let alive: Vec<NodeId> = image.brokers().alive().map(|b| b.id).collect();
    let count = u64::try_from(alive.len()).unwrap_or(0);
    let pick = broker.entropy.u64().checked_rem(count).and_then(|i| usize::try_from(i).ok());
    pick.and_then(|i| alive.get(i)).map_or(-1, |id| id.0)
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
    let partitions = topic.iter().map(|(p, r)| {
        let (error_code, leader_id) = leader(image, caller, r);
        MetadataResponsePartition {
            error_code,
            partition_index: p,
            leader_id,
            leader_epoch: r.leader_epoch,
            replica_nodes: ids(&r.replicas),
            isr_nodes: ids(&r.isr),
            offline_replicas: offline(image, r),
        }
    });
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

fn ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|n| n.0).collect()
}

fn alive(image: &Image, node: NodeId) -> Option<&Arc<BrokerRegistration>> {
    image.brokers().get(node).filter(|b| !b.fenced)
}

fn leader(image: &Image, caller: &Caller, p: &PartitionRegistration) -> (ErrorCode, i32) {
    let Some(leader) = p.leader else { return (ErrorCode::LeaderNotAvailable, -1) };
    match alive(image, leader) {
        None => (ErrorCode::LeaderNotAvailable, -1),
        Some(b) if b.endpoint(&caller.listener).is_none() => {
            let code = if caller.version >= 6 {
                ErrorCode::ListenerNotFound
            } else {
                ErrorCode::LeaderNotAvailable
            };
            (code, -1)
        }
        Some(_) => (ErrorCode::None, leader.0),
    }
}

fn offline(image: &Image, p: &PartitionRegistration) -> Vec<i32> {
    let up = |node: NodeId| {
        let dir = p.directory(node).unwrap_or(Uuid::UNASSIGNED_DIR);
        alive(image, node).is_some_and(|b| b.has_online_dir(dir))
    };
    p.replicas.iter().filter(|n| !up(**n)).map(|n| n.0).collect()
}

/// DescribeCluster.
pub(crate) fn describe_cluster(
    broker: &Broker,
    caller: &Caller,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    let cluster_id = broker.cluster_id.to_string();
    if request.endpoint_type != 1 {
        let (error_code, message) = if request.endpoint_type == 2 {
            (
                ErrorCode::MismatchedEndpointType,
                "The request was sent to an endpoint of a broker; controllers are described by a \
                 controller (--bootstrap-controller).",
            )
        } else {
            (ErrorCode::UnsupportedEndpointType, "The endpoint type is neither 1 nor 2.")
        };
        return DescribeClusterResponse {
            error_code,
            error_message: Some(message.to_owned()),
            endpoint_type: request.endpoint_type,
            cluster_id,
            ..Default::default()
        };
    }
    let image = broker.image();
    let shown = image.brokers().iter().filter(|b| request.include_fenced_brokers || !b.fenced);
    let brokers = shown.filter_map(|b| {
        let at = b.endpoint(&caller.listener)?;
        Some(DescribeClusterBroker {
            broker_id: b.id.0,
            host: at.host.to_string(),
            port: i32::from(at.port),
            rack: b.rack.as_deref().map(str::to_owned),
            is_fenced: b.fenced,
        })
    });
    DescribeClusterResponse {
        endpoint_type: 1,
        cluster_id,
        controller_id: any_alive(broker, &image),
        brokers: brokers.collect(),
        cluster_authorized_operations: if request.include_cluster_authorized_operations {
            allowed::CLUSTER
        } else {
            allowed::NOT_ASKED
        },
        ..Default::default()
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
    let (error_code, leader_id) = leader(image, caller, r);
    DescribeTopicPartitionsResponsePartition {
        error_code,
        partition_index,
        leader_id,
        leader_epoch: r.leader_epoch,
        replica_nodes: ids(&r.replicas),
        isr_nodes: ids(&r.isr),
        eligible_leader_replicas: Some(ids(r.elr())),
        last_known_elr: Some(ids(r.last_known_elr())),
        offline_replicas: offline(image, r),
    }
}
