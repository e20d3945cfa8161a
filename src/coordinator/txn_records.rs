//! The records of `__transaction_state` (`TransactionLogKey.json`, `TransactionLogValue.json`): key
//! of type 0, values of versions 0 and 1, byte for byte Kafka's. Pure.
//!
//! Decoding never allocates more than the bytes at hand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

pub use super::codec::RecordError;
use super::codec::{Reader, Writer};
use crate::base::PartitionId;

const KEY: i16 = 0;
/// The first flexible value version, and the newest (KIP-890).
const FLEXIBLE: i16 = 1;
/// What stands where there is no producer id.
pub const NO_PRODUCER_ID: i64 = -1;
/// What stands where there is no producer epoch.
pub const NO_PRODUCER_EPOCH: i16 = -1;

/// A partition of a topic.
pub type TopicPartition = (Arc<str>, PartitionId);

/// Where a transactional id stands (`TransactionState.java`). The numbers are those of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TxnState {
    /// A producer is known; it has begun nothing.
    Empty = 0,
    /// A transaction is open.
    Ongoing = 1,
    /// It will be committed: that is decided and durable.
    PrepareCommit = 2,
    /// It will be aborted: that is decided and durable.
    PrepareAbort = 3,
    /// Every partition has its commit marker.
    CompleteCommit = 4,
    /// Every partition has its abort marker.
    CompleteAbort = 5,
}

impl TxnState {
    const ALL: [Self; 6] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
    ];

    /// Kafka's name, as DescribeTransactions shows it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
        }
    }

    /// Whether the end is decided and markers are being written.
    #[must_use]
    pub const fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    const fn code(self) -> i8 {
        self as i8
    }

    fn of_code(code: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.code() == code)
    }
}

/// One change of a transactional id; no value means that it is forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnRecord {
    /// The transactional id.
    pub id: Arc<str>,
    /// Its state.
    pub value: Option<TxnValue>,
}

/// The state of a transactional id (`TransactionMetadata.java`). Times are in milliseconds since
/// the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnValue {
    /// The producer id in use.
    pub producer_id: i64,
    /// The producer id of the state before this one; -1 if there was none.
    pub previous_producer_id: i64,
    /// The producer id that takes over when the transaction is complete, because the epochs of the
    /// one in use are exhausted; -1 if none does.
    pub next_producer_id: i64,
    /// The epoch in use; -1 before the first one is durable.
    pub producer_epoch: i16,
    /// The epoch before it, by which a repeated InitProducerId is recognised (KIP-360); -1 if
    /// unknown. Kept in memory only, as in Kafka.
    pub last_producer_epoch: i16,
    /// How long a transaction may be open, in milliseconds.
    pub timeout_ms: i32,
    /// Where it stands.
    pub state: TxnState,
    /// The partitions that were added; none in `Empty` and `Complete…`.
    pub partitions: BTreeSet<TopicPartition>,
    /// When it changed last.
    pub last_update_ms: i64,
    /// When the transaction began; -1 if none did.
    pub start_ms: i64,
    /// The `transaction.version` that the client lives by, as of its last change.
    pub client_version: i16,
}

impl TxnRecord {
    /// Key and value as they stand in the log; no value is a tombstone. Version 0 of the value
    /// lacks the previous and the next producer id and the client's version.
    ///
    /// # Errors
    /// `TooLong` if a string has more than 32767 bytes where the format allows no more.
    pub fn encode(&self, version: i16) -> Result<(Bytes, Option<Bytes>), RecordError> {
        let mut key = Writer::default();
        key.i16(KEY);
        key.string("transactionalId", &self.id)?;
        let value = self.value.as_ref().map(|v| v.encode(version >= FLEXIBLE)).transpose()?;
        Ok((key.done(), value))
    }

    /// Reads a record of the log; `None` for a key of another type.
    ///
    /// # Errors
    /// `Malformed`, `UnknownVersion`.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Option<Self>, RecordError> {
        let mut key = Reader::new(key);
        if key.i16("key type")? != KEY {
            return Ok(None);
        }
        let id = key.string("transactionalId")?;
        let value = value.map(TxnValue::decode).transpose()?;
        Ok(Some(Self { id, value }))
    }

    /// Bytes of the record, about.
    #[must_use]
    pub fn len_about(&self) -> usize {
        let partitions = self.value.as_ref().map_or(0, |v| v.partitions.len());
        self.id.len() + 80 + partitions * 16
    }
}

