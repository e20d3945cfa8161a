//! Finalized features: upgrades and downgrades (`FeatureControlManager.java`). Uses `metadata`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::ErrorCode;
use crate::metadata::features::{
    self, ELR_VERSION, KRAFT_VERSION, METADATA_VERSION, METADATA_VERSION_MAX, METADATA_VERSION_MIN,
    METADATA_VERSIONS,
};
use crate::metadata::{ConfigResource, Record, ResourceType, VersionRange};
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Refusal, SubmitBody},
    turn::Turn,
};

const UPGRADE: i32 = 1;
const SAFE_DOWNGRADE: i32 = 2;
const UNSAFE_DOWNGRADE: i32 = 3;

/// From this metadata version on (3.7-IV0), controllers register and are checked.
const CONTROLLERS_REGISTER: i16 = 15;

fn wrong(name: &str, level: i32, text: &str) -> Refusal {
    let text = format!("Invalid update version {level} for feature {name}. {text}");
    Refusal::new(ErrorCode::InvalidUpdateVersion, text)
}

fn reason_not_supported(who: &str, range: VersionRange, level: i16) -> Option<String> {
    if range.contains(level) {
        None
    } else if range.max == 0 {
        Some(format!("{who} does not support this feature."))
    } else {
        Some(format!("{who} only supports versions {}-{}", range.min, range.max))
    }
}

