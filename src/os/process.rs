//! Processes of the operating system: a session of one's own for daemons, looking for processes,
//! signals. Uses `base`.
#![expect(clippy::disallowed_methods, reason = "this reads /proc")]

use std::{
    fs, io,
    os::unix::{ffi::OsStringExt as _, fs::MetadataExt as _},
    path::PathBuf,
};

pub use rustix::process::Signal;
use rustix::process::{self, Pid};

/// A running process of the same user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its arguments, the program's name first.
    pub args: Vec<String>,
    /// Name of the file that it runs.
    pub program: String,
    /// Its working directory.
    pub directory: PathBuf,
}

/// Leaves the terminal: begins a session of one's own.
///
/// # Errors
/// The process already leads a process group.
pub fn detach() -> io::Result<()> {
    process::setsid()?;
    Ok(())
}

/// The running processes of this user but this one, by id. Those that end meanwhile are left out.
///
/// # Errors
/// `/proc` cannot be read.
pub fn processes() -> io::Result<Vec<Process>> {
    let (user, own) = (process::geteuid().as_raw(), std::process::id());
    let mut out = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let foreign = entry.metadata().map_or(true, |m| m.uid() != user);
        if foreign || pid == own {
            continue;
        }
        out.extend(read_process(pid));
    }
    out.sort_by_key(|p| p.pid);
    Ok(out)
}

fn read_process(pid: u32) -> Option<Process> {
    let at = PathBuf::from(format!("/proc/{pid}"));
    let raw = fs::read(at.join("cmdline")).ok()?;
    let args: Vec<_> = raw
        .strip_suffix(&[0])?
        .split(|b| *b == 0)
        .map(|a| String::from_utf8_lossy(a).into_owned())
        .collect();
    let exe = fs::read_link(at.join("exe")).ok()?.into_os_string().into_vec();
    let exe = String::from_utf8_lossy(&exe).into_owned();
    // The kernel adds this when the file was replaced.
    let exe = exe.strip_suffix(" (deleted)").unwrap_or(&exe);
    let program = exe.rsplit('/').next()?.to_owned();
    let directory = fs::read_link(at.join("cwd")).ok()?;
    Some(Process { pid: i32::try_from(pid).ok()?, args, program, directory })
}

/// Sends `signal` to the process.
///
/// # Errors
/// There is no such process, or it belongs to somebody else.
pub fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    process::kill_process(pid, signal)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_and_stopped() {
        let mut child = std::process::Command::new("sleep").arg("98765").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        // Between fork and exec it still looks like us.
        let found = (0..1000).find_map(|_| {
            let all = processes().unwrap();
            all.into_iter().find(|p| p.pid == pid && p.args == ["sleep", "98765"])
        });
        signal(pid, Signal::TERM).unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap().directory, std::env::current_dir().unwrap());
    }
}
