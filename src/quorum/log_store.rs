//! Raft's log over a `log::Log`: one entry is one record batch at offset = index. Appends are
//! readable at once from the tail kept in memory; one thread writes and syncs, appends and votes in
//! one order, and all that queued meanwhile shares the next sync. Uses `base`, `log`, `record`.

use std::{
    collections::VecDeque,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use bytes::Bytes;
use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use tokio::sync::oneshot;

use super::{
    disk::Disk,
    entry,
    types::{Entry, LogId, TypeConfig, Vote},
};

/// A read ends after about this many bytes, in bytes of batches.
pub(crate) const READ_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of flushed entries that stay in memory.
const TAIL_BYTES: usize = 512 * 1024;
/// With nothing to write for so long after the start, space is taken in reserve.
const IDLE: Duration = Duration::from_secs(1);
/// And is looked after again when there is nothing to write for so long.
const IDLE_AGAIN: Duration = Duration::from_secs(60);

/// What the writer thread is asked to do, in this order.
pub(crate) enum Io {
    /// Write batches, and call back once they are durable.
    Append { batches: Vec<Bytes>, last: u64, done: IOFlushed<TypeConfig> },
    /// Make a vote durable.
    Vote { vote: Vote, done: Done },
    /// Drop all entries after this index; all entries if there is none.
    Truncate { last: Option<u64>, done: Done },
    /// Drop all entries up to this one.
    Purge { upto: LogId, done: Done },
    /// Make all that was asked before durable.
    Flush { done: Done },
    /// End.
    Stop,
}

type Done = oneshot::Sender<io::Result<()>>;

/// The end of the log in memory, and what is known of the rest.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Contiguous, ending at `last`; with the bytes each takes.
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    /// Index after the last durable entry.
    flushed: u64,
}

