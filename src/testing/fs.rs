//! A file system in memory that can crash: synced bytes and entries survive, of the rest a seeded
//! part does, torn in sectors (after Pebble's `CrashClone`). Errors are injected by operation and
//! path, space can run out, and every change is traced.
//!
//! Rules of a crash, no kinder than POSIX: a file's sync does not make its name durable, only the
//! sync of its directory does; unsynced changes of one directory survive as a prefix; a rename is
//! atomic; unsynced bytes survive sector by sector, and so may an older length.

use std::{
    collections::BTreeSet,
    io,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    clock::Seeded,
    nodes::{Change, Node, apply, copy_dir, sync_after_failure},
};
use crate::base::ports::{DirEntry, File, FileLock, Fs, OpenMode, Space};

const ROOT: usize = 0;

/// What an injected error strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Opening an existing file.
    Open,
    /// Making a file or directory.
    Create,
    /// Reading a file.
    Read,
    /// Writing to a file.
    Write,
    /// Cutting or extending a file.
    SetLen,
    /// Syncing a file.
    Sync,
    /// Syncing a directory.
    SyncDir,
    /// Listing a directory.
    ReadDir,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
}

#[derive(Debug, Clone)]
struct Fault {
    op: Op,
    part: String,
    kind: io::ErrorKind,
    once: bool,
}

#[derive(Debug)]
struct State {
    nodes: Vec<Node>,
    seeded: Seeded,
    faults: Vec<Fault>,
    locks: BTreeSet<PathBuf>,
    /// Bytes that may still be taken; `None` without bound.
    room: Option<u64>,
    now_ms: i64,
    trace: Vec<String>,
    writes: u64,
    /// Changes until the state is kept, and the state that was.
    keep_in: Option<usize>,
    kept: Option<Vec<Node>>,
}

/// The file system. Clones share it.
#[derive(Debug, Clone)]
pub struct SimFs(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    node: usize,
    path: PathBuf,
}

#[derive(Debug)]
struct SimLock {
    fs: SimFs,
    path: PathBuf,
}

impl SimFs {
    /// An empty file system; `seed` decides what crashes leave.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            nodes: vec![Node::dir()],
            seeded: Seeded::new(seed),
            faults: Vec::new(),
            locks: BTreeSet::new(),
            room: None,
            now_ms: 0,
            trace: Vec::new(),
            writes: 0,
            keep_in: None,
            kept: None,
        })))
    }

    /// What a power cut at this moment leaves, as a file system of its own. This one goes on.
    #[must_use]
    pub fn crash(&self) -> Self {
        let mut state = self.state();
        let seed = state.seeded.u64();
        let out = Self::new(seed);
        let mut left = out.state();
        left.now_ms = state.now_ms;
        let State { nodes, seeded, .. } = &mut *state;
        copy_dir(nodes, seeded, ROOT, &mut left.nodes, ROOT);
        drop(left);
        out
    }

    /// What `kill -9` at this moment leaves: everything that was written.
    #[must_use]
    pub fn killed(&self) -> Self {
        let mut state = self.state();
        let seed = state.seeded.u64();
        let out = Self::new(seed);
        {
            let mut left = out.state();
            left.now_ms = state.now_ms;
            left.nodes = state.nodes.clone();
        }
        out
    }

    /// Keeps the state right after `changes` more changes, for [`SimFs::kept`].
    pub fn keep_after(&self, changes: usize) {
        let mut state = self.state();
        (state.keep_in, state.kept) = (Some(changes), None);
    }

    /// What `kill -9` at the moment that [`SimFs::keep_after`] named would have left; `None` if
    /// there were fewer changes. [`SimFs::crash`] of it tells of a power cut at that moment.
    #[must_use]
    pub fn kept(&self) -> Option<Self> {
        let mut state = self.state();
        let nodes = state.kept.take()?;
        let out = Self::new(state.seeded.u64());
        {
            let mut left = out.state();
            (left.now_ms, left.nodes) = (state.now_ms, nodes);
        }
        Some(out)
    }

    /// Lets the next `op` on a path that contains `part` fail with `kind`.
    pub fn fail_next(&self, op: Op, part: &str, kind: io::ErrorKind) {
        self.state().faults.push(Fault { op, part: part.to_owned(), kind, once: true });
    }

    /// Lets every `op` on a path that contains `part` fail with `kind`.
    pub fn fail_always(&self, op: Op, part: &str, kind: io::ErrorKind) {
        self.state().faults.push(Fault { op, part: part.to_owned(), kind, once: false });
    }

    /// Takes injected errors back.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Leaves no byte free: no new file, no longer file.
    pub fn fill_disk(&self) {
        self.set_room(Some(0));
    }

    /// Space without bound again.
    pub fn free_disk(&self) {
        self.set_room(None);
    }

    /// Leaves this many bytes free.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    /// What files that are written to from now on say about when.
    pub fn set_time_ms(&self, ms: i64) {
        self.state().now_ms = ms;
    }

    /// Every change since the last call: `create PATH`, `write PATH`, `cut PATH`, `sync PATH`,
    /// `syncdir PATH`, `rename FROM TO`, `remove PATH`, `mkdir PATH`.
    #[must_use]
    pub fn take_trace(&self) -> Vec<String> {
        std::mem::take(&mut self.state().trace)
    }

    /// How many writes were made.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state().writes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

