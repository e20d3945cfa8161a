//! The broker half of a node: waits for the image, loads the logs, publishes, registers, and opens
//! its listeners once it is unfenced.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use crate::{
    base::Uuid,
    config::{ServerConfig, sections::LogsConfig},
    controller::{BrokerLifecycle, BrokerSettings, BrokerState, ControllerClient},
    coordinator::{
        ConsumerSettings, MigrationPolicy, ShareMemberSettings, Transactions, assignor::Assignor,
        driver::Coordinators, settings::Settings as GroupSettings, txn_settings::TxnSettings,
    },
    log::FlushDriver,
    metadata::{Delta, Endpoint, Image, ResourceType, Update, features},
    net::ListenerHandle,
    node::{
        NodeError,
        boot::World,
        dirs,
        identity::Directories,
        loading,
        offsets_log::{OFFSETS_TOPIC, ReplicaOffsetsLog, TRANSACTIONS_TOPIC},
        publish::Publisher,
        selftest, share_broker, sockets,
        txn_broker::LateBroker,
    },
    os::limits,
    quorum::{MetadataSource, Subscription},
    replica::{
        cleaner_driver::{CleanerDriver, CleanerSettings},
        cut_off_driver,
        fetch_driver::{FetchTerms, Fetchers},
        fetch_frames::FetchSize,
        isr_driver::IsrDriver,
        late_txns_driver, moves_driver,
        table::{Dir, ReplicaTable},
        upkeep_driver::{self, Intervals},
    },
    server::{Broker, context, producer_ids::ProducerIds, turns::Turns, txn_verifier::Verifier},
};

/// Threads that sync files, for each log directory.
const SYNC_THREADS: usize = 2;

/// The first image is looked at so often, beside each update.
const FIRST_IMAGE_LOOK: Duration = Duration::from_millis(20);

/// A broker that runs.
pub(crate) struct RunningBroker {
    pub(crate) broker: Arc<Broker>,
    pub(crate) listeners: Vec<ListenerHandle>,
    pub(crate) stop: watch::Sender<bool>,
    /// Ends by itself on `stop`: then nothing is appended by replication any more.
    pub(crate) following: JoinHandle<()>,
    pub(crate) cleaner: Arc<CleanerDriver>,
    pub(crate) tasks: JoinSet<()>,
    /// Why the broker cannot go on.
    pub(crate) fatal: watch::Receiver<Option<String>>,
}

impl RunningBroker {
    /// Waits until the broker must end: it could not register in time, or lost its disks.
    pub(crate) async fn ended(&self) -> String {
        let mut state = self.broker.lifecycle.state();
        let mut fatal = self.fatal.clone();
        let ended = state.wait_for(|s| *s == BrokerState::ShuttingDown);
        tokio::select! {
            _ = ended => "the broker could not register with the controller in time, or was told \
                          to end; see above"
                .to_owned(),
            Ok(why) = fatal.wait_for(Option::is_some) => why.clone().unwrap_or_default(),
        }
    }
}

