//! One followed partition as its follower sees it: whom it follows, under which epoch, and what an
//! answer of the leader means. Pure, and without the log: `partition_follow` carries out what is
//! decided here. Uses `base` and the log's `EpochEnd`.
//!
//! Nothing is cut off by the high watermark: each fetch tells the epoch of the last record that the
//! follower has, and the leader answers where the logs part (`AbstractFetcherThread.scala`,
//! KIP-595). The high watermark decides only for a log that knows no epoch at all.

use bytes::Bytes;

use crate::{
    base::{ErrorCode, LeaderEpoch, NodeId, Offset},
    log::EpochEnd,
};

/// Where a follower reads next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPosition {
    /// The end of its log: all below it is appended and, in the durable mode, on disk.
    pub offset: Offset,
    /// The epoch of its last record; -1 if it knows none.
    pub last_fetched_epoch: LeaderEpoch,
    /// The epoch of the leader that it asks.
    pub current_leader_epoch: LeaderEpoch,
    /// The start of its log.
    pub log_start: Offset,
}

/// What a leader answered for one partition.
#[derive(Debug, Clone)]
pub struct FetchedPartition {
    /// Where the question read from: an answer to another is stale.
    pub fetch_offset: Offset,
    /// The leader epoch of the question.
    pub leader_epoch: LeaderEpoch,
    /// `None`, or why there is nothing.
    pub error: ErrorCode,
    /// The leader's high watermark; -1 if it did not say.
    pub high_watermark: Offset,
    /// The start of the leader's log; -1 if it did not say.
    pub log_start: Offset,
    /// Where the follower's log parts from the leader's.
    pub diverging: Option<EpochEnd>,
    /// Batches, the last of which may be cut short.
    pub records: Bytes,
}

/// Where the leader's log begins and ends, asked for when a fetch was out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderBounds {
    /// The leader epoch of the question.
    pub leader_epoch: LeaderEpoch,
    /// The leader's log start offset.
    pub start: Offset,
    /// The leader's log end offset.
    pub end: Offset,
}

/// What is to be done next for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// The answer was to a question of the past: nothing was done.
    Stale,
    /// The position is as it was: the question stands.
    Same,
    /// The position moved: ask again.
    Moved {
        /// Bytes of batches appended; 0 after a truncation.
        bytes: usize,
    },
    /// Ask the leader for its bounds, and tell them by `Partition::bounded`.
    AskBounds,
    /// Ask again after a while: the leader or this broker is not ready yet.
    BackOff(ErrorCode),
    /// Ask no more until metadata tells of another leader epoch.
    Failed(ErrorCode),
}

/// What an answer asks of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Stale,
    /// Take its records and its marks.
    Take,
    /// Cut the log where it parts from the leader's.
    Diverged(EpochEnd),
    /// Ask for the leader's bounds.
    AskBounds,
    /// Try again after a while.
    BackOff(ErrorCode),
    /// Wait for metadata.
    Fail(ErrorCode),
}

/// How a log that is out of the leader's range comes into it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    /// Cut what the leader does not have.
    TruncateTo(Offset),
    /// Drop everything: the leader begins beyond the end of this log.
    StartAnew(Offset),
    /// It is in range: fetch on.
    GoOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Fetches, or waits to.
    Fetching,
    /// Was out of the leader's range and asks for its bounds.
    Asking,
    /// Waits for metadata.
    Failed,
}

/// A follower of one leader in one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follower {
    leader: Option<NodeId>,
    leader_epoch: LeaderEpoch,
    phase: Phase,
    leader_high_watermark: Offset,
}

impl Follower {
    /// A follower of `leader`, under `leader_epoch`; of nobody while the partition has no leader.
    #[must_use]
    pub fn new(leader: Option<NodeId>, leader_epoch: LeaderEpoch) -> Self {
        Self { leader, leader_epoch, phase: Phase::Fetching, leader_high_watermark: -1 }
    }

