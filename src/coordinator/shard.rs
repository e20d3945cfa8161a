//! One shard: the groups and offsets of one partition of `__consumer_offsets`. Pure.
//!
//! What a call decides is appended, then taken into the state, then told to the caller once the
//! high watermark passes it; until then readers see the offsets as they were. An append that the
//! log refuses changes nothing. An append whose high watermark does not come in time is answered
//! with an error, but stays: it may still be committed, here or by the next leader.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    calls::{
        Call, CommitCall, CommitReply, Effect, FetchCall, FetchReply, JoinCall, JoinReply,
        LeaveCall, LeaveReply, ListedGroup, Reply, SyncReply, Ticket, Token,
    },
    consumer_groups::{self, ConsumerGroups, Groups},
    group_classic::ClassicGroup,
    offsets::{self, Offsets},
    offsets_txn::TxnOffsets,
    ports::Appended,
    records::{GroupMetadata, Record},
    settings::Settings,
    share_groups::{self, ShareGroups},
    turn::{Then, Turn, append_error, in_batches},
};
use crate::base::{ErrorCode, Mono, Mutant, Now, Offset, mutant};

/// One shard.
#[derive(Debug)]
pub struct Shard {
    pub(super) settings: Arc<Settings>,
    pub(super) groups: BTreeMap<Arc<str>, ClassicGroup>,
    pub(super) consumers: ConsumerGroups,
    pub(super) shares: ShareGroups,
    /// Consumer groups that become classic ones when their records are written, and whether these
    /// then rebalance.
    pub(super) converting: BTreeMap<Arc<str>, (ClassicGroup, bool)>,
    /// As last written.
    pub(super) offsets: Offsets,
    /// Pending in transactions, as last written.
    pub(super) txns: TxnOffsets,
    /// Asked of the driver, without a result yet.
    writing: BTreeMap<Ticket, Write>,
    next_ticket: Ticket,
    /// Written, above the high watermark; ascending by offset.
    pub(super) pending: VecDeque<Pending>,
    /// When to wake which group.
    wakes: BTreeSet<(Mono, Arc<str>)>,
    /// When to look for what has expired.
    sweep_at: Mono,
}

#[derive(Debug)]
struct Write {
    records: Arc<[Record]>,
    /// To be appended after it.
    rest: VecDeque<Arc<[Record]>>,
    then: Then,
}

#[derive(Debug)]
pub(super) struct Pending {
    last_offset: Offset,
    /// The offsets before it.
    before: Offsets,
    /// The consumer groups before it.
    pub(super) groups_before: Groups,
    /// The share groups before it.
    pub(super) shares_before: share_groups::Groups,
    /// When `then` and `reads` fail.
    pub(super) deadline: Mono,
    then: Then,
    /// Fetches that have seen it and are answered with it.
    pub(super) reads: Vec<(Token, Reply)>,
}

