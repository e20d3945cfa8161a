//! Changes of many partitions at once: a broker is fenced, unfenced, stops, loses a directory; the
//! sweeps for preferred and unclean leaders (`ReplicationControlManager.generateLeaderAndIsrUpdates`).

use std::collections::BTreeSet;

use crate::base::{NodeId, PartitionId, Uuid};
use crate::metadata::record::{BrokerRegistrationChange, PartitionChange};
use crate::metadata::{BrokerRegistration, PartitionRegistration, Record, Topic};

use super::{
    backlog::Task,
    index::{PartitionKey, is_imbalanced},
    partitions::{ChangeBuilder, Election, Rules},
    turn::Turn,
};

/// What happens to one broker; at most one of the three.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

    /// Whether the broker is out of the partitions from now on.
    pub(super) fn takes(self, n: NodeId) -> bool {
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

    /// The change of one partition under `effect`; `None` if nothing changes.
    pub(super) fn changed(
        &self,
        topic: &Topic,
        number: PartitionId,
        rules: Rules,
        effect: Effect,
    ) -> Option<PartitionChange> {
        let p = topic.partition(number)?;
        let isr = p.isr.iter().copied().filter(|n| !effect.takes(*n)).collect();
        ChangeBuilder::new(p, rules, &|n| self.may_lead(p, n, effect), &|n| self.default_dir(n))
            .isr(isr)
            .unclean_shutdown(effect.unclean)
            .build(topic.id, number)
    }

    /// Changes leader and ISR of `partitions` as `effect` demands.
    pub(super) fn affect(&mut self, partitions: Vec<PartitionKey>, effect: Effect) {
        self.begin(Task::Affect(effect), partitions);
    }

    /// Partitions with a replica on the broker, the draft included, where `is` holds; those that it
    /// leads come first, for their clients wait.
    fn partitions_where(
        &self,
        broker: NodeId,
        is: impl Fn(&PartitionRegistration) -> bool,
    ) -> Vec<PartitionKey> {
        let drafted = self.draft.delta().changed_partitions().filter_map(|d| {
            d.new.filter(|p| p.has_replica(broker)).map(|_| (d.topic_id, d.partition))
        });
        let drafted: BTreeSet<PartitionKey> = drafted.collect();
        let committed = self.index.replicas_on(broker).filter(|key| !drafted.contains(key));
        let (mut leads, mut rest) = (Vec::new(), Vec::new());
        for key in committed.chain(drafted.iter().copied()) {
            match self.image().topics().partition(key.0, key.1) {
                Some(p) if is(p) && p.leader == Some(broker) => leads.push(key),
                Some(p) if is(p) => rest.push(key),
                _ => {}
            }
        }
        leads.append(&mut rest);
        leads
    }

    pub(super) fn in_isr_of(&self, broker: NodeId) -> Vec<PartitionKey> {
        self.partitions_where(broker, |p| p.isr.contains(&broker))
    }

    fn in_isr_or_elr_of(&self, broker: NodeId) -> Vec<PartitionKey> {
        self.partitions_where(broker, |p| p.isr.contains(&broker) || p.elr().contains(&broker))
    }

    /// Whether the broker leads anything, the draft included, or is still to be taken out of
    /// partitions.
    pub(super) fn leads_any(&self, broker: NodeId) -> bool {
        if self.backlog.holds(broker) {
            return true;
        }
        let is = |p: Option<&PartitionRegistration>| {
            isize::from(p.is_some_and(|p| p.leader == Some(broker)))
        };
        let drafted: isize =
            self.draft.delta().changed_partitions().map(|d| is(d.new) - is(d.old)).sum();
        isize::try_from(self.index.leads(broker)).unwrap_or(isize::MAX) + drafted > 0
    }

    /// Partitions of an index set as they are with the draft: `is` decides for each.
    pub(super) fn still(
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
        let mut change = BrokerRegistrationChange::of(broker.id, broker.epoch);
        change.fenced = Some(true);
        self.draft.push(Record::BrokerRegistrationChange(change));
        self.affect(self.in_isr_of(broker.id), Effect::removes(broker.id));
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
        self.draft.push(Record::UnregisterBroker { broker: broker.id, epoch: broker.epoch });
        self.affect(self.in_isr_or_elr_of(broker.id), Effect::removes(broker.id));
    }

    /// An incarnation has ended, as its successor tells.
    pub(super) fn incarnation_ended(&mut self, broker: NodeId, clean: bool) {
        if self.image().elr_enabled() && !clean {
            let effect = Effect { unclean: Some(broker), ..Effect::default() };
            self.begin_anew(Task::Affect(effect), self.in_isr_or_elr_of(broker));
        } else {
            let effect = Effect::removes(broker);
            self.begin_anew(Task::Affect(effect), self.in_isr_of(broker));
        }
    }

    /// Log directories of the broker went offline: replicas in them leave their ISRs.
    pub(super) fn directories_offline(&mut self, broker: &BrokerRegistration, offline: &[Uuid]) {
        let (lost, left): (Vec<Uuid>, Vec<Uuid>) =
            broker.log_dirs.iter().copied().partition(|dir| offline.contains(dir));
        if lost.is_empty() {
            return;
        }
        let mut change = BrokerRegistrationChange::of(broker.id, broker.epoch);
        change.log_dirs = Some(left);
        self.draft.push(Record::BrokerRegistrationChange(change));
        let id = broker.id;
        let is_lost = |dir: Uuid| lost.contains(&dir);
        let keys = self.partitions_where(id, |p| p.directory(id).is_some_and(is_lost));
        self.affect(keys, Effect::removes(id));
    }

    /// Gives partitions back to their preferred leaders.
    pub(super) fn elect_preferred(&mut self) {
        let keys = self.still(self.index.imbalanced(), is_imbalanced);
        self.begin_anew(Task::Prefer, keys);
    }

    /// Looks for a leader of every partition without one: outside the ISR where topics want that.
    pub(super) fn elect_unclean(&mut self) {
        let keys = self.still(self.index.leaderless(), |p| p.leader.is_none());
        self.begin_anew(Task::Affect(Effect::default()), keys);
    }
}
