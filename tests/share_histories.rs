//! Share groups (KIP-932) of one shard over a log in memory: single stories, and random histories in
//! which members come, go and die, topics grow, the share coordinators fail or are late, the log
//! refuses, and the shard is loaded anew. Nobody is given a partition that is not initialized, and
//! once things calm down every partition has readers.

mod group_world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use group_world::{Logged, World, protocols};
use vltava::{
    base::{ErrorCode, NodeId, PartitionId, Uuid},
    coordinator::{
        Client, Settings, ShareMemberSettings,
        calls::{Call, CommitCall, JoinCall, Reply, Token},
        calls_consumer::ConsumerHeartbeatCall,
        calls_share_groups::{
            AlterShareOffsetsCall, DeleteShareOffsetsCall, ShareHeartbeatCall, ShareHeartbeatReply,
            ShareInitialization,
        },
        consumer_records::Partitions,
        records::Record,
    },
    metadata::{PartitionRegistration, Record as Metadata, record::Partition},
};

const NONE: ErrorCode = ErrorCode::None;

fn topic_id(name: &str) -> Uuid {
    Uuid([name.as_bytes()[0]; 16])
}

fn world(assignment_interval_ms: i32) -> World {
    let share = ShareMemberSettings { assignment_interval_ms, ..ShareMemberSettings::default() };
    World::new(Settings { share, ..Settings::default() })
}

fn partitions(topic: &str, range: std::ops::Range<PartitionId>) -> Vec<Metadata> {
    let state = PartitionRegistration::new(&[NodeId(1)], &[Uuid([9; 16])], &[NodeId(1)]);
    let one = |partition| {
        let (topic_id, state) = (topic_id(topic), state.clone());
        Metadata::Partition(Partition { topic_id, partition, state })
    };
    range.map(one).collect()
}

fn create(world: &mut World, topic: &str, count: PartitionId) {
    let mut records = vec![Metadata::Topic { name: topic.into(), id: topic_id(topic) }];
    records.extend(partitions(topic, 0..count));
    world.metadata(&records);
}

fn names(topics: &str) -> BTreeSet<Arc<str>> {
    topics.split('+').map(Into::into).collect()
}

fn heartbeat(member: &str, epoch: i32, topics: Option<&str>) -> Call {
    Call::ShareHeartbeat(Box::new(ShareHeartbeatCall {
        group: "g".into(),
        client: Client::default(),
        member_id: member.into(),
        epoch,
        rack: None,
        topics: topics.map(names),
    }))
}

fn take(world: &mut World, token: Token) -> Option<Reply> {
    let at = world.replies.iter().position(|(t, _)| *t == token)?;
    Some(world.replies.remove(at).1)
}

fn answer(world: &mut World, call: Call) -> Reply {
    let token = world.call(call);
    take(world, token).expect("it is answered at once")
}

