//! Groups and offsets as stories: `tests/stories/group_*.txt` hold commands (`> …`) and the full
//! trace of what the shard then does. `UPDATE=1` writes the traces anew. Below the stories: random
//! histories against the room's invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use vltava::{
    base::{ErrorCode, Mono, Now, Offset, Uuid},
    coordinator::{
        calls::{
            Call, Client, CommitCall, CommitPartition, CommitTopic, DeleteOffsetsCall, Effect,
            FetchCall, FetchTopic, HeartbeatCall, JoinCall, LeaveCall, Leaving, Protocol, Reply,
            SyncCall, Token,
        },
        ports::Appended,
        records::Record,
        settings::Settings,
        shard::Shard,
    },
};

/// One shard over a log in memory.
struct World {
    shard: Option<Shard>,
    settings: Arc<Settings>,
    log: Vec<Record>,
    high_watermark: Offset,
    /// Whether the high watermark follows each append at once.
    follows: bool,
    refuse: Option<ErrorCode>,
    now: Now,
    tokens: Token,
    drawn: u8,
    replies: Vec<(Token, Reply)>,
    appends: Vec<(Offset, Arc<[Record]>)>,
}

impl World {
    fn new(settings: Settings) -> Self {
        let mut world = Self {
            shard: None,
            settings: Arc::new(settings),
            log: vec![],
            high_watermark: 0,
            follows: true,
            refuse: None,
            now: Now { mono: Mono(0), wall_ms: 1_000_000 },
            tokens: 0,
            drawn: 0,
            replies: vec![],
            appends: vec![],
        };
        world.load();
        world
    }

    /// Unloads the shard, if there is one, and loads it from the log.
    fn load(&mut self) {
        let mut out = vec![];
        if let Some(shard) = self.shard.take() {
            shard.unload(self.now, &mut out);
            self.carry_out(out);
        }
        let mut shard = Shard::new(self.settings.clone());
        for (offset, record) in self.log.iter().enumerate() {
            if offset as Offset >= self.high_watermark {
                shard.replay_uncommitted();
            }
            let (key, value) = record.encode().unwrap();
            let read = Record::decode(&key, value.as_deref()).unwrap().unwrap();
            shard.replay(&read, self.now);
        }
        self.shard = Some(shard);
        let end = self.log.len() as Offset;
        self.step(|shard, now, out| shard.loaded(end, now, out));
    }

    fn step(&mut self, f: impl FnOnce(&mut Shard, Now, &mut Vec<Effect>)) {
        let mut out = vec![];
        f(self.shard.as_mut().unwrap(), self.now, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, mut out: Vec<Effect>) {
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                match effect {
                    Effect::Reply { token, reply } => {
                        if !self.replies.iter().any(|(t, _)| *t == token) {
                            self.replies.push((token, reply));
                        }
                    }
                    Effect::Append { ticket, records } => {
                        let result = self.append(records);
                        let shard = self.shard.as_mut().unwrap();
                        shard.appended(ticket, result, self.now, &mut out);
                    }
                }
            }
        }
    }

    fn append(&mut self, records: Arc<[Record]>) -> Result<Appended, ErrorCode> {
        if let Some(error) = self.refuse.take() {
            return Err(error);
        }
        self.log.extend(records.iter().cloned());
        let last_offset = self.log.len() as Offset - 1;
        if self.follows {
            self.high_watermark = last_offset + 1;
        }
        self.appends.push((last_offset + 1 - records.len() as Offset, records));
        Ok(Appended { last_offset, high_watermark: self.high_watermark })
    }

    fn commit_all(&mut self) {
        self.high_watermark = self.log.len() as Offset;
        let high_watermark = self.high_watermark;
        self.step(|shard, now, out| shard.committed(high_watermark, now, out));
    }

    fn advance(&mut self, ms: u64) {
        let end = Mono(self.now.mono.0 + ms * 1_000_000);
        while self.shard.as_ref().unwrap().next_deadline() <= end {
            let due = self.shard.as_ref().unwrap().next_deadline().max(self.now.mono);
            self.pass_to(due);
            self.step(Shard::on_deadline);
        }
        self.pass_to(end);
    }

    fn pass_to(&mut self, mono: Mono) {
        let ms = mono.since(self.now.mono).as_millis() as i64;
        self.now = Now { mono, wall_ms: self.now.wall_ms + ms };
    }

    fn call(&mut self, call: Call) -> Token {
        self.tokens += 1;
        let token = self.tokens;
        self.step(|shard, now, out| shard.handle(token, call, now, out));
        token
    }

    fn fetch(
        &mut self,
        group: &str,
        topics: Option<Vec<FetchTopic>>,
        require_stable: bool,
    ) -> Reply {
        let call = FetchCall { group: group.into(), topics, require_stable };
        let token = self.call(Call::Fetch(call));
        self.replies.iter().find(|(t, _)| *t == token).map(|(_, r)| r.clone()).unwrap()
    }
}

