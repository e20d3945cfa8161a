//! How a fetch hears of news: partitions in which it found nothing ring its bell when there may be
//! something. A bell belongs to a fetch session and outlives its requests, so that each looks only
//! at what rang, however many partitions the session has.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;

#[derive(Debug, Default)]
struct Rung {
    ids: Vec<u64>,
    loud: bool,
}

/// What partitions tell one fetch session, or one fetch without a session.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Mutex<Rung>,
    request: AtomicU64,
    waker: AtomicWaker,
}

impl Bell {
    /// A bell that nobody has rung.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn ring(&self, id: u64, loud: bool, noted: bool) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        if !noted {
            rung.ids.push(id);
        }
        rung.loud |= loud;
        drop(rung);
        if loud {
            self.waker.wake();
        }
    }

    /// Takes the ids of the partitions that rang since the last time.
    pub fn take(&self) -> Vec<u64> {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *rung).ids
    }

    /// A new request of the session begins: one that still waits is woken, and is to be answered.
    /// Returns the number to wait with.
    pub fn begin_request(&self) -> u64 {
        let request = self.request.fetch_add(1, Ordering::AcqRel) + 1;
        self.waker.wake();
        request
    }

    /// Whether a later request of the session has begun.
    pub fn is_superseded(&self, request: u64) -> bool {
        self.request.load(Ordering::Acquire) != request
    }

    /// Ready when some partition rang loudly, or `request` is superseded.
    pub fn poll_rung(&self, request: u64, cx: &mut Context<'_>) -> Poll<()> {
        // A superseded request must leave the waker to the one that followed.
        if self.is_superseded(request) {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        let loud = self.rung.lock().unwrap_or_else(PoisonError::into_inner).loud;
        if loud || self.is_superseded(request) { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[derive(Debug)]
struct Listener {
    bell: Weak<Bell>,
    id: u64,
    /// It rang, but nobody has looked yet.
    noted: bool,
}

/// The fetches that listen to one partition.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// Lets `bell` be rung with `id` at the next news. Fetches that are gone make room.
    pub fn add(&mut self, bell: &Arc<Bell>, id: u64) {
        let new = Arc::downgrade(bell);
        self.0.retain(|l| !l.bell.ptr_eq(&new) && l.bell.strong_count() > 0);
        self.0.push(Listener { bell: new, id, noted: false });
    }

    /// There is something to read: rings all bells, once.
    pub fn ring(&mut self) {
        for listener in self.0.drain(..) {
            if let Some(bell) = listener.bell.upgrade() {
                bell.ring(listener.id, true, listener.noted);
            }
        }
    }

    /// There is something to tell, but nothing that is worth an answer of its own.
    pub fn note(&mut self) {
        for listener in self.0.iter_mut().filter(|l| !l.noted) {
            listener.noted = true;
            if let Some(bell) = listener.bell.upgrade() {
                bell.ring(listener.id, false, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn ready(bell: &Bell, request: u64) -> bool {
        bell.poll_rung(request, &mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn news_before_the_wait_are_not_lost_and_come_once() {
        let (bell, mut all) = (Bell::new(), Listeners::default());
        let request = bell.begin_request();
        all.add(&bell, 7);
        assert!(!ready(&bell, request));
        all.note();
        all.note();
        assert!(!ready(&bell, request), "nothing to read");
        all.ring();
        all.ring();
        assert!(ready(&bell, request));
        assert_eq!((bell.take(), bell.take()), (vec![7], vec![]));
        assert!(!ready(&bell, request));
    }

    #[test]
    fn who_listens_again_is_there_once_and_who_is_gone_is_not() {
        let (bell, mut all) = (Bell::new(), Listeners::default());
        all.add(&bell, 7);
        all.note();
        all.add(&bell, 7);
        all.add(&Bell::new(), 8);
        all.add(&bell, 7);
        assert_eq!(all.0.len(), 1);
        all.note();
        assert_eq!(bell.take(), [7, 7], "looked at in between");
    }

    #[test]
    fn the_next_request_ends_the_wait_of_the_last() {
        let bell = Bell::new();
        let first = bell.begin_request();
        assert!(!ready(&bell, first));
        let second = bell.begin_request();
        assert!(ready(&bell, first) && !ready(&bell, second));
    }
}
