//! Fetch: slices of log files up to the high watermark, at once or when there are enough of them.
//! What is read is in `fetch_read`.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, time::Duration};

use crate::{
    base::{ErrorCode, Uuid},
    replica::{
        fetch_session::{FetchContext, PartitionFetch, SessionAsk, Told},
        partition::Refusal,
    },
    server::{
        api::{
            fetch_read::{Done, Plan, Read, Round},
            produce::endpoint,
        },
        context::{Broker, Caller},
        dispatch::Outcome,
    },
    wire::{
        api::{
            fetch::{
                AbortedTransaction, EpochEndOffset, FetchRequest, FetchResponse,
                FetchableTopicResponse, PartitionData,
            },
            produce::LeaderIdAndEpoch,
        },
        records::Records,
    },
};

/// Fetch.
pub(crate) fn fetch(broker: &Arc<Broker>, caller: Caller, request: FetchRequest) -> Outcome {
    let now = broker.clock.now();
    let plan = Plan::of(broker, &caller, &request);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let ask = SessionAsk {
        id: request.session_id,
        epoch: request.session_epoch,
        by_id: plan.by_id,
        privileged: plan.is_follower(),
    };
    let (wanted, forgotten) = wanted(broker, request, plan.by_id);
    let context =
        broker.replicas.sessions().begin(ask, wanted, forgotten, now.mono, broker.entropy.u64());
    let context = match context {
        Ok(context) => context,
        Err(error_code) => {
            return caller.ready(&FetchResponse { error_code, ..Default::default() });
        }
    };
    let mut round = Round::new(&context);
    let enough = round.read(broker, &context, &plan, now);
    if enough || wait.is_zero() || context.is_void {
        return caller.ready(&respond(broker, &caller, &context, &plan, round.done()));
    }
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        wait_for_data(&broker, &context, &plan, &mut round, wait).await;
        caller.chunks(&respond(&broker, &caller, &context, &plan, round.done()))
    }))
}

/// Looks again at what rings, until there is enough, the time is over, or the client has gone on to
/// its next request.
async fn wait_for_data(
    broker: &Broker,
    context: &FetchContext,
    plan: &Plan,
    round: &mut Round,
    wait: Duration,
) {
    let deadline = tokio::time::Instant::now() + wait;
    let (mut over, mut overtaken) = (false, false);
    loop {
        round.park();
        let enough = round.read(broker, context, plan, broker.clock.now());
        if enough || over || overtaken {
            return;
        }
        let rung = poll_fn(|cx| context.bell.poll_rung(context.request, cx));
        over = tokio::time::timeout_at(deadline, rung).await.is_err();
        // What rings from now on is the next request's.
        overtaken = context.bell.is_superseded(context.request);
        if !overtaken {
            let ids = context.bell.take();
            let looks = broker.replicas.sessions().rang(context, &ids);
            round.again(&ids, looks);
        }
    }
}

fn wanted(
    broker: &Broker,
    request: FetchRequest,
    by_id: bool,
) -> (Vec<PartitionFetch>, Vec<PartitionFetch>) {
    let image = broker.image();
    let resolve = |name: String, id: Uuid| -> (Arc<str>, Uuid) {
        if by_id {
            (image.topics().by_id(id).map_or_else(|| "".into(), |t| Arc::clone(&t.name)), id)
        } else {
            match image.topics().by_name(&name) {
                Some(t) => (Arc::clone(&t.name), t.id),
                None => (name.into(), Uuid::ZERO),
            }
        }
    };
    let mut wanted = Vec::new();
    for topic in request.topics {
        let (topic_name, topic_id) = resolve(topic.topic, topic.topic_id);
        wanted.extend(topic.partitions.into_iter().map(|p| PartitionFetch {
            topic: Arc::clone(&topic_name),
            topic_id,
            partition: p.partition,
            fetch_offset: p.fetch_offset,
            max_bytes: p.partition_max_bytes,
            current_leader_epoch: p.current_leader_epoch,
            last_fetched_epoch: p.last_fetched_epoch,
            log_start_offset: p.log_start_offset,
        }));
    }
    let mut forgotten = Vec::new();
    for topic in request.forgotten_topics_data {
        let (topic_name, topic_id) = resolve(topic.topic, topic.topic_id);
        forgotten.extend(topic.partitions.into_iter().map(|partition| PartitionFetch {
            topic: Arc::clone(&topic_name),
            topic_id,
            partition,
            fetch_offset: 0,
            max_bytes: 0,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            log_start_offset: -1,
        }));
    }
    (wanted, forgotten)
}

