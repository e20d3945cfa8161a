//! CreateTopics, CreatePartitions: forwarded to the active controller.

use std::collections::BTreeSet;

use crate::{
    base::ErrorCode,
    pb::controller::{self as pb, submit_reply::Reply, submit_request::Command},
    server::{
        context::{Admin, Caller},
        forward::{Failure, code, uuid},
    },
    wire::api::topics::{
        CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreatePartitionsRequest,
        CreatePartitionsResponse, CreatePartitionsTopicResult, CreateTopicsRequest,
        CreateTopicsResponse,
    },
};

/// A topic to create, as the controller wants it.
pub(crate) fn creatable(topic: CreatableTopic) -> pb::CreatableTopic {
    pb::CreatableTopic {
        name: topic.name,
        num_partitions: topic.num_partitions,
        replication_factor: i32::from(topic.replication_factor),
        assignments: topic
            .assignments
            .into_iter()
            .map(|a| pb::ReplicaAssignment {
                partition: a.partition_index,
                broker_ids: a.broker_ids,
            })
            .collect(),
        configs: topic
            .configs
            .into_iter()
            .map(|c| pb::ConfigEntry { name: c.name, value: c.value })
            .collect(),
    }
}

/// CreateTopics.
pub(crate) async fn create_topics(
    node: &dyn Admin,
    caller: &Caller,
    request: CreateTopicsRequest,
) -> CreateTopicsResponse {
    let names: Vec<String> = request.topics.iter().map(|t| t.name.clone()).collect();
    let command = pb::CreateTopics {
        describable: names.clone(),
        topics: request.topics.into_iter().map(creatable).collect(),
        validate_only: request.validate_only,
    };
    let done = node.submit(Command::CreateTopics(command), request.timeout_ms).await;
    let topics = match done {
        Ok(Reply::CreateTopics(reply)) => {
            reply.topics.into_iter().map(|t| created(t, caller.version)).collect()
        }
        other => {
            let failure = Failure::of(other);
            let unique: BTreeSet<String> = names.into_iter().collect();
            unique
                .into_iter()
                .map(|name| CreatableTopicResult {
                    name,
                    error_code: failure.code,
                    error_message: failure.message.clone(),
                    ..Default::default()
                })
                .collect()
        }
    };
    CreateTopicsResponse { throttle_time_ms: 0, topics }
}

fn created(topic: pb::CreatableTopicResult, version: i16) -> CreatableTopicResult {
    let configs = topic.configs.into_iter().map(|c| CreatableTopicConfigs {
        name: c.name,
        value: c.value,
        read_only: c.read_only,
        config_source: i8::try_from(c.source).unwrap_or(-1),
        is_sensitive: c.is_sensitive,
    });
    let error_code = code(topic.error);
    let refused = error_code != ErrorCode::None;
    CreatableTopicResult {
        name: topic.name,
        topic_id: uuid(&topic.topic_id),
        error_code,
        error_message: topic.error_message,
        topic_config_error_code: code(topic.topic_config_error),
        num_partitions: if refused { -1 } else { topic.num_partitions },
        replication_factor: if refused {
            -1
        } else {
            i16::try_from(topic.replication_factor).unwrap_or(-1)
        },
        configs: (version >= 5 && !refused).then(|| configs.collect()),
    }
}

/// CreatePartitions.
pub(crate) async fn create_partitions(
    node: &dyn Admin,
    _caller: &Caller,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let names: Vec<String> = request.topics.iter().map(|t| t.name.clone()).collect();
    let topics = request.topics.into_iter().map(|t| pb::CreatePartitionsTopic {
        name: t.name,
        count: t.count,
        has_assignments: t.assignments.is_some(),
        assignments: t
            .assignments
            .unwrap_or_default()
            .into_iter()
            .map(|a| pb::NodeList { nodes: a.broker_ids })
            .collect(),
    });
    let command =
        pb::CreatePartitions { topics: topics.collect(), validate_only: request.validate_only };
    let done = node.submit(Command::CreatePartitions(command), request.timeout_ms).await;
    let results = match done {
        Ok(Reply::CreatePartitions(reply)) => reply
            .topics
            .into_iter()
            .map(|t| CreatePartitionsTopicResult {
                name: t.name,
                error_code: code(t.error),
                error_message: t.error_message,
            })
            .collect(),
        other => {
            let failure = Failure::of(other);
            names
                .into_iter()
                .map(|name| CreatePartitionsTopicResult {
                    name,
                    error_code: failure.code,
                    error_message: failure.message.clone(),
                })
                .collect()
        }
    };
    CreatePartitionsResponse { throttle_time_ms: 0, results }
}
