//! What must hold, one invariant a file. Each has an id, which a violation names.

mod acknowledged;
mod agreement;
mod enough;
mod equal;
mod high_watermark;
mod isr_has_it;
mod leader_epoch;
mod metadata;
mod one_value;
mod progress;
mod sequences;
mod sessions;
mod transactions;
mod visible;
