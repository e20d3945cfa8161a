//! What transactions ask of the rest of the broker, beside their log: producer ids, and
//! where partitions are led. The broker implements them over its image and its way to
//! the controller.

use std::{fmt, sync::Arc};

use futures::future::BoxFuture;

use super::txn_records::TopicPartition;
use crate::base::{ErrorCode, NodeId, Offset};

/// Where a partition's markers go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// To this broker, by its listener between brokers.
    At {
        /// The broker.
        node: NodeId,
        /// Its advertised host.
        host: Arc<str>,
        /// Its advertised port.
        port: u16,
    },
    /// Nobody leads it now, or not yet as far as this broker knows.
    Unknown,
    /// There is no such partition: its topic was deleted.
    Gone,
}

/// The broker around the transactions.
pub trait TxnBroker: Send + Sync + fmt::Debug {
    /// A producer id that was never given before.
    ///
    /// # Errors
    /// `CoordinatorLoadInProgress` if the controller has none to give now.
    fn producer_id(&self) -> BoxFuture<'static, Result<i64, ErrorCode>>;

    /// Who leads `partition`. `Gone` only if the metadata that says so is as new as the record at
    /// offset `as_of` of the metadata log.
    fn leader_of(&self, partition: &TopicPartition, as_of: Offset) -> Leader;
}
