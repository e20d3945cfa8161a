//! Codecs of record batches: compressing as Kafka's clients do, and inflating within a bound.
//! Owns the crates behind them; nothing that a batch claims about its size is believed.

use std::{borrow::Cow, io::Write as _};

use super::inflater::Inflater;

pub use super::inflater::Scratch;

/// Why bytes do not inflate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// More would come out than the caller allows.
    #[error("the records are larger than the limit once decompressed")]
    TooLarge,
    /// Not what the codec writes.
    #[error("the {codec} data is corrupt: {what}")]
    Corrupt {
        /// Kafka's name of the codec.
        codec: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A number that is no codec's.
    #[error("compression type {0} is unknown")]
    UnknownCodec(u8),
}

/// The codec of a batch, by the numbers of `CompressionType.java`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not compressed.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy blocks in the framing of snappy-java; raw snappy is read too.
    Snappy,
    /// An LZ4 frame with independent blocks.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
}

impl Codec {
    /// The codec with this number.
    ///
    /// # Errors
    /// `UnknownCodec` for 5 and above.
    pub const fn from_id(id: u8) -> Result<Self, InflateError> {
        Ok(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return Err(InflateError::UnknownCodec(id)),
        })
    }

    /// The number in a batch's attributes.
    #[must_use]
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The name as `compression.type` and tools spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How to compress: a codec and its level (KIP-390).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all (`uncompressed`).
    #[default]
    None,
    /// Level 1 to 9, or -1 for the codec's own default.
    Gzip(i32),
    /// Snappy has no levels.
    Snappy,
    /// Level 1 to 17 by Kafka's key. Every level gives the fast compressor.
    Lz4(i32),
    /// Level -131072 to 22; 3 is the default.
    Zstd(i32),
}

impl Compression {
    /// `codec` at the level that Kafka takes when none is set.
    #[must_use]
    pub const fn of(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Gzip => Self::Gzip(-1),
            Codec::Snappy => Self::Snappy,
            Codec::Lz4 => Self::Lz4(9),
            Codec::Zstd => Self::Zstd(3),
        }
    }

    /// The codec without its level.
    #[must_use]
    pub const fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Gzip(_) => Codec::Gzip,
            Self::Snappy => Codec::Snappy,
            Self::Lz4(_) => Codec::Lz4,
            Self::Zstd(_) => Codec::Zstd,
        }
    }
}

