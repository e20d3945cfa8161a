//! Groups that change between the classic and the consumer protocol while they run, and members
//! that speak the classic protocol in a consumer group (KIP-848, "online migration";
//! `GroupMetadataManager.classicGroup*ToConsumerGroup`). Such a member is a member as any other; its
//! JoinGroup, SyncGroup and Heartbeat are answered from its reconciliation. Pure.

use std::sync::Arc;

use super::{
    calls::{
        HeartbeatCall, JoinCall, JoinReply, LeaveCall, LeaveReply, Leaving, Reply, SyncCall,
        SyncReply, Token,
    },
    consumer_groups::Timer,
    consumer_member::{ConsumerMember, MemberState, with_epoch, without_epochs},
    consumer_protocol::{Assignment, Subscription, encode_assignment},
    consumer_records::{ClassicMember, Partitions},
    group_classic::{CONSUMER, ClassicGroup, GroupState},
    group_consumer::ConsumerGroup,
    group_heartbeat::{Refused, known_static, static_member, unknown_member, uuid},
    group_subscription::{Joining, RegexChange},
    member::Member,
    records::Record,
    settings::{MigrationPolicy, Settings},
    shard::Shard,
    turn::Turn,
};
use crate::base::{ErrorCode, Now};

impl Shard {
    // Classic to consumer.

    /// Makes a classic group with members a consumer group.
    pub(super) fn upgrade(
        &mut self,
        id: &Arc<str>,
        records: &mut Vec<Record>,
        turn: &mut Turn<'_>,
    ) -> Result<Arc<ConsumerGroup>, Refused> {
        let Some(classic) = self.groups.get_mut(id) else {
            return Err(ErrorCode::GroupIdNotFound.into());
        };
        let refuse = |why: &str| {
            let text =
                format!("Cannot upgrade classic group {id} to consumer group because {why}.");
            Refused::new(ErrorCode::GroupIdNotFound, text)
        };
        let settings = &turn.settings.consumer;
        if !settings.migration_policy.upgrades() {
            return Err(refuse("online upgrade is disabled"));
        } else if !classic.is_of_consumers() {
            return Err(refuse("the group does not use the consumer embedded protocol"));
        } else if classic.members.len() > settings.max_size {
            return Err(refuse("the group size exceeds the consumer group maximum size"));
        }
        // Whoever waits for a rebalance of the classic group joins the consumer group instead.
        classic.unload(ErrorCode::RebalanceInProgress, turn);
        let mut group = ConsumerGroup::new(id.clone());
        (group.epoch, group.target_epoch) = (classic.generation, classic.generation);
        for member in classic.members.values() {
            let protocol = classic.protocol.as_deref();
            let (member, target) =
                self.consumers.upgraded(member, protocol, classic.generation).map_err(refuse)?;
            group.targets.insert(member.id.clone(), Arc::new(target));
            group.update(member);
        }
        group.metadata_hash = self.consumers.metadata_hash(&group.topics);
        records.push(Record::Group { group: id.clone(), value: None });
        records.extend(group.records());
        for member in group.members.values() {
            let ms = member.classic.as_ref().map_or(0, |c| c.session_timeout_ms);
            self.consumers.start(id, &member.id, Timer::Session, ms, turn.now);
        }
        Ok(Arc::new(group))
    }

    // Consumer to classic.

    fn may_downgrade(group: &ConsumerGroup, left: usize, classic: usize, s: &Settings) -> bool {
        left > 0
            && classic == left
            && s.consumer.migration_policy.downgrades()
            && group.members.len() <= s.max_size.saturating_add(group.members.len() - left)
    }

    /// Whether a group becomes a classic one when these members leave.
    pub(super) fn may_downgrade_without(
        &self,
        group: &ConsumerGroup,
        leaving: &[Arc<ConsumerMember>],
        settings: &Settings,
    ) -> bool {
        let left = group.members.len() - leaving.len();
        let classic = leaving.iter().filter(|m| m.classic.is_some()).count();
        Self::may_downgrade(group, left, group.classic_members - classic, settings)
    }

