//! The shell that waits: it loads shards from the log when this broker is elected, carries out what
//! they decide, wakes them for their deadlines, and tells them of the high watermark. May wait;
//! every machine step runs with one slot locked and without waiting.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::join_all;
use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore, oneshot, watch},
};

use super::{
    batches::{Replay, ReplayError, encode, encode_in_txn},
    calls::{Call, Effect, Reply},
    calls_consumer::{ChangedTopics, Rebalance},
    calls_share_groups::ShareInitialization,
    ports::{Bounds, OffsetsLog},
    settings::Settings,
    shard::Shard,
    share_persister::{ShareKey, SharePersister},
    table::{Role, SharedSlot, Slot, Table, partition_for},
    topic_regex,
};
use crate::{
    base::{
        ErrorCode, Mono, Now, Offset, PartitionId, Uuid,
        ports::{Clock, Entropy},
    },
    metadata::Image,
};

type Waiter = oneshot::Sender<Reply>;

/// A log with more records than this is replayed aside, and at most so many logs are at a time.
const ASIDE_FROM: i64 = 1000;
const LOADS_ASIDE: usize = 4;
/// The timer looks at the clock at least this often.
const TIMER_REST_MAX: Duration = Duration::from_secs(60);

/// The groups this broker coordinates. A cheap handle; clones share everything.
#[derive(Debug, Clone)]
pub struct Coordinators {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    table: Table<Waiter>,
    log: Arc<dyn OffsetsLog>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    settings: Arc<Settings>,
    runtime: Handle,
    /// The metadata that groups see.
    image: ArcSwap<Image>,
    /// Partitions of `__consumer_offsets`.
    partitions: AtomicI32,
    /// The way to the share coordinators.
    persister: OnceLock<Arc<dyn SharePersister>>,
    /// Permits to replay long logs.
    loads: Semaphore,
    /// When the timer will wake, as [`Mono`].
    wakes_at: AtomicU64,
    /// Wakes the timer early.
    earlier: Notify,
    /// Whether shards may be loaded.
    serving: watch::Sender<bool>,
    stopped: watch::Sender<bool>,
}

