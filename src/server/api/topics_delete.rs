//! DeleteTopics: which topics a request means, then the controller's word
//! (`ControllerApis.deleteTopics`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    base::{ErrorCode, Uuid},
    metadata::{Image, topics::Topics},
    pb::controller::{self as pb, submit_reply::Reply, submit_request::Command},
    server::{
        context::{Admin, Caller},
        forward::{Failure, code, uuid},
    },
    wire::api::topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse},
};

/// DeleteTopics.
pub(crate) async fn delete_topics(
    node: &dyn Admin,
    caller: &Caller,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    if !node.settings().cluster.delete_topics {
        return refuse_deletion(caller, request);
    }
    let (timeout_ms, entries) = (request.timeout_ms, named(request));
    let (image, behind) = image_with(node, &entries, timeout_ms).await;
    let (found, mut responses) = meant(image.topics(), entries, behind.as_ref());
    if !found.is_empty() {
        let ids = found.keys().map(|id| id.0.to_vec().into()).collect();
        let command = Command::DeleteTopics(pb::DeleteTopics { topic_ids: ids });
        let done = node.submit(command, timeout_ms).await;
        responses.extend(deleted(done, found));
    }
    DeleteTopicsResponse { throttle_time_ms: 0, responses }
}

/// A topic as a request names it: its name, or its id.
type Entry = (Option<String>, Uuid);

/// Up to version 5 topics are named in one field, from version 6 on in another.
fn named(request: DeleteTopicsRequest) -> Vec<Entry> {
    let by_name = request.topic_names.into_iter().map(|n| (Some(n), Uuid::ZERO));
    by_name.chain(request.topics.into_iter().map(|t| (t.name, t.topic_id))).collect()
}

/// The topics to delete, and the answers for entries that cannot be obeyed. A topic that is named
/// twice, be it by name, by id or by both, is not deleted at all. `behind`: why the image may not be
/// the newest; then nobody can say that a topic is unknown.
fn meant(
    topics: &Topics,
    entries: Vec<Entry>,
    behind: Option<&Failure>,
) -> (BTreeMap<Uuid, String>, Vec<DeletableTopicResult>) {
    let mut refused = Vec::new();
    let mut refuse = |name, topic_id, error_code, message: Option<&str>| {
        let error_message = message.map(str::to_owned);
        refused.push(DeletableTopicResult { name, topic_id, error_code, error_message });
    };
    let (mut names, mut ids) = (BTreeMap::<String, usize>::new(), BTreeMap::<Uuid, usize>::new());
    for (name, id) in entries {
        match name {
            Some(_) if !id.is_zero() => {
                let text = "You may not specify both topic name and topic id.";
                refuse(name, id, ErrorCode::InvalidRequest, Some(text));
            }
            Some(name) => *names.entry(name).or_default() += 1,
            None if id.is_zero() => {
                let text = "Neither topic name nor id were specified.";
                refuse(None, id, ErrorCode::InvalidRequest, Some(text));
            }
            None => *ids.entry(id).or_default() += 1,
        }
    }
    let unknown = |code| match behind {
        Some(failure) => (failure.code, failure.message.as_deref()),
        None => (code, None),
    };
    let (mut found, mut twice) = (BTreeMap::new(), BTreeSet::new());
    for (id, times) in ids {
        match topics.by_id(id) {
            _ if times > 1 => {
                twice.insert(id);
                refuse(None, id, ErrorCode::InvalidRequest, Some("Duplicate topic id."));
            }
            Some(topic) => _ = found.insert(id, topic.name.to_string()),
            None => {
                let (code, text) = unknown(ErrorCode::UnknownTopicId);
                refuse(None, id, code, text);
            }
        }
    }
    for (name, times) in names {
        match topics.id_of(&name) {
            _ if times > 1 => {
                let text = "Duplicate topic name.";
                refuse(Some(name), Uuid::ZERO, ErrorCode::InvalidRequest, Some(text));
            }
            None => {
                let (code, text) = unknown(ErrorCode::UnknownTopicOrPartition);
                refuse(Some(name), Uuid::ZERO, code, text);
            }
            Some(id) if twice.contains(&id) || found.remove(&id).is_some() => {
                let text = "The provided topic name maps to an ID that was already supplied.";
                refuse(Some(name), id, ErrorCode::InvalidRequest, Some(text));
            }
            Some(id) => _ = found.insert(id, name),
        }
    }
    (found, refused)
}

