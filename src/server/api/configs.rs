//! DescribeConfigs from the published image and the table of keys; AlterConfigs and
//! IncrementalAlterConfigs, forwarded to the active controller; ListConfigResources.

use std::collections::BTreeSet;

use crate::{
    base::ErrorCode,
    config::{
        describe::{self, ConfigEntry},
        group,
    },
    metadata::{ConfigResource, Image, ResourceType},
    pb::controller::{self as pb, submit_reply::Reply, submit_request::Command},
    server::{
        api::cordoned,
        context::{Admin, Broker, Caller, Role, owned},
        forward::{Failure, code},
    },
    wire::api::configs::{
        self as wire, AlterConfigsRequest, AlterConfigsResourceResponse, AlterConfigsResponse,
        DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
        DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
        IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        ListConfigResourcesRequest, ListConfigResourcesResponse,
    },
};

/// How long a change of configuration may take; the requests carry no time of their own.
const ALTER_TIMEOUT_MS: i32 = 30_000;
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const GROUP: i8 = 32;

/// DescribeConfigs.
pub(crate) fn describe_configs(
    node: &dyn Admin,
    _caller: &Caller,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let image = node.image();
    let (synonyms, docs) = (request.include_synonyms, request.include_documentation);
    let results = request.resources.into_iter().map(|resource| {
        let done = describe_one(node, &image, &resource);
        let (error_code, error_message, entries) = match done {
            Ok(entries) => (ErrorCode::None, None, entries),
            Err(failure) => (failure.code, failure.message, Vec::new()),
        };
        let keys: Option<BTreeSet<String>> =
            resource.configuration_keys.map(|k| k.into_iter().collect());
        let shown = entries
            .into_iter()
            .filter(|e| keys.as_ref().is_none_or(|k| k.is_empty() || k.contains(&e.name)));
        DescribeConfigsResult {
            error_code,
            error_message,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name,
            configs: shown.map(|e| shown_entry(e, synonyms, docs)).collect(),
        }
    });
    DescribeConfigsResponse { throttle_time_ms: 0, results: results.collect() }
}

fn describe_one(
    node: &dyn Admin,
    image: &Image,
    resource: &DescribeConfigsResource,
) -> Result<Vec<ConfigEntry>, Failure> {
    let layers = node.layers(image);
    let name = resource.resource_name.as_str();
    match resource.resource_type {
        TOPIC => {
            if !super::metadata::valid_topic_name(name) {
                return Err(Failure { code: ErrorCode::InvalidTopicException, message: None });
            }
            if image.topics().id_of(name).is_none() {
                return Err(Failure { code: ErrorCode::UnknownTopicOrPartition, message: None });
            }
            let overrides = owned(&image.configs().topic(name));
            Ok(describe::describe_topic(&overrides, &layers))
        }
        BROKER if name.is_empty() => Ok(describe::describe_cluster_default(&layers)),
        BROKER if name.parse() == Ok(node.node_id().0) => Ok(describe::describe_broker(&layers)),
        BROKER => Err(Failure::new(
            ErrorCode::InvalidRequest,
            format!(
                "Unexpected broker id, expected {} or empty string, but received {name}",
                node.node_id()
            ),
        )),
        GROUP if name.is_empty() => {
            Err(Failure::new(ErrorCode::InvalidRequest, "Group name must not be empty".to_owned()))
        }
        GROUP => {
            let resource = ConfigResource { kind: ResourceType::Group, name: name.into() };
            let own = image.configs().get(&resource).map(|p| owned(p)).unwrap_or_default();
            Ok(group::describe_group(&own, &layers))
        }
        other => Err(Failure::new(
            ErrorCode::InvalidRequest,
            format!("Unsupported resource type: {other}"),
        )),
    }
}

fn shown_entry(e: ConfigEntry, synonyms: bool, docs: bool) -> DescribeConfigsResourceResult {
    let listed = e.synonyms.into_iter().map(|s| DescribeConfigsSynonym {
        name: s.name,
        value: s.value,
        source: s.source.code(),
    });
    DescribeConfigsResourceResult {
        name: e.name,
        value: e.value,
        read_only: e.read_only,
        config_source: e.source.code(),
        is_sensitive: e.sensitive,
        synonyms: if synonyms { listed.collect() } else { Vec::new() },
        config_type: e.kind,
        documentation: e.documentation.filter(|_| docs).map(str::to_owned),
    }
}

fn resource(kind: i8, name: String) -> Option<pb::ConfigResource> {
    Some(pb::ConfigResource { resource_type: i32::from(kind), resource_name: name })
}

fn altered(
    done: Result<Reply, Failure>,
    asked: Vec<(i8, String)>,
) -> Vec<AlterConfigsResourceResponse> {
    match done {
        Ok(Reply::AlterConfigs(reply)) => reply
            .resources
            .into_iter()
            .map(|r| {
                let resource = r.resource.unwrap_or_default();
                AlterConfigsResourceResponse {
                    error_code: code(r.error),
                    error_message: r.error_message,
                    resource_type: i8::try_from(resource.resource_type).unwrap_or(0),
                    resource_name: resource.resource_name,
                }
            })
            .collect(),
        other => {
            let failure = Failure::of(other);
            asked
                .into_iter()
                .map(|(resource_type, resource_name)| AlterConfigsResourceResponse {
                    error_code: failure.code,
                    error_message: failure.message.clone(),
                    resource_type,
                    resource_name,
                })
                .collect()
        }
    }
}

/// Why this node does not forward a resource's changes; `None` if it does.
type Refused = Vec<Option<Failure>>;

