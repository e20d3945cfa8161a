//! `kafka-storage`: identifies, formats and shows the directories of a node (`StorageTool`).

use std::{
    fmt::Write as _,
    path::{Component, Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use super::{
    args, fail, features,
    format::{self, Formatting},
    print, start_check,
};
use crate::{
    base::ports::{Entropy as _, Fs as _},
    config::{
        ServerConfig,
        meta_properties::{META_PROPERTIES, META_PROPERTIES_BYTES_MAX, MetaProperties},
        properties,
    },
    os::{OsEntropy, OsFs},
};

/// The Kafka storage tool.
#[derive(Debug, Parser)]
#[command(name = "kafka-storage", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the log directories of this node.
    Info(ConfigFile),
    /// Format the log directories of this node.
    Format(Format),
    /// Show the features that a release starts with.
    VersionMapping(VersionMapping),
    /// Show what levels of features need.
    FeatureDependencies(FeatureDependencies),
    /// Print a random UUID.
    RandomUuid,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The server's configuration file.
    #[arg(short, long, value_name = "CONFIG")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Format {
    #[command(flatten)]
    file: ConfigFile,
    /// The id of the cluster.
    #[arg(short = 't', long, value_name = "CLUSTER_ID", allow_hyphen_values = true)]
    cluster_id: String,
    /// A SCRAM credential to begin with, such as 'SCRAM-SHA-256=[name=alice,password=secret]'.
    #[arg(short = 'S', long, value_name = "ADD_SCRAM")]
    add_scram: Vec<String>,
    /// Pass over directories that are formatted already.
    #[arg(short = 'g', long)]
    ignore_formatted: bool,
    /// The release whose features the cluster starts with.
    #[arg(short, long, value_name = "RELEASE_VERSION")]
    release_version: Option<String>,
    /// A feature to start with, as name=level.
    #[arg(short, long, value_name = "FEATURE")]
    feature: Vec<String>,
    #[command(flatten)]
    quorum: Quorum,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct Quorum {
    /// Begin a dynamic quorum of this controller alone.
    #[arg(short, long)]
    standalone: bool,
    /// Begin without knowing the dynamic quorum's controllers.
    #[arg(short = 'N', long)]
    no_initial_controllers: bool,
    /// Begin with these controllers, as id@host:port:directory separated by commas.
    #[arg(short = 'I', long, value_name = "INITIAL_CONTROLLERS")]
    initial_controllers: Option<String>,
}

#[derive(Debug, Args)]
struct VersionMapping {
    /// The release; the newest if not given.
    #[arg(short, long, value_name = "RELEASE_VERSION")]
    release_version: Option<String>,
}

#[derive(Debug, Args)]
struct FeatureDependencies {
    /// A feature, as name=level.
    #[arg(short, long, required = true, value_name = "FEATURE")]
    feature: Vec<String>,
}

/// Runs the tool.
pub(super) fn run(words: &[String]) -> ExitCode {
    let arguments: Arguments = match args::parse(words) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match arguments.command {
        Command::RandomUuid => print(&format!("{}\n", OsEntropy.uuid())),
        Command::VersionMapping(a) => {
            match features::version_mapping(a.release_version.as_deref()) {
                Ok(text) => print(&text),
                Err(e) => fail(&e),
            }
        }
        Command::FeatureDependencies(a) => {
            let (text, result) = features::dependencies(&a.feature);
            print(&text);
            result.map_or_else(|e| fail(&e), |()| ExitCode::SUCCESS)
        }
        Command::Info(a) => match start_check::load(&a.config, Vec::new()) {
            Ok((config, _)) => info(&config),
            Err(e) => fail(&e),
        },
        Command::Format(a) => match format_directories(&a) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&e),
        },
    }
}

