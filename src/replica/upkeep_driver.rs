//! The periodic work on logs: retention, rolling by time, flushing by time, checkpoint files,
//! expiry of producers, removal of deleted files; and the clean stop. One task for all partitions:
//! an idle partition has no timer of its own. Work that may touch the disk for long runs on the
//! blocking pool (`LogManager.java`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::table::{ReplicaTable, Slot};
use crate::{
    base::{Offset, TopicPartition},
    log::{LogError, OffsetFile},
};

/// Removals and flushes by time are looked for so often.
const TICK: Duration = Duration::from_secs(1);

/// How often each kind of work is done.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// `log.retention.check.interval.ms`.
    pub retention: Duration,
    /// `replica.high.watermark.checkpoint.interval.ms`.
    pub high_watermarks: Duration,
    /// `log.flush.offset.checkpoint.interval.ms`.
    pub recovery_points: Duration,
    /// `log.flush.start.offset.checkpoint.interval.ms`.
    pub log_starts: Duration,
    /// `producer.id.expiration.check.interval.ms`.
    pub producers: Duration,
}

/// Starts the task; it ends when `stop` turns true.
pub fn start(
    tasks: &mut JoinSet<()>,
    table: Arc<ReplicaTable>,
    intervals: Intervals,
    mut stop: watch::Receiver<bool>,
) {
    tasks.spawn(async move {
        let start = Instant::now();
        let mut next = [
            (start + TICK, TICK, Work::Tick),
            (start + intervals.retention, intervals.retention, Work::Retention),
            (start + intervals.high_watermarks, intervals.high_watermarks, Work::HighWatermarks),
            (start + intervals.recovery_points, intervals.recovery_points, Work::RecoveryPoints),
            (start + intervals.log_starts, intervals.log_starts, Work::LogStarts),
            (start + intervals.producers, intervals.producers, Work::Producers),
        ];
        loop {
            let due = next.iter().map(|(at, ..)| *at).min().unwrap_or(start);
            tokio::select! {
                () = tokio::time::sleep_until(due) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            for (at, every, work) in &mut next {
                if *at > Instant::now() {
                    continue;
                }
                let (table, work) = (Arc::clone(&table), *work);
                let done = tokio::task::spawn_blocking(move || work.run(&table)).await;
                if let Err(e) = done {
                    tracing::error!("upkeep of logs failed: {e}");
                }
                *at = Instant::now() + *every;
            }
        }
    });
}

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Removals that are due, and flushes by time.
    Tick,
    /// Retention, and rolling by time.
    Retention,
    /// The checkpoint of high watermarks.
    HighWatermarks,
    /// The checkpoints of recovery points and of cleaned offsets.
    RecoveryPoints,
    /// The checkpoint of log start offsets.
    LogStarts,
    /// Forgetting producers that are idle.
    Producers,
}

impl Work {
    /// Does it once for all partitions of `table`. May take long.
    pub fn run(self, table: &ReplicaTable) {
        match self {
            Self::Tick => tick(table),
            Self::Retention => retention(table),
            Self::HighWatermarks => write_high_watermarks(table),
            Self::RecoveryPoints => {
                write_recovery_points(table);
                write_cleaner_points(table);
            }
            Self::LogStarts => write_log_starts(table),
            Self::Producers => {
                for slot in table.all() {
                    slot.lock().log.expire_producers(table.clock.now());
                }
            }
        }
    }
}

fn tick(table: &ReplicaTable) {
    let now = table.clock.now();
    for dir in table.dirs() {
        if dir.log_dir.next_removal() <= now.mono
            && let Err(e) = dir.log_dir.remove_due(now.mono)
        {
            tracing::error!(dir = %dir.name, "cannot remove deleted files: {e}");
        }
    }
    for slot in table.all() {
        let due = slot.lock().flush_due(now);
        if due {
            table.flush(&slot);
        }
    }
}

fn retention(table: &ReplicaTable) {
    for slot in table.all() {
        retention_of(table, &slot);
    }
}

/// Retention and rolling by time of one partition. Nothing is taken from under a cleaning; who
/// cleans calls this when it is done.
pub fn retention_of(table: &ReplicaTable, slot: &Slot) {
    let now = table.clock.now();
    let mut partition = slot.lock();
    let high_watermark = partition.high_watermark();
    let rolled = partition.log.roll_if_due(now);
    let expired = rolled.and_then(|_| match partition.log.is_cleaning() {
        true => Ok(None),
        false => partition.log.delete_expired(high_watermark, now),
    });
    if matches!(expired, Ok(Some(_))) {
        partition.log_start_moved();
    }
    drop(partition);
    match expired {
        Ok(Some(e)) => tracing::info!(
            partition = %slot.id(),
            segments = e.segments,
            bytes = e.bytes,
            log_start = e.log_start,
            reason = ?e.reason,
            "deleted segments by retention (age counts from the earlier of the largest timestamp \
             and the last append)"
        ),
        Ok(None) | Err(LogError::Offline { .. }) => {}
        Err(e) => tracing::warn!(partition = %slot.id(), "retention: {e}"),
    }
}

