//! The shell of transactions that waits: it loads shards from the log when this broker is elected,
//! carries out what they decide, wakes them for their deadlines, and tells them of the high
//! watermark. May wait; every machine step runs with one slot locked and without waiting.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI16, AtomicI32, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc, oneshot, watch},
};

use super::{
    batches::ReplayError,
    markers_driver::{self, Piece},
    ports::OffsetsLog,
    table::{Role, SharedSlot, Slot, Table, partition_for},
    txn_batches::{LoadStep, TxnLoad, encode},
    txn_calls::{AddCall, At, DescribedTxn, EndCall, InitCall, ListedTxn, Producer},
    txn_calls::{TxnCall, TxnEffect, TxnReply},
    txn_ports::TxnBroker,
    txn_records::TopicPartition,
    txn_settings::TxnSettings,
    txn_shard::TxnShard,
};
use crate::base::{ErrorCode, Mono, Offset, PartitionId, ports::Clock};

type Waiter = oneshot::Sender<TxnReply>;
type Shared = SharedSlot<Waiter, TxnShard>;

/// The timer looks at the clock at least this often.
const TIMER_REST_MAX: Duration = Duration::from_secs(60);

/// The transactions this broker coordinates. A cheap handle; clones share everything.
#[derive(Debug, Clone)]
pub struct Transactions {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    table: Table<Waiter, TxnShard>,
    log: Arc<dyn OffsetsLog>,
    pub(super) broker: Arc<dyn TxnBroker>,
    clock: Arc<dyn Clock>,
    pub(super) settings: Arc<TxnSettings>,
    pub(super) runtime: Handle,
    /// Partitions of `__transaction_state`.
    partitions: AtomicI32,
    /// The finalized level of `transaction.version`.
    transaction_version: AtomicI16,
    /// How new metadata must be to say that a partition is gone: as the latest election here.
    as_of: AtomicI64,
    /// Shards loaded so far: each counts its endings from its own number on.
    loads: AtomicU64,
    /// When the timer will wake, as [`Mono`].
    wakes_at: AtomicU64,
    /// Wakes the timer early.
    earlier: Notify,
    /// To the task that writes markers. Holds at most a few pieces for each transaction that ends.
    pub(super) markers: mpsc::UnboundedSender<Piece>,
    /// Whether shards may be loaded.
    serving: watch::Sender<bool>,
    pub(super) stopped: watch::Sender<bool>,
}

