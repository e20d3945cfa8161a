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

mod attend;
mod checkpoint;
mod dial;
mod disk;
mod doorman;
mod enrol;
mod entry;
mod handover;
mod image_keeper;
mod image_store;
mod listener;
mod log_store;
mod machine;
mod member;
mod network;
mod observe_service;
mod observer;
mod peers;
mod roster;
mod service;
mod settings;
mod source;
mod types;
mod upkeep;
mod vote_file;
mod voters;

pub use dial::{Connection, Dial, TcpDial};
pub use doorman::Doorman;
pub use listener::{ControllerListener, KafkaConnections, serve};
pub use member::Quorum;
pub use network::Caller;
pub use observer::Observer;
pub use settings::{
    Address, ControllerEndpoint, DynamicVoters, Leadership, LogPolicy, METADATA_DIR_NAME,
    ObserverSettings, ProposeError, QuorumDescription, QuorumError, QuorumSettings, QuorumTimeouts,
    ReplicaDescription, Voter, VoterChangeError, VoterKey,
};
pub use source::{MetadataSource, Subscription};

/// A channel to a controller that connects at its first use; `None` if its address is none.
pub(crate) fn channel_to(
    voter: &Voter,
    timeouts: &QuorumTimeouts,
    caller: &Caller,
) -> Option<tonic::transport::Channel> {
    match caller.channel(&voter.authority(), timeouts) {
        Ok(channel) => Some(channel),
        Err(e) => {
            tracing::error!(controller = voter.id.0, address = voter.authority(), "{e}");
            None
        }
    }
}