    /// Whom it follows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The epoch it follows under.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Whether it may send a fetch.
    #[must_use]
    pub fn fetches(&self) -> bool {
        self.leader.is_some() && self.phase == Phase::Fetching
    }

    /// The leader's high watermark as it was last told; -1 before.
    #[must_use]
    pub fn leader_high_watermark(&self) -> Offset {
        self.leader_high_watermark
    }

    /// Stops until there is another epoch: the log cannot be used.
    pub(super) fn fail(&mut self) {
        self.phase = Phase::Failed;
    }

    /// What `answer` means for a log that ends at `log_end`.
    pub(super) fn judge(&mut self, answer: &FetchedPartition, log_end: Offset) -> Verdict {
        let current = answer.leader_epoch == self.leader_epoch;
        if !self.fetches() || !current || answer.fetch_offset != log_end {
            return Verdict::Stale;
        }
        match answer.error {
            ErrorCode::None => {
                if let Some(at) = answer.diverging {
                    return if at.end >= 0 {
                        Verdict::Diverged(at)
                    } else {
                        Verdict::BackOff(ErrorCode::UnknownServerError)
                    };
                }
                self.leader_high_watermark = answer.high_watermark;
                Verdict::Take
            }
            ErrorCode::OffsetOutOfRange => {
                self.phase = Phase::Asking;
                Verdict::AskBounds
            }
            error => self.refused(error),
        }
    }

    /// Whether bounds that were asked for under `leader_epoch` still matter; the follower fetches
    /// again once they are dealt with.
    pub(super) fn take_bounds(&mut self, leader_epoch: LeaderEpoch) -> bool {
        let matters = self.phase == Phase::Asking && leader_epoch == self.leader_epoch;
        if matters {
            self.phase = Phase::Fetching;
        }
        matters
    }

    /// What a refusal of the leader means. A leader that knows a newer epoch is not asked again:
    /// metadata will tell. Everything else passes.
    pub(super) fn refused(&mut self, error: ErrorCode) -> Verdict {
        if error == ErrorCode::FencedLeaderEpoch {
            self.phase = Phase::Failed;
            return Verdict::Fail(error);
        }
        Verdict::BackOff(error)
    }
}

/// Where to cut a log that ends at `log_end` and parts from the leader's: `leader` is the end of an
/// epoch there, `own` the end here of the largest epoch that is not above it. An epoch that is not
/// known here is cut back to the one before it; the next answer tells the rest.
pub(super) fn truncation(leader: EpochEnd, own: Option<EpochEnd>, log_end: Offset) -> Offset {
    let to = match own {
        Some(own) if own.epoch == leader.epoch => own.end.min(leader.end),
        Some(own) => own.end,
        None => leader.end,
    };
    to.min(log_end)
}

