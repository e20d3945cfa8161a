//! Where logs start: DeleteRecords and retention take nothing early, and what they took is served to
//! nobody who asks later.

use std::collections::BTreeMap;

use super::{
    Checker, HistoryError, Point,
    checker::{Partition, Sent, in_order, not_negative},
    event::{DeleteRecords, Nemesis, Poll},
    settle::{ByValue, Found},
};

/// A DeleteRecords that was not certainly refused.
#[derive(Debug, Clone, Copy)]
struct Cut {
    t: (u64, u64),
    /// What lies below may go from the moment it was asked for.
    bound: i64,
    /// The log start that was answered.
    told: Option<i64>,
}

/// A read that says where a log starts, or that gave out `offset`.
#[derive(Debug, Clone, Copy)]
struct Saw {
    t: (u64, u64),
    offset: i64,
}

/// What took records away, and who read what and when.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    /// By partition.
    cuts: BTreeMap<u32, Vec<Cut>>,
    /// By partition: the lowest offset of a read that was asked of the broker then.
    reads: BTreeMap<u32, Vec<Saw>>,
    /// From when to when nodes may have forgotten where logs start.
    forgot: Vec<(u64, u64)>,
}

impl Cuts {
    pub(super) fn nemesis(&mut self, seen: &Nemesis<'_>) {
        if seen.forgets {
            self.forgot.push((seen.t, u64::MAX));
        }
        if seen.what == "heal" {
            self.forgot.iter_mut().for_each(|(_, to)| *to = seen.t.min(*to));
        }
    }

    /// What may be gone at `t`, because somebody asked for it: all below.
    fn asked(&self, tp: u32, t: u64) -> i64 {
        let cuts = self.cuts.get(&tp).map_or(&[][..], Vec::as_slice);
        cuts.iter().filter(|c| c.t.0 <= t).map(|c| c.bound).max().unwrap_or(0)
    }

    /// What was certainly gone when a read began that ended at `t.1`: an answer before, by nodes
    /// that cannot have forgotten it.
    fn gone(&self, tp: u32, t: (u64, u64)) -> Option<(u64, i64)> {
        let forgot = self.forgot.iter().filter(|(from, _)| *from <= t.1).map(|(_, to)| *to).max();
        let cuts = self.cuts.get(&tp).map_or(&[][..], Vec::as_slice);
        let certain = cuts.iter().filter(|c| c.t.1 < t.0 && forgot.is_none_or(|f| f < c.t.0));
        certain.filter_map(|c| c.told.map(|told| (c.t.1, told))).max_by_key(|(_, told)| *told)
    }
}

impl Checker {
    pub(super) fn delete_records(&mut self, cut: &DeleteRecords<'_>) -> Result<(), HistoryError> {
        let tp = self.tp(&cut.tp)?;
        let t = in_order("delete_records.t", cut.t)?;
        let told = cut.ok.map(|ok| not_negative("delete_records.ok", ok)).transpose()?;
        let count = [cut.ok.is_some(), cut.fail.is_some(), cut.info.is_some()];
        if count.iter().filter(|c| **c).count() > 1 {
            let rule = "at most one of ok, fail, info";
            let value = cut.before.to_string();
            return Err(HistoryError::Field { field: "delete_records", value, rule });
        }
        if cut.fail.is_some() {
            return Ok(());
        }
        let bound = match (cut.before, told) {
            (-1, Some(told)) => told,
            (-1, None) => i64::MAX,
            (before, _) => not_negative("delete_records.before", before)?,
        };
        let done = Cut { t, bound, told };
        self.cuts.cuts.entry(tp).or_default().push(done);
        Ok(())
    }

    /// Notes what a poll was given, if it was asked of the broker then.
    pub(super) fn direct(&mut self, tp: u32, poll: &Poll<'_>) {
        let lowest = poll.r.iter().map(|(offset, _)| *offset).min();
        if let Some(offset) = lowest.filter(|_| poll.direct) {
            self.cuts.reads.entry(tp).or_default().push(Saw { t: poll.t, offset });
        }
    }

