//! Metadata records, image, delta and loader: the truth all nodes share. Pure. Uses `base`, `pb`.
//!
//! A record is a fact. [`Delta::replay`] is the only place that turns records into state; everything
//! else reads an [`Image`], whose clone costs nothing.

pub mod brokers;
pub mod configs;
pub mod delta;
pub mod features;
pub mod image;
pub mod loader;
pub mod record;
mod record_codec;
pub mod topics;

pub use brokers::{BrokerRegistration, ControllerRegistration, Endpoint, VersionRange};
pub use configs::{ConfigResource, ResourceType};
pub use delta::{Delta, PartitionDiff, ReplayError};
pub use image::{Image, Position};
pub use loader::{Loader, Update};
pub use record::{Record, RecordError};
pub use topics::{LeaderRecoveryState, PartitionRegistration, Topic};
