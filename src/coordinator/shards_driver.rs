//! The shell that waits, of shards that keep transactions or share state: it loads them from the log
//! when this broker is elected, carries out what they decide, wakes them for their deadlines, and
//! tells them of the high watermark. A shard is loaded up to a *committed* end of its log. May wait;
//! every machine step runs with one slot locked and without waiting.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
};

use super::{
    batches::ReplayError,
    machine::{Job, Load, LoadStep, Machine},
    ports::OffsetsLog,
    table::{Role, SharedSlot, Slot, Table, partition_for},
};
use crate::base::{ErrorCode, Mono, Now, PartitionId, ports::Clock};

/// The timer looks at the clock at least this often.
const TIMER_REST_MAX: Duration = Duration::from_secs(60);

pub(super) type Waiter<H> = oneshot::Sender<<Shard<H> as Machine>::Reply>;
pub(super) type Shard<H> = <H as Host>::Shard;
pub(super) type Shared<H> = SharedSlot<Waiter<H>, Shard<H>>;
type At<H> = <Shard<H> as Machine>::At;
type Effect<H> = <Shard<H> as Machine>::Effect;

/// What one kind of shard needs beside the shell.
pub(super) trait Host: Send + Sync + fmt::Debug + Sized + 'static {
    /// The shard.
    type Shard: Machine;
    /// What it keeps, for the broker's log.
    const KEEPS: &'static str;

    /// A shard that has read nothing yet.
    fn shard(&self) -> Self::Shard;
    /// The present as a shard sees it.
    fn at(&self, now: Now) -> At<Self>;
    /// Sorts an effect.
    fn job(&self, effect: Effect<Self>, at: At<Self>) -> Job<Self::Shard>;
    /// Carries out an effect of its own, with the slot locked: without waiting.
    fn own(
        shell: &Arc<Shell<Self>>,
        place: (PartitionId, i32),
        shared: &Shared<Self>,
        effect: Effect<Self>,
    );
    /// The shard has read all, and all is committed.
    fn loaded(&self, shard: &mut Self::Shard, at: At<Self>, out: &mut Vec<Effect<Self>>);
    /// How many it keeps, and how many of these are open.
    fn size(shard: &Self::Shard) -> (usize, usize);
}

/// The shards of one internal topic that this broker leads.
#[derive(Debug)]
pub(super) struct Shell<H: Host> {
    pub(super) host: H,
    table: Table<Waiter<H>, H::Shard>,
    log: Arc<dyn OffsetsLog>,
    clock: Arc<dyn Clock>,
    pub(super) runtime: Handle,
    load_buffer_bytes: usize,
    /// Partitions of the topic.
    partitions: AtomicI32,
    /// When the timer will wake, as [`Mono`].
    wakes_at: AtomicU64,
    /// Wakes the timer early.
    earlier: Notify,
    /// Whether shards may be loaded.
    serving: watch::Sender<bool>,
    pub(super) stopped: watch::Sender<bool>,
}

