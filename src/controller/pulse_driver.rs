//! The pulse of this process: a task that notes the time, so that the controller can tell whether it
//! stood still itself (a stopped process, a paused machine) before it takes the silence of brokers
//! for theirs. Uses `base`.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};

use crate::base::{Mono, ports::Clock};

const BEAT: Duration = Duration::from_millis(500);
/// A beat that comes later than this says that the process stood still.
const STILL: Duration = Duration::from_millis(2000);

#[derive(Debug, Clone, Copy)]
struct Beat {
    at: Mono,
    /// When the process last went on after it had stood still.
    resumed: Mono,
}

/// A running pulse; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Pulse {
    last: watch::Receiver<Beat>,
    /// The last resumption that was told.
    told: Mono,
    task: JoinHandle<()>,
}

impl Pulse {
    pub(super) fn start(clock: &Arc<dyn Clock>) -> Self {
        let now = clock.now().mono;
        let (beats, last) = watch::channel(Beat { at: now, resumed: now });
        let clock = Arc::clone(clock);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(BEAT).await;
                let now = clock.now().mono;
                beats.send_modify(|b| *b = b.next(now));
            }
        });
        Self { last, told: now, task }
    }

    /// Whether the process stood still since this was last asked, as far as is known at `now`.
    pub(super) fn stood_still(&mut self, now: Mono) -> bool {
        let last = *self.last.borrow();
        // The task may not have had its turn yet.
        let known = last.next(now).resumed;
        std::mem::replace(&mut self.told, known) != known
    }
}

impl Beat {
    fn next(self, now: Mono) -> Self {
        let still = now.since(self.at) > STILL;
        Self { at: now, resumed: if still { now } else { self.resumed } }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_beat_tells_of_a_stop() {
        let ms = |n| Mono(0).after_ms(n);
        let first = Beat { at: ms(0), resumed: ms(0) };
        assert_eq!(first.next(ms(600)).next(ms(1900)).resumed, ms(0));
        let late = first.next(ms(600)).next(ms(9000));
        assert_eq!(late.resumed, ms(9000));
        assert_eq!(late.next(ms(9500)).resumed, ms(9000));
    }
}
