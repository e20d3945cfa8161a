//! Planted bugs: each must be found by the seeds, within its budget. A simulation that misses one
//! proves nothing of the real ones like it.

use std::sync::Mutex;

use vltava::base::mutant::{Mutant, plant};

use crate::{jobs, number, run_until_found};

/// Every bug that the simulation must find.
const ALL: [Mutant; 31] = [
    Mutant::AckBeforeIsr,
    Mutant::HighWatermarkIsLogEnd,
    Mutant::SkipEpochTruncation,
    Mutant::DedupeLostOnRestart,
    Mutant::AcceptOldProducerEpoch,
    Mutant::ServePastHighWatermark,
    Mutant::ShrinkWithoutController,
    Mutant::StaleLeaderServes,
    Mutant::CrcUnchecked,
    Mutant::RetryFailedSync,
    Mutant::DropReplicaEarly,
    Mutant::WallClockSessions,
    Mutant::RecoveryTrustsTail,
    Mutant::AckBeforeSync,
    Mutant::UncleanStaysEligible,
    Mutant::CoordinatorAnswersEarly,
    Mutant::ServePastLastStable,
    Mutant::SkipVerification,
    Mutant::AbortedOffsetsCount,
    Mutant::TwoOwners,
    Mutant::CompactionDropsNewest,
    Mutant::TombstoneTooEarly,
    Mutant::CleanedUnsynced,
    Mutant::CompactionCountsAborted,
    Mutant::ShareAckBeforeWrite,
    Mutant::ShareTwoAcquirers,
    Mutant::ShareFenceSkipped,
    Mutant::ShareLostWithWrite,
    Mutant::RetentionTooEarly,
    Mutant::ServeDeleted,
    Mutant::TopicIdReused,
];

/// Bugs that need so rare a meeting that they are tried by name alone.
const RARE: [Mutant; 5] = [
    Mutant::LoadUncommitted,
    Mutant::AcceptStaleCoordinator,
    Mutant::AcceptStaleMember,
    Mutant::ShareOutlivesEpoch,
    Mutant::ShareStartGoesBack,
];

/// One bug at a time is planted in this process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[test]
fn every_planted_bug_is_found() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let budget = number("SEEDS").unwrap_or(600);
    let mut missed = Vec::new();
    // `MUTANT=TwoOwners` tries one alone.
    let only = std::env::var("MUTANT").ok();
    let wanted = |bug: &Mutant| match &only {
        Some(name) => *name == format!("{bug:?}"),
        None => !RARE.contains(bug),
    };
    for bug in ALL.into_iter().chain(RARE).filter(wanted) {
        plant(Some(bug));
        let found = run_until_found(1, budget, jobs());
        plant(None);
        match found {
            Some((seed, v)) => println!("{bug:?}: seed {seed}: {}: {}", v.id, v.text),
            None => {
                println!("{bug:?}: not found by {budget} seeds");
                missed.push(bug);
            }
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
