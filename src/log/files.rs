//! A bounded cache of open files, shared by all logs of the process.
//!
//! A partition does not own descriptors: it holds a [`FileRef`], and the cache holds the file open
//! while it is in use. Finding an open file costs no lock. When the bound is reached, the cache
//! lets go of a file not used since the last round (second chance); whoever still reads from it
//! keeps it alive until done.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::base::ports::File;

#[derive(Debug)]
struct Cached {
    file: Arc<dyn File>,
    used: AtomicBool,
    slot: usize,
}

/// A file that may be open. Cloning shares what is open.
#[derive(Debug, Clone, Default)]
pub struct FileRef(Weak<Cached>);

#[derive(Debug, Default)]
struct Slots {
    cells: Vec<Option<Arc<Cached>>>,
    free: Vec<usize>,
    hand: usize,
}

/// The cache. At most `capacity` files are kept open by it.
#[derive(Debug)]
pub struct FileCache {
    capacity: usize,
    slots: Mutex<Slots>,
}

impl FileCache {
    /// A cache that keeps at most `capacity` files open; at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), slots: Mutex::default() }
    }

    /// The file of `at`, opened by `open` if it is not open.
    ///
    /// # Errors
    /// What `open` says. Out of descriptors, half of the cache is let go and `open` tried again.
    pub fn get(
        &self,
        at: &mut FileRef,
        open: impl Fn() -> io::Result<Arc<dyn File>>,
    ) -> io::Result<Arc<dyn File>> {
        if let Some(cached) = at.0.upgrade() {
            cached.used.store(true, Ordering::Relaxed);
            return Ok(Arc::clone(&cached.file));
        }
        let file = match open() {
            Err(e) if out_of_descriptors(&e) => {
                self.release_half();
                open()?
            }
            done => done?,
        };
        *at = self.insert(Arc::clone(&file));
        Ok(file)
    }

    /// Lets go of the file of `at`.
    pub fn forget(&self, at: &mut FileRef) {
        if let Some(cached) = at.0.upgrade() {
            self.slots().release(cached.slot);
        }
        *at = FileRef::default();
    }

    /// How many files the cache keeps open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        let slots = self.slots();
        slots.cells.len() - slots.free.len()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Every change of `Slots` is complete before anything can panic.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, file: Arc<dyn File>) -> FileRef {
        let mut slots = self.slots();
        if slots.free.is_empty() && slots.cells.len() >= self.capacity {
            slots.evict();
        }
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.cells.push(None);
            slots.cells.len() - 1
        });
        let cached = Arc::new(Cached { file, used: AtomicBool::new(true), slot });
        let at = FileRef(Arc::downgrade(&cached));
        slots.cells[slot] = Some(cached);
        at
    }

    fn release_half(&self) {
        let mut slots = self.slots();
        for _ in 0..(slots.cells.len() - slots.free.len()).div_ceil(2) {
            slots.evict();
        }
    }
}

impl Slots {
    fn release(&mut self, slot: usize) {
        if self.cells.get_mut(slot).and_then(Option::take).is_some() {
            self.free.push(slot);
        }
    }

    /// Frees one slot: the first under the hand that was not used since the hand passed last.
    fn evict(&mut self) {
        for _ in 0..self.cells.len() * 2 {
            self.hand = (self.hand + 1) % self.cells.len();
            let idle = self.cells[self.hand]
                .as_ref()
                .is_some_and(|c| !c.used.swap(false, Ordering::Relaxed));
            if idle {
                self.release(self.hand);
                return;
            }
        }
    }
}

fn out_of_descriptors(e: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(e.raw_os_error(), Some(ENFILE | EMFILE))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::base::ports::{Fs, OpenMode};
    use crate::testing::fs::SimFs;

    #[test]
    fn the_bound_holds_and_used_files_stay() {
        let (fs, cache) = (SimFs::new(1), FileCache::new(3));
        fs.create_dir_all(Path::new("/d")).unwrap();
        let open = |n: usize| {
            let fs = &fs;
            move || fs.open(Path::new(&format!("/d/{n}")), OpenMode::Create)
        };
        let mut refs = vec![FileRef::default(); 10];
        let held = cache.get(&mut refs[0], open(0)).unwrap();
        held.write_all_at(&[b"x"], 0).unwrap();
        for (n, r) in refs.iter_mut().enumerate() {
            cache.get(r, open(n)).unwrap();
            assert!(cache.open_files() <= 3);
        }
        assert_eq!(held.len().unwrap(), 1, "whoever holds a file can use it");
        let again = cache.get(&mut refs[0], open(0)).unwrap();
        assert_eq!(again.len().unwrap(), 1);
        let before = cache.open_files();
        cache.forget(&mut refs[0]);
        assert_eq!(cache.open_files(), before - 1);
        cache.forget(&mut refs[0]);
        assert_eq!(cache.open_files(), before - 1, "forgetting twice is no harm");
    }
}
