//! A consumer group (KIP-848; `ConsumerGroup`, `ModernGroup`): what its records say, and what
//! follows from them. It changes by records alone; a clone shares everything, so that readers can
//! keep the group as it was when it was last committed. Pure.

use std::sync::Arc;

use imbl::OrdMap;

use super::{
    assignor::Subscriptions,
    consumer_member::{ConsumerMember, MemberState, record},
    consumer_records::{Change, GroupEpoch, Partitions, ResolvedRegex, TargetEpoch},
    records::Record,
};
use crate::base::{PartitionId, Uuid};

/// How many members name a topic, and how many regular expressions stand for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SubscriptionCount {
    pub(super) names: usize,
    pub(super) regexes: usize,
}

/// Counts by topic name.
pub(super) type SubscribedTopics = OrdMap<Arc<str>, SubscriptionCount>;

/// A consumer group.
#[derive(Debug, Clone)]
pub(super) struct ConsumerGroup {
    pub(super) id: Arc<str>,
    pub(super) epoch: i32,
    pub(super) metadata_hash: i64,
    /// The group epoch that the target was computed for; -1 once it is taken away.
    pub(super) target_epoch: i32,
    /// When it was computed, in milliseconds since the Unix epoch; 0 if unknown.
    pub(super) target_ms: i64,
    pub(super) members: OrdMap<Arc<str>, Arc<ConsumerMember>>,
    pub(super) targets: OrdMap<Arc<str>, Arc<Partitions>>,
    /// Member id by instance id.
    pub(super) static_members: OrdMap<Arc<str>, Arc<str>>,
    pub(super) topics: SubscribedTopics,
    /// Members by the assignor they want.
    assignors: OrdMap<Arc<str>, usize>,
    /// Members by their regular expression.
    pub(super) regexes: OrdMap<Arc<str>, usize>,
    pub(super) resolved: OrdMap<Arc<str>, Arc<ResolvedRegex>>,
    /// Who holds a partition, assigned or to be given back: the member's epoch.
    owners: OrdMap<(Uuid, PartitionId), i32>,
    /// Members that speak the classic protocol.
    pub(super) classic_members: usize,
    /// Members among them by protocol that they offer.
    classic_protocols: OrdMap<Arc<str>, usize>,
    /// A record of before 4.1 still stands in the log.
    pub(super) has_topic_metadata_record: bool,
}

