//! InitializeShareGroupState, ReadShareGroupState, WriteShareGroupState, DeleteShareGroupState,
//! ReadShareGroupStateSummary: what other brokers ask this share coordinator
//! (`ShareCoordinatorService.java`). Requests without a group are answered with nothing, and so are
//! those with a topic without partitions, of which the first API only passes over that topic.

use std::future::Future;

use futures::future::join_all;

use crate::{
    base::{ErrorCode, PartitionId, Uuid},
    coordinator::share_persister::{ShareKey, ShareWrite},
    pb::controller as pb,
    server::context::{Broker, Caller},
    wire::api::share_state::{
        DeleteShareGroupStateRequest, DeleteShareGroupStateResponse,
        InitializeShareGroupStateRequest, InitializeShareGroupStateResponse,
        ReadShareGroupStateRequest, ReadShareGroupStateResponse, ReadShareGroupStateSummaryRequest,
        ReadShareGroupStateSummaryResponse, ReadStatePartitionResult, ReadStateResult,
        ReadStateSummaryPartitionResult, ReadStateSummaryResult, StatePartitionResult, StateResult,
        WriteShareGroupStateRequest, WriteShareGroupStateResponse,
    },
};

/// The topic that keeps the state of share partitions.
pub(super) const TOPIC: &str = "__share_group_state";

/// How that topic is made (`ShareCoordinatorService.shareGroupStateTopicConfigs`).
pub(super) fn topic(broker: &Broker) -> pb::CreatableTopic {
    let entry =
        |name: &str, value: String| pb::ConfigEntry { name: name.to_owned(), value: Some(value) };
    let s = &broker.settings.share_coordinator;
    pb::CreatableTopic {
        name: TOPIC.to_owned(),
        num_partitions: s.partitions,
        replication_factor: i32::from(s.replication_factor),
        assignments: Vec::new(),
        configs: vec![
            entry("cleanup.policy", "delete".to_owned()),
            entry("compression.type", "producer".to_owned()),
            entry("segment.bytes", s.segment_bytes.to_string()),
            entry("min.insync.replicas", s.min_insync_replicas.to_string()),
            entry("retention.ms", "-1".to_owned()),
        ],
    }
}

/// Asks about all partitions of all topics at once, and gives the answers in the request's order.
async fn each<P, R, F: Future<Output = R>>(
    group: &str,
    topics: Vec<(Uuid, Vec<P>)>,
    partition: impl Fn(&P) -> PartitionId,
    ask: impl Fn(ShareKey, P) -> F,
) -> Vec<(Uuid, Vec<R>)> {
    if group.is_empty() {
        return Vec::new();
    }
    let topics = topics.into_iter().map(|(topic, partitions)| {
        let asks = partitions.into_iter().map(|p| {
            let key = ShareKey { group: group.into(), topic, partition: partition(&p) };
            ask(key, p)
        });
        let asks = join_all(asks);
        async move { (topic, asks.await) }
    });
    join_all(topics).await
}

fn outcome(partition: PartitionId, done: Result<(), ErrorCode>) -> StatePartitionResult {
    StatePartitionResult {
        partition,
        error_code: done.err().unwrap_or(ErrorCode::None),
        error_message: None,
    }
}

fn outcomes(results: Vec<(Uuid, Vec<StatePartitionResult>)>) -> Vec<StateResult> {
    results.into_iter().map(|(topic_id, partitions)| StateResult { topic_id, partitions }).collect()
}

/// InitializeShareGroupState.
pub(crate) async fn initialize(
    broker: &Broker,
    _caller: &Caller,
    request: InitializeShareGroupStateRequest,
) -> InitializeShareGroupStateResponse {
    let topics = request.topics.into_iter().filter(|t| !t.partitions.is_empty());
    let results = each(
        &request.group_id,
        topics.map(|t| (t.topic_id, t.partitions)).collect(),
        |p| p.partition,
        async |key, p| {
            let done = broker.share_states.initialize(key, p.state_epoch, p.start_offset).await;
            outcome(p.partition, done)
        },
    );
    InitializeShareGroupStateResponse { results: outcomes(results.await) }
}

/// Whether a topic comes without partitions: then nothing is done at all.
fn any_is_empty<P>(topics: &[(Uuid, Vec<P>)]) -> bool {
    topics.iter().any(|(_, partitions)| partitions.is_empty())
}

