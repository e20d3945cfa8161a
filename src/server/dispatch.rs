//! From a frame to its handler: header, row of the table, version, body. What is not served closes
//! the connection, but for an unknown version of ApiVersions, which is answered in version 0.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    net::{ConnInfo, Dispatch, Response, Service},
    server::{
        api::{self, Row, Run},
        context::{Admin, Broker, Caller},
        controller::Controller,
    },
    wire::{
        codec::{Chunk, DecodeError, Reader},
        frame::{self, ApiKey},
        message::Message,
    },
};

/// What became of a request.
pub(crate) enum Outcome {
    /// The answer.
    Ready(Vec<Chunk>),
    /// The answer comes later; requests behind it on the connection may be read meanwhile.
    Later(BoxFuture<'static, Vec<Chunk>>),
    /// There is nothing to answer (acks=0).
    Silent,
    /// The connection ends.
    Close,
}

impl Caller {
    /// The response as pieces of a frame; none if it cannot be encoded, which closes.
    pub(crate) fn chunks<M: Message>(&self, response: &M) -> Vec<Chunk> {
        match frame::encode_response(self.correlation_id, response, self.version) {
            Ok(chunks) => chunks,
            Err(e) => {
                tracing::error!(api = %M::KEY, version = self.version, "cannot answer: {e}");
                Vec::new()
            }
        }
    }

    /// The response, at once.
    pub(crate) fn ready<M: Message>(&self, response: &M) -> Outcome {
        Outcome::Ready(self.chunks(response))
    }
}

/// Why a request gets no answer. A peer's mistake, never logged above debug.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unserved {
    /// The bytes are no request.
    #[error("the request cannot be read: {0}")]
    Malformed(#[from] DecodeError),
    /// No such API here.
    #[error("API {0} is not served")]
    Api(i16),
    /// No such version here.
    #[error("{0} version {1} is not served")]
    Version(ApiKey, i16),
}

/// What is remembered of a connection, so that requests need not make it anew.
#[derive(Debug)]
pub struct Session {
    host: Arc<str>,
    client_id: Arc<str>,
    conn: u64,
    broker: Option<Arc<Broker>>,
}

impl Drop for Session {
    /// The connection ended.
    fn drop(&mut self) {
        if let Some(broker) = &self.broker {
            broker.share.disconnected(self.conn);
        }
    }
}

/// The clients' way into a broker or a controller.
#[derive(Debug)]
pub struct Clients {
    admin: Arc<dyn Admin>,
    /// None on a controller's listener, even if the node is a broker too.
    broker: Option<Arc<Broker>>,
}

impl Service for Clients {
    type Session = Session;

    fn open(&self, conn: &ConnInfo) -> Session {
        Session {
            host: format!("/{}", conn.peer.ip()).into(),
            client_id: "".into(),
            conn: conn.id,
            broker: self.broker.clone(),
        }
    }

    fn call(&self, conn: &ConnInfo, session: &mut Session, request: Bytes) -> Dispatch {
        match self.handle(conn, session, &request) {
            Ok(Outcome::Ready(chunks)) if chunks.is_empty() => Dispatch::Close,
            Ok(Outcome::Ready(chunks)) => Dispatch::Ready(chunks.into()),
            Ok(Outcome::Later(chunks)) => {
                Dispatch::Pending(Box::pin(async move { Response::from(chunks.await) }))
            }
            Ok(Outcome::Silent) => Dispatch::NoResponse,
            Ok(Outcome::Close) => Dispatch::Close,
            Err(e) => {
                tracing::debug!(peer = %conn.peer, "closing the connection: {e}");
                Dispatch::Close
            }
        }
    }
}

impl Clients {
    /// For the listeners of a broker.
    #[must_use]
    pub fn of_broker(broker: Arc<Broker>) -> Self {
        Self { admin: Arc::clone(&broker) as Arc<dyn Admin>, broker: Some(broker) }
    }

    /// For the listeners of a controller.
    #[must_use]
    pub fn of_controller(controller: Arc<Controller>) -> Self {
        Self { admin: controller, broker: None }
    }

    fn handle(
        &self,
        conn: &ConnInfo,
        session: &mut Session,
        request: &Bytes,
    ) -> Result<Outcome, Unserved> {
        let mut r = Reader::new(request);
        let header = frame::decode_request_header(&mut r)?;
        let client_id = header.client_id.as_deref().unwrap_or_default();
        if *session.client_id != *client_id {
            session.client_id = client_id.into();
        }
        let mut caller = Caller {
            listener: Arc::clone(&conn.listener),
            conn: conn.id,
            host: Arc::clone(&session.host),
            client_id: Arc::clone(&session.client_id),
            version: header.version,
            correlation_id: header.correlation_id,
        };
        let row = header.api().and_then(Row::of);
        let Some(row) = row.filter(|row| row.is_served_by(self.admin.role())) else {
            return Err(Unserved::Api(header.api_key));
        };
        if !row.key.supports(header.version) {
            if row.key == ApiKey::ApiVersions {
                caller.version = 0;
                return Ok(caller.ready(&api::versions::unsupported()));
            }
            return Err(Unserved::Version(row.key, header.version));
        }
        match (&row.run, &self.broker) {
            (Run::Broker(run), Some(broker)) => Ok(run(broker, caller, &mut r)?),
            (Run::Admin(run) | Run::Controller(run), _) => Ok(run(&self.admin, caller, &mut r)?),
            (Run::Broker(_), None) => Err(Unserved::Api(header.api_key)),
        }
    }
}
