//! Configuration: THE table of keys, values, loading and layering, what a server and a topic make
//! of them, what DescribeConfigs tells of them. Pure: text in, values out. Uses `base`.

pub mod describe;
pub mod docs;
pub mod dynamic;
pub mod endpoint;
pub mod group;
pub mod ignored;
pub mod keys;
mod keys_group;
mod keys_log;
mod keys_own;
mod keys_replica;
mod keys_security;
mod keys_server;
mod keys_share;
mod keys_share_groups;
mod keys_topic;
pub mod layers;
pub mod load;
pub mod meta_properties;
pub mod properties;
mod roles;
pub mod sections;
pub mod server;
pub mod share_group;
pub mod topic;
pub mod value;

pub use endpoint::{Endpoint, SecurityProtocol, Voter};
pub use layers::{ConfigSource, Layers};
pub use load::{Problem, Problems, Settings, Sources};
pub use server::ServerConfig;
pub use share_group::{ShareGroupSettings, ShareReset};
pub use topic::{CompressionType, TimestampType, TopicConfig, TopicConfigError};