impl Coordinators {
    /// Starts without any partition, and with the timer task.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(
        log: Arc<dyn OffsetsLog>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        settings: Settings,
    ) -> Self {
        let runtime = Handle::current();
        let inner = Arc::new(Inner {
            table: Table::default(),
            log,
            clock,
            entropy,
            image: ArcSwap::default(),
            partitions: AtomicI32::new(settings.partitions),
            persister: OnceLock::new(),
            settings: Arc::new(settings),
            runtime: runtime.clone(),
            loads: Semaphore::new(LOADS_ASIDE),
            wakes_at: AtomicU64::new(Mono::NEVER.0),
            earlier: Notify::new(),
            serving: watch::Sender::new(true),
            stopped: watch::Sender::new(false),
        });
        runtime.spawn(timer(inner.clone()));
        Self { inner }
    }

    /// Shards are not loaded before [`Coordinators::serve`]: a broker that was started anew does not act for
    /// partitions that it led in its last life, until the controller knows of this one and it knows
    /// who leads now. What it would write in the meantime would be of an epoch in which others may
    /// have written something else at the same offsets, which it has lost.
    pub fn hold(&self) {
        self.inner.serving.send_replace(false);
    }

    /// Shards are loaded from now on.
    pub fn serve(&self) {
        self.inner.serving.send_replace(true);
    }

    /// Leaves all partitions and ends the tasks. Waiting requests get `NotCoordinator`.
    pub fn stop(&self) {
        self.inner.stopped.send_replace(true);
        for (partition, _) in self.inner.table.all() {
            self.resigned(partition, None);
        }
    }

    /// The way to the share coordinators; told once, before the first election. Until then share
    /// groups cannot have partitions initialized.
    pub fn set_share_persister(&self, persister: Arc<dyn SharePersister>) {
        // Told again, the first stays.
        let _ = self.inner.persister.set(persister);
    }

    /// The way to the share coordinators.
    ///
    /// # Errors
    /// `CoordinatorNotAvailable` while there is none.
    pub fn share_persister(&self) -> Result<&Arc<dyn SharePersister>, ErrorCode> {
        self.inner.persister.get().ok_or(ErrorCode::CoordinatorNotAvailable)
    }

    /// How many partitions `__consumer_offsets` has. Called before the elections of its partitions.
    pub fn set_partition_count(&self, count: i32) {
        self.inner.partitions.store(count, Ordering::Release);
    }

    /// The cluster's metadata is now `image`; `changed` says of which topics. Called before the
    /// elections of the same update.
    pub fn metadata_changed(&self, image: &Arc<Image>, changed: &ChangedTopics) {
        self.inner.image.store(image.clone());
        for (_, slot) in self.inner.table.all() {
            if let Ok(shard) = slot.lock().shard() {
                shard.metadata_changed(image.clone(), changed);
            }
        }
    }

    /// The metadata that groups see.
    pub(super) fn image(&self) -> Arc<Image> {
        self.inner.image.load_full()
    }

    /// This broker leads `partition` since `epoch`: the shard is loaded, and takes calls once it is.
    /// Told again, or of a higher epoch while it leads already, it keeps what it has.
    pub fn elected(&self, partition: PartitionId, epoch: i32) {
        if *self.inner.stopped.borrow() {
            return;
        }
        if let Some(slot) = self.inner.table.elect(partition, epoch) {
            tracing::debug!(partition, epoch, "loading groups and offsets");
            self.inner.runtime.spawn(load(self.inner.clone(), partition, slot));
        }
    }

    /// This broker does not lead `partition` any more, as of `epoch` (`None`: the partition is
    /// gone). Waiting requests get `NotCoordinator`.
    pub fn resigned(&self, partition: PartitionId, epoch: Option<i32>) {
        let Some(slot) = self.inner.table.resign(partition, epoch) else { return };
        let mut slot = slot.lock();
        let mut out = Vec::new();
        if let Role::Active(shard) = std::mem::replace(&mut slot.role, Role::Gone) {
            shard.unload(self.inner.clock.now(), &mut out);
            tracing::debug!(partition, epoch = slot.epoch, "unloaded groups and offsets");
        }
        for effect in out {
            answer(&mut slot, effect);
        }
    }

    /// Topics are gone, by name and id: offsets committed to them are removed, in the background.
    pub fn topics_deleted(&self, topics: &[(Arc<str>, Uuid)]) {
        for (partition, slot) in self.inner.table.all() {
            // A shard that loads now gets rid of them by expiry.
            let call = Call::TopicsDeleted(topics.to_vec());
            if let Err(error) = self.inner.submit(partition, &slot, call) {
                tracing::debug!(
                    partition,
                    error = error.name(),
                    "offsets of topics are not removed"
                );
            }
        }
    }

    /// The partitions whose groups this broker coordinates, loaded or not.
    #[must_use]
    pub fn coordinated(&self) -> Vec<PartitionId> {
        self.inner.table.all().into_iter().map(|(partition, _)| partition).collect()
    }

    /// The partition of `__consumer_offsets` that keeps `group`: its leader is the coordinator.
    #[must_use]
    pub fn partition_of(&self, group: &str) -> PartitionId {
        partition_for(group, self.inner.partitions.load(Ordering::Acquire))
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Random bytes for a member id.
    pub(super) fn unique(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.inner.entropy.fill(&mut bytes);
        bytes
    }

    /// Hands `call` to the shard that keeps `group` and waits for the reply.
    ///
    /// # Errors
    /// `NotCoordinator`, `CoordinatorLoadInProgress`.
    pub(super) async fn ask(&self, group: &str, call: Call) -> Result<Reply, ErrorCode> {
        self.ask_partition(self.partition_of(group), call).await
    }

    /// As [`Coordinators::ask`], by partition.
    pub(super) async fn ask_partition(
        &self,
        partition: PartitionId,
        call: Call,
    ) -> Result<Reply, ErrorCode> {
        let slot = self.inner.table.get(partition).ok_or(ErrorCode::NotCoordinator)?;
        let reply = self.inner.submit(partition, &slot, call)?;
        drop(slot);
        reply.await.map_err(|_| ErrorCode::NotCoordinator)
    }

    /// Reads a loaded shard.
    ///
    /// # Errors
    /// `NotCoordinator`, `CoordinatorLoadInProgress`.
    pub(super) fn read<T>(
        &self,
        partition: PartitionId,
        f: impl FnOnce(&Shard) -> T,
    ) -> Result<T, ErrorCode> {
        let slot = self.inner.table.get(partition).ok_or(ErrorCode::NotCoordinator)?;
        let mut slot = slot.lock();
        Ok(f(slot.shard()?))
    }
}

