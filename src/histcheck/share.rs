//! Share groups (KIP-932): what the members were handed out and said, and what is certainly wrong with
//! it. A lock may end at any time that a fault or its own time allows, so a record that two members
//! had is wrong only where an answer proves that the first had it still.

use std::collections::BTreeMap;

use super::{
    Checker, HistoryError, Point, Window,
    checker::{in_order, not_negative},
    event::{AckKind, Acked, Acquired, Drained, Left, Share, Unheard},
};

/// Kafka's `group.share.delivery.count.limit`.
const LIMIT: u32 = 5;

/// Records that a member was handed out.
#[derive(Debug, Clone, Copy)]
struct Got {
    first: i64,
    last: i64,
    t: (u64, u64),
    lock_us: Option<u64>,
    member: u32,
    count: u32,
}

/// What a member said of records, unless it was certainly refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Said {
    first: i64,
    last: i64,
    t: (u64, u64),
    member: u32,
    kind: AckKind,
    /// It was answered that it counts.
    counts: bool,
}

impl Said {
    /// Nobody is handed the record out again.
    fn is_final(self) -> bool {
        matches!(self.kind, AckKind::Gap | AckKind::Accept | AckKind::Reject)
    }
}

/// A member, and from when to when it may have been handed out records.
type Unknown = (u32, (u64, u64));

