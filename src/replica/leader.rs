//! What a leader knows of its followers, and the in-sync replicas (ISR): who is caught up, how far
//! everybody has come, what to propose to the controller. A pure machine (`Partition.scala`,
//! `Replica.java`).
//!
//! While a proposal is under way the high watermark waits for the *maximal* ISR: the committed one
//! and whoever the proposal adds (KIP-497), so that it holds whichever way the controller decides.

use std::time::Duration;

use super::brokers::Brokers;
use crate::{
    base::{ErrorCode, LeaderEpoch, Mono, Mutant, NodeId, Offset, mutant},
    metadata::{LeaderRecoveryState, PartitionRegistration},
};

/// Where a follower's fetch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowerAt {
    /// Who fetches.
    pub replica: NodeId,
    /// Its broker epoch; -1 if it does not say.
    pub replica_epoch: i64,
    /// The offset that it fetches: its log end.
    pub offset: Offset,
    /// Its log start offset.
    pub log_start: Offset,
}

/// A follower as its leader knows it (`ReplicaState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Which broker.
    pub id: NodeId,
    /// Its log end; -1 before its first fetch.
    pub log_end: Offset,
    /// Its log start offset; -1 before its first fetch.
    pub log_start: Offset,
    /// Its broker epoch, as its last fetch told; `None` before the first.
    pub broker_epoch: Option<i64>,
    /// When it last had all that the leader had.
    caught_up: Option<Mono>,
    /// When it last fetched.
    fetched: Option<Mono>,
    /// The leader's log end at that time.
    end_at_fetch: Offset,
}

impl Remote {
    fn new(id: NodeId) -> Self {
        Self {
            id,
            log_end: -1,
            log_start: -1,
            broker_epoch: None,
            caught_up: None,
            fetched: None,
            end_at_fetch: -1,
        }
    }

    /// Whether it has all of the leader's log, which ends at `end`, or had it `lag` ago or later.
    fn is_caught_up(&self, end: Offset, now: Mono, lag: Duration) -> bool {
        self.log_end == end || self.caught_up.is_some_and(|at| now.since(at) <= lag)
    }

    /// When it last had all that the leader had.
    #[must_use]
    pub fn caught_up_at(&self) -> Option<Mono> {
        self.caught_up
    }

    /// A new leader epoch: an in-sync follower counts as caught up by now. One that is not in sync
    /// must not hold the high watermark back.
    fn reset(&mut self, in_sync: bool, end: Offset, now: Mono) {
        self.caught_up = in_sync.then_some(now);
        self.fetched = self.caught_up;
        self.end_at_fetch = end;
    }

    /// It fetches from `at` on, while the leader's log ends at `end`. Had it come to where the log
    /// ended at its last fetch, then it was caught up at that time.
    fn fetch(&mut self, at: &FollowerAt, end: Offset, now: Mono) {
        if at.offset >= end {
            self.caught_up = self.caught_up.max(Some(now));
        } else if at.offset >= self.end_at_fetch {
            self.caught_up = self.caught_up.max(self.fetched);
        }
        self.log_end = at.offset;
        self.log_start = at.log_start;
        self.broker_epoch = Some(at.replica_epoch);
        self.fetched = Some(now);
        self.end_at_fetch = self.end_at_fetch.max(end);
    }
}

/// An ISR that the controller is asked to commit (AlterPartition, KIP-497).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsrProposal {
    /// The leader epoch of the proposer.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch that the proposal changes.
    pub partition_epoch: i32,
    /// The proposed ISR with broker epochs, -1 where none is known (KIP-903).
    pub isr: Vec<(NodeId, i64)>,
    /// The recovery state: a leader that took office has recovered (KIP-704).
    pub recovery: LeaderRecoveryState,
}

/// A partition as the controller committed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsrAnswer {
    /// The leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// The partition epoch.
    pub partition_epoch: i32,
    /// The ISR.
    pub isr: Vec<NodeId>,
}

/// What follows from an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsrNext {
    /// Nothing; or the metadata will tell.
    Wait,
    /// The ISR is committed; the partition has this partition epoch now.
    Committed(i32),
    /// There may be something to propose later.
    AskAgain,
}

#[derive(Debug)]
struct Proposed {
    proposal: IsrProposal,
    /// Whether it is on its way.
    sent: bool,
    /// Whether only metadata can end it: the controller refused it because this leader's
    /// knowledge is out of date.
    stale: bool,
}

