//! Produce: stage one appends, in the order of the connection, on the thread that read the
//! request; stage two waits for what `acks` asks for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::channel::oneshot;

use crate::{
    base::ErrorCode,
    metadata::Image,
    record::batch::claims_transaction,
    replica::{
        partition::{Committed, Receipt, Refusal},
        table::{Acks, Slot},
    },
    server::{
        api::{is_internal, produce_txn},
        context::{Broker, Caller},
        dispatch::Outcome,
        txn_verifier::Admission,
    },
    wire::api::produce::{
        BatchIndexAndErrorMessage, LeaderIdAndEpoch, NodeEndpoint, PartitionProduceData,
        PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceData,
        TopicProduceResponse,
    },
};

/// The client id with which Kafka's admin client may write to internal topics.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// Partitions whose batch would begin a transaction, by their places in the request, and whether it
/// may.
pub(super) type Admitted = BTreeMap<(usize, usize), Admission>;

/// An answer that waits for its partition: topic and partition in the response, and the signal.
type Wait = (usize, usize, oneshot::Receiver<Committed>);

/// Produce.
pub(crate) fn produce(broker: &Arc<Broker>, caller: Caller, request: ProduceRequest) -> Outcome {
    let Some(acks) = Acks::from_wire(request.acks) else {
        return caller.ready(&refuse_all(&request, ErrorCode::InvalidRequiredAcks));
    };
    let batches = request.topic_data.iter().flat_map(|t| &t.partition_data);
    if batches.filter_map(|p| p.records.bytes()).any(|b| claims_transaction(b)) {
        return produce_txn::produce(broker, caller, acks, request);
    }
    append(broker, caller, acks, request, Admitted::new())
}

/// Stage one, with what begins a transaction admitted or refused before.
pub(super) fn append(
    broker: &Arc<Broker>,
    caller: Caller,
    acks: Acks,
    request: ProduceRequest,
    admitted: Admitted,
) -> Outcome {
    let (waits, image) = (Vec::new(), None);
    let mut stage = Stage { broker, caller: &caller, acks, admitted, waits, image };
    let mut response = ProduceResponse {
        responses: request.topic_data.into_iter().enumerate().map(|t| stage.topic(t)).collect(),
        ..Default::default()
    };
    let Stage { waits, image, .. } = stage;
    if let Some(image) = image {
        point_to_leaders(&mut response, &image, &caller);
    }
    if acks == Acks::None {
        let failed = response
            .responses
            .iter()
            .flat_map(|t| &t.partition_responses)
            .any(|p| p.error_code != ErrorCode::None);
        // Nobody reads an answer; a closed connection is the only way to tell.
        return if failed { Outcome::Close } else { Outcome::Silent };
    }
    if waits.is_empty() {
        return caller.ready(&response);
    }
    let limit = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    Outcome::Later(Box::pin(async move {
        await_all(&mut response, waits, limit).await;
        caller.chunks(&response)
    }))
}

struct Stage<'a> {
    broker: &'a Arc<Broker>,
    caller: &'a Caller,
    acks: Acks,
    admitted: Admitted,
    waits: Vec<Wait>,
    /// Loaded once a partition turns out to be led elsewhere.
    image: Option<Arc<Image>>,
}

impl Stage<'_> {
    fn topic(&mut self, (at, topic): (usize, TopicProduceData)) -> TopicProduceResponse {
        let TopicProduceData { name, topic_id, partition_data } = topic;
        let by_id = self.caller.version >= 13;
        let mut partition_responses = Vec::with_capacity(partition_data.len());
        for data in partition_data {
            let slot = if by_id {
                self.broker.replicas.by_id(topic_id, data.index)
            } else {
                self.broker.replicas.by_name(&name, data.index)
            };
            let place = (at, partition_responses.len());
            let index = data.index;
            let done = match slot {
                Some(slot) => self.append(&slot, data, place),
                None => {
                    let image = self.image.get_or_insert_with(|| self.broker.image());
                    let known = if by_id {
                        image.topics().partition(topic_id, index).is_some()
                    } else {
                        let topic = image.topics().by_name(&name);
                        topic.is_some_and(|t| t.partition(index).is_some())
                    };
                    Err(match (known, by_id) {
                        (true, _) => ErrorCode::NotLeaderOrFollower,
                        (false, true) => ErrorCode::UnknownTopicId,
                        (false, false) => ErrorCode::UnknownTopicOrPartition,
                    }
                    .into())
                }
            };
            partition_responses.push(answer(index, done));
        }
        TopicProduceResponse { name, topic_id, partition_responses }
    }

    fn append(
        &mut self,
        slot: &Arc<Slot>,
        data: PartitionProduceData,
        (topic, partition): (usize, usize),
    ) -> Result<Receipt, Refusal> {
        if is_internal(&slot.topic) && &*self.caller.client_id != ADMIN_CLIENT_ID {
            return Err(ErrorCode::InvalidTopicException.into());
        }
        let records = data.records.bytes().cloned().unwrap_or_default();
        let now = self.broker.clock.now();
        let version = self.caller.version;
        let (replicas, acks) = (&self.broker.replicas, self.acks);
        let done = match self.admitted.remove(&(topic, partition)) {
            None => replicas.produce(slot, &records, acks, version, now),
            Some(admission) => admission.and_then(|guard| {
                replicas.produce_in_txn(slot, &records, guard, acks, version, now)
            }),
        };
        let (receipt, wait) = done.inspect_err(|refusal| {
            if refusal.code == ErrorCode::NotLeaderOrFollower {
                self.image.get_or_insert_with(|| self.broker.image());
            }
        })?;
        self.waits.extend(wait.map(|w| (topic, partition, w)));
        Ok(receipt)
    }
}

