//! `vltava histcheck`: judges a history of clients, nodes and faults. Exit code 0: nothing is wrong;
//! 1: the history shows a violation; 2: it cannot be judged.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use clap::Parser;

use crate::{
    base::ports::{File, Fs as _, OpenMode},
    histcheck::{Checker, Violation, excerpt},
    os::OsFs,
};

/// Longest line of a history, in bytes: a poll of many records.
const LINE_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 1 << 20;
const UNUSABLE: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "vltava-histcheck",
    about = "Judges recorded histories (JSON lines) of one run; see docs/histcheck.md"
)]
struct Arguments {
    /// Lines shown for each violation.
    #[arg(long, default_value_t = 20)]
    window: usize,
    /// Print the states of all partitions, as the metadata log in this directory
    /// (`__cluster_metadata-0`) has them, as events of a history; and do nothing else.
    #[arg(long, value_name = "DIR", conflicts_with = "files")]
    metadata_log: Option<PathBuf>,
    /// Files of one run; each process's own events stand in order.
    #[arg(required_unless_present = "metadata_log")]
    files: Vec<PathBuf>,
}

/// Runs the tool.
pub(super) fn run(words: &[String]) -> ExitCode {
    let args: Arguments = match super::args::parse(words) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let done = match &args.metadata_log {
        Some(dir) => super::metadata_trace::events(dir).map(|events| super::print(&events)),
        None => judge(&args),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            super::fail(&format!("vltava-histcheck: {e}"));
            ExitCode::from(UNUSABLE)
        }
    }
}

fn judge(args: &Arguments) -> Result<ExitCode, String> {
    let mut checker = Checker::default();
    for path in &args.files {
        each_line(path, |line| checker.line(line).map_err(|e| e.to_string()))?;
    }
    let verdict = checker.finish().map_err(|e| e.to_string())?;
    let mut out = String::new();
    if !verdict.passed() {
        for line in &verdict.timeline {
            out += &format!("timeline: {line}\n");
        }
        for violation in shown_first(&verdict.violations) {
            out += &format!("events behind: {}\n", violation.text);
            for line in window(args, violation)? {
                out += &format!("  {line}\n");
            }
        }
    }
    super::print(&format!("{out}{verdict}\n"));
    Ok(if verdict.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The first violation of each point.
fn shown_first(all: &[Violation]) -> impl Iterator<Item = &Violation> {
    let firsts = all.iter().enumerate();
    firsts.filter(|(at, v)| all[..*at].iter().all(|w| w.point != v.point)).map(|(_, v)| v)
}

fn window(args: &Arguments, violation: &Violation) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for path in &args.files {
        each_line(path, |line| {
            if lines.len() < args.window {
                lines.extend(excerpt(&violation.window, line));
            }
            Ok(())
        })?;
    }
    Ok(lines)
}

fn each_line(path: &Path, mut take: impl FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    let file = OsFs.open(path, OpenMode::Read).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut lines = Lines { file, pos: 0, buffer: Vec::new(), begin: 0, number: 0 };
    loop {
        let number = lines.number + 1;
        let told = |e: String| format!("{}:{number}: {e}", path.display());
        match lines.next().map_err(told)? {
            None => return Ok(()),
            Some(line) => take(line).map_err(told)?,
        }
    }
}

/// The lines of a file, through one buffer.
struct Lines {
    file: Arc<dyn File>,
    pos: u64,
    buffer: Vec<u8>,
    /// What stands before it was given out.
    begin: usize,
    number: u64,
}

impl Lines {
    fn next(&mut self) -> Result<Option<&str>, String> {
        let mut searched = self.begin;
        let (end, next) = loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                break (searched + at, searched + at + 1);
            }
            searched = self.buffer.len() - self.begin;
            if !self.more()? {
                break (self.buffer.len(), self.buffer.len());
            }
        };
        if self.begin == next {
            return Ok(None);
        }
        let line = &self.buffer[self.begin..end];
        self.begin = next;
        self.number += 1;
        str::from_utf8(line).map(Some).map_err(|e| format!("not UTF-8: {e}"))
    }

    /// Reads on behind what is left; false at the end of the file.
    fn more(&mut self) -> Result<bool, String> {
        self.buffer.drain(..self.begin);
        self.begin = 0;
        let have = self.buffer.len();
        if have > LINE_BYTES_MAX {
            return Err(format!("a line of more than {LINE_BYTES_MAX} bytes"));
        }
        self.buffer.resize(have + READ_BYTES, 0);
        let read = self.file.read_at(&mut self.buffer[have..], self.pos);
        let read = read.map_err(|e| e.to_string())?;
        self.buffer.truncate(have + read);
        self.pos += read as u64;
        Ok(read > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cross_the_buffer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let long = "x".repeat(READ_BYTES * 2 + 5);
        OsFs.write_atomic(&path, format!("one\n\n{long}\nlast").as_bytes()).unwrap();
        let mut seen = Vec::new();
        each_line(&path, |line| {
            seen.push(line.to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, ["one".to_owned(), String::new(), long, "last".to_owned()]);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        OsFs.write_atomic(&path, b"{\"run\":{}}\n{\"sent\":{}}\n").unwrap();
        let args = Arguments { window: 1, metadata_log: None, files: vec![path] };
        let error = judge(&args).unwrap_err();
        assert!(error.contains("history:2: not an event: unknown variant `sent`"), "{error}");
    }
}