    /// Makes a consumer group a classic one, without `leaving`; `joining` takes the place of the
    /// static member of its instance. `None`: what members said once cannot be read.
    pub(super) fn downgrade(
        &mut self,
        group: &ConsumerGroup,
        leaving: &[Arc<ConsumerMember>],
        joining: Option<&ConsumerMember>,
        rebalance: bool,
        turn: &Turn<'_>,
    ) -> Option<Vec<Record>> {
        let replaced = joining.and_then(|j| group.static_member(j.instance_id.as_deref()?));
        let stays = |m: &&Arc<ConsumerMember>| {
            !leaving.iter().any(|l| l.id == m.id) && replaced.is_none_or(|r| r.id != m.id)
        };
        let mut classic = ClassicGroup::new(group.id.clone(), turn.now);
        classic.state = GroupState::Stable;
        classic.generation = group.epoch;
        classic.protocol_type = Some(CONSUMER.into());
        let members = group.members.values().filter(stays).map(|m| &**m);
        for member in members.chain(joining) {
            classic.insert(Member::downgraded(member)?);
        }
        classic.protocol = classic.select_protocol();
        classic.subscribed = classic.read_subscriptions();
        let image = &self.consumers.image;
        for member in classic.members.values_mut() {
            let known = match (joining, replaced) {
                (Some(joining), Some(replaced)) if joining.id == member.id => &replaced.id,
                _ => &member.id,
            };
            let said = member.metadata(classic.protocol.as_deref());
            let version = Subscription::decode(&said).ok()?.version;
            member.assignment = encode_assignment(&group.target(known), version, image);
        }
        let ids: Vec<_> = classic.members.keys().cloned().collect();
        for id in ids {
            classic.renew_session(&id, turn.now);
        }
        let renamed = joining.zip(replaced).map(|(joining, replaced)| (&replaced.id, &joining.id));
        let mut records = group.tombstones(renamed);
        records.push(classic.to_record(None));
        self.converting.insert(group.id.clone(), (classic, rebalance));
        Some(records)
    }

    /// The records that make a consumer group a classic one are in the log.
    pub(super) fn converted(&mut self, id: &Arc<str>, turn: &mut Turn<'_>) {
        let Some((classic, rebalance)) = self.converting.remove(id) else { return };
        let group = self.groups.entry(id.clone()).insert_entry(classic).into_mut();
        if rebalance {
            group.prepare_rebalance(turn);
        }
        self.arm(id);
    }

    // The classic protocol in a consumer group.

    pub(super) fn classic_join(&mut self, token: Token, call: &JoinCall, turn: &mut Turn<'_>) {
        match self.try_classic_join(call, turn) {
            Ok((records, reply)) => self.conclude(records, token, Reply::Join(reply), turn),
            Err(Refused { error, .. }) => {
                let id = match error {
                    ErrorCode::GroupMaxSizeReached => Arc::default(),
                    _ => call.member_id.clone(),
                };
                turn.reply(token, Reply::Join(JoinReply::error(id, error)));
            }
        }
    }

