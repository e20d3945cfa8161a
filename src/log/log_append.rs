//! Appending: what a leader takes from producers, what a follower takes from its leader, and the
//! roll to a new segment (`UnifiedLog.append`, `LocalLog.roll`).
//!
//! An append is one write. The leader's offset and epoch go out as a prefix of sixteen bytes in
//! front of the request's own bytes, which are neither copied nor changed. Indexes, epochs and
//! producer state stay in memory: recovery can make them anew.

use super::{
    error::LogError,
    log::{Home, Log, Presence},
    names,
    producers::Marker,
    segment::{Incoming, Segment},
    snapshot,
    verification::Origin,
};
use crate::base::{LeaderEpoch, Now, Offset, ports::OpenMode};
use crate::record::{
    BatchError, BatchHeader,
    batch::{batches, check_crc},
};

/// Bytes of a batch that the leader writes: base offset, length, leader epoch.
const PREFIX_BYTES: usize = 16;

/// Where batches went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset of the last record.
    pub last_offset: Offset,
    /// The batch had been appended before, with this largest timestamp: nothing was written, the
    /// offsets are the original ones.
    pub duplicate_of: Option<i64>,
    /// A new segment was begun: a flush of the ones before it is due.
    pub rolled: bool,
}

impl Log {
    /// Appends one validated batch as the leader of `leader_epoch`, giving it the next offsets.
    /// `batch` has exactly the bytes of `header`; its CRC is not looked at again.
    ///
    /// # Errors
    /// `Full`: nothing changed, try again. `TooLarge`, and what the producer's state forbids:
    /// `ProducerFenced`, `OutOfOrderSequence`, `InvalidTxnState`, `Unverified`, `CoordinatorFenced`.
    /// `Io`, `Offline`: the directory is lost.
    pub fn append_leader(
        &mut self,
        batch: &[u8],
        header: &BatchHeader,
        leader_epoch: LeaderEpoch,
        origin: Origin,
        now: Now,
    ) -> Result<Appended, LogError> {
        self.dir.check()?;
        self.load(now)?;
        let Some((length, rest)) = split_batch(batch, header) else {
            return Err(BatchError::Truncated { have: batch.len(), need: header.size }.into());
        };
        self.check_size(header)?;
        let marker = read_marker(header, batch);
        if header.has_producer_id() {
            let asked = self.config.verify_transactions.then_some(&self.verifications);
            if let Some(seen) = self.producers.check(header, origin, asked)? {
                return Ok(Appended {
                    base_offset: seen.first_offset(),
                    last_offset: seen.last_offset,
                    duplicate_of: Some(seen.timestamp),
                    rolled: false,
                });
            }
            if let Some(marker) = marker {
                self.producers.check_marker(header, marker, origin)?;
            }
        }
        let base_offset = self.end;
        let last_offset = base_offset + i64::from(header.last_offset_delta);
        let rolled = self.make_room(incoming(header, last_offset), base_offset, now)?;
        let prefix = prefix(base_offset, length, leader_epoch);
        self.write(&[&prefix, rest])?;
        self.epochs.assign(leader_epoch, base_offset);
        self.note(header, base_offset, marker, now)?;
        Ok(Appended { base_offset, last_offset, duplicate_of: None, rolled })
    }

