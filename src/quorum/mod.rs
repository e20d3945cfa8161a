//! The metadata quorum: a Raft member over `__cluster_metadata-0` that orders metadata records,
//! applies them to the image and hands every change, in commit order, to who subscribed. Every
//! openraft type stays inside this room. Uses `base`, `record`, `log`, `metadata`.

mod settings;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::{
    base::{
        LeaderEpoch,
        ports::{Clock, Fs},
    },
    metadata::{Delta, Image, Record},
};

pub use settings::{
    Leadership, LogPolicy, METADATA_DIR_NAME, ObserverSettings, Position, ProposeError,
    QuorumDescription, QuorumError, QuorumSettings, QuorumTimeouts, ReplicaDescription, Voter,
};

/// One step of the image, in commit order.
#[derive(Debug)]
pub struct Update {
    /// The place in the log that `image` stands for.
    pub position: Position,
    /// What changed since the update before (or since the image that `subscribe` gave).
    pub delta: Delta,
    /// The image with the change.
    pub image: Arc<Image>,
    /// Whether a checkpoint was loaded, so that `delta` spans many batches.
    pub from_checkpoint: bool,
}

/// The image as of the subscription and every update after it; none is lost. A subscriber that
/// stops reading keeps the updates in memory, so it must read or drop this.
#[derive(Debug)]
pub struct Subscription {
    /// The image that the first update applies to.
    pub image: Arc<Image>,
    /// The place in the log of `image`.
    pub position: Position,
    /// The updates.
    pub updates: mpsc::UnboundedReceiver<Arc<Update>>,
}

/// Where a node learns metadata from: the quorum member in its own process, or the observer's
/// stream from one in another. Callers see no difference.
pub trait MetadataSource: Send + Sync + std::fmt::Debug {
    /// The latest image and its place in the log.
    fn image(&self) -> (Arc<Image>, Position);
    /// The latest image and all that follows.
    fn subscribe(&self) -> Subscription;
    /// Who leads, as far as this node knows.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// Where the controllers listen.
    fn voters(&self) -> &[Voter];
}

// Quorum::start(settings, fs, clock, bootstrap: Vec<Record>) -> Result<Quorum, QuorumError>  (async)
// quorum.propose(epoch: LeaderEpoch, records: Vec<Record>) -> Result<Position, ProposeError>  (async)
// quorum.describe() -> QuorumDescription
// quorum.routes() -> tonic::service::Routes           gRPC services of this member
// quorum.shutdown()                                    (async) hands leadership over, stops
// impl MetadataSource for Quorum
//
// Observer::start(settings, clock) -> Observer          impl MetadataSource; observer.shutdown() (async)
//
// serve(listener: TcpListener, routes: Routes, kafka: KafkaConnections) -> ControllerListener
//   KafkaConnections = Arc<dyn Fn(TcpStream, SocketAddr) + Send + Sync>; controller_listener.shutdown() (async)
