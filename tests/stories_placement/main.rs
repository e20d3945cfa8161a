//! Stories of placement and leadership, told with the controller's core and its log alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod leadership;
mod reassignments;
mod world;
