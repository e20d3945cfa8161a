//! Records of `__transaction_state` to and from record batches v2. Pure.

use bytes::Bytes;

use super::{
    batches::ReplayError,
    ports::Bounds,
    txn_records::{RecordError, TxnRecord},
    txn_shard::TxnShard,
};
use crate::{
    base::{ErrorCode, Mutant, Offset, mutant},
    record::{
        self, BatchBuilder, BatchError, BatchHeader, Compression, Records, Scratch,
        batch::{batches, check_crc},
    },
};

/// Bytes that one batch may inflate to; what the coordinator writes is not compressed.
const INFLATED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// One uncompressed batch of `records`, all stamped `now_ms`. The values are flexible from
/// `transaction_version` 1 on (KIP-890).
///
/// # Errors
/// `UnknownServerError` if a name is too long for the format, `RecordListTooLarge` beyond 2 GiB.
pub fn encode(
    records: &[TxnRecord],
    transaction_version: i16,
    now_ms: i64,
) -> Result<Bytes, ErrorCode> {
    let mut batch = BatchBuilder::new(Compression::None);
    for record in records {
        let encoded = record.encode(transaction_version.min(1));
        let (key, value) = encoded.map_err(|_| ErrorCode::UnknownServerError)?;
        batch
            .append(now_ms, Some(&key), value.as_deref(), &[])
            .map_err(|_| ErrorCode::RecordListTooLarge)?;
    }
    Ok(batch.finish())
}

/// Replays the log of a partition into a shard.
#[derive(Debug)]
pub struct TxnReplay {
    /// The offset to read next.
    pub next: Offset,
    /// Records taken.
    pub taken: usize,
    /// Records that could not be read or are of an unknown kind, and the first reason.
    pub damaged: usize,
    pub first_damage: Option<RecordError>,
    scratch: Scratch,
}

impl TxnReplay {
    /// A replay from offset `start` on.
    pub fn new(start: Offset) -> Self {
        Self { next: start, taken: 0, damaged: 0, first_damage: None, scratch: Scratch::default() }
    }

    /// Replays the whole batches in `bytes`; a last one that is cut short is left for the next
    /// read.
    ///
    /// # Errors
    /// `Batch`, `Records`; `Empty` if there is not one whole batch.
    pub fn chunk(&mut self, bytes: &[u8], shard: &mut TxnShard) -> Result<(), ReplayError> {
        let from = self.next;
        for batch in batches(bytes) {
            let (header, batch) = match batch {
                Ok(found) => found,
                Err(BatchError::Truncated { .. }) => break,
                Err(cause) => return Err(ReplayError::Batch { at: self.next, cause }),
            };
            let at = header.base_offset;
            check_crc(&header, batch).map_err(|cause| ReplayError::Batch { at, cause })?;
            if header.last_offset() >= self.next {
                let replayed = self.batch(&header, batch, shard);
                replayed.map_err(|cause| ReplayError::Records { at, cause })?;
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
        shard: &mut TxnShard,
    ) -> Result<(), record::RecordError> {
        // Nobody writes here by a transaction.
        if header.is_control() || header.is_transactional() {
            return Ok(());
        }
        let section =
            record::records::section(header, batch, INFLATED_BYTES_MAX, &mut self.scratch)?;
        for record in Records::new(&section, header.records_count) {
            let record = record?;
            let offset = header.base_offset.saturating_add(i64::from(record.offset_delta));
            if offset < self.next {
                continue;
            }
            match TxnRecord::decode(record.key.unwrap_or_default(), record.value) {
                Ok(Some(record)) => {
                    self.taken += 1;
                    shard.replay(record);
                }
                Ok(None) => self.damaged += 1,
                Err(cause) => {
                    self.damaged += 1;
                    self.first_damage.get_or_insert(cause);
                }
            }
        }
        Ok(())
    }
}

/// What a shard that is being loaded needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadStep {
    /// What the log has from this offset on, for [`TxnLoad::chunk`].
    Read(Offset),
    /// That the high watermark passes this offset, for [`TxnLoad::committed`].
    Commit(Offset),
    /// Nothing: it may take calls.
    Done,
}

/// A shard that is being loaded: all of the log as it is now, up to an end that is committed, as
/// nothing may be told or done of what another leader could still take back.
#[derive(Debug)]
pub struct TxnLoad {
    replay: TxnReplay,
    shard: Box<TxnShard>,
    bounds: Bounds,
    committed: bool,
}

impl TxnLoad {
    /// `shard` is empty and the log has these bounds.
    #[must_use]
    pub fn new(shard: TxnShard, bounds: Bounds) -> Self {
        let committed = bounds.end <= bounds.start || mutant(Mutant::LoadUncommitted);
        Self { replay: TxnReplay::new(bounds.start), shard: Box::new(shard), bounds, committed }
    }

    /// What is needed next.
    #[must_use]
    pub const fn next(&self) -> LoadStep {
        if self.replay.next < self.bounds.end {
            LoadStep::Read(self.replay.next)
        } else if self.committed {
            LoadStep::Done
        } else {
            LoadStep::Commit(self.bounds.end - 1)
        }
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// As [`TxnReplay::chunk`].
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        self.replay.chunk(bytes, &mut self.shard)
    }

    /// The high watermark has passed the end.
    pub const fn committed(&mut self) {
        self.committed = true;
    }

    /// The shard, and what was found in the log.
    #[must_use]
    pub fn done(self) -> (Box<TxnShard>, TxnReplay) {
        (self.shard, self.replay)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::coordinator::txn_settings::TxnSettings;

    #[test]
    fn a_shard_is_loaded_when_all_that_was_read_is_committed() {
        let shard = || TxnShard::new(Arc::new(TxnSettings::default()), 0);
        let tombstone = TxnRecord { id: "a".into(), value: None };
        let batch = encode(&[tombstone.clone(), tombstone], 1, 0).unwrap();
        let mut load = TxnLoad::new(shard(), Bounds { start: 0, end: 2 });
        assert_eq!(load.next(), LoadStep::Read(0));
        load.chunk(&batch).unwrap();
        assert_eq!(load.next(), LoadStep::Commit(1));
        load.committed();
        assert_eq!(load.next(), LoadStep::Done);
        assert_eq!(load.done().1.taken, 2);
        let empty = TxnLoad::new(shard(), Bounds { start: 5, end: 5 });
        assert_eq!(empty.next(), LoadStep::Done);
    }
}