/// Has the changes of those resources carried out that this node did not refuse itself; `asked`
/// are all of them, in the order of the answer.
async fn submit(
    node: &dyn Admin,
    command: Command,
    asked: Vec<(i8, String)>,
    refused: Refused,
) -> Vec<AlterConfigsResourceResponse> {
    if refused.iter().all(Option::is_none) {
        return altered(node.submit(command, ALTER_TIMEOUT_MS).await, asked);
    }
    let kept = asked.iter().zip(&refused).filter(|(_, no)| no.is_none());
    let kept: Vec<_> = kept.map(|(resource, _)| resource.clone()).collect();
    let mut answers = if kept.is_empty() {
        Vec::new().into_iter()
    } else {
        altered(node.submit(command, ALTER_TIMEOUT_MS).await, kept).into_iter()
    };
    let one = |((kind, name), no): ((i8, String), Option<Failure>)| match no {
        Some(no) => altered(Err(no), vec![(kind, name)]).pop(),
        None => answers.next(),
    };
    asked.into_iter().zip(refused).filter_map(one).collect()
}

/// AlterConfigs.
pub(crate) async fn alter_configs(
    node: &dyn Admin,
    _caller: &Caller,
    request: AlterConfigsRequest,
) -> AlterConfigsResponse {
    let asked: Vec<_> =
        request.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())).collect();
    let check = |r: &wire::AlterConfigsResource| {
        let changes = r.configs.iter().map(|c| (c.name.as_str(), 0, c.value.as_deref()));
        cordoned::check(node, (r.resource_type, &r.resource_name), changes).err()
    };
    let refused: Refused = request.resources.iter().map(check).collect();
    let kept = request.resources.into_iter().zip(&refused).filter(|(_, no)| no.is_none());
    let resources = kept.map(|(r, _)| pb::AlterConfigsResource {
        resource: resource(r.resource_type, r.resource_name),
        configs: r
            .configs
            .into_iter()
            .map(|c| pb::ConfigEntry { name: c.name, value: c.value })
            .collect(),
    });
    let command = pb::AlterConfigs {
        resources: resources.collect(),
        validate_only: request.validate_only,
        from_broker: node.role() == Role::Broker,
    };
    let responses = submit(node, Command::AlterConfigs(command), asked, refused).await;
    AlterConfigsResponse { throttle_time_ms: 0, responses }
}

/// IncrementalAlterConfigs.
pub(crate) async fn incremental_alter_configs(
    node: &dyn Admin,
    _caller: &Caller,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let asked: Vec<_> =
        request.resources.iter().map(|r| (r.resource_type, r.resource_name.clone())).collect();
    let check = |r: &wire::IncrementalAlterConfigsResource| {
        let changes = r.configs.iter();
        let changes = changes.map(|c| (c.name.as_str(), c.config_operation, c.value.as_deref()));
        cordoned::check(node, (r.resource_type, &r.resource_name), changes).err()
    };
    let refused: Refused = request.resources.iter().map(check).collect();
    let kept = request.resources.into_iter().zip(&refused).filter(|(_, no)| no.is_none());
    let resources = kept.map(|(r, _)| pb::IncrementalAlterConfigsResource {
        resource: resource(r.resource_type, r.resource_name),
        ops: r
            .configs
            .into_iter()
            .map(|c| pb::AlterOp {
                name: c.name,
                operation: i32::from(c.config_operation),
                value: c.value,
            })
            .collect(),
    });
    let command = pb::IncrementalAlterConfigs {
        resources: resources.collect(),
        validate_only: request.validate_only,
        from_broker: node.role() == Role::Broker,
    };
    let responses = submit(node, Command::IncrementalAlterConfigs(command), asked, refused).await;
    IncrementalAlterConfigsResponse { throttle_time_ms: 0, responses }
}

/// ListConfigResources: version 0 asks for client metrics subscriptions alone.
pub(crate) fn list_config_resources(
    broker: &Broker,
    caller: &Caller,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    const CLIENT_METRICS: i8 = 16;
    let image = broker.image();
    let known = [TOPIC, BROKER, CLIENT_METRICS, GROUP];
    let types: BTreeSet<i8> = match (caller.version, request.resource_types.is_empty()) {
        (0, _) => BTreeSet::from([CLIENT_METRICS]),
        (_, true) => BTreeSet::from(known),
        (_, false) => request.resource_types.into_iter().collect(),
    };
    if types.iter().any(|t| !known.contains(t)) {
        return ListConfigResourcesResponse {
            error_code: ErrorCode::UnsupportedVersion,
            ..Default::default()
        };
    }
    let mut found: BTreeSet<(i8, String)> = BTreeSet::new();
    if types.contains(&TOPIC) {
        found.extend(image.topics().iter().map(|t| (TOPIC, t.name.to_string())));
    }
    if types.contains(&BROKER) {
        found.extend(image.brokers().iter().map(|b| (BROKER, b.id.to_string())));
    }
    let stored = image.configs().iter().map(|(r, _)| r);
    found.extend(stored.filter_map(|r: &ConfigResource| {
        let kind = r.kind.code();
        let listed = !matches!(r.kind, ResourceType::Topic | ResourceType::Broker);
        (listed && types.contains(&kind)).then(|| (kind, r.name.to_string()))
    }));
    ListConfigResourcesResponse {
        config_resources: found
            .into_iter()
            .map(|(resource_type, resource_name)| wire::ConfigResource {
                resource_name,
                resource_type,
            })
            .collect(),
        ..Default::default()
    }
}
