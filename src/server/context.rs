//! What handlers work with: the broker's parts, and who calls.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::{
    base::{
        NodeId,
        ports::{Clock, Entropy},
    },
    config::{Layers, ServerConfig},
    controller::{BrokerLifecycle, ControllerClient},
    coordinator::{SharePersister, ShareStates, Transactions, driver::Coordinators},
    metadata::{ConfigResource, Image, configs::Properties},
    pb::controller::{DeleteTopics, submit_reply::Reply, submit_request::Command},
    replica::{lost_driver::LostLeaders, table::ReplicaTable},
    server::{forward::Failure, producer_ids::ProducerIds, turns::Turns, txn_verifier::Verifier},
    share::SharePartitions,
};

/// What kind of listener a request came in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A listener of a broker.
    Broker,
    /// A listener of a controller.
    Controller,
}

/// Where a node is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeAddress {
    pub(crate) id: NodeId,
    pub(crate) host: String,
    pub(crate) port: i32,
    pub(crate) rack: Option<String>,
    pub(crate) fenced: bool,
}

/// What the APIs work with that brokers and controllers both serve. A broker answers from its
/// published image and forwards commands; a controller answers from its own image, and carries
/// commands out if it is the active one.
pub(crate) trait Admin: std::fmt::Debug + Send + Sync {
    /// Which of the two it is.
    fn role(&self) -> Role;
    /// This node.
    fn node_id(&self) -> NodeId;
    /// The cluster's id.
    fn cluster_id(&self) -> &str;
    /// The static configuration.
    fn settings(&self) -> &ServerConfig;
    /// The image that requests are answered from.
    fn image(&self) -> Arc<Image>;
    /// The nodes of this one's role, as `listener` shows them.
    fn nodes(&self, listener: &str) -> Vec<NodeAddress>;
    /// The node that clients are told to send to what is for the controller; -1 if there is none.
    fn controller_for_clients(&self) -> i32;
    /// The highest epoch of the quorum that this node knows of.
    fn quorum_epoch(&self) -> i32;
    /// Has `command` carried out, within `timeout_ms`.
    ///
    /// # Errors
    /// `RequestTimedOut`; `NotController` from a controller that is not the active one; or what
    /// the controller says of the whole command.
    fn submit(&self, command: Command, timeout_ms: i32) -> BoxFuture<'_, Result<Reply, Failure>>;
    /// Waits until the image is as new as the active controller's, at most `timeout_ms`.
    ///
    /// # Errors
    /// As those of [`Admin::submit`]: the image may be behind.
    fn catch_up(&self, timeout_ms: i32) -> BoxFuture<'_, Result<(), Failure>> {
        // A command that changes nothing is answered with the controller's own position.
        let nothing = Command::DeleteTopics(DeleteTopics::default());
        let done = self.submit(nothing, timeout_ms);
        Box::pin(async move { done.await.map(|_| ()) })
    }

    /// All layers of this node's configuration: what it was started with, and what `image` says.
    fn layers(&self, image: &Image) -> Layers {
        layers(self.settings(), self.node_id(), image)
    }
}

/// The parts of a broker that requests need. One for all connections.
#[derive(Debug)]
pub struct Broker {
    /// This node.
    pub node_id: NodeId,
    /// The cluster's id.
    pub cluster_id: Arc<str>,
    /// The static configuration.
    pub settings: Arc<ServerConfig>,
    /// The replicas of this broker.
    pub replicas: Arc<ReplicaTable>,
    /// The image that requests are answered from: the last that was published whole.
    pub image: ArcSwap<Image>,
    /// Offset of the last metadata record in `image`.
    pub published: Arc<watch::Sender<i64>>,
    /// Leaders whose connection to this broker's fetchers broke just now.
    pub lost_leaders: Arc<LostLeaders>,
    /// The way to the active controller.
    pub controller: ControllerClient,
    /// This broker's registration and heartbeats.
    pub lifecycle: BrokerLifecycle,
    /// Groups and their offsets.
    pub groups: Coordinators,
    /// Transactions.
    pub transactions: Transactions,
    /// The state of share partitions that this broker keeps.
    pub share_states: ShareStates,
    /// The way to the state of all share partitions.
    pub share_persister: Arc<dyn SharePersister>,
    /// Share partitions of the partitions that this broker leads.
    pub share: SharePartitions,
    /// Ids for producers.
    pub producer_ids: ProducerIds,
    /// What the coordinators of transactions are asked.
    pub verifier: Verifier,
    /// The order of requests that wait for an answer to that.
    pub turns: Turns,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
}

impl Broker {
    /// The image that requests are answered from.
    #[must_use]
    pub fn image(&self) -> Arc<Image> {
        self.image.load_full()
    }
}

/// Who sent the request at hand, and in which version.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The listener it came in by.
    pub listener: Arc<str>,
    /// Different for every connection.
    pub conn: u64,
    /// The peer's address as Java prints it: `/127.0.0.1`.
    pub host: Arc<str>,
    /// `client.id`; empty if none was sent.
    pub client_id: Arc<str>,
    /// The request's version.
    pub version: i16,
    /// What the client matches the answer by.
    pub correlation_id: i32,
}

/// All layers of broker `node`: what it was started with, and what the image says of it.
pub(crate) fn layers(settings: &ServerConfig, node: NodeId, image: &Image) -> Layers {
    let of = |resource: &ConfigResource| {
        image.configs().get(resource).map(|p| owned(p)).unwrap_or_default()
    };
    Layers {
        dynamic_broker: of(&ConfigResource::broker(node)),
        dynamic_default: of(&ConfigResource::all_brokers()),
        fixed: Arc::clone(&settings.layers.fixed),
    }
}

/// Owned copies of what the image keeps shared.
pub(crate) fn owned(properties: &Properties) -> BTreeMap<String, String> {
    properties.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}
