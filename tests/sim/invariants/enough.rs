//! `enough`: what is acknowledged with acks=all is in at least `min.insync.replicas` logs; in the
//! durable mode on so many disks.

use vltava::base::Offset;

use crate::{net::Key, plan::Fault, world::World};

const ID: &str = "enough";

impl World {
    pub fn check_enough(&mut self, b: usize, key: Key, last: Offset) {
        let image = self.quorum.image().clone();
        let Some(p) = image.topics().partition(key.0, key.1) else { return };
        let needed = self.plan.min_isr.min(p.replicas.len());
        let reach: Vec<_> = p.replicas.iter().map(|r| self.reach(self.index_of(*r), key)).collect();
        let have = reach.iter().filter(|r| r.is_none_or(|end| end > last)).count();
        // What was committed may be said again, although a power cut has taken it from someone since.
        let lossy = !self.plan.durable && self.plan.faults.contains(&Fault::PowerCut);
        if have < needed && !(lossy && self.oracle.committed_end(key) > last) {
            let text = format!(
                "broker {b} acknowledges {key:?} up to {last}: {have} of {needed} have it ({:?}: \
                 {reach:?})",
                p.replicas
            );
            self.violate(ID, text);
        }
    }
}
