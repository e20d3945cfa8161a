//! `.txnindex`: the aborted transactions whose marker lies in a segment (`TransactionIndex.java`,
//! `AbortedTxn.java`). Rarely there and rarely read, so that it is opened for each use.

use super::{
    error::{LogError, is_missing},
    log::Home,
    names,
    producers::{AbortedTxn, CompletedTxn},
};
use crate::base::{Offset, ports::OpenMode};

const ENTRY_BYTES: usize = 34;
/// The largest index that is read: two million aborted transactions in one segment.
const BYTES_MAX: u64 = 64 << 20;

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TxnEntry {
    pub(super) producer_id: i64,
    pub(super) first_offset: Offset,
    pub(super) last_offset: Offset,
    pub(super) last_stable_offset: Offset,
}

impl TxnEntry {
    pub(super) fn of(txn: &CompletedTxn) -> Self {
        Self {
            producer_id: txn.producer_id,
            first_offset: txn.first_offset,
            last_offset: txn.last_offset,
            last_stable_offset: txn.last_stable_offset,
        }
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let mut out = [0; ENTRY_BYTES];
        let fields =
            [self.producer_id, self.first_offset, self.last_offset, self.last_stable_offset];
        for (n, field) in fields.iter().enumerate() {
            out[2 + n * 8..][..8].copy_from_slice(&field.to_be_bytes());
        }
        out
    }

    fn decode(b: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let field = |n: usize| Some(i64::from_be_bytes(*b.get(2 + n * 8..)?.first_chunk()?));
        if b[..2] != [0, 0] {
            return None;
        }
        Some(Self {
            producer_id: field(0)?,
            first_offset: field(1)?,
            last_offset: field(2)?,
            last_stable_offset: field(3)?,
        })
    }
}

/// All entries of a segment's index; none if there is no file. `None` if it is damaged: torn, of
/// another version, or out of order.
pub(super) fn read(home: Home<'_>, base: Offset) -> Result<Option<Vec<TxnEntry>>, LogError> {
    let bytes = match home.dir.fs().read(&home.path(base, names::TXN_INDEX), BYTES_MAX) {
        Err(e) if is_missing(&e) => return Ok(Some(Vec::new())),
        done => done.map_err(|e| home.fault("reading", base, names::TXN_INDEX, e))?,
    };
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    let all: Option<Vec<_>> = entries.iter().map(TxnEntry::decode).collect();
    let ordered = |all: &Vec<TxnEntry>| all.is_sorted_by(|a, b| a.last_offset < b.last_offset);
    Ok(all.filter(|all| rest.is_empty() && ordered(all)))
}

/// The bytes of an index with these entries.
pub(super) fn bytes(entries: &[TxnEntry]) -> Vec<u8> {
    entries.iter().flat_map(TxnEntry::encode).collect()
}

/// Appends entries, creating the file if need be.
pub(super) fn append(home: Home<'_>, base: Offset, entries: &[TxnEntry]) -> Result<(), LogError> {
    let bytes = bytes(entries);
    let write = || {
        let file = home.dir.fs().open(&home.path(base, names::TXN_INDEX), OpenMode::Create)?;
        let len = file.len()?;
        file.write_all_at(&[&bytes], len).inspect_err(|_| {
            // A torn entry must not stay in front of later ones.
            _ = file.set_len(len);
        })
    };
    write().map_err(|e| home.fault("writing", base, names::TXN_INDEX, e))
}

/// Keeps the entries whose marker lies below `offset`.
pub(super) fn truncate(home: Home<'_>, base: Offset, offset: Offset) -> Result<(), LogError> {
    let all = read(home, base)?.unwrap_or_default();
    let keep = all.partition_point(|e| e.last_offset < offset);
    if keep == all.len() {
        return Ok(());
    }
    let file = home.dir.fs().open(&home.path(base, names::TXN_INDEX), OpenMode::ReadWrite);
    file.and_then(|f| f.set_len((keep * ENTRY_BYTES) as u64))
        .map_err(|e| home.fault("cutting", base, names::TXN_INDEX, e))
}

/// Adds what has records in `from..upper` to `out`. Tells whether later segments can have none
/// (`TransactionIndex.collectAbortedTxns`).
pub(super) fn collect(
    entries: &[TxnEntry],
    from: Offset,
    upper: Offset,
    out: &mut Vec<AbortedTxn>,
) -> bool {
    for e in entries {
        if e.last_offset >= from && e.first_offset < upper {
            out.push(AbortedTxn { producer_id: e.producer_id, first_offset: e.first_offset });
        }
        if e.last_stable_offset >= upper {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_kafkas() {
        let e = TxnEntry {
            producer_id: 1,
            first_offset: 2,
            last_offset: 0x0304,
            last_stable_offset: 0x0305,
        };
        let bytes = e.encode();
        let mut want = [0; 34];
        (want[9], want[17], want[24], want[25], want[32], want[33]) = (1, 2, 3, 4, 3, 5);
        assert_eq!(bytes, want);
        assert_eq!(TxnEntry::decode(&bytes), Some(e));
    }

    #[test]
    fn what_a_reader_must_know() {
        let e = |first_offset, last_offset, last_stable_offset| TxnEntry {
            producer_id: first_offset,
            first_offset,
            last_offset,
            last_stable_offset,
        };
        let all = [e(5, 10, 11), e(12, 20, 15), e(15, 30, 31)];
        let got = |from, upper| {
            let mut out = Vec::new();
            let done = collect(&all, from, upper, &mut out);
            (out.iter().map(|t| t.first_offset).collect::<Vec<_>>(), done)
        };
        assert_eq!(got(0, 100), (vec![5, 12, 15], false));
        assert_eq!(got(11, 15), (vec![12], true), "stable up to 15: nothing later matters");
        assert_eq!(got(31, 100), (vec![], false));
        assert_eq!(got(0, 11), (vec![5], true));
    }
}
