//! A log against a list of batches, through random appends, reads, truncations, rolls, flushes,
//! retention, full disks, restarts and crashes; and a compacted log against the newest records of
//! its keys.

use super::{
    FileCache, Log, LogConfig, LogDir, LogError, OffsetFile, Recovery,
    clean_test::{clean, compacting, newest, rows, terms},
    fixture::{append, at, dir, open, read_all, sim, small},
};
use crate::base::{Offset, TopicPartition};
use crate::record::{
    BatchBuilder,
    batch::{assign, batches},
};
use crate::testing::{batches::Batch, clock::Seeded, fs::SimFs};
use std::{collections::BTreeMap, sync::Arc};

struct Model {
    seeded: Seeded,
    fs: SimFs,
    dir: Arc<LogDir>,
    config: LogConfig,
    log: Log,
    /// Base offset and bytes of every batch.
    batches: Vec<(Offset, Vec<u8>)>,
    epoch: i32,
    ms: i64,
}

fn next_offset(bytes: &[u8]) -> Offset {
    batches(bytes).next().unwrap().unwrap().0.next_offset()
}

impl Model {
    fn new(seed: u64, config: LogConfig) -> Self {
        let fs = sim(seed);
        let dir = dir(&fs);
        let log = open(&dir, &config, Recovery::Clean).unwrap();
        let (seeded, batches) = (Seeded::new(seed), Vec::new());
        Self { seeded, fs, dir, config, log, batches, epoch: 0, ms: 1000 }
    }

    fn end(&self) -> Offset {
        self.log.log_end_offset()
    }

    fn append(&mut self) {
        let (count, bytes) = (1 + self.seeded.below(5), self.seeded.below(300));
        self.ms += self.seeded.below(50) as i64;
        let stamp = self.ms - self.seeded.below(100) as i64;
        let batch = Batch::of(count, bytes, stamp).at(0, self.epoch);
        let end = self.end();
        if self.seeded.one_in(20) {
            self.fs.set_room(Some(self.seeded.below(400) as u64));
        }
        match append(&mut self.log, &batch, self.ms) {
            Ok(done) => {
                let mut bytes = batch.bytes();
                assign(&mut bytes, end, self.epoch);
                assert_eq!(done.base_offset, end);
                self.batches.push((end, bytes));
            }
            Err(LogError::Full(_)) => assert_eq!(self.end(), end, "a full disk changes nothing"),
            Err(e) => panic!("{e}"),
        }
        self.fs.free_disk();
    }

    /// Records with keys, as a follower takes them: in a compacted log all have one.
    fn append_keyed(&mut self) {
        let (end, mut batch) = (self.end(), BatchBuilder::default());
        for _ in 0..1 + self.seeded.below(4) {
            self.ms += self.seeded.below(50) as i64;
            let key = format!("key-{}", self.seeded.below(20));
            let value = vec![7; self.seeded.below(300)];
            let value = (!self.seeded.one_in(8)).then_some(&value[..]);
            batch.append(self.ms, Some(key.as_bytes()), value, &[]).unwrap();
        }
        let bytes = batch.base_offset(end).leader_epoch(self.epoch).finish();
        self.log.append_follower(&bytes, self.epoch, at(self.ms)).unwrap();
        self.batches.push((end, bytes.to_vec()));
    }

    /// The batches are others then: those that are left.
    fn clean(&mut self) {
        let (before, end) = (rows(&mut self.log), self.end());
        let fresh = Log::create(
            Arc::clone(&self.dir),
            TopicPartition::new("none", 0),
            None,
            Arc::new(self.config.clone()),
            at(0),
        );
        let (log, _) = clean(std::mem::replace(&mut self.log, fresh), terms(self.ms));
        self.log = log;
        let after = rows(&mut self.log);
        let live = |rows| newest(rows).into_iter().filter(|(_, r)| r.3.is_some());
        assert!(live(&after).eq(live(&before)));
        assert!(after.iter().all(|r| before.contains(r)));
        assert_eq!(self.end(), end);
        self.batches = read_all(&mut self.log, 0, 1 << 20);
    }

    fn replicate(&mut self) {
        let (mut bytes, mut end) = (Vec::new(), self.end());
        for _ in 0..1 + self.seeded.below(8) {
            let count = 1 + self.seeded.below(4);
            let one = Batch::of(count, self.seeded.below(900), self.ms).at(end, self.epoch).bytes();
            end = next_offset(&one);
            bytes.extend(&one);
            self.batches.push((end - count as i64, one));
        }
        self.log.append_follower(&bytes, self.epoch, at(self.ms)).unwrap();
        assert_eq!(self.end(), end);
    }

    fn truncate(&mut self) {
        let keep = self.seeded.below(self.batches.len() + 1);
        let Some((offset, _)) = self.batches.get(keep).cloned() else { return };
        let before = keep.checked_sub(1).map_or(0, |at| next_offset(&self.batches[at].1));
        if before != offset {
            // Where a cleaning has left a hole, the end is in doubt after a restart.
            return;
        }
        if self.log.truncate_to(offset, at(self.ms)).unwrap() {
            self.checkpoint();
        }
        self.batches.truncate(keep);
        assert_eq!(self.end(), offset);
        self.epoch += 1;
        self.log.begin_epoch(self.epoch);
    }

