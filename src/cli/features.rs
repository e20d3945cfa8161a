//! Which features a cluster is formatted with, and what the tool tells of releases and features
//! (`Formatter.calculateEffectiveFeatureLevels`, `StorageTool`). Uses `metadata::features`.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::metadata::features::{
    self, FEATURES, KRAFT_VERSION, METADATA_VERSION, METADATA_VERSION_MAX, METADATA_VERSION_MIN,
    METADATA_VERSIONS, MetadataVersion,
};

/// What was asked of `format`.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    /// `--release-version`.
    pub(super) release: Option<&'a str>,
    /// `--feature name=level`, in order.
    pub(super) features: &'a [String],
    /// Whether `controller.quorum.voters` is empty.
    pub(super) dynamic_quorum: bool,
}

/// The levels of all features, `metadata.version` and `kraft.version` among them.
pub(super) type Levels = BTreeMap<String, i16>;

/// The metadata version of a release such as `4.3`, `4.3.1` or `4.0-IV1`.
pub(super) fn release(text: &str) -> Result<&'static MetadataVersion, String> {
    features::metadata_version_of_release(text).ok_or_else(|| {
        let names: Vec<_> = METADATA_VERSIONS.iter().map(|v| v.name).collect();
        format!(
            "Unknown metadata.version '{text}'. Supported metadata.version are: {}",
            names.join(", ")
        )
    })
}

fn of_level(level: i16) -> Result<&'static MetadataVersion, String> {
    features::metadata_version(level).ok_or_else(|| {
        format!(
            "No MetadataVersion with feature level {level}. Valid feature levels are from \
             {METADATA_VERSION_MIN} to {METADATA_VERSION_MAX}."
        )
    })
}

/// The levels that a cluster is formatted with, and its metadata version.
///
/// # Errors
/// One line, in Kafka's words.
pub(super) fn levels(wanted: &Wanted<'_>) -> Result<(Levels, &'static MetadataVersion), String> {
    let mut levels = Levels::new();
    let named = wanted.release.map(release).transpose()?;
    for text in wanted.features {
        let (name, level) = name_and_level(text)?;
        levels.insert(name, level);
    }
    let version = match (levels.get(METADATA_VERSION), named) {
        (Some(_), Some(_)) => {
            return Err(format!(
                "Use --release-version instead of --feature {METADATA_VERSION}=X to avoid \
                 ambiguity."
            ));
        }
        (Some(level), None) => of_level(*level)?,
        (None, Some(version)) => version,
        (None, None) => of_level(METADATA_VERSION_MAX)?,
    };
    for name in levels.keys().filter(|n| *n != METADATA_VERSION) {
        if features::feature(name).is_none() {
            let mut known: Vec<_> = FEATURES.iter().map(|f| f.name).collect();
            known.sort_unstable();
            let known = known.join(", ");
            return Err(format!("Unsupported feature: {name}. Supported features are: {known}"));
        }
    }
    levels.insert(METADATA_VERSION.to_owned(), version.level);
    let kraft = kraft_level(levels.get(KRAFT_VERSION).copied(), wanted.dynamic_quorum)?;
    levels.insert(KRAFT_VERSION.to_owned(), kraft);
    for feature in FEATURES {
        let default = feature.bootstrap_level(version.level).min(feature.supported_max);
        levels.entry(feature.name.to_owned()).or_insert(default);
    }
    check_dependencies(&levels)?;
    Ok((levels, version))
}

fn kraft_level(wanted: Option<i16>, dynamic: bool) -> Result<i16, String> {
    match wanted {
        Some(0) if dynamic => Err(
            "Cannot set kraft.version to 0 if controller.quorum.voters is empty and one of the \
             flags --standalone, --initial-controllers, or --no-initial-controllers is used. For \
             dynamic controllers support, try removing the --feature flag for kraft.version."
                .to_owned(),
        ),
        Some(level) if level != 0 && !dynamic => Err(format!(
            "Cannot set kraft.version to {level} unless controller.quorum.voters is empty and \
             one of the flags --standalone, --initial-controllers, or --no-initial-controllers is \
             used. For dynamic controllers support, try using one of --standalone, \
             --initial-controllers, or --no-initial-controllers and removing \
             controller.quorum.voters."
        )),
        Some(level) => Ok(level),
        None => Ok(i16::from(dynamic)),
    }
}

fn check_dependencies(levels: &Levels) -> Result<(), String> {
    for (name, level) in levels {
        let Some(feature) = features::feature(name) else { continue };
        if *level < 0 || *level > feature.supported_max {
            return Err(format!("No feature:{name} with feature level {level}"));
        }
        for (needed, least) in feature.needs(*level) {
            if levels.get(*needed).is_none_or(|l| l < least) {
                return Err(format!(
                    "{name} could not be set to {level} because it depends on {needed} level \
                     {least}"
                ));
            }
        }
    }
    Ok(())
}

fn name_and_level(text: &str) -> Result<(String, i16), String> {
    let (name, level) = text.split_once('=').ok_or_else(|| {
        format!("Can't parse feature=level string {text}: equals sign not found.")
    })?;
    let level = level.trim();
    let number = level.parse().map_err(|_| {
        format!("Can't parse feature=level string {text}: unable to parse {level} as a short.")
    })?;
    Ok((name.trim().to_owned(), number))
}

