//! A leader that stops hands leadership over first, if there is anybody who can take it: the voter
//! that has most of the log and whose process is not gone, while a majority of them is there to
//! elect it. Uses `base`.

use std::time::Duration;

use openraft::{ServerState, async_runtime::watch::WatchReceiver as _};
use tokio::time::Instant;

use super::{machine::Raft, network::Caller, settings::Voter, voters::VoterChanges};
use crate::base::NodeId;

/// It waits so long for another to take over.
const PATIENCE: Duration = Duration::from_secs(1);
/// While it waits, it looks so often whether the other is still there.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// See the file's head.
pub(crate) struct Handover<'a> {
    pub(crate) raft: &'a Raft,
    pub(crate) node_id: NodeId,
    pub(crate) caller: &'a Caller,
    pub(crate) changes: &'a VoterChanges,
}

impl Handover<'_> {
    /// Returns once this member does not lead, or knows that nobody takes over. Whether there is still
    /// a quorum without it.
    pub(crate) async fn run(self) -> bool {
        let give_up = Instant::now() + PATIENCE;
        while let Some(successors) = self.successors() {
            let voters = self.changes.voters();
            if self.caller.majority_gone(&voters).await {
                tracing::info!(
                    "a majority of the controllers is gone: there is no quorum to hand over to"
                );
                return false;
            }
            let Some(to) = self.first_alive(&successors).await else { return false };
            if self.raft.trigger().transfer_leader(to.id).await.is_err() {
                return false;
            }
            while !self.taken_over().await {
                if Instant::now() >= give_up {
                    tracing::warn!(successor = to.id.0, "no other controller took over in time");
                    return false;
                }
                if self.caller.refuses(to.authority()).await {
                    break;
                }
            }
        }
        true
    }

    /// The other voters, who has most of the log first; `None` if this member does not lead, or
    /// there are none.
    fn successors(&self) -> Option<Vec<Voter>> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let replication = now.replication.as_ref().filter(|_| now.state == ServerState::Leader)?;
        let mut others = self.changes.voters();
        others.retain(|v| v.id != self.node_id);
        others.sort_by_key(|v| std::cmp::Reverse(replication.get(&v.id).copied().flatten()));
        (!others.is_empty()).then_some(others)
    }

    async fn first_alive<'a>(&self, successors: &'a [Voter]) -> Option<&'a Voter> {
        for voter in successors {
            if !self.caller.refuses(voter.authority()).await {
                return Some(voter);
            }
        }
        None
    }

    /// Waits for a moment.
    async fn taken_over(&self) -> bool {
        let wait = self.raft.wait(Some(LOOK_EVERY));
        let over = wait.metrics(|m| m.state != ServerState::Leader, "handed over");
        over.await.is_ok()
    }
}
