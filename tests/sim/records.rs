//! Batches as the simulation writes and reads them: every record's value begins with a number that
//! no other record has. What coordinators write has a number made of its content, above [`OWN`].

use bytes::Bytes;
use vltava::{
    base::{LeaderEpoch, Now, Offset},
    coordinator::records::Record,
    record::{BatchBuilder, BatchHeader, Compression},
    replica::partition::Partition,
    testing::batches::Batch,
};

/// From here on values are of what brokers write themselves.
pub const OWN: u64 = 1 << 63;
/// The header that holds the number of a record that has a key.
const NUMBER: &str = "number";

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A producer's, outside of transactions.
    Plain,
    /// A producer's, in a transaction.
    InTxn,
    /// The end of a transaction.
    Marker { commit: bool, coordinator_epoch: i32 },
    /// An offset of a group, topic and partition (as one number); `txn` is what its committer calls
    /// its transaction.
    Commit { of: u64, offset: Offset, txn: Option<u64> },
    /// Another record of a coordinator.
    Other,
}

/// One record as it lies in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rec {
    pub value: u64,
    pub epoch: LeaderEpoch,
    pub producer: i64,
    pub producer_epoch: i16,
    pub sequence: i32,
    pub kind: Kind,
    /// A number made of its key, where newer records of a key replace older ones; else 0.
    pub key: u64,
    /// Whether it says that its key is gone.
    pub tombstone: bool,
}

/// A batch of the values `from..from + count`.
pub fn batch(from: u64, count: usize, producer: i64, epoch: i16, sequence: i32) -> Bytes {
    built(from, count).by(producer, epoch, sequence).bytes().into()
}

/// The same in a transaction.
pub fn txn_batch(from: u64, count: usize, producer: i64, epoch: i16, sequence: i32) -> Bytes {
    built(from, count).by(producer, epoch, sequence).in_txn().bytes().into()
}

/// A batch of the values `from..` of keys, of which some are tombstones: their numbers are in a
/// header.
pub fn keyed_batch(
    from: u64,
    keys: &[(usize, bool)],
    producer: i64,
    epoch: i16,
    sequence: i32,
) -> Bytes {
    let mut batch = BatchBuilder::new(Compression::None).producer(producer, epoch, sequence);
    for (number, (key, tombstone)) in (from..).zip(keys) {
        let (key, number) = (format!("key-{key}"), number.to_le_bytes());
        let value = (!tombstone).then_some(&number[..]);
        let headers = [(NUMBER.as_bytes(), Some(&number[..]))];
        batch.append(1_700_000_000_000, Some(key.as_bytes()), value, &headers).unwrap();
    }
    batch.finish()
}

fn built(from: u64, count: usize) -> Batch {
    let value = |v: u64| {
        let mut bytes = v.to_le_bytes().to_vec();
        bytes.resize(8 + (v % 60) as usize, v as u8);
        bytes
    };
    let values = (from..from + count as u64).map(value).collect();
    Batch { timestamp: 1_700_000_000_000, values, ..Batch::default() }
}

/// A number made of bytes.
pub fn number_of<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> u64 {
    let mix = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// The number that stands for a group's offset in a partition.
pub fn offset_of(group: &str, topic: &str, partition: i32) -> u64 {
    number_of(format!("{group} {topic} {partition}").as_bytes())
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

/// A field of a record: its bytes, or that it has none.
fn field<'a>(body: &'a [u8], at: &mut usize) -> Option<Option<&'a [u8]>> {
    let Ok(len) = usize::try_from(varint(body, at)?) else { return Some(None) };
    let bytes = body.get(*at..*at + len)?;
    *at += len;
    Some(Some(bytes))
}

/// What the bytes of one record say.
struct Read {
    /// After the first offset of the batch.
    delta: i32,
    value: u64,
    kind: Kind,
    key: u64,
    tombstone: bool,
}

fn values(h: &BatchHeader, body: &[u8]) -> Option<Vec<Read>> {
    let (mut out, mut at) = (Vec::new(), 0);
    for _ in 0..h.records_count {
        let len = usize::try_from(varint(body, &mut at)?).ok()?;
        let end = at.checked_add(len)?;
        at += 1;
        varint(body, &mut at)?;
        let delta = i32::try_from(varint(body, &mut at)?).ok()?;
        let (key, value) = (field(body, &mut at)?, field(body, &mut at)?);
        let mut number = None;
        for _ in 0..varint(body, &mut at)? {
            let (name, value) = (field(body, &mut at)??, field(body, &mut at)??);
            if name == NUMBER.as_bytes() {
                number = Some(u64::from_le_bytes(value.try_into().ok()?));
            }
        }
        out.push(read(h, delta, key, value, number)?);
        at = end;
    }
    Some(out)
}

fn read(
    h: &BatchHeader,
    delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    number: Option<u64>,
) -> Option<Read> {
    let of = |value, kind| Read { delta, value, kind, key: 0, tombstone: false };
    let Some(key) = key else {
        let number = u64::from_le_bytes(value?.get(..8)?.try_into().ok()?);
        return Some(of(number, if h.is_transactional() { Kind::InTxn } else { Kind::Plain }));
    };
    let content = number_of(key.iter().chain(value.unwrap_or_default())) | OWN;
    if h.is_control() {
        let commit = key.get(2..4)? == [0, 1];
        let coordinator_epoch = i32::from_be_bytes(value?.get(2..6)?.try_into().ok()?);
        return Some(of(content, Kind::Marker { commit, coordinator_epoch }));
    }
    let keyed = Read { key: number_of(key), tombstone: value.is_none(), ..of(0, Kind::Plain) };
    if let Some(number) = number {
        return Some(Read { value: number, ..keyed });
    }
    let kind = match Record::decode(key, value) {
        Ok(Some(Record::Offset { group, topic, partition, value: Some(value) })) => Kind::Commit {
            of: offset_of(&group, &topic, partition),
            offset: value.offset,
            txn: h.is_transactional().then(|| value.metadata.parse().unwrap_or(0)),
        },
        _ => Kind::Other,
    };
    Some(Read { value: content, kind, ..keyed })
}

/// The records of whole batches with their offsets; an error says what is wrong with the bytes.
pub fn decode(mut bytes: &[u8]) -> Result<Vec<(Offset, Rec)>, String> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let h = BatchHeader::read(bytes).map_err(|e| e.to_string())?;
        let whole = bytes.get(..h.size).ok_or("a batch is cut short")?;
        let values = values(&h, &whole[61..]).ok_or("records make no sense")?;
        for r in values {
            out.push((
                h.base_offset + i64::from(r.delta),
                Rec {
                    value: r.value,
                    epoch: h.partition_leader_epoch,
                    producer: h.producer_id,
                    producer_epoch: h.producer_epoch,
                    sequence: h.base_sequence + r.delta,
                    kind: r.kind,
                    key: r.key,
                    tombstone: r.tombstone,
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
            // Compaction may have left nothing; whoever knows what must be there looks for it.
            None => break,
            Some(last) => return Err(format!("{last} is read at {at} below {to}")),
        }
    }
    Ok(out)
}

/// The last offset of whole batches, be there a record at it or not.
pub fn last_offset(mut bytes: &[u8]) -> Option<Offset> {
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
