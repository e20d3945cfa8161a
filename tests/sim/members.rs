//! Members of a consumer group (KIP-848): they join, die and return, take and give back partitions,
//! and commit how far they are.

use std::{collections::BTreeMap, sync::Arc};

use vltava::{
    base::{ErrorCode, Offset, PartitionId, Uuid},
    coordinator::{
        Client as Caller,
        calls::{Call, CommitCall, CommitPartition, CommitTopic, FetchCall, FetchTopic, Reply},
        calls_consumer::{ConsumerHeartbeatCall, ConsumerHeartbeatReply},
        consumer_records::Partitions,
        partition_for,
    },
    node::offsets_log::OFFSETS_TOPIC,
};

use crate::{
    clients::{Client, TOPIC},
    machine::Answer,
    net::{Message, Place},
    offices::GROUP_SESSION_MS,
    plan::{MS, SECOND},
    txn_clients::{OFFICES, TXN_TOPIC},
    txn_serve::Wanted,
    world::World,
};

const GROUP: &str = "members";
/// A request without an answer is given up after this long.
const PATIENCE_US: u64 = SECOND;
/// Within this time after it asked last and was answered, nobody can think that a member is gone.
const SURE_US: u64 = GROUP_SESSION_MS as u64 * 3 / 4 * MS;
/// Commits that each member must get through once all faults are over.
const FRESH: usize = 2;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Heartbeat,
    Fetch,
    Commit,
}

/// One member.
pub struct Member {
    name: String,
    lives: usize,
    /// 0 while it is not in.
    epoch: i32,
    joined: bool,
    /// What it uses, and where it is in it, as far as it knows.
    owned: Partitions,
    positions: BTreeMap<(Uuid, PartitionId), Offset>,
    may_use: Partitions,
    /// An answer may be lost: it says all, and so is told all.
    says_all: bool,
    asked: Option<(u64, u64, What)>,
    connections: BTreeMap<usize, u64>,
    leader: Option<usize>,
    rest_until: u64,
    /// When it sent the last heartbeat that was answered; and the last that was answered by who
    /// coordinates the group indeed.
    beat_at: u64,
    sure_since: u64,
    fresh: usize,
}

impl Member {
    fn id(&self) -> String {
        format!("{}-{}", self.name, self.lives)
    }

    fn forget(&mut self) {
        (self.joined, self.epoch) = (false, 0);
        self.owned.clear();
        self.may_use.clear();
        self.positions.clear();
    }

    /// It is killed, and begins as another.
    pub fn die(&mut self) {
        self.forget();
        self.lives += 1;
        self.asked = None;
    }

    /// Gives back what it may not use.
    fn settle(&mut self) {
        self.owned.clone_from(&self.may_use);
        let owned = &self.owned;
        self.positions.retain(|(topic, p), _| owned.get(topic).is_some_and(|all| all.contains(p)));
    }

    fn uses(&self) -> impl Iterator<Item = (Uuid, PartitionId)> {
        self.owned.iter().flat_map(|(topic, all)| all.iter().map(|p| (*topic, *p)))
    }
}

impl World {
    pub fn start_members(&mut self) {
        for n in 0..self.plan.members {
            let member = Member {
                name: format!("m{n}"),
                lives: 0,
                epoch: 0,
                joined: false,
                owned: Partitions::new(),
                positions: BTreeMap::new(),
                may_use: Partitions::new(),
                says_all: false,
                asked: None,
                connections: BTreeMap::new(),
                leader: None,
                rest_until: 0,
                beat_at: 0,
                sure_since: 0,
                fresh: FRESH,
            };
            self.clients.push(Client::Member(member));
        }
    }

