//! Keys that Kafka does not have. Each begins with `vltava.`. Rows of THE table (`keys.rs`).

use super::keys::{Key, NULL, int, string};

/// Keys of our own.
pub(super) const KEYS: &[Key] = &[
    string("vltava.listener.tcp.congestion.control", NULL).doc(
        "TCP congestion control of accepted connections, such as `reno`; the system's own when not \
         set, and `reno` for peers on the same machine; may be set for one listener with its prefix.",
    ),
    int("vltava.listener.spin.us", Some("100")).range(0, 1000).doc(
        "Microseconds for which one thread looks for the next small request of a client that sends \
         it as soon as it has an answer, before it goes to sleep; 0: never.",
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
