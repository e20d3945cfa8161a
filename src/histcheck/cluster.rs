//! The cluster's own traces: leaders, marks, replicas, terms, voters, faults and recoveries.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Point, Verdict, Window,
    checker::Partition,
    event::{Leader, Live, Marks, Nemesis, Segment, Term, Voters},
};

/// A partition's registration at one partition epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    node: i32,
    epoch: i32,
    isr: BTreeSet<i32>,
    elr: BTreeSet<i32>,
    last: BTreeSet<i32>,
}

/// A node's marks in one leader epoch: log start, stable, high watermark.
type Stood = (i64, i64, i64);

/// What is known of one partition's replicas.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// By leader epoch: who led.
    led: BTreeMap<i32, i32>,
    /// By partition epoch.
    states: BTreeMap<i32, State>,
    marks: BTreeMap<(i32, i32), Stood>,
    /// By quiet time: node, start, end, hash.
    copies: BTreeMap<u32, Vec<(i32, i64, i64, String)>>,
    /// First offset of each leader epoch.
    epochs: BTreeMap<i32, i64>,
}

pub(super) fn leader(part: &mut Partition, seen: &Leader<'_>, verdict: &mut Verdict) {
    let window = part.window(None);
    let (topic, index) = (&part.topic, part.index);
    verdict.saw(Point::Leadership, 1);
    if seen.node >= 0 {
        let led = *part.cluster.led.entry(seen.epoch).or_insert(seen.node);
        if led != seen.node {
            verdict.violation(Point::Leadership, window.clone(), || {
                format!("{topic}-{index}: {led} and {} lead in epoch {}", seen.node, seen.epoch)
            });
        }
    }
    let Some(pe) = seen.pe else { return };
    let state = State {
        node: seen.node,
        epoch: seen.epoch,
        isr: seen.isr.iter().copied().collect(),
        elr: seen.elr.iter().copied().collect(),
        last: seen.last.iter().copied().collect(),
    };
    let known = part.cluster.states.entry(pe).or_insert_with(|| state.clone());
    if *known != state {
        verdict.violation(Point::Leadership, window, || {
            format!("{topic}-{index}: partition epoch {pe} is {known:?} and {state:?}")
        });
    }
}

pub(super) fn marks(part: &mut Partition, seen: &Marks<'_>, verdict: &mut Verdict) {
    verdict.saw(Point::RealTime, 1);
    let window = part.window(None);
    let (topic, index) = (&part.topic, part.index);
    if !(seen.start <= seen.lso && seen.lso <= seen.hw && seen.hw <= seen.leo) {
        verdict.violation(Point::RealTime, window.clone(), || {
            format!("{topic}-{index} on {}: marks out of order: {seen:?}", seen.node)
        });
    }
    let now = (seen.start, seen.lso, seen.hw);
    let key = (seen.node, seen.epoch);
    let before = part.cluster.marks.insert(key, now).unwrap_or(now);
    if now.0 < before.0 || now.1 < before.1 || now.2 < before.2 {
        verdict.violation(Point::RealTime, window, || {
            format!("{topic}-{index} on {}: marks went back from {before:?} to {now:?}", seen.node)
        });
    }
}

pub(super) fn segment(part: &mut Partition, seen: &Segment<'_>) {
    let copies = part.cluster.copies.entry(seen.quiet).or_default();
    copies.push((seen.node, seen.start, seen.end, seen.hash.clone().into_owned()));
    for (epoch, first) in &seen.epochs {
        let known = part.cluster.epochs.entry(*epoch).or_insert(*first);
        *known = (*known).min(*first);
    }
}

/// Compares the replicas of each quiet time; `replicas`: how many there must be.
pub(super) fn settle_copies(part: &Partition, replicas: Option<u32>, verdict: &mut Verdict) {
    for copies in part.cluster.copies.values() {
        verdict.saw(Point::Replicas, copies.len() as u64);
        let nodes: BTreeSet<_> = copies.iter().map(|c| c.0).collect();
        let (topic, index) = (&part.topic, part.index);
        let differ =
            copies.iter().any(|c| (c.1, c.2, &c.3) != (copies[0].1, copies[0].2, &copies[0].3));
        if differ || nodes.len() != copies.len() {
            let text = || format!("{topic}-{index}: replicas differ: {copies:?}");
            verdict.violation(Point::Replicas, part.window(None), text);
        }
        if replicas.is_some_and(|r| nodes.len() != r as usize) {
            let text = || format!("{topic}-{index}: replicas were read on {nodes:?} only");
            verdict.violation(Point::Replicas, part.window(None), text);
        }
    }
}

/// Leaders come from the in-sync or the eligible set of the state before. Where both are empty,
/// after an unclean stop of all, the last known leader is the best there is (KIP-966): whether it
/// had lost anything, the records tell.
pub(super) fn settle_leaders(part: &Partition, unclean: bool, verdict: &mut Verdict) {
    let (topic, index) = (&part.topic, part.index);
    let mut before: Option<(i32, &State)> = None;
    for (pe, state) in &part.cluster.states {
        let old = before.replace((*pe, state));
        let Some((old_pe, old)) = old.filter(|(old_pe, _)| old_pe + 1 == *pe) else { continue };
        verdict.saw(Point::InSync, 1);
        let bad = if state.epoch < old.epoch {
            Some("the leader epoch went back")
        } else if state.node >= 0
            && state.node != old.node
            && state.epoch == old.epoch
            && old.node >= 0
        {
            Some("the leader changed within its epoch")
        } else if state.node >= 0
            && state.epoch != old.epoch
            && !unclean
            && !old.isr.contains(&state.node)
            && !old.elr.contains(&state.node)
            && !(old.isr.is_empty() && old.elr.is_empty() && old.last.contains(&state.node))
        {
            Some("the leader was not in sync")
        } else {
            None
        };
        if let Some(what) = bad {
            verdict.violation(Point::InSync, part.window(None), || {
                format!("{topic}-{index}: {what}: {old_pe} {old:?}, then {pe} {state:?}")
            });
        }
    }
}

