//! One turn of a shard: the present, the settings, and what the turn decides. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    calls::{
        CommitReply, DeleteOffsetsReply, Effect, FetchReply, JoinReply, LeaveReply, Protocol,
        Reply, SyncReply, Token,
    },
    calls_consumer::ConsumerHeartbeatReply,
    calls_share_groups::{AlterShareOffsetsReply, DeleteShareOffsetsReply, ShareHeartbeatReply},
    records::Record,
    settings::Settings,
};
use crate::base::{ErrorCode, Now};

/// Bytes of records that one append may hold, about; a larger decision becomes several appends.
const APPEND_BYTES: usize = 512 * 1024;
/// What a record costs beside its names, about.
const RECORD_OVERHEAD_BYTES: usize = 64;

/// What a turn sees and says.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) now: Now,
    pub(super) settings: &'a Settings,
    pub(super) out: &'a mut Vec<Effect>,
    /// What to append; the shard makes effects of it when the turn ends.
    pub(super) appends: Vec<(Vec<Record>, Then)>,
}

impl Turn<'_> {
    pub(super) fn reply(&mut self, token: Token, reply: Reply) {
        self.out.push(Effect::Reply { token, reply });
    }

    pub(super) fn append(&mut self, records: Vec<Record>, then: Then) {
        self.appends.push((records, then));
    }
}

/// What waits for an append: it happens when the high watermark passes the append, or happens as a
/// failure when that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    /// Nobody waits.
    Nothing,
    /// These answers, or the error in their stead.
    Replies(Vec<(Token, Reply)>),
    /// The share coordinators can be asked to carry out the work of this number, and a heartbeat be
    /// answered.
    Initialize(u64, Option<(Token, Reply)>),
    /// The record of a new group; `token` is the JoinGroup that made it.
    Created { group: Arc<str>, token: Token },
    /// The leader's assignment of a generation.
    Assigned { group: Arc<str>, generation: i32, assignments: BTreeMap<Arc<str>, Bytes> },
    /// A static member's new member id.
    Replaced(Box<Replaced>),
}

/// A static member came back under a new member id while the group was stable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Replaced {
    pub(super) group: Arc<str>,
    pub(super) generation: i32,
    pub(super) instance_id: Arc<str>,
    pub(super) old_id: Arc<str>,
    pub(super) new_id: Arc<str>,
    /// Who led before: told to old clients, so that they do not assign.
    pub(super) old_leader: Option<Arc<str>>,
    pub(super) can_skip_assignment: bool,
    // To take it back.
    pub(super) old_protocols: Vec<Protocol>,
    pub(super) old_rebalance_timeout_ms: i32,
    pub(super) old_session_timeout_ms: i32,
}

impl Reply {
    /// The same kind of reply, saying that the request failed with `error`.
    pub(super) fn failed(self, error: ErrorCode) -> Self {
        match self {
            Self::Join(r) => Self::Join(JoinReply::error(r.member_id, error)),
            Self::Sync(_) => Self::Sync(SyncReply::error(error)),
            Self::Heartbeat(_) => Self::Heartbeat(error),
            Self::ConsumerHeartbeat(_) => {
                Self::ConsumerHeartbeat(ConsumerHeartbeatReply::error(error, None))
            }
            Self::Leave(_) => Self::Leave(LeaveReply { error, members: Vec::new() }),
            Self::Commit(_) => Self::Commit(CommitReply { error, topics: Vec::new() }),
            Self::Fetch(_) => {
                Self::Fetch(FetchReply { error: fetch_error(error), topics: Vec::new() })
            }
            Self::DeleteGroups(groups) => {
                Self::DeleteGroups(groups.into_iter().map(|(g, _)| (g, error)).collect())
            }
            Self::DeleteOffsets(_) => {
                Self::DeleteOffsets(DeleteOffsetsReply { error, topics: Vec::new() })
            }
            Self::TopicsDeleted(_) => Self::TopicsDeleted(error),
            Self::EndTxn(_) => Self::EndTxn(error),
            Self::ShareHeartbeat(_) => {
                Self::ShareHeartbeat(ShareHeartbeatReply::error(error, None))
            }
            Self::AlterShareOffsets(_) => {
                Self::AlterShareOffsets(AlterShareOffsetsReply::error(error, None))
            }
            Self::DeleteShareOffsets(_) => {
                Self::DeleteShareOffsets(DeleteShareOffsetsReply::error(error, None))
            }
            Self::ShareOffsetsDeleted(_) => Self::ShareOffsetsDeleted(error),
            Self::ShareDeletions(groups) => Self::ShareDeletions(
                groups.into_iter().map(|(group, _)| (group, Err(error))).collect(),
            ),
        }
    }
}

/// Consumers before 3.9 know no `CoordinatorNotAvailable` in OffsetFetch
/// (`GroupCoordinatorService.handleOffsetFetchException`).
const fn fetch_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::CoordinatorNotAvailable => ErrorCode::NotCoordinator,
        e => e,
    }
}

/// What a client is told when an append fails (`appendGroupMetadataErrorToResponseError`).
pub(super) const fn append_error(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower
        | ErrorCode::FencedLeaderEpoch
        | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge
        | ErrorCode::RecordListTooLarge
        | ErrorCode::InvalidFetchSize => ErrorCode::UnknownServerError,
        e => e,
    }
}

/// Cuts `records` into runs that fit a batch.
pub(super) fn in_batches(records: Vec<Record>) -> VecDeque<Arc<[Record]>> {
    let mut batches = VecDeque::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for record in records {
        let size = RECORD_OVERHEAD_BYTES + record.len_about();
        if bytes + size > APPEND_BYTES && !batch.is_empty() {
            batches.push_back(std::mem::take(&mut batch).into());
            bytes = 0;
        }
        bytes += size;
        batch.push(record);
    }
    if !batch.is_empty() {
        batches.push_back(batch.into());
    }
    batches
}