/// What snappy-java writes first: its name, then version 1 and compatible version 1.
pub(super) const SNAPPY_HEADER: [u8; 16] =
    [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
/// Bytes of input in a block (`SnappyOutputStream.DEFAULT_BLOCK_SIZE`).
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;

/// Appends `data`, compressed, to `out`.
///
/// # Errors
/// Only if the codec's library has no memory; `out` then ends with bytes of no meaning.
pub fn compress(how: Compression, data: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    match how {
        Compression::None => out.extend_from_slice(data),
        Compression::Gzip(level) => {
            // As in Java's `Deflater`: -1 is the library's own default, which is 6.
            let level = u32::try_from(level).unwrap_or(6).min(9);
            let mut w = flate2::write::GzEncoder::new(out, flate2::Compression::new(level));
            w.write_all(data)?;
            w.finish()?;
        }
        Compression::Snappy => snappy(data, out)?,
        Compression::Lz4(_) => {
            use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
            let info =
                FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
            let mut w = FrameEncoder::with_frame_info(info, out);
            w.write_all(data)?;
            // Java's reader wants the header even where there is nothing to compress.
            w.flush()?;
            w.finish()?;
        }
        Compression::Zstd(level) => {
            let mut w = zstd::stream::write::Encoder::new(out, level.clamp(-131_072, 22))?;
            w.set_pledged_src_size(u64::try_from(data.len()).ok())?;
            w.write_all(data)?;
            w.finish()?;
        }
    }
    Ok(())
}

fn snappy(data: &[u8], out: &mut Vec<u8>) -> std::io::Result<()> {
    out.extend_from_slice(&SNAPPY_HEADER);
    let mut encoder = snap::raw::Encoder::new();
    let mut block = vec![0; snap::raw::max_compress_len(data.len().min(SNAPPY_BLOCK_BYTES))];
    for part in data.chunks(SNAPPY_BLOCK_BYTES) {
        let n = encoder.compress(part, &mut block).map_err(std::io::Error::other)?;
        let bytes = block.get(..n).unwrap_or_default();
        out.extend_from_slice(&i32::try_from(n).unwrap_or(i32::MAX).to_be_bytes());
        out.extend_from_slice(bytes);
    }
    Ok(())
}

/// Inflates `bytes`, of which at most `limit` bytes may come out. Memory is taken as output
/// arrives, never on the word of a header. Without a codec the bytes are lent as they are.
///
/// # Errors
/// `TooLarge`, `Corrupt`.
pub fn inflate<'a>(
    codec: Codec,
    bytes: &'a [u8],
    limit: usize,
    scratch: &mut Scratch,
) -> Result<Cow<'a, [u8]>, InflateError> {
    if codec == Codec::None {
        return if bytes.len() > limit {
            Err(InflateError::TooLarge)
        } else {
            Ok(Cow::Borrowed(bytes))
        };
    }
    let mut inflater = Inflater::open(codec, bytes, limit, scratch)?;
    let mut out = Vec::new();
    loop {
        let part = inflater.fill()?;
        if part.is_empty() {
            return Ok(Cow::Owned(out));
        }
        out.extend_from_slice(part);
        let n = part.len();
        inflater.consume(n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 9] = [
        Compression::None,
        Compression::Gzip(-1),
        Compression::Gzip(1),
        Compression::Gzip(9),
        Compression::Snappy,
        Compression::Lz4(9),
        Compression::Zstd(3),
        Compression::Zstd(-7),
        Compression::Zstd(22),
    ];

    fn packed(how: Compression, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        compress(how, data, &mut out).unwrap();
        out
    }

    fn unpacked(codec: Codec, bytes: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
        inflate(codec, bytes, limit, &mut Scratch::default()).map(Cow::into_owned)
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 1u32;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 17;
            x ^= x << 5;
            x
        };
        (0..len).map(|i| if i % 3 == 0 { 7 } else { next() as u8 }).collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_took() {
        let mut scratch = Scratch::default();
        for how in ALL {
            for len in [0, 1, 100, 65_535, 65_536, 65_537, 700_000] {
                let data = noise(len);
                let bytes = packed(how, &data);
                let got = inflate(how.codec(), &bytes, len, &mut scratch).unwrap();
                assert!(*got == *data, "{how:?} {len}");
            }
        }
    }

    #[test]
    fn output_is_bounded_to_the_byte() {
        for how in ALL {
            let bytes = packed(how, &noise(200_000));
            assert_eq!(unpacked(how.codec(), &bytes, 199_999), Err(InflateError::TooLarge));
            assert!(unpacked(how.codec(), &bytes, 200_000).is_ok());
        }
    }

    #[test]
    fn bombs_stop_at_the_limit() {
        let data = vec![0; 8 << 20];
        for how in ALL.into_iter().skip(1) {
            let bytes = packed(how, &data);
            let got = unpacked(how.codec(), &bytes, 1 << 20);
            assert_eq!(got, Err(InflateError::TooLarge), "{how:?}");
        }
    }

    #[test]
    fn every_cut_is_an_error_and_no_panic() {
        for how in ALL.into_iter().skip(1) {
            let bytes = packed(how, &noise(3000));
            for cut in 1..bytes.len() {
                let got = unpacked(how.codec(), &bytes[..cut], 3000);
                // A cut between snappy blocks, or in gzip's trailing CRC, may still be read.
                assert!(got.as_ref().map_or(true, |g| g.len() <= 3000), "{how:?} {cut}");
            }
        }
    }

    #[test]
    fn mutated_bytes_never_panic() {
        for how in ALL.into_iter().skip(1) {
            let good = packed(how, &noise(5000));
            let mut scratch = Scratch::default();
            for i in (0..good.len()).step_by(if good.len() > 1000 { 7 } else { 1 }) {
                for flip in [0x01, 0x80, 0xff] {
                    let mut bad = good.clone();
                    bad[i] ^= flip;
                    if let Ok(got) = inflate(how.codec(), &bad, 10_000, &mut scratch) {
                        assert!(got.len() <= 10_000);
                    }
                }
            }
        }
    }

    #[test]
    fn snappy_without_framing_and_with_it_twice() {
        let data = noise(1000);
        let raw = snap::raw::Encoder::new().compress_vec(&data).unwrap();
        assert_eq!(unpacked(Codec::Snappy, &raw, 1000).unwrap(), data);
        let framed = packed(Compression::Snappy, &data);
        let twice = [framed.clone(), framed].concat();
        assert_eq!(unpacked(Codec::Snappy, &twice, 2000).unwrap(), [&data[..], &data].concat());
    }

    #[test]
    fn a_snappy_block_that_lies_about_its_size_takes_no_memory() {
        // 2^31-1 bytes claimed by a block of seven.
        let raw = [0xff, 0xff, 0xff, 0xff, 0x07, 0, 0];
        let mut scratch = Scratch::default();
        let got = inflate(Codec::Snappy, &raw, usize::MAX, &mut scratch);
        assert!(matches!(got, Err(InflateError::Corrupt { .. })), "{got:?}");
        assert!(scratch.held_bytes() < 1 << 20);
    }

    #[test]
    fn a_zstd_window_of_many_mebibytes_takes_only_what_comes_out() {
        // A frame of a 2 GiB window (single segment off, window byte 0xa8) with a raw block.
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8];
        let block = (5u32 << 3) | 1;
        frame.extend(&block.to_le_bytes()[..3]);
        frame.extend(b"hello");
        let mut scratch = Scratch::default();
        let got = inflate(Codec::Zstd, &frame, 1000, &mut scratch).unwrap().into_owned();
        assert_eq!(got, b"hello");
        assert!(scratch.held_bytes() < 1 << 20);
        // The same window behind a frame that is small.
        let both = [packed(Compression::Zstd(3), b"x"), frame].concat();
        let got = unpacked(Codec::Zstd, &both, 1000);
        assert!(matches!(got, Err(InflateError::Corrupt { .. })), "{got:?}");
    }

    #[test]
    fn content_size_of_lz4_is_not_believed() {
        use lz4_flex::frame::{FrameEncoder, FrameInfo};
        let info = FrameInfo::new().content_size(Some(5)).content_checksum(true);
        let mut w = FrameEncoder::with_frame_info(info.block_checksums(true), Vec::new());
        w.write_all(b"hello").unwrap();
        let frame = w.finish().unwrap();
        assert_eq!(unpacked(Codec::Lz4, &frame, 5).unwrap(), b"hello");
        let mut bad = frame;
        *bad.iter_mut().rev().nth(9).unwrap() ^= 1;
        assert!(unpacked(Codec::Lz4, &bad, 5).is_err(), "block checksum");
    }
}
