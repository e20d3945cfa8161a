//! A broker's life as the controller sees it: it registers, catches up with the metadata, is let
//! in (unfenced), says every so often that it lives (`heartbeat_driver`), and leaves in order
//! (`BrokerLifecycleManager.java`). Uses `base`, `metadata`, `pb`, `quorum`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use super::{
    client_driver::ControllerClient,
    command::{SubmitBody, SubmitCommand},
    heartbeat_driver::Ended,
};
use crate::{
    base::{ErrorCode, NodeId, Offset, Uuid},
    metadata::{Endpoint, VersionRange},
    pb::controller as pb,
};

/// Pause before a registration that was refused is tried again; it doubles each time, up to the
/// interval of heartbeats.
const REGISTER_PAUSE: Duration = Duration::from_millis(100);

/// Where a broker is in its life (`BrokerState.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum BrokerState {
    /// Not started.
    NotRunning = 0,
    /// Registers.
    Starting = 1,
    /// Registered; catches up with the metadata.
    Recovery = 2,
    /// Unfenced: serves clients.
    Running = 3,
    /// Waits for the controller to move its leaderships.
    PendingControlledShutdown = 6,
    /// May stop, or must: registration failed for good.
    ShuttingDown = 7,
}

/// What a broker registers with.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// This node.
    pub node_id: NodeId,
    /// The cluster's id.
    pub cluster_id: String,
    /// This life of the process.
    pub incarnation: Uuid,
    /// Where clients and other brokers reach it.
    pub endpoints: Vec<Endpoint>,
    /// What it supports.
    pub features: Vec<(String, VersionRange)>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// Its online log directories.
    pub log_dirs: Vec<Uuid>,
    /// The epoch kept from a clean shutdown; -1 if there is none.
    pub previous_broker_epoch: i64,
    /// `broker.heartbeat.interval.ms`.
    pub heartbeat_interval: Duration,
    /// `initial.broker.registration.timeout.ms`.
    pub registration_timeout: Duration,
}

/// What the node asks of the life cycle.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    pub(super) ready: bool,
    pub(super) shut_down: bool,
    pub(super) force: bool,
    pub(super) offline_dirs: Vec<Uuid>,
    pub(super) cordoned_dirs: Option<Vec<Uuid>>,
}

/// A broker's running life cycle. Dropping it ends the heartbeats.
#[derive(Debug)]
pub struct BrokerLifecycle {
    state: watch::Receiver<BrokerState>,
    epoch: watch::Receiver<i64>,
    told_dirs: watch::Receiver<Vec<Uuid>>,
    answered: watch::Receiver<Option<Instant>>,
    wishes: watch::Sender<Wishes>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl BrokerLifecycle {
    /// Begins to register. `published` is the offset of the newest metadata that the node acts
    /// upon, -1 at first.
    #[must_use]
    pub fn start(
        settings: BrokerSettings,
        client: ControllerClient,
        published: watch::Receiver<Offset>,
    ) -> Self {
        let (state_tx, state) = watch::channel(BrokerState::Starting);
        let (epoch_tx, epoch) = watch::channel(-1);
        let (wishes, wished) = watch::channel(Wishes::default());
        let (told_tx, told_dirs) = watch::channel(Vec::new());
        let (answered_tx, answered) = watch::channel(None);
        let life = Life {
            settings,
            client,
            published,
            wished,
            state: state_tx,
            epoch: epoch_tx,
            told_dirs: told_tx,
            answered: answered_tx,
            caught_up: false,
            fenced: false,
            silent_since: None,
            said: String::new(),
        };
        let task = Mutex::new(Some(tokio::spawn(life.run())));
        Self { state, epoch, told_dirs, answered, wishes, task }
    }

    /// Follows the state.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<BrokerState> {
        self.state.clone()
    }

    /// The broker epoch; -1 until registered.
    #[must_use]
    pub fn epoch(&self) -> i64 {
        *self.epoch.borrow()
    }

