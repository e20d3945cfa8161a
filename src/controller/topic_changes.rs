//! DeleteTopics and CreatePartitions (`ReplicationControlManager`).

use std::collections::{BTreeMap, BTreeSet};

use crate::base::limits::PARTITIONS_PER_CREATE_MAX;
use crate::base::{ErrorCode, PartitionId};
use crate::metadata::Record;
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Refusal, SubmitBody, error_fields},
    turn::{Turn, uuid_of},
};

impl Turn<'_> {
    pub(super) fn delete_topics(&mut self, c: &pb::DeleteTopics) -> Outcome {
        let mut seen = BTreeSet::new();
        let mut topics = Vec::with_capacity(c.topic_ids.len());
        for bytes in c.topic_ids.iter().filter(|b| seen.insert(uuid_of(b))) {
            let id = uuid_of(bytes);
            let result = if self.image().topics().by_id(id).is_some() {
                self.draft.push(Record::RemoveTopic { id });
                Ok(())
            } else {
                Err(Refusal::bare(ErrorCode::UnknownTopicId))
            };
            let (error, error_message) = error_fields(&result);
            topics.push(pb::DeleteTopicResult { topic_id: bytes.clone(), error, error_message });
        }
        Outcome::submit(0, None, SubmitBody::DeleteTopics(pb::DeleteTopicsReply { topics }))
    }

    pub(super) fn create_partitions(&mut self, c: &pb::CreatePartitions) -> Outcome {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for t in &c.topics {
            *counts.entry(&t.name).or_default() += 1;
        }
        let (mut seen, mut added) = (BTreeSet::new(), 0);
        let mut topics = Vec::with_capacity(c.topics.len());
        for t in c.topics.iter().filter(|t| seen.insert(t.name.as_str())) {
            let result = if counts.get(t.name.as_str()).is_some_and(|n| *n > 1) {
                Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
            } else {
                self.grow(t, c.validate_only, &mut added)
            };
            let (error, error_message) = error_fields(&result);
            topics.push(pb::TopicResult { name: t.name.clone(), error, error_message });
        }
        let body = pb::CreatePartitionsReply { topics };
        Outcome::submit(0, None, SubmitBody::CreatePartitions(body))
    }

    fn grow(
        &mut self,
        t: &pb::CreatePartitionsTopic,
        validate_only: bool,
        added: &mut usize,
    ) -> Result<(), Refusal> {
        let Some(topic) = self.image().topics().by_name(&t.name) else {
            return Err(Refusal::bare(ErrorCode::UnknownTopicOrPartition));
        };
        let (id, old) = (topic.id, topic.partition_count());
        let factor = topic.partitions.head().map_or(0, |p| p.replicas.len());
        let more = additional(&t.name, old, t.count)?;
        *added = added.saturating_add(more);
        if *added > PARTITIONS_PER_CREATE_MAX {
            let text = "Excessively large number of partitions per request.";
            return Err(Refusal::new(ErrorCode::PolicyViolation, text));
        }
        let placed = if t.has_assignments {
            if t.assignments.len() != more {
                let text = format!(
                    "Attempted to add {more} additional partition(s), but only {} assignment(s) \
                     were specified.",
                    t.assignments.len()
                );
                return Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
            }
            let check = |(p, a): (PartitionId, &pb::NodeList)| {
                self.check_assignment(p, &a.nodes, Some(factor))
            };
            (old..).zip(&t.assignments).map(check).collect::<Result<Vec<_>, _>>()?
        } else {
            self.place(more, factor)?
        };
        if !validate_only {
            let records = self.partition_records(id, old, &placed);
            self.draft.push_group(records)?;
        }
        Ok(())
    }
}

fn additional(name: &str, old: PartitionId, wanted: i32) -> Result<usize, Refusal> {
    let refuse = |text| Refusal::new(ErrorCode::InvalidPartitions, text);
    if wanted == old {
        return Err(refuse(format!("Topic already has {old} partition(s).")));
    }
    let more = wanted.checked_sub(old).and_then(|m| usize::try_from(m).ok());
    more.ok_or_else(|| {
        refuse(format!(
            "The topic {name} currently has {old} partition(s); {wanted} would not be an increase."
        ))
    })
}
