//! Nouns that every room shares: ids, offsets, epochs, time, ports, Kafka error codes, limits.
//! Pure; uses no other room.

pub mod civil;
pub mod error_code;
pub mod ids;
pub mod limits;
pub mod mutant;
pub mod ports;
pub mod time;

pub use error_code::ErrorCode;
pub use ids::{LeaderEpoch, NodeId, Offset, PartitionId, TopicPartition, Uuid};
pub use mutant::{Mutant, mutant};
pub use time::{Mono, Now};
