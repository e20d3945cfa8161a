//! The records inside a batch (`DefaultRecord.java`): walked without allocation. One parser serves
//! a slice at hand and a stream that inflates piece by piece.

use std::borrow::Cow;

use super::{
    batch::{BATCH_BODY_AT, BatchHeader},
    compress::{Codec, InflateError, Scratch, inflate},
    inflater::Inflater,
};

/// Why bytes are not records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end inside a record.
    #[error("the records end before the last one does")]
    Short,
    /// A field has a value that no record has.
    #[error("a record is malformed: {0}")]
    Malformed(&'static str),
    /// The block does not inflate.
    #[error(transparent)]
    Inflate(#[from] InflateError),
}

/// Where a record's bytes come from.
pub(super) trait Feed {
    /// Takes one byte.
    fn byte(&mut self) -> Result<u8, RecordError>;
    /// Takes `n` bytes and drops them.
    fn skip(&mut self, n: usize) -> Result<(), RecordError>;
    /// Bytes taken so far.
    fn taken(&self) -> usize;
    /// Whether nothing is left.
    fn is_at_end(&mut self) -> Result<bool, RecordError>;
}

/// Records at hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct SliceFeed<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> SliceFeed<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, taken: 0 }
    }
}

impl Feed for SliceFeed<'_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        let (first, rest) = self.rest.split_first().ok_or(RecordError::Short)?;
        self.rest = rest;
        self.taken = self.taken.wrapping_add(1);
        Ok(*first)
    }

    #[inline]
    fn skip(&mut self, n: usize) -> Result<(), RecordError> {
        self.rest = self.rest.get(n..).ok_or(RecordError::Short)?;
        self.taken = self.taken.wrapping_add(n);
        Ok(())
    }

    fn taken(&self) -> usize {
        self.taken
    }

    fn is_at_end(&mut self) -> Result<bool, RecordError> {
        Ok(self.rest.is_empty())
    }
}

/// Records that are inflated as they are walked.
pub(super) struct StreamFeed<'a, 's> {
    inflater: Inflater<'a, 's>,
    taken: usize,
}

impl<'a, 's> StreamFeed<'a, 's> {
    pub(super) const fn new(inflater: Inflater<'a, 's>) -> Self {
        Self { inflater, taken: 0 }
    }
}

impl Feed for StreamFeed<'_, '_> {
    #[inline]
    fn byte(&mut self) -> Result<u8, RecordError> {
        let byte = *self.inflater.fill()?.first().ok_or(RecordError::Short)?;
        self.inflater.consume(1);
        self.taken = self.taken.wrapping_add(1);
        Ok(byte)
    }

    fn skip(&mut self, n: usize) -> Result<(), RecordError> {
        let mut left = n;
        while left > 0 {
            let now = self.inflater.fill()?.len().min(left);
            if now == 0 {
                return Err(RecordError::Short);
            }
            self.inflater.consume(now);
            left = left.saturating_sub(now);
        }
        self.taken = self.taken.wrapping_add(n);
        Ok(())
    }

    fn taken(&self) -> usize {
        self.taken
    }

    fn is_at_end(&mut self) -> Result<bool, RecordError> {
        Ok(self.inflater.fill()?.is_empty())
    }
}

/// A zigzag varint of at most 32 bits.
#[inline]
fn varint(feed: &mut impl Feed) -> Result<i32, RecordError> {
    let first = feed.byte()?;
    let mut raw = u32::from(first & 0x7f);
    if first & 0x80 != 0 {
        let mut shift = 7u32;
        loop {
            let byte = feed.byte()?;
            raw |= u32::from(byte & 0x7f).wrapping_shl(shift);
            if byte & 0x80 == 0 {
                break;
            }
            shift = shift.wrapping_add(7);
            if shift > 28 {
                return Err(RecordError::Malformed("a varint has more than five bytes"));
            }
        }
    }
    Ok((raw >> 1).cast_signed() ^ (raw & 1).cast_signed().wrapping_neg())
}

