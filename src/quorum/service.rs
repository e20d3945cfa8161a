//! The answering side of Raft's messages: checks the caller's cluster, translates, asks the
//! member. Uses `base`, `pb`.

use std::sync::Arc;

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse,
};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    checkpoint::{CheckpointDir, Incoming},
    entry,
    machine::Raft,
    network::{CLUSTER_ID, DIRECTORY_ID, INCONSISTENT_CLUSTER_ID, NODE_ID},
    types::{self, BadMessage, CheckpointMeta, RaftCheckpoint, TypeConfig},
};
use crate::{
    base::{NodeId, Uuid},
    pb::quorum::{self as pb, raft_server},
};

/// Checks that a call belongs to this cluster.
#[derive(Debug, Clone)]
pub(crate) struct Doorman {
    /// This cluster's id.
    pub(crate) cluster_id: Arc<str>,
}

/// Who calls, as the call says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visitor {
    /// The caller's node id.
    pub(crate) node_id: NodeId,
    /// Id of its metadata log directory; zero if it gave none.
    pub(crate) directory_id: Uuid,
}

impl Doorman {
    /// The caller, if it is of this cluster. A call without a cluster id is let in, as Kafka does.
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
            let why = format!(
                "{INCONSISTENT_CLUSTER_ID}: node {node_id} is of cluster {theirs}, \
                 this node is of cluster {ours}"
            );
            tracing::error!("{why}");
            return Err(Status::failed_precondition(why));
        }
        let directory_id = text(DIRECTORY_ID).and_then(|s| s.parse().ok()).unwrap_or_default();
        Ok(Visitor { node_id, directory_id })
    }
}

impl From<BadMessage> for Status {
    fn from(e: BadMessage) -> Self {
        Self::invalid_argument(e.to_string())
    }
}

/// The member cannot answer: it has stopped.
fn stopped(e: impl std::fmt::Display) -> Status {
    Status::unavailable(e.to_string())
}

/// Raft's messages, answered by this member.
pub(crate) struct RaftService {
    pub(crate) raft: Raft,
    pub(crate) doorman: Doorman,
    pub(crate) checkpoints: Arc<CheckpointDir>,
}

fn vote_request(r: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, BadMessage> {
    Ok(VoteRequest {
        vote: types::vote_from_pb(r.vote)?,
        last_log_id: types::log_id_from_pb(r.last_log_id)?,
        leadership_transfer: r.leadership_transfer,
    })
}

fn vote_reply(r: &VoteResponse<TypeConfig>) -> Response<pb::VoteReply> {
    Response::new(pb::VoteReply {
        vote: Some(types::vote_to_pb(&r.vote)),
        granted: r.vote_granted,
        last_log_id: r.last_log_id.as_ref().map(types::log_id_to_pb),
    })
}

fn append_request(r: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let entries: Result<Vec<_>, _> = r.batches.iter().map(entry::decode).collect();
    Ok(AppendEntriesRequest {
        vote: types::vote_from_pb(r.vote)?,
        prev_log_id: types::log_id_from_pb(r.prev_log_id)?,
        entries: entries.map_err(|e| Status::invalid_argument(e.to_string()))?,
        leader_commit: types::log_id_from_pb(r.leader_commit)?,
    })
}

fn append_reply(r: AppendEntriesResponse<TypeConfig>) -> Response<pb::AppendReply> {
    use pb::append_reply::Result as Answer;
    let result = match r {
        AppendEntriesResponse::Success => Answer::Success(pb::Done {}),
        AppendEntriesResponse::PartialSuccess(last) => {
            Answer::Partial(pb::Partial { last: last.as_ref().map(types::log_id_to_pb) })
        }
        AppendEntriesResponse::Conflict => Answer::Conflict(pb::Done {}),
        AppendEntriesResponse::HigherVote(v) => Answer::HigherVote(types::vote_to_pb(&v)),
    };
    Response::new(pb::AppendReply { result: Some(result) })
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        self.doorman.admit(request.metadata())?;
        let answer = self.raft.vote(vote_request(request.into_inner())?).await;
        Ok(vote_reply(&answer.map_err(stopped)?))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        self.doorman.admit(request.metadata())?;
        let answer = self.raft.pre_vote(vote_request(request.into_inner())?).await;
        Ok(vote_reply(&answer.map_err(stopped)?))
    }

    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendReply>, Status> {
        self.doorman.admit(request.metadata())?;
        let answer = self.raft.append_entries(append_request(request.into_inner())?).await;
        Ok(append_reply(answer.map_err(stopped)?))
    }

    async fn install_checkpoint(
        &self,
        request: Request<Streaming<pb::CheckpointPart>>,
    ) -> Result<Response<pb::CheckpointReply>, Status> {
        self.doorman.admit(request.metadata())?;
        let mut parts = request.into_inner();
        let first = parts.message().await?.ok_or(BadMessage("checkpoint part"))?;
        let vote = types::vote_from_pb(first.vote)?;
        let last = types::log_id_from_pb(first.last_log_id)?;
        let position = types::position(last.as_ref());
        let io = |e: std::io::Error| Status::internal(e.to_string());
        let mut incoming = Incoming::start(&self.checkpoints, position, first.total_bytes);
        let mut bytes = first.bytes;
        loop {
            incoming = tokio::task::spawn_blocking(move || incoming.and_then(|i| i.add(&bytes)))
                .await
                .map_err(stopped)?;
            match parts.message().await? {
                Some(part) => bytes = part.bytes,
                None => break,
            }
        }
        let finish = tokio::task::spawn_blocking(move || incoming.and_then(Incoming::finish));
        let (file, header) = finish.await.map_err(stopped)?.map_err(io)?;
        let meta =
            CheckpointMeta { last_log_id: header.last_log_id, last_membership: header.voters };
        let checkpoint = RaftCheckpoint { meta, snapshot: file };
        let answer = self.raft.install_full_snapshot(vote, checkpoint).await.map_err(stopped)?;
        Ok(Response::new(pb::CheckpointReply { vote: Some(types::vote_to_pb(&answer.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferReply>, Status> {
        self.doorman.admit(request.metadata())?;
        let r = request.into_inner();
        let transfer = TransferLeaderRequest::new(
            types::vote_from_pb(r.from)?,
            NodeId(r.to),
            types::log_id_from_pb(r.last_log_id)?,
        );
        let answer = self.raft.handle_transfer_leader(transfer).await.map_err(stopped)?;
        let refused = answer.err().map_or_else(String::new, |e| e.to_string());
        Ok(Response::new(pb::TransferReply { refused }))
    }
}
