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

    /// Takes over who is active (neither fenced nor shutting down) with their epochs. Tells whether
    /// that is another set than before.
    pub fn set_active(&self, active: BTreeMap<NodeId, i64>) -> bool {
        let changed = **self.active.load() != active;
        if changed {
            self.active.store(Arc::new(active));
        }
        changed
    }

    /// As [`Brokers::set_active`], from the metadata.
    pub fn refresh(&self, brokers: &metadata::brokers::Brokers) -> bool {
        let active = brokers.iter().filter(|b| b.is_active());
        self.set_active(active.map(|b| (b.id, b.epoch)).collect())
    }

    /// The epoch of a broker that is active.
    #[must_use]
    pub fn active_epoch(&self, broker: NodeId) -> Option<i64> {
        self.active.load().get(&broker).copied()
    }
}
