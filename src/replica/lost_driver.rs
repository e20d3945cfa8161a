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
        self.lost_at(leader, Instant::now());
    }

    fn lost_at(&self, leader: NodeId, now: Instant) {
        let until = now + IN_DOUBT;
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
    pub fn in_doubt(&self, leaders: impl Iterator<Item = NodeId>) -> Option<Instant> {
        self.in_doubt_at(Instant::now(), leaders)
    }

    fn in_doubt_at(
        &self,
        now: Instant,
        mut leaders: impl Iterator<Item = NodeId>,
    ) -> Option<Instant> {
        let all = self.0.borrow();
        // One that stays away is in question no longer, and costs no walk over the partitions.
        if !all.values().any(|until| *until > now) {
            return None;
        }
        leaders.find_map(|leader| all.get(&leader).copied().filter(|until| *until > now))
    }

    /// Tells of each change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<NodeId, Instant>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_in_doubt_for_a_while_or_until_it_is_found() {
        let (all, now) = (LostLeaders::default(), Instant::now());
        let asked = |at: Duration| all.in_doubt_at(now + at, [NodeId(1), NodeId(2)].into_iter());
        assert_eq!(asked(Duration::ZERO), None);
        all.lost_at(NodeId(2), now);
        all.lost_at(NodeId(3), now);
        assert_eq!(asked(Duration::ZERO), Some(now + IN_DOUBT));
        // That it cannot be reached is no news, and extends nothing.
        all.lost_at(NodeId(2), now + IN_DOUBT);
        assert_eq!(asked(IN_DOUBT), None);
        all.found(NodeId(2));
        all.lost_at(NodeId(2), now + IN_DOUBT);
        assert_eq!(asked(IN_DOUBT), Some(now + 2 * IN_DOUBT));
        assert_eq!(all.in_doubt_at(now, [NodeId(1)].into_iter()), None);
    }
}
