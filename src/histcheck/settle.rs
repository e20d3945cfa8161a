//! What is judged once all lines are in: sends against what was read, in both directions.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::{
    Checker, HistoryError, Point, Verdict, Window,
    checker::{EndsSeen, FAILED, NO_TXN, Partition, Sent, UNKNOWN},
    cluster, compaction, groups, retention, txns,
};

/// Fingerprints are hashes already.
#[derive(Default)]
pub(super) struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |h, b| h.rotate_left(8) ^ u64::from(*b));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

pub(super) type ByValue = HashMap<u64, u32, BuildHasherDefault<AsIs>>;

/// Where a send was found first.
const NOWHERE: i64 = -1;

impl Checker {
    /// The verdict, once every line is in.
    ///
    /// # Errors
    /// The history contradicts itself.
    pub fn finish(mut self) -> Result<Verdict, HistoryError> {
        self.sends.sort_unstable_by_key(|s| (s.tp, s.completed));
        let mut by_value = ByValue::default();
        by_value.reserve(self.sends.len());
        for (at, sent) in self.sends.iter().enumerate() {
            let at = u32::try_from(at).map_err(|_| HistoryError::Names(self.sends.len()))?;
            if by_value.insert(sent.value, at).is_some() {
                let producer = self.names.name(sent.producer).to_owned();
                return Err(HistoryError::SentTwice { producer, n: sent.n });
            }
        }
        self.appeared(&by_value);
        let fates = txns::settle(&mut self, &by_value);
        let known = Known { by_value: &by_value, fates: &fates };
        let (mut from, count) = (0, self.partitions.len());
        for tp in 0..count {
            let sends = &self.sends[from..];
            let sends = &sends[..sends.partition_point(|s| s.tp as usize == tp)];
            from += sends.len();
            let part = &self.partitions[tp];
            let promise = self.topics.get(&part.topic).copied();
            if let Some(promise) = promise.filter(|p| p.compacted) {
                let (looked, found) = compaction::judge(&self, part, promise, &by_value);
                self.verdict.saw(Point::Compaction, looked);
                found.into_iter().for_each(|f| f.tell(&mut self.verdict, part));
            }
            let acked = sends.iter().filter(|s| s.offset >= 0).count() * part.scans.len();
            if acked > 0 {
                self.verdict.saw(Point::Lost, acked as u64);
            }
            kept(&self, part, sends, known)
                .into_iter()
                .for_each(|f| f.tell(&mut self.verdict, part));
            let late = behind(&self, tp as u32, part, sends);
            if !part.ends.is_empty() {
                self.verdict.saw(Point::RealTime, part.ends.len() as u64);
            }
            late.into_iter().for_each(|f| f.tell(&mut self.verdict, part));
            // Each replica is compacted in its own time.
            if !promise.is_some_and(|t| t.compacted) {
                cluster::settle_copies(part, promise.map(|t| t.replicas), &mut self.verdict);
            }
            cluster::settle_leaders(part, self.run.unclean, &mut self.verdict);
            let Some(min_isr) = promise.map(|t| t.min_isr) else { continue };
            for sent in sends.iter().filter(|s| s.offset >= 0) {
                let Some(enough) = part.cluster.enough(sent.offset, min_isr) else { continue };
                self.verdict.saw(Point::InSync, 1);
                if !enough {
                    let why = format!("acknowledged with fewer than {min_isr} in sync");
                    Found::of(Point::InSync, sent, why).tell(&mut self.verdict, part);
                }
            }
        }
        self.delivered(known);
        retention::settle(&mut self, &by_value);
        self.settle_shares();
        self.settle_metadata();
        groups::settle(&mut self, &fates);
        self.cluster.settle(self.run.live_ms, &mut self.verdict);
        self.verdict.run = self.replay();
        Ok(self.verdict)
    }

    /// Whether a record may have gone from the start of its log at some time.
    fn ever_gone(&self, known: Known<'_>, tp: u32, (offset, value): (i64, u64)) -> bool {
        let sent = known.by_value.get(&value).map(|at| &self.sends[*at as usize]);
        self.may_be_gone(tp, offset, sent, u64::MAX)
    }

    pub(super) fn compacts(&self, part: &Partition) -> bool {
        self.topics.get(&part.topic).is_some_and(|t| t.compacted)
    }

    fn replay(&self) -> String {
        let mut out = String::new();
        if !self.run.id.is_empty() {
            out = format!(", run {}", self.run.id);
        }
        if let Some(seed) = self.run.seed {
            out += &format!(", seed {seed}");
        }
        if let Some(replay) = &self.run.replay {
            out += &format!(", again with: {replay}");
        }
        out
    }

