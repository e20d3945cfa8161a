//! The writer, and the one who asks where the groups are.

use std::{
    io::Read as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer},
};

use crate::{Args, Recorder, recorder::plain};

const CALL: Duration = Duration::from_secs(5);
/// How long groups may take to read what is left.
const SETTLE: Duration = Duration::from_secs(40);
const P: &str = "writer";

/// Records each outcome. A record's number tells its partition.
struct Outcomes {
    topic: String,
    partitions: i32,
    recorder: Arc<Recorder>,
    /// When each record was handed over, by number; zero once its outcome is recorded.
    began: Mutex<Vec<u64>>,
}

impl Outcomes {
    fn write(&self, n: usize, end: std::fmt::Arguments<'_>) {
        let began = self.began.lock().ok().and_then(|mut b| b.get_mut(n).map(std::mem::take));
        let Some(began) = began.filter(|b| *b > 0) else { return };
        let (topic, now, p) = (&self.topic, self.recorder.now(), partition(n, self.partitions));
        self.recorder.event(format_args!(
            r#"{{"send":{{"p":"{P}","n":{n},"tp":["{topic}",{p}],"v":"{n}","t":[{began},{now}],{end}}}}}"#
        ));
    }
}

fn partition(n: usize, partitions: i32) -> i32 {
    (n % partitions.cast_unsigned() as usize) as i32
}

impl ClientContext for Outcomes {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        eprintln!("{} {P} {facility} {text}", self.recorder.now());
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            let reason = plain(reason);
            self.recorder.event(format_args!(r#"{{"fatal":{{"p":"{P}","error":"{reason}"}}}}"#));
        }
    }
}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, n: usize) {
        match result {
            Ok(m) if m.offset() < 0 => self.write(n, format_args!(r#""info":"somewhere""#)),
            Ok(m) => self.write(n, format_args!(r#""ok":{}"#, m.offset())),
            Err((error, _)) => {
                self.write(n, format_args!(r#""info":"{}""#, plain(&error.to_string())));
            }
        }
    }
}

/// Writes until standard input ends, and looks where the groups are all the time.
pub(crate) fn write(args: &Args) -> anyhow::Result<()> {
    let recorder = Arc::new(Recorder::create(&args.history)?);
    create(args, &recorder)?;
    println!("ready");
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let outcomes = Outcomes {
        topic: args.topic.clone(),
        partitions: args.partitions,
        recorder: Arc::clone(&recorder),
        began: Mutex::default(),
    };
    let producer: ThreadedProducer<Outcomes> = args
        .client()
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .set("message.timeout.ms", "60000")
        .create_with_context(outcomes)?;
    let watchers = args.group.iter().map(|g| watcher(args, g)).collect::<Result<Vec<_>, _>>()?;
    let sent = thread::scope(|scope| {
        let (watchers, recorder, stop) = (&watchers, &*recorder, &*stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for (group, watcher) in args.group.iter().zip(watchers) {
                    let _ = ask(args, group, watcher, recorder);
                }
                thread::sleep(Duration::from_millis(500));
            }
        });
        send(args, &producer, recorder, stop)
    })?;
    producer.flush(Duration::from_secs(65))?;
    thread::sleep(Duration::from_millis(300));
    for n in 0..sent {
        producer.context().write(n, format_args!(r#""info":"no answer""#));
    }
    recorder.finish()?;
    for (group, watcher) in args.group.iter().zip(&watchers) {
        settled(args, group, watcher, &recorder)?;
    }
    recorder.finish()?;
    println!("sent {sent}");
    Ok(())
}

fn send(
    args: &Args,
    producer: &ThreadedProducer<Outcomes>,
    recorder: &Recorder,
    stop: &AtomicBool,
) -> anyhow::Result<usize> {
    let (began, gap, mut n) = (Instant::now(), Duration::from_secs(1) / args.rate, 0usize);
    while !stop.load(Ordering::Relaxed) {
        let due = began + gap * u32::try_from(n)?;
        thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        if Instant::now() < due {
            continue;
        }
        if let Ok(mut all) = producer.context().began.lock() {
            all.truncate(n);
            all.push(recorder.now());
        }
        let value = n.to_string();
        let record = BaseRecord::<(), str, usize>::with_opaque_to(&args.topic, n)
            .partition(partition(n, args.partitions))
            .payload(&value);
        match producer.send(record) {
            Ok(()) => n += 1,
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                thread::sleep(Duration::from_millis(5));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
    Ok(n)
}

/// A client that is no member: it asks for positions only.
fn watcher(args: &Args, group: &str) -> anyhow::Result<BaseConsumer> {
    Ok(args.client().set("group.id", group).create()?)
}

/// Asks where the group is, and records the answer; gives it by partition.
fn ask(
    args: &Args,
    group: &str,
    watcher: &BaseConsumer,
    recorder: &Recorder,
) -> anyhow::Result<Vec<i64>> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&args.topic, 0, args.partitions - 1);
    let began = recorder.now();
    let told = watcher.committed_offsets(list, CALL)?;
    let now = recorder.now();
    let mut out = Vec::new();
    for e in told.elements() {
        e.error()?;
        let at = if let Offset::Offset(at) = e.offset() { at } else { -1 };
        recorder.event(format_args!(
            r#"{{"fetched":{{"group":"{group}","tp":["{}",{}],"t":[{began},{now}],"offset":{at}}}}}"#,
            args.topic,
            e.partition()
        ));
        out.push(at);
    }
    Ok(out)
}

/// Waits until the group is at the end of every partition.
fn settled(
    args: &Args,
    group: &str,
    watcher: &BaseConsumer,
    recorder: &Recorder,
) -> anyhow::Result<()> {
    let mut ends = Vec::new();
    for p in 0..args.partitions {
        ends.push(watcher.fetch_watermarks(&args.topic, p, CALL)?.1);
    }
    let began = Instant::now();
    loop {
        let at = ask(args, group, watcher, recorder).unwrap_or_default();
        let behind: Vec<_> = (0..).zip(ends.iter().zip(&at)).filter(|(_, (e, a))| a < e).collect();
        let (first, count): (Option<&(i32, _)>, _) = (behind.first(), behind.len());
        if at.len() == ends.len() && count == 0 {
            return Ok(());
        }
        anyhow::ensure!(
            began.elapsed() < SETTLE,
            "{group}: {count} partitions not read to the end after {SETTLE:?}: {first:?}"
        );
        thread::sleep(Duration::from_millis(200));
    }
}

fn create(args: &Args, recorder: &Recorder) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin: AdminClient<DefaultClientContext> = args.client().create()?;
    let min_isr = args.min_isr.to_string();
    let new = NewTopic::new(&args.topic, args.partitions, TopicReplication::Fixed(args.replicas))
        .set("min.insync.replicas", &min_isr);
    for result in runtime.block_on(admin.create_topics([&new], &AdminOptions::new()))? {
        if let Err((name, code)) = result {
            anyhow::bail!("creating {name}: {code}");
        }
    }
    let (topic, replicas, min_isr) = (&args.topic, args.replicas, args.min_isr);
    recorder.event(format_args!(
        r#"{{"topic":{{"name":"{topic}","replicas":{replicas},"min_isr":{min_isr}}}}}"#
    ));
    Ok(())
}
