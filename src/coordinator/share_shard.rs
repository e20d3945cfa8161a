//! One shard of share state: the share partitions that one partition of `__share_group_state` keeps
//! (`ShareCoordinatorShard.java`). Pure.
//!
//! What a call decides is appended and, once the log has taken it, part of the state that the next
//! call sees. No caller is told of anything, be it read or written, before all that it rests on is
//! committed: replies leave in the order of the appends. An append that the log refuses changes
//! nothing. An append whose high watermark does not come in time is answered with an error, but
//! stays: it may still be committed, here or by the next leader.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    calls::{Ticket, Token},
    machine::Machine,
    ports::Appended,
    share_batches::combine,
    share_calls::{ShareAsk, ShareCall, ShareEffect, ShareReply},
    share_persister::{ShareKey, ShareState, ShareSummary, ShareWrite},
    share_records::{RecordError, ShareRecord, ShareValue, Snapshot, Update},
    share_settings::ShareSettings,
    turn::append_error,
};
use crate::base::{ErrorCode, Mono, Mutant, Now, Offset, Uuid, mutant};

/// Bytes of records that one append may hold, about.
const APPEND_BYTES: usize = 512 * 1024;
/// What stands in the summary of a share partition of which nothing is kept.
const NOTHING_KEPT: ShareSummary =
    ShareSummary { state_epoch: 0, leader_epoch: 0, start_offset: -1, delivery_complete: -1 };
/// The leader epoch of a state that was just set, before a leader has read it.
const NO_LEADER_YET: i32 = 0;
/// "It stays as it is", or "not checked", in epochs and offsets of requests and updates.
const UNCHANGED: i32 = -1;

/// One shard.
#[derive(Debug)]
pub struct ShareShard {
    settings: Arc<ShareSettings>,
    states: BTreeMap<ShareKey, Kept>,
    /// The latest snapshot of each share partition, by its offset: below the first nothing counts.
    needed: BTreeSet<(Offset, ShareKey)>,
    /// The latest record by which a share partition was forgotten.
    last_forgotten: Option<Offset>,
    /// Asked of the driver, without a result yet.
    writing: BTreeMap<Ticket, Write>,
    next_ticket: Ticket,
    /// Written, above the high watermark; ascending by offset.
    pending: VecDeque<Pending>,
    prune_at: Mono,
    /// Below this offset records were given up already.
    pruned: Offset,
    snapshot_at: Mono,
}

/// What is kept of a share partition.
#[derive(Debug, Clone)]
struct Kept {
    state: Snapshot,
    /// The highest leader epoch that was ever seen.
    leader_epoch: i32,
    /// The highest state epoch that was ever seen.
    state_epoch: i32,
    /// Updates since the last snapshot that they brought about.
    updates: i32,
    /// Where the last snapshot is.
    snapshot_at: Offset,
}

#[derive(Debug)]
struct Write {
    records: Vec<ShareRecord>,
    waiter: Option<(Token, ShareReply)>,
}

#[derive(Debug)]
struct Pending {
    last_offset: Offset,
    /// When `replies` fail.
    deadline: Mono,
    replies: Vec<(Token, ShareReply)>,
    /// What can be given up once this is committed.
    prune: Option<Offset>,
}

impl ShareShard {
    /// A shard without share partitions, to be filled by [`Machine::replay`].
    #[must_use]
    pub fn new(settings: Arc<ShareSettings>) -> Self {
        Self {
            settings,
            states: BTreeMap::new(),
            needed: BTreeSet::new(),
            last_forgotten: None,
            writing: BTreeMap::new(),
            next_ticket: 0,
            pending: VecDeque::new(),
            prune_at: Mono::NEVER,
            pruned: 0,
            snapshot_at: Mono::NEVER,
        }
    }

    // Loading.

    /// Takes the record at `offset` of the log, in the log's order.
    fn take(&mut self, offset: Offset, record: ShareRecord) {
        let ShareRecord { key, value } = record;
        match value {
            ShareValue::Snapshot(state) => self.take_snapshot(offset, key, state),
            ShareValue::Update(update) => self.take_update(offset, key, &update),
            ShareValue::Tombstone => {
                if let Some(old) = self.states.remove(&key) {
                    self.needed.remove(&(old.snapshot_at, key));
                }
                self.last_forgotten = Some(offset);
            }
        }
    }

