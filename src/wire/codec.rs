//! Reading and writing of the protocol's primitive types. Uses `base`.
//!
//! [`Reader`] walks a frame that has arrived whole. It checks every length against what is left
//! before it takes or reserves anything, and hands out byte fields as slices of the frame.
//! [`Writer`] gathers bytes in one buffer and remembers where runs of a file, or large runs of
//! bytes that are not worth a copy, stand between them.

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::base::ports::FileSlice;

/// Why bytes are not a message. A peer's mistake: the connection it came from is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before what it claims to hold.
    #[error("the message ends before what it claims to hold")]
    Truncated,
    /// Bytes follow the message, or follow a tagged field within its stated size.
    #[error("bytes follow the end of the message")]
    Trailing,
    /// A length below -1.
    #[error("a negative length")]
    NegativeLength,
    /// A null where the schema of this version allows none.
    #[error("null in a field that is not nullable")]
    Null,
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    BadUtf8,
    /// A variable-length number of more than 32 bits.
    #[error("a variable-length number of more than 32 bits")]
    BadVarint,
    /// The version lies outside the schema's range.
    #[error("version {0} is not one of this API")]
    UnsupportedVersion(i16),
}

/// Why a message has no encoding in a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Some text, list or the whole frame is longer than its length field can say.
    #[error("a field is too long for its length prefix")]
    TooLong,
    /// The version lies outside the schema's range.
    #[error("version {0} is not one of this API")]
    UnsupportedVersion(i16),
    /// Bytes in memory were asked for, but a run of a file is part of the message.
    #[error("part of the message lies in a file")]
    FileBacked,
}

/// The version a message is read or written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ver {
    /// The API's version.
    pub v: i16,
    /// Whether it is a flexible one: compact lengths and tagged fields (KIP-482).
    pub flexible: bool,
}

/// The width of a length prefix in versions that are not flexible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// 16 bits, for text.
    Short,
    /// 32 bits, for bytes and lists.
    Long,
}

/// Walks a frame. Copying it is cheap and makes an independent position.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    frame: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of `frame`.
    #[must_use]
    pub fn new(frame: &'a Bytes) -> Self {
        Self { frame, rest: frame }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// What is left, as a slice of the frame without a copy.
    #[must_use]
    pub fn rest(&self) -> Bytes {
        self.frame.slice_ref(self.rest)
    }

    /// Ends reading.
    ///
    /// # Errors
    /// `Trailing` if bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    pub(super) fn take_bytes(&mut self, n: usize) -> Result<Bytes, DecodeError> {
        let part = self.take(n)?;
        Ok(self.frame.slice_ref(part))
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(*head)
    }

    /// An unsigned number of 7 bits a byte, lowest first.
    pub(super) fn uvarint(&mut self) -> Result<u32, DecodeError> {
        let mut out = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            out |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(out);
            }
        }
        Err(DecodeError::BadVarint)
    }

    /// A length or count; `None` is null. Only a claim until bytes are taken by it.
    pub(super) fn length(
        &mut self,
        ver: Ver,
        prefix: Prefix,
    ) -> Result<Option<usize>, DecodeError> {
        if ver.flexible {
            let Some(n) = self.uvarint()?.checked_sub(1) else { return Ok(None) };
            return usize::try_from(n).map(Some).map_err(|_| DecodeError::Truncated);
        }
        let n = match prefix {
            Prefix::Short => i32::from(i16::from_be_bytes(self.array()?)),
            Prefix::Long => i32::from_be_bytes(self.array()?),
        };
        match n {
            -1 => Ok(None),
            n => usize::try_from(n).map(Some).map_err(|_| DecodeError::NegativeLength),
        }
    }

    /// The next tagged field: its tag and a reader over its bytes alone.
    pub(super) fn tagged(&mut self) -> Result<(u32, Self), DecodeError> {
        let tag = self.uvarint()?;
        let size = usize::try_from(self.uvarint()?).map_err(|_| DecodeError::Truncated)?;
        Ok((tag, Self { frame: self.frame, rest: self.take(size)? }))
    }

    /// Passes over a whole section of tagged fields.
    pub(super) fn skip_tagged(&mut self) -> Result<(), DecodeError> {
        for _ in 0..self.uvarint()? {
            self.tagged()?;
        }
        Ok(())
    }
}

