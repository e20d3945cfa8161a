//! Share fetches (`DelayedShareFetch`): reads the logs of the share partitions of one request where they
//! have something to acquire, and waits until one has. May wait; each look at the partitions does
//! not.

use std::{future::poll_fn, sync::Arc, time::Duration};

use super::{
    acquire::{Acquire, AcquireMode, Acquired},
    batches,
    partition::SharePartition,
    session::{PartitionKey, SessionKey},
    settings::ShareSettings,
    table_driver::{Role, SharePartitions, Slot},
};
use crate::{
    base::{ErrorCode, Now, Offset, ports::FileSlice},
    replica::{
        bell::Bell,
        partition::{Found, Isolation, Refusal},
        table,
    },
};

/// Looks at one partition in a row, as long as what was read is for nobody.
const LOOKS_MAX: usize = 16;

/// A request for records.
#[derive(Debug, Clone)]
pub struct ShareFetchAsk {
    /// Whose.
    pub session: SessionKey,
    /// From where; those that come first are read first.
    pub partitions: Vec<PartitionKey>,
    /// Fewer bytes are not worth an answer before the time is over.
    pub bytes_min: usize,
    /// More bytes are not sent, unless a single batch is longer.
    pub bytes_max: usize,
    /// How many records are wanted at most.
    pub records_max: i32,
    /// How many records an acquired batch should have.
    pub batch_size: i32,
    /// How exactly `records_max` counts.
    pub mode: AcquireMode,
}

/// Records that were acquired, and where they are.
#[derive(Debug, Clone, Default)]
pub struct Got {
    /// Whole batches, in which the records are.
    pub records: Vec<FileSlice>,
    /// The records.
    pub acquired: Vec<Acquired>,
}

#[derive(Debug)]
struct Part {
    key: PartitionKey,
    /// Whether it is to be looked at.
    rang: bool,
    /// Whether it was loaded anew for this request, which is done once.
    reloaded: bool,
    slot: Option<Arc<Slot>>,
    /// Whether so much of what was read is for nobody that the client may as well ask again.
    fruitless: bool,
    result: Result<Got, ErrorCode>,
}

/// A share fetch under way.
#[derive(Debug)]
pub struct ShareFetch {
    all: SharePartitions,
    ask: ShareFetchAsk,
    parts: Vec<Part>,
    bell: Arc<Bell>,
    request: u64,
}

impl SharePartitions {
    /// Begins a fetch: nothing is read before [`ShareFetch::look`].
    #[must_use]
    pub fn fetch(&self, ask: ShareFetchAsk) -> ShareFetch {
        let part = |key: &PartitionKey| Part {
            key: *key,
            rang: true,
            reloaded: false,
            slot: None,
            fruitless: false,
            result: Ok(Got::default()),
        };
        let bell = Bell::new();
        ShareFetch {
            all: self.clone(),
            parts: ask.partitions.iter().map(part).collect(),
            request: bell.begin_request(),
            bell,
            ask,
        }
    }
}

impl ShareFetch {
    /// Looks at the partitions that may have something; tells whether the answer need not wait:
    /// records were acquired, or there is an error. With `last` few bytes will do.
    pub fn look(&mut self, last: bool) -> bool {
        if self.ask.records_max <= 0 || self.ask.bytes_max == 0 || self.parts.is_empty() {
            return true;
        }
        let settings = self.all.settings_of(&self.ask.session.group);
        let now = self.all.inner.clock.now();
        let mut ready = Vec::new();
        for at in 0..self.parts.len() {
            if std::mem::take(&mut self.parts[at].rang) && self.is_ready(at, &settings) {
                ready.push(at);
            }
        }
        if !last && self.ask.bytes_min > 1 && !self.has_enough(&ready, &settings, now) {
            return self.parts.iter().any(|p| p.result.is_err());
        }
        let each = (self.ask.bytes_max / ready.len().max(1)).max(1);
        let (mut records, mut bytes) = (0, 0);
        for at in ready {
            let left = i64::from(self.ask.records_max) - records;
            let Ok(left @ 1..) = i32::try_from(left) else { break };
            let limit = Limit { bytes: each, at_least_one: bytes == 0, records: left };
            let result = self.acquire(at, limit, &settings, now);
            if let Ok(got) = &result {
                records += got.acquired.iter().map(Acquired::count).sum::<i64>();
                bytes += got.records.iter().map(|s| s.len).sum::<usize>();
            }
            self.parts[at].result = result;
        }
        records > 0 || self.parts.iter().any(|p| p.fruitless || p.result.is_err())
    }

