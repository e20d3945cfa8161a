//! Batches of the log as a share fetch sees them: where they begin and end, and which were aborted
//! (`ShareFetchUtils`, `SharePartition.fetchAbortedTransactionRecordBatches`). Pure but for the
//! log's files.

use std::{collections::BTreeSet, io};

use crate::{
    base::{Offset, limits::BATCH_HEADER_BYTES, ports::FileSlice},
    log::AbortedTxn,
    record::{BatchHeader, EndTxnMarker, Records},
};

/// Bytes read at once: headers of batches lie apart, and batches are small where there are many.
const WINDOW: usize = 4 << 10;
/// A marker of a transaction is smaller by far.
const MARKER_BYTES_MAX: usize = 4 << 10;

/// A batch of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBatch {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset of its last record.
    pub last: Offset,
    /// Its length in bytes.
    pub size: usize,
    /// Its producer, where it has one.
    pub producer: Option<i64>,
    /// Whether it belongs to a transaction.
    pub transactional: bool,
    /// Whether it ends a transaction by aborting it. Only known where it was looked for.
    pub aborts: bool,
}

/// Reads the headers of the batches in `slices`, until one begins at or after the offset that
/// `enough` gives for the batches before it. With `markers` looks which batches abort transactions.
///
/// # Errors
/// The file cannot be read, or has no batch where one must be.
pub fn headers(
    slices: &[FileSlice],
    markers: bool,
    mut enough: impl FnMut(&LogBatch) -> bool,
) -> io::Result<Vec<LogBatch>> {
    let mut out = Vec::new();
    let mut buf = Vec::new();
    for slice in slices {
        let (mut at, end) = (slice.pos, slice.pos.saturating_add(slice.len as u64));
        let mut held = 0..0;
        while at < end {
            let header = read(slice, at, end, BATCH_HEADER_BYTES, &mut buf, &mut held)?;
            let bad = |e| io::Error::new(io::ErrorKind::InvalidData, e);
            let header = BatchHeader::read(header).map_err(bad)?;
            let mut batch = LogBatch {
                base: header.base_offset,
                last: header.last_offset().max(header.base_offset),
                size: header.size,
                producer: Some(header.producer_id).filter(|id| *id >= 0),
                transactional: header.is_transactional(),
                aborts: false,
            };
            if markers && header.is_control() && header.size <= MARKER_BYTES_MAX {
                let bytes = read(slice, at, end, header.size, &mut buf, &mut held)?;
                batch.aborts = aborts(&header, bytes);
            }
            if enough(&batch) {
                return Ok(out);
            }
            out.push(batch);
            at = at.saturating_add(header.size as u64);
        }
    }
    Ok(out)
}

/// Whether this control batch aborts a transaction: its first record tells.
fn aborts(header: &BatchHeader, bytes: &[u8]) -> bool {
    let body = bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default();
    let first = Records::new(body, header.records_count).next();
    let marker = first.and_then(Result::ok).and_then(|record| EndTxnMarker::read(&record));
    marker.is_some_and(|m| !m.commit)
}

