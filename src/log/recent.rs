//! Where the last batches of the active segment are: what readers at the tail ask for, answered
//! without touching a file.

use std::collections::VecDeque;

use crate::base::Offset;

/// How many batches are remembered.
const BATCHES: usize = 64;

/// One batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    base: Offset,
    pos: u32,
    last_delta: u32,
}

impl Place {
    fn last(&self) -> Offset {
        self.base + i64::from(self.last_delta)
    }
}

/// The last batches, oldest first, up to the end of the active segment.
#[derive(Debug, Default)]
pub(super) struct Recent {
    places: VecDeque<Place>,
}

impl Recent {
    pub(super) fn push(&mut self, base: Offset, last: Offset, pos: u64) {
        let (Ok(pos), Ok(last_delta)) = (u32::try_from(pos), u32::try_from(last - base)) else {
            self.clear();
            return;
        };
        if self.places.len() == BATCHES {
            self.places.pop_front();
        }
        self.places.push_back(Place { base, pos, last_delta });
    }

    pub(super) fn clear(&mut self) {
        self.places = VecDeque::new();
    }

    /// Base offset, position and end of the first batch that ends at or after `offset`; `None` if
    /// that may lie before what is remembered. `size` is where the segment ends.
    pub(super) fn find(&self, offset: Offset, size: u64) -> Option<(Offset, u64, u64)> {
        if self.places.front()?.base > offset {
            return None;
        }
        let at = self.places.partition_point(|p| p.last() < offset);
        let place = self.places.get(at)?;
        let end = self.places.get(at + 1).map_or(size, |p| u64::from(p.pos));
        Some((place.base, u64::from(place.pos), end))
    }

    /// The largest batch boundary at or below position `limit`, with the offset of the batch that
    /// begins there.
    pub(super) fn boundary(&self, limit: u64) -> Option<(u64, Offset)> {
        let at = self.places.partition_point(|p| u64::from(p.pos) <= limit).checked_sub(1)?;
        let place = self.places.get(at)?;
        Some((u64::from(place.pos), place.base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_found_and_the_rest_left_to_the_index() {
        let mut r = Recent::default();
        assert_eq!(r.find(0, 0), None);
        for n in 0..100 {
            r.push(n * 10, n * 10 + 9, n as u64 * 100);
        }
        assert_eq!(r.find(999, 10_000), Some((990, 9_900, 10_000)));
        assert_eq!(r.find(980, 10_000), Some((980, 9_800, 9_900)));
        assert_eq!(r.find(1_000, 10_000), None);
        assert_eq!(r.find(360, 10_000), Some((360, 3_600, 3_700)));
        assert_eq!(r.find(359, 10_000), None, "forgotten");
        assert_eq!(r.boundary(9_850), Some((9_800, 980)));
        assert_eq!(r.boundary(3_599), None);
    }
}
