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
        let replies = std::mem::take(&mut self.world.replies);
        for (token, reply) in &replies {
            if let Reply::Join(join) = reply
                && !join.member_id.is_empty()
                && !self.ids.values().any(|id| *id == join.member_id)
            {
                self.ids.insert(self.callers[token].clone(), join.member_id.clone());
            }
        }
        let mut out = String::new();
        for (offset, records) in std::mem::take(&mut self.world.appends) {
            for (offset, record) in (offset..).zip(&*records) {
                let _ = writeln!(out, "log {offset}: {}", self.record(record));
            }
        }
        for (token, reply) in replies {
            let _ = writeln!(out, "{} ◄ {}", self.callers[&token], self.reply(&reply));
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
            must_know_id: n % 2 == 0,
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

    fn check_offsets(&mut self) {
        for ((group, partition), possible) in self.offsets.clone() {
            let in_flight = self.asked.values().any(|c| matches!(c, Call::Commit(_)));
            let topic_id = Uuid::ZERO;
            let topic = FetchTopic { name: "t".into(), topic_id, partitions: vec![partition] };
            let Reply::Fetch(r) = self.world.fetch(&group, Some(vec![topic]), false) else {
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
            let fetched = self.world.fetch(group, None, true);
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
