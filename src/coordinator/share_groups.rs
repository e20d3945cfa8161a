//! How a shard holds its share groups: what is in memory of them, loading, metadata, deletion, what
//! readers see. What members do stands in `share_heartbeat`, what the share coordinators are asked
//! in `share_state`. The index by topic, hashes of topics and the timers are those of the consumer
//! groups: an id belongs to one group of one kind. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;

use super::{
    calls::{Call, CommitReply, JoinReply, ListedGroup, Reply, Token},
    calls_consumer::{ChangedTopics, ConsumerHeartbeatReply},
    calls_share_groups::DescribedShareGroup,
    consumer_groups::{ConsumerGroups, Timer},
    consumer_records::Partitions,
    records::Record,
    settings::Settings,
    shard::Shard,
    share_group::{ShareGroup, record},
    share_group_records::{ShareChange, ShareRecord, ShareStateTopics},
    share_state::Work,
    turn::Turn,
};
use crate::{
    base::{ErrorCode, Uuid},
    metadata::Image,
};

/// All groups by id; a copy costs nothing.
pub(super) type Groups = OrdMap<Arc<str>, Arc<ShareGroup>>;

/// The share groups of a shard.
#[derive(Debug, Default)]
pub(super) struct ShareGroups {
    pub(super) groups: Groups,
    /// Groups of which all partitions are initialized, and all that are have readers, as of the
    /// metadata at hand: heartbeats need not look. A group that is not here is looked at.
    pub(super) settled: BTreeSet<Arc<str>>,
    /// What the share coordinators are asked, or will be once a record is committed.
    pub(super) works: BTreeMap<u64, Work>,
    pub(super) next_work: u64,
    /// The partitions in `works`, by group.
    pub(super) under_way: BTreeMap<Arc<str>, Partitions>,
}

impl ShareGroups {
    pub(super) fn get(&self, group: &str) -> Option<&Arc<ShareGroup>> {
        self.groups.get(group)
    }

    pub(super) fn has(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }
}

// Settings of the group itself or of the broker.
impl ConsumerGroups {
    /// Of a share group, in milliseconds.
    pub(super) fn share_session_timeout_ms(&self, group: &str, settings: &Settings) -> i32 {
        let s = &settings.share;
        let (min, max) = (s.min_session_timeout_ms, s.max_session_timeout_ms);
        self.setting(group, "share.session.timeout.ms", s.session_timeout_ms, min, max)
    }

    /// Of a share group, in milliseconds.
    pub(super) fn share_heartbeat_interval_ms(&self, group: &str, settings: &Settings) -> i32 {
        let s = &settings.share;
        let (min, max) = (s.min_heartbeat_interval_ms, s.max_heartbeat_interval_ms);
        self.setting(group, "share.heartbeat.interval.ms", s.heartbeat_interval_ms, min, max)
    }

    /// Of a share group, in milliseconds.
    pub(super) fn share_assignment_interval_ms(&self, group: &str, settings: &Settings) -> i32 {
        let s = &settings.share;
        let (min, max) = (s.min_assignment_interval_ms, s.max_assignment_interval_ms);
        let or = self.dynamic("group.share.assignment.interval.ms", s.assignment_interval_ms);
        self.setting(group, "share.assignment.interval.ms", or, min, max)
    }
}

/// Partitions that can be given to members: initialized ones of topics that exist.
pub(super) fn assignable(state: &ShareStateTopics, image: &Image) -> Partitions {
    let known = state.initialized.iter().filter_map(|(id, topic)| {
        let count = image.topics().by_id(*id)?.partition_count();
        let partitions: BTreeSet<_> = topic.partitions.range(0..count).copied().collect();
        (!partitions.is_empty()).then_some((*id, partitions))
    });
    known.collect()
}

impl Shard {
    // Loading and metadata.

    /// Takes a record of a share group that was written.
    pub(super) fn apply_share(&mut self, record: &ShareRecord) {
        let id = &record.group;
        if matches!(record.change, ShareChange::Epoch(None)) {
            if let Some(group) = self.shares.groups.remove(id) {
                self.shares.settled.remove(id);
                self.consumers.forget(id, &group.topics);
            }
            return;
        }
        if !self.shares.has(id) {
            if is_tombstone(&record.change) {
                return;
            }
            self.shares.groups.insert(id.clone(), Arc::new(ShareGroup::new(id.clone())));
        }
        let Some(group) = self.shares.groups.get_mut(id) else { return };
        let before = group.topics.clone();
        let group = Arc::make_mut(group);
        group.replay(&record.change);
        match &record.change {
            ShareChange::Member(member, value) => {
                let after = group.topics.clone();
                self.consumers.index(id, &before, &after);
                if value.is_none() {
                    self.consumers.timers.cancel_member(id, member);
                }
            }
            ShareChange::Target(..) | ShareChange::State(_) => {}
            _ => return,
        }
        self.shares.settled.remove(id);
    }

    /// All records are replayed: sessions begin.
    pub(super) fn shares_loaded(&mut self, turn: &Turn<'_>) {
        let groups = self.shares.groups.clone();
        for group in groups.values() {
            let ms = self.consumers.share_session_timeout_ms(&group.id, turn.settings);
            for member in group.members.keys() {
                self.consumers.start(&group.id, member, Timer::Session, ms, turn.now);
            }
        }
    }

