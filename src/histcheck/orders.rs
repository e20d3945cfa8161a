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

/// Orders that are tried for one key.
const TRIED_MAX: usize = 200_000;
/// Memory for those that were tried.
const TRIED_BYTES_MAX: usize = 64 << 20;

/// Where the search stands: what has had its effect, and what that left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    done: Vec<u64>,
    count: usize,
    value: Value,
}

impl Place {
    fn has(&self, at: usize) -> bool {
        self.done[at / 64] & (1 << (at % 64)) != 0
    }

    fn add(&mut self, at: usize, value: Value) {
        self.done[at / 64] |= 1 << (at % 64);
        self.count += 1;
        self.value = value;
    }
}

/// The search for one key.
struct Search<'a> {
    /// By the time from which they may have effect.
    ops: &'a [Operation],
    /// The indexes of those of which nobody knows.
    open: Vec<usize>,
    /// What was certainly made by operations that told it.
    made: HashSet<u64>,
}

/// Whether `ops` fit into one order, from a key of which nothing was known to be there. Sorts them.
pub(super) fn search(ops: &mut [Operation]) -> Answer {
    search_up_to(ops, TRIED_MAX)
}

fn search_up_to(ops: &mut [Operation], tried_max: usize) -> Answer {
    ops.sort_by_key(|o| (o.from(), o.until()));
    let writes = ops.iter().filter(|o| o.op == MetaOp::Create && o.value != 0);
    let made = writes.map(|o| o.value).collect();
    let open = (0..ops.len()).filter(|at| ops[*at].open).collect();
    let search = Search { ops, open, made };
    let words = ops.len().div_ceil(64);
    let tried_max = tried_max.min(TRIED_BYTES_MAX / (words * 8 + 64));
    let mut tried: HashSet<Place> = HashSet::new();
    let mut deepest = (0, Vec::new());
    let mut stack = vec![Place { done: vec![0; words], count: 0, value: Value::Nothing }];
    while let Some(mut place) = stack.pop() {
        search.read_all(&mut place);
        let next = search.next(&place);
        let answered = search.answered(&place);
        if answered + search.open.len() == ops.len() {
            return Answer::Fits;
        }
        if answered >= deepest.0 {
            let waiting = next.iter().copied().filter(|at| !ops[*at].open).collect();
            deepest = (answered, waiting);
        }
        if tried.contains(&place) {
            continue;
        }
        if tried.len() >= tried_max {
            return Answer::Unknown;
        }
        // The last that is pushed is tried first: of answered ones the earliest.
        for at in next.iter().rev() {
            let fits = ops[*at].after(place.value, *at as u32, &search.made);
            if let Some(value) = fits {
                let mut then = place.clone();
                then.add(*at, value);
                stack.push(then);
            }
        }
        tried.insert(place);
    }
    Answer::Stuck(deepest.1)
}

impl Search<'_> {
    fn answered(&self, place: &Place) -> usize {
        place.count - self.open.iter().filter(|at| place.has(**at)).count()
    }

    /// Takes all reads that see what is there: none is ever better taken later.
    fn read_all(&self, place: &mut Place) {
        loop {
            let next = self.next(place);
            let reads = next.into_iter().filter(|at| {
                let op = &self.ops[*at];
                let value = op.after(place.value, *at as u32, &self.made);
                op.op == MetaOp::Read && value == Some(place.value)
            });
            let reads: Vec<_> = reads.collect();
            if reads.is_empty() {
                return;
            }
            reads.into_iter().for_each(|at| place.add(at, place.value));
        }
    }

    /// Which operations may have effect next: those that nothing must come before. Answered ones
    /// first.
    fn next(&self, place: &Place) -> Vec<usize> {
        let (mut least, mut near) = (u64::MAX, Vec::new());
        let first = place.done.iter().position(|w| *w != u64::MAX).unwrap_or(0) * 64;
        for (at, op) in self.ops.iter().enumerate().skip(first) {
            if op.from() > least {
                break;
            }
            if !op.open && !place.has(at) {
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
        let open = self.open.iter().copied();
        near.extend(open.filter(|at| !place.has(*at) && self.ops[*at].from() <= least));
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
        for n in 0..20_000 {
            let t = (n * 10, n * 10 + 15);
            let lagging = op(MetaOp::Read, (n / 4 * 4).max(1), t);
            ops.push(match n % 4 {
                0 => op(MetaOp::Set, n.max(1), t),
                _ => Operation { lag: 20, via: 1, ..lagging },
            });
        }
        assert_eq!(search(&mut ops), Answer::Fits);
    }
}
