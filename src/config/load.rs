//! Loading of a server's settings: file < environment < argument. Text in, settings or a list of
//! problems out; nothing is read here. Uses `keys`, `ignored`, `properties`, `value`.
//!
//! The environment's name of a key is the key in capitals with `_` for `.`, after `VLTAVA_`:
//! `VLTAVA_NODE_ID`. Keys of our own do not repeat the prefix: `VLTAVA_LOG_LEVEL`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::{
    ignored,
    keys::{self, Key},
    properties,
    value::Value,
};

/// Where a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file.
    File {
        /// The file as it was named.
        path: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// The environment variable of this name.
    Environment(String),
    /// `--override`.
    Argument,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Argument => f.write_str("--override"),
        }
    }
}

/// One mistake in a configuration: prints as one line with place, key, value and rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where the value stands; `None` for a value that is missing or follows from others.
    pub origin: Option<Origin>,
    /// The key.
    pub key: String,
    /// The value, unless it is missing or must not be shown.
    pub value: Option<String>,
    /// The rule that is broken.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        match &self.value {
            Some(value) if !self.key.is_empty() => {
                write!(f, "{}={}: {}", self.key, value.escape_debug(), self.rule)
            }
            _ if self.key.is_empty() => f.write_str(&self.rule),
            _ => write!(f, "{}: {}", self.key, self.rule),
        }
    }
}

/// All mistakes of a configuration, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A value as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The text, without spaces at its ends.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
}

/// Settings by key: names of the table, or `listener.name.<listener>.<key>` with such a name.
/// Every value keeps its key's type and rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, Setting>);

impl Settings {
    /// The setting of `name`, if it was given.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.0.get(name)
    }

    /// Whether `name` was given.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Setting)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v))
    }
}

/// What settings are made of.
#[derive(Debug, Clone, Default)]
pub struct Sources<'a> {
    /// The file's name, for messages.
    pub path: &'a str,
    /// The file's text.
    pub text: &'a str,
    /// The environment; variables without the prefix `VLTAVA_` are not looked at.
    pub environment: Vec<(String, String)>,
    /// `key=value` of each `--override`, in order.
    pub overrides: Vec<String>,
}

/// Settings, and what is worth a warning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// One line each: ignored keys with the reason, keys that stand twice.
    pub warnings: Vec<String>,
}

/// The base key of `name` and its prefix `listener.name.<listener>.` if it has one
/// (a mechanism may stand between: `listener.name.sasl_ssl.plain.sasl.jaas.config`).
#[must_use]
pub fn split_listener_prefix(name: &str) -> (Option<&str>, &str) {
    let Some(rest) = name.strip_prefix("listener.name.") else { return (None, name) };
    let Some((listener, base)) = rest.split_once('.') else { return (None, name) };
    let base = MECHANISM_KEYS
        .iter()
        .find(|k| {
            base.strip_suffix(**k).is_some_and(|m| m.ends_with('.') && m.matches('.').count() == 1)
        })
        .map_or(base, |k| *k);
    (Some(listener), base)
}

/// Keys that may stand after a mechanism's name (`DynamicBrokerConfig.LISTENER_MECHANISM_CONFIGS`).
const MECHANISM_KEYS: &[&str] = &[
    "sasl.jaas.config",
    "sasl.login.callback.handler.class",
    "sasl.login.class",
    "sasl.server.callback.handler.class",
    "connections.max.reauth.ms",
];

/// The row of the table for `name`, through a listener prefix too.
#[must_use]
pub fn key_of(name: &str) -> Option<&'static Key> {
    keys::server_key(split_listener_prefix(name).1)
}

