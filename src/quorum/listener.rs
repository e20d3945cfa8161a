//! The controller listener: one port that speaks gRPC and Kafka. The first four bytes tell which:
//! `PRI ` opens HTTP/2, anything else is a Kafka frame. Uses nothing but sockets.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{service::Routes, transport::Server};

/// Takes a connection whose first bytes are a Kafka frame; nothing was read from it yet.
pub type KafkaConnections = Arc<dyn Fn(TcpStream, SocketAddr) + Send + Sync>;

/// How HTTP/2 begins.
const HTTP2: &[u8; 4] = b"PRI ";
/// A connection that has not sent four bytes by then is closed.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after `accept` failed (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that may wait for their first bytes at a time.
const UNKNOWN_MAX: usize = 1024;

/// A running controller listener. Stops when dropped.
#[derive(Debug)]
pub struct ControllerListener {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Serves `routes` to gRPC callers and hands all other connections to `kafka`.
///
/// # Errors
/// The listener has no local address.
pub fn serve(
    listener: TcpListener,
    routes: Routes,
    kafka: KafkaConnections,
) -> io::Result<ControllerListener> {
    let local_addr = listener.local_addr()?;
    let (stop, stopping) = watch::channel(false);
    let (grpc, incoming) = mpsc::channel::<io::Result<TcpStream>>(64);
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(listener, grpc, kafka, stopping.clone()));
    tasks.spawn(async move {
        let server = Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .add_routes(routes);
        let stopped = stop_asked(stopping);
        let done = server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped);
        if let Err(e) = done.await {
            tracing::error!("the controller listener's gRPC server ended: {e}");
        }
    });
    Ok(ControllerListener { local_addr, stop, tasks })
}

async fn stop_asked(mut stopping: watch::Receiver<bool>) {
    // An error means that the sender is gone: stop as well.
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: TcpListener,
    grpc: mpsc::Sender<io::Result<TcpStream>>,
    kafka: KafkaConnections,
    stopping: watch::Receiver<bool>,
) {
    let mut unknown = JoinSet::new();
    let mut stop = std::pin::pin!(stop_asked(stopping));
    loop {
        while unknown.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut stop => return,
            _ = unknown.join_next(), if unknown.len() >= UNKNOWN_MAX => continue,
            accepted = listener.accept(), if unknown.len() < UNKNOWN_MAX => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let (grpc, kafka) = (grpc.clone(), Arc::clone(&kafka));
                unknown.spawn(async move {
                    let sorted = sort(stream, from, &grpc, &kafka);
                    if tokio::time::timeout(FIRST_BYTES_TIMEOUT, sorted).await.is_err() {
                        tracing::debug!(%from, "closed: no four bytes in time");
                    }
                });
            }
            Err(e) => {
                tracing::warn!("the controller listener cannot accept: {e}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn sort(
    stream: TcpStream,
    from: SocketAddr,
    grpc: &mpsc::Sender<io::Result<TcpStream>>,
    kafka: &KafkaConnections,
) {
    match speaks_http2(&stream).await {
        Ok(true) => {
            let _ = stream.set_nodelay(true);
            // The receiver is gone only when the server stops.
            let _ = grpc.send(Ok(stream)).await;
        }
        Ok(false) => kafka(stream, from),
        Err(e) => tracing::debug!(%from, "closed before it spoke: {e}"),
    }
}

/// Looks at the first bytes without taking them.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; HTTP2.len()];
    loop {
        let n = stream.peek(&mut first).await?;
        let seen = first.get(..n).unwrap_or_default();
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !HTTP2.starts_with(seen) {
            return Ok(false);
        }
        if n == HTTP2.len() {
            return Ok(true);
        }
        // A part of the word is there: readiness would be reported at once, so pause.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl ControllerListener {
    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting, ends all streams, and waits until the tasks are gone.
    pub async fn shutdown(mut self) {
        // Nobody listens any more if the tasks have ended already.
        let _ = self.stop.send(true);
        // Open streams have no end of their own.
        let deadline = tokio::time::sleep(Duration::from_millis(200));
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                next = self.tasks.join_next() => if next.is_none() { return },
                () = &mut deadline => break,
            }
        }
        self.tasks.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn frames_are_told_from_http2() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (seen, mut frames) = mpsc::unbounded_channel();
        let kafka: KafkaConnections = Arc::new(move |stream, _| seen.send(stream).unwrap());
        let serving = serve(listener, Routes::default(), kafka).unwrap();
        let mut frame = TcpStream::connect(serving.local_addr()).await.unwrap();
        frame.write_all(b"PR").await.unwrap();
        frame.write_all(b"Xrest").await.unwrap();
        let mut got = frames.recv().await.unwrap();
        let mut bytes = [0; 7];
        got.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"PRXrest", "nothing was taken");

        let mut http = TcpStream::connect(serving.local_addr()).await.unwrap();
        http.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        http.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut settings = [0; 9];
        http.read_exact(&mut settings).await.unwrap();
        assert_eq!(settings[3], 4, "the server sends its SETTINGS frame");
        serving.shutdown().await;
    }
}
