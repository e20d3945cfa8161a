//! What consumer groups are asked and answer (KIP-848), beside the calls of classic groups. Pure.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    calls::Client,
    consumer_records::{Epochs, Partitions, ResolvedRegex},
};
use crate::base::ErrorCode;

/// ConsumerGroupHeartbeat. Absent values have not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerHeartbeatCall {
    /// Not empty.
    pub group: Arc<str>,
    /// The client that asks.
    pub client: Client,
    /// Empty in version 0 for a member that has no id yet.
    pub member_id: Arc<str>,
    /// 0 joins, -1 leaves, -2 leaves for a while.
    pub epoch: i32,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack: Option<Arc<str>>,
    /// In milliseconds.
    pub rebalance_timeout_ms: Option<i32>,
    /// Topics by name.
    pub topics: Option<BTreeSet<Arc<str>>>,
    /// Topics by regular expression; empty for none.
    pub regex: Option<Arc<str>>,
    /// One that the broker offers.
    pub assignor: Option<Arc<str>>,
    /// What the member has.
    pub owned: Option<Partitions>,
    /// Random bytes for a member id; a machine draws none itself.
    pub unique: [u8; 16],
}

/// The answer to ConsumerGroupHeartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerHeartbeatReply {
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
    /// What the member may use; `None` if that has not changed.
    pub assignment: Option<Partitions>,
}

impl ConsumerHeartbeatReply {
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

/// A consumer group in full. Topics are by id; names are the reader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConsumerGroup {
    /// Its id.
    pub group: Arc<str>,
    /// As Kafka spells it.
    pub state: &'static str,
    /// The group's epoch.
    pub epoch: i32,
    /// The epoch of the target; -1 if there is none.
    pub target_epoch: i32,
    /// What most members want, or the broker's default.
    pub assignor: Arc<str>,
    /// By member id.
    pub members: Vec<DescribedConsumer>,
}

/// A member of a [`DescribedConsumerGroup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedConsumer {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack: Option<Arc<str>>,
    /// The epoch it is at.
    pub epoch: i32,
    /// Where it connects from.
    pub client: Client,
    /// Topics by name.
    pub topics: BTreeSet<Arc<str>>,
    /// Topics by regular expression.
    pub regex: Option<Arc<str>>,
    /// What it has.
    pub assigned: Epochs,
    /// What it has yet to give back.
    pub revoking: Epochs,
    /// What it shall have.
    pub target: Arc<Partitions>,
    /// Whether it speaks the classic protocol.
    pub classic: bool,
}

/// Why the epoch of a group grew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebalance {
    /// The group.
    pub group: Arc<str>,
    /// The new epoch, or the generation of a classic group.
    pub epoch: i32,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The member that was the cause; `None` if it was the cluster's metadata.
    pub member: Option<Arc<str>>,
    /// What happened.
    pub why: &'static str,
}

/// Regular expressions that a group asks to be looked up, and the answer.
pub type Regexes = BTreeSet<Arc<str>>;

/// The topics that each stands for.
pub type ResolvedRegexes = Vec<(Arc<str>, ResolvedRegex)>;

/// Topics of the cluster that changed, for [`super::shard::Shard::metadata_changed`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedTopics {
    /// Names of topics that are new, gone, or have other partitions than before.
    pub names: BTreeSet<Arc<str>>,
    /// Whether there are new ones.
    pub created: bool,
}
