//! A voter of the metadata quorum: opens the log, starts Raft, keeps leadership known and
//! checkpoints made, proposes, describes, stops. Uses `base`, `log`, `metadata`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use openraft::{
    Instant as _, ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, InitializeError, RaftError},
    impls::ProgressResponder,
    metrics::RaftMetrics,
    vote::RaftLeaderId as _,
};
use tokio::{sync::watch, task::JoinSet};
use tonic::service::Routes;

use super::{
    checkpoint::CheckpointDir,
    disk::Disk,
    image_keeper::ImageKeeper,
    log_store::{LogStore, WriterThread},
    machine::{Beginning, Growth, Machine, Raft},
    network::{Caller, MESSAGE_BYTES_MAX, Network},
    observe_service::{Feed, ObserverService},
    roster::Roster,
    service::{Doorman, RaftService},
    settings::{
        Leadership, ProposeError, QuorumDescription, QuorumError, QuorumSettings,
        ReplicaDescription, Voter,
    },
    source::{MetadataSource, Publisher, Subscription},
    types::{self, Applied, LeaderId, Proposal, TypeConfig},
};
use crate::{
    base::{LeaderEpoch, NodeId, Uuid, limits::METADATA_BATCH_BYTES_MAX, ports::Clock},
    log::LogDir,
    metadata::{Image, Position, Record, record::encode_batch},
    pb::quorum::{observers_server::ObserversServer, raft_server::RaftServer},
};

/// A leader that shuts down waits so long for another to take over.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);

/// A running voter.
#[derive(Debug)]
pub struct Quorum {
    settings: QuorumSettings,
    clock: Arc<dyn Clock>,
    raft: RaftHandle,
    log: LogStore,
    checkpoints: Arc<CheckpointDir>,
    publisher: Arc<Publisher>,
    roster: Arc<Roster>,
    leadership: watch::Receiver<Leadership>,
    /// The last entry of the log when this member began.
    began: Position,
    running: Mutex<Option<Running>>,
}

/// Raft's handle has no `Debug` of its own.
struct RaftHandle(Raft);

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raft")
    }
}

/// What ends with the member.
#[derive(Debug)]
struct Running {
    tasks: JoinSet<()>,
    writer: WriterThread,
}

fn check(settings: &QuorumSettings) -> Result<(), QuorumError> {
    let mut ids: Vec<_> = settings.voters.iter().map(|v| v.id).collect();
    ids.sort_unstable();
    let fault = if ids.windows(2).any(|w| w.first() == w.last()) {
        "controller.quorum.voters: a node id appears twice".to_owned()
    } else if !ids.contains(&settings.node_id) {
        format!("controller.quorum.voters: node.id {} is not among the voters", settings.node_id)
    } else {
        return Ok(());
    };
    Err(QuorumError::Settings(fault))
}

/// Openraft's settings from Kafka's.
fn raft_config(settings: &QuorumSettings) -> Result<openraft::Config, QuorumError> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let election = ms(settings.timeouts.election).max(10);
    let config = openraft::Config {
        cluster_name: settings.cluster_id.clone(),
        election_timeout_min: election,
        election_timeout_max: ms(settings.timeouts.fetch).max(election + 1),
        heartbeat_interval: (election / 5).clamp(1, 500),
        install_snapshot_timeout: ms(settings.timeouts.request).max(1),
        max_payload_entries: 1024,
        // Checkpoints are made by bytes and by time, as `keep_checkpoints` says.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: settings.log.entries_kept,
        purge_batch_size: 1,
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        enable_pre_vote: Some(true),
        // Nothing is to be timed where nobody else votes.
        enable_tick: settings.voters.len() > 1,
        // A leader that restarts may have lost entries that were not yet durable here but reached
        // others: it must be elected anew, in another epoch.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    };
    config.validate().map_err(|e| QuorumError::Raft(e.to_string()))
}