/// A zigzag varint of at most 64 bits.
#[inline]
fn varlong(feed: &mut impl Feed) -> Result<i64, RecordError> {
    let mut raw = 0u64;
    let mut shift = 0u32;
    loop {
        let byte = feed.byte()?;
        raw |= u64::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            return Ok((raw >> 1).cast_signed() ^ (raw & 1).cast_signed().wrapping_neg());
        }
        shift = shift.wrapping_add(7);
        if shift > 63 {
            return Err(RecordError::Malformed("a varlong has more than ten bytes"));
        }
    }
}

/// Takes a length and the bytes it counts; where they began, and `None` for null.
#[inline]
fn field(feed: &mut impl Feed) -> Result<(usize, Option<usize>), RecordError> {
    // As in Kafka every negative length is null.
    let len = usize::try_from(varint(feed)?).ok();
    let at = feed.taken();
    if let Some(n) = len {
        feed.skip(n)?;
    }
    Ok((at, len))
}

/// What a record says, with places instead of bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: i32,
    key: (usize, Option<usize>),
    value: (usize, Option<usize>),
    headers_at: usize,
    headers_count: i32,
    /// Where the timestamp delta ends.
    pub(super) timestamp_end: usize,
}

impl Shape {
    /// The record of this shape in `section`, of which its last byte is before `end`.
    pub(super) fn lend<'a>(&self, section: &'a [u8], end: usize) -> Record<'a> {
        Record {
            offset_delta: self.offset_delta,
            timestamp_delta: self.timestamp_delta,
            key: lend(section, self.key),
            value: lend(section, self.value),
            headers_count: self.headers_count,
            headers: section.get(self.headers_at..end).unwrap_or_default(),
        }
    }

    pub(super) const fn has_key(&self) -> bool {
        self.key.1.is_some()
    }
}

/// Takes one record and checks every length in it.
#[inline]
pub(super) fn shape(feed: &mut impl Feed) -> Result<Shape, RecordError> {
    let length = usize::try_from(varint(feed)?)
        .map_err(|_| RecordError::Malformed("its length is negative"))?;
    let end = feed.taken().saturating_add(length);
    feed.byte()?; // the attributes: none is defined
    let timestamp_delta = varlong(feed)?;
    let timestamp_end = feed.taken();
    let offset_delta = varint(feed)?;
    let key = field(feed)?;
    let value = field(feed)?;
    let headers_count = varint(feed)?;
    let headers_at = feed.taken();
    if headers_count != 0 {
        skip_headers(feed, headers_count)?;
    }
    if feed.taken() != end {
        return Err(RecordError::Malformed("its length is not that of its fields"));
    }
    Ok(Shape {
        timestamp_delta,
        offset_delta,
        key,
        value,
        headers_at,
        headers_count,
        timestamp_end,
    })
}

fn skip_headers(feed: &mut impl Feed, count: i32) -> Result<(), RecordError> {
    if count < 0 {
        return Err(RecordError::Malformed("the number of headers is negative"));
    }
    // A false count runs into the end of the bytes: each header takes at least two.
    for _ in 0..count {
        if field(feed)?.1.is_none() {
            return Err(RecordError::Malformed("a header has no key"));
        }
        field(feed)?;
    }
    Ok(())
}

/// One record, lent from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset, less the base offset of the batch.
    pub offset_delta: i32,
    /// Its timestamp, less the base timestamp of the batch.
    pub timestamp_delta: i64,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
    /// The value; none in a tombstone.
    pub value: Option<&'a [u8]>,
    /// How many headers it has.
    pub headers_count: i32,
    headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// The headers in order: key and value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let bytes = self.headers;
        let mut feed = SliceFeed::new(bytes);
        (0..self.headers_count).map_while(move |_| {
            let key = lend(bytes, field(&mut feed).ok()?)?;
            Some((key, lend(bytes, field(&mut feed).ok()?)))
        })
    }
}

fn lend(bytes: &[u8], (at, len): (usize, Option<usize>)) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(len?)?)
}

