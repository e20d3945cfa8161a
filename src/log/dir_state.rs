//! What a log directory held when it was opened: its partitions, its leftovers, its checkpoints,
//! and whether the last stop was clean.

use std::{collections::BTreeMap, path::Path};

use super::{
    checkpoint::{self, CHECKPOINT_BYTES_MAX},
    dir::{CLEAN_LOGS, CLEAN_MARKER, LogDir, METADATA_LOG, OffsetFile, SMALL_FILE_BYTES_MAX},
    error::LogError,
    names::{self, Fate},
};
use crate::base::{Offset, TopicPartition, Uuid};

/// What a clean stop remembers of a log, so that the next start need not look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanEntry {
    /// The topic's id; zero if none is known.
    pub topic_id: Uuid,
    /// The log start offset.
    pub log_start: Offset,
    /// The log end offset.
    pub end: Offset,
    /// Bytes of all segments.
    pub size: u64,
}

/// A live partition directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPartition {
    /// Which partition.
    pub tp: TopicPartition,
    /// What the clean stop remembered; `None` if the log must be looked at.
    pub known: Option<CleanEntry>,
}

/// A directory that is no live partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// The directory's name.
    pub name: String,
    /// Which partition it was; the topic may be cut.
    pub tp: TopicPartition,
    /// What it waits for.
    pub fate: Fate,
}

/// What a directory held when it was opened.
#[derive(Debug, Clone, Default)]
pub struct DirState {
    /// Whether the last stop was clean: no log needs recovery.
    pub clean: bool,
    /// The broker epoch of the last run, if the stop was clean and it could be read.
    pub broker_epoch: Option<i64>,
    /// Partitions, without the metadata log.
    pub partitions: Vec<FoundPartition>,
    /// Whether `__cluster_metadata-0` is here.
    pub has_metadata_log: bool,
    /// What earlier runs renamed.
    pub leftovers: Vec<Leftover>,
    /// `recovery-point-offset-checkpoint`.
    pub recovery_points: BTreeMap<TopicPartition, Offset>,
    /// `replication-offset-checkpoint`.
    pub high_watermarks: BTreeMap<TopicPartition, Offset>,
    /// `log-start-offset-checkpoint`.
    pub log_starts: BTreeMap<TopicPartition, Offset>,
    /// `cleaner-offset-checkpoint`.
    pub cleaner_points: BTreeMap<TopicPartition, Offset>,
}

impl LogDir {
    pub(super) fn read_state(&self) -> Result<DirState, LogError> {
        let mut state = DirState {
            recovery_points: self.read_offsets(OffsetFile::RecoveryPoint)?,
            high_watermarks: self.read_offsets(OffsetFile::HighWatermark)?,
            log_starts: self.read_offsets(OffsetFile::LogStart)?,
            cleaner_points: self.read_offsets(OffsetFile::Cleaner)?,
            ..DirState::default()
        };
        let marker = self.path().join(CLEAN_MARKER);
        let content = self.read_text(&marker, SMALL_FILE_BYTES_MAX)?;
        let present = self.fs().stat(&marker).map_err(|e| self.fault("reading", &marker, e))?;
        state.clean = present.is_some();
        state.broker_epoch = content.as_deref().and_then(parse_marker);
        let known = if state.clean { self.read_clean_logs(&state)? } else { BTreeMap::new() };
        self.take_marker(&marker)?;
        self.list(&mut state, &known)?;
        Ok(state)
    }

    fn take_marker(&self, marker: &Path) -> Result<(), LogError> {
        for path in [marker, &self.path().join(CLEAN_LOGS)] {
            self.fs().remove_file(path).map_err(|e| self.fault("removing", path, e))?;
        }
        self.sync_dir(self.path())
    }

