//! Transactions of one record each. `raw`: Produce 12 and EndTxn 5, where the broker adds the
//! partition and each transaction has an epoch of its own (KIP-890); `librdkafka`: as it does it.

use std::{
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages::{
    EndTxnRequest, InitProducerIdRequest, ProduceRequest, ProducerId, TopicName, TransactionalId,
    produce_request::{PartitionProduceData, TopicProduceData},
};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::{
    at,
    frames::{Connection, text},
    topics,
};

const TOPIC: &str = "transactions";
const PARTITIONS: i32 = 16;
const PATIENCE: Duration = Duration::from_secs(30);
/// Codes that pass: the coordinator loads or moves, or the transaction before is still ending.
const PASSING: [i16; 5] = [14, 15, 16, 51, 19];
/// Before asking again.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long, default_value_t = 1)]
    producers: usize,
    /// How long is measured; as long before it nothing is.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    #[arg(long, default_value = "raw")]
    client: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    // A partition each; the topic is there for other runs already.
    topics::create(&args.bootstrap, TOPIC, PARTITIONS)?;
    Connection::open(&args.bootstrap)?.coordinator("transactions", 1)?;
    let span = Duration::from_secs_f64(args.seconds);
    let began = Instant::now() + span;
    let (lists, seconds) = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.producers)
            .map(|n| {
                scope.spawn(move || match args.client.as_str() {
                    "librdkafka" => librdkafka(args, n, began, began + span),
                    _ => raw(args, n, began, began + span),
                })
            })
            .collect();
        let lists = threads
            .into_iter()
            .map(|t| t.join().map_err(|_| anyhow::anyhow!("panic"))?)
            .collect::<anyhow::Result<Vec<_>>>()?;
        anyhow::Ok((lists, began.elapsed().as_secs_f64()))
    })?;
    let again: u64 = lists.iter().map(|(_, again)| again).sum();
    let mut taken: Vec<f64> = lists.into_iter().flat_map(|(taken, _)| taken).collect();
    taken.sort_by(f64::total_cmp);
    println!(
        "{{\"transactions\":{},\"transactions_s\":{:.1},\"p50\":{:.1},\"p99\":{:.1},\
         \"asked_again\":{again}}}",
        taken.len(),
        taken.len() as f64 / seconds,
        at(&taken, 0.5),
        at(&taken, 0.99)
    );
    Ok(())
}

/// Microseconds of each transaction that began after `from`, and how often it had to ask again.
type Taken = (Vec<f64>, u64);

fn raw(args: &Args, n: usize, from: Instant, until: Instant) -> anyhow::Result<Taken> {
    let id = TransactionalId(text(&format!("transactions-{n}")));
    let mut connection = Connection::open(&args.bootstrap)?;
    let mut again = 0;
    let init = InitProducerIdRequest::default()
        .with_transactional_id(Some(id.clone()))
        .with_transaction_timeout_ms(60_000)
        .with_producer_id(ProducerId(-1))
        .with_producer_epoch(-1);
    let (mut producer, mut epoch) = loop {
        let answer = connection.call(4, &init)?;
        match answer.error_code {
            0 => break (answer.producer_id, answer.producer_epoch),
            code if PASSING.contains(&code) => thread::sleep(PAUSE),
            code => bail!("InitProducerId: error {code}"),
        }
    };
    let mut taken = Vec::new();
    let mut began = Instant::now();
    while began < until {
        let data = PartitionProduceData::default()
            .with_index(i32::try_from(n)? % PARTITIONS)
            .with_records(Some(batch(producer.0, epoch)));
        let topic = TopicProduceData::default()
            .with_name(TopicName(text(TOPIC)))
            .with_partition_data(vec![data]);
        let produce = ProduceRequest::default()
            .with_transactional_id(Some(id.clone()))
            .with_acks(-1)
            .with_timeout_ms(30_000)
            .with_topic_data(vec![topic]);
        loop {
            let answer = connection.call(12, &produce)?;
            match answer.responses[0].partition_responses[0].error_code {
                0 => break,
                code if PASSING.contains(&code) => again += 1,
                code => bail!("Produce: error {code}"),
            }
            thread::sleep(PAUSE);
        }
        let end = EndTxnRequest::default()
            .with_transactional_id(id.clone())
            .with_producer_id(producer)
            .with_producer_epoch(epoch)
            .with_committed(true);
        (producer, epoch) = loop {
            let answer = connection.call(5, &end)?;
            match answer.error_code {
                0 => break (answer.producer_id, answer.producer_epoch),
                code if PASSING.contains(&code) => again += 1,
                code => bail!("EndTxn: error {code}"),
            }
            thread::sleep(PAUSE);
        };
        let ended = Instant::now();
        if began >= from {
            taken.push((ended - began).as_nanos() as f64 / 1000.0);
        }
        began = ended;
    }
    Ok((taken, again))
}

/// A transactional batch of one record: the first of its epoch.
fn batch(producer: i64, epoch: i16) -> Bytes {
    const VALUE: &[u8] =
        b"a record of a transaction, with a value of about a hundred bytes as many are: 0123456789";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let mut record = BytesMut::new();
    // Attributes, timestamp, offset, no key, the value, no headers: lengths are zigzag varints.
    record.put_slice(&[0, 0, 0, 1]);
    let zigzag = VALUE.len() * 2;
    record.put_slice(&[(zigzag & 127) as u8 | 128, (zigzag >> 7) as u8]);
    record.put_slice(VALUE);
    record.put_u8(0);
    let mut body = BytesMut::new();
    body.put_i16(16);
    body.put_i32(0);
    body.put_i64(now);
    body.put_i64(now);
    body.put_i64(producer);
    body.put_i16(epoch);
    body.put_i32(0);
    body.put_i32(1);
    let zigzag = record.len() * 2;
    body.put_slice(&[(zigzag & 127) as u8 | 128, (zigzag >> 7) as u8]);
    body.put_slice(&record);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &body) as u32;
    let mut out = BytesMut::new();
    out.put_i64(0);
    out.put_i32(body.len() as i32 + 9);
    out.put_i32(-1);
    out.put_u8(2);
    out.put_u32(crc);
    out.put_slice(&body);
    out.freeze()
}

fn librdkafka(args: &Args, n: usize, from: Instant, until: Instant) -> anyhow::Result<Taken> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("transactional.id", format!("librdkafka-{n}"))
        .set("linger.ms", "0")
        .create()?;
    producer.init_transactions(PATIENCE)?;
    let (partition, mut taken) = (i32::try_from(n)? % PARTITIONS, Vec::new());
    let mut began = Instant::now();
    while began < until {
        producer.begin_transaction()?;
        let record = BaseRecord::<(), str>::to(TOPIC).partition(partition).payload("a record");
        producer.send(record).map_err(|(error, _)| error)?;
        producer.commit_transaction(PATIENCE).context("commit")?;
        let ended = Instant::now();
        if began >= from {
            taken.push((ended - began).as_nanos() as f64 / 1000.0);
        }
        began = ended;
    }
    ensure!(producer.in_flight_count() == 0, "records are under way");
    Ok((taken, 0))
}
