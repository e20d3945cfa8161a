//! `deleted-early`: a log begins where somebody asked for that, or where `retention.bytes` are left.
//! `deleted-late`: what a replica has deleted it does not serve, and its log start never goes back.

use crate::{clients::TOPIC, oracle::Sight, world::World};

impl World {
    pub fn check_kept(&mut self, b: usize, sight: &Sight) {
        let (key, now) = (sight.key, sight.now);
        let before = sight.before.map(|s| s.start);
        if before.is_some_and(|before| now.start < before) {
            let text = format!("broker {b} {key:?}: the log began at {before:?}: {now:?}");
            self.violate("deleted-late", text);
        }
        let known = self.oracle.deleted.get(&key).copied().unwrap_or(0);
        if before == Some(now.start) || now.start <= known {
            return;
        }
        let keep = u64::try_from(self.plan.retention_bytes).ok();
        let named = self.quorum.image().topics().by_name(TOPIC).is_some_and(|t| t.id == key.0);
        let left = sight.slot.lock().log.size();
        if named && keep.is_some_and(|keep| left >= keep) && now.start <= now.high_watermark {
            self.oracle.deleted.insert(key, now.start);
            return;
        }
        let text = format!(
            "broker {b} {key:?} begins at {}, {known} was asked: {left} of {keep:?} bytes \
             are left",
            now.start
        );
        self.violate("deleted-early", text);
    }
}
