//! All replicas of this broker by topic and partition, behind the only locks of this room: the
//! table (read), then one partition. Never two partitions, never across a wait.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::channel::oneshot;

use super::{
    brokers::Brokers,
    dirs::DirChoice,
    fetch_session::FetchSessions,
    isr_queue::IsrQueue,
    life::Life,
    moves::Moves,
    partition::{Committed, Partition, Receipt, Refusal},
    partition_lead::{FollowerFound, FollowerRead},
    quota::Quotas,
};
use crate::{
    base::{
        NodeId, Now, Offset, PartitionId, TopicPartition, Uuid,
        ports::{Clock, Entropy},
    },
    log::{FlushDriver, FlushMark, LogDir, LogError, Origin, VerificationGuard},
    metadata,
    record::{Scratch, Validated},
};

thread_local! {
    /// Room to inflate in, one a thread: no batch allocates its own.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One replica and its lock.
#[derive(Debug)]
pub struct Slot {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition's number.
    pub partition: PartitionId,
    /// Which of the table's directories it lives in.
    dir: AtomicUsize,
    state: Mutex<Partition>,
}

impl Slot {
    /// Locks the partition. A panic in another holder aborts the process, so a poisoned lock is
    /// one whose holder was a test's.
    pub fn lock(&self) -> MutexGuard<'_, Partition> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which of the table's directories it lives in.
    pub fn dir(&self) -> usize {
        self.dir.load(Ordering::Acquire)
    }

    /// It lives in that one from now on. The partition is locked.
    pub(super) fn moved(&self, dir: usize) {
        self.dir.store(dir, Ordering::Release);
    }

    /// Its topic and number.
    #[must_use]
    pub fn id(&self) -> TopicPartition {
        TopicPartition::new(Arc::clone(&self.topic), self.partition)
    }
}

/// A log directory of this broker.
#[derive(Debug)]
pub struct Dir {
    /// The directory.
    pub log_dir: Arc<LogDir>,
    /// Its id in `meta.properties`.
    pub id: Uuid,
    /// Its name as the configuration has it.
    pub name: String,
    /// The group commit of this directory.
    pub flusher: Arc<FlushDriver>,
}

#[derive(Debug, Default)]
struct Slots {
    by_name: BTreeMap<Arc<str>, Uuid>,
    by_id: BTreeMap<(Uuid, PartitionId), Arc<Slot>>,
}

/// What acks ask to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// 0: nothing is answered.
    None,
    /// 1: the leader has it; in the durable mode on disk.
    Leader,
    /// -1: the in-sync replicas have it.
    All,
}

impl Acks {
    /// The meaning of the number; `None` for any but -1, 0 and 1.
    #[must_use]
    pub fn from_wire(acks: i16) -> Option<Self> {
        match acks {
            0 => Some(Self::None),
            1 => Some(Self::Leader),
            -1 => Some(Self::All),
            _ => None,
        }
    }
}

/// All replicas of this broker.
#[derive(Debug)]
pub struct ReplicaTable {
    /// This node.
    pub node_id: NodeId,
    /// The others, as its partitions see them.
    pub brokers: Arc<Brokers>,
    dirs: Vec<Dir>,
    choice: DirChoice,
    pub(super) moves: Moves,
    slots: RwLock<Slots>,
    sessions: Mutex<FetchSessions>,
    /// What each directory's `cleaner-offset-checkpoint` says.
    cleaner_points: Mutex<Vec<Option<BTreeMap<TopicPartition, Offset>>>>,
    /// What the ISR driver has to look at.
    pub isr: IsrQueue,
    /// Limits of replication traffic.
    pub quotas: Quotas,
    /// Whether partitions may be led yet.
    pub life: Life,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
}

impl ReplicaTable {
    /// An empty table over `dirs`, with room for `sessions_max` fetch sessions.
    #[must_use]
    pub fn new(
        node_id: NodeId,
        dirs: Vec<Dir>,
        sessions_max: usize,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self {
            node_id,
            choice: DirChoice::new(dirs.len()),
            moves: Moves::default(),
            brokers: Brokers::new(node_id),
            dirs,
            slots: RwLock::default(),
            sessions: Mutex::new(FetchSessions::new(sessions_max)),
            cleaner_points: Mutex::default(),
            isr: IsrQueue::default(),
            quotas: Quotas::default(),
            life: Life::default(),
            clock,
            entropy,
        }
    }

