//! Transactional clients: producers that write to several partitions and commit an offset in one
//! transaction, some of which share an id and fence each other, and readers of committed data.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use vltava::{
    base::{ErrorCode, Offset},
    coordinator::{
        calls::TxnCommitCall,
        calls::{Call, CommitCall, CommitPartition, CommitTopic, FetchCall, FetchTopic, Reply},
        partition_for,
        txn_calls::{AddCall, EndCall, InitCall, Producer, TxnCall, TxnReply},
        txn_records::TopicPartition,
    },
    node::offsets_log::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC},
};

use crate::{
    clients::{Client, TOPIC},
    machine::Answer,
    net::{Key, Message, Place},
    oracle::Sent,
    plan::{Fault, MS, SECOND},
    records,
    txn_serve::{Stable, Wanted, Writer},
    world::World,
};

/// The topic that transactions write to.
pub const TXN_TOPIC: &str = "x";
/// Partitions of each topic of a coordinator.
pub const OFFICES: i32 = 2;
/// A request without an answer is given up after this long.
const PATIENCE_US: u64 = SECOND;
/// Transactions that each producer must commit once all faults are over.
const FRESH: usize = 2;

/// What a producer does next.
#[derive(Debug, Clone)]
enum Step {
    Init(Option<Producer>),
    Fetch { floor: Offset },
    Add(TopicPartition),
    Batch { key: Key, sequence: i32, records: Bytes, values: Vec<u64> },
    Offsets,
    End(bool),
}

/// A transactional producer. See the file's head.
pub struct Transactional {
    id: Arc<str>,
    group: Arc<str>,
    /// Leaves the partitions to the broker, and takes an epoch for each transaction (KIP-890).
    adds: bool,
    /// Has its id from another that it fences, and ends with the faults.
    zombie: bool,
    producer: Producer,
    ready: bool,
    number: u64,
    sequences: BTreeMap<Key, i32>,
    steps: VecDeque<Step>,
    asked: Option<(u64, u64)>,
    connections: BTreeMap<usize, u64>,
    leaders: BTreeMap<Key, usize>,
    rest_until: u64,
    fresh: usize,
    pause_us: u64,
}

/// A reader of committed data of one partition.
pub struct StableReader {
    partition: i32,
    position: Offset,
    leader: Option<usize>,
    waits: Option<(u64, u64)>,
}

impl World {
    pub fn start_txn_clients(&mut self) {
        for partition in 0..i32::try_from(self.plan.txn_partitions).unwrap() {
            let reader = StableReader { partition, position: 0, leader: None, waits: None };
            self.clients.push(Client::Stable(reader));
        }
        for n in 0..self.plan.transactional {
            let zombie =
                n > 0 && self.rng.one_in(3) && !self.plan.faults.contains(&Fault::WallJump);
            let id: Arc<str> = format!("id-{}", if zombie { n - 1 } else { n }).into();
            let client = Transactional {
                group: format!("of-{id}").into(),
                id,
                adds: self.plan.transaction_version >= 2 && self.rng.below(3) > 0,
                zombie,
                producer: Producer::NONE,
                ready: false,
                number: 0,
                sequences: BTreeMap::new(),
                steps: VecDeque::new(),
                asked: None,
                connections: BTreeMap::new(),
                leaders: BTreeMap::new(),
                rest_until: 0,
                fresh: FRESH,
                pause_us: self.between(2 * MS, 40 * MS),
            };
            self.clients.push(Client::Transactional(client));
        }
    }

    /// A partition, once its topic exists.
    pub fn key_in(&self, topic: &str, partition: i32) -> Option<Key> {
        let topic = self.quorum.image().topics().by_name(topic)?;
        topic.partition(partition).map(|_| (topic.id, partition))
    }

    // ---- producers

    pub fn transact(&mut self, client: usize, t: &mut Transactional) -> u64 {
        let pause = t.pause_us / 2 + self.between(0, t.pause_us);
        let healing = self.healing_since.is_some();
        if healing && t.zombie {
            return SECOND;
        }
        if let Some((req, since)) = t.asked {
            if since + PATIENCE_US < self.now {
                self.note(format_args!("{} gives up {req}", t.id));
                for connection in std::mem::take(&mut t.connections).into_values() {
                    self.break_connection(connection);
                }
                t.asked = None;
                t.leaders.clear();
            }
            return pause;
        }
        if self.now < t.rest_until {
            return pause;
        }
        if t.steps.is_empty() {
            if !t.ready {
                if !healing && !self.rng.one_in(3) {
                    return pause;
                }
                let known = t.producer != Producer::NONE && self.rng.one_in(3);
                t.steps.push_back(Step::Init(known.then_some(t.producer)));
            } else if (healing && t.fresh == 0) || !self.begin_txn(t, healing) {
                return pause;
            }
        }
        self.take_step(client, t);
        pause
    }

