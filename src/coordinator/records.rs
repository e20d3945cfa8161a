//! The records of `__consumer_offsets` (`OffsetCommit{Key,Value}.json`, `GroupMetadata{Key,
//! Value}.json`): keys of types 0 to 2, values of versions 0 to 4, byte for byte Kafka's. Those of
//! consumer groups stand in `consumer_records`, of share groups in `share_group_records`. Pure.
//!
//! Decoding never allocates more than the bytes at hand, and a key of a type that is not known here
//! (other kinds of groups) is told apart from a damaged one.

use std::sync::Arc;

use bytes::Bytes;

pub use super::codec::RecordError;
use super::{
    codec::{Reader, Writer},
    consumer_records::ConsumerRecord,
    share_group_records::ShareRecord,
};
use crate::base::{PartitionId, Uuid};

/// One change of a group's durable state; no value means that it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A committed offset.
    Offset {
        /// The group.
        group: Arc<str>,
        /// The topic's name.
        topic: Arc<str>,
        /// The partition's number.
        partition: PartitionId,
        /// What was committed.
        value: Option<OffsetAndMetadata>,
    },
    /// A classic group as a whole.
    Group {
        /// The group.
        group: Arc<str>,
        /// Its state.
        value: Option<GroupMetadata>,
    },
    /// A part of a consumer group (KIP-848).
    Consumer(ConsumerRecord),
    /// A part of a share group (KIP-932).
    Share(ShareRecord),
}

/// A committed offset (`OffsetCommitValue`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next offset to read.
    pub offset: i64,
    /// Leader epoch of the last record read; -1 if unknown.
    pub leader_epoch: i32,
    /// Kept for the client.
    pub metadata: Arc<str>,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub commit_ms: i64,
    /// When it expires, if the client said so (OffsetCommit 2 to 4).
    pub expire_ms: Option<i64>,
    /// The topic's id; zero if unknown.
    pub topic_id: Uuid,
}

/// A classic group (`GroupMetadataValue`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetadata {
    /// Empty for a group without membership.
    pub protocol_type: Arc<str>,
    /// Joins completed so far.
    pub generation: i32,
    /// The chosen protocol.
    pub protocol: Option<Arc<str>>,
    /// Member id of the leader.
    pub leader: Option<Arc<str>>,
    /// When the group entered its state, in milliseconds since the Unix epoch; -1 if unknown.
    pub state_since_ms: i64,
    /// The members, by id.
    pub members: Vec<MemberMetadata>,
}

/// A member of a classic group (`MemberMetadata`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberMetadata {
    /// Its id.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub client_host: Arc<str>,
    /// In milliseconds; -1 in version 0.
    pub rebalance_timeout_ms: i32,
    /// In milliseconds.
    pub session_timeout_ms: i32,
    /// What it said under the chosen protocol.
    pub subscription: Bytes,
    /// What it was given.
    pub assignment: Bytes,
}

const OFFSET_KEY_LEGACY: i16 = 0;
const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;

/// Written if the offset has an expiry of its own, which later versions cannot hold.
const OFFSET_VALUE_WITH_EXPIRY: i16 = 1;
const OFFSET_VALUE: i16 = 4;
const GROUP_VALUE: i16 = 3;

impl Record {
    /// The group that changes.
    #[must_use]
    pub const fn group(&self) -> &Arc<str> {
        match self {
            Self::Offset { group, .. } | Self::Group { group, .. } => group,
            Self::Consumer(record) => &record.group,
            Self::Share(record) => &record.group,
        }
    }

    /// Bytes of the names in it, about; a group's own record is not cut anyway.
    #[must_use]
    pub fn len_about(&self) -> usize {
        match self {
            Self::Offset { group, topic, value, .. } => {
                group.len() + topic.len() + value.as_ref().map_or(0, |v| v.metadata.len())
            }
            Self::Group { group, .. } => group.len(),
            Self::Consumer(record) => record.len_about(),
            Self::Share(record) => record.len_about(),
        }
    }

    /// Key and value as they stand in the log; no value is a tombstone.
    ///
    /// # Errors
    /// `TooLong` if a string has more than 32767 bytes where the format allows no more.
    pub fn encode(&self) -> Result<(Bytes, Option<Bytes>), RecordError> {
        let mut key = Writer::default();
        match self {
            Self::Offset { group, topic, partition, value } => {
                key.i16(OFFSET_KEY);
                key.string("group", group)?;
                key.string("topic", topic)?;
                key.i32(*partition);
                let value = value.as_ref().map(OffsetAndMetadata::encode).transpose()?;
                Ok((key.done(), value))
            }
            Self::Group { group, value } => {
                key.i16(GROUP_KEY);
                key.string("group", group)?;
                let value = value.as_ref().map(GroupMetadata::encode).transpose()?;
                Ok((key.done(), value))
            }
            Self::Consumer(record) => record.encode(),
            Self::Share(record) => record.encode(),
        }
    }

