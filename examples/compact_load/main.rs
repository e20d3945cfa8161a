//! The load of the compaction rounds, and the check of what is left: many updates of few keys, some
//! of them deletions, by one idempotent acks=all producer that outlives restarts of the node. Since
//! every update is acknowledged in order, the last one of every key must be what the topic says.
#![expect(clippy::disallowed_methods, reason = "a load outside the crate measures time")]

use std::{
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Parser, Subcommand};
use rdkafka::{
    ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext},
    types::RDKafkaErrorCode,
};

const PATIENCE: Duration = Duration::from_secs(300);
/// One update of so many deletes its key.
const DELETES: u64 = 16;
const CODECS: [&str; 5] = ["none", "lz4", "zstd", "snappy", "gzip"];

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the topic if need be and write updates; ends when the last is acknowledged.
    Load(Args),
    /// Compare the topic with what these updates leave.
    Check(Args),
}

#[derive(clap::Args)]
struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long, default_value = "compacted")]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
    #[arg(long, default_value_t = 1_000_000)]
    updates: u64,
    /// Updates a second; 0: as fast as it goes.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    #[arg(long, default_value_t = 60)]
    value_bytes: usize,
    /// The codec; "mixed" takes each of them for a part of the updates.
    #[arg(long, default_value = "mixed")]
    codec: String,
    /// Settings of the topic, as key=value.
    #[arg(long)]
    config: Vec<String>,
}

/// A number that looks random, the same in every run (splitmix64).
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Key of update `n`, and whether it deletes.
fn update(n: u64, keys: u64) -> (u64, bool) {
    let random = mixed(n);
    (random % keys, (random >> 40).is_multiple_of(DELETES))
}

struct Outcomes {
    acked: AtomicU64,
    failed: AtomicBool,
}

impl ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => _ = self.acked.fetch_add(1, Ordering::Relaxed),
            Err((e, _)) => {
                eprintln!("not written: {e}");
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Load(args) => load(&args),
        Command::Check(args) => check(&args),
    }
}

fn create(args: &Args) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &args.bootstrap).create()?;
    let mut new = NewTopic::new(&args.topic, args.partitions, TopicReplication::Fixed(1));
    for pair in &args.config {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| anyhow::anyhow!("{pair}: not key=value"))?;
        new = new.set(key, value);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for result in runtime.block_on(admin.create_topics([&new], &AdminOptions::new()))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => anyhow::bail!("creating {name}: {code}"),
        }
    }
    Ok(())
}

fn producer(args: &Args, codec: &str) -> anyhow::Result<BaseProducer<Outcomes>> {
    let outcomes = Outcomes { acked: AtomicU64::new(0), failed: AtomicBool::new(false) };
    Ok(ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", codec)
        .set("linger.ms", "20")
        .set("message.timeout.ms", "300000")
        .set("reconnect.backoff.max.ms", "200")
        .create_with_context(outcomes)?)
}

