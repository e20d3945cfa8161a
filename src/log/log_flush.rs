//! Making a log durable. The slow part, the syncs, is a [`FlushTicket`] that needs no access to
//! the log, so that appends go on meanwhile; whoever ran it reports back with [`Log::flushed`].
//!
//! In the active segment only batches are synced: recovery makes the rest anew from the recovery
//! point on. So the recovery point never passes a closed segment whose indexes are not durable,
//! nor a leader epoch that the epoch file does not tell.

use std::{path::PathBuf, sync::Arc};

use super::{
    dir::LogDir,
    dir_state::CleanEntry,
    error::LogError,
    log::{Home, Log, Presence},
    names,
    segment::Segment,
};
use crate::base::{
    Mutant, Now, Offset, Uuid, mutant,
    ports::{File, OpenMode},
};

/// What a flush covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushMark {
    /// Everything below this offset is durable once the ticket was synced.
    pub upto: Offset,
    /// Indexes of segments below this offset are durable, too.
    closed_below: Offset,
    entries_changed: u32,
    truncations: u32,
}

/// How much a ticket takes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Batches, and the indexes of closed segments.
    Batches,
    /// These, and the epoch file.
    Usual,
    /// All there is: for a clean close.
    All,
}

/// Files and directories to sync for one log.
#[derive(Debug, Clone)]
pub struct FlushTicket {
    /// What the ticket covers.
    pub mark: FlushMark,
    pub(super) log_id: u64,
    dir: Arc<LogDir>,
    files: Vec<Arc<dyn File>>,
    folders: Vec<PathBuf>,
}

impl FlushTicket {
    /// Syncs. A failure takes the directory offline; it is never tried again.
    ///
    /// # Errors
    /// `Io`, or `Offline` if the directory failed before.
    pub fn sync(&self) -> Result<FlushMark, LogError> {
        self.sync_all(&self.files, &self.folders)?;
        Ok(self.mark)
    }

    pub(super) fn files(&self) -> &[Arc<dyn File>] {
        &self.files
    }

    pub(super) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The mark, unless the directory is offline.
    pub(super) fn offline(&self) -> Result<FlushMark, LogError> {
        self.dir.check().map(|()| self.mark)
    }

    /// Syncs these in the name of the ticket's directory.
    pub(super) fn sync_all(
        &self,
        files: &[Arc<dyn File>],
        folders: &[PathBuf],
    ) -> Result<(), LogError> {
        self.dir.check()?;
        for file in files {
            match file.sync() {
                Err(_) if mutant(Mutant::RetryFailedSync) && file.sync().is_ok() => {}
                done => done.map_err(|e| self.fatal("syncing a file in", e))?,
            }
        }
        for folder in folders {
            self.dir.fs().sync_dir(folder).map_err(|e| self.fatal("syncing", e))?;
        }
        Ok(())
    }

    /// Even a full disk is final here: what was written before can be lost.
    fn fatal(&self, doing: &str, e: std::io::Error) -> LogError {
        let context = format!("{doing} {}", self.dir.path().display());
        self.dir.fail(format!("{context}: {e}"));
        LogError::Io { context, source: e }
    }
}

impl Log {
    /// Everything below this offset survives a power cut.
    #[must_use]
    pub fn flushed_offset(&self) -> Offset {
        self.flushed
    }

