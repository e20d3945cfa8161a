//! What is checked of a configuration and its directories before anything starts, shared by the
//! tools that take a server's file.

use std::{io, path::Path};

use super::args::read_text;
use crate::{
    base::ports::Fs,
    config::{
        ServerConfig, Sources,
        meta_properties::{Ensemble, IdentityError, META_PROPERTIES_BYTES_MAX, METADATA_LOG},
    },
    os::OsFs,
};

/// Longest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Loads the file at `path` under the environment and `overrides`, with its warnings.
///
/// # Errors
/// All mistakes, one a line.
pub(super) fn load(
    path: &Path,
    overrides: Vec<String>,
) -> Result<(ServerConfig, Vec<String>), String> {
    let text = read_text(path, CONFIG_BYTES_MAX)?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let name = path.display().to_string();
    let environment = environment.collect();
    let sources = Sources { path: &name, text: &text, environment, overrides };
    ServerConfig::load(&sources).map_err(|problems| problems.to_string())
}

/// The bytes of a small file, `None` if there is none.
fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match OsFs.read(path, META_PROPERTIES_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Looks at the directories of `config`.
pub(super) fn ensemble(config: &ServerConfig) -> Ensemble {
    Ensemble::read(config.all_directories(), &config.metadata_log_dir, read_if_there)
}

/// Checks that the directories of `config`, which stands in `file`, are formatted for this node.
///
/// # Errors
/// What is wrong, with the command that would mend it where there is one.
pub(super) fn check_directories(config: &ServerConfig, file: &Path) -> Result<(), String> {
    let ensemble = ensemble(config);
    let has_log = |dir: &Path| matches!(OsFs.stat(&dir.join(METADATA_LOG)), Ok(Some(_)));
    let error = match ensemble.identity(config.node_id, has_log) {
        Ok(_) => return Ok(()),
        Err(e) => e,
    };
    let hint = match &error {
        IdentityError::NothingFormatted(_) => {
            let id = "$(bin/kafka-storage.sh random-uuid)";
            let note = "(a cluster of several nodes: the same id on each)";
            format!("\nformat first: {} {note}", command(config, file, id, ""))
        }
        IdentityError::PartlyFormatted(_) => {
            let id = ensemble.cluster_id().unwrap_or("CLUSTER_ID");
            format!("\nformat the rest: {}", command(config, file, &quoted(id), " -g"))
        }
        IdentityError::Mismatch(_) | IdentityError::MetadataDirFailed(..) => String::new(),
    };
    Err(format!("{error}{hint}"))
}

fn command(config: &ServerConfig, file: &Path, cluster_id: &str, flags: &str) -> String {
    let quorum = if config.voters.is_empty() && config.roles.controller { " -s" } else { "" };
    let file = quoted(&file.display().to_string());
    format!("bin/kafka-storage.sh format -t {cluster_id} -c {file}{flags}{quorum}")
}

/// `text` as one word of a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_split_them() {
        assert_eq!(quoted("config/kraft/server.properties"), "config/kraft/server.properties");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("a'b"), "'a'\\''b'");
    }
}
