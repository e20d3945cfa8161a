//! AddPartitionsToTxn, AddOffsetsToTxn, EndTxn, DescribeTransactions, ListTransactions: what is
//! about topics is checked here, the rest is the transactions'.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::future::join_all;
use regex::Regex;

use crate::{
    base::ErrorCode,
    coordinator::{
        txn_calls::{AddCall, EndCall, ListedTxn, Producer},
        txn_records::TopicPartition,
    },
    server::{
        api::is_internal,
        context::{Broker, Caller},
    },
    wire::api::txn::{
        AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnPartitionResult,
        AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AddPartitionsToTxnResult,
        AddPartitionsToTxnTopicResult, AddPartitionsToTxnTransaction, DescribeTransactionsRequest,
        DescribeTransactionsResponse, DescribedTransactionState, DescribedTransactionTopic,
        EndTxnRequest, EndTxnResponse, ListTransactionsRequest, ListTransactionsResponse,
        ListedTransactionState,
    },
};

/// Up to this version clients ask for themselves; from the next one brokers ask for them.
const ADD_CLIENT_VERSION_MAX: i16 = 3;
/// The `transaction.version` of a client that lets brokers add partitions, and ends transactions by
/// EndTxn 5 (`TransactionVersion.transactionVersionFor…`).
const NEW: i16 = 2;
const OLD: i16 = 0;
/// States by which ListTransactions may be asked; the last two are passing ones, never shown.
const STATES: [&str; 8] = [
    "Empty",
    "Ongoing",
    "PrepareCommit",
    "PrepareAbort",
    "CompleteCommit",
    "CompleteAbort",
    "Dead",
    "PrepareEpochFence",
];

/// Clients before version 2 of these APIs do not know the newer code.
fn known(error: ErrorCode, version: i16) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced if version < 2 => ErrorCode::InvalidProducerEpoch,
        e => e,
    }
}

/// AddPartitionsToTxn: a client's one transaction, or a broker's several.
pub(crate) async fn add_partitions_to_txn(
    broker: &Broker,
    caller: &Caller,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    if caller.version <= ADD_CLIENT_VERSION_MAX {
        let only = AddPartitionsToTxnTransaction {
            transactional_id: request.v3_and_below_transactional_id,
            producer_id: request.v3_and_below_producer_id,
            producer_epoch: request.v3_and_below_producer_epoch,
            verify_only: false,
            topics: request.v3_and_below_topics,
        };
        let results_by_topic_v3_and_below = add(broker, caller.version, only).await.topic_results;
        return AddPartitionsToTxnResponse { results_by_topic_v3_and_below, ..Default::default() };
    }
    let all = request.transactions.into_iter().map(|t| add(broker, caller.version, t));
    let results_by_transaction = join_all(all).await;
    AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() }
}

async fn add(
    broker: &Broker,
    version: i16,
    txn: AddPartitionsToTxnTransaction,
) -> AddPartitionsToTxnResult {
    let id: Arc<str> = txn.transactional_id.as_str().into();
    let partitions: BTreeSet<TopicPartition> = txn
        .topics
        .into_iter()
        .flat_map(|t| {
            let topic: Arc<str> = t.name.into();
            t.partitions.into_iter().map(move |p| (Arc::clone(&topic), p))
        })
        .collect();
    let codes = match refused(broker, version, &partitions) {
        Some(codes) => codes,
        None => {
            let call = AddCall {
                id,
                producer: Producer { id: txn.producer_id, epoch: txn.producer_epoch },
                partitions: partitions.clone(),
                client_version: if version > ADD_CLIENT_VERSION_MAX { NEW } else { OLD },
            };
            let all = |error| partitions.into_iter().map(|p| (p, known(error, version))).collect();
            match txn.verify_only {
                true => broker.transactions.verify(call).await.map_or_else(all, |found| {
                    let code = |there| match there {
                        true => ErrorCode::None,
                        false => ErrorCode::TransactionAbortable,
                    };
                    found.into_iter().map(|(p, there)| (p, code(there))).collect()
                }),
                false => all(broker.transactions.add(call).await),
            }
        }
    };
    AddPartitionsToTxnResult {
        transactional_id: txn.transactional_id,
        topic_results: by_topic(codes),
    }
}

/// The answers if a partition cannot be added: one that cannot be spoils it for all. Clients may not
/// write to topics that brokers keep for themselves.
fn refused(
    broker: &Broker,
    version: i16,
    partitions: &BTreeSet<TopicPartition>,
) -> Option<BTreeMap<TopicPartition, ErrorCode>> {
    let image = broker.image();
    let code = |(topic, partition): &TopicPartition| {
        if version <= ADD_CLIENT_VERSION_MAX && is_internal(topic) {
            return ErrorCode::TopicAuthorizationFailed;
        }
        let found = image.topics().by_name(topic).and_then(|t| t.partition(*partition));
        match found {
            Some(_) => ErrorCode::OperationNotAttempted,
            None => ErrorCode::UnknownTopicOrPartition,
        }
    };
    let codes: BTreeMap<_, _> = partitions.iter().map(|p| (p.clone(), code(p))).collect();
    codes.values().any(|code| *code != ErrorCode::OperationNotAttempted).then_some(codes)
}

