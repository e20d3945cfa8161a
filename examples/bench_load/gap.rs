//! A steady trickle of acks=all records to partition 0, and the longest time in which none of them was
//! acknowledged: what an application feels of a failover. Runs until standard input ends.

use std::{
    io::Read as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use rdkafka::{
    ClientConfig, ClientContext,
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// Milliseconds between two records.
    #[arg(long, default_value_t = 2)]
    every_ms: u64,
    /// End at last after so many seconds.
    #[arg(long, default_value_t = 120.0)]
    seconds: f64,
}

/// When records were acknowledged.
#[derive(Default)]
struct Answers(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    last: Option<Instant>,
    longest: Duration,
    acknowledged: u64,
    failed: u64,
}

impl ClientContext for Answers {}

impl ProducerContext for Answers {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let now = Instant::now();
        if let Ok(mut seen) = self.0.lock() {
            if result.is_err() {
                seen.failed += 1;
                return;
            }
            seen.acknowledged += 1;
            if let Some(last) = seen.last.replace(now) {
                seen.longest = seen.longest.max(now - last);
            }
        }
    }
}

pub(crate) fn gap(args: &Args) -> anyhow::Result<()> {
    let producer: BaseProducer<Answers> = ClientConfig::new()
        .set("bootstrap.servers", &args.bootstrap)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "0")
        .set("retry.backoff.ms", "10")
        .set("retry.backoff.max.ms", "50")
        .set("reconnect.backoff.ms", "10")
        .set("reconnect.backoff.max.ms", "100")
        .create_with_context(Answers::default())?;
    let ended = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ended);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        flag.store(true, Ordering::Relaxed);
    });
    let (began, every) = (Instant::now(), Duration::from_millis(args.every_ms));
    let mut next = began;
    let mut told = false;
    while !ended.load(Ordering::Relaxed) && began.elapsed().as_secs_f64() < args.seconds {
        let record = BaseRecord::<(), [u8]>::to(&args.topic).partition(0).payload(&[b'x'; 100]);
        producer.send(record).map_err(|(error, _)| error)?;
        next += every;
        producer.poll(next.saturating_duration_since(Instant::now()));
        while Instant::now() < next {
            producer.poll(next.saturating_duration_since(Instant::now()));
        }
        // Who starts this waits for the line before it breaks anything.
        if !told && producer.context().0.lock().is_ok_and(|s| s.acknowledged > 0) {
            println!("{{\"writing\":1}}");
            told = true;
        }
    }
    producer.flush(Duration::from_secs(60))?;
    let seen = producer.context().0.lock().map_err(|_| anyhow::anyhow!("panic"))?;
    ensure!(seen.failed == 0, "{} records were not delivered", seen.failed);
    println!(
        "{{\"acknowledged\":{},\"longest_ms\":{:.1}}}",
        seen.acknowledged,
        seen.longest.as_secs_f64() * 1000.0
    );
    Ok(())
}
