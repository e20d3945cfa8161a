//! `LogConfig`: the resolved settings of one log, as plain numbers with Kafka's defaults
//! (`LogConfig.java`). Built by whoever layers topic over broker configuration.

use super::clean_plan::RATIO_WHOLE;

/// The settings of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment is rolled before it would grow beyond this.
    pub segment_bytes: u64,
    /// `segment.ms`: a non-empty segment older than this, in milliseconds, is rolled.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: the most that is taken off `segment_ms` at random.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: the largest size of an index file.
    pub segment_index_bytes: u64,
    /// `index.interval.bytes`: an index entry is added when more than this was appended since.
    pub index_interval_bytes: u64,
    /// `retention.ms`: -1 keeps for ever.
    pub retention_ms: i64,
    /// `retention.bytes`: -1 is without bound.
    pub retention_bytes: i64,
    /// `flush.messages`: records after which a flush is due; `i64::MAX` leaves it to the system.
    pub flush_messages: i64,
    /// `flush.ms`: milliseconds after which a flush is due; `i64::MAX` leaves it to the system.
    pub flush_ms: i64,
    /// `file.delete.delay.ms`: how long a deleted file stays as `.deleted`.
    pub file_delete_delay_ms: i64,
    /// `cleanup.policy` names `delete`.
    pub delete: bool,
    /// `cleanup.policy` names `compact`.
    pub compact: bool,
    /// `max.compaction.lag.ms`: compacted logs roll at the smaller of this and `segment_ms`, and are
    /// cleaned once a record is older.
    pub max_compaction_lag_ms: i64,
    /// `min.compaction.lag.ms`: a segment with a record younger than this is not cleaned.
    pub min_compaction_lag_ms: i64,
    /// `min.cleanable.dirty.ratio` in billionths: a log is cleaned when more of it is dirty.
    pub min_cleanable_ratio: u64,
    /// `delete.retention.ms`: tombstones and markers stay for this long after the first cleaning
    /// that met them.
    pub delete_retention_ms: i64,
    /// `max.message.bytes`: what a cleaner's buffer grows to.
    pub max_message_bytes: usize,
    /// `producer.id.expiration.ms`: an idle producer is forgotten after this.
    pub producer_id_expiration_ms: i64,
    /// `transaction.partition.verification.enable`: a transaction begins in this log only with the
    /// word of its coordinator.
    pub verify_transactions: bool,
    /// `preallocate`: a new segment takes its full size at once.
    pub preallocate: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 604_800_000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            retention_ms: 604_800_000,
            retention_bytes: -1,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
            file_delete_delay_ms: 60_000,
            delete: true,
            compact: false,
            max_compaction_lag_ms: i64::MAX,
            min_compaction_lag_ms: 0,
            min_cleanable_ratio: RATIO_WHOLE / 2,
            delete_retention_ms: 86_400_000,
            max_message_bytes: 1_048_588,
            producer_id_expiration_ms: 86_400_000,
            verify_transactions: true,
            preallocate: false,
        }
    }
}

impl LogConfig {
    /// Milliseconds after which a segment with `jitter_ms` taken off is rolled.
    pub(super) fn roll_after_ms(&self, jitter_ms: i64) -> i64 {
        let ms = if self.compact {
            self.segment_ms.min(self.max_compaction_lag_ms)
        } else {
            self.segment_ms
        };
        ms.saturating_sub(jitter_ms.min(ms))
    }
}
