//! Replicas that move between log directories of this broker (KIP-113): a copy, the *future*
//! replica, is made in the other directory and takes the current one's place once it has
//! everything (`Partition.maybeReplaceCurrentWithFutureReplica`, `ReplicaManager.alterReplicaLogDirs`).
//! What is done step by step is here; `moves_driver` does the steps. Pure but for the logs' files.
//!
//! Locks: the partition, then its copy. The copy is written without the partition's lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use futures::task::AtomicWaker;

use super::{
    dirs::Misplaced,
    fetch_plan::Key,
    follower::truncation,
    partition::Partition,
    table::{ReplicaTable, Slot},
};
use crate::{
    base::{ErrorCode, Mono, Now, Offset, PartitionId, TopicPartition, Uuid, ports::FileSlice},
    log::{Log, LogError},
    record::batch::batches,
};

/// Bytes that are copied at once, unless one batch has more.
const COPY_BYTES: usize = 1 << 20;
/// Partitions that are not here yet and whose directory is remembered.
const PREFERRED_MAX: usize = 100_000;

/// A copy of a partition that is being made.
#[derive(Debug)]
pub struct FutureReplica {
    /// Which of the table's directories it is made in.
    pub dir: usize,
    log: Mutex<Log>,
    start: AtomicI64,
    end: AtomicI64,
    /// It was given up.
    void: AtomicBool,
}

impl FutureReplica {
    /// The copy with the log `log`, as far as it has come.
    #[must_use]
    pub fn new(dir: usize, log: Log) -> Arc<Self> {
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        let (start, end, void) =
            (AtomicI64::new(start), AtomicI64::new(end), AtomicBool::new(false));
        Arc::new(Self { dir, log: Mutex::new(log), start, end, void })
    }

    /// Its log. Whoever needs the partition's lock, too, takes that first.
    pub fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its log start offset.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.start.load(Ordering::Acquire)
    }

    /// Its log end offset.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end.load(Ordering::Acquire)
    }

    fn note(&self, log: &Log) {
        self.start.store(log.log_start_offset(), Ordering::Release);
        self.end.store(log.log_end_offset(), Ordering::Release);
    }
}

/// What a copy lacks next.
#[derive(Debug)]
pub(super) enum Missing {
    /// Nothing.
    Nothing,
    /// These bytes, from this offset on.
    Bytes {
        /// The copy's log end.
        from: Offset,
        /// The leader epoch that the partition knows.
        leader_epoch: i32,
        /// Where they lie.
        slices: Vec<FileSlice>,
    },
}

/// What moves, and what is asked for while it does.
#[derive(Debug, Default)]
pub(super) struct Moves {
    moving: Mutex<BTreeSet<Key>>,
    /// Replicas that stay where they are although the controller was told else.
    reverted: Mutex<Vec<Misplaced>>,
    /// Where partitions shall lie that are not here yet.
    preferred: Mutex<BTreeMap<TopicPartition, usize>>,
    /// The broker closes its logs: nothing moves any more.
    stopped: AtomicBool,
    waker: AtomicWaker,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Moves {
    /// Nothing is copied or put into place from here on by whoever does not hold a lock yet.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(super) fn begin(&self, key: Key) {
        held(&self.moving).insert(key);
        self.waker.wake();
    }

    pub(super) fn end(&self, key: Key) {
        held(&self.moving).remove(&key);
    }

    pub(super) fn all(&self) -> Vec<Key> {
        held(&self.moving).iter().copied().collect()
    }

    pub(super) fn take_reverted(&self) -> Vec<Misplaced> {
        std::mem::take(&mut *held(&self.reverted))
    }

    pub(super) fn poll_any(&self, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        self.waker.register(cx.waker());
        let any = !held(&self.moving).is_empty() || !held(&self.reverted).is_empty();
        if any { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    }

    pub(super) fn take_preferred(&self, id: &TopicPartition) -> Option<usize> {
        held(&self.preferred).remove(id)
    }
}

impl Partition {
    /// The copy that is being made.
    #[must_use]
    pub fn future(&self) -> Option<&Arc<FutureReplica>> {
        self.future.as_ref()
    }

    /// Brings `copy` in line with the log, as a follower with its leader's: cuts off what the log
    /// does not have, follows its start. Tells what it lacks.
    pub(super) fn align(&mut self, copy: &FutureReplica, now: Now) -> Result<Missing, LogError> {
        let mut log = copy.lock();
        let result = self.align_log(&mut log, now);
        copy.note(&log);
        drop(log);
        self.advance(now.mono);
        result
    }

