//! The way to share state (`DefaultStatePersister.java`, `PersisterStateManager.java`): finds the
//! coordinator of each share partition in the metadata, asks this broker's own directly and others
//! by their listener between brokers, and tries again what fails for a passing reason. One lane a
//! broker and API, with a bounded queue; all that waits for it goes out together: one request a
//! group, as the protocol has it. May wait.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt as _};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};

use super::{
    share_calls::{ShareAsk, ShareReply},
    share_driver::ShareStates,
    share_persister::{ShareKey, SharePersister, ShareState, ShareSummary, ShareWrite},
    share_ports::{ShareBroker, ShareCoordinator},
    translate_share::{self, Asks, Kind, Replies},
};
use crate::{
    base::{ErrorCode, NodeId, Offset},
    net::{NetError, PeerClient, PeerConfig},
    wire::{
        DecodeError, EncodeError,
        frame::{decode_response, encode_request},
        message::Request,
    },
};

const CLIENT_ID: &str = "share-persister";
/// Asks that may wait for one lane; further ones wait for room.
const LANE_ASKS_MAX: usize = 1000;
/// Asks that go out together.
const ROUND_ASKS_MAX: usize = 1000;
/// Requests under way on one connection: neither side may wait for the other to read.
const IN_FLIGHT_MAX: usize = 5;
/// The pause after the first failure; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an ask is tried: as long as Kafka's five attempts with pauses of 1, 2, 4 and 8 seconds.
const PATIENCE: Duration = Duration::from_secs(15);

/// The way to share state. A cheap handle; clones share everything.
#[derive(Debug, Clone)]
pub struct Persister {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// This broker's own share coordinator.
    states: ShareStates,
    broker: Arc<dyn ShareBroker>,
    request_timeout: Duration,
    runtime: Handle,
    lanes: Mutex<BTreeMap<(NodeId, Kind), mpsc::Sender<Asked>>>,
    /// Held while the topic is created, so that it is asked for once.
    creating: tokio::sync::Mutex<()>,
    /// With the broker's own share coordinator ends this, too.
    stopped: watch::Receiver<bool>,
}

/// One ask on its way.
#[derive(Debug)]
struct Asked {
    to: (Arc<str>, u16),
    key: ShareKey,
    ask: ShareAsk,
    answer: oneshot::Sender<ShareReply>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] DecodeError),
    #[error("the request cannot be written: {0}")]
    Unwritable(#[from] EncodeError),
}

impl Persister {
    /// Asks `states` where this broker is the coordinator. Another may take `request_timeout` to
    /// answer. Once `states` are stopped, all is answered with `CoordinatorNotAvailable`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(
        states: ShareStates,
        broker: Arc<dyn ShareBroker>,
        request_timeout: Duration,
    ) -> Self {
        let inner = Inner {
            stopped: states.stopped(),
            states,
            broker,
            request_timeout,
            runtime: Handle::current(),
            lanes: Mutex::default(),
            creating: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    fn ask(&self, key: ShareKey, ask: ShareAsk) -> BoxFuture<'static, ShareReply> {
        let inner = Arc::clone(&self.inner);
        async move {
            let mut stopped = inner.stopped.clone();
            let refused = ask.refused(ErrorCode::CoordinatorNotAvailable);
            tokio::select! {
                reply = inner.ask(key, ask) => reply,
                _ = stopped.wait_for(|stopped| *stopped) => refused,
            }
        }
        .boxed()
    }
}

/// Errors that pass by themselves, or by asking another broker.
const fn is_passing(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::NotCoordinator
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NetworkException
            | ErrorCode::RequestTimedOut
    )
}

