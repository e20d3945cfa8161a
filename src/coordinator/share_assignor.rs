//! The assignor of share groups (`SimpleAssignor.java`): several members may read one partition.
//! Every partition has as many readers as it takes to occupy all members, members have equally many
//! partitions within one, and no more moves than that needs. It does not look at racks. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::{assignor::Subscriptions, consumer_records::Partitions};
use crate::base::{PartitionId, Uuid};

/// Its name in descriptions and configuration.
pub(super) const NAME: &str = "simple";

/// A member, as the assignor sees it.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    /// The topics it reads, as far as they exist.
    pub(super) topics: Arc<BTreeSet<Uuid>>,
    /// Its part of the last target.
    pub(super) assigned: Arc<Partitions>,
}

/// What each of `readers` shall have, in the same order; what stays as it was is shared. Only
/// partitions in `assignable` are given.
pub(super) fn assign(
    readers: &[Reader],
    assignable: &Partitions,
    subscriptions: Subscriptions,
) -> Vec<Arc<Partitions>> {
    let mut shares = vec![Partitions::new(); readers.len()];
    match (subscriptions, readers.first()) {
        (_, None) => {}
        (Subscriptions::Same, Some(first)) => {
            // All topics are balanced at once.
            let topics = assignable.iter().filter(|(topic, _)| first.topics.contains(*topic));
            let all = topics.flat_map(|(t, partitions)| partitions.iter().map(|p| (*t, *p)));
            let everybody: Vec<usize> = (0..readers.len()).collect();
            Balance::new(readers, everybody, all.collect()).settle(&mut shares);
        }
        (Subscriptions::Mixed, Some(_)) => {
            let mut by_topic: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
            for (at, reader) in readers.iter().enumerate() {
                for topic in &*reader.topics {
                    by_topic.entry(*topic).or_default().push(at);
                }
            }
            for (topic, members) in by_topic {
                let Some(partitions) = assignable.get(&topic) else { continue };
                let all = partitions.iter().map(|p| (topic, *p)).collect();
                Balance::new(readers, members, all).settle(&mut shares);
            }
        }
    }
    let kept = shares.into_iter().zip(readers);
    kept.map(|(share, reader)| match share == *reader.assigned {
        true => reader.assigned.clone(),
        false => Arc::new(share),
    })
    .collect()
}

/// Some partitions and those who read them.
struct Balance {
    /// Indexes of members.
    members: Vec<usize>,
    /// In order.
    partitions: Vec<(Uuid, PartitionId)>,
    /// Of each member: indexes of partitions.
    held: Vec<BTreeSet<usize>>,
    /// Of each partition: how many hold it.
    holders: Vec<usize>,
    /// How many shall hold each partition.
    sharing: usize,
}

impl Balance {
    /// What the members have so far of these partitions.
    fn new(readers: &[Reader], members: Vec<usize>, partitions: Vec<(Uuid, PartitionId)>) -> Self {
        let topics: BTreeSet<Uuid> = partitions.iter().map(|(topic, _)| *topic).collect();
        let mut holders = vec![0; partitions.len()];
        let mut held = Vec::with_capacity(members.len());
        for member in &members {
            let mut own = BTreeSet::new();
            let Some(reader) = readers.get(*member) else { continue };
            for topic in &topics {
                for p in reader.assigned.get(topic).into_iter().flatten() {
                    if let Ok(at) = partitions.binary_search(&(*topic, *p)) {
                        own.insert(at);
                        holders[at] += 1;
                    }
                }
            }
            held.push(own);
        }
        let sharing = members.len().div_ceil(partitions.len().max(1));
        Self { members, partitions, held, holders, sharing }
    }

    /// How many partitions the member at `index` shall have.
    fn quota(&self, index: usize) -> usize {
        let (total, members) = (self.sharing * self.partitions.len(), self.members.len());
        ((index + 1) * total).div_ceil(members) - (index * total).div_ceil(members)
    }

    /// Adds what the members shall have to their shares.
    fn settle(mut self, shares: &mut [Partitions]) {
        self.take_from_those_with_too_many();
        self.take_what_too_many_have();
        self.fill();
        for (member, own) in self.members.iter().zip(&self.held) {
            let Some(share) = shares.get_mut(*member) else { continue };
            for (topic, partition) in own.iter().filter_map(|at| self.partitions.get(*at)) {
                share.entry(*topic).or_default().insert(*partition);
            }
        }
    }

    /// First goes what most others have, too.
    fn take_from_those_with_too_many(&mut self) {
        for index in 0..self.held.len() {
            let too_many = self.held[index].len().saturating_sub(self.quota(index));
            if too_many == 0 {
                continue;
            }
            let mut own: Vec<usize> = self.held[index].iter().copied().collect();
            own.sort_unstable_by_key(|at| std::cmp::Reverse((self.holders[*at], *at)));
            for at in own.into_iter().take(too_many) {
                self.held[index].remove(&at);
                self.holders[at] -= 1;
            }
        }
    }

