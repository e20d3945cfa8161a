//! Replicas of one partition on several brokers, each with a disk in memory.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use vltava::{
    base::{
        ErrorCode, LeaderEpoch, NodeId, Now, Offset, TopicPartition, Uuid,
        ports::{Clock, Fs as _},
    },
    log::{FileCache, FlushDriver, Log, LogConfig, LogDir},
    metadata::PartitionRegistration,
    record::Rules,
    replica::{
        follower::{FetchPosition, FetchedPartition, Followed, LeaderBounds},
        partition::{Partition, Refusal},
        partition_lead::FollowerRead,
        quota::ThrottledReplicas,
        settings::PartitionSettings,
        table::{Dir, ReplicaTable, Slot},
    },
    testing::{
        batches::Batch,
        clock::{SimClock, SimEntropy},
        fs::SimFs,
    },
};

pub(crate) const TOPIC_ID: Uuid = Uuid([7; 16]);

/// A broker.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) fs: SimFs,
    pub(crate) table: Arc<ReplicaTable>,
    pub(crate) settings: Arc<PartitionSettings>,
}

pub(crate) fn settings(durable: bool) -> Arc<PartitionSettings> {
    let flush_messages = if durable { 1 } else { i64::MAX };
    let log = LogConfig {
        segment_bytes: 4096,
        index_interval_bytes: 300,
        flush_messages,
        ..LogConfig::default()
    };
    Arc::new(PartitionSettings {
        rules: Rules::default(),
        log: Arc::new(log),
        min_insync_replicas: 1,
        lag_max: Duration::from_secs(30),
        followers_serve: true,
        throttled: ThrottledReplicas::default(),
    })
}

impl Node {
    pub(crate) fn new(id: i32, clock: &Arc<SimClock>, durable: bool) -> Self {
        let fs = SimFs::new(u64::try_from(id).unwrap());
        fs.create_dir_all(Path::new("/data")).and_then(|()| fs.sync_dir(Path::new("/"))).unwrap();
        let files = Arc::new(FileCache::new(64));
        let (log_dir, _) = LogDir::open(Arc::new(fs.clone()), Path::new("/data"), files).unwrap();
        let dir = Dir {
            log_dir,
            id: Uuid([9; 16]),
            name: "/data".to_owned(),
            flusher: Arc::new(FlushDriver::start(1).unwrap()),
        };
        let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
        let entropy = Arc::new(SimEntropy::new(1));
        let table = ReplicaTable::new(NodeId(id), vec![dir], 10, clock, entropy);
        let active = (1..4).map(|n| (NodeId(n), 100 + i64::from(n)));
        table.brokers.set_active(active.collect());
        Self { id: NodeId(id), fs, table: Arc::new(table), settings: settings(durable) }
    }

    pub(crate) fn now(&self) -> Now {
        self.table.clock.now()
    }

    /// Makes partition `partition` of topic `t`.
    pub(crate) fn make(&self, partition: i32) -> Arc<Slot> {
        let id = TopicPartition::new("t", partition);
        let log_dir = Arc::clone(&self.table.dirs()[0].log_dir);
        let config = Arc::clone(&self.settings.log);
        let log = Log::create(log_dir, id.clone(), Some(TOPIC_ID), config, self.now());
        let brokers = Arc::clone(&self.table.brokers);
        let state = Partition::new(brokers, log, Arc::clone(&self.settings), 0);
        self.table.add(&id, TOPIC_ID, 0, state);
        self.table.by_id(TOPIC_ID, partition).unwrap()
    }

    /// What metadata says, taken over.
    pub(crate) fn learn(&self, slot: &Slot, registration: &PartitionRegistration) {
        if registration.leader == Some(self.id) {
            slot.lock().lead(registration, self.now());
        } else {
            slot.lock().follow(registration);
        }
    }

    /// Asks `leader` once and takes its answer.
    pub(crate) fn pull(&self, slot: &Slot, leader: &Self, from: &Slot) -> Followed {
        let position = slot.lock().next_fetch(self.now()).expect("it follows somebody");
        let answer = self.answer(leader, from, &position);
        slot.lock().fetched(&answer, self.now())
    }

