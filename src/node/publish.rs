//! From metadata to the broker, in a fixed order: replicas, coordinators, and last the image that
//! requests are answered from, so that no client is told of a leader that has not taken office.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::mpsc;

use crate::{
    base::NodeId,
    config::ServerConfig,
    coordinator::{ShareStates, Transactions, calls_consumer::ChangedTopics, driver::Coordinators},
    metadata::{Delta, Image, PartitionRegistration, ResourceType, features::TRANSACTION_VERSION},
    node::{
        offsets_log::{OFFSETS_TOPIC, SHARE_STATE_TOPIC, TRANSACTIONS_TOPIC},
        schema,
    },
    replica::{
        dirs::Misplaced,
        publish::{Following, Office},
        settings::PartitionSettings,
        table::ReplicaTable,
    },
    server::context,
    share::{SharePartitions, leavers::Leavers},
};

/// What an update reaches.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) node_id: NodeId,
    pub(crate) settings: Arc<ServerConfig>,
    pub(crate) replicas: Arc<ReplicaTable>,
    pub(crate) groups: Coordinators,
    pub(crate) transactions: Transactions,
    pub(crate) share_states: ShareStates,
    pub(crate) share: SharePartitions,
    /// Takes replicas that lie where the metadata does not say.
    pub(crate) misplaced: mpsc::UnboundedSender<Vec<Misplaced>>,
}

impl Publisher {
    /// The settings of topics under `image`, each resolved once.
    pub(crate) fn settings_of<'a>(
        settings: &'a ServerConfig,
        node_id: NodeId,
        image: &'a Image,
    ) -> impl FnMut(&str) -> Arc<PartitionSettings> + 'a {
        let layers = context::layers(settings, node_id, image);
        let mut cache: BTreeMap<String, Arc<PartitionSettings>> = BTreeMap::new();
        move |topic| {
            let make = || schema::partition_settings(&layers, image, topic, settings);
            Arc::clone(cache.entry(topic.to_owned()).or_insert_with(make))
        }
    }

    /// Brings replicas and coordinators in line with `delta`, whose result is `image`. The caller
    /// then tells the fetchers of the replicas that are returned, and shows the image.
    #[must_use]
    pub(crate) fn publish(&self, delta: &Delta, image: &Image) -> Vec<Following> {
        let mut settings = Self::settings_of(&self.settings, self.node_id, image);
        let published = self.replicas.publish(delta, image, &mut settings);
        self.tell_coordinators(delta, image, &published.offices);
        self.reconfigure(delta, image, &mut settings);
        let misplaced = self.replicas.misplaced(delta);
        if !misplaced.is_empty() {
            // Nobody takes them when the broker stops.
            let _ = self.misplaced.send(misplaced);
        }
        published.following
    }

    fn tell_coordinators(&self, delta: &Delta, image: &Image, offices: &[Office]) {
        self.tell_of_metadata(delta, image);
        if let Some(topic) = image.topics().by_name(OFFSETS_TOPIC) {
            self.groups.set_partition_count(topic.partition_count());
        }
        for office in offices.iter().filter(|o| &*o.topic == OFFSETS_TOPIC) {
            if office.leads {
                self.groups.elected(office.partition, office.leader_epoch);
            } else {
                self.groups.resigned(office.partition, Some(office.leader_epoch));
            }
        }
        let level = image.features().level(TRANSACTION_VERSION);
        self.transactions.set_transaction_version(level);
        if let Some(topic) = image.topics().by_name(TRANSACTIONS_TOPIC) {
            self.transactions.set_partition_count(topic.partition_count());
        }
        for office in offices.iter().filter(|o| &*o.topic == TRANSACTIONS_TOPIC) {
            let (partition, epoch) = (office.partition, office.leader_epoch);
            match office.leads {
                true => self.transactions.elected(partition, epoch, image.position.offset),
                false => self.transactions.resigned(partition, Some(epoch)),
            }
        }
        if let Some(topic) = image.topics().by_name(SHARE_STATE_TOPIC) {
            self.share_states.set_partition_count(topic.partition_count());
        }
        for office in offices.iter().filter(|o| &*o.topic == SHARE_STATE_TOPIC) {
            let (partition, epoch) = (office.partition, office.leader_epoch);
            match office.leads {
                true => self.share_states.elected(partition, epoch),
                false => self.share_states.resigned(partition, Some(epoch)),
            }
        }
        self.tell_share_partitions(delta, image, offices);
        let gone: Vec<_> = delta.deleted_topics().map(|t| (Arc::clone(&t.name), t.id)).collect();
        if !gone.is_empty() {
            self.groups.topics_deleted(&gone);
            self.share_states.topics_deleted(&gone.iter().map(|(_, id)| *id).collect());
        }
    }

    /// Share partitions go with the partitions that this broker leads no longer.
    fn tell_share_partitions(&self, delta: &Delta, image: &Image, offices: &[Office]) {
        let leavers = Leavers::of(delta, image, offices);
        if !leavers.is_empty() {
            self.share.left(&leavers);
        }
    }

    /// Groups look at their topics again when these are new, gone, or have other partitions or
    /// replicas than before.
    fn tell_of_metadata(&self, delta: &Delta, image: &Image) {
        let mut changed = ChangedTopics::default();
        for topic in delta.created_topics() {
            changed.created = true;
            changed.names.insert(Arc::clone(&topic.name));
        }
        changed.names.extend(delta.deleted_topics().map(|t| Arc::clone(&t.name)));
        for p in delta.changed_partitions() {
            let replicas = |p: Option<&PartitionRegistration>| p.map(|p| p.replicas.clone());
            if replicas(p.old) != replicas(p.new) && !changed.names.contains(p.topic) {
                changed.names.insert(Arc::clone(p.topic));
            }
        }
        let configured = delta
            .changed_configs()
            .any(|c| matches!(c.kind, ResourceType::Group | ResourceType::Broker));
        let brokers = delta.changed_brokers().next().is_some();
        if !changed.names.is_empty() || configured || brokers {
            let image = Arc::new(image.clone());
            self.groups.metadata_changed(&image, &changed);
            self.share_states.metadata_changed(&image);
        }
    }

    fn reconfigure(
        &self,
        delta: &Delta,
        image: &Image,
        settings: &mut dyn FnMut(&str) -> Arc<PartitionSettings>,
    ) {
        let mut topics: BTreeSet<Arc<str>> = BTreeSet::new();
        for resource in delta.changed_configs() {
            match resource.kind {
                ResourceType::Topic => _ = topics.insert(Arc::clone(&resource.name)),
                // Defaults of all topics may hang on it.
                ResourceType::Broker => {
                    topics.extend(image.topics().iter().map(|t| Arc::clone(&t.name)));
                }
                ResourceType::ClientMetrics | ResourceType::Group => {}
            }
        }
        for name in topics {
            if let Some(id) = image.topics().id_of(&name) {
                self.replicas.configure(id, &settings(&name));
            }
        }
    }
}
