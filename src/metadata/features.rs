//! Features: which there are, which levels this build supports, and which are finalized.
//! Levels and dependencies are those of Kafka 4.3.1 (`MetadataVersion`, `Feature`).

use std::sync::Arc;

use imbl::OrdMap;

use super::{brokers::VersionRange, record::Record};

/// The feature that says which records there may be.
pub const METADATA_VERSION: &str = "metadata.version";
/// The feature that says how the voters of the quorum are known.
pub const KRAFT_VERSION: &str = "kraft.version";
/// The feature of eligible leader replicas (KIP-966).
pub const ELR_VERSION: &str = "eligible.leader.replicas.version";
/// The feature of transactions (KIP-890).
pub const TRANSACTION_VERSION: &str = "transaction.version";
/// The feature of the new group protocol (KIP-848).
pub const GROUP_VERSION: &str = "group.version";
/// The feature of share groups (KIP-932).
pub const SHARE_VERSION: &str = "share.version";

/// The oldest metadata version that this build can work with: 3.3-IV3.
pub const METADATA_VERSION_MIN: i16 = 7;
/// The newest metadata version of this build, and the default: 4.3-IV0.
pub const METADATA_VERSION_MAX: i16 = 30;
/// From this metadata version on (3.7-IV2), registrations name log directories.
pub const METADATA_VERSION_DIRECTORIES: i16 = 17;
/// From this metadata version on (4.3-IV0), brokers say which log directories are cordoned.
pub const METADATA_VERSION_CORDONED: i16 = 30;
/// From this metadata version on (3.6-IV0), an ISR shrink does not raise the leader epoch.
pub const METADATA_VERSION_QUIET_SHRINK: i16 = 12;

/// A metadata version: its level, name, and whether it brought a change of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataVersion {
    /// Its level.
    pub level: i16,
    /// Its name, such as `4.3-IV0`.
    pub name: &'static str,
    /// Whether a downgrade past it loses metadata.
    pub changes_records: bool,
}

const fn mv(level: i16, name: &'static str, changes_records: bool) -> MetadataVersion {
    MetadataVersion { level, name, changes_records }
}

/// All metadata versions that this build knows, in order.
pub const METADATA_VERSIONS: &[MetadataVersion] = &[
    mv(7, "3.3-IV3", true),
    mv(8, "3.4-IV0", true),
    mv(9, "3.5-IV0", false),
    mv(10, "3.5-IV1", false),
    mv(11, "3.5-IV2", true),
    mv(12, "3.6-IV0", false),
    mv(13, "3.6-IV1", true),
    mv(14, "3.6-IV2", true),
    mv(15, "3.7-IV0", true),
    mv(16, "3.7-IV1", false),
    mv(17, "3.7-IV2", true),
    mv(18, "3.7-IV3", false),
    mv(19, "3.7-IV4", false),
    mv(20, "3.8-IV0", false),
    mv(21, "3.9-IV0", false),
    mv(22, "4.0-IV0", false),
    mv(23, "4.0-IV1", true),
    mv(24, "4.0-IV2", false),
    mv(25, "4.0-IV3", false),
    mv(26, "4.1-IV0", false),
    mv(27, "4.1-IV1", false),
    mv(28, "4.2-IV0", false),
    mv(29, "4.2-IV1", false),
    mv(30, "4.3-IV0", true),
];

/// The metadata version of that level.
#[must_use]
pub fn metadata_version(level: i16) -> Option<&'static MetadataVersion> {
    METADATA_VERSIONS.iter().find(|v| v.level == level)
}

/// The metadata version that a release text such as `4.3` or `4.0-IV1` names: a release without
/// `-IV` is its newest version.
#[must_use]
pub fn metadata_version_of_release(text: &str) -> Option<&'static MetadataVersion> {
    let release = text.strip_suffix(|c: char| c == '.').unwrap_or(text);
    if let Some(exact) = METADATA_VERSIONS.iter().find(|v| v.name == release) {
        return Some(exact);
    }
    let short: Vec<&str> = release.split('.').take(2).collect();
    let prefix = format!("{}-IV", short.join("."));
    METADATA_VERSIONS.iter().rev().find(|v| v.name.starts_with(&prefix))
}

/// One level of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// The level.
    pub level: i16,
    /// A cluster formatted at this metadata version or later starts with it.
    pub bootstrap: i16,
    /// What it needs: feature and level.
    pub needs: &'static [(&'static str, i16)],
}

/// A feature other than `metadata.version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The levels of Kafka 4.3.1 above 0, in order.
    pub levels: &'static [Level],
    /// The highest level of Kafka 4.3.1, which formatting knows.
    pub supported_max: i16,
    /// The highest level that this build lives up to, and so advertises; 0 hides the feature. A
    /// level whose APIs are not served must not be finalized: clients would use them.
    pub served_max: i16,
}

