//! Formatting of a node's directories (`Formatter`): per directory the bootstrap file, the first
//! checkpoint of a dynamic quorum, and last `meta.properties`, which makes it count.

use std::{io, path::Path};

use super::{features::Levels, print, start_check};
use crate::{
    base::{
        NodeId, Uuid,
        ports::{Clock as _, Entropy, Fs as _},
    },
    config::{
        ServerConfig,
        meta_properties::{META_PROPERTIES, METADATA_LOG, MetaProperties},
    },
    metadata::features::{KRAFT_VERSION, METADATA_VERSION, MetadataVersion},
    os::{OsClock, OsEntropy, OsFs},
    record::bootstrap::{
        BOOTSTRAP_CHECKPOINT, DynamicVoter, FIRST_CHECKPOINT, encode_bootstrap, encode_voters,
    },
};

/// What to format, and with what.
pub(super) struct Formatting<'a> {
    pub(super) config: &'a ServerConfig,
    pub(super) cluster_id: &'a str,
    pub(super) ignore_formatted: bool,
    pub(super) levels: &'a Levels,
    pub(super) version: &'static MetadataVersion,
    /// The first voters of a dynamic quorum; empty without one.
    pub(super) voters: &'a [DynamicVoter],
}

/// The voter set of `--standalone`: this node alone, with a random directory id.
///
/// # Errors
/// It is no controller.
pub(super) fn standalone(
    config: &ServerConfig,
    entropy: &dyn Entropy,
) -> Result<Vec<DynamicVoter>, String> {
    if !config.roles.controller {
        return Err("You can only use --standalone on a controller.".to_owned());
    }
    let listener = config
        .advertised_controller_listeners
        .first()
        .ok_or_else(|| "No controller listeners found.".to_owned())?;
    let host = if listener.host.is_empty() { "localhost" } else { &listener.host };
    Ok(vec![DynamicVoter {
        id: config.node_id,
        directory: entropy.uuid(),
        listener: listener.name.clone(),
        host: host.to_owned(),
        port: listener.port,
    }])
}

/// Reads `--initial-controllers`; sorted by id (`DynamicVoters.parse`).
///
/// # Errors
/// One line, in Kafka's words.
pub(super) fn parse_voters(list: &str, listeners: &[String]) -> Result<Vec<DynamicVoter>, String> {
    let listener = listeners.first().map(String::as_str).unwrap_or_default();
    let mut out: Vec<DynamicVoter> = Vec::new();
    for text in list.trim().split(',').filter(|t| !t.is_empty()) {
        let voter = parse_voter(text.trim(), listener)?;
        if out.iter().any(|v| v.id == voter.id) {
            return Err(format!("Node id {} was specified more than once.", voter.id));
        }
        out.push(voter);
    }
    if out.is_empty() {
        return Err("No voters given.".to_owned());
    }
    out.sort();
    Ok(out)
}

fn parse_voter(text: &str, listener: &str) -> Result<DynamicVoter, String> {
    let refuse = |rule: &str| Err(format!("{rule} ({text})"));
    let Some((id, rest)) = text.split_once('@') else {
        return refuse("No @ found in dynamic voter string.");
    };
    if id.is_empty() {
        return refuse("Invalid @ at beginning of dynamic voter string.");
    }
    let Ok(id) = id.parse::<i32>() else {
        return refuse("Failed to parse node id in dynamic voter string.");
    };
    if id < 0 {
        return refuse("Invalid negative node id in dynamic voter string.");
    }
    if rest.is_empty() {
        return refuse("No hostname found after node id.");
    }
    let (host, rest) = if let Some(inner) = rest.strip_prefix('[') {
        match inner.split_once(']') {
            Some(parts) => parts,
            None => {
                let rule = "Hostname began with left bracket, but no right bracket was found.";
                return refuse(rule);
            }
        }
    } else {
        match rest.find(':') {
            Some(at) => rest.split_at(at),
            None => return refuse("No colon following hostname could be found."),
        }
    };
    let Some(rest) = rest.strip_prefix(':') else {
        return refuse("Port section must start with a colon.");
    };
    let Some((port, directory)) = rest.split_once(':') else {
        return refuse("No colon following port could be found.");
    };
    let Ok(port) = port.parse::<i32>() else {
        return refuse("Failed to parse port in dynamic voter string.");
    };
    let Ok(port) = u16::try_from(port) else {
        return refuse("Invalid port in dynamic voter string.");
    };
    let Ok(directory) = directory.parse::<Uuid>() else {
        return refuse("Failed to parse directory ID in dynamic voter string.");
    };
    let (listener, host) = (listener.to_owned(), host.to_owned());
    Ok(DynamicVoter { id: NodeId(id), directory, listener, host, port })
}

