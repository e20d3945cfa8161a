//! A follower's watch over its leader's process: it holds a stream open to the leader, and a broken
//! stream whose address then refuses connections, or whose other end no longer leads, is a failure
//! signal. The follower lets go of the leader's lease and asks for votes; a majority must have seen
//! the same, or have waited for the timeouts, to grant them. Uses `base`, `pb`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{
    ServerState, async_runtime::watch::WatchReceiver as _, metrics::RaftServerMetrics,
    raft::TransferLeaderRequest,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};
use tonic::Status;

use super::{
    machine::Raft,
    network::{Caller, NOT_LEADER},
    peers::Peers,
    settings::{QuorumTimeouts, Voter},
    types::{TypeConfig, Vote},
};
use crate::{
    base::{Mono, NodeId, ports::Clock},
    pb::quorum::{self as pb, raft_client::RaftClient},
};

/// Pause before the next stream to a leader that lives.
const AGAIN: Duration = Duration::from_millis(20);
/// Followers ask for votes one after the other, so far apart, lest they split the votes: longer
/// than an election takes on a slow disk.
const STAGGER: Duration = Duration::from_millis(150);
/// Whether the others would vote for it is asked so often: they may notice later. The question alone
/// changes nothing.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Time for an election to end before the same follower begins another: the votes may be split.
const ROUND: Duration = Duration::from_millis(400);
/// After this the timeouts are left to decide.
const CAMPAIGN: Duration = Duration::from_millis(1600);

/// When this member last said yes to another that asked for its vote, or whether it would get it.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    at: Mutex<Option<Instant>>,
    /// Wakes who waits for its turn: another one asked in vain, whose log is behind this one's.
    overtaken: Notify,
}

impl Granted {
    /// It said yes just now.
    pub(crate) fn note(&self) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// It said no to one that has less of the log: rather this member is to be elected.
    pub(crate) fn overtook(&self) {
        self.overtaken.notify_waiters();
    }

    fn lately(&self) -> bool {
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < ROUND)
    }
}

/// The other member that this one last took the log from as its leader, and when.
#[derive(Debug)]
pub(crate) struct LeaderHeard {
    clock: Arc<dyn Clock>,
    last: Mutex<Option<(NodeId, Mono)>>,
}

impl LeaderHeard {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, last: Mutex::default() }
    }

    /// An append of `leader` was taken just now.
    pub(crate) fn note(&self, leader: NodeId) {
        let now = self.clock.now().mono;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((leader, now));
    }

    /// The last of them.
    pub(crate) fn last(&self) -> Option<(NodeId, Mono)> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the file's head.
pub(crate) struct LeaderWatch {
    pub(crate) raft: Raft,
    pub(crate) node_id: NodeId,
    pub(crate) caller: Caller,
    pub(crate) timeouts: QuorumTimeouts,
    pub(crate) peers: Arc<Peers>,
    pub(crate) granted: Arc<Granted>,
}

/// What is known of the leader once its stream has ended.
enum Fate {
    /// It does not lead any more, for certain.
    Gone,
    /// It may lead, or the way to it is broken.
    Unknown,
}

impl LeaderWatch {
    /// Watches each leader in turn.
    pub(crate) async fn run(self) {
        let mut metrics = self.raft.server_metrics();
        loop {
            let (vote, leader) = self.look(&metrics.borrow_and_update());
            let known = self.peers.address(leader).filter(|_| vote.committed);
            let Some(voter) = known.filter(|_| leader != self.node_id && vote.leader_id.term > 0)
            else {
                if metrics.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let moved_on = async {
                while metrics.borrow_and_update().vote == vote {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = moved_on => {}
                fate = self.attend(&voter, vote) => match fate {
                    Fate::Gone => self.campaign(vote).await,
                    Fate::Unknown => tokio::time::sleep(AGAIN).await,
                },
            }
        }
    }

    /// The vote, and whom it is for: a leader whose address the log names. This member may never
    /// have called it.
    fn look(&self, m: &RaftServerMetrics<TypeConfig>) -> (Vote, NodeId) {
        let leader = m.vote.leader_id.voted_for;
        if let Some(node) = m.membership_config.membership().get_node(&leader) {
            self.peers.learn(leader, node);
        }
        (m.vote, leader)
    }

    /// Holds a stream open to the leader for as long as it leads.
    async fn attend(&self, leader: &Voter, vote: Vote) -> Fate {
        let Some((channel, directory)) = self.peers.channel(leader.id) else {
            return Fate::Unknown;
        };
        let mut client = RaftClient::new(channel);
        let epoch = pb::AttendRequest { epoch: vote.leader_id.term };
        let opening = client.attend(self.caller.sign_to(epoch, directory));
        let why = match timeout(self.timeouts.request, opening).await {
            Ok(Ok(stream)) => stream.into_inner().message().await.err(),
            Ok(Err(status)) => Some(status),
            Err(_) => None,
        };
        if why.as_ref().is_some_and(not_leader) {
            return Fate::Gone;
        }
        match self.caller.refuses(leader.authority()).await {
            true => Fate::Gone,
            false => Fate::Unknown,
        }
    }

    /// The leader of `vote` is gone: no lease of it holds any longer. Asks for votes in turn.
    async fn campaign(&self, vote: Vote) {
        let leader = vote.leader_id.voted_for;
        tracing::info!(leader = leader.0, epoch = vote.leader_id.term, "the leader is gone");
        // Raft knows this as the leader's leave to elect another one.
        let leave = TransferLeaderRequest::new(vote, leader, None);
        if self.raft.handle_transfer_leader(leave).await.is_err() {
            return;
        }
        let turn = STAGGER * self.turn(leader);
        tokio::select! {
            () = tokio::time::sleep(turn) => {}
            () = self.granted.overtaken.notified() => {}
        }
        let give_up = Instant::now() + CAMPAIGN;
        let (mut asked, mut seen) = (false, (vote, Instant::now()));
        while Instant::now() < give_up {
            let (now, state) = {
                let metrics = self.raft.server_metrics();
                let now = metrics.borrow_watched();
                (now.vote, now.state)
            };
            let led = state == ServerState::Leader || (now.committed && now != vote);
            // Before it asked itself, a change is another's election, as of the leader's successor.
            if led || (!asked && now != vote) {
                return;
            }
            if now != seen.0 {
                seen = (now, Instant::now());
            }
            let election = now != vote && seen.1.elapsed() < ROUND + turn;
            // Another follower's election may be under way, or is about to be.
            if !election && !self.granted.lately() {
                asked = true;
                if self.raft.trigger().elect(true).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// How many voters other than `leader` come before this one.
    fn turn(&self, leader: NodeId) -> u32 {
        let metrics = self.raft.server_metrics();
        let members = metrics.borrow_watched().membership_config.clone();
        let before = members.voter_ids().filter(|id| *id != leader && *id < self.node_id);
        u32::try_from(before.count()).unwrap_or(u32::MAX).min(16)
    }
}

fn not_leader(status: &Status) -> bool {
    status.message().starts_with(NOT_LEADER)
}