/// All features other than `metadata.version`, in Kafka's order.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: KRAFT_VERSION,
        levels: &[Level { level: 1, bootstrap: 21, needs: &[] }],
        supported_max: 1,
        served_max: 1,
    },
    Feature {
        name: TRANSACTION_VERSION,
        levels: &[
            Level { level: 1, bootstrap: 24, needs: &[] },
            Level { level: 2, bootstrap: 24, needs: &[] },
        ],
        supported_max: 2,
        served_max: 2,
    },
    Feature {
        name: GROUP_VERSION,
        levels: &[Level { level: 1, bootstrap: 22, needs: &[] }],
        supported_max: 1,
        served_max: 1,
    },
    Feature {
        name: ELR_VERSION,
        levels: &[Level { level: 1, bootstrap: 26, needs: &[(METADATA_VERSION, 23)] }],
        supported_max: 1,
        served_max: 1,
    },
    Feature {
        name: SHARE_VERSION,
        levels: &[Level { level: 1, bootstrap: 28, needs: &[] }],
        supported_max: 1,
        served_max: 1,
    },
    Feature {
        name: "streams.version",
        levels: &[Level { level: 1, bootstrap: 29, needs: &[] }],
        supported_max: 1,
        served_max: 0,
    },
];

/// The feature of that name.
#[must_use]
pub fn feature(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|f| f.name == name)
}

impl Feature {
    /// The level that a cluster formatted at `metadata_version` starts with.
    #[must_use]
    pub fn bootstrap_level(&self, metadata_version: i16) -> i16 {
        let fits = self.levels.iter().rev().find(|l| l.bootstrap <= metadata_version);
        fits.map_or(0, |l| l.level)
    }

    /// What `level` needs, as features and levels; empty for level 0 and unknown ones.
    #[must_use]
    pub fn needs(&self, level: i16) -> &'static [(&'static str, i16)] {
        self.levels.iter().find(|l| l.level == level).map_or(&[], |l| l.needs)
    }
}

/// What this build supports, `metadata.version` first.
pub fn supported() -> impl Iterator<Item = (&'static str, VersionRange)> {
    let mv = VersionRange { min: METADATA_VERSION_MIN, max: METADATA_VERSION_MAX };
    let served = FEATURES.iter().filter(|f| f.served_max > 0);
    let rest = served.map(|f| (f.name, VersionRange { min: 0, max: f.served_max }));
    std::iter::once((METADATA_VERSION, mv)).chain(rest)
}

/// The finalized levels. A feature at level 0 is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Features {
    levels: OrdMap<Arc<str>, i16>,
}

impl Features {
    /// The finalized level, 0 if there is none.
    #[must_use]
    pub fn level(&self, name: &str) -> i16 {
        self.levels.get(name).copied().unwrap_or(0)
    }

    /// The finalized metadata version; `None` before the first activation.
    #[must_use]
    pub fn metadata_version(&self) -> Option<i16> {
        self.levels.get(METADATA_VERSION).copied()
    }

    /// Whether eligible leader replicas are kept (KIP-966).
    #[must_use]
    pub fn elr_enabled(&self) -> bool {
        self.level(ELR_VERSION) > 0
    }

    /// All finalized levels above 0, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i16)> {
        self.levels.iter().map(|(name, level)| (name, *level))
    }

    pub(super) fn set(&mut self, name: &Arc<str>, level: i16) {
        if level == 0 {
            self.levels.remove(name);
        } else {
            self.levels.insert(Arc::clone(name), level);
        }
    }

    /// `metadata.version` first, so that what follows is replayed under it.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> + '_ {
        let record = |(name, level): (&Arc<str>, i16)| Record::FeatureLevel {
            name: Arc::clone(name),
            level,
        };
        let first = self.iter().filter(|(n, _)| &***n == METADATA_VERSION).map(record);
        first.chain(self.iter().filter(|(n, _)| &***n != METADATA_VERSION).map(record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_name_versions() {
        let level = |t| metadata_version_of_release(t).map(|v| v.level);
        assert_eq!(level("4.3"), Some(30));
        assert_eq!(level("4.3-IV0"), Some(30));
        assert_eq!(level("3.7"), Some(19));
        assert_eq!(level("3.7.2"), Some(19));
        assert_eq!(level("3.7-IV1"), Some(16));
        assert_eq!(level("2.8"), None);
    }

    #[test]
    fn bootstrap_levels_are_kafkas() {
        let at = |mv| -> Vec<i16> { FEATURES.iter().map(|f| f.bootstrap_level(mv)).collect() };
        assert_eq!(at(30), [1, 2, 1, 1, 1, 1]);
        assert_eq!(at(22), [1, 0, 1, 0, 0, 0]);
        assert_eq!(at(7), [0; 6]);
    }
}
