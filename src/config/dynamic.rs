//! Changes of a broker's configuration while it runs: which keys may change, for whom, to what
//! (`DynamicBrokerConfig`, `DynamicThreadPool`). Uses `keys`, `layers`, `load`, `server`, `value`.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    keys::{self, Mode},
    layers::Layers,
    load,
    server::ServerConfig,
    topic::invalid,
    value::Value,
};

/// Longest value of a dynamic setting, in UTF-16 units (`ConfigurationControlManager`).
pub const VALUE_UNITS_MAX: usize = 32_767;

const POOLS: &[&str] = &[
    "num.io.threads",
    "num.replica.fetchers",
    "num.recovery.threads.per.data.dir",
    "background.threads",
    "num.network.threads",
    "log.cleaner.threads",
];

/// Keys that Kafka changes in a running broker and that this build does not.
const NEEDS_RESTART: &[&str] = &["listeners", "listener.security.protocol.map"];

const CORDONED: &str = "cordoned.log.dirs";

/// Limits of connections that may stand for all brokers though they carry a listener's prefix.
const FOR_ALL: &[&str] =
    &["max.connections", "max.connection.creation.rate", "num.network.threads"];

/// Checks the length of a value that is about to be stored.
///
/// # Errors
/// Kafka's sentence; it answers INVALID_CONFIG.
pub fn check_length(value: &str) -> Result<(), String> {
    if value.encode_utf16().count() > VALUE_UNITS_MAX {
        return Err(format!(
            "The configuration value cannot be added because it exceeds the maximum value size of \
             {VALUE_UNITS_MAX} bytes."
        ));
    }
    Ok(())
}

