//! Transactions as stories: `tests/stories/txn_*.txt` hold commands (`> …`) and the full trace of
//! what the shard then does. `UPDATE=1` writes the traces anew.

mod txn_world;

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc};

use txn_world::World;
use vltava::{
    base::ErrorCode,
    coordinator::{
        txn_calls::{AddCall, EndCall, InitCall, Producer, TxnCall, TxnReply},
        txn_records::{TopicPartition, TxnRecord, TxnState, TxnValue},
        txn_settings::TxnSettings,
    },
};

/// `key=value` words of a command.
struct Args<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Args<'a> {
    fn of(words: &[&'a str]) -> Self {
        Self(words.iter().map(|w| w.split_once('=').unwrap_or((w, ""))).collect())
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
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

    /// `producer=1001/3`.
    fn producer(&self) -> Option<Producer> {
        let (id, epoch) = self.0.get("producer")?.split_once('/')?;
        Some(Producer { id: id.parse().unwrap(), epoch: epoch.parse().unwrap() })
    }

    /// `p=t:0,u:3`.
    fn partitions(&self) -> impl Iterator<Item = TopicPartition> + 'a {
        let list = self.text("p", "").split(',').filter(|p| !p.is_empty());
        list.map(|p| p.split_once(':').map(|(t, n)| (t.into(), n.parse().unwrap())).unwrap())
    }
}

fn run(world: &mut World, line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let (verb, args) = (words[0], Args::of(&words[1..]));
    let id: Arc<str> = args.text("id", "tx").into();
    let producer = args.producer().unwrap_or(Producer { id: 1001, epoch: 0 });
    let client_version = if args.has("v2") { 2 } else { 0 };
    let add = || AddCall {
        id: id.clone(),
        producer,
        partitions: args.partitions().collect(),
        client_version,
    };
    match verb {
        "init" => {
            let timeout_ms = args.number("timeout", 60_000);
            let expected = args.producer();
            world.call(TxnCall::Init(InitCall { id, timeout_ms, expected }));
        }
        "add" => _ = world.call(TxnCall::Add(add())),
        "verify" => _ = world.call(TxnCall::Verify(add())),
        "commit" | "abort" => {
            let commit = verb == "commit";
            world.call(TxnCall::End(EndCall { id, producer, commit, client_version }));
        }
        "mark" => {
            let partitions: Vec<_> = args.partitions().collect();
            for markers in std::mem::take(&mut world.to_mark) {
                let written: Vec<_> = match partitions.is_empty() {
                    true => markers.partitions.iter().cloned().collect(),
                    false => partitions.clone(),
                };
                world.marked(&markers, &written);
                let mut rest = markers.clone();
                rest.partitions.retain(|p| !written.contains(p));
                if !rest.partitions.is_empty() {
                    world.to_mark.push(rest);
                }
            }
        }
        "record" => {
            let value = TxnValue {
                producer_id: producer.id,
                previous_producer_id: args.number("previous", -1),
                next_producer_id: -1,
                producer_epoch: producer.epoch,
                last_producer_epoch: -1,
                timeout_ms: 60_000,
                state: match args.text("state", "Empty") {
                    "Ongoing" => TxnState::Ongoing,
                    "PrepareCommit" => TxnState::PrepareCommit,
                    "CompleteAbort" => TxnState::CompleteAbort,
                    _ => TxnState::Empty,
                },
                partitions: args.partitions().collect(),
                last_update_ms: world.at.now.wall_ms,
                start_ms: if args.has("p") { world.at.now.wall_ms } else { -1 },
                client_version,
            };
            world.log.push(TxnRecord { id, value: Some(value) });
            world.load();
        }
        "advance" => world.advance(words[1].parse().unwrap()),
        "transaction-version" => world.at.transaction_version = words[1].parse().unwrap(),
        "hold-high-watermark" => world.follows = false,
        "pass-high-watermark" => {
            world.follows = true;
            world.commit_all();
        }
        "lose-leadership" => world.step(|shard, _, out| {
            shard.commit_lost(ErrorCode::NotLeaderOrFollower, out);
        }),
        "lose-tail" => world.lose_tail(),
        "refuse-next-append" => world.refuse = Some(ErrorCode::NotEnoughReplicas),
        "hold-producer-ids" => world.gives_ids = false,
        "give-producer-id" => {
            let id = world.fresh_id();
            world.step(|shard, at, out| shard.producer_id(Ok(id), at, out));
        }
        "no-producer-id" => world.step(|shard, at, out| {
            shard.producer_id(Err(ErrorCode::CoordinatorLoadInProgress), at, out);
        }),
        "reload" => world.load(),
        "describe" => {
            let found = world.shard.as_ref().unwrap().describe(&id);
            return found.map_or_else(
                || "  unknown\n".to_owned(),
                |d| {
                    let Producer { id, epoch } = d.producer;
                    let on = list(&d.partitions);
                    format!("  {} {id}/{epoch} start={} [{on}]\n", d.state, d.start_ms)
                },
            );
        }
        "list" => {
            let all = world.shard.as_ref().unwrap().list(|_| true);
            return all
                .iter()
                .map(|t| format!("  {} {} {}\n", t.id, t.producer_id, t.state))
                .collect();
        }
        other => panic!("no such command: {other}"),
    }
    trace(world)
}