impl ConsumerGroup {
    /// A group without members. Its epochs begin at 1, so that a member whose regular expression is
    /// yet to be looked up has one (`TargetAssignmentMetadata.INITIAL`).
    pub(super) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            epoch: 1,
            metadata_hash: 0,
            target_epoch: 1,
            target_ms: 0,
            members: OrdMap::new(),
            targets: OrdMap::new(),
            static_members: OrdMap::new(),
            topics: OrdMap::new(),
            assignors: OrdMap::new(),
            regexes: OrdMap::new(),
            resolved: OrdMap::new(),
            owners: OrdMap::new(),
            classic_members: 0,
            classic_protocols: OrdMap::new(),
            has_topic_metadata_record: false,
        }
    }

    // What it is.

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Kafka's name of its state. Visits members.
    pub(super) fn state(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.target_epoch {
            "Assigning"
        } else if self.members.values().any(|m| !m.is_reconciled_to(self.target_epoch)) {
            "Reconciling"
        } else {
            "Stable"
        }
    }

    pub(super) fn static_member(&self, instance_id: &str) -> Option<&Arc<ConsumerMember>> {
        self.members.get(self.static_members.get(instance_id)?)
    }

    /// What a member shall have; nothing if there is no target for it.
    pub(super) fn target(&self, member_id: &str) -> Arc<Partitions> {
        self.targets.get(member_id).cloned().unwrap_or_default()
    }

    /// As [`ConsumerGroup::target`]; of a static member by its instance, which outlives its id.
    pub(super) fn target_of(&self, member: &ConsumerMember) -> Arc<Partitions> {
        match &member.instance_id {
            None => self.target(&member.id),
            Some(instance) => {
                self.static_members.get(instance).map(|id| self.target(id)).unwrap_or_default()
            }
        }
    }

    /// Whether somebody has the partition, or has yet to give it back.
    pub(super) fn is_owned(&self, topic: Uuid, partition: PartitionId) -> bool {
        self.owners.contains_key(&(topic, partition))
    }

    /// Whether members read `topic`.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    /// The assignor that most members want; the first by name among equals.
    pub(super) fn preferred_assignor(&self) -> Option<Arc<str>> {
        preferred(&self.assignors)
    }

    /// As [`ConsumerGroup::preferred_assignor`], were `old` to become `new`.
    pub(super) fn preferred_assignor_with(
        &self,
        old: &ConsumerMember,
        new: &ConsumerMember,
    ) -> Option<Arc<str>> {
        let mut counts = self.assignors.clone();
        subtract(&mut counts, old.assignor.as_ref());
        add(&mut counts, new.assignor.as_ref());
        preferred(&counts)
    }

    /// The subscribed topics, were `old` to become `new`.
    pub(super) fn topics_with(
        &self,
        old: &ConsumerMember,
        new: &ConsumerMember,
    ) -> SubscribedTopics {
        let mut topics = self.topics.clone();
        count_names(&mut topics, old, false);
        if let Some(regex) = old.regex()
            && new.regex() != Some(regex)
            && self.regexes.get(regex) == Some(&1)
        {
            self.count_resolved(&mut topics, regex);
        }
        count_names(&mut topics, new, true);
        topics
    }

    /// The subscribed topics without these members and regular expressions.
    pub(super) fn topics_without(
        &self,
        members: &[Arc<ConsumerMember>],
        regexes: &[Arc<str>],
    ) -> SubscribedTopics {
        let mut topics = self.topics.clone();
        for member in members {
            count_names(&mut topics, member, false);
        }
        for regex in regexes {
            self.count_resolved(&mut topics, regex);
        }
        topics
    }

    fn count_resolved(&self, topics: &mut SubscribedTopics, regex: &str) {
        if let Some(resolved) = self.resolved.get(regex) {
            for topic in &resolved.topics {
                change(topics, topic, |c| c.regexes = c.regexes.saturating_sub(1));
            }
        }
    }

    /// Members by regular expression, were `old` to become `new`.
    pub(super) fn regexes_with(
        &self,
        old: &ConsumerMember,
        new: &ConsumerMember,
    ) -> OrdMap<Arc<str>, usize> {
        let mut regexes = self.regexes.clone();
        subtract(&mut regexes, old.regex());
        add(&mut regexes, new.regex());
        regexes
    }

    /// Whether somebody who speaks the classic protocol and offers these can be in the group.
    pub(super) fn supports_classic<'a>(
        &self,
        protocol_type: &str,
        mut protocols: impl Iterator<Item = &'a Arc<str>>,
    ) -> bool {
        if protocol_type != super::group_classic::CONSUMER {
            return false;
        }
        if self.is_empty() {
            return protocols.next().is_some();
        }
        protocols.any(|name| {
            self.classic_protocols.get(name).copied().unwrap_or(0) == self.classic_members
        })
    }

    /// Whether a member waits for partitions that others still hold.
    pub(super) fn waits_for_unreleased(&self, member: &ConsumerMember) -> bool {
        member.state == MemberState::UnreleasedPartitions
            && self.target(&member.id).iter().any(|(topic, partitions)| {
                let has = member.assigned.get(topic);
                partitions.iter().any(|p| {
                    !has.is_some_and(|has| has.contains_key(p)) && self.is_owned(*topic, *p)
                })
            })
    }

    // What changes it.

    /// Takes what a record says. A tombstone of the epoch is for the caller: the group is gone.
    pub(super) fn replay(&mut self, change: &Change) {
        match change {
            Change::Epoch(value) => {
                if let Some(GroupEpoch { epoch, metadata_hash }) = value {
                    (self.epoch, self.metadata_hash) = (*epoch, *metadata_hash);
                }
            }
            Change::TopicMetadata(value) => self.has_topic_metadata_record = value.is_some(),
            Change::Member(id, Some(value)) => {
                let member = self.member_or_new(id).with_subscription(value);
                self.update(member);
            }
            Change::Member(id, None) => self.remove(id),
            Change::TargetEpoch(value) => {
                let none = TargetEpoch { epoch: -1, timestamp_ms: 0 };
                let TargetEpoch { epoch, timestamp_ms } = value.unwrap_or(none);
                (self.target_epoch, self.target_ms) = (epoch, timestamp_ms);
            }
            Change::Target(id, Some(value)) => _ = self.targets.insert(id.clone(), value.clone()),
            Change::Target(id, None) => _ = self.targets.remove(id),
            Change::Current(id, Some(value)) => {
                let member = self.member_or_new(id).with_current(value);
                self.update(member);
            }
            Change::Current(id, None) => {
                if let Some(member) = self.members.get(id) {
                    let member = ConsumerMember::clone(member).without_current();
                    self.update(member);
                }
            }
            Change::Regex(regex, value) => self.resolve(regex, value.as_ref()),
        }
    }

    pub(super) fn member_or_new(&self, id: &Arc<str>) -> ConsumerMember {
        let known = self.members.get(id).map(|m| ConsumerMember::clone(m));
        known.unwrap_or_else(|| ConsumerMember::new(id.clone()))
    }

    /// Puts a member in place of what it was.
    pub(super) fn update(&mut self, member: ConsumerMember) {
        if let Some(old) = self.members.get(&member.id).cloned() {
            self.forget(&old);
        }
        count_names(&mut self.topics, &member, true);
        add(&mut self.assignors, member.assignor.as_ref());
        add(&mut self.regexes, member.regex());
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), member.id.clone());
        }
        if member.classic.is_some() {
            self.classic_members += 1;
        }
        for protocol in member.protocols() {
            add(&mut self.classic_protocols, Some(&protocol.name));
        }
        for (topic, partitions) in member.assigned.iter().chain(&member.revoking) {
            for partition in partitions.keys() {
                self.own((*topic, *partition), member.epoch);
            }
        }
        self.members.insert(member.id.clone(), Arc::new(member));
    }

    /// Two members never own a partition at once: what gives one away stands in the log before
    /// what gives it to another. A log that was cut between the two parts of a decision may look
    /// so; the later epoch then counts.
    fn own(&mut self, partition: (Uuid, PartitionId), epoch: i32) {
        let at = self.owners.entry(partition).or_insert(epoch);
        *at = (*at).max(epoch);
    }

    fn remove(&mut self, id: &str) {
        let Some(old) = self.members.remove(id) else { return };
        self.forget(&old);
        if let Some(instance) = &old.instance_id
            && self.static_members.get(instance).is_some_and(|held| **held == *id)
        {
            self.static_members.remove(instance);
        }
    }

    /// Takes what a member counts for out of the counts.
    fn forget(&mut self, old: &ConsumerMember) {
        count_names(&mut self.topics, old, false);
        subtract(&mut self.assignors, old.assignor.as_ref());
        subtract(&mut self.regexes, old.regex());
        if old.classic.is_some() {
            self.classic_members -= 1;
        }
        for protocol in old.protocols() {
            subtract(&mut self.classic_protocols, Some(&protocol.name));
        }
        for (topic, partitions) in old.assigned.iter().chain(&old.revoking) {
            for partition in partitions.keys() {
                let at = (*topic, *partition);
                if self.owners.get(&at) == Some(&old.epoch) {
                    self.owners.remove(&at);
                }
            }
        }
    }

    fn resolve(&mut self, regex: &Arc<str>, value: Option<&ResolvedRegex>) {
        if let Some(old) = self.resolved.remove(regex) {
            for topic in &old.topics {
                change(&mut self.topics, topic, |c| c.regexes = c.regexes.saturating_sub(1));
            }
        }
        if let Some(value) = value {
            for topic in &value.topics {
                change(&mut self.topics, topic, |c| c.regexes += 1);
            }
            self.resolved.insert(regex.clone(), Arc::new(value.clone()));
        }
    }

    /// Tombstones of all that the group has in the log; `renamed` is a static member that these
    /// records knew by another id.
    pub(super) fn tombstones(&self, renamed: Option<(&Arc<str>, &Arc<str>)>) -> Vec<Record> {
        let ids: Vec<Arc<str>> = self
            .members
            .keys()
            .map(|id| match renamed {
                Some((from, to)) if from == id => to.clone(),
                _ => id.clone(),
            })
            .collect();
        let mut out = Vec::new();
        let mut push = |change| out.push(record(&self.id, change));
        ids.iter().for_each(|id| push(Change::Current(id.clone(), None)));
        ids.iter().for_each(|id| push(Change::Target(id.clone(), None)));
        push(Change::TargetEpoch(None));
        ids.iter().for_each(|id| push(Change::Member(id.clone(), None)));
        self.resolved.keys().for_each(|regex| push(Change::Regex(regex.clone(), None)));
        push(Change::TopicMetadata(None));
        push(Change::Epoch(None));
        out
    }

    /// All that the group has, as records.
    pub(super) fn records(&self) -> Vec<Record> {
        let members = || self.members.values();
        let epoch = GroupEpoch { epoch: self.epoch, metadata_hash: self.metadata_hash };
        let target = TargetEpoch { epoch: self.target_epoch, timestamp_ms: self.target_ms };
        let mut out: Vec<_> = members().map(|m| m.subscription_record(&self.id)).collect();
        out.push(record(&self.id, Change::Epoch(Some(epoch))));
        out.extend(
            members()
                .map(|m| record(&self.id, Change::Target(m.id.clone(), Some(self.target(&m.id))))),
        );
        out.push(record(&self.id, Change::TargetEpoch(Some(target))));
        out.extend(members().map(|m| m.current_record(&self.id)));
        out
    }
}

