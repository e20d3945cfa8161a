//! Dynamic configuration as stored: keys and texts by resource. What they mean is `config`'s.

use std::{collections::BTreeMap, fmt, sync::Arc};

use imbl::OrdMap;

use crate::base::NodeId;

use super::record::Record;

/// What a resource is, by Kafka's numbers (`ConfigResource.Type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceType {
    /// A topic, by name.
    Topic,
    /// A broker by id, or all of them by the empty name.
    Broker,
    /// A client metrics subscription, by name.
    ClientMetrics,
    /// A group, by id.
    Group,
}

impl ResourceType {
    /// Kafka's number of it.
    #[must_use]
    pub const fn code(self) -> i8 {
        match self {
            Self::Topic => 2,
            Self::Broker => 4,
            Self::ClientMetrics => 16,
            Self::Group => 32,
        }
    }

    /// The type of that number; `None` for one that is not stored here.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            2 => Some(Self::Topic),
            4 => Some(Self::Broker),
            16 => Some(Self::ClientMetrics),
            32 => Some(Self::Group),
            _ => None,
        }
    }
}

/// A resource that has configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigResource {
    /// What it is.
    pub kind: ResourceType,
    /// Its name; empty for the default of all brokers.
    pub name: Arc<str>,
}

impl ConfigResource {
    /// The topic of that name.
    pub fn topic(name: impl Into<Arc<str>>) -> Self {
        Self { kind: ResourceType::Topic, name: name.into() }
    }

    /// The broker of that id.
    #[must_use]
    pub fn broker(id: NodeId) -> Self {
        Self { kind: ResourceType::Broker, name: id.to_string().into() }
    }

    /// All brokers.
    #[must_use]
    pub fn all_brokers() -> Self {
        Self { kind: ResourceType::Broker, name: "".into() }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            ResourceType::Topic => "TOPIC",
            ResourceType::Broker => "BROKER",
            ResourceType::ClientMetrics => "CLIENT_METRICS",
            ResourceType::Group => "GROUP",
        };
        write!(f, "ConfigResource(type={kind}, name='{}')", self.name)
    }
}

/// Keys and values of one resource.
pub type Properties = BTreeMap<String, String>;

/// All dynamic configuration. A resource without keys is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Configs {
    resources: OrdMap<ConfigResource, Arc<Properties>>,
}

impl Configs {
    /// The keys of a resource; `None` if it has none.
    #[must_use]
    pub fn get(&self, resource: &ConfigResource) -> Option<&Arc<Properties>> {
        self.resources.get(resource)
    }

    /// One value.
    #[must_use]
    pub fn value(&self, resource: &ConfigResource, key: &str) -> Option<&str> {
        self.resources.get(resource)?.get(key).map(String::as_str)
    }

    /// Keys of a topic, empty if there are none.
    #[must_use]
    pub fn topic(&self, name: &str) -> Arc<Properties> {
        self.keys_of(&ConfigResource::topic(name))
    }

    /// Keys of a resource, empty if there are none.
    #[must_use]
    pub fn keys_of(&self, resource: &ConfigResource) -> Arc<Properties> {
        self.get(resource).cloned().unwrap_or_default()
    }

    /// All resources that have keys.
    pub fn iter(&self) -> impl Iterator<Item = (&ConfigResource, &Arc<Properties>)> {
        self.resources.iter()
    }

    pub(super) fn set(&mut self, r: &ConfigResource, key: &str, value: Option<&str>) {
        let mut keys = self.resources.get(r).map_or_else(Arc::default, Arc::clone);
        let map = Arc::make_mut(&mut keys);
        match value {
            Some(v) => {
                map.insert(key.to_owned(), v.to_owned());
            }
            None => {
                map.remove(key);
            }
        }
        if keys.is_empty() {
            self.resources.remove(r);
        } else {
            self.resources.insert(r.clone(), keys);
        }
    }

    pub(super) fn remove(&mut self, r: &ConfigResource) -> bool {
        self.resources.remove(r).is_some()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        self.resources.iter().flat_map(|(resource, keys)| {
            keys.iter().map(|(key, value)| Record::Config {
                resource: resource.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            })
        })
    }
}
