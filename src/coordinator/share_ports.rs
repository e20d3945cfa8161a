//! What share state asks of the rest of the broker: to give up the beginning of its log, and where
//! share coordinators are. The broker implements them over its replicas and its image.

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;

use super::ports::OffsetsLog;
use crate::base::{ErrorCode, NodeId, Offset, PartitionId};

/// The partitions of `__share_group_state` that this broker leads.
pub trait PrunedLog: OffsetsLog {
    /// Gives up all records below `before`, as DeleteRecords does. May take as long as removing
    /// files takes.
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `OffsetOutOfRange`, `KafkaStorageError`.
    fn delete_before(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        before: Offset,
    ) -> Result<(), ErrorCode>;
}

/// Where the coordinator of a share partition is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareCoordinator {
    /// On this broker.
    Here,
    /// On another, by its listener between brokers.
    At {
        /// The broker.
        node: NodeId,
        /// Its advertised host.
        host: Arc<str>,
        /// Its advertised port.
        port: u16,
    },
    /// Nobody leads its partition of `__share_group_state` now.
    Unknown,
    /// There is no `__share_group_state` yet.
    NoTopic,
}

/// The broker around the users of share state.
pub trait ShareBroker: Send + Sync + fmt::Debug {
    /// Who leads the partition of `__share_group_state` that `place` names, given the number of
    /// partitions that the topic has.
    fn coordinator(&self, place: &dyn Fn(i32) -> PartitionId) -> ShareCoordinator;

    /// Has `__share_group_state` created. Whether that worked is seen by
    /// [`ShareBroker::coordinator`].
    fn create_topic(&self) -> BoxFuture<'static, ()>;
}
