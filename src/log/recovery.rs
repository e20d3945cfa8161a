//! Loading what is on disk (`LogLoader.java`). After a clean stop the names and sizes of the files
//! are enough, with a look at the end of the last segment. After an unclean one the batches from
//! the recovery point on are checked and cut at the first that is damaged; indexes, epochs and
//! producers are made anew. Works with no byte free on the disk: what cannot be written stays in
//! memory.

use std::collections::BTreeMap;

use super::{
    checkpoint::CHECKPOINT_BYTES_MAX,
    epochs::Epochs,
    error::{LogError, is_missing},
    log::{Home, Log, Presence},
    log_append::read_marker,
    names,
    producers::Producers,
    scan::{BODIES_WINDOW, HEADERS_WINDOW, Scanner},
    segment::Segment,
    snapshot::{self, SNAPSHOT_BYTES_MAX},
    txn_index,
};
use crate::base::{Now, Offset, ports::DirEntry};
use crate::record::{BatchError, BatchHeader, batch::check_crc};

/// Sizes of the files of one segment.
#[derive(Debug, Clone, Copy, Default)]
struct Files {
    log: Option<u64>,
    index: Option<u64>,
    time_index: Option<u64>,
    txn_index: bool,
}

impl Log {
    /// Loads a directory that was left by a clean stop.
    pub(super) fn load_clean(&mut self, now: Now) -> Result<(), LogError> {
        let files = self.survey()?;
        let rebuild_epochs = self.read_epochs()?;
        self.open_segments(files, Offset::MAX, now)?;
        let last = self.segments.len().checked_sub(1);
        let end = last.map_or(Ok(Some(self.log_start)), |at| self.tail_end(at))?;
        let Some(end) = end else {
            // The marker promised more than the disk holds.
            let base = self.segments.last().map_or(0, |s| s.base);
            tracing::warn!(tp = %self.tp, base, "damaged after a clean stop, recovering");
            self.segments.clear();
            return self.recover(base, now);
        };
        self.presence = Presence::Loaded;
        if end != self.end && self.deferred_size > 0 {
            tracing::warn!(tp = %self.tp, end, remembered = self.end, "log changed while stopped");
        }
        self.end = end;
        (self.flushed, self.recovery_point) = (end, end);
        if rebuild_epochs {
            self.rebuild_epochs()?;
        }
        self.settle_start(now)?;
        self.load_producers(self.end, true, now)
    }

    /// Loads a directory that was left by an unclean stop, trusting only what lies below
    /// `recovery_point`.
    pub(super) fn recover(&mut self, recovery_point: Offset, now: Now) -> Result<(), LogError> {
        let files = self.survey()?;
        let rebuild_epochs = self.read_epochs()?;
        self.open_segments(files, recovery_point, now)?;
        self.presence = Presence::Loaded;
        self.end = self.segments.first().map_or(self.log_start, |s| s.base);
        let mut rescanned = None;
        let mut at = 0;
        while at < self.segments.len() {
            let next = self.segments.get(at + 1).map(|s| s.base);
            if next.is_some_and(|next| next <= recovery_point) {
                at += 1;
                continue;
            }
            let base = self.segments[at].base;
            rescanned = rescanned.or(Some(base));
            let damaged = self.rescan(at, recovery_point)?;
            let gap = next.is_some_and(|next| next > self.end) && !self.config.compact;
            at += 1;
            if damaged || gap {
                self.drop_after(at)?;
            }
        }
        if rebuild_epochs {
            self.rebuild_epochs()?;
        }
        self.flushed = recovery_point.min(self.end);
        self.recovery_point = self.flushed;
        self.settle_start(now)?;
        self.load_producers(rescanned.unwrap_or(self.end), false, now)?;
        if self.producers.len() > 0 {
            self.take_snapshot(self.end)?;
        }
        Ok(())
    }

    /// Reads the newest usable snapshot and replays the batches after it: after a truncation.
    pub(super) fn reload_producers(&mut self, now: Now) -> Result<(), LogError> {
        let (start, end) = (self.log_start, self.end);
        self.drop_snapshots(|at| at > end || at <= start)?;
        self.load_producers(self.end, false, now)
    }

