//! The bytes of a `.snapshot` file (`ProducerSnapshot.json`, `ProducerStateManager.writeSnapshot`):
//! version, CRC-32C of what follows it, count, then 46 bytes a producer. Only the last batch of
//! each survives.

use super::producers::{ProducerEntry, SeenBatch};
use crate::record::batch::crc32c;

const VERSION: i16 = 1;
const HEADER_BYTES: usize = 10;
const CRC_FROM: usize = 6;
const ENTRY_BYTES: usize = 46;
/// The largest snapshot that is read: what a million producers need.
pub const SNAPSHOT_BYTES_MAX: u64 = 64 << 20;

/// The bytes of a snapshot with these producers.
#[must_use]
pub fn encode<'a>(producers: impl Iterator<Item = (i64, &'a ProducerEntry)>) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    let mut count = 0i32;
    for (id, e) in producers {
        let last = e.batches().last().copied();
        let none = SeenBatch { last_sequence: -1, last_offset: -1, offset_delta: 0, timestamp: 0 };
        let last = last.unwrap_or(none);
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&e.epoch.to_be_bytes());
        out.extend_from_slice(&last.last_sequence.to_be_bytes());
        out.extend_from_slice(&last.last_offset.to_be_bytes());
        out.extend_from_slice(&last.offset_delta.to_be_bytes());
        out.extend_from_slice(&e.last_timestamp.to_be_bytes());
        out.extend_from_slice(&e.coordinator_epoch.to_be_bytes());
        out.extend_from_slice(&e.txn_first_offset.unwrap_or(-1).to_be_bytes());
        count += 1;
    }
    out[..2].copy_from_slice(&VERSION.to_be_bytes());
    out[CRC_FROM..HEADER_BYTES].copy_from_slice(&count.to_be_bytes());
    let crc = crc32c(&out[CRC_FROM..]);
    out[2..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a snapshot; `None` if it is torn, of another version or otherwise damaged.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Vec<(i64, ProducerEntry)>> {
    let version = i16::from_be_bytes(*bytes.first_chunk()?);
    let crc = u32::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    let count = i32::from_be_bytes(*bytes.get(CRC_FROM..)?.first_chunk()?);
    let body = bytes.get(HEADER_BYTES..)?;
    let fits = usize::try_from(count).ok()?.checked_mul(ENTRY_BYTES)? == body.len();
    if version != VERSION || !fits || crc32c(bytes.get(CRC_FROM..)?) != crc {
        return None;
    }
    Some(body.chunks_exact(ENTRY_BYTES).filter_map(decode_entry).collect())
}

fn decode_entry(b: &[u8]) -> Option<(i64, ProducerEntry)> {
    let i64_at = |at: usize| Some(i64::from_be_bytes(*b.get(at..)?.first_chunk()?));
    let i32_at = |at: usize| Some(i32::from_be_bytes(*b.get(at..)?.first_chunk()?));
    let epoch = i16::from_be_bytes(*b.get(8..)?.first_chunk()?);
    let timestamp = i64_at(26)?;
    let mut entry = ProducerEntry::new(epoch, i32_at(34)?, timestamp);
    entry.txn_first_offset = Some(i64_at(38)?).filter(|o| *o >= 0);
    let last_offset = i64_at(14)?;
    if last_offset >= 0 {
        let (last_sequence, offset_delta) = (i32_at(10)?, i32_at(22)?);
        entry.push(SeenBatch { last_sequence, last_offset, offset_delta, timestamp });
    }
    Some((i64_at(0)?, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_kafkas() {
        let mut e = ProducerEntry::new(3, -1, 1000);
        e.push(SeenBatch { last_sequence: 9, last_offset: 99, offset_delta: 4, timestamp: 1000 });
        let bytes = encode([(7, &e)].into_iter());
        let mut want = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
        want.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 3, 0, 0, 0, 9]);
        want.extend([0, 0, 0, 0, 0, 0, 0, 99, 0, 0, 0, 4]);
        want.extend([0, 0, 0, 0, 0, 0, 3, 232, 255, 255, 255, 255]);
        want.extend([255; 8]);
        let crc = crc32c(&want[6..]).to_be_bytes();
        want[2..6].copy_from_slice(&crc);
        assert_eq!(bytes, want);
        assert_eq!(decode(&bytes).unwrap(), [(7, e)]);
    }

    #[test]
    fn damage_is_seen() {
        let e = ProducerEntry::new(0, 5, 1);
        let good = encode([(1, &e), (2, &e)].into_iter());
        assert_eq!(decode(&good).unwrap().len(), 2);
        for cut in 0..good.len() {
            assert_eq!(decode(&good[..cut]), None, "cut at {cut}");
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert_eq!(decode(&bad), None, "flipped at {at}");
        }
        let mut long = good;
        long.push(0);
        assert_eq!(decode(&long), None);
    }
}
