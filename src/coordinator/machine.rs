//! What a shard is to its shell (`shards_driver`), and how a log is replayed into one. Pure.

use std::fmt;

use bytes::Bytes;

use super::{
    batches::ReplayError,
    calls::{Ticket, Token},
    codec::RecordError,
    ports::{Appended, Bounds},
};
use crate::{
    base::{ErrorCode, Mono, Mutant, Offset, mutant},
    record::{
        self, BatchError, BatchHeader, Records, Scratch,
        batch::{batches, check_crc},
    },
};

/// Bytes that one batch may inflate to; what coordinators write stays far below.
const INFLATED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A shard: keeps what one partition of an internal topic says.
pub trait Machine: Sized + Send + fmt::Debug + 'static {
    /// What it is asked.
    type Call: Send;
    /// What it answers.
    type Reply: Send + fmt::Debug;
    /// What it wants done.
    type Effect: Send;
    /// The present as it sees it.
    type At: Copy;

    /// Takes the record at `offset`; `false` if it is of a kind that is not kept.
    ///
    /// # Errors
    /// The record is damaged, or from the future.
    fn replay(
        &mut self,
        offset: Offset,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<bool, RecordError>;

    /// Takes a call; its reply names `token`.
    fn handle(&mut self, token: Token, call: Self::Call, at: Self::At, out: &mut Vec<Self::Effect>);

    /// What came of an append.
    fn appended(
        &mut self,
        ticket: Ticket,
        result: Result<Appended, ErrorCode>,
        at: Self::At,
        out: &mut Vec<Self::Effect>,
    );

    /// The high watermark rose.
    fn committed(&mut self, high_watermark: Offset, at: Self::At, out: &mut Vec<Self::Effect>);

    /// What is above the high watermark will not be committed by this leader.
    fn commit_lost(&mut self, error: ErrorCode, out: &mut Vec<Self::Effect>);

    /// The offset whose commit is awaited first.
    fn first_uncommitted(&self) -> Option<Offset>;

    /// When [`Machine::on_deadline`] has something to do.
    fn next_deadline(&self) -> Mono;

    /// Does all that is due.
    fn on_deadline(&mut self, at: Self::At, out: &mut Vec<Self::Effect>);

    /// Ends it: whoever waits gets `NotCoordinator`.
    fn unload(self, out: &mut Vec<Self::Effect>);
}

/// An effect, sorted for the shell.
#[derive(Debug)]
pub(super) enum Job<M: Machine> {
    /// Answer the caller.
    Reply(Token, M::Reply),
    /// Append this batch; the error is that it cannot be made.
    Append(Ticket, Result<Bytes, ErrorCode>),
    /// Something that only its host knows.
    Own(M::Effect),
}

/// Replays the log of a partition into a shard.
#[derive(Debug)]
pub struct LogReplay {
    /// The offset to read next.
    pub next: Offset,
    /// Records taken.
    pub taken: usize,
    /// Records that could not be read or are of an unknown kind.
    pub damaged: usize,
    /// The first reason.
    pub first_damage: Option<RecordError>,
    scratch: Scratch,
}

impl LogReplay {
    /// A replay from offset `start` on.
    #[must_use]
    pub fn new(start: Offset) -> Self {
        Self { next: start, taken: 0, damaged: 0, first_damage: None, scratch: Scratch::default() }
    }

    /// Replays the whole batches in `bytes`; a last one that is cut short is left for the next
    /// read.
    ///
    /// # Errors
    /// `Batch`, `Records`; `Empty` if there is not one whole batch.
    pub fn chunk(&mut self, bytes: &[u8], shard: &mut impl Machine) -> Result<(), ReplayError> {
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
        shard: &mut impl Machine,
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
            match shard.replay(offset, record.key.unwrap_or_default(), record.value) {
                Ok(true) => self.taken += 1,
                Ok(false) => self.damaged += 1,
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
    /// What the log has from this offset on, for [`Load::chunk`].
    Read(Offset),
    /// That the high watermark passes this offset, for [`Load::committed`].
    Commit(Offset),
    /// Nothing: it may take calls.
    Done,
}

/// A shard that is being loaded: all of the log as it is now, up to an end that is committed, as
/// nothing may be told or done of what another leader could still take back.
#[derive(Debug)]
pub struct Load<M> {
    replay: LogReplay,
    shard: Box<M>,
    bounds: Bounds,
    committed: bool,
}

impl<M: Machine> Load<M> {
    /// `shard` is empty and the log has these bounds.
    #[must_use]
    pub fn new(shard: M, bounds: Bounds) -> Self {
        let committed = bounds.end <= bounds.start || mutant(Mutant::LoadUncommitted);
        Self { replay: LogReplay::new(bounds.start), shard: Box::new(shard), bounds, committed }
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
    /// As [`LogReplay::chunk`].
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), ReplayError> {
        self.replay.chunk(bytes, &mut *self.shard)
    }

    /// The high watermark has passed the end.
    pub const fn committed(&mut self) {
        self.committed = true;
    }

    /// The shard, and what was found in the log.
    #[must_use]
    pub fn done(self) -> (Box<M>, LogReplay) {
        (self.shard, self.replay)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::coordinator::{
        txn_batches::encode, txn_records::TxnRecord, txn_settings::TxnSettings, txn_shard::TxnShard,
    };

    #[test]
    fn a_shard_is_loaded_when_all_that_was_read_is_committed() {
        let shard = || TxnShard::new(Arc::new(TxnSettings::default()), 0);
        let tombstone = TxnRecord { id: "a".into(), value: None };
        let batch = encode(&[tombstone.clone(), tombstone], 1, 0).unwrap();
        let mut load = Load::new(shard(), Bounds { start: 0, end: 2 });
        assert_eq!(load.next(), LoadStep::Read(0));
        load.chunk(&batch).unwrap();
        assert_eq!(load.next(), LoadStep::Commit(1));
        load.committed();
        assert_eq!(load.next(), LoadStep::Done);
        assert_eq!(load.done().1.taken, 2);
        let empty = Load::new(shard(), Bounds { start: 5, end: 5 });
        assert_eq!(empty.next(), LoadStep::Done);
    }
}
