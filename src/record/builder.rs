//! Building batches: for internal topics, the metadata log, tests, and where the broker must write
//! a batch anew. Pure.

use bytes::Bytes;

use super::{
    batch::{self, BATCH_BODY_AT, BatchHeader},
    compress::{Compression, compress},
    records::{put_varint, varint_len},
};
use crate::base::{LeaderEpoch, Offset};

/// A record does not fit: the batch would pass its limit. The batch is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the batch has {size} bytes, of which at most {limit} may be: a record of {record} is too much"
)]
pub struct BatchFull {
    /// Bytes in the batch.
    pub size: usize,
    /// Bytes that may be.
    pub limit: usize,
    /// Bytes of the record.
    pub record: usize,
}

/// A header of a record: key and value.
pub type RecordHeader<'a> = (&'a [u8], Option<&'a [u8]>);

/// A batch in the making. Records get consecutive offsets from the base offset on.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    header: BatchHeader,
    compression: Compression,
    append_time: Option<i64>,
    limit: usize,
    /// The header's room, then the records as they are without compression.
    buf: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new(Compression::None)
    }
}

impl BatchBuilder {
    /// An empty batch at offset 0, without leader epoch and producer.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let header = BatchHeader {
            base_offset: 0,
            size: 0,
            partition_leader_epoch: -1,
            crc: 0,
            attributes: i16::from(compression.codec().id()),
            last_offset_delta: -1,
            base_timestamp: -1,
            max_timestamp: -1,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            records_count: 0,
        };
        let limit = usize::try_from(i32::MAX).unwrap_or(usize::MAX);
        let buf = vec![0; BATCH_BODY_AT];
        Self { header, compression, append_time: None, limit, buf }
    }

    /// Sets the offset of the first record.
    #[must_use]
    pub fn base_offset(mut self, offset: Offset) -> Self {
        self.header.base_offset = offset;
        self
    }

    /// Sets the epoch of the leader that appends it.
    #[must_use]
    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> Self {
        self.header.partition_leader_epoch = epoch;
        self
    }

    /// Names the producer and the sequence of the first record (-1 in a control batch).
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.header.producer_id = id;
        self.header.producer_epoch = epoch;
        self.header.base_sequence = base_sequence;
        self
    }

    /// Makes it part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.header.attributes |= batch::TRANSACTIONAL;
        self
    }

    /// Makes its records control records.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.header.attributes |= batch::CONTROL;
        self
    }

    /// Stamps the batch with the broker's time instead of the records' own.
    #[must_use]
    pub fn append_time(mut self, now_ms: i64) -> Self {
        self.header.attributes |= batch::LOG_APPEND_TIME;
        self.append_time = Some(now_ms);
        self
    }

    /// Sets the bytes that the batch may have before compression.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes.min(self.limit);
        self
    }

    /// Records so far.
    #[must_use]
    pub fn count(&self) -> i32 {
        self.header.records_count
    }

    /// Whether it has no records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.header.records_count == 0
    }

    /// Bytes so far, the header counted in, before compression.
    #[must_use]
    pub fn size(&self) -> usize {
        self.buf.len()
    }

    /// Adds a record and gives its offset delta. `timestamp` is in milliseconds since the Unix
    /// epoch, or -1 for none; the first becomes the base timestamp.
    ///
    /// # Errors
    /// `BatchFull` if the batch would pass its limit; a first record is subject to it too.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader<'_>],
    ) -> Result<i32, BatchFull> {
        let delta = self.header.records_count;
        let base = if delta == 0 { timestamp } else { self.header.base_timestamp };
        let timestamp_delta = timestamp.wrapping_sub(base);
        let body = 1usize
            .saturating_add(varint_len(timestamp_delta))
            .saturating_add(varint_len(i64::from(delta)))
            .saturating_add(field_len(key))
            .saturating_add(field_len(value))
            .saturating_add(varint_len(length(headers.len())))
            .saturating_add(headers.iter().fold(0, |n: usize, (k, v)| {
                n.saturating_add(field_len(Some(k))).saturating_add(field_len(*v))
            }));
        let record = body.saturating_add(varint_len(length(body)));
        if self.buf.len().saturating_add(record) > self.limit {
            return Err(BatchFull { size: self.buf.len(), limit: self.limit, record });
        }
        self.buf.reserve(record);
        put_varint(&mut self.buf, length(body));
        self.buf.push(0);
        put_varint(&mut self.buf, timestamp_delta);
        put_varint(&mut self.buf, i64::from(delta));
        self.put_field(key);
        self.put_field(value);
        put_varint(&mut self.buf, length(headers.len()));
        for (k, v) in headers {
            self.put_field(Some(k));
            self.put_field(*v);
        }
        self.header.base_timestamp = base;
        self.header.max_timestamp = self.header.max_timestamp.max(timestamp);
        self.header.last_offset_delta = delta;
        self.header.records_count = delta.saturating_add(1);
        Ok(delta)
    }

    fn put_field(&mut self, bytes: Option<&[u8]>) {
        put_varint(&mut self.buf, bytes.map_or(-1, |b| length(b.len())));
        self.buf.extend_from_slice(bytes.unwrap_or_default());
    }

    /// Compresses and seals the batch. Should the codec have no memory, the batch is left
    /// uncompressed, which every reader takes.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        if let Some(now_ms) = self.append_time {
            self.header.max_timestamp = now_ms;
        }
        let section = self.buf.get(BATCH_BODY_AT..).unwrap_or_default();
        if let Some(batch) = pack(self.header, self.compression, section) {
            return Bytes::from(batch);
        }
        self.header.attributes &= !i16::from(self.compression.codec().id());
        self.header.size = self.buf.len();
        finish_in_place(&self.header, &mut self.buf);
        Bytes::from(self.buf)
    }
}

