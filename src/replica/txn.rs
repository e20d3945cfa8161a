//! A partition's part in transactions: who may begin one here, and the markers that end them
//! (KIP-98, KIP-890; `Partition.scala`, `ReplicaManager.scala`).

use std::sync::Arc;

use futures::channel::oneshot;

use super::{
    partition::{Committed, Partition, Receipt, Refusal},
    table::{ReplicaTable, Slot},
};
pub use crate::log::{Origin, VerificationGuard};
use crate::{
    base::{ErrorCode, LeaderEpoch, Mutant, Now, Offset, mutant},
    record::Validated,
};

impl Partition {
    /// A producer (id and epoch) wants to write into its transaction, or a group coordinator for
    /// it: `Some` if the transaction's coordinator must be asked first, and then the batch comes
    /// with it; `None` if the transaction is open here. `sequence` is that of the first record, -1
    /// for a group; `bumps_epoch` tells of a client that takes a new epoch for each transaction.
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `InvalidProducerEpoch`, storage errors.
    pub fn begin_verification(
        &mut self,
        producer: (i64, i16),
        sequence: i32,
        bumps_epoch: bool,
        now: Now,
    ) -> Result<Option<VerificationGuard>, Refusal> {
        self.check_leader(-1)?;
        if mutant(Mutant::SkipVerification) {
            return Ok(None);
        }
        Ok(self.log.begin_verification(producer, sequence, bumps_epoch, now)?)
    }

    /// The first batch of a transaction was refused with `code`, as its coordinator did not answer:
    /// what the producer has sent after it is told the same, not of a gap.
    pub fn turn_away(&mut self, producer: (i64, i16), code: ErrorCode, now: Now) {
        _ = self.turned_away.tell(|| Some(producer), Err(code.into()), now.mono);
    }
}

impl ReplicaTable {
    /// Appends a batch that this broker built, with acks=all, if it leads `slot`, and under
    /// `leader_epoch` if one is given. Returns the last offset and the high watermark.
    ///
    /// # Errors
    /// As a producer would be told.
    pub fn append_from(
        &self,
        slot: &Arc<Slot>,
        batch: &Validated,
        leader_epoch: Option<LeaderEpoch>,
        origin: Origin,
    ) -> Result<(Offset, Offset), Refusal> {
        let now = self.clock.now();
        let append = |partition: &mut Partition| -> Result<Receipt, Refusal> {
            let epoch = leader_epoch.unwrap_or_else(|| partition.leader_epoch());
            partition.append_own(batch, epoch, origin, now)
        };
        let (last, high_watermark, due, lags) = {
            let mut partition = slot.lock();
            let last = append(&mut partition)?.last_offset;
            let (due, lags) = (partition.flush_due(now), partition.begins_to_lag(now));
            (last, partition.high_watermark(), due, lags)
        };
        if lags {
            self.isr.watch(slot);
        }
        if due {
            self.flush(slot);
        }
        Ok((last, high_watermark))
    }

    /// Appends the marker that ends a transaction; with it comes what to wait for until it is
    /// committed, if it is not yet.
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `NotEnoughReplicas`, `InvalidProducerEpoch`,
    /// `TransactionCoordinatorFenced`, storage errors.
    pub fn append_marker(
        &self,
        slot: &Arc<Slot>,
        marker: &Validated,
        transaction_version: i16,
    ) -> Result<Option<oneshot::Receiver<Committed>>, Refusal> {
        let origin = Origin::Marker { transaction_version };
        let (last, high_watermark) = self.append_from(slot, marker, None, origin)?;
        if high_watermark > last {
            return Ok(None);
        }
        Ok(slot.lock().await_committed(last))
    }
}
