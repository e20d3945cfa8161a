//! What a group may set for itself (`GroupConfig`): consumer groups' timeouts, within the bounds of
//! the broker. Uses `describe`, `keys`, `layers`, `value`.

use std::collections::BTreeMap;

use super::{
    describe::{self, ConfigEntry, Synonym},
    keys,
    layers::{ConfigSource, Layers},
    value::Value,
};

/// A key of groups, the broker's key that is its default, and the broker's bounds.
struct GroupKey {
    name: &'static str,
    broker: &'static str,
    min: &'static str,
    max: &'static str,
}

const SESSION: GroupKey = GroupKey {
    name: "consumer.session.timeout.ms",
    broker: "group.consumer.session.timeout.ms",
    min: "group.consumer.min.session.timeout.ms",
    max: "group.consumer.max.session.timeout.ms",
};
const HEARTBEAT: GroupKey = GroupKey {
    name: "consumer.heartbeat.interval.ms",
    broker: "group.consumer.heartbeat.interval.ms",
    min: "group.consumer.min.heartbeat.interval.ms",
    max: "group.consumer.max.heartbeat.interval.ms",
};
const ASSIGNMENT: GroupKey = GroupKey {
    name: "consumer.assignment.interval.ms",
    broker: "group.consumer.assignment.interval.ms",
    min: "group.consumer.min.assignment.interval.ms",
    max: "group.consumer.max.assignment.interval.ms",
};

/// By name.
const KEYS: [&GroupKey; 3] = [&ASSIGNMENT, &HEARTBEAT, &SESSION];

impl GroupKey {
    /// The group's own value, or the broker's.
    fn effective(&self, own: &BTreeMap<String, String>, layers: &Layers) -> Result<i64, String> {
        let Some(text) = own.get(self.name) else { return Ok(layers.number(self.broker)) };
        let row = keys::server_key(self.broker);
        match row.map(|row| Value::parse(row, text)) {
            Some(Ok(Value::Number(n))) => Ok(n),
            _ => Err(format!("Invalid value {text} for configuration {}", self.name)),
        }
    }

    fn check_bounds(&self, value: i64, layers: &Layers) -> Result<(), String> {
        if value < layers.number(self.min) {
            return Err(format!("{} must be greater than or equal to {}", self.name, self.min));
        }
        if value > layers.number(self.max) {
            return Err(format!("{} must be less than or equal to {}", self.name, self.max));
        }
        Ok(())
    }
}

/// Whether a group may have exactly these settings.
///
/// # Errors
/// The first rule that is broken, as text.
pub fn validate(own: &BTreeMap<String, String>, layers: &Layers) -> Result<(), String> {
    if let Some(name) = own.keys().find(|name| KEYS.iter().all(|k| k.name != name.as_str())) {
        return Err(format!("Unknown group config name: {name}"));
    }
    let heartbeat = HEARTBEAT.effective(own, layers)?;
    let session = SESSION.effective(own, layers)?;
    let assignment = ASSIGNMENT.effective(own, layers)?;
    HEARTBEAT.check_bounds(heartbeat, layers)?;
    SESSION.check_bounds(session, layers)?;
    if own.contains_key(ASSIGNMENT.name) {
        ASSIGNMENT.check_bounds(assignment, layers)?;
    }
    if session <= heartbeat {
        return Err(format!("{} must be greater than {}", SESSION.name, HEARTBEAT.name));
    }
    Ok(())
}

/// All settings of a group with these of its own, by name.
#[must_use]
pub fn describe_group(own: &BTreeMap<String, String>, layers: &Layers) -> Vec<ConfigEntry> {
    let entry = |key: &&GroupKey| {
        let row = keys::server_key(key.broker);
        let mut synonyms = describe::layered(key.broker, layers);
        let value = own.get(key.name).cloned();
        if value.is_some() {
            let own = Synonym {
                name: key.name.to_owned(),
                value: value.clone(),
                source: ConfigSource::Group,
            };
            synonyms.insert(0, own);
        }
        ConfigEntry {
            name: key.name.to_owned(),
            value: value.or_else(|| layers.value(key.broker).map(|v| v.text())),
            read_only: false,
            source: synonyms.first().map_or(ConfigSource::Default, |s| s.source),
            sensitive: false,
            synonyms,
            kind: row.map_or(0, |row| row.kind.code()),
            documentation: row.map(|row| row.doc),
        }
    };
    KEYS.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load};

    #[test]
    fn a_group_stays_within_the_brokers_bounds() {
        let text = "group.consumer.session.timeout.ms=46000";
        let loaded = load(&Sources { path: "f", text, ..Sources::default() }).unwrap();
        let layers = Layers::fixed(loaded.settings);
        let own = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let check = |name, value| validate(&own(name, value), &layers);
        assert_eq!(check(SESSION.name, "50000"), Ok(()));
        assert!(check(SESSION.name, "44999").unwrap_err().contains("greater than or equal"));
        assert!(check(HEARTBEAT.name, "15001").unwrap_err().contains("less than or equal"));
        assert!(check(ASSIGNMENT.name, "x").unwrap_err().contains("Invalid value x"));
        assert!(check("a", "1").unwrap_err().contains("Unknown group config name: a"));
        let all = describe_group(&own(SESSION.name, "50000"), &layers);
        let shown: Vec<_> =
            all.iter().map(|e| (e.name.as_str(), e.value.as_deref(), e.source.code())).collect();
        assert_eq!(
            shown,
            [
                (ASSIGNMENT.name, Some("1000"), 5),
                (HEARTBEAT.name, Some("5000"), 5),
                (SESSION.name, Some("50000"), 8),
            ]
        );
        assert_eq!(all[2].synonyms.len(), 3, "own, static, default");
    }
}
