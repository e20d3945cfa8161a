//! What a topic asks of a batch, and how its refusal is told. Pure.

use super::{
    batch::BatchError,
    compress::{Compression, InflateError},
    records::RecordError,
};
use crate::base::ErrorCode;

/// Whose time a topic's records carry (`message.timestamp.type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, when it appends.
    LogAppendTime,
}

/// What a topic asks of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// `max.message.bytes`: the size of a batch in bytes, compressed.
    pub batch_bytes_max: usize,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub timestamp_after_max_ms: i64,
    /// Whether `cleanup.policy` has `compact`: every record needs a key.
    pub compacted: bool,
    /// `compression.type` with its level; `None` is `producer`.
    pub compression: Option<Compression>,
    /// Bytes that the records of a batch may have once inflated.
    pub inflated_bytes_max: usize,
}

impl Rules {
    /// The bound on inflated bytes for a topic of this batch size: a hundred times as much, within
    /// 64 MiB and 1 GiB. A compressed batch is walked in pieces, so this bounds time more than
    /// memory.
    #[must_use]
    pub fn inflated_bytes_for(batch_bytes_max: usize) -> usize {
        batch_bytes_max.saturating_mul(100).clamp(64 << 20, 1 << 30)
    }
}

impl Default for Rules {
    /// Kafka's defaults for a topic.
    fn default() -> Self {
        Self {
            batch_bytes_max: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            compacted: false,
            compression: None,
            inflated_bytes_max: Self::inflated_bytes_for(1_048_588),
        }
    }
}

/// When and how a batch arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProduceContext {
    /// Wall time in milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Version of the Produce request.
    pub api_version: i16,
}

/// A record that is at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordIssue {
    /// Its place in the batch, from 0.
    pub batch_index: i32,
    /// What is wrong with it.
    pub message: String,
}

/// Why a batch is not appended, as the Produce response tells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Refusal {
    /// The partition's error.
    pub code: ErrorCode,
    /// The partition's error message.
    pub message: String,
    /// The records at fault, at most a hundred; empty if it is the batch itself.
    pub issues: Vec<RecordIssue>,
}

impl Refusal {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), issues: Vec::new() }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRecord, message)
    }
}

impl From<BatchError> for Refusal {
    fn from(e: BatchError) -> Self {
        let code = match e {
            BatchError::BadCrc { .. } | BatchError::BadLength(_) => ErrorCode::CorruptMessage,
            BatchError::Truncated { .. } | BatchError::BadMagic(_) => ErrorCode::InvalidRecord,
        };
        Self::new(code, e.to_string())
    }
}

impl From<RecordError> for Refusal {
    fn from(e: RecordError) -> Self {
        match e {
            RecordError::Inflate(e) => e.into(),
            RecordError::Short | RecordError::Malformed(_) => Self::invalid(e.to_string()),
        }
    }
}

impl From<InflateError> for Refusal {
    fn from(e: InflateError) -> Self {
        let code = match e {
            InflateError::TooLarge => ErrorCode::MessageTooLarge,
            InflateError::Corrupt { .. } => ErrorCode::InvalidRecord,
            InflateError::UnknownCodec(_) => ErrorCode::UnsupportedCompressionType,
        };
        Self::new(code, e.to_string())
    }
}
