//! The threads that compact logs (`LogCleaner.java`): each takes the filthiest log that nobody
//! cleans, cleans it within the bounds on memory and speed, writes `cleaner-offset-checkpoint`, and
//! rests for a while when no log is worth it. A log that cannot be cleaned is left alone until the
//! settings change or the process restarts; it goes on serving.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    table::{ReplicaTable, Slot},
    upkeep_driver,
};
use crate::{
    base::{Mono, Offset, TopicPartition, Uuid},
    log::{Assignment, CleanError, CleanStats, CleanTerms, Cleaning, Log, LogError, Ward},
};

/// A rate at or above which nothing is slowed down.
const UNLIMITED: f64 = 1e18;
/// The throttle forgives what was not used after this.
const WINDOW: Duration = Duration::from_secs(1);
/// A thread that waits looks so often whether it is to end.
const LOOK: Duration = Duration::from_millis(200);
/// Logs that were not used since the start are brought into memory at most so many at a time.
const LOADS_A_LOOK: usize = 64;
/// The smallest buffer for reading and writing.
const BUFFER_BYTES_MIN: usize = 4096;

/// What cleaning may use (`CleanerConfig.java`).
#[derive(Debug, Clone, PartialEq)]
pub struct CleanerSettings {
    /// `log.cleaner.threads`; 0 cleans nothing.
    pub threads: usize,
    /// `log.cleaner.dedupe.buffer.size`, for all threads together.
    pub dedupe_bytes: usize,
    /// `log.cleaner.io.buffer.load.factor`.
    pub load_factor: f64,
    /// `log.cleaner.io.buffer.size`, for all threads together.
    pub buffer_bytes: usize,
    /// `log.cleaner.io.max.bytes.per.second`, for all threads together.
    pub bytes_per_second: f64,
    /// `log.cleaner.backoff.ms`.
    pub backoff: Duration,
}

/// Which log: the directory's number is part of it, as a moved log may be well again.
type Key = (usize, Uuid, TopicPartition);

#[derive(Debug)]
struct State {
    settings: CleanerSettings,
    in_progress: BTreeSet<TopicPartition>,
    uncleanable: BTreeSet<Key>,
    /// Numbers of the threads that run.
    running: BTreeSet<usize>,
    /// Counts changes of the settings.
    revision: u64,
    /// Bytes since then.
    window: (Mono, f64),
    stopping: bool,
}

#[derive(Debug)]
struct Shared {
    table: Arc<ReplicaTable>,
    state: Mutex<State>,
    wake: Condvar,
}

/// The cleaner threads. Dropping it stops them.
#[derive(Debug)]
pub struct CleanerDriver {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Ward for Slot {
    fn with<R>(&self, f: impl FnOnce(&mut Log) -> R) -> R {
        f(&mut self.lock().log)
    }
}

impl CleanerDriver {
    /// Starts the threads over the logs of `table`.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(table: Arc<ReplicaTable>, settings: CleanerSettings) -> io::Result<Self> {
        let state = State {
            settings: settings.clone(),
            in_progress: BTreeSet::new(),
            uncleanable: BTreeSet::new(),
            running: BTreeSet::new(),
            revision: 0,
            window: (table.clock.now().mono, 0.0),
            stopping: false,
        };
        let shared = Arc::new(Shared { table, state: Mutex::new(state), wake: Condvar::new() });
        let out = Self { shared, threads: Mutex::default() };
        out.spawn(settings.threads)?;
        Ok(out)
    }

    /// Takes over changed settings; they hold from the next cleaning on, the rate at once. Logs that
    /// could not be cleaned are tried again.
    pub fn configure(&self, settings: CleanerSettings) {
        let threads = settings.threads;
        {
            let mut state = self.shared.lock();
            if state.settings == settings {
                return;
            }
            state.settings = settings;
            state.revision += 1;
            state.uncleanable.clear();
        }
        self.shared.wake.notify_all();
        if let Err(e) = self.spawn(threads) {
            tracing::error!("cannot start a cleaner thread: {e}");
        }
    }

