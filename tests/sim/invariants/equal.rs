//! `equal`: once the cluster is whole and quiet, the replicas of a partition are equal byte for
//! byte, and hold all that was committed and acknowledged, once and in order.

use vltava::base::Offset;

use crate::{clients::TOPIC, net::Key, records, world::World};

const ID: &str = "equal";

impl World {
    /// Everything that can be said at any time.
    pub fn check_all(&mut self) {
        self.check_sessions();
    }

    pub fn check_at_the_end(&mut self) {
        self.check_histories_at_the_end();
        self.check_shares_at_the_end();
        for (key, log) in self.oracle.committed.clone() {
            // Who begins anew where the log begins knows no producer from before, as in Kafka.
            if self.plan.retention_bytes < 0 || self.key_in(TOPIC, key.1) != Some(key) {
                self.check_sequences(key, &log);
            }
            let end = log.len() as Offset;
            let acked = self.oracle.acked.get(&key).and_then(|a| a.last_key_value());
            if acked.is_some_and(|(last, _)| *last >= end) {
                self.violate(ID, format!("{key:?} ends at {end}, {acked:?} was acknowledged"));
            }
            match self.is_compacted(key.0) {
                true => self.check_compacted_replicas(key, end),
                false => self.check_replicas(key, end),
            }
        }
    }

    fn check_compacted_replicas(&mut self, key: Key, end: Offset) {
        let image = self.quorum.image().clone();
        let Some(p) = image.topics().partition(key.0, key.1) else { return };
        for replica in p.replicas.iter() {
            let b = self.index_of(*replica);
            let Some(life) = &self.brokers[b].life else { continue };
            let Some(slot) = life.table.by_id(key.0, key.1) else { continue };
            let found = self.content(b, &slot, 0, end);
            self.check_compacted(b, key, &found, end);
        }
    }

    fn check_replicas(&mut self, key: Key, end: Offset) {
        let image = self.quorum.image().clone();
        let Some(p) = image.topics().partition(key.0, key.1) else { return };
        let starts = p.replicas.iter().filter_map(|r| {
            let life = self.brokers[self.index_of(*r)].life.as_ref()?;
            Some(life.table.by_id(key.0, key.1)?.lock().log.log_start_offset())
        });
        let start = starts.max().unwrap_or(0);
        if start > self.oracle.deleted.get(&key).copied().unwrap_or(0) {
            self.violate(ID, format!("{key:?} begins at {start}: nobody asked for that"));
        }
        let mut first: Option<(usize, Vec<u8>)> = None;
        for replica in p.replicas.iter() {
            let b = self.index_of(*replica);
            let Some(life) = &self.brokers[b].life else { continue };
            let Some(slot) = life.table.by_id(key.0, key.1) else { continue };
            let now = life.table.clock.now();
            let bytes = records::log_bytes(&mut slot.lock(), start, end, now);
            match (bytes, &first) {
                (Err(e), _) => self.violate(ID, format!("broker {b} {key:?}: {e}")),
                (Ok(bytes), None) => first = Some((b, bytes)),
                (Ok(bytes), Some((other, whole))) if bytes != *whole => {
                    let at = bytes.iter().zip(whole).take_while(|(a, b)| a == b).count();
                    let text = format!("{key:?} on brokers {other} and {b} differs at byte {at}");
                    self.violate(ID, text);
                }
                (Ok(_), Some(_)) => {}
            }
        }
    }
}
