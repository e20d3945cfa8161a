//! The records of share groups in `__consumer_offsets` (KIP-932; `ShareGroup*{Key,Value}.json`):
//! keys of types 10 to 15, values of version 0, byte for byte Kafka's. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    calls::Client,
    codec::{Reader, RecordError, Writer},
    consumer_records::{
        GroupEpoch, Partitions, TargetEpoch, decode_names, decode_target, encode_names,
        encode_target, value_writer,
    },
};
use crate::base::{PartitionId, Uuid};

/// One change of a share group's durable state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRecord {
    /// The group.
    pub group: Arc<str>,
    /// What changes.
    pub change: ShareChange,
}

/// What changes; no value means that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareChange {
    /// What a member says about itself (type 10).
    Member(Arc<str>, Option<ShareMemberValue>),
    /// The group's epoch (type 11).
    Epoch(Option<GroupEpoch>),
    /// The epoch of the target assignment (type 12).
    TargetEpoch(Option<TargetEpoch>),
    /// What a member shall have (type 13).
    Target(Arc<str>, Option<Arc<Partitions>>),
    /// What a member has (type 14).
    Current(Arc<str>, Option<ShareCurrentValue>),
    /// Which partitions the share coordinators keep state of (type 15).
    State(Option<Arc<ShareStateTopics>>),
}

/// `ShareGroupMemberMetadataValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareMemberValue {
    /// `client.rack`.
    pub rack: Option<Arc<str>>,
    /// The client.
    pub client: Client,
    /// Topics that it names.
    pub topics: BTreeSet<Arc<str>>,
}

/// `ShareGroupCurrentMemberAssignmentValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareCurrentValue {
    /// The epoch that the member is at.
    pub epoch: i32,
    /// The one before, in which the member may still call.
    pub previous_epoch: i32,
    /// What it may read.
    pub assigned: Arc<Partitions>,
}

/// `ShareGroupStatePartitionMetadataValue`: how far the share coordinators know the partitions of
/// the group. Members are given initialized partitions only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShareStateTopics {
    /// Asked of the share coordinators, without an answer yet.
    pub initializing: BTreeMap<Uuid, StateTopic>,
    /// Kept by the share coordinators.
    pub initialized: BTreeMap<Uuid, StateTopic>,
    /// By id, with their names: the share coordinators are asked to forget them.
    pub deleting: BTreeMap<Uuid, Arc<str>>,
}

/// Partitions of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateTopic {
    /// The topic's name.
    pub name: Arc<str>,
    /// Its partitions; not empty.
    pub partitions: BTreeSet<PartitionId>,
}

const MEMBER: i16 = 10;
const EPOCH: i16 = 11;
const TARGET_EPOCH: i16 = 12;
const TARGET: i16 = 13;
const CURRENT: i16 = 14;
const STATE: i16 = 15;

/// `MemberState.STABLE`; members of share groups know no other.
const STABLE: i8 = 0;

impl ShareRecord {
    /// Bytes in it, about.
    pub(super) fn len_about(&self) -> usize {
        let partitions = |p: &Partitions| p.values().map(|p| 20 + 4 * p.len()).sum::<usize>();
        let own = match &self.change {
            ShareChange::Epoch(_) | ShareChange::TargetEpoch(_) => 16,
            ShareChange::Member(id, v) => {
                let names =
                    |v: &ShareMemberValue| v.topics.iter().map(|n| n.len() + 2).sum::<usize>();
                id.len() + v.as_ref().map_or(0, |v| names(v) + 64)
            }
            ShareChange::Target(id, v) => id.len() + v.as_ref().map_or(0, |v| partitions(v)),
            ShareChange::Current(id, v) => {
                id.len() + v.as_ref().map_or(0, |v| partitions(&v.assigned))
            }
            ShareChange::State(v) => v.as_ref().map_or(0, |v| {
                let topics = v.initializing.values().chain(v.initialized.values());
                let known = topics.map(|t| 20 + t.name.len() + 4 * t.partitions.len());
                known.sum::<usize>() + v.deleting.values().map(|n| 20 + n.len()).sum::<usize>()
            }),
        };
        self.group.len() + own
    }

    /// Key and value as they stand in the log; no value is a tombstone.
    ///
    /// # Errors
    /// `TooLong` if a name in the key has more than 32767 bytes.
    pub(super) fn encode(&self) -> Result<(Bytes, Option<Bytes>), RecordError> {
        let key = |kind: i16, member: Option<&str>| {
            let mut key = Writer::default();
            key.i16(kind);
            key.string("group", &self.group)?;
            if let Some(member) = member {
                key.string("member", member)?;
            }
            Ok(key.done())
        };
        Ok(match &self.change {
            ShareChange::Member(id, v) => {
                (key(MEMBER, Some(id))?, v.as_ref().map(ShareMemberValue::encode))
            }
            ShareChange::Epoch(v) => (key(EPOCH, None)?, v.as_ref().map(encode_epoch)),
            ShareChange::TargetEpoch(v) => {
                (key(TARGET_EPOCH, None)?, v.as_ref().map(TargetEpoch::encode))
            }
            ShareChange::Target(id, v) => (key(TARGET, Some(id))?, v.as_deref().map(encode_target)),
            ShareChange::Current(id, v) => {
                (key(CURRENT, Some(id))?, v.as_ref().map(ShareCurrentValue::encode))
            }
            ShareChange::State(v) => (key(STATE, None)?, v.as_ref().map(|v| v.encode())),
        })
    }

