//! The layers of a broker's configuration and what holds at the end: dynamic for this broker over
//! dynamic for all over static over default (`DynamicBrokerConfig`). Uses `keys`, `load`, `value`.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    keys::{self, Key, Mode},
    load::{self, Settings},
    value::Value,
};

/// Where a value comes from, by the numbers of `DescribeConfigsResponse.ConfigSource`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// An override of the topic.
    Topic,
    /// Changed for this broker while it runs.
    DynamicBroker,
    /// Changed for all brokers while they run.
    DynamicDefaultBroker,
    /// The file, the environment or an argument.
    StaticBroker,
    /// The table.
    Default,
    /// A setting of the group.
    Group,
}

impl ConfigSource {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::DynamicBroker => 2,
            Self::DynamicDefaultBroker => 3,
            Self::StaticBroker => 4,
            Self::Default => 5,
            Self::Group => 8,
        }
    }
}

/// All layers of one broker. A dynamic value that breaks its key's rule (a later version may have
/// written it) or that may not change in its layer does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Dynamic settings of this broker.
    pub dynamic_broker: BTreeMap<String, String>,
    /// Dynamic settings of all brokers.
    pub dynamic_default: BTreeMap<String, String>,
    /// File, environment and arguments.
    pub fixed: Arc<Settings>,
}

impl Layers {
    /// Only the static layer.
    #[must_use]
    pub fn fixed(settings: Settings) -> Self {
        Self { fixed: Arc::new(settings), ..Self::default() }
    }

    /// The value given for `name` in a layer above the defaults, as text.
    #[must_use]
    pub fn given(&self, name: &str) -> Option<(&str, ConfigSource)> {
        let key = load::key_of(name)?;
        let sound = |value: &&String| Value::parse(key, value).is_ok();
        let own = self.dynamic_broker.get(name).filter(|_| key.mode != Mode::ReadOnly);
        if let Some(value) = own.filter(sound) {
            return Some((value, ConfigSource::DynamicBroker));
        }
        let shared = self.dynamic_default.get(name).filter(|_| key.mode == Mode::ClusterWide);
        if let Some(value) = shared.filter(sound) {
            return Some((value, ConfigSource::DynamicDefaultBroker));
        }
        let setting = self.fixed.get(name)?;
        Some((&setting.value, ConfigSource::StaticBroker))
    }

    /// The value of a key of the table; `None` is Kafka's null. A name with a listener prefix falls
    /// back to the plain key.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<Value> {
        let key = table_row(name);
        let text = self.given(name).or_else(|| self.given(key.name)).map(|(text, _)| text);
        text.or(key.default).and_then(|text| Value::parse(key, text).ok())
    }

    /// The value of the strongest of `names` that is given, else the first default among them; with
    /// the milliseconds in a unit of these names, by their endings.
    #[must_use]
    pub fn strongest(&self, names: &[&str]) -> Option<(Value, i64)> {
        let given = names.iter().find_map(|name| {
            let (text, _) = self.given(name)?;
            Some((*name, Value::parse(table_row(name), text).ok()?))
        });
        let (name, value) = given.or_else(|| {
            names.iter().find_map(|name| {
                let key = table_row(name);
                Some((*name, Value::parse(key, key.default?).ok()?))
            })
        })?;
        let unit = match name.rsplit('.').next() {
            Some("hours") => 3_600_000,
            Some("minutes") => 60_000,
            _ => 1,
        };
        Some((value, unit))
    }

    pub(super) fn number(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Number(n)) => n,
            _ => 0,
        }
    }

    pub(super) fn int(&self, name: &str) -> i32 {
        i32::try_from(self.number(name)).unwrap_or(i32::MAX)
    }

    pub(super) fn long(&self, name: &str) -> i64 {
        self.number(name)
    }

    pub(super) fn short(&self, name: &str) -> i16 {
        i16::try_from(self.number(name)).unwrap_or(i16::MAX)
    }

    /// A count or size that cannot be negative.
    pub(super) fn count(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(0)
    }

    pub(super) fn double(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Double(d)) => d,
            _ => 0.0,
        }
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Bool(true)))
    }

    pub(super) fn text(&self, name: &str) -> String {
        self.maybe_text(name).unwrap_or_default()
    }

    pub(super) fn maybe_text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(t)) => Some(t),
            _ => None,
        }
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(list)) => list,
            _ => Vec::new(),
        }
    }

    /// The effective time in milliseconds behind a key with names in several units.
    pub(super) fn millis(&self, name: &str) -> i64 {
        match self.strongest(keys::server_synonyms(name)) {
            Some((Value::Number(n), unit)) => n.saturating_mul(unit),
            _ => 0,
        }
    }
}

/// The row behind a name that our own code asks for.
fn table_row(name: &str) -> &'static Key {
    let row = load::key_of(name);
    assert!(row.is_some(), "{name} is in the table of keys");
    row.unwrap_or(&EMPTY)
}

static EMPTY: Key = keys::string("", None);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::{Sources, load};

    fn layers(text: &str) -> Layers {
        let loaded = load(&Sources { path: "f", text, ..Sources::default() }).unwrap();
        Layers::fixed(loaded.settings)
    }

    #[test]
    fn the_stronger_layer_counts() {
        let mut l = layers("log.segment.bytes=2000000\nnum.partitions=3\n");
        assert_eq!(l.int("log.segment.bytes"), 2_000_000);
        l.dynamic_default.insert("log.segment.bytes".into(), "3000000".into());
        assert_eq!(l.int("log.segment.bytes"), 3_000_000);
        l.dynamic_broker.insert("log.segment.bytes".into(), "4000000".into());
        assert_eq!(l.int("log.segment.bytes"), 4_000_000);
        l.dynamic_broker.insert("log.segment.bytes".into(), "4".into());
        assert_eq!(l.int("log.segment.bytes"), 3_000_000, "a bad value does not count");
        l.dynamic_broker.insert("num.partitions".into(), "9".into());
        assert_eq!(l.int("num.partitions"), 3, "this key needs a restart");
    }

    #[test]
    fn units_of_the_same_setting_go_by_strength() {
        let millis = |text| layers(text).millis("log.retention.ms");
        assert_eq!(millis(""), 604_800_000);
        assert_eq!(millis("log.retention.hours=1"), 3_600_000);
        assert_eq!(millis("log.retention.hours=1\nlog.retention.minutes=1"), 60_000);
        assert_eq!(millis("log.retention.ms=7\nlog.retention.minutes=1"), 7);
        assert_eq!(layers("").millis("log.flush.interval.ms"), i64::MAX);
        let flush = layers("log.flush.scheduler.interval.ms=50");
        assert_eq!(flush.millis("log.flush.interval.ms"), 50);
    }

    #[test]
    fn a_listener_prefix_beats_the_plain_key() {
        let l = layers("max.connections=10\nlistener.name.inner.max.connections=5");
        assert_eq!(l.count("listener.name.inner.max.connections"), 5);
        assert_eq!(l.count("listener.name.outer.max.connections"), 10);
    }
}
