//! What goes into a shard and what comes out: calls, replies, effects. They stand between the wire
//! and the machine, so that the machine knows no API version but the few that change its rules.
//! Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    calls_consumer::{ConsumerHeartbeatCall, ConsumerHeartbeatReply, Rebalance, Regexes},
    calls_share_groups::{
        AlterShareOffsetsCall, AlterShareOffsetsReply, DeleteShareOffsetsCall,
        DeleteShareOffsetsReply, ShareDeletions, ShareHeartbeatCall, ShareHeartbeatReply,
        ShareInitialization,
    },
    records::Record,
};
use crate::{
    base::{ErrorCode, PartitionId, Uuid},
    metadata::Image,
    replica::txn::{Origin, VerificationGuard},
};

/// Names one caller that waits for one reply.
pub type Token = u64;
/// Names one append between the shard and its driver.
pub type Ticket = u64;
/// A code for each partition, in the order they were named.
pub type Codes = Vec<(PartitionId, ErrorCode)>;

/// Who sends a request, as group descriptions show it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Client {
    /// `client.id`; may be empty.
    pub id: Arc<str>,
    /// The peer's address as Java prints it: `/127.0.0.1`.
    pub host: Arc<str>,
}

/// A request to one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// JoinGroup.
    Join(JoinCall),
    /// SyncGroup.
    Sync(SyncCall),
    /// Heartbeat.
    Heartbeat(HeartbeatCall),
    /// LeaveGroup.
    Leave(LeaveCall),
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(Box<ConsumerHeartbeatCall>),
    /// OffsetCommit.
    Commit(CommitCall),
    /// OffsetFetch, one group of it.
    Fetch(FetchCall),
    /// DeleteGroups, those of this shard.
    DeleteGroups(Vec<Arc<str>>),
    /// OffsetDelete.
    DeleteOffsets(DeleteOffsetsCall),
    /// These topics are gone: their offsets go too.
    TopicsDeleted(Vec<(Arc<str>, Uuid)>),
    /// TxnOffsetCommit; answered as OffsetCommit is.
    TxnCommit(TxnCommitCall),
    /// WriteTxnMarkers, for this partition.
    EndTxn(EndTxnCall),
    /// ShareGroupHeartbeat.
    ShareHeartbeat(Box<ShareHeartbeatCall>),
    /// AlterShareGroupOffsets; answered when the share coordinators have done it.
    AlterShareOffsets(AlterShareOffsetsCall),
    /// DeleteShareGroupOffsets, before the share coordinators are asked.
    DeleteShareOffsets(DeleteShareOffsetsCall),
    /// The share coordinators have forgotten these topics of a group.
    ShareOffsetsDeleted(Arc<str>, Vec<Uuid>),
    /// DeleteGroups, before the share coordinators are asked.
    BeginShareDeletions(Vec<Arc<str>>),
}

/// One protocol a member offers, with what it says about itself under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// For consumers the assignor, such as `range`.
    pub name: Arc<str>,
    /// For consumers the subscription (`ConsumerProtocolSubscription`).
    pub metadata: Bytes,
}

/// JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinCall {
    /// Not empty.
    pub group: Arc<str>,
    /// The client that asks.
    pub client: Client,
    /// Empty for a member that has no id yet.
    pub member_id: Arc<str>,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// `consumer`, `connect`, …
    pub protocol_type: Arc<str>,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    /// Within the configured bounds.
    pub session_timeout_ms: i32,
    /// How long the member may take to rejoin.
    pub rebalance_timeout_ms: i32,
    /// From version 4 a dynamic member must come back with the id it is given (KIP-394).
    pub must_know_id: bool,
    /// From version 9 a returning leader can be told to skip the assignment (KIP-814).
    pub can_skip_assignment: bool,
    /// Random bytes for the new member's id; a machine draws none itself.
    pub unique: [u8; 16],
}

/// SyncGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncCall {
    /// Not empty.
    pub group: Arc<str>,
    /// Of the join that the caller was answered with.
    pub generation: i32,
    /// The caller.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Checked if given (version 5).
    pub protocol_type: Option<Arc<str>>,
    /// Checked if given (version 5).
    pub protocol: Option<Arc<str>>,
    /// From the leader: what each member gets.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// Heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatCall {
    /// Not empty.
    pub group: Arc<str>,
    /// The generation the caller lives in.
    pub generation: i32,
    /// The caller.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
}

/// LeaveGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveCall {
    /// Not empty.
    pub group: Arc<str>,
    /// Who leaves: a member id, or an empty one and an instance id (admin removal).
    pub members: Vec<Leaving>,
}

/// One member that leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// May be empty if the instance id is given.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
}

/// OffsetCommit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitCall {
    /// May be empty.
    pub group: Arc<str>,
    /// -1 for a client that uses no group membership.
    pub generation: i32,
    /// Empty without membership.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// From versions 2 to 4: how long the offsets are to live; `None` for the broker's rule.
    pub retention_ms: Option<i64>,
    /// From version 9 an unknown group is `GroupIdNotFound`, before it `IllegalGeneration`.
    pub knows_group_id_not_found: bool,
    /// What to commit. Names and ids are resolved, and the partitions exist.
    pub topics: Vec<CommitTopic>,
}

