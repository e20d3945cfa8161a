//! Topics and partitions: the aspect that must hold millions. A partition costs about 200 bytes; a
//! change copies one partition and the path to it.

use std::sync::Arc;

use imbl::{OrdMap, Vector};

use crate::base::{LeaderEpoch, NodeId, PartitionId, Uuid};

use super::{
    delta::ReplayError,
    record::{Partition, PartitionChange, Record},
};

/// Whether the leader recovers from an unclean election (KIP-704).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaderRecoveryState {
    /// It does not.
    #[default]
    Recovered,
    /// It does; the ISR has one member until it says that it is done.
    Recovering,
}

impl LeaderRecoveryState {
    /// Kafka's number of it.
    #[must_use]
    pub const fn code(self) -> i8 {
        match self {
            Self::Recovered => 0,
            Self::Recovering => 1,
        }
    }

    /// The state of that number, `None` if there is none.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            0 => Some(Self::Recovered),
            1 => Some(Self::Recovering),
            _ => None,
        }
    }
}

/// What most partitions do not have; kept apart so that they do not pay for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exceptional {
    /// Replicas that a reassignment adds.
    pub adding: Vec<NodeId>,
    /// Replicas that a reassignment removes.
    pub removing: Vec<NodeId>,
    /// Eligible leader replicas (KIP-966): outside the ISR, but known to hold all committed data.
    pub elr: Vec<NodeId>,
    /// The last leader before there was none.
    pub last_known_elr: Vec<NodeId>,
}

/// The state of a partition (`PartitionRegistration.java`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRegistration {
    /// The replicas; the first is the preferred leader.
    pub replicas: Box<[NodeId]>,
    /// The log directory of each replica: as many as there are replicas.
    pub directories: Box<[Uuid]>,
    /// The in-sync replicas: a subset of the replicas.
    pub isr: Box<[NodeId]>,
    /// The leader.
    pub leader: Option<NodeId>,
    /// Grows by one whenever a leader is set or taken away.
    pub leader_epoch: LeaderEpoch,
    /// Grows by one with every change.
    pub partition_epoch: i32,
    /// Whether the leader recovers from an unclean election.
    pub recovery: LeaderRecoveryState,
    /// Reassignment and eligible leader replicas, where there are any.
    pub exceptional: Option<Box<Exceptional>>,
}

impl PartitionRegistration {
    /// A new partition led by the first of `isr` (none if it is empty), both epochs 0.
    #[must_use]
    pub fn new(replicas: &[NodeId], directories: &[Uuid], isr: &[NodeId]) -> Self {
        Self {
            replicas: replicas.into(),
            directories: directories.into(),
            isr: isr.into(),
            leader: isr.first().copied(),
            leader_epoch: 0,
            partition_epoch: 0,
            recovery: LeaderRecoveryState::Recovered,
            exceptional: None,
        }
    }

    /// Replicas that a reassignment adds.
    #[must_use]
    pub fn adding(&self) -> &[NodeId] {
        self.exceptional.as_ref().map_or(&[], |e| &e.adding)
    }

    /// Replicas that a reassignment removes.
    #[must_use]
    pub fn removing(&self) -> &[NodeId] {
        self.exceptional.as_ref().map_or(&[], |e| &e.removing)
    }

    /// Eligible leader replicas.
    #[must_use]
    pub fn elr(&self) -> &[NodeId] {
        self.exceptional.as_ref().map_or(&[], |e| &e.elr)
    }

    /// The last leader before there was none.
    #[must_use]
    pub fn last_known_elr(&self) -> &[NodeId] {
        self.exceptional.as_ref().map_or(&[], |e| &e.last_known_elr)
    }

    /// The log directory of `node`'s replica; `None` if it has none of this partition.
    #[must_use]
    pub fn directory(&self, node: NodeId) -> Option<Uuid> {
        let i = self.replicas.iter().position(|r| *r == node)?;
        self.directories.get(i).copied()
    }

    /// Whether `node` holds a replica.
    #[must_use]
    pub fn has_replica(&self, node: NodeId) -> bool {
        self.replicas.contains(&node)
    }