fn by_dir(
    table: &ReplicaTable,
    value: impl Fn(&Slot) -> Option<Offset>,
) -> Vec<BTreeMap<TopicPartition, Offset>> {
    let mut out = vec![BTreeMap::new(); table.dirs().len()];
    for slot in table.all() {
        if let Some(offset) = value(&slot) {
            out[slot.dir()].insert(slot.id(), offset);
        }
    }
    out
}

fn write(table: &ReplicaTable, file: OffsetFile, value: impl Fn(&Slot) -> Option<Offset>) {
    for (dir, offsets) in table.dirs().iter().zip(by_dir(table, value)) {
        if dir.log_dir.offline_reason().is_some() {
            continue;
        }
        if let Err(e) = dir.log_dir.write_offsets(file, &offsets) {
            tracing::warn!(dir = %dir.name, "cannot write {}: {e}", file.name());
        }
    }
}

fn write_high_watermarks(table: &ReplicaTable) {
    write(table, OffsetFile::HighWatermark, |slot| Some(slot.lock().high_watermark()));
}

/// Writes the recovery points. To be called, too, before anything is appended to a log that was
/// recovered.
pub fn write_recovery_points(table: &ReplicaTable) {
    write(table, OffsetFile::RecoveryPoint, |slot| {
        Some(slot.lock().log.checkpoint_recovery_point())
    });
}

/// Writes how far each log was compacted, where that changed since it was last written.
pub fn write_cleaner_points(table: &ReplicaTable) {
    let mut written = table.cleaner_points();
    let points = by_dir(table, |slot| slot.lock().log.first_dirty());
    written.resize(points.len(), None);
    for ((dir, points), written) in table.dirs().iter().zip(points).zip(written.iter_mut()) {
        if dir.log_dir.offline_reason().is_some() || written.as_ref() == Some(&points) {
            continue;
        }
        // Where nothing is compacted there need be no file.
        let path = dir.log_dir.path().join(OffsetFile::Cleaner.name());
        if points.is_empty() && matches!(dir.log_dir.fs().stat(&path), Ok(None)) {
            continue;
        }
        match dir.log_dir.write_offsets(OffsetFile::Cleaner, &points) {
            Ok(()) => *written = Some(points),
            Err(e) => {
                tracing::warn!(dir = %dir.name, "cannot write {}: {e}", OffsetFile::Cleaner.name());
            }
        }
    }
}

fn write_log_starts(table: &ReplicaTable) {
    write(table, OffsetFile::LogStart, |slot| slot.lock().log.log_start_to_checkpoint());
}

/// Closes every log and leaves the clean-shutdown marker in each directory where all went well.
/// May take long: to be called where blocking is allowed.
pub fn close_clean(table: &ReplicaTable, broker_epoch: i64) {
    table.moves.stop();
    let now = table.clock.now();
    let mut entries = vec![Some(BTreeMap::new()); table.dirs().len()];
    for slot in table.all() {
        let mut state = slot.lock();
        let closed = state.log.close_clean(now);
        if let Some(copy) = state.future() {
            // The next start looks through all of it.
            copy.lock().close_files();
        }
        drop(state);
        match closed {
            Ok(Some(entry)) => {
                if let Some(known) = &mut entries[slot.dir()] {
                    known.insert(slot.id(), entry);
                }
            }
            Ok(None) => {}
            Err(e) => {
                tracing::error!(partition = %slot.id(), "not closed cleanly: {e}");
                entries[slot.dir()] = None;
            }
        }
    }
    write_recovery_points(table);
    write_high_watermarks(table);
    write_log_starts(table);
    write_cleaner_points(table);
    for (dir, entries) in table.dirs().iter().zip(entries) {
        let Some(entries) = entries else { continue };
        if dir.log_dir.offline_reason().is_some() {
            continue;
        }
        if let Err(e) = dir.log_dir.mark_clean(broker_epoch, &entries) {
            tracing::error!(dir = %dir.name, "the next start recovers: {e}");
        }
    }
}
