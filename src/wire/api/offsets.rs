//! ListOffsets, OffsetForLeaderEpoch, DeleteRecords, DescribeProducers: what is asked about the
//! ends of partition logs. Uses `base`.

use crate::base::ErrorCode;

messages! {
    /// Looks for offsets by timestamp. Key 2.
    request ListOffsetsRequest(ListOffsets) => ListOffsetsResponse {
        /// The follower's id; -1 for a client.
        replica_id: i32;
        /// 0: read uncommitted, 1: read committed.
        isolation_level: i8 = 2..;
        topics: Vec<ListOffsetsTopic>;
        timeout_ms: i32 = 10..;
    }

    /// What to look for in one topic.
    part ListOffsetsTopic {
        name: String;
        partitions: Vec<ListOffsetsPartition>;
    }

    /// What to look for in one partition.
    part ListOffsetsPartition {
        partition_index: i32;
        current_leader_epoch: i32 = 4.., default -1;
        /// Milliseconds since the epoch; -1 latest, -2 earliest, -3 of the largest timestamp.
        timestamp: i64;
    }

    /// The offsets that were found.
    response ListOffsetsResponse(ListOffsets) {
        throttle_time_ms: i32 = 2..;
        topics: Vec<ListOffsetsTopicResponse>;
    }

    /// The answers for one topic.
    part ListOffsetsTopicResponse {
        name: String;
        partitions: Vec<ListOffsetsPartitionResponse>;
    }

    /// The answer for one partition.
    part ListOffsetsPartitionResponse {
        partition_index: i32;
        error_code: ErrorCode;
        timestamp: i64, default -1;
        /// -1 if there is none.
        offset: i64, default -1;
        leader_epoch: i32 = 4.., default -1;
    }

    /// Asks where leader epochs end. Key 23.
    request OffsetForLeaderEpochRequest(OffsetForLeaderEpoch) => OffsetForLeaderEpochResponse {
        /// The follower's id; -1 for a consumer, -2 for a tool.
        replica_id: i32 = 3.., default -2;
        topics: Vec<OffsetForLeaderTopic>;
    }

    /// What to look up in one topic.
    part OffsetForLeaderTopic {
        topic: String;
        partitions: Vec<OffsetForLeaderPartition>;
    }

    /// What to look up in one partition.
    part OffsetForLeaderPartition {
        partition: i32;
        current_leader_epoch: i32, default -1;
        leader_epoch: i32;
    }

    /// The ends of the epochs.
    response OffsetForLeaderEpochResponse(OffsetForLeaderEpoch) {
        throttle_time_ms: i32;
        topics: Vec<OffsetForLeaderTopicResult>;
    }

    /// The answers for one topic.
    part OffsetForLeaderTopicResult {
        topic: String;
        partitions: Vec<EpochEndOffset>;
    }

    /// The largest epoch up to the one asked for, and its end; both -1 if there is none.
    part EpochEndOffset {
        error_code: ErrorCode;
        partition: i32;
        leader_epoch: i32, default -1;
        end_offset: i64, default -1;
    }

    /// Raises the start of logs. Key 21.
    request DeleteRecordsRequest(DeleteRecords) => DeleteRecordsResponse {
        topics: Vec<DeleteRecordsTopic>;
        timeout_ms: i32;
    }

    /// What to delete in one topic.
    part DeleteRecordsTopic {
        name: String;
        partitions: Vec<DeleteRecordsPartition>;
    }

    /// What to delete in one partition.
    part DeleteRecordsPartition {
        partition_index: i32;
        /// The new start; -1 for the high watermark.
        offset: i64;
    }

    /// The new starts.
    response DeleteRecordsResponse(DeleteRecords) {
        throttle_time_ms: i32;
        topics: Vec<DeleteRecordsTopicResult>;
    }

    /// The answers for one topic.
    part DeleteRecordsTopicResult {
        name: String;
        partitions: Vec<DeleteRecordsPartitionResult>;
    }

    /// The answer for one partition.
    part DeleteRecordsPartitionResult {
        partition_index: i32;
        /// The lowest start of all live replicas; -1 after an error.
        low_watermark: i64;
        error_code: ErrorCode;
    }

    /// Asks which producers are active. Key 61.
    request DescribeProducersRequest(DescribeProducers) => DescribeProducersResponse {
        topics: Vec<DescribeProducersTopic>;
    }

    /// The partitions of one topic to describe.
    part DescribeProducersTopic {
        name: String;
        partition_indexes: Vec<i32>;
    }

    /// The producers by partition.
    response DescribeProducersResponse(DescribeProducers) {
        throttle_time_ms: i32;
        topics: Vec<DescribeProducersTopicResult>;
    }

    /// The answers for one topic.
    part DescribeProducersTopicResult {
        name: String;
        partitions: Vec<DescribeProducersPartitionResult>;
    }

    /// The answer for one partition.
    part DescribeProducersPartitionResult {
        partition_index: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        active_producers: Vec<ProducerState>;
    }

    /// What a partition's leader remembers of a producer.
    part ProducerState {
        producer_id: i64;
        producer_epoch: i32;
        last_sequence: i32, default -1;
        last_timestamp: i64, default -1;
        coordinator_epoch: i32;
        current_txn_start_offset: i64, default -1;
    }
}
