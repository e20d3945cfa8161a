//! Changes of the voters (KIP-853): one at a time, a new voter catches up first, and a voter is
//! its node id and its directory. A controller that is no voter keeps the log as a learner.
//! Uses `base`.

use std::{sync::Arc, time::Duration};

use openraft::{
    ChangeMembers,
    async_runtime::watch::WatchReceiver as _,
    errors::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::{
    sync::{Mutex, MutexGuard, watch},
    time::{Instant, timeout_at},
};

use super::{
    machine::Raft,
    peers::Peers,
    settings::{ControllerEndpoint, Leadership, Voter, VoterChangeError, VoterKey},
    types::{self, Peer, Voters},
};
use crate::base::{NodeId, Uuid};

/// Entries that a new voter may lack: it gets them while it is being added.
const CAUGHT_UP_LAG: u64 = 8;
/// A learner is looked at so often while it catches up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

type Change = ChangeMembers<NodeId, Peer>;

/// See the file's head.
#[derive(Clone)]
pub(crate) struct VoterChanges {
    pub(crate) raft: Raft,
    pub(crate) peers: Arc<Peers>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// The voters are recorded, not configured.
    pub(crate) dynamic: bool,
    /// The listener by which controllers reach one another.
    pub(crate) listener_name: String,
    /// Held while a change is under way.
    pub(crate) one: Arc<Mutex<()>>,
}

impl std::fmt::Debug for VoterChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VoterChanges").field("dynamic", &self.dynamic).finish_non_exhaustive()
    }
}

impl VoterChanges {
    /// The members as of the last entry of this node's log.
    pub(crate) fn members(&self) -> Voters {
        self.raft.server_metrics().borrow_watched().membership_config.membership().clone()
    }

    /// The voters, by id.
    pub(crate) fn voters(&self) -> Vec<Voter> {
        let members = self.members();
        let mut ids: Vec<_> = members.voter_ids().collect();
        ids.sort_unstable();
        ids.dedup();
        let voter = |id: &NodeId| members.get_node(id).map(|node| self.peers.voter(*id, node));
        ids.iter().filter_map(voter).collect()
    }

    /// Makes `key` a voter, once it has caught up.
    ///
    /// # Errors
    /// See [`VoterChangeError`].
    pub(crate) async fn add(
        &self,
        key: VoterKey,
        endpoints: &[ControllerEndpoint],
        timeout: Duration,
    ) -> Result<(), VoterChangeError> {
        let deadline = Instant::now() + timeout;
        let peer = self.peer(key, endpoints)?;
        let (_one, members) = self.begin(deadline).await?;
        if members.voter_ids().any(|id| id == key.id) {
            return Err(VoterChangeError::Duplicate(key));
        }
        let known = members.get_node(&key.id).cloned();
        let added = async {
            self.make_learner(key.id, peer, known.as_ref(), deadline).await?;
            self.catch_up(key, deadline).await?;
            self.commit(Change::AddVoterIds([key.id].into()), deadline).await
        };
        let added = added.await;
        if added.is_err() && known.is_none() {
            // It may have been a wrong address. A controller that lives comes back by itself.
            let grace = Instant::now() + Duration::from_secs(1);
            if let Err(e) = self.commit(Change::RemoveNodes([key.id].into()), grace).await {
                tracing::warn!(voter = %key, "was not added and is still sent the log: {e}");
            }
        }
        added
    }

    /// Makes `key` no voter.
    ///
    /// # Errors
    /// See [`VoterChangeError`].
    pub(crate) async fn remove(
        &self,
        key: VoterKey,
        timeout: Duration,
    ) -> Result<(), VoterChangeError> {
        let deadline = Instant::now() + timeout;
        let (_one, members) = self.begin(deadline).await?;
        self.find(&members, key)?;
        if members.voter_ids().count() == 1 {
            return Err(VoterChangeError::Invalid(format!(
                "{key} is the only voter: a quorum cannot be without"
            )));
        }
        self.commit(Change::RemoveVoters([key.id].into()), deadline).await
    }

    /// Records where `key`, a voter, listens.
    ///
    /// # Errors
    /// See [`VoterChangeError`].
    pub(crate) async fn update(
        &self,
        key: VoterKey,
        endpoints: &[ControllerEndpoint],
        timeout: Duration,
    ) -> Result<(), VoterChangeError> {
        let deadline = Instant::now() + timeout;
        let peer = self.peer(key, endpoints)?;
        let (_one, members) = self.begin(deadline).await?;
        if *self.find(&members, key)? == peer {
            return Ok(());
        }
        self.peers.learn(key.id, &peer);
        self.commit(Change::SetNodes([(key.id, peer)].into()), deadline).await
    }

    /// A controller says that it is there: a voter that moved is recorded anew, any other is sent
    /// the log from now on and, if it asks for it, made a voter.
    ///
    /// # Errors
    /// See [`VoterChangeError`].
    pub(crate) async fn enrol(
        &self,
        node: &Voter,
        as_voter: bool,
        timeout: Duration,
    ) -> Result<(), VoterChangeError> {
        let endpoint = ControllerEndpoint {
            name: self.listener_name.clone(),
            host: node.host.clone(),
            port: node.port,
        };
        let key = node.key();
        let is_voter = self.members().voter_ids().any(|id| id == key.id);
        match (is_voter, as_voter) {
            (true, _) => self.update(key, &[endpoint], timeout).await,
            (false, true) => self.add(key, &[endpoint], timeout).await,
            (false, false) => {
                let deadline = Instant::now() + timeout;
                let peer = self.peer(key, &[endpoint])?;
                let (_one, members) = self.begin(deadline).await?;
                let known = members.get_node(&key.id).cloned();
                self.make_learner(key.id, peer, known.as_ref(), deadline).await
            }
        }
    }

