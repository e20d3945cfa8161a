//! Clerks carry out orders: consume, transfer, and commit the position in the same transaction. An
//! order is carried out once, whatever happens to brokers, coordinators and clerks.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    producer::{Producer as _, ThreadedProducer},
};

use crate::{
    Args, Dice,
    recorder::Recorder,
    teller::{End, Outcomes, Posting, Teller, send_plain},
};

const PATIENCE: Duration = Duration::from_secs(45);
const CALL: Duration = Duration::from_secs(5);
/// Orders of one transaction at most.
const BATCH_MAX: usize = 5;

/// Writes orders while `on`: account, account, amount.
pub(crate) fn give_orders(
    args: &Args,
    recorder: &Arc<Recorder>,
    on: &AtomicBool,
) -> anyhow::Result<String> {
    let p = format!("{}/orders", args.topic);
    let producer: ThreadedProducer<Outcomes> = args
        .client()
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("message.timeout.ms", "60000")
        .create_with_context(Outcomes::new(p.clone(), recorder))?;
    let (topic, mut dice, mut n) = (args.orders(), Dice::new(args.seed, 1000), 0);
    while args.clerks > 0 && on.load(Ordering::Relaxed) {
        let from = dice.below(args.accounts);
        let to = (from + 1 + dice.below(args.accounts - 1)) % args.accounts;
        let value = format!("{p}:{n};{from};{to};{}", dice.below(50) + 1);
        let partition = (n % args.clerks as usize) as i32;
        send_plain(&producer, (&topic, partition), n, &value)?;
        n += 1;
        thread::sleep(Duration::from_millis(10));
    }
    producer.flush(Duration::from_secs(65))?;
    // Deliveries are told by another thread.
    thread::sleep(Duration::from_millis(300));
    Ok(format!("{n} orders"))
}

/// The name of the clerks' group of a round.
pub(crate) fn group(args: &Args) -> String {
    format!("clerks-{}", args.topic)
}

pub(crate) fn consumer(args: &Args) -> anyhow::Result<BaseConsumer> {
    Ok(args
        .client()
        .set("group.id", group(args))
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        .create()?)
}

/// Where the group is; 0 where it never was. Asked until it is told.
pub(crate) fn position(
    args: &Args,
    consumer: &BaseConsumer,
    partition: i32,
    recorder: &Recorder,
) -> anyhow::Result<i64> {
    let (topic, began) = (args.orders(), Instant::now());
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&topic, partition);
    loop {
        let before = recorder.now();
        let told = consumer.committed_offsets(asked.clone(), CALL);
        let told = told.and_then(|t| match t.elements().first() {
            Some(e) => e.error().map(|()| e.offset()),
            None => Ok(Offset::Invalid),
        });
        let now = recorder.now();
        match told {
            Err(error) if began.elapsed() > PATIENCE => return Err(error).context("OffsetFetch"),
            Err(_) => thread::sleep(Duration::from_millis(50)),
            Ok(offset) => {
                let raw = if let Offset::Offset(at) = offset { at } else { -1 };
                recorder.event(format_args!(
                    r#"{{"fetched":{{"group":"{}","tp":["{topic}",{partition}],"t":[{before},{now}],"offset":{raw}}}}}"#,
                    group(args)
                ));
                return Ok(raw.max(0));
            }
        }
    }
}

/// A consumer of one partition of orders.
struct Inbox<'a> {
    args: &'a Args,
    consumer: BaseConsumer,
    partition: i32,
    topic: String,
    recorder: &'a Recorder,
}

