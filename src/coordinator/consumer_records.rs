//! The records of consumer groups in `__consumer_offsets` (KIP-848; `ConsumerGroup*{Key,Value}.json`):
//! keys of types 3 to 8 and 16, values of version 0, byte for byte Kafka's. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    calls::{Client, Protocol},
    codec::{Reader, RecordError, Writer},
};
use crate::base::{PartitionId, Uuid};

/// Partitions by topic. No topic stands without a partition.
pub type Partitions = BTreeMap<Uuid, BTreeSet<PartitionId>>;

/// Partitions by topic, each with the epoch in which its member got it (KIP-1251): what commits of
/// that member are checked against. No topic stands without a partition.
pub type Epochs = BTreeMap<Uuid, BTreeMap<PartitionId, i32>>;

/// One change of a consumer group's durable state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerRecord {
    /// The group.
    pub group: Arc<str>,
    /// What changes.
    pub change: Change,
}

/// What changes; no value means that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The group's epoch (type 3).
    Epoch(Option<GroupEpoch>),
    /// Metadata of the subscribed topics, as releases before 4.1 kept it; only ever taken away
    /// (type 4). The value is kept as it is.
    TopicMetadata(Option<Bytes>),
    /// What a member says about itself (type 5).
    Member(Arc<str>, Option<MemberValue>),
    /// The epoch of the target assignment (type 6).
    TargetEpoch(Option<TargetEpoch>),
    /// What a member shall have (type 7).
    Target(Arc<str>, Option<Arc<Partitions>>),
    /// What a member has (type 8).
    Current(Arc<str>, Option<CurrentValue>),
    /// The topics that a regular expression stands for (type 16).
    Regex(Arc<str>, Option<ResolvedRegex>),
}

/// `ConsumerGroupMetadataValue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupEpoch {
    /// Grows whenever members, subscriptions or subscribed topics change.
    pub epoch: i32,
    /// Of the subscribed topics (KIP-1101); 0 if there are none.
    pub metadata_hash: i64,
}

/// `ConsumerGroupTargetAssignmentMetadataValue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetEpoch {
    /// The group epoch that the target was computed for.
    pub epoch: i32,
    /// When it was computed, in milliseconds since the Unix epoch; 0 if unknown (KIP-1263).
    pub timestamp_ms: i64,
}

/// `ConsumerGroupMemberMetadataValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberValue {
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.rack`.
    pub rack: Option<Arc<str>>,
    /// The client.
    pub client: Client,
    /// Topics that it names.
    pub topics: BTreeSet<Arc<str>>,
    /// Its regular expression; empty for none.
    pub regex: Option<Arc<str>>,
    /// How long it may take to revoke, in milliseconds; -1 if it never said.
    pub rebalance_timeout_ms: i32,
    /// The assignor it wants.
    pub assignor: Option<Arc<str>>,
    /// Only of a member that speaks the classic protocol.
    pub classic: Option<ClassicMember>,
}

/// What a member of a consumer group said in its classic JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassicMember {
    /// In milliseconds.
    pub session_timeout_ms: i32,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
}

/// `ConsumerGroupCurrentMemberAssignmentValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CurrentValue {
    /// The epoch that the member is at.
    pub epoch: i32,
    /// The one before, in which the member may still call.
    pub previous_epoch: i32,
    /// Kafka's number of the member's state.
    pub state: i8,
    /// What it may use.
    pub assigned: Epochs,
    /// What it must give back.
    pub revoking: Epochs,
}

/// `ConsumerGroupRegularExpressionValue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedRegex {
    /// The topics that match.
    pub topics: BTreeSet<Arc<str>>,
    /// The position in the metadata log that they were looked up at.
    pub version: i64,
    /// When, in milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

const EPOCH: i16 = 3;
const TOPIC_METADATA: i16 = 4;
const MEMBER: i16 = 5;
const TARGET_EPOCH: i16 = 6;
const TARGET: i16 = 7;
const CURRENT: i16 = 8;
const REGEX: i16 = 16;

