//! `quorum-state`: what this member promised (its vote), and what it may have thrown away (the
//! purged end of its log). Replaced by write, sync, rename, sync of the directory. The JSON has
//! the fields of Kafka's `QuorumStateData` (version 1) and two of our own. Uses `base`.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::types::{self, Vote};
use crate::{
    base::{NodeId, Uuid, ports::Fs},
    metadata::Position,
};

/// The file's name within the metadata log's directory.
pub(crate) const FILE_NAME: &str = "quorum-state";
/// More than the file can have.
const FILE_BYTES_MAX: u64 = 4096;

/// What the file keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct QuorumState {
    /// The vote, if one was ever cast or seen.
    pub(crate) vote: Option<Vote>,
    /// The last entry that was purged behind a checkpoint.
    pub(crate) purged: Option<Position>,
}

impl QuorumState {
    /// The file's text.
    pub(crate) fn encode(&self) -> String {
        let vote = self.vote;
        let node = |v: Vote| v.leader_id.voted_for.0;
        let leader = vote.filter(|v| v.committed).map_or(-1, node);
        let epoch = vote.map_or(0, |v| v.leader_id.term);
        let voted = vote.map_or(-1, node);
        let mut out = format!(
            "{{\"leaderId\":{leader},\"leaderEpoch\":{epoch},\"votedId\":{voted},\
             \"votedDirectoryId\":\"{}\"",
            Uuid::ZERO
        );
        if let Some(p) = self.purged {
            // Writing to a string cannot fail.
            let _ = write!(out, ",\"purgedOffset\":{},\"purgedEpoch\":{}", p.offset, p.epoch);
        }
        out.push_str(",\"data_version\":1}");
        out
    }