/// A piece of an encoded frame; pieces are sent in order.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A run of a file.
    File(FileSlice),
}

impl Chunk {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(b) => b.len(),
            Self::File(f) => f.len,
        }
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Gathers an encoded message. Never fails while writing: what cannot be said in a length prefix
/// is remembered and reported by `finish`.
#[derive(Debug, Default)]
pub struct Writer {
    buf: BytesMut,
    /// Pieces that stand before the byte of `buf` with this number, in order.
    splices: Vec<(usize, Chunk)>,
    spliced: usize,
    too_long: bool,
}

impl Writer {
    /// An empty writer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A writer with room for `bytes` bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { buf: BytesMut::with_capacity(bytes), ..Self::default() }
    }

    /// How many bytes were written, spliced pieces included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buf.len().saturating_add(self.spliced)
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.buf.put_slice(bytes);
    }

    /// Places `chunk` here without a copy.
    pub(super) fn splice(&mut self, chunk: Chunk) {
        self.spliced = self.spliced.saturating_add(chunk.len());
        self.splices.push((self.buf.len(), chunk));
    }

    pub(super) fn uvarint(&mut self, mut n: u32) {
        while n >= 0x80 {
            let [low, ..] = n.to_le_bytes();
            self.buf.put_u8(low | 0x80);
            n >>= 7;
        }
        let [low, ..] = n.to_le_bytes();
        self.buf.put_u8(low);
    }

    /// A length or count; `None` is null.
    pub(super) fn length(&mut self, ver: Ver, prefix: Prefix, n: Option<usize>) {
        let max = match prefix {
            Prefix::Short if !ver.flexible => i32::from(i16::MAX),
            _ => i32::MAX,
        };
        let n = match n.map(i32::try_from) {
            None => -1,
            Some(Ok(n)) if n <= max => n,
            Some(_) => {
                self.too_long = true;
                0
            }
        };
        if ver.flexible {
            self.uvarint(n.wrapping_add(1).cast_unsigned());
        } else if prefix == Prefix::Long {
            self.buf.put_i32(n);
        } else {
            self.buf.put_i16(i16::try_from(n).unwrap_or_default());
        }
    }

    /// A tagged field whose bytes `write` writes.
    pub(super) fn tagged(&mut self, tag: u32, write: impl FnOnce(&mut Self)) {
        let mut body = Self::new();
        write(&mut body);
        assert!(body.splices.is_empty(), "records are never tagged fields");
        self.too_long |= body.too_long;
        self.uvarint(tag);
        match u32::try_from(body.buf.len()) {
            Ok(n) => self.uvarint(n),
            Err(_) => self.too_long = true,
        }
        self.put(&body.buf);
    }

    /// The pieces of what was written.
    ///
    /// # Errors
    /// `TooLong` if a field was longer than its length prefix can say.
    pub fn finish(mut self) -> Result<Vec<Chunk>, EncodeError> {
        if self.too_long {
            return Err(EncodeError::TooLong);
        }
        let mut out = Vec::with_capacity(self.splices.len().saturating_mul(2).saturating_add(1));
        let mut done = 0_usize;
        for (at, chunk) in self.splices {
            if at > done {
                let head = self.buf.split_to(at.saturating_sub(done));
                out.push(Chunk::Bytes(head.freeze()));
                done = at;
            }
            out.push(chunk);
        }
        if !self.buf.is_empty() {
            out.push(Chunk::Bytes(self.buf.freeze()));
        }
        Ok(out)
    }

    /// Writes the length of all that follows the first 4 bytes into them, then ends as
    /// [`Writer::finish`].
    pub(super) fn finish_frame(mut self) -> Result<Vec<Chunk>, EncodeError> {
        let len = i32::try_from(self.len().saturating_sub(4)).map_err(|_| EncodeError::TooLong)?;
        if let Some(prefix) = self.buf.first_chunk_mut() {
            *prefix = len.to_be_bytes();
        }
        self.finish()
    }
}

