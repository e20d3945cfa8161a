//! Changes of many partitions at once: a broker is fenced, unfenced, stops, loses a directory; the
//! sweeps for preferred and unclean leaders (`ReplicationControlManager.generateLeaderAndIsrUpdates`).

use std::collections::BTreeSet;

use crate::base::{NodeId, Uuid};
use crate::metadata::record::{BrokerRegistrationChange, PartitionChange};
use crate::metadata::{BrokerRegistration, PartitionRegistration, Record, Topic};

use super::{
    index::PartitionKey,
    partitions::{ChangeBuilder, Election, Rules},
    turn::Turn,
};

/// Elections in one sweep (`ReplicationControlManager.MAX_ELECTIONS_PER_IMBALANCE`).
const ELECTIONS_PER_SWEEP_MAX: usize = 1000;

/// What happens to one broker; at most one of the three.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Effect {
    /// It leaves every ISR and leads nothing.
    pub(super) remove: Option<NodeId>,
    /// It may lead although it is still fenced in the image.
    pub(super) add: Option<NodeId>,
    /// It leaves ISR and ELR: what it holds is not to be trusted.
    pub(super) unclean: Option<NodeId>,
}

impl Effect {
    pub(super) fn removes(broker: NodeId) -> Self {
        Self { remove: Some(broker), ..Self::default() }
    }

    fn takes(self, n: NodeId) -> bool {
        Some(n) == self.remove || Some(n) == self.unclean
    }
}

