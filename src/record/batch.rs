//! The fixed header of a record batch v2 (`DefaultRecordBatch.java`): read whole, checked for
//! shape, patched in place. Owns the layout; what the records say is for `validate` and `records`.

use crate::base::{
    Mutant, Offset,
    limits::{BATCH_HEADER_BYTES, LOG_OVERHEAD_BYTES},
    mutant,
};

/// The only magic byte that Kafka 4 accepts.
pub const MAGIC: i8 = 2;

const PARTITION_LEADER_EPOCH_AT: usize = 12;
const CRC_AT: usize = 17;
/// Where the bytes that the CRC covers begin.
pub const CRC_FROM: usize = 21;
/// Where the records section begins.
pub const BATCH_BODY_AT: usize = BATCH_HEADER_BYTES;
const MAX_TIMESTAMP_AT: usize = 35;

/// The lower byte of the attributes, which has all flags.
const ATTRIBUTES_LOW_AT: usize = 22;
const CODEC_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME: i16 = 0x08;
pub(super) const TRANSACTIONAL: i16 = 0x10;
pub(super) const CONTROL: i16 = 0x20;
pub(super) const DELETE_HORIZON: i16 = 0x40;

/// Why bytes are not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does: wait for more, or cut here.
    #[error("the batch is cut short: {have} of {need} bytes")]
    Truncated {
        /// Bytes at hand.
        have: usize,
        /// Bytes the batch says it has.
        need: usize,
    },
    /// The length field is below the header's or negative.
    #[error("a batch cannot be {0} bytes long")]
    BadLength(i64),
    /// Not magic 2.
    #[error("record format v{0} is not supported, only v2")]
    BadMagic(i8),
    /// The checksum does not fit the bytes.
    #[error("crc is {computed:#010x}, the batch says {stored:#010x}")]
    BadCrc {
        /// What the batch says.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
}

/// The header of one batch, by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Length of the whole batch in bytes, the twelve before it counted in.
    pub size: usize,
    /// Epoch of the leader that appended it; -1 from a producer.
    pub partition_leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: i16,
    /// Offset of the last record, less the base offset; kept when the cleaner drops records.
    pub last_offset_delta: i32,
    /// Timestamp the records' deltas count from; with a delete horizon set, that horizon.
    pub base_timestamp: i64,
    /// Largest timestamp of the batch in milliseconds, or the append time.
    pub max_timestamp: i64,
    /// -1 without an idempotent producer.
    pub producer_id: i64,
    /// -1 without an idempotent producer.
    pub producer_epoch: i16,
    /// Sequence of the first record; -1 without.
    pub base_sequence: i32,
    /// Records in the batch.
    pub records_count: i32,
}