    /// Removes what an interrupted deletion or cleaning left, finishes an interrupted swap, and
    /// lists the files of the segments.
    fn survey(&mut self) -> Result<BTreeMap<Offset, Files>, LogError> {
        let mut entries = self.entries()?;
        if self.remove_leftovers(&entries)? {
            entries = self.entries()?;
        }
        let mut out: BTreeMap<Offset, Files> = BTreeMap::new();
        for entry in &entries {
            let Some((base, suffix)) = names::parse_file(&entry.name) else { continue };
            match suffix {
                names::LOG => out.entry(base).or_default().log = Some(entry.len),
                names::INDEX => out.entry(base).or_default().index = Some(entry.len),
                names::TIME_INDEX => out.entry(base).or_default().time_index = Some(entry.len),
                names::TXN_INDEX => out.entry(base).or_default().txn_index = true,
                _ => {}
            }
        }
        for (base, files) in &out {
            if files.log.is_none() {
                for suffix in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX] {
                    self.remove(&names::file(*base, suffix))?;
                }
            }
        }
        out.retain(|_, files| files.log.is_some());
        Ok(out)
    }

    fn entries(&self) -> Result<Vec<DirEntry>, LogError> {
        let folder = self.folder();
        match self.dir.fs().read_dir(&folder) {
            Ok(all) => Ok(all.into_iter().filter(|e| !e.is_dir).collect()),
            Err(e) if is_missing(&e) => Ok(Vec::new()),
            Err(e) => Err(self.fault("listing", &folder, e)),
        }
    }

    fn remove(&self, name: &str) -> Result<(), LogError> {
        let path = self.folder().join(name);
        self.dir.fs().remove_file(&path).map_err(|e| self.fault("removing", &path, e))
    }

    /// Tells whether anything changed.
    fn remove_leftovers(&mut self, entries: &[DirEntry]) -> Result<bool, LogError> {
        let ending = |suffix: &'static str| {
            entries.iter().filter_map(move |e| Some((&e.name, e.name.strip_suffix(suffix)?)))
        };
        let base = |name: &str| names::parse_file(name).map_or(0, |(base, _)| base);
        let lowest_cleaned = ending(names::CLEANED).map(|(_, plain)| base(plain)).min();
        let mut changed = false;
        let litter = [names::DELETED, names::CLEANED, names::TMP];
        for (name, _) in litter.into_iter().flat_map(ending) {
            self.remove(name)?;
            changed = true;
        }
        let mut swaps = Vec::new();
        for (name, plain) in ending(names::SWAP) {
            changed = true;
            if lowest_cleaned.is_some_and(|lowest| base(plain) >= lowest) {
                self.remove(name)?;
            } else {
                swaps.push((name.clone(), plain.to_owned()));
            }
        }
        self.finish_swap(entries, &swaps)?;
        Ok(changed)
    }

    /// The cleaned segments take the place of those whose offsets they cover.
    fn finish_swap(
        &mut self,
        entries: &[DirEntry],
        swaps: &[(String, String)],
    ) -> Result<(), LogError> {
        let (mut from, mut to) = (Offset::MAX, Offset::MIN);
        for (name, plain) in swaps {
            if let Some((base, names::LOG)) = names::parse_file(plain) {
                from = from.min(base);
                to = to.max(self.end_of_file(name, base)?);
            }
        }
        for entry in entries {
            if let Some((base, names::LOG | names::INDEX | names::TIME_INDEX | names::TXN_INDEX)) =
                names::parse_file(&entry.name)
                && (from..to).contains(&base)
            {
                self.remove(&entry.name)?;
            }
        }
        for (name, plain) in swaps {
            let path = self.folder().join(name);
            let done = self.dir.fs().rename(&path, &self.folder().join(plain));
            done.map_err(|e| self.fault("renaming", &path, e))?;
        }
        Ok(())
    }

    fn end_of_file(&self, name: &str, base: Offset) -> Result<Offset, LogError> {
        let path = self.folder().join(name);
        let read = || {
            let file = self.dir.fs().open(&path, crate::base::ports::OpenMode::Read)?;
            let len = file.len()?;
            let mut walk = Scanner::new(file, 0, len, HEADERS_WINDOW);
            let mut end = base;
            while let Some(Ok((_, h))) = walk.next()? {
                end = h.next_offset();
            }
            Ok(end)
        };
        read().map_err(|e| self.fault("reading", &path, e))
    }

    fn open_segments(
        &mut self,
        files: BTreeMap<Offset, Files>,
        trusted_below: Offset,
        now: Now,
    ) -> Result<(), LogError> {
        let mut rebuild = Vec::new();
        let bases: Vec<_> = files.keys().copied().skip(1).collect();
        for (at, (base, files)) in files.into_iter().enumerate() {
            let mut segment = Segment::found(base, files.log.unwrap_or(0), now.wall_ms);
            if files.txn_index {
                segment.with_txns();
            }
            let sizes = files.index.zip(files.time_index);
            let whole = sizes.is_some_and(|(index, time)| segment.with_indexes(index, time));
            let trusted = bases.get(at).copied().unwrap_or(Offset::MAX) <= trusted_below;
            if !whole && trusted {
                rebuild.push(at);
            }
            self.segments.push(segment);
        }
        for at in rebuild {
            self.rebuild_indexes(at)?;
        }
        Ok(())
    }

    /// Makes the indexes of a segment anew from its headers.
    fn rebuild_indexes(&mut self, at: usize) -> Result<(), LogError> {
        let config = self.config.clone();
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = &mut self.segments[at];
        let mut walk = segment.scan(home, 0, HEADERS_WINDOW)?;
        let size = segment.size;
        segment.size = 0;
        segment.reset_indexes();
        while let Some((_, h)) = segment.step(home, &mut walk)? {
            segment.note(home, h.last_offset(), h.size, h.max_timestamp, &config)?;
        }
        segment.size = size;
        segment.seal(home)
    }

    /// The offset after the last batch of segment `at`; `None` if its file does not end with a
    /// whole batch.
    fn tail_end(&mut self, at: usize) -> Result<Option<Offset>, LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = &mut self.segments[at];
        let from = segment.index_floor(home, Offset::MAX)?;
        if from > segment.size {
            return Ok(None);
        }
        let mut walk = segment.scan(home, from, HEADERS_WINDOW)?;
        let mut end = segment.base;
        while let Some((_, h)) = segment.step(home, &mut walk)? {
            if h.base_offset < end || h.last_offset_delta < 0 {
                return Ok(None);
            }
            end = h.next_offset();
        }
        Ok((walk.pos() == segment.size).then_some(end))
    }

    /// Checks segment `at`, byte by byte from offset `verify_from` on, makes its indexes and
    /// epochs anew and cuts it at the first batch that is damaged. Tells whether there was one.
    fn rescan(&mut self, at: usize, verify_from: Offset) -> Result<bool, LogError> {
        let config = self.config.clone();
        let home = Home { dir: &self.dir, tp: &self.tp };
        let segment = &mut self.segments[at];
        let base = segment.base;
        segment.reset_txns(home)?;
        let mut walk = segment.scan(home, 0, BODIES_WINDOW)?;
        let size = segment.size;
        segment.size = 0;
        segment.reset_indexes();
        let mut end = base;
        let damage = loop {
            match check_next(&mut walk, base, end, verify_from)
                .map_err(|e| home.fault("reading", base, names::LOG, e))?
            {
                Checked::End => break None,
                Checked::Bad(why) => break Some(why),
                Checked::Batch(h) => {
                    if self.epochs.latest().is_none_or(|known| h.partition_leader_epoch > known) {
                        self.epochs.assign(h.partition_leader_epoch, h.base_offset);
                    }
                    segment.note(home, h.last_offset(), h.size, h.max_timestamp, &config)?;
                    end = h.next_offset();
                }
            }
        };
        if let Some(why) = &damage {
            let (tp, lost) = (&self.tp, size - segment.size);
            tracing::warn!(%tp, base, end, lost, why, "cut at the first damaged batch");
            segment.cut(home, segment.size)?;
        }
        self.end = end;
        if at + 1 < self.segments.len() {
            self.segments[at].seal(home)?;
        }
        Ok(damage.is_some())
    }

    /// Removes the segments from `at` on, the last first.
    fn drop_after(&mut self, at: usize) -> Result<(), LogError> {
        while self.segments.len() > at
            && let Some(segment) = self.segments.pop()
        {
            tracing::warn!(tp = %self.tp, base = segment.base, "dropped, what came before is lost");
            self.unlink(segment)?;
        }
        Ok(())
    }

    /// Makes log start, log end, epochs and segments agree.
    fn settle_start(&mut self, now: Now) -> Result<(), LogError> {
        if self.log_start > self.end {
            let start = self.log_start;
            tracing::warn!(tp = %self.tp, start, end = self.end, "log ends below its start, emptied");
            self.truncate_fully_and_start_at(start, None, now)?;
            return Ok(());
        }
        let first = self.segments.first().map_or(self.end, |s| s.base);
        self.log_start = self.log_start.max(first);
        self.epochs.truncate_end(self.end);
        self.epochs.truncate_start(self.log_start);
        Ok(())
    }

    /// Reads the epoch file. Tells whether it is damaged.
    fn read_epochs(&mut self) -> Result<bool, LogError> {
        let path = self.folder().join(names::EPOCHS);
        let text = self.dir.read_text(&path, CHECKPOINT_BYTES_MAX)?.unwrap_or_default();
        let parsed = Epochs::parse(&text);
        if let Err(e) = &parsed {
            tracing::warn!(path = %path.display(), error = %e, "epochs are damaged, made anew");
        }
        let damaged = parsed.is_err();
        self.epochs = parsed.unwrap_or_default();
        Ok(damaged)
    }

    fn rebuild_epochs(&mut self) -> Result<(), LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        self.epochs.clear();
        for segment in &mut self.segments {
            let mut walk = segment.scan(home, 0, HEADERS_WINDOW)?;
            while let Some((_, h)) = segment.step(home, &mut walk)? {
                if self.epochs.latest().is_none_or(|known| h.partition_leader_epoch > known) {
                    self.epochs.assign(h.partition_leader_epoch, h.base_offset);
                }
            }
        }
        Ok(())
    }

    /// Makes the producers' state from the newest usable snapshot at or below `at_most` and the
    /// batches after it. Without a snapshot a clean stop had no producers; otherwise all batches
    /// are looked at. Transaction indexes of the segments from `at_most` on are made anew.
    fn load_producers(
        &mut self,
        at_most: Offset,
        clean: bool,
        now: Now,
    ) -> Result<(), LogError> {
        let mut producers = Producers::default();
        let (end, mut from) = (self.end, if clean { self.end } else { self.log_start });
        let mut snapshots = self.snapshots()?;
        while let Some(offset) = snapshots.pop() {
            let name = names::file(offset, names::SNAPSHOT);
            if offset > end {
                self.remove(&name)?;
                continue;
            }
            if offset > at_most || offset < self.log_start {
                continue;
            }
            let path = self.folder().join(&name);
            let bytes = self.dir.fs().read(&path, SNAPSHOT_BYTES_MAX);
            let bytes = bytes.map_err(|e| self.fault("reading", &path, e))?;
            if let Some(entries) = snapshot::decode(&bytes) {
                entries.into_iter().for_each(|(id, entry)| producers.insert(id, entry));
                from = offset;
                break;
            }
            tracing::warn!(path = %path.display(), "snapshot is damaged, removed");
            self.remove(&name)?;
            // Not knowing is not the same as there being none.
            from = self.log_start;
        }
        (producers.map_end, producers.snapshot_end) = (from, from);
        producers.expire(now.wall_ms, self.config.producer_id_expiration_ms);
        self.producers = producers;
        self.replay(from, at_most)
    }

    fn replay(&mut self, from: Offset, txns_from: Offset) -> Result<(), LogError> {
        let home = Home { dir: &self.dir, tp: &self.tp };
        let first = self.segments.partition_point(|s| s.base <= from).saturating_sub(1);
        if from >= self.end {
            return Ok(());
        }
        for segment in self.segments.iter_mut().skip(first) {
            let start = segment.index_floor(home, from)?;
            let mut walk = segment.scan(home, start, HEADERS_WINDOW)?;
            while let Some((pos, h)) = segment.step(home, &mut walk)? {
                if h.last_offset() < from {
                    continue;
                }
                let marker = if h.is_control() {
                    let body = walk.body(pos, &h);
                    let body = body.map_err(|e| home.fault("reading", segment.base, names::LOG, e));
                    read_marker(&h, body?)
                } else {
                    None
                };
                let ended = self.producers.apply(&h, h.base_offset, marker);
                if let Some(txn) = ended.filter(|t| t.last_offset >= txns_from) {
                    segment.note_txn(home, &txn)?;
                }
            }
        }
        self.producers.map_end = self.end;
        Ok(())
    }
}

enum Checked {
    Batch(BatchHeader),
    Bad(String),
    End,
}

fn check_next(
    walk: &mut Scanner,
    base: Offset,
    end: Offset,
    verify_from: Offset,
) -> std::io::Result<Checked> {
    let (pos, h) = match walk.next()? {
        None => return Ok(Checked::End),
        Some(Err(why)) => return Ok(Checked::Bad(why.to_string())),
        Some(Ok(found)) => found,
    };
    let ordered = h.base_offset >= end && h.last_offset_delta >= 0;
    if !ordered || h.last_offset() - base > i64::from(i32::MAX) {
        let why = format!("offsets {} to {} after {end}", h.base_offset, h.last_offset());
        return Ok(Checked::Bad(why));
    }
    if h.last_offset() >= verify_from {
        let checked: Result<(), BatchError> = check_crc(&h, walk.body(pos, &h)?);
        if let Err(why) = checked {
            return Ok(Checked::Bad(why.to_string()));
        }
    }
    Ok(Checked::Batch(h))
}
