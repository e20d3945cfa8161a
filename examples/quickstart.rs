//! What `scripts/quickstart` shows: an unmodified Kafka client (librdkafka) creates a topic,
//! produces to it and reads it back through a consumer group.
//!
//! `cargo run --example quickstart -- BOOTSTRAP`
#![expect(clippy::disallowed_methods, reason = "a demonstration outside the crate measures time")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rdkafka::{
    ClientConfig, Message as _,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{CommitMode, Consumer as _, StreamConsumer},
    message::Headers as _,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};

const TOPIC: &str = "quickstart";
const PARTITIONS: i32 = 3;
const MESSAGES: usize = 30;
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let bootstrap = std::env::args().nth(1).context("usage: quickstart HOST:PORT")?;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &bootstrap);
    let (_, version) = rdkafka::util::get_rdkafka_version();
    println!("client: librdkafka {version} against {bootstrap}");
    create_topic(&config).await?;
    produce(&config).await?;
    consume(&config).await
}

async fn create_topic(config: &ClientConfig) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let topic = NewTopic::new(TOPIC, PARTITIONS, TopicReplication::Fixed(1));
    for result in admin.create_topics([&topic], &AdminOptions::new()).await? {
        if let Err((name, code)) = result {
            bail!("creating topic {name}: {code}");
        }
    }
    println!("created topic {TOPIC} with {PARTITIONS} partitions");
    Ok(())
}

async fn produce(config: &ClientConfig) -> anyhow::Result<()> {
    let mut config = config.clone();
    config.set("acks", "all").set("enable.idempotence", "true").set("compression.type", "lz4");
    let producer: FutureProducer = config.create()?;
    let began = Instant::now();
    let sends = (0..MESSAGES).map(|i| {
        let producer = producer.clone();
        async move {
            let (key, value) = (format!("key-{}", i % 7), format!("message {i}"));
            let header = Header { key: "number", value: Some(&i.to_string()) };
            let headers = OwnedHeaders::new().insert(header);
            let record = FutureRecord::to(TOPIC).key(&key).payload(&value).headers(headers);
            producer.send(record, PATIENCE).await.map_err(|(error, _)| error)
        }
    });
    let mut newest = [-1i64; PARTITIONS as usize];
    for delivery in futures::future::join_all(sends).await {
        let delivery = delivery.context("a message was not acknowledged")?;
        let partition = usize::try_from(delivery.partition)?;
        newest[partition] = newest[partition].max(delivery.offset);
    }
    let acked: i64 = newest.iter().map(|offset| offset + 1).sum();
    ensure!(acked == i64::try_from(MESSAGES)?, "{acked} offsets for {MESSAGES} messages");
    println!(
        "produced {MESSAGES} messages, acknowledged by acks=all in {} ms; newest offsets {newest:?}",
        began.elapsed().as_millis()
    );
    Ok(())
}

async fn consume(config: &ClientConfig) -> anyhow::Result<()> {
    let mut config = config.clone();
    config.set("group.id", "quickstart").set("auto.offset.reset", "earliest");
    let consumer: StreamConsumer = config.create()?;
    consumer.subscribe(&[TOPIC])?;
    let mut seen = [false; MESSAGES];
    for n in 0..MESSAGES {
        let message = tokio::time::timeout(PATIENCE, consumer.recv())
            .await
            .with_context(|| format!("only {n} of {MESSAGES} messages came back"))??;
        let text = message.payload_view::<str>().context("a message without a value")??;
        let number: usize = text.rsplit(' ').next().unwrap_or_default().parse()?;
        let header = message.headers().and_then(|h| h.get_as::<str>(0).ok());
        ensure!(header.and_then(|h| h.value) == Some(&number.to_string()), "header of {text:?}");
        ensure!(!std::mem::replace(&mut seen[number], true), "{text:?} came twice");
        if n < 3 {
            println!("  partition {} offset {}: {text:?}", message.partition(), message.offset());
        }
    }
    consumer.commit_consumer_state(CommitMode::Sync)?;
    println!("consumed all {MESSAGES} as group \"quickstart\" and committed its offsets");
    Ok(())
}
