//! Cleaning of whole logs: what stays and what goes, what a crash at every step leaves, and what
//! ends a cleaning.

use std::{cell::RefCell, collections::BTreeMap, path::Path, sync::Arc};

use super::{
    CleanError, CleanStats, CleanTerms, Cleaning, FileCache, Log, LogConfig, LogDir, Origin,
    Recovery, Ward,
    fixture::{at, dir, new_log, open, read_all, sim, small},
};
use crate::base::{
    Offset,
    ports::{Fs, OpenMode},
};
use crate::record::{
    BatchBuilder, BatchHeader, Codec, Compression, Records, Scratch,
    batch::{batches, check_crc},
    control::EndTxnMarker,
    records::section,
};
use crate::testing::{clock::Seeded, fs::SimFs};

const DAY: i64 = 86_400_000;

/// A log and its lock.
struct Held(RefCell<Log>);

impl Ward for Held {
    fn with<R>(&self, f: impl FnOnce(&mut Log) -> R) -> R {
        f(&mut self.0.borrow_mut())
    }
}

pub(super) fn compacting() -> LogConfig {
    let small = LogConfig { verify_transactions: false, ..small() };
    LogConfig { compact: true, delete: false, min_cleanable_ratio: 0, ..small }
}

/// One record: offset, timestamp, key, value.
pub(super) type Row = (Offset, i64, Vec<u8>, Option<Vec<u8>>);

/// Every record of data.
pub(super) fn rows(log: &mut Log) -> Vec<Row> {
    let start = log.log_start_offset();
    let mut out = Vec::new();
    for (_, bytes) in read_all(log, start, 100_000) {
        let (h, batch) = batches(&bytes).next().unwrap().unwrap();
        check_crc(&h, batch).unwrap();
        if h.is_control() {
            continue;
        }
        let inner = section(&h, batch, 1 << 20, &mut Scratch::default()).unwrap();
        for r in Records::new(&inner, h.records_count) {
            let r = r.unwrap();
            let offset = h.base_offset + i64::from(r.offset_delta);
            assert!(offset <= h.last_offset());
            let (key, value) = (r.key.unwrap_or(b"none").to_vec(), r.value.map(<[u8]>::to_vec));
            out.push((offset, h.base_timestamp + r.timestamp_delta, key, value));
        }
    }
    assert!(out.is_sorted_by_key(|r| r.0));
    out
}

pub(super) fn newest(rows: &[Row]) -> BTreeMap<Vec<u8>, Row> {
    rows.iter().map(|r| (r.2.clone(), r.clone())).collect()
}

fn headers(log: &mut Log) -> Vec<BatchHeader> {
    let start = log.log_start_offset();
    let all = read_all(log, start, 100_000);
    all.iter().map(|(_, b)| batches(b).next().unwrap().unwrap().0).collect()
}

/// Appends what `batch` holds; gives its base offset.
fn put(log: &mut Log, batch: BatchBuilder, ms: i64) -> Offset {
    let bytes = batch.leader_epoch(1).finish();
    let header = BatchHeader::read(&bytes).unwrap();
    log.append_leader(&bytes, &header, 1, Origin::Client(None), at(ms)).unwrap().base_offset
}

fn one(key: &str, value: Option<&[u8]>, ms: i64) -> BatchBuilder {
    let mut batch = BatchBuilder::default();
    batch.append(ms, Some(key.as_bytes()), value, &[]).unwrap();
    batch
}

/// Ends the segment, so that everything so far may be cleaned.
fn roll(log: &mut Log, ms: i64) {
    let end = log.log_end_offset();
    log.roll(end, at(ms)).unwrap();
}

pub(super) fn terms(ms: i64) -> CleanTerms {
    CleanTerms {
        map_bytes: 1 << 20,
        map_load: 0.9,
        buffer_bytes: 4096,
        secret: [1, 2],
        now: at(ms),
    }
}