/// The levels that become records of the cluster's metadata: `metadata.version` first, then by
/// name, without level 0 and without `kraft.version` (`BootstrapMetadata.fromVersions`).
pub(super) fn records(levels: &Levels) -> Vec<(String, i16)> {
    let (first, mut rest): (Vec<_>, Vec<_>) = levels
        .iter()
        .filter(|(name, level)| **level > 0 && *name != KRAFT_VERSION)
        .map(|(name, level)| (name.clone(), *level))
        .partition(|(name, _)| name == METADATA_VERSION);
    let mut out = first;
    out.append(&mut rest);
    out
}

/// What `version-mapping` prints; without a release for the newest version.
///
/// # Errors
/// One line, in Kafka's words.
pub(super) fn version_mapping(text: Option<&str>) -> Result<String, String> {
    let newest = of_level(METADATA_VERSION_MAX)?;
    let version = text.map_or(Ok(newest), release)?;
    let shown = text.unwrap_or(newest.name);
    let mut out = format!("{METADATA_VERSION}={} ({shown})\n", version.level);
    for feature in FEATURES {
        let level = feature.bootstrap_level(version.level);
        let _ = writeln!(out, "{}={level}", feature.name);
    }
    Ok(out)
}

/// What `feature-dependencies` prints; what it found before a mistake comes with the mistake.
pub(super) fn dependencies(wanted: &[String]) -> (String, Result<(), String>) {
    let mut out = String::new();
    for text in wanted {
        if let Err(e) = dependencies_of(text, &mut out) {
            return (out, Err(e));
        }
    }
    (out, Ok(()))
}

fn dependencies_of(text: &str, out: &mut String) -> Result<(), String> {
    let (name, level) = text.split_once('=').ok_or_else(|| {
        format!(
            "Invalid feature format: {text}. Expected format: 'feature=version' (e.g. \
             'group.version=1')"
        )
    })?;
    let (name, level) = (name.trim(), level.trim());
    let number: i16 =
        level.parse().map_err(|_| format!("Invalid version format: {level} for feature {name}"))?;
    if name == METADATA_VERSION {
        let version = features::metadata_version(number)
            .ok_or_else(|| format!("Unknown {METADATA_VERSION} {number}"))?;
        let _ = writeln!(out, "{name}={number} ({}) has no dependencies.", version.name);
        return Ok(());
    }
    let feature = features::feature(name).ok_or_else(|| format!("Unknown feature: {name}"))?;
    if number != 0 && !feature.levels.iter().any(|l| l.level == number) {
        return Err(format!("Feature level {number} is not supported for feature {name}"));
    }
    let needs = feature.needs(number);
    if needs.is_empty() {
        let _ = writeln!(out, "{name}={number} has no dependencies.");
        return Ok(());
    }
    let _ = writeln!(out, "{name}={number} requires:");
    for (needed, level) in needs {
        let version = (*needed == METADATA_VERSION).then(|| features::metadata_version(*level));
        let version = version.flatten().map(|v| format!(" ({})", v.name)).unwrap_or_default();
        let _ = writeln!(out, "    {needed}={level}{version}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format_with(
        release: Option<&str>,
        features: &[&str],
        dynamic: bool,
    ) -> Result<String, String> {
        let features: Vec<_> = features.iter().map(|f| (*f).to_owned()).collect();
        let wanted = Wanted { release, features: &features, dynamic_quorum: dynamic };
        let (levels, version) = levels(&wanted)?;
        let shown: Vec<_> = records(&levels).iter().map(|(n, l)| format!("{n}={l}")).collect();
        Ok(format!("{} {} {:?}", version.name, shown.join(","), levels.get(KRAFT_VERSION)))
    }

    #[test]
    fn the_default_is_kafkas() {
        assert_eq!(
            format_with(None, &[], false).unwrap(),
            "4.3-IV0 metadata.version=30,eligible.leader.replicas.version=1,group.version=1,\
             share.version=1,streams.version=1,transaction.version=2 Some(0)"
        );
        assert_eq!(
            format_with(Some("3.9"), &[], true).unwrap(),
            "3.9-IV0 metadata.version=21 Some(1)"
        );
        assert_eq!(
            format_with(Some("4.0"), &["group.version=0"], false).unwrap(),
            "4.0-IV3 metadata.version=25,transaction.version=2 Some(0)"
        );
        assert!(format_with(None, &["metadata.version=22"], false).unwrap().starts_with("4.0-IV0"));
    }

    #[test]
    fn contradictions_are_refused() {
        for (release, feature, dynamic, text) in [
            (Some("9.9"), "group.version=1", false, "Unknown metadata.version '9.9'. Supported"),
            (Some("4.0"), "metadata.version=20", false, "Use --release-version instead of"),
            (None, "metadata.version=99", false, "No MetadataVersion with feature level 99."),
            (
                None,
                "no.such=1",
                false,
                "Unsupported feature: no.such. Supported features are: elig",
            ),
            (None, "group.version=7", false, "No feature:group.version with feature level 7"),
            (None, "group.version", false, "equals sign not found."),
            (None, "group.version=x", false, "unable to parse x as a short."),
            (None, "kraft.version=1", false, "Cannot set kraft.version to 1 unless"),
            (None, "kraft.version=0", true, "Cannot set kraft.version to 0 if"),
            (
                Some("3.9"),
                "eligible.leader.replicas.version=1",
                false,
                "because it depends on metadata.version level 23",
            ),
        ] {
            let got = format_with(release, &[feature], dynamic).unwrap_err();
            assert!(got.contains(text), "{feature}: {got}");
        }
    }
}