    /// Everything below this offset needs no scan after a crash.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        self.recovery_point
    }

    /// The recovery point, to be written to `recovery-point-offset-checkpoint` right away.
    pub fn checkpoint_recovery_point(&mut self) -> Offset {
        self.checkpointed = self.recovery_point;
        self.recovery_point
    }

    /// Whether the checkpoint promises more than is true: after a truncation, or when recovery
    /// found less than promised. It must then be written before the next append, or a crash could
    /// trust bytes that were never synced.
    #[must_use]
    pub fn checkpoint_due(&self) -> bool {
        self.checkpointed > self.recovery_point
    }

    /// Records that were appended since the last flush.
    #[must_use]
    pub fn unflushed_messages(&self) -> i64 {
        self.end - self.flushed
    }

    /// Whether `flush.messages` or `flush.ms` asks for a flush.
    #[must_use]
    pub fn flush_due(&self, now: Now) -> bool {
        let unflushed = self.unflushed_messages();
        unflushed > 0
            && (unflushed >= self.config.flush_messages
                || now.wall_ms.saturating_sub(self.last_flush_ms) >= self.config.flush_ms)
    }

    /// What to sync so that everything appended so far is durable; `None` if it is.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn flush_ticket(&mut self) -> Result<Option<FlushTicket>, LogError> {
        self.ticket(Offset::MAX)
    }

    /// As [`Log::flush_ticket`], without the epoch file: for a log whose owner does not rest on
    /// [`Log::recovery_point`], which stays below the first epoch that is not on disk.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn flush_ticket_batches(&mut self) -> Result<Option<FlushTicket>, LogError> {
        self.ticket_of(Offset::MAX, Scope::Batches)
    }

    /// As [`Log::flush_ticket`], for the closed segments only: what is due after a roll, when
    /// nobody waits for the active one.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn flush_ticket_closed(&mut self) -> Result<Option<FlushTicket>, LogError> {
        let active = self.segments.last().map_or(self.end, |s| s.base);
        self.ticket(active)
    }

    /// Takes note of a ticket that was synced.
    pub fn flushed(&mut self, mark: FlushMark, now: Now) {
        self.last_flush_ms = now.wall_ms;
        if mark.truncations != self.truncations {
            return;
        }
        self.flushed = self.flushed.max(mark.upto);
        self.entries_synced = mark.entries_changed;
        if self.closed_unsynced {
            for segment in &mut self.segments {
                if segment.base < mark.closed_below && segment.is_stored() {
                    segment.index_unsynced = false;
                }
            }
            self.closed_unsynced = self.closed().iter().any(|s| s.index_unsynced);
        }
        self.recovery_point = self.recovery_point.max(self.reliable());
    }

    /// The offset below which everything on disk is durable and complete, indexes and epochs
    /// included. Never the log end while the active segment has records: it may be closed right
    /// there, with index entries that no sync has seen.
    pub(super) fn reliable(&self) -> Offset {
        let mut out = self.flushed.min(self.epochs.unsaved_from());
        if self.segments.last().is_some_and(|active| active.size > 0) {
            out = out.min(self.end - 1);
        }
        if self.closed_unsynced {
            let unsynced = self.closed().iter().find(|s| s.index_unsynced);
            out = unsynced.map_or(out, |s| out.min(s.base));
        }
        out
    }

    /// Flushes at once, waiting for the disk.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn flush(&mut self, now: Now) -> Result<(), LogError> {
        if let Some(ticket) = self.flush_ticket()? {
            let mark = ticket.sync()?;
            self.flushed(mark, now);
        }
        Ok(())
    }

    /// Ends the use of the log such that the next start needs no recovery: flushes, completes the
    /// index files, writes the producers' state and lets go of the files. Gives what
    /// [`LogDir::mark_clean`] remembers; `None` for a log without a directory.
    ///
    /// # Errors
    /// `Full`, `Io`, `Offline`: the directory must not be marked clean.
    pub fn close_clean(&mut self, now: Now) -> Result<Option<CleanEntry>, LogError> {
        if self.presence == Presence::Absent {
            return Ok(None);
        }
        self.abort_cleaning();
        if self.presence == Presence::Loaded {
            self.dir.check()?;
            self.seal_all()?;
            self.snapshot_at_close()?;
            if let Some(ticket) = self.ticket_of(Offset::MAX, Scope::All)? {
                let mark = ticket.sync()?;
                self.flushed(mark, now);
            }
            self.check_complete()?;
            self.recovery_point = self.end;
        }
        let (size, topic_id) = (self.size(), self.topic_id.unwrap_or(Uuid::ZERO));
        self.close_files();
        Ok(Some(CleanEntry { topic_id, log_start: self.log_start, end: self.end, size }))
    }

    fn seal_all(&mut self) -> Result<(), LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let last = self.segments.len().saturating_sub(1);
        for (at, segment) in self.segments.iter_mut().enumerate() {
            if at == last || !segment.is_stored() {
                segment.seal(home)?;
            }
        }
        Ok(())
    }

    fn check_complete(&self) -> Result<(), LogError> {
        let unstored = self.segments.iter().any(|s| !s.is_stored());
        if unstored || self.epochs.unsaved_from() < self.end {
            return Err(LogError::Full(format!("closing {}", self.folder().display())));
        }
        Ok(())
    }

    /// Without producers, now and before, there is nothing to remember: a clean start takes the
    /// absence of a snapshot for that.
    fn snapshot_at_close(&mut self) -> Result<(), LogError> {
        if self.producers.len() > 0 || !self.snapshots()?.is_empty() {
            self.take_snapshot(self.end)?;
        }
        Ok(())
    }

    fn ticket(&mut self, upto: Offset) -> Result<Option<FlushTicket>, LogError> {
        self.ticket_of(upto, Scope::Usual)
    }

    fn ticket_of(&mut self, upto: Offset, scope: Scope) -> Result<Option<FlushTicket>, LogError> {
        self.dir.check()?;
        let all = scope == Scope::All;
        let upto = upto.min(self.end);
        let entries = self.entries_changed != self.entries_synced;
        let indexes = self.closed_unsynced;
        if self.presence != Presence::Loaded
            || (upto <= self.flushed && !entries && !indexes && !all)
        {
            return Ok(None);
        }
        if scope != Scope::Batches {
            self.save_epochs(upto, all)?;
        }
        let mut files = self.data_files(upto)?;
        files.append(&mut self.index_files(all)?);
        if all {
            files.append(&mut self.small_files()?);
        }
        let mut folders = Vec::new();
        if entries || all {
            folders.push(self.folder());
            folders.push(self.dir.path().to_owned());
        }
        if files.is_empty() && folders.is_empty() {
            return Ok(None);
        }
        let active = self.segments.last().map_or(self.end, |s| s.base);
        let mark = FlushMark {
            upto,
            closed_below: if all { Offset::MAX } else { active },
            entries_changed: self.entries_changed,
            truncations: self.truncations,
        };
        let (log_id, dir) = (self.id, Arc::clone(&self.dir));
        Ok(Some(FlushTicket { mark, log_id, dir, files, folders }))
    }

    fn closed(&self) -> &[Segment] {
        self.segments.split_last().map_or(&[], |(_, closed)| closed)
    }

    /// The batches' files that hold offsets from the flushed one up to `upto`.
    fn data_files(&mut self, upto: Offset) -> Result<Vec<Arc<dyn File>>, LogError> {
        let first = self.segment_at(self.flushed).unwrap_or(0);
        let home = Home { dir: &self.dir, tp: &self.tp };
        let mut out = Vec::new();
        for segment in self.segments.iter_mut().skip(first).take_while(|s| s.base < upto) {
            out.push(segment.log_file(home)?);
        }
        Ok(out)
    }

    fn index_files(&mut self, all: bool) -> Result<Vec<Arc<dyn File>>, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let last = self.segments.len().saturating_sub(1);
        let mut out = Vec::new();
        if !all && !self.closed_unsynced {
            return Ok(out);
        }
        for (at, segment) in self.segments.iter_mut().enumerate() {
            if segment.index_unsynced && (at < last || all) {
                // A full disk may have kept a part of it in memory until now.
                if !segment.is_stored() {
                    segment.seal(home)?;
                }
                out.append(&mut segment.index_files(home)?);
            }
        }
        Ok(out)
    }

    /// The newest snapshot and `partition.metadata`, at a clean close.
    fn small_files(&mut self) -> Result<Vec<Arc<dyn File>>, LogError> {
        let folder = self.folder();
        let snapshot = names::file(self.end, names::SNAPSHOT);
        let mut out = Vec::new();
        for name in [snapshot.as_str(), names::PARTITION_METADATA] {
            let path = folder.join(name);
            match self.dir.fs().open(&path, OpenMode::ReadWrite) {
                Ok(file) => out.push(file),
                Err(e) if super::error::is_missing(&e) => {}
                Err(e) => return Err(self.fault("opening", &path, e)),
            }
        }
        Ok(out)
    }

    /// Writes the epoch file if records below `upto` depend on it, or if it is stale and `all`
    /// is to be in order. A full disk is no error: the
    /// recovery point then stays below.
    fn save_epochs(&mut self, upto: Offset, all: bool) -> Result<(), LogError> {
        if self.epochs.unsaved_from() >= upto && !(all && self.epochs.is_stale()) {
            return Ok(());
        }
        let path = self.folder().join(names::EPOCHS);
        match self.dir.write_atomic(&path, &self.epochs.text()) {
            Ok(()) => self.epochs.saved(),
            Err(LogError::Full(_)) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::ports::Fs;
    use crate::log::fixture::{append, at, dir, new_log, open, sim, small};
    use crate::log::{FlushDriver, Recovery};
    use crate::testing::{
        batches::Batch,
        fs::{Op, SimFs},
    };

    fn filled(fs: &SimFs, batches: usize) -> Log {
        let mut log = new_log(fs, &small());
        for n in 0..batches {
            append(&mut log, &Batch::of(1, 1500, n as i64), n as i64).unwrap();
        }
        log
    }

    #[test]
    fn a_ticket_covers_what_was_appended_before_it() {
        let fs = sim(1);
        let mut log = filled(&fs, 1);
        let ticket = log.flush_ticket().unwrap().unwrap();
        append(&mut log, &Batch::of(1, 10, 0), 0).unwrap();
        _ = fs.take_trace();
        let mark = ticket.sync().unwrap();
        let want =
            ["sync /data/t-0/00000000000000000000.log", "syncdir /data/t-0", "syncdir /data"];
        assert_eq!(fs.take_trace(), want);
        log.flushed(mark, at(5));
        assert_eq!((log.flushed_offset(), log.unflushed_messages()), (1, 1));
        log.flush(at(6)).unwrap();
        assert_eq!(fs.take_trace(), ["sync /data/t-0/00000000000000000000.log"]);
        assert!(log.flush_ticket().unwrap().is_none());
    }

    #[test]
    fn the_recovery_point_waits_for_the_indexes_of_closed_segments() {
        let fs = sim(1);
        let mut log = filled(&fs, 2);
        let ticket = log.flush_ticket().unwrap().unwrap();
        append(&mut log, &Batch::of(1, 1500, 2), 2).unwrap();
        log.flushed(ticket.sync().unwrap(), at(0));
        assert_eq!((log.flushed_offset(), log.recovery_point()), (2, 0));
        let ticket = log.flush_ticket_closed().unwrap().unwrap();
        _ = fs.take_trace();
        log.flushed(ticket.sync().unwrap(), at(0));
        assert_eq!((log.flushed_offset(), log.recovery_point()), (2, 2));
        let synced = fs.take_trace().join(" ");
        assert!(synced.contains("000.index") && synced.contains("000.timeindex"), "{synced}");
        assert!(!synced.contains("2.log"), "nobody waits for the active segment: {synced}");
    }

    #[test]
    fn a_flush_from_before_a_truncation_proves_nothing() {
        let fs = sim(1);
        let mut log = filled(&fs, 3);
        let ticket = log.flush_ticket().unwrap().unwrap();
        log.truncate_to(1, at(0)).unwrap();
        append(&mut log, &Batch::of(1, 10, 0), 0).unwrap();
        log.flushed(ticket.sync().unwrap(), at(0));
        assert!(log.flushed_offset() <= 1);
    }

    #[test]
    fn a_clean_close_is_complete_before_the_marker_can_be_written() {
        let fs = sim(3);
        let mut log = filled(&fs, 3);
        append(&mut log, &Batch::of(1, 10, 7).by(4, 0, 0).at(0, 2), 7).unwrap();
        _ = fs.take_trace();
        let entry = log.close_clean(at(9)).unwrap().unwrap();
        assert_eq!((entry.end, entry.log_start), (4, 0));
        let trace = fs.take_trace();
        let pos = |what: &str| trace.iter().position(|t| t == what).expect(what);
        for name in ["02.index", "02.timeindex", "04.snapshot"] {
            let path = format!("/data/t-0/000000000000000000{name}");
            assert!(pos(&format!("write {path}")) < pos(&format!("sync {path}")));
            assert!(pos(&format!("create {path}")) < pos("syncdir /data/t-0"));
        }
        assert!(pos("sync /data/t-0/leader-epoch-checkpoint.tmp") < pos("syncdir /data/t-0"));
        let last_write = trace.iter().rposition(|t| t.starts_with("write")).unwrap();
        let first_sync = trace.iter().position(|t| t.starts_with("sync /data/t-0/0")).unwrap();
        assert!(last_write < first_sync, "{trace:#?}");
        let left = fs.crash();
        let log = open(&dir(&left), &small(), Recovery::Clean).unwrap();
        assert_eq!(log.log_end_offset(), 4);
    }

    #[test]
    fn files_after_a_clean_close() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        for n in 0..3 {
            append(&mut log, &Batch::of(2, 100, 1000 + n * 10).at(0, 5), 0).unwrap();
        }
        log.close_clean(at(0)).unwrap();
        let read = |name: &str| fs.read(&Path::new("/data/t-0").join(name), 9999).unwrap();
        // Batches of 279 bytes: the third is the first after more than 300.
        assert_eq!(read("00000000000000000000.index"), [0, 0, 0, 5, 0, 0, 2, 46]);
        let time = [0, 0, 0, 0, 0, 0, 3, 0xfd, 0, 0, 0, 5];
        assert_eq!(read("00000000000000000000.timeindex"), time);
        assert_eq!(read("leader-epoch-checkpoint"), b"0\n1\n5 0\n");
    }

    #[test]
    fn a_failed_sync_is_final() {
        let fs = sim(1);
        let mut log = filled(&fs, 1);
        let ticket = log.flush_ticket().unwrap().unwrap();
        fs.fail_next(Op::Sync, ".log", std::io::ErrorKind::StorageFull);
        assert!(matches!(ticket.sync(), Err(LogError::Io { .. })), "even for want of space");
        assert!(matches!(ticket.sync(), Err(LogError::Offline { .. })));
        assert!(log.dir().offline_reason().is_some());
        assert!(append(&mut log, &Batch::of(1, 1, 0), 0).is_err());
        assert!(log.close_clean(at(0)).is_err());
    }

    #[test]
    fn the_driver_answers_every_ticket() {
        let fs = sim(1);
        let mut log = filled(&fs, 1);
        let (send, receive) = std::sync::mpsc::channel();
        let driver = FlushDriver::start(2).unwrap();
        for n in 0..20 {
            append(&mut log, &Batch::of(1, 10, 0), 0).unwrap();
            let (ticket, send) = (log.flush_ticket().unwrap().unwrap(), send.clone());
            let done = move |outcome| _ = send.send((n, outcome));
            driver.submit(ticket, Box::new(done));
        }
        drop(driver);
        let mut answers: Vec<_> = receive.try_iter().map(|(n, r)| (n, r.unwrap())).collect();
        assert_eq!(
            answers.iter().map(|(n, _)| *n).collect::<Vec<_>>(),
            (0..20).collect::<Vec<_>>()
        );
        log.flushed(answers.pop().unwrap().1, at(0));
        assert_eq!(log.flushed_offset(), log.log_end_offset());
    }
}
