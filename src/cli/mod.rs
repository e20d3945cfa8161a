//! Arguments and the command-line tools. Dispatches on argv[0], which may be the name of one of
//! Kafka's scripts, or on the first word.

mod admin;
mod args;
mod broker_versions;
mod cluster;
mod features;
mod format;
mod histcheck;
mod metadata_trace;
mod quorum;
mod quorum_add;
mod server;
mod start_check;
mod stop;
mod storage;
mod table;
mod topics;
mod topics_describe;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use crate::config;

/// Names that this binary answers to, those of Kafka's scripts and its own; `scripts/install` lays them out.
const TOOLS: &[(&str, Tool)] = &[
    ("kafka-broker-api-versions.sh", Tool::BrokerVersions),
    ("kafka-cluster.sh", Tool::Cluster),
    ("kafka-metadata-quorum.sh", Tool::Quorum),
    ("kafka-storage.sh", Tool::Storage),
    ("kafka-server-start.sh", Tool::ServerStart),
    ("kafka-server-stop.sh", Tool::ServerStop),
    ("vltava-histcheck", Tool::Histcheck),
    ("kafka-topics.sh", Tool::Topics),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    BrokerVersions,
    Cluster,
    Quorum,
    Storage,
    ServerStart,
    ServerStop,
    Histcheck,
    Topics,
}

const USAGE: &str = "\
usage: vltava storage random-uuid|info|format|version-mapping|feature-dependencies …
       vltava server start [-daemon] FILE [--override key=value]…
       vltava server stop [--node-id=ID] [--process-role=ROLES]
       vltava histcheck [--window LINES] FILE… | --metadata-log DIR
       vltava topics --create|--list|--describe|--alter|--delete …
       vltava metadata-quorum describe|add-controller|remove-controller …
       vltava cluster cluster-id|unregister|list-endpoints …
       vltava broker-api-versions --bootstrap-server …
       vltava config docs
       vltava tools
       vltava --version";

/// Runs the tool that `args` names and returns the process's exit code. Mistakes in arguments and
/// every failure give 1, as Kafka's tools do.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let mut words = Vec::with_capacity(args.len());
    for arg in args {
        match arg.into_string() {
            Ok(word) => words.push(word),
            Err(raw) => return fail(&format!("argument {} is not UTF-8", raw.display())),
        }
    }
    let name = words.first().map(String::as_str).unwrap_or_default();
    let name = Path::new(name).file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let rest = words.get(1..).unwrap_or_default();
    if let Some(tool) = tool_of(name) {
        return start(tool, rest);
    }
    match rest.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["storage", ..] => start(Tool::Storage, &rest[1..]),
        ["topics", ..] => start(Tool::Topics, &rest[1..]),
        ["metadata-quorum", ..] => start(Tool::Quorum, &rest[1..]),
        ["cluster", ..] => start(Tool::Cluster, &rest[1..]),
        ["broker-api-versions", ..] => start(Tool::BrokerVersions, &rest[1..]),
        ["server", "start", ..] => start(Tool::ServerStart, &rest[2..]),
        ["server", "stop", ..] => start(Tool::ServerStop, &rest[2..]),
        ["histcheck", ..] => start(Tool::Histcheck, &rest[1..]),
        ["config", "docs"] => print(&config::docs::markdown()),
        ["tools"] => print(&TOOLS.iter().map(|(name, _)| format!("{name}\n")).collect::<String>()),
        ["--version" | "-V"] => print(&version()),
        ["--help" | "-h" | "help"] => print(&format!("{USAGE}\n")),
        _ => fail(USAGE),
    }
}

fn tool_of(name: &str) -> Option<Tool> {
    let fits = |full: &str| full == name || full.strip_suffix(".sh") == Some(name);
    TOOLS.iter().find(|(full, _)| fits(full)).map(|(_, tool)| *tool)
}

fn start(tool: Tool, args: &[String]) -> ExitCode {
    match tool {
        Tool::BrokerVersions => broker_versions::run(args),
        Tool::Cluster => cluster::run(args),
        Tool::Quorum => quorum::run(args),
        Tool::Storage => storage::run(args),
        Tool::ServerStart => server::run(args),
        Tool::ServerStop => stop::run(args),
        Tool::Histcheck => histcheck::run(args),
        Tool::Topics => topics::run(args),
    }
}

fn version() -> String {
    format!("vltava {} (compatible with Apache Kafka 4.3.1)\n", env!("CARGO_PKG_VERSION"))
}

/// Prints to standard output; a reader that went away is no failure.
fn print(text: &str) -> ExitCode {
    let _ = io::stdout().lock().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn fail(text: &str) -> ExitCode {
    let _ = writeln!(io::stderr().lock(), "{text}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_go_by_their_name() {
        assert_eq!(tool_of("kafka-storage.sh"), Some(Tool::Storage));
        assert_eq!(tool_of("kafka-server-start"), Some(Tool::ServerStart));
        assert_eq!(tool_of("vltava"), None);
        assert_eq!(tool_of("kafka-topics.sh"), Some(Tool::Topics));
        assert_eq!(tool_of("kafka-mirror-maker.sh"), None);
    }
}
