//! Frames out of a stream of bytes. A buffer grows with what arrived, never on the word of a
//! length: 64 KiB of a frame must be here before room for all of it is made.

use std::{io, sync::Arc};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::TcpStream,
};

use super::memory::{Memory, Permit, SMALL_BYTES};

/// Bytes of the length in front of a frame.
const LENGTH_BYTES: usize = 4;
/// The first buffer of a connection.
const FIRST_BYTES: usize = 4 * 1024;
/// What a frame of which 64 KiB arrived may take at least.
const GROWN_BYTES: usize = 4 << 20;

/// A frame without its length, and the budget that its memory was counted to.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) permit: Option<Permit>,
}

/// A length that no frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {size} bytes; 1 to {max} are allowed{}", hint(*size))]
pub(super) struct BadLength {
    pub(super) size: i32,
    pub(super) max: usize,
}

/// What a peer that does not speak Kafka's protocol may be doing.
fn hint(size: i32) -> &'static str {
    match size.to_be_bytes() {
        [0x16, 3, ..] => "; the peer seems to speak TLS",
        [b'G', b'E', b'T', b' '] | [b'P', b'O', b'S', b'T'] | [b'P', b'R', b'I', b' '] => {
            "; the peer seems to speak HTTP"
        }
        _ => "",
    }
}

/// Cuts frames out of what was read.
#[derive(Debug)]
pub(super) struct FrameReader {
    buf: BytesMut,
    memory: Arc<Memory>,
    permit: Option<Permit>,
    /// Bytes that `permit` stands for.
    permit_bytes: usize,
    /// Length of the frame that `buf` begins with, its own four bytes counted in.
    total: Option<usize>,
    /// The same of the frame before: the next is likely to be as long.
    last_total: usize,
    frame_bytes_max: usize,
}

impl FrameReader {
    pub(super) fn new(memory: Arc<Memory>, frame_bytes_max: usize) -> Self {
        Self {
            buf: BytesMut::new(),
            memory,
            permit: None,
            permit_bytes: 0,
            total: None,
            last_total: 0,
            frame_bytes_max,
        }
    }

