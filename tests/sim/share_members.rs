//! Members of a share group: they fetch, accept, give back, reject, are silent and die.

use std::{collections::BTreeMap, sync::Arc};

use vltava::{
    base::ErrorCode,
    coordinator::share_calls::ShareAsk,
    node::offsets_log::SHARE_STATE_TOPIC,
    share::{
        acknowledge::{AckBatch, AckType},
        acquire::{AcquireMode, Acquired},
    },
};

use crate::{
    clients::Client,
    machine::Answer,
    net::{Key, Message, Place},
    plan::{MS, SECOND},
    share_serve::share_key,
    txn_clients::OFFICES,
    txn_serve::Wanted,
    world::World,
};

/// A request without an answer is given up after this long.
const PATIENCE_US: u64 = SECOND;

/// One member.
pub struct ShareMember {
    number: usize,
    lives: usize,
    /// What it has, and from whom.
    has: Vec<(Key, Acquired)>,
    asked: Option<(u64, u64)>,
    /// The partition whose state it has set anew.
    begins: Option<Key>,
    leaders: BTreeMap<Key, usize>,
    connections: BTreeMap<usize, u64>,
    turn: usize,
}

impl ShareMember {
    fn id(&self) -> Arc<str> {
        format!("s{}-{}", self.number, self.lives).into()
    }

    /// It is killed, and begins as another.
    pub fn die(&mut self) {
        self.has.clear();
        self.lives += 1;
        self.asked = None;
    }
}

impl World {
    pub fn start_share_members(&mut self) {
        for number in 0..self.plan.share_members {
            self.clients.push(Client::Share(ShareMember {
                number,
                lives: 0,
                has: Vec::new(),
                asked: None,
                begins: None,
                leaders: BTreeMap::new(),
                connections: BTreeMap::new(),
                turn: number,
            }));
        }
    }

    /// The partitions that the group shares.
    pub fn share_keys(&self) -> Vec<Key> {
        if self.plan.share_members == 0 {
            return Vec::new();
        }
        let topic = self.quorum.image().topics().by_name(self.plan.share_topic);
        topic.map_or_else(Vec::new, |t| t.iter().map(|(n, _)| (t.id, n)).collect())
    }

    pub fn take_share(&mut self, client: usize, m: &mut ShareMember) -> u64 {
        // What has piled up must be done with in time.
        let slowest = if self.healing_since.is_some() { 12 } else { 80 };
        let pause = self.between(5 * MS, slowest * MS);
        if let Some((_, since)) = m.asked {
            if since + PATIENCE_US < self.now {
                for connection in std::mem::take(&mut m.connections).into_values() {
                    self.break_connection(connection);
                }
                (m.asked, m.begins) = (None, None);
                m.leaders.clear();
            }
            return pause;
        }
        if m.number == 0 && self.begin_share(client, m) {
            return pause;
        }
        match m.has.pop() {
            Some((key, acquired)) => self.speak_of(client, m, key, acquired),
            None => self.fetch_shared(client, m),
        }
        pause
    }

    /// Sets the share state of a partition that has none yet, as a group's coordinator does.
    fn begin_share(&mut self, client: usize, m: &mut ShareMember) -> bool {
        let keys = self.share_keys();
        let Some(key) = keys.into_iter().find(|k| !self.oracle.shares.begun.contains(k)) else {
            return false;
        };
        let place = share_key(key).state_partition(OFFICES);
        let Some(office) = self.key_in(SHARE_STATE_TOPIC, place) else { return true };
        let Some(broker) = self.ask_leader(client, office, false) else { return true };
        let connection = self.connect(&mut m.connections, broker);
        let req = self.request();
        let ask = ShareAsk::Initialize { state_epoch: 1, start_offset: -1 };
        let wanted = Wanted::Share(share_key(key), ask);
        (m.asked, m.begins) = (Some((req, self.now)), Some(key));
        let message = Message::Call { req, connection, wanted };
        self.send(Place::Client(client), Place::Broker(broker), message);
        true
    }

