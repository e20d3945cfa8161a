//! Records of `__consumer_offsets` to and from record batches v2. Pure.

use bytes::Bytes;

use super::{
    calls::TxnWrite,
    records::{Names, Record, RecordError},
    shard::Shard,
};
use crate::{
    base::{ErrorCode, Now, Offset},
    record::{
        self, BatchBuilder, BatchError, BatchHeader, Compression, Records, Scratch,
        batch::{batches, check_crc},
        control::EndTxnMarker,
    },
};

/// Bytes that one batch may inflate to; what the coordinator writes stays far below.
const INFLATED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Why the log cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A batch is damaged.
    #[error("the batch at offset {at} is damaged: {cause}")]
    Batch {
        /// Where it should begin.
        at: Offset,
        /// What is wrong.
        cause: BatchError,
    },
    /// The records in a batch are damaged.
    #[error("the records of the batch at offset {at} are damaged: {cause}")]
    Records {
        /// Where the batch begins.
        at: Offset,
        /// What is wrong.
        cause: record::RecordError,
    },
    /// The log has nothing to read where it should.
    #[error("the log gave no whole batch at offset {0}")]
    Empty(Offset),
    /// The log could not be read.
    #[error("the log cannot be read: {}", .0.name())]
    Log(ErrorCode),
}

/// One uncompressed batch of `records`, all stamped `now_ms`.
///
/// # Errors
/// `UnknownServerError` if a name is too long for the format, `RecordListTooLarge` beyond 2 GiB.
pub fn encode(records: &[Record], now_ms: i64) -> Result<Bytes, ErrorCode> {
    fill(BatchBuilder::new(Compression::None), records, now_ms)
}

/// The batch that a transaction has written, stamped `now_ms`.
///
/// # Errors
/// As [`encode`].
pub fn encode_in_txn(write: &TxnWrite, now_ms: i64) -> Result<Bytes, ErrorCode> {
    match write {
        TxnWrite::Offsets { producer_id, producer_epoch, records, .. } => {
            let batch = BatchBuilder::new(Compression::None).transactional();
            fill(batch.producer(*producer_id, *producer_epoch, -1), records, now_ms)
        }
        TxnWrite::End(call) => {
            let (commit, coordinator_epoch) = (call.commit, call.coordinator_epoch);
            let marker = EndTxnMarker { commit, coordinator_epoch };
            Ok(marker.batch(call.producer_id, call.producer_epoch, now_ms))
        }
    }
}

fn fill(mut batch: BatchBuilder, records: &[Record], now_ms: i64) -> Result<Bytes, ErrorCode> {
    for record in records {
        let (key, value) = record.encode().map_err(|_| ErrorCode::UnknownServerError)?;
        batch
            .append(now_ms, Some(&key), value.as_deref(), &[])
            .map_err(|_| ErrorCode::RecordListTooLarge)?;
    }
    Ok(batch.finish())
}

/// Replays the log of a partition into a shard.
#[derive(Debug)]
pub struct Replay {
    /// The offset to read next.
    pub next: Offset,
    /// Records taken.
    pub taken: usize,
    /// Records of kinds that are not kept here: other kinds of groups.
    pub passed_over: usize,
    /// Records of known kinds that could not be read, and the first reason.
    pub damaged: usize,
    pub first_damage: Option<RecordError>,
    names: Names,
    scratch: Scratch,
}

impl Replay {
    /// A replay from offset `start` on.
    pub fn new(start: Offset) -> Self {
        Self {
            next: start,
            taken: 0,
            passed_over: 0,
            damaged: 0,
            first_damage: None,
            names: Names::default(),
            scratch: Scratch::default(),
        }
    }

    /// Replays the whole batches in `bytes`; a last one that is cut short is left for the next
    /// read. What lies at or above `high_watermark` is marked as such in the shard.
    ///
    /// # Errors
    /// `Batch`, `Records`; `Empty` if there is not one whole batch.
    pub fn chunk(
        &mut self,
        bytes: &[u8],
        high_watermark: Offset,
        shard: &mut Shard,
        now: Now,
    ) -> Result<(), ReplayError> {
        let from = self.next;
        for batch in batches(bytes) {
            let (header, batch) = match batch {
                Ok(found) => found,
                Err(BatchError::Truncated { .. }) => break,
                Err(cause) => return Err(ReplayError::Batch { at: self.next, cause }),
            };
            let at = header.base_offset;
            check_crc(&header, batch).map_err(|cause| ReplayError::Batch { at, cause })?;
            if header.last_offset() >= high_watermark {
                shard.replay_uncommitted();
            }
            if header.last_offset() >= self.next {
                self.batch(&header, batch, shard, now)
                    .map_err(|cause| ReplayError::Records { at, cause })?;
                self.next = header.next_offset();
            }
        }
        match self.next > from {
            true => Ok(()),
            false => Err(ReplayError::Empty(from)),
        }
    }

    fn batch(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        shard: &mut Shard,
        now: Now,
    ) -> Result<(), record::RecordError> {
        let section =
            record::records::section(header, batch, INFLATED_BYTES_MAX, &mut self.scratch)?;
        for record in Records::new(&section, header.records_count) {
            let record = record?;
            let offset = header.base_offset.saturating_add(i64::from(record.offset_delta));
            if offset < self.next {
                continue;
            }
            if header.is_control() {
                if let Some(marker) = EndTxnMarker::read(&record) {
                    shard.replay_end_txn(header.producer_id, marker.commit);
                }
                continue;
            }
            let key = record.key.unwrap_or_default();
            match Record::decode_among(&mut self.names, key, record.value) {
                Ok(Some(record)) => {
                    self.taken += 1;
                    match header.is_transactional() {
                        true => shard.replay_in_txn(header.producer_id, &record, now),
                        false => shard.replay(&record, now),
                    }
                }
                Ok(None) => self.passed_over += 1,
                Err(cause) => {
                    self.damaged += 1;
                    self.first_damage.get_or_insert(cause);
                }
            }
        }
        Ok(())
    }
}