    fn take_snapshot(&mut self, offset: Offset, key: ShareKey, state: Snapshot) {
        let old = self.states.remove(&key);
        if let Some(old) = &old {
            self.needed.remove(&(old.snapshot_at, key.clone()));
        }
        let old = old.as_ref();
        let updates = old.map_or(0, |o| o.updates);
        let kept = Kept {
            leader_epoch: old
                .map_or(state.leader_epoch, |o| o.leader_epoch.max(state.leader_epoch)),
            state_epoch: old.map_or(state.state_epoch, |o| o.state_epoch.max(state.state_epoch)),
            // A snapshot for another reason does not begin the count again.
            updates: if updates >= self.settings.updates_per_snapshot { 0 } else { updates },
            snapshot_at: offset,
            state,
        };
        self.needed.insert((offset, key.clone()));
        self.states.insert(key, kept);
    }

    fn take_update(&mut self, offset: Offset, key: ShareKey, update: &Update) {
        if let Some(kept) = self.states.get_mut(&key) {
            let state = &mut kept.state;
            if update.start_offset != i64::from(UNCHANGED) {
                state.start_offset = update.start_offset;
            }
            if update.leader_epoch != UNCHANGED {
                state.leader_epoch = update.leader_epoch;
            }
            state.delivery_complete = update.delivery_complete;
            state.batches = combine(&state.batches, &update.batches, state.start_offset);
            kept.leader_epoch = kept.leader_epoch.max(update.leader_epoch);
            kept.updates = kept.updates.saturating_add(1);
            return;
        }
        // Its snapshot is not there. Only a damaged log, or one that was given up in part behind
        // a later tombstone, looks so.
        let state = Snapshot {
            snapshot_epoch: update.snapshot_epoch,
            state_epoch: 0,
            leader_epoch: update.leader_epoch,
            start_offset: update.start_offset,
            delivery_complete: update.delivery_complete,
            create_ms: 0,
            write_ms: 0,
            batches: combine(&[], &update.batches, update.start_offset),
        };
        let kept = Kept {
            leader_epoch: state.leader_epoch,
            state_epoch: 0,
            updates: 1,
            snapshot_at: offset,
            state,
        };
        self.needed.insert((offset, key.clone()));
        self.states.insert(key, kept);
    }

    /// All records are replayed, and all of them are committed: calls may come. Share partitions
    /// of topics that are not among `topics` any more are forgotten.
    pub fn loaded(&mut self, topics: impl Fn(Uuid) -> bool, now: Now, out: &mut Vec<ShareEffect>) {
        self.prune_at = now.mono.after_ms(self.settings.prune_interval_ms);
        self.snapshot_at = now.mono.after_ms(self.settings.cold_snapshot_interval_ms);
        let gone: BTreeSet<Uuid> =
            self.states.keys().map(|k| k.topic).filter(|t| !topics(*t)).collect();
        self.forget(&gone, out);
    }

    /// Share partitions of which state is kept.
    pub(super) fn size(&self) -> usize {
        self.states.len()
    }

    // Calls.

    /// The checks of Kafka, in its order.
    fn check(&self, key: &ShareKey, exists: bool, ask: &ShareAsk) -> Result<(), ErrorCode> {
        if key.partition < 0 {
            return Err(ErrorCode::InvalidRequest);
        }
        let kept = self.states.get(key);
        let is_stale = |said: i32, seen: i32| said != UNCHANGED && said < seen;
        match (ask, kept) {
            (ShareAsk::Read { .. } | ShareAsk::Write(_), None) => {
                return Err(ErrorCode::InvalidRequest);
            }
            (ShareAsk::Write(write), Some(_)) if !write.batches.iter().all(|b| b.is_sound()) => {
                return Err(ErrorCode::InvalidRequest);
            }
            (
                ShareAsk::Read { leader_epoch } | ShareAsk::Write(ShareWrite { leader_epoch, .. }),
                Some(kept),
            ) if is_stale(*leader_epoch, kept.leader_epoch)
                && !mutant(Mutant::ShareFenceSkipped) =>
            {
                return Err(ErrorCode::FencedLeaderEpoch);
            }
            (
                ShareAsk::Initialize { state_epoch, .. }
                | ShareAsk::Write(ShareWrite { state_epoch, .. }),
                Some(kept),
            ) if is_stale(*state_epoch, kept.state_epoch) => {
                return Err(ErrorCode::FencedStateEpoch);
            }
            _ => {}
        }
        match exists {
            true => Ok(()),
            false => Err(ErrorCode::UnknownTopicOrPartition),
        }
    }