type Encoded = (Bytes, Option<Bytes>);

impl ConsumerRecord {
    /// Bytes in it, about.
    pub(super) fn len_about(&self) -> usize {
        let names = |names: &BTreeSet<Arc<str>>| names.iter().map(|n| n.len() + 2).sum::<usize>();
        let epochs = |e: &Epochs| e.values().map(|p| 20 + 8 * p.len()).sum::<usize>();
        let own = match &self.change {
            Change::Epoch(_) | Change::TargetEpoch(_) => 16,
            Change::TopicMetadata(v) => v.as_ref().map_or(0, Bytes::len),
            Change::Member(id, v) => {
                let classic = |c: &ClassicMember| {
                    c.protocols.iter().map(|p| p.name.len() + p.metadata.len()).sum::<usize>()
                };
                let value =
                    |v: &MemberValue| names(&v.topics) + v.classic.as_ref().map_or(0, classic) + 64;
                id.len() + v.as_ref().map_or(0, value)
            }
            Change::Target(id, v) => {
                let value = |v: &Arc<Partitions>| v.values().map(|p| 20 + 4 * p.len()).sum();
                id.len() + v.as_ref().map_or(0, value)
            }
            Change::Current(id, v) => {
                id.len() + v.as_ref().map_or(0, |v| epochs(&v.assigned) + epochs(&v.revoking))
            }
            Change::Regex(regex, v) => regex.len() + v.as_ref().map_or(0, |v| names(&v.topics)),
        };
        self.group.len() + own
    }

