//! What a quorum member does beside Raft: says who leads and resigns without a majority, makes
//! checkpoints, keeps count of followers, names voters that do not answer, and as the leader ends
//! changes of the voters that were left half done. Uses `base`, `metadata`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{
    Instant as _, ServerState, async_runtime::watch::WatchReceiver as _, metrics::RaftMetrics,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    doorman::Doorman,
    machine::{Growth, Raft},
    peers::Peers,
    roster::Roster,
    settings::Leadership,
    types::{self, TypeConfig},
    voters::VoterChanges,
};
use crate::{
    base::{LeaderEpoch, NodeId, ports::Clock},
    metadata::Position,
};

/// A learner that was silent for so long is sent the log no longer
/// (`LeaderState.OBSERVER_SESSION_TIMEOUT_MS`).
const LEARNER_FORGOTTEN: Duration = Duration::from_secs(300);
/// How often the leader looks after the members.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Voters that do not answer are named after this, and again after each [`NAMED_EVERY`].
const NAMED_AFTER: Duration = Duration::from_secs(2);
const NAMED_EVERY: Duration = Duration::from_secs(10);

/// Follows leadership.
pub(crate) struct Herald {
    pub(crate) raft: Raft,
    pub(crate) position: watch::Receiver<Position>,
    /// The leader resigns this long after a majority was last heard.
    pub(crate) lease: Duration,
    pub(crate) out: watch::Sender<Leadership>,
    /// Offset that must be applied before this member may lead again after it had resigned.
    barrier: Option<i64>,
    /// The epoch that this member was elected in, and when that was seen.
    elected: Option<(LeaderEpoch, Instant)>,
}

impl Herald {
    pub(crate) fn new(
        raft: Raft,
        position: watch::Receiver<Position>,
        lease: Duration,
        out: watch::Sender<Leadership>,
    ) -> Self {
        Self { raft, position, lease, out, barrier: None, elected: None }
    }

    /// Says who leads; `is_self` once the image has everything from before this member's epoch,
    /// and for as long as a majority answers.
    pub(crate) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        loop {
            let wake = self.tell(&metrics.borrow_and_update());
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { break },
                changed = self.position.changed() => if changed.is_err() { break },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
        // Raft has ended: nobody is known to lead.
        self.out.send_modify(|l| (l.leader, l.is_self) = (None, false));
    }

    /// Announces what `m` says; when to look again without news, if a lease is running.
    fn tell(&mut self, m: &RaftMetrics<TypeConfig>) -> Option<Instant> {
        let epoch = m.vote.leader_id.term;
        let applied = *self.position.borrow_and_update();
        let leads = m.state == ServerState::Leader && m.vote.committed;
        let until = self.heard_until(m, leads);
        let lost = until.is_some_and(|at| Instant::now() >= at);
        let led = self.out.borrow().is_self;
        if !leads {
            self.barrier = None;
        } else if lost || (self.barrier.is_some() && !led) {
            // What was proposed and not committed comes first, should a majority be heard again.
            self.barrier = m.last_log_index.and_then(|i| i64::try_from(i).ok());
        }
        let is_self = leads
            && !lost
            && m.current_leader == Some(m.id)
            && applied.epoch >= epoch
            && self.barrier.is_none_or(|at| applied.offset >= at);
        let next = Leadership { leader: m.current_leader.filter(|_| !lost), epoch, is_self };
        let was = *self.out.borrow();
        if was != next {
            if was.leader != next.leader || was.epoch != next.epoch {
                tracing::info!(leader = ?next.leader.map(|l| l.0), epoch, "quorum");
            }
            if was.is_self && lost {
                tracing::warn!(epoch, "resigned: a majority of the voters does not answer");
            }
            self.out.send_replace(next);
        }
        until.filter(|_| !lost)
    }

    /// Until when the answers of a majority let this leader lead; `None`: for ever, or it does not.
    fn heard_until(&mut self, m: &RaftMetrics<TypeConfig>, leads: bool) -> Option<Instant> {
        let epoch = m.vote.leader_id.term;
        if !leads {
            self.elected = None;
            return None;
        }
        let now = Instant::now();
        let elected = self.elected.filter(|(e, _)| *e == epoch).map_or(now, |(_, at)| at);
        self.elected = Some((epoch, elected));
        if m.membership_config.voter_ids().all(|id| id == m.id) {
            return None;
        }
        let heard = m.last_quorum_acked.and_then(|at| now.checked_sub(at.elapsed()));
        Some(heard.unwrap_or(elected).max(elected) + self.lease)
    }
}

