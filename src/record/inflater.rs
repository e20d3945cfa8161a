//! Inflating piece by piece: a bounded source of bytes for walking records without keeping them.
//! Owns the reused buffers. Uses the codecs' crates.

use std::io::Read as _;

use flate2::bufread::MultiGzDecoder;
use zstd::{
    stream::raw::{DParameter, Decoder, InBuffer, Operation as _, OutBuffer},
    zstd_safe,
};

use super::{
    compress::{Codec, InflateError, SNAPPY_HEADER},
    lz4,
};

/// Bytes that gzip and zstd put out at a time.
const STEP_BYTES: usize = 64 * 1024;
/// Buffers up to this size are kept for the next batch.
const KEPT_BYTES_MAX: usize = 1 << 20;
/// Windows up to this size (2^23) are inflated piece by piece; it covers zstd's levels up to 19.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// A zstd context that saw a window above this is not kept: it would hold that memory for good.
const ZSTD_KEPT_WINDOW_BYTES: u64 = 2 << 20;
/// Snappy turns at most three bytes into 64 (a copy with a two-byte offset).
const SNAPPY_EXPANSION_MAX: usize = 22;

/// Buffers for inflating, reused from batch to batch: one for each thread that validates.
#[derive(Default)]
pub struct Scratch {
    out: Vec<u8>,
    zstd: Option<Decoder<'static>>,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("held_bytes", &self.held_bytes()).finish_non_exhaustive()
    }
}

impl Scratch {
    /// Bytes of buffer held between batches, without the zstd context.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.out.capacity()
    }
}

