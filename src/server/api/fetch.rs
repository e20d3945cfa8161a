//! Fetch: slices of log files up to the high watermark, at once or when there are enough of them.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, time::Duration};

use crate::{
    base::{ErrorCode, NodeId, Now, Uuid},
    log::EpochEnd,
    record::compress::Codec,
    replica::{
        fetch_session::{FetchContext, PartitionFetch, SessionAsk, Told},
        partition::{Found, Isolation, Partition, Refusal},
        partition_lead::FollowerRead,
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

/// What one partition answers: records, the place where the reader's log diverges, or a replica
/// that is nearer to the reader.
enum Read {
    Found(Found),
    Diverges { end: EpochEnd, found: Found },
    Elsewhere { replica: NodeId, found: Found },
}

type Reads = Vec<(PartitionFetch, Result<Read, Refusal>)>;

/// Who fetches.
#[derive(Clone)]
enum Reader {
    /// A follower, with its broker epoch.
    Follower { replica: NodeId, epoch: i64 },
    /// A client. One that says where it is may read from followers and be sent to one (KIP-392).
    Consumer { isolation: Isolation, anywhere: bool, rack: Option<Arc<str>> },
}

/// What of the request matters while reading.
#[derive(Clone)]
struct Plan {
    reader: Reader,
    bytes_min: usize,
    bytes_max: usize,
    by_id: bool,
    version: i16,
}

impl Plan {
    fn of(broker: &Broker, caller: &Caller, request: &FetchRequest) -> Self {
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        let (replica, epoch) = match request.replica_state.replica_id {
            -1 => (request.replica_id, -1),
            replica => (replica, request.replica_state.replica_epoch),
        };
        let mut bytes_max = size(request.max_bytes);
        let reader = if replica >= 0 {
            Reader::Follower { replica: NodeId(replica), epoch }
        } else {
            bytes_max = bytes_max.min(size(broker.settings.replica.client_fetch_max_bytes));
            let anywhere = caller.version >= 11;
            let rack_aware = broker.settings.replica.selects_by_rack();
            let rack = Some(&*request.rack_id).filter(|r| anywhere && rack_aware && !r.is_empty());
            let committed = request.isolation_level == 1;
            Reader::Consumer {
                isolation: if committed {
                    Isolation::ReadCommitted
                } else {
                    Isolation::ReadUncommitted
                },
                anywhere,
                rack: rack.map(Arc::from),
            }
        };
        Self {
            reader,
            bytes_min: size(request.min_bytes).min(bytes_max),
            bytes_max,
            by_id: caller.version >= 13,
            version: caller.version,
        }
    }
}

/// How a fetch comes to read.
#[derive(Clone, Copy)]
enum Turn<'a> {
    /// Just arrived: what it says of a follower is news.
    First,
    /// It has waited, and waits on if there is still too little: it is registered under the same
    /// lock that saw too little, so that no news is lost in between.
    Waiting(&'a Arc<Wake>),
    /// Its time is over.
    Last,
}

/// Fetch.
pub(crate) fn fetch(broker: &Arc<Broker>, caller: Caller, request: FetchRequest) -> Outcome {
    let now = broker.clock.now();
    let plan = Plan::of(broker, &caller, &request);
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let ask = SessionAsk {
        id: request.session_id,
        epoch: request.session_epoch,
        by_id: plan.by_id,
        privileged: matches!(plan.reader, Reader::Follower { .. }),
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
    let (reads, enough) = read_all(broker, &context, &plan, Turn::First, now);
    if enough || wait.is_zero() || context.partitions.is_empty() {
        return caller.ready(&respond(broker, &caller, &context, &plan, reads));
    }
    drop(reads);
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        let reads = wait_for_data(&broker, &context, &plan, wait).await;
        caller.chunks(&respond(&broker, &caller, &context, &plan, reads))
    }))
}

