//! How members acquire records (`SharePartition.acquire`). Pure.

use std::sync::Arc;

use super::{
    batches::LogBatch,
    partition::SharePartition,
    runs::{RecordState, Run},
    settings::ShareSettings,
};
use crate::base::{Mono, Offset};

/// Records that were handed out fewer times than this are handed out as many as asked for.
const THROTTLED_FROM_MIN: i16 = 2;

/// How far a member may get beyond the records it asked for (KIP-1206).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcquireMode {
    /// Up to the end of a batch.
    BatchOptimized,
    /// Not at all.
    RecordLimit,
}

impl AcquireMode {
    /// The mode with this number.
    #[must_use]
    pub const fn from_id(id: i8) -> Option<Self> {
        match id {
            0 => Some(Self::BatchOptimized),
            1 => Some(Self::RecordLimit),
            _ => None,
        }
    }
}

/// What a member wants.
#[derive(Debug, Clone, Copy)]
pub struct Acquire<'a> {
    /// Who.
    pub member: &'a Arc<str>,
    /// How exactly `max_records` counts.
    pub mode: AcquireMode,
    /// How many records an acquired batch should have.
    pub batch_size: i32,
    /// How many records it wants.
    pub max_records: i32,
    /// Where the log was read: what [`SharePartition::next_fetch_offset`] said.
    pub fetch_offset: Offset,
    /// What the log has there.
    pub batches: &'a [LogBatch],
    /// First and last offsets of batches among these that were aborted, and are not for members.
    pub aborted: &'a [(Offset, Offset)],
}

/// Records in a row that a member has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acquired {
    /// Offset of the first.
    pub first: Offset,
    /// Offset of the last, inclusive.
    pub last: Offset,
    /// How often they have been handed out.
    pub deliveries: i16,
}

impl Acquired {
    /// How many offsets there are.
    #[must_use]
    pub const fn count(&self) -> i64 {
        self.last - self.first + 1
    }
}

/// What lies at some offsets of a fetch.
#[derive(Debug, Clone, Copy)]
enum Piece {
    /// Records of a batch that was acquired before, and how many offsets that batch has.
    Known(Offset, Offset, i64),
    /// Records that an earlier leader handed out.
    Hole(Offset, Offset),
}

/// What one acquisition goes by.
#[derive(Clone, Copy)]
struct Terms<'a> {
    ask: Acquire<'a>,
    deadline: Mono,
    delivery_limit: i16,
}

impl Terms<'_> {
    fn exact(&self) -> bool {
        self.ask.mode == AcquireMode::RecordLimit
    }

    /// From so many deliveries on fewer records are handed out at once: half of the limit, rounded
    /// up.
    fn throttled_from(&self) -> i16 {
        (self.delivery_limit.saturating_add(1) / 2).max(THROTTLED_FROM_MIN)
    }

    /// Whether records that were handed out so often get their last chance, each alone, so that one
    /// bad record does not take others with it.
    fn is_last_chance(&self, deliveries: i16) -> bool {
        self.delivery_limit > 2 && deliveries == self.delivery_limit - 1
    }
}

impl SharePartition {
    /// Hands records out to a member, and locks them for it. Where `max_records` would end within a
    /// batch of the log, the whole batch is handed out, unless the mode forbids.
    pub fn acquire(
        &mut self,
        ask: Acquire<'_>,
        settings: &ShareSettings,
        now: Mono,
    ) -> Vec<Acquired> {
        let (Some(head), Some(tail)) = (ask.batches.first(), ask.batches.last()) else {
            return Vec::new();
        };
        let Some((mut room, last)) = self.room_for(&ask, tail.last, settings) else {
            return Vec::new();
        };
        self.log_is_empty(ask.fetch_offset, head.base);
        let terms = Terms {
            ask,
            deadline: now.after_ms(i64::from(settings.lock_duration_ms)),
            delivery_limit: settings.delivery_count_limit,
        };
        let first = head.base.max(self.start);
        let mut out: Vec<Acquired> = Vec::new();
        for piece in self.pieces(first, last) {
            if room <= 0 {
                break;
            }
            let before = out.len();
            match piece {
                Piece::Hole(first, last) => self.acquire_new(&terms, first, last, room, &mut out),
                Piece::Known(first, last, batch_len) => {
                    let throttled = self.most_deliveries(first, last) >= terms.throttled_from();
                    if throttled && !out.is_empty() {
                        room = 0;
                        break;
                    }
                    self.acquire_known(&terms, first, last, batch_len, room, &mut out);
                    if throttled && out.len() > before {
                        room = 0;
                        break;
                    }
                }
            }
            room -= out[before..].iter().map(Acquired::count).sum::<i64>();
        }
        let first = first.max(self.next);
        if room > 0 && first <= last {
            self.acquire_new(&terms, first, last, room, &mut out);
        }
        if !out.is_empty() {
            self.earliest = self.earliest.min(terms.deadline);
        }
        self.drop_aborted(ask.aborted, &mut out);
        self.advance();
        out
    }

