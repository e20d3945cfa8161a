//! The text of Kafka's checkpoint files (`CheckpointFile.java`): line 1 the version `0`, line 2
//! the number of entries, then one entry a line. Owns text and parsing; who writes where is for
//! `dir` and `epochs`.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::base::{Offset, TopicPartition};

/// The largest checkpoint file that is read, in bytes: a million partitions with long names.
pub const CHECKPOINT_BYTES_MAX: u64 = 512 << 20;

/// The file is not a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadCheckpoint {
    /// Where, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// The entries of a checkpoint's text, each with its line number; an empty file has none.
///
/// # Errors
/// Unless the version is 0 and the count is exact.
pub fn lines(text: &str) -> Result<Vec<(usize, &str)>, BadCheckpoint> {
    let bad = |line, what| BadCheckpoint { line, what };
    let mut rows = text.lines().enumerate().map(|(n, l)| (n + 1, l.trim()));
    let Some((_, version)) = rows.next() else { return Ok(Vec::new()) };
    if version != "0" {
        return Err(bad(1, "the version is not 0"));
    }
    let count: usize = rows
        .next()
        .and_then(|(_, l)| l.parse().ok())
        .ok_or_else(|| bad(2, "the number of entries is missing"))?;
    let out: Vec<_> = rows.filter(|(_, l)| !l.is_empty()).collect();
    if out.len() != count {
        return Err(bad(2, "the number of entries is not the one announced"));
    }
    Ok(out)
}

/// The text of a checkpoint with these entries.
pub fn text(entries: impl ExactSizeIterator<Item = impl std::fmt::Display>) -> String {
    let mut out = format!("0\n{}\n", entries.len());
    for entry in entries {
        // Writing to a string cannot fail.
        _ = writeln!(out, "{entry}");
    }
    out
}

/// Reads an offset checkpoint: `topic partition offset` a line.
///
/// # Errors
/// If a line has another shape.
pub fn parse_offsets(text: &str) -> Result<BTreeMap<TopicPartition, Offset>, BadCheckpoint> {
    let mut out = BTreeMap::new();
    for (line, entry) in lines(text)? {
        let bad = BadCheckpoint { line, what: "not `topic partition offset`" };
        let mut words = entry.split_whitespace();
        let (topic, partition, offset) = (words.next(), words.next(), words.next());
        let (Some(topic), Some(Ok(partition)), Some(Ok(offset)), None) =
            (topic, partition.map(str::parse), offset.map(str::parse), words.next())
        else {
            return Err(bad);
        };
        out.insert(TopicPartition::new(topic, partition), offset);
    }
    Ok(out)
}

/// The text of an offset checkpoint.
#[must_use]
pub fn offsets_text(offsets: &BTreeMap<TopicPartition, Offset>) -> String {
    text(offsets.iter().map(|(tp, at)| format!("{} {} {at}", tp.topic, tp.partition)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_as_kafka_writes_them() {
        let text = "0\n2\na-b 0 17\nz 12 9000000000\n";
        let got = parse_offsets(text).unwrap();
        assert_eq!(got[&TopicPartition::new("z", 12)], 9_000_000_000);
        assert_eq!(offsets_text(&got), text);
        assert_eq!(parse_offsets("").unwrap(), BTreeMap::new());
        assert_eq!(parse_offsets("0\n1\na \t 0  5").unwrap().len(), 1, "any whitespace");
    }

    #[test]
    fn bad_files_name_the_line() {
        for (text, line) in [
            ("1\n0\n", 1),
            ("0\n", 2),
            ("0\nx\n", 2),
            ("0\n2\na 0 1\n", 2),
            ("0\n1\na 0\n", 3),
            ("0\n1\na 0 1 2\n", 3),
            ("0\n1\na b 1\n", 3),
        ] {
            assert_eq!(parse_offsets(text).unwrap_err().line, line, "{text:?}");
        }
    }
}
