//! A log directory: its lock, what it holds, its checkpoint files, the clean-shutdown marker, the
//! names that wait for removal, and whether it is still usable (`LogManager.java`,
//! `CleanShutdownFileHandler.java`).
//!
//! A failed write or sync takes the directory offline for good: the page cache no longer says what
//! the disk holds, so that nothing is ever tried again.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    checkpoint::{self, CHECKPOINT_BYTES_MAX},
    dir_future::Futures,
    dir_state::{CleanEntry, DirState, Leftover},
    error::{LogError, is_full, is_missing},
    files::FileCache,
    names::{self, Fate},
};
use crate::base::{
    Mono, Now, Offset, TopicPartition, Uuid,
    ports::{FileLock, Fs, Space},
};
use crate::record::batch::crc32c;

const LOCK: &str = ".lock";
pub(super) const CLEAN_MARKER: &str = ".kafka_cleanshutdown";
pub(super) const CLEAN_LOGS: &str = ".vltava_clean_logs";
/// The name of the metadata log's directory.
pub const METADATA_LOG: &str = "__cluster_metadata-0";
/// Small files beside the logs: markers and `partition.metadata`.
pub(super) const SMALL_FILE_BYTES_MAX: u64 = 4096;

/// The checkpoint files of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetFile {
    /// Flushed up to here.
    RecoveryPoint,
    /// High watermarks.
    HighWatermark,
    /// Log start offsets that lie above the first segment's base.
    LogStart,
    /// First dirty offsets of compacted logs.
    Cleaner,
}

impl OffsetFile {
    /// The file's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RecoveryPoint => "recovery-point-offset-checkpoint",
            Self::HighWatermark => "replication-offset-checkpoint",
            Self::LogStart => "log-start-offset-checkpoint",
            Self::Cleaner => "cleaner-offset-checkpoint",
        }
    }
}

/// Files or a directory that vanish when their time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// What to remove.
    pub paths: Vec<PathBuf>,
    /// Whether the paths are directories.
    pub dirs: bool,
    /// When.
    pub due: Mono,
}

/// A log directory in use by this process. Shared by its logs.
#[derive(Debug)]
pub struct LogDir {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    files: Arc<FileCache>,
    offline: OnceLock<String>,
    removals: Mutex<Vec<Removal>>,
    pub(super) futures: Mutex<Futures>,
    next_log_id: AtomicU64,
    _lock: Box<dyn FileLock>,
}

