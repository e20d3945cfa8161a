//! What one topic's configuration means for its replicas, resolved once and shared by them.

use std::{sync::Arc, time::Duration};

use super::quota::ThrottledReplicas;
use crate::{log::LogConfig, record::Rules};

/// The settings of a topic's partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionSettings {
    /// What a produced batch must be like.
    pub rules: Rules,
    /// Segments, retention, flushing.
    pub log: Arc<LogConfig>,
    /// `min.insync.replicas`.
    pub min_insync_replicas: usize,
    /// `replica.lag.time.max.ms`: a follower that has not had all for so long leaves the ISR.
    pub lag_max: Duration,
    /// Whether consumers read from followers, too (`replica.selector.class`): followers then hear
    /// of a higher watermark at once.
    pub followers_serve: bool,
    /// Which of its replicas here are throttled.
    pub throttled: ThrottledReplicas,
}

impl PartitionSettings {
    /// Whether an acknowledgement waits for `fdatasync` (`flush.messages=1`).
    #[must_use]
    pub fn durable(&self) -> bool {
        self.log.flush_messages == 1
    }
}