/// What is true of the log and the clock when the leader decides something.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The leader's own log end.
    pub end: Offset,
    /// How much of its own log counts for the high watermark: in the durable mode what is flushed.
    pub own: Offset,
    /// The high watermark.
    pub high_watermark: Offset,
    /// `min.insync.replicas`.
    pub min_isr: usize,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
    /// The other brokers.
    pub brokers: &'a Brokers,
    /// The present.
    pub now: Mono,
}

/// A leader of one partition.
#[derive(Debug)]
pub struct Leader {
    me: NodeId,
    epoch: LeaderEpoch,
    epoch_start: Offset,
    isr: Box<[NodeId]>,
    recovery: LeaderRecoveryState,
    remotes: Box<[Remote]>,
    proposed: Option<Box<Proposed>>,
    watched: bool,
}

impl Leader {
    /// Takes office by `registration` with a log that ends at `end`.
    #[must_use]
    pub fn new(me: NodeId, registration: &PartitionRegistration, end: Offset, now: Mono) -> Self {
        let mut leader = Self {
            me,
            epoch: registration.leader_epoch,
            epoch_start: end,
            isr: Box::default(),
            recovery: LeaderRecoveryState::Recovered,
            remotes: Box::default(),
            proposed: None,
            watched: false,
        };
        leader.assign(registration);
        for remote in &mut leader.remotes {
            remote.reset(leader.isr.contains(&remote.id), end, now);
        }
        leader
    }

    /// Goes on with a changed registration, under a new leader epoch or the same. A proposal that
    /// was under way is either what `registration` tells of, or can no longer be accepted: the
    /// controller takes one only for the partition epoch it was made at.
    pub fn update(&mut self, registration: &PartitionRegistration, end: Offset, now: Mono) {
        self.assign(registration);
        if registration.leader_epoch != self.epoch {
            self.epoch = registration.leader_epoch;
            self.epoch_start = end;
            for remote in &mut self.remotes {
                remote.reset(self.isr.contains(&remote.id), end, now);
            }
        }
    }

    fn assign(&mut self, registration: &PartitionRegistration) {
        let known = |id: &NodeId| self.remotes.iter().find(|r| r.id == *id).copied();
        let others = registration.replicas.iter().filter(|id| **id != self.me);
        self.remotes = others.map(|id| known(id).unwrap_or_else(|| Remote::new(*id))).collect();
        self.isr.clone_from(&registration.isr);
        self.recovery = registration.recovery;
        self.proposed = None;
    }

    /// Where the log ended when it took office under its epoch.
    #[must_use]
    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// The committed ISR.
    #[must_use]
    pub fn isr(&self) -> &[NodeId] {
        &self.isr
    }

    /// The followers.
    #[must_use]
    pub fn remotes(&self) -> &[Remote] {
        &self.remotes
    }

    /// `min.insync.replicas`, as far as there are so many replicas.
    #[must_use]
    pub fn min_isr(&self, configured: usize) -> usize {
        configured.min(self.remotes.len() + 1)
    }

    fn is_added(&self, id: NodeId) -> bool {
        let proposed = self.proposed.as_ref();
        proposed.is_some_and(|p| p.proposal.isr.iter().any(|(member, _)| *member == id))
    }

    /// The leader appended, and its log had ended at `old_end`: whoever had it all up to there
    /// was caught up until now. So the followers of an idle partition, whose fetches need not be
    /// looked at, begin to lag only when there is something to lag behind.
    pub fn appended(&mut self, old_end: Offset, now: Mono) {
        for remote in self.remotes.iter_mut().filter(|r| r.log_end == old_end) {
            remote.caught_up = Some(now);
        }
    }

    /// Whether a fetch may come from `replica`, and with this broker epoch.
    ///
    /// # Errors
    /// `UnknownLeaderEpoch` if it is no replica although it knows the leader epoch, which it does
    /// if `knows_epoch`: this leader has not yet heard of a reassignment. `NotLeaderOrFollower`
    /// otherwise, and from an earlier life of the broker (KIP-903).
    pub fn check_follower(
        &self,
        replica: NodeId,
        replica_epoch: i64,
        knows_epoch: bool,
        brokers: &Brokers,
    ) -> Result<(), ErrorCode> {
        if !self.remotes.iter().any(|r| r.id == replica) {
            return Err(if knows_epoch {
                ErrorCode::UnknownLeaderEpoch
            } else {
                ErrorCode::NotLeaderOrFollower
            });
        }
        let known = brokers.active_epoch(replica);
        if replica_epoch != -1 && known.is_some_and(|known| known > replica_epoch) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        Ok(())
    }

