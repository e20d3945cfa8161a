//! Reading: offsets to slices of files, timestamps to batches (`LocalLog.read`,
//! `UnifiedLog.fetchOffsetByTimestamp`). No byte of a record is read here.

use super::{
    error::LogError,
    log::{Home, Log},
    scan::HEADERS_WINDOW,
};
use crate::base::{Mutant, Now, Offset, mutant, ports::FileSlice};
use crate::record::BatchHeader;

/// Whole batches of one read.
#[derive(Debug, Clone, Default)]
pub struct ReadSlices {
    /// Where the bytes are; empty if there is nothing to read.
    pub slices: Vec<FileSlice>,
    /// Bytes of all slices.
    pub bytes: usize,
    /// Base offset of the first batch, which may lie below what was asked for.
    pub base_offset: Offset,
    /// Every record of the slices lies below this offset: the bound for aborted transactions.
    pub upper: Offset,
}

/// A batch that a search found.
#[derive(Debug, Clone)]
pub struct FoundBatch {
    /// Its header.
    pub header: BatchHeader,
    /// Its bytes.
    pub slice: FileSlice,
}

impl Log {
    /// Whole batches from the one that holds `from` on, below offset `upper` (high watermark,
    /// last stable offset or log end), together at most `max_bytes` long; with `at_least_one` the
    /// first batch even if it is longer. One read stays within one segment.
    ///
    /// # Errors
    /// `OutOfRange` unless `from` lies between log start and log end. `Io`, `Offline`.
    pub fn read(
        &mut self,
        from: Offset,
        upper: Offset,
        max_bytes: usize,
        at_least_one: bool,
        now: Now,
    ) -> Result<ReadSlices, LogError> {
        self.dir.check()?;
        let deleted = from < self.log_start && !mutant(Mutant::ServeDeleted);
        if deleted || from > self.end {
            return Err(self.out_of_range(from));
        }
        self.load(now)?;
        let upper = upper.min(self.end);
        let mut at = self.segment_at(from).unwrap_or(0);
        while from < upper && at < self.segments.len() {
            if let Some((base_offset, pos, first_end)) = self.place(at, from)? {
                if base_offset >= upper {
                    break;
                }
                let limits = Limits { pos, first_end, upper, max_bytes, at_least_one };
                return self.slice(at, base_offset, limits);
            }
            // The segment ends before `from` since it was cleaned: the next one follows.
            at += 1;
        }
        Ok(ReadSlices { base_offset: from, upper: from, ..ReadSlices::default() })
    }

