//! Leaders that this broker's fetchers lost their connection to just now. A killed process breaks the
//! connections of its clients and of its followers in the same moment; the clients ask another
//! broker for metadata at once, some of them (librdkafka) only then and again after a second. So that
//! broker lets the question wait, for as long as a failover takes, until the controller has
//! decided. (Apache Kafka answers with the dead leader until its session has ended.)

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::base::NodeId;

/// How long after its connection broke a leader is in doubt: what a failover takes that begins with
/// the election of a controller.
const IN_DOUBT: Duration = Duration::from_millis(500);

/// The leaders in question. Shared by the fetchers, which tell, and by those who ask.
#[derive(Debug, Default)]
pub struct LostLeaders(watch::Sender<BTreeMap<NodeId, Instant>>);

impl LostLeaders {
    /// The connection to `leader` broke; a later failure to connect is no news.
    pub(super) fn lost(&self, leader: NodeId) {
        let until = Instant::now() + IN_DOUBT;
        self.0.send_if_modified(|all| {
            let new = !all.contains_key(&leader);
            all.entry(leader).or_insert(until);
            new
        });
    }

    /// There is a connection to `leader`.
    pub(super) fn found(&self, leader: NodeId) {
        self.0.send_if_modified(|all| all.remove(&leader).is_some());
    }

    /// Until when an answer should wait that names one of `leaders`, as long as metadata and the
    /// connections stay as they are. `None`: it need not wait.
    pub fn in_doubt(&self, mut leaders: impl Iterator<Item = NodeId>) -> Option<Instant> {
        let all = self.0.borrow();
        if all.is_empty() {
            return None;
        }
        let now = Instant::now();
        leaders.find_map(|leader| all.get(&leader).copied().filter(|until| *until > now))
    }

    /// Tells of each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<NodeId, Instant>> {
        self.0.subscribe()
    }
}
