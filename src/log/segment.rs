//! One segment: a file of batches with its indexes (`LogSegment.java`). Owns positions within the
//! file; which segment an offset belongs to is for `log`.

use std::sync::Arc;

use super::{
    error::LogError,
    files::{FileCache, FileRef},
    index::{OffsetIndex, TimeIndex, offset_entry, read_offset_entry, read_time_entry, time_entry},
    log::Home,
    names,
    producers::{AbortedTxn, CompletedTxn},
    scan::{HEADERS_WINDOW, Scanner},
    settings::LogConfig,
    txn_index::{self, TxnEntry},
};
use crate::base::{
    Offset,
    ports::{File, OpenMode},
};
use crate::record::{BatchHeader, batch::crc32c};

/// A timestamp and the last offset of the batch that has it; -1 if there is none.
pub(super) type Stamp = (i64, Offset);

/// What decides whether the next append goes into a new segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming {
    pub(super) bytes: u64,
    pub(super) last_offset: Offset,
    pub(super) max_timestamp: i64,
}

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) base: Offset,
    /// Bytes of whole batches: where the next append goes.
    pub(super) size: u64,
    file: FileRef,
    offsets: OffsetIndex,
    times: TimeIndex,
    /// Largest timestamp; `None` until it is looked up.
    max: Option<Stamp>,
    /// The last time entry tells the largest timestamp: the segment was sealed.
    times_complete: bool,
    /// Largest timestamp of the first batch; `None` until it is looked up.
    first_timestamp: Option<i64>,
    /// Bytes appended since the last index entry.
    since_entry: u64,
    pub(super) created_ms: i64,
    /// When it was last appended to; `None` if only the file knows.
    pub(super) appended_ms: Option<i64>,
    /// The file may be longer than `size`: a failed write, or space taken in advance.
    tail_dirty: bool,
    /// Index files changed since they were last durable.
    pub(super) index_unsynced: bool,
    has_txns: bool,
    /// Entries of the transaction index that a full disk kept in memory.
    txns_unstored: Vec<TxnEntry>,
}

impl Segment {
    /// A new, empty segment. Only the file of batches is made.
    pub(super) fn create(
        home: Home<'_>,
        base: Offset,
        config: &LogConfig,
        now_ms: i64,
    ) -> Result<Self, LogError> {
        let mut out = Self::found(base, 0, now_ms);
        out.offsets.reset();
        out.times.reset();
        out.max = Some((-1, base));
        let path = home.path(base, names::LOG);
        let open = || home.dir.fs().open(&path, OpenMode::Truncate);
        let file = home.dir.files().get(&mut out.file, open);
        let file = file.map_err(|e| home.fault("creating", base, names::LOG, e))?;
        if config.preallocate {
            // Space taken in advance only saves time; without it the segment works as well.
            out.tail_dirty = file.set_len(config.segment_bytes).is_ok();
        }
        Ok(out)
    }

    /// A segment that is on disk with `size` bytes of batches.
    pub(super) fn found(base: Offset, size: u64, now_ms: i64) -> Self {
        Self {
            base,
            size,
            file: FileRef::default(),
            offsets: OffsetIndex::default(),
            times: TimeIndex::default(),
            max: None,
            times_complete: false,
            first_timestamp: None,
            since_entry: 0,
            created_ms: now_ms,
            appended_ms: None,
            tail_dirty: false,
            index_unsynced: false,
            has_txns: false,
            txns_unstored: Vec::new(),
        }
    }

    /// There is a transaction index on disk.
    pub(super) fn with_txns(&mut self) {
        self.has_txns = true;
    }

    /// Takes over index files of these sizes; `false` if either cannot be an index.
    pub(super) fn with_indexes(&mut self, offset_bytes: u64, time_bytes: u64) -> bool {
        match (OffsetIndex::found(offset_bytes), TimeIndex::found(time_bytes)) {
            (Some(offsets), Some(times)) => {
                self.times_complete = times.len() > 0;
                (self.offsets, self.times) = (offsets, times);
                true
            }
            _ => false,
        }
    }

