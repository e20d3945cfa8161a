//! What a server makes of its settings: typed, checked, in one struct. The rules about roles and
//! listeners together are `roles`. Uses `base` and the other files of this room.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    endpoint::{self, Endpoint, SecurityProtocol, Voter},
    layers::Layers,
    load::{self, Problem, Problems, Sources},
    roles::{self, Collector},
    sections::{
        ClusterConfig, GroupConfig, LoggingConfig, LogsConfig, NetConfig, QuorumConfig,
        ReplicaConfig, ShareConfig, ShareCoordinatorConfig, TransactionConfig,
    },
    topic::TopicConfig,
};
use crate::base::NodeId;

/// `process.roles`; at least one holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// It keeps partitions and serves clients.
    pub broker: bool,
    /// It is one of the controllers.
    pub controller: bool,
}

/// A bound listener and what is set for it alone (`listener.name.<listener>.<key>`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Name, address and protocol.
    pub endpoint: Endpoint,
    /// Whether it is one of `controller.listener.names`.
    pub for_controllers: bool,
    /// `max.connections` for this listener, if set with its prefix.
    pub max_connections: Option<usize>,
    /// `max.connection.creation.rate` for this listener, if set with its prefix.
    pub max_connection_creation_rate: Option<usize>,
    /// `vltava.listener.tcp.congestion.control`.
    pub congestion_control: Option<String>,
}

/// Everything a node is told, checked against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerConfig {
    /// `node.id`.
    pub node_id: NodeId,
    /// `process.roles`.
    pub roles: Roles,
    /// `listeners`, in their order.
    pub listeners: Vec<Listener>,
    /// What clients and brokers are told: one entry for each advertised broker listener.
    pub advertised_listeners: Vec<Endpoint>,
    /// What controllers are told: one entry for each controller listener of this node.
    pub advertised_controller_listeners: Vec<Endpoint>,
    /// `controller.listener.names`, in capitals; not empty.
    pub controller_listener_names: Vec<String>,
    /// Protocol towards the controllers: that of the first controller listener.
    pub controller_protocol: SecurityProtocol,
    /// Name of the listener between brokers.
    pub inter_broker_listener: String,
    /// Protocol between brokers.
    pub inter_broker_protocol: SecurityProtocol,
    /// `early.start.listeners`, or the controller listeners.
    pub early_start_listeners: Vec<String>,
    /// `controller.quorum.voters`; empty with a dynamic quorum.
    pub voters: Vec<Voter>,
    /// `controller.quorum.bootstrap.servers`.
    pub bootstrap_servers: Vec<(String, u16)>,
    /// Directories of partition logs; at least one.
    pub log_dirs: Vec<PathBuf>,
    /// Directory of the metadata log; need not be one of `log_dirs`.
    pub metadata_log_dir: PathBuf,
    /// `cordoned.log.dirs`, `*` resolved.
    pub cordoned_log_dirs: Vec<PathBuf>,
    /// `max.connections.per.ip.overrides`.
    pub max_connections_per_ip_overrides: BTreeMap<String, usize>,
    /// Sockets, connections, requests.
    pub net: NetConfig,
    /// Quorum and metadata log.
    pub quorum: QuorumConfig,
    /// Broker and controller life.
    pub cluster: ClusterConfig,
    /// Log housekeeping.
    pub logs: LogsConfig,
    /// Replication and fetching.
    pub replica: ReplicaConfig,
    /// Groups and offsets.
    pub group: GroupConfig,
    /// Membership of share groups.
    pub share: ShareConfig,
    /// Transactions.
    pub transaction: TransactionConfig,
    /// Share coordinators.
    pub share_coordinator: ShareCoordinatorConfig,
    /// The node's own log.
    pub logging: LoggingConfig,
    /// What a topic without overrides has.
    pub topic_defaults: TopicConfig,
    /// The layers that all of this was read from.
    pub layers: Layers,
}

/// Limits of replication traffic in bytes a second; the largest number is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicationRates {
    /// `leader.replication.throttled.rate`.
    pub leader: i64,
    /// `follower.replication.throttled.rate`.
    pub follower: i64,
    /// `replica.alter.log.dirs.io.max.bytes.per.second`.
    pub moves: i64,
}

impl ServerConfig {
    /// `cordoned.log.dirs` as it is under `layers`, `*` resolved.
    #[must_use]
    pub fn cordoned_under(&self, layers: &Layers) -> Vec<PathBuf> {
        roles::cordoned(layers, &self.log_dirs)
    }

