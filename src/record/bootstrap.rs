//! The snapshot files that formatting writes, byte for byte Kafka's: `bootstrap.checkpoint` with
//! the initial feature levels (`BatchFileWriter`, `FeatureLevelRecord`) and the first checkpoint of
//! a dynamic quorum with its voters (`RecordsSnapshotWriter`, `VotersRecord`, KIP-853). Pure.

use super::{
    batch::{BatchError, batches, check_crc},
    builder::BatchBuilder,
    compress::Scratch,
    control::ControlType,
    records::{RecordError, Records, section},
};
use crate::base::{NodeId, Uuid};

/// Name of the file with the initial features, in every formatted directory.
pub const BOOTSTRAP_CHECKPOINT: &str = "bootstrap.checkpoint";
/// Name of the first checkpoint of a dynamic quorum, beside the metadata log.
pub const FIRST_CHECKPOINT: &str = "00000000000000000000-0000000000.checkpoint";
/// Longest such file that is read, in bytes.
pub const BOOTSTRAP_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The frame that Kafka puts before a metadata record, and the record's key and version.
const FRAME_VERSION: u32 = 1;
const FEATURE_LEVEL_KEY: u32 = 12;
/// The versions of the Raft protocol that a voter says it supports.
const KRAFT_VERSIONS: (i16, i16) = (0, 1);

/// A voter of a dynamic quorum.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DynamicVoter {
    /// Its node id.
    pub id: NodeId,
    /// The id of its metadata directory.
    pub directory: Uuid,
    /// The name of its controller listener.
    pub listener: String,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// What such a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootstrapFile {
    /// Features and their levels, in the file's order.
    pub features: Vec<(String, i16)>,
    /// The version of the Raft protocol, if the file has one.
    pub kraft_version: Option<i16>,
    /// The voters of a dynamic quorum.
    pub voters: Vec<DynamicVoter>,
    /// Keys of metadata records of another kind, which are not read.
    pub skipped: Vec<u32>,
}

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// A batch is damaged or cut short.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A record is damaged.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record does not have the fields of its kind.
    #[error("a record is not as its kind asks: {0}")]
    Shape(&'static str),
}

/// The content of `bootstrap.checkpoint` with these levels, in this order. Records carry `now_ms`.
#[must_use]
pub fn encode_bootstrap(features: &[(String, i16)], now_ms: i64) -> Vec<u8> {
    let mut out = Vec::new();
    let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    push_control(&mut out, 0, &[(ControlType::SnapshotHeader, &header)], now_ms);
    let mut builder = BatchBuilder::default().base_offset(1).leader_epoch(0);
    for (name, level) in features {
        let mut value = Vec::with_capacity(name.len().saturating_add(8));
        for number in [FRAME_VERSION, FEATURE_LEVEL_KEY, 0] {
            put_uvarint(&mut value, number);
        }
        put_string(&mut value, name);
        value.extend_from_slice(&level.to_be_bytes());
        value.push(0);
        push(&mut builder, now_ms, None, &value);
    }
    let next = i64::from(builder.count()).saturating_add(1);
    if !builder.is_empty() {
        out.extend_from_slice(&builder.finish());
    }
    push_control(&mut out, next, &[(ControlType::SnapshotFooter, &[0, 0, 0])], now_ms);
    out
}

/// The content of the first checkpoint of a dynamic quorum with these voters.
#[must_use]
pub fn encode_voters(kraft_version: i16, voters: &[DynamicVoter], now_ms: i64) -> Vec<u8> {
    let mut header = vec![0, 0];
    header.extend_from_slice(&now_ms.to_be_bytes());
    header.push(0);
    let mut version = vec![0, 0];
    version.extend_from_slice(&kraft_version.to_be_bytes());
    version.push(0);
    let mut set = vec![0, 0];
    put_length(&mut set, voters.len());
    for voter in voters {
        put_voter(&mut set, voter);
    }
    set.push(0);
    let records: [(ControlType, &[u8]); 3] = [
        (ControlType::SnapshotHeader, &header),
        (ControlType::KRaftVersion, &version),
        (ControlType::KRaftVoters, &set),
    ];
    let mut out = Vec::new();
    push_control(&mut out, 0, &records, now_ms);
    push_control(&mut out, 3, &[(ControlType::SnapshotFooter, &[0, 0, 0])], now_ms);
    out
}

