//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources. Uses `base`.

use crate::base::ErrorCode;

messages! {
    /// Asks for configuration values. Key 32.
    request DescribeConfigsRequest(DescribeConfigs) => DescribeConfigsResponse {
        resources: Vec<DescribeConfigsResource>;
        include_synonyms: bool;
        include_documentation: bool = 3..;
    }

    /// A topic, broker or group whose values are asked for.
    part DescribeConfigsResource {
        /// `ConfigResource.Type`: 2 topic, 4 broker, 8 broker logger, 16 client metrics, 32 group.
        resource_type: i8;
        resource_name: String;
        /// Null for all.
        configuration_keys: Option<Vec<String>>;
    }

    /// Configuration values.
    response DescribeConfigsResponse(DescribeConfigs) {
        throttle_time_ms: i32;
        results: Vec<DescribeConfigsResult>;
    }

    /// The values of one resource.
    part DescribeConfigsResult {
        error_code: ErrorCode;
        error_message: Option<String>;
        resource_type: i8;
        resource_name: String;
        configs: Vec<DescribeConfigsResourceResult>;
    }

    /// A value, where it comes from and what it means.
    part DescribeConfigsResourceResult {
        name: String;
        value: Option<String>;
        read_only: bool;
        /// `ConfigSource`: 1 topic, 2 broker, 3 all brokers, 4 file, 5 default.
        config_source: i8, default -1;
        is_sensitive: bool;
        synonyms: Vec<DescribeConfigsSynonym>;
        config_type: i8 = 3..;
        documentation: Option<String> = 3..;
    }

    /// A place where the value could come from, in the order of precedence.
    part DescribeConfigsSynonym {
        name: String;
        value: Option<String>;
        source: i8;
    }

    /// Replaces all values of resources. Key 33; deprecated in favour of IncrementalAlterConfigs.
    request AlterConfigsRequest(AlterConfigs) => AlterConfigsResponse {
        resources: Vec<AlterConfigsResource>;
        validate_only: bool;
    }

    /// The new values of one resource.
    part AlterConfigsResource {
        resource_type: i8;
        resource_name: String;
        configs: Vec<AlterableConfig>;
    }

    /// A new value.
    part AlterableConfig {
        name: String;
        value: Option<String>;
    }

    /// What became of each resource.
    response AlterConfigsResponse(AlterConfigs) {
        throttle_time_ms: i32;
        responses: Vec<AlterConfigsResourceResponse>;
    }

    /// The answer for one resource.
    part AlterConfigsResourceResponse {
        error_code: ErrorCode;
        error_message: Option<String>;
        resource_type: i8;
        resource_name: String;
    }

    /// Changes single values of resources. Key 44.
    request IncrementalAlterConfigsRequest(IncrementalAlterConfigs)
        => IncrementalAlterConfigsResponse {
        resources: Vec<IncrementalAlterConfigsResource>;
        validate_only: bool;
    }

    /// The changes to one resource.
    part IncrementalAlterConfigsResource {
        resource_type: i8;
        resource_name: String;
        configs: Vec<IncrementalAlterableConfig>;
    }

    /// A change to one value.
    part IncrementalAlterableConfig {
        name: String;
        /// 0 set, 1 delete, 2 append, 3 subtract.
        config_operation: i8;
        value: Option<String>;
    }

    /// What became of each resource.
    response IncrementalAlterConfigsResponse(IncrementalAlterConfigs) {
        throttle_time_ms: i32;
        responses: Vec<AlterConfigsResourceResponse>;
    }

    /// Asks which resources have values of their own. Key 74.
    request ListConfigResourcesRequest(ListConfigResources) => ListConfigResourcesResponse {
        resource_types: Vec<i8> = 1..;
    }

    /// The resources.
    response ListConfigResourcesResponse(ListConfigResources) {
        throttle_time_ms: i32;
        error_code: ErrorCode;
        config_resources: Vec<ConfigResource>;
    }

    /// A resource.
    part ConfigResource {
        resource_name: String;
        resource_type: i8 = 1.., default 16;
    }
}
