//! Every bound that is not a configuration key, by name.

/// Largest metadata batch, in bytes (`KafkaRaftClient.MAX_BATCH_SIZE_BYTES`).
pub const METADATA_BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Length of the fixed header of a record batch v2, in bytes.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Offset and length fields that stand before every batch, in bytes (`Records.LOG_OVERHEAD`).
pub const LOG_OVERHEAD_BYTES: usize = 12;
/// Batches a producer is remembered by, for duplicates (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
pub const PRODUCER_BATCHES_RETAINED: usize = 5;
/// Partitions that one CreateTopics request may add (`ReplicationControlManager`).
pub const PARTITIONS_PER_CREATE_MAX: usize = 10_000;
/// Longest topic name, in characters (`Topic.java`).
pub const TOPIC_NAME_LEN_MAX: usize = 249;
/// Producer ids in a block that the controller hands out (`ProducerIdsBlock.java`).
pub const PRODUCER_ID_BLOCK: i32 = 1000;
/// Answers that one connection may owe before it is read no further.
pub const IN_FLIGHT_PER_CONNECTION_MAX: usize = 64;

const _: () = assert!(BATCH_HEADER_BYTES > LOG_OVERHEAD_BYTES);
