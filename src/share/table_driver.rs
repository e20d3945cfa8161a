//! The share partitions of this broker and its share sessions (`SharePartitionManager`,
//! `SharePartitionCache`): loaded when they are first fetched from, written when members acknowledge,
//! let go of when the partition is led elsewhere, is deleted, or nobody of the group is left. One timer for
//! all locks. May wait; a machine's step never does.
//!
//! Locks, in this order: the sessions, the table, one share partition, the replica it lies over; never
//! two share partitions, never across a wait.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot, watch},
};

use super::{
    acknowledge::AckBatch,
    leavers::Leavers,
    partition::{SharePartition, WriteNo},
    session::{Disconnected, Ended, PartitionKey, SessionKey, ShareSessions},
    settings::{GroupSettings, OffsetReset, ShareSettings},
};
use crate::{
    base::{ErrorCode, Mono, Now, Offset, ports::Clock},
    coordinator::share_persister::{ShareKey, SharePersister, ShareWrite},
    replica::{bell::Listeners, partition::Isolation, table::ReplicaTable},
};

/// The timer looks at the clock at least this often.
const TIMER_REST_MAX: Duration = Duration::from_secs(60);

/// What becomes of acknowledgements.
pub type Acked = Result<(), ErrorCode>;

/// What a slot is.
#[derive(Debug)]
pub(super) enum Role {
    /// The share coordinator is being asked.
    Loading,
    /// Serves members.
    Active(Box<SharePartition>),
    /// Has left the table, for this reason.
    Gone(ErrorCode),
}

/// What the lock of a share partition protects.
#[derive(Debug)]
pub(super) struct State {
    pub(super) role: Role,
    /// Fetches that found nothing to acquire.
    pub(super) waiting: Listeners,
    /// Who waits for a write.
    acks: Vec<(WriteNo, oneshot::Sender<Acked>)>,
    /// When the timer looks at it.
    scheduled: Mono,
}

/// A share partition and its lock.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) key: ShareKey,
    id: u64,
    pub(super) leader_epoch: i32,
    state: Mutex<State>,
}

impl Slot {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The share partitions this broker leads. A cheap handle; clones share everything.
#[derive(Debug, Clone)]
pub struct SharePartitions {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) replicas: Arc<ReplicaTable>,
    persister: Arc<dyn SharePersister>,
    pub(super) settings: Arc<dyn GroupSettings>,
    pub(super) clock: Arc<dyn Clock>,
    runtime: Handle,
    sessions: Mutex<ShareSessions>,
    table: RwLock<BTreeMap<ShareKey, Arc<Slot>>>,
    /// By when they are due, and their id.
    timers: Mutex<BTreeMap<(Mono, u64), Weak<Slot>>>,
    /// Wakes the timer early.
    earlier: Notify,
    next_id: AtomicU64,
    stopped: watch::Sender<bool>,
}