    /// How many records may be acquired, and up to where: new ones only while there is room for
    /// locks, others in any case (`lastOffsetAndMaxRecordsToAcquire`).
    fn room_for(
        &self,
        ask: &Acquire<'_>,
        last: Offset,
        settings: &ShareSettings,
    ) -> Option<(i64, Offset)> {
        let wanted = i64::from(ask.max_records);
        if wanted <= 0 || last < self.start {
            return None;
        }
        let room = wanted.min(i64::from(settings.max_record_locks) - self.in_flight());
        if room > 0 {
            return Some((room, last));
        }
        let known = self.next - ask.fetch_offset;
        (known > 0).then(|| (wanted.min(known), last.min(self.next - 1)))
    }

    /// What is known of the offsets from `first` to `last`, in order.
    fn pieces(&self, first: Offset, last: Offset) -> Vec<Piece> {
        let within = |(from, to): (&Offset, &Offset)| {
            let (from, to, len) = (*from, *to, to - from + 1);
            (to >= first).then(|| (from.max(first), to.min(last), len))
        };
        let before = |map: &std::collections::BTreeMap<Offset, Offset>| {
            map.range(..=first).next_back().map_or(first, |(at, _)| *at)
        };
        let from = before(&self.batches);
        let known = self.batches.range(from..=last.max(from)).filter_map(within);
        let known = known.map(|(from, to, len)| (from, Piece::Known(from, to, len)));
        let from = before(&self.holes);
        let holes = self.holes.range(from..=last.max(from)).filter_map(within);
        let holes = holes.map(|(from, to, _)| (from, Piece::Hole(from, to)));
        let mut all: Vec<_> = known.chain(holes).filter(|(at, _)| *at <= last).collect();
        all.sort_by_key(|(at, _)| *at);
        all.into_iter().map(|(_, piece)| piece).collect()
    }

    /// How often the free record from `first` to `last` was handed out that was so most often.
    fn most_deliveries(&mut self, first: Offset, last: Offset) -> i16 {
        let free = self.runs.within(first, last).filter(|(_, run)| run.is_free());
        free.map(|(_, run)| run.deliveries).max().unwrap_or(0)
    }

    /// Records from `first` to `last`, of which nothing is known yet: in batches that end where those
    /// of the log do.
    fn acquire_new(
        &mut self,
        terms: &Terms<'_>,
        first: Offset,
        last: Offset,
        max: i64,
        out: &mut Vec<Acquired>,
    ) {
        let ask = &terms.ask;
        // Nobody gets what the log does not have.
        let Some(head) = ask.batches.iter().find(|b| b.last >= first) else { return };
        let (gap, first) = (first, first.max(head.base));
        if first > last {
            return;
        }
        let mut to = last;
        if max < last - first + 1 {
            let wanted = first + max - 1;
            let holder = ask.batches.iter().find(|b| b.base <= wanted && wanted <= b.last);
            to = holder.map_or(wanted, |b| b.last).min(last);
        }
        let size = i64::from(ask.batch_size.max(1));
        let mut from = first;
        if !terms.exact() && to - first + 1 > size {
            for batch in ask.batches.iter().take_while(|b| b.base <= to) {
                if batch.base - from >= size {
                    out.push(self.add_batch(terms, from, batch.base - 1, batch.base - 1));
                    from = batch.base;
                }
            }
        }
        let acquired_to = if terms.exact() { to.min(first + max - 1) } else { to };
        out.push(self.add_batch(terms, from, to, acquired_to));
        self.fill_holes(gap, to);
        self.next = self.next.max(to + 1);
        // Below the first record that is there, the log has none.
        if self.holes.range(..first).next().is_none() && self.runs.0.range(..first).next().is_none()
        {
            self.start = self.start.max(first);
        }
    }