impl Shard {
    /// A shard without groups, to be filled by [`Shard::replay`].
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        Self {
            settings,
            groups: BTreeMap::new(),
            consumers: ConsumerGroups::new(),
            shares: ShareGroups::default(),
            converting: BTreeMap::new(),
            offsets: Offsets::default(),
            txns: TxnOffsets::default(),
            writing: BTreeMap::new(),
            next_ticket: 0,
            pending: VecDeque::new(),
            wakes: BTreeSet::new(),
            sweep_at: Mono::NEVER,
        }
    }

    // Loading.

    /// Takes a record of the log, in the log's order.
    pub fn replay(&mut self, record: &Record, now: Now) {
        if let Record::Group { group, value: Some(value) } = record {
            self.consumers.remove(group);
            let loaded = ClassicGroup::from_record(group.clone(), value, now);
            self.groups.insert(group.clone(), loaded);
        } else {
            self.apply(record, now);
        }
    }

    /// What is replayed from here on lies above the high watermark.
    pub fn replay_uncommitted(&mut self) {
        if self.pending.is_empty() {
            self.push_pending(0, Mono::NEVER, Then::Nothing);
        }
    }

    /// All records up to `end` (exclusive) are replayed: sessions begin, and calls may come.
    pub fn loaded(&mut self, end: Offset, now: Now, out: &mut Vec<Effect>) {
        if let Some(above) = self.pending.back_mut() {
            above.last_offset = end - 1;
        }
        self.sweep_at = now.mono.after_ms(self.settings.retention_check_interval_ms);
        self.turn(now, out, |shard, turn| {
            for group in shard.groups.values_mut() {
                let ids: Vec<_> = group.members.keys().cloned().collect();
                for id in ids {
                    group.renew_session(&id, now);
                }
                // The limit was lowered: a rebalance lets members commit before some are refused.
                if group.members.len() > turn.settings.max_size {
                    group.prepare_rebalance(turn);
                }
            }
            let ids: Vec<_> = shard.groups.keys().cloned().collect();
            for id in ids {
                shard.arm(&id);
            }
            shard.consumers_loaded(turn);
            shard.shares_loaded(turn);
        });
    }

    // Calls.

    /// Takes a call. Its reply is an effect of this or of a later step, and names `token`.
    pub fn handle(&mut self, token: Token, call: Call, now: Now, out: &mut Vec<Effect>) {
        if let Some(reply) = self.refused_by_share_group(&call) {
            return out.push(Effect::Reply { token, reply });
        }
        self.turn(now, out, |shard, turn| match call {
            Call::ConsumerHeartbeat(call) => shard.consumer_heartbeat(token, &call, turn),
            call if shard.is_for_consumers(&call) => shard.consumer_call(token, &call, turn),
            Call::Join(call) => shard.join(token, &call, turn),
            Call::Sync(call) => {
                let unknown = Reply::Sync(SyncReply::error(ErrorCode::UnknownMemberId));
                let group = call.group.clone();
                shard.with(&group, token, unknown, turn, |g, turn| g.sync(token, &call, turn));
            }
            Call::Heartbeat(call) => {
                let unknown = Reply::Heartbeat(ErrorCode::UnknownMemberId);
                let group = call.group.clone();
                shard.with(&group, token, unknown, turn, |g, turn| {
                    let error = g.heartbeat(&call, turn);
                    turn.reply(token, Reply::Heartbeat(error));
                });
            }
            Call::Leave(call) => shard.leave(token, &call, turn),
            Call::Commit(call) => shard.commit(token, &call, turn),
            Call::Fetch(call) => shard.fetch(token, &call, turn),
            Call::DeleteGroups(groups) => shard.delete_groups(token, groups, turn),
            Call::DeleteOffsets(call) => shard.delete_offsets(token, &call, turn),
            Call::TopicsDeleted(topics) => {
                let mut records = shard.offsets.delete_topics(&topics);
                shard.txns.delete_topics(&topics, &mut records);
                shard.share_topics_deleted(&topics, &mut records);
                finish(records, token, Reply::TopicsDeleted(ErrorCode::None), turn);
            }
            Call::TxnCommit(call) => shard.txn_commit(token, &call, turn),
            Call::EndTxn(call) => shard.end_txn(token, call, turn),
            call => shard.share_call(token, call, turn),
        });
    }

    /// The groups that `keep` lets through, by id.
    pub fn list(&self, keep: impl Fn(&ListedGroup) -> bool) -> Vec<ListedGroup> {
        let classic = self.groups.values().map(ClassicGroup::list);
        let all = classic.chain(consumer_groups::list(self.committed_consumers()));
        let all = all.chain(self.list_shares());
        all.filter(|g| keep(g)).collect()
    }

    /// Groups, and offsets of all of them, for the log of the broker.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (
            self.groups.len() + self.consumers.groups.len() + self.shares.groups.len(),
            self.offsets.len(),
        )
    }

    // Appends.

    /// The driver's answer to [`Effect::Append`].
    pub fn appended(
        &mut self,
        ticket: Ticket,
        result: Result<Appended, ErrorCode>,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        let write = self.writing.remove(&ticket);
        self.turn(now, out, |shard, turn| match (write, result) {
            (None, result) => shard.appended_in_txn(ticket, result, turn),
            (Some(write), Ok(at)) => shard.written(write, at, turn),
            (Some(write), Err(error)) => {
                for record in write.records.iter().chain(write.rest.iter().flat_map(|r| &**r)) {
                    shard.converting.remove(record.group());
                }
                shard.settle(write.then, Err(error), turn);
            }
        });
    }

    fn written(&mut self, mut write: Write, at: Appended, turn: &mut Turn<'_>) {
        let last = write.rest.is_empty();
        let then = match last {
            true => std::mem::replace(&mut write.then, Then::Nothing),
            false => Then::Nothing,
        };
        self.take_written(at, then, turn, |shard, turn| {
            for record in &*write.records {
                shard.apply(record, turn.now);
                if matches!(record, Record::Group { value: Some(_), .. }) {
                    shard.converted(record.group(), turn);
                }
            }
        });
        if let Some(records) = write.rest.pop_front() {
            self.write(Write { records, ..write }, turn.out);
        }
    }

    /// Takes what was appended into the state, by `apply`; `then` happens once it is committed.
    pub(super) fn take_written(
        &mut self,
        at: Appended,
        then: Then,
        turn: &mut Turn<'_>,
        apply: impl FnOnce(&mut Self, &mut Turn<'_>),
    ) {
        // Whatever the watermark has passed is settled first, so that this needs no copy.
        self.pass(at.high_watermark, turn);
        let committed =
            at.last_offset < at.high_watermark || mutant(Mutant::CoordinatorAnswersEarly);
        let deadline = turn.now.mono.after_ms(turn.settings.commit_timeout_ms);
        if !committed {
            self.push_pending(at.last_offset, deadline, Then::Nothing);
        }
        apply(self, turn);
        match self.pending.back_mut() {
            Some(above) if !committed => above.then = then,
            _ => self.settle(then, Ok(()), turn),
        }
    }

    fn push_pending(&mut self, last_offset: Offset, deadline: Mono, then: Then) {
        self.pending.push_back(Pending {
            last_offset,
            before: self.offsets.clone(),
            groups_before: self.consumers.groups.clone(),
            shares_before: self.shares.groups.clone(),
            deadline,
            then,
            reads: Vec::new(),
        });
    }

    /// The high watermark rose to `high_watermark`.
    pub fn committed(&mut self, high_watermark: Offset, now: Now, out: &mut Vec<Effect>) {
        self.turn(now, out, |shard, turn| shard.pass(high_watermark, turn));
    }

    fn pass(&mut self, high_watermark: Offset, turn: &mut Turn<'_>) {
        while self.pending.front().is_some_and(|p| p.last_offset < high_watermark) {
            let Some(done) = self.pending.pop_front() else { return };
            self.settle(done.then, Ok(()), turn);
            self.settle(Then::Replies(done.reads), Ok(()), turn);
        }
    }

    /// What is written above the high watermark will not be committed by this leader.
    pub fn commit_lost(&mut self, error: ErrorCode, now: Now, out: &mut Vec<Effect>) {
        self.turn(now, out, |shard, turn| shard.fail_pending(Mono::NEVER, error, turn));
    }

    /// Fails what waits for the high watermark with a deadline up to `until`.
    fn fail_pending(&mut self, until: Mono, error: ErrorCode, turn: &mut Turn<'_>) {
        let mut failed = Vec::new();
        for p in self.pending.iter_mut().filter(|p| p.deadline <= until) {
            p.deadline = Mono::NEVER;
            failed.push(std::mem::replace(&mut p.then, Then::Nothing));
            failed.push(Then::Replies(std::mem::take(&mut p.reads)));
        }
        for then in failed {
            self.settle(then, Err(error), turn);
        }
    }

    /// The offset whose commit is awaited first.
    #[must_use]
    pub fn first_uncommitted(&self) -> Option<Offset> {
        self.pending.front().map(|p| p.last_offset)
    }

    pub(super) fn settle(
        &mut self,
        then: Then,
        result: Result<(), ErrorCode>,
        turn: &mut Turn<'_>,
    ) {
        let result = result.map_err(append_error);
        let name = match then {
            Then::Nothing => return,
            Then::Replies(replies) => {
                for (token, reply) in replies {
                    let reply = match result {
                        Ok(()) => reply,
                        Err(error) => reply.failed(error),
                    };
                    turn.reply(token, reply);
                }
                return;
            }
            Then::Initialize(id, reply) => {
                return self.initialization_recorded(id, reply, result, turn);
            }
            Then::Created { ref group, .. } | Then::Assigned { ref group, .. } => group.clone(),
            Then::Replaced(ref replaced) => replaced.group.clone(),
        };
        let Some(group) = self.groups.get_mut(&name) else { return };
        match (then, result) {
            (Then::Created { token, .. }, Err(error)) => group.not_created(token, error, turn),
            (Then::Assigned { generation, assignments, .. }, Ok(())) => {
                group.assigned(generation, &assignments, turn);
            }
            (Then::Assigned { generation, .. }, Err(error)) => {
                group.not_assigned(generation, error, turn);
            }
            (Then::Replaced(replaced), Ok(())) => group.static_stored(&replaced, turn),
            (Then::Replaced(replaced), Err(error)) => {
                group.static_not_stored(&replaced, error, turn);
            }
            _ => {}
        }
        self.arm(&name);
    }

    /// Takes a record that was written. Groups live on as they are; the log holds their copy.
    fn apply(&mut self, record: &Record, now: Now) {
        match record {
            Record::Offset { group, topic, partition, value } => {
                if value.is_some() {
                    self.ensure_group(group, now);
                }
                self.txns.plain(group, topic, *partition, value.is_some());
                self.offsets.replay(group, topic, *partition, value.as_ref());
            }
            Record::Group { value: Some(_), .. } => {}
            Record::Consumer(record) => self.apply_consumer(record, now),
            Record::Share(record) => self.apply_share(record),
            // Offsets never stand without a group.
            Record::Group { group, value: None } if self.has_offsets(group) => {
                self.groups.insert(group.clone(), ClassicGroup::new(group.clone(), now));
            }
            Record::Group { group, value: None } => {
                self.groups.remove(group);
            }
        }
    }

    // Time.

    /// When [`Shard::on_deadline`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        let wake = self.wakes.first().map(|(at, _)| *at);
        let late = self.pending.iter().map(|p| p.deadline).min();
        let consumers = self.consumers.timers.next();
        wake.into_iter().chain(late).chain([consumers]).fold(self.sweep_at, Mono::min)
    }

    /// Does all that is due.
    pub fn on_deadline(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.turn(now, out, |shard, turn| {
            while shard.wakes.first().is_some_and(|(at, _)| *at <= now.mono) {
                let Some((at, id)) = shard.wakes.pop_first() else { break };
                let group = shard.groups.get_mut(&id).filter(|g| g.wake_at == at);
                let Some(group) = group else { continue };
                group.on_deadline(turn);
                (group.wake_at, group.earliest) = (Mono::NEVER, group.next_deadline());
                shard.arm(&id);
            }
            shard.consumer_deadlines(turn);
            shard.fail_pending(now.mono, ErrorCode::RequestTimedOut, turn);
            if shard.sweep_at <= now.mono {
                shard.sweep(turn);
            }
        });
    }

    /// Sees to it that a group is woken for its earliest deadline.
    pub(super) fn arm(&mut self, id: &Arc<str>) {
        let Some(group) = self.groups.get_mut(id) else { return };
        if group.earliest < group.wake_at {
            self.wakes.remove(&(group.wake_at, id.clone()));
            group.wake_at = group.earliest;
            self.wakes.insert((group.wake_at, id.clone()));
        }
    }

    /// Removes offsets that have expired and groups with nothing left.
    fn sweep(&mut self, turn: &mut Turn<'_>) {
        let interval_ms = turn.settings.retention_check_interval_ms;
        self.sweep_at = turn.now.mono.after_ms(interval_ms);
        let mut records = Vec::new();
        for group in self.groups.values() {
            let from = records.len();
            let bare = self.offsets.expire(group, turn.now, turn.settings, &mut records);
            let bare = self.txns.spare(&group.id, &mut records, from) && bare;
            // An id handed out is the promise of a member.
            if bare && group.is_empty() && group.pending_joins.is_empty() {
                records.push(Record::Group { group: group.id.clone(), value: None });
            }
        }
        self.sweep_consumers(turn, &mut records);
        if !records.is_empty() {
            turn.append(records, Then::Nothing);
        }
    }

    /// The partition is led elsewhere from now on: everything that waits is told so.
    pub fn unload(mut self, now: Now, out: &mut Vec<Effect>) {
        let error = ErrorCode::NotCoordinator;
        let settings = self.settings.clone();
        let mut turn = Turn { now, settings: &settings, out, appends: Vec::new() };
        for group in self.groups.values_mut() {
            group.unload(error, &mut turn);
        }
        let written = std::mem::take(&mut self.pending);
        let asked = std::mem::take(&mut self.writing).into_values().map(|w| w.then);
        let asked: Vec<_> = asked.chain(self.txns.take_waiting()).collect();
        let waiting = written.into_iter().flat_map(|p| [p.then, Then::Replies(p.reads)]);
        for then in waiting.chain(asked) {
            if let Then::Replies(_) | Then::Initialize(..) = then {
                self.settle(then, Err(error), &mut turn);
            }
        }
        let waiters = self.take_share_waiters();
        self.settle(Then::Replies(waiters), Err(error), &mut turn);
    }
}

