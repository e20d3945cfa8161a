//! A bank, as the load of the transaction rounds. Accounts start with the same balance; tellers move
//! amounts between accounts of several partitions, each transfer wholly inside one transaction, and
//! commit, abort or become zombies; clerks carry out orders that they consume (positions are part of
//! their transactions); auditors read everything at read_committed, again and again: the sum of all
//! accounts is constant, and no transaction is seen in part.
//!
//! `load` runs until standard input ends; `audit` is the last word. Both record the events that
//! `vltava histcheck` judges.
#![expect(clippy::disallowed_methods, reason = "a load outside the crate measures time and files")]

mod audit;
mod clerk;
#[path = "../cluster_load/recorder.rs"]
mod recorder;
mod teller;

use std::{
    io::Read as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    config::RDKafkaLogLevel,
    types::RDKafkaErrorCode,
};

use recorder::Recorder;

/// What every account holds at first.
const DEPOSIT: i64 = 1000;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the topics, move money and read it; record everything.
    Load(Args),
    /// Read the whole bank once more, and compare it with the orders.
    Audit(Args),
}

#[derive(clap::Args)]
struct Args {
    #[arg(long)]
    bootstrap: String,
    /// The accounts' topic; that of the orders has `-orders` behind it.
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 6)]
    partitions: i32,
    #[arg(long, default_value_t = 3)]
    replicas: i32,
    #[arg(long, default_value_t = 2)]
    min_isr: i32,
    #[arg(long, default_value_t = 100)]
    accounts: u32,
    #[arg(long, default_value_t = 4)]
    tellers: u32,
    #[arg(long, default_value_t = 2)]
    clerks: u32,
    #[arg(long, default_value_t = 2)]
    auditors: u32,
    /// Transactions a second, of one teller at most.
    #[arg(long, default_value_t = 25)]
    rate: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Name of the final reading in the history.
    #[arg(long, default_value = "")]
    name: String,
    /// What librdkafka's clients tell on standard error: its `debug` contexts (eos,cgrp).
    #[arg(long, default_value = "")]
    debug: String,
    #[arg(long)]
    history: PathBuf,
}

impl Args {
    fn orders(&self) -> String {
        format!("{}-orders", self.topic)
    }

    fn total(&self) -> i64 {
        i64::from(self.accounts) * DEPOSIT
    }

    /// What all clients have in common: they look again soon.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        if !self.debug.is_empty() {
            config.set("debug", &self.debug).set_log_level(RDKafkaLogLevel::Debug);
        }
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("socket.timeout.ms", "3000")
            .set("topic.metadata.refresh.fast.interval.ms", "20")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "100")
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "100");
        config
    }
}

/// A repeatable sequence of numbers (xorshift).
struct Dice(u64);

impl Dice {
    fn new(seed: u64, who: u64) -> Self {
        Self((seed ^ (who + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1)
    }

    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) % u64::from(end)) as u32
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Load(args) => load(&args),
        Command::Audit(args) => {
            let recorder = Recorder::create(&args.history)?;
            let said = audit::last_word(&args, &recorder);
            recorder.finish()?;
            println!("{}", said?);
            Ok(())
        }
    }
}

fn load(args: &Args) -> anyhow::Result<()> {
    let recorder = Arc::new(Recorder::create(&args.history)?);
    create(args, &recorder)?;
    teller::deposit(args, &recorder)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (reading, writing) = (AtomicBool::new(true), AtomicBool::new(true));
    watch_stdin(&stop);
    let told = thread::scope(|scope| {
        let auditors: Vec<_> = (0..args.auditors)
            .map(|n| {
                let (recorder, reading) = (&*recorder, &reading);
                scope.spawn(move || audit::again_and_again(args, n, recorder, reading))
            })
            .collect();
        let (orders, on) = (Arc::clone(&recorder), &writing);
        let orders = scope.spawn(move || clerk::give_orders(args, &orders, on));
        let mut workers = Vec::new();
        for n in 0..args.tellers {
            let (recorder, stop) = (Arc::clone(&recorder), &*stop);
            workers.push(scope.spawn(move || teller::work(args, n, &recorder, stop)));
        }
        for n in 0..args.clerks {
            let (recorder, stop) = (Arc::clone(&recorder), &*stop);
            workers.push(scope.spawn(move || clerk::work(args, n, &recorder, stop)));
        }
        let mut said = Vec::new();
        let mut failed = None;
        let mut joined = |r: thread::Result<anyhow::Result<String>>| match r {
            Ok(Ok(text)) => said.push(text),
            Ok(Err(error)) => failed = failed.take().or(Some(error)),
            Err(_) => failed = failed.take().or(Some(anyhow::anyhow!("a thread panicked"))),
        };
        workers.into_iter().for_each(|w| joined(w.join()));
        writing.store(false, Ordering::Relaxed);
        joined(orders.join());
        reading.store(false, Ordering::Relaxed);
        auditors.into_iter().for_each(|a| joined(a.join()));
        failed.map_or(Ok(said), Err)
    });
    recorder.finish()?;
    for line in told? {
        println!("{line}");
    }
    Ok(())
}

fn watch_stdin(stop: &Arc<AtomicBool>) {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
}

fn create(args: &Args, recorder: &Recorder) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin: AdminClient<DefaultClientContext> = args.client().create()?;
    let min_isr = args.min_isr.to_string();
    let clerks = args.clerks.cast_signed().max(1);
    let orders = args.orders();
    for (name, partitions) in [(args.topic.as_str(), args.partitions), (&orders, clerks)] {
        let new = NewTopic::new(name, partitions, TopicReplication::Fixed(args.replicas))
            .set("min.insync.replicas", &min_isr);
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
        for result in runtime.block_on(admin.create_topics([&new], &options))? {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => anyhow::bail!("creating {name}: {code}"),
            }
        }
        recorder.event(format_args!(
            r#"{{"topic":{{"name":"{name}","replicas":{},"min_isr":{}}}}}"#,
            args.replicas, args.min_isr
        ));
    }
    Ok(())
}