impl<H: Host> Shell<H> {
    /// Starts without any partition, and with the timer. `partitions` counts until the topic's own
    /// number is known; a read of the log asks for `load_buffer_bytes`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn start(
        host: H,
        log: Arc<dyn OffsetsLog>,
        clock: Arc<dyn Clock>,
        partitions: i32,
        load_buffer_bytes: usize,
    ) -> Arc<Self> {
        let shell = Arc::new(Self {
            host,
            table: Table::default(),
            log,
            clock,
            runtime: Handle::current(),
            load_buffer_bytes,
            partitions: AtomicI32::new(partitions),
            wakes_at: AtomicU64::new(Mono::NEVER.0),
            earlier: Notify::new(),
            serving: watch::Sender::new(true),
            stopped: watch::Sender::new(false),
        });
        shell.runtime.spawn(timer(Arc::clone(&shell)));
        shell
    }

    /// Shards are not loaded before [`Shell::serve`]: a broker that was started anew does not act for
    /// partitions that it led in its last life, until the controller knows of this one and it knows
    /// who leads now. What it would write in the meantime would be of an epoch in which others may
    /// have written something else at the same offsets, which it has lost.
    pub(super) fn hold(&self) {
        self.serving.send_replace(false);
    }

    /// Shards are loaded from now on.
    pub(super) fn serve(&self) {
        self.serving.send_replace(true);
    }

    /// Waits until shards may be loaded. `false` if the broker stops first.
    async fn may_load(&self) -> bool {
        let (mut serving, mut stopped) = (self.serving.subscribe(), self.stopped.subscribe());
        tokio::select! {
            served = async { serving.wait_for(|s| *s).await.is_ok() } => served,
            () = async { _ = stopped.wait_for(|s| *s).await } => false,
        }
    }

    /// Leaves all partitions and ends the tasks. Waiting requests get `NotCoordinator`.
    pub(super) fn stop(&self) {
        self.stopped.send_replace(true);
        for (partition, _) in self.table.all() {
            self.resigned(partition, None);
        }
    }

    /// How many partitions the topic has.
    pub(super) fn set_partition_count(&self, count: i32) {
        self.partitions.store(count, Ordering::Release);
    }

    /// As [`Shell::set_partition_count`] was told.
    pub(super) fn partition_count(&self) -> i32 {
        self.partitions.load(Ordering::Acquire)
    }

    /// The partition that keeps `id`: its leader is the coordinator.
    pub(super) fn partition_of(&self, id: &str) -> PartitionId {
        partition_for(id, self.partition_count())
    }

    /// This broker leads `partition` since `epoch`: the shard is loaded, and takes calls once it is.
    /// Told again, or of a higher epoch while it leads already, it keeps what it has.
    pub(super) fn elected(self: &Arc<Self>, partition: PartitionId, epoch: i32) {
        if *self.stopped.borrow() {
            return;
        }
        if let Some(slot) = self.table.elect(partition, epoch) {
            tracing::debug!(partition, epoch, "loading {}", H::KEEPS);
            self.runtime.spawn(load(Arc::clone(self), partition, slot));
        }
    }

    /// This broker does not lead `partition` any more, as of `epoch` (`None`: the partition is
    /// gone). Waiting requests get `NotCoordinator`.
    pub(super) fn resigned(&self, partition: PartitionId, epoch: Option<i32>) {
        let Some(slot) = self.table.resign(partition, epoch) else { return };
        let mut slot = slot.lock();
        let mut out = Vec::new();
        if let Role::Active(shard) = std::mem::replace(&mut slot.role, Role::Gone) {
            shard.unload(&mut out);
            tracing::debug!(partition, epoch = slot.epoch, "unloaded {}", H::KEEPS);
        }
        let at = self.host.at(self.clock.now());
        for effect in out {
            if let Job::Reply(token, reply) = self.host.job(effect, at) {
                answer(&mut slot, token, reply);
            }
        }
    }

    /// Hands `call` to the shard of `partition` and waits for the reply.
    ///
    /// # Errors
    /// `NotCoordinator`, `CoordinatorLoadInProgress`.
    pub(super) async fn ask(
        self: &Arc<Self>,
        partition: PartitionId,
        call: <H::Shard as Machine>::Call,
    ) -> Result<<H::Shard as Machine>::Reply, ErrorCode> {
        let reply = self.submit(partition, call)?;
        reply.await.map_err(|_| ErrorCode::NotCoordinator)
    }

    /// As [`Shell::ask`], without waiting.
    ///
    /// # Errors
    /// As there.
    pub(super) fn submit(
        self: &Arc<Self>,
        partition: PartitionId,
        call: <H::Shard as Machine>::Call,
    ) -> Result<oneshot::Receiver<<H::Shard as Machine>::Reply>, ErrorCode> {
        let shared = self.table.get(partition).ok_or(ErrorCode::NotCoordinator)?;
        let mut slot = shared.lock();
        slot.shard()?;
        let (waiter, reply) = oneshot::channel();
        let token = slot.park(waiter);
        self.step(partition, &shared, &mut slot, |shard, at, out| {
            shard.handle(token, call, at, out);
        });
        Ok(reply)
    }

    /// Slots of all partitions that are led here, loaded or not.
    pub(super) fn all(&self) -> Vec<(PartitionId, Shared<H>)> {
        self.table.all()
    }

    /// The slot of a partition that is led here.
    ///
    /// # Errors
    /// `NotCoordinator`.
    pub(super) fn slot(&self, partition: PartitionId) -> Result<Shared<H>, ErrorCode> {
        self.table.get(partition).ok_or(ErrorCode::NotCoordinator)
    }

    /// Runs one step of an active shard and carries out its effects.
    pub(super) fn step(
        self: &Arc<Self>,
        partition: PartitionId,
        shared: &Shared<H>,
        slot: &mut Slot<Waiter<H>, H::Shard>,
        f: impl FnOnce(&mut H::Shard, At<H>, &mut Vec<Effect<H>>),
    ) {
        let at = self.host.at(self.clock.now());
        let mut out = Vec::new();
        match slot.shard() {
            Ok(shard) => f(shard, at, &mut out),
            Err(_) => return,
        }
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                match self.host.job(effect, at) {
                    Job::Reply(token, reply) => answer(slot, token, reply),
                    Job::Append(ticket, batch) => {
                        let append = |batch| self.log.append(partition, slot.epoch, batch);
                        let result = batch.and_then(append);
                        if let Err(error) = result {
                            let error = error.name();
                            tracing::warn!(partition, error, "an append was refused");
                        }
                        if let Ok(shard) = slot.shard() {
                            shard.appended(ticket, result, at, &mut out);
                        }
                    }
                    Job::Own(effect) => H::own(self, (partition, slot.epoch), shared, effect),
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
            self.runtime.spawn(watch_commits(Arc::clone(self), partition, shared.clone()));
        }
    }
}