/// One cleaning, if there is something to clean.
fn try_clean(held: &Held, terms: CleanTerms) -> Option<Result<(Offset, CleanStats), CleanError>> {
    let work = {
        let mut log = held.0.borrow_mut();
        let high_watermark = log.log_end_offset();
        let dirt = log.dirt(high_watermark, terms.now).unwrap()?;
        log.begin_cleaning(dirt)
    };
    let mut pace = |_| true;
    let mut cleaning = Cleaning::new(held, &work, terms, &mut pace);
    let done = cleaning.index().and_then(|()| cleaning.rewrite());
    let stats = cleaning.stats();
    held.0.borrow_mut().end_cleaning(&work, done.as_ref().ok().copied());
    Some(done.map(|end| (end, stats)))
}

/// One cleaning of `log`.
pub(super) fn clean(log: Log, terms: CleanTerms) -> (Log, Option<CleanStats>) {
    let held = Held(RefCell::new(log));
    let done = try_clean(&held, terms).map(|done| done.unwrap().1);
    (held.0.into_inner(), done)
}

/// Updates of few keys by plain and compressed batches, with tombstones.
fn updates(log: &mut Log, seeded: &mut Seeded, batches: usize, ms: &mut i64) {
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    for _ in 0..batches {
        let codec = codecs[seeded.below(codecs.len())];
        let mut batch = BatchBuilder::new(Compression::of(codec));
        for _ in 0..1 + seeded.below(6) {
            *ms += 1;
            let key = format!("key-{}", seeded.below(12));
            let value = vec![b'a' + (*ms % 26) as u8; seeded.below(400)];
            let value = (!seeded.one_in(6)).then_some(value);
            batch.append(*ms, Some(key.as_bytes()), value.as_deref(), &[]).unwrap();
        }
        put(log, batch, *ms);
    }
}

fn reopened(fs: &SimFs, config: &LogConfig, recovery_point: Offset) -> Log {
    let files = Arc::new(FileCache::new(4));
    let (dir, _) = LogDir::open(Arc::new(fs.clone()), Path::new("/data"), files).unwrap();
    open(&dir, config, Recovery::Unclean { recovery_point }).unwrap()
}

fn names(fs: &SimFs) -> Vec<String> {
    fs.read_dir(Path::new("/data/t-0")).unwrap().into_iter().map(|e| e.name).collect()
}

#[test]
fn the_newest_record_of_every_key_stays_at_its_offset() {
    for seed in 0..20 {
        println!("seed {seed}");
        let (fs, mut seeded, mut ms) = (sim(seed), Seeded::new(seed), 1000);
        let mut log = new_log(&fs, &compacting());
        for round in 0..4 {
            updates(&mut log, &mut seeded, 40, &mut ms);
            let (before, size, end) = (rows(&mut log), log.size(), log.log_end_offset());
            let bound = log.active_base(at(ms)).unwrap();
            let stats;
            (log, stats) = clean(log, terms(ms));
            let stats = stats.unwrap();
            assert!(log.size() < size && stats.segments_after <= stats.segments_before);
            assert_eq!((log.log_end_offset(), log.first_dirty()), (end, Some(bound)));
            let after = rows(&mut log);
            assert_eq!(newest(&after), newest(&before), "round {round}");
            let below = |rows: &[Row]| rows.iter().filter(|r| r.0 < bound).count();
            let keys = newest(&before.iter().filter(|r| r.0 < bound).cloned().collect::<Vec<_>>());
            assert_eq!(below(&after), keys.len(), "one record a key");
            assert!(after.iter().all(|r| before.contains(r)));
            check_lookups(&mut log, &after);
            let (again, stats) = clean(log, terms(ms));
            log = again;
            assert!(stats.is_none_or(|s| s.bytes_after == s.bytes_before), "nothing is dirty");
        }
        let want = rows(&mut log);
        log.flush(at(ms)).unwrap();
        for point in [0, log.recovery_point()] {
            assert_eq!(rows(&mut reopened(&fs.crash(), &compacting(), point)), want);
            // The policy may change: what was cleaned must not be taken for damage.
            assert_eq!(rows(&mut reopened(&fs.crash(), &small(), point)), want);
        }
        // A follower takes the holes as they are.
        let mut follower = new_log(&sim(seed), &compacting());
        for (_, batch) in read_all(&mut log, 0, 1) {
            follower.append_follower(&batch, 1, at(ms)).unwrap().unwrap();
        }
        assert_eq!(rows(&mut follower), want);
        assert_eq!(follower.log_end_offset(), log.log_end_offset());
        let entry = log.close_clean(at(ms)).unwrap().unwrap();
        drop(log);
        let mut log = open(&dir(&fs), &compacting(), Recovery::Known(entry)).unwrap();
        assert_eq!(rows(&mut log), want);
    }
}

