//! Damaged requests and responses of every API and version: whatever a peer sends, decoding ends in
//! a value or an error, and takes no more memory than the bytes that arrived justify.
//!
//! `VLTAVA_MUTATIONS` sets how many damaged frames are tried.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "reads what the kernel says of this process")]

use std::fs;

use bytes::Bytes;
use vltava::wire::{
    Message, Reader, Request,
    codec::to_bytes,
    frame,
    sample::{Sample, Source, Visitor, every_request},
};

const MUTATIONS_DEFAULT: u64 = 200_000;
/// How far the peak of memory may rise while frames of a few KiB are decoded.
const PEAK_BYTES_MAX: u64 = 64 * 1024 * 1024;

struct Seed {
    frame: Bytes,
    decode: fn(&Bytes, i16),
    version: i16,
}

/// Valid frames of every API and version: each request with its header, each response with its own.
#[derive(Default)]
struct Corpus(Vec<Seed>);

impl Visitor for Corpus {
    fn visit<M: Request<Response: Sample> + Sample>(&mut self) {
        for version in M::KEY.min_version()..=M::KEY.max_version() {
            let ver = M::KEY.ver(version).unwrap();
            for n in 0..4 {
                let mut g = Source::new(n);
                let request = M::sample(&mut g, ver);
                let chunks = frame::encode_request(1, Some("c"), &request, version).unwrap();
                let frame = to_bytes(&chunks).unwrap().slice(4..);
                self.0.push(Seed { frame, decode: decode_request::<M>, version });
                let response = M::Response::sample(&mut g, ver);
                let chunks = frame::encode_response(1, &response, version).unwrap();
                let frame = to_bytes(&chunks).unwrap().slice(4..);
                self.0.push(Seed { frame, decode: decode_response::<M::Response>, version });
            }
        }
    }
}

fn decode_request<M: Request>(frame: &Bytes, version: i16) {
    let mut r = Reader::new(frame);
    let Ok(_) = frame::decode_request_header(&mut r) else { return };
    // The header's version may be damaged: the body is read in the one it was written in.
    if let Ok(m) = M::decode(&mut r, version) {
        survives_again(&m, version);
    }
}

fn decode_response<M: Message>(frame: &Bytes, version: i16) {
    if let Ok((_, m)) = frame::decode_response::<M>(frame, version) {
        survives_again(&m, version);
    }
}

/// What was understood can be said again, and is understood as the same.
fn survives_again<M: Message>(m: &M, version: i16) {
    let bytes = m.to_bytes(version).unwrap();
    assert_eq!(M::decode(&mut Reader::new(&bytes), version).as_ref(), Ok(m));
}

/// Values that lengths, counts and tags are most likely to be wrong by.
const LENGTHS: &[&[u8]] = &[
    &[0],
    &[1],
    &[2],
    &[0x7f],
    &[0x80, 0x01],
    &[0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0x07],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff],
    &[0x7f, 0xff],
    &[0x80, 0x00],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0, 0x0f, 0xff, 0xff],
];

fn mutate(g: &mut Source, frame: &Bytes, other: &Bytes) -> Bytes {
    let mut out = frame.to_vec();
    for _ in 0..=g.below(4) {
        let at = g.below(out.len() + 1);
        match g.below(7) {
            0 | 1 => overwrite(&mut out, at, LENGTHS[g.below(LENGTHS.len())]),
            2 => overwrite(&mut out, at, &g.next_u64().to_le_bytes()[..1]),
            3 => out.truncate(at),
            4 => {
                let to = (at + g.below(9)).min(out.len());
                out.drain(at..to);
            }
            5 => {
                let from = g.below(other.len());
                let to = (from + g.below(40)).min(other.len());
                out.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let from = g.below(out.len() + 1);
                let to = (from + g.below(40)).min(out.len());
                let again = out[from..to].to_vec();
                out.splice(at..at, again);
            }
        }
    }
    Bytes::from(out)
}

fn overwrite(out: &mut [u8], at: usize, with: &[u8]) {
    out[at..].iter_mut().zip(with).for_each(|(to, from)| *to = *from);
}

/// The peak of this process's address space, in bytes: memory that was reserved counts even if it
/// was never touched.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmPeak:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn damaged_frames_end_in_a_value_or_an_error() {
    let mutations = std::env::var("VLTAVA_MUTATIONS")
        .map_or(MUTATIONS_DEFAULT, |n| n.parse().expect("VLTAVA_MUTATIONS is a number"));
    let mut corpus = Corpus::default();
    every_request(&mut corpus);
    let (seeds, before) = (corpus.0, peak());
    for n in 0..mutations {
        let mut g = Source::new(n ^ 0x5eed_0000_0000);
        let seed = &seeds[g.below(seeds.len())];
        let other = &seeds[g.below(seeds.len())].frame;
        let damaged = mutate(&mut g, &seed.frame, other);
        (seed.decode)(&damaged, seed.version);
    }
    let rise = peak() - before;
    assert!(rise < PEAK_BYTES_MAX, "the peak of memory rose by {rise} bytes");
    eprintln!("{mutations} damaged frames from {} valid ones; peak +{rise} bytes", seeds.len());
}
