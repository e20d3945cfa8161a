//! What a log remembers of idempotent and transactional producers (`ProducerStateManager.java`,
//! `ProducerAppendInfo.java`, KIP-98): the last five batches of each, for duplicates; its epoch;
//! its open transaction. Pure: `snapshot` gives the bytes, `recovery` reads and replays.

use std::collections::BTreeMap;

pub(super) use super::marker::Marker;
use super::{
    error::LogError,
    verification::{Origin, Verifications},
};
use crate::base::{Mutant, Offset, limits::PRODUCER_BATCHES_RETAINED, mutant};
use crate::record::BatchHeader;

/// A batch that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeenBatch {
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Last offset less first offset.
    pub offset_delta: i32,
    /// Its largest timestamp in milliseconds.
    pub timestamp: i64,
}

impl SeenBatch {
    /// Offset of its first record.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.last_offset.saturating_sub(i64::from(self.offset_delta))
    }

    /// Sequence of its first record, before a wrap if there was one.
    #[must_use]
    pub fn first_sequence(&self) -> i32 {
        let first = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        // Modulo 2^31: the mask keeps it within i32.
        i32::try_from(first & 0x7fff_ffff).unwrap_or(0)
    }
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Its epoch; -1 if none is known.
    pub epoch: i16,
    /// Epoch of the coordinator that ended its last transaction; -1 if none did.
    pub coordinator_epoch: i32,
    /// Timestamp of its last batch or marker, in milliseconds.
    pub last_timestamp: i64,
    /// First offset of its open transaction.
    pub txn_first_offset: Option<Offset>,
    batches: [SeenBatch; PRODUCER_BATCHES_RETAINED],
    count: u8,
}

impl ProducerEntry {
    pub(super) fn new(epoch: i16, coordinator_epoch: i32, last_timestamp: i64) -> Self {
        Self {
            epoch,
            coordinator_epoch,
            last_timestamp,
            txn_first_offset: None,
            batches: Default::default(),
            count: 0,
        }
    }

    /// Its last batches, oldest first.
    #[must_use]
    pub fn batches(&self) -> &[SeenBatch] {
        &self.batches[..usize::from(self.count)]
    }

    /// Sequence of its last record; -1 if none is known.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        self.batches().last().map_or(-1, |b| b.last_sequence)
    }

    pub(super) fn push(&mut self, batch: SeenBatch) {
        if usize::from(self.count) == PRODUCER_BATCHES_RETAINED {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        self.batches[usize::from(self.count)] = batch;
        self.count += 1;
    }

    fn set_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.count = 0;
            self.epoch = epoch;
        }
    }

    fn find(&self, h: &BatchHeader) -> Option<SeenBatch> {
        let same = |b: &&SeenBatch| {
            b.first_sequence() == h.base_sequence && b.last_sequence == h.last_sequence()
        };
        self.batches().iter().find(same).filter(|_| h.producer_epoch == self.epoch).copied()
    }

    /// Whether a transaction of this epoch is open; one of an older epoch may have ended.
    fn is_open(&self, epoch: i16) -> bool {
        self.txn_first_offset.is_some() && self.epoch == epoch
    }

    fn expired(&self, now_ms: i64, after_ms: i64) -> bool {
        self.txn_first_offset.is_none() && now_ms.saturating_sub(self.last_timestamp) >= after_ms
    }
}

/// A transaction whose end marker is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CompletedTxn {
    pub(super) producer_id: i64,
    pub(super) first_offset: Offset,
    /// Offset of the marker.
    pub(super) last_offset: Offset,
    pub(super) aborted: bool,
    /// The last stable offset once this transaction has ended.
    pub(super) last_stable_offset: Offset,
}

/// An aborted transaction, as a fetch answer lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbortedTxn {
    /// The producer.
    pub producer_id: i64,
    /// The first offset of the transaction.
    pub first_offset: Offset,
}

/// A transaction that has records in a log and no marker yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenTxn {
    /// The producer.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// The first offset of the transaction.
    pub first_offset: Offset,
    /// Timestamp of the producer's last batch, in milliseconds.
    pub last_timestamp: i64,
}

/// The producers of one log.
#[derive(Debug, Clone, Default)]
pub(super) struct Producers {
    by_id: BTreeMap<i64, ProducerEntry>,
    /// Open transactions: first offset to producer.
    ongoing: BTreeMap<Offset, i64>,
    /// Ended transactions whose marker may not be replicated: first offset to marker.
    unreplicated: BTreeMap<Offset, Offset>,
    /// Everything below this offset is accounted for.
    pub(super) map_end: Offset,
    /// The offset of the newest snapshot, or the log start offset.
    pub(super) snapshot_end: Offset,
}

