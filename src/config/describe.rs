//! What DescribeConfigs tells of a topic or a broker, as plain structs (`ConfigHelper`): value,
//! source, synonyms in order of strength. Uses `keys`, `layers`, `load`, `topic`, `value`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    keys::{self, Key, Mode},
    layers::{ConfigSource, Layers},
    load, topic,
    value::Value,
};

/// One value that a setting has in one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synonym {
    /// The key in that layer.
    pub name: String,
    /// Its value; `None` if it must not be shown.
    pub value: Option<String>,
    /// The layer.
    pub source: ConfigSource,
}

/// One setting of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key.
    pub name: String,
    /// The effective value; `None` for null and for what must not be shown.
    pub value: Option<String>,
    /// Whether it needs a restart to change.
    pub read_only: bool,
    /// The layer that the value comes from.
    pub source: ConfigSource,
    /// Whether the value must not be shown.
    pub sensitive: bool,
    /// The values in all layers, the strongest first. Only for requests that ask for them.
    pub synonyms: Vec<Synonym>,
    /// The number of its type; 0 when unknown.
    pub kind: i8,
    /// One sentence. Only for requests that ask for it.
    pub documentation: Option<&'static str>,
}

/// All settings of a topic with these overrides, by name.
#[must_use]
pub fn describe_topic(overrides: &BTreeMap<String, String>, layers: &Layers) -> Vec<ConfigEntry> {
    let mut out: Vec<_> = keys::topic_keys()
        .filter(|key| !key.internal)
        .map(|key| topic_entry(key, overrides, layers))
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    out
}

fn topic_entry(key: &Key, overrides: &BTreeMap<String, String>, layers: &Layers) -> ConfigEntry {
    let (value, own) = topic::effective(key, overrides, layers);
    let value = value.map(|v| v.text());
    let mut synonyms = match key.fallbacks.first() {
        Some(name) => layered(name, layers),
        None => Vec::new(),
    };
    if let Some(source) = own {
        let own = Synonym { name: key.name.to_owned(), value: value.clone(), source };
        synonyms.insert(0, own);
    }
    ConfigEntry {
        name: key.name.to_owned(),
        value,
        read_only: false,
        source: synonyms.first().map_or(ConfigSource::Default, |s| s.source),
        sensitive: key.is_sensitive(),
        synonyms,
        kind: key.kind.code(),
        documentation: Some(key.doc),
    }
}

/// All settings of the broker with these layers, by name.
#[must_use]
pub fn describe_broker(layers: &Layers) -> Vec<ConfigEntry> {
    let mut names: BTreeSet<&str> =
        keys::server_keys().filter(|key| !key.internal).map(|key| key.name).collect();
    names.extend(layers.fixed.iter().map(|(name, _)| name));
    names.extend(layers.dynamic_default.keys().map(String::as_str));
    names.extend(layers.dynamic_broker.keys().map(String::as_str));
    names.into_iter().map(|name| broker_entry(name, layers)).collect()
}

/// The dynamic settings of all brokers (the BROKER resource without a name), by name.
#[must_use]
pub fn describe_cluster_default(layers: &Layers) -> Vec<ConfigEntry> {
    let entry = |(name, value): (&String, &String)| {
        let mut entry = broker_entry(name, layers);
        entry.synonyms.retain(|s| s.source == ConfigSource::DynamicDefaultBroker);
        entry.source = entry.synonyms.first().map_or(ConfigSource::Default, |s| s.source);
        entry.value = (!entry.sensitive).then(|| value.clone());
        entry
    };
    layers.dynamic_default.iter().map(entry).collect()
}

fn broker_entry(name: &str, layers: &Layers) -> ConfigEntry {
    let key = load::key_of(name);
    // What nobody knows may be a secret.
    let sensitive = key.is_none_or(Key::is_sensitive);
    let value = key.and_then(|key| match layers.value(name) {
        Some(value) => Some(value.text()),
        None if key.name == name => None,
        None => layers.value(key.name).map(|v| v.text()),
    });
    let synonyms = layered(name, layers);
    ConfigEntry {
        name: name.to_owned(),
        value: value.filter(|_| !sensitive),
        read_only: key.is_none_or(|key| key.name != name || key.mode == Mode::ReadOnly),
        source: synonyms.first().map_or(ConfigSource::Default, |s| s.source),
        sensitive,
        synonyms,
        kind: key.map_or(0, |key| key.kind.code()),
        documentation: key.map(|key| key.doc),
    }
}