    fn align_log(&mut self, copy: &mut Log, now: Now) -> Result<Missing, LogError> {
        let (start, end) = (self.log.log_start_offset(), self.log.log_end_offset());
        if let Some(epoch) = copy.latest_epoch(now)? {
            let ours = self.log.end_offset_for(epoch, now)?;
            let parts = ours.filter(|o| o.epoch < epoch || o.end < copy.log_end_offset());
            if let Some(ours) = parts {
                let own = copy.end_offset_for(ours.epoch, now)?;
                copy.truncate_to(truncation(ours, own, copy.log_end_offset()), now)?;
                if let Some(left) = copy.latest_epoch(now)?
                    && left > ours.epoch
                {
                    // Logs that parted more than once: the rest is cut by the next look.
                    return self.align_log(copy, now);
                }
            }
        }
        if copy.log_end_offset() > end {
            copy.truncate_to(end, now)?;
        }
        if copy.log_end_offset() < start {
            copy.truncate_fully_and_start_at(start, None, now)?;
        } else {
            copy.advance_log_start(start, now)?;
        }
        let from = copy.log_end_offset();
        if from >= end {
            return Ok(Missing::Nothing);
        }
        let read = self.log.read(from, end, COPY_BYTES, true, now)?;
        if read.slices.is_empty() {
            return Ok(Missing::Nothing);
        }
        Ok(Missing::Bytes { from, leader_epoch: self.leader_epoch, slices: read.slices })
    }

    /// Lets the copy take the log's place, if it has everything; `old` gets the log then. The
    /// copy's directory is in its place already.
    fn swap(
        &mut self,
        copy: &FutureReplica,
        place: impl FnOnce() -> Result<(), LogError>,
        now: Now,
    ) -> Result<bool, LogError> {
        if !matches!(self.align(copy, now)?, Missing::Nothing) {
            return Ok(false);
        }
        let mut log = copy.lock();
        let whole = (log.log_start_offset(), log.log_end_offset())
            == (self.log.log_start_offset(), self.log.log_end_offset());
        if !whole {
            return Ok(false);
        }
        log.flush(now)?;
        log.close_files();
        log.succeed(&self.log);
        place()?;
        // What began without data is known to the log alone.
        if self.leads() {
            log.begin_epoch(self.leader_epoch);
        }
        self.log.close_files();
        std::mem::swap(&mut self.log, &mut *log);
        self.future = None;
        drop(log);
        self.tell_flushed();
        self.advance(now.mono);
        Ok(true)
    }
}

impl ReplicaTable {
    /// Begins to move a replica into the directory `dir`; a move to another one is given up. One
    /// that is there already stays.
    ///
    /// # Errors
    /// `InvalidTopicException`: the topic's name is too long. `KafkaStorageError`: a directory is
    /// offline. `InvalidReplicaAssignment`: it takes no replicas. `ReplicaNotAvailable`: the
    /// partition is not here; it will be made there should it come.
    pub fn alter_dir(
        &self,
        topic: &str,
        partition: PartitionId,
        dir: usize,
    ) -> Result<(), ErrorCode> {
        let target = &self.dirs()[dir];
        let id = TopicPartition::new(topic, partition);
        let unique = self.entropy.uuid();
        if crate::log::names::doomed_dir(&id, unique, crate::log::names::Fate::Future).len() > 255 {
            return Err(ErrorCode::InvalidTopicException);
        }
        if target.log_dir.offline_reason().is_some() {
            return Err(ErrorCode::KafkaStorageError);
        }
        if self.is_cordoned(target.id) {
            return Err(ErrorCode::InvalidReplicaAssignment);
        }
        let Some(slot) = self.by_name(topic, partition) else {
            let mut preferred = held(&self.moves.preferred);
            if preferred.len() < PREFERRED_MAX {
                preferred.insert(id, dir);
            }
            return Err(ErrorCode::ReplicaNotAvailable);
        };
        let now = self.clock.now();
        let mut state = slot.lock();
        if state.future.as_ref().is_some_and(|f| f.dir != dir) {
            self.give_up(&slot, &mut state, now);
        }
        if slot.dir() == dir || state.future.is_some() {
            return Ok(());
        }
        if self.dirs().iter().any(|d| d.log_dir.offline_reason().is_some()) {
            return Err(ErrorCode::KafkaStorageError);
        }
        if !target.log_dir.begin_future(&id, unique) {
            return Err(ErrorCode::InvalidTopicException);
        }
        let (log_dir, config) = (Arc::clone(&target.log_dir), Arc::clone(&state.settings.log));
        let log = Log::create(log_dir, id, Some(slot.topic_id), config, now);
        // A copy of what is cleaned meanwhile would never be equal.
        state.log.abort_cleaning();
        state.future = Some(FutureReplica::new(dir, log));
        drop(state);
        tracing::info!(partition = %slot.id(), to = %target.name, "the replica moves");
        self.moves.begin((slot.topic_id, slot.partition));
        Ok(())
    }

    /// A copy that an earlier run left is completed.
    pub fn resume_move(&self, slot: &Slot, dir: usize, log: Log) {
        slot.lock().future = Some(FutureReplica::new(dir, log));
        self.moves.begin((slot.topic_id, slot.partition));
    }

