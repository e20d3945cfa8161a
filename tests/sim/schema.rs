//! What topics are set to: the same for all in one seed.

use std::sync::Arc;

use vltava::{
    base::NodeId,
    controller::{ConfigSchema, EffectiveConfig, Settings, TopicDefaults},
    log::{LogConfig, RATIO_WHOLE},
    metadata::{ConfigResource, Record, ResourceType, configs::Properties, features},
    node::offsets_log::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC},
    record::Rules,
    replica::{quota::ThrottledReplicas, settings::PartitionSettings},
};

use crate::{clients::TOPIC, keyed::KEYED_TOPIC, plan::Plan};

pub const SESSION_MS: i64 = 2_000;
pub const HEARTBEAT_MS: u64 = 400;
/// `replica.lag.time.max.ms`.
pub const LAG_MS: u64 = 1_500;

/// A configuration table that takes everything.
#[derive(Debug)]
struct AnyKey;

impl ConfigSchema for AnyKey {
    fn is_list(&self, _: ResourceType, _: &str) -> bool {
        false
    }

    fn default_value(&self, _: ResourceType, _: &str) -> Option<String> {
        None
    }

    fn validate(&self, _: &ConfigResource, _: &Properties, _: &Properties) -> Result<(), String> {
        Ok(())
    }

    fn effective_topic(&self, _: &Properties, _: &Properties) -> Vec<EffectiveConfig> {
        Vec::new()
    }
}

/// The settings of partitions, by what their topic is for.
#[derive(Debug)]
pub struct PartitionsSettings {
    plain: Arc<PartitionSettings>,
    /// The topic that clients write to.
    retained: Arc<PartitionSettings>,
    /// Topics of coordinators hold larger batches.
    own: Arc<PartitionSettings>,
    own_compacted: Arc<PartitionSettings>,
    keyed: Arc<PartitionSettings>,
    compaction: bool,
}

/// The settings of every partition.
pub fn partition_settings(plan: &Plan) -> Arc<PartitionsSettings> {
    let log = LogConfig {
        segment_bytes: plan.segment_bytes,
        index_interval_bytes: 512,
        retention_ms: -1,
        // An hour, or none of the jumps of a wall clock may make a producer unknown.
        producer_id_expiration_ms: i64::MAX / 4,
        flush_messages: if plan.durable { 1 } else { i64::MAX },
        file_delete_delay_ms: 1_000,
        ..LogConfig::default()
    };
    let compacted = LogConfig {
        delete: false,
        compact: true,
        min_cleanable_ratio: plan.cleanable_percent * (RATIO_WHOLE / 100),
        delete_retention_ms: plan.delete_retention_ms,
        ..log.clone()
    };
    let own = LogConfig { segment_bytes: plan.segment_bytes.max(16 * 1024), ..log.clone() };
    // Small enough to be cleaned; no batch of a coordinator is larger here.
    let own_compacted = LogConfig { segment_bytes: 8 * 1024, ..compacted.clone() };
    let keyed = LogConfig { segment_bytes: plan.segment_bytes.min(1024), ..compacted };
    let mut retained = log.clone();
    if plan.retention_bytes >= 0 {
        retained.retention_bytes = plan.retention_bytes;
        retained.segment_bytes = plan.segment_bytes.min(4096);
    }
    let with = |log| {
        Arc::new(PartitionSettings {
            rules: Rules { timestamp_after_max_ms: i64::MAX, ..Rules::default() },
            log: Arc::new(log),
            min_insync_replicas: plan.min_isr,
            lag_max: std::time::Duration::from_millis(LAG_MS),
            followers_serve: false,
            throttled: ThrottledReplicas::default(),
        })
    };
    Arc::new(PartitionsSettings {
        plain: with(log),
        retained: with(retained),
        own: with(own),
        own_compacted: with(own_compacted),
        keyed: with(keyed),
        compaction: plan.keyed_partitions > 0,
    })
}

/// Whether newer records of a key replace older ones in the partitions of a topic.
pub fn is_compacted(plan: &Plan, topic: &str) -> bool {
    plan.keyed_partitions > 0 && [KEYED_TOPIC, OFFSETS_TOPIC, TRANSACTIONS_TOPIC].contains(&topic)
}

/// The settings of the partitions of a topic.
pub fn settings_of(topic: &str, settings: &PartitionsSettings) -> Arc<PartitionSettings> {
    Arc::clone(match topic {
        TOPIC => &settings.retained,
        KEYED_TOPIC => &settings.keyed,
        OFFSETS_TOPIC | TRANSACTIONS_TOPIC if settings.compaction => &settings.own_compacted,
        topic if topic.starts_with("__") => &settings.own,
        _ => &settings.plain,
    })
}

/// What a controller of the cluster is made with.
pub fn controller_settings(plan: &Plan, seat: usize, epoch: i32) -> Settings {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&plan.seed.to_le_bytes());
    seed[8..12].copy_from_slice(&epoch.to_le_bytes());
    let level = |name: &str, level: i16| Record::FeatureLevel { name: name.into(), level };
    Settings {
        node: NodeId(1000 + i32::try_from(seat).unwrap()),
        cluster_id: "cluster".into(),
        controllers: (0..3).map(|s| NodeId(1000 + s)).collect(),
        session_timeout_ms: SESSION_MS,
        rebalance_interval_ms: Some(5_000),
        unclean_interval_ms: 5_000,
        defaults: TopicDefaults {
            num_partitions: 1,
            replication_factor: 1,
            min_insync_replicas: plan.min_isr,
            unclean_leader_election: false,
        },
        bootstrap: vec![
            level(features::METADATA_VERSION, features::METADATA_VERSION_MAX),
            level(features::ELR_VERSION, 1),
            level(features::TRANSACTION_VERSION, plan.transaction_version),
        ],
        schema: Arc::new(AnyKey),
        seed,
    }
}
