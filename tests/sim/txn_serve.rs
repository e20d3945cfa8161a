//! What a simulated broker does for transactional producers and for readers of committed data: a
//! batch that begins a transaction in a partition waits for the word of the transaction's
//! coordinator (KIP-890), and so do offsets.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use vltava::{
    base::{ErrorCode, Offset, PartitionId},
    coordinator::{
        calls::{Call, TxnCommitCall},
        machine::Machine as _,
        partition_for,
        shard::Shard,
        share_calls::{ShareAsk, ShareCall},
        share_persister::ShareKey,
        share_shard::ShareShard,
        txn_calls::{AddCall, Producer, TxnCall, TxnReply},
        txn_records::TopicPartition,
        txn_shard::TxnShard,
    },
    node::offsets_log::{OFFSETS_TOPIC, SHARE_STATE_TOPIC, TRANSACTIONS_TOPIC},
    replica::{
        partition::Isolation,
        table::{Acks, Slot},
        txn::VerificationGuard,
    },
};

use crate::{
    machine::{Answer, Waiter},
    net::{Key, Message, Place},
    plan::SECOND,
    serve::Parked,
    world::World,
};

/// Whoever asks has given up after this long.
const PATIENCE_US: u64 = 4 * SECOND;

/// A call to a coordinator.
#[derive(Debug, Clone)]
pub enum Wanted {
    Txn(TxnCall),
    Group(Arc<str>, Call),
    /// To a share coordinator.
    Share(ShareKey, ShareAsk),
    /// Offsets in a transaction.
    Offsets(Writer, TxnCommitCall),
}

/// Who writes into a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    pub id: Arc<str>,
    pub producer: Producer,
    /// Whether the broker adds partitions to the transaction, and every transaction has its epoch.
    pub adds: bool,
}

/// What goes into a transaction.
#[derive(Debug, Clone)]
enum What {
    Batch(Key, Bytes),
    Offsets(PartitionId, TxnCommitCall),
}

/// What waits for a coordinator's word.
pub struct Verifying {
    waiter: Waiter,
    writer: Writer,
    what: What,
    guard: VerificationGuard,
    until: u64,
}

/// What a reader of committed data is given.
#[derive(Debug, Clone)]
pub struct Stable {
    pub bytes: Bytes,
    /// Producer ids and first offsets.
    pub aborted: Vec<(i64, Offset)>,
}

/// What producers are told (`server/api/produce_txn`).
fn told(code: ErrorCode, adds: bool) -> ErrorCode {
    match code {
        ErrorCode::ConcurrentTransactions if adds => code,
        ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator
        | ErrorCode::ConcurrentTransactions => ErrorCode::NotEnoughReplicas,
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        code => code,
    }
}

impl World {
    fn count_of(&self, b: usize, topic: &str) -> Option<i32> {
        let image = self.brokers[b].life.as_ref()?.loader.image();
        image.topics().by_name(topic).map(|t| t.partition_count())
    }

    /// A call to a coordinator that may be here.
    pub fn serve_call(&mut self, b: usize, to: Place, req: u64, wanted: Wanted) {
        if self.life(b).is_none_or(|l| !l.running) {
            return;
        }
        let waiter = Waiter { to, req };
        match wanted {
            Wanted::Txn(call) => {
                let count = self.count_of(b, TRANSACTIONS_TOPIC).unwrap_or(1);
                let partition = partition_for(call.id(), count);
                self.submit::<TxnShard>(b, partition, waiter, |shard, token, at, out| {
                    shard.handle(token, call, at, out);
                });
            }
            Wanted::Group(group, call) => {
                let count = self.count_of(b, OFFSETS_TOPIC).unwrap_or(1);
                let partition = partition_for(&group, count);
                self.submit::<Shard>(b, partition, waiter, |shard, token, at, out| {
                    shard.handle(token, call, at.now, out);
                });
            }
            Wanted::Share(key, ask) => self.serve_share_state(b, waiter, key, ask),
            Wanted::Offsets(writer, call) => {
                let count = self.count_of(b, OFFSETS_TOPIC).unwrap_or(1);
                let partition = partition_for(&call.commit.group, count);
                self.begin_in_txn(b, waiter, writer, What::Offsets(partition, call), -1);
            }
        }
    }

