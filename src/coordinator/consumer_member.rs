//! A member of a consumer group (`ConsumerGroupMember`): what it says, what it has, which epoch it
//! is at. Immutable; a change makes another one. Pure.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    calls::{Client, Protocol},
    consumer_records::{
        Change, ClassicMember, ConsumerRecord, CurrentValue, Epochs, MemberValue, Partitions,
    },
    records::Record,
};
use crate::base::{PartitionId, Uuid};

/// The epoch of a heartbeat that leaves.
pub(super) const LEAVE_EPOCH: i32 = -1;
/// The epoch of a static member that will be back.
pub(super) const LEAVE_STATIC_EPOCH: i32 = -2;

/// Where a member stands on its way to its target (`MemberState`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MemberState {
    /// It has its target.
    Stable,
    /// It must give partitions back before it goes on.
    UnrevokedPartitions,
    /// It waits for partitions that others have not given back.
    UnreleasedPartitions,
    /// Written by a release that knows more states.
    Unknown,
}

impl MemberState {
    pub(super) const fn code(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown => 127,
        }
    }

    pub(super) const fn from_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }
}

/// A member of a consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConsumerMember {
    pub(super) id: Arc<str>,
    pub(super) epoch: i32,
    /// A call in this epoch is let in too: the answer that told the next one may be lost.
    pub(super) previous_epoch: i32,
    pub(super) state: MemberState,
    pub(super) instance_id: Option<Arc<str>>,
    pub(super) rack: Option<Arc<str>>,
    /// -1 if it never said.
    pub(super) rebalance_timeout_ms: i32,
    pub(super) client: Client,
    pub(super) topics: BTreeSet<Arc<str>>,
    /// Empty, or `None` in old records, for none.
    pub(super) regex: Option<Arc<str>>,
    pub(super) assignor: Option<Arc<str>>,
    /// What it may use.
    pub(super) assigned: Epochs,
    /// What it must give back.
    pub(super) revoking: Epochs,
    /// Of a member that speaks the classic protocol.
    pub(super) classic: Option<ClassicMember>,
}

impl ConsumerMember {
    /// A member that nothing is known of.
    pub(super) fn new(id: Arc<str>) -> Self {
        Self {
            id,
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            instance_id: None,
            rack: None,
            rebalance_timeout_ms: -1,
            client: Client::default(),
            topics: BTreeSet::new(),
            regex: Some(Arc::from("")),
            assignor: None,
            assigned: Epochs::new(),
            revoking: Epochs::new(),
            classic: None,
        }
    }

    /// Its regular expression, if it has one.
    pub(super) fn regex(&self) -> Option<&Arc<str>> {
        self.regex.as_ref().filter(|r| !r.is_empty())
    }

    /// Whether it has the target of `epoch`.
    pub(super) fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == epoch
    }

    /// What it offered in the classic JoinGroup; nothing if it speaks the consumer protocol.
    pub(super) fn protocols(&self) -> &[Protocol] {
        self.classic.as_ref().map_or(&[], |c| &c.protocols)
    }

    /// The epoch in which it got a partition that it has or has to give back.
    pub(super) fn partition_epoch(&self, topic: Uuid, partition: PartitionId) -> Option<i32> {
        let of = |e: &Epochs| e.get(&topic).and_then(|p| p.get(&partition)).copied();
        of(&self.assigned).or_else(|| of(&self.revoking))
    }

    /// Goes on to `epoch`; the one it leaves is let in for one more call.
    pub(super) const fn advance(&mut self, epoch: i32) {
        self.previous_epoch = self.epoch;
        self.epoch = epoch;
    }

    /// What it says about itself, as a record.
    pub(super) fn subscription_record(&self, group: &Arc<str>) -> Record {
        let value = MemberValue {
            instance_id: self.instance_id.clone(),
            rack: self.rack.clone(),
            client: self.client.clone(),
            topics: self.topics.clone(),
            regex: self.regex.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            assignor: self.assignor.clone(),
            classic: self.classic.clone(),
        };
        record(group, Change::Member(self.id.clone(), Some(value)))
    }

    /// What it has, as a record.
    pub(super) fn current_record(&self, group: &Arc<str>) -> Record {
        let value = CurrentValue {
            epoch: self.epoch,
            previous_epoch: self.previous_epoch,
            state: self.state.code(),
            assigned: self.assigned.clone(),
            revoking: self.revoking.clone(),
        };
        record(group, Change::Current(self.id.clone(), Some(value)))
    }

    /// Takes what its subscription record says.
    pub(super) fn with_subscription(mut self, value: &MemberValue) -> Self {
        self.instance_id.clone_from(&value.instance_id);
        self.rack.clone_from(&value.rack);
        self.client = value.client.clone();
        self.topics.clone_from(&value.topics);
        self.regex.clone_from(&value.regex);
        self.rebalance_timeout_ms = value.rebalance_timeout_ms;
        self.assignor.clone_from(&value.assignor);
        self.classic.clone_from(&value.classic);
        self
    }

    /// Takes what its assignment record says.
    pub(super) fn with_current(mut self, value: &CurrentValue) -> Self {
        self.epoch = value.epoch;
        self.previous_epoch = value.previous_epoch;
        self.state = MemberState::from_code(value.state);
        self.assigned.clone_from(&value.assigned);
        self.revoking.clone_from(&value.revoking);
        self
    }

    /// Has nothing any more: its assignment record is gone.
    pub(super) fn without_current(mut self) -> Self {
        self.epoch = LEAVE_EPOCH;
        self.previous_epoch = LEAVE_EPOCH;
        self.assigned = Epochs::new();
        self.revoking = Epochs::new();
        self
    }
}

/// A record of a consumer group.
pub(super) fn record(group: &Arc<str>, change: Change) -> Record {
    Record::Consumer(ConsumerRecord { group: group.clone(), change })
}

/// Partitions without their epochs.
pub(super) fn without_epochs(epochs: &Epochs) -> Partitions {
    epochs.iter().map(|(topic, p)| (*topic, p.keys().copied().collect())).collect()
}

/// Partitions that all were given in `epoch`.
pub(super) fn with_epoch(partitions: &Partitions, epoch: i32) -> Epochs {
    partitions.iter().map(|(topic, p)| (*topic, p.iter().map(|p| (*p, epoch)).collect())).collect()
}

/// Whether the member owns what it says. `None`: it did not say.
pub(super) fn is_subset(owned: Option<&Partitions>, assigned: &Epochs) -> bool {
    owned.is_some_and(|owned| {
        owned.iter().all(|(topic, partitions)| {
            assigned.get(topic).is_some_and(|a| partitions.iter().all(|p| a.contains_key(p)))
        })
    })
}
