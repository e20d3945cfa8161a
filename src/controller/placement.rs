//! Where new replicas go: striped over racks, then over the brokers of each rack, unfenced brokers
//! first, from a random start (the rules of `StripedReplicaPlacer.java`). Uses `base`.

use std::{collections::BTreeMap, sync::Arc};

use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};

use crate::base::{ErrorCode, NodeId};

use super::command::Refusal;

/// A broker that may get replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Usable {
    pub(super) id: NodeId,
    pub(super) rack: Option<Arc<str>>,
    pub(super) fenced: bool,
}

/// Brokers in a ring that is walked once a round, each round from one further on.
#[derive(Debug, Default)]
struct Ring {
    brokers: Vec<NodeId>,
    taken: usize,
    offset: usize,
    round: usize,
}

impl Ring {
    fn start(&mut self, rng: &mut StdRng) {
        self.brokers.sort_unstable();
        if !self.brokers.is_empty() {
            self.offset = rng.random_range(0..self.brokers.len());
        }
    }

    fn next(&mut self, round: usize) -> Option<NodeId> {
        let len = self.brokers.len();
        if len == 0 {
            return None;
        }
        if self.round != round {
            self.round = round;
            self.taken = 0;
            self.offset = (self.offset + 1) % len;
        }
        if self.taken == len {
            return None;
        }
        let at = (self.taken + self.offset) % len;
        self.taken += 1;
        self.brokers.get(at).copied()
    }
}

#[derive(Debug, Default)]
struct Rack {
    unfenced: Ring,
    fenced: Ring,
}

impl Rack {
    fn next(&mut self, round: usize) -> Option<NodeId> {
        self.unfenced.next(round).or_else(|| self.fenced.next(round))
    }
}

/// Places the partitions of one request.
#[derive(Debug)]
pub(super) struct Placer<'a> {
    rng: &'a mut StdRng,
    racks: Vec<Rack>,
    total: usize,
    unfenced: usize,
    /// Grows by one with every partition: rings that have not seen it start over.
    round: usize,
    since_shuffle: usize,
    offset: usize,
}

fn refuse(text: String) -> Refusal {
    Refusal::new(ErrorCode::InvalidReplicationFactor, text)
}

impl<'a> Placer<'a> {
    /// A placer over `brokers`; where it starts is drawn from `rng`.
    pub(super) fn new(brokers: impl IntoIterator<Item = Usable>, rng: &'a mut StdRng) -> Self {
        let mut by_rack: BTreeMap<Option<Arc<str>>, Rack> = BTreeMap::new();
        let (mut total, mut unfenced) = (0, 0);
        for b in brokers {
            total += 1;
            let rack = by_rack.entry(b.rack).or_default();
            if b.fenced {
                rack.fenced.brokers.push(b.id);
            } else {
                unfenced += 1;
                rack.unfenced.brokers.push(b.id);
            }
        }
        let mut racks: Vec<Rack> = by_rack.into_values().collect();
        for rack in &mut racks {
            rack.fenced.start(rng);
            rack.unfenced.start(rng);
        }
        let offset = if racks.is_empty() { 0 } else { rng.random_range(0..racks.len()) };
        Self { rng, racks, total, unfenced, round: 0, since_shuffle: 0, offset }
    }

    /// The replicas of `partitions` partitions; the first of each is unfenced.
    pub(super) fn place(
        &mut self,
        partitions: usize,
        factor: usize,
    ) -> Result<Vec<Vec<NodeId>>, Refusal> {
        if factor == 0 {
            let text = "Invalid replication factor 0: the replication factor must be positive.";
            return Err(refuse(text.to_owned()));
        }
        if self.unfenced == 0 {
            let text = "All brokers are currently fenced, or have all their log directories \
                        cordoned.";
            return Err(refuse(text.to_owned()));
        }
        if factor > self.total {
            return Err(refuse(format!(
                "The target replication factor of {factor} cannot be reached because only {} \
                 broker(s) are registered or some brokers have all their log directories cordoned.",
                self.total
            )));
        }
        Ok((0..partitions).map(|_| self.place_one(factor)).collect())
    }

