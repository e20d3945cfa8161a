//! The cleaning of one log (`Cleaner.java`): first the keys of the dirty part are remembered with
//! their newest offsets, then every segment up to there is written anew without what those replace.
//! Synchronous and long: for a thread of its own, which says through `pace` how fast it may go on
//! and when it is to end. The log is locked for moments only.
//!
//! Kept besides the newest record of a key (KIP-98, KIP-534): tombstones and the markers of
//! transactions until their delete horizon, the last batch of every producer, and the last batch of
//! every segment, if need be as a bare header, so that no offset is in doubt.

use std::sync::Arc;

use super::{
    clean_map::{OffsetMap, SLOT_BYTES},
    clean_plan::{self, Piece},
    clean_txns::{MarkerFate, TxnWalk},
    clean_write::{Placed, Writer},
    error::{LogError, is_missing},
    log::Log,
    log_append::read_marker,
    log_clean::{Assignment, FilePos, LastRecord, Replacement},
    names,
    scan::Scanner,
};
use crate::base::{Mutant, Now, Offset, limits::BATCH_HEADER_BYTES, mutant, ports::File};
use crate::record::{
    BatchHeader, Horizon, Left, Retainer, Rules, batch::check_crc, retain::emptied,
};

/// How a cleaning gets at its log, for moments: under the lock of whoever owns it.
pub trait Ward {
    /// Lets `f` use the log.
    fn with<R>(&self, f: impl FnOnce(&mut Log) -> R) -> R;
}

/// What a cleaning may use.
#[derive(Debug, Clone, Copy)]
pub struct CleanTerms {
    /// Bytes for the keys (`log.cleaner.dedupe.buffer.size` of one thread).
    pub map_bytes: usize,
    /// The part of them that may be in use (`log.cleaner.io.buffer.load.factor`).
    pub map_load: f64,
    /// Bytes that are read or written at once; grows for a larger batch.
    pub buffer_bytes: usize,
    /// Random numbers.
    pub secret: [u64; 2],
    /// The time at which it began.
    pub now: Now,
}

/// Why a cleaning did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CleanError {
    /// The log changed under it, or the process stops. Nothing is wrong.
    #[error("the cleaning was aborted")]
    Aborted,
    /// It would fail again: leave this log alone.
    #[error("segment {base} cannot be cleaned, at position {pos}: {why}")]
    Damaged {
        /// The segment.
        base: Offset,
        /// Where in its file.
        pos: u64,
        /// What is wrong there.
        why: String,
    },
    /// The fault of the log, as it says.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What a cleaning did.
#[derive(Debug, Clone, Copy, Default)]
pub struct CleanStats {
    /// Bytes that were read for their keys.
    pub indexed_bytes: u64,
    /// Bytes of the segments that were looked through.
    pub bytes_before: u64,
    /// Bytes that are left of them.
    pub bytes_after: u64,
    /// Records in them.
    pub records_before: u64,
    /// Records that are left.
    pub records_after: u64,
    /// Records without a key, which were dropped.
    pub keyless: u64,
    /// Segments before.
    pub segments_before: usize,
    /// Segments after.
    pub segments_after: usize,
    /// How full the memory for keys got, in percent.
    pub map_percent: f64,
}

/// Newest offsets of the keys in the dirty part, below `end`.
#[derive(Debug)]
struct Newest {
    map: OffsetMap,
    end: Offset,
}

/// What belongs to the segment that is being written.
struct Group<'a> {
    sources: &'a [Piece],
    last_records: std::collections::BTreeMap<i64, LastRecord>,
    writer: Writer,
}

/// A cleaning under way.
pub struct Cleaning<'a, W> {
    ward: &'a W,
    work: &'a Assignment,
    terms: CleanTerms,
    /// Told how many bytes were read or written; false ends the cleaning.
    pace: &'a mut dyn FnMut(u64) -> bool,
    retainer: Retainer,
    newest: Option<Newest>,
    unpaced: u64,
    stats: CleanStats,
}

impl<W> std::fmt::Debug for Cleaning<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cleaning").field("work", self.work).finish_non_exhaustive()
    }
}

