//! A node from start to stop: identity, log directories, quorum, broker, listeners, signals, and
//! the order in which metadata is published.

mod boot;
mod broker;
mod dirs;
mod identity;
pub mod loading;
mod moved;
pub mod offsets_log;
mod publish;
mod schema;
mod selftest;
mod share_broker;
mod shutdown;
mod sockets;
mod txn_broker;

pub use boot::{NodeError, run};
