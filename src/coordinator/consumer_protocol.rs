//! What consumers say and are told inside the classic protocol (`ConsumerProtocolSubscription`,
//! `ConsumerProtocolAssignment`, versions 0 to 3). A version from the future is read as the last
//! one. Decoding is bounded by the bytes at hand. Pure.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use super::{
    codec::{Reader, RecordError, Writer},
    consumer_records::Partitions,
};
use crate::{base::PartitionId, metadata::Image};

/// The newest version there is.
const VERSION_MAX: i16 = 3;

/// A subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) version: i16,
    pub(super) topics: BTreeSet<Arc<str>>,
    pub(super) owned: Vec<(Arc<str>, Vec<PartitionId>)>,
    pub(super) rack: Option<Arc<str>>,
}

/// An assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) topics: Vec<(Arc<str>, Vec<PartitionId>)>,
    /// Bytes of a client's own assignor.
    pub(super) user_data: Bytes,
}

fn version(reader: &mut Reader<'_>) -> Result<i16, RecordError> {
    match reader.i16("version")? {
        v if v < 0 => Err(RecordError::UnknownVersion(v)),
        v => Ok(v.min(VERSION_MAX)),
    }
}

fn nullable_bytes(reader: &mut Reader<'_>) -> Result<Bytes, RecordError> {
    match reader.peek_i32() {
        Some(-1) => reader.i32("userData").map(|_| Bytes::new()),
        _ => reader.bytes("userData"),
    }
}

fn topic_partitions(reader: &mut Reader<'_>) -> Result<(Arc<str>, Vec<PartitionId>), RecordError> {
    Ok((reader.string("topic")?, reader.list("partitions", |r| r.i32("partition"))?))
}

impl Subscription {
    /// # Errors
    /// `Malformed`, `UnknownVersion`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        let version = version(&mut reader)?;
        let topics = reader.list("topics", |r| r.string("topic"))?.into_iter().collect();
        nullable_bytes(&mut reader)?;
        let owned = match version {
            1.. => reader.list("ownedPartitions", topic_partitions)?,
            _ => Vec::new(),
        };
        if version >= 2 {
            reader.i32("generationId")?;
        }
        let rack = if version >= 3 { reader.nullable_string("rackId")? } else { None };
        Ok(Self { version, topics, owned, rack })
    }

    /// What the member says that it owns, as far as it exists.
    pub(super) fn owned(&self, image: &Image) -> Partitions {
        by_id(&self.owned, image)
    }
}

impl Assignment {
    /// # Errors
    /// `Malformed`, `UnknownVersion`.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut reader = Reader::new(bytes);
        version(&mut reader)?;
        let topics = reader.list("assignedPartitions", topic_partitions)?;
        Ok(Self { topics, user_data: nullable_bytes(&mut reader)? })
    }

    /// The partitions of it that exist.
    pub(super) fn partitions(&self, image: &Image) -> Partitions {
        by_id(&self.topics, image)
    }
}

fn by_id(topics: &[(Arc<str>, Vec<PartitionId>)], image: &Image) -> Partitions {
    let known = topics.iter().filter(|(_, p)| !p.is_empty());
    known
        .filter_map(|(name, p)| Some((image.topics().id_of(name)?, p.iter().copied().collect())))
        .collect()
}

/// An assignment as a member of `version` reads it; topics that are gone are left out.
pub(super) fn encode_assignment(partitions: &Partitions, version: i16, image: &Image) -> Bytes {
    let known = partitions.iter().filter_map(|(id, p)| Some((image.topics().by_id(*id)?, p)));
    let known: Vec<_> = known.collect();
    let mut out = Writer::default();
    out.i16(version);
    out.i32(i32::try_from(known.len()).unwrap_or(i32::MAX));
    for (topic, partitions) in known {
        // A topic's name has at most 249 bytes.
        out.i16(i16::try_from(topic.name.len()).unwrap_or(i16::MAX));
        out.raw(topic.name.as_bytes());
        out.i32(i32::try_from(partitions.len()).unwrap_or(i32::MAX));
        for partition in partitions {
            out.i32(*partition);
        }
    }
    out.i32(-1);
    out.done()
}
