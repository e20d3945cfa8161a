//! `high-watermark`: the high watermark of a replica does not go back while its broker lives, and
//! does not pass the end of its log.

use crate::{oracle::Sight, world::World};

const ID: &str = "high-watermark";

impl World {
    pub fn check_high_watermark(&mut self, b: usize, sight: &Sight) {
        let (key, now) = (sight.key, sight.now);
        // A log that was begun anew in the middle of a batch ends, for a moment, before it starts.
        if now.high_watermark > now.end.max(now.start) {
            let text = format!("broker {b} {key:?}: {} of {}", now.high_watermark, now.end);
            self.violate(ID, text);
        }
        let before = sight.before.map_or(0, |s| s.high_watermark);
        if now.high_watermark < before {
            let text = format!("broker {b} {key:?}: from {before} to {}", now.high_watermark);
            self.violate(ID, text);
        }
    }
}
