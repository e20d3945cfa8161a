//! What the core is asked and what it answers. The questions and answers themselves are those of
//! `proto/controller.proto`.

use crate::base::{ErrorCode, NodeId, PartitionId, Uuid};
use crate::metadata::Image;
use crate::pb::controller as pb;

pub use pb::submit_reply::Reply as SubmitBody;
pub use pb::submit_request::Command as SubmitCommand;

/// A question to the active controller.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// A submitted command.
    Submit(SubmitCommand),
    /// A broker's heartbeat.
    Heartbeat(pb::HeartbeatRequest),
    /// A broker's heartbeat stream broke. Nothing happens to the broker, but until it is heard of
    /// again another incarnation may take its id: a process that was killed and started again need
    /// not wait for its own old session.
    Disconnected {
        /// The broker.
        broker: NodeId,
        /// The epoch that its heartbeats named.
        epoch: i64,
    },
    /// A broker's heartbeat stream broke and its address refuses connections: it is gone, and is
    /// fenced without waiting for its session to end.
    BrokerGone {
        /// The broker.
        broker: NodeId,
        /// The epoch that its heartbeats named.
        epoch: i64,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// To [`Command::Submit`].
    Submit(pb::SubmitReply),
    /// To [`Command::Heartbeat`].
    Heartbeat(pb::HeartbeatReply),
    /// To [`Command::Disconnected`] and [`Command::BrokerGone`].
    Nothing,
}

/// A Kafka error and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// What the client reads; `None` where Kafka sends none.
    pub message: Option<String>,
}

impl Refusal {
    /// A code with a text.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: Some(message.into()) }
    }

    /// A code without a text.
    #[must_use]
    pub const fn bare(code: ErrorCode) -> Self {
        Self { code, message: None }
    }

    /// The code's number, as the protocol buffers carry it.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.code.code().into()
    }
}

/// Splits a result into the two error fields of a protocol buffer.
pub(super) fn error_fields<T>(result: &Result<T, Refusal>) -> (i32, Option<String>) {
    match result {
        Ok(_) => (0, None),
        Err(e) => (e.number(), e.message.clone()),
    }
}

/// The answer for one partition.
pub(super) fn partition_result(
    partition: PartitionId,
    result: &Result<(), Refusal>,
) -> pb::PartitionResult {
    let (error, error_message) = error_fields(result);
    pb::PartitionResult { partition, error, error_message }
}

/// An answer that may not leave before the draft it was decided in is committed.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Outcome {
    reply: Reply,
    /// The incarnation whose epoch is not known before the commit.
    registered: Option<(NodeId, Uuid)>,
}

impl Outcome {
    pub(super) const fn of(reply: Reply) -> Self {
        Self { reply, registered: None }
    }

    pub(super) const fn submit(error: i32, message: Option<String>, body: SubmitBody) -> Self {
        Self::of(Reply::Submit(pb::SubmitReply {
            error,
            error_message: message,
            offset: -1,
            leader: None,
            reply: Some(body),
        }))
    }

    pub(super) const fn registration(mut self, broker: NodeId, incarnation: Uuid) -> Self {
        self.registered = Some((broker, incarnation));
        self
    }

    /// The answer to a submitted command that failed as a whole.
    pub fn refused(refusal: &Refusal) -> Self {
        Self::of(Reply::Submit(pb::SubmitReply {
            error: refusal.number(),
            error_message: refusal.message.clone(),
            offset: -1,
            leader: None,
            reply: None,
        }))
    }

    /// The answer as it may leave once the draft's records are part of `image`: with the offset
    /// that it rests on and, for a registration, the epoch it led to.
    #[must_use]
    pub fn settle(self, image: &Image) -> Reply {
        let mut reply = self.reply;
        if let Reply::Submit(r) = &mut reply {
            r.offset = image.position.offset;
            if let (Some(SubmitBody::RegisterBroker(body)), Some((broker, incarnation))) =
                (&mut r.reply, self.registered)
            {
                match image.brokers().get(broker) {
                    Some(b) if b.incarnation == incarnation => body.broker_epoch = b.epoch,
                    _ => {
                        body.error = ErrorCode::DuplicateBrokerRegistration.code().into();
                        let text = "Another incarnation registered at the same time.";
                        body.error_message = Some(text.to_owned());
                    }
                }
            }
        }
        reply
    }

    /// The answer if this controller stopped being active before the commit. Whether the records
    /// were committed is unknown; the sender asks the next active controller.
    #[must_use]
    pub fn lost(self, leader: Option<NodeId>) -> Reply {
        let code = i32::from(ErrorCode::NotController.code());
        let leader = leader.map(|l| l.0);
        match self.reply {
            Reply::Submit(_) => Reply::Submit(pb::SubmitReply {
                error: code,
                offset: -1,
                leader,
                ..pb::SubmitReply::default()
            }),
            Reply::Heartbeat(_) => Reply::Heartbeat(pb::HeartbeatReply {
                error: code,
                leader,
                ..pb::HeartbeatReply::default()
            }),
            Reply::Nothing => Reply::Nothing,
        }
    }
}
