//! A log under cleaning: what of it may be cleaned, and taking cleaned segments in the place of the
//! old ones (`LogCleanerManager.java`, `LocalLog.replaceSegments`). The cleaning itself is in
//! `clean_pass` and needs the log only for moments.
//!
//! One cleaning at a time. Whatever takes segments away, or the directory from under them, aborts
//! it: then nothing that it made is taken any more.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{
    clean_plan::{self, Dirt, Piece},
    dir::Removal,
    error::{LogError, is_missing},
    log::{Home, Log, Presence},
    names,
    segment::Segment,
    settings::LogConfig,
    txn_index::TxnEntry,
};
use crate::base::{
    Now, Offset,
    ports::{File, OpenMode},
};

const SUFFIXES: [&str; 4] = [names::LOG, names::INDEX, names::TIME_INDEX, names::TXN_INDEX];

/// A file and a position in it.
pub(super) type FilePos = (Arc<dyn File>, u64);

/// One cleaning of one log, from [`Log::begin_cleaning`] on.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// What is to be cleaned.
    pub dirt: Dirt,
    /// The log's settings when it began.
    pub(super) config: Arc<LogConfig>,
    /// Segments below the first that must not be cleaned.
    pub(super) pieces: Vec<Piece>,
    aborted: Arc<AtomicBool>,
}

impl Assignment {
    /// Whether the log went on without this cleaning: it is to end.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }
}

/// What must be remembered of a producer (`LastRecord.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastRecord {
    /// The last offset of its last batch, whose sequences count.
    Data(Offset),
    /// Only markers are known; this is its epoch.
    Epoch(i16),
}

/// A cleaned segment that is complete and durable under its `.cleaned` names.
#[derive(Debug, Clone)]
pub(super) struct Replacement {
    pub(super) base: Offset,
    /// The bases of the segments whose place it takes, its own first.
    pub(super) sources: Vec<Offset>,
    pub(super) size: u64,
    pub(super) index_bytes: u64,
    pub(super) time_index_bytes: u64,
    pub(super) has_txns: bool,
}

impl Log {
    /// What `cleaner-offset-checkpoint` is to say of this log; `None` if it was never cleaned.
    #[must_use]
    pub fn first_dirty(&self) -> Option<Offset> {
        self.first_dirty
    }

    /// Whether its content was not yet looked at since the start.
    #[must_use]
    pub fn is_deferred(&self) -> bool {
        self.presence == Presence::Deferred
    }

    /// Whether a cleaning of it is under way.
    #[must_use]
    pub fn is_cleaning(&self) -> bool {
        self.cleaning.is_some()
    }