impl Inner {
    fn submit(
        self: &Arc<Self>,
        partition: PartitionId,
        shared: &SharedSlot<Waiter>,
        call: Call,
    ) -> Result<oneshot::Receiver<Reply>, ErrorCode> {
        let mut slot = shared.lock();
        slot.shard()?;
        let (waiter, reply) = oneshot::channel();
        let token = slot.park(waiter);
        self.step(partition, shared, &mut slot, |shard, now, out| {
            shard.handle(token, call, now, out);
        });
        Ok(reply)
    }

    /// Runs one step of an active shard and carries out its effects.
    fn step(
        self: &Arc<Self>,
        partition: PartitionId,
        shared: &SharedSlot<Waiter>,
        slot: &mut Slot<Waiter>,
        f: impl FnOnce(&mut Shard, Now, &mut Vec<Effect>),
    ) {
        let now = self.clock.now();
        let mut out = Vec::new();
        match slot.shard() {
            Ok(shard) => f(shard, now, &mut out),
            Err(_) => return,
        }
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                let epoch = slot.epoch;
                let (ticket, result) = match effect {
                    Effect::ResolveRegexes { .. } => {
                        self.resolve(partition, shared, effect);
                        continue;
                    }
                    Effect::InitializeShares(asked) => {
                        self.initialize_shares(partition, shared, asked);
                        continue;
                    }
                    Effect::Rebalance(why) => {
                        log_rebalance(&why);
                        continue;
                    }
                    Effect::Reply { .. } => {
                        answer(slot, effect);
                        continue;
                    }
                    Effect::Append { ticket, records } => {
                        let batch = encode(&records, now.wall_ms);
                        (ticket, batch.and_then(|b| self.log.append(partition, epoch, b)))
                    }
                    Effect::AppendInTxn { ticket, write } => {
                        let batch = encode_in_txn(&write, now.wall_ms);
                        let origin = write.origin();
                        let append = |b| self.log.append_in_txn(partition, epoch, b, origin);
                        (ticket, batch.and_then(append))
                    }
                };
                if let Err(error) = result {
                    tracing::warn!(partition, error = error.name(), "an append was refused");
                }
                if let Ok(shard) = slot.shard() {
                    shard.appended(ticket, result, now, &mut out);
                }
            }
        }
        let Ok(shard) = slot.shard() else { return };
        let (deadline, uncommitted) = (shard.next_deadline(), shard.first_uncommitted().is_some());
        if deadline.0 < self.wakes_at.fetch_min(deadline.0, Ordering::AcqRel) {
            self.earlier.notify_one();
        }
        if uncommitted && !slot.watching {
            slot.watching = true;
            self.runtime.spawn(watch_commits(self.clone(), partition, shared.clone()));
        }
    }
}

impl Inner {
    /// Looks regular expressions up beside everything else: there may be very many topics.
    fn resolve(
        self: &Arc<Self>,
        partition: PartitionId,
        shared: &SharedSlot<Waiter>,
        effect: Effect,
    ) {
        let Effect::ResolveRegexes { group, member, regexes, image } = effect else { return };
        let (inner, shared) = (self.clone(), shared.clone());
        self.runtime.spawn_blocking(move || {
            let now_ms = inner.clock.now().wall_ms;
            let resolved = topic_regex::resolve(&image, &regexes, now_ms);
            let mut slot = shared.lock();
            inner.step(partition, &shared, &mut slot, |shard, now, out| {
                shard.regexes_resolved(&group, &member, resolved, now, out);
            });
        });
    }
}

