//! An index over the committed image, by broker: without it, fencing one broker would walk every
//! partition. Rebuilt on activation, then kept up with what is committed.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{NodeId, PartitionId, Uuid};
use crate::metadata::{Delta, Image, PartitionRegistration};

/// A partition by topic id.
pub(super) type PartitionKey = (Uuid, PartitionId);

#[derive(Debug, Default, PartialEq, Eq)]
struct OfBroker {
    replicas: BTreeSet<PartitionKey>,
    leads: usize,
}

/// See the file's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    brokers: BTreeMap<NodeId, OfBroker>,
    leaderless: BTreeSet<PartitionKey>,
    imbalanced: BTreeSet<PartitionKey>,
    reassigning: BTreeSet<PartitionKey>,
}

/// Whether a reassignment of the partition is under way.
pub(super) fn is_reassigning(p: &PartitionRegistration) -> bool {
    !p.adding().is_empty() || !p.removing().is_empty()
}

/// Whether the preferred replica does not lead.
pub(super) fn is_imbalanced(p: &PartitionRegistration) -> bool {
    p.leader != p.replicas.first().copied()
}

impl Index {
    pub(super) fn of(image: &Image) -> Self {
        let mut index = Self::default();
        let mut replicas: BTreeMap<NodeId, Vec<PartitionKey>> = BTreeMap::new();
        for topic in image.topics().iter() {
            for (p, state) in topic.iter() {
                let key = (topic.id, p);
                for r in &state.replicas {
                    replicas.entry(*r).or_default().push(key);
                }
                index.add(key, state, false);
            }
        }
        for (broker, keys) in replicas {
            // Built in one go: much cheaper than one by one.
            index.brokers.entry(broker).or_default().replicas = keys.into_iter().collect();
        }
        index
    }

    /// Takes in what was committed.
    pub(super) fn follow(&mut self, delta: &Delta) {
        for d in delta.changed_partitions() {
            let key = (d.topic_id, d.partition);
            let moved = d.old.map(|p| &p.replicas) != d.new.map(|p| &p.replicas);
            if let Some(old) = d.old {
                self.remove(key, old, moved);
            }
            if let Some(new) = d.new {
                self.add(key, new, moved);
            }
        }
        self.brokers.retain(|_, b| !b.replicas.is_empty() || b.leads > 0);
    }

    /// `moved` tells whether the replicas differ from those before.
    fn add(&mut self, key: PartitionKey, state: &PartitionRegistration, moved: bool) {
        if moved {
            for r in &state.replicas {
                self.brokers.entry(*r).or_default().replicas.insert(key);
            }
        }
        match state.leader {
            Some(leader) => self.brokers.entry(leader).or_default().leads += 1,
            None => {
                self.leaderless.insert(key);
            }
        }
        if is_imbalanced(state) {
            self.imbalanced.insert(key);
        }
        if is_reassigning(state) {
            self.reassigning.insert(key);
        }
    }

    fn remove(&mut self, key: PartitionKey, state: &PartitionRegistration, moved: bool) {
        if moved {
            for r in &state.replicas {
                if let Some(b) = self.brokers.get_mut(r) {
                    b.replicas.remove(&key);
                }
            }
        }
        if let Some(b) = state.leader.and_then(|l| self.brokers.get_mut(&l)) {
            b.leads -= 1;
        }
        self.leaderless.remove(&key);
        self.imbalanced.remove(&key);
        self.reassigning.remove(&key);
    }

    /// How many partitions the broker leads.
    pub(super) fn leads(&self, broker: NodeId) -> usize {
        self.brokers.get(&broker).map_or(0, |b| b.leads)
    }

    /// Partitions with a replica on the broker.
    pub(super) fn replicas_on(&self, broker: NodeId) -> impl Iterator<Item = PartitionKey> + '_ {
        self.brokers.get(&broker).into_iter().flat_map(|b| b.replicas.iter().copied())
    }

    /// Partitions without a leader.
    pub(super) const fn leaderless(&self) -> &BTreeSet<PartitionKey> {
        &self.leaderless
    }

    /// Partitions that another replica than the preferred one leads, or none.
    pub(super) const fn imbalanced(&self) -> &BTreeSet<PartitionKey> {
        &self.imbalanced
    }

    /// Partitions whose replicas are being moved.
    pub(super) const fn reassigning(&self) -> &BTreeSet<PartitionKey> {
        &self.reassigning
    }
}