    /// Sets what is exceptional; empty lists cost nothing.
    pub fn set_exceptional(&mut self, e: Exceptional) {
        self.exceptional = (e != Exceptional::default()).then(|| Box::new(e));
    }

    /// This partition after `change`.
    ///
    /// # Errors
    /// The rule that the result breaks, as text.
    pub fn merged(&self, change: &PartitionChange) -> Result<Self, &'static str> {
        let mut next = self.clone();
        if let Some(v) = &change.replicas {
            next.replicas = v.as_slice().into();
        }
        if let Some(v) = &change.directories {
            next.directories = v.as_slice().into();
        }
        if let Some(v) = &change.isr {
            next.isr = v.as_slice().into();
        }
        if let Some(leader) = change.leader {
            next.leader = leader;
            next.leader_epoch = self.leader_epoch.checked_add(1).ok_or("leader epoch overflows")?;
        }
        if let Some(v) = change.recovery {
            next.recovery = v;
        }
        let mut e = self.exceptional.as_deref().cloned().unwrap_or_default();
        for (to, from) in [
            (&mut e.adding, &change.adding),
            (&mut e.removing, &change.removing),
            (&mut e.elr, &change.elr),
            (&mut e.last_known_elr, &change.last_known_elr),
        ] {
            if let Some(v) = from {
                to.clone_from(v);
            }
        }
        next.set_exceptional(e);
        next.partition_epoch =
            self.partition_epoch.checked_add(1).ok_or("partition epoch overflows")?;
        next.check()?;
        Ok(next)
    }

    /// The rules that every partition keeps.
    ///
    /// # Errors
    /// The broken rule, as text.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.replicas.is_empty() {
            return Err("no replicas");
        }
        if self.directories.len() != self.replicas.len() {
            return Err("directories and replicas differ in number");
        }
        let repeats = |v: &[NodeId]| v.iter().enumerate().any(|(i, n)| v[..i].contains(n));
        if repeats(&self.replicas) || repeats(&self.isr) {
            return Err("a replica is named twice");
        }
        if !self.isr.iter().all(|n| self.replicas.contains(n)) {
            return Err("the ISR is not within the replicas");
        }
        if self.leader.is_some_and(|l| !self.isr.contains(&l)) {
            return Err("the leader is not in the ISR");
        }
        Ok(())
    }
}

/// A topic and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub id: Uuid,
    /// Its partitions: the index is the partition's number.
    pub partitions: Vector<Arc<PartitionRegistration>>,
}

impl Topic {
    /// Partition `p`.
    #[must_use]
    pub fn partition(&self, p: PartitionId) -> Option<&Arc<PartitionRegistration>> {
        self.partitions.get(usize::try_from(p).ok()?)
    }

    /// How many partitions it has.
    #[must_use]
    pub fn partition_count(&self) -> PartitionId {
        PartitionId::try_from(self.partitions.len()).unwrap_or(PartitionId::MAX)
    }

    /// Its partitions by number.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, &Arc<PartitionRegistration>)> {
        (0..).zip(self.partitions.iter())
    }
}

/// All topics.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topics {
    by_id: OrdMap<Uuid, Topic>,
    by_name: OrdMap<Arc<str>, Uuid>,
    partitions: usize,
}

impl Topics {
    /// The topic of that id.
    #[must_use]
    pub fn by_id(&self, id: Uuid) -> Option<&Topic> {
        self.by_id.get(&id)
    }

