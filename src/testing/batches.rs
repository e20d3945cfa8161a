//! Record batches for tests of rooms that do not look at records.

use crate::record::batch::crc32c;

/// What a batch is made of; the default is one plain record.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Epoch of the leader.
    pub leader_epoch: i32,
    /// Codec and flags.
    pub attributes: i16,
    /// Timestamp of the first record in milliseconds; each following is one later.
    pub timestamp: i64,
    /// -1 without an idempotent producer.
    pub producer_id: i64,
    /// -1 without.
    pub producer_epoch: i16,
    /// -1 without.
    pub base_sequence: i32,
    /// Values of the records.
    pub values: Vec<Vec<u8>>,
    /// Key of the only record, for a control batch.
    pub key: Option<Vec<u8>>,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            base_offset: 0,
            leader_epoch: -1,
            attributes: 0,
            timestamp: 0,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            values: vec![Vec::new()],
            key: None,
        }
    }
}

impl Batch {
    /// `count` records of `bytes` bytes each, from `timestamp` on.
    #[must_use]
    pub fn of(count: usize, bytes: usize, timestamp: i64) -> Self {
        let values = (0..count).map(|n| vec![u8::try_from(n % 251).unwrap_or(0); bytes]).collect();
        Self { timestamp, values, ..Self::default() }
    }

    /// The same from an idempotent producer.
    #[must_use]
    pub fn by(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (id, epoch, sequence);
        self
    }

    /// The same within a transaction.
    #[must_use]
    pub fn in_txn(mut self) -> Self {
        self.attributes |= 0x10;
        self
    }

    /// The same with its place in a log.
    #[must_use]
    pub fn at(mut self, base_offset: i64, leader_epoch: i32) -> Self {
        (self.base_offset, self.leader_epoch) = (base_offset, leader_epoch);
        self
    }

    /// The marker that ends a transaction.
    #[must_use]
    pub fn marker(id: i64, epoch: i16, commit: bool, timestamp: i64) -> Self {
        let kind = u8::from(commit);
        Self {
            attributes: 0x30,
            timestamp,
            producer_id: id,
            producer_epoch: epoch,
            key: Some(vec![0, 0, 0, kind]),
            values: vec![vec![0, 0, 0, 0, 0, 1]],
            ..Self::default()
        }
    }

    /// Its bytes, with a valid CRC.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut records = Vec::new();
        for (n, value) in self.values.iter().enumerate() {
            let n = i64::try_from(n).unwrap_or(0);
            let mut body = vec![0];
            varint(&mut body, n);
            varint(&mut body, n);
            field(&mut body, self.key.as_deref());
            field(&mut body, Some(value));
            varint(&mut body, 0);
            varint(&mut records, i64::try_from(body.len()).unwrap_or(0));
            records.extend(body);
        }
        let count = i32::try_from(self.values.len()).unwrap_or(0);
        let last = i64::from(count) - 1;
        let mut tail = Vec::new();
        tail.extend(self.attributes.to_be_bytes());
        tail.extend((count - 1).to_be_bytes());
        tail.extend(self.timestamp.to_be_bytes());
        tail.extend((self.timestamp + last).to_be_bytes());
        tail.extend(self.producer_id.to_be_bytes());
        tail.extend(self.producer_epoch.to_be_bytes());
        tail.extend(self.base_sequence.to_be_bytes());
        tail.extend(count.to_be_bytes());
        tail.extend(records);
        let length = i32::try_from(tail.len() + 9).unwrap_or(0);
        let mut out = Vec::new();
        out.extend(self.base_offset.to_be_bytes());
        out.extend(length.to_be_bytes());
        out.extend(self.leader_epoch.to_be_bytes());
        out.push(2);
        out.extend(crc32c(&tail).to_be_bytes());
        out.extend(tail);
        out
    }
}

fn field(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(b) => {
            varint(out, i64::try_from(b.len()).unwrap_or(0));
            out.extend(b);
        }
        None => varint(out, -1),
    }
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while raw >= 0x80 {
        out.push((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}
