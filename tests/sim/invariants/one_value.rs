//! `one-value`: an offset has one value for ever, whoever tells it, and every value was sent by a
//! producer as it is.

use vltava::base::Offset;

use crate::{
    net::Key,
    oracle::Sent,
    records::{OWN, Rec},
    world::World,
};

const ID: &str = "one-value";

impl World {
    /// Compares a value with all that is known of its offset.
    pub fn check_known(&mut self, key: Key, offset: Offset, value: u64, how: &str) {
        let at = usize::try_from(offset).unwrap();
        let committed = self.oracle.committed.get(&key).and_then(|c| c.get(at)).map(|r| r.value);
        let acked = self.oracle.acked.get(&key).and_then(|a| a.get(&offset)).copied();
        for (known, by) in [(committed, "committed"), (acked, "acknowledged")] {
            if known.is_some_and(|k| k != value) {
                let text = format!("{key:?} at {offset}: {value} is {how}, {known:?} was {by}");
                self.violate(ID, text);
            }
        }
    }

    /// Checks that a record is one that a producer sent.
    pub fn check_sent(&mut self, key: Key, offset: Offset, rec: Rec) {
        if rec.value >= OWN {
            return;
        }
        let sent = usize::try_from(rec.value).ok().and_then(|v| self.oracle.sent.get(v)).copied();
        let is = Sent { producer: rec.producer, epoch: rec.producer_epoch, sequence: rec.sequence };
        if sent != Some(is) {
            self.violate(ID, format!("{key:?} at {offset}: {rec:?} was never sent: {sent:?}"));
        }
    }
}