impl Quorum {
    /// Opens the log in `dir` and starts the member. It answers peers once [`Quorum::routes`] are
    /// served. The only voter is elected before this returns or shortly after.
    ///
    /// # Errors
    /// See [`QuorumError`].
    pub async fn start(
        settings: QuorumSettings,
        dir: Arc<LogDir>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, QuorumError> {
        check(&settings)?;
        let config = Arc::new(raft_config(&settings)?);
        let caller = Caller::new(&settings.cluster_id, settings.node_id, settings.directory_id)
            .map_err(|e| QuorumError::Settings(e.to_string()))?;
        let policy = settings.log;
        let opening = Arc::clone(&clock);
        let found = tokio::task::spawn_blocking(move || Disk::open(dir, policy, opening));
        let found = found.await.map_err(|e| QuorumError::Raft(e.to_string()))??;
        let fatal = |e: &dyn std::fmt::Display| QuorumError::Raft(e.to_string());
        let (log, writer) = LogStore::start(found.disk).map_err(|e| fatal(&e))?;
        let beginning = Beginning {
            checkpoint: found.checkpoint,
            header: found.header,
            image: found.image,
            checkpoints: Arc::clone(&found.checkpoints),
            growth: Arc::new(Growth::new(policy.checkpoint_bytes)),
            log: log.clone(),
            clock: Arc::clone(&clock),
        };
        let growth = Arc::clone(&beginning.growth);
        let (machine, publisher) = Machine::new(beginning);
        let subscription = publisher.subscribe();
        let network = Network::new(caller, settings.timeouts, settings.voters.clone());
        let raft = match launch(&settings, config, network, log.clone(), machine).await {
            Ok(raft) => raft,
            Err(e) => {
                writer.stop().await;
                return Err(e);
            }
        };
        let began = types::position(raft.data_metrics().borrow_watched().last_log.as_ref());
        let roster = Arc::new(Roster::default());
        let (leader_tx, leadership) = watch::channel(Leadership::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_leadership(raft.clone(), publisher.position(), leader_tx));
        let (place, store) = (found.place, found.store);
        let keeper =
            ImageKeeper { raft: raft.clone(), log: log.clone(), place, store, subscription };
        tasks.spawn(keeper.run());
        tasks.spawn(keep_checkpoints(raft.clone(), growth, policy.checkpoint_interval));
        if settings.voters.len() > 1 {
            tasks.spawn(watch_followers(raft.clone(), Arc::clone(&roster), Arc::clone(&clock)));
        }
        let running = Mutex::new(Some(Running { tasks, writer }));
        let (raft, checkpoints) = (RaftHandle(raft), found.checkpoints);
        Ok(Self {
            settings,
            clock,
            raft,
            log,
            checkpoints,
            publisher,
            roster,
            leadership,
            began,
            running,
        })
    }

    /// The gRPC services of this member: to be served on the controller listener.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let doorman = Doorman { cluster_id: self.settings.cluster_id.as_str().into() };
        let raft = RaftService {
            raft: self.raft.0.clone(),
            doorman: doorman.clone(),
            checkpoints: Arc::clone(&self.checkpoints),
        };
        let feed = Feed {
            log: self.log.clone(),
            checkpoints: Arc::clone(&self.checkpoints),
            position: self.publisher.position(),
            leadership: self.leadership.clone(),
            roster: Arc::clone(&self.roster),
            clock: Arc::clone(&self.clock),
        };
        let raft = RaftServer::new(raft)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let observers = ObserversServer::new(ObserverService { doorman, feed })
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Routes::new(raft).add_service(observers)
    }