    /// The topic of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Topic> {
        self.by_name.get(name).and_then(|id| self.by_id.get(id))
    }

    /// The id of the topic of that name.
    #[must_use]
    pub fn id_of(&self, name: &str) -> Option<Uuid> {
        self.by_name.get(name).copied()
    }

    /// The partition of that topic and number.
    #[must_use]
    pub fn partition(&self, id: Uuid, p: PartitionId) -> Option<&Arc<PartitionRegistration>> {
        self.by_id.get(&id)?.partition(p)
    }

    /// All topics, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Topic> {
        self.by_name.values().filter_map(|id| self.by_id.get(id))
    }

    /// The names from `from` on, in order, with their ids.
    pub fn names_from<'a>(&'a self, from: &str) -> impl Iterator<Item = (&'a Arc<str>, Uuid)> {
        self.by_name
            .range::<_, str>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded))
            .map(|(name, id)| (name, *id))
    }

    /// How many topics there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// How many partitions all topics have.
    #[must_use]
    pub const fn partition_count(&self) -> usize {
        self.partitions
    }

    pub(super) fn create(&mut self, name: &Arc<str>, id: Uuid) -> Result<(), ReplayError> {
        if id.is_zero() || self.by_id.contains_key(&id) {
            return Err(ReplayError::TopicIdTaken { id });
        }
        if self.by_name.contains_key(name) {
            return Err(ReplayError::TopicNameTaken { name: Arc::clone(name) });
        }
        self.by_name.insert(Arc::clone(name), id);
        self.by_id.insert(id, Topic { name: Arc::clone(name), id, partitions: Vector::new() });
        Ok(())
    }

    pub(super) fn remove(&mut self, id: Uuid) -> Result<Topic, ReplayError> {
        let topic = self.by_id.remove(&id).ok_or(ReplayError::UnknownTopic { id })?;
        self.by_name.remove(&topic.name);
        self.partitions -= topic.partitions.len();
        Ok(topic)
    }

    pub(super) fn add_partition(&mut self, p: &Partition) -> Result<(), ReplayError> {
        let topic = self.by_id.get_mut(&p.topic_id);
        let topic = topic.ok_or(ReplayError::UnknownTopic { id: p.topic_id })?;
        let bad = |rule| ReplayError::BadPartition { id: p.topic_id, partition: p.partition, rule };
        if p.partition != topic.partition_count() {
            return Err(bad("partitions are created in order, each once"));
        }
        p.state.check().map_err(bad)?;
        topic.partitions.push_back(Arc::new(p.state.clone()));
        self.partitions += 1;
        Ok(())
    }

    pub(super) fn change_partition(&mut self, c: &PartitionChange) -> Result<(), ReplayError> {
        let topic = self.by_id.get_mut(&c.topic_id);
        let topic = topic.ok_or(ReplayError::UnknownTopic { id: c.topic_id })?;
        let bad = |rule| ReplayError::BadPartition { id: c.topic_id, partition: c.partition, rule };
        let at = usize::try_from(c.partition).map_err(|_| bad("its number is negative"))?;
        let old = topic.partitions.get(at).ok_or_else(|| bad("it does not exist"))?;
        let new = Arc::new(old.merged(c).map_err(bad)?);
        topic.partitions.set(at, new);
        Ok(())
    }

    /// Takes the eligible leader replicas of all partitions of a topic away; which had any.
    pub(super) fn clear_elr(&mut self, id: Uuid) -> Result<Vec<PartitionId>, ReplayError> {
        let topic = self.by_id.get(&id).ok_or(ReplayError::UnknownTopic { id })?;
        let had = |p: &PartitionRegistration| !p.elr().is_empty() || !p.last_known_elr().is_empty();
        let cleared: Vec<PartitionId> =
            topic.iter().filter(|(_, state)| had(state)).map(|(p, _)| p).collect();
        for partition in &cleared {
            self.change_partition(&PartitionChange {
                elr: Some(Vec::new()),
                last_known_elr: Some(Vec::new()),
                ..PartitionChange::of(id, *partition)
            })?;
        }
        Ok(cleared)
    }

    /// The ids of all topics, in order.
    pub(super) fn ids(&self) -> Vec<Uuid> {
        self.by_id.keys().copied().collect()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.iter().flat_map(|t| {
            let head = Record::Topic { name: Arc::clone(&t.name), id: t.id };
            let parts = t.iter().map(|(partition, state)| {
                let state = state.as_ref().clone();
                Record::Partition(Partition { topic_id: t.id, partition, state })
            });
            std::iter::once(head).chain(parts)
        })
    }
}
