//! Limits of replication traffic: how many bytes a second the throttled replicas of this broker may
//! send, fetch, or move between directories (KIP-73; `ReplicationQuotaManager`, `SimpleRate`,
//! `SampledStat`). Pure but for the lock that each quota takes for a moment; nothing is done per
//! record, and nothing at all while no limit is set. Uses `base`.
//!
//! What exceeds a limit is not refused but counted, and makes up for it later: a quota only tells
//! that for now nothing more is to be read.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::base::{Mono, NodeId, PartitionId};

/// No limit: the default of the rates' keys.
const UNLIMITED: u64 = i64::MAX as u64;
/// The shortest and the longest time that somebody who is throttled is told to wait. The longest is
/// how late a raised limit may take effect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Which partitions of a topic are throttled on this broker
/// (`leader.replication.throttled.replicas`, `follower.replication.throttled.replicas`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Throttled {
    /// None.
    #[default]
    None,
    /// `*`.
    All,
    /// Those that name this broker.
    Some(BTreeSet<PartitionId>),
}

impl Throttled {
    /// From the entries of the key: `*`, or `partition:broker` each
    /// (`TopicConfigHandler.parseThrottledPartitions`).
    #[must_use]
    pub fn of(entries: &[String], broker: NodeId) -> Self {
        if entries.iter().any(|e| e == "*") {
            return Self::All;
        }
        let here = |entry: &String| {
            let (partition, on) = entry.split_once(':')?;
            (on.trim().parse() == Ok(broker.0)).then(|| partition.trim().parse().ok())?
        };
        let partitions: BTreeSet<PartitionId> = entries.iter().filter_map(here).collect();
        if partitions.is_empty() { Self::None } else { Self::Some(partitions) }
    }

    /// Whether it holds for `partition`.
    #[must_use]
    pub fn has(&self, partition: PartitionId) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(partitions) => partitions.contains(&partition),
        }
    }
}

/// The throttled partitions of a topic on this broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ThrottledReplicas {
    /// As leaders.
    pub leader: Throttled,
    /// As followers.
    pub follower: Throttled,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    start: Mono,
    last: Mono,
    bytes: u64,
}

/// Bytes a second over a sliding window: the sum of some samples, over the time since the oldest
/// began, or a sample's length if that is longer (`SimpleRate`).
#[derive(Debug, Clone)]
pub struct Rate {
    samples: VecDeque<Sample>,
    count: usize,
    length: Duration,
}

impl Rate {
    /// Nothing yet. `count` samples of `length` each are looked back on, at least one of a
    /// millisecond.
    #[must_use]
    pub fn new(count: usize, length: Duration) -> Self {
        let length = length.max(Duration::from_millis(1));
        Self { samples: VecDeque::new(), count: count.max(1), length }
    }

    /// Counts `bytes`.
    pub fn record(&mut self, bytes: u64, now: Mono) {
        self.purge(now);
        match self.samples.back_mut().filter(|s| now.since(s.start) < self.length) {
            Some(sample) => {
                sample.bytes = sample.bytes.saturating_add(bytes);
                sample.last = now;
            }
            None => self.samples.push_back(Sample { start: now, last: now, bytes }),
        }
        // One more than is looked back on: the oldest overlaps the window.
        while self.samples.len() > self.count.saturating_add(1) {
            self.samples.pop_front();
        }
    }

    fn purge(&mut self, now: Mono) {
        let whole = self.length.saturating_mul(u32::try_from(self.count).unwrap_or(u32::MAX));
        while self.samples.front().is_some_and(|s| now.since(s.last) >= whole) {
            self.samples.pop_front();
        }
    }

    fn elapsed(&self, now: Mono) -> Duration {
        let since = self.samples.front().map(|s| now.since(s.start)).unwrap_or_default();
        since.max(self.length)
    }

    fn sum(&self) -> u64 {
        self.samples.iter().fold(0, |sum, s| sum.saturating_add(s.bytes))
    }

    /// The rate in bytes a second.
    pub fn measure(&mut self, now: Mono) -> f64 {
        self.purge(now);
        self.sum() as f64 / self.elapsed(now).as_secs_f64()
    }

    /// How long nothing may be counted until the rate is no more than `bound`; zero if it is not.
    pub fn excess(&mut self, bound: u64, now: Mono) -> Duration {
        if self.measure(now) <= bound as f64 {
            return Duration::ZERO;
        }
        let whole = self.length.saturating_mul(u32::try_from(self.count).unwrap_or(u32::MAX));
        let needed = self.sum() as f64 / bound.max(1) as f64;
        let needed = Duration::try_from_secs_f64(needed).unwrap_or(whole);
        needed.saturating_sub(self.elapsed(now)).min(whole)
    }
}

