//! Arguments in the manner of Kafka's tools: `@file` stands for the lines of a file, mistakes print
//! the reason and the usage on standard error and give 1, `--help` gives 0.

use std::{io::Write as _, path::Path, process::ExitCode};

use clap::Parser;

use crate::{base::ports::Fs, os::OsFs};

/// Longest file of arguments, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads `args` (without the program's name) as `T`.
///
/// # Errors
/// The exit code, after help or the mistake was printed.
pub(super) fn parse<T: Parser>(args: &[String]) -> Result<T, ExitCode> {
    let words = expand(args).map_err(|e| super::fail(&e))?;
    let command = T::command();
    let name = command.get_name().to_owned();
    let matches = command.try_get_matches_from(std::iter::once(name).chain(words));
    matches.and_then(|mut m| T::from_arg_matches_mut(&mut m)).map_err(|e| {
        if e.use_stderr() {
            let _ = write!(std::io::stderr().lock(), "{e}");
            return ExitCode::FAILURE;
        }
        super::print(&e.to_string())
    })
}

fn expand(args: &[String]) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    for arg in args {
        match arg.strip_prefix('@').filter(|path| !path.is_empty()) {
            None => out.push(arg.clone()),
            Some(path) => {
                let text = read_text(Path::new(path), FILE_BYTES_MAX)?;
                out.extend(text.lines().map(str::to_owned));
            }
        }
    }
    Ok(out)
}

/// The text of a file that a person named.
///
/// # Errors
/// One line with the path and why it cannot be read.
pub(super) fn read_text(path: &Path, max: u64) -> Result<String, String> {
    let bytes = OsFs.read(path, max).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(crate::config::properties::decode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_arguments_is_put_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("args");
        OsFs.write_atomic(&path, b"-t\nid with space\n").unwrap();
        let args = ["format".to_owned(), format!("@{}", path.display()), "-g".to_owned()];
        assert_eq!(expand(&args).unwrap(), ["format", "-t", "id with space", "-g"]);
        assert!(expand(&["@/no/such/file".to_owned()]).is_err());
    }
}
