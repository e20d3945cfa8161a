//! Bad input over TCP against a running node: mutated frames, lying lengths, slow senders, idle
//! connections, readers that never read, record batches that lie. The node must answer with an
//! error code or close the connection; its memory stays flat and a good client beside it is served.
#![expect(clippy::disallowed_methods, reason = "an attacker outside the crate measures time")]

mod attack;
mod batches;
mod neighbour;
mod seeds;

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Parser;

#[derive(Parser)]
struct Cli {
    #[arg(long)]
    bootstrap: String,
    /// The node's process, whose memory and descriptors are watched.
    #[arg(long)]
    pid: u32,
    #[arg(long, default_value_t = 100_000)]
    frames: u64,
    #[arg(long, default_value_t = 2_000)]
    idle: usize,
    #[arg(long, default_value_t = 500)]
    slow: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Resident memory may grow by so many MiB.
    #[arg(long, default_value_t = 64.0)]
    growth_mib: f64,
}

/// What the rounds found.
#[derive(Default)]
struct Verdicts {
    passed: u32,
    failed: u32,
}

impl Verdicts {
    fn say(&mut self, what: &str, ok: bool, detail: &str) {
        println!("{} {what}: {detail}", if ok { "ok  " } else { "FAIL" });
        if ok {
            self.passed += 1;
        } else {
            self.failed += 1;
        }
    }
}

fn status(pid: u32, key: &str) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the node has ended")?;
    let line = text.lines().find_map(|l| l.strip_prefix(key)).context("no such line")?;
    Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let mut verdicts = Verdicts::default();
    let neighbour = neighbour::Neighbour::start(&cli.bootstrap)?;
    std::thread::sleep(Duration::from_secs(2));
    let calm = neighbour.p99();
    let (rss, files) = (status(cli.pid, "VmRSS")?, descriptors(cli.pid));
    println!("before: {rss:.1} MiB resident, {files} descriptors, neighbour p99 {calm:.1} ms");

    batches::run(&cli.bootstrap, &mut verdicts)?;
    attack::lying_lengths(&cli.bootstrap, &mut verdicts)?;
    neighbour.forget();
    let began = Instant::now();
    let tally = attack::mutated_frames(&cli.bootstrap, cli.frames, cli.seed)?;
    let seconds = began.elapsed().as_secs_f64();
    let detail = format!(
        "{} frames in {seconds:.0} s, {} answers, {} connections closed by the node",
        tally.sent, tally.answers, tally.closed
    );
    verdicts.say("mutated frames", tally.sent >= cli.frames && tally.answers > 0, &detail);
    let during = neighbour.p99();
    neighbour.forget();
    let slow = attack::slow_senders(&cli.bootstrap, cli.slow)?;
    let idle = attack::idle_connections(&cli.bootstrap, cli.idle)?;
    let deaf = attack::deaf_readers(&cli.bootstrap)?;
    std::thread::sleep(Duration::from_secs(3));
    let held = status(cli.pid, "VmRSS")?;
    let detail = format!(
        "{} idle (each served once, {:.0} ms for all), {} slow, {} deaf; {held:.1} MiB resident",
        idle.sockets.len(),
        idle.milliseconds,
        slow.len(),
        deaf.len()
    );
    verdicts.say("held connections", idle.sockets.len() == cli.idle, &detail);
    let beside = neighbour.p99();
    drop((slow, idle, deaf));
    std::thread::sleep(Duration::from_secs(2));
    finish(&cli, &mut verdicts, neighbour, rss.max(1.0), held)?;
    let detail = format!("calm {calm:.1} ms, frames {during:.1} ms, held {beside:.1} ms");
    verdicts.say("neighbour's p99", during.max(beside) < calm.mul_add(20.0, 500.0), &detail);
    println!("{} passed, {} failed", verdicts.passed, verdicts.failed);
    anyhow::ensure!(verdicts.failed == 0, "the node did not withstand bad input");
    Ok(())
}

fn finish(
    cli: &Cli,
    verdicts: &mut Verdicts,
    neighbour: neighbour::Neighbour,
    before: f64,
    held: f64,
) -> anyhow::Result<()> {
    let (after, files) = (status(cli.pid, "VmRSS")?, descriptors(cli.pid));
    let growth = after.max(held) - before;
    let detail = format!("{before:.1} to {after:.1} MiB, {held:.1} while all was held");
    verdicts.say("resident memory", growth < cli.growth_mib, &detail);
    verdicts.say("descriptors", files < 300, &format!("{files} once all had left"));
    let (sent, read) = neighbour.finish()?;
    verdicts.say("neighbour's records", sent == read && sent > 100, &format!("{read} of {sent}"));
    Ok(())
}
