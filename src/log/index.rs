//! Files of fixed-size sorted entries: the offset index and the time index of a segment
//! (`AbstractIndex.java`), without a map into memory.
//!
//! New entries gather in memory and go out in one write when there are many, when the segment is
//! sealed, or never if the process dies: recovery makes them anew. A full disk only means that
//! they stay in memory longer.

use std::{io, sync::Arc};

use super::{
    error::LogError,
    files::{FileCache, FileRef},
    log::Home,
    names,
};
use crate::base::{
    Offset,
    ports::{File, OpenMode},
};

/// Entries that gather before they are written.
const PENDING_ENTRIES: usize = 512;
/// Entries that a search reads at once when it is that close.
const BLOCK_ENTRIES: u32 = 128;

/// Offset index: relative offset of a batch's last record, position of the batch.
pub(super) type OffsetIndex = EntryFile<8>;
/// Time index: largest timestamp so far, relative offset of the last record of its batch.
pub(super) type TimeIndex = EntryFile<12>;

/// An index file of entries of `N` bytes.
#[derive(Debug, Default)]
pub(super) struct EntryFile<const N: usize> {
    stored: u32,
    pending: Vec<u8>,
    created: bool,
    file: FileRef,
}

impl<const N: usize> EntryFile<N> {
    const SUFFIX: &'static str = if N == 8 { names::INDEX } else { names::TIME_INDEX };

