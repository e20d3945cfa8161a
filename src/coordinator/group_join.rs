//! How a classic group rebalances: JoinGroup, the join phase and its timers
//! (`GroupMetadataManager.classicGroupJoin`). Pure.
//!
//! A JoinGroup is parked until all known members have sent theirs or the phase runs out of time.
//! The first rebalance of an empty group waits a little instead, so that members started together
//! meet in one generation.

use std::{fmt::Write as _, sync::Arc};

use super::{
    calls::{JoinCall, JoinReply, Reply, SyncReply, Token},
    group_classic::{ClassicGroup, GroupState},
    member::Member,
    turn::{Replaced, Then, Turn},
};
use crate::base::{ErrorCode, Mono, Now};

/// How long a new member may stay parked: by then its client has given up and retries
/// (`CLASSIC_GROUP_NEW_MEMBER_JOIN_TIMEOUT_MS`).
const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 300_000;

/// When the join phase ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct JoinTimer {
    pub(super) at: Mono,
    /// `None` once members are known and awaited.
    pub(super) initial: Option<InitialDelay>,
}

/// The wait of a first rebalance, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InitialDelay {
    /// Length of the step that runs.
    step_ms: i64,
    /// What further steps may take in all.
    remaining_ms: i64,
}

impl ClassicGroup {
    /// JoinGroup, for a group that exists.
    pub(super) fn join(&mut self, token: Token, call: &JoinCall, turn: &mut Turn<'_>) {
        if !self.has_room_for(&call.member_id, turn.settings.max_size) {
            self.remove(&call.member_id);
            refuse(token, "", ErrorCode::GroupMaxSizeReached, turn);
        } else if !self.supports(&call.protocol_type, &call.protocols) {
            refuse(token, &call.member_id, ErrorCode::InconsistentGroupProtocol, turn);
        } else if call.member_id.is_empty() {
            self.join_new(token, call, turn);
        } else if self.pending_joins.contains_key(&call.member_id) {
            if call.instance_id.is_some() {
                // Ids are handed out to dynamic members only.
                return refuse(token, &call.member_id, ErrorCode::UnknownMemberId, turn);
            }
            self.admit(token, call.member_id.clone(), call, turn);
        } else {
            self.join_known(token, call, turn);
        }
    }

    fn has_room_for(&self, member_id: &str, max: usize) -> bool {
        let member = self.members.get(member_id);
        match self.state {
            GroupState::Empty => true,
            GroupState::PreparingRebalance => {
                member.is_some_and(|m| m.joining.is_some()) || self.joining() < max
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                member.is_some() || self.members.len() < max
            }
        }
    }

    fn join_new(&mut self, token: Token, call: &JoinCall, turn: &mut Turn<'_>) {
        let id = new_member_id(call);
        if let Some(instance) = &call.instance_id {
            return match self.static_members.get(instance).cloned() {
                Some(old) => self.rejoin_static(token, instance, &old, &id, call, turn),
                None => self.admit(token, id, call, turn),
            };
        }
        if !call.must_know_id {
            return self.admit(token, id, call, turn);
        }
        let at = turn.now.mono.after_ms(i64::from(call.session_timeout_ms));
        self.pending_joins.insert(id.clone(), at);
        self.due(at);
        refuse(token, &id, ErrorCode::MemberIdRequired, turn);
    }

    /// Adds a member and parks its request.
    fn admit(&mut self, token: Token, id: Arc<str>, call: &JoinCall, turn: &mut Turn<'_>) {
        if self.state == GroupState::PreparingRebalance && self.previous == Some(GroupState::Empty)
        {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(call.protocol_type.clone());
        }
        self.insert(Member::joins(id.clone(), call));
        self.park_join(&id, token, turn);
        self.set_session(&id, NEW_MEMBER_JOIN_TIMEOUT_MS, turn.now);
        self.rebalance_or_complete(turn);
    }

    fn join_known(&mut self, token: Token, call: &JoinCall, turn: &mut Turn<'_>) {
        let id = &call.member_id;
        if let Err(error) = self.check_member(id, call.instance_id.as_deref()) {
            return refuse(token, id, error, turn);
        }
        let same = self.members.get(id).is_some_and(|m| m.offers(&call.protocols));
        let rejoin = match self.state {
            GroupState::PreparingRebalance => true,
            // The answer was lost: the same one again.
            GroupState::CompletingRebalance => !same,
            // A leader rejoins when it wants a new assignment.
            GroupState::Stable => self.is_leader(id) || !same,
            GroupState::Empty => return refuse(token, id, ErrorCode::UnknownMemberId, turn),
        };
        if rejoin {
            self.change(id, |m| m.update(call));
            self.park_join(id, token, turn);
            self.rebalance_or_complete(turn);
        } else {
            let reply = self.joined_reply(id);
            turn.reply(token, Reply::Join(reply));
        }
    }