    /// The limits of replication traffic as they are under `layers`.
    #[must_use]
    pub fn replication_rates(layers: &Layers) -> ReplicationRates {
        ReplicationRates {
            leader: layers.long("leader.replication.throttled.rate"),
            follower: layers.long("follower.replication.throttled.rate"),
            moves: layers.long("replica.alter.log.dirs.io.max.bytes.per.second"),
        }
    }

    /// Loads and resolves a server's file, environment and arguments; with the warnings worth
    /// telling once at boot.
    ///
    /// # Errors
    /// Every mistake that was found, one a line.
    pub fn load(sources: &Sources<'_>) -> Result<(Self, Vec<String>), Problems> {
        let loaded = load::load(sources)?;
        let config = Self::resolve(Layers::fixed(loaded.settings))?;
        let mut warnings = loaded.warnings;
        warnings.extend(roles::warnings(&config));
        Ok((config, warnings))
    }

    /// What `layers` amount to. Called again with dynamic layers when those change.
    ///
    /// # Errors
    /// Every rule that the settings break together.
    pub fn resolve(layers: Layers) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let draft = Self::draft(layers, &mut problems);
        if let Some(config) = &draft {
            roles::check(config, &mut problems);
        }
        match draft {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(Problems(problems)),
        }
    }

    /// What the start must refuse though it is a valid configuration, because this build does not
    /// have it: leaving it out silently would open a node that was meant to be closed.
    #[must_use]
    pub fn not_built_yet(&self) -> Vec<Problem> {
        roles::not_built_yet(self)
    }

    /// Every directory that must be formatted: the log directories and the metadata directory,
    /// sorted, none twice (`StorageTool.configToLogDirectories`).
    #[must_use]
    pub fn all_directories(&self) -> Vec<PathBuf> {
        let mut out = self.log_dirs.clone();
        out.push(self.metadata_log_dir.clone());
        out.sort();
        out.dedup();
        out
    }

    /// The listener of this name.
    #[must_use]
    pub fn listener(&self, name: &str) -> Option<&Listener> {
        self.listeners.iter().find(|l| l.endpoint.name == name)
    }

    fn draft(layers: Layers, problems: &mut Vec<Problem>) -> Option<Self> {
        let mut out = Collector::new(&layers);
        let parsed = Parsed::read(&mut out);
        problems.append(&mut out.problems);
        parsed.filter(|_| problems.is_empty()).map(|p| Self::build(p, layers))
    }

    fn build(p: Parsed, layers: Layers) -> Self {
        let names = upper(layers.list("controller.listener.names"));
        let early = layers.list("early.start.listeners");
        let own_vote = p.voters.iter().find(|v| i64::from(v.id.0) == layers.long("node.id"));
        let advertised = roles::advertised(&p.bound, p.told.as_deref(), &names, own_vote);
        let first = names.first().and_then(|n| p.map.get(n)).copied();
        let metadata_log_dir = layers.maybe_text("metadata.log.dir").map(PathBuf::from);
        Self {
            node_id: NodeId(layers.int("node.id")),
            roles: p.roles,
            advertised_listeners: advertised.brokers,
            advertised_controller_listeners: advertised.controllers,
            controller_protocol: first.unwrap_or(SecurityProtocol::Plaintext),
            inter_broker_listener: p.between.0,
            inter_broker_protocol: p.between.1,
            early_start_listeners: if early.is_empty() { names.clone() } else { upper(early) },
            voters: p.voters,
            bootstrap_servers: p.bootstrap_servers,
            metadata_log_dir: metadata_log_dir
                .or_else(|| p.log_dirs.first().cloned())
                .unwrap_or_default(),
            cordoned_log_dirs: roles::cordoned(&layers, &p.log_dirs),
            log_dirs: p.log_dirs,
            max_connections_per_ip_overrides: p.ip_limits,
            net: NetConfig::read(&layers),
            quorum: QuorumConfig::read(&layers),
            cluster: ClusterConfig::read(&layers),
            logs: LogsConfig::read(&layers),
            replica: ReplicaConfig::read(&layers),
            group: GroupConfig::read(&layers),
            share: ShareConfig::read(&layers),
            transaction: TransactionConfig::read(&layers),
            share_coordinator: ShareCoordinatorConfig::read(&layers),
            logging: LoggingConfig::read(&layers),
            topic_defaults: TopicConfig::resolve(&BTreeMap::new(), &layers),
            listeners: p.bound.into_iter().map(|e| listener(e, &names, &layers)).collect(),
            controller_listener_names: names,
            layers,
        }
    }
}