    /// Ends the threads and waits for that; a cleaning under way is given up.
    pub fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.wake.notify_all();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }

    fn spawn(&self, count: usize) -> io::Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|t| !t.is_finished());
        for n in 0..count {
            let mut state = self.shared.lock();
            if state.stopping || !state.running.insert(n) {
                continue;
            }
            drop(state);
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(format!("log-cleaner-{n}"));
            threads.push(thread.spawn(move || shared.work(n))?);
        }
        Ok(())
    }
}

impl Drop for CleanerDriver {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mono(&self) -> Mono {
        self.table.clock.now().mono
    }

    fn work(&self, n: usize) {
        // A start has better things to do than to look at logs that nobody uses yet.
        let mut rest = true;
        loop {
            let work = if rest { None } else { self.grab() };
            rest = false;
            let cleaned = work.is_some_and(|(slot, work)| self.clean(&slot, &work));
            let mut state = self.lock();
            let until = self.mono().after(state.settings.backoff);
            let revision = state.revision;
            while !cleaned && !state.stopping && state.revision == revision && self.mono() < until {
                let pause = until.since(self.mono());
                state = self.wait(state, pause);
            }
            if state.stopping || n >= state.settings.threads {
                state.running.remove(&n);
                return;
            }
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_most: Duration) -> MutexGuard<'a, State> {
        self.wake.wait_timeout(state, at_most).unwrap_or_else(PoisonError::into_inner).0
    }

    /// The filthiest log that may be cleaned and is worth it.
    fn grab(&self) -> Option<(Arc<Slot>, Assignment)> {
        let mut state = self.lock();
        let now = self.table.clock.now();
        let (mut best, mut loads) = (None, LOADS_A_LOOK);
        let mut known = BTreeSet::new();
        for slot in self.table.all() {
            let key = (slot.dir(), slot.topic_id, slot.id());
            if state.uncleanable.contains(&key) {
                known.insert(key);
                continue;
            }
            if state.in_progress.contains(&key.2) {
                continue;
            }
            let mut partition = slot.lock();
            if !partition.log.config().compact || partition.future().is_some() {
                continue;
            }
            if partition.log.is_deferred() {
                if loads == 0 {
                    continue;
                }
                loads -= 1;
            }
            let high_watermark = partition.high_watermark();
            let dirt = partition.log.dirt(high_watermark, now);
            drop(partition);
            match dirt {
                Ok(Some(dirt)) if best.as_ref().is_none_or(|(b, _)| dirt.ratio() > *b) => {
                    best = Some((dirt.ratio(), slot));
                }
                Ok(_) | Err(LogError::Offline { .. }) => {}
                Err(e) => tracing::warn!(partition = %slot.id(), "cannot be looked at: {e}"),
            }
        }
        // Only those that are still here.
        state.uncleanable = known;
        let (_, slot) = best?;
        let mut partition = slot.lock();
        if partition.future().is_some() {
            return None;
        }
        let high_watermark = partition.high_watermark();
        let dirt = partition.log.dirt(high_watermark, now).ok()??;
        let work = partition.log.begin_cleaning(dirt);
        drop(partition);
        state.in_progress.insert(slot.id());
        Some((slot, work))
    }

    /// Cleans it and takes note of the outcome. False if it is better to rest before the next.
    fn clean(&self, slot: &Slot, work: &Assignment) -> bool {
        let terms = self.terms();
        let mut pace = |bytes| self.pace(bytes);
        let mut cleaning = Cleaning::new(slot, work, terms, &mut pace);
        let began = self.mono();
        let mut indexed = Duration::ZERO;
        let done = cleaning.index().and_then(|()| {
            indexed = self.mono().since(began);
            cleaning.rewrite()
        });
        let stats = cleaning.stats();
        slot.lock().log.end_cleaning(work, done.as_ref().ok().copied());
        self.lock().in_progress.remove(&slot.id());
        let partition = slot.id();
        match done {
            Ok(end) => {
                let took = self.mono().since(began);
                report(&partition, work, end, &stats, took, indexed);
                upkeep_driver::write_cleaner_points(&self.table);
                upkeep_driver::retention_of(&self.table, slot);
                true
            }
            Err(CleanError::Aborted) => {
                tracing::debug!(%partition, "cleaning was given up");
                true
            }
            Err(e @ CleanError::Damaged { .. }) => {
                tracing::warn!(
                    %partition,
                    "will not be compacted until a restart or a change of log.cleaner settings: {e}"
                );
                self.lock().uncleanable.insert((slot.dir(), slot.topic_id, partition));
                true
            }
            Err(CleanError::Log(LogError::Offline { .. })) => false,
            Err(e) => {
                tracing::warn!(%partition, "cleaning failed, it is tried again: {e}");
                false
            }
        }
    }

