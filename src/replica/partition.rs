//! One partition on this broker: its log, its role, its high watermark and who waits for it. Pure
//! but for the log's files; the table holds its lock (`Partition.scala`, `ReplicaManager.scala`).
//!
//! With the durable mode on, the high watermark counts this replica only up to its flushed offset,
//! so that what is visible or acknowledged survives a power cut.

use std::sync::Arc;

use bytes::Bytes;
use futures::channel::oneshot;

use super::{
    settings::PartitionSettings,
    timed,
    waiters::{Waiters, Wake},
};
use crate::{
    base::{ErrorCode, LeaderEpoch, NodeId, Now, Offset, ports::FileSlice},
    log::{AbortedTxn, FlushMark, FlushTicket, Log, LogError},
    metadata::PartitionRegistration,
    record::{
        ProduceContext, RecordIssue, Refusal as BatchRefusal, Scratch, TimestampType, Validated,
        validate,
    },
};

/// Why a partition does not do what was asked, as a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What more there is to say.
    pub message: Option<String>,
    /// Records at fault.
    pub issues: Vec<RecordIssue>,
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self { code, message: None, issues: Vec::new() }
    }
}

impl From<BatchRefusal> for Refusal {
    fn from(r: BatchRefusal) -> Self {
        Self { code: r.code, message: Some(r.message), issues: r.issues }
    }
}

impl From<LogError> for Refusal {
    fn from(e: LogError) -> Self {
        let code = match &e {
            LogError::OutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            LogError::Corrupt(_) => ErrorCode::CorruptMessage,
            LogError::TooLarge { .. } => ErrorCode::RecordListTooLarge,
            LogError::ProducerFenced { .. } => ErrorCode::InvalidProducerEpoch,
            LogError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            LogError::InvalidTxnState { .. } => ErrorCode::InvalidTxnState,
            LogError::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
            // A full disk is retriable for every client by the same code.
            LogError::Full(_)
            | LogError::Io { .. }
            | LogError::Offline { .. }
            | LogError::UnexpectedOffset { .. }
            | LogError::InconsistentTopicId { .. }
            | LogError::Locked(_) => ErrorCode::KafkaStorageError,
        };
        Self { code, message: Some(e.to_string()), issues: Vec::new() }
    }
}

/// Up to where a reader sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// `read_uncommitted`: the high watermark.
    ReadUncommitted,
    /// `read_committed`: the last stable offset.
    ReadCommitted,
}

/// A batch that was appended, or one that had been before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// The append time in milliseconds, where the topic stamps it; else -1.
    pub log_append_time_ms: i64,
    /// The partition's log start offset.
    pub log_start_offset: Offset,
}

/// Where a partition's log stands, for responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// First offset that may be read.
    pub log_start: Offset,
    /// End of what consumers see.
    pub high_watermark: Offset,
    /// End of what `read_committed` consumers see.
    pub last_stable: Offset,
    /// Offset of the next record.
    pub log_end: Offset,
}

/// What a read found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Runs of whole batches.
    pub slices: Vec<FileSlice>,
    /// Their length in bytes.
    pub len: usize,
    /// Where the log stands.
    pub marks: Marks,
    /// Aborted transactions among the records, for a `read_committed` reader.
    pub aborted: Option<Vec<AbortedTxn>>,
}

/// An offset found by a timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOffset {
    /// The record's timestamp; -1 where none was looked for.
    pub timestamp: i64,
    /// The offset; -1 if there is none.
    pub offset: Offset,
    /// The epoch of the record at it; -1 if unknown.
    pub leader_epoch: LeaderEpoch,
}

/// Told when what was appended is committed, or never will be here.
pub type Committed = Result<Offset, ErrorCode>;

/// This broker's part in leading.
#[derive(Debug)]
struct Leader {
    isr: Box<[NodeId]>,
    replicas: usize,
}

/// One replica.
#[derive(Debug)]
pub struct Partition {
    /// Its log.
    pub log: Log,
    node_id: NodeId,
    settings: Arc<PartitionSettings>,
    leader: Option<Leader>,
    leader_epoch: LeaderEpoch,
    high_watermark: Offset,
    committed: Waiters<oneshot::Sender<Committed>>,
    flushed: Waiters<oneshot::Sender<Committed>>,
    fetches: Vec<Arc<Wake>>,
    flush: Flush,
    /// Whether a segment was closed and is not yet on its way to the disk.
    rolled: bool,
}

/// A flush of this partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flush {
    /// None is under way.
    Idle,
    /// One is under way.
    Running,
    /// One is under way, and another was asked for since it began.
    RunningAskedAgain,
}

impl Partition {
    /// A replica with the log `log`, whose high watermark was last written down as
    /// `high_watermark`. Leads nothing until [`Partition::lead`].
    #[must_use]
    pub fn new(
        node_id: NodeId,
        log: Log,
        settings: Arc<PartitionSettings>,
        high_watermark: Offset,
    ) -> Self {
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        Self {
            log,
            node_id,
            settings,
            leader: None,
            leader_epoch: -1,
            high_watermark: high_watermark.clamp(start, end.max(start)),
            committed: Waiters::default(),
            flushed: Waiters::default(),
            fetches: Vec::new(),
            flush: Flush::Idle,
            rolled: false,
        }
    }