    /// Groups that read what changed look at it at their next heartbeat.
    pub(super) fn shares_metadata_changed(&mut self, changed: &ChangedTopics) {
        for name in &changed.names {
            for group in self.consumers.readers_of(name) {
                self.shares.settled.remove(group);
            }
        }
    }

    // What readers see.

    /// The share groups as they are committed.
    pub(super) fn committed_shares(&self) -> &Groups {
        self.pending.front().map_or(&self.shares.groups, |p| &p.shares_before)
    }

    pub(super) fn list_shares(&self) -> impl Iterator<Item = ListedGroup> + '_ {
        self.committed_shares().values().map(|group| group.list())
    }

    /// One share group in full, as it is committed; `None` if there is no such group.
    #[must_use]
    pub fn describe_share_group(&self, group: &str) -> Option<DescribedShareGroup> {
        Some(self.committed_shares().get(group)?.describe())
    }

    /// The partitions of a share group that are initialized, as is committed.
    #[must_use]
    pub fn initialized_shares(&self, group: &str) -> Partitions {
        let group = self.committed_shares().get(group);
        let topics = group.into_iter().flat_map(|g| &g.state.initialized);
        topics.map(|(id, topic)| (*id, topic.partitions.clone())).collect()
    }

    // Calls.

    pub(super) fn share_call(&mut self, token: Token, call: Call, turn: &mut Turn<'_>) {
        match call {
            Call::ShareHeartbeat(call) => self.share_heartbeat(token, &call, turn),
            Call::AlterShareOffsets(call) => self.alter_share_offsets(token, call, turn),
            Call::BeginShareDeletions(groups) => self.begin_share_deletions(token, groups, turn),
            Call::DeleteShareOffsets(call) => self.delete_share_offsets(token, &call, turn),
            Call::ShareOffsetsDeleted(group, topics) => {
                self.share_offsets_deleted(token, &group, &topics, turn);
            }
            _ => {}
        }
    }

    /// The share group of that name.
    ///
    /// # Errors
    /// `GroupIdNotFound`, and in words whether it is another kind of group.
    pub(super) fn share_group(&self, id: &str) -> Result<Option<Arc<ShareGroup>>, String> {
        match self.shares.get(id) {
            Some(group) => Ok(Some(group.clone())),
            None if self.groups.contains_key(id) || self.consumers.has(id) => {
                Err(format!("Group {id} is not a share group."))
            }
            None => Ok(None),
        }
    }

    // Deletion.

    /// Deletes a group whose state the share coordinators have forgotten.
    pub(super) fn delete_share_group(&self, id: &str, records: &mut Vec<Record>) -> ErrorCode {
        match self.shares.get(id) {
            None => ErrorCode::GroupIdNotFound,
            Some(group) if !group.is_empty() => ErrorCode::NonEmptyGroup,
            Some(group) => {
                records.extend(group.tombstones());
                ErrorCode::None
            }
        }
    }

    /// The share coordinators forget topics that are gone by themselves; so do the groups
    /// (`maybeCleanupShareGroupState`).
    pub(super) fn share_topics_deleted(
        &self,
        topics: &[(Arc<str>, Uuid)],
        records: &mut Vec<Record>,
    ) {
        for group in self.shares.groups.values() {
            let knows = |id: &Uuid| {
                group.state.initialized.contains_key(id)
                    || group.state.initializing.contains_key(id)
                    || group.state.deleting.contains_key(id)
            };
            if !topics.iter().any(|(_, id)| knows(id)) {
                continue;
            }
            let mut state = ShareStateTopics::clone(&group.state);
            for (_, id) in topics {
                state.initializing.remove(id);
                state.initialized.remove(id);
                state.deleting.remove(id);
            }
            let change = ShareChange::State(Some(Arc::new(state)));
            records.push(record(&group.id, change));
        }
    }

    /// Why a call of another protocol cannot be for this group, as a reply.
    pub(super) fn refused_by_share_group(&self, call: &Call) -> Option<Reply> {
        let (group, reply) = match call {
            Call::Join(c) => {
                let error = ErrorCode::InconsistentGroupProtocol;
                (&c.group, Reply::Join(JoinReply::error("", error)))
            }
            Call::Commit(c) => (&c.group, not_found()),
            Call::TxnCommit(c) => (&c.commit.group, not_found()),
            Call::ConsumerHeartbeat(c) => {
                let text = format!("Group {} is not a consumer group.", c.group);
                let error = ErrorCode::GroupIdNotFound;
                let reply = ConsumerHeartbeatReply::error(error, Some(text));
                (&c.group, Reply::ConsumerHeartbeat(reply))
            }
            _ => return None,
        };
        self.shares.has(group).then_some(reply)
    }
}

/// An offset commit to a share group (`ShareGroup.validateOffsetCommit`).
fn not_found() -> Reply {
    let error = ErrorCode::GroupIdNotFound;
    Reply::Commit(CommitReply { error, topics: Vec::new() })
}

const fn is_tombstone(change: &ShareChange) -> bool {
    match change {
        ShareChange::Member(_, v) => v.is_none(),
        ShareChange::Epoch(v) => v.is_none(),
        ShareChange::TargetEpoch(v) => v.is_none(),
        ShareChange::Target(_, v) => v.is_none(),
        ShareChange::Current(_, v) => v.is_none(),
        ShareChange::State(v) => v.is_none(),
    }
}
