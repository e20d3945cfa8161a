//! What goes into a shard of transactions and what comes out: calls, replies, effects. Pure.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    calls::{Ticket, Token},
    txn_records::{TopicPartition, TxnRecord},
};
use crate::base::{ErrorCode, Now};

/// The present, as a shard of transactions sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Both clocks.
    pub now: Now,
    /// The finalized level of `transaction.version`.
    pub transaction_version: i16,
}

/// A producer: its id and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Producer id.
    pub id: i64,
    /// Producer epoch.
    pub epoch: i16,
}

impl Producer {
    /// What stands in answers where there is none.
    pub const NONE: Self = Self { id: -1, epoch: -1 };
}

/// A request to one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnCall {
    /// InitProducerId with a transactional id.
    Init(InitCall),
    /// AddPartitionsToTxn and AddOffsetsToTxn.
    Add(AddCall),
    /// AddPartitionsToTxn that only asks.
    Verify(AddCall),
    /// EndTxn.
    End(EndCall),
}

/// InitProducerId. The timeout is within its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitCall {
    /// The transactional id; not empty.
    pub id: Arc<str>,
    /// How long a transaction may be open, in milliseconds.
    pub timeout_ms: i32,
    /// What the producer believes to be (KIP-360).
    pub expected: Option<Producer>,
}

/// Partitions to add to a transaction, or to look for in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCall {
    /// The transactional id; not empty.
    pub id: Arc<str>,
    /// Who asks.
    pub producer: Producer,
    /// The partitions.
    pub partitions: BTreeSet<TopicPartition>,
    /// The `transaction.version` that the client lives by.
    pub client_version: i16,
}

/// EndTxn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndCall {
    /// The transactional id; not empty.
    pub id: Arc<str>,
    /// Who asks.
    pub producer: Producer,
    /// Whether to commit; otherwise to abort.
    pub commit: bool,
    /// The `transaction.version` that the client lives by.
    pub client_version: i16,
}

/// The answer to a [`TxnCall`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnReply {
    /// To [`TxnCall::Init`] and [`TxnCall::End`]: what the producer goes on as.
    Producer(Result<Producer, ErrorCode>),
    /// To [`TxnCall::Add`].
    Added(ErrorCode),
    /// To [`TxnCall::Verify`]: whether each partition is in the transaction.
    Verified(Result<Vec<(TopicPartition, bool)>, ErrorCode>),
}

impl TxnReply {
    /// The same kind of reply, saying that the request failed with `error`.
    #[must_use]
    pub fn failed(&self, error: ErrorCode) -> Self {
        match self {
            Self::Producer(_) => Self::Producer(Err(error)),
            Self::Added(_) => Self::Added(error),
            Self::Verified(_) => Self::Verified(Err(error)),
        }
    }
}

impl TxnCall {
    /// The reply to it that says it failed with `error`.
    #[must_use]
    pub const fn refused(&self, error: ErrorCode) -> TxnReply {
        match self {
            Self::Init(_) | Self::End(_) => TxnReply::Producer(Err(error)),
            Self::Add(_) => TxnReply::Added(error),
            Self::Verify(_) => TxnReply::Verified(Err(error)),
        }
    }

    /// The transactional id.
    #[must_use]
    pub const fn id(&self) -> &Arc<str> {
        match self {
            Self::Init(call) => &call.id,
            Self::Add(call) | Self::Verify(call) => &call.id,
            Self::End(call) => &call.id,
        }
    }
}

/// The markers that end one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markers {
    /// The transactional id.
    pub id: Arc<str>,
    /// Names this ending; given back with what was written.
    pub run: u64,
    /// Producer id and epoch that the markers carry.
    pub producer: Producer,
    /// Whether it is committed; otherwise it is aborted.
    pub commit: bool,
    /// The `transaction.version` that the transaction ends by (KIP-1228).
    pub transaction_version: i16,
    /// The partitions that lack their marker. Not empty.
    pub partitions: BTreeSet<TopicPartition>,
}

/// What the answer of a partition's leader to a marker means (`TransactionMarkerRequestCompletionHandler.scala`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkerAnswer {
    /// The marker is written, or none is needed.
    Done,
    /// It is to be sent again.
    Again,
    /// Another coordinator, or another epoch of the producer, has taken over there.
    Fenced,
}

impl MarkerAnswer {
    /// By the leader's code.
    #[must_use]
    pub const fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::None
            // Nothing of a transaction can have been written there.
            | ErrorCode::UnsupportedForMessageFormat
            | ErrorCode::UnsupportedVersion => Self::Done,
            ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced => {
                Self::Fenced
            }
            _ => Self::Again,
        }
    }
}

/// What a shard wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnEffect {
    /// Answer the caller.
    Reply {
        /// Who waits.
        token: Token,
        /// With what.
        reply: TxnReply,
    },
    /// Append these records as one batch, then tell the shard by `TxnShard::appended`, before any
    /// other call.
    Append {
        /// Given back with the result.
        ticket: Ticket,
        /// Not empty.
        records: Vec<TxnRecord>,
    },
    /// Write these markers, and tell the shard of each that is written by `TxnShard::marked`, until
    /// all are or the shard wants them no longer.
    Mark(Markers),
    /// Get a fresh producer id and tell the shard by `TxnShard::producer_id`.
    WantProducerId,
}

/// A transactional id as ListTransactions shows it, and by what it is filtered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedTxn {
    /// The transactional id.
    pub id: Arc<str>,
    /// The producer id in use.
    pub producer_id: i64,
    /// As Kafka spells it.
    pub state: &'static str,
    /// When the transaction began, in milliseconds since the Unix epoch; -1 if none did.
    pub start_ms: i64,
}

/// A transactional id in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DescribedTxn {
    /// As Kafka spells it.
    pub state: &'static str,
    /// How long a transaction may be open, in milliseconds.
    pub timeout_ms: i32,
    /// When the transaction began, in milliseconds since the Unix epoch; -1 if none did.
    pub start_ms: i64,
    /// Producer id and epoch.
    pub producer: Producer,
    /// What was added; while the transaction ends, what lacks its marker.
    pub partitions: BTreeSet<TopicPartition>,
}