/// Starts the broker. Returns once its listeners are open.
pub(crate) async fn start(
    config: &Arc<ServerConfig>,
    world: &World,
    dirs: &mut Directories,
    source: Arc<dyn MetadataSource>,
) -> Result<RunningBroker, NodeError> {
    // Bound early, so that port 0 is known before it is advertised; accepted from late.
    let bound = sockets::bind(config).await?;
    let subscription = first_image(&source).await;
    let replicas = Arc::new(load(config, world, dirs, &subscription.image)?);
    let log = Arc::new(ReplicaOffsetsLog(Arc::clone(&replicas), OFFSETS_TOPIC));
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    let late = Arc::new(LateBroker::default());
    let (share_states, share_persister) = share_broker::start(config, world, &replicas, &late);
    let groups = Coordinators::start(log, clock, entropy, group_settings(config));
    groups.set_share_persister(share_persister.clone());
    let transactions = start_transactions(config, world, &replicas, &late);
    let share = share_broker::serve(config, world, &replicas, share_persister.clone(), &late);
    groups.hold();
    transactions.hold();
    share_states.hold();
    let (misplaced, found) = mpsc::unbounded_channel();
    let to_assign = misplaced.clone();
    let publisher = Publisher {
        misplaced,
        node_id: config.node_id,
        settings: Arc::clone(config),
        replicas: Arc::clone(&replicas),
        groups: groups.clone(),
        transactions: transactions.clone(),
        share_states: share_states.clone(),
        share: share.clone(),
    };
    let image = Arc::clone(&subscription.image);
    let settings = registration(config, world, dirs, &bound);
    replicas.life.begin(settings.incarnation);
    let following = publisher.publish(&Delta::between(&Image::default(), &image), &image);
    replicas.settled();
    let published = Arc::new(watch::Sender::new(image.position.offset));
    let client = ControllerClient::new(source, super::boot::timeouts(config));
    let lifecycle = BrokerLifecycle::start(settings, client.clone(), published.subscribe());
    let broker = Arc::new(Broker {
        node_id: config.node_id,
        cluster_id: dirs.cluster_id.as_str().into(),
        settings: Arc::clone(config),
        replicas: Arc::clone(&replicas),
        image: ArcSwap::new(Arc::clone(&image)),
        published,
        lost_leaders: Arc::default(),
        controller: client,
        lifecycle,
        groups,
        transactions,
        share_states,
        share_persister,
        share,
        producer_ids: ProducerIds::default(),
        verifier: Verifier::default(),
        turns: Turns::default(),
        clock: Arc::clone(&world.clock),
        entropy: Arc::clone(&world.entropy),
    });
    late.is(&broker);
    let (stop, stopping) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let (failing, fatal) = watch::channel(None);
    set_quota_windows(config, &replicas);
    reconfigure(&broker, &broker.image());
    tasks.spawn(dirs::watch(Arc::clone(&broker), failing));
    tasks.spawn(dirs::assign(Arc::clone(&broker), found));
    let epoch = broker.lifecycle.watch_epoch();
    let lost = Arc::clone(&broker.lost_leaders);
    let mut fetchers = Fetchers::new(Arc::clone(&replicas), fetch_terms(config), epoch, lost);
    fetchers.update(following, image.brokers());
    let cleaning = cleaner_settings(&broker, &broker.image());
    let cleaner = Arc::new(CleanerDriver::start(Arc::clone(&replicas), cleaning)?);
    let follower = Follower {
        publisher,
        fetchers,
        broker: Arc::clone(&broker),
        cleaner: Arc::clone(&cleaner),
    };
    let following = tokio::spawn(follower.run(subscription, stopping.clone()));
    let isr = IsrDriver {
        table: Arc::clone(&replicas),
        client: broker.controller.clone(),
        epoch: broker.lifecycle.watch_epoch(),
        lag_max: Duration::from_millis(config.replica.lag_time_max_ms.try_into().unwrap_or(0)),
    };
    isr.start(&mut tasks, stopping.clone());
    let timeout_max_ms = i64::from(config.transaction.max_timeout_ms);
    let (table, ending) = (Arc::clone(&replicas), stopping.clone());
    late_txns_driver::start(&mut tasks, table, timeout_max_ms, ending);
    let answered = broker.lifecycle.answered();
    let session = u64::try_from(config.cluster.session_timeout_ms).unwrap_or(0);
    let (table, session) = (Arc::clone(&replicas), Duration::from_millis(session));
    cut_off_driver::start(&mut tasks, table, answered, session, stopping.clone());
    let whose = Arc::clone(&broker);
    let said = move |topic, partition| {
        let image = whose.image();
        image.topics().partition(topic, partition)?.directory(whose.node_id)
    };
    let (table, said) = (Arc::clone(&replicas), Arc::new(said));
    let at_once = match config.logs.alter_dirs_threads {
        // Not set.
        0 => dirs.logs.len(),
        threads => threads,
    };
    moves_driver::start(&mut tasks, table, said, to_assign, at_once, stopping.clone());
    upkeep_driver::start(&mut tasks, replicas, intervals(config), stopping);
    serve_when_unfenced(&broker).await?;
    broker.groups.serve();
    broker.transactions.serve();
    broker.share_states.serve();
    let listeners = sockets::open(config, bound, &broker);
    tasks.spawn(selftest::dial_back(Arc::clone(&broker)));
    Ok(RunningBroker { broker, listeners, stop, following, cleaner, tasks, fatal })
}

/// The first image that is worth serving from: one in which the cluster has its features.
async fn first_image(source: &Arc<dyn MetadataSource>) -> Subscription {
    let mut subscription = source.subscribe();
    loop {
        let caught_up = subscription.image.position.offset + 1 >= source.high_watermark();
        if subscription.image.features().metadata_version().is_some() && caught_up {
            return subscription;
        }
        // What is committed may become known without an update.
        match tokio::time::timeout(FIRST_IMAGE_LOOK, subscription.updates.recv()).await {
            Ok(Some(update)) => subscription.image = update.image,
            Ok(None) => return subscription,
            Err(_) => {}
        }
    }
}

