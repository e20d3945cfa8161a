//! Produce within transactions. The first batch of a transaction for a partition waits until the
//! transaction's coordinator has said that it may come (KIP-890, `ReplicaManager.scala`), and with
//! it all that its producer sends later: a producer's batches are appended in the order they came.
//! Where the transaction is open already nobody is asked, and nothing waits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    base::ErrorCode,
    record::{BatchHeader, batch::claims_transaction},
    replica::{
        partition::Refusal,
        table::{Acks, Slot},
    },
    server::{
        api::produce::{Admitted, append, refuse_all},
        context::{self, Broker, Caller},
        dispatch::Outcome,
        txn_verifier::{Admission, Operation, Wanted, Writer},
    },
    wire::api::produce::ProduceRequest,
};

/// The transactional batches of a request: where they go, and where they stand in it.
#[derive(Debug, Default)]
struct Batches {
    wanted: Vec<Wanted>,
    places: Vec<(usize, usize)>,
}

/// Produce, of a request with a transactional batch.
pub(super) fn produce(
    broker: &Arc<Broker>,
    caller: Caller,
    acks: Acks,
    request: ProduceRequest,
) -> Outcome {
    let Some(transactional_id) = request.transactional_id.clone() else {
        let code = ErrorCode::TransactionalIdAuthorizationFailed;
        return caller.ready(&refuse_all(&request, code));
    };
    let mut batches = Batches::default();
    let producer = match look(broker, &caller, &request, &mut batches) {
        Ok(Some(producer)) => producer,
        // No batch that can be read has a producer: all are refused where they are appended.
        Ok(None) => return append(broker, caller, acks, request, Admitted::new()),
        Err(code) => return caller.ready(&refuse_all(&request, code)),
    };
    let operation = Operation::of_produce(caller.version);
    let writer = Writer { transactional_id, producer, operation };
    if !broker.turns.is_taken(producer) {
        let found = writer.begin(broker, &batches.wanted);
        if !found.iter().any(|f| matches!(f, Ok(Some(_)))) {
            let admitted = admitted(broker, &writer, &batches, found);
            return append(broker, caller, acks, request, admitted);
        }
    }
    let mut place = broker.turns.take(producer);
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        place.reached().await;
        let found = verify(&broker, &writer, &batches.wanted).await;
        let admitted = admitted(&broker, &writer, &batches, found);
        let outcome = append(&broker, caller, acks, request, admitted);
        drop(place);
        match outcome {
            Outcome::Ready(chunks) => chunks,
            Outcome::Later(chunks) => chunks.await,
            Outcome::Silent | Outcome::Close => Vec::new(),
        }
    }))
}

/// Finds the transactional batches of partitions that are here, and their producer.
///
/// # Errors
/// `InvalidProducerIdMapping` if there are several.
fn look(
    broker: &Broker,
    caller: &Caller,
    request: &ProduceRequest,
    batches: &mut Batches,
) -> Result<Option<(i64, i16)>, ErrorCode> {
    let mut producer = None;
    for (at, topic) in request.topic_data.iter().enumerate() {
        for (n, data) in topic.partition_data.iter().enumerate() {
            let bytes = data.records.bytes().filter(|b| claims_transaction(b));
            let header = bytes.and_then(|b| BatchHeader::read(b).ok());
            let Some(header) = header.filter(BatchHeader::has_producer_id) else { continue };
            let this = (header.producer_id, header.producer_epoch);
            if *producer.get_or_insert(this) != this {
                return Err(ErrorCode::InvalidProducerIdMapping);
            }
            let slot: Option<Arc<Slot>> = match caller.version {
                13.. => broker.replicas.by_id(topic.topic_id, data.index),
                _ => broker.replicas.by_name(&topic.name, data.index),
            };
            if let Some(slot) = slot {
                batches.wanted.push((slot, header.base_sequence));
                batches.places.push((at, n));
            }
        }
    }
    Ok(producer)
}

/// Asks the coordinator, of the transactions that are not open. One that is about to end is asked
/// for again: the client would wait for longer, and send it all again.
async fn verify(broker: &Broker, writer: &Writer, wanted: &[Wanted]) -> Vec<Admission> {
    let layers = context::layers(&broker.settings, broker.node_id, &broker.image());
    let ms = |key: &str| {
        let value = layers.value(key).and_then(|v| v.text().parse().ok());
        Duration::from_millis(value.unwrap_or(0))
    };
    let until = Instant::now() + ms("add.partitions.to.txn.retry.backoff.max.ms");
    loop {
        let mut found = writer.begin(broker, wanted);
        broker.verifier.ask(broker, writer, wanted, &mut found).await;
        let busy = |f: &Admission| {
            matches!(f, Err(Refusal { code: ErrorCode::ConcurrentTransactions, .. }))
        };
        if writer.operation != Operation::Add || !found.iter().any(busy) || Instant::now() >= until
        {
            return found;
        }
        sleep(ms("add.partitions.to.txn.retry.backoff.ms")).await;
    }
}

/// What was found out, as producers are told. Where that is to try again, so are their later batches
/// told.
fn admitted(
    broker: &Broker,
    writer: &Writer,
    batches: &Batches,
    found: Vec<Admission>,
) -> Admitted {
    let now = broker.clock.now();
    let of = batches.places.iter().zip(&batches.wanted).zip(found);
    of.map(|((place, (slot, _)), found)| {
        let found = found.map_err(|refusal| {
            let refusal = told(refusal, writer.operation);
            if refusal.code == ErrorCode::NotEnoughReplicas {
                slot.lock().turn_away(writer.producer, refusal.code, now);
            }
            refusal
        });
        (*place, found)
    })
    .collect::<BTreeMap<_, _>>()
}

/// Older clients try the right thing again on NOT_ENOUGH_REPLICAS, and ask for no metadata.
fn told(refusal: Refusal, operation: Operation) -> Refusal {
    let (code, message) = match refusal.code {
        ErrorCode::InvalidTxnState => {
            (refusal.code, "the partition was not added to the transaction".to_owned())
        }
        ErrorCode::ConcurrentTransactions if operation == Operation::Add => return refusal,
        code @ (ErrorCode::NetworkException
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator
        | ErrorCode::ConcurrentTransactions) => (
            ErrorCode::NotEnoughReplicas,
            format!(
                "it is not known yet whether the transaction has the partition: {}",
                code.name()
            ),
        ),
        _ => return refusal,
    };
    Refusal { code, message: Some(message), issues: Vec::new() }
}
