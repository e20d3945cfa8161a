//! DescribeQuorum, AddRaftVoter, RemoveRaftVoter, UpdateRaftVoter: the controllers' quorum. Uses
//! `base`.

use crate::base::{ErrorCode, Uuid};

messages! {
    /// Asks for the state of the controllers' quorum. Key 55.
    request DescribeQuorumRequest(DescribeQuorum) => DescribeQuorumResponse {
        topics: Vec<QuorumTopicRequest>;
    }

    /// The topic to describe: `__cluster_metadata`.
    part QuorumTopicRequest {
        topic_name: String;
        partitions: Vec<QuorumPartitionRequest>;
    }

    /// The partition to describe: 0.
    part QuorumPartitionRequest {
        partition_index: i32;
    }

    /// The state of the quorum.
    response DescribeQuorumResponse(DescribeQuorum) {
        error_code: ErrorCode;
        error_message: Option<String> = 2..;
        topics: Vec<QuorumTopic>;
        nodes: Vec<QuorumNode> = 2..;
    }

    /// The topic.
    part QuorumTopic {
        topic_name: String;
        partitions: Vec<QuorumPartition>;
    }

    /// Leader, voters and observers.
    part QuorumPartition {
        partition_index: i32;
        error_code: ErrorCode;
        error_message: Option<String> = 2..;
        leader_id: i32;
        leader_epoch: i32;
        high_watermark: i64;
        current_voters: Vec<QuorumReplica>;
        observers: Vec<QuorumReplica>;
    }

    /// Where to reach a voter.
    part QuorumNode {
        node_id: i32;
        listeners: Vec<QuorumListener>;
    }

    /// A listener of a voter.
    part QuorumListener {
        name: String;
        host: String;
        port: u16;
    }

    /// How far a voter or observer is.
    part QuorumReplica {
        replica_id: i32;
        replica_directory_id: Uuid = 2..;
        log_end_offset: i64;
        last_fetch_timestamp: i64 = 1.., default -1;
        last_caught_up_timestamp: i64 = 1.., default -1;
    }

    /// Adds a controller to the voters (KIP-853). Key 80.
    request AddRaftVoterRequest(AddRaftVoter) => AddRaftVoterResponse {
        cluster_id: Option<String>;
        timeout_ms: i32;
        voter_id: i32;
        voter_directory_id: Uuid;
        listeners: Vec<QuorumListener>;
        /// Whether the answer waits until the new voters are committed.
        ack_when_committed: bool = 1.., default true;
    }

    /// Whether it is a voter.
    response AddRaftVoterResponse(AddRaftVoter) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Takes a controller from the voters (KIP-853). Key 81.
    request RemoveRaftVoterRequest(RemoveRaftVoter) => RemoveRaftVoterResponse {
        cluster_id: Option<String>;
        voter_id: i32;
        voter_directory_id: Uuid;
    }

    /// Whether it is a voter no longer.
    response RemoveRaftVoterResponse(RemoveRaftVoter) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// A voter tells where it listens now (KIP-853). Key 82.
    request UpdateRaftVoterRequest(UpdateRaftVoter) => UpdateRaftVoterResponse {
        cluster_id: Option<String>;
        current_leader_epoch: i32;
        voter_id: i32;
        voter_directory_id: Uuid;
        listeners: Vec<QuorumListener>;
        k_raft_version_feature: KRaftVersionFeature;
    }

    /// The versions of `kraft.version` that a voter can work with.
    part KRaftVersionFeature {
        min_supported_version: i16;
        max_supported_version: i16;
    }

    /// Whether it was noted.
    response UpdateRaftVoterResponse(UpdateRaftVoter) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        current_leader: CurrentLeader = 0.., tag 0;
    }

    /// The leader of the quorum.
    part CurrentLeader {
        leader_id: i32, default -1;
        leader_epoch: i32, default -1;
        host: String;
        port: i32;
    }
}