fn list<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> String {
    let all: Vec<_> = partitions.into_iter().map(|(t, p)| format!("{t}:{p}")).collect();
    all.join(",")
}

fn trace(world: &mut World) -> String {
    let mut out = String::new();
    if std::mem::take(&mut world.wanted_ids) > 0 {
        out.push_str("  wants a producer id\n");
    }
    for record in world.appends.drain(..) {
        let id = &record.id;
        let Some(v) = &record.value else {
            _ = writeln!(out, "  append {id} forgotten");
            continue;
        };
        let (state, pid, epoch) = (v.state.name(), v.producer_id, v.producer_epoch);
        _ = write!(out, "  append {id} {state} {pid}/{epoch} was={}", v.previous_producer_id);
        if v.next_producer_id >= 0 {
            _ = write!(out, " next={}", v.next_producer_id);
        }
        _ = write!(out, " v{} start={} timeout={}", v.client_version, v.start_ms, v.timeout_ms);
        _ = writeln!(out, " [{}]", list(&v.partitions));
    }
    for m in world.marks.drain(..) {
        let (what, Producer { id, epoch }) =
            (if m.commit { "commit" } else { "abort" }, m.producer);
        let (on, tv) = (list(&m.partitions), m.transaction_version);
        _ = writeln!(out, "  mark {} {what} {id}/{epoch} v{tv} [{on}]", m.id);
    }
    for (token, reply) in world.replies.drain(..) {
        let text = match reply {
            TxnReply::Producer(Ok(Producer { id, epoch })) => format!("{id}/{epoch}"),
            TxnReply::Producer(Err(error)) | TxnReply::Verified(Err(error)) => error.name().into(),
            TxnReply::Added(error) => error.name().into(),
            TxnReply::Verified(Ok(found)) => {
                let all: Vec<_> =
                    found.iter().map(|((t, p), is)| format!("{t}:{p}={is}")).collect();
                all.join(",")
            }
        };
        _ = writeln!(out, "  #{token} {text}");
    }
    out
}

#[test]
fn stories() {
    let mut told = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir("tests/stories").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.starts_with("txn_") {
            continue;
        }
        told += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let settings = TxnSettings {
            abort_interval_ms: 10_000,
            expire_interval_ms: 3_600_000,
            ..TxnSettings::default()
        };
        let mut world = World::new(settings.clone(), 2);
        let mut fresh = String::new();
        for line in text.lines() {
            match line.strip_prefix("> ") {
                Some("new") => {
                    world = World::new(settings.clone(), 2);
                    fresh.push_str("> new\n");
                }
                Some(command) => {
                    _ = writeln!(fresh, "> {command}");
                    fresh.push_str(&run(&mut world, command));
                }
                None if line.starts_with("  ") => {}
                None => _ = writeln!(fresh, "{line}"),
            }
        }
        if std::env::var("UPDATE").is_ok() {
            std::fs::write(&path, &fresh).unwrap();
        } else if fresh != text {
            wrong.push(format!("{name}:\n{fresh}"));
        }
    }
    assert!(told > 0);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