    /// The next frame, if all of it is here.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, BadLength> {
        let total = match self.total {
            Some(total) => total,
            None => {
                let Some(length) = self.buf.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
                let size = i32::from_be_bytes(*length);
                let len = usize::try_from(size).unwrap_or(0);
                if len == 0 || len > self.frame_bytes_max {
                    return Err(BadLength { size, max: self.frame_bytes_max });
                }
                *self.total.insert(len + LENGTH_BYTES)
            }
        };
        if self.buf.len() < total {
            return Ok(None);
        }
        self.total = None;
        self.last_total = total;
        let mut frame = self.buf.split_to(total);
        frame.advance(LENGTH_BYTES);
        self.permit_bytes = 0;
        Ok(Some(Frame { bytes: frame.freeze(), permit: self.permit.take() }))
    }

    /// Whether a part of a frame is here.
    pub(super) fn is_mid_frame(&self) -> bool {
        !self.buf.is_empty()
    }

    /// Length of the frame that has begun, as far as it is known.
    pub(super) fn frame_bytes(&self) -> usize {
        self.total.unwrap_or(self.buf.len())
    }

    /// Bytes read that are not yet a frame.
    pub(super) fn held_len(&self) -> usize {
        self.buf.len()
    }

    /// Whether there is no buffer: then wait until there is something to read, before one is taken.
    pub(super) fn is_bare(&self) -> bool {
        self.buf.capacity() == 0
    }

    /// Bytes of buffer that this connection holds.
    pub(super) fn held_bytes(&self) -> usize {
        self.buf.capacity()
    }

    /// After a frame was dispatched: a large buffer whose frame is gone serves other connections.
    pub(super) fn recycle(&mut self) {
        if self.buf.is_empty() && self.last_total > SMALL_BYTES {
            let mut buf = std::mem::take(&mut self.buf);
            if buf.try_reclaim(self.last_total) {
                self.memory.give(buf);
            }
            self.drop_permit();
        }
    }

    /// Gives a first buffer back into which nothing came.
    pub(super) fn recall(&mut self) {
        self.memory.give(std::mem::take(&mut self.buf));
        self.drop_permit();
    }

    /// Gives up the buffer if nothing is in it, and forgets how long frames were.
    pub(super) fn release(&mut self) {
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
            self.last_total = 0;
            self.drop_permit();
        }
    }

    fn drop_permit(&mut self) {
        self.permit = None;
        self.permit_bytes = 0;
    }

    /// A first buffer for bytes that are known to wait: a large one if the last frame was large
    /// and one is at hand. May be called only while `is_bare`.
    pub(super) fn first_buffer(&mut self) -> &mut BytesMut {
        debug_assert!(self.is_bare());
        let size = self.last_total.max(FIRST_BYTES);
        if size > SMALL_BYTES
            && let Some(permit) = self.memory.try_take(size)
            && let Some(buf) = self.memory.buffer(size)
        {
            (self.buf, self.permit, self.permit_bytes) = (buf, Some(permit), size);
        } else {
            self.buf.reserve(size.min(SMALL_BYTES));
        }
        &mut self.buf
    }

    /// Reads what there is, at most to the end of a frame that is large; 0 at the end of the
    /// stream. Waits for budget where a large frame needs it. Nothing is lost if it is dropped.
    pub(super) async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        let room = self.prepare().await?;
        from.read_buf(&mut (&mut self.buf).limit(room)).await
    }

    /// Whether nothing of a frame is here, and the next is likely to be a small one.
    pub(super) fn expects_small(&self) -> bool {
        self.buf.is_empty() && self.total.is_none() && self.last_total <= FIRST_BYTES
    }

    /// Reads what is there of a small frame without waiting and past the reactor. Whether there was
    /// anything. May be called only while [`Self::expects_small`].
    pub(super) fn fill_now(&mut self, from: &TcpStream) -> bool {
        let mut bytes = [0; FIRST_BYTES];
        match rustix::net::recv(from, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((n, _)) if n > 0 => {
                self.buf.extend_from_slice(bytes.get(..n).unwrap_or_default());
                true
            }
            // The end and errors show again when the reactor is asked.
            _ => false,
        }
    }

    /// Makes room and says how much may be read.
    async fn prepare(&mut self) -> io::Result<usize> {
        let have = self.buf.len();
        let total = self.total.unwrap_or(0);
        if total <= SMALL_BYTES {
            let size = self.last_total.clamp(FIRST_BYTES, SMALL_BYTES).max(total);
            if self.buf.capacity() <= have || self.buf.capacity() < total {
                self.buf.reserve(size.max(have + 1) - have);
            }
            return Ok(self.buf.capacity() - have);
        }
        let target = self.target(total, have);
        if target > SMALL_BYTES && target > self.permit_bytes {
            let more = self.memory.take(target - self.permit_bytes).await;
            let more = more.ok_or(io::ErrorKind::BrokenPipe)?;
            match &mut self.permit {
                Some(permit) => permit.merge(more),
                none => *none = Some(more),
            }
            self.permit_bytes = target;
        }
        if self.buf.capacity() < target {
            let pooled = if have <= SMALL_BYTES { self.memory.buffer(target) } else { None };
            match pooled {
                Some(mut buf) => {
                    buf.extend_from_slice(&self.buf);
                    self.buf = buf;
                }
                None => self.buf.reserve(target - have),
            }
        }
        Ok(target.min(total) - have)
    }

    /// The buffer that a frame of `total` bytes may have, of which `have` arrived. A buffer at
    /// hand is taken early: it costs nothing, and saves the copy.
    fn target(&self, total: usize, have: usize) -> usize {
        if self.buf.capacity() >= total && self.permit_bytes >= total {
            return total;
        }
        if have < SMALL_BYTES {
            return SMALL_BYTES.min(total);
        }
        total.min(GROWN_BYTES.max(have.saturating_mul(4)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> FrameReader {
        FrameReader::new(Arc::new(Memory::new(16 << 20, 8 << 20)), 8 << 20)
    }

    fn framed(len: usize) -> Vec<u8> {
        let mut out = i32::try_from(len).unwrap().to_be_bytes().to_vec();
        out.extend((0..len).map(|i| i as u8));
        out
    }

    #[tokio::test]
    async fn frames_come_out_as_they_went_in() {
        let lens = [1, 10, 5000, SMALL_BYTES, SMALL_BYTES + 1, 3 << 20, 2 << 20, 7, 1 << 20];
        let stream: Vec<u8> = lens.iter().flat_map(|n| framed(*n)).collect();
        let mut from = &stream[..];
        let mut r = reader();
        for want in lens {
            let frame = loop {
                if let Some(frame) = r.next_frame().unwrap() {
                    break frame;
                }
                assert!(r.fill(&mut from).await.unwrap() > 0);
            };
            assert!(frame.bytes[..] == framed(want)[4..], "{want}");
            assert_eq!(frame.permit.is_some(), want + 4 > SMALL_BYTES, "{want}");
            drop(frame);
            r.recycle();
        }
        assert!(!r.is_mid_frame());
        assert_eq!(r.memory.available_bytes(), 16 << 20);
    }

    #[tokio::test]
    async fn a_claimed_length_takes_no_memory() {
        let mut r = reader();
        let bytes = framed(8 << 20);
        let mut first = &bytes[..1000];
        while r.fill(&mut first).await.unwrap() > 0 {
            assert!(r.next_frame().unwrap().is_none());
        }
        assert!(r.held_bytes() <= SMALL_BYTES, "{}", r.held_bytes());
        assert_eq!(r.memory.available_bytes(), 16 << 20);
        // With 64 KiB here it may take 4 MiB, not 8.
        let mut more = &bytes[1000..SMALL_BYTES + 10];
        while r.fill(&mut more).await.unwrap() > 0 {
            assert!(r.next_frame().unwrap().is_none());
        }
        assert!(r.held_bytes() <= GROWN_BYTES + SMALL_BYTES, "{}", r.held_bytes());
        assert_eq!(r.memory.available_bytes(), (16 << 20) - GROWN_BYTES);
    }

    #[tokio::test]
    async fn large_buffers_are_used_again() {
        let mut r = reader();
        let bytes = framed(1 << 20);
        let mut places = Vec::new();
        for _ in 0..3 {
            let mut from = &bytes[..];
            let frame = loop {
                if let Some(frame) = r.next_frame().unwrap() {
                    break frame;
                }
                if r.is_bare() {
                    let n = from.len().min(r.first_buffer().capacity());
                    r.buf.extend_from_slice(&from[..n]);
                    from = &from[n..];
                } else {
                    r.fill(&mut from).await.unwrap();
                }
            };
            places.push(frame.bytes.as_ptr());
            drop(frame);
            r.recycle();
            assert!(r.is_bare());
        }
        assert!(places.iter().all(|p| *p == places[0]), "{places:?}");
    }

    #[test]
    fn lengths_out_of_bounds_are_refused() {
        for size in [0, -1, i32::MIN, i32::MAX, (8 << 20) + 1] {
            let mut r = reader();
            r.buf.extend_from_slice(&size.to_be_bytes());
            assert_eq!(r.next_frame().unwrap_err(), BadLength { size, max: 8 << 20 });
        }
    }
}
