//! Runs of records with one delivery state (`InFlightState`, `RecordState`). Where Kafka keeps a state
//! for each offset of a batch that is no longer all of one kind, this keeps one for each run, so
//! that neither memory nor time hang on how many offsets a batch spans.

use std::{collections::BTreeMap, sync::Arc};

use crate::base::{Mono, Mutant, Offset, mutant};

/// What became of a record (`RecordState.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecordState {
    /// To be handed out.
    Available,
    /// Locked for a member.
    Acquired,
    /// Accepted by a member: finished.
    Acknowledged,
    /// Rejected, handed out too often, or gone from the log: finished.
    Archived,
}

impl RecordState {
    /// The number that is kept.
    #[must_use]
    pub(super) const fn id(self) -> i8 {
        match self {
            Self::Available => 0,
            Self::Acquired => 1,
            Self::Acknowledged => 2,
            Self::Archived => 4,
        }
    }

    /// The state with this number, of those that are kept: none is kept as acquired.
    #[must_use]
    pub(super) const fn from_kept_id(id: i8) -> Option<Self> {
        match id {
            0 => Some(Self::Available),
            2 => Some(Self::Acknowledged),
            4 => Some(Self::Archived),
            _ => None,
        }
    }

    /// Whether nothing more happens to the record.
    #[must_use]
    pub(super) const fn is_finished(self) -> bool {
        matches!(self, Self::Acknowledged | Self::Archived)
    }
}

/// A change that counts once it is written: until then nobody gets the records, and if it fails they
/// are the member's again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pending {
    /// The write that carries it.
    pub(super) write: u64,
    /// Whose they are if the write fails.
    pub(super) member: Arc<str>,
    /// How often they may be handed out, as it was when the change was decided.
    pub(super) delivery_limit: i16,
}

/// Records in a row of which the same is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    /// Offset of the last record, inclusive.
    pub(super) last: Offset,
    pub(super) state: RecordState,
    /// How often they have been handed out.
    pub(super) deliveries: i16,
    /// Who has acquired them.
    pub(super) member: Option<Arc<str>>,
    /// When the lock ends; never, where there is none.
    pub(super) deadline: Mono,
    pub(super) pending: Option<Pending>,
}

impl Run {
    /// Records up to `last` that nobody has.
    pub(super) fn free(last: Offset, state: RecordState, deliveries: i16) -> Self {
        Self { last, state, deliveries, member: None, deadline: Mono::NEVER, pending: None }
    }

    /// Whether a member may get them.
    pub(super) fn is_free(&self) -> bool {
        let free = self.state == RecordState::Available
            || self.state == RecordState::Acquired && mutant(Mutant::ShareTwoAcquirers);
        free && self.pending.is_none()
    }

    /// Whether a member has them, and has said nothing of them.
    pub(super) fn is_held(&self) -> bool {
        self.state == RecordState::Acquired && self.pending.is_none()
    }

    /// Whether they are finished with for good.
    pub(super) fn is_done(&self) -> bool {
        self.state.is_finished() && self.pending.is_none()
    }

    /// They are finished with, whatever is under way.
    pub(super) fn archive(&mut self) {
        *self = Self::free(self.last, RecordState::Archived, self.deliveries);
    }

    /// Where they go that a member gives back: they are not handed out again if that was done often
    /// enough.
    pub(super) fn given_back(&self, delivery_limit: i16) -> RecordState {
        if self.deliveries >= delivery_limit {
            RecordState::Archived
        } else {
            RecordState::Available
        }
    }
}

/// Runs by their first offset; not overlapping.
#[derive(Debug, Default, Clone)]
pub(super) struct Runs(pub(super) BTreeMap<Offset, Run>);

impl Runs {
    /// Makes a run begin at `at`, if one reaches over it.
    pub(super) fn split(&mut self, at: Offset) {
        if let Some((_, run)) = self.0.range_mut(..at).next_back()
            && run.last >= at
        {
            let rest = run.clone();
            run.last = at - 1;
            self.0.insert(at, rest);
        }
    }

    /// The runs of the records from `first` to `last`, and of no others.
    pub(super) fn within(
        &mut self,
        first: Offset,
        last: Offset,
    ) -> impl Iterator<Item = (Offset, &mut Run)> {
        self.split(first);
        self.split(last.saturating_add(1));
        self.0.range_mut(first..=last.max(first)).map(|(at, run)| (*at, run))
    }

    /// Joins neighbours from `first` to `last` of which the same is known, unless the latter begins
    /// at one of `bounds`.
    pub(super) fn join(&mut self, first: Offset, last: Offset, bounds: &BTreeMap<Offset, Offset>) {
        let from = self.0.range(..first).next_back().map_or(first, |(at, _)| *at);
        let to = last.saturating_add(1);
        let mut gone = Vec::new();
        let mut before: Option<&mut Run> = None;
        for (at, run) in self.0.range_mut(from..=to) {
            match &mut before {
                Some(b) if b.last + 1 == *at && !bounds.contains_key(at) && same(b, run) => {
                    b.last = run.last;
                    gone.push(*at);
                }
                _ => before = Some(run),
            }
        }
        for at in gone {
            self.0.remove(&at);
        }
    }
}

fn same(a: &Run, b: &Run) -> bool {
    a.state == b.state
        && a.deliveries == b.deliveries
        && a.deadline == b.deadline
        && a.member == b.member
        && a.pending == b.pending
}
