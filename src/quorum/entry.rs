//! One Raft entry as one record batch v2 with one record: offset = Raft index, leader epoch = term.
//! A proposal is a data batch (key: version and the epoch it was decided in; value: a
//! `metadata.RecordBatch`); a leader's blank entry and the voters are control batches with Kafka's
//! control types and values of our own. Uses `base`, `record`, `pb`.

use bytes::Bytes;
use openraft::{EntryPayload, entry::RaftEntry as _};
use prost::Message as _;

use super::types::{self, BadMessage, Entry, Proposal};
use crate::{
    base::{LeaderEpoch, Offset},
    pb::quorum as pb,
    record::{
        BatchBuilder, BatchError, BatchHeader, ControlType, RecordError, Records,
        batch::{BATCH_BODY_AT, check_crc},
    },
};

/// Version of a data batch's key.
const KEY_VERSION: u8 = 0;

/// Bytes are no entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    /// No valid batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A batch without valid records.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A batch, but not one that a quorum member writes.
    #[error("{0}")]
    Shape(&'static str),
    /// Its content is senseless.
    #[error(transparent)]
    Content(#[from] BadMessage),
    /// A field is beyond what the format can hold.
    #[error("the entry is too large for a record batch")]
    TooLarge,
}

/// One batch with one record, by its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Offset of the record.
    pub(crate) offset: Offset,
    /// Partition leader epoch.
    pub(crate) epoch: LeaderEpoch,
    /// Milliseconds since the Unix epoch.
    pub(crate) timestamp_ms: i64,
    /// The control type, or the key of a data record.
    pub(crate) key: FrameKey,
    /// The record's value.
    pub(crate) value: Bytes,
}

/// What kind of record a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKey {
    /// A control record of this type.
    Control(ControlType),
    /// Metadata records that were decided in this epoch.
    Data(LeaderEpoch),
}

impl Frame {
    /// The frame as a record batch.
    ///
    /// # Errors
    /// `TooLarge` beyond 2 GiB.
    pub(crate) fn encode(&self) -> Result<Bytes, EntryError> {
        let builder = BatchBuilder::default().base_offset(self.offset).leader_epoch(self.epoch);
        let value = Some(&self.value[..]);
        let (mut builder, key) = match self.key {
            FrameKey::Control(kind) => (builder.control(), kind.key().to_vec()),
            FrameKey::Data(epoch) => (builder, [&[KEY_VERSION][..], &epoch.to_be_bytes()].concat()),
        };
        let added = builder.append(self.timestamp_ms, Some(&key), value, &[]);
        added.map_err(|_| EntryError::TooLarge)?;
        Ok(builder.finish())
    }

    /// Reads the batch that `batch` is exactly.
    ///
    /// # Errors
    /// Any of [`EntryError`] but `TooLarge`.
    pub(crate) fn decode(batch: &Bytes) -> Result<Self, EntryError> {
        let header = BatchHeader::read(batch)?;
        check_crc(&header, batch)?;
        if header.size != batch.len() || header.codec() != 0 {
            return Err(EntryError::Shape("not one uncompressed batch"));
        }
        if header.records_count != 1 || header.last_offset_delta != 0 || header.base_offset < 0 {
            return Err(EntryError::Shape("a batch of the metadata log holds one record"));
        }
        let section = batch.get(BATCH_BODY_AT..).unwrap_or_default();
        let mut records = Records::new(section, 1);
        let record = records.next().ok_or(EntryError::Shape("there is no record"))??;
        if let Some(more) = records.next() {
            more?;
        }
        let value = record.value.ok_or(EntryError::Shape("the record has no value"))?;
        let key = match record.key.ok_or(EntryError::Shape("the record has no key"))? {
            key if header.is_control() => ControlType::read(key).map(FrameKey::Control),
            [KEY_VERSION, a, b, c, d] => {
                Some(FrameKey::Data(LeaderEpoch::from_be_bytes([*a, *b, *c, *d])))
            }
            _ => None,
        };
        Ok(Self {
            offset: header.base_offset,
            epoch: header.partition_leader_epoch,
            timestamp_ms: header.base_timestamp,
            key: key.ok_or(EntryError::Shape("the record's key is not known"))?,
            value: batch.slice_ref(value),
        })
    }
}

