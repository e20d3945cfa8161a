//! `kafka-server-start`: reads the file, checks it and the directories, sets up logs, runs the node;
//! with `-daemon` in a session of its own.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use super::{fail, print, start_check, version};
use crate::{
    base::ports::Fs as _,
    config::{Problem, ServerConfig},
    node,
    os::{OsFs, process},
    telemetry,
};

const USAGE: &str =
    "USAGE: kafka-server-start.sh [-daemon] server.properties [--override property=value]*";

/// Told to the process that becomes the daemon; not for people.
const DETACHED: &str = "--detached";

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Arguments {
    daemon: bool,
    detached: bool,
    pub(super) file: PathBuf,
    pub(super) overrides: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Start(Arguments),
    Help,
    Version,
}

/// Reads the arguments.
///
/// # Errors
/// What is wrong with them, with the usage.
pub(super) fn parse(words: &[String]) -> Result<Ask, String> {
    let mut out = Arguments::default();
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(flag) = words.next_if(|w| ["-daemon", "--daemon", DETACHED].contains(w)) {
        out.daemon |= flag != DETACHED;
        out.detached |= flag == DETACHED;
    }
    let mut file = None;
    while let Some(word) = words.next() {
        match word {
            "--help" | "-h" => return Ok(Ask::Help),
            "--version" => return Ok(Ask::Version),
            "--override" => {
                let pair =
                    words.next().ok_or_else(|| format!("{word} needs key=value\n{USAGE}"))?;
                out.overrides.push(pair.to_owned());
            }
            _ if word.starts_with("--override=") => {
                out.overrides.extend(word.strip_prefix("--override=").map(str::to_owned));
            }
            _ if word.starts_with('-') => return Err(format!("unknown option {word}\n{USAGE}")),
            _ if file.is_none() => file = Some(PathBuf::from(word)),
            _ => return Err(format!("Found non argument parameters: {word}\n{USAGE}")),
        }
    }
    out.file = file.ok_or(USAGE)?;
    Ok(Ask::Start(out))
}

/// Runs the tool; returns when the node has stopped.
pub(super) fn run(words: &[String]) -> ExitCode {
    let args = match parse(words) {
        Ok(Ask::Start(args)) => args,
        Ok(Ask::Help) => return print(&format!("{USAGE}\n")),
        Ok(Ask::Version) => return print(&version()),
        Err(e) => return fail(&e),
    };
    let (config, warnings) = match check(&args) {
        Ok(found) => found,
        Err(e) => return fail(&e),
    };
    if args.daemon {
        return match daemon(&args, &config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(&format!("the daemon cannot be started: {e}")),
        };
    }
    let left = if args.detached { process::detach() } else { Ok(()) };
    if let Err(e) = left {
        return fail(&format!("the daemon cannot leave the terminal: {e}"));
    }
    if let Err(e) = telemetry::init(&config.logging) {
        return fail(&e.to_string());
    }
    // A log in a file may be watched by nobody.
    let told_elsewhere = config.logging.file.is_some();
    match node::run(config, &warnings).map_err(anyhow::Error::new) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("stopping because of an error: {e:#}");
            if told_elsewhere {
                return fail(&format!("{e:#}"));
            }
            ExitCode::FAILURE
        }
    }
}

/// The configuration, if this node may start with it.
fn check(args: &Arguments) -> Result<(ServerConfig, Vec<String>), String> {
    let (config, warnings) = start_check::load(&args.file, args.overrides.clone())?;
    let missing = config.not_built_yet();
    if !missing.is_empty() {
        let lines: Vec<_> = missing.iter().map(Problem::to_string).collect();
        return Err(lines.join("\n"));
    }
    start_check::check_directories(&config, &args.file)?;
    Ok((config, warnings))
}

/// Starts this binary again in the background. Lines go to `server.log` in `LOG_DIR` (by default
/// `logs` beside `bin`), what is printed otherwise to `kafkaServer.out` there.
fn daemon(args: &Arguments, config: &ServerConfig) -> io::Result<()> {
    let exe = std::env::current_exe()?;
    let dir = std::env::var_os("LOG_DIR").filter(|d| !d.is_empty()).map_or_else(
        || exe.parent().and_then(Path::parent).unwrap_or_else(|| Path::new(".")).join("logs"),
        PathBuf::from,
    );
    OsFs.create_dir_all(&dir)?;
    let mut options = fs::OpenOptions::new();
    let printed = options.create(true).append(true).open(dir.join("kafkaServer.out"))?;
    let mut command = Command::new(exe);
    command.args(["server", "start", DETACHED]).arg(&args.file);
    for pair in &args.overrides {
        command.args(["--override", pair]);
    }
    if config.logging.file.is_none() {
        let file = dir.join("server.log");
        command.arg("--override").arg(format!("vltava.log.file={}", file.display()));
    }
    command.stdin(Stdio::null()).stdout(printed.try_clone()?).stderr(printed);
    let child = command.spawn()?;
    let _ = writeln!(io::stderr().lock(), "started as process {}", child.id());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Ask, String> {
        parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_kafkas() {
        let Ok(Ask::Start(args)) = parsed("-daemon f --override a=b --override=c=d") else {
            panic!("it is a start");
        };
        assert_eq!((args.daemon, args.detached, args.file), (true, false, "f".into()));
        assert_eq!(args.overrides, ["a=b", "c=d"]);
        assert_eq!(parsed("--version"), Ok(Ask::Version));
        assert_eq!(parsed("f --help"), Ok(Ask::Help));
        for wrong in ["", "-daemon", "f --override", "f g", "f --frobnicate"] {
            assert!(parsed(wrong).unwrap_err().contains("USAGE"), "{wrong}");
        }
    }
}
