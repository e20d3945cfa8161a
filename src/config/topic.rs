//! What a topic is told: overrides over the broker's layers, typed; and the checks of a topic's
//! overrides in Kafka's words (`LogConfig`). Uses `keys`, `layers`, `value`.

use std::collections::BTreeMap;

use super::{
    keys::{self, Key},
    layers::{ConfigSource, Layers},
    value::Value,
};

/// `compression.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer sent it.
    Producer,
    /// None.
    Uncompressed,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// `message.timestamp.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    CreateTime,
    /// The broker's, at the append.
    LogAppendTime,
}

/// Why a topic's override is refused; prints as Kafka says it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicConfigError {
    /// No topic key has this name.
    #[error("Unknown topic config name: {0}")]
    Unknown(String),
    /// The value breaks its key's rule.
    #[error("{}", invalid(.key, .value, .rule))]
    Invalid {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// The rule that it breaks.
        rule: String,
    },
    /// Values contradict each other, or this build.
    #[error("{0}")]
    Conflict(String),
}

/// Kafka's sentence about a value; for rules about entries of a list it does not name the value.
pub(super) fn invalid(key: &str, value: &str, rule: &str) -> String {
    if rule.starts_with("values must") {
        return format!("Configuration '{key}' {rule}.");
    }
    format!("Invalid value {value} for configuration {key}: {rule}")
}

/// The settings of one topic. Times in milliseconds, sizes in bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicConfig {
    /// Size at which a segment is closed (`internal.segment.bytes` if set).
    pub segment_bytes: i32,
    /// Age at which a segment is closed.
    pub segment_ms: i64,
    /// Random part taken off `segment_ms`.
    pub segment_jitter_ms: i64,
    /// Largest index.
    pub segment_index_bytes: i32,
    /// Bytes of log between index entries.
    pub index_interval_bytes: i32,
    /// Records that may gather before they are forced to disk; 1: every append.
    pub flush_messages: i64,
    /// Time after which records are forced to disk.
    pub flush_ms: i64,
    /// -1 for no limit.
    pub retention_bytes: i64,
    /// -1 for ever.
    pub retention_ms: i64,
    /// Largest batch.
    pub max_message_bytes: i32,
    /// Delay before the files of removed segments go.
    pub file_delete_delay_ms: i64,
    /// Old segments are deleted.
    pub delete: bool,
    /// Old segments are compacted.
    pub compact: bool,
    /// How long tombstones are kept.
    pub delete_retention_ms: i64,
    /// Records younger than this are not compacted.
    pub min_compaction_lag_ms: i64,
    /// Records older than this must be compacted.
    pub max_compaction_lag_ms: i64,
    /// Uncompacted fraction from which compaction is worth it.
    pub min_cleanable_dirty_ratio: f64,
    /// Whether a replica out of sync may lead.
    pub unclean_leader_election: bool,
    /// Replicas that must have a record before acks=all is answered.
    pub min_insync_replicas: i32,
    /// What stored batches are compressed with.
    pub compression: CompressionType,
    /// 1 to 9, or -1.
    pub gzip_level: i32,
    /// 1 to 17.
    pub lz4_level: i32,
    /// -131072 to 22.
    pub zstd_level: i32,
    /// Whether a segment's space is reserved at once.
    pub preallocate: bool,
    /// Whose time records carry.
    pub timestamp_type: TimestampType,
    /// How far a timestamp may lie before the broker's clock.
    pub timestamp_before_max_ms: i64,
    /// How far a timestamp may lie after the broker's clock.
    pub timestamp_after_max_ms: i64,
    /// `leader.replication.throttled.replicas`.
    pub leader_throttled_replicas: Vec<String>,
    /// `follower.replication.throttled.replicas`.
    pub follower_throttled_replicas: Vec<String>,
}

