//! The logs of `__consumer_offsets`, `__transaction_state` and `__share_group_state` as coordinators
//! want them, over the replica table.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::future::{BoxFuture, FutureExt as _, ready};

use crate::{
    base::{ErrorCode, Offset, PartitionId},
    coordinator::{
        ports::{Appended, Bounds, Chunk, OffsetsLog},
        share_ports::PrunedLog,
    },
    record::validate::Validated,
    replica::{
        table::{ReplicaTable, Slot},
        txn::Origin,
    },
};

/// The topic that groups live in.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";
/// The topic that transactions live in.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// The topic that the state of share partitions lives in.
pub const SHARE_STATE_TOPIC: &str = "__share_group_state";

/// See the file's head. The second part is the topic.
#[derive(Debug)]
pub struct ReplicaOffsetsLog(pub Arc<ReplicaTable>, pub &'static str);

impl ReplicaOffsetsLog {
    fn slot(&self, partition: PartitionId, leader_epoch: i32) -> Result<Arc<Slot>, ErrorCode> {
        let slot = self.0.by_name(self.1, partition);
        let slot = slot.ok_or(ErrorCode::NotLeaderOrFollower)?;
        let state = slot.lock();
        if !state.leads() || state.leader_epoch() != leader_epoch {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        drop(state);
        Ok(slot)
    }

    fn read_now(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<Chunk, ErrorCode> {
        let slot = self.slot(partition, leader_epoch)?;
        let (slices, len, high_watermark) = {
            let mut state = slot.lock();
            let end = state.log.log_end_offset();
            let now = self.0.clock.now();
            let read = state
                .log
                .read(offset, end, max_bytes, true, now)
                .map_err(|e| crate::replica::partition::Refusal::from(e).code)?;
            (read.slices, read.bytes, state.high_watermark())
        };
        let mut bytes = BytesMut::zeroed(len);
        let mut at = 0;
        for slice in slices {
            let part = bytes.get_mut(at..at + slice.len).ok_or(ErrorCode::KafkaStorageError)?;
            slice.file.read_exact_at(part, slice.pos).map_err(|_| ErrorCode::KafkaStorageError)?;
            at += slice.len;
        }
        Ok(Chunk { bytes: bytes.freeze(), high_watermark })
    }
}

impl OffsetsLog for ReplicaOffsetsLog {
    fn append(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        batch: Bytes,
    ) -> Result<Appended, ErrorCode> {
        self.append_in_txn(partition, leader_epoch, batch, Origin::Group(None))
    }

    fn append_in_txn(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        batch: Bytes,
        origin: Origin,
    ) -> Result<Appended, ErrorCode> {
        let slot = self.slot(partition, leader_epoch)?;
        let batch = Validated::built(batch).map_err(|_| ErrorCode::CorruptMessage)?;
        let done = self.0.append_from(&slot, &batch, Some(leader_epoch), origin);
        let (last_offset, high_watermark) = done.map_err(|r| r.code)?;
        Ok(Appended { last_offset, high_watermark })
    }

    fn committed(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        offset: Offset,
    ) -> BoxFuture<'static, Result<Offset, ErrorCode>> {
        let slot = match self.slot(partition, leader_epoch) {
            Ok(slot) => slot,
            Err(code) => return ready(Err(code)).boxed(),
        };
        let mut state = slot.lock();
        match state.await_committed(offset) {
            None => ready(Ok(state.high_watermark())).boxed(),
            Some(wait) => {
                async move { wait.await.unwrap_or(Err(ErrorCode::NotLeaderOrFollower)) }.boxed()
            }
        }
    }

    fn bounds(&self, partition: PartitionId, leader_epoch: i32) -> Result<Bounds, ErrorCode> {
        let slot = self.slot(partition, leader_epoch)?;
        let state = slot.lock();
        Ok(Bounds { start: state.log.log_start_offset(), end: state.log.log_end_offset() })
    }

    fn read(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        offset: Offset,
        max_bytes: usize,
    ) -> BoxFuture<'static, Result<Chunk, ErrorCode>> {
        ready(self.read_now(partition, leader_epoch, offset, max_bytes)).boxed()
    }
}

impl PrunedLog for ReplicaOffsetsLog {
    fn delete_before(
        &self,
        partition: PartitionId,
        leader_epoch: i32,
        before: Offset,
    ) -> Result<(), ErrorCode> {
        let slot = self.slot(partition, leader_epoch)?;
        let mut state = slot.lock();
        let done = state.delete_records(before, self.0.clock.now());
        done.map(|_| ()).map_err(|refusal| refusal.code)
    }
}