/// Offsets and timestamps are found in what is left.
fn check_lookups(log: &mut Log, rows: &[Row]) {
    let end = log.log_end_offset();
    for offset in 0..end {
        let got = log.read(offset, end, 1, true, at(0)).unwrap();
        let next = rows.iter().find(|r| r.0 >= offset).map_or(end, |r| r.0);
        assert!(got.bytes > 0 && got.base_offset <= next, "at {offset}");
    }
    for row in rows {
        let found = log.batch_for_timestamp(row.1, at(0)).unwrap().unwrap();
        assert!(found.header.base_offset <= row.0);
    }
}

#[test]
fn tombstones_go_once_their_horizon_has_passed() {
    let fs = sim(1);
    let mut log = new_log(&fs, &compacting());
    put(&mut log, one("a", Some(b"1"), 10), 10);
    put(&mut log, one("a", None, 20), 20);
    put(&mut log, one("b", Some(b"2"), 30), 30);
    roll(&mut log, 30);
    let (mut log, _) = clean(log, terms(1000));
    let keys = |log: &mut Log| rows(log).into_iter().map(|r| (r.2[0], r.1)).collect::<Vec<_>>();
    assert_eq!(keys(&mut log), [(b'a', 20), (b'b', 30)]);
    assert_eq!(headers(&mut log)[0].delete_horizon_ms(), Some(1000 + DAY));
    put(&mut log, one("c", Some(b"3"), 40), 40);
    roll(&mut log, 40);
    let (mut log, _) = clean(log, terms(999 + DAY));
    assert_eq!(keys(&mut log), [(b'a', 20), (b'b', 30), (b'c', 40)]);
    put(&mut log, one("c", Some(b"4"), 50), 50);
    roll(&mut log, 50);
    let (mut log, _) = clean(log, terms(1000 + DAY));
    assert_eq!(keys(&mut log), [(b'b', 30), (b'c', 50)]);
    assert_eq!(log.log_start_offset(), 0);
}

fn txn(id: i64, sequence: i32, key: &str, ms: i64) -> BatchBuilder {
    one(key, Some(b"v"), ms).producer(id, 0, sequence).transactional()
}

fn end_txn(log: &mut Log, id: i64, commit: bool, ms: i64) {
    let bytes = EndTxnMarker { commit, coordinator_epoch: 1 }.batch(id, 0, ms);
    let header = BatchHeader::read(&bytes).unwrap();
    let origin = Origin::Marker { transaction_version: 1 };
    log.append_leader(&bytes, &header, 1, origin, at(ms)).unwrap();
}

