//! Keys of share groups (KIP-932).
//! Rows of THE table (`keys.rs`); uses only its row builders.

use super::keys::{Key, int, list};

/// Keys of share groups: membership first, then delivery.
pub(super) const KEYS: &[Key] =
    &[
        int("group.share.session.timeout.ms", Some("45000"))
            .min(1)
            .broker()
            .doc("Session timeout, in milliseconds, of share groups."),
        int("group.share.min.session.timeout.ms", Some("45000"))
            .min(1)
            .broker()
            .doc("Shortest session timeout, in milliseconds, of share groups."),
        int("group.share.max.session.timeout.ms", Some("60000"))
            .min(1)
            .broker()
            .doc("Longest session timeout, in milliseconds, of share groups."),
        int("group.share.heartbeat.interval.ms", Some("5000"))
            .min(1)
            .broker()
            .doc("Heartbeat interval, in milliseconds, of share groups."),
        int("group.share.min.heartbeat.interval.ms", Some("5000"))
            .min(1)
            .broker()
            .doc("Shortest heartbeat interval, in milliseconds, of share groups."),
        int("group.share.max.heartbeat.interval.ms", Some("15000"))
            .min(1)
            .broker()
            .doc("Longest heartbeat interval, in milliseconds, of share groups."),
        int("group.share.max.size", Some("200"))
            .range(1, 1000)
            .broker()
            .doc("Most members of a share group."),
        list("group.share.assignors", Some("simple"))
            .each_of(&["simple"])
            .broker()
            .doc("The assignor of share groups, one alone."),
        int("group.share.assignment.interval.ms", Some("1000")).min(0).cluster_wide().broker().doc(
            "Shortest time, in milliseconds, between two target assignments of a share group.",
        ),
        int("group.share.min.assignment.interval.ms", Some("0")).min(0).broker().doc(
            "Smallest value a share group may set for its assignment interval in milliseconds.",
        ),
        int("group.share.max.assignment.interval.ms", Some("15000")).min(0).broker().doc(
            "Largest value a share group may set for its assignment interval in milliseconds.",
        ),
        int("group.share.record.lock.duration.ms", Some("30000"))
            .range(1000, 3_600_000)
            .broker()
            .doc("How long, in milliseconds, a record that was acquired stays with its consumer."),
        int("group.share.min.record.lock.duration.ms", Some("15000"))
            .range(1000, 30_000)
            .broker()
            .doc("Shortest lock of an acquired record, in milliseconds, that a group may set."),
        int("group.share.max.record.lock.duration.ms", Some("60000"))
            .range(30_000, 3_600_000)
            .broker()
            .doc("Longest lock of an acquired record, in milliseconds, that a group may set."),
        int("group.share.delivery.count.limit", Some("5"))
            .range(2, 10)
            .broker()
            .doc("How often a record is delivered to a share group at most."),
        int("group.share.min.delivery.count.limit", Some("2"))
            .range(2, 5)
            .broker()
            .doc("Smallest limit of deliveries that a group may set."),
        int("group.share.max.delivery.count.limit", Some("10"))
            .range(5, 25)
            .broker()
            .doc("Largest limit of deliveries that a group may set."),
        int("group.share.partition.max.record.locks", Some("2000"))
            .range(100, 10_000)
            .broker()
            .doc("Records of one share partition that are under way at most."),
        int("group.share.min.partition.max.record.locks", Some("100"))
            .range(100, 2000)
            .broker()
            .doc("Smallest limit of records under way that a group may set."),
        int("group.share.max.partition.max.record.locks", Some("4000"))
            .range(2000, 10_000)
            .broker()
            .doc("Largest limit of records under way that a group may set."),
        int("group.share.max.share.sessions", Some("2000"))
            .min(1)
            .broker()
            .doc("Share sessions that a broker keeps at most."),
    ];
