//! What share groups are asked and answer (KIP-932), beside the calls of other groups. Pure.

use std::{collections::BTreeSet, sync::Arc};

use super::{calls::Client, consumer_records::Partitions};
use crate::base::{ErrorCode, Offset, PartitionId, Uuid};

/// ShareGroupHeartbeat. Absent values have not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareHeartbeatCall {
    /// Not empty.
    pub group: Arc<str>,
    /// The client that asks.
    pub client: Client,
    /// Made by the client; not empty.
    pub member_id: Arc<str>,
    /// 0 joins, -1 leaves.
    pub epoch: i32,
    /// `client.rack`.
    pub rack: Option<Arc<str>>,
    /// Topics by name.
    pub topics: Option<BTreeSet<Arc<str>>>,
}

/// The answer to ShareGroupHeartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareHeartbeatReply {
    /// `None` if the member is in.
    pub error: ErrorCode,
    /// Why, in words.
    pub message: Option<String>,
    /// `None` with an error.
    pub member_id: Option<Arc<str>>,
    /// The epoch that the member is at.
    pub epoch: i32,
    /// When to call again, in milliseconds; 0 to one that left.
    pub heartbeat_interval_ms: i32,
    /// What the member may read; `None` if that has not changed.
    pub assignment: Option<Arc<Partitions>>,
}

impl ShareHeartbeatReply {
    /// A refusal.
    #[must_use]
    pub const fn error(error: ErrorCode, message: Option<String>) -> Self {
        Self {
            error,
            message,
            member_id: None,
            epoch: 0,
            heartbeat_interval_ms: 0,
            assignment: None,
        }
    }
}

/// A share group in full. Topics are by id; names are the reader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedShareGroup {
    /// Its id.
    pub group: Arc<str>,
    /// As Kafka spells it.
    pub state: &'static str,
    /// The group's epoch.
    pub epoch: i32,
    /// The epoch of the target; -1 if there is none.
    pub target_epoch: i32,
    /// By member id.
    pub members: Vec<DescribedShareMember>,
}

/// A member of a [`DescribedShareGroup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedShareMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// `client.rack`.
    pub rack: Option<Arc<str>>,
    /// The epoch it is at.
    pub epoch: i32,
    /// Where it connects from.
    pub client: Client,
    /// Topics by name.
    pub topics: BTreeSet<Arc<str>>,
    /// What it has.
    pub assigned: Arc<Partitions>,
}

/// AlterShareGroupOffsets, for topics that exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterShareOffsetsCall {
    /// Not empty.
    pub group: Arc<str>,
    /// Partitions that exist, each once, and where they shall start.
    pub offsets: Vec<(Uuid, PartitionId, Offset)>,
}

/// The answer to AlterShareGroupOffsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterShareOffsetsReply {
    /// Of the request as a whole; `codes` is then empty.
    pub error: ErrorCode,
    /// Why, in words.
    pub message: Option<String>,
    /// A code for each of [`AlterShareOffsetsCall::offsets`], in that order.
    pub codes: Vec<ErrorCode>,
}

impl AlterShareOffsetsReply {
    /// A refusal.
    #[must_use]
    pub const fn error(error: ErrorCode, message: Option<String>) -> Self {
        Self { error, message, codes: Vec::new() }
    }
}

/// DeleteShareGroupOffsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteShareOffsetsCall {
    /// Not empty.
    pub group: Arc<str>,
    /// By name, each once.
    pub topics: Vec<Arc<str>>,
}

/// The id of a topic, and those of its partitions that the share coordinators keep state of.
pub type Kept = (Uuid, BTreeSet<PartitionId>);

/// What the share coordinators have to forget before offsets are deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteShareOffsetsReply {
    /// Of the request as a whole; `topics` is then empty.
    pub error: ErrorCode,
    /// Why, in words.
    pub message: Option<String>,
    /// For each topic of the call what is to be forgotten, or `None` if nothing is kept of it.
    pub topics: Vec<(Arc<str>, Option<Kept>)>,
}

impl DeleteShareOffsetsReply {
    /// A refusal.
    #[must_use]
    pub const fn error(error: ErrorCode, message: Option<String>) -> Self {
        Self { error, message, topics: Vec::new() }
    }
}

/// For each share group that is to be deleted, the partitions that the share coordinators have to
/// forget first, or why it cannot be.
pub type ShareDeletions = Vec<(Arc<str>, Result<Partitions, ErrorCode>)>;

/// Partitions that the share coordinators are asked to set anew, for
/// [`super::shard::Shard::shares_initialized`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareInitialization {
    /// Given back with the result.
    pub id: u64,
    /// The group.
    pub group: Arc<str>,
    /// The group's epoch.
    pub state_epoch: i32,
    /// Where to start: -1 if `share.auto.offset.reset` decides. Not empty.
    pub offsets: Vec<(Uuid, PartitionId, Offset)>,
}
