//! Loading what is on disk (`LogLoader.java`). After a clean stop the names and sizes of the files
//! are enough, with a look at the end of the last segment. After an unclean one the batches from
//! the recovery point on are checked and cut at the first that is damaged; indexes, epochs and
//! producers are made anew. Works with no byte free on the disk: what cannot be written stays in
//! memory.

use std::collections::BTreeMap;

use super::{
    error::LogError,
    leftovers::Files,
    log::{Home, Log, Presence},
    names,
    scan::{BODIES_WINDOW, HEADERS_WINDOW, Scanner},
    segment::Segment,
};
use crate::base::{Mutant, Now, Offset, mutant};
use crate::record::{BatchError, BatchHeader, batch::check_crc};

impl Log {
    /// Loads a directory that was left by a clean stop.
    pub(super) fn load_clean(&mut self, now: Now) -> Result<(), LogError> {
        let files = self.survey()?;
        let rebuild_epochs = self.read_epochs()?;
        self.open_segments(files, Offset::MAX, now)?;
        let last = self.segments.len().checked_sub(1);
        let end = last.map_or(Ok(Some(self.log_start)), |at| self.tail_end(at))?;
        let Some(end) = end else {
            // The marker promised more than the disk holds.
            let base = self.segments.last().map_or(0, |s| s.base);
            tracing::warn!(tp = %self.tp, base, "damaged after a clean stop, recovering");
            self.segments.clear();
            self.recover(base, now)?;
            self.checkpointed = Offset::MAX;
            return Ok(());
        };
        self.presence = Presence::Loaded;
        if end != self.end && self.deferred_size > 0 {
            tracing::warn!(tp = %self.tp, end, remembered = self.end, "log changed while stopped");
        }
        self.end = end;
        (self.flushed, self.recovery_point) = (end, end);
        self.checkpointed = end;
        if rebuild_epochs {
            self.rebuild_epochs(Offset::MAX)?;
        }
        self.settle_start(now)?;
        // Indexes that were just made anew may be in memory only.
        if self.segments.iter().any(|s| s.index_unsynced) {
            self.recovery_point = self.recovery_point.min(self.reliable());
        }
        self.load_producers(self.end, true, now)
    }

    /// Loads a directory that was left by an unclean stop, trusting only what lies below
    /// `recovery_point`.
    pub(super) fn recover(&mut self, recovery_point: Offset, now: Now) -> Result<(), LogError> {
        let files = self.survey()?;
        let rebuild_epochs = self.read_epochs()?;
        // Names from before a killed process are not durable, either.
        self.entries_changed = self.entries_changed.wrapping_add(1);
        self.open_segments(files, recovery_point, now)?;
        self.presence = Presence::Loaded;
        self.end = self.segments.first().map_or(self.log_start, |s| s.base);
        let mut rescanned = None;
        let mut at = 0;
        while at < self.segments.len() {
            let next = self.segments.get(at + 1).map(|s| s.base);
            if next.is_some_and(|next| next <= recovery_point) {
                at += 1;
                continue;
            }
            let base = self.segments[at].base;
            rescanned = rescanned.or(Some(base));
            let damaged = self.rescan(at, recovery_point)?;
            // Kafka's cleaner leaves holes between segments, ours none: elsewhere one means that a
            // file lost its end.
            let cleaned = self.first_dirty.unwrap_or(0);
            let follows = match next {
                Some(next) if next <= cleaned => next >= self.end,
                Some(next) => next == self.end,
                None => true,
            };
            at += 1;
            if damaged || !follows {
                self.drop_after(at)?;
            }
        }
        // Where the log starts is written down now and then, its epochs at once: a start that was
        // forgotten brings back records of epochs that the file has dropped, and without them it
        // would not be seen where another replica's log parts from this one.
        let start = self.segments.first().map_or(self.end, |s| s.base).max(self.log_start);
        if rebuild_epochs {
            self.rebuild_epochs(Offset::MAX)?;
        } else if let Some(first) = self.epochs.first().filter(|first| *first > start) {
            self.rebuild_epochs(first)?;
        }
        self.checkpointed = recovery_point;
        self.flushed = recovery_point.min(self.end);
        self.recovery_point = self.flushed.min(self.reliable());
        self.settle_start(now)?;
        if self.log_start == self.end {
            // Without records the file may be behind, as it is written with them: a follower must
            // not ask where an epoch ends that it had long left.
            self.epochs.clear();
        }
        self.load_producers(rescanned.unwrap_or(self.end), false, now)?;
        if self.producers.len() > 0 {
            self.take_snapshot(self.end)?;
        }
        Ok(())
    }