fn load(
    config: &ServerConfig,
    world: &World,
    dirs: &mut Directories,
    image: &Image,
) -> Result<ReplicaTable, NodeError> {
    let (mut parts, mut states) = (Vec::new(), Vec::new());
    for (path, id, log_dir, state) in &mut dirs.logs {
        parts.push(Dir {
            log_dir: Arc::clone(log_dir),
            id: *id,
            name: path.display().to_string(),
            flusher: Arc::new(FlushDriver::start(SYNC_THREADS)?),
        });
        states.push(std::mem::take(state));
    }
    dirs.previous_epoch = states.iter().filter_map(|s| s.broker_epoch).max();
    if states.iter().any(|s| s.broker_epoch.is_none()) {
        dirs.previous_epoch = None;
    }
    let (clock, entropy) = (Arc::clone(&world.clock), Arc::clone(&world.entropy));
    let slots = config.replica.fetch_session_slots;
    let table = ReplicaTable::new(config.node_id, parts, slots, clock, entropy);
    if !dirs::all_opened(config, dirs) {
        table.lacks_a_dir();
    }
    let threads = config.logs.recovery_threads_per_dir.max(1);
    let mut settings = Publisher::settings_of(config, config.node_id, image);
    loading::load_all(&table, &states, image, threads, &mut settings);
    Ok(table)
}

fn group_settings(config: &ServerConfig) -> GroupSettings {
    let g = &config.group;
    GroupSettings {
        min_session_timeout_ms: g.min_session_timeout_ms,
        max_session_timeout_ms: g.max_session_timeout_ms,
        initial_rebalance_delay_ms: g.initial_rebalance_delay_ms,
        max_size: g.max_size,
        offsets_retention_ms: i64::from(g.offsets_retention_minutes).saturating_mul(60_000),
        retention_check_interval_ms: g.offsets_retention_check_interval_ms,
        commit_timeout_ms: i64::from(g.offsets_commit_timeout_ms),
        metadata_max: usize::try_from(g.offset_metadata_max_bytes).unwrap_or(0),
        load_buffer_bytes: g.offsets_load_buffer_bytes,
        partitions: g.offsets_partitions,
        consumer: consumer_settings(config),
        share: share_settings(config),
    }
}

fn consumer_settings(config: &ServerConfig) -> ConsumerSettings {
    let g = &config.group;
    let known = g.consumer_assignors.iter().filter_map(|name| Assignor::from_name(name));
    let policy = MigrationPolicy::from_name(&g.consumer_migration_policy);
    ConsumerSettings {
        session_timeout_ms: g.consumer_session_timeout_ms,
        min_session_timeout_ms: g.consumer_min_session_timeout_ms,
        max_session_timeout_ms: g.consumer_max_session_timeout_ms,
        heartbeat_interval_ms: g.consumer_heartbeat_interval_ms,
        min_heartbeat_interval_ms: g.consumer_min_heartbeat_interval_ms,
        max_heartbeat_interval_ms: g.consumer_max_heartbeat_interval_ms,
        assignment_interval_ms: g.consumer_assignment_interval_ms,
        min_assignment_interval_ms: g.consumer_min_assignment_interval_ms,
        max_assignment_interval_ms: g.consumer_max_assignment_interval_ms,
        max_size: g.consumer_max_size,
        assignors: known.collect(),
        migration_policy: policy.unwrap_or(MigrationPolicy::Bidirectional),
        regex_refresh_interval_ms: i64::from(g.consumer_regex_refresh_interval_ms),
    }
}

fn share_settings(config: &ServerConfig) -> ShareMemberSettings {
    let s = &config.share;
    ShareMemberSettings {
        session_timeout_ms: s.session_timeout_ms,
        min_session_timeout_ms: s.min_session_timeout_ms,
        max_session_timeout_ms: s.max_session_timeout_ms,
        heartbeat_interval_ms: s.heartbeat_interval_ms,
        min_heartbeat_interval_ms: s.min_heartbeat_interval_ms,
        max_heartbeat_interval_ms: s.max_heartbeat_interval_ms,
        assignment_interval_ms: s.assignment_interval_ms,
        min_assignment_interval_ms: s.min_assignment_interval_ms,
        max_assignment_interval_ms: s.max_assignment_interval_ms,
        max_size: s.max_size,
    }
}

