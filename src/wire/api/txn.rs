//! AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, WriteTxnMarkers, TxnOffsetCommit,
//! DescribeTransactions, ListTransactions: what transactions say. Uses `base`.

use crate::base::ErrorCode;

messages! {
    /// Adds partitions to transactions: a client's one up to version 3, a broker's batch (KIP-890)
    /// from version 4. Key 24.
    request AddPartitionsToTxnRequest(AddPartitionsToTxn) => AddPartitionsToTxnResponse {
        transactions: Vec<AddPartitionsToTxnTransaction> = 4..;
        v3_and_below_transactional_id: String = ..=3;
        v3_and_below_producer_id: i64 = ..=3;
        v3_and_below_producer_epoch: i16 = ..=3;
        v3_and_below_topics: Vec<AddPartitionsToTxnTopic> = ..=3;
    }

    /// One transaction and its new partitions.
    part AddPartitionsToTxnTransaction {
        transactional_id: String;
        producer_id: i64;
        producer_epoch: i16;
        /// Only asks whether the partitions are in the transaction.
        verify_only: bool;
        topics: Vec<AddPartitionsToTxnTopic>;
    }

    /// The partitions of one topic.
    part AddPartitionsToTxnTopic {
        name: String;
        partitions: Vec<i32>;
    }

    /// What became of each partition.
    response AddPartitionsToTxnResponse(AddPartitionsToTxn) {
        throttle_time_ms: i32;
        error_code: ErrorCode = 4..;
        results_by_transaction: Vec<AddPartitionsToTxnResult> = 4..;
        results_by_topic_v3_and_below: Vec<AddPartitionsToTxnTopicResult> = ..=3;
    }

    /// The answers for one transaction.
    part AddPartitionsToTxnResult {
        transactional_id: String;
        topic_results: Vec<AddPartitionsToTxnTopicResult>;
    }

    /// The answers for one topic.
    part AddPartitionsToTxnTopicResult {
        name: String;
        results_by_partition: Vec<AddPartitionsToTxnPartitionResult>;
    }

    /// The answer for one partition.
    part AddPartitionsToTxnPartitionResult {
        partition_index: i32;
        partition_error_code: ErrorCode;
    }

    /// Adds the partition that keeps a group's offsets to a transaction. Key 25.
    request AddOffsetsToTxnRequest(AddOffsetsToTxn) => AddOffsetsToTxnResponse {
        transactional_id: String;
        producer_id: i64;
        producer_epoch: i16;
        group_id: String;
    }

    /// Whether it is added.
    response AddOffsetsToTxnResponse(AddOffsetsToTxn) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
    }

    /// Commits or aborts a transaction. Key 26.
    request EndTxnRequest(EndTxn) => EndTxnResponse {
        transactional_id: String;
        producer_id: i64;
        producer_epoch: i16;
        /// Whether to commit; otherwise to abort.
        committed: bool;
    }

    /// Whether it is decided; from version 5 with what the producer continues as (KIP-890).
    response EndTxnResponse(EndTxn) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        producer_id: i64 = 5.., default -1;
        producer_epoch: i16 = 5.., default -1;
    }

    /// Tells leaders of partitions that transactions have ended. Key 27.
    request WriteTxnMarkersRequest(WriteTxnMarkers) => WriteTxnMarkersResponse {
        markers: Vec<WritableTxnMarker>;
    }

    /// The end of one producer's transaction.
    part WritableTxnMarker {
        producer_id: i64;
        producer_epoch: i16;
        /// Whether it is committed; otherwise it is aborted.
        transaction_result: bool;
        topics: Vec<WritableTxnMarkerTopic>;
        /// The leader epoch of the coordinator's partition of `__transaction_state`.
        coordinator_epoch: i32;
        /// By which `transaction.version` the transaction ran: 0 and 1 are the same (KIP-1228).
        transaction_version: i8 = 2..;
    }

    /// The partitions of one topic.
    part WritableTxnMarkerTopic {
        name: String;
        partition_indexes: Vec<i32>;
    }

    /// What became of each marker.
    response WriteTxnMarkersResponse(WriteTxnMarkers) {
        markers: Vec<WritableTxnMarkerResult>;
    }

    /// The answers for one producer.
    part WritableTxnMarkerResult {
        producer_id: i64;
        topics: Vec<WritableTxnMarkerTopicResult>;
    }

    /// The answers for one topic.
    part WritableTxnMarkerTopicResult {
        name: String;
        partitions: Vec<WritableTxnMarkerPartitionResult>;
    }

    /// The answer for one partition.
    part WritableTxnMarkerPartitionResult {
        partition_index: i32;
        error_code: ErrorCode;
    }

    /// Commits offsets of a group as part of a transaction. Key 28.
    request TxnOffsetCommitRequest(TxnOffsetCommit) => TxnOffsetCommitResponse {
        transactional_id: String;
        group_id: String;
        producer_id: i64;
        producer_epoch: i16;
        /// -1 for a producer that names no membership.
        generation_id: i32 = 3.., default -1;
        member_id: String = 3..;
        group_instance_id: Option<String> = 3..;
        topics: Vec<TxnOffsetCommitRequestTopic>;
    }

    /// Offsets of one topic.
    part TxnOffsetCommitRequestTopic {
        name: String;
        partitions: Vec<TxnOffsetCommitRequestPartition>;
    }

    /// The offset of one partition.
    part TxnOffsetCommitRequestPartition {
        partition_index: i32;
        committed_offset: i64;
        committed_leader_epoch: i32 = 2.., default -1;
        committed_metadata: Option<String>;
    }

    /// What became of each offset.
    response TxnOffsetCommitResponse(TxnOffsetCommit) {
        throttle_time_ms: i32;
        topics: Vec<TxnOffsetCommitResponseTopic>;
    }

    /// The answers for one topic.
    part TxnOffsetCommitResponseTopic {
        name: String;
        partitions: Vec<TxnOffsetCommitResponsePartition>;
    }

    /// The answer for one partition.
    part TxnOffsetCommitResponsePartition {
        partition_index: i32;
        error_code: ErrorCode;
    }

    /// Asks for the state of transactional ids. Key 65.
    request DescribeTransactionsRequest(DescribeTransactions) => DescribeTransactionsResponse {
        transactional_ids: Vec<String>;
    }

    /// The states.
    response DescribeTransactionsResponse(DescribeTransactions) {
        throttle_time_ms: i32;
        transaction_states: Vec<DescribedTransactionState>;
    }

    /// The state of one transactional id.
    part DescribedTransactionState {
        error_code: ErrorCode;
        transactional_id: String;
        transaction_state: String;
        transaction_timeout_ms: i32;
        transaction_start_time_ms: i64;
        producer_id: i64;
        producer_epoch: i16;
        /// While a transaction ends: those whose marker is yet to be written.
        topics: Vec<DescribedTransactionTopic>;
    }

    /// The partitions of one topic.
    part DescribedTransactionTopic {
        topic: String;
        partitions: Vec<i32>;
    }

    /// Asks which transactional ids a broker coordinates. Key 66.
    request ListTransactionsRequest(ListTransactions) => ListTransactionsResponse {
        /// Empty for every state.
        state_filters: Vec<String>;
        /// Empty for every producer.
        producer_id_filters: Vec<i64>;
        /// Only transactions that run for longer, in milliseconds; negative for all (KIP-994).
        duration_filter: i64 = 1.., default -1;
        /// A regular expression; null or empty for all (KIP-1152).
        transactional_id_pattern: Option<String> = 2..;
    }

    /// The transactional ids that match.
    response ListTransactionsResponse(ListTransactions) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        /// Filters that name no state.
        unknown_state_filters: Vec<String>;
        transaction_states: Vec<ListedTransactionState>;
    }

    /// One transactional id.
    part ListedTransactionState {
        transactional_id: String;
        producer_id: i64;
        transaction_state: String;
    }
}
