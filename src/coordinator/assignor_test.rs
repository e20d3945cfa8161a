//! Properties of the assignors over random groups that change. Test code only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::{
    assignor::{Assignor, MemberSpec, Spec, Subscriptions, Target},
    consumer_records::Partitions,
};
use crate::base::Uuid;

fn topic(n: u8) -> Uuid {
    Uuid([n + 1; 16])
}

fn size(p: &Partitions) -> usize {
    p.values().map(BTreeSet::len).sum()
}

fn spec(
    counts: &[i32],
    members: &[(usize, BTreeSet<u8>)],
    last: &BTreeMap<usize, Arc<Partitions>>,
) -> Spec {
    let of = |topics: &BTreeSet<u8>| {
        topics.iter().map(|t| t % counts.len() as u8).map(topic).collect::<BTreeSet<_>>()
    };
    let same = members.iter().all(|(_, t)| of(t) == of(&members[0].1));
    let mut all: Vec<_> = members
        .iter()
        .map(|(n, topics)| MemberSpec {
            id: format!("m{n:04}").into(),
            instance_id: n.is_multiple_of(3).then(|| format!("i{:04}", 9999 - n).into()),
            topics: Arc::new(of(topics)),
            assigned: last.get(n).cloned().unwrap_or_default(),
        })
        .collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let read: BTreeSet<Uuid> = all.iter().flat_map(|m| m.topics.iter().copied()).collect();
    let counts = (0..counts.len() as u8).map(|t| (topic(t), counts[t as usize]));
    Spec {
        members: all,
        counts: counts.filter(|(t, _)| read.contains(t)).collect(),
        subscriptions: if same { Subscriptions::Same } else { Subscriptions::Mixed },
    }
}

/// Each partition of a topic that is read has one owner, who reads it.
fn check_complete(spec: &Spec, target: &Target) {
    assert_eq!(spec.members.len(), target.len());
    let mut seen = BTreeSet::new();
    for (member, share) in spec.members.iter().zip(target) {
        for (topic, partitions) in &**share {
            assert!(!partitions.is_empty() && member.topics.contains(topic));
            for p in partitions {
                assert!((0..spec.counts[topic]).contains(p) && seen.insert((*topic, *p)));
            }
        }
    }
    let read: BTreeSet<_> = spec.members.iter().flat_map(|m| m.topics.iter()).collect();
    let all: i32 = spec.counts.iter().filter(|(t, _)| read.contains(t)).map(|(_, n)| n).sum();
    assert_eq!(seen.len(), all as usize);
}

fn check_balanced(target: &Target) {
    let sizes: Vec<_> = target.iter().map(|s| size(s)).collect();
    let (min, max) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
    assert!(max - min <= 1, "{sizes:?}");
}

/// No partition could move straight from a reader with two more to one with two less.
fn check_mixed_balance(spec: &Spec, target: &Target) {
    let sizes: Vec<_> = target.iter().map(|s| size(s)).collect();
    for topic in spec.counts.keys() {
        for (a, from) in spec.members.iter().enumerate() {
            if !target[a].contains_key(topic) {
                continue;
            }
            for (b, to) in spec.members.iter().enumerate() {
                let could = to.topics.contains(topic) && sizes[a] > sizes[b] + 1;
                assert!(!could, "{} could give to {}: {sizes:?}", from.id, to.id);
            }
        }
    }
}

/// Partitions whose owner differs although it was there before and reads the topic still.
fn moved(spec: &Spec, target: &Target) -> usize {
    let lost = |m: &MemberSpec, now: &Partitions| {
        m.assigned
            .iter()
            .filter(|(t, _)| m.topics.contains(t))
            .map(|(t, p)| p.iter().filter(|p| !now.get(t).is_some_and(|n| n.contains(p))).count())
            .sum::<usize>()
    };
    spec.members.iter().zip(target).map(|(m, now)| lost(m, now)).sum()
}

