//! Which share partitions an update of the metadata ends. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{Mutant, PartitionId, Uuid, mutant},
    metadata::{Delta, Image},
    replica::publish::Office,
};

/// See the file's head.
#[derive(Debug, Default)]
pub struct Leavers {
    gone: BTreeSet<Uuid>,
    /// Partitions whose leader changed: the epoch under which this broker leads now, if it does.
    changed: BTreeMap<(Uuid, PartitionId), Option<i32>>,
}

impl Leavers {
    /// What `delta`, whose result is `image`, means with these offices.
    #[must_use]
    pub fn of(delta: &Delta, image: &Image, offices: &[Office]) -> Self {
        let changed = offices.iter().filter_map(|o| {
            let leads = o.leads.then_some(o.leader_epoch);
            Some(((image.topics().id_of(&o.topic)?, o.partition), leads))
        });
        Self { gone: delta.deleted_topics().map(|t| t.id).collect(), changed: changed.collect() }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.changed.is_empty()
    }

    /// Whether the share partitions of a partition end that were loaded under `leader_epoch`. So do
    /// those that this broker leads still, but under a later epoch: between the two epochs another
    /// may have led, which an update that covers both does not tell, and what members told that
    /// one is not known here.
    #[must_use]
    pub fn has(&self, topic: Uuid, partition: PartitionId, leader_epoch: i32) -> bool {
        let changed = self.changed.get(&(topic, partition));
        if mutant(Mutant::ShareOutlivesEpoch) {
            return self.gone.contains(&topic) || changed == Some(&None);
        }
        self.gone.contains(&topic) || changed.is_some_and(|now| *now != Some(leader_epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_loaded_under_another_epoch_ends() {
        let topic = Uuid([1; 16]);
        let changed = BTreeMap::from([((topic, 0), Some(7)), ((topic, 1), None)]);
        let leavers = Leavers { gone: BTreeSet::from([Uuid([2; 16])]), changed };
        assert!(leavers.has(topic, 0, 5), "somebody else may have led under 6");
        assert!(!leavers.has(topic, 0, 7));
        assert!(leavers.has(topic, 1, 7));
        assert!(!leavers.has(topic, 2, 7));
        assert!(leavers.has(Uuid([2; 16]), 0, 0));
        assert!(!leavers.is_empty() && Leavers::default().is_empty());
    }
}
