//! The calling side of Raft's messages: votes, appends, checkpoints, transfers. Uses `base`, `pb`.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{BoxFuture, Either};
use openraft::{
    OptionalSend,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
        TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    service::Interceptor,
    transport::Channel,
};

use super::{
    checkpoint::CheckpointFile,
    dial::{self, Connection, Dial},
    entry,
    peers::Peers,
    settings::{QuorumTimeouts, Voter},
    types::{self, BadMessage, Peer, RaftCheckpoint, TypeConfig, Vote},
};
use crate::{
    base::{NodeId, Uuid},
    pb::quorum::{self as pb, raft_client::RaftClient},
};

/// Largest message of a peer, in bytes: one append is cut at [`super::log_store::READ_BYTES_MAX`]
/// unless a single batch is larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A controller that may be gone is dialled for so long.
const DIAL_TIMEOUT: Duration = Duration::from_millis(500);
/// Bytes of a checkpoint in one part.
pub(crate) const PART_BYTES: usize = 256 * 1024;

pub(crate) const CLUSTER_ID: &str = "vltava-cluster-id";
pub(crate) const NODE_ID: &str = "vltava-node-id";
pub(crate) const DIRECTORY_ID: &str = "vltava-directory-id";
pub(crate) const TO_DIRECTORY_ID: &str = "vltava-to-directory-id";
/// What the message of a refusal begins with if the cluster ids differ.
pub(crate) const INCONSISTENT_CLUSTER_ID: &str = "INCONSISTENT_CLUSTER_ID";
/// What the message of a refusal begins with if a node id has another directory than the caller or
/// the called one says.
pub(crate) const INCONSISTENT_DIRECTORY_ID: &str = "INCONSISTENT_DIRECTORY_ID";
/// What the message of a refusal begins with if the called node does not lead.
pub(crate) const NOT_LEADER: &str = "NOT_LEADER";

/// Who calls, put into the gRPC metadata of each request, and by which way.
#[derive(Debug, Clone)]
pub struct Caller {
    cluster_id: MetadataValue<Ascii>,
    node_id: NodeId,
    directory_id: Uuid,
    dial: Arc<dyn Dial>,
}

impl Caller {
    /// # Errors
    /// The cluster id has characters that no header may have.
    pub(crate) fn new(
        cluster_id: &str,
        node_id: NodeId,
        directory_id: Uuid,
        dial: Arc<dyn Dial>,
    ) -> Result<Self, BadMessage> {
        let cluster_id = cluster_id.parse().map_err(|_| BadMessage("cluster id"))?;
        Ok(Self { cluster_id, node_id, directory_id, dial })
    }

    /// The way to `authority`.
    ///
    /// # Errors
    /// It is no address.
    pub(crate) fn channel(
        &self,
        authority: &str,
        timeouts: &QuorumTimeouts,
    ) -> Result<Channel, BadMessage> {
        dial::channel(&self.dial, authority, timeouts)
    }

    /// Connects to `authority` and says no word.
    pub(crate) fn dial(
        &self,
        authority: String,
    ) -> BoxFuture<'static, std::io::Result<Box<dyn Connection>>> {
        self.dial.dial(authority)
    }

    /// Whether `authority` refuses connections: its process is gone. Silence proves nothing.
    pub(crate) async fn refuses(&self, authority: String) -> bool {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, self.dial(authority)).await;
        matches!(dialled, Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    /// Whether the processes of so many of `voters` are gone that the rest cannot elect a leader.
    pub async fn majority_gone(&self, voters: &[Voter]) -> bool {
        let others = voters.iter().filter(|v| v.id != self.node_id);
        let dials = others.map(|v| self.refuses(v.authority()));
        let gone = futures::future::join_all(dials).await.into_iter().filter(|gone| *gone).count();
        !voters.is_empty() && voters.len() - gone <= voters.len() / 2
    }

    /// `message` with the caller's name on it, and the directory that the called node must have
    /// unless that is zero.
    pub(crate) fn sign_to<T>(&self, message: T, directory: Uuid) -> Request<T> {
        let mut request = self.sign(message);
        if directory != Uuid::ZERO
            && let Ok(id) = directory.to_string().parse()
        {
            request.metadata_mut().insert(TO_DIRECTORY_ID, id);
        }
        request
    }

    /// `message` with the caller's name on it.
    pub(crate) fn sign<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.name(request.metadata_mut());
        request
    }

    fn name(&self, meta: &mut MetadataMap) {
        meta.insert(CLUSTER_ID, self.cluster_id.clone());
        meta.insert(NODE_ID, MetadataValue::from(self.node_id.0));
        if let Ok(id) = self.directory_id.to_string().parse() {
            meta.insert(DIRECTORY_ID, id);
        }
    }
}

