//! Sparse arrays over the offsets of one partition: the value at each offset, and which offsets a
//! reader saw. Memory follows what was put in, not how high an offset is.

use std::collections::BTreeMap;

const BITS: u32 = 7;
const SIZE: usize = 1 << BITS;

/// Fingerprints by offset; zero stands for none.
#[derive(Debug, Default)]
pub(super) struct Values {
    chunks: BTreeMap<i64, Box<[u64; SIZE]>>,
}

const fn place(offset: i64) -> (i64, usize) {
    (offset >> BITS, (offset & (SIZE as i64 - 1)) as usize)
}

impl Values {
    /// Puts `value` (not zero) at `offset`, unless another is there: that one is given back.
    pub(super) fn put(&mut self, offset: i64, value: u64) -> Result<(), u64> {
        let (chunk, at) = place(offset);
        let slot = &mut self.chunks.entry(chunk).or_insert_with(|| Box::new([0; SIZE]))[at];
        match *slot {
            0 => {
                *slot = value;
                Ok(())
            }
            there if there == value => Ok(()),
            other => Err(other),
        }
    }

    /// Offsets and values, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, u64)> + '_ {
        self.chunks.iter().flat_map(|(chunk, slots)| entries(*chunk, slots))
    }

    /// The same, from `from` to before `to`.
    pub(super) fn range(&self, from: i64, to: i64) -> impl Iterator<Item = (i64, u64)> + '_ {
        let chunks = place(from).0..=place(to).0.max(place(from).0);
        self.chunks
            .range(chunks)
            .flat_map(|(chunk, slots)| entries(*chunk, slots))
            .filter(move |(offset, _)| (from..to).contains(offset))
    }
}

fn entries(chunk: i64, slots: &[u64; SIZE]) -> impl Iterator<Item = (i64, u64)> + '_ {
    let base = chunk << BITS;
    let all = slots.iter().enumerate().filter(|(_, v)| **v != 0);
    all.map(move |(at, v)| (base | at as i64, *v))
}

/// A set of offsets.
#[derive(Debug, Default)]
pub(super) struct Seen {
    chunks: BTreeMap<i64, u128>,
}

impl Seen {
    /// Adds `offset`; whether it was new.
    pub(super) fn add(&mut self, offset: i64) -> bool {
        let (chunk, at) = place(offset);
        let bits = self.chunks.entry(chunk).or_default();
        let new = *bits & (1 << at) == 0;
        *bits |= 1 << at;
        new
    }

    pub(super) fn has(&self, offset: i64) -> bool {
        let (chunk, at) = place(offset);
        self.chunks.get(&chunk).is_some_and(|bits| bits & (1 << at) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_offsets_cost_what_is_there() {
        let mut values = Values::default();
        for offset in [0, 127, 128, i64::MAX] {
            values.put(offset, 9).unwrap();
        }
        assert_eq!(values.put(127, 8), Err(9));
        assert_eq!(values.iter().map(|(o, _)| o).collect::<Vec<_>>(), [0, 127, 128, i64::MAX]);
        assert_eq!(values.range(1, 128).map(|(o, _)| o).collect::<Vec<_>>(), [127]);
        assert_eq!(values.range(5, 5).count(), 0);
        let mut seen = Seen::default();
        assert!(seen.add(i64::MAX) && !seen.add(i64::MAX) && seen.has(i64::MAX) && !seen.has(0));
    }
}