/// How a log that ends at `log_end` comes into the leader's range. A log that ends beyond the
/// leader's lost an unclean election; one that ends before the leader's begins was away for long.
pub(super) fn reset(bounds: LeaderBounds, log_end: Offset) -> Reset {
    if bounds.end < log_end {
        Reset::TruncateTo(bounds.end)
    } else if bounds.start > log_end {
        Reset::StartAnew(bounds.start)
    } else {
        Reset::GoOn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(fetch_offset: Offset, leader_epoch: LeaderEpoch) -> FetchedPartition {
        FetchedPartition {
            fetch_offset,
            leader_epoch,
            error: ErrorCode::None,
            high_watermark: 7,
            log_start: 0,
            diverging: None,
            records: Bytes::new(),
        }
    }

    fn failed(error: ErrorCode) -> FetchedPartition {
        FetchedPartition { error, ..answer(10, 3) }
    }

    fn follower() -> Follower {
        Follower::new(Some(NodeId(1)), 3)
    }

    fn end(epoch: LeaderEpoch, end: Offset) -> EpochEnd {
        EpochEnd { epoch, end }
    }

    #[test]
    fn only_the_answer_to_the_last_question_counts() {
        let mut f = follower();
        assert_eq!(f.judge(&answer(10, 3), 10), Verdict::Take);
        assert_eq!(f.leader_high_watermark(), 7);
        assert_eq!(f.judge(&answer(9, 3), 10), Verdict::Stale, "another position");
        assert_eq!(f.judge(&answer(10, 2), 10), Verdict::Stale, "an older epoch");
        assert_eq!(Follower::new(None, 3).judge(&answer(10, 3), 10), Verdict::Stale, "no leader");
    }

    #[test]
    fn refusals_back_off_but_a_newer_epoch_at_the_leader_waits_for_metadata() {
        for error in [
            ErrorCode::UnknownLeaderEpoch,
            ErrorCode::NotLeaderOrFollower,
            ErrorCode::UnknownTopicOrPartition,
            ErrorCode::UnknownTopicId,
            ErrorCode::InconsistentTopicId,
            ErrorCode::KafkaStorageError,
            ErrorCode::UnknownServerError,
        ] {
            let mut f = follower();
            assert_eq!(f.judge(&failed(error), 10), Verdict::BackOff(error));
            assert!(f.fetches(), "{error:?}");
        }
        let mut f = follower();
        let fenced = ErrorCode::FencedLeaderEpoch;
        assert_eq!(f.judge(&failed(fenced), 10), Verdict::Fail(fenced));
        assert!(!f.fetches());
        assert_eq!(f.judge(&answer(10, 3), 10), Verdict::Stale);
    }

    #[test]
    fn out_of_range_asks_for_bounds_once() {
        let mut f = follower();
        assert_eq!(f.judge(&failed(ErrorCode::OffsetOutOfRange), 10), Verdict::AskBounds);
        assert!(!f.fetches());
        let again = f.judge(&failed(ErrorCode::OffsetOutOfRange), 10);
        assert_eq!(again, Verdict::Stale, "an answer that was on its way");
        assert!(!f.take_bounds(2), "bounds of an older epoch");
        assert!(f.take_bounds(3) && f.fetches());
        assert!(!f.take_bounds(3), "they were not asked for");
    }

    #[test]
    fn a_divergence_is_passed_on_unless_it_makes_no_sense() {
        let mut f = follower();
        let parted = FetchedPartition { diverging: Some(end(2, 8)), ..answer(10, 3) };
        assert_eq!(f.judge(&parted, 10), Verdict::Diverged(end(2, 8)));
        assert_eq!(f.leader_high_watermark(), -1, "its marks say nothing");
        let broken = FetchedPartition { diverging: Some(end(2, -1)), ..answer(10, 3) };
        assert!(matches!(f.judge(&broken, 10), Verdict::BackOff(_)));
    }

    #[test]
    fn logs_are_cut_where_they_part() {
        // The epoch is known on both sides: the shorter of the two.
        assert_eq!(truncation(end(2, 8), Some(end(2, 6)), 10), 6);
        assert_eq!(truncation(end(2, 5), Some(end(2, 6)), 10), 5);
        // Not known here: back to the end of the one before, and ask again.
        assert_eq!(truncation(end(3, 8), Some(end(2, 6)), 10), 6);
        // Below all that is known here.
        assert_eq!(truncation(end(1, 8), None, 10), 8);
        assert_eq!(truncation(end(1, 80), None, 10), 10, "never beyond the end");
    }

    #[test]
    fn a_log_out_of_range_comes_into_it() {
        let bounds = |start, end| LeaderBounds { leader_epoch: 3, start, end };
        assert_eq!(reset(bounds(0, 8), 10), Reset::TruncateTo(8), "longer than the leader's");
        assert_eq!(reset(bounds(20, 30), 10), Reset::StartAnew(20), "away for long");
        assert_eq!(reset(bounds(0, 30), 10), Reset::GoOn);
        assert_eq!(reset(bounds(10, 10), 10), Reset::GoOn);
        assert_eq!(reset(bounds(20, 30), 0), Reset::StartAnew(20), "a new replica");
    }
}
