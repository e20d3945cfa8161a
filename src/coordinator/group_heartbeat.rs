//! ConsumerGroupHeartbeat: members join, subscribe, reconcile, leave and are fenced
//! (`GroupMetadataManager.consumerGroupHeartbeat` and on). Each decision is a list of records; the
//! state changes when they are in the log. How classic members live in these groups stands in
//! `group_migration`. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use super::{
    calls::{Reply, Token},
    calls_consumer::{ConsumerHeartbeatCall, ConsumerHeartbeatReply},
    consumer_groups::Timer,
    consumer_member::{
        ConsumerMember, LEAVE_EPOCH, LEAVE_STATIC_EPOCH, MemberState, is_subset, record,
        without_epochs,
    },
    consumer_records::{Change, Epochs, GroupEpoch, Partitions},
    group_consumer::ConsumerGroup,
    group_reconcile::Reconciliation,
    group_subscription::{Joining, RegexChange},
    records::Record,
    shard::Shard,
    turn::{Then, Turn},
};
use crate::base::{ErrorCode, Now};

/// A timer whose decision could not be written comes back after this time, in milliseconds.
const RETRY_MS: i64 = 500;

/// Why a call is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) error: ErrorCode,
    pub(super) message: Option<String>,
}

impl Refused {
    pub(super) fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { error, message: Some(message.into()) }
    }
}

impl From<ErrorCode> for Refused {
    fn from(error: ErrorCode) -> Self {
        Self { error, message: None }
    }
}

type Decided = (Vec<Record>, ConsumerHeartbeatReply);

impl Shard {
    pub(super) fn consumer_heartbeat(
        &mut self,
        token: Token,
        call: &ConsumerHeartbeatCall,
        turn: &mut Turn<'_>,
    ) {
        let decided = match call.epoch {
            LEAVE_EPOCH | LEAVE_STATIC_EPOCH => self.consumer_leave(call, turn),
            _ => self.consumer_beat(call, turn),
        };
        match decided {
            Ok((records, reply)) => {
                self.conclude(records, token, Reply::ConsumerHeartbeat(reply), turn);
            }
            Err(Refused { error, message }) => {
                let reply = ConsumerHeartbeatReply::error(error, message);
                turn.reply(token, Reply::ConsumerHeartbeat(reply));
            }
        }
    }

    /// Appends `records` and answers when they are committed; without any, answers when all that
    /// was written before is.
    pub(super) fn conclude(
        &mut self,
        records: Vec<Record>,
        token: Token,
        reply: Reply,
        turn: &mut Turn<'_>,
    ) {
        if records.is_empty() {
            self.reply_after_writes(token, reply, turn);
        } else {
            turn.append(records, Then::Replies(vec![(token, reply)]));
        }
    }

    fn consumer_beat(
        &mut self,
        call: &ConsumerHeartbeatCall,
        turn: &mut Turn<'_>,
    ) -> Result<Decided, Refused> {
        let joins = call.epoch == 0;
        let mut records = Vec::new();
        let group = self.consumer_group(&call.group, joins, &mut records, turn)?;
        let has = |id: &str| !id.is_empty() && group.members.contains_key(id);
        if group.members.len() >= turn.settings.consumer.max_size && !has(&call.member_id) {
            let max = turn.settings.consumer.max_size;
            return Err(Refused::new(
                ErrorCode::GroupMaxSizeReached,
                format!("The consumer group has reached its maximum capacity of {max} members."),
            ));
        }
        let id = match call.member_id.is_empty() {
            true => uuid(call.unique),
            false => call.member_id.clone(),
        };
        let member = match &call.instance_id {
            None => dynamic_member(&group, &id, call, joins)?,
            Some(instance) => {
                static_member(&group, &id, instance, Some(call), joins, &mut records)?
            }
        };
        let updated = updated(&member, call);
        let joining = Joining { group: &group, member: &member, updated: &updated };
        let names_changed = joining.subscription(&mut records);
        let regex = self.update_regexes(&joining, &mut records, turn)?;
        let bump = names_changed || regex == RegexChange::Resolved;
        let why = match (joins, names_changed) {
            (true, _) => "a member joined",
            (false, true) => "a member subscribed to other topics",
            (false, false) => "a member has another regular expression",
        };
        let epoch = self.standing(&joining, bump, why, &mut records, turn);
        let (target_epoch, target) = self.target(&joining, epoch, &mut records, turn);
        let changed = names_changed || regex != RegexChange::None;
        let owned = call.owned.as_ref();
        let updated = self.reconcile(
            &joining,
            target_epoch,
            &target,
            changed,
            owned,
            &mut records,
            turn.now,
        )?;
        let timeout = self.consumers.session_timeout_ms(&call.group, turn.settings);
        self.consumers.start(&call.group, &id, Timer::Session, timeout, turn.now);
        let full = call.rebalance_timeout_ms.is_some()
            && (call.topics.is_some() || call.regex.is_some())
            && call.owned.is_some();
        let assigned = joins || full || updated.assigned != member.assigned;
        let reply = ConsumerHeartbeatReply {
            error: ErrorCode::None,
            message: None,
            member_id: Some(id),
            epoch: updated.epoch,
            heartbeat_interval_ms: self.consumers.heartbeat_interval_ms(&call.group, turn.settings),
            assignment: assigned.then(|| without_epochs(&updated.assigned)),
        };
        Ok((records, reply))
    }

