//! Groups: one owner of a partition in an epoch, positions that never go back.

use std::collections::{BTreeMap, HashMap};

use super::{
    Checker, HistoryError, Point,
    checker::{in_order, not_negative},
    event::{Commit, Fetched, Owns},
    settle::Found,
    txns::Fate,
};

/// A commit of a group's position.
#[derive(Debug, Clone, Copy)]
struct Moved {
    /// When it was answered; never, where nobody knows whether it took place.
    completed: u64,
    offset: i64,
}

/// An answer of OffsetFetch: when it was asked for and given, and the offset.
type Told = ((u64, u64), i64);

/// What groups committed and were told, and who owned what.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// By group and partition.
    moved: BTreeMap<(u32, u32), Vec<Moved>>,
    /// The same.
    told: BTreeMap<(u32, u32), Vec<Told>>,
    /// By group, epoch and partition.
    owners: HashMap<(u32, i32, u32), u32>,
}

impl Checker {
    pub(super) fn commit(&mut self, commit: &Commit<'_>) -> Result<(), HistoryError> {
        let key = (self.names.id(&commit.group)?, self.tp(&commit.tp)?);
        let offset = not_negative("commit.offset", commit.offset)?;
        if commit.info.is_none() {
            let delivered = self.groups.entry(key).or_default();
            delivered.commit = delivered.commit.max(offset);
        }
        let t = commit.t.map(|t| in_order("commit.t", t)).transpose()?;
        let known = t.filter(|_| commit.info.is_none());
        let moved = Moved { completed: known.map_or(u64::MAX, |t| t.1), offset };
        self.positions_of_groups.moved.entry(key).or_default().push(moved);
        Ok(())
    }

    pub(super) fn fetched(&mut self, fetched: &Fetched<'_>) -> Result<(), HistoryError> {
        let key = (self.names.id(&fetched.group)?, self.tp(&fetched.tp)?);
        let t = in_order("fetched.t", fetched.t)?;
        self.positions_of_groups.told.entry(key).or_default().push((t, fetched.offset));
        Ok(())
    }

    pub(super) fn owns(&mut self, owns: &Owns<'_>) -> Result<(), HistoryError> {
        let (group, member) = (self.names.id(&owns.group)?, self.names.id(&owns.m)?);
        let tp = self.tp(&owns.tp)?;
        self.verdict.saw(Point::Groups, 1);
        let owner =
            self.positions_of_groups.owners.entry((group, owns.epoch, tp)).or_insert(member);
        if *owner != member {
            let part = &self.partitions[tp as usize];
            let (topic, index, epoch) = (&part.topic, part.index, owns.epoch);
            let (group, was) = (&owns.group, self.names.name(*owner));
            self.verdict.violation(Point::Groups, part.window(None), || {
                format!("{was} and {} own {topic}-{index} in epoch {epoch} of {group}", owns.m)
            });
        }
        Ok(())
    }
}

/// Answers of OffsetFetch against commits, those of transactions too.
pub(super) fn settle(checker: &mut Checker, fates: &[Fate]) {
    let mut positions = std::mem::take(&mut checker.positions_of_groups);
    for (txn, ended) in &checker.txns.ends {
        let fate = fates.get(*txn as usize).copied().unwrap_or(Fate::Unknown);
        // A commit whose answer did not come is done at some time: not before its records are seen.
        let completed = if fate == Fate::Committed { ended.completed() } else { u64::MAX };
        if fate != Fate::Aborted {
            for (group, tp, offset) in &ended.offsets {
                let moved = Moved { completed, offset: *offset };
                positions.moved.entry((*group, *tp)).or_default().push(moved);
            }
        }
    }
    for (key @ (group, tp), told) in &positions.told {
        let part = &checker.partitions[*tp as usize];
        let moved = positions.moved.get(key).map_or(&[][..], Vec::as_slice);
        let name = checker.names.name(*group);
        for (t, offset) in told {
            checker.verdict.saw(Point::Groups, 1);
            let before = moved.iter().filter(|m| m.completed < t.0).map(|m| m.offset).max();
            let why = if before.is_some_and(|b| b > *offset) {
                format!("is where {name} is, after it was at {}", before.unwrap_or_default())
            } else if *offset >= 0 && !moved.iter().any(|m| m.offset == *offset) {
                format!("is where {name} is, and nobody committed that")
            } else {
                continue;
            };
            let mut found = Found::at(Point::Groups, *offset, 0, why);
            found.during(*t);
            found.tell(&mut checker.verdict, part);
        }
    }
}
