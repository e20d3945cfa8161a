//! Cluster decisions: commands in, records and replies out. Pure but for the drivers.
//!
//! [`Core`] holds what only the active controller knows (sessions, an index over the image) and
//! decides; every decision writes records into a [`Draft`], which the driver proposes to the quorum.
//! Uses `base`, `config`, `metadata`, `pb`.

mod alter_partition;
mod brokers;
pub mod command;
mod configs;
mod core;
mod draft;
mod elections;
mod features;
mod index;
mod partitions;
mod placement;
mod producer_ids;
mod schema;
mod sessions;
mod topic_changes;
mod topic_names;
mod topics;
mod turn;

pub use command::{Command, Outcome, Refusal, Reply};
pub use core::{Core, Settings, TopicDefaults};
pub use draft::Draft;
pub use schema::{ConfigSchema, EffectiveConfig};
