//! A compacted topic: producers that write values and tombstones of a few keys, and readers that
//! read it from its beginning again and again.

use bytes::Bytes;
use vltava::base::{ErrorCode, Offset};

use crate::{
    clients::{Client, Producer},
    net::{Message, Place},
    plan::{MS, SECOND},
    records,
    world::World,
};

/// The compacted topic.
pub const KEYED_TOPIC: &str = "c";
/// A request without an answer is given up after this long.
const PATIENCE_US: u64 = 2 * SECOND;

/// One reader of one partition.
pub struct KeyedReader {
    partition: i32,
    position: Offset,
    leader: Option<usize>,
    near: bool,
    waits: Option<(u64, u64)>,
}

impl World {
    pub fn start_keyed_clients(&mut self) {
        for partition in 0..i32::try_from(self.plan.keyed_partitions).unwrap() {
            for _ in 0..=self.rng.below(2) {
                let n = self.clients.len();
                let pause_us = self.between(10 * MS, 60 * MS);
                let all = !n.is_multiple_of(self.plan.one_ack_every);
                let producer = Producer::new(n, KEYED_TOPIC, partition, all, pause_us);
                self.clients.push(Client::Producer(producer));
            }
            let near = self.rng.one_in(2);
            let reader = KeyedReader { partition, position: 0, leader: None, near, waits: None };
            self.clients.push(Client::Keyed(reader));
        }
    }

    /// Which keys the next `count` records are of, and whether they are tombstones.
    pub fn some_keys(&mut self, count: usize) -> Vec<(usize, bool)> {
        let keys = self.plan.keys;
        (0..count).map(|_| (self.rng.below(keys), self.rng.one_in(4))).collect()
    }

    pub fn read_keyed(&mut self, client: usize, r: &mut KeyedReader) -> u64 {
        // In the end all there is must be read in time.
        let slower = if self.healing_since.is_some() { 1 } else { 10 };
        let pause = self.between(20 * MS, 100 * MS) / 10 * slower;
        let Some(key) = self.key_in(KEYED_TOPIC, r.partition) else { return pause };
        if r.waits.is_some_and(|(_, since)| since + PATIENCE_US < self.now) {
            (r.waits, r.leader) = (None, None);
        }
        if r.waits.is_some() {
            return pause;
        }
        if self.healing_since.is_none() && self.rng.one_in(60) {
            r.position = 0;
        }
        if r.leader.is_none() {
            r.leader = self.ask_leader(client, key, r.near);
        }
        let Some(leader) = r.leader else { return pause };
        let req = self.request();
        r.waits = Some((req, self.now));
        let message = Message::Read { req, key, from: r.position, near: r.near };
        self.send(Place::Client(client), Place::Broker(leader), message);
        pause
    }

    pub fn keyed_read(&mut self, r: &mut KeyedReader, req: u64, result: Result<Bytes, ErrorCode>) {
        if r.waits.is_none_or(|(waits, _)| waits != req) {
            return;
        }
        r.waits = None;
        let Some(key) = self.key_in(KEYED_TOPIC, r.partition) else { return };
        let Ok(bytes) = result else {
            r.leader = None;
            return;
        };
        let Ok(found) = records::decode(&bytes) else { return };
        let from = r.position;
        for (offset, _) in found.iter().filter(|(offset, _)| *offset >= from) {
            self.check_gap(key, r.position, *offset, "a reader");
            r.position = offset + 1;
        }
        if let Some(last) = records::last_offset(&bytes).filter(|last| *last >= r.position) {
            self.check_gap(key, r.position, last + 1, "a reader");
            r.position = last + 1;
        }
    }

    pub fn keyed_reader_lacks(&self, r: &KeyedReader) -> Option<String> {
        let key = self.key_in(KEYED_TOPIC, r.partition)?;
        let end = self.oracle.committed_end(key);
        let at = r.position;
        (at < end).then(|| format!("a reader of {key:?} is at {at} of {end}"))
    }
}
