//! A follower's watch over its leader's process: it holds a stream open to the leader, and a broken
//! stream whose address then refuses connections, or whose other end no longer leads, is a failure
//! signal. The follower lets go of the leader's lease and asks for votes; a majority must have seen
//! the same, or have waited for the timeouts, to grant them. Uses `base`, `pb`.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{
    ServerState, async_runtime::watch::WatchReceiver as _, raft::TransferLeaderRequest,
};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::{
    machine::Raft,
    network::{Caller, NOT_LEADER},
    peers::Peers,
    settings::{QuorumTimeouts, Voter},
    types::Vote,
};
use crate::{
    base::NodeId,
    pb::quorum::{self as pb, raft_client::RaftClient},
};

/// A leader whose stream broke is dialled for so long.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause before the next stream to a leader that lives.
const AGAIN: Duration = Duration::from_millis(20);
/// Followers ask for votes one after the other, so far apart, lest they split the votes: longer
/// than an election takes on a slow disk.
const STAGGER: Duration = Duration::from_millis(150);
/// Time for an election to end before the same follower asks again.
const ROUND: Duration = Duration::from_millis(400);
/// So often: the others may notice later, or the votes were split.
const ROUNDS: usize = 4;

/// When this member last said yes to another that asked for its vote, or whether it would get it.
#[derive(Debug, Default)]
pub(crate) struct Granted(Mutex<Option<Instant>>);

impl Granted {
    /// It said yes just now.
    pub(crate) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn lately(&self) -> bool {
        let at = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_some_and(|at| at.elapsed() < ROUND)
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
            let vote = metrics.borrow_and_update().vote;
            let leader = vote.leader_id.voted_for;
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
        let dial = self.caller.dial(leader.authority());
        match timeout(DIAL_TIMEOUT, dial).await {
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Fate::Gone,
            _ => Fate::Unknown,
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
        tokio::time::sleep(turn).await;
        for round in 0..ROUNDS {
            let (now, state) = {
                let metrics = self.raft.server_metrics();
                let now = metrics.borrow_watched();
                (now.vote, now.state)
            };
            let led = state == ServerState::Leader || (now.committed && now != vote);
            // Before its own first, a change is another's election, as of the leader's successor.
            if led || (round == 0 && now != vote) {
                return;
            }
            // Another follower's election may be under way.
            if !self.granted.lately() && self.raft.trigger().elect(true).await.is_err() {
                return;
            }
            tokio::time::sleep(ROUND + turn).await;
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
