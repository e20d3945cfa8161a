//! A broker's life as the controller sees it: it registers, catches up with the metadata, is let
//! in (unfenced), says every so often that it lives, and leaves in order
//! (`BrokerLifecycleManager.java`). Uses `base`, `metadata`, `pb`, `quorum`.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    client_driver::{ControllerClient, Search},
    command::{SubmitBody, SubmitCommand},
};
use crate::{
    base::{ErrorCode, NodeId, Offset, Uuid},
    metadata::{Endpoint, VersionRange},
    pb::controller as pb,
};

/// Pause before the heartbeat after the one that said the broker has caught up.
const CAUGHT_UP_PAUSE: Duration = Duration::from_millis(10);
/// Pause between heartbeats while a controlled shutdown is waited for.
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(50);

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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wishes {
    ready: bool,
    shut_down: bool,
    offline_dirs: Vec<Uuid>,
}

/// A broker's running life cycle. Dropping it ends the heartbeats.
#[derive(Debug)]
pub struct BrokerLifecycle {
    state: watch::Receiver<BrokerState>,
    epoch: watch::Receiver<i64>,
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
        let life = Life {
            settings,
            client,
            published,
            wished,
            state: state_tx,
            epoch: epoch_tx,
            caught_up: false,
        };
        let task = Mutex::new(Some(tokio::spawn(life.run())));
        Self { state, epoch, wishes, task }
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

