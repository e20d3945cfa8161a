//! Record batches v2: view, build, validate, compress. Pure. Uses `base`.

pub mod batch;

pub use batch::{BatchError, BatchHeader};