fn start_transactions(
    config: &ServerConfig,
    world: &World,
    replicas: &Arc<ReplicaTable>,
    broker: &Arc<LateBroker>,
) -> Transactions {
    let t = &config.transaction;
    let settings = TxnSettings {
        max_timeout_ms: t.max_timeout_ms,
        id_expiration_ms: i64::from(t.id_expiration_ms),
        abort_interval_ms: i64::from(t.abort_interval_ms),
        expire_interval_ms: i64::from(t.expire_interval_ms),
        load_buffer_bytes: t.load_buffer_bytes,
        partitions: t.partitions,
        request_timeout_ms: i64::from(config.net.request_timeout_ms),
    };
    let log = Arc::new(ReplicaOffsetsLog(Arc::clone(replicas), TRANSACTIONS_TOPIC));
    Transactions::start(log, broker.clone(), Arc::clone(&world.clock), settings)
}

fn registration(
    config: &ServerConfig,
    world: &World,
    dirs: &Directories,
    bound: &sockets::Bound,
) -> BrokerSettings {
    let endpoints = config.advertised_listeners.iter().map(|e| Endpoint {
        name: e.name.as_str().into(),
        host: if e.host.is_empty() { limits::host_name().into() } else { e.host.as_str().into() },
        port: if e.port == 0 { bound.port_of(&e.name).unwrap_or(0) } else { e.port },
        security_protocol: e.protocol.code(),
    });
    let ms = |n: i32| Duration::from_millis(u64::try_from(n).unwrap_or(0));
    let mut log_dirs: Vec<Uuid> = dirs.logs.iter().map(|(_, id, ..)| *id).collect();
    log_dirs.sort_unstable();
    BrokerSettings {
        node_id: config.node_id,
        cluster_id: dirs.cluster_id.clone(),
        incarnation: world.entropy.uuid(),
        endpoints: endpoints.collect(),
        features: features::supported().map(|(n, r)| (n.to_owned(), r)).collect(),
        rack: config.cluster.rack.clone(),
        log_dirs,
        previous_broker_epoch: dirs.previous_epoch.unwrap_or(-1),
        heartbeat_interval: ms(config.cluster.heartbeat_interval_ms),
        registration_timeout: ms(config.cluster.initial_registration_timeout_ms),
    }
}

fn intervals(config: &ServerConfig) -> Intervals {
    let ms = |n: i64| Duration::from_millis(u64::try_from(n).unwrap_or(1).max(1));
    let logs = &config.logs;
    Intervals {
        retention: ms(logs.retention_check_interval_ms),
        high_watermarks: ms(config.replica.high_watermark_checkpoint_interval_ms),
        recovery_points: ms(i64::from(logs.flush_offset_checkpoint_interval_ms)),
        log_starts: ms(i64::from(logs.flush_start_offset_checkpoint_interval_ms)),
        producers: ms(i64::from(logs.producer_id_expiration_check_interval_ms)),
    }
}

/// Follows the metadata.
struct Follower {
    publisher: Publisher,
    fetchers: Fetchers,
    broker: Arc<Broker>,
    cleaner: Arc<CleanerDriver>,
}

impl Follower {
    /// Publishes every update in order, the image last, until `stop`.
    async fn run(mut self, mut subscription: Subscription, mut stop: watch::Receiver<bool>) {
        loop {
            let update = tokio::select! {
                update = subscription.updates.recv() => update,
                _ = stop.wait_for(|s| *s) => None,
            };
            let Some(update) = update else { break };
            let following = self.publisher.publish(&update.delta, &update.image);
            self.fetchers.update(following, update.image.brokers());
            self.show(update);
        }
        self.fetchers.stop().await;
    }

    /// Lets requests see the image of `update`.
    fn show(&self, update: Update) {
        let broker = &self.broker;
        let offset = update.image.position.offset;
        let other_stops = update
            .delta
            .changed_brokers()
            .filter_map(|(.., new)| new)
            .any(|b| b.in_controlled_shutdown && !b.fenced && b.id != broker.node_id);
        if update.delta.changed_configs().any(|c| c.kind == ResourceType::Broker) {
            reconfigure(broker, &update.image);
            self.cleaner.configure(cleaner_settings(broker, &update.image));
        }
        broker.image.store(update.image);
        broker.published.send_replace(offset);
        if other_stops {
            // It waits until every broker has read that it leads nothing any longer.
            broker.lifecycle.report();
        }
    }
}