#[test]
fn aborted_records_go_and_markers_follow_when_nothing_hangs_on_them() {
    let fs = sim(1);
    let config = LogConfig { producer_id_expiration_ms: 10 * DAY, ..compacting() };
    let mut log = new_log(&fs, &config);
    put(&mut log, one("a", Some(b"old"), 1), 1);
    put(&mut log, txn(7, 0, "a", 2), 2);
    put(&mut log, txn(8, 0, "b", 3), 3);
    put(&mut log, txn(7, 1, "c", 4), 4);
    end_txn(&mut log, 7, false, 5);
    end_txn(&mut log, 8, true, 6);
    roll(&mut log, 6);
    let keys = |log: &mut Log| rows(log).into_iter().map(|r| (r.0, r.2)).collect::<Vec<_>>();
    let aborted = |log: &mut Log| log.aborted_transactions(0, 99, at(0)).unwrap().len();
    let markers = |log: &mut Log| headers(log).iter().filter(|h| h.is_control()).count();
    let (mut log, _) = clean(log, terms(1000));
    assert_eq!(keys(&mut log), [(0, b"a".to_vec()), (2, b"b".to_vec())]);
    // The last batch of producer 7 stays as a header, and with it marker and index.
    let left: Vec<_> = headers(&mut log).iter().map(|h| (h.base_offset, h.records_count)).collect();
    assert_eq!(left, [(0, 1), (2, 1), (3, 0), (4, 1), (5, 1)]);
    assert_eq!((aborted(&mut log), markers(&mut log)), (1, 2));
    // Once the producer goes on, the header and what hangs on it may go, after the horizon.
    put(&mut log, txn(7, 2, "d", 10), 10);
    end_txn(&mut log, 7, true, 11);
    put(&mut log, one("b", Some(b"new"), 12), 12);
    roll(&mut log, 12);
    let (mut log, _) = clean(log, terms(2000));
    let heads = headers(&mut log);
    let old: Vec<_> = heads.iter().filter(|h| h.base_offset < 6).map(|h| h.base_offset).collect();
    assert_eq!(old, [0, 2, 4, 5], "the header goes; 8 is remembered by one of its own");
    put(&mut log, one("e", Some(b"1"), 20), 20);
    roll(&mut log, 20);
    let (mut log, _) = clean(log, terms(3000));
    let marker = headers(&mut log).into_iter().find(|h| h.base_offset == 4).unwrap();
    assert_eq!(marker.delete_horizon_ms(), Some(3000 + DAY), "nothing of it was met");
    assert_eq!(aborted(&mut log), 0);
    put(&mut log, one("e", Some(b"2"), 30), 30);
    roll(&mut log, 30);
    let (mut log, _) = clean(log, terms(3000 + DAY));
    assert!(headers(&mut log).iter().all(|h| h.base_offset != 4));
    // Sequences survive a start without snapshots.
    let entries = |log: &mut Log| -> Vec<_> {
        log.producers(at(0)).unwrap().map(|(id, e)| (id, e.epoch, e.last_sequence())).collect()
    };
    let want = entries(&mut log);
    assert_eq!(want.iter().map(|e| (e.0, e.2)).collect::<Vec<_>>(), [(7, 2), (8, 0)]);
    log.flush(at(0)).unwrap();
    log.drop_snapshots(|_| true).unwrap();
    assert_eq!(entries(&mut reopened(&fs.killed(), &config, 0)), want);
}

#[test]
fn open_transactions_young_records_and_the_high_watermark_bound_it() {
    let fs = sim(1);
    let mut log = new_log(&fs, &compacting());
    put(&mut log, one("a", Some(b"1"), 100), 100);
    roll(&mut log, 0);
    put(&mut log, txn(7, 0, "b", 200), 200);
    roll(&mut log, 0);
    put(&mut log, one("c", Some(b"1"), 300), 300);
    roll(&mut log, 0);
    let upto = |log: &mut Log, mark, ms| log.dirt(mark, at(ms)).unwrap().map(|d| d.upto);
    assert_eq!(upto(&mut log, 3, 0), Some(1));
    assert_eq!(upto(&mut log, 0, 0), None);
    end_txn(&mut log, 7, true, 301);
    assert_eq!(upto(&mut log, 2, 0), Some(1), "its marker is not replicated");
    assert_eq!(upto(&mut log, 4, 0), Some(3));
    let lag = LogConfig { min_compaction_lag_ms: 50, ..compacting() };
    log.set_config(Arc::new(lag));
    assert_eq!(upto(&mut log, 4, 249), Some(1));
    let half = crate::log::RATIO_WHOLE / 2;
    let config = LogConfig { min_cleanable_ratio: half, ..compacting() };
    log.set_config(Arc::new(config.clone()));
    log.first_dirty = Some(2);
    assert_eq!(upto(&mut log, 4, 0), None, "a third is dirty");
    log.set_config(Arc::new(LogConfig { max_compaction_lag_ms: 50, ..config }));
    assert_eq!(upto(&mut log, 4, 350), None);
    assert_eq!(upto(&mut log, 4, 351), Some(3), "overdue");
    log.set_config(Arc::new(small()));
    assert_eq!(upto(&mut log, 4, 351), None);
}

