//! The LZ4 frame as Kafka's clients write it (`Lz4BlockInputStream.java`): independent blocks, no
//! dictionary. Owns the frame; `lz4` (the C library, twice as fast) does the blocks, and `lz4_flex` says
//! what is wrong with one that does not fit.

use super::compress::InflateError;

const MAGIC: u32 = 0x184D_2204;
const VERSION_MASK: u8 = 0xc0;
const VERSION: u8 = 0x40;
const INDEPENDENT: u8 = 0x20;
const BLOCK_CHECKSUM: u8 = 0x10;
const CONTENT_SIZE: u8 = 0x08;
const RESERVED_OR_DICTIONARY: u8 = 0x03;
const STORED: u32 = 0x8000_0000;
/// One byte of a block stands for at most this many (a run of length bytes of 255).
const EXPANSION_MAX: usize = 255;

/// A frame whose header was read, and the blocks that are left.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    rest: &'a [u8],
    block_bytes_max: usize,
    block_checksum: bool,
    ended: bool,
}

fn corrupt(what: &'static str) -> InflateError {
    InflateError::Corrupt { codec: "lz4", what }
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> Result<&'a [u8], InflateError> {
    let (head, tail) = rest.split_at_checked(n).ok_or_else(|| corrupt("the frame is cut short"))?;
    *rest = tail;
    Ok(head)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, InflateError> {
    let (head, tail) =
        rest.split_first_chunk::<4>().ok_or_else(|| corrupt("the frame is cut short"))?;
    *rest = tail;
    Ok(u32::from_le_bytes(*head))
}

impl<'a> Frame<'a> {
    /// Reads the header. Neither the content size nor the content checksum is looked at: what
    /// comes out is bounded by the caller, and the batch has a CRC of its own.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, InflateError> {
        let mut rest = bytes;
        if take_u32(&mut rest)? != MAGIC {
            return Err(corrupt("not an lz4 frame"));
        }
        let from_flags = rest;
        let &[flags, size_code] = take(&mut rest, 2)? else {
            return Err(corrupt("the frame is cut short"));
        };
        if flags & VERSION_MASK != VERSION || flags & RESERVED_OR_DICTIONARY != 0 {
            return Err(corrupt("unknown version, reserved bits or a dictionary"));
        }
        if flags & INDEPENDENT == 0 {
            return Err(corrupt("linked blocks are not supported"));
        }
        let block_bytes_max = match size_code {
            0x40 => 64 << 10,
            0x50 => 256 << 10,
            0x60 => 1 << 20,
            0x70 => 4 << 20,
            _ => return Err(corrupt("unknown block size")),
        };
        let mut header_bytes = 2;
        if flags & CONTENT_SIZE != 0 {
            take(&mut rest, 8)?;
            header_bytes = 10;
        }
        let sum = xxh32(from_flags.get(..header_bytes).unwrap_or_default());
        if take(&mut rest, 1)? != [sum.to_be_bytes()[2]] {
            return Err(corrupt("wrong header checksum"));
        }
        let block_checksum = flags & BLOCK_CHECKSUM != 0;
        Ok(Self { rest, block_bytes_max, block_checksum, ended: false })
    }

    /// Puts the next block at the start of `out`, which grows as needed, and says how many bytes
    /// it has: 0 after the last. A block of more than `room` bytes is `TooLarge`.
    pub(super) fn block(&mut self, out: &mut Vec<u8>, room: usize) -> Result<usize, InflateError> {
        if self.ended {
            return Ok(0);
        }
        let word = take_u32(&mut self.rest)?;
        if word == 0 {
            self.ended = true;
            return Ok(0);
        }
        let len = usize::try_from(word & !STORED).map_err(|_| corrupt("block too big"))?;
        if len > self.block_bytes_max {
            return Err(corrupt("a block is bigger than the frame allows"));
        }
        let block = take(&mut self.rest, len)?;
        if self.block_checksum && take_u32(&mut self.rest)? != xxh32(block) {
            return Err(corrupt("wrong block checksum"));
        }
        if word & STORED != 0 {
            let dst = window(out, len.min(room));
            let src = block.get(..dst.len()).unwrap_or_default();
            dst.copy_from_slice(src);
            return if len > room { Err(InflateError::TooLarge) } else { Ok(len) };
        }
        let most = len.saturating_mul(EXPANSION_MAX).min(self.block_bytes_max);
        let out = window(out, most.min(room));
        let size = i32::try_from(out.len()).ok();
        if let Ok(n) = ::lz4::block::decompress_to_buffer(block, size, out) {
            return Ok(n);
        }
        match lz4_flex::block::decompress_into(block, out) {
            Ok(n) => Ok(n),
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if room < most => {
                Err(InflateError::TooLarge)
            }
            Err(_) => Err(corrupt("a block does not decompress")),
        }
    }
}

