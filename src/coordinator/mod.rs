//! Groups, classic ones and consumer groups (KIP-848), and committed offsets, kept in
//! `__consumer_offsets`.
//!
//! One partition of that topic is one [`shard::Shard`]: a pure machine that takes [`calls::Call`]s
//! and deadlines and gives [`calls::Effect`]s. `table` holds the shards this broker leads, behind
//! the only locks of the room. `driver` is the shell that waits: it loads shards from the log,
//! appends what they decide, and answers clients. `translate` alone knows the wire's structs.
//!
//! May use `base`, `config`, `record`, `wire`, `metadata`, `net`, `controller`, `replica`.

pub mod assignor;
mod assignor_mixed;
mod assignor_range;
#[cfg(test)]
mod assignor_test;
mod assignor_uniform;
mod batches;
pub mod calls;
pub mod calls_consumer;
mod codec;
mod consumer_groups;
mod consumer_member;
mod consumer_protocol;
pub mod consumer_records;
#[cfg(test)]
mod consumer_records_test;
pub mod driver;
mod group_classic;
mod group_consumer;
mod group_heartbeat;
mod group_join;
mod group_migration;
mod group_reconcile;
mod group_subscription;
mod group_sync;
mod member;
mod offsets;
pub mod ports;
pub mod records;
mod requests_consumer_driver;
mod requests_driver;
pub mod settings;
pub mod shard;
mod shard_consumer;
mod table;
pub mod topic_regex;
mod translate;
mod translate_consumer;
mod translate_offsets;
mod turn;

pub use calls::Client;
pub use driver::Coordinators;
pub use ports::{Appended, Bounds, Chunk, OffsetsLog, TopicNames};
pub use settings::{ConsumerSettings, MigrationPolicy, Settings};
pub use table::partition_for;
