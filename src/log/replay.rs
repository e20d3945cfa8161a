//! The producers' state of a log that is loaded or was truncated: from a snapshot and the batches
//! after it (`ProducerStateManager.truncateAndReload`, `UnifiedLog.rebuildProducerState`).

use super::{
    error::LogError,
    log::{Home, Log},
    log_append::read_marker,
    names,
    producers::Producers,
    scan::HEADERS_WINDOW,
    snapshot::{self, SNAPSHOT_BYTES_MAX},
};
use crate::base::{Mutant, Now, Offset, mutant};

impl Log {
    /// Reads the newest usable snapshot and replays the batches after it: after a truncation.
    pub(super) fn reload_producers(&mut self, now: Now) -> Result<(), LogError> {
        let (start, end) = (self.log_start, self.end);
        self.drop_snapshots(|at| at > end || at <= start)?;
        self.load_producers(self.end, false, now)
    }

    /// Makes the producers' state from the newest usable snapshot at or below `at_most` and the
    /// batches after it. Without a snapshot a clean stop had no producers; otherwise all batches
    /// are looked at. Transaction indexes of the segments from `at_most` on are made anew.
    pub(super) fn load_producers(
        &mut self,
        at_most: Offset,
        clean: bool,
        now: Now,
    ) -> Result<(), LogError> {
        let mut producers = Producers::default();
        let (end, mut from) = (self.end, if clean { self.end } else { self.log_start });
        let mut snapshots = self.snapshots()?;
        while let Some(offset) = snapshots.pop() {
            let name = names::file(offset, names::SNAPSHOT);
            if offset > end {
                self.remove(&name)?;
                continue;
            }
            if offset > at_most || offset < self.log_start {
                continue;
            }
            let path = self.folder().join(&name);
            let bytes = self.dir.fs().read(&path, SNAPSHOT_BYTES_MAX);
            let bytes = bytes.map_err(|e| self.fault("reading", &path, e))?;
            if let Some(entries) = snapshot::decode(&bytes) {
                entries.into_iter().for_each(|(id, entry)| producers.insert(id, entry));
                from = offset;
                break;
            }
            tracing::warn!(path = %path.display(), "snapshot is damaged, removed");
            self.remove(&name)?;
            // Not knowing is not the same as there being none.
            from = self.log_start;
        }
        (producers.map_end, producers.snapshot_end) = (from, from);
        producers.expire(now.wall_ms, self.config.producer_id_expiration_ms);
        self.producers = producers;
        if mutant(Mutant::DedupeLostOnRestart) {
            self.producers = Producers::default();
            return Ok(());
        }
        self.replay(from, at_most)
    }

    fn replay(&mut self, from: Offset, txns_from: Offset) -> Result<(), LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let first = self.segments.partition_point(|s| s.base <= from).saturating_sub(1);
        if from >= self.end {
            return Ok(());
        }
        for segment in self.segments.iter_mut().skip(first) {
            let start = segment.index_floor(home, from)?;
            let mut walk = segment.scan(home, start, HEADERS_WINDOW)?;
            while let Some((pos, h)) = segment.step(home, &mut walk)? {
                if h.last_offset() < from {
                    continue;
                }
                let marker = if h.is_control() {
                    let body = walk.body(pos, &h);
                    let body = body.map_err(|e| home.fault("reading", segment.base, names::LOG, e));
                    read_marker(&h, body?)
                } else {
                    None
                };
                let ended = self.producers.apply(&h, h.base_offset, marker);
                if let Some(txn) = ended.filter(|t| t.last_offset >= txns_from) {
                    segment.note_txn(home, &txn)?;
                }
            }
        }
        self.producers.map_end = self.end;
        Ok(())
    }
}