fn load(args: &Args) -> anyhow::Result<()> {
    create(args)?;
    let codecs: Vec<&str> = match args.codec.as_str() {
        "mixed" => CODECS.to_vec(),
        one => vec![one],
    };
    let began = Instant::now();
    let value = vec![b'.'; args.value_bytes];
    let parts = codecs.len() as u64;
    let mut done = 0;
    for (at, codec) in codecs.iter().enumerate() {
        let producer = Arc::new(producer(args, codec)?);
        let (from, to) = (at as u64 * args.updates / parts, (at as u64 + 1) * args.updates / parts);
        for n in from..to {
            send(&producer, args, n, &value)?;
            if args.rate > 0 && n.is_multiple_of(64) {
                let due = Duration::from_secs_f64(n as f64 / args.rate as f64);
                std::thread::sleep(due.saturating_sub(began.elapsed()));
            }
            if n.is_multiple_of(50_000) {
                println!("{}", done + producer.context().acked.load(Ordering::Relaxed));
                io::stdout().flush()?;
            }
        }
        producer.flush(PATIENCE)?;
        let outcomes = producer.context();
        anyhow::ensure!(!outcomes.failed.load(Ordering::Relaxed), "an update was not written");
        let acked = outcomes.acked.load(Ordering::Relaxed);
        anyhow::ensure!(acked == to - from, "{acked} of {} acknowledged", to - from);
        done += acked;
    }
    println!("{done} updates in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn send(
    producer: &BaseProducer<Outcomes>,
    args: &Args,
    n: u64,
    value: &[u8],
) -> anyhow::Result<()> {
    let (key, deletes) = update(n, args.keys);
    let key_text = format!("key-{key}");
    let mut payload = n.to_string().into_bytes();
    payload.push(b' ');
    payload.extend_from_slice(value);
    let partition = i32::try_from(key % u64::from(args.partitions.unsigned_abs()))?;
    let mut record = BaseRecord::to(&args.topic).key(&key_text).partition(partition);
    if !deletes {
        record = record.payload(&payload);
    }
    loop {
        match producer.send(record) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(10));
                record = back;
            }
            Err((e, _)) => return Err(e.into()),
        }
    }
    if n.is_multiple_of(256) {
        producer.poll(Duration::ZERO);
    }
    Ok(())
}

fn check(args: &Args) -> anyhow::Result<()> {
    // Update number of each key's last update, plus one; what it says.
    let mut want = vec![None; usize::try_from(args.keys)?];
    for n in 0..args.updates {
        let (key, deletes) = update(n, args.keys);
        want[usize::try_from(key)?] = Some((n, deletes));
    }
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("group.id", "compaction-check")
        .set("enable.auto.commit", "false")
        .create()?;
    let mut found = vec![None; want.len()];
    let (mut records, mut bytes) = (0u64, 0usize);
    for partition in 0..args.partitions {
        let (low, high) = consumer.fetch_watermarks(&args.topic, partition, PATIENCE)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&args.topic, partition, Offset::Offset(low))?;
        consumer.assign(&list)?;
        let (mut next, mut heard) = (low, Instant::now());
        while next < high {
            let Some(message) = consumer.poll(Duration::from_millis(200)) else {
                let position = consumer.position()?;
                let at = position.find_partition(&args.topic, partition).map(|e| e.offset());
                if let Some(Offset::Offset(at)) = at {
                    next = next.max(at);
                }
                anyhow::ensure!(
                    heard.elapsed() < PATIENCE,
                    "nothing after offset {next} of {high}"
                );
                continue;
            };
            let message = message?;
            heard = Instant::now();
            anyhow::ensure!(message.offset() >= next, "offset {} after {next}", message.offset());
            next = message.offset() + 1;
            let key = std::str::from_utf8(message.key().unwrap_or_default())?;
            let key: usize = key.strip_prefix("key-").unwrap_or(key).parse()?;
            let number = match message.payload() {
                Some(p) => Some(std::str::from_utf8(p)?.split(' ').next().unwrap_or("").parse()?),
                None => None,
            };
            found[key] = number;
            records += 1;
            bytes += message.payload_len() + message.key_len();
        }
    }
    let mut wrong = 0;
    for (key, (want, found)) in want.iter().zip(&found).enumerate() {
        let value: Option<u64> = want.filter(|(_, deletes)| !deletes).map(|(n, _)| n);
        if value != *found {
            wrong += 1;
            if wrong <= 10 {
                println!("key {key}: {found:?} instead of {value:?}");
            }
        }
    }
    println!(
        "{} keys of {} updates, {records} records of {:.1} MB left, {wrong} keys wrong",
        args.keys,
        args.updates,
        bytes as f64 / f64::from(1 << 20)
    );
    anyhow::ensure!(wrong == 0, "the log is not what was acknowledged");
    Ok(())
}