fn subscription(topics: &str) -> Bytes {
    let mut out = BytesMut::new();
    let names: Vec<_> = topics.split('+').filter(|t| !t.is_empty()).collect();
    out.put_i16(1);
    out.put_i32(names.len() as i32);
    for name in names {
        out.put_i16(name.len() as i16);
        out.put_slice(name.as_bytes());
    }
    out.put_i32(-1);
    out.put_i32(0);
    out.freeze()
}

fn protocols(spec: &str) -> Vec<Protocol> {
    let one = |p: &str| {
        let (name, topics) = p.split_once(':').unwrap_or((p, "t"));
        Protocol { name: name.into(), metadata: subscription(topics) }
    };
    spec.split(',').filter(|p| !p.is_empty()).map(one).collect()
}

// Stories.

/// `key=value` words of a command.
struct Args<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Args<'a> {
    fn of(words: &[&'a str]) -> Self {
        Self(words.iter().map(|w| w.split_once('=').unwrap_or((w, ""))).collect())
    }

    fn text(&self, key: &str, default: &'a str) -> &'a str {
        self.0.get(key).copied().unwrap_or(default)
    }

    fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> T
    where
        T::Err: std::fmt::Debug,
    {
        self.0.get(key).map_or(default, |v| v.parse().unwrap())
    }

    fn optional(&self, key: &str) -> Option<Arc<str>> {
        self.0.get(key).map(|v| Arc::from(*v))
    }
}

struct Story {
    world: World,
    /// Label of each caller, by token.
    callers: BTreeMap<Token, String>,
    /// Member ids drawn in this story, by the label of who got them.
    ids: BTreeMap<String, Arc<str>>,
}

impl Story {
    fn new() -> Self {
        let settings = Settings { max_size: 4, ..Settings::default() };
        Self { world: World::new(settings), callers: BTreeMap::new(), ids: BTreeMap::new() }
    }

    /// The member id behind a label; a label nobody has stands for itself.
    fn id(&self, label: &str) -> Arc<str> {
        self.ids.get(label).cloned().unwrap_or_else(|| label.into())
    }

    fn label(&self, id: &str) -> String {
        let known = self.ids.iter().find(|(_, v)| ***v == *id);
        known.map_or_else(|| format!("\"{id}\""), |(label, _)| label.clone())
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        let (verb, args) = (words[0], Args::of(&words[1..]));
        let group: Arc<str> = args.text("g", "g").into();
        match verb {
            "join" => self.join(group, &args),
            "sync" => {
                let given = args.text("give", "").split(',').filter(|a| !a.is_empty());
                let assignments = given.map(|a| a.split_once(':').unwrap());
                let call = SyncCall {
                    group,
                    generation: args.number("gen", 1),
                    member_id: self.id(args.text("m", "")),
                    instance_id: args.optional("instance"),
                    protocol_type: args.optional("type"),
                    protocol: args.optional("protocol"),
                    assignments: assignments
                        .map(|(m, share)| (self.id(m), Bytes::copy_from_slice(share.as_bytes())))
                        .collect(),
                };
                self.call(args.text("m", ""), Call::Sync(call));
            }
            "heartbeat" => {
                let call = HeartbeatCall {
                    group,
                    generation: args.number("gen", 1),
                    member_id: self.id(args.text("m", "")),
                    instance_id: args.optional("instance"),
                };
                self.call(args.text("m", ""), Call::Heartbeat(call));
            }
            "leave" => {
                let members = args.text("m", "").split(',').map(|m| Leaving {
                    member_id: self.id(m),
                    instance_id: args.optional("instance"),
                });
                let members = members.collect();
                self.call("leave", Call::Leave(LeaveCall { group, members }));
            }
            "commit" => self.commit(group, &args),
            "fetch" => {
                let call = FetchCall {
                    group,
                    topics: None,
                    require_stable: args.0.contains_key("stable"),
                };
                self.call("fetch", Call::Fetch(call));
            }
            "delete-group" => self.call("delete", Call::DeleteGroups(vec![group])),
            "delete-offsets" => {
                let topics = vec![(args.text("t", "t").into(), vec![args.number("p", 0)])];
                self.call("delete", Call::DeleteOffsets(DeleteOffsetsCall { group, topics }));
            }
            "topic-deleted" => {
                let id = Uuid([args.number("id", 0); 16]);
                self.call("topics", Call::TopicsDeleted(vec![(args.text("t", "t").into(), id)]));
            }
            "advance" => self.world.advance(words[1].parse().unwrap()),
            "hold-high-watermark" => self.world.follows = false,
            "pass-high-watermark" => {
                self.world.follows = true;
                self.world.commit_all();
            }
            "lose-leadership" => self.world.step(|shard, now, out| {
                shard.commit_lost(ErrorCode::NotLeaderOrFollower, now, out);
            }),
            "refuse-next-append" => self.world.refuse = Some(ErrorCode::NotEnoughReplicas),
            "reload" => self.world.load(),
            "describe" => return self.describe(&group),
            other => panic!("no such command: {other}"),
        }
        self.trace()
    }

    fn call(&mut self, caller: &str, call: Call) {
        let token = self.world.tokens + 1;
        self.callers.insert(token, caller.to_owned());
        self.world.call(call);
    }

    fn join(&mut self, group: Arc<str>, args: &Args<'_>) {
        self.world.drawn += 1;
        let label = args.text("as", args.text("m", ""));
        let version = args.number("v", 9);
        let call = JoinCall {
            group,
            client: Client { id: args.text("client", label).into(), host: "/127.0.0.1".into() },
            member_id: self.id(args.text("m", "")),
            instance_id: args.optional("instance"),
            protocol_type: args.text("type", "consumer").into(),
            protocols: protocols(args.text("protocols", "range")),
            session_timeout_ms: args.number("session", 10_000),
            rebalance_timeout_ms: args.number("rebalance", 20_000),
            must_know_id: version >= 4,
            can_skip_assignment: version >= 9,
            unique: [self.world.drawn; 16],
        };
        self.call(label, Call::Join(call));
    }

    fn commit(&mut self, group: Arc<str>, args: &Args<'_>) {
        let partition = CommitPartition {
            partition: args.number("p", 0),
            offset: args.number("offset", 1),
            leader_epoch: -1,
            metadata: "x".repeat(args.number("metadata", 0)).into(),
        };
        let call = CommitCall {
            group,
            generation: args.number("gen", -1),
            member_id: self.id(args.text("m", "")),
            instance_id: args.optional("instance"),
            retention_ms: args.0.get("retention").map(|ms| ms.parse().unwrap()),
            knows_group_id_not_found: args.number("v", 9) >= 9,
            topics: vec![CommitTopic {
                name: args.text("t", "t").into(),
                topic_id: Uuid([args.number("id", 0); 16]),
                partitions: vec![partition],
            }],
        };
        self.call("commit", Call::Commit(call));
    }

    fn trace(&mut self) -> String {
        let mut out = String::new();
        for (offset, records) in std::mem::take(&mut self.world.appends) {
            for (i, record) in records.iter().enumerate() {
                let _ = writeln!(out, "log {}: {}", offset + i as i64, self.record(record));
            }
        }
        for (token, reply) in std::mem::take(&mut self.world.replies) {
            let caller = self.callers[&token].clone();
            if let Reply::Join(join) = &reply
                && !join.member_id.is_empty()
                && !self.ids.values().any(|id| *id == join.member_id)
            {
                self.ids.insert(caller.clone(), join.member_id.clone());
            }
            let _ = writeln!(out, "{caller} ◄ {}", self.reply(&reply));
        }
        out
    }

    fn record(&self, record: &Record) -> String {
        match record {
            Record::Offset { group, topic, partition, value } => match value {
                Some(v) => format!("offset {group} {topic}-{partition} = {}", v.offset),
                None => format!("offset {group} {topic}-{partition} gone"),
            },
            Record::Group { group, value: None } => format!("group {group} gone"),
            Record::Group { group, value: Some(v) } => {
                let members = v.members.iter().map(|m| {
                    let share = String::from_utf8_lossy(&m.assignment).into_owned();
                    format!("{}={share:?}", self.label(&m.member_id))
                });
                let members: Vec<_> = members.collect();
                format!(
                    "group {group} type {:?} generation {} leader {} members [{}]",
                    v.protocol_type,
                    v.generation,
                    v.leader.as_ref().map_or("none".into(), |l| self.label(l)),
                    members.join(", ")
                )
            }
        }
    }

    fn reply(&self, reply: &Reply) -> String {
        match reply {
            Reply::Join(r) if r.error != ErrorCode::None => {
                format!("join {} as {}", r.error.name(), self.label(&r.member_id))
            }
            Reply::Join(r) => {
                let members: Vec<_> = r.members.iter().map(|m| self.label(&m.member_id)).collect();
                format!(
                    "join generation {} protocol {} leader {} as {}{}{}",
                    r.generation,
                    r.protocol.as_deref().unwrap_or("none"),
                    self.label(&r.leader),
                    self.label(&r.member_id),
                    if members.is_empty() {
                        String::new()
                    } else {
                        format!(" members [{}]", members.join(", "))
                    },
                    if r.skip_assignment { " skip assignment" } else { "" },
                )
            }
            Reply::Sync(r) => {
                format!("sync {} {:?}", r.error.name(), String::from_utf8_lossy(&r.assignment))
            }
            Reply::Heartbeat(error) => format!("heartbeat {}", error.name()),
            Reply::Leave(r) => {
                let members = r.members.iter().map(|(m, e)| {
                    let who = match &m.instance_id {
                        Some(i) => format!("instance {i}"),
                        None => self.label(&m.member_id),
                    };
                    format!("{who} {}", e.name())
                });
                format!("leave {} [{}]", r.error.name(), members.collect::<Vec<_>>().join(", "))
            }
            Reply::Commit(r) => {
                let codes = r.topics.iter().flat_map(|(t, _, p)| {
                    p.iter().map(move |(p, e)| format!("{t}-{p} {}", e.name()))
                });
                format!("commit {} [{}]", r.error.name(), codes.collect::<Vec<_>>().join(", "))
            }
            Reply::Fetch(r) => {
                let offsets = r.topics.iter().flat_map(|t| {
                    let name = &t.name;
                    t.partitions.iter().map(move |p| format!("{name}-{} {}", p.partition, p.offset))
                });
                format!("fetch {} [{}]", r.error.name(), offsets.collect::<Vec<_>>().join(", "))
            }
            Reply::DeleteGroups(groups) => {
                let codes = groups.iter().map(|(g, e)| format!("{g} {}", e.name()));
                format!("delete [{}]", codes.collect::<Vec<_>>().join(", "))
            }
            Reply::DeleteOffsets(r) => {
                let codes = r
                    .topics
                    .iter()
                    .flat_map(|(t, p)| p.iter().map(move |(p, e)| format!("{t}-{p} {}", e.name())));
                format!("delete {} [{}]", r.error.name(), codes.collect::<Vec<_>>().join(", "))
            }
            Reply::TopicsDeleted(error) => format!("topics deleted {}", error.name()),
        }
    }

    fn describe(&self, group: &Arc<str>) -> String {
        let g = self.world.shard.as_ref().unwrap().describe(group);
        let members = g.members.iter().map(|m| {
            let share = String::from_utf8_lossy(&m.assignment).into_owned();
            format!("{}={share:?}", self.label(&m.member_id))
        });
        let members: Vec<_> = members.collect();
        format!(
            "{} type {:?} protocol {:?} members [{}]\n",
            g.state,
            g.protocol_type,
            g.protocol,
            members.join(", ")
        )
    }
}

fn play(script: &str) -> String {
    let (mut story, mut out) = (Story::new(), String::new());
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let _ = write!(out, "{line}\n{}", story.run(command));
        } else if line.starts_with('#') || line.is_empty() {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

#[test]
fn stories() {
    let mut played = 0;
    let mut files: Vec<_> =
        std::fs::read_dir("tests/stories").unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for path in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("group_") {
            continue;
        }
        let expected = std::fs::read_to_string(&path).unwrap();
        let got = play(&expected);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &got).unwrap();
        } else {
            assert_eq!(got, expected, "{name}: UPDATE=1 takes the new trace");
        }
        played += 1;
    }
    assert!(played >= 6, "{played} stories were found");
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

    fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        (!of.is_empty()).then(|| &of[self.roll(of.len() as u64) as usize])
    }
}

