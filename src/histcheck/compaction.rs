//! Compaction: the last record of each key stays; one that deletes its key stays for a while, and
//! no older one outlives it.

use std::collections::BTreeMap;

use super::{
    Checker, Point,
    checker::{Partition, Promise, Scanning, Sent},
    settle::{ByValue, Found},
};

/// Where the last record of a key is.
type Last<'a> = BTreeMap<u64, (i64, &'a Sent)>;

/// What is wrong with the final scans of a compacted partition. Gives how many keys were looked at.
pub(super) fn judge(
    checker: &Checker,
    part: &Partition,
    promise: Promise,
    by_value: &ByValue,
) -> (u64, Vec<Found>) {
    let sent_of = |value: u64| by_value.get(&value).map(|at| &checker.sends[*at as usize]);
    let mut last = Last::new();
    for (offset, value) in part.values.iter() {
        if let Some(sent) = sent_of(value).filter(|s| s.key != 0) {
            last.insert(sent.key, (offset, sent));
        }
    }
    let mut out = Vec::new();
    for (id, scan) in &part.scans {
        let Some(bounds) = scan.done else { continue };
        let name = checker.names.name(*id);
        let until = scan.t.map_or(u64::MAX, |t| t.1);
        let missing = last.values().filter(|(offset, sent)| {
            let gone =
                *offset < bounds.0 && checker.may_be_gone(sent.tp, *offset, Some(sent), until);
            *offset < bounds.1 && !gone && !scan.seen.has(*offset)
        });
        for (offset, sent) in missing {
            let Some(why) = amiss(sent, scan, promise) else { continue };
            let who = format!("{}/{}", checker.names.name(sent.producer), sent.n);
            let why = format!("{who} is the last of its key and not in scan {name}{why}");
            out.push(Found::at(Point::Compaction, *offset, sent.value, why));
        }
        if !reads_within(scan, promise) {
            continue;
        }
        for (offset, value) in part.values.range(bounds.0, bounds.1) {
            let Some(sent) = sent_of(value).filter(|_| scan.seen.has(offset)) else { continue };
            let Some((at, deletion)) = last.get(&sent.key) else { continue };
            let outlived = deletion.tombstone && offset < *at && *at < bounds.1;
            if outlived && !scan.seen.has(*at) {
                let why = format!("is in scan {name}, and the deletion of its key at {at} is not");
                out.push(Found::at(Point::Compaction, offset, value, why));
            }
        }
    }
    (last.len() as u64, out)
}

/// Why it is wrong that the last record of a key is missing. A deletion may go, but no sooner than
/// `delete.retention.ms` after it was written.
fn amiss(sent: &Sent, scan: &Scanning, promise: Promise) -> Option<String> {
    if !sent.tombstone {
        return Some(String::new());
    }
    let (_, until) = scan.t?;
    let keeps = promise.delete_retention_ms?;
    let age = until.saturating_sub(sent.invoked);
    (age < keeps.saturating_mul(1000))
        .then(|| format!(": a deletion of {} ms, which has to stay for {keeps} ms", age / 1000))
}

/// Whether the scan took less time than deletions stay: then it saw a deletion, or what it deletes
/// was gone as it began.
fn reads_within(scan: &Scanning, promise: Promise) -> bool {
    match (scan.t, promise.delete_retention_ms) {
        (Some((from, to)), Some(keeps)) => to - from < keeps.saturating_mul(1000),
        _ => false,
    }
}
