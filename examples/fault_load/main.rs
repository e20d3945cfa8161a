//! The load of the fault rounds and the checker of what it left.
//!
//! `load` produces numbered records with idempotent acks=all producers and writes every outcome to
//! a history, one JSON object a line. `check` reads the topic back and compares. `preload` fills a
//! topic with bytes, so that a restart has something to recover.
#![expect(clippy::disallowed_methods, reason = "a load outside the crate measures time and files")]

mod check;
mod history;
mod load;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    types::RDKafkaErrorCode,
};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Produce until the time is over or standard input ends; write the history.
    Load(load::Args),
    /// Read the topic back and compare it with one or more histories.
    Check(CheckArgs),
    /// Create a topic and fill it.
    Preload(load::PreloadArgs),
}

#[derive(clap::Args)]
struct CheckArgs {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    /// Acknowledged records at the end of a partition may be gone (page-cache mode, power cut).
    #[arg(long)]
    tail_may_be_lost: bool,
    /// Compare only what was produced from the given history on; offsets before are not read.
    #[arg(required = true)]
    histories: Vec<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Load(args) => load::run(&args),
        Command::Preload(args) => load::preload(&args),
        Command::Check(args) => {
            let mut acked = history::Acked::default();
            for path in &args.histories {
                acked.read(path)?;
            }
            let rules = check::Rules { tail_may_be_lost: args.tail_may_be_lost };
            let mut checker = check::Checker::new(acked, rules);
            load::read_back(&args.bootstrap, &args.topic, &mut checker)?;
            let report = checker.finish();
            println!("{report}");
            anyhow::ensure!(report.violations == 0, "the log is not what was acknowledged");
            Ok(())
        }
    }
}

/// Creates `topic`; one that is there already is fine.
async fn create(bootstrap: &str, topic: &str, partitions: i32) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for result in admin.create_topics([&new], &AdminOptions::new()).await? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => anyhow::bail!("creating {name}: {code}"),
        }
    }
    Ok(())
}
