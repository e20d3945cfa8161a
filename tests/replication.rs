//! Three replicas of one partition that pass fetches by direct calls: what is committed, who is in
//! sync, and what becomes of logs that parted. The controller is played by the test.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::channel::oneshot;
use vltava::{
    base::{
        ErrorCode, Mono, NodeId, Now, Offset, TopicPartition, Uuid,
        ports::{FileSlice, Fs},
    },
    log::{FileCache, FlushDriver, Log, LogConfig, LogDir},
    metadata::{self, Delta, Image, PartitionRegistration, Record, record::RegisterBroker},
    record::{Rules, Scratch, TimestampType},
    replica::{
        brokers::Brokers,
        follower::{FetchedPartition, Followed},
        leader::{IsrAnswer, IsrProposal},
        partition::{Committed, Isolation, Partition},
        partition_lead::FollowerRead,
        quota::ThrottledReplicas,
        settings::PartitionSettings,
        table::{Dir, ReplicaTable},
    },
    testing::{
        batches::Batch,
        clock::{SimClock, SimEntropy},
        fs::SimFs,
    },
};

const TOPIC: Uuid = Uuid([7; 16]);

fn settings(min_isr: usize, durable: bool) -> Arc<PartitionSettings> {
    let flush_messages = if durable { 1 } else { i64::MAX };
    Arc::new(PartitionSettings {
        rules: Rules {
            batch_bytes_max: 1 << 20,
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: i64::MAX,
            compacted: false,
            compression: None,
            inflated_bytes_max: 1 << 20,
        },
        log: Arc::new(LogConfig { flush_messages, ..LogConfig::default() }),
        min_insync_replicas: min_isr,
        lag_max: Duration::from_secs(30),
        followers_serve: false,
        throttled: ThrottledReplicas::default(),
    })
}

fn replica(id: i32, settings: &Arc<PartitionSettings>) -> Partition {
    let fs = SimFs::new(7);
    fs.create_dir_all(Path::new("/data")).unwrap();
    let files = Arc::new(FileCache::new(16));
    let dir = LogDir::open(Arc::new(fs), Path::new("/data"), files).unwrap().0;
    let (tp, config) = (TopicPartition::new("t", 0), Arc::clone(&settings.log));
    let log = Log::create(dir, tp, Some(TOPIC), config, Now::default());
    let brokers = Brokers::new(NodeId(id));
    brokers.set_active((1..=3).map(|n| (NodeId(n), i64::from(n) * 10)).collect());
    Partition::new(brokers, log, Arc::clone(settings), 0)
}

/// Three brokers, and the partition as the controller has it.
struct World {
    parts: Vec<Partition>,
    truth: PartitionRegistration,
    now: Now,
    scratch: Scratch,
}

impl World {
    /// Replicas 1, 2, 3 with this ISR; 1 leads.
    fn new(isr: &[i32], min_isr: usize, durable: bool) -> Self {
        let settings = settings(min_isr, durable);
        let ids = |ids: &[i32]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
        let truth = PartitionRegistration::new(&ids(&[1, 2, 3]), &[Uuid::ZERO; 3], &ids(isr));
        let parts = (1..=3).map(|id| replica(id, &settings)).collect();
        let mut world = Self { parts, truth, now: Now::default(), scratch: Scratch::default() };
        world.publish(&[1, 2, 3]);
        world
    }

    fn part(&mut self, id: i32) -> &mut Partition {
        &mut self.parts[usize::try_from(id - 1).unwrap()]
    }

    fn publish(&mut self, to: &[i32]) {
        let (truth, now) = (self.truth.clone(), self.now);
        for id in to {
            if truth.leader == Some(NodeId(*id)) {
                self.part(*id).lead(&truth, now);
            } else {
                self.part(*id).follow(&truth);
            }
        }
    }

