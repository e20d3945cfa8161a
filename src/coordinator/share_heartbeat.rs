//! ShareGroupHeartbeat: members join, subscribe, are given partitions, leave and are fenced
//! (`GroupMetadataManager.shareGroupHeartbeat` and on). Members give nothing back before others are
//! given it: partitions are shared. Each decision is a list of records; the state changes when they
//! are in the log. Pure.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    assignor::Subscriptions,
    calls::{Reply, Token},
    calls_share_groups::{ShareHeartbeatCall, ShareHeartbeatReply},
    consumer_groups::Timer,
    consumer_records::{GroupEpoch, Partitions, TargetEpoch},
    group_consumer::SubscribedTopics,
    group_heartbeat::Refused,
    records::Record,
    shard::Shard,
    share_assignor::{self, Reader},
    share_group::{LEAVE_EPOCH, ShareGroup, ShareMember, record, removal},
    share_group_records::ShareChange,
    share_groups::assignable,
    turn::{Then, Turn},
};
use crate::{
    base::{ErrorCode, Uuid},
    metadata::Image,
};

/// A group, one of its members as it is from now on, and what the group then reads.
struct Beat<'a> {
    group: &'a ShareGroup,
    updated: &'a ShareMember,
    topics: &'a SubscribedTopics,
}

impl Shard {
    pub(super) fn share_heartbeat(
        &mut self,
        token: Token,
        call: &ShareHeartbeatCall,
        turn: &mut Turn<'_>,
    ) {
        let done = match call.epoch {
            LEAVE_EPOCH => self.share_leave(token, call, turn),
            _ => self.share_beat(token, call, turn),
        };
        if let Err(Refused { error, message }) = done {
            let reply = ShareHeartbeatReply::error(error, message);
            turn.reply(token, Reply::ShareHeartbeat(reply));
        }
    }

