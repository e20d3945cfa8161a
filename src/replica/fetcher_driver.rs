//! One fetcher: a task that follows one leader for some of the partitions this broker follows
//! (`ReplicaFetcherThread`). It asks, hands each answer to its partition, and asks again at once;
//! a question waits at the leader until there is something to tell.
//!
//! What came is flushed, in the durable mode, before the next question; what a truncation made
//! untrue is written to the recovery checkpoint before anything is appended behind it.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::channel::oneshot;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};

use super::{
    fetch_driver::{Address, FetchTerms},
    fetch_frames::{
        AskedBounds, Asker, Bound, FETCH_VERSION, LIST_OFFSETS_VERSION, bounds_request,
        fetch_request, fetched,
    },
    fetch_plan::{Answer, Ask, FetchPlan, Key},
    follower::{FetchPosition, Followed, LeaderBounds},
    lost_driver::LostLeaders,
    partition::{Committed, Partition},
    table::{ReplicaTable, Slot},
    upkeep_driver::write_recovery_points,
};
use crate::{
    base::{ErrorCode, LeaderEpoch, NodeId, Offset},
    net::{Memory, NetError, PeerClient, PeerConfig},
    wire::{
        DecodeError, EncodeError,
        api::{
            fetch::{FetchResponse, PartitionData},
            offsets::ListOffsetsResponse,
        },
        frame::{decode_response, encode_request},
        message::Request,
    },
};

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// With so many positions to look at, logs may have to be loaded: not on a thread that serves.
const MANY: usize = 64;
/// An answer has `replica.fetch.response.max.bytes`, or one batch that is larger; buffers grow
/// with what arrives.
const ANSWER_BYTES_MAX: usize = i32::MAX as usize;

/// What a fetcher is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Begin, or begin anew, with these.
    Add(Vec<Key>),
    /// End with these.
    Remove(Vec<Key>),
    /// The leader is there now; nobody knows where if `None`.
    Address(Option<Address>),
}

/// Why a conversation with the leader ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the fetcher is stopped")]
    Stopped,
    #[error("the leader moved or restarted")]
    Moved,
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] DecodeError),
    #[error("the question cannot be written: {0}")]
    Unwritable(#[from] EncodeError),
    #[error("the leader refuses: {0:?}")]
    Refused(ErrorCode),
}

/// A request that is on its way.
#[derive(Debug)]
enum Call {
    Fetch(u64),
    Bounds(Bound, Vec<AskedBounds>),
}

/// One fetcher.
#[derive(Debug)]
pub(super) struct Fetcher {
    table: Arc<ReplicaTable>,
    terms: Arc<FetchTerms>,
    broker_epoch: watch::Receiver<i64>,
    lost: Arc<LostLeaders>,
    leader: NodeId,
    client_id: String,
    address: Option<Address>,
    commands: mpsc::UnboundedReceiver<Command>,
    plan: FetchPlan,
    calls: VecDeque<Call>,
    correlation_id: i32,
    /// Partitions whose bounds are to be asked for.
    out_of_range: BTreeMap<Key, AskedBounds>,
    /// Where their leader's logs end, until it tells where they begin.
    ends: BTreeMap<Key, Result<Offset, ErrorCode>>,
    /// Partitions that wait for the disk.
    flushing: Vec<(Key, oneshot::Receiver<Committed>)>,
    checkpoint: bool,
    /// How often in a row the leader refused a partition.
    refusals: BTreeMap<Key, u32>,
    /// How often in a row the connection failed.
    failures: u32,
}

impl Fetcher {
    pub(super) fn new(
        table: Arc<ReplicaTable>,
        terms: Arc<FetchTerms>,
        (broker_epoch, lost): (watch::Receiver<i64>, Arc<LostLeaders>),
        (leader, number): (NodeId, usize),
        address: Option<Address>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let client_id = format!("broker-{}-fetcher-{number}", table.node_id);
        Self {
            table,
            terms,
            broker_epoch,
            lost,
            leader,
            client_id,
            address,
            commands,
            plan: FetchPlan::default(),
            calls: VecDeque::new(),
            correlation_id: 0,
            out_of_range: BTreeMap::new(),
            ends: BTreeMap::new(),
            flushing: Vec::new(),
            checkpoint: false,
            refusals: BTreeMap::new(),
            failures: 0,
        }
    }