    /// The consumer group of that name; if `create`, a new one, or what a classic group becomes.
    fn consumer_group(
        &mut self,
        id: &Arc<str>,
        create: bool,
        records: &mut Vec<Record>,
        turn: &mut Turn<'_>,
    ) -> Result<Arc<ConsumerGroup>, Refused> {
        if let Some(group) = self.consumers.get(id) {
            return Ok(group.clone());
        }
        match self.groups.get(id) {
            _ if !create => {
                let text = format!("Group {id} is not a consumer group.");
                Err(Refused::new(ErrorCode::GroupIdNotFound, text))
            }
            None => Ok(Arc::new(ConsumerGroup::new(id.clone()))),
            Some(classic) if classic.is_empty() => {
                records.push(Record::Group { group: id.clone(), value: None });
                Ok(Arc::new(ConsumerGroup::new(id.clone())))
            }
            Some(_) => self.upgrade(id, records, turn),
        }
    }

    // Reconciling and leaving.

    /// The member after its next step towards its target.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn reconcile(
        &mut self,
        joining: &Joining<'_>,
        target_epoch: i32,
        target: &Partitions,
        subscription_changed: bool,
        owned: Option<&Partitions>,
        records: &mut Vec<Record>,
        now: Now,
    ) -> Result<ConsumerMember, Refused> {
        let Joining { group, updated, .. } = joining;
        if !subscription_changed && updated.is_reconciled_to(target_epoch) {
            return Ok(ConsumerMember::clone(updated));
        }
        let reconciliation = Reconciliation {
            image: &self.consumers.image,
            target_epoch,
            target,
            subscription_changed,
            resolved: &group.resolved,
            is_owned: &|topic, partition| group.is_owned(topic, partition),
            owned,
        };
        let next = reconciliation.step(updated).map_err(|_| {
            Refused::new(
                ErrorCode::FencedMemberEpoch,
                "The consumer group member is in a unknown state. The member must abandon all its \
                 partitions and rejoin.",
            )
        })?;
        if next != **updated {
            records.push(next.current_record(&group.id));
            if next.classic.is_none() {
                let timer = Timer::Rebalance;
                if next.state == MemberState::UnrevokedPartitions {
                    let at = now.mono.after_ms(i64::from(next.rebalance_timeout_ms.max(0)));
                    self.consumers.timers.start(&group.id, &next.id, timer, at, next.epoch);
                } else {
                    self.consumers.timers.cancel(&group.id, &next.id, timer);
                }
            }
        }
        Ok(next)
    }

    // Leaving.

    fn consumer_leave(
        &mut self,
        call: &ConsumerHeartbeatCall,
        turn: &mut Turn<'_>,
    ) -> Result<Decided, Refused> {
        let Some(group) = self.consumers.get(&call.group).cloned() else {
            let text = format!("Group {} not found.", call.group);
            return Err(Refused::new(ErrorCode::GroupIdNotFound, text));
        };
        let reply = |epoch| ConsumerHeartbeatReply {
            error: ErrorCode::None,
            message: None,
            member_id: Some(call.member_id.clone()),
            epoch,
            heartbeat_interval_ms: 0,
            assignment: None,
        };
        let member = match &call.instance_id {
            None => group
                .members
                .get(&call.member_id)
                .ok_or_else(|| unknown_member(&call.member_id, &group.id))?,
            Some(instance) => known_static(&group, instance, &call.member_id)?,
        };
        if call.instance_id.is_some() && call.epoch == LEAVE_STATIC_EPOCH {
            // It keeps what it has until it is back or its session ends.
            let assigned: Epochs = member
                .assigned
                .iter()
                .map(|(t, p)| (*t, p.keys().map(|p| (*p, 0)).collect()))
                .collect();
            let leaving = ConsumerMember {
                epoch: LEAVE_STATIC_EPOCH,
                assigned,
                revoking: Epochs::new(),
                ..ConsumerMember::clone(member)
            };
            return Ok((vec![leaving.current_record(&group.id)], reply(LEAVE_STATIC_EPOCH)));
        }
        let member = member.clone();
        let records = self.fence(&group, &[member], "the member left", turn);
        Ok((records, reply(call.epoch)))
    }

    /// Takes members out of a group, and makes it a classic group if only classic members are left.
    pub(super) fn fence(
        &mut self,
        group: &Arc<ConsumerGroup>,
        members: &[Arc<ConsumerMember>],
        why: &'static str,
        turn: &mut Turn<'_>,
    ) -> Vec<Record> {
        if members.is_empty() {
            return Vec::new();
        }
        if self.may_downgrade_without(group, members, turn.settings)
            && let Some(records) = self.downgrade(group, members, None, true, turn)
        {
            return records;
        }
        let mut records = Vec::new();
        let mut leaving = imbl::OrdMap::new();
        for member in members {
            records.extend(removal(&group.id, &member.id));
            if let Some(regex) = member.regex() {
                *leaving.entry(regex.clone()).or_insert(0_usize) += 1;
            }
        }
        let gone = leaving.iter().filter(|(regex, n)| group.regexes.get(*regex) == Some(*n));
        let gone: Vec<Arc<str>> = gone.map(|(regex, _)| regex.clone()).collect();
        for regex in &gone {
            records.push(record(&group.id, Change::Regex(regex.clone(), None)));
        }
        let metadata_hash = self.consumers.metadata_hash(&group.topics_without(members, &gone));
        let epoch = group.epoch + 1;
        records.push(record(&group.id, Change::Epoch(Some(GroupEpoch { epoch, metadata_hash }))));
        self.consumers.rebalances(&group.id, epoch, members.first().map(|m| &m.id), why, turn);
        records
    }

    /// Fences the members whose timers ran out.
    pub(super) fn consumer_deadlines(&mut self, turn: &mut Turn<'_>) {
        // All of a group at once: each decision counts on the records of the one before.
        let mut over: BTreeMap<Arc<str>, Vec<(Arc<str>, Timer)>> = BTreeMap::new();
        let mut of_shares: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
        while let Some((id, member_id, timer, epoch)) = self.consumers.timers.pop(turn.now.mono) {
            if self.shares.get(&id).is_some_and(|g| g.members.contains_key(&member_id)) {
                let at = turn.now.mono.after_ms(RETRY_MS);
                self.consumers.timers.start(&id, &member_id, timer, at, epoch);
                of_shares.entry(id).or_default().insert(member_id);
                continue;
            }
            let group = self.consumers.get(&id);
            let Some(member) = group.and_then(|g| g.members.get(&member_id)) else { continue };
            if timer != Timer::Rebalance || member.epoch == epoch {
                // Again, should the log refuse it; the member's end takes its timers along.
                let at = turn.now.mono.after_ms(RETRY_MS);
                self.consumers.timers.start(&id, &member_id, timer, at, epoch);
                over.entry(id).or_default().push((member_id, timer));
            }
        }
        for (id, members) in of_shares {
            self.share_sessions_expired(&id, &members, turn);
        }
        for (id, members) in over {
            let Some(group) = self.consumers.get(&id).cloned() else { continue };
            let why = members.first().map_or("", |(_, timer)| timer.why());
            let ids: BTreeSet<Arc<str>> = members.into_iter().map(|(id, _)| id).collect();
            let members: Vec<_> =
                ids.iter().filter_map(|id| group.members.get(id)).cloned().collect();
            let records = self.fence(&group, &members, why, turn);
            if !records.is_empty() {
                turn.append(records, Then::Nothing);
            }
        }
    }
}

