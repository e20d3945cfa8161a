//! A voter of the metadata quorum: opens the log, starts Raft, keeps leadership known and
//! checkpoints made, proposes, describes, stops. Uses `base`, `log`, `metadata`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{
    ServerState, SnapshotPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, InitializeError, RaftError},
    impls::ProgressResponder,
    metrics::RaftMetrics,
    vote::RaftLeaderId as _,
};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    task::JoinSet,
};
use tonic::service::Routes;

use super::{
    attend::{Granted, LeaderHeard, LeaderWatch},
    checkpoint::CheckpointDir,
    disk::Disk,
    doorman::Doorman,
    enrol::Enrolment,
    handover::Handover,
    image_keeper::{Beside, ImageKeeper},
    log_store::{LogStore, WriterThread},
    machine::{Beginning, Growth, Machine, Raft},
    network::{Caller, MESSAGE_BYTES_MAX, Network},
    observe_service::{Feed, ObserverService},
    peers::Peers,
    roster::Roster,
    service::RaftService,
    settings::{
        ControllerEndpoint, Leadership, ProposeError, QuorumDescription, QuorumError,
        QuorumSettings, ReplicaDescription, Voter, VoterChangeError, VoterKey,
    },
    source::{MetadataSource, Publisher, Subscription},
    types::{self, Applied, LeaderId, Proposal, TypeConfig},
    upkeep,
    voters::VoterChanges,
};
use crate::{
    base::{LeaderEpoch, Mono, NodeId, limits::METADATA_BATCH_BYTES_MAX, ports::Clock},
    log::LogDir,
    metadata::{Image, Position, Record, record::encode_batch},
    pb::quorum::{observers_server::ObserversServer, raft_server::RaftServer},
};

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
    doorman: Doorman,
    caller: Caller,
    changes: Arc<VoterChanges>,
    granted: Arc<Granted>,
    heard: Arc<LeaderHeard>,
    leadership: watch::Receiver<Leadership>,
    /// The last entry of the log when this member began.
    began: Position,
    handed_over: AtomicBool,
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
    } else if settings.dynamic.is_none() && !ids.contains(&settings.node_id) {
        format!("controller.quorum.voters: node.id {} is not among the voters", settings.node_id)
    } else {
        return Ok(());
    };
    Err(QuorumError::Settings(fault))
}

/// How long a majority's silence is borne: by its leader before it resigns, and by a follower
/// before it may vote for another. Elections come after that, so that both together end within
/// `controller.quorum.fetch.timeout.ms`.
fn lease(settings: &QuorumSettings) -> Duration {
    let t = settings.timeouts;
    t.election.min(t.fetch / 2).max(Duration::from_millis(20))
}

