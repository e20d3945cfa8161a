//! The wire's structs of the group APIs to the machine's calls, and its replies back, with what
//! each version asks for. Offsets stand in `translate_offsets`. Pure.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    calls::{
        Client, DescribedGroup, HeartbeatCall, JoinCall, JoinReply, LeaveCall, LeaveReply, Leaving,
        ListedGroup, Protocol, SyncCall, SyncReply,
    },
    settings::Settings,
};
use crate::{
    base::ErrorCode,
    wire::api::groups::{
        self as wire, DescribeGroupsRequest, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
        LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, SyncGroupRequest,
        SyncGroupResponse,
    },
};

pub(super) fn instance(id: Option<String>) -> Option<Arc<str>> {
    id.map(Into::into)
}

/// Bytes that are kept longer than the request they came in, which they would hold in memory.
fn kept(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// JoinGroup, or what refuses it before it reaches a group.
///
/// # Errors
/// `InvalidGroupId`, `InvalidSessionTimeout`.
pub(super) fn join_call(
    request: JoinGroupRequest,
    version: i16,
    client: &Client,
    unique: [u8; 16],
    settings: &Settings,
) -> Result<JoinCall, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let allowed = settings.min_session_timeout_ms..=settings.max_session_timeout_ms;
    if !allowed.contains(&request.session_timeout_ms) {
        return Err(ErrorCode::InvalidSessionTimeout);
    }
    let protocols = request.protocols.into_iter();
    let protocols =
        protocols.map(|p| Protocol { name: p.name.into(), metadata: kept(&p.metadata) }).collect();
    Ok(JoinCall {
        group: request.group_id.into(),
        client: client.clone(),
        member_id: request.member_id.into(),
        instance_id: instance(request.group_instance_id),
        protocol_type: request.protocol_type.into(),
        protocols,
        session_timeout_ms: request.session_timeout_ms,
        // Version 0 has one timeout for both.
        rebalance_timeout_ms: match version {
            0 => request.session_timeout_ms,
            _ => request.rebalance_timeout_ms,
        },
        must_know_id: version >= 4,
        can_skip_assignment: version >= 9,
        unique,
    })
}

pub(super) fn join_response(reply: JoinReply) -> JoinGroupResponse {
    let members = reply.members.into_iter().map(|m| wire::JoinGroupResponseMember {
        member_id: m.member_id.to_string(),
        group_instance_id: m.instance_id.map(|i| i.to_string()),
        metadata: m.metadata,
    });
    JoinGroupResponse {
        error_code: reply.error,
        generation_id: reply.generation,
        protocol_type: reply.protocol_type.map(|t| t.to_string()),
        // Before version 7 null is written as the empty string.
        protocol_name: reply.protocol.map(|p| p.to_string()),
        leader: reply.leader.to_string(),
        skip_assignment: reply.skip_assignment,
        member_id: reply.member_id.to_string(),
        members: members.collect(),
        ..Default::default()
    }
}

/// SyncGroup, or what refuses it before it reaches a group.
///
/// # Errors
/// `InvalidGroupId`; `InconsistentGroupProtocol` if version 5 names no protocol.
pub(super) fn sync_call(request: SyncGroupRequest, version: i16) -> Result<SyncCall, ErrorCode> {
    if version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return Err(ErrorCode::InconsistentGroupProtocol);
    }
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let assignments = request.assignments.into_iter();
    Ok(SyncCall {
        group: request.group_id.into(),
        generation: request.generation_id,
        member_id: request.member_id.into(),
        instance_id: instance(request.group_instance_id),
        protocol_type: instance(request.protocol_type),
        protocol: instance(request.protocol_name),
        assignments: assignments.map(|a| (a.member_id.into(), kept(&a.assignment))).collect(),
    })
}

pub(super) fn sync_response(reply: SyncReply) -> SyncGroupResponse {
    SyncGroupResponse {
        error_code: reply.error,
        protocol_type: reply.protocol_type.map(|t| t.to_string()),
        protocol_name: reply.protocol.map(|p| p.to_string()),
        assignment: reply.assignment,
        ..Default::default()
    }
}

