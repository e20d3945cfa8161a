//! Control batches: transaction markers and the records a Raft leader writes (`ControlRecordType`,
//! `EndTransactionMarker`, `MemoryRecords`). Pure.

use bytes::Bytes;

use super::{builder::BatchBuilder, records::Record};
use crate::base::{LeaderEpoch, Offset};

/// What a control record says, by the number in its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlType {
    /// The transaction was aborted.
    Abort,
    /// The transaction was committed.
    Commit,
    /// A Raft leader took office (KIP-595).
    LeaderChange,
    /// A snapshot begins (KIP-630).
    SnapshotHeader,
    /// A snapshot ends.
    SnapshotFooter,
    /// The version of the Raft protocol (KIP-853).
    KRaftVersion,
    /// The voters (KIP-853).
    KRaftVoters,
    /// A type that this version does not know.
    Unknown(i16),
}

impl ControlType {
    /// The number in the key.
    #[must_use]
    pub const fn id(self) -> i16 {
        match self {
            Self::Abort => 0,
            Self::Commit => 1,
            Self::LeaderChange => 2,
            Self::SnapshotHeader => 3,
            Self::SnapshotFooter => 4,
            Self::KRaftVersion => 5,
            Self::KRaftVoters => 6,
            Self::Unknown(id) => id,
        }
    }

    /// The type with this number.
    #[must_use]
    pub const fn from_id(id: i16) -> Self {
        match id {
            0 => Self::Abort,
            1 => Self::Commit,
            2 => Self::LeaderChange,
            3 => Self::SnapshotHeader,
            4 => Self::SnapshotFooter,
            5 => Self::KRaftVersion,
            6 => Self::KRaftVoters,
            _ => Self::Unknown(id),
        }
    }

    /// Reads the key of a control record: a version, which only grows at its end, and the type.
    /// `None` if it is no such key.
    #[must_use]
    pub fn read(key: &[u8]) -> Option<Self> {
        let (version, rest) = key.split_first_chunk::<2>()?;
        let (id, _) = rest.split_first_chunk::<2>()?;
        (i16::from_be_bytes(*version) >= 0).then(|| Self::from_id(i16::from_be_bytes(*id)))
    }

    /// The key of a control record of this type.
    #[must_use]
    pub const fn key(self) -> [u8; 4] {
        let [high, low] = self.id().to_be_bytes();
        [0, 0, high, low]
    }
}

/// The record that ends a transaction on one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndTxnMarker {
    /// Whether the transaction was committed, else aborted.
    pub commit: bool,
    /// Epoch of the transaction coordinator that wrote it; fences older coordinators.
    pub coordinator_epoch: i32,
}

impl EndTxnMarker {
    /// Reads a control record; `None` if it is no transaction marker.
    #[must_use]
    pub fn read(record: &Record<'_>) -> Option<Self> {
        let commit = match ControlType::read(record.key?)? {
            ControlType::Commit => true,
            ControlType::Abort => false,
            _ => return None,
        };
        let (version, rest) = record.value?.split_first_chunk::<2>()?;
        if i16::from_be_bytes(*version) < 0 {
            return None;
        }
        let epoch = rest.first_chunk::<4>()?;
        Some(Self { commit, coordinator_epoch: i32::from_be_bytes(*epoch) })
    }

    /// The batch that holds this marker for the producer, stamped `now_ms`. Offset and leader
    /// epoch are for the leader to assign.
    #[must_use]
    pub fn batch(&self, producer_id: i64, producer_epoch: i16, now_ms: i64) -> Bytes {
        let kind = if self.commit { ControlType::Commit } else { ControlType::Abort };
        let mut value = [0; 6];
        if let Some(epoch) = value.last_chunk_mut::<4>() {
            *epoch = self.coordinator_epoch.to_be_bytes();
        }
        let builder = BatchBuilder::default().transactional();
        one(builder.producer(producer_id, producer_epoch, -1), kind, &value, now_ms)
    }
}

/// A batch of one control record that no producer wrote, as a Raft leader appends.
#[must_use]
pub fn control_batch(
    kind: ControlType,
    value: &[u8],
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    now_ms: i64,
) -> Bytes {
    let builder = BatchBuilder::default().base_offset(base_offset).leader_epoch(leader_epoch);
    one(builder, kind, value, now_ms)
}

fn one(builder: BatchBuilder, kind: ControlType, value: &[u8], now_ms: i64) -> Bytes {
    let mut builder = builder.control();
    // Only a value of 2 GiB could be refused.
    let added = builder.append(now_ms, Some(&kind.key()), Some(value), &[]);
    debug_assert!(added.is_ok(), "{added:?}");
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{BatchHeader, Records, batch::check_crc},
        *,
    };

    #[test]
    fn markers_go_both_ways() {
        for commit in [true, false] {
            let marker = EndTxnMarker { commit, coordinator_epoch: 77 };
            let bytes = marker.batch(4000, 5, 1234);
            let h = BatchHeader::read(&bytes).unwrap();
            check_crc(&h, &bytes).unwrap();
            assert!(h.is_control() && h.is_transactional());
            assert_eq!((h.producer_id, h.producer_epoch, h.base_sequence), (4000, 5, -1));
            assert_eq!((h.records_count, h.max_timestamp), (1, 1234));
            let record = Records::new(&bytes[61..], 1).next().unwrap().unwrap();
            assert_eq!(EndTxnMarker::read(&record), Some(marker));
        }
    }

    #[test]
    fn other_control_records_are_no_markers() {
        let bytes = control_batch(ControlType::LeaderChange, b"\0\0", 10, 2, 9);
        let h = BatchHeader::read(&bytes).unwrap();
        assert_eq!((h.base_offset, h.partition_leader_epoch, h.producer_id), (10, 2, -1));
        assert!(h.is_control() && !h.is_transactional());
        let record = Records::new(&bytes[61..], 1).next().unwrap().unwrap();
        assert_eq!(EndTxnMarker::read(&record), None);
        assert_eq!(ControlType::read(record.key.unwrap()), Some(ControlType::LeaderChange));
        assert_eq!(ControlType::read(b"\0\0\0"), None);
        assert_eq!(ControlType::read(&[0xff, 0xff, 0, 0]), None);
    }
}
