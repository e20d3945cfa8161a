//! One partition on this broker: its log, its role, its high watermark and who waits for it. Pure
//! but for the log's files; the table holds its lock (`Partition.scala`, `ReplicaManager.scala`).
//! What it does as a leader is in `partition_lead`, as a follower in `partition_follow`, for readers
//! in `partition_read`.
//!
//! With the durable mode on, the high watermark counts this replica only up to its flushed offset,
//! so that what is visible or acknowledged survives a power cut.

use std::sync::Arc;

use futures::channel::oneshot;

pub use super::answer::{Found, Isolation, Marks, Receipt, Refusal, TimedOffset};
use super::{
    bell::{Bell, Listeners},
    brokers::Brokers,
    follower::Follower,
    leader::Leader,
    moves::FutureReplica,
    settings::PartitionSettings,
    turned_away::TurnedAway,
    waiters::Waiters,
};
use crate::{
    base::{ErrorCode, LeaderEpoch, Mutant, Now, Offset, mutant},
    log::{FlushMark, FlushTicket, Log, LogError},
};

/// Told when what was appended is committed, or never will be here.
pub type Committed = Result<Offset, ErrorCode>;

/// What this replica is to the others.
#[derive(Debug)]
pub enum Role {
    /// Nothing yet: its part was not told, or the partition is no longer its.
    None,
    /// It leads.
    Leader(Box<Leader>),
    /// It follows.
    Follower(Box<Follower>),
}

/// One replica.
#[derive(Debug)]
pub struct Partition {
    /// Its log.
    pub log: Log,
    pub(super) brokers: Arc<Brokers>,
    pub(super) settings: Arc<PartitionSettings>,
    pub(super) role: Role,
    pub(super) leader_epoch: LeaderEpoch,
    /// -1 before the first registration.
    pub(super) partition_epoch: i32,
    pub(super) high_watermark: Offset,
    pub(super) committed: Waiters<oneshot::Sender<Committed>>,
    pub(super) flushed: Waiters<oneshot::Sender<Committed>>,
    /// Who waits for the low watermark: until no live replica has the records they deleted.
    pub(super) deleted: Waiters<oneshot::Sender<Committed>>,
    /// Fetches that wait for the high watermark.
    pub(super) readers: Listeners,
    /// Fetches of followers, which wait for the log end.
    pub(super) followers: Listeners,
    flush: Flush,
    /// Whether a segment was closed and is not yet on its way to the disk.
    pub(super) rolled: bool,
    pub(super) turned_away: TurnedAway,
    /// A copy that is being made in another directory.
    pub(super) future: Option<Arc<FutureReplica>>,
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
        brokers: Arc<Brokers>,
        log: Log,
        settings: Arc<PartitionSettings>,
        high_watermark: Offset,
    ) -> Self {
        let (start, end) = (log.log_start_offset(), log.log_end_offset());
        Self {
            log,
            brokers,
            settings,
            role: Role::None,
            leader_epoch: -1,
            partition_epoch: -1,
            high_watermark: high_watermark.clamp(start, end.max(start)),
            committed: Waiters::default(),
            flushed: Waiters::default(),
            deleted: Waiters::default(),
            readers: Listeners::default(),
            followers: Listeners::default(),
            flush: Flush::Idle,
            rolled: false,
            turned_away: TurnedAway::default(),
            future: None,
        }
    }

    /// The topic's settings.
    #[must_use]
    pub fn settings(&self) -> &Arc<PartitionSettings> {
        &self.settings
    }

    /// The brokers as it sees them.
    #[must_use]
    pub fn brokers(&self) -> &Arc<Brokers> {
        &self.brokers
    }

    /// Whether what it sends to followers counts against the leaders' quota.
    #[must_use]
    pub fn is_throttled_leader(&self) -> bool {
        self.settings.throttled.leader.has(self.log.topic_partition().partition)
    }

    /// Whether what it fetches counts against the followers' quota.
    #[must_use]
    pub fn is_throttled_follower(&self) -> bool {
        self.settings.throttled.follower.has(self.log.topic_partition().partition)
    }

    /// Takes over changed settings.
    pub fn configure(&mut self, settings: Arc<PartitionSettings>) {
        self.log.set_config(Arc::clone(&settings.log));
        if let Some(copy) = &self.future {
            copy.lock().set_config(Arc::clone(&settings.log));
        }
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
        matches!(self.role, Role::Leader(_))
    }

    /// Tells everybody who waits that it is over.
    pub fn dismiss(&mut self, code: ErrorCode) {
        for waiters in [&mut self.committed, &mut self.flushed, &mut self.deleted] {
            for waiter in waiters.all() {
                let _ = waiter.send(Err(code));
            }
        }
        self.readers.ring();
        self.followers.ring();
    }

    /// Waits for `offset` to be committed; `None` if it is.
    pub fn await_committed(&mut self, offset: Offset) -> Option<oneshot::Receiver<Committed>> {
        if self.high_watermark > offset || mutant(Mutant::AckBeforeIsr) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        self.committed.make_room(oneshot::Sender::is_canceled);
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
                self.tell_flushed();
                self.advance(now.mono);
                again
            }
            Err(_) => {
                self.dismiss(ErrorCode::KafkaStorageError);
                false
            }
        }
    }

    /// Tells who waits for the disk, leader or follower.
    pub(super) fn tell_flushed(&mut self) {
        let flushed = self.log.flushed_offset();
        for waiter in self.flushed.reached(flushed) {
            let _ = waiter.send(Ok(flushed));
        }
    }

    /// Lets `bell` ring with `id` when there is more to read for a consumer.
    pub fn listen(&mut self, bell: &Arc<Bell>, id: u64) {
        self.readers.add(bell, id);
    }

    /// Lets `bell` ring with `id` when there is more to read for a follower.
    pub fn listen_as_follower(&mut self, bell: &Arc<Bell>, id: u64) {
        self.followers.add(bell, id);
    }

    /// The log start moved: whoever reads is to be told with the next answer.
    pub fn log_start_moved(&mut self) {
        self.readers.note();
        self.followers.note();
    }

    /// Leaves office: whoever waits is sent to the new leader.
    pub fn resign(&mut self, leader_epoch: LeaderEpoch) {
        self.leader_epoch = leader_epoch;
        self.leave_office();
    }

    /// Gives up the role; whoever waits is told.
    pub(super) fn leave_office(&mut self) {
        self.role = Role::None;
        self.dismiss(ErrorCode::NotLeaderOrFollower);
    }

    /// Raises the high watermark to `offset`, which must not lie beyond the log end, and tells who
    /// waits; a lower one changes nothing.
    pub(super) fn raise_high_watermark(&mut self, offset: Offset) {
        assert!(offset <= self.log.log_end_offset(), "a high watermark lies within the log");
        if offset <= self.high_watermark {
            return;
        }
        self.high_watermark = offset;
        for waiter in self.committed.reached(offset) {
            let _ = waiter.send(Ok(offset));
        }
        self.readers.ring();
        if self.settings.followers_serve {
            self.followers.ring();
        } else {
            self.followers.note();
        }
    }
}
