//! Writes events, one line each, whole lines only.

use std::{
    fmt,
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::Mutex,
};

use anyhow::Context as _;
use rustix::time::{ClockId, clock_gettime};

/// The history of this process.
pub(crate) struct Recorder(Mutex<BufWriter<File>>);

impl Recorder {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        Ok(Self(Mutex::new(BufWriter::new(file))))
    }

    /// Microseconds of the clock that all processes of this machine share.
    pub(crate) fn now(&self) -> u64 {
        let t = clock_gettime(ClockId::Monotonic);
        t.tv_sec.cast_unsigned() * 1_000_000 + t.tv_nsec.cast_unsigned() / 1000
    }

    /// Adds a line. One that cannot be written shows as a read that nobody sent.
    pub(crate) fn event(&self, line: fmt::Arguments<'_>) {
        if let Ok(mut out) = self.0.lock() {
            let _ = out.write_fmt(line).and_then(|()| out.write_all(b"\n"));
        }
    }

    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        Ok(self.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.flush()?)
    }
}

/// Text that stands in a JSON string as it is.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || "\"\\".contains(c) { ' ' } else { c }).collect()
}
