//! The records of `__share_group_state` (`ShareSnapshotKey.json`, `ShareSnapshotValue.json`,
//! `ShareUpdateKey.json`, `ShareUpdateValue.json`): version 0, byte for byte Kafka's. Pure.
//!
//! Decoding never allocates more than the bytes at hand.

use bytes::Bytes;

pub use super::codec::RecordError;
use super::{
    codec::{Reader, Writer},
    share_persister::{ShareKey, StateBatch},
};
use crate::base::Offset;

const SNAPSHOT_KEY: i16 = 0;
const UPDATE_KEY: i16 = 1;
const VERSION: i16 = 0;
/// What stands in the log where the count of finished records is not known; never written.
const COUNT_UNKNOWN: i32 = -1;

/// One record of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareRecord {
    /// The share partition.
    pub key: ShareKey,
    /// What is said of it.
    pub value: ShareValue,
}

/// What a record says of a share partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareValue {
    /// All of its state: what was said before counts no more.
    Snapshot(Snapshot),
    /// What changed since.
    Update(Update),
    /// It is forgotten.
    Tombstone,
}

/// The whole state of a share partition (`ShareGroupOffset.java`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Counts the snapshots of this share partition.
    pub snapshot_epoch: i32,
    /// Raised each time the state is set anew.
    pub state_epoch: i32,
    /// The leader epoch of the last leader that read the state.
    pub leader_epoch: i32,
    /// The share-partition start offset; -1 if it is not known.
    pub start_offset: Offset,
    /// Records from there on that are finished with (KIP-1226); -1 if unknown.
    pub delivery_complete: i32,
    /// When the state was made, in milliseconds since the Unix epoch.
    pub create_ms: i64,
    /// When this snapshot was written.
    pub write_ms: i64,
    /// In order, not overlapping.
    pub batches: Vec<StateBatch>,
}

/// A change of a share partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// That of the snapshot before it.
    pub snapshot_epoch: i32,
    /// -1 if it stays.
    pub leader_epoch: i32,
    /// -1 if it stays.
    pub start_offset: Offset,
    /// As in [`Snapshot`].
    pub delivery_complete: i32,
    /// The batches that changed.
    pub batches: Vec<StateBatch>,
}

impl ShareRecord {
    /// Key and value as they stand in the log; no value is a tombstone.
    ///
    /// # Errors
    /// `TooLong` if the group's name has more than 32767 bytes.
    pub fn encode(&self) -> Result<(Bytes, Option<Bytes>), RecordError> {
        let mut key = Writer::default();
        key.i16(match self.value {
            ShareValue::Snapshot(_) | ShareValue::Tombstone => SNAPSHOT_KEY,
            ShareValue::Update(_) => UPDATE_KEY,
        });
        key.string("groupId", &self.key.group)?;
        key.raw(&self.key.topic.0);
        key.i32(self.key.partition);
        let value = match &self.value {
            ShareValue::Snapshot(s) => Some(s.encode()),
            ShareValue::Update(u) => Some(u.encode()),
            ShareValue::Tombstone => None,
        };
        Ok((key.done(), value))
    }

    /// Reads a record of the log; `None` for a key of another type.
    ///
    /// # Errors
    /// `Malformed`, `UnknownVersion`.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, RecordError> {
        let mut key = Reader::new(key);
        let kind = key.i16("key type")?;
        if !matches!(kind, SNAPSHOT_KEY | UPDATE_KEY) {
            return Ok(None);
        }
        let key = ShareKey {
            group: key.string("groupId")?,
            topic: key.uuid("topicId")?,
            partition: key.i32("partition")?,
        };
        let value = match (kind, value) {
            (_, None) => ShareValue::Tombstone,
            (SNAPSHOT_KEY, Some(bytes)) => ShareValue::Snapshot(Snapshot::decode(bytes)?),
            (_, Some(bytes)) => ShareValue::Update(Update::decode(bytes)?),
        };
        Ok(Some(Self { key, value }))
    }

    /// Bytes of the record, about.
    #[must_use]
    pub fn len_about(&self) -> usize {
        let batches = match &self.value {
            ShareValue::Snapshot(s) => s.batches.len(),
            ShareValue::Update(u) => u.batches.len(),
            ShareValue::Tombstone => 0,
        };
        self.key.group.len() + 96 + batches * 20
    }
}

impl Snapshot {
    fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.i16(VERSION);
        out.i32(self.snapshot_epoch);
        out.i32(self.state_epoch);
        out.i32(self.leader_epoch);
        out.i64(self.start_offset);
        out.i64(self.create_ms);
        out.i64(self.write_ms);
        encode_batches(&mut out, &self.batches);
        encode_count(&mut out, self.delivery_complete);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let mut out = Self {
            snapshot_epoch: value.i32("snapshotEpoch")?,
            state_epoch: value.i32("stateEpoch")?,
            leader_epoch: value.i32("leaderEpoch")?,
            start_offset: value.i64("startOffset")?,
            delivery_complete: COUNT_UNKNOWN,
            create_ms: value.i64("createTimestamp")?,
            write_ms: value.i64("writeTimestamp")?,
            batches: decode_batches(&mut value)?,
        };
        out.delivery_complete = decode_count(&mut value)?;
        Ok(out)
    }
}