    fn share_beat(
        &mut self,
        token: Token,
        call: &ShareHeartbeatCall,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refused> {
        let joins = call.epoch == 0;
        let not_found = |text| Refused::new(ErrorCode::GroupIdNotFound, text);
        let group = match self.share_group(&call.group).map_err(not_found)? {
            Some(group) => group,
            None if joins => Arc::new(ShareGroup::new(call.group.clone())),
            None => return Err(not_found(format!("Share group {} not found.", call.group))),
        };
        let known = group.members.get(&call.member_id);
        let max = turn.settings.share.max_size;
        if group.members.len() >= max && known.is_none() {
            return Err(Refused::new(
                ErrorCode::GroupMaxSizeReached,
                format!("The share group has reached its maximum capacity of {max} members."),
            ));
        }
        let member = match known {
            Some(member) => ShareMember::clone(member),
            None if joins => ShareMember::new(call.member_id.clone()),
            None => return Err(unknown_member(&call.member_id, &group.id)),
        };
        check_epoch(&member, call.epoch)?;
        let updated = ShareMember {
            rack: call.rack.clone().or_else(|| member.rack.clone()),
            topics: call.topics.clone().unwrap_or_else(|| member.topics.clone()),
            client: call.client.clone(),
            ..member.clone()
        };
        let mut records = Vec::new();
        if updated != member {
            records.push(updated.subscription_record(&group.id));
        }
        let subscribes = updated.topics != member.topics;
        let after;
        let topics = match subscribes {
            false => &group.topics,
            true => {
                after = group.topics_with(&member, Some(&updated));
                &after
            }
        };
        let beat = Beat { group: &group, updated: &updated, topics };
        let (epoch, bumped) = self.share_epoch(&beat, subscribes, joins, &mut records, turn);
        let (target_epoch, target) = self.share_target(&beat, epoch, &mut records, turn);
        let next = self.share_reconcile(&updated, target_epoch, &target, bumped);
        if next != updated {
            records.push(next.current_record(&group.id));
        }
        let timeout = self.consumers.share_session_timeout_ms(&group.id, turn.settings);
        self.consumers.start(&group.id, &next.id, Timer::Session, timeout, turn.now);
        let assigned = joins || call.topics.is_some() || next.assigned != member.assigned;
        let reply = Reply::ShareHeartbeat(ShareHeartbeatReply {
            error: ErrorCode::None,
            message: None,
            member_id: Some(next.id.clone()),
            epoch: next.epoch,
            heartbeat_interval_ms: self
                .consumers
                .share_heartbeat_interval_ms(&group.id, turn.settings),
            assignment: assigned.then(|| next.assigned.clone()),
        });
        self.initialize_missing(&group, topics, epoch, records, (token, reply), turn);
        Ok(())
    }

    /// The group's epoch, and whether it grew with this heartbeat: for the member reads other
    /// topics, these changed, or initialized partitions are not assigned yet.
    fn share_epoch(
        &mut self,
        beat: &Beat<'_>,
        subscribes: bool,
        joins: bool,
        records: &mut Vec<Record>,
        turn: &mut Turn<'_>,
    ) -> (i32, bool) {
        let group = beat.group;
        let mut why = match (subscribes, joins) {
            (true, true) => Some("a member joined"),
            (true, false) => Some("a member subscribed to other topics"),
            (false, _) => None,
        };
        let waits = group.target_epoch >= group.epoch && self.waits_for_assignment(group);
        if why.is_none() && waits {
            why = Some("share partitions were initialized");
        }
        if why.is_none() && !self.consumers.must_refresh(&group.id, group.epoch, turn.now) {
            return (group.epoch, false);
        }
        let metadata_hash = self.consumers.metadata_hash(beat.topics);
        let by = why.filter(|_| subscribes).map(|_| &beat.updated.id);
        if metadata_hash != group.metadata_hash {
            why = why.or(Some("topics of the group changed"));
        }
        let epoch = group.epoch + i32::from(why.is_some());
        if let Some(why) = why {
            let change = ShareChange::Epoch(Some(GroupEpoch { epoch, metadata_hash }));
            records.push(record(&group.id, change));
            self.consumers.rebalances(&group.id, epoch, by, why, turn);
        }
        self.consumers.refreshed(&group.id, epoch, turn.now);
        (epoch, why.is_some())
    }

    /// Whether partitions that are initialized, of topics that members read, are not those in the
    /// target (`initializedAssignmentPending`).
    fn waits_for_assignment(&self, group: &ShareGroup) -> bool {
        if group.is_empty() || self.shares.settled.contains(&group.id) {
            return false;
        }
        let mut assigned = Partitions::new();
        for target in group.targets.values() {
            for (topic, partitions) in &**target {
                assigned.entry(*topic).or_default().extend(partitions);
            }
        }
        let image = &self.consumers.image;
        assignable(&group.state, image).into_iter().any(|(topic, partitions)| {
            let name = image.topics().by_id(topic).map(|t| &t.name);
            let is_read = name.is_some_and(|name| group.topics.contains_key(name));
            is_read && assigned.get(&topic) != Some(&partitions)
        })
    }

    /// The target of the member: a new one for all if the group's epoch went on and the last is old
    /// enough.
    fn share_target(
        &self,
        beat: &Beat<'_>,
        epoch: i32,
        records: &mut Vec<Record>,
        turn: &Turn<'_>,
    ) -> (i32, Arc<Partitions>) {
        let Beat { group, updated, topics } = beat;
        let interval_ms = self.consumers.share_assignment_interval_ms(&group.id, turn.settings);
        let may = group.target_ms == 0
            || turn.now.wall_ms >= group.target_ms.saturating_add(i64::from(interval_ms));
        if group.target_epoch >= epoch || !may {
            return (group.target_epoch, group.target(&updated.id));
        }
        let others = group.members.values().map(|m| &**m).filter(|m| m.id != updated.id);
        let mut members: Vec<&ShareMember> = others.chain([*updated]).collect();
        members.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        let subscriptions = match topics.values().all(|c| c.names == members.len()) {
            true => Subscriptions::Same,
            false => Subscriptions::Mixed,
        };
        // Members with equal subscriptions share what these stand for.
        let mut last: Option<(&ShareMember, Arc<BTreeSet<Uuid>>)> = None;
        let image = &self.consumers.image;
        let readers = members.iter().map(|m| {
            let topics = match &last {
                Some((like, topics)) if like.topics == m.topics => topics.clone(),
                _ => Arc::new(topic_ids(m, image)),
            };
            last = Some((m, topics.clone()));
            Reader { topics, assigned: group.target(&m.id) }
        });
        let readers: Vec<Reader> = readers.collect();
        let shares =
            share_assignor::assign(&readers, &assignable(&group.state, image), subscriptions);
        let mut own = Arc::default();
        for (member, share) in members.iter().zip(shares) {
            let known = group.targets.get(&member.id);
            if known.is_none_or(|known| !Arc::ptr_eq(known, &share) && **known != *share) {
                let change = ShareChange::Target(member.id.clone(), Some(share.clone()));
                records.push(record(&group.id, change));
            }
            if member.id == updated.id {
                own = share;
            }
        }
        let target = TargetEpoch { epoch, timestamp_ms: turn.now.wall_ms };
        records.push(record(&group.id, ShareChange::TargetEpoch(Some(target))));
        (epoch, own)
    }

    /// The member with its target (`ShareGroupAssignmentBuilder`): at once, for nobody has to give
    /// back anything first.
    fn share_reconcile(
        &self,
        member: &ShareMember,
        target_epoch: i32,
        target: &Arc<Partitions>,
        bumped: bool,
    ) -> ShareMember {
        if !bumped && member.epoch == target_epoch {
            return member.clone();
        }
        // The target may be older than what the member reads.
        let topics = topic_ids(member, &self.consumers.image);
        let assigned = match target.keys().all(|topic| topics.contains(topic)) {
            true => target.clone(),
            false => {
                let mut left = Partitions::clone(target);
                left.retain(|topic, _| topics.contains(topic));
                Arc::new(left)
            }
        };
        let mut next = ShareMember { assigned, ..member.clone() };
        if member.epoch != target_epoch {
            (next.previous_epoch, next.epoch) = (member.epoch, target_epoch);
        }
        next
    }

    // Leaving.

    fn share_leave(
        &mut self,
        token: Token,
        call: &ShareHeartbeatCall,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refused> {
        let not_found = |text| Refused::new(ErrorCode::GroupIdNotFound, text);
        let group = self.share_group(&call.group).map_err(not_found)?;
        let group = group.ok_or_else(|| not_found(format!("Group {} not found.", call.group)))?;
        let member = group.members.get(&call.member_id).cloned();
        let member = member.ok_or_else(|| unknown_member(&call.member_id, &group.id))?;
        let records = self.fence_shares(&group, &[member], "the member left", turn);
        let reply = Reply::ShareHeartbeat(ShareHeartbeatReply {
            error: ErrorCode::None,
            message: None,
            member_id: Some(call.member_id.clone()),
            epoch: call.epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        });
        self.conclude(records, token, reply, turn);
        Ok(())
    }

    /// Fences members that were silent for too long.
    pub(super) fn share_sessions_expired(
        &mut self,
        id: &str,
        members: &BTreeSet<Arc<str>>,
        turn: &mut Turn<'_>,
    ) {
        let Some(group) = self.shares.get(id).cloned() else { return };
        let members: Vec<_> =
            members.iter().filter_map(|id| group.members.get(id)).cloned().collect();
        let records = self.fence_shares(&group, &members, Timer::Session.why(), turn);
        if !records.is_empty() {
            turn.append(records, Then::Nothing);
        }
    }

    /// Takes members out of a group.
    fn fence_shares(
        &mut self,
        group: &ShareGroup,
        members: &[Arc<ShareMember>],
        why: &'static str,
        turn: &mut Turn<'_>,
    ) -> Vec<Record> {
        let Some(first) = members.first() else { return Vec::new() };
        let mut records = Vec::new();
        let mut left = group.clone();
        for member in members {
            records.extend(removal(&group.id, &member.id));
            left.topics = left.topics_with(member, None);
        }
        let metadata_hash = self.consumers.metadata_hash(&left.topics);
        let epoch = group.epoch + 1;
        let change = ShareChange::Epoch(Some(GroupEpoch { epoch, metadata_hash }));
        records.push(record(&group.id, change));
        self.consumers.rebalances(&group.id, epoch, Some(&first.id), why, turn);
        records
    }
}

fn unknown_member(member: &str, group: &str) -> Refused {
    super::group_heartbeat::unknown_member(member, group)
}

/// A member calls in its epoch, or in the one before.
fn check_epoch(member: &ShareMember, said: i32) -> Result<(), Refused> {
    let known = member.epoch;
    if said == 0 || said == known || (said < known && said == member.previous_epoch) {
        return Ok(());
    }
    let text = match said > known {
        true => format!(
            "The share group member has a greater member epoch ({said}) than the one known by the \
             group coordinator ({known}). The member must abandon all its partitions and rejoin."
        ),
        false => format!(
            "The share group member has a smaller member epoch ({said}) than the one known by the \
             group coordinator ({known}), and it does not match the previous member epoch ({}). \
             The member must abandon all its partitions and rejoin.",
            member.previous_epoch
        ),
    };
    Err(Refused::new(ErrorCode::FencedMemberEpoch, text))
}

/// The topics that a member reads, as far as they exist.
fn topic_ids(member: &ShareMember, image: &Image) -> BTreeSet<Uuid> {
    member.topics.iter().filter_map(|name| image.topics().id_of(name)).collect()
}
