//! What a quorum member has on disk: the metadata log, the vote file, and a file that keeps some
//! space in reserve, so that a full disk does not stop metadata, without which nothing could be
//! deleted. Blocking. Uses `base`, `log`, `record`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};

use super::{
    checkpoint::{CheckpointDir, CheckpointFile, Header},
    image_store::{ImageStore, StorePlace},
    settings::{LogPolicy, METADATA_DIR_NAME, QuorumError},
    types::{self, LogId, Vote},
    vote_file::{QuorumState, VoteFile},
};
use crate::{
    base::{
        LeaderEpoch, Offset, TopicPartition, Uuid,
        ports::{Clock, Fs, OpenMode},
    },
    log::{Log, LogConfig, LogDir, LogError, LogInit, Recovery},
    metadata::Image,
    record::{BatchHeader, batch::batches},
};

/// The file that keeps space in reserve.
const RESERVE: &str = "reserve";
/// How much: some ten thousand records, and all that elections write.
const RESERVE_BYTES: usize = 4 * 1024 * 1024;
/// Pause before a write is tried again that found no space.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// What a member finds on its disk.
pub(crate) struct Found {
    pub(crate) disk: Disk,
    pub(crate) checkpoints: Arc<CheckpointDir>,
    /// The newest checkpoint.
    pub(crate) checkpoint: Option<(CheckpointFile, Header)>,
    /// Where the image stands.
    pub(crate) header: Header,
    /// The newest image there is without reading the log: the checkpoint's, or the stored one.
    pub(crate) image: Image,
    pub(crate) place: StorePlace,
    /// The image's store, if `image` is from there.
    pub(crate) store: Option<Arc<ImageStore>>,
}

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Disk {
    log: Mutex<Log>,
    votes: Mutex<VoteFile>,
    fs: Arc<dyn Fs>,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
    /// Set when nothing more will be written: waiting for space ends.
    closing: AtomicBool,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic aborts the process in production; in tests the value is as good as before.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_io(e: LogError) -> io::Error {
    match e {
        LogError::Io { context, source } => {
            io::Error::new(source.kind(), format!("{context}: {source}"))
        }
        LogError::Full(_) => io::Error::new(io::ErrorKind::StorageFull, e),
        other => io::Error::other(other),
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn offset(index: u64) -> Offset {
    i64::try_from(index).unwrap_or(i64::MAX)
}

fn log_config(policy: LogPolicy) -> LogConfig {
    LogConfig {
        segment_bytes: u64::from(policy.segment_bytes),
        segment_ms: i64::MAX,
        // Entries go behind a checkpoint, never by age or size.
        retention_ms: -1,
        retention_bytes: -1,
        ..LogConfig::default()
    }
}

impl Disk {
    /// Opens all of it. A torn end of the log is cut.
    ///
    /// # Errors
    /// `Storage`, or `Corrupt` if what was purged is in no checkpoint.
    pub(crate) fn open(
        dir: Arc<LogDir>,
        policy: LogPolicy,
        clock: Arc<dyn Clock>,
    ) -> Result<Found, QuorumError> {
        let folder = dir.path().join(METADATA_DIR_NAME);
        let fs = Arc::clone(dir.fs());
        let storage = |source| QuorumError::Storage { path: folder.clone(), source };
        let votes = VoteFile::open(Arc::clone(&fs), &folder).map_err(storage)?;
        let checkpoints = Arc::new(CheckpointDir::new(Arc::clone(&fs), &folder));
        checkpoints.remove_parts().map_err(storage)?;
        let (checkpoint, mut header, mut image) = match checkpoints.newest().map_err(storage)? {
            Some((file, header, image)) => (Some((file, header.clone())), header, image),
            None => (None, Header::default(), Image::default()),
        };
        let covered = header.position();
        let purged = votes.state().purged;
        if let Some(purged) = purged
            && purged.offset > covered.offset
        {
            return Err(QuorumError::Corrupt(format!(
                "it begins after offset {}, and no checkpoint covers what was before",
                purged.offset
            )));
        }
        let start = purged.map_or(0, |p| p.offset + 1);
        let init = LogInit {
            tp: TopicPartition::new("__cluster_metadata", 0),
            topic_id: Some(Uuid::ONE),
            config: Arc::new(log_config(policy)),
            log_start: start,
            first_dirty: None,
            // All before a checkpoint was synced before the checkpoint was written.
            recovery: Recovery::Unclean { recovery_point: covered.offset + 1 },
        };
        let mut log = Log::open(dir, init, clock.now()).map_err(|e| storage(to_io(e)))?;
        if log.log_end_offset() < start {
            // The process ended between taking in a checkpoint and emptying the log.
            log.truncate_fully_and_start_at(start, None, clock.now())
                .map_err(|e| storage(to_io(e)))?;
        }
        let place = StorePlace::new(Arc::clone(&fs), &folder);
        let stored = place.load().map_err(storage)?.filter(|(_, header, _)| {
            let at = header.position().offset;
            at > covered.offset && at < log.log_end_offset()
        });
        let store = match stored {
            Some((store, newer, newer_image)) => {
                (header, image) = (newer, newer_image);
                Some(Arc::new(store))
            }
            None => {
                place.remove().map_err(storage)?;
                None
            }
        };
        let closing = AtomicBool::new(false);
        let (log, votes) = (Mutex::new(log), Mutex::new(votes));
        let disk = Self { log, votes, fs, folder, clock, closing };
        Ok(Found { disk, checkpoints, checkpoint, header, image, place, store })
    }

    /// What was promised and purged.
    pub(crate) fn state(&self) -> QuorumState {
        lock(&self.votes).state()
    }

    /// The id of the last entry, if there are any.
    pub(crate) fn last_entry(&self) -> io::Result<Option<LogId>> {
        let (start, end) = {
            let log = lock(&self.log);
            (log.log_start_offset(), log.log_end_offset())
        };
        let Ok(last) = u64::try_from(end - 1) else { return Ok(None) };
        if start >= end {
            return Ok(None);
        }
        let batches = self.read(last, last + 1, 1)?;
        let header = batches.first().and_then(|b| BatchHeader::read(b).ok());
        let header = header.ok_or_else(|| io::Error::other("the last entry cannot be read"))?;
        Ok(Some(types::log_id(header.partition_leader_epoch, last)))
    }

    /// The batches of entries `from..to`, about `max` bytes but at least one.
    pub(crate) fn read(&self, from: u64, to: u64, max: usize) -> io::Result<Vec<Bytes>> {
        let now = self.clock.now();
        let found = lock(&self.log).read(offset(from), offset(to), max, true, now);
        let found = found.map_err(to_io)?;
        let mut bytes = BytesMut::zeroed(found.bytes);
        let mut at = 0;
        for slice in &found.slices {
            let part = bytes.get_mut(at..at + slice.len).ok_or(io::ErrorKind::UnexpectedEof)?;
            slice.file.read_exact_at(part, slice.pos)?;
            at += slice.len;
        }
        let bytes = bytes.freeze();
        let cut = batches(&bytes).map(|b| b.map(|(_, b)| bytes.slice_ref(b)));
        let cut: Result<Vec<_>, _> = cut.collect();
        let cut = cut.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        if cut.is_empty() {
            return Err(io::Error::other(format!("entry {from} is not in the log")));
        }
        Ok(cut)
    }

    /// Writes batches to the end of the log; they are not durable yet. Waits while the disk is
    /// full.
    pub(crate) fn append(&self, batches: &[Bytes]) -> io::Result<()> {
        self.with_space(|| {
            let mut log = lock(&self.log);
            // An earlier attempt may have written some before the disk was full.
            let end = log.log_end_offset();
            let is_new = |b: &&Bytes| BatchHeader::read(b).is_ok_and(|h| h.base_offset >= end);
            let mut new = batches.iter().filter(is_new);
            let (first, rest) = (new.next(), new.next());
            let bytes = match (first, rest) {
                (None, _) => return Ok(()),
                (Some(one), None) => one.clone(),
                (Some(_), Some(_)) => batches.iter().filter(is_new).flatten().copied().collect(),
            };
            let now = self.clock.now();
            log.append_follower(&bytes, LeaderEpoch::MAX, now).map_err(to_io).map(|_| ())
        })
    }

    /// Makes the log durable.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let ticket = lock(&self.log).flush_ticket_batches().map_err(to_io)?;
        if let Some(ticket) = ticket {
            let mark = ticket.sync().map_err(to_io)?;
            lock(&self.log).flushed(mark, self.clock.now());
        }
        Ok(())
    }

    /// Makes a vote durable. Waits while the disk is full.
    pub(crate) fn save_vote(&self, vote: Vote) -> io::Result<()> {
        self.with_space(|| {
            self.make_folder()?;
            lock(&self.votes).save_vote(vote)
        })
    }

    /// Drops the entries from `next` on.
    pub(crate) fn truncate(&self, next: u64) -> io::Result<()> {
        let now = self.clock.now();
        lock(&self.log).truncate_to(offset(next), now).map_err(to_io).map(|_| ())?;
        self.flush()
    }

    /// Drops the entries up to `upto`, which a checkpoint covers; whole segments at a time.
    pub(crate) fn purge(&self, upto: &LogId) -> io::Result<()> {
        let position = types::position(Some(upto));
        self.with_space(|| {
            self.make_folder()?;
            lock(&self.votes).save_purged(position)
        })?;
        let (start, now) = (position.offset + 1, self.clock.now());
        let mut log = lock(&self.log);
        if log.log_end_offset() < start {
            return log.truncate_fully_and_start_at(start, None, now).map_err(to_io).map(|_| ());
        }
        log.advance_log_start(start, now).map_err(to_io)?;
        let end = log.log_end_offset();
        log.delete_expired(end, now).map_err(to_io).map(|_| ())
    }

    /// Ends waiting for space; what is asked from now on fails where it would wait.
    pub(crate) fn begin_close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Lets go of the files.
    pub(crate) fn close(&self) {
        if let Err(e) = lock(&self.log).close_clean(self.clock.now()) {
            tracing::error!("the metadata log was not closed well: {e}");
        }
    }

    /// Takes space in reserve, if there is enough and it is not taken yet. To be called when there
    /// is nothing else to do.
    pub(crate) fn reserve(&self) -> io::Result<()> {
        let path = self.reserve_path();
        let enough = |s: crate::base::ports::Space| s.usable > 16 * RESERVE_BYTES as u64;
        let taken = self.fs.stat(&path)?.is_some_and(|e| e.len == RESERVE_BYTES as u64);
        if taken || !self.fs.space(&self.folder).is_ok_and(enough) {
            return Ok(());
        }
        let file = self.fs.open(&path, OpenMode::Truncate)?;
        // Zeros, written: a hole would reserve nothing.
        let zeros = vec![0; 64 * 1024];
        for at in (0..RESERVE_BYTES).step_by(zeros.len()) {
            file.write_all_at(&[&zeros], at as u64)?;
        }
        Ok(())
    }

    fn reserve_path(&self) -> PathBuf {
        self.folder.join(RESERVE)
    }

    fn make_folder(&self) -> io::Result<()> {
        if self.fs.stat(&self.folder)?.is_none() {
            self.fs.create_dir_all(&self.folder)?;
            self.fs.sync_dir(self.folder.parent().unwrap_or_else(|| Path::new(".")))?;
        }
        Ok(())
    }

    /// Does `what`; if the disk is full, gives up the reserve and tries again, then waits.
    fn with_space(&self, what: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut said = false;
        loop {
            match what() {
                Err(e) if is_full(&e) => {
                    let had_reserve = self.fs.stat(&self.reserve_path())?.is_some();
                    if had_reserve {
                        tracing::warn!("the disk is full: metadata goes into the space reserved");
                        self.fs.remove_file(&self.reserve_path())?;
                        continue;
                    }
                    if self.closing.load(Ordering::Relaxed) {
                        return Err(e);
                    }
                    if !said {
                        tracing::error!("metadata waits for space on the disk: {e}");
                        said = true;
                    }
                    std::thread::sleep(FULL_PAUSE);
                }
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, entry::RaftEntry as _};

    use super::*;
    use crate::{
        base::NodeId,
        log::FileCache,
        metadata::{Loader, Position},
        os::{OsClock, OsFs},
        quorum::{entry, types::Entry},
    };

    fn open(dir: &Path) -> Result<Found, QuorumError> {
        let (dir, _) = LogDir::open(Arc::new(OsFs), dir, Arc::new(FileCache::new(8))).unwrap();
        Disk::open(dir, LogPolicy::default(), Arc::new(OsClock::new()))
    }

    fn blank(index: u64) -> Bytes {
        entry::encode(&Entry::new(types::log_id(1, index), EntryPayload::Blank)).unwrap()
    }

    fn header(index: u64) -> Header {
        Header { last_log_id: Some(types::log_id(1, index)), ..Header::default() }
    }

    fn image(offset: Offset) -> Image {
        let mut loader = Loader::default();
        loader.load_batch(Position { offset, epoch: 1 }, &[]).unwrap();
        loader.image().as_ref().clone()
    }

    #[test]
    fn what_was_synced_is_there_and_a_torn_end_is_cut() {
        let tmp = tempfile::tempdir().unwrap();
        let found = open(tmp.path()).unwrap();
        assert_eq!(found.disk.last_entry().unwrap(), None);
        found.disk.append(&[blank(0), blank(1)]).unwrap();
        found.disk.append(&[blank(2)]).unwrap();
        found.disk.flush().unwrap();
        found.disk.save_vote(Vote::new(7, NodeId(3))).unwrap();
        drop(found);
        let log = tmp.path().join(METADATA_DIR_NAME).join("00000000000000000000.log");
        let file = OsFs.open(&log, OpenMode::ReadWrite).unwrap();
        file.write_all_at(&[&blank(3)[..40]], file.len().unwrap()).unwrap();

        let disk = open(tmp.path()).unwrap().disk;
        assert_eq!(disk.last_entry().unwrap(), Some(types::log_id(1, 2)));
        assert_eq!(disk.state().vote.unwrap().leader_id, Vote::new(7, NodeId(3)).leader_id);
        assert_eq!(disk.read(0, 3, usize::MAX).unwrap(), [blank(0), blank(1), blank(2)]);
        disk.append(&[blank(3)]).unwrap();
        disk.truncate(1).unwrap();
        assert_eq!(disk.last_entry().unwrap(), Some(types::log_id(1, 0)));
    }

    #[test]
    fn nothing_is_purged_without_a_checkpoint() {
        let tmp = tempfile::tempdir().unwrap();
        let found = open(tmp.path()).unwrap();
        let entries: Vec<_> = (0..5).map(blank).collect();
        found.disk.append(&entries).unwrap();
        found.disk.flush().unwrap();
        found.disk.purge(&types::log_id(1, 2)).unwrap();
        let checkpoints = Arc::clone(&found.checkpoints);
        drop(found);
        assert!(matches!(open(tmp.path()), Err(QuorumError::Corrupt(_))));
        checkpoints.write(&header(3), &image(3), 0).unwrap();
        let found = open(tmp.path()).unwrap();
        assert_eq!(found.header, header(3));
        assert_eq!(found.disk.read(3, 5, usize::MAX).unwrap(), entries[3..]);
        // As a follower that was sent a checkpoint from beyond its log.
        checkpoints.write(&header(40), &image(40), 0).unwrap();
        found.disk.purge(&types::log_id(1, 40)).unwrap();
        drop(found);
        let found = open(tmp.path()).unwrap();
        assert_eq!(found.disk.last_entry().unwrap(), None);
        found.disk.append(&[blank(41)]).unwrap();
        assert_eq!(found.disk.last_entry().unwrap(), Some(types::log_id(1, 41)));
    }

    #[test]
    fn a_stored_image_is_used_only_within_the_log() {
        let tmp = tempfile::tempdir().unwrap();
        let found = open(tmp.path()).unwrap();
        found.disk.append(&(0..5).map(blank).collect::<Vec<_>>()).unwrap();
        found.disk.flush().unwrap();
        let place = found.place.clone();
        drop(found);
        drop(place.create(&header(3), &image(3)).unwrap());
        let found = open(tmp.path()).unwrap();
        assert_eq!((&found.header, found.store.is_some()), (&header(3), true));
        drop(found);
        drop(place.create(&header(5), &image(5)).unwrap());
        let found = open(tmp.path()).unwrap();
        assert_eq!((&found.header, found.store.is_some()), (&Header::default(), false));
        assert!(place.load().unwrap().is_none());
    }
}
