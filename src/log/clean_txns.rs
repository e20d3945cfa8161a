//! Transactions as a cleaning walks past them (`CleanedTransactionMetadata.java`): which batches
//! were aborted, and which markers no record depends on any more. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{producers::Marker, txn_index::TxnEntry};
use crate::{base::Offset, record::BatchHeader};

#[derive(Debug)]
struct Aborted {
    entry: TxnEntry,
    /// A batch of it was met.
    met: bool,
}

/// What is known of transactions at one point of the walk.
#[derive(Debug, Default)]
pub(super) struct TxnWalk {
    /// Producers of which a batch of a committed transaction was met, and its marker not yet.
    committed: BTreeSet<i64>,
    aborted: BTreeMap<i64, Aborted>,
    /// Aborted transactions that begin later, by first offset and producer.
    ahead: BTreeMap<(Offset, i64), TxnEntry>,
}

/// What a marker means for those that clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MarkerFate {
    /// Records of its transaction were met: it stays.
    Needed,
    /// As above, and its entry stays in the index of aborted transactions.
    NeededInIndex(TxnEntry),
    /// Nothing is left of its transaction: it may go once its time has come.
    Done,
}

impl TxnWalk {
    /// Takes in aborted transactions that have records from here on; known ones change nothing.
    pub(super) fn expect(&mut self, entries: impl IntoIterator<Item = TxnEntry>) {
        self.ahead.extend(entries.into_iter().map(|e| ((e.first_offset, e.producer_id), e)));
    }

    /// Walks past a batch of data. Tells whether it was aborted.
    pub(super) fn on_batch(&mut self, h: &BatchHeader) -> bool {
        self.reach(h.last_offset());
        if !h.is_transactional() {
            return false;
        }
        if let Some(aborted) = self.aborted.get_mut(&h.producer_id) {
            aborted.met = true;
            return true;
        }
        self.committed.insert(h.producer_id);
        false
    }

    /// Walks past a control batch, which says `marker`.
    pub(super) fn on_control(&mut self, h: &BatchHeader, marker: Option<Marker>) -> MarkerFate {
        self.reach(h.last_offset());
        match marker {
            // An empty one was cleaned before; of another kind it is none of ours.
            None if h.records_count == 0 => MarkerFate::Done,
            None => MarkerFate::Needed,
            Some(marker) if marker.aborted => match self.aborted.remove(&h.producer_id) {
                Some(Aborted { entry, met: true }) => MarkerFate::NeededInIndex(entry),
                _ => MarkerFate::Done,
            },
            Some(_) if self.committed.remove(&h.producer_id) => MarkerFate::Needed,
            Some(_) => MarkerFate::Done,
        }
    }

    fn reach(&mut self, offset: Offset) {
        while let Some(next) = self.ahead.first_entry()
            && next.key().0 <= offset
        {
            let entry = next.remove();
            self.aborted.entry(entry.producer_id).or_insert(Aborted { entry, met: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::batches::Batch;

    fn header(batch: Batch, at: Offset) -> BatchHeader {
        BatchHeader::read(&batch.at(at, 0).bytes()).unwrap()
    }

    fn data(id: i64, at: Offset) -> BatchHeader {
        header(Batch::of(2, 1, 0).by(id, 0, 0).in_txn(), at)
    }

    fn end(walk: &mut TxnWalk, id: i64, commit: bool, at: Offset) -> MarkerFate {
        let marker = Marker { aborted: !commit, coordinator_epoch: 0 };
        walk.on_control(&header(Batch::marker(id, 0, commit, 0), at), Some(marker))
    }

    #[test]
    fn markers_outlive_the_records_of_their_transaction() {
        let aborted =
            TxnEntry { producer_id: 1, first_offset: 10, last_offset: 20, last_stable_offset: 21 };
        let mut walk = TxnWalk::default();
        walk.expect([aborted]);
        assert!(!walk.on_batch(&data(1, 4)), "an earlier transaction of the same producer");
        assert_eq!(end(&mut walk, 1, true, 6), MarkerFate::Needed);
        assert_eq!(end(&mut walk, 1, true, 7), MarkerFate::Done);
        assert!(!walk.on_batch(&data(2, 8)));
        assert!(walk.on_batch(&data(1, 10)));
        walk.expect([aborted]);
        assert!(!walk.on_batch(&header(Batch::of(1, 1, 0), 12)), "outside of a transaction");
        assert!(walk.on_batch(&data(1, 14)));
        assert_eq!(end(&mut walk, 2, true, 16), MarkerFate::Needed);
        assert_eq!(end(&mut walk, 1, false, 20), MarkerFate::NeededInIndex(aborted));
        assert!(!walk.on_batch(&data(1, 22)));
        assert_eq!(end(&mut walk, 1, true, 24), MarkerFate::Needed);
    }

    #[test]
    fn an_abort_whose_records_are_gone_is_done() {
        let mut walk = TxnWalk::default();
        walk.expect([TxnEntry {
            producer_id: 1,
            first_offset: 10,
            last_offset: 20,
            last_stable_offset: 21,
        }]);
        assert_eq!(end(&mut walk, 1, false, 20), MarkerFate::Done);
        let empty = header(Batch::marker(1, 0, false, 0), 25);
        let empty = BatchHeader { records_count: 0, ..empty };
        assert_eq!(walk.on_control(&empty, None), MarkerFate::Done);
        let other = BatchHeader { records_count: 1, ..empty };
        assert_eq!(walk.on_control(&other, None), MarkerFate::Needed);
    }
}