    fn elect(&mut self, leader: i32, isr: &[i32], told: &[i32]) {
        self.truth.leader = Some(NodeId(leader));
        self.truth.isr = isr.iter().map(|id| NodeId(*id)).collect();
        self.truth.leader_epoch += 1;
        self.truth.partition_epoch += 1;
        self.publish(told);
    }

    fn pass(&mut self, secs: u64) {
        self.now.mono = self.now.mono.after(Duration::from_secs(secs));
        self.now.wall_ms += i64::try_from(secs).unwrap() * 1000;
    }

    /// A producer's request with acks=all: what it waits for, if anything.
    fn produce(
        &mut self,
        to: i32,
        records: usize,
    ) -> Result<Option<oneshot::Receiver<Committed>>, ErrorCode> {
        let bytes = Bytes::from(Batch::of(records, 10, self.now.wall_ms).bytes());
        let (now, mut scratch) = (self.now, std::mem::take(&mut self.scratch));
        let part = self.part(to);
        let done = part.produce(&bytes, true, 12, now, &mut scratch);
        let done = done.map(|r| part.await_committed(r.last_offset)).map_err(|r| r.code);
        self.scratch = scratch;
        done
    }

    /// One fetch of `from` by `by`; what the follower made of the answer.
    fn fetch(&mut self, by: i32, from: i32) -> Result<Followed, ErrorCode> {
        let now = self.now;
        let at = self.part(by).next_fetch(now).expect("something to ask");
        let read = FollowerRead {
            replica: NodeId(by),
            replica_epoch: i64::from(by) * 10,
            current_leader_epoch: at.current_leader_epoch,
            fetch_offset: at.offset,
            last_fetched_epoch: at.last_fetched_epoch,
            log_start: at.log_start,
            max_bytes: 1 << 20,
            at_least_one: true,
        };
        let got = self.part(from).fetch_as_follower(&read, now).map_err(|r| r.code)?;
        let answer = FetchedPartition {
            fetch_offset: at.offset,
            leader_epoch: at.current_leader_epoch,
            error: ErrorCode::None,
            high_watermark: got.found.marks.high_watermark,
            log_start: got.found.marks.log_start,
            diverging: got.diverging,
            records: content(&got.found.slices),
        };
        Ok(self.part(by).fetched(&answer, now))
    }

    /// Fetches until the follower has it all and the leader knows.
    fn catch_up(&mut self, by: i32, from: i32) {
        while matches!(self.fetch(by, from), Ok(Followed::Moved { .. })) {}
    }

    fn proposal(&mut self, of: i32) -> Option<IsrProposal> {
        let now = self.now;
        self.part(of).isr_proposal(now)
    }

    /// The controller commits `proposal`.
    fn commit(&mut self, of: i32, proposal: &IsrProposal) {
        assert_eq!(proposal.partition_epoch, self.truth.partition_epoch);
        assert_eq!(proposal.leader_epoch, self.truth.leader_epoch);
        self.truth.isr = proposal.isr.iter().map(|(id, _)| *id).collect();
        self.truth.partition_epoch += 1;
        let (leader_epoch, partition_epoch) = (self.truth.leader_epoch, self.truth.partition_epoch);
        let answer = IsrAnswer { leader_epoch, partition_epoch, isr: self.truth.isr.to_vec() };
        let now = self.now;
        self.part(of).isr_answered(proposal, Ok(answer), now);
    }

    fn marks(&mut self, of: i32) -> (Offset, Offset) {
        let part = self.part(of);
        (part.high_watermark(), part.log.log_end_offset())
    }

    /// All bytes up to the high watermark.
    fn committed(&mut self, of: i32) -> Bytes {
        let now = self.now;
        let all = self.part(of).read(0, 1 << 20, true, Isolation::ReadUncommitted, now).unwrap();
        content(&all.slices)
    }

    fn flush(&mut self, of: i32) {
        let now = self.now;
        let part = self.part(of);
        if let Some(ticket) = part.begin_flush() {
            part.end_flush(ticket.sync(), now);
        }
    }
}