/// ReadShareGroupState.
pub(crate) async fn read(
    broker: &Broker,
    _caller: &Caller,
    request: ReadShareGroupStateRequest,
) -> ReadShareGroupStateResponse {
    let topics: Vec<_> = request.topics.into_iter().map(|t| (t.topic_id, t.partitions)).collect();
    if any_is_empty(&topics) {
        return ReadShareGroupStateResponse::default();
    }
    let results = each(
        &request.group_id,
        topics,
        |p| p.partition,
        async |key, p| match broker.share_states.read(key, p.leader_epoch).await {
            Ok(state) => ReadStatePartitionResult {
                partition: p.partition,
                error_code: ErrorCode::None,
                error_message: None,
                state_epoch: state.state_epoch,
                start_offset: state.start_offset,
                state_batches: state.batches.into_iter().map(Into::into).collect(),
            },
            Err(error_code) => ReadStatePartitionResult {
                partition: p.partition,
                error_code,
                ..Default::default()
            },
        },
    );
    let results = results.await.into_iter();
    let results = results.map(|(topic_id, partitions)| ReadStateResult { topic_id, partitions });
    ReadShareGroupStateResponse { results: results.collect() }
}

/// WriteShareGroupState.
pub(crate) async fn write(
    broker: &Broker,
    _caller: &Caller,
    request: WriteShareGroupStateRequest,
) -> WriteShareGroupStateResponse {
    let topics: Vec<_> = request.topics.into_iter().map(|t| (t.topic_id, t.partitions)).collect();
    if any_is_empty(&topics) {
        return WriteShareGroupStateResponse::default();
    }
    let results = each(
        &request.group_id,
        topics,
        |p| p.partition,
        async |key, p| {
            let write = ShareWrite {
                state_epoch: p.state_epoch,
                leader_epoch: p.leader_epoch,
                start_offset: p.start_offset,
                delivery_complete: p.delivery_complete_count,
                batches: p.state_batches.into_iter().map(Into::into).collect(),
            };
            outcome(p.partition, broker.share_states.write(key, write).await)
        },
    );
    WriteShareGroupStateResponse { results: outcomes(results.await) }
}

/// DeleteShareGroupState.
pub(crate) async fn delete(
    broker: &Broker,
    _caller: &Caller,
    request: DeleteShareGroupStateRequest,
) -> DeleteShareGroupStateResponse {
    let topics: Vec<_> = request.topics.into_iter().map(|t| (t.topic_id, t.partitions)).collect();
    if any_is_empty(&topics) {
        return DeleteShareGroupStateResponse::default();
    }
    let results = each(
        &request.group_id,
        topics,
        |p| p.partition,
        async |key, p| outcome(p.partition, broker.share_states.delete(key).await),
    );
    DeleteShareGroupStateResponse { results: outcomes(results.await) }
}

/// ReadShareGroupStateSummary.
pub(crate) async fn summary(
    broker: &Broker,
    _caller: &Caller,
    request: ReadShareGroupStateSummaryRequest,
) -> ReadShareGroupStateSummaryResponse {
    let topics: Vec<_> = request.topics.into_iter().map(|t| (t.topic_id, t.partitions)).collect();
    if any_is_empty(&topics) {
        return ReadShareGroupStateSummaryResponse::default();
    }
    let results = each(
        &request.group_id,
        topics,
        |p| p.partition,
        async |key, p| match broker.share_states.summary(key, p.leader_epoch).await {
            Ok(summary) => ReadStateSummaryPartitionResult {
                partition: p.partition,
                error_code: ErrorCode::None,
                error_message: None,
                state_epoch: summary.state_epoch,
                leader_epoch: summary.leader_epoch,
                start_offset: summary.start_offset,
                delivery_complete_count: summary.delivery_complete,
            },
            Err(error_code) => ReadStateSummaryPartitionResult {
                partition: p.partition,
                error_code,
                ..Default::default()
            },
        },
    );
    let results = results.await.into_iter();
    let results =
        results.map(|(topic_id, partitions)| ReadStateSummaryResult { topic_id, partitions });
    ReadShareGroupStateSummaryResponse { results: results.collect() }
}
