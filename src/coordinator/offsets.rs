//! Committed offsets: what is committed, fetched, deleted, expired (`OffsetMetadataManager`). Pure.
//!
//! The map is persistent: a copy costs nothing and keeps showing what was committed while later
//! writes still wait for the high watermark.

use std::{collections::BTreeMap, sync::Arc};

use imbl::OrdMap;

use super::{
    calls::{
        CommitCall, CommitReply, CommitTopic, DeleteOffsetsCall, DeleteOffsetsReply, FetchCall,
        FetchReply, FetchTopic, FetchedPartition, FetchedTopic,
    },
    records::{OffsetAndMetadata, Record},
    settings::Settings,
};
use crate::base::{ErrorCode, Now, PartitionId, Uuid};

type GroupOffsets = OrdMap<(Arc<str>, PartitionId), OffsetAndMetadata>;

/// A group as its offsets see it.
pub(super) trait Owner {
    fn id(&self) -> &Arc<str>;

    /// Whether members read `topic`: its offsets neither expire nor are deleted.
    fn is_subscribed_to(&self, topic: &str) -> bool;

    /// From when the retention of `offset` counts, by the wall clock in milliseconds; `None` while
    /// it may not expire (KIP-211).
    fn retention_from(&self, offset: &OffsetAndMetadata) -> Option<i64>;
}

/// The offsets of all groups of a shard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Offsets {
    groups: OrdMap<Arc<str>, GroupOffsets>,
}