impl<'a, W: Ward> Cleaning<'a, W> {
    /// The cleaning of `work` on the log of `ward`.
    pub fn new(
        ward: &'a W,
        work: &'a Assignment,
        terms: CleanTerms,
        pace: &'a mut dyn FnMut(u64) -> bool,
    ) -> Self {
        let (retainer, stats) = (Retainer::default(), CleanStats::default());
        Self { ward, work, terms, pace, retainer, newest: None, unpaced: 0, stats }
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> CleanStats {
        self.stats
    }

    /// Reads the keys of the dirty part, as many as there is memory for.
    ///
    /// # Errors
    /// [`CleanError`].
    pub fn index(&mut self) -> Result<(), CleanError> {
        let done = self.index_all();
        self.unless_aborted(done)
    }

    fn index_all(&mut self) -> Result<(), CleanError> {
        let (from, upto) = (self.work.dirt.first_dirty, self.work.dirt.upto);
        // Twice as many slots as there can be keys keep searches short.
        let keys = usize::try_from(upto - from).unwrap_or(0);
        // A low load factor must not leave less room than that: memory that nobody asked for is
        // not short.
        let least = (keys as f64 / self.terms.map_load) as usize;
        let wanted = keys.saturating_mul(2).max(least.saturating_add(1));
        let slots = (self.terms.map_bytes / SLOT_BYTES).min(wanted.max(64));
        let mut map = OffsetMap::new(slots, self.terms.map_load, self.terms.secret);
        let mut txns = TxnWalk::default();
        txns.expect(self.ward.with(|log| log.aborted_between(from, upto))?);
        let pieces = &self.work.pieces;
        let mut end = from;
        for (at, piece) in pieces.iter().enumerate() {
            let next = pieces.get(at + 1).map_or(upto, |p| p.base);
            if next <= from {
                continue;
            }
            if !self.index_segment(piece, &mut map, &mut txns, &mut end)? {
                break;
            }
            // Offsets behind the last batch hold nothing.
            end = end.max(next);
        }
        if end <= from {
            let why = format!(
                "its first batch has more than {} keys: log.cleaner.dedupe.buffer.size is too \
                 small",
                map.len()
            );
            return Err(CleanError::Damaged { base: from, pos: 0, why });
        }
        self.stats.map_percent = map.utilization();
        self.newest = Some(Newest { map, end });
        Ok(())
    }

    /// False once the map is full.
    fn index_segment(
        &mut self,
        piece: &Piece,
        map: &mut OffsetMap,
        txns: &mut TxnWalk,
        end: &mut Offset,
    ) -> Result<bool, CleanError> {
        let from = self.work.dirt.first_dirty;
        let (file, pos) = self.open(piece, from)?;
        let mut walk = Scanner::new(file, pos, piece.size, self.terms.buffer_bytes);
        while let Some((pos, h)) = self.step(piece, &mut walk)? {
            self.stats.indexed_bytes += h.size as u64;
            let batch = self.body(piece, &mut walk, pos, &h)?;
            if h.is_control() {
                txns.on_control(&h, read_marker(&h, batch));
            } else if (!txns.on_batch(&h) || mutant(Mutant::CompactionCountsAborted))
                && h.last_offset() >= from
            {
                let limit = inflated_max(self.work, &h);
                let room = self.retainer.walk(&h, batch, limit, |record| {
                    let offset = h.base_offset + i64::from(record.offset_delta);
                    record.key.is_none_or(|key| offset < from || map.put(key, offset))
                });
                if !room.map_err(|e| damaged(piece, pos, e))? {
                    return Ok(false);
                }
            }
            *end = (*end).max(h.next_offset());
        }
        Ok(true)
    }

    /// Writes the segments anew that hold what was indexed or lies before it, and gives the offset
    /// up to which the log is clean then.
    ///
    /// # Errors
    /// [`CleanError`]. What was swapped in before stays.
    pub fn rewrite(&mut self) -> Result<Offset, CleanError> {
        let done = self.rewrite_all();
        self.unless_aborted(done)
    }

    /// What a log that is cut meanwhile looks like is no damage.
    fn unless_aborted<T>(&self, done: Result<T, CleanError>) -> Result<T, CleanError> {
        done.map_err(|e| if self.work.is_aborted() { CleanError::Aborted } else { e })
    }

    fn rewrite_all(&mut self) -> Result<Offset, CleanError> {
        let work = self.work;
        let end = self.newest.as_ref().map_or(work.dirt.first_dirty, |n| n.end);
        let count = work.pieces.partition_point(|p| p.base < end);
        let pieces = work.pieces.get(..count).unwrap_or_default();
        let mut txns = TxnWalk::default();
        for range in clean_plan::group(pieces, &work.config, work.dirt.upto) {
            let Some(sources) = pieces.get(range) else { continue };
            let Some(first) = sources.first() else { continue };
            let done = self.rewrite_group(sources, &mut txns);
            if done.is_err() {
                // Half a segment is of no use to anybody.
                self.ward.with(|log| log.discard_cleaned(first.base))?;
            }
            done?;
        }
        Ok(end)
    }

    fn rewrite_group(&mut self, sources: &[Piece], txns: &mut TxnWalk) -> Result<(), CleanError> {
        let Some(first) = sources.first() else { return Ok(()) };
        let interval = self.work.config.index_interval_bytes;
        let writer = Writer::new(first.base, interval, self.terms.buffer_bytes);
        let last_records = self.ward.with(|log| log.last_records());
        let mut group = Group { sources, last_records, writer };
        if sources.len() > 1 {
            self.begin(&mut group, None)?;
        }
        let last = sources.iter().rposition(|p| p.size > 0);
        for (at, piece) in sources.iter().enumerate() {
            let upper = sources.get(at + 1).map_or(Offset::MAX, |p| p.base);
            let upper = upper.min(self.work.dirt.upto);
            txns.expect(self.ward.with(|log| log.aborted_between(piece.base, upper))?);
            self.rewrite_segment(piece, Some(at) == last, txns, &mut group)?;
        }
        self.stats.segments_before += sources.len();
        self.stats.segments_after += 1;
        self.stats.bytes_after += group.writer.size();
        if group.writer.differs() { self.take_in(group) } else { Ok(()) }
    }

    fn rewrite_segment(
        &mut self,
        piece: &Piece,
        last: bool,
        txns: &mut TxnWalk,
        group: &mut Group<'_>,
    ) -> Result<(), CleanError> {
        let (file, _) = self.open(piece, piece.base)?;
        let mut walk = Scanner::new(Arc::clone(&file), 0, piece.size, self.terms.buffer_bytes);
        while let Some((pos, h)) = self.step(piece, &mut walk)? {
            self.stats.bytes_before += h.size as u64;
            let batch = self.body(piece, &mut walk, pos, &h)?;
            let ends_segment = last && pos + h.size as u64 == piece.size;
            let mut fate = self.judge(&h, batch, ends_segment, txns, group);
            if let Verdict::Look { marker, header_stays } = fate {
                fate = self.filter(piece, pos, &h, batch, marker, header_stays, group)?;
            }
            let before = group.writer.size();
            match fate {
                Verdict::Copy => group.writer.copy(batch, Placed::of(&h, h.size)),
                Verdict::Bare if h.records_count == 0 => {
                    group.writer.copy(batch, Placed::of(&h, h.size))
                }
                Verdict::Bare => {
                    self.begin(group, Some(&file))?;
                    let bare = emptied(&h);
                    group.writer.copy(&bare, Placed::of(&h, BATCH_HEADER_BYTES))
                }
                Verdict::Drop => {
                    self.begin(group, Some(&file))?;
                    Ok(())
                }
                Verdict::Rewritten(placed) => group.writer.count(placed),
                Verdict::Look { .. } => Ok(()),
            }
            .map_err(|e| self.failed("writing", group, e))?;
            self.unpaced += group.writer.size() - before;
            if group.writer.size() > i32::MAX as u64 {
                return Err(damaged(piece, pos, "the cleaned segment passes 2 GiB"));
            }
        }
        Ok(())
    }

    /// What becomes of a batch, as far as its header and the transactions tell.
    fn judge(
        &mut self,
        h: &BatchHeader,
        batch: &[u8],
        ends_segment: bool,
        txns: &mut TxnWalk,
        group: &mut Group<'_>,
    ) -> Verdict {
        let mut marker = false;
        let doomed = if h.is_control() {
            match txns.on_control(h, read_marker(h, batch)) {
                MarkerFate::Needed => {}
                MarkerFate::NeededInIndex(entry) => group.writer.txns.push(entry),
                MarkerFate::Done => marker = true,
            }
            marker && h.delete_horizon_ms().is_some_and(|at| at <= self.terms.now.wall_ms)
        } else {
            txns.on_batch(h)
        };
        let last_of_producer = h.has_producer_id()
            && match group.last_records.get(&h.producer_id) {
                Some(LastRecord::Data(offset)) => h.last_offset() == *offset,
                Some(LastRecord::Epoch(epoch)) => h.is_control() && h.producer_epoch == *epoch,
                None => false,
            };
        let header_stays = last_of_producer || ends_segment;
        let indexed = self.newest.as_ref().is_some_and(|n| h.base_offset < n.end);
        let look = !doomed && (indexed || marker);
        if look {
            return Verdict::Look { marker, header_stays };
        }
        let records = u64::try_from(h.records_count).unwrap_or(0);
        self.stats.records_before += records;
        match (doomed, header_stays) {
            (true, true) => Verdict::Bare,
            (true, false) => Verdict::Drop,
            (false, _) => {
                self.stats.records_after += records;
                Verdict::Copy
            }
        }
    }

    /// Looks at the records of a batch.
    #[expect(clippy::too_many_arguments, reason = "what there is to know of one batch")]
    fn filter(
        &mut self,
        piece: &Piece,
        pos: u64,
        h: &BatchHeader,
        batch: &[u8],
        marker: bool,
        header_stays: bool,
        group: &mut Group<'_>,
    ) -> Result<Verdict, CleanError> {
        let Some(newest) = &self.newest else { return Ok(Verdict::Copy) };
        let now_ms = self.terms.now.wall_ms;
        let horizon =
            Horizon { at_ms: now_ms.saturating_add(self.work.config.delete_retention_ms), marker };
        let early = mutant(Mutant::TombstoneTooEarly);
        let tombstones_stay = h.delete_horizon_ms().is_none_or(|at| now_ms < at && !early);
        let drops_newest = mutant(Mutant::CompactionDropsNewest);
        let mut keyless = 0;
        let keep = |record: &crate::record::Record<'_>| {
            let offset = h.base_offset + i64::from(record.offset_delta);
            if h.is_control() || offset >= newest.end {
                return true;
            }
            let Some(key) = record.key else {
                keyless += 1;
                return false;
            };
            newest.map.get(key).is_none_or(|at| offset > at || offset == at && !drops_newest)
                && (record.value.is_some() || tombstones_stay)
        };
        let limit = inflated_max(self.work, h);
        let differed = group.writer.differs();
        let at = group.writer.out().len();
        let done = self.retainer.filter(h, batch, limit, horizon, keep, group.writer.out());
        let done = done.map_err(|e| damaged(piece, pos, e))?;
        self.stats.records_before += u64::from(done.read);
        self.stats.records_after += u64::from(done.kept);
        self.stats.keyless += keyless;
        Ok(match done.left {
            Left::Whole => Verdict::Copy,
            Left::Nothing if header_stays => Verdict::Bare,
            Left::Nothing => Verdict::Drop,
            Left::Rewritten => {
                let new = group.writer.out().get(at..).unwrap_or_default();
                let header = BatchHeader::read(new).map_err(|e| damaged(piece, pos, e))?;
                if !differed {
                    let new = group.writer.out().split_off(at);
                    let (file, _) = self.open(piece, piece.base)?;
                    self.begin(group, Some(&file))?;
                    group.writer.out().extend_from_slice(&new);
                }
                Verdict::Rewritten(Placed::of(&header, header.size))
            }
        })
    }