/// Joins pieces in memory.
///
/// # Errors
/// `FileBacked` if a piece lies in a file.
pub fn to_bytes(chunks: &[Chunk]) -> Result<Bytes, EncodeError> {
    if let [Chunk::Bytes(only)] = chunks {
        return Ok(only.clone());
    }
    let len = chunks.iter().fold(0_usize, |n, c| n.saturating_add(c.len()));
    let mut out = BytesMut::with_capacity(len);
    for chunk in chunks {
        match chunk {
            Chunk::Bytes(b) => out.put_slice(b),
            Chunk::File(_) => return Err(EncodeError::FileBacked),
        }
    }
    Ok(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMPACT: Ver = Ver { v: 0, flexible: true };
    const PLAIN: Ver = Ver { v: 0, flexible: false };

    fn uvarint(bytes: &'static [u8]) -> Result<u32, DecodeError> {
        let frame = Bytes::from_static(bytes);
        let mut r = Reader::new(&frame);
        let n = r.uvarint()?;
        r.finish().map(|()| n)
    }

    #[test]
    fn variable_length_numbers() {
        for n in [0, 1, 127, 128, 300, 16_383, 16_384, u32::MAX - 1, u32::MAX] {
            let mut w = Writer::new();
            w.uvarint(n);
            let frame = to_bytes(&w.finish().unwrap()).unwrap();
            assert_eq!(Reader::new(&frame).uvarint(), Ok(n));
        }
        assert_eq!(uvarint(&[0xac, 0x02]), Ok(300));
        assert_eq!(uvarint(&[0x80]), Err(DecodeError::Truncated));
        assert_eq!(uvarint(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(DecodeError::BadVarint));
        assert_eq!(uvarint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]), Err(DecodeError::BadVarint));
    }

    #[test]
    fn lengths() {
        let length = |bytes: &'static [u8], ver, prefix| {
            Reader::new(&Bytes::from_static(bytes)).length(ver, prefix)
        };
        assert_eq!(length(&[0], COMPACT, Prefix::Short), Ok(None));
        assert_eq!(length(&[1], COMPACT, Prefix::Long), Ok(Some(0)));
        assert_eq!(length(&[0xff, 0xff], PLAIN, Prefix::Short), Ok(None));
        assert_eq!(length(&[0, 0, 1, 0], PLAIN, Prefix::Long), Ok(Some(256)));
        let below = length(&[0xff, 0xfe], PLAIN, Prefix::Short);
        assert_eq!(below, Err(DecodeError::NegativeLength));
    }

    #[test]
    fn what_no_prefix_can_say_is_an_error_and_not_a_short_frame() {
        let mut w = Writer::new();
        w.length(PLAIN, Prefix::Short, Some(32_767));
        assert!(w.finish().is_ok());
        let mut w = Writer::new();
        w.length(PLAIN, Prefix::Short, Some(32_768));
        assert_eq!(w.finish().unwrap_err(), EncodeError::TooLong);
        let mut w = Writer::new();
        w.length(COMPACT, Prefix::Short, Some(32_768));
        assert!(w.finish().is_ok(), "compact lengths have 32 bits");
    }

    #[test]
    fn a_tagged_field_ends_where_it_says() {
        let frame = Bytes::from_static(&[5, 2, 0xaa, 0xbb, 9]);
        let mut r = Reader::new(&frame);
        let (tag, mut body) = r.tagged().unwrap();
        assert_eq!((tag, body.remaining(), r.remaining()), (5, 2, 1));
        assert_eq!(body.take(3), Err(DecodeError::Truncated));
        assert_eq!(r.tagged().unwrap_err(), DecodeError::Truncated);
    }
}
