//! The rules that settings of a server keep together: roles, listeners, quorum
//! (`KafkaConfig.validateValues`), and the numeric cross-checks. Uses the other files of this room.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{
    endpoint::{self, Endpoint, SecurityProtocol, Voter},
    keys,
    layers::Layers,
    load::Problem,
    server::ServerConfig,
};

/// Gathers problems about keys of `layers`, with place and value of each.
pub(super) struct Collector<'a> {
    pub(super) layers: &'a Layers,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Collector<'a> {
    pub(super) fn new(layers: &'a Layers) -> Self {
        Self { layers, problems: Vec::new() }
    }

    pub(super) fn add(&mut self, key: &str, rule: impl Into<String>) {
        let setting = self.layers.fixed.get(key);
        let sensitive = keys::server_key(key).is_some_and(keys::Key::is_sensitive);
        self.problems.push(Problem {
            origin: setting.map(|s| s.origin.clone()),
            key: key.to_owned(),
            value: setting.filter(|_| !sensitive).map(|s| s.value.clone()),
            rule: rule.into(),
        });
    }

    /// Adds a problem about `key` unless `holds`.
    pub(super) fn require(&mut self, holds: bool, key: &str, rule: impl FnOnce() -> String) {
        if !holds {
            self.add(key, rule());
        }
    }

    pub(super) fn ok<T>(&mut self, key: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|rule| self.add(key, rule)).ok()
    }

    /// Reads each entry of a list; entries that are wrong become problems.
    pub(super) fn each<T>(
        &mut self,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let entries = self.layers.list(key);
        entries.iter().filter_map(|e| self.ok(key, read(e))).collect()
    }
}

/// The map from listener names to protocols, with PLAINTEXT for controller listeners where no map
/// is given and nothing else names a protocol (`effectiveListenerSecurityProtocolMap`).
pub(super) fn protocol_map(layers: &Layers) -> Result<BTreeMap<String, SecurityProtocol>, String> {
    let text = layers.text("listener.security.protocol.map");
    let mut map = endpoint::parse_protocol_map(&text)?;
    if layers.given("listener.security.protocol.map").is_some() {
        return Ok(map);
    }
    let controllers: Vec<String> =
        layers.list("controller.listener.names").iter().map(|n| n.to_ascii_uppercase()).collect();
    let secured = |name: &str| {
        SecurityProtocol::from_name(name).is_some_and(|p| p != SecurityProtocol::Plaintext)
    };
    let listeners = layers.list("listeners");
    let any = controllers.iter().any(|n| secured(n))
        || listeners.iter().any(|l| secured(l.split(':').next().unwrap_or_default()));
    if !any {
        for name in controllers {
            map.entry(name).or_insert(SecurityProtocol::Plaintext);
        }
    }
    Ok(map)
}

/// `log.dirs`, or `log.dir`.
pub(super) fn log_dirs(out: &mut Collector<'_>) -> Vec<PathBuf> {
    let given = out.layers.given("log.dirs").is_some();
    let key = if given { "log.dirs" } else { "log.dir" };
    let dirs = out.layers.list(key);
    out.require(!dirs.is_empty(), key, || "must name at least one directory".to_owned());
    dirs.into_iter().map(PathBuf::from).collect()
}

/// `cordoned.log.dirs` with `*` resolved.
pub(super) fn cordoned(layers: &Layers, log_dirs: &[PathBuf]) -> Vec<PathBuf> {
    let list = layers.list("cordoned.log.dirs");
    if list.iter().any(|d| d == "*") {
        return log_dirs.to_vec();
    }
    list.into_iter().map(PathBuf::from).collect()
}

/// Name and protocol of the listener between brokers.
pub(super) fn inter_broker(
    map: &BTreeMap<String, SecurityProtocol>,
    out: &mut Collector<'_>,
) -> Option<(String, SecurityProtocol)> {
    let layers = out.layers;
    let Some(name) = layers.maybe_text("inter.broker.listener.name") else {
        let protocol = SecurityProtocol::from_name(&layers.text("security.inter.broker.protocol"));
        return protocol.map(|p| (p.name().to_owned(), p));
    };
    if layers.fixed.contains("security.inter.broker.protocol") {
        out.add(
            "inter.broker.listener.name",
            "only one of inter.broker.listener.name and security.inter.broker.protocol may be set",
        );
        return None;
    }
    let name = name.to_ascii_uppercase();
    let Some(protocol) = map.get(&name) else {
        out.add(
            "inter.broker.listener.name",
            format!("listener {name} has no protocol in listener.security.protocol.map"),
        );
        return None;
    };
    Some((name, *protocol))
}

