//! Which leader epoch begins at which offset (`LeaderEpochFileCache.java`, KIP-101), and the text
//! of `leader-epoch-checkpoint`. Pure: when the file is written is for `log_flush`.

use super::checkpoint::{self, BadCheckpoint};
use crate::base::{LeaderEpoch, Offset};

/// An epoch and the offset of its first record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EpochEntry {
    pub(super) epoch: LeaderEpoch,
    pub(super) start: Offset,
}

/// The answer to "where does this epoch end".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest known epoch that is not above the one asked for.
    pub epoch: LeaderEpoch,
    /// The offset after its last record.
    pub end: Offset,
}

/// The epochs of one log. Both epochs and offsets strictly increase.
#[derive(Debug, Clone)]
pub(super) struct Epochs {
    entries: Vec<EpochEntry>,
    /// The file differs from `entries` for records from here on; `Offset::MAX` if nowhere.
    unsaved_from: Offset,
    /// The file has entries that are gone here; no record depends on it.
    stale: bool,
}

impl Default for Epochs {
    fn default() -> Self {
        Self { entries: Vec::new(), unsaved_from: Offset::MAX, stale: false }
    }
}

impl Epochs {
    /// Reads the file's text.
    pub(super) fn parse(text: &str) -> Result<Self, BadCheckpoint> {
        let mut out = Self::default();
        for (line, entry) in checkpoint::lines(text)? {
            let bad = BadCheckpoint { line, what: "not `epoch startOffset`" };
            let (epoch, start) =
                entry.split_once(char::is_whitespace).ok_or_else(|| bad.clone())?;
            let (Ok(epoch), Ok(start)) = (epoch.parse(), start.trim().parse()) else {
                return Err(bad);
            };
            if epoch < 0 || start < 0 {
                return Err(bad);
            }
            out.assign(epoch, start);
        }
        out.saved();
        Ok(out)
    }

    /// The file's text.
    pub(super) fn text(&self) -> String {
        checkpoint::text(self.entries.iter().map(|e| format!("{} {}", e.epoch, e.start)))
    }