    /// A static member came back without its member id (KIP-345).
    fn rejoin_static(
        &mut self,
        token: Token,
        instance_id: &Arc<str>,
        old_id: &Arc<str>,
        new_id: &Arc<str>,
        call: &JoinCall,
        turn: &mut Turn<'_>,
    ) {
        let old_leader = self.leader.clone();
        self.rename_static(instance_id, old_id, new_id, turn);
        self.renew_session(new_id, turn.now);
        let Some(old) = self.members.get(new_id).cloned() else { return };
        self.change(new_id, |m| m.update(call));
        self.park_join(new_id, token, turn);
        match self.state {
            GroupState::Stable if self.protocol == self.select_protocol() => {
                // Nothing changes for the others: the new id is stored and the generation stays.
                let replaced = Replaced {
                    group: self.id.clone(),
                    generation: self.generation,
                    instance_id: instance_id.clone(),
                    old_id: old_id.clone(),
                    new_id: new_id.clone(),
                    old_leader,
                    can_skip_assignment: call.can_skip_assignment,
                    old_protocols: old.protocols,
                    old_rebalance_timeout_ms: old.rebalance_timeout_ms,
                    old_session_timeout_ms: old.session_timeout_ms,
                };
                turn.append(vec![self.to_record(None)], Then::Replaced(Box::new(replaced)));
            }
            GroupState::Stable | GroupState::CompletingRebalance => self.prepare_rebalance(turn),
            GroupState::Empty | GroupState::PreparingRebalance => self.complete_if_all_joined(turn),
        }
    }

    /// The new id of a static member is stored: its JoinGroup is answered with the generation that
    /// runs. If a rebalance has begun meanwhile, that will answer it.
    pub(super) fn static_stored(&mut self, r: &Replaced, turn: &mut Turn<'_>) {
        if self.state != GroupState::Stable || self.generation != r.generation {
            return;
        }
        let mut reply = self.joined_reply(&r.new_id);
        if r.can_skip_assignment {
            reply.skip_assignment = self.is_leader(&r.new_id);
        } else {
            reply.members.clear();
            reply.leader = r.old_leader.clone().unwrap_or_default();
        }
        self.reply_join(&r.new_id, reply, turn);
        self.renew_session(&r.new_id, turn.now);
    }

    /// The new id of a static member could not be stored: the old one is its id again.
    pub(super) fn static_not_stored(
        &mut self,
        r: &Replaced,
        error: ErrorCode,
        turn: &mut Turn<'_>,
    ) {
        if self.static_members.get(&r.instance_id) != Some(&r.new_id) {
            return;
        }
        self.reply_join(&r.new_id, JoinReply::error("", error), turn);
        self.change(&r.new_id, |m| {
            m.protocols.clone_from(&r.old_protocols);
            m.rebalance_timeout_ms = r.old_rebalance_timeout_ms;
            m.session_timeout_ms = r.old_session_timeout_ms;
        });
        self.rename_static(&r.instance_id, &r.new_id, &r.old_id, turn);
        self.renew_session(&r.old_id, turn.now);
    }

    /// The record of a new group could not be stored: the member that made it is told so.
    pub(super) fn not_created(&mut self, token: Token, error: ErrorCode, turn: &mut Turn<'_>) {
        let parked = self.members.values().find(|m| m.joining == Some(token));
        if let Some(id) = parked.map(|m| m.id.clone()) {
            self.reply_join(&id, JoinReply::error("", error), turn);
        }
    }

    /// The answer to a member of the generation that runs; the members for the leader alone.
    fn joined_reply(&self, member_id: &Arc<str>) -> JoinReply {
        let protocol = self.protocol.as_deref();
        let members = match self.is_leader(member_id) {
            true => self.members.values().map(|m| m.joined(protocol)).collect(),
            false => Vec::new(),
        };
        JoinReply {
            error: ErrorCode::None,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            member_id: member_id.clone(),
            members,
        }
    }

    // The join phase.

    /// Begins a rebalance, or ends the one that runs if nobody is awaited any more.
    pub(super) fn rebalance_or_complete(&mut self, turn: &mut Turn<'_>) {
        if self.state == GroupState::PreparingRebalance {
            self.complete_if_all_joined(turn);
        } else {
            self.prepare_rebalance(turn);
        }
    }

