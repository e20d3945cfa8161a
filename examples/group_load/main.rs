//! The load of the group churn: a writer, and processes full of group members that are opened and
//! closed on command (standard input), or killed from outside. Every line of a member's history is on
//! its way to the file before what depends on it happens, so that a killed process leaves a history
//! that can be judged by `vltava histcheck`.
#![expect(clippy::disallowed_methods, reason = "a load outside the crate measures time and files")]

mod member;
#[path = "../cluster_load/recorder.rs"]
mod recorder;
mod write;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use rdkafka::ClientConfig;

use recorder::Recorder;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Create the topic and write until standard input ends; then wait until the groups are at the
    /// end of every partition.
    Write(Args),
    /// Members, by the commands `open NAME`, `close NAME`; all close when standard input ends.
    Members(Args),
}

#[derive(clap::Args, Clone)]
struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 200)]
    partitions: i32,
    #[arg(long, default_value_t = 3)]
    replicas: i32,
    #[arg(long, default_value_t = 2)]
    min_isr: i32,
    /// Records a second.
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// The writer looks at all of them, members are in the first.
    #[arg(long)]
    group: Vec<String>,
    #[arg(long, default_value = "classic")]
    protocol: String,
    /// Name of the assignor: of the client, or with the protocol `consumer` of the broker.
    #[arg(long, default_value = "range")]
    assignor: String,
    #[arg(long, default_value_t = 6000)]
    session_ms: u32,
    #[arg(long)]
    history: PathBuf,
}

impl Args {
    /// What all clients have in common: they look again soon.
    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("socket.timeout.ms", "3000")
            .set("topic.metadata.refresh.fast.interval.ms", "50")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .set("retry.backoff.ms", "50")
            .set("retry.backoff.max.ms", "200");
        config
    }
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Write(args) => write::write(&args),
        Command::Members(args) => member::members(&args),
    }
}