    /// Forgets offset and time index, to make them anew.
    pub(super) fn reset_indexes(&mut self) {
        self.offsets.reset();
        self.times.reset();
        self.max = Some((-1, self.base));
        self.since_entry = 0;
        self.index_unsynced = true;
    }

    /// Removes the transaction index, to make it anew.
    pub(super) fn reset_txns(&mut self, home: Home<'_>) -> Result<(), LogError> {
        let path = home.path(self.base, names::TXN_INDEX);
        home.dir.fs().remove_file(&path).map_err(|e| home.dir.fault("removing", &path, e))?;
        self.has_txns = false;
        self.txns_unstored.clear();
        Ok(())
    }

    /// The file of batches, open.
    pub(super) fn log_file(&mut self, home: Home<'_>) -> Result<Arc<dyn File>, LogError> {
        let base = self.base;
        let open = || home.dir.fs().open(&home.path(base, names::LOG), OpenMode::ReadWrite);
        let file = home.dir.files().get(&mut self.file, open);
        file.map_err(|e| home.fault("opening", base, names::LOG, e))
    }

    /// Whether `next` must go into a new segment (`LogSegment.shouldRoll`).
    pub(super) fn should_roll(
        &mut self,
        home: Home<'_>,
        next: Incoming,
        config: &LogConfig,
        now_ms: i64,
    ) -> Result<bool, LogError> {
        if self.size == 0 {
            return Ok(next.last_offset - self.base > i64::from(i32::MAX));
        }
        if self.size + next.bytes > config.segment_bytes.min(i32::MAX as u64)
            || next.last_offset - self.base > i64::from(i32::MAX)
            || u64::from(self.offsets.len()) >= config.segment_index_bytes / 8
            || u64::from(self.times.len()) + 1 >= config.segment_index_bytes / 12
        {
            return Ok(true);
        }
        let first = self.first_timestamp(home)?;
        let age = if first >= 0 {
            next.max_timestamp.saturating_sub(first)
        } else {
            now_ms.saturating_sub(self.created_ms)
        };
        Ok(age > config.roll_after_ms(config.segment_jitter_ms)
            && age > config.roll_after_ms(self.jitter_ms(home, config)))
    }

    /// Whether time alone asks for a new segment.
    pub(super) fn is_due(&self, home: Home<'_>, config: &LogConfig, now_ms: i64) -> bool {
        self.size > 0
            && now_ms.saturating_sub(self.created_ms)
                > config.roll_after_ms(self.jitter_ms(home, config))
    }

    /// Drawn from names, so that segments differ and a restart changes nothing.
    fn jitter_ms(&self, home: Home<'_>, config: &LogConfig) -> i64 {
        if config.segment_jitter_ms <= 0 {
            return 0;
        }
        let mut seed = home.tp.to_string().into_bytes();
        seed.extend_from_slice(&self.base.to_be_bytes());
        i64::from(crc32c(&seed)) % config.segment_jitter_ms.saturating_add(1)
    }

    /// Appends `parts` in one write. Nothing counts until [`Segment::note`] is called.
    pub(super) fn write(&mut self, home: Home<'_>, parts: &[&[u8]]) -> Result<(), LogError> {
        let file = self.log_file(home)?;
        if let Err(e) = file.write_all_at(parts, self.size) {
            // What got there lies behind the end: the next append overwrites it.
            self.tail_dirty = file.set_len(self.size).is_err();
            return Err(home.fault("appending to", self.base, names::LOG, e));
        }
        Ok(())
    }

    /// Counts a batch of `size` bytes that lies at the end, and indexes it.
    pub(super) fn note(
        &mut self,
        home: Home<'_>,
        last_offset: Offset,
        size: usize,
        max_timestamp: i64,
        config: &LogConfig,
    ) -> Result<(), LogError> {
        let mut max = self.max_stamp(home)?;
        if max_timestamp > max.0 {
            max = (max_timestamp, last_offset);
            self.max = Some(max);
        }
        if self.size == 0 {
            self.first_timestamp = Some(max_timestamp);
        }
        if self.since_entry > config.index_interval_bytes {
            self.offsets.push(offset_entry(self.base, last_offset, self.size));
            self.offsets.spill(home, self.base)?;
            self.push_time(home, max)?;
            self.times.spill(home, self.base)?;
            self.since_entry = 0;
            self.index_unsynced = true;
        }
        self.since_entry += size as u64;
        self.size += size as u64;
        Ok(())
    }

