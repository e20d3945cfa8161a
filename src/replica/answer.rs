//! What a partition answers: places, runs of records, and refusals as a client is told.

use crate::{
    base::{ErrorCode, LeaderEpoch, Offset, ports::FileSlice},
    log::{AbortedTxn, LogError},
    record::{RecordIssue, Refusal as BatchRefusal},
};

/// Why a partition does not do what was asked, as a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What more there is to say.
    pub message: Option<String>,
    /// Records at fault.
    pub issues: Vec<RecordIssue>,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None, issues: Vec::new() }
    }
}

impl From<BatchRefusal> for Refusal {
    fn from(r: BatchRefusal) -> Self {
        Self { code: r.code, message: Some(r.message), issues: r.issues }
    }
}

impl From<LogError> for Refusal {
    fn from(e: LogError) -> Self {
        let code = match &e {
            LogError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            LogError::Corrupt(_) => ErrorCode::CorruptMessage,
            LogError::TooLarge { .. } => ErrorCode::RecordListTooLarge,
            LogError::ProducerFenced { .. } => ErrorCode::InvalidProducerEpoch,
            LogError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            LogError::InvalidTxnState { .. } | LogError::Unverified { .. } => {
                ErrorCode::InvalidTxnState
            }
            LogError::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
            // A full disk is retriable for every client by the same code.
            LogError::Full(_)
            | LogError::Io { .. }
            | LogError::Offline { .. }
            | LogError::UnexpectedOffset { .. }
            | LogError::InconsistentTopicId { .. }
            | LogError::Locked(_) => ErrorCode::KafkaStorageError,
        };
        Self { code, message: Some(e.to_string()), issues: Vec::new() }
    }
}

/// Up to where a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// `read_uncommitted`: the high watermark.
    ReadUncommitted,
    /// `read_committed`: the last stable offset.
    ReadCommitted,
    /// A replica: the log end.
    LogEnd,
}

/// A batch that was appended, or one that had been before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// The append time in milliseconds, where the topic stamps it; else -1.
    pub log_append_time_ms: i64,
    /// The partition's log start offset.
    pub log_start_offset: Offset,
}

/// Where a partition's log stands, for responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// First offset that may be read.
    pub log_start: Offset,
    /// End of what consumers see.
    pub high_watermark: Offset,
    /// End of what `read_committed` consumers see.
    pub last_stable: Offset,
    /// Offset of the next record.
    pub log_end: Offset,
}

/// What a read found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Runs of whole batches.
    pub slices: Vec<FileSlice>,
    /// Their length in bytes.
    pub len: usize,
    /// Where the log stands.
    pub marks: Marks,
    /// Aborted transactions among the records, for a `read_committed` reader.
    pub aborted: Option<Vec<AbortedTxn>>,
}

/// An offset found by a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOffset {
    /// The record's timestamp; -1 where none was looked for.
    pub timestamp: i64,
    /// The offset; -1 if there is none.
    pub offset: Offset,
    /// The epoch of the record at it; -1 if unknown.
    pub leader_epoch: LeaderEpoch,
}