    pub fn take_part(&mut self, client: usize, m: &mut Member) -> u64 {
        let pause = self.between(20 * MS, 150 * MS);
        let healing = self.healing_since.is_some();
        if let Some((_, since, _)) = m.asked {
            if since + PATIENCE_US < self.now {
                for connection in std::mem::take(&mut m.connections).into_values() {
                    self.break_connection(connection);
                }
                (m.asked, m.leader, m.says_all) = (None, None, true);
            }
            return pause;
        }
        if self.now < m.rest_until {
            return pause;
        }
        let Some(key) = self.key_in(OFFSETS_TOPIC, partition_for(GROUP, OFFICES)) else {
            return pause;
        };
        if m.leader.is_none() {
            m.leader = self.ask_leader(client, key, false);
        }
        let Some(leader) = m.leader else { return pause };
        if self.brokers[leader].life.is_none() {
            m.leader = None;
            return pause;
        }
        let unknown: Vec<_> = m.uses().filter(|p| !m.positions.contains_key(p)).collect();
        let due = m.beat_at + 200 * MS < self.now;
        let (what, call) = if !m.joined || due {
            // It takes its time to give back.
            if healing || self.rng.below(3) > 0 {
                m.settle();
            }
            self.check_users(client, m);
            (What::Heartbeat, Self::heartbeat(m))
        } else if let Some(at) = unknown.first() {
            (What::Fetch, self.fetch_position(m, *at))
        } else if let (Some(at), true) = (self.some_used(m), !healing || m.fresh > 0) {
            let by = self.between(0, 3) as i64;
            (What::Commit, self.commit_position(m, at, by))
        } else {
            return pause;
        };
        let req = self.request();
        m.asked = Some((req, self.now, what));
        let wanted = Wanted::Group(GROUP.into(), call);
        let connection = self.connect(&mut m.connections, leader);
        let message = Message::Call { req, connection, wanted };
        self.send(Place::Client(client), Place::Broker(leader), message);
        pause
    }

    fn heartbeat(m: &Member) -> Call {
        let says = m.says_all || !m.joined;
        let topics = [TOPIC, TXN_TOPIC].map(Arc::from);
        Call::ConsumerHeartbeat(Box::new(ConsumerHeartbeatCall {
            group: GROUP.into(),
            client: Caller::default(),
            member_id: m.id().into(),
            epoch: m.epoch,
            instance_id: None,
            rack: None,
            rebalance_timeout_ms: says.then_some(300_000),
            topics: says.then(|| topics.into_iter().collect()),
            regex: None,
            assignor: None,
            owned: Some(if m.joined { m.owned.clone() } else { Partitions::new() }),
            unique: [0; 16],
        }))
    }

    fn name_of(&self, topic: Uuid) -> Arc<str> {
        let image = self.quorum.image();
        let topic = image.topics().iter().find(|t| t.id == topic);
        topic.map_or_else(|| "gone".into(), |t| Arc::clone(&t.name))
    }

    fn fetch_position(&self, m: &Member, (topic, partition): (Uuid, PartitionId)) -> Call {
        let name = self.name_of(topic);
        Call::Fetch(FetchCall {
            group: GROUP.into(),
            member_id: Some(m.id().into()),
            member_epoch: m.epoch,
            topics: Some(vec![FetchTopic { name, topic_id: topic, partitions: vec![partition] }]),
            require_stable: true,
        })
    }

    fn some_used(&mut self, m: &Member) -> Option<(Uuid, PartitionId)> {
        let all: Vec<_> = m.uses().collect();
        (!all.is_empty()).then(|| all[self.rng.below(all.len())])
    }

    fn commit_position(&self, m: &mut Member, at: (Uuid, PartitionId), by: Offset) -> Call {
        let position = m.positions.entry(at).or_default();
        *position += by;
        let partition = CommitPartition {
            partition: at.1,
            offset: *position,
            leader_epoch: -1,
            metadata: "".into(),
        };
        let name = self.name_of(at.0);
        let topic = CommitTopic { name, topic_id: at.0, partitions: vec![partition] };
        Call::Commit(CommitCall {
            group: GROUP.into(),
            generation: m.epoch,
            member_id: m.id().into(),
            instance_id: None,
            retention_ms: None,
            knows_group_id_not_found: true,
            topics: vec![topic],
        })
    }

