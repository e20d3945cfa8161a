//! What the system says of this process and machine: limits, host name.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one, and tells what it is then.
#[must_use]
pub fn raise_open_files() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: now.maximum, maximum: now.maximum };
    let got = if setrlimit(Resource::Nofile, wanted).is_ok() { now.maximum } else { now.current };
    got.unwrap_or(1 << 20)
}

/// The name of this machine.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