    /// Reads what follows the key's type; `None` for a type of another kind of group.
    ///
    /// # Errors
    /// `Malformed`, `UnknownVersion`.
    pub(super) fn decode(
        kind: i16,
        key: &mut Reader<'_>,
        value: Option<&[u8]>,
    ) -> Result<Option<Self>, RecordError> {
        if !matches!(kind, MEMBER..=STATE) {
            return Ok(None);
        }
        let group = key.string("group")?;
        let change = match kind {
            MEMBER => {
                let id = key.string("member")?;
                ShareChange::Member(id, value.map(ShareMemberValue::decode).transpose()?)
            }
            EPOCH => ShareChange::Epoch(value.map(decode_epoch).transpose()?),
            TARGET_EPOCH => ShareChange::TargetEpoch(value.map(TargetEpoch::decode).transpose()?),
            TARGET => {
                let id = key.string("member")?;
                ShareChange::Target(id, value.map(decode_target).transpose()?.map(Arc::new))
            }
            CURRENT => {
                let id = key.string("member")?;
                ShareChange::Current(id, value.map(ShareCurrentValue::decode).transpose()?)
            }
            _ => {
                let value = value.map(ShareStateTopics::decode).transpose()?;
                ShareChange::State(value.map(Arc::new))
            }
        };
        Ok(Some(Self { group, change }))
    }
}

fn encode_epoch(epoch: &GroupEpoch) -> Bytes {
    let mut out = value_writer();
    out.i32(epoch.epoch);
    out.i64(epoch.metadata_hash);
    out.uvarint(0);
    out.done()
}

fn decode_epoch(bytes: &[u8]) -> Result<GroupEpoch, RecordError> {
    let mut value = Reader::flexible_value(bytes)?;
    let epoch = value.i32("epoch")?;
    let metadata_hash = value.i64("metadataHash")?;
    value.tags(|_, _| Ok(()))?;
    Ok(GroupEpoch { epoch, metadata_hash })
}

impl ShareMemberValue {
    fn encode(&self) -> Bytes {
        let mut out = value_writer();
        out.compact_nullable_string(self.rack.as_deref());
        out.compact_string(&self.client.id);
        out.compact_string(&self.client.host);
        encode_names(&mut out, &self.topics);
        out.uvarint(0);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let rack = value.nullable_string("rackId")?;
        let client = Client { id: value.string("clientId")?, host: value.string("clientHost")? };
        let topics = decode_names(&mut value)?;
        value.tags(|_, _| Ok(()))?;
        Ok(Self { rack, client, topics })
    }
}

impl ShareCurrentValue {
    fn encode(&self) -> Bytes {
        let mut out = value_writer();
        out.i32(self.epoch);
        out.i32(self.previous_epoch);
        out.i8(STABLE);
        out.compact_length(self.assigned.len());
        for (topic, partitions) in &*self.assigned {
            out.raw(&topic.0);
            encode_partitions(&mut out, partitions);
            out.uvarint(0);
        }
        out.uvarint(0);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let epoch = value.i32("memberEpoch")?;
        let previous_epoch = value.i32("previousMemberEpoch")?;
        value.i8("state")?;
        let topics = value.list("assignedPartitions", |v| {
            let topic = v.uuid("topicId")?;
            let partitions = decode_partitions(v)?;
            v.tags(|_, _| Ok(()))?;
            Ok((topic, partitions))
        })?;
        value.tags(|_, _| Ok(()))?;
        let assigned: Partitions = topics.into_iter().filter(|(_, p)| !p.is_empty()).collect();
        Ok(Self { epoch, previous_epoch, assigned: Arc::new(assigned) })
    }
}

fn encode_partitions(out: &mut Writer, partitions: &BTreeSet<PartitionId>) {
    out.compact_length(partitions.len());
    for partition in partitions {
        out.i32(*partition);
    }
}

fn decode_partitions(value: &mut Reader<'_>) -> Result<BTreeSet<PartitionId>, RecordError> {
    Ok(value.list("partitions", |v| v.i32("partition"))?.into_iter().collect())
}

