//! Share groups (KIP-932) as members and administrators see them: heartbeat, description, and the
//! start offsets of share partitions. Uses `base`.

use crate::base::{ErrorCode, Uuid};

messages! {
    /// A member joins, stays in, or leaves. Null says that nothing changed. Key 76.
    request ShareGroupHeartbeatRequest(ShareGroupHeartbeat) => ShareGroupHeartbeatResponse {
        group_id: String;
        /// The client's own.
        member_id: String;
        /// 0 joins, -1 leaves.
        member_epoch: i32;
        rack_id: Option<String>;
        subscribed_topic_names: Option<Vec<String>>;
    }

    /// The member's epoch, and what it may read if that changed.
    response ShareGroupHeartbeatResponse(ShareGroupHeartbeat) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        member_id: Option<String>;
        member_epoch: i32;
        heartbeat_interval_ms: i32;
        assignment: Option<ShareHeartbeatAssignment>;
    }

    /// What a member may read.
    part ShareHeartbeatAssignment {
        topic_partitions: Vec<ShareHeartbeatTopicPartitions>;
    }

    /// Partitions of one topic.
    part ShareHeartbeatTopicPartitions {
        topic_id: Uuid;
        partitions: Vec<i32>;
    }

    /// Asks what share groups are doing. Key 77.
    request ShareGroupDescribeRequest(ShareGroupDescribe) => ShareGroupDescribeResponse {
        group_ids: Vec<String>;
        include_authorized_operations: bool;
    }

    /// Share groups in full.
    response ShareGroupDescribeResponse(ShareGroupDescribe) {
        throttle_time_ms: i32;
        groups: Vec<ShareGroupDescribed>;
    }

    /// A share group.
    part ShareGroupDescribed {
        error_code: ErrorCode;
        error_message: Option<String>;
        group_id: String;
        group_state: String;
        group_epoch: i32;
        assignment_epoch: i32;
        assignor_name: String;
        members: Vec<ShareGroupMember>;
        authorized_operations: i32, default i32::MIN;
    }

    /// A member of a share group.
    part ShareGroupMember {
        member_id: String;
        rack_id: Option<String>;
        member_epoch: i32;
        client_id: String;
        client_host: String;
        subscribed_topic_names: Vec<String>;
        assignment: ShareGroupAssignment;
    }

    /// What a member has.
    part ShareGroupAssignment {
        topic_partitions: Vec<ShareGroupTopicPartitions>;
    }

    /// Partitions of one topic, by id and name.
    part ShareGroupTopicPartitions {
        topic_id: Uuid;
        topic_name: String;
        partitions: Vec<i32>;
    }

    /// Asks where share groups stand. Key 90.
    request DescribeShareGroupOffsetsRequest(DescribeShareGroupOffsets)
        => DescribeShareGroupOffsetsResponse
    {
        groups: Vec<DescribeShareGroupOffsetsRequestGroup>;
    }

    /// One group of them.
    part DescribeShareGroupOffsetsRequestGroup {
        group_id: String;
        /// Null: all that the group has.
        topics: Option<Vec<DescribeShareGroupOffsetsRequestTopic>>;
    }

    /// Partitions of one topic.
    part DescribeShareGroupOffsetsRequestTopic {
        topic_name: String;
        partitions: Vec<i32>;
    }

    /// Where share groups stand.
    response DescribeShareGroupOffsetsResponse(DescribeShareGroupOffsets) {
        throttle_time_ms: i32;
        groups: Vec<DescribeShareGroupOffsetsResponseGroup>;
    }

    /// One group of them.
    part DescribeShareGroupOffsetsResponseGroup {
        group_id: String;
        topics: Vec<DescribeShareGroupOffsetsResponseTopic>;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Partitions of one topic.
    part DescribeShareGroupOffsetsResponseTopic {
        topic_name: String;
        topic_id: Uuid;
        partitions: Vec<DescribeShareGroupOffsetsResponsePartition>;
    }

    /// Where a group stands in one partition.
    part DescribeShareGroupOffsetsResponsePartition {
        partition_index: i32;
        /// -1 if there is none.
        start_offset: i64;
        leader_epoch: i32;
        /// Records that are not finished with; -1 if unknown (KIP-1226).
        lag: i64 = 1.., default -1;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Moves the start offsets of a share group without members. Key 91.
    request AlterShareGroupOffsetsRequest(AlterShareGroupOffsets)
        => AlterShareGroupOffsetsResponse
    {
        group_id: String;
        topics: Vec<AlterShareGroupOffsetsRequestTopic>;
    }

    /// Partitions of one topic.
    part AlterShareGroupOffsetsRequestTopic {
        topic_name: String;
        partitions: Vec<AlterShareGroupOffsetsRequestPartition>;
    }

    /// Where one partition shall start.
    part AlterShareGroupOffsetsRequestPartition {
        partition_index: i32;
        start_offset: i64;
    }

    /// What became of it.
    response AlterShareGroupOffsetsResponse(AlterShareGroupOffsets) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        responses: Vec<AlterShareGroupOffsetsResponseTopic>;
    }

    /// Partitions of one topic.
    part AlterShareGroupOffsetsResponseTopic {
        topic_name: String;
        topic_id: Uuid;
        partitions: Vec<AlterShareGroupOffsetsResponsePartition>;
    }

    /// One partition.
    part AlterShareGroupOffsetsResponsePartition {
        partition_index: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Has a share group without members forget topics. Key 92.
    request DeleteShareGroupOffsetsRequest(DeleteShareGroupOffsets)
        => DeleteShareGroupOffsetsResponse
    {
        group_id: String;
        topics: Vec<DeleteShareGroupOffsetsRequestTopic>;
    }

    /// A topic to forget.
    part DeleteShareGroupOffsetsRequestTopic {
        topic_name: String;
    }

    /// What became of it.
    response DeleteShareGroupOffsetsResponse(DeleteShareGroupOffsets) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        responses: Vec<DeleteShareGroupOffsetsResponseTopic>;
    }

    /// One topic.
    part DeleteShareGroupOffsetsResponseTopic {
        topic_name: String;
        topic_id: Uuid;
        error_code: ErrorCode;
        error_message: Option<String>;
    }
}
