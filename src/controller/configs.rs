//! Dynamic configuration: incremental and legacy changes, checked as a whole per resource
//! (`ConfigurationControlManager.java`). Uses `metadata`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{ErrorCode, NodeId};
use crate::metadata::configs::Properties;
use crate::metadata::features::METADATA_VERSION_CORDONED;
use crate::metadata::{ConfigResource, Record, ResourceType};
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Refusal, SubmitBody, error_fields},
    topic_names,
    turn::Turn,
};

const CORDONED: &str = "cordoned.log.dirs";
const MIN_ISR: &str = "min.insync.replicas";
const UNCLEAN_ELECTION: &str = "unclean.leader.election.enable";

/// Longest value in UTF-16 units (`Short.MAX_VALUE`).
const VALUE_UNITS_MAX: usize = 32_767;

/// The keys that change, by name; `None` takes a key away.
type Changes = BTreeMap<String, Option<String>>;

fn invalid_config(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidConfig, text)
}

fn invalid_request(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidRequest, text)
}

fn resource_of(r: Option<&pb::ConfigResource>) -> Result<ConfigResource, Refusal> {
    let r = r.ok_or_else(|| invalid_request("No resource"))?;
    let kind = ResourceType::from_code(r.resource_type);
    let kind =
        kind.ok_or_else(|| invalid_request(format!("Unknown resource type {}", r.resource_type)))?;
    Ok(ConfigResource { kind, name: r.resource_name.as_str().into() })
}

/// Keys that occur more than once.
fn check_duplicates<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), Refusal> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(invalid_request("Error due to duplicate config keys"));
        }
    }
    Ok(())
}

fn check_nulls<'a>(
    entries: impl Iterator<Item = (&'a str, Option<&'a String>)>,
) -> Result<(), Refusal> {
    let nulls: Vec<&str> = entries.filter(|(_, v)| v.is_none()).map(|(name, _)| name).collect();
    if nulls.is_empty() {
        return Ok(());
    }
    Err(invalid_request(format!("Null value not supported for : {}", nulls.join(","))))
}

