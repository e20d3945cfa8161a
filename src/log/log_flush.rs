//! Making a log durable. The slow part, the syncs, is a [`FlushTicket`] that needs no access to
//! the log, so that appends go on meanwhile; whoever ran it reports back with [`Log::flushed`].
//!
//! In the active segment only batches are synced: recovery makes the rest anew from the recovery
//! point on. So the recovery point never passes a closed segment whose indexes are not durable,
//! nor a leader epoch that the epoch file does not tell.

use std::{path::PathBuf, sync::Arc};

use super::{
    dir::{CleanEntry, LogDir},
    error::LogError,
    log::{Home, Log, Presence},
    names,
};
use crate::base::{
    Now, Offset, Uuid,
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
            file.sync().map_err(|e| self.fatal("syncing a file in", e))?;
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

    /// What `recovery-point-offset-checkpoint` should say.
    #[must_use]
    pub fn recovery_point(&self) -> Offset {
        self.recovery_point
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
        let mut reliable = self.flushed.min(self.epochs.unsaved_from());
        let active = self.segments.last().map_or(self.end, |s| s.base);
        for segment in &mut self.segments {
            if segment.base < mark.closed_below && segment.is_stored() {
                segment.index_unsynced = false;
            }
            if segment.index_unsynced && segment.base < active {
                reliable = reliable.min(segment.base);
            }
        }
        self.recovery_point = self.recovery_point.max(reliable);
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
    /// `Io`, `Offline`: the directory must not be marked clean.
    pub fn close_clean(&mut self, now: Now) -> Result<Option<CleanEntry>, LogError> {
        if self.presence == Presence::Absent {
            return Ok(None);
        }
        if self.presence == Presence::Loaded {
            self.dir.check()?;
            self.seal_all()?;
            self.snapshot_at_close()?;
            if let Some(ticket) = self.ticket_of(Offset::MAX, Scope::All)? {
                let mark = ticket.sync()?;
                self.flushed(mark, now);
            }
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
        let indexes = self.closed_unsynced();
        if self.presence != Presence::Loaded
            || (upto <= self.flushed && !entries && !indexes && !all)
        {
            return Ok(None);
        }
        if scope != Scope::Batches {
            self.save_epochs(upto)?;
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

    fn closed_unsynced(&self) -> bool {
        let closed = self.segments.split_last().map_or(&[][..], |(_, closed)| closed);
        closed.iter().any(|s| s.index_unsynced && s.is_stored())
    }

    /// The batches' files that hold offsets from the flushed one up to `upto`.
    fn data_files(&mut self, upto: Offset) -> Result<Vec<Arc<dyn File>>, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let ends: Vec<_> = self.segments.iter().skip(1).map(|s| s.base).collect();
        let mut out = Vec::new();
        for (at, segment) in self.segments.iter_mut().enumerate() {
            let end = ends.get(at).copied().unwrap_or(self.end);
            if end > self.flushed && segment.base < upto {
                out.push(segment.log_file(home)?);
            }
        }
        Ok(out)
    }

    fn index_files(&mut self, all: bool) -> Result<Vec<Arc<dyn File>>, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let last = self.segments.len().saturating_sub(1);
        let mut out = Vec::new();
        for (at, segment) in self.segments.iter_mut().enumerate() {
            if segment.index_unsynced && (at < last || all) {
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

    /// Writes the epoch file if records below `upto` depend on it. A full disk is no error: the
    /// recovery point then stays below.
    fn save_epochs(&mut self, upto: Offset) -> Result<(), LogError> {
        if self.epochs.unsaved_from() >= upto {
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
