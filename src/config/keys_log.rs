//! Keys of partition logs: directories, segments, retention, flushing, compaction, compression.
//! Rows of THE table (`keys.rs`); uses only its row builders.

use super::keys::{Key, NULL, boolean, double, int, list, long, string};

/// Keys of partition logs: directories, segments, retention, flushing, compaction, compression.
pub(super) const KEYS: &[Key] = &[
    list("log.dir", Some("/tmp/kafka-logs"))
        .distinct()
        .broker()
        .doc("Directory of the partition logs, used when `log.dirs` is not set."),
    list("log.dirs", NULL)
        .distinct()
        .broker()
        .doc("Directories of the partition logs, separated by commas."),
    list("cordoned.log.dirs", Some(""))
        .distinct()
        .per_broker()
        .broker()
        .doc("Log directories that get no new replicas; `*` stands for all of them."),
    long("log.dir.failure.timeout.ms", Some("30000")).min(1).broker().doc(
        "How long, in milliseconds, a broker may fail to report a failed directory before \
             it stops.",
    ),
    int("log.segment.bytes", Some("1073741824"))
        .min(1048576)
        .cluster_wide()
        .doc("Size, in bytes, at which a segment is closed."),
    long("log.roll.ms", NULL)
        .cluster_wide()
        .doc("Age, in milliseconds, at which a segment is closed; goes before `log.roll.hours`."),
    int("log.roll.hours", Some("168")).min(1).doc("Age, in hours, at which a segment is closed."),
    long("log.roll.jitter.ms", NULL).cluster_wide().doc(
        "Random part, in milliseconds, taken off `log.roll.ms`; goes before \
             `log.roll.jitter.hours`.",
    ),
    int("log.roll.jitter.hours", Some("0"))
        .min(0)
        .doc("Random part, in hours, taken off `log.roll.hours`."),
    long("log.retention.ms", NULL).cluster_wide().doc(
        "How long, in milliseconds, records are kept; -1 for ever; goes before the \
             minutes and hours.",
    ),
    int("log.retention.minutes", NULL)
        .doc("How long, in minutes, records are kept; goes before `log.retention.hours`."),
    int("log.retention.hours", Some("168")).doc("How long, in hours, records are kept."),
    long("log.retention.bytes", Some("-1"))
        .cluster_wide()
        .doc("Bytes of a partition to keep at most; -1 for no limit."),
    long("log.retention.check.interval.ms", Some("300000"))
        .min(1)
        .broker()
        .doc("Pause, in milliseconds, between looks for segments to delete."),
    list("log.cleanup.policy", Some("delete"))
        .each_of(&["compact", "delete"])
        .cluster_wide()
        .doc("What happens to old segments: `delete`, `compact`, or both."),
    int("log.index.size.max.bytes", Some("10485760"))
        .min(4)
        .cluster_wide()
        .doc("Largest size of an offset or time index in bytes."),
    int("log.index.interval.bytes", Some("4096"))
        .min(0)
        .cluster_wide()
        .doc("Bytes of a log between two entries of its indexes."),
    long("log.flush.interval.messages", Some("9223372036854775807"))
        .min(1)
        .cluster_wide()
        .doc("Records that may gather in a partition before they are forced to disk."),
    long("log.flush.interval.ms", NULL).cluster_wide().doc(
        "Time, in milliseconds, after which records are forced to disk; \
             `log.flush.scheduler.interval.ms` when not set.",
    ),
    long("log.flush.scheduler.interval.ms", Some("9223372036854775807"))
        .broker()
        .doc("Pause, in milliseconds, between looks for logs to force to disk."),
    int("log.flush.offset.checkpoint.interval.ms", Some("60000"))
        .min(0)
        .broker()
        .doc("Pause, in milliseconds, between writes of the recovery points."),
    int("log.flush.start.offset.checkpoint.interval.ms", Some("60000"))
        .min(0)
        .broker()
        .doc("Pause, in milliseconds, between writes of the log start offsets."),
    long("log.segment.delete.delay.ms", Some("60000"))
        .min(0)
        .cluster_wide()
        .doc("Pause, in milliseconds, before the files of a removed segment are deleted."),
    boolean("log.preallocate", Some("false"))
        .cluster_wide()
        .doc("Whether the space of a new segment is reserved at once."),
    long("log.initial.task.delay.ms", Some("30000"))
        .min(0)
        .broker()
        .internal()
        .doc("Pause, in milliseconds, from the start to the first round of log housekeeping."),
    int("num.recovery.threads.per.data.dir", Some("2")).min(1).cluster_wide().broker().doc(
        "Threads for each log directory that recover logs at start and force them to disk \
             at shutdown.",
    ),
    int("num.replica.alter.log.dirs.threads", NULL).min(1).broker().doc(
        "Threads that move replicas between log directories; one for each directory when \
             not set.",
    ),
    string("log.message.timestamp.type", Some("CreateTime"))
        .one_of(&["CreateTime", "LogAppendTime"])
        .cluster_wide()
        .doc("Whether a record carries its creation time or the time of its append."),
    long("log.message.timestamp.before.max.ms", Some("9223372036854775807"))
        .min(0)
        .cluster_wide()
        .doc("How far, in milliseconds, a record's timestamp may lie before the broker's clock."),
    long("log.message.timestamp.after.max.ms", Some("3600000"))
        .min(0)
        .cluster_wide()
        .doc("How far, in milliseconds, a record's timestamp may lie after the broker's clock."),
    int("message.max.bytes", Some("1048588"))
        .min(0)
        .cluster_wide()
        .doc("Largest record batch in bytes, as it is stored."),
    string("compression.type", Some("producer"))
        .one_of(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"])
        .cluster_wide()
        .doc("Compression of stored batches; `producer` keeps what the producer chose."),
    int("compression.gzip.level", Some("-1")).range_or(1, 9, -1).cluster_wide().doc(
        "Level for batches that the broker compresses with gzip; -1 is the codec's own \
             default.",
    ),
    int("compression.lz4.level", Some("9"))
        .range(1, 17)
        .cluster_wide()
        .doc("Level for batches that the broker compresses with lz4."),
    int("compression.zstd.level", Some("3"))
        .range(-131072, 22)
        .cluster_wide()
        .doc("Level for batches that the broker compresses with zstd."),
    boolean("log.cleaner.enable", Some("true"))
        .broker()
        .doc("Whether compacted topics are compacted."),
    int("log.cleaner.threads", Some("1"))
        .min(0)
        .cluster_wide()
        .broker()
        .doc("Threads that compact logs."),
    long("log.cleaner.dedupe.buffer.size", Some("134217728"))
        .cluster_wide()
        .broker()
        .doc("Bytes that all compaction threads together use to remember keys."),
    int("log.cleaner.io.buffer.size", Some("524288"))
        .min(0)
        .cluster_wide()
        .broker()
        .doc("Bytes of read and write buffers of all compaction threads together."),
    double("log.cleaner.io.buffer.load.factor", Some("0.9"))
        .cluster_wide()
        .broker()
        .doc("How full the memory for keys may get, as a fraction."),
    double("log.cleaner.io.max.bytes.per.second", Some("1.7976931348623157E308"))
        .cluster_wide()
        .broker()
        .doc("Most bytes a second that compaction reads and writes."),
    long("log.cleaner.backoff.ms", Some("15000"))
        .min(0)
        .cluster_wide()
        .broker()
        .doc("Pause, in milliseconds, when no log is worth compacting."),
    double("log.cleaner.min.cleanable.ratio", Some("0.5"))
        .fraction()
        .cluster_wide()
        .doc("Fraction of a log that must be uncompacted before it is compacted."),
    long("log.cleaner.delete.retention.ms", Some("86400000"))
        .min(0)
        .cluster_wide()
        .doc("How long, in milliseconds, tombstones of compacted topics are kept."),
    long("log.cleaner.min.compaction.lag.ms", Some("0"))
        .min(0)
        .cluster_wide()
        .doc("How long, in milliseconds, a record stays uncompacted at least."),
    long("log.cleaner.max.compaction.lag.ms", Some("9223372036854775807"))
        .min(1)
        .cluster_wide()
        .doc("How long, in milliseconds, a record may stay uncompacted."),
    long("log.local.retention.ms", Some("-2")).min(-2).cluster_wide().doc(
        "How long, in milliseconds, records are kept locally with tiered storage; -2 \
             follows `log.retention.ms`.",
    ),
    long("log.local.retention.bytes", Some("-2")).min(-2).cluster_wide().doc(
        "Bytes of a partition kept locally with tiered storage; -2 follows \
             `log.retention.bytes`.",
    ),
];