/// A batch of `section`, records as they are without compression, under `header`, whose codec bits,
/// size and CRC are made to fit. `None` if nothing is to be compressed or the codec fails.
fn pack(mut header: BatchHeader, compression: Compression, section: &[u8]) -> Option<Vec<u8>> {
    if compression == Compression::None {
        return None;
    }
    let mut out = Vec::with_capacity(BATCH_BODY_AT.saturating_add(section.len() / 2));
    out.resize(BATCH_BODY_AT, 0);
    compress(compression, section, &mut out).ok()?;
    header.size = out.len();
    finish_in_place(&header, &mut out);
    Some(out)
}

pub(super) fn finish_in_place(header: &BatchHeader, batch: &mut [u8]) {
    if let Some(head) = batch.first_chunk_mut() {
        *head = header.to_bytes();
    }
    batch::seal(batch);
}

/// Writes a batch with the same records under another codec. `section` is what `header`'s batch
/// holds, inflated.
pub(super) fn recompress(header: &BatchHeader, how: Compression, section: &[u8]) -> Bytes {
    let mut header = *header;
    header.attributes = (header.attributes & !0x07) | i16::from(how.codec().id());
    if let Some(batch) = pack(header, how, section) {
        return Bytes::from(batch);
    }
    header.attributes &= !0x07;
    let mut out = Vec::with_capacity(BATCH_BODY_AT.saturating_add(section.len()));
    out.resize(BATCH_BODY_AT, 0);
    out.extend_from_slice(section);
    header.size = out.len();
    finish_in_place(&header, &mut out);
    Bytes::from(out)
}

fn length(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn field_len(bytes: Option<&[u8]>) -> usize {
    match bytes {
        None => 1,
        Some(b) => varint_len(length(b.len())).saturating_add(b.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Records, Scratch, batch::check_crc, compress::Codec, records::section},
        *,
    };

    #[test]
    fn what_was_appended_is_read_back() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut b = BatchBuilder::new(Compression::of(codec))
                .base_offset(70)
                .leader_epoch(3)
                .producer(9, 2, i32::MAX - 1)
                .transactional();
            b.append(1000, Some(b"k"), Some(b"v"), &[(b"h", None), (b"", Some(b"x"))]).unwrap();
            b.append(900, None, None, &[]).unwrap();
            assert_eq!(b.append(1500, Some(b""), Some(&[7; 300]), &[]), Ok(2));
            let bytes = b.finish();
            let h = BatchHeader::read(&bytes).unwrap();
            check_crc(&h, &bytes).unwrap();
            assert_eq!((h.size, h.base_offset, h.last_offset()), (bytes.len(), 70, 72));
            assert_eq!((h.base_timestamp, h.max_timestamp), (1000, 1500));
            assert_eq!(h.last_sequence(), 0, "sequences wrap to 0");
            assert_eq!((h.codec(), h.is_transactional()), (codec.id(), true));
            assert_eq!(h.to_bytes()[..], bytes[..BATCH_BODY_AT]);
            let inner = section(&h, &bytes, 1000, &mut Scratch::default()).unwrap();
            let got: Vec<_> =
                Records::new(&inner, h.records_count).collect::<Result<_, _>>().unwrap();
            assert_eq!(
                got[0].headers().collect::<Vec<_>>(),
                [(&b"h"[..], None), (b"", Some(&b"x"[..]))]
            );
            assert_eq!((got[1].timestamp_delta, got[1].key, got[1].value), (-100, None, None));
            assert_eq!((got[2].offset_delta, got[2].key), (2, Some(&b""[..])));
        }
    }

    #[test]
    fn a_full_batch_takes_no_more() {
        let mut b = BatchBuilder::default().limit(100);
        b.append(0, None, Some(&[0; 20]), &[]).unwrap();
        let before = b.size();
        let got = b.append(0, None, Some(&[0; 40]), &[]);
        assert_eq!(got, Err(BatchFull { size: before, limit: 100, record: 47 }));
        assert_eq!((b.count(), b.size()), (1, before));
    }

    #[test]
    fn append_time_covers_all_records() {
        let mut b = BatchBuilder::default().append_time(5000);
        b.append(9000, None, None, &[]).unwrap();
        let h = BatchHeader::read(&b.finish()).unwrap();
        assert!(h.is_log_append_time());
        assert_eq!((h.base_timestamp, h.max_timestamp), (9000, 5000));
    }
}
