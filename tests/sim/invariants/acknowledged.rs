//! `acknowledged`: whoever begins to lead has everything that was committed, and everything that
//! was acknowledged with acks=all.

use crate::{oracle::Sight, world::World};

const ID: &str = "acknowledged";

impl World {
    pub fn check_new_leader(&mut self, b: usize, sight: &Sight) {
        let (key, end) = (sight.key, sight.now.end);
        let committed = self.oracle.committed_end(key);
        let acked = self.oracle.acked.get(&key);
        let acked_end = acked.and_then(|a| a.last_key_value()).map_or(0, |(o, _)| o + 1);
        if end < committed.max(acked_end) {
            let text = format!(
                "broker {b} leads {key:?} in epoch {} with a log that ends at {end}; committed to \
                 {committed}, acknowledged to {acked_end}",
                sight.now.epoch
            );
            self.violate(ID, text);
            return;
        }
        let content = self.content(b, &sight.slot, 0, committed.max(acked_end));
        for (offset, rec) in content {
            self.check_known(key, offset, rec.value, "held by the new leader");
        }
    }
}
