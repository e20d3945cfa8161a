//! The start of a node, step by step, and its end: directories → quorum → image → logs → broker →
//! listeners; then signals; then all of it in reverse (`KafkaRaftServer.scala`).

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    base::{
        NodeId, Uuid,
        ports::{Clock, Entropy, Fs},
    },
    config::{ServerConfig, meta_properties::IdentityError},
    controller::{
        ControllerClient, ControllerDriver, ControllerRegistration, ControllerSettings, Core,
        Settings as CoreSettings, TopicDefaults, service_driver,
    },
    log::LogError,
    metadata::{Endpoint, Record, features},
    net::{ListenerHandle, NetError},
    node::{
        broker::{self, RunningBroker},
        identity::{self, Directories},
        schema::Schema,
        shutdown, sockets,
    },
    os::{OsClock, OsEntropy, OsFs, limits},
    quorum::{
        Address, ControllerListener, DynamicVoters, LogPolicy, MetadataSource, Observer,
        ObserverSettings, Quorum, QuorumError, QuorumSettings, QuorumTimeouts, TcpDial, Voter,
        serve,
    },
    server::Controller,
    telemetry,
};

/// Why a node does not start, or ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The directories are not formatted, or contradict the configuration.
    #[error(transparent)]
    Identity(IdentityError),
    /// No log directory can be used.
    #[error("none of the log directories can be used: see the errors above")]
    NoUsableDir,
    /// A directory or log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The quorum member did not start.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// A listener of the broker cannot be had.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A controller listener cannot be bound.
    #[error("listener {listener}: cannot bind {address}: {source}")]
    Bind {
        /// Its name.
        listener: String,
        /// The address.
        address: String,
        /// The system's word on it.
        source: std::io::Error,
    },
    /// A file cannot be read or written.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] std::io::Error),
    /// The system refuses a thread, a signal handler or a runtime.
    #[error("the system refuses: {0}")]
    System(#[from] std::io::Error),
    /// The bootstrap checkpoint cannot be read.
    #[error("{0}")]
    Bootstrap(String),
    /// The broker could not register in time, or its controller failed for good.
    #[error("{0}")]
    Ended(String),
}

/// The ports, made real.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
}

/// The controller half of a node.
pub(crate) struct RunningController {
    pub(crate) quorum: Arc<Quorum>,
    pub(crate) driver: ControllerDriver,
    pub(crate) listeners: Vec<ControllerListener>,
    /// Held for as long as the controller runs.
    pub(crate) registration: ControllerRegistration,
    /// The connections to those listeners that speak Kafka.
    pub(crate) clients: Vec<ListenerHandle>,
}

/// Everything that runs.
pub(crate) struct RunningNode {
    pub(crate) controller: Option<RunningController>,
    pub(crate) observer: Option<Arc<Observer>>,
    pub(crate) broker: Option<RunningBroker>,
}

/// Runs a node until a signal ends it; SIGHUP reopens the log file. `warnings` are said once.
///
/// # Errors
/// Why it did not start, or ended by itself.
pub fn run(config: ServerConfig, warnings: &[String]) -> Result<(), NodeError> {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("vltava")
        // Blocking work is short-lived; a large pool would only hold memory.
        .max_blocking_threads(16)
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let world = World {
            fs: Arc::new(OsFs),
            clock: Arc::new(OsClock::new()),
            entropy: Arc::new(OsEntropy),
        };
        let mut signals = Signals::new()?;
        let config = Arc::new(config);
        say_durability(&config);
        let node = tokio::select! {
            node = start(&config, &world) => node?,
            // It may wait for a controller that never comes.
            () = signals.again() => {
                tracing::info!("stopped before it had started");
                return Ok(());
            }
        };
        let took = world.clock.now().mono.since(crate::base::Mono(0));
        tracing::info!(node = %config.node_id, ms = took.as_millis(), "started");
        let ended = signals.wait(&node).await;
        shutdown::stop(node, &mut signals).await;
        tracing::info!("stopped");
        ended
    })
}

/// The two durability modes are named at boot, so that nobody need guess.
fn say_durability(config: &ServerConfig) {
    if !config.roles.broker {
        return;
    }
    if config.topic_defaults.flush_messages == 1 {
        tracing::info!("durability: an acknowledgement waits for the disk (flush.messages=1)");
    } else {
        tracing::info!(
            "durability: page cache; what is acknowledged survives a crash of the process, and of \
             the machine by replication. flush.messages=1 makes acknowledgements wait for the disk"
        );
    }
}

