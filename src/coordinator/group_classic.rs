//! A classic group: its members, their votes, its state and its record (`ClassicGroup`). How a join
//! runs stands in `group_join`, the other requests in `group_sync`. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    calls::{DescribedGroup, JoinReply, ListedGroup, Protocol, Reply, SyncReply, Token},
    group_join::JoinTimer,
    member::Member,
    records::{GroupMetadata, Record, subscribed_topics},
    turn::Turn,
};
use crate::base::{ErrorCode, Mono, Now};

/// The protocol type of consumers, whose subscriptions the coordinator can read.
pub(super) const CONSUMER: &str = "consumer";

/// What a classic group is doing. A group that is gone has no state here; Kafka calls it Dead.
///
/// ```text
/// Empty ──► PreparingRebalance ──► CompletingRebalance ──► Stable
///   ▲           │        ▲  ▲              │                  │
///   └───────────┘        │  └──────────────┘                  │
///                        └────────────────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupState {
    /// No members; offsets may live on.
    Empty,
    /// Waits for members to (re)join.
    PreparingRebalance,
    /// Waits for the leader's assignment.
    CompletingRebalance,
    /// Every member has its share.
    Stable,
}

impl GroupState {
    /// Kafka's name for it.
    #[must_use]
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }

    const fn may_follow(self, before: Self) -> bool {
        use GroupState::{CompletingRebalance, Empty, PreparingRebalance, Stable};
        matches!(
            (before, self),
            (PreparingRebalance, Empty | CompletingRebalance)
                | (Empty | Stable | CompletingRebalance, PreparingRebalance)
                | (CompletingRebalance, Stable)
        )
    }
}

/// A classic group.
#[derive(Debug, Clone)]
pub(super) struct ClassicGroup {
    pub(super) id: Arc<str>,
    pub(super) state: GroupState,
    /// The state before; a first rebalance is one that follows Empty.
    pub(super) previous: Option<GroupState>,
    /// When the state was entered, by the wall clock; unknown for very old records.
    pub(super) state_since_ms: Option<i64>,
    pub(super) protocol_type: Option<Arc<str>>,
    pub(super) protocol: Option<Arc<str>>,
    pub(super) generation: i32,
    pub(super) leader: Option<Arc<str>>,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Member id by instance id.
    pub(super) static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids handed out that have not come back yet, and when each is forgotten.
    pub(super) pending_joins: BTreeMap<Arc<str>, Mono>,
    /// Members that were answered their JoinGroup and owe a SyncGroup.
    pub(super) pending_syncs: BTreeSet<Arc<str>>,
    /// A member came during the first rebalance: wait for more.
    pub(super) new_member_added: bool,
    /// Topics that consumers of the current generation read; `None` if that cannot be told.
    pub(super) subscribed: Option<BTreeSet<Arc<str>>>,
    pub(super) join_timer: Option<JoinTimer>,
    /// When members that owe a SyncGroup are removed.
    pub(super) sync_at: Option<Mono>,
    /// The leader's assignment of this generation is on its way into the log; a second one is not
    /// taken, or the log could hold another than the members have.
    pub(super) storing: bool,
    /// The earliest deadline set since the shard last woke it.
    pub(super) earliest: Mono,
    /// When the shard is to wake it; the shard's own.
    pub(super) wake_at: Mono,
    /// How many members offer each protocol.
    offers: BTreeMap<Arc<str>, usize>,
    /// Members with a parked JoinGroup.
    joining: usize,
}

impl ClassicGroup {
    /// A group without members.
    pub(super) fn new(id: Arc<str>, now: Now) -> Self {
        Self {
            id,
            state: GroupState::Empty,
            previous: None,
            state_since_ms: Some(now.wall_ms),
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_joins: BTreeMap::new(),
            pending_syncs: BTreeSet::new(),
            new_member_added: false,
            subscribed: None,
            join_timer: None,
            sync_at: None,
            storing: false,
            earliest: Mono::NEVER,
            wake_at: Mono::NEVER,
            offers: BTreeMap::new(),
            joining: 0,
        }
    }