/// The first `n` bytes of `out`, which is made longer if need be and never shorter, so that it
/// is zeroed once and not for every block.
fn window(out: &mut Vec<u8>, n: usize) -> &mut [u8] {
    if out.len() < n {
        out.resize(n, 0);
    }
    out.get_mut(..n).unwrap_or_default()
}

const P1: u32 = 0x9E37_79B1;
const P2: u32 = 0x85EB_CA77;
const P3: u32 = 0xC2B2_AE3D;
const P4: u32 = 0x27D4_EB2F;
const P5: u32 = 0x1656_67B1;

fn lanes(stripe: &[u8]) -> impl Iterator<Item = u32> {
    stripe.as_chunks::<4>().0.iter().map(|w| u32::from_le_bytes(*w))
}

/// XXH32 of `data` with seed 0 (the xxHash specification).
fn xxh32(data: &[u8]) -> u32 {
    let (stripes, tail) = data.as_chunks::<16>();
    let mut acc = [P1.wrapping_add(P2), P2, 0, 0u32.wrapping_sub(P1)];
    for stripe in stripes {
        for (a, word) in acc.iter_mut().zip(lanes(stripe)) {
            *a = a.wrapping_add(word.wrapping_mul(P2)).rotate_left(13).wrapping_mul(P1);
        }
    }
    let mut h = if stripes.is_empty() {
        P5
    } else {
        let turns = [1, 7, 12, 18];
        acc.iter().zip(turns).fold(0u32, |h, (a, n)| h.wrapping_add(a.rotate_left(n)))
    };
    // The length counts modulo 2^32.
    let len = u32::try_from(data.len() & 0xffff_ffff).unwrap_or(u32::MAX);
    h = h.wrapping_add(len);
    let (words, bytes) = tail.as_chunks::<4>();
    for word in words {
        let lane = u32::from_le_bytes(*word).wrapping_mul(P3);
        h = h.wrapping_add(lane).rotate_left(17).wrapping_mul(P4);
    }
    for byte in bytes {
        h = h.wrapping_add(u32::from(*byte).wrapping_mul(P5)).rotate_left(11).wrapping_mul(P1);
    }
    h = (h ^ (h >> 15)).wrapping_mul(P2);
    h = (h ^ (h >> 13)).wrapping_mul(P3);
    h ^ (h >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxh32_fits_the_published_vectors() {
        assert_eq!(xxh32(b""), 0x02CC_5D05);
        assert_eq!(xxh32(b"abc"), 0x32D1_53FF);
        let text = b"Nobody inspects the spammish repetition";
        assert_eq!(xxh32(text), 0xE229_3B2F);
    }

    #[test]
    fn a_block_that_claims_more_than_the_frame_is_refused() {
        // Header of a 64 KiB frame, then a block of 2^31-1 bytes of which none arrived.
        let mut frame = vec![0x04, 0x22, 0x4d, 0x18, 0x60, 0x40];
        frame.push(xxh32(&frame[4..6]).to_be_bytes()[2]);
        frame.extend(0x7fff_ffffu32.to_le_bytes());
        let mut out = Vec::new();
        let got = Frame::open(&frame).unwrap().block(&mut out, 1 << 20);
        assert!(matches!(got, Err(InflateError::Corrupt { .. })), "{got:?}");
        assert_eq!(out.capacity(), 0);
    }
}