    fn initial(
        &self,
        key: &ShareKey,
        state_epoch: i32,
        start_offset: Offset,
        now_ms: i64,
    ) -> Snapshot {
        let old = self.states.get(key);
        Snapshot {
            snapshot_epoch: old.map_or(0, |o| o.state.snapshot_epoch.saturating_add(1)),
            state_epoch,
            leader_epoch: NO_LEADER_YET,
            start_offset,
            // Nothing has been consumed from a known offset on; else nothing can be said yet.
            delivery_complete: if start_offset == i64::from(UNCHANGED) { -1 } else { 0 },
            create_ms: now_ms,
            write_ms: now_ms,
            batches: Vec::new(),
        }
    }

    /// The state, and the record that fences leaders before this one.
    fn read(
        &self,
        key: &ShareKey,
        leader_epoch: i32,
        now_ms: i64,
    ) -> (ShareReply, Option<ShareValue>) {
        let Some(kept) = self.states.get(key) else {
            return (ShareReply::State(Err(ErrorCode::InvalidRequest)), None);
        };
        let state = &kept.state;
        let reply = ShareReply::State(Ok(ShareState {
            state_epoch: state.state_epoch,
            start_offset: state.start_offset,
            batches: state.batches.clone(),
        }));
        if leader_epoch == UNCHANGED || leader_epoch == kept.leader_epoch {
            return (reply, None);
        }
        let write = ShareWrite {
            state_epoch: state.state_epoch,
            leader_epoch,
            start_offset: state.start_offset,
            delivery_complete: state.delivery_complete,
            batches: Vec::new(),
        };
        (reply, self.change(key, &write, Some(leader_epoch), now_ms))
    }

    /// The record of a change: an update, or a snapshot where there are enough of them.
    fn change(
        &self,
        key: &ShareKey,
        write: &ShareWrite,
        leader_epoch: Option<i32>,
        now_ms: i64,
    ) -> Option<ShareValue> {
        let kept = self.states.get(key)?;
        let state = &kept.state;
        let leader_epoch = leader_epoch.unwrap_or(state.leader_epoch);
        // A request may be carried out twice, the second time after later ones (its sender gave its
        // connection up and asked anew). Within a state epoch the start offset only grows; taken
        // back, it would hand out again what was finished with and is not kept any more.
        let written = match write.start_offset {
            -1 => -1,
            late if mutant(Mutant::ShareStartGoesBack) => late,
            given => given.max(state.start_offset),
        };
        if kept.updates < self.settings.updates_per_snapshot {
            return Some(ShareValue::Update(Update {
                snapshot_epoch: state.snapshot_epoch,
                leader_epoch,
                start_offset: written,
                delivery_complete: write.delivery_complete,
                batches: combine(&[], &write.batches, written),
            }));
        }
        let start_offset = match written {
            -1 => state.start_offset,
            given => given,
        };
        Some(ShareValue::Snapshot(Snapshot {
            snapshot_epoch: state.snapshot_epoch.saturating_add(1),
            state_epoch: state.state_epoch,
            leader_epoch,
            start_offset,
            delivery_complete: write.delivery_complete,
            create_ms: now_ms,
            write_ms: now_ms,
            batches: combine(&state.batches, &write.batches, start_offset),
        }))
    }

    /// Forgets the share partitions of these topics.
    fn forget(&mut self, topics: &BTreeSet<Uuid>, out: &mut Vec<ShareEffect>) {
        if topics.is_empty() {
            return;
        }
        let gone = self.states.keys().filter(|k| topics.contains(&k.topic)).cloned();
        let gone = gone.map(|key| ShareRecord { key, value: ShareValue::Tombstone });
        self.append_all(gone.collect(), out);
    }

