//! Group commit for one log directory: a few threads that sync what many logs ask for.
//!
//! While a log's files are being synced, further requests for it gather; the next sync answers all
//! of them. Requests of different logs are synced side by side, so that the file system's journal
//! commits them together. A failed sync takes the directory offline and fails everything after.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use super::{
    error::LogError,
    log_flush::{FlushMark, FlushTicket},
};
use crate::base::ports::File;

/// Called on a sync thread with the outcome: it should take its partition's lock, call
/// [`super::Log::flushed`] and wake whoever waits, no more.
pub type FlushDone = Box<dyn FnOnce(Result<FlushMark, LogError>) + Send>;

struct Job {
    ticket: FlushTicket,
    done: FlushDone,
}

#[derive(Default)]
struct Queue {
    /// Requests by log. A log is here without being in `order` while a thread syncs it.
    waiting: BTreeMap<u64, Vec<Job>>,
    /// Logs with requests that no thread has taken, oldest first.
    order: VecDeque<u64>,
    running: Vec<u64>,
    stopping: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The sync threads of one log directory. Dropping it finishes what was asked for.
pub struct FlushDriver {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for FlushDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlushDriver").field("threads", &self.threads.len()).finish()
    }
}

impl FlushDriver {
    /// Starts `threads` sync threads, at least one.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut out = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        for n in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            let name = format!("log-sync-{n}");
            out.threads.push(thread::Builder::new().name(name).spawn(move || shared.work())?);
        }
        Ok(out)
    }

    /// One without threads: whoever owns it calls [`FlushDriver::step`]. For a simulation, in which
    /// only one thing happens at a time.
    #[must_use]
    pub fn stepped() -> Self {
        Self { shared: Arc::default(), threads: Vec::new() }
    }

    /// Whether something waits to be synced.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        !self.shared.lock().order.is_empty()
    }

    /// Syncs, on this thread, what the log that waits longest has asked for; false if none waits.
    pub fn step(&self) -> bool {
        if !self.is_asked() {
            return false;
        }
        self.shared.work_once();
        true
    }

    /// Asks for `ticket` to be synced. Does not wait.
    pub fn submit(&self, ticket: FlushTicket, done: FlushDone) {
        let mut queue = self.shared.lock();
        let log = ticket.log_id;
        let jobs = queue.waiting.entry(log).or_default();
        jobs.push(Job { ticket, done });
        if jobs.len() == 1 && !queue.running.contains(&log) {
            queue.order.push_back(log);
            drop(queue);
            self.shared.wake.notify_one();
        }
    }
}

impl Drop for FlushDriver {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_all();
        for thread in self.threads.drain(..) {
            // A panic there has been reported already.
            _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No call that could panic is made while the queue is locked.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while self.work_once() {}
    }

    /// Answers the requests of one log; false to stop.
    fn work_once(&self) -> bool {
        let Some((log, jobs)) = self.take() else { return false };
        run(jobs);
        let mut queue = self.lock();
        queue.running.retain(|l| *l != log);
        if queue.waiting.contains_key(&log) {
            queue.order.push_back(log);
            drop(queue);
            self.wake.notify_one();
        }
        true
    }

    /// The requests of the log that waits longest; `None` to stop.
    fn take(&self) -> Option<(u64, Vec<Job>)> {
        let mut queue = self.lock();
        loop {
            if let Some(log) = queue.order.pop_front() {
                queue.running.push(log);
                return Some((log, queue.waiting.remove(&log).unwrap_or_default()));
            }
            if queue.stopping && queue.running.is_empty() {
                self.wake.notify_all();
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn run(jobs: Vec<Job>) {
    let mut files: Vec<Arc<dyn File>> = Vec::new();
    let mut folders: Vec<PathBuf> = Vec::new();
    for job in &jobs {
        for file in job.ticket.files() {
            if !files.iter().any(|f| Arc::ptr_eq(f, file)) {
                files.push(Arc::clone(file));
            }
        }
        for folder in job.ticket.folders() {
            if !folders.contains(folder) {
                folders.push(folder.clone());
            }
        }
    }
    let Some(first) = jobs.first() else { return };
    let mut failed = first.ticket.sync_all(&files, &folders).err();
    let all_well = failed.is_none();
    for job in jobs {
        // The first is told what happened, the others that the directory is offline.
        let outcome = match failed.take() {
            Some(e) => Err(e),
            None if all_well => Ok(job.ticket.mark),
            None => job.ticket.offline(),
        };
        (job.done)(outcome);
    }
}
