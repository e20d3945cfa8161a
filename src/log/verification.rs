//! Producers that asked to write into a transaction and wait for its coordinator's word (KIP-890
//! part 1, `VerificationStateEntry.java`, `VerificationGuard.java`). Kept from the question until
//! the first append of the transaction, or until a marker ends it: a marker that comes between
//! the coordinator's word and the append makes the word worthless. Pure, in memory only.

use std::{collections::BTreeMap, num::NonZeroU64};

use crate::record::BatchHeader;

/// Producers that may wait in one log; the one that waits longest gives way.
const WAITING_MAX: usize = 4096;

/// What lets a batch begin a transaction in a log: names the question that the coordinator
/// answered. Never given twice by one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerificationGuard(NonZeroU64);

/// Where a batch for a leader comes from, which tells how much of it is checked
/// (`AppendOrigin.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A producer, by Produce.
    Client(Option<VerificationGuard>),
    /// A group coordinator; offsets that are committed in a transaction have no sequences.
    Group(Option<VerificationGuard>),
    /// A transaction coordinator ends a transaction.
    Marker {
        /// The transaction's version, `transaction.version` (KIP-1228): from 2 on a marker has a
        /// higher epoch than the records that it ends.
        transaction_version: i16,
    },
}

impl Origin {
    /// What a client or a group brings to begin a transaction with.
    pub(super) const fn guard(self) -> Option<VerificationGuard> {
        match self {
            Self::Client(guard) | Self::Group(guard) => guard,
            Self::Marker { .. } => None,
        }
    }
}

/// One producer that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    since_ms: i64,
    guard: VerificationGuard,
    /// Whether the producer takes a new epoch for each transaction (KIP-890 part 2).
    pub(super) bumps_epoch: bool,
    /// The lowest sequence that waits: none above it may be appended before.
    pub(super) lowest_sequence: i32,
    epoch: i16,
}

/// All that wait in one log.
#[derive(Debug, Default)]
pub(super) struct Verifications {
    by_producer: BTreeMap<i64, Waiting>,
    given: u64,
}

impl Verifications {
    /// The producer asks, or asks again: it then has the same guard.
    pub(super) fn begin(
        &mut self,
        producer_id: i64,
        sequence: i32,
        epoch: i16,
        bumps_epoch: bool,
        now_ms: i64,
    ) -> VerificationGuard {
        if let Some(waiting) = self.by_producer.get_mut(&producer_id) {
            if epoch > waiting.epoch {
                (waiting.epoch, waiting.lowest_sequence) = (epoch, sequence);
            } else if epoch == waiting.epoch {
                waiting.lowest_sequence = waiting.lowest_sequence.min(sequence);
            }
            return waiting.guard;
        }
        if self.by_producer.len() >= WAITING_MAX {
            let oldest = self.by_producer.iter().min_by_key(|(_, w)| w.since_ms);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.by_producer.remove(&id);
            }
        }
        self.given = self.given.saturating_add(1);
        let guard = VerificationGuard(NonZeroU64::MIN.saturating_add(self.given));
        let lowest_sequence = sequence;
        let waiting = Waiting { since_ms: now_ms, guard, bumps_epoch, lowest_sequence, epoch };
        self.by_producer.insert(producer_id, waiting);
        guard
    }

    pub(super) fn get(&self, producer_id: i64) -> Option<&Waiting> {
        self.by_producer.get(&producer_id)
    }

    /// Whether `guard` is that of the producer's question.
    pub(super) fn admits(&self, producer_id: i64, guard: Option<VerificationGuard>) -> bool {
        guard.is_some() && self.get(producer_id).map(|w| w.guard) == guard
    }

    /// A batch is in the log. A marker leaves the question of the next transaction alone, which by
    /// its epoch it cannot end (`UnifiedLog.updateProducers`).
    pub(super) fn appended(&mut self, h: &BatchHeader) {
        if !h.is_transactional() || self.by_producer.is_empty() {
            return;
        }
        let next = |w: &Waiting| w.bumps_epoch && h.is_control() && h.producer_epoch == w.epoch;
        if !self.get(h.producer_id).is_some_and(next) {
            self.by_producer.remove(&h.producer_id);
        }
    }

    /// Forgets those that have waited for `after_ms`.
    pub(super) fn expire(&mut self, now_ms: i64, after_ms: i64) {
        self.by_producer.retain(|_, w| now_ms.saturating_sub(w.since_ms) < after_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::batches::Batch;

    fn header(b: &Batch) -> BatchHeader {
        BatchHeader::read(&b.bytes()).unwrap()
    }

    #[test]
    fn a_marker_ends_the_wait_and_the_guard_with_it() {
        let mut all = Verifications::default();
        let first = all.begin(7, 0, 0, false, 0);
        assert_eq!(all.begin(7, 3, 0, false, 0), first, "the same question again");
        assert!(all.admits(7, Some(first)) && !all.admits(7, None) && !all.admits(8, None));
        all.appended(&header(&Batch::of(1, 1, 0).by(7, 0, 0)));
        assert!(all.admits(7, Some(first)), "outside of transactions");
        all.appended(&header(&Batch::marker(7, 0, false, 0)));
        assert!(!all.admits(7, Some(first)));
        let second = all.begin(7, 0, 0, false, 0);
        assert!(all.admits(7, Some(second)) && !all.admits(7, Some(first)), "never given twice");
    }

    #[test]
    fn the_marker_of_the_transaction_before_lets_the_next_one_wait() {
        let mut all = Verifications::default();
        // The marker of epoch 1 ends the transaction of epoch 0; the producer goes on with 1.
        let guard = all.begin(7, 0, 1, true, 0);
        all.appended(&header(&Batch::marker(7, 1, true, 0)));
        assert!(all.admits(7, Some(guard)));
        all.appended(&header(&Batch::marker(7, 2, true, 0)));
        assert!(!all.admits(7, Some(guard)));
    }

    #[test]
    fn the_lowest_sequence_counts_within_an_epoch() {
        let mut all = Verifications::default();
        for (sequence, epoch, lowest) in [(5, 1, 5), (3, 1, 3), (9, 1, 3), (0, 0, 3), (4, 2, 4)] {
            all.begin(7, sequence, epoch, true, 0);
            assert_eq!(all.get(7).unwrap().lowest_sequence, lowest);
        }
    }

    #[test]
    fn who_waits_too_long_or_is_one_too_many_is_forgotten() {
        let mut all = Verifications::default();
        for id in 0..=4096 {
            all.begin(id, 0, 0, true, id);
        }
        assert_eq!(all.by_producer.len(), WAITING_MAX);
        assert!(all.get(0).is_none() && all.get(4096).is_some());
        all.expire(5096, 1000);
        assert_eq!(all.by_producer.keys().copied().collect::<Vec<_>>(), Vec::<i64>::new());
    }
}
