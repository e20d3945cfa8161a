//! The wire's structs of the offset APIs to the machine's calls, and its replies back. Topics are
//! resolved here: what the client may not see, or what does not exist, never reaches a group. Pure.

use std::sync::Arc;

use super::{
    calls::{
        CommitCall, CommitPartition, CommitReply, CommitTopic, DeleteOffsetsCall,
        DeleteOffsetsReply, FetchCall, FetchReply, FetchTopic, FetchedPartition, FetchedTopic,
    },
    ports::TopicNames,
    translate::instance,
};
use crate::{
    base::{ErrorCode, PartitionId, Uuid},
    wire::api::group_offsets::{
        self as wire, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest,
        OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse,
    },
};

/// From this version on topics go by id.
const TOPIC_IDS_FROM: i16 = 10;
/// From this version on an OffsetFetch asks for several groups.
const GROUPS_FROM: i16 = 8;

/// Codes for partitions, in the order of the request; `None` while the group is to decide.
type Codes = Vec<(PartitionId, Option<ErrorCode>)>;

/// Fills what the group decided into `codes`: its answers come in the order they were asked.
fn decided(
    codes: Codes,
    answers: &mut impl Iterator<Item = ErrorCode>,
    error: ErrorCode,
) -> impl Iterator<Item = (PartitionId, ErrorCode)> {
    codes.into_iter().map(move |(partition, code)| {
        let decide = || match error {
            ErrorCode::None => answers.next().unwrap_or(ErrorCode::UnknownServerError),
            e => e,
        };
        (partition, code.unwrap_or_else(decide))
    })
}

/// An OffsetCommit on its way: the call, and the answers that are clear already.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) call: CommitCall,
    topics: Vec<(String, Uuid, Codes)>,
}

impl Commit {
    pub(super) fn new(request: OffsetCommitRequest, version: i16, names: &dyn TopicNames) -> Self {
        let (mut accepted, mut topics) = (Vec::new(), Vec::new());
        for topic in request.topics {
            let found = resolve(&topic.name, topic.topic_id, version, names);
            let (mut codes, mut partitions) = (Vec::new(), Vec::new());
            for p in topic.partitions {
                let code = match &found {
                    Err(error) => Some(*error),
                    Ok((name, _)) if !names.has_partition(name, p.partition_index) => {
                        Some(ErrorCode::UnknownTopicOrPartition)
                    }
                    Ok(_) => None,
                };
                codes.push((p.partition_index, code));
                if code.is_none() {
                    partitions.push(CommitPartition {
                        partition: p.partition_index,
                        offset: p.committed_offset,
                        leader_epoch: p.committed_leader_epoch,
                        metadata: p.committed_metadata.unwrap_or_default().into(),
                    });
                }
            }
            if let Ok((name, topic_id)) = found.clone()
                && !partitions.is_empty()
            {
                accepted.push(CommitTopic { name, topic_id, partitions });
            }
            topics.push((topic.name, topic.topic_id, codes));
        }
        let call = CommitCall {
            group: request.group_id.into(),
            generation: request.generation_id_or_member_epoch,
            member_id: request.member_id.into(),
            instance_id: instance(request.group_instance_id),
            retention_ms: Some(request.retention_time_ms).filter(|ms| *ms != -1),
            knows_group_id_not_found: version >= 9,
            topics: accepted,
        };
        Self { call, topics }
    }

    /// The call, unless no partition is left to commit.
    pub(super) fn take_call(&mut self) -> Option<CommitCall> {
        let empty = CommitCall { topics: Vec::new(), ..self.call.clone() };
        (!self.call.topics.is_empty()).then(|| std::mem::replace(&mut self.call, empty))
    }

    pub(super) fn response(self, reply: &CommitReply) -> OffsetCommitResponse {
        let mut answers = reply.topics.iter().flat_map(|(_, _, p)| p.iter().map(|(_, e)| *e));
        let topics = self.topics.into_iter().map(|(name, topic_id, codes)| {
            let partitions =
                decided(codes, &mut answers, reply.error).map(|(partition_index, error_code)| {
                    wire::OffsetCommitResponsePartition { partition_index, error_code }
                });
            wire::OffsetCommitResponseTopic { name, topic_id, partitions: partitions.collect() }
        });
        OffsetCommitResponse { topics: topics.collect(), ..Default::default() }
    }
}

