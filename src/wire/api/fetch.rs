//! Fetch: read record batches, as a client or as a follower. Uses `base`.

use super::produce::{LeaderIdAndEpoch, NodeEndpoint};
use crate::base::{ErrorCode, Uuid};
use crate::wire::records::Records;

messages! {
    /// Reads record batches, within a session from version 7 (KIP-227). Key 1.
    request FetchRequest(Fetch) => FetchResponse {
        cluster_id: Option<String> = 12.., tag 0;
        /// The follower's id; -1 for a consumer. From version 15 in `replica_state`.
        replica_id: i32 = ..=14, default -1;
        replica_state: ReplicaState = 15.., tag 1;
        max_wait_ms: i32;
        min_bytes: i32;
        max_bytes: i32, default i32::MAX;
        /// 0: read uncommitted, 1: read committed.
        isolation_level: i8;
        /// 0 for no session yet.
        session_id: i32 = 7..;
        /// 0 opens a session, -1 closes it or does without.
        session_epoch: i32 = 7.., default -1;
        topics: Vec<FetchTopic>;
        forgotten_topics_data: Vec<ForgottenTopic> = 7..;
        rack_id: String = 11..;
    }

    /// Which follower asks, from version 15 (KIP-903).
    part ReplicaState {
        replica_id: i32, default -1;
        replica_epoch: i64, default -1;
    }

    /// What to read of one topic: by name up to version 12, by id from version 13.
    part FetchTopic {
        topic: String = ..=12;
        topic_id: Uuid = 13..;
        partitions: Vec<FetchPartition>;
    }

    /// Where to read in one partition.
    part FetchPartition {
        partition: i32;
        /// What the reader takes for the leader's epoch; -1 if unknown.
        current_leader_epoch: i32 = 9.., default -1;
        fetch_offset: i64;
        /// The epoch of the last record that the follower has; -1 if none.
        last_fetched_epoch: i32 = 12.., default -1;
        /// Where the follower's log starts; -1 from consumers.
        log_start_offset: i64 = 5.., default -1;
        partition_max_bytes: i32;
        replica_directory_id: Uuid = 17.., tag 0;
        /// What the follower knows; `i64::MAX` if it does not say.
        high_watermark: i64 = 18.., tag 1, default i64::MAX;
    }

    /// Partitions that leave the session.
    part ForgottenTopic {
        topic: String = ..=12;
        topic_id: Uuid = 13..;
        partitions: Vec<i32>;
    }

    /// Batches of every partition that was asked for, or that changed within a session.
    response FetchResponse(Fetch) {
        throttle_time_ms: i32;
        error_code: ErrorCode = 7..;
        session_id: i32 = 7..;
        responses: Vec<FetchableTopicResponse>;
        node_endpoints: Vec<NodeEndpoint> = 16.., tag 0;
    }

    /// The answers for one topic.
    part FetchableTopicResponse {
        topic: String = ..=12;
        topic_id: Uuid = 13..;
        partitions: Vec<PartitionData>;
    }

    /// Batches of one partition.
    part PartitionData {
        partition_index: i32;
        error_code: ErrorCode;
        high_watermark: i64;
        /// The end for readers of committed records; -1 if not known.
        last_stable_offset: i64, default -1;
        log_start_offset: i64 = 5.., default -1;
        diverging_epoch: EpochEndOffset = 12.., tag 0;
        current_leader: LeaderIdAndEpoch = 12.., tag 1;
        snapshot_id: SnapshotId = 12.., tag 2;
        /// Null for readers of uncommitted records.
        aborted_transactions: Option<Vec<AbortedTransaction>>;
        /// A nearer replica to read from (KIP-392); -1 for none.
        preferred_read_replica: i32 = 11.., default -1;
        records: Records;
    }

    /// The end of an epoch in the leader's log: where the follower's log diverges (KIP-595).
    part EpochEndOffset {
        epoch: i32, default -1;
        end_offset: i64, default -1;
    }

    /// A checkpoint that the follower must load first (KIP-630).
    part SnapshotId {
        end_offset: i64, default -1;
        epoch: i32, default -1;
    }

    /// An aborted transaction whose records the batches contain.
    part AbortedTransaction {
        producer_id: i64;
        first_offset: i64;
    }
}
