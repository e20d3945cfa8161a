//! The groups' part in transactions, from the wire's request to the wire's response: offsets that
//! are committed in one, and its end. May wait: for the transaction's coordinator, or for the high
//! watermark.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{
    calls::{Call, CommitReply, EndTxnCall, Reply, TxnCommitCall},
    driver::Coordinators,
    ports::TopicNames,
    translate_txn::TxnCommit,
    turn::append_error,
};
use crate::{
    base::{ErrorCode, PartitionId},
    replica::txn::VerificationGuard,
    wire::api::txn::{TxnOffsetCommitRequest, TxnOffsetCommitResponse},
};

/// What a transaction's coordinator says to a partition of `__consumer_offsets`: `None` if the
/// transaction is open there already.
pub(crate) type Admission<'a> = BoxFuture<'a, Result<Option<VerificationGuard>, ErrorCode>>;

impl Coordinators {
    /// TxnOffsetCommit. `admission` asks the transaction's coordinator about the partition that
    /// keeps the group; it is not called if nothing is to be committed.
    pub(crate) async fn txn_offset_commit<'a>(
        &self,
        request: TxnOffsetCommitRequest,
        version: i16,
        names: &dyn TopicNames,
        admission: impl FnOnce(PartitionId) -> Admission<'a> + Send,
    ) -> TxnOffsetCommitResponse {
        let (producer_id, producer_epoch) = (request.producer_id, request.producer_epoch);
        let mut commit = TxnCommit::new(request, version, names);
        let call =
            TxnCommitCall { producer_id, producer_epoch, guard: None, commit: commit.take_call() };
        let done = self.commit_in_txn(call, admission).await;
        let failed = |error| CommitReply { error, topics: Vec::new() };
        commit.response(&done.unwrap_or_else(failed))
    }

    async fn commit_in_txn<'a>(
        &self,
        mut call: TxnCommitCall,
        admission: impl FnOnce(PartitionId) -> Admission<'a> + Send,
    ) -> Result<CommitReply, ErrorCode> {
        let group: Arc<str> = call.commit.group.clone();
        if call.commit.topics.is_empty() {
            return Ok(CommitReply { error: ErrorCode::None, topics: Vec::new() });
        }
        if group.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let partition = self.partition_of(&group);
        call.guard = admission(partition).await.map_err(|error| match error {
            // One that every client tries again without looking for the coordinator anew.
            ErrorCode::NetworkException => ErrorCode::CoordinatorLoadInProgress,
            e => append_error(e),
        })?;
        match self.ask_partition(partition, Call::TxnCommit(call)).await? {
            Reply::Commit(reply) => Ok(reply),
            other => unreachable!("a call was answered with {other:?}"),
        }
    }

    /// A transaction that has offsets in `partition` ends: they count, or are dropped. Answers once
    /// the marker is committed; errors are as the transaction's coordinator knows them.
    pub async fn end_txn(&self, partition: PartitionId, call: EndTxnCall) -> ErrorCode {
        let error = match self.ask_partition(partition, Call::EndTxn(call)).await {
            Ok(Reply::EndTxn(error)) | Err(error) => error,
            Ok(other) => unreachable!("a call was answered with {other:?}"),
        };
        match error {
            ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::NotCoordinator => ErrorCode::NotLeaderOrFollower,
            e => e,
        }
    }
}
