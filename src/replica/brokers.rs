//! What the partitions of this broker know of the others: who may be in an ISR, and under which
//! broker epoch (KIP-841, KIP-903). Plain data, replaced as a whole when metadata changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arc_swap::ArcSwap;

use crate::{base::NodeId, metadata};

/// The brokers as this one sees them; shared by all its partitions.
#[derive(Debug)]
pub struct Brokers {
    /// This broker.
    pub node_id: NodeId,
    active: ArcSwap<BTreeMap<NodeId, i64>>,
    alive: ArcSwap<BTreeSet<NodeId>>,
}

impl Brokers {
    /// What `node_id` knows before it has seen any metadata: nobody is active.
    #[must_use]
    pub fn new(node_id: NodeId) -> Arc<Self> {
        Arc::new(Self { node_id, active: ArcSwap::default(), alive: ArcSwap::default() })
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

    /// Takes over who is not fenced. Tells whether that is another set than before.
    pub fn set_alive(&self, alive: BTreeSet<NodeId>) -> bool {
        let changed = **self.alive.load() != alive;
        if changed {
            self.alive.store(Arc::new(alive));
        }
        changed
    }

    /// As [`Brokers::set_active`] and [`Brokers::set_alive`], from the metadata.
    pub fn refresh(&self, brokers: &metadata::brokers::Brokers) -> bool {
        let alive = self.set_alive(brokers.iter().filter(|b| !b.fenced).map(|b| b.id).collect());
        let active = brokers.iter().filter(|b| b.is_active());
        self.set_active(active.map(|b| (b.id, b.epoch)).collect()) || alive
    }

    /// Whether a broker is not fenced (`MetadataCache.hasAliveBroker`).
    #[must_use]
    pub fn is_alive(&self, broker: NodeId) -> bool {
        self.alive.load().contains(&broker)
    }

    /// The epoch of a broker that is active.
    #[must_use]
    pub fn active_epoch(&self, broker: NodeId) -> Option<i64> {
        self.active.load().get(&broker).copied()
    }
}