    pub(super) fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|e| e.epoch)
    }

    /// The first record whose epoch the file does not tell; `Offset::MAX` if there is none. An
    /// epoch without records is no reason to write the file.
    pub(super) fn unsaved_from(&self) -> Offset {
        self.unsaved_from
    }

    /// The file was written.
    pub(super) fn saved(&mut self) {
        (self.unsaved_from, self.stale) = (Offset::MAX, false);
    }

    /// Whether the file should be written when there is time.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// Lets `epoch` begin at `start`; entries that contradict it are dropped. A negative epoch,
    /// as in batches of tools, is not recorded.
    pub(super) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        if epoch < 0 || start < 0 {
            return;
        }
        let known = self.entries.last().is_some_and(|l| l.epoch == epoch && start >= l.start);
        if known {
            return;
        }
        while self.entries.last().is_some_and(|l| l.epoch >= epoch || l.start >= start) {
            self.entries.pop();
        }
        self.entries.push(EpochEntry { epoch, start });
        self.unsaved_from = self.unsaved_from.min(start);
    }

    /// `LeaderEpochFileCache.endOffsetFor`.
    pub(super) fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        if epoch < 0 {
            return None;
        }
        if self.latest() == Some(epoch) {
            return Some(EpochEnd { epoch, end: log_end });
        }
        let above = self.entries.partition_point(|e| e.epoch <= epoch);
        let end = self.entries.get(above)?.start;
        let floor = above.checked_sub(1).and_then(|at| self.entries.get(at));
        // Below all that is known: data before the log start is gone, so that the start of the
        // first known epoch is where the asker must begin.
        Some(EpochEnd { epoch: floor.map_or(epoch, |e| e.epoch), end })
    }

    pub(super) fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let at = self.entries.partition_point(|e| e.start <= offset).checked_sub(1)?;
        self.entries.get(at).map(|e| e.epoch)
    }

    /// Drops epochs that begin at or after `end`.
    pub(super) fn truncate_end(&mut self, end: Offset) {
        let keep = self.entries.partition_point(|e| e.start < end);
        if keep < self.entries.len() {
            self.unsaved_from = self.unsaved_from.min(end);
            self.stale = true;
        }
        self.entries.truncate(keep);
    }

    /// Drops epochs that end at or before `start`; the one that holds `start` begins there now.
    pub(super) fn truncate_start(&mut self, start: Offset) {
        let below = self.entries.partition_point(|e| e.start <= start);
        if let Some(last) = below.checked_sub(1)
            && self.entries[last].start < start
        {
            self.entries.drain(..last);
            self.entries[0].start = start;
            self.stale = true;
        } else if below > 1 {
            self.entries.drain(..below - 1);
            self.stale = true;
        }
    }

    pub(super) fn clear(&mut self) {
        self.truncate_end(0);
    }

    /// Where the first epoch begins.
    pub(super) fn first(&self) -> Option<Offset> {
        self.entries.first().map(|e| e.start)
    }

    /// As [`Epochs::clear`]; gives what was there.
    pub(super) fn take(&mut self) -> Vec<EpochEntry> {
        let entries = self.entries.clone();
        self.clear();
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(list: &[(i32, i64)]) -> Epochs {
        let mut e = Epochs::default();
        list.iter().for_each(|(epoch, start)| e.assign(*epoch, *start));
        e
    }

    fn ends(e: &Epochs, epoch: i32) -> Option<(i32, i64)> {
        e.end_offset_for(epoch, 100).map(|x| (x.epoch, x.end))
    }

    #[test]
    fn the_file_is_kafkas() {
        let e = epochs(&[(0, 0), (3, 17), (4, 90)]);
        assert_eq!(e.text(), "0\n3\n0 0\n3 17\n4 90\n");
        let read = Epochs::parse(&e.text()).unwrap();
        assert_eq!(read.entries, e.entries);
        assert_eq!((read.unsaved_from(), e.unsaved_from()), (Offset::MAX, 0));
        for bad in ["0\n1\n1\n", "0\n1\nx 1\n", "0\n1\n-1 1\n", "0\n2\n1 1\n", "2\n0\n"] {
            assert!(Epochs::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn where_epochs_end() {
        let e = epochs(&[(2, 10), (4, 20), (7, 50)]);
        assert_eq!(ends(&e, 7), Some((7, 100)), "the latest ends at the log end");
        assert_eq!(ends(&e, 8), None, "not known yet");
        assert_eq!(ends(&e, 5), Some((4, 50)));
        assert_eq!(ends(&e, 2), Some((2, 20)));
        assert_eq!(ends(&e, 1), Some((1, 10)), "below all: begin at the first known");
        assert_eq!(ends(&e, -1), None);
        assert_eq!(ends(&Epochs::default(), 0), None);
        assert_eq!((e.epoch_at(9), e.epoch_at(10), e.epoch_at(49)), (None, Some(2), Some(4)));
    }

    #[test]
    fn assigning_drops_what_contradicts() {
        let mut e = epochs(&[(1, 0), (2, 10), (3, 20)]);
        e.assign(3, 25);
        assert_eq!(e.text(), "0\n3\n1 0\n2 10\n3 20\n", "the first offset of an epoch stays");
        e.assign(4, 20);
        assert_eq!(e.text(), "0\n3\n1 0\n2 10\n4 20\n", "3 had no data");
        e.assign(2, 5);
        assert_eq!(e.text(), "0\n2\n1 0\n2 5\n");
        e.assign(-1, 5);
        assert_eq!(e.latest(), Some(2));
    }

    #[test]
    fn truncation_both_ways() {
        let all = epochs(&[(1, 0), (2, 10), (3, 20)]);
        let end = |at| {
            let mut e = all.clone();
            e.truncate_end(at);
            e.text()
        };
        assert_eq!(end(20), "0\n2\n1 0\n2 10\n");
        assert_eq!(end(21), all.text());
        assert_eq!(end(0), "0\n0\n");
        let start = |at| {
            let mut e = all.clone();
            e.truncate_start(at);
            e.text()
        };
        assert_eq!(start(0), all.text());
        assert_eq!(start(10), "0\n2\n2 10\n3 20\n");
        assert_eq!(start(15), "0\n2\n2 15\n3 20\n");
        assert_eq!(start(99), "0\n1\n3 99\n");
    }
}
