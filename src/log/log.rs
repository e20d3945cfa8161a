//! `Log`: the segments of one partition, its leader epochs and its producers (`UnifiedLog.java`).
//!
//! Not locked inside: its owner holds it behind one lock. Three ideas keep a partition cheap:
//! nothing is on disk before the first append; what a clean stop left behind is read at the first
//! use; descriptors belong to the `FileCache`. Appending, reading, truncating and flushing are in
//! `log_append`, `log_read`, `log_truncate`, `log_flush`; loading is in `recovery`.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use super::{
    dir::LogDir,
    dir_state::CleanEntry,
    epochs::{EpochEnd, Epochs},
    error::LogError,
    names,
    producers::{AbortedTxn, OpenTxn, ProducerEntry, Producers},
    recent::Recent,
    segment::Segment,
    settings::LogConfig,
    verification::{VerificationGuard, Verifications},
};
use crate::base::{LeaderEpoch, Now, Offset, TopicPartition, Uuid, ports::OpenMode};

/// How much of an existing directory may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The last stop was clean: nothing is scanned.
    Clean,
    /// The last stop was clean and remembered this: nothing is even looked at before the first
    /// use.
    Known(CleanEntry),
    /// Batches from this offset on are checked, and cut at the first that is damaged.
    Unclean {
        /// The offset in `recovery-point-offset-checkpoint`; 0 without one.
        recovery_point: Offset,
    },
}

/// What a log is opened with.
#[derive(Debug, Clone)]
pub struct LogInit {
    /// Which partition.
    pub tp: TopicPartition,
    /// The id the controller gave the topic; `None` skips the comparison.
    pub topic_id: Option<Uuid>,
    /// Its settings.
    pub config: Arc<LogConfig>,
    /// The offset in `log-start-offset-checkpoint`; 0 without one.
    pub log_start: Offset,
    /// The offset in `cleaner-offset-checkpoint`; `None` if it was never cleaned.
    pub first_dirty: Option<Offset>,
    /// How much may be trusted.
    pub recovery: Recovery,
}

/// Where the content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// No directory: nothing was ever appended.
    Absent,
    /// On disk, not yet looked at.
    Deferred,
    /// In `segments`, `epochs` and `producers`.
    Loaded,
}

/// One partition's log.
#[derive(Debug)]
pub struct Log {
    pub(super) dir: Arc<LogDir>,
    pub(super) tp: TopicPartition,
    pub(super) topic_id: Option<Uuid>,
    pub(super) config: Arc<LogConfig>,
    pub(super) id: u64,
    pub(super) presence: Presence,
    pub(super) log_start: Offset,
    pub(super) end: Offset,
    /// Everything below survives a power cut.
    pub(super) flushed: Offset,
    /// Everything below survives a power cut and needs no scan, indexes and epochs included.
    pub(super) recovery_point: Offset,
    /// The recovery point that the checkpoint file may tell.
    pub(super) checkpointed: Offset,
    pub(super) last_flush_ms: i64,
    /// Bytes of all segments while they are not loaded.
    pub(super) deferred_size: u64,
    pub(super) segments: Vec<Segment>,
    /// A closed segment may have indexes that are not durable.
    pub(super) closed_unsynced: bool,
    pub(super) recent: Recent,
    pub(super) epochs: Epochs,
    /// An epoch that began at the log end before the content was loaded.
    pub(super) begun_epoch: Option<LeaderEpoch>,
    pub(super) producers: Producers,
    pub(super) verifications: Verifications,
    /// Counts changes of the directory's entries, and how many of those are durable.
    pub(super) entries_changed: u32,
    pub(super) entries_synced: u32,
    /// Counts truncations: a flush from before one proves nothing about the bytes after it.
    pub(super) truncations: u32,
    /// Records below were cleaned; `None` if it was never cleaned.
    pub(super) first_dirty: Option<Offset>,
    /// Aborts the cleaning that is under way.
    pub(super) cleaning: Option<Arc<AtomicBool>>,
}