#[test]
fn a_small_map_cleans_in_several_rounds() {
    let (fs, mut seeded, mut ms) = (sim(3), Seeded::new(3), 1000);
    let mut log = new_log(&fs, &compacting());
    updates(&mut log, &mut seeded, 80, &mut ms);
    roll(&mut log, ms);
    let (want, end) = (newest(&rows(&mut log)), log.log_end_offset());
    let small_map = CleanTerms { map_bytes: 12 * super::SLOT_BYTES, ..terms(ms) };
    let mut rounds = 0;
    while log.first_dirty() != Some(end) {
        (log, _) = clean(log, small_map);
        rounds += 1;
        assert_eq!(newest(&rows(&mut log)), want, "round {rounds}");
        assert!(rounds < 80, "there is progress");
    }
    assert!(rounds > 1);
    let mut batch = BatchBuilder::default();
    for n in 0..20 {
        batch.append(ms, Some(format!("wide-{n}").as_bytes()), Some(b"v"), &[]).unwrap();
    }
    put(&mut log, batch, ms);
    roll(&mut log, ms);
    let got = try_clean(&Held(RefCell::new(log)), small_map).unwrap();
    assert!(matches!(got, Err(CleanError::Damaged { .. })), "{got:?}");
}

#[test]
fn a_low_load_factor_leaves_room_for_the_keys_that_there_are() {
    let config = LogConfig { segment_bytes: 1 << 20, ..compacting() };
    let mut log = new_log(&sim(1), &config);
    let mut batch = BatchBuilder::default();
    for n in 0..200 {
        batch.append(1, Some(format!("key {n}").as_bytes()), Some(b"v"), &[]).unwrap();
    }
    put(&mut log, batch, 1);
    roll(&mut log, 2);
    let (mut log, stats) = clean(log, CleanTerms { map_load: 0.1, ..terms(3) });
    assert_eq!((stats.unwrap().records_after, rows(&mut log).len()), (200, 200));
}

#[test]
fn damage_ends_the_cleaning_and_the_log_goes_on() {
    let (fs, mut seeded, mut ms) = (sim(3), Seeded::new(3), 1000);
    let mut log = new_log(&fs, &compacting());
    updates(&mut log, &mut seeded, 30, &mut ms);
    roll(&mut log, ms);
    let path = Path::new("/data/t-0/00000000000000000000.log");
    let file = fs.open(path, OpenMode::ReadWrite).unwrap();
    file.write_all_at(&[b"\xff\xff"], 70).unwrap();
    let held = Held(RefCell::new(log));
    let got = try_clean(&held, terms(ms)).unwrap();
    assert!(matches!(got, Err(CleanError::Damaged { base: 0, pos: 0, .. })), "{got:?}");
    let mut log = held.0.into_inner();
    put(&mut log, one("a", Some(b"1"), ms), ms);
    assert!(log.dir().offline_reason().is_none() && !log.is_cleaning());
    assert!(names(&fs).iter().all(|n| !n.ends_with(".cleaned")));
}

#[test]
fn a_full_disk_ends_it_without_a_trace() {
    let (fs, mut seeded, mut ms) = (sim(3), Seeded::new(3), 1000);
    let mut log = new_log(&fs, &compacting());
    updates(&mut log, &mut seeded, 30, &mut ms);
    roll(&mut log, ms);
    let want = rows(&mut log);
    let mut held = Held(RefCell::new(log));
    for room in [0, 1, 500, 1200] {
        fs.set_room(Some(room));
        let got = try_clean(&held, terms(ms)).unwrap();
        assert!(matches!(&got, Err(CleanError::Log(e)) if e.is_retriable()), "{room}: {got:?}");
        fs.free_disk();
        assert!(names(&fs).iter().all(|n| !n.ends_with(".cleaned") && !n.ends_with(".swap")));
        let found = rows(held.0.get_mut());
        assert_eq!(newest(&found), newest(&want));
    }
    assert!(try_clean(&held, terms(ms)).unwrap().is_ok());
}

