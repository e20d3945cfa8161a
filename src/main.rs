//! The binary: hands the process's arguments to the command line and returns its exit code.

fn main() -> std::process::ExitCode {
    vltava::cli::run(std::env::args_os().collect())
}
