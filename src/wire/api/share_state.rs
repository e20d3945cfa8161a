//! InitializeShareGroupState, ReadShareGroupState, WriteShareGroupState, DeleteShareGroupState,
//! ReadShareGroupStateSummary: what brokers say to the share coordinator (KIP-932). Uses `base`.

use crate::base::{ErrorCode, Uuid};

messages! {
    /// Sets the state of share partitions anew. Key 83.
    request InitializeShareGroupStateRequest(InitializeShareGroupState)
        => InitializeShareGroupStateResponse
    {
        group_id: String;
        topics: Vec<InitializeStateData>;
    }

    /// Share partitions of one topic.
    part InitializeStateData {
        topic_id: Uuid;
        partitions: Vec<InitializeStatePartition>;
    }

    /// A share partition and its first state.
    part InitializeStatePartition {
        partition: i32;
        state_epoch: i32;
        /// -1 if it is not known.
        start_offset: i64;
    }

    /// Whether each is set.
    response InitializeShareGroupStateResponse(InitializeShareGroupState) {
        results: Vec<StateResult>;
    }

    /// The outcome for one topic.
    part StateResult {
        topic_id: Uuid;
        partitions: Vec<StatePartitionResult>;
    }

    /// The outcome for one share partition.
    part StatePartitionResult {
        partition: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
    }

    /// Asks for the state of share partitions; leaders of older epochs are fenced. Key 84.
    request ReadShareGroupStateRequest(ReadShareGroupState) => ReadShareGroupStateResponse {
        group_id: String;
        topics: Vec<ReadStateData>;
    }

    /// Share partitions of one topic.
    part ReadStateData {
        topic_id: Uuid;
        partitions: Vec<ReadStatePartition>;
    }

    /// A share partition and who asks.
    part ReadStatePartition {
        partition: i32;
        leader_epoch: i32;
    }

    /// The states.
    response ReadShareGroupStateResponse(ReadShareGroupState) {
        results: Vec<ReadStateResult>;
    }

    /// States for one topic.
    part ReadStateResult {
        topic_id: Uuid;
        partitions: Vec<ReadStatePartitionResult>;
    }

    /// The state of one share partition.
    part ReadStatePartitionResult {
        partition: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        state_epoch: i32;
        /// -1 if it is not known yet.
        start_offset: i64;
        state_batches: Vec<ShareStateBatch>;
    }

    /// Records in a row with one state.
    part ShareStateBatch {
        first_offset: i64;
        /// Inclusive.
        last_offset: i64;
        /// 0 available, 2 acknowledged, 4 archived.
        delivery_state: i8;
        delivery_count: i16;
    }

    /// Adds to the state of share partitions. Key 85.
    request WriteShareGroupStateRequest(WriteShareGroupState) => WriteShareGroupStateResponse {
        group_id: String;
        topics: Vec<WriteStateData>;
    }

    /// Share partitions of one topic.
    part WriteStateData {
        topic_id: Uuid;
        partitions: Vec<WriteStatePartition>;
    }

    /// What changed in one share partition.
    part WriteStatePartition {
        partition: i32;
        state_epoch: i32;
        leader_epoch: i32;
        /// -1 if it stays.
        start_offset: i64;
        /// Records from the start offset on that are finished with (KIP-1226).
        delivery_complete_count: i32 = 1.., default -1;
        state_batches: Vec<ShareStateBatch>;
    }

    /// Whether each is written.
    response WriteShareGroupStateResponse(WriteShareGroupState) {
        results: Vec<StateResult>;
    }

    /// Forgets the state of share partitions. Key 86.
    request DeleteShareGroupStateRequest(DeleteShareGroupState) => DeleteShareGroupStateResponse {
        group_id: String;
        topics: Vec<DeleteStateData>;
    }

    /// Share partitions of one topic.
    part DeleteStateData {
        topic_id: Uuid;
        partitions: Vec<DeleteStatePartition>;
    }

    /// One share partition.
    part DeleteStatePartition {
        partition: i32;
    }

    /// Whether each is forgotten.
    response DeleteShareGroupStateResponse(DeleteShareGroupState) {
        results: Vec<StateResult>;
    }

    /// Asks for the short form of the state; fences nobody. Key 87.
    request ReadShareGroupStateSummaryRequest(ReadShareGroupStateSummary)
        => ReadShareGroupStateSummaryResponse
    {
        group_id: String;
        topics: Vec<ReadStateData>;
    }

    /// The short forms.
    response ReadShareGroupStateSummaryResponse(ReadShareGroupStateSummary) {
        results: Vec<ReadStateSummaryResult>;
    }

    /// Short forms for one topic.
    part ReadStateSummaryResult {
        topic_id: Uuid;
        partitions: Vec<ReadStateSummaryPartitionResult>;
    }

    /// The short form for one share partition.
    part ReadStateSummaryPartitionResult {
        partition: i32;
        error_code: ErrorCode;
        error_message: Option<String>;
        state_epoch: i32;
        leader_epoch: i32;
        start_offset: i64;
        /// As in [`WriteStatePartition`].
        delivery_complete_count: i32 = 1.., default -1;
    }
}
