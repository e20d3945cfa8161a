//! `leader-epoch`: a replica's leader epoch never goes back while its broker lives, and no two
//! brokers lead a partition under the same epoch.

use crate::{oracle::Sight, world::World};

const ID: &str = "leader-epoch";

impl World {
    pub fn check_office(&mut self, b: usize, sight: &Sight) {
        let (key, now) = (sight.key, sight.now);
        if let Some(before) = sight.before
            && now.epoch < before.epoch
        {
            let text = format!("broker {b} {key:?} from {} to {}", before.epoch, now.epoch);
            self.violate(ID, text);
        }
        if !now.leads || sight.before.is_some_and(|s| s.leads && s.epoch == now.epoch) {
            return;
        }
        let id = self.brokers[b].id;
        self.note(format_args!("broker {b} leads {key:?} in epoch {}", now.epoch));
        match self.oracle.leaders.get(&(key, now.epoch)) {
            Some(other) if *other != id => {
                let text = format!("{other} and {id} lead {key:?} in epoch {}", now.epoch);
                self.violate(ID, text);
            }
            Some(_) => {}
            None => _ = self.oracle.leaders.insert((key, now.epoch), id),
        }
    }
}