/// Checks the dynamic settings of a broker (`per_broker`) or of all brokers, as they would stand
/// after a change, against the running broker's layers. A name that no key has is let through:
/// plug-ins may have keys of their own.
///
/// # Errors
/// One line that names the keys. Kafka answers INVALID_REQUEST with it.
pub fn validate_broker_configs(
    settings: &BTreeMap<String, String>,
    per_broker: bool,
    current: &Layers,
) -> Result<(), String> {
    let names = |wrong: &dyn Fn(&str) -> bool| {
        let names: Vec<_> = settings.keys().map(String::as_str).filter(|n| wrong(n)).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(names) = names(&|n| keys::server_key(n).is_some_and(|k| k.mode == Mode::ReadOnly)) {
        return Err(format!("Cannot update these configs dynamically: [{names}]"));
    }
    if let Some(names) = names(&|n| n.starts_with("ssl.") && keys::server_key(n).is_some()) {
        return Err(format!(
            "These security configs can be dynamically updated only per-listener using the \
             listener prefix: [{names}]"
        ));
    }
    for (name, value) in settings {
        if let Some(key) = load::key_of(name).filter(|k| k.mode != Mode::ReadOnly) {
            Value::parse(key, value).map_err(|rule| invalid(key.name, value, &rule))?;
        }
    }
    if let (false, Some(names)) = (per_broker, names(&only_per_broker)) {
        return Err(format!(
            "Cannot update these configs at default cluster level, broker id must be specified: \
             [{names}]"
        ));
    }
    if let Some(names) = names(&|n| NEEDS_RESTART.contains(&n)) {
        return Err(format!("Cannot update these configs without a restart yet: [{names}]"));
    }
    check_pools(settings, current)?;
    check_result(settings, per_broker, current)
}

/// Checks what `cordoned.log.dirs` is to be on a broker with these directories.
///
/// # Errors
/// Kafka's sentence; it answers INVALID_REQUEST.
pub fn check_cordoned(list: &[&str], log_dirs: &[PathBuf]) -> Result<(), String> {
    if list.contains(&"*") {
        if list.len() > 1 {
            return Err(format!(
                "requirement failed: When {CORDONED} is set to *, it must not contain other values"
            ));
        }
        return Ok(());
    }
    let known = |dir: &&&str| log_dirs.iter().any(|d| d.as_path() == Path::new(**dir));
    let unknown: Vec<&str> = list.iter().filter(|d| !known(d)).copied().collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(format!(
        "requirement failed: All entries in {CORDONED} must be present in log.dirs or log.dir. \
         Missing entries : {}",
        unknown.join(", ")
    ))
}

fn only_per_broker(name: &str) -> bool {
    match load::split_listener_prefix(name) {
        (Some(_), base) => !FOR_ALL.contains(&base),
        (None, name) => keys::server_key(name).is_some_and(|k| k.mode == Mode::PerBroker),
    }
}

/// A pool grows or shrinks by at most a factor of two at a time.
fn check_pools(settings: &BTreeMap<String, String>, current: &Layers) -> Result<(), String> {
    for name in POOLS {
        let Some(new) = settings.get(*name).and_then(|v| v.trim().parse::<i64>().ok()) else {
            continue;
        };
        let old = current.number(name);
        let refuse = |rule: String| {
            Err(format!("Dynamic thread count update validation failed for {name}={new}, {rule}"))
        };
        if new == old {
            continue;
        }
        if new <= 0 {
            return refuse("value should be at least 1".to_owned());
        }
        if new < old / 2 {
            return refuse(format!("value should be at least half the current value {old}"));
        }
        if new > old.saturating_mul(2) {
            let rule = "value should not be greater than double the current value";
            return refuse(format!("{rule} {old}"));
        }
    }
    Ok(())
}

/// What the broker would be with the change must still be a configuration.
fn check_result(
    settings: &BTreeMap<String, String>,
    per_broker: bool,
    current: &Layers,
) -> Result<(), String> {
    let mut after = current.clone();
    if per_broker {
        after.dynamic_broker = settings.clone();
        // These layers may be another node's: the broker itself knows its directories.
        after.dynamic_broker.remove(CORDONED);
    } else {
        after.dynamic_default = settings.clone();
    }
    ServerConfig::resolve(after).map(|_| ()).map_err(|p| p.to_string().replace('\n', "; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::Sources;

    fn layers() -> Layers {
        let text = "process.roles=broker,controller\nnode.id=1\nlisteners=PLAINTEXT://:1,C://:2\n\
                    controller.listener.names=C\ncontroller.quorum.voters=1@localhost:2\n\
                    num.io.threads=8\n";
        let sources = Sources { path: "f", text, ..Sources::default() };
        ServerConfig::load(&sources).unwrap().0.layers
    }

    fn check(name: &str, value: &str, per_broker: bool) -> Result<(), String> {
        let settings = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        validate_broker_configs(&settings, per_broker, &layers())
    }

    #[test]
    fn only_dynamic_keys_change() {
        let no = check("num.partitions", "3", true).unwrap_err();
        assert_eq!(no, "Cannot update these configs dynamically: [num.partitions]");
        let no = check("ssl.keystore.type", "PEM", true).unwrap_err();
        assert!(no.ends_with("listener prefix: [ssl.keystore.type]"), "{no}");
        assert_eq!(check("log.retention.ms", "5", false), Ok(()));
        assert_eq!(check("some.plugin.key", "5", false), Ok(()));
        assert_eq!(check("listener.name.plaintext.max.connections", "5", false), Ok(()));
        let no = check("log.retention.ms", "x", true).unwrap_err();
        assert_eq!(
            no,
            "Invalid value x for configuration log.retention.ms: Not a number of type LONG"
        );
    }

    #[test]
    fn keys_of_one_broker_are_refused_for_all() {
        let name = "listener.name.plaintext.ssl.keystore.type";
        let no = check(name, "PEM", false).unwrap_err();
        assert!(no.contains("broker id must be specified: [listener.name.plaintext"), "{no}");
        assert_eq!(check(name, "PEM", true), Ok(()));
        assert!(check("principal.builder.class", "x", false).is_err());
    }

    #[test]
    fn cordoned_directories_are_the_brokers_own() {
        let dirs = [PathBuf::from("/a"), PathBuf::from("/b")];
        for list in [&[][..], &["/a"], &["/b", "/a"], &["*"]] {
            assert_eq!(check_cordoned(list, &dirs), Ok(()));
        }
        assert!(check_cordoned(&["*", "/a"], &dirs).is_err());
        let no = check_cordoned(&["/a", "/c"], &dirs).unwrap_err();
        assert!(no.ends_with("Missing entries : /c"), "{no}");
        assert_eq!(check("cordoned.log.dirs", "/of/another", true), Ok(()));
        assert!(check("cordoned.log.dirs", "*", false).is_err(), "of one broker alone");
    }

    #[test]
    fn pools_change_by_a_factor_of_two_at_most() {
        for (value, fits) in [("8", true), ("4", true), ("16", true), ("3", false), ("17", false)] {
            assert_eq!(check("num.io.threads", value, true).is_ok(), fits, "{value}");
        }
        let no = check("log.cleaner.threads", "0", true).unwrap_err();
        assert!(no.ends_with("value should be at least 1"), "{no}");
    }

    #[test]
    fn the_result_must_be_a_configuration() {
        let no = check("log.cleaner.dedupe.buffer.size", "5", true).unwrap_err();
        assert!(no.contains("1 MiB"), "{no}");
        assert!(check_length(&"x".repeat(32_767)).is_ok());
        assert!(check_length(&"x".repeat(32_768)).is_err());
    }
}
