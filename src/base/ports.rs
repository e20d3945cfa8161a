//! The ports through which logic meets the world: clock, entropy, files. `os` makes them real,
//! `testing` makes them seeded and crashable. Nothing else differs between production and
//! simulation.

use std::{
    fmt, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::time::Now;

/// Reads both clocks.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The present.
    fn now(&self) -> Now;
}

/// A source of random bytes.
pub trait Entropy: Send + Sync + fmt::Debug {
    /// Fills `buf` with random bytes.
    fn fill(&self, buf: &mut [u8]);

    /// A random number.
    fn u64(&self) -> u64 {
        let mut b = [0; 8];
        self.fill(&mut b);
        u64::from_le_bytes(b)
    }

    /// A random type-4 id as `kafka-storage random-uuid` draws it.
    fn uuid(&self) -> super::Uuid {
        loop {
            let mut b = [0; 16];
            self.fill(&mut b);
            if let Some(id) = super::Uuid::random_from(b) {
                return id;
            }
        }
    }
}

/// How [`Fs::open`] opens a file. All modes but `Read` allow reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file.
    ReadWrite,
    /// Created if absent, kept if present.
    Create,
    /// Created, or emptied if present.
    Truncate,
}

/// An open file. All calls are positional; none moves a cursor, so that one handle serves many.
pub trait File: Send + Sync + fmt::Debug {
    /// Reads at most `buf.len()` bytes from `pos`; 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize>;

    /// As [`File::read_at`], but answers `WouldBlock` instead of waiting for the disk.
    fn read_at_nowait(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        self.read_at(buf, pos)
    }

    /// Fills `buf` from `pos`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends first.
    fn read_exact_at(&self, mut buf: &mut [u8], mut pos: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.read_at(buf, pos)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => {
                    buf = buf.split_at_mut(n).1;
                    pos += n as u64;
                }
            }
        }
        Ok(())
    }

    /// Writes all of `parts`, one after the other, at `pos`. On an error some bytes may be there.
    fn write_all_at(&self, parts: &[&[u8]], pos: u64) -> io::Result<()>;

    /// The file's length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no byte.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends (with zeros) the file to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes what was written durable (`fdatasync`). A failure is final for this file's directory:
    /// it must never be tried again as though it could succeed.
    fn sync(&self) -> io::Result<()>;

    /// When the content last changed, in milliseconds since the Unix epoch.
    fn modified_ms(&self) -> io::Result<i64>;

    /// The descriptor, for `sendfile`; `None` where there is none (simulation).
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A run of bytes in a file. Holds the file open, so that deletion cannot take the bytes away.
#[derive(Debug, Clone)]
pub struct FileSlice {
    /// The file.
    pub file: Arc<dyn File>,
    /// Where the run begins.
    pub pos: u64,
    /// Its length in bytes.
    pub len: usize,
}

/// What [`Fs::read_dir`] finds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The last part of the path; an entry whose name is not UTF-8 is not listed.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Its length in bytes (0 for a directory).
    pub len: u64,
}

/// Bytes of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total: u64,
    /// What this process may still use.
    pub usable: u64,
}

/// A lock on a file; dropping it releases the lock.
pub trait FileLock: Send + Sync + fmt::Debug {}

/// A file system.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Opens the file at `path`.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Makes a directory and its missing parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted by name.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// What is at `path`; `None` if nothing is.
    fn stat(&self, path: &Path) -> io::Result<Option<DirEntry>>;
    /// Renames a file or directory, replacing a file at `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. A file that is already gone is no error.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all in it. One that is already gone is no error.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable (`fsync` of the directory).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Takes the exclusive lock on the file at `path`, creating it if absent.
    ///
    /// # Errors
    /// `WouldBlock` if another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn FileLock>>;
    /// Size and room of the file system that holds `path`.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// The absolute path of `path`, without symbolic links.
    fn canonical(&self, path: &Path) -> io::Result<PathBuf>;

    /// The whole content of a file of at most `max` bytes.
    ///
    /// # Errors
    /// `FileTooLarge` if it is longer than `max`.
    fn read(&self, path: &Path, max: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let len = file.len()?;
        if len > max {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{} has {len} bytes, more than {max}", path.display()),
            ));
        }
        let mut out = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut out, 0)?;
        Ok(out)
    }

    /// Replaces the file at `path` by `content` such that a crash leaves the old or the new one:
    /// write `<path>.tmp`, sync, rename, sync the directory.
    fn write_atomic(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut tmp = path.as_os_str().to_owned();
        tmp.push(".tmp");
        let tmp = PathBuf::from(tmp);
        let file = self.open(&tmp, OpenMode::Truncate)?;
        file.write_all_at(&[content], 0)?;
        file.sync()?;
        drop(file);
        self.rename(&tmp, path)?;
        self.sync_dir(path.parent().unwrap_or_else(|| Path::new(".")))
    }
}