fn content(slices: &[FileSlice]) -> Bytes {
    let mut out = BytesMut::new();
    for slice in slices {
        let mut bytes = vec![0; slice.len];
        slice.file.read_exact_at(&mut bytes, slice.pos).unwrap();
        out.extend_from_slice(&bytes);
    }
    out.freeze()
}

fn members(proposal: Option<&IsrProposal>) -> Vec<i32> {
    proposal.map_or(vec![], |p| p.isr.iter().map(|(id, _)| id.0).collect())
}

#[test]
fn acks_all_waits_for_every_member_of_the_isr() {
    let mut w = World::new(&[1, 2, 3], 2, false);
    for id in [2, 3] {
        assert_eq!(w.fetch(id, 1), Ok(Followed::Same));
    }
    let mut wait = w.produce(1, 5).unwrap().expect("nobody else has it");
    w.fetch(2, 1).unwrap();
    w.fetch(2, 1).unwrap();
    assert_eq!((w.marks(1), w.marks(2)), ((0, 5), (0, 5)), "3 has not");
    w.fetch(3, 1).unwrap();
    assert_eq!(w.marks(1), (0, 5), "3 got it, and has yet to say so");
    assert_eq!(wait.try_recv(), Ok(None));
    w.fetch(3, 1).unwrap();
    assert_eq!((w.marks(1), wait.try_recv()), ((5, 5), Ok(Some(Ok(5)))));
    assert_eq!(w.marks(3), (5, 5), "the same answer told the follower");
    w.fetch(2, 1).unwrap();
    assert_eq!(w.committed(1), w.committed(2));
}

#[test]
fn the_isr_shrinks_and_grows_and_min_insync_replicas_holds() {
    let mut w = World::new(&[1, 2, 3], 2, false);
    w.catch_up(2, 1);
    w.catch_up(3, 1);
    let mut first = w.produce(1, 1).unwrap().unwrap();
    w.catch_up(2, 1);
    w.pass(31);
    w.catch_up(2, 1);
    let now = w.now;
    assert!(!w.part(1).begins_to_lag(now) || w.part(1).look_after(now));
    let shrink = w.proposal(1);
    assert_eq!(members(shrink.as_ref()), [1, 2]);
    assert_eq!(w.marks(1).0, 0, "a shrink counts once it is committed");
    w.commit(1, &shrink.unwrap());
    assert_eq!((w.marks(1).0, first.try_recv()), (1, Ok(Some(Ok(1)))));

    let mut second = w.produce(1, 1).unwrap().unwrap();
    w.pass(31);
    let shrink = w.proposal(1).unwrap();
    assert_eq!(members(Some(&shrink)), [1]);
    w.commit(1, &shrink);
    assert_eq!(w.marks(1), (1, 2), "too few: the high watermark stays");
    assert_eq!(second.try_recv(), Ok(None));
    assert_eq!(w.produce(1, 1).err(), Some(ErrorCode::NotEnoughReplicas));

    w.catch_up(3, 1);
    let grow = w.proposal(1).unwrap();
    assert_eq!(grow.isr, [(NodeId(1), 10), (NodeId(3), 30)]);
    w.commit(1, &grow);
    assert_eq!((w.marks(1), second.try_recv()), ((2, 2), Ok(Some(Ok(2)))));
}