    /// Reads the file's text: one flat object with numbers and strings.
    ///
    /// # Errors
    /// `InvalidData` naming what is wrong.
    pub(crate) fn decode(text: &str) -> io::Result<Self> {
        let fields = flat_object(text).ok_or_else(|| bad("it is not a flat JSON object"))?;
        let number = |name: &str| -> io::Result<Option<i64>> {
            let value = fields.iter().find(|(k, _)| k == name);
            value
                .map(|(_, v)| v.parse().map_err(|_| bad(&format!("{name} is not a number"))))
                .transpose()
        };
        let small = |name: &str| -> io::Result<i32> {
            let value = number(name)?.ok_or_else(|| bad(&format!("{name} is missing")))?;
            i32::try_from(value).map_err(|_| bad(&format!("{name} is out of range")))
        };
        match small("data_version")? {
            0 | 1 => {}
            other => return Err(bad(&format!("data_version {other} is not known"))),
        }
        let (epoch, leader, voted) = (small("leaderEpoch")?, small("leaderId")?, small("votedId")?);
        let vote = match (leader, voted) {
            _ if epoch < 0 => return Err(bad("leaderEpoch is negative")),
            (leader, _) if leader >= 0 => Some(Vote::new_committed(epoch, NodeId(leader))),
            (_, voted) if voted >= 0 => Some(Vote::new(epoch, NodeId(voted))),
            _ => None,
        };
        let purged = match (number("purgedOffset")?, number("purgedEpoch")?) {
            (Some(offset), Some(epoch)) if offset >= 0 => {
                let epoch = i32::try_from(epoch).map_err(|_| bad("purgedEpoch is out of range"))?;
                Some(Position { epoch, offset })
            }
            _ => None,
        };
        Ok(Self { vote, purged })
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{FILE_NAME}: {what}"))
}

/// The members of a JSON object that has numbers and plain strings only.
fn flat_object(text: &str) -> Option<Vec<(String, String)>> {
    let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
    let mut out = Vec::new();
    for member in inner.split(',') {
        let (name, value) = member.split_once(':')?;
        let name = name.trim().strip_prefix('"')?.strip_suffix('"')?;
        let value = value.trim();
        let value = value.strip_prefix('"').map_or(Some(value), |v| v.strip_suffix('"'))?;
        out.push((name.to_owned(), value.to_owned()));
    }
    Some(out)
}

/// The file, with what it holds kept in memory.
#[derive(Debug)]
pub(crate) struct VoteFile {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    state: QuorumState,
}

impl VoteFile {
    /// Reads the file in `dir`; an absent one says that nothing was promised yet.
    ///
    /// # Errors
    /// The file cannot be read, or is none of ours: to guess a vote could elect two leaders.
    pub(crate) fn open(fs: Arc<dyn Fs>, dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let state = match fs.read(&path, FILE_BYTES_MAX) {
            Ok(bytes) => {
                let text = str::from_utf8(&bytes).map_err(|_| bad("it is not UTF-8"))?;
                QuorumState::decode(text)?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => QuorumState::default(),
            Err(e) => return Err(e),
        };
        Ok(Self { fs, path, state })
    }

    /// What was promised.
    pub(crate) fn state(&self) -> QuorumState {
        self.state
    }

    /// Makes `vote` durable. That a vote became a leader's needs no write: the promise is the
    /// same, and a restarted member must be elected anew in any case.
    ///
    /// # Errors
    /// The write failed; the vote must not be acted upon.
    pub(crate) fn save_vote(&mut self, vote: Vote) -> io::Result<()> {
        let same = self.state.vote.is_some_and(|old| old.leader_id == vote.leader_id);
        let next = QuorumState { vote: Some(vote), ..self.state };
        if !same {
            self.write(next)?;
        }
        self.state = next;
        Ok(())
    }

    /// Makes durable that the log begins after `purged`.
    ///
    /// # Errors
    /// The write failed; nothing may be deleted.
    pub(crate) fn save_purged(&mut self, purged: Position) -> io::Result<()> {
        let next = QuorumState { purged: Some(purged), ..self.state };
        self.write(next)?;
        self.state = next;
        Ok(())
    }

    fn write(&self, state: QuorumState) -> io::Result<()> {
        self.fs.write_atomic(&self.path, state.encode().as_bytes())
    }
}

/// The purged position as a log id.
pub(crate) fn purged_log_id(state: QuorumState) -> Option<types::LogId> {
    state.purged.and_then(types::log_id_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::OsFs;

    #[test]
    fn text_reads_back() {
        for state in [
            QuorumState::default(),
            QuorumState { vote: Some(Vote::new(3, NodeId(7))), purged: None },
            QuorumState {
                vote: Some(Vote::new_committed(9, NodeId(1))),
                purged: Some(Position { epoch: 4, offset: 1000 }),
            },
        ] {
            assert_eq!(QuorumState::decode(&state.encode()).unwrap(), state);
        }
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let good = QuorumState { vote: Some(Vote::new(3, NodeId(7))), purged: None }.encode();
        for text in [
            "",
            "{}",
            &good[..good.len() - 1],
            "{\"leaderId\":1,\"leaderEpoch\":2,\"votedId\":1,\"data_version\":2}",
            "{\"leaderId\":1,\"leaderEpoch\":-2,\"votedId\":1,\"data_version\":1}",
            "{\"leaderId\":1,\"leaderEpoch\":9999999999,\"votedId\":1,\"data_version\":1}",
        ] {
            assert!(QuorumState::decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_vote_outlives_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let fs: Arc<dyn Fs> = Arc::new(OsFs);
        let mut file = VoteFile::open(Arc::clone(&fs), dir.path()).unwrap();
        assert_eq!(file.state().vote, None);
        file.save_vote(Vote::new(5, NodeId(2))).unwrap();
        file.save_vote(Vote::new_committed(5, NodeId(2))).unwrap();
        file.save_purged(Position { epoch: 3, offset: 40 }).unwrap();
        let again = VoteFile::open(fs, dir.path()).unwrap().state();
        assert_eq!(again.vote.unwrap().leader_id, Vote::new(5, NodeId(2)).leader_id);
        assert_eq!(purged_log_id(again).unwrap().index, 40);
    }
}
