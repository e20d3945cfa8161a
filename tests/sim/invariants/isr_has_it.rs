//! `isr-has-it`: when a leader that is the leader indeed raises its high watermark, every member of
//! the committed ISR has everything below it; in the durable mode on disk.

use crate::{oracle::Sight, world::World};

const ID: &str = "isr-has-it";

impl World {
    pub fn check_isr_has_it(&mut self, b: usize, sight: &Sight) {
        let (key, now) = (sight.key, sight.now);
        let raised = sight.before.is_some_and(|s| s.leads && s.high_watermark < now.high_watermark);
        let Some(truth) = self.quorum.image().topics().partition(key.0, key.1).cloned() else {
            return;
        };
        let (id, epoch) = (self.brokers[b].id, truth.leader_epoch);
        if !raised || !now.leads || truth.leader != Some(id) || epoch != now.epoch {
            return;
        }
        for member in truth.isr.iter() {
            let other = self.index_of(*member);
            // What a power cut took from the page cache is not promised; who lost it is on its way
            // out of the ISR.
            if self.brokers[other].frail && !self.plan.durable {
                continue;
            }
            let Some(reach) = self.reach(other, key) else { continue };
            if reach < now.high_watermark {
                let text = format!(
                    "broker {b} raises {key:?} to {}, but {member} of the ISR {:?} has it to {reach}",
                    now.high_watermark, truth.isr
                );
                self.violate(ID, text);
            }
        }
    }
}