    /// Every value that was seen: sent, to this partition, not failed, once, in order.
    fn appeared(&mut self, by_value: &ByValue) {
        let mut first = vec![NOWHERE; self.sends.len()];
        let mut seen = 0;
        for (tp, part) in self.partitions.iter().enumerate() {
            let mut newest: HashMap<u32, (u64, i64)> = HashMap::new();
            for (offset, value) in part.values.iter() {
                seen += 1;
                let Some(at) = by_value.get(&value).map(|at| *at as usize) else {
                    let found = Found::at(Point::Phantom, offset, value, "was never sent".into());
                    found.tell(&mut self.verdict, part);
                    continue;
                };
                let sent = &self.sends[at];
                let who = format!("{}/{}", self.names.name(sent.producer), sent.n);
                for (point, why) in strange(sent, tp, offset, first[at], self.run.idempotent) {
                    let found = Found::at(point, offset, value, format!("{who} {why}"));
                    found.tell(&mut self.verdict, part);
                }
                first[at] = offset;
                let before = newest.insert(sent.producer, (sent.n, offset));
                if let Some((n, o)) = before.filter(|b| b.0 > sent.n && self.run.idempotent) {
                    let why = format!("{who} comes after {n}, which is at {o}");
                    let mut found = Found::at(Point::Order, offset, value, why);
                    found.from = o;
                    found.tell(&mut self.verdict, part);
                }
            }
        }
        for point in [Point::Phantom, Point::FailedAppears, Point::Duplicate, Point::Order] {
            if seen > 0 {
                self.verdict.saw(point, seen);
            }
        }
    }

    /// No consumer was moved over a record, no commit stands past one that was not delivered.
    fn delivered(&mut self, known: Known<'_>) {
        for gap in &self.gaps {
            let part = &self.partitions[gap.tp as usize];
            let mut over = part.values.range(gap.from, gap.to);
            let due = |v: &(i64, u64)| {
                known.must_show(self, v.1, gap.committed) && !self.ever_gone(known, gap.tp, *v)
            };
            let Some((offset, value)) = over.find(due).filter(|_| !self.compacts(part)) else {
                continue;
            };
            let who = self.names.name(gap.consumer);
            let why = format!("was not given to {who}, which went from {} to {}", gap.from, gap.to);
            Found::at(Point::Delivery, offset, value, why).tell(&mut self.verdict, part);
        }
        for ((group, tp), delivered) in &self.groups {
            let part = &self.partitions[*tp as usize];
            let from = delivered.first.unwrap_or(0);
            let name = self.names.name(*group);
            if self.compacts(part) {
                continue;
            }
            let skipped = part.values.range(from, delivered.commit).filter(|(o, v)| {
                !delivered.seen.has(*o)
                    && known.must_show(self, *v, delivered.committed)
                    && !self.ever_gone(known, *tp, (*o, *v))
            });
            let skipped: Vec<_> = skipped.collect();
            for (offset, value) in skipped {
                let why =
                    format!("was given to nobody in {name}, which is at {}", delivered.commit);
                Found::at(Point::Delivery, offset, value, why).tell(&mut self.verdict, part);
            }
        }
    }
}

/// What is known of values and transactions once all lines are in.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    by_value: &'a ByValue,
    fates: &'a [txns::Fate],
}

impl Known<'_> {
    /// Whether a reader must be given the record `value`: one that reads committed data only is not
    /// given records of transactions that are not certainly committed.
    fn must_show(&self, checker: &Checker, value: u64, committed: bool) -> bool {
        if !committed {
            return true;
        }
        let sent = self.by_value.get(&value).map(|at| &checker.sends[*at as usize]);
        sent.is_none_or(|s| self.stands(s))
    }

    /// Whether no transaction stands between the record and a reader of committed data.
    fn stands(&self, sent: &Sent) -> bool {
        self.fates.get(sent.txn as usize).is_none_or(|f| *f == txns::Fate::Committed)
    }
}

/// What is wrong with finding `sent` at `offset` of `tp`.
fn strange(
    sent: &Sent,
    tp: usize,
    offset: i64,
    first: i64,
    idempotent: bool,
) -> impl Iterator<Item = (Point, String)> {
    let elsewhere = (sent.tp as usize != tp)
        .then(|| (Point::Phantom, "was sent to another partition".to_owned()));
    let failed = (sent.offset == FAILED).then(|| {
        (Point::FailedAppears, "is there although its producer was told that it failed".to_owned())
    });
    let twice = (first != NOWHERE && idempotent)
        .then(|| (Point::Duplicate, format!("is there, and at {first}")));
    let moved = (sent.offset > UNKNOWN && sent.offset != offset && first == NOWHERE)
        .then(|| (Point::Duplicate, format!("was acknowledged at {}", sent.offset)));
    elsewhere.into_iter().chain(failed).chain(twice).chain(moved)
}

/// A violation about one partition, before it is put in words.
pub(super) struct Found {
    point: Point,
    from: i64,
    to: i64,
    value: Option<u64>,
    times: Option<(u64, u64)>,
    why: String,
}

