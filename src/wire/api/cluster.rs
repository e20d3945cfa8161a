//! AlterReplicaLogDirs, DescribeLogDirs, UpdateFeatures, InitProducerId, UnregisterBroker. Uses `base`.

use crate::base::ErrorCode;

messages! {
    /// Moves replicas of a broker between its log directories. Key 34.
    request AlterReplicaLogDirsRequest(AlterReplicaLogDirs) => AlterReplicaLogDirsResponse {
        dirs: Vec<AlterReplicaLogDir>;
    }

    /// What shall lie in one log directory.
    part AlterReplicaLogDir {
        path: String;
        topics: Vec<AlterReplicaLogDirTopic>;
    }

    /// The partitions of one topic.
    part AlterReplicaLogDirTopic {
        name: String;
        partitions: Vec<i32>;
    }

    /// What became of it: whether the moves have begun.
    response AlterReplicaLogDirsResponse(AlterReplicaLogDirs) {
        throttle_time_ms: i32;
        results: Vec<AlterReplicaLogDirTopicResult>;
    }

    /// The answer for one topic.
    part AlterReplicaLogDirTopicResult {
        topic_name: String;
        partitions: Vec<AlterReplicaLogDirPartitionResult>;
    }

    /// The answer for one partition.
    part AlterReplicaLogDirPartitionResult {
        partition_index: i32;
        error_code: ErrorCode;
    }

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

    /// Forgets a broker that is gone for good. Key 64.
    request UnregisterBrokerRequest(UnregisterBroker) => UnregisterBrokerResponse {
        broker_id: i32;
    }

    /// Whether it is forgotten.
    response UnregisterBrokerResponse(UnregisterBroker) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
    }
}