    fn push_time(&mut self, home: Home<'_>, (timestamp, at): Stamp) -> Result<(), LogError> {
        let last = self.times.last(home, self.base)?;
        let last = last.map_or(-1, |e| read_time_entry(self.base, &e).0);
        if timestamp > last {
            self.times.push(time_entry(self.base, timestamp, at));
        }
        Ok(())
    }

    /// Writes index entries that fill memory. A full disk is no error.
    pub(super) fn store_heavy(&mut self, home: Home<'_>) -> Result<(), LogError> {
        if self.offsets.is_heavy() || self.times.is_heavy() {
            self.store(home)?;
        }
        Ok(())
    }

    fn store(&mut self, home: Home<'_>) -> Result<(), LogError> {
        for done in [self.offsets.store(home, self.base), self.times.store(home, self.base)] {
            match done {
                Ok(()) | Err(LogError::Full(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Makes the files what Kafka expects of a segment that takes no more appends: last time
    /// entry, indexes complete, nothing behind the last batch. A full disk is no error: the
    /// indexes stay in memory and the next start makes them anew.
    pub(super) fn seal(&mut self, home: Home<'_>) -> Result<(), LogError> {
        self.trim(home)?;
        let max = self.max_stamp(home)?;
        if self.size > 0 {
            self.push_time(home, max)?;
        }
        if !(self.offsets.is_stored() && self.times.is_stored()) {
            self.index_unsynced = true;
        }
        self.store_txns(home)?;
        self.store(home)
    }

    fn trim(&mut self, home: Home<'_>) -> Result<(), LogError> {
        if self.tail_dirty {
            self.log_file(home)?
                .set_len(self.size)
                .map_err(|e| home.fault("cutting", self.base, names::LOG, e))?;
            self.tail_dirty = false;
        }
        Ok(())
    }

    /// The index files, for a sync. Empty if the disk was too full to write them.
    pub(super) fn index_files(&mut self, home: Home<'_>) -> Result<Vec<Arc<dyn File>>, LogError> {
        let mut out = Vec::new();
        if self.offsets.is_stored() && self.times.is_stored() {
            out.push(self.offsets.handle(home, self.base)?);
            out.push(self.times.handle(home, self.base)?);
        }
        if self.has_txns {
            let path = home.path(self.base, names::TXN_INDEX);
            let file = home.dir.fs().open(&path, OpenMode::ReadWrite);
            out.push(file.map_err(|e| home.fault("opening", self.base, names::TXN_INDEX, e))?);
        }
        Ok(out)
    }

    /// Whether the index files on disk are complete.
    pub(super) fn is_stored(&self) -> bool {
        self.offsets.is_stored() && self.times.is_stored() && self.txns_unstored.is_empty()
    }

    /// A walk over the batches from position `pos`.
    pub(super) fn scan(
        &mut self,
        home: Home<'_>,
        pos: u64,
        window: usize,
    ) -> Result<Scanner, LogError> {
        Ok(Scanner::new(self.log_file(home)?, pos, self.size, window))
    }

    /// Position and header of the first batch that ends at or after `offset`.
    pub(super) fn locate(
        &mut self,
        home: Home<'_>,
        offset: Offset,
    ) -> Result<Option<(u64, BatchHeader)>, LogError> {
        let from = self.index_floor(home, offset)?;
        let mut walk = self.scan(home, from, HEADERS_WINDOW)?;
        while let Some((pos, header)) = self.step(home, &mut walk)? {
            if header.last_offset() >= offset {
                return Ok(Some((pos, header)));
            }
        }
        Ok(None)
    }

    /// A batch boundary at or before the batch that holds `offset`, by the index.
    pub(super) fn index_floor(&mut self, home: Home<'_>, offset: Offset) -> Result<u64, LogError> {
        let base = self.base;
        let n =
            self.offsets.partition_point(home, base, |e| read_offset_entry(base, e).0 < offset)?;
        if n < self.offsets.len() {
            let (last, pos) = read_offset_entry(base, &self.offsets.get(home, base, n)?);
            if last == offset {
                return Ok(pos);
            }
        }
        match n.checked_sub(1) {
            Some(n) => Ok(read_offset_entry(base, &self.offsets.get(home, base, n)?).1),
            None => Ok(0),
        }
    }

    /// The largest batch boundary that the index knows at or below position `limit`, and the last
    /// offset of the batch that begins there.
    pub(super) fn boundary(
        &mut self,
        home: Home<'_>,
        limit: u64,
    ) -> Result<Option<(u64, Offset)>, LogError> {
        let base = self.base;
        let n =
            self.offsets.partition_point(home, base, |e| read_offset_entry(base, e).1 <= limit)?;
        let Some(n) = n.checked_sub(1) else { return Ok(None) };
        let (last, pos) = read_offset_entry(base, &self.offsets.get(home, base, n)?);
        Ok(Some((pos, last)))
    }

    /// The next item of `walk`; a batch that is no batch ends it.
    pub(super) fn step(
        &self,
        home: Home<'_>,
        walk: &mut Scanner,
    ) -> Result<Option<(u64, BatchHeader)>, LogError> {
        match walk.next() {
            Ok(item) => Ok(item.transpose().unwrap_or_else(|e| {
                let (tp, base, pos) = (home.tp, self.base, walk.pos());
                tracing::warn!(%tp, base, pos, error = %e, "segment is damaged");
                None
            })),
            Err(e) => Err(home.fault("reading", self.base, names::LOG, e)),
        }
    }

    /// The largest timestamp and the last offset of the batch that has it.
    pub(super) fn max_stamp(&mut self, home: Home<'_>) -> Result<Stamp, LogError> {
        if let Some(max) = self.max {
            return Ok(max);
        }
        let last = self.times.last(home, self.base)?;
        let mut max = last.map_or((-1, self.base), |e| read_time_entry(self.base, &e));
        if self.times_complete {
            self.max = Some(max);
            return Ok(max);
        }
        // Records behind the last entry may be younger.
        let from = self.index_floor(home, max.1)?;
        let mut walk = self.scan(home, from, HEADERS_WINDOW)?;
        while let Some((_, h)) = self.step(home, &mut walk)? {
            if h.max_timestamp > max.0 {
                max = (h.max_timestamp, h.last_offset());
            }
        }
        self.max = Some(max);
        Ok(max)
    }

    /// The largest timestamp of the first batch; -1 if there is none.
    pub(super) fn first_timestamp(&mut self, home: Home<'_>) -> Result<i64, LogError> {
        if let Some(first) = self.first_timestamp {
            return Ok(first);
        }
        let mut walk = self.scan(home, 0, HEADERS_WINDOW.min(4096))?;
        let first = self.step(home, &mut walk)?.map_or(-1, |(_, h)| h.max_timestamp);
        self.first_timestamp = Some(first);
        Ok(first)
    }

    /// When the file last changed, in milliseconds since the epoch.
    pub(super) fn appended_ms(&mut self, home: Home<'_>) -> Result<i64, LogError> {
        if let Some(ms) = self.appended_ms {
            return Ok(ms);
        }
        let ms = self
            .log_file(home)?
            .modified_ms()
            .map_err(|e| home.fault("asking for the age of", self.base, names::LOG, e))?;
        self.appended_ms = Some(ms);
        Ok(ms)
    }

    /// Position and header of the first batch at or after offset `from` whose largest timestamp
    /// is at least `timestamp`.
    pub(super) fn locate_timestamp(
        &mut self,
        home: Home<'_>,
        timestamp: i64,
        from: Offset,
    ) -> Result<Option<(u64, BatchHeader)>, LogError> {
        let base = self.base;
        // Up to the last entry below `timestamp`, every batch is older.
        let n =
            self.times.partition_point(home, base, |e| read_time_entry(base, e).0 < timestamp)?;
        let after = match n.checked_sub(1) {
            Some(n) => read_time_entry(base, &self.times.get(home, base, n)?).1,
            None => base,
        };
        let start = self.index_floor(home, after.max(from))?;
        let mut walk = self.scan(home, start, HEADERS_WINDOW)?;
        while let Some((pos, h)) = self.step(home, &mut walk)? {
            if h.max_timestamp >= timestamp && h.last_offset() >= from {
                return Ok(Some((pos, h)));
            }
        }
        Ok(None)
    }

    /// Drops the batch that holds `offset` and all after it; tells the offset where the segment
    /// ends now.
    pub(super) fn truncate(&mut self, home: Home<'_>, offset: Offset) -> Result<Offset, LogError> {
        let Some((pos, header)) = self.locate(home, offset)? else { return Ok(offset) };
        let end = offset.min(header.base_offset);
        self.cut(home, pos)?;
        let base = self.base;
        let keep =
            self.offsets.partition_point(home, base, |e| read_offset_entry(base, e).1 < pos)?;
        self.offsets.truncate(home, base, keep)?;
        let keep = self.times.partition_point(home, base, |e| read_time_entry(base, e).1 < end)?;
        self.times.truncate(home, base, keep)?;
        self.txns_unstored.retain(|t| t.last_offset < end);
        if self.has_txns {
            txn_index::truncate(home, base, end)?;
        }
        self.since_entry = 0;
        self.index_unsynced = true;
        (self.max, self.times_complete) = (None, false);
        if pos == 0 {
            self.first_timestamp = None;
        }
        self.max_stamp(home)?;
        Ok(end)
    }

    /// Ends the file at position `pos`, durably.
    pub(super) fn cut(&mut self, home: Home<'_>, pos: u64) -> Result<(), LogError> {
        let file = self.log_file(home)?;
        file.set_len(pos)
            .and_then(|()| file.sync())
            .map_err(|e| home.fault("cutting", self.base, names::LOG, e))?;
        self.size = pos;
        self.tail_dirty = false;
        Ok(())
    }

    /// Adds a completed transaction to the index if it was aborted. If the disk is full, it waits
    /// in memory.
    pub(super) fn note_txn(&mut self, home: Home<'_>, txn: &CompletedTxn) -> Result<(), LogError> {
        if txn.aborted {
            self.txns_unstored.push(TxnEntry::of(txn));
            self.index_unsynced = true;
            self.store_txns(home)?;
        }
        Ok(())
    }

    fn store_txns(&mut self, home: Home<'_>) -> Result<(), LogError> {
        if self.txns_unstored.is_empty() {
            return Ok(());
        }
        match txn_index::append(home, self.base, &self.txns_unstored) {
            Ok(()) => {
                self.has_txns = true;
                self.txns_unstored = Vec::new();
                Ok(())
            }
            Err(LogError::Full(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Adds aborted transactions in `from..upper` to `out`; tells whether that was all.
    pub(super) fn collect_aborted(
        &mut self,
        home: Home<'_>,
        from: Offset,
        upper: Offset,
        out: &mut Vec<AbortedTxn>,
    ) -> Result<bool, LogError> {
        Ok(txn_index::collect(&self.txn_entries(home)?, from, upper, out))
    }

    /// The aborted transactions whose marker lies in this segment.
    pub(super) fn txn_entries(&self, home: Home<'_>) -> Result<Vec<TxnEntry>, LogError> {
        let mut out = Vec::new();
        if self.has_txns {
            out = txn_index::read(home, self.base)?.unwrap_or_default();
        }
        out.extend_from_slice(&self.txns_unstored);
        Ok(out)
    }

    /// Bytes of the offset index and of the time index.
    pub(super) fn index_bytes(&self) -> (u64, u64) {
        (u64::from(self.offsets.len()) * 8, u64::from(self.times.len()) * 12)
    }

    /// Lets go of the open files.
    pub(super) fn close_files(&mut self, files: &FileCache) {
        files.forget(&mut self.file);
        self.offsets.close(files);
        self.times.close(files);
    }
}