    fn checkpoint(&mut self) {
        let tp = TopicPartition::new("t", 0);
        let points = BTreeMap::from([(tp, self.log.checkpoint_recovery_point())]);
        self.dir.write_offsets(OffsetFile::RecoveryPoint, &points).unwrap();
    }

    fn flush(&mut self) {
        self.log.flush(at(self.ms)).unwrap();
        assert_eq!(self.log.flushed_offset(), self.end());
        if self.seeded.one_in(2) {
            self.checkpoint();
        }
    }

    fn restart(&mut self) {
        let entry = self.log.close_clean(at(self.ms)).unwrap();
        let known = entry.filter(|_| self.seeded.one_in(2));
        let recovery = known.map_or(Recovery::Clean, Recovery::Known);
        self.log = open(&self.dir, &self.config, recovery).unwrap();
        assert!(!self.log.checkpoint_due());
        self.epoch += 1;
        self.log.begin_epoch(self.epoch);
    }

    fn crash(&mut self) {
        let durable = self.log.flushed_offset();
        let power = self.seeded.one_in(2);
        self.fs = if power { self.fs.crash() } else { self.fs.killed() };
        let files = Arc::new(FileCache::new(4));
        let path = std::path::Path::new("/data");
        let (dir, state) = LogDir::open(Arc::new(self.fs.clone()), path, files).unwrap();
        let point = state.recovery_points.get(&TopicPartition::new("t", 0)).copied().unwrap_or(0);
        self.dir = dir;
        if self.seeded.one_in(3) {
            self.fs.fill_disk();
        }
        self.log =
            open(&self.dir, &self.config, Recovery::Unclean { recovery_point: point }).unwrap();
        self.fs.free_disk();
        if self.log.checkpoint_due() {
            self.checkpoint();
        }
        let end = self.end();
        if power {
            assert!(end >= durable, "flushed to {durable}, left {end}, recovery point {point}");
            self.batches.retain(|(base, _)| *base < end);
        }
        assert_eq!(end, self.batches.last().map_or(0, |(_, b)| next_offset(b)));
    }

    fn check(&mut self) {
        let max = 1 + self.seeded.below(6000);
        assert_eq!(read_all(&mut self.log, 0, max), self.batches);
        let at_batch = self.seeded.below(self.batches.len().max(1));
        if let Some((base, bytes)) = self.batches.get(at_batch) {
            let inner = base + self.seeded.below((next_offset(bytes) - base) as usize) as i64;
            assert_eq!(read_all(&mut self.log, inner, max), self.batches[at_batch..]);
            let upper = *base;
            let got = self.log.read(0, upper, usize::MAX, true, at(0)).unwrap();
            let last = self.batches[..at_batch].last();
            assert!(got.upper <= upper && (got.bytes > 0) == last.is_some());
        }
        self.check_times();
        self.check_epochs();
    }

    fn check_times(&mut self) {
        let headers: Vec<_> =
            self.batches.iter().map(|(_, b)| batches(b).next().unwrap().unwrap().0).collect();
        let max = headers.iter().map(|h| h.max_timestamp).max().unwrap_or(-1);
        assert_eq!(self.log.max_timestamp(at(0)).unwrap(), max);
        let wanted = self.ms - self.seeded.below(2000) as i64;
        let want = headers.iter().find(|h| h.max_timestamp >= wanted).map(|h| h.base_offset);
        let got = self.log.batch_for_timestamp(wanted, at(0)).unwrap();
        assert_eq!(got.map(|f| f.header.base_offset), want, "timestamp {wanted}");
        let best = headers.iter().find(|h| h.max_timestamp == max).map(|h| h.base_offset);
        let got = self.log.batch_with_max_timestamp(at(0)).unwrap();
        assert_eq!(got.map(|f| f.header.base_offset), best);
    }

    fn check_epochs(&mut self) {
        for (base, bytes) in &self.batches {
            let header = batches(bytes).next().unwrap().unwrap().0;
            let got = self.log.epoch_at(*base, at(0)).unwrap();
            assert_eq!(got, Some(header.partition_leader_epoch), "epoch at {base}");
        }
    }

    fn step_compacted(&mut self) {
        match self.seeded.below(100) {
            0..74 => self.append_keyed(),
            74..77 => self.truncate(),
            77..83 => self.flush(),
            83..87 => self.restart(),
            87..90 => self.crash(),
            90..94 => self.clean(),
            _ => self.check(),
        }
    }

    fn step(&mut self) {
        match self.seeded.below(100) {
            0..70 => self.append(),
            70..78 => self.replicate(),
            78..82 => self.truncate(),
            82..90 => self.flush(),
            90..94 => self.restart(),
            94..97 => self.crash(),
            _ => self.check(),
        }
    }
}

#[test]
fn a_log_is_a_list_of_batches_whatever_happens() {
    for seed in 0..80 {
        // The last line before a panic tells which seed to run again.
        println!("seed {seed}");
        let mut model = Model::new(seed, small());
        for _ in 0..250 {
            model.step();
        }
        model.check();
        model.restart();
        model.check();
    }
}

#[test]
fn a_compacted_log_keeps_the_newest_records_whatever_happens() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut model = Model::new(seed, compacting());
        for _ in 0..250 {
            model.step_compacted();
        }
        model.check();
        model.restart();
        model.check();
    }
}
