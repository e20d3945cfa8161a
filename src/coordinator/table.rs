//! The shards this broker leads, by partition, behind the only locks of the room: the table (read),
//! then one slot; never two slots; never across an await. A shard `S` keeps groups, or transactions.
//! Pure.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use super::{calls::Token, shard::Shard};
use crate::base::{ErrorCode, PartitionId};

/// What a slot is.
#[derive(Debug)]
pub enum Role<S = Shard> {
    /// The log is being replayed.
    Loading,
    /// Takes calls.
    Active(Box<S>),
    /// The log could not be replayed; the next election tries again.
    Failed,
    /// Led elsewhere: the slot has left the table.
    Gone,
}

/// One partition. `W` is who waits for a reply.
#[derive(Debug)]
pub struct Slot<W, S = Shard> {
    /// Leader epoch of the election.
    pub epoch: i32,
    pub role: Role<S>,
    /// Whether someone waits for the high watermark already.
    pub watching: bool,
    waiters: BTreeMap<Token, W>,
    next_token: Token,
}

impl<W, S> Slot<W, S> {
    /// The shard, if it takes calls.
    ///
    /// # Errors
    /// `CoordinatorLoadInProgress`, `NotCoordinator`.
    pub fn shard(&mut self) -> Result<&mut S, ErrorCode> {
        match &mut self.role {
            Role::Active(shard) => Ok(shard),
            Role::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Role::Failed | Role::Gone => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Keeps `waiter` until its reply comes.
    pub fn park(&mut self, waiter: W) -> Token {
        let token = self.next_token;
        self.next_token += 1;
        self.waiters.insert(token, waiter);
        token
    }

    /// Who waits for `token`; nobody if it has been answered.
    pub fn unpark(&mut self, token: Token) -> Option<W> {
        self.waiters.remove(&token)
    }
}

/// A slot that several may hold.
#[derive(Debug)]
pub struct SharedSlot<W, S = Shard>(Arc<Mutex<Slot<W, S>>>);

impl<W, S> Clone for SharedSlot<W, S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W, S> SharedSlot<W, S> {
    pub fn lock(&self) -> MutexGuard<'_, Slot<W, S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All slots.
#[derive(Debug)]
pub struct Table<W, S = Shard> {
    slots: RwLock<BTreeMap<PartitionId, SharedSlot<W, S>>>,
}

impl<W, S> Default for Table<W, S> {
    fn default() -> Self {
        Self { slots: RwLock::default() }
    }
}

impl<W, S> Table<W, S> {
    pub fn get(&self, partition: PartitionId) -> Option<SharedSlot<W, S>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner).get(&partition).cloned()
    }

    /// All slots, by partition.
    pub fn all(&self) -> Vec<(PartitionId, SharedSlot<W, S>)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().map(|(p, slot)| (*p, slot.clone())).collect()
    }

    /// This broker leads `partition` since `epoch`. Gives the slot if it is to be loaded: a leader
    /// that stays leader in a higher epoch keeps its state.
    pub fn elect(&self, partition: PartitionId, epoch: i32) -> Option<SharedSlot<W, S>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let Some(shared) = slots.get(&partition) else {
            let slot = Slot {
                epoch,
                role: Role::Loading,
                watching: false,
                waiters: BTreeMap::new(),
                next_token: 0,
            };
            let shared = SharedSlot(Arc::new(Mutex::new(slot)));
            slots.insert(partition, shared.clone());
            return Some(shared);
        };
        let mut slot = shared.lock();
        if epoch <= slot.epoch {
            return None;
        }
        slot.epoch = epoch;
        if !matches!(slot.role, Role::Failed) {
            return None;
        }
        slot.role = Role::Loading;
        drop(slot);
        Some(shared.clone())
    }

    /// This broker no longer leads `partition` as of `epoch` (none: whatever the epoch, the
    /// partition is gone). Gives the slot that left the table; one of a later election stays.
    pub fn resign(&self, partition: PartitionId, epoch: Option<i32>) -> Option<SharedSlot<W, S>> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let held = slots.get(&partition)?.lock().epoch;
        if epoch.is_some_and(|epoch| epoch < held) {
            return None;
        }
        slots.remove(&partition)
    }
}

/// The partition, of `count`, that keeps a group or a transactional id: Java's `String.hashCode`
/// over UTF-16 code units, made positive (`Utils.abs`, where the least number becomes 0).
#[must_use]
pub fn partition_for(id: &str, count: i32) -> PartitionId {
    let hash =
        id.encode_utf16().fold(0_i32, |h, unit| h.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let positive = hash.checked_abs().unwrap_or(0);
    positive % count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_placed_as_kafka_places_them() {
        // "polygenelubricants" hashes to Integer.MIN_VALUE.
        assert_eq!(partition_for("polygenelubricants", 50), 0);
        assert_eq!(partition_for("", 50), 0);
        // "test".hashCode() = 3556498, "hello".hashCode() = 99162322.
        assert_eq!(partition_for("test", 50), 3_556_498 % 50);
        assert_eq!(partition_for("hello", 50), 99_162_322 % 50);
        // Two UTF-16 units: 0xd83d * 31 + 0xde00.
        assert_eq!(partition_for("\u{1f600}", 50), (0xd83d * 31 + 0xde00) % 50);
    }

    #[test]
    fn elections_are_fenced_by_their_epoch() {
        let table = Table::<()>::default();
        assert!(table.elect(3, 5).is_some());
        assert!(table.elect(3, 5).is_none(), "the same election again");
        assert!(table.elect(3, 7).is_none(), "still leader: the state stays");
        assert_eq!(table.get(3).unwrap().lock().epoch, 7);
        assert!(table.resign(3, Some(6)).is_none(), "an older resignation");
        assert!(table.get(3).is_some());
        assert!(table.resign(3, Some(8)).is_some());
        assert!(table.get(3).is_none());
        assert!(table.elect(3, 9).is_some());
        table.get(3).unwrap().lock().role = Role::Failed;
        assert!(table.elect(3, 10).is_some(), "a failed load is tried again");
        assert!(table.resign(3, None).is_some());
    }
}