impl TopicConfig {
    /// The settings of a topic with these overrides on a broker with these layers. An override
    /// that is unknown or breaks its rule (an older version may have let it in) does not count.
    #[must_use]
    pub fn resolve(overrides: &BTreeMap<String, String>, layers: &Layers) -> Self {
        let r = Reader { overrides, layers };
        let policy = r.list("cleanup.policy");
        let has = |name: &str| policy.iter().any(|p| p == name);
        let internal = r.maybe("internal.segment.bytes");
        Self {
            segment_bytes: internal.unwrap_or_else(|| r.int("segment.bytes")),
            segment_ms: r.long("segment.ms"),
            segment_jitter_ms: r.long("segment.jitter.ms"),
            segment_index_bytes: r.int("segment.index.bytes"),
            index_interval_bytes: r.int("index.interval.bytes"),
            flush_messages: r.long("flush.messages"),
            flush_ms: r.long("flush.ms"),
            retention_bytes: r.long("retention.bytes"),
            retention_ms: r.long("retention.ms"),
            max_message_bytes: r.int("max.message.bytes"),
            file_delete_delay_ms: r.long("file.delete.delay.ms"),
            delete: has("delete"),
            compact: has("compact"),
            delete_retention_ms: r.long("delete.retention.ms"),
            min_compaction_lag_ms: r.long("min.compaction.lag.ms"),
            max_compaction_lag_ms: r.long("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: r.double("min.cleanable.dirty.ratio"),
            unclean_leader_election: r.flag("unclean.leader.election.enable"),
            min_insync_replicas: r.int("min.insync.replicas"),
            compression: compression(&r.text("compression.type")),
            gzip_level: r.int("compression.gzip.level"),
            lz4_level: r.int("compression.lz4.level"),
            zstd_level: r.int("compression.zstd.level"),
            preallocate: r.flag("preallocate"),
            timestamp_type: match r.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: r.long("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: r.long("message.timestamp.after.max.ms"),
            leader_throttled_replicas: r.list("leader.replication.throttled.replicas"),
            follower_throttled_replicas: r.list("follower.replication.throttled.replicas"),
        }
    }

    /// The age at which a segment is closed: a compacted topic rolls early enough for its
    /// compaction lag (`LogConfig.maxSegmentMs`).
    #[must_use]
    pub fn max_segment_ms(&self) -> i64 {
        if self.compact && self.max_compaction_lag_ms > 0 {
            self.max_compaction_lag_ms.min(self.segment_ms)
        } else {
            self.segment_ms
        }
    }
}

fn compression(name: &str) -> CompressionType {
    match name {
        "uncompressed" => CompressionType::Uncompressed,
        "gzip" => CompressionType::Gzip,
        "snappy" => CompressionType::Snappy,
        "lz4" => CompressionType::Lz4,
        "zstd" => CompressionType::Zstd,
        _ => CompressionType::Producer,
    }
}

/// The value of a topic key and whether the topic itself says so.
pub(super) fn effective(
    key: &Key,
    overrides: &BTreeMap<String, String>,
    layers: &Layers,
) -> (Option<Value>, Option<ConfigSource>) {
    let own = overrides.get(key.name).and_then(|text| Value::parse(key, text).ok());
    if own.is_some() {
        return (own, Some(ConfigSource::Topic));
    }
    let value = match layers.strongest(key.fallbacks) {
        // Any negative retention of the broker means for ever.
        Some((Value::Number(n), _)) if n < 0 && key.name == "retention.ms" => {
            Some(Value::Number(-1))
        }
        Some((Value::Number(n), unit)) => Some(Value::Number(n.saturating_mul(unit))),
        Some((value, _)) => Some(value),
        None => key.default.and_then(|text| Value::parse(key, text).ok()),
    };
    (value, None)
}

struct Reader<'a> {
    overrides: &'a BTreeMap<String, String>,
    layers: &'a Layers,
}

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        let key = keys::topic_key(name);
        assert!(key.is_some(), "{name} is in the table of topic keys");
        effective(key?, self.overrides, self.layers).0
    }

    fn long(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Number(n)) => n,
            _ => 0,
        }
    }

    fn int(&self, name: &str) -> i32 {
        i32::try_from(self.long(name)).unwrap_or(i32::MAX)
    }

    fn maybe(&self, name: &str) -> Option<i32> {
        self.value(name).map(|_| self.int(name))
    }

    fn double(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Double(d)) => d,
            _ => 0.0,
        }
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Bool(true)))
    }

    fn text(&self, name: &str) -> String {
        match self.value(name) {
            Some(Value::Text(text)) => text,
            _ => String::new(),
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }
}

