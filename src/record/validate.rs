//! What a leader checks of a batch that a client sends (`ProduceRequest.validateRecords`,
//! `UnifiedLog.analyzeAndValidateRecords`, `LogValidator`), and what it rewrites: the time stamp
//! type, the largest timestamp, the codec, offset deltas that do not count up from 0. Pure.
//!
//! A batch that needs no rewriting keeps the buffer it came in, and no record is copied. Where
//! Kafka fails with a code that says nothing (a block that does not inflate), the refusal here is
//! INVALID_RECORD; what would inflate beyond the bound is MESSAGE_TOO_LARGE, on which a Java
//! producer splits the batch.

use bytes::{Bytes, BytesMut};

use super::{
    batch::{self, BATCH_BODY_AT, BatchError, BatchHeader},
    builder::{BatchBuilder, recompress},
    compress::{Codec, Compression, Scratch, inflate},
    inflater::Inflater,
    records::{Feed, Records, SliceFeed, StreamFeed, shape},
    rules::{ProduceContext, RecordIssue, Refusal, Rules, TimestampType},
};
use crate::base::ErrorCode;

/// The timestamp of a record that has none.
const NO_TIMESTAMP: i64 = -1;
/// Records whose errors are told to the client; the batch is refused as a whole in any case.
const ISSUES_MAX: usize = 100;
/// The first version of Produce that may carry zstd (KIP-110).
const ZSTD_SINCE_VERSION: i16 = 7;

/// A batch that may be appended. Base offset and leader epoch are still the sender's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// The batch, whole and alone: the bytes that came, unless something had to be rewritten.
    pub batch: Bytes,
    /// Its header.
    pub header: BatchHeader,
    /// Largest timestamp of its records, or the append time; -1 if none has one.
    pub max_timestamp: i64,
    /// How many records it has. The last has the largest timestamp as far as the log's indexes
    /// are concerned.
    pub records_count: i32,
}

impl Validated {
    /// Takes a batch that this process built (`BatchBuilder`, a control batch) for validated: only
    /// its header and its length are looked at.
    ///
    /// # Errors
    /// If `batch` is not exactly one batch.
    pub fn built(batch: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::read(&batch)?;
        if header.size != batch.len() {
            return Err(BatchError::Truncated { have: batch.len(), need: header.size });
        }
        Ok(Self::of(batch, header))
    }

    fn of(batch: Bytes, header: BatchHeader) -> Self {
        let (max_timestamp, records_count) = (header.max_timestamp, header.records_count);
        Self { batch, header, max_timestamp, records_count }
    }
}

/// Checks the records field of one partition in a Produce request and makes of it the batch to
/// append.
///
/// # Errors
/// The refusal to answer with: INVALID_RECORD, CORRUPT_MESSAGE, MESSAGE_TOO_LARGE,
/// INVALID_TIMESTAMP, UNSUPPORTED_COMPRESSION_TYPE.
pub fn validate(
    records: &Bytes,
    rules: &Rules,
    context: ProduceContext,
    scratch: &mut Scratch,
) -> Result<Validated, Refusal> {
    let header = sole_batch(records)?;
    let codec = Codec::from_id(header.codec())?;
    check_batch(&header, codec, rules, context)?;
    batch::check_crc(&header, records)?;
    check_fields(&header)?;

    let bytes = records.get(BATCH_BODY_AT..).unwrap_or_default();
    let how = rules.compression.filter(|c| c.codec() != codec);
    let mut walk = Walk::new(&header, rules, context);
    if codec == Codec::None {
        walk.run(&mut SliceFeed::new(bytes))?;
        if how.is_none() && walk.in_order {
            return Ok(restamped(records, header, rules, context, walk.max_timestamp));
        }
        let target = how.unwrap_or_default();
        return rewritten(bytes, &walk, target, rules, context);
    }
    if how.is_none() {
        let inflater = Inflater::open(codec, bytes, rules.inflated_bytes_max, scratch)?;
        walk.run(&mut StreamFeed::new(inflater))?;
        if walk.in_order {
            return Ok(restamped(records, header, rules, context, walk.max_timestamp));
        }
    }
    let section = inflate(codec, bytes, rules.inflated_bytes_max, scratch)?;
    if how.is_some() {
        walk.run(&mut SliceFeed::new(&section))?;
    }
    let target = how.or(rules.compression).unwrap_or_else(|| Compression::of(codec));
    rewritten(&section, &walk, target, rules, context)
}

