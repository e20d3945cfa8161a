//! Keys of the node itself: roles, listeners, quorum, network, limits.
//! Rows of THE table (`keys.rs`); uses only its row builders.

use super::keys::{Key, NULL, boolean, class, int, list, long, string};

/// Keys of the node itself: roles, listeners, quorum, network, limits.
pub(super) const KEYS: &[Key] = &[
    list("process.roles", NULL)
        .required()
        .each_of(&["broker", "controller"])
        .doc("Roles of this node: `broker`, `controller`, or both."),
    int("node.id", NULL)
        .required()
        .min(0)
        .doc("Id of this node, unique over all brokers and controllers of the cluster."),
    int("broker.id", Some("-1"))
        .doc("Older name of `node.id`; whichever of the two is given fills the other."),
    string("broker.rack", NULL).broker().doc(
        "Rack of this broker, used to spread replicas and to let consumers read from a \
             near one.",
    ),
    list("listeners", Some("PLAINTEXT://:9092"))
        .distinct()
        .per_broker()
        .doc("Addresses to listen on, as `NAME://host:port`; an empty host means every interface."),
    list("advertised.listeners", NULL).distinct().doc(
        "Addresses that clients are told to connect to, by listener; `listeners` when not \
             set.",
    ),
    string(
        "listener.security.protocol.map",
        Some("SASL_SSL:SASL_SSL,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT"),
    )
    .per_broker()
    .doc("Security protocol of each listener, as `NAME:PROTOCOL` pairs."),
    string("inter.broker.listener.name", NULL).doc(
        "Listener over which brokers talk to each other; not together with \
             `security.inter.broker.protocol`.",
    ),
    string("security.inter.broker.protocol", Some("PLAINTEXT"))
        .one_of(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
        .doc(
            "Security protocol between brokers, which names their listener when \
             `inter.broker.listener.name` is not set.",
        ),
    list("controller.listener.names", NULL)
        .required()
        .doc("Listeners of the controllers; a broker uses the first of them to reach the quorum."),
    list("early.start.listeners", NULL).doc(
        "Listeners that answer before the node is ready to serve; the controller \
             listeners when not set.",
    ),
    list("controller.quorum.voters", Some("")).doc(
        "The fixed set of controllers, as `id@host:port` entries; empty with a dynamic \
             quorum.",
    ),
    list("controller.quorum.bootstrap.servers", Some(""))
        .doc("Addresses at which a node finds a dynamic quorum, as `host:port` entries."),
    boolean("controller.quorum.auto.join.enable", Some("false"))
        .controller()
        .doc("Whether a controller outside the voter set asks to be added to it."),
    int("controller.quorum.election.timeout.ms", Some("1000"))
        .min(0)
        .controller()
        .doc("Longest wait, in milliseconds, for an election to be won before a new one is tried."),
    int("controller.quorum.fetch.timeout.ms", Some("2000")).min(0).controller().doc(
        "Silence, in milliseconds, after which a follower of the quorum stands for \
             election and a leader without a majority resigns.",
    ),
    int("controller.quorum.election.backoff.max.ms", Some("1000"))
        .min(0)
        .controller()
        .doc("Longest random pause, in milliseconds, before another election."),
    int("controller.quorum.append.linger.ms", Some("25")).min(0).controller().doc(
        "How long, in milliseconds, the quorum's leader gathers records before it writes \
             them.",
    ),
    int("controller.quorum.request.timeout.ms", Some("2000"))
        .min(0)
        .doc("How long, in milliseconds, a request to the quorum may take."),
    int("controller.quorum.retry.backoff.ms", Some("20"))
        .min(0)
        .doc("Pause, in milliseconds, before a failed request to the quorum is sent again."),
    int("controller.quorum.fetch.max.bytes", Some("1048576"))
        .min(1)
        .controller()
        .doc("Most bytes of metadata records in one answer of the quorum's leader."),
    int("controller.quorum.fetch.snapshot.max.bytes", Some("1048576"))
        .min(1)
        .controller()
        .doc("Most bytes of a metadata checkpoint in one answer of the quorum's leader."),
    string("metadata.log.dir", NULL)
        .doc("Directory of the metadata log; the first log directory when not set."),
    int("metadata.log.segment.bytes", Some("1073741824"))
        .min(8388608)
        .doc("Size, in bytes, at which a segment of the metadata log is closed."),
    long("metadata.log.segment.ms", Some("604800000"))
        .doc("Age, in milliseconds, at which a segment of the metadata log is closed."),
    long("metadata.max.retention.bytes", Some("104857600"))
        .doc("Bytes of metadata log and checkpoints to keep at most."),
    long("metadata.max.retention.ms", Some("604800000"))
        .doc("How long, in milliseconds, metadata log and checkpoints are kept."),
    long("metadata.log.max.record.bytes.between.snapshots", Some("20971520"))
        .min(1)
        .doc("Bytes of metadata records after which a new checkpoint is written."),
    long("metadata.log.max.snapshot.interval.ms", Some("3600000")).min(0).doc(
        "Longest time, in milliseconds, between checkpoints while records arrive; 0 \
             switches the timer off.",
    ),
    int("metadata.max.idle.interval.ms", Some("500")).min(0).controller().doc(
        "Pause, in milliseconds, after which an idle controller writes a no-op record; 0 \
             switches them off.",
    ),
    int("broker.heartbeat.interval.ms", Some("2000"))
        .broker()
        .doc("Pause, in milliseconds, between heartbeats of a broker to the controller."),
    int("broker.session.timeout.ms", Some("9000"))
        .controller()
        .doc("Silence, in milliseconds, after which the controller fences a broker."),
    int("initial.broker.registration.timeout.ms", Some("60000")).broker().doc(
        "How long, in milliseconds, a starting broker tries to register before it stops \
             itself.",
    ),
    boolean("controlled.shutdown.enable", Some("true"))
        .broker()
        .doc("Whether a stopping broker first hands over the partitions it leads."),
    int("controller.socket.timeout.ms", Some("30000")).broker().doc(
        "How long, in milliseconds, a request from a broker to the controller may take on \
             the socket.",
    ),
    int("background.threads", Some("10"))
        .min(1)
        .cluster_wide()
        .doc("Size of the pool for background work."),
    int("num.network.threads", Some("3"))
        .min(1)
        .cluster_wide()
        .doc("Network threads for each listener."),
    int("num.io.threads", Some("8"))
        .min(1)
        .cluster_wide()
        .doc("Threads that process requests and wait for disks."),
    int("queued.max.requests", Some("500"))
        .min(1)
        .doc("Requests that may wait to be processed before no more are read."),
    long("queued.max.request.bytes", Some("-1"))
        .doc("Bytes of waiting requests before no more are read; -1 for no limit."),
    int("request.timeout.ms", Some("30000"))
        .doc("How long, in milliseconds, a request to another node may take."),
    int("socket.send.buffer.bytes", Some("102400")).doc(
        "Send buffer of a server socket in bytes; -1, or no line at all: the system tunes it.",
    ),
    int("socket.receive.buffer.bytes", Some("102400"))
        .doc("Receive buffer of a server socket in bytes; -1, or no line: the system tunes it."),
    int("socket.request.max.bytes", Some("104857600"))
        .min(1)
        .doc("Largest request in bytes; a larger one closes the connection."),
    int("socket.listen.backlog.size", Some("50"))
        .min(1)
        .doc("Connections the system may hold that have not been accepted yet."),
    long("socket.connection.setup.timeout.ms", Some("10000"))
        .doc("First limit, in milliseconds, for setting up a connection to another node."),
    long("socket.connection.setup.timeout.max.ms", Some("30000")).doc(
        "Largest limit, in milliseconds, for setting up a connection after repeated \
             failures.",
    ),
    int("max.connections", Some("2147483647"))
        .min(0)
        .cluster_wide()
        .doc("Most connections at a time; may be set for one listener with its prefix."),
    int("max.connections.per.ip", Some("2147483647"))
        .min(0)
        .cluster_wide()
        .doc("Most connections from one address."),
    string("max.connections.per.ip.overrides", Some(""))
        .cluster_wide()
        .doc("Exceptions to `max.connections.per.ip`, as `host:count` pairs."),
    int("max.connection.creation.rate", Some("2147483647"))
        .min(0)
        .cluster_wide()
        .doc("Most new connections a second; may be set for one listener with its prefix."),
    long("connections.max.idle.ms", Some("600000"))
        .doc("Idle time, in milliseconds, after which a connection is closed."),
    int("connection.failed.authentication.delay.ms", Some("100"))
        .min(0)
        .doc("Pause, in milliseconds, before a connection that failed to authenticate is closed."),
    int("fetch.max.bytes", Some("57671680"))
        .min(1024)
        .broker()
        .doc("Most bytes that one fetch answer may hold, whatever the client asks for."),
    int("max.incremental.fetch.session.cache.slots", Some("1000"))
        .min(0)
        .broker()
        .doc("Incremental fetch sessions that are remembered at a time."),
    int("max.request.partition.size.limit", Some("2000"))
        .min(1)
        .broker()
        .doc("Most partitions in one answer of DescribeTopicPartitions."),
    boolean("auto.create.topics.enable", Some("true"))
        .broker()
        .doc("Whether asking for the metadata of an unknown topic may create it."),
    boolean("delete.topic.enable", Some("true")).controller().doc("Whether topics may be deleted."),
    int("num.partitions", Some("1"))
        .min(1)
        .doc("Partitions of a topic that is created without a number."),
    int("default.replication.factor", Some("1"))
        .doc("Replicas of each partition of a topic that is created without a number."),
    class("create.topic.policy.class.name", NULL)
        .controller()
        .doc("Java class that would judge topic creations."),
    class("alter.config.policy.class.name", NULL)
        .controller()
        .doc("Java class that would judge configuration changes."),
    boolean("unstable.api.versions.enable", Some("false"))
        .internal()
        .doc("Whether versions of APIs that are not final are served; for tests."),
    boolean("unstable.feature.versions.enable", Some("false"))
        .internal()
        .doc("Whether feature levels that are not final may be set; for tests."),
    int("telemetry.max.bytes", Some("1048576"))
        .min(1)
        .broker()
        .doc("Largest push of client metrics in bytes."),
];
