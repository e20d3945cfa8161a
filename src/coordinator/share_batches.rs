//! State batches of a share partition, laid over each other (`PersisterStateBatchCombiner.java`):
//! of each record the batch with the highest delivery count counts, among equals that with the
//! highest state. Pure.

use std::collections::BinaryHeap;

use super::share_persister::StateBatch;
use crate::base::Offset;

/// `before` and `new` as one list: in order, without overlaps, neighbours of one state joined, and
/// nothing below `start_offset`, unless that is -1. All batches must be sound.
#[must_use]
pub(super) fn combine(
    before: &[StateBatch],
    new: &[StateBatch],
    start_offset: Offset,
) -> Vec<StateBatch> {
    let mut all: Vec<StateBatch> = before
        .iter()
        .chain(new)
        .filter(|b| b.last >= start_offset)
        .map(|b| StateBatch { first: b.first.max(start_offset), ..*b })
        .collect();
    all.sort_unstable_by_key(|b| b.first);
    let mut waiting = all.into_iter().peekable();
    // What covers `at`, and some that end before it: strongest first.
    let mut open: BinaryHeap<(i16, i8, Offset)> = BinaryHeap::new();
    let mut out: Vec<StateBatch> = Vec::new();
    let mut at = Offset::MIN;
    loop {
        if open.is_empty() {
            match waiting.peek() {
                Some(next) => at = at.max(next.first),
                None => return out,
            }
        }
        while let Some(b) = waiting.next_if(|b| b.first <= at) {
            open.push((b.delivery_count, b.state, b.last));
        }
        let Some(&(delivery_count, state, last)) = open.peek() else { continue };
        if last < at {
            open.pop();
            continue;
        }
        let end = waiting.peek().map_or(last, |next| last.min(next.first - 1));
        push(&mut out, StateBatch { first: at, last: end, state, delivery_count });
        match end.checked_add(1) {
            Some(next) => at = next,
            None => return out,
        }
    }
}

fn push(out: &mut Vec<StateBatch>, batch: StateBatch) {
    match out.last_mut() {
        Some(last)
            if last.last + 1 == batch.first
                && (last.state, last.delivery_count) == (batch.state, batch.delivery_count) =>
        {
            last.last = batch.last;
        }
        _ => out.push(batch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::clock::Seeded;

    fn b(first: Offset, last: Offset, state: i8, delivery_count: i16) -> StateBatch {
        StateBatch { first, last, state, delivery_count }
    }

    #[test]
    fn the_stronger_batch_counts_and_neighbours_are_joined() {
        let cases = [
            // Equal state: joined, overlapping or not.
            (vec![b(1, 5, 0, 1)], vec![b(3, 9, 0, 1)], -1, vec![b(1, 9, 0, 1)]),
            (vec![b(1, 5, 0, 1)], vec![b(6, 9, 0, 1)], -1, vec![b(1, 9, 0, 1)]),
            (vec![b(1, 5, 0, 1)], vec![b(7, 9, 0, 1)], -1, vec![b(1, 5, 0, 1), b(7, 9, 0, 1)]),
            // A higher delivery count wins, wherever it comes from.
            (
                vec![b(1, 9, 0, 1)],
                vec![b(3, 5, 2, 2)],
                -1,
                vec![b(1, 2, 0, 1), b(3, 5, 2, 2), b(6, 9, 0, 1)],
            ),
            (vec![b(1, 9, 0, 3)], vec![b(3, 5, 2, 2)], -1, vec![b(1, 9, 0, 3)]),
            // Then the higher state.
            (vec![b(1, 4, 0, 1)], vec![b(1, 4, 2, 1)], -1, vec![b(1, 4, 2, 1)]),
            // The start offset cuts.
            (
                vec![b(1, 4, 0, 1), b(5, 9, 2, 1)],
                vec![b(10, 10, 4, 2)],
                7,
                vec![b(7, 9, 2, 1), b(10, 10, 4, 2)],
            ),
            (
                vec![b(Offset::MAX - 1, Offset::MAX, 0, 1)],
                vec![],
                0,
                vec![b(Offset::MAX - 1, Offset::MAX, 0, 1)],
            ),
            (vec![], vec![], -1, vec![]),
        ];
        for (before, new, start, expected) in cases {
            assert_eq!(combine(&before, &new, start), expected, "{before:?} {new:?} {start}");
        }
    }

    #[test]
    fn each_record_has_the_state_that_is_strongest() {
        let mut random = Seeded::new(7);
        let mut draw = |n: usize| i64::try_from(random.below(n)).unwrap();
        for _ in 0..2000 {
            let mut list = || -> Vec<StateBatch> {
                let len = draw(6);
                (0..len)
                    .map(|_| {
                        let first = draw(30);
                        let state = [0, 2, 4][usize::try_from(draw(3)).unwrap()];
                        b(first, first + draw(8), state, i16::try_from(draw(3)).unwrap())
                    })
                    .collect()
            };
            let (before, new) = (list(), list());
            let start = draw(20) - 1;
            let combined = combine(&before, &new, start);
            for pair in combined.windows(2) {
                assert!(pair[0].last < pair[1].first, "{combined:?}");
            }
            for offset in 0..40 {
                let covers = |x: &&StateBatch| x.first <= offset && offset <= x.last;
                let of = |x: &StateBatch| (x.delivery_count, x.state);
                let strongest = before.iter().chain(&new).filter(covers).map(of).max();
                let expected = strongest.filter(|_| offset >= start);
                let found = combined.iter().find(covers).map(of);
                assert_eq!(found, expected, "{offset} of {before:?} {new:?} {start}");
            }
        }
    }
}
