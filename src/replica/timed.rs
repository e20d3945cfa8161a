//! The record inside a batch that a timestamp asks for (`FileRecords.searchForTimestamp`,
//! `DefaultRecordBatch.offsetOfMaxTimestamp`).

use crate::{
    base::Offset,
    log::FoundBatch,
    record::{Records, Rules, Scratch, records},
};

/// Timestamp and offset of the first record of `batch` from `start` on whose timestamp is not
/// below `timestamp`; `None` if there is none or the batch cannot be read.
pub(super) fn first_at_or_after(
    batch: &FoundBatch,
    timestamp: i64,
    start: Offset,
) -> Option<(i64, Offset)> {
    let header = &batch.header;
    if header.records_count == 0 {
        return None;
    }
    // Unless compaction took some, there is a record at every offset.
    let whole = header.records_count == header.last_offset_delta.saturating_add(1);
    if header.is_log_append_time() && whole {
        let first = header.base_offset.max(start);
        let fits = header.max_timestamp >= timestamp && first <= header.last_offset();
        return fits.then_some((header.max_timestamp, first));
    }
    let mut bytes = vec![0; batch.slice.len];
    batch.slice.file.read_exact_at(&mut bytes, batch.slice.pos).ok()?;
    let limit = Rules::inflated_bytes_for(bytes.len());
    let mut scratch = Scratch::default();
    let section = records::section(header, &bytes, limit, &mut scratch).ok()?;
    Records::new(&section, header.records_count)
        .map_while(Result::ok)
        .map(|r| {
            let at = match header.is_log_append_time() {
                true => header.max_timestamp,
                false => header.base_timestamp.saturating_add(r.timestamp_delta),
            };
            (at, header.base_offset.saturating_add(i64::from(r.offset_delta)))
        })
        .find(|(at, offset)| *at >= timestamp && *offset >= start)
}

/// Timestamp and offset of the record with the largest timestamp of `batch`; of equal ones the
/// first.
pub(super) fn of_max(batch: &FoundBatch) -> Option<(i64, Offset)> {
    first_at_or_after(batch, batch.header.max_timestamp, batch.header.base_offset)
}