#[test]
fn who_waits_under_a_raised_minimum_waits_until_there_are_enough() {
    let mut w = World::new(&[1, 2], 1, false);
    w.catch_up(2, 1);
    w.pass(31);
    let shrink = w.proposal(1);
    assert_eq!(shrink, None, "it has everything");
    let mut wait = w.produce(1, 1).unwrap().unwrap();
    w.part(1).configure(settings(2, false));
    w.pass(31);
    let shrink = w.proposal(1).unwrap();
    assert_eq!(members(Some(&shrink)), [1]);
    w.commit(1, &shrink);
    // One would have been enough when it was appended: no longer, so it is not committed, and the
    // producer is told neither of success nor of NOT_ENOUGH_REPLICAS_AFTER_APPEND.
    assert_eq!((w.marks(1), wait.try_recv()), ((0, 1), Ok(None)));
    w.part(1).configure(settings(1, false));
    let now = w.now;
    w.part(1).look_after(now);
    assert_eq!((w.marks(1), wait.try_recv()), ((1, 1), Ok(Some(Ok(1)))));
}

#[test]
fn a_deletion_is_over_when_every_live_replica_has_followed() {
    let mut w = World::new(&[1, 2, 3], 1, false);
    let alive = |w: &mut World, ids: &[i32]| {
        let alive = ids.iter().map(|id| NodeId(*id)).collect();
        w.part(1).brokers().set_alive(alive);
    };
    alive(&mut w, &[1, 2, 3]);
    w.produce(1, 10).unwrap();
    w.catch_up(2, 1);
    w.catch_up(3, 1);
    let now = w.now;
    assert_eq!(w.part(1).delete_records(4, now), Ok(4));
    assert_eq!(w.part(1).low_watermark(), Some(0));
    let mut wait = w.part(1).await_deleted(4).expect("the followers do not know");
    for _ in 0..2 {
        w.fetch(2, 1).unwrap();
    }
    assert_eq!((w.part(1).low_watermark(), wait.try_recv()), (Some(0), Ok(None)), "3 has not");
    w.fetch(3, 1).unwrap();
    assert_eq!(wait.try_recv(), Ok(None), "3 learned of it, and has yet to say so");
    w.fetch(3, 1).unwrap();
    assert_eq!(wait.try_recv(), Ok(Some(Ok(4))));
    assert!(w.part(1).await_deleted(4).is_none());

    // Of two that have not followed, one is lost: the other alone is waited for.
    assert_eq!(w.part(1).delete_records(-1, now), Ok(10));
    let mut wait = w.part(1).await_deleted(10).unwrap();
    for _ in 0..2 {
        w.fetch(2, 1).unwrap();
    }
    assert_eq!(wait.try_recv(), Ok(None));
    alive(&mut w, &[1, 2]);
    w.part(1).advance(now.mono);
    assert_eq!(wait.try_recv(), Ok(Some(Ok(10))));

    let mut wait = w.part(1).await_deleted(11).unwrap();
    w.elect(2, &[1, 2], &[1]);
    assert_eq!(wait.try_recv(), Ok(Some(Err(ErrorCode::NotLeaderOrFollower))));
}

#[test]
fn a_proposed_member_is_waited_for_although_the_answer_is_lost() {
    let mut w = World::new(&[1], 1, false);
    w.catch_up(2, 1);
    let grow = w.proposal(1).unwrap();
    // The controller commits it, but the leader does not hear.
    w.truth.isr = [NodeId(1), NodeId(2)].into();
    w.truth.partition_epoch += 1;
    let wait = w.produce(1, 3).unwrap();
    assert!(wait.is_some(), "2 may be in the ISR and has not got it");
    let now = w.now;
    assert!(w.part(1).isr_answered(&grow, Err(ErrorCode::RequestTimedOut), now));
    assert_eq!(w.proposal(1), Some(grow.clone()), "the same again");
    assert!(!w.part(1).isr_answered(&grow, Err(ErrorCode::InvalidUpdateVersion), now));
    w.pass(1000);
    assert_eq!((w.proposal(1), w.marks(1).0), (None, 0));
    w.publish(&[1]);
    w.catch_up(2, 1);
    assert_eq!(w.marks(1), (3, 3));
}

