//! WriteTxnMarkers: the coordinator of a transaction, or an administrator, ends it in the partitions
//! that are led here (`KafkaApis.handleWriteTxnMarkersRequest`).

use std::{collections::BTreeMap, time::Duration};

use futures::future::{BoxFuture, FutureExt as _, join_all, ready};
use tokio::time::timeout;

use crate::{
    base::{ErrorCode, PartitionId},
    coordinator::calls::EndTxnCall,
    record::{control::EndTxnMarker, validate::Validated},
    server::{
        api::groups::OFFSETS_TOPIC,
        context::{Broker, Caller},
    },
    wire::api::txn::{
        WritableTxnMarker, WritableTxnMarkerPartitionResult, WritableTxnMarkerResult,
        WritableTxnMarkerTopicResult, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
    },
};

/// Codes by topic and partition.
type Results = BTreeMap<String, BTreeMap<PartitionId, ErrorCode>>;

/// WriteTxnMarkers. Answers once all markers are replicated as acks=all asks for, or cannot be.
pub(crate) async fn write_txn_markers(
    broker: &Broker,
    _caller: &Caller,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let mut waits = Vec::new();
    let mut by_producer: BTreeMap<i64, Results> = BTreeMap::new();
    for marker in &request.markers {
        by_producer.entry(marker.producer_id).or_default();
        begin(broker, marker, &mut waits);
    }
    for (producer_id, topic, partition, code) in join_all(waits).await {
        let results = by_producer.entry(producer_id).or_default();
        results.entry(topic).or_default().insert(partition, code);
    }
    let markers = by_producer.into_iter().map(|(producer_id, results)| {
        let topics = results.into_iter().map(|(name, partitions)| {
            let partition = |(partition_index, error_code)| WritableTxnMarkerPartitionResult {
                partition_index,
                error_code,
            };
            let partitions = partitions.into_iter().map(partition).collect();
            WritableTxnMarkerTopicResult { name, partitions }
        });
        WritableTxnMarkerResult { producer_id, topics: topics.collect() }
    });
    WriteTxnMarkersResponse { markers: markers.collect() }
}

/// Appends one marker to all its partitions, and adds what there is to wait for.
fn begin<'a>(
    broker: &'a Broker,
    marker: &WritableTxnMarker,
    waits: &mut Vec<BoxFuture<'a, (i64, String, PartitionId, ErrorCode)>>,
) {
    let within = u64::try_from(broker.settings.net.request_timeout_ms).unwrap_or(0);
    let within = Duration::from_millis(within);
    let (producer_id, producer_epoch) = (marker.producer_id, marker.producer_epoch);
    let (commit, coordinator_epoch) = (marker.transaction_result, marker.coordinator_epoch);
    let transaction_version = i16::from(marker.transaction_version);
    let batch = EndTxnMarker { commit, coordinator_epoch }.batch(
        producer_id,
        producer_epoch,
        broker.clock.now().wall_ms,
    );
    let built = Validated::built(batch).map_err(|_| ErrorCode::UnknownServerError);
    let write = |topic: &str, partition: PartitionId| -> BoxFuture<'a, ErrorCode> {
        let Some(slot) = broker.replicas.by_name(topic, partition) else {
            return ready(ErrorCode::UnknownTopicOrPartition).boxed();
        };
        if topic == OFFSETS_TOPIC {
            let call = EndTxnCall {
                producer_id,
                producer_epoch,
                coordinator_epoch,
                commit,
                transaction_version,
            };
            return broker.groups.end_txn(partition, call).boxed();
        }
        let appended = built.as_ref().map_err(|code| *code).and_then(|batch| {
            let done = broker.replicas.append_marker(&slot, batch, transaction_version);
            done.map_err(|refusal| refusal.code)
        });
        let wait = match appended {
            Ok(Some(wait)) => wait,
            Ok(None) => return ready(ErrorCode::None).boxed(),
            Err(code) => return ready(code).boxed(),
        };
        let waited = async move {
            match timeout(within, wait).await {
                Ok(Ok(Ok(_))) => ErrorCode::None,
                Ok(Ok(Err(code))) => code,
                // The replica is gone with its waiters.
                Ok(Err(_)) => ErrorCode::NotLeaderOrFollower,
                Err(_) => ErrorCode::RequestTimedOut,
            }
        };
        waited.boxed()
    };
    for topic in &marker.topics {
        for partition in &topic.partition_indexes {
            let (name, partition) = (topic.name.clone(), *partition);
            let done = write(&name, partition);
            waits.push(done.map(move |code| (producer_id, name, partition, code)).boxed());
        }
    }
}
