//! AlterReplicaLogDirs, DescribeLogDirs, UpdateFeatures, InitProducerId, UnregisterBroker.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{
    base::ErrorCode,
    coordinator::txn_calls::{InitCall, Producer},
    pb::controller::{self as pb, submit_reply::Reply, submit_request::Command},
    server::{
        context::{Admin, Broker, Caller},
        forward::{Failure, code},
    },
    wire::api::cluster::{
        AlterReplicaLogDirPartitionResult, AlterReplicaLogDirTopicResult,
        AlterReplicaLogDirsRequest, AlterReplicaLogDirsResponse, DescribeLogDirsPartition,
        DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeLogDirsResult,
        DescribeLogDirsTopic, InitProducerIdRequest, InitProducerIdResponse,
        UnregisterBrokerRequest, UnregisterBrokerResponse, UpdatableFeatureResult,
        UpdateFeaturesRequest, UpdateFeaturesResponse,
    },
};

/// How long a broker's removal may take; the request carries no time of its own.
const UNREGISTER_TIMEOUT_MS: i32 = 30_000;

/// AlterReplicaLogDirs: begins to move replicas between directories of this broker.
pub(crate) fn alter_replica_log_dirs(
    broker: &Broker,
    _caller: &Caller,
    request: AlterReplicaLogDirsRequest,
) -> AlterReplicaLogDirsResponse {
    let mut results: BTreeMap<String, Vec<AlterReplicaLogDirPartitionResult>> = BTreeMap::new();
    for wanted in request.dirs {
        let dirs = broker.replicas.dirs();
        let path = Path::new(&wanted.path);
        let dir = dirs.iter().position(|d| Path::new(&d.name) == path || d.log_dir.path() == path);
        for topic in wanted.topics {
            let begin = |partition: &i32| {
                let begun = match dir {
                    Some(dir) => broker.replicas.alter_dir(&topic.name, *partition, dir),
                    None => Err(ErrorCode::LogDirNotFound),
                };
                AlterReplicaLogDirPartitionResult {
                    partition_index: *partition,
                    error_code: begun.err().unwrap_or(ErrorCode::None),
                }
            };
            let done: Vec<_> = topic.partitions.iter().map(begin).collect();
            results.entry(topic.name).or_default().extend(done);
        }
    }
    let results = results
        .into_iter()
        .map(|(topic_name, partitions)| AlterReplicaLogDirTopicResult { topic_name, partitions });
    AlterReplicaLogDirsResponse { throttle_time_ms: 0, results: results.collect() }
}

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
        if let Some(copy) = partition.future() {
            let size = copy.lock().size();
            let all = by_dir[copy.dir].entry(key.0.clone()).or_default();
            all.push(DescribeLogDirsPartition {
                partition_index: slot.partition,
                partition_size: i64::try_from(size).unwrap_or(i64::MAX),
                offset_lag: end - copy.end(),
                is_future_key: true,
            });
        }
        by_dir[slot.dir()].entry(key.0).or_default().push(DescribeLogDirsPartition {
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

/// UpdateFeatures.
pub(crate) async fn update_features(
    node: &dyn Admin,
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
    match node.submit(Command::UpdateFeatures(command), request.timeout_ms).await {
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

/// InitProducerId: a fresh id for an idempotent producer, or what the coordinator gives to a
/// transactional one.
pub(crate) async fn init_producer_id(
    broker: &Broker,
    caller: &Caller,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let done = match (request.producer_id, request.producer_epoch) {
        (-1, -1) => producer(broker, request, None).await,
        (-1, _) | (_, -1) => Err(ErrorCode::InvalidRequest),
        (id, epoch) => producer(broker, request, Some(Producer { id, epoch })).await,
    };
    let (error_code, producer) = match done {
        Ok(producer) => (ErrorCode::None, producer),
        // Older clients do not know the newer code.
        Err(ErrorCode::ProducerFenced) if caller.version < 4 => {
            (ErrorCode::InvalidProducerEpoch, Producer::NONE)
        }
        Err(error) => (error, Producer::NONE),
    };
    InitProducerIdResponse {
        throttle_time_ms: 0,
        error_code,
        producer_id: producer.id,
        producer_epoch: producer.epoch,
    }
}

async fn producer(
    broker: &Broker,
    request: InitProducerIdRequest,
    expected: Option<Producer>,
) -> Result<Producer, ErrorCode> {
    let Some(id) = request.transactional_id else {
        return Ok(Producer { id: broker.producer_ids.next(broker).await?, epoch: 0 });
    };
    let timeout_ms = request.transaction_timeout_ms;
    broker.transactions.init(InitCall { id: id.into(), timeout_ms, expected }).await
}

/// UnregisterBroker.
pub(crate) async fn unregister_broker(
    node: &dyn Admin,
    _caller: &Caller,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    let command = pb::UnregisterBroker { broker_id: request.broker_id };
    let done = node.submit(Command::UnregisterBroker(command), UNREGISTER_TIMEOUT_MS).await;
    let (error_code, error_message) = match done {
        Ok(Reply::UnregisterBroker(reply)) => (code(reply.error), reply.error_message),
        other => {
            let failure = Failure::of(other);
            (failure.code, failure.message)
        }
    };
    UnregisterBrokerResponse { throttle_time_ms: 0, error_code, error_message }
}