impl TxnValue {
    fn encode(&self, flexible: bool) -> Result<Bytes, RecordError> {
        let mut out = Writer::default();
        out.i16(if flexible { FLEXIBLE } else { 0 });
        out.i64(self.producer_id);
        out.i16(self.producer_epoch);
        out.i32(self.timeout_ms);
        out.raw(&self.state.code().to_be_bytes());
        self.encode_partitions(&mut out, flexible)?;
        out.i64(self.last_update_ms);
        out.i64(self.start_ms);
        if flexible {
            self.encode_tags(&mut out);
        }
        Ok(out.done())
    }

    /// Null in `Empty`; else by topic.
    fn encode_partitions(&self, out: &mut Writer, flexible: bool) -> Result<(), RecordError> {
        if self.state == TxnState::Empty {
            match flexible {
                true => out.uvarint(0),
                false => out.i32(-1),
            }
            return Ok(());
        }
        let mut topics: BTreeMap<&Arc<str>, Vec<PartitionId>> = BTreeMap::new();
        for (topic, partition) in &self.partitions {
            topics.entry(topic).or_default().push(*partition);
        }
        count(out, flexible, topics.len())?;
        for (topic, partitions) in topics {
            match flexible {
                true => out.compact_string(topic),
                false => out.string("topic", topic)?,
            }
            count(out, flexible, partitions.len())?;
            for partition in partitions {
                out.i32(partition);
            }
            if flexible {
                out.uvarint(0);
            }
        }
        Ok(())
    }

