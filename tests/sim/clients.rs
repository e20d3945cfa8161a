//! Clients: producers that are idempotent and never give up unless told to, consumers that read
//! every partition from its beginning, and one that asks the controller for topics.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use vltava::{
    base::{ErrorCode, Offset},
    metadata::Image,
};

use crate::{
    classic_members::ClassicMember,
    keyed::KeyedReader,
    machine::Answer,
    members::Member,
    net::{Key, Message, Place},
    oracle::Sent,
    plan::{MS, SECOND},
    records,
    share_members::ShareMember,
    txn_clients::{StableReader, Transactional},
    world::{Event, World},
};

pub const TOPIC: &str = "t";
/// A request without an answer is given up after this long.
const PATIENCE_US: u64 = 2 * SECOND;
/// Batches that each producer must get through once all faults are over.
const FRESH: usize = 2;
/// Beyond the ids that the controller gives.
const FIRST_ID: i64 = 1 << 40;

/// What happens to a client.
#[derive(Debug, Clone)]
pub enum ClientEvent {
    /// It is time to do something.
    Tick,
}

struct Batch {
    number: usize,
    sequence: i32,
    records: Bytes,
    /// All attempts; the last is the one whose refusal counts.
    reqs: Vec<u64>,
    sent_at: u64,
}

/// One producer of one partition.
pub struct Producer {
    topic: &'static str,
    partition: i32,
    all: bool,
    id: i64,
    epoch: i16,
    next_sequence: i32,
    next_number: usize,
    window: VecDeque<Batch>,
    leader: Option<usize>,
    /// What it sends on is in order, or does not arrive.
    connection: u64,
    /// When what is under way is to be sent again.
    resend_at: Option<u64>,
    /// How often in a row its oldest batch was out of order.
    out_of_order: usize,
    fresh: usize,
    pause_us: u64,
}

/// One consumer of one partition.
pub struct Consumer {
    partition: i32,
    position: Offset,
    leader: Option<usize>,
    /// Whether it reads from any replica.
    near: bool,
    waits: Option<(u64, u64)>,
}

/// See the file's head.
pub enum Client {
    Producer(Producer),
    Consumer(Consumer),
    Transactional(Transactional),
    Stable(StableReader),
    Member(Member),
    Classic(ClassicMember),
    Keyed(KeyedReader),
    Share(ShareMember),
    Admin,
}

impl Producer {
    /// The producer that is client `n`.
    pub fn new(n: usize, topic: &'static str, partition: i32, all: bool, pause_us: u64) -> Self {
        Self {
            topic,
            partition,
            all,
            id: FIRST_ID + n as i64,
            epoch: 0,
            next_sequence: 0,
            next_number: 0,
            window: VecDeque::new(),
            leader: None,
            connection: 0,
            resend_at: None,
            out_of_order: 0,
            fresh: FRESH,
            pause_us,
        }
    }
}

impl World {
    pub fn start_clients(&mut self) {
        self.clients.push(Client::Admin);
        let partitions = i32::try_from(self.plan.partitions).unwrap();
        for partition in 0..partitions {
            for _ in 0..=self.rng.below(2) {
                let n = self.clients.len();
                let pause_us = self.between(20 * MS, 120 * MS);
                let all = !n.is_multiple_of(self.plan.one_ack_every);
                let producer = Producer::new(n, TOPIC, partition, all, pause_us);
                self.clients.push(Client::Producer(producer));
            }
            let near = self.rng.one_in(3);
            let consumer = Consumer { partition, position: 0, leader: None, near, waits: None };
            self.clients.push(Client::Consumer(consumer));
        }
        self.start_txn_clients();
        self.start_members();
        self.start_classic_members();
        self.start_keyed_clients();
        self.start_share_members();
        for client in 0..self.clients.len() {
            self.at(500 * MS + client as u64, Event::Client { client, event: ClientEvent::Tick });
        }
    }

    /// The partition that a client means, once it exists.
    fn key_of(&self, partition: i32) -> Option<Key> {
        let topic = self.quorum.image().topics().by_name(TOPIC)?;
        topic.partition(partition).map(|_| (topic.id, partition))
    }