    /// Notes a follower's fetch, which [`Leader::check_follower`] let pass. `end` is the leader's
    /// log end.
    pub fn fetched(&mut self, at: &FollowerAt, end: Offset, now: Mono) {
        if let Some(remote) = self.remotes.iter_mut().find(|r| r.id == at.replica) {
            remote.fetch(at, end, now);
        }
    }

    /// Whether `remote` may be in an ISR: active, and heard of in this life or of unknown epoch.
    fn is_eligible(remote: &Remote, brokers: &Brokers) -> bool {
        let (Some(told), Some(known)) = (remote.broker_epoch, brokers.active_epoch(remote.id))
        else {
            return false;
        };
        told == -1 || told == known
    }

    /// How far every member of the maximal ISR has come, and every follower that is caught up and
    /// about to join it: or the high watermark would run away from it for ever. `None` while the
    /// committed ISR is below `min.insync.replicas`.
    #[must_use]
    pub fn reached(&self, standing: &Standing<'_>) -> Option<Offset> {
        if self.isr.len() < self.min_isr(standing.min_isr) {
            return None;
        }
        let mut reached = standing.own;
        if mutant(Mutant::HighWatermarkIsLogEnd) {
            return Some(reached);
        }
        for remote in self.remotes.iter().filter(|r| r.log_end < standing.own) {
            let counts = self.isr.contains(&remote.id)
                || self.is_added(remote.id)
                || (remote.is_caught_up(standing.end, standing.now, standing.lag_max)
                    && Self::is_eligible(remote, standing.brokers));
            if counts {
                reached = reached.min(remote.log_end);
            }
        }
        Some(reached)
    }

    /// The lowest log start offset of this replica, whose own is `own`, and of the followers on
    /// brokers that are alive: below it nobody has records (`Partition.lowWatermarkIfLeader`). -1
    /// while a follower has yet to tell its own.
    #[must_use]
    pub fn low_watermark(&self, own: Offset, brokers: &Brokers) -> Offset {
        let alive = self.remotes.iter().filter(|r| brokers.is_alive(r.id));
        alive.map(|r| r.log_start).fold(own, Offset::min)
    }

    /// Whether [`Leader::propose`] has something that is not for time to bring about.
    #[must_use]
    pub fn is_due(&self, standing: &Standing<'_>) -> bool {
        match &self.proposed {
            Some(proposed) => !proposed.sent && !proposed.stale,
            None => {
                self.recovery == LeaderRecoveryState::Recovering
                    || self.remotes.iter().any(|r| self.may_join(r, standing))
            }
        }
    }

    /// A follower may join once it has all that is committed and has come into this leader's
    /// epoch: before, it may lack what earlier leaders committed. One that lacks anything must be
    /// heard of, or it would join only to be put out again.
    fn may_join(&self, remote: &Remote, standing: &Standing<'_>) -> bool {
        let recently = |at| standing.now.since(at) <= standing.lag_max;
        (remote.log_end == standing.end || remote.fetched.is_some_and(recently))
            && remote.log_end >= standing.high_watermark
            && remote.log_end >= self.epoch_start
            && !self.isr.contains(&remote.id)
            && Self::is_eligible(remote, standing.brokers)
    }

