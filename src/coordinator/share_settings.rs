//! The broker keys that the share coordinator lives by, as one value. Pure.

use crate::record::Compression;

/// Times in milliseconds, sizes in bytes. The names are those of the broker keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSettings {
    /// `share.coordinator.snapshot.update.records.per.snapshot`.
    pub updates_per_snapshot: i32,
    /// `share.coordinator.write.timeout.ms`: how long a write may take to be committed.
    pub write_timeout_ms: i64,
    /// `share.coordinator.state.topic.prune.interval.ms`: time between two looks for records that
    /// snapshots have replaced.
    pub prune_interval_ms: i64,
    /// `share.coordinator.cold.partition.snapshot.interval.ms`: state that has not changed for so
    /// long is written down anew.
    pub cold_snapshot_interval_ms: i64,
    /// `share.coordinator.load.buffer.size`: bytes asked for in one read while a shard loads.
    pub load_buffer_bytes: usize,
    /// `share.coordinator.state.topic.compression.codec`.
    pub compression: Compression,
    /// `share.coordinator.state.topic.num.partitions`, until the topic exists and tells its own
    /// count.
    pub partitions: i32,
}

impl Default for ShareSettings {
    fn default() -> Self {
        Self {
            updates_per_snapshot: 500,
            write_timeout_ms: 5_000,
            prune_interval_ms: 300_000,
            cold_snapshot_interval_ms: 300_000,
            load_buffer_bytes: 5_242_880,
            compression: Compression::None,
            partitions: 50,
        }
    }
}