    fn take_what_too_many_have(&mut self) {
        for own in self.held.iter_mut().rev() {
            let too_many = own.iter().copied().filter(|at| self.holders[*at] > self.sharing);
            for at in too_many.collect::<Vec<_>>() {
                own.remove(&at);
                self.holders[at] -= 1;
            }
        }
    }

    /// Gives partitions to members in turn. A partition that all members with room have already is
    /// left with fewer readers.
    fn fill(&mut self) {
        let room = (0..self.held.len()).filter(|i| self.held[*i].len() < self.quota(*i));
        let mut unfilled: VecDeque<usize> = room.collect();
        for at in 0..self.partitions.len() {
            for _ in 0..unfilled.len() {
                if self.holders[at] >= self.sharing {
                    break;
                }
                let Some(index) = unfilled.pop_front() else { break };
                if self.held[index].insert(at) {
                    self.holders[at] += 1;
                }
                if self.held[index].len() < self.quota(index) {
                    unfilled.push_back(index);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(n: u8) -> Uuid {
        Uuid([n; 16])
    }

    fn assignable(counts: &[(u8, i32)]) -> Partitions {
        counts.iter().map(|(t, n)| (topic(*t), (0..*n).collect())).collect()
    }

    fn reader(topics: &[u8], assigned: Arc<Partitions>) -> Reader {
        Reader { topics: Arc::new(topics.iter().map(|t| topic(*t)).collect()), assigned }
    }

    fn sizes(target: &[Arc<Partitions>]) -> Vec<usize> {
        target.iter().map(|s| s.values().map(BTreeSet::len).sum()).collect()
    }

    fn next(
        last: &[Arc<Partitions>],
        members: usize,
        counts: &[(u8, i32)],
    ) -> Vec<Arc<Partitions>> {
        let topics: Vec<u8> = counts.iter().map(|(t, _)| *t).collect();
        let readers: Vec<_> = (0..members)
            .map(|i| reader(&topics, last.get(i).cloned().unwrap_or_default()))
            .collect();
        assign(&readers, &assignable(counts), Subscriptions::Same)
    }

    fn moved(a: &[Arc<Partitions>], b: &[Arc<Partitions>]) -> usize {
        let none = Arc::default();
        b.iter()
            .enumerate()
            .map(|(i, new)| {
                let old = a.get(i).unwrap_or(&none);
                let kept = |t: &Uuid, p: &PartitionId| old.get(t).is_some_and(|o| o.contains(p));
                new.iter().flat_map(|(t, ps)| ps.iter().filter(|p| !kept(t, p))).count()
            })
            .sum()
    }

    #[test]
    fn members_come_and_go_and_all_stays_balanced() {
        let counts = [(1, 4), (2, 3)];
        let mut target = next(&[], 1, &counts);
        assert_eq!(sizes(&target), [7]);
        for members in (2..=20).chain((1..20).rev()) {
            let before = target.clone();
            target = next(&target, members, &counts);
            let got = sizes(&target);
            let (least, most) = (got.iter().min().unwrap(), got.iter().max().unwrap());
            assert!(most - least <= 1, "{members}: {got:?}");
            let mut readers: BTreeMap<_, usize> = BTreeMap::new();
            for share in &target {
                for (t, ps) in &**share {
                    ps.iter().for_each(|p| *readers.entry((*t, *p)).or_default() += 1);
                }
            }
            assert_eq!(readers.len(), 7, "{members}: every partition is read");
            assert!(readers.values().all(|n| *n <= members.div_ceil(7)), "{members}: {readers:?}");
            assert!(moved(&before, &target) <= 7 * members.div_ceil(7), "{members}");
        }
        let again = next(&target, 1, &counts);
        assert!(Arc::ptr_eq(&again[0], &target[0]), "nothing moves, nothing is copied");
    }

    #[test]
    fn one_more_member_takes_only_its_own_part() {
        let before = next(&[], 3, &[(1, 12)]);
        let after = next(&before, 4, &[(1, 12)]);
        assert_eq!(sizes(&after), [3; 4]);
        assert_eq!(moved(&before, &after), 3);
    }

    #[test]
    fn topics_are_balanced_alone_among_those_who_read_them() {
        let readers = [
            reader(&[1], Arc::default()),
            reader(&[2], Arc::default()),
            reader(&[1, 2], Arc::default()),
        ];
        let target = assign(&readers, &assignable(&[(1, 4), (2, 4), (3, 1)]), Subscriptions::Mixed);
        assert_eq!(sizes(&target), [2, 2, 4]);
        assert!(target[0].contains_key(&topic(1)) && !target[0].contains_key(&topic(2)));
    }

    #[test]
    fn what_is_not_assignable_is_not_kept() {
        let old = Arc::new(assignable(&[(1, 3), (2, 1)]));
        let readers = [reader(&[1], old)];
        let target = assign(&readers, &assignable(&[(1, 2)]), Subscriptions::Same);
        assert_eq!(*target[0], assignable(&[(1, 2)]));
        assert_eq!(assign(&[], &assignable(&[(1, 2)]), Subscriptions::Same), []);
        assert_eq!(sizes(&assign(&readers, &Partitions::new(), Subscriptions::Same)), [0]);
    }
}