    fn open_segments(
        &mut self,
        files: BTreeMap<Offset, Files>,
        trusted_below: Offset,
        now: Now,
    ) -> Result<(), LogError> {
        let mut rebuild = Vec::new();
        let bases: Vec<_> = files.keys().copied().skip(1).collect();
        for (at, (base, files)) in files.into_iter().enumerate() {
            let mut segment = Segment::found(base, files.log.unwrap_or(0), now.wall_ms);
            if files.txn_index {
                segment.with_txns();
            }
            let sizes = files.index.zip(files.time_index);
            let whole = sizes.is_some_and(|(index, time)| segment.with_indexes(index, time));
            let trusted = bases.get(at).copied().unwrap_or(Offset::MAX) <= trusted_below;
            if !whole && trusted {
                rebuild.push(at);
            }
            self.segments.push(segment);
        }
        for at in rebuild {
            self.rebuild_indexes(at)?;
            self.closed_unsynced = true;
        }
        Ok(())
    }

    /// Makes the indexes of a segment anew from its headers.
    fn rebuild_indexes(&mut self, at: usize) -> Result<(), LogError> {
        let config = self.config.clone();
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = &mut self.segments[at];
        let mut walk = segment.scan(home, 0, HEADERS_WINDOW)?;
        let size = segment.size;
        segment.size = 0;
        segment.reset_indexes();
        while let Some((_, h)) = segment.step(home, &mut walk)? {
            segment.note(home, h.last_offset(), h.size, h.max_timestamp, &config)?;
        }
        segment.size = size;
        segment.seal(home)
    }

    /// The offset after the last batch of segment `at`; `None` if its file does not end with a
    /// whole batch.
    fn tail_end(&mut self, at: usize) -> Result<Option<Offset>, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = &mut self.segments[at];
        let from = segment.index_floor(home, Offset::MAX)?;
        if from > segment.size {
            return Ok(None);
        }
        let mut walk = segment.scan(home, from, HEADERS_WINDOW)?;
        let mut end = segment.base;
        while let Some((_, h)) = segment.step(home, &mut walk)? {
            if h.base_offset < end || h.last_offset_delta < 0 {
                return Ok(None);
            }
            end = h.next_offset();
        }
        Ok((walk.pos() == segment.size).then_some(end))
    }

    /// Checks segment `at`, byte by byte from offset `verify_from` on, makes its indexes and
    /// epochs anew and cuts it at the first batch that is damaged. Tells whether there was one.
    fn rescan(&mut self, at: usize, verify_from: Offset) -> Result<bool, LogError> {
        let config = self.config.clone();
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = &mut self.segments[at];
        let base = segment.base;
        segment.reset_txns(home)?;
        let mut walk = segment.scan(home, 0, BODIES_WINDOW)?;
        let size = segment.size;
        segment.size = 0;
        segment.reset_indexes();
        let mut end = base;
        let damage = loop {
            match check_next(&mut walk, base, end, verify_from)
                .map_err(|e| home.fault("reading", base, names::LOG, e))?
            {
                Checked::End => break None,
                Checked::Bad(why) => break Some(why),
                Checked::Batch(h) => {
                    if self.epochs.latest().is_none_or(|known| h.partition_leader_epoch > known) {
                        self.epochs.assign(h.partition_leader_epoch, h.base_offset);
                    }
                    segment.note(home, h.last_offset(), h.size, h.max_timestamp, &config)?;
                    end = h.next_offset();
                }
            }
        };
        if let Some(why) = &damage {
            let (tp, lost) = (&self.tp, size - segment.size);
            tracing::warn!(%tp, base, end, lost, why, "cut at the first damaged batch");
            segment.cut(home, segment.size)?;
        }
        self.end = end;
        self.closed_unsynced = true;
        if at + 1 < self.segments.len() {
            self.segments[at].seal(home)?;
        }
        Ok(damage.is_some())
    }

    /// Removes the segments from `at` on, the last first.
    fn drop_after(&mut self, at: usize) -> Result<(), LogError> {
        while self.segments.len() > at
            && let Some(segment) = self.segments.pop()
        {
            tracing::warn!(tp = %self.tp, base = segment.base, "dropped, what came before is lost");
            self.unlink(segment)?;
        }
        Ok(())
    }

    /// Makes log start, log end, epochs and segments agree.
    fn settle_start(&mut self, now: Now) -> Result<(), LogError> {
        if self.log_start > self.end {
            let (tp, start, end) = (&self.tp, self.log_start, self.end);
            tracing::warn!(%tp, start, end, "log ends below its start, emptied");
            self.truncate_fully_and_start_at(start, None, now)?;
            return Ok(());
        }
        let first = self.segments.first().map_or(self.end, |s| s.base);
        self.log_start = self.log_start.max(first);
        self.epochs.truncate_end(self.end);
        self.epochs.truncate_start(self.log_start);
        Ok(())
    }
}