impl Turn<'_> {
    pub(super) fn update_features(&mut self, c: &pb::UpdateFeatures) -> Outcome {
        let result = self.feature_records(c).and_then(|records| {
            if c.validate_only { Ok(()) } else { self.draft.push_group(records) }
        });
        let body = match result {
            Ok(()) => pb::UpdateFeaturesReply {
                error: 0,
                error_message: None,
                results: c
                    .updates
                    .iter()
                    .map(|u| pb::FeatureResult {
                        name: u.name.clone(),
                        ..pb::FeatureResult::default()
                    })
                    .collect(),
            },
            Err(e) => pb::UpdateFeaturesReply {
                error: e.number(),
                error_message: Some(format!(
                    "The update failed for all features since the following feature had an \
                     error: {}",
                    e.message.unwrap_or_default()
                )),
                results: Vec::new(),
            },
        };
        Outcome::submit(0, None, SubmitBody::UpdateFeatures(body))
    }

    fn feature_records(&self, c: &pb::UpdateFeatures) -> Result<Vec<Record>, Refusal> {
        let mut wanted: BTreeMap<&str, (i32, i32)> = BTreeMap::new();
        for u in &c.updates {
            wanted.insert(&u.name, (u.level, u.upgrade_type));
        }
        let mut levels: BTreeMap<&str, i32> =
            self.image().features().iter().map(|(n, l)| (&**n, l.into())).collect();
        levels.extend(wanted.iter().map(|(name, (level, _))| (*name, *level)));
        let mut records = Vec::new();
        if wanted.get(ELR_VERSION).is_some_and(|(level, _)| *level > 0) {
            self.make_elr_safe(&mut records);
        }
        for (name, (level, kind)) in wanted {
            records.extend(self.update_one(name, level, kind, &levels)?);
        }
        Ok(records)
    }

    fn update_one(
        &self,
        name: &str,
        wanted: i32,
        kind: i32,
        levels: &BTreeMap<&str, i32>,
    ) -> Result<Option<Record>, Refusal> {
        let no = |text: &str| Err(wrong(name, wanted, text));
        if !(UPGRADE..=UNSAFE_DOWNGRADE).contains(&kind) {
            return no("The controller does not support the given upgrade type.");
        }
        let Some(level) = i16::try_from(wanted).ok().filter(|l| *l >= 0) else {
            return no("A feature version cannot be less than 0.");
        };
        if let Some(reason) = self.who_does_not_support(name, level) {
            return no(&reason);
        }
        let current = self.image().features().level(name);
        if level < current && kind == UPGRADE {
            return no("Can't downgrade the version of this feature without setting the upgrade \
                       type to either safe or unsafe downgrade.");
        }
        if level > current && kind != UPGRADE {
            return no("Can't downgrade to a newer version.");
        }
        let record = Record::FeatureLevel { name: name.into(), level };
        if name == METADATA_VERSION {
            return Self::check_metadata_version(current, level, kind).map(|()| Some(record));
        }
        if name == KRAFT_VERSION {
            if level < current {
                return no("Can't downgrade the version of this feature.");
            }
            if level > current {
                return no("The voters are set by controller.quorum.voters, which is version 0.");
            }
            return Ok(None);
        }
        let needs = features::feature(name).map_or(&[][..], |f| f.needs(level));
        for (needed, at_least) in needs {
            if levels.get(needed).is_none_or(|l| *l < i32::from(*at_least)) {
                return no(&format!(
                    "{name} could not be set to {level} because it depends on {needed} level \
                     {at_least}"
                ));
            }
        }
        Ok(Some(record))
    }

    fn check_metadata_version(current: i16, level: i16, kind: i32) -> Result<(), Refusal> {
        let code = ErrorCode::InvalidUpdateVersion;
        if features::metadata_version(level).is_none() {
            let text = format!(
                "Invalid metadata.version {level}. Valid versions are from \
                 {METADATA_VERSION_MIN} to {METADATA_VERSION_MAX}."
            );
            return Err(Refusal::new(code, text));
        }
        let loses = METADATA_VERSIONS
            .iter()
            .any(|v| v.changes_records && level < v.level && v.level <= current);
        if !loses {
            return Ok(());
        }
        let why = if kind == SAFE_DOWNGRADE {
            "Refusing to perform the requested downgrade because it might delete metadata \
             information."
        } else {
            "Unsafe metadata downgrade is not supported in this version."
        };
        let text =
            format!("Unsupported metadata.version downgrade from {current} to {level}. {why}");
        Err(Refusal::new(code, text))
    }

    /// Why the level cannot be: a controller or broker that does not support it.
    fn who_does_not_support(&self, name: &str, level: i16) -> Option<String> {
        let none = VersionRange { min: 0, max: 0 };
        let local = features::supported().find(|(n, _)| *n == name).map_or(none, |(_, r)| r);
        let here = self.settings.node;
        if let Some(why) = reason_not_supported(&format!("Local controller {here}"), local, level) {
            return Some(why);
        }
        let brokers = self.image().brokers();
        for b in brokers.iter() {
            let range = b.features.get(name).copied().unwrap_or(none);
            if let Some(why) = reason_not_supported(&format!("Broker {}", b.id), range, level) {
                return Some(why);
            }
        }
        if self.metadata_version() < CONTROLLERS_REGISTER {
            return None;
        }
        let registered = brokers.controllers().map(|c| c.id);
        let controllers: BTreeSet<_> =
            self.settings.controllers.iter().copied().chain(registered).collect();
        for id in controllers.into_iter().filter(|id| *id != here) {
            let Some(c) = brokers.controller(id) else {
                return Some(format!(
                    "controller {id} has not registered, and may not support this feature"
                ));
            };
            let range = c.features.get(name).copied().unwrap_or(none);
            if let Some(why) = reason_not_supported(&format!("Controller {id}"), range, level) {
                return Some(why);
            }
        }
        None
    }

    /// Eligible replicas need one `min.insync.replicas` that all brokers agree on.
    fn make_elr_safe(&self, records: &mut Vec<Record>) {
        let key = "min.insync.replicas".to_owned();
        let configs = self.image().configs();
        let all = ConfigResource::all_brokers();
        if configs.value(&all, &key).is_none() {
            let min = self.settings.defaults.min_insync_replicas.to_string();
            records.push(Record::Config { resource: all, key: key.clone(), value: Some(min) });
        }
        for (resource, keys) in configs.iter() {
            let one_broker = resource.kind == ResourceType::Broker && !resource.name.is_empty();
            if one_broker && keys.contains_key(&key) {
                let (resource, key) = (resource.clone(), key.clone());
                records.push(Record::Config { resource, key, value: None });
            }
        }
    }
}