    /// Makes sure that there is a file to write to.
    fn begin(
        &mut self,
        group: &mut Group<'_>,
        source: Option<&Arc<dyn File>>,
    ) -> Result<(), CleanError> {
        if group.writer.differs() {
            return Ok(());
        }
        let file = self.create(group, names::LOG)?;
        group.writer.begin(file, source).map_err(|e| self.failed("copying", group, e))
    }

    fn create(&self, group: &Group<'_>, suffix: &str) -> Result<Arc<dyn File>, CleanError> {
        let base = group.sources.first().map_or(0, |p| p.base);
        let file = self.ward.with(|log| log.create_cleaned(self.work, base, suffix))?;
        file.ok_or(CleanError::Aborted)
    }

    /// Completes the new segment, durably, and swaps it in.
    fn take_in(&mut self, group: Group<'_>) -> Result<(), CleanError> {
        let index = self.create(&group, names::INDEX)?;
        let times = self.create(&group, names::TIME_INDEX)?;
        let has_txns = !group.writer.txns.is_empty();
        let txns = has_txns.then(|| self.create(&group, names::TXN_INDEX)).transpose()?;
        let bases = group.sources.iter().map(|p| p.base).collect();
        let Group { writer, sources, .. } = group;
        let done = writer.finish(&index, &times, txns.as_ref(), bases);
        let new: Replacement = done.map_err(|e| {
            let base = sources.first().map_or(0, |p| p.base);
            self.ward.with(|log| log.cleaning_fault("completing", base, e))
        })?;
        let now = self.terms.now;
        if !self.ward.with(|log| log.take_in(self.work, &new, now))? {
            return Err(CleanError::Aborted);
        }
        let (dir, folder) = self.ward.with(|log| log.folder_to_sync());
        match dir.fs().sync_dir(&folder) {
            // The partition was deleted meanwhile.
            Err(e) if is_missing(&e) => Err(CleanError::Aborted),
            done => Ok(done.map_err(|e| dir.fault("syncing", &folder, e))?),
        }
    }

