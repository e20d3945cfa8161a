//! The segment that a cleaning writes: batches into `.cleaned` files, with the indexes that appends
//! would have made (`LogSegment.append`). As long as nothing differs from the only source, nothing
//! is written at all.

use std::{io, sync::Arc};

use super::{
    index::{offset_entry, time_entry},
    log_clean::Replacement,
    txn_index::{self, TxnEntry},
};
use crate::base::{Mutant, Offset, mutant, ports::File};
use crate::record::BatchHeader;

/// Bytes of a source that are copied at once.
const COPY_BYTES: u64 = 256 << 10;

/// A batch that is to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    last_offset: Offset,
    max_timestamp: i64,
    size: u64,
}

impl Placed {
    pub(super) fn of(header: &BatchHeader, size: usize) -> Self {
        let (last_offset, max_timestamp) = (header.last_offset(), header.max_timestamp);
        Self { last_offset, max_timestamp, size: size as u64 }
    }
}

/// A segment in the making.
#[derive(Debug)]
pub(super) struct Writer {
    base: Offset,
    file: Option<Arc<dyn File>>,
    /// Bytes that wait to be written; they end at `size`.
    out: Vec<u8>,
    out_max: usize,
    size: u64,
    interval: u64,
    since_entry: u64,
    offsets: Vec<u8>,
    times: Vec<u8>,
    max: (i64, Offset),
    last_time: i64,
    pub(super) txns: Vec<TxnEntry>,
}

impl Writer {
    /// A segment at `base` with an index entry every `interval` bytes, written `out_max` bytes at a
    /// time.
    pub(super) fn new(base: Offset, interval: u64, out_max: usize) -> Self {
        Self {
            base,
            file: None,
            out: Vec::new(),
            out_max,
            size: 0,
            interval,
            since_entry: 0,
            offsets: Vec::new(),
            times: Vec::new(),
            max: (-1, base),
            last_time: -1,
            txns: Vec::new(),
        }
    }

    /// Bytes of batches so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether a file is written: something differs from the only source.
    pub(super) fn differs(&self) -> bool {
        self.file.is_some()
    }

    /// Writes to `file` from here on. What was counted so far are the first bytes of `source`.
    pub(super) fn begin(
        &mut self,
        file: Arc<dyn File>,
        source: Option<&Arc<dyn File>>,
    ) -> io::Result<()> {
        let (mut at, end) = (0, self.size);
        if let Some(source) = source {
            while at < end {
                let len = usize::try_from((end - at).min(COPY_BYTES)).map_err(io::Error::other)?;
                self.out.resize(len, 0);
                source.read_exact_at(&mut self.out, at)?;
                file.write_all_at(&[&self.out], at)?;
                at += len as u64;
            }
        }
        self.out.clear();
        self.file = Some(file);
        Ok(())
    }

    /// Where a batch that is made anew is appended; [`Writer::count`] is to follow.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Adds a batch as it is.
    pub(super) fn copy(&mut self, batch: &[u8], placed: Placed) -> io::Result<()> {
        if self.file.is_some() {
            if batch.len() >= self.out_max {
                self.flush()?;
                let at = self.size;
                self.index(placed);
                return self.file.as_ref().map_or(Ok(()), |f| f.write_all_at(&[batch], at));
            }
            self.out.extend_from_slice(batch);
        }
        self.count(placed)
    }

    /// Counts a batch whose bytes were appended to [`Writer::out`].
    pub(super) fn count(&mut self, placed: Placed) -> io::Result<()> {
        self.index(placed);
        if self.out.len() >= self.out_max { self.flush() } else { Ok(()) }
    }

    fn index(&mut self, placed: Placed) {
        let Placed { last_offset, max_timestamp, size } = placed;
        if max_timestamp > self.max.0 {
            self.max = (max_timestamp, last_offset);
        }
        if self.since_entry > self.interval {
            self.offsets.extend_from_slice(&offset_entry(self.base, last_offset, self.size));
            self.push_time();
            self.since_entry = 0;
        }
        self.since_entry += size;
        self.size += size;
    }

    fn push_time(&mut self) {
        let (timestamp, offset) = self.max;
        if timestamp > self.last_time {
            self.times.extend_from_slice(&time_entry(self.base, timestamp, offset));
            self.last_time = timestamp;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(file) = &self.file
            && !self.out.is_empty()
        {
            let at = self.size - self.out.len() as u64;
            file.write_all_at(&[&self.out], at)?;
            self.out.clear();
        }
        Ok(())
    }

    /// Writes the rest, and the indexes into `index`, `times` and, if there are aborted
    /// transactions, `txns`; all durably.
    pub(super) fn finish(
        mut self,
        index: &Arc<dyn File>,
        times: &Arc<dyn File>,
        txns: Option<&Arc<dyn File>>,
        sources: Vec<Offset>,
    ) -> io::Result<Replacement> {
        self.flush()?;
        if self.size > 0 {
            self.push_time();
        }
        index.write_all_at(&[&self.offsets], 0)?;
        times.write_all_at(&[&self.times], 0)?;
        if let Some(file) = txns {
            file.write_all_at(&[&txn_index::bytes(&self.txns)], 0)?;
        }
        for file in self.file.iter().chain([index, times]).chain(txns) {
            if !mutant(Mutant::CleanedUnsynced) {
                file.sync()?;
            }
        }
        Ok(Replacement {
            base: self.base,
            sources,
            size: self.size,
            index_bytes: self.offsets.len() as u64,
            time_index_bytes: self.times.len() as u64,
            has_txns: txns.is_some(),
        })
    }
}