pub(super) struct Advertised {
    pub(super) brokers: Vec<Endpoint>,
    pub(super) controllers: Vec<Endpoint>,
}

/// What others are told about the listeners `bound`, given what `advertised.listeners` says
/// (`effectiveAdvertisedBrokerListeners`, `effectiveAdvertisedControllerListeners`).
pub(super) fn advertised(
    bound: &[Endpoint],
    told: Option<&[Endpoint]>,
    controller_names: &[String],
    own_vote: Option<&Voter>,
) -> Advertised {
    let is_controller = |e: &&Endpoint| controller_names.contains(&e.name);
    let brokers = told.unwrap_or(bound).iter().filter(|e| !is_controller(e)).cloned().collect();
    let mut controllers = Vec::new();
    for (i, name) in controller_names.iter().enumerate() {
        let named = |e: &&Endpoint| e.name == *name;
        if let Some(e) = told.unwrap_or_default().iter().find(named) {
            controllers.push(e.clone());
        } else if let Some(e) = bound.iter().find(named) {
            let anywhere = e.host.is_empty() || e.host == "0.0.0.0";
            let mut e = e.clone();
            match own_vote.filter(|_| i == 0 && anywhere) {
                Some(vote) => (e.host, e.port) = (vote.host.clone(), vote.port),
                None if anywhere => e.host = String::new(),
                None => {}
            }
            controllers.push(e);
        }
    }
    Advertised { brokers, controllers }
}

/// Adds every rule that `config` breaks.
pub(super) fn check(config: &ServerConfig, problems: &mut Vec<Problem>) {
    let mut out = Collector::new(&config.layers);
    check_ids(config, &mut out);
    check_controller_listeners(config, &mut out);
    if config.roles.controller {
        check_controller(config, &mut out);
    }
    if config.roles.broker {
        check_broker(config, &mut out);
    }
    check_advertised_hosts(config, &mut out);
    check_network(config, &mut out);
    check_numbers(config, &mut out);
    problems.append(&mut out.problems);
}

fn check_ids(config: &ServerConfig, out: &mut Collector<'_>) {
    let broker_id = config.layers.int("broker.id");
    let same = broker_id == config.node_id.0;
    out.require(same, "broker.id", || format!("must equal node.id ({})", config.node_id));
    out.require(
        !config.voters.is_empty() || !config.bootstrap_servers.is_empty(),
        "controller.quorum.voters",
        || {
            "one of controller.quorum.voters and controller.quorum.bootstrap.servers must be set"
                .to_owned()
        },
    );
    let ids: BTreeSet<_> = config.voters.iter().map(|v| v.id).collect();
    out.require(ids.len() == config.voters.len(), "controller.quorum.voters", || {
        "two voters have the same id".to_owned()
    });
    let places: BTreeSet<_> = config.voters.iter().map(|v| (&v.host, v.port)).collect();
    out.require(places.len() == config.voters.len(), "controller.quorum.voters", || {
        "two voters have the same address".to_owned()
    });
    let voter = ids.contains(&config.node_id);
    if config.roles.controller {
        out.require(ids.is_empty() || voter, "controller.quorum.voters", || {
            format!("must contain this controller (node.id {})", config.node_id)
        });
    } else {
        out.require(!voter, "node.id", || {
            "a node with only the broker role must not be in controller.quorum.voters".to_owned()
        });
        out.require(!config.quorum.auto_join, "controller.quorum.auto.join.enable", || {
            "only a node with the controller role can join the quorum".to_owned()
        });
    }
}

fn check_controller_listeners(config: &ServerConfig, out: &mut Collector<'_>) {
    let key = "controller.listener.names";
    let names = &config.controller_listener_names;
    out.require(!names.is_empty(), key, || "must name at least one listener".to_owned());
    if config.roles.controller {
        return;
    }
    for name in names {
        out.require(config.listener(name).is_none(), key, || {
            format!("{name} is in listeners, but this node does not have the controller role")
        });
    }
    if let Ok(map) = protocol_map(&config.layers) {
        for name in names.iter().filter(|n| !map.contains_key(*n)) {
            out.add(key, format!("{name} has no protocol in listener.security.protocol.map"));
        }
    }
}

