//! `progress`: ten seconds after the last fault every broker is back, every partition is led, every
//! replica is in sync and complete, every batch is acknowledged and read, every transaction has its end.

use crate::world::World;

impl World {
    /// What keeps the cluster from being whole, if anything.
    pub fn what_is_missing(&mut self) -> Option<String> {
        let image = self.quorum.image().clone();
        for b in 0..self.brokers.len() {
            let running = self.brokers[b].life.as_ref().is_some_and(|l| l.running);
            let known = image.brokers().get(self.brokers[b].id);
            if !running || known.is_none_or(|k| k.fenced) {
                return Some(format!("broker {b} is not back: running {running}, {known:?}"));
            }
        }
        for topic in image.topics().iter() {
            for (n, p) in topic.iter() {
                let key = (topic.id, n);
                let Some(leader) = p.leader else {
                    return Some(format!("nobody leads {key:?}: {p:?}"));
                };
                if p.isr.len() < p.replicas.len() {
                    return Some(format!("not all of {key:?} are in sync: {p:?}"));
                }
                let seen = |b: usize| self.brokers[b].life.as_ref()?.seen.get(&key).copied();
                let Some(lead) = seen(self.index_of(leader)) else {
                    return Some(format!("the leader of {key:?} has no replica: {p:?}"));
                };
                for replica in p.replicas.iter() {
                    let b = self.index_of(*replica);
                    match seen(b) {
                        Some(s) if s.high_watermark == lead.end && s.end == lead.end => {}
                        other => {
                            return Some(format!(
                                "{key:?} on broker {b}: {other:?}, on its leader {leader}: {lead:?}"
                            ));
                        }
                    }
                }
            }
        }
        self.clients_lack().or_else(|| self.oracle.histories.hanging())
    }
}
