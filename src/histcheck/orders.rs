//! Whether operations on one key fit into one order (Wing and Gong's search, with Lowe's memory of
//! what was tried): each takes effect between its invocation and its completion, and each read sees
//! what the last write left. Pure.

use std::collections::HashSet;

use super::event::MetaOp;

/// The value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Value {
    Nothing,
    /// Something that was written or read, by its fingerprint.
    Known(u64),
    /// What the operation with this index made: its value was not told.
    MadeBy(u32),
}

/// One operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    pub(super) op: MetaOp,
    /// What is written or was read; zero: nothing, or not known.
    pub(super) value: u64,
    /// When it was asked for; it may have effect only then.
    pub(super) invoked: u64,
    /// When it was answered: it has had its effect.
    pub(super) completed: u64,
    /// How much earlier than asked for a read may look.
    pub(super) lag: u64,
    /// Where a read looked: reads there are in the order of their times.
    pub(super) via: u32,
    /// "It is so already."
    pub(super) already: bool,
    /// Nobody knows whether it has effect, now or later or at all.
    pub(super) open: bool,
}

/// Reads without a place.
pub(super) const NOWHERE: u32 = u32::MAX;

impl Operation {
    fn from(&self) -> u64 {
        self.invoked.saturating_sub(self.lag)
    }

    fn until(&self) -> u64 {
        if self.open { u64::MAX } else { self.completed }
    }

    /// The value after it, if it may come after `value`. `at`: its index.
    fn after(&self, value: Value, at: u32, made: &HashSet<u64>) -> Option<Value> {
        let own = if self.value == 0 { Value::MadeBy(at) } else { Value::Known(self.value) };
        match (self.op, value) {
            (MetaOp::Create, Value::Nothing) | (MetaOp::Set, _) => Some(own),
            (MetaOp::Create, _) | (MetaOp::Delete, Value::Nothing) => {
                (self.already && !self.open).then_some(value)
            }
            (MetaOp::Delete | MetaOp::Unset, _) => Some(Value::Nothing),
            (MetaOp::Read, Value::Nothing) => (self.value == 0).then_some(value),
            (MetaOp::Read, Value::Known(known)) => (self.value == known).then_some(value),
            // It tells what was made, unless that is another's.
            (MetaOp::Read, Value::MadeBy(_)) => {
                (self.value != 0 && !made.contains(&self.value)).then_some(Value::Known(self.value))
            }
        }
    }
}

/// What the search found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is an order.
    Fits,
    /// There is none; of these operations, by index, none can come next in the longest that there is.
    Stuck(Vec<usize>),
    /// It was given up.
    Unknown,
}

/// Places that are tried for one key, besides a few for each operation.
const TRIED_MAX: usize = 200_000;
const TRIED_EACH: usize = 4;

/// Where the search stands: what has had its effect, and what that left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    /// Of the answered ones all that lie in the words before it are done.
    first: usize,
    /// Bits of those from there on, up to the last that is done.
    done: Vec<u64>,
    /// Bits of the open ones.
    open: Vec<u64>,
    /// How many of the answered ones are done.
    answered: usize,
    value: Value,
}

fn set(bits: &mut Vec<u64>, at: usize) {
    if bits.len() <= at / 64 {
        bits.resize(at / 64 + 1, 0);
    }
    bits[at / 64] |= 1 << (at % 64);
}

fn is_set(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
}

/// The search for one key.
struct Search<'a> {
    /// Answered ones by the time from which they may have effect, then the open ones.
    ops: &'a [Operation],
    /// How many of them are answered.
    answered: usize,
    /// What was certainly made by operations that told it.
    made: HashSet<u64>,
}

/// Whether `ops` fit into one order, from a key of which nothing was known to be there. Sorts them.
pub(super) fn search(ops: &mut [Operation]) -> Answer {
    search_up_to(ops, TRIED_MAX + TRIED_EACH * ops.len())
}

fn search_up_to(ops: &mut [Operation], tried_max: usize) -> Answer {
    ops.sort_by_key(|o| (o.open, o.from(), o.until()));
    let writes = ops.iter().filter(|o| o.op == MetaOp::Create && o.value != 0);
    let made = writes.map(|o| o.value).collect();
    let search = Search { ops, answered: ops.partition_point(|o| !o.open), made };
    let mut tried: HashSet<Place> = HashSet::new();
    let mut deepest = (0, Vec::new());
    let start = Place { first: 0, done: vec![], open: vec![], answered: 0, value: Value::Nothing };
    let mut stack = vec![start];
    while let Some(mut place) = stack.pop() {
        search.read_all(&mut place);
        if place.answered == search.answered {
            return Answer::Fits;
        }
        if tried.contains(&place) {
            continue;
        }
        if tried.len() >= tried_max {
            return Answer::Unknown;
        }
        let next = search.next(&place);
        if place.answered >= deepest.0 {
            let waiting = next.iter().copied().filter(|at| *at < search.answered).collect();
            deepest = (place.answered, waiting);
        }
        // The last that is pushed is tried first: of answered ones the earliest.
        for at in next.into_iter().rev() {
            if let Some(value) = search.after(&place, at) {
                let mut then = place.clone();
                search.add(&mut then, at, value);
                stack.push(then);
            }
        }
        tried.insert(place);
    }
    Answer::Stuck(deepest.1)
}

