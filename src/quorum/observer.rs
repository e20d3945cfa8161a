//! A node that is no voter follows the metadata log: one stream from a controller, preferably the
//! leader, folded into images. It keeps no log, and starts with the image that it stored in its
//! last life. Uses `base`, `log`, `metadata`, `pb`.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Duration, Instant, MissedTickBehavior, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    checkpoint::{CheckpointError, Parser},
    entry::{EntryError, Frame, FrameKey},
    image_keeper::{Beside, ImageKeeper},
    image_store::{ImageStore, StorePlace},
    network::{Caller, INCONSISTENT_CLUSTER_ID, MESSAGE_BYTES_MAX},
    settings::{Leadership, METADATA_DIR_NAME, ObserverSettings, QuorumError, Voter},
    source::{MetadataSource, Publisher, Subscription},
    types,
};
use crate::{
    base::NodeId,
    metadata::{
        Delta, Image, Loader, Position, Record, RecordError, Update, loader::LoadError,
        record::decode_batch,
    },
    pb::quorum::{self as pb, observation::What, observers_client::ObserversClient},
    record::batch::batches,
};

/// How often an observer says where it stands, at least.
const REPORT_EVERY: Duration = Duration::from_millis(500);

/// Follows the quorum. Dropping it ends the stream.
#[derive(Debug)]
pub struct Observer {
    caller: Caller,
    voters: watch::Receiver<Arc<[Voter]>>,
    publisher: Arc<Publisher>,
    leadership: watch::Receiver<Leadership>,
    high_watermark: watch::Receiver<i64>,
    task: Mutex<Option<JoinHandle<()>>>,
    /// Stores the image. It ends with the updates.
    keeper: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("{0}")]
    Refused(#[from] Status),
    #[error("the controller's address is not one")]
    Address,
    #[error("the controller sent no batch: {0}")]
    Batch(#[from] EntryError),
    #[error("the controller sent records that cannot be read: {0}")]
    Record(#[from] RecordError),
    #[error("the controller sent a broken checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error("the controller's records do not fit the image: {0}")]
    Load(#[from] LoadError),
    #[error("the controller closed the stream")]
    Closed,
    #[error("the controller is silent")]
    Silent,
    #[error("another controller leads")]
    OtherLeader,
    #[error("the controller knows no leader")]
    Leaderless,
}

/// A controller to ask.
#[derive(Debug, Clone)]
struct Target {
    /// Its node id, where it is known.
    id: Option<NodeId>,
    /// `host:port`.
    authority: String,
}

struct Follower {
    settings: ObserverSettings,
    caller: Caller,
    loader: Loader,
    publisher: Arc<Publisher>,
    voters: watch::Sender<Arc<[Voter]>>,
    leadership: watch::Sender<Leadership>,
    high_watermark: watch::Sender<i64>,
    /// The checkpoint that is coming in, and its records so far.
    checkpoint: Option<(Parser, Vec<Record>)>,
    keeper: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Observer {
    /// Begins to follow. Returns at once: the first image is empty.
    ///
    /// # Errors
    /// `Settings` without a controller to ask or with a cluster id that cannot be sent.
    pub fn start(settings: ObserverSettings) -> Result<Self, QuorumError> {
        if settings.voters.is_empty() && settings.bootstrap.is_empty() {
            let rule = "controller.quorum.voters: an observer needs at least one controller";
            return Err(QuorumError::Settings(rule.to_owned()));
        }
        let dial = Arc::clone(&settings.dial);
        let (id, directory) = (settings.node_id, settings.directory_id);
        let caller = Caller::new(&settings.cluster_id, id, directory, dial)
            .map_err(|e| QuorumError::Settings(e.to_string()))?;
        let loader = Loader::default();
        let publisher = Arc::new(Publisher::new(Arc::clone(loader.image())));
        let leadership = watch::Sender::new(Leadership::default());
        // No leader has said yet what is committed.
        let high_watermark = watch::Sender::new(i64::MAX);
        let keeper = Arc::default();
        let voters = watch::Sender::new(Arc::from(settings.voters.clone()));
        let observer = Self {
            caller: caller.clone(),
            voters: voters.subscribe(),
            publisher: Arc::clone(&publisher),
            leadership: leadership.subscribe(),
            high_watermark: high_watermark.subscribe(),
            task: Mutex::default(),
            keeper: Arc::clone(&keeper),
        };
        let follower = Follower {
            settings,
            caller,
            loader,
            publisher,
            voters,
            leadership,
            high_watermark,
            checkpoint: None,
            keeper,
        };
        let task = tokio::spawn(follower.run());
        *observer.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(observer)
    }

    fn take_task(&self) -> Option<JoinHandle<()>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the stream and all subscriptions; stores the last image.
    pub async fn shutdown(&self) {
        if let Some(task) = self.take_task() {
            task.abort();
            // It was aborted: the error says just that.
            let _ = task.await;
        }
        self.publisher.close();
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper
            && let Err(e) = keeper.await
        {
            tracing::error!("the image was not stored: {e}");
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if let Some(task) = self.take_task() {
            task.abort();
        }
    }
}

impl MetadataSource for Observer {
    fn image(&self) -> Arc<Image> {
        self.publisher.image()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    fn voters(&self) -> Arc<[Voter]> {
        Arc::clone(&self.voters.borrow())
    }

    fn caller(&self) -> Caller {
        self.caller.clone()
    }

    fn high_watermark(&self) -> i64 {
        *self.high_watermark.borrow()
    }
}

impl Follower {
    /// Takes in the image of the last life, and stores those to come.
    async fn remember(&mut self) {
        let Some(dir) = self.settings.dir.clone() else { return };
        let path = dir.path().join(METADATA_DIR_NAME);
        let fs = Arc::clone(dir.fs());
        let place = StorePlace::new(Arc::clone(&fs), &path);
        let home = place.clone();
        let loading = tokio::task::spawn_blocking(move || {
            if fs.stat(&path)?.is_none() {
                fs.create_dir_all(&path)?;
            }
            home.load()
        });
        let loaded = loading.await.map_err(std::io::Error::other).and_then(|loaded| loaded);
        let store: Option<Arc<ImageStore>> = match loaded {
            Ok(None) => None,
            Ok(Some((store, _, image))) => {
                let (image, empty) = (Arc::new(image), Arc::clone(self.loader.image()));
                self.loader = Loader::new(Arc::clone(&image));
                let delta = Arc::new(Delta::between(&empty, &image));
                self.publisher.publish(Update { image, delta, from_checkpoint: true });
                Some(Arc::new(store))
            }
            Err(e) => {
                tracing::warn!("the image is kept in memory only: {e}");
                return;
            }
        };
        let subscription = self.publisher.subscribe();
        let keeper = ImageKeeper { beside: Beside::Nothing, place, store, subscription };
        let keeper = Some(tokio::spawn(keeper.run()));
        *self.keeper.lock().unwrap_or_else(PoisonError::into_inner) = keeper;
    }

    async fn run(mut self) {
        self.remember().await;
        let mut at = 0;
        let mut last_said = String::new();
        loop {
            let Some(target) = self.target(at) else { return };
            at += 1;
            let Err(end) = self.follow(&target).await;
            if matches!(end, StreamEnd::OtherLeader) {
                continue;
            }
            self.checkpoint = None;
            self.leadership.send_modify(|l| l.leader = None);
            let said = end.to_string();
            let controller = &target.authority;
            if said == last_said {
                tracing::debug!(controller, "the metadata stream ended: {said}");
            } else if said.contains(INCONSISTENT_CLUSTER_ID) || matches!(end, StreamEnd::Load(_)) {
                tracing::error!(controller, "{said}");
            } else {
                tracing::info!(controller, "the metadata stream ended: {said}");
            }
            last_said = said;
            tokio::time::sleep(self.settings.timeouts.retry_backoff).await;
        }
    }

    /// The leader if it is known, else each voter and each bootstrap server in turn.
    fn target(&self, at: usize) -> Option<Target> {
        let voters = Arc::clone(&self.voters.borrow());
        let leader = self.leadership.borrow().leader;
        let known = |v: &Voter| Target { id: Some(v.id), authority: v.authority() };
        if let Some(leader) = voters.iter().find(|v| Some(v.id) == leader) {
            return Some(known(leader));
        }
        let bootstrap = self.settings.bootstrap.iter();
        let bootstrap = bootstrap.map(|a| Target { id: None, authority: a.authority() });
        let all: Vec<_> = voters.iter().map(known).chain(bootstrap).collect();
        all.get(at % all.len().max(1)).cloned()
    }

    /// Follows one controller until that ends.
    async fn follow(&mut self, target: &Target) -> Result<std::convert::Infallible, StreamEnd> {
        let timeouts = self.settings.timeouts;
        let channel = self.caller.channel(&target.authority, &timeouts);
        let channel = channel.map_err(|_| StreamEnd::Address)?;
        let mut client = ObserversClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (reports, outgoing) = mpsc::channel(4);
        // There is room: the channel is new.
        let _ = reports.try_send(self.position());
        let opening = client.observe(self.caller.sign(ReceiverStream::new(outgoing)));
        let opened = tokio::time::timeout(timeouts.request, opening).await;
        let mut stream = opened.map_err(|_| StreamEnd::Silent)??.into_inner();
        let mut tick = tokio::time::interval(REPORT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A controller says something every so often; and it may be one that nobody elects.
        let (mut heard, mut led) = (Instant::now(), Instant::now());
        loop {
            tokio::select! {
                next = stream.message() => {
                    let observation = next?.ok_or(StreamEnd::Closed)?;
                    let applied = self.take(observation, target.id)?;
                    heard = Instant::now();
                    if self.leadership.borrow().leader.is_some() {
                        led = heard;
                    }
                    if applied {
                        // A full channel holds newer reports than are read: one more is no loss.
                        let _ = reports.try_send(self.position());
                    }
                }
                _ = tick.tick() => {
                    let _ = reports.try_send(self.position());
                }
                () = sleep_until(heard + timeouts.fetch) => return Err(StreamEnd::Silent),
                () = sleep_until(led + timeouts.fetch) => return Err(StreamEnd::Leaderless),
            }
        }
    }

    fn position(&self) -> pb::ObserverPosition {
        let at = self.loader.image().position;
        pb::ObserverPosition { epoch: at.epoch, offset: at.offset }
    }

    /// Takes in one message; whether the image changed.
    fn take(&mut self, o: pb::Observation, from: Option<NodeId>) -> Result<bool, StreamEnd> {
        if let Some(voters) = o.voters
            && self.settings.voters.is_empty()
        {
            self.learn(voters);
        }
        self.high_watermark.send_if_modified(|known| {
            let told = o.high_watermark >= 0;
            let newer = told && (o.high_watermark > *known || *known == i64::MAX);
            if newer {
                *known = o.high_watermark;
            }
            newer
        });
        let applied = match o.what {
            None => false,
            Some(What::Batches(bytes)) => self.take_batches(&bytes)?,
            Some(What::Checkpoint(part)) => self.take_checkpoint(&part)?,
        };
        if let Some(news) = o.leader {
            let next =
                Leadership { leader: news.node.map(NodeId), epoch: news.epoch, is_self: false };
            self.leadership.send_if_modified(|known| {
                let newer = next.epoch >= known.epoch && next != *known;
                if newer {
                    *known = next;
                }
                newer
            });
            let elsewhere = next.leader.filter(|id| Some(*id) != from);
            if elsewhere.is_some_and(|id| self.voters.borrow().iter().any(|v| v.id == id)) {
                return Err(StreamEnd::OtherLeader);
            }
        }
        Ok(applied)
    }

    /// The voters changed, or are told for the first time.
    fn learn(&self, voters: pb::Voters) {
        let ids: BTreeSet<i32> = voters.sets.iter().flat_map(|s| s.ids.iter().copied()).collect();
        let nodes = voters.nodes.into_iter().filter(|n| ids.contains(&n.id));
        let known: Vec<Voter> = nodes.filter_map(|n| types::voter_from_pb(n).ok()).collect();
        if !known.is_empty() {
            self.voters.send_replace(known.into());
        }
    }

    fn take_batches(&mut self, bytes: &Bytes) -> Result<bool, StreamEnd> {
        let mut entries = Vec::new();
        for batch in batches(bytes) {
            let (_, batch) = batch.map_err(EntryError::from)?;
            let frame = Frame::decode(&bytes.slice_ref(batch))?;
            let at = Position { offset: frame.offset, epoch: frame.epoch };
            let records = match frame.key {
                FrameKey::Data(epoch) if epoch == frame.epoch => decode_batch(frame.value)?,
                // Decided in an epoch that had ended, or none of the image's business.
                FrameKey::Data(_) | FrameKey::Control(_) => Vec::new(),
            };
            entries.push((at, records));
        }
        let entries = entries.iter().map(|(at, records)| (*at, &records[..]));
        let update = self.loader.load_batches(entries)?;
        let changed = update.is_some();
        if let Some(update) = update {
            self.publisher.publish(update);
        }
        Ok(changed)
    }

    fn take_checkpoint(&mut self, part: &pb::CheckpointBytes) -> Result<bool, StreamEnd> {
        let (parser, records) = self.checkpoint.get_or_insert_default();
        parser.push(&part.bytes);
        while let Some(more) = parser.take()? {
            records.extend(more);
        }
        if !part.last {
            return Ok(false);
        }
        let Some((parser, records)) = self.checkpoint.take() else { return Ok(false) };
        let at = parser.finish()?.position();
        let update = self.loader.load_checkpoint(at, records)?;
        self.publisher.publish(update);
        Ok(true)
    }
}
