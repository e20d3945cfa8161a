//! Members of a classic group: they join and sync, the leader assigns, and all stop at every
//! rebalance (the eager protocol). What one assigns are numbers of partitions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use vltava::{
    base::{ErrorCode, Offset, PartitionId},
    coordinator::{
        Client as Caller,
        calls::{
            Call, CommitCall, CommitPartition, CommitTopic, FetchCall, FetchTopic, HeartbeatCall,
            JoinCall, JoinReply, Protocol, Reply, SyncCall,
        },
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
    txn_clients::OFFICES,
    txn_serve::Wanted,
    world::World,
};

const GROUP: &str = "classic";
/// A request without an answer is given up after this long; a join waits for the others.
const PATIENCE_US: u64 = SECOND;
const JOIN_PATIENCE_US: u64 = 4 * SECOND;
const REBALANCE_MS: i32 = 2_500;
/// Within this time after its last heartbeat that was answered, nobody can think that a member is
/// gone. A SyncGroup to a stable group does not count, as in Kafka.
const SURE_US: u64 = GROUP_SESSION_MS as u64 * 3 / 4 * MS;
/// Commits that each member must get through once all faults are over.
const FRESH: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Join,
    Sync,
    Heartbeat,
    Fetch,
    Commit,
}

/// One member.
pub struct ClassicMember {
    /// As the group knows it; empty before it does.
    id: Arc<str>,
    generation: i32,
    /// What it does next, unless it is in the group for good.
    next: Option<What>,
    /// As the leader: what each gets, and how many partitions there were.
    shares: Vec<(Arc<str>, Bytes)>,
    leads_for: Option<usize>,
    owned: BTreeSet<PartitionId>,
    positions: BTreeMap<PartitionId, Offset>,
    asked: Option<(u64, u64, What)>,
    connections: BTreeMap<usize, u64>,
    leader: Option<usize>,
    rest_until: u64,
    beat_at: u64,
    sure_since: u64,
    fresh: usize,
}

impl ClassicMember {
    /// It stops using anything, and joins.
    fn rejoin(&mut self) {
        self.next = Some(What::Join);
        self.owned.clear();
        self.positions.clear();
        self.leads_for = None;
    }

    /// It is killed, and begins as another.
    pub fn die(&mut self) {
        self.rejoin();
        self.id = "".into();
        self.asked = None;
    }
}

impl World {
    pub fn start_classic_members(&mut self) {
        for _ in 0..self.plan.classic_members {
            self.clients.push(Client::Classic(ClassicMember {
                id: "".into(),
                generation: -1,
                next: Some(What::Join),
                shares: Vec::new(),
                leads_for: None,
                owned: BTreeSet::new(),
                positions: BTreeMap::new(),
                asked: None,
                connections: BTreeMap::new(),
                leader: None,
                rest_until: 0,
                beat_at: 0,
                sure_since: 0,
                fresh: FRESH,
            }));
        }
    }

    fn partitions_to_share(&self) -> usize {
        self.quorum.image().topics().by_name(TOPIC).map_or(0, |t| t.partitions.len())
    }

    pub fn take_classic_part(&mut self, client: usize, m: &mut ClassicMember) -> u64 {
        let pause = self.between(20 * MS, 120 * MS);
        if let Some((_, since, what)) = m.asked {
            let patience = if what == What::Join { JOIN_PATIENCE_US } else { PATIENCE_US };
            if since + patience < self.now {
                for connection in std::mem::take(&mut m.connections).into_values() {
                    self.break_connection(connection);
                }
                (m.asked, m.leader) = (None, None);
                if what == What::Sync {
                    m.rejoin();
                }
            }
            return pause;
        }
        let Some(key) = self.key_in(OFFSETS_TOPIC, partition_for(GROUP, OFFICES)) else {
            return pause;
        };
        if self.now < m.rest_until || self.key_in(TOPIC, 0).is_none() {
            return pause;
        }
        if m.leader.is_none() {
            m.leader = self.ask_leader(client, key, false);
        }
        let Some(leader) = m.leader else { return pause };
        if self.brokers[leader].life.is_none() {
            m.leader = None;
            return pause;
        }
        if m.leads_for.is_some_and(|count| count != self.partitions_to_share()) {
            m.rejoin();
        }
        let Some((what, call)) = self.next_classic_call(m) else { return pause };
        let req = self.request();
        m.asked = Some((req, self.now, what));
        let connection = self.connect(&mut m.connections, leader);
        let message = Message::Call { req, connection, wanted: Wanted::Group(GROUP.into(), call) };
        self.send(Place::Client(client), Place::Broker(leader), message);
        pause
    }