#[test]
fn a_longer_follower_is_cut_at_the_new_leaders_epoch() {
    let mut w = World::new(&[1, 2, 3], 1, false);
    let mut lost = w.produce(1, 4).unwrap().unwrap();
    w.catch_up(2, 1);
    w.fetch(3, 1).unwrap();
    w.fetch(3, 1).unwrap();
    assert_eq!(w.marks(1), (4, 4));
    assert_eq!(lost.try_recv(), Ok(Some(Ok(4))));
    w.fetch(2, 1).unwrap();
    // 1 takes more that nobody else gets, and 2 is elected.
    let mut lost = w.produce(1, 6).unwrap().unwrap();
    w.elect(2, &[1, 2, 3], &[2, 3]);
    assert!(w.part(2).offset_for(-1, Isolation::ReadUncommitted, Now::default()).is_ok());
    w.produce(2, 1).unwrap();
    w.catch_up(3, 2);
    // 1 hears of it late: until then it neither commits nor serves the others' epoch.
    assert_eq!(w.fetch(3, 1), Err(ErrorCode::UnknownLeaderEpoch));
    w.publish(&[1]);
    assert_eq!(lost.try_recv(), Ok(Some(Err(ErrorCode::NotLeaderOrFollower))));
    assert_eq!(w.fetch(1, 2), Ok(Followed::Moved { bytes: 0 }), "cut");
    assert_eq!(w.marks(1), (4, 4));
    w.catch_up(1, 2);
    w.catch_up(3, 2);
    assert_eq!((w.marks(1), w.marks(2), w.marks(3)), ((5, 5), (5, 5), (5, 5)));
    assert_eq!(w.committed(1), w.committed(2));
    assert_eq!(w.committed(3), w.committed(2));
}

#[test]
fn a_new_leader_does_not_guess_what_is_committed() {
    let mut w = World::new(&[1, 2, 3], 1, false);
    w.produce(1, 4).unwrap();
    w.fetch(2, 1).unwrap();
    w.fetch(3, 1).unwrap();
    assert_eq!((w.marks(2), w.marks(3)), ((0, 4), (0, 4)));
    w.elect(2, &[2, 3], &[2, 3]);
    let now = w.now;
    let latest = |w: &mut World| w.part(2).offset_for(-1, Isolation::ReadUncommitted, now);
    assert_eq!(latest(&mut w).unwrap_err().code, ErrorCode::OffsetNotAvailable);
    assert_eq!(w.part(2).offset_for(-2, Isolation::ReadUncommitted, now).unwrap().offset, 0);
    assert_eq!(w.part(2).offset_for(-1, Isolation::LogEnd, now).unwrap().offset, 4);
    w.fetch(3, 2).unwrap();
    assert_eq!(latest(&mut w).unwrap().offset, 4);
}

#[test]
fn in_the_durable_mode_nothing_counts_before_it_is_on_disk() {
    let mut w = World::new(&[1, 2], 1, true);
    let now = w.now;
    assert_eq!(w.fetch(2, 1), Ok(Followed::Same));
    let mut wait = w.produce(1, 2).unwrap().unwrap();
    w.fetch(2, 1).unwrap();
    assert!(w.part(2).next_fetch(now).is_none(), "its own disk comes first");
    w.flush(2);
    w.fetch(2, 1).unwrap();
    assert_eq!(w.marks(1), (0, 2), "the follower has it, the leader's disk not");
    w.flush(1);
    assert_eq!((w.marks(1), wait.try_recv()), ((2, 2), Ok(Some(Ok(2)))));
}

