//! A partition as its leader sees it: taking and leaving office, appending what producers send,
//! and the high watermark (`Partition.scala`).

use bytes::Bytes;

use super::{
    leader::Leader,
    partition::{Partition, Receipt, Refusal, Role},
};
use crate::{
    base::{ErrorCode, LeaderEpoch, Now},
    metadata::PartitionRegistration,
    record::{ProduceContext, Scratch, TimestampType, Validated, validate},
};

impl Partition {
    /// Takes office, or goes on with a changed ISR.
    pub fn lead(&mut self, registration: &PartitionRegistration, _now: Now) {
        if registration.leader_epoch != self.leader_epoch {
            self.log.begin_epoch(registration.leader_epoch);
        }
        self.leader_epoch = registration.leader_epoch;
        self.partition_epoch = registration.partition_epoch;
        let (isr, replicas) = (registration.isr.clone(), registration.replicas.len());
        self.role = Role::Leader(Box::new(Leader { isr, replicas }));
        self.advance();
    }

    /// Checks that this broker leads under the epoch that a client believes in (-1: any).
    ///
    /// # Errors
    /// `NotLeaderOrFollower`, `FencedLeaderEpoch`, `UnknownLeaderEpoch`.
    pub fn check_leader(&self, client_epoch: LeaderEpoch) -> Result<(), ErrorCode> {
        if client_epoch >= 0 && client_epoch < self.leader_epoch {
            return Err(ErrorCode::FencedLeaderEpoch);
        }
        if client_epoch > self.leader_epoch {
            return Err(ErrorCode::UnknownLeaderEpoch);
        }
        if self.leads() { Ok(()) } else { Err(ErrorCode::NotLeaderOrFollower) }
    }

    /// Appends what a client sent.
    ///
    /// # Errors
    /// What the client is told; nothing was written.
    pub fn produce(
        &mut self,
        records: &Bytes,
        acks_all: bool,
        api_version: i16,
        now: Now,
        scratch: &mut Scratch,
    ) -> Result<Receipt, Refusal> {
        self.check_append(acks_all)?;
        let context = ProduceContext { now_ms: now.wall_ms, api_version };
        let batch = validate(records, &self.settings.rules, context, scratch)?;
        self.append(&batch, now)
    }

    /// Appends a batch that this broker built: of a coordinator.
    ///
    /// # Errors
    /// As [`Partition::produce`].
    pub fn append_own(
        &mut self,
        batch: &Validated,
        leader_epoch: LeaderEpoch,
        now: Now,
    ) -> Result<Receipt, Refusal> {
        if leader_epoch != self.leader_epoch {
            return Err(ErrorCode::NotLeaderOrFollower.into());
        }
        self.check_append(true)?;
        if batch.batch.len() > self.settings.rules.batch_bytes_max {
            return Err(ErrorCode::MessageTooLarge.into());
        }
        self.append(batch, now)
    }

    fn check_append(&self, acks_all: bool) -> Result<(), ErrorCode> {
        let Role::Leader(leader) = &self.role else {
            return Err(ErrorCode::NotLeaderOrFollower);
        };
        let needed = self.settings.min_insync_replicas.min(leader.replicas);
        if acks_all && leader.isr.len() < needed {
            return Err(ErrorCode::NotEnoughReplicas);
        }
        Ok(())
    }

    fn append(&mut self, batch: &Validated, now: Now) -> Result<Receipt, Refusal> {
        let done = self.log.append_leader(&batch.batch, &batch.header, self.leader_epoch, now)?;
        self.rolled |= done.rolled;
        let stamped = self.settings.rules.timestamp_type == TimestampType::LogAppendTime;
        self.wake_followers();
        self.advance();
        Ok(Receipt {
            base_offset: done.base_offset,
            last_offset: done.last_offset,
            log_append_time_ms: if stamped { now.wall_ms } else { -1 },
            log_start_offset: self.log.log_start_offset(),
        })
    }

    /// Raises the high watermark as far as the ISR has come, and tells who waits. While the ISR is
    /// below `min.insync.replicas` it stays (KIP-966).
    pub fn advance(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let needed = self.settings.min_insync_replicas.min(leader.replicas);
        let alone = *leader.isr == [self.brokers.node_id];
        if !alone || leader.isr.len() < needed {
            return;
        }
        let reached = if self.settings.durable() {
            let flushed = self.log.flushed_offset();
            for waiter in self.flushed.reached(flushed) {
                let _ = waiter.send(Ok(flushed));
            }
            flushed
        } else {
            self.log.log_end_offset()
        };
        self.raise_high_watermark(reached);
    }
}