    fn leader_for(&mut self, client: usize, m: &mut ShareMember, key: Key) -> Option<(usize, u64)> {
        let known = m.leaders.get(&key).copied();
        let leader = known.or_else(|| self.ask_leader(client, key, false))?;
        m.leaders.insert(key, leader);
        Some((leader, self.connect(&mut m.connections, leader)))
    }

    fn fetch_shared(&mut self, client: usize, m: &mut ShareMember) {
        let mut keys = self.share_keys();
        keys.retain(|key| self.oracle.shares.begun.contains(key));
        if keys.is_empty() {
            return;
        }
        m.turn += 1;
        let key = keys[m.turn % keys.len()];
        let Some((leader, connection)) = self.leader_for(client, m, key) else { return };
        let most = if self.healing_since.is_some() { 200 } else { 12 };
        let max_records = i32::try_from(1 + self.rng.below(most)).unwrap();
        let mode = [AcquireMode::BatchOptimized, AcquireMode::RecordLimit][self.rng.below(2)];
        let (req, member) = (self.request(), m.id());
        m.asked = Some((req, self.now));
        let wants = (max_records, mode);
        let message = Message::ShareFetch { req, connection, key, member, wants };
        self.send(Place::Client(client), Place::Broker(leader), message);
    }

    fn kinds(&mut self, count: usize) -> Vec<AckType> {
        let healing = self.healing_since.is_some();
        let one = |n: usize| match n {
            0 | 1 => AckType::Release,
            2 => AckType::Reject,
            _ => AckType::Accept,
        };
        match self.rng.below(10) {
            _ if healing => vec![AckType::Accept],
            0..3 => (0..count).map(|_| one(self.rng.below(8))).collect(),
            n => vec![one(n - 3)],
        }
    }

    fn speak_of(&mut self, client: usize, m: &mut ShareMember, key: Key, acquired: Acquired) {
        let healing = self.healing_since.is_some();
        if !healing && self.rng.one_in(10) {
            // It says nothing; the lock ends.
            return;
        }
        let Some((leader, connection)) = self.leader_for(client, m, key) else { return };
        let mut spoken_of = vec![acquired];
        if healing || self.rng.one_in(2) {
            spoken_of.extend(m.has.extract_if(.., |(k, _)| *k == key).map(|(_, a)| a));
            spoken_of.sort_by_key(|a| a.first);
        }
        let mut acks = Vec::new();
        for Acquired { first, last, .. } in spoken_of {
            let types = self.kinds(usize::try_from(last - first + 1).unwrap());
            acks.push(AckBatch { first, last, types });
        }
        let leaves = !healing && self.rng.one_in(12);
        let (req, member) = (self.request(), m.id());
        m.asked = Some((req, self.now));
        let message = Message::ShareAck { req, connection, key, member, acks, leaves };
        self.send(Place::Client(client), Place::Broker(leader), message);
        if leaves {
            m.has.clear();
        }
    }

    pub fn share_fetched(
        &mut self,
        m: &mut ShareMember,
        req: u64,
        key: Key,
        result: Result<Vec<Acquired>, ErrorCode>,
    ) {
        if m.asked.is_none_or(|(asked, _)| asked != req) {
            return;
        }
        m.asked = None;
        match result {
            Ok(acquired) => m.has.extend(acquired.into_iter().map(|a| (key, a))),
            Err(_) => _ = m.leaders.remove(&key),
        }
    }

    pub fn share_acked(&mut self, m: &mut ShareMember, req: u64, result: Result<(), ErrorCode>) {
        if m.asked.is_none_or(|(asked, _)| asked != req) {
            return;
        }
        m.asked = None;
        if result.is_err() {
            m.leaders.clear();
        }
    }

    pub fn share_begun(&mut self, m: &mut ShareMember, req: u64, answer: &Answer) {
        if m.asked.is_none_or(|(asked, _)| asked != req) {
            return;
        }
        m.asked = None;
        if let (Some(key), ErrorCode::None) = (m.begins.take(), answer.error()) {
            self.oracle.shares.begun.insert(key);
        }
    }
}
