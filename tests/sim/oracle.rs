//! What the world knows that no node does: what was sent, acknowledged, committed and read.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use vltava::{
    base::{NodeId, Offset},
    replica::table::{ReplicaTable, Slot},
};

use crate::{
    broker::Seen,
    invariants::{compaction::Compaction, names::Names, shares::ShareOracle},
    net::Key,
    records::{self, Rec},
    txn_log::Histories,
    world::World,
};

/// Who sent a value, and as what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    pub producer: i64,
    pub epoch: i16,
    pub sequence: i32,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Oracle {
    /// By value.
    pub sent: Vec<Sent>,
    /// What lies below some replica's high watermark: the index is the offset.
    pub committed: BTreeMap<Key, Vec<Rec>>,
    /// Acknowledged with acks=all.
    pub acked: BTreeMap<Key, BTreeMap<Offset, u64>>,
    pub acked_total: usize,
    /// Up to where records were asked to be deleted.
    pub deleted: BTreeMap<Key, Offset>,
    /// Who led under which epoch.
    pub leaders: BTreeMap<(Key, i32), NodeId>,
    pub histories: Histories,
    pub compaction: Compaction,
    pub shares: ShareOracle,
    pub names: Names,
    /// The last offset in a transaction that a group's producer was told is committed.
    pub floors: BTreeMap<u64, Offset>,
    /// Ends that producers were told of, and commits of members.
    pub txns_told: usize,
    pub commits: usize,
}

impl Oracle {
    pub fn committed_total(&self) -> usize {
        self.committed.values().map(Vec::len).sum()
    }

    /// The end of what is known to be committed.
    pub fn committed_end(&self, key: Key) -> Offset {
        self.committed.get(&key).map_or(0, |c| c.len() as Offset)
    }
}

/// One replica after something happened to its broker.
pub struct Sight {
    pub key: Key,
    pub slot: Arc<Slot>,
    pub before: Option<Seen>,
    pub now: Seen,
}

fn look(table: &ReplicaTable) -> Vec<(Key, Arc<Slot>, Seen)> {
    let look = |slot: Arc<Slot>| {
        let p = slot.lock();
        let seen = Seen {
            leads: p.leads(),
            epoch: p.leader_epoch(),
            high_watermark: p.high_watermark(),
            start: p.log.log_start_offset(),
            end: p.log.log_end_offset(),
            flushed: p.log.flushed_offset(),
            compared: 0,
        };
        drop(p);
        ((slot.topic_id, slot.partition), slot, seen)
    };
    table.all().into_iter().map(look).collect()
}

impl World {
    /// Looks at every replica of a broker, and checks what must hold of it.
    pub fn observe(&mut self, b: usize) {
        let Some(life) = &mut self.brokers[b].life else { return };
        let (mut sights, mut serving) = (Vec::new(), Vec::new());
        let found = look(&life.table);
        life.seen.retain(|key, _| found.iter().any(|(k, ..)| k == key));
        for (key, slot, mut now) in found {
            let before = life.seen.get(&key).copied();
            now.compared = before.map_or(0, |s| s.compared);
            life.seen.insert(key, now);
            if life.running && now.leads && life.serves.get(&key) != Some(&now.epoch) {
                life.serves.insert(key, now.epoch);
                serving.push((key, Arc::clone(&slot), now));
            }
            if before != Some(now) {
                sights.push(Sight { key, slot, before, now });
            }
        }
        for (key, slot, seen) in serving {
            self.check_new_leader(b, key, &slot, seen);
        }
        for sight in sights {
            self.check_kept(b, &sight);
            self.check_office(b, &sight);
            self.check_high_watermark(b, &sight);
            self.check_isr_has_it(b, &sight);
            self.compare_committed(b, &sight);
        }
    }

    /// How far a replica's log is known to reach: on disk in the durable mode. `None` if unknown.
    pub fn reach(&self, b: usize, key: Key) -> Option<Offset> {
        let broker = &self.brokers[b];
        match &broker.life {
            Some(life) => {
                let seen = life.seen.get(&key).copied().unwrap_or_default();
                Some(if self.plan.durable { seen.flushed } else { seen.end })
            }
            None => broker.on_disk.get(&key).copied().unwrap_or(Some(0)),
        }
    }

    /// Takes in the records of a batch that is acknowledged.
    pub fn check_acknowledged(&mut self, b: usize, key: Key, base: Offset, records: &Bytes) {
        let meant = Self::meant(records);
        let acked = self.oracle.acked.entry(key).or_default();
        for (n, rec) in (0..).zip(&meant) {
            acked.insert(base + n, rec.value);
        }
        self.oracle.acked_total += meant.len();
        let last = base + meant.len() as Offset - 1;
        for (n, rec) in (0..).zip(&meant) {
            self.check_known(key, base + n, rec.value, "acknowledged");
        }
        self.check_enough(b, key, last);
    }

    /// The content of a replica's log in `from..to`.
    pub fn content(
        &mut self,
        b: usize,
        slot: &Slot,
        from: Offset,
        to: Offset,
    ) -> Vec<(Offset, Rec)> {
        let now = self.brokers[b].life.as_ref().map(|l| l.table.clock.now()).unwrap_or_default();
        let read = records::log_records(&mut slot.lock(), from, to, now);
        match read {
            Ok(records) => records,
            Err(e) => {
                if self.is_readable(b) {
                    let text = format!("broker {b} {} {from}..{to}: {e}", slot.id());
                    self.violate("readable", text);
                }
                Vec::new()
            }
        }
    }
    /// Whether a broker lives and its disk works.
    pub fn is_readable(&self, b: usize) -> bool {
        self.brokers[b]
            .life
            .as_ref()
            .is_some_and(|l| l.table.dirs().iter().all(|d| d.log_dir.offline_reason().is_none()))
    }
}
