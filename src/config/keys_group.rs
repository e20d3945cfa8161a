//! Keys of groups, offsets, transactions and producers.
//! Rows of THE table (`keys.rs`); uses only its row builders.

use super::keys::{Key, boolean, int, list, long, short, string};

/// Keys of groups, offsets, transactions and producers.
pub(super) const KEYS: &[Key] = &[
    int("group.min.session.timeout.ms", Some("6000")).broker().doc(
        "Shortest session timeout, in milliseconds, that a member of a classic group may \
             ask for.",
    ),
    int("group.max.session.timeout.ms", Some("1800000")).broker().doc(
        "Longest session timeout, in milliseconds, that a member of a classic group may \
             ask for.",
    ),
    int("group.initial.rebalance.delay.ms", Some("3000")).broker().doc(
        "How long, in milliseconds, the first rebalance of an empty group waits for more \
             members.",
    ),
    int("group.max.size", Some("2147483647"))
        .min(1)
        .broker()
        .doc("Most members of a classic group."),
    list("group.coordinator.rebalance.protocols", Some("classic,consumer,streams"))
        .each_of(&["consumer", "classic", "share", "streams"])
        .broker()
        .doc("Group protocols that are served; `classic` always is, `streams` is not built yet."),
    int("group.coordinator.threads", Some("4"))
        .min(1)
        .broker()
        .doc("Threads that run group coordinators."),
    int("group.coordinator.background.threads", Some("2"))
        .min(1)
        .broker()
        .doc("Threads for the coordinators' background work."),
    int("group.coordinator.append.linger.ms", Some("-1"))
        .min(-1)
        .broker()
        .doc("How long, in milliseconds, a coordinator gathers writes; -1 chooses by load."),
    int("group.coordinator.cached.buffer.max.bytes", Some("1048588"))
        .min(524288)
        .cluster_wide()
        .broker()
        .doc("Largest write buffer in bytes that a coordinator keeps for the next write."),
    int("group.consumer.session.timeout.ms", Some("45000"))
        .min(1)
        .broker()
        .doc("Session timeout, in milliseconds, of consumer groups."),
    int("group.consumer.min.session.timeout.ms", Some("45000"))
        .min(1)
        .broker()
        .doc("Shortest session timeout, in milliseconds, of consumer groups."),
    int("group.consumer.max.session.timeout.ms", Some("60000"))
        .min(1)
        .broker()
        .doc("Longest session timeout, in milliseconds, of consumer groups."),
    int("group.consumer.heartbeat.interval.ms", Some("5000"))
        .min(1)
        .broker()
        .doc("Heartbeat interval, in milliseconds, of consumer groups."),
    int("group.consumer.min.heartbeat.interval.ms", Some("5000"))
        .min(1)
        .broker()
        .doc("Shortest heartbeat interval, in milliseconds, of consumer groups."),
    int("group.consumer.max.heartbeat.interval.ms", Some("15000"))
        .min(1)
        .broker()
        .doc("Longest heartbeat interval, in milliseconds, of consumer groups."),
    int("group.consumer.max.size", Some("2147483647"))
        .min(1)
        .broker()
        .doc("Most members of a consumer group."),
    list("group.consumer.assignors", Some("uniform,range"))
        .broker()
        .doc("Assignors that the broker offers to consumer groups; the first is the default."),
    string("group.consumer.migration.policy", Some("bidirectional"))
        .one_of_any_case(&["disabled", "downgrade", "upgrade", "bidirectional"])
        .broker()
        .doc(
            "Which way a group may change between the classic and the consumer protocol while \
             it runs.",
        ),
    int("group.consumer.assignment.interval.ms", Some("1000"))
        .min(0)
        .cluster_wide()
        .broker()
        .doc("Shortest time, in milliseconds, between two target assignments of a consumer group."),
    int("group.consumer.min.assignment.interval.ms", Some("0"))
        .min(0)
        .broker()
        .doc("Smallest value a group may set for its assignment interval in milliseconds."),
    int("group.consumer.max.assignment.interval.ms", Some("15000"))
        .min(0)
        .broker()
        .doc("Largest value a group may set for its assignment interval in milliseconds."),
    int("group.consumer.regex.refresh.interval.ms", Some("600000"))
        .min(10000)
        .broker()
        .internal()
        .doc("Pause, in milliseconds, between evaluations of regular-expression subscriptions."),
    int("offsets.topic.num.partitions", Some("50"))
        .min(1)
        .broker()
        .doc("Partitions of `__consumer_offsets`."),
    short("offsets.topic.replication.factor", Some("3")).min(1).broker().doc(
        "Replicas of `__consumer_offsets`, which is not created while fewer brokers are \
             alive.",
    ),
    int("offsets.topic.segment.bytes", Some("104857600"))
        .min(1)
        .broker()
        .doc("Segment size of `__consumer_offsets` in bytes."),
    int("offsets.topic.compression.codec", Some("0"))
        .range(0, 4)
        .broker()
        .doc("Codec of the offsets topic, by number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."),
    int("offsets.load.buffer.size", Some("5242880"))
        .min(1)
        .broker()
        .doc("Bytes read at a time while groups are loaded."),
    int("offsets.retention.minutes", Some("10080"))
        .min(1)
        .broker()
        .doc("How long, in minutes, offsets of an empty group are kept."),
    long("offsets.retention.check.interval.ms", Some("600000"))
        .min(1)
        .broker()
        .doc("Pause, in milliseconds, between looks for expired offsets."),
    int("offsets.commit.timeout.ms", Some("5000"))
        .min(1)
        .broker()
        .doc("How long, in milliseconds, a write of a coordinator may take."),
    int("offset.metadata.max.bytes", Some("4096"))
        .broker()
        .doc("Largest metadata text of a committed offset in bytes."),
    int("transaction.max.timeout.ms", Some("900000"))
        .min(1)
        .broker()
        .doc("Longest transaction timeout, in milliseconds, that a producer may ask for."),
    int("transactional.id.expiration.ms", Some("604800000"))
        .min(1)
        .broker()
        .doc("Idle time, in milliseconds, after which a transactional id is forgotten."),
    int("transaction.state.log.num.partitions", Some("50"))
        .min(1)
        .broker()
        .doc("Partitions of `__transaction_state`."),
    short("transaction.state.log.replication.factor", Some("3"))
        .min(1)
        .broker()
        .doc("Replicas of `__transaction_state`."),
    int("transaction.state.log.min.isr", Some("2"))
        .min(1)
        .broker()
        .doc("`min.insync.replicas` of `__transaction_state`."),
    int("transaction.state.log.segment.bytes", Some("104857600"))
        .min(1)
        .broker()
        .doc("Segment size of `__transaction_state` in bytes."),
    int("transaction.state.log.load.buffer.size", Some("5242880"))
        .min(1)
        .broker()
        .doc("Bytes read at a time while transactions are loaded."),
    int("transaction.abort.timed.out.transaction.cleanup.interval.ms", Some("10000"))
        .min(1)
        .broker()
        .doc("Pause, in milliseconds, between looks for transactions that ran out of time."),
    int("transaction.remove.expired.transaction.cleanup.interval.ms", Some("3600000"))
        .min(1)
        .broker()
        .doc("Pause, in milliseconds, between looks for transactional ids that expired."),
    boolean("transaction.partition.verification.enable", Some("true")).cluster_wide().broker().doc(
        "Whether a leader checks that a partition was added to the transaction that \
             writes to it.",
    ),
    boolean("transaction.two.phase.commit.enable", Some("false")).broker().doc(
        "Whether external coordinators may keep transactions prepared. Not built yet: `true` \
             is refused.",
    ),
    int("add.partitions.to.txn.retry.backoff.ms", Some("20"))
        .min(1)
        .broker()
        .doc("Pause, in milliseconds, before partitions are added to a busy transaction again."),
    int("add.partitions.to.txn.retry.backoff.max.ms", Some("100"))
        .min(0)
        .broker()
        .doc("How long, in milliseconds, adding partitions to a busy transaction is tried again."),
    int("producer.id.expiration.ms", Some("86400000"))
        .min(1)
        .cluster_wide()
        .broker()
        .doc("Idle time, in milliseconds, after which a partition forgets a producer."),
    int("producer.id.expiration.check.interval.ms", Some("600000"))
        .min(1)
        .broker()
        .internal()
        .doc("Pause, in milliseconds, between looks for producers to forget."),
];
