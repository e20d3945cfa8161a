//! ApiVersions: what this listener speaks, from the table of APIs, and the cluster's features.

use crate::{
    base::ErrorCode,
    metadata::{Image, features},
    server::{
        api::ROWS,
        context::{Admin, Caller},
    },
    wire::{
        api::versions::{
            ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey,
            SupportedFeatureKey,
        },
        frame::ApiKey,
    },
};

/// Letters and digits, with `-` and `.` within (KIP-511).
fn valid_software(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    edge(text.chars().next()) && edge(text.chars().next_back()) && text.chars().all(inner)
}

/// ApiVersions.
pub(crate) fn api_versions(
    node: &dyn Admin,
    caller: &Caller,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    if caller.version >= 3
        && !(valid_software(&request.client_software_name)
            && valid_software(&request.client_software_version))
    {
        return ApiVersionsResponse { error_code: ErrorCode::InvalidRequest, ..Default::default() };
    }
    let image = node.image();
    let finalized = image.features().iter().filter(|(_, level)| *level > 0);
    ApiVersionsResponse {
        error_code: ErrorCode::None,
        api_keys: ROWS
            .iter()
            .filter(|r| r.is_served_by(node.role()) && is_on(r.key, &image))
            .map(advertised)
            .collect(),
        throttle_time_ms: 0,
        // Clients below version 4 cannot read a lowest level of 0.
        supported_features: features::supported()
            .filter(|(_, range)| caller.version >= 4 || range.min > 0)
            .map(|(name, range)| SupportedFeatureKey {
                name: name.to_owned(),
                min_version: range.min,
                max_version: range.max,
            })
            .collect(),
        finalized_features_epoch: image.position.offset,
        finalized_features: finalized
            .map(|(name, level)| FinalizedFeatureKey {
                name: name.to_string(),
                max_version_level: level,
                min_version_level: level,
            })
            .collect(),
        zk_migration_ready: false,
    }
}

/// Consumer groups and share groups exist once their features are finalized.
fn is_on(key: ApiKey, image: &Image) -> bool {
    let feature = match key {
        ApiKey::ConsumerGroupHeartbeat | ApiKey::ConsumerGroupDescribe => features::GROUP_VERSION,
        ApiKey::ShareGroupHeartbeat
        | ApiKey::ShareGroupDescribe
        | ApiKey::ShareFetch
        | ApiKey::ShareAcknowledge
        | ApiKey::DescribeShareGroupOffsets
        | ApiKey::AlterShareGroupOffsets
        | ApiKey::DeleteShareGroupOffsets => features::SHARE_VERSION,
        _ => return true,
    };
    image.features().level(feature) >= 1
}

fn advertised(row: &super::Row) -> ApiVersion {
    // librdkafka before the fix of its issue 4956 compresses only if Produce v0 is in the range
    // (KAFKA-18659); versions 0 to 2 are refused when they come.
    let min = if row.key == ApiKey::Produce { 0 } else { row.key.min_version() };
    ApiVersion { api_key: row.key.code(), min_version: min, max_version: row.key.max_version() }
}

/// The answer to a version of ApiVersions that is not known: in version 0, with the range of
/// ApiVersions itself, so that the client can ask again.
pub(crate) fn unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion,
        api_keys: vec![ApiVersion {
            api_key: ApiKey::ApiVersions.code(),
            min_version: ApiKey::ApiVersions.min_version(),
            max_version: ApiKey::ApiVersions.max_version(),
        }],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::valid_software;

    #[test]
    fn software_names() {
        for good in ["a", "apache-kafka-java", "4.3.1", "librdkafka"] {
            assert!(valid_software(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "ä", "."] {
            assert!(!valid_software(bad), "{bad}");
        }
    }
}