    /// What `leader` answers to this broker.
    pub(crate) fn answer(
        &self,
        leader: &Self,
        from: &Slot,
        at: &FetchPosition,
    ) -> FetchedPartition {
        let read = FollowerRead {
            replica: self.id,
            replica_epoch: 100 + i64::from(self.id.0),
            current_leader_epoch: at.current_leader_epoch,
            fetch_offset: at.offset,
            last_fetched_epoch: at.last_fetched_epoch,
            log_start: at.log_start,
            max_bytes: 3000,
            at_least_one: true,
        };
        let got = from.lock().fetch_as_follower(&read, leader.now());
        let mut answer = FetchedPartition {
            fetch_offset: at.offset,
            leader_epoch: at.current_leader_epoch,
            error: ErrorCode::None,
            high_watermark: -1,
            log_start: -1,
            diverging: None,
            records: Bytes::new(),
        };
        match got {
            Err(Refusal { code, .. }) => answer.error = code,
            Ok(got) => {
                answer.high_watermark = got.found.marks.high_watermark;
                answer.log_start = got.found.marks.log_start;
                answer.diverging = got.diverging;
                let mut bytes = Vec::new();
                for slice in got.found.slices {
                    let at = bytes.len();
                    bytes.resize(at + slice.len, 0);
                    slice.file.read_exact_at(&mut bytes[at..], slice.pos).unwrap();
                }
                answer.records = bytes.into();
            }
        }
        answer
    }

    /// Pulls until there is nothing new, asking for bounds where it must.
    pub(crate) fn catch_up(&self, slot: &Slot, leader: &Self, from: &Slot) {
        for _ in 0..100 {
            match self.pull(slot, leader, from) {
                Followed::Moved { .. } => {}
                Followed::Same => return,
                Followed::AskBounds => {
                    let bounds = bounds(from);
                    let done = slot.lock().bounded(bounds, self.now());
                    assert!(matches!(done, Followed::Moved { .. }), "{done:?}");
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("it never catches up");
    }
}

pub(crate) fn bounds(leader: &Slot) -> LeaderBounds {
    let partition = leader.lock();
    LeaderBounds {
        leader_epoch: partition.leader_epoch(),
        start: partition.log.log_start_offset(),
        end: partition.log.log_end_offset(),
    }
}

/// Replicas 1 to 3, all of them in sync, led by `leader`.
pub(crate) fn registration(leader: i32, leader_epoch: LeaderEpoch) -> PartitionRegistration {
    let all = [NodeId(1), NodeId(2), NodeId(3)];
    let dirs = [Uuid::UNASSIGNED_DIR; 3];
    PartitionRegistration {
        leader: Some(NodeId(leader)),
        leader_epoch,
        partition_epoch: leader_epoch,
        ..PartitionRegistration::new(&all, &dirs, &all)
    }
}

/// Produces `count` records of `bytes` bytes, all of value `value`, and returns the last offset.
pub(crate) fn produce(node: &Node, slot: &Slot, count: usize, bytes: usize, value: u8) -> Offset {
    let mut batch = Batch::of(count, bytes, node.now().wall_ms);
    batch.values = vec![vec![value; bytes]; count];
    let records = Bytes::from(batch.bytes());
    let mut scratch = vltava::record::Scratch::default();
    let done = slot.lock().produce(&records, false, 9, node.now(), &mut scratch);
    done.unwrap().last_offset
}

/// All bytes from the log start to `upto`.
pub(crate) fn bytes_upto(node: &Node, slot: &Slot, upto: Offset) -> Vec<u8> {
    let mut partition = slot.lock();
    let (mut at, mut out) = (partition.log.log_start_offset(), Vec::new());
    while at < upto {
        let got = partition.log.read(at, upto, usize::MAX, true, node.now()).unwrap();
        for slice in got.slices {
            let from = out.len();
            out.resize(from + slice.len, 0);
            slice.file.read_exact_at(&mut out[from..], slice.pos).unwrap();
            for batch in vltava::record::batch::batches(&out[from..]) {
                at = batch.unwrap().0.next_offset();
            }
        }
    }
    out
}

pub(crate) fn ends(slot: &Slot) -> (Offset, Offset, Offset) {
    let partition = slot.lock();
    let log = &partition.log;
    (log.log_start_offset(), partition.high_watermark(), log.log_end_offset())
}
