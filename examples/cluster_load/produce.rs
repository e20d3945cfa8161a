//! Idempotent acks=all producers of records that are all different.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message as _,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};

use crate::{
    LoadArgs, history,
    recorder::{Recorder, plain},
};

/// Records on their way: when each was handed over, and its partition.
type OnTheWay = Arc<Mutex<BTreeMap<u64, (u64, i32)>>>;

/// Records each outcome.
struct Outcomes {
    run: u64,
    producer: u32,
    topic: String,
    recorder: Arc<Recorder>,
    on_the_way: OnTheWay,
}

impl Outcomes {
    fn write(&self, seq: u64, end: std::fmt::Arguments<'_>) {
        let taken = self.on_the_way.lock().ok().and_then(|mut m| m.remove(&seq));
        let Some((began, partition)) = taken else { return };
        let (run, p, now) = (self.run, self.producer, self.recorder.now());
        self.recorder.event(format_args!(
            r#"{{"send":{{"p":"{run}/{p}","n":{seq},"tp":["{}",{partition}],"v":"{run}/{p}/{seq}","t":[{began},{now}],{end}}}}}"#,
            self.topic
        ));
    }
}

impl ClientContext for Outcomes {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        eprintln!("{} {}/{} {facility} {text}", self.recorder.now(), self.run, self.producer);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // Lost connections are the point of the rounds; a fatal error ends an idempotent producer.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            self.recorder.event(format_args!(
                r#"{{"fatal":{{"p":"{}/{}","error":"{}"}}}}"#,
                self.run,
                self.producer,
                plain(reason)
            ));
        }
    }
}

/// Errors that tell that the record was refused before it could be written.
const REFUSED: [RDKafkaErrorCode; 3] = [
    RDKafkaErrorCode::MessageSizeTooLarge,
    RDKafkaErrorCode::InvalidRecord,
    RDKafkaErrorCode::TopicAuthorizationFailed,
];

impl ProducerContext for Outcomes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, seq: usize) {
        let seq = seq as u64;
        match result {
            // The client concludes from later acknowledgements that this one was written, and does
            // not know where.
            Ok(m) if m.offset() < 0 => {
                self.write(seq, format_args!(r#""info":"written, but nobody knows where""#));
            }
            Ok(m) => self.write(seq, format_args!(r#""ok":{}"#, m.offset())),
            Err((error, _)) => {
                let text = plain(&error.to_string());
                let refused = error.rdkafka_error_code().is_some_and(|c| REFUSED.contains(&c));
                let kind = if refused { "fail" } else { "info" };
                self.write(seq, format_args!(r#""{kind}":"{text}""#));
            }
        }
    }
}

/// One producer; gives how many records it handed over.
pub(crate) fn produce(
    args: &LoadArgs,
    run: u64,
    id: u32,
    recorder: &Arc<Recorder>,
    stop: &AtomicBool,
) -> anyhow::Result<u64> {
    let on_the_way = OnTheWay::default();
    let outcomes = Outcomes {
        run,
        producer: id,
        topic: args.topic.clone(),
        recorder: Arc::clone(recorder),
        on_the_way: Arc::clone(&on_the_way),
    };
    let producer = client(args, outcomes)?;
    let began = Instant::now();
    let gap = Duration::from_secs_f64(f64::from(args.producers) / args.rate as f64);
    let (mut seq, mut value) = (0u64, String::new());
    while !stop.load(Ordering::Relaxed) && began.elapsed().as_secs_f64() < args.seconds {
        let due = began + gap * u32::try_from(seq)?;
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            producer.poll(early.min(Duration::from_millis(5)));
            if Instant::now() < due {
                continue;
            }
        }
        history::value(run, id, seq, &mut value);
        let partition = (seq % u64::from(args.partitions.cast_unsigned())) as i32;
        let key = seq.to_string();
        let headers = OwnedHeaders::new().insert(Header { key: "seq", value: Some(&key) });
        let record = BaseRecord::<str, str, usize>::with_opaque_to(&args.topic, seq as usize)
            .partition(partition)
            .headers(headers)
            .key(&key)
            .payload(&value);
        if let Ok(mut map) = on_the_way.lock() {
            map.insert(seq, (recorder.now(), partition));
        }
        match producer.send(record) {
            Ok(()) => seq += 1,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(5));
            }
            // A fatal error, which is recorded.
            Err(_) => break,
        }
        producer.poll(Duration::ZERO);
    }
    let _ = producer.flush(Duration::from_millis(args.patience_ms + 5000));
    let left: Vec<_> = on_the_way.lock().map(|m| m.keys().copied().collect()).unwrap_or_default();
    let context = producer.context();
    // The one that could not be handed over is not among the sent ones.
    for unanswered in left.into_iter().filter(|n| *n < seq) {
        context.write(unanswered, format_args!(r#""info":"no answer""#));
    }
    Ok(seq)
}

fn client(args: &LoadArgs, outcomes: Outcomes) -> anyhow::Result<BaseProducer<Outcomes>> {
    let mut config = ClientConfig::new();
    if !args.debug.is_empty() {
        config.set("debug", &args.debug).set_log_level(RDKafkaLogLevel::Debug);
    }
    Ok(config
        .set("bootstrap.servers", &args.bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "2")
        .set("message.timeout.ms", args.patience_ms.to_string())
        .set("request.timeout.ms", "3000")
        .set("socket.timeout.ms", "3000")
        .set("topic.metadata.refresh.fast.interval.ms", "20")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "100")
        .set("retry.backoff.ms", "20")
        .set("retry.backoff.max.ms", "100")
        .create_with_context(outcomes)?)
}
