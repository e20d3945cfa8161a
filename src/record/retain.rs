//! What log compaction leaves of a batch (`MemoryRecords.filterTo`, KIP-534): the batch as it is, a
//! batch with some of its records, or its bare header. Pure. Offsets never change, nor does the last
//! offset of a batch: a producer's last sequence hangs on it.

use super::{
    batch::{self, BATCH_BODY_AT, BatchHeader, DELETE_HORIZON, LOG_APPEND_TIME},
    builder::{finish_in_place, recompress},
    compress::{Codec, Compression, Scratch},
    records::{Feed as _, Record, RecordError, SliceFeed, put_varint, section, shape, varint_len},
};
use crate::base::limits::BATCH_HEADER_BYTES;

/// What is left of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Every record, and the header as it is: the batch is to be copied. Nothing was written.
    Whole,
    /// A batch written anew.
    Rewritten,
    /// No record. Nothing was written.
    Nothing,
}

/// What a pass over a batch found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filtered {
    /// What is left.
    pub left: Left,
    /// Records looked at.
    pub read: u32,
    /// Records kept.
    pub kept: u32,
}

/// When what is deleted by a tombstone or marker may itself go (KIP-534).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// The delete horizon, in milliseconds, that a batch gets which keeps a tombstone and has none.
    pub at_ms: i64,
    /// It gets one though it keeps no tombstone: the marker of a transaction that is gone.
    pub marker: bool,
}

/// Where a record that stays lies in its section.
#[derive(Debug, Clone, Copy)]
struct Span {
    /// Behind the timestamp delta.
    rest: usize,
    end: usize,
    timestamp_delta: i64,
}

/// Writes batches with fewer records, with buffers reused from batch to batch.
#[derive(Debug, Default)]
pub struct Retainer {
    spans: Vec<Span>,
    section: Vec<u8>,
    scratch: Scratch,
}