    fn encode_tags(&self, out: &mut Writer) {
        let ids = [(0, self.previous_producer_id), (1, self.next_producer_id)];
        let ids = ids.into_iter().filter(|(_, id)| *id != NO_PRODUCER_ID);
        let versioned = self.client_version != 0;
        out.uvarint(u32::try_from(ids.clone().count()).unwrap_or(0) + u32::from(versioned));
        for (tag, id) in ids {
            out.uvarint(tag);
            out.uvarint(8);
            out.i64(id);
        }
        if versioned {
            out.uvarint(2);
            out.uvarint(2);
            out.i16(self.client_version);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (mut value, _) = Reader::versioned(bytes, FLEXIBLE, FLEXIBLE)?;
        let producer_id = value.i64("producerId")?;
        let producer_epoch = value.i16("producerEpoch")?;
        let timeout_ms = value.i32("transactionTimeoutMs")?;
        let state = TxnState::of_code(value.i8("transactionStatus")?)
            .ok_or(RecordError::Malformed("transactionStatus"))?;
        let mut partitions = BTreeSet::new();
        // Each topic and partition takes bytes, so a lying count ends here and reserves nothing.
        for _ in 0..value.length("transactionPartitions")?.unwrap_or(0) {
            let topic = value.string("topic")?;
            let ids =
                value.length("partitionIds")?.ok_or(RecordError::Malformed("partitionIds"))?;
            for _ in 0..ids {
                partitions.insert((topic.clone(), value.i32("partitionId")?));
            }
            value.tags(|_, _| Ok(()))?;
        }
        let last_update_ms = value.i64("transactionLastUpdateTimestampMs")?;
        let start_ms = value.i64("transactionStartTimestampMs")?;
        let (mut previous_producer_id, mut next_producer_id) = (NO_PRODUCER_ID, NO_PRODUCER_ID);
        let mut client_version = 0;
        value.tags(|tag, bytes| {
            let mut field = Reader::new(bytes);
            match tag {
                0 => previous_producer_id = field.i64("previousProducerId")?,
                1 => next_producer_id = field.i64("nextProducerId")?,
                2 => client_version = field.i16("clientTransactionVersion")?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self {
            producer_id,
            previous_producer_id,
            next_producer_id,
            producer_epoch,
            last_producer_epoch: NO_PRODUCER_EPOCH,
            timeout_ms,
            state,
            partitions,
            last_update_ms,
            start_ms,
            client_version,
        })
    }
}

fn count(out: &mut Writer, flexible: bool, n: usize) -> Result<(), RecordError> {
    let field = "transactionPartitions";
    match flexible {
        true => {
            let n = u32::try_from(n).map_err(|_| RecordError::TooLong(field))?;
            out.uvarint(n.saturating_add(1));
            Ok(())
        }
        false => out.length(field, n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|d| u8::try_from(d[0] * 16 + d[1]).unwrap()).collect()
    }

    fn value() -> TxnValue {
        TxnValue {
            producer_id: 4001,
            previous_producer_id: 4000,
            next_producer_id: -1,
            producer_epoch: 7,
            last_producer_epoch: -1,
            timeout_ms: 60_000,
            state: TxnState::Ongoing,
            partitions: BTreeSet::from([("a".into(), 0), ("a".into(), 2), ("b".into(), 1)]),
            last_update_ms: 1_700_000_000_123,
            start_ms: 1_700_000_000_000,
            client_version: 2,
        }
    }

    fn record(value: Option<TxnValue>) -> TxnRecord {
        TxnRecord { id: "tx".into(), value }
    }

    const KEY_BYTES: &str = "000000027478";
    /// Laid out by hand after the schema: version, id, epoch, timeout, status, partitions, times.
    const V0: &str = "0000 0000000000000fa1 0007 0000ea60 01 \
        00000002 0001 61 00000002 00000000 00000002 0001 62 00000001 00000001 \
        0000018bcfe5687b 0000018bcfe56800";
    const V1: &str = "0001 0000000000000fa1 0007 0000ea60 01 \
        03 02 61 03 00000000 00000002 00 02 62 02 00000001 00 \
        0000018bcfe5687b 0000018bcfe56800 02 00 08 0000000000000fa0 02 02 0002";
    const EMPTY_V0: &str = "0000 0000000000000fa1 0000 0000ea60 00 ffffffff \
        0000018bcfe5687b ffffffffffffffff";
    const EMPTY_V1: &str = "0001 0000000000000fa1 0000 0000ea60 00 00 \
        0000018bcfe5687b ffffffffffffffff 00";

    #[test]
    fn bytes_follow_the_schema() {
        let empty = TxnValue {
            state: TxnState::Empty,
            partitions: BTreeSet::new(),
            producer_epoch: 0,
            previous_producer_id: -1,
            client_version: 0,
            start_ms: -1,
            ..value()
        };
        for (version, value, bytes) in
            [(0, value(), V0), (1, value(), V1), (0, empty.clone(), EMPTY_V0), (1, empty, EMPTY_V1)]
        {
            let (key, encoded) = record(Some(value.clone())).encode(version).unwrap();
            assert_eq!((key.to_vec(), encoded.unwrap().to_vec()), (hex(KEY_BYTES), hex(bytes)));
            let read = TxnRecord::decode(&hex(KEY_BYTES), Some(&hex(bytes))).unwrap().unwrap();
            let mut expected = value;
            if version == 0 {
                expected.previous_producer_id = -1;
                expected.client_version = 0;
            }
            assert_eq!(read, record(Some(expected)));
        }
        assert_eq!(record(None).encode(1).unwrap(), (hex(KEY_BYTES).into(), None));
        assert_eq!(TxnRecord::decode(&hex(KEY_BYTES), None), Ok(Some(record(None))));
    }

    #[test]
    fn damage_is_told_and_other_keys_are_passed_over() {
        assert_eq!(TxnRecord::decode(&hex("00010001 61"), Some(&[])), Ok(None));
        let newer = TxnRecord::decode(&hex(KEY_BYTES), Some(&hex("0002")));
        assert_eq!(newer, Err(RecordError::UnknownVersion(2)));
        for bytes in [V0, V1] {
            let whole = hex(bytes);
            for cut in 0..whole.len() {
                let read = TxnRecord::decode(&hex(KEY_BYTES), Some(&whole[..cut]));
                assert!(read.is_err(), "cut at {cut}: {read:?}");
            }
        }
        // The log never holds Dead or PrepareEpochFence.
        let dead = V0.replacen("0000ea60 01", "0000ea60 06", 1);
        assert!(TxnRecord::decode(&hex(KEY_BYTES), Some(&hex(&dead))).is_err());
    }
}