fn check_controller(config: &ServerConfig, out: &mut Collector<'_>) {
    let names = &config.controller_listener_names;
    for name in names {
        out.require(config.listener(name).is_some(), "controller.listener.names", || {
            format!("{name} is not in listeners, but this node has the controller role")
        });
    }
    if config.roles.broker {
        return;
    }
    for listener in config.listeners.iter().filter(|l| !l.for_controllers) {
        out.add(
            "listeners",
            format!(
                "{} is not in controller.listener.names, and this node has only the controller \
                 role",
                listener.endpoint.name
            ),
        );
    }
    let explicit = config.layers.fixed.contains("inter.broker.listener.name");
    let clash = explicit && names.contains(&config.inter_broker_listener);
    out.require(!clash, "inter.broker.listener.name", || {
        "must not be one of controller.listener.names".to_owned()
    });
}

fn check_broker(config: &ServerConfig, out: &mut Collector<'_>) {
    let key = "advertised.listeners";
    let told = &config.advertised_listeners;
    if told.is_empty() {
        out.add(
            key,
            "no broker listener is left once those of controller.listener.names are taken away",
        );
        return;
    }
    for e in told.iter().filter(|e| config.listener(&e.name).is_none()) {
        out.add(key, format!("{} is not in listeners", e.name));
    }
    let between = &config.inter_broker_listener;
    let key = if config.layers.fixed.contains("inter.broker.listener.name") {
        "inter.broker.listener.name"
    } else {
        "security.inter.broker.protocol"
    };
    out.require(told.iter().any(|e| e.name == *between), key, || {
        let names: Vec<_> = told.iter().map(|e| e.name.as_str()).collect();
        format!(
            "brokers talk over listener {between}, which is not advertised; choose one of {} by \
             inter.broker.listener.name",
            names.join(", ")
        )
    });
    let sasl = matches!(
        config.inter_broker_protocol,
        SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl
    );
    if sasl {
        let prefix = endpoint::listener_prefix(between);
        let enabled = config.layers.list(&format!("{prefix}sasl.enabled.mechanisms"));
        let wanted = config.layers.text("sasl.mechanism.inter.broker.protocol");
        out.require(enabled.contains(&wanted), "sasl.mechanism.inter.broker.protocol", || {
            format!("{wanted} is not among sasl.enabled.mechanisms of listener {between}")
        });
    }
    let dirs = config.layers.list("cordoned.log.dirs");
    if dirs.iter().any(|d| d == "*") {
        out.require(dirs.len() == 1, "cordoned.log.dirs", || "* must stand alone".to_owned());
    } else {
        for dir in config.cordoned_log_dirs.iter().filter(|d| !config.log_dirs.contains(d)) {
            out.add("cordoned.log.dirs", format!("{} is not in log.dirs", dir.display()));
        }
    }
}

fn check_advertised_hosts(config: &ServerConfig, out: &mut Collector<'_>) {
    let key = "advertised.listeners";
    let key = if config.layers.fixed.contains(key) { key } else { "listeners" };
    let all = config.advertised_listeners.iter().chain(&config.advertised_controller_listeners);
    for e in all.filter(|e| e.host == "0.0.0.0") {
        out.add(key, format!("{} would be advertised as 0.0.0.0, which nobody can reach", e.name));
    }
}

