//! One transactional id: what may follow on what (`TransactionMetadata.java`,
//! `TransactionCoordinator.scala`; KIP-98, 360, 890). Pure.
//!
//! A decision looks at the durable state and gives the next one; the shard has it written and takes
//! it over once it is committed. While one is under way, `pending` says so, and nothing else begins.

use std::collections::BTreeSet;

use super::{
    calls::Token,
    txn_calls::{AddCall, At, EndCall, InitCall, Producer, TxnReply},
    txn_records::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID, TopicPartition, TxnState, TxnValue},
};
use crate::base::{ErrorCode, Mono};

/// The last epoch that a producer is given: the coordinator keeps one above it, to fence with
/// (`TransactionMetadata.isEpochExhausted`).
pub(super) const EPOCH_LAST: i16 = i16::MAX - 1;
/// From this `transaction.version` on, every end of a transaction raises the epoch (KIP-890).
const EPOCH_PER_TRANSACTION: i16 = 2;

/// One transactional id.
#[derive(Debug)]
pub(super) struct Txn {
    /// As it is committed in the log.
    pub(super) value: TxnValue,
    /// What is being written.
    pub(super) pending: Option<Pending>,
    /// Since when it is busy, if it is.
    pub(super) busy_since: Mono,
    /// While the transaction ends: the partitions without marker.
    pub(super) unmarked: BTreeSet<TopicPartition>,
    /// Names this ending among all of the shard.
    pub(super) run: u64,
}

/// A state on its way to the log.
#[derive(Debug)]
pub(super) struct Pending {
    /// `None`: the id is being forgotten.
    pub(super) next: Option<TxnValue>,
    /// Who waits for it, and for what answer.
    pub(super) waiter: Option<(Token, TxnReply)>,
    /// When the waiter is told that it takes too long.
    pub(super) deadline: Mono,
}

/// What a call comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It is answered as things stand; `None` is success without a write.
    Answer(ErrorCode),
    /// This state is to be written.
    Write(TxnValue),
    /// It can be decided once there is a fresh producer id.
    NeedsProducerId,
}

use Decision::{Answer, NeedsProducerId, Write};

impl Txn {
    pub(super) const fn new(value: TxnValue) -> Self {
        let unmarked = BTreeSet::new();
        Self { value, pending: None, busy_since: Mono(0), unmarked, run: 0 }
    }

    /// A transactional id that was never seen; it has no epoch yet.
    pub(super) const fn first(producer_id: i64, timeout_ms: i32, now_ms: i64) -> Self {
        Self::new(TxnValue {
            producer_id,
            previous_producer_id: NO_PRODUCER_ID,
            next_producer_id: NO_PRODUCER_ID,
            producer_epoch: NO_PRODUCER_EPOCH,
            last_producer_epoch: NO_PRODUCER_EPOCH,
            timeout_ms,
            state: TxnState::Empty,
            partitions: BTreeSet::new(),
            last_update_ms: now_ms,
            start_ms: -1,
            client_version: 0,
        })
    }

    pub(super) const fn producer(&self) -> Producer {
        Producer { id: self.value.producer_id, epoch: self.value.producer_epoch }
    }

    /// Whether something is under way that must end before anything else begins: a write, or the
    /// markers of a decision. Whoever asks meanwhile asks again.
    pub(super) const fn is_busy(&self) -> bool {
        self.pending.is_some() || self.value.state.is_prepared()
    }

    const fn is_exhausted(&self) -> bool {
        self.value.producer_epoch >= EPOCH_LAST
    }

    /// The present state, to be changed: it takes note of the producer id that is now in use.
    fn next(&self, state: TxnState, at: At) -> TxnValue {
        let v = &self.value;
        TxnValue {
            state,
            previous_producer_id: v.producer_id,
            last_update_ms: at.now.wall_ms,
            ..v.clone()
        }
    }

    /// InitProducerId: a new epoch, or a new producer id when the epochs are exhausted. A
    /// transaction that is open is aborted first; the client asks again.
    pub(super) fn init(&self, call: &InitCall, fresh: Option<i64>, at: At) -> Decision {
        if self.is_busy() {
            return Answer(ErrorCode::ConcurrentTransactions);
        }
        if call.expected.is_some_and(|expected| !self.may_go_on(expected)) {
            return Answer(ErrorCode::ProducerFenced);
        }
        match self.value.state {
            TxnState::Ongoing => self.fence(fresh, at),
            _ => self.begin(call, fresh, at),
        }
    }

