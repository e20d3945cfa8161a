//! What must hold, one invariant a file. Each has an id, which a violation names.

mod acknowledged;
mod agreement;
pub mod compaction;
mod enough;
mod equal;
mod high_watermark;
mod isr_has_it;
mod kept;
mod leader_epoch;
mod metadata;
pub mod names;
mod one_value;
mod progress;
mod sequences;
mod sessions;
pub mod shares;
mod transactions;
mod visible;
