//! One shard of transactions: the transactional ids of one partition of `__transaction_state`.
//! Pure.
//!
//! What a call decides is appended; once the high watermark passes it, it is taken into the state,
//! told to the caller, and, if it ends a transaction, carried to the partitions as markers. Until
//! then the id is busy. An append that the log refuses changes nothing. An append whose high
//! watermark does not come in time is answered with an error, and the id stays busy: what is in the
//! log may yet be committed. A shard is loaded only up to a committed end of the log, so that no
//! marker is written for a decision that could be lost.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    calls::{Ticket, Token},
    ports::Appended,
    turn::append_error,
    txn::{Decision, Pending, Txn},
    txn_calls::{
        AddCall, At, DescribedTxn, EndCall, InitCall, ListedTxn, Markers, TxnCall, TxnEffect,
        TxnReply,
    },
    txn_parked::Parked,
    txn_records::{NO_PRODUCER_EPOCH, TopicPartition, TxnRecord, TxnState, TxnValue},
    txn_settings::TxnSettings,
};
use crate::base::{ErrorCode, Mono, Mutant, Offset, mutant};

/// Pause before the end of a transaction is written again, in milliseconds.
const RETRY_MS: i64 = 100;
/// Bytes of records that one append may hold, about.
const APPEND_BYTES: usize = 512 * 1024;

type Id = Arc<str>;

/// One shard.
#[derive(Debug)]
pub struct TxnShard {
    settings: Arc<TxnSettings>,
    txns: BTreeMap<Id, Txn>,
    /// Asked of the driver, without a result yet.
    writing: BTreeMap<Ticket, Vec<Id>>,
    next_ticket: Ticket,
    next_run: u64,
    /// Written, above the high watermark; ascending by the offset of the last record.
    written: VecDeque<(Offset, Vec<Id>)>,
    /// Callers to be told that it takes too long, by when.
    late: BTreeSet<(Mono, Id)>,
    /// Ends of transactions that the log refused, by when to try again.
    again: BTreeSet<(Mono, Id)>,
    /// A fresh producer id that is not used yet.
    fresh: Option<i64>,
    /// Whether one is asked for.
    wants_fresh: bool,
    /// Calls that cannot be decided without one.
    waiting: VecDeque<(Token, TxnCall)>,
    /// Calls for ids that are busy.
    parked: Parked,
    /// Transactions that are open for too long and cannot be aborted without one.
    overdue: bool,
    abort_at: Mono,
    expire_at: Mono,
}

impl TxnShard {
    /// A shard without transactional ids, to be filled by [`TxnShard::replay`]. It counts the endings
    /// of transactions from `first_run` on: no two shards of a broker may share a number, so that
    /// markers of a shard that was unloaded are not taken for this one's.
    #[must_use]
    pub fn new(settings: Arc<TxnSettings>, first_run: u64) -> Self {
        Self {
            settings,
            txns: BTreeMap::new(),
            writing: BTreeMap::new(),
            next_ticket: 0,
            next_run: first_run,
            written: VecDeque::new(),
            late: BTreeSet::new(),
            again: BTreeSet::new(),
            fresh: None,
            wants_fresh: false,
            waiting: VecDeque::new(),
            parked: Parked::default(),
            overdue: false,
            abort_at: Mono::NEVER,
            expire_at: Mono::NEVER,
        }
    }

    // Loading.

    /// Takes a record of the log, in the log's order.
    pub fn replay(&mut self, record: TxnRecord) {
        match record.value {
            Some(value) => _ = self.txns.insert(record.id, Txn::new(value)),
            None => _ = self.txns.remove(&record.id),
        }
    }

    /// All records are replayed, and all of them are committed: calls may come, and what was
    /// decided before is brought to its end.
    pub fn loaded(&mut self, at: At, out: &mut Vec<TxnEffect>) {
        self.abort_at = at.now.mono.after_ms(self.settings.abort_interval_ms);
        self.expire_at = at.now.mono.after_ms(self.settings.expire_interval_ms);
        let prepared = self.txns.iter().filter(|(_, t)| t.value.state.is_prepared());
        let prepared: Vec<Id> = prepared.map(|(id, _)| id.clone()).collect();
        for id in prepared {
            if let Some(txn) = self.txns.get_mut(&id) {
                txn.busy_since = at.now.mono;
            }
            self.carry_out(&id, at, out);
        }
    }

