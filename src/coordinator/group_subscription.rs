//! What the members of a consumer group read, and what follows from it: regular expressions, the
//! group's epoch, the target of all (`GroupMetadataManager.maybeUpdateRegularExpressions` and on).
//! Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    assignor::{Assignor, MemberSpec, Spec},
    calls::Effect,
    calls_consumer::ResolvedRegexes,
    consumer_member::{ConsumerMember, record},
    consumer_records::{Change, GroupEpoch, Partitions, TargetEpoch},
    group_consumer::{ConsumerGroup, subscriptions},
    group_heartbeat::Refused,
    group_reconcile::topic_ids,
    records::Record,
    shard::Shard,
    topic_regex,
    turn::{Then, Turn},
};
use crate::base::ErrorCode;

/// Regular expressions of a group are looked up at most this often, in milliseconds
/// (`REGEX_BATCH_REFRESH_MIN_INTERVAL_MS`).
const REGEX_PAUSE_MS: i64 = 10_000;

/// Whether a member's regular expression changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegexChange {
    None,
    /// It did; the group does not know yet what it stands for.
    Changed,
    /// It did, and what it stands for is known.
    Resolved,
}

/// What a change of one member leads to.
pub(super) struct Joining<'a> {
    pub(super) group: &'a ConsumerGroup,
    /// As it was; of a member that is new, an empty one.
    pub(super) member: &'a ConsumerMember,
    pub(super) updated: &'a ConsumerMember,
}

impl Joining<'_> {
    /// Writes what the member says, if it says something new; tells whether it names other topics.
    pub(super) fn subscription(&self, records: &mut Vec<Record>) -> bool {
        if self.updated != self.member {
            records.push(self.updated.subscription_record(&self.group.id));
        }
        self.updated.topics != self.member.topics
    }
}

impl Shard {
    /// Takes a change of a member's regular expression, and has the group's looked up when that is
    /// due.
    pub(super) fn update_regexes(
        &mut self,
        joining: &Joining<'_>,
        records: &mut Vec<Record>,
        turn: &mut Turn<'_>,
    ) -> Result<RegexChange, Refused> {
        let Joining { group, member, updated } = joining;
        let (old, new) = (member.regex(), updated.regex());
        let mut change = RegexChange::None;
        let mut must = false;
        if member.regex != updated.regex {
            change = RegexChange::Changed;
            if let Some(old) = old
                && group.regexes.get(old) == Some(&1)
            {
                records.push(record(&group.id, Change::Regex(old.clone(), None)));
            }
            match new {
                Some(new) if !group.regexes.contains_key(new) => {
                    topic_regex::check(new).map_err(|why| {
                        let text = format!(
                            "SubscribedTopicRegex `{new}` is not a valid regular expression: {why}."
                        );
                        Refused::new(ErrorCode::InvalidRegularExpression, text)
                    })?;
                    must = true;
                }
                Some(new) if group.resolved.contains_key(new) => change = RegexChange::Resolved,
                None if old.is_some() => change = RegexChange::Resolved,
                Some(_) | None => {}
            }
        }
        if (!must && group.regexes.is_empty()) || self.consumers.resolving.contains(&group.id) {
            return Ok(change);
        }
        let now_ms = turn.now.wall_ms;
        let last = group.resolved.values().next();
        let refreshed_ms = last.map(|r| r.timestamp_ms);
        // What a wall clock ahead of this one has noted is no reason to wait.
        let refreshed_ms = refreshed_ms.filter(|at| *at <= now_ms);
        if refreshed_ms.is_some_and(|at| now_ms <= at.saturating_add(REGEX_PAUSE_MS)) {
            return Ok(change);
        }
        let wanted = group.regexes_with(member, updated);
        let interval_ms = turn.settings.consumer.regex_refresh_interval_ms;
        must |= wanted.len() != group.resolved.len()
            || last.map_or(0, |r| r.version) < self.consumers.new_topics_at
            || refreshed_ms.is_none_or(|at| now_ms > at.saturating_add(interval_ms));
        if must && !wanted.is_empty() {
            self.consumers.resolving.insert(group.id.clone());
            turn.out.push(Effect::ResolveRegexes {
                group: group.id.clone(),
                member: updated.id.clone(),
                regexes: wanted.keys().cloned().collect(),
                image: self.consumers.image.clone(),
            });
        }
        Ok(change)
    }

    /// What regular expressions of a group stand for has been looked up.
    pub(super) fn take_regexes(
        &mut self,
        id: &Arc<str>,
        member: &Arc<str>,
        resolved: ResolvedRegexes,
        turn: &mut Turn<'_>,
    ) {
        self.consumers.resolving.remove(id);
        let Some(group) = self.consumers.get(id).cloned() else { return };
        let mut next = ConsumerGroup::clone(&group);
        let mut records = Vec::new();
        let mut bump = false;
        for (regex, value) in resolved {
            if !group.regexes.contains_key(&regex) {
                continue;
            }
            let same = match group.resolved.get(&regex) {
                Some(old) => old.topics == value.topics,
                None => value.topics.is_empty(),
            };
            bump |= !same;
            let change = Change::Regex(regex, Some(value));
            next.replay(&change);
            records.push(record(id, change));
        }
        let metadata_hash = self.consumers.metadata_hash(&next.topics);
        if bump || metadata_hash != group.metadata_hash {
            let epoch = group.epoch + 1;
            records.push(record(id, Change::Epoch(Some(GroupEpoch { epoch, metadata_hash }))));
            let why = "a regular expression stands for other topics";
            self.consumers.rebalances(id, epoch, Some(member), why, turn);
            self.consumers.refreshed(id, epoch, turn.now);
        }
        if !records.is_empty() {
            turn.append(records, Then::Nothing);
        }
    }

