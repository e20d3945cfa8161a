//! `meta.properties`, the identity of a formatted directory, and the checks over all directories of
//! a node (`MetaProperties`, `MetaPropertiesEnsemble`). Text in, text out: callers read and write
//! the files. Uses `base`, `properties`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use super::properties;
use crate::base::{NodeId, Uuid, civil::Civil};

/// The name of the file in every formatted directory.
pub const META_PROPERTIES: &str = "meta.properties";
/// The directory of the metadata log within its log directory.
pub const METADATA_LOG: &str = "__cluster_metadata-0";
/// Longest `meta.properties` that is read, in bytes.
pub const META_PROPERTIES_BYTES_MAX: u64 = 64 * 1024;

/// What one `meta.properties` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaProperties {
    /// 1; 0 for files of the ZooKeeper era.
    pub version: i32,
    /// The cluster's id; always there in version 1. Any text.
    pub cluster_id: Option<String>,
    /// The node's id; always there in version 1.
    pub node_id: Option<NodeId>,
    /// The directory's id.
    pub directory_id: Option<Uuid>,
}

impl MetaProperties {
    /// Version 1 with all ids.
    #[must_use]
    pub fn new(cluster_id: &str, node_id: NodeId, directory_id: Uuid) -> Self {
        Self {
            version: 1,
            cluster_id: Some(cluster_id.to_owned()),
            node_id: Some(node_id),
            directory_id: Some(directory_id),
        }
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// What is missing or cannot be read, as one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let entries = properties::parse(text).map_err(|e| e.to_string())?;
        let map: BTreeMap<_, _> = entries.into_iter().map(|e| (e.key, e.value)).collect();
        let id = |key: &str| {
            map.get(key)
                .map(|v| {
                    v.parse().map_err(|_| format!("Unable to read {key} as a base-10 number."))
                })
                .transpose()
        };
        let version = match map.get("version").map_or("0", String::as_str) {
            "0" => 0,
            "1" => 1,
            other => return Err(format!("Unknown version number {other}")),
        };
        let node_id = id(if version == 0 { "broker.id" } else { "node.id" })?.map(NodeId);
        let cluster_id = map.get("cluster.id").cloned();
        let directory_id = map
            .get("directory.id")
            .map(|v| v.parse().map_err(|e| format!("Unable to read directory.id as a Uuid: {e}")))
            .transpose()?;
        if version == 1 && node_id.is_none() {
            return Err("Failed to find node.id".to_owned());
        }
        if version == 1 && cluster_id.is_none() {
            return Err("cluster.id was not found.".to_owned());
        }
        Ok(Self { version, cluster_id, node_id, directory_id })
    }

    /// The keys and values, sorted by key.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut out = Vec::new();
        let node = self.node_id.map(|id| id.to_string());
        if self.version == 0 {
            out.extend(node.clone().map(|id| ("broker.id", id)));
        }
        out.extend(self.cluster_id.clone().map(|id| ("cluster.id", id)));
        out.extend(self.directory_id.map(|id| ("directory.id", id.to_string())));
        if self.version != 0 {
            out.extend(node.map(|id| ("node.id", id)));
        }
        out.push(("version", self.version.to_string()));
        out
    }

    /// The file's text, dated `now_ms` (milliseconds since the Unix epoch).
    #[must_use]
    pub fn text(&self, now_ms: i64) -> String {
        let mut out = format!("#\n#{}\n", Civil::from_unix_ms(now_ms).java_date());
        for (key, value) in self.pairs() {
            let _ = writeln!(out, "{}", properties::line(key, &value));
        }
        out
    }
}

/// What was found in one directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirState {
    /// A readable `meta.properties`.
    Formatted(MetaProperties),
    /// None.
    Unformatted,
    /// The file or the directory cannot be read.
    Failed(String),
}

/// All directories of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensemble {
    /// By path.
    pub dirs: BTreeMap<PathBuf, DirState>,
    /// The directory of the metadata log; one of `dirs`.
    pub metadata_dir: PathBuf,
}

/// What a node is, by its directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: String,
    /// Ids of the usable directories. A directory without an id gets one from the caller, who
    /// writes its file anew.
    pub directory_ids: BTreeMap<PathBuf, Option<Uuid>>,
    /// Directories that cannot be used, with the reason: they start offline.
    pub offline: BTreeMap<PathBuf, String>,
}

/// Why a node with these directories must not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nothing is formatted.
    #[error("No readable meta.properties files found: none of {} is formatted", show(.0))]
    NothingFormatted(Vec<PathBuf>),
    /// Some directories are formatted, these are not.
    #[error("{} not formatted, while other directories are", show(.0))]
    PartlyFormatted(Vec<PathBuf>),
    /// The directories contradict each other or the configuration.
    #[error("{0}")]
    Mismatch(String),
    /// The directory of the metadata log cannot be read.
    #[error(
        "Encountered I/O error in metadata log directory {}. Cannot continue: {}",
        .0.display(),
        .1
    )]
    MetadataDirFailed(PathBuf, String),
}