impl Inner {
    /// Asks the share coordinators beside everything else.
    fn initialize_shares(
        self: &Arc<Self>,
        partition: PartitionId,
        shared: &SharedSlot<Waiter>,
        asked: ShareInitialization,
    ) {
        let (inner, shared) = (self.clone(), shared.clone());
        self.runtime.spawn(async move {
            let codes = inner.initialize(&asked).await;
            if let Some(error) = codes.iter().find(|c| **c != ErrorCode::None) {
                let (group, error) = (&*asked.group, error.name());
                tracing::warn!(group, error, "share partitions are not initialized");
            }
            let mut slot = shared.lock();
            inner.step(partition, &shared, &mut slot, |shard, now, out| {
                shard.shares_initialized(asked.id, codes, now, out);
            });
        });
    }

    async fn initialize(&self, asked: &ShareInitialization) -> Vec<ErrorCode> {
        let Some(persister) = self.persister.get() else {
            return vec![ErrorCode::CoordinatorNotAvailable; asked.offsets.len()];
        };
        let each = asked.offsets.iter().map(|(topic, partition, offset)| {
            let group = asked.group.clone();
            let key = ShareKey { group, topic: *topic, partition: *partition };
            persister.initialize(key, asked.state_epoch, *offset)
        });
        let done = join_all(each).await.into_iter();
        done.map(|done| done.err().unwrap_or(ErrorCode::None)).collect()
    }
}

fn log_rebalance(r: &Rebalance) {
    let member = r.member.as_deref().unwrap_or_default();
    tracing::info!(group = &*r.group, epoch = r.epoch, member, why = r.why, "group rebalances");
}

fn answer(slot: &mut Slot<Waiter>, effect: Effect) {
    if let Effect::Reply { token, reply } = effect
        && let Some(waiter) = slot.unpark(token)
    {
        // The client may have gone; the state stands all the same.
        let _ = waiter.send(reply);
    }
}

/// The timer of all shards: sleeps until the earliest deadline of any.
async fn timer(inner: Arc<Inner>) {
    let mut stopped = inner.stopped.subscribe();
    while !*stopped.borrow_and_update() {
        inner.wakes_at.store(Mono::NEVER.0, Ordering::Release);
        let now = inner.clock.now().mono;
        let mut earliest = Mono::NEVER;
        for (partition, shared) in inner.table.all() {
            let mut slot = shared.lock();
            let due = |slot: &mut Slot<_>| slot.shard().map_or(Mono::NEVER, |s| s.next_deadline());
            if due(&mut slot) <= now {
                inner.step(partition, &shared, &mut slot, Shard::on_deadline);
            }
            earliest = earliest.min(due(&mut slot));
        }
        let earliest = earliest.0.min(inner.wakes_at.fetch_min(earliest.0, Ordering::AcqRel));
        let rest = Mono(earliest).since(inner.clock.now().mono).min(TIMER_REST_MAX);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = inner.earlier.notified() => {}
            _ = stopped.changed() => {}
        }
    }
}

/// Tells one shard of the high watermark until nothing of it lies above.
async fn watch_commits(inner: Arc<Inner>, partition: PartitionId, shared: SharedSlot<Waiter>) {
    let mut stopped = inner.stopped.subscribe();
    loop {
        let (epoch, offset) = {
            let mut slot = shared.lock();
            let Some(offset) = slot.shard().ok().and_then(|s| s.first_uncommitted()) else {
                slot.watching = false;
                return;
            };
            (slot.epoch, offset)
        };
        let passed = tokio::select! {
            passed = inner.log.committed(partition, epoch, offset) => passed,
            _ = stopped.changed() => return,
        };
        let mut slot = shared.lock();
        match passed {
            Ok(high_watermark) => inner.step(partition, &shared, &mut slot, |shard, now, out| {
                shard.committed(high_watermark, now, out);
            }),
            // Elected again meanwhile: the new epoch is asked.
            Err(_) if slot.epoch != epoch => {}
            Err(error) => {
                // What was written stays invisible until the resignation or the next append.
                inner.step(partition, &shared, &mut slot, |shard, now, out| {
                    shard.commit_lost(error, now, out);
                });
                slot.watching = false;
                return;
            }
        }
    }
}

