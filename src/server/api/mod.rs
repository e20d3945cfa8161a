//! The handlers, one file a family of APIs, mirroring `wire/api`, and THE table of APIs: what is
//! not in it is neither served nor advertised.

pub(crate) mod cluster;
pub(crate) mod configs;
pub(crate) mod consumer_groups;
mod cordoned;
pub(crate) mod fetch;
mod fetch_read;
pub(crate) mod groups;
pub(crate) mod metadata;
pub(crate) mod offsets;
pub(crate) mod partitions;
pub(crate) mod produce;
mod produce_txn;
pub(crate) mod quorum;
pub(crate) mod share_fetch;
pub(crate) mod share_groups;
pub(crate) mod share_state;
pub(crate) mod topics;
pub(crate) mod topics_delete;
pub(crate) mod txn;
pub(crate) mod txn_markers;
pub(crate) mod txn_offsets;
pub(crate) mod versions;

use std::sync::Arc;

use crate::{
    server::{
        context::{Admin, Broker, Caller, Role},
        dispatch::Outcome,
    },
    wire::{
        codec::{DecodeError, Reader},
        frame::ApiKey,
        message::Message,
    },
};

/// Decodes a request and carries it out, and thereby says on which listeners an API is served
/// (facts: column "listeners" of Kafka's message JSON).
pub(crate) enum Run {
    /// On brokers only.
    Broker(fn(&Arc<Broker>, Caller, &mut Reader<'_>) -> Result<Outcome, DecodeError>),
    /// On brokers and controllers.
    Admin(RunAdmin),
    /// On controllers only.
    Controller(RunAdmin),
}

/// What serves an API that controllers have.
pub(crate) type RunAdmin =
    fn(&Arc<dyn Admin>, Caller, &mut Reader<'_>) -> Result<Outcome, DecodeError>;

/// One API.
pub(crate) struct Row {
    /// Which.
    pub(crate) key: ApiKey,
    /// What serves it.
    pub(crate) run: Run,
}

impl Row {
    /// The row of `key`, if it is served anywhere.
    pub(crate) fn of(key: ApiKey) -> Option<&'static Self> {
        ROWS.binary_search_by_key(&key.code(), |r| r.key.code()).ok().map(|i| &ROWS[i])
    }

    /// Whether listeners of `role` serve it.
    pub(crate) fn is_served_by(&self, role: Role) -> bool {
        match self.run {
            Run::Broker(_) => role == Role::Broker,
            Run::Admin(_) => true,
            Run::Controller(_) => role == Role::Controller,
        }
    }
}

/// A handler that answers at once; on brokers unless another kind of [`Run`] is named.
macro_rules! at_once {
    ($handler:path) => {
        at_once!(Broker, $handler)
    };
    ($run:ident, $handler:path) => {
        Run::$run(|node, caller, r| {
            let request = Message::decode(r, caller.version)?;
            Ok(caller.ready(&$handler(&**node, &caller, request)))
        })
    };
}

/// A handler that may wait; on brokers unless another kind of [`Run`] is named.
macro_rules! in_time {
    ($handler:path) => {
        in_time!(Broker, $handler)
    };
    ($run:ident, $handler:path) => {
        Run::$run(|node, caller, r| {
            let request = Message::decode(r, caller.version)?;
            let node = Arc::clone(node);
            Ok(Outcome::Later(Box::pin(async move {
                let response = $handler(&*node, &caller, request).await;
                caller.chunks(&response)
            })))
        })
    };
}

/// A broker's handler that knows itself whether it must wait.
macro_rules! by_itself {
    ($handler:path) => {
        Run::Broker(|broker, caller, r| {
            let request = Message::decode(r, caller.version)?;
            Ok($handler(broker, caller, request))
        })
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
    Row { key: ApiKey::ApiVersions, run: at_once!(Admin, versions::api_versions) },
    Row { key: ApiKey::CreateTopics, run: in_time!(Admin, topics::create_topics) },
    Row { key: ApiKey::DeleteTopics, run: in_time!(Admin, topics_delete::delete_topics) },
    Row { key: ApiKey::DeleteRecords, run: by_itself!(offsets::delete_records) },
    Row { key: ApiKey::InitProducerId, run: in_time!(cluster::init_producer_id) },
    Row { key: ApiKey::OffsetForLeaderEpoch, run: at_once!(offsets::offset_for_leader_epoch) },
    Row { key: ApiKey::AddPartitionsToTxn, run: in_time!(txn::add_partitions_to_txn) },
    Row { key: ApiKey::AddOffsetsToTxn, run: in_time!(txn::add_offsets_to_txn) },
    Row { key: ApiKey::EndTxn, run: in_time!(txn::end_txn) },
    Row { key: ApiKey::WriteTxnMarkers, run: in_time!(txn_markers::write_txn_markers) },
    Row { key: ApiKey::TxnOffsetCommit, run: by_itself!(txn_offsets::txn_offset_commit) },
    Row { key: ApiKey::DescribeConfigs, run: at_once!(Admin, configs::describe_configs) },
    Row { key: ApiKey::AlterConfigs, run: in_time!(Admin, configs::alter_configs) },
    Row { key: ApiKey::AlterReplicaLogDirs, run: at_once!(cluster::alter_replica_log_dirs) },
    Row { key: ApiKey::DescribeLogDirs, run: at_once!(cluster::describe_log_dirs) },
    Row { key: ApiKey::CreatePartitions, run: in_time!(Admin, topics::create_partitions) },
    Row { key: ApiKey::DeleteGroups, run: in_time!(groups::delete_groups) },
    Row { key: ApiKey::ElectLeaders, run: in_time!(Admin, partitions::elect_leaders) },
    Row {
        key: ApiKey::IncrementalAlterConfigs,
        run: in_time!(Admin, configs::incremental_alter_configs),
    },
    Row {
        key: ApiKey::AlterPartitionReassignments,
        run: in_time!(Admin, partitions::alter_partition_reassignments),
    },
    Row {
        key: ApiKey::ListPartitionReassignments,
        run: in_time!(Admin, partitions::list_partition_reassignments),
    },
    Row { key: ApiKey::OffsetDelete, run: in_time!(groups::offset_delete) },
    Row { key: ApiKey::DescribeQuorum, run: in_time!(Admin, quorum::describe_quorum) },
    Row { key: ApiKey::UpdateFeatures, run: in_time!(Admin, cluster::update_features) },
    Row { key: ApiKey::DescribeCluster, run: at_once!(Admin, metadata::describe_cluster) },
    Row { key: ApiKey::DescribeProducers, run: at_once!(offsets::describe_producers) },
    Row { key: ApiKey::UnregisterBroker, run: in_time!(Admin, cluster::unregister_broker) },
    Row { key: ApiKey::DescribeTransactions, run: at_once!(txn::describe_transactions) },
    Row { key: ApiKey::ListTransactions, run: at_once!(txn::list_transactions) },
    Row {
        key: ApiKey::ConsumerGroupHeartbeat,
        run: in_time!(consumer_groups::consumer_group_heartbeat),
    },
    Row {
        key: ApiKey::ConsumerGroupDescribe,
        run: at_once!(consumer_groups::consumer_group_describe),
    },
    Row { key: ApiKey::ListConfigResources, run: at_once!(configs::list_config_resources) },
    Row {
        key: ApiKey::DescribeTopicPartitions,
        run: at_once!(metadata::describe_topic_partitions),
    },
    Row { key: ApiKey::ShareGroupHeartbeat, run: in_time!(share_groups::share_group_heartbeat) },
    Row { key: ApiKey::ShareGroupDescribe, run: at_once!(share_groups::share_group_describe) },
    Row { key: ApiKey::ShareFetch, run: by_itself!(share_fetch::share_fetch) },
    Row { key: ApiKey::ShareAcknowledge, run: by_itself!(share_fetch::share_acknowledge) },
    Row { key: ApiKey::AddRaftVoter, run: in_time!(Admin, quorum::add_raft_voter) },
    Row { key: ApiKey::RemoveRaftVoter, run: in_time!(Admin, quorum::remove_raft_voter) },
    Row { key: ApiKey::UpdateRaftVoter, run: in_time!(Controller, quorum::update_raft_voter) },
    Row { key: ApiKey::InitializeShareGroupState, run: in_time!(share_state::initialize) },
    Row { key: ApiKey::ReadShareGroupState, run: in_time!(share_state::read) },
    Row { key: ApiKey::WriteShareGroupState, run: in_time!(share_state::write) },
    Row { key: ApiKey::DeleteShareGroupState, run: in_time!(share_state::delete) },
    Row { key: ApiKey::ReadShareGroupStateSummary, run: in_time!(share_state::summary) },
    Row {
        key: ApiKey::DescribeShareGroupOffsets,
        run: in_time!(share_groups::describe_share_group_offsets),
    },
    Row {
        key: ApiKey::AlterShareGroupOffsets,
        run: in_time!(share_groups::alter_share_group_offsets),
    },
    Row {
        key: ApiKey::DeleteShareGroupOffsets,
        run: in_time!(share_groups::delete_share_group_offsets),
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

    #[test]
    fn each_listener_serves_its_own() {
        let on = |key, role| Row::of(key).is_some_and(|r| r.is_served_by(role));
        for (key, broker, controller) in [
            (ApiKey::Produce, true, false),
            (ApiKey::Metadata, true, false),
            (ApiKey::DescribeQuorum, true, true),
            (ApiKey::UpdateRaftVoter, false, true),
        ] {
            assert_eq!((on(key, Role::Broker), on(key, Role::Controller)), (broker, controller));
        }
    }
}
