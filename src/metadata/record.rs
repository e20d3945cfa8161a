//! The records as Rust values: what `proto/metadata.proto` says, with ids and lists checked.
//! Bytes become records in `record_codec`; uses `base` and the aspects' nouns.

use std::sync::Arc;

use crate::base::{NodeId, PartitionId, Uuid};

use super::{
    brokers::{Endpoint, VersionRange},
    configs::ConfigResource,
    topics::LeaderRecoveryState,
};

pub use super::record_codec::{RecordError, decode_batch, encode_batch, encoded_len};

/// One fact of the metadata log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Changes nothing.
    NoOp,
    /// A feature is finalized; level 0 takes it away.
    FeatureLevel {
        /// The feature, such as `metadata.version`.
        name: Arc<str>,
        /// Its level, at least 0.
        level: i16,
    },
    /// A broker registers an incarnation, or amends the one that is known.
    RegisterBroker(RegisterBroker),
    /// Some fields of a registration change.
    BrokerRegistrationChange(BrokerRegistrationChange),
    /// A registration is gone.
    UnregisterBroker {
        /// The broker.
        broker: NodeId,
        /// The epoch it has.
        epoch: i64,
    },
    /// A controller says where it listens and what it supports.
    RegisterController(RegisterController),
    /// A topic without partitions; they follow in the same batch.
    Topic {
        /// Its name.
        name: Arc<str>,
        /// Its id.
        id: Uuid,
    },
    /// All of a partition's state.
    Partition(Partition),
    /// Some of a partition's state changes.
    PartitionChange(PartitionChange),
    /// A topic, its partitions and its configuration are gone.
    RemoveTopic {
        /// Its id.
        id: Uuid,
    },
    /// A key of a resource is set, or taken away.
    Config {
        /// The resource.
        resource: ConfigResource,
        /// The key.
        key: String,
        /// Its value; `None` takes the key away.
        value: Option<String>,
    },
    /// Eligible leader replicas are forgotten, since the minimum that they rest on has changed.
    ClearElr {
        /// The topic; `None` for all.
        topic: Option<Uuid>,
    },
    /// All producer ids below `next` have been handed out.
    ProducerIds {
        /// The broker that got the last block.
        broker: NodeId,
        /// Its epoch.
        epoch: i64,
        /// The first id of the next block.
        next: i64,
    },
}

impl Record {
    /// The name of its kind, for logs and errors.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NoOp => "NoOp",
            Self::FeatureLevel { .. } => "FeatureLevel",
            Self::RegisterBroker(_) => "RegisterBroker",
            Self::BrokerRegistrationChange(_) => "BrokerRegistrationChange",
            Self::UnregisterBroker { .. } => "UnregisterBroker",
            Self::RegisterController(_) => "RegisterController",
            Self::Topic { .. } => "Topic",
            Self::Partition(_) => "Partition",
            Self::PartitionChange(_) => "PartitionChange",
            Self::RemoveTopic { .. } => "RemoveTopic",
            Self::Config { .. } => "Config",
            Self::ClearElr { .. } => "ClearElr",
            Self::ProducerIds { .. } => "ProducerIds",
        }
    }
}

/// See [`Record::RegisterBroker`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterBroker {
    /// The broker.
    pub id: NodeId,
    /// One life of the broker process.
    pub incarnation: Uuid,
    /// `None`: the offset of this record.
    pub epoch: Option<i64>,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// What it supports.
    pub features: Vec<(Arc<str>, VersionRange)>,
    /// Its rack.
    pub rack: Option<Arc<str>>,
    /// Its online log directories, sorted.
    pub log_dirs: Vec<Uuid>,
    /// Whether it is fenced.
    pub fenced: bool,
    /// Whether it is shutting down.
    pub in_controlled_shutdown: bool,
    /// Log directories that take no new replicas (KIP-1066), sorted; `None` until the broker has
    /// said which.
    pub cordoned_dirs: Option<Vec<Uuid>>,
}

/// See [`Record::BrokerRegistrationChange`]; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRegistrationChange {
    /// The broker.
    pub id: NodeId,
    /// The epoch it has.
    pub epoch: i64,
    /// Whether it is fenced.
    pub fenced: Option<bool>,
    /// Whether it is shutting down.
    pub in_controlled_shutdown: Option<bool>,
    /// Its online log directories, sorted.
    pub log_dirs: Option<Vec<Uuid>>,
    /// Log directories that take no new replicas, sorted.
    pub cordoned_dirs: Option<Vec<Uuid>>,
}

impl BrokerRegistrationChange {
    /// A change of nothing yet.
    #[must_use]
    pub const fn of(id: NodeId, epoch: i64) -> Self {
        Self {
            id,
            epoch,
            fenced: None,
            in_controlled_shutdown: None,
            log_dirs: None,
            cordoned_dirs: None,
        }
    }
}

/// See [`Record::RegisterController`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterController {
    /// The controller.
    pub id: NodeId,
    /// One life of the controller process.
    pub incarnation: Uuid,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// What it supports.
    pub features: Vec<(Arc<str>, VersionRange)>,
}

/// See [`Record::Partition`]. The lists follow `PartitionRegistration`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: PartitionId,
    /// Its state.
    pub state: super::topics::PartitionRegistration,
}

/// See [`Record::PartitionChange`]; `None` leaves a field as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionChange {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: PartitionId,
    /// The replicas, in order of preference.
    pub replicas: Option<Vec<NodeId>>,
    /// The directory of each replica.
    pub directories: Option<Vec<Uuid>>,
    /// The in-sync replicas.
    pub isr: Option<Vec<NodeId>>,
    /// Replicas that a reassignment adds.
    pub adding: Option<Vec<NodeId>>,
    /// Replicas that a reassignment removes.
    pub removing: Option<Vec<NodeId>>,
    /// The leader: `Some(None)` takes it away; `Some(Some(_))` sets it, the same one too. Either
    /// adds one to the leader epoch.
    pub leader: Option<Option<NodeId>>,
    /// The state of the leader's recovery.
    pub recovery: Option<LeaderRecoveryState>,
    /// The eligible leader replicas (KIP-966).
    pub elr: Option<Vec<NodeId>>,
    /// The last known eligible leader replicas.
    pub last_known_elr: Option<Vec<NodeId>>,
}

impl PartitionChange {
    /// A change of nothing yet.
    #[must_use]
    pub const fn of(topic_id: Uuid, partition: PartitionId) -> Self {
        Self {
            topic_id,
            partition,
            replicas: None,
            directories: None,
            isr: None,
            adding: None,
            removing: None,
            leader: None,
            recovery: None,
            elr: None,
            last_known_elr: None,
        }
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::of(self.topic_id, self.partition)
    }
}
