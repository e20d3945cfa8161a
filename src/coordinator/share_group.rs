//! A share group (KIP-932; `ShareGroup`, `ShareGroupMember`): what its records say. It changes by
//! records alone; a clone shares everything, so that readers can keep the group as it was when it
//! was last committed. Pure.

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;

use super::{
    calls::{Client, ListedGroup},
    calls_share_groups::{DescribedShareGroup, DescribedShareMember},
    consumer_records::{GroupEpoch, Partitions, TargetEpoch},
    group_consumer::{SubscribedTopics, change},
    records::Record,
    share_group_records::{
        ShareChange, ShareCurrentValue, ShareMemberValue, ShareRecord, ShareStateTopics,
    },
};
use crate::base::{PartitionId, Uuid};

/// The protocol type, and the group type, of share groups.
pub(super) const SHARE: &str = "share";
/// The epoch of a heartbeat that leaves.
pub(super) const LEAVE_EPOCH: i32 = -1;

/// A member of a share group. Immutable; a change makes another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ShareMember {
    pub(super) id: Arc<str>,
    pub(super) epoch: i32,
    /// A call in this epoch is let in too: the answer that told the next one may be lost.
    pub(super) previous_epoch: i32,
    pub(super) rack: Option<Arc<str>>,
    pub(super) client: Client,
    pub(super) topics: BTreeSet<Arc<str>>,
    /// What it may read.
    pub(super) assigned: Arc<Partitions>,
}

impl ShareMember {
    /// A member that nothing is known of.
    pub(super) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            epoch: 0,
            previous_epoch: -1,
            rack: None,
            client: Client::default(),
            topics: BTreeSet::new(),
            assigned: Arc::default(),
        }
    }

    /// What it says about itself, as a record.
    pub(super) fn subscription_record(&self, group: &Arc<str>) -> Record {
        let value = ShareMemberValue {
            rack: self.rack.clone(),
            client: self.client.clone(),
            topics: self.topics.clone(),
        };
        record(group, ShareChange::Member(self.id.clone(), Some(value)))
    }

    /// What it has, as a record.
    pub(super) fn current_record(&self, group: &Arc<str>) -> Record {
        let value = ShareCurrentValue {
            epoch: self.epoch,
            previous_epoch: self.previous_epoch,
            assigned: self.assigned.clone(),
        };
        record(group, ShareChange::Current(self.id.clone(), Some(value)))
    }
}

/// A share group.
#[derive(Debug, Clone)]
pub(super) struct ShareGroup {
    pub(super) id: Arc<str>,
    pub(super) epoch: i32,
    pub(super) metadata_hash: i64,
    /// The group epoch that the target was computed for; -1 once it is taken away.
    pub(super) target_epoch: i32,
    /// When it was computed, in milliseconds since the Unix epoch; 0 if unknown.
    pub(super) target_ms: i64,
    pub(super) members: OrdMap<Arc<str>, Arc<ShareMember>>,
    pub(super) targets: OrdMap<Arc<str>, Arc<Partitions>>,
    pub(super) topics: SubscribedTopics,
    /// What the share coordinators keep for it.
    pub(super) state: Arc<ShareStateTopics>,
}