    /// Whom some broker that can be reached names as the leader, or with `near` as some replica: it
    /// may be out of date.
    pub fn ask_leader(&mut self, client: usize, key: Key, near: bool) -> Option<usize> {
        let b = self.rng.below(self.brokers.len());
        let (me, it) = (Place::Client(client), Place::Broker(b));
        if self.net.is_cut(me, it) || self.net.is_cut(it, me) {
            return None;
        }
        let life = self.brokers[b].life.as_ref().filter(|l| l.running)?;
        let image: Arc<Image> = Arc::clone(life.loader.image());
        let p = image.topics().partition(key.0, key.1)?;
        if near {
            let replica = p.replicas[self.rng.below(p.replicas.len())];
            return Some(self.index_of(replica));
        }
        Some(self.index_of(p.leader?))
    }

    pub fn client_event(&mut self, client: usize, event: ClientEvent) {
        let ClientEvent::Tick = event;
        let mut taken = std::mem::replace(&mut self.clients[client], Client::Admin);
        let pause = match &mut taken {
            Client::Producer(p) => self.produce(client, p),
            Client::Consumer(c) => self.consume(client, c),
            Client::Transactional(t) => self.transact(client, t),
            Client::Stable(r) => self.read_stable(client, r),
            Client::Member(m) => self.take_part(client, m),
            Client::Classic(m) => self.take_classic_part(client, m),
            Client::Keyed(r) => self.read_keyed(client, r),
            Client::Share(m) => self.take_share(client, m),
            Client::Admin => self.administrate(client),
        };
        self.clients[client] = taken;
        self.at(pause, Event::Client { client, event: ClientEvent::Tick });
    }

    pub fn client_hears(&mut self, client: usize, message: Message) {
        let mut taken = std::mem::replace(&mut self.clients[client], Client::Admin);
        match (&mut taken, message) {
            (Client::Producer(p), Message::Produced { req, result }) => {
                self.produced(p, req, result);
            }
            (Client::Consumer(c), Message::ReadBack { req, result }) => {
                self.consumed(c, req, result);
            }
            (Client::Share(m), Message::ShareFetched { req, key, result }) => {
                self.share_fetched(m, req, key, result);
            }
            (Client::Share(m), Message::ShareAcked { req, result }) => {
                self.share_acked(m, req, result);
            }
            (Client::Share(m), Message::Called { req, answer }) => {
                self.share_begun(m, req, &answer);
            }
            (Client::Keyed(r), Message::ReadBack { req, result }) => {
                self.keyed_read(r, req, result);
            }
            (Client::Transactional(t), Message::Called { req, answer }) => {
                self.transactional_hears(t, req, answer);
            }
            (Client::Transactional(t), Message::Produced { req, result }) => {
                let code = result.err().unwrap_or_default();
                self.transactional_hears(t, req, Answer::Refused(code));
            }
            (Client::Stable(r), Message::StableBack { req, result }) => {
                self.stable_read(r, req, result);
            }
            (Client::Member(m), Message::Called { req, answer }) => {
                self.member_hears(client, m, req, answer);
            }
            (Client::Classic(m), Message::Called { req, answer }) => {
                self.classic_hears(client, m, req, answer);
            }
            _ => {}
        }
        self.clients[client] = taken;
    }

    // ---- producers