impl Transactions {
    /// Starts without any partition, with the timer and the task that writes markers.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(
        log: Arc<dyn OffsetsLog>,
        broker: Arc<dyn TxnBroker>,
        clock: Arc<dyn Clock>,
        settings: TxnSettings,
    ) -> Self {
        let runtime = Handle::current();
        let (markers, pieces) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            table: Table::default(),
            log,
            broker,
            clock,
            partitions: AtomicI32::new(settings.partitions),
            transaction_version: AtomicI16::new(0),
            as_of: AtomicI64::new(0),
            settings: Arc::new(settings),
            runtime: runtime.clone(),
            loads: AtomicU64::new(0),
            wakes_at: AtomicU64::new(Mono::NEVER.0),
            earlier: Notify::new(),
            markers,
            serving: watch::Sender::new(true),
            stopped: watch::Sender::new(false),
        });
        runtime.spawn(timer(inner.clone()));
        runtime.spawn(markers_driver::run(inner.clone(), pieces));
        Self { inner }
    }

    /// Shards are not loaded before [`Transactions::serve`]: a broker that was started anew does not act for
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

    /// How many partitions `__transaction_state` has. Called before the elections of its
    /// partitions.
    pub fn set_partition_count(&self, count: i32) {
        self.inner.partitions.store(count, Ordering::Release);
    }

    /// The finalized level of `transaction.version`: how the log is written, and how transactions are
    /// aborted that no client ends.
    pub fn set_transaction_version(&self, level: i16) {
        self.inner.transaction_version.store(level, Ordering::Release);
    }

    /// This broker leads `partition` since `epoch`, as the metadata record at offset `as_of` or one
    /// before it says: the shard is loaded, and takes calls once it is. Told again, or of a higher
    /// epoch while it leads already, it keeps what it has.
    pub fn elected(&self, partition: PartitionId, epoch: i32, as_of: Offset) {
        if *self.inner.stopped.borrow() {
            return;
        }
        self.inner.as_of.fetch_max(as_of, Ordering::AcqRel);
        if let Some(slot) = self.inner.table.elect(partition, epoch) {
            tracing::debug!(partition, epoch, "loading transactions");
            self.inner.runtime.spawn(load(self.inner.clone(), partition, slot));
        }
    }

    /// This broker does not lead `partition` any more, as of `epoch` (`None`: the partition is
    /// gone). Waiting requests get `NotCoordinator`; markers are written no further.
    pub fn resigned(&self, partition: PartitionId, epoch: Option<i32>) {
        let Some(slot) = self.inner.table.resign(partition, epoch) else { return };
        let mut slot = slot.lock();
        let mut out = Vec::new();
        if let Role::Active(shard) = std::mem::replace(&mut slot.role, Role::Gone) {
            shard.unload(&mut out);
            tracing::debug!(partition, epoch = slot.epoch, "unloaded transactions");
        }
        for effect in out {
            answer(&mut slot, effect);
        }
    }

    /// The partition of `__transaction_state` that keeps `id`: its leader is the coordinator.
    #[must_use]
    pub fn partition_of(&self, id: &str) -> PartitionId {
        partition_for(id, self.inner.partitions.load(Ordering::Acquire))
    }

    /// InitProducerId with a transactional id.
    ///
    /// # Errors
    /// `InvalidRequest`, `InvalidTransactionTimeout`, `ConcurrentTransactions`, `ProducerFenced`,
    /// `NotCoordinator`, `CoordinatorLoadInProgress`, `CoordinatorNotAvailable`.
    pub async fn init(&self, call: InitCall) -> Result<Producer, ErrorCode> {
        let valid = 1..=self.inner.settings.max_timeout_ms;
        if !call.id.is_empty() && !valid.contains(&call.timeout_ms) {
            return Err(ErrorCode::InvalidTransactionTimeout);
        }
        producer(self.ask(TxnCall::Init(call)).await)
    }

    /// AddPartitionsToTxn and AddOffsetsToTxn: what they answer for every partition.
    pub async fn add(&self, call: AddCall) -> ErrorCode {
        match self.ask(TxnCall::Add(call)).await {
            Ok(TxnReply::Added(error)) | Err(error) => error,
            Ok(other) => unreachable!("a call was answered with {other:?}"),
        }
    }

    /// AddPartitionsToTxn that only asks which partitions are in the transaction.
    ///
    /// # Errors
    /// `InvalidRequest`, `InvalidProducerIdMapping`, `ProducerFenced`, `ConcurrentTransactions`,
    /// `NotCoordinator`, `CoordinatorLoadInProgress`.
    pub async fn verify(&self, call: AddCall) -> Result<Vec<(TopicPartition, bool)>, ErrorCode> {
        match self.ask(TxnCall::Verify(call)).await? {
            TxnReply::Verified(found) => found,
            other => unreachable!("a call was answered with {other:?}"),
        }
    }

    /// EndTxn: what the producer goes on as.
    ///
    /// # Errors
    /// `InvalidRequest`, `InvalidProducerIdMapping`, `ProducerFenced`, `ConcurrentTransactions`,
    /// `InvalidTxnState`, `NotCoordinator`, `CoordinatorLoadInProgress`, `CoordinatorNotAvailable`.
    pub async fn end(&self, call: EndCall) -> Result<Producer, ErrorCode> {
        producer(self.ask(TxnCall::End(call)).await)
    }

    async fn ask(&self, call: TxnCall) -> Result<TxnReply, ErrorCode> {
        if call.id().is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let partition = self.partition_of(call.id());
        let slot = self.inner.table.get(partition).ok_or(ErrorCode::NotCoordinator)?;
        let reply = self.inner.submit(partition, &slot, call)?;
        drop(slot);
        reply.await.map_err(|_| ErrorCode::NotCoordinator)
    }

    /// One transactional id in full.
    ///
    /// # Errors
    /// `InvalidRequest`, `TransactionalIdNotFound`, `NotCoordinator`, `CoordinatorLoadInProgress`.
    pub fn describe(&self, id: &str) -> Result<DescribedTxn, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let slot = self.inner.table.get(self.partition_of(id)).ok_or(ErrorCode::NotCoordinator)?;
        let mut slot = slot.lock();
        slot.shard()?.describe(id).ok_or(ErrorCode::TransactionalIdNotFound)
    }

    /// The transactional ids of all shards here that `keep` lets through. One that loads makes the
    /// whole an error, so that nobody takes the list for complete.
    ///
    /// # Errors
    /// `CoordinatorLoadInProgress`.
    pub fn list(&self, keep: impl Fn(&ListedTxn) -> bool) -> Result<Vec<ListedTxn>, ErrorCode> {
        let mut found = Vec::new();
        for (_, slot) in self.inner.table.all() {
            match slot.lock().shard() {
                Ok(shard) => found.extend(shard.list(&keep)),
                // Left between two looks, or unreadable: others may serve it.
                Err(ErrorCode::NotCoordinator) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

fn producer(reply: Result<TxnReply, ErrorCode>) -> Result<Producer, ErrorCode> {
    match reply? {
        TxnReply::Producer(producer) => producer,
        other => unreachable!("a call was answered with {other:?}"),
    }
}

impl Inner {
    fn submit(
        self: &Arc<Self>,
        partition: PartitionId,
        shared: &Shared,
        call: TxnCall,
    ) -> Result<oneshot::Receiver<TxnReply>, ErrorCode> {
        let mut slot = shared.lock();
        slot.shard()?;
        let (waiter, reply) = oneshot::channel();
        let token = slot.park(waiter);
        self.step(partition, shared, &mut slot, |shard, at, out| {
            shard.handle(token, call, at, out);
        });
        Ok(reply)
    }

    fn at(&self) -> At {
        let transaction_version = self.transaction_version.load(Ordering::Acquire);
        At { now: self.clock.now(), transaction_version }
    }

    /// Runs one step of an active shard and carries out its effects.
    fn step(
        self: &Arc<Self>,
        partition: PartitionId,
        shared: &Shared,
        slot: &mut Slot<Waiter, TxnShard>,
        f: impl FnOnce(&mut TxnShard, At, &mut Vec<TxnEffect>),
    ) {
        let at = self.at();
        let mut out = Vec::new();
        match slot.shard() {
            Ok(shard) => f(shard, at, &mut out),
            Err(_) => return,
        }
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                match effect {
                    TxnEffect::Reply { .. } => answer(slot, effect),
                    TxnEffect::Append { ticket, records } => {
                        let result = encode(&records, at.transaction_version, at.now.wall_ms)
                            .and_then(|batch| self.log.append(partition, slot.epoch, batch));
                        if let Err(error) = result {
                            let error = error.name();
                            tracing::warn!(partition, error, "an append was refused");
                        }
                        if let Ok(shard) = slot.shard() {
                            shard.appended(ticket, result, at, &mut out);
                        }
                    }
                    // The receiver is gone when the broker stops.
                    TxnEffect::Mark(markers) => {
                        _ = self.markers.send(Piece::new(partition, markers));
                    }
                    TxnEffect::WantProducerId => {
                        self.runtime.spawn(get_producer_id(
                            self.clone(),
                            partition,
                            shared.clone(),
                        ));
                    }
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

    // For `markers_driver`.

    /// The coordinator epoch under which the markers of that ending are to be written; `None` if
    /// they are not wanted any more.
    pub(super) fn marker_epoch(&self, piece: &Piece) -> Option<i32> {
        let slot = self.table.get(piece.partition)?;
        let mut slot = slot.lock();
        let epoch = slot.epoch;
        let shard = slot.shard().ok()?;
        shard.wants_markers(&piece.markers.id, piece.markers.run).then_some(epoch)
    }

    /// These partitions have the markers of that ending, or need none.
    pub(super) fn marked(self: &Arc<Self>, piece: &Piece, partitions: &[TopicPartition]) {
        let Some(shared) = self.table.get(piece.partition) else { return };
        let mut slot = shared.lock();
        let (id, run) = (&piece.markers.id, piece.markers.run);
        self.step(piece.partition, &shared, &mut slot, |shard, at, out| {
            shard.marked(id, run, partitions, at, out);
        });
    }

    /// How new metadata must be to say that a partition is gone.
    pub(super) fn as_of(&self) -> Offset {
        self.as_of.load(Ordering::Acquire)
    }
}

fn answer(slot: &mut Slot<Waiter, TxnShard>, effect: TxnEffect) {
    if let TxnEffect::Reply { token, reply } = effect
        && let Some(waiter) = slot.unpark(token)
    {
        // The client may have gone; the state stands all the same.
        let _ = waiter.send(reply);
    }
}

async fn get_producer_id(inner: Arc<Inner>, partition: PartitionId, shared: Shared) {
    let got = inner.broker.producer_id().await;
    let mut slot = shared.lock();
    inner.step(partition, &shared, &mut slot, |shard, at, out| shard.producer_id(got, at, out));
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
            let due = |slot: &mut Slot<_, TxnShard>| {
                slot.shard().map_or(Mono::NEVER, |shard| shard.next_deadline())
            };
            if due(&mut slot) <= now {
                inner.step(partition, &shared, &mut slot, TxnShard::on_deadline);
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
async fn watch_commits(inner: Arc<Inner>, partition: PartitionId, shared: Shared) {
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
            Ok(high_watermark) => inner.step(partition, &shared, &mut slot, |shard, at, out| {
                shard.committed(high_watermark, at, out);
            }),
            // Elected again meanwhile: the new epoch is asked.
            Err(_) if slot.epoch != epoch => {}
            Err(error) => {
                // What was written stays undecided until the resignation or the next append.
                inner.step(partition, &shared, &mut slot, |shard, _, out| {
                    shard.commit_lost(error, out);
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
async fn load(inner: Arc<Inner>, partition: PartitionId, shared: Shared) {
    if !inner.may_load().await {
        return;
    }
    let began = inner.clock.now().mono;
    let loaded = replay(&inner, partition, &shared).await;
    let mut slot = shared.lock();
    if !matches!(slot.role, Role::Loading) {
        return;
    }
    match loaded {
        Ok(load) => {
            let (shard, replay) = load.done();
            let (ids, open) = shard.size();
            let took = inner.clock.now().mono.since(began);
            let (records, damaged) = (replay.taken, replay.damaged);
            if let Some(cause) = replay.first_damage {
                tracing::error!(partition, damaged, %cause, "records cannot be read; passed over");
            }
            if records > 0 {
                tracing::info!(partition, ids, open, records, ?took, "loaded transactions");
            }
            slot.role = Role::Active(shard);
            inner.step(partition, &shared, &mut slot, TxnShard::loaded);
        }
        Err(error) => {
            tracing::error!(partition, %error, "transactions cannot be loaded");
            slot.role = Role::Failed;
        }
    }
}

async fn replay(
    inner: &Inner,
    partition: PartitionId,
    shared: &Shared,
) -> Result<TxnLoad, ReplayError> {
    let epoch = || shared.lock().epoch;
    let first_run = inner.loads.fetch_add(1, Ordering::AcqRel) << 32;
    let shard = TxnShard::new(inner.settings.clone(), first_run);
    let bounds = inner.log.bounds(partition, epoch()).map_err(ReplayError::Log)?;
    let mut load = TxnLoad::new(shard, bounds);
    let mut stopped = inner.stopped.subscribe();
    while matches!(shared.lock().role, Role::Loading) {
        let asked = epoch();
        match load.next() {
            LoadStep::Read(from) => {
                let bytes = inner.settings.load_buffer_bytes;
                let read = inner.log.read(partition, asked, from, bytes);
                load.chunk(&read.await.map_err(ReplayError::Log)?.bytes)?;
            }
            LoadStep::Commit(offset) => {
                let passed = tokio::select! {
                    passed = inner.log.committed(partition, asked, offset) => passed,
                    _ = stopped.changed() => break,
                };
                match passed {
                    Ok(_) => load.committed(),
                    Err(_) if epoch() != asked => {}
                    Err(error) => return Err(ReplayError::Log(error)),
                }
            }
            LoadStep::Done => break,
        }
    }
    Ok(load)
}
