//! Where the state of share partitions is kept (KIP-932, `Persister.java`): which records of a
//! partition a share group has acquired, given back or finished with. The share coordinator keeps
//! it in `__share_group_state`; leaders of share partitions and the group coordinator reach it
//! through [`SharePersister`].

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;

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
