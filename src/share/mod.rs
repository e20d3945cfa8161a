//! Share partitions of the partitions that this broker leads (KIP-932): which records each share
//! group has acquired, given back or finished with, and the share sessions of its members.
//!
//! One partition as one share group consumes it is a [`partition::SharePartition`]: a pure machine
//! over runs of records with one delivery state (`runs`). It acquires (`acquire`), takes
//! acknowledgements (`acknowledge`), and gives what changed as [`ShareWrite`]s, which the shell
//! takes to the share coordinator through [`SharePersister`]. `session` knows what members fetch.
//! `table_driver` is the shell: it loads share partitions when they are first fetched from, lets
//! locks expire, and lets go of what is led no longer; `fetch_driver` reads logs and acquires.
//!
//! May use `base`, `config`, `record`, `wire`, `log`, `metadata`, `net`, `controller`, `replica`,
//! `coordinator`. Files named `*driver` may wait.
//!
//! [`ShareWrite`]: crate::coordinator::share_persister::ShareWrite
//! [`SharePersister`]: crate::coordinator::share_persister::SharePersister

pub mod acknowledge;
pub mod acquire;
pub mod batches;
pub mod fetch_driver;
pub mod leavers;
pub mod partition;
#[cfg(test)]
mod partition_model_test;
#[cfg(test)]
mod partition_test;
mod runs;
pub mod session;
pub mod settings;
pub mod table_driver;

pub use table_driver::SharePartitions;
