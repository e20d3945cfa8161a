//! Files of the operating system, by `std` and `rustix`.
#![expect(clippy::disallowed_methods, reason = "this is the file system")]

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use crate::base::ports::{DirEntry, File, FileLock, Fs, OpenMode, Space};

/// The file system of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsFs;

#[derive(Debug)]
struct OsFile(fs::File);

impl File for OsFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, pos) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn read_at_nowait(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let mut parts = [io::IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.0, &mut parts, pos, rustix::io::ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(n),
            // A file system without the probe: an ordinary read is all there is.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {
                self.read_at(&mut parts[0], pos)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn write_all_at(&self, parts: &[&[u8]], mut pos: u64) -> io::Result<()> {
        if let [one] = parts {
            return self.0.write_all_at(one, pos);
        }
        let mut slices: Vec<_> = parts.iter().map(|p| io::IoSlice::new(p)).collect();
        let mut left = slices.as_mut_slice();
        while left.iter().any(|s| !s.is_empty()) {
            // The kernel takes at most IOV_MAX parts a call.
            let take = left.len().min(1024);
            match rustix::io::pwritev(&self.0, &left[..take], pos) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    io::IoSlice::advance_slices(&mut left, n);
                    pos += n as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn modified_ms(&self) -> io::Result<i64> {
        let at = self.0.metadata()?.modified()?;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

#[derive(Debug)]
struct OsLock(#[expect(dead_code, reason = "held for its lock")] fs::File);

impl FileLock for OsLock {}

fn gone_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

impl Fs for OsFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut o = fs::OpenOptions::new();
        o.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => _ = o.write(true),
            OpenMode::Create => _ = o.write(true).create(true).truncate(false),
            OpenMode::Truncate => _ = o.write(true).create(true).truncate(true),
        }
        Ok(Arc::new(OsFile(o.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            match entry.metadata() {
                Ok(m) => {
                    let len = if m.is_dir() { 0 } else { m.len() };
                    out.push(DirEntry { name, is_dir: m.is_dir(), len });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        out.sort();
        Ok(out)
    }

    fn stat(&self, path: &Path) -> io::Result<Option<DirEntry>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match fs::metadata(path) {
            Ok(m) => {
                let len = if m.is_dir() { 0 } else { m.len() };
                Ok(Some(DirEntry { name, is_dir: m.is_dir(), len }))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        gone_is_fine(fs::remove_file(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        gone_is_fine(fs::remove_dir_all(path))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        fs::File::open(path)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(OsLock(file))),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let s = rustix::fs::statvfs(path)?;
        let unit = s.f_frsize;
        Ok(Space {
            total: s.f_blocks.saturating_mul(unit),
            usable: s.f_bavail.saturating_mul(unit),
        })
    }

    fn canonical(&self, path: &Path) -> io::Result<PathBuf> {
        fs::canonicalize(path)
    }
}