fn fetch_terms(config: &ServerConfig) -> FetchTerms {
    let r = &config.replica;
    let ms = |n: i32| Duration::from_millis(u64::try_from(n).unwrap_or(0));
    FetchTerms {
        fetchers: r.fetchers,
        listener: config.inter_broker_listener.clone(),
        size: FetchSize {
            partition_bytes_max: r.fetch_max_bytes,
            response_bytes_max: r.fetch_response_max_bytes,
            bytes_min: r.fetch_min_bytes,
            wait_ms_max: r.fetch_wait_max_ms,
        },
        backoff: ms(r.fetch_backoff_ms),
        socket_timeout: ms(r.socket_timeout_ms),
        // Kafka's default of 64 KiB would slow fetches from afar: unless a size was asked for, the
        // system tunes it.
        receive_buffer_bytes: config
            .layers
            .given("replica.socket.receive.buffer.bytes")
            .and_then(|_| u32::try_from(r.socket_receive_buffer_bytes).ok()),
    }
}

/// What compaction may use under `image`.
fn cleaner_settings(broker: &Broker, image: &Image) -> CleanerSettings {
    let layers = context::layers(&broker.settings, broker.node_id, image);
    let logs = LogsConfig::read(&layers);
    CleanerSettings {
        threads: if logs.cleaner { logs.cleaner_threads } else { 0 },
        dedupe_bytes: usize::try_from(logs.cleaner_dedupe_buffer_bytes).unwrap_or(0),
        load_factor: logs.cleaner_io_buffer_load_factor,
        buffer_bytes: logs.cleaner_io_buffer_bytes,
        bytes_per_second: logs.cleaner_io_max_bytes_per_second,
        backoff: Duration::from_millis(u64::try_from(logs.cleaner_backoff_ms).unwrap_or(0)),
    }
}

fn set_quota_windows(config: &ServerConfig, replicas: &ReplicaTable) {
    let (r, quotas) = (&config.replica, &replicas.quotas);
    let seconds = |n: i32| Duration::from_secs(n.try_into().unwrap_or(1));
    for quota in [&quotas.leader, &quotas.follower] {
        quota.set_window(r.quota_samples, seconds(r.quota_sample_seconds));
    }
    quotas.moves.set_window(r.moves_quota_samples, seconds(r.moves_quota_sample_seconds));
}

/// Has those settings of the broker take effect that change while it runs: `cordoned.log.dirs`, and
/// the limits of replication.
fn reconfigure(broker: &Broker, image: &Image) {
    let layers = context::layers(&broker.settings, broker.node_id, image);
    let rates = ServerConfig::replication_rates(&layers);
    broker.replicas.quotas.leader.set_bound(rates.leader);
    broker.replicas.quotas.follower.set_bound(rates.follower);
    broker.replicas.quotas.moves.set_bound(rates.moves);
    let dirs: Vec<_> = broker.replicas.dirs().iter().map(|d| (d.name.clone(), d.id)).collect();
    let cordoned = dirs::cordoned(&broker.settings, broker.node_id, image, &dirs);
    broker.replicas.set_cordoned(cordoned.clone());
    broker.lifecycle.set_cordoned_dirs(cordoned);
}

/// Tells the controller that this broker can serve, and waits until it may.
async fn serve_when_unfenced(broker: &Broker) -> Result<(), NodeError> {
    broker.lifecycle.set_ready();
    let mut state = broker.lifecycle.state();
    let reached = state
        .wait_for(|s| matches!(s, BrokerState::Running | BrokerState::ShuttingDown))
        .await
        .map(|s| *s);
    match reached {
        Ok(BrokerState::Running) => {
            seen_unfenced(broker).await;
            Ok(())
        }
        _ => Err(NodeError::Ended(
            "the broker could not register with the controller; the reason is above".to_owned(),
        )),
    }
}

/// Waits until this broker's own image shows it unfenced: a client that is told of no brokers may
/// not ask again for long. The controller's answer may be here before the metadata is.
async fn seen_unfenced(broker: &Broker) {
    let mut published = broker.published.subscribe();
    loop {
        if broker.image().brokers().get(broker.node_id).is_some_and(|b| !b.fenced) {
            return;
        }
        if published.changed().await.is_err() {
            return;
        }
    }
}