    fn place_one(&mut self, factor: usize) -> Vec<NodeId> {
        // Every unfenced broker has led once: shuffle, so that assignments do not repeat.
        if self.since_shuffle == self.unfenced && self.unfenced > 1 {
            self.shuffle();
            self.since_shuffle = 0;
        }
        let count = self.racks.len();
        if self.offset == count {
            self.offset = 0;
        }
        let mut replicas = Vec::with_capacity(factor);
        let mut first = self.offset;
        for at in (self.offset..count).chain(0..self.offset) {
            if let Some(leader) = self.racks[at].unfenced.next(self.round) {
                replicas.push(leader);
                first = at;
                break;
            }
        }
        // The rest comes from the racks in turn; the leader's rack has had its first turn.
        let (mut at, mut skip_first) = (self.offset, true);
        while replicas.len() < factor {
            if skip_first && at == first {
                skip_first = false;
            } else if let Some(n) = self.racks[at].next(self.round) {
                replicas.push(n);
            }
            at = (at + 1) % count;
        }
        self.round += 1;
        self.since_shuffle += 1;
        self.offset += 1;
        replicas
    }

    fn shuffle(&mut self) {
        self.racks.shuffle(self.rng);
        for rack in &mut self.racks {
            rack.fenced.brokers.shuffle(self.rng);
            rack.unfenced.brokers.shuffle(self.rng);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;

    use super::*;

    fn usable(id: i32, rack: Option<&str>, fenced: bool) -> Usable {
        Usable { id: NodeId(id), rack: rack.map(Into::into), fenced }
    }

    fn place(brokers: &[Usable], n: usize, factor: usize) -> Result<Vec<Vec<NodeId>>, Refusal> {
        let mut rng = StdRng::seed_from_u64(7);
        Placer::new(brokers.to_vec(), &mut rng).place(n, factor)
    }

    fn count(it: impl Iterator<Item = NodeId>) -> BTreeMap<NodeId, usize> {
        it.fold(BTreeMap::new(), |mut m, n| {
            *m.entry(n).or_default() += 1;
            m
        })
    }

    #[test]
    fn leaders_and_replicas_are_spread_evenly() {
        let brokers: Vec<_> = (0..5).map(|i| usable(i, None, false)).collect();
        let placed = place(&brokers, 100, 3).unwrap();
        let leaders = count(placed.iter().map(|r| r[0]));
        assert_eq!(leaders.into_values().collect::<Vec<_>>(), [20; 5]);
        let all = count(placed.into_iter().flatten());
        assert_eq!(all.into_values().collect::<Vec<_>>(), [60; 5]);
    }

    #[test]
    fn replicas_lie_in_different_racks() {
        let brokers: Vec<_> =
            (0..9).map(|i| usable(i, Some(["a", "b", "c"][i as usize % 3]), false)).collect();
        for replicas in place(&brokers, 50, 3).unwrap() {
            let racks: BTreeSet<_> = replicas.iter().map(|n| n.0 % 3).collect();
            assert_eq!(racks.len(), 3, "{replicas:?}");
        }
    }

    #[test]
    fn fenced_brokers_come_last_and_never_lead() {
        let brokers = [usable(1, None, false), usable(2, None, true), usable(3, None, false)];
        for replicas in place(&brokers, 20, 2).unwrap() {
            assert!(!replicas.contains(&NodeId(2)), "{replicas:?}");
        }
        for replicas in place(&brokers, 20, 3).unwrap() {
            assert_ne!(replicas[0], NodeId(2));
            assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), 3);
        }
    }

    #[test]
    fn impossible_factors_are_refused() {
        let one = [usable(1, None, false)];
        let text = |r: Result<_, Refusal>| r.unwrap_err().message.unwrap();
        assert!(text(place(&one, 1, 2)).contains("only 1 broker(s) are registered"));
        assert!(text(place(&[usable(1, None, true)], 1, 1)).starts_with("All brokers"));
        assert!(text(place(&one, 1, 0)).contains("must be positive"));
        assert_eq!(place(&one, 3, 1).unwrap(), vec![vec![NodeId(1)]; 3]);
    }
}