    fn terms(&self) -> CleanTerms {
        let state = self.lock();
        let threads = state.settings.threads.max(1);
        CleanTerms {
            map_bytes: state.settings.dedupe_bytes / threads,
            map_load: state.settings.load_factor,
            // Half for reading, half for writing.
            buffer_bytes: (state.settings.buffer_bytes / threads / 2).max(BUFFER_BYTES_MIN),
            secret: [self.table.entropy.u64(), self.table.entropy.u64()],
            now: self.table.clock.now(),
        }
    }

    /// Counts bytes and waits while they are more than may be. False once the threads are to end.
    fn pace(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        let mut counted = false;
        loop {
            if state.stopping {
                return false;
            }
            let rate = state.settings.bytes_per_second;
            if rate >= UNLIMITED {
                return true;
            }
            let now = self.mono();
            if !counted {
                state.window.1 += bytes as f64;
                counted = true;
            }
            let (since, total) = state.window;
            let passed = now.since(since).as_secs_f64();
            if total <= rate * passed {
                if now.since(since) > WINDOW {
                    state.window = (now, 0.0);
                }
                return true;
            }
            state = self.wait(state, LOOK.min(wait_for(total, rate, passed)));
        }
    }
}

/// How long until `total` bytes are no more than `rate` allows, `passed` seconds having gone by.
fn wait_for(total: f64, rate: f64, passed: f64) -> Duration {
    Duration::try_from_secs_f64((total / rate - passed).max(0.001)).unwrap_or(LOOK)
}

