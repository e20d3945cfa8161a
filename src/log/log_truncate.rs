//! Cutting a log at either end (`LocalLog.truncateTo`, `UnifiedLog.maybeIncrementLogStartOffset`)
//! and removing segments.

use super::{
    dir::Removal,
    error::{LogError, is_missing},
    log::{Home, Log, Presence},
    names,
    segment::Segment,
};
use crate::base::{Now, Offset};

impl Log {
    /// Drops everything at or above `offset`: what a follower does that diverged from its leader.
    /// A batch that holds `offset` in its middle goes as a whole. Tells whether
    /// `recovery-point-offset-checkpoint` must be written now, as [`Log::checkpoint_due`] does.
    ///
    /// # Errors
    /// `Io`, `Offline`. Not `Full`: cutting needs no space.
    pub fn truncate_to(&mut self, offset: Offset, now: Now) -> Result<bool, LogError> {
        self.dir.check()?;
        self.load(now)?;
        self.epochs.truncate_end(offset);
        if offset >= self.end {
            return Ok(false);
        }
        self.forget_cleaning(offset);
        if self.segments.first().is_none_or(|s| s.base > offset) {
            return self.truncate_fully_and_start_at(offset, None, now);
        }
        let keep = self.segments.partition_point(|s| s.base <= offset);
        // The last goes first: a crash in between leaves no gap.
        let gone = self.segments.split_off(keep);
        if !gone.is_empty() {
            gone.into_iter().rev().try_for_each(|s| self.unlink(s))?;
            // Or a crash could bring them back behind what is appended next.
            self.dir.sync_dir(&self.folder())?;
        }
        let home = Home { dir: &self.dir, tp: &self.tp };
        let active = self.segments.last_mut();
        let end = active.map_or(Ok(offset), |s| s.truncate(home, offset))?;
        self.recent.clear();
        self.closed_unsynced = true;
        self.truncations = self.truncations.wrapping_add(1);
        self.end = end;
        self.log_start = self.log_start.min(end);
        self.flushed = self.flushed.min(end);
        self.epochs.truncate_end(end);
        self.reload_producers(now)?;
        self.recovery_point = self.recovery_point.min(self.reliable());
        Ok(self.checkpoint_due())
    }

    /// Drops everything and lets the next record have `offset`: what a follower does that fell
    /// behind its leader's log start. `log_start` may lie above `offset` where records were
    /// deleted out of the middle of a batch. Tells whether the checkpoint must be written now.
    ///
    /// # Errors
    /// `Full` if the new segment cannot be made: the log is empty then, or as it was if it had no
    /// files. `Io`, `Offline`.
    pub fn truncate_fully_and_start_at(
        &mut self,
        offset: Offset,
        log_start: Option<Offset>,
        now: Now,
    ) -> Result<bool, LogError> {
        self.dir.check()?;
        self.load(now)?;
        let is_new = self.presence == Presence::Absent;
        if is_new && offset > 0 {
            // Whoever counts this replica as being here must find it here after a power cut: the
            // name of an empty segment tells. Without space for it the log stays where it was.
            self.begin(offset, now)?;
            self.dir.sync_dir(&self.folder())?;
            self.dir.sync_dir(self.dir.path())?;
        }
        self.forget_cleaning(offset);
        while !is_new && let Some(segment) = self.segments.pop() {
            self.unlink(segment)?;
        }
        self.recent.clear();
        self.truncations = self.truncations.wrapping_add(1);
        self.end = offset;
        self.log_start = log_start.unwrap_or(offset);
        self.flushed = offset;
        self.epochs.clear();
        self.recovery_point = self.recovery_point.min(offset);
        if !is_new {
            self.drop_snapshots(|_| true)?;
            // The name of the empty segment keeps the position over a restart.
            self.begin(offset, now)?;
            self.dir.sync_dir(&self.folder())?;
        }
        self.producers.clear_at(offset);
        Ok(self.checkpoint_due())
    }

    /// Raises the log start offset: records below it can no longer be read (DeleteRecords,
    /// retention, a leader's log start). Segments go with [`Log::delete_expired`]. The caller has
    /// checked it against the high watermark. Tells whether it moved.
    ///
    /// # Errors
    /// `OutOfRange` above the log end. `Io`, `Offline`.
    pub fn advance_log_start(&mut self, offset: Offset, now: Now) -> Result<bool, LogError> {
        if offset > self.end {
            return Err(self.out_of_range(offset));
        }
        if offset <= self.log_start {
            return Ok(false);
        }
        self.load(now)?;
        self.log_start = offset;
        self.epochs.truncate_start(offset);
        self.producers.on_log_start(offset);
        Ok(true)
    }

