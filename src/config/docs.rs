//! `docs/config.md`, made from the table. Uses `ignored`, `keys`, `keys_topic`.

use std::fmt::Write as _;

use super::{
    ignored,
    keys::{self, Key, Mode, Rule, Scope},
};

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut out = INTRO.to_owned();
    for (part, rows) in keys::SERVER {
        let _ = write!(out, "\n## {part}\n\n");
        out.push_str("| key | type | default | values | where | change | meaning |\n");
        out.push_str("|---|---|---|---|---|---|---|\n");
        for key in rows.iter().filter(|k| !k.internal) {
            server_row(key, &mut out);
        }
    }
    out.push_str(
        "\n## Topics\n\nSet with `kafka-configs --entity-type topics` or at creation.\n\n",
    );
    out.push_str(
        "| key | type | default | values | broker's key | meaning |\n|---|---|---|---|---|---|\n",
    );
    for key in keys::topic_keys().filter(|k| !k.internal) {
        topic_row(key, &mut out);
    }
    out.push_str(IGNORED);
    for (name, why) in ignored::documented() {
        let instead = why.instead.map(|k| format!("`{}`", k.replace(" and ", "`, `")));
        let instead = instead.unwrap_or_default();
        let _ = writeln!(out, "| `{name}` | {} | {instead} |", why.reason);
    }
    out
}

const INTRO: &str = "\
# Configuration

Generated from the table of keys; change `src/config/keys_*.rs` and run
`UPDATE=1 cargo test --test config`.

A node reads one file of Java properties. What the environment says counts more than the file, what
`--override key=value` says counts more than both, and what was changed while the cluster runs
counts most. The environment's name of a key is `VLTAVA_` and the key in capitals with `_` for `.`
(`VLTAVA_NODE_ID`); keys of Vltava's own do not repeat the word (`VLTAVA_LOG_LEVEL`). Keys may carry
the prefix `listener.name.<listener in small letters>.` to count for one listener. A key that nobody
knows stops the start.

How a key changes: with a restart; for one broker while it runs; for the cluster while it runs, or
for one broker of it.

Keys of what this version does not have yet are checked and have no effect: client quotas, and of
the metadata log `metadata.max.retention.*`, `metadata.max.idle.interval.ms`,
`controller.quorum.append.linger.ms`. Listeners with SSL or SASL, authorizers, policies and
two-phase commit are refused at the start instead.
";

const IGNORED: &str = "
## Keys that are ignored

Accepted, and listed once at the start with the reason. Keys of clients without a counterpart are
ignored in the same way.

| key | reason | see |
|---|---|---|
";

fn server_row(key: &Key, out: &mut String) {
    let place = match key.scope {
        Scope::Broker => "brokers",
        Scope::Controller => "controllers",
        Scope::Node | Scope::Topic => "all",
    };
    let change = match key.mode {
        Mode::ReadOnly => "restart",
        Mode::PerBroker => "broker",
        Mode::ClusterWide => "cluster",
    };
    let (kind, default, values) = columns(key);
    let name = key.name;
    let doc = key.doc;
    let _ =
        writeln!(out, "| `{name}` | {kind} | {default} | {values} | {place} | {change} | {doc} |");
}

fn topic_row(key: &Key, out: &mut String) {
    let (kind, default, values) = columns(key);
    let broker: Vec<_> = key.fallbacks.iter().map(|f| format!("`{f}`")).collect();
    let broker = broker.join(", ");
    let (name, doc) = (key.name, key.doc);
    let _ = writeln!(out, "| `{name}` | {kind} | {default} | {values} | {broker} | {doc} |");
}

fn columns(key: &Key) -> (String, String, String) {
    let default = match key.default {
        None if key.required => "required".to_owned(),
        None => "none".to_owned(),
        Some("") => "empty".to_owned(),
        Some(text) => format!("`{text}`"),
    };
    let quoted = |values: &[&str]| {
        let quoted: Vec<_> = values.iter().map(|v| format!("`{v}`")).collect();
        quoted.join(", ")
    };
    let values = match key.rule {
        Rule::Any => String::new(),
        Rule::Min(least) => format!("≥ {least}"),
        Rule::Range(least, most, None) => format!("{least} to {most}"),
        Rule::Range(least, most, Some(or)) => format!("{least} to {most}, or {or}"),
        Rule::Fraction => "0 to 1".to_owned(),
        Rule::OneOf(values) | Rule::OneOfAnyCase(values) => quoted(values),
        Rule::EachOf(values) => format!("any of {}", quoted(values)),
        Rule::Distinct => "none twice".to_owned(),
        Rule::Throttled => "`*` or `partition:broker` pairs".to_owned(),
    };
    (key.kind.name().to_ascii_lowercase(), default, values)
}