fn answer(index: i32, done: Result<Receipt, Refusal>) -> PartitionProduceResponse {
    match done {
        Ok(receipt) => PartitionProduceResponse {
            index,
            base_offset: receipt.base_offset,
            log_append_time_ms: receipt.log_append_time_ms,
            log_start_offset: receipt.log_start_offset,
            ..Default::default()
        },
        Err(refusal) => PartitionProduceResponse {
            index,
            error_code: refusal.code,
            base_offset: -1,
            record_errors: refusal
                .issues
                .into_iter()
                .map(|i| BatchIndexAndErrorMessage {
                    batch_index: i.batch_index,
                    batch_index_error_message: Some(i.message),
                })
                .collect(),
            error_message: refusal.message,
            ..Default::default()
        },
    }
}

pub(super) fn refuse_all(request: &ProduceRequest, code: ErrorCode) -> ProduceResponse {
    let responses = request.topic_data.iter().map(|t| TopicProduceResponse {
        name: t.name.clone(),
        topic_id: t.topic_id,
        partition_responses: t
            .partition_data
            .iter()
            .map(|p| answer(p.index, Err(code.into())))
            .collect(),
    });
    ProduceResponse { responses: responses.collect(), ..Default::default() }
}

/// From version 10 a client that asked the wrong broker is told the right one (KIP-951).
fn point_to_leaders(response: &mut ProduceResponse, image: &Image, caller: &Caller) {
    if caller.version < 10 {
        return;
    }
    for topic in &mut response.responses {
        let known = if caller.version >= 13 {
            image.topics().by_id(topic.topic_id)
        } else {
            image.topics().by_name(&topic.name)
        };
        for p in &mut topic.partition_responses {
            let led = known.and_then(|t| t.partition(p.index));
            let Some((led, leader)) = led.and_then(|l| Some((l, l.leader?))) else { continue };
            if p.error_code != ErrorCode::NotLeaderOrFollower {
                continue;
            }
            p.current_leader =
                LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: led.leader_epoch };
            let named = response.node_endpoints.iter().any(|n| n.node_id == leader.0);
            if !named && let Some(node) = endpoint(image, leader, &caller.listener) {
                response.node_endpoints.push(node);
            }
        }
    }
}

/// Where `node` listens for clients of `listener`.
pub(crate) fn endpoint(
    image: &Image,
    node: crate::base::NodeId,
    listener: &str,
) -> Option<NodeEndpoint> {
    let broker = image.brokers().get(node).filter(|b| !b.fenced)?;
    let at = broker.endpoint(listener)?;
    Some(NodeEndpoint {
        node_id: node.0,
        host: at.host.to_string(),
        port: i32::from(at.port),
        rack: broker.rack.as_deref().map(str::to_owned),
    })
}

async fn await_all(response: &mut ProduceResponse, waits: Vec<Wait>, limit: Duration) {
    let deadline = tokio::time::Instant::now() + limit;
    for (topic, partition, wait) in waits {
        let code = match tokio::time::timeout_at(deadline, wait).await {
            Ok(Ok(Ok(_))) => continue,
            Ok(Ok(Err(code))) => code,
            // The replica is gone with its waiters.
            Ok(Err(_)) => ErrorCode::NotLeaderOrFollower,
            Err(_) => ErrorCode::RequestTimedOut,
        };
        let place = response.responses.get_mut(topic);
        if let Some(p) = place.and_then(|t| t.partition_responses.get_mut(partition)) {
            *p = answer(p.index, Err(code.into()));
        }
    }
}
