//! DescribeLogDirs, DescribeQuorum, UpdateFeatures, InitProducerId. Uses `base`.

use crate::base::{ErrorCode, Uuid};

messages! {
    /// Asks what lies in the log directories of a broker. Key 35.
    request DescribeLogDirsRequest(DescribeLogDirs) => DescribeLogDirsResponse {
        /// Null for all.
        topics: Option<Vec<DescribableLogDirTopic>>;
    }

    /// The partitions of one topic.
    part DescribableLogDirTopic {
        topic: String;
        partitions: Vec<i32>;
    }

    /// The log directories.
    response DescribeLogDirsResponse(DescribeLogDirs) {
        throttle_time_ms: i32;
        error_code: ErrorCode = 3..;
        results: Vec<DescribeLogDirsResult>;
    }

    /// A log directory.
    part DescribeLogDirsResult {
        error_code: ErrorCode;
        log_dir: String;
        topics: Vec<DescribeLogDirsTopic>;
        total_bytes: i64 = 4.., default -1;
        usable_bytes: i64 = 4.., default -1;
        is_cordoned: bool = 5..;
    }

    /// The replicas of one topic.
    part DescribeLogDirsTopic {
        name: String;
        partitions: Vec<DescribeLogDirsPartition>;
    }

    /// A replica.
    part DescribeLogDirsPartition {
        partition_index: i32;
        partition_size: i64;
        /// How far the replica is behind the high watermark, or the future one behind the current.
        offset_lag: i64;
        is_future_key: bool;
    }

    /// Asks for the state of the controllers' quorum. Key 55.
    request DescribeQuorumRequest(DescribeQuorum) => DescribeQuorumResponse {
        topics: Vec<QuorumTopicRequest>;
    }

    /// The topic to describe: `__cluster_metadata`.
    part QuorumTopicRequest {
        topic_name: String;
        partitions: Vec<QuorumPartitionRequest>;
    }

    /// The partition to describe: 0.
    part QuorumPartitionRequest {
        partition_index: i32;
    }

    /// The state of the quorum.
    response DescribeQuorumResponse(DescribeQuorum) {
        error_code: ErrorCode;
        error_message: Option<String> = 2..;
        topics: Vec<QuorumTopic>;
        nodes: Vec<QuorumNode> = 2..;
    }

    /// The topic.
    part QuorumTopic {
        topic_name: String;
        partitions: Vec<QuorumPartition>;
    }

    /// Leader, voters and observers.
    part QuorumPartition {
        partition_index: i32;
        error_code: ErrorCode;
        error_message: Option<String> = 2..;
        leader_id: i32;
        leader_epoch: i32;
        high_watermark: i64;
        current_voters: Vec<QuorumReplica>;
        observers: Vec<QuorumReplica>;
    }

    /// Where to reach a voter.
    part QuorumNode {
        node_id: i32;
        listeners: Vec<QuorumListener>;
    }

    /// A listener of a voter.
    part QuorumListener {
        name: String;
        host: String;
        port: u16;
    }

    /// How far a voter or observer is.
    part QuorumReplica {
        replica_id: i32;
        replica_directory_id: Uuid = 2..;
        log_end_offset: i64;
        last_fetch_timestamp: i64 = 1.., default -1;
        last_caught_up_timestamp: i64 = 1.., default -1;
    }

    /// Raises or lowers features of the cluster. Key 57.
    request UpdateFeaturesRequest(UpdateFeatures) => UpdateFeaturesResponse {
        timeout_ms: i32, default 60000;
        feature_updates: Vec<FeatureUpdateKey>;
        validate_only: bool = 1..;
    }

    /// The level that a feature shall have; 0 to remove it.
    part FeatureUpdateKey {
        feature: String;
        max_version_level: i16;
        allow_downgrade: bool = ..=0;
        /// 1 upgrade, 2 safe downgrade, 3 unsafe downgrade.
        upgrade_type: i8 = 1.., default 1;
    }

    /// What became of the updates: all or none from version 2.
    response UpdateFeaturesResponse(UpdateFeatures) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        results: Vec<UpdatableFeatureResult> = ..=1;
    }

    /// The answer for one feature.
    part UpdatableFeatureResult {
        feature: String;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Asks for a producer id, or raises the epoch of one. Key 22.
    request InitProducerIdRequest(InitProducerId) => InitProducerIdResponse {
        transactional_id: Option<String>;
        transaction_timeout_ms: i32;
        producer_id: i64 = 3.., default -1;
        producer_epoch: i16 = 3.., default -1;
    }

    /// The producer id and epoch.
    response InitProducerIdResponse(InitProducerId) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        producer_id: i64, default -1;
        producer_epoch: i16;
    }
}