    /// The first batch from the log start on that may have a record with at least `timestamp`:
    /// its largest timestamp is not below. The caller looks for the record.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn batch_for_timestamp(
        &mut self,
        timestamp: i64,
        now: Now,
    ) -> Result<Option<FoundBatch>, LogError> {
        self.batch_for_timestamp_from(timestamp, self.log_start, now)
    }

    /// As [`Log::batch_for_timestamp`], from the batch on that ends at or after `from`: where what
    /// was found had no such record left after a cleaning.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn batch_for_timestamp_from(
        &mut self,
        timestamp: i64,
        from: Offset,
        now: Now,
    ) -> Result<Option<FoundBatch>, LogError> {
        self.dir.check()?;
        self.load(now)?;
        let first = self.segment_at(from).unwrap_or(0);
        let home = Home { dir: &self.dir, tp: &self.tp };
        for segment in self.segments.iter_mut().skip(first) {
            if segment.max_stamp(home)?.0 < timestamp {
                continue;
            }
            if let Some((pos, header)) = segment.locate_timestamp(home, timestamp, from)? {
                let file = segment.log_file(home)?;
                let slice = FileSlice { file, pos, len: header.size };
                return Ok(Some(FoundBatch { header, slice }));
            }
        }
        Ok(None)
    }

    /// The batch with the largest timestamp, if there are records with one.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn batch_with_max_timestamp(&mut self, now: Now) -> Result<Option<FoundBatch>, LogError> {
        self.dir.check()?;
        self.load(now)?;
        let home = Home { dir: &self.dir, tp: &self.tp };
        let mut best = None;
        for (at, segment) in self.segments.iter_mut().enumerate() {
            let stamp = segment.max_stamp(home)?;
            // Of equal timestamps the first counts.
            if stamp.0 >= 0 && best.is_none_or(|(_, b): (usize, (i64, Offset))| stamp.0 > b.0) {
                best = Some((at, stamp));
            }
        }
        let Some((at, (_, offset))) = best else { return Ok(None) };
        self.batch_in(at, offset)
    }

    /// The largest timestamp in milliseconds; -1 if no record has one.
    ///
    /// # Errors
    /// `Io`, `Offline`.
    pub fn max_timestamp(&mut self, now: Now) -> Result<i64, LogError> {
        self.load(now)?;
        let home = Home { dir: &self.dir, tp: &self.tp };
        let mut max = -1;
        for segment in &mut self.segments {
            max = max.max(segment.max_stamp(home)?.0);
        }
        Ok(max)
    }

    fn batch_in(&mut self, at: usize, offset: Offset) -> Result<Option<FoundBatch>, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = &mut self.segments[at];
        let Some((pos, header)) = segment.locate(home, offset)? else { return Ok(None) };
        let file = segment.log_file(home)?;
        Ok(Some(FoundBatch { header, slice: FileSlice { file, pos, len: header.size } }))
    }

    pub(super) fn out_of_range(&self, offset: Offset) -> LogError {
        LogError::OutOfRange { offset, start: self.log_start, end: self.end }
    }

    /// Base offset, position and end of the first batch in segment `at` that ends at or after
    /// `offset`.
    fn place(&mut self, at: usize, offset: Offset) -> Result<Option<(Offset, u64, u64)>, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let active = at + 1 == self.segments.len();
        let segment = &mut self.segments[at];
        if active && let Some(found) = self.recent.find(offset, segment.size) {
            return Ok(Some(found));
        }
        let found = segment.locate(home, offset)?;
        Ok(found.map(|(pos, h)| (h.base_offset, pos, pos + h.size as u64)))
    }

    fn slice(
        &mut self,
        at: usize,
        base_offset: Offset,
        limits: Limits,
    ) -> Result<ReadSlices, LogError> {
        let end = self.bound(at, limits.upper)?;
        let Limits { pos, first_end, upper, max_bytes, at_least_one } = limits;
        let (end, upper) = if end - pos <= max_bytes as u64 {
            (end, upper)
        } else if first_end - pos > max_bytes as u64 {
            (pos, upper)
        } else {
            self.fit(at, limits, end)?
        };
        let end = if end <= pos && at_least_one { first_end } else { end };
        if end <= pos {
            return Ok(ReadSlices { base_offset, upper: base_offset, ..ReadSlices::default() });
        }
        let home = Home { dir: &self.dir, tp: &self.tp };
        let file = self.segments[at].log_file(home)?;
        let len = usize::try_from(end - pos).unwrap_or(usize::MAX);
        let slices = vec![FileSlice { file, pos, len }];
        Ok(ReadSlices { slices, bytes: len, base_offset, upper })
    }

    /// The position in segment `at` where batches at or above offset `upper` begin.
    fn bound(&mut self, at: usize, upper: Offset) -> Result<u64, LogError> {
        let next = self.segments.get(at + 1).map_or(self.end, |s| s.base);
        if upper >= next {
            return Ok(self.segments[at].size);
        }
        let size = self.segments[at].size;
        let found = self.place(at, upper)?;
        // A batch that reaches over the bound is not given out.
        Ok(found.map_or(size, |(_, pos, _)| pos))
    }

    /// The end of the whole batches from `limits.pos` on that fit into `max_bytes`, and an offset
    /// that none of them reaches. Close below the bound by the index, exactly if it knows none.
    fn fit(&mut self, at: usize, limits: Limits, end: u64) -> Result<(u64, Offset), LogError> {
        let Limits { pos, max_bytes, upper, .. } = limits;
        let limit = pos + max_bytes as u64;
        let active = at + 1 == self.segments.len();
        if active
            && let Some((cut, offset)) = self.recent.boundary(limit)
            && cut > pos
        {
            return Ok((cut, offset));
        }
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = &mut self.segments[at];
        if let Some((cut, last)) = segment.boundary(home, limit)?
            && cut > pos
        {
            return Ok((cut, last));
        }
        let mut walk = segment.scan(home, pos, HEADERS_WINDOW)?;
        let mut fit = (pos, upper);
        while let Some((pos, h)) = segment.step(home, &mut walk)? {
            let batch_end = pos + h.size as u64;
            if batch_end > limit || batch_end > end {
                break;
            }
            fit = (batch_end, h.next_offset());
        }
        Ok(fit)
    }
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    pos: u64,
    first_end: u64,
    upper: Offset,
    max_bytes: usize,
    at_least_one: bool,
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::log::fixture::{append, at, new_log, open, read_all, sim, small};
    use crate::log::{FileCache, LogConfig, LogDir, Recovery};
    use crate::testing::batches::Batch;

    #[test]
    fn the_tail_is_read_without_touching_a_file() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        for n in 0..4 {
            append(&mut log, &Batch::of(2, 50, n), n).unwrap();
        }
        fs.fail_always(crate::testing::fs::Op::Read, "", std::io::ErrorKind::Other);
        let size = log.size() / 4;
        let got = log.read(3, 8, 1 << 20, true, at(0)).unwrap();
        assert_eq!((got.base_offset, got.bytes as u64, got.upper), (2, size * 3, 8));
        let got = log.read(2, 6, 1 << 20, true, at(0)).unwrap();
        assert_eq!((got.bytes as u64, got.upper), (size * 2, 6), "below the bound");
        let got = log.read(2, 7, 1 << 20, true, at(0)).unwrap();
        assert_eq!(got.bytes as u64, size * 2, "not a batch that reaches over it");
        let got = log.read(0, 8, size as usize * 2 + 5, true, at(0)).unwrap();
        assert_eq!((got.bytes as u64, got.upper), (size * 2, 4), "whole batches");
        let got = log.read(0, 8, 3, true, at(0)).unwrap();
        assert_eq!(got.bytes as u64, size, "at least one");
        assert_eq!(log.read(0, 8, 3, false, at(0)).unwrap().bytes, 0);
        assert_eq!(log.read(8, 8, 99, true, at(0)).unwrap().bytes, 0);
        let beyond = log.read(9, 99, 99, true, at(0));
        assert!(matches!(beyond, Err(LogError::OutOfRange { start: 0, end: 8, .. })));
    }

    /// Writes a log with every kind of file through the real file system. The directory is kept
    /// where `VLTAVA_KEEP_LOG` says, to be looked at with `kafka-dump-log`.
    #[test]
    fn on_the_real_file_system() {
        use crate::base::ports::Fs as _;
        let scratch = tempfile::tempdir().unwrap();
        let kept = std::env::var_os("VLTAVA_KEEP_LOG").map(std::path::PathBuf::from);
        let path = kept.as_deref().unwrap_or_else(|| scratch.path());
        let fs = Arc::new(crate::os::OsFs);
        let open_dir = || {
            let files = Arc::new(FileCache::new(8));
            LogDir::open(fs.clone(), path, files).unwrap()
        };
        let (dir, _) = open_dir();
        let config = LogConfig { segment_bytes: 200_000, ..LogConfig::default() };
        let mut log = open(&dir, &config, Recovery::Clean).unwrap();
        for n in 0..400 {
            let sequence = n * 3;
            let stamp = 1_700_000_000_000 + i64::from(n * 7 % 50) * 1000 + i64::from(n);
            let batch = Batch::of(3, 500, stamp).at(0, n / 100);
            append(&mut log, &batch.by(7, 0, sequence), i64::from(n)).unwrap();
            if n % 40 == 39 {
                let txn = Batch::of(2, 50, stamp).at(0, n / 100).in_txn();
                append(&mut log, &txn.by(8, 0, n / 40 * 2), 0).unwrap();
                let marker = Batch::marker(8, 0, n % 80 == 39, stamp).at(0, n / 100);
                append(&mut log, &marker, 0).unwrap();
            }
        }
        let all = read_all(&mut log, 0, 100_000);
        assert_eq!(all.len(), 420);
        let entry = log.close_clean(at(0)).unwrap().unwrap();
        dir.mark_clean(1, &BTreeMap::from([(log.tp.clone(), entry)])).unwrap();
        drop((log, dir));
        let (dir, state) = open_dir();
        assert!(state.clean && fs.stat(&path.join(".kafka_cleanshutdown")).unwrap().is_none());
        let mut log = open(&dir, &config, Recovery::Clean).unwrap();
        assert_eq!(read_all(&mut log, 0, 1_000_000), all);
        assert_eq!(log.aborted_transactions(0, log.end, at(0)).unwrap().len(), 5);
        log.close_clean(at(0)).unwrap();
    }
}
