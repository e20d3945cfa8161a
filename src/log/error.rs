//! What can go wrong with a log, by what the caller can do about it.

use std::{io, path::PathBuf};

use crate::base::{Offset, Uuid};
use crate::record::BatchError;

/// A fault or refusal of the log room.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The offset is not in the log: ask within the bounds.
    #[error("offset {offset} is outside the log, which holds {start} to {end}")]
    OutOfRange {
        /// What was asked for.
        offset: Offset,
        /// The log start offset.
        start: Offset,
        /// The log end offset, exclusive.
        end: Offset,
    },
    /// The disk is full: nothing was appended, the log is as before, try again later.
    #[error("no space left while {0}")]
    Full(String),
    /// The disk failed. The directory is offline from here on.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, with the path.
        context: String,
        /// The system's word on it.
        source: io::Error,
    },
    /// The directory failed earlier: nothing in it can be used until a restart.
    #[error("log directory {} is offline: {reason}", .path.display())]
    Offline {
        /// The directory.
        path: PathBuf,
        /// The first failure.
        reason: String,
    },
    /// Bytes given to be appended are no valid batches: fetch or send them again.
    #[error("corrupt batch: {0}")]
    Corrupt(#[from] BatchError),
    /// Bytes to be replicated do not follow the end of the log.
    #[error("batch begins at offset {got}, the log ends at {end}")]
    UnexpectedOffset {
        /// Offset of the first batch that does not fit.
        got: Offset,
        /// The log end offset.
        end: Offset,
    },
    /// One batch is larger than a segment may be.
    #[error("a batch of {size} bytes does not fit into a segment of {max} bytes (segment.bytes)")]
    TooLarge {
        /// The batch's size.
        size: u64,
        /// The segment's bound.
        max: u64,
    },
    /// `INVALID_PRODUCER_EPOCH`: a newer producer took over.
    #[error("producer {producer_id} has epoch {known}, the batch has {got}")]
    ProducerFenced {
        /// The producer.
        producer_id: i64,
        /// The epoch that the log knows.
        known: i16,
        /// The epoch of the batch.
        got: i16,
    },
    /// `OUT_OF_ORDER_SEQUENCE_NUMBER`: a batch is missing before this one.
    #[error("producer {producer_id}: sequence {got} does not follow {last}")]
    OutOfOrderSequence {
        /// The producer.
        producer_id: i64,
        /// The last sequence that the log knows; -1 if none.
        last: i32,
        /// The first sequence of the batch.
        got: i32,
    },
    /// `INVALID_TXN_STATE`: a plain batch while the producer's transaction is open.
    #[error("producer {producer_id} has an open transaction and sent a batch outside of it")]
    InvalidTxnState {
        /// The producer.
        producer_id: i64,
    },
    /// `INVALID_TXN_STATE`: the coordinator has not said that the transaction is open here.
    #[error("producer {producer_id}: the record is not part of an ongoing transaction")]
    Unverified {
        /// The producer.
        producer_id: i64,
    },
    /// `TRANSACTION_COORDINATOR_FENCED`: a marker of a coordinator that was replaced.
    #[error("producer {producer_id}: coordinator epoch {got} is older than {known}")]
    CoordinatorFenced {
        /// The producer.
        producer_id: i64,
        /// The coordinator epoch that the log knows.
        known: i32,
        /// The epoch of the marker.
        got: i32,
    },
    /// The directory holds another topic of the same name: it is stray.
    #[error("{} holds topic id {found}, {expected} was expected", .path.display())]
    InconsistentTopicId {
        /// The partition's directory.
        path: PathBuf,
        /// The id assigned by the controller.
        expected: Uuid,
        /// The id in `partition.metadata`.
        found: Uuid,
    },
    /// Another process holds `.lock`.
    #[error("{} is locked: another process uses this log directory", .0.display())]
    Locked(PathBuf),
}

impl LogError {
    /// Whether the same call may succeed later without a restart.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

/// Whether `e` says that the disk or the quota is full.
pub(super) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether `e` says that nothing is there.
pub(super) fn is_missing(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound
}
