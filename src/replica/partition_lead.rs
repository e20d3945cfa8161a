//! A partition as its leader: taking office, appending what producers send, serving followers, the
//! high watermark and the in-sync replicas (`Partition.scala`).

use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;

use super::{
    leader::{FollowerAt, IsrAnswer, IsrNext, IsrProposal, Leader, Standing},
    partition::{Committed, Found, Isolation, Partition, Receipt, Refusal, Role},
};
use crate::{
    base::{ErrorCode, LeaderEpoch, Mono, Mutant, NodeId, Now, Offset, mutant},
    log::{EpochEnd, Origin, VerificationGuard},
    metadata::PartitionRegistration,
    record::{BatchHeader, ProduceContext, Scratch, TimestampType, Validated, validate},
};

/// What a follower asks of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerRead {
    /// Who fetches.
    pub replica: NodeId,
    /// Its broker epoch; -1 if it does not say.
    pub replica_epoch: i64,
    /// The leader epoch that it knows; -1 if it does not say.
    pub current_leader_epoch: LeaderEpoch,
    /// Its log end.
    pub fetch_offset: Offset,
    /// The epoch of its last record; -1 if it has none, or does not say.
    pub last_fetched_epoch: LeaderEpoch,
    /// Its log start offset.
    pub log_start: Offset,
    /// At most so many bytes.
    pub max_bytes: usize,
    /// Whether a first batch that is longer comes all the same.
    pub at_least_one: bool,
}

/// What a follower gets: records, or where its log diverges from this one.
#[derive(Debug, Clone)]
pub struct FollowerFound {
    /// Records, and where the log stands; no records if the logs diverge.
    pub found: Found,
    /// The end of the last epoch that both may have in common.
    pub diverging: Option<EpochEnd>,
}

impl Partition {
    /// Takes office, or goes on with a changed ISR. Metadata that is older than what the controller
    /// answered in the meantime changes nothing.
    pub fn lead(&mut self, registration: &PartitionRegistration, now: Now) {
        let same_office = self.leads() && registration.leader_epoch == self.leader_epoch;
        let known = registration.partition_epoch <= self.partition_epoch;
        if registration.partition_epoch < self.partition_epoch || (same_office && known) {
            return;
        }
        if registration.leader_epoch != self.leader_epoch || !self.leads() {
            self.log.begin_epoch(registration.leader_epoch);
        }
        self.leader_epoch = registration.leader_epoch;
        self.partition_epoch = registration.partition_epoch;
        let end = self.log.log_end_offset();
        match &mut self.role {
            Role::Leader(leader) => leader.update(registration, end, now.mono),
            Role::None | Role::Follower(_) => {
                self.dismiss(ErrorCode::NotLeaderOrFollower);
                let leader = Leader::new(self.brokers.node_id, registration, end, now.mono);
                self.role = Role::Leader(Box::new(leader));
            }
        }
        self.advance(now.mono);
    }

