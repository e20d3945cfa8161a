//! One connection, one request at a time.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{FindCoordinatorRequest, RequestHeader, ResponseHeader},
    protocol::{Decodable as _, Encodable, HeaderVersion, Request, StrBytes},
};

/// Longer answers than this are none.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub(crate) struct Connection {
    socket: TcpStream,
    correlation_id: i32,
}

impl Connection {
    pub(crate) fn open(bootstrap: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(bootstrap)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket, correlation_id: 0 })
    }

    pub(crate) fn call<R>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response>
    where
        R: Request,
    {
        let frame = encode(version, request)?;
        self.exchange::<R>(version, &frame)
    }

    /// Sends a frame that [`encode`] made.
    pub(crate) fn exchange<R: Request>(
        &mut self,
        version: i16,
        frame: &[u8],
    ) -> anyhow::Result<R::Response> {
        let mut answer = self.raw(frame)?;
        ResponseHeader::decode(&mut answer, R::Response::header_version(version))?;
        R::Response::decode(&mut answer, version)
    }

    /// The answer with its header.
    pub(crate) fn raw(&mut self, frame: &[u8]) -> anyhow::Result<Bytes> {
        self.correlation_id += 1;
        self.socket.write_all(frame)?;
        let mut length = [0; 4];
        self.socket.read_exact(&mut length).context("no answer")?;
        let length = usize::try_from(i32::from_be_bytes(length))?;
        ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        let mut answer = vec![0; length];
        self.socket.read_exact(&mut answer)?;
        Ok(answer.into())
    }

    /// Waits until the coordinator of `key` is found, which makes its topic. `kind` 0 is a group,
    /// 1 a transactional id.
    pub(crate) fn coordinator(&mut self, key: &str, kind: i8) -> anyhow::Result<()> {
        let request = FindCoordinatorRequest::default().with_key(text(key)).with_key_type(kind);
        for _ in 0..3000 {
            let found = self.call(3, &request)?;
            if found.error_code == 0 {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        anyhow::bail!("no coordinator for {key}")
    }
}

/// The whole frame, with its length.
pub(crate) fn encode<R: Request>(version: i16, request: &R) -> anyhow::Result<Bytes> {
    let header = RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(7)
        .with_client_id(Some(text("coordinator-load")));
    let mut frame = BytesMut::from(&[0; 4][..]);
    header.encode(&mut frame, R::header_version(version))?;
    request.encode(&mut frame, version)?;
    let length = i32::try_from(frame.len() - 4)?.to_be_bytes();
    frame[..4].copy_from_slice(&length);
    Ok(frame.freeze())
}