impl ShareGroup {
    /// A group without members. Its epochs begin at 1 (`ModernGroup`,
    /// `TargetAssignmentMetadata.INITIAL`).
    pub(super) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            epoch: 1,
            metadata_hash: 0,
            target_epoch: 1,
            target_ms: 0,
            members: OrdMap::new(),
            targets: OrdMap::new(),
            topics: SubscribedTopics::new(),
            state: Arc::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Kafka's name of its state.
    pub(super) fn state_name(&self) -> &'static str {
        if self.is_empty() { "Empty" } else { "Stable" }
    }

    /// What a member shall have; nothing if there is no target for it.
    pub(super) fn target(&self, member_id: &str) -> Arc<Partitions> {
        self.targets.get(member_id).cloned().unwrap_or_default()
    }

    /// The subscribed topics, were `old` to become `new`.
    pub(super) fn topics_with(
        &self,
        old: &ShareMember,
        new: Option<&ShareMember>,
    ) -> SubscribedTopics {
        let mut topics = self.topics.clone();
        count(&mut topics, old, false);
        if let Some(new) = new {
            count(&mut topics, new, true);
        }
        topics
    }

    /// Takes what a record says. A tombstone of the epoch is for the caller: the group is gone.
    pub(super) fn replay(&mut self, change: &ShareChange) {
        match change {
            ShareChange::Member(id, Some(value)) => self.update(ShareMember {
                rack: value.rack.clone(),
                client: value.client.clone(),
                topics: value.topics.clone(),
                ..self.member_or_new(id)
            }),
            ShareChange::Member(id, None) => {
                if let Some(old) = self.members.remove(id) {
                    count(&mut self.topics, &old, false);
                }
            }
            ShareChange::Epoch(value) => {
                if let Some(GroupEpoch { epoch, metadata_hash }) = value {
                    (self.epoch, self.metadata_hash) = (*epoch, *metadata_hash);
                }
            }
            ShareChange::TargetEpoch(value) => {
                let none = TargetEpoch { epoch: -1, timestamp_ms: 0 };
                let TargetEpoch { epoch, timestamp_ms } = value.unwrap_or(none);
                (self.target_epoch, self.target_ms) = (epoch, timestamp_ms);
            }
            ShareChange::Target(id, Some(value)) => {
                self.targets.insert(id.clone(), value.clone());
            }
            ShareChange::Target(id, None) => _ = self.targets.remove(id),
            ShareChange::Current(id, Some(value)) => self.update(ShareMember {
                epoch: value.epoch,
                previous_epoch: value.previous_epoch,
                assigned: value.assigned.clone(),
                ..self.member_or_new(id)
            }),
            ShareChange::Current(id, None) => {
                if let Some(member) = self.members.get(id) {
                    self.update(ShareMember {
                        epoch: LEAVE_EPOCH,
                        previous_epoch: LEAVE_EPOCH,
                        assigned: Arc::default(),
                        ..ShareMember::clone(member)
                    });
                }
            }
            ShareChange::State(value) => self.state = value.clone().unwrap_or_default(),
        }
    }

    pub(super) fn member_or_new(&self, id: &Arc<str>) -> ShareMember {
        let known = self.members.get(id).map(|m| ShareMember::clone(m));
        known.unwrap_or_else(|| ShareMember::new(id.clone()))
    }

    /// Puts a member in place of what it was.
    fn update(&mut self, member: ShareMember) {
        if let Some(old) = self.members.get(&member.id).cloned() {
            count(&mut self.topics, &old, false);
        }
        count(&mut self.topics, &member, true);
        self.members.insert(member.id.clone(), Arc::new(member));
    }

    /// Tombstones of all that the group has in the log.
    pub(super) fn tombstones(&self) -> Vec<Record> {
        let mut out = Vec::new();
        let mut push = |change| out.push(record(&self.id, change));
        self.members.keys().for_each(|id| push(ShareChange::Current(id.clone(), None)));
        self.members.keys().for_each(|id| push(ShareChange::Target(id.clone(), None)));
        push(ShareChange::TargetEpoch(None));
        self.members.keys().for_each(|id| push(ShareChange::Member(id.clone(), None)));
        push(ShareChange::State(None));
        push(ShareChange::Epoch(None));
        out
    }

    pub(super) fn list(&self) -> ListedGroup {
        ListedGroup {
            group: self.id.clone(),
            protocol_type: SHARE.into(),
            state: self.state_name(),
            group_type: SHARE,
        }
    }

    pub(super) fn describe(&self) -> DescribedShareGroup {
        let members = self.members.values().map(|m| DescribedShareMember {
            member_id: m.id.clone(),
            rack: m.rack.clone(),
            epoch: m.epoch,
            client: m.client.clone(),
            topics: m.topics.clone(),
            assigned: m.assigned.clone(),
        });
        DescribedShareGroup {
            group: self.id.clone(),
            state: self.state_name(),
            epoch: self.epoch,
            target_epoch: self.target_epoch,
            members: members.collect(),
        }
    }
}

/// Tombstones of a member.
pub(super) fn removal(group: &Arc<str>, member: &Arc<str>) -> [Record; 3] {
    [
        record(group, ShareChange::Current(member.clone(), None)),
        record(group, ShareChange::Target(member.clone(), None)),
        record(group, ShareChange::Member(member.clone(), None)),
    ]
}

/// A record of a share group.
pub(super) fn record(group: &Arc<str>, change: ShareChange) -> Record {
    Record::Share(ShareRecord { group: group.clone(), change })
}

/// Adds partitions of `topic`.
pub(super) fn add(
    to: &mut Partitions,
    topic: Uuid,
    partitions: impl IntoIterator<Item = PartitionId>,
) {
    let mut partitions = partitions.into_iter().peekable();
    if partitions.peek().is_some() {
        to.entry(topic).or_default().extend(partitions);
    }
}

fn count(topics: &mut SubscribedTopics, member: &ShareMember, joins: bool) {
    for topic in &member.topics {
        change(topics, topic, |c| match joins {
            true => c.names += 1,
            false => c.names = c.names.saturating_sub(1),
        });
    }
}
