//! ConsumerGroupHeartbeat and ConsumerGroupDescribe: they exist once the feature `group.version` is
//! finalized; the rest is the coordinators'.

use crate::{
    base::ErrorCode,
    metadata::features::GROUP_VERSION,
    server::{
        api::{allowed, groups::client},
        context::{Broker, Caller},
    },
    wire::api::consumer_groups::{
        ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupDescribed,
        ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse,
    },
};

/// Whether the cluster has consumer groups, and this broker serves them
/// (`KafkaApis.isConsumerGroupProtocolEnabled`).
fn enabled(broker: &Broker) -> bool {
    let served = &broker.settings.group.rebalance_protocols;
    broker.image().features().level(GROUP_VERSION) >= 1
        && served.iter().any(|p| p.eq_ignore_ascii_case("consumer"))
}

/// ConsumerGroupHeartbeat.
pub(crate) async fn consumer_group_heartbeat(
    broker: &Broker,
    caller: &Caller,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    if !enabled(broker) {
        let error_code = ErrorCode::UnsupportedVersion;
        return ConsumerGroupHeartbeatResponse { error_code, ..Default::default() };
    }
    broker.groups.consumer_group_heartbeat(request, caller.version, &client(caller)).await
}

/// ConsumerGroupDescribe.
pub(crate) fn consumer_group_describe(
    broker: &Broker,
    _caller: &Caller,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    if !enabled(broker) {
        let refused = request.group_ids.into_iter().map(|group_id| ConsumerGroupDescribed {
            error_code: ErrorCode::UnsupportedVersion,
            group_id,
            ..Default::default()
        });
        return ConsumerGroupDescribeResponse { groups: refused.collect(), ..Default::default() };
    }
    let mut response = broker.groups.consumer_group_describe(&request);
    if request.include_authorized_operations {
        for group in response.groups.iter_mut().filter(|g| g.error_code == ErrorCode::None) {
            group.authorized_operations = allowed::GROUP;
        }
    }
    response
}
