//! A partition as its leader's follower: whom it follows, what it asks for next, and what it does
//! with the answers: append, cut off what the leader does not have, raise its marks
//! (`Partition.scala`, `ReplicaFetcherThread.scala`). What an answer means is decided in `follower`.
//!
//! In the durable mode the next question waits until what was appended is on disk: the offset that
//! it reads from tells the leader what this replica cannot lose.

use futures::channel::oneshot;

use super::{
    follower::{
        FetchPosition, FetchedPartition, Followed, Follower, LeaderBounds, Reset, Verdict, reset,
        truncation,
    },
    partition::{Committed, Partition, Role},
};
use crate::{
    base::{ErrorCode, LeaderEpoch, Mutant, NodeId, Now, Offset, mutant},
    log::{EpochEnd, LogError},
    metadata::PartitionRegistration,
    record::batch::batches,
};

impl Partition {
    /// Follows the leader of `registration`, if there is one. Tells whether fetching begins anew:
    /// under a leader epoch that is new to this replica. Metadata older than what it knows is
    /// passed over.
    pub fn follow(&mut self, registration: &PartitionRegistration) -> bool {
        let deaf = mutant(Mutant::StaleLeaderServes) && self.leads();
        if registration.partition_epoch < self.partition_epoch || deaf {
            return false;
        }
        self.partition_epoch = registration.partition_epoch;
        let (leader, epoch) = (registration.leader, registration.leader_epoch);
        if let Role::Follower(f) = &self.role
            && (f.leader(), f.leader_epoch()) == (leader, epoch)
        {
            return false;
        }
        self.leave_office();
        self.leader_epoch = epoch;
        self.role = Role::Follower(Box::new(Follower::new(leader, epoch)));
        true
    }