impl Interceptor for Caller {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        self.name(request.metadata_mut());
        Ok(request)
    }
}

/// Makes links to peers.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) caller: Caller,
    pub(crate) timeouts: QuorumTimeouts,
    pub(crate) peers: Arc<Peers>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerLink;

    async fn new_client(&mut self, target: NodeId, node: &Peer) -> PeerLink {
        self.peers.learn(target, node);
        PeerLink {
            caller: self.caller.clone(),
            timeouts: self.timeouts,
            target,
            peers: Arc::clone(&self.peers),
        }
    }
}

/// The way to one peer.
#[derive(Debug)]
pub(crate) struct PeerLink {
    caller: Caller,
    timeouts: QuorumTimeouts,
    target: NodeId,
    peers: Arc<Peers>,
}

type RpcResult<T> = Result<T, RPCError<TypeConfig>>;

/// A client, and what its calls are signed with.
struct Line {
    client: RaftClient<Channel>,
    caller: Caller,
    /// The directory that the peer is expected to have; zero if any will do.
    directory: Uuid,
}

impl Line {
    fn sign<T>(&self, message: T) -> Request<T> {
        self.caller.sign_to(message, self.directory)
    }
}

impl PeerLink {
    fn client(&self) -> RpcResult<Line> {
        let (channel, directory) = self.peers.channel(self.target).ok_or_else(|| {
            RPCError::Unreachable(Unreachable::from_string("the peer's address is not one"))
        })?;
        let client = RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Line { client, caller: self.caller.clone(), directory })
    }

    async fn call<T>(
        &self,
        action: RPCTypes,
        timeout: Duration,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> RpcResult<T> {
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(reply)) => {
                self.peers.heard(self.target, None);
                Ok(reply.into_inner())
            }
            Ok(Err(status)) => Err(self.refused(&status)),
            Err(_) => {
                self.peers.heard(self.target, Some("no answer in time".to_owned()));
                Err(RPCError::Timeout(Timeout {
                    action,
                    id: self.caller.node_id,
                    target: self.target,
                    timeout,
                }))
            }
        }
    }

    fn refused(&self, status: &Status) -> RPCError<TypeConfig> {
        let refusals = [INCONSISTENT_CLUSTER_ID, INCONSISTENT_DIRECTORY_ID];
        let news = self.peers.heard(self.target, Some(said(status)));
        if news && refusals.iter().any(|word| status.message().starts_with(word)) {
            tracing::error!(peer = self.target.0, "{}", status.message());
        }
        match status.code() {
            Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented => {
                RPCError::Unreachable(Unreachable::from_string(status))
            }
            _ => RPCError::Network(NetworkError::from_string(status)),
        }
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        option: &RPCOption,
        only_ask: bool,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let mut line = self.client()?;
        let request = line.sign(pb::VoteRequest {
            vote: Some(types::vote_to_pb(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(types::log_id_to_pb),
            leadership_transfer: rpc.leadership_transfer,
        });
        let ttl = option.hard_ttl();
        let reply = if only_ask {
            self.call(RPCTypes::Vote, ttl, line.client.pre_vote(request)).await?
        } else {
            self.call(RPCTypes::Vote, ttl, line.client.vote(request)).await?
        };
        vote_reply(reply).map_err(senseless)
    }

    async fn send_checkpoint(
        &self,
        vote: Vote,
        checkpoint: RaftCheckpoint<CheckpointFile>,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        let file = checkpoint.snapshot;
        let reader = tokio::task::spawn_blocking(move || send_parts(&file, vote, &tx));
        let mut line = self.client()?;
        let request = line.sign(ReceiverStream::new(rx));
        let reply = line.client.install_checkpoint(request).await;
        if let Ok(Err(e)) = reader.await {
            tracing::error!(peer = self.target.0, "a checkpoint cannot be read: {e}");
        }
        let reply = reply.map_err(|status| self.refused(&status))?.into_inner();
        let vote = types::vote_from_pb(reply.vote).map_err(senseless)?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// A status in few words.
pub(crate) fn said(status: &Status) -> String {
    let cause = std::error::Error::source(status).map(root).unwrap_or_default();
    if cause.is_empty() { status.message().to_owned() } else { cause }
}

fn root(e: &(dyn std::error::Error + 'static)) -> String {
    let mut last = e;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

fn senseless(e: BadMessage) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(&e))
}

fn vote_reply(reply: pb::VoteReply) -> Result<VoteResponse<TypeConfig>, BadMessage> {
    let vote = types::vote_from_pb(reply.vote)?;
    Ok(VoteResponse::new(vote, types::log_id_from_pb(reply.last_log_id)?, reply.granted))
}

/// Reads the file and hands it over part by part; ends early when nobody takes the parts.
fn send_parts(
    file: &CheckpointFile,
    vote: Vote,
    to: &tokio::sync::mpsc::Sender<pb::CheckpointPart>,
) -> std::io::Result<()> {
    let mut first = Some(vote);
    let mut pos = 0;
    while first.is_some() || pos < file.len {
        let bytes = file.read_part(pos, PART_BYTES)?;
        pos += bytes.len() as u64;
        let part = pb::CheckpointPart {
            vote: first.take().as_ref().map(types::vote_to_pb),
            total_bytes: file.len,
            last_log_id: types::log_id_at(file.position).as_ref().map(types::log_id_to_pb),
            bytes,
        };
        if to.blocking_send(part).is_err() {
            break;
        }
    }
    Ok(())
}

impl RaftNetworkV2<TypeConfig> for PeerLink {
    type SnapshotData = CheckpointFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        let mut line = self.client()?;
        let batches: Result<Vec<Bytes>, _> = rpc.entries.iter().map(entry::encode).collect();
        let batches = batches.map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        let request = line.sign(pb::AppendRequest {
            vote: Some(types::vote_to_pb(&rpc.vote)),
            prev_log_id: rpc.prev_log_id.as_ref().map(types::log_id_to_pb),
            batches,
            leader_commit: rpc.leader_commit.as_ref().map(types::log_id_to_pb),
        });
        let ttl = option.hard_ttl().max(self.timeouts.request);
        let answer = line.client.append(request);
        let reply = self.call(RPCTypes::AppendEntries, ttl, answer).await?;
        append_reply(reply).map_err(senseless)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask_vote(rpc, &option, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        self.ask_vote(rpc, &option, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: RaftCheckpoint<CheckpointFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let (send, cancel) = (self.send_checkpoint(vote, snapshot), std::pin::pin!(cancel));
        match futures::future::select(std::pin::pin!(send), cancel).await {
            Either::Left((reply, _)) => reply,
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let mut line = self.client()?;
        let request = line.sign(pb::TransferRequest {
            from: Some(types::vote_to_pb(req.from_leader())),
            to: req.to_node_id().0,
            last_log_id: req.last_log_id().map(types::log_id_to_pb),
        });
        let ttl = option.hard_ttl().max(self.timeouts.request);
        let answer = line.client.transfer_leader(request);
        let reply = self.call(RPCTypes::TransferLeader, ttl, answer).await?;
        if reply.refused.is_empty() {
            return Ok(Ok(()));
        }
        tracing::warn!(peer = self.target.0, "leadership was not taken over: {}", reply.refused);
        let vote = *req.from_leader();
        Ok(Err(TransferLeaderError::VoteChanged { expected: vote, actual: vote }))
    }

    fn backoff(&self) -> Option<Backoff> {
        let first = self.timeouts.retry_backoff.max(Duration::from_millis(1));
        // Doubles up to twenty times the first pause, as a peer that restarts is soon back.
        let pauses = (0..).map(move |n: u32| first * 2u32.pow(n.min(4)).min(20));
        Some(Backoff::new(pauses))
    }
}

fn append_reply(reply: pb::AppendReply) -> Result<AppendEntriesResponse<TypeConfig>, BadMessage> {
    use pb::append_reply::Result as Answer;
    Ok(match reply.result.ok_or(BadMessage("append result"))? {
        Answer::Success(_) => AppendEntriesResponse::Success,
        Answer::Partial(p) => AppendEntriesResponse::PartialSuccess(types::log_id_from_pb(p.last)?),
        Answer::Conflict(_) => AppendEntriesResponse::Conflict,
        Answer::HigherVote(v) => AppendEntriesResponse::HigherVote(types::vote_from_pb(Some(v))?),
    })
}
