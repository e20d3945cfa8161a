//! ListOffsets, OffsetForLeaderEpoch, DeleteRecords, DescribeProducers: about the ends of logs.

use std::{sync::Arc, time::Duration};

use futures::channel::oneshot;

use crate::{
    base::{ErrorCode, Offset, PartitionId},
    replica::{
        partition::{Committed, Isolation, Partition, Refusal, TimedOffset},
        table::Slot,
    },
    server::{
        context::{Broker, Caller},
        dispatch::Outcome,
    },
    wire::api::offsets::{
        DeleteRecordsPartitionResult, DeleteRecordsRequest, DeleteRecordsResponse,
        DeleteRecordsTopicResult, DescribeProducersPartitionResult, DescribeProducersRequest,
        DescribeProducersResponse, DescribeProducersTopicResult, EpochEndOffset,
        ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest,
        ListOffsetsResponse, ListOffsetsTopicResponse, OffsetForLeaderEpochRequest,
        OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult, ProducerState,
    },
};

/// The replica of a partition that this broker leads, or why there is none.
fn find(broker: &Broker, topic: &str, partition: PartitionId) -> Result<Arc<Slot>, ErrorCode> {
    broker.replicas.by_name(topic, partition).ok_or_else(|| {
        let image = broker.image();
        let known = image.topics().by_name(topic).and_then(|t| t.partition(partition));
        match known {
            Some(_) => ErrorCode::NotLeaderOrFollower,
            None => ErrorCode::UnknownTopicOrPartition,
        }
    })
}

/// ListOffsets.
pub(crate) fn list_offsets(
    broker: &Broker,
    caller: &Caller,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let isolation = match request.isolation_level {
        _ if request.replica_id >= 0 => Isolation::LogEnd,
        1 => Isolation::ReadCommitted,
        _ => Isolation::ReadUncommitted,
    };
    let topics = request.topics.into_iter().map(|topic| ListOffsetsTopicResponse {
        partitions: topic
            .partitions
            .iter()
            .map(|p| {
                let found = list_one(broker, caller, &topic.name, p, isolation);
                let (error_code, found) = match found {
                    Ok(found) => (ErrorCode::None, found),
                    Err(r) => (r.code, TimedOffset { timestamp: -1, offset: -1, leader_epoch: -1 }),
                };
                ListOffsetsPartitionResponse {
                    partition_index: p.partition_index,
                    error_code,
                    timestamp: found.timestamp,
                    offset: found.offset,
                    leader_epoch: found.leader_epoch,
                }
            })
            .collect(),
        name: topic.name,
    });
    ListOffsetsResponse { throttle_time_ms: 0, topics: topics.collect() }
}

/// The special timestamps came with versions: -3 with 7, -4 with 8, -5 with 9, -6 with 11.
fn timestamp_is_known(timestamp: i64, version: i16) -> bool {
    match timestamp {
        -3 => version >= 7,
        -4 => version >= 8,
        -5 => version >= 9,
        -6 => version >= 11,
        other => other >= -2,
    }
}

fn list_one(
    broker: &Broker,
    caller: &Caller,
    topic: &str,
    asked: &ListOffsetsPartition,
    isolation: Isolation,
) -> Result<TimedOffset, Refusal> {
    if !timestamp_is_known(asked.timestamp, caller.version) {
        return Err(ErrorCode::UnsupportedVersion.into());
    }
    let slot = find(broker, topic, asked.partition_index)?;
    let mut partition = slot.lock();
    partition.check_leader(asked.current_leader_epoch)?;
    let found = partition.offset_for(asked.timestamp, isolation, broker.clock.now());
    found.map_err(|refusal| match refusal.code {
        // Older clients do not know the code that says it.
        ErrorCode::OffsetNotAvailable if caller.version < 5 => ErrorCode::LeaderNotAvailable.into(),
        _ => refusal,
    })
}

/// The high watermark of a partition that this broker leads.
///
/// # Errors
/// As ListOffsets answers.
pub(crate) fn latest(
    broker: &Broker,
    topic: &str,
    partition: PartitionId,
) -> Result<Offset, ErrorCode> {
    let slot = find(broker, topic, partition)?;
    let mut partition = slot.lock();
    partition.check_leader(-1)?;
    let found = partition.offset_for(-1, Isolation::ReadUncommitted, broker.clock.now());
    found.map(|found| found.offset).map_err(|refusal| refusal.code)
}

/// OffsetForLeaderEpoch.
pub(crate) fn offset_for_leader_epoch(
    broker: &Broker,
    _caller: &Caller,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let look = |topic: &str, partition: PartitionId, client_epoch: i32, epoch: i32| {
        let slot = find(broker, topic, partition)?;
        let mut state = slot.lock();
        state.check_leader(client_epoch)?;
        state.epoch_end(epoch, broker.clock.now())
    };
    let topics = request.topics.into_iter().map(|topic| OffsetForLeaderTopicResult {
        partitions: topic
            .partitions
            .iter()
            .map(|p| {
                let done = look(&topic.topic, p.partition, p.current_leader_epoch, p.leader_epoch);
                let (error_code, (leader_epoch, end_offset)) = match done {
                    Ok(end) => (ErrorCode::None, end),
                    Err(refusal) => (refusal.code, (-1, -1)),
                };
                EpochEndOffset { error_code, partition: p.partition, leader_epoch, end_offset }
            })
            .collect(),
        topic: topic.topic,
    });
    OffsetForLeaderEpochResponse { throttle_time_ms: 0, topics: topics.collect() }
}