    /// Begins a rebalance.
    pub(super) fn prepare_rebalance(&mut self, turn: &mut Turn<'_>) {
        if self.state == GroupState::CompletingRebalance {
            self.drop_assignments(ErrorCode::RebalanceInProgress, turn);
        }
        self.pending_syncs.clear();
        self.sync_at = None;
        let initial = self.is_empty();
        self.enter(GroupState::PreparingRebalance, turn.now);
        if initial {
            let step_ms = i64::from(turn.settings.initial_rebalance_delay_ms.max(0));
            let remaining_ms = (self.rebalance_timeout_ms() - step_ms).max(0);
            self.set_join_timer(step_ms, Some(InitialDelay { step_ms, remaining_ms }), turn.now);
        } else if self.all_joined() {
            self.complete_join(turn);
        } else {
            self.set_join_timer(self.rebalance_timeout_ms(), None, turn.now);
        }
    }

    fn set_join_timer(&mut self, ms: i64, initial: Option<InitialDelay>, now: Now) {
        let at = now.mono.after_ms(ms);
        self.join_timer = Some(JoinTimer { at, initial });
        self.due(at);
    }

    /// Ends the join phase if all are in. A first rebalance ends by its timer only.
    pub(super) fn complete_if_all_joined(&mut self, turn: &mut Turn<'_>) {
        if self.state == GroupState::PreparingRebalance
            && self.previous != Some(GroupState::Empty)
            && self.all_joined()
        {
            self.complete_join(turn);
        }
    }

    /// The join timer ran out.
    pub(super) fn join_timed_out(&mut self, timer: JoinTimer, turn: &mut Turn<'_>) {
        match timer.initial {
            Some(d) if self.new_member_added && d.remaining_ms != 0 => {
                self.new_member_added = false;
                let step_ms = i64::from(turn.settings.initial_rebalance_delay_ms.max(0));
                let next = InitialDelay {
                    step_ms: step_ms.min(d.remaining_ms),
                    remaining_ms: (d.remaining_ms - d.step_ms).max(0),
                };
                self.set_join_timer(next.step_ms, Some(next), turn.now);
            }
            _ => self.complete_join(turn),
        }
    }

    /// Ends the join phase: whoever did not rejoin is out, static members excepted, and the next
    /// generation begins.
    pub(super) fn complete_join(&mut self, turn: &mut Turn<'_>) {
        self.join_timer = None;
        let missing = self.members.values().filter(|m| m.joining.is_none() && !m.is_static());
        let missing: Vec<_> = missing.map(|m| m.id.clone()).collect();
        for id in missing {
            self.remove(&id);
        }
        if !self.elect_joined_leader() && !self.members.is_empty() {
            // Only static members are left and none came: give them the time again.
            return self.set_join_timer(self.rebalance_timeout_ms(), None, turn.now);
        }
        self.next_generation(turn.now);
        if self.is_empty() {
            return turn.append(vec![self.to_record(None)], Then::Nothing);
        }
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let reply = self.joined_reply(&id);
            self.reply_join(&id, reply, turn);
            self.renew_session(&id, turn.now);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
            self.pending_syncs.insert(id);
        }
        let at = turn.now.mono.after_ms(self.rebalance_timeout_ms());
        self.sync_at = Some(at);
        self.due(at);
    }

    /// Makes sure that the leader is one who rejoined; tells whether there is one.
    fn elect_joined_leader(&mut self) -> bool {
        let Some(leader) = &self.leader else { return false };
        if self.members.get(leader).is_some_and(|m| m.joining.is_some()) {
            return true;
        }
        let joined = self.members.values().find(|m| m.joining.is_some()).map(|m| m.id.clone());
        let found = joined.is_some();
        if found {
            self.leader = joined;
        }
        found
    }

    fn next_generation(&mut self, now: Now) {
        self.generation = self.generation.wrapping_add(1);
        self.protocol = self.select_protocol();
        self.subscribed = self.read_subscriptions();
        self.pending_syncs.clear();
        self.storing = false;
        let next = match self.members.is_empty() {
            true => GroupState::Empty,
            false => GroupState::CompletingRebalance,
        };
        self.enter(next, now);
    }

    /// Takes back what members were to get and fails their parked SyncGroups.
    pub(super) fn drop_assignments(&mut self, error: ErrorCode, turn: &mut Turn<'_>) {
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment.clear();
            }
            if self.reply_sync(&id, SyncReply::error(error), turn) {
                self.renew_session(&id, turn.now);
            }
        }
    }
}

fn refuse(token: Token, member_id: &str, error: ErrorCode, turn: &mut Turn<'_>) {
    turn.reply(token, Reply::Join(JoinReply::error(member_id, error)));
}

/// `<client id>-<uuid>`, or `<instance id>-<uuid>` of a static member; the uuid as Java prints one.
fn new_member_id(call: &JoinCall) -> Arc<str> {
    let mut b = call.unique;
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    let mut id = String::from(&**call.instance_id.as_ref().unwrap_or(&call.client.id));
    for (i, byte) in b.iter().enumerate() {
        if matches!(i, 0 | 4 | 6 | 8 | 10) {
            id.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
    }
    id.into()
}
