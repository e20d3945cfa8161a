//! Produce, consume and topic work through librdkafka.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};

use crate::{generator_cpu, own_cpu, thread_cpu};

#[derive(clap::Args)]
pub(crate) struct ProduceArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1)]
    partitions: i32,
    /// Bytes of a record's value.
    #[arg(long)]
    size: usize,
    /// Megabytes (1e6) of values, over all producers.
    #[arg(long)]
    megabytes: u64,
    #[arg(long, default_value = "1")]
    acks: String,
    #[arg(long, default_value = "none")]
    codec: String,
    /// Clients of one thread each.
    #[arg(long, default_value_t = 1)]
    producers: u64,
    #[arg(long, default_value_t = 5)]
    linger_ms: u32,
    /// At most so many records in a request's batch.
    #[arg(long, default_value_t = 10_000)]
    batch_records: u32,
    /// Stop early after so many seconds.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
}

#[derive(clap::Args)]
pub(crate) struct ConsumeArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// Read the topic so many times.
    #[arg(long, default_value_t = 1)]
    times: u32,
}

#[derive(clap::Args)]
pub(crate) struct PartitionsArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    partitions: i32,
    /// So many topics with that many partitions each, one request a topic.
    #[arg(long, default_value_t = 1)]
    topics: u32,
    /// Replicas of each partition.
    #[arg(long, default_value_t = 1)]
    replicas: i32,
}

#[derive(clap::Args)]
pub(crate) struct DeleteArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
}

/// Counts delivery reports.
#[derive(Default)]
struct Reports {
    delivered: AtomicU64,
    failed: AtomicU64,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let count = if result.is_ok() { &self.delivered } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Records of JSON-like text, which compresses about as real events do (2.4 times with lz4).
fn payloads(size: usize) -> Vec<Vec<u8>> {
    const NAMES: [&str; 8] = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];
    let count = (64 << 20) / size.max(1);
    let mut state = 88_172_645_463_325_252u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut text = Vec::with_capacity(size + 256);
    let mut one = || {
        while text.len() < size {
            let (a, b, c, d) = (random(), random(), random(), random());
            let event = format!(
                "{{\"id\":{},\"user\":\"{}\",\"ts\":17953{:08},\"event\":\"page_view\",\
                 \"url\":\"/products/{}\",\"price\":{}.{:02},\"tag\":\"{d:016x}\"}}\n",
                a % 10_000_000,
                NAMES[(b % 8) as usize],
                b % 100_000_000,
                c % 5000,
                c % 900,
                a % 100
            );
            text.extend_from_slice(event.as_bytes());
        }
        let rest = text.split_off(size);
        std::mem::replace(&mut text, rest)
    };
    (0..count.min(4096)).map(|_| one()).collect()
}

pub(crate) fn produce(args: &ProduceArgs) -> anyhow::Result<()> {
    let payloads = payloads(args.size);
    let each = args.megabytes * 1_000_000 / args.size as u64 / args.producers;
    let producers = (0..args.producers).map(|_| producer(args)).collect::<Result<Vec<_>, _>>()?;
    for p in &producers {
        warm_up(p, args, &payloads[0])?;
    }
    let (cpu, began) = (thread_cpu(), Instant::now());
    let sent = thread::scope(|scope| {
        let threads: Vec<_> = producers
            .iter()
            .map(|p| scope.spawn(|| send_all(p, args, &payloads, each, began)))
            .collect();
        let ended = threads
            .into_iter()
            .map(|t| t.join().map_err(|_| anyhow::anyhow!("panic"))?)
            .collect::<anyhow::Result<Vec<(u64, f64)>>>()?;
        let seconds = began.elapsed().as_secs_f64();
        let (counts, spent): (Vec<u64>, Vec<f64>) = ended.into_iter().unzip();
        let sent: u64 = counts.iter().sum();
        Ok::<_, anyhow::Error>((sent, seconds, generator_cpu(&cpu, seconds, &spent)))
    })?;
    let (count, seconds, (spent, busiest)) = sent;
    let failed: u64 = producers.iter().map(|p| p.context().failed.load(Ordering::Relaxed)).sum();
    ensure!(failed == 0, "{failed} records were not delivered");
    print_rate(count, args.size as u64 * count, seconds, spent, busiest);
    Ok(())
}

fn print_rate(count: u64, bytes: u64, seconds: f64, cpu: f64, busiest: f64) {
    println!(
        "{{\"records\":{count},\"bytes\":{bytes},\"seconds\":{seconds:.3},\"records_s\":{:.0},\
         \"mb_s\":{:.2},\"generator_cpu\":{cpu:.2},\"busiest_thread\":{busiest:.2}}}",
        count as f64 / seconds,
        bytes as f64 / seconds / 1e6
    );
}

fn producer(args: &ProduceArgs) -> anyhow::Result<BaseProducer<Reports>> {
    let producer = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("acks", &args.acks)
        .set("compression.type", &args.codec)
        .set("linger.ms", args.linger_ms.to_string())
        .set("batch.num.messages", args.batch_records.to_string())
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", (524_288 / args.producers).to_string())
        .create_with_context(Reports::default())?;
    Ok(producer)
}