/// What the clients of a random history believe and were told.
#[derive(Default)]
struct Clients {
    /// Member ids ever handed out, by group.
    ids: Vec<(Arc<str>, Arc<str>)>,
    generation: BTreeMap<Arc<str>, i32>,
    /// Calls that wait, and what they ask.
    asked: BTreeMap<Token, Call>,
    /// Shares given in each generation of a group.
    shares: BTreeMap<(Arc<str>, i32), BTreeMap<Arc<str>, Bytes>>,
    /// The last acknowledged commit of each partition, and those that may have overtaken it.
    offsets: BTreeMap<(Arc<str>, i32), BTreeSet<i64>>,
    answered: usize,
}

impl Clients {
    fn hear(&mut self, token: Token, reply: &Reply) {
        let call = self.asked.remove(&token).expect("a call is answered once");
        self.answered += 1;
        match (call, reply) {
            (Call::Join(call), Reply::Join(r)) => {
                if !r.member_id.is_empty() {
                    self.ids.push((call.group.clone(), r.member_id.clone()));
                }
                if r.error == ErrorCode::None {
                    let known = self.generation.entry(call.group).or_insert(0);
                    assert!(r.generation >= *known, "generations rise");
                    *known = r.generation;
                }
            }
            (Call::Sync(call), Reply::Sync(r)) if r.error == ErrorCode::None => {
                let shares = self.shares.entry((call.group, call.generation)).or_default();
                // A static member is one member under whatever id.
                let who = match &*call.member_id {
                    id if id.starts_with("c-") => call.member_id.clone(),
                    id => id[..1].into(),
                };
                let before = shares.insert(who, r.assignment.clone());
                assert!(before.is_none_or(|b| b == r.assignment), "one share a generation");
                let mut owned = BTreeSet::new();
                for share in shares.values().filter(|s| !s.is_empty()) {
                    assert!(owned.insert(share.clone()), "one owner a partition a generation");
                }
            }
            (Call::Commit(call), Reply::Commit(r)) => {
                let p = &call.topics[0].partitions[0];
                let possible =
                    self.offsets.entry((call.group, p.partition)).or_insert_with(|| [-1].into());
                if r.error == ErrorCode::None {
                    *possible = [p.offset].into();
                } else {
                    possible.insert(p.offset);
                }
            }
            _ => {}
        }
    }
}