/// The values of a server key and its synonyms in all layers, the strongest layer first; what
/// stands before the first value of the key itself is left out, as Kafka does.
pub(super) fn layered(name: &str, layers: &Layers) -> Vec<Synonym> {
    let base = load::split_listener_prefix(name).1;
    let names: Vec<&str> = match keys::server_synonyms(name) {
        [] if base == name => vec![name],
        [] => vec![name, base],
        group => group.to_vec(),
    };
    let mut out = Vec::new();
    let mut add = |source, get: &dyn Fn(&str) -> Option<String>| {
        for name in &names {
            if let Some(value) = get(name) {
                let sensitive = load::key_of(name).is_none_or(Key::is_sensitive);
                let value = (!sensitive).then_some(value);
                out.push(Synonym { name: (*name).to_owned(), value, source });
            }
        }
    };
    add(ConfigSource::DynamicBroker, &|n| layers.dynamic_broker.get(n).cloned());
    add(ConfigSource::DynamicDefaultBroker, &|n| layers.dynamic_default.get(n).cloned());
    add(ConfigSource::StaticBroker, &|n| layers.fixed.get(n).map(|s| s.value.clone()));
    add(ConfigSource::Default, &|n| {
        let key = keys::server_key(n)?;
        let value = Value::parse(key, key.default?).ok()?;
        Some(value.text())
    });
    let first = out.iter().position(|s| s.name == name).unwrap_or(out.len());
    out.split_off(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load};

    fn layers(text: &str) -> Layers {
        let loaded = load(&Sources { path: "f", text, ..Sources::default() }).unwrap();
        Layers::fixed(loaded.settings)
    }

    fn find(entries: Vec<ConfigEntry>, name: &str) -> ConfigEntry {
        entries.into_iter().find(|e| e.name == name).unwrap()
    }

    fn sources(entry: &ConfigEntry) -> Vec<(&str, &str, i8)> {
        let show = |s: &'_ Synonym| s.source.code();
        entry
            .synonyms
            .iter()
            .map(|s| (s.name.as_str(), s.value.as_deref().unwrap_or("null"), show(s)))
            .collect()
    }

    #[test]
    fn a_topic_shows_every_layer_in_order() {
        let mut l = layers("log.segment.bytes=2000000");
        l.dynamic_default.insert("log.segment.bytes".into(), "3000000".into());
        let own = BTreeMap::from([("segment.bytes".to_owned(), "4000000".to_owned())]);
        let entry = find(describe_topic(&own, &l), "segment.bytes");
        assert_eq!((entry.value.as_deref(), entry.kind), (Some("4000000"), 3));
        assert_eq!(
            sources(&entry),
            [
                ("segment.bytes", "4000000", 1),
                ("log.segment.bytes", "3000000", 3),
                ("log.segment.bytes", "2000000", 4),
                ("log.segment.bytes", "1073741824", 5),
            ]
        );
        let entry = find(describe_topic(&BTreeMap::new(), &l), "segment.bytes");
        assert_eq!(entry.source, ConfigSource::DynamicDefaultBroker);
        let plain = find(describe_topic(&BTreeMap::new(), &l), "retention.ms");
        assert_eq!(plain.value.as_deref(), Some("604800000"));
        assert_eq!((plain.source, plain.synonyms.len()), (ConfigSource::Default, 0));
        let all = describe_topic(&BTreeMap::new(), &l);
        assert!(all.iter().all(|e| e.name != "internal.segment.bytes" && !e.read_only));
        assert_eq!(all.len(), 33);
    }

    #[test]
    fn a_broker_hides_secrets_and_strangers() {
        let mut l = layers(
            "ssl.key.password=secret\nlistener.name.a.ssl.key.password=other\nnode.id=1\n\
             log.dirs=/a,/b\nlistener.name.a.max.connections=7",
        );
        l.dynamic_broker.insert("custom.key".into(), "x".into());
        let all = describe_broker(&l);
        for name in ["ssl.key.password", "listener.name.a.ssl.key.password", "custom.key"] {
            let entry = find(all.clone(), name);
            assert!(entry.sensitive && entry.value.is_none(), "{name}");
            assert!(entry.synonyms.iter().all(|s| s.value.is_none()), "{name}");
        }
        let dirs = find(all.clone(), "log.dirs");
        assert_eq!((dirs.value.as_deref(), dirs.read_only), (Some("/a,/b"), true));
        let limit = find(all.clone(), "listener.name.a.max.connections");
        assert_eq!(
            sources(&limit),
            [("listener.name.a.max.connections", "7", 4), ("max.connections", "2147483647", 5)]
        );
        assert_eq!(find(all.clone(), "broker.id").value.as_deref(), Some("1"));
        assert!(!find(all, "num.io.threads").read_only);
    }

    #[test]
    fn the_cluster_default_shows_what_was_set_there_alone() {
        let mut l = layers("num.io.threads=8");
        l.dynamic_default.insert("num.io.threads".into(), "9".into());
        l.dynamic_broker.insert("num.io.threads".into(), "10".into());
        let all = describe_cluster_default(&l);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].value.as_deref(), Some("9"));
        assert_eq!(sources(&all[0]), [("num.io.threads", "9", 3)]);
    }
}