/// Formats every directory that is not formatted yet.
///
/// # Errors
/// One line: what the directories or the disk refuse.
pub(super) fn run(f: &Formatting<'_>) -> Result<(), String> {
    let ensemble = start_check::ensemble(f.config);
    ensemble.verify(Some(f.cluster_id), Some(f.config.node_id)).map_err(|e| e.to_string())?;
    if let (false, Some((dir, _))) = (f.ignore_formatted, ensemble.formatted().next()) {
        return Err(format!(
            "Log directory {} is already formatted. Use --ignore-formatted to ignore this \
             directory and format the others.",
            dir.display()
        ));
    }
    for (dir, why) in ensemble.failed() {
        print(&format!(
            "I/O error trying to read log directory {}. Ignoring... ({why})\n",
            dir.display()
        ));
    }
    let empty = ensemble.unformatted();
    if empty.is_empty() {
        if ensemble.formatted().next().is_none() {
            return Err("No available log directories to format.".to_owned());
        }
        print("All of the log directories are already formatted.\n");
        return Ok(());
    }
    let records = super::features::records(f.levels);
    print(&format!("Bootstrap metadata: {}\n", shown(&records, f.version.level)));
    let mut used: Vec<Uuid> = ensemble.formatted().filter_map(|(_, m)| m.directory_id).collect();
    for dir in empty {
        let kind = Kind::of(&dir, f);
        let id = kind.directory_id(f).unwrap_or_else(|| fresh_id(&used, &OsEntropy));
        used.push(id);
        print(&format!(
            "Formatting {} {} with {METADATA_VERSION} {}.\n",
            kind.description(),
            dir.display(),
            f.version.name
        ));
        write(&dir, kind, id, &records, f)
            .map_err(|e| format!("Error while formatting {}: {e}", dir.display()))?;
    }
    Ok(())
}

/// The records as Kafka prints them.
fn shown(records: &[(String, i16)], version: i16) -> String {
    let one = |(name, level): &(String, i16)| {
        format!(
            "ApiMessageAndVersion(FeatureLevelRecord(name='{name}', featureLevel={level}) at \
             version 0)"
        )
    };
    let records: Vec<_> = records.iter().map(one).collect();
    format!(
        "BootstrapMetadata(records=[{}], metadataVersionLevel={version}, source=format command)",
        records.join(", ")
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Metadata,
    DynamicMetadata,
    DynamicVoter,
}

impl Kind {
    fn of(dir: &Path, f: &Formatting<'_>) -> Self {
        if dir != f.config.metadata_log_dir {
            Self::Data
        } else if f.voters.is_empty() {
            Self::Metadata
        } else if f.voters.iter().any(|v| v.id == f.config.node_id) {
            Self::DynamicVoter
        } else {
            Self::DynamicMetadata
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Data => "data directory",
            Self::Metadata => "metadata directory",
            Self::DynamicMetadata => "dynamic metadata directory",
            Self::DynamicVoter => "dynamic metadata voter directory",
        }
    }

    /// A voter's metadata directory has the id that the voter set gives it.
    fn directory_id(self, f: &Formatting<'_>) -> Option<Uuid> {
        let own = f.voters.iter().find(|v| v.id == f.config.node_id);
        own.filter(|_| self == Self::DynamicVoter).map(|v| v.directory)
    }
}

/// A directory id that is not `used`.
fn fresh_id(used: &[Uuid], entropy: &dyn Entropy) -> Uuid {
    loop {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes);
        if let Some(id) = Uuid::directory_from(bytes).filter(|id| !used.contains(id)) {
            return id;
        }
    }
}

fn write(
    dir: &Path,
    kind: Kind,
    id: Uuid,
    records: &[(String, i16)],
    f: &Formatting<'_>,
) -> io::Result<()> {
    let now_ms = OsClock::new().now().wall_ms;
    OsFs.create_dir_all(dir)?;
    OsFs.write_atomic(&dir.join(BOOTSTRAP_CHECKPOINT), &encode_bootstrap(records, now_ms))?;
    if matches!(kind, Kind::DynamicMetadata | Kind::DynamicVoter) {
        let log = dir.join(METADATA_LOG);
        OsFs.create_dir_all(&log)?;
        let kraft = f.levels.get(KRAFT_VERSION).copied().unwrap_or(1);
        let content = encode_voters(kraft, f.voters, now_ms);
        OsFs.write_atomic(&log.join(FIRST_CHECKPOINT), &content)?;
    }
    let meta = MetaProperties::new(f.cluster_id, f.config.node_id, id);
    OsFs.write_atomic(&dir.join(META_PROPERTIES), meta.text(now_ms).as_bytes())?;
    match dir.parent() {
        Some(parent) => OsFs.sync_dir(parent),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<DynamicVoter>, String> {
        parse_voters(text, &["CONTROLLER".to_owned()])
    }

    #[test]
    fn voters_are_read_and_sorted() {
        let list = "3@h:9:JEXY6aqzQY-32P5TStzaFg,2@[::1]:65535:MvDxzVmcRsaTz33bUuRU6A";
        let voters = parse(list).unwrap();
        assert_eq!((voters[0].id, voters[0].host.as_str()), (NodeId(2), "::1"));
        assert_eq!((voters[0].port, voters[1].port), (65535, 9));
        assert_eq!(voters[1].listener, "CONTROLLER");
    }

    #[test]
    fn malformed_voters_are_refused_in_kafkas_words() {
        for (text, rule) in [
            ("x", "No @ found"),
            ("@h:1:x", "Invalid @ at beginning"),
            ("a@h:9:x", "Failed to parse node id"),
            ("-1@h:9:x", "Invalid negative node id"),
            ("1@", "No hostname found"),
            ("1@h", "No colon following hostname"),
            ("1@[h:9", "no right bracket"),
            ("1@[h]9", "Port section must start with a colon"),
            ("1@h:9", "No colon following port"),
            ("1@h:x:y", "Failed to parse port"),
            ("1@h:99999:y", "Invalid port"),
            ("1@h:9:zzz", "Failed to parse directory ID"),
            (",", "No voters given."),
            (
                "1@h:9:MvDxzVmcRsaTz33bUuRU6A,1@h:9:JEXY6aqzQY-32P5TStzaFg",
                "Node id 1 was specified more than once.",
            ),
        ] {
            let got = parse(text).unwrap_err();
            assert!(got.contains(rule), "{text}: {got}");
        }
    }
}