impl Producers {
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, &ProducerEntry)> {
        self.by_id.iter().map(|(id, e)| (*id, e))
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes in an entry of a snapshot.
    pub(super) fn insert(&mut self, id: i64, entry: ProducerEntry) {
        if let Some(first) = entry.txn_first_offset {
            self.ongoing.insert(first, id);
        }
        self.by_id.insert(id, entry);
    }

    /// Whether a batch that a client or coordinator sent may be appended: `Some` tells the batch
    /// it repeats. `asked` has the producers that may begin a transaction; `None` lets all begin.
    pub(super) fn check(
        &self,
        h: &BatchHeader,
        origin: Origin,
        asked: Option<&Verifications>,
    ) -> Result<Option<SeenBatch>, LogError> {
        let producer_id = h.producer_id;
        let entry = self.by_id.get(&producer_id);
        let client = matches!(origin, Origin::Client(_)) && !h.is_control();
        if client && let Some(seen) = entry.and_then(|e| e.find(h)) {
            return Ok(Some(seen));
        }
        if let Some(entry) = entry.filter(|e| h.producer_epoch < e.epoch) {
            if mutant(Mutant::AcceptOldProducerEpoch) {
                return Ok(None);
            }
            let (known, got) = (entry.epoch, h.producer_epoch);
            return Err(LogError::ProducerFenced { producer_id, known, got });
        }
        if h.is_control() {
            return Ok(None);
        }
        if h.is_transactional()
            && !entry.is_some_and(|e| e.is_open(h.producer_epoch))
            && asked.is_some_and(|a| !a.admits(producer_id, origin.guard()))
            && !mutant(Mutant::SkipVerification)
        {
            return Err(LogError::Unverified { producer_id });
        }
        if client {
            check_sequence(entry, h, asked)?;
        }
        if entry.is_some_and(|e| e.txn_first_offset.is_some()) && !h.is_transactional() {
            return Err(LogError::InvalidTxnState { producer_id });
        }
        Ok(None)
    }

    /// Whether a marker that a coordinator sent may be appended (KIP-1228,
    /// `ProducerAppendInfo.checkProducerEpoch`).
    pub(super) fn check_marker(
        &self,
        h: &BatchHeader,
        marker: Marker,
        origin: Origin,
    ) -> Result<(), LogError> {
        let producer_id = h.producer_id;
        let Some(entry) = self.by_id.get(&producer_id) else { return Ok(()) };
        let strict = match origin {
            Origin::Marker { transaction_version } => transaction_version >= 2,
            Origin::Client(_) | Origin::Group(_) => false,
        };
        let (known, got) = (entry.epoch, h.producer_epoch);
        // With nothing open an equal epoch is that of a marker which is written again, after its
        // answer was lost. The last epoch cannot be exceeded, and must not hang for ever.
        let again = got == known && (entry.txn_first_offset.is_none() || got == i16::MAX);
        if got < known || (strict && got == known && !again) {
            return Err(LogError::ProducerFenced { producer_id, known, got });
        }
        let (known, got) = (entry.coordinator_epoch, marker.coordinator_epoch);
        if known > got && !mutant(Mutant::AcceptStaleCoordinator) {
            return Err(LogError::CoordinatorFenced { producer_id, known, got });
        }
        Ok(())
    }

    /// Whether the producer has a transaction open in this epoch.
    ///
    /// # Errors
    /// `ProducerFenced` if a newer epoch is known.
    pub(super) fn has_open(&self, producer_id: i64, epoch: i16) -> Result<bool, LogError> {
        match self.by_id.get(&producer_id) {
            Some(e) if epoch < e.epoch => {
                Err(LogError::ProducerFenced { producer_id, known: e.epoch, got: epoch })
            }
            entry => Ok(entry.is_some_and(|e| e.is_open(epoch))),
        }
    }

    /// The open transactions, oldest first.
    pub(super) fn open(&self) -> impl Iterator<Item = OpenTxn> {
        self.ongoing.iter().filter_map(|(first_offset, producer_id)| {
            let entry = self.by_id.get(producer_id)?;
            Some(OpenTxn {
                producer_id: *producer_id,
                producer_epoch: entry.epoch,
                first_offset: *first_offset,
                last_timestamp: entry.last_timestamp,
            })
        })
    }

    /// Takes in a batch that is in the log at `base_offset`. `marker` is what a control batch
    /// says. Gives the transaction that it ended.
    pub(super) fn apply(
        &mut self,
        h: &BatchHeader,
        base_offset: Offset,
        marker: Option<Marker>,
    ) -> Option<CompletedTxn> {
        let last_offset = base_offset.saturating_add(i64::from(h.last_offset_delta));
        self.map_end = last_offset.saturating_add(1);
        if !h.has_producer_id() {
            return None;
        }
        if h.is_control() {
            return self.end_txn(h, base_offset, marker?);
        }
        let fresh = || ProducerEntry::new(h.producer_epoch, -1, h.max_timestamp);
        let entry = self.by_id.entry(h.producer_id).or_insert_with(fresh);
        entry.set_epoch(h.producer_epoch);
        entry.last_timestamp = h.max_timestamp;
        entry.push(SeenBatch {
            last_sequence: h.last_sequence(),
            last_offset,
            offset_delta: h.last_offset_delta,
            timestamp: h.max_timestamp,
        });
        if h.is_transactional() && entry.txn_first_offset.is_none() {
            entry.txn_first_offset = Some(base_offset);
            self.ongoing.insert(base_offset, h.producer_id);
        }
        None
    }

    fn end_txn(&mut self, h: &BatchHeader, offset: Offset, marker: Marker) -> Option<CompletedTxn> {
        let producer_id = h.producer_id;
        let fresh = || ProducerEntry::new(h.producer_epoch, -1, h.max_timestamp);
        let entry = self.by_id.entry(producer_id).or_insert_with(fresh);
        entry.set_epoch(h.producer_epoch);
        entry.coordinator_epoch = marker.coordinator_epoch;
        entry.last_timestamp = h.max_timestamp;
        // A marker without data changes neither the last stable offset nor the index.
        let first_offset = entry.txn_first_offset.take()?;
        self.ongoing.remove(&first_offset);
        self.unreplicated.insert(first_offset, offset);
        let last_stable_offset =
            self.ongoing.keys().next().copied().unwrap_or_else(|| offset.saturating_add(1));
        let aborted = marker.aborted;
        let last_offset = offset;
        Some(CompletedTxn { producer_id, first_offset, last_offset, aborted, last_stable_offset })
    }

    pub(super) fn first_unstable_offset(&self) -> Option<Offset> {
        let (open, ended) = (self.ongoing.keys().next(), self.unreplicated.keys().next());
        open.into_iter().chain(ended).min().copied()
    }

    /// Transactions whose marker lies below `offset` are stable.
    pub(super) fn on_high_watermark(&mut self, offset: Offset) {
        self.unreplicated.retain(|_, marker| *marker >= offset);
    }

    pub(super) fn on_log_start(&mut self, log_start: Offset) {
        self.on_high_watermark(log_start);
        self.map_end = self.map_end.max(log_start);
        self.snapshot_end = self.snapshot_end.max(log_start);
    }

    pub(super) fn expire(&mut self, now_ms: i64, after_ms: i64) {
        self.by_id.retain(|_, e| !e.expired(now_ms, after_ms));
    }

    pub(super) fn clear_at(&mut self, offset: Offset) {
        *self = Self { map_end: offset, snapshot_end: offset, ..Self::default() };
    }
}

