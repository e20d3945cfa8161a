//! Transactions that this broker coordinates: what their shards (`txn_shard`) need of the shell
//! (`shards_driver`), and what they say to `markers_driver`. May wait.

use std::sync::{
    Arc,
    atomic::{AtomicI16, AtomicI64, AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::{
    machine::Job,
    markers_driver::{self, Piece},
    ports::OffsetsLog,
    shards_driver::{Host, Shared, Shell},
    txn_batches::encode,
    txn_calls::{AddCall, At, DescribedTxn, EndCall, InitCall, ListedTxn, Producer},
    txn_calls::{TxnCall, TxnEffect, TxnReply},
    txn_ports::TxnBroker,
    txn_records::TopicPartition,
    txn_settings::TxnSettings,
    txn_shard::TxnShard,
};
use crate::base::{ErrorCode, Now, Offset, PartitionId, ports::Clock};

/// The transactions this broker coordinates. A cheap handle; clones share everything.
#[derive(Debug, Clone)]
pub struct Transactions {
    inner: Arc<Inner>,
}

pub(super) type Inner = Shell<TxnHost>;

#[derive(Debug)]
pub(super) struct TxnHost {
    pub(super) broker: Arc<dyn TxnBroker>,
    pub(super) settings: Arc<TxnSettings>,
    /// The finalized level of `transaction.version`.
    transaction_version: AtomicI16,
    /// How new metadata must be to say that a partition is gone: as the latest election here.
    as_of: AtomicI64,
    /// Shards loaded so far: each counts its endings from its own number on.
    loads: AtomicU64,
    /// To the task that writes markers. Holds at most a few pieces for each transaction that ends.
    pub(super) markers: mpsc::UnboundedSender<Piece>,
}

impl Host for TxnHost {
    type Shard = TxnShard;
    const KEEPS: &'static str = "transactions";

    fn shard(&self) -> TxnShard {
        let first_run = self.loads.fetch_add(1, Ordering::AcqRel) << 32;
        TxnShard::new(Arc::clone(&self.settings), first_run)
    }

    fn at(&self, now: Now) -> At {
        At { now, transaction_version: self.transaction_version.load(Ordering::Acquire) }
    }

    fn job(&self, effect: TxnEffect, at: At) -> Job<TxnShard> {
        match effect {
            TxnEffect::Reply { token, reply } => Job::Reply(token, reply),
            TxnEffect::Append { ticket, records } => {
                let batch = encode(&records, at.transaction_version, at.now.wall_ms);
                Job::Append(ticket, batch)
            }
            TxnEffect::Mark(_) | TxnEffect::WantProducerId => Job::Own(effect),
        }
    }

    fn own(
        shell: &Arc<Shell<Self>>,
        (partition, _): (PartitionId, i32),
        shared: &Shared<Self>,
        effect: TxnEffect,
    ) {
        match effect {
            // The receiver is gone when the broker stops.
            TxnEffect::Mark(markers) => {
                _ = shell.host.markers.send(Piece::new(partition, markers));
            }
            TxnEffect::WantProducerId => {
                let got = get_producer_id(Arc::clone(shell), partition, shared.clone());
                shell.runtime.spawn(got);
            }
            TxnEffect::Reply { .. } | TxnEffect::Append { .. } => {}
        }
    }

    fn loaded(&self, shard: &mut TxnShard, at: At, out: &mut Vec<TxnEffect>) {
        shard.loaded(at, out);
    }

    fn size(shard: &TxnShard) -> (usize, usize) {
        shard.size()
    }
}

async fn get_producer_id(shell: Arc<Inner>, partition: PartitionId, shared: Shared<TxnHost>) {
    let got = shell.host.broker.producer_id().await;
    let mut slot = shared.lock();
    shell.step(partition, &shared, &mut slot, |shard, at, out| shard.producer_id(got, at, out));
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
        let (markers, pieces) = mpsc::unbounded_channel();
        let (partitions, load_buffer_bytes) = (settings.partitions, settings.load_buffer_bytes);
        let host = TxnHost {
            broker,
            settings: Arc::new(settings),
            transaction_version: AtomicI16::new(0),
            as_of: AtomicI64::new(0),
            loads: AtomicU64::new(0),
            markers,
        };
        let inner = Shell::start(host, log, clock, partitions, load_buffer_bytes);
        inner.runtime.spawn(markers_driver::run(Arc::clone(&inner), pieces));
        Self { inner }
    }

    /// Shards are not loaded before [`Transactions::serve`]: see [`Shell::hold`].
    pub fn hold(&self) {
        self.inner.hold();
    }

    /// Shards are loaded from now on.
    pub fn serve(&self) {
        self.inner.serve();
    }

    /// Leaves all partitions and ends the tasks. Waiting requests get `NotCoordinator`.
    pub fn stop(&self) {
        self.inner.stop();
    }

    /// How many partitions `__transaction_state` has. Called before the elections of its
    /// partitions.
    pub fn set_partition_count(&self, count: i32) {
        self.inner.set_partition_count(count);
    }

    /// The finalized level of `transaction.version`: how the log is written, and how transactions are
    /// aborted that no client ends.
    pub fn set_transaction_version(&self, level: i16) {
        self.inner.host.transaction_version.store(level, Ordering::Release);
    }

    /// This broker leads `partition` since `epoch`, as the metadata record at offset `as_of` or one
    /// before it says: the shard is loaded, and takes calls once it is. Told again, or of a higher
    /// epoch while it leads already, it keeps what it has.
    pub fn elected(&self, partition: PartitionId, epoch: i32, as_of: Offset) {
        self.inner.host.as_of.fetch_max(as_of, Ordering::AcqRel);
        self.inner.elected(partition, epoch);
    }

    /// This broker does not lead `partition` any more, as of `epoch` (`None`: the partition is
    /// gone). Waiting requests get `NotCoordinator`; markers are written no further.
    pub fn resigned(&self, partition: PartitionId, epoch: Option<i32>) {
        self.inner.resigned(partition, epoch);
    }

    /// The partition of `__transaction_state` that keeps `id`: its leader is the coordinator.
    #[must_use]
    pub fn partition_of(&self, id: &str) -> PartitionId {
        self.inner.partition_of(id)
    }

    /// InitProducerId with a transactional id.
    ///
    /// # Errors
    /// `InvalidRequest`, `InvalidTransactionTimeout`, `ConcurrentTransactions`, `ProducerFenced`,
    /// `NotCoordinator`, `CoordinatorLoadInProgress`, `CoordinatorNotAvailable`.
    pub async fn init(&self, call: InitCall) -> Result<Producer, ErrorCode> {
        let valid = 1..=self.inner.host.settings.max_timeout_ms;
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
        self.inner.ask(self.partition_of(call.id()), call).await
    }

    /// One transactional id in full.
    ///
    /// # Errors
    /// `InvalidRequest`, `TransactionalIdNotFound`, `NotCoordinator`, `CoordinatorLoadInProgress`.
    pub fn describe(&self, id: &str) -> Result<DescribedTxn, ErrorCode> {
        if id.is_empty() {
            return Err(ErrorCode::InvalidRequest);
        }
        let slot = self.inner.slot(self.partition_of(id))?;
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
        for (_, slot) in self.inner.all() {
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

// For `markers_driver`.
impl Inner {
    /// The coordinator epoch under which the markers of that ending are to be written; `None` if
    /// they are not wanted any more.
    pub(super) fn marker_epoch(&self, piece: &Piece) -> Option<i32> {
        let slot = self.slot(piece.partition).ok()?;
        let mut slot = slot.lock();
        let epoch = slot.epoch;
        let shard = slot.shard().ok()?;
        shard.wants_markers(&piece.markers.id, piece.markers.run).then_some(epoch)
    }

    /// These partitions have the markers of that ending, or need none.
    pub(super) fn marked(self: &Arc<Self>, piece: &Piece, partitions: &[TopicPartition]) {
        let Ok(shared) = self.slot(piece.partition) else { return };
        let mut slot = shared.lock();
        let (id, run) = (&piece.markers.id, piece.markers.run);
        self.step(piece.partition, &shared, &mut slot, |shard, at, out| {
            shard.marked(id, run, partitions, at, out);
        });
    }

    /// How new metadata must be to say that a partition is gone.
    pub(super) fn as_of(&self) -> Offset {
        self.host.as_of.load(Ordering::Acquire)
    }
}