impl SharePartitions {
    /// Starts without any share partition, and with the timer. At most `sessions_max` members may
    /// have a session (`group.share.max.share.sessions`).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(
        replicas: Arc<ReplicaTable>,
        persister: Arc<dyn SharePersister>,
        settings: Arc<dyn GroupSettings>,
        clock: Arc<dyn Clock>,
        sessions_max: usize,
    ) -> Self {
        let inner = Arc::new(Inner {
            replicas,
            persister,
            settings,
            clock,
            runtime: Handle::current(),
            sessions: Mutex::new(ShareSessions::new(sessions_max)),
            table: RwLock::default(),
            timers: Mutex::default(),
            earlier: Notify::new(),
            next_id: AtomicU64::new(0),
            stopped: watch::Sender::new(false),
        });
        inner.runtime.spawn(timer(Arc::downgrade(&inner), inner.stopped.subscribe()));
        Self { inner }
    }

    /// Lets go of everything, and ends the timer.
    pub fn stop(&self) {
        self.inner.stopped.send_replace(true);
        self.inner.remove_where(ErrorCode::NotLeaderOrFollower, |_, _| true);
    }

    /// The sessions.
    pub fn sessions(&self) -> MutexGuard<'_, ShareSessions> {
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings of `group` as they are now.
    #[must_use]
    pub fn settings_of(&self, group: &str) -> ShareSettings {
        self.inner.settings.of(group)
    }

    /// Those partitions are led by this broker no longer, or under another epoch, or deleted.
    pub fn left(&self, leavers: &Leavers) {
        let is_left =
            |key: &ShareKey, leader_epoch| leavers.has(key.topic, key.partition, leader_epoch);
        self.inner.remove_where(ErrorCode::NotLeaderOrFollower, is_left);
    }

    /// Takes over what a member says of records of one partition. The answer comes when it is
    /// written.
    pub fn acknowledge(
        &self,
        session: &SessionKey,
        partition: PartitionKey,
        acks: &[AckBatch],
    ) -> oneshot::Receiver<Acked> {
        let (tell, told) = oneshot::channel();
        let Some(slot) = self.inner.find(&session.group, partition) else {
            // Nobody waits, or the receiver is here.
            let _ = tell.send(Err(ErrorCode::UnknownTopicOrPartition));
            return told;
        };
        let settings = self.inner.settings.of(&session.group);
        let now = self.inner.clock.now();
        let mut state = slot.lock();
        let done = match &mut state.role {
            Role::Active(p) => p.acknowledge(&session.member, acks, &settings, now),
            Role::Loading => Err(ErrorCode::InvalidRecordState),
            Role::Gone(_) => Err(ErrorCode::UnknownTopicOrPartition),
        };
        match done {
            Ok(Some(write)) => state.acks.push((write, tell)),
            Ok(None) => _ = tell.send(Ok(())),
            Err(code) => _ = tell.send(Err(code)),
        }
        self.inner.settle(&slot, &mut state);
        told
    }

    /// The session of a member is over: what it has acquired goes back.
    pub fn end_session(&self, key: &SessionKey) {
        let mut sessions = self.sessions();
        let Some(ended) = sessions.end(key) else { return };
        let deserted = !sessions.has_group(&key.group);
        drop(sessions);
        self.inner.release(&ended);
        if deserted {
            self.inner.desert(&key.group);
        }
    }

    /// A connection ended, and with it the session that it opened.
    pub fn disconnected(&self, conn: u64) {
        let Disconnected { ended, deserted } = self.sessions().disconnected(conn);
        if let Some(ended) = ended {
            self.inner.release(&ended);
        }
        if let Some(group) = deserted {
            self.inner.desert(&group);
        }
    }
}

impl Inner {
    pub(super) fn find(&self, group: &Arc<str>, partition: PartitionKey) -> Option<Arc<Slot>> {
        let key = share_key(group, partition);
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// The share partition, which is loaded if it is new.
    ///
    /// # Errors
    /// `NotLeaderOrFollower` if this broker does not lead the partition.
    pub(super) fn find_or_load(
        self: &Arc<Self>,
        group: &Arc<str>,
        partition: PartitionKey,
    ) -> Result<Arc<Slot>, ErrorCode> {
        if let Some(slot) = self.find(group, partition) {
            return Ok(slot);
        }
        let replica = self.replicas.by_id(partition.0, partition.1);
        let replica = replica.ok_or(ErrorCode::NotLeaderOrFollower)?;
        let leader_epoch = {
            let replica = replica.lock();
            replica.check_leader(-1)?;
            replica.leader_epoch()
        };
        let key = share_key(group, partition);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = table.get(&key) {
            return Ok(Arc::clone(slot));
        }
        let slot = Arc::new(Slot {
            key: key.clone(),
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            leader_epoch,
            state: Mutex::new(State {
                role: Role::Loading,
                waiting: Listeners::default(),
                acks: Vec::new(),
                scheduled: Mono::NEVER,
            }),
        });
        table.insert(key, Arc::clone(&slot));
        drop(table);
        self.runtime.spawn(load(Arc::clone(self), Arc::clone(&slot)));
        Ok(slot)
    }

    /// After a step: the timer is set, and what changed is on its way to be written.
    pub(super) fn settle(self: &Arc<Self>, slot: &Arc<Slot>, state: &mut State) {
        let Role::Active(partition) = &mut state.role else { return };
        let due = partition.next_deadline();
        if due < state.scheduled {
            let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            timers.remove(&(state.scheduled, slot.id));
            timers.insert((due, slot.id), Arc::downgrade(slot));
            let first = timers.first_key_value().is_some_and(|((_, id), _)| *id == slot.id);
            drop(timers);
            state.scheduled = due;
            if first {
                self.earlier.notify_one();
            }
        }
        if let Some((no, write)) = partition.begin_write() {
            self.runtime.spawn(write_down(Arc::clone(self), Arc::clone(slot), no, write));
        }
    }

    fn release(self: &Arc<Self>, ended: &Ended) {
        let settings = self.settings.of(&ended.key.group);
        for partition in &ended.partitions {
            let Some(slot) = self.find(&ended.key.group, *partition) else { continue };
            let mut state = slot.lock();
            if let Role::Active(p) = &mut state.role {
                p.release(&ended.key.member, &settings);
            }
            self.settle(&slot, &mut state);
        }
    }

    /// Nobody of `group` has a session here any more: what it has goes once it is written, and is
    /// loaded anew when somebody comes, who may find offsets that were altered meanwhile.
    fn desert(&self, group: &Arc<str>) {
        let group = |key: &ShareKey, _| key.group == *group;
        let idle = |slot: &Slot| match &slot.lock().role {
            Role::Active(p) => p.is_written(),
            Role::Loading | Role::Gone(_) => true,
        };
        self.remove_if(ErrorCode::NotLeaderOrFollower, group, idle);
    }

    fn remove_where(&self, code: ErrorCode, which: impl Fn(&ShareKey, i32) -> bool) {
        self.remove_if(code, which, |_| true);
    }

    fn remove_if(
        &self,
        code: ErrorCode,
        which: impl Fn(&ShareKey, i32) -> bool,
        may: impl Fn(&Slot) -> bool,
    ) {
        let mut gone = Vec::new();
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|key, slot| {
            let goes = which(key, slot.leader_epoch) && may(slot);
            if goes {
                gone.push(Arc::clone(slot));
            }
            !goes
        });
        drop(table);
        for slot in gone {
            self.retire(&slot, code);
        }
    }

