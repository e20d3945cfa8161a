//! The range assignor (`RangeAssignor`): of each topic a contiguous range for every member that
//! reads it, members in order of instance id, then of member id. Members that read the same topics
//! get the same partitions of topics with equal counts. Pure.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    assignor::{MemberSpec, Spec, Target},
    consumer_records::Partitions,
};
use crate::base::{PartitionId, Uuid};

/// What is left of a topic.
struct Ranges {
    partitions: PartitionId,
    next: PartitionId,
    share: PartitionId,
    extras: PartitionId,
}

pub(super) fn assign(spec: &Spec) -> Target {
    let mut readers: BTreeMap<Uuid, PartitionId> = BTreeMap::new();
    for topic in spec.members.iter().flat_map(|m| m.topics.iter()) {
        *readers.entry(*topic).or_default() += 1;
    }
    let mut topics: BTreeMap<Uuid, Ranges> = readers
        .into_iter()
        .map(|(topic, readers)| {
            let partitions = spec.counts.get(&topic).copied().unwrap_or(0);
            let (share, extras) = (partitions / readers, partitions % readers);
            (topic, Ranges { partitions, next: 0, share, extras })
        })
        .collect();
    let mut order: Vec<usize> = (0..spec.members.len()).collect();
    order.sort_by_key(|at| rank(&spec.members[*at]));
    let mut target: Target = spec.members.iter().map(|m| m.assigned.clone()).collect();
    for at in order {
        let mut share = Partitions::new();
        for topic in &*spec.members[at].topics {
            let Some(ranges) = topics.get_mut(topic) else { continue };
            let quota = ranges.share + PartitionId::from(ranges.extras > 0);
            ranges.extras = (ranges.extras - 1).max(0);
            let end = (ranges.next + quota).min(ranges.partitions);
            if ranges.next < end {
                share.insert(*topic, (ranges.next..end).collect());
            }
            ranges.next = end;
        }
        if *target[at] != share {
            target[at] = Arc::new(share);
        }
    }
    target
}

/// Static members first, by instance id; the others by member id.
fn rank(member: &MemberSpec) -> (bool, &str) {
    match &member.instance_id {
        Some(instance) => (false, instance),
        None => (true, &member.id),
    }
}
