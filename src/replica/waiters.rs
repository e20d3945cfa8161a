//! Who waits for an offset: producers for the high watermark or for the disk. Plain data; the table
//! holds its lock and completes what these return. Fetches wait by `bell`.

use std::collections::BTreeMap;

use crate::base::Offset;

/// So few waiters are not worth a look for those that are gone.
const SWEEP_MIN: usize = 32;

/// Waiters ordered by the offset they wait for.
#[derive(Debug)]
pub struct Waiters<T> {
    next: u64,
    /// With so many it is worth looking for those that are gone.
    sweep_at: usize,
    parked: BTreeMap<(Offset, u64), T>,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { next: 0, sweep_at: SWEEP_MIN, parked: BTreeMap::new() }
    }
}

impl<T> Waiters<T> {
    /// Parks `waiter` until [`Waiters::reached`] is told of `offset` or one beyond.
    pub fn park(&mut self, offset: Offset, waiter: T) {
        self.parked.insert((offset, self.next), waiter);
        self.next += 1;
    }

    /// Takes out all who wait for `offset` or one before it, in order of their offsets.
    pub fn reached(&mut self, offset: Offset) -> Vec<T> {
        if self.parked.first_key_value().is_none_or(|((first, _), _)| *first > offset) {
            return Vec::new();
        }
        let rest = match offset.checked_add(1) {
            Some(after) => self.parked.split_off(&(after, 0)),
            None => BTreeMap::new(),
        };
        std::mem::replace(&mut self.parked, rest).into_values().collect()
    }

    /// Takes out everybody: the partition is lost to this broker.
    pub fn all(&mut self) -> Vec<T> {
        std::mem::take(&mut self.parked).into_values().collect()
    }

    /// Takes out those for whom `gone` holds, as their clients left: whenever the number of waiters
    /// has doubled since, so that it costs nothing in the long run.
    pub fn make_room(&mut self, mut gone: impl FnMut(&T) -> bool) {
        if self.parked.len() >= self.sweep_at {
            self.parked.retain(|_, w| !gone(w));
            self.sweep_at = self.parked.len().saturating_mul(2).max(SWEEP_MIN);
        }
    }

    /// Waiters parked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parked.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leave_in_order_of_offsets() {
        let mut w = Waiters::default();
        for (offset, name) in [(7, "c"), (3, "a"), (7, "d"), (5, "b"), (i64::MAX, "e")] {
            w.park(offset, name);
        }
        assert!(w.reached(2).is_empty());
        assert_eq!(w.reached(5), ["a", "b"]);
        assert_eq!(w.reached(7), ["c", "d"]);
        assert_eq!(w.reached(i64::MAX), ["e"]);
        assert!(w.is_empty());
    }

    #[test]
    fn who_is_gone_makes_room() {
        let mut w = Waiters::default();
        for n in 0..1000 {
            w.make_room(|n| n % 10 != 0);
            w.park(n, n);
        }
        assert!(w.len() < 250, "{}", w.len());
    }
}