    /// The log directories, in the order of the configuration.
    #[must_use]
    pub fn dirs(&self) -> &[Dir] {
        &self.dirs
    }

    pub(super) const fn choice(&self) -> &DirChoice {
        &self.choice
    }

    /// The fetch sessions.
    pub fn sessions(&self) -> MutexGuard<'_, FetchSessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was last written of how far logs were compacted, by directory; held while it is written
    /// anew.
    pub(super) fn cleaner_points(
        &self,
    ) -> MutexGuard<'_, Vec<Option<BTreeMap<TopicPartition, Offset>>>> {
        self.cleaner_points.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_slots(&self) -> std::sync::RwLockReadGuard<'_, Slots> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_slots(&self) -> std::sync::RwLockWriteGuard<'_, Slots> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replica of a partition by its topic's name.
    #[must_use]
    pub fn by_name(&self, topic: &str, partition: PartitionId) -> Option<Arc<Slot>> {
        let slots = self.read_slots();
        let id = *slots.by_name.get(topic)?;
        slots.by_id.get(&(id, partition)).cloned()
    }

    /// The replica of a partition by its topic's id.
    #[must_use]
    pub fn by_id(&self, topic: Uuid, partition: PartitionId) -> Option<Arc<Slot>> {
        self.read_slots().by_id.get(&(topic, partition)).cloned()
    }