fn answer<R, S>(slot: &mut Slot<oneshot::Sender<R>, S>, token: u64, reply: R) {
    if let Some(waiter) = slot.unpark(token) {
        // The client may have gone; the state stands all the same.
        let _ = waiter.send(reply);
    }
}

/// The timer of all shards: sleeps until the earliest deadline of any.
async fn timer<H: Host>(shell: Arc<Shell<H>>) {
    let mut stopped = shell.stopped.subscribe();
    while !*stopped.borrow_and_update() {
        shell.wakes_at.store(Mono::NEVER.0, Ordering::Release);
        let now = shell.clock.now().mono;
        let mut earliest = Mono::NEVER;
        for (partition, shared) in shell.table.all() {
            let mut slot = shared.lock();
            let due = |slot: &mut Slot<_, H::Shard>| {
                slot.shard().map_or(Mono::NEVER, |shard| shard.next_deadline())
            };
            if due(&mut slot) <= now {
                shell.step(partition, &shared, &mut slot, H::Shard::on_deadline);
            }
            earliest = earliest.min(due(&mut slot));
        }
        let earliest = earliest.0.min(shell.wakes_at.fetch_min(earliest.0, Ordering::AcqRel));
        let rest = Mono(earliest).since(shell.clock.now().mono).min(TIMER_REST_MAX);
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = shell.earlier.notified() => {}
            _ = stopped.changed() => {}
        }
    }
}

/// Tells one shard of the high watermark until nothing of it lies above.
async fn watch_commits<H: Host>(shell: Arc<Shell<H>>, partition: PartitionId, shared: Shared<H>) {
    let mut stopped = shell.stopped.subscribe();
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
            passed = shell.log.committed(partition, epoch, offset) => passed,
            _ = stopped.changed() => return,
        };
        let mut slot = shared.lock();
        match passed {
            Ok(high_watermark) => shell.step(partition, &shared, &mut slot, |shard, at, out| {
                shard.committed(high_watermark, at, out);
            }),
            // Elected again meanwhile: the new epoch is asked.
            Err(_) if slot.epoch != epoch => {}
            Err(error) => {
                // What was written stays undecided until the resignation or the next append.
                shell.step(partition, &shared, &mut slot, |shard, _, out| {
                    shard.commit_lost(error, out);
                });
                slot.watching = false;
                return;
            }
        }
    }
}

/// Replays the log of a partition and makes its shard active.
async fn load<H: Host>(shell: Arc<Shell<H>>, partition: PartitionId, shared: Shared<H>) {
    if !shell.may_load().await {
        return;
    }
    let began = shell.clock.now().mono;
    let (loaded, mut slot) = loop {
        let epoch = shared.lock().epoch;
        let loaded = replay(&shell, partition, &shared).await;
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
        Ok(load) => {
            let (shard, replay) = load.done();
            let (count, open) = H::size(&shard);
            let took = shell.clock.now().mono.since(began);
            let (records, damaged) = (replay.taken, replay.damaged);
            if let Some(cause) = replay.first_damage {
                tracing::error!(partition, damaged, %cause, "records cannot be read; passed over");
            }
            if records > 0 {
                tracing::info!(partition, count, open, records, ?took, "loaded {}", H::KEEPS);
            }
            slot.role = Role::Active(shard);
            shell.step(partition, &shared, &mut slot, |shard, at, out| {
                shell.host.loaded(shard, at, out);
            });
        }
        Err(error) => {
            tracing::error!(partition, %error, "{} cannot be loaded", H::KEEPS);
            slot.role = Role::Failed;
        }
    }
}

async fn replay<H: Host>(
    shell: &Shell<H>,
    partition: PartitionId,
    shared: &Shared<H>,
) -> Result<Load<H::Shard>, ReplayError> {
    let epoch = || shared.lock().epoch;
    let bounds = shell.log.bounds(partition, epoch()).map_err(ReplayError::Log)?;
    let mut load = Load::new(shell.host.shard(), bounds);
    let mut stopped = shell.stopped.subscribe();
    while matches!(shared.lock().role, Role::Loading) {
        let asked = epoch();
        match load.next() {
            LoadStep::Read(from) => {
                let read = shell.log.read(partition, asked, from, shell.load_buffer_bytes);
                load.chunk(&read.await.map_err(ReplayError::Log)?.bytes)?;
            }
            LoadStep::Commit(offset) => {
                let passed = tokio::select! {
                    passed = shell.log.committed(partition, asked, offset) => passed,
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
