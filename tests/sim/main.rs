//! The whole cluster in one thread: brokers, controllers, clients, disks and the network between
//! them, driven by one seed. Faults strike; then they end, and the cluster must become whole. The
//! same seed gives the same run, event by event.
//!
//! `SEEDS=1000 cargo test --test sim` runs more seeds, `SEED=7 cargo test --test sim one_seed --
//! --nocapture` one of them with all that happens.

#![expect(unreachable_pub, reason = "a test of many files has no outside")]

mod admin;
mod broker;
mod classic_members;
mod cleaner;
mod clients;
mod faults;
mod follow;
mod invariants;
mod keyed;
mod lifecycle;
mod machine;
mod marks;
mod members;
#[cfg(feature = "mutants")]
mod mutants;
mod net;
mod offices;
mod offices_load;
mod oracle;
mod plan;
mod quorum;
mod records;
mod schema;
mod serve;
mod share_members;
mod share_serve;
mod trace;
mod txn_clients;
mod txn_log;
mod txn_serve;
mod world;

use std::{
    env, panic,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    sync::{Mutex, PoisonError},
    thread,
};

use plan::Plan;
use world::{Summary, Violation, World};

/// Runs one seed. A panic of the product is a violation too.
fn run(seed: u64, loud: bool) -> Result<Summary, (Violation, String)> {
    let done = panic::catch_unwind(|| World::new(Plan::of(seed), loud).run());
    done.unwrap_or_else(|cause| {
        let text = cause.downcast_ref::<String>().cloned();
        let text = text.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let text = text.unwrap_or_else(|| "a panic".to_owned());
        Err((Violation { id: "panic", text }, String::new()))
    })
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

fn replay(seed: u64) -> String {
    format!("replay: SEED={seed} cargo test --test sim one_seed -- --nocapture")
}

#[derive(Debug, Default)]
struct Totals {
    events: AtomicU64,
    acked: AtomicUsize,
    elections: AtomicUsize,
    faults: AtomicUsize,
    txns: AtomicUsize,
    commits: AtomicUsize,
    cleanings: AtomicUsize,
    deliveries: AtomicUsize,
}

/// Runs `count` seeds from `first` on over all cores; the failures.
fn run_all(first: u64, count: u64, jobs: usize) -> Vec<(u64, Violation)> {
    let (next, totals) = (AtomicU64::new(first), Totals::default());
    let bad = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    match run(seed, false) {
                        Ok(s) => {
                            totals.events.fetch_add(s.events, Ordering::Relaxed);
                            totals.acked.fetch_add(s.acked, Ordering::Relaxed);
                            totals.elections.fetch_add(s.elections, Ordering::Relaxed);
                            totals.faults.fetch_add(s.faults, Ordering::Relaxed);
                            totals.txns.fetch_add(s.txns, Ordering::Relaxed);
                            totals.commits.fetch_add(s.commits, Ordering::Relaxed);
                            totals.cleanings.fetch_add(s.cleanings, Ordering::Relaxed);
                            totals.deliveries.fetch_add(s.deliveries, Ordering::Relaxed);
                        }
                        Err((v, _)) => {
                            println!("seed {seed}: {}: {}\n  {}", v.id, v.text, replay(seed));
                            bad.lock().unwrap_or_else(PoisonError::into_inner).push((seed, v));
                        }
                    }
                }
            });
        }
    });
    println!("{count} seeds: {totals:?}");
    bad.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The first failure among `count` seeds from `first` on.
#[cfg(feature = "mutants")]
fn run_until_found(first: u64, count: u64, jobs: usize) -> Option<(u64, Violation)> {
    let (next, found) = (AtomicU64::new(first), Mutex::new(None::<(u64, Violation)>));
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || found.lock().unwrap().is_some() {
                        return;
                    }
                    if let Err((v, _)) = run(seed, false) {
                        let mut found = found.lock().unwrap();
                        if found.as_ref().is_none_or(|(s, _)| *s > seed) {
                            *found = Some((seed, v));
                        }
                        return;
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

fn jobs() -> usize {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    number("JOBS").map_or(cores, |n| usize::try_from(n).unwrap())
}

#[test]
fn seeds_hold() {
    let (first, count) = (number("SEED").unwrap_or(1), number("SEEDS").unwrap_or(300));
    let bad = run_all(first, count, jobs());
    assert!(bad.is_empty(), "{} of {count} seeds fail: {:?}", bad.len(), bad.first());
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 4, 5] {
        let (a, b) = (run(seed, false), run(seed, false));
        assert_eq!(a, b, "seed {seed}");
    }
}

#[test]
fn one_seed() {
    let Some(seed) = number("SEED") else { return };
    println!("{:#?}", Plan::of(seed));
    match run(seed, true) {
        Ok(summary) => println!("{summary:?}"),
        Err((v, _)) => panic!("seed {seed}: {}: {}", v.id, v.text),
    }
}