fn respond(
    broker: &Broker,
    caller: &Caller,
    context: &FetchContext,
    plan: &Plan,
    done: impl Iterator<Item = Done>,
) -> FetchResponse {
    let mut response = FetchResponse { session_id: context.session_id, ..FetchResponse::default() };
    let mut places: BTreeMap<(Uuid, Arc<str>), usize> = BTreeMap::new();
    let mut sessions = broker.replicas.sessions();
    let mut throttled_bytes = 0_usize;
    for Done { look, result, settled, throttled } in done {
        let fetch = &look.fetch;
        let data = partition_data(fetch, result);
        if throttled {
            throttled_bytes = throttled_bytes.saturating_add(data.records.len());
        }
        let told = Told {
            must_tell: !data.records.is_empty()
                || data.error_code != ErrorCode::None
                || data.diverging_epoch.epoch >= 0
                || data.preferred_read_replica >= 0,
            has_records: !data.records.is_empty(),
            settled,
            high_watermark: data.high_watermark,
            log_start_offset: data.log_start_offset,
        };
        if !sessions.tell(context, &look, told) {
            continue;
        }
        let key = (fetch.topic_id, Arc::clone(&fetch.topic));
        let at = *places.entry(key).or_insert_with(|| {
            response.responses.push(FetchableTopicResponse {
                topic: if plan.by_id { String::new() } else { fetch.topic.to_string() },
                topic_id: fetch.topic_id,
                partitions: Vec::new(),
            });
            response.responses.len() - 1
        });
        response.responses[at].partitions.push(data);
    }
    drop(sessions);
    if throttled_bytes > 0 {
        let quota = &broker.replicas.quotas.leader;
        quota.record(throttled_bytes, broker.clock.now().mono);
    }
    point_to_leaders(broker, caller, &mut response);
    response
}

fn partition_data(fetch: &PartitionFetch, done: Result<Read, Refusal>) -> PartitionData {
    let partition_index = fetch.partition;
    let (mut diverging_epoch, mut preferred_read_replica) = (EpochEndOffset::default(), -1);
    let found = match done {
        Ok(Read::Found(found)) => found,
        Ok(Read::Diverges { end, found }) => {
            diverging_epoch = EpochEndOffset { epoch: end.epoch, end_offset: end.end };
            found
        }
        Ok(Read::Elsewhere { replica, found }) => {
            preferred_read_replica = replica.0;
            found
        }
        Err(refusal) => {
            return PartitionData {
                partition_index,
                error_code: refusal.code,
                high_watermark: -1,
                records: Records::EMPTY,
                ..Default::default()
            };
        }
    };
    PartitionData {
        partition_index,
        high_watermark: found.marks.high_watermark,
        last_stable_offset: found.marks.last_stable,
        log_start_offset: found.marks.log_start,
        diverging_epoch,
        preferred_read_replica,
        aborted_transactions: found.aborted.map(|all| {
            all.iter()
                .map(|a| AbortedTransaction {
                    producer_id: a.producer_id,
                    first_offset: a.first_offset,
                })
                .collect()
        }),
        records: if found.len == 0 { Records::EMPTY } else { Records::from_slices(found.slices) },
        ..Default::default()
    }
}

/// From version 12 a client that asked the wrong broker is told the right one (KIP-951).
fn point_to_leaders(broker: &Broker, caller: &Caller, response: &mut FetchResponse) {
    let wrong =
        |code| code == ErrorCode::NotLeaderOrFollower || code == ErrorCode::FencedLeaderEpoch;
    let any = response.responses.iter().flat_map(|t| &t.partitions).any(|p| wrong(p.error_code));
    if caller.version < 12 || !any {
        return;
    }
    let image = broker.image();
    for topic in &mut response.responses {
        for p in topic.partitions.iter_mut().filter(|p| wrong(p.error_code)) {
            let led = image.topics().partition(topic.topic_id, p.partition_index);
            let Some((led, leader)) = led.and_then(|l| Some((l, l.leader?))) else { continue };
            p.current_leader =
                LeaderIdAndEpoch { leader_id: leader.0, leader_epoch: led.leader_epoch };
            let named = response.node_endpoints.iter().any(|n| n.node_id == leader.0);
            if !named && let Some(node) = endpoint(&image, leader, &caller.listener) {
                response.node_endpoints.push(node);
            }
        }
    }
}
