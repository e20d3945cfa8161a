//! Raft's state machine: folds committed entries into the image and publishes every step; builds
//! and installs checkpoints. Uses `base`, `metadata`.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{Stream, TryStreamExt as _};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::Notify;

use super::{
    checkpoint::{CheckpointDir, CheckpointFile, Header},
    log_store::LogStore,
    source::Publisher,
    types::{
        self, Applied, CheckpointMeta, Entry, LogId, Proposal, RaftCheckpoint, StoredVoters,
        TypeConfig,
    },
};
use crate::{
    base::ports::Clock,
    metadata::{Delta, Image, Loader, Record, Update, record::decode_batch},
};

/// The Raft member as this room uses it.
pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// A tail of the log shorter than this is never worth a checkpoint, in bytes.
const TAIL_BYTES_MIN: u64 = 256 * 1024;

/// Counts what was applied since the last checkpoint, and says when the next is due: at the bytes
/// of `metadata.log.max.record.bytes.between.snapshots`, or as soon as the tail is twice as long as
/// the checkpoint itself. A start reads both, and a broker that leaves and comes back writes its
/// partitions into the tail each time.
#[derive(Debug)]
pub(crate) struct Growth {
    bytes: AtomicU64,
    limit: AtomicU64,
    limit_max: u64,
    /// Told when the limit is passed.
    pub(crate) due: Notify,
}

impl Growth {
    pub(crate) fn new(limit_max: u64) -> Self {
        let limit = AtomicU64::new(limit_max.min(TAIL_BYTES_MIN));
        Self { bytes: AtomicU64::new(0), limit, limit_max, due: Notify::new() }
    }

    fn add(&self, bytes: u64) {
        let (before, limit) =
            (self.bytes.fetch_add(bytes, Ordering::Relaxed), self.limit.load(Ordering::Relaxed));
        if before < limit && before.saturating_add(bytes) >= limit {
            self.due.notify_one();
        }
    }

    /// Whether anything was applied since the last checkpoint.
    pub(crate) fn is_any(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0
    }

