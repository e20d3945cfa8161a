//! The types that Raft is instantiated with, and their translation to and from the wire. Nothing
//! of openraft leaves this room. Uses `base`, `pb`.

use std::fmt;

use bytes::Bytes;
use openraft::{
    EntryPayload, Membership, StoredMembership,
    impls::{self, leader_id_std},
    storage::{Snapshot, SnapshotMeta},
    vote::RaftLeaderId as _,
};

use super::settings::Voter;
use crate::{
    base::{LeaderEpoch, NodeId, Uuid},
    metadata::Position,
    pb::quorum as pb,
};

/// What the leader asks to be appended: the records, and the epoch in which they were decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// The epoch whose leader decided.
    pub(crate) epoch: LeaderEpoch,
    /// When it decided, in milliseconds since the Unix epoch.
    pub(crate) timestamp_ms: i64,
    /// A `metadata.RecordBatch`, encoded.
    pub(crate) records: Bytes,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of epoch {}", self.records.len(), self.epoch)
    }
}

/// What became of a committed proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The image has it.
    Yes,
    /// It was appended in a later epoch than it was decided in, and changed nothing.
    Superseded,
}

/// A voter as Raft's membership keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Peer {
    /// Where it listens.
    pub(crate) host: String,
    /// Port of its controller listener.
    pub(crate) port: u16,
    /// Id of its metadata log directory; zero where the voters are configured, not learned.
    pub(crate) directory_id: Uuid,
}

openraft::declare_raft_types!(
    /// Raft over metadata records, with at most one leader a term, as Kafka counts epochs.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = NodeId,
        Node = Peer,
        Term = LeaderEpoch,
        LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
        Vote = impls::Vote<Self::LeaderId>,
        Payload = EntryPayload<Self::D, Self::NodeId, Self::Node>,
        AsyncRuntime = impls::TokioRuntime,
);

pub(crate) type LeaderId = leader_id_std::LeaderId<LeaderEpoch, NodeId>;
pub(crate) type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = impls::Vote<LeaderId>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Voters = Membership<NodeId, Peer>;
pub(crate) type StoredVoters = StoredMembership<CommittedLeaderId, NodeId, Peer>;
pub(crate) type CheckpointMeta = SnapshotMeta<CommittedLeaderId, NodeId, Peer>;
pub(crate) type RaftCheckpoint<D> = Snapshot<CommittedLeaderId, NodeId, Peer, D>;

/// The log id of `index` in `term`.
pub(crate) fn log_id(term: LeaderEpoch, index: u64) -> LogId {
    LogId { leader_id: LeaderId::new(term, NodeId::default()).to_committed(), index }
}

/// The term of a log id.
pub(crate) fn term(id: &LogId) -> LeaderEpoch {
    *id.leader_id
}

/// The place in the log that a log id names; the start where there is none.
pub(crate) fn position(id: Option<&LogId>) -> Position {
    id.map_or(Position::START, |id| Position {
        epoch: term(id),
        offset: i64::try_from(id.index).unwrap_or(i64::MAX),
    })
}

/// The log id of a place in the log.
pub(crate) fn log_id_at(position: Position) -> Option<LogId> {
    u64::try_from(position.offset).ok().map(|index| log_id(position.epoch, index))
}

/// The members that `controller.quorum.voters` names.
pub(crate) fn peers(voters: &[Voter]) -> std::collections::BTreeMap<NodeId, Peer> {
    voters.iter().map(|v| (v.id, peer(v))).collect()
}

/// A voter as the membership keeps it.
pub(crate) fn peer(v: &Voter) -> Peer {
    Peer { host: v.host.clone(), port: v.port, directory_id: v.directory_id }
}

/// A member as a voter.
pub(crate) fn voter(id: NodeId, peer: &Peer) -> Voter {
    Voter { id, directory_id: peer.directory_id, host: peer.host.clone(), port: peer.port }
}

/// A message of a peer lacks a part or has a senseless one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is missing or out of range")]
pub(crate) struct BadMessage(pub(crate) &'static str);

pub(crate) fn vote_to_pb(v: &Vote) -> pb::Vote {
    pb::Vote { term: v.leader_id.term, node: v.leader_id.voted_for.0, committed: v.committed }
}

pub(crate) fn vote_from_pb(v: Option<pb::Vote>) -> Result<Vote, BadMessage> {
    let v = v.filter(|v| v.term >= 0).ok_or(BadMessage("vote"))?;
    Ok(if v.committed {
        Vote::new_committed(v.term, NodeId(v.node))
    } else {
        Vote::new(v.term, NodeId(v.node))
    })
}

pub(crate) fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId { term: term(id), index: id.index }
}

pub(crate) fn log_id_from_pb(id: Option<pb::LogId>) -> Result<Option<LogId>, BadMessage> {
    id.map(|id| {
        let fits = id.term >= 0 && i64::try_from(id.index).is_ok();
        fits.then(|| log_id(id.term, id.index)).ok_or(BadMessage("log id"))
    })
    .transpose()
}

pub(crate) fn voters_to_pb(m: &Voters) -> pb::Voters {
    let ids = |set: &std::collections::BTreeSet<NodeId>| pb::VoterSet {
        ids: set.iter().map(|id| id.0).collect(),
    };
    let node = |(id, peer): (&NodeId, &Peer)| voter_to_pb(&voter(*id, peer));
    pb::Voters {
        sets: m.get_joint_config().iter().map(ids).collect(),
        nodes: m.nodes().map(node).collect(),
    }
}

pub(crate) fn voter_to_pb(v: &Voter) -> pb::VoterNode {
    pb::VoterNode {
        id: v.id.0,
        host: v.host.clone(),
        port: u32::from(v.port),
        directory_id: Bytes::copy_from_slice(&v.directory_id.0),
    }
}

pub(crate) fn voter_from_pb(n: pb::VoterNode) -> Result<Voter, BadMessage> {
    Ok(Voter {
        id: NodeId(n.id),
        directory_id: Uuid(
            n.directory_id.as_ref().try_into().map_err(|_| BadMessage("voter directory id"))?,
        ),
        host: n.host,
        port: u16::try_from(n.port).map_err(|_| BadMessage("voter port"))?,
    })
}

pub(crate) fn voters_from_pb(v: pb::Voters) -> Result<Voters, BadMessage> {
    let mut nodes = std::collections::BTreeMap::new();
    for n in v.nodes {
        let voter = voter_from_pb(n)?;
        nodes.insert(voter.id, peer(&voter));
    }
    let sets = v.sets.into_iter().map(|s| s.ids.into_iter().map(NodeId).collect()).collect();
    Voters::new(sets, nodes).map_err(|_| BadMessage("voters"))
}