    // Calls.

    /// Takes a call. Its reply is an effect of this or of a later step, and names `token`.
    pub fn handle(&mut self, token: Token, call: TxnCall, at: At, out: &mut Vec<TxnEffect>) {
        let decision = match &call {
            TxnCall::Init(init) => self.init(init, at),
            TxnCall::Add(add) => self.with(&add.id, |txn| txn.add(add, at)),
            TxnCall::Verify(verify) => {
                let reply = TxnReply::Verified(self.verify(verify));
                return out.push(TxnEffect::Reply { token, reply });
            }
            TxnCall::End(end) => self.with(&end.id, |txn| txn.end(end, self.fresh, at)),
        };
        match decision {
            Decision::NeedsProducerId => {
                self.waiting.push_back((token, call));
                self.want_producer_id(out);
            }
            Decision::Answer(ErrorCode::ConcurrentTransactions)
                if matches!(call, TxnCall::Add(_)) =>
            {
                let since = self.txns.get(call.id()).map_or(Mono(0), |txn| txn.busy_since);
                if let Some((token, call)) = self.parked.park((token, call), since, at.now.mono) {
                    refuse(token, &call, ErrorCode::ConcurrentTransactions, out);
                }
            }
            Decision::Answer(error) => {
                let reply = self.answer(&call, error);
                out.push(TxnEffect::Reply { token, reply });
            }
            Decision::Write(next) => {
                self.use_up(&next);
                let reply = match &call {
                    TxnCall::Init(_) if next.state == TxnState::PrepareAbort => {
                        // The open transaction is being aborted; then the client asks again.
                        TxnReply::Producer(Err(ErrorCode::ConcurrentTransactions))
                    }
                    TxnCall::Init(_) | TxnCall::End(_) => {
                        TxnReply::Producer(Ok(Txn::afterwards(&next)))
                    }
                    TxnCall::Add(_) | TxnCall::Verify(_) => TxnReply::Added(ErrorCode::None),
                };
                self.write(call.id().clone(), next, Some((token, reply)), at, out);
            }
        }
    }

    fn with(&self, id: &Id, decide: impl FnOnce(&Txn) -> Decision) -> Decision {
        let unknown = Decision::Answer(ErrorCode::InvalidProducerIdMapping);
        self.txns.get(id).map_or(unknown, decide)
    }

    fn init(&mut self, call: &InitCall, at: At) -> Decision {
        if !self.txns.contains_key(&call.id) {
            let Some(id) = self.fresh.take() else { return Decision::NeedsProducerId };
            let txn = Txn::first(id, call.timeout_ms, at.now.wall_ms);
            self.txns.insert(call.id.clone(), txn);
        }
        self.with(&call.id, |txn| txn.init(call, self.fresh, at))
    }

    fn verify(&self, call: &AddCall) -> Result<Vec<(TopicPartition, bool)>, ErrorCode> {
        let txn = self.txns.get(&call.id).ok_or(ErrorCode::InvalidProducerIdMapping)?;
        txn.verify(call)
    }

    /// The reply to a call that changes nothing. A repeated EndTxn is told what the first one was.
    fn answer(&self, call: &TxnCall, error: ErrorCode) -> TxnReply {
        match call {
            TxnCall::End(EndCall { id, .. }) if error == ErrorCode::None => {
                let producer = self.txns.get(id).map(Txn::producer);
                TxnReply::Producer(producer.ok_or(ErrorCode::InvalidProducerIdMapping))
            }
            _ => call.refused(error),
        }
    }

    // Producer ids.

    fn want_producer_id(&mut self, out: &mut Vec<TxnEffect>) {
        if !std::mem::replace(&mut self.wants_fresh, true) {
            out.push(TxnEffect::WantProducerId);
        }
    }

    /// The driver's answer to [`TxnEffect::WantProducerId`].
    pub fn producer_id(&mut self, got: Result<i64, ErrorCode>, at: At, out: &mut Vec<TxnEffect>) {
        self.wants_fresh = false;
        let waiting = std::mem::take(&mut self.waiting);
        let overdue = std::mem::take(&mut self.overdue);
        match got {
            Ok(id) => {
                self.fresh = Some(id);
                if overdue {
                    self.abort_overdue(at, out);
                }
                for (token, call) in waiting {
                    self.handle(token, call, at, out);
                }
            }
            // The overdue are looked for again by the clock.
            Err(error) => {
                for (token, call) in waiting {
                    refuse(token, &call, error, out);
                }
            }
        }
    }

