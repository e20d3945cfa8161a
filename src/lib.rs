//! Vltava: a Kafka-compatible, KRaft-style log cluster.
//!
//! The rooms below stand in the order of `ARCHITECTURE.md`: a room uses only rooms above it, and
//! only those its row names. `tests/tidy.rs` reads that table and checks every edge.

pub mod base;
pub mod cli;
pub mod config;
pub mod controller;
pub mod coordinator;
pub mod histcheck;
pub mod log;
pub mod metadata;
pub mod net;
pub mod node;
pub mod os;
pub mod quorum;
pub mod record;
pub mod replica;
pub mod security;
pub mod server;
pub mod share;
pub mod wire;

pub mod pb;
pub mod telemetry;

#[cfg(any(test, feature = "sim"))]
pub mod testing;
