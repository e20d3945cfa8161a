//! What members of a classic group do between joins: SyncGroup, Heartbeat, LeaveGroup, commits;
//! and what happens when they fail to (`GroupMetadataManager.classicGroupSync` and on). Pure.

use std::collections::BTreeMap;

use super::{
    calls::{
        CommitCall, HeartbeatCall, LeaveCall, LeaveReply, Leaving, Reply, SyncCall, SyncReply,
        Token,
    },
    group_classic::{ClassicGroup, GroupState},
    offsets::Owner,
    records::OffsetAndMetadata,
    turn::{Then, Turn},
};
use crate::base::{ErrorCode, Mono};

impl Owner for ClassicGroup {
    fn id(&self) -> &std::sync::Arc<str> {
        &self.id
    }

    fn is_subscribed_to(&self, topic: &str) -> bool {
        Self::is_subscribed_to(self, topic)
    }

    fn retention_from(&self, offset: &OffsetAndMetadata) -> Option<i64> {
        self.counts_from(offset)
    }
}

impl ClassicGroup {
    /// SyncGroup, for a group that exists.
    pub(super) fn sync(&mut self, token: Token, call: &SyncCall, turn: &mut Turn<'_>) {
        let checked = self.check_sync(call);
        if let Err(error) = checked {
            return turn.reply(token, Reply::Sync(SyncReply::error(error)));
        }
        self.pending_syncs.remove(&call.member_id);
        if self.pending_syncs.is_empty() {
            self.sync_at = None;
        }
        if self.state == GroupState::Stable {
            let assignment = self.members.get(&call.member_id).map(|m| m.assignment.clone());
            let reply = self.assigned_reply(assignment.unwrap_or_default());
            return turn.reply(token, Reply::Sync(reply));
        }
        // One that is parked already comes from a connection that was given up.
        let again = SyncReply::error(ErrorCode::RebalanceInProgress);
        self.reply_sync(&call.member_id, again, turn);
        if let Some(member) = self.members.get_mut(&call.member_id) {
            member.syncing = Some(token);
        }
        if self.is_leader(&call.member_id) && !self.storing {
            self.storing = true;
            let given = call.assignments.iter().cloned();
            let assignments: BTreeMap<_, _> =
                given.filter(|(id, _)| self.members.contains_key(id)).collect();
            let record = self.to_record(Some(&assignments));
            let (group, generation) = (self.id.clone(), self.generation);
            turn.append(vec![record], Then::Assigned { group, generation, assignments });
        }
    }