/// Name and id of a topic that a request names one way or the other.
fn resolve(
    name: &str,
    topic_id: Uuid,
    version: i16,
    names: &dyn TopicNames,
) -> Result<(Arc<str>, Uuid), ErrorCode> {
    match version >= TOPIC_IDS_FROM {
        true => Ok((names.name_of(topic_id)?, topic_id)),
        false => Ok((name.into(), names.id_of(name)?)),
    }
}

/// One group of an OffsetFetch on its way.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) call: FetchCall,
    /// Topics that are refused before the group is asked.
    refused: Vec<FetchedTopic>,
    version: i16,
}

impl Fetch {
    /// The groups of a request; up to version 7 there is one.
    pub(super) fn all(
        request: OffsetFetchRequest,
        version: i16,
        names: &dyn TopicNames,
    ) -> Vec<Self> {
        let stable = request.require_stable;
        if version < GROUPS_FROM {
            let topics = request.topics.map(|topics| {
                let all = topics.into_iter();
                all.map(|t| (t.name, Uuid::ZERO, t.partition_indexes)).collect()
            });
            return vec![Self::new((request.group_id, None, -1), topics, stable, version, names)];
        }
        let group = |g: wire::OffsetFetchRequestGroup| {
            let topics = g.topics.map(|topics| {
                let all = topics.into_iter();
                all.map(|t| (t.name, t.topic_id, t.partition_indexes)).collect()
            });
            Self::new((g.group_id, g.member_id, g.member_epoch), topics, stable, version, names)
        };
        request.groups.into_iter().map(group).collect()
    }

    fn new(
        (group, member_id, member_epoch): (String, Option<String>, i32),
        topics: Option<Vec<(String, Uuid, Vec<PartitionId>)>>,
        require_stable: bool,
        version: i16,
        names: &dyn TopicNames,
    ) -> Self {
        let mut refused = Vec::new();
        let mut ask = |(name, topic_id, partitions): (String, Uuid, Vec<PartitionId>)| {
            let name = match resolve(&name, topic_id, version, names) {
                Ok((name, _)) => name,
                // By name, offsets may be asked for that outlived their topic.
                Err(ErrorCode::UnknownTopicOrPartition) if version < TOPIC_IDS_FROM => name.into(),
                Err(error) => {
                    refused.push(refuse(name.into(), topic_id, partitions, error));
                    return None;
                }
            };
            Some(FetchTopic { name, topic_id, partitions })
        };
        let topics = topics.map(|topics| topics.into_iter().filter_map(&mut ask).collect());
        let member_id = instance(member_id);
        let group = group.into();
        let call = FetchCall { group, member_id, member_epoch, topics, require_stable };
        Self { call, refused, version }
    }

    /// The group's answer, with what was refused, and without what the client may not see.
    pub(super) fn response(
        self,
        reply: FetchReply,
        names: &dyn TopicNames,
    ) -> wire::OffsetFetchResponseGroup {
        let group_id = self.call.group.to_string();
        if reply.error != ErrorCode::None {
            return self.group_error(group_id, reply.error);
        }
        let by_id = self.version >= TOPIC_IDS_FROM;
        let all = self.call.topics.is_none();
        let mut topics = Vec::new();
        for mut topic in reply.topics.into_iter().chain(self.refused) {
            if all {
                match names.id_of(&topic.name) {
                    Ok(id) => topic.topic_id = id,
                    Err(ErrorCode::UnknownTopicOrPartition) if !by_id => {}
                    Err(_) => continue,
                }
            }
            topics.push(fetched(topic));
        }
        wire::OffsetFetchResponseGroup { group_id, topics, ..Default::default() }
    }

    /// Version 1 has room for errors in partitions only.
    fn group_error(self, group_id: String, error: ErrorCode) -> wire::OffsetFetchResponseGroup {
        if self.version >= 2 {
            return wire::OffsetFetchResponseGroup {
                group_id,
                error_code: error,
                ..Default::default()
            };
        }
        let asked = self.call.topics.into_iter().flatten();
        let topics = asked.map(|t| fetched(refuse(t.name, t.topic_id, t.partitions, error)));
        let topics = topics.chain(self.refused.into_iter().map(fetched)).collect();
        wire::OffsetFetchResponseGroup { group_id, topics, ..Default::default() }
    }
}

