//! Code generated from `proto/*.proto`; nothing is written by hand here.
#![allow(
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    missing_docs
)]

/// Metadata records (`proto/metadata.proto`).
pub mod metadata {
    tonic::include_proto!("vltava.metadata");
}
/// Raft calls and the observers' stream (`proto/quorum.proto`).
pub mod quorum {
    tonic::include_proto!("vltava.quorum");
}
/// Commands to the active controller and broker heartbeats (`proto/controller.proto`).
pub mod controller {
    tonic::include_proto!("vltava.controller");
}