    /// Whether something may take records of the partition away.
    pub(super) fn shrinks(&self, tp: u32) -> bool {
        let part = self.partitions.get(tp as usize);
        let aged = part.and_then(|p| self.topics.get(&p.topic)).and_then(|t| t.retention_ms);
        self.run.retention || self.cuts.cuts.contains_key(&tp) || aged.is_some()
    }

    /// Whether the record at `offset` may be gone from the start of its log at `t`. `sent`: what is
    /// known of it.
    pub(super) fn may_be_gone(&self, tp: u32, offset: i64, sent: Option<&Sent>, t: u64) -> bool {
        if self.run.retention || offset < self.cuts.asked(tp, t) {
            return true;
        }
        let topic = self.partitions.get(tp as usize).and_then(|p| self.topics.get(&p.topic));
        let Some(kept_ms) = topic.and_then(|t| t.retention_ms) else { return false };
        // A record is no older than the time at which it was handed to its producer.
        sent.is_none_or(|s| t.saturating_sub(s.invoked) >= kept_ms.saturating_mul(1000))
    }
}

/// Judges where each log was said to start, and what was read.
pub(super) fn settle(checker: &mut Checker, by_value: &ByValue) {
    let mut found = Vec::new();
    let mut looked = 0;
    for (tp, part) in (0_u32..).zip(&checker.partitions) {
        let mut starts: Vec<_> =
            part.ends.iter().map(|e| Saw { t: e.t, offset: e.start }).collect();
        let scans = part.scans.values().filter_map(|s| {
            s.done.map(|(start, _)| Saw { t: s.t.unwrap_or((0, u64::MAX)), offset: start })
        });
        starts.extend(scans);
        let reads = checker.cuts.reads.get(&tp).map_or(&[][..], Vec::as_slice);
        if checker.shrinks(tp) {
            looked += starts.len() + reads.len();
        }
        let late = starts.iter().chain(reads).filter_map(|saw| late(checker, tp, saw));
        found.extend(late.map(|f| (tp, f)));
        found.extend(early(checker, tp, part, &starts, by_value).map(|f| (tp, f)));
    }
    if looked > 0 {
        checker.verdict.saw(Point::Retention, looked as u64);
    }
    for (tp, f) in found {
        f.tell(&mut checker.verdict, &checker.partitions[tp as usize]);
    }
}

/// A log that starts, or a read that was given a record, below what was gone before.
fn late(checker: &Checker, tp: u32, saw: &Saw) -> Option<Found> {
    let grace = checker.run.live_ms.saturating_mul(1000);
    let (t, start) = checker.cuts.gone(tp, saw.t)?;
    if saw.offset >= start || checker.cluster.may_be_stale(saw.t, grace) {
        return None;
    }
    let why = format!("was served at {:?}, and at {t} the log started at {start}", saw.t);
    let mut found = Found::at(Point::Retention, saw.offset, 0, why);
    found.during((t, saw.t.1));
    Some(found)
}

/// The first record that was gone before it might.
fn early(
    checker: &Checker,
    tp: u32,
    part: &Partition,
    starts: &[Saw],
    by_value: &ByValue,
) -> Option<Found> {
    // The earliest time of each start says most.
    let mut first: BTreeMap<i64, u64> = BTreeMap::new();
    for saw in starts {
        let t = first.entry(saw.offset).or_insert(saw.t.1);
        *t = saw.t.1.min(*t);
    }
    first.into_iter().find_map(|(start, t)| {
        let from = checker.cuts.asked(tp, t);
        let gone = part.values.range(from, start).find(|(offset, value)| {
            let sent = by_value.get(value).map(|at| &checker.sends[*at as usize]);
            !checker.may_be_gone(tp, *offset, sent, t)
        });
        let (offset, value) = gone?;
        let why = format!("was gone by {t}, when the log started at {start}: nobody asked for it");
        let mut found = Found::at(Point::Retention, offset, value, why);
        found.during((0, t));
        Some(found)
    })
}