    /// Takes `slot` out of the table, if it is there still.
    pub(super) fn remove(&self, slot: &Arc<Slot>, code: ErrorCode) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.get(&slot.key).is_some_and(|other| Arc::ptr_eq(other, slot)) {
            table.remove(&slot.key);
        }
        drop(table);
        self.retire(slot, code);
    }

    /// Tells everybody who waits for `slot` that it has left. The write under way goes on, and who
    /// waits for it hears its end.
    fn retire(&self, slot: &Slot, code: ErrorCode) {
        let mut state = slot.lock();
        let under_way = match &state.role {
            Role::Active(p) => p.write_under_way(),
            Role::Loading | Role::Gone(_) => None,
        };
        if !matches!(state.role, Role::Gone(_)) {
            state.role = Role::Gone(code);
        }
        for (no, tell) in std::mem::take(&mut state.acks) {
            if under_way == Some(no) {
                state.acks.push((no, tell));
            } else {
                let _ = tell.send(Err(code));
            }
        }
        state.waiting.ring();
        let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
        timers.remove(&(state.scheduled, slot.id));
    }

    fn leads(&self, slot: &Slot) -> bool {
        let replica = self.replicas.by_id(slot.key.topic, slot.key.partition);
        replica.is_some_and(|replica| {
            let replica = replica.lock();
            replica.leads() && replica.leader_epoch() == slot.leader_epoch
        })
    }

    /// Where a group begins of which nothing is kept (`startOffsetDuringInitialization`).
    fn first_offset(&self, slot: &Slot) -> Result<Offset, ErrorCode> {
        let replica = self.replicas.by_id(slot.key.topic, slot.key.partition);
        let replica = replica.ok_or(ErrorCode::NotLeaderOrFollower)?;
        let now = self.clock.now();
        let timestamp = match self.settings.of(&slot.key.group).offset_reset {
            OffsetReset::Earliest => -2,
            OffsetReset::Latest => -1,
            OffsetReset::ByDuration(ms) => now.wall_ms.saturating_sub(ms).max(0),
        };
        let mut replica = replica.lock();
        replica.check_leader(-1)?;
        let mut offset_for =
            |ts| replica.offset_for(ts, Isolation::ReadUncommitted, now).map_err(|e| e.code);
        match offset_for(timestamp)?.offset {
            // Nothing is as new as that: it begins with what comes.
            -1 => Ok(offset_for(-1)?.offset),
            offset => Ok(offset),
        }
    }
}

fn share_key(group: &Arc<str>, (topic, partition): PartitionKey) -> ShareKey {
    ShareKey { group: Arc::clone(group), topic, partition }
}

