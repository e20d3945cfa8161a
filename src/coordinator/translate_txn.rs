//! TxnOffsetCommit from the wire's structs to the machine's call and back. Pure.

use super::{
    calls::{CommitCall, CommitPartition, CommitReply, CommitTopic},
    ports::TopicNames,
    translate::instance,
};
use crate::{
    base::{ErrorCode, PartitionId, Uuid},
    wire::api::txn::{
        TxnOffsetCommitRequest, TxnOffsetCommitResponse, TxnOffsetCommitResponsePartition,
        TxnOffsetCommitResponseTopic,
    },
};

/// Producers before this version may crash at an unexpected COORDINATOR_LOAD_IN_PROGRESS.
const KNOWS_LOADING_FROM: i16 = 2;

/// Codes for partitions, in the order of the request; `None` while the group is to decide.
type Codes = Vec<(PartitionId, Option<ErrorCode>)>;

/// A TxnOffsetCommit on its way: the call, and the answers that are clear already.
#[derive(Debug)]
pub(super) struct TxnCommit {
    commit: CommitCall,
    topics: Vec<(String, Codes)>,
    version: i16,
}

impl TxnCommit {
    pub(super) fn new(
        request: TxnOffsetCommitRequest,
        version: i16,
        names: &dyn TopicNames,
    ) -> Self {
        let (mut accepted, mut topics) = (Vec::new(), Vec::new());
        for topic in request.topics {
            let refused = names.id_of(&topic.name).err();
            let (mut codes, mut partitions) = (Vec::new(), Vec::new());
            for p in topic.partitions {
                let known = names.has_partition(&topic.name, p.partition_index);
                let unknown = (!known).then_some(ErrorCode::UnknownTopicOrPartition);
                let code = refused.or(unknown);
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
            if !partitions.is_empty() {
                // Kafka writes no topic id into offsets of transactions.
                let (name, topic_id) = ((&*topic.name).into(), Uuid::ZERO);
                accepted.push(CommitTopic { name, topic_id, partitions });
            }
            topics.push((topic.name, codes));
        }
        let commit = CommitCall {
            group: request.group_id.into(),
            generation: request.generation_id,
            member_id: request.member_id.into(),
            instance_id: instance(request.group_instance_id),
            retention_ms: None,
            knows_group_id_not_found: false,
            topics: accepted,
        };
        Self { commit, topics, version }
    }

    /// What the group is to commit; without topics if nothing is left.
    pub(super) fn take_call(&mut self) -> CommitCall {
        let topics = std::mem::take(&mut self.commit.topics);
        CommitCall { topics, ..self.commit.clone() }
    }

    pub(super) fn response(self, reply: &CommitReply) -> TxnOffsetCommitResponse {
        let mut answers = reply.topics.iter().flat_map(|(_, _, p)| p.iter().map(|(_, e)| *e));
        let version = self.version;
        let mut decide = |code: Option<ErrorCode>| {
            let decided = code.unwrap_or_else(|| match reply.error {
                ErrorCode::None => answers.next().unwrap_or(ErrorCode::UnknownServerError),
                e => e,
            });
            match decided {
                ErrorCode::CoordinatorLoadInProgress if version < KNOWS_LOADING_FROM => {
                    ErrorCode::CoordinatorNotAvailable
                }
                code => code,
            }
        };
        let topics = self.topics.into_iter().map(|(name, codes)| {
            let partition = |(partition_index, code)| TxnOffsetCommitResponsePartition {
                partition_index,
                error_code: decide(code),
            };
            let partitions = codes.into_iter().map(partition).collect();
            TxnOffsetCommitResponseTopic { name, partitions }
        });
        TxnOffsetCommitResponse { topics: topics.collect(), ..Default::default() }
    }
}