/// Puts the sources above each other and checks every value by its row.
///
/// # Errors
/// Every unknown key, bad value and malformed line, in the order of the sources.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Problems> {
    let mut given = Vec::new();
    let mut loader = Loader::default();
    match properties::parse(sources.text) {
        Ok(entries) => {
            let path: Arc<str> = sources.path.into();
            for e in entries {
                let origin = Origin::File { path: Arc::clone(&path), line: e.line };
                given.push((e.key, e.value, origin));
            }
        }
        Err(e) => loader.problem(None, "", None, format!("{}: {e}", sources.path)),
    }
    for (name, value) in &sources.environment {
        let Some(rest) = name.strip_prefix("VLTAVA_") else { continue };
        let origin = Origin::Environment(name.clone());
        match key_of_variable(rest) {
            Some(key) => given.push((key, value.clone(), origin)),
            None => loader.problem(
                Some(origin),
                "",
                None,
                "no configuration key has this name in the environment".to_owned(),
            ),
        }
    }
    for text in &sources.overrides {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                given.push((key.trim().to_owned(), value.to_owned(), Origin::Argument));
            }
            _ => loader.problem(
                Some(Origin::Argument),
                "",
                None,
                format!("\"{text}\" is not of the form key=value"),
            ),
        }
    }
    for (name, value, origin) in given {
        loader.accept(name, value.trim(), origin);
    }
    loader.finish()
}

#[derive(Default)]
struct Loader {
    settings: BTreeMap<String, Setting>,
    ignored: BTreeMap<String, String>,
    warnings: Vec<String>,
    problems: Vec<Problem>,
}

impl Loader {
    fn problem(&mut self, origin: Option<Origin>, key: &str, value: Option<&str>, rule: String) {
        let value = value.map(str::to_owned);
        self.problems.push(Problem { origin, key: key.to_owned(), value, rule });
    }

    fn accept(&mut self, name: String, value: &str, origin: Origin) {
        let (prefix, base) = split_listener_prefix(&name);
        let Some(key) = keys::server_key(base) else {
            return self.unknown(&name, base, prefix.is_some(), origin);
        };
        if let Err(rule) = Value::parse(key, value) {
            let shown = (!key.is_sensitive()).then_some(value);
            return self.problem(Some(origin), &name, shown, rule);
        }
        let other = self.settings.get(&name).filter(|before| before.value != value);
        if let (Some(_), Origin::File { line, path }) = (other, &origin) {
            self.warnings.push(format!("{path}:{line}: {name} stands twice; this line counts"));
        }
        self.settings.insert(name, Setting { value: value.to_owned(), origin });
    }

    fn unknown(&mut self, name: &str, base: &str, prefixed: bool, origin: Origin) {
        if let Some(why) = ignored::find(base) {
            let instead = why.instead.map(|k| format!("; see {k}")).unwrap_or_default();
            let line = format!("{origin}: {name} is ignored: {}{instead}", why.reason);
            self.ignored.entry(name.to_owned()).or_insert(line);
            return;
        }
        let near = keys::nearest(base);
        let hint = match near {
            Some(near) if prefixed => format!("; did you mean …{near}?"),
            Some(near) => format!("; did you mean {near}?"),
            None => String::new(),
        };
        self.problem(Some(origin), name, None, format!("no such configuration key{hint}"));
    }

    fn finish(mut self) -> Result<Loaded, Problems> {
        if !self.problems.is_empty() {
            return Err(Problems(self.problems));
        }
        self.warnings.extend(self.ignored.into_values());
        // Each of the two names fills the other (`AbstractKafkaConfig.populateSynonyms`).
        for (from, to) in [("node.id", "broker.id"), ("broker.id", "node.id")] {
            if let (Some(given), false) = (self.settings.get(from), self.settings.contains_key(to))
            {
                self.settings.insert(to.to_owned(), given.clone());
            }
        }
        Ok(Loaded { settings: Settings(self.settings), warnings: self.warnings })
    }
}

/// The environment's form of a key, without the prefix.
fn variable(key: &str) -> String {
    key.strip_prefix("vltava.").unwrap_or(key).to_ascii_uppercase().replace('.', "_")
}