    /// Key and value as they stand in the log; no value is a tombstone.
    ///
    /// # Errors
    /// `TooLong` if a name in the key has more than 32767 bytes.
    pub(super) fn encode(&self) -> Result<Encoded, RecordError> {
        let key = |kind: i16, second: Option<&str>| {
            let mut key = Writer::default();
            key.i16(kind);
            key.string("group", &self.group)?;
            if let Some(second) = second {
                key.string("member", second)?;
            }
            Ok(key.done())
        };
        Ok(match &self.change {
            Change::Epoch(v) => (key(EPOCH, None)?, v.as_ref().map(GroupEpoch::encode)),
            Change::TopicMetadata(v) => (key(TOPIC_METADATA, None)?, v.clone()),
            Change::Member(id, v) => (key(MEMBER, Some(id))?, v.as_ref().map(MemberValue::encode)),
            Change::TargetEpoch(v) => {
                (key(TARGET_EPOCH, None)?, v.as_ref().map(TargetEpoch::encode))
            }
            Change::Target(id, v) => (key(TARGET, Some(id))?, v.as_deref().map(encode_target)),
            Change::Current(id, v) => {
                (key(CURRENT, Some(id))?, v.as_ref().map(CurrentValue::encode))
            }
            Change::Regex(regex, v) => {
                (key(REGEX, Some(regex))?, v.as_ref().map(ResolvedRegex::encode))
            }
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
        if !matches!(kind, EPOCH..=CURRENT | REGEX) {
            return Ok(None);
        }
        let group = key.string("group")?;
        let change = match kind {
            EPOCH => Change::Epoch(value.map(GroupEpoch::decode).transpose()?),
            TOPIC_METADATA => Change::TopicMetadata(value.map(Bytes::copy_from_slice)),
            MEMBER => {
                let id = key.string("member")?;
                Change::Member(id, value.map(MemberValue::decode).transpose()?)
            }
            TARGET_EPOCH => Change::TargetEpoch(value.map(TargetEpoch::decode).transpose()?),
            TARGET => {
                let id = key.string("member")?;
                Change::Target(id, value.map(decode_target).transpose()?.map(Arc::new))
            }
            CURRENT => {
                let id = key.string("member")?;
                Change::Current(id, value.map(CurrentValue::decode).transpose()?)
            }
            _ => {
                let regex = key.string("regex")?;
                Change::Regex(regex, value.map(ResolvedRegex::decode).transpose()?)
            }
        };
        Ok(Some(Self { group, change }))
    }
}

/// A writer behind the version that opens every value.
pub(super) fn value_writer() -> Writer {
    let mut out = Writer::default();
    out.i16(0);
    out
}

/// A tag of 8 bytes, or none for 0.
fn tag_i64(out: &mut Writer, v: i64) {
    match v {
        0 => out.uvarint(0),
        v => out.tag_0(&v.to_be_bytes()),
    }
}

fn read_tag_i64(value: &mut Reader<'_>, field: &'static str) -> Result<i64, RecordError> {
    let mut out = 0;
    value.tags(|tag, bytes| {
        if tag == 0 {
            let bytes = bytes.try_into().map_err(|_| RecordError::Malformed(field))?;
            out = i64::from_be_bytes(bytes);
        }
        Ok(())
    })?;
    Ok(out)
}

impl GroupEpoch {
    fn encode(&self) -> Bytes {
        let mut out = value_writer();
        out.i32(self.epoch);
        tag_i64(&mut out, self.metadata_hash);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let epoch = value.i32("epoch")?;
        Ok(Self { epoch, metadata_hash: read_tag_i64(&mut value, "metadataHash")? })
    }
}

impl TargetEpoch {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = value_writer();
        out.i32(self.epoch);
        tag_i64(&mut out, self.timestamp_ms);
        out.done()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let epoch = value.i32("assignmentEpoch")?;
        Ok(Self { epoch, timestamp_ms: read_tag_i64(&mut value, "assignmentTimestamp")? })
    }
}

pub(super) fn encode_names(out: &mut Writer, names: &BTreeSet<Arc<str>>) {
    out.compact_length(names.len());
    for name in names {
        out.compact_string(name);
    }
}

pub(super) fn decode_names(value: &mut Reader<'_>) -> Result<BTreeSet<Arc<str>>, RecordError> {
    Ok(value.list("topics", |v| v.string("topic"))?.into_iter().collect())
}

impl MemberValue {
    fn encode(&self) -> Bytes {
        let mut out = value_writer();
        out.compact_nullable_string(self.instance_id.as_deref());
        out.compact_nullable_string(self.rack.as_deref());
        out.compact_string(&self.client.id);
        out.compact_string(&self.client.host);
        encode_names(&mut out, &self.topics);
        out.compact_nullable_string(self.regex.as_deref());
        out.i32(self.rebalance_timeout_ms);
        out.compact_nullable_string(self.assignor.as_deref());
        match &self.classic {
            Some(classic) => out.tag_0(&classic.encode()),
            None => out.uvarint(0),
        }
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let instance_id = value.nullable_string("instanceId")?;
        let rack = value.nullable_string("rackId")?;
        let client = Client { id: value.string("clientId")?, host: value.string("clientHost")? };
        let topics = decode_names(&mut value)?;
        let regex = value.nullable_string("subscribedTopicRegex")?;
        let rebalance_timeout_ms = value.i32("rebalanceTimeoutMs")?;
        let assignor = value.nullable_string("serverAssignor")?;
        let mut classic = None;
        value.tags(|tag, bytes| {
            if tag == 0 {
                classic = ClassicMember::decode(bytes)?;
            }
            Ok(())
        })?;
        Ok(Self {
            instance_id,
            rack,
            client,
            topics,
            regex,
            rebalance_timeout_ms,
            assignor,
            classic,
        })
    }
}

impl ClassicMember {
    /// As a nullable struct: a byte of 1 stands before it.
    fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.i8(1);
        out.i32(self.session_timeout_ms);
        out.compact_length(self.protocols.len());
        for protocol in &self.protocols {
            out.compact_string(&protocol.name);
            out.compact_bytes(&protocol.metadata);
            out.uvarint(0);
        }
        out.uvarint(0);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Option<Self>, RecordError> {
        let mut value = Reader::flexible(bytes);
        if value.i8("classicMemberMetadata")? < 0 {
            return Ok(None);
        }
        let session_timeout_ms = value.i32("sessionTimeoutMs")?;
        let protocols = value.list("supportedProtocols", |v| {
            let protocol = Protocol { name: v.string("name")?, metadata: v.bytes("metadata")? };
            v.tags(|_, _| Ok(()))?;
            Ok(protocol)
        })?;
        value.tags(|_, _| Ok(()))?;
        Ok(Some(Self { session_timeout_ms, protocols }))
    }
}

pub(super) fn encode_target(partitions: &Partitions) -> Bytes {
    let mut out = value_writer();
    out.compact_length(partitions.len());
    for (topic, partitions) in partitions {
        out.raw(&topic.0);
        out.compact_length(partitions.len());
        for partition in partitions {
            out.i32(*partition);
        }
        out.uvarint(0);
    }
    out.uvarint(0);
    out.done()
}

pub(super) fn decode_target(bytes: &[u8]) -> Result<Partitions, RecordError> {
    let mut value = Reader::flexible_value(bytes)?;
    let topics = value.list("topicPartitions", |v| {
        let topic = v.uuid("topicId")?;
        let partitions = v.list("partitions", |v| v.i32("partition"))?;
        v.tags(|_, _| Ok(()))?;
        Ok((topic, partitions.into_iter().collect::<BTreeSet<_>>()))
    })?;
    value.tags(|_, _| Ok(()))?;
    Ok(topics.into_iter().filter(|(_, p)| !p.is_empty()).collect())
}

impl CurrentValue {
    fn encode(&self) -> Bytes {
        let mut out = value_writer();
        out.i32(self.epoch);
        out.i32(self.previous_epoch);
        out.i8(self.state);
        encode_epochs(&mut out, &self.assigned);
        encode_epochs(&mut out, &self.revoking);
        out.uvarint(0);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let epoch = value.i32("memberEpoch")?;
        let previous_epoch = value.i32("previousMemberEpoch")?;
        let state = value.i8("state")?;
        let assigned = decode_epochs(&mut value, epoch)?;
        let revoking = decode_epochs(&mut value, epoch)?;
        value.tags(|_, _| Ok(()))?;
        Ok(Self { epoch, previous_epoch, state, assigned, revoking })
    }
}

fn encode_epochs(out: &mut Writer, epochs: &Epochs) {
    out.compact_length(epochs.len());
    for (topic, partitions) in epochs {
        out.raw(&topic.0);
        out.compact_length(partitions.len());
        let mut tag = Writer::default();
        tag.compact_length(partitions.len());
        for (partition, epoch) in partitions {
            out.i32(*partition);
            tag.i32(*epoch);
        }
        out.tag_0(&tag.done());
    }
}

/// Epochs that are missing, as before 4.3, or do not count the partitions are the member's.
fn decode_epochs(value: &mut Reader<'_>, member_epoch: i32) -> Result<Epochs, RecordError> {
    let topics = value.list("assignedPartitions", |v| {
        let topic = v.uuid("topicId")?;
        let partitions = v.list("partitions", |v| v.i32("partition"))?;
        let mut epochs = Vec::new();
        v.tags(|tag, bytes| {
            let mut bytes = Reader::flexible(bytes);
            if tag == 0 && bytes.peek_is_not_null() {
                epochs = bytes.list("assignmentEpochs", |v| v.i32("epoch"))?;
            }
            Ok(())
        })?;
        if epochs.len() != partitions.len() {
            epochs = vec![member_epoch.max(0); partitions.len()];
        }
        Ok((topic, partitions.into_iter().zip(epochs).collect::<BTreeMap<_, _>>()))
    })?;
    Ok(topics.into_iter().filter(|(_, p)| !p.is_empty()).collect())
}

impl ResolvedRegex {
    fn encode(&self) -> Bytes {
        let mut out = value_writer();
        encode_names(&mut out, &self.topics);
        out.i64(self.version);
        out.i64(self.timestamp_ms);
        out.uvarint(0);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let topics = decode_names(&mut value)?;
        let out =
            Self { topics, version: value.i64("version")?, timestamp_ms: value.i64("timestamp")? };
        value.tags(|_, _| Ok(()))?;
        Ok(out)
    }
}
