//! The message schemas of Kafka 4.3.1, one file a family of APIs. Names, numbers, versions and
//! defaults are those of its message JSON; pure declarations, which use `base`.

pub mod cluster;
pub mod configs;
pub mod consumer_groups;
pub mod fetch;
pub mod group_offsets;
pub mod groups;
pub mod metadata;
pub mod offsets;
pub mod partitions;
pub mod produce;
pub mod quorum;
pub mod share_fetch;
pub mod share_groups;
pub mod share_state;
pub mod topics;
pub mod txn;
pub mod versions;
