//! What a group may set for itself (`GroupConfig`): timeouts of consumer groups, timeouts and delivery
//! of share groups, within the bounds of the broker. Uses `describe`, `keys`, `layers`,
//! `share_group`, `value`.

use std::collections::BTreeMap;

use super::{
    describe::{self, ConfigEntry, Synonym},
    keys::{self, Key, boolean, string},
    layers::{ConfigSource, Layers},
    share_group::ShareReset,
    value::Value,
};

/// A key of groups, the broker's key that is its default, and the broker's bounds.
pub(super) struct GroupKey {
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
const SHARE_SESSION: GroupKey = GroupKey {
    name: "share.session.timeout.ms",
    broker: "group.share.session.timeout.ms",
    min: "group.share.min.session.timeout.ms",
    max: "group.share.max.session.timeout.ms",
};
const SHARE_HEARTBEAT: GroupKey = GroupKey {
    name: "share.heartbeat.interval.ms",
    broker: "group.share.heartbeat.interval.ms",
    min: "group.share.min.heartbeat.interval.ms",
    max: "group.share.max.heartbeat.interval.ms",
};
const SHARE_ASSIGNMENT: GroupKey = GroupKey {
    name: "share.assignment.interval.ms",
    broker: "group.share.assignment.interval.ms",
    min: "group.share.min.assignment.interval.ms",
    max: "group.share.max.assignment.interval.ms",
};
pub(super) const LOCK_DURATION: GroupKey = GroupKey {
    name: "share.record.lock.duration.ms",
    broker: "group.share.record.lock.duration.ms",
    min: "group.share.min.record.lock.duration.ms",
    max: "group.share.max.record.lock.duration.ms",
};
pub(super) const DELIVERY_LIMIT: GroupKey = GroupKey {
    name: "share.delivery.count.limit",
    broker: "group.share.delivery.count.limit",
    min: "group.share.min.delivery.count.limit",
    max: "group.share.max.delivery.count.limit",
};
pub(super) const RECORD_LOCKS: GroupKey = GroupKey {
    name: "share.partition.max.record.locks",
    broker: "group.share.partition.max.record.locks",
    min: "group.share.min.partition.max.record.locks",
    max: "group.share.max.partition.max.record.locks",
};

/// With a synonym among the broker's keys, by name.
const KEYS: [&GroupKey; 9] = [
    &ASSIGNMENT,
    &HEARTBEAT,
    &SESSION,
    &SHARE_ASSIGNMENT,
    &DELIVERY_LIMIT,
    &SHARE_HEARTBEAT,
    &RECORD_LOCKS,
    &LOCK_DURATION,
    &SHARE_SESSION,
];

pub(super) static RESET: Key = string("share.auto.offset.reset", Some("latest")).doc(
    "Where a share group starts to read a partition: `earliest`, `latest`, or \
     `by_duration:<PnDTnHnMn.nS>` for records of at most that age.",
);
pub(super) static ISOLATION: Key = string("share.isolation.level", Some("read_uncommitted"))
    .one_of(&["read_committed", "read_uncommitted"])
    .doc("Whether a share group is given records of transactions only once they are committed.");
pub(super) static RENEW: Key = boolean("share.renew.acknowledge.enable", Some("true"))
    .doc("Whether consumers of a share group may hold a record for longer than its lock lasts.");

/// Without one, by name.
static OWN_KEYS: [&Key; 3] = [&RESET, &ISOLATION, &RENEW];

/// The group's own value of a key without a synonym, or the default.
pub(super) fn text<'a>(key: &'static Key, own: &'a BTreeMap<String, String>) -> &'a str {
    let own = own.get(key.name).map(|v| v.trim());
    own.filter(|v| check_own(key, v).is_ok()).or(key.default).unwrap_or_default()
}

fn check_own(key: &Key, value: &str) -> Result<(), String> {
    if key.name == RESET.name && ShareReset::parse(value).is_none() {
        return Err(format!(
            "Invalid value {value} for configuration {}: the value must be either 'earliest', \
             'latest' or of the format 'by_duration:<PnDTnHnMn.nS>'.",
            key.name
        ));
    }
    let why = |why| format!("Invalid value {value} for configuration {}: {why}", key.name);
    Value::parse(key, value).map(|_| ()).map_err(why)
}

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

