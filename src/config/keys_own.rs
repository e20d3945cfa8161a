//! Keys that Kafka does not have. Each begins with `vltava.`. Rows of THE table (`keys.rs`).

use super::keys::{Key, NULL, boolean, int, long, string};

/// Keys of our own.
pub(super) const KEYS: &[Key] = &[
    string("vltava.listener.tcp.congestion.control", NULL).doc(
        "TCP congestion control of accepted connections, such as `reno`; the system's own when not \
         set, and `reno` for peers on the same machine; may be set for one listener with its \
         prefix.",
    ),
    int("vltava.listener.spin.us", Some("100")).range(0, 1000).doc(
        "Microseconds for which one thread looks for the next small request of a client that sends \
         it as soon as it has an answer, before it goes to sleep; 0: never.",
    ),
    boolean("vltava.controlled.shutdown.force", Some("false")).broker().doc(
        "Whether a stopping broker does not wait for other replicas to catch up where a partition \
         falls below `min.insync.replicas` without it.",
    ),
    long("vltava.controlled.shutdown.wait.ms", Some("15000")).min(0).broker().doc(
        "How long, in milliseconds, a stopping broker waits while the controller does not let it \
         go because partitions would fall below `min.insync.replicas`; a second signal ends the \
         wait.",
    ),
    string("vltava.log.level", Some("info")).doc(
        "How much is logged, as `level` or `level,room=level,…` with the levels `error`, `warn`, \
         `info`, `debug`, `trace` and `off`.",
    ),
    string("vltava.log.format", Some("plain"))
        .one_of(&["plain", "json"])
        .doc("Shape of a log line: `plain` as Kafka prints it, or one `json` object."),
    string("vltava.log.file", NULL).doc(
        "File that log lines are appended to, opened anew on SIGHUP; standard output when not set.",
    ),
];
