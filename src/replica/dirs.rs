//! In which log directory a replica lies: the choice for a new one (`LogManager.nextLogDirs`,
//! `LogManager.getOrCreateLog`), and where the cluster's metadata says another than is true
//! (KIP-858). Uses `base`, `metadata`.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use super::table::ReplicaTable;
use crate::{
    base::{PartitionId, Uuid},
    metadata::Delta,
};

/// What the choice rests on.
#[derive(Debug)]
pub(super) struct DirChoice {
    /// Replicas in each directory.
    replicas: Vec<AtomicUsize>,
    /// Directories that take no new replicas (KIP-1066).
    cordoned: Mutex<Vec<Uuid>>,
    /// A configured directory could not be opened at boot.
    incomplete: AtomicBool,
    /// What lay in the directories at boot has been loaded, and the first image acted upon.
    settled: AtomicBool,
}

/// A replica whose directory the metadata does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Misplaced {
    /// The topic.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: PartitionId,
    /// Where the replica is.
    pub dir: Uuid,
}

impl DirChoice {
    pub(super) fn new(dirs: usize) -> Self {
        Self {
            replicas: (0..dirs).map(|_| AtomicUsize::new(0)).collect(),
            cordoned: Mutex::default(),
            incomplete: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        }
    }

    pub(super) fn added(&self, dir: usize) {
        if let Some(n) = self.replicas.get(dir) {
            n.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn removed(&self, dir: usize) {
        if let Some(n) = self.replicas.get(dir) {
            n.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl ReplicaTable {
    /// A directory of the configuration could not be opened: what lies in it is not known.
    pub fn lacks_a_dir(&self) {
        self.choice().incomplete.store(true, Ordering::Relaxed);
    }

    /// To be called once the first image has been acted upon: what is new from here on lies
    /// nowhere yet.
    pub fn settled(&self) {
        self.choice().settled.store(true, Ordering::Relaxed);
    }

    /// New replicas are not put into these directories, unless there is no other.
    pub fn set_cordoned(&self, dirs: Vec<Uuid>) {
        *self.choice().cordoned.lock().unwrap_or_else(PoisonError::into_inner) = dirs;
    }

    /// Whether that directory takes no new replicas.
    #[must_use]
    pub fn is_cordoned(&self, dir: Uuid) -> bool {
        let cordoned = self.choice().cordoned.lock().unwrap_or_else(PoisonError::into_inner);
        cordoned.contains(&dir)
    }

    fn online(&self, dir: usize) -> bool {
        self.dirs()[dir].log_dir.offline_reason().is_none()
    }

    /// The directory for a replica that is not here: the one that the metadata says, else the one
    /// that was wished for (AlterReplicaLogDirs), else the one with the fewest replicas. `None` where its log may lie in a directory that failed (a new,
    /// empty one would be taken for it), or if all failed. `is_new`: it was never here.
    pub(super) fn dir_for(
        &self,
        said: Uuid,
        is_new: bool,
        preferred: Option<usize>,
    ) -> Option<usize> {
        let all = 0..self.dirs().len();
        if let Some(dir) = all.clone().find(|d| self.dirs()[*d].id == said && self.online(*d)) {
            return Some(dir);
        }
        let complete = !self.choice().incomplete.load(Ordering::Relaxed)
            && all.clone().all(|d| self.online(d));
        let is_new = is_new && self.choice().settled.load(Ordering::Relaxed);
        if !complete && !is_new {
            return None;
        }
        if let Some(dir) = preferred.filter(|d| self.online(*d)) {
            return Some(dir);
        }
        let count = |d: usize| self.choice().replicas[d].load(Ordering::Relaxed);
        all.filter(|d| self.online(*d))
            .min_by_key(|d| (self.is_cordoned(self.dirs()[*d].id), count(*d)))
    }

    /// Replicas touched by `delta` that lie in another directory than the metadata says.
    #[must_use]
    pub fn misplaced(&self, delta: &Delta) -> Vec<Misplaced> {
        let changed = delta.changed_partitions();
        let mine = changed.filter_map(|d| Some((d.topic_id, d.partition, d.new?)));
        mine.filter_map(|(topic_id, partition, p)| {
            let said = p.directory(self.node_id)?;
            let slot = self.by_id(topic_id, partition)?;
            let dir = self.dirs()[slot.dir()].id;
            let moves_there = slot.lock().future().is_some_and(|f| self.dirs()[f.dir].id == said);
            (dir != said && !moves_there).then_some(Misplaced { topic_id, partition, dir })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::{
        base::{NodeId, ports::Fs},
        log::{FileCache, FlushDriver, LogDir},
        replica::table::Dir,
        testing::{
            clock::{SimClock, SimEntropy},
            fs::SimFs,
        },
    };

    const DIRS: [Uuid; 3] = [Uuid([1; 16]), Uuid([2; 16]), Uuid([3; 16])];

    fn table() -> ReplicaTable {
        let fs: Arc<dyn Fs> = Arc::new(SimFs::new(1));
        let cache = Arc::new(FileCache::new(64));
        let dir = |id: Uuid| {
            let name = format!("/{}", id.0[0]);
            fs.create_dir_all(Path::new(&name)).unwrap();
            let log_dir = LogDir::open(Arc::clone(&fs), Path::new(&name), Arc::clone(&cache));
            let flusher = Arc::new(FlushDriver::start(1).unwrap());
            Dir { log_dir: log_dir.unwrap().0, id, name, flusher }
        };
        let dirs = DIRS.into_iter().map(dir).collect();
        let (clock, entropy) = (Arc::new(SimClock::new(0)), Arc::new(SimEntropy::new(1)));
        ReplicaTable::new(NodeId(1), dirs, 10, clock, entropy)
    }

    #[test]
    fn a_new_replica_goes_where_it_is_said_or_where_there_are_fewest() {
        let table = table();
        assert_eq!(table.dir_for(DIRS[1], false, None), Some(1));
        table.choice().added(0);
        table.choice().added(1);
        assert_eq!(table.dir_for(Uuid::UNASSIGNED_DIR, true, None), Some(2));
        table.choice().added(2);
        table.choice().removed(1);
        assert_eq!(table.dir_for(Uuid([9; 16]), false, None), Some(1), "a directory of long ago");
        table.set_cordoned(vec![DIRS[1]]);
        assert_eq!(table.dir_for(Uuid::UNASSIGNED_DIR, true, None), Some(0));
        table.set_cordoned(DIRS.to_vec());
        assert_eq!(table.dir_for(Uuid::UNASSIGNED_DIR, true, None), Some(1), "there is no other");
    }

    #[test]
    fn no_empty_log_takes_the_place_of_one_that_may_lie_in_a_failed_directory() {
        let table = table();
        table.dirs()[0].log_dir.fail("test");
        assert_eq!(table.dir_for(DIRS[0], false, None), None);
        assert_eq!(table.dir_for(Uuid::UNASSIGNED_DIR, true, None), None, "not loaded yet");
        assert_eq!(table.dir_for(DIRS[2], false, None), Some(2), "that one is well");
        table.settled();
        assert_eq!(table.dir_for(Uuid::UNASSIGNED_DIR, true, None), Some(1));
        assert_eq!(table.dir_for(Uuid::UNASSIGNED_DIR, false, None), None);
        table.dirs()[1].log_dir.fail("test");
        table.dirs()[2].log_dir.fail("test");
        assert_eq!(table.dir_for(Uuid::UNASSIGNED_DIR, true, None), None);
    }

    #[test]
    fn a_directory_that_did_not_open_may_hold_what_is_missing() {
        let table = table();
        table.lacks_a_dir();
        table.settled();
        assert_eq!(table.dir_for(Uuid([9; 16]), false, None), None);
        assert_eq!(table.dir_for(Uuid([9; 16]), true, None), Some(0));
    }
}
