//! The uniform assignor where all members read the same topics
//! (`UniformHomogeneousAssignmentBuilder`): a share for each, within one partition of each other,
//! and nothing moves that need not. Pure.

use std::sync::Arc;

use super::{
    assignor::{Kept, Spec, Target, without},
    consumer_records::Partitions,
};
use crate::base::{PartitionId, Uuid};

pub(super) fn assign(spec: &Spec) -> Target {
    let kept = Kept::of(spec);
    let total: usize = kept.owners.values().map(Vec::len).sum();
    let mut free: Vec<(Uuid, PartitionId)> = Vec::new();
    for (topic, owners) in &kept.owners {
        free.extend((0..).zip(owners).filter(|(_, o)| o.is_none()).map(|(p, _)| (*topic, p)));
    }
    let members = spec.members.len();
    let share = total / members;
    // Members that get one more.
    let mut extras = total % members;
    let mut target = Target::with_capacity(members);
    let mut unfilled = Vec::new();
    for (at, own) in kept.shares.into_iter().enumerate() {
        let mut quota = share + usize::from(extras > 0);
        let mut has_extra = extras > 0;
        let mut lost = Vec::new();
        for (topic, partitions) in &*own {
            lost.extend(partitions.iter().skip(quota).map(|p| (*topic, *p)));
            quota = quota.saturating_sub(partitions.len());
        }
        // One that is not full yields the extra partition to those who hold more, while enough
        // members come after it.
        if quota > 0 && has_extra && members - at > extras {
            quota -= 1;
            has_extra = false;
        }
        if quota > 0 {
            unfilled.push((at, quota));
        }
        extras -= usize::from(has_extra);
        target.push(without(&own, &lost));
        free.extend(lost);
    }
    let mut free = free.into_iter();
    for (at, quota) in unfilled {
        let mut given = free.by_ref().take(quota).peekable();
        if given.peek().is_none() {
            break;
        }
        let share: &mut Partitions = Arc::make_mut(&mut target[at]);
        for (topic, partition) in given {
            share.entry(topic).or_default().insert(partition);
        }
    }
    target
}