impl Retainer {
    /// Lets `keep` look at every record of `batch`, whose header is `header` and of which at most
    /// `limit` bytes may come out of a codec. A batch written anew is appended to `out`, compressed
    /// by the same codec.
    ///
    /// # Errors
    /// If the records cannot be read, or are not all there is. `out` is as it was.
    pub fn filter(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        limit: usize,
        horizon: Horizon,
        mut keep: impl FnMut(&Record<'_>) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<Filtered, RecordError> {
        let Self { spans, section: buffer, scratch } = self;
        let bytes = section(header, batch, limit, scratch)?;
        spans.clear();
        let (mut feed, mut read, mut tombstones) = (SliceFeed::new(&bytes), 0u32, false);
        for _ in 0..header.records_count {
            let found = shape(&mut feed)?;
            let record = found.lend(&bytes, feed.taken());
            read = read.saturating_add(1);
            if keep(&record) {
                tombstones |= record.value.is_none();
                let (rest, end) = (found.timestamp_end, feed.taken());
                spans.push(Span { rest, end, timestamp_delta: record.timestamp_delta });
            }
        }
        if !feed.is_at_end()? {
            return Err(RecordError::Malformed("bytes follow the last record"));
        }
        let kept = u32::try_from(spans.len()).unwrap_or(u32::MAX);
        let answer = |left| Ok(Filtered { left, read, kept });
        let Some(first) = spans.first() else { return answer(Left::Nothing) };
        let known = header.delete_horizon_ms();
        let new = (tombstones || horizon.marker).then_some(horizon.at_ms.max(0));
        let wanted = known.or(new);
        if kept == read && wanted == known {
            return answer(Left::Whole);
        }
        let time = |delta: i64| header.base_timestamp.saturating_add(delta);
        let mut new = *header;
        new.base_timestamp = wanted.unwrap_or_else(|| time(first.timestamp_delta));
        if wanted.is_some() {
            new.attributes |= DELETE_HORIZON;
        }
        if !header.is_log_append_time() {
            let max = spans.iter().map(|s| time(s.timestamp_delta)).max();
            new.max_timestamp = max.unwrap_or(-1);
        }
        new.records_count = i32::try_from(kept).unwrap_or(i32::MAX);
        let codec = Codec::from_id(header.codec())?;
        if codec == Codec::None {
            let at = out.len();
            out.resize(at.saturating_add(BATCH_BODY_AT), 0);
            put_records(out, &bytes, spans, &|delta| time(delta).wrapping_sub(new.base_timestamp));
            new.size = out.len().saturating_sub(at);
            finish_in_place(&new, out.get_mut(at..).unwrap_or_default());
        } else {
            buffer.clear();
            put_records(buffer, &bytes, spans, &|delta| {
                time(delta).wrapping_sub(new.base_timestamp)
            });
            out.extend_from_slice(&recompress(&new, Compression::of(codec), buffer));
        }
        answer(Left::Rewritten)
    }

    /// Lets `each` look at the records of `batch` until it says false. Tells whether it never did.
    ///
    /// # Errors
    /// As [`Retainer::filter`].
    pub fn walk(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        limit: usize,
        mut each: impl FnMut(&Record<'_>) -> bool,
    ) -> Result<bool, RecordError> {
        let bytes = section(header, batch, limit, &mut self.scratch)?;
        let mut feed = SliceFeed::new(&bytes);
        for _ in 0..header.records_count {
            let found = shape(&mut feed)?;
            if !each(&found.lend(&bytes, feed.taken())) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The records of `spans`, with timestamps counted anew by `delta`.
fn put_records(out: &mut Vec<u8>, bytes: &[u8], spans: &[Span], delta: &dyn Fn(i64) -> i64) {
    for span in spans {
        let rest = bytes.get(span.rest..span.end).unwrap_or_default();
        let delta = delta(span.timestamp_delta);
        let body = rest.len().saturating_add(varint_len(delta)).saturating_add(1);
        put_varint(out, i64::try_from(body).unwrap_or(i64::MAX));
        out.push(0);
        put_varint(out, delta);
        out.extend_from_slice(rest);
    }
}

/// The bare header of a batch of which no record is left but which must be remembered: its offsets,
/// its producer, its sequences, its largest timestamp (`DefaultRecordBatch.writeEmptyHeader`).
#[must_use]
pub fn emptied(header: &BatchHeader) -> [u8; BATCH_HEADER_BYTES] {
    let kept = LOG_APPEND_TIME | batch::TRANSACTIONAL | batch::CONTROL;
    let new = BatchHeader {
        size: BATCH_HEADER_BYTES,
        attributes: header.attributes & kept,
        base_timestamp: -1,
        records_count: 0,
        ..*header
    };
    let mut out = new.to_bytes();
    batch::seal(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::{
        super::{BatchBuilder, Records, batch::check_crc},
        *,
    };

    const NEVER: Horizon = Horizon { at_ms: 77_000, marker: false };

    fn sample(codec: Codec) -> Vec<u8> {
        let mut b = BatchBuilder::new(Compression::of(codec))
            .base_offset(40)
            .leader_epoch(3)
            .producer(9, 2, 5);
        b.append(1000, Some(b"a"), Some(&[7; 200]), &[(b"h", Some(b"x"))]).unwrap();
        b.append(5000, Some(b"b"), Some(b"two"), &[]).unwrap();
        b.append(900, Some(b"c"), Some(b"three"), &[]).unwrap();
        b.append(1500, Some(b"d"), None, &[]).unwrap();
        b.finish().to_vec()
    }

    /// Offset, timestamp, key, number of headers.
    type Row = (i64, i64, Vec<u8>, i32);

    /// What a batch holds.
    fn read(bytes: &[u8]) -> (BatchHeader, Vec<Row>) {
        let h = BatchHeader::read(bytes).unwrap();
        assert_eq!(h.size, bytes.len());
        check_crc(&h, bytes).unwrap();
        let inner = section(&h, bytes, 9999, &mut Scratch::default()).unwrap().into_owned();
        let all = Records::new(&inner, h.records_count).map(|r| {
            let r = r.unwrap();
            let (at, stamp) = (i64::from(r.offset_delta), r.timestamp_delta);
            let key = r.key.unwrap().to_vec();
            (h.base_offset + at, h.base_timestamp + stamp, key, r.headers_count)
        });
        let all = all.collect();
        (h, all)
    }

    #[test]
    fn what_stays_keeps_offset_time_and_sequence_with_every_codec() {
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let (bytes, mut retainer, mut out) = (sample(codec), Retainer::default(), vec![1, 2]);
            let h = BatchHeader::read(&bytes).unwrap();
            let keep = |r: &Record<'_>| r.key != Some(b"b") && r.value.is_some();
            let done = retainer.filter(&h, &bytes, 9999, NEVER, keep, &mut out).unwrap();
            assert_eq!(done, Filtered { left: Left::Rewritten, read: 4, kept: 2 });
            assert_eq!(out[..2], [1, 2], "what was there stays");
            let (new, records) = read(&out[2..]);
            let want = [(40, 1000, b"a".to_vec(), 1), (42, 900, b"c".to_vec(), 0)];
            assert_eq!(records, want);
            assert_eq!((new.base_offset, new.last_offset()), (40, 43));
            assert_eq!(new.last_sequence(), h.last_sequence());
            assert_eq!((new.max_timestamp, new.delete_horizon_ms()), (1000, None));
            assert_eq!((new.codec(), new.partition_leader_epoch), (codec.id(), 3));
        }
    }

    #[test]
    fn a_tombstone_gets_its_horizon_once() {
        let (bytes, mut retainer, mut out) = (sample(Codec::None), Retainer::default(), Vec::new());
        let h = BatchHeader::read(&bytes).unwrap();
        let done = retainer.filter(&h, &bytes, 9999, NEVER, |_| true, &mut out).unwrap();
        assert_eq!((done.left, done.kept), (Left::Rewritten, 4));
        let (new, records) = read(&out);
        assert_eq!((new.delete_horizon_ms(), new.max_timestamp), (Some(77_000), 5000));
        assert_eq!(records[2], (42, 900, b"c".to_vec(), 0), "timestamps stay");
        let later = Horizon { at_ms: 99_000, marker: true };
        let mut again = Vec::new();
        let done = retainer.filter(&new, &out, 9999, later, |_| true, &mut again).unwrap();
        assert_eq!((done.left, again.len()), (Left::Whole, 0));
        let live = |r: &Record<'_>| r.value.is_some();
        retainer.filter(&new, &out, 9999, later, live, &mut again).unwrap();
        assert_eq!(read(&again).0.delete_horizon_ms(), Some(77_000));
    }

    #[test]
    fn nothing_left_and_the_bare_header() {
        let (bytes, mut retainer, mut out) = (sample(Codec::Lz4), Retainer::default(), Vec::new());
        let h = BatchHeader::read(&bytes).unwrap();
        let done = retainer.filter(&h, &bytes, 9999, NEVER, |_| false, &mut out).unwrap();
        assert_eq!((done.left, out.len()), (Left::Nothing, 0));
        let (empty, records) = read(&emptied(&h));
        assert!(records.is_empty());
        assert_eq!((empty.base_offset, empty.last_offset(), empty.max_timestamp), (40, 43, 5000));
        assert_eq!((empty.producer_id, empty.last_sequence(), empty.codec()), (9, 8, 0));
        let done = retainer.filter(&empty, &emptied(&h), 99, NEVER, |_| true, &mut out).unwrap();
        assert_eq!((done.left, done.read), (Left::Nothing, 0));
    }

    #[test]
    fn damage_and_bombs_are_refused_and_leave_no_trace() {
        let mut retainer = Retainer::default();
        let plain = sample(Codec::None);
        let h = BatchHeader::read(&plain).unwrap();
        let mut out = Vec::new();
        for count in [3, 5] {
            let lying = BatchHeader { records_count: count, ..h };
            assert!(retainer.filter(&lying, &plain, 9999, NEVER, |_| true, &mut out).is_err());
        }
        let packed = sample(Codec::Zstd);
        let h = BatchHeader::read(&packed).unwrap();
        assert!(retainer.filter(&h, &packed, 100, NEVER, |_| true, &mut out).is_err());
        assert!(retainer.walk(&h, &packed, 100, |_| true).is_err());
        assert!(out.is_empty());
    }
}