    fn serve_share_state(&mut self, b: usize, waiter: Waiter, key: ShareKey, ask: ShareAsk) {
        let Some(life) = self.life(b) else { return };
        let topics = life.loader.image().topics();
        let exists = topics.partition(key.topic, key.partition).is_some();
        let partition = key.state_partition(self.count_of(b, SHARE_STATE_TOPIC).unwrap_or(1));
        let call = ShareCall::Key { key, exists, ask };
        self.submit::<ShareShard>(b, partition, waiter, |shard, token, at, out| {
            shard.handle(token, call, at.now, out);
        });
    }

    /// A transactional batch.
    pub fn serve_txn_produce(
        &mut self,
        b: usize,
        to: Place,
        req: u64,
        (key, sequence): (Key, i32),
        writer: Writer,
        records: Bytes,
    ) {
        if self.life(b).is_some_and(|l| l.running) {
            let what = What::Batch(key, records);
            self.begin_in_txn(b, Waiter { to, req }, writer, what, sequence);
        }
    }

    fn slot_of(&self, b: usize, what: &What) -> Result<Arc<Slot>, ErrorCode> {
        let table = &self.brokers[b].life.as_ref().ok_or(ErrorCode::NetworkException)?.table;
        let slot = match what {
            What::Batch(key, _) => table.by_id(key.0, key.1),
            What::Offsets(partition, _) => table.by_name(OFFSETS_TOPIC, *partition),
        };
        slot.ok_or(ErrorCode::NotLeaderOrFollower)
    }

    fn begin_in_txn(
        &mut self,
        b: usize,
        waiter: Waiter,
        writer: Writer,
        what: What,
        sequence: i32,
    ) {
        let now_us = self.now;
        let Some(at) = self.at_of(b) else { return };
        let begun = self.slot_of(b, &what).and_then(|slot| {
            let producer = (writer.producer.id, writer.producer.epoch);
            let begun = slot.lock().begin_verification(producer, sequence, writer.adds, at.now);
            begun.map(|guard| (slot, guard)).map_err(|refusal| refusal.code)
        });
        let (slot, guard) = match begun {
            Ok((slot, Some(guard))) => (slot, guard),
            Ok((_, None)) => return self.append_in_txn(b, waiter, &writer, what, None),
            Err(code) => return self.refuse_in_txn(b, waiter, &writer, &what, code),
        };
        let partitions: BTreeSet<TopicPartition> =
            BTreeSet::from([(Arc::clone(&slot.topic), slot.partition)]);
        // As whoever asks for a client of either kind.
        let ask = AddCall {
            id: writer.id.clone(),
            producer: writer.producer,
            partitions,
            client_version: 2,
        };
        let count = self.count_of(b, TRANSACTIONS_TOPIC).unwrap_or(1);
        let partition = partition_for(&writer.id, count);
        let Some(leader) = self.leader_as_known_by(b, TRANSACTIONS_TOPIC, partition) else {
            let code = ErrorCode::CoordinatorNotAvailable;
            return self.refuse_in_txn(b, waiter, &writer, &what, code);
        };
        let call = if writer.adds { TxnCall::Add(ask) } else { TxnCall::Verify(ask) };
        let req = self.request();
        let Some(life) = self.life(b) else { return };
        let verifying = &mut life.coordination.verifying;
        verifying.retain(|_, v| v.until > now_us);
        verifying
            .insert(req, Verifying { waiter, writer, what, guard, until: now_us + PATIENCE_US });
        let message = Message::Call { req, connection: 0, wanted: Wanted::Txn(call) };
        self.send(Place::Broker(b), Place::Broker(leader), message);
    }

