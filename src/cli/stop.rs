//! `kafka-server-stop`: tells the running servers of this user to stop, all of them or those of a
//! node id or role, which is read from the file that each was started with.

use std::{path::Path, process::ExitCode};

use super::{fail, print, server, start_check};
use crate::os::process::{self, Process, Signal};

const USAGE: &str = "USAGE: kafka-server-stop.sh [--node-id=ID] [--process-role=ROLES]";

#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    node_id: Option<i32>,
    roles: Option<Vec<String>>,
}

fn parse(words: &[String]) -> Result<Arguments, String> {
    let mut out = Arguments::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (word.as_str(), words.next().map(String::as_str)),
        };
        let value = value.ok_or(USAGE)?;
        match flag {
            "--node-id" => {
                let id = value.parse();
                out.node_id = Some(id.map_err(|_| format!("{word}: not a number\n{USAGE}"))?);
            }
            "--process-role" => out.roles = Some(sorted(value)),
            _ => return Err(format!("unknown option {word}\n{USAGE}")),
        }
    }
    Ok(out)
}

fn sorted(roles: &str) -> Vec<String> {
    let mut roles: Vec<_> = roles.split(',').map(|r| r.trim().to_owned()).collect();
    roles.sort();
    roles
}

/// Runs the tool; 1 if there is no such server.
pub(super) fn run(words: &[String]) -> ExitCode {
    if words.iter().any(|w| w == "--help" || w == "-h") {
        return print(&format!("{USAGE}\n"));
    }
    let args = match parse(words) {
        Ok(args) => args,
        Err(e) => return fail(&e),
    };
    if args.node_id.is_some() && args.roles.is_some() {
        print(
            "When both node-id and process-role are provided, the value for node-id will take \
             precedence\n",
        );
    }
    let signal = match signal_named(std::env::var("SIGNAL").ok().as_deref()) {
        Ok(signal) => signal,
        Err(e) => return fail(&e),
    };
    let all = match process::processes() {
        Ok(all) => all,
        Err(e) => return fail(&format!("/proc: {e}")),
    };
    let mut found = false;
    for p in all.iter().filter(|p| chosen(p, &args)) {
        match process::signal(p.pid, signal) {
            Ok(()) => found = true,
            Err(e) => return fail(&format!("process {}: {e}", p.pid)),
        }
    }
    if found {
        return ExitCode::SUCCESS;
    }
    print("No kafka server to stop\n");
    ExitCode::FAILURE
}

/// `SIGNAL` of the environment, as the script has it; TERM if it is not set.
fn signal_named(name: Option<&str>) -> Result<Signal, String> {
    match name.map(|n| n.strip_prefix("SIG").unwrap_or(n)) {
        None | Some("" | "TERM" | "15") => Ok(Signal::TERM),
        Some("INT" | "2") => Ok(Signal::INT),
        Some("KILL" | "9") => Ok(Signal::KILL),
        Some("HUP" | "1") => Ok(Signal::HUP),
        Some(other) => Err(format!("SIGNAL={other}: must be one of TERM, INT, KILL, HUP")),
    }
}

/// What a running server was started with, if the process is one of ours.
fn start_words(p: &Process) -> Option<&[String]> {
    if p.program != "vltava" {
        return None;
    }
    let (name, rest) = p.args.split_first()?;
    let name = Path::new(name).file_name()?.to_str()?;
    if matches!(name, "kafka-server-start.sh" | "kafka-server-start") {
        return Some(rest);
    }
    match rest {
        [server, start, words @ ..] if server == "server" && start == "start" => Some(words),
        _ => None,
    }
}

fn chosen(p: &Process, args: &Arguments) -> bool {
    let Some(words) = start_words(p) else { return false };
    if *args == Arguments::default() {
        return true;
    }
    let Ok(server::Ask::Start(started)) = server::parse(words) else { return false };
    let file = p.directory.join(&started.file);
    let Ok((config, _)) = start_check::load(&file, started.overrides) else { return false };
    if let Some(id) = args.node_id {
        return config.node_id.0 == id;
    }
    let roles = [("broker", config.roles.broker), ("controller", config.roles.controller)];
    let roles: Vec<_> = roles.iter().filter(|(_, has)| *has).map(|(r, _)| *r).collect();
    args.roles.as_deref().is_some_and(|wanted| wanted == roles)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(args: &str) -> Process {
        Process {
            pid: 1,
            args: args.split(' ').map(str::to_owned).collect(),
            program: "vltava".to_owned(),
            directory: Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(),
        }
    }

    #[test]
    fn only_servers_are_chosen() {
        let any = Arguments::default();
        assert!(chosen(&running("bin/kafka-server-start.sh f"), &any));
        assert!(chosen(&running("/x/vltava server start --detached f"), &any));
        assert!(!chosen(&running("/x/vltava server stop"), &any));
        assert!(!chosen(&running("vltava storage info"), &any));
        let vim = Process { program: "vim".to_owned(), ..running("kafka-server-start.sh") };
        assert!(!chosen(&vim, &any));
    }

    #[test]
    fn servers_are_told_apart_by_their_files() {
        let both = running("kafka-server-start.sh config/kraft/server.properties");
        let broker = running("vltava server start config/kraft/broker.properties");
        let by_id = |id| Arguments { node_id: Some(id), ..Arguments::default() };
        assert!(chosen(&both, &by_id(1)) && !chosen(&both, &by_id(2)));
        assert!(chosen(&broker, &by_id(2)));
        let args = parse(&["--process-role=controller,broker".to_owned()]).unwrap();
        assert!(chosen(&both, &args) && !chosen(&broker, &args));
        let args = parse(&["--node-id".to_owned(), "5".to_owned()]).unwrap();
        let over = "vltava server start config/kraft/broker.properties --override node.id=5";
        assert!(chosen(&running(over), &args));
        assert!(parse(&["--node-id=x".to_owned()]).is_err());
        assert!(parse(&["--frob=1".to_owned()]).is_err());
    }

    #[test]
    fn the_signal_may_be_another() {
        assert_eq!(signal_named(None), Ok(Signal::TERM));
        assert_eq!(signal_named(Some("SIGKILL")), Ok(Signal::KILL));
        assert!(signal_named(Some("NOISE")).is_err());
    }
}
