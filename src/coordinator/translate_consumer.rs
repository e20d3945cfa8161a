//! The wire's structs of the consumer group APIs to the machine's calls, and its replies back. Pure.

use super::{
    calls::Client,
    calls_consumer::{ConsumerHeartbeatCall, ConsumerHeartbeatReply, DescribedConsumerGroup},
    consumer_member::{LEAVE_EPOCH, LEAVE_STATIC_EPOCH},
    consumer_records::{Epochs, Partitions},
    group_heartbeat::Refused,
    settings::Settings,
    translate::instance,
};
use crate::{
    base::ErrorCode,
    metadata::Image,
    wire::api::consumer_groups::{
        self as wire, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    },
};

/// From this version on members make their ids themselves (KIP-1082).
const MEMBER_IDS_FROM: i16 = 1;

/// ConsumerGroupHeartbeat, or what refuses it before it reaches a group
/// (`throwIfConsumerGroupHeartbeatRequestIsInvalid`).
///
/// # Errors
/// `InvalidRequest`, `UnsupportedAssignor`.
pub(super) fn heartbeat_call(
    request: ConsumerGroupHeartbeatRequest,
    version: i16,
    client: &Client,
    unique: [u8; 16],
    settings: &Settings,
) -> Result<ConsumerHeartbeatCall, Refused> {
    let invalid = |text: &str| Err(Refused::new(ErrorCode::InvalidRequest, text));
    let epoch = request.member_epoch;
    let blank = |text: &Option<String>| text.as_ref().is_some_and(|t| t.trim().is_empty());
    let needs_id = version >= MEMBER_IDS_FROM || epoch > 0 || epoch == LEAVE_EPOCH;
    if needs_id && request.member_id.trim().is_empty() {
        return invalid("MemberId can't be empty.");
    } else if request.group_id.trim().is_empty() {
        return invalid("GroupId can't be empty.");
    } else if blank(&request.instance_id) {
        return invalid("InstanceId can't be empty.");
    } else if blank(&request.rack_id) {
        return invalid("RackId can't be empty.");
    } else if epoch == 0 {
        if request.rebalance_timeout_ms == -1 {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        } else if request.topic_partitions.as_ref().is_none_or(|t| !t.is_empty()) {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        } else if request.subscribed_topic_names.is_none()
            && request.subscribed_topic_regex.is_none()
        {
            return invalid(
                "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when \
                 (re-)joining.",
            );
        }
    } else if epoch == LEAVE_STATIC_EPOCH && request.instance_id.is_none() {
        return invalid("InstanceId can't be null.");
    } else if epoch < LEAVE_STATIC_EPOCH {
        return invalid("MemberEpoch is invalid.");
    }
    let offered = || settings.consumer.assignors.iter().map(|a| a.name());
    if let Some(wanted) = &request.server_assignor
        && !offered().any(|name| name == wanted)
    {
        let offered: Vec<_> = offered().collect();
        return Err(Refused::new(
            ErrorCode::UnsupportedAssignor,
            format!(
                "ServerAssignor {wanted} is not supported. Supported assignors: {}.",
                offered.join(", ")
            ),
        ));
    }
    let names = request.subscribed_topic_names;
    Ok(ConsumerHeartbeatCall {
        group: request.group_id.into(),
        client: client.clone(),
        member_id: request.member_id.into(),
        epoch,
        instance_id: instance(request.instance_id),
        rack: instance(request.rack_id),
        rebalance_timeout_ms: Some(request.rebalance_timeout_ms).filter(|ms| *ms != -1),
        topics: names.map(|names| names.into_iter().map(Into::into).collect()),
        regex: instance(request.subscribed_topic_regex),
        assignor: instance(request.server_assignor),
        owned: request.topic_partitions.map(partitions),
        unique,
    })
}

fn partitions(topics: Vec<wire::HeartbeatTopicPartitions>) -> Partitions {
    let mut out = Partitions::new();
    for topic in topics.into_iter().filter(|t| !t.partitions.is_empty()) {
        out.entry(topic.topic_id).or_default().extend(topic.partitions);
    }
    out
}

pub(super) fn heartbeat_response(reply: ConsumerHeartbeatReply) -> ConsumerGroupHeartbeatResponse {
    let assignment = reply.assignment.map(|partitions| {
        let topics = partitions.into_iter().map(|(topic_id, partitions)| {
            let partitions = partitions.into_iter().collect();
            wire::HeartbeatTopicPartitions { topic_id, partitions }
        });
        wire::HeartbeatAssignment { topic_partitions: topics.collect() }
    });
    ConsumerGroupHeartbeatResponse {
        throttle_time_ms: 0,
        error_code: reply.error,
        error_message: reply.message,
        member_id: reply.member_id.map(|id| id.to_string()),
        member_epoch: reply.epoch,
        heartbeat_interval_ms: reply.heartbeat_interval_ms,
        assignment,
    }
}

