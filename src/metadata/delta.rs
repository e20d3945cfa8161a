//! The delta: an image and what has been replayed onto it. [`Delta::replay`] is the only switch over
//! records and the only place that changes metadata. What it touches is remembered, so that those
//! who publish an image look only at what changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::base::{NodeId, PartitionId, Uuid};

use super::{
    brokers::BrokerRegistration,
    configs::ConfigResource,
    image::{Image, Position},
    record::Record,
    topics::{PartitionRegistration, Topic},
};

/// A record does not fit the image. On a follower this means that its image is not the leader's:
/// it must stop and start again from a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// A change or the end of a registration that there is not.
    #[error("broker {id} is not registered")]
    UnknownBroker {
        /// The broker.
        id: NodeId,
    },
    /// A change of another incarnation's registration.
    #[error("broker {id} has epoch {known}, the record names {epoch}")]
    OtherBrokerEpoch {
        /// The broker.
        id: NodeId,
        /// The record's epoch.
        epoch: i64,
        /// The registration's epoch.
        known: i64,
    },
    /// A partition or the end of a topic that there is not.
    #[error("there is no topic of id {id}")]
    UnknownTopic {
        /// The id.
        id: Uuid,
    },
    /// A topic whose id cannot be.
    #[error("topic id {id} is taken or zero")]
    TopicIdTaken {
        /// The id.
        id: Uuid,
    },
    /// A second topic of a name.
    #[error("topic name {name} is taken")]
    TopicNameTaken {
        /// The name.
        name: Arc<str>,
    },
    /// A partition that would break a rule.
    #[error("partition {partition} of topic {id}: {rule}")]
    BadPartition {
        /// The topic's id.
        id: Uuid,
        /// The partition's number.
        partition: PartitionId,
        /// The rule.
        rule: &'static str,
    },
    /// Producer ids that were handed out would be handed out again.
    #[error("next producer id {next} is below {known}")]
    ProducerIdsGoBack {
        /// The record's.
        next: i64,
        /// The image's.
        known: i64,
    },
    /// A level that cannot be.
    #[error("feature {name} at level {level}, which is negative")]
    BadFeatureLevel {
        /// The feature.
        name: Arc<str>,
        /// The level.
        level: i16,
    },
}

/// A partition that is new, gone or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionDiff<'a> {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The topic's name.
    pub topic: &'a Arc<str>,
    /// The partition's number.
    pub partition: PartitionId,
    /// Before; `None` if it is new.
    pub old: Option<&'a PartitionRegistration>,
    /// After; `None` if it is gone.
    pub new: Option<&'a PartitionRegistration>,
}

#[derive(Debug, Clone, Default)]
struct Touched {
    features: bool,
    producer_ids: bool,
    brokers: BTreeSet<NodeId>,
    controllers: BTreeSet<NodeId>,
    topics: BTreeMap<Uuid, BTreeSet<PartitionId>>,
    configs: BTreeSet<ConfigResource>,
}

/// An image before, the image after, and what lies between.
#[derive(Debug, Clone)]
pub struct Delta {
    base: Image,
    next: Image,
    touched: Touched,
}

impl Delta {
    /// No change of `image` yet.
    #[must_use]
    pub fn new(image: &Image) -> Self {
        Self { base: image.clone(), next: image.clone(), touched: Touched::default() }
    }