fn after(id: Option<&LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

impl Tail {
    /// Index of the first entry kept; the index after the last if there is none.
    fn first(&self) -> u64 {
        self.entries.front().map_or_else(|| after(self.last.as_ref()), |(e, _)| e.log_id.index)
    }

    fn push(&mut self, entry: Entry, bytes: usize) -> io::Result<()> {
        if entry.log_id.index != after(self.last.as_ref()) {
            let want = after(self.last.as_ref());
            let what = format!("entry {} appended where {want} was due", entry.log_id.index);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.last = Some(entry.log_id);
        self.entries.push_back((entry, bytes));
        self.bytes += bytes;
        Ok(())
    }

    fn pop_front(&mut self) {
        if let Some((_, bytes)) = self.entries.pop_front() {
            self.bytes -= bytes;
        }
    }

    /// Everything below `next` is durable.
    fn flushed(&mut self, next: u64) {
        self.flushed = next;
        while self.bytes > TAIL_BYTES && self.first() < self.flushed && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    fn truncate(&mut self, last: Option<LogId>) {
        while let Some((entry, bytes)) = self.entries.back() {
            if entry.log_id.index < after(last.as_ref()) {
                break;
            }
            self.bytes -= bytes;
            self.entries.pop_back();
        }
        self.last = last;
        self.flushed = self.flushed.min(after(last.as_ref()));
    }

    fn purge(&mut self, upto: LogId) {
        while !self.entries.is_empty() && self.first() <= upto.index {
            self.pop_front();
        }
        self.purged = Some(upto);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
            self.flushed = upto.index + 1;
        }
    }

    /// The entries of `from..to` that are in memory, at most about `max` bytes but at least one.
    fn read(&self, from: u64, to: u64, max: usize) -> Vec<Entry> {
        let skip = usize::try_from(from.saturating_sub(self.first())).unwrap_or(usize::MAX);
        let mut taken = 0;
        let within = |(entry, bytes): &&(Entry, usize)| {
            let more = entry.log_id.index < to && taken < max;
            taken += bytes;
            more
        };
        self.entries.iter().skip(skip).take_while(within).map(|(e, _)| e.clone()).collect()
    }
}

/// The tail and the disk behind it.
#[derive(Debug)]
pub(crate) struct Shared {
    tail: Mutex<Tail>,
    disk: Disk,
}

impl Shared {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries of `from..to`, about `max` bytes of them but at least one if there are any.
    fn read(&self, from: u64, to: u64, max: usize) -> io::Result<Vec<Entry>> {
        let (mut next, to) = {
            let tail = self.tail();
            (from.max(after(tail.purged.as_ref())), to.min(after(tail.last.as_ref())))
        };
        let (mut out, mut bytes) = (Vec::new(), 0);
        while next < to && bytes < max {
            let on_disk_to = {
                let tail = self.tail();
                if next >= tail.first() {
                    out.extend(tail.read(next, to, max - bytes));
                    break;
                }
                tail.first().min(to)
            };
            for batch in self.disk.read(next, on_disk_to, max - bytes)? {
                bytes += batch.len();
                let entry = entry::decode(&batch).map_err(damaged)?;
                if entry.log_id.index != next {
                    return Err(damaged(entry::EntryError::Shape("an entry is missing")));
                }
                next += 1;
                out.push(entry);
            }
        }
        Ok(out)
    }
}

fn damaged(e: entry::EntryError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the metadata log's writer has ended")
}

/// Raft's log. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    io: Way,
}

/// The way to who writes.
#[derive(Debug, Clone)]
enum Way {
    /// A thread of its own.
    Thread(mpsc::Sender<Io>),
    /// Whoever asks.
    Here(Arc<Writer>),
}

impl Way {
    fn send(&self, what: Io) -> io::Result<()> {
        match self {
            Self::Thread(io) => io.send(what).map_err(|_| gone()),
            Self::Here(writer) => {
                writer.all(VecDeque::from([what]));
                Ok(())
            }
        }
    }
}

/// The thread that writes, if there is one.
#[derive(Debug)]
pub(crate) struct WriterThread {
    io: Way,
    shared: Arc<Shared>,
    handle: Option<std::thread::JoinHandle<()>>,
}

impl WriterThread {
    /// Ends the thread after all that was asked of it; closes the log.
    pub(crate) async fn stop(self) {
        self.shared.disk.begin_close();
        // It may have ended already.
        let _ = self.io.send(Io::Stop);
        let Some(handle) = self.handle else { return };
        let joined = tokio::task::spawn_blocking(move || handle.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the metadata log's writer panicked");
        }
    }
}

impl LogStore {
    /// A store over `disk` and the thread that writes to it, if it is to be a thread of its own.
    pub(crate) fn start(disk: Disk, own_thread: bool) -> io::Result<(Self, WriterThread)> {
        let state = disk.state();
        let purged = super::vote_file::purged_log_id(state);
        let last = disk.last_entry()?.or(purged);
        let tail = Tail {
            vote: state.vote,
            purged,
            last,
            flushed: after(last.as_ref()),
            ..Tail::default()
        };
        let shared = Arc::new(Shared { tail: Mutex::new(tail), disk });
        let writer = Writer { shared: Arc::clone(&shared) };
        let (io, handle) = if own_thread {
            let (io, asked) = mpsc::channel();
            let thread = std::thread::Builder::new().name("quorum-log".to_owned());
            (Way::Thread(io), Some(thread.spawn(move || writer.run(&asked))?))
        } else {
            (Way::Here(Arc::new(writer)), None)
        };
        let thread = WriterThread { io: io.clone(), shared: Arc::clone(&shared), handle };
        Ok((Self { shared, io }, thread))
    }

    /// Waits until all that was appended is durable.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        self.ask(|done| Io::Flush { done }).await
    }

    async fn ask(&self, what: impl FnOnce(Done) -> Io) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.io.send(what(done))?;
        answer.await.map_err(|_| gone())?
    }

    /// The entries of `from..to`, about `max` bytes of them but at least one if there are any;
    /// from memory if they are there, else on a thread for blocking work.
    pub(crate) async fn read(&self, from: u64, to: u64, max: usize) -> io::Result<Vec<Entry>> {
        let in_memory = {
            let tail = self.shared.tail();
            from.max(after(tail.purged.as_ref())) >= tail.first()
        };
        if in_memory {
            return self.shared.read(from, to, max);
        }
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shared.read(from, to, max))
            .await
            .map_err(io::Error::other)?
    }

    /// The last entry that was purged, and the index after the last one there is.
    pub(crate) fn bounds(&self) -> (Option<LogId>, u64) {
        let tail = self.shared.tail();
        (tail.purged, after(tail.last.as_ref()))
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(n) => *n,
        Bound::Excluded(n) => n.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(n) => n.saturating_add(1),
        Bound::Excluded(n) => *n,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<Entry>> {
        let (from, to) = bounds(&range);
        self.read(from, to, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES_MAX).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.tail().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.shared.tail();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let vote = *vote;
        self.ask(|done| Io::Vote { vote, done }).await?;
        self.shared.tail().vote = Some(vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batches = Vec::new();
        let mut last = None;
        {
            let mut tail = self.shared.tail();
            for entry in entries {
                let batch = entry::encode(&entry).map_err(damaged)?;
                last = Some(entry.log_id.index);
                tail.push(entry, batch.len())?;
                batches.push(batch);
            }
        }
        let Some(last) = last else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        self.io.send(Io::Append { batches, last, done: callback })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.shared.tail().truncate(last_log_id);
        let last = last_log_id.map(|id| id.index);
        self.ask(|done| Io::Truncate { last, done }).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.shared.tail().purge(upto);
        self.ask(|done| Io::Purge { upto, done }).await
    }
}

/// The writing side.
#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
}

