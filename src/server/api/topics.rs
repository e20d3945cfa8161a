//! CreateTopics, DeleteTopics, CreatePartitions: forwarded to the active controller.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    base::{ErrorCode, Uuid},
    metadata::Image,
    pb::controller::{self as pb, submit_reply::Reply, submit_request::Command},
    server::{
        context::{Admin, Caller},
        forward::{Failure, code, uuid},
    },
    wire::api::topics::{
        CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreatePartitionsRequest,
        CreatePartitionsResponse, CreatePartitionsTopicResult, CreateTopicsRequest,
        CreateTopicsResponse, DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse,
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

/// DeleteTopics.
pub(crate) async fn delete_topics(
    node: &dyn Admin,
    caller: &Caller,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    if !node.settings().cluster.delete_topics {
        return refuse_deletion(caller, request);
    }
    let mut responses = Vec::new();
    let mut found: BTreeMap<Uuid, Option<String>> = BTreeMap::new();
    let image = image_with(node, &request).await;
    let mut seen_names = BTreeSet::new();
    let by_name = request.topic_names.into_iter().map(|n| (Some(n), Uuid::ZERO));
    let by_state = request.topics.into_iter().map(|t| (t.name, t.topic_id));
    for (name, id) in by_name.chain(by_state) {
        let mut refuse = |error_code, message: Option<&str>| {
            responses.push(DeletableTopicResult {
                name: name.clone(),
                topic_id: id,
                error_code,
                error_message: message.map(str::to_owned),
            });
        };
        match &name {
            Some(_) if !id.is_zero() => refuse(
                ErrorCode::InvalidRequest,
                Some("You may not specify both topic name and topic id."),
            ),
            Some(n) if !seen_names.insert(n.clone()) => {
                refuse(ErrorCode::InvalidRequest, Some("Duplicate topic name."));
            }
            Some(n) => match image.topics().id_of(n) {
                Some(id) => _ = found.insert(id, name),
                None => refuse(ErrorCode::UnknownTopicOrPartition, None),
            },
            None if id.is_zero() => {
                refuse(ErrorCode::InvalidRequest, Some("Neither topic name nor id were specified."))
            }
            None if image.topics().by_id(id).is_some() => {
                if found.insert(id, image.topics().by_id(id).map(|t| t.name.to_string())).is_some()
                {
                    refuse(ErrorCode::InvalidRequest, Some("Duplicate topic id."));
                }
            }
            None => refuse(ErrorCode::UnknownTopicId, None),
        }
    }
    if !found.is_empty() {
        let ids = found.keys().map(|id| id.0.to_vec().into()).collect();
        let command = Command::DeleteTopics(pb::DeleteTopics { topic_ids: ids });
        let done = node.submit(command, request.timeout_ms).await;
        responses.extend(deleted(done, found));
    }
    DeleteTopicsResponse { throttle_time_ms: 0, responses }
}

/// The image, or the next that has all the controller has if this one lacks a topic that is named:
/// another broker may have created it a moment ago.
async fn image_with(node: &dyn Admin, request: &DeleteTopicsRequest) -> Arc<Image> {
    let image = node.image();
    let by_name = |name: &String| image.topics().id_of(name).is_some();
    let all = request.topic_names.iter().all(by_name)
        && request.topics.iter().all(|t| match &t.name {
            Some(name) => by_name(name),
            None => image.topics().by_id(t.topic_id).is_some(),
        });
    if all {
        return image;
    }
    node.catch_up(request.timeout_ms).await;
    node.image()
}

fn deleted(
    done: Result<Reply, Failure>,
    mut found: BTreeMap<Uuid, Option<String>>,
) -> Vec<DeletableTopicResult> {
    match done {
        Ok(Reply::DeleteTopics(reply)) => reply
            .topics
            .into_iter()
            .map(|t| {
                let id = uuid(&t.topic_id);
                DeletableTopicResult {
                    name: found.remove(&id).flatten(),
                    topic_id: id,
                    error_code: code(t.error),
                    error_message: t.error_message,
                }
            })
            .collect(),
        other => {
            let failure = Failure::of(other);
            found
                .into_iter()
                .map(|(topic_id, name)| DeletableTopicResult {
                    name,
                    topic_id,
                    error_code: failure.code,
                    error_message: failure.message.clone(),
                })
                .collect()
        }
    }
}

fn refuse_deletion(caller: &Caller, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let error_code = if caller.version < 3 {
        ErrorCode::InvalidRequest
    } else {
        ErrorCode::TopicDeletionDisabled
    };
    let by_name = request.topic_names.into_iter().map(|n| (Some(n), Uuid::ZERO));
    let by_state = request.topics.into_iter().map(|t| (t.name, t.topic_id));
    let responses = by_name
        .chain(by_state)
        .map(|(name, topic_id)| DeletableTopicResult {
            name,
            topic_id,
            error_code,
            error_message: Some(
                "Topic deletion is disabled: delete.topic.enable=false on this broker.".into(),
            ),
        })
        .collect();
    DeleteTopicsResponse { throttle_time_ms: 0, responses }
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
