//! What happened, as a hash of all of it and the last lines of it.

use std::{collections::VecDeque, fmt};

const KEPT: usize = 400;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    lines: VecDeque<String>,
    pub events: u64,
    loud: bool,
}

impl Trace {
    /// Nothing yet; `loud` prints every line as it happens.
    pub fn new(loud: bool) -> Self {
        Self { loud, ..Self::default() }
    }

    /// Takes a line in.
    pub fn note(&mut self, now: u64, what: fmt::Arguments<'_>) {
        let line = format!("{:>10.3} {what}", now as f64 / 1000.0);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if self.loud {
            println!("{line}");
        }
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.events += 1;
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines.
    pub fn tail(&self) -> String {
        self.lines.iter().map(|l| format!("{l}\n")).collect()
    }
}
