//! What goes into a shard of share state and what comes out: calls, replies, effects. Pure.

use std::collections::BTreeSet;

use super::{
    calls::{Ticket, Token},
    share_persister::{ShareKey, ShareState, ShareSummary, ShareWrite},
    share_records::ShareRecord,
};
use crate::base::{ErrorCode, Offset, Uuid};

/// A request to one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareCall {
    /// What is asked of one share partition.
    Key {
        /// Which.
        key: ShareKey,
        /// Whether the metadata has that partition of that topic.
        exists: bool,
        /// What is asked.
        ask: ShareAsk,
    },
    /// These topics are gone.
    TopicsDeleted(BTreeSet<Uuid>),
}

/// What can be asked of a share partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareAsk {
    /// InitializeShareGroupState.
    Initialize {
        /// The state epoch; lower ones are fenced from then on.
        state_epoch: i32,
        /// -1 if it is not known.
        start_offset: Offset,
    },
    /// ReadShareGroupState.
    Read {
        /// The epoch of the leader that asks; -1 if it is none.
        leader_epoch: i32,
    },
    /// WriteShareGroupState.
    Write(ShareWrite),
    /// DeleteShareGroupState.
    Delete,
    /// ReadShareGroupStateSummary.
    Summary {
        /// Of the leader that asks; it changes nothing.
        leader_epoch: i32,
    },
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareReply {
    /// To all but the two below.
    Done(Result<(), ErrorCode>),
    /// To [`ShareAsk::Read`].
    State(Result<ShareState, ErrorCode>),
    /// To [`ShareAsk::Summary`].
    Summary(Result<ShareSummary, ErrorCode>),
}

impl ShareReply {
    /// The same kind of reply, saying that the request failed with `error`.
    #[must_use]
    pub fn failed(&self, error: ErrorCode) -> Self {
        match self {
            Self::Done(_) => Self::Done(Err(error)),
            Self::State(_) => Self::State(Err(error)),
            Self::Summary(_) => Self::Summary(Err(error)),
        }
    }

    /// Why it failed.
    #[must_use]
    pub const fn error(&self) -> Option<ErrorCode> {
        match self {
            Self::Done(Err(error)) | Self::State(Err(error)) | Self::Summary(Err(error)) => {
                Some(*error)
            }
            Self::Done(Ok(())) | Self::State(Ok(_)) | Self::Summary(Ok(_)) => None,
        }
    }

    /// As the answer to what changes state.
    pub(super) fn done(self) -> Result<(), ErrorCode> {
        match self {
            Self::Done(done) => done,
            other => unreachable!("a call was answered with {other:?}"),
        }
    }

    /// As the answer to [`ShareAsk::Read`].
    pub(super) fn state(self) -> Result<ShareState, ErrorCode> {
        match self {
            Self::State(state) => state,
            other => unreachable!("a call was answered with {other:?}"),
        }
    }

    /// As the answer to [`ShareAsk::Summary`].
    pub(super) fn summary(self) -> Result<ShareSummary, ErrorCode> {
        match self {
            Self::Summary(summary) => summary,
            other => unreachable!("a call was answered with {other:?}"),
        }
    }
}

impl ShareAsk {
    /// The reply that refuses this.
    #[must_use]
    pub const fn refused(&self, error: ErrorCode) -> ShareReply {
        match self {
            Self::Initialize { .. } | Self::Write(_) | Self::Delete => ShareReply::Done(Err(error)),
            Self::Read { .. } => ShareReply::State(Err(error)),
            Self::Summary { .. } => ShareReply::Summary(Err(error)),
        }
    }
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareEffect {
    /// Append these records as one batch, and say what came of it at once.
    Append {
        /// To be named in the answer.
        ticket: Ticket,
        /// At least one.
        records: Vec<ShareRecord>,
    },
    /// Answer the caller.
    Reply {
        /// Who.
        token: Token,
        /// With what.
        reply: ShareReply,
    },
    /// Nothing below this offset is needed any more, and what took its place is committed.
    Prune(Offset),
}