/// `len` bytes at `at`, by way of `buf`, which holds the file's bytes in `held`.
fn read<'a>(
    slice: &FileSlice,
    at: u64,
    end: u64,
    len: usize,
    buf: &'a mut Vec<u8>,
    held: &mut std::ops::Range<u64>,
) -> io::Result<&'a [u8]> {
    let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
    if left < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if at < held.start || at.saturating_add(len as u64) > held.end {
        buf.resize(WINDOW.max(len).min(left), 0);
        slice.file.read_exact_at(buf, at)?;
        *held = at..at.saturating_add(buf.len() as u64);
    }
    let from = usize::try_from(at - held.start).unwrap_or(usize::MAX);
    buf.get(from..from.saturating_add(len)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The offsets, first and last, of those batches whose transaction was aborted.
#[must_use]
pub fn aborted(batches: &[LogBatch], aborted: &[AbortedTxn]) -> Vec<(Offset, Offset)> {
    let mut begun: Vec<&AbortedTxn> = aborted.iter().collect();
    begun.sort_by_key(|a| std::cmp::Reverse(a.first_offset));
    let (mut producers, mut out) = (BTreeSet::new(), Vec::new());
    for batch in batches {
        let Some(producer) = batch.producer else { continue };
        while let Some(txn) = begun.pop_if(|a| a.first_offset <= batch.last) {
            producers.insert(txn.producer_id);
        }
        if batch.aborts {
            producers.remove(&producer);
        } else if batch.transactional && producers.contains(&producer) {
            out.push((batch.base, batch.last));
        }
    }
    out
}

/// Of the bytes of `batches`, those of the batches that have records from `first` to `last`: how many
/// stand before them, and how many they are.
#[must_use]
pub fn cut(batches: &[LogBatch], first: Offset, last: Offset) -> (usize, usize) {
    let before: usize = batches.iter().take_while(|b| b.last < first).map(|b| b.size).sum();
    let wanted = batches.iter().filter(|b| b.last >= first && b.base <= last);
    (before, wanted.map(|b| b.size).sum())
}

/// The runs of `slices` from byte `skip` on, `len` bytes.
#[must_use]
pub fn part_of(slices: &[FileSlice], mut skip: usize, mut len: usize) -> Vec<FileSlice> {
    let mut out = Vec::new();
    for slice in slices {
        let passed = skip.min(slice.len);
        skip -= passed;
        let taken = len.min(slice.len - passed);
        len -= taken;
        if taken > 0 {
            let pos = slice.pos.saturating_add(passed as u64);
            out.push(FileSlice { file: slice.file.clone(), pos, len: taken });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{base::ports::File, testing::batches::Batch};

    #[derive(Debug)]
    struct Bytes(Vec<u8>);

    impl File for Bytes {
        fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
            let from = self.0.get(usize::try_from(pos).unwrap()..).unwrap_or_default();
            let len = from.len().min(buf.len());
            buf[..len].copy_from_slice(&from[..len]);
            Ok(len)
        }
        fn write_all_at(&self, _: &[&[u8]], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            Ok(())
        }
        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
        fn modified_ms(&self) -> io::Result<i64> {
            Ok(0)
        }
    }

    fn slice(batches: &[Batch], before: usize) -> FileSlice {
        let mut bytes = vec![0; before];
        bytes.extend(batches.iter().flat_map(Batch::bytes));
        let len = bytes.len() - before;
        FileSlice { file: Arc::new(Bytes(bytes)), pos: before as u64, len }
    }

    #[test]
    fn headers_are_read_one_after_the_other_as_far_as_they_are_wanted() {
        let batches: Vec<_> = (0..50)
            .map(|n| Batch::of(3, if n % 7 == 0 { 9000 } else { 90 }, 0).at(n * 5, 0))
            .collect();
        let (first, second) = batches.split_at(20);
        let slices = [slice(first, 33), slice(second, 0)];
        let read = headers(&slices, false, |_| false).unwrap();
        assert!(read.iter().map(|b| (b.base, b.last)).eq((0..50).map(|n| (n * 5, n * 5 + 2))));
        assert_eq!(headers(&slices, false, |b| b.base >= 100).unwrap(), read[..20]);
        let mut short = slices[1].clone();
        short.len = 5;
        assert!(headers(&[short], false, |_| false).is_err());

        let (skip, len) = cut(&read, 26, 110);
        let part = part_of(&slices, skip, len);
        let part = headers(&part, false, |_| false).unwrap();
        assert_eq!((part[0].base, part.last().unwrap().base), (25, 110));
        assert_eq!(part_of(&slices, 0, 0).len(), 0);
    }

    #[test]
    fn aborted_batches_end_with_their_marker() {
        let data = |at, id| Batch::of(2, 9, 0).by(id, 0, 0).in_txn().at(at, 0);
        let marker = |at, id, commit| Batch::marker(id, 0, commit, 0).at(at, 0);
        let log = [
            data(0, 1),
            data(2, 2),
            Batch::of(2, 9, 0).by(3, 0, 0).at(4, 0),
            marker(6, 1, false),
            data(7, 1),
            marker(9, 2, false),
            marker(10, 1, true),
        ];
        let read = headers(&[slice(&log, 0)], true, |_| false).unwrap();
        let txn = |producer_id, first_offset| AbortedTxn { producer_id, first_offset };
        let all = [txn(2, 2), txn(1, 0)];
        assert_eq!(aborted(&read, &all), [(0, 1), (2, 3)]);
        assert_eq!(aborted(&read, &all[..1]), [(2, 3)]);
        assert_eq!(aborted(&read, &[]), []);
    }
}
