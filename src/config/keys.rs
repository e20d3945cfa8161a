//! THE table of configuration keys: name, type, default, bounds, scope, dynamic mode, fall-backs,
//! documentation. The rows live in the `keys_*` files; everything else about configuration is
//! derived from them (defaults, checks, DescribeConfigs, `docs/config.md`). Uses nothing.
//!
//! Names, types, defaults and bounds are Kafka 4.3.1's (`AbstractKafkaConfig`, `LogConfig`); keys
//! of our own begin with `vltava.`.

use super::{
    keys_group, keys_log, keys_own, keys_replica, keys_security, keys_server, keys_share,
    keys_share_groups, keys_topic,
};

/// The type of a value (`ConfigDef.Type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`, in any case.
    Boolean,
    /// Text without spaces at its ends.
    String,
    /// 32 bits.
    Int,
    /// 16 bits.
    Short,
    /// 64 bits.
    Long,
    /// A double.
    Double,
    /// Texts separated by commas.
    List,
    /// The name of a Java class.
    Class,
    /// Text that is never shown.
    Password,
}

impl Kind {
    /// The number of `DescribeConfigsResponse.ConfigType`.
    #[must_use]
    pub const fn code(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
            Self::Class => 8,
            Self::Password => 9,
        }
    }

    /// Kafka's name of the type, as its messages use it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::String => "STRING",
            Self::Int => "INT",
            Self::Short => "SHORT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }
}

/// What a value must keep beyond its type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// Nothing.
    Any,
    /// At least this.
    Min(i64),
    /// Within both, or the third, which stands for "default".
    Range(i64, i64, Option<i64>),
    /// From 0 to 1.
    Fraction,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// One of these (lower case), written in any case.
    OneOfAnyCase(&'static [&'static str]),
    /// A list of these, none twice.
    EachOf(&'static [&'static str]),
    /// A list without an entry twice or empty.
    Distinct,
    /// `*`, or `partition:broker` pairs.
    Throttled,
}

/// On which nodes a key has a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Brokers.
    Broker,
    /// Controllers.
    Controller,
    /// Every node.
    Node,
    /// Topics.
    Topic,
}

/// How a key of a running cluster may change (`DynamicBrokerConfig.java`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only with a restart.
    ReadOnly,
    /// For one broker at a time.
    PerBroker,
    /// For one broker or for all.
    ClusterWide,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// The key's name.
    pub name: &'static str,
    /// The type of its value.
    pub kind: Kind,
    /// The value when none is given; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// Whether a node does not start without it.
    pub required: bool,
    /// What the value must keep.
    pub rule: Rule,
    /// Where it has a meaning.
    pub scope: Scope,
    /// How it changes.
    pub mode: Mode,
    /// Whether it is hidden from DescribeConfigs and the documentation.
    pub internal: bool,
    /// Of a topic key: the broker keys that it falls back to, the strongest first.
    pub fallbacks: &'static [&'static str],
    /// One sentence.
    pub doc: &'static str,
}

/// A default of null.
pub(super) const NULL: Option<&'static str> = None;

const fn row(name: &'static str, kind: Kind, default: Option<&'static str>) -> Key {
    Key {
        name,
        kind,
        default,
        required: false,
        rule: Rule::Any,
        scope: Scope::Node,
        mode: Mode::ReadOnly,
        internal: false,
        fallbacks: &[],
        doc: "",
    }
}

macro_rules! constructors {
    ($($fn:ident $kind:ident,)*) => { $(
        pub(super) const fn $fn(name: &'static str, default: Option<&'static str>) -> Key {
            row(name, Kind::$kind, default)
        }
    )* };
}

constructors! {
    boolean Boolean,
    string String,
    int Int,
    short Short,
    long Long,
    double Double,
    list List,
    class Class,
    password Password,
}

macro_rules! setters {
    ($($fn:ident($($arg:ident: $type:ty),*) $field:ident = $value:expr;)*) => {
        impl Key { $(
            pub(super) const fn $fn(mut self $(, $arg: $type)*) -> Self {
                self.$field = $value;
                self
            }
        )* }
    };
}

setters! {
    required() required = true;
    min(least: i64) rule = Rule::Min(least);
    range(least: i64, most: i64) rule = Rule::Range(least, most, None);
    range_or(least: i64, most: i64, or: i64) rule = Rule::Range(least, most, Some(or));
    fraction() rule = Rule::Fraction;
    one_of(values: &'static [&'static str]) rule = Rule::OneOf(values);
    one_of_any_case(values: &'static [&'static str]) rule = Rule::OneOfAnyCase(values);
    each_of(values: &'static [&'static str]) rule = Rule::EachOf(values);
    distinct() rule = Rule::Distinct;
    throttled() rule = Rule::Throttled;
    per_broker() mode = Mode::PerBroker;
    cluster_wide() mode = Mode::ClusterWide;
    broker() scope = Scope::Broker;
    controller() scope = Scope::Controller;
    internal() internal = true;
    doc(text: &'static str) doc = text;
}