    /// Commits `records`, decided on in `epoch`, as one batch: all or none. Returns once they are
    /// part of this node's image.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn propose(
        &self,
        epoch: LeaderEpoch,
        records: &[Record],
    ) -> Result<Position, ProposeError> {
        let records = encode_batch(records);
        if records.len() > METADATA_BATCH_BYTES_MAX {
            let (bytes, max) = (records.len(), METADATA_BATCH_BYTES_MAX);
            return Err(ProposeError::TooLarge { bytes, max });
        }
        let timestamp_ms = self.clock.now().wall_ms;
        let proposal = Proposal { epoch, timestamp_ms, records };
        let (responder, answer) = ProgressResponder::complete_only();
        let leader = LeaderId::new(epoch, self.settings.node_id).to_committed();
        let fatal = |e: &dyn std::fmt::Display| ProposeError::Fatal(e.to_string());
        let write = self.raft.0.write(proposal).with_leader(leader).responder(responder);
        write.await.map_err(|e| fatal(&e))?;
        match answer.await.map_err(|_| fatal(&"its task has ended"))? {
            Ok(done) if done.data == Applied::Yes => Ok(types::position(Some(&done.log_id))),
            Ok(_) | Err(ClientWriteError::LogEntryDiscarded(_)) => Err(ProposeError::Superseded),
            Err(ClientWriteError::ForwardToLeader(to)) => {
                Err(ProposeError::NotLeader { hint: to.leader_id })
            }
            Err(e) => Err(fatal(&e)),
        }
    }

    /// The quorum as this member sees it. What followers have is known to the leader only.
    #[must_use]
    pub fn describe(&self) -> QuorumDescription {
        let metrics = self.raft.0.metrics().borrow_watched().clone();
        let leadership = *self.leadership.borrow();
        let now_ms = self.clock.now().wall_ms;
        let is_leader = metrics.state == ServerState::Leader;
        let voter = |v: &Voter| self.describe_voter(v.id, &metrics, is_leader, now_ms);
        let voters: Vec<_> = self.settings.voters.iter().map(voter).collect();
        let is_voter = |id| self.settings.voters.iter().any(|v| v.id == id);
        let observers = if is_leader { self.roster.list(now_ms) } else { Vec::new() };
        QuorumDescription {
            leader: leadership.leader,
            epoch: leadership.epoch,
            high_watermark: self.high_watermark(),
            voters,
            observers: observers.into_iter().filter(|o| !is_voter(o.id)).collect(),
            endpoints: self.settings.voters.clone(),
            listener_name: self.settings.listener_name.clone(),
        }
    }

    fn describe_voter(
        &self,
        id: NodeId,
        metrics: &RaftMetrics<TypeConfig>,
        is_leader: bool,
        now_ms: i64,
    ) -> ReplicaDescription {
        let unknown = ReplicaDescription {
            id,
            directory_id: Uuid::ZERO,
            log_end_offset: -1,
            last_fetch_ms: -1,
            last_caught_up_ms: -1,
        };
        if id == self.settings.node_id {
            let end = metrics.last_log_index.map_or(0, |i| i + 1);
            return ReplicaDescription {
                directory_id: self.settings.directory_id,
                log_end_offset: i64::try_from(end).unwrap_or(i64::MAX),
                last_fetch_ms: if is_leader { now_ms } else { -1 },
                last_caught_up_ms: if is_leader { now_ms } else { -1 },
                ..unknown
            };
        }
        if !is_leader {
            return unknown;
        }
        self.roster.describe(id).unwrap_or(unknown)
    }

    /// Hands leadership over if there is another voter to take it, then stops.
    pub async fn shutdown(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut running) = running else { return };
        self.hand_over().await;
        if let Err(e) = self.raft.0.shutdown().await {
            tracing::error!("the metadata quorum member did not stop well: {e}");
        }
        running.tasks.shutdown().await;
        running.writer.stop().await;
        self.publisher.close();
    }

    async fn hand_over(&self) {
        let successor = {
            let metrics = self.raft.0.metrics();
            let now = metrics.borrow_watched();
            let followers = now.replication.iter().flatten();
            let others = followers.filter(|(id, _)| **id != self.settings.node_id);
            let best = others.max_by_key(|(_, matched)| **matched);
            best.filter(|_| now.state == ServerState::Leader).map(|(id, _)| *id)
        };
        let Some(to) = successor else { return };
        if self.raft.0.trigger().transfer_leader(to).await.is_err() {
            return;
        }
        let wait = self.raft.0.wait(Some(TRANSFER_TIMEOUT));
        if wait.metrics(|m| m.state != ServerState::Leader, "handed over").await.is_err() {
            tracing::warn!(successor = to.0, "no other controller took over in time");
        }
    }
}

impl MetadataSource for Quorum {
    fn image(&self) -> Arc<Image> {
        self.publisher.image()
    }