impl Writer {
    fn run(&self, asked: &mpsc::Receiver<Io>) {
        let mut idle = IDLE;
        loop {
            let first = match asked.recv_timeout(idle) {
                Ok(first) => first,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if let Err(e) = self.shared.disk.reserve() {
                        tracing::warn!("no space could be reserved for metadata: {e}");
                    }
                    idle = IDLE_AGAIN;
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.shared.disk.close(),
            };
            let mut queue = VecDeque::from([first]);
            queue.extend(asked.try_iter());
            if !self.all(queue) {
                return;
            }
        }
    }

    /// Does all that is queued; false once it was told to end.
    fn all(&self, mut queue: VecDeque<Io>) -> bool {
        while let Some(next) = queue.pop_front() {
            match next {
                Io::Append { batches, last, done } => {
                    self.append(batches, last, done, &mut queue);
                }
                Io::Stop => {
                    self.shared.disk.close();
                    return false;
                }
                other => self.one(other),
            }
        }
        true
    }

    /// Writes this append and those that follow it directly, then syncs once for all.
    fn append(
        &self,
        batches: Vec<Bytes>,
        mut last: u64,
        done: IOFlushed<TypeConfig>,
        queue: &mut VecDeque<Io>,
    ) {
        let mut written = self.shared.disk.append(&batches);
        let mut waiting = vec![done];
        while written.is_ok() && matches!(queue.front(), Some(Io::Append { .. })) {
            if let Some(Io::Append { batches, last: end, done }) = queue.pop_front() {
                written = self.shared.disk.append(&batches);
                waiting.push(done);
                last = end;
            }
        }
        let result = written.and_then(|()| self.shared.disk.flush());
        if result.is_ok() {
            self.shared.tail().flushed(last + 1);
        }
        for done in waiting {
            done.io_completed(copy(&result));
        }
    }

    fn one(&self, what: Io) {
        let disk = &self.shared.disk;
        // Who asked may have gone: then nobody needs the answer.
        let _ = match what {
            Io::Vote { vote, done } => done.send(disk.save_vote(vote)),
            Io::Truncate { last, done } => done.send(disk.truncate(last.map_or(0, |l| l + 1))),
            Io::Purge { upto, done } => done.send(disk.purge(&upto)),
            Io::Flush { done } => done.send(disk.flush()),
            Io::Append { .. } | Io::Stop => Ok(()),
        };
    }
}

fn copy(result: &io::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
    }
}
