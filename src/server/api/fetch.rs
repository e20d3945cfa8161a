//! Fetch: slices of log files up to the high watermark, at once or when there are enough of them.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, time::Duration};

use crate::{
    base::{ErrorCode, Now, Offset, Uuid},
    record::compress::Codec,
    replica::{
        fetch_session::{FetchContext, PartitionFetch, SessionAsk, Told},
        partition::{Found, Isolation, Refusal},
        table::Slot,
        waiters::Wake,
    },
    server::{
        api::produce::endpoint,
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

/// What one partition answers: records, or the place where the client's log diverges.
enum Read {
    Found(Found),
    Diverges { epoch: i32, end: Offset, found: Found },
}

type Reads = Vec<(PartitionFetch, Result<Read, Refusal>)>;

/// What of the request matters while reading.
#[derive(Clone, Copy)]
struct Plan {
    isolation: Isolation,
    bytes_min: usize,
    bytes_max: usize,
    by_id: bool,
    version: i16,
}

/// Fetch.
pub(crate) fn fetch(broker: &Arc<Broker>, caller: Caller, request: FetchRequest) -> Outcome {
    let now = broker.clock.now();
    let follower = request.replica_id >= 0 || request.replica_state.replica_id >= 0;
    let by_id = caller.version >= 13;
    let max = usize::try_from(request.max_bytes).unwrap_or(0);
    let bytes_max =
        max.min(usize::try_from(broker.settings.replica.client_fetch_max_bytes).unwrap_or(0));
    let plan = Plan {
        isolation: if request.isolation_level == 1 {
            Isolation::ReadCommitted
        } else {
            Isolation::ReadUncommitted
        },
        bytes_min: usize::try_from(request.min_bytes).unwrap_or(0).min(bytes_max),
        bytes_max,
        by_id,
        version: caller.version,
    };
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let ask = SessionAsk {
        id: request.session_id,
        epoch: request.session_epoch,
        by_id,
        privileged: follower,
    };
    let (wanted, forgotten) = wanted(broker, request, by_id);
    let context =
        broker.replicas.sessions().begin(ask, wanted, forgotten, now.mono, broker.entropy.u64());
    let context = match context {
        Ok(context) => context,
        Err(error_code) => {
            return caller.ready(&FetchResponse { error_code, ..Default::default() });
        }
    };
    if follower {
        let refuse =
            |f: &PartitionFetch| (f.clone(), Err(Refusal::from(ErrorCode::NotLeaderOrFollower)));
        let reads = context.partitions.iter().map(refuse).collect();
        return caller.ready(&respond(broker, &caller, &context, plan, reads));
    }
    let (reads, enough) = read_all(broker, &context, plan, None, now);
    if enough || wait.is_zero() || context.partitions.is_empty() {
        return caller.ready(&respond(broker, &caller, &context, plan, reads));
    }
    drop(reads);
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        let reads = wait_for_data(&broker, &context, plan, wait).await;
        caller.chunks(&respond(&broker, &caller, &context, plan, reads))
    }))
}

