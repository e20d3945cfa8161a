//! Consumer groups (KIP-848) as stories: `tests/stories/consumer_*.txt` hold commands (`> …`) and
//! the full trace of what the shard then does. `UPDATE=1` writes the traces anew.

mod group_world;

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use group_world::{Logged, World, protocols};
use vltava::{
    base::{ErrorCode, NodeId, Uuid},
    coordinator::{
        Client, ConsumerSettings, Settings,
        calls::{
            Call, CommitCall, CommitPartition, CommitTopic, DeleteOffsetsCall, FetchCall,
            HeartbeatCall, JoinCall, LeaveCall, Leaving, Reply, SyncCall, Token,
        },
        calls_consumer::ConsumerHeartbeatCall,
        consumer_records::{Change, Epochs, Partitions},
        records::Record,
    },
    metadata::{PartitionRegistration, Record as Metadata, record::Partition},
};

/// `key=value` words of a command.
struct Args<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Args<'a> {
    fn of(words: &[&'a str]) -> Self {
        Self(words.iter().map(|w| w.split_once('=').unwrap_or((w, ""))).collect())
    }

    fn text(&self, key: &str, default: &'a str) -> &'a str {
        self.0.get(key).copied().unwrap_or(default)
    }

    fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, key: &str, default: T) -> T {
        self.0.get(key).map_or(default, |v| v.parse().unwrap())
    }

    fn optional(&self, key: &str) -> Option<Arc<str>> {
        self.0.get(key).map(|v| Arc::from(*v))
    }
}

/// The id of a topic is its name's first letter, sixteen times; of a second incarnation the next.
fn topic_id(name: &str) -> Uuid {
    Uuid([name.as_bytes()[0]; 16])
}

fn topic_name(id: Uuid) -> char {
    char::from(id.0[0])
}

/// `a:0+1,b:2`.
fn partitions(spec: &str) -> Partitions {
    let one = |t: &str| {
        let (topic, numbers) = t.split_once(':').unwrap();
        (topic_id(topic), numbers.split('+').map(|n| n.parse().unwrap()).collect())
    };
    spec.split(',').filter(|t| !t.is_empty()).map(one).collect()
}

/// `ConsumerProtocolAssignment`, version 1.
fn share(spec: &str) -> Bytes {
    let mut out = BytesMut::new();
    let all = partitions(spec);
    out.put_i16(1);
    out.put_i32(all.len() as i32);
    for (topic, numbers) in all {
        out.put_i16(1);
        out.put_u8(topic.0[0]);
        out.put_i32(numbers.len() as i32);
        numbers.into_iter().for_each(|n| out.put_i32(n));
    }
    out.put_i32(-1);
    out.freeze()
}

fn show(p: &Partitions) -> String {
    let one = |(id, numbers): (&Uuid, &std::collections::BTreeSet<i32>)| {
        let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
        format!("{}:{}", topic_name(*id), numbers.join("+"))
    };
    format!("[{}]", p.iter().map(one).collect::<Vec<_>>().join(","))
}

fn show_epochs(e: &Epochs) -> String {
    let one = |(id, p): (&Uuid, &BTreeMap<i32, i32>)| {
        let numbers: Vec<_> = p.iter().map(|(p, e)| format!("{p}@{e}")).collect();
        format!("{}:{}", topic_name(*id), numbers.join("+"))
    };
    format!("[{}]", e.iter().map(one).collect::<Vec<_>>().join(","))
}

struct Story {
    world: World,
    /// Random bytes given so far.
    drawn: u8,
    callers: BTreeMap<Token, String>,
    /// Classic member ids drawn in this story, by the label of who got them.
    ids: BTreeMap<String, Arc<str>>,
}

