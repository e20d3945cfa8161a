//! Names of files and directories, as `LogFileUtils.java` and `LocalLog.java` spell them.

use crate::base::{Offset, TopicPartition, Uuid};

/// Batches.
pub const LOG: &str = "log";
/// Offset index.
pub const INDEX: &str = "index";
/// Time index.
pub const TIME_INDEX: &str = "timeindex";
/// Aborted transactions.
pub const TXN_INDEX: &str = "txnindex";
/// Producer state.
pub const SNAPSHOT: &str = "snapshot";
/// Suffix of a file that waits to be removed.
pub const DELETED: &str = ".deleted";
/// Suffix of a file that the cleaner has not finished.
pub const CLEANED: &str = ".cleaned";
/// Suffix of a file that is about to take its place.
pub const SWAP: &str = ".swap";
/// Suffix of a file that is being written.
pub const TMP: &str = ".tmp";
/// Text file of leader epochs in a partition's directory.
pub const EPOCHS: &str = "leader-epoch-checkpoint";
/// Text file with the topic id in a partition's directory.
pub const PARTITION_METADATA: &str = "partition.metadata";
/// The longest name of a file or directory.
const NAME_LEN_MAX: usize = 255;

/// `00000000000000000042.log` for base 42 and suffix `log`.
#[must_use]
pub fn file(base: Offset, suffix: &str) -> String {
    format!("{base:020}.{suffix}")
}

/// Base offset and suffix of a segment file's name: `(42, "log")`. The suffix may have parts, as
/// in `log.deleted`.
#[must_use]
pub fn parse_file(name: &str) -> Option<(Offset, &str)> {
    let (base, suffix) = name.split_once('.')?;
    if base.is_empty() || !base.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Offsets within a segment are added to it.
    let base = base.parse().ok().filter(|base| *base <= Offset::MAX / 2)?;
    Some((base, suffix))
}

/// What a directory that is no live partition waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// `-delete`: to be removed.
    Delete,
    /// `-stray`: not in the metadata; kept for the operator.
    Stray,
    /// `-future`: a copy that moves between directories.
    Future,
}

impl Fate {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Delete => "-delete",
            Self::Stray => "-stray",
            Self::Future => "-future",
        }
    }
}

/// `orders-7.0123456789abcdef0123456789abcdef-delete`. The topic is cut such that the name fits
/// into 255 characters, except for a future copy.
#[must_use]
pub fn doomed_dir(tp: &TopicPartition, unique: Uuid, fate: Fate) -> String {
    let hex: String = unique.0.iter().map(|b| format!("{b:02x}")).collect();
    let tail = format!("-{}.{hex}{}", tp.partition, fate.suffix());
    let room = match fate {
        Fate::Delete | Fate::Stray => NAME_LEN_MAX.saturating_sub(tail.len()),
        Fate::Future => tp.topic.len(),
    };
    let topic: String = tp.topic.chars().take(room).collect();
    format!("{topic}{tail}")
}

/// Reads a name that [`doomed_dir`] made; the topic may be cut.
#[must_use]
pub fn parse_doomed_dir(name: &str) -> Option<(TopicPartition, Fate)> {
    let (rest, fate) = [Fate::Delete, Fate::Stray, Fate::Future]
        .into_iter()
        .find_map(|f| Some((name.strip_suffix(f.suffix())?, f)))?;
    let (tp, unique) = rest.rsplit_once('.')?;
    let hex = unique.len() == 32 && unique.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| Some((TopicPartition::from_dir_name(tp)?, fate)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_files() {
        assert_eq!(file(42, LOG), "00000000000000000042.log");
        assert_eq!(parse_file("00000000000000000042.log"), Some((42, "log")));
        assert_eq!(parse_file("00000000000000000042.index.deleted"), Some((42, "index.deleted")));
        for bad in ["leader-epoch-checkpoint", ".log", "12a.log", "99999999999999999999.log", "7"] {
            assert_eq!(parse_file(bad), None, "{bad}");
        }
    }

    #[test]
    fn directories_that_wait() {
        let tp = TopicPartition::new("a.b-c", 3);
        let name = doomed_dir(&tp, Uuid([0xab; 16]), Fate::Delete);
        assert_eq!(name, format!("a.b-c-3.{}-delete", "ab".repeat(16)));
        assert_eq!(parse_doomed_dir(&name), Some((tp, Fate::Delete)));
        let long = TopicPartition::new("t".repeat(249), 12345);
        let name = doomed_dir(&long, Uuid([1; 16]), Fate::Stray);
        assert_eq!(name.len(), 255);
        assert_eq!(parse_doomed_dir(&name).unwrap().1, Fate::Stray);
        assert_eq!(parse_doomed_dir("a-3"), None);
        assert_eq!(parse_doomed_dir("a-3.xyz-delete"), None);
    }
}
