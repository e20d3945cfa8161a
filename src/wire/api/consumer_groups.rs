//! ConsumerGroupHeartbeat and ConsumerGroupDescribe: consumer groups (KIP-848). Uses `base`.

use crate::base::{ErrorCode, Uuid};

messages! {
    /// A member joins, stays in, or leaves. Null and -1 say that nothing changed. Key 68.
    request ConsumerGroupHeartbeatRequest(ConsumerGroupHeartbeat)
        => ConsumerGroupHeartbeatResponse
    {
        group_id: String;
        /// From version 1 the client's own; before, empty for a new member.
        member_id: String;
        /// 0 joins, -1 leaves, -2 leaves for a while.
        member_epoch: i32;
        instance_id: Option<String>;
        rack_id: Option<String>;
        rebalance_timeout_ms: i32, default -1;
        subscribed_topic_names: Option<Vec<String>>;
        subscribed_topic_regex: Option<String> = 1..;
        server_assignor: Option<String>;
        /// What the member has.
        topic_partitions: Option<Vec<HeartbeatTopicPartitions>>;
    }

    /// Partitions of one topic.
    part HeartbeatTopicPartitions {
        topic_id: Uuid;
        partitions: Vec<i32>;
    }

    /// The member's epoch, and what it may use if that changed.
    response ConsumerGroupHeartbeatResponse(ConsumerGroupHeartbeat) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        member_id: Option<String>;
        member_epoch: i32;
        heartbeat_interval_ms: i32;
        assignment: Option<HeartbeatAssignment>;
    }

    /// What a member may use.
    part HeartbeatAssignment {
        topic_partitions: Vec<HeartbeatTopicPartitions>;
    }

    /// Asks what consumer groups are doing. Key 69.
    request ConsumerGroupDescribeRequest(ConsumerGroupDescribe)
        => ConsumerGroupDescribeResponse
    {
        group_ids: Vec<String>;
        include_authorized_operations: bool;
    }

    /// Consumer groups in full.
    response ConsumerGroupDescribeResponse(ConsumerGroupDescribe) {
        throttle_time_ms: i32;
        groups: Vec<ConsumerGroupDescribed>;
    }

    /// A consumer group.
    part ConsumerGroupDescribed {
        error_code: ErrorCode;
        error_message: Option<String>;
        group_id: String;
        group_state: String;
        group_epoch: i32;
        assignment_epoch: i32;
        assignor_name: String;
        members: Vec<ConsumerGroupMember>;
        authorized_operations: i32, default i32::MIN;
    }

    /// A member of a consumer group.
    part ConsumerGroupMember {
        member_id: String;
        instance_id: Option<String>;
        rack_id: Option<String>;
        member_epoch: i32;
        client_id: String;
        client_host: String;
        subscribed_topic_names: Vec<String>;
        subscribed_topic_regex: Option<String>;
        assignment: DescribedAssignment;
        target_assignment: DescribedAssignment;
        /// -1 unknown, 0 speaks the classic protocol, 1 the consumer protocol.
        member_type: i8 = 1.., default -1;
    }

    /// What a member has or shall have.
    part DescribedAssignment {
        topic_partitions: Vec<DescribedTopicPartitions>;
    }

    /// Partitions of one topic, by id and name.
    part DescribedTopicPartitions {
        topic_id: Uuid;
        topic_name: String;
        partitions: Vec<i32>;
    }
}