fn random_call(world: &mut World, clients: &Clients, dice: &mut Dice) -> Call {
    let group: Arc<str> = ["a", "b"][dice.roll(2) as usize].into();
    let ids: Vec<_> = clients.ids.iter().filter(|(g, _)| *g == group).map(|(_, m)| m).collect();
    let member = dice.one(&ids).map(|m| (**m).clone()).unwrap_or_default();
    let stale = i32::from(dice.roll(8) == 0);
    let generation = clients.generation.get(&group).copied().unwrap_or(1) - stale;
    let instance_id = (dice.roll(4) == 0).then(|| Arc::from(["i", "j"][dice.roll(2) as usize]));
    match dice.roll(16) {
        0..=5 => {
            world.drawn = world.drawn.wrapping_add(1);
            let mut unique = [world.drawn; 16];
            unique[0] = (world.tokens >> 8) as u8;
            unique[1] = world.tokens as u8;
            Call::Join(JoinCall {
                group,
                client: Client { id: "c".into(), host: "/h".into() },
                member_id: if dice.roll(3) == 0 { "".into() } else { member },
                instance_id,
                protocol_type: "consumer".into(),
                protocols: protocols(["range", "range,sticky", "sticky:u"][dice.roll(3) as usize]),
                session_timeout_ms: 6_000 + dice.roll(4_000) as i32,
                rebalance_timeout_ms: 5_000 + dice.roll(5_000) as i32,
                must_know_id: dice.roll(2) == 0,
                can_skip_assignment: dice.roll(2) == 0,
                unique,
            })
        }
        6..=8 => {
            // Distinct shares for whoever may be in: the leader's plan is the clients' affair.
            let plan = ids.iter().collect::<BTreeSet<_>>().into_iter().enumerate();
            let assignments = plan
                .map(|(n, id)| ((**id).clone(), Bytes::from(format!("{}/{n}", world.tokens))))
                .collect();
            Call::Sync(SyncCall {
                group,
                generation,
                member_id: member,
                instance_id: None,
                protocol_type: None,
                protocol: None,
                assignments,
            })
        }
        9..=10 => {
            Call::Heartbeat(HeartbeatCall { group, generation, member_id: member, instance_id })
        }
        11 => Call::Leave(LeaveCall {
            group,
            members: vec![Leaving { member_id: member, instance_id }],
        }),
        12 => Call::DeleteGroups(vec!["never".into()]),
        _ => {
            let simple = dice.roll(3) == 0;
            let partition = CommitPartition {
                partition: dice.roll(2) as i32,
                offset: world.tokens as i64,
                leader_epoch: -1,
                metadata: "".into(),
            };
            Call::Commit(CommitCall {
                group,
                generation: if simple { -1 } else { generation },
                member_id: if simple { "".into() } else { member },
                instance_id: None,
                retention_ms: None,
                knows_group_id_not_found: true,
                topics: vec![CommitTopic {
                    name: "t".into(),
                    topic_id: Uuid::ZERO,
                    partitions: vec![partition],
                }],
            })
        }
    }
}

