//! What governs the share partitions of a group (`GroupConfig`, `ShareGroupConfig`).

use std::fmt;

/// Where a share group begins in a partition of which nothing is known yet
/// (`share.auto.offset.reset`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// With the first record of the log.
    Earliest,
    /// With what is appended from now on.
    Latest,
    /// With records that are not older than so many milliseconds.
    ByDuration(i64),
}

/// The settings of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareSettings {
    /// How long, in milliseconds, acquired records are locked (`share.record.lock.duration.ms`).
    pub lock_duration_ms: i32,
    /// Records that have been handed out so often are not again (`share.delivery.count.limit`).
    pub delivery_count_limit: i16,
    /// Records from the start offset on that may be in flight (`share.partition.max.record.locks`).
    pub max_record_locks: i32,
    /// Whether only committed records are handed out (`share.isolation.level`).
    pub read_committed: bool,
    /// Where the group begins.
    pub offset_reset: OffsetReset,
    /// Whether locks may be renewed (`share.renew.acknowledge.enable`).
    pub renews: bool,
}

impl Default for ShareSettings {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            lock_duration_ms: 30_000,
            delivery_count_limit: 5,
            max_record_locks: 2000,
            read_committed: false,
            offset_reset: OffsetReset::Latest,
            renews: true,
        }
    }
}

/// Gives the settings of groups as they are now.
pub trait GroupSettings: Send + Sync + fmt::Debug {
    /// The settings of `group`.
    fn of(&self, group: &str) -> ShareSettings;
}
