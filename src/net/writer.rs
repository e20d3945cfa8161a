//! Answers into a socket, without a copy: pieces in memory by vectored writes, runs of files by
//! `sendfile`. Keeps its place when the socket is full.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
};

use bytes::{Buf as _, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use tokio::{io::Interest, net::TcpStream};

use crate::{base::ports::FileSlice, wire::Chunk};

/// Pieces of memory in one write.
const PIECES_MAX: usize = 32;
/// Bytes of a file in one call, so that a disk that is slow does not hold a thread for long.
const FILE_STEP_BYTES: usize = 1 << 20;
/// Bytes that are copied at a time where there is no `sendfile`.
const COPY_STEP_BYTES: usize = 256 * 1024;
/// Bytes after which other tasks of the thread get their turn.
const TURN_BYTES: usize = 8 << 20;

/// How far a flush came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flushed {
    /// All is written.
    Done,
    /// The socket takes no more for now.
    Full,
    /// There is more to write, but others should run first.
    Turn,
}

/// What waits to be written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    queue: VecDeque<Chunk>,
    memory_bytes: usize,
    written: u64,
    copy: BytesMut,
}

impl Writer {
    /// Adds the pieces of an answer.
    pub(super) fn push(&mut self, chunks: Vec<Chunk>) {
        for chunk in chunks {
            if let Chunk::Bytes(b) = &chunk {
                self.memory_bytes += b.len();
            }
            if !chunk.is_empty() {
                self.queue.push_back(chunk);
            }
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of memory that wait.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    /// Bytes written in all.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Writes until all is written or the socket is full.
    ///
    /// # Errors
    /// Those of the socket and the file; `UnexpectedEof` if a file is shorter than its slice. The
    /// connection cannot go on after any of them.
    pub(super) fn flush(&mut self, socket: &TcpStream) -> io::Result<Flushed> {
        let mut turn = 0;
        loop {
            let done = match self.queue.front() {
                None => return Ok(Flushed::Done),
                Some(Chunk::Bytes(_)) => self.write_memory(socket),
                Some(Chunk::File(slice)) if slice.file.fd().is_some() => self.send_file(socket),
                Some(Chunk::File(_)) => self.load().map(|()| 0),
            };
            match done {
                Ok(n) => {
                    turn += n;
                    self.written += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Full),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if turn >= TURN_BYTES && !self.queue.is_empty() {
                return Ok(Flushed::Turn);
            }
        }
    }

    fn write_memory(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        for (piece, chunk) in pieces.iter_mut().zip(&self.queue) {
            let Chunk::Bytes(bytes) = chunk else { break };
            *piece = IoSlice::new(bytes);
            count += 1;
        }
        // What a file follows waits for it, so that both leave in full segments.
        let more = self.queue.len() > count;
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        let pieces = pieces.get(..count).unwrap_or_default();
        let mut n = socket.try_io(Interest::WRITABLE, || {
            let mut control = SendAncillaryBuffer::default();
            Ok(rustix::net::sendmsg(socket, pieces, &mut control, flags)?)
        })?;
        let sent = n;
        self.memory_bytes -= n;
        while n > 0 {
            let Some(Chunk::Bytes(bytes)) = self.queue.front_mut() else { break };
            let now = n.min(bytes.len());
            bytes.advance(now);
            n -= now;
            if bytes.is_empty() {
                self.queue.pop_front();
            }
        }
        Ok(sent)
    }

    fn send_file(&mut self, socket: &TcpStream) -> io::Result<usize> {
        let Some(Chunk::File(slice)) = self.queue.front_mut() else { return Ok(0) };
        let Some(fd) = slice.file.fd() else { return Ok(0) };
        let count = slice.len.min(FILE_STEP_BYTES);
        let mut at = slice.pos;
        let n = socket.try_io(Interest::WRITABLE, || {
            Ok(rustix::fs::sendfile(socket, fd, Some(&mut at), count)?)
        })?;
        if n == 0 {
            return Err(short_file(slice));
        }
        slice.pos += n as u64;
        slice.len -= n;
        if slice.len == 0 {
            self.queue.pop_front();
        }
        Ok(n)
    }

    /// Puts the next bytes of a file without a descriptor in front of the queue.
    fn load(&mut self) -> io::Result<()> {
        let Some(Chunk::File(slice)) = self.queue.front_mut() else { return Ok(()) };
        self.copy.clear();
        self.copy.resize(slice.len.min(COPY_STEP_BYTES), 0);
        let n = slice.file.read_at(&mut self.copy, slice.pos)?;
        if n == 0 {
            return Err(short_file(slice));
        }
        slice.pos += n as u64;
        slice.len -= n;
        if slice.len == 0 {
            self.queue.pop_front();
        }
        self.memory_bytes += n;
        self.queue.push_front(Chunk::Bytes(self.copy.split_to(n).freeze()));
        Ok(())
    }
}

fn short_file(slice: &FileSlice) -> io::Error {
    let text = format!("the file ends before {} + {} bytes of an answer", slice.pos, slice.len);
    io::Error::new(io::ErrorKind::UnexpectedEof, text)
}