    fn subscribe(&self) -> Subscription {
        self.publisher.subscribe()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    fn voters(&self) -> &[Voter] {
        &self.settings.voters
    }

    /// After a restart nothing tells which entries of the log had been committed, and so acted on,
    /// before: all of them count as committed until they are applied, or until an entry of a later
    /// epoch is, behind which none can be missing.
    fn high_watermark(&self) -> i64 {
        let applied = *self.publisher.position().borrow();
        let known = match applied.epoch > self.began.epoch {
            true => applied.offset,
            false => applied.offset.max(self.began.offset),
        };
        known.saturating_add(1)
    }
}

/// Starts Raft and makes sure that the log has its voters.
async fn launch(
    settings: &QuorumSettings,
    config: Arc<openraft::Config>,
    network: Network,
    log: LogStore,
    machine: Machine,
) -> Result<Raft, QuorumError> {
    let raft = Raft::new(settings.node_id, config, network, log, machine)
        .await
        .map_err(|e| QuorumError::Raft(e.to_string()))?;
    if let Err(e) = begin(&raft, settings).await {
        // It stops in any case; the error that is told is the first.
        let _ = raft.shutdown().await;
        return Err(e);
    }
    Ok(raft)
}

/// The first start of a log writes the voters into it; every voter writes the same entry. The only
/// voter does not wait for an election timeout.
async fn begin(raft: &Raft, settings: &QuorumSettings) -> Result<(), QuorumError> {
    let fatal = |e: &dyn std::fmt::Display| QuorumError::Raft(e.to_string());
    match raft.initialize(types::peers(&settings.voters)).await {
        Ok(()) => return Ok(()),
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
        Err(e) => return Err(fatal(&e)),
    }
    let known = raft.metrics().borrow_watched().membership_config.clone();
    let mut voters: Vec<_> = known.voter_ids().collect();
    let mut configured: Vec<_> = settings.voters.iter().map(|v| v.id).collect();
    voters.sort_unstable();
    configured.sort_unstable();
    if voters != configured && !voters.is_empty() {
        let list =
            |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(QuorumError::Settings(format!(
            "controller.quorum.voters names {}, but the metadata log was begun with {}",
            list(&configured),
            list(&voters)
        )));
    }
    if configured.len() == 1 {
        raft.trigger().elect(false).await.map_err(|e| fatal(&e))?;
    }
    Ok(())
}

/// Says who leads; `is_self` once the image has everything from before this member's epoch.
async fn follow_leadership(
    raft: Raft,
    mut position: watch::Receiver<Position>,
    out: watch::Sender<Leadership>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        let next = {
            let m = metrics.borrow_and_update();
            let epoch = m.vote.leader_id.term;
            let applied = *position.borrow_and_update();
            let leads = m.state == ServerState::Leader && m.vote.committed;
            Leadership {
                leader: m.current_leader,
                epoch,
                is_self: leads && m.current_leader == Some(m.id) && applied.epoch >= epoch,
            }
        };
        let was = *out.borrow();
        if was != next {
            if was.leader != next.leader || was.epoch != next.epoch {
                tracing::info!(leader = ?next.leader.map(|l| l.0), epoch = next.epoch, "quorum");
            }
            out.send_replace(next);
        }
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() { break },
            changed = position.changed() => if changed.is_err() { break },
        }
    }
    // Raft has ended: nobody is known to lead.
    out.send_modify(|l| (l.leader, l.is_self) = (None, false));
}

/// Makes a checkpoint when the log grew enough, or by time if it grew at all.
async fn keep_checkpoints(raft: Raft, growth: Arc<Growth>, interval: Duration) {
    loop {
        let by_time = async {
            if interval.is_zero() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(interval).await;
        };
        tokio::select! {
            () = growth.due.notified() => {}
            () = by_time => if !growth.is_any() { continue },
        }
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

/// Keeps in the roster how far the other voters are, while this member leads.
async fn watch_followers(raft: Raft, roster: Arc<Roster>, clock: Arc<dyn Clock>) {
    let mut metrics = raft.data_metrics();
    while metrics.changed().await.is_ok() {
        let now_ms = clock.now().wall_ms;
        let m = metrics.borrow_and_update();
        let Some(replication) = &m.replication else { continue };
        let leader_end = types::position(m.last_log.as_ref()).offset + 1;
        for (id, matched) in replication {
            let heard = m.heartbeat.as_ref().and_then(|h| h.get(id)).copied().flatten();
            let Some(heard) = heard else { continue };
            let age = i64::try_from(heard.elapsed().as_millis()).unwrap_or(i64::MAX);
            let end = types::position(matched.as_ref()).offset + 1;
            roster.report(*id, Uuid::ZERO, end, leader_end, now_ms.saturating_sub(age));
        }
    }
}