impl Key {
    pub(super) const fn topic(mut self, fallbacks: &'static [&'static str]) -> Self {
        self.scope = Scope::Topic;
        self.fallbacks = fallbacks;
        self
    }

    /// Whether its value must never be shown.
    #[must_use]
    pub fn is_sensitive(&self) -> bool {
        self.kind == Kind::Password
    }
}

/// Parts of the table of server keys, in the order of the documentation.
pub(super) const SERVER: &[(&str, &[Key])] = &[
    ("Node, listeners and quorum", keys_server::KEYS),
    ("Logs", keys_log::KEYS),
    ("Replication, elections and quotas", keys_replica::KEYS),
    ("Groups, offsets, transactions and producers", keys_group::KEYS),
    ("Share groups", keys_share_groups::KEYS),
    ("Share coordinators", keys_share::KEYS),
    ("Security", keys_security::KEYS),
    ("Vltava's own", keys_own::KEYS),
];

/// Every key of a server's file.
pub fn server_keys() -> impl Iterator<Item = &'static Key> {
    SERVER.iter().flat_map(|(_, keys)| keys.iter())
}

/// Every key of a topic.
pub fn topic_keys() -> impl Iterator<Item = &'static Key> {
    keys_topic::KEYS.iter()
}

/// The server key of this name.
#[must_use]
pub fn server_key(name: &str) -> Option<&'static Key> {
    server_keys().find(|k| k.name == name)
}

/// The topic key of this name.
#[must_use]
pub fn topic_key(name: &str) -> Option<&'static Key> {
    topic_keys().find(|k| k.name == name)
}

/// The names under which the value of a server key may be given, the strongest first
/// (`DynamicBrokerConfig.brokerConfigSynonyms`). Names of another unit follow the plain one.
#[must_use]
pub fn server_synonyms(name: &str) -> &'static [&'static str] {
    const GROUPS: &[&[&str]] = &[
        &["log.roll.ms", "log.roll.hours"],
        &["log.roll.jitter.ms", "log.roll.jitter.hours"],
        &["log.retention.ms", "log.retention.minutes", "log.retention.hours"],
    ];
    if name == "log.flush.interval.ms" {
        return &["log.flush.interval.ms", "log.flush.scheduler.interval.ms"];
    }
    GROUPS.iter().copied().find(|g| g.contains(&name)).unwrap_or_default()
}

/// The key that looks most like `name`, if one is near enough to be meant.
#[must_use]
pub fn nearest(name: &str) -> Option<&'static str> {
    let limit = (name.chars().count() / 4).clamp(1, 6);
    server_keys()
        .map(|k| (distance(name, k.name), k.name))
        .filter(|(d, _)| *d <= limit)
        .min()
        .map(|(_, n)| n)
}

/// Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(200).collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut best = (last[j] + usize::from(x != y)).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *x == b[j - 1] && a[i - 1] == *y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::value::Value;

    #[test]
    fn every_row_is_sound() {
        let mut names = BTreeSet::new();
        for key in server_keys() {
            assert!(names.insert(key.name), "{} stands twice", key.name);
        }
        for key in server_keys().chain(topic_keys()) {
            assert!(!key.doc.is_empty() && key.doc.ends_with('.'), "{}: doc", key.name);
            assert!(key.doc.len() > 15, "{}: doc", key.name);
            if let Some(default) = key.default {
                Value::parse(key, default).unwrap_or_else(|e| panic!("{}: {e}", key.name));
            }
        }
    }

    #[test]
    fn topic_keys_fall_back_to_server_keys_of_the_same_default() {
        for key in topic_keys() {
            for name in key.fallbacks {
                assert!(server_key(name).is_some(), "{name}");
            }
            // The strongest fall-back of each topic key is dynamic (DynamicLogConfig).
            if let Some(first) = key.fallbacks.first() {
                let first = server_key(first).unwrap();
                assert_eq!(first.mode, Mode::ClusterWide, "{}", first.name);
                if key.fallbacks.len() == 1 {
                    assert_eq!(first.default, key.default, "{}", first.name);
                }
            }
        }
    }

    #[test]
    fn the_nearest_key_is_the_one_meant() {
        assert_eq!(nearest("num.io.treads"), Some("num.io.threads"));
        assert_eq!(nearest("log.retention.hour"), Some("log.retention.hours"));
        assert_eq!(nearest("advertised.listenres"), Some("advertised.listeners"));
        assert_eq!(nearest("completely.different"), None);
    }
}