    /// Follows the broker epoch.
    #[must_use]
    pub fn watch_epoch(&self) -> watch::Receiver<i64> {
        self.epoch.clone()
    }

    /// The node can serve: from here on it asks to be unfenced.
    pub fn set_ready(&self) {
        self.wishes.send_if_modified(|w| !std::mem::replace(&mut w.ready, true));
    }

    /// These log directories have failed. A directory never comes back before a restart.
    pub fn set_offline_dirs(&self, dirs: Vec<Uuid>) {
        self.wishes.send_if_modified(|w| {
            let changed = w.offline_dirs != dirs;
            w.offline_dirs = dirs;
            changed
        });
    }

    /// Follows the failed directories that the controller has been told of.
    #[must_use]
    pub fn told_offline_dirs(&self) -> watch::Receiver<Vec<Uuid>> {
        self.told_dirs.clone()
    }

    /// Follows when the active controller last answered a heartbeat; `None` before the first.
    #[must_use]
    pub fn answered(&self) -> watch::Receiver<Option<Instant>> {
        self.answered.clone()
    }

    /// These log directories take no new replicas (KIP-1066). Not said before the first call.
    pub fn set_cordoned_dirs(&self, mut dirs: Vec<Uuid>) {
        dirs.sort_unstable();
        self.wishes.send_if_modified(|w| {
            let changed = w.cordoned_dirs.as_ref() != Some(&dirs);
            w.cordoned_dirs = Some(dirs);
            changed
        });
    }

    /// Makes the next heartbeat come at once: somebody waits for how far this broker has read.
    pub fn report(&self) {
        self.wishes.send_modify(|_| {});
    }

    /// Asks the controller to move what this broker leads. It may stop when the state is
    /// [`BrokerState::ShuttingDown`]. Not registered, that is at once. While partitions would fall
    /// below `min.insync.replicas` by it, the controller refuses, which is said in the log, and is
    /// asked again.
    pub fn begin_controlled_shutdown(&self) {
        self.wishes.send_if_modified(|w| !std::mem::replace(&mut w.shut_down, true));
    }

    /// As [`BrokerLifecycle::begin_controlled_shutdown`], whatever falls below
    /// `min.insync.replicas`.
    pub fn force_controlled_shutdown(&self) {
        self.wishes.send_modify(|w| (w.shut_down, w.force) = (true, true));
    }

    fn take_task(&self) -> Option<JoinHandle<()>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends the heartbeats at once.
    pub async fn close(&self) {
        if let Some(task) = self.take_task() {
            task.abort();
            // It was aborted: the error says just that.
            let _ = task.await;
        }
    }
}

impl Drop for BrokerLifecycle {
    fn drop(&mut self) {
        if let Some(task) = self.take_task() {
            task.abort();
        }
    }
}

/// What the running task has.
pub(super) struct Life {
    pub(super) settings: BrokerSettings,
    pub(super) client: ControllerClient,
    pub(super) published: watch::Receiver<Offset>,
    pub(super) wished: watch::Receiver<Wishes>,
    pub(super) state: watch::Sender<BrokerState>,
    pub(super) epoch: watch::Sender<i64>,
    pub(super) told_dirs: watch::Sender<Vec<Uuid>>,
    pub(super) answered: watch::Sender<Option<Instant>>,
    /// The controller has said that this registration caught up.
    pub(super) caught_up: bool,
    /// The controller has fenced this broker after it had let it in.
    pub(super) fenced: bool,
    /// Since when no controller answers the wish to shut down.
    pub(super) silent_since: Option<Instant>,
    /// What was complained of last: not to be said twice.
    pub(super) said: String,
}

pub(super) fn uuid_bytes(ids: &[Uuid]) -> Vec<Bytes> {
    ids.iter().map(|id| Bytes::copy_from_slice(&id.0)).collect()
}