    /// Ends a move; the replica stays where it is.
    pub(super) fn give_up(&self, slot: &Slot, state: &mut Partition, now: Now) {
        let Some(copy) = state.future.take() else { return };
        self.moves.end((slot.topic_id, slot.partition));
        let mut log = copy.lock();
        copy.void.store(true, Ordering::Release);
        log.close_files();
        let due = now.mono.after_ms(log.config().file_delete_delay_ms);
        let dropped =
            self.dirs()[copy.dir].log_dir.drop_future(&slot.id(), self.entropy.uuid(), due);
        drop(log);
        if let Err(e) = dropped {
            tracing::warn!(partition = %slot.id(), "the copy is not removed: {e}");
        }
        let dir = self.dirs()[slot.dir()].id;
        let stays = Misplaced { topic_id: slot.topic_id, partition: slot.partition, dir };
        held(&self.moves.reverted).push(stays);
        self.moves.waker.wake();
        state.advance(now.mono);
    }

    /// Copies what the copy of `slot` lacks, a part of it; tells how many bytes that were.
    ///
    /// # Errors
    /// Of either log.
    pub(super) fn copy_more(&self, slot: &Slot, now: Now) -> Result<usize, LogError> {
        let (copy, missing) = {
            let mut state = slot.lock();
            let Some(copy) = state.future.clone().filter(|_| !self.moves.is_stopped()) else {
                return Ok(0);
            };
            let missing = state.align(&copy, now)?;
            (copy, missing)
        };
        let Missing::Bytes { from, leader_epoch, slices } = missing else { return Ok(0) };
        let bytes = read(&slices).map_err(|source| {
            let context = format!("reading {} for its move", slot.id());
            LogError::Io { context, source }
        })?;
        let mut log = copy.lock();
        let over = copy.void.load(Ordering::Acquire) || self.moves.is_stopped();
        if over || log.log_end_offset() != from {
            return Ok(0);
        }
        let first = batches(&bytes).next().and_then(Result::ok).map(|(header, _)| header);
        if let Some(header) = first
            && log.is_empty()
            && header.base_offset < from
            && header.next_offset() > from
        {
            // Records were deleted out of the middle of the first batch.
            let start = log.log_start_offset();
            log.truncate_fully_and_start_at(header.base_offset, Some(start), now)?;
        }
        let before = log.log_end_offset();
        log.append_follower(&bytes, leader_epoch, now)?;
        let moved = log.log_end_offset() > before;
        copy.note(&log);
        Ok(if moved { bytes.len() } else { 0 })
    }

    /// Forces the copy of `slot` to disk, without holding up the partition.
    ///
    /// # Errors
    /// Of the copy's log.
    pub(super) fn flush_copy(&self, slot: &Slot, now: Now) -> Result<(), LogError> {
        let Some(copy) = slot.lock().future.clone() else { return Ok(()) };
        let mut log = copy.lock();
        let over = copy.void.load(Ordering::Acquire) || self.moves.is_stopped();
        if over { Ok(()) } else { log.flush(now) }
    }

    /// Lets the copy of `slot` take its place if it has everything; tells whether it did.
    ///
    /// # Errors
    /// Of either log: the replica is where it was.
    pub(super) fn complete_move(&self, slot: &Slot, now: Now) -> Result<bool, LogError> {
        let mut state = slot.lock();
        let Some(copy) = state.future.clone() else { return Ok(false) };
        let (id, from) = (slot.id(), slot.dir());
        if self.moves.is_stopped() {
            return Ok(false);
        }
        let place = || self.dirs()[copy.dir].log_dir.promote_future(&id);
        if !state.swap(&copy, place, now)? {
            return Ok(false);
        }
        slot.moved(copy.dir);
        self.choice().added(copy.dir);
        self.choice().removed(from);
        self.moves.end((slot.topic_id, slot.partition));
        let delay = state.log.config().file_delete_delay_ms;
        drop(state);
        // From here on the old one is but in the way; the next start would remove it, too.
        let unique = self.entropy.uuid();
        let old = &self.dirs()[from].log_dir;
        if let Err(e) = old.retire(&id, crate::log::names::Fate::Delete, unique, delay, now) {
            tracing::error!(partition = %id, "cannot delete the replica that moved: {e}");
        }
        tracing::info!(partition = %id, to = %self.dirs()[copy.dir].name, "the replica has moved");
        Ok(true)
    }

    /// Where the copy of `slot` is made, and the id of that directory; with it whether it has all
    /// that the replica has.
    pub(super) fn move_of(&self, slot: &Slot) -> Option<(Uuid, bool)> {
        let state = slot.lock();
        let copy = state.future.as_ref()?;
        Some((self.dirs()[copy.dir].id, copy.end() == state.log.log_end_offset()))
    }

    /// Gives up the move of `slot`.
    pub(super) fn abandon_move(&self, slot: &Slot, now: Now) {
        let mut state = slot.lock();
        self.give_up(slot, &mut state, now);
    }

    /// Whether moves go on now; else when to look again.
    pub(super) fn moves_pause(&self, now: Mono) -> Option<std::time::Duration> {
        self.quotas.moves.pause(now)
    }
}

fn read(slices: &[FileSlice]) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; slices.iter().map(|s| s.len).sum()];
    let mut at = 0;
    for slice in slices {
        let Some(part) = bytes.get_mut(at..at + slice.len) else { break };
        slice.file.read_exact_at(part, slice.pos)?;
        at += slice.len;
    }
    Ok(bytes)
}
