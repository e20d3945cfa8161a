//! The way from a broker to the active controller: finds it, submits commands, tries again where
//! it moved. Uses `base`, `metadata`, `pb`, `quorum`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Channel};

use super::{command::SubmitCommand, service_driver::MESSAGE_BYTES_MAX};
use crate::{
    base::{ErrorCode, NodeId},
    pb::controller::{self as pb, controller_client},
    quorum::{Caller, Leadership, MetadataSource, QuorumTimeouts, Voter, channel_to},
};

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// No controller answered in time. Whether the command was carried out is unknown.
    #[error("no controller answered in time: {last}")]
    Timeout {
        /// What went wrong last.
        last: String,
    },
    /// The controller does not know the command, or its answer is none: versions differ.
    #[error("the controller does not understand this node: {0}")]
    Incompatible(String),
}

/// Submits commands to whoever is the active controller. Clones share it.
#[derive(Debug, Clone)]
pub struct ControllerClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Arc<dyn MetadataSource>,
    timeouts: QuorumTimeouts,
    /// Where each controller was, and the way there.
    channels: Mutex<BTreeMap<NodeId, (Voter, Channel)>>,
}

/// Which controller to ask next.
#[derive(Debug, Default)]
pub(super) struct Search {
    asked: usize,
    hint: Option<NodeId>,
    /// Who was asked last, and whether it was silent: somebody else may know better.
    last: Option<NodeId>,
    avoid: Option<NodeId>,
}

impl Search {
    /// The controller that was asked named `leader` instead.
    pub(super) fn moved(&mut self, leader: Option<i32>) {
        self.hint = leader.map(NodeId);
    }

    /// The controller that was asked did not answer.
    pub(super) fn silent(&mut self) {
        self.hint = None;
        self.avoid = self.last;
    }
}

pub(super) type Client = controller_client::ControllerClient<InterceptedService<Channel, Caller>>;
pub(super) type Replies<T> = tonic::Streaming<T>;

/// Waits until news comes that another node than `asked` leads.
pub(super) async fn moved_from(
    asked: NodeId,
    leadership: &mut watch::Receiver<Leadership>,
) -> NodeId {
    loop {
        if leadership.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if let Some(leader) = leadership.borrow_and_update().leader.filter(|id| *id != asked) {
            return leader;
        }
    }
}

impl ControllerClient {
    /// A client that learns from `source` who leads.
    #[must_use]
    pub fn new(source: Arc<dyn MetadataSource>, timeouts: QuorumTimeouts) -> Self {
        Self { shared: Arc::new(Shared { source, timeouts, channels: Mutex::default() }) }
    }

    /// Where metadata comes from.
    #[must_use]
    pub fn source(&self) -> &Arc<dyn MetadataSource> {
        &self.shared.source
    }

    /// Submits a command and waits at most `timeout` for its answer. Tries again as long as
    /// nobody leads, the leader moved or cannot be reached.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn submit(
        &self,
        command: SubmitCommand,
        timeout: Duration,
    ) -> Result<pb::SubmitReply, ClientError> {
        let deadline = Instant::now() + timeout;
        let mut search = Search::default();
        let mut last = "no controller is known".to_owned();
        loop {
            let Some((asked, mut client)) = self.next_client(&mut search, deadline).await else {
                return Err(ClientError::Timeout { last });
            };
            let mut leadership = self.shared.source.leadership();
            leadership.mark_unchanged();
            let request = pb::SubmitRequest { command: Some(command.clone()) };
            let answer = tokio::select! {
                answer = tokio::time::timeout_at(deadline, client.submit(request)) => answer,
                // Who was asked may be frozen or cut off: it answers nobody any longer.
                leader = moved_from(asked, &mut leadership) => {
                    "another controller took over".clone_into(&mut last);
                    search.moved(Some(leader.0));
                    continue;
                }
            };
            match answer {
                Err(_) => {
                    return Err(ClientError::Timeout { last: "the controller is silent".into() });
                }
                Ok(Ok(reply)) => {
                    let reply = reply.into_inner();
                    if reply.error != i32::from(ErrorCode::NotController.code()) {
                        return Ok(reply);
                    }
                    "the controller that was asked is not the active one".clone_into(&mut last);
                    search.moved(reply.leader);
                }
                Ok(Err(status)) => {
                    last = retry(&status)?;
                    search.silent();
                }
            }
            self.pause(deadline).await;
        }
    }

    /// The controller to ask, and how: the one that was named by the last answer, the one that the
    /// quorum is known to follow, or each in turn. Waits for a leader to be known, but not long.
    pub(super) async fn next_client(
        &self,
        search: &mut Search,
        deadline: Instant,
    ) -> Option<(NodeId, Client)> {
        if Instant::now() >= deadline {
            return None;
        }
        let shared = &self.shared;
        let mut leadership = shared.source.leadership();
        let known = leadership.wait_for(|l| l.leader.is_some());
        let known = match search.hint.take() {
            Some(hint) => Some(hint),
            None => {
                let patience = shared.timeouts.election.min(deadline - Instant::now());
                let known = tokio::time::timeout(patience, known).await;
                known.ok().and_then(Result::ok).and_then(|l| l.leader)
            }
        };
        let voters = shared.source.voters();
        let avoid = search.avoid.take();
        let leader = voters.iter().find(|v| Some(v.id) == known && known != avoid);
        let voter = leader.or_else(|| voters.get(search.asked % voters.len().max(1)))?;
        search.asked += 1;
        search.last = Some(voter.id);
        Some((voter.id, self.client(voter)?))
    }

    /// Whether so many controllers are gone, for certain, that the rest cannot elect an active one.
    pub(super) async fn quorum_is_gone(&self) -> bool {
        let source = &self.shared.source;
        source.caller().majority_gone(&source.voters()).await
    }

    fn client(&self, voter: &Voter) -> Option<Client> {
        let caller = self.shared.source.caller();
        let mut channels = self.shared.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&voter.id) {
            Some((at, channel)) if at == voter => channel.clone(),
            _ => {
                let channel = channel_to(voter, &self.shared.timeouts, &caller)?;
                channels.insert(voter.id, (voter.clone(), channel.clone()));
                channel
            }
        };
        Some(
            Client::new(InterceptedService::new(channel, caller))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        )
    }

    pub(super) async fn pause(&self, deadline: Instant) {
        let until = (Instant::now() + self.shared.timeouts.retry_backoff).min(deadline);
        tokio::time::sleep_until(until).await;
    }
}

/// What went wrong, if trying again can help.
fn retry(status: &Status) -> Result<String, ClientError> {
    match status.code() {
        Code::Unimplemented | Code::InvalidArgument | Code::OutOfRange => {
            Err(ClientError::Incompatible(status.to_string()))
        }
        _ => Ok(status.to_string()),
    }
}