    /// What to ask the controller for now, if anything: a proposal that must be sent again, an
    /// expansion, a shrink, or the end of recovery. It counts as sent with this.
    pub fn propose(
        &mut self,
        partition_epoch: i32,
        standing: &Standing<'_>,
    ) -> Option<IsrProposal> {
        if let Some(proposed) = &mut self.proposed {
            let again = !proposed.sent && !proposed.stale;
            proposed.sent |= again;
            return again.then(|| proposed.proposal.clone());
        }
        let joins = |r: &&Remote| self.may_join(r, standing);
        let mut isr: Vec<NodeId> = self.isr.to_vec();
        isr.extend(self.remotes.iter().filter(joins).map(|r| r.id));
        if isr.len() == self.isr.len() {
            isr.retain(|id| !self.is_out_of_sync(*id, standing));
        }
        let recovered = self.recovery == LeaderRecoveryState::Recovering;
        if isr.len() == self.isr.len() && !recovered {
            return None;
        }
        let with_epoch = |id: NodeId| (id, self.broker_epoch(id, standing.brokers));
        let proposal = IsrProposal {
            leader_epoch: self.epoch,
            partition_epoch,
            isr: isr.into_iter().map(with_epoch).collect(),
            recovery: LeaderRecoveryState::Recovered,
        };
        if mutant(Mutant::ShrinkWithoutController) && proposal.isr.len() < self.isr.len() {
            self.isr = proposal.isr.iter().map(|(id, _)| *id).collect();
            return None;
        }
        let proposed = Proposed { proposal: proposal.clone(), sent: true, stale: false };
        self.proposed = Some(Box::new(proposed));
        Some(proposal)
    }

    fn is_out_of_sync(&self, id: NodeId, standing: &Standing<'_>) -> bool {
        let remote = self.remotes.iter().find(|r| r.id == id);
        let caught_up = |r: &Remote| r.is_caught_up(standing.end, standing.now, standing.lag_max);
        id != self.me && !remote.is_some_and(caught_up)
    }

    /// The epoch under which a member is proposed. Of one that has not fetched yet none is known,
    /// and need not be: if it restarts, the controller takes it out of the ISR itself.
    fn broker_epoch(&self, id: NodeId, brokers: &Brokers) -> i64 {
        if id == self.me {
            return brokers.active_epoch(id).unwrap_or(-1);
        }
        self.remotes.iter().find(|r| r.id == id).and_then(|r| r.broker_epoch).unwrap_or(-1)
    }

    /// The controller answered `proposal`. An answer to another one than the present changes
    /// nothing.
    pub fn answered(
        &mut self,
        proposal: &IsrProposal,
        answer: Result<IsrAnswer, ErrorCode>,
    ) -> IsrNext {
        let Some(proposed) = self.proposed.as_mut().filter(|p| p.proposal == *proposal) else {
            return IsrNext::Wait;
        };
        match answer {
            Ok(answer) => {
                let fits = answer.leader_epoch == proposal.leader_epoch
                    && answer.partition_epoch >= proposal.partition_epoch;
                if !fits {
                    proposed.stale = true;
                    return IsrNext::Wait;
                }
                self.isr = answer.isr.into();
                self.recovery = proposal.recovery;
                self.proposed = None;
                IsrNext::Committed(answer.partition_epoch)
            }
            // The controller knew this partition epoch and did not do it: nothing is open.
            Err(ErrorCode::IneligibleReplica | ErrorCode::OperationNotAttempted) => {
                self.proposed = None;
                IsrNext::AskAgain
            }
            Err(
                ErrorCode::UnknownTopicId
                | ErrorCode::UnknownTopicOrPartition
                | ErrorCode::FencedLeaderEpoch
                | ErrorCode::InvalidUpdateVersion
                | ErrorCode::InvalidRequest
                | ErrorCode::NewLeaderElected,
            ) => {
                proposed.stale = true;
                IsrNext::Wait
            }
            Err(_) => {
                proposed.sent = false;
                IsrNext::AskAgain
            }
        }
    }

    /// Whether somebody must look again when time has passed: a follower lags that is in the ISR,
    /// or that the high watermark waits for.
    #[must_use]
    pub fn lags(&self, standing: &Standing<'_>) -> bool {
        let lags = |r: &Remote| {
            let counts = self.isr.contains(&r.id)
                || r.is_caught_up(standing.end, standing.now, standing.lag_max);
            counts && r.log_end != standing.end
        };
        self.remotes.iter().any(lags)
    }

    /// Whether the high watermark waits for followers, and each of them has been silent for longer
    /// than `silence`.
    #[must_use]
    pub fn hears_nobody(&self, now: Mono, silence: Duration) -> bool {
        let mut others = self.remotes.iter().filter(|r| self.isr.contains(&r.id)).peekable();
        let silent = |r: &Remote| r.fetched.is_none_or(|at| now.since(at) > silence);
        others.peek().is_some() && others.all(silent)
    }

    /// Whether somebody looks again when time has passed.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watched
    }

    /// Notes whether somebody does.
    pub fn set_watched(&mut self, watched: bool) {
        self.watched = watched;
    }
}
