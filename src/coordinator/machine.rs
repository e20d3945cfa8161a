//! What a shard is to its shell (`shards_driver`), and how a log is replayed into one. Pure.

use std::fmt;

use bytes::Bytes;

use super::{
    batches::ReplayError,
    calls::{Ticket, Token},
    codec::RecordError,
    ports::Appended,
};
use crate::{
    base::{ErrorCode, Mono, Offset},
    record::{
        self, BatchError, BatchHeader, Records, Scratch,
        batch::{batches, check_crc},
    },
};

/// Bytes that one batch may inflate to; what coordinators write stays far below.
const INFLATED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A shard: keeps what one partition of an internal topic says.
pub(super) trait Machine: Sized + Send + fmt::Debug + 'static {
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
pub(super) struct LogReplay {
    /// The offset to read next.
    pub(super) next: Offset,
    /// Records taken.
    pub(super) taken: usize,
    /// Records that could not be read or are of an unknown kind, and the first reason.
    pub(super) damaged: usize,
    pub(super) first_damage: Option<RecordError>,
    scratch: Scratch,
}

impl LogReplay {
    /// A replay from offset `start` on.
    pub(super) fn new(start: Offset) -> Self {
        Self { next: start, taken: 0, damaged: 0, first_damage: None, scratch: Scratch::default() }
    }

    /// Replays the whole batches in `bytes`; a last one that is cut short is left for the next
    /// read.
    ///
    /// # Errors
    /// `Batch`, `Records`; `Empty` if there is not one whole batch.
    pub(super) fn chunk(
        &mut self,
        bytes: &[u8],
        shard: &mut impl Machine,
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
