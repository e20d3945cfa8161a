//! The lines to brokers: which heartbeat streams are up, and what is done about a broker that has
//! none. A broken stream is a failure signal: the broker's addresses are dialled at once, and if
//! every one of them refuses, its process is gone and it is fenced without waiting for its session
//! to end. Anything else (an accepted connection, silence, an unreachable host) proves nothing, and
//! is left to the session. Uses `base`, `metadata`.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::net::TcpStream;

use super::driver::ControllerHandle;
use crate::{base::NodeId, metadata::Endpoint};

/// An address that does not answer within this time proves nothing.
const DIAL_TIMEOUT: Duration = Duration::from_millis(250);
/// A broker without a stream is dialled again and again until it has one, or its session ends:
/// after this pause first, for a process that dies closes its connections before its listeners, then
/// after twice as long each time, up to the longest.
const DIAL_PAUSE: Duration = Duration::from_millis(10);
const DIAL_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Brokers have so long to open their streams to a new active controller before it dials them.
const OFFICE_GRACE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy)]
struct Up {
    stream: u64,
    epoch: i64,
}

/// The streams that are up, by broker: the newest of each.
#[derive(Debug, Default)]
pub(super) struct Lines {
    up: Mutex<BTreeMap<NodeId, Up>>,
    streams: AtomicU64,
}

impl Lines {
    fn up(&self) -> MutexGuard<'_, BTreeMap<NodeId, Up>> {
        // No holder leaves a change half done.
        self.up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a new stream.
    pub(super) fn number(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// A heartbeat of the broker's incarnation came by the stream, and was not refused.
    pub(super) fn heard(&self, broker: NodeId, epoch: i64, stream: u64) {
        let mut up = self.up();
        if up.get(&broker).is_none_or(|u| u.stream <= stream) {
            up.insert(broker, Up { stream, epoch });
        }
    }

    /// The stream ended. Whether the broker has none now.
    pub(super) fn ended(&self, broker: NodeId, stream: u64) -> bool {
        let mut up = self.up();
        let newest = up.get(&broker).is_some_and(|u| u.stream == stream);
        if newest {
            up.remove(&broker);
        }
        newest
    }

    fn is_up(&self, broker: NodeId, epoch: i64) -> bool {
        self.up().get(&broker).is_some_and(|u| u.epoch == epoch)
    }
}

/// Looks after a broker whose stream broke: from here on its id may be taken by another
/// incarnation, and it is fenced once it is known to be gone.
pub(super) async fn lost(controller: ControllerHandle, broker: NodeId, epoch: i64) {
    controller.disconnected(broker, epoch).await;
    look_after(controller, broker, epoch).await;
}

/// To be called when this node became the active controller: what it does not know is which of the
/// brokers died with its predecessor. First of all the broker in the predecessor's own process: that
/// it refuses connections as the quorum lost its controller leaves no doubt.
pub(super) async fn muster(controller: ControllerHandle, predecessor: Option<NodeId>) {
    let image = controller.image();
    let same = predecessor.and_then(|id| image.brokers().get(id)).filter(|b| !b.fenced);
    if let Some(b) = same.filter(|b| !controller.lines().is_up(b.id, b.epoch)) {
        tokio::spawn(look_after(controller.clone(), b.id, b.epoch));
    }
    tokio::time::sleep(OFFICE_GRACE).await;
    let image = controller.image();
    for b in image.brokers().alive() {
        if !controller.lines().is_up(b.id, b.epoch) {
            tokio::spawn(lost(controller.clone(), b.id, b.epoch));
        }
    }
}

async fn look_after(controller: ControllerHandle, broker: NodeId, epoch: i64) {
    let mut pause = DIAL_PAUSE;
    loop {
        let image = controller.image();
        let Some(b) = image.brokers().get(broker).filter(|b| b.epoch == epoch && !b.fenced) else {
            return;
        };
        let refused = refused(&b.endpoints).await;
        if controller.lines().is_up(broker, epoch) || !controller.is_active() {
            return;
        }
        if refused {
            tracing::warn!(broker = broker.0, epoch, "gone: no heartbeats, connections refused");
            controller.broker_gone(broker, epoch).await;
            return;
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(DIAL_PAUSE_MAX);
    }
}

/// Whether every address refuses connections. A live broker listens on all of them, though not
/// every one may be meant for this network.
async fn refused(endpoints: &[Endpoint]) -> bool {
    let dials = endpoints.iter().map(|e| async {
        let host = Arc::clone(&e.host);
        let dial = TcpStream::connect((&*host, e.port));
        match tokio::time::timeout(DIAL_TIMEOUT, dial).await {
            Ok(Err(e)) => matches!(
                e.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
            ),
            Ok(Ok(_)) | Err(_) => false,
        }
    });
    !endpoints.is_empty() && futures::future::join_all(dials).await.into_iter().all(|gone| gone)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    const NODE: NodeId = NodeId(1);

    #[test]
    fn an_older_stream_that_ends_is_no_loss() {
        let lines = Lines::default();
        let (first, second) = (lines.number(), lines.number());
        lines.heard(NODE, 5, first);
        lines.heard(NODE, 5, second);
        assert!(!lines.ended(NODE, first), "the second is up");
        lines.heard(NODE, 5, first);
        assert!(lines.is_up(NODE, 5) && !lines.is_up(NODE, 4));
        assert!(lines.ended(NODE, second));
        assert!(!lines.is_up(NODE, 5) && !lines.ended(NODE, second));
    }

    #[tokio::test]
    async fn gone_is_who_refuses_everywhere() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let closed = {
            let held = TcpListener::bind("127.0.0.1:0").await.unwrap();
            held.local_addr().unwrap().port()
        };
        let at = |port| Endpoint {
            name: "P".into(),
            host: "127.0.0.1".into(),
            port,
            security_protocol: 0,
        };
        assert!(refused(&[at(closed)]).await);
        assert!(!refused(&[at(open)]).await);
        assert!(!refused(&[at(closed), at(open)]).await);
        assert!(!refused(&[]).await);
    }
}