/// Makes a checkpoint when the log grew enough, or by time if it grew at all.
pub(crate) async fn keep_checkpoints(raft: Raft, growth: Arc<Growth>, interval: Duration) {
    loop {
        let by_time = async {
            if interval.is_zero() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(interval).await;
        };
        tokio::select! {
            () = growth.due.notified() => {}
            () = by_time => if !growth.is_any() { continue },
        }
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

/// Keeps in the roster how far the other members are, while this one leads.
pub(crate) async fn watch_followers(
    raft: Raft,
    roster: Arc<Roster>,
    doorman: Doorman,
    clock: Arc<dyn Clock>,
) {
    let mut metrics = raft.data_metrics();
    while metrics.changed().await.is_ok() {
        let now_ms = clock.now().wall_ms;
        let members = raft.server_metrics().borrow_watched().membership_config.clone();
        let m = metrics.borrow_and_update();
        let Some(replication) = &m.replication else { continue };
        let leader_end = types::position(m.last_log.as_ref()).offset + 1;
        for (id, matched) in replication {
            let heard = m.heartbeat.as_ref().and_then(|h| h.get(id)).copied().flatten();
            let Some(heard) = heard else { continue };
            let age = i64::try_from(heard.elapsed().as_millis()).unwrap_or(i64::MAX);
            let end = types::position(matched.as_ref()).offset + 1;
            let recorded = members.membership().get_node(id).map(|n| n.directory_id);
            let directory = recorded.filter(|d| *d != crate::base::Uuid::ZERO);
            let directory = directory.unwrap_or_else(|| doorman.directory_of(*id));
            roster.report(*id, directory, end, leader_end, now_ms.saturating_sub(age));
        }
    }
}

/// Names the voters that do not answer for as long as they leave the quorum without a leader.
pub(crate) async fn name_the_silent(
    changes: VoterChanges,
    peers: Arc<Peers>,
    mut leadership: watch::Receiver<Leadership>,
) {
    loop {
        if leadership.wait_for(|l| l.leader.is_none()).await.is_err() {
            return;
        }
        let mut due = Instant::now() + NAMED_AFTER;
        loop {
            tokio::select! {
                found = leadership.wait_for(|l| l.leader.is_some()) => {
                    if found.is_err() {
                        return;
                    }
                    break;
                }
                () = sleep_until(due) => {}
            }
            due = Instant::now() + NAMED_EVERY;
            let ids: Vec<NodeId> = changes.voters().iter().map(|v| v.id).collect();
            let silent = peers.silent(&ids);
            if !silent.is_empty() {
                let (silent, voters) = (silent.join(", "), ids.len());
                tracing::warn!(
                    voters,
                    "the metadata quorum has no leader; these voters do not answer: {silent}"
                );
            }
        }
    }
}

/// While this member leads: ends changes of the voters that were left half done, and forgets
/// learners that are gone.
pub(crate) async fn look_after_members(changes: VoterChanges) {
    let mut leadership = changes.leadership.clone();
    let mut silent_since: BTreeMap<NodeId, Instant> = BTreeMap::new();
    while leadership.wait_for(|l| l.is_self).await.is_ok() {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = Instant::now();
        let (joint, silent) = silent_learners(&changes.raft);
        if joint {
            changes.settle().await;
        }
        silent_since.retain(|id, _| silent.contains(id));
        for id in silent {
            let since = *silent_since.entry(id).or_insert(now);
            if now.duration_since(since) > LEARNER_FORGOTTEN {
                changes.forget(id).await;
            }
        }
    }
}

/// Whether the voters are a joint set, and the learners that were silent for a while.
fn silent_learners(raft: &Raft) -> (bool, BTreeSet<NodeId>) {
    let metrics = raft.metrics();
    let m = metrics.borrow_watched();
    let members = m.membership_config.membership();
    let heard = |id: &NodeId| {
        let at = m.heartbeat.as_ref().and_then(|h| h.get(id)).copied().flatten();
        at.is_some_and(|at| at.elapsed() < LOOK_EVERY * 5)
    };
    let silent = members.learner_ids().filter(|id| !heard(id)).collect();
    (members.get_joint_config().len() > 1, silent)
}