/// Whether all members read the same topics (`ConsumerGroup.subscriptionType`).
pub(super) fn subscriptions(
    regexes: &OrdMap<Arc<str>, usize>,
    topics: &SubscribedTopics,
    members: usize,
) -> Subscriptions {
    let same = match regexes.values().next() {
        None => topics.values().all(|c| c.names == members),
        Some(count) => *count == members && topics.values().all(|c| c.regexes == 1 && c.names == 0),
    };
    if same { Subscriptions::Same } else { Subscriptions::Mixed }
}

fn preferred(counts: &OrdMap<Arc<str>, usize>) -> Option<Arc<str>> {
    let most = counts.values().copied().max()?;
    counts.iter().find(|(_, n)| **n == most).map(|(name, _)| name.clone())
}

fn add(counts: &mut OrdMap<Arc<str>, usize>, name: Option<&Arc<str>>) {
    if let Some(name) = name {
        *counts.entry(name.clone()).or_insert(0) += 1;
    }
}

fn subtract(counts: &mut OrdMap<Arc<str>, usize>, name: Option<&Arc<str>>) {
    let Some(name) = name else { return };
    match counts.get_mut(name) {
        Some(count) if *count > 1 => *count -= 1,
        _ => _ = counts.remove(name),
    }
}

pub(super) fn change(
    topics: &mut SubscribedTopics,
    topic: &Arc<str>,
    f: impl FnOnce(&mut SubscriptionCount),
) {
    let count = topics.entry(topic.clone()).or_default();
    f(count);
    if *count == SubscriptionCount::default() {
        topics.remove(topic);
    }
}

fn count_names(topics: &mut SubscribedTopics, member: &ConsumerMember, joins: bool) {
    for topic in &member.topics {
        change(topics, topic, |c| match joins {
            true => c.names += 1,
            false => c.names = c.names.saturating_sub(1),
        });
    }
}