    /// The leader's state, if this broker leads.
    #[must_use]
    pub fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::None | Role::Follower(_) => None,
        }
    }

    /// Checks that this broker leads under the epoch that a client believes in (-1: any).
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `FencedLeaderEpoch`, `UnknownLeaderEpoch`.
    pub fn check_leader(&self, client_epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        self.check_epoch(client_epoch)?;
        if self.leads() { Ok(()) } else { Err(ErrorCode::NotLeaderOrFollower) }
    }

    /// As [`Partition::check_leader`], but a follower will do, too (KIP-392).
    ///
    /// # Errors
    /// As there; `NotLeaderOrFollower` if it is not even a follower.
    pub fn check_replica(&self, client_epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        self.check_epoch(client_epoch)?;
        match self.role {
            Role::None => Err(ErrorCode::NotLeaderOrFollower),
            Role::Leader(_) | Role::Follower(_) => Ok(()),
        }
    }

    fn check_epoch(&self, client_epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        if client_epoch >= 0 && client_epoch < self.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if client_epoch > self.leader_epoch {
            return Err(ErrorCode::UnknownLeaderEpoch);
        }
        Ok(())
    }

    /// Appends what a client sent.
    ///
    /// # Errors
    /// What the client is told; nothing was written.
    pub fn produce(
        &mut self,
        records: &Bytes,
        acks_all: bool,
        api_version: i16,
        now: Now,
        scratch: &mut Scratch,
    ) -> Result<Receipt, Refusal> {
        self.produce_in_txn(records, None, acks_all, api_version, now, scratch)
    }

    /// As [`Partition::produce`], with the word of the transaction's coordinator for a batch that
    /// begins a transaction here.
    ///
    /// # Errors
    /// As there; `InvalidTxnState` if the batch would begin a transaction without that word.
    pub fn produce_in_txn(
        &mut self,
        records: &Bytes,
        guard: Option<VerificationGuard>,
        acks_all: bool,
        api_version: i16,
        now: Now,
        scratch: &mut Scratch,
    ) -> Result<Receipt, Refusal> {
        let outcome = self.try_produce(records, guard, acks_all, api_version, now, scratch);
        let producer = || {
            let header = BatchHeader::read(records).ok().filter(BatchHeader::has_producer_id)?;
            Some((header.producer_id, header.producer_epoch))
        };
        self.turned_away.tell(producer, outcome, now.mono)
    }

    fn try_produce(
        &mut self,
        records: &Bytes,
        guard: Option<VerificationGuard>,
        acks_all: bool,
        api_version: i16,
        now: Now,
        scratch: &mut Scratch,
    ) -> Result<Receipt, Refusal> {
        self.check_append(acks_all)?;
        let context = ProduceContext { now_ms: now.wall_ms, api_version };
        let batch = validate(records, &self.settings.rules, context, scratch)?;
        self.append(&batch, Origin::Client(guard), now)
    }

    /// Appends a batch that this broker built: of a coordinator.
    ///
    /// # Errors
    /// As [`Partition::produce`].
    pub fn append_own(
        &mut self,
        batch: &Validated,
        leader_epoch: LeaderEpoch,
        origin: Origin,
        now: Now,
    ) -> Result<Receipt, Refusal> {
        if leader_epoch != self.leader_epoch {
            return Err(ErrorCode::NotLeaderOrFollower.into());
        }
        self.check_append(true)?;
        if batch.batch.len() > self.settings.rules.batch_bytes_max {
            return Err(ErrorCode::MessageTooLarge.into());
        }
        self.append(batch, origin, now)
    }

    fn check_append(&self, acks_all: bool) -> Result<(), ErrorCode> {
        let leader = self.leader().ok_or(ErrorCode::NotLeaderOrFollower)?;
        let needed = leader.min_isr(self.settings.min_insync_replicas);
        if acks_all && leader.isr().len() < needed {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        Ok(())
    }

    fn append(&mut self, batch: &Validated, origin: Origin, now: Now) -> Result<Receipt, Refusal> {
        let old_end = self.log.log_end_offset();
        let (bytes, header) = (&batch.batch, &batch.header);
        let done = self.log.append_leader(bytes, header, self.leader_epoch, origin, now)?;
        self.rolled |= done.rolled;
        let stamped = self.settings.rules.timestamp_type == TimestampType::LogAppendTime;
        if done.duplicate_of.is_none() {
            if let Role::Leader(leader) = &mut self.role {
                leader.appended(old_end, now.mono);
            }
            self.followers.ring();
            self.advance(now.mono);
        }
        Ok(Receipt {
            base_offset: done.base_offset,
            last_offset: done.last_offset,
            log_append_time_ms: if stamped { now.wall_ms } else { -1 },
            log_start_offset: self.log.log_start_offset(),
        })
    }

    /// Raises the high watermark as far as the maximal ISR has come, and tells who waits. While the
    /// ISR is below `min.insync.replicas` it stays, with eligible leader replicas or without
    /// (`Partition.maybeIncrementLeaderHW`, KIP-966): who is told of an offset is told under the
    /// same lock by as many as it takes. Kafka looks at the ISR once more after that
    /// (`checkEnoughReplicasReachOffset`) and answers NOT_ENOUGH_REPLICAS_AFTER_APPEND if it shrank
    /// in between; here is no between.
    pub fn advance(&mut self, now: Mono) {
        let Some((leader, standing)) = self.standing(now) else { return };
        if let Some(reached) = leader.reached(&standing) {
            self.raise_high_watermark(reached);
        }
        self.tell_deleted();
    }

    /// Below which offset no live replica has records any more; `None` if another broker leads.
    #[must_use]
    pub fn low_watermark(&self) -> Option<Offset> {
        let own = self.log.log_start_offset();
        let own = self.future().map_or(own, |copy| own.min(copy.start()));
        Some(self.leader()?.low_watermark(own, &self.brokers))
    }

    /// Waits until no live replica has records below `offset` (`DelayedDeleteRecords`); what comes
    /// is the low watermark then. `None` if it is so.
    pub fn await_deleted(&mut self, offset: Offset) -> Option<oneshot::Receiver<Committed>> {
        if self.low_watermark().is_some_and(|low| low >= offset) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.deleted.make_room(oneshot::Sender::is_canceled);
        self.deleted.park(offset, sender);
        Some(receiver)
    }

    fn tell_deleted(&mut self) {
        if self.deleted.is_empty() {
            return;
        }
        let Some(low) = self.low_watermark() else { return };
        for waiter in self.deleted.reached(low) {
            let _ = waiter.send(Ok(low));
        }
    }

    fn standing(&mut self, now: Mono) -> Option<(&mut Leader, Standing<'_>)> {
        let Role::Leader(leader) = &mut self.role else { return None };
        let end = self.log.log_end_offset();
        let durable = self.settings.durable() && !mutant(Mutant::AckBeforeSync);
        let standing = Standing {
            end,
            own: if durable { self.log.flushed_offset() } else { end },
            high_watermark: self.high_watermark,
            min_isr: self.settings.min_insync_replicas,
            lag_max: self.settings.lag_max,
            brokers: &self.brokers,
            now,
        };
        Some((leader, standing))
    }

    /// Serves a follower's fetch and notes how far the follower is. An answer that says where the
    /// logs diverge notes nothing.
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `FencedLeaderEpoch`, `UnknownLeaderEpoch`: the follower looks at the
    /// metadata again. `OffsetOutOfRange`: it has to begin elsewhere. Storage errors.
    pub fn fetch_as_follower(
        &mut self,
        read: &FollowerRead,
        now: Now,
    ) -> Result<FollowerFound, Refusal> {
        let mut got = self.read_as_follower(read, now)?;
        if got.diverging.is_none()
            && let Role::Leader(leader) = &mut self.role
        {
            let at = FollowerAt {
                replica: read.replica,
                replica_epoch: read.replica_epoch,
                offset: read.fetch_offset,
                log_start: read.log_start,
            };
            leader.fetched(&at, self.log.log_end_offset(), now.mono);
            self.advance(now.mono);
            got.found.marks = self.marks(now)?;
        }
        Ok(got)
    }

    /// As [`Partition::fetch_as_follower`], but notes nothing: for a fetch that has waited, whose
    /// offset is no news.
    ///
    /// # Errors
    /// As there.
    pub fn read_as_follower(
        &mut self,
        read: &FollowerRead,
        now: Now,
    ) -> Result<FollowerFound, Refusal> {
        self.check_leader(read.current_leader_epoch)?;
        if let Role::Leader(leader) = &self.role {
            let knows_epoch = read.current_leader_epoch >= 0;
            leader.check_follower(read.replica, read.replica_epoch, knows_epoch, &self.brokers)?;
        }
        let diverging = self.divergence(read.fetch_offset, read.last_fetched_epoch, now)?;
        if diverging.is_some() {
            return Ok(FollowerFound { found: self.nothing(now)?, diverging });
        }
        let (from, max) = (read.fetch_offset, read.max_bytes);
        let found = self.read(from, max, read.at_least_one, Isolation::LogEnd, now)?;
        Ok(FollowerFound { found, diverging: None })
    }

    /// What this leader asks the controller for now, if anything. It counts as sent: the answer
    /// goes to [`Partition::isr_answered`].
    pub fn isr_proposal(&mut self, now: Now) -> Option<IsrProposal> {
        let partition_epoch = self.partition_epoch;
        let (leader, standing) = self.standing(now.mono)?;
        leader.propose(partition_epoch, &standing)
    }

    /// The controller answered `proposal`, or nobody did (an error that is not the controller's
    /// decision). Tells whether [`Partition::isr_proposal`] should be asked again after a pause.
    pub fn isr_answered(
        &mut self,
        proposal: &IsrProposal,
        answer: Result<IsrAnswer, ErrorCode>,
        now: Now,
    ) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        match leader.answered(proposal, answer) {
            IsrNext::Wait => false,
            IsrNext::AskAgain => true,
            IsrNext::Committed(partition_epoch) => {
                self.partition_epoch = partition_epoch;
                self.advance(now.mono);
                self.wants_proposal(now)
            }
        }
    }

    /// Whether a proposal is due that need not wait for a follower to lag for too long.
    pub fn wants_proposal(&mut self, now: Now) -> bool {
        self.standing(now.mono).is_some_and(|(leader, standing)| leader.is_due(&standing))
    }

    /// Whether time alone may change something, and nobody looks after that yet; from now on
    /// somebody does, who calls [`Partition::look_after`].
    pub fn begins_to_lag(&mut self, now: Now) -> bool {
        let Some((leader, standing)) = self.standing(now.mono) else { return false };
        !leader.is_watched() && leader.lags(&standing) && {
            leader.set_watched(true);
            true
        }
    }

    /// Looks at what time has changed: the high watermark may no longer have to wait for a
    /// follower. Tells whether to look again; [`Partition::isr_proposal`] tells who has to leave.
    pub fn look_after(&mut self, now: Now) -> bool {
        self.advance(now.mono);
        let Some((leader, standing)) = self.standing(now.mono) else { return false };
        let lags = leader.lags(&standing);
        leader.set_watched(lags);
        lags
    }

    /// Whether somebody waits for followers none of which has fetched for `silence`.
    #[must_use]
    pub fn waits_in_vain(&self, now: Mono, silence: Duration) -> bool {
        let silent = || self.leader().is_some_and(|l| l.hears_nobody(now, silence));
        !self.committed.is_empty() && silent()
    }

    /// The replica in `rack` that a consumer at `offset` should rather read from (KIP-392,
    /// `RackAwareReplicaSelector`): `None` for the leader. `rack_of` tells a broker's rack.
    pub fn nearest_replica<'a>(
        &self,
        offset: Offset,
        rack: &str,
        rack_of: impl Fn(NodeId) -> Option<&'a str>,
    ) -> Option<NodeId> {
        let leader = self.leader()?;
        let near = |id: NodeId| rack_of(id) == Some(rack);
        if rack.is_empty() || near(self.brokers.node_id) {
            return None;
        }
        leader
            .remotes()
            .iter()
            .filter(|r| leader.isr().contains(&r.id) && near(r.id))
            .filter(|r| r.log_start <= offset && offset <= r.log_end)
            .max_by_key(|r| (r.log_end, r.caught_up_at(), r.id))
            .map(|r| r.id)
    }
}