/// One limit and what was counted against it.
#[derive(Debug)]
pub struct Quota {
    bound: AtomicU64,
    rate: Mutex<Rate>,
}

impl Default for Quota {
    /// No limit; the window of Kafka's defaults.
    fn default() -> Self {
        let rate = Rate::new(11, Duration::from_secs(1));
        Self { bound: AtomicU64::new(UNLIMITED), rate: Mutex::new(rate) }
    }
}

impl Quota {
    fn rate(&self) -> std::sync::MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks back on `count` samples of `length` from now on.
    pub fn set_window(&self, count: usize, length: Duration) {
        *self.rate() = Rate::new(count, length);
    }

    /// Limits to so many bytes a second; a negative number counts as 0.
    pub fn set_bound(&self, bytes_a_second: i64) {
        self.bound.store(u64::try_from(bytes_a_second).unwrap_or(0), Ordering::Relaxed);
    }

    /// Counts `bytes`, whether or not the limit is exceeded.
    pub fn record(&self, bytes: usize, now: Mono) {
        self.rate().record(u64::try_from(bytes).unwrap_or(u64::MAX), now);
    }

    /// Whether more was counted than the limit allows.
    #[must_use]
    pub fn is_exceeded(&self, now: Mono) -> bool {
        self.pause(now).is_some()
    }

    /// After which pause to look again; `None` while the limit is kept.
    #[must_use]
    pub fn pause(&self, now: Mono) -> Option<Duration> {
        let bound = self.bound.load(Ordering::Relaxed);
        if bound == UNLIMITED {
            return None;
        }
        let excess = self.rate().excess(bound, now);
        (!excess.is_zero()).then(|| excess.clamp(PAUSE.0, PAUSE.1))
    }
}

/// The limits of one broker.
#[derive(Debug, Default)]
pub struct Quotas {
    /// What throttled leaders send to followers.
    pub leader: Quota,
    /// What throttled followers fetch.
    pub follower: Quota,
    /// What moves between log directories.
    pub moves: Quota,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Mono {
        Mono(0).after_ms(ms)
    }

    #[test]
    fn a_burst_counts_for_a_whole_sample_and_wears_off() {
        let mut rate = Rate::new(11, Duration::from_secs(1));
        rate.record(1000, at(0));
        assert_eq!(rate.measure(at(0)), 1000.0, "over one second at least");
        assert_eq!(rate.measure(at(500)), 1000.0);
        assert_eq!(rate.measure(at(4000)), 250.0);
        rate.record(3000, at(4000));
        assert_eq!(rate.measure(at(8000)), 500.0);
        assert_eq!(rate.measure(at(10_999)), 4000.0 / 10.999);
        // The first sample leaves the window with its last event.
        assert_eq!(rate.measure(at(11_000)), 3000.0 / 7.0);
        assert_eq!(rate.measure(at(15_000)), 0.0);
    }

    #[test]
    fn not_more_samples_are_kept_than_the_window_has_and_one() {
        let mut rate = Rate::new(3, Duration::from_secs(1));
        for n in 0..99 {
            rate.record(10, at(n * 250));
        }
        assert_eq!(rate.samples.len(), 4);
    }

    #[test]
    fn who_is_throttled_waits_until_the_rate_is_kept_again() {
        let mut rate = Rate::new(11, Duration::from_secs(1));
        assert!(rate.excess(100, at(0)).is_zero());
        rate.record(400, at(0));
        assert_eq!(rate.excess(100, at(0)), Duration::from_secs(3));
        assert_eq!(rate.excess(100, at(2500)), Duration::from_millis(1500));
        assert!(rate.excess(100, at(4000)).is_zero());
        assert!(rate.excess(0, at(4000)) > Duration::ZERO, "nothing may pass");
    }

    #[test]
    fn a_quota_without_a_limit_is_never_exceeded() {
        let quota = Quota::default();
        quota.record(usize::MAX, at(0));
        assert!(!quota.is_exceeded(at(0)));
        quota.set_bound(10);
        assert_eq!(quota.pause(at(0)), Some(PAUSE.1));
        quota.set_bound(i64::MAX);
        assert!(!quota.is_exceeded(at(0)));
    }

    #[test]
    fn lists_name_partitions_of_brokers() {
        let of = |text: &str| {
            let entries: Vec<String> = text.split(',').map(str::to_owned).collect();
            Throttled::of(&entries, NodeId(2))
        };
        assert_eq!(of("*"), Throttled::All);
        assert_eq!(of("0:1,3:1"), Throttled::None);
        assert_eq!(of("0:2,1:1,3:2"), Throttled::Some(BTreeSet::from([0, 3])));
        assert!(of("0:2").has(0) && !of("0:2").has(1) && of("*").has(7));
    }
}