impl Update {
    fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        out.i16(VERSION);
        out.i32(self.snapshot_epoch);
        out.i32(self.leader_epoch);
        out.i64(self.start_offset);
        encode_batches(&mut out, &self.batches);
        encode_count(&mut out, self.delivery_complete);
        out.done()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut value = Reader::flexible_value(bytes)?;
        let mut out = Self {
            snapshot_epoch: value.i32("snapshotEpoch")?,
            leader_epoch: value.i32("leaderEpoch")?,
            start_offset: value.i64("startOffset")?,
            delivery_complete: COUNT_UNKNOWN,
            batches: decode_batches(&mut value)?,
        };
        out.delivery_complete = decode_count(&mut value)?;
        Ok(out)
    }
}

fn encode_batches(out: &mut Writer, batches: &[StateBatch]) {
    out.compact_length(batches.len());
    for batch in batches {
        out.i64(batch.first);
        out.i64(batch.last);
        out.i8(batch.state);
        out.i16(batch.delivery_count);
        out.uvarint(0);
    }
}

/// A batch that no coordinator can have written makes the whole value malformed.
fn decode_batches(value: &mut Reader<'_>) -> Result<Vec<StateBatch>, RecordError> {
    value.list("stateBatches", |r| {
        let batch = StateBatch {
            first: r.i64("firstOffset")?,
            last: r.i64("lastOffset")?,
            state: r.i8("deliveryState")?,
            delivery_count: r.i16("deliveryCount")?,
        };
        r.tags(|_, _| Ok(()))?;
        match batch.is_sound() {
            true => Ok(batch),
            false => Err(RecordError::Malformed("stateBatches")),
        }
    })
}

fn encode_count(out: &mut Writer, count: i32) {
    match count {
        COUNT_UNKNOWN => out.uvarint(0),
        count => out.tag_0(&count.to_be_bytes()),
    }
}

fn decode_count(value: &mut Reader<'_>) -> Result<i32, RecordError> {
    let mut count = COUNT_UNKNOWN;
    value.tags(|tag, bytes| {
        if tag == 0 {
            count = Reader::new(bytes).i32("deliveryCompleteCount")?;
        }
        Ok(())
    })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Uuid;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|d| u8::try_from(d[0] * 16 + d[1]).unwrap()).collect()
    }

    fn record(value: ShareValue) -> ShareRecord {
        let key = ShareKey { group: "sg".into(), topic: Uuid([7; 16]), partition: 3 };
        ShareRecord { key, value }
    }

    fn batches() -> Vec<StateBatch> {
        vec![
            StateBatch { first: 5, last: 9, state: 2, delivery_count: 1 },
            StateBatch { first: 12, last: 12, state: 4, delivery_count: 5 },
        ]
    }

    fn snapshot(delivery_complete: i32) -> ShareValue {
        ShareValue::Snapshot(Snapshot {
            snapshot_epoch: 1,
            state_epoch: 2,
            leader_epoch: 3,
            start_offset: 4,
            delivery_complete,
            create_ms: 1_700_000_000_000,
            write_ms: 1_700_000_000_123,
            batches: batches(),
        })
    }

    fn update() -> ShareValue {
        ShareValue::Update(Update {
            snapshot_epoch: 1,
            leader_epoch: -1,
            start_offset: -1,
            delivery_complete: 6,
            batches: Vec::new(),
        })
    }

    const KEY: &str = "0002 7367 07070707070707070707070707070707 00000003";
    const BATCHES: &str = "03 0000000000000005 0000000000000009 02 0001 00 \
        000000000000000c 000000000000000c 04 0005 00";
    const HEAD: &str = "0000 00000001 00000002 00000003 0000000000000004 \
        0000018bcfe56800 0000018bcfe5687b";

    /// Laid out by hand after the schema.
    #[test]
    fn bytes_follow_the_schema() {
        let cases = [
            ("0000", snapshot(6), Some(format!("{HEAD} {BATCHES} 01 00 04 00000006"))),
            ("0000", snapshot(-1), Some(format!("{HEAD} {BATCHES} 00"))),
            (
                "0001",
                update(),
                Some("0000 00000001 ffffffff ffffffffffffffff 01 01 00 04 00000006".to_owned()),
            ),
            ("0000", ShareValue::Tombstone, None),
        ];
        for (kind, value, bytes) in cases {
            let (key, bytes) = (hex(&format!("{kind} {KEY}")), bytes.map(|b| hex(&b)));
            let (encoded_key, encoded) = record(value.clone()).encode().unwrap();
            assert_eq!(encoded_key.to_vec(), key);
            assert_eq!(encoded.map(|b| b.to_vec()), bytes);
            let read = ShareRecord::decode(&key, bytes.as_deref()).unwrap();
            assert_eq!(read, Some(record(value)));
        }
    }

    #[test]
    fn damage_is_told_and_other_keys_are_passed_over() {
        let key = hex(&format!("0000 {KEY}"));
        assert_eq!(ShareRecord::decode(&hex("0002"), Some(&[])), Ok(None));
        let newer = ShareRecord::decode(&key, Some(&hex("0001")));
        assert_eq!(newer, Err(RecordError::UnknownVersion(1)));
        let whole = hex(&format!("{HEAD} {BATCHES} 00"));
        for cut in 0..whole.len() {
            assert!(ShareRecord::decode(&key, Some(&whole[..cut])).is_err(), "cut at {cut}");
        }
        let backwards = "02 0000000000000009 0000000000000005 02 0001 00";
        let backwards = hex(&format!("{HEAD} {backwards} 00"));
        let malformed = Err(RecordError::Malformed("stateBatches"));
        assert_eq!(ShareRecord::decode(&key, Some(&backwards)), malformed);
    }
}