impl Offsets {
    /// Whether the group has any.
    pub(super) fn has(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// How many offsets there are in all.
    pub(super) fn len(&self) -> usize {
        self.groups.values().map(OrdMap::len).sum()
    }

    /// Takes what an offset record says.
    pub(super) fn replay(
        &mut self,
        group: &Arc<str>,
        topic: &Arc<str>,
        partition: PartitionId,
        value: Option<&OffsetAndMetadata>,
    ) {
        let key = (topic.clone(), partition);
        match value {
            Some(value) => {
                self.groups.entry(group.clone()).or_default().insert(key, value.clone());
            }
            None => {
                let Some(offsets) = self.groups.get_mut(group) else { return };
                offsets.remove(&key);
                if offsets.is_empty() {
                    self.groups.remove(group);
                }
            }
        }
    }

    /// OffsetFetch of one group.
    pub(super) fn fetch(&self, call: &FetchCall) -> FetchReply {
        let offsets = self.groups.get(&call.group);
        let topics = match &call.topics {
            Some(topics) => topics.iter().map(|t| fetch_topic(offsets, t)).collect(),
            None => offsets.map(fetch_all).unwrap_or_default(),
        };
        FetchReply { error: ErrorCode::None, topics }
    }

    /// Tombstones of what is asked for and exists. Offsets of topics that members read stay.
    pub(super) fn delete(
        &self,
        call: &DeleteOffsetsCall,
        group: &dyn Owner,
    ) -> (Vec<Record>, DeleteOffsetsReply) {
        let offsets = self.groups.get(&call.group);
        let (mut records, mut topics) = (Vec::new(), Vec::new());
        for (topic, partitions) in &call.topics {
            let error = match group.is_subscribed_to(topic) {
                true => ErrorCode::GroupSubscribedToTopic,
                false => ErrorCode::None,
            };
            for partition in partitions {
                let key = (topic.clone(), *partition);
                if error == ErrorCode::None && offsets.is_some_and(|o| o.contains_key(&key)) {
                    records.push(tombstone(&call.group, topic, *partition));
                }
            }
            topics.push((topic.clone(), partitions.iter().map(|p| (*p, error)).collect()));
        }
        (records, DeleteOffsetsReply { error: ErrorCode::None, topics })
    }

    /// Tombstones of all that the group has.
    pub(super) fn delete_group(&self, group: &Arc<str>, records: &mut Vec<Record>) {
        for (topic, partition) in self.groups.get(group).into_iter().flat_map(OrdMap::keys) {
            records.push(tombstone(group, topic, *partition));
        }
    }

    /// Tombstones of all offsets of `topics`. One that was committed to another incarnation of the
    /// topic stays.
    pub(super) fn delete_topics(&self, topics: &[(Arc<str>, Uuid)]) -> Vec<Record> {
        let gone: BTreeMap<&Arc<str>, Uuid> = topics.iter().map(|(name, id)| (name, *id)).collect();
        let mut records = Vec::new();
        for (group, offsets) in &self.groups {
            for ((topic, partition), value) in offsets {
                let same = |id: &Uuid| value.topic_id.is_zero() || value.topic_id == *id;
                if gone.get(topic).is_some_and(same) {
                    records.push(tombstone(group, topic, *partition));
                }
            }
        }
        records
    }

    /// Adds tombstones of what has expired in `group`; tells whether nothing else is left.
    pub(super) fn expire(
        &self,
        group: &dyn Owner,
        now: Now,
        settings: &Settings,
        records: &mut Vec<Record>,
    ) -> bool {
        let mut all = true;
        for ((topic, partition), value) in self.groups.get(group.id()).into_iter().flatten() {
            let over = !group.is_subscribed_to(topic)
                && group.retention_from(value).is_some_and(|from| match value.expire_ms {
                    Some(at) => now.wall_ms >= at,
                    None => now.wall_ms.saturating_sub(from) >= settings.offsets_retention_ms,
                });
            if over {
                records.push(tombstone(group.id(), topic, *partition));
            }
            all &= over;
        }
        all
    }
}

/// The records of a commit that was let in, and its answer.
pub(super) fn commit(
    call: &CommitCall,
    now: Now,
    settings: &Settings,
) -> (Vec<Record>, CommitReply) {
    let expire_ms = call.retention_ms.map(|ms| now.wall_ms.saturating_add(ms));
    let mut records = Vec::new();
    let mut commit_topic = |topic: &CommitTopic| {
        let mut codes = Vec::with_capacity(topic.partitions.len());
        for p in &topic.partitions {
            if is_longer(&p.metadata, settings.metadata_max) {
                codes.push((p.partition, ErrorCode::OffsetMetadataTooLarge));
                continue;
            }
            codes.push((p.partition, ErrorCode::None));
            records.push(Record::Offset {
                group: call.group.clone(),
                topic: topic.name.clone(),
                partition: p.partition,
                value: Some(OffsetAndMetadata {
                    offset: p.offset,
                    leader_epoch: p.leader_epoch,
                    metadata: p.metadata.clone(),
                    commit_ms: now.wall_ms,
                    expire_ms,
                    topic_id: topic.topic_id,
                }),
            });
        }
        (topic.name.clone(), topic.topic_id, codes)
    };
    let topics = call.topics.iter().map(&mut commit_topic).collect();
    (records, CommitReply { error: ErrorCode::None, topics })
}

/// Whether `s` has more than `max` UTF-16 code units, as Java counts.
fn is_longer(s: &str, max: usize) -> bool {
    s.len() > max && s.encode_utf16().count() > max
}

fn fetch_topic(offsets: Option<&GroupOffsets>, asked: &FetchTopic) -> FetchedTopic {
    let one = |partition: &PartitionId| {
        let key = (asked.name.clone(), *partition);
        // An offset of another incarnation of the topic means nothing in this one.
        let same = |v: &&OffsetAndMetadata| {
            v.topic_id.is_zero() || asked.topic_id.is_zero() || v.topic_id == asked.topic_id
        };
        fetched(*partition, offsets.and_then(|o| o.get(&key)).filter(same))
    };
    FetchedTopic {
        name: asked.name.clone(),
        topic_id: asked.topic_id,
        partitions: asked.partitions.iter().map(one).collect(),
    }
}

fn fetch_all(offsets: &GroupOffsets) -> Vec<FetchedTopic> {
    let mut topics: Vec<FetchedTopic> = Vec::new();
    for ((name, partition), value) in offsets {
        let partition = fetched(*partition, Some(value));
        match topics.last_mut() {
            Some(topic) if topic.name == *name => topic.partitions.push(partition),
            _ => topics.push(FetchedTopic {
                name: name.clone(),
                topic_id: Uuid::ZERO,
                partitions: vec![partition],
            }),
        }
    }
    topics
}

fn fetched(partition: PartitionId, value: Option<&OffsetAndMetadata>) -> FetchedPartition {
    FetchedPartition {
        partition,
        offset: value.map_or(-1, |v| v.offset),
        leader_epoch: value.map_or(-1, |v| v.leader_epoch),
        metadata: value.map(|v| v.metadata.clone()).unwrap_or_default(),
        error: ErrorCode::None,
    }
}

fn tombstone(group: &Arc<str>, topic: &Arc<str>, partition: PartitionId) -> Record {
    Record::Offset { group: group.clone(), topic: topic.clone(), partition, value: None }
}
