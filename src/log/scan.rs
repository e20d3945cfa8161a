//! Walks over the batches of a segment file, header by header; the bodies are read only if asked
//! for.

use std::{io, sync::Arc};

use crate::base::{limits::BATCH_HEADER_BYTES, ports::File};
use crate::record::{BatchError, BatchHeader};

/// Bytes read at once when only headers are looked at.
pub(super) const HEADERS_WINDOW: usize = 8 << 10;
/// Bytes read at once when every byte is looked at.
pub(super) const BODIES_WINDOW: usize = 1 << 20;

/// A walk from one batch boundary to the end.
#[derive(Debug)]
pub(super) struct Scanner {
    file: Arc<dyn File>,
    pos: u64,
    end: u64,
    window: usize,
    buf: Vec<u8>,
    buf_at: u64,
}

impl Scanner {
    /// A walk over `file` from `pos` to `end`, which must be within the file.
    pub(super) fn new(file: Arc<dyn File>, pos: u64, end: u64, window: usize) -> Self {
        Self { file, pos, end, window, buf: Vec::new(), buf_at: 0 }
    }

    /// Where the next batch begins, or the first bad one.
    pub(super) fn pos(&self) -> u64 {
        self.pos
    }

    /// The next batch's position and header; `None` at the end. A batch that has no valid header
    /// or does not end within the file is the last item.
    pub(super) fn next(&mut self) -> io::Result<Option<Result<(u64, BatchHeader), BatchError>>> {
        let pos = self.pos;
        let left = self.end.saturating_sub(pos);
        if left == 0 {
            return Ok(None);
        }
        let need = BATCH_HEADER_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX));
        let header = match BatchHeader::read(self.bytes(pos, need)?) {
            Ok(h) => h,
            Err(e) => return Ok(Some(Err(e))),
        };
        if header.size as u64 > left {
            let have = usize::try_from(left).unwrap_or(usize::MAX);
            return Ok(Some(Err(BatchError::Truncated { have, need: header.size })));
        }
        self.pos += header.size as u64;
        Ok(Some(Ok((pos, header))))
    }

    /// All bytes of a batch that [`Scanner::next`] gave.
    pub(super) fn body(&mut self, pos: u64, header: &BatchHeader) -> io::Result<&[u8]> {
        self.bytes(pos, header.size)
    }

    fn bytes(&mut self, pos: u64, len: usize) -> io::Result<&[u8]> {
        let held = pos.checked_sub(self.buf_at).and_then(|at| usize::try_from(at).ok());
        let at = match held.filter(|at| at.saturating_add(len) <= self.buf.len()) {
            Some(at) => at,
            None => {
                let left = usize::try_from(self.end - pos).unwrap_or(usize::MAX);
                self.buf.resize(self.window.max(len).min(left), 0);
                self.buf_at = pos;
                self.file.read_exact_at(&mut self.buf, pos)?;
                0
            }
        };
        Ok(&self.buf[at..at + len])
    }
}