    /// A checkpoint of about `checkpoint_bytes` is there.
    fn reset(&self, checkpoint_bytes: u64) {
        let limit = checkpoint_bytes.saturating_mul(2).max(TAIL_BYTES_MIN).min(self.limit_max);
        self.limit.store(limit, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

type Current = Arc<Mutex<Option<(CheckpointFile, Header)>>>;

/// The image, and where it stands.
#[derive(Debug)]
pub(crate) struct Machine {
    loader: Loader,
    last_applied: Option<LogId>,
    voters: StoredVoters,
    current: Current,
    checkpoints: Arc<CheckpointDir>,
    publisher: Arc<Publisher>,
    growth: Arc<Growth>,
    log: LogStore,
    clock: Arc<dyn Clock>,
}

/// What a machine begins with.
pub(crate) struct Beginning {
    /// The newest checkpoint.
    pub(crate) checkpoint: Option<(CheckpointFile, Header)>,
    /// Where the image stands.
    pub(crate) header: Header,
    /// The image, not older than the checkpoint.
    pub(crate) image: Image,
    pub(crate) checkpoints: Arc<CheckpointDir>,
    pub(crate) growth: Arc<Growth>,
    pub(crate) log: LogStore,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Machine {
    /// A machine, and the publisher of its steps.
    pub(crate) fn new(from: Beginning) -> (Self, Arc<Publisher>) {
        let image = Arc::new(from.image);
        let publisher = Arc::new(Publisher::new(Arc::clone(&image)));
        from.growth.reset(from.checkpoint.as_ref().map_or(0, |(file, _)| file.len));
        let machine = Self {
            loader: Loader::new(image),
            last_applied: from.header.last_log_id,
            voters: from.header.voters,
            current: Arc::new(Mutex::new(from.checkpoint)),
            checkpoints: from.checkpoints,
            publisher: Arc::clone(&publisher),
            growth: from.growth,
            log: from.log,
            clock: from.clock,
        };
        (machine, publisher)
    }

    /// The records of a proposal, unless its epoch had ended when it was appended.
    fn records(id: &LogId, proposal: Proposal) -> io::Result<(Vec<Record>, Applied)> {
        if proposal.epoch != types::term(id) {
            tracing::info!(
                offset = id.index,
                decided = proposal.epoch,
                appended = types::term(id),
                "records of an epoch that had ended are passed over"
            );
            return Ok((Vec::new(), Applied::Superseded));
        }
        let records = decode_batch(proposal.records).map_err(invalid)?;
        Ok((records, Applied::Yes))
    }

    fn apply_one(&mut self, entry: Entry) -> io::Result<Applied> {
        let id = entry.log_id;
        let mut bytes = 100;
        let (records, applied) = match entry.payload {
            EntryPayload::Blank => (Vec::new(), Applied::Yes),
            EntryPayload::Membership(voters) => {
                self.voters = StoredVoters::new(Some(id), voters);
                (Vec::new(), Applied::Yes)
            }
            EntryPayload::Normal(p) => {
                bytes += p.records.len() as u64;
                Self::records(&id, p)?
            }
        };
        let at = types::position(Some(&id));
        let update = self.loader.load_batch(at, &records).map_err(invalid)?;
        self.last_applied = Some(id);
        self.growth.add(bytes);
        if let Some(update) = update {
            self.publisher.publish(update);
        }
        Ok(applied)
    }
}

fn invalid(e: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

fn meta(header: &Header) -> CheckpointMeta {
    CheckpointMeta { last_log_id: header.last_log_id, last_membership: header.voters.clone() }
}

fn checkpoint(current: &Current) -> Option<RaftCheckpoint<CheckpointFile>> {
    let current = current.lock().unwrap_or_else(PoisonError::into_inner);
    let (file, header) = current.as_ref()?;
    Some(RaftCheckpoint { meta: meta(header), snapshot: file.clone() })
}

fn set(current: &Current, file: CheckpointFile, header: Header) {
    let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
    if current.as_ref().is_none_or(|(_, h)| h.last_log_id <= header.last_log_id) {
        *current = Some((file, header));
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = CheckpointFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredVoters)> {
        Ok((self.last_applied, self.voters.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let applied = self.apply_one(entry)?;
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        let newer = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.as_ref().is_none_or(|(_, h)| h.last_log_id < self.last_applied)
        };
        if !force && !newer {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let last = checkpoint(&self.current).map_or(0, |c| c.snapshot.len);
        self.growth.reset(last);
        Builder {
            image: Arc::clone(self.loader.image()),
            header: Header { last_log_id: self.last_applied, voters: self.voters.clone() },
            current: Arc::clone(&self.current),
            checkpoints: Arc::clone(&self.checkpoints),
            log: self.log.clone(),
            now_ms: self.clock.now().wall_ms,
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &CheckpointMeta,
        snapshot: CheckpointFile,
    ) -> io::Result<()> {
        let file = snapshot.clone();
        let loaded = tokio::task::spawn_blocking(move || file.load());
        let (header, image) = loaded.await.map_err(io::Error::other)??;
        if header.last_log_id != meta.last_log_id {
            return Err(invalid(types::BadMessage("checkpoint position")));
        }
        tracing::info!(
            offset = image.position.offset,
            epoch = image.position.epoch,
            "the image comes from a checkpoint"
        );
        let image = Arc::new(image);
        let delta = Arc::new(Delta::between(self.loader.image(), &image));
        self.loader = Loader::new(Arc::clone(&image));
        self.last_applied = header.last_log_id;
        self.voters = header.voters.clone();
        self.growth.reset(snapshot.len);
        set(&self.current, snapshot, header);
        self.publisher.publish(Update { image, delta, from_checkpoint: true });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftCheckpoint<CheckpointFile>>> {
        Ok(checkpoint(&self.current))
    }
}

/// Writes one image as a checkpoint, beside the machine that goes on.
#[derive(Debug)]
pub(crate) struct Builder {
    image: Arc<Image>,
    header: Header,
    current: Current,
    checkpoints: Arc<CheckpointDir>,
    log: LogStore,
    now_ms: i64,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = CheckpointFile;

    async fn build_snapshot(&mut self) -> io::Result<RaftCheckpoint<CheckpointFile>> {
        // A restart scans the log only behind the newest checkpoint: all before must be durable.
        self.log.flush().await?;
        let (image, header) = (Arc::clone(&self.image), self.header.clone());
        let (checkpoints, now_ms) = (Arc::clone(&self.checkpoints), self.now_ms);
        let written =
            tokio::task::spawn_blocking(move || checkpoints.write(&header, &image, now_ms));
        let file = written.await.map_err(io::Error::other)??;
        tracing::info!(
            offset = file.position.offset,
            epoch = file.position.epoch,
            bytes = file.len,
            "wrote a checkpoint"
        );
        let built = RaftCheckpoint { meta: meta(&self.header), snapshot: file.clone() };
        set(&self.current, file, self.header.clone());
        Ok(built)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_when_the_tail_outweighs_it() {
        let growth = Growth::new(20 << 20);
        let limit = |g: &Growth| g.limit.load(Ordering::Relaxed);
        assert!(!growth.is_any());
        assert_eq!(limit(&growth), TAIL_BYTES_MIN, "there is none yet");
        growth.add(TAIL_BYTES_MIN - 1);
        assert!(growth.is_any());
        growth.reset(3 << 20);
        assert_eq!(limit(&growth), 6 << 20);
        growth.reset(30 << 20);
        assert_eq!(limit(&growth), 20 << 20, "never more than was asked for");
        assert_eq!(limit(&Growth::new(100)), 100);
    }
}
