//! `topic-id`: no topic ever has the id of another. `linear`: what a controller says was done was
//! done between the question and the answer, and what it says was so, was so.

use std::collections::{BTreeMap, BTreeSet};

use vltava::{
    base::{ErrorCode, Uuid},
    controller::{
        Command, Reply,
        command::{SubmitBody, SubmitCommand},
    },
    metadata::Delta,
};

use crate::world::World;

/// What is known of topics.
#[derive(Debug, Default)]
pub struct Names {
    ids: BTreeSet<Uuid>,
    /// Since when a name had which id, or none.
    named: BTreeMap<String, Vec<(u64, Option<Uuid>)>>,
    /// When topics were deleted.
    deleted: BTreeMap<Uuid, u64>,
    /// When something was asked.
    asked: BTreeMap<u64, (u64, Vec<String>)>,
    pub checked: usize,
}

impl Names {
    /// Whether the name had that id, or some other than none, at some time since `since`.
    fn had(&self, name: &str, since: u64, wanted: impl Fn(Option<Uuid>) -> bool) -> bool {
        let all = self.named.get(name).map_or(&[][..], Vec::as_slice);
        let first = all.partition_point(|(at, _)| *at <= since);
        let before = first.checked_sub(1).and_then(|at| all[at].1);
        wanted(before) || all[first..].iter().any(|(_, id)| wanted(*id))
    }
}

fn id_of(bytes: &[u8]) -> Uuid {
    bytes.try_into().map_or(Uuid::ZERO, Uuid)
}

impl World {
    /// Topics that came and went.
    pub fn check_names(&mut self, delta: &Delta) {
        let now = self.now;
        let names = &mut self.oracle.names;
        let mut again = None;
        for topic in delta.deleted_topics() {
            names.deleted.insert(topic.id, now);
            names.named.entry(topic.name.to_string()).or_default().push((now, None));
        }
        for topic in delta.created_topics() {
            if !names.ids.insert(topic.id) {
                again = Some(format!("{} has an id that was another's: {}", topic.name, topic.id));
            }
            names.named.entry(topic.name.to_string()).or_default().push((now, Some(topic.id)));
        }
        if let Some(text) = again {
            self.violate("topic-id", text);
        }
    }

    /// A client asks the controller.
    pub fn note_asked(&mut self, req: u64, command: &Command) {
        let names = match command {
            Command::Submit(SubmitCommand::CreateTopics(c)) => {
                c.topics.iter().map(|t| t.name.clone()).collect()
            }
            Command::Submit(SubmitCommand::DeleteTopics(_)) => Vec::new(),
            _ => return,
        };
        self.oracle.names.asked.insert(req, (self.now, names));
    }

    /// The active controller answers.
    pub fn check_reply(&mut self, req: u64, reply: &Reply) {
        let Some((since, _)) = self.oracle.names.asked.remove(&req) else { return };
        let Reply::Submit(reply) = reply else { return };
        self.oracle.names.checked += 1;
        let mut wrong = Vec::new();
        let code = |error: i32| i16::try_from(error).map(ErrorCode::from_code);
        let names = &self.oracle.names;
        match &reply.reply {
            Some(SubmitBody::CreateTopics(all)) if reply.error == 0 => {
                for t in &all.topics {
                    let id = id_of(&t.topic_id);
                    let holds = match code(t.error) {
                        Ok(ErrorCode::None) => names.had(&t.name, since, |had| had == Some(id)),
                        Ok(ErrorCode::TopicAlreadyExists) => {
                            names.had(&t.name, since, |had| had.is_some())
                        }
                        _ => true,
                    };
                    if !holds {
                        wrong.push(format!(
                            "{} {}: {:?}",
                            t.name,
                            t.error,
                            names.named.get(&t.name)
                        ));
                    }
                }
            }
            Some(SubmitBody::DeleteTopics(all)) if reply.error == 0 => {
                for t in &all.topics {
                    let id = id_of(&t.topic_id);
                    let deleted = names.deleted.get(&id).copied();
                    let holds = match code(t.error) {
                        Ok(ErrorCode::None) => deleted.is_some_and(|at| at >= since),
                        Ok(ErrorCode::UnknownTopicId) => {
                            deleted.is_some() || !names.ids.contains(&id)
                        }
                        _ => true,
                    };
                    if !holds {
                        wrong.push(format!("delete {id} {}: {deleted:?}", t.error));
                    }
                }
            }
            _ => {}
        }
        for text in wrong {
            self.violate("linear", format!("asked at {since}: {text}"));
        }
    }
}
