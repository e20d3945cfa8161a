//! Batches as the simulation writes and reads them: every record's value begins with a number that
//! no other record has.

use bytes::Bytes;
use vltava::{
    base::{LeaderEpoch, Now, Offset},
    record::BatchHeader,
    replica::partition::Partition,
    testing::batches::Batch,
};

/// One record as it lies in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rec {
    pub value: u64,
    pub epoch: LeaderEpoch,
    pub producer: i64,
    pub producer_epoch: i16,
    pub sequence: i32,
}

/// A batch of the values `from..from + count`.
pub fn batch(from: u64, count: usize, producer: i64, epoch: i16, sequence: i32) -> Bytes {
    let value = |v: u64| {
        let mut bytes = v.to_le_bytes().to_vec();
        bytes.resize(8 + (v % 60) as usize, v as u8);
        bytes
    };
    let values = (from..from + count as u64).map(value).collect();
    let b = Batch { timestamp: 1_700_000_000_000, values, ..Batch::default() };
    b.by(producer, epoch, sequence).bytes().into()
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let (mut raw, mut shift) = (0_u64, 0);
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        raw |= u64::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte < 0x80 {
            return Some(((raw >> 1) as i64) ^ -((raw & 1) as i64));
        }
    }
}

fn values(body: &[u8], count: i32) -> Option<Vec<u64>> {
    let (mut out, mut at) = (Vec::new(), 0);
    for _ in 0..count {
        let len = usize::try_from(varint(body, &mut at)?).ok()?;
        let end = at.checked_add(len)?;
        at += 1;
        for _ in 0..2 {
            varint(body, &mut at)?;
        }
        let key = varint(body, &mut at)?;
        at += usize::try_from(key).unwrap_or(0);
        varint(body, &mut at)?;
        out.push(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
        at = end;
    }
    Some(out)
}

/// The records of whole batches with their offsets; an error says what is wrong with the bytes.
pub fn decode(mut bytes: &[u8]) -> Result<Vec<(Offset, Rec)>, String> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let h = BatchHeader::read(bytes).map_err(|e| e.to_string())?;
        let whole = bytes.get(..h.size).ok_or("a batch is cut short")?;
        let values = values(&whole[61..], h.records_count).ok_or("records make no sense")?;
        for (n, value) in (0..).zip(values) {
            out.push((
                h.base_offset + i64::from(n),
                Rec {
                    value,
                    epoch: h.partition_leader_epoch,
                    producer: h.producer_id,
                    producer_epoch: h.producer_epoch,
                    sequence: h.base_sequence + n,
                },
            ));
        }
        bytes = &bytes[h.size..];
    }
    Ok(out)
}

/// The bytes of the whole batches of a log in `from..to`.
pub fn log_bytes(p: &mut Partition, from: Offset, to: Offset, now: Now) -> Result<Vec<u8>, String> {
    let (mut out, mut at) = (Vec::new(), from.max(p.log.log_start_offset()));
    while at < to {
        let read = p.log.read(at, to, 1 << 20, true, now).map_err(|e| e.to_string())?;
        let before = out.len();
        for slice in &read.slices {
            let begin = out.len();
            out.resize(begin + slice.len, 0);
            slice.file.read_exact_at(&mut out[begin..], slice.pos).map_err(|e| e.to_string())?;
        }
        match last_offset(&out[before..]) {
            Some(last) if last >= at => at = last + 1,
            _ => return Err(format!("nothing can be read at {at} below {to}")),
        }
    }
    Ok(out)
}

fn last_offset(mut bytes: &[u8]) -> Option<Offset> {
    let mut last = None;
    while let Ok(h) = BatchHeader::read(bytes) {
        last = Some(h.base_offset + i64::from(h.last_offset_delta));
        bytes = bytes.get(h.size..)?;
    }
    last
}

/// The records of a log in `from..to`.
pub fn log_records(
    p: &mut Partition,
    from: Offset,
    to: Offset,
    now: Now,
) -> Result<Vec<(Offset, Rec)>, String> {
    let all = decode(&log_bytes(p, from, to, now)?)?;
    Ok(all.into_iter().filter(|(o, _)| (from..to).contains(o)).collect())
}