fn put_voter(out: &mut Vec<u8>, voter: &DynamicVoter) {
    out.extend_from_slice(&voter.id.0.to_be_bytes());
    out.extend_from_slice(&voter.directory.0);
    put_length(out, 1);
    put_string(out, &voter.listener);
    put_string(out, &voter.host);
    out.extend_from_slice(&voter.port.to_be_bytes());
    out.push(0);
    out.extend_from_slice(&KRAFT_VERSIONS.0.to_be_bytes());
    out.extend_from_slice(&KRAFT_VERSIONS.1.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
}

fn push_control(out: &mut Vec<u8>, base: i64, records: &[(ControlType, &[u8])], now_ms: i64) {
    let mut builder = BatchBuilder::default().base_offset(base).leader_epoch(0).control();
    for (kind, value) in records {
        push(&mut builder, now_ms, Some(&kind.key()), value);
    }
    out.extend_from_slice(&builder.finish());
}

fn push(builder: &mut BatchBuilder, now_ms: i64, key: Option<&[u8]>, value: &[u8]) {
    // Only a value of 2 GiB could be refused.
    let added = builder.append(now_ms, key, Some(value), &[]);
    debug_assert!(added.is_ok(), "{added:?}");
}

fn put_uvarint(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

/// A compact length: one more than the number.
fn put_length(out: &mut Vec<u8>, len: usize) {
    put_uvarint(out, u32::try_from(len).unwrap_or(u32::MAX).saturating_add(1));
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

impl BootstrapFile {
    /// Reads a file of either kind. A file without a footer is taken, as Kafka takes it.
    ///
    /// # Errors
    /// What is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, BootstrapError> {
        let mut out = Self::default();
        let mut scratch = Scratch::default();
        for item in batches(bytes) {
            let (header, batch) = item?;
            check_crc(&header, batch)?;
            let limit = usize::try_from(BOOTSTRAP_BYTES_MAX).unwrap_or(usize::MAX);
            let section = section(&header, batch, limit, &mut scratch)?;
            for record in Records::new(&section, header.records_count) {
                let record = record?;
                let value = record.value.ok_or(BootstrapError::Shape("it has no value"))?;
                if header.is_control() {
                    out.control(record.key.and_then(ControlType::read), Fields(value))?;
                } else {
                    out.metadata(Fields(value))?;
                }
            }
        }
        Ok(out)
    }

    fn control(
        &mut self,
        kind: Option<ControlType>,
        mut f: Fields<'_>,
    ) -> Result<(), BootstrapError> {
        match kind {
            Some(ControlType::KRaftVersion) => {
                f.short()?;
                self.kraft_version = Some(f.short()?);
            }
            Some(ControlType::KRaftVoters) => {
                f.short()?;
                for _ in 0..f.length()? {
                    self.voters.push(f.voter()?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn metadata(&mut self, mut f: Fields<'_>) -> Result<(), BootstrapError> {
        if f.uvarint()? != FRAME_VERSION {
            return Err(BootstrapError::Shape("its frame is of another version"));
        }
        let key = f.uvarint()?;
        if (key, f.uvarint()?) == (FEATURE_LEVEL_KEY, 0) {
            self.features.push((f.string()?, f.short()?));
        } else {
            self.skipped.push(key);
        }
        Ok(())
    }
}

/// Fields of a record, from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], BootstrapError> {
        let short = BootstrapError::Shape("it ends early");
        let (head, rest) = self.0.split_at_checked(n).ok_or(short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BootstrapError> {
        let bytes = self.take(N)?.first_chunk::<N>().copied();
        bytes.ok_or(BootstrapError::Shape("it ends early"))
    }

    fn short(&mut self) -> Result<i16, BootstrapError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn uvarint(&mut self) -> Result<u32, BootstrapError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BootstrapError::Shape("a number is too long"))
    }

    fn length(&mut self) -> Result<usize, BootstrapError> {
        let raw = self.uvarint()?;
        let len = raw.checked_sub(1).ok_or(BootstrapError::Shape("a length is null"))?;
        usize::try_from(len).map_err(|_| BootstrapError::Shape("a length is too large"))
    }

    fn string(&mut self) -> Result<String, BootstrapError> {
        let len = self.length()?;
        let bytes = self.take(len)?.to_vec();
        String::from_utf8(bytes).map_err(|_| BootstrapError::Shape("a text is not UTF-8"))
    }

    /// Steps over tagged fields.
    fn tags(&mut self) -> Result<(), BootstrapError> {
        for _ in 0..self.uvarint()? {
            self.uvarint()?;
            let len = self.uvarint()?;
            let len =
                usize::try_from(len).map_err(|_| BootstrapError::Shape("a tag is too long"))?;
            self.take(len)?;
        }
        Ok(())
    }

    /// A voter; of several endpoints the first.
    fn voter(&mut self) -> Result<DynamicVoter, BootstrapError> {
        let id = NodeId(i32::from_be_bytes(self.array()?));
        let directory = Uuid(self.array()?);
        let mut endpoint = None;
        for _ in 0..self.length()? {
            let (listener, host) = (self.string()?, self.string()?);
            let port = u16::from_be_bytes(self.array()?);
            self.tags()?;
            endpoint.get_or_insert((listener, host, port));
        }
        self.short()?;
        self.short()?;
        self.tags()?;
        self.tags()?;
        let none = BootstrapError::Shape("a voter has no endpoint");
        let (listener, host, port) = endpoint.ok_or(none)?;
        Ok(DynamicVoter { id, directory, listener, host, port })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A `bootstrap.checkpoint` that Kafka 4.3.1 wrote.
    const BOOTSTRAP: &str = "\
        000000000000000000000047000000000215b7554d002000000000000001a2069b242d000001a2069b242dff\
        ffffffffffffffffffffffffff000000012a0000000800000003160000000000000000000000000000000000\
        000001000000f1000000000203009fe4000000000005000001a2069b2463000001a2069b2463ffffffffffff\
        ffffffffffffffff000000063a000000012e010c00116d657461646174612e76657273696f6e001e00005a00\
        0002014e010c0021656c696769626c652e6c65616465722e7265706c696361732e76657273696f6e00010000\
        340000040128010c000e67726f75702e76657273696f6e00010000340000060128010c000e73686172652e76\
        657273696f6e0001000038000008012c010c001073747265616d732e76657273696f6e000100004000000a01\
        34010c00147472616e73616374696f6e2e76657273696f6e0002000000000000000000070000003f00000000\
        02a3c22f46002000000000000001a2069b2464000001a2069b2464ffffffffffffffffffffffffffff000000\
        011a00000008000000040600000000";
    /// A first checkpoint of a dynamic quorum that Kafka 4.3.1 wrote.
    const VOTERS: &str = "\
        00000000000000000000009a0000000002a17abd66002000000002000001a2069bd8a9000001a2069bd8a9ff\
        ffffffffffffffffffffffffff000000032a0000000800000003160000000001a2069bd88400001e00000208\
        000000050a000000010000820100000408000000066e00000200000001f0fb62d8acd643ab93654e6fc0152d\
        be020b434f4e54524f4c4c45520a6c6f63616c686f7374238500000000010000000000000000000000030000\
        003f0000000002fad5d111002000000000000001a2069bd8e1000001a2069bd8e1ffffffffffffffffffffff\
        ffffff000000011a00000008000000040600000000";

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits
            .chunks(2)
            .map(|p| u8::from_str_radix(std::str::from_utf8(p).unwrap(), 16).unwrap())
            .collect()
    }

    fn voter(id: i32) -> DynamicVoter {
        DynamicVoter {
            id: NodeId(id),
            directory: Uuid([7; 16]),
            listener: "CONTROLLER".to_owned(),
            host: "localhost".to_owned(),
            port: 9093,
        }
    }

    #[test]
    fn kafkas_files_are_read_and_written_again() {
        let (theirs, first) = (unhex(BOOTSTRAP), unhex(VOTERS));
        let read = BootstrapFile::decode(&theirs).unwrap();
        let names: Vec<_> = read.features.iter().map(|(n, l)| format!("{n}={l}")).collect();
        assert_eq!(
            names.join(" "),
            "metadata.version=30 eligible.leader.replicas.version=1 group.version=1 \
             share.version=1 streams.version=1 transaction.version=2"
        );
        // Kafka stamps each batch by itself.
        for (batch, (header, bytes)) in batches(&theirs).map(Result::unwrap).enumerate() {
            let ours = encode_bootstrap(&read.features, header.base_timestamp);
            let (_, ours) = batches(&ours).nth(batch).unwrap().unwrap();
            assert_eq!(ours, bytes, "batch {batch}");
        }
        let read = BootstrapFile::decode(&first).unwrap();
        assert_eq!((read.kraft_version, read.voters.len()), (Some(1), 1));
        assert_eq!(read.voters[0].listener, "CONTROLLER");
        let ours = encode_voters(1, &read.voters, 0);
        assert_eq!(ours.len(), first.len());
        let sections = |file: &[u8]| -> Vec<Vec<u8>> {
            batches(file).map(|b| b.unwrap().1[61..].to_vec()).collect()
        };
        // But for the time in the header record, after its length, attributes, deltas and key.
        let (mut a, mut b) = (sections(&ours), sections(&first));
        for section in [&mut a[0], &mut b[0]] {
            section[12..20].fill(0);
        }
        assert_eq!(a, b);
    }

    #[test]
    fn what_is_written_reads_back() {
        let features = vec![("metadata.version".to_owned(), 30), ("group.version".to_owned(), 1)];
        let read = BootstrapFile::decode(&encode_bootstrap(&features, 5)).unwrap();
        assert_eq!(read, BootstrapFile { features, ..BootstrapFile::default() });
        let voters = vec![voter(1), voter(300)];
        let read = BootstrapFile::decode(&encode_voters(1, &voters, 5)).unwrap();
        assert_eq!((read.kraft_version, read.voters), (Some(1), voters));
        let empty = encode_bootstrap(&[], 5);
        assert_eq!(BootstrapFile::decode(&empty), Ok(BootstrapFile::default()));
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..400, byte: u8, cut in 0usize..400) {
            let mut bytes = encode_voters(1, &[voter(1), voter(2)], 5);
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            bytes.truncate(cut);
            let _ = BootstrapFile::decode(&bytes);
            // Past the CRC too.
            let mut file = BootstrapFile::default();
            let _ = file.control(Some(ControlType::KRaftVoters), Fields(&bytes));
            let _ = file.metadata(Fields(&bytes));
        }
    }
}
