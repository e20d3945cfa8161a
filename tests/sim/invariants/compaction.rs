//! `compaction`: of a compacted log nothing is gone but what a newer committed record of its key
//! replaces, what belongs to an aborted transaction, and tombstones and markers whose horizon has
//! passed. `tombstone`: a replica that had a tombstone in time does not show what it deletes.

use std::collections::{BTreeMap, BTreeSet};

use vltava::base::Offset;

use crate::{
    net::Key,
    records::{Kind, Rec},
    world::World,
};

const ID: &str = "compaction";

/// What is known of compacted logs.
#[derive(Debug, Default)]
pub struct Compaction {
    /// The newest committed record of each key.
    newest: BTreeMap<(Key, u64), Offset>,
    /// The wall clock of the first cleaning that may have met a tombstone or marker.
    met: BTreeMap<(Key, Offset), i64>,
    /// Tombstones and markers that may be gone.
    droppable: BTreeSet<(Key, Offset)>,
    /// Brokers that did not have a tombstone when it could go.
    late: BTreeSet<(Key, Offset, usize)>,
    pub cleanings: usize,
}

impl World {
    /// Takes in a record that counts: a plain one, or one whose transaction is committed.
    pub fn take_newest(&mut self, key: Key, offset: Offset, rec: Rec) {
        if rec.key != 0 {
            let newest = self.oracle.compaction.newest.entry((key, rec.key)).or_insert(offset);
            *newest = (*newest).max(offset);
        }
    }

    /// A cleaning up to `upto` begins when a broker's wall clock says `wall_ms`.
    pub fn cleaning_begins(&mut self, key: Key, upto: Offset, wall_ms: i64) {
        let retention = self.plan.delete_retention_ms;
        let known = self.oracle.committed.get(&key).map_or(&[][..], Vec::as_slice);
        let passing = (0..upto).zip(known).filter(|(_, rec)| passes(rec)).map(|(o, _)| o);
        let mut new = Vec::new();
        for offset in passing.collect::<Vec<_>>() {
            let compaction = &mut self.oracle.compaction;
            let met = compaction.met.entry((key, offset)).or_insert(wall_ms);
            *met = (*met).min(wall_ms);
            if met.saturating_add(retention) <= wall_ms
                && compaction.droppable.insert((key, offset))
            {
                new.push(offset);
            }
        }
        for b in 0..self.brokers.len() {
            self.note_late(b, key, &new);
        }
    }

    fn note_late(&mut self, b: usize, key: Key, offsets: &[Offset]) {
        let Some(first) = offsets.first() else { return };
        let reach = self.reach(b, key).unwrap_or(0);
        if reach > *first && offsets.iter().all(|o| *o < reach) {
            return;
        }
        let late = offsets.iter().filter(|o| **o >= reach).map(|o| (key, *o, b));
        self.oracle.compaction.late.extend(late);
    }

    /// A broker shows a log for the first time in its life: what it has lost meanwhile it may miss.
    pub fn note_lost_tombstones(&mut self, b: usize, key: Key, end: Offset) {
        let all = self.oracle.compaction.droppable.range((key, end)..=(key, Offset::MAX));
        let late: Vec<_> = all.map(|(key, offset)| (*key, *offset, b)).collect();
        self.oracle.compaction.late.extend(late);
    }

    /// Checks that nothing that is missing in `from..to` should be there.
    pub fn check_gap(&mut self, key: Key, from: Offset, to: Offset, who: &str) {
        for offset in from..to {
            if let Some(why) = self.should_be_there(key, offset) {
                self.violate(ID, format!("{who} lacks {offset} of {key:?}: {why}"));
                return;
            }
        }
    }

    fn should_be_there(&self, key: Key, offset: Offset) -> Option<String> {
        if !self.is_compacted(key.0) {
            return Some("nothing is compacted there".to_owned());
        }
        let at = usize::try_from(offset).ok()?;
        let Some(rec) = self.oracle.committed.get(&key).and_then(|c| c.get(at)) else {
            return Some("nobody ever had it".to_owned());
        };
        let compaction = &self.oracle.compaction;
        let log = self.oracle.histories.logs.get(&key);
        let decided = log.and_then(|l| l.decided.get(&offset)).copied();
        let newest = compaction.newest.get(&(key, rec.key)).copied();
        let replaced = rec.key != 0 && newest.is_some_and(|n| n > offset);
        let passed = passes(rec) && compaction.droppable.contains(&(key, offset));
        if decided == Some(false) || replaced || passed {
            return None;
        }
        let met = compaction.met.get(&(key, offset));
        Some(format!("{rec:?}, the newest is at {newest:?}, decided {decided:?}, met at {met:?}"))
    }

    /// What a compacted log has, once all is quiet.
    pub fn check_compacted(&mut self, b: usize, key: Key, found: &[(Offset, Rec)], end: Offset) {
        let who = format!("broker {b}");
        let mut next = 0;
        let mut last: BTreeMap<u64, (Offset, Rec)> = BTreeMap::new();
        for (offset, rec) in found {
            self.check_gap(key, next, *offset, &who);
            next = offset + 1;
            let log = self.oracle.histories.logs.get(&key);
            let aborted = log.is_some_and(|l| l.decided.get(offset) == Some(&false));
            if rec.key != 0 && !aborted {
                last.insert(rec.key, (*offset, *rec));
            }
        }
        self.check_gap(key, next, end, &who);
        for (name, (offset, rec)) in last {
            let newest = self.oracle.compaction.newest.get(&(key, name)).copied().unwrap_or(-1);
            let late = self.oracle.compaction.late.contains(&(key, newest, b));
            if newest > offset && !rec.tombstone && !late {
                let text =
                    format!("{who} shows {rec:?} at {offset} of {key:?}, deleted at {newest}");
                self.violate("tombstone", text);
            }
        }
    }
}

/// Whether a record goes once its horizon has passed.
const fn passes(rec: &Rec) -> bool {
    rec.tombstone || matches!(rec.kind, Kind::Marker { .. })
}