    /// Whether a producer that says what it is may be given a new epoch. One that names the id
    /// before this one with its last epoch asks again for what it was not told (KIP-360).
    const fn may_go_on(&self, expected: Producer) -> bool {
        self.value.producer_epoch == NO_PRODUCER_EPOCH
            || expected.id == self.value.producer_id
            || (expected.id == self.value.previous_producer_id && expected.epoch >= EPOCH_LAST)
    }

    fn begin(&self, call: &InitCall, fresh: Option<i64>, at: At) -> Decision {
        let v = &self.value;
        let current = call.expected.is_none_or(|e| e.epoch == v.producer_epoch);
        let first = v.producer_epoch == NO_PRODUCER_EPOCH;
        let mut next = TxnValue {
            timeout_ms: call.timeout_ms,
            partitions: BTreeSet::new(),
            start_ms: -1,
            ..self.next(TxnState::Empty, at)
        };
        let told = call.expected.is_some();
        if self.is_exhausted() && current {
            let Some(id) = fresh else { return NeedsProducerId };
            next.producer_id = id;
            next.producer_epoch = 0;
        } else if current || first {
            next.producer_epoch = v.producer_epoch.saturating_add(1);
        } else if call.expected.is_some_and(|e| e.epoch == v.last_producer_epoch) {
            // It was done; the answer was lost.
            return Write(next);
        } else {
            return Answer(ErrorCode::ProducerFenced);
        }
        next.last_producer_epoch = if told { v.producer_epoch } else { NO_PRODUCER_EPOCH };
        Write(next)
    }

    /// The abort of an open transaction that its producer did not ask for, under an epoch that
    /// nobody is given.
    pub(super) fn fence(&self, fresh: Option<i64>, at: At) -> Decision {
        if at.transaction_version >= EPOCH_PER_TRANSACTION {
            return self.prepare(TxnState::PrepareAbort, at.transaction_version, fresh, at);
        }
        let mut next = self.next(TxnState::PrepareAbort, at);
        next.producer_epoch = next.producer_epoch.saturating_add(1);
        next.last_producer_epoch = NO_PRODUCER_EPOCH;
        next.next_producer_id = NO_PRODUCER_ID;
        next.client_version = 0;
        Write(next)
    }

    /// The decision to commit or abort. With `transaction.version` 2 it takes an epoch of its own,
    /// and when that was the last one, a producer id to go on with.
    fn prepare(&self, state: TxnState, version: i16, fresh: Option<i64>, at: At) -> Decision {
        let mut next = self.next(state, at);
        next.client_version = version;
        next.next_producer_id = NO_PRODUCER_ID;
        if version >= EPOCH_PER_TRANSACTION {
            if self.is_exhausted() {
                let Some(id) = fresh else { return NeedsProducerId };
                next.next_producer_id = id;
            }
            next.last_producer_epoch = next.producer_epoch;
            next.producer_epoch = next.producer_epoch.saturating_add(1);
        }
        if self.value.state != TxnState::Ongoing {
            // Nothing was added: the transaction begins with its end.
            next.start_ms = at.now.wall_ms;
        }
        Write(next)
    }

    /// What follows when every partition has its marker.
    pub(super) fn complete(&self, at: At) -> TxnValue {
        let commit = self.value.state == TxnState::PrepareCommit;
        let state = if commit { TxnState::CompleteCommit } else { TxnState::CompleteAbort };
        let mut next = self.next(state, at);
        next.partitions = BTreeSet::new();
        next.next_producer_id = NO_PRODUCER_ID;
        let Producer { id, epoch } = Self::afterwards(&self.value);
        next.producer_id = id;
        next.producer_epoch = epoch;
        next
    }

    /// What the producer goes on as after `prepared` is complete.
    pub(super) const fn afterwards(prepared: &TxnValue) -> Producer {
        let rotates = prepared.client_version >= EPOCH_PER_TRANSACTION
            && prepared.next_producer_id != NO_PRODUCER_ID;
        match rotates {
            true => Producer { id: prepared.next_producer_id, epoch: 0 },
            false => Producer { id: prepared.producer_id, epoch: prepared.producer_epoch },
        }
    }

    /// AddPartitionsToTxn: begins a transaction or widens it.
    pub(super) fn add(&self, call: &AddCall, at: At) -> Decision {
        if self.is_busy() {
            return Answer(ErrorCode::ConcurrentTransactions);
        }
        if let Err(error) = self.accept(call.producer) {
            return Answer(error);
        }
        let ongoing = self.value.state == TxnState::Ongoing;
        if ongoing && call.partitions.is_subset(&self.value.partitions) {
            return Answer(ErrorCode::None);
        }
        let mut next = self.next(TxnState::Ongoing, at);
        next.partitions.extend(call.partitions.iter().cloned());
        next.client_version = call.client_version;
        if !ongoing {
            next.start_ms = at.now.wall_ms;
        }
        Write(next)
    }

