//! The uniform assignor where members read different topics
//! (`UniformHeterogeneousAssignmentBuilder`): members keep what they have, the rest goes to those
//! with the least, and then partitions move from those with more to those with less, topic by
//! topic, until nothing changes or the rounds are used up. Pure.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use super::{
    assignor::{Kept, Spec, Target, index},
    consumer_records::Partitions,
};
use crate::base::{PartitionId, Uuid};

/// Rounds of balancing. With equal subscriptions of all readers of a topic one is enough; each
/// about halves what is left.
const ROUNDS_MAX: usize = 16;

pub(super) fn assign(spec: &Spec) -> Target {
    let mut builder = Builder::new(spec);
    builder.assign_free();
    builder.balance();
    builder.target()
}

struct Builder<'a> {
    spec: &'a Spec,
    kept: Target,
    owners: BTreeMap<Uuid, Vec<Option<usize>>>,
    /// Members that read a topic, ascending.
    readers: BTreeMap<Uuid, Vec<usize>>,
    /// Partitions that each member has.
    sizes: Vec<usize>,
    /// Whose share differs from what it kept.
    changed: Vec<bool>,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a Spec) -> Self {
        let Kept { shares, owners } = Kept::of(spec);
        let mut readers: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        for (at, member) in spec.members.iter().enumerate() {
            for topic in &*member.topics {
                readers.entry(*topic).or_default().push(at);
            }
        }
        let sizes = shares.iter().map(|s| s.values().map(|p| p.len()).sum()).collect();
        let changed = vec![false; spec.members.len()];
        Self { spec, kept: shares, owners, readers, sizes, changed }
    }

    /// Topics that are read, those with the most partitions a reader first.
    fn topics(&self) -> Vec<Uuid> {
        let mut topics: Vec<Uuid> = self.readers.keys().copied().collect();
        topics.sort_by(|a, b| self.compare(*a, *b));
        topics
    }

    fn compare(&self, a: Uuid, b: Uuid) -> Ordering {
        let of = |t: Uuid| {
            let partitions = self.spec.counts.get(&t).copied().map_or(0, index);
            (partitions, self.readers.get(&t).map_or(1, Vec::len))
        };
        let ((pa, ra), (pb, rb)) = (of(a), of(b));
        // pb / rb against pa / ra, without rounding.
        (pb * ra).cmp(&(pa * rb)).then(ra.cmp(&rb)).then(a.cmp(&b))
    }

    fn give(&mut self, topic: Uuid, partition: usize, to: usize) {
        let Some(slot) = self.owners.get_mut(&topic).and_then(|o| o.get_mut(partition)) else {
            return;
        };
        if let Some(from) = slot.replace(to) {
            self.sizes[from] -= 1;
            self.changed[from] = true;
        }
        self.sizes[to] += 1;
        self.changed[to] = true;
    }

    fn assign_free(&mut self) {
        for topic in self.topics() {
            let owners = self.owners.get(&topic).into_iter().flatten().enumerate();
            let free: Vec<usize> = owners.filter(|(_, o)| o.is_none()).map(|(p, _)| p).collect();
            let Some(readers) = self.readers.get(&topic).filter(|_| !free.is_empty()) else {
                continue;
            };
            let mut balancer = Balancer::new(readers, &self.sizes);
            for partition in free {
                let to = balancer.next_least_loaded(&self.sizes);
                self.give(topic, partition, to);
            }
        }
    }

    fn balance(&mut self) {
        let mut topics = self.topics();
        topics.retain(|t| self.readers.get(t).is_some_and(|r| r.len() >= 2));
        // The topic that something moved in last: once around without a move ends it.
        let mut last = None;
        for _ in 0..ROUNDS_MAX {
            for (at, topic) in topics.iter().enumerate() {
                if last == Some(at) {
                    return;
                }
                if self.balance_topic(*topic) || last.is_none() {
                    last = Some(at);
                }
            }
        }
    }

    /// Moves partitions of one topic; tells whether it moved any.
    fn balance_topic(&mut self, topic: Uuid) -> bool {
        let Some(readers) = self.readers.get(&topic) else { return false };
        let mut balancer = Balancer::new(readers, &self.sizes);
        if balancer.imbalance(&self.sizes) <= 1 {
            return false;
        }
        // What each member has of the topic; the last is given away first.
        let mut held: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (partition, owner) in self.owners.get(&topic).into_iter().flatten().enumerate() {
            if let Some(owner) = owner {
                held.entry(*owner).or_default().push(partition);
            }
        }
        let mut moved = false;
        while !balancer.is_balanced() {
            let partition = loop {
                let Some(from) = balancer.next_most_loaded(&self.sizes) else { return moved };
                match held.get_mut(&from).and_then(Vec::pop) {
                    Some(partition) => break partition,
                    None => balancer.exclude_most_loaded(),
                }
            };
            let to = balancer.next_least_loaded(&self.sizes);
            if balancer.is_balanced() {
                break;
            }
            self.give(topic, partition, to);
            moved = true;
        }
        moved
    }

    fn target(self) -> Target {
        let mut shares: Vec<Option<Partitions>> =
            self.changed.iter().map(|c| c.then(Partitions::new)).collect();
        for (topic, owners) in &self.owners {
            for (partition, owner) in (0 as PartitionId..).zip(owners) {
                if let Some(share) = owner.and_then(|o| shares[o].as_mut()) {
                    share.entry(*topic).or_default().insert(partition);
                }
            }
        }
        let kept = self.kept.into_iter().zip(shares);
        kept.map(|(kept, new)| new.filter(|n| *n != *kept).map_or(kept, Arc::new)).collect()
    }
}

