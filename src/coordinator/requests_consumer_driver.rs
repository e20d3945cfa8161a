//! The consumer group APIs (KIP-848), each from the wire's request to the wire's response. May wait
//! for the high watermark.

use super::{
    calls::{Call, Client, Reply},
    calls_consumer::ConsumerHeartbeatReply,
    driver::Coordinators,
    group_heartbeat::Refused,
    translate_consumer::{described, heartbeat_call, heartbeat_response, not_described},
};
use crate::{
    base::ErrorCode,
    wire::api::consumer_groups::{
        ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
        ConsumerGroupHeartbeatResponse,
    },
};

impl Coordinators {
    /// ConsumerGroupHeartbeat.
    pub async fn consumer_group_heartbeat(
        &self,
        request: ConsumerGroupHeartbeatRequest,
        version: i16,
        client: &Client,
    ) -> ConsumerGroupHeartbeatResponse {
        let call = heartbeat_call(request, version, client, self.unique(), self.settings());
        let reply = match call {
            Ok(call) => {
                let group = call.group.clone();
                match self.ask(&group, Call::ConsumerHeartbeat(Box::new(call))).await {
                    Ok(Reply::ConsumerHeartbeat(reply)) => reply,
                    Ok(other) => unreachable!("a call was answered with {other:?}"),
                    Err(error) => ConsumerHeartbeatReply::error(error, None),
                }
            }
            Err(Refused { error, message }) => ConsumerHeartbeatReply::error(error, message),
        };
        heartbeat_response(reply)
    }

    /// ConsumerGroupDescribe, for all the groups it names. Authorized operations are the handler's.
    #[must_use]
    pub fn consumer_group_describe(
        &self,
        request: &ConsumerGroupDescribeRequest,
    ) -> ConsumerGroupDescribeResponse {
        let image = self.image();
        let describe = |group: &String| {
            if group.is_empty() {
                return not_described(group, ErrorCode::InvalidGroupId, None);
            }
            let partition = self.partition_of(group);
            match self.read(partition, |shard| shard.describe_consumer_group(group)) {
                Ok(Some(found)) => described(found, &image),
                Ok(None) => {
                    let text = format!("Group {group} is not a consumer group.");
                    not_described(group, ErrorCode::GroupIdNotFound, Some(text))
                }
                Err(error) => not_described(group, error, None),
            }
        };
        let groups = request.group_ids.iter().map(describe).collect();
        ConsumerGroupDescribeResponse { groups, ..Default::default() }
    }
}