impl Log {
    /// A log without data. Nothing is written before the first append.
    #[must_use]
    pub fn create(
        dir: Arc<LogDir>,
        tp: TopicPartition,
        topic_id: Option<Uuid>,
        config: Arc<LogConfig>,
        now: Now,
    ) -> Self {
        Self {
            id: dir.log_id(),
            dir,
            tp,
            topic_id,
            config,
            presence: Presence::Absent,
            log_start: 0,
            end: 0,
            flushed: 0,
            recovery_point: 0,
            checkpointed: 0,
            last_flush_ms: now.wall_ms,
            deferred_size: 0,
            segments: Vec::new(),
            closed_unsynced: false,
            recent: Recent::default(),
            epochs: Epochs::default(),
            begun_epoch: None,
            producers: Producers::default(),
            verifications: Verifications::default(),
            entries_changed: 0,
            entries_synced: 0,
            truncations: 0,
            first_dirty: None,
            cleaning: None,
        }
    }

    /// Opens what is on disk; a partition without a directory is as [`Log::create`] makes it.
    /// After an unclean stop this scans, which may take long: call it from a recovery thread.
    ///
    /// # Errors
    /// `InconsistentTopicId`: the directory is stray. `Io`, `Offline`.
    pub fn open(dir: Arc<LogDir>, init: LogInit, now: Now) -> Result<Self, LogError> {
        dir.check()?;
        let mut log = Self::create(dir, init.tp, init.topic_id, init.config, now);
        log.log_start = init.log_start;
        log.first_dirty = init.first_dirty;
        log.end = init.log_start;
        if let Recovery::Known(entry) = init.recovery {
            log.adopt_topic_id(Some(entry.topic_id).filter(|id| !id.is_zero()))?;
            log.presence = Presence::Deferred;
            log.log_start = entry.log_start;
            log.deferred_size = entry.size;
            (log.end, log.flushed) = (entry.end, entry.end);
            (log.recovery_point, log.checkpointed) = (entry.end, entry.end);
            return Ok(log);
        }
        let folder = log.folder();
        let found = log.dir.fs().stat(&folder).map_err(|e| log.fault("opening", &folder, e))?;
        if found.is_none() {
            (log.flushed, log.recovery_point) = (log.end, log.end);
            log.checkpointed = log.end;
            return Ok(log);
        }
        let on_disk = log.dir.topic_id(&log.tp)?;
        log.adopt_topic_id(on_disk)?;
        if on_disk.is_none() {
            match log.write_topic_id() {
                Ok(()) | Err(LogError::Full(_)) => {}
                Err(e) => return Err(e),
            }
        }
        match init.recovery {
            Recovery::Unclean { recovery_point } => log.recover(recovery_point, now)?,
            Recovery::Clean | Recovery::Known(_) => log.load_clean(now)?,
        }
        Ok(log)
    }

