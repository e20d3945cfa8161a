//! The load of the cluster's fault rounds, and the recorder of what it saw: producers, consumers and
//! readers of log ends write the events that `vltava histcheck` judges.
//!
//! `load` runs until standard input ends or the time is over. `scan` reads a topic from its start to
//! its end, as the last word on what is there.
#![expect(clippy::disallowed_methods, reason = "a load outside the crate measures time and files")]

mod cut;
#[path = "../fault_load/history.rs"]
#[expect(dead_code, reason = "the part that reads the other load's histories")]
mod history;
mod keyed;
mod produce;
mod read;
mod recorder;

use std::{
    io::Read as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Parser, Subcommand};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    types::RDKafkaErrorCode,
};

use recorder::Recorder;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the topic, write and read it; record everything.
    Load(LoadArgs),
    /// Read the topic from start to end; record it as a final scan.
    Scan(ScanArgs),
}

#[derive(clap::Args)]
struct LoadArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 8)]
    partitions: i32,
    #[arg(long, default_value_t = 3)]
    replicas: i32,
    #[arg(long, default_value_t = 2)]
    min_isr: i32,
    /// Force every batch to disk before it is acknowledged.
    #[arg(long)]
    durable: bool,
    #[arg(long, default_value_t = 3)]
    producers: u32,
    #[arg(long, default_value_t = 2)]
    consumers: u32,
    /// Delete records that all consumers have passed, in some partitions.
    #[arg(long)]
    cut: bool,
    /// Write to a compacted topic, too: that of this name and `-keys`.
    #[arg(long)]
    keyed: bool,
    /// Records a second, all producers together.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    #[arg(long, default_value_t = 3600.0)]
    seconds: f64,
    /// How long an unanswered record is tried again, in milliseconds.
    #[arg(long, default_value_t = 60_000)]
    patience_ms: u64,
    /// What librdkafka's producers tell on standard error: its `debug` contexts (eos,msg).
    #[arg(long, default_value = "")]
    debug: String,
    #[arg(long)]
    history: PathBuf,
}

#[derive(clap::Args)]
struct ScanArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// The topic is the compacted one of a load.
    #[arg(long)]
    keyed: bool,
    /// Name of the scan in the history.
    #[arg(long)]
    name: String,
    #[arg(long)]
    history: PathBuf,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Load(args) => load(&args),
        Command::Scan(args) => {
            let recorder = Recorder::create(&args.history)?;
            read::scan(&args, &recorder)?;
            recorder.finish()
        }
    }
}

fn load(args: &LoadArgs) -> anyhow::Result<()> {
    let recorder = Arc::new(Recorder::create(&args.history)?);
    create(args, &recorder)?;
    let run = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
    let stop = Arc::new(AtomicBool::new(false));
    let reading = Arc::new(AtomicBool::new(true));
    watch_stdin(&stop);
    let positions = cut::Positions::new(args.consumers, args.partitions);
    let sent = thread::scope(|scope| {
        for n in 0..args.consumers {
            let (recorder, positions, reading) = (&*recorder, &positions, &*reading);
            scope.spawn(move || read::consume(args, n, recorder, positions, reading));
        }
        let (ends, on) = (&*recorder, &*reading);
        scope.spawn(move || read::ends(args, ends, on));
        if args.keyed {
            let (recorder, on) = (Arc::clone(&recorder), &*reading);
            scope.spawn(move || {
                keyed::produce(args, run, &recorder, on).map_err(|e| eprintln!("{e}"))
            });
        }
        if args.cut {
            let (recorder, positions, on) = (&*recorder, &positions, &*reading);
            scope.spawn(move || {
                cut::cut(args, recorder, positions, on).map_err(|e| eprintln!("{e}"))
            });
        }
        let producers: Vec<_> = (0..args.producers)
            .map(|n| {
                let (recorder, stop) = (Arc::clone(&recorder), &*stop);
                scope.spawn(move || produce::produce(args, run, n, &recorder, stop))
            })
            .collect();
        let sent: anyhow::Result<u64> = producers
            .into_iter()
            .map(|p| p.join().map_err(|_| anyhow::anyhow!("a producer panicked"))?)
            .sum();
        // Consumers go on for a moment, so that they see the last records too.
        thread::sleep(Duration::from_millis(500));
        reading.store(false, Ordering::Relaxed);
        sent
    })?;
    recorder.finish()?;
    println!("sent {sent}");
    Ok(())
}

fn watch_stdin(stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
}

fn create(args: &LoadArgs, recorder: &Recorder) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &args.bootstrap).create()?;
    let min_isr = args.min_isr.to_string();
    let mut new =
        NewTopic::new(&args.topic, args.partitions, TopicReplication::Fixed(args.replicas))
            .set("min.insync.replicas", &min_isr);
    if args.durable {
        new = new.set("flush.messages", "1");
    }
    let keys = keyed::name(&args.topic);
    let keys = args.keyed.then(|| keyed::topic(&keys, args, &min_isr));
    let began = recorder.now();
    let all = std::iter::once(&new).chain(&keys);
    let results = runtime.block_on(admin.create_topics(all, &AdminOptions::new()))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => anyhow::bail!("creating {name}: {code}"),
        }
    }
    recorder.event(format_args!(
        r#"{{"topic":{{"name":"{}","replicas":{},"min_isr":{}}}}}"#,
        args.topic, args.replicas, args.min_isr
    ));
    if args.keyed {
        recorder.event(format_args!("{}", keyed::promise(args)));
    }
    let now = recorder.now();
    recorder.event(format_args!(r#"{{"admin":{{"op":"create","t":[{began},{now}]}}}}"#));
    Ok(())
}