    /// The leader it follows; `None` if it leads, or nobody does.
    #[must_use]
    pub fn follows(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(f) => f.leader(),
            Role::None | Role::Leader(_) => None,
        }
    }

    /// How far the leader's high watermark is ahead of this log, in records; `None` before it said.
    #[must_use]
    pub fn lag(&self) -> Option<i64> {
        let Role::Follower(f) = &self.role else { return None };
        let told = f.leader_high_watermark();
        (told >= 0).then(|| told.saturating_sub(self.log.log_end_offset()).max(0))
    }

    /// What to ask the leader next; `None` while there is nothing to ask: it has no leader, its
    /// bounds are being asked for, it failed, or [`Partition::follower_flush`] must end first.
    pub fn next_fetch(&mut self, now: Now) -> Option<FetchPosition> {
        if !self.fetches() {
            return None;
        }
        match self.position(now) {
            Ok(position) => position,
            Err(e) => {
                self.failed(&e);
                None
            }
        }
    }

    /// In the durable mode, what must end before the next question: a flush of all that was
    /// appended. The caller sees to the flush. `None` if nothing is missing on disk.
    pub fn follower_flush(&mut self) -> Option<oneshot::Receiver<Committed>> {
        if !self.fetches() {
            return None;
        }
        self.await_flushed(self.log.log_end_offset() - 1)
    }

    /// Carries out what `answer` means.
    pub fn fetched(&mut self, answer: &FetchedPartition, now: Now) -> Followed {
        let end = self.fetch_offset();
        let Role::Follower(follower) = &mut self.role else { return Followed::Stale };
        let verdict = follower.judge(answer, end);
        let done = match verdict {
            Verdict::Stale => return Followed::Stale,
            Verdict::AskBounds => return Followed::AskBounds,
            Verdict::BackOff(code) => return Followed::BackOff(code),
            Verdict::Fail(code) => return Followed::Failed(code),
            Verdict::Diverged(at) => self.cut_at(at, now),
            Verdict::Take => self.take(answer, now),
        };
        done.unwrap_or_else(|e| self.stumbled(&e))
    }

    /// Takes note of where the leader's log begins and ends, after [`Followed::AskBounds`].
    pub fn bounded(&mut self, bounds: LeaderBounds, now: Now) -> Followed {
        let Role::Follower(follower) = &mut self.role else { return Followed::Stale };
        if !follower.take_bounds(bounds.leader_epoch) {
            return Followed::Stale;
        }
        let end = self.log.log_end_offset();
        let to = reset(bounds, end);
        tracing::info!(
            partition = %self.log.topic_partition(),
            "log end {end} is out of the leader's range {} to {}: {to:?}",
            bounds.start,
            bounds.end,
        );
        let done = match to {
            Reset::TruncateTo(offset) => self.truncate(offset, now),
            Reset::StartAnew(offset) => self.start_anew(offset, None, now),
            // It changed meanwhile. Were it the leader that contradicts itself, asking again at
            // once would never end.
            Reset::GoOn => return Followed::BackOff(ErrorCode::OffsetOutOfRange),
        };
        done.map_or_else(|e| self.stumbled(&e), |()| Followed::Moved { bytes: 0 })
    }

    /// The leader did not tell its bounds, asked under `leader_epoch`.
    pub fn bounds_refused(&mut self, leader_epoch: LeaderEpoch, error: ErrorCode) -> Followed {
        let Role::Follower(follower) = &mut self.role else { return Followed::Stale };
        if !follower.take_bounds(leader_epoch) {
            return Followed::Stale;
        }
        match follower.refused(error) {
            Verdict::Fail(code) => Followed::Failed(code),
            _ => Followed::BackOff(error),
        }
    }

    fn fetches(&self) -> bool {
        matches!(&self.role, Role::Follower(f) if f.fetches())
    }

    /// Where the next fetch reads from: the log end, but for a log that was begun anew with a batch
    /// whose first records are deleted.
    fn fetch_offset(&self) -> Offset {
        self.log.log_end_offset().max(self.log.log_start_offset())
    }

    fn position(&mut self, now: Now) -> Result<Option<FetchPosition>, LogError> {
        self.log.dir().check()?;
        let last_fetched_epoch = match self.log.latest_epoch(now)? {
            Some(epoch) => epoch,
            None => {
                // Nothing can tell where such a log parts from the leader's.
                self.truncate(self.high_watermark, now)?;
                -1
            }
        };
        if self.settings.durable() && self.log.flushed_offset() < self.log.log_end_offset() {
            return Ok(None);
        }
        Ok(Some(FetchPosition {
            offset: self.fetch_offset(),
            last_fetched_epoch,
            current_leader_epoch: self.leader_epoch,
            log_start: self.log.log_start_offset(),
        }))
    }

    fn take(&mut self, answer: &FetchedPartition, now: Now) -> Result<Followed, LogError> {
        let before = self.log.log_end_offset();
        let first = batches(&answer.records).next().and_then(Result::ok);
        if let Some((header, _)) = first
            && self.log.is_empty()
            && header.base_offset < before
            && header.next_offset() > before
        {
            // Records were deleted out of the middle of the leader's first batch.
            let log_start = self.log.log_start_offset();
            self.start_anew(header.base_offset, Some(log_start), now)?;
            return Ok(Followed::Moved { bytes: 0 });
        }
        if !answer.records.is_empty() {
            let done = self.log.append_follower(&answer.records, answer.leader_epoch, now)?;
            self.rolled |= done.is_some_and(|d| d.rolled);
        }
        self.take_marks(answer, now)?;
        if self.log.log_end_offset() > before {
            return Ok(Followed::Moved { bytes: answer.records.len() });
        }
        // A whole batch that was not taken is of an epoch that metadata has yet to tell of.
        Ok(match first {
            Some(_) => Followed::BackOff(ErrorCode::UnknownLeaderEpoch),
            None => Followed::Same,
        })
    }

    fn take_marks(&mut self, answer: &FetchedPartition, now: Now) -> Result<(), LogError> {
        let end = self.log.log_end_offset();
        self.raise_high_watermark(answer.high_watermark.min(end));
        let log_start = answer.log_start.min(self.high_watermark).min(end);
        if log_start > self.log.log_start_offset() {
            self.log.advance_log_start(log_start, now)?;
        }
        Ok(())
    }

    /// Cuts the log where it parts from the leader's.
    fn cut_at(&mut self, leader: EpochEnd, now: Now) -> Result<Followed, LogError> {
        let own = self.log.end_offset_for(leader.epoch, now)?;
        let (end, epoch) = (self.log.log_end_offset(), self.log.latest_epoch(now)?);
        let to = truncation(leader, own, end);
        tracing::info!(
            partition = %self.log.topic_partition(),
            "the leader's epoch {} ends at {}: the log is cut from {end} to {to}",
            leader.epoch,
            leader.end,
        );
        self.truncate(to, now)?;
        if (self.log.log_end_offset(), self.log.latest_epoch(now)?) == (end, epoch) {
            // Asking again at once would get the same answer.
            return Ok(Followed::BackOff(ErrorCode::UnknownServerError));
        }
        Ok(Followed::Moved { bytes: 0 })
    }

    fn truncate(&mut self, to: Offset, now: Now) -> Result<(), LogError> {
        let high_watermark = self.high_watermark;
        self.log.truncate_to(to, now)?;
        let end = self.fetch_offset();
        if end < high_watermark {
            tracing::warn!(
                partition = %self.log.topic_partition(),
                "the log was cut to {end}, below its high watermark {high_watermark}",
            );
            self.high_watermark = end;
        }
        Ok(())
    }

    fn start_anew(
        &mut self,
        offset: Offset,
        log_start: Option<Offset>,
        now: Now,
    ) -> Result<(), LogError> {
        let done = self.log.truncate_fully_and_start_at(offset, log_start, now);
        self.high_watermark = self.log.log_end_offset().max(self.log.log_start_offset());
        done.map(|_| ())
    }

    /// What becomes of a follower whose log did not do what it should.
    fn stumbled(&mut self, e: &LogError) -> Followed {
        match e {
            LogError::Corrupt(_)
            | LogError::UnexpectedOffset { .. }
            | LogError::TooLarge { .. } => {
                tracing::error!(
                    partition = %self.log.topic_partition(),
                    log_end = self.log.log_end_offset(),
                    "the leader sent what cannot be appended: {e}",
                );
                Followed::BackOff(ErrorCode::CorruptMessage)
            }
            LogError::Full(_) => {
                tracing::warn!(partition = %self.log.topic_partition(), "{e}");
                Followed::BackOff(ErrorCode::KafkaStorageError)
            }
            _ => {
                self.failed(e);
                Followed::Failed(ErrorCode::KafkaStorageError)
            }
        }
    }

    fn failed(&mut self, e: &LogError) {
        tracing::error!(partition = %self.log.topic_partition(), "it no longer follows: {e}");
        if let Role::Follower(follower) = &mut self.role {
            follower.fail();
        }
    }
}