    /// Takes note that a decision rests on the fresh producer id.
    fn use_up(&mut self, next: &TxnValue) {
        if self.fresh.is_some_and(|id| id == next.producer_id || id == next.next_producer_id) {
            self.fresh = None;
        }
    }

    // Appends.

    fn write(
        &mut self,
        id: Id,
        next: TxnValue,
        waiter: Option<(Token, TxnReply)>,
        at: At,
        out: &mut Vec<TxnEffect>,
    ) {
        let Some(txn) = self.txns.get_mut(&id) else { return };
        let deadline = match waiter.is_some() {
            // Kafka waits as long as a transaction may take.
            true => at.now.mono.after_ms(i64::from(next.timeout_ms)),
            false => Mono::NEVER,
        };
        if deadline != Mono::NEVER {
            self.late.insert((deadline, id.clone()));
        }
        if !txn.is_busy() {
            txn.busy_since = at.now.mono;
        }
        txn.pending = Some(Pending { next: Some(next.clone()), waiter, deadline });
        self.append(vec![TxnRecord { id, value: Some(next) }], out);
    }

    fn append(&mut self, records: Vec<TxnRecord>, out: &mut Vec<TxnEffect>) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.writing.insert(ticket, records.iter().map(|r| r.id.clone()).collect());
        out.push(TxnEffect::Append { ticket, records });
    }

    /// The driver's answer to [`TxnEffect::Append`].
    pub fn appended(
        &mut self,
        ticket: Ticket,
        result: Result<Appended, ErrorCode>,
        at: At,
        out: &mut Vec<TxnEffect>,
    ) {
        let Some(ids) = self.writing.remove(&ticket) else { return };
        match result {
            Ok(appended) => {
                self.written.push_back((appended.last_offset, ids));
                let committed = match mutant(Mutant::CoordinatorAnswersEarly) {
                    true => appended.last_offset + 1,
                    false => appended.high_watermark,
                };
                self.committed(committed, at, out);
            }
            Err(error) => {
                for id in ids {
                    self.not_written(&id, append_error(error), at, out);
                }
            }
        }
    }

    /// The log refused the next state of `id`: it stays as it is.
    fn not_written(&mut self, id: &Id, error: ErrorCode, at: At, out: &mut Vec<TxnEffect>) {
        let Some(txn) = self.txns.get_mut(id) else { return };
        let Some(pending) = txn.pending.take() else { return };
        self.late.remove(&(pending.deadline, id.clone()));
        if txn.value.state.is_prepared() {
            // All markers are written; that the transaction is complete must be written too.
            self.again.insert((at.now.mono.after_ms(RETRY_MS), id.clone()));
        }
        if txn.value.producer_epoch == NO_PRODUCER_EPOCH {
            self.txns.remove(id);
        }
        if let Some((token, reply)) = pending.waiter {
            out.push(TxnEffect::Reply { token, reply: reply.failed(error) });
        }
        self.go_on(id, at, out);
    }

    /// Takes the calls that waited for `id`, if nothing of it is under way any more.
    fn go_on(&mut self, id: &Id, at: At, out: &mut Vec<TxnEffect>) {
        if self.txns.get(id).is_some_and(Txn::is_busy) {
            return;
        }
        for (token, call) in self.parked.take(id) {
            self.handle(token, call, at, out);
        }
    }

    /// The high watermark rose to `high_watermark`.
    pub fn committed(&mut self, high_watermark: Offset, at: At, out: &mut Vec<TxnEffect>) {
        while self.written.front().is_some_and(|(last, _)| *last < high_watermark) {
            let Some((_, ids)) = self.written.pop_front() else { return };
            for id in ids {
                self.apply(&id, at, out);
            }
        }
    }

    /// The next state of `id` is committed.
    fn apply(&mut self, id: &Id, at: At, out: &mut Vec<TxnEffect>) {
        let Some(txn) = self.txns.get_mut(id) else { return };
        let Some(pending) = txn.pending.take() else { return };
        self.late.remove(&(pending.deadline, id.clone()));
        let prepared = match pending.next {
            Some(next) => {
                txn.value = next;
                txn.value.state.is_prepared()
            }
            None => {
                self.txns.remove(id);
                false
            }
        };
        if let Some((token, reply)) = pending.waiter {
            out.push(TxnEffect::Reply { token, reply });
        }
        if prepared {
            self.carry_out(id, at, out);
        }
        self.go_on(id, at, out);
    }

    /// What is written above the high watermark will not be committed by this leader: whoever waits
    /// is told. The state is unloaded soon.
    pub fn commit_lost(&mut self, error: ErrorCode, out: &mut Vec<TxnEffect>) {
        self.tell_late(Mono::NEVER, error, out);
    }

    fn tell_late(&mut self, until: Mono, error: ErrorCode, out: &mut Vec<TxnEffect>) {
        while self.late.first().is_some_and(|(at, _)| *at <= until) {
            let Some((_, id)) = self.late.pop_first() else { return };
            let pending = self.txns.get_mut(&id).and_then(|t| t.pending.as_mut());
            let Some(pending) = pending else { continue };
            pending.deadline = Mono::NEVER;
            if let Some((token, reply)) = pending.waiter.take() {
                out.push(TxnEffect::Reply { token, reply: reply.failed(append_error(error)) });
            }
        }
    }

    /// The offset whose commit is awaited first.
    #[must_use]
    pub fn first_uncommitted(&self) -> Option<Offset> {
        self.written.front().map(|(last, _)| *last)
    }

    // Markers.

    /// Begins to carry the decision about `id` to its partitions.
    fn carry_out(&mut self, id: &Id, at: At, out: &mut Vec<TxnEffect>) {
        let run = self.next_run;
        self.next_run += 1;
        let Some(txn) = self.txns.get_mut(id) else { return };
        txn.run = run;
        txn.unmarked.clone_from(&txn.value.partitions);
        if txn.unmarked.is_empty() {
            return self.complete(id, at, out);
        }
        out.push(TxnEffect::Mark(Markers {
            id: id.clone(),
            run,
            producer: txn.producer(),
            commit: txn.value.state == TxnState::PrepareCommit,
            transaction_version: txn.value.client_version,
            partitions: txn.unmarked.clone(),
        }));
    }

    /// Whether the markers of that ending are still to be written.
    #[must_use]
    pub fn wants_markers(&self, id: &str, run: u64) -> bool {
        self.txns.get(id).is_some_and(|t| t.run == run && !t.unmarked.is_empty())
    }

    /// These partitions of an ending have their marker, or need none any more.
    pub fn marked(
        &mut self,
        id: &Id,
        run: u64,
        partitions: &[TopicPartition],
        at: At,
        out: &mut Vec<TxnEffect>,
    ) {
        if !self.wants_markers(id, run) {
            return;
        }
        let Some(txn) = self.txns.get_mut(id) else { return };
        for partition in partitions {
            txn.unmarked.remove(partition);
        }
        if txn.unmarked.is_empty() {
            self.complete(id, at, out);
        }
    }

    /// Every partition has its marker: that is written down.
    fn complete(&mut self, id: &Id, at: At, out: &mut Vec<TxnEffect>) {
        let Some(txn) = self.txns.get(id) else { return };
        if txn.pending.is_some() || !txn.value.state.is_prepared() {
            return;
        }
        let next = txn.complete(at);
        self.write(id.clone(), next, None, at, out);
    }

    // Time.

    /// When [`TxnShard::on_deadline`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        let first = |set: &BTreeSet<(Mono, Id)>| set.first().map_or(Mono::NEVER, |(at, _)| *at);
        let timers = self.abort_at.min(self.expire_at);
        timers.min(first(&self.late)).min(first(&self.again)).min(self.parked.next_deadline())
    }

    /// Does all that is due.
    pub fn on_deadline(&mut self, at: At, out: &mut Vec<TxnEffect>) {
        let now = at.now.mono;
        self.tell_late(now, ErrorCode::RequestTimedOut, out);
        for (token, call) in self.parked.overdue(now) {
            refuse(token, &call, ErrorCode::ConcurrentTransactions, out);
        }
        while self.again.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, id)) = self.again.pop_first() else { break };
            self.complete(&id, at, out);
        }
        if self.abort_at <= now {
            self.abort_at = now.after_ms(self.settings.abort_interval_ms);
            self.abort_overdue(at, out);
        }
        if self.expire_at <= now {
            self.expire_at = now.after_ms(self.settings.expire_interval_ms);
            self.expire(at, out);
        }
    }

    /// Aborts what has been open for too long, and fences its producer.
    fn abort_overdue(&mut self, at: At, out: &mut Vec<TxnEffect>) {
        let overdue = self.txns.iter().filter(|(_, t)| t.is_overdue(at.now.wall_ms));
        let overdue: Vec<Id> = overdue.map(|(id, _)| id.clone()).collect();
        for id in overdue {
            match self.with(&id, |txn| txn.fence(self.fresh, at)) {
                Decision::Write(next) => {
                    self.use_up(&next);
                    self.write(id, next, None, at, out);
                }
                Decision::NeedsProducerId => {
                    self.overdue = true;
                    self.want_producer_id(out);
                }
                Decision::Answer(_) => {}
            }
        }
    }

    /// Forgets ids that nobody has used for long.
    fn expire(&mut self, at: At, out: &mut Vec<TxnEffect>) {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut batches = Vec::new();
        for (id, txn) in &mut self.txns {
            if !txn.is_expired(at.now.wall_ms, self.settings.id_expiration_ms) {
                continue;
            }
            txn.pending = Some(Pending { next: None, waiter: None, deadline: Mono::NEVER });
            let record = TxnRecord { id: id.clone(), value: None };
            bytes += record.len_about();
            records.push(record);
            if bytes >= APPEND_BYTES {
                batches.push(std::mem::take(&mut records));
                bytes = 0;
            }
        }
        batches.push(records);
        for records in batches.into_iter().filter(|r| !r.is_empty()) {
            self.append(records, out);
        }
    }

    // Looks.

    /// The transactional ids that `keep` lets through, by id.
    pub fn list(&self, keep: impl Fn(&ListedTxn) -> bool) -> Vec<ListedTxn> {
        let listed = self.txns.iter().filter(|(_, t)| !t.is_leaving()).map(|(id, t)| ListedTxn {
            id: id.clone(),
            producer_id: t.value.producer_id,
            state: t.value.state.name(),
            start_ms: t.value.start_ms,
        });
        listed.filter(|t| keep(t)).collect()
    }

    /// One transactional id in full; `None` if it is not known.
    #[must_use]
    pub fn describe(&self, id: &str) -> Option<DescribedTxn> {
        let txn = self.txns.get(id).filter(|t| !t.is_leaving())?;
        let v = &txn.value;
        Some(DescribedTxn {
            state: v.state.name(),
            timeout_ms: v.timeout_ms,
            start_ms: v.start_ms,
            producer: txn.producer(),
            partitions: match v.state.is_prepared() {
                true => txn.unmarked.clone(),
                false => v.partitions.clone(),
            },
        })
    }

    /// Transactional ids, and those of them with a transaction that is not over.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let open = |t: &&Txn| t.value.state == TxnState::Ongoing || t.value.state.is_prepared();
        (self.txns.len(), self.txns.values().filter(open).count())
    }

    /// Ends the shard: whoever waits gets `NotCoordinator`.
    pub fn unload(self, out: &mut Vec<TxnEffect>) {
        let error = ErrorCode::NotCoordinator;
        let pending = self.txns.into_values().filter_map(|t| t.pending?.waiter);
        out.extend(
            pending.map(|(token, reply)| TxnEffect::Reply { token, reply: reply.failed(error) }),
        );
        for (token, call) in self.waiting.into_iter().chain(self.parked.into_all()) {
            refuse(token, &call, error, out);
        }
    }
}

fn refuse(token: Token, call: &TxnCall, error: ErrorCode, out: &mut Vec<TxnEffect>) {
    out.push(TxnEffect::Reply { token, reply: call.refused(error) });
}

impl Txn {
    /// Whether it is being forgotten.
    fn is_leaving(&self) -> bool {
        self.pending.as_ref().is_some_and(|p| p.next.is_none())
    }
}