/// How many of these there may have been between these times.
fn between(unheard: &[Unknown], from: u64, to: u64) -> u32 {
    let count = unheard.iter().filter(|(_, t)| t.0 <= to && t.1 >= from).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// What a group did with one partition.
#[derive(Debug, Default)]
struct History {
    got: Vec<Got>,
    said: Vec<Said>,
    /// Members that asked and heard nothing, and from when to when they may have been handed out
    /// records.
    unheard: Vec<Unknown>,
    drained: Vec<(i64, i64)>,
}

/// All share groups.
#[derive(Debug, Default)]
pub(super) struct Shares {
    limits: BTreeMap<u32, u32>,
    /// By group and partition.
    parts: BTreeMap<(u32, u32), History>,
    /// By group and member: when it may have lost all it had.
    left: BTreeMap<(u32, u32), Vec<u64>>,
}

fn range(field: &'static str, first: i64, last: i64) -> Result<(i64, i64), HistoryError> {
    let (first, last) = (not_negative(field, first)?, not_negative(field, last)?);
    if first <= last {
        return Ok((first, last));
    }
    let rule = "the last is no sooner than the first";
    Err(HistoryError::Field { field, value: format!("{first} to {last}"), rule })
}

impl Checker {
    fn share_history(
        &mut self,
        group: &str,
        tp: &super::event::Tp<'_>,
    ) -> Result<&mut History, HistoryError> {
        let key = (self.names.id(group)?, self.tp(tp)?);
        Ok(self.shares.parts.entry(key).or_default())
    }

    pub(super) fn share(&mut self, share: &Share<'_>) -> Result<(), HistoryError> {
        let group = self.names.id(&share.group)?;
        self.shares.limits.insert(group, share.limit);
        Ok(())
    }

    pub(super) fn acquired(&mut self, seen: &Acquired<'_>) -> Result<(), HistoryError> {
        let (first, last) = range("acquired", seen.first, seen.last)?;
        let t = in_order("acquired.t", seen.t)?;
        let member = self.names.id(&seen.m)?;
        let tp = self.tp(&seen.tp)?;
        self.read(tp, &seen.r)?;
        let lock_us = seen.lock_ms.map(|ms| ms.saturating_mul(1000));
        let got = Got { first, last, t, lock_us, member, count: seen.n };
        self.share_history(&seen.group, &seen.tp)?.got.push(got);
        Ok(())
    }

    pub(super) fn unheard(&mut self, seen: &Unheard<'_>) -> Result<(), HistoryError> {
        let member = self.names.id(&seen.m)?;
        let t = in_order("unheard.t", seen.t)?;
        self.share_history(&seen.group, &seen.tp)?.unheard.push((member, t));
        Ok(())
    }

    pub(super) fn acked(&mut self, seen: &Acked<'_>) -> Result<(), HistoryError> {
        let (first, last) = range("acked", seen.first, seen.last)?;
        let t = in_order("acked.t", seen.t)?;
        let member = self.names.id(&seen.m)?;
        let history = self.share_history(&seen.group, &seen.tp)?;
        if seen.fail.is_none() {
            let counts = seen.info.is_none();
            history.said.push(Said { first, last, t, member, kind: seen.kind, counts });
        }
        Ok(())
    }

    pub(super) fn left(&mut self, seen: &Left<'_>) -> Result<(), HistoryError> {
        let key = (self.names.id(&seen.group)?, self.names.id(&seen.m)?);
        self.shares.left.entry(key).or_default().push(seen.t);
        Ok(())
    }

    pub(super) fn drained(&mut self, seen: &Drained<'_>) -> Result<(), HistoryError> {
        let from = not_negative("drained.from", seen.from)?;
        let to = not_negative("drained.to", seen.to)?;
        self.share_history(&seen.group, &seen.tp)?.drained.push((from, to));
        Ok(())
    }

    /// Judges all share groups.
    pub(super) fn settle_shares(&mut self) {
        let parts = std::mem::take(&mut self.shares.parts);
        for ((group, tp), history) in parts {
            let looked = history.got.len() + history.said.len();
            if looked > 0 {
                self.verdict.saw(Point::Share, looked as u64);
            }
            for wrong in sweep(&history, &Judge::of(self, (group, tp), &history)) {
                self.tell_share(group, tp, wrong);
            }
            for wrong in self.unfinished(group, tp, &history) {
                self.tell_share(group, tp, wrong);
            }
        }
    }

    fn tell_share(&mut self, group: u32, tp: u32, wrong: Wrong) {
        let part = &self.partitions[tp as usize];
        let name = self.names.name(group);
        let window = Window {
            times: wrong.times,
            group: Some(name.to_owned()),
            ..part.window(Some((wrong.at, wrong.at)))
        };
        let (topic, index, at, why) = (&part.topic, part.index, wrong.at, &wrong.why);
        self.verdict
            .violation(Point::Share, window, || format!("{topic}-{index}@{at} of {name}: {why}"));
    }

    /// Records that nobody finished, although nothing was handed out any more.
    fn unfinished(&self, group: u32, tp: u32, history: &History) -> Vec<Wrong> {
        let part = &self.partitions[tp as usize];
        let limit = self.shares.limits.get(&group).copied().unwrap_or(LIMIT);
        let lost = between(&history.unheard, 0, u64::MAX);
        let finals = history.said.iter().filter(|s| s.is_final());
        let mut ends: Vec<(i64, i64)> = finals.map(|s| (s.first, s.last)).collect();
        let used_up = history.got.iter().filter(|g| used_up(g, &history.unheard, u64::MAX, limit));
        ends.extend(used_up.map(|g| (g.first, g.last)));
        ends.sort_unstable();
        let mut out = Vec::new();
        for (from, to) in &history.drained {
            let (mut at, mut done_to) = (0, -1);
            for (offset, _) in part.values.range(*from, *to) {
                while let Some((_, last)) = ends.get(at).filter(|(first, _)| *first <= offset) {
                    done_to = done_to.max(*last);
                    at += 1;
                }
                if done_to < offset && !self.may_be_gone(tp, offset, None, u64::MAX) {
                    let given = history.got.iter().any(|g| (g.first..=g.last).contains(&offset));
                    if !given && lost >= limit {
                        continue;
                    }
                    let what = if given {
                        "was handed out, and not done with"
                    } else {
                        "was handed out to nobody"
                    };
                    let why = format!("{what}, and the group reads nothing more");
                    out.push(Wrong { at: offset, times: None, why });
                }
            }
        }
        out
    }
}

/// Whether records may have been handed out as often as they may by `t`: each delivery that was not
/// heard of and that may have come after this one counts.
fn used_up(got: &Got, unheard: &[Unknown], t: u64, limit: u32) -> bool {
    got.t.0 <= t && got.count.saturating_add(between(unheard, got.t.0, t)) >= limit
}

/// Something that is wrong with a record.
struct Wrong {
    at: i64,
    times: Option<(u64, u64)>,
    why: String,
}

/// What one record of one group is judged by.
struct Judge<'a> {
    checker: &'a Checker,
    group: u32,
    tp: u32,
    limit: u32,
    unheard: &'a [Unknown],
}

