//! Commands to the active controller, and the way back: the reply, or the one error of all.

use std::{sync::Arc, time::Duration};

use crate::{
    base::{ErrorCode, Uuid},
    pb::controller::{SubmitReply, submit_reply::Reply, submit_request::Command},
    server::context::Broker,
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

impl Broker {
    /// Has the active controller carry out `command`, and waits until this broker's image shows
    /// what it did, so that the client's next question is answered from it.
    ///
    /// # Errors
    /// `RequestTimedOut` after `timeout_ms`, or what the controller says of the whole command.
    pub(crate) async fn submit(&self, command: Command, timeout_ms: i32) -> Result<Reply, Failure> {
        let limit = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0).max(100));
        let reply = self
            .controller
            .submit(command, limit)
            .await
            .map_err(|e| Failure::new(ErrorCode::RequestTimedOut, e.to_string()))?;
        let SubmitReply { error, error_message, offset, reply, .. } = reply;
        if error != 0 {
            return Err(Failure { code: code(error), message: error_message });
        }
        self.published_past(offset).await;
        reply.ok_or_else(|| {
            Failure::new(ErrorCode::UnknownServerError, "The controller's answer was empty.")
        })
    }

    async fn published_past(&self, offset: i64) {
        let mut published = Arc::clone(&self.published).subscribe();
        let reached = published.wait_for(|p| *p >= offset);
        // Later is no error: the image comes when it comes.
        let _ = tokio::time::timeout(PUBLISH_WAIT, reached).await;
    }
}
