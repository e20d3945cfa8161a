//! Copies of partitions that move into a directory: each lies in a directory of its own,
//! `<topic>-<partition>.<id>-future`, until it takes the partition's place by a rename
//! (`LogManager.replaceCurrentWithFutureLog`). No partition has both its log and a copy of it in
//! the same log directory.

use std::{collections::BTreeMap, path::PathBuf, sync::PoisonError};

use super::{
    dir::{LogDir, Removal},
    error::{LogError, is_missing},
    log::Log,
    names::{self, Fate},
};
use crate::base::{Mono, TopicPartition, Uuid};

/// The longest name of a directory.
const NAME_LEN_MAX: usize = 255;

/// The copies in one log directory, by partition: the names of their directories.
pub(super) type Futures = BTreeMap<TopicPartition, String>;

impl LogDir {
    fn futures(&self) -> std::sync::MutexGuard<'_, Futures> {
        self.futures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the files of `tp` are: in its copy's directory as long as there is one here.
    pub(super) fn folder(&self, tp: &TopicPartition) -> PathBuf {
        match self.futures().get(tp) {
            Some(name) => self.path().join(name),
            None => self.path().join(tp.to_string()),
        }
    }

    /// Lets the log of `tp` that is made here from now on be a copy, in a directory named with
    /// `unique`. Tells whether that name is short enough.
    pub fn begin_future(&self, tp: &TopicPartition, unique: Uuid) -> bool {
        let name = names::doomed_dir(tp, unique, Fate::Future);
        let fits = name.len() <= NAME_LEN_MAX;
        if fits {
            self.futures().insert(tp.clone(), name);
        }
        fits
    }

    /// Takes over a copy that an earlier run left as `name`.
    pub fn adopt_future(&self, tp: &TopicPartition, name: &str) {
        self.futures().insert(tp.clone(), name.to_owned());
    }

    /// The copy of `tp` becomes its log, durably. The files of its `Log` must be closed.
    ///
    /// # Errors
    /// `Full`: it is still a copy. `Io`, `Offline`.
    pub fn promote_future(&self, tp: &TopicPartition) -> Result<(), LogError> {
        self.check()?;
        let mut futures = self.futures();
        let Some(name) = futures.get(tp) else { return Ok(()) };
        let (from, to) = (self.path().join(name), self.path().join(tp.to_string()));
        match self.fs().rename(&from, &to) {
            // Nothing was ever appended.
            Err(e) if is_missing(&e) => {}
            done => done.map_err(|e| self.fault("renaming", &from, e))?,
        }
        futures.remove(tp);
        drop(futures);
        self.sync_dir(self.path())
    }

    /// Gives the copy of `tp` up: what is on disk of it is removed when `due` has come. `unique`
    /// is a fresh id.
    ///
    /// # Errors
    /// `Full`, `Io`, `Offline`: the next start finds it and removes it.
    pub fn drop_future(
        &self,
        tp: &TopicPartition,
        unique: Uuid,
        due: Mono,
    ) -> Result<(), LogError> {
        let Some(name) = self.futures().remove(tp) else { return Ok(()) };
        self.check()?;
        let from = self.path().join(name);
        let to = self.path().join(names::doomed_dir(tp, unique, Fate::Delete));
        match self.fs().rename(&from, &to) {
            Err(e) if is_missing(&e) => return Ok(()),
            done => done.map_err(|e| self.fault("renaming", &from, e))?,
        }
        self.sync_dir(self.path())?;
        self.schedule(Removal { paths: vec![to], dirs: true, due });
        Ok(())
    }
}

impl Log {
    /// Takes the place of `other`, both being logs of one partition: a flush of that one that is
    /// still under way proves nothing about this.
    pub fn succeed(&mut self, other: &Self) {
        self.truncations = other.truncations.wrapping_add(1);
    }
}