    /// What lies between two images that do not share a history, such as a checkpoint and the image
    /// that it replaces. Costs a walk over both.
    #[must_use]
    pub fn between(old: &Image, new: &Image) -> Self {
        let mut touched = Touched {
            features: old.features != new.features,
            producer_ids: old.next_producer_id != new.next_producer_id,
            ..Touched::default()
        };
        let ids = |i: &Image| -> BTreeSet<NodeId> { i.brokers.iter().map(|b| b.id).collect() };
        for id in ids(old).union(&ids(new)) {
            if old.brokers.get(*id) != new.brokers.get(*id) {
                touched.brokers.insert(*id);
            }
        }
        let ids = |i: &Image| -> BTreeSet<_> { i.brokers.controllers().map(|c| c.id).collect() };
        for id in ids(old).union(&ids(new)) {
            if old.brokers.controller(*id) != new.brokers.controller(*id) {
                touched.controllers.insert(*id);
            }
        }
        for (resource, keys) in old.configs.iter() {
            if new.configs.get(resource) != Some(keys) {
                touched.configs.insert(resource.clone());
            }
        }
        for (resource, _) in new.configs.iter() {
            if old.configs.get(resource).is_none() {
                touched.configs.insert(resource.clone());
            }
        }
        for topic in old.topics.iter() {
            Self::touch_differences(&mut touched, topic, new.topics.by_id(topic.id));
        }
        for topic in new.topics.iter() {
            if old.topics.by_id(topic.id).is_none() {
                touched.topics.insert(topic.id, topic.iter().map(|(p, _)| p).collect());
            }
        }
        Self { base: old.clone(), next: new.clone(), touched }
    }

    fn touch_differences(touched: &mut Touched, old: &Topic, new: Option<&Topic>) {
        let Some(new) = new else {
            touched.topics.insert(old.id, BTreeSet::new());
            return;
        };
        let count = old.partition_count().max(new.partition_count());
        let differ: BTreeSet<_> =
            (0..count).filter(|p| old.partition(*p) != new.partition(*p)).collect();
        if !differ.is_empty() {
            touched.topics.insert(old.id, differ);
        }
    }

    /// Applies one record, which stands at `offset`.
    ///
    /// # Errors
    /// The record does not fit; nothing has changed.
    pub fn replay(&mut self, record: &Record, offset: i64) -> Result<(), ReplayError> {
        let (next, touched) = (&mut self.next, &mut self.touched);
        match record {
            Record::NoOp => {}
            Record::FeatureLevel { name, level } => {
                if *level < 0 {
                    let name = Arc::clone(name);
                    return Err(ReplayError::BadFeatureLevel { name, level: *level });
                }
                next.features.set(name, *level);
                touched.features = true;
            }
            Record::RegisterBroker(r) => {
                next.brokers.register(r, offset);
                touched.brokers.insert(r.id);
            }
            Record::BrokerRegistrationChange(c) => {
                next.brokers.change(c)?;
                touched.brokers.insert(c.id);
            }
            Record::UnregisterBroker { broker, epoch } => {
                next.brokers.unregister(*broker, *epoch)?;
                touched.brokers.insert(*broker);
            }
            Record::RegisterController(r) => {
                next.brokers.register_controller(r);
                touched.controllers.insert(r.id);
            }
            Record::Topic { name, id } => {
                next.topics.create(name, *id)?;
                touched.topics.entry(*id).or_default();
            }
            Record::Partition(p) => {
                next.topics.add_partition(p)?;
                touched.topics.entry(p.topic_id).or_default().insert(p.partition);
            }
            Record::PartitionChange(c) => {
                next.topics.change_partition(c)?;
                touched.topics.entry(c.topic_id).or_default().insert(c.partition);
            }
            Record::RemoveTopic { id } => Self::remove_topic(next, touched, *id)?,
            Record::Config { resource, key, value } => {
                next.configs.set(resource, key, value.as_deref());
                touched.configs.insert(resource.clone());
            }
            Record::ClearElr { topic } => Self::clear_elr(next, touched, *topic)?,
            Record::ProducerIds { next: to, .. } => {
                if *to < next.next_producer_id {
                    let known = next.next_producer_id;
                    return Err(ReplayError::ProducerIdsGoBack { next: *to, known });
                }
                next.next_producer_id = *to;
                touched.producer_ids = true;
            }
        }
        Ok(())
    }

    fn clear_elr(
        next: &mut Image,
        touched: &mut Touched,
        topic: Option<Uuid>,
    ) -> Result<(), ReplayError> {
        let ids = topic.map_or_else(|| next.topics.ids(), |id| vec![id]);
        for id in ids {
            let cleared = next.topics.clear_elr(id)?;
            if !cleared.is_empty() {
                touched.topics.entry(id).or_default().extend(cleared);
            }
        }
        Ok(())
    }