impl LogDir {
    /// Locks and reads the directory at `path`, which must exist. The clean-shutdown marker is
    /// taken away, durably: from here on a stop that does not call [`LogDir::mark_clean`] needs
    /// recovery.
    ///
    /// # Errors
    /// `Locked`, or `Io` if the directory cannot be read or the marker not be removed.
    pub fn open(
        fs: Arc<dyn Fs>,
        path: &Path,
        files: Arc<FileCache>,
    ) -> Result<(Arc<Self>, DirState), LogError> {
        let path = fs.canonical(path).map_err(|e| io_error("opening", path, e))?;
        let lock = match fs.lock(&path.join(LOCK)) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(LogError::Locked(path)),
            done => done.map_err(|e| io_error("locking", &path, e))?,
        };
        let dir = Self {
            fs,
            path,
            files,
            offline: OnceLock::new(),
            removals: Mutex::default(),
            futures: Mutex::default(),
            next_log_id: AtomicU64::new(0),
            _lock: lock,
        };
        let state = dir.read_state()?;
        Ok((Arc::new(dir), state))
    }

    /// The canonical path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file system.
    #[must_use]
    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// The cache of open files.
    #[must_use]
    pub fn files(&self) -> &FileCache {
        &self.files
    }

    /// Why the directory is offline; `None` while it is well.
    #[must_use]
    pub fn offline_reason(&self) -> Option<&str> {
        self.offline.get().map(String::as_str)
    }

    /// Takes the directory offline. The first reason stays.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if self.offline.set(reason.clone()).is_ok() {
            tracing::error!(dir = %self.path.display(), reason, "log directory is offline");
        }
    }

    /// # Errors
    /// `Offline` once the directory failed.
    pub fn check(&self) -> Result<(), LogError> {
        match self.offline.get() {
            None => Ok(()),
            Some(r) => Err(LogError::Offline { path: self.path.clone(), reason: r.clone() }),
        }
    }

    /// The error for `e`: a full disk is retriable, anything else takes the directory offline.
    pub(super) fn fault(&self, doing: &str, at: &Path, e: io::Error) -> LogError {
        let context = format!("{doing} {}", at.display());
        if is_full(&e) {
            return LogError::Full(context);
        }
        self.fail(format!("{context}: {e}"));
        LogError::Io { context, source: e }
    }

    /// Size and room of the file system.
    ///
    /// # Errors
    /// `Io`.
    pub fn space(&self) -> Result<Space, LogError> {
        self.fs.space(&self.path).map_err(|e| self.fault("asking for the room of", &self.path, e))
    }

    /// A number that no other log of this directory has.
    pub(super) fn log_id(&self) -> u64 {
        self.next_log_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The topic id in `partition.metadata`; `None` if the file is absent or unreadable.
    ///
    /// # Errors
    /// `Io` if reading fails.
    pub fn topic_id(&self, tp: &TopicPartition) -> Result<Option<Uuid>, LogError> {
        let path = self.folder(tp).join(names::PARTITION_METADATA);
        let Some(text) = self.read_text(&path, SMALL_FILE_BYTES_MAX)? else { return Ok(None) };
        let mut version = None;
        let mut id = None;
        for line in text.lines() {
            match line.split_once(':').map(|(k, v)| (k.trim(), v.trim())) {
                Some(("version", v)) => version = v.parse::<u32>().ok(),
                Some(("topic_id", v)) => id = v.parse::<Uuid>().ok().filter(|id| !id.is_zero()),
                _ => {}
            }
        }
        Ok(version.and(id))
    }

    /// Writes an offset checkpoint atomically and durably.
    ///
    /// # Errors
    /// `Full`: the old file stays; the caller tries again at the next round. `Io`: offline.
    pub fn write_offsets(
        &self,
        file: OffsetFile,
        offsets: &BTreeMap<TopicPartition, Offset>,
    ) -> Result<(), LogError> {
        self.check()?;
        self.write_atomic(&self.path.join(file.name()), &checkpoint::offsets_text(offsets))
    }

    /// The last act of a clean stop, after every log was closed and the checkpoints were written:
    /// remembers the logs, then leaves the marker.
    ///
    /// # Errors
    /// `Full` or `Io`: the next start recovers.
    pub fn mark_clean(
        &self,
        broker_epoch: i64,
        logs: &BTreeMap<TopicPartition, CleanEntry>,
    ) -> Result<(), LogError> {
        self.check()?;
        let seal = self.seal()?;
        let text = checkpoint::text(logs.iter().map(|(tp, e)| {
            format!(
                "{} {} {} {} {} {}",
                tp.topic, tp.partition, e.topic_id, e.log_start, e.end, e.size
            )
        }));
        self.write_atomic(&self.path.join(CLEAN_LOGS), &format!("{seal}\n{text}"))?;
        let marker = format!("{{\"version\":0,\"brokerEpoch\":{broker_epoch}}}");
        self.write_atomic(&self.path.join(CLEAN_MARKER), &marker)
    }

    /// Renames the directory of `tp` for `fate`; one to be deleted is removed after `delay_ms`.
    /// `unique` is a fresh id. The partition's `Log` must be gone.
    ///
    /// # Errors
    /// `Full` or `Io`. A directory that does not exist is no error.
    pub fn retire(
        &self,
        tp: &TopicPartition,
        fate: Fate,
        unique: Uuid,
        delay_ms: i64,
        now: Now,
    ) -> Result<(), LogError> {
        self.check()?;
        let from = self.path.join(tp.to_string());
        let to = self.path.join(names::doomed_dir(tp, unique, fate));
        match self.fs.rename(&from, &to) {
            Err(e) if is_missing(&e) => return Ok(()),
            done => done.map_err(|e| self.fault("renaming", &from, e))?,
        }
        self.sync_dir(&self.path)?;
        if fate == Fate::Delete {
            let due = now.mono.after_ms(delay_ms);
            self.schedule(Removal { paths: vec![to], dirs: true, due });
        }
        Ok(())
    }

    /// Removes what an earlier run renamed to `-delete`, when `due` has come.
    pub fn remove_leftover(&self, leftover: &Leftover, due: Mono) {
        self.schedule(Removal { paths: vec![self.path.join(&leftover.name)], dirs: true, due });
    }

    /// Puts a removal on the list.
    pub fn schedule(&self, removal: Removal) {
        if !removal.paths.is_empty() {
            self.removals().push(removal);
        }
    }

    /// When [`LogDir::remove_due`] next has something to do.
    #[must_use]
    pub fn next_removal(&self) -> Mono {
        self.removals().iter().map(|r| r.due).min().unwrap_or(Mono::NEVER)
    }

    /// Removes what is due and tells how many files and directories that were. May take long.
    ///
    /// # Errors
    /// `Io`: what could not be removed is dropped from the list.
    pub fn remove_due(&self, now: Mono) -> Result<usize, LogError> {
        self.check()?;
        let due: Vec<_> = self.removals().extract_if(.., |r| r.due <= now).collect();
        let mut removed = 0;
        for removal in due {
            for path in &removal.paths {
                let done = if removal.dirs {
                    self.fs.remove_dir_all(path)
                } else {
                    self.fs.remove_file(path)
                };
                done.map_err(|e| self.fault("removing", path, e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    pub(super) fn write_atomic(&self, path: &Path, text: &str) -> Result<(), LogError> {
        self.fs.write_atomic(path, text.as_bytes()).map_err(|e| self.fault("writing", path, e))
    }

    pub(super) fn sync_dir(&self, path: &Path) -> Result<(), LogError> {
        self.fs.sync_dir(path).map_err(|e| self.fault("syncing", path, e))
    }

    /// The text of a file; `None` if it is absent or not UTF-8.
    pub(super) fn read_text(&self, path: &Path, max: u64) -> Result<Option<String>, LogError> {
        match self.fs.read(path, max) {
            Ok(bytes) => Ok(String::from_utf8(bytes).ok()),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(self.fault("reading", path, e)),
        }
    }

    fn removals(&self) -> MutexGuard<'_, Vec<Removal>> {
        // The list is whole between any two of its operations.
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What binds the remembered logs to their checkpoint: another broker that ran on the
    /// directory since has written that anew.
    pub(super) fn seal(&self) -> Result<u32, LogError> {
        let path = self.path.join(OffsetFile::RecoveryPoint.name());
        let text = self.read_text(&path, CHECKPOINT_BYTES_MAX)?.unwrap_or_default();
        Ok(crc32c(text.as_bytes()))
    }
}

fn io_error(doing: &str, at: &Path, source: io::Error) -> LogError {
    LogError::Io { context: format!("{doing} {}", at.display()), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ports::OpenMode;
    use crate::log::FoundPartition;
    use crate::testing::fs::SimFs;

    fn open(fs: &SimFs) -> (Arc<LogDir>, DirState) {
        let files = Arc::new(FileCache::new(100));
        LogDir::open(Arc::new(fs.clone()), Path::new("/data"), files).unwrap()
    }

    fn sim() -> SimFs {
        let fs = SimFs::new(7);
        fs.create_dir_all(Path::new("/data")).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        fs
    }

    fn put(fs: &SimFs, path: &str, content: &str) {
        let file = fs.open(Path::new(path), OpenMode::Truncate).unwrap();
        file.write_all_at(&[content.as_bytes()], 0).unwrap();
    }

    fn entry(end: Offset) -> CleanEntry {
        CleanEntry { topic_id: Uuid([9; 16]), log_start: 0, end, size: 100 }
    }

    #[test]
    fn a_clean_stop_is_remembered_once() {
        let fs = sim();
        let tp = TopicPartition::new("a", 0);
        {
            let (dir, state) = open(&fs);
            assert!(!state.clean);
            fs.create_dir_all(Path::new("/data/a-0")).unwrap();
            let points = BTreeMap::from([(tp.clone(), 5)]);
            dir.write_offsets(OffsetFile::RecoveryPoint, &points).unwrap();
            dir.mark_clean(77, &BTreeMap::from([(tp.clone(), entry(5))])).unwrap();
            let text = fs.read(Path::new("/data/.kafka_cleanshutdown"), 100).unwrap();
            assert_eq!(text, br#"{"version":0,"brokerEpoch":77}"#);
        }
        let (_, state) = open(&fs.crash());
        assert!(state.clean, "what the marker says is durable");
        let (dir, state) = open(&fs);
        assert_eq!((state.clean, state.broker_epoch), (true, Some(77)));
        assert_eq!(state.partitions, [FoundPartition { tp, known: Some(entry(5)) }]);
        drop(dir);
        let (_, state) = open(&fs.crash());
        assert!(!state.clean, "taking the marker is durable");
    }

    #[test]
    fn another_broker_in_between_voids_what_was_remembered() {
        let fs = sim();
        let tp = TopicPartition::new("a", 0);
        let (dir, _) = open(&fs);
        fs.create_dir_all(Path::new("/data/a-0")).unwrap();
        dir.write_offsets(OffsetFile::RecoveryPoint, &BTreeMap::from([(tp.clone(), 5)])).unwrap();
        dir.mark_clean(1, &BTreeMap::from([(tp, entry(5))])).unwrap();
        drop(dir);
        put(&fs, "/data/recovery-point-offset-checkpoint", "0\n2\na 0 5\nb 0 1\n");
        let (_, state) = open(&fs);
        assert!(state.clean);
        assert_eq!(state.partitions[0].known, None);
    }

    #[test]
    fn the_lock_is_exclusive_and_the_listing_sorted_out() {
        let fs = sim();
        let (a, _) = open(&fs);
        let again =
            LogDir::open(Arc::new(fs.clone()), Path::new("/data"), Arc::new(FileCache::new(1)));
        assert!(matches!(again, Err(LogError::Locked(_))));
        let tp = TopicPartition::new("gone", 1);
        for name in ["gone-1", "__cluster_metadata-0", "x-0.1-delete", "lost+found"] {
            fs.create_dir_all(&Path::new("/data").join(name)).unwrap();
        }
        put(&fs, "/data/replication-offset-checkpoint", "0\n9\n");
        let now = Now { mono: Mono(5), wall_ms: 0 };
        a.retire(&tp, Fate::Delete, Uuid([1; 16]), 60_000, now).unwrap();
        a.retire(&tp, Fate::Delete, Uuid([2; 16]), 60_000, now).unwrap();
        assert_eq!(a.next_removal(), now.mono.after_ms(60_000));
        drop(a);
        let (b, state) = open(&fs);
        assert!(state.has_metadata_log && state.high_watermarks.is_empty());
        assert_eq!(state.partitions, []);
        assert_eq!((&state.leftovers[0].tp, state.leftovers[0].fate), (&tp, Fate::Delete));
        b.remove_leftover(&state.leftovers[0], Mono(1));
        assert_eq!(b.remove_due(Mono(0)).unwrap(), 0);
        assert_eq!(b.remove_due(Mono(1)).unwrap(), 1);
        drop(b);
        assert!(open(&fs).1.leftovers.is_empty());
    }

    #[test]
    fn partition_metadata() {
        let fs = sim();
        let (dir, _) = open(&fs);
        let tp = TopicPartition::new("a", 0);
        assert_eq!(dir.topic_id(&tp).unwrap(), None);
        fs.create_dir_all(Path::new("/data/a-0")).unwrap();
        let path = "/data/a-0/partition.metadata";
        put(&fs, path, "version: 0\ntopic_id: AQEBAQEBAQEBAQEBAQEBAQ\n");
        assert_eq!(dir.topic_id(&tp).unwrap(), Some(Uuid([1; 16])));
        put(&fs, path, "");
        assert_eq!(dir.topic_id(&tp).unwrap(), None, "torn by a power cut");
    }

    #[test]
    fn a_fault_takes_the_directory_offline_and_a_full_disk_does_not() {
        let fs = sim();
        let (dir, _) = open(&fs);
        let none = BTreeMap::new();
        fs.fill_disk();
        let full = dir.write_offsets(
            OffsetFile::LogStart,
            &BTreeMap::from([(TopicPartition::new("a", 0), 1)]),
        );
        assert!(matches!(full, Err(LogError::Full(_))), "{full:?}");
        assert_eq!(dir.offline_reason(), None);
        fs.free_disk();
        fs.fail_next(crate::testing::fs::Op::Sync, "log-start", io::ErrorKind::Other);
        let failed = dir.write_offsets(OffsetFile::LogStart, &none);
        assert!(matches!(failed, Err(LogError::Io { .. })));
        assert!(dir.offline_reason().unwrap().contains("log-start"));
        let after = dir.write_offsets(OffsetFile::LogStart, &none);
        assert!(matches!(after, Err(LogError::Offline { .. })), "never tried again");
    }
}
