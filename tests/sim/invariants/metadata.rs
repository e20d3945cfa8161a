//! `metadata`: what the controller commits keeps the rules of partitions: epochs grow, the ISR lies
//! within the replicas, the leader within the ISR, and eligible leaders outside it.

use vltava::metadata::Delta;

use crate::world::World;

const ID: &str = "metadata";

impl World {
    pub fn check_metadata(&mut self, delta: &Delta) {
        for d in delta.changed_partitions() {
            let Some(new) = d.new else { continue };
            let old = d.old;
            let mut wrong = Vec::new();
            if old.is_some_and(|o| new.leader_epoch < o.leader_epoch) {
                wrong.push("the leader epoch goes back");
            }
            if old.is_some_and(|o| new.partition_epoch <= o.partition_epoch) {
                wrong.push("the partition epoch does not grow");
            }
            if old.is_some_and(|o| new.leader != o.leader && new.leader_epoch == o.leader_epoch) {
                wrong.push("another leader has the same epoch");
            }
            if !new.isr.iter().all(|n| new.replicas.contains(n)) {
                wrong.push("the ISR is not within the replicas");
            }
            if new.leader.is_some_and(|l| !new.isr.contains(&l)) {
                wrong.push("the leader is not in the ISR");
            }
            if new.elr().iter().any(|n| new.isr.contains(n) || !new.replicas.contains(n)) {
                wrong.push("the eligible leaders are in the ISR, or no replicas");
            }
            for rule in wrong {
                self.violate(ID, format!("{rule}: {old:?} became {new:?}"));
            }
        }
        self.check_names(delta);
        self.check_fencing(delta);
    }
}