impl Turn<'_> {
    pub(super) fn alter_configs(&mut self, c: &pb::AlterConfigs) -> Outcome {
        let resources = c.resources.iter().map(|r| r.resource.clone()).collect();
        self.alter_all(resources, c.validate_only, c.from_broker, |turn, i, resource| {
            let r = &c.resources[i];
            check_duplicates(r.configs.iter().map(|e| e.name.as_str()))?;
            check_nulls(r.configs.iter().map(|e| (e.name.as_str(), e.value.as_ref())))?;
            let old = turn.image().configs().keys_of(resource);
            let gone = old.keys().map(|key| (key.clone(), None));
            let given = r.configs.iter().map(|e| (e.name.clone(), e.value.clone()));
            Ok(gone.chain(given).collect())
        })
    }

    pub(super) fn incremental_alter_configs(&mut self, c: &pb::IncrementalAlterConfigs) -> Outcome {
        let resources = c.resources.iter().map(|r| r.resource.clone()).collect();
        self.alter_all(resources, c.validate_only, c.from_broker, |turn, i, resource| {
            let ops = &c.resources[i].ops;
            check_duplicates(ops.iter().map(|o| o.name.as_str()))?;
            let valued = ops.iter().filter(|o| o.operation != 1);
            check_nulls(valued.map(|o| (o.name.as_str(), o.value.as_ref())))?;
            let old = turn.image().configs().keys_of(resource);
            ops.iter().map(|op| Ok((op.name.clone(), turn.operate(resource, op, &old)?))).collect()
        })
    }

    /// The value of a key after one operation.
    fn operate(
        &self,
        resource: &ConfigResource,
        op: &pb::AlterOp,
        old: &Properties,
    ) -> Result<Option<String>, Refusal> {
        let key = &op.name;
        let name = match op.operation {
            0 => return Ok(op.value.clone()),
            1 => return Ok(None),
            2 => "APPEND",
            3 => "SUBTRACT",
            other => return Err(invalid_request(format!("Unknown operation type {other}"))),
        };
        let schema = &self.settings.schema;
        if !schema.is_list(resource.kind, key) {
            let text = format!("Can't {name} to key {key} because its type is not LIST.");
            return Err(invalid_config(text));
        }
        let present = old.get(key).cloned().or_else(|| schema.default_value(resource.kind, key));
        let present = present.unwrap_or_default();
        let mut parts: Vec<&str> = present.split(',').filter(|p| !p.is_empty()).collect();
        for part in op.value.as_deref().unwrap_or_default().split(',') {
            match op.operation {
                2 if !parts.contains(&part) => parts.push(part),
                3 => parts.retain(|p| *p != part),
                _ => {}
            }
        }
        Ok(Some(parts.join(",")))
    }

    /// Decides each resource by `changes`, and writes all that were accepted.
    fn alter_all(
        &mut self,
        resources: Vec<Option<pb::ConfigResource>>,
        validate_only: bool,
        from_broker: bool,
        changes: impl Fn(&Self, usize, &ConfigResource) -> Result<Changes, Refusal>,
    ) -> Outcome {
        let mut results = Vec::with_capacity(resources.len());
        let twice: BTreeSet<(i32, String)> = repeated(&resources);
        for (i, given) in resources.into_iter().enumerate() {
            let key = given.as_ref().map(|r| (r.resource_type, r.resource_name.clone()));
            let result = if key.is_some_and(|key| twice.contains(&key)) {
                Err(invalid_request("Each resource must appear at most once."))
            } else {
                resource_of(given.as_ref()).and_then(|resource| {
                    let changes = changes(self, i, &resource)?;
                    self.check_cordoned(&resource, &changes, from_broker)?;
                    self.alter_resource(&resource, changes, validate_only)
                })
            };
            let (error, error_message) = error_fields(&result);
            results.push(pb::AlterConfigsResult { resource: given, error, error_message });
        }
        let body = pb::AlterConfigsReply { resources: results };
        Outcome::submit(0, None, SubmitBody::AlterConfigs(body))
    }

    fn alter_resource(
        &mut self,
        resource: &ConfigResource,
        changes: Changes,
        validate_only: bool,
    ) -> Result<(), Refusal> {
        let old = self.image().configs().keys_of(resource);
        let mut new = Properties::clone(&old);
        for (key, value) in &changes {
            self.check_min_isr(resource, key, value.as_deref())?;
            match value {
                Some(value) => new.insert(key.clone(), value.clone()),
                None => new.remove(key),
            };
        }
        self.check_values(&new)?;
        self.check_resource_name(resource)?;
        self.settings.schema.validate(resource, &new, &old).map_err(|text| {
            if resource.kind == ResourceType::Broker {
                invalid_request(text)
            } else {
                invalid_config(text)
            }
        })?;
        self.check_exists(resource)?;
        if validate_only {
            return Ok(());
        }
        // Unchanged keys of a broker are written too: it reloads files that they name.
        let rewrite = resource.kind == ResourceType::Broker;
        let differs =
            |key: &String, value: &Option<String>| old.get(key) != value.as_ref() || rewrite;
        let changed: Changes = changes.into_iter().filter(|(k, v)| differs(k, v)).collect();
        let clears_elr = changed.contains_key(MIN_ISR) && self.image().elr_enabled();
        let unclean = changed.contains_key(UNCLEAN_ELECTION);
        let record = |(key, value)| Record::Config { resource: resource.clone(), key, value };
        let mut records: Vec<Record> = changed.into_iter().map(record).collect();
        if clears_elr {
            records.push(self.clear_elr(resource));
        }
        self.draft.push_group(records)?;
        if unclean {
            // Who allows it has partitions that wait: they need not wait for the next sweep.
            self.elect_unclean();
        }
        Ok(())
    }

    /// The rules on values that hold for every key.
    pub(super) fn check_values(&self, keys: &Properties) -> Result<(), Refusal> {
        if keys.values().any(|v| v.encode_utf16().count() > VALUE_UNITS_MAX) {
            return Err(invalid_config(format!(
                "The configuration value cannot be added because it exceeds the maximum value \
                 size of {VALUE_UNITS_MAX} bytes."
            )));
        }
        Ok(())
    }

    /// Eligible replicas rest on one minimum that all brokers agree on.
    fn check_min_isr(
        &self,
        resource: &ConfigResource,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), Refusal> {
        let broker = resource.kind == ResourceType::Broker;
        if key != MIN_ISR || !broker || !self.image().elr_enabled() {
            return Ok(());
        }
        if !resource.name.is_empty() {
            let text = format!("Broker-level {MIN_ISR} cannot be altered while ELR is enabled.");
            return Err(invalid_config(text));
        }
        if value.is_none() {
            let text = format!("Cluster-level {MIN_ISR} cannot be removed while ELR is enabled.");
            return Err(invalid_config(text));
        }
        Ok(())
    }

    /// A broker checks the paths itself. What did not come by one may only lift what is cordoned
    /// (`isCordonedLogDirsDisabled`, `isCordonedLogDirsInvalid`).
    fn check_cordoned(
        &self,
        resource: &ConfigResource,
        changes: &Changes,
        from_broker: bool,
    ) -> Result<(), Refusal> {
        let Some(value) = changes.get(CORDONED).filter(|_| resource.kind == ResourceType::Broker)
        else {
            return Ok(());
        };
        if self.metadata_version() < METADATA_VERSION_CORDONED {
            return Err(invalid_config(format!(
                "The {CORDONED} configuration value cannot be set because it requires \
                 metadata.version >= 4.3-IV0"
            )));
        }
        let Some(value) = value.as_deref().filter(|v| !from_broker && !v.trim().is_empty()) else {
            return Ok(());
        };
        let old = self.image().configs().keys_of(resource);
        let old = old.get(CORDONED).map_or("", String::as_str);
        let lifts = |new: &str| old.split(',').any(|o| o.trim() == new.trim());
        if value.split(',').all(lifts) {
            return Ok(());
        }
        Err(invalid_config(format!(
            "When updating {CORDONED} via controllers,  the new value must be a subset of the \
             current configuration value."
        )))
    }

    fn check_resource_name(&self, resource: &ConfigResource) -> Result<(), Refusal> {
        let name = &resource.name;
        match resource.kind {
            ResourceType::Topic if name.is_empty() => {
                Err(invalid_request("Default topic resources are not allowed."))
            }
            ResourceType::Topic => topic_names::check(name)
                .map_err(|text| Refusal::new(ErrorCode::InvalidTopicException, text)),
            ResourceType::Broker if name.is_empty() => Ok(()),
            ResourceType::Broker => match name.parse::<i32>() {
                Err(_) => Err(invalid_request("Unable to parse broker name as a base 10 number.")),
                Ok(id) if id < 0 => Err(invalid_request("Invalid negative broker ID.")),
                Ok(_) => Ok(()),
            },
            ResourceType::Group if name.is_empty() => {
                Err(invalid_request("Default group resources are not allowed."))
            }
            ResourceType::Group | ResourceType::ClientMetrics => Ok(()),
        }
    }

    fn check_exists(&self, resource: &ConfigResource) -> Result<(), Refusal> {
        let name = &resource.name;
        match resource.kind {
            ResourceType::Topic if self.image().topics().id_of(name).is_none() => {
                let text = format!("The topic '{name}' does not exist.");
                Err(Refusal::new(ErrorCode::UnknownTopicOrPartition, text))
            }
            ResourceType::Broker => match name.parse::<i32>().map(NodeId) {
                Ok(id) if !self.is_node(id) => {
                    let text = format!("No node with id {id} found.");
                    Err(Refusal::new(ErrorCode::BrokerIdNotRegistered, text))
                }
                _ => Ok(()),
            },
            ResourceType::Topic | ResourceType::Group | ResourceType::ClientMetrics => Ok(()),
        }
    }

    fn is_node(&self, id: NodeId) -> bool {
        let brokers = self.image().brokers();
        brokers.get(id).is_some()
            || brokers.controller(id).is_some()
            || self.settings.controllers.contains(&id)
    }

    /// Under another minimum, what is eligible must be found out anew; committed together with
    /// that minimum, lest a leader be elected by the old one.
    fn clear_elr(&self, resource: &ConfigResource) -> Record {
        let topic = match resource.kind {
            ResourceType::Topic => self.image().topics().id_of(&resource.name),
            ResourceType::Broker | ResourceType::Group | ResourceType::ClientMetrics => None,
        };
        Record::ClearElr { topic }
    }
}

/// Resources that occur more than once.
fn repeated(resources: &[Option<pb::ConfigResource>]) -> BTreeSet<(i32, String)> {
    let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for r in resources.iter().flatten() {
        let key = (r.resource_type, r.resource_name.clone());
        if !seen.insert(key.clone()) {
            twice.insert(key);
        }
    }
    twice
}
