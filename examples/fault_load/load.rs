//! The load itself, on librdkafka: producers, filling, reading back.

use std::{
    fs::File,
    io::{BufWriter, Read as _, Write as _},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};

use crate::{check::Checker, create, history};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    #[arg(long, default_value_t = 2)]
    producers: u32,
    /// Records a second, all producers together.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Stop after so many seconds, or when standard input ends, whichever is first.
    #[arg(long, default_value_t = 3600.0)]
    seconds: f64,
    /// How long an unanswered record is tried again, in milliseconds.
    #[arg(long, default_value_t = 60_000)]
    patience_ms: u64,
    #[arg(long)]
    history: PathBuf,
}

#[derive(clap::Args)]
pub(crate) struct PreloadArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    partitions: i32,
    /// MiB over all partitions.
    #[arg(long)]
    mib: u64,
}

type Log = Arc<Mutex<BufWriter<File>>>;

/// Writes the outcome of each record into the history.
struct Outcomes {
    producer: u32,
    log: Log,
}

impl Outcomes {
    fn line(&self, text: std::fmt::Arguments<'_>) {
        if let Ok(mut log) = self.log.lock() {
            // A history that cannot be written shows as records that were never sent.
            let _ = log.write_fmt(text);
        }
    }
}

impl ClientContext for Outcomes {
    fn error(&self, error: KafkaError, reason: &str) {
        // Lost connections are the point of the rounds; a fatal error ends an idempotent producer.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            let reason = reason.replace(['"', '\\', '\n'], " ");
            self.line(format_args!("{{\"fatal\":\"{reason}\"}}\n"));
        }
    }
}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, seq: usize) {
        let p = self.producer;
        match result {
            Ok(m) => {
                let (partition, offset) = (m.partition(), m.offset());
                self.line(format_args!("{{\"ok\":[{p},{seq},{partition},{offset}]}}\n"));
            }
            Err(_) => self.line(format_args!("{{\"unknown\":[{p},{seq}]}}\n")),
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    runtime()?.block_on(create(&args.bootstrap, &args.topic, args.partitions))?;
    let file = File::create(&args.history).with_context(|| args.history.display().to_string())?;
    let log: Log = Arc::new(Mutex::new(BufWriter::new(file)));
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
    writeln!(log.lock().map_err(|_| anyhow::anyhow!("poisoned"))?, "{{\"run\":[{run}]}}")?;
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        watcher.store(true, Ordering::Relaxed);
    });
    let sent = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.producers)
            .map(|p| {
                let (log, stop) = (Arc::clone(&log), &*stop);
                scope.spawn(move || produce(args, run, p, log, stop))
            })
            .collect();
        let results =
            threads.into_iter().map(|t| t.join().map_err(|_| anyhow::anyhow!("panic"))?);
        results.sum::<anyhow::Result<u64>>()
    })?;
    log.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.flush()?;
    println!("sent {sent}");
    Ok(())
}

/// One producer; gives how many records it sent.
fn produce(args: &Args, run: u64, id: u32, log: Log, stop: &AtomicBool) -> anyhow::Result<u64> {
    let producer: BaseProducer<Outcomes> = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "2")
        .set("batch.num.messages", "500")
        .set("message.timeout.ms", args.patience_ms.to_string())
        .set("request.timeout.ms", "3000")
        .set("socket.timeout.ms", "5000")
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "100")
        .set("retry.backoff.ms", "20")
        .set("retry.backoff.max.ms", "100")
        .create_with_context(Outcomes { producer: id, log: Arc::clone(&log) })?;
    let began = Instant::now();
    let gap = Duration::from_secs_f64(f64::from(args.producers) / args.rate as f64);
    let (mut seq, mut value) = (0u64, String::new());
    while !stop.load(Ordering::Relaxed) && began.elapsed().as_secs_f64() < args.seconds {
        let due = began + gap * u32::try_from(seq)?;
        if let Some(early) = due.checked_duration_since(Instant::now()) {
            producer.poll(early.min(Duration::from_millis(20)));
            if Instant::now() < due {
                continue;
            }
        }
        history::value(run, id, seq, &mut value);
        let partition = (seq % u64::from(args.partitions.cast_unsigned())) as i32;
        let record = BaseRecord::<(), str, usize>::with_opaque_to(&args.topic, seq as usize)
            .partition(partition)
            .payload(&value);
        match producer.send(record) {
            Ok(()) => seq += 1,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(10));
            }
            Err(_) => break,
        }
        producer.poll(Duration::ZERO);
    }
    let _ = producer.flush(Duration::from_millis(args.patience_ms + 5000));
    let mut log = log.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
    writeln!(log, "{{\"sent\":[{id},{seq}]}}")?;
    Ok(seq)
}

pub(crate) fn preload(args: &PreloadArgs) -> anyhow::Result<()> {
    runtime()?.block_on(create(&args.bootstrap, &args.topic, args.partitions))?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("acks", "1")
        .set("linger.ms", "20")
        .set("batch.size", "1000000")
        .create()?;
    let value: Vec<u8> =
        (0..65_536u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for n in 0..args.mib * 16 {
        let partition = (n / 16 % u64::from(args.partitions.cast_unsigned())) as i32;
        let mut record =
            BaseRecord::<(), [u8]>::to(&args.topic).partition(partition).payload(&value);
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            producer.poll(Duration::from_millis(5));
            record = back;
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(Duration::from_secs(120))?;
    println!("preloaded {} MiB into {} partitions", args.mib, args.partitions);
    Ok(())
}

/// Feeds every record of `topic` to the checker.
pub(crate) fn read_back(bootstrap: &str, topic: &str, checker: &mut Checker) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "check")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "50")
        .create()?;
    let patience = Duration::from_secs(20);
    let metadata = consumer.fetch_metadata(Some(topic), patience)?;
    let partitions: Vec<i32> = metadata.topics()[0].partitions().iter().map(|p| p.id()).collect();
    let mut left = std::collections::BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for p in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, p, patience)?;
        checker.begin(p, low);
        if high > low {
            assignment.add_partition_offset(topic, p, Offset::Offset(low))?;
            left.insert(p, high);
        }
    }
    consumer.assign(&assignment)?;
    let mut last = Instant::now();
    while !left.is_empty() {
        let Some(message) = consumer.poll(Duration::from_millis(200)) else {
            anyhow::ensure!(
                last.elapsed() < patience,
                "no record for 20 s; missing up to {left:?}"
            );
            continue;
        };
        let m = message?;
        last = Instant::now();
        checker.record(m.partition(), m.offset(), m.payload());
        if left.get(&m.partition()).is_some_and(|high| m.offset() + 1 >= *high) {
            left.remove(&m.partition());
        }
    }
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
