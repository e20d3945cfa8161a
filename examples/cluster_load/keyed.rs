//! A compacted topic: updates of a few keys, some of which delete them, and the final scan of what is
//! left. What a record is stands in its header, as a deletion has no value.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    admin::NewTopic,
    message::{BorrowedMessage, DeliveryResult, Header, Headers as _, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};

use crate::{
    LoadArgs, history,
    recorder::{Recorder, plain},
};

const PARTITIONS: i32 = 2;
const KEYS: u64 = 24;
/// One update of so many deletes its key.
const DELETES: u64 = 7;
/// The producer's number, that no other has.
const PRODUCER: u32 = 1000;
/// How long deletions stay at least.
const DELETE_RETENTION_MS: &str = "1500";
/// A pause after each update.
const PAUSE: Duration = Duration::from_millis(4);

/// The compacted topic beside `topic`.
pub(crate) fn name(topic: &str) -> String {
    format!("{topic}-keys")
}

/// The compacted topic to make.
pub(crate) fn topic<'a>(name: &'a str, args: &LoadArgs, min_isr: &'a str) -> NewTopic<'a> {
    let replicas = rdkafka::admin::TopicReplication::Fixed(args.replicas);
    let new = NewTopic::new(name, PARTITIONS, replicas)
        .set("min.insync.replicas", min_isr)
        .set("cleanup.policy", "compact")
        .set("segment.ms", "700")
        .set("min.cleanable.dirty.ratio", "0.01")
        .set("delete.retention.ms", DELETE_RETENTION_MS);
    if args.durable { new.set("flush.messages", "1") } else { new }
}

/// The event that tells what the topic promises.
pub(crate) fn promise(args: &LoadArgs) -> String {
    let (name, replicas, min_isr) = (name(&args.topic), args.replicas, args.min_isr);
    let settings = format!(r#""compacted":true,"delete_retention_ms":{DELETE_RETENTION_MS}"#);
    format!(
        r#"{{"topic":{{"name":"{name}","replicas":{replicas},"min_isr":{min_isr},{settings}}}}}"#
    )
}

/// Key and partition of update `n`, and whether it deletes.
fn update(n: u64) -> (u64, i32, bool) {
    let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let key = key % KEYS;
    (key, i32::try_from(key).unwrap_or(0) % PARTITIONS, n % DELETES == DELETES - 1)
}

/// An update on its way: its number, and when it was handed over.
type Sent = Box<(u64, u64)>;

struct Outcomes {
    run: u64,
    topic: String,
    recorder: Arc<Recorder>,
}

impl ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = Sent;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Sent) {
        let outcome = match result {
            Ok(m) if m.offset() >= 0 => format!(r#""ok":{}"#, m.offset()),
            Ok(_) => r#""info":"written, but nobody knows where""#.to_owned(),
            Err((error, _)) => format!(r#""info":"{}""#, plain(&error.to_string())),
        };
        let (run, now, (n, began)) = (self.run, self.recorder.now(), *sent);
        let (key, partition, tombstone) = update(n);
        self.recorder.event(format_args!(
            r#"{{"send":{{"p":"{run}/{PRODUCER}","n":{n},"tp":["{}",{partition}],"v":"{run}/{PRODUCER}/{n}","k":"{key}","tombstone":{tombstone},"t":[{began},{now}],{outcome}}}}}"#,
            self.topic
        ));
    }
}

/// Writes updates until `on` ends.
pub(crate) fn produce(
    args: &LoadArgs,
    run: u64,
    recorder: &Arc<Recorder>,
    on: &AtomicBool,
) -> anyhow::Result<()> {
    let topic = name(&args.topic);
    let outcomes = Outcomes { run, topic: topic.clone(), recorder: Arc::clone(recorder) };
    let producer: BaseProducer<Outcomes> = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", "2")
        .set("message.timeout.ms", args.patience_ms.to_string())
        .set("socket.timeout.ms", "3000")
        .set("topic.metadata.refresh.fast.interval.ms", "20")
        .set("reconnect.backoff.max.ms", "100")
        .create_with_context(outcomes)?;
    let mut value = String::new();
    for n in 0.. {
        if !on.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PAUSE);
        let (key, partition, deletes) = update(n);
        history::value(run, PRODUCER, n, &mut value);
        let (key, number) = (key.to_string(), format!("{run}/{n}"));
        let headers = OwnedHeaders::new().insert(Header { key: "n", value: Some(&number) });
        let sent = Box::new((n, recorder.now()));
        let record = BaseRecord::<str, str, Sent>::with_opaque_to(&topic, sent)
            .partition(partition)
            .headers(headers)
            .key(&key);
        let record = if deletes { record } else { record.payload(&value) };
        // One that is not taken was never sent.
        let _ = producer.send(record);
        producer.poll(Duration::ZERO);
    }
    let _ = producer.flush(Duration::from_millis(args.patience_ms + 5000));
    Ok(())
}

/// What names a record wholly: run and number in its header, when key and value are those that were
/// sent with it.
pub(crate) fn identity(m: &BorrowedMessage<'_>) -> String {
    let header = m.headers().filter(|h| h.count() == 1).map(|h| h.get(0));
    let text = header.filter(|h| h.key == "n").and_then(|h| str::from_utf8(h.value?).ok());
    let parsed = text.and_then(|t| t.split_once('/'));
    let parsed = parsed.and_then(|(run, n)| Some((run.parse().ok()?, n.parse().ok()?)));
    let Some((run, n)) = parsed else { return format!("changed: no number at {}", m.offset()) };
    let (key, partition, deletes) = update(n);
    let mut value = String::new();
    history::value(run, PRODUCER, n, &mut value);
    let expected = (!deletes).then_some(value.as_bytes());
    let same = m.payload() == expected
        && m.key() == Some(key.to_string().as_bytes())
        && m.partition() == partition;
    format!("{run}/{PRODUCER}/{n}{}", if same { "" } else { "/changed" })
}