/// Heartbeat, or what refuses it before it reaches a group.
///
/// # Errors
/// `InvalidGroupId`.
pub(super) fn heartbeat_call(request: HeartbeatRequest) -> Result<HeartbeatCall, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    Ok(HeartbeatCall {
        group: request.group_id.into(),
        generation: request.generation_id,
        member_id: request.member_id.into(),
        instance_id: instance(request.group_instance_id),
    })
}

/// LeaveGroup, or what refuses it before it reaches a group. Up to version 2 one member leaves.
///
/// # Errors
/// `InvalidGroupId`.
pub(super) fn leave_call(request: LeaveGroupRequest, version: i16) -> Result<LeaveCall, ErrorCode> {
    if request.group_id.is_empty() {
        return Err(ErrorCode::InvalidGroupId);
    }
    let members = match version {
        ..=2 => vec![Leaving { member_id: request.member_id.into(), instance_id: None }],
        _ => request
            .members
            .into_iter()
            .map(|m| Leaving {
                member_id: m.member_id.into(),
                instance_id: instance(m.group_instance_id),
            })
            .collect(),
    };
    Ok(LeaveCall { group: request.group_id.into(), members })
}

/// Up to version 2 the member's error is the error of the whole.
pub(super) fn leave_response(reply: LeaveReply, version: i16) -> LeaveGroupResponse {
    let first = reply.members.first().map_or(ErrorCode::None, |(_, error)| *error);
    if version <= 2 {
        let error_code = if reply.error == ErrorCode::None { first } else { reply.error };
        return LeaveGroupResponse { error_code, ..Default::default() };
    }
    let members = reply.members.into_iter().map(|(leaving, error_code)| wire::MemberResponse {
        member_id: leaving.member_id.to_string(),
        group_instance_id: leaving.instance_id.map(|i| i.to_string()),
        error_code,
    });
    LeaveGroupResponse { error_code: reply.error, members: members.collect(), ..Default::default() }
}

/// Which groups a ListGroups asks for: by state (version 4) and by type (version 5), without
/// regard to case.
pub(super) fn list_filter(request: ListGroupsRequest) -> impl Fn(&ListedGroup) -> bool {
    let lower = |list: Vec<String>| -> Vec<String> {
        list.into_iter().map(|s| s.trim().to_ascii_lowercase()).collect()
    };
    let (states, types) = (lower(request.states_filter), lower(request.types_filter));
    let has = |list: &[String], name: &str| {
        list.is_empty() || list.iter().any(|l| l.eq_ignore_ascii_case(name))
    };
    move |group| has(&states, group.state) && has(&types, group.group_type)
}

pub(super) fn listed(group: &ListedGroup) -> wire::ListedGroup {
    wire::ListedGroup {
        group_id: group.group.to_string(),
        protocol_type: group.protocol_type.to_string(),
        group_state: group.state.to_owned(),
        group_type: group.group_type.to_owned(),
    }
}

/// The groups of a DescribeGroups.
pub(super) fn described_ids(request: DescribeGroupsRequest) -> Vec<Arc<str>> {
    request.groups.into_iter().map(Into::into).collect()
}

/// An unknown group is an error from version 6 on, and a dead group before.
pub(super) fn described(group: DescribedGroup, version: i16) -> wire::DescribedGroup {
    let missing = version >= 6 && !group.found;
    let members = group.members.into_iter().map(|m| wire::DescribedGroupMember {
        member_id: m.member_id.to_string(),
        group_instance_id: m.instance_id.map(|i| i.to_string()),
        client_id: m.client.id.to_string(),
        client_host: m.client.host.to_string(),
        member_metadata: m.metadata,
        member_assignment: m.assignment,
    });
    wire::DescribedGroup {
        error_code: if missing { ErrorCode::GroupIdNotFound } else { ErrorCode::None },
        error_message: missing.then(|| format!("Group {} not found.", group.group)),
        group_id: group.group.to_string(),
        group_state: group.state.to_owned(),
        protocol_type: group.protocol_type.to_string(),
        protocol_data: group.protocol.to_string(),
        members: members.collect(),
        ..Default::default()
    }
}

/// A group that could not be asked.
pub(super) fn not_described(group: &str, error_code: ErrorCode) -> wire::DescribedGroup {
    wire::DescribedGroup { error_code, group_id: group.to_owned(), ..Default::default() }
}
