//! One socket that accepts: its options, the accept loop, its graceful end.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    ConnInfo, ConnLimits, NetError, Service,
    conn::{self, Stop},
    memory::Memory,
    quota::{ConnectionQuota, Slot},
};

/// The pause after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often buffers that nobody uses are freed.
const TRIM_INTERVAL: Duration = Duration::from_secs(5);

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What a listener is told.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Its name, as in `listeners`.
    pub name: Arc<str>,
    /// Host or address to bind; empty for all addresses.
    pub host: String,
    /// Port to bind; 0 for one that the system chooses.
    pub port: u16,
    /// `socket.listen.backlog.size`.
    pub backlog: u32,
    /// `socket.send.buffer.bytes`; `None` (-1) leaves it to the system.
    pub send_buffer_bytes: Option<u32>,
    /// `socket.receive.buffer.bytes`; `None` (-1) leaves it to the system.
    pub receive_buffer_bytes: Option<u32>,
    /// `vltava.listener.tcp.congestion.control`; `None` leaves it to the system, but for peers on
    /// this machine.
    pub congestion_control: Option<String>,
    /// The terms of its connections.
    pub conn: ConnLimits,
}

impl ListenerConfig {
    /// A listener with Kafka's defaults.
    pub fn new(name: impl Into<Arc<str>>, host: impl Into<String>, port: u16) -> Self {
        Self {
            name: name.into(),
            host: host.into(),
            port,
            backlog: 50,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
            congestion_control: None,
            conn: ConnLimits::default(),
        }
    }
}

/// What all listeners of a process share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Memory for frames.
    pub memory: Arc<Memory>,
    /// The count of connections.
    pub quota: Arc<ConnectionQuota>,
}

/// A bound socket. Peers can connect and wait; `serve` lets them in.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    config: ListenerConfig,
}

impl Listener {
    /// Binds and listens.
    ///
    /// # Errors
    /// `Bind` if no address of the host can be had, `Option` if a socket option is refused.
    pub async fn bind(config: ListenerConfig) -> Result<Self, NetError> {
        let fail = |source| NetError::Bind {
            listener: config.name.to_string(),
            address: format!("{}:{}", config.host, config.port),
            source,
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in addresses(&config.host, config.port).await.map_err(fail)? {
            let socket = open(&config, address)?.map_err(fail);
            match socket.and_then(|s| {
                let address = s.local_addr().map_err(fail)?;
                Ok((s, address))
            }) {
                Ok((socket, address)) => return Ok(Self { socket, address, config }),
                Err(NetError::Bind { source, .. }) => last = source,
                Err(e) => return Err(e),
            }
        }
        Err(fail(last))
    }

    /// The address it has.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets connections in and has `service` answer them, in tasks of the current runtime.
    #[must_use = "dropping the handle ends the listener and its connections"]
    pub fn serve<S: Service>(self, service: Arc<S>, shared: Shared) -> ListenerHandle {
        let (stop, stopped) = watch::channel(None);
        let (name, address) = (Arc::clone(&self.config.name), self.address);
        let accepting =
            Accepting { config: self.config, shared, stop: stopped, conns: JoinSet::new() };
        let task = tokio::spawn(accepting.run(Source::Socket(self.socket), service));
        ListenerHandle { name, address, stop, task }
    }
}

/// Serves connections that another accepted: on a controller's listener, those that do not speak
/// HTTP/2. `address` is where they were accepted; of `config` the name and the terms of connections
/// count.
#[must_use = "dropping the handle ends the connections"]
pub fn serve_accepted<S: Service>(
    config: ListenerConfig,
    address: SocketAddr,
    accepted: mpsc::Receiver<(TcpStream, SocketAddr)>,
    service: Arc<S>,
    shared: Shared,
) -> ListenerHandle {
    let (stop, stopped) = watch::channel(None);
    let name = Arc::clone(&config.name);
    let accepting = Accepting { config, shared, stop: stopped, conns: JoinSet::new() };
    let task = tokio::spawn(accepting.run(Source::Accepted(accepted), service));
    ListenerHandle { name, address, stop, task }
}

/// Where connections come from.
enum Source {
    Socket(TcpListener),
    Accepted(mpsc::Receiver<(TcpStream, SocketAddr)>),
}

impl Source {
    async fn accept(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Self::Socket(socket) => socket.accept().await,
            Self::Accepted(accepted) => match accepted.recv().await {
                Some(connection) => Ok(connection),
                // Whoever accepted has ended: nothing comes any more.
                None => std::future::pending().await,
            },
        }
    }
}

async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if host.is_empty() {
        // Both families where there are two, as Java binds.
        return Ok(vec![([0u16; 8], port).into(), ([0u8; 4], port).into()]);
    }
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Ok(tokio::net::lookup_host((host, port)).await?.collect())
}

