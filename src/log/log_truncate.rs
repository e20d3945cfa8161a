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
    /// A batch that holds `offset` in its middle goes as a whole. Tells whether the recovery point
    /// moved down: then `recovery-point-offset-checkpoint` must be written before the next append,
    /// or a crash could trust bytes that were never synced.
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
        if self.segments.first().is_none_or(|s| s.base > offset) {
            return self.truncate_fully_and_start_at(offset, None, now);
        }
        let keep = self.segments.partition_point(|s| s.base <= offset);
        // The last goes first: a crash in between leaves no gap.
        while self.segments.len() > keep
            && let Some(segment) = self.segments.pop()
        {
            self.unlink(segment)?;
        }
        let home = Home { dir: &self.dir, tp: &self.tp };
        let active = self.segments.last_mut();
        let end = active.map_or(Ok(offset), |s| s.truncate(home, offset))?;
        self.recent.clear();
        self.truncations = self.truncations.wrapping_add(1);
        self.end = end;
        self.log_start = self.log_start.min(end);
        self.flushed = self.flushed.min(end);
        self.epochs.truncate_end(end);
        self.reload_producers(now)?;
        let lowered = self.recovery_point > end;
        self.recovery_point = self.recovery_point.min(end);
        Ok(lowered)
    }

    /// Drops everything and lets the next record have `offset`: what a follower does that fell
    /// behind its leader's log start. `log_start` may lie above `offset` where records were
    /// deleted out of the middle of a batch. Tells whether the recovery point moved down, as
    /// [`Log::truncate_to`] does.
    ///
    /// # Errors
    /// `Full` if the new segment cannot be made: the log is empty then. `Io`, `Offline`.
    pub fn truncate_fully_and_start_at(
        &mut self,
        offset: Offset,
        log_start: Option<Offset>,
        now: Now,
    ) -> Result<bool, LogError> {
        self.dir.check()?;
        self.load(now)?;
        while let Some(segment) = self.segments.pop() {
            self.unlink(segment)?;
        }
        self.recent.clear();
        self.truncations = self.truncations.wrapping_add(1);
        self.end = offset;
        self.log_start = log_start.unwrap_or(offset);
        self.flushed = offset;
        self.epochs.clear();
        let lowered = self.recovery_point > offset;
        self.recovery_point = self.recovery_point.min(offset);
        if self.presence == Presence::Loaded {
            self.drop_snapshots(|_| true)?;
            // The name of the empty segment keeps the position over a restart.
            self.begin(offset, now)?;
        }
        self.producers.clear_at(offset);
        Ok(lowered)
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
