//! FindCoordinator, the classic group protocol, and what shows or deletes groups. Uses `base`.

use bytes::Bytes;

use crate::base::ErrorCode;

messages! {
    /// Asks for the coordinator of groups or transactions. Key 10.
    request FindCoordinatorRequest(FindCoordinator) => FindCoordinatorResponse {
        key: String = ..=3;
        /// 0 group, 1 transaction, 2 share.
        key_type: i8 = 1..;
        coordinator_keys: Vec<String> = 4..;
    }

    /// The coordinators: one up to version 3, a list from version 4.
    response FindCoordinatorResponse(FindCoordinator) {
        throttle_time_ms: i32 = 1..;
        /// Up to version 3; later in each coordinator.
        error_code: ErrorCode = ..=3;
        error_message: Option<String> = 1..=3;
        node_id: i32 = ..=3;
        host: String = ..=3;
        port: i32 = ..=3;
        coordinators: Vec<Coordinator> = 4..;
    }

    /// The coordinator of one key.
    part Coordinator {
        key: String;
        node_id: i32;
        host: String;
        port: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Joins a classic group. Key 11.
    request JoinGroupRequest(JoinGroup) => JoinGroupResponse {
        group_id: String;
        session_timeout_ms: i32;
        rebalance_timeout_ms: i32 = 1.., default -1;
        /// Empty for a new member.
        member_id: String;
        /// Not null for a static member (KIP-345).
        group_instance_id: Option<String> = 5..;
        protocol_type: String;
        protocols: Vec<JoinGroupRequestProtocol>;
        reason: Option<String> = 8..;
    }

    /// An assignor that the member knows, with its subscription.
    part JoinGroupRequestProtocol {
        name: String;
        metadata: Bytes;
    }

    /// The new generation. Only the leader gets the members.
    response JoinGroupResponse(JoinGroup) {
        throttle_time_ms: i32 = 2..;
        error_code: ErrorCode;
        generation_id: i32, default -1;
        protocol_type: Option<String> = 7..;
        protocol_name: Option<String>, null 7..;
        leader: String;
        skip_assignment: bool = 9..;
        member_id: String;
        members: Vec<JoinGroupResponseMember>;
    }

    /// A member as the leader sees it.
    part JoinGroupResponseMember {
        member_id: String;
        group_instance_id: Option<String> = 5..;
        metadata: Bytes;
    }

    /// Hands over the assignment (leader) or asks for it. Key 14.
    request SyncGroupRequest(SyncGroup) => SyncGroupResponse {
        group_id: String;
        generation_id: i32;
        member_id: String;
        group_instance_id: Option<String> = 3..;
        protocol_type: Option<String> = 5..;
        protocol_name: Option<String> = 5..;
        assignments: Vec<SyncGroupRequestAssignment>;
    }

    /// What one member shall consume.
    part SyncGroupRequestAssignment {
        member_id: String;
        assignment: Bytes;
    }

    /// What this member shall consume.
    response SyncGroupResponse(SyncGroup) {
        throttle_time_ms: i32 = 1..;
        error_code: ErrorCode;
        protocol_type: Option<String> = 5..;
        protocol_name: Option<String> = 5..;
        assignment: Bytes;
    }

    /// Keeps a member alive. Key 12.
    request HeartbeatRequest(Heartbeat) => HeartbeatResponse {
        group_id: String;
        generation_id: i32;
        member_id: String;
        group_instance_id: Option<String> = 3..;
    }

    /// Whether the member is still one.
    response HeartbeatResponse(Heartbeat) {
        throttle_time_ms: i32 = 1..;
        error_code: ErrorCode;
    }

    /// Takes members out of a group. Key 13.
    request LeaveGroupRequest(LeaveGroup) => LeaveGroupResponse {
        group_id: String;
        member_id: String = ..=2;
        members: Vec<MemberIdentity> = 3..;
    }

    /// A member that leaves.
    part MemberIdentity {
        member_id: String;
        group_instance_id: Option<String>;
        reason: Option<String> = 5..;
    }

    /// What became of each member.
    response LeaveGroupResponse(LeaveGroup) {
        throttle_time_ms: i32 = 1..;
        error_code: ErrorCode;
        members: Vec<MemberResponse> = 3..;
    }

    /// The answer for one member.
    part MemberResponse {
        member_id: String;
        group_instance_id: Option<String>;
        error_code: ErrorCode;
    }

    /// Asks for the groups that this broker coordinates. Key 16.
    request ListGroupsRequest(ListGroups) => ListGroupsResponse {
        states_filter: Vec<String> = 4..;
        types_filter: Vec<String> = 5..;
    }

    /// The groups.
    response ListGroupsResponse(ListGroups) {
        throttle_time_ms: i32 = 1..;
        error_code: ErrorCode;
        groups: Vec<ListedGroup>;
    }

    /// A group.
    part ListedGroup {
        group_id: String;
        protocol_type: String;
        group_state: String = 4..;
        group_type: String = 5..;
    }

    /// Asks for classic groups by name. Key 15.
    request DescribeGroupsRequest(DescribeGroups) => DescribeGroupsResponse {
        groups: Vec<String>;
        include_authorized_operations: bool = 3..;
    }

    /// The groups.
    response DescribeGroupsResponse(DescribeGroups) {
        throttle_time_ms: i32 = 1..;
        groups: Vec<DescribedGroup>;
    }

    /// A group and its members.
    part DescribedGroup {
        error_code: ErrorCode;
        error_message: Option<String> = 6..;
        group_id: String;
        group_state: String;
        protocol_type: String;
        protocol_data: String;
        members: Vec<DescribedGroupMember>;
        authorized_operations: i32 = 3.., default i32::MIN;
    }

    /// A member.
    part DescribedGroupMember {
        member_id: String;
        group_instance_id: Option<String> = 4..;
        client_id: String;
        client_host: String;
        member_metadata: Bytes;
        member_assignment: Bytes;
    }

    /// Deletes empty groups. Key 42.
    request DeleteGroupsRequest(DeleteGroups) => DeleteGroupsResponse {
        groups_names: Vec<String>;
    }

    /// What became of each group.
    response DeleteGroupsResponse(DeleteGroups) {
        throttle_time_ms: i32;
        results: Vec<DeletableGroupResult>;
    }

    /// The answer for one group.
    part DeletableGroupResult {
        group_id: String;
        error_code: ErrorCode;
    }
}
