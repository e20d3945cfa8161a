//! A fetcher's questions and answers as messages: Fetch within a session, and ListOffsets for a
//! partition that is out of its leader's range (`RemoteLeaderEndPoint.scala`). Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    fetch_plan::{Ask, Key},
    follower::{FetchPosition, FetchedPartition},
};
use crate::{
    base::{LeaderEpoch, NodeId, PartitionId},
    log::EpochEnd,
    wire::api::{
        fetch::{
            FetchPartition, FetchRequest, FetchTopic, ForgottenTopic, PartitionData, ReplicaState,
        },
        offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
    },
};

/// The version of Fetch between brokers: topic ids, the replica's epoch, its directory.
pub const FETCH_VERSION: i16 = 17;
/// The version of ListOffsets between brokers.
pub const LIST_OFFSETS_VERSION: i16 = 9;

/// How much is asked for at once, and how long the leader may wait for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchSize {
    /// `replica.fetch.max.bytes`: most bytes of one partition.
    pub partition_bytes_max: i32,
    /// `replica.fetch.response.max.bytes`: most bytes of an answer, unless one batch has more.
    pub response_bytes_max: i32,
    /// `replica.fetch.min.bytes`.
    pub bytes_min: i32,
    /// `replica.fetch.wait.max.ms`.
    pub wait_ms_max: i32,
}

/// Which replica asks: this broker under its epoch, -1 before it is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// This broker.
    pub node_id: NodeId,
    /// Its epoch.
    pub broker_epoch: i64,
}

/// The end of a leader's log that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The log end offset.
    Latest,
    /// The log start offset.
    Earliest,
}

/// A partition whose leader's bounds are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedBounds {
    /// The partition.
    pub key: Key,
    /// Its topic's name.
    pub topic: Arc<str>,
    /// The leader epoch it is asked under.
    pub leader_epoch: LeaderEpoch,
}

/// `ask` as a request.
#[must_use]
pub fn fetch_request(ask: &Ask, asker: Asker, size: FetchSize) -> FetchRequest {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for ((topic_id, partition), position) in &ask.wanted {
        if topics.last().is_none_or(|t| t.topic_id != *topic_id) {
            topics.push(FetchTopic { topic_id: *topic_id, ..FetchTopic::default() });
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(fetch_partition(*partition, position, size));
        }
    }
    let mut forgotten: Vec<ForgottenTopic> = Vec::new();
    for (topic_id, partition) in &ask.forgotten {
        if forgotten.last().is_none_or(|t| t.topic_id != *topic_id) {
            forgotten.push(ForgottenTopic { topic_id: *topic_id, ..ForgottenTopic::default() });
        }
        if let Some(topic) = forgotten.last_mut() {
            topic.partitions.push(*partition);
        }
    }
    FetchRequest {
        replica_state: ReplicaState {
            replica_id: asker.node_id.0,
            replica_epoch: asker.broker_epoch,
        },
        max_wait_ms: size.wait_ms_max,
        min_bytes: size.bytes_min,
        max_bytes: size.response_bytes_max,
        session_id: ask.session_id,
        session_epoch: ask.session_epoch,
        topics,
        forgotten_topics_data: forgotten,
        ..FetchRequest::default()
    }
}

fn fetch_partition(partition: PartitionId, at: &FetchPosition, size: FetchSize) -> FetchPartition {
    FetchPartition {
        partition,
        current_leader_epoch: at.current_leader_epoch,
        fetch_offset: at.offset,
        last_fetched_epoch: at.last_fetched_epoch,
        log_start_offset: at.log_start,
        partition_max_bytes: size.partition_bytes_max,
        ..FetchPartition::default()
    }
}

/// What the leader answered to `asked`.
#[must_use]
pub fn fetched(asked: &FetchPosition, data: &PartitionData) -> FetchedPartition {
    let at = &data.diverging_epoch;
    FetchedPartition {
        fetch_offset: asked.offset,
        leader_epoch: asked.current_leader_epoch,
        error: data.error_code,
        high_watermark: data.high_watermark,
        log_start: data.log_start_offset,
        diverging: (at.epoch >= 0).then_some(EpochEnd { epoch: at.epoch, end: at.end_offset }),
        records: data.records.bytes().map_or_else(Bytes::new, Bytes::clone),
    }
}

