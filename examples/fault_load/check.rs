//! The checker: what must hold between a history and the log that is read back.
//!
//! Every acknowledged record is there once, at the offset the acknowledgement named, with the bytes
//! that were sent; nothing is there that was not sent, nothing twice; each producer's records stand
//! in order; offsets have no gap. A record without an answer may be there once or not at all.

use std::{collections::BTreeMap, fmt};

use crate::history::{Acked, Place, name};

/// What is allowed beside the strict rules.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// Acknowledged records past the end of a partition are counted as lost, not as a violation.
    pub(crate) tail_may_be_lost: bool,
}

/// Compares records, in offset order within each partition, with what was acknowledged.
#[derive(Debug)]
pub(crate) struct Checker {
    acked: Acked,
    rules: Rules,
    /// By partition: the next offset expected.
    next: BTreeMap<i32, i64>,
    /// By producer: where each sequence was read.
    read: BTreeMap<(u64, u32), Vec<Option<Place>>>,
    /// By producer and partition: the newest sequence read.
    newest: BTreeMap<(u64, u32, i32), u64>,
    report: Report,
}

/// The verdict.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) records: u64,
    pub(crate) acknowledged: u64,
    /// Acknowledged, and gone from the end of a partition.
    pub(crate) lost_from_the_tail: u64,
    /// Read although no acknowledgement came.
    pub(crate) unanswered_but_there: u64,
    pub(crate) violations: u64,
    /// The first violations, in words.
    pub(crate) told: Vec<String>,
}

const TOLD_MAX: usize = 20;

impl Report {
    fn violation(&mut self, text: impl FnOnce() -> String) {
        self.violations += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(text());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.told {
            writeln!(f, "violation: {line}")?;
        }
        write!(
            f,
            "{{\"acknowledged\":{},\"read\":{},\"lost_tail\":{},\"unanswered_there\":{},\
             \"violations\":{}}}",
            self.acknowledged,
            self.records,
            self.lost_from_the_tail,
            self.unanswered_but_there,
            self.violations
        )
    }
}

impl Checker {
    pub(crate) fn new(acked: Acked, rules: Rules) -> Self {
        let read = acked.producers.keys().map(|k| (*k, Vec::new())).collect();
        let mut report = Report::default();
        for text in &acked.fatal {
            report.violation(|| format!("a producer ended with: {text}"));
        }
        Self { acked, rules, next: BTreeMap::new(), read, newest: BTreeMap::new(), report }
    }

    /// Says that `partition` begins at `offset`.
    pub(crate) fn begin(&mut self, partition: i32, offset: i64) {
        self.next.insert(partition, offset);
    }

    /// Takes the next record of a partition.
    pub(crate) fn record(&mut self, partition: i32, offset: i64, value: Option<&[u8]>) {
        self.report.records += 1;
        let expected = self.next.entry(partition).or_insert(offset);
        if *expected != offset {
            let want = *expected;
            self.report.violation(|| format!("{partition}@{offset} follows {want}: a gap"));
        }
        *expected = offset + 1;
        let text = value.and_then(|v| str::from_utf8(v).ok());
        let Some((run, producer, seq)) = text.and_then(name) else {
            let shown = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            self.report.violation(|| format!("{partition}@{offset} was never sent: {shown:?}"));
            return;
        };
        self.placed((run, producer), seq, (partition, offset));
        let newest = self.newest.entry((run, producer, partition)).or_insert(seq);
        if *newest > seq {
            let before = *newest;
            self.report.violation(|| {
                format!("{partition}@{offset}: {producer}/{seq} comes after {producer}/{before}")
            });
        }
        *newest = seq.max(*newest);
    }

    fn placed(&mut self, who: (u64, u32), seq: u64, place: Place) {
        let sent = self.acked.producers.get(&who).map_or(0, |s| s.sent);
        if seq >= sent {
            self.report.violation(|| format!("{place:?} holds {who:?} {seq}, of {sent} sent"));
            return;
        }
        let read = self.read.entry(who).or_default();
        let at = usize::try_from(seq).unwrap_or(usize::MAX);
        if read.len() <= at {
            read.resize(at + 1, None);
        }
        if let Some(first) = read[at].replace(place) {
            self.report.violation(|| format!("{who:?} {seq} is at {first:?} and at {place:?}"));
        }
    }

    /// Compares the other way round: everything acknowledged must have been read.
    pub(crate) fn finish(mut self) -> Report {
        for (who, sends) in &self.acked.producers {
            let read = self.read.get(who).map_or(&[][..], Vec::as_slice);
            for (seq, place) in sends.acked.iter().enumerate() {
                let found = read.get(seq).copied().flatten();
                let Some(place) = place else {
                    self.report.unanswered_but_there += u64::from(found.is_some());
                    continue;
                };
                self.report.acknowledged += 1;
                if found == Some(*place) {
                    continue;
                }
                let end = self.next.get(&place.0).copied().unwrap_or(0);
                if found.is_none() && self.rules.tail_may_be_lost && place.1 >= end {
                    self.report.lost_from_the_tail += 1;
                    continue;
                }
                self.report.violation(|| match found {
                    None => {
                        format!("{who:?} {seq}, acknowledged at {place:?}, is lost (end {end})")
                    }
                    Some(at) => format!("{who:?} {seq}, acknowledged at {place:?}, is at {at:?}"),
                });
            }
            let beyond = read.iter().skip(sends.acked.len()).flatten().count();
            self.report.unanswered_but_there += beyond as u64;
        }
        self.report
    }
}