/// The settings that have a shape of their own, read.
struct Parsed {
    roles: Roles,
    map: BTreeMap<String, SecurityProtocol>,
    voters: Vec<Voter>,
    bootstrap_servers: Vec<(String, u16)>,
    ip_limits: BTreeMap<String, usize>,
    log_dirs: Vec<PathBuf>,
    bound: Vec<Endpoint>,
    told: Option<Vec<Endpoint>>,
    between: (String, SecurityProtocol),
}

impl Parsed {
    fn read(out: &mut Collector<'_>) -> Option<Self> {
        let layers = out.layers;
        for key in ["process.roles", "node.id", "controller.listener.names"] {
            if !layers.fixed.contains(key) {
                out.add(key, "is required and has no default");
            }
        }
        let names = layers.list("process.roles");
        if layers.fixed.contains("process.roles") && names.is_empty() {
            out.add("process.roles", "must name broker, controller or both");
        }
        let has = |name: &str| names.iter().any(|r| r == name);
        let roles = Roles { broker: has("broker"), controller: has("controller") };
        let map = out.ok("listener.security.protocol.map", roles::protocol_map(layers));
        let voters = out.each("controller.quorum.voters", endpoint::parse_voter);
        let bootstrap_servers =
            out.each("controller.quorum.bootstrap.servers", endpoint::parse_reachable);
        let limits = endpoint::parse_ip_limits(&layers.text("max.connections.per.ip.overrides"));
        let ip_limits = out.ok("max.connections.per.ip.overrides", limits);
        let log_dirs = roles::log_dirs(out);
        let map = map?;
        let bound = out.each("listeners", |text| endpoint::parse_listener(text, &map));
        let told = out.each("advertised.listeners", |t| endpoint::parse_listener(t, &map));
        out.ok("listeners", endpoint::check_distinct(&bound, true));
        out.ok("advertised.listeners", endpoint::check_distinct(&told, false));
        if bound.is_empty() {
            out.add("listeners", "must name at least one listener");
        }
        let told = layers.fixed.contains("advertised.listeners").then_some(told);
        let between = roles::inter_broker(&map, out);
        let ip_limits = ip_limits?;
        let between = between?;
        Some(Self {
            roles,
            map,
            voters,
            bootstrap_servers,
            ip_limits,
            log_dirs,
            bound,
            told,
            between,
        })
    }
}

fn upper(names: Vec<String>) -> Vec<String> {
    names.into_iter().map(|n| n.to_ascii_uppercase()).collect()
}

