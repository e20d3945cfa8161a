//! The primitives that the records of `__consumer_offsets` are made of: fixed-width lengths, and
//! from value version 4 on compact ones with tagged fields. Decoding is bounded by the bytes at
//! hand. Pure.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::Uuid;

/// The first value version with compact lengths and tags.
const FLEXIBLE: i16 = 4;

/// Why bytes are not a record, or a record has no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end early or a length in them is negative.
    #[error("field {0} does not fit the bytes of the record")]
    Malformed(&'static str),
    /// A version from the future.
    #[error("value version {0} is not known")]
    UnknownVersion(i16),
    /// A string that its length field cannot count.
    #[error("field {0} is longer than its length field can say")]
    TooLong(&'static str),
}

#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn done(self) -> Bytes {
        self.0.into()
    }

    pub(super) fn raw(&mut self, b: &[u8]) {
        self.0.extend_from_slice(b);
    }

    pub(super) fn i16(&mut self, v: i16) {
        self.0.extend_from_slice(&v.to_be_bytes());
    }

    pub(super) fn i32(&mut self, v: i32) {
        self.0.extend_from_slice(&v.to_be_bytes());
    }

    pub(super) fn i64(&mut self, v: i64) {
        self.0.extend_from_slice(&v.to_be_bytes());
    }

    pub(super) fn uvarint(&mut self, mut v: u32) {
        while v >= 0x80 {
            self.0.push(v.to_le_bytes()[0] | 0x80);
            v >>= 7;
        }
        self.0.push(v.to_le_bytes()[0]);
    }

    pub(super) fn length(&mut self, field: &'static str, len: usize) -> Result<(), RecordError> {
        self.i32(i32::try_from(len).map_err(|_| RecordError::TooLong(field))?);
        Ok(())
    }

    pub(super) fn string(&mut self, field: &'static str, s: &str) -> Result<(), RecordError> {
        self.i16(i16::try_from(s.len()).map_err(|_| RecordError::TooLong(field))?);
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }

    pub(super) fn nullable_string(
        &mut self,
        field: &'static str,
        s: Option<&str>,
    ) -> Result<(), RecordError> {
        match s {
            Some(s) => self.string(field, s),
            None => {
                self.i16(-1);
                Ok(())
            }
        }
    }

    pub(super) fn compact_string(&mut self, s: &str) {
        self.uvarint(u32::try_from(s.len()).unwrap_or(u32::MAX).saturating_add(1));
        self.0.extend_from_slice(s.as_bytes());
    }

    pub(super) fn i8(&mut self, v: i8) {
        self.0.extend_from_slice(&v.to_be_bytes());
    }

    /// The length of a compact array.
    pub(super) fn compact_length(&mut self, len: usize) {
        self.uvarint(u32::try_from(len).unwrap_or(u32::MAX).saturating_add(1));
    }

    pub(super) fn compact_nullable_string(&mut self, s: Option<&str>) {
        match s {
            Some(s) => self.compact_string(s),
            None => self.uvarint(0),
        }
    }

    pub(super) fn compact_bytes(&mut self, b: &[u8]) {
        self.compact_length(b.len());
        self.0.extend_from_slice(b);
    }

    /// The only tagged field of a struct, with tag 0.
    pub(super) fn tag_0(&mut self, body: &[u8]) {
        self.uvarint(1);
        self.uvarint(0);
        self.uvarint(u32::try_from(body.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(body);
    }

    pub(super) fn bytes(&mut self, field: &'static str, b: &[u8]) -> Result<(), RecordError> {
        self.length(field, b.len())?;
        self.0.extend_from_slice(b);
        Ok(())
    }
}

pub(super) struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    /// A reader of fields with fixed-width lengths.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, flexible: false }
    }

    /// A reader behind the version that opens every value.
    pub(super) fn value(bytes: &'a [u8]) -> Result<(Self, i16), RecordError> {
        let mut reader = Self::new(bytes);
        let version = reader.i16("version")?;
        if !(0..=FLEXIBLE).contains(&version) {
            return Err(RecordError::UnknownVersion(version));
        }
        reader.flexible = version >= FLEXIBLE;
        Ok((reader, version))
    }

    /// A reader behind the version of a value whose layout becomes flexible with version
    /// `flexible_from` and is known up to `newest`.
    pub(super) fn versioned(
        bytes: &'a [u8],
        flexible_from: i16,
        newest: i16,
    ) -> Result<(Self, i16), RecordError> {
        let mut reader = Self::new(bytes);
        let version = reader.i16("version")?;
        if !(0..=newest).contains(&version) {
            return Err(RecordError::UnknownVersion(version));
        }
        reader.flexible = version >= flexible_from;
        Ok((reader, version))
    }

    /// A reader of a value that has known compact lengths from version 0 on, the only one so far.
    pub(super) fn flexible_value(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Self::new(bytes);
        match reader.i16("version")? {
            0 => Ok(Self { flexible: true, ..reader }),
            other => Err(RecordError::UnknownVersion(other)),
        }
    }

    /// A reader of compact fields without a version before them.
    pub(super) const fn flexible(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, flexible: true }
    }

    pub(super) fn uuid(&mut self, field: &'static str) -> Result<Uuid, RecordError> {
        Ok(Uuid(self.array(field)?))
    }

    /// The next number, which stays unread.
    pub(super) fn peek_i32(&self) -> Option<i32> {
        self.rest.first_chunk().map(|b| i32::from_be_bytes(*b))
    }

    /// Whether an array follows that is not null.
    pub(super) fn peek_is_not_null(&self) -> bool {
        self.rest.first().is_some_and(|b| *b != 0)
    }

    /// An array; each element takes bytes, so that a lying count reserves nothing.
    pub(super) fn list<T>(
        &mut self,
        field: &'static str,
        mut each: impl FnMut(&mut Self) -> Result<T, RecordError>,
    ) -> Result<Vec<T>, RecordError> {
        let count = self.length(field)?.ok_or(RecordError::Malformed(field))?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(each(self)?);
        }
        Ok(out)
    }

    fn take(&mut self, field: &'static str, n: usize) -> Result<&'a [u8], RecordError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(RecordError::Malformed(field))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RecordError> {
        let (head, rest) =
            self.rest.split_first_chunk::<N>().ok_or(RecordError::Malformed(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn i8(&mut self, field: &'static str) -> Result<i8, RecordError> {
        Ok(i8::from_be_bytes(self.array(field)?))
    }

    pub(super) fn i16(&mut self, field: &'static str) -> Result<i16, RecordError> {
        Ok(i16::from_be_bytes(self.array(field)?))
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, RecordError> {
        Ok(i32::from_be_bytes(self.array(field)?))
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, RecordError> {
        Ok(i64::from_be_bytes(self.array(field)?))
    }

    pub(super) fn uvarint(&mut self, field: &'static str) -> Result<u32, RecordError> {
        let mut out = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array(field)?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            out |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(out);
            }
        }
        Err(RecordError::Malformed(field))
    }

    /// The length of an array or of bytes; `None` for null.
    pub(super) fn length(&mut self, field: &'static str) -> Result<Option<usize>, RecordError> {
        let len = match self.flexible {
            true => i64::from(self.uvarint(field)?) - 1,
            false => i64::from(self.i32(field)?),
        };
        Self::checked(field, len)
    }

    fn checked(field: &'static str, len: i64) -> Result<Option<usize>, RecordError> {
        match len {
            -1 => Ok(None),
            _ => usize::try_from(len).map(Some).map_err(|_| RecordError::Malformed(field)),
        }
    }

    fn nullable_text(&mut self, field: &'static str) -> Result<Option<&'a str>, RecordError> {
        let len = match self.flexible {
            true => self.length(field)?,
            false => Self::checked(field, i64::from(self.i16(field)?))?,
        };
        let Some(len) = len else { return Ok(None) };
        let text = std::str::from_utf8(self.take(field, len)?);
        text.map(Some).map_err(|_| RecordError::Malformed(field))
    }

    /// A string where it lies.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, RecordError> {
        self.nullable_text(field)?.ok_or(RecordError::Malformed(field))
    }

    pub(super) fn nullable_string(
        &mut self,
        field: &'static str,
    ) -> Result<Option<Arc<str>>, RecordError> {
        Ok(self.nullable_text(field)?.map(Arc::from))
    }

    pub(super) fn string(&mut self, field: &'static str) -> Result<Arc<str>, RecordError> {
        self.nullable_string(field)?.ok_or(RecordError::Malformed(field))
    }

    pub(super) fn bytes(&mut self, field: &'static str) -> Result<Bytes, RecordError> {
        let len = self.length(field)?.ok_or(RecordError::Malformed(field))?;
        Ok(Bytes::copy_from_slice(self.take(field, len)?))
    }

    /// The tagged fields that close a flexible struct.
    pub(super) fn tags(
        &mut self,
        mut each: impl FnMut(u32, &[u8]) -> Result<(), RecordError>,
    ) -> Result<(), RecordError> {
        if !self.flexible {
            return Ok(());
        }
        let count = self.uvarint("tags")?;
        for _ in 0..count {
            let tag = self.uvarint("tag")?;
            let len = usize::try_from(self.uvarint("tag length")?).unwrap_or(usize::MAX);
            each(tag, self.take("tag", len)?)?;
        }
        Ok(())
    }
}
