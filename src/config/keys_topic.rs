//! Keys of topics; each names the broker keys it falls back to, the strongest first.
//! Rows of THE table (`keys.rs`); uses only its row builders.

use super::keys::{Key, NULL, boolean, double, int, list, long, string};

/// Keys of topics; each names the broker keys it falls back to, the strongest first.
pub(super) const KEYS: &[Key] = &[
    list("cleanup.policy", Some("delete"))
        .each_of(&["compact", "delete"])
        .topic(&["log.cleanup.policy"])
        .doc("What happens to old segments: `delete`, `compact`, or both."),
    string("compression.type", Some("producer"))
        .one_of(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"])
        .topic(&["compression.type"])
        .doc("Compression of stored batches; `producer` keeps what the producer chose."),
    int("compression.gzip.level", Some("-1"))
        .range_or(1, 9, -1)
        .topic(&["compression.gzip.level"])
        .doc(
            "Level for batches that the broker compresses with gzip; -1 is the codec's own \
             default.",
        ),
    int("compression.lz4.level", Some("9"))
        .range(1, 17)
        .topic(&["compression.lz4.level"])
        .doc("Level for batches that the broker compresses with lz4."),
    int("compression.zstd.level", Some("3"))
        .range(-131072, 22)
        .topic(&["compression.zstd.level"])
        .doc("Level for batches that the broker compresses with zstd."),
    long("delete.retention.ms", Some("86400000"))
        .min(0)
        .topic(&["log.cleaner.delete.retention.ms"])
        .doc("How long, in milliseconds, tombstones of a compacted topic are kept."),
    long("file.delete.delay.ms", Some("60000"))
        .min(0)
        .topic(&["log.segment.delete.delay.ms"])
        .doc("Pause, in milliseconds, before the files of a removed segment are deleted."),
    long("flush.messages", Some("9223372036854775807"))
        .min(1)
        .topic(&["log.flush.interval.messages"])
        .doc(
            "Records that may gather in a partition before they are forced to disk; 1 makes \
             an acknowledgement wait for the disk.",
        ),
    long("flush.ms", Some("9223372036854775807"))
        .min(0)
        .topic(&["log.flush.interval.ms", "log.flush.scheduler.interval.ms"])
        .doc("Time, in milliseconds, after which records are forced to disk."),
    list("follower.replication.throttled.replicas", Some(""))
        .throttled()
        .topic(&[])
        .doc("Replicas whose fetching is throttled, as `partition:broker` pairs; `*` for all."),
    list("leader.replication.throttled.replicas", Some(""))
        .throttled()
        .topic(&[])
        .doc("Replicas whose sending is throttled, as `partition:broker` pairs; `*` for all."),
    int("index.interval.bytes", Some("4096"))
        .min(0)
        .topic(&["log.index.interval.bytes"])
        .doc("Bytes of a log between two entries of its indexes."),
    long("local.retention.ms", Some("-2")).min(-2).topic(&["log.local.retention.ms"]).doc(
        "How long, in milliseconds, records are kept locally with tiered storage; -2 \
             follows `retention.ms`.",
    ),
    long("local.retention.bytes", Some("-2")).min(-2).topic(&["log.local.retention.bytes"]).doc(
        "Bytes of a partition kept locally with tiered storage; -2 follows \
             `retention.bytes`.",
    ),
    long("max.compaction.lag.ms", Some("9223372036854775807"))
        .min(1)
        .topic(&["log.cleaner.max.compaction.lag.ms"])
        .doc("How long, in milliseconds, a record may stay uncompacted."),
    long("min.compaction.lag.ms", Some("0"))
        .min(0)
        .topic(&["log.cleaner.min.compaction.lag.ms"])
        .doc("How long, in milliseconds, a record stays uncompacted at least."),
    int("max.message.bytes", Some("1048588"))
        .min(0)
        .topic(&["message.max.bytes"])
        .doc("Largest record batch in bytes, as it is stored."),
    string("message.timestamp.type", Some("CreateTime"))
        .one_of(&["CreateTime", "LogAppendTime"])
        .topic(&["log.message.timestamp.type"])
        .doc("Whether a record carries its creation time or the time of its append."),
    long("message.timestamp.before.max.ms", Some("9223372036854775807"))
        .min(0)
        .topic(&["log.message.timestamp.before.max.ms"])
        .doc("How far, in milliseconds, a record's timestamp may lie before the broker's clock."),
    long("message.timestamp.after.max.ms", Some("3600000"))
        .min(0)
        .topic(&["log.message.timestamp.after.max.ms"])
        .doc("How far, in milliseconds, a record's timestamp may lie after the broker's clock."),
    double("min.cleanable.dirty.ratio", Some("0.5"))
        .fraction()
        .topic(&["log.cleaner.min.cleanable.ratio"])
        .doc("Fraction of a log that must be uncompacted before it is compacted."),
    int("min.insync.replicas", Some("1"))
        .min(1)
        .topic(&["min.insync.replicas"])
        .doc("Replicas that must have a record before acks=all is answered."),
    boolean("preallocate", Some("false"))
        .topic(&["log.preallocate"])
        .doc("Whether the space of a new segment is reserved at once."),
    boolean("remote.storage.enable", Some("false"))
        .topic(&[])
        .doc("Whether segments go to tiered storage, which this build does not have."),
    boolean("remote.log.copy.disable", Some("false"))
        .topic(&[])
        .doc("Whether copying to tiered storage is paused."),
    boolean("remote.log.delete.on.disable", Some("false"))
        .topic(&[])
        .doc("Whether remote data goes when tiered storage is switched off."),
    long("retention.bytes", Some("-1"))
        .topic(&["log.retention.bytes"])
        .doc("Bytes of a partition to keep at most; -1 for no limit."),
    long("retention.ms", Some("604800000"))
        .min(-1)
        .topic(&["log.retention.ms", "log.retention.minutes", "log.retention.hours"])
        .doc("How long, in milliseconds, records are kept; -1 for ever."),
    int("segment.bytes", Some("1073741824"))
        .min(1048576)
        .topic(&["log.segment.bytes"])
        .doc("Size, in bytes, at which a segment is closed."),
    int("segment.index.bytes", Some("10485760"))
        .min(4)
        .topic(&["log.index.size.max.bytes"])
        .doc("Largest size of an offset or time index in bytes."),
    long("segment.jitter.ms", Some("0"))
        .min(0)
        .topic(&["log.roll.jitter.ms", "log.roll.jitter.hours"])
        .doc("Random part, in milliseconds, taken off `segment.ms`."),
    long("segment.ms", Some("604800000"))
        .min(1)
        .topic(&["log.roll.ms", "log.roll.hours"])
        .doc("Age, in milliseconds, at which a segment is closed."),
    boolean("unclean.leader.election.enable", Some("false"))
        .topic(&["unclean.leader.election.enable"])
        .doc("Whether a replica that is not in sync may lead, at the price of lost records."),
    int("internal.segment.bytes", NULL)
        .topic(&[])
        .internal()
        .doc("Size, in bytes, at which a segment is closed, without a lower bound; for tests."),
];