    fn remove_topic(next: &mut Image, touched: &mut Touched, id: Uuid) -> Result<(), ReplayError> {
        let topic = next.topics.remove(id)?;
        touched.topics.entry(id).or_default();
        let resource = ConfigResource::topic(topic.name);
        if next.configs.remove(&resource) {
            touched.configs.insert(resource);
        }
        Ok(())
    }

    /// The image before.
    #[must_use]
    pub const fn base(&self) -> &Image {
        &self.base
    }

    /// The image after, as far as it has been replayed.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.next
    }

    /// Says where the log stands after what was replayed.
    pub const fn advance(&mut self, to: Position) {
        self.next.position = to;
    }

    /// The image after.
    #[must_use]
    pub fn apply(&self) -> Image {
        self.next.clone()
    }

    /// Whether no record touched anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let t = &self.touched;
        !t.features
            && !t.producer_ids
            && t.brokers.is_empty()
            && t.controllers.is_empty()
            && t.topics.is_empty()
            && t.configs.is_empty()
    }

    /// Whether a finalized feature changed.
    #[must_use]
    pub fn features_changed(&self) -> bool {
        self.touched.features && self.base.features != self.next.features
    }

    /// Topics that are there now and were not before, by id.
    pub fn created_topics(&self) -> impl Iterator<Item = &Topic> {
        self.touched
            .topics
            .keys()
            .filter(|id| self.base.topics.by_id(**id).is_none())
            .filter_map(|id| self.next.topics.by_id(*id))
    }

    /// Topics that were there before and are gone, as they were, by id.
    pub fn deleted_topics(&self) -> impl Iterator<Item = &Topic> {
        self.touched
            .topics
            .keys()
            .filter(|id| self.next.topics.by_id(**id).is_none())
            .filter_map(|id| self.base.topics.by_id(*id))
    }

    /// Ids of topics that are new, gone, or have a partition that is new or changed.
    pub fn changed_topics(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.touched.topics.keys().copied()
    }

    /// Partitions that are new, gone or changed, by topic id and number.
    pub fn changed_partitions(&self) -> impl Iterator<Item = PartitionDiff<'_>> {
        self.touched.topics.iter().flat_map(|(id, partitions)| self.diffs_of(*id, partitions))
    }

    fn diffs_of<'a>(
        &'a self,
        topic_id: Uuid,
        partitions: &'a BTreeSet<PartitionId>,
    ) -> impl Iterator<Item = PartitionDiff<'a>> {
        let (old, new) = (self.base.topics.by_id(topic_id), self.next.topics.by_id(topic_id));
        let all_gone = new.is_none().then(|| 0..old.map_or(0, Topic::partition_count));
        let some = new.is_some().then(|| partitions.iter().copied());
        let name = new.or(old).map(|t| &t.name);
        let ids = all_gone.into_iter().flatten().chain(some.into_iter().flatten());
        ids.filter_map(move |partition| {
            let at = |t: Option<&'a Topic>| t?.partition(partition).map(AsRef::as_ref);
            let diff =
                PartitionDiff { topic_id, topic: name?, partition, old: at(old), new: at(new) };
            (diff.old != diff.new).then_some(diff)
        })
    }

    /// Resources whose keys changed, with the keys now (`None`: it has none).
    pub fn changed_configs(&self) -> impl Iterator<Item = &ConfigResource> {
        self.touched.configs.iter().filter(|r| self.base.configs.get(r) != self.next.configs.get(r))
    }

    /// Brokers whose registration is new, gone or changed: id, before, after.
    pub fn changed_brokers(
        &self,
    ) -> impl Iterator<Item = (NodeId, Option<&BrokerRegistration>, Option<&BrokerRegistration>)>
    {
        self.touched.brokers.iter().filter_map(|id| {
            let (old, new) = (self.base.brokers.get(*id), self.next.brokers.get(*id));
            (old != new).then_some((*id, old.map(AsRef::as_ref), new.map(AsRef::as_ref)))
        })
    }

    /// Controllers whose registration was replayed.
    pub fn changed_controllers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.touched.controllers.iter().copied()
    }
}