fn refuse(
    name: Arc<str>,
    topic_id: Uuid,
    partitions: Vec<PartitionId>,
    error: ErrorCode,
) -> FetchedTopic {
    let partitions = partitions.into_iter().map(|partition| FetchedPartition {
        partition,
        offset: -1,
        leader_epoch: -1,
        metadata: Arc::default(),
        error,
    });
    FetchedTopic { name, topic_id, partitions: partitions.collect() }
}

fn fetched(topic: FetchedTopic) -> wire::OffsetFetchResponseTopics {
    let partitions = topic.partitions.into_iter().map(|p| wire::OffsetFetchResponsePartitions {
        partition_index: p.partition,
        committed_offset: p.offset,
        committed_leader_epoch: p.leader_epoch,
        metadata: Some(p.metadata.to_string()),
        error_code: p.error,
    });
    wire::OffsetFetchResponseTopics {
        name: topic.name.to_string(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
    }
}

/// All groups in one response; up to version 7 the one group is the response.
pub(super) fn fetch_response(
    mut groups: Vec<wire::OffsetFetchResponseGroup>,
    version: i16,
) -> OffsetFetchResponse {
    if version >= GROUPS_FROM {
        return OffsetFetchResponse { groups, ..Default::default() };
    }
    let Some(group) = groups.pop() else { return OffsetFetchResponse::default() };
    let topics = group.topics.into_iter().map(|t| wire::OffsetFetchResponseTopic {
        name: t.name,
        partitions: t
            .partitions
            .into_iter()
            .map(|p| wire::OffsetFetchResponsePartition {
                partition_index: p.partition_index,
                committed_offset: p.committed_offset,
                committed_leader_epoch: p.committed_leader_epoch,
                metadata: p.metadata,
                error_code: p.error_code,
            })
            .collect(),
    });
    OffsetFetchResponse {
        topics: topics.collect(),
        error_code: group.error_code,
        ..Default::default()
    }
}

/// An OffsetDelete on its way.
#[derive(Debug)]
pub(super) struct Delete {
    pub(super) call: DeleteOffsetsCall,
    topics: Vec<(String, Codes)>,
}

impl Delete {
    /// # Errors
    /// `InvalidGroupId`.
    pub(super) fn new(
        request: OffsetDeleteRequest,
        names: &dyn TopicNames,
    ) -> Result<Self, ErrorCode> {
        if request.group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let (mut accepted, mut topics) = (Vec::new(), Vec::new());
        for topic in request.topics {
            let refused = names.id_of(&topic.name).err();
            let code = |p: PartitionId| match refused {
                None if names.has_partition(&topic.name, p) => None,
                None => Some(ErrorCode::UnknownTopicOrPartition),
                refused => refused,
            };
            let partitions = topic.partitions.iter().map(|p| p.partition_index);
            let codes: Codes = partitions.map(|p| (p, code(p))).collect();
            let left: Vec<_> =
                codes.iter().filter(|(_, code)| code.is_none()).map(|(p, _)| *p).collect();
            if !left.is_empty() {
                accepted.push((Arc::from(&*topic.name), left));
            }
            topics.push((topic.name, codes));
        }
        let call = DeleteOffsetsCall { group: request.group_id.into(), topics: accepted };
        Ok(Self { call, topics })
    }

    /// An error of the whole stands alone.
    pub(super) fn response(self, reply: &DeleteOffsetsReply) -> OffsetDeleteResponse {
        if reply.error != ErrorCode::None {
            return OffsetDeleteResponse { error_code: reply.error, ..Default::default() };
        }
        let mut answers = reply.topics.iter().flat_map(|(_, p)| p.iter().map(|(_, e)| *e));
        let topics = self.topics.into_iter().map(|(name, codes)| {
            let partitions =
                decided(codes, &mut answers, reply.error).map(|(partition_index, error_code)| {
                    wire::OffsetDeleteResponsePartition { partition_index, error_code }
                });
            wire::OffsetDeleteResponseTopic { name, partitions: partitions.collect() }
        });
        OffsetDeleteResponse { topics: topics.collect(), ..Default::default() }
    }
}
