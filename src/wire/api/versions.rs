//! ApiVersions: what a server speaks. Uses `base`.

use crate::base::ErrorCode;

messages! {
    /// Asks which versions the server speaks. Key 18; the first request of a connection.
    request ApiVersionsRequest(ApiVersions) => ApiVersionsResponse {
        client_software_name: String = 3..;
        client_software_version: String = 3..;
    }

    /// The versions and features of the server. Its header is version 0 in every version.
    response ApiVersionsResponse(ApiVersions) {
        error_code: ErrorCode;
        api_keys: Vec<ApiVersion>;
        throttle_time_ms: i32 = 1..;
        supported_features: Vec<SupportedFeatureKey> = 3.., tag 0;
        finalized_features_epoch: i64 = 3.., tag 1, default -1;
        finalized_features: Vec<FinalizedFeatureKey> = 3.., tag 2;
        zk_migration_ready: bool = 3.., tag 3;
    }

    /// The versions of one API.
    part ApiVersion {
        api_key: i16;
        min_version: i16;
        max_version: i16;
    }

    /// The levels of a feature that the server could run. Left out below version 4 if the lowest is
    /// 0.
    part SupportedFeatureKey {
        name: String;
        min_version: i16;
        max_version: i16;
    }

    /// The level of a feature that the cluster runs.
    part FinalizedFeatureKey {
        name: String;
        max_version_level: i16;
        min_version_level: i16;
    }
}