/// Whether a client's batch follows what is known of its producer. Of one that nothing is known of,
/// any sequence is taken, as its state may have expired; but a producer that takes a new epoch for
/// each transaction begins with 0.
fn check_sequence(
    entry: Option<&ProducerEntry>,
    h: &BatchHeader,
    asked: Option<&Verifications>,
) -> Result<(), LogError> {
    let (producer_id, got) = (h.producer_id, h.base_sequence);
    let last = entry.map_or(-1, ProducerEntry::last_sequence);
    if let Some(waiting) = asked.and_then(|a| a.get(producer_id)) {
        let fresh = entry.is_none_or(|e| e.batches().is_empty());
        if (waiting.bumps_epoch && got != 0 && fresh) || got > waiting.lowest_sequence {
            return Err(LogError::OutOfOrderSequence { producer_id, last, got });
        }
    }
    let Some(entry) = entry else { return Ok(()) };
    let follows = if h.producer_epoch != entry.epoch {
        got == 0 || entry.epoch < 0
    } else {
        entry.epoch < 0 || i64::from(got) == i64::from(last) + 1 || (got == 0 && last == i32::MAX)
    };
    if follows {
        return Ok(());
    }
    Err(LogError::OutOfOrderSequence { producer_id, last, got })
}

#[cfg(test)]
#[path = "producers_test.rs"]
mod tests;