#[test]
fn consumers_are_sent_to_a_replica_in_their_rack_that_has_what_they_want() {
    let mut w = World::new(&[1, 2], 1, false);
    let rack = |id: NodeId| Some(["", "a", "b", "b"][usize::try_from(id.0).unwrap()]);
    w.produce(1, 3).unwrap();
    let nearest = |w: &mut World, rack_id: &str, offset| {
        w.part(1).nearest_replica(offset, rack_id, rack).map(|n| n.0)
    };
    assert_eq!(nearest(&mut w, "b", 0), None, "2 has not fetched");
    w.catch_up(2, 1);
    assert_eq!(nearest(&mut w, "b", 3), Some(2));
    assert_eq!((nearest(&mut w, "b", 4), nearest(&mut w, "a", 3)), (None, None));
    assert_eq!((nearest(&mut w, "c", 3), nearest(&mut w, "", 3)), (None, None));
    let now = w.now;
    assert_eq!(w.part(2).check_replica(0), Ok(()));
    assert_eq!(w.part(2).check_leader(0), Err(ErrorCode::NotLeaderOrFollower));
    let beyond = w.part(2).read(4, 100, true, Isolation::ReadUncommitted, now);
    assert_eq!(beyond.unwrap_err().code, ErrorCode::OffsetOutOfRange);
    assert!(w.now.mono >= Mono(0));
}

/// The metadata of a partition that broker 1 leads with `isr`, registered as `incarnation`.
fn image_of(incarnation: u8, isr: &[i32], leader_epoch: i32) -> Image {
    let registered = RegisterBroker {
        id: NodeId(1),
        incarnation: Uuid([incarnation; 16]),
        epoch: Some(i64::from(incarnation)),
        endpoints: Vec::new(),
        features: Vec::new(),
        rack: None,
        log_dirs: vec![TOPIC],
        fenced: false,
        in_controlled_shutdown: false,
        cordoned_dirs: None,
    };
    let ids = |ids: &[i32]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
    let mut state = PartitionRegistration::new(&ids(&[1, 2]), &[TOPIC; 2], &ids(isr));
    (state.leader_epoch, state.partition_epoch) = (leader_epoch, leader_epoch);
    let mut delta = Delta::new(&Image::default());
    for record in [
        Record::RegisterBroker(registered),
        Record::Topic { name: "t".into(), id: TOPIC },
        Record::Partition(metadata::record::Partition { topic_id: TOPIC, partition: 0, state }),
    ] {
        delta.replay(&record, 0).unwrap();
    }
    delta.image().clone()
}

/// What a broker reads when it starts may be older than the ISR that it is in: it would count as
/// committed what another has not got.
#[test]
fn nothing_is_led_by_metadata_of_the_last_life() {
    let fs = SimFs::new(7);
    fs.create_dir_all(Path::new("/data")).unwrap();
    let log_dir =
        LogDir::open(Arc::new(fs), Path::new("/data"), Arc::new(FileCache::new(16))).unwrap().0;
    let flusher = Arc::new(FlushDriver::stepped());
    let dir = Dir { log_dir, id: TOPIC, name: "/data".to_owned(), flusher };
    let (clock, entropy) = (Arc::new(SimClock::new(0)), Arc::new(SimEntropy::new(1)));
    let table = ReplicaTable::new(NodeId(1), vec![dir], 4, clock, entropy);
    table.life.begin(Uuid([2; 16]));
    let mut settings = |_: &str| settings(1, false);

    let old = image_of(1, &[1], 0);
    let published = table.publish(&Delta::between(&Image::default(), &old), &old, &mut settings);
    let slot = table.by_id(TOPIC, 0).unwrap();
    assert!(!slot.lock().leads());
    assert!(published.offices.is_empty());
    assert_eq!(
        published.following.iter().filter_map(|f| f.leader).count(),
        0,
        "nor itself followed"
    );

    // The same office again, as if nobody had taken it from the last life.
    let new = image_of(2, &[1], 0);
    let published = table.publish(&Delta::between(&old, &new), &new, &mut settings);
    assert!(slot.lock().leads());
    assert_eq!(published.offices.len(), 1);

    let later = image_of(2, &[1, 2], 1);
    table.publish(&Delta::between(&new, &later), &later, &mut settings);
    assert!(slot.lock().leads());
    assert_eq!(slot.lock().leader_epoch(), 1);
}