    /// The group's epoch after a change of a member: one more if `bump`, or if the metadata of its
    /// topics changed.
    pub(super) fn standing(
        &mut self,
        joining: &Joining<'_>,
        bump: bool,
        why: &'static str,
        records: &mut Vec<Record>,
        turn: &mut Turn<'_>,
    ) -> i32 {
        let Joining { group, member, updated } = joining;
        let mut epoch = group.epoch;
        if bump || self.consumers.must_refresh(&group.id, group.epoch, turn.now) {
            let metadata_hash = self.consumers.metadata_hash(&group.topics_with(member, updated));
            if bump || metadata_hash != group.metadata_hash {
                epoch += 1;
                let value = GroupEpoch { epoch, metadata_hash };
                records.push(record(&group.id, Change::Epoch(Some(value))));
                let (by, why) = match bump {
                    true => (Some(&updated.id), why),
                    false => (None, "topics of the group changed"),
                };
                self.consumers.rebalances(&group.id, epoch, by, why, turn);
            }
            self.consumers.refreshed(&group.id, epoch, turn.now);
            if group.has_topic_metadata_record {
                records.push(record(&group.id, Change::TopicMetadata(None)));
            }
        }
        epoch
    }

    /// The target of the member: a new one for all if the group's epoch went on and the last is old
    /// enough.
    pub(super) fn target(
        &mut self,
        joining: &Joining<'_>,
        epoch: i32,
        records: &mut Vec<Record>,
        turn: &Turn<'_>,
    ) -> (i32, Arc<Partitions>) {
        let Joining { group, member, updated } = joining;
        let interval_ms = self.consumers.assignment_interval_ms(&group.id, turn.settings);
        let now_ms = turn.now.wall_ms;
        // A wall clock behind that of the last target must not keep the group from its next one.
        let may = group.target_ms == 0
            || now_ms < group.target_ms
            || now_ms >= group.target_ms.saturating_add(i64::from(interval_ms));
        if group.target_epoch >= epoch || !may {
            return (group.target_epoch, group.target_of(updated));
        }
        let preferred = group.preferred_assignor_with(member, updated);
        let assignor = preferred.and_then(|name| Assignor::from_name(&name));
        let assignor = assignor.unwrap_or_else(|| turn.settings.consumer.default_assignor());
        let spec = self.spec(joining);
        let shares = assignor.assign(&spec);
        let mut own = Arc::default();
        for (member, share) in spec.members.iter().zip(shares) {
            let known = group.targets.get(&member.id);
            if known.is_none_or(|known| !Arc::ptr_eq(known, &share) && **known != *share) {
                let change = Change::Target(member.id.clone(), Some(share.clone()));
                records.push(record(&group.id, change));
            }
            if member.id == updated.id {
                own = share;
            }
        }
        let target = TargetEpoch { epoch, timestamp_ms: turn.now.wall_ms };
        records.push(record(&group.id, Change::TargetEpoch(Some(target))));
        (epoch, own)
    }

    /// The group as assignors see it, with the member as it is now.
    fn spec(&self, joining: &Joining<'_>) -> Spec {
        let Joining { group, member, updated } = joining;
        let image = &self.consumers.image;
        let previous = updated.instance_id.as_deref().and_then(|i| group.static_member(i));
        let others = group.members.values().map(|m| &**m);
        let others = others
            .filter(|m| m.id != updated.id && previous.is_none_or(|previous| previous.id != m.id));
        let mut members: Vec<&ConsumerMember> = others.chain([*updated]).collect();
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        // Members with equal subscriptions share what these stand for.
        let mut shared: Option<(&ConsumerMember, Arc<BTreeSet<_>>)> = None;
        let specs = members.into_iter().map(|m| {
            let topics = match &shared {
                Some((like, topics)) if like.topics == m.topics && like.regex == m.regex => {
                    topics.clone()
                }
                _ => {
                    let topics = Arc::new(topic_ids(m, &group.resolved, image));
                    shared = Some((m, topics.clone()));
                    topics
                }
            };
            let assigned = match m.id == updated.id {
                true => group.target_of(updated),
                false => group.target(&m.id),
            };
            MemberSpec { id: m.id.clone(), instance_id: m.instance_id.clone(), topics, assigned }
        });
        let members: Vec<MemberSpec> = specs.collect();
        let mut counts = BTreeMap::new();
        let mut last: Option<&Arc<BTreeSet<_>>> = None;
        for topics in members.iter().map(|m| &m.topics) {
            // What the next one shares is counted already.
            if last.replace(topics).is_some_and(|last| Arc::ptr_eq(last, topics)) {
                continue;
            }
            for topic in &**topics {
                if let Some(found) = image.topics().by_id(*topic) {
                    counts.insert(*topic, found.partition_count());
                }
            }
        }
        let topics = group.topics_with(member, updated);
        let regexes = group.regexes_with(member, updated);
        let subscriptions = subscriptions(&regexes, &topics, members.len());
        Spec { members, counts, subscriptions }
    }
}