    /// Looks again at what rings, until there is something or `wait` is over.
    pub async fn wait(&mut self, wait: Duration) {
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            let (bell, request) = (Arc::clone(&self.bell), self.request);
            let rung = poll_fn(|cx| bell.poll_rung(request, cx));
            let over = tokio::time::timeout_at(deadline, rung).await.is_err();
            for id in self.bell.take() {
                if let Some(part) = usize::try_from(id).ok().and_then(|at| self.parts.get_mut(at)) {
                    part.rang = true;
                }
            }
            if over || self.ask.bytes_min > 1 {
                // Many a little makes enough, and in the end little does.
                self.parts.iter_mut().for_each(|p| p.rang = true);
            }
            if self.look(over) || over {
                return;
            }
        }
    }

    /// What became of each partition.
    pub fn done(self) -> impl Iterator<Item = (PartitionKey, Result<Got, ErrorCode>)> {
        self.parts.into_iter().map(|p| (p.key, p.result))
    }

    /// Whether a partition may have something to acquire. It rings from now on if not.
    fn is_ready(&mut self, at: usize, settings: &ShareSettings) -> bool {
        let (bell, inner) = (Arc::clone(&self.bell), Arc::clone(&self.all.inner));
        let group = Arc::clone(&self.ask.session.group);
        let part = &mut self.parts[at];
        loop {
            let found = match part.slot.take() {
                Some(slot) => Ok(slot),
                None => inner.find_or_load(&group, part.key),
            };
            let slot = match found {
                Ok(slot) => slot,
                Err(code) => {
                    part.result = Err(code);
                    return false;
                }
            };
            let mut state = slot.lock();
            let ready = match &mut state.role {
                Role::Loading => false,
                Role::Active(p) => p.can_acquire(settings),
                Role::Gone(ErrorCode::NotLeaderOrFollower) if !part.reloaded => {
                    part.reloaded = true;
                    continue;
                }
                Role::Gone(code) => {
                    part.result = Err(*code);
                    return false;
                }
            };
            if !ready {
                state.waiting.add(&bell, id(at));
            }
            drop(state);
            part.slot = Some(slot);
            return ready;
        }
    }

    /// Whether there are as many bytes to read as are worth an answer. All ring if not.
    fn has_enough(&mut self, ready: &[usize], settings: &ShareSettings, now: Now) -> bool {
        let each = self.ask.bytes_max / ready.len().max(1);
        let mut total = 0;
        for &at in ready {
            let Some(slot) = self.parts[at].slot.clone() else { continue };
            let mut state = slot.lock();
            let Role::Active(partition) = &mut state.role else { continue };
            let from = partition.next_fetch_offset();
            let limit = Limit { bytes: each, at_least_one: total == 0, records: 1 };
            match self.read(at, (from, slot.leader_epoch), limit, true, settings, now) {
                Ok(Some(found)) => total += found.len,
                Ok(None) => {}
                // Let the answer tell, or the log start be taken over.
                Err(_) => return true,
            }
            state.waiting.add(&self.bell, id(at));
        }
        total >= self.ask.bytes_min
    }

    /// Reads one partition and acquires what is there. It rings from now on if there is nothing.
    fn acquire(
        &mut self,
        at: usize,
        limit: Limit,
        settings: &ShareSettings,
        now: Now,
    ) -> Result<Got, ErrorCode> {
        let Some(slot) = self.parts[at].slot.clone() else { return Ok(Got::default()) };
        let mut state = slot.lock();
        let (mut got, mut looks) = (Got::default(), 0);
        while looks < LOOKS_MAX {
            looks += 1;
            let Role::Active(partition) = &mut state.role else { break };
            if !partition.can_acquire(settings) {
                break;
            }
            let from = partition.next_fetch_offset();
            match self.read(at, (from, slot.leader_epoch), limit, false, settings, now) {
                Ok(Some(found)) => got = self.take(partition, from, found, limit, settings, now)?,
                Ok(None) => break,
                Err(refusal) if refusal.code == ErrorCode::OffsetOutOfRange => {
                    let Some(log_start) = self.log_start(at, now) else { break };
                    partition.log_starts_at(log_start);
                }
                Err(refusal) => return Err(refusal.code),
            }
            if !got.acquired.is_empty() || partition.next_fetch_offset() == from {
                looks = 0;
                break;
            }
        }
        let fruitless = looks == LOOKS_MAX;
        if got.acquired.is_empty() {
            state.waiting.add(&self.bell, id(at));
        }
        self.all.inner.settle(&slot, &mut state);
        drop(state);
        self.parts[at].fruitless = fruitless;
        Ok(got)
    }

    /// What the log has from `from` on; `None` if nothing: then it rings when it has, as it does in
    /// any case with `listen`.
    fn read(
        &self,
        at: usize,
        (from, leader_epoch): (Offset, i32),
        limit: Limit,
        listen: bool,
        settings: &ShareSettings,
        now: Now,
    ) -> Result<Option<Found>, Refusal> {
        let replica = self.replica(at)?;
        let mut replica = replica.lock();
        replica.check_leader(-1)?;
        // Of what happened between the two epochs the share partition knows nothing; it is about to
        // be let go of.
        if replica.leader_epoch() != leader_epoch {
            return Err(ErrorCode::NotLeaderOrFollower.into());
        }
        let isolation = match settings.read_committed {
            true => Isolation::ReadCommitted,
            false => Isolation::ReadUncommitted,
        };
        let found = match replica.read(from, limit.bytes, limit.at_least_one, isolation, now) {
            Err(refusal) if refusal.code == ErrorCode::OffsetOutOfRange => {
                // Beyond the end there will be something, some day.
                replica.listen(&self.bell, id(at));
                return Err(refusal);
            }
            found => found?,
        };
        if found.len == 0 || listen {
            replica.listen(&self.bell, id(at));
        }
        Ok(Some(found).filter(|found| found.len > 0))
    }

    fn replica(&self, at: usize) -> Result<Arc<table::Slot>, ErrorCode> {
        let (topic, partition) = self.parts[at].key;
        self.all.inner.replicas.by_id(topic, partition).ok_or(ErrorCode::NotLeaderOrFollower)
    }

    fn log_start(&self, at: usize, now: Now) -> Option<Offset> {
        let replica = self.replica(at).ok()?;
        let marks = replica.lock().marks(now).ok()?;
        Some(marks.log_start)
    }

    /// Acquires what was found.
    fn take(
        &self,
        partition: &mut SharePartition,
        fetch_offset: Offset,
        found: Found,
        limit: Limit,
        settings: &ShareSettings,
        now: Now,
    ) -> Result<Got, ErrorCode> {
        let aborted = found.aborted.unwrap_or_default();
        // New records are acquired behind those in flight, and at most as many as are asked for.
        let (known_to, most) = (partition.next_offset(), i64::from(limit.records));
        let mut new_from = None;
        let batches = batches::headers(&found.slices, !aborted.is_empty(), |batch| {
            if batch.last < known_to {
                return false;
            }
            let from = *new_from.get_or_insert_with(|| batch.base.max(known_to));
            batch.base - from >= most
        });
        let batches = batches.map_err(|_| ErrorCode::KafkaStorageError)?;
        let acquired = partition.acquire(
            Acquire {
                member: &self.ask.session.member,
                mode: self.ask.mode,
                batch_size: self.ask.batch_size,
                max_records: limit.records,
                fetch_offset,
                batches: &batches,
                aborted: &batches::aborted(&batches, &aborted),
            },
            settings,
            now.mono,
        );
        let (Some(first), Some(last)) = (acquired.first(), acquired.last()) else {
            return Ok(Got::default());
        };
        let (skip, len) = batches::cut(&batches, first.first, last.last);
        Ok(Got { records: batches::part_of(&found.slices, skip, len), acquired })
    }
}

/// How much of a partition may be read.
#[derive(Clone, Copy)]
struct Limit {
    bytes: usize,
    at_least_one: bool,
    records: i32,
}

/// What a partition rings with.
fn id(at: usize) -> u64 {
    u64::try_from(at).unwrap_or(u64::MAX)
}
