//! Random histories of groups: clients that follow the protocol most of the time, a log that
//! refuses, a high watermark that lags, reloads; and what must hold of all that clients are told.

mod group_world;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use bytes::Bytes;
use group_world::{World, protocols};
use vltava::{
    base::{ErrorCode, Uuid},
    coordinator::{
        Client, Settings,
        calls::{
            Call, CommitCall, CommitPartition, CommitTopic, FetchCall, FetchTopic, HeartbeatCall,
            JoinCall, LeaveCall, Leaving, Reply, SyncCall, Token,
        },
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

/// A client that follows the protocol, most of the time.
struct Agent {
    group: Arc<str>,
    instance_id: Option<Arc<str>>,
    protocols: &'static str,
    member_id: Arc<str>,
    generation: i32,
    /// Whom to give shares, if it leads the generation.
    members: Vec<Arc<str>>,
    doing: Doing,
}

#[derive(PartialEq)]
enum Doing {
    Nothing,
    Waiting(Token),
    Joined,
    Consuming,
}

/// A history: agents, and what must hold of all that they are told.
struct History {
    world: World,
    agents: Vec<Agent>,
    asked: BTreeMap<Token, Call>,
    /// The highest generation told, by group.
    generation: BTreeMap<Arc<str>, i32>,
    /// Shares given in each generation of a group, by member.
    shares: BTreeMap<(Arc<str>, i32), BTreeMap<Arc<str>, Bytes>>,
    /// The last acknowledged commit of each partition, and those that may have overtaken it.
    offsets: BTreeMap<(Arc<str>, i32), BTreeSet<i64>>,
    /// Shares given and commits acknowledged.
    served: usize,
}

impl History {
    fn new() -> Self {
        let settings =
            Settings { max_size: 3, initial_rebalance_delay_ms: 500, ..Settings::default() };
        let agent = |n: usize| Agent {
            group: ["a", "b"][n % 2].into(),
            instance_id: (n < 4).then(|| format!("static{}", n / 2).into()),
            protocols: ["range", "range,sticky", "sticky,range"][n % 3],
            member_id: "".into(),
            generation: -1,
            members: vec![],
            doing: Doing::Nothing,
        };
        Self {
            world: World::new(settings),
            agents: (0..8).map(agent).collect(),
            asked: BTreeMap::new(),
            generation: BTreeMap::new(),
            shares: BTreeMap::new(),
            offsets: BTreeMap::new(),
            served: 0,
        }
    }

    fn ask(&mut self, call: Call) -> Token {
        self.asked.insert(self.world.tokens + 1, call.clone());
        self.world.call(call)
    }

    fn act(&mut self, n: usize, dice: &mut Dice) {
        let agent = &self.agents[n];
        let call = match agent.doing {
            // Some give up, as after a lost connection.
            Doing::Waiting(_) if dice.roll(30) != 0 => return,
            Doing::Waiting(_) => {
                self.agents[n].doing = Doing::Nothing;
                return;
            }
            Doing::Nothing => self.join_call(n, dice),
            Doing::Joined => self.sync_call(agent),
            Doing::Consuming => match dice.roll(10) {
                0 => self.join_call(n, dice),
                1 => Call::Leave(LeaveCall {
                    group: agent.group.clone(),
                    members: vec![Leaving {
                        member_id: agent.member_id.clone(),
                        instance_id: agent.instance_id.clone(),
                    }],
                }),
                2..=5 => self.commit_call(agent, dice),
                // A static client restarts and has forgotten its id.
                6 if agent.instance_id.is_some() => {
                    self.agents[n].member_id = "".into();
                    self.join_call(n, dice)
                }
                _ => Call::Heartbeat(HeartbeatCall {
                    group: agent.group.clone(),
                    generation: agent.generation,
                    member_id: agent.member_id.clone(),
                    instance_id: agent.instance_id.clone(),
                }),
            },
        };
        let token = self.world.tokens + 1;
        self.agents[n].doing = Doing::Waiting(token);
        self.ask(call);
    }

    fn join_call(&self, n: usize, dice: &mut Dice) -> Call {
        let (agent, token) = (&self.agents[n], self.world.tokens);
        let mut unique = [n as u8; 16];
        unique[..8].copy_from_slice(&token.to_be_bytes());
        Call::Join(JoinCall {
            group: agent.group.clone(),
            client: Client { id: "c".into(), host: "/h".into() },
            member_id: agent.member_id.clone(),
            instance_id: agent.instance_id.clone(),
            protocol_type: "consumer".into(),
            protocols: protocols(agent.protocols),
            session_timeout_ms: 6_000 + dice.roll(4_000) as i32,
            rebalance_timeout_ms: 5_000 + dice.roll(5_000) as i32,
            must_know_id: n.is_multiple_of(2),
            can_skip_assignment: n % 4 < 2,
            unique,
        })
    }

    fn sync_call(&self, agent: &Agent) -> Call {
        let token = self.world.tokens;
        let share = |(n, id): (usize, &Arc<str>)| (id.clone(), format!("{token}/{n}").into());
        Call::Sync(SyncCall {
            group: agent.group.clone(),
            generation: agent.generation,
            member_id: agent.member_id.clone(),
            instance_id: agent.instance_id.clone(),
            protocol_type: None,
            protocol: None,
            assignments: agent.members.iter().enumerate().map(share).collect(),
        })
    }

    fn commit_call(&self, agent: &Agent, dice: &mut Dice) -> Call {
        let partition = CommitPartition {
            partition: dice.roll(2) as i32,
            offset: self.world.tokens as i64,
            leader_epoch: -1,
            metadata: "".into(),
        };
        let topic_id = Uuid::ZERO;
        Call::Commit(CommitCall {
            group: agent.group.clone(),
            generation: agent.generation,
            member_id: agent.member_id.clone(),
            instance_id: agent.instance_id.clone(),
            retention_ms: None,
            knows_group_id_not_found: true,
            topics: vec![CommitTopic { name: "t".into(), topic_id, partitions: vec![partition] }],
        })
    }

    fn hear_all(&mut self) {
        self.world.appends.clear();
        for (token, reply) in std::mem::take(&mut self.world.replies) {
            let call = self.asked.remove(&token).expect("a call is answered once");
            self.check(&call, &reply);
            let agent = self.agents.iter_mut().find(|a| a.doing == Doing::Waiting(token));
            if let Some(agent) = agent {
                agent.hear(&reply);
            }
        }
    }

    fn check(&mut self, call: &Call, reply: &Reply) {
        match (call, reply) {
            (Call::Join(call), Reply::Join(r)) if r.error == ErrorCode::None => {
                let known = self.generation.entry(call.group.clone()).or_insert(0);
                assert!(r.generation >= *known, "generations rise");
                *known = r.generation;
                // Static members that are awaited still do not count.
                let dynamic = r.members.iter().filter(|m| m.instance_id.is_none()).count();
                assert!(dynamic <= 3, "a group has its limit");
            }
            (Call::Sync(call), Reply::Sync(r)) if r.error == ErrorCode::None => {
                self.served += 1;
                let shares = self.shares.entry((call.group.clone(), call.generation)).or_default();
                // A static member is one member under whatever id.
                let who = call.instance_id.as_ref().unwrap_or(&call.member_id).clone();
                let before = shares.insert(who, r.assignment.clone());
                assert!(before.is_none_or(|b| b == r.assignment), "one share a generation");
                let mut owned = BTreeSet::new();
                for share in shares.values().filter(|s| !s.is_empty()) {
                    assert!(owned.insert(share.clone()), "one owner a partition a generation");
                }
            }
            (Call::Commit(call), Reply::Commit(r)) => {
                let p = &call.topics[0].partitions[0];
                let key = (call.group.clone(), p.partition);
                let possible = self.offsets.entry(key).or_insert_with(|| [-1].into());
                if r.error == ErrorCode::None {
                    self.served += 1;
                    *possible = [p.offset].into();
                } else {
                    possible.insert(p.offset);
                }
            }
            _ => {}
        }
    }

    fn fetch(
        &mut self,
        group: &str,
        topics: Option<Vec<FetchTopic>>,
        require_stable: bool,
    ) -> Reply {
        let call = FetchCall {
            group: group.into(),
            member_id: None,
            member_epoch: -1,
            topics,
            require_stable,
        };
        let token = self.world.call(Call::Fetch(call));
        self.world.replies.iter().find(|(t, _)| *t == token).map(|(_, r)| r.clone()).unwrap()
    }

    fn check_offsets(&mut self) {
        for ((group, partition), possible) in self.offsets.clone() {
            let in_flight = self.asked.values().any(|c| matches!(c, Call::Commit(_)));
            let topic_id = Uuid::ZERO;
            let topic = FetchTopic { name: "t".into(), topic_id, partitions: vec![partition] };
            let Reply::Fetch(r) = self.fetch(&group, Some(vec![topic]), false) else {
                panic!("a fetch is answered with a fetch");
            };
            let found = r.topics[0].partitions[0].offset;
            assert!(
                possible.contains(&found) || in_flight,
                "group {group} partition {partition}: {found} is none of {possible:?}"
            );
        }
        self.world.replies.clear();
    }

    fn snapshot(&mut self) -> String {
        let mut out = String::new();
        for group in ["a", "b"] {
            let fetched = self.fetch(group, None, true);
            let g = self.world.shard.as_ref().unwrap().describe(&group.into());
            let _ = writeln!(out, "{} {} {} {fetched:?}", g.group, g.state, g.members.len());
        }
        self.world.replies.clear();
        out
    }
}

impl Agent {
    fn hear(&mut self, reply: &Reply) {
        self.doing = Doing::Nothing;
        let (error, next) = match reply {
            Reply::Join(r) => {
                if r.error == ErrorCode::None {
                    self.generation = r.generation;
                    self.members = r.members.iter().map(|m| m.member_id.clone()).collect();
                }
                if matches!(r.error, ErrorCode::None | ErrorCode::MemberIdRequired) {
                    self.member_id = r.member_id.clone();
                }
                (r.error, Doing::Joined)
            }
            Reply::Sync(r) => (r.error, Doing::Consuming),
            Reply::Heartbeat(error) => (*error, Doing::Consuming),
            Reply::Commit(r) => (r.error, Doing::Consuming),
            Reply::Leave(_) => (ErrorCode::UnknownMemberId, Doing::Nothing),
            _ => return,
        };
        match error {
            ErrorCode::None => self.doing = next,
            ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => self.member_id = "".into(),
            _ => {}
        }
    }
}

fn random_history(seed: u64) -> usize {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut history = History::new();
    for _ in 0..1_000 {
        match dice.roll(50) {
            0..=35 => history.act(dice.roll(8) as usize, &mut dice),
            36..=44 => history.world.advance(dice.roll(1_000)),
            45 => history.world.advance(dice.roll(12_000)),
            46 => {
                history.world.follows = dice.roll(3) != 0;
                history.world.commit_all();
            }
            47 => history.world.refuse = Some(ErrorCode::NotEnoughReplicas),
            48 => history.check_offsets(),
            _ if dice.roll(6) == 0 => {
                history.world.load();
                // A generation whose assignment was not stored is forgotten with the leader.
                history.generation.clear();
                history.shares.clear();
            }
            _ => {}
        }
        history.hear_all();
    }
    // Healed, every call is answered: nothing parks longer than the longest timer.
    history.world.follows = true;
    history.world.refuse = None;
    history.world.commit_all();
    history.world.advance(400_000);
    history.hear_all();
    assert!(history.asked.is_empty(), "unanswered: {:?}", history.asked);
    history.check_offsets();
    // What the log says is what the shard says.
    let before = history.snapshot();
    history.world.load();
    // A group that could not store that it is empty stores it again when its sessions have ended.
    history.world.advance(60_000);
    assert_eq!(history.snapshot(), before, "a reload changes nothing");
    history.served
}

#[test]
fn random_histories_keep_the_invariants() {
    let served: usize = (1..=100)
        .map(|seed| {
            let played = std::panic::catch_unwind(|| random_history(seed));
            played.unwrap_or_else(|cause| {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(cause)
            })
        })
        .sum();
    assert!(served > 3_000, "{served} shares and commits: the histories do too little");
}