    /// A coordinator's word, or a leader's about a marker.
    pub fn broker_is_answered(&mut self, b: usize, req: u64, answer: Answer) {
        if self.mark_answered(b, req, &answer) || self.share_answered(b, req, &answer) {
            return;
        }
        let Some(life) = self.life(b) else { return };
        let Some(v) = life.coordination.verifying.remove(&req) else { return };
        let code = match &answer {
            Answer::Txn(TxnReply::Verified(Ok(found))) if found.iter().any(|(_, has)| !has) => {
                ErrorCode::InvalidTxnState
            }
            answer => answer.error(),
        };
        match code {
            ErrorCode::None => self.append_in_txn(b, v.waiter, &v.writer, v.what, Some(v.guard)),
            code => self.refuse_in_txn(b, v.waiter, &v.writer, &v.what, code),
        }
    }

    fn refuse_in_txn(
        &mut self,
        b: usize,
        w: Waiter,
        writer: &Writer,
        what: &What,
        code: ErrorCode,
    ) {
        let message = match what {
            What::Batch(..) => {
                Message::Produced { req: w.req, result: Err(told(code, writer.adds)) }
            }
            What::Offsets(..) => {
                let code = match code {
                    ErrorCode::NetworkException => ErrorCode::CoordinatorLoadInProgress,
                    ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
                    code => code,
                };
                Message::Called { req: w.req, answer: Answer::Refused(code) }
            }
        };
        self.send(Place::Broker(b), w.to, message);
    }

    fn append_in_txn(
        &mut self,
        b: usize,
        w: Waiter,
        writer: &Writer,
        what: What,
        guard: Option<VerificationGuard>,
    ) {
        match what {
            What::Offsets(partition, mut call) => {
                call.guard = guard;
                self.submit::<Shard>(b, partition, w, |shard, token, at, out| {
                    shard.handle(token, Call::TxnCommit(call), at.now, out);
                });
            }
            What::Batch(key, ref records) => {
                let slot = self.slot_of(b, &what);
                let (Some(at), version) = (self.at_of(b), if writer.adds { 12 } else { 11 }) else {
                    return;
                };
                let now_us = self.now;
                let Some(life) = self.life(b) else { return };
                let done = slot.and_then(|slot| {
                    let table = &life.table;
                    let done =
                        table.produce_in_txn(&slot, records, guard, Acks::All, version, at.now);
                    done.map_err(|refusal| refusal.code)
                });
                match done {
                    Ok((receipt, Some(wait))) => {
                        let base = receipt.base_offset;
                        let parked = Parked::new((w.to, w.req), key, base, records, wait, now_us);
                        life.parked.push(parked);
                    }
                    Ok((receipt, None)) => {
                        let base = receipt.base_offset;
                        self.acknowledge(b, w.to, w.req, key, base, records, true);
                    }
                    Err(code) => self.refuse_in_txn(b, w, writer, &what, code),
                }
            }
        }
    }

    /// A reader of committed data reads from the leader.
    pub fn serve_stable(&mut self, b: usize, to: Place, req: u64, key: Key, from: Offset) {
        let Some(life) = self.life(b).filter(|l| l.running) else { return };
        let now = life.table.clock.now();
        let slot = life.table.by_id(key.0, key.1).ok_or(ErrorCode::NotLeaderOrFollower);
        let result = slot.and_then(|slot| {
            let mut partition = slot.lock();
            partition.check_leader(-1)?;
            let found = partition.read(from, 4096, true, Isolation::ReadCommitted, now);
            let found = found.map_err(|r| r.code)?;
            let mut bytes = Vec::new();
            for slice in &found.slices {
                let begin = bytes.len();
                bytes.resize(begin + slice.len, 0);
                let read = slice.file.read_exact_at(&mut bytes[begin..], slice.pos);
                read.map_err(|_| ErrorCode::KafkaStorageError)?;
            }
            let aborted = found.aborted.unwrap_or_default();
            let aborted = aborted.iter().map(|a| (a.producer_id, a.first_offset)).collect();
            Ok(Stable { bytes: bytes.into(), aborted })
        });
        self.observe(b);
        self.send(Place::Broker(b), to, Message::StableBack { req, result });
    }
}
