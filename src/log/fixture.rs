//! What the tests of this room share: a directory in memory, logs in it, and what they hold.

use std::{path::Path, sync::Arc};

use super::{
    FileCache, Log, LogConfig, LogDir, LogError, LogInit, Origin, Recovery, log_append::Appended,
};
use crate::base::{Mono, Now, Offset, TopicPartition, Uuid};
use crate::record::{BatchHeader, batch::batches};
use crate::testing::{batches::Batch, fs::SimFs};

pub(super) const TOPIC_ID: Uuid = Uuid([5; 16]);

pub(super) fn at(ms: i64) -> Now {
    Now { mono: Mono(0).after_ms(ms), wall_ms: ms }
}

pub(super) fn sim(seed: u64) -> SimFs {
    let fs = SimFs::new(seed);
    let made = crate::base::ports::Fs::create_dir_all(&fs, Path::new("/data"))
        .and_then(|()| crate::base::ports::Fs::sync_dir(&fs, Path::new("/")));
    made.unwrap();
    fs
}

pub(super) fn dir(fs: &SimFs) -> Arc<LogDir> {
    let files = Arc::new(FileCache::new(16));
    LogDir::open(Arc::new(fs.clone()), Path::new("/data"), files).unwrap().0
}

/// Small segments and dense indexes, so that a few batches touch everything.
pub(super) fn small() -> LogConfig {
    LogConfig { segment_bytes: 4096, index_interval_bytes: 300, ..LogConfig::default() }
}

pub(super) fn open(
    dir: &Arc<LogDir>,
    config: &LogConfig,
    recovery: Recovery,
) -> Result<Log, LogError> {
    let init = LogInit {
        tp: TopicPartition::new("t", 0),
        topic_id: Some(TOPIC_ID),
        config: Arc::new(config.clone()),
        log_start: 0,
        first_dirty: None,
        recovery,
    };
    Log::open(Arc::clone(dir), init, at(0))
}

pub(super) fn new_log(fs: &SimFs, config: &LogConfig) -> Log {
    open(&dir(fs), config, Recovery::Clean).unwrap()
}

pub(super) fn append(log: &mut Log, batch: &Batch, ms: i64) -> Result<Appended, LogError> {
    let bytes = batch.bytes();
    let header = BatchHeader::read(&bytes).unwrap();
    let producer = (batch.producer_id, batch.producer_epoch);
    let origin = if header.is_control() {
        Origin::Marker { transaction_version: 0 }
    } else if header.is_transactional() {
        let sequence = batch.base_sequence;
        Origin::Client(log.begin_verification(producer, sequence, false, at(ms)).unwrap_or(None))
    } else {
        Origin::Client(None)
    };
    log.append_leader(&bytes, &header, batch.leader_epoch.max(0), origin, at(ms))
}

/// Everything from `from` on, as (base offset, batch bytes).
pub(super) fn read_all(log: &mut Log, from: Offset, max_bytes: usize) -> Vec<(Offset, Vec<u8>)> {
    let (mut out, mut at_offset) = (Vec::new(), from);
    let end = log.log_end_offset();
    while at_offset < end {
        let got = log.read(at_offset, end, max_bytes, true, at(0)).unwrap();
        assert!(got.bytes > 0, "nothing at {at_offset} of {end}");
        for slice in got.slices {
            let mut bytes = vec![0; slice.len];
            slice.file.read_exact_at(&mut bytes, slice.pos).unwrap();
            for item in batches(&bytes) {
                let (h, batch) = item.expect("reads give whole batches");
                assert!(h.next_offset() > at_offset, "no batch below what was asked for");
                assert!(h.last_offset() < got.upper.max(h.next_offset()));
                out.push((h.base_offset, batch.to_vec()));
                at_offset = h.next_offset();
            }
        }
    }
    out
}
