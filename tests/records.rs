//! Record batches against the bytes of Apache Kafka 4.3.1 (`tests/golden/records`, written by its
//! `MemoryRecordsBuilder`) and against the kafka-protocol crate, both ways.

use std::fs;

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    indexmap::IndexMap,
    protocol::StrBytes,
    records::{self as theirs, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions},
};
use proptest::prelude::*;
use vltava::record::{
    BatchBuilder, BatchHeader, Codec, Compression, EndTxnMarker, ProduceContext, Records, Rules,
    Scratch, batch::check_crc, records::section, validate,
};

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const CONTEXT: ProduceContext = ProduceContext { now_ms: 5000, api_version: 12 };

fn golden(name: &str) -> Bytes {
    fs::read(format!("tests/golden/records/{name}.bin")).unwrap().into()
}

/// Timestamp, key, value, headers.
type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

fn read(batch: &[u8]) -> Vec<Plain> {
    let header = BatchHeader::read(batch).unwrap();
    check_crc(&header, batch).unwrap();
    let inner = section(&header, batch, 1 << 24, &mut Scratch::default()).unwrap();
    let own = |b: Option<&[u8]>| b.map(<[u8]>::to_vec);
    let records = Records::new(&inner, header.records_count).enumerate().map(|(i, r)| {
        let r = r.unwrap();
        assert_eq!(usize::try_from(r.offset_delta).unwrap(), i);
        let headers = r.headers().map(|(k, v)| (k.to_vec(), own(v))).collect();
        (header.base_timestamp + r.timestamp_delta, own(r.key), own(r.value), headers)
    });
    records.collect()
}

fn build(codec: Codec, records: &[Plain]) -> Bytes {
    let mut b =
        BatchBuilder::new(Compression::of(codec)).producer(5, 1, i32::MAX - 1).transactional();
    for (at, key, value, headers) in records {
        let headers: Vec<_> = headers.iter().map(|(k, v)| (&k[..], v.as_deref())).collect();
        b.append(*at, key.as_deref(), value.as_deref(), &headers).unwrap();
    }
    b.finish()
}

fn what_kafka_wrote(last_len: usize) -> Vec<Plain> {
    let pattern = (0..last_len).map(|i| (i / 300) as u8).collect();
    vec![
        (
            1000,
            Some(b"k0".to_vec()),
            Some(b"v0".to_vec()),
            vec![(b"h".to_vec(), None), ("é".into(), Some(b"x".to_vec()))],
        ),
        (900, None, None, vec![]),
        (2000, Some(vec![]), Some(pattern), vec![]),
    ]
}

#[test]
fn batches_of_kafka_are_read_and_accepted() {
    for codec in CODECS {
        let batch = golden(codec.name());
        let want = what_kafka_wrote(if codec == Codec::None { 10 } else { 70_000 });
        assert!(read(&batch) == want, "{codec:?}");
        let header = BatchHeader::read(&batch).unwrap();
        assert_eq!(header.codec(), codec.id());
        assert_eq!((header.producer_id, header.producer_epoch), (5, 1));
        assert_eq!((header.base_sequence, header.last_sequence()), (i32::MAX - 1, 0));
        let got = validate(&batch, &Rules::default(), CONTEXT, &mut Scratch::default()).unwrap();
        assert_eq!((got.batch, got.max_timestamp), (batch, 2000));
    }
}

#[test]
fn what_is_built_has_kafkas_bytes() {
    assert_eq!(build(Codec::None, &what_kafka_wrote(10)), golden("none"));
    let marker = EndTxnMarker { commit: true, coordinator_epoch: 77 };
    assert_eq!(marker.batch(4000, 5, 1234), golden("commit"));
}

fn codec_of_theirs(codec: Codec) -> theirs::Compression {
    match codec {
        Codec::None => theirs::Compression::None,
        Codec::Gzip => theirs::Compression::Gzip,
        Codec::Snappy => theirs::Compression::Snappy,
        Codec::Lz4 => theirs::Compression::Lz4,
        Codec::Zstd => theirs::Compression::Zstd,
    }
}

fn record_of_theirs(i: usize, record: &Plain) -> theirs::Record {
    let (timestamp, key, value, headers) = record.clone();
    let header = |(k, v): (Vec<u8>, Option<Vec<u8>>)| {
        (StrBytes::from_string(String::from_utf8(k).unwrap()), v.map(Bytes::from))
    };
    theirs::Record {
        transactional: true,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: 5,
        producer_epoch: 1,
        timestamp_type: theirs::TimestampType::Creation,
        offset: i64::try_from(i).unwrap(),
        sequence: (i32::MAX - 1).wrapping_add(i32::try_from(i).unwrap()) & i32::MAX,
        timestamp,
        key: key.map(Bytes::from),
        value: value.map(Bytes::from),
        headers: headers.into_iter().map(header).collect::<IndexMap<_, _>>(),
    }
}

fn plain_record() -> impl Strategy<Value = Plain> {
    let bytes = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
    // Header keys are all different: the other side keeps them in a map.
    let headers = proptest::collection::btree_map("[a-zé]{0,5}", bytes(), 0..3);
    let headers = headers.prop_map(|m| m.into_iter().map(|(k, v)| (k.into(), v)).collect());
    (0i64..5000, bytes(), bytes(), headers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn both_sides_agree(records in proptest::collection::vec(plain_record(), 1..20), n in 0..5usize) {
        let codec = CODECS[n];
        let mut ours = build(codec, &records);
        prop_assert!(read(&ours) == records);
        let their: Vec<_> = records.iter().enumerate().map(|(i, r)| record_of_theirs(i, r)).collect();
        let decoded = RecordBatchDecoder::decode(&mut ours).unwrap().records;
        for (got, want) in decoded.iter().zip(&their) {
            let want_key = (want.timestamp, &want.key, &want.value, &want.headers, want.offset);
            prop_assert_eq!((got.timestamp, &got.key, &got.value, &got.headers, got.offset), want_key);
        }
        prop_assert_eq!(decoded.len(), their.len());
        // One sequence run a batch: theirs splits where the sequence wraps.
        let run: Vec<_> = their.into_iter().map(|r| theirs::Record { sequence: 7, ..r }).collect();
        let options = RecordEncodeOptions { version: 2, compression: codec_of_theirs(codec) };
        let mut out = BytesMut::new();
        RecordBatchEncoder::encode(&mut out, &run[..1], &options).unwrap();
        prop_assert!(read(&out) == records[..1]);
    }

    #[test]
    fn mutated_batches_never_panic(
        n in 0..5usize,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        sealed in any::<bool>(),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut bytes = golden(CODECS[n].name()).to_vec();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if sealed && bytes.len() > 21 {
            let crc = vltava::record::batch::crc32c(&bytes[21..]).to_be_bytes();
            bytes[17..21].copy_from_slice(&crc);
        }
        let rules = Rules { inflated_bytes_max: 1 << 20, ..Rules::default() };
        let mut scratch = Scratch::default();
        if let Ok(got) = validate(&bytes.into(), &rules, CONTEXT, &mut scratch) {
            let again = validate(&got.batch, &rules, CONTEXT, &mut scratch);
            prop_assert_eq!(again, Ok(got));
        }
    }
}
