//! Commands to the active controller, and the way back: the reply, or the one error of all.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;

use crate::{
    base::{ErrorCode, NodeId, Uuid},
    config::ServerConfig,
    controller::ClientError,
    metadata::Image,
    pb::controller::{SubmitReply, submit_reply::Reply, submit_request::Command},
    server::context::{Admin, Broker, NodeAddress, Role},
};

/// How long an answer waits at most for this broker's own image to show what the command did.
const PUBLISH_WAIT: Duration = Duration::from_secs(2);

/// Why a command as a whole was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Kafka's code.
    pub(crate) code: ErrorCode,
    /// What to tell the user, if there is more to tell than the code says.
    pub(crate) message: Option<String>,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }

    /// The failure in `done`; a reply of the wrong kind is one too.
    pub(crate) fn of(done: Result<Reply, Self>) -> Self {
        match done {
            Err(failure) => failure,
            Ok(_) => Self::new(
                ErrorCode::UnknownServerError,
                "The controller answered another command than was asked.",
            ),
        }
    }
}

/// The code of that number in a command's reply.
pub(crate) fn code(number: i32) -> ErrorCode {
    i16::try_from(number).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code)
}

/// The id in `bytes`; zero if they are not 16.
pub(crate) fn uuid(bytes: &[u8]) -> Uuid {
    bytes.try_into().map(Uuid).unwrap_or_default()
}

/// What a whole reply comes to: the offset that it rests on and its body, or the failure.
///
/// # Errors
/// What the controller says of the whole command.
pub(crate) fn settled(reply: SubmitReply) -> Result<(i64, Reply), Failure> {
    let SubmitReply { error, error_message, offset, reply, .. } = reply;
    if error != 0 {
        return Err(Failure { code: code(error), message: error_message });
    }
    let empty =
        || Failure::new(ErrorCode::UnknownServerError, "The controller's answer was empty.");
    reply.map(|body| (offset, body)).ok_or_else(empty)
}

/// The time that a request leaves for its command.
pub(crate) fn limit(timeout_ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0).max(100))
}

/// Why a command has no answer, as a client is told.
fn unanswered(e: &ClientError) -> ErrorCode {
    match e {
        ClientError::Timeout { .. } => ErrorCode::RequestTimedOut,
        // An older controller, while versions are rolled out.
        ClientError::Incompatible(_) => ErrorCode::UnsupportedVersion,
    }
}

impl Broker {
    /// Has the active controller carry out `command`, and waits until this broker's image shows
    /// what it did, so that the client's next question is answered from it.
    ///
    /// # Errors
    /// `RequestTimedOut` after `timeout_ms`, `UnsupportedVersion` if the controller does not know the
    /// command, or what the controller says of the whole command.
    pub(crate) async fn submit(&self, command: Command, timeout_ms: i32) -> Result<Reply, Failure> {
        let reply = self
            .controller
            .submit(command, limit(timeout_ms))
            .await
            .map_err(|e| Failure::new(unanswered(&e), e.to_string()))?;
        let (offset, reply) = settled(reply)?;
        self.published_past(offset).await;
        Ok(reply)
    }

    async fn published_past(&self, offset: i64) {
        let mut published = Arc::clone(&self.published).subscribe();
        let reached = published.wait_for(|p| *p >= offset);
        // Later is no error: the image comes when it comes.
        let _ = tokio::time::timeout(PUBLISH_WAIT, reached).await;
    }
}

impl Admin for Broker {
    fn role(&self) -> Role {
        Role::Broker
    }

    fn node_id(&self) -> NodeId {
        self.node_id
    }

    fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    fn settings(&self) -> &ServerConfig {
        &self.settings
    }

    fn image(&self) -> Arc<Image> {
        Self::image(self)
    }

    fn nodes(&self, listener: &str) -> Vec<NodeAddress> {
        let image = Self::image(self);
        let reached = image.brokers().iter().filter_map(|b| {
            let at = b.endpoint(listener)?;
            Some(NodeAddress {
                id: b.id,
                host: at.host.to_string(),
                port: i32::from(at.port),
                rack: b.rack.as_deref().map(str::to_owned),
                fenced: b.fenced,
            })
        });
        reached.collect()
    }

    /// Any broker that is alive: with KRaft, brokers forward what is for the controller.
    fn controller_for_clients(&self) -> i32 {
        let image = Self::image(self);
        let alive: Vec<NodeId> = image.brokers().alive().map(|b| b.id).collect();
        let count = u64::try_from(alive.len()).unwrap_or(0);
        let pick = self.entropy.u64().checked_rem(count).and_then(|i| usize::try_from(i).ok());
        pick.and_then(|i| alive.get(i)).map_or(-1, |id| id.0)
    }

    fn quorum_epoch(&self) -> i32 {
        self.controller.source().leadership().borrow().epoch
    }

    fn submit(&self, command: Command, timeout_ms: i32) -> BoxFuture<'_, Result<Reply, Failure>> {
        Box::pin(Self::submit(self, command, timeout_ms))
    }
}
