//! Produce v7 requests of one record each over one connection, closed loop or paced: almost no cost
//! on this side, so the tail that is seen is the broker's and the kernel's.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{bail, ensure};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    bootstrap: String,
    #[arg(long)]
    topic: String,
    #[arg(long, default_value_t = 1024)]
    size: usize,
    #[arg(long, default_value_t = 20_000)]
    count: usize,
    /// Requests a second, from the intended time; 0: closed loop.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    #[arg(long, default_value_t = -1)]
    acks: i16,
}

/// Requests before the measured ones.
const WARM_UP: usize = 200;

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while zigzag > 127 {
        out.push((zigzag as u8 & 127) | 128);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

/// A record batch (magic 2) of one record of `size` bytes of text.
fn batch(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    let mut record = vec![0u8];
    varint(&mut record, 0);
    varint(&mut record, 0);
    varint(&mut record, -1);
    varint(&mut record, size as i64);
    for _ in 0..size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        record.push(b' ' + ((state >> 33) % 64) as u8);
    }
    varint(&mut record, 0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let mut body = Vec::new();
    body.extend_from_slice(&0i16.to_be_bytes());
    body.extend_from_slice(&0i32.to_be_bytes());
    body.extend_from_slice(&now.to_be_bytes());
    body.extend_from_slice(&now.to_be_bytes());
    body.extend_from_slice(&(-1i64).to_be_bytes());
    body.extend_from_slice(&(-1i16).to_be_bytes());
    body.extend_from_slice(&(-1i32).to_be_bytes());
    body.extend_from_slice(&1i32.to_be_bytes());
    varint(&mut body, record.len() as i64);
    body.extend_from_slice(&record);
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &body) as u32;
    let mut out = Vec::new();
    out.extend_from_slice(&0i64.to_be_bytes());
    out.extend_from_slice(&(body.len() as i32 + 9).to_be_bytes());
    out.extend_from_slice(&(-1i32).to_be_bytes());
    out.push(2);
    out.extend_from_slice(&crc.to_be_bytes());
    out.extend_from_slice(&body);
    out
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend_from_slice(&(value.len() as i16).to_be_bytes());
    out.extend_from_slice(value.as_bytes());
}

/// The whole frame; the correlation id stands at bytes 8 to 11.
fn request(args: &Args) -> Vec<u8> {
    let mut out = vec![0u8; 4];
    out.extend_from_slice(&0i16.to_be_bytes());
    out.extend_from_slice(&7i16.to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    text(&mut out, "bench");
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out.extend_from_slice(&args.acks.to_be_bytes());
    out.extend_from_slice(&30_000i32.to_be_bytes());
    out.extend_from_slice(&1i32.to_be_bytes());
    text(&mut out, &args.topic);
    out.extend_from_slice(&1i32.to_be_bytes());
    out.extend_from_slice(&0i32.to_be_bytes());
    let batch = batch(args.size);
    out.extend_from_slice(&(batch.len() as i32).to_be_bytes());
    out.extend_from_slice(&batch);
    let length = (out.len() - 4) as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

fn exchange(socket: &mut TcpStream, frame: &[u8], answer: &mut Vec<u8>) -> anyhow::Result<i16> {
    socket.write_all(frame)?;
    let mut length = [0u8; 4];
    socket.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    ensure!(length < 4096, "a response of {length} bytes");
    answer.resize(length, 0);
    socket.read_exact(answer)?;
    // correlation id, one topic: its name, one partition: its index, then the error code
    let name = u16::from_be_bytes([answer[8], answer[9]]) as usize;
    let at = 4 + 4 + 2 + name + 4 + 4;
    Ok(i16::from_be_bytes([answer[at], answer[at + 1]]))
}

pub(crate) fn latency(args: &Args) -> anyhow::Result<()> {
    let mut frame = request(args);
    let mut socket = TcpStream::connect(&args.bootstrap)?;
    socket.set_nodelay(true)?;
    let (mut answer, mut taken) = (Vec::new(), Vec::with_capacity(args.count));
    let mut began = Instant::now();
    for i in 0..args.count + WARM_UP {
        if i == WARM_UP {
            began = Instant::now();
        }
        frame[8..12].copy_from_slice(&(i as i32).to_be_bytes());
        let mut from = Instant::now();
        if args.rate > 0.0 && i >= WARM_UP {
            from = began + Duration::from_secs_f64((i - WARM_UP) as f64 / args.rate);
            thread::sleep(from.saturating_duration_since(Instant::now()));
        }
        let error = exchange(&mut socket, &frame, &mut answer)?;
        if error != 0 {
            bail!("request {i}: error code {error}");
        }
        if i >= WARM_UP {
            taken.push(from.elapsed().as_nanos() as f64 / 1000.0);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    taken.sort_by(f64::total_cmp);
    let at = |share: f64| taken[((taken.len() - 1) as f64 * share) as usize];
    println!(
        "{{\"requests\":{},\"requests_s\":{:.0},\"p50\":{:.1},\"p99\":{:.1},\"p999\":{:.1},\
         \"max\":{:.1}}}",
        taken.len(),
        taken.len() as f64 / seconds,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    Ok(())
}