    /// Which partition.
    #[must_use]
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.tp
    }

    /// The topic's id, if the controller or the directory told it.
    #[must_use]
    pub fn topic_id(&self) -> Option<Uuid> {
        self.topic_id
    }

    /// The directory it lives in.
    #[must_use]
    pub fn dir(&self) -> &Arc<LogDir> {
        &self.dir
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &Arc<LogConfig> {
        &self.config
    }

    /// Replaces the settings; they hold from the next operation on.
    pub fn set_config(&mut self, config: Arc<LogConfig>) {
        if !config.compact {
            self.abort_cleaning();
        }
        self.config = config;
    }

    /// The first offset that may be read.
    #[must_use]
    pub fn log_start_offset(&self) -> Offset {
        self.log_start
    }

    /// The offset of the next record.
    #[must_use]
    pub fn log_end_offset(&self) -> Offset {
        self.end
    }

    /// Whether it holds no record that may be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.log_start >= self.end
    }

    /// Bytes of all segments.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.presence {
            Presence::Deferred => self.deferred_size,
            Presence::Absent | Presence::Loaded => self.segments.iter().map(|s| s.size).sum(),
        }
    }

    /// The base offset of the active segment; the log end offset if there is none.
    ///
    /// # Errors
    /// `Io` or `Offline` if the log must first be loaded.
    pub fn active_base(&mut self, now: Now) -> Result<Offset, LogError> {
        self.load(now)?;
        Ok(self.segments.last().map_or(self.end, |s| s.base))
    }

    /// What `log-start-offset-checkpoint` should say: the log start offset where it lies above the
    /// first segment's base (`LogManager.java`).
    #[must_use]
    pub fn log_start_to_checkpoint(&self) -> Option<Offset> {
        let base = match self.presence {
            Presence::Deferred => 0,
            Presence::Absent | Presence::Loaded => self.segments.first().map_or(0, |s| s.base),
        };
        (self.log_start > base).then_some(self.log_start)
    }

    /// Records that `epoch` began at the log end: what a new leader does before its first append
    /// (facts: KIP-101). Kept in memory until data of the epoch is flushed: without data the entry
    /// tells nothing that a restart must know. Reads nothing, so that taking office for thousands
    /// of partitions at a start is cheap.
    pub fn begin_epoch(&mut self, epoch: LeaderEpoch) {
        if self.presence == Presence::Deferred {
            self.begun_epoch = Some(epoch);
        } else {
            self.epochs.assign(epoch, self.end);
        }
    }

    /// The newest leader epoch, if any.
    ///
    /// # Errors
    /// `Io` or `Offline` if the log must first be loaded.
    pub fn latest_epoch(&mut self, now: Now) -> Result<Option<LeaderEpoch>, LogError> {
        self.load(now)?;
        Ok(self.epochs.latest())
    }

    /// The largest epoch not above `epoch` and the offset after its last record; `None` if
    /// undefined (`LeaderEpochFileCache.endOffsetFor`).
    ///
    /// # Errors
    /// `Io` or `Offline` if the log must first be loaded.
    pub fn end_offset_for(
        &mut self,
        epoch: LeaderEpoch,
        now: Now,
    ) -> Result<Option<EpochEnd>, LogError> {
        self.load(now)?;
        Ok(self.epochs.end_offset_for(epoch, self.end))
    }

    /// The epoch in which the record at `offset` was appended.
    ///
    /// # Errors
    /// `Io` or `Offline` if the log must first be loaded.
    pub fn epoch_at(&mut self, offset: Offset, now: Now) -> Result<Option<LeaderEpoch>, LogError> {
        self.load(now)?;
        Ok(self.epochs.epoch_at(offset))
    }

    /// The idempotent and transactional producers that the log remembers, by id.
    ///
    /// # Errors
    /// `Io` or `Offline` if the log must first be loaded.
    pub fn producers(
        &mut self,
        now: Now,
    ) -> Result<impl Iterator<Item = (i64, &ProducerEntry)>, LogError> {
        self.load(now)?;
        Ok(self.producers.iter())
    }

    /// Forgets producers that were idle for `producer.id.expiration.ms` and have no open
    /// transaction. To be called now and then.
    pub fn expire_producers(&mut self, now: Now) {
        let after_ms = self.config.producer_id_expiration_ms;
        self.producers.expire(now.wall_ms, after_ms);
        self.verifications.expire(now.wall_ms, after_ms);
    }

    /// The producer wants to write into a transaction: `Some` if the transaction's coordinator must
    /// be asked first, and then the batch comes with it; `None` if the transaction is open here
    /// (`UnifiedLog.maybeStartTransactionVerification`). `bumps_epoch` tells of a producer that
    /// takes a new epoch for each transaction; `sequence` is that of its first record, or -1.
    ///
    /// # Errors
    /// `ProducerFenced`. `Io` or `Offline` if the log must first be loaded.
    pub fn begin_verification(
        &mut self,
        (producer_id, epoch): (i64, i16),
        sequence: i32,
        bumps_epoch: bool,
        now: Now,
    ) -> Result<Option<VerificationGuard>, LogError> {
        self.load(now)?;
        if self.producers.has_open(producer_id, epoch)? {
            return Ok(None);
        }
        let all = &mut self.verifications;
        Ok(Some(all.begin(producer_id, sequence, epoch, bumps_epoch, now.wall_ms)))
    }

    /// The open transactions, oldest first; none while the log is not loaded, of which nobody
    /// reads anyway.
    pub fn open_transactions(&self) -> impl Iterator<Item = OpenTxn> {
        self.producers.open()
    }

    /// The first offset that a `read_committed` reader may not pass: that of the oldest
    /// transaction which is open, or whose marker is not below the high watermark.
    ///
    /// # Errors
    /// `Io` or `Offline` if the log must first be loaded.
    pub fn last_stable_offset(
        &mut self,
        high_watermark: Offset,
        now: Now,
    ) -> Result<Offset, LogError> {
        self.load(now)?;
        self.producers.on_high_watermark(high_watermark);
        let unstable = self.producers.first_unstable_offset();
        Ok(unstable.map_or(high_watermark, |o| o.max(self.log_start).min(high_watermark)))
    }

    /// Transactions that were aborted and have records in `from..upper`.
    ///
    /// # Errors
    /// `Io` or `Offline`.
    pub fn aborted_transactions(
        &mut self,
        from: Offset,
        upper: Offset,
        now: Now,
    ) -> Result<Vec<AbortedTxn>, LogError> {
        self.load(now)?;
        let first = self.segment_at(from).unwrap_or(0);
        let mut out = Vec::new();
        for at in first..self.segments.len() {
            let home = Home { dir: &self.dir, tp: &self.tp };
            let done = self.segments[at].collect_aborted(home, from, upper, &mut out)?;
            if done {
                break;
            }
        }
        Ok(out)
    }

    /// Gives back memory that only serves while appends come: for partitions that are idle.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn rest(&mut self) -> Result<(), LogError> {
        self.dir.check()?;
        self.recent.clear();
        let home = Home { dir: &self.dir, tp: &self.tp };
        match self.segments.last_mut() {
            Some(active) => active.store_heavy(home),
            None => Ok(()),
        }
    }

    /// Lets go of every open file: before the directory is renamed or given up.
    pub fn close_files(&mut self) {
        self.abort_cleaning();
        for segment in &mut self.segments {
            segment.close_files(self.dir.files());
        }
    }

    /// The index of the segment that holds `offset`.
    pub(super) fn segment_at(&self, offset: Offset) -> Option<usize> {
        self.segments.partition_point(|s| s.base <= offset).checked_sub(1)
    }

    /// Makes sure that the content is in memory.
    pub(super) fn load(&mut self, now: Now) -> Result<(), LogError> {
        if self.presence == Presence::Deferred {
            self.dir.check()?;
            self.load_clean(now)?;
            if let Some(epoch) = self.begun_epoch.take() {
                self.epochs.assign(epoch, self.end);
            }
        }
        Ok(())
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.dir.folder(&self.tp)
    }

    pub(super) fn fault(&self, doing: &str, at: &Path, e: std::io::Error) -> LogError {
        self.dir.fault(doing, at, e)
    }

    fn adopt_topic_id(&mut self, on_disk: Option<Uuid>) -> Result<(), LogError> {
        match (self.topic_id, on_disk) {
            (Some(expected), Some(found)) if expected != found => {
                Err(LogError::InconsistentTopicId { path: self.folder(), expected, found })
            }
            (expected, found) => {
                self.topic_id = expected.or(found);
                Ok(())
            }
        }
    }

    /// Makes the partition's directory with `partition.metadata`, which comes before any data: a
    /// directory without it could be taken for another topic of the same name.
    pub(super) fn make_folder(&mut self) -> Result<(), LogError> {
        let folder = self.folder();
        self.dir.fs().create_dir_all(&folder).map_err(|e| self.fault("making", &folder, e))?;
        self.write_topic_id()
    }

    fn write_topic_id(&mut self) -> Result<(), LogError> {
        self.entries_changed = self.entries_changed.wrapping_add(1);
        let Some(id) = self.topic_id else { return Ok(()) };
        let path = self.folder().join(names::PARTITION_METADATA);
        let text = format!("version: 0\ntopic_id: {id}\n");
        let file = self.dir.fs().open(&path, OpenMode::Truncate);
        file.and_then(|f| f.write_all_at(&[text.as_bytes()], 0))
            .map_err(|e| self.fault("writing", &path, e))
    }
}

/// Where a segment's files are: everything needed to open one, borrowed from the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Home<'a> {
    pub(super) dir: &'a LogDir,
    pub(super) tp: &'a TopicPartition,
}

impl Home<'_> {
    pub(super) fn path(&self, base: Offset, suffix: &str) -> PathBuf {
        self.dir.folder(self.tp).join(names::file(base, suffix))
    }

    pub(super) fn fault(
        &self,
        doing: &str,
        base: Offset,
        suffix: &str,
        e: std::io::Error,
    ) -> LogError {
        self.dir.fault(doing, &self.path(base, suffix), e)
    }
}

// What an idle partition of one segment costs; its index and recent batches are bounded by
// `Log::rest`.
const _: () = assert!(size_of::<Log>() + size_of::<Segment>() <= 1024);
