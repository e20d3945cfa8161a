//! Stands in for the crate of the same name, which openraft counts replication batches with.
//!
//! The published crate builds lookup tables for sixteen resolutions at its first use: 26 MB that
//! stay resident and tens of milliseconds before a node can answer. Nobody reads those counts
//! here. This one keeps 65 counters, one a power of two, and makes no table.

#![forbid(unsafe_code)]

use std::{fmt, marker::PhantomData};

/// One counter for zero and one for each bit length.
const BUCKETS: usize = 65;

/// Counts of values by their bit length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    kind: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Nothing counted.
    #[must_use]
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), kind: PhantomData }
    }

    /// Counts `value`.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts `value`, `n` times.
    pub fn record_n(&mut self, value: u64, n: u64) {
        let bits = (u64::BITS - value.leading_zeros()) as usize;
        if let Some(count) = self.counts.get_mut(bits) {
            *count = count.saturating_add(n);
        }
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// The largest value of the power of two below which `share` (0 to 1) of the values lie.
    #[must_use]
    pub fn percentile(&self, share: f64) -> u64 {
        let want = (self.total() as f64 * share).ceil() as u64;
        let mut seen = 0u64;
        for (bits, n) in self.counts.iter().enumerate() {
            seen = seen.saturating_add(*n);
            if *n > 0 && seen >= want {
                return if bits == 0 { 0 } else { u64::MAX >> (64 - bits) };
            }
        }
        0
    }

    /// The usual percentiles.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

/// See [`Histogram::percentile_stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, p99_9, .. } = self;
        write!(f, "[samples: {samples}, P50: {p50}, P90: {p90}, P99: {p99}, P99.9: {p99_9}]")
    }
}

/// Several histograms as text, a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart {
    rows: Vec<(String, PercentileStats)>,
}

impl AsciiChart {
    /// No rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, of: Histogram<T>) -> Self {
        self.rows.push((name.into(), of.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_bounds_of_powers_of_two() {
        let mut h = Histogram::<()>::new();
        assert_eq!(h.percentile(0.5), 0);
        for v in [0, 1, 2, 3, 900] {
            h.record(v);
        }
        assert_eq!((h.total(), h.percentile(0.5), h.percentile(1.0)), (5, 3, 1023));
        h.record(u64::MAX);
        assert_eq!(h.percentile(1.0), u64::MAX);
    }
}