enum Checked {
    Batch(BatchHeader),
    Bad(String),
    End,
}

fn check_next(
    walk: &mut Scanner,
    base: Offset,
    end: Offset,
    verify_from: Offset,
) -> std::io::Result<Checked> {
    let (pos, h) = match walk.next()? {
        None => return Ok(Checked::End),
        Some(Err(why)) => return Ok(Checked::Bad(why.to_string())),
        Some(Ok(found)) => found,
    };
    let ordered = h.base_offset >= end && h.last_offset_delta >= 0;
    if !ordered || h.last_offset() - base > i64::from(i32::MAX) {
        let why = format!("offsets {} to {} after {end}", h.base_offset, h.last_offset());
        return Ok(Checked::Bad(why));
    }
    if h.last_offset() >= verify_from {
        let body = walk.body(pos, &h)?;
        let trusted = mutant(Mutant::RecoveryTrustsTail);
        let checked: Result<(), BatchError> = if trusted { Ok(()) } else { check_crc(&h, body) };
        if let Err(why) = checked {
            return Ok(Checked::Bad(why.to_string()));
        }
    }
    Ok(Checked::Batch(h))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::{
        Uuid,
        ports::{Fs, OpenMode},
    };
    use crate::log::fixture::{append, at, dir, new_log, open, read_all, sim, small};
    use crate::log::{LogInit, Recovery};
    use crate::testing::{batches::Batch, fs::SimFs};

    const FOLDER: &str = "/data/t-0";

    fn path(name: &str) -> std::path::PathBuf {
        Path::new(FOLDER).join(name)
    }

    fn segment(base: Offset, suffix: &str) -> std::path::PathBuf {
        path(&names::file(base, suffix))
    }

    /// Two batches of 1500 bytes a segment, three segments and a half.
    fn filled(fs: &SimFs) -> Log {
        let mut log = new_log(fs, &small());
        for n in 0..7 {
            append(&mut log, &Batch::of(1, 1500, n * 10).by(7, 0, n as i32).at(0, 1), n).unwrap();
        }
        log
    }

    fn unclean(fs: &SimFs, recovery_point: Offset) -> Log {
        open(&dir(fs), &small(), Recovery::Unclean { recovery_point }).unwrap()
    }

    fn flip(fs: &SimFs, file: &Path, pos: u64) {
        let file = fs.open(file, OpenMode::ReadWrite).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, pos).unwrap();
        file.write_all_at(&[&[byte[0] ^ 1]], pos).unwrap();
    }

    #[test]
    fn a_torn_tail_is_cut_wherever_it_tore() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        append(&mut log, &Batch::of(2, 40, 1), 0).unwrap();
        let whole = log.size();
        append(&mut log, &Batch::of(3, 40, 2), 0).unwrap();
        let size = log.size();
        drop(log);
        for cut in (whole + 1..size).step_by(7) {
            let left = fs.killed();
            left.open(&segment(0, names::LOG), OpenMode::ReadWrite).unwrap().set_len(cut).unwrap();
            let mut log = unclean(&left, 0);
            assert_eq!((log.log_end_offset(), log.size()), (2, whole), "cut at {cut}");
            append(&mut log, &Batch::of(1, 9, 3), 0).unwrap();
            assert_eq!(read_all(&mut log, 0, 9999).len(), 2);
        }
    }

    #[test]
    fn damage_is_cut_only_past_the_recovery_point_and_ends_the_log() {
        let fs = sim(1);
        drop(filled(&fs));
        flip(&fs, &segment(2, names::LOG), 200);
        let log = unclean(&fs.killed(), 4);
        assert_eq!(log.log_end_offset(), 7, "below the recovery point nothing is read");
        let log = unclean(&fs.killed(), 1);
        assert_eq!(log.log_end_offset(), 2);
        assert_eq!(log.recovery_point(), 0, "the closed segment's new indexes are not durable");
        let left = fs.killed();
        drop(unclean(&left, 0));
        let names: Vec<_> = left.read_dir(Path::new(FOLDER)).unwrap();
        assert!(names.iter().all(|e| !e.name.starts_with("00000000000000000004")), "{names:?}");
        let mut log = unclean(&left, 0);
        append(&mut log, &Batch::of(1, 1, 0).by(7, 0, 2), 0).unwrap();
    }

    #[test]
    fn a_segment_that_lost_its_end_ends_the_log() {
        let fs = sim(1);
        let log = filled(&fs);
        let one = log.size() / 7;
        drop(log);
        let file = fs.open(&segment(2, names::LOG), OpenMode::ReadWrite).unwrap();
        file.set_len(one).unwrap();
        assert_eq!(unclean(&fs.killed(), 0).log_end_offset(), 3, "no hole in the middle");
        for (first_dirty, end) in [(3, 3), (4, 7)] {
            let init = LogInit {
                tp: crate::base::TopicPartition::new("t", 0),
                topic_id: None,
                config: std::sync::Arc::new(small()),
                log_start: 0,
                first_dirty: Some(first_dirty),
                recovery: Recovery::Unclean { recovery_point: 0 },
            };
            let log = Log::open(dir(&fs.killed()), init, at(0)).unwrap();
            assert_eq!(log.log_end_offset(), end, "cleaning makes such holes");
        }
    }

    #[test]
    fn missing_or_damaged_indexes_are_made_anew() {
        let fs = sim(1);
        let mut log = filled(&fs);
        let all = read_all(&mut log, 0, 2000);
        log.close_clean(at(0)).unwrap();
        drop(log);
        let good = fs.read(&segment(2, names::INDEX), 999).unwrap();
        assert_eq!(good.len(), 8);
        fs.remove_file(&segment(2, names::INDEX)).unwrap();
        fs.remove_file(&segment(4, names::TIME_INDEX)).unwrap();
        let file = fs.open(&segment(0, names::INDEX), OpenMode::ReadWrite).unwrap();
        file.set_len(5).unwrap();
        let mut log = open(&dir(&fs), &small(), Recovery::Clean).unwrap();
        assert_eq!(read_all(&mut log, 0, 2000), all);
        assert_eq!(fs.read(&segment(2, names::INDEX), 999).unwrap(), good);
        assert_eq!(log.max_timestamp(at(0)).unwrap(), 60);
    }

    #[test]
    fn leftovers_of_deletion_and_cleaning() {
        let fs = sim(1);
        let mut log = filled(&fs);
        log.close_clean(at(0)).unwrap();
        drop(log);
        let copy = |from: &str, to: &str| {
            let bytes = fs.read(&path(from), 1 << 20).unwrap();
            let file = fs.open(&path(to), OpenMode::Truncate).unwrap();
            file.write_all_at(&[&bytes], 0).unwrap();
        };
        let zero = "00000000000000000000";
        copy(&format!("{zero}.log"), &format!("{zero}.log.deleted"));
        copy(&format!("{zero}.log"), "00000000000000000002.log.cleaned");
        copy(&format!("{zero}.log"), "00000000000000000004.log.swap");
        // A finished cleaning of the first two segments into one.
        let mut merged = fs.read(&path(&format!("{zero}.log")), 1 << 20).unwrap();
        merged.extend(fs.read(&path("00000000000000000002.log"), 1 << 20).unwrap());
        let file = fs.open(&path(&format!("{zero}.log.swap")), OpenMode::Truncate).unwrap();
        file.write_all_at(&[&merged], 0).unwrap();
        copy(&format!("{zero}.index"), "00000000000000000099.index");
        let mut log = unclean(&fs, 7);
        let names: Vec<_> = fs.read_dir(Path::new(FOLDER)).unwrap();
        let logs: Vec<_> = names.iter().filter(|e| e.name.contains(".log")).collect();
        let kept: Vec<_> = logs.iter().map(|e| (&e.name[18..], e.len)).collect();
        let one = merged.len() as u64 / 4;
        assert_eq!(kept, [("00.log", one * 4), ("04.log", one * 2), ("06.log", one)]);
        assert!(!names.iter().any(|e| e.name.contains("99")), "an index without batches");
        assert_eq!(read_all(&mut log, 0, 9999).len(), 7);
    }

    #[test]
    fn producers_survive_by_snapshot_and_replay() {
        let fs = sim(1);
        drop(filled(&fs));
        let repeated = Batch::of(1, 1500, 60).by(7, 0, 6);
        let next = Batch::of(1, 10, 60).by(7, 0, 7);
        let check = |mut log: Log| {
            assert!(append(&mut log, &repeated, 0).unwrap().duplicate_of.is_some());
            assert_eq!(append(&mut log, &next, 0).unwrap().base_offset, 7);
        };
        check(unclean(&fs.killed(), 0));
        check(unclean(&fs.killed(), 7));
        let torn = fs.killed();
        flip(&torn, &segment(6, names::SNAPSHOT), 7);
        check(unclean(&torn, 7));
        assert!(torn.stat(&segment(6, names::SNAPSHOT)).unwrap().is_none(), "damaged, removed");
        let bare = fs.killed();
        for base in [2, 4, 6] {
            bare.remove_file(&segment(base, names::SNAPSHOT)).unwrap();
        }
        check(unclean(&bare, 7));
        let mut log = unclean(&fs, 0);
        log.close_clean(at(0)).unwrap();
        drop(log);
        check(open(&dir(&fs), &small(), Recovery::Clean).unwrap());
    }

    #[test]
    fn aborted_transactions_survive() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        for n in 0..3 {
            append(&mut log, &Batch::of(2, 900, 0).by(7, 0, n * 2).in_txn(), 0).unwrap();
            append(&mut log, &Batch::marker(7, 0, n == 1, 0), 0).unwrap();
        }
        append(&mut log, &Batch::of(1, 1, 0).by(7, 0, 6).in_txn(), 0).unwrap();
        let check = |log: &mut Log| {
            let got = log.aborted_transactions(0, 100, at(0)).unwrap();
            assert_eq!(got.iter().map(|t| t.first_offset).collect::<Vec<_>>(), [0, 6]);
            assert_eq!(log.aborted_transactions(0, 6, at(0)).unwrap().len(), 1);
            assert_eq!(log.last_stable_offset(10, at(0)).unwrap(), 9);
            assert_eq!(log.last_stable_offset(8, at(0)).unwrap(), 8);
        };
        check(&mut log);
        drop(log);
        check(&mut unclean(&fs.killed(), 0));
        check(&mut unclean(&fs.killed(), 5));
        let full = fs.killed();
        let dir = dir(&full);
        full.fill_disk();
        let point = Recovery::Unclean { recovery_point: 0 };
        let mut log = open(&dir, &small(), point).unwrap();
        check(&mut log);
        full.free_disk();
        log.close_clean(at(0)).unwrap();
        check(&mut open(&dir, &small(), Recovery::Clean).unwrap());
    }

    #[test]
    fn epochs_log_start_and_topic_id() {
        let fs = sim(1);
        let mut log = filled(&fs);
        log.close_clean(at(0)).unwrap();
        drop(log);
        let damaged = fs.killed();
        let file = damaged.open(&path(names::EPOCHS), OpenMode::Truncate).unwrap();
        file.write_all_at(&[b"0\n1\nx y\n"], 0).unwrap();
        let mut log = open(&dir(&damaged), &small(), Recovery::Clean).unwrap();
        assert_eq!(log.epoch_at(3, at(0)).unwrap(), Some(1));
        let mut init = LogInit {
            tp: crate::base::TopicPartition::new("t", 0),
            topic_id: Some(Uuid([1; 16])),
            config: std::sync::Arc::new(small()),
            log_start: 0,
            first_dirty: None,
            recovery: Recovery::Clean,
        };
        let dir = dir(&fs);
        let stray = Log::open(std::sync::Arc::clone(&dir), init.clone(), at(0));
        assert!(matches!(stray, Err(LogError::InconsistentTopicId { .. })));
        init.topic_id = None;
        init.log_start = 5;
        let log = Log::open(std::sync::Arc::clone(&dir), init.clone(), at(0)).unwrap();
        assert_eq!((log.log_start_offset(), log.log_start_to_checkpoint()), (5, Some(5)));
        drop(log);
        init.log_start = 50;
        let log = Log::open(dir, init, at(0)).unwrap();
        assert_eq!((log.log_start_offset(), log.log_end_offset(), log.size()), (50, 50, 0));
    }

    #[test]
    fn no_damage_panics_or_shows_a_damaged_batch() {
        let mut seeded = crate::testing::clock::Seeded::new(11);
        let fs = sim(1);
        let mut log = filled(&fs);
        log.close_clean(at(0)).unwrap();
        drop(log);
        for round in 0..400 {
            let left = fs.killed();
            let files = left.read_dir(Path::new(FOLDER)).unwrap();
            for _ in 0..=seeded.below(3) {
                let victim = &files[seeded.below(files.len())];
                let file = left.open(&path(&victim.name), OpenMode::ReadWrite).unwrap();
                let pos = seeded.below(victim.len as usize + 1) as u64;
                let noise: Vec<_> = (0..seeded.below(30)).map(|_| seeded.u64() as u8).collect();
                match seeded.below(3) {
                    0 => file.set_len(pos).unwrap(),
                    1 => file.write_all_at(&[&noise], pos).unwrap(),
                    _ => file.write_all_at(&[&[0; 100]], pos).unwrap(),
                }
            }
            let point = if round % 2 == 0 { 0 } else { seeded.below(9) as i64 };
            let unclean = Recovery::Unclean { recovery_point: point };
            let recovery = if round % 3 == 0 { Recovery::Clean } else { unclean };
            let Ok(mut log) = open(&dir(&left), &small(), recovery) else { continue };
            let end = log.log_end_offset();
            _ = log.batch_for_timestamp(seeded.below(70) as i64, at(0));
            _ = log.aborted_transactions(0, end, at(0));
            _ = log.read(seeded.below(9) as i64, end, 2000, true, at(0));
            if recovery == (Recovery::Unclean { recovery_point: 0 }) {
                let start = log.log_start_offset();
                for (_, batch) in read_all(&mut log, start, 5000) {
                    let h = BatchHeader::read(&batch).unwrap();
                    check_crc(&h, &batch).unwrap();
                }
            }
            append(&mut log, &Batch::of(1, 5, 0), 0).unwrap();
            log.close_clean(at(0)).unwrap();
        }
    }
}