/// TxnOffsetCommit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnCommitCall {
    /// The producer whose transaction it is.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// The word of the transaction's coordinator, where the transaction begins in this partition.
    pub guard: Option<VerificationGuard>,
    /// What to commit; the group is not empty.
    pub commit: CommitCall,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTxnCall {
    /// The producer whose transaction it is.
    pub producer_id: i64,
    /// The epoch of the marker.
    pub producer_epoch: i16,
    /// The leader epoch of the transaction's coordinator.
    pub coordinator_epoch: i32,
    /// Whether it is committed, else aborted.
    pub commit: bool,
    /// `transaction.version` of the transaction.
    pub transaction_version: i16,
}

/// What one producer's transaction has written into a shard's partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnWrite {
    /// Offsets, as a transactional batch.
    Offsets {
        /// The producer.
        producer_id: i64,
        /// Its epoch.
        producer_epoch: i16,
        /// As in [`TxnCommitCall`].
        guard: Option<VerificationGuard>,
        /// Not empty.
        records: Arc<[Record]>,
    },
    /// The marker.
    End(EndTxnCall),
}

impl TxnWrite {
    /// What the log is told about it.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        match self {
            Self::Offsets { guard, .. } => Origin::Group(*guard),
            Self::End(call) => Origin::Marker { transaction_version: call.transaction_version },
        }
    }
}

/// The offsets of one topic to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitTopic {
    /// The topic's name.
    pub name: Arc<str>,
    /// The topic's id; zero if unknown.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<CommitPartition>,
}

/// One offset to commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPartition {
    /// The partition's number.
    pub partition: PartitionId,
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read; -1 if unknown.
    pub leader_epoch: i32,
    /// What the client wants kept beside it.
    pub metadata: Arc<str>,
}

/// OffsetFetch of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchCall {
    /// May be empty.
    pub group: Arc<str>,
    /// The member that asks, by the version that says so.
    pub member_id: Option<Arc<str>>,
    /// The epoch it is at; -1 if it does not say.
    pub member_epoch: i32,
    /// `None`: all that the group has.
    pub topics: Option<Vec<FetchTopic>>,
    /// Read what was written last and answer once that is committed (KIP-447).
    pub require_stable: bool,
}

/// The partitions of one topic whose offsets are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchTopic {
    /// The topic's name.
    pub name: Arc<str>,
    /// Zero in versions that carry names; otherwise an offset of another incarnation is not given.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<PartitionId>,
}

/// OffsetDelete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteOffsetsCall {
    /// Not empty.
    pub group: Arc<str>,
    /// Topics and partitions; they exist.
    pub topics: Vec<(Arc<str>, Vec<PartitionId>)>,
}

/// The answer to a [`Call`], variant for variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To [`Call::Join`].
    Join(JoinReply),
    /// To [`Call::Sync`].
    Sync(SyncReply),
    /// To [`Call::Heartbeat`].
    Heartbeat(ErrorCode),
    /// To [`Call::Leave`].
    Leave(LeaveReply),
    /// To [`Call::ConsumerHeartbeat`].
    ConsumerHeartbeat(ConsumerHeartbeatReply),
    /// To [`Call::Commit`].
    Commit(CommitReply),
    /// To [`Call::Fetch`].
    Fetch(FetchReply),
    /// To [`Call::DeleteGroups`]: one code a group.
    DeleteGroups(Vec<(Arc<str>, ErrorCode)>),
    /// To [`Call::DeleteOffsets`].
    DeleteOffsets(DeleteOffsetsReply),
    /// To [`Call::TopicsDeleted`].
    TopicsDeleted(ErrorCode),
    /// To [`Call::EndTxn`].
    EndTxn(ErrorCode),
    /// To [`Call::ShareHeartbeat`].
    ShareHeartbeat(ShareHeartbeatReply),
    /// To [`Call::AlterShareOffsets`].
    AlterShareOffsets(AlterShareOffsetsReply),
    /// To [`Call::DeleteShareOffsets`].
    DeleteShareOffsets(DeleteShareOffsetsReply),
    /// To [`Call::ShareOffsetsDeleted`].
    ShareOffsetsDeleted(ErrorCode),
    /// To [`Call::BeginShareDeletions`].
    ShareDeletions(ShareDeletions),
}

/// The answer to JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinReply {
    /// `None` if the caller is in.
    pub error: ErrorCode,
    /// -1 with an error.
    pub generation: i32,
    /// The group's.
    pub protocol_type: Option<Arc<str>>,
    /// The chosen one.
    pub protocol: Option<Arc<str>>,
    /// Member id of the leader; empty with an error.
    pub leader: Arc<str>,
    /// The leader shall not assign anew (KIP-814).
    pub skip_assignment: bool,
    /// The caller's id.
    pub member_id: Arc<str>,
    /// All members, for the leader alone.
    pub members: Vec<JoinedMember>,
}

