//! The broker's listeners, from the configuration to open sockets; and the connections of a
//! controller's listener that speak Kafka.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use crate::{
    config::ServerConfig,
    net::{
        ConnLimits, ConnectionLimits, ConnectionQuota, Listener, ListenerConfig, ListenerHandle,
        Memory, Shared, serve_accepted,
    },
    node::NodeError,
    quorum::KafkaConnections,
    server::{Broker, Clients, Controller},
};

/// Memory for requests if `queued.max.request.bytes` leaves it open: enough for many producers at
/// full speed, small beside the page cache that holds the data.
const REQUEST_MEMORY_BYTES: usize = 64 << 20;

/// The same for the clients of a controller, who send small requests.
const CONTROLLER_MEMORY_BYTES: usize = 8 << 20;
/// Connections to a controller that may wait until they are let in.
const ACCEPTED_MAX: usize = 64;

/// Sockets that are bound and not yet served.
pub(crate) struct Bound(Vec<Listener>, Vec<Arc<str>>);

impl Bound {
    /// The port that the listener of this name has.
    pub(crate) fn port_of(&self, name: &str) -> Option<u16> {
        let at = self.1.iter().position(|n| **n == *name)?;
        self.0.get(at).map(|l| l.address().port())
    }
}

fn size(n: i32) -> Option<u32> {
    u32::try_from(n).ok()
}

/// Binds every listener that is not the controllers'.
pub(crate) async fn bind(config: &ServerConfig) -> Result<Bound, NodeError> {
    let (mut listeners, mut names) = (Vec::new(), Vec::new());
    for l in config.listeners.iter().filter(|l| !l.for_controllers) {
        let at = &l.endpoint;
        let name: Arc<str> = at.name.as_str().into();
        let mut terms = ListenerConfig::new(Arc::clone(&name), at.host.clone(), at.port);
        terms.backlog = size(config.net.backlog).unwrap_or(50);
        // Kafka's default of 100 KiB would cut a fetch into many small pieces: unless a size was
        // asked for, the system tunes it.
        let asked = |key: &str, bytes: i32| config.layers.given(key).and_then(|_| size(bytes));
        let net = &config.net;
        terms.send_buffer_bytes = asked("socket.send.buffer.bytes", net.send_buffer_bytes);
        terms.receive_buffer_bytes = asked("socket.receive.buffer.bytes", net.receive_buffer_bytes);
        terms.congestion_control.clone_from(&l.congestion_control);
        terms.conn = conn_limits(config);
        listeners.push(Listener::bind(terms).await?);
        names.push(name);
    }
    Ok(Bound(listeners, names))
}

fn conn_limits(config: &ServerConfig) -> ConnLimits {
    let idle = u64::try_from(config.net.connections_max_idle_ms).unwrap_or(u64::MAX);
    ConnLimits {
        frame_bytes_max: config.net.request_max_bytes,
        idle: Duration::from_millis(idle),
        spin: Duration::from_micros(u64::try_from(config.net.spin_us).unwrap_or(0)),
        ..ConnLimits::default()
    }
}

/// Memory for requests, and the count of connections.
fn shared(config: &ServerConfig, memory_bytes: usize) -> Shared {
    let asked = usize::try_from(config.net.queued_max_request_bytes).ok().filter(|n| *n > 0);
    let frame_max = config.net.request_max_bytes;
    let memory = Memory::new(asked.unwrap_or(memory_bytes), frame_max);
    let overrides: BTreeMap<IpAddr, usize> = config
        .max_connections_per_ip_overrides
        .iter()
        .filter_map(|(host, n)| Some((host.parse().ok()?, *n)))
        .collect();
    let quota = ConnectionQuota::new(ConnectionLimits {
        total: config.net.max_connections,
        per_ip: config.net.max_connections_per_ip,
        overrides,
    });
    Shared { memory: Arc::new(memory), quota: Arc::new(quota) }
}

/// Lets clients in.
pub(crate) fn open(
    config: &ServerConfig,
    bound: Bound,
    broker: &Arc<Broker>,
) -> Vec<ListenerHandle> {
    let shared = shared(config, REQUEST_MEMORY_BYTES);
    let serve = |listener: Listener| {
        let service = Arc::new(Clients::of_broker(Arc::clone(broker)));
        listener.serve(service, shared.clone())
    };
    bound.0.into_iter().map(serve).collect()
}

/// Lets clients of the controller `listener` in, which was bound to `address`: what to do with each
/// connection that speaks Kafka, and what ends them. Counted apart from the broker's clients, who
/// thus cannot lock an operator out.
pub(crate) fn open_controller(
    config: &ServerConfig,
    listener: &str,
    address: SocketAddr,
    controller: &Arc<Controller>,
) -> (KafkaConnections, ListenerHandle) {
    let mut terms = ListenerConfig::new(listener, "", address.port());
    terms.conn = conn_limits(config);
    let (to, accepted) = mpsc::channel(ACCEPTED_MAX);
    let service = Arc::new(Clients::of_controller(Arc::clone(controller)));
    let shared = shared(config, CONTROLLER_MEMORY_BYTES);
    let handle = serve_accepted(terms, address, accepted, service, shared);
    let connections: KafkaConnections = Arc::new(move |stream, peer| {
        if to.try_send((stream, peer)).is_err() {
            tracing::debug!(%peer, "closed: too many wait, or the listener ends");
        }
    });
    (connections, handle)
}
