//! `acknowledged`: whoever begins to serve as the leader has everything that was committed, and
//! everything that was acknowledged with acks=all.

use vltava::replica::table::Slot;

use crate::{broker::Seen, net::Key, world::World};

const ID: &str = "acknowledged";

impl World {
    pub fn check_new_leader(&mut self, b: usize, key: Key, slot: &Slot, seen: Seen) {
        let truth = self.quorum.image().topics().partition(key.0, key.1);
        let id = self.brokers[b].id;
        // One that was deposed and does not know it will hear of it; what it does until then is
        // looked at elsewhere.
        if truth.is_none_or(|p| p.leader != Some(id) || p.leader_epoch != seen.epoch) {
            return;
        }
        let committed = self.oracle.committed_end(key);
        let acked = self.oracle.acked.get(&key);
        let acked_end = acked.and_then(|a| a.last_key_value()).map_or(0, |(o, _)| o + 1);
        if seen.end < committed.max(acked_end) {
            let text = format!(
                "broker {b} leads {key:?} in epoch {} with a log that ends at {}; committed to \
                 {committed}, acknowledged to {acked_end}",
                seen.epoch, seen.end
            );
            self.violate(ID, text);
            return;
        }
        // What was deleted may come back after a power cut, be it what was committed or not.
        let deleted = self.oracle.deleted.get(&key).copied().unwrap_or(0);
        let content = self.content(b, slot, deleted, committed.max(acked_end));
        for (offset, rec) in content {
            self.check_known(key, offset, rec.value, "held by the new leader");
        }
    }
}
