//! Classic consumer groups and committed offsets, kept in `__consumer_offsets`.
//!
//! One partition of that topic is one [`shard::Shard`]: a pure machine that takes [`calls::Call`]s
//! and deadlines and gives [`calls::Effect`]s. `table` holds the shards this broker leads, behind
//! the only locks of the room. `driver` is the shell that waits: it loads shards from the log,
//! appends what they decide, and answers clients. `translate` alone knows the wire's structs.
//!
//! May use `base`, `config`, `record`, `wire`, `metadata`, `net`, `controller`, `replica`.

mod batches;
pub mod calls;
mod codec;
pub mod driver;
mod group_classic;
mod group_join;
mod group_sync;
mod member;
mod offsets;
mod offsets_txn;
pub mod ports;
pub mod records;
mod requests_driver;
pub mod settings;
pub mod shard;
mod table;
mod translate;
mod translate_offsets;
mod translate_txn;
mod turn;
pub(crate) mod txn_driver;

pub use calls::Client;
pub use driver::Coordinators;
pub use ports::{Appended, Bounds, Chunk, OffsetsLog, TopicNames};
pub use settings::Settings;
pub use table::partition_for;