async fn wait_for_data(
    broker: &Broker,
    context: &FetchContext,
    plan: &Plan,
    wait: Duration,
) -> Reads {
    let deadline = tokio::time::Instant::now() + wait;
    loop {
        let wake = Wake::new();
        let now = broker.clock.now();
        let (reads, enough) = read_all(broker, context, plan, Turn::Waiting(&wake), now);
        if enough || !broker.replicas.sessions().park(context, &wake) {
            return reads;
        }
        let woken = poll_fn(|cx| wake.poll_woken(cx));
        if tokio::time::timeout_at(deadline, woken).await.is_err() {
            return read_all(broker, context, plan, Turn::Last, broker.clock.now()).0;
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

/// Reads every partition; tells whether the answer need not wait: enough bytes, an error, or
/// another place to read at.
fn read_all(
    broker: &Broker,
    context: &FetchContext,
    plan: &Plan,
    turn: Turn<'_>,
    now: Now,
) -> (Reads, bool) {
    let mut reads = Vec::with_capacity(context.partitions.len());
    let (mut total, mut at_once) = (0_usize, false);
    for fetch in &context.partitions {
        let room = plan.bytes_max.saturating_sub(total);
        let limit = usize::try_from(fetch.max_bytes).unwrap_or(0).min(room);
        let done = read_one(broker, fetch, plan, (limit, total == 0), turn, now);
        match &done {
            Ok(Read::Found(found)) => total += found.len,
            Ok(Read::Diverges { .. } | Read::Elsewhere { .. }) | Err(_) => at_once = true,
        }
        reads.push((fetch.clone(), done));
    }
    (reads, at_once || total >= plan.bytes_min.max(1) || plan.bytes_min == 0)
}

/// Reads one partition: at most so many bytes, and whether a longer first batch will do.
fn read_one(
    broker: &Broker,
    fetch: &PartitionFetch,
    plan: &Plan,
    limit: (usize, bool),
    turn: Turn<'_>,
    now: Now,
) -> Result<Read, Refusal> {
    let slot = find(broker, fetch, plan.by_id)?;
    let mut partition = slot.lock();
    match &plan.reader {
        Reader::Follower { replica, epoch } => {
            let read = FollowerRead {
                replica: *replica,
                replica_epoch: *epoch,
                current_leader_epoch: fetch.current_leader_epoch,
                fetch_offset: fetch.fetch_offset,
                last_fetched_epoch: fetch.last_fetched_epoch,
                log_start: fetch.log_start_offset,
                max_bytes: limit.0,
                at_least_one: limit.1,
            };
            let first = matches!(turn, Turn::First);
            let got =
                broker.replicas.fetch_as_follower(&slot, &mut partition, &read, first, now)?;
            if let Turn::Waiting(wake) = turn {
                partition.register_follower(wake);
            }
            Ok(match got.diverging {
                Some(end) => Read::Diverges { end, found: got.found },
                None => Read::Found(got.found),
            })
        }
        Reader::Consumer { isolation, anywhere, rack } => {
            let rack = rack.as_deref();
            let got = read_as_consumer(
                broker,
                &mut partition,
                fetch,
                Consumer { isolation: *isolation, anywhere: *anywhere, rack, plan, limit },
                now,
            )?;
            if let Turn::Waiting(wake) = turn {
                partition.register(wake);
            }
            Ok(got)
        }
    }
}

/// A client that reads.
struct Consumer<'a> {
    isolation: Isolation,
    anywhere: bool,
    rack: Option<&'a str>,
    plan: &'a Plan,
    limit: (usize, bool),
}

fn read_as_consumer(
    broker: &Broker,
    partition: &mut Partition,
    fetch: &PartitionFetch,
    by: Consumer<'_>,
    now: Now,
) -> Result<Read, Refusal> {
    if by.anywhere {
        partition.check_replica(fetch.current_leader_epoch)?;
    } else {
        partition.check_leader(fetch.current_leader_epoch)?;
    }
    let rewrites_to = partition.settings().rules.compression.map(|c| c.codec());
    if by.plan.version < 10 && rewrites_to == Some(Codec::Zstd) {
        return Err(ErrorCode::UnsupportedCompressionType.into());
    }
    if let Some(rack) = by.rack {
        let image = broker.image();
        let rack_of = |id| image.brokers().get(id).and_then(|b| b.rack.as_deref());
        if let Some(replica) = partition.nearest_replica(fetch.fetch_offset, rack, rack_of) {
            return Ok(Read::Elsewhere { replica, found: partition.nothing(now)? });
        }
    }
    if let Some(end) = partition.divergence(fetch.fetch_offset, fetch.last_fetched_epoch, now)? {
        return Ok(Read::Diverges { end, found: partition.nothing(now)? });
    }
    let (limit, at_least_one) = by.limit;
    let found = partition.read(fetch.fetch_offset, limit, at_least_one, by.isolation, now)?;
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
    plan: &Plan,
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
                || data.diverging_epoch.epoch >= 0
                || data.preferred_read_replica >= 0,
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
