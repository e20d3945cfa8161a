//! The configuration table as the controller asks for it, and a topic's settings as its replicas
//! want them: the seam between `config`, `controller` and `replica`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{
    config::{
        CompressionType, Layers, ServerConfig, TimestampType, TopicConfig, describe, dynamic,
        group,
        keys::{self, Kind},
        topic::validate_topic_configs,
        value::Value,
    },
    controller::{ConfigSchema, EffectiveConfig},
    log::{LogConfig, RATIO_WHOLE},
    metadata::{ConfigResource, Image, ResourceType, configs::Properties},
    record::{self, Compression, Rules},
    replica::{
        quota::{Throttled, ThrottledReplicas},
        settings::PartitionSettings,
    },
    server::context::owned,
};

/// The settings of the replicas of `topic`.
pub(crate) fn partition_settings(
    layers: &Layers,
    image: &Image,
    topic: &str,
    server: &ServerConfig,
) -> Arc<PartitionSettings> {
    let config = TopicConfig::resolve(&owned(&image.configs().topic(topic)), layers);
    let size = |n: i32| u64::try_from(n).unwrap_or(0);
    let batch_bytes_max = usize::try_from(config.max_message_bytes).unwrap_or(0);
    let log = LogConfig {
        segment_bytes: size(config.segment_bytes),
        segment_ms: config.segment_ms,
        segment_jitter_ms: config.segment_jitter_ms,
        segment_index_bytes: size(config.segment_index_bytes),
        index_interval_bytes: size(config.index_interval_bytes),
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        flush_messages: config.flush_messages,
        flush_ms: config.flush_ms,
        file_delete_delay_ms: config.file_delete_delay_ms,
        delete: config.delete,
        compact: config.compact,
        max_compaction_lag_ms: config.max_compaction_lag_ms,
        min_compaction_lag_ms: config.min_compaction_lag_ms,
        min_cleanable_ratio: (config.min_cleanable_dirty_ratio * RATIO_WHOLE as f64) as u64,
        delete_retention_ms: config.delete_retention_ms,
        max_message_bytes: batch_bytes_max,
        producer_id_expiration_ms: i64::from(server.logs.producer_id_expiration_ms),
        verify_transactions: verifies_transactions(layers),
        preallocate: config.preallocate,
    };
    let rules = Rules {
        batch_bytes_max,
        timestamp_type: match config.timestamp_type {
            TimestampType::CreateTime => record::TimestampType::CreateTime,
            TimestampType::LogAppendTime => record::TimestampType::LogAppendTime,
        },
        timestamp_before_max_ms: config.timestamp_before_max_ms,
        timestamp_after_max_ms: config.timestamp_after_max_ms,
        compacted: config.compact,
        compression: compression(&config),
        inflated_bytes_max: Rules::inflated_bytes_for(batch_bytes_max),
    };
    Arc::new(PartitionSettings {
        rules,
        log: Arc::new(log),
        min_insync_replicas: usize::try_from(config.min_insync_replicas).unwrap_or(1),
        lag_max: Duration::from_millis(server.replica.lag_time_max_ms.try_into().unwrap_or(0)),
        followers_serve: server.replica.selects_by_rack(),
        throttled: ThrottledReplicas {
            leader: Throttled::of(&config.leader_throttled_replicas, server.node_id),
            follower: Throttled::of(&config.follower_throttled_replicas, server.node_id),
        },
    })
}

/// A dynamic key of the cluster: `transaction.partition.verification.enable`.
fn verifies_transactions(layers: &Layers) -> bool {
    layers.value("transaction.partition.verification.enable") != Some(Value::Bool(false))
}

fn compression(config: &TopicConfig) -> Option<Compression> {
    Some(match config.compression {
        CompressionType::Producer => return None,
        CompressionType::Uncompressed => Compression::None,
        CompressionType::Gzip => Compression::Gzip(config.gzip_level),
        CompressionType::Snappy => Compression::Snappy,
        CompressionType::Lz4 => Compression::Lz4(config.lz4_level),
        CompressionType::Zstd => Compression::Zstd(config.zstd_level),
    })
}

/// The table of keys, over what this node was started with.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) settings: Arc<ServerConfig>,
}

impl ConfigSchema for Schema {
    fn is_list(&self, kind: ResourceType, key: &str) -> bool {
        let row = match kind {
            ResourceType::Topic => keys::topic_key(key),
            _ => keys::server_key(key),
        };
        row.is_some_and(|k| k.kind == Kind::List)
    }

    fn default_value(&self, kind: ResourceType, key: &str) -> Option<String> {
        match kind {
            ResourceType::Topic => {
                let all = describe::describe_topic(&BTreeMap::new(), &self.settings.layers);
                all.into_iter().find(|e| e.name == key).and_then(|e| e.value)
            }
            _ => self.settings.layers.value(key).map(|v| v.text()),
        }
    }

    fn validate(
        &self,
        resource: &ConfigResource,
        new: &Properties,
        old: &Properties,
    ) -> Result<(), String> {
        match resource.kind {
            ResourceType::Topic => validate_topic_configs(&owned(new), &self.settings.layers)
                .map_err(|e| e.to_string()),
            ResourceType::Broker => {
                let one = !resource.name.is_empty();
                // What was there before and stays is no change.
                let old = owned(old);
                let mut changed = owned(new);
                changed.retain(|k, v| old.get(k) != Some(v));
                dynamic::validate_broker_configs(&changed, one, &self.settings.layers)
            }
            ResourceType::Group => group::validate(&owned(new), &self.settings.layers),
            ResourceType::ClientMetrics => Err(format!(
                "Settings of {} resources are not supported by this version.",
                resource.kind.code()
            )),
        }
    }

    fn effective_topic(&self, topic: &Properties, cluster: &Properties) -> Vec<EffectiveConfig> {
        let layers = Layers { dynamic_default: owned(cluster), ..self.settings.layers.clone() };
        describe::describe_topic(&owned(topic), &layers)
            .into_iter()
            .map(|e| EffectiveConfig {
                name: e.name,
                value: e.value,
                source: e.source.code(),
                read_only: e.read_only,
                sensitive: e.sensitive,
            })
            .collect()
    }
}
