//! What a cleaning remembers: the newest offset of each key, by a hash of sixteen bytes
//! (`SkimpyOffsetMap.java`). Open addressing in one allocation of fixed size; no key is kept. Two
//! keys of one hash would lose a record, so that the hash is wide and keyed with a secret: nobody
//! can look for such keys, and by chance there are none.

use crate::base::Offset;

/// Hash, and the offset plus one; zero where nothing is.
type Slot = [u64; 3];

/// Bytes of memory that one key takes.
pub const SLOT_BYTES: usize = size_of::<Slot>();

/// Keys and their newest offsets.
#[derive(Debug)]
pub(super) struct OffsetMap {
    slots: Vec<Slot>,
    used: usize,
    room: usize,
    secret: [u64; 2],
}

impl OffsetMap {
    /// A map of `slots` slots, at least two, of which the fraction `load` may be used.
    pub(super) fn new(slots: usize, load: f64, secret: [u64; 2]) -> Self {
        let slots = slots.max(2);
        // One slot stays free, so that every search ends.
        let room = ((slots as f64 * load) as usize).clamp(1, slots - 1);
        Self { slots: vec![[0; 3]; slots], used: 0, room, secret }
    }

    /// Remembers that `key` was seen at `offset`, above all offsets before. False if there is no
    /// room for a new key.
    pub(super) fn put(&mut self, key: &[u8], offset: Offset) -> bool {
        let (at, hash) = self.find(key);
        let Some(slot) = self.slots.get_mut(at) else { return false };
        if slot[2] == 0 {
            if self.used >= self.room {
                return false;
            }
            self.used += 1;
        }
        *slot = [hash[0], hash[1], offset.cast_unsigned().saturating_add(1)];
        true
    }

    /// The newest offset at which `key` was seen.
    pub(super) fn get(&self, key: &[u8]) -> Option<Offset> {
        let (at, _) = self.find(key);
        let seen = self.slots.get(at)?[2].checked_sub(1)?;
        Some(seen.cast_signed())
    }

    /// Keys that are remembered.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// The used part of all slots, in percent.
    pub(super) fn utilization(&self) -> f64 {
        self.used as f64 * 100.0 / self.slots.len() as f64
    }

    /// The slot of `key`, or the free one where it would go, and its hash.
    fn find(&self, key: &[u8]) -> (usize, [u64; 2]) {
        let hash = hash128(self.secret, key);
        // The high half of the product is the hash scaled down to the number of slots.
        let scaled = (u128::from(hash[0]) * self.slots.len() as u128) >> 64;
        let mut at = usize::try_from(scaled).unwrap_or(0);
        loop {
            match self.slots.get(at) {
                None => at = 0,
                Some([_, _, 0]) => return (at, hash),
                Some([a, b, _]) if [*a, *b] == hash => return (at, hash),
                Some(_) => at += 1,
            }
        }
    }
}

/// SipHash-1-3 with 128 bits of output (Aumasson and Bernstein, "SipHash: a fast short-input PRF").
fn hash128([k0, k1]: [u64; 2], bytes: &[u8]) -> [u64; 2] {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        absorb(&mut v, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    last[7] = bytes.len().to_le_bytes()[0];
    absorb(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xee;
    let first = squeeze(&mut v);
    v[1] ^= 0xdd;
    [first, squeeze(&mut v)]
}

fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

fn squeeze(v: &mut [u64; 4]) -> u64 {
    (0..3).for_each(|_| round(v));
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn the_newest_offset_of_every_key_even_when_full() {
        for (slots, load) in [(2, 0.9), (10, 0.9), (1000, 0.9), (1000, 0.1), (7, 1.0)] {
            let mut map = OffsetMap::new(slots, load, [1, 2]);
            let mut model = BTreeMap::new();
            for offset in 0..3000i64 {
                let key = (offset * 7919 % 1201).to_string();
                if map.put(key.as_bytes(), offset) {
                    model.insert(key, offset);
                } else {
                    assert!(!model.contains_key(&key), "a known key always has room");
                }
            }
            let room = ((slots as f64 * load) as usize).clamp(1, slots - 1);
            assert_eq!((map.len(), model.len()), (room.min(1201), room.min(1201)));
            assert!(model.iter().all(|(k, o)| map.get(k.as_bytes()) == Some(*o)));
            assert_eq!(map.get(b"never"), None);
        }
    }

    /// The reference implementation's rounds are 2 and 4; its structure is checked by what any
    /// change of key, length or byte must do.
    #[test]
    fn every_byte_and_the_secret_count() {
        let mut seen = BTreeSet::new();
        for len in 0..40 {
            for changed in 0..len.max(1) {
                let mut key = vec![0; len];
                if let Some(byte) = key.get_mut(changed) {
                    *byte = 1;
                }
                for secret in [[0, 0], [0, 1], [1, 0]] {
                    let [a, b] = hash128(secret, &key);
                    assert!(seen.insert(a) && seen.insert(b), "{len} {changed} {secret:?}");
                }
            }
        }
    }
}
