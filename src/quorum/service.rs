//! The answering side of Raft's messages: checks the caller, translates, asks the member. Uses
//! `base`, `pb`.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use openraft::{
    ServerState,
    async_runtime::watch::WatchReceiver as _,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
        VoteResponse,
    },
};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    attend::{Granted, LeaderHeard},
    checkpoint::{CheckpointDir, Incoming},
    doorman::Doorman,
    entry,
    machine::Raft,
    network::NOT_LEADER,
    settings::{Voter, VoterChangeError},
    types::{self, BadMessage, CheckpointMeta, RaftCheckpoint, TypeConfig},
    voters::VoterChanges,
};
use crate::{
    base::{LeaderEpoch, NodeId},
    pb::quorum::{self as pb, raft_server},
};

/// A controller that enrols as a voter is waited for so long: it is asked to catch up first.
const ENROL_TIMEOUT: Duration = Duration::from_secs(10);

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
    pub(crate) changes: Arc<VoterChanges>,
    pub(crate) granted: Arc<Granted>,
    pub(crate) heard: Arc<LeaderHeard>,
}

impl RaftService {
    fn admit(&self, meta: &MetadataMap) -> Result<(), Status> {
        let voters = self.raft.server_metrics().borrow_watched().membership_config.clone();
        self.doorman.admit_controller(meta, voters.membership()).map(|_| ())
    }

    fn voted(&self, answer: &VoteResponse<TypeConfig>) -> Response<pb::VoteReply> {
        if answer.vote_granted {
            self.granted.note();
        }
        vote_reply(answer)
    }

    fn leads(raft: &Raft, epoch: LeaderEpoch) -> bool {
        let metrics = raft.server_metrics();
        let now = metrics.borrow_watched();
        now.state == ServerState::Leader && now.vote.leader_id.term == epoch
    }
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
        self.admit(request.metadata())?;
        let answer = self.raft.vote(vote_request(request.into_inner())?).await;
        Ok(self.voted(&answer.map_err(stopped)?))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteReply>, Status> {
        self.admit(request.metadata())?;
        let request = vote_request(request.into_inner())?;
        let has = request.last_log_id;
        let answer = self.raft.pre_vote(request).await.map_err(stopped)?;
        if !answer.vote_granted && answer.last_log_id > has {
            self.granted.overtook();
        }
        Ok(self.voted(&answer))
    }

    async fn append(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendReply>, Status> {
        self.admit(request.metadata())?;
        let request = append_request(request.into_inner())?;
        let leader = request.vote.leader_id.voted_for;
        let answer = self.raft.append_entries(request).await.map_err(stopped)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.heard.note(leader);
        }
        Ok(append_reply(answer))
    }

    async fn install_checkpoint(
        &self,
        request: Request<Streaming<pb::CheckpointPart>>,
    ) -> Result<Response<pb::CheckpointReply>, Status> {
        self.admit(request.metadata())?;
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
        self.admit(request.metadata())?;
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

    type AttendStream = Attendance;

    async fn attend(
        &self,
        request: Request<pb::AttendRequest>,
    ) -> Result<Response<Attendance>, Status> {
        self.admit(request.metadata())?;
        let epoch = request.into_inner().epoch;
        let (raft, mut metrics) = (self.raft.clone(), self.raft.server_metrics());
        let until_over = async move {
            while Self::leads(&raft, epoch) {
                if metrics.changed().await.is_err() {
                    return Err(Status::unavailable("the member has stopped"));
                }
            }
            Err(Status::failed_precondition(format!("{NOT_LEADER} in epoch {epoch}")))
        };
        Ok(Response::new(Box::pin(futures::stream::once(until_over))))
    }

    async fn enrol(
        &self,
        request: Request<pb::EnrolRequest>,
    ) -> Result<Response<pb::EnrolReply>, Status> {
        // Not by directory: a node whose disk was replaced must be able to say so.
        self.doorman.check_cluster(request.metadata())?;
        let r = request.into_inner();
        let node = types::voter_from_pb(r.node.ok_or(BadMessage("node"))?)?;
        let done = self.changes.enrol(&node, r.as_voter, ENROL_TIMEOUT).await;
        let mut reply = pb::EnrolReply { done: done.is_ok(), ..pb::EnrolReply::default() };
        match done {
            Ok(()) => {}
            Err(VoterChangeError::NotLeader { hint }) => {
                reply.leader = hint.and_then(|id| self.voter(id)).as_ref().map(types::voter_to_pb);
            }
            Err(e) => reply.refused = e.to_string(),
        }
        Ok(Response::new(reply))
    }
}

/// What a follower holds open to its leader.
type Attendance = Pin<Box<dyn Stream<Item = Result<pb::AttendReply, Status>> + Send>>;

impl RaftService {
    fn voter(&self, id: NodeId) -> Option<Voter> {
        self.changes.voters().iter().find(|v| v.id == id).cloned()
    }
}
