//! A clock that a test moves, and a seeded source of random bytes.

use std::sync::{Mutex, PoisonError};

use crate::base::{
    Mono, Now,
    ports::{Clock, Entropy},
};

/// A clock that stands still until told otherwise.
#[derive(Debug)]
pub struct SimClock(Mutex<Now>);

impl SimClock {
    /// A clock at monotonic zero and wall time `wall_ms`.
    #[must_use]
    pub fn new(wall_ms: i64) -> Self {
        Self(Mutex::new(Now { mono: Mono(0), wall_ms }))
    }

    /// Moves both clocks on.
    pub fn advance_ms(&self, ms: i64) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.mono = now.mono.after_ms(ms);
        now.wall_ms += ms;
    }

    /// Sets the wall clock alone, as an operator or NTP may.
    pub fn set_wall_ms(&self, wall_ms: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).wall_ms = wall_ms;
    }
}

impl Clock for SimClock {
    fn now(&self) -> Now {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A small generator of numbers (splitmix64): the same seed gives the same run.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// A generator that starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.u64() % (n.max(1) as u64)).unwrap_or(0)
    }

    /// `true` once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A seeded source of random bytes.
#[derive(Debug)]
pub struct SimEntropy(Mutex<Seeded>);

impl SimEntropy {
    /// A source that starts at `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Seeded::new(seed)))
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, buf: &mut [u8]) {
        let mut seeded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in buf.chunks_mut(8) {
            let bytes = seeded.u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