fn check_network(config: &ServerConfig, out: &mut Collector<'_>) {
    let net = &config.net;
    let queued = net.queued_max_request_bytes;
    let largest = i64::try_from(net.request_max_bytes).unwrap_or(i64::MAX);
    out.require(queued <= 0 || queued >= largest, "queued.max.request.bytes", || {
        format!("must be at least socket.request.max.bytes ({largest})")
    });
    let closed = net.max_connections_per_ip == 0;
    out.require(
        !closed || !config.max_connections_per_ip_overrides.is_empty(),
        "max.connections.per.ip",
        || "can be 0 only with max.connections.per.ip.overrides".to_owned(),
    );
    let (idle, delay) = (net.connections_max_idle_ms, net.failed_authentication_delay_ms);
    out.require(idle < 0 || i64::from(delay) < idle, "connections.max.idle.ms", || {
        format!("must be more than connection.failed.authentication.delay.ms ({delay})")
    });
    for (name, _) in config.layers.fixed.iter() {
        let (Some(listener), _) = super::load::split_listener_prefix(name) else { continue };
        let listener = listener.to_ascii_uppercase();
        let known = config.listener(&listener).is_some()
            || config.controller_listener_names.contains(&listener);
        out.require(known, name, || format!("there is no listener {listener}"));
    }
}

fn check_numbers(config: &ServerConfig, out: &mut Collector<'_>) {
    let layers = &config.layers;
    out.require(layers.millis("log.roll.ms") >= 1, "log.roll.ms", || {
        "must be at least 1".to_owned()
    });
    out.require(layers.millis("log.roll.jitter.ms") >= 0, "log.roll.jitter.ms", || {
        "must be at least 0".to_owned()
    });
    let retention = layers.millis("log.retention.ms");
    out.require(retention != 0, "log.retention.ms", || {
        "must be at least 1, or -1 for ever".to_owned()
    });
    let replica = &config.replica;
    let wait = i64::from(replica.fetch_wait_max_ms);
    let socket = i64::from(replica.socket_timeout_ms);
    out.require(wait <= socket, "replica.fetch.wait.max.ms", || {
        format!("must not be more than replica.socket.timeout.ms ({socket})")
    });
    out.require(replica.selector_is_known(), "replica.selector.class", || {
        "must name LeaderSelector or RackAwareReplicaSelector; no other class exists here".into()
    });
    let lag = replica.lag_time_max_ms;
    out.require(wait <= lag, "replica.fetch.wait.max.ms", || {
        format!("must not be more than replica.lag.time.max.ms ({lag})")
    });
    let threads = i64::try_from(config.logs.cleaner_threads).unwrap_or(i64::MAX).max(1);
    let buffer = config.logs.cleaner_dedupe_buffer_bytes / threads;
    out.require(buffer > 1024 * 1024, "log.cleaner.dedupe.buffer.size", || {
        "must be more than 1 MiB for each of log.cleaner.threads".to_owned()
    });
    let topic = &config.topic_defaults;
    out.require(
        topic.min_compaction_lag_ms <= topic.max_compaction_lag_ms,
        "log.cleaner.min.compaction.lag.ms",
        || "must not be more than log.cleaner.max.compaction.lag.ms".to_owned(),
    );
    check_groups(config, out);
}

fn check_groups(config: &ServerConfig, out: &mut Collector<'_>) {
    let g = &config.group;
    out.require(
        g.rebalance_protocols.iter().any(|p| p == "classic"),
        "group.coordinator.rebalance.protocols",
        || "must contain classic".to_owned(),
    );
    out.require(!g.consumer_assignors.is_empty(), "group.consumer.assignors", || {
        "must name at least one assignor".to_owned()
    });
    let mut between = |key: &str, value: i32, least: i32, most: i32| {
        out.require((least..=most).contains(&value), key, || {
            format!("must lie between its minimum ({least}) and its maximum ({most})")
        });
    };
    between(
        "group.consumer.session.timeout.ms",
        g.consumer_session_timeout_ms,
        g.consumer_min_session_timeout_ms,
        g.consumer_max_session_timeout_ms,
    );
    between(
        "group.consumer.heartbeat.interval.ms",
        g.consumer_heartbeat_interval_ms,
        g.consumer_min_heartbeat_interval_ms,
        g.consumer_max_heartbeat_interval_ms,
    );
    let session = g.consumer_session_timeout_ms;
    out.require(
        g.consumer_heartbeat_interval_ms < session,
        "group.consumer.heartbeat.interval.ms",
        || format!("must be less than group.consumer.session.timeout.ms ({session})"),
    );
    check_share_groups(config, out);
}