impl ShareStateTopics {
    fn encode(&self) -> Bytes {
        let mut out = value_writer();
        for topics in [&self.initializing, &self.initialized] {
            out.compact_length(topics.len());
            for (id, topic) in topics {
                out.raw(&id.0);
                out.compact_string(&topic.name);
                encode_partitions(&mut out, &topic.partitions);
                out.uvarint(0);
            }
        }
        out.compact_length(self.deleting.len());
        for (id, name) in &self.deleting {
            out.raw(&id.0);
            out.compact_string(name);
            out.uvarint(0);
        }
        out.uvarint(0);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let initializing = decode_topics(&mut value)?;
        let initialized = decode_topics(&mut value)?;
        let deleting = value.list("deletingTopics", |v| {
            let topic = (v.uuid("topicId")?, v.string("topicName")?);
            v.tags(|_, _| Ok(()))?;
            Ok(topic)
        })?;
        value.tags(|_, _| Ok(()))?;
        Ok(Self { initializing, initialized, deleting: deleting.into_iter().collect() })
    }
}

fn decode_topics(value: &mut Reader<'_>) -> Result<BTreeMap<Uuid, StateTopic>, RecordError> {
    let topics = value.list("topics", |v| {
        let id = v.uuid("topicId")?;
        let topic = StateTopic { name: v.string("topicName")?, partitions: decode_partitions(v)? };
        v.tags(|_, _| Ok(()))?;
        Ok((id, topic))
    })?;
    Ok(topics.into_iter().filter(|(_, t)| !t.partitions.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::records::Record;
    use super::*;

    fn round_trip(change: ShareChange) -> (Bytes, Option<Bytes>) {
        let record = Record::Share(ShareRecord { group: "g".into(), change });
        let (key, value) = record.encode().unwrap();
        assert_eq!(Record::decode(&key, value.as_deref()), Ok(Some(record)));
        if let Some(value) = &value {
            for n in 0..value.len() {
                assert!(Record::decode(&key, Some(&value[..n])).is_err(), "{n} of {value:?}");
            }
        }
        (key, value)
    }

    #[test]
    fn records_are_kafkas_byte_for_byte() {
        let id = Uuid([7; 16]);
        let seven = [7_u8; 16];
        let assigned: Partitions = [(id, [1, 2].into())].into();
        let client = Client { id: "c".into(), host: "/h".into() };
        let topics = ["t".into()].into();
        let member = ShareMemberValue { rack: None, client, topics };
        let (key, value) = round_trip(ShareChange::Member("m".into(), Some(member)));
        assert_eq!(&*key, b"\0\x0a\0\x01g\0\x01m");
        assert_eq!(&*value.unwrap(), b"\0\0\0\x02c\x03/h\x02\x02t\0");

        let epoch = GroupEpoch { epoch: 3, metadata_hash: -1 };
        let (key, value) = round_trip(ShareChange::Epoch(Some(epoch)));
        assert_eq!(&*key, b"\0\x0b\0\x01g");
        assert_eq!(&*value.unwrap(), b"\0\0\0\0\0\x03\xff\xff\xff\xff\xff\xff\xff\xff\0");

        let target = TargetEpoch { epoch: 3, timestamp_ms: 5 };
        let (key, value) = round_trip(ShareChange::TargetEpoch(Some(target)));
        assert_eq!(&*key, b"\0\x0c\0\x01g");
        assert_eq!(&*value.unwrap(), b"\0\0\0\0\0\x03\x01\0\x08\0\0\0\0\0\0\0\x05");

        let (key, value) =
            round_trip(ShareChange::Target("m".into(), Some(Arc::new(assigned.clone()))));
        assert_eq!(&*key, b"\0\x0d\0\x01g\0\x01m");
        let topic = [&[2][..], &seven, b"\x03\0\0\0\x01\0\0\0\x02\0\0"].concat();
        assert_eq!(*value.unwrap(), *[&b"\0\0"[..], &topic].concat());

        let assigned = Arc::new(assigned);
        let current = ShareCurrentValue { epoch: 3, previous_epoch: 2, assigned };
        let (key, value) = round_trip(ShareChange::Current("m".into(), Some(current)));
        assert_eq!(&*key, b"\0\x0e\0\x01g\0\x01m");
        assert_eq!(*value.unwrap(), *[&b"\0\0\0\0\0\x03\0\0\0\x02\0"[..], &topic].concat());

        let one = |p| StateTopic { name: "t".into(), partitions: [p].into() };
        let state = ShareStateTopics {
            initializing: [(id, one(1))].into(),
            initialized: [(id, one(0))].into(),
            deleting: [(id, "u".into())].into(),
        };
        let (key, value) = round_trip(ShareChange::State(Some(Arc::new(state))));
        assert_eq!(&*key, b"\0\x0f\0\x01g");
        let bytes = [
            &b"\0\0\x02"[..],
            &seven,
            b"\x02t\x02\0\0\0\x01\0\x02",
            &seven,
            b"\x02t\x02\0\0\0\0\0\x02",
            &seven,
            b"\x02u\0\0",
        ];
        assert_eq!(*value.unwrap(), *bytes.concat());
        assert_eq!(round_trip(ShareChange::State(None)).1, None);
    }
}