    fn open(&self, piece: &Piece, from: Offset) -> Result<FilePos, CleanError> {
        let found = self.ward.with(|log| log.source(self.work, piece.base, from))?;
        found.ok_or(CleanError::Aborted)
    }

    /// The next batch of a source.
    fn step(
        &mut self,
        piece: &Piece,
        walk: &mut Scanner,
    ) -> Result<Option<(u64, BatchHeader)>, CleanError> {
        if self.unpaced >= self.terms.buffer_bytes as u64 {
            let more = (self.pace)(std::mem::take(&mut self.unpaced));
            if !more || self.work.is_aborted() {
                return Err(CleanError::Aborted);
            }
        }
        let at = walk.pos();
        let next = walk.next().map_err(|e| self.unreadable(piece, e))?;
        let Some(found) = next.transpose().map_err(|e| damaged(piece, at, e))? else {
            return Ok(None);
        };
        self.unpaced += found.1.size as u64;
        Ok(Some(found))
    }

    /// The bytes of a batch, checked.
    fn body<'s>(
        &self,
        piece: &Piece,
        walk: &'s mut Scanner,
        pos: u64,
        h: &BatchHeader,
    ) -> Result<&'s [u8], CleanError> {
        let batch = walk.body(pos, h).map_err(|e| self.unreadable(piece, e))?;
        check_crc(h, batch).map_err(|e| damaged(piece, pos, e))?;
        Ok(batch)
    }

    fn unreadable(&self, piece: &Piece, e: std::io::Error) -> CleanError {
        if self.work.is_aborted() {
            return CleanError::Aborted;
        }
        self.ward.with(|log| log.cleaning_fault("reading", piece.base, e)).into()
    }

    fn failed(&self, doing: &str, group: &Group<'_>, e: std::io::Error) -> CleanError {
        let base = group.sources.first().map_or(0, |p| p.base);
        self.ward.with(|log| log.cleaning_fault(doing, base, e)).into()
    }
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// It stays as it is.
    Copy,
    /// Only its header stays.
    Bare,
    /// It goes.
    Drop,
    /// Written anew, behind what is to be written.
    Rewritten(Placed),
    /// Its records tell. `marker`: it is a marker whose transaction is gone.
    Look { marker: bool, header_stays: bool },
}

fn inflated_max(work: &Assignment, h: &BatchHeader) -> usize {
    Rules::inflated_bytes_for(work.config.max_message_bytes.max(h.size))
}

fn damaged(piece: &Piece, pos: u64, why: impl std::fmt::Display) -> CleanError {
    CleanError::Damaged { base: piece.base, pos, why: why.to_string() }
}