impl Inner {
    /// Waits until shards may be loaded. `false` if the broker stops first.
    async fn may_load(&self) -> bool {
        let (mut serving, mut stopped) = (self.serving.subscribe(), self.stopped.subscribe());
        tokio::select! {
            served = async { serving.wait_for(|s| *s).await.is_ok() } => served,
            () = async { _ = stopped.wait_for(|s| *s).await } => false,
        }
    }
}

/// Replays the log of a partition and makes its shard active.
async fn load(inner: Arc<Inner>, partition: PartitionId, shared: SharedSlot<Waiter>) {
    if !inner.may_load().await {
        return;
    }
    let began = inner.clock.now().mono;
    let (loaded, mut slot) = loop {
        let epoch = shared.lock().epoch;
        let loaded = replay_aside(&inner, partition, &shared).await;
        let slot = shared.lock();
        // Elected again meanwhile: what failed was asked in the old epoch.
        if loaded.is_ok() || slot.epoch == epoch {
            break (loaded, slot);
        }
    };
    if !matches!(slot.role, Role::Loading) {
        return;
    }
    match loaded {
        Ok((mut shard, replay, end)) => {
            let (groups, offsets) = shard.size();
            let took = inner.clock.now().mono.since(began);
            if let Some(cause) = replay.first_damage {
                let damaged = replay.damaged;
                tracing::error!(partition, damaged, %cause, "records cannot be read; passed over");
            }
            let (records, passed_over) = (replay.taken, replay.passed_over);
            if records > 0 {
                tracing::info!(partition, groups, offsets, records, passed_over, ?took, "loaded");
            }
            shard.metadata_changed(inner.image.load_full(), &ChangedTopics::default());
            slot.role = Role::Active(shard);
            inner.step(partition, &shared, &mut slot, |shard, now, out| {
                shard.loaded(end, now, out);
            });
        }
        Err(error) => {
            tracing::error!(partition, %error, "groups and offsets cannot be loaded");
            slot.role = Role::Failed;
        }
    }
}

type Replayed = (Box<Shard>, Replay, Offset);

/// Replays a log, a longer one on a thread that may be busy for seconds: the runtime's own serve
/// everybody else meanwhile.
async fn replay_aside(
    inner: &Arc<Inner>,
    partition: PartitionId,
    shared: &SharedSlot<Waiter>,
) -> Result<Replayed, ReplayError> {
    let epoch = shared.lock().epoch;
    let bounds = inner.log.bounds(partition, epoch).map_err(ReplayError::Log)?;
    let work = replay(inner.clone(), partition, shared.clone(), bounds);
    if bounds.end.saturating_sub(bounds.start) <= ASIDE_FROM {
        return work.await;
    }
    // Nobody closes it; without a permit the load is only less orderly.
    let _turn = inner.loads.acquire().await;
    let runtime = inner.runtime.clone();
    let done = inner.runtime.spawn_blocking(move || runtime.block_on(work)).await;
    done.unwrap_or(Err(ReplayError::Log(ErrorCode::UnknownServerError)))
}

async fn replay(
    inner: Arc<Inner>,
    partition: PartitionId,
    shared: SharedSlot<Waiter>,
    bounds: Bounds,
) -> Result<Replayed, ReplayError> {
    let mut shard = Box::new(Shard::new(inner.settings.clone()));
    let mut replay = Replay::new(bounds.start);
    loop {
        let epoch = match &*shared.lock() {
            slot if replay.next < bounds.end && matches!(slot.role, Role::Loading) => slot.epoch,
            _ => return Ok((shard, replay, bounds.end)),
        };
        let read = inner.log.read(partition, epoch, replay.next, inner.settings.load_buffer_bytes);
        let chunk = read.await.map_err(ReplayError::Log)?;
        replay.chunk(&chunk.bytes, chunk.high_watermark, &mut shard, inner.clock.now())?;
    }
}
