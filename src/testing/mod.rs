//! Seeded and crashable doubles of the ports.

pub mod batches;
pub mod clock;
pub mod fs;
mod nodes;
