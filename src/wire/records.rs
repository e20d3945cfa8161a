//! The field type that carries record batches through Produce and Fetch without a copy. Uses `base`.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    codec::{Chunk, DecodeError, Prefix, Reader, Ver, Writer},
    fields::{Field, Nullable as _},
};
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{
        base::ports::File,
        wire::{
            EncodeError, Message as _,
            api::fetch::{FetchResponse, FetchableTopicResponse, PartitionData},
            codec::to_bytes,
            frame,
        },
    };

    #[derive(Debug)]
    struct NoFile;

    impl File for NoFile {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<usize> {
            Ok(0)
        }
        fn write_all_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(0)
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn modified_ms(&self) -> io::Result<i64> {
            Ok(0)
        }
    }

    fn response(records: Vec<Records>) -> FetchResponse {
        let partition = |records| PartitionData { records, ..PartitionData::default() };
        let partitions = records.into_iter().map(partition).collect();
        let topic = FetchableTopicResponse { partitions, ..FetchableTopicResponse::default() };
        FetchResponse { responses: vec![topic], ..FetchResponse::default() }
    }

    #[test]
    fn runs_of_files_stand_between_the_bytes_and_count_in_every_length() {
        let file: Arc<dyn File> = Arc::new(NoFile);
        let slice = |pos, len| FileSlice { file: file.clone(), pos, len };
        let in_files = Records::from_slices(vec![slice(10, 300), slice(0, 0), slice(5000, 7)]);
        let big = Bytes::from(vec![1; COPY_BYTES_MAX + 1]);
        let small = Bytes::from_static(b"small");
        let all = [in_files, Records::Bytes(big.clone()), Records::Bytes(small), Records::Null];
        let message = response(all.to_vec());

        for version in [4, 11, 12, 18] {
            let chunks = frame::encode_response(1, &message, version).unwrap();
            let total: usize = chunks.iter().map(Chunk::len).sum();
            let [Chunk::Bytes(head), Chunk::File(a), Chunk::File(b), rest @ ..] = &chunks[..]
            else {
                panic!("{chunks:?}")
            };
            let len = i32::from_be_bytes(*head.first_chunk().unwrap());
            assert_eq!(len, i32::try_from(total - 4).unwrap());
            assert_eq!((a.pos, a.len, b.pos, b.len), (10, 300, 5000, 7));
            let uncopied = |c: &Chunk| matches!(c, Chunk::Bytes(b) if b.as_ptr() == big.as_ptr());
            assert!(rest.iter().any(uncopied));
            assert_eq!(to_bytes(&chunks).unwrap_err(), EncodeError::FileBacked);

            // With zeros in the place of the files' bytes it reads as it was meant.
            let mut sent = Vec::new();
            for chunk in &chunks {
                match chunk {
                    Chunk::Bytes(b) => sent.extend_from_slice(b),
                    Chunk::File(f) => sent.resize(sent.len() + f.len, 0),
                }
            }
            let sent = Bytes::from(sent).slice(4..);
            let (_, got) = frame::decode_response::<FetchResponse>(&sent, version).unwrap();
            let [first, rest @ ..] = &got.responses[0].partitions[..] else { panic!("{got:?}") };
            assert_eq!(first.records, Records::Bytes(Bytes::from(vec![0; 307])));
            assert!(rest.iter().map(|p| &p.records).eq(&all[1..]));
        }
        assert_eq!(message.to_bytes(12), Err(EncodeError::FileBacked));
    }

    #[test]
    fn null_and_no_bytes_are_two_things() {
        let message = response(vec![Records::Null, Records::EMPTY]);
        let bytes = message.to_bytes(4).unwrap();
        assert!(bytes.ends_with(&[0, 0, 0, 0]), "an empty list of bytes");
        let got = FetchResponse::decode(&mut Reader::new(&bytes), 4).unwrap();
        assert_eq!(got.responses[0].partitions[0].records, Records::Null);
        assert_eq!(got.responses[0].partitions[1].records, Records::EMPTY);
    }
}