    /// The topic's settings.
    #[must_use]
    pub fn settings(&self) -> &Arc<PartitionSettings> {
        &self.settings
    }

    /// Takes over changed settings.
    pub fn configure(&mut self, settings: Arc<PartitionSettings>) {
        self.log.set_config(Arc::clone(&settings.log));
        self.settings = settings;
    }

    /// The high watermark.
    #[must_use]
    pub fn high_watermark(&self) -> Offset {
        self.high_watermark
    }

    /// The leader epoch this replica knows; -1 before the first.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Whether this broker leads it.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leader.is_some()
    }

    /// Takes office, or goes on with a changed ISR.
    pub fn lead(&mut self, registration: &PartitionRegistration) {
        if registration.leader_epoch != self.leader_epoch {
            self.log.begin_epoch(registration.leader_epoch);
        }
        self.leader_epoch = registration.leader_epoch;
        self.leader =
            Some(Leader { isr: registration.isr.clone(), replicas: registration.replicas.len() });
        self.advance();
    }

    /// Leaves office: whoever waits is sent to the new leader.
    pub fn resign(&mut self, leader_epoch: LeaderEpoch) {
        self.leader = None;
        self.leader_epoch = leader_epoch;
        self.dismiss(ErrorCode::NotLeaderOrFollower);
    }

    /// Tells everybody who waits that it is over.
    pub fn dismiss(&mut self, code: ErrorCode) {
        for waiter in self.committed.all().into_iter().chain(self.flushed.all()) {
            let _ = waiter.send(Err(code));
        }
        self.wake_fetches();
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
        if self.leader.is_none() { Err(ErrorCode::NotLeaderOrFollower) } else { Ok(()) }
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
        let leader = self.leader.as_ref().ok_or(ErrorCode::NotLeaderOrFollower)?;
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
        self.advance();
        Ok(Receipt {
            base_offset: done.base_offset,
            last_offset: done.last_offset,
            log_append_time_ms: if stamped { now.wall_ms } else { -1 },
            log_start_offset: self.log.log_start_offset(),
        })
    }

    /// Waits for `offset` to be committed; `None` if it is.
    pub fn await_committed(&mut self, offset: Offset) -> Option<oneshot::Receiver<Committed>> {
        if self.high_watermark > offset {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.committed.drop_where(oneshot::Sender::is_canceled);
        self.committed.park(offset.saturating_add(1), sender);
        Some(receiver)
    }

    /// Waits for `offset` to be on disk, in the durable mode; `None` if it is, or need not be.
    pub fn await_flushed(&mut self, offset: Offset) -> Option<oneshot::Receiver<Committed>> {
        if !self.settings.durable() || self.log.flushed_offset() > offset {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.flushed.park(offset.saturating_add(1), sender);
        Some(receiver)
    }

    /// Whether `flush.messages` or `flush.ms` asks for a flush now.
    #[must_use]
    pub fn flush_due(&self, now: Now) -> bool {
        self.rolled || self.log.flush_due(now)
    }

    /// Begins a flush; `None` if there is nothing to flush or one is under way, which is then
    /// followed by another.
    pub fn begin_flush(&mut self) -> Option<FlushTicket> {
        if self.flush != Flush::Idle {
            self.flush = Flush::RunningAskedAgain;
            return None;
        }
        // Where nobody waits for the disk, only what no append touches any more goes there.
        let closed_only = std::mem::take(&mut self.rolled) && !self.settings.durable();
        let ticket =
            if closed_only { self.log.flush_ticket_closed() } else { self.log.flush_ticket() };
        match ticket {
            Ok(ticket) => {
                if ticket.is_some() {
                    self.flush = Flush::Running;
                }
                ticket
            }
            Err(_) => {
                self.dismiss(ErrorCode::KafkaStorageError);
                None
            }
        }
    }

    /// A flush is done: who waited for it is told. Tells whether the next must begin.
    pub fn end_flush(&mut self, done: Result<FlushMark, LogError>, now: Now) -> bool {
        let again = self.flush == Flush::RunningAskedAgain;
        self.flush = Flush::Idle;
        match done {
            Ok(mark) => {
                self.log.flushed(mark, now);
                self.advance();
                again
            }
            Err(_) => {
                self.dismiss(ErrorCode::KafkaStorageError);
                false
            }
        }
    }

    /// Raises the high watermark as far as the ISR has come, and tells who waits. While the ISR is
    /// below `min.insync.replicas` it stays (KIP-966).
    pub fn advance(&mut self) {
        let Some(leader) = &self.leader else { return };
        let needed = self.settings.min_insync_replicas.min(leader.replicas);
        let alone = *leader.isr == [self.node_id];
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
        if reached <= self.high_watermark {
            return;
        }
        self.high_watermark = reached;
        for waiter in self.committed.reached(reached) {
            let _ = waiter.send(Ok(reached));
        }
        self.wake_fetches();
    }

    fn wake_fetches(&mut self) {
        for wake in self.fetches.drain(..) {
            wake.wake();
        }
    }

    /// Registers a fetch that waits for news. Fetches that are gone make room.
    pub fn register(&mut self, wake: &Arc<Wake>) {
        self.fetches.retain(|w| Arc::strong_count(w) > 1);
        self.fetches.push(Arc::clone(wake));
    }

    /// Where the log stands.
    ///
    /// # Errors
    /// The directory failed.
    pub fn marks(&mut self, now: Now) -> Result<Marks, Refusal> {
        Ok(Marks {
            log_start: self.log.log_start_offset(),
            high_watermark: self.high_watermark,
            last_stable: self.log.last_stable_offset(self.high_watermark, now)?,
            log_end: self.log.log_end_offset(),
        })
    }

    /// Reads whole batches from `from` on, at most `max_bytes` unless `at_least_one` asks for a
    /// first batch that is larger.
    ///
    /// # Errors
    /// `OffsetOutOfRange` and storage errors.
    pub fn read(
        &mut self,
        from: Offset,
        max_bytes: usize,
        at_least_one: bool,
        isolation: Isolation,
        now: Now,
    ) -> Result<Found, Refusal> {
        let marks = self.marks(now)?;
        if from < marks.log_start || from > marks.log_end {
            let (offset, start, end) = (from, marks.log_start, marks.log_end);
            return Err(LogError::OutOfRange { offset, start, end }.into());
        }
        let upper = match isolation {
            Isolation::ReadUncommitted => marks.high_watermark,
            Isolation::ReadCommitted => marks.last_stable,
        };
        let mut found = Found { slices: Vec::new(), len: 0, marks, aborted: None };
        let mut read_to = from;
        if from < upper {
            let read = self.log.read(from, upper, max_bytes, at_least_one, now)?;
            found.len = read.bytes;
            read_to = read.upper;
            found.slices = read.slices;
        }
        if isolation == Isolation::ReadCommitted {
            let aborted = if found.len == 0 {
                Vec::new()
            } else {
                self.log.aborted_transactions(from, read_to, now)?
            };
            found.aborted = Some(aborted);
        }
        Ok(found)
    }

    /// The offset that ListOffsets asks for.
    ///
    /// # Errors
    /// Storage errors; `UnsupportedVersion` for a special timestamp that has no meaning here.
    pub fn offset_for(
        &mut self,
        timestamp: i64,
        isolation: Isolation,
        now: Now,
    ) -> Result<TimedOffset, Refusal> {
        let marks = self.marks(now)?;
        let end = match isolation {
            Isolation::ReadUncommitted => marks.high_watermark,
            Isolation::ReadCommitted => marks.last_stable,
        };
        let (timestamp, offset) = match timestamp {
            // Latest.
            -1 => {
                return Ok(TimedOffset {
                    timestamp: -1,
                    offset: end,
                    leader_epoch: self.leader_epoch,
                });
            }
            // Earliest; without tiered storage the earliest local one is the same.
            -2 | -4 => (-1, marks.log_start),
            -3 => {
                let batch = self.log.batch_with_max_timestamp(now)?;
                batch.and_then(|b| timed::of_max(&b)).filter(|t| t.1 < end).unwrap_or((-1, -1))
            }
            // Last tiered, earliest pending upload: there is no tiered storage.
            -5 | -6 => (-1, -1),
            ts if ts >= 0 => {
                let start = marks.log_start;
                let batch = self.log.batch_for_timestamp(ts, now)?;
                let found = batch.and_then(|b| timed::first_at_or_after(&b, ts, start));
                found.filter(|t| t.1 < end).unwrap_or((-1, -1))
            }
            _ => return Err(ErrorCode::UnsupportedVersion.into()),
        };
        let epoch = if offset >= 0 { self.log.epoch_at(offset, now)? } else { None };
        Ok(TimedOffset { timestamp, offset, leader_epoch: epoch.unwrap_or(-1) })
    }

    /// The largest epoch up to `epoch` and where it ends; (-1, -1) if there is none.
    ///
    /// # Errors
    /// Storage errors.
    pub fn epoch_end(
        &mut self,
        epoch: LeaderEpoch,
        now: Now,
    ) -> Result<(LeaderEpoch, Offset), Refusal> {
        let end = self.log.end_offset_for(epoch, now)?;
        Ok(end.map_or((-1, -1), |e| (e.epoch, e.end)))
    }

    /// Raises the log start offset (DeleteRecords); -1 stands for the high watermark. Returns the
    /// new one.
    ///
    /// # Errors
    /// `PolicyViolation` if records of the topic must not be deleted, `OffsetOutOfRange` beyond the
    /// high watermark.
    pub fn delete_records(&mut self, before: Offset, now: Now) -> Result<Offset, Refusal> {
        if self.settings.log.compact && !self.settings.log.delete {
            return Err(ErrorCode::PolicyViolation.into());
        }
        let to = if before == -1 { self.high_watermark } else { before };
        if to < 0 || to > self.high_watermark {
            return Err(ErrorCode::OffsetOutOfRange.into());
        }
        self.log.advance_log_start(to, now)?;
        Ok(self.log.log_start_offset())
    }
}
