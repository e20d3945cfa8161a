//! Record batches that lie, by Produce v7: each must get its Kafka error code.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::{Verdicts, seeds::TOPIC};

const CORRUPT_MESSAGE: i16 = 2;
const MESSAGE_TOO_LARGE: i16 = 10;
const INVALID_RECORD: i16 = 87;

const GZIP: i16 = 1;
const LZ4: i16 = 3;
const ZSTD: i16 = 4;

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag > 127 {
        out.push((zigzag as u8 & 127) | 128);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// One record whose value claims `claimed` bytes and has `value`.
fn record(delta: i64, claimed: usize, value: &[u8]) -> Vec<u8> {
    let mut body = vec![0u8];
    varint(&mut body, 0);
    varint(&mut body, delta);
    varint(&mut body, -1);
    varint(&mut body, claimed as i64);
    body.extend_from_slice(value);
    varint(&mut body, 0);
    let mut out = Vec::new();
    varint(&mut out, body.len() as i64);
    out.extend_from_slice(&body);
    out
}

/// A batch of `count` records (so it says) with these attributes; the CRC is right.
fn batch(attributes: i16, last_delta: i32, count: i32, records: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&attributes.to_be_bytes());
    body.extend_from_slice(&last_delta.to_be_bytes());
    body.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
    body.extend_from_slice(&1_700_000_000_000i64.to_be_bytes());
    body.extend_from_slice(&(-1i64).to_be_bytes());
    body.extend_from_slice(&(-1i16).to_be_bytes());
    body.extend_from_slice(&(-1i32).to_be_bytes());
    body.extend_from_slice(&count.to_be_bytes());
    body.extend_from_slice(records);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &body) as u32;
    let mut out = 0i64.to_be_bytes().to_vec();
    out.extend_from_slice(&(body.len() as i32 + 9).to_be_bytes());
    out.extend_from_slice(&(-1i32).to_be_bytes());
    out.push(2);
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(&body);
    out
}

/// A valid batch of two records.
pub(crate) fn good() -> Vec<u8> {
    let records = [record(0, 5, b"first"), record(1, 6, b"second")].concat();
    batch(0, 1, 2, &records)
}

fn zeros(bytes: usize) -> impl std::io::Read {
    std::io::repeat(0).take(bytes as u64)
}

/// Streams of a few hundred kilobytes that inflate to `bytes`.
fn bombs(bytes: usize) -> anyhow::Result<Vec<(&'static str, Vec<u8>)>> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut zeros(bytes), &mut gzip)?;
    let mut lz4 = lz4_flex::frame::FrameEncoder::new(Vec::new());
    std::io::copy(&mut zeros(bytes / 8), &mut lz4)?;
    let zstd = zstd::encode_all(zeros(bytes), 1)?;
    Ok(vec![
        ("gzip bomb", batch(GZIP, 0, 1, &gzip.finish()?)),
        ("lz4 bomb", batch(LZ4, 0, 1, &lz4.finish()?)),
        ("zstd bomb", batch(ZSTD, 0, 1, &zstd)),
    ])
}

fn frame(records: &[u8]) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, value: &str| {
        out.extend_from_slice(&(value.len() as i16).to_be_bytes());
        out.extend_from_slice(value.as_bytes());
    };
    let mut out = vec![0u8; 4];
    out.extend_from_slice(&[0, 0, 0, 7, 0, 0, 0, 1]);
    text(&mut out, "malformed");
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out.extend_from_slice(&5000i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    text(&mut out, TOPIC);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    out.extend_from_slice(&(records.len() as i32).to_be_bytes());
    out.extend_from_slice(records);
    let length = (out.len() - 4) as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// The error code of the only partition; `None` when the node closed the connection.
fn produce(bootstrap: &str, records: &[u8]) -> anyhow::Result<Option<i16>> {
    let mut socket = TcpStream::connect(bootstrap)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut answer = [0u8; 4];
    if socket.write_all(&frame(records)).is_err() || socket.read_exact(&mut answer).is_err() {
        return Ok(None);
    }
    let mut body = vec![0u8; (u32::from_be_bytes(answer) as usize).min(4096)];
    socket.read_exact(&mut body)?;
    let at = 4 + 4 + 2 + TOPIC.len() + 4 + 4;
    Ok(Some(i16::from_be_bytes([body[at], body[at + 1]])))
}

/// Tries each batch; the topic is made by the first.
pub(crate) fn run(bootstrap: &str, verdicts: &mut Verdicts) -> anyhow::Result<()> {
    create(bootstrap)?;
    let mut crc = good();
    crc[17] ^= 1;
    let mut magic = good();
    magic[16] = 9;
    let mut longer = good();
    longer[11] ^= 64;
    let one = record(0, 5, b"first");
    let mut cases: Vec<(&str, Vec<u8>, &[i16])> = vec![
        ("a valid batch", good(), &[0]),
        ("wrong CRC", crc, &[CORRUPT_MESSAGE]),
        ("unknown magic", magic, &[CORRUPT_MESSAGE, INVALID_RECORD, 43, 76]),
        ("wrong batch length", longer, &[CORRUPT_MESSAGE, INVALID_RECORD]),
        (
            "more records claimed than there",
            batch(0, 4, 5, &one),
            &[INVALID_RECORD, CORRUPT_MESSAGE],
        ),
        ("negative record count", batch(0, 0, -5, &one), &[INVALID_RECORD, CORRUPT_MESSAGE]),
        (
            "2^31-1 records claimed",
            batch(0, i32::MAX - 1, i32::MAX, &one),
            &[INVALID_RECORD, CORRUPT_MESSAGE],
        ),
        (
            "a value longer than its record",
            batch(0, 0, 1, &record(0, 1 << 30, b"x")),
            &[INVALID_RECORD, CORRUPT_MESSAGE],
        ),
        ("no bytes at all", Vec::new(), &[INVALID_RECORD, CORRUPT_MESSAGE, MESSAGE_TOO_LARGE]),
        (
            "compressed bytes that are none",
            batch(GZIP, 0, 1, b"not gzip"),
            &[INVALID_RECORD, CORRUPT_MESSAGE],
        ),
        (
            "over max.message.bytes",
            batch(0, 0, 1, &record(0, 2 << 20, &vec![7; 2 << 20])),
            &[MESSAGE_TOO_LARGE],
        ),
    ];
    for (name, bytes) in bombs(512 << 20)? {
        cases.push((name, bytes, &[MESSAGE_TOO_LARGE, INVALID_RECORD, CORRUPT_MESSAGE]));
    }
    for (name, bytes, allowed) in cases {
        let code = produce(bootstrap, &bytes)?;
        let ok = code.is_some_and(|c| allowed.contains(&c));
        verdicts.say(name, ok, &format!("error code {code:?}, one of {allowed:?} wanted"));
    }
    Ok(())
}

fn create(bootstrap: &str) -> anyhow::Result<()> {
    use rdkafka::{ClientConfig, producer::BaseProducer, producer::Producer as _};
    let client: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("allow.auto.create.topics", "true")
        .create()?;
    for _ in 0..100 {
        let metadata = client.client().fetch_metadata(Some(TOPIC), Duration::from_secs(10))?;
        if metadata.topics().first().is_some_and(|t| t.error().is_none()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    anyhow::bail!("topic {TOPIC} could not be made")
}
