//! The wire's structs of the share group APIs to the machine's calls, and its replies back. Pure.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    calls::Client,
    calls_share_groups::{
        AlterShareOffsetsCall, AlterShareOffsetsReply, DescribedShareGroup, ShareHeartbeatCall,
        ShareHeartbeatReply,
    },
    consumer_records::Partitions,
    group_heartbeat::Refused,
    share_assignor,
    share_group::LEAVE_EPOCH,
    translate::instance,
};
use crate::{
    base::{ErrorCode, Offset, PartitionId, Uuid},
    metadata::Image,
    wire::api::share_groups::{
        self as wire, AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse,
        ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
    },
};

/// A member id is at most as long as a UUID in text (`KafkaApis.isMemberIdValid`), in UTF-16 code
/// units.
const MEMBER_ID_MAX: usize = 36;
/// What Kafka says with `UnknownTopicOrPartition`.
const UNKNOWN_PARTITION: &str = "This server does not host this topic-partition.";

/// ShareGroupHeartbeat, or what refuses it before it reaches a group
/// (`throwIfShareGroupHeartbeatRequestIsInvalid`).
///
/// # Errors
/// `InvalidRequest`.
pub(super) fn heartbeat_call(
    request: ShareGroupHeartbeatRequest,
    client: &Client,
) -> Result<ShareHeartbeatCall, Refused> {
    let invalid = |text: &str| Err(Refused::new(ErrorCode::InvalidRequest, text));
    let id = &request.member_id;
    let first = request.member_epoch == 0;
    if id.is_empty() || id.encode_utf16().count() > MEMBER_ID_MAX {
        return invalid("Invalid member id in the request.");
    } else if id.trim().is_empty() {
        return invalid("MemberId can't be empty.");
    } else if request.group_id.trim().is_empty() {
        return invalid("GroupId can't be empty.");
    } else if request.rack_id.as_ref().is_some_and(|rack| rack.trim().is_empty()) {
        return invalid("RackId can't be empty.");
    } else if first && request.subscribed_topic_names.as_ref().is_none_or(Vec::is_empty) {
        return invalid("SubscribedTopicNames must be set in first request.");
    } else if request.member_epoch < LEAVE_EPOCH {
        return invalid("MemberEpoch is invalid.");
    }
    let topics = request.subscribed_topic_names;
    Ok(ShareHeartbeatCall {
        group: request.group_id.into(),
        client: client.clone(),
        member_id: request.member_id.into(),
        epoch: request.member_epoch,
        rack: instance(request.rack_id),
        topics: topics.map(|names| names.into_iter().map(Into::into).collect()),
    })
}

