//! `share-accepted`: a record of which a member was told that it is accepted is never handed out
//! again by who leads. `share-acquirer`: what a member has nobody else gets before the lock ends.
//! `share-skipped`: every record was handed out before the group was done with it. `share-final`: in
//! the end the group is done with all.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use vltava::{
    base::{Mono, Offset},
    share::{acknowledge::AckBatch, acquire::Acquired},
};

use crate::{net::Key, records::Kind, world::World};

/// Under whom a lock was given: broker, life, leader epoch.
type Giver = (usize, u64, i32);

/// What is known of a share group.
#[derive(Debug, Default)]
pub struct ShareOracle {
    /// Partitions whose share state was set.
    pub begun: BTreeSet<Key>,
    accepted: BTreeSet<(Key, Offset)>,
    delivered: BTreeSet<(Key, Offset)>,
    held: BTreeMap<(Key, Offset), (Arc<str>, Mono, Giver)>,
    pub deliveries: usize,
}

impl World {
    /// Whether a broker leads a partition indeed, and knows it; under which epoch.
    fn leads_indeed(&self, b: usize, key: Key) -> Option<i32> {
        let truth = self.quorum.image().topics().partition(key.0, key.1)?;
        let table = &self.brokers[b].life.as_ref()?.table;
        let slot = table.by_id(key.0, key.1)?;
        let replica = slot.lock();
        let knows = replica.leads() && replica.leader_epoch() == truth.leader_epoch;
        (knows && truth.leader == Some(self.brokers[b].id)).then_some(truth.leader_epoch)
    }

    /// A broker hands records out.
    pub fn check_acquired(&mut self, b: usize, key: Key, member: &Arc<str>, all: &[Acquired]) {
        let indeed = self.leads_indeed(b, key);
        let Some(life) = self.brokers[b].life.as_ref() else { return };
        let (now, number) = (life.table.clock.now().mono, life.number);
        let until = now.after_ms(i64::from(self.plan.share_lock_ms));
        for offset in all.iter().flat_map(|a| a.first..=a.last) {
            let shares = &mut self.oracle.shares;
            shares.delivered.insert((key, offset));
            shares.deliveries += 1;
            let Some(epoch) = indeed else { continue };
            let giver = (b, number, epoch);
            let accepted = shares.accepted.contains(&(key, offset));
            let before = shares.held.insert((key, offset), (Arc::clone(member), until, giver));
            if accepted {
                let text = format!("broker {b} hands {offset} of {key:?} to {member}");
                self.violate("share-accepted", text);
            }
            if let Some((other, until, by)) = before
                && by == giver
                && until > now
            {
                let text =
                    format!("broker {b} hands {offset} of {key:?} to {member}: {other} has it");
                self.violate("share-acquirer", text);
            }
        }
    }

    /// A member has spoken of records: others may have them.
    pub fn note_spoken(&mut self, key: Key, acks: &[AckBatch], member: &Arc<str>, leaves: bool) {
        let held = &mut self.oracle.shares.held;
        for offset in acks.iter().flat_map(|a| a.first..=a.last) {
            held.remove(&(key, offset));
        }
        if leaves {
            held.retain(|(k, _), (m, ..)| *k != key || m != member);
        }
    }

    /// A member is told that it has accepted records.
    pub fn note_accepted(&mut self, key: Key, offsets: &[Offset]) {
        self.oracle.shares.accepted.extend(offsets.iter().map(|o| (key, *o)));
    }

    /// What a share group is not done with.
    pub fn shares_lack(&self) -> Option<String> {
        for key in self.share_keys() {
            let end = self.oracle.committed_end(key);
            let leader = self.quorum.image().topics().partition(key.0, key.1)?.leader?;
            let life = self.brokers[self.index_of(leader)].life.as_ref()?;
            let slot = life.shares.slots.get(&key).and_then(|s| s.partition.as_ref());
            let Some(p) = slot else {
                return Some(format!("share-final: nobody shares {key:?}"));
            };
            if p.start_offset() < end || !p.is_written() {
                let (start, next) = (p.start_offset(), p.next_offset());
                return Some(format!("share-final: {key:?} is at {start}..{next} of {end}"));
            }
        }
        None
    }

    /// Records that the group is done with, and that nobody ever had.
    pub fn check_shares_at_the_end(&mut self) {
        for key in self.share_keys() {
            let gone = self.oracle.deleted.get(&key).copied().unwrap_or(0);
            let log = self.oracle.histories.logs.get(&key);
            let known = self.oracle.committed.get(&key).map_or(&[][..], Vec::as_slice);
            let skipped = (0..).zip(known).find(|(offset, rec)| {
                let aborted = log.is_some_and(|l| l.decided.get(offset) == Some(&false));
                let marker = matches!(rec.kind, Kind::Marker { .. });
                let had = self.oracle.shares.delivered.contains(&(key, *offset));
                *offset >= gone && !aborted && !marker && !had
            });
            if let Some((offset, rec)) = skipped {
                self.violate("share-skipped", format!("{rec:?} at {offset} of {key:?}"));
            }
        }
    }
}
