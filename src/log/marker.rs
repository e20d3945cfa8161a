//! The control record that ends a transaction, as a log reads it: without a copy, whatever the bytes
//! are. Pure.

use crate::record::BatchHeader;

/// The end of a transaction, as a control batch tells it (`EndTransactionMarker.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) aborted: bool,
    pub(super) coordinator_epoch: i32,
}

impl Marker {
    /// Reads the first record of the control batch `batch`; `None` if it ends no transaction or
    /// has no record left.
    pub(super) fn read(header: &BatchHeader, batch: &[u8]) -> Option<Self> {
        if header.records_count < 1 || header.codec() != 0 {
            return None;
        }
        let mut at = Varints(batch.get(crate::base::limits::BATCH_HEADER_BYTES..header.size)?);
        at.next()?; // length
        at.take(1)?; // attributes
        at.next()?; // timestamp delta
        at.next()?; // offset delta
        let len = at.next()?;
        let key = at.take(len)?;
        let len = at.next()?;
        let value = at.take(len)?;
        let kind = i16::from_be_bytes(*key.get(2..)?.first_chunk()?);
        let coordinator_epoch = i32::from_be_bytes(*value.get(2..)?.first_chunk()?);
        match kind {
            0 => Some(Self { aborted: true, coordinator_epoch }),
            1 => Some(Self { aborted: false, coordinator_epoch }),
            _ => None,
        }
    }
}

struct Varints<'a>(&'a [u8]);

impl<'a> Varints<'a> {
    fn next(&mut self) -> Option<i64> {
        let mut raw = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()));
            }
        }
        None
    }

    fn take(&mut self, n: i64) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(usize::try_from(n).ok()?)?;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::batches::Batch;

    #[test]
    fn bytes_that_are_no_marker() {
        let marker = Batch::marker(7, 0, true, 5);
        let bytes = marker.bytes();
        let h = BatchHeader::read(&bytes).unwrap();
        for cut in 0..bytes.len() {
            assert_eq!(Marker::read(&h, &bytes[..cut]), None, "cut at {cut}");
        }
        for at in 61..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0xff;
            _ = Marker::read(&h, &bad);
        }
    }
}