/// What members are told of a failure of the share coordinator (`SharePartition.fetchPersisterError`).
fn told_to_members(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::NotCoordinator
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::CoordinatorLoadInProgress => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::GroupIdNotFound | ErrorCode::UnknownTopicOrPartition => code,
        ErrorCode::FencedLeaderEpoch | ErrorCode::FencedStateEpoch => {
            ErrorCode::NotLeaderOrFollower
        }
        _ => ErrorCode::UnknownServerError,
    }
}

/// Asks the share coordinator, once.
async fn load(inner: Arc<Inner>, slot: Arc<Slot>) {
    // Whoever lets go of what is led no longer may have come before it stood in the table.
    if !inner.leads(&slot) {
        inner.remove(&slot, ErrorCode::NotLeaderOrFollower);
        return;
    }
    let read = inner.persister.read(slot.key.clone(), slot.leader_epoch).await;
    let loaded = read.map_err(told_to_members).and_then(|kept| {
        let start = if kept.start_offset < 0 { inner.first_offset(&slot)? } else { -1 };
        SharePartition::load(&kept, start, slot.leader_epoch)
    });
    match loaded {
        Ok(partition) => {
            let mut state = slot.lock();
            if matches!(state.role, Role::Loading) {
                state.role = Role::Active(Box::new(partition));
                state.waiting.ring();
            }
        }
        Err(code) => {
            let ShareKey { group, topic, partition } = &slot.key;
            tracing::debug!(%group, %topic, partition, %code, "a share partition was not loaded");
            inner.remove(&slot, code);
        }
    }
}

/// Writes down what changed, until nothing is left.
async fn write_down(inner: Arc<Inner>, slot: Arc<Slot>, mut no: WriteNo, mut write: ShareWrite) {
    loop {
        let done = inner.persister.write(slot.key.clone(), write).await;
        let done = done.map_err(told_to_members);
        let next = end_write(&inner, &slot, no, done);
        if let Err(code) = done
            && is_fenced(code)
        {
            inner.remove(&slot, code);
            return;
        }
        match next {
            Some(next) => (no, write) = next,
            None => break,
        }
    }
    let deserted =
        !inner.sessions.lock().unwrap_or_else(PoisonError::into_inner).has_group(&slot.key.group);
    if deserted {
        inner.remove(&slot, ErrorCode::NotLeaderOrFollower);
    }
}

fn end_write(
    inner: &Inner,
    slot: &Slot,
    no: WriteNo,
    done: Acked,
) -> Option<(WriteNo, ShareWrite)> {
    let now = inner.clock.now();
    let mut state = slot.lock();
    let next = match &mut state.role {
        Role::Active(p) => {
            p.end_write(done.is_ok(), now.mono);
            p.begin_write()
        }
        Role::Loading | Role::Gone(_) => None,
    };
    for (of, tell) in std::mem::take(&mut state.acks) {
        if of <= no {
            let _ = tell.send(done);
        } else {
            state.acks.push((of, tell));
        }
    }
    state.waiting.ring();
    next
}

/// Whether the share partition must be loaded anew (`SharePartitionManager.fencedSharePartitionHandler`).
fn is_fenced(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotLeaderOrFollower
            | ErrorCode::GroupIdNotFound
            | ErrorCode::UnknownTopicOrPartition
    )
}

/// Lets locks end.
async fn timer(inner: Weak<Inner>, mut stopped: watch::Receiver<bool>) {
    while !*stopped.borrow_and_update() {
        let Some(strong) = inner.upgrade() else { return };
        let rest = strong.expire(strong.clock.now());
        tokio::select! {
            () = tokio::time::sleep(rest.min(TIMER_REST_MAX)) => {}
            () = strong.earlier.notified() => {}
            _ = stopped.changed() => {}
        }
    }
}

impl Inner {
    /// Ends the locks that are over; returns the time until the next may be.
    fn expire(self: &Arc<Self>, now: Now) -> Duration {
        loop {
            let mut timers = self.timers.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(first) = timers.first_entry() else { return TIMER_REST_MAX };
            let due = first.key().0;
            if due > now.mono {
                return due.since(now.mono);
            }
            let slot = first.remove().upgrade();
            drop(timers);
            let Some(slot) = slot else { continue };
            let settings = self.settings.of(&slot.key.group);
            let mut state = slot.lock();
            if state.scheduled <= now.mono {
                state.scheduled = Mono::NEVER;
            }
            if let Role::Active(p) = &mut state.role
                && p.on_deadline(&settings, now.mono)
            {
                state.waiting.ring();
            }
            self.settle(&slot, &mut state);
        }
    }
}