    /// Fetches until its commands end.
    pub(super) async fn run(mut self) {
        while let Some(mut peer) = self.connect().await {
            self.lost.found(self.leader);
            let end = self.converse(&mut peer).await;
            drop(peer);
            if matches!(end, End::Net(_)) {
                self.lost.lost(self.leader);
            }
            self.hang_up();
            match end {
                End::Stopped => return,
                End::Moved => self.failures = 0,
                end => self.failed(&end),
            }
        }
    }

    /// Connects once there is something to fetch and somebody to ask. `None` at the end.
    async fn connect(&mut self) -> Option<PeerClient> {
        loop {
            let Some(address) = self.address.clone().filter(|_| !self.plan.is_empty()) else {
                self.obey().await?;
                continue;
            };
            let pause = self.pause();
            let config = self.peer_config();
            let mut attempt = pin!(async {
                sleep(pause).await;
                PeerClient::connect(&address.host, address.port, &config).await
            });
            loop {
                tokio::select! {
                    done = &mut attempt => match done {
                        Ok(peer) => return Some(peer),
                        Err(e) => {
                            self.failed(&e.into());
                            break;
                        }
                    },
                    moved = self.obey() => if moved? {
                        self.failures = 0;
                        break;
                    }
                }
            }
        }
    }

    fn peer_config(&self) -> PeerConfig {
        PeerConfig {
            connect_timeout: self.terms.socket_timeout,
            request_timeout: self.terms.socket_timeout,
            frame_bytes_max: ANSWER_BYTES_MAX,
            receive_buffer_bytes: self.terms.receive_buffer_bytes,
            memory: Arc::new(Memory::new(0, ANSWER_BYTES_MAX)),
        }
    }

    /// Takes the next command and all that came with it. Tells whether the leader's address
    /// changed; `None` at the end. Nothing is lost if it is dropped.
    async fn obey(&mut self) -> Option<bool> {
        let first = self.commands.recv().await?;
        let mut moved = self.apply(first);
        while let Ok(command) = self.commands.try_recv() {
            moved |= self.apply(command);
        }
        Some(moved)
    }

    fn apply(&mut self, command: Command) -> bool {
        match command {
            Command::Add(keys) => {
                for key in keys {
                    self.refusals.remove(&key);
                    self.plan.add(key);
                }
                false
            }
            Command::Remove(keys) => {
                for key in keys {
                    self.forget(key);
                }
                false
            }
            Command::Address(address) => {
                let moved = self.address != address;
                self.address = address;
                moved
            }
        }
    }

    fn forget(&mut self, key: Key) {
        self.refusals.remove(&key);
        self.plan.remove(key);
    }

    async fn converse(&mut self, peer: &mut PeerClient) -> End {
        loop {
            if let Err(end) = self.speak(peer).await {
                return end;
            }
            let now = self.table.clock.now().mono;
            let delay = self.plan.next_deadline().map(|at| at.since(now));
            tokio::select! {
                frame = peer.receive(), if peer.in_flight() > 0 => {
                    let heard = frame.map_err(End::from).and_then(|f| self.hear(&f));
                    if let Err(end) = heard {
                        return end;
                    }
                }
                moved = self.obey() => match moved {
                    Some(false) => {}
                    Some(true) => return End::Moved,
                    None => return End::Stopped,
                },
                () = sleep(delay.unwrap_or_default()), if delay.is_some() => {}
            }
        }
    }