/// Walks the records of an uncompressed records section. Ends after the first error.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    section: &'a [u8],
    feed: SliceFeed<'a>,
    left: i32,
}

impl<'a> Records<'a> {
    /// The `count` records of `section`, which is what follows a batch's header, inflated.
    #[must_use]
    pub const fn new(section: &'a [u8], count: i32) -> Self {
        Self { section, feed: SliceFeed::new(section), left: count }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left = self.left.saturating_sub(1);
        let s = match shape(&mut self.feed) {
            Ok(s) => s,
            Err(e) => {
                self.left = 0;
                return Some(Err(e));
            }
        };
        Some(Ok(s.lend(self.section, self.feed.taken)))
    }
}

/// The records section of the batch `batch`, whose header is `header`: lent if it is not
/// compressed, else inflated to at most `limit` bytes.
///
/// # Errors
/// `Short` if `batch` is not whole, `Inflate`.
pub fn section<'a>(
    header: &BatchHeader,
    batch: &'a [u8],
    limit: usize,
    scratch: &mut Scratch,
) -> Result<Cow<'a, [u8]>, RecordError> {
    let bytes = batch.get(BATCH_BODY_AT..header.size).ok_or(RecordError::Short)?;
    Ok(inflate(Codec::from_id(header.codec())?, bytes, limit, scratch)?)
}

/// Appends `value` as a zigzag varint; a 32-bit number gives the same bytes either way.
pub(super) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned();
    loop {
        let low = raw.to_le_bytes()[0] & 0x7f;
        raw >>= 7;
        if raw == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Bytes that `put_varint` takes for `value`.
pub(super) fn varint_len(value: i64) -> usize {
    let raw = (value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned();
    let bits = 64u32.saturating_sub(raw.leading_zeros()).max(1);
    usize::try_from(bits.div_ceil(7)).unwrap_or(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_go_both_ways() {
        let edges = [0, 1, -1, 63, 64, -64, -65, 8191, 8192, i64::from(i32::MAX), i64::MIN];
        for n in edges.into_iter().chain((0..64).map(|b| 1i64 << b)) {
            let mut out = Vec::new();
            put_varint(&mut out, n);
            assert_eq!(out.len(), varint_len(n), "{n}");
            assert_eq!(varlong(&mut SliceFeed::new(&out)), Ok(n));
            if let Ok(small) = i32::try_from(n) {
                assert_eq!(varint(&mut SliceFeed::new(&out)), Ok(small));
            }
        }
        let long = [0xff; 11];
        assert!(matches!(varint(&mut SliceFeed::new(&long)), Err(RecordError::Malformed(_))));
        assert!(matches!(varlong(&mut SliceFeed::new(&long)), Err(RecordError::Malformed(_))));
    }

    /// A record with no key, value "v" and one header, its length in front.
    const PLAIN: [u8; 12] = [22, 0, 0, 0, 1, 2, b'v', 2, 2, b'h', 2, b'x'];

    #[test]
    fn a_record_is_lent_from_its_bytes() {
        let got: Vec<_> = Records::new(&PLAIN, 1).collect::<Result<_, _>>().unwrap();
        let [r] = got[..] else { panic!("{got:?}") };
        assert_eq!((r.key, r.value, r.headers_count), (None, Some(&b"v"[..]), 1));
        assert_eq!(r.headers().collect::<Vec<_>>(), [(&b"h"[..], Some(&b"x"[..]))]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        fn last(b: &[u8]) -> Result<Record<'_>, RecordError> {
            Records::new(b, 9).last().unwrap()
        }
        assert_eq!(last(&PLAIN[..11]), Err(RecordError::Short));
        for (at, byte) in [(0, 24), (0, 20), (0, 23), (5, 200), (7, 1), (8, 1), (4, 0x0f)] {
            let mut bad = PLAIN;
            bad[at] = byte;
            assert!(last(&bad).is_err(), "byte {at} = {byte}");
        }
        // More records than there are.
        assert_eq!(last(&PLAIN), Err(RecordError::Short));
    }
}
