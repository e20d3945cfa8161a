//! The ports made real: the only room that touches clocks, files, processes and entropy. Uses `base`.

pub mod clock;
pub mod fs;
pub mod limits;
pub mod process;

pub use clock::{OsClock, OsEntropy};
pub use fs::OsFs;