/// Runs of offsets of which the same is known, one after the other, and what is wrong with each.
fn sweep(history: &History, judge: &Judge<'_>) -> Vec<Wrong> {
    let mut edges: Vec<i64> = Vec::with_capacity(2 * (history.got.len() + history.said.len()));
    edges.extend(history.got.iter().flat_map(|g| [g.first, g.last + 1]));
    edges.extend(history.said.iter().flat_map(|s| [s.first, s.last + 1]));
    edges.sort_unstable();
    edges.dedup();
    let (mut got, mut said) = (history.got.clone(), history.said.clone());
    got.sort_by_key(|g| g.first);
    said.sort_by_key(|s| s.first);
    let (mut next_got, mut next_said) = (0, 0);
    let (mut here, mut spoken): (Vec<Got>, Vec<Said>) = (Vec::new(), Vec::new());
    let mut out = Vec::new();
    for at in edges {
        here.retain(|g| g.last >= at);
        spoken.retain(|s| s.last >= at);
        while let Some(g) = got.get(next_got).filter(|g| g.first <= at) {
            here.push(*g);
            next_got += 1;
        }
        while let Some(s) = said.get(next_said).filter(|s| s.first <= at) {
            spoken.push(*s);
            next_said += 1;
        }
        here.sort_by_key(|g| g.t);
        out.extend(judge.record(at, &here, &spoken).map(|(times, why)| Wrong { at, times, why }));
    }
    out
}

/// When and why a record is wrong.
type Why = (Option<(u64, u64)>, String);

impl<'a> Judge<'a> {
    fn of(checker: &'a Checker, (group, tp): (u32, u32), history: &'a History) -> Self {
        let limit = checker.shares.limits.get(&group).copied().unwrap_or(LIMIT);
        Self { checker, group, tp, limit, unheard: &history.unheard }
    }

    fn name(&self, member: u32) -> &str {
        self.checker.names.name(member)
    }

    /// The first thing that is wrong with one record. `got`: by time.
    fn record(&self, at: i64, got: &[Got], said: &[Said]) -> Option<Why> {
        // A leader that is deposed may lengthen locks, which nobody writes down, and does not count.
        let counted = said.iter().filter(|s| s.counts && s.kind != AckKind::Renew);
        let of_answers = counted.clone().find_map(|s| self.again(s, got));
        let of_answers = of_answers.or_else(|| {
            let mut proofs = counted.clone().filter(|s| !self.may_be_finished(at, s, got, said));
            proofs.find_map(|s| self.held(s, got))
        });
        of_answers
            .or_else(|| self.locked(got, said))
            .or_else(|| got.iter().find_map(|g| self.count(g, got)))
    }

    /// It was handed out again after somebody was done with it.
    fn again(&self, said: &Said, got: &[Got]) -> Option<Why> {
        let again = |g: &&Got| g.t.0 > said.t.1 && !self.may_be_stale(g);
        let later = got.iter().find(again).filter(|_| said.is_final())?;
        let (who, by) = (self.name(later.member), self.name(said.member));
        let why = format!(
            "was handed out to {who} at {:?}, after {by} was done with it at {:?} ({:?})",
            later.t, said.t, said.kind
        );
        Some((Some((said.t.0, later.t.1)), why))
    }

    /// Whether the record may lie below the group's start offset, as something else finished it: what
    /// is said of such records is answered as if it counted.
    fn may_be_finished(&self, at: i64, this: &Said, got: &[Got], said: &[Said]) -> bool {
        let by_another = said.iter().any(|s| s != this && s.is_final() && s.t.0 <= this.t.1);
        let used_up = |g: &Got| used_up(g, self.unheard, this.t.1, self.limit);
        let unheard = got.is_empty() && between(self.unheard, 0, this.t.1) >= self.limit;
        let gone = self.checker.may_be_gone(self.tp, at, None, this.t.1);
        by_another || unheard || got.iter().any(used_up) || gone
    }

