//! Keys of the share coordinator (`ShareCoordinatorConfig.java`). Uses `keys`.

use super::keys::{Key, int, short};

/// The rows.
pub(super) const KEYS: &[Key] = &[
    int("share.coordinator.state.topic.num.partitions", Some("50"))
        .min(1)
        .broker()
        .doc("Partitions of `__share_group_state`."),
    short("share.coordinator.state.topic.replication.factor", Some("3")).min(1).broker().doc(
        "Replicas of `__share_group_state`, which is not created while fewer brokers are alive.",
    ),
    short("share.coordinator.state.topic.min.isr", Some("2"))
        .min(1)
        .broker()
        .doc("`min.insync.replicas` of `__share_group_state`."),
    int("share.coordinator.state.topic.segment.bytes", Some("104857600"))
        .min(1)
        .broker()
        .doc("Segment size of `__share_group_state` in bytes."),
    int("share.coordinator.state.topic.compression.codec", Some("0"))
        .range(0, 4)
        .broker()
        .doc("Codec of `__share_group_state`, by number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd."),
    int("share.coordinator.snapshot.update.records.per.snapshot", Some("500"))
        .range(0, 500)
        .broker()
        .doc("Updates of a share partition's state after which all of it is written down."),
    int("share.coordinator.load.buffer.size", Some("5242880"))
        .min(1)
        .broker()
        .doc("Bytes read at a time while share state is loaded."),
    int("share.coordinator.write.timeout.ms", Some("5000"))
        .min(1)
        .broker()
        .doc("How long, in milliseconds, replicas may take to have a write of share state."),
    int("share.coordinator.state.topic.prune.interval.ms", Some("300000"))
        .min(1)
        .broker()
        .internal()
        .doc("Pause, in milliseconds, between looks for share state to give up."),
    int("share.coordinator.cold.partition.snapshot.interval.ms", Some("300000"))
        .min(1)
        .broker()
        .internal()
        .doc("Time, in milliseconds, after which share state that rests is written down anew."),
];
