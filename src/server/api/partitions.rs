//! ElectLeaders, AlterPartitionReassignments, ListPartitionReassignments: forwarded to the active
//! controller.

use crate::{
    base::ErrorCode,
    pb::controller::{self as pb, submit_reply::Reply, submit_request::Command},
    server::{
        context::{Admin, Caller},
        forward::{Failure, code},
    },
    wire::api::partitions::{
        AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse,
        ElectLeadersRequest, ElectLeadersResponse, ListPartitionReassignmentsRequest,
        ListPartitionReassignmentsResponse, OngoingPartitionReassignment, OngoingTopicReassignment,
        PartitionResult, ReassignablePartitionResponse, ReassignableTopic,
        ReassignableTopicResponse, ReplicaElectionResult,
    },
};

/// ElectLeaders.
pub(crate) async fn elect_leaders(
    node: &dyn Admin,
    _: &Caller,
    request: ElectLeadersRequest,
) -> ElectLeadersResponse {
    let all = request.topic_partitions.is_none();
    let topics = request.topic_partitions.unwrap_or_default().into_iter();
    let topics: Vec<_> =
        topics.map(|t| pb::TopicPartitions { topic: t.topic, partitions: t.partitions }).collect();
    let election_type = i32::from(request.election_type);
    let command = pb::ElectLeaders { election_type, all, topics: topics.clone() };
    let done = node.submit(Command::ElectLeaders(command), request.timeout_ms).await;
    let (error_code, results) = match done {
        Ok(Reply::ElectLeaders(reply)) => (ErrorCode::None, reply.topics),
        other => {
            let failure = Failure::of(other);
            let asked = topics.iter().map(|t| (&t.topic, t.partitions.as_slice()));
            (failure.code, failed(&failure, asked))
        }
    };
    let result = |p: pb::PartitionResult| PartitionResult {
        partition_id: p.partition,
        error_code: code(p.error),
        error_message: p.error_message,
    };
    let results = results.into_iter().map(|t| ReplicaElectionResult {
        topic: t.topic,
        partition_result: t.partitions.into_iter().map(result).collect(),
    });
    ElectLeadersResponse {
        throttle_time_ms: 0,
        error_code,
        replica_election_results: results.collect(),
    }
}

/// The same failure for every partition that was asked for.
fn failed<'a>(
    failure: &Failure,
    asked: impl Iterator<Item = (&'a String, &'a [i32])>,
) -> Vec<pb::TopicPartitionResults> {
    let result = |partition: &i32| pb::PartitionResult {
        partition: *partition,
        error: failure.code.code().into(),
        error_message: failure.message.clone(),
    };
    asked
        .map(|(topic, partitions)| pb::TopicPartitionResults {
            topic: topic.clone(),
            partitions: partitions.iter().map(result).collect(),
        })
        .collect()
}

/// AlterPartitionReassignments.
pub(crate) async fn alter_partition_reassignments(
    node: &dyn Admin,
    _: &Caller,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let allow = request.allow_replication_factor_change;
    let one = |t: &ReassignableTopic| pb::ReassignableTopic {
        topic: t.name.clone(),
        partitions: t
            .partitions
            .iter()
            .map(|p| pb::ReassignablePartition {
                partition: p.partition_index,
                replicas: p.replicas.clone().map(|nodes| pb::NodeList { nodes }),
            })
            .collect(),
    };
    let command = pb::AlterPartitionReassignments {
        topics: request.topics.iter().map(one).collect(),
        allow_replication_factor_change: allow,
    };
    let command = Command::AlterPartitionReassignments(command);
    let mut response = AlterPartitionReassignmentsResponse {
        allow_replication_factor_change: allow,
        ..Default::default()
    };
    let results = match node.submit(command, request.timeout_ms).await {
        Ok(Reply::AlterPartitionReassignments(reply)) => reply.topics,
        other => {
            let failure = Failure::of(other);
            let asked = request.topics.iter().map(|t| {
                let partitions: Vec<i32> = t.partitions.iter().map(|p| p.partition_index).collect();
                (&t.name, partitions)
            });
            let asked: Vec<_> = asked.collect();
            let results = failed(&failure, asked.iter().map(|(t, p)| (*t, p.as_slice())));
            (response.error_code, response.error_message) = (failure.code, failure.message);
            results
        }
    };
    let result = |p: pb::PartitionResult| ReassignablePartitionResponse {
        partition_index: p.partition,
        error_code: code(p.error),
        error_message: p.error_message,
    };
    let topic = |t: pb::TopicPartitionResults| ReassignableTopicResponse {
        name: t.topic,
        partitions: t.partitions.into_iter().map(result).collect(),
    };
    response.responses = results.into_iter().map(topic).collect();
    response
}

/// ListPartitionReassignments.
pub(crate) async fn list_partition_reassignments(
    node: &dyn Admin,
    _: &Caller,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let all = request.topics.is_none();
    let topics = request.topics.unwrap_or_default().into_iter();
    let topics = topics
        .map(|t| pb::TopicPartitions { topic: t.name, partitions: t.partition_indexes })
        .collect();
    let command =
        Command::ListPartitionReassignments(pb::ListPartitionReassignments { all, topics });
    let ongoing = |p: pb::OngoingReassignment| OngoingPartitionReassignment {
        partition_index: p.partition,
        replicas: p.replicas,
        adding_replicas: p.adding_replicas,
        removing_replicas: p.removing_replicas,
    };
    match node.submit(command, request.timeout_ms).await {
        Ok(Reply::ListPartitionReassignments(reply)) => {
            let topics = reply.topics.into_iter().map(|t| OngoingTopicReassignment {
                name: t.topic,
                partitions: t.partitions.into_iter().map(ongoing).collect(),
            });
            ListPartitionReassignmentsResponse { topics: topics.collect(), ..Default::default() }
        }
        other => {
            let Failure { code, message } = Failure::of(other);
            ListPartitionReassignmentsResponse {
                error_code: code,
                error_message: message,
                ..Default::default()
            }
        }
    }
}
