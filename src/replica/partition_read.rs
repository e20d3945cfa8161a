//! What may be read of a partition, and where: records, offsets by timestamp, ends of epochs
//! (`Partition.fetchRecords`, `fetchOffsetForTimestamp`, `lastOffsetForLeaderEpoch`).

use super::{
    partition::{Found, Isolation, Marks, Partition, Refusal, TimedOffset},
    timed,
};
use crate::{
    base::{ErrorCode, LeaderEpoch, Mutant, Now, Offset, mutant},
    log::{EpochEnd, LogError},
};

impl Partition {
    /// Where the log stands.
    ///
    /// # Errors
    /// The directory failed.
    pub fn marks(&mut self, now: Now) -> Result<Marks, Refusal> {
        Ok(Marks {
            log_start: self.log.log_start_offset(),
            high_watermark: self.high_watermark,
            last_stable: self.log.last_stable_offset(self.high_watermark, now)?,
            log_end: self.log.log_end_offset(),
        })
    }

    /// Reads whole batches from `from` on, at most `max_bytes` unless `at_least_one` asks for a
    /// first batch that is larger.
    ///
    /// # Errors
    /// `OffsetOutOfRange` and storage errors.
    pub fn read(
        &mut self,
        from: Offset,
        max_bytes: usize,
        at_least_one: bool,
        isolation: Isolation,
        now: Now,
    ) -> Result<Found, Refusal> {
        let marks = self.marks(now)?;
        let deleted = from < marks.log_start && !mutant(Mutant::ServeDeleted);
        if deleted || from > marks.log_end {
            let (offset, start, end) = (from, marks.log_start, marks.log_end);
            return Err(LogError::OutOfRange { offset, start, end }.into());
        }
        let upper = match isolation {
            Isolation::ReadUncommitted if mutant(Mutant::ServePastHighWatermark) => marks.log_end,
            Isolation::ReadUncommitted => marks.high_watermark,
            Isolation::ReadCommitted if mutant(Mutant::ServePastLastStable) => marks.high_watermark,
            Isolation::ReadCommitted => marks.last_stable,
            Isolation::LogEnd => marks.log_end,
        };
        let mut found = Found { slices: Vec::new(), len: 0, marks, aborted: None };
        let mut read_to = from;
        if from < upper {
            let read = self.log.read(from, upper, max_bytes, at_least_one, now)?;
            found.len = read.bytes;
            read_to = read.upper;
            found.slices = read.slices;
        }
        if isolation == Isolation::ReadCommitted {
            let aborted = if found.len == 0 {
                Vec::new()
            } else {
                self.log.aborted_transactions(from, read_to, now)?
            };
            found.aborted = Some(aborted);
        }
        Ok(found)
    }

    /// What a read finds that gets no records: where the log stands.
    ///
    /// # Errors
    /// The directory failed.
    pub fn nothing(&mut self, now: Now) -> Result<Found, Refusal> {
        Ok(Found { slices: Vec::new(), len: 0, marks: self.marks(now)?, aborted: None })
    }

    /// Where the log of a reader that has records up to `fetch_offset`, the last of `last_epoch`
    /// (-1: it does not say), must be cut to be a part of this one; `None` if it is (KIP-595).
    ///
    /// # Errors
    /// `OffsetOutOfRange` below the log start, or if the epoch is not known. Storage errors.
    pub fn divergence(
        &mut self,
        fetch_offset: Offset,
        last_epoch: LeaderEpoch,
        now: Now,
    ) -> Result<Option<EpochEnd>, Refusal> {
        if last_epoch < 0 || mutant(Mutant::SkipEpochTruncation) {
            return Ok(None);
        }
        let end = self.log.end_offset_for(last_epoch, now)?;
        let end = end.filter(|_| fetch_offset >= self.log.log_start_offset());
        let end = end.ok_or(ErrorCode::OffsetOutOfRange)?;
        Ok((end.epoch < last_epoch || end.end < fetch_offset).then_some(end))
    }