impl Found {
    pub(super) fn at(point: Point, offset: i64, value: u64, why: String) -> Self {
        Self { point, from: offset, to: offset, value: Some(value), times: None, why }
    }

    pub(super) fn of(point: Point, sent: &Sent, why: String) -> Self {
        let times = Some((sent.invoked, sent.completed));
        Self { times, ..Self::at(point, sent.offset, sent.value, why) }
    }

    pub(super) fn offset(&self) -> i64 {
        self.to
    }

    pub(super) fn during(&mut self, t: (u64, u64)) {
        self.times = Some(t);
    }

    pub(super) fn tell(self, verdict: &mut Verdict, part: &Partition) {
        let window = Window {
            values: self.value.into_iter().collect(),
            times: self.times,
            ..part.window(Some((self.from, self.to)))
        };
        let (topic, index, at) = (&part.topic, part.index, self.to);
        verdict.violation(self.point, window, || format!("{topic}-{index}@{at} {}", self.why));
    }
}

/// Every acknowledged record is in every final scan.
fn kept(checker: &Checker, part: &Partition, sends: &[Sent], known: Known<'_>) -> Vec<Found> {
    let mut out = Vec::new();
    let scanned = checker.partitions.iter().any(|p| !p.scans.is_empty());
    let who = |s: &Sent| format!("{}/{}", checker.names.name(s.producer), s.n);
    if scanned && part.scans.values().all(|s| s.done.is_none()) {
        let acked = sends.iter().find(|s| s.offset >= 0);
        let why = "was acknowledged, and no scan read its partition to the end".to_owned();
        out.extend(acked.map(|s| Found::of(Point::Lost, s, why)));
    }
    for (id, scan) in &part.scans {
        let name = checker.names.name(*id);
        let Some((start, end)) = scan.done else {
            let why = format!("scan {name} was not completed");
            out.push(Found::at(Point::Lost, 0, 0, why));
            continue;
        };
        // What compaction must keep is another point.
        let all = !checker.compacts(part);
        let due = |s: &&Sent| s.offset >= 0 && all && (!scan.committed || known.stands(s));
        for sent in sends.iter().filter(due) {
            let until = scan.t.map_or(u64::MAX, |t| t.1);
            let gone =
                sent.offset < start && checker.may_be_gone(sent.tp, sent.offset, Some(sent), until);
            if !gone && !scan.seen.has(sent.offset) {
                let why = format!(
                    "{} was acknowledged and is not in scan {name}, from {start} to {end}",
                    who(sent)
                );
                let torn = scan.committed && sent.txn != NO_TXN;
                let point = if torn { Point::Transactions } else { Point::Lost };
                out.push(Found::of(point, sent, why));
            }
        }
        let inside = part.values.range(start, end).filter(|(o, v)| {
            !scan.seen.has(*o) && all && known.must_show(checker, *v, scan.committed)
        });
        for (offset, value) in inside {
            let why = format!("was read before and is not in scan {name}");
            out.push(Found::at(Point::Lost, offset, value, why));
        }
    }
    out
}

/// Answers of ListOffsets that are behind what was seen before they were asked for.
fn behind(checker: &Checker, tp: u32, part: &Partition, sends: &[Sent]) -> Vec<Found> {
    if part.ends.is_empty() {
        return Vec::new();
    }
    let acks = sends.iter().filter(|s| s.offset >= 0).map(|s| (s.completed, s.offset + 1));
    let told = part.ends.iter().map(|e| (e.t.1, e.end));
    let ends = highest(acks.chain(told).chain(part.polled.iter().copied()).collect());
    // A leader may die that alone knew of a start which nobody answered for: `retention` judges
    // those that were.
    let starts = part.ends.iter().filter(|_| !checker.shrinks(tp));
    let starts = highest(starts.map(|e| (e.t.1, e.start)).collect());
    let grace = checker.run.live_ms.saturating_mul(1000);
    let fresh = |e: &&EndsSeen| !checker.cluster.may_be_stale(e.t, grace);
    let mut out = Vec::new();
    for seen in part.ends.iter().filter(fresh) {
        for (what, known, is) in [("end", &ends, seen.end), ("start", &starts, seen.start)] {
            let before = known.partition_point(|(t, _)| *t < seen.t.0);
            let Some((t, was)) = before.checked_sub(1).map(|at| known[at]) else { continue };
            if was > is {
                let why = format!("is the {what} after it was {was}");
                let mut found = Found::at(Point::RealTime, is, 0, why);
                (found.from, found.to) = (is, was);
                found.times = Some((t, seen.t.1));
                out.push(found);
            }
        }
    }
    out
}

/// By time: the highest value until then.
fn highest(mut seen: Vec<(u64, i64)>) -> Vec<(u64, i64)> {
    seen.sort_unstable();
    let mut most = i64::MIN;
    for (_, value) in &mut seen {
        most = most.max(*value);
        *value = most;
    }
    seen
}
