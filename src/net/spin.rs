//! A short wait on the processor instead of in the kernel. A client that sends its next request as
//! soon as it has an answer is back within tens of microseconds, less than it takes an idle core to
//! wake. So a connection that has proved to be such a one is looked at a little longer before its
//! task goes to sleep, by one thread at most, and giving way to whoever else wants the processor.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Answers in a row after which the next request came at once, before a wait on the processor is
/// tried; after as many failures it is given up.
const PROOFS: u8 = 8;
/// Looks at the socket between two looks at the clock.
const LOOKS: u32 = 4;

/// Whether some thread of the process waits this way.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What is known of one connection.
#[derive(Debug, Default)]
pub(super) struct Spin {
    /// How many of the last requests came at once, at most [`PROOFS`].
    prompt: u8,
    answered_at: Option<Instant>,
}

impl Spin {
    /// All that was owed is sent, and it was little.
    pub(super) fn answered(&mut self, now: Instant) {
        self.answered_at = Some(now);
    }

    /// A request is there. `within` is how long a wait on the processor may take.
    pub(super) fn arrived(&mut self, now: Instant, within: Duration) {
        let Some(answered) = self.answered_at.take() else { return };
        if now.saturating_duration_since(answered) <= within {
            self.prompt = (self.prompt + 1).min(2 * PROOFS);
        } else {
            self.prompt = self.prompt.saturating_sub(PROOFS / 2);
        }
    }

    /// Looks for a request with `look`, which says whether one is there, for at most `within`.
    pub(super) fn wait(&self, within: Duration, mut look: impl FnMut() -> bool) -> bool {
        let proved = self.prompt >= PROOFS && self.answered_at.is_some();
        if !proved || within.is_zero() || TAKEN.swap(true, Ordering::Acquire) {
            return false;
        }
        let began = Instant::now();
        let mut found = look();
        while !found && began.elapsed() < within {
            for _ in 0..LOOKS {
                std::thread::yield_now();
                found = found || look();
            }
        }
        TAKEN.store(false, Ordering::Release);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_prompt_client_is_waited_for() {
        let (mut spin, t0) = (Spin::default(), Instant::now());
        let within = Duration::from_micros(100);
        let mut looks = 0;
        assert!(!spin.wait(within, || panic!("nothing is known of it yet")));
        for _ in 0..PROOFS {
            spin.answered(t0);
            spin.arrived(t0 + within, within);
        }
        assert!(!spin.wait(within, || panic!("no small answer went before")));
        spin.answered(t0);
        assert!(spin.wait(within, || {
            looks += 1;
            looks == 3
        }));
        assert!(!spin.wait(Duration::ZERO, || true), "it may be turned off");
        // It stops being prompt.
        for _ in 0..4 {
            spin.answered(t0);
            spin.arrived(t0 + within * 20, within);
        }
        spin.answered(t0);
        assert!(!spin.wait(within, || panic!("it is not prompt any more")));
    }
}