impl Life {
    async fn run(mut self) {
        let mut deadline = Instant::now().checked_add(self.settings.registration_timeout);
        while let Some(epoch) = self.register(deadline).await {
            self.epoch.send_replace(epoch);
            self.state.send_replace(BrokerState::Recovery);
            (self.caught_up, self.fenced) = (false, false);
            match self.beat().await {
                Ended::Granted => break,
                Ended::Stale => tracing::error!(
                    epoch,
                    "the controller does not know this registration any longer: this broker was \
                     unregistered, or another process has its node.id; registering anew"
                ),
                _ => return,
            }
            // It has served already: it may try for as long as it takes.
            (deadline, self.settings.previous_broker_epoch) = (None, epoch);
        }
        self.state.send_replace(BrokerState::ShuttingDown);
    }

    fn registration(&self) -> SubmitCommand {
        let s = &self.settings;
        let offline = self.wished.borrow().offline_dirs.clone();
        let mut log_dirs = s.log_dirs.clone();
        log_dirs.retain(|dir| !offline.contains(dir));
        log_dirs.sort_unstable();
        SubmitCommand::RegisterBroker(pb::RegisterBroker {
            broker_id: s.node_id.0,
            cluster_id: s.cluster_id.clone(),
            incarnation_id: Bytes::copy_from_slice(&s.incarnation.0),
            endpoints: s.endpoints.iter().map(endpoint_to_pb).collect(),
            features: s.features.iter().map(feature_to_pb).collect(),
            rack: s.rack.clone(),
            log_dirs: uuid_bytes(&log_dirs),
            previous_broker_epoch: s.previous_broker_epoch,
        })
    }

    /// Registers until it is done; `None` if it cannot be done by `deadline`, or the node shuts
    /// down.
    async fn register(&mut self, deadline: Option<Instant>) -> Option<i64> {
        let mut pause = REGISTER_PAUSE;
        loop {
            let left = deadline.map_or(self.settings.registration_timeout, |at| {
                at.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                tracing::error!("the controller did not take this broker's registration in time");
                return None;
            }
            match self.register_once(left).await? {
                Ok(epoch) => {
                    tracing::info!(epoch, "registered with the controller");
                    return Some(epoch);
                }
                Err(why) if why != self.said => {
                    tracing::error!("the controller refused the registration: {why}");
                    self.said = why;
                }
                Err(_) => {}
            }
            let until = Instant::now() + pause.min(self.settings.heartbeat_interval);
            tokio::time::sleep_until(deadline.map_or(until, |at| until.min(at))).await;
            pause = pause.saturating_mul(2).min(self.settings.heartbeat_interval);
        }
    }

    /// `None` if the node shuts down.
    async fn register_once(&mut self, left: Duration) -> Option<Result<i64, String>> {
        let submitted = self.client.submit(self.registration(), left);
        let mut wished = self.wished.clone();
        let answer = tokio::select! {
            answer = submitted => answer,
            _ = wished.wait_for(|w| w.shut_down) => return None,
        };
        let reply = match answer {
            Ok(reply) => reply,
            Err(e) => return Some(Err(e.to_string())),
        };
        let (error, message) = match reply.reply {
            Some(SubmitBody::RegisterBroker(b)) if (reply.error, b.error) == (0, 0) => {
                return Some(Ok(b.broker_epoch));
            }
            Some(SubmitBody::RegisterBroker(b)) if reply.error == 0 => (b.error, b.error_message),
            _ => (reply.error, reply.error_message),
        };
        Some(Err(format!("{} {}", named(error).name(), message.unwrap_or_default())))
    }
}

pub(super) fn endpoint_to_pb(e: &Endpoint) -> pb::Endpoint {
    pb::Endpoint {
        name: e.name.to_string(),
        host: e.host.to_string(),
        port: u32::from(e.port),
        security_protocol: i32::from(e.security_protocol),
    }
}

pub(super) fn feature_to_pb((name, range): &(String, VersionRange)) -> pb::FeatureRange {
    pb::FeatureRange { name: name.clone(), min: i32::from(range.min), max: i32::from(range.max) }
}

/// The error of that number.
pub(super) fn named(code: i32) -> ErrorCode {
    i16::try_from(code).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code)
}
