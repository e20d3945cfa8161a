//! Produce: append record batches. Uses `base`.

use crate::base::{ErrorCode, Uuid};
use crate::wire::records::Records;

messages! {
    /// Appends record batches. Key 0.
    request ProduceRequest(Produce) => ProduceResponse {
        transactional_id: Option<String>;
        /// 0: none, 1: the leader, -1: all in-sync replicas.
        acks: i16;
        timeout_ms: i32;
        topic_data: Vec<TopicProduceData>;
    }

    /// Batches for one topic: by name up to version 12, by id from version 13.
    part TopicProduceData {
        name: String = ..=12;
        topic_id: Uuid = 13..;
        partition_data: Vec<PartitionProduceData>;
    }

    /// The one batch for a partition.
    part PartitionProduceData {
        index: i32;
        records: Records;
    }

    /// What became of each batch. Not sent at all if `acks` was 0.
    response ProduceResponse(Produce) {
        responses: Vec<TopicProduceResponse>;
        throttle_time_ms: i32;
        node_endpoints: Vec<NodeEndpoint> = 10.., tag 0;
    }

    /// The answers for one topic.
    part TopicProduceResponse {
        name: String = ..=12;
        topic_id: Uuid = 13..;
        partition_responses: Vec<PartitionProduceResponse>;
    }

    /// The answer for one partition.
    part PartitionProduceResponse {
        index: i32;
        error_code: ErrorCode;
        /// The offset of the first record; -1 after an error.
        base_offset: i64;
        /// The append time if the topic stamps it, else -1.
        log_append_time_ms: i64, default -1;
        log_start_offset: i64 = 5.., default -1;
        record_errors: Vec<BatchIndexAndErrorMessage> = 8..;
        error_message: Option<String> = 8..;
        current_leader: LeaderIdAndEpoch = 10.., tag 0;
    }

    /// A record that made its batch be refused.
    part BatchIndexAndErrorMessage {
        batch_index: i32;
        batch_index_error_message: Option<String>;
    }

    /// The leader that a client should turn to instead (KIP-951).
    part LeaderIdAndEpoch {
        leader_id: i32, default -1;
        leader_epoch: i32, default -1;
    }

    /// Where a node that the response names can be reached (KIP-951).
    part NodeEndpoint {
        node_id: i32;
        host: String;
        port: i32;
        rack: Option<String>;
    }
}
