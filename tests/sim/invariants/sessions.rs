//! `sessions`: a broker is fenced for silence only after a whole session without a heartbeat, and
//! then it is, whatever wall clocks say.

use vltava::metadata::Delta;

use crate::{
    plan::{MS, SECOND},
    quorum::ONE_ROUND,
    schema::SESSION_MS,
    world::World,
};

const ID: &str = "sessions";
/// A controller's clock may run this much wrong, of a hundred.
const DRIFT: u64 = 6;

impl World {
    fn silent_since(&self, heard_of: u64) -> u64 {
        self.now.saturating_sub(heard_of.max(self.quorum.active_since))
    }

    pub fn check_fencing(&mut self, delta: &Delta) {
        let session = SESSION_MS as u64 * MS;
        for (id, old, new) in delta.changed_brokers() {
            let (Some(old), Some(new)) = (old, new) else { continue };
            let same_life = old.epoch == new.epoch;
            let leaves = old.in_controlled_shutdown || new.in_controlled_shutdown;
            if old.fenced || !new.fenced || !same_life || leaves {
                continue;
            }
            let b = self.index_of(id);
            let stopping = self.brokers[b].life.as_ref().is_some_and(|l| l.stopping);
            // A heartbeat may come while what the silence before it led to is being committed.
            let [last, before] = self.brokers[b].heard_of;
            let counts = if last + ONE_ROUND < self.now { last } else { before };
            let silent = self.silent_since(counts);
            // What was proposed before a failover may be committed after it.
            let proposed_late = self.now.saturating_sub(self.quorum.active_since) < 20 * MS;
            if !stopping && !proposed_late && silent < session * (100 - DRIFT) / 100 {
                self.violate(ID, format!("broker {b} is fenced {silent} us after its heartbeat"));
            }
        }
    }

    pub fn check_sessions(&mut self) {
        let limit = SESSION_MS as u64 * MS * (100 + DRIFT) / 100 + SECOND;
        let image = self.quorum.image().clone();
        for broker in image.brokers().iter().filter(|b| !b.fenced) {
            let b = self.index_of(broker.id);
            let silent = self.silent_since(self.brokers[b].heard_of[0]);
            if silent > limit {
                self.violate(ID, format!("broker {b} is silent for {silent} us and not fenced"));
            }
        }
    }
}
