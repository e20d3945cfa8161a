//! Cluster decisions: commands in, records and replies out. Pure but for the drivers.
//!
//! [`Core`] holds what only the active controller knows (sessions, an index over the image) and
//! decides; every decision writes records into a [`Draft`], which the driver proposes to the quorum.
//! Uses `base`, `config`, `metadata`, `quorum`, `pb`.

mod alter_partition;
mod backlog;
mod brokers;
mod client_driver;
pub mod command;
mod configs;
mod core;
mod draft;
mod driver;
mod elect_leaders;
mod elections;
mod features;
mod heartbeat_driver;
mod heartbeats;
mod index;
mod lifecycle_driver;
mod lines_driver;
mod partitions;
mod placement;
mod producer_ids;
mod pulse_driver;
mod quorum_driver;
mod reassignments;
mod registration_driver;
mod schema;
pub mod service_driver;
mod sessions;
mod topic_changes;
mod topic_names;
mod topics;
mod turn;

pub use client_driver::{ClientError, ControllerClient};
pub use command::{Command, Outcome, Refusal, Reply};
pub use core::{Core, Settings, TopicDefaults};
pub use draft::Draft;
pub use driver::{ControllerDriver, ControllerHandle};
pub use lifecycle_driver::{BrokerLifecycle, BrokerSettings, BrokerState};
pub use registration_driver::{ControllerRegistration, ControllerSettings};
pub use schema::{ConfigSchema, EffectiveConfig};
