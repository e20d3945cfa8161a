//! The share group APIs (KIP-932): they exist once the feature `share.version` is finalized; the
//! rest is the coordinators'. Where share groups stand is asked of the share coordinators, and
//! their lag of the partitions' leaders.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::join_all;

use crate::{
    base::{ErrorCode, PartitionId, Uuid},
    coordinator::share_persister::{ShareKey, ShareSummary},
    metadata::features::SHARE_VERSION,
    server::{
        api::{allowed, groups::client},
        context::{Broker, Caller},
        end_offsets::{self, Ends},
    },
    wire::api::share_groups::{
        AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse,
        DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse,
        DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsRequestGroup,
        DescribeShareGroupOffsetsResponse, DescribeShareGroupOffsetsResponseGroup,
        DescribeShareGroupOffsetsResponsePartition, DescribeShareGroupOffsetsResponseTopic,
        ShareGroupDescribeRequest, ShareGroupDescribeResponse, ShareGroupDescribed,
        ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
    },
};

/// What a start offset or a lag is while it is not known.
const UNKNOWN: i64 = -1;

/// Whether the cluster has share groups (`KafkaApis.isShareGroupProtocolEnabled`).
pub(crate) fn enabled(broker: &Broker) -> bool {
    broker.image().features().level(SHARE_VERSION) >= 1
}

/// ShareGroupHeartbeat.
pub(crate) async fn share_group_heartbeat(
    broker: &Broker,
    caller: &Caller,
    request: ShareGroupHeartbeatRequest,
) -> ShareGroupHeartbeatResponse {
    if !enabled(broker) {
        let error_code = ErrorCode::UnsupportedVersion;
        return ShareGroupHeartbeatResponse { error_code, ..Default::default() };
    }
    broker.groups.share_group_heartbeat(request, &client(caller)).await
}

/// ShareGroupDescribe.
pub(crate) fn share_group_describe(
    broker: &Broker,
    _caller: &Caller,
    request: ShareGroupDescribeRequest,
) -> ShareGroupDescribeResponse {
    if !enabled(broker) {
        let refused = request.group_ids.into_iter().map(|group_id| ShareGroupDescribed {
            error_code: ErrorCode::UnsupportedVersion,
            group_id,
            ..Default::default()
        });
        return ShareGroupDescribeResponse { groups: refused.collect(), ..Default::default() };
    }
    let mut response = broker.groups.share_group_describe(&request);
    if request.include_authorized_operations {
        for group in response.groups.iter_mut().filter(|g| g.error_code == ErrorCode::None) {
            group.authorized_operations = allowed::GROUP;
        }
    }
    response
}

/// AlterShareGroupOffsets.
pub(crate) async fn alter_share_group_offsets(
    broker: &Broker,
    _caller: &Caller,
    request: AlterShareGroupOffsetsRequest,
) -> AlterShareGroupOffsetsResponse {
    if !enabled(broker) {
        let error_code = ErrorCode::UnsupportedVersion;
        return AlterShareGroupOffsetsResponse { error_code, ..Default::default() };
    }
    broker.groups.alter_share_group_offsets(request).await
}

/// DeleteShareGroupOffsets.
pub(crate) async fn delete_share_group_offsets(
    broker: &Broker,
    _caller: &Caller,
    request: DeleteShareGroupOffsetsRequest,
) -> DeleteShareGroupOffsetsResponse {
    if !enabled(broker) {
        let error_code = ErrorCode::UnsupportedVersion;
        return DeleteShareGroupOffsetsResponse { error_code, ..Default::default() };
    }
    broker.groups.delete_share_group_offsets(request).await
}

/// DescribeShareGroupOffsets, for all the groups it names.
pub(crate) async fn describe_share_group_offsets(
    broker: &Broker,
    _caller: &Caller,
    request: DescribeShareGroupOffsetsRequest,
) -> DescribeShareGroupOffsetsResponse {
    let on = enabled(broker);
    let groups = request.groups.into_iter().map(|group| async move {
        let group_id = group.group_id.clone();
        let found = match on {
            true => stand(broker, group).await,
            false => Err(ErrorCode::UnsupportedVersion),
        };
        let (error_code, topics) = match found {
            Ok(topics) => (ErrorCode::None, topics),
            Err(error) => (error, Vec::new()),
        };
        DescribeShareGroupOffsetsResponseGroup { group_id, topics, error_code, error_message: None }
    });
    DescribeShareGroupOffsetsResponse { groups: join_all(groups).await, ..Default::default() }
}