fn listener(endpoint: Endpoint, controllers: &[String], layers: &Layers) -> Listener {
    let prefix = endpoint::listener_prefix(&endpoint.name);
    let own = |key: &str| {
        let name = format!("{prefix}{key}");
        layers.given(&name).is_some().then(|| layers.count(&name))
    };
    let control = format!("{prefix}vltava.listener.tcp.congestion.control");
    Listener {
        for_controllers: controllers.contains(&endpoint.name),
        max_connections: own("max.connections"),
        max_connection_creation_rate: own("max.connection.creation.rate"),
        congestion_control: layers.maybe_text(&control).filter(|c| !c.is_empty()),
        endpoint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMBINED: &str = "process.roles=broker,controller\nnode.id=1\n\
        listeners=PLAINTEXT://:9092,CONTROLLER://:9093\n\
        controller.listener.names=CONTROLLER\ncontroller.quorum.voters=1@localhost:9093\n";
    const BROKER: &str = "process.roles=broker\nnode.id=2\nlisteners=PLAINTEXT://:9092\n\
        controller.listener.names=CONTROLLER\ncontroller.quorum.voters=1@localhost:9093\n";
    const CONTROLLER: &str = "process.roles=controller\nnode.id=1\nlisteners=CONTROLLER://:9093\n\
        controller.listener.names=CONTROLLER\ncontroller.quorum.voters=1@localhost:9093\n";

    /// Loads `base` with the lines of `changes` set over it.
    fn load(base: &str, changes: &str) -> Result<(ServerConfig, Vec<String>), String> {
        ServerConfig::load(&Sources {
            path: "f",
            text: base,
            overrides: changes.lines().map(str::to_owned).collect(),
            ..Sources::default()
        })
        .map_err(|p| p.to_string())
    }

    #[test]
    fn the_usual_files_are_fine() {
        for base in [COMBINED, BROKER, CONTROLLER] {
            let (config, warnings) = load(base, "").unwrap();
            assert_eq!(warnings, Vec::<String>::new());
            assert!(config.not_built_yet().is_empty());
        }
        let guide = "listeners=BROKER://:9092,CONTROLLER://:9093\n\
                     inter.broker.listener.name=BROKER\n\
                     listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT";
        let (config, _) = load(COMBINED, guide).unwrap();
        assert_eq!(config.inter_broker_listener, "BROKER");
        assert_eq!(config.advertised_listeners.len(), 1);
        let told = &config.advertised_controller_listeners[0];
        assert_eq!((told.host.as_str(), told.port), ("localhost", 9093));
        assert_eq!(config.log_dirs, [PathBuf::from("/tmp/kafka-logs")]);
        assert_eq!(config.metadata_log_dir, PathBuf::from("/tmp/kafka-logs"));
    }

    #[test]
    fn values_arrive_typed() {
        let (config, _) = load(
            COMBINED,
            "log.dirs=/b,/a\nmetadata.log.dir=/m\nlistener.name.plaintext.max.connections=5\n\
             max.connections.per.ip.overrides=127.0.0.1:3\nbroker.rack=r1\n\
             vltava.listener.tcp.congestion.control=reno\n\
             listener.name.controller.vltava.listener.tcp.congestion.control=cubic",
        )
        .unwrap();
        let dirs: Vec<_> = config.all_directories();
        assert_eq!(dirs, ["/a", "/b", "/m"].map(PathBuf::from));
        assert_eq!(config.metadata_log_dir, PathBuf::from("/m"));
        let plain = config.listener("PLAINTEXT").unwrap();
        assert_eq!(plain.max_connections, Some(5));
        assert_eq!(plain.congestion_control.as_deref(), Some("reno"));
        let inner = config.listener("CONTROLLER").unwrap();
        assert_eq!((inner.max_connections, inner.for_controllers), (None, true));
        assert_eq!(inner.congestion_control.as_deref(), Some("cubic"));
        assert_eq!(config.cluster.rack.as_deref(), Some("r1"));
        assert_eq!(config.net.request_max_bytes, 104_857_600);
    }

    #[test]
    fn broker_id_and_node_id_fill_each_other() {
        let old = BROKER.replace("node.id", "broker.id");
        assert_eq!(load(&old, "").unwrap().0.node_id, NodeId(2));
        let no = load(BROKER, "broker.id=3").unwrap_err();
        assert_eq!(no, "--override: broker.id=3: must equal node.id (2)");
    }

    /// One line for each rule of `process.roles` and of the listeners.
    #[test]
    fn contradictions_are_refused() {
        let none = "controller.quorum.voters=";
        for (base, changes, text) in [
            ("node.id=1\n", "", "process.roles: is required"),
            ("process.roles=broker\n", "", "node.id: is required"),
            (COMBINED, "process.roles=zookeeper", "String must be one of: broker, controller"),
            (COMBINED, "node.id=-1", "Value must be at least 0"),
            (COMBINED, "process.roles=", "must name broker, controller or both"),
            (COMBINED, none, "one of controller.quorum.voters and controller.quorum.bootstrap"),
            (COMBINED, "node.id=5", "must contain this controller (node.id 5)"),
            (COMBINED, "controller.quorum.voters=1@a:1,1@b:1", "two voters have the same id"),
            (COMBINED, "controller.quorum.voters=1@a:1,2@a:1", "two voters have the same address"),
            (COMBINED, "controller.quorum.voters=1@a:0", "no address that another node can reach"),
            (COMBINED, "controller.quorum.voters=1@0.0.0.0:1", "another node can reach"),
            (COMBINED, "controller.quorum.voters=1-a:1", "is not of the form id@host:port"),
            (COMBINED, "controller.quorum.voters=1@a", "\"a\" is not of the form host:port"),
            (COMBINED, "controller.quorum.voters=1@a:99999", "is not a port from 0 to 65535"),
            (COMBINED, "controller.quorum.bootstrap.servers=:1", "not of the form host:port"),
            (COMBINED, "controller.quorum.bootstrap.servers=a:0", "another node can reach"),
            (COMBINED, "listeners=PLAINTEXT://:9092", "CONTROLLER is not in listeners"),
            (COMBINED, "listeners=CONTROLLER://:9093", "no broker listener is left"),
            (COMBINED, "listeners=A://:1", "listener A has no protocol"),
            (COMBINED, "advertised.listeners=PLAINTEXT://0.0.0.0:1", "nobody can reach"),
            (COMBINED, "listeners=PLAINTEXT://0.0.0.0:1,CONTROLLER://:2", "nobody can reach"),
            (COMBINED, "inter.broker.listener.name=NONE", "listener NONE has no protocol"),
            (COMBINED, "inter.broker.listener.name=SSL", "listener SSL, which is not advertised"),
            (
                COMBINED,
                "inter.broker.listener.name=PLAINTEXT\nsecurity.inter.broker.protocol=PLAINTEXT",
                "only one of inter.broker.listener.name and security.inter.broker.protocol",
            ),
            (BROKER, "node.id=1", "must not be in controller.quorum.voters"),
            (BROKER, "controller.listener.names=", "must name at least one listener"),
            (BROKER, "controller.listener.names=PLAINTEXT", "does not have the controller role"),
            (BROKER, "controller.quorum.auto.join.enable=true", "only a node with the controller"),
            (
                BROKER,
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT",
                "CONTROLLER has no protocol",
            ),
            (
                CONTROLLER,
                "listeners=CONTROLLER://:1,PLAINTEXT://:2",
                "PLAINTEXT is not in controller.listener.names",
            ),
            (
                CONTROLLER,
                "inter.broker.listener.name=CONTROLLER",
                "must not be one of controller.listener.names",
            ),
            (COMBINED, "listener.name.x.max.connections=1", "there is no listener X"),
        ] {
            let got = load(base, changes).unwrap_err();
            assert!(got.contains(text), "{changes}: {got}");
        }
        assert!(load(COMBINED, "listeners=PLAINTEXT://:1,CONTROLLER://0.0.0.0:2").is_ok());
        let dynamic = format!("{none}\ncontroller.quorum.bootstrap.servers=localhost:9093");
        assert!(load(COMBINED, &dynamic).unwrap().1.is_empty());
        let both = "controller.quorum.bootstrap.servers=localhost:9093";
        let warnings = load(COMBINED, both).unwrap().1;
        assert!(warnings[0].starts_with("controller.quorum.bootstrap.servers: is not used"));
    }

    #[test]
    fn numbers_must_fit_each_other() {
        for (changes, text) in [
            ("replica.fetch.wait.max.ms=40000", "replica.socket.timeout.ms (30000)"),
            ("replica.fetch.wait.max.ms=40000", "replica.lag.time.max.ms (30000)"),
            ("replica.selector.class=com.example.Mine", "RackAwareReplicaSelector"),
            ("queued.max.request.bytes=5", "at least socket.request.max.bytes"),
            ("max.connections.per.ip=0", "only with max.connections.per.ip.overrides"),
            ("connections.max.idle.ms=50", "connection.failed.authentication.delay.ms (100)"),
            ("log.cleaner.threads=200", "1 MiB for each"),
            ("log.roll.ms=0", "must be at least 1"),
            ("log.retention.ms=0", "must be at least 1, or -1"),
            ("log.cleaner.max.compaction.lag.ms=1\nlog.cleaner.min.compaction.lag.ms=2", "max"),
            ("group.consumer.session.timeout.ms=1", "(45000) and its maximum (60000)"),
            ("group.coordinator.rebalance.protocols=consumer", "must contain classic"),
            ("group.share.assignors=", "one assignor"),
            ("group.share.heartbeat.interval.ms=15001", "its maximum (15000)"),
            ("group.share.delivery.count.limit=10\ngroup.share.max.delivery.count.limit=9", "(9)"),
            ("group.share.max.share.sessions=199", "group.share.max.size (200)"),
            ("cordoned.log.dirs=/x", "/x is not in log.dirs"),
            ("max.connections.per.ip.overrides=a", "not of the form host:count"),
        ] {
            let got = load(COMBINED, changes).unwrap_err();
            assert!(got.contains(text), "{changes}: {got}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_aloud() {
        let refused = |changes: &str| {
            let (config, warnings) = load(COMBINED, changes).unwrap();
            (config.not_built_yet().iter().map(|p| format!("{p}\n")).collect::<String>(), warnings)
        };
        let (text, _) = refused(
            "listeners=SSL://:9092,CONTROLLER://:9093\nsecurity.inter.broker.protocol=SSL\n\
             listener.security.protocol.map=SSL:SSL,CONTROLLER:PLAINTEXT",
        );
        assert!(
            text.contains("listener SSL has protocol SSL: TLS and SASL are not built"),
            "{text}"
        );
        let (text, _) = refused("authorizer.class.name=x.StandardAuthorizer");
        assert!(text.contains("authorisation is not built yet"), "{text}");
        let (text, warnings) = refused("super.users=User:a\nssl.keystore.location=/k");
        assert_eq!(text, "");
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn a_slow_heartbeat_and_a_wrong_place_are_warned_of() {
        let (_, warnings) =
            load(BROKER, "broker.heartbeat.interval.ms=5000\nnum.partitions=3").unwrap();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }
}