impl Inner {
    async fn ask(self: &Arc<Self>, key: ShareKey, ask: ShareAsk) -> ShareReply {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let reply = self.try_once(&key, &ask).await;
            let error = match reply.error() {
                Some(error) if is_passing(error) => error,
                _ => return reply,
            };
            if Instant::now() + pause > deadline {
                let (group, topic, partition) = (&*key.group, key.topic, key.partition);
                let code = error.name();
                tracing::warn!(group, %topic, partition, code, "share state is out of reach");
                return match error {
                    ErrorCode::NetworkException | ErrorCode::RequestTimedOut => {
                        reply.failed(ErrorCode::CoordinatorNotAvailable)
                    }
                    _ => reply,
                };
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_once(self: &Arc<Self>, key: &ShareKey, ask: &ShareAsk) -> ShareReply {
        let mut found = self.coordinator(key);
        if found == ShareCoordinator::NoTopic {
            let _creating = self.creating.lock().await;
            if self.coordinator(key) == ShareCoordinator::NoTopic {
                self.broker.create_topic().await;
            }
            found = self.coordinator(key);
        }
        match found {
            ShareCoordinator::Here => self.states.ask(key.clone(), ask.clone()).await,
            ShareCoordinator::At { node, host, port } => {
                let (answer, reply) = oneshot::channel();
                let (key, refused) = (key.clone(), ask.refused(ErrorCode::NetworkException));
                let asked = Asked { to: (host, port), key, ask: ask.clone(), answer };
                let lane = self.lane(node, ask.kind());
                if lane.send(asked).await.is_err() {
                    return refused;
                }
                reply.await.unwrap_or(refused)
            }
            ShareCoordinator::Unknown | ShareCoordinator::NoTopic => {
                ask.refused(ErrorCode::CoordinatorNotAvailable)
            }
        }
    }

    fn coordinator(&self, key: &ShareKey) -> ShareCoordinator {
        self.broker.coordinator(&|count| key.state_partition(count))
    }

    fn lane(self: &Arc<Self>, node: NodeId, kind: Kind) -> mpsc::Sender<Asked> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry((node, kind)).or_insert_with(|| {
            let (lane, asks) = mpsc::channel(LANE_ASKS_MAX);
            self.runtime.spawn(Arc::clone(self).run(node, kind, asks));
            lane
        });
        lane.clone()
    }

    /// One lane: sends what has come in, as much at a time as has come in.
    async fn run(self: Arc<Self>, node: NodeId, kind: Kind, mut asks: mpsc::Receiver<Asked>) {
        let mut stopped = self.stopped.clone();
        let mut peer: Option<PeerClient> = None;
        let mut waiting: VecDeque<Asked> = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let first = tokio::select! {
                    first = asks.recv() => first,
                    _ = stopped.wait_for(|stopped| *stopped) => None,
                };
                let Some(first) = first else { return };
                waiting.push_back(first);
            }
            while waiting.len() < ROUND_ASKS_MAX
                && let Ok(more) = asks.try_recv()
            {
                waiting.push_back(more);
            }
            let round = next_round(&mut waiting);
            let Some(to) = round.last().map(|asked| asked.to.clone()) else { continue };
            let answers = tokio::select! {
                answers = self.converse(&mut peer, &to, kind, &round) => answers,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            };
            let mut answers = answers.unwrap_or_else(|error| {
                tracing::debug!(node = node.0, %error, "the share coordinator was not reached");
                BTreeMap::new()
            });
            for asked in round {
                let place = (asked.key.topic, asked.key.partition);
                let replies = answers.get_mut(&asked.key.group);
                let reply = replies.and_then(|replies| replies.remove(&place));
                let failed = || asked.ask.refused(ErrorCode::NetworkException);
                // Whoever asked may have gone.
                let _ = asked.answer.send(reply.unwrap_or_else(failed));
            }
        }
    }

    /// Asks, and gives the answers by group. A connection that was idle may turn out to be closed:
    /// then a new one is tried, for nothing here is spoiled by being done twice.
    async fn converse(
        &self,
        peer: &mut Option<PeerClient>,
        to: &(Arc<str>, u16),
        kind: Kind,
        round: &[Asked],
    ) -> Result<BTreeMap<Arc<str>, Replies>, Failure> {
        let mut groups: BTreeMap<&Arc<str>, Vec<(&ShareKey, &ShareAsk)>> = BTreeMap::new();
        for asked in round {
            groups.entry(&asked.key.group).or_default().push((&asked.key, &asked.ask));
        }
        let (host, port) = to;
        let reused = peer.take().filter(|p| p.address() == format!("{host}:{port}"));
        if let Some(mut reused) = reused
            && let Ok(answers) = speak(&mut reused, kind, &groups).await
        {
            *peer = Some(reused);
            return Ok(answers);
        }
        let config = PeerConfig { request_timeout: self.request_timeout, ..PeerConfig::new() };
        let mut fresh = PeerClient::connect(host, *port, &config).await?;
        let answers = speak(&mut fresh, kind, &groups).await?;
        *peer = Some(fresh);
        Ok(answers)
    }
}

