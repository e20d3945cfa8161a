//! Groups and offsets as stories: `tests/stories/group_*.txt` hold commands (`> …`) and the full
//! trace of what the shard then does. `UPDATE=1` writes the traces anew.

mod group_world;

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use bytes::Bytes;
use group_world::{Logged, World, protocols};
use vltava::{
    base::{ErrorCode, Uuid},
    coordinator::{
        Client, Settings,
        calls::{
            Call, CommitCall, CommitPartition, CommitTopic, DeleteOffsetsCall, EndTxnCall,
            FetchCall, HeartbeatCall, JoinCall, LeaveCall, Leaving, Reply, SyncCall, Token,
            TxnCommitCall,
        },
        records::Record,
    },
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
    /// Random bytes given so far.
    drawn: u8,
    /// Label of each caller, by token.
    callers: BTreeMap<Token, String>,
    /// Member ids drawn in this story, by the label of who got them.
    ids: BTreeMap<String, Arc<str>>,
}

impl Story {
    fn new() -> Self {
        let settings = Settings { max_size: 4, ..Settings::default() };
        Self {
            world: World::new(settings),
            drawn: 0,
            callers: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
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
            "sync" => self.sync(group, &args),
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
            "commit" => {
                let call = self.commit(group, &args);
                self.call("commit", Call::Commit(call));
            }
            "txn-commit" => {
                let call = TxnCommitCall {
                    producer_id: args.number("producer", 7),
                    producer_epoch: 0,
                    guard: None,
                    commit: self.commit(group, &args),
                };
                self.call("txn", Call::TxnCommit(call));
            }
            "end-txn" => {
                let call = EndTxnCall {
                    producer_id: args.number("producer", 7),
                    producer_epoch: 0,
                    coordinator_epoch: 0,
                    commit: !args.0.contains_key("abort"),
                    transaction_version: 1,
                };
                self.call("end", Call::EndTxn(call));
            }
            "fetch" => {
                let call = FetchCall {
                    group,
                    member_id: None,
                    member_epoch: -1,
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
        self.drawn += 1;
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
            unique: [self.drawn; 16],
        };
        self.call(label, Call::Join(call));
    }

    fn sync(&mut self, group: Arc<str>, args: &Args<'_>) {
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

    fn commit(&self, group: Arc<str>, args: &Args<'_>) -> CommitCall {
        let partition = CommitPartition {
            partition: args.number("p", 0),
            offset: args.number("offset", 1),
            leader_epoch: -1,
            metadata: "x".repeat(args.number("metadata", 0)).into(),
        };
        CommitCall {
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
        }
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
                let record = match record {
                    Logged::Plain(r) => self.record(r),
                    Logged::InTxn(id, r) => format!("{} by producer {id}", self.record(r)),
                    Logged::End(call) => {
                        let end = if call.commit { "commit" } else { "abort" };
                        format!("{end} of producer {}", call.producer_id)
                    }
                };
                let _ = writeln!(out, "log {offset}: {record}");
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
            Record::Consumer(record) => format!("consumer group {}", record.group),
            Record::Share(record) => format!("share group {}", record.group),
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
                    v.leader.as_ref().map_or_else(|| "none".into(), |l| self.label(l)),
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
                    t.partitions.iter().map(move |p| match p.error {
                        ErrorCode::None => format!("{name}-{} {}", p.partition, p.offset),
                        e => format!("{name}-{} {} {}", p.partition, p.offset, e.name()),
                    })
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
            Reply::ConsumerHeartbeat(r) => format!("consumer heartbeat {}", r.error.name()),
            Reply::TopicsDeleted(error) => format!("topics deleted {}", error.name()),
            Reply::EndTxn(error) => format!("end {}", error.name()),
            // `share_histories` tells of share groups.
            Reply::ShareHeartbeat(_)
            | Reply::AlterShareOffsets(_)
            | Reply::DeleteShareOffsets(_)
            | Reply::ShareOffsetsDeleted(_)
            | Reply::ShareDeletions(_) => format!("{reply:?}"),
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