async fn start(config: &Arc<ServerConfig>, world: &World) -> Result<RunningNode, NodeError> {
    let open_files = limits::raise_open_files();
    let (fs, clock, entropy) = (&world.fs, &*world.clock, &*world.entropy);
    let mut dirs = identity::open(config, fs, clock, entropy, open_files)?;
    let voters = voters(config, &**fs)?;
    let controller = match config.roles.controller {
        true => Some(start_controller(config, world, &dirs, voters.clone()).await?),
        false => None,
    };
    let observer = match &controller {
        Some(_) => None,
        None => Some(Arc::new(Observer::start(observer_settings(config, &dirs, voters))?)),
    };
    let source: Option<Arc<dyn MetadataSource>> = match (&controller, &observer) {
        (Some(c), _) => Some(Arc::clone(&c.quorum) as Arc<dyn MetadataSource>),
        (None, Some(o)) => Some(Arc::clone(o) as Arc<dyn MetadataSource>),
        (None, None) => None,
    };
    let mut node = RunningNode { controller, observer, broker: None };
    if let (true, Some(source)) = (config.roles.broker, source) {
        node.broker = Some(broker::start(config, world, &mut dirs, source).await?);
    }
    Ok(node)
}

pub(crate) fn timeouts(config: &ServerConfig) -> QuorumTimeouts {
    let ms = |n: i32| Duration::from_millis(u64::try_from(n).unwrap_or(0));
    QuorumTimeouts {
        election: ms(config.quorum.election_timeout_ms),
        fetch: ms(config.quorum.fetch_timeout_ms),
        request: ms(config.quorum.request_timeout_ms),
        retry_backoff: ms(config.quorum.retry_backoff_ms),
    }
}

/// The controllers: those of `controller.quorum.voters`, or those that formatting with
/// `--standalone` or `--initial-controllers` wrote down.
fn voters(config: &ServerConfig, fs: &dyn Fs) -> Result<Vec<Voter>, NodeError> {
    if !config.voters.is_empty() {
        let voter = |v: &crate::config::Voter| Voter {
            id: v.id,
            directory_id: Uuid::ZERO,
            host: v.host.clone(),
            port: v.port,
        };
        return Ok(config.voters.iter().map(voter).collect());
    }
    identity::written_voters(fs, &config.metadata_log_dir)
}

fn observer_settings(
    config: &ServerConfig,
    dirs: &Directories,
    voters: Vec<Voter>,
) -> ObserverSettings {
    ObserverSettings {
        cluster_id: dirs.cluster_id.clone(),
        node_id: config.node_id,
        directory_id: dirs.metadata.0,
        voters,
        bootstrap: bootstrap_servers(config),
        dir: Some(Arc::clone(&dirs.metadata.1)),
        dial: Arc::new(TcpDial),
        timeouts: timeouts(config),
    }
}

fn bootstrap_servers(config: &ServerConfig) -> Vec<Address> {
    let address = |(host, port): &(String, u16)| Address { host: host.clone(), port: *port };
    config.bootstrap_servers.iter().map(address).collect()
}

/// How the voters change, unless they are configured. `port` is where the controller listener was
/// bound.
fn dynamic_voters(config: &ServerConfig, port: u16) -> Option<DynamicVoters> {
    if !config.voters.is_empty() {
        return None;
    }
    let listener = config.advertised_controller_listeners.first()?;
    let host = if listener.host.is_empty() { limits::host_name() } else { listener.host.clone() };
    let advertised = Address { host, port: if listener.port == 0 { port } else { listener.port } };
    Some(DynamicVoters {
        bootstrap: bootstrap_servers(config),
        advertised,
        auto_join: config.quorum.auto_join,
    })
}

async fn start_controller(
    config: &Arc<ServerConfig>,
    world: &World,
    dirs: &Directories,
    voters: Vec<Voter>,
) -> Result<RunningController, NodeError> {
    let controllers = config.voters.iter().map(|v| v.id).collect();
    let bootstrap = identity::bootstrap_records(
        &*world.fs,
        &config.metadata_log_dir,
        config.voters.is_empty(),
    )?;
    let mut bound = Vec::new();
    for listener in config.listeners.iter().filter(|l| l.for_controllers) {
        let at = &listener.endpoint;
        let host = if at.host.is_empty() { "0.0.0.0" } else { at.host.as_str() };
        let socket = TcpListener::bind((host, at.port)).await;
        let socket = socket.map_err(|source| NodeError::Bind {
            listener: at.name.clone(),
            address: format!("{host}:{}", at.port),
            source,
        })?;
        bound.push((at.name.clone(), socket));
    }
    let port = bound.first().and_then(|(_, s)| s.local_addr().ok()).map_or(0, |a| a.port());
    let settings = QuorumSettings {
        cluster_id: dirs.cluster_id.clone(),
        node_id: config.node_id,
        directory_id: dirs.metadata.0,
        voters,
        dynamic: dynamic_voters(config, port),
        listener_name: config.controller_listener_names.first().cloned().unwrap_or_default(),
        timeouts: timeouts(config),
        log: log_policy(config),
        dial: Arc::new(TcpDial),
    };
    let dir = Arc::clone(&dirs.metadata.1);
    let quorum = Arc::new(Quorum::start(settings, dir, Arc::clone(&world.clock)).await?);
    let core = Core::new(core_settings(config, world, dirs, controllers, bootstrap));
    let (driver, handle) =
        ControllerDriver::start(core, Arc::clone(&quorum), Arc::clone(&world.clock));
    let controller = Arc::new(Controller {
        node_id: config.node_id,
        cluster_id: dirs.cluster_id.as_str().into(),
        settings: Arc::clone(config),
        handle: handle.clone(),
    });
    let (mut listeners, mut clients) = (Vec::new(), Vec::new());
    for (name, socket) in bound {
        let routes = service_driver::add_to(quorum.routes(), handle.clone());
        let at = socket.local_addr()?;
        let (kafka, served) = sockets::open_controller(config, &name, at, &controller);
        listeners.push(serve(socket, routes, kafka)?);
        clients.push(served);
    }
    let client = ControllerClient::new(Arc::clone(&quorum) as _, timeouts(config));
    let registration = ControllerRegistration::start(registration(config, world, port), client);
    Ok(RunningController { quorum, driver, listeners, clients, registration })
}

