//! Planted bugs, for proving that the tests which guard against them would find them. Each place
//! asks [`mutant`]; without the feature `mutants`, which only tests set, the answer is a constant
//! no that costs nothing.

/// A bug that can be planted: one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mutant {
    /// The leader acknowledges acks=all as soon as it has appended.
    AckBeforeIsr = 1,
    /// The leader's high watermark is its own log end.
    HighWatermarkIsLogEnd,
    /// A follower whose log diverges from its leader's goes on without truncating.
    SkipEpochTruncation,
    /// The batches of a producer are forgotten with a restart.
    DedupeLostOnRestart,
    /// Batches of a producer epoch that has been superseded are appended.
    AcceptOldProducerEpoch,
    /// A consumer is given what lies above the high watermark.
    ServePastHighWatermark,
    /// The leader drops a follower from the ISR without asking the controller.
    ShrinkWithoutController,
    /// A leader that was deposed goes on appending and answering.
    StaleLeaderServes,
    /// Batches are appended whatever their checksum says.
    CrcUnchecked,
    /// A sync that failed is tried again, and believed.
    RetryFailedSync,
    /// A reassignment is over before the new replicas are in sync.
    DropReplicaEarly,
    /// Sessions of brokers are measured by the wall clock.
    WallClockSessions,
    /// Recovery keeps what follows a damaged batch.
    RecoveryTrustsTail,
    /// An acknowledgement in the durable mode does not wait for the disk.
    AckBeforeSync,
    /// A broker whose last life ended uncleanly stays eligible to lead.
    UncleanStaysEligible,
    /// A coordinator answers as soon as it has appended.
    CoordinatorAnswersEarly,
    /// Transactions are loaded, and their markers written, from what is not committed.
    LoadUncommitted,
    /// A marker of a coordinator that was superseded is appended.
    AcceptStaleCoordinator,
    /// A reader of committed data is given what lies above the last stable offset.
    ServePastLastStable,
    /// A transaction begins in a partition without its coordinator's word.
    SkipVerification,
    /// The offsets of an aborted transaction count.
    AbortedOffsetsCount,
    /// A consumer is given a partition that another still has.
    TwoOwners,
    /// A consumer commits under an epoch that is over.
    AcceptStaleMember,
    /// The cleaner drops the newest record of a key too.
    CompactionDropsNewest,
    /// The cleaner drops tombstones before their horizon.
    TombstoneTooEarly,
    /// The cleaner counts records of transactions that are aborted or still open.
    CompactionCountsAborted,
    /// A cleaned segment takes the place of its sources before it is on disk.
    CleanedUnsynced,
    /// A share partition answers acknowledgements before they are written.
    ShareAckBeforeWrite,
    /// A share partition hands out what another member has.
    ShareTwoAcquirers,
    /// The share coordinator takes what a leader writes that was superseded.
    ShareFenceSkipped,
    /// A share partition forgets what it holds for a member when a write fails.
    ShareLostWithWrite,
    /// A share partition stays when another broker led between two terms of this one.
    ShareOutlivesEpoch,
    /// A write of share state that comes late takes the start offset back.
    ShareStartGoesBack,
    /// Segments are deleted while `retention.bytes` asks for them still.
    RetentionTooEarly,
    /// Records are served that were deleted.
    ServeDeleted,
    /// A topic that is created again has its old id.
    TopicIdReused,
}

/// Whether that bug is planted.
#[cfg(not(feature = "mutants"))]
#[must_use]
#[inline]
pub const fn mutant(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
mod planted {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Mutant;

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Whether that bug is planted.
    #[must_use]
    pub fn mutant(which: Mutant) -> bool {
        PLANTED.load(Ordering::Relaxed) == which as u8
    }

    /// Plants a bug in this process, or none.
    pub fn plant(which: Option<Mutant>) {
        PLANTED.store(which.map_or(0, |m| m as u8), Ordering::Relaxed);
    }
}

#[cfg(feature = "mutants")]
pub use planted::{mutant, plant};
