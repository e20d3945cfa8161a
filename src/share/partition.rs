//! A partition as one share group consumes it (`SharePartition.java`, KIP-932): which records are
//! handed out, to whom, until when, and which are finished with. Pure; the shell holds its lock.
//!
//! ```text
//!   start                                next
//!     │ finished │ acquired │ hole │ free │   not yet looked at …
//! ```
//! From `start` to `next` lie the records in flight: in runs of one state each, in *holes* of which
//! an earlier leader kept nothing (they were acquired when it went, and are handed out anew), and in
//! gaps where the log has no records. What is finished at the front moves `start`. A change that a
//! member asks for is *pending* until it is written; one write is under way at a time, and the next
//! carries all that came meanwhile. Acquisition is not written: who is given a record that nobody
//! finishes gets it again.

use std::collections::BTreeMap;

use super::{
    runs::{RecordState, Run, Runs},
    settings::ShareSettings,
};
use crate::{
    base::{ErrorCode, LeaderEpoch, Mono, Mutant, Offset, mutant},
    coordinator::share_persister::{ShareState, ShareWrite, StateBatch},
};

/// The number of a write; whoever waits for it is answered when it ends.
pub type WriteNo = u64;

/// The changes that wait to be written, and those that are being written.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// The number of the write that carries what is queued.
    pub(super) next: WriteNo,
    pub(super) queued: Vec<StateBatch>,
    under_way: Option<Vec<StateBatch>>,
}

/// One partition of one share group.
#[derive(Debug)]
pub struct SharePartition {
    pub(super) leader_epoch: LeaderEpoch,
    pub(super) state_epoch: i32,
    pub(super) start: Offset,
    /// The first offset that was never acquired here or before; `start` if nothing is in flight.
    pub(super) next: Offset,
    pub(super) runs: Runs,
    /// First and last offsets of the batches in which records were acquired.
    pub(super) batches: BTreeMap<Offset, Offset>,
    /// First and last offsets of what nothing is known of.
    pub(super) holes: BTreeMap<Offset, Offset>,
    /// Whether some run may be free.
    pub(super) maybe_free: bool,
    /// No lock ends before.
    pub(super) earliest: Mono,
    pub(super) writes: Writes,
}

impl SharePartition {
    /// The partition as the share coordinator kept it, for the leader in `leader_epoch`; the group
    /// begins at `start` if nothing is kept yet.
    ///
    /// # Errors
    /// `UnknownServerError` if what was kept makes no sense.
    pub fn load(
        state: &ShareState,
        start: Offset,
        leader_epoch: LeaderEpoch,
    ) -> Result<Self, ErrorCode> {
        let start = if state.start_offset >= 0 { state.start_offset } else { start };
        let mut partition = Self {
            leader_epoch,
            state_epoch: state.state_epoch,
            start,
            next: start,
            runs: Runs::default(),
            batches: BTreeMap::new(),
            holes: BTreeMap::new(),
            maybe_free: true,
            earliest: Mono::NEVER,
            writes: Writes::default(),
        };
        for batch in &state.batches {
            let kept = RecordState::from_kept_id(batch.state);
            let in_order = batch.first >= partition.next && batch.last >= batch.first;
            let (Some(kept), true, Some(next)) = (kept, in_order, batch.last.checked_add(1)) else {
                return Err(ErrorCode::UnknownServerError);
            };
            if batch.first > partition.next {
                partition.holes.insert(partition.next, batch.first - 1);
            }
            let run = Run::free(batch.last, kept, batch.delivery_count);
            partition.runs.0.insert(batch.first, run);
            partition.batches.insert(batch.first, batch.last);
            partition.next = next;
        }
        partition.advance();
        Ok(partition)
    }

    /// The share-partition start offset: all records below it are finished with.
    #[must_use]
    pub fn start_offset(&self) -> Offset {
        self.start
    }