/// What the controller registers with. `port` is where its first listener was bound.
fn registration(config: &ServerConfig, world: &World, port: u16) -> ControllerSettings {
    let endpoint = |e: &crate::config::Endpoint| Endpoint {
        name: e.name.as_str().into(),
        host: if e.host.is_empty() { limits::host_name().into() } else { e.host.as_str().into() },
        port: if e.port == 0 { port } else { e.port },
        security_protocol: e.protocol.code(),
    };
    ControllerSettings {
        node_id: config.node_id,
        incarnation: world.entropy.uuid(),
        endpoints: config.advertised_controller_listeners.iter().map(endpoint).collect(),
        features: features::supported().map(|(n, r)| (n.to_owned(), r)).collect(),
    }
}

fn log_policy(config: &ServerConfig) -> LogPolicy {
    let q = &config.quorum;
    LogPolicy {
        segment_bytes: u32::try_from(q.segment_bytes).unwrap_or(1 << 30),
        checkpoint_bytes: u64::try_from(q.max_record_bytes_between_snapshots).unwrap_or(1),
        checkpoint_interval: Duration::from_millis(
            u64::try_from(q.max_snapshot_interval_ms).unwrap_or(0),
        ),
        ..LogPolicy::default()
    }
}

fn core_settings(
    config: &Arc<ServerConfig>,
    world: &World,
    dirs: &Directories,
    controllers: Vec<NodeId>,
    bootstrap: Vec<Record>,
) -> CoreSettings {
    let mut seed = [0; 32];
    world.entropy.fill(&mut seed);
    let c = &config.cluster;
    CoreSettings {
        node: config.node_id,
        cluster_id: dirs.cluster_id.as_str().into(),
        controllers,
        session_timeout_ms: i64::from(c.session_timeout_ms),
        rebalance_interval_ms: c
            .auto_leader_rebalance
            .then(|| c.leader_imbalance_check_interval_seconds.saturating_mul(1000)),
        unclean_interval_ms: c.unclean_leader_election_interval_ms,
        defaults: TopicDefaults {
            num_partitions: c.num_partitions,
            replication_factor: i16::try_from(c.default_replication_factor).unwrap_or(1),
            min_insync_replicas: usize::try_from(c.min_insync_replicas).unwrap_or(1),
            unclean_leader_election: c.unclean_leader_election,
        },
        bootstrap,
        schema: Arc::new(Schema { settings: Arc::clone(config) }),
        seed,
    }
}

/// What ends a node.
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, NodeError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for another SIGTERM or SIGINT.
    pub(crate) async fn again(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for SIGTERM or SIGINT, or for a failure that the node cannot go on with.
    async fn wait(&mut self, node: &RunningNode) -> Result<(), NodeError> {
        let controller = async {
            match &node.controller {
                Some(c) => {
                    let mut failed = c.driver.failed();
                    let why = failed.wait_for(Option::is_some).await;
                    why.map_or_else(|_| None, |w| w.clone())
                }
                None => std::future::pending().await,
            }
        };
        let broker = async {
            match &node.broker {
                Some(b) => b.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(controller, broker);
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Ok(()),
                _ = self.interrupt.recv() => return Ok(()),
                _ = self.hang_up.recv() => {
                    if let Err(e) = telemetry::reopen() {
                        tracing::error!("the log file cannot be reopened: {e}");
                    }
                }
                why = &mut controller => {
                    let why = why.unwrap_or_else(|| "its task ended".to_owned());
                    return Err(NodeError::Ended(format!("the controller failed: {why}")));
                }
                why = &mut broker => return Err(NodeError::Ended(why)),
            }
        }
    }
}