/// Tombstones of a member.
fn removal(group: &Arc<str>, member: &Arc<str>) -> [Record; 3] {
    [
        record(group, Change::Current(member.clone(), None)),
        record(group, Change::Target(member.clone(), None)),
        record(group, Change::Member(member.clone(), None)),
    ]
}

pub(super) fn unknown_member(member: &str, group: &str) -> Refused {
    let text = format!("Member {member} is not a member of group {group}.");
    Refused::new(ErrorCode::UnknownMemberId, text)
}

fn dynamic_member(
    group: &ConsumerGroup,
    id: &Arc<str>,
    call: &ConsumerHeartbeatCall,
    joins: bool,
) -> Result<ConsumerMember, Refused> {
    let member = match group.members.get(id) {
        Some(member) => ConsumerMember::clone(member),
        None if joins => ConsumerMember::new(id.clone()),
        None => return Err(unknown_member(id, &group.id)),
    };
    check_epoch(&member, call)?;
    Ok(member)
}

/// A static member: the known one, or one that takes the place of the known one. `call` is `None`
/// for a member that speaks the classic protocol.
pub(super) fn static_member(
    group: &ConsumerGroup,
    id: &Arc<str>,
    instance_id: &Arc<str>,
    call: Option<&ConsumerHeartbeatCall>,
    joins: bool,
    records: &mut Vec<Record>,
) -> Result<ConsumerMember, Refused> {
    if !joins {
        let member = known_static(group, instance_id, id)?;
        if let Some(call) = call {
            check_epoch(member, call)?;
        }
        return Ok(ConsumerMember::clone(member));
    }
    let Some(old) = group.static_member(instance_id) else { return Ok(group.member_or_new(id)) };
    if call.is_some() && old.classic.is_none() && old.epoch != LEAVE_STATIC_EPOCH {
        return Err(Refused::new(
            ErrorCode::UnreleasedInstanceId,
            format!(
                "Static member {id} with instance id {instance_id} cannot join the group because \
                 the instance id is owned by {} member.",
                old.id
            ),
        ));
    }
    let member = ConsumerMember {
        id: id.clone(),
        epoch: 0,
        previous_epoch: 0,
        ..ConsumerMember::clone(old)
    };
    records.extend(removal(&group.id, &old.id));
    records.push(member.subscription_record(&group.id));
    let target = Change::Target(id.clone(), Some(group.target(&old.id)));
    records.push(record(&group.id, target));
    records.push(member.current_record(&group.id));
    Ok(member)
}

