//! Time as machines see it: a value that is passed in, never read.

use std::time::Duration;

/// A point of the monotonic clock, in nanoseconds since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Mono(pub u64);

impl Mono {
    /// The far end of time: a deadline that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// This point plus `d`, saturating at [`Mono::NEVER`].
    #[must_use]
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// This point plus `ms` milliseconds; a negative number counts as zero.
    #[must_use]
    pub fn after_ms(self, ms: i64) -> Self {
        self.after(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
    }

    /// The time from `earlier` to this point, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read once by a driver and handed to machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For deadlines and intervals; never goes back.
    pub mono: Mono,
    /// Milliseconds since the Unix epoch, for what is stored or shown; may jump either way.
    pub wall_ms: i64,
}
