//! How dirty a compacted log is, and which of its segments are cleaned together
//! (`LogCleanerManager.cleanableOffsets`, `LogToClean.java`, `Cleaner.groupSegmentsBySize`). Pure.

use std::ops::Range;

use super::settings::LogConfig;
use crate::base::Offset;

/// Parts of a whole in which `min.cleanable.dirty.ratio` is counted.
pub const RATIO_WHOLE: u64 = 1_000_000_000;

/// A closed segment, as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) base: Offset,
    pub(super) size: u64,
    pub(super) index_bytes: u64,
    pub(super) time_index_bytes: u64,
}

/// What is to be cleaned of a log, and how urgent that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirt {
    /// Records below were cleaned before.
    pub first_dirty: Offset,
    /// The base of the first segment that must not be cleaned.
    pub upto: Offset,
    /// Bytes of segments that were cleaned before.
    pub clean_bytes: u64,
    /// Bytes of segments that are cleanable and were not cleaned before.
    pub dirty_bytes: u64,
    /// A record is older than `max.compaction.lag.ms` allows.
    pub overdue: bool,
}

impl Dirt {
    /// Whether it is worth, or overdue, to clean.
    pub(super) fn is_due(&self, config: &LogConfig) -> bool {
        let total = self.clean_bytes.saturating_add(self.dirty_bytes);
        let dirty = u128::from(self.dirty_bytes) * u128::from(RATIO_WHOLE);
        let enough = u128::from(total) * u128::from(config.min_cleanable_ratio);
        total > 0 && (self.overdue && self.dirty_bytes > 0 || dirty > enough)
    }

    /// The dirty part of the whole.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        let total = self.clean_bytes.saturating_add(self.dirty_bytes).max(1);
        self.dirty_bytes as f64 / total as f64
    }
}

/// Where the dirty part begins: what was cleaned up to before, unless the log no longer holds that
/// offset; then everything is dirty.
pub(super) fn first_dirty(known: Option<Offset>, log_start: Offset, end: Offset) -> Offset {
    known.filter(|at| (log_start..=end).contains(at)).unwrap_or(log_start)
}

/// The base of the segment that holds `offset`, or of the active one: what lies below may be
/// cleaned if `offset` is the first that may not.
pub(super) fn rounded(pieces: &[Piece], active: Offset, offset: Offset) -> Offset {
    if offset >= active {
        return active;
    }
    let at = pieces.partition_point(|p| p.base <= offset).checked_sub(1);
    at.and_then(|at| pieces.get(at)).map_or(offset, |p| p.base)
}

/// Bytes below `first_dirty` and between it and `upto`, by whole segments; a segment that holds
/// `first_dirty` in its middle counts on both sides.
pub(super) fn weigh(pieces: &[Piece], first_dirty: Offset, upto: Offset) -> (u64, u64) {
    let clean = pieces.iter().filter(|p| p.base < first_dirty).map(|p| p.size).sum();
    if first_dirty >= upto {
        return (clean, 0);
    }
    let from = pieces.partition_point(|p| p.base <= first_dirty).saturating_sub(1);
    let dirty = pieces.iter().skip(from).filter(|p| p.base < upto).map(|p| p.size).sum();
    (clean, dirty)
}

/// Groups neighbours whose batches, indexes and offsets fit into one segment. `end` bounds the last
/// piece's offsets.
pub(super) fn group(pieces: &[Piece], config: &LogConfig, end: Offset) -> Vec<Range<usize>> {
    let (size_max, index_max) =
        (config.segment_bytes.min(i32::MAX as u64), config.segment_index_bytes);
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut sum = Piece { base: 0, size: 0, index_bytes: 0, time_index_bytes: 0 };
    for (at, piece) in pieces.iter().enumerate() {
        let next = pieces.get(at + 1).map_or(end, |p| p.base);
        let near = piece.size == 0 || next - 1 - sum.base <= i64::from(i32::MAX);
        let fits = near
            && sum.size + piece.size <= size_max
            && sum.index_bytes + piece.index_bytes <= index_max
            && sum.time_index_bytes + piece.time_index_bytes <= index_max;
        match out.last_mut().filter(|_| fits) {
            Some(group) => {
                group.end = at + 1;
                sum.size += piece.size;
                sum.index_bytes += piece.index_bytes;
                sum.time_index_bytes += piece.time_index_bytes;
            }
            None => {
                out.push(at..at + 1);
                sum = *piece;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(sizes: &[(Offset, u64)]) -> Vec<Piece> {
        let piece = |&(base, size)| Piece { base, size, index_bytes: 8, time_index_bytes: 12 };
        sizes.iter().map(piece).collect()
    }

    #[test]
    fn the_dirty_part_begins_anew_where_the_log_lost_its_place() {
        assert_eq!(first_dirty(None, 3, 10), 3);
        assert_eq!(first_dirty(Some(7), 3, 10), 7);
        assert_eq!(first_dirty(Some(2), 3, 10), 3);
        assert_eq!(first_dirty(Some(11), 3, 10), 3);
    }

    #[test]
    fn only_whole_segments_below_the_bound() {
        let p = pieces(&[(0, 100), (10, 200), (20, 400)]);
        assert_eq!(rounded(&p, 30, 25), 20);
        assert_eq!(rounded(&p, 30, 20), 20);
        assert_eq!(rounded(&p, 30, 99), 30);
        assert_eq!(weigh(&p, 10, 30), (100, 600));
        assert_eq!(weigh(&p, 15, 30), (300, 600), "cut in the middle of a segment");
        assert_eq!(weigh(&p, 0, 0), (0, 0));
        assert_eq!(weigh(&p, 25, 20), (700, 0));
        assert_eq!(weigh(&p, 30, 30), (700, 0));
    }

    #[test]
    fn due_by_ratio_or_by_age() {
        let config = LogConfig { min_cleanable_ratio: RATIO_WHOLE / 2, ..LogConfig::default() };
        let dirt = |clean_bytes, dirty_bytes, overdue| Dirt {
            first_dirty: 0,
            upto: 0,
            clean_bytes,
            dirty_bytes,
            overdue,
        };
        assert!(!dirt(10, 10, false).is_due(&config), "must be above");
        assert!(dirt(10, 11, false).is_due(&config));
        assert!(dirt(1000, 1, true).is_due(&config));
        assert!(!dirt(1000, 0, true).is_due(&config));
        assert!(!dirt(0, 0, true).is_due(&config));
    }

    #[test]
    fn neighbours_are_grouped_while_they_fit() {
        let config =
            LogConfig { segment_bytes: 300, segment_index_bytes: 36, ..LogConfig::default() };
        let p = pieces(&[(0, 100), (10, 200), (20, 1), (30, 400), (40, 0), (50, 100), (60, 100)]);
        assert_eq!(group(&p, &config, 70), [0..2, 2..3, 3..4, 4..7]);
        let p = pieces(&[(0, 1), (1, 1), (2, 1), (3, 1)]);
        assert_eq!(group(&p, &config, 4), [0..3, 3..4], "the time index is full");
        let far = i64::from(i32::MAX);
        let p = pieces(&[(0, 1), (9, 1), (far + 1, 1)]);
        assert_eq!(group(&p, &config, far + 5), [0..2, 2..3]);
        let p = pieces(&[(0, 1), (9, 1), (far + 2, 1)]);
        assert_eq!(group(&p, &config, far + 5), [0..1, 1..3]);
        assert!(group(&[], &config, 0).is_empty());
    }
}