async fn wait_for_data(
    broker: &Broker,
    context: &FetchContext,
    plan: Plan,
    wait: Duration,
) -> Reads {
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let wake = Wake::new();
        let now = broker.clock.now();
        let (reads, enough) = read_all(broker, context, plan, Some(&wake), now);
        if enough {
            return reads;
        }
        let woken = poll_fn(|cx| wake.poll_woken(cx));
        if tokio::time::timeout_at(deadline, woken).await.is_err() {
            return read_all(broker, context, plan, None, broker.clock.now()).0;
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

/// Reads every partition; tells whether the answer need not wait: enough bytes, or an error. With
/// `wake`, the fetch is registered under the same lock that saw too little, so that no news is
/// lost in between.
fn read_all(
    broker: &Broker,
    context: &FetchContext,
    plan: Plan,
    wake: Option<&Arc<Wake>>,
    now: Now,
) -> (Reads, bool) {
    let mut reads = Vec::with_capacity(context.partitions.len());
    let (mut total, mut at_once) = (0_usize, false);
    for fetch in &context.partitions {
        let room = plan.bytes_max.saturating_sub(total);
        let limit = usize::try_from(fetch.max_bytes).unwrap_or(0).min(room);
        let done = read_one(broker, fetch, plan, limit, total == 0, wake, now);
        match &done {
            Ok(Read::Found(found)) => total += found.len,
            Ok(Read::Diverges { .. }) | Err(_) => at_once = true,
        }
        reads.push((fetch.clone(), done));
    }
    (reads, at_once || total >= plan.bytes_min.max(1) || plan.bytes_min == 0)
}

fn read_one(
    broker: &Broker,
    fetch: &PartitionFetch,
    plan: Plan,
    limit: usize,
    at_least_one: bool,
    wake: Option<&Arc<Wake>>,
    now: Now,
) -> Result<Read, Refusal> {
    let slot = find(broker, fetch, plan.by_id)?;
    let mut partition = slot.lock();
    partition.check_leader(fetch.current_leader_epoch)?;
    let rewrites_to = partition.settings().rules.compression.map(|c| c.codec());
    if plan.version < 10 && rewrites_to == Some(Codec::Zstd) {
        return Err(ErrorCode::UnsupportedCompressionType.into());
    }
    if fetch.last_fetched_epoch >= 0 {
        let (epoch, end) = partition.epoch_end(fetch.last_fetched_epoch, now)?;
        let marks = partition.marks(now)?;
        if epoch < 0 || fetch.fetch_offset < marks.log_start {
            return Err(ErrorCode::OffsetOutOfRange.into());
        }
        if epoch < fetch.last_fetched_epoch || end < fetch.fetch_offset {
            let found = Found { slices: Vec::new(), len: 0, marks, aborted: None };
            return Ok(Read::Diverges { epoch, end, found });
        }
    }
    let found = partition.read(fetch.fetch_offset, limit, at_least_one, plan.isolation, now)?;
    if let Some(wake) = wake {
        partition.register(wake);
    }
    Ok(Read::Found(found))
}

fn find(broker: &Broker, fetch: &PartitionFetch, by_id: bool) -> Result<Arc<Slot>, ErrorCode> {
    if by_id && fetch.topic.is_empty() {
        return Err(ErrorCode::UnknownTopicId);
    }
    if let Some(slot) = broker.replicas.by_id(fetch.topic_id, fetch.partition) {
        return Ok(slot);
    }
    // A session may be older than the topic.
    if !by_id && let Some(slot) = broker.replicas.by_name(&fetch.topic, fetch.partition) {
        return Ok(slot);
    }
    let image = broker.image();
    Err(match image.topics().partition(fetch.topic_id, fetch.partition) {
        Some(_) => ErrorCode::NotLeaderOrFollower,
        None => ErrorCode::UnknownTopicOrPartition,
    })
}

fn respond(
    broker: &Broker,
    caller: &Caller,
    context: &FetchContext,
    plan: Plan,
    reads: Reads,
) -> FetchResponse {
    let mut response = FetchResponse { session_id: context.session_id, ..FetchResponse::default() };
    let mut places: BTreeMap<(Uuid, Arc<str>), usize> = BTreeMap::new();
    let mut sessions = broker.replicas.sessions();
    for (fetch, done) in reads {
        let data = partition_data(&fetch, done);
        let told = Told {
            must_tell: !data.records.is_empty()
                || data.error_code != ErrorCode::None
                || data.diverging_epoch.epoch >= 0,
            has_records: !data.records.is_empty(),
            high_watermark: data.high_watermark,
            log_start_offset: data.log_start_offset,
        };
        if !sessions.tell(context, &fetch, told) {
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
    point_to_leaders(broker, caller, &mut response);
    response
}

fn partition_data(fetch: &PartitionFetch, done: Result<Read, Refusal>) -> PartitionData {
    let partition_index = fetch.partition;
    let (found, diverging_epoch) = match done {
        Ok(Read::Found(found)) => (found, EpochEndOffset::default()),
        Ok(Read::Diverges { epoch, end, found }) => {
            (found, EpochEndOffset { epoch, end_offset: end })
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
