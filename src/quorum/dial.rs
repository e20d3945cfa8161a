//! The way to another controller's listener, as a port: plain TCP in production, a simulated
//! network in tests, and the place where TLS and SASL go on top. Uses nothing but sockets.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

use super::{settings::QuorumTimeouts, types::BadMessage};

/// An open connection.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Connects to controllers.
pub trait Dial: Send + Sync + fmt::Debug {
    /// Connects to `authority` (`host:port`). `ConnectionRefused` says that nobody listens there.
    fn dial(&self, authority: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>>;
}

/// Connects by TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDial;

impl Dial for TcpDial {
    fn dial(&self, authority: String) -> BoxFuture<'static, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }
}

/// Dials for a gRPC channel.
#[derive(Debug, Clone)]
struct Connector {
    dial: Arc<dyn Dial>,
    authority: String,
    timeout: Duration,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Connection>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (dialled, timeout) = (self.dial.dial(self.authority.clone()), self.timeout);
        Box::pin(async move {
            match tokio::time::timeout(timeout, dialled).await {
                Ok(connection) => connection.map(TokioIo::new),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

/// A channel to `authority` (`host:port`) that connects at its first use and again whenever it
/// broke.
///
/// # Errors
/// Host and port make no address.
pub(crate) fn channel(
    dial: &Arc<dyn Dial>,
    authority: &str,
    timeouts: &QuorumTimeouts,
) -> Result<Channel, BadMessage> {
    // A peer that went silent must not hold a call for longer than a request may take.
    let silence = timeouts.request.max(Duration::from_secs(1));
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))
        .map_err(|_| BadMessage("controller address"))?
        .http2_keep_alive_interval(silence)
        .keep_alive_timeout(silence);
    let (dial, authority) = (Arc::clone(dial), authority.to_owned());
    Ok(endpoint.connect_with_connector_lazy(Connector {
        dial,
        authority,
        timeout: timeouts.request,
    }))
}