    /// Appends batches that a leader gave their offsets, each run within a segment by one write.
    /// Ends before the first batch of an epoch above `leader_epoch`, which the asker does not
    /// know yet (KAFKA-18723), and before a batch that is cut short. `None` if none was appended.
    ///
    /// # Errors
    /// `Corrupt` or `UnexpectedOffset`: nothing was appended. `Full`: what fitted was appended,
    /// as the log end offset tells. `TooLarge`, `Io`, `Offline`.
    pub fn append_follower(
        &mut self,
        bytes: &[u8],
        leader_epoch: LeaderEpoch,
        now: Now,
    ) -> Result<Option<Appended>, LogError> {
        self.dir.check()?;
        self.load(now)?;
        let all = self.check_replicated(bytes, leader_epoch)?;
        let (Some((_, first, _)), Some((_, last, _))) = (all.first(), all.last()) else {
            return Ok(None);
        };
        let (base_offset, last_offset) = (first.base_offset, last.last_offset());
        let mut rolled = false;
        let mut rest = all.as_slice();
        while let Some((at, header, _)) = rest.first() {
            let next = incoming(header, header.last_offset());
            rolled |= self.make_room(next, header.base_offset, now)?;
            let fit = 1 + self.fits(rest, now)?;
            let (run, after) = rest.split_at(fit);
            let end = run.iter().map(|(at, h, _)| at + h.size).max().unwrap_or(*at);
            self.write(&[&bytes[*at..end]])?;
            for (_, header, marker) in run {
                self.epochs.assign(header.partition_leader_epoch, header.base_offset);
                self.note(header, header.base_offset, *marker, now)?;
            }
            rest = after;
        }
        Ok(Some(Appended { base_offset, last_offset, duplicate_of: None, rolled }))
    }

    /// Begins a new segment if time asks for it (`segment.ms`): for logs that get no appends.
    /// Tells whether it did.
    ///
    /// # Errors
    /// `Full`, `Io`, `Offline`.
    pub fn roll_if_due(&mut self, now: Now) -> Result<bool, LogError> {
        if self.presence != Presence::Loaded {
            return Ok(false);
        }
        let home = Home { dir: &self.dir, tp: &self.tp };
        let due = self.segments.last().is_some_and(|s| s.is_due(home, &self.config, now.wall_ms));
        if due {
            self.roll(self.end, now)?;
        }
        Ok(due)
    }

    fn check_size(&self, header: &BatchHeader) -> Result<(), LogError> {
        let (size, max) = (header.size as u64, self.config.segment_bytes);
        if size > max { Err(LogError::TooLarge { size, max }) } else { Ok(()) }
    }

    /// The batches of `bytes` that may follow the end of the log.
    fn check_replicated(
        &self,
        bytes: &[u8],
        leader_epoch: LeaderEpoch,
    ) -> Result<Vec<(usize, BatchHeader, Option<Marker>)>, LogError> {
        let (mut out, mut at, mut end) = (Vec::new(), 0, self.end);
        for item in batches(bytes) {
            let (header, batch) = match item {
                Err(BatchError::Truncated { .. }) => break,
                done => done?,
            };
            if header.partition_leader_epoch > leader_epoch {
                break;
            }
            check_crc(&header, batch)?;
            self.check_size(&header)?;
            if header.base_offset < end || header.last_offset_delta < 0 {
                return Err(LogError::UnexpectedOffset { got: header.base_offset, end });
            }
            end = header.next_offset();
            out.push((at, header, read_marker(&header, batch)));
            at += header.size;
        }
        Ok(out)
    }