fn by_topic(codes: BTreeMap<TopicPartition, ErrorCode>) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut topics: Vec<AddPartitionsToTxnTopicResult> = Vec::new();
    for ((topic, partition_index), partition_error_code) in codes {
        let result = AddPartitionsToTxnPartitionResult { partition_index, partition_error_code };
        match topics.last_mut().filter(|t| *t.name == *topic) {
            Some(last) => last.results_by_partition.push(result),
            None => topics.push(AddPartitionsToTxnTopicResult {
                name: topic.to_string(),
                results_by_partition: vec![result],
            }),
        }
    }
    topics
}

/// AddOffsetsToTxn. Only clients that do not let brokers add partitions ask it.
pub(crate) async fn add_offsets_to_txn(
    broker: &Broker,
    caller: &Caller,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let partition = broker.groups.partition_of(&request.group_id);
    let call = AddCall {
        id: request.transactional_id.into(),
        producer: Producer { id: request.producer_id, epoch: request.producer_epoch },
        partitions: BTreeSet::from([("__consumer_offsets".into(), partition)]),
        client_version: OLD,
    };
    let error_code = known(broker.transactions.add(call).await, caller.version);
    AddOffsetsToTxnResponse { throttle_time_ms: 0, error_code }
}

/// EndTxn. Answered once the decision is committed; markers follow.
pub(crate) async fn end_txn(
    broker: &Broker,
    caller: &Caller,
    request: EndTxnRequest,
) -> EndTxnResponse {
    let client_version = if caller.version >= 5 { NEW } else { OLD };
    let call = EndCall {
        id: request.transactional_id.into(),
        producer: Producer { id: request.producer_id, epoch: request.producer_epoch },
        commit: request.committed,
        client_version,
    };
    let (error_code, producer) = match broker.transactions.end(call).await {
        Ok(producer) => (ErrorCode::None, producer),
        Err(error) => (known(error, caller.version), Producer::NONE),
    };
    EndTxnResponse {
        throttle_time_ms: 0,
        error_code,
        producer_id: producer.id,
        producer_epoch: producer.epoch,
    }
}

/// DescribeTransactions.
pub(crate) fn describe_transactions(
    broker: &Broker,
    _caller: &Caller,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let describe = |id: String| match broker.transactions.describe(&id) {
        Ok(found) => DescribedTransactionState {
            error_code: ErrorCode::None,
            transactional_id: id,
            transaction_state: found.state.to_owned(),
            transaction_timeout_ms: found.timeout_ms,
            transaction_start_time_ms: found.start_ms,
            producer_id: found.producer.id,
            producer_epoch: found.producer.epoch,
            topics: described_topics(found.partitions),
        },
        Err(error_code) => {
            DescribedTransactionState { error_code, transactional_id: id, ..Default::default() }
        }
    };
    let transaction_states = request.transactional_ids.into_iter().map(describe).collect();
    DescribeTransactionsResponse { throttle_time_ms: 0, transaction_states }
}

fn described_topics(partitions: BTreeSet<TopicPartition>) -> Vec<DescribedTransactionTopic> {
    let mut topics: Vec<DescribedTransactionTopic> = Vec::new();
    for (topic, partition) in partitions {
        match topics.last_mut().filter(|t| *t.topic == *topic) {
            Some(last) => last.partitions.push(partition),
            None => topics.push(DescribedTransactionTopic {
                topic: topic.to_string(),
                partitions: vec![partition],
            }),
        }
    }
    topics
}

/// ListTransactions: those that this broker coordinates.
pub(crate) fn list_transactions(
    broker: &Broker,
    _caller: &Caller,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    let refuse = |error_code| ListTransactionsResponse { error_code, ..Default::default() };
    let pattern = request.transactional_id_pattern.filter(|p| !p.is_empty());
    // As in Java the whole id must match.
    let pattern = match pattern.map(|p| Regex::new(&format!("^(?:{p})$"))).transpose() {
        Ok(pattern) => pattern,
        Err(_) => return refuse(ErrorCode::InvalidRegularExpression),
    };
    let states: BTreeSet<String> = request.state_filters.into_iter().collect();
    let producers: BTreeSet<i64> = request.producer_id_filters.into_iter().collect();
    let (now_ms, longer_than_ms) = (broker.clock.now().wall_ms, request.duration_filter);
    let keep = |txn: &ListedTxn| {
        (states.is_empty() || states.contains(txn.state))
            && (producers.is_empty() || producers.contains(&txn.producer_id))
            && (longer_than_ms < 0 || now_ms.saturating_sub(txn.start_ms) > longer_than_ms)
            && pattern.as_ref().is_none_or(|p| p.is_match(&txn.id))
    };
    let found = match broker.transactions.list(keep) {
        Ok(found) => found,
        Err(error) => return refuse(error),
    };
    let unknown = states.iter().filter(|s| !STATES.contains(&s.as_str()));
    ListTransactionsResponse {
        throttle_time_ms: 0,
        error_code: ErrorCode::None,
        unknown_state_filters: unknown.cloned().collect(),
        transaction_states: found
            .into_iter()
            .map(|txn| ListedTransactionState {
                transactional_id: txn.id.to_string(),
                producer_id: txn.producer_id,
                transaction_state: txn.state.to_owned(),
            })
            .collect(),
    }
}