    /// The first offset that was never handed out.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// The epoch of the leader whose it is.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Records from the start offset to the last that was handed out.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.next - self.start
    }

    /// The offset to read the log at for records that may be acquired.
    pub fn next_fetch_offset(&mut self) -> Offset {
        let hole = self.holes.first_key_value().map(|(first, _)| *first);
        let free = if self.maybe_free {
            self.runs.0.iter().find(|(_, run)| run.is_free()).map(|(first, _)| *first)
        } else {
            None
        };
        self.maybe_free = free.is_some();
        match (hole, free) {
            (Some(a), Some(b)) => a.min(b),
            (Some(at), None) | (None, Some(at)) => at,
            (None, None) => self.next,
        }
    }

    /// Whether some record could be acquired: one that is free again, or a new one while there is
    /// room for locks.
    pub fn can_acquire(&mut self, settings: &ShareSettings) -> bool {
        self.next_fetch_offset() != self.next
            || self.in_flight() < i64::from(settings.max_record_locks)
    }

    /// The log begins at `log_start` now: what lies below is finished with. It is not written until
    /// something else is (`updateCacheAndOffsets`).
    pub fn log_starts_at(&mut self, log_start: Offset) {
        if log_start <= self.start {
            return;
        }
        self.forget_below(log_start);
        self.start = log_start;
        self.next = self.next.max(log_start);
        self.advance();
    }

    /// No record lies from `from` up to `to`, where the log goes on: compaction took what may have
    /// been there (`maybeArchiveStaleBatches`).
    pub(super) fn log_is_empty(&mut self, from: Offset, to: Offset) {
        if from >= to {
            return;
        }
        for (_, run) in self.runs.within(from, to - 1) {
            if run.state == RecordState::Available {
                run.archive();
            }
        }
        self.fill_holes(from, to - 1);
        self.advance();
    }

    /// Takes the offsets from `first` to `last` out of the holes.
    pub(super) fn fill_holes(&mut self, first: Offset, last: Offset) {
        let touched: Vec<_> = self
            .holes
            .range(..=last)
            .rev()
            .take_while(|(_, end)| **end >= first)
            .map(|(at, end)| (*at, *end))
            .collect();
        for (at, end) in touched {
            self.holes.remove(&at);
            if at < first {
                self.holes.insert(at, first - 1);
            }
            if end > last {
                self.holes.insert(last + 1, end);
            }
        }
    }

    fn forget_below(&mut self, offset: Offset) {
        self.runs.split(offset);
        self.runs.0 = self.runs.0.split_off(&offset);
        while let Some(first) = self.batches.first_entry()
            && *first.get() < offset
        {
            first.remove();
        }
        self.fill_holes(Offset::MIN, offset - 1);
    }

    /// Moves the start offset over what is finished. Tells whether it moved.
    pub(super) fn advance(&mut self) -> bool {
        let before = self.start;
        let hole = self.holes.first_key_value().map_or(Offset::MAX, |(first, _)| *first);
        let mut to = None;
        for (first, run) in &self.runs.0 {
            if hole < *first || !run.is_done() {
                to = Some(*first);
                break;
            }
        }
        let to = to.unwrap_or(self.next).min(hole);
        if to > before {
            self.forget_below(to);
            self.start = to;
        }
        to > before
    }

    /// When [`SharePartition::on_deadline`] must be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        self.earliest
    }

    /// Gives up locks that have ended. Tells whether records became free, or the start offset moved.
    /// What changed counts at once, and is to be written.
    pub fn on_deadline(&mut self, settings: &ShareSettings, now: Mono) -> bool {
        if now < self.earliest {
            return false;
        }
        self.earliest = Mono::NEVER;
        let mut changed = Vec::new();
        for (first, run) in &mut self.runs.0 {
            if !run.is_held() {
                continue;
            }
            if run.deadline > now {
                self.earliest = self.earliest.min(run.deadline);
                continue;
            }
            let state = run.given_back(settings.delivery_count_limit);
            *run = Run::free(run.last, state, run.deliveries);
            changed.push(kept(*first, run));
        }
        if changed.is_empty() {
            return false;
        }
        self.maybe_free = true;
        self.writes.queued.append(&mut changed);
        self.advance();
        true
    }

    /// What is to be written now: everything that changed since the last write began. `None` while
    /// one is under way, or if nothing changed.
    pub fn begin_write(&mut self) -> Option<(WriteNo, ShareWrite)> {
        if self.writes.under_way.is_some() || self.writes.queued.is_empty() {
            return None;
        }
        let mut batches = std::mem::take(&mut self.writes.queued);
        // What was written down later comes later where offsets are the same.
        batches.sort_by_key(|b| b.first);
        batches.dedup_by(|b, a| {
            let joins = a.last.checked_add(1) == Some(b.first)
                && (a.state, a.delivery_count) == (b.state, b.delivery_count);
            if joins {
                a.last = b.last;
            }
            joins
        });
        let no = self.writes.next;
        self.writes.next += 1;
        self.writes.under_way = Some(batches.clone());
        let write = ShareWrite {
            state_epoch: self.state_epoch,
            leader_epoch: self.leader_epoch,
            start_offset: self.start,
            delivery_complete: self.finished_in_flight(),
            batches,
        };
        Some((no, write))
    }

    /// The write that is under way.
    #[must_use]
    pub fn write_under_way(&self) -> Option<WriteNo> {
        self.writes.under_way.is_some().then(|| self.writes.next - 1)
    }

    /// Whether all that changed is written.
    #[must_use]
    pub fn is_written(&self) -> bool {
        self.writes.under_way.is_none() && self.writes.queued.is_empty()
    }

    /// The write under way has ended. Returns its number. If it failed, records are their members'
    /// again, unless their locks have ended meanwhile.
    pub fn end_write(&mut self, succeeded: bool, now: Mono) -> Option<WriteNo> {
        let batches = self.writes.under_way.take()?;
        let write = self.writes.next - 1;
        for batch in batches {
            for (_, run) in self.runs.0.range_mut(batch.first..=batch.last) {
                let Some(pending) = run.pending.take_if(|p| p.write == write) else { continue };
                if succeeded {
                    run.deadline = Mono::NEVER;
                } else if mutant(Mutant::ShareLostWithWrite) {
                    run.state = RecordState::Acquired;
                    run.deadline = Mono::NEVER;
                } else if run.deadline <= now {
                    let state = run.given_back(pending.delivery_limit);
                    *run = Run::free(run.last, state, run.deliveries);
                } else {
                    run.state = RecordState::Acquired;
                    run.member = Some(pending.member);
                    self.earliest = self.earliest.min(run.deadline);
                }
                self.maybe_free |= run.is_free();
            }
            self.runs.join(batch.first, batch.last, &self.batches);
        }
        self.advance();
        Some(write)
    }

    /// How many records from the start offset on are finished with, or will be when it is written.
    fn finished_in_flight(&self) -> i32 {
        let finished = self.runs.0.iter().filter(|(_, run)| run.state.is_finished());
        let count: i64 = finished.map(|(first, run)| run.last - first + 1).sum();
        i32::try_from(count).unwrap_or(i32::MAX)
    }
}

/// What is kept of `run`, which begins at `first`.
pub(super) fn kept(first: Offset, run: &Run) -> StateBatch {
    let (state, delivery_count) = (run.state.id(), run.deliveries);
    StateBatch { first, last: run.last, state, delivery_count }
}
