//! What stands on both sides of a connection: the service that answers frames, and the terms under
//! which connections live.

use std::{fmt, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{base::limits::IN_FLIGHT_PER_CONNECTION_MAX, wire::Chunk};

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// Different for every connection of this process.
    pub id: u64,
    /// The name of the listener it came in by.
    pub listener: Arc<str>,
    /// The peer's address.
    pub peer: SocketAddr,
    /// Our address, as the peer sees it.
    pub local: SocketAddr,
}

/// What goes back for one frame.
#[derive(Debug, Default)]
pub struct Response {
    /// The frame with its length in front, in pieces; without pieces nothing is sent.
    pub chunks: Vec<Chunk>,
    /// Whether the connection ends once this is sent.
    pub close_after: bool,
}

impl From<Vec<Chunk>> for Response {
    fn from(chunks: Vec<Chunk>) -> Self {
        Self { chunks, close_after: false }
    }
}

/// An answer that is not there yet.
pub type PendingResponse = Pin<Box<dyn Future<Output = Response> + Send>>;

/// What became of a frame once its first stage ran.
pub enum Dispatch {
    /// The answer.
    Ready(Response),
    /// The answer will come. Later frames of the connection are dispatched meanwhile; answers
    /// leave in request order all the same. Dropped if the connection ends first.
    Pending(PendingResponse),
    /// There is none (Produce with acks=0).
    NoResponse,
    /// The frame cannot be answered: the connection ends at once.
    Close,
}

impl fmt::Debug for Dispatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(r) => f.debug_tuple("Ready").field(r).finish(),
            Self::Pending(_) => f.write_str("Pending"),
            Self::NoResponse => f.write_str("NoResponse"),
            Self::Close => f.write_str("Close"),
        }
    }
}

/// Answers the frames of connections.
pub trait Service: Send + Sync + 'static {
    /// What the service remembers of a connection: its authentication, its client. Dropped when
    /// the connection ends.
    type Session: Send + 'static;

    /// A connection was accepted.
    fn open(&self, conn: &ConnInfo) -> Self::Session;

    /// Stage one: runs on the thread that read the frame, in the order of the connection, and must
    /// not wait. `frame` is a request without its length.
    ///
    /// The memory of `frame` is reused as soon as it is dropped; who keeps a part of it beyond the
    /// answer copies that part.
    fn call(&self, conn: &ConnInfo, session: &mut Self::Session, frame: Bytes) -> Dispatch;
}

/// The terms of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnLimits {
    /// `socket.request.max.bytes`: longest frame, without its length.
    pub frame_bytes_max: usize,
    /// `connections.max.idle.ms`: a connection that owes nothing and sends nothing for so long is
    /// closed, and so is one that takes nothing of an answer for so long.
    pub idle: Duration,
    /// A frame that has begun must be there within this time, and a second more for each 32 KiB.
    pub frame: Duration,
    /// Answers that it may owe before it is read no further.
    pub in_flight_max: usize,
    /// `vltava.listener.spin.us`: how long a thread may wait awake for the next small request of a
    /// client that sends it as soon as it has an answer; zero: never.
    pub spin: Duration,
}

impl Default for ConnLimits {
    /// Kafka's defaults; a minute for a frame.
    fn default() -> Self {
        Self {
            frame_bytes_max: 100 * 1024 * 1024,
            idle: Duration::from_secs(600),
            frame: Duration::from_secs(60),
            in_flight_max: IN_FLIGHT_PER_CONNECTION_MAX,
            spin: Duration::from_micros(100),
        }
    }
}
