//! Kafka sockets: listen, connection loop, peer client. Knows frames, no API meaning. Waits.
//! Uses `base`, `config`, `wire`, `security`.
//!
//! * [`listener`]: one socket that accepts, its limits, its graceful end.
//! * `conn`: one task a connection: frames in, answers out in request order.
//! * [`memory`]: the memory that frames may take, over all connections.
//! * [`quota`]: how many connections there may be.
//! * [`peer`]: a client for frames: the self-test of listeners, follower fetch.

mod conn;
pub mod listener;
pub mod memory;
pub mod peer;
pub mod quota;
mod reader;
pub mod service;
mod spin;
mod writer;

pub use listener::{Listener, ListenerConfig, ListenerHandle, Shared, serve_accepted};
pub use memory::Memory;
pub use peer::{PeerClient, PeerConfig};
pub use quota::{ConnectionLimits, ConnectionQuota};
pub use service::{ConnInfo, ConnLimits, Dispatch, Response, Service};

/// Why a socket does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The listener cannot take its address: the configuration or another process must change.
    #[error("listener {listener}: cannot bind {address}: {source}")]
    Bind {
        /// The listener's name.
        listener: String,
        /// Host and port as configured.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system refuses a socket option.
    #[error("listener {listener}: {option}={value} is refused: {source}")]
    Option {
        /// The listener's name.
        listener: String,
        /// The key.
        option: &'static str,
        /// Its value.
        value: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The peer cannot be reached: try again later, or elsewhere.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The peer did not answer in time; the connection is of no further use.
    #[error("{address} did not answer within {ms} ms")]
    TimedOut {
        /// Host and port.
        address: String,
        /// The time it had, in milliseconds.
        ms: u128,
    },
    /// The connection broke; it is of no further use.
    #[error("connection to {address} broke: {source}")]
    Broken {
        /// Host and port.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The peer sent what is no answer; the connection is of no further use.
    #[error("{address} sent {what}")]
    BadAnswer {
        /// Host and port.
        address: String,
        /// What came.
        what: String,
    },
}
