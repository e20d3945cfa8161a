//! DescribeLogDirs, DescribeQuorum, UpdateFeatures, InitProducerId.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::ErrorCode,
    pb::controller::{self as pb, submit_reply::Reply, submit_request::Command},
    quorum::ReplicaDescription,
    server::{
        context::{Broker, Caller},
        forward::{Failure, code},
    },
    wire::api::cluster::{
        DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse,
        DescribeLogDirsResult, DescribeLogDirsTopic, DescribeQuorumRequest, DescribeQuorumResponse,
        InitProducerIdRequest, InitProducerIdResponse, QuorumListener, QuorumNode, QuorumPartition,
        QuorumReplica, QuorumTopic, UpdatableFeatureResult, UpdateFeaturesRequest,
        UpdateFeaturesResponse,
    },
};

const METADATA_TOPIC: &str = "__cluster_metadata";

/// DescribeLogDirs.
pub(crate) fn describe_log_dirs(
    broker: &Broker,
    _caller: &Caller,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let wanted: Option<BTreeSet<(String, i32)>> = request.topics.map(|topics| {
        let pairs = topics.into_iter().flat_map(|t| {
            let topic = t.topic;
            t.partitions.into_iter().map(move |p| (topic.clone(), p))
        });
        pairs.collect()
    });
    let mut by_dir: Vec<BTreeMap<String, Vec<DescribeLogDirsPartition>>> =
        vec![BTreeMap::new(); broker.replicas.dirs().len()];
    for slot in broker.replicas.all() {
        let key = (slot.topic.to_string(), slot.partition);
        if wanted.as_ref().is_some_and(|w| !w.contains(&key)) {
            continue;
        }
        let partition = slot.lock();
        let end = partition.log.log_end_offset();
        by_dir[slot.dir].entry(key.0).or_default().push(DescribeLogDirsPartition {
            partition_index: slot.partition,
            partition_size: i64::try_from(partition.log.size()).unwrap_or(i64::MAX),
            offset_lag: (partition.high_watermark() - end).max(0),
            is_future_key: false,
        });
    }
    let results = broker.replicas.dirs().iter().zip(by_dir).map(|(dir, topics)| {
        let space = dir.log_dir.space().ok();
        let error_code = match dir.log_dir.offline_reason() {
            Some(_) => ErrorCode::KafkaStorageError,
            None => ErrorCode::None,
        };
        let bytes = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1);
        DescribeLogDirsResult {
            error_code,
            log_dir: dir.log_dir.path().display().to_string(),
            topics: if error_code == ErrorCode::None {
                topics
                    .into_iter()
                    .map(|(name, partitions)| DescribeLogDirsTopic { name, partitions })
                    .collect()
            } else {
                Vec::new()
            },
            total_bytes: bytes(space.map(|s| s.total)),
            usable_bytes: bytes(space.map(|s| s.usable)),
            is_cordoned: broker.replicas.is_cordoned(dir.id),
        }
    });
    DescribeLogDirsResponse { results: results.collect(), ..Default::default() }
}

/// DescribeQuorum.
pub(crate) fn describe_quorum(
    broker: &Broker,
    _caller: &Caller,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let Some(quorum) = &broker.quorum else {
        return DescribeQuorumResponse {
            error_code: ErrorCode::NotController,
            error_message: Some("This node is no controller: ask one of the voters.".to_owned()),
            ..Default::default()
        };
    };
    let q = quorum.describe();
    let replicas = |list: &[ReplicaDescription]| -> Vec<QuorumReplica> {
        list.iter()
            .map(|r| QuorumReplica {
                replica_id: r.id.0,
                replica_directory_id: r.directory_id,
                log_end_offset: r.log_end_offset,
                last_fetch_timestamp: r.last_fetch_ms,
                last_caught_up_timestamp: r.last_caught_up_ms,
            })
            .collect()
    };
    let partition = |name: &str, partition_index: i32| {
        if name != METADATA_TOPIC || partition_index != 0 {
            return QuorumPartition {
                partition_index,
                error_code: ErrorCode::UnknownTopicOrPartition,
                ..Default::default()
            };
        }
        QuorumPartition {
            partition_index,
            leader_id: q.leader.map_or(-1, |l| l.0),
            leader_epoch: q.epoch,
            high_watermark: q.high_watermark,
            current_voters: replicas(&q.voters),
            observers: replicas(&q.observers),
            ..Default::default()
        }
    };
    let topics = request.topics.into_iter().map(|t| QuorumTopic {
        partitions: t
            .partitions
            .iter()
            .map(|p| partition(&t.topic_name, p.partition_index))
            .collect(),
        topic_name: t.topic_name,
    });
    let nodes = q.endpoints.iter().map(|v| QuorumNode {
        node_id: v.id.0,
        listeners: vec![QuorumListener {
            name: q.listener_name.clone(),
            host: v.host.clone(),
            port: v.port,
        }],
    });
    DescribeQuorumResponse {
        topics: topics.collect(),
        nodes: nodes.collect(),
        ..Default::default()
    }
}

/// UpdateFeatures.
pub(crate) async fn update_features(
    broker: &Broker,
    _caller: &Caller,
    request: UpdateFeaturesRequest,
) -> UpdateFeaturesResponse {
    let updates = request.feature_updates.into_iter().map(|u| pb::FeatureUpdate {
        name: u.feature,
        level: i32::from(u.max_version_level),
        upgrade_type: if u.allow_downgrade { 2 } else { i32::from(u.upgrade_type) },
    });
    let command =
        pb::UpdateFeatures { updates: updates.collect(), validate_only: request.validate_only };
    match broker.submit(Command::UpdateFeatures(command), request.timeout_ms).await {
        Ok(Reply::UpdateFeatures(reply)) => UpdateFeaturesResponse {
            throttle_time_ms: 0,
            error_code: code(reply.error),
            error_message: reply.error_message,
            results: reply
                .results
                .into_iter()
                .map(|r| UpdatableFeatureResult {
                    feature: r.name,
                    error_code: code(r.error),
                    error_message: r.error_message,
                })
                .collect(),
        },
        other => {
            let failure = Failure::of(other);
            UpdateFeaturesResponse {
                error_code: failure.code,
                error_message: failure.message,
                ..Default::default()
            }
        }
    }
}

/// InitProducerId, for idempotent producers.
pub(crate) async fn init_producer_id(
    broker: &Broker,
    _caller: &Caller,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refuse = |error_code| InitProducerIdResponse {
        error_code,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    if request.transactional_id.is_some() {
        // Transactions are not served: AddPartitionsToTxn and EndTxn are not advertised either.
        return refuse(ErrorCode::UnsupportedVersion);
    }
    match broker.producer_ids.next(broker).await {
        Ok(producer_id) => {
            InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() }
        }
        Err(error_code) => refuse(error_code),
    }
}