    /// Answers once all that was appended so far is committed.
    fn answer(&mut self, token: Token, reply: ShareReply, now: Now, out: &mut Vec<ShareEffect>) {
        match self.pending.back_mut() {
            Some(last) if last.deadline > now.mono => last.replies.push((token, reply)),
            // What it rests on did not become durable in time, and may yet be lost.
            Some(_) => {
                let reply = reply.failed(append_error(ErrorCode::RequestTimedOut));
                out.push(ShareEffect::Reply { token, reply });
            }
            None => out.push(ShareEffect::Reply { token, reply }),
        }
    }

    // Appends.

    /// Several appends, each of a bounded size, that nobody waits for.
    fn append_all(&mut self, records: Vec<ShareRecord>, out: &mut Vec<ShareEffect>) {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for record in records {
            bytes += record.len_about();
            batch.push(record);
            if bytes >= APPEND_BYTES {
                self.append(std::mem::take(&mut batch), None, out);
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.append(batch, None, out);
        }
    }

    fn append(
        &mut self,
        records: Vec<ShareRecord>,
        waiter: Option<(Token, ShareReply)>,
        out: &mut Vec<ShareEffect>,
    ) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.writing.insert(ticket, Write { records: records.clone(), waiter });
        out.push(ShareEffect::Append { ticket, records });
    }

    fn tell_late(&mut self, until: Mono, error: ErrorCode, out: &mut Vec<ShareEffect>) {
        for pending in self.pending.iter_mut().take_while(|p| p.deadline <= until) {
            let late = std::mem::take(&mut pending.replies).into_iter();
            out.extend(late.map(|(token, reply)| ShareEffect::Reply {
                token,
                reply: reply.failed(append_error(error)),
            }));
        }
    }

    // Time.

    /// Gives up what snapshots have replaced (`ShareCoordinatorOffsetsManager.java`): at once, or,
    /// while the latest of these are not committed, when they are.
    fn prune(&mut self, out: &mut Vec<ShareEffect>) {
        let first_needed = self.needed.first().map(|(offset, _)| *offset);
        let Some(offset) = first_needed.or(self.last_forgotten) else { return };
        match self.pending.back_mut() {
            Some(last) => last.prune = Some(offset),
            None => self.give_up(offset, out),
        }
    }

    fn give_up(&mut self, offset: Offset, out: &mut Vec<ShareEffect>) {
        if offset > self.pruned {
            self.pruned = offset;
            out.push(ShareEffect::Prune(offset));
        }
    }

    /// Writes down anew the state of what has not changed for long, so that old records can be given
    /// up; not if nothing has changed at all since that was done last.
    fn snapshot_cold(&mut self, now: Now, out: &mut Vec<ShareEffect>) {
        if self.states.values().all(|k| k.state.create_ms != k.state.write_ms) {
            return;
        }
        let interval = self.settings.cold_snapshot_interval_ms;
        let cold = self.states.iter().filter_map(|(key, kept)| {
            let state = &kept.state;
            let is_cold = now.wall_ms.saturating_sub(state.write_ms) >= interval;
            is_cold.then(|| ShareRecord {
                key: key.clone(),
                value: ShareValue::Snapshot(Snapshot {
                    snapshot_epoch: state.snapshot_epoch.saturating_add(1),
                    write_ms: now.wall_ms,
                    ..state.clone()
                }),
            })
        });
        self.append_all(cold.collect(), out);
    }
}

impl Machine for ShareShard {
    type Call = ShareCall;
    type Reply = ShareReply;
    type Effect = ShareEffect;
    type At = Now;

