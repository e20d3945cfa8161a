//! What the partitions of this broker know of the others: who may be in an ISR, and under which
//! broker epoch (KIP-841, KIP-903). Plain data, replaced as a whole when metadata changes.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;

use crate::{base::NodeId, metadata};

/// The brokers as this one sees them; shared by all its partitions.
#[derive(Debug)]
pub struct Brokers {
    /// This broker.
    pub node_id: NodeId,
    active: ArcSwap<BTreeMap<NodeId, i64>>,
}

impl Brokers {
    /// What `node_id` knows before it has seen any metadata: nobody is active.
    #[must_use]
    pub fn new(node_id: NodeId) -> Arc<Self> {
        Arc::new(Self { node_id, active: ArcSwap::default() })
    }

    /// Takes over who is active (neither fenced nor shutting down) with their epochs. Returns those
    /// that were not before, or under another epoch.
    pub fn set_active(&self, active: BTreeMap<NodeId, i64>) -> Vec<NodeId> {
        let before = self.active.load();
        let new = active.iter().filter(|(id, epoch)| before.get(id) != Some(epoch));
        let new = new.map(|(id, _)| *id).collect();
        self.active.store(Arc::new(active));
        new
    }

    /// As [`Brokers::set_active`], from the metadata.
    pub fn refresh(&self, brokers: &metadata::brokers::Brokers) -> Vec<NodeId> {
        let active = brokers.iter().filter(|b| b.is_active());
        self.set_active(active.map(|b| (b.id, b.epoch)).collect())
    }

    /// The epoch of a broker that is active.
    #[must_use]
    pub fn active_epoch(&self, broker: NodeId) -> Option<i64> {
        self.active.load().get(&broker).copied()
    }
}
