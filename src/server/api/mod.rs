//! The handlers, one file a family of APIs, mirroring `wire/api`, and THE table of APIs: what is
//! not in it is neither served nor advertised.

pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod fetch;
mod fetch_read;
pub(crate) mod groups;
pub(crate) mod metadata;
pub(crate) mod offsets;
pub(crate) mod produce;
pub(crate) mod topics;
pub(crate) mod versions;

use std::sync::Arc;

use crate::{
    server::{
        context::{Broker, Caller},
        dispatch::Outcome,
    },
    wire::{
        codec::{DecodeError, Reader},
        frame::ApiKey,
        message::Message,
    },
};

/// Decodes a request and carries it out.
pub(crate) type Run = fn(&Arc<Broker>, Caller, &mut Reader<'_>) -> Result<Outcome, DecodeError>;

/// One API.
#[derive(Debug)]
pub(crate) struct Row {
    /// Which.
    pub(crate) key: ApiKey,
    /// What serves it.
    pub(crate) run: Run,
}

impl Row {
    /// The row of `key`, if it is served.
    pub(crate) fn of(key: ApiKey) -> Option<&'static Self> {
        ROWS.binary_search_by_key(&key.code(), |r| r.key.code()).ok().map(|i| &ROWS[i])
    }
}

/// A handler that answers at once.
macro_rules! at_once {
    ($handler:path) => {
        |broker, caller, r| {
            let request = Message::decode(r, caller.version)?;
            Ok(caller.ready(&$handler(broker, &caller, request)))
        }
    };
}

/// A handler that may wait.
macro_rules! in_time {
    ($handler:path) => {
        |broker, caller, r| {
            let request = Message::decode(r, caller.version)?;
            let broker = Arc::clone(broker);
            Ok(Outcome::Later(Box::pin(async move {
                let response = $handler(&broker, &caller, request).await;
                caller.chunks(&response)
            })))
        }
    };
}

/// A handler that knows itself whether it must wait.
macro_rules! by_itself {
    ($handler:path) => {
        |broker, caller, r| {
            let request = Message::decode(r, caller.version)?;
            Ok($handler(broker, caller, request))
        }
    };
}

/// All APIs that clients are served, by number.
pub(crate) static ROWS: &[Row] = &[
    Row { key: ApiKey::Produce, run: by_itself!(produce::produce) },
    Row { key: ApiKey::Fetch, run: by_itself!(fetch::fetch) },
    Row { key: ApiKey::ListOffsets, run: at_once!(offsets::list_offsets) },
    Row { key: ApiKey::Metadata, run: by_itself!(metadata::metadata) },
    Row { key: ApiKey::OffsetCommit, run: in_time!(groups::offset_commit) },
    Row { key: ApiKey::OffsetFetch, run: in_time!(groups::offset_fetch) },
    Row { key: ApiKey::FindCoordinator, run: in_time!(groups::find_coordinator) },
    Row { key: ApiKey::JoinGroup, run: in_time!(groups::join_group) },
    Row { key: ApiKey::Heartbeat, run: in_time!(groups::heartbeat) },
    Row { key: ApiKey::LeaveGroup, run: in_time!(groups::leave_group) },
    Row { key: ApiKey::SyncGroup, run: in_time!(groups::sync_group) },
    Row { key: ApiKey::DescribeGroups, run: at_once!(groups::describe_groups) },
    Row { key: ApiKey::ListGroups, run: at_once!(groups::list_groups) },
    Row { key: ApiKey::ApiVersions, run: at_once!(versions::api_versions) },
    Row { key: ApiKey::CreateTopics, run: in_time!(topics::create_topics) },
    Row { key: ApiKey::DeleteTopics, run: in_time!(topics::delete_topics) },
    Row { key: ApiKey::DeleteRecords, run: at_once!(offsets::delete_records) },
    Row { key: ApiKey::InitProducerId, run: in_time!(cluster::init_producer_id) },
    Row { key: ApiKey::OffsetForLeaderEpoch, run: at_once!(offsets::offset_for_leader_epoch) },
    Row { key: ApiKey::DescribeConfigs, run: at_once!(configs::describe_configs) },
    Row { key: ApiKey::AlterConfigs, run: in_time!(configs::alter_configs) },
    Row { key: ApiKey::DescribeLogDirs, run: at_once!(cluster::describe_log_dirs) },
    Row { key: ApiKey::CreatePartitions, run: in_time!(topics::create_partitions) },
    Row { key: ApiKey::DeleteGroups, run: in_time!(groups::delete_groups) },
    Row { key: ApiKey::IncrementalAlterConfigs, run: in_time!(configs::incremental_alter_configs) },
    Row { key: ApiKey::OffsetDelete, run: in_time!(groups::offset_delete) },
    Row { key: ApiKey::DescribeQuorum, run: at_once!(cluster::describe_quorum) },
    Row { key: ApiKey::UpdateFeatures, run: in_time!(cluster::update_features) },
    Row { key: ApiKey::DescribeCluster, run: at_once!(metadata::describe_cluster) },
    Row { key: ApiKey::DescribeProducers, run: at_once!(offsets::describe_producers) },
    Row { key: ApiKey::ListConfigResources, run: at_once!(configs::list_config_resources) },
    Row {
        key: ApiKey::DescribeTopicPartitions,
        run: at_once!(metadata::describe_topic_partitions),
    },
];

/// Topics that brokers keep for themselves (`Topic.java`).
pub(crate) fn is_internal(topic: &str) -> bool {
    matches!(topic, "__consumer_offsets" | "__transaction_state" | "__share_group_state")
}

/// What everybody may do where no authorizer is set, as bits by the number of the operation
/// (`AclEntry.supportedOperations`).
pub(crate) mod allowed {
    /// Read, write, create, delete, alter, describe, describe and alter configs.
    pub(crate) const TOPIC: i32 = 0b1101_1111_1000;
    /// Create, alter, describe, cluster action, describe and alter configs, idempotent write.
    pub(crate) const CLUSTER: i32 = 0b1_1111_1010_0000;
    /// Read, delete, describe, describe and alter configs.
    pub(crate) const GROUP: i32 = 0b1101_0100_1000;
    /// It was not asked for.
    pub(crate) const NOT_ASKED: i32 = i32::MIN;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_finds_every_row() {
        assert!(ROWS.is_sorted_by_key(|r| r.key.code()));
        for row in ROWS {
            assert_eq!(Row::of(row.key).map(|r| r.key), Some(row.key));
        }
    }
}