fn key_of_variable(rest: &str) -> Option<String> {
    if let Some(key) = keys::server_keys().find(|k| variable(k.name) == rest) {
        return Some(key.name.to_owned());
    }
    let rest = rest.strip_prefix("LISTENER_NAME_")?;
    let fits = |k: &&Key| {
        let end = format!("_{}", variable(k.name));
        rest.strip_suffix(&end).is_some_and(|listener| !listener.is_empty())
    };
    // The longest key that fits: `…_SSL_KEYSTORE_TYPE` is no listener named `…_SSL_KEYSTORE`.
    let key = keys::server_keys().filter(fits).max_by_key(|k| k.name.len())?;
    let listener = rest.get(..rest.len() - variable(key.name).len() - 1)?;
    Some(format!("listener.name.{}.{}", listener.to_ascii_lowercase(), key.name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn from_text(text: &str) -> Result<Loaded, Problems> {
        load(&Sources { path: "server.properties", text, ..Sources::default() })
    }

    #[test]
    fn later_sources_win() {
        let loaded = load(&Sources {
            path: "f",
            text: "num.partitions=1\nnum.io.threads=4\nlog.dirs=/a\n",
            environment: vec![
                ("VLTAVA_NUM_PARTITIONS".into(), "2".into()),
                ("VLTAVA_NUM_IO_THREADS".into(), "5".into()),
                ("PATH".into(), "/bin".into()),
                ("VLTAVA_LISTENER_NAME_SASL_SSL_SSL_KEYSTORE_TYPE".into(), "PEM".into()),
                ("VLTAVA_LOG_LEVEL".into(), "debug".into()),
            ],
            overrides: vec!["num.partitions=3".into()],
        })
        .unwrap();
        let get = |k: &str| loaded.settings.get(k).unwrap().value.clone();
        assert_eq!(get("num.partitions"), "3");
        assert_eq!(get("num.io.threads"), "5");
        assert_eq!(get("log.dirs"), "/a");
        assert_eq!(get("listener.name.sasl_ssl.ssl.keystore.type"), "PEM");
        assert_eq!(get("vltava.log.level"), "debug");
        assert_eq!(loaded.warnings, Vec::<String>::new());
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_their_lines() {
        let problems = load(&Sources {
            path: "server.properties",
            text: "num.io.treads=8\nnum.partitions=none\nlisteners=A://:1,A://:1\nssl.key.password=\n",
            environment: vec![("VLTAVA_NO_SUCH".into(), String::new())],
            overrides: vec!["oops".into(), "num.io.threads=0".into()],
        })
        .unwrap_err();
        let text = problems.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "environment VLTAVA_NO_SUCH: no configuration key has this name in the environment",
                "--override: \"oops\" is not of the form key=value",
                "server.properties:1: num.io.treads: no such configuration key; \
                 did you mean num.io.threads?",
                "server.properties:2: num.partitions=none: Not a number of type INT",
                "server.properties:3: listeners=A://:1,A://:1: values must not be duplicated",
                "--override: num.io.threads=0: Value must be at least 1",
            ]
        );
    }

    #[test]
    fn keys_without_meaning_are_listed_once_with_the_reason() {
        let loaded = from_text(
            "zookeeper.connect=a\nzookeeper.connect=b\nretention.ms=5\nnum.partitions=1\n\
             num.partitions=2\n",
        )
        .unwrap();
        assert_eq!(
            loaded.warnings,
            [
                "server.properties:5: num.partitions stands twice; this line counts",
                "server.properties:3: retention.ms is ignored: it is a key of topics, not of \
                 servers; see log.retention.ms",
                "server.properties:1: zookeeper.connect is ignored: there is no ZooKeeper; a quorum \
                 of controllers takes its place; see controller.quorum.voters",
            ]
        );
    }

    #[test]
    fn listener_prefixes_are_understood() {
        let base = |n| split_listener_prefix(n).1.to_owned();
        assert_eq!(base("listener.name.a.max.connections"), "max.connections");
        assert_eq!(base("listener.name.a.plain.sasl.jaas.config"), "sasl.jaas.config");
        assert_eq!(base("listener.name.a.sasl.jaas.config"), "sasl.jaas.config");
        assert!(from_text("listener.name.a.max.conections=5").is_err());
        let wrong = from_text("listener.name.a.max.connections=x").unwrap_err().to_string();
        assert!(wrong.contains("listener.name.a.max.connections=x"), "{wrong}");
    }

    #[test]
    fn the_environment_names_every_key_alone() {
        let mut seen = BTreeSet::new();
        for key in keys::server_keys() {
            assert!(seen.insert(variable(key.name)), "{}", key.name);
            assert_eq!(key_of_variable(&variable(key.name)).as_deref(), Some(key.name));
        }
    }
}
