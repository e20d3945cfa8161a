//! What a hostile or broken peer does to a socket.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{Verdicts, seeds};

const THREADS: u64 = 4;
/// Frames on one connection before a fresh one is taken.
const FRAMES_A_CONNECTION: usize = 4;

/// A small seeded generator: xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// What the mutated frames met.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    /// Bytes of answers came back so many times.
    pub(crate) answers: u64,
    pub(crate) closed: u64,
}

const EXTREMES: [i32; 8] = [-1, 0, 1, i32::MAX, i32::MIN, 0x0100_0000, 0x7fff, -2];

/// Applies one to four mutations; gives the body and the length to claim for it.
fn mutate(random: &mut Random, seed: &Bytes) -> (Vec<u8>, i32) {
    let mut body = seed.to_vec();
    for _ in 0..=random.below(4) {
        // The first bytes are key and version: most mutations should get past them.
        let from = if random.below(10) == 0 { 0 } else { 4.min(body.len()) };
        let at = from + random.below(body.len() - from);
        match random.below(9) {
            0 if at < body.len() => body[at] ^= 1 << random.below(8),
            1 if at < body.len() => body[at] = [0, 0x7f, 0x80, 0xff][random.below(4)],
            2 if at + 4 <= body.len() => {
                body[at..at + 4].copy_from_slice(&EXTREMES[random.below(8)].to_be_bytes());
            }
            3 if at + 2 <= body.len() => {
                let value = (random.next() as i16).to_be_bytes();
                body[at..at + 2].copy_from_slice(&value);
            }
            4 => body.truncate(at),
            5 => body.extend((0..random.below(64)).map(|_| random.next() as u8)),
            6 => {
                let piece: Vec<u8> = body[at..].iter().copied().take(random.below(40)).collect();
                body.splice(at..at, piece);
            }
            7 => drop(body.splice(at..at, [0xff; 10])),
            8 if body.len() >= 4 => {
                let version = (random.below(20) as i16 - 2).to_be_bytes();
                body[2..4].copy_from_slice(&version);
            }
            _ => {}
        }
    }
    let honest = body.len() as i32;
    let claim = match random.below(50) {
        0 => honest.saturating_add(random.below(1000) as i32),
        1 => (honest - random.below(20) as i32).max(0),
        _ => honest,
    };
    (body, claim)
}

pub(crate) fn mutated_frames(bootstrap: &str, frames: u64, seed: u64) -> anyhow::Result<Tally> {
    let seeds = seeds::frames();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let seeds = &seeds;
                let random = Random(seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
                scope.spawn(move || send_frames(bootstrap, frames.div_ceil(THREADS), seeds, random))
            })
            .collect();
        let mut all = Tally::default();
        for t in threads {
            let one = t.join().map_err(|_| anyhow::anyhow!("panic"))??;
            all.sent += one.sent;
            all.answers += one.answers;
            all.closed += one.closed;
        }
        Ok(all)
    })
}

fn send_frames(
    bootstrap: &str,
    frames: u64,
    seeds: &[Bytes],
    mut random: Random,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut buffer = vec![0u8; 1 << 16];
    while tally.sent < frames {
        let mut socket = connect(bootstrap)?;
        // Long enough for the first answer, short enough for the thousands of requests without one.
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        socket.set_write_timeout(Some(Duration::from_secs(5)))?;
        for _ in 0..FRAMES_A_CONNECTION {
            let seed = &seeds[random.below(seeds.len())];
            let (body, claim) = mutate(&mut random, seed);
            tally.sent += 1;
            let head = claim.to_be_bytes();
            if socket.write_all(&head).and_then(|()| socket.write_all(&body)).is_err() {
                break;
            }
        }
        loop {
            match socket.read(&mut buffer) {
                Ok(0) => {
                    tally.closed += 1;
                    break;
                }
                Ok(_) => tally.answers += 1,
                Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                    tally.closed += 1;
                    break;
                }
                Err(_) => break,
            }
        }
    }
    Ok(tally)
}

/// A connection; the listener's queue may be full for a moment.
fn connect(bootstrap: &str) -> anyhow::Result<TcpStream> {
    let began = Instant::now();
    loop {
        match TcpStream::connect(bootstrap) {
            Ok(socket) => return Ok(socket),
            Err(e) if began.elapsed() > Duration::from_secs(10) => return Err(e.into()),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Length prefixes that lie: the node must close such a connection without waiting for the bytes.
pub(crate) fn lying_lengths(bootstrap: &str, verdicts: &mut Verdicts) -> anyhow::Result<()> {
    for length in [-1, i32::MIN, i32::MAX, 104_857_601, 0] {
        let mut socket = connect(bootstrap)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        let _ = socket.write_all(&length.to_be_bytes());
        let _ = socket.write_all(&[0u8; 64]);
        let closed = match socket.read(&mut [0u8; 1024]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(e) => e.kind() == ErrorKind::ConnectionReset,
        };
        verdicts.say(&format!("length {length}"), closed, "the connection is closed");
    }
    Ok(())
}

/// Sockets that stopped in the middle: a byte of the prefix, a prefix alone, 100 MB claimed and a
/// little of it sent.
pub(crate) fn slow_senders(bootstrap: &str, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut out = Vec::with_capacity(count);
    for n in 0..count {
        let mut socket = connect(bootstrap)?;
        let bytes: Vec<u8> = match n % 3 {
            0 => vec![0],
            1 => 1000i32.to_be_bytes().to_vec(),
            _ => [&100_000_000i32.to_be_bytes()[..], &[0, 0, 0, 7], &[1; 1000]].concat(),
        };
        let _ = socket.write_all(&bytes);
        out.push(socket);
    }
    Ok(out)
}

/// Connections that asked once and then say nothing.
pub(crate) struct Idle {
    pub(crate) sockets: Vec<TcpStream>,
    /// For opening all of them and one answer each.
    pub(crate) milliseconds: f64,
}

pub(crate) fn idle_connections(bootstrap: &str, count: usize) -> anyhow::Result<Idle> {
    let began = Instant::now();
    let mut sockets = Vec::with_capacity(count);
    let ask = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 255, 255];
    for _ in 0..count {
        let mut socket = connect(bootstrap)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        socket.write_all(&ask)?;
        sockets.push(socket);
    }
    let mut answered = Vec::with_capacity(count);
    for mut socket in sockets {
        let mut buffer = [0u8; 8192];
        if socket.read(&mut buffer).is_ok_and(|n| n > 0) {
            answered.push(socket);
        }
    }
    Ok(Idle { sockets: answered, milliseconds: began.elapsed().as_secs_f64() * 1000.0 })
}

/// Peers that ask for much and never read.
pub(crate) fn deaf_readers(bootstrap: &str) -> anyhow::Result<Vec<TcpStream>> {
    let ask = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 255, 255].repeat(100);
    let mut out = Vec::new();
    for _ in 0..20 {
        let mut socket = connect(bootstrap)?;
        socket.set_write_timeout(Some(Duration::from_millis(50)))?;
        for _ in 0..100 {
            if socket.write_all(&ask).is_err() {
                break;
            }
        }
        out.push(socket);
    }
    Ok(out)
}