impl Inbox<'_> {
    fn go_to(&self, offset: i64) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, self.partition, Offset::Offset(offset))?;
        self.consumer.assign(&list)?;
        self.recorder.event(format_args!(
            r#"{{"assign":{{"c":"clerk-{p}","tp":["{}",{p}],"offset":{offset}}}}}"#,
            self.topic,
            p = self.partition
        ));
        Ok(())
    }

    /// Some orders, as postings, and the position behind them; none when there are none now.
    fn orders(&self) -> anyhow::Result<Option<(Vec<Posting>, i64)>> {
        let (mut out, mut next, mut read) = (Vec::new(), 0, String::new());
        let began = self.recorder.now();
        let mut wait = Duration::from_millis(200);
        while out.len() < 2 * BATCH_MAX {
            let m = match self.consumer.poll(wait) {
                None => break,
                Some(Ok(m)) => m,
                Some(Err(error)) => {
                    anyhow::ensure!(!lost(&error), "a clerk: {error}");
                    continue;
                }
            };
            let text = m.payload().and_then(|v| str::from_utf8(v).ok()).unwrap_or("no text");
            let comma = if read.is_empty() { "" } else { "," };
            let _ = write!(read, r#"{comma}[{},"{text}"]"#, m.offset());
            let mut parts = text.split(';').skip(1);
            let mut number = || parts.next().and_then(|n| n.parse::<u32>().ok());
            let (Some(from), Some(to), Some(amount)) = (number(), number(), number()) else {
                anyhow::bail!("an order says {text:?}");
            };
            let order = format!("{}@{}", self.partition, m.offset());
            out.push((from, -i64::from(amount), order.clone()));
            out.push((to, i64::from(amount), order));
            next = m.offset() + 1;
            wait = Duration::from_millis(2);
        }
        if out.is_empty() {
            return Ok(None);
        }
        let now = self.recorder.now();
        self.recorder.event(format_args!(
            r#"{{"poll":{{"c":"clerk-{p}","group":"{}","tp":["{}",{p}],"t":[{began},{now}],"committed":true,"r":[{read}]}}}}"#,
            group(self.args),
            self.topic,
            p = self.partition
        ));
        Ok(Some((out, next)))
    }
}

/// Positions that a log does not have are findings; lost connections are not.
fn lost(error: &KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    let found = [Code::AutoOffsetReset, Code::OffsetOutOfRange, Code::BadMessage];
    error.rdkafka_error_code().is_some_and(|c| found.contains(&c))
}

/// One clerk; like a teller it ends with a commit that began after `stop`.
pub(crate) fn work(
    args: &Args,
    number: u32,
    recorder: &Arc<Recorder>,
    stop: &AtomicBool,
) -> anyhow::Result<String> {
    let id = format!("clerk-{number}");
    let partition = number.cast_signed();
    let mut dice = Dice::new(args.seed, 500 + u64::from(number));
    let inbox =
        Inbox { args, consumer: consumer(args)?, partition, topic: args.orders(), recorder };
    let (mut incarnation, mut committed, mut aborted) = (0, 0u64, 0u64);
    let mut since_stop: Option<Instant> = None;
    'born: loop {
        let mut teller = Teller::open(args, &id, incarnation, recorder)?;
        incarnation += 1;
        let mut at = position(args, &inbox.consumer, partition, recorder)?;
        inbox.go_to(at)?;
        loop {
            let stopped = stop.load(Ordering::Relaxed);
            if stopped && since_stop.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
                anyhow::bail!("{id} commits no more");
            }
            let Some((postings, next)) = inbox.orders()? else { continue };
            let commit = stopped || dice.below(100) >= 8;
            let Ok(name) = teller.begin(&postings) else { continue 'born };
            let offsets = format!(r#"["{}",["{}",{partition}],{next}]"#, group(args), inbox.topic);
            let taken = take_along(&teller, &inbox, next);
            match teller.end(&name, commit && taken, &offsets) {
                End::Commit => {
                    (at, committed) = (next, committed + 1);
                    if stopped {
                        break 'born;
                    }
                }
                End::Abort => {
                    aborted += 1;
                    inbox.go_to(at)?;
                }
                End::Info => continue 'born,
            }
        }
    }
    Ok(format!("{id}: {committed} committed, {aborted} aborted"))
}

/// Whether the position is part of the transaction.
fn take_along(teller: &Teller, inbox: &Inbox<'_>, next: i64) -> bool {
    let mut list = TopicPartitionList::new();
    let set = list.add_partition_offset(&inbox.topic, inbox.partition, Offset::Offset(next));
    let Some(metadata) = inbox.consumer.group_metadata().filter(|_| set.is_ok()) else {
        return false;
    };
    let began = Instant::now();
    loop {
        match teller.producer.send_offsets_to_transaction(&list, &metadata, CALL) {
            Ok(()) => return true,
            Err(KafkaError::Transaction(e)) if e.is_retriable() && began.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => {
                eprintln!("{}: offsets: {error}", teller.p);
                return false;
            }
        }
    }
}
