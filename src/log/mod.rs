//! Partition logs on disk, through the `Fs` port: segments, indexes, leader epochs, producer
//! state, recovery, retention, compaction. Pure but for drivers. Uses `base`, `config`, `record`.
//!
//! Who calls: `replica` and `quorum` each hold a [`Log`] behind a lock of their own. A [`LogDir`]
//! is shared by the logs that live in it; a [`FileCache`] by all directories of the process.

pub mod checkpoint;
mod clean_map;
mod clean_pass;
mod clean_plan;
#[cfg(test)]
mod clean_test;
mod clean_txns;
mod clean_write;
pub mod dir;
mod dir_future;
mod dir_state;
pub mod epochs;
pub mod error;
pub mod files;
#[cfg(test)]
mod fixture;
pub mod flush_driver;
mod index;
mod leftovers;
#[expect(clippy::module_inception, reason = "a room may be named for its main type")]
mod log;
mod log_append;
mod log_clean;
mod log_flush;
mod log_read;
mod log_truncate;
mod marker;
#[cfg(test)]
mod model_test;
pub mod names;
pub mod producers;
mod recent;
mod recovery;
mod recovery_epochs;
mod replay;
pub mod retention;
mod scan;
mod segment;
pub mod settings;
pub mod snapshot;
mod txn_index;
mod verification;

pub use clean_map::SLOT_BYTES;
pub use clean_pass::{CleanError, CleanStats, CleanTerms, Cleaning, Ward};
pub use clean_plan::{Dirt, RATIO_WHOLE};
pub use dir::{LogDir, OffsetFile, Removal};
pub use dir_state::{CleanEntry, DirState, FoundPartition, Leftover};
pub use epochs::EpochEnd;
pub use error::LogError;
pub use files::FileCache;
pub use flush_driver::{FlushDone, FlushDriver};
pub use log::{Log, LogInit, Recovery};
pub use log_append::Appended;
pub use log_clean::Assignment;
pub use log_flush::{FlushMark, FlushTicket};
pub use log_read::{FoundBatch, ReadSlices};
pub use producers::{AbortedTxn, OpenTxn, ProducerEntry};
pub use retention::{DeletionReason, Expired};
pub use settings::LogConfig;
pub use verification::{Origin, VerificationGuard};