fn format_directories(a: &Format) -> Result<(), String> {
    let (config, _) = start_check::load(&a.file.config, Vec::new())?;
    let dynamic = config.voters.is_empty();
    if !dynamic && (a.quorum.standalone || a.quorum.initial_controllers.is_some()) {
        return Err("You cannot specify controller.quorum.voters and format the node with \
             --initial-controllers or --standalone. If you want to use dynamic quorum, please \
             remove controller.quorum.voters and specify controller.quorum.bootstrap.servers \
             instead."
            .to_owned());
    }
    let voters = match &a.quorum.initial_controllers {
        Some(list) => format::parse_voters(list, &config.controller_listener_names)?,
        None if a.quorum.standalone => format::standalone(&config, &OsEntropy)?,
        None => Vec::new(),
    };
    if !a.quorum.no_initial_controllers && config.roles.controller && dynamic && voters.is_empty() {
        return Err(
            "Because controller.quorum.voters is not set on this controller, you must specify one \
             of the following: --standalone, --initial-controllers, or --no-initial-controllers."
                .to_owned(),
        );
    }
    let (levels, version) = features::levels(&features::Wanted {
        release: a.release_version.as_deref(),
        features: &a.feature,
        dynamic_quorum: dynamic,
    })?;
    if !a.add_scram.is_empty() {
        return Err("--add-scram: SCRAM is not built yet".to_owned());
    }
    format::run(&Formatting {
        config: &config,
        cluster_id: &a.cluster_id,
        ignore_formatted: a.ignore_formatted,
        levels: &levels,
        version,
        voters: &voters,
    })
}

/// Prints what `info` finds; 1 if there is a problem.
fn info(config: &ServerConfig) -> ExitCode {
    let (text, fine) = look(&config.all_directories());
    print(&text);
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What `info` prints about `directories`, and whether there is no problem.
fn look(directories: &[PathBuf]) -> (String, bool) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let mut first: Option<MetaProperties> = None;
    for dir in directories.iter().map(|d| plain(d)) {
        match OsFs.stat(&dir) {
            Ok(Some(entry)) if entry.is_dir => {}
            Ok(Some(_)) => {
                problems.push(format!("{} is not a directory", dir.display()));
                continue;
            }
            Ok(None) => {
                problems.push(format!("{} does not exist", dir.display()));
                continue;
            }
            Err(e) => {
                problems.push(format!("{}: {e}", dir.display()));
                continue;
            }
        }
        found.push(dir.display().to_string());
        let path = dir.join(META_PROPERTIES);
        match (read_meta(&path), &first) {
            (Ok(None), _) => problems.push(format!("{} is not formatted.", dir.display())),
            (Err(e), _) => problems.push(format!("Error loading {}: {e}", path.display())),
            (Ok(Some(meta)), None) => first = Some(meta),
            (Ok(Some(meta)), Some(one)) if meta.cluster_id != one.cluster_id => {
                problems.push("Mismatched cluster IDs between storage directories.".to_owned());
            }
            (Ok(Some(meta)), Some(one)) if meta.node_id != one.node_id => {
                problems.push("Mismatched node IDs between storage directories.".to_owned());
            }
            (Ok(Some(_)), Some(_)) => {}
        }
    }
    if first.as_ref().is_some_and(|meta| meta.version == 0) {
        problems.push(
            "The kafka configuration file appears to be for a cluster in KRaft mode, but the \
             directories are formatted for legacy mode."
                .to_owned(),
        );
    }
    let mut out = String::new();
    section(&mut out, "Found log directory:", "Found log directories:", &found);
    if let Some(meta) = first {
        let pairs: Vec<_> = meta.pairs().iter().map(|(k, v)| format!("{k}={v}")).collect();
        let _ = write!(out, "Found metadata: {{{}}}\n\n", pairs.join(", "));
    }
    section(&mut out, "Found problem:", "Found problems:", &problems);
    (out, problems.is_empty())
}

fn section(out: &mut String, one: &str, many: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "{}", if lines.len() == 1 { one } else { many });
    for line in lines {
        let _ = writeln!(out, "  {line}");
    }
    out.push('\n');
}

fn read_meta(path: &Path) -> Result<Option<MetaProperties>, String> {
    if OsFs.stat(path).map_err(|e| e.to_string())?.is_none() {
        return Ok(None);
    }
    let bytes = OsFs.read(path, META_PROPERTIES_BYTES_MAX).map_err(|e| e.to_string())?;
    MetaProperties::parse(&properties::decode(bytes)).map(Some)
}

/// The path without a slash at its end or twice, as Java shows it.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|c| !matches!(c, Component::CurDir)).collect()
}