    /// How many batches after the first of `run` go into the active segment with it.
    fn fits(
        &mut self,
        run: &[(usize, BatchHeader, Option<Marker>)],
        now: Now,
    ) -> Result<usize, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let Some(segment) = self.segments.last_mut() else { return Ok(0) };
        let mut bytes = run.first().map_or(0, |(_, h, _)| h.size as u64);
        for (n, (_, header, _)) in run.iter().skip(1).enumerate() {
            bytes += header.size as u64;
            let next = Incoming { bytes, ..incoming(header, header.last_offset()) };
            let over = segment.size == 0 && bytes > self.config.segment_bytes;
            if over || segment.should_roll(home, next, &self.config, now.wall_ms)? {
                return Ok(n);
            }
        }
        Ok(run.len().saturating_sub(1))
    }

    /// Makes sure that there is an active segment that takes `next`, which begins at `base`.
    /// Tells whether one was closed for it.
    fn make_room(&mut self, next: Incoming, base: Offset, now: Now) -> Result<bool, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let Some(active) = self.segments.last_mut() else {
            let near = next.last_offset - self.end <= i64::from(i32::MAX);
            self.begin(if near { self.end } else { base }, now)?;
            return Ok(false);
        };
        if !active.should_roll(home, next, &self.config, now.wall_ms)? {
            return Ok(false);
        }
        // Segments follow each other without a gap, so that recovery can tell where one lost its
        // end; only offsets that do not fit into an index entry force one.
        let near = next.last_offset - self.end <= i64::from(i32::MAX);
        self.roll(if near { self.end } else { base }, now)?;
        Ok(true)
    }

    /// Makes the first segment, and the partition's directory if there is none.
    pub(super) fn begin(&mut self, base: Offset, now: Now) -> Result<(), LogError> {
        if self.presence == Presence::Absent {
            self.make_folder()?;
            self.presence = Presence::Loaded;
        }
        self.push_segment(base, now)
    }

    /// Closes the active segment and begins one at `base`.
    pub(super) fn roll(&mut self, base: Offset, now: Now) -> Result<(), LogError> {
        let empty = self.segments.last().is_some_and(|s| s.size == 0);
        if empty && let Some(mut old) = self.segments.pop() {
            // Of another base than the segment that is needed: it never held anything.
            let home = Home { dir: &self.dir, tp: &self.tp };
            old.close_files(self.dir.files());
            let path = home.path(old.base, names::LOG);
            self.dir.fs().remove_file(&path).map_err(|e| self.fault("removing", &path, e))?;
            return self.push_segment(base, now);
        }
        self.push_segment(base, now)?;
        let at = self.segments.len().saturating_sub(2);
        let home = Home { dir: &self.dir, tp: &self.tp };
        if let Some(old) = self.segments.get_mut(at) {
            old.seal(home)?;
        }
        self.closed_unsynced = true;
        self.take_snapshot(base)
    }

    fn push_segment(&mut self, base: Offset, now: Now) -> Result<(), LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = Segment::create(home, base, &self.config, now.wall_ms)?;
        self.segments.push(segment);
        self.recent.clear();
        self.entries_changed = self.entries_changed.wrapping_add(1);
        Ok(())
    }

    /// Writes the producers' state as of `offset`, which is the log end. It carries a checksum,
    /// so that it needs no sync; a full disk only costs the next recovery time.
    pub(super) fn take_snapshot(&mut self, offset: Offset) -> Result<(), LogError> {
        self.producers.map_end = self.producers.map_end.max(offset);
        if self.producers.map_end <= self.producers.snapshot_end {
            return Ok(());
        }
        let path = self.folder().join(names::file(offset, names::SNAPSHOT));
        let bytes = snapshot::encode(self.producers.iter());
        let file = self.dir.fs().open(&path, OpenMode::Truncate);
        let done = file.and_then(|f| f.write_all_at(&[&bytes], 0));
        match done.map_err(|e| self.fault("writing", &path, e)) {
            Ok(()) => self.producers.snapshot_end = offset,
            Err(LogError::Full(_)) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<(), LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        match self.segments.last_mut() {
            Some(active) => active.write(home, parts),
            None => Ok(()),
        }
    }

    /// Counts a batch that was written to the end of the active segment.
    fn note(
        &mut self,
        header: &BatchHeader,
        base_offset: Offset,
        marker: Option<Marker>,
        now: Now,
    ) -> Result<(), LogError> {
        let last = base_offset + i64::from(header.last_offset_delta);
        let home = Home { dir: &self.dir, tp: &self.tp };
        let Some(active) = self.segments.last_mut() else { return Ok(()) };
        let pos = active.size;
        active.note(home, last, header.size, header.max_timestamp, &self.config)?;
        active.appended_ms = Some(now.wall_ms);
        self.recent.push(base_offset, last, pos);
        self.end = last + 1;
        self.verifications.appended(header);
        if let Some(txn) = self.producers.apply(header, base_offset, marker) {
            active.note_txn(home, &txn)?;
        }
        Ok(())
    }
}

