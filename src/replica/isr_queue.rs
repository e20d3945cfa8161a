//! Which partitions want something of the ISR driver: a proposal sent now, or a look when time has
//! passed. Only partitions that changed are in here; an idle one costs nothing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

use super::table::Slot;

/// The partitions that the ISR driver looks at.
#[derive(Debug, Default)]
pub struct IsrQueue {
    due: Mutex<Vec<Arc<Slot>>>,
    watched: Mutex<Vec<Arc<Slot>>>,
    waker: AtomicWaker,
}

fn push(list: &Mutex<Vec<Arc<Slot>>>, slot: &Arc<Slot>) {
    list.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(slot));
}

fn take(list: &Mutex<Vec<Arc<Slot>>>) -> Vec<Arc<Slot>> {
    std::mem::take(&mut *list.lock().unwrap_or_else(PoisonError::into_inner))
}

impl IsrQueue {
    /// `slot` has something to propose.
    pub fn propose(&self, slot: &Arc<Slot>) {
        push(&self.due, slot);
        self.waker.wake();
    }

    /// A follower of `slot` lags: to be looked at when time has passed.
    pub fn watch(&self, slot: &Arc<Slot>) {
        push(&self.watched, slot);
    }

    /// Takes those that have something to propose.
    pub fn take_due(&self) -> Vec<Arc<Slot>> {
        take(&self.due)
    }

    /// Takes those that are to be looked at. Whoever takes them puts back what still lags.
    pub fn take_watched(&self) -> Vec<Arc<Slot>> {
        take(&self.watched)
    }

    /// Ready when some partition has something to propose.
    pub fn poll_due(&self, cx: &mut Context<'_>) -> Poll<Vec<Arc<Slot>>> {
        self.waker.register(cx.waker());
        let due = self.take_due();
        if due.is_empty() { Poll::Pending } else { Poll::Ready(due) }
    }
}
