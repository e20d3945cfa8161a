//! Work on many partitions, done a slice at a time: fencing a broker that holds 100,000 replicas
//! must keep neither other commands nor the quorum waiting. The first slice of a work goes with the
//! command that asked for it, the rest follows in the rounds after, between which other commands
//! are decided.
//!
//! Known to the active controller alone. The record that makes the work necessary (a broker is
//! fenced, a directory is lost) is written first, so that the next active controller finds what is
//! left over ([`Turn::stragglers`]).

use std::collections::BTreeMap;

use crate::base::{NodeId, Uuid};
use crate::metadata::{PartitionRegistration, Record};

use super::{
    elections::Effect,
    index::PartitionKey,
    partitions::{Election, Rules},
    turn::Turn,
};

/// Partitions looked at in one slice: a few hundred KiB of records.
pub(super) const SLICE: usize = 4096;

/// What is done to each partition of a work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// Its leader and ISR follow what happened to a broker; without a leader, it gets one if any
    /// replica may lead.
    Affect(Effect),
    /// Its preferred replica is elected.
    Prefer,
}

/// Partitions that wait for the same.
#[derive(Debug)]
struct Work {
    task: Task,
    /// The first is done last.
    keys: Vec<PartitionKey>,
}

/// All that is left to do, oldest first.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    works: Vec<Work>,
}

impl Backlog {
    pub(super) const fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Whether partitions wait for this broker to be taken out of them.
    pub(super) fn holds(&self, broker: NodeId) -> bool {
        self.works.iter().any(|w| matches!(w.task, Task::Affect(e) if e.takes(broker)))
    }

    fn drop_all(&mut self, task: Task) {
        self.works.retain(|w| w.task != task);
    }
}

impl Turn<'_> {
    /// Does the first slice of a work now; the rest joins the backlog.
    pub(super) fn begin(&mut self, task: Task, mut keys: Vec<PartitionKey>) {
        keys.reverse();
        let mut work = Work { task, keys };
        self.slice(&mut work);
        if !work.keys.is_empty() {
            self.backlog.works.push(work);
        }
    }

    /// As [`Turn::begin`], in place of what is left of such a work.
    pub(super) fn begin_anew(&mut self, task: Task, keys: Vec<PartitionKey>) {
        self.backlog.drop_all(task);
        self.begin(task, keys);
    }

    /// Does a slice of the oldest work.
    pub(super) fn go_on(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let mut work = self.backlog.works.remove(0);
        self.slice(&mut work);
        if !work.keys.is_empty() {
            self.backlog.works.insert(0, work);
        }
    }

    fn slice(&mut self, work: &mut Work) {
        let rest = work.keys.len().saturating_sub(SLICE);
        // Neighbours are of one topic, and no rule changes within a slice.
        let mut known: Option<(Uuid, Rules)> = None;
        for (id, number) in work.keys.drain(rest..).rev() {
            let Some(topic) = self.image().topics().by_id(id) else { continue };
            let (election, effect) = match work.task {
                Task::Affect(effect) => (None, effect),
                Task::Prefer => (Some(Election::Preferred), Effect::default()),
            };
            let rules = match known {
                Some((of, rules)) if of == id => rules,
                _ => {
                    let election = election.unwrap_or_else(|| self.usual_election(&topic.name));
                    self.rules(topic, election)
                }
            };
            known = Some((id, rules));
            if let Some(change) = self.changed(topic, number, rules, effect) {
                self.draft.push(Record::PartitionChange(change));
            }
        }
    }

    /// What an earlier active controller had begun and not ended: members of an ISR that may not be
    /// in one, and partitions without a leader that could have one.
    pub(super) fn stragglers(&mut self) {
        let image = self.draft.image();
        let elr = image.elr_enabled();
        let brokers: BTreeMap<NodeId, _> = image.brokers().iter().map(|b| (b.id, b)).collect();
        let fits = |p: &PartitionRegistration, n: NodeId| {
            let b = brokers.get(&n).filter(|b| b.is_active());
            b.is_some_and(|b| p.directory(n).is_some_and(|dir| b.has_online_dir(dir)))
        };
        let mut left: BTreeMap<NodeId, Vec<PartitionKey>> = BTreeMap::new();
        for topic in image.topics().iter() {
            for (number, p) in topic.iter() {
                // Without eligible replicas the last member stays, although it is gone.
                if !elr && p.leader.is_none() && p.isr.len() == 1 {
                    continue;
                }
                for n in p.isr.iter().filter(|n| !fits(p, **n)) {
                    left.entry(*n).or_default().push((topic.id, number));
                }
            }
        }
        let leaderless = self.index.leaderless().iter().copied().collect();
        for (broker, keys) in left {
            self.defer(Task::Affect(Effect::removes(broker)), keys);
        }
        self.defer(Task::Affect(Effect::default()), leaderless);
    }

    fn defer(&mut self, task: Task, mut keys: Vec<PartitionKey>) {
        if !keys.is_empty() {
            keys.reverse();
            self.backlog.works.push(Work { task, keys });
        }
    }
}