    /// The offset that ListOffsets asks for.
    ///
    /// # Errors
    /// Storage errors; `UnsupportedVersion` for a special timestamp that has no meaning here;
    /// `OffsetNotAvailable` while a new leader does not know how much earlier ones committed.
    pub fn offset_for(
        &mut self,
        timestamp: i64,
        isolation: Isolation,
        now: Now,
    ) -> Result<TimedOffset, Refusal> {
        let marks = self.marks(now)?;
        let end = match isolation {
            Isolation::ReadUncommitted => marks.high_watermark,
            Isolation::ReadCommitted => marks.last_stable,
            Isolation::LogEnd => marks.log_end,
        };
        let lagging = isolation != Isolation::LogEnd
            && self.leader().is_some_and(|l| l.epoch_start() > marks.high_watermark);
        let (timestamp, offset) = match timestamp {
            // Latest. What earlier leaders committed may not be known as such yet.
            -1 if lagging => return Err(ErrorCode::OffsetNotAvailable.into()),
            -1 => {
                return Ok(TimedOffset {
                    timestamp: -1,
                    offset: end,
                    leader_epoch: self.leader_epoch,
                });
            }
            // Earliest; without tiered storage the earliest local one is the same.
            -2 | -4 => (-1, marks.log_start),
            -3 => {
                let batch = self.log.batch_with_max_timestamp(now)?;
                below(end, lagging, batch.and_then(|b| timed::of_max(&b)))?
            }
            // Last tiered, earliest pending upload: there is no tiered storage.
            -5 | -6 => (-1, -1),
            ts if ts >= 0 => {
                let start = marks.log_start;
                below(end, lagging, self.first_at_or_after(ts, start, now)?)?
            }
            _ => return Err(ErrorCode::UnsupportedVersion.into()),
        };
        let epoch = if offset >= 0 { self.log.epoch_at(offset, now)? } else { None };
        Ok(TimedOffset { timestamp, offset, leader_epoch: epoch.unwrap_or(-1) })
    }

    /// Timestamp and offset of the first record from `from` on that is not older than `timestamp`.
    /// A batch may have lost the record that its largest timestamp speaks of to compaction.
    fn first_at_or_after(
        &mut self,
        timestamp: i64,
        mut from: Offset,
        now: Now,
    ) -> Result<Option<(i64, Offset)>, Refusal> {
        while let Some(batch) = self.log.batch_for_timestamp_from(timestamp, from, now)? {
            let found = timed::first_at_or_after(&batch, timestamp, from);
            if found.is_some() {
                return Ok(found);
            }
            from = from.max(batch.header.next_offset());
        }
        Ok(None)
    }

    /// The largest epoch up to `epoch` and where it ends; (-1, -1) if there is none.
    ///
    /// # Errors
    /// Storage errors.
    pub fn epoch_end(
        &mut self,
        epoch: LeaderEpoch,
        now: Now,
    ) -> Result<(LeaderEpoch, Offset), Refusal> {
        let end = self.log.end_offset_for(epoch, now)?;
        Ok(end.map_or((-1, -1), |e| (e.epoch, e.end)))
    }

    /// Raises the log start offset (DeleteRecords); -1 stands for the high watermark. Returns the
    /// offset that `before` stood for: the log begins there, or beyond.
    ///
    /// # Errors
    /// `PolicyViolation` if records of the topic must not be deleted, `OffsetOutOfRange` beyond the
    /// high watermark.
    pub fn delete_records(&mut self, before: Offset, now: Now) -> Result<Offset, Refusal> {
        if self.settings.log.compact && !self.settings.log.delete {
            return Err(ErrorCode::PolicyViolation.into());
        }
        let to = if before == -1 { self.high_watermark } else { before };
        if to < 0 || to > self.high_watermark {
            return Err(ErrorCode::OffsetOutOfRange.into());
        }
        if self.log.advance_log_start(to, now)? {
            self.log_start_moved();
        }
        Ok(to)
    }
}

/// What a search found, if it may be told: below `end`. While the leader is `lagging` what lies
/// above may be committed all the same.
fn below(
    end: Offset,
    lagging: bool,
    found: Option<(i64, Offset)>,
) -> Result<(i64, Offset), Refusal> {
    match found {
        Some(found) if found.1 < end => Ok(found),
        Some(_) if lagging => Err(ErrorCode::OffsetNotAvailable.into()),
        _ => Ok((-1, -1)),
    }
}