    /// All replicas, by topic id and partition.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.read_slots().by_id.values().cloned().collect()
    }

    /// The replicas of one topic.
    #[must_use]
    pub fn of_topic(&self, topic: Uuid) -> Vec<Arc<Slot>> {
        let slots = self.read_slots();
        let range = (topic, PartitionId::MIN)..=(topic, PartitionId::MAX);
        slots.by_id.range(range).map(|(_, s)| Arc::clone(s)).collect()
    }

    /// How many replicas there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read_slots().by_id.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a replica; one that is there already is replaced.
    pub fn add(&self, id: &TopicPartition, topic_id: Uuid, dir: usize, state: Partition) {
        let slot = Arc::new(Slot {
            topic: Arc::clone(&id.topic),
            topic_id,
            partition: id.partition,
            dir: AtomicUsize::new(dir),
            state: Mutex::new(state),
        });
        let mut slots = self.write_slots();
        slots.by_name.insert(Arc::clone(&id.topic), topic_id);
        let before = slots.by_id.insert((topic_id, id.partition), slot);
        self.choice.added(dir);
        if let Some(before) = before {
            self.choice.removed(before.dir());
        }
    }

    /// Takes a replica out.
    pub fn remove(&self, topic: Uuid, partition: PartitionId) -> Option<Arc<Slot>> {
        let mut slots = self.write_slots();
        let slot = slots.by_id.remove(&(topic, partition))?;
        self.choice.removed(slot.dir());
        let range = (topic, PartitionId::MIN)..=(topic, PartitionId::MAX);
        if slots.by_id.range(range).next().is_none()
            && slots.by_name.get(&slot.topic) == Some(&topic)
        {
            slots.by_name.remove(&slot.topic);
        }
        Some(slot)
    }

    /// Appends the batch of one partition of a Produce request; with it comes what to wait for
    /// before the answer, if anything.
    ///
    /// # Errors
    /// What the client is told; nothing was written.
    pub fn produce(
        &self,
        slot: &Arc<Slot>,
        records: &Bytes,
        acks: Acks,
        api_version: i16,
        now: Now,
    ) -> Result<(Receipt, Option<oneshot::Receiver<Committed>>), Refusal> {
        self.produce_in_txn(slot, records, None, acks, api_version, now)
    }

    /// As [`ReplicaTable::produce`], with the word of the transaction's coordinator for a batch that
    /// begins a transaction in the partition.
    ///
    /// # Errors
    /// As there; `InvalidTxnState` if the batch would begin a transaction without that word.
    pub fn produce_in_txn(
        &self,
        slot: &Arc<Slot>,
        records: &Bytes,
        guard: Option<VerificationGuard>,
        acks: Acks,
        api_version: i16,
        now: Now,
    ) -> Result<(Receipt, Option<oneshot::Receiver<Committed>>), Refusal> {
        let (done, wait, durable, lags) = SCRATCH.with_borrow_mut(|scratch| {
            let mut partition = slot.lock();
            let all = acks == Acks::All;
            let receipt =
                partition.produce_in_txn(records, guard, all, api_version, now, scratch)?;
            let wait = match acks {
                Acks::None => None,
                Acks::Leader => partition.await_flushed(receipt.last_offset),
                Acks::All => partition.await_committed(receipt.last_offset),
            };
            let (durable, lags) = (partition.flush_due(now), partition.begins_to_lag(now));
            Ok::<_, Refusal>((receipt, wait, durable, lags))
        })?;
        if lags {
            self.isr.watch(slot);
        }
        if durable {
            self.flush(slot);
        }
        Ok((done, wait))
    }

    /// Appends a batch that this broker built, with acks=all. Returns the last offset and the high
    /// watermark.
    ///
    /// # Errors
    /// As a producer would be told.
    pub fn append_own(
        &self,
        slot: &Arc<Slot>,
        batch: &Validated,
        leader_epoch: i32,
    ) -> Result<(Offset, Offset), Refusal> {
        self.append_from(slot, batch, Some(leader_epoch), Origin::Group(None))
    }

    /// Serves a follower's fetch of one partition; with `first` the fetch is new and tells how far
    /// the follower is, else it has waited.
    ///
    /// # Errors
    /// As [`Partition::fetch_as_follower`].
    pub fn fetch_as_follower(
        &self,
        slot: &Arc<Slot>,
        partition: &mut Partition,
        read: &FollowerRead,
        first: bool,
        now: Now,
    ) -> Result<FollowerFound, Refusal> {
        if !first {
            return partition.read_as_follower(read, now);
        }
        let found = partition.fetch_as_follower(read, now)?;
        if partition.wants_proposal(now) {
            self.isr.propose(slot);
        }
        Ok(found)
    }

    /// Takes over which brokers are active. Where that changed, every partition that is led here is
    /// looked at: a follower may join its ISR, or the high watermark need not wait for one.
    pub fn refresh_brokers(&self, brokers: &metadata::brokers::Brokers) {
        if !self.brokers.refresh(brokers) {
            return;
        }
        let now = self.clock.now();
        for slot in self.all() {
            let mut partition = slot.lock();
            partition.advance(now.mono);
            if partition.wants_proposal(now) {
                drop(partition);
                self.isr.propose(&slot);
            }
        }
    }

    /// Asks for a flush of `slot`; whoever waits is told when it is done. While one is under way
    /// the request joins the next, which covers all that came meanwhile: group commit.
    pub fn flush(&self, slot: &Arc<Slot>) {
        let flusher = Arc::downgrade(&self.dirs[slot.dir()].flusher);
        begin_flush(slot, flusher, &self.clock);
    }
}

fn begin_flush(slot: &Arc<Slot>, flusher: Weak<FlushDriver>, clock: &Arc<dyn Clock>) {
    // Without a driver the process is stopping; the clean stop flushes.
    let Some(driver) = flusher.upgrade() else { return };
    let Some(ticket) = slot.lock().begin_flush() else { return };
    let (slot, clock) = (Arc::clone(slot), Arc::clone(clock));
    driver.submit(ticket, Box::new(move |done| end_flush(&slot, flusher, &clock, done)));
}

fn end_flush(
    slot: &Arc<Slot>,
    flusher: Weak<FlushDriver>,
    clock: &Arc<dyn Clock>,
    done: Result<FlushMark, LogError>,
) {
    let again = slot.lock().end_flush(done, clock.now());
    if again {
        begin_flush(slot, flusher, clock);
    }
}