impl Story {
    fn new() -> Self {
        let consumer =
            ConsumerSettings { assignment_interval_ms: 0, max_size: 4, ..Default::default() };
        let settings = Settings { consumer, ..Settings::default() };
        Self {
            world: World::new(settings),
            drawn: 0,
            callers: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }

    fn id(&self, label: &str) -> Arc<str> {
        self.ids.get(label).cloned().unwrap_or_else(|| label.into())
    }

    fn label(&self, id: &str) -> String {
        let known = self.ids.iter().find(|(_, v)| ***v == *id);
        known.map_or_else(|| id.to_owned(), |(label, _)| label.clone())
    }

    fn draw(&mut self) -> [u8; 16] {
        self.drawn += 1;
        [self.drawn; 16]
    }

    fn run(&mut self, line: &str) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        let (verb, args) = (words[0], Args::of(&words[1..]));
        let group: Arc<str> = args.text("g", "g").into();
        match verb {
            "topic" => self.topic(words[1], args.number("n", 1)),
            "no-topic" => {
                self.world.metadata(&[Metadata::RemoveTopic { id: topic_id(words[1]) }]);
            }
            "hb" => self.heartbeat(group, &args),
            "join" => self.join(group, &args),
            "sync" => {
                let call = SyncCall {
                    group,
                    generation: args.number("gen", 1),
                    member_id: self.id(args.text("m", "")),
                    instance_id: args.optional("instance"),
                    protocol_type: Some("consumer".into()),
                    protocol: Some("range".into()),
                    assignments: args
                        .0
                        .get("give")
                        .map(|g| (self.id(args.text("m", "")), share(g)))
                        .into_iter()
                        .collect(),
                };
                self.call(args.text("m", ""), Call::Sync(call));
            }
            "classic-hb" => {
                let call = HeartbeatCall {
                    group,
                    generation: args.number("gen", 1),
                    member_id: self.id(args.text("m", "")),
                    instance_id: args.optional("instance"),
                };
                self.call(args.text("m", ""), Call::Heartbeat(call));
            }
            "classic-leave" => {
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
                    member_id: args.optional("m"),
                    member_epoch: args.number("epoch", -1),
                    topics: None,
                    require_stable: false,
                };
                self.call("fetch", Call::Fetch(call));
            }
            "delete-group" => self.call("delete", Call::DeleteGroups(vec![group])),
            "delete-offsets" => {
                let topics = vec![(args.text("t", "a").into(), vec![args.number("p", 0)])];
                self.call("delete", Call::DeleteOffsets(DeleteOffsetsCall { group, topics }));
            }
            "resolve" => self.world.resolve(),
            "advance" => self.world.advance(words[1].parse().unwrap()),
            "hold-high-watermark" => self.world.follows = false,
            "release-high-watermark" => {
                self.world.follows = true;
                self.world.commit_all();
            }
            "refuse" => self.world.refuse = Some(ErrorCode::NotEnoughReplicas),
            "reload" => self.world.load(),
            "describe" => return self.describe(&group),
            "why" => return self.why(&group),
            other => panic!("no verb {other}"),
        }
        self.trace()
    }

    /// Creates a topic, or gives it more partitions.
    fn topic(&mut self, name: &str, count: i32) {
        let id = topic_id(name);
        let has = self.world.image.topics().by_id(id).map(|t| t.partition_count());
        let mut records = vec![];
        if has.is_none() {
            records.push(Metadata::Topic { name: name.into(), id });
        }
        let state = PartitionRegistration::new(&[NodeId(1)], &[Uuid([9; 16])], &[NodeId(1)]);
        for partition in has.unwrap_or(0)..count {
            let state = state.clone();
            records.push(Metadata::Partition(Partition { topic_id: id, partition, state }));
        }
        self.world.metadata(&records);
    }

    fn heartbeat(&mut self, group: Arc<str>, args: &Args<'_>) {
        let epoch = args.number("epoch", 0);
        let joins = epoch == 0;
        let names = args
            .0
            .get("topics")
            .copied()
            .or_else(|| (joins && !args.0.contains_key("re")).then_some("a"));
        let call = ConsumerHeartbeatCall {
            group,
            client: Client { id: "c".into(), host: "/h".into() },
            member_id: self.id(args.text("m", "")),
            epoch,
            instance_id: args.optional("instance"),
            rack: None,
            rebalance_timeout_ms: joins.then_some(60_000),
            topics: names.map(|t| t.split('+').filter(|t| !t.is_empty()).map(Arc::from).collect()),
            regex: args.optional("re"),
            assignor: args.optional("assignor"),
            owned: args
                .0
                .get("owns")
                .map(|o| partitions(o))
                .or_else(|| joins.then(Partitions::new)),
            unique: self.draw(),
        };
        self.call(args.text("m", ""), Call::ConsumerHeartbeat(Box::new(call)));
    }

    fn join(&mut self, group: Arc<str>, args: &Args<'_>) {
        let call = JoinCall {
            group,
            client: Client { id: args.text("as", "").into(), host: "/h".into() },
            member_id: self.id(args.text("m", "")),
            instance_id: args.optional("instance"),
            protocol_type: "consumer".into(),
            protocols: protocols(args.text("p", "range:a")),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            must_know_id: false,
            can_skip_assignment: true,
            unique: self.draw(),
        };
        self.call(args.text("as", args.text("m", "")), Call::Join(call));
    }

    fn commit(&mut self, group: Arc<str>, args: &Args<'_>) {
        let name = args.text("t", "a");
        let call = CommitCall {
            group,
            generation: args.number("epoch", -1),
            member_id: self.id(args.text("m", "")),
            instance_id: None,
            retention_ms: None,
            knows_group_id_not_found: args.number("v", 9) >= 9,
            topics: vec![CommitTopic {
                name: name.into(),
                topic_id: topic_id(name),
                partitions: vec![CommitPartition {
                    partition: args.number("p", 0),
                    offset: args.number("o", 1),
                    leader_epoch: -1,
                    metadata: "".into(),
                }],
            }],
        };
        self.call("commit", Call::Commit(call));
    }

    fn call(&mut self, label: &str, call: Call) {
        let label = if label.is_empty() { "?" } else { label };
        self.callers.insert(self.world.tokens + 1, label.to_owned());
        self.world.call(call);
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
                let Logged::Plain(record) = record else { unreachable!("no transactions here") };
                let _ = writeln!(out, "log {offset}: {}", self.record(record));
            }
        }
        for (_, _, resolved) in &self.world.resolved {
            for (regex, value) in resolved {
                let _ = writeln!(out, "{regex} will stand for {:?}", value.topics);
            }
        }
        for (token, reply) in replies {
            let _ = writeln!(out, "{} ◄ {}", self.callers[&token], self.reply(&reply));
        }
        out
    }

    fn record(&self, record: &Record) -> String {
        let record = match record {
            Record::Offset { group, topic, partition, value } => {
                let what =
                    value.as_ref().map_or_else(|| "gone".to_owned(), |v| format!("= {}", v.offset));
                return format!("offset {group} {topic}-{partition} {what}");
            }
            Record::Group { group, value: None } => return format!("classic {group} gone"),
            Record::Group { group, value: Some(v) } => {
                let members: Vec<_> = v.members.iter().map(|m| self.label(&m.member_id)).collect();
                let (generation, all) = (v.generation, members.join(", "));
                return format!("classic {group} generation {generation} members [{all}]");
            }
            Record::Consumer(record) => record,
            Record::Share(record) => return format!("share group {}", record.group),
        };
        let gone = || "gone".to_owned();
        match &record.change {
            Change::Epoch(v) => format!("epoch {}", v.map_or_else(gone, |v| v.epoch.to_string())),
            Change::TopicMetadata(_) => "topic metadata gone".to_owned(),
            Change::TargetEpoch(v) => {
                format!("target epoch {}", v.map_or_else(gone, |v| v.epoch.to_string()))
            }
            Change::Member(id, v) => {
                let what = v.as_ref().map_or_else(gone, |v| {
                    let classic = if v.classic.is_some() { " classic" } else { "" };
                    let regex = v.regex.as_deref().filter(|r| !r.is_empty());
                    let regex = regex.map(|r| format!(" /{r}/")).unwrap_or_default();
                    format!("reads {:?}{regex}{classic}", v.topics)
                });
                format!("member {} {what}", self.label(id))
            }
            Change::Target(id, v) => {
                let what = v.as_ref().map_or_else(gone, |v| show(v));
                format!("target {} {what}", self.label(id))
            }
            Change::Current(id, v) => {
                let what = v.as_ref().map_or_else(gone, |v| {
                    let state = ["stable", "unrevoked", "unreleased"][v.state as usize];
                    let revoking = match v.revoking.is_empty() {
                        true => String::new(),
                        false => format!(" gives back {}", show_epochs(&v.revoking)),
                    };
                    format!("{state} at {} has {}{revoking}", v.epoch, show_epochs(&v.assigned))
                });
                format!("current {} {what}", self.label(id))
            }
            Change::Regex(regex, v) => {
                format!("/{regex}/ {}", v.as_ref().map_or_else(gone, |v| format!("{:?}", v.topics)))
            }
        }
    }

    fn reply(&self, reply: &Reply) -> String {
        match reply {
            Reply::EndTxn(error) => error.name().to_owned(),
            Reply::ConsumerHeartbeat(r) if r.error != ErrorCode::None => r.error.name().to_owned(),
            Reply::ConsumerHeartbeat(r) => {
                let may = r.assignment.as_ref().map(|a| format!(" may use {}", show(a)));
                format!("at {}{}", r.epoch, may.unwrap_or_default())
            }
            Reply::Join(r) => {
                format!(
                    "join {} generation {} as {}",
                    r.error.name(),
                    r.generation,
                    self.label(&r.member_id)
                )
            }
            Reply::Sync(r) => {
                // Version, topics; each topic's name and partitions; no user data.
                let text: String = r
                    .assignment
                    .iter()
                    .map(|b| {
                        if b.is_ascii_lowercase() {
                            char::from(*b).to_string()
                        } else {
                            format!("{b:x}")
                        }
                    })
                    .collect();
                format!("sync {} {text}", r.error.name())
            }
            Reply::Heartbeat(error) => format!("heartbeat {}", error.name()),
            Reply::Leave(r) => {
                let members: Vec<_> = r.members.iter().map(|(_, e)| e.name()).collect();
                format!("leave {} {members:?}", r.error.name())
            }
            Reply::Commit(r) => format!("commit {}", r.error.name()),
            Reply::Fetch(r) => {
                let count: usize = r.topics.iter().map(|t| t.partitions.len()).sum();
                format!("fetch {} {count} offsets", r.error.name())
            }
            Reply::DeleteGroups(groups) => format!("delete {}", groups[0].1.name()),
            Reply::DeleteOffsets(r) => {
                let codes: Vec<_> =
                    r.topics.iter().flat_map(|(_, p)| p.iter().map(|(_, e)| e.name())).collect();
                format!("delete {} {codes:?}", r.error.name())
            }
            Reply::TopicsDeleted(error) => format!("topics deleted {}", error.name()),
            // `share_histories` tells of share groups.
            Reply::ShareHeartbeat(_)
            | Reply::AlterShareOffsets(_)
            | Reply::DeleteShareOffsets(_)
            | Reply::ShareOffsetsDeleted(_)
            | Reply::ShareDeletions(_) => format!("{reply:?}"),
        }
    }

    fn describe(&self, group: &str) -> String {
        let shard = self.world.shard.as_ref().unwrap();
        let mut out = String::new();
        for listed in shard.list(|g| *g.group == *group) {
            let _ =
                writeln!(out, "{} {} {}", listed.group_type, listed.protocol_type, listed.state);
        }
        if let Some(g) = shard.describe_consumer_group(group) {
            let _ = writeln!(out, "epoch {} target {} by {}", g.epoch, g.target_epoch, g.assignor);
            for m in g.members {
                let _ = writeln!(
                    out,
                    "{} at {} has {} of {}{}",
                    self.label(&m.member_id),
                    m.epoch,
                    show_epochs(&m.assigned),
                    show(&m.target),
                    if m.classic { " classic" } else { "" },
                );
            }
        }
        out
    }

    fn why(&self, group: &str) -> String {
        let mut out = String::new();
        for r in self.world.shard.as_ref().unwrap().last_rebalances(group) {
            let by = r.member.map_or_else(|| "nobody".to_owned(), |m| self.label(&m));
            let _ = writeln!(out, "epoch {} by {by}: {}", r.epoch, r.why);
        }
        out
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
        if !name.starts_with("consumer_") {
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
    assert!(played >= 5, "{played} stories");
}
