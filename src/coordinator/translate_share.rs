//! What brokers ask the share coordinator, from calls to the wire's requests, and its responses back.
//! Pure.

use std::collections::BTreeMap;

use super::{
    share_calls::{ShareAsk, ShareReply},
    share_persister::{ShareKey, ShareState, ShareSummary, StateBatch},
};
use crate::{
    base::{ErrorCode, PartitionId, Uuid},
    wire::api::share_state::{
        DeleteShareGroupStateRequest, DeleteStateData, DeleteStatePartition,
        InitializeShareGroupStateRequest, InitializeStateData, InitializeStatePartition,
        ReadShareGroupStateRequest, ReadShareGroupStateResponse, ReadShareGroupStateSummaryRequest,
        ReadShareGroupStateSummaryResponse, ReadStateData, ReadStatePartition, ShareStateBatch,
        StateResult, WriteShareGroupStateRequest, WriteStateData, WriteStatePartition,
    },
};

/// One API of the share coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Initialize,
    Read,
    Write,
    Delete,
    Summary,
}

impl ShareAsk {
    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Initialize { .. } => Kind::Initialize,
            Self::Read { .. } => Kind::Read,
            Self::Write(_) => Kind::Write,
            Self::Delete => Kind::Delete,
            Self::Summary { .. } => Kind::Summary,
        }
    }
}

/// What is asked of share partitions of one group, all by one API.
pub(super) type Asks<'a> = &'a [(&'a ShareKey, &'a ShareAsk)];

/// Answers, by share partition.
pub(super) type Replies = BTreeMap<(Uuid, PartitionId), ShareReply>;

/// Topics with what `of` makes of each ask.
fn by_topic<P, T>(
    asks: Asks<'_>,
    of: impl Fn(PartitionId, &ShareAsk) -> Option<P>,
    topic: impl Fn(Uuid, Vec<P>) -> T,
) -> Vec<T> {
    let mut topics: BTreeMap<Uuid, Vec<P>> = BTreeMap::new();
    for (key, ask) in asks {
        if let Some(partition) = of(key.partition, ask) {
            topics.entry(key.topic).or_default().push(partition);
        }
    }
    topics.into_iter().map(|(id, partitions)| topic(id, partitions)).collect()
}

pub(super) fn initialize_request(group: &str, asks: Asks<'_>) -> InitializeShareGroupStateRequest {
    let of = |partition, ask: &ShareAsk| match *ask {
        ShareAsk::Initialize { state_epoch, start_offset } => {
            Some(InitializeStatePartition { partition, state_epoch, start_offset })
        }
        _ => None,
    };
    let topic = |topic_id, partitions| InitializeStateData { topic_id, partitions };
    let topics = by_topic(asks, of, topic);
    InitializeShareGroupStateRequest { group_id: group.to_owned(), topics }
}

fn read_topics(asks: Asks<'_>) -> Vec<ReadStateData> {
    let of = |partition, ask: &ShareAsk| match *ask {
        ShareAsk::Read { leader_epoch } | ShareAsk::Summary { leader_epoch } => {
            Some(ReadStatePartition { partition, leader_epoch })
        }
        _ => None,
    };
    by_topic(asks, of, |topic_id, partitions| ReadStateData { topic_id, partitions })
}

pub(super) fn read_request(group: &str, asks: Asks<'_>) -> ReadShareGroupStateRequest {
    ReadShareGroupStateRequest { group_id: group.to_owned(), topics: read_topics(asks) }
}

pub(super) fn summary_request(group: &str, asks: Asks<'_>) -> ReadShareGroupStateSummaryRequest {
    ReadShareGroupStateSummaryRequest { group_id: group.to_owned(), topics: read_topics(asks) }
}

pub(super) fn write_request(group: &str, asks: Asks<'_>) -> WriteShareGroupStateRequest {
    let of = |partition, ask: &ShareAsk| match ask {
        ShareAsk::Write(write) => Some(WriteStatePartition {
            partition,
            state_epoch: write.state_epoch,
            leader_epoch: write.leader_epoch,
            start_offset: write.start_offset,
            delivery_complete_count: write.delivery_complete,
            state_batches: write.batches.iter().map(|b| (*b).into()).collect(),
        }),
        _ => None,
    };
    let topic = |topic_id, partitions| WriteStateData { topic_id, partitions };
    WriteShareGroupStateRequest { group_id: group.to_owned(), topics: by_topic(asks, of, topic) }
}

pub(super) fn delete_request(group: &str, asks: Asks<'_>) -> DeleteShareGroupStateRequest {
    let of = |partition, _: &ShareAsk| Some(DeleteStatePartition { partition });
    let topic = |topic_id, partitions| DeleteStateData { topic_id, partitions };
    DeleteShareGroupStateRequest { group_id: group.to_owned(), topics: by_topic(asks, of, topic) }
}

const fn outcome<T>(code: ErrorCode, value: T) -> Result<T, ErrorCode>
where
    T: Copy,
{
    match code {
        ErrorCode::None => Ok(value),
        error => Err(error),
    }
}

pub(super) fn done_replies(results: Vec<StateResult>) -> Replies {
    let mut replies = Replies::new();
    for topic in results {
        for p in topic.partitions {
            let reply = ShareReply::Done(outcome(p.error_code, ()));
            replies.insert((topic.topic_id, p.partition), reply);
        }
    }
    replies
}

pub(super) fn read_replies(response: ReadShareGroupStateResponse) -> Replies {
    let mut replies = Replies::new();
    for topic in response.results {
        for p in topic.partitions {
            let state = match p.error_code {
                ErrorCode::None => Ok(ShareState {
                    state_epoch: p.state_epoch,
                    start_offset: p.start_offset,
                    batches: p.state_batches.into_iter().map(StateBatch::from).collect(),
                }),
                error => Err(error),
            };
            // Whoever uses the state relies on the order of its offsets.
            let state = state.and_then(|s| match s.batches.iter().all(StateBatch::is_sound) {
                true => Ok(s),
                false => Err(ErrorCode::UnknownServerError),
            });
            replies.insert((topic.topic_id, p.partition), ShareReply::State(state));
        }
    }
    replies
}

pub(super) fn summary_replies(response: ReadShareGroupStateSummaryResponse) -> Replies {
    let mut replies = Replies::new();
    for topic in response.results {
        for p in topic.partitions {
            let summary = ShareSummary {
                state_epoch: p.state_epoch,
                leader_epoch: p.leader_epoch,
                start_offset: p.start_offset,
                delivery_complete: p.delivery_complete_count,
            };
            let reply = ShareReply::Summary(outcome(p.error_code, summary));
            replies.insert((topic.topic_id, p.partition), reply);
        }
    }
    replies
}

impl From<StateBatch> for ShareStateBatch {
    fn from(batch: StateBatch) -> Self {
        Self {
            first_offset: batch.first,
            last_offset: batch.last,
            delivery_state: batch.state,
            delivery_count: batch.delivery_count,
        }
    }
}

impl From<ShareStateBatch> for StateBatch {
    fn from(batch: ShareStateBatch) -> Self {
        Self {
            first: batch.first_offset,
            last: batch.last_offset,
            state: batch.delivery_state,
            delivery_count: batch.delivery_count,
        }
    }
}