/// A group that could not be described.
pub(super) fn not_described(
    group_id: &str,
    error_code: ErrorCode,
    error_message: Option<String>,
) -> wire::ConsumerGroupDescribed {
    wire::ConsumerGroupDescribed {
        error_code,
        error_message,
        group_id: group_id.to_owned(),
        ..Default::default()
    }
}

/// Topics that are gone are left out.
pub(super) fn described(
    group: DescribedConsumerGroup,
    image: &Image,
) -> wire::ConsumerGroupDescribed {
    let members = group.members.into_iter().map(|m| {
        let mut has = keys(&m.assigned);
        for (topic, partitions) in keys(&m.revoking) {
            has.entry(topic).or_default().extend(partitions);
        }
        wire::ConsumerGroupMember {
            member_id: m.member_id.to_string(),
            instance_id: m.instance_id.map(|i| i.to_string()),
            rack_id: m.rack.map(|r| r.to_string()),
            member_epoch: m.epoch,
            client_id: m.client.id.to_string(),
            client_host: m.client.host.to_string(),
            subscribed_topic_names: m.topics.iter().map(ToString::to_string).collect(),
            subscribed_topic_regex: m.regex.map(|r| r.to_string()),
            assignment: assignment(&has, image),
            target_assignment: assignment(&m.target, image),
            member_type: i8::from(!m.classic),
        }
    });
    wire::ConsumerGroupDescribed {
        error_code: ErrorCode::None,
        error_message: None,
        group_id: group.group.to_string(),
        group_state: group.state.to_owned(),
        group_epoch: group.epoch,
        assignment_epoch: group.target_epoch,
        assignor_name: group.assignor.to_string(),
        members: members.collect(),
        ..Default::default()
    }
}

fn keys(epochs: &Epochs) -> Partitions {
    super::consumer_member::without_epochs(epochs)
}

fn assignment(partitions: &Partitions, image: &Image) -> wire::DescribedAssignment {
    let topics = partitions.iter().filter_map(|(id, partitions)| {
        let topic = image.topics().by_id(*id)?;
        Some(wire::DescribedTopicPartitions {
            topic_id: *id,
            topic_name: topic.name.to_string(),
            partitions: partitions.iter().copied().collect(),
        })
    });
    wire::DescribedAssignment { topic_partitions: topics.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            rebalance_timeout_ms: 1_000,
            subscribed_topic_names: Some(vec!["a".into()]),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        }
    }

    fn check(request: ConsumerGroupHeartbeatRequest, version: i16) -> ErrorCode {
        let settings = Settings::default();
        let call = heartbeat_call(request, version, &Client::default(), [0; 16], &settings);
        call.err().map_or(ErrorCode::None, |refused| refused.error)
    }

    #[test]
    fn requests_that_no_client_should_send_are_refused() {
        type Change = fn(&mut ConsumerGroupHeartbeatRequest);
        let wrong: [Change; 8] = [
            |r| r.group_id = " ".into(),
            |r| r.member_id = String::new(),
            |r| r.instance_id = Some(String::new()),
            |r| r.rack_id = Some(String::new()),
            |r| r.rebalance_timeout_ms = -1,
            |r| r.topic_partitions = None,
            |r| r.subscribed_topic_names = None,
            |r| r.member_epoch = -3,
        ];
        for (n, change) in wrong.into_iter().enumerate() {
            let mut request = first();
            change(&mut request);
            assert_eq!(check(request, 1), ErrorCode::InvalidRequest, "{n}");
        }
        assert_eq!(check(first(), 1), ErrorCode::None);
        let old = ConsumerGroupHeartbeatRequest { member_id: String::new(), ..first() };
        assert_eq!(check(old, 0), ErrorCode::None, "the coordinator makes the id");
        let leaves = ConsumerGroupHeartbeatRequest { member_epoch: -2, ..first() };
        assert_eq!(check(leaves, 1), ErrorCode::InvalidRequest, "a dynamic member is not back");
        let assignor = Some("sticky".to_owned());
        let unknown = ConsumerGroupHeartbeatRequest { server_assignor: assignor, ..first() };
        assert_eq!(check(unknown, 1), ErrorCode::UnsupportedAssignor);
    }
}
