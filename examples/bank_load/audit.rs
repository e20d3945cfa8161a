//! Complete reads at read_committed: the sum of all accounts, whole transactions, orders carried out
//! once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult},
};

use crate::{Args, clerk, recorder::Recorder};

/// How long a read waits for what must come: a fault, and ten seconds to come back.
const PATIENCE: Duration = Duration::from_secs(30);
const BATCH_TIME: Duration = Duration::from_millis(50);

/// What a read was given of one transaction.
#[derive(Default)]
struct Part {
    parts: usize,
    seen: usize,
    sum: i64,
}

/// The bank as one complete read has it: each partition up to its end, and what is missing then of
/// transactions that were seen in part.
#[derive(Default)]
struct Read {
    txns: BTreeMap<String, Part>,
    /// By order: the transaction that carried it out.
    orders: BTreeMap<String, String>,
    records: u64,
}

impl Read {
    fn take(&mut self, key: Option<&[u8]>, text: &str) -> anyhow::Result<()> {
        let fields: Vec<_> = text.split(';').collect();
        let [txn, _, parts, account, amount, order] = fields[..] else {
            anyhow::bail!("a posting says {text:?}");
        };
        anyhow::ensure!(key == Some(account.as_bytes()), "{text:?} is under the key {key:?}");
        let part = self.txns.entry(txn.to_owned()).or_default();
        (part.parts, part.seen) = (parts.parse()?, part.seen + 1);
        part.sum += amount.parse::<i64>()?;
        self.records += 1;
        if order != "-" {
            let was = self.orders.insert(order.to_owned(), txn.to_owned());
            let same = was.as_deref().is_none_or(|w| w == txn);
            anyhow::ensure!(same, "order {order} was carried out by {was:?} and by {txn}");
        }
        Ok(())
    }

    fn torn(&self) -> BTreeSet<String> {
        self.txns.iter().filter(|(_, p)| p.seen < p.parts).map(|(t, _)| t.clone()).collect()
    }

    /// The sum over the transactions that are among `known`, all whole.
    fn sum(&self, known: &BTreeSet<String>) -> i64 {
        known.iter().filter_map(|t| self.txns.get(t)).map(|p| p.sum).sum()
    }
}

fn client(args: &Args, committed: bool) -> anyhow::Result<BaseConsumer> {
    let level = if committed { "read_committed" } else { "read_uncommitted" };
    Ok(args
        .client()
        .set("group.id", "auditor")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("isolation.level", level)
        .set("enable.partition.eof", "true")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "50")
        .create()?)
}