    /// Asks all that may be asked now.
    async fn speak(&mut self, peer: &mut PeerClient) -> Result<(), End> {
        self.plan.wake_due(self.table.clock.now().mono);
        self.settle().await;
        let asked: Vec<_> = std::mem::take(&mut self.out_of_range).into_values().collect();
        if !asked.is_empty() {
            let asker = self.asker();
            for bound in [Bound::Latest, Bound::Earliest] {
                let request = bounds_request(&asked, bound, asker);
                self.send(peer, &request, LIST_OFFSETS_VERSION).await?;
                self.calls.push_back(Call::Bounds(bound, asked.clone()));
            }
        }
        while self.plan.may_ask(self.fetches_in_flight()) {
            self.load_logs().await;
            let ask = self.ask();
            self.settle().await;
            let Some(ask) = ask else { continue };
            let request = fetch_request(&ask, self.asker(), self.terms.size);
            self.send(peer, &request, FETCH_VERSION).await?;
            self.calls.push_back(Call::Fetch(ask.number));
        }
        Ok(())
    }

    fn fetches_in_flight(&self) -> usize {
        self.calls.iter().filter(|c| matches!(c, Call::Fetch(_))).count()
    }

    fn asker(&self) -> Asker {
        Asker { node_id: self.table.node_id, broker_epoch: *self.broker_epoch.borrow() }
    }