/// Checks all overrides of a topic, as they would stand after a change, against the table, each
/// other and the broker's layers (`LogConfig.validate`).
///
/// # Errors
/// The first override that is refused. Kafka answers INVALID_CONFIG with the error's text.
pub fn validate_topic_configs(
    overrides: &BTreeMap<String, String>,
    layers: &Layers,
) -> Result<(), TopicConfigError> {
    for name in overrides.keys() {
        if keys::topic_key(name).is_none() {
            return Err(TopicConfigError::Unknown(name.clone()));
        }
    }
    for key in keys::topic_keys() {
        let Some(text) = overrides.get(key.name) else { continue };
        if let Err(rule) = Value::parse(key, text) {
            let (key, value) = (key.name.to_owned(), text.clone());
            return Err(TopicConfigError::Invalid { key, value, rule });
        }
    }
    let topic = TopicConfig::resolve(overrides, layers);
    let (min, max) = (topic.min_compaction_lag_ms, topic.max_compaction_lag_ms);
    if min > max {
        return Err(TopicConfigError::Conflict(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms \
             ({max})"
        )));
    }
    let remote = overrides.get("remote.storage.enable");
    if remote.is_some_and(|v| v.trim().eq_ignore_ascii_case("true")) {
        return Err(TopicConfigError::Conflict(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured \
             with remote log storage."
                .to_owned(),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn layers(text: &str) -> Layers {
        let loaded = load(&Sources { path: "f", text, ..Sources::default() }).unwrap();
        Layers::fixed(loaded.settings)
    }

    #[test]
    fn defaults_are_kafkas() {
        let c = TopicConfig::resolve(&BTreeMap::new(), &Layers::default());
        assert_eq!(c.segment_bytes, 1 << 30);
        assert_eq!(c.retention_ms, 604_800_000);
        assert_eq!(c.max_message_bytes, 1_048_588);
        assert_eq!((c.delete, c.compact), (true, false));
        assert_eq!(c.compression, CompressionType::Producer);
        assert_eq!(c.timestamp_after_max_ms, 3_600_000);
        assert_eq!(c.flush_ms, i64::MAX);
        assert_eq!(c.max_segment_ms(), 604_800_000);
    }

    #[test]
    fn a_topic_beats_dynamic_beats_static() {
        let mut l = layers("log.retention.hours=2\ncompression.type=lz4\nlog.roll.hours=1\n");
        let ms = |l: &Layers, o: &[(&str, &str)]| TopicConfig::resolve(&map(o), l).retention_ms;
        assert_eq!(ms(&l, &[]), 7_200_000);
        l.dynamic_default.insert("log.retention.ms".into(), "5".into());
        assert_eq!(ms(&l, &[]), 5);
        l.dynamic_broker.insert("log.retention.ms".into(), "6".into());
        assert_eq!(ms(&l, &[]), 6);
        assert_eq!(ms(&l, &[("retention.ms", "7")]), 7);
        assert_eq!(ms(&l, &[("retention.ms", "seven")]), 6, "a stored bad value does not count");
        let c = TopicConfig::resolve(&map(&[("cleanup.policy", "compact,delete")]), &l);
        assert_eq!((c.delete, c.compact, c.segment_ms), (true, true, 3_600_000));
        assert_eq!(c.compression, CompressionType::Lz4);
    }

    #[test]
    fn negative_retention_of_the_broker_is_for_ever() {
        let l = layers("log.retention.minutes=-5");
        assert_eq!(TopicConfig::resolve(&BTreeMap::new(), &l).retention_ms, -1);
    }

    #[test]
    fn overrides_are_refused_in_kafkas_words() {
        for (key, value, text) in [
            ("retention", "1", "Unknown topic config name: retention"),
            (
                "retention.ms",
                "-5",
                "Invalid value -5 for configuration retention.ms: Value must be at least -1",
            ),
            (
                "cleanup.policy",
                "delete,delete",
                "Configuration 'cleanup.policy' values must not be duplicated.",
            ),
            (
                "max.compaction.lag.ms",
                "5",
                "conflict topic config setting min.compaction.lag.ms (10) > \
                 max.compaction.lag.ms (5)",
            ),
            (
                "remote.storage.enable",
                "true",
                "Tiered Storage functionality is disabled in the broker. Topic cannot be \
                 configured with remote log storage.",
            ),
        ] {
            let overrides = map(&[("min.compaction.lag.ms", "10"), (key, value)]);
            let got = validate_topic_configs(&overrides, &Layers::default()).unwrap_err();
            assert_eq!(got.to_string(), text);
        }
        let fine = map(&[("internal.segment.bytes", "100"), ("cleanup.policy", "")]);
        assert_eq!(validate_topic_configs(&fine, &Layers::default()), Ok(()));
    }
}
