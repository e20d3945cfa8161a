//! Metadata, DescribeCluster, DescribeTopicPartitions: who serves what. Uses `base`.

use crate::base::{ErrorCode, Uuid};

messages! {
    /// Asks for brokers, topics and leaders. Key 3.
    request MetadataRequest(Metadata) => MetadataResponse {
        /// Null for all topics; version 0 says so with an empty list.
        topics: Option<Vec<MetadataRequestTopic>>, null 1..;
        allow_auto_topic_creation: bool = 4.., default true;
        include_cluster_authorized_operations: bool = 8..=10;
        include_topic_authorized_operations: bool = 8..;
    }

    /// A topic by name, or by id from version 10.
    part MetadataRequestTopic {
        topic_id: Uuid = 10..;
        name: Option<String>, null 10..;
    }

    /// Brokers, topics and leaders.
    response MetadataResponse(Metadata) {
        throttle_time_ms: i32 = 3..;
        brokers: Vec<MetadataResponseBroker>;
        cluster_id: Option<String> = 2..;
        controller_id: i32 = 1.., default -1;
        topics: Vec<MetadataResponseTopic>;
        /// A bit a permission; `i32::MIN` if it was not asked for.
        cluster_authorized_operations: i32 = 8..=10, default i32::MIN;
        error_code: ErrorCode = 13..;
    }

    /// A broker and where this listener of it is.
    part MetadataResponseBroker {
        node_id: i32;
        host: String;
        port: i32;
        rack: Option<String> = 1..;
    }

    /// A topic.
    part MetadataResponseTopic {
        error_code: ErrorCode;
        name: Option<String>, null 12..;
        topic_id: Uuid = 10..;
        is_internal: bool = 1..;
        partitions: Vec<MetadataResponsePartition>;
        /// A bit a permission; `i32::MIN` if it was not asked for.
        topic_authorized_operations: i32 = 8.., default i32::MIN;
    }

    /// A partition: its leader and replicas.
    part MetadataResponsePartition {
        error_code: ErrorCode;
        partition_index: i32;
        /// -1 if there is no leader.
        leader_id: i32;
        leader_epoch: i32 = 7.., default -1;
        replica_nodes: Vec<i32>;
        isr_nodes: Vec<i32>;
        offline_replicas: Vec<i32> = 5..;
    }

    /// Asks for the cluster's id and nodes. Key 60.
    request DescribeClusterRequest(DescribeCluster) => DescribeClusterResponse {
        include_cluster_authorized_operations: bool;
        /// 1: brokers, 2: controllers.
        endpoint_type: i8 = 1.., default 1;
        include_fenced_brokers: bool = 2..;
    }

    /// The cluster's id and nodes.
    response DescribeClusterResponse(DescribeCluster) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        /// 1: brokers, 2: controllers.
        endpoint_type: i8 = 1.., default 1;
        cluster_id: String;
        controller_id: i32, default -1;
        brokers: Vec<DescribeClusterBroker>;
        cluster_authorized_operations: i32, default i32::MIN;
    }

    /// A node and where to reach it.
    part DescribeClusterBroker {
        broker_id: i32;
        host: String;
        port: i32;
        rack: Option<String>;
        is_fenced: bool = 2..;
    }

    /// Asks for topics page by page (KIP-966). Key 75.
    request DescribeTopicPartitionsRequest(DescribeTopicPartitions)
        => DescribeTopicPartitionsResponse {
        topics: Vec<TopicRequest>;
        response_partition_limit: i32, default 2000;
        /// Null for the first page.
        cursor: Option<Cursor>;
    }

    /// A topic by name.
    part TopicRequest {
        name: String;
    }

    /// Where a page begins.
    part Cursor {
        topic_name: String;
        partition_index: i32;
    }

    /// A page of topics.
    response DescribeTopicPartitionsResponse(DescribeTopicPartitions) {
        throttle_time_ms: i32;
        topics: Vec<DescribeTopicPartitionsResponseTopic>;
        /// Null on the last page.
        next_cursor: Option<Cursor>;
    }

    /// A topic, or the part of it that lies on this page.
    part DescribeTopicPartitionsResponseTopic {
        error_code: ErrorCode;
        name: Option<String>;
        topic_id: Uuid;
        is_internal: bool;
        partitions: Vec<DescribeTopicPartitionsResponsePartition>;
        topic_authorized_operations: i32, default i32::MIN;
    }

    /// A partition: its leader and replicas.
    part DescribeTopicPartitionsResponsePartition {
        error_code: ErrorCode;
        partition_index: i32;
        leader_id: i32;
        leader_epoch: i32, default -1;
        replica_nodes: Vec<i32>;
        isr_nodes: Vec<i32>;
        eligible_leader_replicas: Option<Vec<i32>>;
        last_known_elr: Option<Vec<i32>>;
        offline_replicas: Vec<i32>;
    }
}
