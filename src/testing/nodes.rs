//! Files and directories of the simulated file system, and what a power cut leaves of them.

use std::collections::BTreeMap;

use super::clock::Seeded;

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
pub(super) enum Change {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    /// `failed` is what the file held when a sync of it failed: the system has dropped those pages
    /// from what it means to write, so that they stay unsynced until they are written again.
    File {
        data: Vec<u8>,
        synced: Vec<u8>,
        failed: Option<Vec<u8>>,
        modified_ms: i64,
    },
    Dir {
        entries: BTreeMap<String, usize>,
        synced: BTreeMap<String, usize>,
        changes: Vec<Change>,
    },
}

impl Node {
    pub(super) fn file(bytes: Vec<u8>, modified_ms: i64) -> Self {
        Self::File { synced: bytes.clone(), data: bytes, failed: None, modified_ms }
    }

    pub(super) fn dir() -> Self {
        Self::Dir { entries: BTreeMap::new(), synced: BTreeMap::new(), changes: Vec::new() }
    }
}

pub(super) fn copy_dir(
    from: &[Node],
    seeded: &mut Seeded,
    dir: usize,
    to: &mut Vec<Node>,
    into: usize,
) {
    let Node::Dir { synced, changes, .. } = from[dir].clone() else { return };
    let mut entries = synced;
    let kept = seeded.below(changes.len() + 1);
    for change in &changes[..kept] {
        apply(&mut entries, change);
    }
    for (name, node) in entries {
        let id = to.len();
        match from[node].clone() {
            Node::File { data, synced, modified_ms, .. } => {
                to.push(Node::file(tear(seeded, &synced, data), modified_ms));
            }
            Node::Dir { .. } => {
                to.push(Node::dir());
                copy_dir(from, seeded, node, to, id);
            }
        }
        if let Node::Dir { entries, synced, .. } = &mut to[into] {
            entries.insert(name.clone(), id);
            synced.insert(name, id);
        }
    }
}

pub(super) fn apply(entries: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Link(name, node) => _ = entries.insert(name.clone(), *node),
        Change::Unlink(name) => _ = entries.remove(name),
        Change::Rename(from, to) => {
            if let Some(node) = entries.remove(from) {
                entries.insert(to.clone(), node);
            }
        }
    }
}

/// What is left of a file: synced bytes, all bytes, or sectors of either.
fn tear(seeded: &mut Seeded, synced: &[u8], data: Vec<u8>) -> Vec<u8> {
    if synced == data {
        return data;
    }
    match seeded.below(4) {
        0 => synced.to_vec(),
        1 => data,
        _ => {
            let len = match seeded.below(3) {
                0 => synced.len(),
                1 => data.len(),
                _ => {
                    let (a, b) = (synced.len().min(data.len()), synced.len().max(data.len()));
                    a + seeded.below(b - a + 1)
                }
            };
            let mut out = vec![0; len];
            for (n, sector) in out.chunks_mut(SECTOR).enumerate() {
                let source = if seeded.one_in(2) { synced } else { &data };
                let have = source.get(n * SECTOR..).unwrap_or_default();
                let have = &have[..have.len().min(sector.len())];
                sector[..have.len()].copy_from_slice(have);
            }
            // What is synced and unchanged since does not tear.
            let same = synced.iter().zip(&data).take_while(|(a, b)| a == b).count().min(len);
            out[..same].copy_from_slice(&synced[..same]);
            out
        }
    }
}

/// What a sync makes durable where an earlier one failed: only what has changed since.
pub(super) fn sync_after_failure(data: &[u8], synced: &[u8], failed: &[u8]) -> Vec<u8> {
    let mut out = data.to_vec();
    for (at, byte) in out.iter_mut().enumerate() {
        if failed.get(at) == Some(byte) {
            *byte = synced.get(at).copied().unwrap_or(0);
        }
    }
    out
}
