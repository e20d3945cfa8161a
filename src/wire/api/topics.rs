//! CreateTopics, DeleteTopics, CreatePartitions. Uses `base`.

use crate::base::{ErrorCode, Uuid};

messages! {
    /// Creates topics. Key 19.
    request CreateTopicsRequest(CreateTopics) => CreateTopicsResponse {
        topics: Vec<CreatableTopic>;
        timeout_ms: i32, default 60000;
        validate_only: bool;
    }

    /// A topic to create.
    part CreatableTopic {
        name: String;
        /// -1 for the default or if `assignments` is given.
        num_partitions: i32;
        /// -1 for the default or if `assignments` is given.
        replication_factor: i16;
        assignments: Vec<CreatableReplicaAssignment>;
        configs: Vec<CreatableTopicConfig>;
    }

    /// The brokers of one partition, the preferred leader first.
    part CreatableReplicaAssignment {
        partition_index: i32;
        broker_ids: Vec<i32>;
    }

    /// A configuration value.
    part CreatableTopicConfig {
        name: String;
        value: Option<String>;
    }

    /// What became of each topic.
    response CreateTopicsResponse(CreateTopics) {
        throttle_time_ms: i32;
        topics: Vec<CreatableTopicResult>;
    }

    /// The answer for one topic.
    part CreatableTopicResult {
        name: String;
        topic_id: Uuid = 7..;
        error_code: ErrorCode;
        error_message: Option<String>;
        topic_config_error_code: ErrorCode = 5.., tag 0;
        num_partitions: i32 = 5.., default -1;
        replication_factor: i16 = 5.., default -1;
        configs: Option<Vec<CreatableTopicConfigs>> = 5..;
    }

    /// A configuration value as it took effect.
    part CreatableTopicConfigs {
        name: String;
        value: Option<String>;
        read_only: bool;
        config_source: i8, default -1;
        is_sensitive: bool;
    }

    /// Deletes topics. Key 20.
    request DeleteTopicsRequest(DeleteTopics) => DeleteTopicsResponse {
        topics: Vec<DeleteTopicState> = 6..;
        topic_names: Vec<String> = ..=5;
        timeout_ms: i32;
    }

    /// A topic to delete: by name, or by id if the name is null.
    part DeleteTopicState {
        name: Option<String>;
        topic_id: Uuid;
    }

    /// What became of each topic.
    response DeleteTopicsResponse(DeleteTopics) {
        throttle_time_ms: i32;
        responses: Vec<DeletableTopicResult>;
    }

    /// The answer for one topic.
    part DeletableTopicResult {
        name: Option<String>, null 6..;
        topic_id: Uuid = 6..;
        error_code: ErrorCode;
        error_message: Option<String> = 5..;
    }

    /// Adds partitions to topics. Key 37.
    request CreatePartitionsRequest(CreatePartitions) => CreatePartitionsResponse {
        topics: Vec<CreatePartitionsTopic>;
        timeout_ms: i32;
        validate_only: bool;
    }

    /// A topic that shall grow.
    part CreatePartitionsTopic {
        name: String;
        /// How many partitions the topic shall have in all.
        count: i32;
        /// Null to let the controller choose.
        assignments: Option<Vec<CreatePartitionsAssignment>>;
    }

    /// The brokers of one new partition, the preferred leader first.
    part CreatePartitionsAssignment {
        broker_ids: Vec<i32>;
    }

    /// What became of each topic.
    response CreatePartitionsResponse(CreatePartitions) {
        throttle_time_ms: i32;
        results: Vec<CreatePartitionsTopicResult>;
    }

    /// The answer for one topic.
    part CreatePartitionsTopicResult {
        name: String;
        error_code: ErrorCode;
        error_message: Option<String>;
    }
}