/// Connection and metadata are there before the clock runs.
fn warm_up(p: &BaseProducer<Reports>, args: &ProduceArgs, value: &[u8]) -> anyhow::Result<()> {
    for partition in 0..args.partitions {
        let record = BaseRecord::<(), [u8]>::to(&args.topic).partition(partition).payload(value);
        p.send(record).map_err(|(error, _)| error)?;
    }
    p.flush(Duration::from_secs(30)).context("the warm-up was not delivered")?;
    p.context().delivered.store(0, Ordering::Relaxed);
    Ok(())
}

/// Gives how many records were delivered and the CPU seconds of this thread.
fn send_all(
    p: &BaseProducer<Reports>,
    args: &ProduceArgs,
    payloads: &[Vec<u8>],
    count: u64,
    began: Instant,
) -> anyhow::Result<(u64, f64)> {
    let cpu = own_cpu();
    for i in 0..count {
        let partition = (i % u64::from(args.partitions.cast_unsigned())) as i32;
        let value = &payloads[i as usize % payloads.len()];
        let mut record =
            BaseRecord::<(), [u8]>::to(&args.topic).partition(partition).payload(value.as_slice());
        while let Err((error, back)) = p.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error.into());
            }
            p.poll(Duration::from_millis(5));
            record = back;
        }
        if i % 1024 == 0 {
            p.poll(Duration::ZERO);
            if began.elapsed().as_secs_f64() > args.seconds {
                break;
            }
        }
    }
    p.flush(Duration::from_secs(120))?;
    Ok((p.context().delivered.load(Ordering::Relaxed), own_cpu() - cpu))
}

pub(crate) fn consume(args: &ConsumeArgs) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.message.max.bytes", "8388608")
        .set("fetch.max.bytes", "67108864")
        .set("receive.message.max.bytes", "134217728")
        .set("queued.min.messages", "1000000")
        .set("queued.max.messages.kbytes", "262144")
        .set("check.crcs", "false")
        .create()?;
    let patience = Duration::from_secs(30);
    let metadata = consumer.fetch_metadata(Some(&args.topic), patience)?;
    let mut assignment = TopicPartitionList::new();
    let mut want = 0;
    for p in metadata.topics()[0].partitions() {
        let (low, high) = consumer.fetch_watermarks(&args.topic, p.id(), patience)?;
        assignment.add_partition_offset(&args.topic, p.id(), Offset::Offset(low))?;
        want += (high - low).cast_unsigned();
    }
    let (cpu, began) = (thread_cpu(), Instant::now());
    let (mut count, mut bytes) = (0u64, 0u64);
    for time in 1..=u64::from(args.times) {
        consumer.assign(&assignment)?;
        while count < want * time {
            let message = consumer.poll(patience).context("no record for 30 s")??;
            count += 1;
            bytes += message.payload_len() as u64;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let (spent, busiest) = generator_cpu(&cpu, seconds, &[]);
    print_rate(count, bytes, seconds, spent, busiest);
    Ok(())
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn admin(bootstrap: &str) -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("socket.timeout.ms", "300000")
        .create()?)
}

pub(crate) fn partitions(args: &PartitionsArgs) -> anyhow::Result<()> {
    let admin = admin(&args.bootstrap)?;
    let patience = Duration::from_secs(300);
    admin.inner().fetch_metadata(None, patience)?;
    let began = Instant::now();
    let names: Vec<String> = match args.topics {
        1 => vec![args.topic.clone()],
        n => (0..n).map(|i| format!("{}-{i}", args.topic)).collect(),
    };
    let options = AdminOptions::new().request_timeout(Some(patience));
    let runtime = runtime()?;
    for name in &names {
        let topic = NewTopic::new(name, args.partitions, TopicReplication::Fixed(args.replicas));
        for result in runtime.block_on(admin.create_topics([&topic], &options))? {
            result.map_err(|(name, code)| anyhow::anyhow!("creating {name}: {code}"))?;
        }
    }
    let answered = began.elapsed().as_secs_f64();
    let want = u64::from(args.topics) * u64::from(args.partitions.cast_unsigned());
    loop {
        let one = (names.len() == 1).then_some(args.topic.as_str());
        let metadata = admin.inner().fetch_metadata(one, patience)?;
        let topics = metadata.topics().iter().filter(|t| names.iter().any(|n| n == t.name()));
        let led = topics.flat_map(|t| t.partitions()).filter(|p| p.leader() >= 0).count() as u64;
        if led == want {
            break;
        }
        ensure!(began.elapsed() < patience, "only {led} partitions have a leader");
        thread::sleep(Duration::from_millis(5));
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{{\"answered\":{answered:.3},\"seconds\":{seconds:.3}}}");
    Ok(())
}

pub(crate) fn delete(args: &DeleteArgs) -> anyhow::Result<()> {
    let admin = admin(&args.bootstrap)?;
    let work = admin.delete_topics(&[&args.topic], &AdminOptions::new());
    for result in runtime()?.block_on(work)? {
        result.map_err(|(name, code)| anyhow::anyhow!("deleting {name}: {code}"))?;
    }
    let gone =
        |e: &KafkaError| e.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownTopicOrPartition);
    for _ in 0..1000 {
        let all = admin.inner().fetch_metadata(None, Duration::from_secs(10));
        match all {
            Ok(m) if !m.topics().iter().any(|t| t.name() == args.topic) => break,
            Err(e) if gone(&e) => break,
            _ => thread::sleep(Duration::from_millis(20)),
        }
    }
    println!("{{\"deleted\":1}}");
    Ok(())
}