    fn produce(&mut self, client: usize, p: &mut Producer) -> u64 {
        let pause = p.pause_us / 2 + self.between(0, p.pause_us);
        let Some(key) = self.key_in(p.topic, p.partition) else { return pause };
        if p.leader.is_none() {
            p.leader = self.ask_leader(client, key, false);
            p.connection = self.request();
        }
        let Some(leader) = p.leader else { return pause };
        let waits = p.resend_at.is_none();
        if waits && p.window.iter().any(|b| b.sent_at + PATIENCE_US < self.now) {
            p.leader = None;
            p.resend_at.get_or_insert(self.now);
            return 20 * MS;
        }
        let to = Place::Broker(leader);
        if let Some(at) = p.resend_at {
            if at <= self.now {
                p.resend_at = None;
                for n in 0..p.window.len() {
                    self.send_batch(client, to, key, p, n);
                }
            }
            return pause;
        }
        let healing = self.healing_since.is_some();
        // A broker remembers five batches: whoever runs ahead of that cannot try again.
        let oldest = p.window.front().map_or(p.next_number, |b| b.number);
        if p.next_number - oldest >= self.plan.window || (healing && p.fresh == 0) {
            return pause;
        }
        if healing {
            p.fresh -= 1;
        }
        self.make_batch(p);
        self.send_batch(client, to, key, p, p.window.len() - 1);
        pause
    }

    fn make_batch(&mut self, p: &mut Producer) {
        let count = 1 + self.rng.below(3);
        let from = self.oracle.sent.len() as u64;
        for n in 0..count {
            let sequence = p.next_sequence + i32::try_from(n).unwrap();
            self.oracle.sent.push(Sent { producer: p.id, epoch: p.epoch, sequence });
        }
        let records = if p.topic == TOPIC {
            records::batch(from, count, p.id, p.epoch, p.next_sequence)
        } else {
            let keys = self.some_keys(count);
            records::keyed_batch(from, &keys, p.id, p.epoch, p.next_sequence)
        };
        let sequence = p.next_sequence;
        let number = p.next_number;
        p.next_number += 1;
        p.window.push_back(Batch {
            number,
            sequence,
            records,
            reqs: Vec::new(),
            sent_at: self.now,
        });
        p.next_sequence += i32::try_from(count).unwrap();
    }

    fn send_batch(&mut self, client: usize, to: Place, key: Key, p: &mut Producer, n: usize) {
        let req = self.request();
        let batch = &mut p.window[n];
        batch.reqs.push(req);
        batch.sent_at = self.now;
        let records = batch.records.clone();
        let (connection, all) = (p.connection, p.all);
        let message = Message::Produce { req, connection, key, records, all };
        self.send(Place::Client(client), to, message);
    }

    fn produced(&mut self, p: &mut Producer, req: u64, result: Result<Offset, ErrorCode>) {
        let Some(n) = p.window.iter().position(|b| b.reqs.contains(&req)) else { return };
        match result {
            Ok(_) => {
                p.out_of_order = 0;
                p.window.remove(n);
            }
            Err(_) if p.window[n].reqs.last() != Some(&req) => {}
            Err(ErrorCode::OutOfOrderSequenceNumber) if n == 0 && p.out_of_order > 8 => {
                // With acks=1 what it was told may be gone with a leader. And of the batches before
                // a snapshot a broker that starts anew remembers only the last, as Kafka's does:
                // the others are known to be written, but not where.
                self.give_up(p);
            }
            Err(code) => {
                if code == ErrorCode::InvalidProducerEpoch {
                    let text = format!("producer {} is fenced in its own epoch", p.id);
                    self.violate("sequences", text);
                }
                if code == ErrorCode::OutOfOrderSequenceNumber && n == 0 {
                    p.out_of_order += 1;
                }
                if code != ErrorCode::NotEnoughReplicas {
                    p.leader = None;
                }
                let pause = self.between(20 * MS, 100 * MS);
                p.resend_at.get_or_insert(self.now + pause);
            }
        }
    }

    /// Begins anew under the next epoch. What is under way may or may not be written.
    fn give_up(&mut self, p: &mut Producer) {
        p.window.clear();
        (p.resend_at, p.leader, p.out_of_order) = (None, None, 0);
        p.epoch += 1;
        p.next_sequence = 0;
        self.note(format_args!("producer {} goes on in epoch {}", p.id, p.epoch));
    }

    /// Some producer gives up.
    pub fn one_gives_up(&mut self) {
        let client = self.rng.below(self.clients.len());
        let mut taken = std::mem::replace(&mut self.clients[client], Client::Admin);
        match &mut taken {
            Client::Producer(p) => self.give_up(p),
            Client::Transactional(t) => self.abandon(t),
            Client::Member(m) => m.die(),
            Client::Classic(m) => m.die(),
            Client::Share(m) => m.die(),
            _ => {}
        }
        self.clients[client] = taken;
    }

