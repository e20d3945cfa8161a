//! The broker keys that groups and offsets live by, as one value. Pure.

use super::assignor::Assignor;

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
    /// Consumer groups (KIP-848).
    pub consumer: ConsumerSettings,
    /// Share groups (KIP-932).
    pub share: ShareMemberSettings,
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
            consumer: ConsumerSettings::default(),
            share: ShareMemberSettings::default(),
        }
    }
}

/// Which way groups may change between the protocols while they have members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MigrationPolicy {
    /// Neither way.
    Disabled,
    /// From classic to consumer.
    Upgrade,
    /// From consumer to classic.
    Downgrade,
    /// Both ways.
    Bidirectional,
}

impl MigrationPolicy {
    /// The policy of that name, without regard to case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "disabled" => Some(Self::Disabled),
            "upgrade" => Some(Self::Upgrade),
            "downgrade" => Some(Self::Downgrade),
            "bidirectional" => Some(Self::Bidirectional),
            _ => None,
        }
    }

    pub(super) const fn upgrades(self) -> bool {
        matches!(self, Self::Upgrade | Self::Bidirectional)
    }

    pub(super) const fn downgrades(self) -> bool {
        matches!(self, Self::Downgrade | Self::Bidirectional)
    }
}

/// The keys `group.consumer.*`; times in milliseconds. What a group may set for itself stays within
/// the bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSettings {
    /// `group.consumer.session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// `group.consumer.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.consumer.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.consumer.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `group.consumer.min.heartbeat.interval.ms`.
    pub min_heartbeat_interval_ms: i32,
    /// `group.consumer.max.heartbeat.interval.ms`.
    pub max_heartbeat_interval_ms: i32,
    /// `group.consumer.assignment.interval.ms`: between two targets of a group.
    pub assignment_interval_ms: i32,
    /// `group.consumer.min.assignment.interval.ms`.
    pub min_assignment_interval_ms: i32,
    /// `group.consumer.max.assignment.interval.ms`.
    pub max_assignment_interval_ms: i32,
    /// `group.consumer.max.size`: members of one group.
    pub max_size: usize,
    /// `group.consumer.assignors`; the first is the default.
    pub assignors: Vec<Assignor>,
    /// `group.consumer.migration.policy`.
    pub migration_policy: MigrationPolicy,
    /// `group.consumer.regex.refresh.interval.ms`.
    pub regex_refresh_interval_ms: i64,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            session_timeout_ms: 45_000,
            min_session_timeout_ms: 45_000,
            max_session_timeout_ms: 60_000,
            heartbeat_interval_ms: 5_000,
            min_heartbeat_interval_ms: 5_000,
            max_heartbeat_interval_ms: 15_000,
            assignment_interval_ms: 1_000,
            min_assignment_interval_ms: 0,
            max_assignment_interval_ms: 15_000,
            max_size: 2_147_483_647,
            assignors: vec![Assignor::Uniform, Assignor::Range],
            migration_policy: MigrationPolicy::Bidirectional,
            regex_refresh_interval_ms: 600_000,
        }
    }
}

/// The keys `group.share.*` about membership; times in milliseconds. What a group may set for itself
/// stays within the bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareMemberSettings {
    /// `group.share.session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// `group.share.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.share.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.share.heartbeat.interval.ms`.
    pub heartbeat_interval_ms: i32,
    /// `group.share.min.heartbeat.interval.ms`.
    pub min_heartbeat_interval_ms: i32,
    /// `group.share.max.heartbeat.interval.ms`.
    pub max_heartbeat_interval_ms: i32,
    /// `group.share.assignment.interval.ms`: between two targets of a group.
    pub assignment_interval_ms: i32,
    /// `group.share.min.assignment.interval.ms`.
    pub min_assignment_interval_ms: i32,
    /// `group.share.max.assignment.interval.ms`.
    pub max_assignment_interval_ms: i32,
    /// `group.share.max.size`: members of one group.
    pub max_size: usize,
}

impl Default for ShareMemberSettings {
    fn default() -> Self {
        Self {
            session_timeout_ms: 45_000,
            min_session_timeout_ms: 45_000,
            max_session_timeout_ms: 60_000,
            heartbeat_interval_ms: 5_000,
            min_heartbeat_interval_ms: 5_000,
            max_heartbeat_interval_ms: 15_000,
            assignment_interval_ms: 1_000,
            min_assignment_interval_ms: 0,
            max_assignment_interval_ms: 15_000,
            max_size: 200,
        }
    }
}

impl ConsumerSettings {
    /// The assignor of groups whose members want none.
    #[must_use]
    pub fn default_assignor(&self) -> Assignor {
        self.assignors.first().copied().unwrap_or(Assignor::Uniform)
    }
}
