//! From metadata to replicas: what a delta means for this broker. Pure but for the logs' files.

use std::sync::Arc;

use super::{
    partition::Partition,
    settings::PartitionSettings,
    table::{ReplicaTable, Slot},
};
use crate::{
    base::{NodeId, Now, PartitionId, TopicPartition, Uuid},
    log::{Log, names::Fate},
    metadata::{Delta, Image, PartitionDiff, PartitionRegistration},
};

/// A partition that this broker began or ceased to lead: coordinators live on those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Office {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: PartitionId,
    /// The epoch it leads under, or of the leader that follows it.
    pub leader_epoch: i32,
    /// Whether it leads.
    pub leads: bool,
}

/// A replica whose fetching is to change.
#[derive(Debug, Clone)]
pub struct Following {
    /// The replica.
    pub slot: Arc<Slot>,
    /// Whom to fetch from; `None`: from nobody, any longer or for now.
    pub leader: Option<NodeId>,
    /// The leader's epoch.
    pub leader_epoch: i32,
}

/// What a delta means outside of the replicas.
#[derive(Debug, Default)]
pub struct Published {
    /// For the coordinators.
    pub offices: Vec<Office>,
    /// For the fetchers.
    pub following: Vec<Following>,
}

impl ReplicaTable {
    /// Brings the replicas in line with `delta`, whose result is `image`: makes new ones, gives and
    /// takes office, retires those that went. `settings` gives the settings of a topic.
    pub fn publish(
        &self,
        delta: &Delta,
        image: &Image,
        settings: &mut dyn FnMut(&str) -> Arc<PartitionSettings>,
    ) -> Published {
        self.refresh_brokers(image.brokers());
        let admitted = self.life.admit(self.node_id, image.brokers());
        let mut published = Published::default();
        for diff in delta.changed_partitions() {
            let mine =
                |p: Option<&PartitionRegistration>| p.is_some_and(|p| p.has_replica(self.node_id));
            match diff.new.filter(|p| p.has_replica(self.node_id)) {
                Some(new) => self.take_on(&diff, new, settings, &mut published),
                None if mine(diff.old) => self.let_go(&diff, &mut published),
                None => {}
            }
        }
        if admitted {
            self.take_office(image, settings, &mut published);
        }
        published
    }

    /// Leads what `image` says that this broker leads, now that it may.
    fn take_office(
        &self,
        image: &Image,
        settings: &mut dyn FnMut(&str) -> Arc<PartitionSettings>,
        published: &mut Published,
    ) {
        let all = Delta::between(&Image::default(), image);
        for diff in all.changed_partitions() {
            let leads = diff.new.filter(|p| p.leader == Some(self.node_id));
            let slot = self.by_id(diff.topic_id, diff.partition);
            if let (Some(new), Some(slot)) = (leads, slot)
                && !slot.lock().leads()
            {
                self.take_on(&diff, new, settings, published);
            }
        }
    }

    fn take_on(
        &self,
        diff: &PartitionDiff<'_>,
        new: &PartitionRegistration,
        settings: &mut dyn FnMut(&str) -> Arc<PartitionSettings>,
        published: &mut Published,
    ) {
        if self.by_id(diff.topic_id, diff.partition).is_none() {
            let id = TopicPartition::new(Arc::clone(diff.topic), diff.partition);
            let said = new.directory(self.node_id).unwrap_or_default();
            let is_new = diff.old.is_none_or(|old| !old.has_replica(self.node_id));
            let preferred = self.moves.take_preferred(&id);
            match self.dir_for(said, is_new, preferred) {
                Some(dir) => self.make(&id, diff.topic_id, dir, settings(diff.topic)),
                None => tracing::error!(
                    partition = %id,
                    "not made: its log may lie in a log directory that is offline"
                ),
            }
        }
        let Some(slot) = self.by_id(diff.topic_id, diff.partition) else { return };
        let mut partition = slot.lock();
        let led = partition.leads();
        let leads = new.leader == Some(self.node_id) && self.life.may_lead();
        let news = led != leads || partition.leader_epoch() != new.leader_epoch;
        let now = self.clock.now();
        let (mut anew, mut flush) = (led != leads, false);
        if leads {
            partition.lead(new, now);
            flush = self.look_after(&slot, &mut partition, now);
        } else if new.leader == Some(self.node_id) {
            // Not yet: until then nobody leads.
            anew |= partition.follow(&PartitionRegistration { leader: None, ..new.clone() });
        } else {
            anew |= partition.follow(new);
        }
        drop(partition);
        if flush {
            self.flush(&slot);
        }
        if anew {
            published.following.push(Following {
                slot: Arc::clone(&slot),
                leader: new.leader.filter(|l| *l != self.node_id),
                leader_epoch: new.leader_epoch,
            });
        }
        if news && (led || leads) {
            published.offices.push(Office {
                topic: Arc::clone(diff.topic),
                partition: diff.partition,
                leader_epoch: new.leader_epoch,
                leads,
            });
        }
    }

    /// A leader's first steps: its followers may lag from the start, an election may have to be
    /// confirmed, and in the durable mode what it has must get to the disk before it counts: tells
    /// whether a flush is due.
    fn look_after(&self, slot: &Arc<Slot>, partition: &mut Partition, now: Now) -> bool {
        if partition.begins_to_lag(now) {
            self.isr.watch(slot);
        }
        if partition.wants_proposal(now) {
            self.isr.propose(slot);
        }
        partition.flush_due(now)
    }

    fn make(
        &self,
        id: &TopicPartition,
        topic_id: Uuid,
        dir: usize,
        settings: Arc<PartitionSettings>,
    ) {
        let log_dir = Arc::clone(&self.dirs()[dir].log_dir);
        let config = Arc::clone(&settings.log);
        let log = Log::create(log_dir, id.clone(), Some(topic_id), config, self.clock.now());
        self.add(id, topic_id, dir, Partition::new(Arc::clone(&self.brokers), log, settings, 0));
    }

    fn let_go(&self, diff: &PartitionDiff<'_>, published: &mut Published) {
        let Some(slot) = self.remove(diff.topic_id, diff.partition) else { return };
        published.following.push(Following {
            slot: Arc::clone(&slot),
            leader: None,
            leader_epoch: i32::MAX,
        });
        let mut partition = slot.lock();
        if partition.leads() {
            published.offices.push(Office {
                topic: Arc::clone(diff.topic),
                partition: diff.partition,
                leader_epoch: partition.leader_epoch(),
                leads: false,
            });
        }
        partition.resign(i32::MAX);
        self.give_up(&slot, &mut partition, self.clock.now());
        partition.log.close_files();
        let delay = partition.log.config().file_delete_delay_ms;
        let dir = &self.dirs()[slot.dir()].log_dir;
        let (now, unique) = (self.clock.now(), self.entropy.uuid());
        if let Err(e) = dir.retire(&slot.id(), Fate::Delete, unique, delay, now) {
            tracing::error!(partition = %slot.id(), "cannot delete the replica: {e}");
        }
    }

    /// Gives changed settings to the replicas of `topic`.
    pub fn configure(&self, topic: Uuid, settings: &Arc<PartitionSettings>) {
        for slot in self.of_topic(topic) {
            slot.lock().configure(Arc::clone(settings));
        }
    }
}