    fn next_classic_call(&mut self, m: &mut ClassicMember) -> Option<(What, Call)> {
        let due = m.beat_at + 200 * MS < self.now;
        let unknown = m.owned.iter().find(|p| !m.positions.contains_key(p)).copied();
        let what = match m.next {
            Some(what) => what,
            None if due => What::Heartbeat,
            None if unknown.is_some() => What::Fetch,
            None if m.owned.is_empty() => return None,
            None if self.healing_since.is_some() && m.fresh == 0 => return None,
            None => What::Commit,
        };
        let (group, member_id): (Arc<str>, _) = (GROUP.into(), m.id.clone());
        let topic_id = self.key_in(TOPIC, 0)?.0;
        let call = match what {
            What::Join => {
                let mut unique = [0; 16];
                unique[..8].copy_from_slice(&self.rng.u64().to_le_bytes());
                Call::Join(JoinCall {
                    group,
                    client: Caller::default(),
                    member_id,
                    instance_id: None,
                    protocol_type: "sim".into(),
                    protocols: vec![Protocol { name: "share".into(), metadata: Bytes::new() }],
                    session_timeout_ms: GROUP_SESSION_MS,
                    rebalance_timeout_ms: REBALANCE_MS,
                    must_know_id: true,
                    can_skip_assignment: true,
                    unique,
                })
            }
            What::Sync => Call::Sync(SyncCall {
                group,
                generation: m.generation,
                member_id,
                instance_id: None,
                protocol_type: None,
                protocol: None,
                assignments: std::mem::take(&mut m.shares),
            }),
            What::Heartbeat => Call::Heartbeat(HeartbeatCall {
                group,
                generation: m.generation,
                member_id,
                instance_id: None,
            }),
            What::Fetch => {
                let partitions = vec![unknown?];
                let topic = FetchTopic { name: TOPIC.into(), topic_id, partitions };
                Call::Fetch(FetchCall {
                    group,
                    member_id: None,
                    member_epoch: -1,
                    topics: Some(vec![topic]),
                    require_stable: true,
                })
            }
            What::Commit => {
                let n = self.rng.below(m.owned.len());
                let partition = *m.owned.iter().nth(n)?;
                let position = m.positions.entry(partition).or_default();
                *position += i64::try_from(self.rng.below(3)).unwrap();
                let commit = CommitPartition {
                    partition,
                    offset: *position,
                    leader_epoch: -1,
                    metadata: "".into(),
                };
                let topic = CommitTopic { name: TOPIC.into(), topic_id, partitions: vec![commit] };
                Call::Commit(CommitCall {
                    group,
                    generation: m.generation,
                    member_id,
                    instance_id: None,
                    retention_ms: None,
                    knows_group_id_not_found: true,
                    topics: vec![topic],
                })
            }
        };
        Some((what, call))
    }

