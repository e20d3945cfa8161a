//! ShareFetch and ShareAcknowledge (KIP-932): records are acquired by members of share groups, and
//! acknowledged. Uses `base`.

use super::produce::NodeEndpoint;
use crate::base::{ErrorCode, Uuid};
use crate::wire::records::Records;

messages! {
    /// Acquires records within a share session, and acknowledges earlier ones. Key 78.
    request ShareFetchRequest(ShareFetch) => ShareFetchResponse {
        group_id: Option<String>;
        member_id: Option<String>;
        /// 0 opens a session, -1 closes it, else the number of the request in it.
        share_session_epoch: i32;
        max_wait_ms: i32;
        min_bytes: i32;
        max_bytes: i32, default i32::MAX;
        /// Exceeded up to the end of a batch, unless `share_acquire_mode` is 1.
        max_records: i32;
        /// How many records an acquired batch should have.
        batch_size: i32;
        /// 0: batch-optimized, 1: record-limit (KIP-1206).
        share_acquire_mode: i8 = 2..;
        /// Whether some acknowledgement renews a lock (KIP-1222): then nothing is fetched.
        is_renew_ack: bool = 2..;
        topics: Vec<ShareFetchTopic>;
        forgotten_topics_data: Vec<ShareForgottenTopic>;
    }

    /// Partitions of one topic that join the session or have acknowledgements.
    part ShareFetchTopic {
        topic_id: Uuid;
        partitions: Vec<ShareFetchPartition>;
    }

    /// One partition.
    part ShareFetchPartition {
        partition_index: i32;
        acknowledgement_batches: Vec<AcknowledgementBatch>;
    }

    /// What became of records in a row.
    part AcknowledgementBatch {
        first_offset: i64;
        /// Inclusive.
        last_offset: i64;
        /// One for all, or one for each offset: 0 gap, 1 accept, 2 release, 3 reject, 4 renew
        /// (from version 2).
        acknowledge_types: Vec<i8>;
    }

    /// Partitions that leave the session.
    part ShareForgottenTopic {
        topic_id: Uuid;
        partitions: Vec<i32>;
    }

    /// Acquired records, and what became of the acknowledgements.
    response ShareFetchResponse(ShareFetch) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        /// How long acquired records are locked.
        acquisition_lock_timeout_ms: i32;
        responses: Vec<ShareFetchableTopicResponse>;
        node_endpoints: Vec<NodeEndpoint>;
    }

    /// The answers for one topic.
    part ShareFetchableTopicResponse {
        topic_id: Uuid;
        partitions: Vec<SharePartitionData>;
    }

    /// The answer for one partition.
    part SharePartitionData {
        partition_index: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        acknowledge_error_code: ErrorCode;
        acknowledge_error_message: Option<String>;
        current_leader: ShareLeader;
        /// Whole batches; only what `acquired_records` names is for the member.
        records: Records;
        acquired_records: Vec<AcquiredRecords>;
    }

    /// The leader that a client should turn to instead.
    part ShareLeader {
        leader_id: i32;
        leader_epoch: i32;
    }

    /// Records in a row that were acquired together.
    part AcquiredRecords {
        first_offset: i64;
        /// Inclusive.
        last_offset: i64;
        /// How often they have been handed out, this time included.
        delivery_count: i16;
    }

    /// Acknowledges records. Key 79.
    request ShareAcknowledgeRequest(ShareAcknowledge) => ShareAcknowledgeResponse {
        group_id: Option<String>;
        member_id: Option<String>;
        /// -1 closes the session, else the number of the request in it.
        share_session_epoch: i32;
        /// Whether some acknowledgement renews a lock (KIP-1222).
        is_renew_ack: bool = 2..;
        topics: Vec<AcknowledgeTopic>;
    }

    /// Acknowledgements of one topic.
    part AcknowledgeTopic {
        topic_id: Uuid;
        partitions: Vec<AcknowledgePartition>;
    }

    /// Acknowledgements of one partition.
    part AcknowledgePartition {
        partition_index: i32;
        acknowledgement_batches: Vec<AcknowledgementBatch>;
    }

    /// What became of the acknowledgements.
    response ShareAcknowledgeResponse(ShareAcknowledge) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        /// How long acquired records are locked.
        acquisition_lock_timeout_ms: i32 = 2..;
        responses: Vec<ShareAcknowledgeTopicResponse>;
        node_endpoints: Vec<NodeEndpoint>;
    }

    /// The answers for one topic.
    part ShareAcknowledgeTopicResponse {
        topic_id: Uuid;
        partitions: Vec<ShareAcknowledgePartitionData>;
    }

    /// The answer for one partition.
    part ShareAcknowledgePartitionData {
        partition_index: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        current_leader: ShareLeader;
    }
}
