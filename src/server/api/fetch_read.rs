//! What a fetch reads of each partition, and when that is enough to answer.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    base::{ErrorCode, NodeId, Now, Offset},
    log::EpochEnd,
    record::compress::Codec,
    replica::{
        fetch_session::{FetchContext, Look, PartitionFetch},
        partition::{Found, Isolation, Partition, Refusal},
        partition_lead::FollowerRead,
        table::{ReplicaTable, Slot},
    },
    server::context::{Broker, Caller},
    wire::api::fetch::FetchRequest,
};

/// What one partition answers: records, the place where the reader's log diverges, or a replica
/// that is nearer to the reader.
pub(super) enum Read {
    Found(Found),
    Diverges { end: EpochEnd, found: Found },
    Elsewhere { replica: NodeId, found: Found },
}

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
pub(super) struct Plan {
    reader: Reader,
    bytes_min: usize,
    bytes_max: usize,
    /// Whether topics are named by id.
    pub(super) by_id: bool,
    version: i16,
    /// Whether a follower is told at once what moved without records.
    prompt: bool,
}

impl Plan {
    pub(super) fn of(broker: &Broker, caller: &Caller, request: &FetchRequest) -> Self {
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        let (replica, epoch) = match request.replica_state.replica_id {
            -1 => (request.replica_id, -1),
            replica => (replica, request.replica_state.replica_epoch),
        };
        let rack_aware = broker.settings.replica.selects_by_rack();
        let mut bytes_max = size(request.max_bytes);
        let reader = if replica >= 0 {
            Reader::Follower { replica: NodeId(replica), epoch }
        } else {
            bytes_max = bytes_max.min(size(broker.settings.replica.client_fetch_max_bytes));
            let anywhere = caller.version >= 11;
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
            prompt: rack_aware && matches!(reader, Reader::Follower { .. }),
            reader,
            bytes_min: size(request.min_bytes).min(bytes_max),
            bytes_max,
            by_id: caller.version >= 13,
            version: caller.version,
        }
    }

    /// Whether a follower asks.
    pub(super) fn is_follower(&self) -> bool {
        matches!(self.reader, Reader::Follower { .. })
    }
}

/// A partition that was looked at.
pub(super) struct Done {
    pub(super) look: Look,
    pub(super) result: Result<Read, Refusal>,
    /// Whether it rings when there is more, so that nobody needs to look before.
    pub(super) settled: bool,
    /// Whether its records count against the quota of throttled leaders.
    pub(super) throttled: bool,
}

/// What a partition answers.
struct Outcome {
    result: Result<Read, Refusal>,
    settled: bool,
    throttled: bool,
}

impl Outcome {
    /// An answer that does not wait.
    fn at_once(result: Result<Read, Refusal>) -> Self {
        Self { result, settled: false, throttled: false }
    }
}

/// The partitions of one request, as far as they were looked at.
pub(super) struct Round {
    /// In the order of their turns; `None` for what is to be read, again or for the first time.
    parts: Vec<(Look, Option<Outcome>)>,
    places: BTreeMap<u64, usize>,
    /// Whether the request is new: what it says of a follower is news.
    first: bool,
    /// Whether some partition rang since the last reading.
    rang: bool,
}

impl Round {
    pub(super) fn new(context: &FetchContext) -> Self {
        let places = context.looks.iter().enumerate().map(|(at, look)| (look.id, at)).collect();
        let parts = context.looks.iter().map(|look| (look.clone(), None)).collect();
        Self { parts, places, first: true, rang: false }
    }

    /// Reads what is to be read; tells whether the answer need not wait: enough bytes, an error, or
    /// another place to read at.
    pub(super) fn read(
        &mut self,
        broker: &Broker,
        context: &FetchContext,
        plan: &Plan,
        now: Now,
    ) -> bool {
        let first = std::mem::take(&mut self.first);
        let (mut total, mut at_once) = (0_usize, plan.prompt && self.rang);
        self.rang = false;
        for (look, done) in &mut self.parts {
            let done = done.get_or_insert_with(|| {
                let room = plan.bytes_max.saturating_sub(total);
                let max = usize::try_from(look.fetch.max_bytes).unwrap_or(0).min(room);
                let limit = Limit { max, at_least_one: total == 0, first };
                read_one(broker, context, look, plan, limit, now)
                    .unwrap_or_else(|refusal| Outcome::at_once(Err(refusal)))
            });
            match &done.result {
                Ok(Read::Found(found)) => total += found.len,
                Ok(Read::Diverges { .. } | Read::Elsewhere { .. }) | Err(_) => at_once = true,
            }
        }
        at_once || total >= plan.bytes_min.max(1) || plan.bytes_min == 0
    }

    /// Lets go of records while the fetch waits: they are read again, and their files may go.
    pub(super) fn park(&mut self) {
        for (_, done) in &mut self.parts {
            let found = done.as_ref().and_then(|d| d.result.as_ref().ok());
            if matches!(found, Some(Read::Found(found)) if found.len > 0) {
                *done = None;
            }
        }
    }

