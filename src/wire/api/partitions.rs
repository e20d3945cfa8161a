//! ElectLeaders, AlterPartitionReassignments, ListPartitionReassignments. Uses `base`.

use crate::base::ErrorCode;

messages! {
    /// Elects leaders. Key 43.
    request ElectLeadersRequest(ElectLeaders) => ElectLeadersResponse {
        /// 0 the preferred replica, 1 any replica that is alive if none is in sync.
        election_type: i8 = 1..;
        /// Null for all partitions.
        topic_partitions: Option<Vec<TopicPartitions>>;
        timeout_ms: i32, default 60000;
    }

    /// Partitions of one topic.
    part TopicPartitions {
        topic: String;
        partitions: Vec<i32>;
    }

    /// What became of the elections.
    response ElectLeadersResponse(ElectLeaders) {
        throttle_time_ms: i32;
        error_code: ErrorCode = 1..;
        replica_election_results: Vec<ReplicaElectionResult>;
    }

    /// The elections of one topic.
    part ReplicaElectionResult {
        topic: String;
        partition_result: Vec<PartitionResult>;
    }

    /// The election of one partition.
    part PartitionResult {
        partition_id: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Moves partitions to other replicas, or takes such moves back. Key 45.
    request AlterPartitionReassignmentsRequest(AlterPartitionReassignments)
        => AlterPartitionReassignmentsResponse {
        timeout_ms: i32, default 60000;
        /// Whether the new replicas may be more or fewer than the present ones.
        allow_replication_factor_change: bool = 1.., default true;
        topics: Vec<ReassignableTopic>;
    }

    /// The moves of one topic.
    part ReassignableTopic {
        name: String;
        partitions: Vec<ReassignablePartition>;
    }

    /// The move of one partition.
    part ReassignablePartition {
        partition_index: i32;
        /// The new replicas, the preferred leader first; null takes a move back.
        replicas: Option<Vec<i32>>;
    }

    /// What became of the moves.
    response AlterPartitionReassignmentsResponse(AlterPartitionReassignments) {
        throttle_time_ms: i32;
        allow_replication_factor_change: bool = 1.., default true;
        error_code: ErrorCode;
        error_message: Option<String>;
        responses: Vec<ReassignableTopicResponse>;
    }

    /// The moves of one topic.
    part ReassignableTopicResponse {
        name: String;
        partitions: Vec<ReassignablePartitionResponse>;
    }

    /// The move of one partition.
    part ReassignablePartitionResponse {
        partition_index: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Asks for the moves under way. Key 46.
    request ListPartitionReassignmentsRequest(ListPartitionReassignments)
        => ListPartitionReassignmentsResponse {
        timeout_ms: i32, default 60000;
        /// Null for all.
        topics: Option<Vec<ListPartitionReassignmentsTopics>>;
    }

    /// Partitions of one topic.
    part ListPartitionReassignmentsTopics {
        name: String;
        partition_indexes: Vec<i32>;
    }

    /// The moves under way.
    response ListPartitionReassignmentsResponse(ListPartitionReassignments) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        topics: Vec<OngoingTopicReassignment>;
    }

    /// The moves of one topic.
    part OngoingTopicReassignment {
        name: String;
        partitions: Vec<OngoingPartitionReassignment>;
    }

    /// The move of one partition.
    part OngoingPartitionReassignment {
        partition_index: i32;
        replicas: Vec<i32>;
        adding_replicas: Vec<i32>;
        removing_replicas: Vec<i32>;
    }
}
