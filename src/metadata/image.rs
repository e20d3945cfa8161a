//! The image: all metadata at one position of the log. Persistent maps make a clone O(1), so every
//! reader may hold one; nothing changes an image but [`super::Delta`].

use crate::base::NodeId;

use super::{
    brokers::Brokers,
    configs::{ConfigResource, Configs},
    features::{ELR_VERSION, Features},
    record::Record,
    topics::Topics,
};

/// A place in the metadata log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The offset of the last entry that is part of the image; -1 if there is none.
    pub offset: i64,
    /// The epoch in which that entry was appended; -1 if there is none.
    pub epoch: i32,
}

impl Position {
    /// Before the first entry.
    pub const START: Self = Self { offset: -1, epoch: -1 };
}

impl Default for Position {
    fn default() -> Self {
        Self::START
    }
}

/// All metadata at a position. Two nodes at the same position have equal images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// Where in the log it stands.
    pub position: Position,
    pub(super) features: Features,
    pub(super) brokers: Brokers,
    pub(super) topics: Topics,
    pub(super) configs: Configs,
    pub(super) next_producer_id: i64,
}

impl Image {
    /// Finalized features.
    #[must_use]
    pub const fn features(&self) -> &Features {
        &self.features
    }

    /// Brokers and controllers.
    #[must_use]
    pub const fn brokers(&self) -> &Brokers {
        &self.brokers
    }

    /// Topics and partitions.
    #[must_use]
    pub const fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Dynamic configuration.
    #[must_use]
    pub const fn configs(&self) -> &Configs {
        &self.configs
    }

    /// The first producer id that nobody has.
    #[must_use]
    pub const fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Whether no record has shaped it: the cluster's first activation is still to come.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        Self { position: Position::START, ..self.clone() } == Self::default()
    }

    /// A setting for one topic that clients may set: the topic's own value, or the dynamic default
    /// of all brokers under `broker_key`. The static default is the caller's.
    #[must_use]
    pub fn topic_setting(&self, topic: &str, key: &str, broker_key: &str) -> Option<&str> {
        self.configs
            .value(&ConfigResource::topic(topic), key)
            .or_else(|| self.configs.value(&ConfigResource::all_brokers(), broker_key))
    }

    /// Records that make an equal image when replayed onto an empty one: a checkpoint's content.
    /// A topic is followed by its partitions; features come first.
    pub fn to_records(&self) -> impl Iterator<Item = Record> + '_ {
        let ids = (self.next_producer_id > 0).then_some(Record::ProducerIds {
            broker: NodeId(-1),
            epoch: -1,
            next: self.next_producer_id,
        });
        self.features
            .records()
            .chain(self.brokers.records())
            .chain(self.topics.records())
            .chain(self.configs.records())
            .chain(ids)
    }

    /// Whether eligible leader replicas are kept (`eligible.leader.replicas.version` >= 1).
    #[must_use]
    pub fn elr_enabled(&self) -> bool {
        self.features.level(ELR_VERSION) > 0
    }
}