    /// Reads a record of the log; `None` for a key type of another kind of group.
    ///
    /// # Errors
    /// `Malformed`, `UnknownVersion`.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, RecordError> {
        let mut key = Reader::new(key);
        let kind = key.i16("key type")?;
        let record = match kind {
            OFFSET_KEY_LEGACY | OFFSET_KEY => Self::Offset {
                group: key.string("group")?,
                topic: key.string("topic")?,
                partition: key.i32("partition")?,
                value: value.map(OffsetAndMetadata::decode).transpose()?,
            },
            GROUP_KEY => Self::Group {
                group: key.string("group")?,
                value: value.map(GroupMetadata::decode).transpose()?,
            },
            10..=15 => return Ok(ShareRecord::decode(kind, &mut key, value)?.map(Self::Share)),
            _ => return Ok(ConsumerRecord::decode(kind, &mut key, value)?.map(Self::Consumer)),
        };
        Ok(Some(record))
    }
}

impl OffsetAndMetadata {
    fn encode(&self) -> Result<Bytes, RecordError> {
        let mut out = Writer::default();
        if let Some(expire_ms) = self.expire_ms {
            out.i16(OFFSET_VALUE_WITH_EXPIRY);
            out.i64(self.offset);
            out.string("metadata", &self.metadata)?;
            out.i64(self.commit_ms);
            out.i64(expire_ms);
            return Ok(out.done());
        }
        out.i16(OFFSET_VALUE);
        out.i64(self.offset);
        out.i32(self.leader_epoch);
        out.compact_string(&self.metadata);
        out.i64(self.commit_ms);
        if self.topic_id.is_zero() {
            out.uvarint(0);
        } else {
            // One tagged field: tag 0, 16 bytes.
            out.uvarint(1);
            out.uvarint(0);
            out.uvarint(16);
            out.raw(&self.topic_id.0);
        }
        Ok(out.done())
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (mut value, version) = Reader::value(bytes)?;
        let offset = value.i64("offset")?;
        let leader_epoch = if version >= 3 { value.i32("leaderEpoch")? } else { -1 };
        let metadata = value.string("metadata")?;
        let commit_ms = value.i64("commitTimestamp")?;
        let expire_ms = if version == OFFSET_VALUE_WITH_EXPIRY {
            Some(value.i64("expireTimestamp")?).filter(|ms| *ms != -1)
        } else {
            None
        };
        let mut topic_id = Uuid::ZERO;
        value.tags(|tag, bytes| {
            if tag == 0 {
                topic_id = Uuid(bytes.try_into().map_err(|_| RecordError::Malformed("topicId"))?);
            }
            Ok(())
        })?;
        Ok(Self { offset, leader_epoch, metadata, commit_ms, expire_ms, topic_id })
    }
}

impl GroupMetadata {
    fn encode(&self) -> Result<Bytes, RecordError> {
        let mut out = Writer::default();
        out.i16(GROUP_VALUE);
        out.string("protocolType", &self.protocol_type)?;
        out.i32(self.generation);
        out.nullable_string("protocol", self.protocol.as_deref())?;
        out.nullable_string("leader", self.leader.as_deref())?;
        out.i64(self.state_since_ms);
        out.length("members", self.members.len())?;
        for member in &self.members {
            member.encode(&mut out)?;
        }
        Ok(out.done())
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (mut value, version) = Reader::value(bytes)?;
        let protocol_type = value.string("protocolType")?;
        let generation = value.i32("generation")?;
        let protocol = value.nullable_string("protocol")?;
        let leader = value.nullable_string("leader")?;
        let state_since_ms = if version >= 2 { value.i64("currentStateTimestamp")? } else { -1 };
        let count = value.length("members")?.ok_or(RecordError::Malformed("members"))?;
        let mut members = Vec::new();
        for _ in 0..count {
            // Each one takes bytes, so a lying count ends here and reserves nothing.
            members.push(MemberMetadata::decode(&mut value, version)?);
        }
        value.tags(|_, _| Ok(()))?;
        Ok(Self { protocol_type, generation, protocol, leader, state_since_ms, members })
    }
}