    /// A batch from `first` to `last`, whose records up to `acquired_to` the member has.
    fn add_batch(
        &mut self,
        terms: &Terms<'_>,
        first: Offset,
        last: Offset,
        acquired_to: Offset,
    ) -> Acquired {
        self.batches.insert(first, last);
        let run = Run {
            state: RecordState::Acquired,
            member: Some(Arc::clone(terms.ask.member)),
            deadline: terms.deadline,
            ..Run::free(acquired_to, RecordState::Acquired, 1)
        };
        self.runs.0.insert(first, run);
        if acquired_to < last {
            let rest = Run::free(last, RecordState::Available, 0);
            self.runs.0.insert(acquired_to + 1, rest);
            self.maybe_free = true;
        }
        Acquired { first, last: acquired_to, deliveries: 1 }
    }

    /// Free records from `first` to `last`, of a batch of `batch_len` offsets that was acquired
    /// before (`acquireSubsetBatchRecords`). The more often they were handed out, the fewer are at
    /// once, and on their last chance each is alone.
    fn acquire_known(
        &mut self,
        terms: &Terms<'_>,
        first: Offset,
        last: Offset,
        batch_len: i64,
        max: i64,
        out: &mut Vec<Acquired>,
    ) {
        let mut left = if terms.exact() { max } else { i64::MAX };
        let (mut count, mut throttled) = (0, false);
        let mut at = first;
        while at <= last && left > 0 {
            let run = self.runs.within(at, last).find(|(_, run)| run.is_free());
            let Some((from, run)) = run else { break };
            let (to, deliveries) = (run.last.min(last), run.deliveries);
            let last_chance = terms.is_last_chance(deliveries);
            if last_chance && count > 0 {
                break;
            }
            if deliveries >= terms.throttled_from() && !throttled {
                throttled = true;
                let halvings = u32::from((deliveries - terms.throttled_from()).unsigned_abs()) + 1;
                let most = batch_len.checked_shr(halvings).unwrap_or(0).max(1);
                left = left.min(most - count);
            }
            if left <= 0 {
                break;
            }
            let wanted = if last_chance { 1 } else { left };
            let to = to.min(from.saturating_add(wanted - 1));
            for (_, run) in self.runs.within(from, to) {
                run.state = RecordState::Acquired;
                run.deliveries = run.deliveries.saturating_add(1);
                run.member = Some(Arc::clone(terms.ask.member));
                run.deadline = terms.deadline;
            }
            let new = Acquired { first: from, last: to, deliveries: deliveries.saturating_add(1) };
            match out.last_mut().filter(|_| count > 0) {
                Some(b) if b.last + 1 == from && b.deliveries == new.deliveries => b.last = to,
                _ => out.push(new),
            }
            (count, left) = (count + new.count(), left - new.count());
            at = to + 1;
            if last_chance {
                break;
            }
        }
        self.runs.join(first, last, &self.batches);
    }

    /// Takes aborted batches out of what the member got: nobody ever gets them.
    fn drop_aborted(&mut self, aborted: &[(Offset, Offset)], out: &mut Vec<Acquired>) {
        for &(first, last) in aborted {
            for (_, run) in self.runs.within(first, last) {
                if run.is_held() {
                    run.archive();
                }
            }
            let all = std::mem::take(out);
            for got in all {
                if got.last < first || got.first > last {
                    out.push(got);
                    continue;
                }
                if got.first < first {
                    out.push(Acquired { last: first - 1, ..got });
                }
                if got.last > last {
                    out.push(Acquired { first: last + 1, ..got });
                }
            }
        }
    }
}
