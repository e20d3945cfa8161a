//! The share group APIs (KIP-932), each from the wire's request to the wire's response, and the way
//! to the share coordinators. May wait: for the high watermark, and for share coordinators.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::join_all;

use super::{
    calls::{Call, Client, Reply},
    calls_share_groups::{
        AlterShareOffsetsReply, DeleteShareOffsetsCall, DeleteShareOffsetsReply,
        ShareHeartbeatReply,
    },
    consumer_records::Partitions,
    driver::Coordinators,
    group_heartbeat::Refused,
    share_persister::ShareKey,
    translate_share_groups::{
        Alter, described, distinct, heartbeat_call, heartbeat_response, not_described,
        partition_message,
    },
};
use crate::{
    base::{ErrorCode, PartitionId, Uuid},
    wire::api::share_groups::{
        AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse,
        DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse,
        DeleteShareGroupOffsetsResponseTopic, ShareGroupDescribeRequest,
        ShareGroupDescribeResponse, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
    },
};

const NOTHING_TO_DELETE: &str = "There is no offset information to delete.";

impl Coordinators {
    /// ShareGroupHeartbeat. Partitions that the member's topics bring along are initialized beside;
    /// members are given them by a later heartbeat.
    pub async fn share_group_heartbeat(
        &self,
        request: ShareGroupHeartbeatRequest,
        client: &Client,
    ) -> ShareGroupHeartbeatResponse {
        let reply = match heartbeat_call(request, client) {
            Ok(call) => {
                let group = call.group.clone();
                match self.ask(&group, Call::ShareHeartbeat(Box::new(call))).await {
                    Ok(Reply::ShareHeartbeat(reply)) => reply,
                    Ok(other) => unreachable!("a call was answered with {other:?}"),
                    Err(error) => ShareHeartbeatReply::error(error, None),
                }
            }
            Err(Refused { error, message }) => ShareHeartbeatReply::error(error, message),
        };
        heartbeat_response(reply)
    }

    /// ShareGroupDescribe, for all the groups it names. Authorized operations are the handler's.
    #[must_use]
    pub fn share_group_describe(
        &self,
        request: &ShareGroupDescribeRequest,
    ) -> ShareGroupDescribeResponse {
        let image = self.image();
        let describe = |group: &String| {
            if group.is_empty() {
                return not_described(group, ErrorCode::InvalidGroupId, None);
            }
            let partition = self.partition_of(group);
            match self.read(partition, |shard| shard.describe_share_group(group)) {
                Ok(Some(found)) => described(found, &image),
                Ok(None) => {
                    let text = format!("Group {group} is not a share group.");
                    not_described(group, ErrorCode::GroupIdNotFound, Some(text))
                }
                Err(error) => not_described(group, error, None),
            }
        };
        let groups = request.group_ids.iter().map(describe).collect();
        ShareGroupDescribeResponse { groups, ..Default::default() }
    }

    /// The partitions of a share group that are initialized.
    ///
    /// # Errors
    /// `NotCoordinator`, `CoordinatorLoadInProgress`.
    pub fn initialized_shares(&self, group: &str) -> Result<Partitions, ErrorCode> {
        self.read(self.partition_of(group), |shard| shard.initialized_shares(group))
    }

    /// AlterShareGroupOffsets. Waits for the share coordinators.
    pub async fn alter_share_group_offsets(
        &self,
        request: AlterShareGroupOffsetsRequest,
    ) -> AlterShareGroupOffsetsResponse {
        if request.group_id.is_empty() {
            let error_code = ErrorCode::InvalidGroupId;
            return AlterShareGroupOffsetsResponse { error_code, ..Default::default() };
        }
        let alter = Alter::new(request, &self.image());
        let group = alter.call.group.clone();
        let reply = match self.ask(&group, Call::AlterShareOffsets(alter.call.clone())).await {
            Ok(Reply::AlterShareOffsets(reply)) => reply,
            Ok(other) => unreachable!("a call was answered with {other:?}"),
            Err(error) => AlterShareOffsetsReply::error(error, None),
        };
        alter.response(reply)
    }