    fn try_classic_join(
        &mut self,
        call: &JoinCall,
        turn: &mut Turn<'_>,
    ) -> Result<(Vec<Record>, JoinReply), Refused> {
        let Some(group) = self.consumers.get(&call.group).cloned() else {
            return Err(ErrorCode::UnknownMemberId.into());
        };
        let settings = &turn.settings.consumer;
        if settings.migration_policy == MigrationPolicy::Disabled {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        let unknown = call.member_id.is_empty();
        let id = if unknown { uuid(call.unique) } else { call.member_id.clone() };
        if group.members.len() >= settings.max_size && !group.members.contains_key(&id) {
            return Err(ErrorCode::GroupMaxSizeReached.into());
        }
        let names = call.protocols.iter().map(|p| &p.name);
        if !group.supports_classic(&call.protocol_type, names) {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        if call.instance_id.is_none() && unknown && call.must_know_id {
            return Ok((Vec::new(), JoinReply::error(id, ErrorCode::MemberIdRequired)));
        }
        // The protocols are not empty, or none would be common.
        let first = call.protocols.first().ok_or(ErrorCode::InconsistentGroupProtocol)?;
        let said = Subscription::decode(&first.metadata)
            .map_err(|_| Refused::from(ErrorCode::UnknownServerError))?;
        let mut records = Vec::new();
        let member = match &call.instance_id {
            None => group.member_or_new(&id),
            Some(instance) => static_member(&group, &id, instance, None, unknown, &mut records)?,
        };
        let updated = joined(&member, call, &said);
        let joining = Joining { group: &group, member: &member, updated: &updated };
        let names_changed = joining.subscription(&mut records);
        let regex = self.update_regexes(&joining, &mut records, turn)?;
        let changed = names_changed || regex != RegexChange::None;
        let why = "a member joined with the classic protocol";
        let epoch = self.standing(&joining, changed, why, &mut records, turn);
        let owned = said.owned(&self.consumers.image);
        let replaced = call.instance_id.as_deref().and_then(|i| group.static_member(i));
        let downgrades = replaced.is_some_and(|old| {
            let classic = group.classic_members - usize::from(old.classic.is_some());
            old.classic.is_none()
                && Self::may_downgrade(&group, group.members.len(), classic + 1, turn.settings)
        });
        let (target_epoch, target) = match downgrades {
            true => (group.target_epoch, group.target_of(&updated)),
            false => self.target(&joining, epoch, &mut records, turn),
        };
        let rebalance = downgrades && group.target_epoch < epoch;
        let updated = match rebalance {
            true => updated.clone(),
            false => self.reconcile(
                &joining,
                target_epoch,
                &target,
                changed,
                Some(&owned),
                &mut records,
                turn.now,
            )?,
        };
        let reply = joined_reply(&updated);
        if downgrades {
            let classic = self.downgrade(&group, &[], Some(&updated), rebalance, turn);
            records.extend(classic.ok_or(ErrorCode::GroupIdNotFound)?);
        } else {
            let now = turn.now;
            self.consumers.timers.cancel(&call.group, &updated.id, Timer::Join);
            let (session, sync) = (call.session_timeout_ms, call.rebalance_timeout_ms);
            self.consumers.start(&call.group, &updated.id, Timer::Session, session, now);
            self.consumers.start(&call.group, &updated.id, Timer::Sync, sync, now);
        }
        Ok((records, reply))
    }

    pub(super) fn classic_sync(&mut self, token: Token, call: &SyncCall, turn: &mut Turn<'_>) {
        let reply =
            self.try_classic_sync(call, turn.now).unwrap_or_else(|e| SyncReply::error(e.error));
        self.reply_after_writes(token, Reply::Sync(reply), turn);
    }

    fn try_classic_sync(&mut self, call: &SyncCall, now: Now) -> Result<SyncReply, Refused> {
        let Some(group) = self.consumers.get(&call.group).cloned().filter(|g| !g.is_empty()) else {
            return Err(ErrorCode::UnknownMemberId.into());
        };
        let (member, classic) =
            classic_member(&group, &call.member_id, call.instance_id.as_deref())?;
        if call.generation != member.epoch {
            return Err(ErrorCode::IllegalGeneration.into());
        }
        let first = classic.protocols.first().ok_or(ErrorCode::UnknownServerError)?;
        let differs =
            |said: &Option<Arc<str>>, ours: &str| said.as_ref().is_some_and(|said| **said != *ours);
        if differs(&call.protocol_type, CONSUMER) || differs(&call.protocol, &first.name) {
            return Err(ErrorCode::InconsistentGroupProtocol.into());
        }
        if group.target_epoch > member.epoch && member.state != MemberState::UnrevokedPartitions {
            self.await_join(&group.id, member, now);
            return Err(ErrorCode::RebalanceInProgress.into());
        }
        let version = Subscription::decode(&first.metadata)
            .map_err(|_| Refused::from(ErrorCode::UnknownServerError))?
            .version;
        self.consumers.timers.cancel(&group.id, &member.id, Timer::Sync);
        let ms = classic.session_timeout_ms;
        self.consumers.start(&group.id, &member.id, Timer::Session, ms, now);
        let partitions = without_epochs(&member.assigned);
        Ok(SyncReply {
            error: ErrorCode::None,
            protocol_type: call.protocol_type.clone(),
            protocol: call.protocol.clone(),
            assignment: encode_assignment(&partitions, version, &self.consumers.image),
        })
    }

    fn await_join(&mut self, group: &Arc<str>, member: &ConsumerMember, now: Now) {
        let ms = member.rebalance_timeout_ms;
        self.consumers.start_if_absent(group, &member.id, Timer::Join, ms, now);
    }

    pub(super) fn classic_heartbeat(
        &mut self,
        token: Token,
        call: &HeartbeatCall,
        turn: &mut Turn<'_>,
    ) {
        let error = self.try_classic_heartbeat(call, turn.now).unwrap_or_else(|e| e.error);
        self.reply_after_writes(token, Reply::Heartbeat(error), turn);
    }

    fn try_classic_heartbeat(
        &mut self,
        call: &HeartbeatCall,
        now: Now,
    ) -> Result<ErrorCode, Refused> {
        let Some(group) = self.consumers.get(&call.group).cloned() else {
            return Err(ErrorCode::UnknownMemberId.into());
        };
        let (member, classic) =
            classic_member(&group, &call.member_id, call.instance_id.as_deref())?;
        if call.generation != member.epoch {
            return Err(ErrorCode::IllegalGeneration.into());
        }
        let ms = classic.session_timeout_ms;
        self.consumers.start(&group.id, &member.id, Timer::Session, ms, now);
        let must_rejoin = member.epoch < group.target_epoch
            || match member.state {
                MemberState::UnrevokedPartitions => true,
                MemberState::UnreleasedPartitions => !group.waits_for_unreleased(member),
                MemberState::Stable | MemberState::Unknown => false,
            };
        if must_rejoin {
            self.await_join(&group.id, member, now);
            return Ok(ErrorCode::RebalanceInProgress);
        }
        Ok(ErrorCode::None)
    }

    pub(super) fn classic_leave(&mut self, token: Token, call: &LeaveCall, turn: &mut Turn<'_>) {
        let Some(group) = self.consumers.get(&call.group).cloned() else { return };
        let (mut leaving, mut members) = (Vec::new(), Vec::new());
        for named in &call.members {
            let error = match named_member(&group, named) {
                Ok(member) => {
                    if !leaving.iter().any(|m: &Arc<ConsumerMember>| m.id == member.id) {
                        leaving.push(member.clone());
                    }
                    ErrorCode::None
                }
                Err(refused) => refused.error,
            };
            members.push((named.clone(), error));
        }
        let records = self.fence(&group, &leaving, "a member left by LeaveGroup", turn);
        let reply = LeaveReply { error: ErrorCode::None, members };
        self.conclude(records, token, Reply::Leave(reply), turn);
    }
}

impl super::consumer_groups::ConsumerGroups {
    /// A member of a classic group as one of a consumer group, and what it has.
    fn upgraded(
        &self,
        member: &Member,
        protocol: Option<&str>,
        generation: i32,
    ) -> Result<(ConsumerMember, Partitions), &'static str> {
        const MALFORMED: &str = "the embedded consumer protocol is malformed";
        let mut partitions = Partitions::new();
        if !member.assignment.is_empty() {
            let assignment = Assignment::decode(&member.assignment).map_err(|_| MALFORMED)?;
            if !assignment.user_data.is_empty() {
                return Err("an unsupported custom assignor is in use");
            }
            partitions = assignment.partitions(&self.image);
        }
        let said = Subscription::decode(&member.metadata(protocol)).map_err(|_| MALFORMED)?;
        let upgraded = ConsumerMember {
            epoch: generation,
            previous_epoch: generation,
            instance_id: member.instance_id.clone(),
            rack: said.rack,
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            client: member.client.clone(),
            topics: said.topics,
            assigned: with_epoch(&partitions, generation),
            classic: Some(ClassicMember {
                session_timeout_ms: member.session_timeout_ms,
                protocols: member.protocols.clone(),
            }),
            ..ConsumerMember::new(member.id.clone())
        };
        Ok((upgraded, partitions))
    }
}

impl Member {
    /// A member of a consumer group as one of a classic group; `None` if it never spoke the classic
    /// protocol.
    fn downgraded(member: &ConsumerMember) -> Option<Self> {
        let classic = member.classic.as_ref()?;
        Some(Self {
            id: member.id.clone(),
            instance_id: member.instance_id.clone(),
            client: member.client.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: classic.session_timeout_ms,
            protocols: classic.protocols.clone(),
            assignment: bytes::Bytes::new(),
            joining: None,
            syncing: None,
            is_new: false,
            session_at: crate::base::Mono::NEVER,
        })
    }
}

/// The member with what its JoinGroup says.
fn joined(member: &ConsumerMember, call: &JoinCall, said: &Subscription) -> ConsumerMember {
    ConsumerMember {
        instance_id: call.instance_id.clone().or_else(|| member.instance_id.clone()),
        rack: said.rack.clone().or_else(|| member.rack.clone()),
        rebalance_timeout_ms: call.rebalance_timeout_ms,
        topics: said.topics.clone(),
        regex: Some(Arc::from("")),
        client: call.client.clone(),
        classic: Some(ClassicMember {
            session_timeout_ms: call.session_timeout_ms,
            protocols: call.protocols.clone(),
        }),
        ..member.clone()
    }
}

/// The member's epoch is its generation; nobody leads, so that nobody assigns.
fn joined_reply(member: &ConsumerMember) -> JoinReply {
    JoinReply {
        error: ErrorCode::None,
        generation: member.epoch,
        protocol_type: Some(CONSUMER.into()),
        protocol: member.protocols().first().map(|p| p.name.clone()),
        leader: Arc::default(),
        skip_assignment: false,
        member_id: member.id.clone(),
        members: Vec::new(),
    }
}

/// A member that speaks the classic protocol.
fn classic_member<'a>(
    group: &'a ConsumerGroup,
    id: &str,
    instance_id: Option<&str>,
) -> Result<(&'a ConsumerMember, &'a ClassicMember), Refused> {
    let member = match instance_id {
        None => group.members.get(id).ok_or_else(|| unknown_member(id, &group.id))?,
        Some(instance) => known_static(group, instance, id)?,
    };
    match &member.classic {
        Some(classic) => Ok((member, classic)),
        None => Err(ErrorCode::UnknownMemberId.into()),
    }
}

/// Whom a LeaveGroup names; an admin names a static member without its id.
fn named_member<'a>(
    group: &'a ConsumerGroup,
    named: &Leaving,
) -> Result<&'a Arc<ConsumerMember>, Refused> {
    match &named.instance_id {
        Some(instance) if named.member_id.is_empty() => {
            group.static_member(instance).ok_or_else(|| ErrorCode::UnknownMemberId.into())
        }
        Some(instance) => known_static(group, instance, &named.member_id),
        None => group
            .members
            .get(&named.member_id)
            .ok_or_else(|| unknown_member(&named.member_id, &group.id)),
    }
}
