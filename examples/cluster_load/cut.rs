//! Deletes records that every consumer has passed, and looks whether they are served afterwards.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, Ordering},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use crate::{
    LoadArgs, read,
    recorder::{Recorder, plain},
};

/// One of so many partitions is cut; the others stay whole.
const ONE_OF: i32 = 3;
/// At least so many records go at once, and so many stay before a consumer.
const STEP: i64 = 50;
/// How long a reader waits for what must not come.
const LOOK: Duration = Duration::from_millis(150);

/// By consumer and partition: the next offset.
pub(crate) struct Positions(Vec<Vec<AtomicI64>>);

impl Positions {
    pub(crate) fn new(consumers: u32, partitions: i32) -> Self {
        let row = || (0..partitions).map(|_| AtomicI64::new(0)).collect();
        Self((0..consumers).map(|_| row()).collect())
    }

    pub(crate) fn passed(&self, consumer: u32, partition: i32, next: i64) {
        let row = self.0.get(consumer as usize);
        let slot = row.and_then(|r| r.get(usize::try_from(partition).ok()?));
        if let Some(slot) = slot {
            slot.store(next, Ordering::Relaxed);
        }
    }

    /// Where the last of the consumers is.
    fn last(&self, partition: i32) -> i64 {
        let slots = self.0.iter().filter_map(|r| r.get(usize::try_from(partition).ok()?));
        slots.map(|s| s.load(Ordering::Relaxed)).min().unwrap_or(0)
    }
}

/// Cuts until `on` ends.
pub(crate) fn cut(
    args: &LoadArgs,
    recorder: &Recorder,
    positions: &Positions,
    on: &AtomicBool,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("socket.timeout.ms", "3000")
        .create()?;
    let options = AdminOptions::new()
        .request_timeout(Some(Duration::from_secs(3)))
        .operation_timeout(Some(Duration::from_secs(2)));
    let reader = read::client(&args.bootstrap)?;
    let mut done = vec![0_i64; usize::try_from(args.partitions)?];
    for p in (0..args.partitions).filter(|p| p % ONE_OF == ONE_OF - 1).cycle() {
        if !on.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        let before = positions.last(p) - STEP;
        let was = &mut done[usize::try_from(p)?];
        if before < *was + STEP {
            continue;
        }
        *was = before;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&args.topic, p, Offset::Offset(before))?;
        let began = recorder.now();
        let answer = runtime.block_on(admin.delete_records(&list, &options));
        let now = recorder.now();
        let (outcome, start) = outcome(answer, p);
        recorder.event(format_args!(
            r#"{{"delete_records":{{"tp":["{}",{p}],"before":{before},"t":[{began},{now}],{outcome}}}}}"#,
            args.topic
        ));
        if let Some(start) = start {
            look(args, recorder, &reader, p, start - 1)?;
        }
    }
    Ok(())
}

/// The outcome as a field of the event, and the log start that was answered.
fn outcome(answer: KafkaResult<TopicPartitionList>, partition: i32) -> (String, Option<i64>) {
    let told = |error: &KafkaError| plain(&error.to_string());
    let list = match answer {
        Ok(list) => list,
        Err(error) => return (format!(r#""info":"{}""#, told(&error)), None),
    };
    let elements = list.elements();
    let Some(found) = elements.iter().find(|e| e.partition() == partition) else {
        return (r#""info":"no answer""#.to_owned(), None);
    };
    match (found.error(), found.offset()) {
        (Ok(()), Offset::Offset(start)) => (format!(r#""ok":{start}"#), Some(start)),
        (Err(error), _) => {
            let refused = error.rdkafka_error_code() == Some(RDKafkaErrorCode::OffsetOutOfRange);
            let kind = if refused { "fail" } else { "info" };
            (format!(r#""{kind}":"{}""#, told(&error)), None)
        }
        (Ok(()), other) => (format!(r#""info":"{other:?}""#), None),
    }
}

/// Asks for a record that is gone.
fn look(
    args: &LoadArgs,
    recorder: &Recorder,
    reader: &BaseConsumer,
    partition: i32,
    offset: i64,
) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&args.topic, partition, Offset::Offset(offset))?;
    // What was fetched for an earlier assignment is thrown away by this one.
    let (began, since) = (recorder.now(), Instant::now());
    reader.assign(&list)?;
    while since.elapsed() < LOOK {
        match reader.poll(Duration::from_millis(20)) {
            Some(Ok(m)) => {
                let (now, at, v) = (recorder.now(), m.offset(), read::identity(&m));
                recorder.event(format_args!(
                    r#"{{"poll":{{"c":"late {began}","tp":["{}",{partition}],"t":[{began},{now}],"direct":true,"r":[[{at},"{v}"]]}}}}"#,
                    args.topic
                ));
                break;
            }
            // Out of range: as it must be.
            Some(Err(KafkaError::MessageConsumption(_))) => break,
            _ => {}
        }
    }
    Ok(reader.unassign()?)
}
