//! A configuration table for stories.

use vltava::controller::{ConfigSchema, EffectiveConfig};
use vltava::metadata::configs::Properties;
use vltava::metadata::{ConfigResource, ResourceType};

/// A configuration table of three keys.
#[derive(Debug)]
pub(crate) struct SmallSchema;

impl ConfigSchema for SmallSchema {
    fn is_list(&self, _: ResourceType, key: &str) -> bool {
        key == "cleanup.policy"
    }

    fn default_value(&self, _: ResourceType, key: &str) -> Option<String> {
        (key == "cleanup.policy").then(|| "delete".to_owned())
    }

    fn validate(
        &self,
        resource: &ConfigResource,
        new: &Properties,
        _: &Properties,
    ) -> Result<(), String> {
        let known = ["cleanup.policy", "min.insync.replicas", "unclean.leader.election.enable"];
        let unknown = new.keys().find(|k| !known.contains(&k.as_str()));
        match unknown {
            Some(k) if resource.kind == ResourceType::Topic => {
                Err(format!("Unknown topic config name: {k}"))
            }
            _ => Ok(()),
        }
    }

    fn effective_topic(&self, topic: &Properties, _: &Properties) -> Vec<EffectiveConfig> {
        topic
            .iter()
            .map(|(name, value)| EffectiveConfig {
                name: name.clone(),
                value: Some(value.clone()),
                source: 1,
                read_only: false,
                sensitive: false,
            })
            .collect()
    }
}