impl MemberMetadata {
    fn encode(&self, out: &mut Writer) -> Result<(), RecordError> {
        out.string("memberId", &self.member_id)?;
        out.nullable_string("groupInstanceId", self.instance_id.as_deref())?;
        out.string("clientId", &self.client_id)?;
        out.string("clientHost", &self.client_host)?;
        out.i32(self.rebalance_timeout_ms);
        out.i32(self.session_timeout_ms);
        out.bytes("subscription", &self.subscription)?;
        out.bytes("assignment", &self.assignment)
    }

    fn decode(value: &mut Reader<'_>, version: i16) -> Result<Self, RecordError> {
        let member = Self {
            member_id: value.string("memberId")?,
            instance_id: match version >= 3 {
                true => value.nullable_string("groupInstanceId")?,
                false => None,
            },
            client_id: value.string("clientId")?,
            client_host: value.string("clientHost")?,
            rebalance_timeout_ms: match version >= 1 {
                true => value.i32("rebalanceTimeout")?,
                false => -1,
            },
            session_timeout_ms: value.i32("sessionTimeout")?,
            subscription: value.bytes("subscription")?,
            assignment: value.bytes("assignment")?,
        };
        value.tags(|_, _| Ok(()))?;
        Ok(member)
    }
}

/// Topics of a consumer's subscription (`ConsumerProtocolSubscription`): its version, then the
/// fields of version 0, which begin every later one. `None` if the bytes have another shape.
#[must_use]
pub fn subscribed_topics(metadata: &[u8]) -> Option<Vec<Arc<str>>> {
    let mut reader = Reader::new(metadata);
    reader.i16("version").ok().filter(|v| *v >= 0)?;
    let count = reader.length("topics").ok()??;
    let mut topics = Vec::new();
    for _ in 0..count {
        topics.push(reader.string("topic").ok()?);
    }
    Some(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|d| u8::try_from(d[0] * 16 + d[1]).unwrap()).collect()
    }

    fn offset() -> OffsetAndMetadata {
        OffsetAndMetadata {
            offset: 42,
            leader_epoch: 3,
            metadata: "m\u{e9}".into(),
            commit_ms: 1_700_000_000_123,
            expire_ms: None,
            topic_id: Uuid([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
        }
    }

    fn group() -> GroupMetadata {
        GroupMetadata {
            protocol_type: "consumer".into(),
            generation: 5,
            protocol: Some("range".into()),
            leader: Some("a-1".into()),
            state_since_ms: 1_700_000_000_456,
            members: vec![MemberMetadata {
                member_id: "a-1".into(),
                instance_id: Some("i".into()),
                client_id: "c".into(),
                client_host: "/127.0.0.1".into(),
                rebalance_timeout_ms: 60_000,
                session_timeout_ms: 10_000,
                subscription: Bytes::from_static(&[1, 2]),
                assignment: Bytes::from_static(&[3]),
            }],
        }
    }

    /// All bytes here were written by the generated classes of Kafka 4.3.1.
    const OFFSETS: [&str; 5] = [
        "0000000000000000002a00036dc3a90000018bcfe5687b",
        "0001000000000000002a00036dc3a90000018bcfe5687bffffffffffffffff",
        "0002000000000000002a00036dc3a90000018bcfe5687b",
        "0003000000000000002a0000000300036dc3a90000018bcfe5687b",
        "0004000000000000002a00000003046dc3a90000018bcfe5687b0100100102030405060708090a0b0c0d0e0f10",
    ];
    const OFFSET_WITHOUT_ID: &str = "0004000000000000002a00000003046dc3a90000018bcfe5687b00";
    const OFFSET_WITH_EXPIRY: &str =
        "0001000000000000002a00036dc3a90000018bcfe5687b0000018bcfe652db";
    const GROUPS: [&str; 5] = [
        "00000008636f6e73756d657200000005000572616e67650003612d31000000010003612d31000163000a2f3132\
         372e302e302e31000027100000000201020000000103",
        "00010008636f6e73756d657200000005000572616e67650003612d31000000010003612d31000163000a2f3132\
         372e302e302e310000ea60000027100000000201020000000103",
        "00020008636f6e73756d657200000005000572616e67650003612d310000018bcfe569c8000000010003612d31\
         000163000a2f3132372e302e302e310000ea60000027100000000201020000000103",
        "00030008636f6e73756d657200000005000572616e67650003612d310000018bcfe569c8000000010003612d31\
         000169000163000a2f3132372e302e302e310000ea60000027100000000201020000000103",
        "000409636f6e73756d6572000000050672616e676504612d310000018bcfe569c80204612d31026902630b2f31\
         32372e302e302e310000ea600000271003010202030000",
    ];
    const EMPTY_GROUP: &str = "0003000000000000ffffffff000000000000000900000000";
    const OFFSET_KEY_BYTES: &str = "000100016700066f726465727300000007";
    const GROUP_KEY_BYTES: &str = "0002000167";

    fn offset_record(value: Option<OffsetAndMetadata>) -> Record {
        Record::Offset { group: "g".into(), topic: "orders".into(), partition: 7, value }
    }

    fn group_record(value: Option<GroupMetadata>) -> Record {
        Record::Group { group: "g".into(), value }
    }

    #[test]
    fn bytes_are_those_of_kafka() {
        let no_id = OffsetAndMetadata { topic_id: Uuid::ZERO, ..offset() };
        let expiring = OffsetAndMetadata { expire_ms: Some(1_700_000_060_123), ..offset() };
        let empty = GroupMetadata {
            protocol_type: "".into(),
            generation: 0,
            protocol: None,
            leader: None,
            state_since_ms: 9,
            members: vec![],
        };
        for (record, key, value) in [
            (offset_record(Some(offset())), OFFSET_KEY_BYTES, Some(OFFSETS[4])),
            (offset_record(Some(no_id)), OFFSET_KEY_BYTES, Some(OFFSET_WITHOUT_ID)),
            (offset_record(Some(expiring)), OFFSET_KEY_BYTES, Some(OFFSET_WITH_EXPIRY)),
            (offset_record(None), OFFSET_KEY_BYTES, None),
            (group_record(Some(group())), GROUP_KEY_BYTES, Some(GROUPS[3])),
            (group_record(Some(empty)), GROUP_KEY_BYTES, Some(EMPTY_GROUP)),
            (group_record(None), GROUP_KEY_BYTES, None),
        ] {
            let (k, v) = record.encode().unwrap();
            assert_eq!((k.to_vec(), v.map(|v| v.to_vec())), (hex(key), value.map(hex)));
        }
    }

    #[test]
    fn every_version_is_read() {
        for (version, bytes) in OFFSETS.iter().enumerate() {
            let mut expected = offset();
            expected.leader_epoch = if version >= 3 { 3 } else { -1 };
            if version < 4 {
                expected.topic_id = Uuid::ZERO;
            }
            for key in [OFFSET_KEY_BYTES, "000000016700066f726465727300000007"] {
                let read = Record::decode(&hex(key), Some(&hex(bytes)));
                assert_eq!(read, Ok(Some(offset_record(Some(expected.clone())))), "v{version}");
            }
        }
        for (version, bytes) in GROUPS.iter().enumerate() {
            let mut expected = group();
            if version < 1 {
                expected.members[0].rebalance_timeout_ms = -1;
            }
            if version < 2 {
                expected.state_since_ms = -1;
            }
            if version < 3 {
                expected.members[0].instance_id = None;
            }
            let read = Record::decode(&hex(GROUP_KEY_BYTES), Some(&hex(bytes)));
            assert_eq!(read, Ok(Some(group_record(Some(expected)))), "v{version}");
        }
    }

    #[test]
    fn other_kinds_are_passed_over_and_damage_is_told() {
        assert_eq!(Record::decode(&hex("0011000167"), Some(&[])), Ok(None));
        let newer = Record::decode(&hex(GROUP_KEY_BYTES), Some(&hex("0005")));
        assert_eq!(newer, Err(RecordError::UnknownVersion(5)));
        for bytes in OFFSETS.iter().chain(&GROUPS) {
            let key = if OFFSETS.contains(bytes) { OFFSET_KEY_BYTES } else { GROUP_KEY_BYTES };
            let whole = hex(bytes);
            for cut in 0..whole.len() {
                let read = Record::decode(&hex(key), Some(&whole[..cut]));
                assert!(read.is_err(), "{bytes} cut at {cut}: {read:?}");
            }
        }
        // A count of 2^31-1 members in 26 bytes.
        let lying = hex("0003000000000000ffffffff00000000000000097fffffff0001");
        assert!(Record::decode(&hex(GROUP_KEY_BYTES), Some(&lying)).is_err());
    }

    #[test]
    fn names_too_long_for_the_format_are_refused() {
        let group: Arc<str> = "g".repeat(32_768).into();
        assert_eq!(
            Record::Group { group, value: None }.encode(),
            Err(RecordError::TooLong("group"))
        );
    }

    #[test]
    fn subscriptions_of_any_version_name_their_topics() {
        let v3 = hex("0003000000020001610003626262ffffffff00000000ffffffff0001");
        let topics: Vec<Arc<str>> = vec!["a".into(), "bbb".into()];
        assert_eq!(subscribed_topics(&v3), Some(topics));
        for bad in ["", "ffff00000000", "000000000002000161", "0000ffffffff", "00007fffffff"] {
            assert_eq!(subscribed_topics(&hex(bad)), None, "{bad}");
        }
    }
}
