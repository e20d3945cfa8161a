//! The load generator of `scripts/bench-vs-kafka`: librdkafka at full speed, and raw Produce
//! requests of one record for latency. Prints one JSON object a run, with its own CPU time, so that
//! a row which the generator limits can be told from one that the broker limits.
#![expect(clippy::disallowed_methods, reason = "a load generator measures time and reads /proc")]

mod client;
mod gap;
mod raw;

use std::{collections::BTreeMap, fs};

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Produce with librdkafka as fast as it goes.
    Produce(client::ProduceArgs),
    /// Read a topic from its beginning with librdkafka.
    Consume(client::ConsumeArgs),
    /// Create a topic and wait until each partition has a leader.
    Partitions(client::PartitionsArgs),
    /// Delete a topic and wait until it is gone.
    Delete(client::DeleteArgs),
    /// Produce v7 requests of one record over one connection; prints latencies.
    Latency(raw::Args),
    /// Write a small record every few milliseconds; prints the longest time without an answer.
    Gap(gap::Args),
    /// Write to fresh memory and give it back, so that first-touch costs do not fall into a run.
    Touch { gigabytes: f64 },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Produce(args) => client::produce(&args),
        Command::Consume(args) => client::consume(&args),
        Command::Partitions(args) => client::partitions(&args),
        Command::Delete(args) => client::delete(&args),
        Command::Latency(args) => raw::latency(&args),
        Command::Gap(args) => gap::gap(&args),
        Command::Touch { gigabytes } => {
            touch((gigabytes * 1e9) as usize);
            Ok(())
        }
    }
}

fn touch(bytes: usize) {
    let mut memory = vec![0u8; bytes];
    for page in memory.chunks_mut(4096) {
        page[0] = 1;
    }
    println!(
        "{{\"touched\":{}}}",
        memory.iter().step_by(4096).map(|b| usize::from(*b)).sum::<usize>()
    );
}

/// CPU seconds of each thread of this process so far, by thread id.
fn thread_cpu() -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat")) {
            out.insert(id, cpu_of(&stat).unwrap_or(0.0));
        }
    }
    out
}

/// utime + stime of a /proc stat line, in seconds: fields 14 and 15, in ticks of 10 ms.
fn cpu_of(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// CPU seconds of the calling thread so far.
fn own_cpu() -> f64 {
    fs::read_to_string("/proc/thread-self/stat").ok().and_then(|s| cpu_of(&s)).unwrap_or(0.0)
}

/// What this process spent since `before`: all threads together, and the share of one core that
/// the busiest thread took over `seconds`. `ended` holds the seconds of threads that have ended.
fn generator_cpu(before: &BTreeMap<String, f64>, seconds: f64, ended: &[f64]) -> (f64, f64) {
    let living =
        thread_cpu().into_iter().map(|(id, now)| now - before.get(&id).copied().unwrap_or(0.0));
    let spent: Vec<f64> = living.chain(ended.iter().copied()).collect();
    let busiest = spent.iter().copied().fold(0.0, f64::max);
    (spent.iter().sum(), busiest / seconds)
}
