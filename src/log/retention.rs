//! Which segments have had their time (`UnifiedLog.deleteOldSegments`), as a pure plan, and its
//! application.
//!
//! Unlike Kafka, a timestamp in the future does not keep a segment for ever: a segment is as old
//! as the *earlier* of its largest timestamp and the time of its last append.

use super::{
    error::LogError,
    log::{Home, Log},
    settings::LogConfig,
};
use crate::base::{Mutant, Now, Offset, mutant};

/// Why segments were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionReason {
    /// They lie below the log start offset.
    LogStart,
    /// `retention.bytes`.
    Size,
    /// `retention.ms`.
    Time,
}

/// Segments that were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// How many.
    pub segments: usize,
    /// Their bytes of batches.
    pub bytes: u64,
    /// What asked for the last of them.
    pub reason: DeletionReason,
    /// The log start offset after it.
    pub log_start: Offset,
}

/// What the plan must know of a segment.
#[derive(Debug, Clone, Copy)]
struct View {
    /// Offset after its last record: the next segment's base, or the log end.
    end: Offset,
    size: u64,
    last: bool,
}

/// Bounds that the plan keeps to.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    log_start: Offset,
    high_watermark: Offset,
    now_ms: i64,
}

/// How many segments go, and why. `age_of` tells when a segment was last appended to, in
/// milliseconds, and is only asked as far as needed.
fn plan<E>(
    views: &[View],
    config: &LogConfig,
    bounds: Bounds,
    mut age_of: impl FnMut(usize) -> Result<i64, E>,
) -> Result<Option<(usize, DeletionReason)>, E> {
    let total: u64 = views.iter().map(|v| v.size).sum();
    let mut excess = match u64::try_from(config.retention_bytes) {
        Ok(keep) if config.delete && mutant(Mutant::RetentionTooEarly) => {
            total.checked_sub(keep / 2)
        }
        Ok(keep) if config.delete => total.checked_sub(keep),
        _ => None,
    };
    let mut by_start = true;
    let mut by_time = config.delete && config.retention_ms >= 0;
    let mut out = None;
    for (at, view) in views.iter().enumerate() {
        let empty_tail = view.last && view.size == 0;
        if view.end > bounds.high_watermark || empty_tail {
            break;
        }
        by_start &= !view.last && view.end <= bounds.log_start;
        excess = excess.and_then(|e| e.checked_sub(view.size));
        by_time = by_time && {
            let age = bounds.now_ms.saturating_sub(age_of(at)?);
            age > config.retention_ms
        };
        let reason = match (by_start, excess, by_time) {
            (true, ..) => DeletionReason::LogStart,
            (false, Some(_), _) => DeletionReason::Size,
            (false, None, true) => DeletionReason::Time,
            (false, None, false) => break,
        };
        out = Some((at + 1, reason));
    }
    Ok(out)
}

impl Log {
    /// Deletes the segments that settings and log start offset no longer ask for, never beyond
    /// `high_watermark`. If all go, an empty one is begun first. Their files vanish after
    /// `file.delete.delay.ms`, by [`super::LogDir::remove_due`].
    ///
    /// # Errors
    /// `Full` if the new segment cannot be made: nothing was deleted. `Io`, `Offline`.
    pub fn delete_expired(
        &mut self,
        high_watermark: Offset,
        now: Now,
    ) -> Result<Option<Expired>, LogError> {
        self.dir.check()?;
        self.load(now)?;
        let views = self.views();
        let bounds = Bounds { log_start: self.log_start, high_watermark, now_ms: now.wall_ms };
        let (home, segments) = (Home { dir: &self.dir, tp: &self.tp }, &mut self.segments);
        let planned = plan(&views, &self.config, bounds, |at| {
            let segment = &mut segments[at];
            let appended = segment.appended_ms(home)?;
            let (timestamp, _) = segment.max_stamp(home)?;
            Ok::<_, LogError>(if timestamp < 0 { appended } else { timestamp.min(appended) })
        })?;
        let Some((segments, reason)) = planned else { return Ok(None) };
        if segments == self.segments.len() {
            self.roll(self.end, now)?;
        }
        let bytes = views.iter().take(segments).map(|v| v.size).sum();
        let first_kept = self.segments.get(segments).map_or(self.end, |s| s.base);
        self.advance_log_start(first_kept, now)?;
        self.delete_front(segments, now)?;
        Ok(Some(Expired { segments, bytes, reason, log_start: self.log_start }))
    }

