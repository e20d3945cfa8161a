//! Identifiers. `Uuid` follows Kafka's `Uuid.java`: URL-safe base64 without padding.

use std::{fmt, str::FromStr, sync::Arc};

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};

/// An offset in a partition log.
pub type Offset = i64;
/// The epoch of a partition leader; -1 when unknown.
pub type LeaderEpoch = i32;
/// The number of a partition within its topic.
pub type PartitionId = i32;

/// The id of a node, broker or controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub i32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 16 bytes that name a topic, a directory, a cluster or an incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// No id; as a directory id: MIGRATING.
    pub const ZERO: Self = Self([0; 16]);
    /// The topic id of `__cluster_metadata`; as a directory id: UNASSIGNED.
    pub const ONE: Self = Self::small(1);
    /// As a directory id: LOST.
    pub const LOST_DIR: Self = Self::small(2);
    /// As a directory id: the replica's directory is not chosen yet.
    pub const UNASSIGNED_DIR: Self = Self::ONE;

    const fn small(n: u8) -> Self {
        let mut b = [0; 16];
        b[15] = n;
        Self(b)
    }

    /// Whether this is the zero id.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        *self == Self::ZERO
    }

    /// Whether Kafka reserves this id: every one below 100 (`DirectoryId.java`).
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        u128::from_be_bytes(self.0) < 100
    }

    /// A type-4 id made of `bytes`, or `None` where Kafka would draw again: a reserved id, or one
    /// whose text begins with `-` (it would read as a flag).
    #[must_use]
    pub fn random_from(bytes: [u8; 16]) -> Option<Self> {
        let mut b = bytes;
        b[6] = (b[6] & 0x0f) | 0x40;
        b[8] = (b[8] & 0x3f) | 0x80;
        Self(b).usable()
    }

    /// A directory id: `bytes` as they are, under the same two exclusions.
    #[must_use]
    pub fn directory_from(bytes: [u8; 16]) -> Option<Self> {
        Self(bytes).usable()
    }

    fn usable(self) -> Option<Self> {
        (!self.is_reserved() && !self.to_string().starts_with('-')).then_some(self)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not an id: longer than 24 characters, not base64, or not 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a uuid: 16 bytes as 22 characters of URL-safe base64 are expected")]
pub struct BadUuid(pub String);

impl FromStr for Uuid {
    type Err = BadUuid;

    fn from_str(s: &str) -> Result<Self, BadUuid> {
        let bad = || BadUuid(s.chars().take(40).collect());
        if s.len() > 24 {
            return Err(bad());
        }
        let engine = if s.ends_with('=') { &URL_SAFE } else { &URL_SAFE_NO_PAD };
        let bytes = engine.decode(s).map_err(|_| bad())?;
        Ok(Self(bytes.try_into().map_err(|_| bad())?))
    }
}

/// A partition by name: the key of logs and replicas.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: PartitionId) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// Reads a directory name such as `orders-7`; `None` if it has another shape.
    #[must_use]
    pub fn from_dir_name(name: &str) -> Option<Self> {
        let (topic, partition) = name.rsplit_once('-')?;
        let partition: PartitionId = partition.parse().ok().filter(|p| *p >= 0)?;
        (!topic.is_empty()).then(|| Self::new(topic, partition))
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_text_is_kafkas() {
        assert_eq!(Uuid::ONE.to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!("AAAAAAAAAAAAAAAAAAAAAQ".parse(), Ok(Uuid::ONE));
        assert_eq!("AAAAAAAAAAAAAAAAAAAAAQ==".parse(), Ok(Uuid::ONE));
        for bad in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAQAAAAA", "AAAAAAAAAAAAAAAAAAAA+Q"] {
            assert!(bad.parse::<Uuid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_that_read_as_flags_or_are_reserved_are_not_drawn() {
        assert_eq!(Uuid::directory_from([0; 16]), None);
        assert_eq!(Uuid::directory_from([0xf8; 16]), None, "its text begins with -");
        let id = Uuid::random_from([7; 16]).unwrap();
        assert_eq!(id.0[6] >> 4, 4, "type 4");
    }

    #[test]
    fn directory_names() {
        assert_eq!(TopicPartition::from_dir_name("a-b-3"), Some(TopicPartition::new("a-b", 3)));
        for bad in ["a", "-3", "a--3", "a-x", "a-3.f00-delete"] {
            let got = TopicPartition::from_dir_name(bad);
            assert!(got.is_none() || bad == "a--3", "{bad}: {got:?}");
        }
    }
}