    /// DeleteShareGroupOffsets. Waits for the share coordinators. What is not done after an error is
    /// done when it is asked again.
    pub async fn delete_share_group_offsets(
        &self,
        request: DeleteShareGroupOffsetsRequest,
    ) -> DeleteShareGroupOffsetsResponse {
        let failed = |error_code, error_message| DeleteShareGroupOffsetsResponse {
            error_code,
            error_message,
            ..Default::default()
        };
        if request.group_id.is_empty() {
            return failed(ErrorCode::InvalidGroupId, None);
        }
        let group: Arc<str> = request.group_id.into();
        let call =
            DeleteShareOffsetsCall { group: group.clone(), topics: distinct(request.topics) };
        let begun = match self.ask(&group, Call::DeleteShareOffsets(call)).await {
            Ok(Reply::DeleteShareOffsets(reply)) => reply,
            Ok(other) => unreachable!("a call was answered with {other:?}"),
            Err(error) => DeleteShareOffsetsReply::error(error, None),
        };
        if begun.error != ErrorCode::None {
            return failed(begun.error, begun.message);
        }
        let forgets = begun.topics.into_iter().map(|(name, kept)| {
            let group = &group;
            async move {
                let Some((id, partitions)) = kept else { return (name, None) };
                let code = self.forget(group, id, &partitions).await;
                (name, Some((id, code)))
            }
        });
        let topics = join_all(forgets).await;
        let done = topics.iter().filter_map(|(_, kept)| match kept {
            Some((id, ErrorCode::None)) => Some(*id),
            _ => None,
        });
        let done: Vec<Uuid> = done.collect();
        if !done.is_empty() {
            let code = match self.ask(&group, Call::ShareOffsetsDeleted(group.clone(), done)).await
            {
                Ok(Reply::ShareOffsetsDeleted(code)) => code,
                Ok(other) => unreachable!("a call was answered with {other:?}"),
                Err(error) => error,
            };
            if code != ErrorCode::None {
                return failed(code, None);
            }
        }
        let responses = topics.into_iter().map(|(name, kept)| {
            let (topic_id, error_code, error_message) = match kept {
                Some((id, code)) => (id, code, partition_message(code)),
                None => {
                    let code = ErrorCode::UnknownTopicOrPartition;
                    (Uuid::default(), code, Some(NOTHING_TO_DELETE.to_owned()))
                }
            };
            let topic_name = name.to_string();
            DeleteShareGroupOffsetsResponseTopic { topic_name, topic_id, error_code, error_message }
        });
        DeleteShareGroupOffsetsResponse { responses: responses.collect(), ..Default::default() }
    }

    /// Has the share coordinators forget partitions of one topic; tells the first error.
    async fn forget(
        &self,
        group: &Arc<str>,
        topic: Uuid,
        partitions: &BTreeSet<PartitionId>,
    ) -> ErrorCode {
        let Ok(persister) = self.share_persister() else {
            return ErrorCode::CoordinatorNotAvailable;
        };
        let deletes = partitions.iter().map(|partition| {
            let (group, partition) = (group.clone(), *partition);
            persister.delete(ShareKey { group, topic, partition })
        });
        let failed = join_all(deletes).await.into_iter().find_map(Result::err);
        failed.unwrap_or(ErrorCode::None)
    }

    /// Has the share coordinators forget the share groups among `groups`, which are all kept by
    /// `partition`. Gives the groups that can be deleted, and why others cannot.
    pub(super) async fn forget_share_groups(
        &self,
        partition: PartitionId,
        groups: Vec<Arc<str>>,
    ) -> (Vec<Arc<str>>, Vec<(Arc<str>, ErrorCode)>) {
        let call = Call::BeginShareDeletions(groups.clone());
        let deletions = match self.ask_partition(partition, call).await {
            Ok(Reply::ShareDeletions(deletions)) => deletions,
            Ok(other) => unreachable!("a call was answered with {other:?}"),
            Err(error) => return (Vec::new(), groups.into_iter().map(|g| (g, error)).collect()),
        };
        let done = deletions.into_iter().map(|(group, partitions)| async move {
            let code = match partitions {
                Err(error) => error,
                Ok(partitions) => {
                    let topics = partitions.iter().map(|(t, ps)| self.forget(&group, *t, ps));
                    let codes = join_all(topics).await;
                    codes.into_iter().find(|c| *c != ErrorCode::None).unwrap_or(ErrorCode::None)
                }
            };
            (group, code)
        });
        let refused: Vec<_> =
            join_all(done).await.into_iter().filter(|(_, c)| *c != ErrorCode::None).collect();
        let left = groups.into_iter().filter(|g| refused.iter().all(|(r, _)| r != g)).collect();
        (left, refused)
    }
}