    pub fn classic_hears(&mut self, client: usize, m: &mut ClassicMember, req: u64, a: Answer) {
        let Some((asked, since, what)) = m.asked else { return };
        if asked != req {
            return;
        }
        m.asked = None;
        match (what, a.error(), a) {
            (What::Join, ErrorCode::None, Answer::Group(Reply::Join(reply))) => {
                (m.id, m.generation) = (reply.member_id.clone(), reply.generation);
                m.next = Some(What::Sync);
                m.shares = if reply.leader == reply.member_id {
                    m.leads_for = Some(self.partitions_to_share());
                    Self::share(&reply, self.partitions_to_share())
                } else {
                    Vec::new()
                };
            }
            (What::Join, ErrorCode::MemberIdRequired, Answer::Group(Reply::Join(reply))) => {
                m.id = reply.member_id;
            }
            (What::Sync, ErrorCode::None, Answer::Group(Reply::Sync(reply))) => {
                m.next = None;
                m.owned = reply.assignment.iter().map(|b| PartitionId::from(*b)).collect();
                m.beat_at = since;
                self.check_classic_owners(m);
            }
            (What::Heartbeat, ErrorCode::None, _) => {
                m.beat_at = since;
                self.sure_of_classic(client, m, since);
            }
            (What::Fetch, ErrorCode::None, Answer::Group(Reply::Fetch(reply))) => {
                let all = reply.topics.iter().flat_map(|t| &t.partitions);
                for p in all.filter(|p| p.error == ErrorCode::None) {
                    m.positions.insert(p.partition, p.offset.max(0));
                }
            }
            (What::Commit, ErrorCode::None, _) => {
                self.oracle.commits += 1;
                if self.healing_since.is_some() {
                    m.fresh = m.fresh.saturating_sub(1);
                }
            }
            (_, ErrorCode::UnknownMemberId, _) => m.die(),
            (
                What::Heartbeat | What::Sync,
                ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration,
                _,
            )
            | (What::Commit, ErrorCode::IllegalGeneration, _) => m.rejoin(),
            (_, code, _) => {
                if matches!(code, ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable) {
                    m.leader = None;
                }
                if what == What::Sync {
                    m.rejoin();
                }
                m.rest_until = self.now + self.between(20 * MS, 100 * MS);
            }
        }
    }

    /// The leader's assignment: one partition after the other to one member after the other.
    fn share(reply: &JoinReply, count: usize) -> Vec<(Arc<str>, Bytes)> {
        let members = reply.members.len();
        let of = |n: usize| -> Bytes {
            (0..count).filter(|p| p % members == n).map(|p| u8::try_from(p).unwrap()).collect()
        };
        reply.members.iter().enumerate().map(|(n, m)| (m.member_id.clone(), of(n))).collect()
    }

    /// Nobody uses what another uses who cannot have been given up.
    fn sure_of_classic(&mut self, client: usize, m: &mut ClassicMember, since: u64) {
        if !self.coordinates(m.leader, GROUP) {
            return;
        }
        m.sure_since = since;
        let sure = |m: &ClassicMember| m.sure_since > 0 && m.sure_since + SURE_US > self.now;
        for (n, other) in self.clients.iter().enumerate() {
            let Client::Classic(other) = other else { continue };
            if n == client || !sure(m) || !sure(other) {
                continue;
            }
            if let Some(p) = m.owned.intersection(&other.owned).next() {
                let (a, b) = (&m.id, &other.id);
                let (of_a, of_b) = (m.generation, other.generation);
                let text = format!("{p} is used by {a} ({of_a}) and {b} ({of_b})");
                return self.violate("owners", text);
            }
        }
    }

    fn check_classic_owners(&mut self, m: &ClassicMember) {
        for p in &m.owned {
            let key = (GROUP.to_owned(), [0; 16], *p, m.generation);
            let before = self.oracle.histories.owners.insert(key, m.id.to_string());
            if before.as_ref().is_some_and(|before| **before != *m.id) {
                let (id, generation) = (&m.id, m.generation);
                let text = format!("{p} is of {before:?} and of {id} in generation {generation}");
                return self.violate("owners", text);
            }
        }
    }

    /// What the group still lacks once all faults are over.
    pub fn classic_group_lacks(&self) -> Option<String> {
        let members = self.clients.iter().filter_map(|c| match c {
            Client::Classic(m) => Some(m),
            _ => None,
        });
        let (mut used, mut some) = (0, false);
        for m in members {
            some = true;
            if m.next.is_some() {
                return Some(format!("{:?} has yet to {:?}", m.id, m.next));
            }
            if m.fresh > 0 && !m.owned.is_empty() {
                return Some(format!("{} has yet to commit", m.id));
            }
            used += m.owned.len();
        }
        let all = self.partitions_to_share();
        (some && used != all).then(|| format!("{used} of {all} partitions have a classic user"))
    }
}