    pub fn member_hears(&mut self, client: usize, m: &mut Member, req: u64, answer: Answer) {
        let Some((asked, since, what)) = m.asked else { return };
        if asked != req {
            return;
        }
        m.asked = None;
        match (what, answer.error(), answer) {
            (What::Heartbeat, ErrorCode::None, Answer::Group(Reply::ConsumerHeartbeat(reply))) => {
                m.beat_at = since;
                if self.coordinates(m.leader, GROUP) {
                    m.sure_since = since;
                }
                self.told_by_group(m, reply);
                self.check_users(client, m);
            }
            (What::Fetch, ErrorCode::None, Answer::Group(Reply::Fetch(reply))) => {
                for topic in reply.topics {
                    for p in topic.partitions {
                        if p.error == ErrorCode::None {
                            let at = (topic.topic_id, p.partition);
                            m.positions.insert(at, p.offset.max(0));
                        }
                    }
                }
            }
            (What::Commit, ErrorCode::None, _) => {
                self.oracle.commits += 1;
                if self.healing_since.is_some() {
                    m.fresh = m.fresh.saturating_sub(1);
                }
            }
            (_, ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId, _) => m.forget(),
            (_, code, _) => {
                if matches!(code, ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) {
                    m.leader = None;
                }
                m.says_all |= what == What::Heartbeat;
                if code == ErrorCode::StaleMemberEpoch {
                    m.beat_at = 0;
                }
                m.rest_until = self.now + self.between(20 * MS, 100 * MS);
            }
        }
    }

    /// Whether that broker coordinates a group indeed: one that was deposed may not know it.
    pub fn coordinates(&self, broker: Option<usize>, group: &str) -> bool {
        let topic = self.quorum.image().topics().by_name(OFFSETS_TOPIC);
        let partition = topic.and_then(|t| t.partition(partition_for(group, OFFICES)));
        partition.and_then(|p| p.leader).map(|l| self.index_of(l)) == broker
    }

    /// A group tells a member where it stands and what it may use.
    fn told_by_group(&mut self, m: &mut Member, reply: ConsumerHeartbeatReply) {
        (m.joined, m.epoch, m.says_all) = (true, reply.epoch, false);
        if let Some(may_use) = reply.assignment {
            // It takes at once, and gives back later: what it says that it has is never too little.
            for (topic, partitions) in &may_use {
                m.owned.entry(*topic).or_default().extend(partitions);
            }
            m.may_use = may_use;
        }
        for (topic, partitions) in &m.may_use {
            for partition in partitions {
                let key = (GROUP.to_owned(), topic.0, *partition, m.epoch);
                let owners = &mut self.oracle.histories.owners;
                let other = owners.insert(key, m.id()).filter(|other| *other != m.id());
                if let Some(other) = other {
                    let text = format!(
                        "{topic:?}-{partition} is of {other} and of {} in epoch {}",
                        m.id(),
                        m.epoch
                    );
                    self.violate("owners", text);
                    return;
                }
            }
        }
    }

    /// Nobody uses what another uses who cannot have been given up.
    fn check_users(&mut self, client: usize, m: &Member) {
        let sure = |m: &Member| m.joined && m.sure_since + SURE_US > self.now;
        if !sure(m) {
            return;
        }
        for (n, other) in self.clients.iter().enumerate() {
            let Client::Member(other) = other else { continue };
            if n == client || !sure(other) {
                continue;
            }
            if let Some((topic, p)) = m.uses().find(|u| other.uses().any(|o| o == *u)) {
                let text = format!("{topic:?}-{p} is used by {} and {}", m.id(), other.id());
                return self.violate("owners", text);
            }
        }
    }

    /// What the group still lacks once all faults are over.
    pub fn group_lacks(&self) -> Option<String> {
        let members = self.clients.iter().filter_map(|c| match c {
            Client::Member(m) => Some(m),
            _ => None,
        });
        let (mut used, mut some) = (0, false);
        for m in members {
            some = true;
            if !m.joined {
                return Some(format!("{} is not in its group", m.id()));
            }
            if m.owned != m.may_use {
                return Some(format!("{} has yet to take what it may", m.id()));
            }
            let uses = m.uses().count();
            if m.fresh > 0 && uses > 0 {
                return Some(format!("{} has yet to commit", m.id()));
            }
            used += uses;
        }
        let image = self.quorum.image();
        let count = |name: &str| image.topics().by_name(name).map_or(0, |t| t.partitions.len());
        let all = count(TOPIC) + count(TXN_TOPIC);
        (some && used != all).then(|| format!("{used} of {all} partitions have a user"))
    }
}