    /// Asks the controller to move what this broker leads. It may stop when the state is
    /// [`BrokerState::ShuttingDown`]. Not registered, that is at once.
    pub fn begin_controlled_shutdown(&self) {
        self.wishes.send_if_modified(|w| !std::mem::replace(&mut w.shut_down, true));
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

/// A day that never comes, for calls that are bounded by something else.
const FAR: Duration = Duration::from_secs(86_400);

struct Life {
    settings: BrokerSettings,
    client: ControllerClient,
    published: watch::Receiver<Offset>,
    wished: watch::Receiver<Wishes>,
    state: watch::Sender<BrokerState>,
    epoch: watch::Sender<i64>,
    /// The controller has said that the broker caught up.
    caught_up: bool,
}

/// Why a heartbeat stream ended.
enum Ended {
    /// The broker may stop.
    Granted,
    /// Another controller leads, if it is known which.
    Moved(Option<i32>),
    /// The controller does not answer.
    Silent(String),
    /// The node has gone.
    Nobody,
}

fn uuid_bytes(ids: &[Uuid]) -> Vec<Bytes> {
    ids.iter().map(|id| Bytes::copy_from_slice(&id.0)).collect()
}

impl Life {
    async fn run(mut self) {
        match self.register().await {
            Some(epoch) => {
                self.epoch.send_replace(epoch);
                self.state.send_replace(BrokerState::Recovery);
                self.beat().await;
            }
            None => _ = self.state.send_replace(BrokerState::ShuttingDown),
        }
    }

    fn registration(&self) -> SubmitCommand {
        let s = &self.settings;
        let mut log_dirs = s.log_dirs.clone();
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

    /// Registers until it is done; `None` if it cannot be done in time or the node shuts down.
    async fn register(&mut self) -> Option<i64> {
        let deadline = Instant::now() + self.settings.registration_timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::error!("the controller did not take this broker's registration in time");
                return None;
            }
            let submitted = self.client.submit(self.registration(), left);
            let wished = self.wished.wait_for(|w| w.shut_down);
            let answer = tokio::select! {
                answer = submitted => answer,
                _ = wished => return None,
            };
            match answer.map(|reply| (reply.error, reply.error_message, reply.reply)) {
                Ok((0, _, Some(SubmitBody::RegisterBroker(body)))) if body.error == 0 => {
                    tracing::info!(epoch = body.broker_epoch, "registered with the controller");
                    return Some(body.broker_epoch);
                }
                Ok((error, message, body)) => {
                    let (error, message) = match body {
                        Some(SubmitBody::RegisterBroker(b)) if error == 0 => {
                            (b.error, b.error_message)
                        }
                        _ => (error, message),
                    };
                    let error = i16::try_from(error).map_or(ErrorCode::UnknownServerError, named);
                    let message = message.unwrap_or_default();
                    tracing::error!(?error, "the controller refused the registration: {message}");
                }
                Err(e) => tracing::error!("the registration failed: {e}"),
            }
            let again = Instant::now() + self.settings.heartbeat_interval;
            tokio::time::sleep_until(again.min(deadline)).await;
        }
    }

    /// Heartbeats until the controller lets the broker go.
    async fn beat(&mut self) {
        let mut search = Search::default();
        let mut said = String::new();
        loop {
            match self.one_stream(&mut search).await {
                Ended::Granted => {
                    self.state.send_replace(BrokerState::ShuttingDown);
                    return;
                }
                Ended::Nobody => return,
                Ended::Moved(leader) => search.moved(leader),
                Ended::Silent(why) => {
                    search.silent();
                    if said != why {
                        tracing::warn!("no heartbeat reaches the controller: {why}");
                    }
                    said = why;
                }
            }
            self.client.pause(Instant::now() + self.settings.heartbeat_interval).await;
        }
    }

    async fn one_stream(&mut self, search: &mut Search) -> Ended {
        let far = Instant::now() + FAR;
        let Some((_, mut client)) = self.client.next_client(search, far).await else {
            return Ended::Silent("no controller is known".to_owned());
        };
        let patience = self.settings.heartbeat_interval;
        let (beats, outgoing) = mpsc::channel(1);
        // There is room: the channel is new.
        let _ = beats.try_send(self.heartbeat());
        let opening = client.heartbeat(ReceiverStream::new(outgoing));
        let mut replies = match tokio::time::timeout(patience, opening).await {
            Ok(Ok(opened)) => opened.into_inner(),
            Ok(Err(status)) => return Ended::Silent(status.to_string()),
            Err(_) => return Ended::Silent("the controller is silent".to_owned()),
        };
        loop {
            let reply = match tokio::time::timeout(patience, replies.message()).await {
                Ok(Ok(Some(reply))) => reply,
                Ok(Ok(None)) => return Ended::Silent("the controller ended the stream".to_owned()),
                Ok(Err(status)) => return Ended::Silent(status.to_string()),
                Err(_) => return Ended::Silent("the controller is silent".to_owned()),
            };
            if reply.error == i32::from(ErrorCode::NotController.code()) {
                return Ended::Moved(reply.leader);
            }
            let pause = match self.take_in(&reply) {
                Some(pause) => pause,
                None => return Ended::Granted,
            };
            if !self.until_next(pause).await {
                return Ended::Nobody;
            }
            if beats.send(self.heartbeat()).await.is_err() {
                return Ended::Silent("the stream broke".to_owned());
            }
        }
    }

    fn heartbeat(&self) -> pb::HeartbeatRequest {
        let wishes = self.wished.borrow();
        pb::HeartbeatRequest {
            broker_id: self.settings.node_id.0,
            broker_epoch: *self.epoch.borrow(),
            metadata_offset: *self.published.borrow(),
            want_fence: !wishes.ready,
            want_shut_down: wishes.shut_down,
            offline_log_dirs: uuid_bytes(&wishes.offline_dirs),
        }
    }

    /// Moves on by an answer; the pause before the next heartbeat, `None` if it was the last.
    fn take_in(&mut self, reply: &pb::HeartbeatReply) -> Option<Duration> {
        let interval = self.settings.heartbeat_interval;
        if reply.error != 0 {
            let error = i16::try_from(reply.error).map_or(ErrorCode::UnknownServerError, named);
            tracing::warn!(?error, "the controller refused a heartbeat");
            return Some(interval);
        }
        let state = *self.state.borrow();
        let wants_shut_down = self.wished.borrow().shut_down;
        if wants_shut_down {
            if reply.should_shut_down {
                return None;
            }
            self.state.send_replace(BrokerState::PendingControlledShutdown);
            return Some(SHUTDOWN_PAUSE.min(interval));
        }
        match state {
            BrokerState::Recovery if !reply.is_fenced => {
                tracing::info!("this broker is unfenced");
                self.state.send_replace(BrokerState::Running);
                Some(interval)
            }
            BrokerState::Recovery if reply.is_caught_up && !self.caught_up => {
                self.caught_up = true;
                Some(CAUGHT_UP_PAUSE.min(interval))
            }
            _ => Some(interval),
        }
    }

    /// Waits for the next heartbeat's time, which comes early when there is news for the
    /// controller; false if the node has gone.
    async fn until_next(&mut self, pause: Duration) -> bool {
        let registered = *self.epoch.borrow();
        let catching_up =
            *self.state.borrow() == BrokerState::Recovery && *self.published.borrow() < registered;
        let caught_up = async {
            if !catching_up || self.published.wait_for(|at| *at >= registered).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = caught_up => true,
            changed = self.wished.changed() => changed.is_ok(),
        }
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

fn named(code: i16) -> ErrorCode {
    ErrorCode::from_code(code)
}
