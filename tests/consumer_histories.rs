//! Random histories of consumer groups (KIP-848): members that come, go, die and return, topics that
//! grow, a log that refuses, a high watermark that lags, reloads, a wall clock that jumps. No
//! partition ever has two users, and once things calm down every partition has one.

mod group_world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use group_world::World;
use vltava::{
    base::{ErrorCode, NodeId, PartitionId, Uuid},
    coordinator::{
        Client, ConsumerSettings, Settings,
        calls::{Call, Reply, Token},
        calls_consumer::{ConsumerHeartbeatCall, ConsumerHeartbeatReply},
        consumer_records::Partitions,
    },
    metadata::{PartitionRegistration, Record as Metadata, record::Partition},
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

const TOPICS: [&str; 3] = ["a", "b", "c"];

fn topic_id(name: &str) -> Uuid {
    Uuid([name.as_bytes()[0]; 16])
}

/// A client that follows the protocol.
#[derive(Default)]
struct Agent {
    id: String,
    lives: usize,
    instance: Option<Arc<str>>,
    topics: BTreeSet<Arc<str>>,
    regex: bool,
    /// 0 while it is not in.
    epoch: i32,
    in_group: bool,
    /// What it uses.
    owned: Partitions,
    /// What the coordinator last said it may use.
    may_use: Partitions,
    /// Its subscription changed since it was last said.
    says_topics: bool,
    /// An answer may be lost: it says all, and so is told all.
    says_all: bool,
    waits: Option<Token>,
}

struct History {
    world: World,
    agents: Vec<Agent>,
    counts: BTreeMap<&'static str, i32>,
    seed: u64,
}

impl History {
    fn new(seed: u64, range: bool) -> Self {
        let mut consumer = ConsumerSettings {
            assignment_interval_ms: if seed.is_multiple_of(2) { 0 } else { 1_000 },
            ..Default::default()
        };
        if range {
            consumer.assignors.reverse();
        }
        let settings = Settings { consumer, ..Settings::default() };
        let agent = |n: usize| Agent {
            id: format!("m{n}-0"),
            instance: n.is_multiple_of(3).then(|| format!("i{n}").into()),
            topics: TOPICS.iter().take(1 + n % 3).map(|t| Arc::from(*t)).collect(),
            regex: n % 4 == 3,
            ..Default::default()
        };
        let mut history = Self {
            world: World::new(settings),
            agents: (0..6).map(agent).collect(),
            counts: BTreeMap::new(),
            seed,
        };
        for topic in &TOPICS[..2] {
            history.grow(topic, 3);
        }
        history
    }

    fn grow(&mut self, name: &'static str, by: i32) {
        let id = topic_id(name);
        let count = self.counts.entry(name).or_default();
        let mut records = vec![];
        if *count == 0 {
            records.push(Metadata::Topic { name: name.into(), id });
        }
        let state = PartitionRegistration::new(&[NodeId(1)], &[Uuid([9; 16])], &[NodeId(1)]);
        for partition in *count..*count + by {
            let state = state.clone();
            records.push(Metadata::Partition(Partition { topic_id: id, partition, state }));
        }
        *count += by;
        self.world.metadata(&records);
    }

    fn heartbeat(&mut self, n: usize, epoch: i32) {
        let agent = &mut self.agents[n];
        let joins = epoch == 0;
        let says_all = joins || agent.says_all;
        let says = says_all || agent.says_topics;
        let topics = match agent.regex {
            true => BTreeSet::new(),
            false => agent.topics.clone(),
        };
        let call = ConsumerHeartbeatCall {
            group: "g".into(),
            client: Client::default(),
            member_id: agent.id.as_str().into(),
            epoch,
            instance_id: agent.instance.clone(),
            rack: None,
            rebalance_timeout_ms: says_all.then_some(300_000),
            topics: says.then_some(topics),
            regex: says.then(|| if agent.regex { "[ac]".into() } else { "".into() }),
            assignor: None,
            owned: Some(if joins { Partitions::new() } else { agent.owned.clone() }),
            unique: [0; 16],
        };
        agent.waits = Some(self.world.tokens + 1);
        self.world.call(Call::ConsumerHeartbeat(Box::new(call)));
    }

    fn act(&mut self, n: usize, dice: &mut Dice) {
        if self.agents[n].waits.is_some() {
            return;
        }
        let agent = &mut self.agents[n];
        if !agent.in_group {
            if dice.roll(3) == 0 {
                self.heartbeat(n, 0);
            }
            return;
        }
        match dice.roll(40) {
            0 => {
                // It stops using everything, and says so; a static one may be back.
                agent.owned.clear();
                agent.may_use.clear();
                let for_a_while = agent.instance.is_some() && dice.roll(2) == 0;
                self.heartbeat(n, if for_a_while { -2 } else { -1 });
                self.agents[n].die();
            }
            1 if agent.instance.is_none() => agent.die(),
            2 => {
                agent.topics =
                    TOPICS.iter().take(1 + dice.roll(3) as usize).map(|t| Arc::from(*t)).collect();
                agent.regex = dice.roll(4) == 0;
                agent.says_topics = true;
                let epoch = agent.epoch;
                self.heartbeat(n, epoch);
            }
            _ => {
                // It takes its time to give back.
                if dice.roll(3) != 0 {
                    agent.settle();
                }
                let epoch = agent.epoch;
                self.heartbeat(n, epoch);
            }
        }
    }

    fn hear(&mut self) {
        for (token, reply) in std::mem::take(&mut self.world.replies) {
            let Some(agent) = self.agents.iter_mut().find(|a| a.waits == Some(token)) else {
                continue;
            };
            agent.waits = None;
            if let Reply::ConsumerHeartbeat(reply) = reply {
                agent.hear(reply);
            }
        }
        self.check();
    }

    /// Nobody uses what another uses.
    fn check(&self) {
        let mut users: BTreeMap<(Uuid, PartitionId), &str> = BTreeMap::new();
        for agent in &self.agents {
            for (topic, partitions) in &agent.owned {
                for p in partitions {
                    let other = users.insert((*topic, *p), &agent.id);
                    assert_eq!(other, None, "seed {}: {topic}-{p} of {}", self.seed, agent.id);
                }
            }
        }
    }

    fn run(&mut self, steps: usize, dice: &mut Dice) {
        for _ in 0..steps {
            let n = dice.roll(self.agents.len() as u64) as usize;
            self.act(n, dice);
            match dice.roll(60) {
                0 => self.world.refuse = Some(ErrorCode::NotEnoughReplicas),
                1 => self.world.follows = !self.world.follows,
                2 | 3 => self.world.commit_all(),
                4 => {
                    // What is not committed may be lost or not: here it is kept.
                    self.world.load();
                    self.world.commit_all();
                }
                5 => self.grow(TOPICS[dice.roll(3) as usize], 1),
                6..=20 => self.world.advance(200),
                21 => {
                    // The wall clock is set, a day forth and back again.
                    let (wall_ms, day) = (&mut self.world.now.wall_ms, 86_400_000);
                    *wall_ms += if *wall_ms < day { day } else { -day };
                }
                _ => {}
            }
            self.world.resolve();
            self.hear();
        }
    }

    /// Everybody follows the protocol to the letter until nothing changes.
    fn calm(&mut self) {
        self.world.follows = true;
        self.world.refuse = None;
        self.world.commit_all();
        for _ in 0..40 {
            for n in 0..self.agents.len() {
                self.hear();
                let agent = &mut self.agents[n];
                agent.says_all |= agent.waits.take().is_some();
                agent.settle();
                if agent.in_group || n < 2 {
                    let epoch = if agent.in_group { agent.epoch } else { 0 };
                    self.heartbeat(n, epoch);
                }
                self.world.resolve();
                self.hear();
            }
            // Beyond the pauses of regular expressions and assignments, and in the end of sessions.
            self.world.advance(11_000);
        }
        let read: BTreeSet<Arc<str>> =
            self.agents.iter().filter(|a| a.in_group).flat_map(Agent::reads).collect();
        let mut wanted = BTreeMap::new();
        for topic in &read {
            if let Some(count) = self.counts.get(&**topic) {
                wanted.insert(topic_id(topic), (0..*count).collect::<BTreeSet<_>>());
            }
        }
        let mut used = Partitions::new();
        for agent in &self.agents {
            for (topic, partitions) in &agent.owned {
                assert!(agent.reads().iter().any(|t| topic_id(t) == *topic));
                used.entry(*topic).or_default().extend(partitions);
            }
        }
        let group = self.world.shard.as_ref().unwrap().describe_consumer_group("g");
        let agents: Vec<_> =
            self.agents.iter().map(|a| (&a.id, a.in_group, a.epoch, &a.may_use)).collect();
        let seed = self.seed;
        assert_eq!(used, wanted, "seed {seed}: every partition has a user: {group:?} {agents:?}");
        let state = self.world.shard.as_ref().unwrap().list(|_| true)[0].state;
        assert_eq!(state, "Stable", "seed {}", self.seed);
    }
}

impl Agent {
    fn reads(&self) -> Vec<Arc<str>> {
        match self.regex {
            true => vec!["a".into(), "c".into()],
            false => self.topics.iter().cloned().collect(),
        }
    }

    fn die(&mut self) {
        self.lives += 1;
        let stem = self.id.split('-').next().unwrap().to_owned();
        self.id = format!("{stem}-{}", self.lives);
        self.forget();
    }

    fn forget(&mut self) {
        (self.in_group, self.epoch) = (false, 0);
        self.owned.clear();
        self.may_use.clear();
    }

    /// Gives back what it may not use, and takes what it may.
    fn settle(&mut self) {
        self.owned = self.may_use.clone();
    }

    fn hear(&mut self, reply: ConsumerHeartbeatReply) {
        match reply.error {
            ErrorCode::None if reply.member_id.as_deref() != Some(&*self.id) => {}
            ErrorCode::None if reply.epoch < 0 => {}
            ErrorCode::None => {
                (self.in_group, self.epoch) = (true, reply.epoch);
                (self.says_topics, self.says_all) = (false, false);
                if let Some(may) = reply.assignment {
                    self.may_use = may;
                }
            }
            ErrorCode::FencedMemberEpoch
            | ErrorCode::UnknownMemberId
            | ErrorCode::GroupIdNotFound
            | ErrorCode::FencedInstanceId => self.forget(),
            _ => self.says_all = true,
        }
    }
}

#[test]
fn no_partition_has_two_users_and_in_the_end_each_has_one() {
    for seed in 1..=60_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut history = History::new(seed, seed.is_multiple_of(5));
        history.run(600, &mut dice);
        history.calm();
    }
}