    /// Ends what a leader before this one left half done: leaves a joint set of voters.
    pub(crate) async fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        match self.begin(deadline).await {
            Ok((_one, members)) if members.get_joint_config().len() > 1 => {
                let nothing = Change::AddVoterIds([].into());
                if let Err(e) = self.commit(nothing, deadline).await {
                    tracing::warn!("a change of the voters is still half done: {e}");
                }
            }
            _ => {}
        }
    }

    /// Sends the log no longer to a learner.
    pub(crate) async fn forget(&self, id: NodeId) {
        let deadline = Instant::now() + Duration::from_secs(5);
        if let Ok((_one, members)) = self.begin(deadline).await
            && !members.voter_ids().any(|v| v == id)
            && let Err(e) = self.commit(Change::RemoveNodes([id].into()), deadline).await
        {
            tracing::warn!(controller = id.0, "is still sent the log: {e}");
        }
    }

    fn find<'a>(&self, members: &'a Voters, key: VoterKey) -> Result<&'a Peer, VoterChangeError> {
        let is_voter = members.voter_ids().any(|id| id == key.id);
        let node = members.get_node(&key.id).filter(|n| n.directory_id == key.directory_id);
        node.filter(|_| is_voter).ok_or(VoterChangeError::NotFound(key))
    }

    fn peer(
        &self,
        key: VoterKey,
        endpoints: &[ControllerEndpoint],
    ) -> Result<Peer, VoterChangeError> {
        if key.id.0 < 0 || key.directory_id == Uuid::ZERO {
            return Err(VoterChangeError::Invalid(format!("{key} is no valid voter")));
        }
        let own = endpoints.iter().find(|e| e.name == self.listener_name);
        let Some(e) = own.filter(|e| !e.host.is_empty() && e.port != 0) else {
            return Err(VoterChangeError::Invalid(format!(
                "there is no endpoint of {key} for the listener {}",
                self.listener_name
            )));
        };
        Ok(Peer { host: e.host.clone(), port: e.port, directory_id: key.directory_id })
    }

    /// The right to make the next change, and the members as they are.
    async fn begin(
        &self,
        deadline: Instant,
    ) -> Result<(MutexGuard<'_, ()>, Voters), VoterChangeError> {
        let leadership = *self.leadership.borrow();
        if !leadership.is_self {
            return Err(VoterChangeError::NotLeader { hint: leadership.leader });
        }
        if !self.dynamic {
            return Err(VoterChangeError::Static);
        }
        let under_way = "an earlier change of the voters is not done";
        let one = timeout_at(deadline, self.one.lock());
        let one = one.await.map_err(|_| VoterChangeError::TimedOut(under_way.to_owned()))?;
        let metrics = self.raft.server_metrics().borrow_watched().clone();
        if metrics.membership_config != metrics.committed_membership_config {
            return Err(VoterChangeError::TimedOut(under_way.to_owned()));
        }
        Ok((one, metrics.membership_config.membership().clone()))
    }

    /// Lets the log be sent to `id`.
    async fn make_learner(
        &self,
        id: NodeId,
        peer: Peer,
        known: Option<&Peer>,
        deadline: Instant,
    ) -> Result<(), VoterChangeError> {
        if known == Some(&peer) {
            return Ok(());
        }
        if known.is_some_and(|k| k.directory_id != peer.directory_id) {
            // What is known of the other disk's log must be forgotten.
            self.commit(Change::RemoveNodes([id].into()), deadline).await?;
        }
        self.peers.learn(id, &peer);
        self.commit(Change::SetNodes([(id, peer)].into()), deadline).await
    }

    async fn catch_up(&self, key: VoterKey, deadline: Instant) -> Result<(), VoterChangeError> {
        let metrics = self.raft.metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                let Some(replication) = &now.replication else {
                    return Err(VoterChangeError::NotLeader { hint: now.current_leader });
                };
                let has = replication.get(&key.id).and_then(|id| id.as_ref()).map(|id| id.index);
                let end = now.last_log_index.unwrap_or(0);
                if has.is_some_and(|has| has.saturating_add(CAUGHT_UP_LAG) >= end) {
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                let why = format!("{key} is lagging behind, or does not answer");
                return Err(VoterChangeError::TimedOut(why));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn commit(&self, change: Change, deadline: Instant) -> Result<(), VoterChangeError> {
        let late = || VoterChangeError::TimedOut("the change was not committed in time".to_owned());
        let changed = timeout_at(deadline, self.raft.change_membership(change, true));
        match changed.await.map_err(|_| late())? {
            Ok(_) => {
                tracing::info!(members = %self.members(), "the members of the quorum changed");
                Ok(())
            }
            Err(RaftError::APIError(e)) => Err(refused(e)),
            Err(RaftError::Fatal(e)) => Err(VoterChangeError::Fatal(e.to_string())),
        }
    }
}

fn refused(e: ClientWriteError<types::TypeConfig>) -> VoterChangeError {
    match e {
        ClientWriteError::ForwardToLeader(to) => VoterChangeError::NotLeader { hint: to.leader_id },
        ClientWriteError::ChangeMembershipError(ChangeMembershipError::EmptyMembership(e)) => {
            VoterChangeError::Invalid(e.to_string())
        }
        other => VoterChangeError::TimedOut(other.to_string()),
    }
}
