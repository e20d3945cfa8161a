//! Memory for frames, over all connections: a budget for those above 64 KiB, and a few large
//! buffers that go from hand to hand so that their pages stay warm.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Frames up to this size are read into the connection's own buffer and take no budget.
pub(super) const SMALL_BYTES: usize = 64 * 1024;
/// Bytes that wait in the pool at most.
const POOL_BYTES_MAX: usize = 32 << 20;
/// A buffer above this is given back to the system rather than kept.
const POOLED_BUFFER_BYTES_MAX: usize = 8 << 20;
/// The unit of the budget.
const UNIT_BYTES: usize = 1024;

/// The memory that all connections share.
#[derive(Debug)]
pub struct Memory {
    budget: Arc<Semaphore>,
    budget_units: u32,
    pool: Mutex<Vec<BytesMut>>,
}

/// A part of the budget; given back when dropped.
pub(super) type Permit = OwnedSemaphorePermit;

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Memory {
    /// A budget of `bytes` (`queued.max.request.bytes`). It is made to hold at least one frame of
    /// `frame_bytes_max`, else none of that size could ever be read.
    #[must_use]
    pub fn new(bytes: usize, frame_bytes_max: usize) -> Self {
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        let budget_units = units(bytes.max(frame_bytes_max.saturating_add(SMALL_BYTES))).min(most);
        Self {
            budget: Arc::new(Semaphore::new(budget_units as usize)),
            budget_units,
            pool: Mutex::default(),
        }
    }

    /// Bytes of the budget that are not taken.
    #[must_use]
    pub fn available_bytes(&self) -> usize {
        self.budget.available_permits().saturating_mul(UNIT_BYTES)
    }

    /// Waits for `bytes` of the budget. Dropping the future takes nothing.
    pub(super) async fn take(&self, bytes: usize) -> Option<Permit> {
        let n = units(bytes).min(self.budget_units);
        Arc::clone(&self.budget).acquire_many_owned(n).await.ok()
    }

    /// Takes `bytes` of the budget if they are there.
    pub(super) fn try_take(&self, bytes: usize) -> Option<Permit> {
        let n = units(bytes).min(self.budget_units);
        Arc::clone(&self.budget).try_acquire_many_owned(n).ok()
    }

    fn pool(&self) -> std::sync::MutexGuard<'_, Vec<BytesMut>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The empty buffer of at least `bytes` that was given last, if there is one.
    pub(super) fn buffer(&self, bytes: usize) -> Option<BytesMut> {
        let mut pool = self.pool();
        let at = pool.iter().rposition(|b| b.capacity() >= bytes)?;
        Some(pool.remove(at))
    }

    /// Gives an empty buffer back.
    pub(super) fn give(&self, buffer: BytesMut) {
        let size = buffer.capacity();
        if size <= SMALL_BYTES || size > POOLED_BUFFER_BYTES_MAX || !buffer.is_empty() {
            return;
        }
        let mut pool = self.pool();
        let held: usize = pool.iter().map(BytesMut::capacity).sum();
        if held.saturating_add(size) <= POOL_BYTES_MAX {
            pool.push(buffer);
        }
    }

    /// Frees half of the buffers that wait, those longest unused. Called now and then, so that an
    /// idle process holds none.
    pub fn trim(&self) {
        let mut pool = self.pool();
        let n = pool.len().div_ceil(2);
        pool.drain(..n);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_holds_the_largest_frame() {
        let memory = Memory::new(0, 10 << 20);
        assert!(memory.available_bytes() >= 10 << 20);
        let all = memory.try_take(usize::MAX).unwrap();
        assert_eq!(memory.available_bytes(), 0);
        assert!(memory.try_take(1).is_none());
        drop(all);
        assert!(memory.try_take(1).is_some());
    }

    #[test]
    fn the_pool_is_bounded_and_warm_buffers_come_first() {
        let memory = Memory::new(0, 0);
        memory.give(BytesMut::with_capacity(SMALL_BYTES));
        memory.give(BytesMut::with_capacity(POOLED_BUFFER_BYTES_MAX + 1));
        assert!(memory.buffer(1).is_none(), "neither small nor huge ones are kept");
        for _ in 0..40 {
            memory.give(BytesMut::with_capacity(1 << 20));
        }
        assert_eq!(memory.pool().len(), 32);
        memory.give(BytesMut::with_capacity(100_000));
        assert!(memory.buffer(2 << 20).is_none());
        for left in [16, 8, 4, 2, 1, 0, 0] {
            memory.trim();
            assert_eq!(memory.pool().len(), left);
        }
    }
}
