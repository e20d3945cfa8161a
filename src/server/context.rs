//! What handlers work with: the broker's parts, and who calls.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::{
    base::{
        NodeId,
        ports::{Clock, Entropy},
    },
    config::{Layers, ServerConfig},
    controller::{BrokerLifecycle, ControllerClient},
    coordinator::driver::Coordinators,
    metadata::{ConfigResource, Image, configs::Properties},
    quorum::Quorum,
    replica::table::ReplicaTable,
    server::producer_ids::ProducerIds,
};

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
    /// The way to the active controller.
    pub controller: ControllerClient,
    /// This broker's registration and heartbeats.
    pub lifecycle: BrokerLifecycle,
    /// Groups and their offsets.
    pub groups: Coordinators,
    /// The member of the quorum in this process, if it is a controller.
    pub quorum: Option<Arc<Quorum>>,
    /// Ids for idempotent producers.
    pub producer_ids: ProducerIds,
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

    /// All layers of this broker's configuration: what it was started with, and what `image` says.
    #[must_use]
    pub(crate) fn layers(&self, image: &Image) -> Layers {
        layers(&self.settings, self.node_id, image)
    }

    /// The overrides of `topic`.
    #[must_use]
    pub(crate) fn topic_overrides(&self, image: &Image, topic: &str) -> BTreeMap<String, String> {
        owned(&image.configs().topic(topic))
    }
}

/// Who sent the request at hand, and in which version.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The listener it came in by.
    pub listener: Arc<str>,
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