/// Polls for a while; gives what was read by partition, and the partitions whose end was reached.
fn gather(
    consumer: &BaseConsumer,
    ended: &mut BTreeSet<i32>,
    mut take: impl FnMut(Option<&[u8]>, &str) -> anyhow::Result<()>,
) -> anyhow::Result<BTreeMap<i32, String>> {
    let (mut batch, since) = (BTreeMap::<i32, String>::new(), Instant::now());
    while since.elapsed() < BATCH_TIME {
        match consumer.poll(Duration::from_millis(10)) {
            Some(Ok(m)) => {
                let text = m.payload().and_then(|v| str::from_utf8(v).ok()).unwrap_or("no text");
                let list = batch.entry(m.partition()).or_default();
                let comma = if list.is_empty() { "" } else { "," };
                let _ = write!(list, r#"{comma}[{},"{text}"]"#, m.offset());
                take(m.key(), text)?;
            }
            Some(Err(KafkaError::PartitionEOF(p))) => drop(ended.insert(p)),
            // Lost connections are the point of the rounds; what stays away is missed below.
            Some(Err(_)) | None => {}
        }
    }
    Ok(batch)
}

/// One complete read under the name `c`.
fn complete(args: &Args, c: &str, recorder: &Recorder) -> anyhow::Result<Read> {
    let consumer = client(args, true)?;
    let mut list = TopicPartitionList::new();
    for p in 0..args.partitions {
        list.add_partition_offset(&args.topic, p, Offset::Offset(0))?;
        recorder.event(format_args!(
            r#"{{"assign":{{"c":"{c}","tp":["{}",{p}],"offset":0}}}}"#,
            args.topic
        ));
    }
    consumer.assign(&list)?;
    let (mut read, mut ended, start) = (Read::default(), BTreeSet::new(), Instant::now());
    let mut known: Option<BTreeSet<String>> = None;
    loop {
        let began = recorder.now();
        let batch = gather(&consumer, &mut ended, |key, text| read.take(key, text))?;
        let now = recorder.now();
        for (p, list) in batch {
            recorder.event(format_args!(
                r#"{{"poll":{{"c":"{c}","tp":["{}",{p}],"t":[{began},{now}],"committed":true,"r":[{list}]}}}}"#,
                args.topic
            ));
        }
        if ended.len() == args.partitions.cast_unsigned() as usize {
            let known = known.get_or_insert_with(|| read.txns.keys().cloned().collect());
            if read.torn().is_disjoint(known) {
                let sum = read.sum(known);
                anyhow::ensure!(sum == args.total(), "{c}: the sum is {sum}, not {}", args.total());
                return Ok(read);
            }
        }
        anyhow::ensure!(
            start.elapsed() < PATIENCE,
            "{c}: not complete after {PATIENCE:?}: at the end of {ended:?}, in part {:?}",
            read.torn()
        );
    }
}

/// Complete reads while `on`, from the start each.
pub(crate) fn again_and_again(
    args: &Args,
    number: u32,
    recorder: &Recorder,
    on: &AtomicBool,
) -> anyhow::Result<String> {
    let (mut reads, mut records) = (0, 0);
    while on.load(Ordering::Relaxed) {
        let read = complete(args, &format!("auditor-{number}.{reads}"), recorder)?;
        (reads, records) = (reads + 1, records + read.records);
        thread::sleep(Duration::from_millis(200));
    }
    Ok(format!("auditor-{number}: {reads} reads, {records} records"))
}

/// The final reading: whole, equal sums, every order below the clerks' position carried out once and
/// none beyond; and both isolation levels as scans for the checker.
pub(crate) fn last_word(args: &Args, recorder: &Recorder) -> anyhow::Result<String> {
    let read = complete(args, &format!("last {}", args.name), recorder)?;
    let torn = read.torn();
    anyhow::ensure!(torn.is_empty(), "in part: {torn:?}");
    let orders = clerk::consumer(args)?;
    let mut carried = 0;
    for clerk in 0..args.clerks.cast_signed() {
        let at = clerk::position(args, &orders, clerk, recorder)?;
        let prefix = format!("{clerk}@");
        let done: BTreeSet<i64> = read
            .orders
            .keys()
            .filter_map(|o| o.strip_prefix(&prefix).and_then(|o| o.parse().ok()))
            .collect();
        anyhow::ensure!(
            done.iter().copied().eq(0..at),
            "clerk {clerk} is at {at}, and carried out {} orders up to {:?}",
            done.len(),
            done.last()
        );
        carried += done.len();
    }
    for committed in [true, false] {
        scan(args, (&args.topic, args.partitions), committed, recorder)?;
        scan(args, (&args.orders(), args.clerks.cast_signed()), committed, recorder)?;
    }
    Ok(format!("{} transactions, {} records, {carried} orders", read.txns.len(), read.records))
}

fn scan(
    args: &Args,
    (topic, partitions): (&str, i32),
    committed: bool,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let consumer = client(args, committed)?;
    let name = format!("{} {}", args.name, if committed { "committed" } else { "all" });
    let mut list = TopicPartitionList::new();
    for p in 0..partitions {
        let (start, end) = patiently(|| consumer.fetch_watermarks(topic, p, PATIENCE))?;
        list.add_partition_offset(topic, p, Offset::Offset(start))?;
        recorder.event(format_args!(
            r#"{{"scanned":{{"s":"{name}","tp":["{}",{p}],"start":{start},"end":{end}}}}}"#,
            topic
        ));
    }
    consumer.assign(&list)?;
    let (mut ended, began) = (BTreeSet::new(), Instant::now());
    while ended.len() < partitions.cast_unsigned() as usize {
        let batch = gather(&consumer, &mut ended, |_, _| Ok(()))?;
        for (p, list) in batch {
            recorder.event(format_args!(
                r#"{{"scan":{{"s":"{name}","tp":["{}",{p}],"committed":{committed},"r":[{list}]}}}}"#,
                topic
            ));
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "scan {name}: at the end of {ended:?} only");
    }
    Ok(())
}

fn patiently<T>(mut ask: impl FnMut() -> KafkaResult<T>) -> KafkaResult<T> {
    let began = Instant::now();
    loop {
        match ask() {
            Err(_) if began.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(100)),
            other => return other,
        }
    }
}