enum Source<'a> {
    Stored(&'a [u8]),
    Gzip(Box<MultiGzDecoder<&'a [u8]>>),
    SnappyRaw(&'a [u8]),
    SnappyFramed(&'a [u8]),
    Lz4(lz4::Frame<'a>),
    Zstd(ZstdStream<'a>),
    /// A zstd frame whose window is too large to allocate on its word.
    ZstdWhole(&'a [u8]),
    Ended,
}

struct ZstdStream<'a> {
    rest: &'a [u8],
    decoder: Decoder<'static>,
    /// Whether the input so far ends with a whole frame.
    at_frame_end: bool,
    keep: bool,
}

/// Inflates one block of compressed records. `fill` gives what is unread, `consume` takes of it.
pub(super) struct Inflater<'a, 's> {
    source: Source<'a>,
    scratch: &'s mut Scratch,
    at: usize,
    end: usize,
    /// Bytes that may still come out.
    room: usize,
}

fn corrupt(codec: Codec, what: &'static str) -> InflateError {
    InflateError::Corrupt { codec: codec.name(), what }
}

impl<'a, 's> Inflater<'a, 's> {
    /// Prepares to inflate `bytes`, of which at most `limit` may come out.
    pub(super) fn open(
        codec: Codec,
        bytes: &'a [u8],
        limit: usize,
        scratch: &'s mut Scratch,
    ) -> Result<Self, InflateError> {
        let source = match codec {
            Codec::None => Source::Stored(bytes),
            Codec::Gzip => Source::Gzip(Box::new(MultiGzDecoder::new(bytes))),
            Codec::Snappy
                if bytes.starts_with(SNAPPY_HEADER.first_chunk::<8>().unwrap_or(&[0; 8])) =>
            {
                let rest = bytes.get(SNAPPY_HEADER.len()..);
                Source::SnappyFramed(rest.ok_or_else(|| corrupt(codec, "the header is cut short"))?)
            }
            Codec::Snappy => Source::SnappyRaw(bytes),
            Codec::Lz4 => Source::Lz4(lz4::Frame::open(bytes)?),
            Codec::Zstd => Self::open_zstd(bytes, scratch)?,
        };
        Ok(Self { source, scratch, at: 0, end: 0, room: limit })
    }

    fn open_zstd(bytes: &'a [u8], scratch: &mut Scratch) -> Result<Source<'a>, InflateError> {
        let window = zstd_window_bytes(bytes);
        if window > 1 << ZSTD_WINDOW_LOG_MAX {
            return Ok(Source::ZstdWhole(bytes));
        }
        let fail = |_| corrupt(Codec::Zstd, "no decoder could be made");
        let mut decoder = match scratch.zstd.take() {
            Some(d) => d,
            None => {
                let mut d = Decoder::new().map_err(fail)?;
                d.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(fail)?;
                d
            }
        };
        decoder.reinit().map_err(fail)?;
        let keep = window <= ZSTD_KEPT_WINDOW_BYTES;
        Ok(Source::Zstd(ZstdStream { rest: bytes, decoder, at_frame_end: true, keep }))
    }

    /// The bytes that are inflated and not consumed; empty only at the end.
    pub(super) fn fill(&mut self) -> Result<&[u8], InflateError> {
        while self.at >= self.end {
            let n = self.step()?;
            if n == 0 {
                return Ok(&[]);
            }
            self.room = self.room.checked_sub(n).ok_or(InflateError::TooLarge)?;
            (self.at, self.end) = (0, n);
        }
        Ok(self.scratch.out.get(self.at..self.end).unwrap_or_default())
    }

    /// Takes `n` of the bytes that `fill` gave.
    pub(super) fn consume(&mut self, n: usize) {
        self.at = self.at.saturating_add(n).min(self.end);
    }

    /// Puts the next bytes at the start of the buffer and says how many; 0 at the end.
    fn step(&mut self) -> Result<usize, InflateError> {
        let out = &mut self.scratch.out;
        // One byte above what is allowed, so that going over shows.
        let step = STEP_BYTES.min(self.room.saturating_add(1));
        match &mut self.source {
            Source::Ended => Ok(0),
            Source::Stored(rest) => {
                let (now, later) = rest.split_at_checked(step).unwrap_or((rest, &[]));
                out.clear();
                out.extend_from_slice(now);
                *rest = later;
                Ok(now.len())
            }
            Source::Gzip(reader) => reader
                .read(window(out, step))
                .map_err(|_| corrupt(Codec::Gzip, "it does not decompress")),
            Source::SnappyRaw(bytes) => {
                let n = snappy_block(bytes, out, self.room)?;
                self.source = Source::Ended;
                Ok(n)
            }
            Source::SnappyFramed(rest) => snappy_chunk(rest, out, self.room),
            Source::Lz4(frame) => frame.block(out, self.room),
            Source::Zstd(stream) => stream.step(window(out, step)),
            Source::ZstdWhole(bytes) => {
                let n = zstd_whole(bytes, out, self.room)?;
                self.source = Source::Ended;
                Ok(n)
            }
        }
    }
}

impl Drop for Inflater<'_, '_> {
    fn drop(&mut self) {
        if self.scratch.out.capacity() > KEPT_BYTES_MAX {
            self.scratch.out = Vec::new();
        }
        if let Source::Zstd(stream) = std::mem::replace(&mut self.source, Source::Ended)
            && stream.keep
        {
            self.scratch.zstd = Some(stream.decoder);
        }
    }
}

/// The first `n` bytes of `out`, which is made longer if need be and never shorter.
fn window(out: &mut Vec<u8>, n: usize) -> &mut [u8] {
    if out.len() < n {
        out.resize(n, 0);
    }
    out.get_mut(..n).unwrap_or_default()
}

/// One raw snappy block. Its length is written in front; it is believed only as far as the bytes
/// at hand could make it true.
fn snappy_block(bytes: &[u8], out: &mut Vec<u8>, room: usize) -> Result<usize, InflateError> {
    let bad = |_| corrupt(Codec::Snappy, "a block does not decompress");
    let len = snap::raw::decompress_len(bytes).map_err(bad)?;
    if len > bytes.len().saturating_mul(SNAPPY_EXPANSION_MAX) {
        return Err(corrupt(Codec::Snappy, "a block claims more than it can hold"));
    }
    if len > room {
        return Err(InflateError::TooLarge);
    }
    snap::raw::Decoder::new().decompress(bytes, window(out, len)).map_err(bad)
}

/// The next chunk of snappy-java's framing that is not empty; 0 at the end.
fn snappy_chunk(rest: &mut &[u8], out: &mut Vec<u8>, room: usize) -> Result<usize, InflateError> {
    let short = || corrupt(Codec::Snappy, "a chunk is cut short");
    while !rest.is_empty() {
        // A stream appended to another brings its own header, where a length would stand.
        if rest.starts_with(SNAPPY_HEADER.first_chunk::<8>().unwrap_or(&[0; 8])) {
            *rest = rest.get(SNAPPY_HEADER.len()..).ok_or_else(short)?;
            continue;
        }
        let (len, tail) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let len = usize::try_from(i32::from_be_bytes(*len))
            .map_err(|_| corrupt(Codec::Snappy, "a chunk has a negative length"))?;
        let (chunk, tail) = tail.split_at_checked(len).ok_or_else(short)?;
        *rest = tail;
        let n = snappy_block(chunk, out, room)?;
        if n > 0 {
            return Ok(n);
        }
    }
    Ok(0)
}

impl ZstdStream<'_> {
    fn step(&mut self, out: &mut [u8]) -> Result<usize, InflateError> {
        let mut output = OutBuffer::around(out);
        loop {
            let mut input = InBuffer::around(self.rest);
            let hint = self
                .decoder
                .run(&mut input, &mut output)
                .map_err(|_| corrupt(Codec::Zstd, "it does not decompress"))?;
            let taken = input.pos();
            self.rest = self.rest.get(taken..).unwrap_or_default();
            if taken > 0 || output.pos() > 0 {
                self.at_frame_end = hint == 0;
            }
            if output.pos() > 0 {
                return Ok(output.pos());
            }
            if self.rest.is_empty() && taken == 0 {
                return if self.at_frame_end {
                    Ok(0)
                } else {
                    Err(corrupt(Codec::Zstd, "it is cut short"))
                };
            }
        }
    }
}

/// The window that the first frame of `bytes` asks for (RFC 8878, 3.1.1.1); 0 if `bytes` do not
/// begin with a frame, which the decoder then finds out.
fn zstd_window_bytes(bytes: &[u8]) -> u64 {
    let Some(&[0x28, 0xb5, 0x2f, 0xfd, descriptor, byte]) = bytes.first_chunk::<6>() else {
        return 0;
    };
    if descriptor & 0x20 != 0 {
        // A single segment: the window is the content, whose size is known.
        return match zstd_safe::get_frame_content_size(bytes) {
            Ok(Some(n)) => n,
            Ok(None) | Err(_) => 0,
        };
    }
    let base = 1u64.checked_shl(u32::from(byte >> 3).saturating_add(10)).unwrap_or(u64::MAX);
    let eighths = (base >> 3).saturating_mul(u64::from(byte & 7));
    base.saturating_add(eighths)
}

/// Inflates all of `bytes` in one go, where the output is its own window. The buffer starts small
/// and doubles, so that no more than twice the output is ever held.
fn zstd_whole(bytes: &[u8], out: &mut Vec<u8>, room: usize) -> Result<usize, InflateError> {
    let mut guess = bytes.len().saturating_mul(8).max(STEP_BYTES);
    loop {
        let size = guess.min(room);
        match zstd::bulk::decompress_to_buffer(bytes, window(out, size)) {
            Ok(n) => return Ok(n),
            Err(e) if e.to_string().contains("too small") => {
                if size == room {
                    return Err(InflateError::TooLarge);
                }
                guess = guess.saturating_mul(2);
            }
            Err(_) => return Err(corrupt(Codec::Zstd, "it does not decompress")),
        }
    }
}
