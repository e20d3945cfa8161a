//! What assignors are given and give back, and which there are (`ConsumerGroupPartitionAssignor`).
//! Neither of them looks at racks, as in Kafka 4.3. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{assignor_mixed, assignor_range, assignor_uniform, consumer_records::Partitions};
use crate::base::{PartitionId, Uuid};

/// Whether all members read the same topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscriptions {
    /// They do.
    Same,
    /// They do not, or it cannot be told cheaply.
    Mixed,
}

/// A member, as assignors see it.
#[derive(Debug, Clone)]
pub struct MemberSpec {
    /// Its id.
    pub id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// The topics it reads; each has a count in [`Spec::counts`].
    pub topics: Arc<BTreeSet<Uuid>>,
    /// Its part of the last target.
    pub assigned: Arc<Partitions>,
}

/// A group, as assignors see it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// By id; at least one.
    pub members: Vec<MemberSpec>,
    /// Partitions of every topic that is read.
    pub counts: BTreeMap<Uuid, PartitionId>,
    /// What the group says of its subscriptions.
    pub subscriptions: Subscriptions,
}

/// A target: what each member of the spec shall have, in the same order. What stays as it was is
/// shared with the spec.
pub type Target = Vec<Arc<Partitions>>;

/// An assignor of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assignor {
    /// Balanced within one partition, moves as little as it can.
    Uniform,
    /// Contiguous ranges of each topic, so that topics with equal counts are co-partitioned.
    Range,
}

impl Assignor {
    /// Its name in requests and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// The assignor of that name, or of the class that Kafka keeps it in.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.strip_prefix("org.apache.kafka.coordinator.group.assignor.").unwrap_or(name) {
            "uniform" | "UniformAssignor" => Some(Self::Uniform),
            "range" | "RangeAssignor" => Some(Self::Range),
            _ => None,
        }
    }

    /// A target in which every partition of a topic that somebody reads has exactly one member, who
    /// reads it.
    #[must_use]
    pub fn assign(self, spec: &Spec) -> Target {
        match (self, spec.subscriptions) {
            _ if spec.members.is_empty() => Target::new(),
            (Self::Uniform, Subscriptions::Same) => assignor_uniform::assign(spec),
            (Self::Uniform, Subscriptions::Mixed) => assignor_mixed::assign(spec),
            (Self::Range, _) => assignor_range::assign(spec),
        }
    }
}

/// An index from a count that is not negative.
pub(super) fn index(n: PartitionId) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// What members may keep of the last target: partitions of topics they read that exist, each with
/// one owner. `owners` holds the index of the member by topic and partition.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) shares: Target,
    pub(super) owners: BTreeMap<Uuid, Vec<Option<usize>>>,
}

impl Kept {
    pub(super) fn of(spec: &Spec) -> Self {
        let free = |n: &PartitionId| vec![None; index(*n)];
        let mut owners: BTreeMap<_, _> =
            spec.counts.iter().map(|(topic, n)| (*topic, free(n))).collect();
        let mut shares = Target::with_capacity(spec.members.len());
        for (at, member) in spec.members.iter().enumerate() {
            let mut lost = Vec::new();
            for (topic, partitions) in &*member.assigned {
                let mut held = owners.get_mut(topic).filter(|_| member.topics.contains(topic));
                for p in partitions {
                    let slot = held
                        .as_mut()
                        .and_then(|held| usize::try_from(*p).ok().and_then(|p| held.get_mut(p)))
                        .filter(|slot| slot.is_none());
                    match slot {
                        Some(slot) => *slot = Some(at),
                        None => lost.push((*topic, *p)),
                    }
                }
            }
            shares.push(without(&member.assigned, &lost));
        }
        Self { shares, owners }
    }
}

/// `from` without `lost`; the same if nothing is.
pub(super) fn without(from: &Arc<Partitions>, lost: &[(Uuid, PartitionId)]) -> Arc<Partitions> {
    if lost.is_empty() {
        return from.clone();
    }
    let mut left = Partitions::clone(from);
    for (topic, partition) in lost {
        if let Some(partitions) = left.get_mut(topic) {
            partitions.remove(partition);
            if partitions.is_empty() {
                left.remove(topic);
            }
        }
    }
    Arc::new(left)
}