fn report(
    partition: &TopicPartition,
    work: &Assignment,
    end: Offset,
    stats: &CleanStats,
    took: Duration,
    indexing: Duration,
) {
    let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let rate = |bytes: u64, took: Duration| mb(bytes) / took.as_secs_f64().max(1e-6);
    let total = rate(stats.indexed_bytes + stats.bytes_before, took);
    tracing::info!(
        %partition,
        from = work.dirt.first_dirty,
        to = end,
        mb_before = %format_args!("{:.1}", mb(stats.bytes_before)),
        mb_after = %format_args!("{:.1}", mb(stats.bytes_after)),
        records_before = stats.records_before,
        records_after = stats.records_after,
        segments_before = stats.segments_before,
        segments_after = stats.segments_after,
        seconds = %format_args!("{:.3}", took.as_secs_f64()),
        mb_per_second = %format_args!("{total:.1}"),
        indexed_mb = %format_args!("{:.1}", mb(stats.indexed_bytes)),
        indexed_mb_per_second = %format_args!("{:.1}", rate(stats.indexed_bytes, indexing)),
        key_memory_percent = %format_args!("{:.1}", stats.map_percent),
        "compacted"
    );
    if stats.keyless > 0 {
        let count = stats.keyless;
        tracing::warn!(%partition, count, "records without a key were dropped by compaction");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        base::{
            NodeId, Now,
            ports::{Fs, OpenMode},
        },
        log::{FileCache, FlushDriver, LogConfig, LogDir, Origin},
        record::{BatchBuilder, BatchHeader, Rules},
        replica::{partition::Partition, settings::PartitionSettings, table::Dir},
        testing::{
            clock::{SimClock, SimEntropy},
            fs::SimFs,
        },
    };

    fn settings(threads: usize) -> CleanerSettings {
        CleanerSettings {
            threads,
            dedupe_bytes: 1 << 20,
            load_factor: 0.9,
            buffer_bytes: 8192,
            bytes_per_second: f64::MAX,
            backoff: Duration::from_secs(15),
        }
    }

    /// A driver without threads over partitions 0 to 2 of a compacted topic, each dirtier than the
    /// one before.
    fn driver(fs: &SimFs) -> CleanerDriver {
        fs.create_dir_all(Path::new("/d")).unwrap();
        let files = Arc::new(FileCache::new(64));
        let log_dir = LogDir::open(Arc::new(fs.clone()), Path::new("/d"), files).unwrap().0;
        let flusher = Arc::new(FlushDriver::stepped());
        let dir = Dir { log_dir, id: Uuid([1; 16]), name: "/d".to_owned(), flusher };
        let (clock, entropy) = (Arc::new(SimClock::new(0)), Arc::new(SimEntropy::new(1)));
        let table = ReplicaTable::new(NodeId(1), vec![dir], 10, clock, entropy);
        let log = LogConfig { compact: true, delete: false, ..LogConfig::default() };
        let log = LogConfig { segment_bytes: 1000, min_cleanable_ratio: 0, ..log };
        let settings_of = Arc::new(PartitionSettings {
            rules: Rules::default(),
            log: Arc::new(log),
            min_insync_replicas: 1,
            lag_max: Duration::from_secs(30),
            followers_serve: false,
            throttled: crate::replica::quota::ThrottledReplicas::default(),
        });
        for partition in 0..3 {
            let (id, topic_id) = (TopicPartition::new("t", partition), Uuid([2; 16]));
            let log_dir = Arc::clone(&table.dirs()[0].log_dir);
            let config = Arc::clone(&settings_of.log);
            let mut log = Log::create(log_dir, id.clone(), Some(topic_id), config, Now::default());
            for _ in 0..20 {
                let mut batch = BatchBuilder::default();
                batch.append(1, Some(b"key"), Some(&[7; 100]), &[]).unwrap();
                let bytes = batch.finish();
                let header = BatchHeader::read(&bytes).unwrap();
                log.append_leader(&bytes, &header, 0, Origin::Client(None), Now::default())
                    .unwrap();
            }
            let brokers = Arc::clone(&table.brokers);
            let state = Partition::new(
                brokers,
                log,
                Arc::clone(&settings_of),
                4 + i64::from(partition) * 5,
            );
            table.add(&id, topic_id, 0, state);
        }
        CleanerDriver::start(Arc::new(table), settings(0)).unwrap()
    }

    #[test]
    fn the_filthiest_first_and_what_cannot_be_cleaned_is_left_alone() {
        let fs = SimFs::new(1);
        let driver = driver(&fs);
        let shared = &driver.shared;
        let damaged = fs.open(Path::new("/d/t-1/00000000000000000000.log"), OpenMode::ReadWrite);
        damaged.unwrap().write_all_at(&[b"\xff"], 80).unwrap();
        // Below the high watermark of partition 0 lies no whole segment.
        let mut order = Vec::new();
        while let Some((slot, work)) = shared.grab() {
            order.push(slot.partition);
            assert!(shared.clean(&slot, &work));
        }
        order.sort_unstable();
        assert_eq!(order, [1, 2]);
        let points = fs.read(Path::new("/d/cleaner-offset-checkpoint"), 99).unwrap();
        assert_eq!(String::from_utf8(points).unwrap(), "0\n1\nt 2 10\n");
        assert!(shared.lock().in_progress.is_empty());
        driver.configure(CleanerSettings { load_factor: 0.8, ..settings(0) });
        assert_eq!(shared.grab().map(|(slot, _)| slot.partition), Some(1), "tried again");
    }

    #[test]
    fn the_throttle_waits_for_what_is_too_much() {
        assert_eq!(wait_for(1000.0, 100.0, 4.0), Duration::from_secs(6));
        assert_eq!(wait_for(1000.0, 100.0, 40.0), Duration::from_millis(1));
        assert_eq!(wait_for(1000.0, 0.0, 1.0), LOOK);
    }
}
