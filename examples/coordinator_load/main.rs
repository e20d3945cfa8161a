//! The load generator of the coordinator rows of `scripts/bench-vs-kafka`: commits, transactions,
//! rebalances, and many committed offsets to load. It writes frames of its own, so that what is
//! seen is the broker's time and not a client's; `transactions` can also be librdkafka's. Prints one
//! JSON object a run.
#![expect(clippy::disallowed_methods, reason = "a load outside the crate measures time")]

mod classic;
mod commits;
mod frames;
mod modern;
mod offsets;
mod rebalances;
mod topics;
mod transactions;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// OffsetCommit requests in closed loops, each connection for a group of its own.
    Commits(commits::Args),
    /// Transactions of one record each, in closed loops.
    Transactions(transactions::Args),
    /// A member joins a group and leaves it, again and again; how long until all are settled.
    Rebalances(rebalances::Args),
    /// Commit very many offsets of groups that one partition of the coordinator keeps.
    Offsets(offsets::Args),
    /// Wait until these groups' coordinator answers.
    Loaded(offsets::Args),
    /// Set a configuration of a topic.
    Configure(topics::ConfigureArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Commits(args) => commits::run(&args),
        Command::Transactions(args) => transactions::run(&args),
        Command::Rebalances(args) => rebalances::run(&args),
        Command::Offsets(args) => offsets::write(&args),
        Command::Loaded(args) => offsets::loaded(&args),
        Command::Configure(args) => topics::configure(&args),
    }
}

/// The value below which `share` of the sorted values lie.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}