/// The length field and what follows the prefix, if `batch` is exactly the batch of `header` and
/// its offsets count upwards.
fn split_batch<'a>(batch: &'a [u8], header: &BatchHeader) -> Option<([u8; 4], &'a [u8])> {
    let (prefix, rest) = batch.split_at_checked(PREFIX_BYTES)?;
    let length = prefix.get(8..)?.first_chunk::<4>()?;
    (batch.len() == header.size && header.last_offset_delta >= 0).then_some((*length, rest))
}

fn prefix(base_offset: Offset, length: [u8; 4], epoch: LeaderEpoch) -> [u8; PREFIX_BYTES] {
    let mut out = [0; PREFIX_BYTES];
    out[..8].copy_from_slice(&base_offset.to_be_bytes());
    out[8..12].copy_from_slice(&length);
    out[12..].copy_from_slice(&epoch.to_be_bytes());
    out
}

fn incoming(header: &BatchHeader, last_offset: Offset) -> Incoming {
    Incoming { bytes: header.size as u64, last_offset, max_timestamp: header.max_timestamp }
}

pub(super) fn read_marker(header: &BatchHeader, batch: &[u8]) -> Option<Marker> {
    header.is_control().then(|| Marker::read(header, batch)).flatten()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::ports::Fs;
    use crate::log::fixture::{append, at, new_log, read_all, sim, small};
    use crate::testing::{batches::Batch, fs::Op};

    #[test]
    fn nothing_is_on_disk_before_the_first_append_which_is_one_write() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        log.begin_epoch(3);
        _ = fs.take_trace();
        assert_eq!(log.read(0, 0, 100, true, at(0)).unwrap().bytes, 0);
        assert!(log.flush_ticket().unwrap().is_none());
        assert!(fs.take_trace().is_empty());
        append(&mut log, &Batch::of(2, 10, 5).at(0, 3), 5).unwrap();
        let want = [
            "mkdir /data/t-0",
            "create /data/t-0/partition.metadata",
            "write /data/t-0/partition.metadata",
            "create /data/t-0/00000000000000000000.log",
            "write /data/t-0/00000000000000000000.log",
        ];
        assert_eq!(fs.take_trace(), want);
        let text = fs.read(Path::new("/data/t-0/partition.metadata"), 99).unwrap();
        assert_eq!(text, b"version: 0\ntopic_id: BQUFBQUFBQUFBQUFBQUFBQ\n");
        append(&mut log, &Batch::of(2, 10, 5).at(0, 3), 5).unwrap();
        assert_eq!(fs.take_trace(), ["write /data/t-0/00000000000000000000.log"]);
    }

    #[test]
    fn the_leaders_offset_and_epoch_are_in_the_file_and_the_request_is_untouched() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        append(&mut log, &Batch::of(3, 10, 5), 5).unwrap();
        let sent = Batch::of(2, 10, 6);
        append(&mut log, &sent.clone().at(0, 9), 6).unwrap();
        let got = read_all(&mut log, 3, 1000);
        assert_eq!(got, [(3, sent.at(3, 9).bytes())]);
    }

    #[test]
    fn segments_roll_by_size_and_by_time() {
        let fs = sim(1);
        let config = crate::log::LogConfig { segment_ms: 100, ..small() };
        let mut log = new_log(&fs, &config);
        for n in 0..5 {
            let done = append(&mut log, &Batch::of(1, 1500, 0), 0).unwrap();
            assert_eq!(done.rolled, n == 2 || n == 4, "two to a segment of 4096 bytes");
        }
        assert!(!append(&mut log, &Batch::of(1, 1, 100), 0).unwrap().rolled);
        assert!(append(&mut log, &Batch::of(1, 1, 101), 0).unwrap().rolled, "by its timestamp");
        assert!(!log.roll_if_due(at(50)).unwrap());
        assert!(log.roll_if_due(at(101)).unwrap());
        assert!(!log.roll_if_due(at(999)).unwrap(), "an empty segment stays");
        let snapshot = Path::new("/data/t-0/00000000000000000002.snapshot");
        assert!(fs.stat(snapshot).unwrap().is_some());
        let big = append(&mut log, &Batch::of(1, 5000, 0), 0);
        assert!(matches!(big, Err(LogError::TooLarge { max: 4096, .. })));
    }

    #[test]
    fn a_full_index_rolls() {
        let fs = sim(1);
        let tight =
            crate::log::LogConfig { index_interval_bytes: 0, segment_index_bytes: 48, ..small() };
        let mut log = new_log(&fs, &tight);
        let rolls = (0..20).map(|n| append(&mut log, &Batch::of(1, 1, n), 0).unwrap().rolled);
        let at: Vec<_> = rolls.enumerate().filter(|(_, r)| *r).map(|(n, _)| n).collect();
        assert_eq!(at, [4, 8, 12, 16], "three time entries, the first batch has none");
    }

    #[test]
    fn a_repeated_batch_is_answered_and_not_written() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        append(&mut log, &Batch::of(2, 1, 0), 0).unwrap();
        let sent = Batch::of(3, 1, 70).by(7, 0, 0);
        let first = append(&mut log, &sent, 1).unwrap();
        append(&mut log, &Batch::of(2, 1, 0), 2).unwrap();
        let writes = fs.writes();
        let again = append(&mut log, &sent, 3).unwrap();
        assert_eq!(again, Appended { duplicate_of: Some(72), ..first });
        assert_eq!((fs.writes(), log.log_end_offset()), (writes, 7));
    }

    #[test]
    fn a_failed_write_leaves_the_log_as_it_was() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        append(&mut log, &Batch::of(1, 10, 0), 0).unwrap();
        let before = read_all(&mut log, 0, 1000);
        fs.set_room(Some(30));
        let full = append(&mut log, &Batch::of(1, 10, 0), 0).unwrap_err();
        assert!(full.is_retriable(), "{full}");
        assert_eq!(read_all(&mut log, 0, 1000), before);
        fs.free_disk();
        assert_eq!(append(&mut log, &Batch::of(1, 10, 0), 0).unwrap().base_offset, 1);
        fs.fail_next(Op::Write, ".log", std::io::ErrorKind::Other);
        assert!(matches!(append(&mut log, &Batch::of(1, 9, 0), 0), Err(LogError::Io { .. })));
        let after = append(&mut log, &Batch::of(1, 9, 0), 0);
        assert!(matches!(after, Err(LogError::Offline { .. })), "the page cache cannot be trusted");
    }

    #[test]
    fn a_follower_takes_what_follows_and_nothing_else() {
        let fs = sim(1);
        let mut log = new_log(&fs, &small());
        let one = |base, epoch| Batch::of(2, 1400, 0).at(base, epoch).bytes();
        let mut bytes: Vec<u8> = [one(0, 1), one(2, 1), one(7, 2), one(9, 3)].concat();
        let cut = one(11, 3);
        bytes.extend(&cut[..100]);
        let done = log.append_follower(&bytes, 2, at(0)).unwrap().unwrap();
        assert_eq!((done.base_offset, done.last_offset, done.rolled), (0, 8, true));
        assert_eq!(log.log_end_offset(), 9, "an epoch that was not asked for stays out");
        assert_eq!(log.epoch_at(8, at(0)).unwrap(), Some(2));
        let old = log.append_follower(&one(8, 2), 2, at(0));
        assert!(matches!(old, Err(LogError::UnexpectedOffset { got: 8, end: 9 })));
        let mut bad = one(9, 2);
        *bad.last_mut().unwrap() ^= 1;
        assert!(matches!(log.append_follower(&bad, 2, at(0)), Err(LogError::Corrupt(_))));
        assert_eq!(log.append_follower(&cut[..100], 9, at(0)).unwrap(), None);
        assert_eq!(log.log_end_offset(), 9);
    }
}
