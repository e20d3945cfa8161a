//! Where the state of share partitions is kept (KIP-932, `Persister.java`): which records of a
//! partition a share group has acquired, given back or finished with. The share coordinator keeps
//! it in `__share_group_state`; leaders of share partitions and the group coordinator reach it
//! through [`SharePersister`].

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;

use super::table::partition_for;
use crate::base::{ErrorCode, Offset, PartitionId, Uuid};

/// One partition as one share group consumes it (`SharePartitionKey.java`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareKey {
    /// The share group.
    pub group: Arc<str>,
    /// The topic's id.
    pub topic: Uuid,
    /// The partition of the topic.
    pub partition: PartitionId,
}

/// Records in a row with one delivery state (`PersisterStateBatch.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateBatch {
    /// Offset of the first record.
    pub first: Offset,
    /// Offset of the last record, inclusive and not below `first`.
    pub last: Offset,
    /// `RecordState.java`: 0 available, 2 acknowledged, 4 archived; never 1 (acquired).
    pub state: i8,
    /// How often the records have been handed out.
    pub delivery_count: i16,
}

impl ShareKey {
    /// The partition of `__share_group_state`, of `count`, that keeps this share partition: by the
    /// text `group:topicId:partition`, as groups are placed by their name.
    #[must_use]
    pub fn state_partition(&self, count: i32) -> PartitionId {
        let Self { group, topic, partition } = self;
        partition_for(&format!("{group}:{topic}:{partition}"), count)
    }

    /// Reads `group:topicId:partition`, as FindCoordinator has it; the group may contain colons.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // Java's split drops empty parts at the end.
        let mut parts = text.trim_end_matches(':').rsplitn(3, ':');
        let partition = parts.next()?.parse().ok()?;
        let topic = parts.next()?.parse().ok()?;
        let group = parts.next()?;
        // A trimmed text in Java is one without characters up to the space at its ends.
        let blank = group.chars().all(|c| c <= ' ');
        (!blank).then(|| Self { group: group.into(), topic, partition })
    }
}

impl StateBatch {
    /// Whether the offsets are in order.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        0 <= self.first && self.first <= self.last
    }
}

/// What is kept of a share partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareState {
    /// Raised each time the state is set anew (initialization, altered offsets).
    pub state_epoch: i32,
    /// The share-partition start offset; -1 while none is known and `share.auto.offset.reset` decides.
    pub start_offset: Offset,
    /// Batches at or above the start offset, in order, not overlapping.
    pub batches: Vec<StateBatch>,
}

/// The short form of a share partition's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareSummary {
    /// As in [`ShareState`].
    pub state_epoch: i32,
    /// The leader epoch of the last leader that read or wrote the state.
    pub leader_epoch: i32,
    /// As in [`ShareState`]; -1 if nothing is kept.
    pub start_offset: Offset,
    /// Records at or above the start offset that are finished with (KIP-1226); -1 if unknown.
    pub delivery_complete: i32,
}

/// What a leader of a share partition adds to its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareWrite {
    /// The state epoch that the leader has read; a stale one is refused.
    pub state_epoch: i32,
    /// The leader epoch of the partition; a stale one is refused.
    pub leader_epoch: i32,
    /// The new start offset, or -1 to leave it.
    pub start_offset: Offset,
    /// As in [`ShareSummary`].
    pub delivery_complete: i32,
    /// The batches that changed.
    pub batches: Vec<StateBatch>,
}

/// The way to the share coordinators of all share partitions. Calls find the coordinator, try again
/// on passing failures for a bounded time, and put what waits for one broker into one request.
///
/// Errors of all: `CoordinatorNotAvailable`, `CoordinatorLoadInProgress`, `NotCoordinator` when no
/// coordinator could be reached in time; `FencedStateEpoch`, `FencedLeaderEpoch`,
/// `UnknownTopicOrPartition`, `GroupIdNotFound`, `InvalidRequest` as the coordinator says.
pub trait SharePersister: Send + Sync + fmt::Debug {
    /// Sets the state anew: `start_offset` (-1: not known) and no batches.
    fn initialize(
        &self,
        key: ShareKey,
        state_epoch: i32,
        start_offset: Offset,
    ) -> BoxFuture<'static, Result<(), ErrorCode>>;

    /// The state, for the leader of the partition in `leader_epoch`; writers of older epochs are
    /// fenced from then on.
    fn read(
        &self,
        key: ShareKey,
        leader_epoch: i32,
    ) -> BoxFuture<'static, Result<ShareState, ErrorCode>>;

    /// Adds to the state; durable when it answers.
    fn write(&self, key: ShareKey, write: ShareWrite) -> BoxFuture<'static, Result<(), ErrorCode>>;

    /// Forgets the state.
    fn delete(&self, key: ShareKey) -> BoxFuture<'static, Result<(), ErrorCode>>;

    /// The short form; fences nobody.
    fn summary(
        &self,
        key: ShareKey,
        leader_epoch: i32,
    ) -> BoxFuture<'static, Result<ShareSummary, ErrorCode>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_from_the_right() {
        let id = "AAAAAAAAAAAAAAAAAAAABA";
        let topic: Uuid = id.parse().unwrap();
        let key = |group: &str| ShareKey { group: group.into(), topic, partition: 7 };
        assert_eq!(ShareKey::parse(&format!("g:{id}:7")), Some(key("g")));
        assert_eq!(ShareKey::parse(&format!("a:b::{id}:7:")), Some(key("a:b:")));
        for bad in ["", "g", "g:7", ":x:7", "g:x:7"] {
            assert_eq!(ShareKey::parse(bad), None, "{bad}");
        }
        for bad in [format!(" :{id}:7"), format!("g:{id}:x"), format!("{id}:7")] {
            assert_eq!(ShareKey::parse(&bad), None, "{bad}");
        }
        assert_eq!(key("g").state_partition(50), partition_for(&format!("g:{id}:7"), 50));
    }
}
