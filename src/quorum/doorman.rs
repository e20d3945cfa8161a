//! Who may speak to this controller: nodes of this cluster only, and of two nodes with one id only
//! the one whose directory is known. Uses `base`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Status, metadata::MetadataMap};

use super::{
    network::{
        CLUSTER_ID, DIRECTORY_ID, INCONSISTENT_CLUSTER_ID, INCONSISTENT_DIRECTORY_ID, NODE_ID,
        TO_DIRECTORY_ID,
    },
    types::Voters,
};
use crate::base::{NodeId, Uuid};

/// A refusal is logged again after so long.
const SAID_FOR: Duration = Duration::from_secs(10);
/// Refusals that are remembered as logged.
const SAID_MAX: usize = 256;
/// A node that was silent for so long may come back with another directory where voters are
/// configured and their directories are not recorded.
const FACE_FADES: Duration = Duration::from_secs(10);
/// Nodes whose directories are remembered: an id that a caller makes up takes no more memory.
const FACES_MAX: usize = 1024;

/// Who calls, as the call says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor {
    /// The caller's node id.
    pub(crate) node_id: NodeId,
    /// Id of its metadata log directory; zero if it gave none.
    pub(crate) directory_id: Uuid,
}

/// Checks callers. Clones share what is remembered.
#[derive(Debug, Clone)]
pub struct Doorman {
    cluster_id: Arc<str>,
    directory_id: Uuid,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The directory that a controller's node id came with, and when it last did.
    faces: BTreeMap<NodeId, (Uuid, Instant)>,
    /// What was logged, and when.
    said: BTreeMap<String, Instant>,
}

