//! Log set-up. Owns the `tracing` subscriber; nothing else installs one.
//!
//! A line is Kafka's (`[2026-11-23 03:41:16,042] INFO message (room)`) or one JSON object, on
//! standard output or in a file that can be opened anew after a rotation. Levels go by room.

use std::{
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use tracing::{Event, Level, Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter, format::Writer, time::FormatTime},
    layer::SubscriberExt as _,
    registry::LookupSpan,
};

use crate::{
    base::{
        civil::Civil,
        ports::{Clock, Fs},
    },
    config::sections::LoggingConfig,
    os::{OsClock, OsFs},
};

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level's text is malformed.
    #[error("vltava.log.level={value}: {rule}")]
    BadLevel {
        /// The whole value.
        value: String,
        /// What is wrong with it.
        rule: String,
    },
    /// The log file cannot be opened.
    #[error("vltava.log.file={}: {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Logs were set up before.
    #[error("logs are set up already")]
    Twice,
}

static OUTPUT: OnceLock<Output> = OnceLock::new();

/// Installs the subscriber of this process.
///
/// # Errors
/// `BadLevel`, `File`, `Twice`.
pub fn init(config: &LoggingConfig) -> Result<(), TelemetryError> {
    let bad = |rule| TelemetryError::BadLevel { value: config.level.clone(), rule };
    let filter = EnvFilter::builder().parse_lossy(directives(&config.level).map_err(bad)?);
    let output = match &config.file {
        Some(path) => Output::file(Path::new(path))
            .map_err(|error| TelemetryError::File { path: path.into(), error })?,
        None => Output::Stdout,
    };
    let writer = OUTPUT.get_or_init(|| output).clone();
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    let layer = if config.format == "json" {
        layer.json().flatten_event(true).with_timer(Timer).boxed()
    } else {
        layer.event_format(Plain { clock: OsClock::new() }).boxed()
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::Twice)
}

/// Opens the log file anew, after something moved it away (SIGHUP). Without a file it does nothing.
///
/// # Errors
/// The file cannot be opened; the old one stays in use.
pub fn reopen() -> io::Result<()> {
    match OUTPUT.get() {
        Some(Output::File(file)) => file.reopen(),
        Some(Output::Stdout) | None => Ok(()),
    }
}

/// Turns `level[,room=level…]` into the filter's language. What comes from elsewhere than our own
/// rooms is told from `warn` on, unless its crate is named like a room. Openraft warns of every call
/// to a peer that is away; the quorum names such a peer once.
fn directives(text: &str) -> Result<String, String> {
    let mut out = vec!["warn".to_owned(), "openraft=error".to_owned()];
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (room, level) = part.split_once('=').map_or((None, part), |(r, l)| (Some(r), l));
        let level: LevelFilter = level.trim().parse().map_err(|_| {
            format!("\"{level}\" is not one of error, warn, info, debug, trace, off")
        })?;
        match room.map(str::trim) {
            None => out.push(format!("vltava={level}")),
            Some(room) if room.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)) => {
                out.push(format!("vltava::{room}={level}"));
                out.push(format!("{room}={level}"));
            }
            Some(room) => return Err(format!("\"{room}\" is not the name of a room")),
        }
    }
    Ok(out.join(",").to_ascii_lowercase())
}

/// Where lines go.
#[derive(Debug, Clone)]
enum Output {
    Stdout,
    File(Arc<LogFile>),
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: Mutex<fs::File>,
}

impl Output {
    fn file(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            OsFs.create_dir_all(dir)?;
        }
        let file = Mutex::new(open(path)?);
        Ok(Self::File(Arc::new(LogFile { path: path.to_owned(), file })))
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().create(true).append(true).open(path)
}

impl LogFile {
    fn reopen(&self) -> io::Result<()> {
        let file = open(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

impl Write for &Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout => io::stdout().lock().write(line),
            Output::File(f) => f.file.lock().unwrap_or_else(PoisonError::into_inner).write(line),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout => io::stdout().lock().flush(),
            Output::File(_) => Ok(()),
        }
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// The wall clock in JSON lines, as RFC 3339 in UTC.
#[derive(Debug)]
struct Timer;

impl FormatTime for Timer {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        let text = Civil::from_unix_ms(OsClock::new().now().wall_ms).to_string();
        let text = text.replacen(' ', "T", 1).replace(',', ".");
        write!(w, "{text}Z")
    }
}

/// Kafka's shape of a line.
#[derive(Debug)]
struct Plain {
    clock: OsClock,
}

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        ctx.field_format().format_fields(Writer::new(&mut text), event)?;
        let meta = event.metadata();
        let now = Civil::from_unix_ms(self.clock.now().wall_ms);
        writeln!(out, "{}", line(now, *meta.level(), &text, meta.target()))
    }
}

/// One line; line breaks in the message, which may come from a client, cannot begin another.
fn line(now: Civil, level: Level, text: &str, target: &str) -> String {
    let text = text.replace('\r', "\\r").replace('\n', "\\n");
    let target = target.strip_prefix("vltava::").unwrap_or(target);
    format!("[{now}] {level} {text} ({target})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_go_by_room() {
        assert_eq!(directives("info").unwrap(), "warn,openraft=error,vltava=info");
        assert_eq!(
            directives("warn, log=debug").unwrap(),
            "warn,openraft=error,vltava=warn,vltava::log=debug,log=debug"
        );
        assert!(directives("loud").unwrap_err().starts_with("\"loud\" is not one of"));
        assert!(directives("log[x]=info").is_err());
    }

    #[test]
    fn a_line_is_kafkas_and_one() {
        let now = Civil::from_unix_ms(1_795_405_276_042);
        assert_eq!(
            line(now, Level::INFO, "a\nb", "vltava::node::boot"),
            "[2026-11-23 03:41:16,042] INFO a\\nb (node::boot)"
        );
    }

    #[test]
    fn a_moved_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/server.log");
        let output = Output::file(&path).unwrap();
        (&mut &output).write_all(b"one\n").unwrap();
        OsFs.rename(&path, &dir.path().join("old")).unwrap();
        (&mut &output).write_all(b"two\n").unwrap();
        let Output::File(file) = &output else { panic!("a file") };
        file.reopen().unwrap();
        (&mut &output).write_all(b"three\n").unwrap();
        let read = |p: &Path| String::from_utf8(OsFs.read(p, 100).unwrap()).unwrap();
        assert_eq!(read(&dir.path().join("old")), "one\ntwo\n");
        assert_eq!(read(&path), "three\n");
    }
}