/// The header of the one batch that `records` is.
fn sole_batch(records: &[u8]) -> Result<BatchHeader, Refusal> {
    if records.is_empty() {
        return Err(Refusal::invalid("there is no record batch; exactly one is expected"));
    }
    let header = BatchHeader::read(records)?;
    match records.len().checked_sub(header.size) {
        Some(0) => Ok(header),
        None => Err(BatchError::Truncated { have: records.len(), need: header.size }.into()),
        Some(more) => Err(Refusal::invalid(format!(
            "{more} bytes follow the first record batch; exactly one batch is expected"
        ))),
    }
}

/// What can be told before the CRC.
fn check_batch(
    header: &BatchHeader,
    codec: Codec,
    rules: &Rules,
    context: ProduceContext,
) -> Result<(), Refusal> {
    if codec == Codec::Zstd && context.api_version < ZSTD_SINCE_VERSION {
        return Err(Refusal::new(
            ErrorCode::UnsupportedCompressionType,
            format!("zstd needs Produce version 7, the request has {}", context.api_version),
        ));
    }
    if header.base_offset != 0 {
        return Err(Refusal::invalid(format!(
            "the base offset of a produced batch must be 0, it is {}",
            header.base_offset
        )));
    }
    check_size(header.size, rules)
}

fn check_size(size: usize, rules: &Rules) -> Result<(), Refusal> {
    let max = rules.batch_bytes_max;
    if size <= max {
        return Ok(());
    }
    let message = format!("the record batch has {size} bytes, max.message.bytes is {max}");
    Err(Refusal::new(ErrorCode::MessageTooLarge, message))
}

/// What the header says about its records and its producer.
fn check_fields(h: &BatchHeader) -> Result<(), Refusal> {
    let from_offsets = i64::from(h.last_offset_delta).saturating_add(1);
    if h.records_count <= 0 || from_offsets != i64::from(h.records_count) {
        return Err(Refusal::invalid(format!(
            "the batch claims {} records and a last offset delta of {}",
            h.records_count, h.last_offset_delta
        )));
    }
    if h.is_control() {
        return Err(Refusal::invalid("clients may not write control records"));
    }
    if h.has_producer_id() && (h.base_sequence < 0 || h.producer_epoch < 0) {
        return Err(Refusal::invalid(format!(
            "producer {} needs an epoch and a sequence, the batch has {} and {}",
            h.producer_id, h.producer_epoch, h.base_sequence
        )));
    }
    if h.is_transactional() && !h.has_producer_id() {
        return Err(Refusal::invalid("a transactional batch needs a producer id"));
    }
    Ok(())
}

/// The pass over the records.
struct Walk<'a> {
    header: &'a BatchHeader,
    rules: &'a Rules,
    now_ms: i64,
    /// Largest timestamp seen.
    max_timestamp: i64,
    /// Whether offset deltas count 0, 1, 2, … Kafka rewrites the batches of clients that do not.
    in_order: bool,
    issues: Vec<RecordIssue>,
    issues_count: usize,
    bad_timestamp: bool,
}

impl<'a> Walk<'a> {
    fn new(header: &'a BatchHeader, rules: &'a Rules, context: ProduceContext) -> Self {
        Self {
            header,
            rules,
            now_ms: context.now_ms,
            max_timestamp: NO_TIMESTAMP,
            in_order: true,
            issues: Vec::new(),
            issues_count: 0,
            bad_timestamp: false,
        }
    }

    fn run(&mut self, feed: &mut impl Feed) -> Result<(), Refusal> {
        let (base, stamped) = (self.header.base_timestamp, self.header.is_log_append_time());
        for index in 0..self.header.records_count {
            let record = shape(feed)?;
            let timestamp = if stamped {
                self.header.max_timestamp
            } else {
                base.wrapping_add(record.timestamp_delta)
            };
            self.max_timestamp = self.max_timestamp.max(timestamp);
            self.in_order &= record.offset_delta == index;
            if self.rules.compacted && !record.has_key() {
                self.issue(index, || "a compacted topic takes no record without a key".into());
            } else if !self.timestamp_fits(timestamp, stamped) {
                self.bad_timestamp = true;
                self.timestamp_issue(index, timestamp);
            }
        }
        if !feed.is_at_end()? {
            return Err(Refusal::invalid("there are more records than the batch claims"));
        }
        self.verdict()
    }

    #[inline]
    fn timestamp_fits(&self, timestamp: i64, stamped: bool) -> bool {
        if self.rules.timestamp_type == TimestampType::LogAppendTime || timestamp == NO_TIMESTAMP {
            return !stamped;
        }
        self.now_ms.saturating_sub(timestamp) <= self.rules.timestamp_before_max_ms
            && timestamp.saturating_sub(self.now_ms) <= self.rules.timestamp_after_max_ms
    }

