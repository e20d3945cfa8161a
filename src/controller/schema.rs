//! What the core asks of the configuration table. `config` knows the answers; the core knows only
//! these questions, so that its tests bring their own table.

use crate::metadata::{ConfigResource, ResourceType, configs::Properties};

/// One line of a topic's effective configuration, as CreateTopics answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EffectiveConfig {
    /// The topic key.
    pub name: String,
    /// Its value; `None` if it has none or is sensitive.
    pub value: Option<String>,
    /// DescribeConfigs' ConfigSource.
    pub source: i8,
    /// Whether clients cannot change it.
    pub read_only: bool,
    /// Whether its value is hidden.
    pub sensitive: bool,
}

/// The configuration table, as far as the controller cares.
pub trait ConfigSchema: Send + Sync + std::fmt::Debug {
    /// Whether the key's value is a list, so that APPEND and SUBTRACT make sense.
    fn is_list(&self, kind: ResourceType, key: &str) -> bool;

    /// The value of a key that is not set, as text; `None` if it has none.
    fn default_value(&self, kind: ResourceType, key: &str) -> Option<String>;

    /// Checks all keys that a resource would have: known, well formed, in bounds, fitting each
    /// other. `old` are the keys it has now.
    ///
    /// # Errors
    /// The text for the client, as Kafka words it.
    fn validate(
        &self,
        resource: &ConfigResource,
        new: &Properties,
        old: &Properties,
    ) -> Result<(), String>;

    /// All topic keys as they would hold for a topic with `topic` keys where `cluster` are the
    /// dynamic defaults of all brokers; by name.
    fn effective_topic(&self, topic: &Properties, cluster: &Properties) -> Vec<EffectiveConfig>;
}