    /// Plans the next transaction.
    fn begin_txn(&mut self, t: &mut Transactional, healing: bool) -> bool {
        if self.key_in(TXN_TOPIC, 0).is_none() || self.key_in(OFFSETS_TOPIC, 0).is_none() {
            return false;
        }
        t.number = self.oracle.histories.begin();
        let of = records::offset_of(&t.group, TOPIC, 0);
        if self.rng.one_in(2) {
            t.steps.push_back(Step::Fetch {
                floor: self.oracle.floors.get(&of).copied().unwrap_or(-1),
            });
        }
        let partitions = i32::try_from(self.plan.txn_partitions).unwrap();
        for _ in 0..=self.rng.below(3) {
            let partition = i32::try_from(self.rng.below(partitions as usize)).unwrap();
            let Some(key) = self.key_in(TXN_TOPIC, partition) else { continue };
            if !t.adds {
                t.steps.push_back(Step::Add((TXN_TOPIC.into(), partition)));
            }
            let sequence = t.sequences.get(&key).copied().unwrap_or(0);
            let count = 1 + self.rng.below(3);
            let from = self.oracle.sent.len() as u64;
            let p = t.producer;
            let values: Vec<u64> = (from..from + count as u64).collect();
            for (n, value) in (0..).zip(&values) {
                let sequence = sequence + n;
                self.oracle.sent.push(Sent { producer: p.id, epoch: p.epoch, sequence });
                self.oracle.histories.txn_of.insert(*value, t.number);
            }
            let records = records::txn_batch(from, count, p.id, p.epoch, sequence);
            t.sequences.insert(key, sequence + i32::try_from(count).unwrap());
            t.steps.push_back(Step::Batch { key, sequence, records, values });
        }
        if self.rng.below(3) > 0 {
            if !t.adds {
                let partition = partition_for(&t.group, OFFICES);
                t.steps.push_back(Step::Add((OFFSETS_TOPIC.into(), partition)));
            }
            t.steps.push_back(Step::Offsets);
        }
        let commit = healing || self.rng.below(4) > 0;
        t.steps.push_back(Step::End(commit));
        true
    }

    fn take_step(&mut self, client: usize, t: &mut Transactional) {
        let Some(step) = t.steps.front().cloned() else { return };
        let home = match &step {
            Step::Batch { key, .. } => Some(*key),
            Step::Offsets | Step::Fetch { .. } => {
                self.key_in(OFFSETS_TOPIC, partition_for(&t.group, OFFICES))
            }
            _ => self.key_in(TRANSACTIONS_TOPIC, partition_for(&t.id, OFFICES)),
        };
        let Some(home) = home else { return };
        let known = t.leaders.get(&home).copied();
        let Some(leader) = known.or_else(|| self.ask_leader(client, home, false)) else { return };
        t.leaders.insert(home, leader);
        if self.brokers[leader].life.is_none() {
            // Its connection is refused.
            t.leaders.clear();
            return;
        }
        let to = Place::Broker(leader);
        let (req, id, producer) = (self.request(), t.id.clone(), t.producer);
        t.asked = Some((req, self.now));
        let client_version = if t.adds { 2 } else { 0 };
        let writer = Writer { id: id.clone(), producer, adds: t.adds };
        // Whoever takes a new epoch for each transaction needs no order of what it sends.
        let connection = if t.adds { 0 } else { self.connect(&mut t.connections, leader) };
        let wanted = match step {
            Step::Init(expected) => {
                let timeout_ms = 1_000 + i32::try_from(self.rng.below(3_000)).unwrap();
                Wanted::Txn(TxnCall::Init(InitCall { id, timeout_ms, expected }))
            }
            Step::Add(at) => {
                let partitions = BTreeSet::from([at]);
                Wanted::Txn(TxnCall::Add(AddCall { id, producer, partitions, client_version }))
            }
            Step::End(commit) => {
                if commit {
                    self.oracle.histories.asked.insert(t.number, true);
                }
                Wanted::Txn(TxnCall::End(EndCall { id, producer, commit, client_version }))
            }
            Step::Fetch { .. } => Wanted::Group(t.group.clone(), self.offset_fetch(t)),
            Step::Offsets => Wanted::Offsets(writer, self.offset_commit(t)),
            Step::Batch { key, sequence, records, .. } => {
                let at = (key, sequence);
                let message = Message::TxnProduce { req, connection, at, writer, records };
                self.send(Place::Client(client), to, message);
                return;
            }
        };
        self.send(Place::Client(client), to, Message::Call { req, connection, wanted });
    }