/// `GroupCoordinatorConfig` and `ShareGroupConfig.validate`.
fn check_share_groups(config: &ServerConfig, out: &mut Collector<'_>) {
    let share = &config.share;
    out.require(share.assignors.len() == 1, "group.share.assignors", || {
        "must name one assignor".to_owned()
    });
    for what in [
        "session.timeout.ms",
        "heartbeat.interval.ms",
        "assignment.interval.ms",
        "record.lock.duration.ms",
        "delivery.count.limit",
        "partition.max.record.locks",
    ] {
        let number = |infix: &str| config.layers.number(&format!("group.share.{infix}{what}"));
        let (least, most) = (number("min."), number("max."));
        let key = format!("group.share.{what}");
        out.require((least..=most).contains(&number("")), &key, || {
            format!("must lie between its minimum ({least}) and its maximum ({most})")
        });
    }
    let session = share.session_timeout_ms;
    out.require(share.heartbeat_interval_ms < session, "group.share.heartbeat.interval.ms", || {
        format!("must be less than group.share.session.timeout.ms ({session})")
    });
    let size = share.max_size;
    out.require(share.max_sessions >= size, "group.share.max.share.sessions", || {
        format!("must be at least group.share.max.size ({size})")
    });
}

/// What is worth telling once at boot though nothing is wrong.
pub(super) fn warnings(config: &ServerConfig) -> Vec<String> {
    let mut out = Vec::new();
    let (beat, session) = (config.cluster.heartbeat_interval_ms, config.cluster.session_timeout_ms);
    if i64::from(beat) * 2 > i64::from(session) {
        out.push(format!(
            "broker.heartbeat.interval.ms={beat}: is more than half of broker.session.timeout.ms \
             ({session}); brokers may be fenced while they are well"
        ));
    }
    if !config.voters.is_empty() && !config.bootstrap_servers.is_empty() {
        out.push(
            "controller.quorum.bootstrap.servers: is not used, because controller.quorum.voters \
             is set"
                .to_owned(),
        );
    }
    let fixed = &config.layers.fixed;
    if config.roles.broker && !config.roles.controller {
        if let [first, _, ..] = &config.controller_listener_names[..] {
            out.push(format!("controller.listener.names: only the first, {first}, is used"));
        }
        let keys = ["create.topic.policy.class.name", "alter.config.policy.class.name"];
        for key in keys.into_iter().chain(["num.partitions", "default.replication.factor"]) {
            if fixed.contains(key) {
                out.push(format!("{key}: belongs into the files of the controllers"));
            }
        }
    }
    for (name, setting) in fixed.iter() {
        let base = super::load::split_listener_prefix(name).1;
        if let Some(why) = without_effect(base) {
            out.push(format!("{}: {name} has no effect: {why}", setting.origin));
        }
    }
    out
}

/// Why a key of the table changes nothing in this build.
fn without_effect(key: &str) -> Option<&'static str> {
    let mut parts = keys::SERVER.iter();
    let rows = parts.find(|(part, _)| *part == "Security").map(|(_, rows)| rows)?;
    let row = rows.iter().find(|row| row.name == key && key != "authorizer.class.name");
    row.map(|_| "authentication, authorisation and TLS are not built yet")
}

/// Settings that must not be passed over in silence.
pub(super) fn not_built_yet(config: &ServerConfig) -> Vec<Problem> {
    let mut out = Collector::new(&config.layers);
    let secured = |p: SecurityProtocol| p != SecurityProtocol::Plaintext;
    for l in config.listeners.iter().filter(|l| secured(l.endpoint.protocol)) {
        out.add(
            "listeners",
            format!(
                "listener {} has protocol {}: TLS and SASL are not built yet, only PLAINTEXT is",
                l.endpoint.name, l.endpoint.protocol
            ),
        );
    }
    if !config.roles.controller && secured(config.controller_protocol) {
        out.add(
            "controller.listener.names",
            format!(
                "the controllers' listener has protocol {}: TLS and SASL are not built yet, only \
                 PLAINTEXT is",
                config.controller_protocol
            ),
        );
    }
    if !config.layers.text("authorizer.class.name").is_empty() {
        out.add(
            "authorizer.class.name",
            "authorisation is not built yet; without it everyone may do everything",
        );
    }
    for key in ["create.topic.policy.class.name", "alter.config.policy.class.name"] {
        if config.layers.maybe_text(key).is_some() {
            out.add(key, "Java classes are not loaded, so this policy would not be kept");
        }
    }
    out.problems
}