#[test]
fn what_takes_segments_away_aborts_it() {
    type Deed = fn(&mut Log);
    let deeds: [(&str, Deed); 5] = [
        ("truncation", |log| _ = log.truncate_to(20, at(0)).unwrap()),
        ("starting over", |log| _ = log.truncate_fully_and_start_at(500, None, at(0)).unwrap()),
        ("deletion of segments", |log| {
            let end = log.active_base(at(0)).unwrap();
            log.advance_log_start(end, at(0)).unwrap();
            log.delete_expired(end, at(0)).unwrap().unwrap();
        }),
        ("another policy", |log| log.set_config(Arc::new(small()))),
        ("deletion of the replica", |log| {
            log.close_files();
            let fs = Arc::clone(log.dir().fs());
            fs.rename(Path::new("/data/t-0"), Path::new("/data/gone")).unwrap();
        }),
    ];
    for (name, deed) in deeds {
        for calls in 0..12 {
            let (fs, mut seeded, mut ms) = (sim(3), Seeded::new(3), 1000);
            let mut log = new_log(&fs, &compacting());
            updates(&mut log, &mut seeded, 60, &mut ms);
            roll(&mut log, ms);
            let dirt = log.dirt(log.log_end_offset(), at(ms)).unwrap().unwrap();
            let work = log.begin_cleaning(dirt);
            let held = Held(RefCell::new(log));
            let (mut left, mut struck) = (calls, false);
            let mut pace = |_| {
                if left == 0 {
                    deed(&mut held.0.borrow_mut());
                    struck = true;
                }
                left -= 1;
                true
            };
            let mut cleaning = Cleaning::new(&held, &work, terms(ms), &mut pace);
            let done = cleaning.index().and_then(|()| cleaning.rewrite());
            if !struck {
                assert!(done.is_ok());
                continue;
            }
            assert!(matches!(done, Err(CleanError::Aborted)), "{name}: {done:?}");
            let mut log = held.0.into_inner();
            log.end_cleaning(&work, None);
            assert!(log.dir().offline_reason().is_none(), "{name}");
            if name != "deletion of the replica" {
                assert!(names(&fs).iter().all(|n| !n.ends_with(".cleaned")));
                put(&mut log, one("z", Some(b"1"), ms), ms);
                let want = rows(&mut log);
                log.flush(at(0)).unwrap();
                let point = log.checkpoint_recovery_point();
                assert_eq!(rows(&mut reopened(&fs.crash(), &compacting(), point)), want);
            }
        }
    }
}

#[test]
fn readers_keep_what_they_found() {
    let (fs, mut seeded, mut ms) = (sim(5), Seeded::new(5), 1000);
    let mut log = new_log(&fs, &compacting());
    updates(&mut log, &mut seeded, 30, &mut ms);
    roll(&mut log, ms);
    let held = log.read(0, 9999, 9999, true, at(0)).unwrap();
    let slice = &held.slices[0];
    let mut before = vec![0; slice.len];
    slice.file.read_exact_at(&mut before, slice.pos).unwrap();
    let (log, _) = clean(log, terms(ms));
    assert!(log.dir().remove_due(at(ms + 60_000).mono).unwrap() > 0);
    assert!(names(&fs).iter().all(|n| !n.ends_with(".deleted")));
    let mut after = vec![0; slice.len];
    slice.file.read_exact_at(&mut after, slice.pos).unwrap();
    assert_eq!(before, after);
}

