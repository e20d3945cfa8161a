//! `sequences`: of an idempotent producer every batch is in the log at most once, in order, and
//! nothing of a superseded epoch follows what its successor wrote. Where every batch is
//! acknowledged by all, none is missing in between. Who got a log only from behind what was deleted
//! knows nothing of who wrote that, as in Kafka: it is not looked at.

use std::collections::BTreeMap;

use crate::{
    net::Key,
    records::{OWN, Rec},
    world::World,
};

const ID: &str = "sequences";

impl World {
    pub fn check_sequences(&mut self, key: Key, log: &[Rec]) {
        let mut last: BTreeMap<i64, (i16, i32)> = BTreeMap::new();
        let deleted = self.oracle.deleted.get(&key).map_or(0, |d| usize::try_from(*d).unwrap());
        let log = log.iter().enumerate().skip(deleted);
        for (offset, rec) in log.filter(|(_, rec)| rec.value < OWN) {
            let is = (rec.producer_epoch, rec.sequence);
            let before = last.insert(rec.producer, is);
            let complete = self.waits_for_all(rec.producer);
            let fits = match before {
                // A broker that does not know a producer takes whatever it begins with, as Kafka's
                // does: its first batch may have been refused while the second was on its way.
                None => true,
                Some((epoch, _)) if epoch > is.0 => false,
                Some((epoch, _)) if epoch < is.0 => rec.sequence == 0 || !complete,
                Some((_, sequence)) if complete => rec.sequence == sequence + 1,
                Some((_, sequence)) => rec.sequence > sequence,
            };
            if !fits {
                let text = format!("{key:?} at {offset}: {rec:?} follows {before:?}");
                self.violate(ID, text);
                return;
            }
        }
    }
}
