//! Groups, classic ones, consumer groups (KIP-848) and share groups (KIP-932), and committed offsets,
//! kept in `__consumer_offsets`; transactions, kept in `__transaction_state`; the state of share
//! partitions, kept in `__share_group_state`.
//!
//! One partition of that topic is one [`shard::Shard`]: a pure machine that takes [`calls::Call`]s
//! and deadlines and gives [`calls::Effect`]s. `table` holds the shards this broker leads, behind
//! the only locks of the room. `driver` is the shell that waits: it loads shards from the log,
//! appends what they decide, and answers clients. `translate` alone knows the wire's structs.
//! Transactions are built the same way (`txn_shard`, `transactions_driver`); `markers_driver` carries their
//! ends to the leaders of their partitions. So is share state (`share_shard`, `share_driver`);
//! `share_persister_driver` is the way to it from any broker.
//!
//! May use `base`, `config`, `record`, `wire`, `metadata`, `net`, `controller`, `replica`.

pub mod assignor;
mod assignor_mixed;
mod assignor_range;
#[cfg(test)]
mod assignor_test;
mod assignor_uniform;
pub mod batches;
pub mod calls;
pub mod calls_consumer;
pub mod calls_share_groups;
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
mod group_pace;
mod group_reconcile;
mod group_subscription;
mod group_sync;
pub mod machine;
mod markers_driver;
mod member;
mod offsets;
mod offsets_txn;
pub mod ports;
pub mod records;
mod requests_consumer_driver;
mod requests_driver;
mod requests_share_groups_driver;
pub mod settings;
pub mod shard;
mod shard_consumer;
mod shard_delete;
mod shards_driver;
mod share_assignor;
mod share_batches;
pub mod share_calls;
pub mod share_driver;
mod share_group;
pub mod share_group_records;
mod share_groups;
mod share_heartbeat;
pub mod share_persister;
pub mod share_persister_driver;
pub mod share_ports;
pub mod share_records;
pub mod share_settings;
pub mod share_shard;
mod share_state;
pub mod table;
pub mod topic_regex;
pub mod transactions_driver;
mod translate;
mod translate_consumer;
mod translate_offsets;
mod translate_share;
mod translate_share_groups;
mod translate_txn;
mod turn;
mod txn;
pub mod txn_batches;
pub mod txn_calls;
pub(crate) mod txn_driver;
mod txn_parked;
pub mod txn_ports;
pub mod txn_records;
pub mod txn_settings;
pub mod txn_shard;

pub use calls::Client;
pub use driver::Coordinators;
pub use ports::{Appended, Bounds, Chunk, OffsetsLog, TopicNames};
pub use settings::{ConsumerSettings, MigrationPolicy, Settings, ShareMemberSettings};
pub use share_driver::ShareStates;
pub use share_persister::SharePersister;
pub use table::partition_for;
pub use transactions_driver::Transactions;