/// A crash, by kill or power cut, right after every single change that a cleaning makes to the disk:
/// the next start has all offsets and the newest record of every key, and cleans again.
#[test]
fn a_crash_at_any_step_loses_nothing() {
    let config = compacting();
    let filled = |seed| {
        let (fs, mut seeded, mut ms) = (sim(seed), Seeded::new(seed), 1000);
        let mut log = new_log(&fs, &config);
        updates(&mut log, &mut seeded, 12, &mut ms);
        put(&mut log, txn(7, 0, "key-1", ms), ms);
        put(&mut log, txn(8, 0, "key-2", ms), ms);
        end_txn(&mut log, 7, false, ms);
        end_txn(&mut log, 8, true, ms);
        updates(&mut log, &mut seeded, 20, &mut ms);
        roll(&mut log, ms);
        updates(&mut log, &mut seeded, 3, &mut ms);
        log.flush(at(ms)).unwrap();
        (fs, log, ms)
    };
    let seed = 11;
    let mut steps = 0;
    loop {
        let (fs, mut log, ms) = filled(seed);
        let want: BTreeMap<_, _> = newest(&rows(&mut log));
        let (end, point) = (log.log_end_offset(), log.recovery_point());
        let aborted = log.aborted_transactions(0, end, at(0)).unwrap().len();
        assert_eq!(aborted, 1);
        steps += 1;
        fs.keep_after(steps);
        let (log, stats) = clean(log, terms(ms));
        assert!(stats.unwrap().bytes_after > 0);
        drop(log);
        let Some(killed) = fs.kept() else { break };
        let worlds = [killed.killed(), killed.crash(), killed.crash(), killed.crash()];
        for (world, left) in worlds.into_iter().enumerate() {
            for point in [0, point] {
                let left = left.killed();
                let mut log = reopened(&left, &config, point);
                let name = format!("step {steps} world {world} recovery point {point}");
                assert_eq!(log.log_end_offset(), end, "{name}");
                let mut found = newest(&rows(&mut log));
                // An aborted record is no value; it hides none, either.
                let mut want = want.clone();
                found.remove(&b"key-1"[..]);
                want.remove(&b"key-1"[..]);
                assert_eq!(found, want, "{name}");
                let left_aborted = log.aborted_transactions(0, end, at(0)).unwrap().len();
                let heads = headers(&mut log);
                let first = heads.iter().any(|h| h.producer_id == 7 && !h.is_control());
                assert_eq!(left_aborted, usize::from(first), "{name}");
                put(&mut log, one("after", Some(b"1"), ms), ms);
                let (mut log, _) = clean(log, terms(ms));
                assert_eq!(log.log_end_offset(), end + 1, "{name}");
                assert!(newest(&rows(&mut log)).contains_key(&b"after"[..]));
                let litter = |n: &String| n.ends_with(".cleaned") || n.ends_with(".swap");
                assert!(!names(&left).iter().any(litter), "{name}: {:?}", names(&left));
            }
        }
    }
    assert!(steps > 30, "a cleaning has more steps than {steps}");
}

#[cfg(test)]
mod on_disk {
    use super::*;

    /// Cleans a log with batches of every kind in the real file system. The directory is kept where
    /// `VLTAVA_KEEP_LOG` says, to be looked at with `kafka-dump-log`.
    #[test]
    fn on_the_real_file_system() {
        let scratch = tempfile::tempdir().unwrap();
        let kept = std::env::var_os("VLTAVA_KEEP_LOG").map(std::path::PathBuf::from);
        let path = kept.as_deref().unwrap_or_else(|| scratch.path());
        let (fs, files) = (Arc::new(crate::os::OsFs), Arc::new(FileCache::new(8)));
        let (dir, _) = LogDir::open(fs, path, files).unwrap();
        let config = LogConfig { segment_bytes: 60_000, ..compacting() };
        let mut log = open(&dir, &config, Recovery::Clean).unwrap();
        let (mut seeded, mut ms, mut sequences) = (Seeded::new(9), 1_700_000_000_000, [0; 2]);
        for round in 0..30 {
            updates(&mut log, &mut seeded, 30, &mut ms);
            for (at, id) in [7, 8].into_iter().enumerate() {
                let key = format!("key-{}", (round + at) % 12);
                put(&mut log, txn(id, sequences[at], &key, ms), ms);
                sequences[at] += 1;
            }
            end_txn(&mut log, 7, round % 3 == 0, ms);
            end_txn(&mut log, 8, true, ms);
            if round % 10 == 9 {
                let (before, size) = (newest(&rows(&mut log)), log.size());
                let stats;
                (log, stats) = clean(log, terms(ms));
                assert!(stats.is_some() && log.size() < size / 2);
                let after = newest(&rows(&mut log));
                assert!(before.keys().all(|k| after.contains_key(k)));
            }
        }
        let want = rows(&mut log);
        let aborted = log.aborted_transactions(0, log.log_end_offset(), at(0)).unwrap();
        assert!(!aborted.is_empty());
        let entry = log.close_clean(at(ms)).unwrap().unwrap();
        drop(log);
        let mut log = open(&dir, &config, Recovery::Known(entry)).unwrap();
        assert_eq!(rows(&mut log), want);
        log.close_clean(at(ms)).unwrap();
    }
}
