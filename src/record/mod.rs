//! Record batches v2: view, build, validate, compress. Pure. Uses `base`.
//!
//! Bytes from clients and from disk pass here first, so that outside tests nothing indexes, casts
//! or overflows.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::as_conversions, clippy::arithmetic_side_effects)
)]

pub mod batch;
pub mod bootstrap;
pub mod builder;
pub mod compress;
pub mod control;
mod inflater;
mod lz4;
pub mod records;
pub mod retain;
pub mod rules;
pub mod validate;

pub use batch::{BatchError, BatchHeader};
pub use builder::{BatchBuilder, BatchFull};
pub use compress::{Codec, Compression, InflateError, Scratch, inflate};
pub use control::{ControlType, EndTxnMarker};
pub use records::{Record, RecordError, Records};
pub use retain::{Filtered, Horizon, Left, Retainer};
pub use rules::{ProduceContext, RecordIssue, Refusal, Rules, TimestampType};
pub use validate::{Validated, validate};