    fn views(&self) -> Vec<View> {
        let count = self.segments.len();
        let end = |at: usize| self.segments.get(at + 1).map_or(self.end, |s| s.base);
        let view = |(at, size): (usize, u64)| View { end: end(at), size, last: at + 1 == count };
        self.segments.iter().map(|s| s.size).enumerate().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    /// Segments of 10 offsets and 100 bytes each; the last is the active one.
    fn views(count: usize) -> Vec<View> {
        let view = |n| View { end: (n as i64 + 1) * 10, size: 100, last: n + 1 == count };
        (0..count).map(view).collect()
    }

    fn config(retention_ms: i64, retention_bytes: i64) -> LogConfig {
        LogConfig { retention_ms, retention_bytes, ..LogConfig::default() }
    }

    fn run(config: &LogConfig, log_start: i64, hw: i64, ages: &[i64]) -> Option<(usize, char)> {
        let bounds = Bounds { log_start, high_watermark: hw, now_ms: 10 * DAY };
        let got = plan(&views(ages.len()), config, bounds, |at| Ok::<_, ()>(ages[at])).unwrap();
        got.map(|(n, reason)| {
            let c = match reason {
                DeletionReason::LogStart => 'o',
                DeletionReason::Size => 's',
                DeletionReason::Time => 't',
            };
            (n, c)
        })
    }

    #[test]
    fn by_time_up_to_the_first_that_is_young() {
        let week = config(7 * DAY, -1);
        assert_eq!(run(&week, 0, 50, &[0, DAY, 5 * DAY, 0, 9 * DAY]), Some((2, 't')));
        assert_eq!(run(&week, 0, 19, &[0, 0, 0]), Some((1, 't')), "not beyond the high watermark");
        assert_eq!(run(&week, 0, 30, &[0, 0, 0]), Some((3, 't')), "the active one, too");
        assert_eq!(run(&config(-1, -1), 0, 30, &[0, 0, 0]), None);
        assert_eq!(run(&week, 0, 30, &[3 * DAY, 0, 0]), None, "exactly a week is kept");
    }

    #[test]
    fn by_size_down_to_the_bound_and_not_below() {
        assert_eq!(run(&config(-1, 250), 0, 50, &[0; 5]), Some((2, 's')));
        assert_eq!(run(&config(-1, 300), 0, 50, &[0; 5]), Some((2, 's')));
        assert_eq!(run(&config(-1, 500), 0, 50, &[0; 5]), None);
        assert_eq!(run(&config(-1, 0), 0, 50, &[0; 5]), Some((5, 's')));
    }

    #[test]
    fn by_log_start_whatever_the_policy() {
        let compact = LogConfig { delete: false, compact: true, ..config(1, 1) };
        assert_eq!(run(&compact, 25, 50, &[0; 5]), Some((2, 'o')));
        assert_eq!(run(&compact, 50, 50, &[0; 5]), Some((4, 'o')), "never the active one");
        assert_eq!(run(&compact, 0, 50, &[0; 5]), None, "time and size are not for compact logs");
    }

    #[test]
    fn an_empty_tail_stays() {
        let mut v = views(2);
        v[1].size = 0;
        let bounds = Bounds { log_start: 0, high_watermark: 99, now_ms: 10 * DAY };
        let got = plan(&v, &config(1, -1), bounds, |_| Ok::<_, ()>(0)).unwrap();
        assert_eq!(got, Some((1, DeletionReason::Time)));
    }
}