impl Search<'_> {
    fn has(&self, place: &Place, at: usize) -> bool {
        match at.checked_sub(self.answered) {
            Some(open) => is_set(&place.open, open),
            None => at < place.first * 64 || is_set(&place.done, at - place.first * 64),
        }
    }

    fn add(&self, place: &mut Place, at: usize, value: Value) {
        place.value = value;
        if let Some(open) = at.checked_sub(self.answered) {
            return set(&mut place.open, open);
        }
        set(&mut place.done, at - place.first * 64);
        place.answered += 1;
        let full = place.done.iter().take_while(|word| **word == u64::MAX).count();
        place.done.drain(..full);
        place.first += full;
    }

    /// The value after the operation, if it may come now.
    fn after(&self, place: &Place, at: usize) -> Option<Value> {
        self.ops[at].after(place.value, u32::try_from(at).ok()?, &self.made)
    }

    /// Takes all reads that see what is there: none is ever better taken later.
    fn read_all(&self, place: &mut Place) {
        loop {
            let reads = self.next(place).into_iter().filter(|at| {
                self.ops[*at].op == MetaOp::Read && self.after(place, *at) == Some(place.value)
            });
            let reads: Vec<_> = reads.collect();
            if reads.is_empty() {
                return;
            }
            reads.into_iter().for_each(|at| self.add(place, at, place.value));
        }
    }

    /// Which operations may have effect next: those that nothing must come before. Answered ones
    /// first.
    fn next(&self, place: &Place) -> Vec<usize> {
        let (mut least, mut near) = (u64::MAX, Vec::new());
        let (answered, open) = self.ops.split_at(self.answered);
        for (at, op) in answered.iter().enumerate().skip(place.first * 64) {
            if op.from() > least {
                break;
            }
            if !self.has(place, at) {
                least = least.min(op.until());
                near.push(at);
            }
        }
        let places = near.iter().map(|at| &self.ops[*at]).filter(|o| o.via != NOWHERE);
        let reads: Vec<_> = places.map(|o| (o.via, o.completed)).collect();
        near.retain(|at| {
            let op = &self.ops[*at];
            // Another read at the same place ended before this one began.
            let after = reads.iter().any(|(via, end)| *via == op.via && *end < op.invoked);
            op.from() <= least && !after
        });
        let open = open.iter().zip(self.answered..).filter(|(op, _)| op.from() <= least);
        near.extend(open.map(|(_, at)| at).filter(|at| !self.has(place, *at)));
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(op: MetaOp, value: u64, t: (u64, u64)) -> Operation {
        let (invoked, completed) = t;
        Operation {
            op,
            value,
            invoked,
            completed,
            lag: 0,
            via: NOWHERE,
            already: false,
            open: false,
        }
    }

    #[test]
    fn operations_at_one_time_come_in_any_order() {
        let all = [
            op(MetaOp::Set, 1, (0, 10)),
            op(MetaOp::Set, 2, (0, 10)),
            op(MetaOp::Read, 2, (11, 12)),
            op(MetaOp::Read, 2, (13, 14)),
        ];
        assert_eq!(search(&mut all.clone()), Answer::Fits);
        let mut back = [all[0], all[1], all[2], op(MetaOp::Read, 1, (13, 14))];
        assert!(matches!(search(&mut back), Answer::Stuck(stuck) if stuck == [3]));
    }

    #[test]
    fn an_open_operation_may_come_late_or_never() {
        let open = Operation { open: true, ..op(MetaOp::Set, 2, (0, 1)) };
        let read = |value, t| op(MetaOp::Read, value, (t, t));
        let first = op(MetaOp::Set, 1, (0, 5));
        for (values, fits) in [([1, 1, 1], true), ([1, 2, 2], true), ([2, 1, 1], false)] {
            let reads = values.iter().zip(10..).map(|(v, t)| read(*v, t));
            let mut ops: Vec<_> = [open, first].into_iter().chain(reads).collect();
            assert_eq!(search(&mut ops) == Answer::Fits, fits, "{values:?}");
        }
    }

    #[test]
    fn a_search_that_takes_too_long_is_given_up() {
        let mut ops: Vec<_> = (1..=12).map(|v| op(MetaOp::Set, v, (0, 10))).collect();
        ops.push(op(MetaOp::Read, 99, (11, 12)));
        assert_eq!(search_up_to(&mut ops, 1000), Answer::Unknown);
        assert!(matches!(search(&mut ops), Answer::Stuck(_)));
    }

    #[test]
    fn long_histories_of_one_at_a_time_are_quick() {
        let mut ops = Vec::new();
        for n in 0..40_000 {
            let t = (n * 10, n * 10 + 15);
            let lagging = op(MetaOp::Read, (n / 4 * 4).max(1), t);
            ops.push(match n % 4 {
                0 => op(MetaOp::Set, n.max(1), t),
                _ => Operation { lag: 20, via: 1, ..lagging },
            });
        }
        ops.push(Operation { open: true, ..op(MetaOp::Set, 7, (3, 4)) });
        assert_eq!(search(&mut ops), Answer::Fits);
    }
}