fn show(dirs: &[PathBuf]) -> String {
    let dirs: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
    dirs.join(", ")
}

impl Ensemble {
    /// Looks at every directory; `read` gives the bytes of a file, `None` if there is no such file.
    pub fn read(
        dirs: impl IntoIterator<Item = PathBuf>,
        metadata_dir: &Path,
        read: impl Fn(&Path) -> io::Result<Option<Vec<u8>>>,
    ) -> Self {
        let state = |dir: &Path| match read(&dir.join(META_PROPERTIES)) {
            Ok(None) => DirState::Unformatted,
            Ok(Some(bytes)) => match MetaProperties::parse(&properties::decode(bytes)) {
                Ok(meta) => DirState::Formatted(meta),
                Err(e) => DirState::Failed(e),
            },
            Err(e) => DirState::Failed(e.to_string()),
        };
        let mut all: BTreeMap<_, _> = BTreeMap::new();
        for dir in dirs.into_iter().chain([metadata_dir.to_owned()]) {
            let found = state(&dir);
            all.insert(dir, found);
        }
        Self { dirs: all, metadata_dir: metadata_dir.to_owned() }
    }

    /// The directories with a readable file.
    pub fn formatted(&self) -> impl Iterator<Item = (&Path, &MetaProperties)> {
        self.dirs.iter().filter_map(|(dir, state)| match state {
            DirState::Formatted(meta) => Some((dir.as_path(), meta)),
            DirState::Unformatted | DirState::Failed(_) => None,
        })
    }

    /// The directories without a file.
    #[must_use]
    pub fn unformatted(&self) -> Vec<PathBuf> {
        let empty = |(_, s): &(&PathBuf, &DirState)| **s == DirState::Unformatted;
        self.dirs.iter().filter(empty).map(|(dir, _)| dir.clone()).collect()
    }

    /// The directories that cannot be read, with the reason.
    pub fn failed(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.dirs.iter().filter_map(|(dir, state)| match state {
            DirState::Failed(why) => Some((dir.as_path(), why.as_str())),
            DirState::Formatted(_) | DirState::Unformatted => None,
        })
    }

    /// The cluster's id, from the first directory that has one.
    #[must_use]
    pub fn cluster_id(&self) -> Option<&str> {
        self.formatted().find_map(|(_, meta)| meta.cluster_id.as_deref())
    }

    /// Checks that the formatted directories agree with each other and with what is expected
    /// (`MetaPropertiesEnsemble.verify`).
    ///
    /// # Errors
    /// `Mismatch`, `MetadataDirFailed`.
    pub fn verify(
        &self,
        cluster_id: Option<&str>,
        node_id: Option<NodeId>,
    ) -> Result<(), IdentityError> {
        let (mut cluster_id, mut node_id) = (cluster_id, node_id);
        let mut seen: BTreeMap<Uuid, &Path> = BTreeMap::new();
        for (dir, meta) in self.formatted() {
            let path = dir.join(META_PROPERTIES);
            let mismatch = |text: String| Err(IdentityError::Mismatch(text));
            if let Some(read) = meta.cluster_id.as_deref() {
                let expected = *cluster_id.get_or_insert(read);
                if expected != read {
                    let path = path.display();
                    return mismatch(format!(
                        "Invalid cluster.id in: {path}. Expected {expected}, but read {read}"
                    ));
                }
            }
            if let Some(read) = meta.node_id {
                let expected = *node_id.get_or_insert(read);
                if expected != read {
                    return mismatch(format!(
                        "Stored node id {read} doesn't match previous node id {expected} in {}. If \
                         you moved your data, make sure your configured node id matches. If you \
                         intend to create a new node, you should remove all data in your data \
                         directories.",
                        path.display()
                    ));
                }
            }
            let Some(id) = meta.directory_id else { continue };
            if id.is_reserved() {
                let dir = dir.display();
                return mismatch(format!("Invalid reserved directory ID {id} found in {dir}"));
            }
            if let Some(other) = seen.insert(id, dir) {
                return mismatch(format!(
                    "Duplicate directory ID {id} found. It was the ID of {}, but also of {}",
                    other.display(),
                    dir.display()
                ));
            }
        }
        match self.dirs.get(&self.metadata_dir) {
            Some(DirState::Failed(why)) => {
                Err(IdentityError::MetadataDirFailed(self.metadata_dir.clone(), why.clone()))
            }
            _ => Ok(()),
        }
    }