    fn replay(
        &mut self,
        offset: Offset,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<bool, RecordError> {
        let record = ShareRecord::decode(key, value)?;
        Ok(record.map(|record| self.take(offset, record)).is_some())
    }

    fn handle(&mut self, token: Token, call: Self::Call, now: Now, out: &mut Vec<ShareEffect>) {
        let (key, exists, ask) = match call {
            ShareCall::Key { key, exists, ask } => (key, exists, ask),
            ShareCall::TopicsDeleted(topics) => {
                self.forget(&topics, out);
                return self.answer(token, ShareReply::Done(Ok(())), now, out);
            }
        };
        if let Err(error) = self.check(&key, exists, &ask) {
            return self.answer(token, ask.refused(error), now, out);
        }
        let (reply, value) = match ask {
            ShareAsk::Initialize { state_epoch, start_offset } => {
                let state = self.initial(&key, state_epoch, start_offset, now.wall_ms);
                (ShareReply::Done(Ok(())), Some(ShareValue::Snapshot(state)))
            }
            ShareAsk::Read { leader_epoch } => self.read(&key, leader_epoch, now.wall_ms),
            ShareAsk::Write(write) => {
                let value = self.change(&key, &write, None, now.wall_ms);
                (ShareReply::Done(Ok(())), value)
            }
            ShareAsk::Delete => {
                let value = self.states.contains_key(&key).then_some(ShareValue::Tombstone);
                (ShareReply::Done(Ok(())), value)
            }
            ShareAsk::Summary { .. } => {
                let summary = self.states.get(&key).map_or(NOTHING_KEPT, |kept| ShareSummary {
                    state_epoch: kept.state.state_epoch,
                    leader_epoch: kept.state.leader_epoch,
                    start_offset: kept.state.start_offset,
                    delivery_complete: kept.state.delivery_complete,
                });
                (ShareReply::Summary(Ok(summary)), None)
            }
        };
        match value {
            Some(value) => {
                self.append(vec![ShareRecord { key, value }], Some((token, reply)), out);
            }
            None => self.answer(token, reply, now, out),
        }
    }

    fn appended(
        &mut self,
        ticket: Ticket,
        result: Result<Appended, ErrorCode>,
        now: Now,
        out: &mut Vec<ShareEffect>,
    ) {
        let Some(Write { records, waiter }) = self.writing.remove(&ticket) else { return };
        let at = match result {
            Ok(at) => at,
            Err(error) => {
                if let Some((token, reply)) = waiter {
                    let reply = reply.failed(append_error(error));
                    out.push(ShareEffect::Reply { token, reply });
                }
                return;
            }
        };
        let count = i64::try_from(records.len()).unwrap_or(0);
        for (offset, record) in (at.last_offset - count + 1..).zip(records) {
            self.take(offset, record);
        }
        self.pending.push_back(Pending {
            last_offset: at.last_offset,
            deadline: now.mono.after_ms(self.settings.write_timeout_ms),
            replies: waiter.into_iter().collect(),
            prune: None,
        });
        self.committed(at.high_watermark, now, out);
    }

    fn committed(&mut self, high_watermark: Offset, _now: Now, out: &mut Vec<ShareEffect>) {
        while self.pending.front().is_some_and(|p| p.last_offset < high_watermark) {
            let Some(done) = self.pending.pop_front() else { return };
            let replies = done.replies.into_iter();
            out.extend(replies.map(|(token, reply)| ShareEffect::Reply { token, reply }));
            if let Some(offset) = done.prune {
                self.give_up(offset, out);
            }
        }
    }

    fn commit_lost(&mut self, error: ErrorCode, out: &mut Vec<ShareEffect>) {
        self.tell_late(Mono::NEVER, error, out);
    }

    fn first_uncommitted(&self) -> Option<Offset> {
        self.pending.front().map(|p| p.last_offset)
    }

    fn next_deadline(&self) -> Mono {
        // Later appends have later deadlines.
        let late = self.pending.iter().find(|p| !p.replies.is_empty());
        let late = late.map_or(Mono::NEVER, |p| p.deadline);
        late.min(self.prune_at).min(self.snapshot_at)
    }

    fn on_deadline(&mut self, now: Now, out: &mut Vec<ShareEffect>) {
        self.tell_late(now.mono, ErrorCode::RequestTimedOut, out);
        if self.prune_at <= now.mono {
            self.prune_at = now.mono.after_ms(self.settings.prune_interval_ms);
            self.prune(out);
        }
        if self.snapshot_at <= now.mono {
            self.snapshot_at = now.mono.after_ms(self.settings.cold_snapshot_interval_ms);
            self.snapshot_cold(now, out);
        }
    }

    fn unload(mut self, out: &mut Vec<ShareEffect>) {
        self.tell_late(Mono::NEVER, ErrorCode::NotCoordinator, out);
    }
}

#[cfg(test)]
#[path = "share_shard_test.rs"]
mod tests;
