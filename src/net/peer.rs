//! A client for frames: connects, sends requests, awaits answers in order. For the self-test of
//! listeners, and for what a broker asks of another.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{net::TcpStream, time::timeout};

use super::{NetError, memory::Memory, reader::FrameReader, writer::Flushed, writer::Writer};
use crate::wire::Chunk;

/// The terms of a client.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time for an answer to come whole (`request.timeout.ms`).
    pub request_timeout: Duration,
    /// Longest answer, without its length.
    pub frame_bytes_max: usize,
    /// Receive buffer of the socket in bytes (`replica.socket.receive.buffer.bytes`); `None`
    /// leaves it to the system.
    pub receive_buffer_bytes: Option<u32>,
    /// Where the memory of large answers is counted.
    pub memory: Arc<Memory>,
}

impl PeerConfig {
    /// Ten seconds to connect, thirty for an answer of at most 100 MiB, memory of its own.
    #[must_use]
    pub fn new() -> Self {
        let frame_bytes_max = 100 * 1024 * 1024;
        Self {
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            frame_bytes_max,
            receive_buffer_bytes: None,
            memory: Arc::new(Memory::new(0, frame_bytes_max)),
        }
    }
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// A connection to a peer. After an error it is of no further use; dropping it closes it.
#[derive(Debug)]
pub struct PeerClient {
    address: String,
    stream: TcpStream,
    reader: FrameReader,
    writer: Writer,
    /// Correlation ids of the answers that are to come, in order.
    awaited: VecDeque<i32>,
    request_timeout: Duration,
}

impl PeerClient {
    /// Connects to the first address of `host` that answers.
    ///
    /// # Errors
    /// `Connect`, or `TimedOut`.
    pub async fn connect(host: &str, port: u16, config: &PeerConfig) -> Result<Self, NetError> {
        let address = format!("{host}:{port}");
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let stream = match timeout(config.connect_timeout, open(host, port, config)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(NetError::Connect { address, source }),
            Err(_) => return Err(timed_out(address, config.connect_timeout)),
        };
        Ok(Self {
            address,
            stream,
            reader: FrameReader::new(Arc::clone(&config.memory), config.frame_bytes_max),
            writer: Writer::default(),
            awaited: VecDeque::new(),
            request_timeout: config.request_timeout,
        })
    }

    /// Host and port as they were given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Answers that are to come.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.awaited.len()
    }

    /// Sends a request frame, its length in front, and awaits the answer to it: a frame without
    /// its length, which begins with the correlation id.
    ///
    /// # Errors
    /// `TimedOut`, `Broken`, `BadAnswer`.
    pub async fn call(&mut self, request: Vec<Chunk>) -> Result<Bytes, NetError> {
        self.send(request).await?;
        self.receive().await
    }

    /// Sends a request frame, its length in front, without awaiting the answer.
    ///
    /// # Errors
    /// `TimedOut`, `Broken`; `BadAnswer` if `request` is no request.
    pub async fn send(&mut self, request: Vec<Chunk>) -> Result<(), NetError> {
        let Some(id) = correlation_id(&request) else {
            return Err(self.bad_answer("nothing: the request has no header".to_owned()));
        };
        self.writer.push(request);
        let within = self.request_timeout;
        match timeout(within, flush(&mut self.writer, &self.stream)).await {
            Ok(Ok(())) => self.awaited.push_back(id),
            Ok(Err(source)) => return Err(self.broken(source)),
            Err(_) => return Err(timed_out(self.address.clone(), within)),
        }
        Ok(())
    }

    /// Awaits the answer to the oldest request that has none.
    ///
    /// # Errors
    /// `TimedOut`, `Broken`; `BadAnswer` if nothing was asked, or another answer comes.
    pub async fn receive(&mut self) -> Result<Bytes, NetError> {
        let Some(want) = self.awaited.front().copied() else {
            return Err(self.bad_answer("nothing: no request waits for an answer".to_owned()));
        };
        let within = self.request_timeout;
        let Ok(frame) = timeout(within, self.frame()).await else {
            return Err(timed_out(self.address.clone(), within));
        };
        let frame = frame?;
        self.awaited.pop_front();
        match frame.first_chunk().map(|b| i32::from_be_bytes(*b)) {
            Some(id) if id == want => Ok(frame),
            id => Err(self.bad_answer(format!("an answer to request {id:?} instead of {want}"))),
        }
    }

    async fn frame(&mut self) -> Result<Bytes, NetError> {
        loop {
            match self.reader.next_frame() {
                // The budget covers reading; what is kept of the answer is the caller's.
                Ok(Some(frame)) => return Ok(frame.bytes),
                Ok(None) => {}
                Err(e) => return Err(self.bad_answer(e.to_string())),
            }
            match self.reader.fill(&mut self.stream).await {
                Ok(0) => return Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(source) => return Err(self.broken(source)),
            }
        }
    }

    fn broken(&self, source: io::Error) -> NetError {
        NetError::Broken { address: self.address.clone(), source }
    }

    fn bad_answer(&self, what: String) -> NetError {
        NetError::BadAnswer { address: self.address.clone(), what }
    }
}

fn timed_out(address: String, within: Duration) -> NetError {
    NetError::TimedOut { address, ms: within.as_millis() }
}

async fn open(host: &str, port: u16, config: &PeerConfig) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()?
        } else {
            tokio::net::TcpSocket::new_v6()?
        };
        if let Some(n) = config.receive_buffer_bytes {
            socket.set_recv_buffer_size(n)?;
        }
        socket.set_nodelay(true)?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn flush(writer: &mut Writer, stream: &TcpStream) -> io::Result<()> {
    loop {
        match writer.flush(stream)? {
            Flushed::Done => return Ok(()),
            Flushed::Full => stream.writable().await?,
            Flushed::Turn => tokio::task::yield_now().await,
        }
    }
}

/// The correlation id of a request frame: after length, API key and version.
fn correlation_id(request: &[Chunk]) -> Option<i32> {
    let Some(Chunk::Bytes(head)) = request.first() else { return None };
    head.get(8..)?.first_chunk().map(|b| i32::from_be_bytes(*b))
}