/// Asks where the leader's logs of `asked` end or begin. `asked` is in the order of its keys.
#[must_use]
pub fn bounds_request(asked: &[AskedBounds], bound: Bound, asker: Asker) -> ListOffsetsRequest {
    let mut topics: Vec<ListOffsetsTopic> = Vec::new();
    for a in asked {
        if topics.last().is_none_or(|t| *t.name != *a.topic) {
            topics.push(ListOffsetsTopic { name: a.topic.to_string(), partitions: Vec::new() });
        }
        if let Some(topic) = topics.last_mut() {
            topic.partitions.push(ListOffsetsPartition {
                partition_index: a.key.1,
                current_leader_epoch: a.leader_epoch,
                timestamp: match bound {
                    Bound::Latest => -1,
                    Bound::Earliest => -2,
                },
            });
        }
    }
    ListOffsetsRequest { replica_id: asker.node_id.0, topics, ..ListOffsetsRequest::default() }
}

/// Which of `fetchers` fetches a partition: the one that Kafka's would
/// (`AbstractFetcherManager.getFetcherId`).
#[must_use]
pub fn fetcher_of(topic: &str, partition: PartitionId, fetchers: usize) -> usize {
    let hash = topic
        .encode_utf16()
        .fold(0_i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let hash = hash.wrapping_mul(31).wrapping_add(partition);
    // Kafka's `abs` of the lowest number is 0.
    let hash = usize::try_from(hash.checked_abs().unwrap_or(0)).unwrap_or(0);
    hash % fetchers.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Uuid;

    #[test]
    fn partitions_stand_under_their_topics() {
        let at = |offset| FetchPosition {
            offset,
            last_fetched_epoch: 3,
            current_leader_epoch: 4,
            log_start: 2,
        };
        let (a, b) = (Uuid([1; 16]), Uuid([2; 16]));
        let ask = Ask {
            number: 1,
            session_id: 9,
            session_epoch: 5,
            wanted: vec![((a, 0), at(10)), ((a, 3), at(11)), ((b, 1), at(12))],
            forgotten: vec![(a, 7), (b, 8), (b, 9)],
        };
        let asker = Asker { node_id: NodeId(6), broker_epoch: 77 };
        let size = FetchSize {
            partition_bytes_max: 100,
            response_bytes_max: 1000,
            bytes_min: 1,
            wait_ms_max: 500,
        };
        let got = fetch_request(&ask, asker, size);
        assert_eq!((got.session_id, got.session_epoch), (9, 5));
        let state = &got.replica_state;
        assert_eq!((state.replica_id, state.replica_epoch), (6, 77));
        assert_eq!((got.max_bytes, got.min_bytes, got.max_wait_ms), (1000, 1, 500));
        let topics: Vec<_> = got.topics.iter().map(|t| (t.topic_id, t.partitions.len())).collect();
        assert_eq!(topics, [(a, 2), (b, 1)]);
        let one = &got.topics[0].partitions[1];
        assert_eq!((one.partition, one.fetch_offset, one.log_start_offset), (3, 11, 2));
        assert_eq!((one.last_fetched_epoch, one.current_leader_epoch), (3, 4));
        let forgotten = got.forgotten_topics_data.iter();
        let forgotten: Vec<_> = forgotten.map(|t| (t.topic_id, &t.partitions[..])).collect();
        assert_eq!(forgotten, [(a, &[7][..]), (b, &[8, 9])]);
    }

    #[test]
    fn fetchers_are_chosen_as_kafka_does() {
        // What Java computes for the partitions 0, 2 and 5, of 7 and of 4 fetchers.
        for (topic, of_7, of_4) in [
            ("test-topic", [4, 2, 6], [0, 2, 3]),
            ("orders", [6, 4, 1], [1, 3, 0]),
            ("täglich", [4, 2, 6], [1, 3, 0]),
        ] {
            assert_eq!([0, 2, 5].map(|p| fetcher_of(topic, p, 7)), of_7, "{topic}");
            assert_eq!([0, 2, 5].map(|p| fetcher_of(topic, p, 4)), of_4, "{topic}");
        }
        assert_eq!(fetcher_of("", 0, 0), 0);
    }
}
