//! What topics are set to: the same for all in one seed.

use std::sync::Arc;

use vltava::{
    base::NodeId,
    controller::{ConfigSchema, EffectiveConfig, Settings, TopicDefaults},
    log::LogConfig,
    metadata::{ConfigResource, Record, ResourceType, configs::Properties, features},
    record::Rules,
    replica::{quota::ThrottledReplicas, settings::PartitionSettings},
};

use crate::plan::Plan;

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

/// The settings of every partition.
pub fn partition_settings(plan: &Plan) -> Arc<PartitionSettings> {
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
    let rules = Rules { timestamp_after_max_ms: i64::MAX, ..Rules::default() };
    Arc::new(PartitionSettings {
        rules,
        log: Arc::new(log),
        min_insync_replicas: plan.min_isr,
        lag_max: std::time::Duration::from_millis(LAG_MS),
        followers_serve: false,
        throttled: ThrottledReplicas::default(),
    })
}

/// The settings of the partitions of a topic: those of coordinators hold larger batches.
pub fn settings_of(topic: &str, settings: &Arc<PartitionSettings>) -> Arc<PartitionSettings> {
    if !topic.starts_with("__") {
        return Arc::clone(settings);
    }
    let segment_bytes = settings.log.segment_bytes.max(16 * 1024);
    let log = Arc::new(LogConfig { segment_bytes, ..(*settings.log).clone() });
    Arc::new(PartitionSettings { log, ..(**settings).clone() })
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
