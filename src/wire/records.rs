//! The field type that carries record batches through Produce and Fetch without a copy. Uses `base`.

use std::sync::Arc;

use bytes::Bytes;

use super::codec::{Chunk, DecodeError, Field, Nullable as _, Prefix, Reader, Ver, Writer};
use crate::base::ports::FileSlice;

/// Bytes in memory up to this length are copied into the frame's own buffer, so that a small batch
/// costs no extra piece to send.
const COPY_BYTES_MAX: usize = 4096;

/// Record batches as they stand in a Produce request or Fetch response. Decoding yields `Null` or
/// `Bytes`; `Slices` is for responses that go out by `sendfile`.
#[derive(Debug, Clone, Default)]
pub enum Records {
    /// No records field.
    #[default]
    Null,
    /// Batches in memory; after decoding, a slice of the frame.
    Bytes(Bytes),
    /// Batches that lie in files.
    Slices {
        /// The runs, in order.
        slices: Vec<FileSlice>,
        /// Their total length in bytes.
        len: usize,
    },
}

impl Records {
    /// Present but without a byte: what Fetch answers where it has nothing to give.
    pub const EMPTY: Self = Self::Bytes(Bytes::new());

    /// Batches that lie in files.
    #[must_use]
    pub fn from_slices(slices: Vec<FileSlice>) -> Self {
        let len = slices.iter().fold(0_usize, |n, s| n.saturating_add(s.len));
        Self::Slices { slices, len }
    }

    /// The length in bytes; 0 for null.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Null => 0,
            Self::Bytes(b) => b.len(),
            Self::Slices { len, .. } => *len,
        }
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if they are in memory.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(b) => Some(b),
            Self::Null | Self::Slices { .. } => None,
        }
    }
}

/// Equal by bytes in memory, and by file and position where they lie in files.
impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &FileSlice, b: &FileSlice| {
            Arc::ptr_eq(&a.file, &b.file) && a.pos == b.pos && a.len == b.len
        };
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bytes(a), Self::Bytes(b)) => a == b,
            (Self::Slices { slices: a, .. }, Self::Slices { slices: b, .. }) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            _ => false,
        }
    }
}

impl Field for Records {
    fn read(r: &mut Reader<'_>, ver: Ver) -> Result<Self, DecodeError> {
        Ok(Bytes::read_nullable(r, ver)?.map_or(Self::Null, Self::Bytes))
    }

    fn write(&self, w: &mut Writer, ver: Ver) {
        let len = if matches!(self, Self::Null) { None } else { Some(self.len()) };
        w.length(ver, Prefix::Long, len);
        match self {
            Self::Null => {}
            Self::Bytes(b) if b.len() <= COPY_BYTES_MAX => w.put(b),
            Self::Bytes(b) => w.splice(Chunk::Bytes(b.clone())),
            Self::Slices { slices, .. } => {
                for slice in slices.iter().filter(|s| s.len > 0) {
                    w.splice(Chunk::File(slice.clone()));
                }
            }
        }
    }

    fn min_size(ver: Ver) -> usize {
        Bytes::min_size(ver)
    }
}
