//! OffsetCommit, OffsetFetch, OffsetDelete: the offsets that groups keep. Uses `base`.

use crate::base::{ErrorCode, Uuid};

messages! {
    /// Commits offsets of a group. Key 8.
    request OffsetCommitRequest(OffsetCommit) => OffsetCommitResponse {
        group_id: String;
        /// -1 for a simple consumer without membership.
        generation_id_or_member_epoch: i32, default -1;
        member_id: String;
        group_instance_id: Option<String> = 7..;
        retention_time_ms: i64 = ..=4, default -1;
        topics: Vec<OffsetCommitRequestTopic>;
    }

    /// Offsets of one topic: by name up to version 9, by id from version 10.
    part OffsetCommitRequestTopic {
        name: String = ..=9;
        topic_id: Uuid = 10..;
        partitions: Vec<OffsetCommitRequestPartition>;
    }

    /// The offset of one partition.
    part OffsetCommitRequestPartition {
        partition_index: i32;
        committed_offset: i64;
        committed_leader_epoch: i32 = 6.., default -1;
        committed_metadata: Option<String>;
    }

    /// What became of each offset.
    response OffsetCommitResponse(OffsetCommit) {
        throttle_time_ms: i32 = 3..;
        topics: Vec<OffsetCommitResponseTopic>;
    }

    /// The answers for one topic.
    part OffsetCommitResponseTopic {
        name: String = ..=9;
        topic_id: Uuid = 10..;
        partitions: Vec<OffsetCommitResponsePartition>;
    }

    /// The answer for one partition.
    part OffsetCommitResponsePartition {
        partition_index: i32;
        error_code: ErrorCode;
    }

    /// Asks for committed offsets: of one group up to version 7, of several from version 8. Key 9.
    request OffsetFetchRequest(OffsetFetch) => OffsetFetchResponse {
        group_id: String = ..=7;
        /// Null for every partition that has an offset.
        topics: Option<Vec<OffsetFetchRequestTopic>> = ..=7, null 2..;
        groups: Vec<OffsetFetchRequestGroup> = 8..;
        require_stable: bool = 7..;
    }

    /// The partitions of one topic, up to version 7.
    part OffsetFetchRequestTopic {
        name: String;
        partition_indexes: Vec<i32>;
    }

    /// One group's partitions, from version 8.
    part OffsetFetchRequestGroup {
        group_id: String;
        member_id: Option<String> = 9..;
        member_epoch: i32 = 9.., default -1;
        /// Null for every partition that has an offset.
        topics: Option<Vec<OffsetFetchRequestTopics>>;
    }

    /// The partitions of one topic, from version 8; by id from version 10.
    part OffsetFetchRequestTopics {
        name: String = ..=9;
        topic_id: Uuid = 10..;
        partition_indexes: Vec<i32>;
    }

    /// Committed offsets.
    response OffsetFetchResponse(OffsetFetch) {
        throttle_time_ms: i32 = 3..;
        topics: Vec<OffsetFetchResponseTopic> = ..=7;
        error_code: ErrorCode = 2..=7;
        groups: Vec<OffsetFetchResponseGroup> = 8..;
    }

    /// Offsets of one topic, up to version 7.
    part OffsetFetchResponseTopic {
        name: String;
        partitions: Vec<OffsetFetchResponsePartition>;
    }

    /// The offset of one partition, up to version 7.
    part OffsetFetchResponsePartition {
        partition_index: i32;
        /// -1 if there is none.
        committed_offset: i64;
        committed_leader_epoch: i32 = 5.., default -1;
        metadata: Option<String>;
        error_code: ErrorCode;
    }

    /// One group's offsets, from version 8.
    part OffsetFetchResponseGroup {
        group_id: String;
        topics: Vec<OffsetFetchResponseTopics>;
        error_code: ErrorCode;
    }

    /// Offsets of one topic, from version 8; by id from version 10.
    part OffsetFetchResponseTopics {
        name: String = ..=9;
        topic_id: Uuid = 10..;
        partitions: Vec<OffsetFetchResponsePartitions>;
    }

    /// The offset of one partition, from version 8.
    part OffsetFetchResponsePartitions {
        partition_index: i32;
        /// -1 if there is none.
        committed_offset: i64;
        committed_leader_epoch: i32, default -1;
        metadata: Option<String>;
        error_code: ErrorCode;
    }

    /// Deletes committed offsets of a group. Key 47.
    request OffsetDeleteRequest(OffsetDelete) => OffsetDeleteResponse {
        group_id: String;
        topics: Vec<OffsetDeleteRequestTopic>;
    }

    /// The partitions of one topic.
    part OffsetDeleteRequestTopic {
        name: String;
        partitions: Vec<OffsetDeleteRequestPartition>;
    }

    /// A partition.
    part OffsetDeleteRequestPartition {
        partition_index: i32;
    }

    /// What became of each offset.
    response OffsetDeleteResponse(OffsetDelete) {
        error_code: ErrorCode;
        throttle_time_ms: i32;
        topics: Vec<OffsetDeleteResponseTopic>;
    }

    /// The answers for one topic.
    part OffsetDeleteResponseTopic {
        name: String;
        partitions: Vec<OffsetDeleteResponsePartition>;
    }

    /// The answer for one partition.
    part OffsetDeleteResponsePartition {
        partition_index: i32;
        error_code: ErrorCode;
    }
}