    /// Whether the producer of that id writes with acks=all.
    pub fn waits_for_all(&self, id: i64) -> bool {
        self.clients.iter().any(|c| matches!(c, Client::Producer(p) if p.id == id && p.all))
    }

    // ---- consumers

    fn consume(&mut self, client: usize, c: &mut Consumer) -> u64 {
        let pause = self.between(20 * MS, 100 * MS);
        let Some(key) = self.key_of(c.partition) else { return pause };
        if c.waits.is_some_and(|(_, since)| since + PATIENCE_US < self.now) {
            (c.waits, c.leader) = (None, None);
        }
        if c.waits.is_some() {
            return pause;
        }
        // What was deleted must not come back for whoever begins anew.
        let deletes = self.oracle.deleted.contains_key(&key);
        if deletes && self.healing_since.is_none() && self.rng.one_in(40) {
            c.position = 0;
        }
        if c.leader.is_none() {
            c.leader = self.ask_leader(client, key, c.near);
        }
        let Some(leader) = c.leader else { return pause };
        let req = self.request();
        c.waits = Some((req, self.now));
        let message = Message::Read { req, key, from: c.position, near: c.near };
        self.send(Place::Client(client), Place::Broker(leader), message);
        pause
    }

    fn consumed(&mut self, c: &mut Consumer, req: u64, result: Result<Bytes, ErrorCode>) {
        if c.waits.is_none_or(|(waits, _)| waits != req) {
            return;
        }
        c.waits = None;
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(code) => {
                let deleted = self.key_of(c.partition).and_then(|k| self.oracle.deleted.get(&k));
                if code == ErrorCode::OffsetOutOfRange {
                    c.position = c.position.max(deleted.copied().unwrap_or(0));
                }
                c.leader = None;
                return;
            }
        };
        let Ok(found) = records::decode(&bytes) else { return };
        for (offset, _) in found {
            let deleted = self.key_of(c.partition).and_then(|k| self.oracle.deleted.get(&k));
            c.position = c.position.max(deleted.copied().unwrap_or(0).min(offset));
            if offset > c.position {
                let text = format!("a consumer at {} is given {offset}", c.position);
                self.violate("visible", text);
            }
            c.position = c.position.max(offset + 1);
        }
    }

    /// What clients still lack once all faults are over.
    pub fn clients_lack(&self) -> Option<String> {
        for client in &self.clients {
            match client {
                Client::Producer(p) => {
                    if let Some(batch) = p.window.front() {
                        let (id, sequence, tries) = (p.id, batch.sequence, batch.reqs.len());
                        return Some(format!(
                            "batch {sequence} of producer {id} ({}-{}) is not acknowledged after \
                             {tries} tries",
                            p.topic, p.partition
                        ));
                    }
                    if p.fresh > 0 {
                        return Some(format!("producer {} has not written afresh", p.id));
                    }
                }
                Client::Consumer(c) => {
                    let key = self.key_of(c.partition)?;
                    let end = self.oracle.committed_end(key);
                    if c.position < end {
                        let at = c.position;
                        return Some(format!("a consumer of {key:?} is at {at} of {end}"));
                    }
                }
                Client::Transactional(t) => {
                    if let Some(lacks) = Self::transactional_lacks(t) {
                        return Some(lacks);
                    }
                }
                Client::Stable(r) => {
                    if let Some(lacks) = self.reader_lacks(r) {
                        return Some(lacks);
                    }
                }
                Client::Keyed(r) => {
                    if let Some(lacks) = self.keyed_reader_lacks(r) {
                        return Some(lacks);
                    }
                }
                Client::Member(_) | Client::Classic(_) | Client::Share(_) | Client::Admin => {}
            }
        }
        self.group_lacks().or_else(|| self.classic_group_lacks()).or_else(|| self.shares_lack())
    }
}