/// The entry as it stands in the log.
///
/// # Errors
/// `TooLarge`.
pub(crate) fn encode(entry: &Entry) -> Result<Bytes, EntryError> {
    let (key, value, timestamp_ms) = match &entry.payload {
        EntryPayload::Blank => (FrameKey::Control(ControlType::LeaderChange), Bytes::new(), 0),
        EntryPayload::Normal(p) => (FrameKey::Data(p.epoch), p.records.clone(), p.timestamp_ms),
        EntryPayload::Membership(m) => {
            let voters = types::voters_to_pb(m).encode_to_vec();
            (FrameKey::Control(ControlType::KRaftVoters), Bytes::from(voters), 0)
        }
    };
    let offset = i64::try_from(entry.log_id.index).map_err(|_| EntryError::TooLarge)?;
    let frame = Frame { offset, epoch: types::term(&entry.log_id), timestamp_ms, key, value };
    frame.encode()
}

/// The entry that stands in the log as `batch`.
///
/// # Errors
/// Any of [`EntryError`] but `TooLarge`.
pub(crate) fn decode(batch: &Bytes) -> Result<Entry, EntryError> {
    let frame = Frame::decode(batch)?;
    let index = u64::try_from(frame.offset).map_err(|_| EntryError::Shape("negative offset"))?;
    if frame.epoch < 0 {
        return Err(EntryError::Shape("negative leader epoch"));
    }
    let payload = match frame.key {
        FrameKey::Data(epoch) => EntryPayload::Normal(Proposal {
            epoch,
            timestamp_ms: frame.timestamp_ms,
            records: frame.value,
        }),
        FrameKey::Control(ControlType::LeaderChange) => EntryPayload::Blank,
        FrameKey::Control(ControlType::KRaftVoters) => {
            let voters =
                pb::Voters::decode(frame.value).map_err(|_| EntryError::Shape("bad voters"))?;
            EntryPayload::Membership(types::voters_from_pb(voters)?)
        }
        FrameKey::Control(_) => return Err(EntryError::Shape("unknown control record")),
    };
    Ok(Entry::new(types::log_id(frame.epoch, index), payload))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        base::{NodeId, Uuid},
        quorum::types::{Peer, Voters},
    };

    fn entries() -> Vec<Entry> {
        let peer = Peer { host: "h".into(), port: 9093, directory_id: Uuid::ONE };
        let nodes = BTreeMap::from([(NodeId(1), peer.clone()), (NodeId(2), peer)]);
        let voters = Voters::new(vec![nodes.keys().copied().collect()], nodes).unwrap();
        let data = Proposal { epoch: 4, timestamp_ms: 17, records: Bytes::from(vec![7; 300]) };
        vec![
            Entry::new(types::log_id(0, 0), EntryPayload::Membership(voters)),
            Entry::new(types::log_id(1, 1), EntryPayload::Blank),
            Entry::new(types::log_id(5, 99), EntryPayload::Normal(data)),
        ]
    }

    #[test]
    fn entries_read_back() {
        for entry in entries() {
            let batch = encode(&entry).unwrap();
            let header = BatchHeader::read(&batch).unwrap();
            assert_eq!(u64::try_from(header.base_offset).unwrap(), entry.log_id.index);
            assert_eq!(header.partition_leader_epoch, types::term(&entry.log_id));
            assert_eq!(decode(&batch).unwrap(), entry);
        }
    }

    #[test]
    fn no_changed_byte_is_taken_for_an_entry() {
        for entry in entries() {
            let batch = encode(&entry).unwrap();
            for cut in 0..batch.len() {
                assert!(decode(&batch.slice(..cut)).is_err());
            }
            // Offset, length and epoch lie outside the CRC.
            for at in 21..batch.len() {
                let mut changed = batch.to_vec();
                changed[at] ^= 0x10;
                assert!(decode(&Bytes::from(changed)).is_err(), "byte {at}");
            }
        }
    }
}