    /// As [`GroupKey::effective`], brought within the broker's bounds if it is the group's own.
    pub(super) fn within(&self, own: &BTreeMap<String, String>, layers: &Layers) -> i32 {
        let value = match self.effective(own, layers) {
            Ok(value) if own.contains_key(self.name) => {
                // As a minimum after a maximum would be, were they crossed.
                value.min(layers.number(self.max)).max(layers.number(self.min))
            }
            Ok(value) => value,
            Err(_) => layers.number(self.broker),
        };
        i32::try_from(value).unwrap_or(i32::MAX)
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
    let names = || KEYS.iter().map(|k| k.name).chain(OWN_KEYS.iter().map(|k| k.name));
    if let Some(name) = own.keys().find(|name| names().all(|known| known != name.as_str())) {
        return Err(format!("Unknown group config name: {name}"));
    }
    for key in OWN_KEYS {
        if let Some(value) = own.get(key.name) {
            check_own(key, value)?;
        }
    }
    for key in [&HEARTBEAT, &SESSION, &ASSIGNMENT, &SHARE_HEARTBEAT, &SHARE_SESSION]
        .into_iter()
        .chain([&LOCK_DURATION, &DELIVERY_LIMIT, &RECORD_LOCKS, &SHARE_ASSIGNMENT])
    {
        let value = key.effective(own, layers)?;
        // The brokers' own may have moved since they were checked.
        let moves = key.name == ASSIGNMENT.name || key.name == SHARE_ASSIGNMENT.name;
        if own.contains_key(key.name) || !moves {
            key.check_bounds(value, layers)?;
        }
    }
    for (session, heartbeat) in [(&SESSION, &HEARTBEAT), (&SHARE_SESSION, &SHARE_HEARTBEAT)] {
        if session.effective(own, layers)? <= heartbeat.effective(own, layers)? {
            return Err(format!("{} must be greater than {}", session.name, heartbeat.name));
        }
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
    let mut entries: Vec<_> = KEYS.iter().map(entry).collect();
    entries.extend(OWN_KEYS.iter().map(|key| own_entry(key, own)));
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

fn own_entry(key: &Key, own: &BTreeMap<String, String>) -> ConfigEntry {
    let synonym = |value: &str, source| Synonym {
        name: key.name.to_owned(),
        value: Some(value.to_owned()),
        source,
    };
    let mut synonyms = Vec::new();
    synonyms.extend(own.get(key.name).map(|v| synonym(v, ConfigSource::Group)));
    synonyms.extend(key.default.map(|v| synonym(v, ConfigSource::Default)));
    ConfigEntry {
        name: key.name.to_owned(),
        value: synonyms.first().and_then(|s| s.value.clone()),
        read_only: false,
        source: synonyms.first().map_or(ConfigSource::Default, |s| s.source),
        sensitive: false,
        synonyms,
        kind: key.kind.code(),
        documentation: Some(key.doc),
    }
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
        assert_eq!(check(RESET.name, "by_duration:PT1H"), Ok(()));
        assert!(check(RESET.name, "none").unwrap_err().contains("by_duration:<PnDTnHnMn.nS>"));
        assert!(check(ISOLATION.name, "x").unwrap_err().contains("Invalid value x"));
        assert!(check(LOCK_DURATION.name, "14999").unwrap_err().contains("greater than or equal"));
        assert!(check(DELIVERY_LIMIT.name, "11").is_err());
        assert!(check("a", "1").unwrap_err().contains("Unknown group config name: a"));
        let all = describe_group(&own(SESSION.name, "50000"), &layers);
        let shown: Vec<_> =
            all.iter().map(|e| (e.name.as_str(), e.value.as_deref(), e.source.code())).collect();
        assert_eq!(
            shown[..3],
            [
                (ASSIGNMENT.name, Some("1000"), 5),
                (HEARTBEAT.name, Some("5000"), 5),
                (SESSION.name, Some("50000"), 8),
            ]
        );
        assert_eq!(shown.len(), KEYS.len() + OWN_KEYS.len());
        assert_eq!(shown[4], (RESET.name, Some("latest"), 5));
        assert_eq!(all[2].synonyms.len(), 3, "own, static, default");
    }
}
