//! An index over the committed image, by broker: without it, fencing one broker would walk every
//! partition. Rebuilt on activation, then kept up with what is committed.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{NodeId, PartitionId, Uuid};
use crate::metadata::{Delta, Image, PartitionRegistration};

/// A partition by topic id.
pub(super) type PartitionKey = (Uuid, PartitionId);

#[derive(Debug, Default, PartialEq, Eq)]
struct OfBroker {
    /// Topics that have replicas here, with their number.
    topics: BTreeMap<Uuid, u32>,
    leads: usize,
}

/// See the file's head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    brokers: BTreeMap<NodeId, OfBroker>,
    leaderless: BTreeSet<PartitionKey>,
    imbalanced: BTreeSet<PartitionKey>,
}

impl Index {
    pub(super) fn of(image: &Image) -> Self {
        let mut index = Self::default();
        for topic in image.topics().iter() {
            for (p, state) in topic.iter() {
                index.add((topic.id, p), state);
            }
        }
        index
    }

    /// Takes in what was committed.
    pub(super) fn follow(&mut self, delta: &Delta) {
        for d in delta.changed_partitions() {
            let key = (d.topic_id, d.partition);
            if let Some(old) = d.old {
                self.remove(key, old);
            }
            if let Some(new) = d.new {
                self.add(key, new);
            }
        }
    }

    fn add(&mut self, key: PartitionKey, state: &PartitionRegistration) {
        for r in &state.replicas {
            *self.brokers.entry(*r).or_default().topics.entry(key.0).or_default() += 1;
        }
        match state.leader {
            Some(leader) => self.brokers.entry(leader).or_default().leads += 1,
            None => {
                self.leaderless.insert(key);
            }
        }
        if state.leader != state.replicas.first().copied() {
            self.imbalanced.insert(key);
        }
    }

    fn remove(&mut self, key: PartitionKey, state: &PartitionRegistration) {
        if let Some(b) = state.leader.and_then(|l| self.brokers.get_mut(&l)) {
            b.leads -= 1;
        }
        for r in &state.replicas {
            let Some(b) = self.brokers.get_mut(r) else { continue };
            if let Some(n) = b.topics.get_mut(&key.0) {
                *n -= 1;
                if *n == 0 {
                    b.topics.remove(&key.0);
                }
            }
            // Nothing is remembered of a broker that has nothing.
            if *b == OfBroker::default() {
                self.brokers.remove(r);
            }
        }
        self.leaderless.remove(&key);
        self.imbalanced.remove(&key);
    }

    /// How many partitions the broker leads.
    pub(super) fn leads(&self, broker: NodeId) -> usize {
        self.brokers.get(&broker).map_or(0, |b| b.leads)
    }

    /// Topics with a replica on the broker.
    pub(super) fn topics_of(&self, broker: NodeId) -> impl Iterator<Item = Uuid> + '_ {
        self.brokers.get(&broker).into_iter().flat_map(|b| b.topics.keys().copied())
    }

    /// Partitions without a leader.
    pub(super) const fn leaderless(&self) -> &BTreeSet<PartitionKey> {
        &self.leaderless
    }

    /// Partitions that another replica than the preferred one leads, or none.
    pub(super) const fn imbalanced(&self) -> &BTreeSet<PartitionKey> {
        &self.imbalanced
    }
}