    /// What of this log is worth cleaning now, if anything: below the active segment, the last
    /// stable offset and what is younger than `min.compaction.lag.ms`.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn dirt(&mut self, high_watermark: Offset, now: Now) -> Result<Option<Dirt>, LogError> {
        if !self.config.compact || self.is_cleaning() {
            return Ok(None);
        }
        self.dir.check()?;
        self.load(now)?;
        let Some(active) = self.segments.last().map(|s| s.base) else { return Ok(None) };
        if self.segments.len() == 1 {
            return Ok(None);
        }
        let stable = self.last_stable_offset(high_watermark, now)?;
        let first_dirty = clean_plan::first_dirty(self.first_dirty, self.log_start, self.end);
        let bound = stable.min(active).min(self.first_young(first_dirty, active, now)?);
        let pieces = self.pieces(active);
        let upto = clean_plan::rounded(&pieces, active, bound.max(first_dirty));
        let (clean_bytes, dirty_bytes) = clean_plan::weigh(&pieces, first_dirty, upto);
        let overdue = dirty_bytes > 0 && self.is_overdue(first_dirty, now)?;
        let dirt = Dirt { first_dirty, upto, clean_bytes, dirty_bytes, overdue };
        Ok(dirt.is_due(&self.config).then_some(dirt))
    }

    /// Begins the cleaning of what [`Log::dirt`] found under the same lock.
    pub fn begin_cleaning(&mut self, dirt: Dirt) -> Assignment {
        self.abort_cleaning();
        let aborted = Arc::new(AtomicBool::new(false));
        self.cleaning = Some(Arc::clone(&aborted));
        let pieces = self.pieces(dirt.upto);
        Assignment { dirt, config: Arc::clone(&self.config), pieces, aborted }
    }

    /// Ends a cleaning; `cleaned_to` is how far it got, if it came to its end.
    pub fn end_cleaning(&mut self, work: &Assignment, cleaned_to: Option<Offset>) {
        if !work.is_aborted() {
            self.cleaning = None;
            self.first_dirty = cleaned_to.or(self.first_dirty);
        }
    }

    /// Aborts the cleaning that is under way, if one is.
    pub fn abort_cleaning(&mut self) {
        if let Some(cleaning) = self.cleaning.take() {
            cleaning.store(true, Ordering::Release);
        }
    }

    /// The log ends at `offset` now: what comes next was never cleaned.
    pub(super) fn forget_cleaning(&mut self, offset: Offset) {
        self.abort_cleaning();
        self.first_dirty = self.first_dirty.map(|at| at.min(offset));
    }

    fn pieces(&self, below: Offset) -> Vec<Piece> {
        let piece = |s: &Segment| {
            let (index_bytes, time_index_bytes) = s.index_bytes();
            Piece { base: s.base, size: s.size, index_bytes, time_index_bytes }
        };
        self.segments.iter().take_while(|s| s.base < below).map(piece).collect()
    }

    /// The base of the first segment that has a record younger than `min.compaction.lag.ms`.
    fn first_young(&mut self, from: Offset, active: Offset, now: Now) -> Result<Offset, LogError> {
        let lag = self.config.min_compaction_lag_ms;
        if lag > 0 {
            let home = Home { dir: &self.dir, tp: &self.tp };
            let at = self.segments.partition_point(|s| s.base <= from).saturating_sub(1);
            for segment in self.segments.iter_mut().skip(at).take_while(|s| s.base < active) {
                let stamp = segment.max_stamp(home)?.0;
                let stamp = if stamp >= 0 { stamp } else { segment.appended_ms(home)? };
                if stamp > now.wall_ms.saturating_sub(lag) {
                    return Ok(segment.base);
                }
            }
        }
        Ok(active)
    }

    /// Whether a closed segment with dirty records begins earlier than `max.compaction.lag.ms` ago.
    fn is_overdue(&mut self, from: Offset, now: Now) -> Result<bool, LogError> {
        let before = now.wall_ms.saturating_sub(self.config.max_compaction_lag_ms.max(0));
        if before <= 0 {
            return Ok(false);
        }
        let home = Home { dir: &self.dir, tp: &self.tp };
        let at = self.segments.partition_point(|s| s.base <= from).saturating_sub(1);
        let closed = self.segments.len().saturating_sub(1);
        for segment in self.segments.iter_mut().take(closed).skip(at) {
            if (1..before).contains(&segment.first_timestamp(home)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The file of the segment at `base`, and the position of the batch that holds `from` or an
    /// earlier one. `None` if the cleaning was aborted.
    pub(super) fn source(
        &mut self,
        work: &Assignment,
        base: Offset,
        from: Offset,
    ) -> Result<Option<FilePos>, LogError> {
        if work.is_aborted() {
            return Ok(None);
        }
        let home = Home { dir: &self.dir, tp: &self.tp };
        let found = self.segments.binary_search_by_key(&base, |s| s.base).ok();
        let Some(segment) = found.and_then(|at| self.segments.get_mut(at)) else {
            return Ok(None);
        };
        let pos = segment.index_floor(home, from)?;
        Ok(Some((segment.log_file(home)?, pos)))
    }

    /// Aborted transactions that have records in `from..upper`
    /// (`UnifiedLog.collectAbortedTransactions`).
    pub(super) fn aborted_between(
        &mut self,
        from: Offset,
        upper: Offset,
    ) -> Result<Vec<TxnEntry>, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let first = self.segments.partition_point(|s| s.base <= from).saturating_sub(1);
        let mut out = Vec::new();
        for segment in self.segments.iter().skip(first) {
            for e in segment.txn_entries(home)? {
                if e.last_offset >= from && e.first_offset < upper {
                    out.push(e);
                }
                if e.last_stable_offset >= upper {
                    return Ok(out);
                }
            }
        }
        Ok(out)
    }

    /// What must be remembered of each producer that is not forgotten.
    pub(super) fn last_records(&self) -> BTreeMap<i64, LastRecord> {
        let last = |e: &super::ProducerEntry| match e.batches().last() {
            Some(batch) => LastRecord::Data(batch.last_offset),
            None => LastRecord::Epoch(e.epoch),
        };
        self.producers.iter().map(|(id, e)| (id, last(e))).collect()
    }

    /// Makes a `.cleaned` file; `None` if the cleaning was aborted.
    pub(super) fn create_cleaned(
        &mut self,
        work: &Assignment,
        base: Offset,
        suffix: &str,
    ) -> Result<Option<Arc<dyn File>>, LogError> {
        if work.is_aborted() {
            return Ok(None);
        }
        let path = self.path_with(base, suffix, names::CLEANED);
        let file = self.dir.fs().open(&path, OpenMode::Truncate);
        file.map(Some).map_err(|e| self.fault("creating", &path, e))
    }

    /// Removes what a cleaning that did not come to its end left.
    pub(super) fn discard_cleaned(&mut self, base: Offset) -> Result<(), LogError> {
        for suffix in SUFFIXES {
            let path = self.path_with(base, suffix, names::CLEANED);
            self.dir.fs().remove_file(&path).map_err(|e| self.fault("removing", &path, e))?;
        }
        Ok(())
    }

    /// Lets a cleaned segment take the place of its sources, in steps that a start after a crash
    /// takes back or completes: `.cleaned` to `.swap`, sources to `.deleted`, `.swap` to the plain
    /// name. Readers of the old files keep them. False if the cleaning was aborted.
    ///
    /// # Errors
    /// `Full`: nothing changed. `Io`, `Offline`.
    pub(super) fn take_in(
        &mut self,
        work: &Assignment,
        new: &Replacement,
        now: Now,
    ) -> Result<bool, LogError> {
        self.dir.check()?;
        let first = self.segments.binary_search_by_key(&new.base, |s| s.base).ok();
        let Some(first) = first.filter(|_| !work.is_aborted()) else { return Ok(false) };
        let range = first..first + new.sources.len();
        let bases = self.segments.get(range.clone()).unwrap_or_default().iter().map(|s| s.base);
        assert!(bases.eq(new.sources.iter().copied()), "nobody else changed the segments");
        for suffix in SUFFIXES {
            let from = self.path_with(new.base, suffix, names::CLEANED);
            let to = self.path_with(new.base, suffix, names::SWAP);
            if let Err(e) = self.dir.fs().rename(&from, &to)
                && !is_missing(&e)
            {
                let swapped = SUFFIXES.map(|s| self.path_with(new.base, s, names::SWAP));
                let _ = swapped.iter().try_for_each(|path| self.dir.fs().remove_file(path));
                return Err(self.fault("renaming", &from, e));
            }
        }
        // From here on a start would complete it, and so must this.
        let home = Home { dir: &self.dir, tp: &self.tp };
        let mut replaced = self.segments.drain(range).collect::<Vec<_>>();
        let created_ms = replaced.first().map_or(now.wall_ms, |s| s.created_ms);
        let appended_ms = replaced.last_mut().map(|s| s.appended_ms(home)).transpose()?;
        let mut paths = Vec::new();
        for segment in &mut replaced {
            segment.close_files(self.dir.files());
            let snapshot = (segment.base != new.base).then_some(names::SNAPSHOT);
            for suffix in SUFFIXES.into_iter().chain(snapshot) {
                let from = self.path_with(segment.base, suffix, "");
                let to = self.path_with(segment.base, suffix, names::DELETED);
                if self.rename_for_good(&from, &to)? {
                    paths.push(to);
                }
            }
        }
        // The batches go first: indexes that a start finds beside other batches would be believed.
        for suffix in SUFFIXES {
            let from = self.path_with(new.base, suffix, names::SWAP);
            self.rename_for_good(&from, &self.path_with(new.base, suffix, ""))?;
        }
        let mut segment = Segment::found(new.base, new.size, created_ms);
        if !segment.with_indexes(new.index_bytes, new.time_index_bytes) {
            segment.reset_indexes();
        }
        if new.has_txns {
            segment.with_txns();
        }
        segment.appended_ms = appended_ms;
        self.segments.insert(first, segment);
        self.entries_changed = self.entries_changed.wrapping_add(1);
        let due = now.mono.after_ms(self.config.file_delete_delay_ms);
        self.dir.schedule(Removal { paths, dirs: false, due });
        Ok(true)
    }

    /// Renames a file if it is there. A failure, even for want of space, is final: half of a swap
    /// is neither the old nor the new log.
    fn rename_for_good(&self, from: &Path, to: &Path) -> Result<bool, LogError> {
        match self.dir.fs().rename(from, to) {
            Ok(()) => Ok(true),
            Err(e) if is_missing(&e) => Ok(false),
            Err(source) => {
                let context = format!("renaming {}", from.display());
                self.dir.fail(format!("{context}: {source}"));
                Err(LogError::Io { context, source })
            }
        }
    }

    /// The fault of a cleaning at the segment `base`.
    pub(super) fn cleaning_fault(&self, doing: &str, base: Offset, e: std::io::Error) -> LogError {
        self.fault(doing, &self.path_with(base, names::LOG, names::CLEANED), e)
    }

    /// The partition's directory, whose entries a swap has changed.
    pub(super) fn folder_to_sync(&self) -> (Arc<super::LogDir>, PathBuf) {
        (Arc::clone(&self.dir), self.folder())
    }

    fn path_with(&self, base: Offset, suffix: &str, tail: &str) -> PathBuf {
        self.folder().join(format!("{}{tail}", names::file(base, suffix)))
    }
}