/// The image, or the next that has all the controller has if this one lacks a topic that is named:
/// another broker may have created it a moment ago. And why it may lack it still.
async fn image_with(
    node: &dyn Admin,
    entries: &[Entry],
    timeout_ms: i32,
) -> (Arc<Image>, Option<Failure>) {
    let image = node.image();
    let all = entries.iter().all(|(name, id)| match name {
        Some(name) => image.topics().id_of(name).is_some(),
        None => image.topics().by_id(*id).is_some(),
    });
    if all {
        return (image, None);
    }
    let behind = node.catch_up(timeout_ms).await.err();
    (node.image(), behind)
}

fn deleted(
    done: Result<Reply, Failure>,
    mut found: BTreeMap<Uuid, String>,
) -> Vec<DeletableTopicResult> {
    match done {
        Ok(Reply::DeleteTopics(reply)) => reply
            .topics
            .into_iter()
            .map(|t| {
                let id = uuid(&t.topic_id);
                DeletableTopicResult {
                    name: found.remove(&id),
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
                    name: Some(name),
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
    let responses = named(request)
        .into_iter()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{Delta, Record};

    fn image(names: &[(&str, u8)]) -> Image {
        let mut delta = Delta::new(&Image::default());
        for (name, id) in names {
            let record = Record::Topic { name: (*name).into(), id: Uuid([*id; 16]) };
            delta.replay(&record, 0).unwrap();
        }
        delta.image().clone()
    }

    /// What is deleted, and the answers to the rest as `name/id: code`.
    fn sorted(entries: &[(Option<&str>, u8)]) -> (Vec<String>, Vec<String>) {
        let image = image(&[("a", 1), ("b", 2), ("c", 3)]);
        let entries = entries.iter().map(|(n, id)| (n.map(str::to_owned), Uuid([*id; 16])));
        let (found, refused) = meant(image.topics(), entries.collect(), None);
        let refused = refused.iter().map(|r| {
            format!("{}/{}: {:?}", r.name.as_deref().unwrap_or("-"), r.topic_id.0[0], r.error_code)
        });
        (found.into_values().collect(), refused.collect())
    }

    #[test]
    fn what_is_named_twice_is_kept() {
        let twice = [(Some("a"), 0), (Some("b"), 0), (Some("a"), 0)];
        assert_eq!(sorted(&twice), (vec!["b".into()], vec!["a/0: InvalidRequest".into()]));
        let twice = [(None, 1), (None, 2), (None, 1)];
        assert_eq!(sorted(&twice), (vec!["b".into()], vec!["-/1: InvalidRequest".into()]));
        let both_ways = [(None, 1), (Some("a"), 0), (Some("c"), 0)];
        assert_eq!(sorted(&both_ways), (vec!["c".into()], vec!["a/1: InvalidRequest".into()]));
    }

    #[test]
    fn an_image_that_may_be_behind_does_not_say_that_a_topic_is_unknown() {
        let image = image(&[("a", 1)]);
        let entries = ["a", "x"].map(|n| (Some(n.to_owned()), Uuid::ZERO)).to_vec();
        let behind = Failure::new(ErrorCode::RequestTimedOut, "no controller answers");
        let (found, refused) = meant(image.topics(), entries, Some(&behind));
        assert_eq!(found.into_values().collect::<Vec<_>>(), ["a"]);
        assert_eq!(refused[0].error_code, ErrorCode::RequestTimedOut);
    }

    #[test]
    fn what_names_no_topic_is_said() {
        let entries = [(Some("x"), 0), (None, 9), (None, 0), (Some("a"), 1), (None, 3)];
        let refused = [
            "-/0: InvalidRequest",
            "a/1: InvalidRequest",
            "-/9: UnknownTopicId",
            "x/0: UnknownTopicOrPartition",
        ];
        assert_eq!(sorted(&entries), (vec!["c".into()], refused.map(String::from).to_vec()));
    }
}