    fn list(
        &self,
        state: &mut DirState,
        known: &BTreeMap<TopicPartition, CleanEntry>,
    ) -> Result<(), LogError> {
        let entries =
            self.fs().read_dir(self.path()).map_err(|e| self.fault("listing", self.path(), e))?;
        for entry in entries.into_iter().filter(|e| e.is_dir) {
            if entry.name == METADATA_LOG {
                state.has_metadata_log = true;
            } else if let Some((tp, fate)) = names::parse_doomed_dir(&entry.name) {
                state.leftovers.push(Leftover { name: entry.name, tp, fate });
            } else if let Some(tp) = TopicPartition::from_dir_name(&entry.name) {
                let known = known.get(&tp).copied();
                state.partitions.push(FoundPartition { tp, known });
            } else {
                let dir = self.path().display();
                tracing::warn!(%dir, entry.name, "not a partition, left alone");
            }
        }
        Ok(())
    }

    fn read_offsets(&self, file: OffsetFile) -> Result<BTreeMap<TopicPartition, Offset>, LogError> {
        let path = self.path().join(file.name());
        let text = self.read_text(&path, CHECKPOINT_BYTES_MAX)?.unwrap_or_default();
        Ok(checkpoint::parse_offsets(&text).unwrap_or_else(|e| {
            // Without it more is scanned or offered again; nothing is lost.
            tracing::warn!(path = %path.display(), error = %e, "checkpoint is damaged, not used");
            BTreeMap::new()
        }))
    }

    fn read_clean_logs(
        &self,
        state: &DirState,
    ) -> Result<BTreeMap<TopicPartition, CleanEntry>, LogError> {
        let none = BTreeMap::new();
        let path = self.path().join(CLEAN_LOGS);
        let Some(text) = self.read_text(&path, CHECKPOINT_BYTES_MAX)? else { return Ok(none) };
        let Some((seal, body)) = text.split_once('\n') else { return Ok(none) };
        if seal.parse() != Ok(self.seal()?) {
            return Ok(none);
        }
        let Ok(lines) = checkpoint::lines(body) else { return Ok(none) };
        let all = lines.iter().filter_map(|(_, line)| parse_clean_entry(line));
        Ok(all.filter(|(tp, e)| state.recovery_points.get(tp) == Some(&e.end)).collect())
    }
}

fn parse_clean_entry(line: &str) -> Option<(TopicPartition, CleanEntry)> {
    let words: Vec<_> = line.split(' ').collect();
    let [topic, partition, topic_id, log_start, end, size] = words[..] else { return None };
    let entry = CleanEntry {
        topic_id: topic_id.parse().ok()?,
        log_start: log_start.parse().ok()?,
        end: end.parse().ok()?,
        size: size.parse().ok()?,
    };
    (0 <= entry.log_start && entry.log_start <= entry.end)
        .then(|| Some((TopicPartition::new(topic, partition.parse().ok()?), entry)))?
}

/// The broker epoch in the marker's JSON, if it is of version 0.
fn parse_marker(text: &str) -> Option<i64> {
    let number = |key: &str| -> Option<i64> {
        let (_, after) = text.split_once(&format!("\"{key}\""))?;
        let value = after.trim_start().strip_prefix(':')?.trim_start();
        let end = value.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(value.len());
        value.get(..end)?.parse().ok()
    };
    if number("version")? != 0 {
        return None;
    }
    number("brokerEpoch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_gives_the_epoch_if_it_can_be_read() {
        assert_eq!(parse_marker(r#"{"version":0,"brokerEpoch":7}"#), Some(7));
        assert_eq!(parse_marker(r#"{ "version" : 0, "brokerEpoch" : 12 }"#), Some(12));
        for bad in ["", "{}", r#"{"version":1,"brokerEpoch":2}"#, r#"{"version":0}"#] {
            assert_eq!(parse_marker(bad), None, "{bad}");
        }
    }

    #[test]
    fn remembered_logs() {
        let id = Uuid([9; 16]);
        let want = CleanEntry { topic_id: id, log_start: 3, end: 7, size: 100 };
        let got = parse_clean_entry(&format!("a 2 {id} 3 7 100"));
        assert_eq!(got, Some((TopicPartition::new("a", 2), want)));
        for bad in ["a 2 x 3 7 100", "a 2", "a x AAAAAAAAAAAAAAAAAAAAAA 3 7 1", ""] {
            assert_eq!(parse_clean_entry(bad), None, "{bad}");
        }
        assert_eq!(parse_clean_entry(&format!("a 2 {id} 8 7 100")), None, "start above end");
    }
}
