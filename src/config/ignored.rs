//! Keys that Kafka knows, or knew, and that have no meaning in a server's file here: each with the
//! reason and the right key, if there is one. They are accepted and listed once at boot. Uses
//! `keys`.

use super::keys;

/// Why a known key is passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ignored {
    /// The reason, as the end of "… is ignored: ".
    pub reason: &'static str,
    /// What to use in its place.
    pub instead: Option<&'static str>,
}

struct Row(&'static str, &'static str, Option<&'static str>);

const NO_ZOOKEEPER: &str = "there is no ZooKeeper; a quorum of controllers takes its place";
const VERSION_FEATURE: &str = "the metadata.version feature took its place in Kafka 4";
const ONE_FORMAT: &str = "Kafka 4 has one record format, version 2";
const CLIENT: &str = "it is a key of clients, not of servers";
const NO_TIERS: &str = "tiered storage is not built yet";
const NO_JMX: &str = "there are no Java metrics reporters here";
const OWN_SHARE: &str = "share partitions are initialized again at once, and assigned in place";
const NO_STREAMS: &str = "streams groups are not built yet";
const NO_PROVIDERS: &str = "values are not looked up through providers";
const NO_MECHANISM: &str = "this SASL mechanism is not built yet";
const TUNING: &str = "it tunes a part of Kafka that is built in another way here";
const RENAMED: &str = "it has another name since long ago";
const REMOVED: &str = "Kafka 4 does not have it any more";
const VENDOR: &str = "it belongs to another distribution of Kafka";

/// A name, or a prefix that ends in `*`; the reason; the right key.
const ROWS: &[Row] = &[
    Row("zookeeper.*", NO_ZOOKEEPER, Some("controller.quorum.voters")),
    Row("password.encoder.*", NO_ZOOKEEPER, None),
    Row("broker.id.generation.enable", NO_ZOOKEEPER, Some("node.id")),
    Row("reserved.broker.max.id", NO_ZOOKEEPER, None),
    Row("control.plane.listener.name", NO_ZOOKEEPER, Some("controller.listener.names")),
    Row(
        "controlled.shutdown.max.retries",
        NO_ZOOKEEPER,
        Some("vltava.controlled.shutdown.wait.ms"),
    ),
    Row(
        "controlled.shutdown.retry.backoff.ms",
        NO_ZOOKEEPER,
        Some("vltava.controlled.shutdown.wait.ms"),
    ),
    Row(
        "controller.quorum.bootstrap.controllers",
        CLIENT,
        Some("controller.quorum.bootstrap.servers"),
    ),
    Row("inter.broker.protocol.version", VERSION_FEATURE, None),
    Row("log.message.format.version", ONE_FORMAT, None),
    Row("message.format.version", ONE_FORMAT, None),
    Row("log.message.downconversion.enable", ONE_FORMAT, None),
    Row("message.downconversion.enable", ONE_FORMAT, None),
    Row(
        "log.message.timestamp.difference.max.ms",
        REMOVED,
        Some("log.message.timestamp.before.max.ms and log.message.timestamp.after.max.ms"),
    ),
    Row("leader.imbalance.per.broker.percentage", REMOVED, Some("auto.leader.rebalance.enable")),
    Row("eligible.leader.replicas.enable", "it is a feature now", None),
    Row("group.coordinator.new.enable", REMOVED, Some("group.coordinator.rebalance.protocols")),
    Row("offsets.commit.required.acks", REMOVED, None),
    Row("quota.producer.default", REMOVED, None),
    Row("quota.consumer.default", REMOVED, None),
    Row("delegation.token.master.key", RENAMED, Some("delegation.token.secret.key")),
    Row("host.name", RENAMED, Some("listeners")),
    Row("port", RENAMED, Some("listeners")),
    Row("advertised.host.name", RENAMED, Some("advertised.listeners")),
    Row("advertised.port", RENAMED, Some("advertised.listeners")),
    Row("replica.lag.max.messages", RENAMED, Some("replica.lag.time.max.ms")),
    Row("log.cleanup.interval.mins", RENAMED, Some("log.retention.check.interval.ms")),
    Row("log.delete.delay.ms", RENAMED, Some("log.segment.delete.delay.ms")),
    Row("metric.reporters", NO_JMX, None),
    Row("metrics.*", NO_JMX, None),
    Row("kafka.metrics.*", NO_JMX, None),
    Row("auto.include.jmx.reporter", NO_JMX, None),
    Row("remote.*", NO_TIERS, None),
    Row("rsm.config.*", NO_TIERS, None),
    Row("rlmm.config.*", NO_TIERS, None),
    Row("follower.fetch.last.tiered.offset.enable", NO_TIERS, None),
    Row("share.coordinator.threads", TUNING, None),
    Row("share.coordinator.append.linger.ms", TUNING, None),
    Row("share.coordinator.cached.buffer.max.bytes", TUNING, None),
    Row("group.share.assignor.offload.enable", OWN_SHARE, None),
    Row("group.share.initialize.retry.interval.ms", OWN_SHARE, None),
    Row("group.share.persister.class.name", "Java classes are not loaded", None),
    Row("share.fetch.purgatory.purge.interval.requests", TUNING, None),
    Row("group.streams.*", NO_STREAMS, None),
    Row("config.providers*", NO_PROVIDERS, None),
    Row("security.providers", "there are no Java security providers here", None),
    Row("client.quota.callback.class", "Java classes are not loaded", None),
    Row("sasl.oauthbearer.*", NO_MECHANISM, None),
    Row("sasl.kerberos.*", NO_MECHANISM, None),
    Row("sasl.login.refresh.*", NO_MECHANISM, None),
    Row("sasl.login.retry.*", NO_MECHANISM, None),
    Row("sasl.login.connect.timeout.ms", NO_MECHANISM, None),
    Row("sasl.login.read.timeout.ms", NO_MECHANISM, None),
    Row("controller.performance.*", TUNING, None),
    Row("internal.metadata.*", TUNING, None),
    Row("server.max.startup.time.ms", TUNING, None),
    Row("confluent.*", VENDOR, None),
    Row("acks", CLIENT, Some("min.insync.replicas")),
    Row("allow.auto.create.topics", CLIENT, Some("auto.create.topics.enable")),
    Row("max.request.size", CLIENT, Some("message.max.bytes")),
    Row("fetch.max.wait.ms", CLIENT, Some("replica.fetch.wait.max.ms")),
    Row("fetch.min.bytes", CLIENT, Some("replica.fetch.min.bytes")),
    Row("heartbeat.interval.ms", CLIENT, Some("group.consumer.heartbeat.interval.ms")),
    Row(
        "session.timeout.ms",
        CLIENT,
        Some("group.min.session.timeout.ms and group.max.session.timeout.ms"),
    ),
    Row("transaction.timeout.ms", CLIENT, Some("transaction.max.timeout.ms")),
    Row("bootstrap.servers", CLIENT, Some("controller.quorum.bootstrap.servers")),
    Row("bootstrap.controllers", CLIENT, Some("controller.quorum.bootstrap.servers")),
    Row("security.protocol", CLIENT, Some("listener.security.protocol.map")),
    Row("sasl.mechanism", CLIENT, Some("sasl.enabled.mechanisms")),
    Row("send.buffer.bytes", CLIENT, Some("socket.send.buffer.bytes")),
    Row("receive.buffer.bytes", CLIENT, Some("socket.receive.buffer.bytes")),
];

/// Names of `ProducerConfig`, `ConsumerConfig` and `AdminClientConfig` with nothing to say more.
const CLIENT_KEYS: &[&str] = &[
    "auto.commit.interval.ms",
    "auto.offset.reset",
    "batch.size",
    "buffer.memory",
    "check.crcs",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "default.api.timeout.ms",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.idempotence",
    "enable.metrics.push",
    "exclude.internal.topics",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "interceptor.classes",
    "isolation.level",
    "key.deserializer",
    "key.serializer",
    "linger.ms",
    "max.block.ms",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "max.poll.records",
    "metadata.max.age.ms",
    "metadata.max.idle.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "partition.assignment.strategy",
    "partitioner.adaptive.partitioning.enable",
    "partitioner.availability.timeout.ms",
    "partitioner.class",
    "partitioner.ignore.keys",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retries",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "transactional.id",
    "value.deserializer",
    "value.serializer",
];

/// Why `name` has no meaning in a server's file, if it is a key that Kafka knows elsewhere.
#[must_use]
pub fn find(name: &str) -> Option<Ignored> {
    let fits = |row: &&Row| match row.0.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == row.0,
    };
    if let Some(Row(_, reason, instead)) = ROWS.iter().find(fits) {
        return Some(Ignored { reason, instead: *instead });
    }
    if CLIENT_KEYS.contains(&name) {
        return Some(Ignored { reason: CLIENT, instead: None });
    }
    let topic = keys::topic_key(name)?;
    let reason = "it is a key of topics, not of servers";
    Some(Ignored { reason, instead: topic.fallbacks.first().copied() })
}

