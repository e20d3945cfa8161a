//! Arguments and the command-line tools. Dispatches on argv[0] or on the first word.

/// Runs the tool that `args` names and returns the process's exit code.
pub fn run(args: Vec<std::ffi::OsString>) -> std::process::ExitCode {
    let _ = args;
    std::process::ExitCode::FAILURE
}
