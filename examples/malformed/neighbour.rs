//! The good client beside the bad ones: a steady producer whose latency is watched and whose records
//! are read back at the end.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{FutureProducer, FutureRecord},
};

pub(crate) const TOPIC: &str = "neighbour";

pub(crate) struct Neighbour {
    bootstrap: String,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    /// Milliseconds of each acknowledged record since the last `forget`.
    taken: Arc<Mutex<Vec<f64>>>,
    thread: thread::JoinHandle<()>,
}

impl Neighbour {
    /// Begins to send a record every 10 ms.
    pub(crate) fn start(bootstrap: &str) -> anyhow::Result<Self> {
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("acks", "all")
            .set("linger.ms", "0")
            .create()?;
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (stop_, sent_, taken_) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&taken));
        let thread = thread::spawn(move || {
            while !stop_.load(Ordering::Relaxed) {
                let record = FutureRecord::<(), str>::to(TOPIC).payload("beside").partition(0);
                let began = Instant::now();
                let delivery = producer.send(record, Duration::from_secs(10));
                if futures::executor::block_on(delivery).is_ok() {
                    sent_.fetch_add(1, Ordering::Relaxed);
                    if let Ok(mut taken) = taken_.lock() {
                        taken.push(began.elapsed().as_secs_f64() * 1000.0);
                    }
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        Ok(Self { bootstrap: bootstrap.to_owned(), stop, sent, taken, thread })
    }

    /// The 99th percentile since the last `forget`, in ms; infinite when nothing was answered.
    pub(crate) fn p99(&self) -> f64 {
        let mut taken = self.taken.lock().map(|t| t.clone()).unwrap_or_default();
        taken.sort_by(f64::total_cmp);
        taken.get(taken.len() * 99 / 100).copied().unwrap_or(f64::INFINITY)
    }

    pub(crate) fn forget(&self) {
        if let Ok(mut taken) = self.taken.lock() {
            taken.clear();
        }
    }

    /// Stops sending; gives how many records were acknowledged and how many are there.
    pub(crate) fn finish(self) -> anyhow::Result<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the neighbour panicked"))?;
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "neighbour")
            .set("enable.auto.commit", "false")
            .create()?;
        let patience = Duration::from_secs(20);
        let (low, high) = consumer.fetch_watermarks(TOPIC, 0, patience)?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(TOPIC, 0, Offset::Offset(low))?;
        consumer.assign(&assignment)?;
        let mut read = 0;
        while read < (high - low).cast_unsigned() {
            consumer.poll(patience).context("a record of the neighbour is missing")??;
            read += 1;
        }
        Ok((self.sent.load(Ordering::Relaxed), read))
    }
}