// The calls, one by one.
impl Shard {
    fn join(&mut self, token: Token, call: &JoinCall, turn: &mut Turn<'_>) {
        let is_new = !self.groups.contains_key(&call.group);
        if is_new && !call.member_id.is_empty() {
            let unknown = JoinReply::error(call.member_id.clone(), ErrorCode::UnknownMemberId);
            return turn.reply(token, Reply::Join(unknown));
        }
        let mut records = self.end_empty_consumer_group(&call.group);
        let make = || ClassicGroup::new(call.group.clone(), turn.now);
        let group = self.groups.entry(call.group.clone()).or_insert_with(make);
        group.join(token, call, turn);
        if is_new && turn.appends.is_empty() {
            let value = GroupMetadata {
                protocol_type: Arc::default(),
                generation: 0,
                protocol: None,
                leader: None,
                state_since_ms: group.state_since_ms.unwrap_or(-1),
                members: Vec::new(),
            };
            let record = Record::Group { group: call.group.clone(), value: Some(value) };
            records.push(record);
            turn.append(records, Then::Created { group: call.group.clone(), token });
        }
        self.arm(&call.group);
    }

    /// Lets a group that exists do `f`, or answers `unknown`.
    fn with(
        &mut self,
        id: &Arc<str>,
        token: Token,
        unknown: Reply,
        turn: &mut Turn<'_>,
        f: impl FnOnce(&mut ClassicGroup, &mut Turn<'_>),
    ) {
        match self.groups.get_mut(id) {
            Some(group) => f(group, turn),
            None => turn.reply(token, unknown),
        }
        self.arm(id);
    }

    fn leave(&mut self, token: Token, call: &LeaveCall, turn: &mut Turn<'_>) {
        let error = ErrorCode::UnknownMemberId;
        let members = call.members.iter().map(|m| (m.clone(), error)).collect();
        let unknown = Reply::Leave(LeaveReply { error: ErrorCode::None, members });
        self.with(&call.group, token, unknown, turn, |g, turn| g.leave(token, call, turn));
    }

    fn commit(&mut self, token: Token, call: &CommitCall, turn: &mut Turn<'_>) {
        let accepted = match self.groups.get_mut(&call.group) {
            Some(group) => group.accept_commit(call, turn),
            None if self.consumers.has(&call.group) => self.consumers.accept_commit(call),
            // A client without membership; its group begins with its first offset.
            None if call.generation < 0 => Ok(()),
            None if call.knows_group_id_not_found => Err(ErrorCode::GroupIdNotFound),
            None => Err(ErrorCode::IllegalGeneration),
        };
        self.arm(&call.group);
        match accepted {
            Ok(()) => {
                let (records, reply) = offsets::commit(call, turn.now, turn.settings);
                finish(records, token, Reply::Commit(reply), turn);
            }
            Err(error) => {
                turn.reply(token, Reply::Commit(CommitReply { error, topics: Vec::new() }));
            }
        }
    }

    fn fetch(&mut self, token: Token, call: &FetchCall, turn: &mut Turn<'_>) {
        if let Err(error) = consumer_groups::accept_fetch(self.committed_consumers(), call) {
            let refused = FetchReply { error, topics: Vec::new() };
            return turn.reply(token, Reply::Fetch(refused));
        }
        if !call.require_stable {
            let seen = self.pending.front().map_or(&self.offsets, |p| &p.before);
            return turn.reply(token, Reply::Fetch(seen.fetch(call)));
        }
        let reply = Reply::Fetch(self.txns.stable(call, self.offsets.fetch(call)));
        self.reply_after_writes(token, reply, turn);
    }

    /// Runs `f` and makes effects of what it wants appended.
    pub(super) fn turn(
        &mut self,
        now: Now,
        out: &mut Vec<Effect>,
        f: impl FnOnce(&mut Self, &mut Turn<'_>),
    ) {
        let settings = self.settings.clone();
        let mut turn = Turn { now, settings: &settings, out, appends: Vec::new() };
        f(self, &mut turn);
        let appends = turn.appends;
        for (records, then) in appends {
            let mut rest = in_batches(records);
            let Some(records) = rest.pop_front() else { continue };
            self.write(Write { records, rest, then }, out);
        }
    }

    fn write(&mut self, write: Write, out: &mut Vec<Effect>) {
        let ticket = self.take_ticket();
        out.push(Effect::Append { ticket, records: write.records.clone() });
        self.writing.insert(ticket, write);
    }

    pub(super) fn take_ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        self.next_ticket
    }
}

/// Appends `records` and answers when that is committed; with none, answers at once.
pub(super) fn finish(records: Vec<Record>, token: Token, reply: Reply, turn: &mut Turn<'_>) {
    match records.is_empty() {
        true => turn.reply(token, reply),
        false => turn.append(records, Then::Replies(vec![(token, reply)])),
    }
}