    /// The group that `value` stores.
    pub(super) fn from_record(id: Arc<str>, value: &GroupMetadata, now: Now) -> Self {
        let mut group = Self::new(id, now);
        if !value.members.is_empty() {
            group.state = GroupState::Stable;
        }
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type.clone()).filter(|t| !t.is_empty());
        group.protocol = value.protocol.clone();
        group.leader = value.leader.clone();
        group.state_since_ms = Some(value.state_since_ms).filter(|ms| *ms != -1);
        for stored in &value.members {
            group.insert(Member::stored(stored, value.protocol.as_ref()));
        }
        group.subscribed = group.read_subscriptions();
        group
    }

    /// The record of the group as it stands, with `assignments` in place of what members have.
    pub(super) fn to_record(&self, assignments: Option<&BTreeMap<Arc<str>, Bytes>>) -> Record {
        let protocol = self.protocol.as_deref();
        let members = self.members.values().map(|m| {
            let assignment = match assignments {
                Some(new) => new.get(&m.id).cloned().unwrap_or_default(),
                None => m.assignment.clone(),
            };
            m.to_record(protocol, assignment)
        });
        let value = GroupMetadata {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_since_ms: self.state_since_ms.unwrap_or(-1),
            members: members.collect(),
        };
        Record::Group { group: self.id.clone(), value: Some(value) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state == GroupState::Empty
    }

    /// Whether it is a group of consumers, by protocol type.
    pub(super) fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    /// Whether members read `topic`, as far as can be told: consumers with unreadable subscriptions
    /// count as reading all.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        self.subscribed.as_ref().map_or_else(|| self.is_of_consumers(), |t| t.contains(topic))
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// Members that have a JoinGroup parked.
    pub(super) const fn joining(&self) -> usize {
        self.joining
    }

    /// Whether nobody else is awaited in this rebalance.
    pub(super) fn all_joined(&self) -> bool {
        self.joining == self.members.len() && self.pending_joins.is_empty()
    }

    /// The largest rebalance timeout of the members, in milliseconds.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        let largest = self.members.values().map(|m| m.rebalance_timeout_ms).max();
        i64::from(largest.unwrap_or(0).max(0))
    }

    // Membership.

    /// Adds a member without a parked request. The first one gives the group its protocol type and
    /// leads.
    pub(super) fn insert(&mut self, member: Member) {
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), member.id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        for protocol in &member.protocols {
            *self.offers.entry(protocol.name.clone()).or_default() += 1;
        }
        self.pending_joins.remove(&member.id);
        let parked = usize::from(member.joining.is_some());
        let before = self.members.insert(member.id.clone(), member);
        assert!(before.is_none(), "group {}: a member is added once", self.id);
        self.joining += parked;
    }

    /// Takes a member or a handed-out id away; another member leads if it led.
    pub(super) fn remove(&mut self, member_id: &str) -> Option<Member> {
        let removed = self.take(member_id);
        if let Some(instance) = removed.as_ref().and_then(|m| m.instance_id.as_ref()) {
            self.static_members.remove(instance);
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_joins.remove(member_id);
        self.pending_syncs.remove(member_id);
        removed
    }

    fn take(&mut self, member_id: &str) -> Option<Member> {
        let member = self.members.remove(member_id)?;
        self.forget_offers(&member.protocols);
        self.joining -= usize::from(member.joining.is_some());
        Some(member)
    }

    fn forget_offers(&mut self, protocols: &[Protocol]) {
        for protocol in protocols {
            if let Some(count) = self.offers.get_mut(&protocol.name) {
                *count -= 1;
                if *count == 0 {
                    self.offers.remove(&protocol.name);
                }
            }
        }
    }

    /// Changes a member; keeps the counts over members true.
    pub(super) fn change(&mut self, member_id: &str, change: impl FnOnce(&mut Member)) {
        let Some(mut member) = self.take(member_id) else { return };
        change(&mut member);
        for protocol in &member.protocols {
            *self.offers.entry(protocol.name.clone()).or_default() += 1;
        }
        self.joining += usize::from(member.joining.is_some());
        self.members.insert(member.id.clone(), member);
    }

    /// Gives the static member `instance_id` a new member id. Requests parked under the old one are
    /// fenced: two processes share one instance id.
    pub(super) fn rename_static(
        &mut self,
        instance_id: &Arc<str>,
        old_id: &str,
        new_id: &Arc<str>,
        turn: &mut Turn<'_>,
    ) {
        self.reply_join(old_id, JoinReply::error(old_id, ErrorCode::FencedInstanceId), turn);
        self.reply_sync(old_id, SyncReply::error(ErrorCode::FencedInstanceId), turn);
        let led = self.is_leader(old_id);
        self.change(old_id, |m| {
            m.id = new_id.clone();
            m.is_new = false;
        });
        if led {
            self.leader = Some(new_id.clone());
        }
        if self.pending_syncs.remove(old_id) {
            self.pending_syncs.insert(new_id.clone());
        }
        self.static_members.insert(instance_id.clone(), new_id.clone());
    }

    /// Whether a request may speak for a member.
    ///
    /// # Errors
    /// `UnknownMemberId`, `FencedInstanceId`.
    pub(super) fn check_member(
        &self,
        member_id: &str,
        instance_id: Option<&str>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance) = instance_id {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(id) if **id != *member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        match self.members.contains_key(member_id) {
            true => Ok(()),
            false => Err(ErrorCode::UnknownMemberId),
        }
    }

    // Parked requests.

    /// Parks a JoinGroup. One that is parked already comes from a connection that was given up.
    pub(super) fn park_join(&mut self, member_id: &str, token: Token, turn: &mut Turn<'_>) {
        let again = JoinReply::error(member_id, ErrorCode::RebalanceInProgress);
        self.reply_join(member_id, again, turn);
        self.change(member_id, |m| m.joining = Some(token));
    }

    /// Answers a member's parked JoinGroup, if there is one.
    pub(super) fn reply_join(&mut self, member_id: &str, reply: JoinReply, turn: &mut Turn<'_>) {
        let Some(member) = self.members.get_mut(member_id) else { return };
        if let Some(token) = member.joining.take() {
            self.joining -= 1;
            turn.reply(token, Reply::Join(reply));
        }
    }

    /// Answers a member's parked SyncGroup, if there is one; tells whether there was.
    pub(super) fn reply_sync(
        &mut self,
        member_id: &str,
        reply: SyncReply,
        turn: &mut Turn<'_>,
    ) -> bool {
        let token = self.members.get_mut(member_id).and_then(|m| m.syncing.take());
        if let Some(token) = token {
            turn.reply(token, Reply::Sync(reply));
        }
        token.is_some()
    }

    /// Takes a member away and answers what it has parked.
    pub(super) fn dismiss(&mut self, member_id: &str, turn: &mut Turn<'_>) {
        self.reply_join(member_id, JoinReply::error("", ErrorCode::UnknownMemberId), turn);
        self.reply_sync(member_id, SyncReply::error(ErrorCode::UnknownMemberId), turn);
        self.remove(member_id);
    }

    // Protocols.

    /// Whether someone who offers these can be in the group.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.is_empty() {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type)
            && protocols.iter().any(|p| self.is_candidate(&p.name))
    }

    fn is_candidate(&self, protocol: &str) -> bool {
        self.offers.get(protocol).copied().unwrap_or(0) == self.members.len()
    }

    /// The protocol that all members offer and most of them like best; among equals the one whose
    /// name comes first. `None` without members.
    pub(super) fn select_protocol(&self) -> Option<Arc<str>> {
        let all: BTreeSet<_> =
            self.offers.keys().filter(|name| self.is_candidate(name)).cloned().collect();
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for vote in self.members.values().filter_map(|m| m.vote(&all)) {
            *votes.entry(vote).or_default() += 1;
        }
        let most = votes.values().copied().max()?;
        votes.into_iter().find(|(_, n)| *n == most).map(|(name, _)| name.clone())
    }

    /// The topics that the members' subscriptions under the chosen protocol name.
    pub(super) fn read_subscriptions(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.is_of_consumers() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(subscribed_topics(&member.metadata(Some(protocol)))?);
        }
        Some(topics)
    }

    // State.

    pub(super) fn enter(&mut self, state: GroupState, now: Now) {
        let legal = state.may_follow(self.state);
        assert!(legal, "group {}: {:?} may not follow {:?}", self.id, state, self.state);
        self.previous = Some(self.state);
        self.state = state;
        self.state_since_ms = Some(now.wall_ms);
    }

    // Deadlines.

    /// Notes that something is due at `at`.
    pub(super) fn due(&mut self, at: Mono) {
        self.earliest = self.earliest.min(at);
    }

    /// Ends a member's session `ms` from now, unless something resets it before.
    pub(super) fn set_session(&mut self, member_id: &str, ms: i32, now: Now) {
        let at = now.mono.after_ms(i64::from(ms));
        if let Some(member) = self.members.get_mut(member_id) {
            member.session_at = at;
            self.due(at);
        }
    }

    /// Starts a member's session anew.
    pub(super) fn renew_session(&mut self, member_id: &str, now: Now) {
        if let Some(ms) = self.members.get(member_id).map(|m| m.session_timeout_ms) {
            self.set_session(member_id, ms, now);
        }
    }

    /// The earliest of all deadlines; visits every member.
    pub(super) fn next_deadline(&self) -> Mono {
        let sessions = self.members.values().map(|m| m.session_at);
        let pending = self.pending_joins.values().copied();
        let join = self.join_timer.map(|t| t.at);
        sessions.chain(pending).chain(join).chain(self.sync_at).min().unwrap_or(Mono::NEVER)
    }

    // Descriptions.

    pub(super) fn list(&self) -> ListedGroup {
        ListedGroup {
            group: self.id.clone(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            state: self.state.name(),
            group_type: "classic",
        }
    }

    pub(super) fn describe(&self) -> DescribedGroup {
        let protocol = self.protocol.clone().filter(|_| self.state == GroupState::Stable);
        DescribedGroup {
            group: self.id.clone(),
            found: true,
            state: self.state.name(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            members: self.members.values().map(|m| m.describe(protocol.as_deref())).collect(),
            protocol: protocol.unwrap_or_default(),
        }
    }

    /// Answers everything that is parked with `error`: the group leaves this broker.
    pub(super) fn unload(&mut self, error: ErrorCode, turn: &mut Turn<'_>) {
        let ids: Vec<_> = self.members.keys().cloned().collect();
        for id in ids {
            self.reply_join(&id, JoinReply::error(id.clone(), error), turn);
            self.reply_sync(&id, SyncReply::error(error), turn);
        }
    }
}