    /// These rang: they are read again, and `looks` are new among them.
    pub(super) fn again(&mut self, ids: &[u64], looks: Vec<Look>) {
        self.rang = !ids.is_empty();
        for id in ids {
            if let Some(part) = self.places.get(id).and_then(|at| self.parts.get_mut(*at)) {
                part.1 = None;
            }
        }
        for look in looks {
            if !self.places.contains_key(&look.id) {
                self.places.insert(look.id, self.parts.len());
                self.parts.push((look, None));
            }
        }
    }

    /// What was found.
    pub(super) fn done(self) -> impl Iterator<Item = Done> {
        let read = |(look, done): (Look, Option<_>)| {
            let Outcome { result, settled, throttled } = done?;
            Some(Done { look, result, settled, throttled })
        };
        self.parts.into_iter().filter_map(read)
    }
}

/// How much of a partition may be read.
#[derive(Clone, Copy)]
struct Limit {
    max: usize,
    at_least_one: bool,
    /// Whether the request is new.
    first: bool,
}

/// Reads one partition, which rings from now on if nothing was found, or if the fetch waits for more:
/// under the same lock, so that no news is lost in between. Tells whether there is nothing to look
/// for until it rings.
fn read_one(
    broker: &Broker,
    context: &FetchContext,
    look: &Look,
    plan: &Plan,
    limit: Limit,
    now: Now,
) -> Result<Outcome, Refusal> {
    let fetch = &look.fetch;
    let slot = find(broker, fetch, plan.by_id)?;
    let mut partition = slot.lock();
    let mut throttled = false;
    let (read, end) = match &plan.reader {
        Reader::Follower { replica, epoch } => {
            let table = &broker.replicas;
            throttled = partition.is_throttled_leader();
            let mut limit = limit;
            if throttled && must_wait(table, &partition, *replica, now) {
                (limit.max, limit.at_least_one) = (0, false);
            }
            let read = follower_read(fetch, *replica, *epoch, limit);
            let got = table.fetch_as_follower(&slot, &mut partition, &read, limit.first, now)?;
            let end = got.found.marks.log_end;
            let found = got.found;
            match got.diverging {
                Some(end) => return Ok(Outcome::at_once(Ok(Read::Diverges { end, found }))),
                None => (found, end),
            }
        }
        Reader::Consumer { isolation, anywhere, rack } => {
            let (isolation, rack) = (*isolation, rack.as_deref());
            let by = Consumer { isolation, anywhere: *anywhere, rack, plan, limit };
            match read_as_consumer(broker, &mut partition, fetch, by, now)? {
                Read::Found(found) => {
                    let end = visible_end(&found, isolation);
                    (found, end)
                }
                other => return Ok(Outcome::at_once(Ok(other))),
            }
        }
    };
    let settled = read.len == 0 && fetch.fetch_offset >= end;
    let listens = settled || !limit.first;
    if listens && plan.is_follower() {
        partition.listen_as_follower(&context.bell, look.id);
    } else if listens {
        partition.listen(&context.bell, look.id);
    }
    Ok(Outcome { result: Ok(Read::Found(read)), settled, throttled })
}

/// Whether a follower gets nothing of a throttled partition for now: one that is in sync always
/// does, lest it fall out of the ISR (`ReplicaManager.shouldLeaderThrottle`).
fn must_wait(table: &ReplicaTable, partition: &Partition, replica: NodeId, now: Now) -> bool {
    let in_sync = partition.leader().is_some_and(|l| l.isr().contains(&replica));
    !in_sync && table.quotas.leader.is_exceeded(now.mono)
}

fn follower_read(
    fetch: &PartitionFetch,
    replica: NodeId,
    replica_epoch: i64,
    limit: Limit,
) -> FollowerRead {
    FollowerRead {
        replica,
        replica_epoch,
        current_leader_epoch: fetch.current_leader_epoch,
        fetch_offset: fetch.fetch_offset,
        last_fetched_epoch: fetch.last_fetched_epoch,
        log_start: fetch.log_start_offset,
        max_bytes: limit.max,
        at_least_one: limit.at_least_one,
    }
}

fn visible_end(found: &Found, isolation: Isolation) -> Offset {
    match isolation {
        Isolation::ReadUncommitted => found.marks.high_watermark,
        Isolation::ReadCommitted => found.marks.last_stable,
        Isolation::LogEnd => found.marks.log_end,
    }
}

/// A client that reads.
struct Consumer<'a> {
    isolation: Isolation,
    anywhere: bool,
    rack: Option<&'a str>,
    plan: &'a Plan,
    limit: Limit,
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
    let Limit { max, at_least_one, .. } = by.limit;
    let found = partition.read(fetch.fetch_offset, max, at_least_one, by.isolation, now)?;
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