fn beat(world: &mut World, member: &str, epoch: i32, topics: Option<&str>) -> ShareHeartbeatReply {
    match answer(world, heartbeat(member, epoch, topics)) {
        Reply::ShareHeartbeat(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// What the share coordinators are asked now, as `topic-partition@offset/epoch`.
fn asked(world: &World) -> Vec<String> {
    let show = |i: &ShareInitialization| {
        i.offsets
            .iter()
            .map(|(t, p, offset)| format!("{}-{p}@{offset}/{}", char::from(t.0[0]), i.state_epoch))
            .collect::<Vec<_>>()
    };
    world.initializations.iter().flat_map(show).collect()
}

fn initialize_all(world: &mut World, code: ErrorCode) {
    for asked in std::mem::take(&mut world.initializations) {
        let codes = vec![code; asked.offsets.len()];
        world.step(|shard, now, out| shard.shares_initialized(asked.id, codes, now, out));
    }
}

fn shown(assignment: &Partitions) -> String {
    let topic = |(t, ps): (&Uuid, &BTreeSet<PartitionId>)| {
        format!("{}{ps:?}", char::from(t.0[0])).replace(' ', "")
    };
    assignment.iter().map(topic).collect::<Vec<_>>().join("+")
}

fn given(reply: &ShareHeartbeatReply) -> Option<String> {
    reply.assignment.as_ref().map(|a| shown(a))
}

#[test]
fn members_are_given_partitions_once_these_are_initialized_and_share_them() {
    let mut w = world(0);
    create(&mut w, "t", 2);
    let joined = beat(&mut w, "a", 0, Some("t"));
    assert_eq!((joined.error, joined.epoch, given(&joined)), (NONE, 2, Some(String::new())));
    assert_eq!(joined.heartbeat_interval_ms, 5_000);
    assert_eq!(asked(&w), ["t-0@-1/2", "t-1@-1/2"]);
    let again = beat(&mut w, "a", 2, None);
    assert_eq!((again.epoch, given(&again)), (2, None));
    assert_eq!(asked(&w).len(), 2, "it is not asked twice");

    initialize_all(&mut w, NONE);
    let told = beat(&mut w, "a", 2, None);
    assert_eq!((told.epoch, given(&told).as_deref()), (3, Some("t{0,1}")));
    let quiet = w.appends.len();
    assert_eq!(given(&beat(&mut w, "a", 3, None)), None);
    assert_eq!(w.appends.len(), quiet, "a heartbeat without news writes nothing");

    let second = beat(&mut w, "b", 0, Some("t"));
    assert_eq!(given(&second).as_deref(), Some("t{1}"));
    assert_eq!(given(&beat(&mut w, "a", 3, None)).as_deref(), Some("t{0}"));
    let third = beat(&mut w, "c", 0, Some("t"));
    assert_eq!(shown(third.assignment.as_ref().unwrap()).len(), "t{0}".len(), "it is shared");

    // A member that missed the answer comes with the epoch before, others are fenced.
    assert_eq!(beat(&mut w, "a", 3, None).error, NONE);
    let fenced = beat(&mut w, "a", 1, None);
    assert_eq!(fenced.error, ErrorCode::FencedMemberEpoch);
    assert_eq!(beat(&mut w, "x", 4, None).error, ErrorCode::UnknownMemberId);

    let left = beat(&mut w, "a", -1, None);
    assert_eq!((left.error, left.epoch, left.heartbeat_interval_ms), (NONE, -1, 0));
    // The session of others ends without heartbeats.
    w.advance(46_000);
    let group = w.shard.as_ref().unwrap().describe_share_group("g").unwrap();
    assert_eq!((group.state, group.members.len()), ("Empty", 0));
    assert_eq!(w.shard.as_ref().unwrap().list(|g| g.group_type == "share").len(), 1);
}

#[test]
fn what_was_not_initialized_is_asked_again() {
    let mut w = world(0);
    create(&mut w, "t", 1);
    beat(&mut w, "a", 0, Some("t"));
    initialize_all(&mut w, ErrorCode::CoordinatorNotAvailable);
    let quiet = w.appends.len();
    beat(&mut w, "a", 2, None);
    assert_eq!(asked(&w), ["t-0@-1/2"], "after a failure");
    assert_eq!(w.appends.len(), quiet, "the log says so already");
    w.load();
    w.initializations.clear();
    beat(&mut w, "a", 2, None);
    assert_eq!(asked(&w), ["t-0@-1/2"], "by the next leader");
    // The topic grows meanwhile.
    w.metadata(&partitions("t", 1..3));
    let told = beat(&mut w, "a", 2, None);
    assert_eq!(asked(&w), ["t-0@-1/2", "t-1@-1/3", "t-2@-1/3"]);
    initialize_all(&mut w, NONE);
    let told = beat(&mut w, "a", told.epoch, None);
    assert_eq!(given(&told).as_deref(), Some("t{0,1,2}"));

    // It says so in the log: the next leader knows it all.
    let before = w.shard.as_ref().unwrap().describe_share_group("g");
    w.load();
    assert_eq!(w.shard.as_ref().unwrap().describe_share_group("g"), before);
    assert_eq!(given(&beat(&mut w, "a", told.epoch, None)), None);
    assert!(asked(&w).is_empty());

    // An answer that comes to a topic that is gone changes nothing.
    w.metadata(&partitions("t", 3..4));
    beat(&mut w, "a", told.epoch, None);
    assert_eq!(asked(&w).len(), 1);
    w.metadata(&[Metadata::RemoveTopic { id: topic_id("t") }]);
    let gone = Call::TopicsDeleted(vec![("t".into(), topic_id("t"))]);
    assert_eq!(answer(&mut w, gone), Reply::TopicsDeleted(NONE));
    initialize_all(&mut w, NONE);
    assert!(w.shard.as_ref().unwrap().initialized_shares("g").is_empty());
    let epoch = w.shard.as_ref().unwrap().describe_share_group("g").unwrap().members[0].epoch;
    assert_eq!(given(&beat(&mut w, "a", epoch, None)).as_deref(), Some(""));
}

#[test]
fn a_heartbeat_whose_record_is_refused_asks_nothing() {
    let mut w = world(0);
    create(&mut w, "t", 1);
    w.refuse = Some(ErrorCode::NotEnoughReplicas);
    assert_eq!(beat(&mut w, "a", 0, Some("t")).error, ErrorCode::CoordinatorNotAvailable);
    assert!(asked(&w).is_empty());
    // Nor one that is not committed yet.
    w.follows = false;
    let token = w.call(heartbeat("a", 0, Some("t")));
    assert!(take(&mut w, token).is_none() && asked(&w).is_empty());
    assert!(w.shard.as_ref().unwrap().describe_share_group("g").is_none(), "readers see what is");
    w.commit_all();
    assert!(take(&mut w, token).is_some());
    assert_eq!(asked(&w), ["t-0@-1/2"]);
}

fn alter(world: &mut World, offset: i64) -> Token {
    let offsets = vec![(topic_id("t"), 0, offset)];
    world.call(Call::AlterShareOffsets(AlterShareOffsetsCall { group: "g".into(), offsets }))
}

#[test]
fn offsets_of_a_group_without_members_are_moved_and_deleted() {
    let mut w = world(0);
    create(&mut w, "t", 1);
    create(&mut w, "u", 2);
    // The group begins with it.
    let token = alter(&mut w, 7);
    assert!(take(&mut w, token).is_none(), "it waits for the share coordinators");
    assert_eq!(asked(&w), ["t-0@7/1"]);
    let busy = alter(&mut w, 8);
    assert!(matches!(take(&mut w, busy), Some(Reply::AlterShareOffsets(r))
            if r.error == ErrorCode::CoordinatorNotAvailable));
    initialize_all(&mut w, NONE);
    assert!(matches!(take(&mut w, token), Some(Reply::AlterShareOffsets(r))
            if r.codes == [NONE] && r.error == NONE));
    let joined = beat(&mut w, "a", 0, Some("t+u"));
    assert_eq!(given(&joined).as_deref(), Some("t{0}"));
    assert_eq!(asked(&w), ["u-0@-1/2", "u-1@-1/2"]);
    initialize_all(&mut w, NONE);
    let token = alter(&mut w, 9);
    let delete = |topics: &[&str]| {
        let topics = topics.iter().map(|t| Arc::from(*t)).collect();
        Call::DeleteShareOffsets(DeleteShareOffsetsCall { group: "g".into(), topics })
    };
    for reply in [take(&mut w, token), Some(answer(&mut w, delete(&["t"])))] {
        match reply {
            Some(Reply::AlterShareOffsets(r)) => assert_eq!(r.error, ErrorCode::NonEmptyGroup),
            Some(Reply::DeleteShareOffsets(r)) => assert_eq!(r.error, ErrorCode::NonEmptyGroup),
            other => panic!("{other:?}"),
        }
    }
    beat(&mut w, "a", -1, None);
    let expected = vec![("u".into(), Some((topic_id("u"), [0, 1].into()))), ("v".into(), None)];
    for _ in 0..2 {
        // The share coordinators may have failed: it is told again.
        match answer(&mut w, delete(&["u", "v"])) {
            Reply::DeleteShareOffsets(reply) => assert_eq!(reply.topics, expected),
            other => panic!("{other:?}"),
        }
    }
    let done = Call::ShareOffsetsDeleted("g".into(), vec![topic_id("u")]);
    assert_eq!(answer(&mut w, done), Reply::ShareOffsetsDeleted(NONE));
    let left: Partitions = [(topic_id("t"), [0].into())].into();
    assert_eq!(w.shard.as_ref().unwrap().initialized_shares("g"), left);
}

#[test]
fn a_group_is_deleted_after_its_state() {
    let mut w = world(0);
    create(&mut w, "t", 2);
    beat(&mut w, "a", 0, Some("t"));
    let begin = || Call::BeginShareDeletions(vec!["g".into(), "other".into()]);
    let refused = |error| Reply::ShareDeletions(vec![("g".into(), Err(error))]);
    assert_eq!(answer(&mut w, begin()), refused(ErrorCode::NonEmptyGroup));
    beat(&mut w, "a", -1, None);
    assert_eq!(answer(&mut w, begin()), refused(ErrorCode::CoordinatorNotAvailable));
    initialize_all(&mut w, ErrorCode::RequestTimedOut);
    let all: Partitions = [(topic_id("t"), [0, 1].into())].into();
    for _ in 0..2 {
        let told = Reply::ShareDeletions(vec![("g".into(), Ok(all.clone()))]);
        assert_eq!(answer(&mut w, begin()), told, "what is under way may have been done, too");
    }
    let gone = answer(&mut w, Call::DeleteGroups(vec!["g".into()]));
    assert_eq!(gone, Reply::DeleteGroups(vec![("g".into(), NONE)]));
    assert!(w.shard.as_ref().unwrap().describe_share_group("g").is_none());
    w.load();
    assert!(w.shard.as_ref().unwrap().describe_share_group("g").is_none());
    assert_eq!(beat(&mut w, "a", 3, None).error, ErrorCode::GroupIdNotFound);
}

#[test]
fn a_name_belongs_to_one_kind_of_group() {
    let mut w = world(0);
    create(&mut w, "t", 1);
    beat(&mut w, "a", 0, Some("t"));
    let join = JoinCall {
        group: "g".into(),
        client: Client::default(),
        member_id: "".into(),
        instance_id: None,
        protocol_type: "consumer".into(),
        protocols: protocols("range:t"),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        must_know_id: false,
        can_skip_assignment: false,
        unique: [1; 16],
    };
    let Reply::Join(reply) = answer(&mut w, Call::Join(join.clone())) else { panic!() };
    assert_eq!(reply.error, ErrorCode::InconsistentGroupProtocol);
    let consumer = ConsumerHeartbeatCall {
        group: "g".into(),
        client: Client::default(),
        member_id: "m".into(),
        epoch: 0,
        instance_id: None,
        rack: None,
        rebalance_timeout_ms: Some(1),
        topics: Some(names("t")),
        regex: None,
        assignor: None,
        owned: Some(Partitions::new()),
        unique: [1; 16],
    };
    let call = Call::ConsumerHeartbeat(Box::new(consumer));
    let Reply::ConsumerHeartbeat(reply) = answer(&mut w, call) else { panic!() };
    assert_eq!(reply.error, ErrorCode::GroupIdNotFound);
    let commit = CommitCall {
        group: "g".into(),
        member_id: "".into(),
        instance_id: None,
        generation: -1,
        retention_ms: None,
        knows_group_id_not_found: true,
        topics: vec![],
    };
    let Reply::Commit(reply) = answer(&mut w, Call::Commit(commit)) else { panic!() };
    assert_eq!(reply.error, ErrorCode::GroupIdNotFound);

    let other = w.call(Call::Join(JoinCall { group: "h".into(), ..join }));
    let share = ShareHeartbeatCall {
        group: "h".into(),
        client: Client::default(),
        member_id: "m".into(),
        epoch: 0,
        rack: None,
        topics: Some(names("t")),
    };
    let reply = answer(&mut w, Call::ShareHeartbeat(Box::new(share)));
    let Reply::ShareHeartbeat(reply) = reply else { panic!() };
    assert_eq!(reply.message.as_deref(), Some("Group h is not a share group."));
    assert!(take(&mut w, other).is_none_or(|r| matches!(r, Reply::Join(_))));
}

// Random histories.

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[derive(Default)]
struct Agent {
    topics: String,
    epoch: i32,
    has: Partitions,
    waits: Option<Token>,
}

struct History {
    w: World,
    dice: Dice,
    agents: BTreeMap<String, Agent>,
    counts: BTreeMap<&'static str, PartitionId>,
}

impl History {
    /// Partitions that the log says are initialized.
    fn initialized(&self) -> Partitions {
        let mut all = Partitions::new();
        for logged in &self.w.log {
            use vltava::coordinator::share_group_records::ShareChange;
            let Logged::Plain(Record::Share(record)) = logged else { continue };
            if let ShareChange::State(Some(state)) = &record.change {
                for (id, topic) in &state.initialized {
                    all.entry(*id).or_default().extend(&topic.partitions);
                }
            }
        }
        all
    }

    fn send(&mut self, name: &str, lie: bool) {
        let agent = &self.agents[name];
        let topics = agent.topics.clone();
        let topics = (agent.epoch == 0 || lie).then_some(topics.as_str());
        let token = self.w.call(heartbeat(name, agent.epoch, topics));
        self.agents.get_mut(name).unwrap().waits = Some(token);
    }

    fn collect(&mut self) {
        let initialized = self.initialized();
        let w = &mut self.w;
        for (name, agent) in &mut self.agents {
            let Some(token) = agent.waits else { continue };
            let Some(Reply::ShareHeartbeat(reply)) = take(w, token) else { continue };
            agent.waits = None;
            match reply.error {
                NONE => {
                    agent.epoch = reply.epoch;
                    if let Some(has) = reply.assignment {
                        agent.has = Partitions::clone(&has);
                    }
                    for (topic, partitions) in &agent.has {
                        let known = &initialized[topic];
                        assert!(partitions.is_subset(known), "{name}: {partitions:?} {known:?}");
                    }
                }
                ErrorCode::CoordinatorNotAvailable | ErrorCode::NotCoordinator => {}
                ErrorCode::UnknownMemberId
                | ErrorCode::FencedMemberEpoch
                | ErrorCode::GroupIdNotFound => (agent.epoch, agent.has) = (0, Partitions::new()),
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    fn step(&mut self) {
        let name = format!("m{}", self.dice.roll(6));
        let choices = ["a", "a+b", "b+c", "a+b+c"];
        match self.dice.roll(16) {
            0..=5 => {
                let topics = choices[usize::try_from(self.dice.roll(4)).unwrap()].to_owned();
                let fresh = || Agent { topics, ..Agent::default() };
                self.agents.entry(name.clone()).or_insert_with(fresh);
                let says = self.dice.roll(4) == 0;
                self.send(&name, says);
            }
            6 => {
                if let Some(agent) = self.agents.get_mut(&name) {
                    agent.topics = choices[usize::try_from(self.dice.roll(4)).unwrap()].to_owned();
                    self.send(&name, true);
                }
            }
            7 => {
                if self.agents.remove(&name).is_some() && self.dice.roll(2) == 0 {
                    self.w.call(heartbeat(&name, -1, None));
                }
            }
            8 => {
                let topic = ["a", "b", "c"][usize::try_from(self.dice.roll(3)).unwrap()];
                let count = self.counts[topic];
                self.w.metadata(&partitions(topic, count..count + 1));
                self.counts.insert(topic, count + 1);
            }
            9..=11 => {
                let code = [NONE, NONE, ErrorCode::CoordinatorNotAvailable]
                    [usize::try_from(self.dice.roll(3)).unwrap()];
                self.check_asked();
                initialize_all(&mut self.w, code);
            }
            12 => self.w.refuse = Some(ErrorCode::NotEnoughReplicas),
            13 => self.w.follows = !self.w.follows,
            14 => {
                self.w.advance(self.dice.0 % 20_000);
                self.w.commit_all();
            }
            _ => {
                // What is asked may still be done by the share coordinators.
                self.w.load();
                self.w.initializations.clear();
            }
        }
        self.collect();
    }

    /// Nothing is asked twice at once.
    fn check_asked(&self) {
        let mut all = BTreeSet::new();
        for (topic, partition, _) in self.w.initializations.iter().flat_map(|i| &i.offsets) {
            assert!(all.insert((*topic, *partition)), "asked twice");
        }
    }

    fn calm_down(&mut self) {
        self.w.refuse = None;
        self.w.follows = true;
        self.w.commit_all();
        for name in ["m0", "m1", "m2"] {
            self.agents
                .entry(name.to_owned())
                .or_insert_with(|| Agent { topics: "a+b".into(), ..Agent::default() });
        }
        // Ghosts leave, and answers that were lost are given again.
        for _ in 0..12 {
            let names: Vec<_> = self.agents.keys().cloned().collect();
            for name in names {
                self.send(&name, true);
                self.collect();
                initialize_all(&mut self.w, NONE);
            }
            self.w.advance(10_000);
        }
    }

    fn check_calm(&self, seed: u64) {
        let mut readers: BTreeMap<(Uuid, PartitionId), usize> = BTreeMap::new();
        for (name, agent) in &self.agents {
            assert!(agent.epoch > 0 && agent.waits.is_none(), "seed {seed}: {name} is out");
            for (topic, partitions) in &agent.has {
                for p in partitions {
                    *readers.entry((*topic, *p)).or_default() += 1;
                }
            }
        }
        for (topic, count) in &self.counts {
            let who = self.agents.values().filter(|a| names(&a.topics).contains(*topic)).count();
            for p in 0..*count {
                let n = readers.get(&(topic_id(topic), p)).copied().unwrap_or(0);
                assert_eq!(n > 0, who > 0, "seed {seed}: {topic}-{p} has {n} of {who} readers");
            }
        }
        let shard = self.w.shard.as_ref().unwrap();
        let group = shard.describe_share_group("g").unwrap();
        assert_eq!(group.members.len(), self.agents.len(), "seed {seed}");
        for member in group.members {
            assert_eq!(*member.assigned, self.agents[&*member.member_id].has, "seed {seed}");
        }
    }
}

#[test]
fn random_histories_end_with_all_partitions_read() {
    for seed in 1..=150 {
        let mut w = world(if seed % 2 == 0 { 0 } else { 1_000 });
        let counts = BTreeMap::from([("a", 2), ("b", 1), ("c", 3)]);
        for (topic, count) in &counts {
            create(&mut w, topic, *count);
        }
        let dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed));
        let mut history = History { w, dice, agents: BTreeMap::new(), counts };
        for _ in 0..200 {
            history.step();
        }
        history.calm_down();
        history.check_calm(seed);
        let before = history.w.shard.as_ref().unwrap().describe_share_group("g");
        history.w.load();
        let after = history.w.shard.as_ref().unwrap().describe_share_group("g");
        assert_eq!(after, before, "seed {seed}: replaying the log gives the same group");
    }
}