pub(super) fn heartbeat_response(reply: ShareHeartbeatReply) -> ShareGroupHeartbeatResponse {
    let assignment = reply.assignment.map(|partitions| {
        let topics = partitions.iter().map(|(topic, partitions)| {
            let partitions = partitions.iter().copied().collect();
            wire::ShareHeartbeatTopicPartitions { topic_id: *topic, partitions }
        });
        wire::ShareHeartbeatAssignment { topic_partitions: topics.collect() }
    });
    ShareGroupHeartbeatResponse {
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
) -> wire::ShareGroupDescribed {
    let group_id = group_id.to_owned();
    wire::ShareGroupDescribed { error_code, error_message, group_id, ..Default::default() }
}

/// Topics that are gone are left out.
pub(super) fn described(group: DescribedShareGroup, image: &Image) -> wire::ShareGroupDescribed {
    let members = group.members.into_iter().map(|m| wire::ShareGroupMember {
        member_id: m.member_id.to_string(),
        rack_id: m.rack.map(|r| r.to_string()),
        member_epoch: m.epoch,
        client_id: m.client.id.to_string(),
        client_host: m.client.host.to_string(),
        subscribed_topic_names: m.topics.iter().map(ToString::to_string).collect(),
        assignment: assignment(&m.assigned, image),
    });
    wire::ShareGroupDescribed {
        group_id: group.group.to_string(),
        group_state: group.state.to_owned(),
        group_epoch: group.epoch,
        assignment_epoch: group.target_epoch,
        assignor_name: share_assignor::NAME.to_owned(),
        members: members.collect(),
        ..Default::default()
    }
}

fn assignment(partitions: &Partitions, image: &Image) -> wire::ShareGroupAssignment {
    let topics = partitions.iter().filter_map(|(id, partitions)| {
        let topic = image.topics().by_id(*id)?;
        Some(wire::ShareGroupTopicPartitions {
            topic_id: *id,
            topic_name: topic.name.to_string(),
            partitions: partitions.iter().copied().collect(),
        })
    });
    wire::ShareGroupAssignment { topic_partitions: topics.collect() }
}

/// A partition, and its place in the call, or why it has none.
type Place = (PartitionId, Result<usize, ErrorCode>);

/// AlterShareGroupOffsets: what is asked of the group, and what is refused here.
#[derive(Debug)]
pub(super) struct Alter {
    pub(super) call: AlterShareOffsetsCall,
    topics: Vec<(String, Uuid, Vec<Place>)>,
}

impl Alter {
    /// Partitions that exist become part of the call; of one that is named twice the last counts.
    pub(super) fn new(request: AlterShareGroupOffsetsRequest, image: &Image) -> Self {
        let mut offsets: Vec<(Uuid, PartitionId, Offset)> = Vec::new();
        let mut known: BTreeMap<(Uuid, PartitionId), usize> = BTreeMap::new();
        let mut topics = Vec::new();
        for topic in request.topics {
            let found = image.topics().by_name(&topic.topic_name);
            let id = found.map_or_else(Uuid::default, |t| t.id);
            let count = found.map_or(0, |t| t.partition_count());
            let partitions = topic.partitions.into_iter().map(|p| {
                let (index, offset) = (p.partition_index, p.start_offset);
                if !(0..count).contains(&index) {
                    return (index, Err(ErrorCode::UnknownTopicOrPartition));
                } else if offset < -1 {
                    return (index, Err(ErrorCode::InvalidRequest));
                }
                let at = *known.entry((id, index)).or_insert_with(|| {
                    offsets.push((id, index, offset));
                    offsets.len() - 1
                });
                if let Some(asked) = offsets.get_mut(at) {
                    asked.2 = offset;
                }
                (index, Ok(at))
            });
            let partitions = partitions.collect();
            topics.push((topic.topic_name, id, partitions));
        }
        let call = AlterShareOffsetsCall { group: request.group_id.into(), offsets };
        Self { call, topics }
    }

    pub(super) fn response(self, reply: AlterShareOffsetsReply) -> AlterShareGroupOffsetsResponse {
        if reply.error != ErrorCode::None {
            return AlterShareGroupOffsetsResponse {
                error_code: reply.error,
                error_message: reply.message,
                ..Default::default()
            };
        }
        let topics = self.topics.into_iter().map(|(topic_name, topic_id, partitions)| {
            let partitions = partitions.into_iter().map(|(partition_index, asked)| {
                let code = |at: usize| reply.codes.get(at).copied();
                let error_code = match asked {
                    Ok(at) => code(at).unwrap_or(ErrorCode::UnknownServerError),
                    Err(error) => error,
                };
                wire::AlterShareGroupOffsetsResponsePartition {
                    partition_index,
                    error_code,
                    error_message: partition_message(error_code),
                }
            });
            let partitions = partitions.collect();
            wire::AlterShareGroupOffsetsResponseTopic { topic_name, topic_id, partitions }
        });
        AlterShareGroupOffsetsResponse { responses: topics.collect(), ..Default::default() }
    }
}

/// Words for an error of a topic or partition.
pub(super) fn partition_message(error: ErrorCode) -> Option<String> {
    match error {
        ErrorCode::None => None,
        ErrorCode::UnknownTopicOrPartition => Some(UNKNOWN_PARTITION.to_owned()),
        other => Some(other.name().to_owned()),
    }
}

/// Topics by name, each once, in their order.
pub(super) fn distinct(topics: Vec<wire::DeleteShareGroupOffsetsRequestTopic>) -> Vec<Arc<str>> {
    let mut seen = std::collections::BTreeSet::new();
    let names = topics.into_iter().map(|t| Arc::<str>::from(t.topic_name));
    names.filter(|name| seen.insert(name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_no_client_should_send_are_refused() {
        let first = || ShareGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            subscribed_topic_names: Some(vec!["a".into()]),
            ..Default::default()
        };
        type Change = fn(&mut ShareGroupHeartbeatRequest);
        let wrong: [Change; 8] = [
            |r| r.group_id = " ".into(),
            |r| r.member_id = String::new(),
            |r| r.member_id = " ".into(),
            |r| r.member_id = "x".repeat(37),
            |r| r.rack_id = Some(String::new()),
            |r| r.subscribed_topic_names = None,
            |r| r.subscribed_topic_names = Some(Vec::new()),
            |r| r.member_epoch = -2,
        ];
        let check = |r| heartbeat_call(r, &Client::default()).err().map(|refused| refused.error);
        for (n, change) in wrong.into_iter().enumerate() {
            let mut request = first();
            change(&mut request);
            assert_eq!(check(request), Some(ErrorCode::InvalidRequest), "{n}");
        }
        assert_eq!(check(first()), None);
        let leaves = ShareGroupHeartbeatRequest {
            member_epoch: -1,
            subscribed_topic_names: None,
            ..first()
        };
        assert_eq!(check(leaves), None);
    }
}