fn parts(path: &Path) -> Vec<&str> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect()
}

impl State {
    fn strike(&mut self, op: Op, path: &Path) -> io::Result<()> {
        let path = path.to_string_lossy();
        let hit = self.faults.iter().position(|f| f.op == op && path.contains(&f.part));
        let Some(at) = hit else { return Ok(()) };
        let kind = self.faults[at].kind;
        if self.faults[at].once {
            self.faults.remove(at);
        }
        Err(kind.into())
    }

    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.room {
            Some(room) if *room < bytes => Err(io::ErrorKind::StorageFull.into()),
            Some(room) => {
                *room -= bytes;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> Option<usize> {
        let mut at = ROOT;
        for name in parts(path) {
            let Node::Dir { entries, .. } = &self.nodes[at] else { return None };
            at = *entries.get(name)?;
        }
        Some(at)
    }

    fn parent(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = parts(path).last().copied().ok_or_else(missing)?.to_owned();
        let parent =
            self.find(path.parent().unwrap_or_else(|| Path::new("/"))).ok_or_else(missing)?;
        Ok((parent, name))
    }

    fn change(&mut self, dir: usize, change: Change) -> io::Result<()> {
        let Node::Dir { entries, changes, .. } = &mut self.nodes[dir] else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        apply(entries, &change);
        changes.push(change);
        Ok(())
    }

    fn create(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let (parent, name) = self.parent(path)?;
        self.strike(Op::Create, path)?;
        self.take_room(1)?;
        let id = self.nodes.len();
        self.nodes.push(node);
        self.change(parent, Change::Link(name, id))?;
        Ok(id)
    }

    fn note(&mut self, what: &str, path: &Path) {
        self.trace.push(format!("{what} {}", path.display()));
        self.keep_in = self.keep_in.and_then(|left| {
            if left <= 1 {
                self.kept = Some(self.nodes.clone());
            }
            left.checked_sub(1).filter(|left| *left > 0)
        });
    }

    fn file(&mut self, node: usize) -> io::Result<(&mut Vec<u8>, &mut Vec<u8>, &mut i64)> {
        match &mut self.nodes[node] {
            Node::File { data, synced, modified_ms, .. } => Ok((data, synced, modified_ms)),
            Node::Dir { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn entry(&self, name: String, node: usize) -> DirEntry {
        match &self.nodes[node] {
            Node::File { data, .. } => DirEntry { name, is_dir: false, len: data.len() as u64 },
            Node::Dir { .. } => DirEntry { name, is_dir: true, len: 0 },
        }
    }
}

fn index(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(io::Error::other)
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let mut state = self.fs.state();
        state.strike(Op::Read, &self.path)?;
        let (data, ..) = state.file(self.node)?;
        let have = data.get(index(pos)?..).unwrap_or_default();
        let n = have.len().min(buf.len());
        buf[..n].copy_from_slice(&have[..n]);
        Ok(n)
    }

    fn write_all_at(&self, parts: &[&[u8]], pos: u64) -> io::Result<()> {
        let mut state = self.fs.state();
        let all = parts.concat();
        let struck = state.strike(Op::Write, &self.path);
        state.writes += 1;
        let (now_ms, room) = (state.now_ms, state.room);
        let (data, _, modified_ms) = state.file(self.node)?;
        let from = index(pos)?;
        let grown = (from + all.len()).saturating_sub(data.len()) as u64;
        // A failing write leaves a part behind.
        let kept = match (&struck, room) {
            (Err(_), _) => all.len() / 2,
            (Ok(()), Some(room)) if grown > room => all.len() - index(grown - room)?.min(all.len()),
            _ => all.len(),
        };
        if data.len() < from + kept {
            data.resize(from + kept, 0);
        }
        data[from..from + kept].copy_from_slice(&all[..kept]);
        *modified_ms = now_ms;
        state.note("write", &self.path);
        struck?;
        state.take_room(grown)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.fs.state().file(self.node)?.0.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.fs.state();
        state.strike(Op::SetLen, &self.path)?;
        let have = state.file(self.node)?.0.len() as u64;
        state.take_room(len.saturating_sub(have))?;
        let now_ms = state.now_ms;
        let (data, _, modified_ms) = state.file(self.node)?;
        data.resize(index(len)?, 0);
        *modified_ms = now_ms;
        state.note("cut", &self.path);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.fs.state();
        let struck = state.strike(Op::Sync, &self.path);
        if let Node::File { data, synced, failed, .. } = &mut state.nodes[self.node] {
            if struck.is_err() {
                *failed = Some(data.clone());
            } else if let Some(failed) = failed {
                *synced = sync_after_failure(data, synced, failed);
            } else {
                synced.clone_from(data);
            }
        }
        struck?;
        state.note("sync", &self.path);
        Ok(())
    }

    fn modified_ms(&self) -> io::Result<i64> {
        Ok(*self.fs.state().file(self.node)?.2)
    }
}

impl FileLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.fs.state().locks.remove(&self.path);
    }
}

impl Fs for SimFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut state = self.state();
        let found = state.find(path);
        let node = match (found, mode) {
            (None, OpenMode::Create | OpenMode::Truncate) => {
                let node = state.create(path, Node::file(Vec::new(), 0))?;
                let now_ms = state.now_ms;
                *state.file(node)?.2 = now_ms;
                state.note("create", path);
                node
            }
            (None, OpenMode::Read | OpenMode::ReadWrite) => return Err(missing()),
            (Some(node), _) => {
                state.strike(Op::Open, path)?;
                if mode == OpenMode::Truncate {
                    state.file(node)?.0.clear();
                    state.note("cut", path);
                }
                node
            }
        };
        Ok(Arc::new(SimFile { fs: self.clone(), node, path: path.to_owned() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::from("/");
        for name in parts(path) {
            at.push(name);
            let mut state = self.state();
            if state.find(&at).is_none() {
                state.create(&at, Node::dir())?;
                state.note("mkdir", &at);
            }
        }
        Ok(())
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.state();
        state.strike(Op::ReadDir, path)?;
        let node = state.find(path).ok_or_else(missing)?;
        let Node::Dir { entries, .. } = &state.nodes[node] else {
            return Err(io::ErrorKind::NotADirectory.into());
        };
        Ok(entries.iter().map(|(name, node)| state.entry(name.clone(), *node)).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Option<DirEntry>> {
        let state = self.state();
        let name = parts(path).last().copied().unwrap_or_default().to_owned();
        Ok(state.find(path).map(|node| state.entry(name, node)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.find(from).ok_or_else(missing)?;
        state.strike(Op::Rename, from)?;
        let (source, old) = state.parent(from)?;
        let (target, new) = state.parent(to)?;
        if source == target {
            state.change(source, Change::Rename(old, new))?;
        } else {
            state.change(target, Change::Link(new, node))?;
            state.change(source, Change::Unlink(old))?;
        }
        state.note("rename", Path::new(&format!("{} {}", from.display(), to.display())));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.find(path).is_none() {
            return Ok(());
        }
        state.strike(Op::Remove, path)?;
        let (parent, name) = state.parent(path)?;
        state.change(parent, Change::Unlink(name))?;
        state.note("remove", path);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.strike(Op::SyncDir, path)?;
        let node = state.find(path).ok_or_else(missing)?;
        if let Node::Dir { entries, synced, changes } = &mut state.nodes[node] {
            synced.clone_from(entries);
            changes.clear();
        }
        state.note("syncdir", path);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        self.open(path, OpenMode::Create)?;
        if !self.state().locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { fs: self.clone(), path: path.to_owned() }))
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let usable = self.state().room.unwrap_or(1 << 40);
        Ok(Space { total: 1 << 40, usable })
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        self.state().find(path).ok_or_else(missing)?;
        Ok(Path::new("/").join(parts(path).iter().collect::<PathBuf>()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(fs: &SimFs, path: &str) -> Option<Vec<u8>> {
        fs.read(Path::new(path), 1 << 20).ok()
    }

    #[test]
    fn synced_bytes_and_names_survive_and_the_rest_may_not() {
        let fs = SimFs::new(1);
        fs.create_dir_all(Path::new("/d")).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        fs.write_atomic(Path::new("/d/kept"), b"kept").unwrap();
        let lost = fs.open(Path::new("/d/lost"), OpenMode::Create).unwrap();
        lost.write_all_at(&[b"lost"], 0).unwrap();
        lost.sync().unwrap();
        let kept = fs.open(Path::new("/d/kept"), OpenMode::ReadWrite).unwrap();
        kept.write_all_at(&[&[1; 3000]], 4).unwrap();
        let (mut gone, mut torn) = (0, 0);
        for _ in 0..50 {
            let left = fs.crash();
            let bytes = content(&left, "/d/kept").unwrap();
            assert_eq!(&bytes[..4], b"kept");
            torn += usize::from(bytes.len() > 4 && bytes[4..] != [1; 3000]);
            gone += usize::from(content(&left, "/d/lost").is_none());
        }
        assert!(gone > 5 && torn > 5, "{gone} {torn}");
        assert_eq!(content(&fs.killed(), "/d/lost").unwrap(), b"lost");
    }

    #[test]
    fn a_sync_that_failed_is_not_made_good_by_the_next() {
        let fs = SimFs::new(1);
        let file = fs.open(Path::new("/a"), OpenMode::Create).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        file.write_all_at(&[b"1234"], 0).unwrap();
        fs.fail_next(Op::Sync, "/a", io::ErrorKind::Other);
        assert!(file.sync().is_err());
        file.write_all_at(&[b"56"], 4).unwrap();
        file.sync().unwrap();
        let left: Vec<_> = (0..30).filter_map(|_| content(&fs.crash(), "/a")).collect();
        assert!(left.iter().any(|l| l == b"\0\0\0\x0056"), "{left:?}");
        assert!(left.iter().all(|l| &l[4..] == b"56"), "{left:?}");
    }

    #[test]
    fn errors_and_a_full_disk() {
        let fs = SimFs::new(1);
        let file = fs.open(Path::new("/a"), OpenMode::Create).unwrap();
        fs.fail_next(Op::Write, "/a", io::ErrorKind::Other);
        assert!(file.write_all_at(&[b"1234"], 0).is_err());
        assert_eq!(file.len().unwrap(), 2, "a part is left behind");
        file.write_all_at(&[b"1234"], 0).unwrap();
        fs.set_room(Some(3));
        let full = file.write_all_at(&[b"56789"], 4).unwrap_err();
        assert_eq!((full.kind(), file.len().unwrap()), (io::ErrorKind::StorageFull, 7));
        file.write_all_at(&[b"abc"], 0).unwrap();
        fs.fill_disk();
        assert!(fs.open(Path::new("/b"), OpenMode::Create).is_err());
    }
}