/// The outer error ends the attempt to bind, the inner one only this address.
fn open(config: &ListenerConfig, at: SocketAddr) -> Result<io::Result<TcpListener>, NetError> {
    let socket = match if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() } {
        Ok(socket) => socket,
        Err(e) => return Ok(Err(e)),
    };
    let refused = |option, value: &dyn ToString, source| NetError::Option {
        listener: config.name.to_string(),
        option,
        value: value.to_string(),
        source,
    };
    // Accepted sockets inherit all of these.
    if let Some(n) = config.send_buffer_bytes {
        let done = socket.set_send_buffer_size(n);
        done.map_err(|e| refused("socket.send.buffer.bytes", &n, e))?;
    }
    if let Some(n) = config.receive_buffer_bytes {
        let done = socket.set_recv_buffer_size(n);
        done.map_err(|e| refused("socket.receive.buffer.bytes", &n, e))?;
    }
    if let Some(name) = &config.congestion_control {
        let done = rustix::net::sockopt::set_tcp_congestion(&socket, name);
        let key = "vltava.listener.tcp.congestion.control";
        done.map_err(|e| refused(key, name, e.into()))?;
    }
    Ok((|| {
        socket.set_reuseaddr(true)?;
        socket.set_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.bind(at)?;
        socket.listen(config.backlog)
    })())
}

/// For peers on this machine; every Linux has it.
const LOCAL_CONGESTION_CONTROL: &str = "reno";

/// A listener that serves. Dropping it ends the listener and its connections at once.
#[derive(Debug)]
pub struct ListenerHandle {
    name: Arc<str>,
    address: SocketAddr,
    stop: watch::Sender<Option<Instant>>,
    task: JoinHandle<()>,
}

impl ListenerHandle {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address it has.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops accepting at once and reads no further request. Connections end as soon as all they
    /// owe is sent, at the latest after `grace`. Returns when the last one ended.
    pub async fn stop(mut self, grace: Duration) {
        self.stop.send_replace(Some(Instant::now() + grace));
        // The task ends by itself; that it was cancelled or panicked changes nothing here.
        _ = (&mut self.task).await;
    }
}

impl Drop for ListenerHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Accepting {
    config: ListenerConfig,
    shared: Shared,
    stop: Stop,
    conns: JoinSet<()>,
}

impl Accepting {
    async fn run<S: Service>(mut self, mut source: Source, service: Arc<S>) {
        let mut stop = self.stop.clone();
        let mut trim = tokio::time::interval(TRIM_INTERVAL);
        let mut failing = false;
        let until = loop {
            tokio::select! {
                biased;
                until = conn::stopped(&mut stop) => break until,
                Some(_) = self.conns.join_next(), if !self.conns.is_empty() => {}
                _ = trim.tick() => self.shared.memory.trim(),
                (slot, accepted) = accept(&mut source, &self.shared.quota) => match accepted {
                    Ok((stream, peer)) => {
                        failing = false;
                        self.admit(stream, peer, slot, &service);
                    }
                    // A peer that went away while it waited.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(e) => {
                        if !failing {
                            warn!(listener = %self.config.name, "cannot accept: {e}; trying again");
                        }
                        failing = true;
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        };
        drop(source);
        self.finish(until).await;
    }

    fn admit<S: Service>(
        &mut self,
        stream: TcpStream,
        peer: SocketAddr,
        mut slot: Slot,
        service: &Arc<S>,
    ) {
        let listener = &self.config.name;
        if let Err(max) = slot.admit(peer.ip()) {
            info!(%listener, %peer, "connection refused: its address has {max} already");
            return;
        }
        let Ok(local) = stream.local_addr() else { return };
        if self.config.congestion_control.is_none() && peer.ip() == local.ip() {
            // There is no path to model or to share: pacing would only cost CPU. Where it is
            // refused, the system's own does.
            _ = rustix::net::sockopt::set_tcp_congestion(&stream, LOCAL_CONGESTION_CONTROL);
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let info = ConnInfo { id, listener: Arc::clone(listener), peer, local };
        let (limits, stop) = (self.config.conn, self.stop.clone());
        let (memory, service) = (Arc::clone(&self.shared.memory), Arc::clone(service));
        self.conns.spawn(async move {
            let _slot = slot;
            conn::serve(stream, info, service, limits, memory, stop).await;
        });
    }

    /// Waits for the connections to end, and ends those that do not.
    async fn finish(&mut self, until: Instant) {
        let all = async { while self.conns.join_next().await.is_some() {} };
        if tokio::time::timeout_at(until, all).await.is_err() {
            let listener = &self.config.name;
            info!(%listener, "{} connections did not end in time", self.conns.len());
        }
        self.conns.shutdown().await;
    }
}

/// The next connection, once there is a place for it: until then it waits in the backlog.
async fn accept(
    source: &mut Source,
    quota: &Arc<ConnectionQuota>,
) -> (Slot, io::Result<(TcpStream, SocketAddr)>) {
    let slot = match quota.try_slot() {
        Some(slot) => slot,
        None => quota.slot().await,
    };
    (slot, source.accept().await)
}