/// The rows with a reason and a right key, for the documentation; names of clients without either
/// are left out.
pub(super) fn documented() -> impl Iterator<Item = (&'static str, Ignored)> {
    ROWS.iter().map(|Row(name, reason, instead)| (*name, Ignored { reason, instead: *instead }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_hides_a_key_of_the_table() {
        for key in keys::server_keys() {
            let fits = documented().find(|(n, _)| match n.strip_suffix('*') {
                Some(prefix) => key.name.starts_with(prefix),
                None => key.name == *n,
            });
            assert_eq!(fits, None, "{}", key.name);
            assert!(!CLIENT_KEYS.contains(&key.name), "{}", key.name);
        }
    }

    #[test]
    fn right_keys_exist() {
        for (name, row) in documented() {
            for right in row.instead.iter().flat_map(|i| i.split(" and ")) {
                assert!(keys::server_key(right).is_some(), "{name}: {right}");
            }
        }
    }

    #[test]
    fn reasons_name_the_right_key() {
        assert_eq!(find("zookeeper.connect").unwrap().instead, Some("controller.quorum.voters"));
        assert_eq!(find("retention.ms").unwrap().instead, Some("log.retention.ms"));
        assert!(find("group.id").is_some());
        assert_eq!(find("no.such.key"), None);
    }
}