    /// An index that is on disk with `bytes` bytes; `None` if they are no whole entries.
    pub(super) fn found(bytes: u64) -> Option<Self> {
        let whole = bytes.is_multiple_of(N as u64);
        let stored = u32::try_from(bytes / N as u64).ok().filter(|_| whole)?;
        Some(Self { stored, created: true, ..Self::default() })
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> u32 {
        self.stored + self.pending_len()
    }

    /// Whether the file on disk has all entries.
    pub(super) fn is_stored(&self) -> bool {
        self.created && self.pending.is_empty()
    }

    pub(super) fn push(&mut self, entry: [u8; N]) {
        self.pending.extend_from_slice(&entry);
    }

    /// Writes the gathered entries if they are many. A full disk is no error.
    pub(super) fn spill(&mut self, home: Home<'_>, base: Offset) -> Result<(), LogError> {
        if self.pending.is_empty() || !self.pending.len().is_multiple_of(PENDING_ENTRIES * N) {
            return Ok(());
        }
        match self.store(home, base) {
            Err(LogError::Full(_)) => Ok(()),
            done => done,
        }
    }

    /// Whether many entries are only in memory.
    pub(super) fn is_heavy(&self) -> bool {
        self.pending.len() > 32 * N
    }

    /// Writes the gathered entries and creates the file even if there are none.
    pub(super) fn store(&mut self, home: Home<'_>, base: Offset) -> Result<(), LogError> {
        if self.is_stored() {
            return Ok(());
        }
        let file = self.open(home, base, OpenMode::Create)?;
        let at = u64::from(self.stored) * N as u64;
        let written = if self.created { Ok(()) } else { file.set_len(at) };
        written
            .and_then(|()| file.write_all_at(&[&self.pending], at))
            .map_err(|e| home.fault("writing", base, Self::SUFFIX, e))?;
        self.stored += self.pending_len();
        self.created = true;
        self.pending = Vec::new();
        Ok(())
    }

    /// The file, for a sync.
    pub(super) fn handle(
        &mut self,
        home: Home<'_>,
        base: Offset,
    ) -> Result<Arc<dyn File>, LogError> {
        self.open(home, base, OpenMode::ReadWrite)
    }

    /// Entry `n`, which must be there.
    pub(super) fn get(
        &mut self,
        home: Home<'_>,
        base: Offset,
        n: u32,
    ) -> Result<[u8; N], LogError> {
        let mut out = [0; N];
        match n.checked_sub(self.stored) {
            Some(at) => out.copy_from_slice(&self.pending[at as usize * N..][..N]),
            None => self.read(home, base, n, &mut out)?,
        }
        Ok(out)
    }

    /// The last entry.
    pub(super) fn last(
        &mut self,
        home: Home<'_>,
        base: Offset,
    ) -> Result<Option<[u8; N]>, LogError> {
        match self.len().checked_sub(1) {
            Some(n) => self.get(home, base, n).map(Some),
            None => Ok(None),
        }
    }

    /// The number of leading entries for which `below` holds; it must not hold again after.
    pub(super) fn partition_point(
        &mut self,
        home: Home<'_>,
        base: Offset,
        below: impl Fn(&[u8; N]) -> bool,
    ) -> Result<u32, LogError> {
        let (pending, _) = self.pending.as_chunks::<N>();
        if self.stored == 0 || pending.first().is_some_and(&below) {
            let n = pending.partition_point(below);
            return Ok(self.stored + u32::try_from(n).unwrap_or(u32::MAX));
        }
        let (mut from, mut to) = (0, self.stored);
        while to - from > BLOCK_ENTRIES {
            let mid = from + (to - from) / 2;
            if below(&self.get(home, base, mid)?) {
                from = mid + 1;
            } else {
                to = mid;
            }
        }
        let mut block = vec![0; (to - from) as usize * N];
        self.read(home, base, from, &mut block)?;
        let n = block.as_chunks::<N>().0.partition_point(below);
        Ok(from + u32::try_from(n).unwrap_or(u32::MAX))
    }

    /// Keeps the first `n` entries.
    pub(super) fn truncate(
        &mut self,
        home: Home<'_>,
        base: Offset,
        n: u32,
    ) -> Result<(), LogError> {
        if let Some(kept) = n.checked_sub(self.stored) {
            self.pending.truncate(kept as usize * N);
            return Ok(());
        }
        self.pending = Vec::new();
        let file = self.open(home, base, OpenMode::ReadWrite)?;
        file.set_len(u64::from(n) * N as u64)
            .map_err(|e| home.fault("cutting", base, Self::SUFFIX, e))?;
        self.stored = n;
        Ok(())
    }

    /// Drops all entries; the file, if any, is emptied when entries are stored.
    pub(super) fn reset(&mut self) {
        (self.stored, self.created) = (0, false);
        self.pending = Vec::new();
    }

    pub(super) fn close(&mut self, files: &FileCache) {
        files.forget(&mut self.file);
    }

    fn pending_len(&self) -> u32 {
        u32::try_from(self.pending.len() / N).unwrap_or(u32::MAX)
    }

    fn read(
        &mut self,
        home: Home<'_>,
        base: Offset,
        n: u32,
        out: &mut [u8],
    ) -> Result<(), LogError> {
        if out.is_empty() {
            return Ok(());
        }
        let file = self.open(home, base, OpenMode::ReadWrite)?;
        file.read_exact_at(out, u64::from(n) * N as u64)
            .map_err(|e| home.fault("reading", base, Self::SUFFIX, e))
    }

    fn open(
        &mut self,
        home: Home<'_>,
        base: Offset,
        mode: OpenMode,
    ) -> Result<Arc<dyn File>, LogError> {
        let open = || -> io::Result<_> { home.dir.fs().open(&home.path(base, Self::SUFFIX), mode) };
        home.dir
            .files()
            .get(&mut self.file, open)
            .map_err(|e| home.fault("opening", base, Self::SUFFIX, e))
    }
}

/// An entry of the offset index.
pub(super) fn offset_entry(base: Offset, last_offset: Offset, pos: u64) -> [u8; 8] {
    // A segment is rolled before either could leave 31 bits.
    let relative = u32::try_from(last_offset.saturating_sub(base)).unwrap_or(u32::MAX);
    let pos = u32::try_from(pos).unwrap_or(u32::MAX);
    let mut out = [0; 8];
    out[..4].copy_from_slice(&relative.to_be_bytes());
    out[4..].copy_from_slice(&pos.to_be_bytes());
    out
}

/// Last offset and position of an entry of the offset index.
pub(super) fn read_offset_entry(base: Offset, e: &[u8; 8]) -> (Offset, u64) {
    let [a, b, c, d, p @ ..] = *e;
    (base + i64::from(u32::from_be_bytes([a, b, c, d])), u64::from(u32::from_be_bytes(p)))
}

/// An entry of the time index.
pub(super) fn time_entry(base: Offset, timestamp: i64, offset: Offset) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&timestamp.to_be_bytes());
    let relative = u32::try_from(offset.saturating_sub(base)).unwrap_or(u32::MAX);
    out[8..].copy_from_slice(&relative.to_be_bytes());
    out
}

/// Timestamp and offset of an entry of the time index.
pub(super) fn read_time_entry(base: Offset, e: &[u8; 12]) -> (i64, Offset) {
    let [a, b, c, d, f, g, h, i, o @ ..] = *e;
    let timestamp = i64::from_be_bytes([a, b, c, d, f, g, h, i]);
    (timestamp, base + i64::from(u32::from_be_bytes(o)))
}