impl Doorman {
    pub(crate) fn new(cluster_id: &str, directory_id: Uuid) -> Self {
        Self { cluster_id: cluster_id.into(), directory_id, seen: Arc::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic aborts the process in production; in tests the value is as good as before.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in callers of this cluster. A call without a cluster id is let in, as Kafka does.
    ///
    /// # Errors
    /// The status to answer with.
    pub fn check_cluster(&self, meta: &MetadataMap) -> Result<(), Status> {
        self.admit(meta).map(|_| ())
    }

    /// The caller, if it is of this cluster.
    ///
    /// # Errors
    /// The status to answer with.
    pub(crate) fn admit(&self, meta: &MetadataMap) -> Result<Visitor, Status> {
        let text = |name| meta.get(name).and_then(|v| v.to_str().ok());
        let node_id = text(NODE_ID).and_then(|s| s.parse().ok()).map_or(NodeId(-1), NodeId);
        if let Some(theirs) = text(CLUSTER_ID)
            && *theirs != *self.cluster_id
        {
            let ours = &self.cluster_id;
            return Err(self.refuse(format!(
                "{INCONSISTENT_CLUSTER_ID}: node {node_id} is of cluster {theirs}, \
                 the node it called is of cluster {ours}"
            )));
        }
        let directory_id = text(DIRECTORY_ID).and_then(|s| s.parse().ok()).unwrap_or_default();
        Ok(Visitor { node_id, directory_id })
    }

    /// The caller, if it is of this cluster, called this very disk, and has the disk that is
    /// recorded of it or, where none is, the disk that it came with before. So a voter whose disk
    /// was replaced neither votes nor is voted for, and of two nodes with one id one is heard.
    ///
    /// # Errors
    /// The status to answer with.
    pub(crate) fn admit_controller(
        &self,
        meta: &MetadataMap,
        voters: &Voters,
    ) -> Result<Visitor, Status> {
        let visitor = self.admit(meta)?;
        let to = meta.get(TO_DIRECTORY_ID).and_then(|v| v.to_str().ok()?.parse().ok());
        if to.is_some_and(|to: Uuid| to != self.directory_id) {
            return Err(self.refuse(format!(
                "{INCONSISTENT_DIRECTORY_ID}: node {} called a node with directory id {}, this \
                 one has {}",
                visitor.node_id,
                to.unwrap_or_default(),
                self.directory_id
            )));
        }
        let recorded = voters.get_node(&visitor.node_id).map(|p| p.directory_id);
        let known = match recorded.filter(|id| *id != Uuid::ZERO) {
            Some(recorded) => recorded,
            None => self.face(visitor, Instant::now()),
        };
        if known == visitor.directory_id || visitor.directory_id == Uuid::ZERO {
            return Ok(visitor);
        }
        Err(self.refuse(format!(
            "{INCONSISTENT_DIRECTORY_ID}: node {} comes with directory id {}, but is known with \
             {known}: two nodes have one id, or its disk was replaced",
            visitor.node_id, visitor.directory_id
        )))
    }

    /// The directory that the caller's id is known with by its calls.
    fn face(&self, visitor: Visitor, now: Instant) -> Uuid {
        let mut seen = self.seen();
        if seen.faces.len() >= FACES_MAX && !seen.faces.contains_key(&visitor.node_id) {
            seen.faces.retain(|_, face| now.duration_since(face.1) <= FACE_FADES);
            if seen.faces.len() >= FACES_MAX {
                return visitor.directory_id;
            }
        }
        let face = seen.faces.entry(visitor.node_id).or_insert((visitor.directory_id, now));
        if face.0 == visitor.directory_id || now.duration_since(face.1) > FACE_FADES {
            *face = (visitor.directory_id, now);
        }
        face.0
    }

    /// The directory that a controller came with; zero if it is not known.
    pub(crate) fn directory_of(&self, id: NodeId) -> Uuid {
        self.seen().faces.get(&id).map_or(Uuid::ZERO, |face| face.0)
    }

    fn refuse(&self, why: String) -> Status {
        let now = Instant::now();
        let mut seen = self.seen();
        seen.said.retain(|_, at| now.duration_since(*at) < SAID_FOR);
        if !seen.said.contains_key(&why) && seen.said.len() < SAID_MAX {
            tracing::error!("{why}");
            seen.said.insert(why.clone(), now);
        }
        Status::failed_precondition(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::{network::Caller, types::Peer};

    fn meta(cluster: &str, id: i32, own: u8, to: u8) -> MetadataMap {
        let dial = Arc::new(crate::quorum::dial::TcpDial);
        let caller = Caller::new(cluster, NodeId(id), Uuid([own; 16]), dial).unwrap();
        caller.sign_to((), Uuid([to; 16])).metadata().clone()
    }

    fn voters(directory: u8) -> Voters {
        let peer = Peer { directory_id: Uuid([directory; 16]), ..Peer::default() };
        let nodes = BTreeMap::from([(NodeId(2), peer)]);
        Voters::new(vec![nodes.keys().copied().collect()], nodes).unwrap()
    }

    #[test]
    fn another_cluster_or_disk_is_refused() {
        let door = Doorman::new("ours", Uuid([1; 16]));
        let refused = |r: Result<Visitor, Status>| r.unwrap_err().message().to_owned();
        let why = refused(door.admit(&meta("theirs", 2, 2, 0)));
        assert!(why.contains("INCONSISTENT_CLUSTER_ID") && why.contains("theirs"), "{why}");
        assert!(why.contains("ours"), "{why}");
        assert!(door.admit(&MetadataMap::new()).is_ok(), "no cluster id");

        let recorded = voters(2);
        assert!(door.admit_controller(&meta("ours", 2, 2, 1), &recorded).is_ok());
        for (own, to) in [(2, 9), (3, 1), (3, 0)] {
            let why = refused(door.admit_controller(&meta("ours", 2, own, to), &recorded));
            assert!(why.starts_with("INCONSISTENT_DIRECTORY_ID"), "{why}");
        }
    }

    #[test]
    fn of_two_nodes_with_one_id_the_first_is_heard() {
        let door = Doorman::new("ours", Uuid([1; 16]));
        let configured = voters(0);
        assert!(door.admit_controller(&meta("ours", 2, 2, 0), &configured).is_ok());
        assert!(door.admit_controller(&meta("ours", 2, 3, 0), &configured).is_err());
        let other = Visitor { node_id: NodeId(2), directory_id: Uuid([3; 16]) };
        assert_eq!(door.face(other, Instant::now() + FACE_FADES * 2), other.directory_id);
        assert_eq!(door.directory_of(NodeId(2)), other.directory_id);
        assert!(door.admit_controller(&meta("ours", 2, 2, 0), &configured).is_err());
    }
}