    /// What a member said counts, so it had the record from when it was given it until then: nobody
    /// else was given it in between.
    fn held(&self, said: &Said, got: &[Got]) -> Option<Why> {
        let own = got.iter().filter(|g| g.member == said.member);
        // It may have been given it anew meanwhile.
        let since = own.clone().filter(|g| g.t.1 < said.t.0).map(|g| g.t.0).max().unwrap_or(0);
        let mut unheard = self.unheard.iter().filter(|(m, _)| *m == said.member);
        let unheard = unheard.any(|(_, t)| t.0 <= said.t.1 && t.1 >= since);
        if unheard || own.clone().any(|g| g.t.0 <= said.t.1 && g.t.1 >= said.t.0) {
            return None;
        }
        let by = self.name(said.member);
        let Some(given) = own.filter(|g| g.t.1 < said.t.0).max_by_key(|g| g.t.1) else {
            let why = format!("was never given to {by}, and what it said at {:?} counts", said.t);
            return Some((Some(said.t), why));
        };
        let until = if said.is_final() { said.t.1 } else { said.t.0 };
        let other = got.iter().find(|g| {
            let within = if said.is_final() { g.t.0 <= until } else { g.t.1 < until };
            g.member != said.member && g.t.0 > given.t.1 && within && !self.may_be_stale(g)
        })?;
        let why = format!(
            "was handed out to {} at {:?}, while {by} had it from {:?} to {:?} ({:?})",
            self.name(other.member),
            other.t,
            given.t,
            said.t,
            said.kind
        );
        Some((Some((given.t.0, said.t.1.max(other.t.1))), why))
    }

    /// It was handed out although a lock on it had not ended, nobody had spoken of it, and nothing
    /// happened to the leader or to the member.
    fn locked(&self, got: &[Got], said: &[Said]) -> Option<Why> {
        for pair in got.windows(2) {
            let [before, after] = pair else { continue };
            let same = before.member == after.member && before.t == after.t;
            if same {
                let why = format!("is twice in one answer at {:?}", after.t);
                return Some((Some(after.t), why));
            }
            let ends = before.lock_us.map_or(0, |us| before.t.0.saturating_add(us));
            let spoke = said.iter().any(|s| {
                let between = s.t.0 <= after.t.1 && s.t.1 >= before.t.0;
                s.member == before.member && s.kind != AckKind::Renew && between
            });
            if after.t.0 <= before.t.1 || after.t.1 >= ends || spoke || !self.calm(before, after) {
                continue;
            }
            let why = format!(
                "was handed out to {} at {:?}, while {} had it since {:?} and its lock went on",
                self.name(after.member),
                after.t,
                self.name(before.member),
                before.t
            );
            return Some((Some((before.t.0, after.t.1)), why));
        }
        None
    }

    /// Whether it may come from a leader that does not know that it is deposed.
    fn may_be_stale(&self, got: &Got) -> bool {
        let grace = self.checker.run.live_ms.saturating_mul(1000);
        self.checker.cluster.may_be_stale(got.t, grace)
    }

    /// Whether nothing happened between two deliveries that could have taken the record from the
    /// first member but the lock's end and what it said.
    fn calm(&self, before: &Got, after: &Got) -> bool {
        let left = self.checker.shares.left.get(&(self.group, before.member));
        let stayed = left.is_none_or(|l| !l.iter().any(|t| (before.t.0..=after.t.1).contains(t)));
        stayed && self.checker.cluster.is_calm((before.t.0, after.t.1))
    }

    /// Its delivery count is above the limit, or does not follow from the deliveries.
    fn count(&self, this: &Got, got: &[Got]) -> Option<Why> {
        let who = self.name(this.member);
        let told = format!("was handed out to {who} at {:?} for the {}. time", this.t, this.count);
        if this.count > self.limit {
            return Some((Some(this.t), format!("{told}, and {} is the limit", self.limit)));
        }
        let known = got.iter().filter(|g| g.t.0 <= this.t.1).count();
        let unheard = between(self.unheard, 0, this.t.1);
        if this.count == 0 || this.count as usize > known + unheard as usize {
            let why = format!("{told}: it was so {known} times, and unheard {unheard} at most");
            return Some((Some(this.t), why));
        }
        let before = got.iter().filter(|g| g.t.1 < this.t.0).max_by_key(|g| g.t.1)?;
        (this.count <= before.count && self.calm(before, this)).then(|| {
            let why = format!("{told}, after it was {} at {:?}", before.count, before.t);
            (Some((before.t.0, this.t.1)), why)
        })
    }
}
