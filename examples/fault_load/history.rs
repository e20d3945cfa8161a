//! The history of a load: who sent what, and what was acknowledged where. One JSON object a line:
//! `{"sent":[producer,count]}`, `{"ok":[producer,seq,partition,offset]}`,
//! `{"unknown":[producer,seq]}`, `{"fatal":"text"}`. Written and read by this program alone, so the
//! reader takes exactly these shapes and refuses the rest.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, bail};

/// The filler after a record's name makes it this long, in bytes.
pub(crate) const VALUE_BYTES: usize = 180;

/// The value of record `seq` of `producer`: its name, then bytes that follow from it.
pub(crate) fn value(run: u64, producer: u32, seq: u64, out: &mut String) {
    out.clear();
    let _ = write!(out, "{run}/{producer}/{seq}/");
    let mut state = run ^ (u64::from(producer) << 40) ^ seq.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while out.len() < VALUE_BYTES {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.push(char::from(b'a' + u8::try_from((state >> 59) % 26).unwrap_or(0)));
    }
}

/// The name in a value: run, producer, sequence. `None` when a byte differs from what was sent.
pub(crate) fn name(text: &str) -> Option<(u64, u32, u64)> {
    let mut parts = text.splitn(4, '/');
    let run = parts.next()?.parse().ok()?;
    let producer = parts.next()?.parse().ok()?;
    let seq = parts.next()?.parse().ok()?;
    let mut want = String::new();
    value(run, producer, seq, &mut want);
    (want == text).then_some((run, producer, seq))
}

/// Where a record was acknowledged: partition, offset.
pub(crate) type Place = (i32, i64);

/// What one producer of one run did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Sends {
    /// Sequences below it were handed to the client.
    pub(crate) sent: u64,
    /// By sequence; `None`: no answer, the record may be there or not.
    pub(crate) acked: Vec<Option<Place>>,
}

impl Sends {
    /// Notes that `seq` was acknowledged at `place`.
    pub(crate) fn ack(&mut self, seq: u64, place: Place) {
        let at = usize::try_from(seq).unwrap_or(usize::MAX);
        if self.acked.len() <= at {
            self.acked.resize(at + 1, None);
        }
        self.acked[at] = Some(place);
        self.sent = self.sent.max(seq + 1);
    }
}

/// Several histories together, by run and producer.
#[derive(Debug, Default)]
pub(crate) struct Acked {
    pub(crate) producers: BTreeMap<(u64, u32), Sends>,
    /// Errors that ended a producer.
    pub(crate) fatal: Vec<String>,
}

impl Acked {
    /// Adds the history in the file `path`; its first line names the run.
    pub(crate) fn read(&mut self, path: &Path) -> anyhow::Result<()> {
        let file = File::open(path).with_context(|| format!("{}", path.display()))?;
        let mut run = None;
        for (n, line) in BufReader::new(file).lines().enumerate() {
            let line = line?;
            self.line(&mut run, &line).with_context(|| format!("{}:{}", path.display(), n + 1))?;
        }
        Ok(())
    }

    fn line(&mut self, run: &mut Option<u64>, line: &str) -> anyhow::Result<()> {
        let (kind, rest) = line
            .strip_prefix("{\"")
            .and_then(|l| l.strip_suffix('}'))
            .and_then(|l| l.split_once("\":"))
            .context("not an object of one key")?;
        if kind == "fatal" {
            self.fatal.push(rest.trim_matches('"').to_owned());
            return Ok(());
        }
        let numbers = rest
            .trim_matches(['[', ']'])
            .split(',')
            .map(str::parse::<i64>)
            .collect::<Result<Vec<_>, _>>()?;
        match (kind, numbers[..].as_ref(), *run) {
            ("run", &[id], _) => *run = Some(id.cast_unsigned()),
            ("ok", &[producer, seq, partition, offset], Some(run)) => {
                let place = (i32::try_from(partition)?, offset);
                self.of(run, producer)?.ack(seq.cast_unsigned(), place);
            }
            ("sent", &[producer, count], Some(run)) => {
                let sends = self.of(run, producer)?;
                sends.sent = sends.sent.max(count.cast_unsigned());
            }
            ("unknown", &[producer, seq], Some(run)) => {
                let sends = self.of(run, producer)?;
                sends.sent = sends.sent.max(seq.cast_unsigned() + 1);
            }
            _ => bail!("unknown line {line:?}"),
        }
        Ok(())
    }

    fn of(&mut self, run: u64, producer: i64) -> anyhow::Result<&mut Sends> {
        Ok(self.producers.entry((run, u32::try_from(producer)?)).or_default())
    }
}