impl JoinReply {
    /// A refusal.
    #[must_use]
    pub fn error(member_id: impl Into<Arc<str>>, error: ErrorCode) -> Self {
        Self {
            error,
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: Arc::default(),
            skip_assignment: false,
            member_id: member_id.into(),
            members: Vec::new(),
        }
    }
}

/// A member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// What it said under the chosen protocol.
    pub metadata: Bytes,
}

/// The answer to SyncGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReply {
    /// `None` if the assignment is valid.
    pub error: ErrorCode,
    /// The group's.
    pub protocol_type: Option<Arc<str>>,
    /// The chosen one.
    pub protocol: Option<Arc<str>>,
    /// The caller's share; may be empty.
    pub assignment: Bytes,
}

impl SyncReply {
    /// A refusal.
    #[must_use]
    pub const fn error(error: ErrorCode) -> Self {
        Self { error, protocol_type: None, protocol: None, assignment: Bytes::new() }
    }
}

/// The answer to LeaveGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaveReply {
    /// Of the request as a whole.
    pub error: ErrorCode,
    /// One code for each [`Leaving`], in order; empty if `error` is set.
    pub members: Vec<(Leaving, ErrorCode)>,
}

/// The answer to OffsetCommit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitReply {
    /// Stands for every partition if set; `topics` is then empty.
    pub error: ErrorCode,
    /// Name, id, and a code for each partition.
    pub topics: Vec<(Arc<str>, Uuid, Codes)>,
}

/// The answer to OffsetFetch for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchReply {
    /// Of the group as a whole.
    pub error: ErrorCode,
    /// What was asked for, in order; or all, by topic name and partition.
    pub topics: Vec<FetchedTopic>,
}

/// The offsets of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedTopic {
    /// The topic's name.
    pub name: Arc<str>,
    /// As asked; zero when all were asked for.
    pub topic_id: Uuid,
    /// Its partitions.
    pub partitions: Vec<FetchedPartition>,
}

/// One committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedPartition {
    /// The partition's number.
    pub partition: PartitionId,
    /// -1 if there is none.
    pub offset: i64,
    /// -1 if unknown.
    pub leader_epoch: i32,
    /// Kept beside it.
    pub metadata: Arc<str>,
    /// `None`, also when there is no offset.
    pub error: ErrorCode,
}

/// The answer to OffsetDelete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteOffsetsReply {
    /// Of the request as a whole; `topics` is then empty.
    pub error: ErrorCode,
    /// A code for each partition.
    pub topics: Vec<(Arc<str>, Codes)>,
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its id.
    pub group: Arc<str>,
    /// Empty for a group without membership.
    pub protocol_type: Arc<str>,
    /// As Kafka spells it, such as `PreparingRebalance`.
    pub state: &'static str,
    /// `classic`, `consumer` or `share`.
    pub group_type: &'static str,
}

/// A group in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedGroup {
    /// Its id.
    pub group: Arc<str>,
    /// Whether there is such a group; if not, its state is `Dead`.
    pub found: bool,
    /// As Kafka spells it.
    pub state: &'static str,
    /// Empty for a group without membership.
    pub protocol_type: Arc<str>,
    /// The chosen protocol, if the group is stable.
    pub protocol: Arc<str>,
    /// By member id.
    pub members: Vec<DescribedMember>,
}

/// A member of a [`DescribedGroup`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// Where it connects from.
    pub client: Client,
    /// What it said under the chosen protocol; empty unless the group is stable.
    pub metadata: Bytes,
    /// Its share; empty during a rebalance.
    pub assignment: Bytes,
}

/// What a shard wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Answer the caller. A token that has been answered before is passed over.
    Reply {
        /// Who waits.
        token: Token,
        /// With what.
        reply: Reply,
    },
    /// Append these records as one batch, then tell the shard by `Shard::appended`, before any
    /// other call.
    Append {
        /// Given back with the result.
        ticket: Ticket,
        /// Not empty.
        records: Arc<[Record]>,
    },
    /// As [`Effect::Append`], within a transaction.
    AppendInTxn {
        /// Given back with the result.
        ticket: Ticket,
        /// What to append.
        write: TxnWrite,
    },
    /// Look up what these regular expressions stand for, by `topic_regex::resolve`, and tell the
    /// shard by `Shard::regexes_resolved`, at any time.
    ResolveRegexes {
        /// The group that asks.
        group: Arc<str>,
        /// The member whose heartbeat was the occasion.
        member: Arc<str>,
        /// The expressions.
        regexes: Regexes,
        /// The metadata to look in.
        image: Arc<Image>,
    },
    /// Have the share coordinators set these partitions anew, and tell the shard by
    /// `Shard::shares_initialized`, at any time.
    InitializeShares(ShareInitialization),
    /// For the log of the broker: a group rebalances, and why.
    Rebalance(Rebalance),
}
