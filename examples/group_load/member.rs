//! Members of a group: they read, commit what they read, and record both.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::BufRead as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance},
    error::KafkaError,
};

use crate::{Args, Recorder};

const POLL: Duration = Duration::from_millis(20);
const BATCH: Duration = Duration::from_millis(100);
const COMMIT_EVERY: Duration = Duration::from_millis(500);

/// What was read and not recorded, and the positions not committed, by partition.
#[derive(Default)]
struct Read {
    began: u64,
    batch: BTreeMap<i32, String>,
    next: BTreeMap<i32, i64>,
}

/// A member's own: it is told of rebalances inside its polls.
struct Desk {
    c: String,
    group: String,
    topic: String,
    recorder: Arc<Recorder>,
    read: Mutex<Read>,
}

impl Desk {
    fn read(&self) -> std::sync::MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what was read so far.
    fn note(&self) {
        let mut read = self.read();
        let (c, group, topic, now) = (&self.c, &self.group, &self.topic, self.recorder.now());
        let began = read.began.min(now);
        for (p, list) in std::mem::take(&mut read.batch) {
            self.recorder.event(format_args!(
                r#"{{"poll":{{"c":"{c}","group":"{group}","tp":["{topic}",{p}],"t":[{began},{now}],"r":[{list}]}}}}"#
            ));
        }
        read.began = now;
        let _ = self.recorder.finish();
    }

    fn committed(&self, all: &BTreeMap<i32, i64>, began: u64, info: Option<&str>) {
        let now = self.recorder.now();
        let info = info.map(|i| format!(r#","info":"{i}""#)).unwrap_or_default();
        for (p, offset) in all {
            self.recorder.event(format_args!(
                r#"{{"commit":{{"group":"{}","tp":["{}",{p}],"offset":{offset},"t":[{began},{now}]{info}}}}}"#,
                self.group, self.topic
            ));
        }
        let _ = self.recorder.finish();
    }

    /// Commits all positions; those of which nobody knows are asked for again with later ones.
    fn commit(&self, consumer: &BaseConsumer<Self>) {
        self.note();
        let all = std::mem::take(&mut self.read().next);
        if all.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        for (p, offset) in &all {
            let _ = list.add_partition_offset(&self.topic, *p, Offset::Offset(*offset));
        }
        let began = self.recorder.now();
        // Said before, in case that this process does not live to see the answer.
        self.committed(&all, began, Some("asked"));
        if consumer.commit(&list, CommitMode::Sync).is_ok() {
            self.committed(&all, began, None);
        } else {
            let mut read = self.read();
            for (p, offset) in all {
                read.next.entry(p).or_insert(offset);
            }
        }
    }
}

impl ClientContext for Desk {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        eprintln!("{} {} {facility} {text}", self.recorder.now(), self.c);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        eprintln!("{} {} {error} {reason}", self.recorder.now(), self.c);
    }
}

impl ConsumerContext for Desk {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                self.note();
                for e in list.elements() {
                    let (c, topic, p) = (&self.c, &self.topic, e.partition());
                    self.read().next.remove(&p);
                    self.recorder.event(format_args!(
                        r#"{{"assign":{{"c":"{c}","tp":["{topic}",{p}],"offset":null}}}}"#
                    ));
                }
                let _ = self.recorder.finish();
            }
            Rebalance::Revoke(list) => {
                // As applications do: what was read is committed before it is given away.
                if consumer.assignment_lost() {
                    self.note();
                } else {
                    self.commit(consumer);
                }
                let mut read = self.read();
                for e in list.elements() {
                    read.next.remove(&e.partition());
                }
            }
            Rebalance::Error(error) => eprintln!("{} rebalance: {error}", self.c),
        }
    }
}

/// One member until `on` ends; then it leaves.
fn live(args: &Args, c: &str, recorder: &Arc<Recorder>, on: &AtomicBool) -> anyhow::Result<()> {
    let group = args.group.first().context("a group")?.clone();
    let desk = Desk {
        c: c.to_owned(),
        group: group.clone(),
        topic: args.topic.clone(),
        recorder: Arc::clone(recorder),
        read: Mutex::default(),
    };
    let mut config = args.client();
    config
        .set("group.id", &group)
        .set("client.id", c)
        .set("group.protocol", &args.protocol)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "200")
        .set("check.crcs", "true");
    if args.protocol == "consumer" {
        config.set("group.remote.assignor", &args.assignor);
    } else {
        config
            .set("partition.assignment.strategy", &args.assignor)
            .set("session.timeout.ms", args.session_ms.to_string())
            .set("heartbeat.interval.ms", "500");
    }
    let consumer: BaseConsumer<Desk> = config.create_with_context(desk)?;
    consumer.subscribe(&[&args.topic])?;
    let desk = Arc::clone(consumer.context());
    let (mut noted, mut committed) = (Instant::now(), Instant::now());
    while on.load(Ordering::Relaxed) {
        if let Some(Ok(m)) = consumer.poll(POLL) {
            let mut read = desk.read();
            let text = m.payload().and_then(|v| str::from_utf8(v).ok()).unwrap_or("no text");
            let list = read.batch.entry(m.partition()).or_default();
            let comma = if list.is_empty() { "" } else { "," };
            let _ = write!(list, r#"{comma}[{},"{text}"]"#, m.offset());
            read.next.insert(m.partition(), m.offset() + 1);
        }
        if noted.elapsed() > BATCH {
            desk.note();
            noted = Instant::now();
        }
        if committed.elapsed() > COMMIT_EVERY {
            desk.commit(&consumer);
            committed = Instant::now();
        }
    }
    desk.note();
    Ok(())
}

/// A thread, and what ends it.
type Living = (Arc<AtomicBool>, thread::JoinHandle<anyhow::Result<()>>);

/// The members of this process.
pub(crate) fn members(args: &Args) -> anyhow::Result<()> {
    let recorder = Arc::new(Recorder::create(&args.history)?);
    let mut living: BTreeMap<String, Living> = BTreeMap::new();
    let mut leaving = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (what, name) = line.split_once(' ').context("a command")?;
        if what == "close" {
            if let Some((on, thread)) = living.remove(name) {
                on.store(false, Ordering::Relaxed);
                leaving.push(thread);
            }
            continue;
        }
        let on = Arc::new(AtomicBool::new(true));
        let (args, recorder, c) = (args.clone(), Arc::clone(&recorder), name.to_owned());
        let mine = Arc::clone(&on);
        let thread = thread::spawn(move || live(&args, &c, &recorder, &mine));
        living.insert(name.to_owned(), (on, thread));
    }
    for (on, _) in living.values() {
        on.store(false, Ordering::Relaxed);
    }
    for thread in living.into_values().map(|(_, t)| t).chain(leaving) {
        thread.join().map_err(|_| anyhow::anyhow!("a member panicked"))??;
    }
    recorder.finish()
}
