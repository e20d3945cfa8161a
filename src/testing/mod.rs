//! Seeded and crashable doubles of the ports.

pub mod clock;
pub mod fs;