/// What goes out next: of each share partition the first that waits, the rest later.
fn next_round(waiting: &mut VecDeque<Asked>) -> Vec<Asked> {
    waiting.retain(|asked| !asked.answer.is_closed());
    let mut keys = BTreeSet::new();
    let (mut now, mut later) = (Vec::new(), VecDeque::new());
    for asked in waiting.drain(..) {
        match keys.insert(asked.key.clone()) {
            true => now.push(asked),
            false => later.push_back(asked),
        }
    }
    *waiting = later;
    now
}

type Groups<'a> = BTreeMap<&'a Arc<str>, Vec<(&'a ShareKey, &'a ShareAsk)>>;

async fn speak(
    peer: &mut PeerClient,
    kind: Kind,
    groups: &Groups<'_>,
) -> Result<BTreeMap<Arc<str>, Replies>, Failure> {
    use translate_share as t;
    match kind {
        Kind::Initialize => {
            exchange(peer, groups, 0, t::initialize_request, |r| t::done_replies(r.results)).await
        }
        Kind::Read => exchange(peer, groups, 0, t::read_request, t::read_replies).await,
        Kind::Write => {
            exchange(peer, groups, 1, t::write_request, |r| t::done_replies(r.results)).await
        }
        Kind::Delete => {
            exchange(peer, groups, 0, t::delete_request, |r| t::done_replies(r.results)).await
        }
        Kind::Summary => exchange(peer, groups, 1, t::summary_request, t::summary_replies).await,
    }
}

/// Sends a request a group, some of them before the first answer has come.
async fn exchange<R: Request>(
    peer: &mut PeerClient,
    groups: &Groups<'_>,
    version: i16,
    request: impl Fn(&str, Asks<'_>) -> R,
    replies: impl Fn(R::Response) -> Replies,
) -> Result<BTreeMap<Arc<str>, Replies>, Failure> {
    let (mut answers, mut awaited) = (BTreeMap::new(), VecDeque::new());
    let mut rest = (1_i32..).zip(groups);
    loop {
        if awaited.len() < IN_FLIGHT_MAX
            && let Some((number, (group, asks))) = rest.next()
        {
            let request = request(group, asks);
            peer.send(encode_request(number, Some(CLIENT_ID), &request, version)?).await?;
            awaited.push_back(group);
            continue;
        }
        let Some(group) = awaited.pop_front() else { return Ok(answers) };
        let answer = peer.receive().await?;
        let (_, response) = decode_response::<R::Response>(&answer, version)?;
        answers.insert(Arc::clone(group), replies(response));
    }
}

impl SharePersister for Persister {
    fn initialize(
        &self,
        key: ShareKey,
        state_epoch: i32,
        start_offset: Offset,
    ) -> BoxFuture<'static, Result<(), ErrorCode>> {
        let ask = ShareAsk::Initialize { state_epoch, start_offset };
        self.ask(key, ask).map(ShareReply::done).boxed()
    }

    fn read(
        &self,
        key: ShareKey,
        leader_epoch: i32,
    ) -> BoxFuture<'static, Result<ShareState, ErrorCode>> {
        self.ask(key, ShareAsk::Read { leader_epoch }).map(ShareReply::state).boxed()
    }

    fn write(&self, key: ShareKey, write: ShareWrite) -> BoxFuture<'static, Result<(), ErrorCode>> {
        self.ask(key, ShareAsk::Write(write)).map(ShareReply::done).boxed()
    }

    fn delete(&self, key: ShareKey) -> BoxFuture<'static, Result<(), ErrorCode>> {
        self.ask(key, ShareAsk::Delete).map(ShareReply::done).boxed()
    }

    fn summary(
        &self,
        key: ShareKey,
        leader_epoch: i32,
    ) -> BoxFuture<'static, Result<ShareSummary, ErrorCode>> {
        self.ask(key, ShareAsk::Summary { leader_epoch }).map(ShareReply::summary).boxed()
    }
}
