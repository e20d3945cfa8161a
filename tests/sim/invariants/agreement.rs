//! `agreement`: what lies below any replica's high watermark is the same on all, for ever.

use vltava::base::Offset;

use crate::{oracle::Sight, world::World};

const ID: &str = "agreement";

impl World {
    pub fn compare_committed(&mut self, b: usize, sight: &Sight) {
        let (key, to) = (sight.key, sight.now.high_watermark);
        let from = sight.now.compared.min(sight.now.end).max(sight.now.start);
        if from >= to || self.failed.is_some() {
            return;
        }
        let content = self.content(b, &sight.slot, from, to);
        let (mut next, compacted) = (from, self.is_compacted(key.0));
        if compacted && sight.before.is_none() {
            self.note_lost_tombstones(b, key, sight.now.end);
        }
        for (offset, rec) in content {
            if offset != next && (!compacted || offset > self.oracle.committed_end(key)) {
                self.violate(ID, format!("broker {b} {key:?}: {offset} follows {next}"));
                return;
            }
            self.check_gap(key, next, offset, &format!("broker {b}"));
            next = offset + 1;
            let known = self.oracle.committed.entry(key).or_default();
            match known.get(usize::try_from(offset).unwrap()).copied() {
                None if offset != known.len() as Offset => {
                    let text = format!("broker {b} {key:?} at {offset}: nobody has the one before");
                    self.violate(ID, text);
                    return;
                }
                None => {
                    known.push(rec);
                    self.check_known(key, offset, rec.value, "committed");
                    self.check_sent(key, offset, rec);
                    self.take_in(key, offset, rec);
                }
                Some(other) if other != rec => {
                    let text =
                        format!("broker {b} {key:?} at {offset}: {rec:?}, elsewhere {other:?}");
                    self.violate(ID, text);
                    return;
                }
                Some(_) => {}
            }
        }
        if next < to && self.failed.is_none() && self.is_readable(b) {
            self.check_gap(key, next, to, &format!("broker {b}"));
            next = to;
        }
        if let Some(seen) = self.brokers[b].life.as_mut().and_then(|l| l.seen.get_mut(&key)) {
            seen.compared = next;
        }
    }
}
