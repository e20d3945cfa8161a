//! The metadata quorum: a Raft member over `__cluster_metadata-0` that orders metadata records,
//! applies them to the image and hands every change, in commit order, to who subscribed; and the
//! observer, for nodes that only follow. Every openraft type stays inside this room. Uses `base`,
//! `record`, `log`, `metadata`.
//!
//! ```text
//! propose -> Raft -> log_store (one writer thread: log and vote) -> disk
//!                 -> network / service (peers)
//!                 -> machine -> image -> source (subscribers) -> observe_service (observers)
//! ```

mod checkpoint;
mod disk;
mod entry;
mod image_keeper;
mod image_store;
mod listener;
mod log_store;
mod machine;
mod member;
mod network;
mod observe_service;
mod observer;
mod roster;
mod service;
mod settings;
mod source;
mod types;
mod vote_file;

pub use listener::{ControllerListener, KafkaConnections, serve};
pub use member::Quorum;
pub use observer::Observer;
pub use settings::{
    Leadership, LogPolicy, METADATA_DIR_NAME, ObserverSettings, ProposeError, QuorumDescription,
    QuorumError, QuorumSettings, QuorumTimeouts, ReplicaDescription, Voter,
};
pub use source::{MetadataSource, Subscription};

/// A channel to a controller that connects at its first use; `None` if its address is none.
pub(crate) fn channel_to(
    voter: &Voter,
    timeouts: &QuorumTimeouts,
) -> Option<tonic::transport::Channel> {
    match network::channel(voter, timeouts) {
        Ok(channel) => Some(channel),
        Err(e) => {
            tracing::error!(controller = voter.id.0, address = voter.authority(), "{e}");
            None
        }
    }
}
