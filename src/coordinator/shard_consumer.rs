//! How a shard holds its consumer groups: loading, metadata, expiry, deletion, what readers see.
//! What members do stands in `group_heartbeat` and `group_migration`. Pure.

use std::sync::Arc;

use super::{
    calls::{Call, DescribedGroup, Effect, Reply, Token},
    calls_consumer::{ChangedTopics, DescribedConsumerGroup, Rebalance, ResolvedRegexes},
    consumer_groups::{self, Groups, Timer},
    consumer_member::MemberState,
    consumer_records::ConsumerRecord,
    group_classic::ClassicGroup,
    offsets::Owner,
    records::Record,
    shard::Shard,
    turn::Turn,
};
use crate::{
    base::{ErrorCode, Now},
    metadata::Image,
};

impl Shard {
    /// Takes a record of a consumer group that was written.
    pub(super) fn apply_consumer(&mut self, record: &ConsumerRecord, now: Now) {
        let gone = self.consumers.replay(record);
        let id = &record.group;
        if self.consumers.has(id) {
            // What was here is the group that its first offsets made, or the one it replaces.
            self.groups.remove(id);
        } else if gone && self.has_offsets(id) && !self.groups.contains_key(id) {
            // Offsets never stand without a group.
            self.groups.insert(id.clone(), ClassicGroup::new(id.clone(), now));
        }
    }

    /// All records are replayed: sessions begin.
    pub(super) fn consumers_loaded(&mut self, turn: &Turn<'_>) {
        let groups = self.consumers.groups.clone();
        for group in groups.values() {
            let ms = self.consumers.session_timeout_ms(&group.id, turn.settings);
            for member in group.members.values() {
                let session = member.classic.as_ref().map_or(ms, |c| c.session_timeout_ms);
                self.consumers.start(&group.id, &member.id, Timer::Session, session, turn.now);
                if member.state == MemberState::UnrevokedPartitions {
                    let ms = i64::from(member.rebalance_timeout_ms.max(0));
                    let (timer, at) = (Timer::Rebalance, turn.now.mono.after_ms(ms));
                    self.consumers.timers.start(&group.id, &member.id, timer, at, member.epoch);
                }
            }
        }
    }

    /// The cluster's metadata is now `image`. Told before the shard is loaded, and whenever topics
    /// or settings of groups change.
    pub fn metadata_changed(&mut self, image: Arc<Image>, changed: &ChangedTopics) {
        self.consumers.metadata_changed(image, changed);
        self.shares_metadata_changed(changed);
    }

    /// The driver's answer to [`Effect::ResolveRegexes`].
    pub fn regexes_resolved(
        &mut self,
        group: &Arc<str>,
        member: &Arc<str>,
        resolved: ResolvedRegexes,
        now: Now,
        out: &mut Vec<Effect>,
    ) {
        self.turn(now, out, |shard, turn| shard.take_regexes(group, member, resolved, turn));
    }

    /// The consumer groups as they are committed.
    pub(super) fn committed_consumers(&self) -> &Groups {
        self.pending.front().map_or(&self.consumers.groups, |p| &p.groups_before)
    }

    /// One consumer group in full, as it is committed; `None` if there is no such group.
    #[must_use]
    pub fn describe_consumer_group(&self, group: &str) -> Option<DescribedConsumerGroup> {
        let default = self.settings.consumer.default_assignor().name();
        let found = self.committed_consumers().get(group)?;
        Some(consumer_groups::describe(found, default))
    }

    /// One classic group in full; others are as if they were not there.
    #[must_use]
    pub fn describe(&self, group: &Arc<str>) -> DescribedGroup {
        let unknown = || DescribedGroup {
            group: group.clone(),
            found: false,
            state: "Dead",
            protocol_type: Arc::default(),
            protocol: Arc::default(),
            members: Vec::new(),
        };
        self.groups.get(group).map_or_else(unknown, ClassicGroup::describe)
    }

    /// Why a consumer group rebalanced the last times, the latest last.
    #[must_use]
    pub fn last_rebalances(&self, group: &str) -> Vec<Rebalance> {
        self.consumers.last_rebalances(group)
    }

    /// Whether a call of the classic protocol is for a consumer group. One without members is ended
    /// by a JoinGroup.
    pub(super) fn is_for_consumers(&self, call: &Call) -> bool {
        let (group, joins) = match call {
            Call::Join(call) => (&call.group, true),
            Call::Sync(call) => (&call.group, false),
            Call::Heartbeat(call) => (&call.group, false),
            Call::Leave(call) => (&call.group, false),
            _ => return false,
        };
        self.consumers.get(group).is_some_and(|g| !joins || !g.is_empty())
    }

    pub(super) fn consumer_call(&mut self, token: Token, call: &Call, turn: &mut Turn<'_>) {
        match call {
            Call::Join(call) => self.classic_join(token, call, turn),
            Call::Sync(call) => self.classic_sync(token, call, turn),
            Call::Heartbeat(call) => self.classic_heartbeat(token, call, turn),
            Call::Leave(call) => self.classic_leave(token, call, turn),
            _ => {}
        }
    }

    /// Ends a consumer group without members, so that a classic one of its name can begin.
    pub(super) fn end_empty_consumer_group(&mut self, id: &Arc<str>) -> Vec<Record> {
        let Some(group) = self.consumers.get(id).filter(|g| g.is_empty()) else {
            return Vec::new();
        };
        let records = group.tombstones(None);
        self.consumers.remove(id);
        records
    }

    pub(super) fn delete_consumer_group(
        &self,
        id: &Arc<str>,
        records: &mut Vec<Record>,
    ) -> ErrorCode {
        match self.consumers.get(id) {
            None => self.delete_share_group(id, records),
            Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup,
            Some(group) => {
                self.offsets.delete_group(id, records);
                self.txns.delete(id, |_, _| true, records);
                records.extend(group.tombstones(None));
                ErrorCode::None
            }
        }
    }

    /// The group whose offsets may be deleted by hand.
    pub(super) fn offset_owner(&self, id: &str) -> Result<&dyn Owner, ErrorCode> {
        if let Some(group) = self.groups.get(id) {
            return group.accept_offset_delete().map(|()| group as &dyn Owner);
        }
        let group = self.consumers.get(id).ok_or(ErrorCode::GroupIdNotFound)?;
        Ok(&**group)
    }

    /// Adds tombstones of what has expired in consumer groups, and of groups with nothing left.
    pub(super) fn sweep_consumers(&mut self, turn: &Turn<'_>, records: &mut Vec<Record>) {
        for group in self.consumers.groups.values() {
            let from = records.len();
            let bare = self.offsets.expire(&**group, turn.now, turn.settings, records);
            let bare = self.txns.spare(&group.id, records, from) && bare;
            if bare && group.is_empty() {
                records.extend(group.tombstones(None));
            }
        }
        let shares = &self.shares;
        self.consumers.forget_strangers(|id| shares.has(id));
    }

    /// Answers when all that was written before is committed: the reply may tell of it.
    pub(super) fn reply_after_writes(&mut self, token: Token, reply: Reply, turn: &mut Turn<'_>) {
        match self.pending.back_mut() {
            None => turn.reply(token, reply),
            Some(last) => {
                if last.deadline == crate::base::Mono::NEVER {
                    last.deadline = turn.now.mono.after_ms(turn.settings.commit_timeout_ms);
                }
                last.reads.push((token, reply));
            }
        }
    }
}
