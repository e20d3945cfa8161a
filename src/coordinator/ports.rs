//! What the room asks of the rest of the broker: the log of `__consumer_offsets`, and topics by
//! name and id. The broker implements them over its replicas and its metadata image.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::{
    base::{ErrorCode, Offset, PartitionId, Uuid},
    replica::txn::Origin,
};

/// An append that the log took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the batch's last record.
    pub last_offset: Offset,
    /// The high watermark after the append: above `last_offset` if the batch is committed already.
    pub high_watermark: Offset,
}

/// Batches read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Whole record batches; the last one may be cut short and is then read again.
    pub bytes: Bytes,
    /// The high watermark at the time of the read.
    pub high_watermark: Offset,
}

/// Where a log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Offset of the first record that still exists.
    pub start: Offset,
    /// Offset after the last record (the log end offset, not the high watermark).
    pub end: Offset,
}

/// The partitions of `__consumer_offsets` that this broker leads. Every call names the leader epoch
/// that the caller was elected with, and fails with `NotLeaderOrFollower` once that is over.
pub trait OffsetsLog: Send + Sync + fmt::Debug {
    /// Appends one batch as the leader of `partition`, with acks=all and its check of
    /// `min.insync.replicas`. Called with a shard locked: it must not wait for replication.
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `NotEnoughReplicas`, `MessageTooLarge`, `KafkaStorageError`, …:
    /// nothing was written.
    fn append(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        batch: Bytes,
    ) -> Result<Appended, ErrorCode>;

    /// As [`OffsetsLog::append`], with a batch of a transaction: offsets or a marker, as `origin`
    /// tells.
    ///
    /// # Errors
    /// As there; `InvalidProducerEpoch`, `InvalidTxnState`, `TransactionCoordinatorFenced`.
    fn append_in_txn(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        batch: Bytes,
        origin: Origin,
    ) -> Result<Appended, ErrorCode>;

    /// Waits until the high watermark passes `offset` and gives the watermark. Has no time limit
    /// of its own.
    ///
    /// # Errors
    /// `NotLeaderOrFollower` when the partition has another leader.
    fn committed(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        offset: Offset,
    ) -> BoxFuture<'static, Result<Offset, ErrorCode>>;

    /// The bounds of the log.
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `KafkaStorageError`.
    fn bounds(&self, partition: PartitionId, leader_epoch: i32) -> Result<Bounds, ErrorCode>;

    /// Reads from `offset` up to the log end. At least one whole batch is returned, even if it is
    /// larger than `max_bytes`; nothing at the log end.
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `OffsetOutOfRange`, `KafkaStorageError`.
    fn read(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        offset: Offset,
        max_bytes: usize,
    ) -> BoxFuture<'static, Result<Chunk, ErrorCode>>;
}

/// Topics as one request may see them. The handler implements it over the metadata image and the
/// authorizer, and answers with the error that the client shall get for the topic.
pub trait TopicNames: Send + Sync {
    /// The id of topic `name`.
    ///
    /// # Errors
    /// `UnknownTopicOrPartition`, `TopicAuthorizationFailed`.
    fn id_of(&self, name: &str) -> Result<Uuid, ErrorCode>;

    /// The name of topic `id`.
    ///
    /// # Errors
    /// `UnknownTopicId`, `TopicAuthorizationFailed`.
    fn name_of(&self, id: Uuid) -> Result<Arc<str>, ErrorCode>;

    /// Whether topic `name` has partition `partition`.
    fn has_partition(&self, name: &str, partition: PartitionId) -> bool;
}
