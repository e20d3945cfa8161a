//! What is in a partition's directory, and tidying it after an interrupted deletion or cleaning
//! (`LogLoader.removeTempFilesAndCollectSwapFiles`): the first step of loading.

use std::collections::BTreeMap;

use super::{
    error::{LogError, is_missing},
    log::Log,
    names,
    scan::{HEADERS_WINDOW, Scanner},
};
use crate::base::{
    Offset,
    ports::{DirEntry, OpenMode},
};

/// Sizes of the files of one segment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Files {
    pub(super) log: Option<u64>,
    pub(super) index: Option<u64>,
    pub(super) time_index: Option<u64>,
    pub(super) txn_index: bool,
}

impl Log {
    /// Removes what an interrupted deletion or cleaning left, finishes an interrupted swap, and
    /// lists the files of the segments.
    pub(super) fn survey(&mut self) -> Result<BTreeMap<Offset, Files>, LogError> {
        let mut entries = self.entries()?;
        if self.remove_leftovers(&entries)? {
            entries = self.entries()?;
        }
        let mut out: BTreeMap<Offset, Files> = BTreeMap::new();
        for entry in &entries {
            let Some((base, suffix)) = names::parse_file(&entry.name) else { continue };
            match suffix {
                names::LOG => out.entry(base).or_default().log = Some(entry.len),
                names::INDEX => out.entry(base).or_default().index = Some(entry.len),
                names::TIME_INDEX => out.entry(base).or_default().time_index = Some(entry.len),
                names::TXN_INDEX => out.entry(base).or_default().txn_index = true,
                _ => {}
            }
        }
        for (base, files) in &out {
            if files.log.is_none() {
                for suffix in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX] {
                    self.remove(&names::file(*base, suffix))?;
                }
            }
        }
        out.retain(|_, files| files.log.is_some());
        Ok(out)
    }

    fn entries(&self) -> Result<Vec<DirEntry>, LogError> {
        let folder = self.folder();
        match self.dir.fs().read_dir(&folder) {
            Ok(all) => Ok(all.into_iter().filter(|e| !e.is_dir).collect()),
            Err(e) if is_missing(&e) => Ok(Vec::new()),
            Err(e) => Err(self.fault("listing", &folder, e)),
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<(), LogError> {
        let path = self.folder().join(name);
        self.dir.fs().remove_file(&path).map_err(|e| self.fault("removing", &path, e))
    }

    /// Tells whether anything changed.
    fn remove_leftovers(&mut self, entries: &[DirEntry]) -> Result<bool, LogError> {
        let ending = |suffix: &'static str| {
            entries.iter().filter_map(move |e| Some((&e.name, e.name.strip_suffix(suffix)?)))
        };
        let base = |name: &str| names::parse_file(name).map_or(0, |(base, _)| base);
        let lowest_cleaned = ending(names::CLEANED).map(|(_, plain)| base(plain)).min();
        let mut changed = false;
        let litter = [names::DELETED, names::CLEANED, names::TMP];
        for (name, _) in litter.into_iter().flat_map(ending) {
            self.remove(name)?;
            changed = true;
        }
        let mut swaps = Vec::new();
        for (name, plain) in ending(names::SWAP) {
            changed = true;
            if lowest_cleaned.is_some_and(|lowest| base(plain) >= lowest) {
                self.remove(name)?;
            } else {
                swaps.push((name.clone(), plain.to_owned()));
            }
        }
        self.finish_swap(entries, &swaps)?;
        Ok(changed)
    }

    /// The cleaned segments take the place of those whose offsets they cover.
    fn finish_swap(
        &mut self,
        entries: &[DirEntry],
        swaps: &[(String, String)],
    ) -> Result<(), LogError> {
        let (mut from, mut to) = (Offset::MAX, Offset::MIN);
        for (name, plain) in swaps {
            if let Some((base, names::LOG)) = names::parse_file(plain) {
                from = from.min(base);
                to = to.max(self.end_of_file(name, base)?);
            }
        }
        for entry in entries {
            if let Some((base, names::LOG | names::INDEX | names::TIME_INDEX | names::TXN_INDEX)) =
                names::parse_file(&entry.name)
                && (from..to).contains(&base)
            {
                self.remove(&entry.name)?;
            }
        }
        for (name, plain) in swaps {
            let path = self.folder().join(name);
            let done = self.dir.fs().rename(&path, &self.folder().join(plain));
            done.map_err(|e| self.fault("renaming", &path, e))?;
        }
        Ok(())
    }

    fn end_of_file(&self, name: &str, base: Offset) -> Result<Offset, LogError> {
        let path = self.folder().join(name);
        let read = || {
            let file = self.dir.fs().open(&path, OpenMode::Read)?;
            let len = file.len()?;
            let mut walk = Scanner::new(file, 0, len, HEADERS_WINDOW);
            let mut end = base;
            while let Some(Ok((_, h))) = walk.next()? {
                end = h.next_offset();
            }
            Ok(end)
        };
        read().map_err(|e| self.fault("reading", &path, e))
    }
}
