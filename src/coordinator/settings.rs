//! The broker keys that groups and offsets live by, as one value. Pure.

/// Times in milliseconds, sizes in bytes. The names are those of the broker keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.initial.rebalance.delay.ms`: how long the first join of an empty group waits.
    pub initial_rebalance_delay_ms: i32,
    /// `group.max.size`: members of one group.
    pub max_size: usize,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`: time between two sweeps of a shard.
    pub retention_check_interval_ms: i64,
    /// `offsets.commit.timeout.ms`: how long an append may wait for the high watermark.
    pub commit_timeout_ms: i64,
    /// `offset.metadata.max.bytes`; as in Kafka it counts UTF-16 code units.
    pub metadata_max: usize,
    /// `offsets.load.buffer.size`: bytes asked for in one read while a shard loads.
    pub load_buffer_bytes: usize,
    /// `offsets.topic.num.partitions`, until the topic exists and tells its own count.
    pub partitions: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 1_800_000,
            initial_rebalance_delay_ms: 3_000,
            max_size: 2_147_483_647,
            offsets_retention_ms: 10_080 * 60_000,
            retention_check_interval_ms: 600_000,
            commit_timeout_ms: 5_000,
            metadata_max: 4_096,
            load_buffer_bytes: 5_242_880,
            partitions: 50,
        }
    }
}
