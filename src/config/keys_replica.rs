//! Keys of replication, elections and quotas.
//! Rows of THE table (`keys.rs`); uses only its row builders.

use super::keys::{Key, NULL, boolean, int, long, string};

/// Keys of replication, elections and quotas.
pub(super) const KEYS: &[Key] = &[
    int("min.insync.replicas", Some("1"))
        .min(1)
        .cluster_wide()
        .doc("Replicas that must have a record before acks=all is answered."),
    boolean("unclean.leader.election.enable", Some("false"))
        .cluster_wide()
        .doc("Whether a replica that is not in sync may lead, at the price of lost records."),
    long("unclean.leader.election.interval.ms", Some("300000")).min(1).controller().internal().doc(
        "Pause, in milliseconds, between looks for partitions that an unclean election \
             would help.",
    ),
    boolean("auto.leader.rebalance.enable", Some("true"))
        .controller()
        .doc("Whether leadership moves back to the preferred replica by itself."),
    long("leader.imbalance.check.interval.seconds", Some("300"))
        .min(1)
        .controller()
        .doc("Pause, in seconds, between checks of the leaders' balance."),
    long("replica.lag.time.max.ms", Some("30000"))
        .broker()
        .doc("Time, in milliseconds, that a follower may lag before it is no longer in sync."),
    int("replica.fetch.max.bytes", Some("1048576"))
        .min(0)
        .broker()
        .doc("Most bytes of one partition in a follower's fetch."),
    int("replica.fetch.wait.max.ms", Some("500"))
        .broker()
        .doc("Longest wait, in milliseconds, of a follower's fetch for new records."),
    int("replica.fetch.min.bytes", Some("1"))
        .broker()
        .doc("Bytes that a follower's fetch waits for."),
    int("replica.fetch.response.max.bytes", Some("10485760"))
        .min(0)
        .broker()
        .doc("Most bytes in the whole answer to a follower's fetch."),
    int("replica.fetch.backoff.ms", Some("1000"))
        .min(0)
        .broker()
        .doc("Pause, in milliseconds, after a failed fetch of a partition."),
    int("num.replica.fetchers", Some("1"))
        .min(1)
        .cluster_wide()
        .broker()
        .doc("Fetchers for each broker that is followed."),
    int("replica.socket.timeout.ms", Some("30000"))
        .broker()
        .doc("How long, in milliseconds, a follower's request may take on the socket."),
    int("replica.socket.receive.buffer.bytes", Some("65536"))
        .broker()
        .doc("Receive buffer of a follower's socket in bytes."),
    long("replica.high.watermark.checkpoint.interval.ms", Some("5000"))
        .broker()
        .doc("Pause, in milliseconds, between writes of the high watermarks."),
    string("replica.selector.class", NULL).broker().doc(
        "Chooses the replica that a consumer reads from: a name ending in \
             `RackAwareReplicaSelector` picks one in its rack, `LeaderSelector` the leader.",
    ),
    int("fetch.purgatory.purge.interval.requests", Some("1000"))
        .broker()
        .doc("Finished fetches after which waiting ones are swept."),
    int("producer.purgatory.purge.interval.requests", Some("1000"))
        .broker()
        .doc("Finished produce requests after which waiting ones are swept."),
    int("delete.records.purgatory.purge.interval.requests", Some("1"))
        .broker()
        .doc("Finished record deletions after which waiting ones are swept."),
    int("quota.window.num", Some("11")).min(1).doc("Samples that a client quota looks back on."),
    int("quota.window.size.seconds", Some("1"))
        .min(1)
        .doc("Length of one sample of a client quota in seconds."),
    int("replication.quota.window.num", Some("11"))
        .min(1)
        .broker()
        .doc("Samples that the replication throttle looks back on."),
    int("replication.quota.window.size.seconds", Some("1"))
        .min(1)
        .broker()
        .doc("Length of one sample of the replication throttle in seconds."),
    int("alter.log.dirs.replication.quota.window.num", Some("11"))
        .min(1)
        .broker()
        .doc("Samples that the throttle of moves between directories looks back on."),
    int("alter.log.dirs.replication.quota.window.size.seconds", Some("1"))
        .min(1)
        .broker()
        .doc("Length of one sample of the throttle of moves between directories in seconds."),
    int("controller.quota.window.num", Some("11"))
        .min(1)
        .controller()
        .doc("Samples that the quota on controller mutations looks back on."),
    int("controller.quota.window.size.seconds", Some("1"))
        .min(1)
        .controller()
        .doc("Length of one sample of the quota on controller mutations in seconds."),
    long("leader.replication.throttled.rate", Some("9223372036854775807"))
        .min(0)
        .cluster_wide()
        .broker()
        .doc("Most bytes a second that throttled leader replicas send."),
    long("follower.replication.throttled.rate", Some("9223372036854775807"))
        .min(0)
        .cluster_wide()
        .broker()
        .doc("Most bytes a second that throttled follower replicas fetch."),
    long("replica.alter.log.dirs.io.max.bytes.per.second", Some("9223372036854775807"))
        .min(0)
        .cluster_wide()
        .broker()
        .doc("Most bytes a second for moves between log directories."),
];
