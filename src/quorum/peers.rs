//! Where the other controllers listen, one gRPC channel to each, and whether they answer: shared
//! by all links to peers, so that a changed address is used at once. Uses `base`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tonic::transport::Channel;

use super::{
    network::Caller,
    settings::{QuorumTimeouts, Voter},
    types::Peer,
};
use crate::base::{NodeId, Uuid};

/// One peer.
#[derive(Debug)]
struct Known {
    voter: Voter,
    channel: Option<Channel>,
    /// Why it did not answer the last time; `None` if it did, or was not asked.
    silent: Option<String>,
}

/// The other controllers by id.
#[derive(Debug)]
pub(crate) struct Peers {
    caller: Caller,
    timeouts: QuorumTimeouts,
    /// Where the configuration says the voters are; it is newer than what the log says.
    configured: Vec<Voter>,
    known: Mutex<BTreeMap<NodeId, Known>>,
}

impl Peers {
    pub(crate) fn new(
        caller: Caller,
        timeouts: QuorumTimeouts,
        configured: Vec<Voter>,
    ) -> Arc<Self> {
        Arc::new(Self { caller, timeouts, configured, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeId, Known>> {
        // A panic aborts the process in production; in tests the value is as good as before.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where `id` listens, by the configuration or else by the log.
    pub(crate) fn voter(&self, id: NodeId, node: &Peer) -> Voter {
        let configured = self.configured.iter().find(|v| v.id == id);
        let (host, port) = match configured {
            Some(v) => (v.host.clone(), v.port),
            None => (node.host.clone(), node.port),
        };
        Voter { id, directory_id: node.directory_id, host, port }
    }

    /// The log says where `id` listens, and with which directory.
    pub(crate) fn learn(&self, id: NodeId, node: &Peer) {
        let voter = self.voter(id, node);
        let mut known = self.known();
        if known.get(&id).is_some_and(|k| k.voter == voter) {
            return;
        }
        let channel = match self.caller.channel(&voter.authority(), &self.timeouts) {
            Ok(channel) => Some(channel),
            Err(e) => {
                tracing::error!(peer = id.0, address = voter.authority(), "{e}");
                None
            }
        };
        known.insert(id, Known { voter, channel, silent: None });
    }

    /// The channel to `id` and the directory that it is expected to have; `None` if its address
    /// is none.
    pub(crate) fn channel(&self, id: NodeId) -> Option<(Channel, Uuid)> {
        let known = self.known();
        let peer = known.get(&id)?;
        Some((peer.channel.clone()?, peer.voter.directory_id))
    }

    /// Where `id` listens.
    pub(crate) fn address(&self, id: NodeId) -> Option<Voter> {
        self.known().get(&id).map(|k| k.voter.clone())
    }

    /// `id` answered, or not, and why; whether that is news.
    pub(crate) fn heard(&self, id: NodeId, silent: Option<String>) -> bool {
        let mut known = self.known();
        let Some(peer) = known.get_mut(&id) else { return false };
        let at = peer.voter.authority();
        match (&peer.silent, &silent) {
            (None, Some(why)) => tracing::warn!(controller = id.0, at, "does not answer: {why}"),
            (Some(_), None) => tracing::info!(controller = id.0, at, "answers again"),
            _ => {}
        }
        let news = peer.silent != silent;
        peer.silent = silent;
        news
    }

    /// Those of `ids` that did not answer when they were last asked, and why.
    pub(crate) fn silent(&self, ids: &[NodeId]) -> Vec<String> {
        let known = self.known();
        let silent = ids.iter().filter_map(|id| {
            let peer = known.get(id)?;
            let why = peer.silent.as_ref()?;
            Some(format!("{id} ({}: {why})", peer.voter.authority()))
        });
        silent.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_says_where_and_the_log_says_which_directory() {
        let at = |host: &str, port| Voter {
            id: NodeId(2),
            directory_id: Uuid::ZERO,
            host: host.into(),
            port,
        };
        let dial = Arc::new(crate::quorum::dial::TcpDial);
        let caller = Caller::new("c", NodeId(1), Uuid::ONE, dial).unwrap();
        let peers = Peers::new(caller, QuorumTimeouts::default(), vec![at("new", 2)]);
        let node = Peer { host: "old".into(), port: 1, directory_id: Uuid::ONE };
        let found = peers.voter(NodeId(2), &node);
        assert_eq!(found, Voter { directory_id: Uuid::ONE, ..at("new", 2) });
        assert_eq!(peers.voter(NodeId(3), &node).authority(), "old:1");
    }
}