    #[cold]
    fn timestamp_issue(&mut self, index: i32, timestamp: i64) {
        let from = self.now_ms.saturating_sub(self.rules.timestamp_before_max_ms);
        let to = self.now_ms.saturating_add(self.rules.timestamp_after_max_ms);
        let by_type =
            self.rules.timestamp_type == TimestampType::LogAppendTime || timestamp == NO_TIMESTAMP;
        self.issue(index, || {
            if by_type {
                "a producer may not set the timestamp type LogAppendTime".into()
            } else {
                format!("timestamp {timestamp} is not within [{from}, {to}]")
            }
        });
    }

    #[cold]
    fn issue(&mut self, batch_index: i32, message: impl FnOnce() -> String) {
        self.issues_count = self.issues_count.saturating_add(1);
        if self.issues.len() < ISSUES_MAX {
            self.issues.push(RecordIssue { batch_index, message: message() });
        }
    }

    fn verdict(&mut self) -> Result<(), Refusal> {
        if self.issues.is_empty() {
            return Ok(());
        }
        let n = self.issues_count;
        let (code, why) = if self.bad_timestamp {
            (ErrorCode::InvalidTimestamp, "an invalid timestamp")
        } else {
            (ErrorCode::InvalidRecord, "no key")
        };
        let message = format!("the batch is refused: {n} of its records have {why}");
        Err(Refusal { code, message, issues: std::mem::take(&mut self.issues) })
    }
}

/// The batch with the timestamp type and the largest timestamp that the topic wants. Where they
/// are right already, and mostly they are, the bytes are not touched.
fn restamped(
    records: &Bytes,
    header: BatchHeader,
    rules: &Rules,
    context: ProduceContext,
    max_timestamp: i64,
) -> Validated {
    let by_broker = rules.timestamp_type == TimestampType::LogAppendTime;
    if !by_broker && !header.is_log_append_time() && header.max_timestamp == max_timestamp {
        return Validated::of(records.clone(), header);
    }
    let mut copy = BytesMut::from(&records[..]);
    if by_broker {
        batch::stamp_append_time(&mut copy, context.now_ms);
    } else {
        batch::stamp_max_timestamp(&mut copy, max_timestamp);
    }
    let header = BatchHeader::read(&copy).unwrap_or(header);
    Validated::of(copy.freeze(), header)
}

/// A new batch of the walked records: with another codec, or with offset deltas put right.
fn rewritten(
    section: &[u8],
    walk: &Walk<'_>,
    how: Compression,
    rules: &Rules,
    context: ProduceContext,
) -> Result<Validated, Refusal> {
    let by_broker = rules.timestamp_type == TimestampType::LogAppendTime;
    let mut header = *walk.header;
    header.attributes &= !batch::LOG_APPEND_TIME;
    header.max_timestamp = walk.max_timestamp;
    if by_broker {
        header.attributes |= batch::LOG_APPEND_TIME;
        header.max_timestamp = context.now_ms;
    }
    let batch = if walk.in_order {
        recompress(&header, how, section)
    } else {
        renumbered(&header, how, section)?
    };
    check_size(batch.len(), rules)?;
    let header = BatchHeader::read(&batch)?;
    Ok(Validated::of(batch, header))
}

