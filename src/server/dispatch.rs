//! From a frame to its handler: header, row of the table, version, body. What is not served closes
//! the connection, but for an unknown version of ApiVersions, which is answered in version 0.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    net::{ConnInfo, Dispatch, Response, Service},
    server::{
        api::{self, Row},
        context::{Broker, Caller},
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
}

/// The clients' way into the broker.
#[derive(Debug)]
pub struct Clients {
    /// The broker.
    pub broker: Arc<Broker>,
}

impl Service for Clients {
    type Session = Session;

    fn open(&self, conn: &ConnInfo) -> Session {
        Session { host: format!("/{}", conn.peer.ip()).into(), client_id: "".into() }
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
            host: Arc::clone(&session.host),
            client_id: Arc::clone(&session.client_id),
            version: header.version,
            correlation_id: header.correlation_id,
        };
        let Some(row) = header.api().and_then(Row::of) else {
            return Err(Unserved::Api(header.api_key));
        };
        if !row.key.supports(header.version) {
            if row.key == ApiKey::ApiVersions {
                caller.version = 0;
                return Ok(caller.ready(&api::versions::unsupported()));
            }
            return Err(Unserved::Version(row.key, header.version));
        }
        Ok((row.run)(&self.broker, caller, &mut r)?)
    }
}