/// The readers of one topic in order of load, for a walk from both ends: those with the least are
/// given one partition each in turn, those with the most give one each in turn
/// (`MemberAssignmentBalancer`). Members between the two ranges are as they were.
struct Balancer {
    sorted: Vec<usize>,
    /// End of those with the least, and the partitions they had before this turn.
    least_end: usize,
    least_count: i64,
    next_least: usize,
    /// Those with the most; what lies beyond the end has nothing of the topic left to give.
    most_start: usize,
    most_end: usize,
    most_count: i64,
    /// One above the member that gives next.
    next_most: usize,
}

impl Balancer {
    fn new(readers: &[usize], sizes: &[usize]) -> Self {
        let mut sorted = readers.to_vec();
        sorted.sort_by_key(|m| (sizes[*m], *m));
        let end = sorted.len();
        let load = |m: Option<&usize>| m.map_or(0, |m| count(sizes[*m]));
        Self {
            least_end: 0,
            least_count: load(sorted.first()) - 1,
            next_least: 0,
            most_start: end,
            most_end: end,
            most_count: load(sorted.last()) + 1,
            next_most: end,
            sorted,
        }
    }

    fn load(&self, at: usize, sizes: &[usize]) -> Option<i64> {
        self.sorted.get(at).map(|m| count(sizes[*m]))
    }

    fn imbalance(&self, sizes: &[usize]) -> i64 {
        let last = self.sorted.len().saturating_sub(1);
        self.load(last, sizes).unwrap_or(0) - self.load(0, sizes).unwrap_or(0)
    }

    fn next_least_loaded(&mut self, sizes: &[usize]) -> usize {
        if self.next_least >= self.least_end {
            self.least_count += 1;
            while self.load(self.least_end, sizes) == Some(self.least_count) {
                self.least_end += 1;
            }
            self.next_least = 0;
        }
        let member = self.sorted[self.next_least];
        self.next_least += 1;
        member
    }

    fn next_most_loaded(&mut self, sizes: &[usize]) -> Option<usize> {
        if self.next_most <= self.most_start {
            match self.most_start.checked_sub(1).and_then(|at| self.load(at, sizes)) {
                Some(load) if self.most_end <= self.most_start => self.most_count = load,
                _ => self.most_count -= 1,
            }
            while self
                .most_start
                .checked_sub(1)
                .is_some_and(|at| self.load(at, sizes) == Some(self.most_count))
            {
                self.most_start -= 1;
            }
            self.next_most = self.most_end;
        }
        self.next_most = self.next_most.checked_sub(1)?;
        Some(self.sorted[self.next_most])
    }

    /// The member that was given last has nothing to give.
    fn exclude_most_loaded(&mut self) {
        self.most_end -= 1;
        self.sorted.swap(self.next_most, self.most_end);
    }

    const fn is_balanced(&self) -> bool {
        self.most_count - self.least_count <= 1
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