/// A deletion that other replicas have yet to follow: its topic and partition in the response,
/// where they are, and the signal.
struct Deletion {
    place: (usize, usize),
    slot: Arc<Slot>,
    done: oneshot::Receiver<Committed>,
}

/// DeleteRecords: answered once the records are gone on every live replica, which learns of it by
/// its next fetch.
pub(crate) fn delete_records(
    broker: &Arc<Broker>,
    caller: Caller,
    request: DeleteRecordsRequest,
) -> Outcome {
    let mut waits = Vec::new();
    let mut response = DeleteRecordsResponse::default();
    for (at, topic) in request.topics.into_iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for p in &topic.partitions {
            let place = (at, partitions.len());
            let done = delete_one(broker, &topic.name, p.partition_index, p.offset);
            let (error_code, low_watermark) = match done {
                Ok((low, None)) => (ErrorCode::None, low),
                Ok((low, Some((slot, done)))) => {
                    waits.push(Deletion { place, slot, done });
                    (ErrorCode::RequestTimedOut, low)
                }
                Err(refusal) => (refusal.code, -1),
            };
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: p.partition_index,
                low_watermark,
                error_code,
            });
        }
        response.topics.push(DeleteRecordsTopicResult { name: topic.name, partitions });
    }
    if waits.is_empty() {
        return caller.ready(&response);
    }
    let limit = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        await_deletions(&broker, &mut response, waits, limit).await;
        caller.chunks(&response)
    }))
}

/// The low watermark, and what to wait for if it has not come far enough.
type Deleted = (Offset, Option<(Arc<Slot>, oneshot::Receiver<Committed>)>);

fn delete_one(
    broker: &Broker,
    topic: &str,
    partition: PartitionId,
    before: Offset,
) -> Result<Deleted, Refusal> {
    if super::is_internal(topic) {
        return Err(ErrorCode::InvalidTopicException.into());
    }
    let slot = find(broker, topic, partition)?;
    let mut state = slot.lock();
    state.check_leader(-1)?;
    let offset = state.delete_records(before, broker.clock.now())?;
    let low = state.low_watermark().ok_or(ErrorCode::NotLeaderOrFollower)?;
    let wait = state.await_deleted(offset);
    drop(state);
    Ok((low, wait.map(|wait| (slot, wait))))
}

async fn await_deletions(
    broker: &Broker,
    response: &mut DeleteRecordsResponse,
    waits: Vec<Deletion>,
    limit: Duration,
) {
    let deadline = tokio::time::Instant::now() + limit;
    for Deletion { place: (topic, partition), slot, done } in waits {
        let (code, low) = match tokio::time::timeout_at(deadline, done).await {
            Ok(Ok(Ok(low))) => (ErrorCode::None, low),
            // The replica is no longer here at all.
            Ok(_) if broker.replicas.by_id(slot.topic_id, slot.partition).is_none() => {
                (ErrorCode::UnknownTopicOrPartition, -1)
            }
            Ok(Ok(Err(code))) => (code, -1),
            Ok(Err(_)) => (ErrorCode::NotLeaderOrFollower, -1),
            // It says so already, with the low watermark of the beginning.
            Err(_) => continue,
        };
        let place = response.topics.get_mut(topic);
        if let Some(p) = place.and_then(|t| t.partitions.get_mut(partition)) {
            (p.error_code, p.low_watermark) = (code, low);
        }
    }
}

/// DescribeProducers.
pub(crate) fn describe_producers(
    broker: &Broker,
    _caller: &Caller,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let now = broker.clock.now();
    let list = |partition: &mut Partition| -> Result<Vec<ProducerState>, Refusal> {
        partition.check_leader(-1)?;
        let states = partition.log.producers(now)?.map(|(producer_id, p)| ProducerState {
            producer_id,
            producer_epoch: i32::from(p.epoch),
            last_sequence: p.last_sequence(),
            last_timestamp: p.last_timestamp,
            coordinator_epoch: p.coordinator_epoch,
            current_txn_start_offset: p.txn_first_offset.unwrap_or(-1),
        });
        Ok(states.collect())
    };
    let topics = request.topics.into_iter().map(|topic| DescribeProducersTopicResult {
        partitions: topic
            .partition_indexes
            .iter()
            .map(|&partition_index| {
                let done = find(broker, &topic.name, partition_index)
                    .map_err(Refusal::from)
                    .and_then(|slot| list(&mut slot.lock()));
                match done {
                    Ok(active_producers) => DescribeProducersPartitionResult {
                        partition_index,
                        active_producers,
                        ..Default::default()
                    },
                    Err(refusal) => DescribeProducersPartitionResult {
                        partition_index,
                        error_code: refusal.code,
                        error_message: refusal.message,
                        ..Default::default()
                    },
                }
            })
            .collect(),
        name: topic.name,
    });
    DescribeProducersResponse { throttle_time_ms: 0, topics: topics.collect() }
}