/// Partitions of one topic, and its id if it exists.
type Asked = (String, Option<Uuid>, Vec<PartitionId>);

/// Where one group stands.
async fn stand(
    broker: &Broker,
    group: DescribeShareGroupOffsetsRequestGroup,
) -> Result<Vec<DescribeShareGroupOffsetsResponseTopic>, ErrorCode> {
    let image = broker.image();
    let asked: Vec<Asked> = match group.topics {
        Some(topics) => {
            let id_of = |name: &str| image.topics().id_of(name);
            topics
                .into_iter()
                .map(|t| (t.topic_name.clone(), id_of(&t.topic_name), t.partitions))
                .collect()
        }
        None => {
            let all = broker.groups.initialized_shares(&group.group_id)?;
            let known = all.into_iter().filter_map(|(id, partitions)| {
                let name = image.topics().by_id(id)?.name.to_string();
                Some((name, Some(id), partitions.into_iter().collect()))
            });
            known.collect()
        }
    };
    let group: Arc<str> = group.group_id.into();
    let summaries =
        asked.iter().map(|(_, id, partitions)| summaries(broker, &group, *id, partitions));
    let summaries: Vec<_> = join_all(summaries).await.into_iter().collect::<Result<_, _>>()?;
    let mut lagging = Vec::new();
    for ((name, ..), found) in asked.iter().zip(&summaries) {
        let known = found.iter().filter(|(_, s)| s.is_some_and(|s| has_lag(&s)));
        lagging.extend(known.map(|(partition, _)| (Arc::<str>::from(name.as_str()), *partition)));
    }
    let ends = end_offsets::latest(broker, lagging).await;
    let topics = asked.into_iter().zip(summaries).map(|((name, id, _), found)| {
        let partitions =
            found.into_iter().map(|(partition, summary)| shown(&name, partition, summary, &ends));
        DescribeShareGroupOffsetsResponseTopic {
            partitions: partitions.collect(),
            topic_id: id.unwrap_or_default(),
            topic_name: name,
        }
    });
    Ok(topics.collect())
}

/// Of each partition; `None` where nothing is kept, or nobody could be asked.
async fn summaries(
    broker: &Broker,
    group: &Arc<str>,
    topic: Option<Uuid>,
    partitions: &[PartitionId],
) -> Result<Vec<(PartitionId, Option<ShareSummary>)>, ErrorCode> {
    let Some(topic) = topic else {
        return Ok(partitions.iter().map(|p| (*p, None)).collect());
    };
    let persister = broker.groups.share_persister()?;
    let each = partitions.iter().map(|partition| {
        let key = ShareKey { group: Arc::clone(group), topic, partition: *partition };
        let summary = persister.summary(key, -1);
        async move { (*partition, summary.await.ok()) }
    });
    Ok(join_all(each).await)
}

/// Whether the lag can be told (`shouldComputeSharePartitionLag`).
fn has_lag(summary: &ShareSummary) -> bool {
    summary.start_offset != UNKNOWN && i64::from(summary.delivery_complete) != UNKNOWN
}

fn shown(
    topic: &str,
    partition_index: PartitionId,
    summary: Option<ShareSummary>,
    ends: &BTreeMap<(Arc<str>, PartitionId), Ends>,
) -> DescribeShareGroupOffsetsResponsePartition {
    let empty = DescribeShareGroupOffsetsResponsePartition {
        partition_index,
        start_offset: UNKNOWN,
        lag: UNKNOWN,
        ..Default::default()
    };
    let Some(summary) = summary else { return empty };
    let (start_offset, leader_epoch) = (summary.start_offset, summary.leader_epoch);
    if !has_lag(&summary) {
        return DescribeShareGroupOffsetsResponsePartition { start_offset, leader_epoch, ..empty };
    }
    let end = ends.get(&(Arc::from(topic), partition_index));
    match end.copied().unwrap_or(Err(ErrorCode::UnknownServerError)) {
        Ok(end) => {
            let done = start_offset.saturating_add(i64::from(summary.delivery_complete));
            let lag = end.saturating_sub(done);
            DescribeShareGroupOffsetsResponsePartition { start_offset, leader_epoch, lag, ..empty }
        }
        Err(error_code) => DescribeShareGroupOffsetsResponsePartition {
            partition_index,
            error_code,
            error_message: Some(error_code.name().to_owned()),
            ..Default::default()
        },
    }
}