/// Openraft's settings from Kafka's.
fn raft_config(settings: &QuorumSettings) -> Result<openraft::Config, QuorumError> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let lease = ms(lease(settings));
    let config = openraft::Config {
        cluster_name: settings.cluster_id.clone(),
        election_timeout_min: lease - lease / 4,
        // Also the leader's lease.
        election_timeout_max: lease,
        heartbeat_interval: (lease / 5).clamp(1, 500),
        install_snapshot_timeout: ms(settings.timeouts.request).max(1),
        max_payload_entries: 1024,
        // Checkpoints are made by bytes and by time, as `keep_checkpoints` says.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: settings.log.entries_kept,
        purge_batch_size: 1,
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        enable_pre_vote: Some(true),
        // Nothing is to be timed where nobody else votes, ever.
        enable_tick: settings.voters.len() > 1 || settings.dynamic.is_some(),
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
        let dial = Arc::clone(&settings.dial);
        let (id, directory) = (settings.node_id, settings.directory_id);
        let caller = Caller::new(&settings.cluster_id, id, directory, dial)
            .map_err(|e| QuorumError::Settings(e.to_string()))?;
        let policy = settings.log;
        let opening = Arc::clone(&clock);
        let found = tokio::task::spawn_blocking(move || Disk::open(dir, policy, opening));
        let found = found.await.map_err(|e| QuorumError::Raft(e.to_string()))??;
        let fatal = |e: &dyn std::fmt::Display| QuorumError::Raft(e.to_string());
        let (log, writer) =
            LogStore::start(found.disk, policy.own_thread).map_err(|e| fatal(&e))?;
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
        let configured = match settings.dynamic {
            Some(_) => Vec::new(),
            None => settings.voters.clone(),
        };
        let timeouts = settings.timeouts;
        let peers = Peers::new(caller.clone(), timeouts, configured);
        let network = Network { caller: caller.clone(), timeouts, peers: Arc::clone(&peers) };
        let raft = match launch(&settings, config, network, log.clone(), machine).await {
            Ok(raft) => raft,
            Err(e) => {
                writer.stop().await;
                return Err(e);
            }
        };
        let began = types::position(raft.data_metrics().borrow_watched().last_log.as_ref());
        let (leader_tx, leadership) = watch::channel(Leadership::default());
        let changes = Arc::new(VoterChanges {
            raft: raft.clone(),
            peers,
            leadership: leadership.clone(),
            dynamic: settings.dynamic.is_some(),
            listener_name: settings.listener_name.clone(),
            one: Arc::new(AsyncMutex::new(())),
        });
        let heard = Arc::new(LeaderHeard::new(Arc::clone(&clock)));
        let quorum = Self {
            doorman: Doorman::new(&settings.cluster_id, settings.directory_id),
            settings,
            clock,
            raft: RaftHandle(raft),
            log,
            checkpoints: found.checkpoints,
            publisher,
            roster: Arc::default(),
            caller,
            changes,
            granted: Arc::default(),
            heard,
            leadership,
            began,
            handed_over: AtomicBool::new(false),
            running: Mutex::default(),
        };
        let (place, store) = (found.place, found.store);
        let raft = quorum.raft.0.clone();
        let beside = Beside::Log(raft, quorum.log.clone());
        let keeper = ImageKeeper { beside, place, store, subscription };
        let tasks = quorum.tasks(leader_tx, growth, keeper);
        let running = Some(Running { tasks, writer });
        *quorum.running.lock().unwrap_or_else(PoisonError::into_inner) = running;
        Ok(quorum)
    }

    /// What runs beside Raft.
    fn tasks(
        &self,
        leader: watch::Sender<Leadership>,
        growth: Arc<Growth>,
        keeper: ImageKeeper,
    ) -> JoinSet<()> {
        let raft = || self.raft.0.clone();
        let s = &self.settings;
        let mut tasks = JoinSet::new();
        let position = self.publisher.position();
        tasks.spawn(upkeep::Herald::new(raft(), position, lease(s), leader).run());
        tasks.spawn(keeper.run());
        tasks.spawn(upkeep::keep_checkpoints(raft(), growth, s.log.checkpoint_interval));
        if s.voters.len() == 1 && s.dynamic.is_none() {
            return tasks;
        }
        let (roster, clock) = (Arc::clone(&self.roster), Arc::clone(&self.clock));
        tasks.spawn(upkeep::watch_followers(raft(), roster, self.doorman.clone(), clock));
        let peers = || Arc::clone(&self.changes.peers);
        let changes = self.changes.as_ref().clone();
        tasks.spawn(upkeep::name_the_silent(changes, peers(), self.leadership.clone()));
        let watch = LeaderWatch {
            raft: raft(),
            node_id: s.node_id,
            caller: self.caller.clone(),
            timeouts: s.timeouts,
            peers: peers(),
            granted: Arc::clone(&self.granted),
        };
        tasks.spawn(watch.run());
        if let Some(dynamic) = &s.dynamic {
            tasks.spawn(upkeep::look_after_members(self.changes.as_ref().clone()));
            let at = &dynamic.advertised;
            let enrolment = Enrolment {
                changes: Arc::clone(&self.changes),
                leadership: self.leadership.clone(),
                settings: dynamic.clone(),
                own: Voter {
                    id: s.node_id,
                    directory_id: s.directory_id,
                    host: at.host.clone(),
                    port: at.port,
                },
                caller: self.caller.clone(),
                timeouts: s.timeouts,
            };
            tasks.spawn(enrolment.run());
        }
        tasks
    }

    /// The gRPC services of this member: to be served on the controller listener.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let doorman = self.doorman.clone();
        let raft = RaftService {
            raft: self.raft.0.clone(),
            doorman: doorman.clone(),
            checkpoints: Arc::clone(&self.checkpoints),
            changes: Arc::clone(&self.changes),
            granted: Arc::clone(&self.granted),
            heard: Arc::clone(&self.heard),
        };
        let feed = Feed {
            log: self.log.clone(),
            checkpoints: Arc::clone(&self.checkpoints),
            position: self.publisher.position(),
            leadership: self.leadership.clone(),
            roster: Arc::clone(&self.roster),
            clock: Arc::clone(&self.clock),
            changes: Arc::clone(&self.changes),
        };
        let raft = RaftServer::new(raft)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let observers = ObserversServer::new(ObserverService { doorman, feed })
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Routes::new(raft).add_service(observers)
    }

    /// Checks that callers of other services of this node's controller listener are of its cluster.
    #[must_use]
    pub fn doorman(&self) -> &Doorman {
        &self.doorman
    }

    /// Makes `key` a voter once it has caught up (AddRaftVoter). To be asked of the leader.
    ///
    /// # Errors
    /// See [`VoterChangeError`].
    pub async fn add_voter(
        &self,
        key: VoterKey,
        endpoints: &[ControllerEndpoint],
        timeout: Duration,
    ) -> Result<(), VoterChangeError> {
        self.changes.add(key, endpoints, timeout).await
    }

    /// Makes `key` no voter (RemoveRaftVoter). To be asked of the leader, which may be the one to
    /// be removed: it leads until the change is committed, and then hands over.
    ///
    /// # Errors
    /// See [`VoterChangeError`].
    pub async fn remove_voter(
        &self,
        key: VoterKey,
        timeout: Duration,
    ) -> Result<(), VoterChangeError> {
        self.changes.remove(key, timeout).await
    }

    /// Records where the voter `key` listens (UpdateRaftVoter). To be asked of the leader.
    ///
    /// # Errors
    /// See [`VoterChangeError`].
    pub async fn update_voter(
        &self,
        key: VoterKey,
        endpoints: &[ControllerEndpoint],
        timeout: Duration,
    ) -> Result<(), VoterChangeError> {
        self.changes.update(key, endpoints, timeout).await
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
        let mut leadership = self.leadership.clone();
        let led = *leadership.borrow();
        if !led.is_self || led.epoch != epoch {
            return Err(ProposeError::NotLeader { hint: led.leader });
        }
        let timestamp_ms = self.clock.now().wall_ms;
        let proposal = Proposal { epoch, timestamp_ms, records };
        let (responder, answer) = ProgressResponder::complete_only();
        let leader = LeaderId::new(epoch, self.settings.node_id).to_committed();
        let fatal = |e: &dyn std::fmt::Display| ProposeError::Fatal(e.to_string());
        let write = self.raft.0.write(proposal).with_leader(leader).responder(responder);
        write.await.map_err(|e| fatal(&e))?;
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            // A leader without a majority cannot know what becomes of it.
            _ = leadership.wait_for(|l| !l.is_self || l.epoch != epoch) => {
                return Err(ProposeError::Superseded);
            }
        };
        match answer.map_err(|_| fatal(&"its task has ended"))? {
            Ok(done) if done.data == Applied::Yes => Ok(types::position(Some(&done.log_id))),
            Ok(_) | Err(ClientWriteError::LogEntryDiscarded(_)) => Err(ProposeError::Superseded),
            Err(ClientWriteError::ForwardToLeader(to)) => {
                Err(ProposeError::NotLeader { hint: to.leader_id })
            }
            Err(e) => Err(fatal(&e)),
        }
    }

    /// The other member that this one last took the log from as its leader, and when: its
    /// predecessor, if it leads now.
    #[must_use]
    pub fn leader_heard(&self) -> Option<(NodeId, Mono)> {
        self.heard.last()
    }

    /// The quorum as this member sees it. What followers have is known to the leader only.
    #[must_use]
    pub fn describe(&self) -> QuorumDescription {
        let metrics = self.raft.0.metrics().borrow_watched().clone();
        let leadership = *self.leadership.borrow();
        let now_ms = self.clock.now().wall_ms;
        let is_leader = metrics.state == ServerState::Leader;
        let members = self.changes.voters();
        let voter = |v: &Voter| self.describe_voter(v, &metrics, is_leader, now_ms);
        let voters: Vec<_> = members.iter().map(voter).collect();
        let is_voter = |id| members.iter().any(|v| v.id == id);
        let observers = if is_leader { self.roster.list(now_ms) } else { Vec::new() };
        QuorumDescription {
            leader: leadership.leader,
            epoch: leadership.epoch,
            high_watermark: self.high_watermark(),
            voters,
            observers: observers.into_iter().filter(|o| !is_voter(o.id)).collect(),
            endpoints: members,
            dynamic: self.settings.dynamic.is_some(),
            listener_name: self.settings.listener_name.clone(),
        }
    }

    fn describe_voter(
        &self,
        voter: &Voter,
        metrics: &RaftMetrics<TypeConfig>,
        is_leader: bool,
        now_ms: i64,
    ) -> ReplicaDescription {
        let id = voter.id;
        let unknown = ReplicaDescription {
            id,
            directory_id: voter.directory_id,
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

    /// Hands leadership over if there is another voter to take it: to be called before
    /// [`Quorum::shutdown`]. `false` if this member leads and nobody can take over, so that nothing
    /// more may be committed.
    pub async fn hand_over(&self) -> bool {
        self.handed_over.store(true, Ordering::Relaxed);
        let (raft, node_id) = (&self.raft.0, self.settings.node_id);
        Handover { raft, node_id, caller: &self.caller, changes: &self.changes }.run().await
    }

    /// Hands leadership over, unless that was tried, and stops.
    pub async fn shutdown(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut running) = running else { return };
        if !self.handed_over.load(Ordering::Relaxed) {
            self.hand_over().await;
        }
        if let Err(e) = self.raft.0.shutdown().await {
            tracing::error!("the metadata quorum member did not stop well: {e}");
        }
        running.tasks.shutdown().await;
        running.writer.stop().await;
        self.publisher.close();
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

    fn voters(&self) -> Arc<[Voter]> {
        self.changes.voters().into()
    }

    fn caller(&self) -> Caller {
        self.caller.clone()
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
    if !settings.voters.iter().any(|v| v.id == settings.node_id) {
        return Ok(());
    }
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
    if settings.dynamic.is_some() {
        configured.clone_from(&voters);
    }
    if voters != configured && !voters.is_empty() {
        let list =
            |ids: &[NodeId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(QuorumError::Settings(format!(
            "controller.quorum.voters names {}, but the metadata log was begun with {}",
            list(&configured),
            list(&voters)
        )));
    }
    if configured == [settings.node_id] {
        raft.trigger().elect(false).await.map_err(|e| fatal(&e))?;
    }
    Ok(())
}