/// The static member of that instance, if `id` is who it is.
pub(super) fn known_static<'a>(
    group: &'a ConsumerGroup,
    instance_id: &str,
    id: &str,
) -> Result<&'a Arc<ConsumerMember>, Refused> {
    let Some(member) = group.static_member(instance_id) else {
        let text = format!("Instance id {instance_id} is unknown.");
        return Err(Refused::new(ErrorCode::UnknownMemberId, text));
    };
    if *member.id != *id {
        return Err(Refused::new(
            ErrorCode::FencedInstanceId,
            format!(
                "Static member {id} with instance id {instance_id} was fenced by member {}.",
                member.id
            ),
        ));
    }
    Ok(member)
}

/// A member calls in its epoch, or in the one before if it has nothing that it may not have.
fn check_epoch(member: &ConsumerMember, call: &ConsumerHeartbeatCall) -> Result<(), Refused> {
    let (said, known) = (call.epoch, member.epoch);
    let previous = said == member.previous_epoch
        && said < known
        && is_subset(call.owned.as_ref(), &member.assigned);
    if said == 0 || said == known || previous {
        return Ok(());
    }
    let which = if said > known { "greater" } else { "smaller" };
    Err(Refused::new(
        ErrorCode::FencedMemberEpoch,
        format!(
            "The consumer group member has a {which} member epoch ({said}) than the one known by \
             the group coordinator ({known}). The member must abandon all its partitions and \
             rejoin."
        ),
    ))
}

/// The member with what the heartbeat says.
fn updated(member: &ConsumerMember, call: &ConsumerHeartbeatCall) -> ConsumerMember {
    let mut next = member.clone();
    let keep = |new: &Option<Arc<str>>, old: Option<Arc<str>>| new.clone().or(old);
    next.instance_id = keep(&call.instance_id, next.instance_id);
    next.rack = keep(&call.rack, next.rack);
    next.rebalance_timeout_ms = call.rebalance_timeout_ms.unwrap_or(next.rebalance_timeout_ms);
    next.assignor = keep(&call.assignor, next.assignor);
    if let Some(topics) = &call.topics {
        next.topics.clone_from(topics);
    }
    next.regex = keep(&call.regex, next.regex);
    next.client = call.client.clone();
    next.classic = None;
    next
}

/// Random bytes as a member id, printed as Kafka prints ids of topics.
pub(super) fn uuid(bytes: [u8; 16]) -> Arc<str> {
    let mut id = String::new();
    let _ = write!(id, "{}", crate::base::Uuid(bytes));
    id.into()
}
