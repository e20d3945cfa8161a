//! TxnOffsetCommit: a transaction commits offsets of a group
//! (`KafkaApis.handleTxnOffsetCommitRequest`).

use std::sync::Arc;

use crate::{
    base::{ErrorCode, PartitionId},
    coordinator::txn_driver::Admission,
    replica::{partition::Refusal, table::Slot},
    server::{
        api::groups::{Names, OFFSETS_TOPIC},
        context::{Broker, Caller},
        dispatch::Outcome,
        txn_verifier::{Operation, Writer},
    },
    wire::api::txn::TxnOffsetCommitRequest,
};

/// TxnOffsetCommit.
pub(crate) fn txn_offset_commit(
    broker: &Arc<Broker>,
    caller: Caller,
    request: TxnOffsetCommitRequest,
) -> Outcome {
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        let writer = Writer {
            transactional_id: request.transactional_id.clone(),
            producer: (request.producer_id, request.producer_epoch),
            operation: Operation::of_offset_commit(caller.version),
        };
        let names = Names(broker.image());
        let admission = |partition| admission(&broker, &writer, partition);
        let version = caller.version;
        let done = broker.groups.txn_offset_commit(request, version, &names, admission).await;
        caller.chunks(&done)
    }))
}

/// Asks the transaction's coordinator, unless the transaction is open in the partition of
/// `__consumer_offsets` that keeps the group.
fn admission<'a>(broker: &'a Broker, writer: &'a Writer, partition: PartitionId) -> Admission<'a> {
    Box::pin(async move {
        let slot: Option<Arc<Slot>> = broker.replicas.by_name(OFFSETS_TOPIC, partition);
        let wanted = [(slot.ok_or(ErrorCode::NotLeaderOrFollower)?, -1)];
        let mut found = writer.begin(broker, &wanted);
        broker.verifier.ask(broker, writer, &wanted, &mut found).await;
        let found = found.pop().unwrap_or_else(|| Err(Refusal::from(ErrorCode::NetworkException)));
        found.map_err(|refusal| refusal.code)
    })
}
