//! Random histories of transactions: producers, some of them zombies, a log that refuses, a high
//! watermark that lags, leaders that lose what was not committed, markers that come late and twice.
//! Whatever happens, a transaction is committed as a whole or not at all, and what a producer was
//! told of its end is so.

mod txn_world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use txn_world::World;
use vltava::{
    base::ErrorCode,
    coordinator::{
        calls::Token,
        txn_calls::{AddCall, EndCall, InitCall, Markers, Producer, TxnCall, TxnReply},
        txn_records::{TopicPartition, TxnRecord, TxnState, TxnValue},
        txn_settings::TxnSettings,
    },
};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Open,
    Committed,
    Aborted,
}

/// A partition, as its leader keeps it: the latest epoch of each producer, and what it wrote, by
/// the number of the transaction.
#[derive(Default)]
struct Partition {
    epochs: BTreeMap<i64, i16>,
    written: Vec<(Producer, u64, Fate)>,
}

impl Partition {
    fn mark(&mut self, m: &Markers) {
        let epoch = self.epochs.entry(m.producer.id).or_insert(-1);
        let open = self.written.iter().any(|w| w.0.id == m.producer.id && w.2 == Fate::Open);
        if m.transaction_version >= 2 {
            let fits = m.producer.epoch > *epoch || (m.producer.epoch == *epoch && !open);
            assert!(fits, "{m:?} under epoch {epoch}, open: {open}");
        }
        assert!(m.producer.epoch >= *epoch, "{m:?} under epoch {epoch}");
        *epoch = m.producer.epoch;
        let fate = if m.commit { Fate::Committed } else { Fate::Aborted };
        for write in self.written.iter_mut().filter(|w| w.0.id == m.producer.id) {
            if write.2 == Fate::Open {
                write.2 = fate;
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Doing {
    /// Has no epoch, or lost it; may say what it was.
    Lost(Option<Producer>),
    Idle,
    /// Partitions of the transaction that are acknowledged.
    Open(BTreeSet<TopicPartition>),
    /// Asked for this end, and does not know what became of it.
    Ending(bool),
}

struct Client {
    id: Arc<str>,
    /// The `transaction.version` that it lives by.
    version: i16,
    producer: Producer,
    doing: Doing,
    /// Number of the current transaction.
    txn: u64,
    asked: Option<(Token, TxnCall)>,
}

struct History {
    world: World,
    clients: Vec<Client>,
    partitions: BTreeMap<TopicPartition, Partition>,
    txns: u64,
    /// What clients were told of their transactions.
    told: BTreeMap<u64, Fate>,
    /// Who was given which producer id and epoch.
    given: BTreeMap<(i64, i16), usize>,
    committed: usize,
}

impl History {
    fn new(dice: &mut Dice) -> Self {
        let settings = TxnSettings { abort_interval_ms: 1_000, ..TxnSettings::default() };
        let client = |n: usize| Client {
            id: ["a", "b", "c"][n % 3].into(),
            version: if n == 2 { 0 } else { 2 },
            producer: Producer::NONE,
            doing: Doing::Lost(None),
            txn: 0,
            asked: None,
        };
        let mut world = World::new(settings, if dice.roll(3) == 0 { 1 } else { 2 });
        if dice.roll(3) == 0 {
            // Near the end of the epochs.
            let value = TxnValue {
                producer_id: 7,
                previous_producer_id: -1,
                next_producer_id: -1,
                producer_epoch: 32_755,
                last_producer_epoch: -1,
                timeout_ms: 5_000,
                state: TxnState::Empty,
                partitions: BTreeSet::new(),
                last_update_ms: 0,
                start_ms: -1,
                client_version: 0,
            };
            for (id, producer_id) in [("a", 7), ("b", 8), ("c", 9)] {
                let value = Some(TxnValue { producer_id, ..value.clone() });
                world.log.push(TxnRecord { id: id.into(), value });
            }
            world.load();
        }
        // Clients of the second kind only where the cluster has its level.
        let newest = world.at.transaction_version;
        let mut clients: Vec<Client> = (0..6).map(client).collect();
        for client in &mut clients {
            client.version = client.version.min(if newest >= 2 { 2 } else { 0 });
        }
        Self {
            world,
            clients,
            partitions: (0..3).map(|p| (("t".into(), p), Partition::default())).collect(),
            txns: 0,
            told: BTreeMap::new(),
            given: BTreeMap::new(),
            committed: 0,
        }
    }

    fn act(&mut self, n: usize, dice: &mut Dice) {
        let client = &self.clients[n];
        if client.asked.is_some() {
            return;
        }
        let (id, producer) = (client.id.clone(), client.producer);
        let call = match client.doing.clone() {
            // Who was fenced has no haste to fence back.
            Doing::Lost(_) if dice.roll(12) > 0 => return,
            Doing::Lost(expected) => {
                let timeout_ms = 3_000 + dice.roll(4_000) as i32;
                TxnCall::Init(InitCall { id, timeout_ms, expected })
            }
            Doing::Idle | Doing::Open(_) if dice.roll(12) == 0 => {
                self.clients[n].doing = Doing::Lost(match dice.roll(2) {
                    0 => None,
                    _ => Some(producer),
                });
                return;
            }
            Doing::Idle | Doing::Open(_) if dice.roll(2) == 0 => {
                let partition: TopicPartition = ("t".into(), dice.roll(3) as i32);
                if client.doing == Doing::Idle {
                    self.txns += 1;
                    self.clients[n].txn = self.txns;
                }
                TxnCall::Add(AddCall {
                    id,
                    producer,
                    partitions: BTreeSet::from([partition]),
                    client_version: self.clients[n].version,
                })
            }
            Doing::Idle => return,
            Doing::Open(partitions) if dice.roll(2) == 0 => return self.produce(n, &partitions),
            Doing::Open(_) => {
                let commit = dice.roll(3) > 0;
                self.clients[n].doing = Doing::Ending(commit);
                let client_version = self.clients[n].version;
                TxnCall::End(EndCall { id, producer, commit, client_version })
            }
            Doing::Ending(commit) => {
                let client_version = client.version;
                TxnCall::End(EndCall { id, producer, commit, client_version })
            }
        };
        self.ask(n, call);
    }

    fn ask(&mut self, n: usize, call: TxnCall) {
        let token = self.world.tokens + 1;
        self.clients[n].asked = Some((token, call.clone()));
        self.world.call(call);
        self.hear();
    }

    /// Writes to a partition of the transaction, which its leader verifies first.
    fn produce(&mut self, n: usize, partitions: &BTreeSet<TopicPartition>) {
        let client = &self.clients[n];
        let (producer, txn) = (client.producer, client.txn);
        for at in partitions {
            let call = AddCall {
                id: client.id.clone(),
                producer,
                partitions: BTreeSet::from([at.clone()]),
                client_version: 2,
            };
            self.world.tokens += 1;
            let token = self.world.tokens;
            self.world.step(|shard, now, out| {
                shard.handle(token, TxnCall::Verify(call), now, out);
            });
            let found = self.world.replies.iter().position(|(t, _)| *t == token).unwrap();
            let (_, reply) = self.world.replies.remove(found);
            let TxnReply::Verified(Ok(found)) = reply else { return };
            let partition = self.partitions.get_mut(at).unwrap();
            let epoch = partition.epochs.entry(producer.id).or_insert(-1);
            if found[0].1 && producer.epoch >= *epoch {
                *epoch = producer.epoch;
                partition.written.push((producer, txn, Fate::Open));
            }
        }
    }

    fn hear(&mut self) {
        for (token, reply) in std::mem::take(&mut self.world.replies) {
            let asked = |c: &Client| c.asked.as_ref().is_some_and(|(t, _)| *t == token);
            let n = self.clients.iter().position(asked).expect("an answer is asked for, and once");
            let (_, call) = self.clients[n].asked.take().unwrap();
            self.learn(n, &call, &reply);
        }
    }

    fn learn(&mut self, n: usize, call: &TxnCall, reply: &TxnReply) {
        let error = match reply {
            TxnReply::Producer(Err(e)) | TxnReply::Added(e) | TxnReply::Verified(Err(e)) => *e,
            _ => ErrorCode::None,
        };
        if error.is_retriable() {
            return;
        }
        let client = &mut self.clients[n];
        match (call, reply) {
            (TxnCall::Init(init), TxnReply::Producer(Ok(producer))) => {
                let key = (producer.id, producer.epoch);
                let before = self.given.insert(key, n);
                // Two that call themselves the same are told the same.
                let claimed = init.expected.is_some();
                assert!(before.is_none() || claimed, "{producer:?} is given to {before:?} and {n}");
                (client.producer, client.doing) = (*producer, Doing::Idle);
            }
            (TxnCall::Add(add), TxnReply::Added(ErrorCode::None)) => {
                let mut partitions = match std::mem::replace(&mut client.doing, Doing::Idle) {
                    Doing::Open(partitions) => partitions,
                    _ => BTreeSet::new(),
                };
                partitions.extend(add.partitions.iter().cloned());
                client.doing = Doing::Open(partitions);
            }
            (TxnCall::End(end), TxnReply::Producer(Ok(producer))) => {
                let fate = if end.commit { Fate::Committed } else { Fate::Aborted };
                self.told.insert(client.txn, fate);
                self.committed += usize::from(end.commit);
                if client.version >= 2 {
                    client.producer = *producer;
                }
                client.doing = Doing::Idle;
            }
            _ => client.doing = Doing::Lost(None),
        }
    }

    /// Some markers are written; of some the answer is lost.
    fn mark(&mut self, dice: &mut Dice, all: bool) {
        for markers in std::mem::take(&mut self.world.to_mark) {
            if !self.world.shard.as_ref().unwrap().wants_markers(&markers.id, markers.run) {
                continue;
            }
            let mut done = Vec::new();
            for at in &markers.partitions {
                if all || dice.roll(2) == 0 {
                    self.partitions.get_mut(at).unwrap().mark(&markers);
                    if all || dice.roll(4) > 0 {
                        done.push(at.clone());
                    }
                }
            }
            self.world.to_mark.push(markers.clone());
            self.world.marked(&markers, &done);
            self.hear();
            for m in &mut self.world.to_mark {
                if m.run == markers.run && m.id == markers.id {
                    m.partitions.retain(|p| !done.contains(p));
                }
            }
            self.world.to_mark.retain(|m| !m.partitions.is_empty());
        }
    }

    fn disturb(&mut self, dice: &mut Dice) {
        match dice.roll(40) {
            0 => self.world.load(),
            1 | 2 => self.world.lose_tail(),
            3 | 4 => self.world.refuse = Some(ErrorCode::NotEnoughReplicas),
            5..=7 => self.world.follows = false,
            8..=14 => {
                self.world.follows = true;
                self.world.commit_all();
            }
            15 => self.world.advance(2_000),
            16..=20 => self.world.advance(dice.roll(300)),
            21 => self.world.gives_ids = false,
            22 | 23 => {
                self.world.gives_ids = true;
                if std::mem::take(&mut self.world.wanted_ids) > 0 {
                    let id = self.world.fresh_id();
                    self.world.step(|shard, at, out| shard.producer_id(Ok(id), at, out));
                }
            }
            _ => {}
        }
        self.hear();
    }

    /// All is well again, and everything comes to its end.
    fn heal(&mut self, dice: &mut Dice) {
        self.world.refuse = None;
        for _ in 0..20 {
            self.world.follows = true;
            self.world.gives_ids = true;
            if std::mem::take(&mut self.world.wanted_ids) > 0 {
                let id = self.world.fresh_id();
                self.world.step(|shard, at, out| shard.producer_id(Ok(id), at, out));
            }
            self.world.commit_all();
            self.hear();
            self.mark(dice, true);
            self.world.advance(10_000);
            self.hear();
        }
        for (at, partition) in &self.partitions {
            for write in &partition.written {
                assert_ne!(write.2, Fate::Open, "{write:?} hangs on {at:?}");
            }
        }
        let mut fates: BTreeMap<u64, Fate> = self.told.clone();
        for (at, partition) in &self.partitions {
            for (producer, txn, fate) in &partition.written {
                let known = fates.entry(*txn).or_insert(*fate);
                assert_eq!(known, fate, "transaction {txn} of {producer:?} on {at:?}");
            }
        }
    }
}

#[test]
fn transactions_are_all_or_nothing() {
    let mut committed = 0;
    for seed in 1..150_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut history = History::new(&mut dice);
        for _ in 0..400 {
            let n = dice.roll(6) as usize;
            history.act(n, &mut dice);
            if dice.roll(3) == 0 {
                history.mark(&mut dice, false);
            }
            history.disturb(&mut dice);
        }
        history.heal(&mut dice);
        committed += history.committed;
    }
    assert!(committed > 500, "{committed} transactions were committed");
}