fn members(topics: u8) -> impl Strategy<Value = Vec<(usize, BTreeSet<u8>)>> {
    let subscription = proptest::collection::btree_set(0..topics, 1..=topics as usize);
    proptest::collection::btree_map(0usize..24, subscription, 1..16)
        .prop_map(|m| m.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn uniform_is_complete_balanced_and_sticky_while_members_come_and_go(
        counts in proptest::collection::vec(1i32..20, 1..5),
        rounds in proptest::collection::vec(
            proptest::collection::btree_set(0usize..24, 1..16),
            2..5,
        ),
    ) {
        let topics: BTreeSet<u8> = (0..counts.len() as u8).collect();
        let mut last = BTreeMap::new();
        let mut before: BTreeSet<usize> = BTreeSet::new();
        for round in rounds {
            let group: Vec<_> = round.iter().map(|n| (*n, topics.clone())).collect();
            let spec = spec(&counts, &group, &last);
            prop_assert_eq!(spec.subscriptions, Subscriptions::Same);
            let target = Assignor::Uniform.assign(&spec);
            check_complete(&spec, &target);
            check_balanced(&target);
            // Nothing moves but what the new members must get.
            let total: usize = counts.iter().map(|n| *n as usize).sum();
            let new = round.difference(&before).count();
            let share = total / round.len() + 1;
            prop_assert!(moved(&spec, &target) <= new * share, "moved {}", moved(&spec, &target));
            prop_assert_eq!(moved(&spec, &target) * usize::from(round.is_subset(&before)), 0);
            let settled = spec.members.iter().zip(&target);
            let settled =
                settled.map(|(m, t)| MemberSpec { assigned: t.clone(), ..m.clone() });
            let again = Spec { members: settled.collect(), ..spec.clone() };
            prop_assert_eq!(&Assignor::Uniform.assign(&again), &target);
            last = round.iter().copied().zip(target).collect();
            before = round;
        }
    }

    #[test]
    fn uniform_over_mixed_subscriptions_is_complete_and_balanced(
        counts in proptest::collection::vec(1i32..20, 1..5),
        rounds in proptest::collection::vec(members(4), 2..4),
    ) {
        let mut last = BTreeMap::new();
        for round in rounds {
            let mut spec = spec(&counts, &round, &last);
            spec.subscriptions = Subscriptions::Mixed;
            let target = Assignor::Uniform.assign(&spec);
            check_complete(&spec, &target);
            check_mixed_balance(&spec, &target);
            last = spec.members.iter().map(|m| m.id[1..].parse().unwrap()).zip(target).collect();
        }
    }

    #[test]
    fn range_is_complete_contiguous_and_co_partitioned(
        counts in proptest::collection::vec(1i32..20, 1..5),
        group in members(4),
    ) {
        let spec = spec(&counts, &group, &BTreeMap::new());
        let target = Assignor::Range.assign(&spec);
        check_complete(&spec, &target);
        for share in &target {
            for partitions in share.values() {
                let (first, last) = (partitions.first().unwrap(), partitions.last().unwrap());
                prop_assert_eq!((last - first + 1) as usize, partitions.len());
            }
        }
        for (a, x) in &spec.counts {
            for (b, y) in &spec.counts {
                let alike = |m: &MemberSpec| m.topics.contains(a) == m.topics.contains(b);
                if x == y && spec.members.iter().all(alike) {
                    prop_assert!(target.iter().all(|s| s.get(a) == s.get(b)));
                }
            }
        }
    }
}

#[test]
fn a_large_group_is_assigned_in_time_that_grows_with_what_changes() {
    // 1,000 members, 10 topics of 1,000 partitions; then one member more.
    let counts = [1_000; 10];
    let topics: BTreeSet<u8> = (0..10).collect();
    let group: Vec<_> = (0..1_000).map(|n| (n, topics.clone())).collect();
    let first = spec(&counts, &group, &BTreeMap::new());
    let target = Assignor::Uniform.assign(&first);
    check_balanced(&target);
    let last: BTreeMap<_, _> = (0..1_000).zip(target.iter().cloned()).collect();
    let more: Vec<_> = (0..1_001).map(|n| (n, topics.clone())).collect();
    let second = spec(&counts, &more, &last);
    let next = Assignor::Uniform.assign(&second);
    check_balanced(&next);
    let shared = next.iter().zip(&target).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert!(shared >= 985, "{shared} shares are the same objects");
}
