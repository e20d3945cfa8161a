//! The broker keys that transactions live by, as one value. Pure.

/// Times in milliseconds, sizes in bytes. The names are those of the broker keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnSettings {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`.
    pub id_expiration_ms: i64,
    /// `transaction.abort.timed.out.transaction.cleanup.interval.ms`: time between two looks for
    /// transactions that are open for too long.
    pub abort_interval_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`: time between two looks for ids
    /// that have expired.
    pub expire_interval_ms: i64,
    /// `transaction.state.log.load.buffer.size`: bytes asked for in one read while a shard loads.
    pub load_buffer_bytes: usize,
    /// `transaction.state.log.num.partitions`, until the topic exists and tells its own count.
    pub partitions: i32,
    /// `request.timeout.ms`: how long a leader may take to write markers.
    pub request_timeout_ms: i64,
}

impl Default for TxnSettings {
    fn default() -> Self {
        Self {
            max_timeout_ms: 900_000,
            id_expiration_ms: 604_800_000,
            abort_interval_ms: 10_000,
            expire_interval_ms: 3_600_000,
            load_buffer_bytes: 5_242_880,
            partitions: 50,
            request_timeout_ms: 30_000,
        }
    }
}
