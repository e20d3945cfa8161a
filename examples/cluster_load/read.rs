//! Readers: consumers that follow the load, readers of log ends, and the final scan.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::{BorrowedMessage, Headers as _},
};

use crate::{
    LoadArgs, ScanArgs,
    cut::Positions,
    history, keyed,
    recorder::{Recorder, plain},
};

/// Records of one event at most.
const BATCH_MAX: usize = 500;
/// How long polls are gathered into one event.
const BATCH_TIME: Duration = Duration::from_millis(50);
/// How long a scan waits for the next record.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lists of `[offset,"value"]` by partition.
type Batch = BTreeMap<i32, String>;

/// What names a record.
type Named = fn(&BorrowedMessage<'_>) -> String;

pub(crate) fn client(bootstrap: &str) -> anyhow::Result<BaseConsumer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "100")
        .set("socket.timeout.ms", "3000")
        .set("topic.metadata.refresh.fast.interval.ms", "20")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "100")
        .create()?)
}

/// What names a record wholly: the name in its value, when every byte of value, key and header is
/// the one that was sent.
pub(crate) fn identity(m: &BorrowedMessage<'_>) -> String {
    let text = m.payload().and_then(|v| str::from_utf8(v).ok());
    let Some((run, producer, seq)) = text.and_then(history::name) else {
        let shown: String = text.unwrap_or("no text").chars().take(60).collect();
        return format!("changed: {}", plain(&shown));
    };
    let key = seq.to_string();
    let header = m.headers().filter(|h| h.count() == 1).map(|h| h.get(0));
    let same = header.is_some_and(|h| h.key == "seq" && h.value == Some(key.as_bytes()));
    let changed = if same && m.key() == Some(key.as_bytes()) { "" } else { "/changed" };
    format!("{run}/{producer}/{seq}{changed}")
}

fn gather(batch: &mut Batch, m: &BorrowedMessage<'_>, named: Named) {
    let list = batch.entry(m.partition()).or_default();
    let comma = if list.is_empty() { "" } else { "," };
    let _ = write!(list, r#"{comma}[{},"{}"]"#, m.offset(), named(m));
}

/// Follows all partitions from their start until `on` ends.
pub(crate) fn consume(
    args: &LoadArgs,
    id: u32,
    recorder: &Recorder,
    positions: &Positions,
    on: &AtomicBool,
) -> anyhow::Result<()> {
    let consumer = client(&args.bootstrap)?;
    let mut assignment = TopicPartitionList::new();
    for p in 0..args.partitions {
        assignment.add_partition_offset(&args.topic, p, Offset::Offset(0))?;
        recorder.event(format_args!(
            r#"{{"assign":{{"c":"c{id}","tp":["{}",{p}],"offset":0}}}}"#,
            args.topic
        ));
    }
    consumer.assign(&assignment)?;
    while on.load(Ordering::Relaxed) {
        let (began, since) = (recorder.now(), Instant::now());
        let (mut batch, mut count) = (Batch::new(), 0);
        while count < BATCH_MAX && since.elapsed() < BATCH_TIME {
            match consumer.poll(Duration::from_millis(20)) {
                Some(Ok(m)) => {
                    gather(&mut batch, &m, identity);
                    positions.passed(id, m.partition(), m.offset() + 1);
                    count += 1;
                }
                Some(Err(error)) => tell(id, &error, recorder),
                None => {}
            }
        }
        let now = recorder.now();
        for (p, list) in batch {
            recorder.event(format_args!(
                r#"{{"poll":{{"c":"c{id}","tp":["{}",{p}],"t":[{began},{now}],"r":[{list}]}}}}"#,
                args.topic
            ));
        }
    }
    Ok(())
}

/// A position that a log no longer has, or bytes that do not add up, are findings; lost connections
/// are not.
fn tell(id: u32, error: &KafkaError, recorder: &Recorder) {
    use rdkafka::types::RDKafkaErrorCode as Code;
    let found =
        [Code::AutoOffsetReset, Code::OffsetOutOfRange, Code::BadMessage, Code::BadCompression];
    if error.rdkafka_error_code().is_some_and(|c| found.contains(&c)) {
        let text = plain(&error.to_string());
        recorder.event(format_args!(r#"{{"fatal":{{"p":"c{id}","error":"{text}"}}}}"#));
    }
}

/// Asks for the ends of every partition, again and again.
pub(crate) fn ends(args: &LoadArgs, recorder: &Recorder, on: &AtomicBool) -> anyhow::Result<()> {
    let consumer = client(&args.bootstrap)?;
    while on.load(Ordering::Relaxed) {
        for p in 0..args.partitions {
            let began = recorder.now();
            let asked = consumer.fetch_watermarks(&args.topic, p, Duration::from_secs(1));
            let Ok((start, end)) = asked else { continue };
            let now = recorder.now();
            recorder.event(format_args!(
                r#"{{"ends":{{"tp":["{}",{p}],"t":[{began},{now}],"start":{start},"end":{end}}}}}"#,
                args.topic
            ));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Reads every partition from its start to its end.
pub(crate) fn scan(args: &ScanArgs, recorder: &Recorder) -> anyhow::Result<()> {
    let (topic, name) = (&args.topic, &args.name);
    let named: Named = if args.keyed { keyed::identity } else { identity };
    let consumer = client(&args.bootstrap)?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let found = metadata.topics().first().map_or(&[][..], |t| t.partitions());
    anyhow::ensure!(!found.is_empty(), "{topic} has no partitions");
    let (mut left, mut bounds) = (BTreeMap::new(), Vec::new());
    let began = recorder.now();
    let mut assignment = TopicPartitionList::new();
    for p in found.iter().map(|p| p.id()) {
        let (start, end) = patiently(|| consumer.fetch_watermarks(topic, p, PATIENCE))?;
        if end > start {
            assignment.add_partition_offset(topic, p, Offset::Offset(start))?;
            left.insert(p, end);
        }
        bounds.push((p, start, end));
    }
    consumer.assign(&assignment)?;
    let mut last = Instant::now();
    while !left.is_empty() {
        let (mut batch, since) = (Batch::new(), Instant::now());
        while since.elapsed() < BATCH_TIME && !left.is_empty() {
            let Some(message) = consumer.poll(Duration::from_millis(50)) else { continue };
            let Ok(m) = message else { continue };
            last = Instant::now();
            gather(&mut batch, &m, named);
            if left.get(&m.partition()).is_some_and(|end| m.offset() + 1 >= *end) {
                left.remove(&m.partition());
            }
        }
        for (p, list) in batch {
            recorder.event(format_args!(
                r#"{{"scan":{{"s":"{name}","tp":["{topic}",{p}],"r":[{list}]}}}}"#
            ));
        }
        if last.elapsed() > PATIENCE {
            recorder.finish()?;
            anyhow::bail!("no record for {PATIENCE:?}; missing up to {left:?}");
        }
    }
    let now = recorder.now();
    for (p, start, end) in bounds {
        recorder.event(format_args!(
            r#"{{"scanned":{{"s":"{name}","tp":["{topic}",{p}],"start":{start},"end":{end},"t":[{began},{now}]}}}}"#
        ));
    }
    Ok(())
}

fn patiently<T>(mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let began = Instant::now();
    loop {
        match ask() {
            Err(_) if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(100)),
            other => return other,
        }
    }
}