/// Whether the first batch of `bytes` says that it belongs to a transaction: one look at a byte,
/// before anything of it is checked.
#[must_use]
pub fn claims_transaction(bytes: &[u8]) -> bool {
    bytes.get(ATTRIBUTES_LOW_AT).is_some_and(|b| i16::from(*b) & TRANSACTIONAL != 0)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`; the rest of the batch need not be there.
    ///
    /// # Errors
    /// `Truncated` below 61 bytes, `BadLength`, `BadMagic`. Does not look at the CRC.
    pub fn read(bytes: &[u8]) -> Result<Self, BatchError> {
        let short = BatchError::Truncated { have: bytes.len(), need: BATCH_HEADER_BYTES };
        let length = i32::from_be_bytes(array(bytes, 8).ok_or(short)?);
        let magic = i8::from_be_bytes(array(bytes, 16).ok_or(short)?);
        if magic != MAGIC {
            return Err(BatchError::BadMagic(magic));
        }
        let size = usize::try_from(length).unwrap_or(0).saturating_add(LOG_OVERHEAD_BYTES);
        if size < BATCH_HEADER_BYTES {
            return Err(BatchError::BadLength(i64::from(length)));
        }
        Ok(Self {
            base_offset: i64::from_be_bytes(array(bytes, 0).ok_or(short)?),
            size,
            partition_leader_epoch: i32::from_be_bytes(
                array(bytes, PARTITION_LEADER_EPOCH_AT).ok_or(short)?,
            ),
            crc: u32::from_be_bytes(array(bytes, CRC_AT).ok_or(short)?),
            attributes: i16::from_be_bytes(array(bytes, CRC_FROM).ok_or(short)?),
            last_offset_delta: i32::from_be_bytes(array(bytes, 23).ok_or(short)?),
            base_timestamp: i64::from_be_bytes(array(bytes, 27).ok_or(short)?),
            max_timestamp: i64::from_be_bytes(array(bytes, MAX_TIMESTAMP_AT).ok_or(short)?),
            producer_id: i64::from_be_bytes(array(bytes, 43).ok_or(short)?),
            producer_epoch: i16::from_be_bytes(array(bytes, 51).ok_or(short)?),
            base_sequence: i32::from_be_bytes(array(bytes, 53).ok_or(short)?),
            records_count: i32::from_be_bytes(array(bytes, 57).ok_or(short)?),
        })
    }

    /// The header as it stands in a batch. With `partition_leader_epoch` and `base_offset` set by
    /// the leader these are the only bytes that an append changes; both lie outside the CRC.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        let length = i32::try_from(self.size.saturating_sub(LOG_OVERHEAD_BYTES));
        put(&mut out, 0, self.base_offset.to_be_bytes());
        put(&mut out, 8, length.unwrap_or(i32::MAX).to_be_bytes());
        put(&mut out, PARTITION_LEADER_EPOCH_AT, self.partition_leader_epoch.to_be_bytes());
        put(&mut out, 16, MAGIC.to_be_bytes());
        put(&mut out, CRC_AT, self.crc.to_be_bytes());
        put(&mut out, CRC_FROM, self.attributes.to_be_bytes());
        put(&mut out, 23, self.last_offset_delta.to_be_bytes());
        put(&mut out, 27, self.base_timestamp.to_be_bytes());
        put(&mut out, MAX_TIMESTAMP_AT, self.max_timestamp.to_be_bytes());
        put(&mut out, 43, self.producer_id.to_be_bytes());
        put(&mut out, 51, self.producer_epoch.to_be_bytes());
        put(&mut out, 53, self.base_sequence.to_be_bytes());
        put(&mut out, 57, self.records_count.to_be_bytes());
        out
    }

    /// Offset of the last record.
    #[must_use]
    pub fn last_offset(&self) -> Offset {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset after the last record.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.last_offset().saturating_add(1)
    }

    /// Sequence of the last record; wraps from 2147483647 to 0; -1 without an idempotent producer.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        // Modulo 2^31: the mask keeps it within i32.
        self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX
    }

    /// The codec's number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    #[must_use]
    pub fn codec(&self) -> u8 {
        (self.attributes & CODEC_MASK).to_le_bytes()[0]
    }

    /// Whether the timestamps are the broker's append time.
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Whether it is part of a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it holds control records, which are never shown to users.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The delete horizon in milliseconds, if one is set (KIP-534).
    #[must_use]
    pub fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Whether an idempotent or transactional producer wrote it.
    #[must_use]
    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }
}

/// CRC-32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Checks the CRC of the whole batch `bytes`, whose header is `header`.
///
/// # Errors
/// `Truncated` if `bytes` end before the batch, `BadCrc` if the bytes changed.
pub fn check_crc(header: &BatchHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let short = BatchError::Truncated { have: bytes.len(), need: header.size };
    let computed = crc32c(bytes.get(CRC_FROM..header.size).ok_or(short)?);
    if computed != header.crc && !mutant(Mutant::CrcUnchecked) {
        return Err(BatchError::BadCrc { stored: header.crc, computed });
    }
    Ok(())
}

fn put<const N: usize>(batch: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(field) = batch.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<N>) {
        *field = value;
    }
}

/// Writes the offset and the leader epoch that the leader gives; both lie outside the CRC.
pub fn assign(batch: &mut [u8], base_offset: Offset, leader_epoch: i32) {
    put(batch, 0, base_offset.to_be_bytes());
    put(batch, PARTITION_LEADER_EPOCH_AT, leader_epoch.to_be_bytes());
}

/// Marks a batch as stamped by the broker at `now_ms` and makes its CRC anew
/// (`message.timestamp.type=LogAppendTime`). `batch` is exactly one batch.
pub fn stamp_append_time(batch: &mut [u8], now_ms: i64) {
    stamp(batch, true, now_ms);
}

/// Sets the largest timestamp of a batch whose records carry their own, and makes its CRC anew.
/// `batch` is exactly one batch.
pub fn stamp_max_timestamp(batch: &mut [u8], max_timestamp: i64) {
    stamp(batch, false, max_timestamp);
}

fn stamp(batch: &mut [u8], append_time: bool, max_timestamp: i64) {
    if let Some(a) = array::<2>(batch, CRC_FROM) {
        let others = i16::from_be_bytes(a) & !LOG_APPEND_TIME;
        let flag = if append_time { LOG_APPEND_TIME } else { 0 };
        put(batch, CRC_FROM, (others | flag).to_be_bytes());
        put(batch, MAX_TIMESTAMP_AT, max_timestamp.to_be_bytes());
        seal(batch);
    }
}

/// Writes the CRC that fits the bytes. `batch` is exactly one batch.
pub(super) fn seal(batch: &mut [u8]) {
    let crc = crc32c(batch.get(CRC_FROM..).unwrap_or_default());
    put(batch, CRC_AT, crc.to_be_bytes());
}

/// Cuts `bytes` into whole batches. Ends at the first that is cut short or has no valid header,
/// which is then the last item.
pub fn batches(bytes: &[u8]) -> impl Iterator<Item = Result<(BatchHeader, &[u8]), BatchError>> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let at = rest.take().filter(|r| !r.is_empty())?;
        let header = match BatchHeader::read(at) {
            Ok(h) => h,
            Err(e) => return Some(Err(e)),
        };
        let Some((batch, after)) = at.split_at_checked(header.size) else {
            return Some(Err(BatchError::Truncated { have: at.len(), need: header.size }));
        };
        rest = Some(after);
        Some(Ok((header, batch)))
    })
}
