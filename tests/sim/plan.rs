//! What one seed does: how large its cluster is, how durable, and which faults strike it. Every
//! seed draws its own subset of them (a swarm), so that rare combinations are met too.

use vltava::testing::clock::Seeded;

use crate::{clients::TOPIC, txn_clients::TXN_TOPIC};

/// A millisecond of simulated time, in microseconds.
pub const MS: u64 = 1_000;
/// A second of simulated time, in microseconds.
pub const SECOND: u64 = 1_000_000;

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A broker's process dies; what it wrote stays.
    Kill,
    /// A broker's machine dies: unsynced bytes are lost or torn.
    PowerCut,
    /// Every broker's machine dies at once.
    PowerCutAll,
    /// A broker stands still for a while and then goes on as if nothing had been.
    Pause,
    /// One direction between two places is cut.
    OneWayCut,
    /// One place is cut from all others.
    Isolate,
    /// One direction is held up; what was sent arrives late.
    Clog,
    /// A disk is full for a while.
    DiskFull,
    /// A write or a sync fails.
    IoError,
    /// A wall clock jumps.
    WallJump,
    /// Another controller becomes the active one.
    Failover,
    /// A broker is stopped and started in order.
    CleanStop,
    /// A producer gives up what is under way and goes on under a new epoch.
    GiveUp,
    /// The controller is asked for a change: partitions, elections, topics.
    Admin,
}

const ALL: [Fault; 14] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::PowerCutAll,
    Fault::Pause,
    Fault::OneWayCut,
    Fault::Isolate,
    Fault::Clog,
    Fault::DiskFull,
    Fault::IoError,
    Fault::WallJump,
    Fault::Failover,
    Fault::CleanStop,
    Fault::GiveUp,
    Fault::Admin,
];

/// One seed's choices.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub brokers: usize,
    /// Partitions of the topic, and its replication factor.
    pub partitions: usize,
    pub factor: usize,
    pub min_isr: usize,
    /// `flush.messages=1`: an acknowledgement waits for the disk.
    pub durable: bool,
    pub segment_bytes: u64,
    /// How long faults strike, in microseconds.
    pub safety_us: u64,
    /// The mean time between two faults, in microseconds.
    pub fault_gap_us: u64,
    /// Of a thousand messages.
    pub loss: usize,
    /// Of a thousand messages between clients and brokers, or between brokers.
    pub duplicates: usize,
    /// Of a thousand batches on their way to a broker.
    pub corruption: usize,
    /// The usual delay of a message, in microseconds.
    pub delay_us: usize,
    /// Batches that a producer has under way in a partition.
    pub window: usize,
    /// Every so many lanes one writes with acks=1.
    pub one_ack_every: usize,
    pub faults: Vec<Fault>,
    /// Partitions of the topic that transactions write to; without any there are no coordinators.
    pub txn_partitions: usize,
    /// Transactional producers, and members of a group.
    pub transactional: usize,
    pub members: usize,
    /// Members of a classic group.
    pub classic_members: usize,
    /// The level of `transaction.version`.
    pub transaction_version: i16,
    /// Partitions of a compacted topic, and its keys; without any nothing is cleaned.
    pub keyed_partitions: usize,
    pub keys: usize,
    /// `delete.retention.ms` of compacted topics.
    pub delete_retention_ms: i64,
    /// Topics that nobody uses come and go all the time.
    pub churns: bool,
    /// `retention.bytes` of the topic; -1 keeps all.
    pub retention_bytes: i64,
    /// Members of a share group, the topic that it shares, and its settings.
    pub share_members: usize,
    pub share_topic: &'static str,
    pub share_lock_ms: i32,
    pub share_locks: i32,
    /// `min.cleanable.dirty.ratio` of compacted topics, in percent.
    pub cleanable_percent: u64,
}

impl Plan {
    /// What `seed` does.
    pub fn of(seed: u64) -> Self {
        let mut r = Seeded::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5157);
        let brokers = 3 + r.below(3);
        let durable = r.one_in(2);
        let min_isr = 1 + r.below(2);
        let min_isr = if std::env::var("RF1").is_ok() { 1 } else { min_isr };
        let factor = if std::env::var("RF1").is_ok() {
            1
        } else if min_isr == 2 || r.below(4) > 0 {
            2 + r.below(2)
        } else {
            1
        };
        let mut faults: Vec<Fault> = ALL.iter().copied().filter(|_| r.one_in(2)).collect();
        // In the page-cache mode nothing is promised to a machine that dies alone.
        faults.retain(|f| match f {
            Fault::PowerCut => durable || min_isr > 1,
            Fault::PowerCutAll => durable,
            _ => true,
        });
        let mut plan = Self {
            seed,
            brokers,
            partitions: 2 + r.below(3),
            factor,
            min_isr,
            durable,
            segment_bytes: [1024, 4096, 1 << 20][r.below(3)],
            safety_us: (8 + r.below(12) as u64) * SECOND,
            fault_gap_us: (200 + r.below(1500) as u64) * MS,
            loss: [0, 0, 10, 50, 300][r.below(5)],
            duplicates: [0, 10, 100][r.below(3)],
            corruption: [0, 0, 20][r.below(3)],
            delay_us: [300, 2_000, 10_000][r.below(3)],
            window: 1 + r.below(5),
            one_ack_every: 2 + r.below(4),
            faults,
            txn_partitions: 0,
            transactional: 0,
            members: 0,
            classic_members: 0,
            transaction_version: 0,
            keyed_partitions: 0,
            keys: 0,
            delete_retention_ms: 0,
            cleanable_percent: 0,
            churns: false,
            retention_bytes: -1,
            share_members: 0,
            share_topic: TOPIC,
            share_lock_ms: 0,
            share_locks: 0,
        };
        if r.below(4) > 0 {
            plan.txn_partitions = 1 + r.below(3);
            plan.transactional = if r.below(5) > 0 { 1 + r.below(3) } else { 0 };
            plan.members = if r.below(3) > 0 { 1 + r.below(3) } else { 0 };
        }
        plan.transaction_version = if r.below(3) > 0 { 2 } else { 1 };
        if plan.txn_partitions > 0 && r.one_in(2) {
            plan.classic_members = 1 + r.below(3);
        }
        plan.choose_more(&mut Seeded::new(seed ^ 0xc1ea_0000));
        plan
    }

    /// What came later than the rest: the choices above do not change with these.
    fn choose_more(&mut self, r: &mut Seeded) {
        if r.below(5) < 2 {
            self.keyed_partitions = 1 + r.below(2);
            self.keys = [2, 5, 20][r.below(3)];
            self.delete_retention_ms = [200, 1_000, 4_000, 86_400_000][r.below(4)];
            self.cleanable_percent = [0, 10, 50][r.below(3)];
        }
        if r.below(5) < 2 {
            self.share_members = 1 + r.below(3);
            let in_txns = self.txn_partitions > 0 && r.one_in(4);
            self.share_topic = if in_txns { TXN_TOPIC } else { TOPIC };
            self.share_lock_ms = [300, 1_000, 2_000][r.below(3)];
            self.share_locks = [40, 200][r.below(2)];
        }
        if r.below(6) == 0 {
            self.retention_bytes = [0, 2_000, 8_000][r.below(3)];
        }
        self.churns = r.below(6) == 0;
    }

    /// How many brokers may be between an unclean stop and being back in every ISR. Without power
    /// cuts, or with every byte on disk before it counts, any number may.
    pub fn unclean_max(&self) -> usize {
        let cuts = self.faults.contains(&Fault::PowerCut);
        if self.durable || !cuts { self.brokers } else { self.min_isr - 1 }
    }
}