impl Turn<'_> {
    pub(super) fn rules(&self, topic: &Topic, election: Election) -> Rules {
        let factor = topic.partitions.head().map_or(1, |p| p.replicas.len());
        Rules {
            metadata_version: self.metadata_version(),
            min_isr: self.min_isr(&topic.name, factor),
            elr: self.image().elr_enabled(),
            election,
        }
    }

    /// The election that a topic's configuration asks for.
    pub(super) fn usual_election(&self, topic: &str) -> Election {
        if self.unclean_election(topic) { Election::Unclean } else { Election::Online }
    }

    pub(super) fn may_lead(&self, p: &PartitionRegistration, n: NodeId, effect: Effect) -> bool {
        let Some(b) = self.image().brokers().get(n) else { return false };
        let active = !effect.takes(n) && (Some(n) == effect.add || b.is_active());
        active && p.directory(n).is_some_and(|dir| b.has_online_dir(dir))
    }

    /// The change of one partition under `effect`.
    fn affected(&self, key: PartitionKey, effect: Effect) -> Option<PartitionChange> {
        let topic = self.image().topics().by_id(key.0)?;
        let p = topic.partition(key.1)?;
        let rules = self.rules(topic, self.usual_election(&topic.name));
        let isr = p.isr.iter().copied().filter(|n| !effect.takes(*n)).collect();
        ChangeBuilder::new(p, rules, &|n| self.may_lead(p, n, effect), &|n| self.default_dir(n))
            .isr(isr)
            .unclean_shutdown(effect.unclean)
            .build(key.0, key.1)
    }

    /// Writes the changes of `partitions`.
    pub(super) fn affect(&mut self, partitions: Vec<PartitionKey>, effect: Effect) {
        for key in partitions {
            if let Some(change) = self.affected(key, effect) {
                self.draft.push(Record::PartitionChange(change));
            }
        }
    }

    /// Partitions in topics that the index or the draft connects with the broker, where `is` holds.
    fn partitions_where(
        &self,
        broker: NodeId,
        is: impl Fn(&PartitionRegistration) -> bool,
    ) -> Vec<PartitionKey> {
        let drafted = self.draft.delta().changed_topics();
        let topics: BTreeSet<Uuid> = self.index.topics_of(broker).chain(drafted).collect();
        let topics = topics.into_iter().filter_map(|id| self.image().topics().by_id(id));
        topics
            .flat_map(|t| t.iter().map(move |(p, state)| ((t.id, p), state)))
            .filter(|(_, state)| is(state))
            .map(|(key, _)| key)
            .collect()
    }

    pub(super) fn in_isr_of(&self, broker: NodeId) -> Vec<PartitionKey> {
        self.partitions_where(broker, |p| p.isr.contains(&broker))
    }

    fn in_elr_of(&self, broker: NodeId) -> Vec<PartitionKey> {
        self.partitions_where(broker, |p| p.elr().contains(&broker))
    }

    fn in_dir(&self, broker: NodeId, dir: Uuid) -> Vec<PartitionKey> {
        self.partitions_where(broker, |p| p.directory(broker) == Some(dir))
    }

    /// Whether the broker leads anything, the draft included.
    pub(super) fn leads_any(&self, broker: NodeId) -> bool {
        let is = |p: Option<&PartitionRegistration>| {
            isize::from(p.is_some_and(|p| p.leader == Some(broker)))
        };
        let drafted: isize =
            self.draft.delta().changed_partitions().map(|d| is(d.new) - is(d.old)).sum();
        isize::try_from(self.index.leads(broker)).unwrap_or(isize::MAX) + drafted > 0
    }

    /// Partitions of an index set as they are with the draft: `is` decides for each.
    fn still(
        &self,
        set: &BTreeSet<PartitionKey>,
        is: impl Fn(&PartitionRegistration) -> bool,
    ) -> Vec<PartitionKey> {
        let drafted: BTreeSet<PartitionKey> =
            self.draft.delta().changed_partitions().map(|d| (d.topic_id, d.partition)).collect();
        let all = set.union(&drafted).copied();
        all.filter(|(id, p)| self.image().topics().partition(*id, *p).is_some_and(|s| is(s)))
            .collect()
    }

    pub(super) fn fence(&mut self, broker: &BrokerRegistration) {
        self.affect(self.in_isr_of(broker.id), Effect::removes(broker.id));
        let mut change = BrokerRegistrationChange::of(broker.id, broker.epoch);
        change.fenced = Some(true);
        self.draft.push(Record::BrokerRegistrationChange(change));
    }

    pub(super) fn unfence(&mut self, broker: &BrokerRegistration) {
        let mut change = BrokerRegistrationChange::of(broker.id, broker.epoch);
        change.fenced = Some(false);
        self.draft.push(Record::BrokerRegistrationChange(change));
        let leaderless = self.still(self.index.leaderless(), |p| p.leader.is_none());
        self.affect(leaderless, Effect { add: Some(broker.id), ..Effect::default() });
    }

    pub(super) fn begin_shutdown(&mut self, broker: &BrokerRegistration) {
        let mut change = BrokerRegistrationChange::of(broker.id, broker.epoch);
        change.in_controlled_shutdown = Some(true);
        self.draft.push(Record::BrokerRegistrationChange(change));
        self.affect(self.in_isr_of(broker.id), Effect::removes(broker.id));
    }

    pub(super) fn unregister(&mut self, broker: &BrokerRegistration) {
        self.affect(self.in_isr_of(broker.id), Effect::removes(broker.id));
        self.affect(self.in_elr_of(broker.id), Effect::removes(broker.id));
        self.draft.push(Record::UnregisterBroker { broker: broker.id, epoch: broker.epoch });
    }

    /// An incarnation has ended, as its successor tells.
    pub(super) fn incarnation_ended(&mut self, broker: NodeId, clean: bool) {
        if self.image().elr_enabled() && !clean {
            let effect = Effect { unclean: Some(broker), ..Effect::default() };
            self.affect(self.in_isr_of(broker), effect);
            self.affect(self.in_elr_of(broker), effect);
        } else {
            self.affect(self.in_isr_of(broker), Effect::removes(broker));
        }
    }

    /// Log directories of the broker went offline: replicas in them leave their ISRs.
    pub(super) fn directories_offline(&mut self, broker: &BrokerRegistration, offline: &[Uuid]) {
        let (lost, left): (Vec<Uuid>, Vec<Uuid>) =
            broker.log_dirs.iter().copied().partition(|dir| offline.contains(dir));
        if lost.is_empty() {
            return;
        }
        for dir in lost {
            self.affect(self.in_dir(broker.id, dir), Effect::removes(broker.id));
        }
        let mut change = BrokerRegistrationChange::of(broker.id, broker.epoch);
        change.log_dirs = Some(left);
        self.draft.push(Record::BrokerRegistrationChange(change));
    }

    /// Gives partitions back to their preferred leaders; whether some are left for another sweep.
    pub(super) fn elect_preferred(&mut self) -> bool {
        let away = |p: &PartitionRegistration| p.leader != p.replicas.first().copied();
        let keys = self.still(self.index.imbalanced(), away);
        self.sweep(keys, Election::Preferred)
    }

    /// Elects leaders outside the ISR where topics want that; whether some are left.
    pub(super) fn elect_unclean(&mut self) -> bool {
        let mut keys = self.still(self.index.leaderless(), |p| p.leader.is_none());
        keys.retain(|(id, _)| {
            let topic = self.image().topics().by_id(*id);
            topic.is_some_and(|t| self.unclean_election(&t.name))
        });
        self.sweep(keys, Election::Unclean)
    }

    fn sweep(&mut self, keys: Vec<PartitionKey>, election: Election) -> bool {
        let mut written = 0;
        for key in keys {
            if written == ELECTIONS_PER_SWEEP_MAX {
                return true;
            }
            if let Some(change) = self.elected(key, election) {
                self.draft.push(Record::PartitionChange(change));
                written += 1;
            }
        }
        false
    }

    fn elected(&self, key: PartitionKey, election: Election) -> Option<PartitionChange> {
        let topic = self.image().topics().by_id(key.0)?;
        let p = topic.partition(key.1)?;
        let may_lead = |n| self.may_lead(p, n, Effect::default());
        ChangeBuilder::new(p, self.rules(topic, election), &may_lead, &|n| self.default_dir(n))
            .build(key.0, key.1)
    }
}