fn check_offsets(world: &mut World, clients: &Clients) {
    for ((group, partition), possible) in &clients.offsets {
        let in_flight = clients.asked.values().any(|c| matches!(c, Call::Commit(_)));
        let topics = vec![FetchTopic {
            name: "t".into(),
            topic_id: Uuid::ZERO,
            partitions: vec![*partition],
        }];
        let Reply::Fetch(r) = world.fetch(group, Some(topics), false) else { panic!("a fetch") };
        let found = r.topics[0].partitions[0].offset;
        let acknowledged = possible.len() == 1 && !in_flight;
        assert!(
            possible.contains(&found) || !acknowledged,
            "group {group} partition {partition}: {found} is none of {possible:?}"
        );
    }
}

fn random_history(seed: u64) -> usize {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let settings = Settings { max_size: 4, ..Settings::default() };
    let (mut world, mut clients) = (World::new(settings), Clients::default());
    for _ in 0..400 {
        match dice.roll(20) {
            0..=13 => {
                let call = random_call(&mut world, &clients, &mut dice);
                clients.asked.insert(world.tokens + 1, call.clone());
                world.call(call);
            }
            14..=16 => world.advance(dice.roll(4_000)),
            17 => {
                world.follows = dice.roll(3) != 0;
                world.commit_all();
            }
            18 => world.refuse = (dice.roll(2) == 0).then_some(ErrorCode::NotEnoughReplicas),
            _ => {
                if dice.roll(4) == 0 {
                    world.load();
                    // Generations that were not stored are forgotten with the members' sessions.
                    clients.generation.clear();
                    clients.shares.clear();
                }
            }
        }
        for (token, reply) in std::mem::take(&mut world.replies) {
            clients.hear(token, &reply);
        }
        if dice.roll(8) == 0 {
            check_offsets(&mut world, &clients);
            world.replies.clear();
        }
    }
    // Healed, every call is answered: nothing parks longer than the longest timer.
    world.follows = true;
    world.refuse = None;
    world.commit_all();
    world.advance(400_000);
    for (token, reply) in std::mem::take(&mut world.replies) {
        clients.hear(token, &reply);
    }
    assert!(clients.asked.is_empty(), "seed {seed}: unanswered {:?}", clients.asked);
    check_offsets(&mut world, &clients);
    world.replies.clear();
    // What the log says is what the shard says.
    let before = snapshot(&mut world);
    world.load();
    assert_eq!(snapshot(&mut world), before, "seed {seed}: a reload changes nothing");
    clients.answered
}

fn snapshot(world: &mut World) -> String {
    let mut out = String::new();
    for group in ["a", "b"] {
        let fetched = world.fetch(group, None, true);
        let g = world.shard.as_ref().unwrap().describe(&group.into());
        let _ = writeln!(out, "{} {} {} {fetched:?}", g.group, g.state, g.members.len());
    }
    world.replies.clear();
    out
}

#[test]
fn random_histories_keep_the_invariants() {
    let answered: usize = (1..=300).map(random_history).sum();
    assert!(answered > 50_000, "{answered} calls were answered");
}
