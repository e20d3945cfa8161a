//! What a node is by its directories: cluster id, directory ids, which directories are usable
//! (`MetaPropertiesEnsemble.java`), and the features that a new cluster begins with.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    base::{
        Uuid,
        ports::{Clock, Entropy, Fs},
    },
    config::{
        ServerConfig,
        meta_properties::{
            Ensemble, Identity, META_PROPERTIES, META_PROPERTIES_BYTES_MAX, METADATA_LOG,
            MetaProperties,
        },
    },
    log::{DirState, FileCache, LogDir},
    metadata::{Record, features},
    node::NodeError,
    quorum::Voter,
    record::bootstrap::{
        BOOTSTRAP_BYTES_MAX, BOOTSTRAP_CHECKPOINT, BootstrapFile, DynamicVoter, FIRST_CHECKPOINT,
    },
};

/// The directories of a node that has passed the checks.
pub(crate) struct Directories {
    pub(crate) cluster_id: String,
    /// Log directories that could be opened: as named, the id, the directory, what it held.
    pub(crate) logs: Vec<(PathBuf, Uuid, Arc<LogDir>, DirState)>,
    /// The directory of the metadata log and its id.
    pub(crate) metadata: (Uuid, Arc<LogDir>),
    /// The broker epoch of the last run, if every directory was stopped cleanly.
    pub(crate) previous_epoch: Option<i64>,
}

fn read_if_there(fs: &dyn Fs, path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs.read(path, META_PROPERTIES_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Checks and opens all directories of the node.
pub(crate) fn open(
    config: &ServerConfig,
    fs: &Arc<dyn Fs>,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
    open_files_max: u64,
) -> Result<Directories, NodeError> {
    let read = |path: &Path| read_if_there(&**fs, path);
    let ensemble = Ensemble::read(config.log_dirs.clone(), &config.metadata_log_dir, read);
    let holds_log = |dir: &Path| fs.stat(&dir.join(METADATA_LOG)).is_ok_and(|s| s.is_some());
    let identity = ensemble.identity(config.node_id, holds_log).map_err(NodeError::Identity)?;
    let ids = complete_ids(&identity, config, &**fs, clock, entropy)?;
    // Half of the descriptors are for connections.
    let files = usize::try_from(open_files_max / 2).unwrap_or(usize::MAX).max(64);
    let cache = Arc::new(FileCache::new(files));
    let mut logs = Vec::new();
    let mut offline: Vec<(PathBuf, String)> = Vec::new();
    for path in &config.log_dirs {
        if let Some(why) = identity.offline.get(path) {
            offline.push((path.clone(), why.clone()));
            continue;
        }
        let id = ids.get(path).copied().unwrap_or_default();
        match LogDir::open(Arc::clone(fs), path, Arc::clone(&cache)) {
            Ok((dir, state)) => logs.push((path.clone(), id, dir, state)),
            Err(e @ crate::log::LogError::Locked(_)) => return Err(e.into()),
            Err(e) => offline.push((path.clone(), e.to_string())),
        }
    }
    let id = ids.get(&config.metadata_log_dir).copied().unwrap_or_default();
    let shared = logs.iter().find(|(p, ..)| *p == config.metadata_log_dir);
    let metadata = match shared {
        Some((_, _, dir, _)) => Arc::clone(dir),
        None => LogDir::open(Arc::clone(fs), &config.metadata_log_dir, cache)?.0,
    };
    for (path, why) in &offline {
        tracing::error!(dir = %path.display(), "log directory is offline: {why}");
    }
    if config.roles.broker && logs.is_empty() {
        return Err(NodeError::NoUsableDir);
    }
    Ok(Directories {
        cluster_id: identity.cluster_id,
        logs,
        metadata: (id, metadata),
        previous_epoch: None,
    })
}

/// Directories that were formatted without an id get one, and their file is written anew.
fn complete_ids(
    identity: &Identity,
    config: &ServerConfig,
    fs: &dyn Fs,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Result<BTreeMap<PathBuf, Uuid>, NodeError> {
    let mut ids = BTreeMap::new();
    for (path, id) in &identity.directory_ids {
        let id = match id {
            Some(id) => *id,
            None => {
                let id = directory_id(entropy);
                let file = MetaProperties::new(&identity.cluster_id, config.node_id, id);
                let text = file.text(clock.now().wall_ms);
                fs.write_atomic(&path.join(META_PROPERTIES), text.as_bytes())
                    .map_err(|e| NodeError::Io(path.join(META_PROPERTIES), e))?;
                id
            }
        };
        ids.insert(path.clone(), id);
    }
    Ok(ids)
}

/// The records that a new cluster begins with, from `bootstrap.checkpoint`; without the file, the
/// newest metadata version and what belongs to it (`BootstrapDirectory.java`). A feature is never
/// finalized above what this build supports. `kraft.version` is 1 where the voters are recorded.
pub(crate) fn bootstrap_records(
    fs: &dyn Fs,
    metadata_dir: &Path,
    dynamic_voters: bool,
) -> Result<Vec<Record>, NodeError> {
    let path = metadata_dir.join(BOOTSTRAP_CHECKPOINT);
    let levels: Vec<(String, i16)> = match fs.read(&path, BOOTSTRAP_BYTES_MAX) {
        Ok(bytes) => {
            let file = BootstrapFile::decode(&bytes)
                .map_err(|e| NodeError::Bootstrap(format!("{}: {e}", path.display())))?;
            file.features
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let newest = features::METADATA_VERSION_MAX;
            let rest = features::FEATURES.iter();
            let rest = rest.map(|f| (f.name.to_owned(), f.bootstrap_level(newest)));
            std::iter::once((features::METADATA_VERSION.to_owned(), newest)).chain(rest).collect()
        }
        Err(e) => return Err(NodeError::Io(path, e)),
    };
    let supported: BTreeMap<_, _> = features::supported().collect();
    let records = levels.into_iter().filter_map(|(name, level)| {
        let range = supported.get(name.as_str())?;
        let level = level.min(range.max);
        let kept = level > 0 && name != features::KRAFT_VERSION;
        kept.then(|| Record::FeatureLevel { name: name.into(), level })
    });
    let kraft = Record::FeatureLevel { name: features::KRAFT_VERSION.into(), level: 1 };
    Ok(records.chain(dynamic_voters.then_some(kraft)).collect())
}

/// The voters that formatting wrote into the first checkpoint of the metadata log; none if the node
/// waits to be added, or only follows.
pub(crate) fn written_voters(fs: &dyn Fs, metadata_dir: &Path) -> Result<Vec<Voter>, NodeError> {
    let path = metadata_dir.join(METADATA_LOG).join(FIRST_CHECKPOINT);
    let bytes = match fs.read(&path, BOOTSTRAP_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(NodeError::Io(path, e)),
    };
    let file = BootstrapFile::decode(&bytes)
        .map_err(|e| NodeError::Bootstrap(format!("{}: {e}", path.display())))?;
    let voter =
        |v: DynamicVoter| Voter { id: v.id, directory_id: v.directory, host: v.host, port: v.port };
    Ok(file.voters.into_iter().map(voter).collect())
}

fn directory_id(entropy: &dyn Entropy) -> Uuid {
    loop {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        if let Some(id) = Uuid::directory_from(bytes) {
            return id;
        }
    }
}