impl Life {
    /// Whether a record at `offset` may have been acknowledged: in its leader epoch the in-sync
    /// set was large enough at some time. `None` when that is not known.
    pub(super) fn enough(&self, offset: i64, min_isr: u32) -> Option<bool> {
        let epoch = *self.epochs.iter().rev().find(|(_, first)| **first <= offset)?.0;
        let mut states = self.states.values().filter(|s| s.epoch == epoch).peekable();
        states.peek()?;
        Some(states.any(|s| s.isr.len() >= min_isr as usize))
    }
}

/// What belongs to no partition.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    terms: BTreeMap<i64, i32>,
    voters: BTreeMap<u64, BTreeSet<String>>,
    /// Since when readers may be behind, and the times when that was over.
    stale_since: Option<u64>,
    stale: Vec<(u64, u64)>,
    /// Since when there may be no leader, or a broker that hears nothing of the controller, and from
    /// when to when: from a fault until somebody found that all was well.
    blind_since: Option<u64>,
    blind: Vec<(u64, u64)>,
    /// When the cluster was last healed, and not yet found to be well.
    healed: Option<u64>,
    lives: Vec<(u64, u64, Vec<String>)>,
    unanswered: Vec<u64>,
}

impl Cluster {
    pub(super) fn term(&mut self, seen: &Term, verdict: &mut Verdict) {
        verdict.saw(Point::Leadership, 1);
        let led = *self.terms.entry(seen.term).or_insert(seen.node);
        if led != seen.node {
            verdict.violation(Point::Leadership, Window::default(), || {
                format!("{led} and {} lead the quorum in term {}", seen.node, seen.term)
            });
        }
    }

    pub(super) fn voters(&mut self, seen: &Voters<'_>) {
        let voters = seen.voters.iter().map(|v| v.clone().into_owned()).collect();
        self.voters.insert(seen.at, voters);
    }

    pub(super) fn nemesis(&mut self, seen: &Nemesis<'_>) {
        if seen.what == "heal" {
            if let Some(since) = self.stale_since.take() {
                self.stale.push((since, seen.t));
            }
            self.unanswered.extend(self.healed.replace(seen.t));
            return;
        }
        self.blind_since.get_or_insert(seen.t);
        if seen.stale && self.stale_since.is_none() {
            self.stale_since = Some(seen.t);
        }
    }

    pub(super) fn live(&mut self, seen: &Live<'_>) {
        self.healed = None;
        if let Some(since) = self.blind_since.take_if(|_| seen.left.is_empty()) {
            self.blind.push((since, seen.t));
        }
        let left = seen.left.iter().map(|l| l.clone().into_owned()).collect();
        self.lives.push((seen.t, seen.ms, left));
    }

    /// Whether a reader between these times may have been behind. `grace`: how long after a heal a
    /// deposed leader may not know it, in microseconds.
    pub(super) fn may_be_stale(&self, t: (u64, u64), grace: u64) -> bool {
        let open = self.stale_since.map(|since| (since, u64::MAX));
        let all = self.stale.iter().copied().chain(open);
        all.into_iter().any(|(from, to)| t.1 >= from && t.0 <= to.saturating_add(grace))
    }

    /// Since when a broker that answered between these times may have heard nothing of the
    /// controller, if so. `lag`: how far it may be behind in any case, in microseconds.
    pub(super) fn blind_from(&self, t: (u64, u64), lag: u64) -> Option<u64> {
        let open = self.blind_since.map(|since| (since, u64::MAX));
        let all = self.blind.iter().copied().chain(open);
        let near = all.filter(|(from, to)| t.1 >= *from && t.0 <= to.saturating_add(lag));
        near.map(|(from, _)| from).min()
    }

    /// Whether all was well between these times: then leaders stay.
    pub(super) fn is_calm(&self, t: (u64, u64)) -> bool {
        self.blind_from(t, 0).is_none()
    }

    pub(super) fn settle(&self, live_ms: u64, verdict: &mut Verdict) {
        for ((_, old), (at, new)) in self.voters.iter().zip(self.voters.iter().skip(1)) {
            verdict.saw(Point::Leadership, 1);
            if old.symmetric_difference(new).count() > 1 {
                verdict.violation(Point::Leadership, Window::default(), || {
                    format!("voters changed at {at} from {old:?} to {new:?}: more than one")
                });
            }
        }
        for (t, ms, left) in &self.lives {
            verdict.saw(Point::Liveness, 1);
            if *ms > live_ms || !left.is_empty() {
                let times = Some((t.saturating_sub(ms * 1000), *t));
                let window = Window { times, ..Window::default() };
                verdict.violation(Point::Liveness, window, || {
                    format!("{ms} ms after the last fault, with {left:?} still not well")
                });
            }
        }
        for t in self.unanswered.iter().chain(&self.healed) {
            let window = Window { times: Some((*t, *t)), ..Window::default() };
            let text = || format!("nobody looked whether the cluster came back after {t}");
            verdict.violation(Point::Liveness, window, text);
        }
    }
}