    fn offset_fetch(&self, t: &Transactional) -> Call {
        let topic_id = self.key_in(TOPIC, 0).map(|k| k.0).unwrap_or_default();
        Call::Fetch(FetchCall {
            group: t.group.clone(),
            member_id: None,
            member_epoch: -1,
            topics: Some(vec![FetchTopic { name: TOPIC.into(), topic_id, partitions: vec![0] }]),
            require_stable: true,
        })
    }

    fn offset_commit(&self, t: &Transactional) -> TxnCommitCall {
        let topic_id = self.key_in(TOPIC, 0).map(|k| k.0).unwrap_or_default();
        let partition = CommitPartition {
            partition: 0,
            offset: t.number as i64,
            leader_epoch: -1,
            metadata: t.number.to_string().into(),
        };
        let topic = CommitTopic { name: TOPIC.into(), topic_id, partitions: vec![partition] };
        TxnCommitCall {
            producer_id: t.producer.id,
            producer_epoch: t.producer.epoch,
            guard: None,
            commit: CommitCall {
                group: t.group.clone(),
                generation: -1,
                member_id: "".into(),
                instance_id: None,
                retention_ms: None,
                knows_group_id_not_found: true,
                topics: vec![topic],
            },
        }
    }

    pub fn transactional_hears(&mut self, t: &mut Transactional, req: u64, answer: Answer) {
        if t.asked.is_none_or(|(asked, _)| asked != req) {
            return;
        }
        t.asked = None;
        let Some(step) = t.steps.front().cloned() else { return };
        let mut code = answer.error();
        if let Answer::Group(Reply::Fetch(reply)) = &answer {
            let all = reply.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error);
            code = all.into_iter().find(|e| *e != ErrorCode::None).unwrap_or(code);
        }
        match code {
            ErrorCode::None => {
                t.steps.pop_front();
                self.step_done(t, step, answer);
            }
            ErrorCode::ConcurrentTransactions | ErrorCode::UnstableOffsetCommit => {
                t.rest_until = self.now + self.between(10 * MS, 60 * MS);
            }
            code if code.is_retriable() => {
                t.leaders.clear();
                t.rest_until = self.now + self.between(20 * MS, 100 * MS);
            }
            code => {
                self.note(format_args!("{} {:?} is lost: {code:?}", t.id, t.producer));
                self.abandon(t);
                if matches!(step, Step::Init(_)) {
                    t.producer = Producer::NONE;
                }
            }
        }
    }

    /// It begins anew; whatever is open is to be aborted.
    pub fn abandon(&mut self, t: &mut Transactional) {
        t.ready = false;
        t.asked = None;
        t.steps.clear();
    }

    fn step_done(&mut self, t: &mut Transactional, step: Step, answer: Answer) {
        let txn = t.number;
        let goes_on_as = match answer {
            Answer::Txn(TxnReply::Producer(Ok(producer))) => Some(producer),
            _ => None,
        };
        match step {
            Step::Init(_) => {
                t.ready = true;
                t.producer = goes_on_as.unwrap_or(Producer::NONE);
                t.sequences.clear();
            }
            Step::Fetch { floor } => {
                let Answer::Group(Reply::Fetch(reply)) = answer else { return };
                let found = reply.topics.iter().flat_map(|t| &t.partitions).map(|p| p.offset);
                self.check_fetched(t, floor, found.into_iter().next().unwrap_or(-1));
            }
            Step::Batch { key, values, .. } => {
                let acked = self.oracle.histories.acked.entry(txn).or_default();
                acked.extend(values.iter().map(|v| (key, *v)));
            }
            Step::Offsets => {
                let of = records::offset_of(&t.group, TOPIC, 0);
                let key = self.key_in(OFFSETS_TOPIC, partition_for(&t.group, OFFICES));
                let acked = self.oracle.histories.acked.entry(txn).or_default();
                acked.extend(key.map(|key| (key, of)));
            }
            Step::End(commit) => {
                self.note(format_args!("{} is told: {txn} commit={commit}", t.id));
                self.check_told(txn, commit);
                self.oracle.txns_told += 1;
                let of = records::offset_of(&t.group, TOPIC, 0);
                let acked = self.oracle.histories.acked.get(&txn);
                if commit && acked.is_some_and(|a| a.iter().any(|(_, v)| *v == of)) {
                    let floor = self.oracle.floors.entry(of).or_insert(-1);
                    *floor = (*floor).max(txn as i64);
                }
                if let (true, Some(producer)) = (t.adds, goes_on_as) {
                    t.producer = producer;
                    t.sequences.clear();
                }
                if commit && self.healing_since.is_some() {
                    t.fresh = t.fresh.saturating_sub(1);
                }
            }
            Step::Add(_) => {}
        }
    }

    /// A group's offset as it is fetched: of a transaction that was committed, and none before the
    /// last that its producer was told of when it asked. A coordinator that was deposed and does not
    /// know it may give an older one, as in Kafka: its read does not go through the log.
    fn check_fetched(&mut self, t: &Transactional, floor: Offset, offset: Offset) {
        let home = self.key_in(OFFSETS_TOPIC, partition_for(&t.group, OFFICES));
        let image = self.quorum.image().clone();
        let truth = home.and_then(|(id, n)| image.topics().partition(id, n)?.leader);
        let asked = home.and_then(|home| Some(self.brokers[*t.leaders.get(&home)?].id));
        if offset < floor && truth == asked {
            let text = format!("{} is given {offset}; {floor} was committed before", t.group);
            self.violate("offset-regress", text);
        }
        let of = records::offset_of(&t.group, TOPIC, 0);
        let end = u64::try_from(offset).ok().map(|txn| self.oracle.histories.ends.get(&(txn, of)));
        if end.is_some_and(|end| end != Some(&true)) {
            let text = format!("{} is given {offset}: committed {end:?}", t.group);
            self.violate("all-or-nothing", text);
        }
    }

    /// What a transactional producer still lacks once all faults are over.
    pub fn transactional_lacks(t: &Transactional) -> Option<String> {
        let lacks = !t.zombie && (t.fresh > 0 || !t.steps.is_empty());
        lacks.then(|| format!("{} {:?} has yet to do {:?}", t.id, t.producer, t.steps.front()))
    }

    // ---- readers

    pub fn read_stable(&mut self, client: usize, r: &mut StableReader) -> u64 {
        let pause = self.between(20 * MS, 120 * MS);
        let Some(key) = self.key_in(TXN_TOPIC, r.partition) else { return pause };
        if r.waits.is_some_and(|(_, since)| since + PATIENCE_US < self.now) {
            (r.waits, r.leader) = (None, None);
        }
        if r.waits.is_some() {
            return pause;
        }
        if r.leader.is_none() {
            r.leader = self.ask_leader(client, key, false);
        }
        let Some(leader) = r.leader else { return pause };
        let req = self.request();
        r.waits = Some((req, self.now));
        let message = Message::ReadStable { req, key, from: r.position };
        self.send(Place::Client(client), Place::Broker(leader), message);
        pause
    }

    pub fn stable_read(
        &mut self,
        r: &mut StableReader,
        req: u64,
        result: Result<Stable, ErrorCode>,
    ) {
        if r.waits.is_none_or(|(waits, _)| waits != req) {
            return;
        }
        r.waits = None;
        let Some(key) = self.key_in(TXN_TOPIC, r.partition) else { return };
        match result {
            Ok(given) => r.position = self.check_stable(key, r.position, &given),
            Err(_) => r.leader = None,
        }
    }

    pub fn reader_lacks(&self, r: &StableReader) -> Option<String> {
        let key = self.key_in(TXN_TOPIC, r.partition)?;
        let (at, end) = (r.position, self.oracle.committed_end(key));
        let open = self.oracle.histories.logs.get(&key).map(|l| l.open.keys().collect::<Vec<_>>());
        (at < end).then(|| format!("a reader of {key:?} is at {at} of {end}; open: {open:?}"))
    }
}