    /// What a node with the configured `node_id` is; `has_metadata_log` tells whether a directory
    /// holds `__cluster_metadata-0`.
    ///
    /// # Errors
    /// Why it must not start.
    pub fn identity(
        &self,
        node_id: NodeId,
        has_metadata_log: impl Fn(&Path) -> bool,
    ) -> Result<Identity, IdentityError> {
        let unformatted = self.unformatted();
        if self.formatted().next().is_none() {
            self.verify(None, None)?;
            return Err(IdentityError::NothingFormatted(self.dirs.keys().cloned().collect()));
        }
        if let Some((dir, _)) = self.formatted().find(|(_, meta)| meta.version == 0) {
            return Err(IdentityError::Mismatch(format!(
                "Found unexpected version in {}: version 0 is of the ZooKeeper era; this node \
                 needs version 1",
                dir.join(META_PROPERTIES).display()
            )));
        }
        self.verify(None, Some(node_id))?;
        if !unformatted.is_empty() {
            return Err(IdentityError::PartlyFormatted(unformatted));
        }
        for dir in self.dirs.keys().filter(|d| **d != self.metadata_dir) {
            if has_metadata_log(dir) {
                return Err(IdentityError::Mismatch(format!(
                    "Found unexpected metadata location in data directory {} as the configured \
                     metadata directory is {}.",
                    dir.display(),
                    self.metadata_dir.display()
                )));
            }
        }
        let cluster_id = self.cluster_id().unwrap_or_default().to_owned();
        Ok(Identity {
            cluster_id,
            directory_ids: self
                .formatted()
                .map(|(dir, meta)| (dir.to_owned(), meta.directory_id))
                .collect(),
            offline: self.failed().map(|(d, why)| (d.to_owned(), why.to_owned())).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> Uuid {
        Uuid([n; 16])
    }

    fn ensemble(dirs: &[(&str, Option<&str>)]) -> Ensemble {
        let text = |path: &Path| {
            let dir = path.parent().unwrap().to_str().unwrap();
            let found = dirs.iter().find(|(d, _)| *d == dir).unwrap().1;
            match found {
                Some("error") => Err(io::Error::other("disk")),
                found => Ok(found.map(|t| t.as_bytes().to_vec())),
            }
        };
        Ensemble::read(dirs.iter().map(|(d, _)| PathBuf::from(d)), Path::new("/a"), text)
    }

    #[test]
    fn what_is_written_reads_back() {
        let meta = MetaProperties::new("a=b c", NodeId(7), id(9));
        let text = meta.text(1_795_405_276_000);
        assert_eq!(
            text,
            "#\n#Mon Nov 23 03:41:16 UTC 2026\ncluster.id=a\\=b c\n\
             directory.id=CQkJCQkJCQkJCQkJCQkJCQ\nnode.id=7\nversion=1\n"
        );
        assert_eq!(MetaProperties::parse(&text), Ok(meta));
    }

    #[test]
    fn incomplete_files_are_refused() {
        for text in [
            "version=1\nnode.id=1",
            "version=1\ncluster.id=a",
            "version=1\ncluster.id=a\nnode.id=x",
            "version=2\ncluster.id=a\nnode.id=1",
            "version=1\ncluster.id=a\nnode.id=1\ndirectory.id=?",
        ] {
            assert!(MetaProperties::parse(text).is_err(), "{text}");
        }
        assert!(MetaProperties::parse("broker.id=1").is_ok());
    }

    #[test]
    fn directories_must_agree() {
        let (a, b) = (id(1), id(2));
        let meta = |cluster, node, dir| MetaProperties::new(cluster, NodeId(node), dir).text(0);
        let check = |first: &str, second: Option<&str>| {
            ensemble(&[("/a", Some(first)), ("/b", second)]).identity(NodeId(1), |_| false)
        };
        let good = meta("c", 1, a);
        let identity = check(&good, Some(&meta("c", 1, b))).unwrap();
        assert_eq!(identity.cluster_id, "c");
        assert_eq!(identity.directory_ids.get(Path::new("/b")), Some(&Some(b)));
        for (second, text) in [
            (Some(meta("d", 1, b)), "Invalid cluster.id"),
            (Some(meta("c", 2, b)), "Stored node id 2"),
            (Some(meta("c", 1, a)), "Duplicate directory ID"),
            (Some(meta("c", 1, Uuid::ONE)), "reserved"),
            (Some("broker.id=1\n".to_owned()), "version 0"),
            (None, "/b not formatted"),
        ] {
            let got = check(&good, second.as_deref()).unwrap_err().to_string();
            assert!(got.contains(text), "{got}");
        }
        let none = check_none();
        assert!(none.contains("No readable meta.properties"), "{none}");
    }

    fn check_none() -> String {
        let none = ensemble(&[("/a", None), ("/b", None)]);
        none.identity(NodeId(1), |_| false).unwrap_err().to_string()
    }

    #[test]
    fn a_bad_disk_is_offline_unless_it_holds_the_metadata() {
        let good = MetaProperties::new("c", NodeId(1), id(1)).text(0);
        let one = ensemble(&[("/a", Some(&good)), ("/b", Some("error"))]);
        let identity = one.identity(NodeId(1), |_| false).unwrap();
        assert_eq!(identity.offline.len(), 1);
        let strayed = one.identity(NodeId(1), |d| d == Path::new("/b")).unwrap_err();
        assert!(strayed.to_string().contains("unexpected metadata location"));
        let two = ensemble(&[("/a", Some("error")), ("/b", Some(&good))]);
        let refused = two.identity(NodeId(1), |_| false).unwrap_err();
        assert!(matches!(refused, IdentityError::MetadataDirFailed(..)));
    }
}
