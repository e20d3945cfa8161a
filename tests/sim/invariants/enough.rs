//! `enough`: what is acknowledged with acks=all is in at least `min.insync.replicas` logs; in the
//! durable mode on so many disks.

use vltava::base::{NodeId, Offset};

use crate::{net::Key, world::World};

const ID: &str = "enough";

impl World {
    pub fn check_enough(&mut self, b: usize, key: Key, last: Offset) {
        let image = self.quorum.image().clone();
        let Some(p) = image.topics().partition(key.0, key.1) else { return };
        let needed = self.plan.min_isr.min(p.replicas.len());
        let reach: Vec<_> = p.replicas.iter().map(|r| self.reach(self.index_of(*r), key)).collect();
        // What was committed once and a machine has lost since, within the bargain, may be
        // acknowledged again to who asks again.
        let was_there = !self.plan.durable && last < self.oracle.committed_end(key);
        let frail = |n: &NodeId| self.brokers[self.index_of(*n)].frail;
        let has = |(n, r): &(&NodeId, &Option<Offset>)| {
            r.is_none_or(|end| end > last) || was_there && frail(n)
        };
        let have = p.replicas.iter().zip(&reach).filter(has).count();
        if have < needed {
            let text = format!(
                "broker {b} acknowledges {key:?} up to {last}: {have} of {needed} have it ({:?}: \
                 {reach:?})",
                p.replicas
            );
            self.violate(ID, text);
        }
    }
}