    /// Whether each partition is in the transaction (KIP-890). What is being written does not count,
    /// nor does it matter: the leader looks again when it appends.
    pub(super) fn verify(&self, call: &AddCall) -> Result<Vec<(TopicPartition, bool)>, ErrorCode> {
        self.accept(call.producer)?;
        let known = &self.value.partitions;
        Ok(call.partitions.iter().map(|p| (p.clone(), known.contains(p))).collect())
    }

    fn accept(&self, producer: Producer) -> Result<(), ErrorCode> {
        if producer.id != self.value.producer_id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if producer.epoch != self.value.producer_epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        match self.value.state.is_prepared() {
            true => Err(ErrorCode::ConcurrentTransactions),
            false => Ok(()),
        }
    }

    /// EndTxn.
    pub(super) fn end(&self, call: &EndCall, fresh: Option<i64>, at: At) -> Decision {
        match call.client_version >= EPOCH_PER_TRANSACTION {
            true => self.end_with_new_epoch(call, fresh, at),
            false => self.end_in_same_epoch(call, at),
        }
    }

    fn end_in_same_epoch(&self, call: &EndCall, at: At) -> Decision {
        let v = &self.value;
        if call.producer.id != v.producer_id {
            return Answer(ErrorCode::InvalidProducerIdMapping);
        }
        if call.producer.epoch != v.producer_epoch {
            return Answer(ErrorCode::ProducerFenced);
        }
        if self.is_busy() {
            return Answer(ErrorCode::ConcurrentTransactions);
        }
        match v.state {
            TxnState::Ongoing => self.prepare(prepared(call.commit), 0, None, at),
            TxnState::CompleteCommit if call.commit => Answer(ErrorCode::None),
            TxnState::CompleteAbort if !call.commit => Answer(ErrorCode::None),
            _ => Answer(ErrorCode::InvalidTxnState),
        }
    }

    /// As of KIP-890: the same epoch names the next transaction, so that a repeated request is known
    /// by the epoch before the present one. An abort of nothing is legal.
    fn end_with_new_epoch(&self, call: &EndCall, fresh: Option<i64>, at: At) -> Decision {
        let v = &self.value;
        if self.is_busy() {
            return Answer(ErrorCode::ConcurrentTransactions);
        }
        let Producer { id, epoch } = call.producer;
        let rotated = id == v.previous_producer_id && epoch == EPOCH_LAST && v.producer_epoch == 0;
        if id != v.producer_id && !rotated {
            return Answer(ErrorCode::InvalidProducerIdMapping);
        }
        let bumped = epoch.checked_add(1) == Some(v.producer_epoch);
        let current = epoch == v.producer_epoch;
        let at_rest = matches!(v.state, TxnState::CompleteCommit | TxnState::CompleteAbort);
        let again = bumped || rotated;
        if !(current || (at_rest && again)) {
            return Answer(ErrorCode::ProducerFenced);
        }
        match v.state {
            TxnState::Ongoing => {
                self.prepare(prepared(call.commit), call.client_version, fresh, at)
            }
            TxnState::CompleteCommit if again && call.commit => Answer(ErrorCode::None),
            TxnState::CompleteAbort if again && !call.commit => Answer(ErrorCode::None),
            _ if again || call.commit => Answer(ErrorCode::InvalidTxnState),
            _ => self.prepare(TxnState::PrepareAbort, call.client_version, fresh, at),
        }
    }

    /// Whether the transaction has been open for too long. One that an outside coordinator keeps
    /// prepared has no limit (KIP-939: the longest timeout there is).
    pub(super) fn is_overdue(&self, now_ms: i64) -> bool {
        let v = &self.value;
        v.state == TxnState::Ongoing
            && self.pending.is_none()
            && v.timeout_ms != i32::MAX
            && v.start_ms.saturating_add(i64::from(v.timeout_ms)) < now_ms
    }

    /// Whether nobody has used the id for `idle_ms`.
    pub(super) const fn is_expired(&self, now_ms: i64, idle_ms: i64) -> bool {
        let v = &self.value;
        let at_rest =
            matches!(v.state, TxnState::Empty | TxnState::CompleteCommit | TxnState::CompleteAbort);
        at_rest && self.pending.is_none() && v.last_update_ms <= now_ms.saturating_sub(idle_ms)
    }
}

const fn prepared(commit: bool) -> TxnState {
    if commit { TxnState::PrepareCommit } else { TxnState::PrepareAbort }
}