    fn check_sync(&self, call: &SyncCall) -> Result<(), ErrorCode> {
        if self.is_empty() {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.check_member(&call.member_id, call.instance_id.as_deref())?;
        let differs =
            |said: &Option<_>, ours: &Option<_>| said.is_some() && ours.is_some() && said != ours;
        if call.generation != self.generation {
            Err(ErrorCode::IllegalGeneration)
        } else if differs(&call.protocol_type, &self.protocol_type)
            || differs(&call.protocol, &self.protocol)
        {
            Err(ErrorCode::InconsistentGroupProtocol)
        } else if self.state == GroupState::PreparingRebalance {
            Err(ErrorCode::RebalanceInProgress)
        } else {
            Ok(())
        }
    }

    fn assigned_reply(&self, assignment: bytes::Bytes) -> SyncReply {
        SyncReply {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment,
        }
    }

    /// The assignment of `generation` is stored: every member gets its share.
    pub(super) fn assigned(
        &mut self,
        generation: i32,
        assignments: &BTreeMap<std::sync::Arc<str>, bytes::Bytes>,
        turn: &mut Turn<'_>,
    ) {
        if self.state != GroupState::CompletingRebalance || self.generation != generation {
            return;
        }
        self.storing = false;
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            let share = assignments.get(&id).cloned().unwrap_or_default();
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = share.clone();
            }
            let reply = self.assigned_reply(share);
            if self.reply_sync(&id, reply, turn) {
                self.renew_session(&id, turn.now);
            }
        }
        self.enter(GroupState::Stable, turn.now);
    }

    /// The assignment of `generation` could not be stored: members are told, and join again.
    pub(super) fn not_assigned(&mut self, generation: i32, error: ErrorCode, turn: &mut Turn<'_>) {
        if self.state == GroupState::CompletingRebalance && self.generation == generation {
            self.storing = false;
            self.drop_assignments(error, turn);
            self.rebalance_or_complete(turn);
        }
    }

    /// Heartbeat, for a group that exists.
    pub(super) fn heartbeat(&mut self, call: &HeartbeatCall, turn: &Turn<'_>) -> ErrorCode {
        if let Err(error) = self.check_member(&call.member_id, call.instance_id.as_deref()) {
            return error;
        }
        if call.generation != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        self.renew_session(&call.member_id, turn.now);
        match self.state {
            GroupState::Empty => ErrorCode::UnknownMemberId,
            GroupState::PreparingRebalance => ErrorCode::RebalanceInProgress,
            GroupState::CompletingRebalance | GroupState::Stable => ErrorCode::None,
        }
    }

    /// LeaveGroup, for a group that exists.
    pub(super) fn leave(&mut self, token: Token, call: &LeaveCall, turn: &mut Turn<'_>) {
        let mut members = Vec::with_capacity(call.members.len());
        for leaving in &call.members {
            let left = self.leave_one(leaving, turn).err().unwrap_or(ErrorCode::None);
            members.push((leaving.clone(), left));
        }
        if members.iter().any(|(_, error)| *error == ErrorCode::None) && !self.is_empty() {
            self.rebalance_or_complete(turn);
        }
        let reply = Reply::Leave(LeaveReply { error: ErrorCode::None, members });
        match turn.appends.last_mut() {
            // The group is empty now; that is stored before it is said.
            Some((_, then)) if *then == Then::Nothing => {
                *then = Then::Replies(vec![(token, reply)])
            }
            _ => turn.reply(token, reply),
        }
    }

    fn leave_one(&mut self, leaving: &Leaving, turn: &mut Turn<'_>) -> Result<(), ErrorCode> {
        let instance = leaving.instance_id.as_deref();
        if leaving.member_id.is_empty() {
            let id = instance.and_then(|i| self.static_members.get(i).cloned());
            self.dismiss(&id.ok_or(ErrorCode::UnknownMemberId)?, turn);
        } else if self.pending_joins.contains_key(&leaving.member_id) {
            self.remove(&leaving.member_id);
        } else {
            self.check_member(&leaving.member_id, instance)?;
            self.dismiss(&leaving.member_id, turn);
        }
        Ok(())
    }

    /// Whether a commit is let in. One from a member keeps its session alive.
    ///
    /// # Errors
    /// `UnknownMemberId`, `FencedInstanceId`, `IllegalGeneration`, `RebalanceInProgress`.
    pub(super) fn accept_commit(
        &mut self,
        call: &CommitCall,
        turn: &Turn<'_>,
    ) -> Result<(), ErrorCode> {
        if self.is_empty() && call.generation < 0 {
            return Ok(());
        }
        if call.generation < 0 && call.member_id.is_empty() && call.instance_id.is_none() {
            // Without membership only into an empty group.
            return Err(ErrorCode::UnknownMemberId);
        }
        self.check_member(&call.member_id, call.instance_id.as_deref())?;
        if call.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        if self.state == GroupState::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        self.renew_session(&call.member_id, turn.now);
        Ok(())
    }

    /// Whether offsets may be deleted by hand: of consumers always (those of topics they read are
    /// kept), of others only when the group is empty.
    ///
    /// # Errors
    /// `NonEmptyGroup`.
    pub(super) fn accept_offset_delete(&self) -> Result<(), ErrorCode> {
        match self.is_empty() || self.is_of_consumers() {
            true => Ok(()),
            false => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// As [`Owner::retention_from`].
    fn counts_from(&self, offset: &OffsetAndMetadata) -> Option<i64> {
        if self.protocol_type.is_none() {
            return Some(offset.commit_ms);
        }
        match self.state {
            GroupState::Empty => Some(self.state_since_ms.unwrap_or(offset.commit_ms)),
            GroupState::Stable if self.is_of_consumers() && self.subscribed.is_some() => {
                Some(offset.commit_ms)
            }
            _ => None,
        }
    }

    // Deadlines.

    /// Does all that is due.
    pub(super) fn on_deadline(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let forgotten = self.pending_joins.iter().filter(|(_, at)| **at <= now);
        let forgotten: Vec<_> = forgotten.map(|(id, _)| id.clone()).collect();
        for id in forgotten {
            self.remove(&id);
            self.complete_if_unawaited(turn);
        }
        let over = self.members.values().filter(|m| m.session_at <= now);
        let over: Vec<_> = over.map(|m| m.id.clone()).collect();
        for id in over {
            self.session_ended(&id, turn);
        }
        if self.sync_at.is_some_and(|at| at <= now) {
            self.sync_timed_out(turn);
        }
        if let Some(timer) = self.join_timer.filter(|t| t.at <= now) {
            self.join_timed_out(timer, turn);
        }
    }

    fn session_ended(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        match self.members.get_mut(member_id) {
            // The end of the rebalance starts its session anew.
            Some(m) if m.is_exempt() => m.session_at = Mono::NEVER,
            // A rebalance that another end began may have given it new time.
            Some(m) if m.session_at <= turn.now.mono => {
                self.dismiss(member_id, turn);
                match self.state {
                    GroupState::Stable | GroupState::CompletingRebalance => {
                        self.prepare_rebalance(turn);
                    }
                    GroupState::Empty | GroupState::PreparingRebalance => {
                        self.complete_if_unawaited(turn);
                    }
                }
            }
            _ => {}
        }
    }

    /// Ends the join phase, even a first one, if those that left were the last awaited.
    fn complete_if_unawaited(&mut self, turn: &mut Turn<'_>) {
        if self.state == GroupState::PreparingRebalance && self.all_joined() {
            self.complete_join(turn);
        }
    }

    /// Members that took a generation but never asked for their share are out.
    fn sync_timed_out(&mut self, turn: &mut Turn<'_>) {
        self.sync_at = None;
        let missing = std::mem::take(&mut self.pending_syncs);
        let rebalancing = matches!(self.state, GroupState::Empty | GroupState::PreparingRebalance);
        if missing.is_empty() || rebalancing {
            return;
        }
        for id in &missing {
            self.dismiss(id, turn);
        }
        self.prepare_rebalance(turn);
    }
}