    /// Takes `count` segments off the front: their files become `.deleted` at once and vanish
    /// after `file.delete.delay.ms`. The caller has made sure that one is left.
    pub(super) fn delete_front(&mut self, count: usize, now: Now) -> Result<(), LogError> {
        self.abort_cleaning();
        let mut paths = Vec::new();
        for mut segment in self.segments.drain(..count) {
            segment.close_files(self.dir.files());
            let home = Home { dir: &self.dir, tp: &self.tp };
            for suffix in
                [names::LOG, names::INDEX, names::TIME_INDEX, names::TXN_INDEX, names::SNAPSHOT]
            {
                let from = home.path(segment.base, suffix);
                let mut to = from.clone().into_os_string();
                to.push(names::DELETED);
                match self.dir.fs().rename(&from, to.as_ref()) {
                    Ok(()) => paths.push(to.into()),
                    Err(e) if is_missing(&e) => {}
                    Err(e) => return Err(self.dir.fault("renaming", &from, e)),
                }
            }
        }
        self.entries_changed = self.entries_changed.wrapping_add(1);
        let due = now.mono.after_ms(self.config.file_delete_delay_ms);
        self.dir.schedule(Removal { paths, dirs: false, due });
        Ok(())
    }

    /// Removes the files of a segment that is out of the list, the batches last: indexes without
    /// batches are litter, batches without indexes are data.
    pub(super) fn unlink(&mut self, mut segment: Segment) -> Result<(), LogError> {
        segment.close_files(self.dir.files());
        self.entries_changed = self.entries_changed.wrapping_add(1);
        let home = Home { dir: &self.dir, tp: &self.tp };
        for suffix in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX, names::LOG] {
            let path = home.path(segment.base, suffix);
            self.dir.fs().remove_file(&path).map_err(|e| self.fault("removing", &path, e))?;
        }
        Ok(())
    }

    /// The offsets of the snapshots on disk, rising.
    pub(super) fn snapshots(&self) -> Result<Vec<Offset>, LogError> {
        let folder = self.folder();
        let entries = self.dir.fs().read_dir(&folder);
        let entries = entries.map_err(|e| self.fault("listing", &folder, e))?;
        let named = entries.iter().filter_map(|e| names::parse_file(&e.name));
        Ok(named.filter(|(_, s)| *s == names::SNAPSHOT).map(|(offset, _)| offset).collect())
    }

    pub(super) fn drop_snapshots(
        &mut self,
        doomed: impl Fn(Offset) -> bool,
    ) -> Result<(), LogError> {
        for offset in self.snapshots()?.into_iter().filter(|o| doomed(*o)) {
            let path = self.folder().join(names::file(offset, names::SNAPSHOT));
            self.dir.fs().remove_file(&path).map_err(|e| self.fault("removing", &path, e))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::ports::Fs;
    use crate::log::fixture::{append, at, dir, new_log, open, read_all, sim, small};
    use crate::log::{DeletionReason, LogConfig, Recovery};
    use crate::testing::{batches::Batch, fs::SimFs};

    /// Two batches of two records a segment.
    fn filled(fs: &SimFs, config: &LogConfig) -> Log {
        let mut log = new_log(fs, config);
        for n in 0..7 {
            append(&mut log, &Batch::of(2, 800, n * 10).at(0, n as i32), n * 10).unwrap();
        }
        log
    }

    #[test]
    fn a_log_without_files_keeps_its_new_start_over_a_power_cut() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        fs.fill_disk();
        assert!(log.truncate_fully_and_start_at(40, None, at(0)).unwrap_err().is_retriable());
        assert_eq!((log.log_end_offset(), log.flushed_offset()), (0, 0), "not there yet");
        fs.free_disk();
        log.truncate_fully_and_start_at(40, None, at(0)).unwrap();
        assert_eq!(log.flushed_offset(), 40);
        let fs = fs.crash();
        let unclean = Recovery::Unclean { recovery_point: 0 };
        assert_eq!(open(&dir(&fs), &small(), unclean).unwrap().log_end_offset(), 40);
    }

    #[test]
    fn truncation_takes_whole_batches_and_their_epochs() {
        let fs = sim(1);
        let mut log = filled(&fs, &small());
        let all = read_all(&mut log, 0, 9999);
        log.flush(at(0)).unwrap();
        assert_eq!(log.checkpoint_recovery_point(), 13);
        assert!(!log.truncate_to(14, at(0)).unwrap());
        assert!(log.truncate_to(9, at(0)).unwrap(), "the checkpoint says 13");
        assert_eq!((log.log_end_offset(), log.recovery_point()), (8, 8));
        assert_eq!(read_all(&mut log, 0, 9999), all[..4]);
        assert_eq!(log.latest_epoch(at(0)).unwrap(), Some(3));
        assert_eq!(log.max_timestamp(at(0)).unwrap(), 31);
        append(&mut log, &Batch::of(1, 1, 99).at(0, 9), 0).unwrap();
        drop(log);
        let log = open(&dir(&fs), &small(), Recovery::Unclean { recovery_point: 8 }).unwrap();
        assert_eq!(log.log_end_offset(), 9);
    }

    #[test]
    fn starting_over_keeps_the_position() {
        let fs = sim(1);
        let mut log = filled(&fs, &small());
        log.truncate_fully_and_start_at(100, Some(103), at(0)).unwrap();
        assert_eq!((log.log_start_offset(), log.log_end_offset(), log.size()), (103, 100, 0));
        log.append_follower(&Batch::of(8, 1, 0).at(100, 9).bytes(), 9, at(0)).unwrap();
        assert_eq!(log.read(104, 108, 999, true, at(0)).unwrap().base_offset, 100);
        log.truncate_fully_and_start_at(200, None, at(0)).unwrap();
        log.flush(at(0)).unwrap();
        drop(log);
        let log = open(&dir(&fs.crash()), &small(), Recovery::Unclean { recovery_point: 0 });
        assert_eq!(log.unwrap().log_end_offset(), 200);
    }

    #[test]
    fn deleted_segments_vanish_after_a_while_and_readers_keep_them() {
        let fs = sim(1);
        let config = LogConfig { retention_bytes: 3000, ..small() };
        let mut log = filled(&fs, &config);
        let held = log.read(0, 14, 9999, true, at(0)).unwrap();
        let gone = log.delete_expired(14, at(100)).unwrap().unwrap();
        assert_eq!((gone.segments, gone.reason, gone.log_start), (2, DeletionReason::Size, 8));
        assert!(matches!(
            log.read(7, 14, 99, true, at(0)),
            Err(LogError::OutOfRange { start: 8, .. })
        ));
        let deleted = Path::new("/data/t-0/00000000000000000000.log.deleted");
        assert!(fs.stat(deleted).unwrap().is_some());
        assert_eq!(log.dir().remove_due(at(100).mono).unwrap(), 0);
        assert!(log.dir().remove_due(at(60_100).mono).unwrap() >= 6);
        assert!(fs.stat(deleted).unwrap().is_none());
        let mut bytes = vec![0; held.bytes];
        held.slices[0].file.read_exact_at(&mut bytes, held.slices[0].pos).unwrap();
        assert_eq!(log.epoch_at(8, at(0)).unwrap(), Some(4));
        assert_eq!(log.log_start_to_checkpoint(), None);
    }

    #[test]
    fn time_deletes_the_active_segment_too_and_a_future_timestamp_does_not_keep_it() {
        let fs = sim(1);
        let config = LogConfig { retention_ms: 1000, ..small() };
        let mut log = new_log(&fs, &config);
        fs.set_time_ms(50);
        append(&mut log, &Batch::of(2, 10, 99_999_999), 50).unwrap();
        assert_eq!(log.delete_expired(2, at(1050)).unwrap(), None);
        assert_eq!(log.delete_expired(1, at(1051)).unwrap(), None, "high watermark");
        let gone = log.delete_expired(2, at(1051)).unwrap().unwrap();
        assert_eq!((gone.reason, gone.log_start), (DeletionReason::Time, 2));
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (2, 2));
        assert_eq!(log.delete_expired(2, at(99_999)).unwrap(), None, "the empty one stays");
        log.close_clean(at(0)).unwrap();
        drop(log);
        let log = open(&dir(&fs), &config, Recovery::Clean);
        assert_eq!(log.unwrap().log_end_offset(), 2);
    }

    #[test]
    fn records_are_deleted_by_raising_the_start() {
        let fs = sim(1);
        let mut log = filled(&fs, &small());
        assert!(log.advance_log_start(5, at(0)).unwrap());
        assert!(!log.advance_log_start(4, at(0)).unwrap());
        assert!(log.advance_log_start(15, at(0)).is_err());
        assert_eq!(log.log_start_to_checkpoint(), Some(5));
        assert_eq!(log.read(5, 14, 1, true, at(0)).unwrap().base_offset, 4);
        let gone = log.delete_expired(14, at(0)).unwrap().unwrap();
        assert_eq!((gone.segments, gone.reason), (1, DeletionReason::LogStart));
        let found = log.batch_for_timestamp(0, at(0)).unwrap().unwrap();
        assert_eq!(found.header.base_offset, 4);
    }
}