    async fn send<R: Request>(
        &mut self,
        peer: &mut PeerClient,
        request: &R,
        version: i16,
    ) -> Result<(), End> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let id = Some(self.client_id.as_str());
        let frame = encode_request(self.correlation_id, id, request, version)?;
        Ok(peer.send(frame).await?)
    }

    /// The next question. What it finds to be flushed or written down first is noted.
    fn ask(&mut self) -> Option<Ask> {
        let (table, now) = (Arc::clone(&self.table), self.table.clock.now());
        let leader = Some(self.leader);
        let (mut unflushed, mut checkpoint) = (Vec::new(), false);
        let mut throttled = Vec::new();
        let ask = self.plan.ask(&mut |key| {
            let slot = table.by_id(key.0, key.1)?;
            let mut partition = slot.lock();
            if partition.follows() != leader {
                return None;
            }
            if lags_throttled(&partition)
                && let Some(pause) = table.quotas.follower.pause(now.mono)
            {
                throttled.push((key, now.mono.after(pause)));
                return None;
            }
            let position = partition.next_fetch(now);
            checkpoint |= partition.log.checkpoint_due();
            if position.is_none()
                && let Some(flushed) = partition.follower_flush()
            {
                unflushed.push((key, Arc::clone(&slot), flushed));
            }
            position
        });
        self.checkpoint |= checkpoint;
        for (key, until) in throttled {
            self.plan.delay(key, until);
        }
        for (key, slot, flushed) in unflushed {
            self.table.flush(&slot);
            self.flushing.push((key, flushed));
        }
        ask
    }

    /// Waits until all that was appended may be told to the leader, and more be appended.
    async fn settle(&mut self) {
        for (key, flushed) in std::mem::take(&mut self.flushing) {
            // A flush that failed shows when the position is looked at.
            let _ = flushed.await;
            self.plan.touch(key);
            self.plan.hurry();
        }
        if std::mem::take(&mut self.checkpoint) {
            let table = Arc::clone(&self.table);
            let done = tokio::task::spawn_blocking(move || write_recovery_points(&table)).await;
            if let Err(e) = done {
                tracing::error!("writing recovery points failed: {e}");
            }
        }
    }

    /// Brings logs into memory that were not used since the start, if there are many.
    async fn load_logs(&self) {
        if self.plan.changed().len() < MANY {
            return;
        }
        let keys: Vec<_> = self.plan.changed().collect();
        let table = Arc::clone(&self.table);
        let load = move || {
            let now = table.clock.now();
            for (topic, partition) in keys {
                if let Some(slot) = table.by_id(topic, partition) {
                    slot.lock().next_fetch(now);
                }
            }
        };
        if let Err(e) = tokio::task::spawn_blocking(load).await {
            tracing::error!("loading logs failed: {e}");
        }
    }

    fn hear(&mut self, frame: &Bytes) -> Result<(), End> {
        match self.calls.pop_front() {
            Some(Call::Fetch(number)) => {
                let (_, response) = decode_response(frame, FETCH_VERSION)?;
                self.hear_fetch(number, response)
            }
            Some(Call::Bounds(bound, asked)) => {
                let (_, response) = decode_response(frame, LIST_OFFSETS_VERSION)?;
                self.hear_bounds(bound, asked, response);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn hear_fetch(&mut self, number: u64, response: FetchResponse) -> Result<(), End> {
        match self.plan.answered(number, response.error_code, response.session_id) {
            Answer::Void => return Ok(()),
            Answer::NoSession => {
                tracing::debug!(leader = %self.leader, "fetch session: {:?}", response.error_code);
                return Ok(());
            }
            Answer::Refused(code) => return Err(End::Refused(code)),
            Answer::Taken => {}
        }
        if std::mem::take(&mut self.failures) > 0 {
            tracing::info!(leader = %self.leader, "fetching again");
        }
        for topic in response.responses {
            for data in topic.partitions {
                let key = (topic.topic_id, data.partition_index);
                let Some(asked) = self.plan.asked(key, number) else { continue };
                match self.table.by_id(key.0, key.1) {
                    Some(slot) => self.hear_partition(key, &slot, &asked, &data),
                    None => self.forget(key),
                }
            }
        }
        Ok(())
    }

    fn hear_partition(
        &mut self,
        key: Key,
        slot: &Arc<Slot>,
        asked: &FetchPosition,
        data: &PartitionData,
    ) {
        let now = self.table.clock.now();
        let mut partition = slot.lock();
        let followed = partition.fetched(&fetched(asked, data), now);
        let flush = partition.flush_due(now);
        let moved = matches!(followed, Followed::Moved { .. });
        let flushed = if moved { partition.follower_flush() } else { None };
        let log_start = partition.log.log_start_offset();
        self.checkpoint |= partition.log.checkpoint_due();
        // Whether it may be asked for again is to be looked at with each answer.
        let lags = lags_throttled(&partition);
        if let Followed::Moved { bytes } = followed
            && partition.is_throttled_follower()
        {
            self.table.quotas.follower.record(bytes, now.mono);
        }
        drop(partition);
        if flush || flushed.is_some() {
            self.table.flush(slot);
        }
        self.flushing.extend(flushed.map(|f| (key, f)));
        if followed == Followed::Same && (lags || log_start != asked.log_start) {
            self.plan.touch(key);
        }
        self.proceed(key, slot, asked.current_leader_epoch, followed);
    }

    /// Does what a partition needs next.
    fn proceed(&mut self, key: Key, slot: &Slot, leader_epoch: LeaderEpoch, followed: Followed) {
        match followed {
            Followed::Stale => self.plan.touch(key),
            Followed::Same => _ = self.refusals.remove(&key),
            Followed::Moved { .. } => {
                self.refusals.remove(&key);
                self.plan.touch(key);
            }
            Followed::AskBounds => {
                let topic = Arc::clone(&slot.topic);
                self.out_of_range.insert(key, AskedBounds { key, topic, leader_epoch });
                self.plan.touch(key);
            }
            Followed::BackOff(code) => self.back_off(key, slot, code),
            Followed::Failed(code) => {
                let leader = self.leader;
                tracing::warn!(partition = %slot.id(), %leader, ?code, "waits for metadata");
                self.forget(key);
            }
        }
    }

    fn back_off(&mut self, key: Key, slot: &Slot, code: ErrorCode) {
        let refusals = self.refusals.entry(key).or_default();
        // A leader that is about to take office, or about to be known, is soon ready.
        let soon = matches!(
            code,
            ErrorCode::NotLeaderOrFollower
                | ErrorCode::UnknownLeaderEpoch
                | ErrorCode::UnknownTopicId
                | ErrorCode::UnknownTopicOrPartition
        );
        let pause = if soon { growing(*refusals, self.terms.backoff) } else { self.terms.backoff };
        *refusals = refusals.saturating_add(1);
        let leader = self.leader;
        if soon {
            tracing::debug!(partition = %slot.id(), %leader, ?code, "fetch put off");
        } else {
            tracing::warn!(partition = %slot.id(), %leader, ?code, "fetch put off");
        }
        self.plan.delay(key, self.table.clock.now().mono.after(pause));
    }

    fn hear_bounds(&mut self, bound: Bound, asked: Vec<AskedBounds>, answer: ListOffsetsResponse) {
        let mut offsets = BTreeMap::new();
        for topic in answer.topics {
            for p in topic.partitions {
                let offset = match p.error_code {
                    ErrorCode::None if p.offset >= 0 => Ok(p.offset),
                    ErrorCode::None => Err(ErrorCode::UnknownServerError),
                    code => Err(code),
                };
                offsets.insert((topic.name.clone(), p.partition_index), offset);
            }
        }
        for a in asked {
            let told = offsets.remove(&(a.topic.to_string(), a.key.1));
            let told = told.unwrap_or(Err(ErrorCode::UnknownServerError));
            match bound {
                Bound::Latest => _ = self.ends.insert(a.key, told),
                Bound::Earliest => {
                    let end = self.ends.remove(&a.key);
                    let end = end.unwrap_or(Err(ErrorCode::UnknownServerError));
                    self.bounded(&a, end.and_then(|end| Ok((told?, end))));
                }
            }
        }
    }

    /// Tells a partition where its leader's log begins and ends.
    fn bounded(&mut self, asked: &AskedBounds, told: Result<(Offset, Offset), ErrorCode>) {
        let Some(slot) = self.table.by_id(asked.key.0, asked.key.1) else { return };
        let leader_epoch = asked.leader_epoch;
        let mut partition = slot.lock();
        let followed = match told {
            Ok((start, end)) => {
                let bounds = LeaderBounds { leader_epoch, start, end };
                partition.bounded(bounds, self.table.clock.now())
            }
            Err(code) => partition.bounds_refused(leader_epoch, code),
        };
        self.checkpoint |= partition.log.checkpoint_due();
        drop(partition);
        self.proceed(asked.key, &slot, leader_epoch, followed);
    }

    /// The conversation is over: nothing that was asked is answered any more.
    fn hang_up(&mut self) {
        let mut asked: Vec<_> = std::mem::take(&mut self.out_of_range).into_values().collect();
        for call in std::mem::take(&mut self.calls) {
            if let Call::Bounds(Bound::Earliest, more) = call {
                asked.extend(more);
            }
        }
        self.ends.clear();
        self.plan.disconnected();
        for asked in asked {
            self.bounded(&asked, Err(ErrorCode::NetworkException));
        }
    }

    fn failed(&mut self, end: &End) {
        let leader = self.leader;
        if self.failures == 0 {
            tracing::warn!(%leader, "fetching stops: {end}; trying again");
        } else {
            tracing::debug!(%leader, "fetching: {end}");
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait before the next attempt to connect.
    fn pause(&self) -> Duration {
        match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(n) => growing(n, self.terms.backoff),
        }
    }
}

/// Whether a partition's fetching may have to wait for the quota: it is throttled and lacks
/// anything that is committed, as far as it knows (`RemoteLeaderEndPoint.shouldFollowerThrottle`).
fn lags_throttled(partition: &Partition) -> bool {
    partition.is_throttled_follower() && partition.lag().is_none_or(|lag| lag > 0)
}

/// The pause after the failure that `n` others came before.
fn growing(n: u32, max: Duration) -> Duration {
    FIRST_PAUSE.saturating_mul(1_u32.checked_shl(n.min(16)).unwrap_or(1)).min(max)
}