/// The records of `section` with offset deltas 0, 1, 2, …
fn renumbered(h: &BatchHeader, how: Compression, section: &[u8]) -> Result<Bytes, Refusal> {
    let mut builder = BatchBuilder::new(how);
    if h.has_producer_id() {
        builder = builder.producer(h.producer_id, h.producer_epoch, h.base_sequence);
    }
    if h.is_transactional() {
        builder = builder.transactional();
    }
    if h.is_log_append_time() {
        builder = builder.append_time(h.max_timestamp);
    }
    let mut headers = Vec::new();
    for record in Records::new(section, h.records_count) {
        let r = record?;
        headers.clear();
        headers.extend(r.headers());
        let timestamp = h.base_timestamp.wrapping_add(r.timestamp_delta);
        builder
            .append(timestamp, r.key, r.value, &headers)
            .map_err(|e| Refusal::new(ErrorCode::MessageTooLarge, e.to_string()))?;
    }
    Ok(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const CONTEXT: ProduceContext = ProduceContext { now_ms: NOW, api_version: 12 };
    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    fn check(batch: &Bytes, rules: &Rules) -> Result<Validated, Refusal> {
        validate(batch, rules, CONTEXT, &mut Scratch::default())
    }

    fn code(batch: &[u8], rules: &Rules) -> ErrorCode {
        check(&Bytes::copy_from_slice(batch), rules).map_or_else(|r| r.code, |_| ErrorCode::None)
    }

    fn batch_of(codec: Codec, times: &[i64]) -> Bytes {
        let mut b = BatchBuilder::new(Compression::of(codec));
        for t in times {
            b.append(*t, Some(b"key"), Some(&[b'v'; 50]), &[(b"h", Some(b"x"))]).unwrap();
        }
        b.finish()
    }

    /// The batch with `edit` applied to it and a CRC that fits.
    fn edited(batch: &Bytes, edit: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = batch.to_vec();
        edit(&mut bytes);
        batch::seal(&mut bytes);
        bytes
    }

    #[test]
    fn a_good_batch_keeps_its_buffer() {
        for codec in CODECS {
            let batch = batch_of(codec, &[NOW, NOW - 5]);
            let got = check(&batch, &Rules::default()).unwrap();
            assert_eq!(got.batch.as_ptr(), batch.as_ptr(), "{codec:?}");
            assert_eq!((got.max_timestamp, got.records_count), (NOW, 2));
        }
    }

    #[test]
    fn header_lies_are_refused() {
        use ErrorCode as E;
        let rules = Rules::default();
        for codec in CODECS {
            let good = batch_of(codec, &[NOW, NOW, NOW]);
            let with = |at: usize, bytes: &[u8]| {
                let edit = |b: &mut Vec<u8>| b[at..at + bytes.len()].copy_from_slice(bytes);
                code(&edited(&good, edit), &rules)
            };
            assert_eq!(with(57, &2i32.to_be_bytes()), E::InvalidRecord, "count too small");
            assert_eq!(with(57, &0i32.to_be_bytes()), E::InvalidRecord, "no records");
            assert_eq!(with(57, &i32::MIN.to_be_bytes()), E::InvalidRecord, "negative count");
            assert_eq!(with(23, &i32::MAX.to_be_bytes()), E::InvalidRecord, "last offset delta");
            for both in [2i32, 4, i32::MAX] {
                let bytes = edited(&good, |b| {
                    b[57..61].copy_from_slice(&both.to_be_bytes());
                    b[23..27].copy_from_slice(&(both - 1).to_be_bytes());
                });
                assert_eq!(code(&bytes, &rules), E::InvalidRecord, "{codec:?} {both} records");
            }
            assert_eq!(with(0, &1i64.to_be_bytes()), E::InvalidRecord, "base offset");
            assert_eq!(with(16, &[1]), E::InvalidRecord, "magic 1");
            assert_eq!(with(22, &[codec.id() | 0x20]), E::InvalidRecord, "control");
            assert_eq!(with(22, &[codec.id() | 0x10]), E::InvalidRecord, "txn without producer");
            assert_eq!(with(22, &[7]), E::UnsupportedCompressionType, "codec 7");
            assert_eq!(with(43, &9i64.to_be_bytes()), E::InvalidRecord, "no epoch, no sequence");
            assert_eq!(with(8, &40i32.to_be_bytes()), E::CorruptMessage, "length too small");
            assert_eq!(with(8, &i32::MAX.to_be_bytes()), E::InvalidRecord, "length too big");
            let mut flipped = good.to_vec();
            *flipped.last_mut().unwrap() ^= 1;
            assert_eq!(code(&flipped, &rules), E::CorruptMessage, "crc");
            assert_eq!(code(&[good.clone(), good.clone()].concat(), &rules), E::InvalidRecord);
            let tight = Rules { batch_bytes_max: good.len() - 1, ..Rules::default() };
            assert_eq!(code(&good, &tight), E::MessageTooLarge);
        }
        assert_eq!(code(b"", &rules), E::InvalidRecord);
        let zstd = batch_of(Codec::Zstd, &[NOW]);
        let old = ProduceContext { api_version: 6, ..CONTEXT };
        let got = validate(&zstd, &rules, old, &mut Scratch::default()).unwrap_err();
        assert_eq!(got.code, E::UnsupportedCompressionType);
    }

    #[test]
    fn records_at_fault_are_named() {
        for codec in CODECS {
            let batch = batch_of(codec, &[NOW, NOW + 3_600_001, NOW, -1]);
            let got = check(&batch, &Rules::default()).unwrap_err();
            assert_eq!(got.code, ErrorCode::InvalidTimestamp);
            assert_eq!(got.issues.iter().map(|i| i.batch_index).collect::<Vec<_>>(), [1]);
            let near = Rules { timestamp_before_max_ms: 10, ..Rules::default() };
            assert_eq!(code(&batch_of(codec, &[NOW - 11]), &near), ErrorCode::InvalidTimestamp);
            assert_eq!(code(&batch_of(codec, &[i64::MIN]), &near), ErrorCode::InvalidTimestamp);

            let mut b = BatchBuilder::new(Compression::of(codec));
            b.append(NOW, Some(b""), None, &[]).unwrap();
            for _ in 0..500 {
                b.append(NOW, None, Some(b"v"), &[]).unwrap();
            }
            let compacted = Rules { compacted: true, ..Rules::default() };
            let got = check(&b.finish(), &compacted).unwrap_err();
            assert_eq!((got.code, got.issues.len()), (ErrorCode::InvalidRecord, ISSUES_MAX));
            assert_eq!(got.issues[0].batch_index, 1);
            assert!(got.message.contains("500"), "{}", got.message);
        }
    }

    #[test]
    fn append_time_is_stamped_and_its_flag_refused() {
        let rules = Rules { timestamp_type: TimestampType::LogAppendTime, ..Rules::default() };
        for codec in CODECS {
            let batch = batch_of(codec, &[5, NOW * 2]);
            let got = check(&batch, &rules).unwrap();
            batch::check_crc(&got.header, &got.batch).unwrap();
            assert!(got.header.is_log_append_time());
            assert_eq!((got.max_timestamp, got.header.base_timestamp), (NOW, 5));
            assert_eq!(code(&got.batch, &rules), ErrorCode::InvalidTimestamp);
            // Under CreateTime the flag goes away, as in Kafka.
            let plain = check(&got.batch, &Rules::default());
            assert_eq!(plain.unwrap().header.max_timestamp, NOW);
        }
    }

    #[test]
    fn a_wrong_largest_timestamp_is_put_right() {
        for codec in CODECS {
            let good = batch_of(codec, &[NOW - 7, NOW - 9]);
            let lie = edited(&good, |b| b[35..43].copy_from_slice(&[0; 8]));
            assert_eq!(check(&lie.into(), &Rules::default()).unwrap().batch, good);
        }
    }

    #[test]
    fn compression_type_of_the_topic_wins() {
        for from in CODECS {
            for to in CODECS {
                let rules = Rules { compression: Some(Compression::of(to)), ..Rules::default() };
                let batch = batch_of(from, &[NOW; 40]);
                let got = check(&batch, &rules).unwrap();
                assert_eq!(got.header.codec(), to.id());
                batch::check_crc(&got.header, &got.batch).unwrap();
                assert_eq!(got.batch.as_ptr() == batch.as_ptr(), from == to);
                let back = Rules { compression: Some(Compression::None), ..Rules::default() };
                assert_eq!(
                    check(&got.batch, &back).unwrap().batch,
                    batch_of(Codec::None, &[NOW; 40])
                );
            }
        }
        let rules = Rules {
            compression: Some(Compression::None),
            batch_bytes_max: 1000,
            ..Rules::default()
        };
        assert_eq!(code(&batch_of(Codec::Zstd, &[NOW; 40]), &rules), ErrorCode::MessageTooLarge);
    }

    #[test]
    fn offset_deltas_are_made_to_count() {
        for codec in CODECS {
            let good = batch_of(Codec::None, &[NOW, NOW]);
            // The offset delta of the second record stands after length, attributes and timestamp.
            let second = 61 + (good.len() - 61) / 2;
            let odd = edited(&good, |b| b[second + 3] = 0);
            let header = BatchHeader::read(&odd).unwrap();
            let odd = recompress(&header, Compression::of(codec), &odd[61..]);
            let got = check(&odd, &Rules::default()).unwrap();
            assert_eq!(got.batch, batch_of(codec, &[NOW, NOW]), "{codec:?}");
        }
    }

    #[test]
    fn bombs_are_too_large_and_rubbish_is_invalid() {
        let rules = Rules { inflated_bytes_max: 100_000, ..Rules::default() };
        for codec in CODECS.into_iter().skip(1) {
            let mut b = BatchBuilder::new(Compression::of(codec));
            b.append(NOW, None, Some(&vec![0; 200_000]), &[]).unwrap();
            assert_eq!(code(&b.finish(), &rules), ErrorCode::MessageTooLarge, "{codec:?}");
            let mut rubbish = edited(&batch_of(Codec::None, &[NOW]), |b| b[22] = codec.id());
            assert_eq!(code(&rubbish, &rules), ErrorCode::InvalidRecord, "{codec:?}");
            rubbish.truncate(61);
            rubbish[8..12].copy_from_slice(&49i32.to_be_bytes());
            batch::seal(&mut rubbish);
            assert_eq!(code(&rubbish, &rules), ErrorCode::InvalidRecord, "{codec:?} empty");
        }
    }
}
