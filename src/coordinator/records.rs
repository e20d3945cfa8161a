//! The records of `__consumer_offsets` (`OffsetCommit{Key,Value}.json`, `GroupMetadata{Key,
//! Value}.json`): keys of types 0 to 2, values of versions 0 to 4, byte for byte Kafka's. Pure.
//!
//! Decoding never allocates more than the bytes at hand, and a key of a type that is not known here
//! (KIP-848 groups and others) is told apart from a damaged one.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::{PartitionId, Uuid};

/// One change of a group's durable state; no value means that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A committed offset.
    Offset {
        /// The group.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's number.
        partition: PartitionId,
        /// What was committed.
        value: Option<OffsetAndMetadata>,
    },
    /// A classic group as a whole.
    Group {
        /// The group.
        group: Arc<str>,
        /// Its state.
        value: Option<GroupMetadata>,
    },
}

/// A committed offset (`OffsetCommitValue`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read; -1 if unknown.
    pub leader_epoch: i32,
    /// Kept for the client.
    pub metadata: Arc<str>,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub commit_ms: i64,
    /// When it expires, if the client said so (OffsetCommit 2 to 4).
    pub expire_ms: Option<i64>,
    /// The topic's id; zero if unknown.
    pub topic_id: Uuid,
}

/// A classic group (`GroupMetadataValue`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadata {
    /// Empty for a group without membership.
    pub protocol_type: Arc<str>,
    /// Joins completed so far.
    pub generation: i32,
    /// The chosen protocol.
    pub protocol: Option<Arc<str>>,
    /// Member id of the leader.
    pub leader: Option<Arc<str>>,
    /// When the group entered its state, in milliseconds since the Unix epoch; -1 if unknown.
    pub state_since_ms: i64,
    /// The members, by id.
    pub members: Vec<MemberMetadata>,
}

/// A member of a classic group (`MemberMetadata`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberMetadata {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub client_host: Arc<str>,
    /// In milliseconds; -1 in version 0.
    pub rebalance_timeout_ms: i32,
    /// In milliseconds.
    pub session_timeout_ms: i32,
    /// What it said under the chosen protocol.
    pub subscription: Bytes,
    /// What it was given.
    pub assignment: Bytes,
}
