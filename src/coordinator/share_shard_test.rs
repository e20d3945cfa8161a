//! Share state as one shard decides it: fencing, snapshots, pruning, what waits for what.

use super::*;
use crate::coordinator::share_persister::StateBatch;

const SECOND: u64 = 1_000_000_000;

/// A shard with its log in memory.
struct World {
    shard: ShareShard,
    log: Vec<(Offset, ShareRecord)>,
    next: Offset,
    high_watermark: Offset,
    /// Whether appends are committed at once.
    commits: bool,
    refuses: Option<ErrorCode>,
    now: Now,
    replies: Vec<(Token, ShareReply)>,
    pruned: Vec<Offset>,
    next_token: Token,
}

fn settings() -> Arc<ShareSettings> {
    Arc::new(ShareSettings { updates_per_snapshot: 2, ..ShareSettings::default() })
}

fn key(partition: i32) -> ShareKey {
    ShareKey { group: "g".into(), topic: Uuid([1; 16]), partition }
}

fn batch(first: Offset, last: Offset, state: i8) -> StateBatch {
    StateBatch { first, last, state, delivery_count: 1 }
}

fn write(leader_epoch: i32, batches: &[StateBatch]) -> ShareAsk {
    ShareAsk::Write(ShareWrite {
        state_epoch: 1,
        leader_epoch,
        start_offset: -1,
        delivery_complete: 0,
        batches: batches.to_vec(),
    })
}

const INITIALIZE: ShareAsk = ShareAsk::Initialize { state_epoch: 1, start_offset: 10 };
const READ: ShareAsk = ShareAsk::Read { leader_epoch: -1 };
const SUMMARY: ShareAsk = ShareAsk::Summary { leader_epoch: -1 };
const DONE: ShareReply = ShareReply::Done(Ok(()));

impl World {
    fn new() -> Self {
        Self::over(Vec::new(), 0)
    }

    /// A shard that has read `log`, all of it committed.
    fn over(log: Vec<(Offset, ShareRecord)>, next: Offset) -> Self {
        let mut world = Self {
            shard: ShareShard::new(settings()),
            log,
            next,
            high_watermark: next,
            commits: true,
            refuses: None,
            now: Now { mono: Mono(SECOND), wall_ms: 1_000_000 },
            replies: Vec::new(),
            pruned: Vec::new(),
            next_token: 0,
        };
        for (offset, record) in world.log.clone() {
            let (key, value) = record.encode().unwrap();
            assert_eq!(world.shard.replay(offset, &key, value.as_deref()), Ok(true));
        }
        world.step(|shard, now, out| shard.loaded(|t| t == Uuid([1; 16]), now, out));
        world
    }

    fn step(&mut self, f: impl FnOnce(&mut ShareShard, Now, &mut Vec<ShareEffect>)) {
        let mut out = Vec::new();
        f(&mut self.shard, self.now, &mut out);
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                match effect {
                    ShareEffect::Reply { token, reply } => self.replies.push((token, reply)),
                    ShareEffect::Prune(offset) => self.pruned.push(offset),
                    ShareEffect::Append { ticket, records } => {
                        let result = self.append(records);
                        self.shard.appended(ticket, result, self.now, &mut out);
                    }
                }
            }
        }
    }

    fn append(&mut self, records: Vec<ShareRecord>) -> Result<Appended, ErrorCode> {
        if let Some(error) = self.refuses {
            return Err(error);
        }
        for record in records {
            self.log.push((self.next, record));
            self.next += 1;
        }
        if self.commits {
            self.high_watermark = self.next;
        }
        Ok(Appended { last_offset: self.next - 1, high_watermark: self.high_watermark })
    }

    fn call(&mut self, key: ShareKey, ask: ShareAsk) -> Token {
        self.next_token += 1;
        let token = self.next_token;
        let call = ShareCall::Key { exists: key.partition < 8, key, ask };
        self.step(|shard, now, out| shard.handle(token, call, now, out));
        token
    }

    /// The answer that comes at once.
    fn ask(&mut self, partition: i32, ask: ShareAsk) -> ShareReply {
        let token = self.call(key(partition), ask);
        let (answered, reply) = self.replies.pop().expect("it is answered at once");
        assert_eq!(answered, token);
        reply
    }

    fn commit(&mut self) {
        self.high_watermark = self.next;
        let (at, mark) = (self.now, self.next);
        self.step(|shard, _, out| shard.committed(mark, at, out));
    }

    fn pass_ms(&mut self, ms: i64) {
        self.now = Now { mono: self.now.mono.after_ms(ms), wall_ms: self.now.wall_ms + ms };
        self.step(Machine::on_deadline);
    }

    fn state(&mut self, partition: i32) -> ShareState {
        self.ask(partition, READ).state().unwrap()
    }

    fn kinds(&self) -> String {
        let kind = |r: &ShareRecord| match r.value {
            ShareValue::Snapshot(_) => 's',
            ShareValue::Update(_) => 'u',
            ShareValue::Tombstone => 't',
        };
        self.log.iter().map(|(_, r)| kind(r)).collect()
    }
}

#[test]
fn every_so_many_updates_a_snapshot_is_written_and_a_replay_gives_the_same() {
    let mut world = World::new();
    assert_eq!(world.ask(0, INITIALIZE), DONE);
    for n in 0..7 {
        assert_eq!(world.ask(0, write(-1, &[batch(10 + n, 10 + n, 2)])), DONE);
    }
    assert_eq!(world.kinds(), "suusuusu");
    let state = world.state(0);
    let expected = ShareState { state_epoch: 1, start_offset: 10, batches: vec![batch(10, 16, 2)] };
    assert_eq!(state, expected);
    assert_eq!(World::over(world.log.clone(), world.next).state(0), state, "from the whole log");
    let tail = world.log.split_off(6);
    assert_eq!(World::over(tail, world.next).state(0), state, "from the last snapshot on");
}

#[test]
fn leaders_and_epochs_that_are_over_are_fenced_also_after_a_replay() {
    let mut world = World::new();
    let fenced = ShareReply::State(Err(ErrorCode::FencedLeaderEpoch));
    world.ask(0, ShareAsk::Initialize { state_epoch: 3, start_offset: -1 });
    assert!(world.ask(0, ShareAsk::Read { leader_epoch: 7 }).error().is_none());
    assert_eq!(world.kinds(), "su", "that it was read in epoch 7 is written down");
    assert!(world.ask(0, ShareAsk::Read { leader_epoch: 7 }).error().is_none());
    assert_eq!(world.kinds(), "su", "once");
    let mut world = World::over(world.log, world.next);
    assert_eq!(world.ask(0, ShareAsk::Read { leader_epoch: 6 }), fenced);
    let summary = world.ask(0, SUMMARY).summary().unwrap();
    assert_eq!((summary.state_epoch, summary.leader_epoch), (3, 7));
    let stale = ShareReply::Done(Err(ErrorCode::FencedStateEpoch));
    assert_eq!(world.ask(0, write(7, &[])), stale);
    assert_eq!(world.ask(0, ShareAsk::Initialize { state_epoch: 2, start_offset: 4 }), stale);
    // Set anew, the leader of before is still known.
    assert_eq!(world.ask(0, ShareAsk::Initialize { state_epoch: 4, start_offset: 5 }), DONE);
    assert_eq!(world.ask(0, ShareAsk::Read { leader_epoch: 6 }), fenced);
    let summary = world.ask(0, SUMMARY).summary().unwrap();
    assert_eq!((summary.state_epoch, summary.leader_epoch), (4, 0));
    assert_eq!((summary.start_offset, summary.delivery_complete), (5, 0));
    assert_eq!(world.ask(9, INITIALIZE).error(), Some(ErrorCode::UnknownTopicOrPartition));
    assert_eq!(world.ask(-1, INITIALIZE).error(), Some(ErrorCode::InvalidRequest));
}

#[test]
fn a_write_that_comes_late_does_not_take_the_start_offset_back() {
    let mut world = World::new();
    world.ask(1, INITIALIZE);
    let write = |start_offset, batches: &[StateBatch]| {
        let ShareAsk::Write(write) = write(0, batches) else { unreachable!() };
        ShareAsk::Write(ShareWrite { start_offset, ..write })
    };
    for _ in 0..3 {
        // The third is written as a snapshot.
        world.ask(1, write(10, &[batch(15, 16, 2)]));
        world.ask(1, write(20, &[]));
        world.ask(1, write(10, &[batch(15, 16, 2)]));
        assert_eq!((world.state(1).start_offset, world.state(1).batches), (20, Vec::new()));
    }
}

#[test]
fn nobody_is_told_what_is_not_committed() {
    let mut world = World::new();
    world.ask(0, INITIALIZE);
    world.commits = false;
    let first = world.call(key(0), write(-1, &[batch(10, 10, 2)]));
    let second = world.call(key(0), write(-1, &[batch(11, 11, 2)]));
    let read = world.call(key(0), READ);
    assert_eq!(world.replies, []);
    world.commit();
    let tokens: Vec<_> = world.replies.iter().map(|(token, _)| *token).collect();
    assert_eq!(tokens, [first, second, read]);
    let state = world.replies.pop().unwrap().1.state().unwrap();
    assert_eq!(state.batches, [batch(10, 11, 2)]);

    // Not in time: an error, and no read rests on it either; it stays, and may be committed yet.
    world.replies.clear();
    let late = world.call(key(0), write(-1, &[batch(12, 12, 2)]));
    world.pass_ms(4_999);
    assert_eq!(world.replies, []);
    world.pass_ms(1);
    let unavailable = ErrorCode::CoordinatorNotAvailable;
    assert_eq!(world.replies.pop(), Some((late, ShareReply::Done(Err(unavailable)))));
    assert_eq!(world.ask(0, READ).error(), Some(unavailable));
    world.commit();
    assert_eq!(world.state(0).batches, [batch(10, 12, 2)]);

    // What the log refuses changes nothing.
    world.refuses = Some(ErrorCode::NotEnoughReplicas);
    assert_eq!(world.ask(0, write(-1, &[batch(13, 13, 2)])).error(), Some(unavailable));
    assert_eq!(world.state(0).batches, [batch(10, 12, 2)]);

    // Nor is anybody forgotten when the shard goes.
    world.refuses = None;
    let waiting = world.call(key(0), write(-1, &[]));
    let mut out = Vec::new();
    std::mem::replace(&mut world.shard, ShareShard::new(settings())).unload(&mut out);
    let reply = ShareReply::Done(Err(ErrorCode::NotCoordinator));
    assert_eq!(out, [ShareEffect::Reply { token: waiting, reply }]);
}

#[test]
fn what_snapshots_have_replaced_is_given_up_once_they_are_committed() {
    let mut world = World::new();
    for partition in 0..2 {
        world.ask(partition, INITIALIZE);
    }
    for _ in 0..3 {
        world.ask(0, write(-1, &[]));
    }
    assert_eq!(world.kinds(), "ssuus");
    world.pass_ms(299_999);
    assert_eq!(world.pruned, Vec::<Offset>::new(), "it is not time");
    let mut world = World::over(world.log, world.next);
    world.pass_ms(290_000);
    world.commits = false;
    for _ in 0..3 {
        world.call(key(1), write(-1, &[]));
    }
    assert_eq!(world.kinds(), "ssuusuus");
    world.pass_ms(10_000);
    assert_eq!(
        world.pruned,
        Vec::<Offset>::new(),
        "the snapshot at 7 may be lost, and then that at 1 counts"
    );
    world.commit();
    assert_eq!(world.pruned, [4]);
    assert_eq!(world.kinds(), "ssuusuuss", "what was cold was written down anew after the look");
    world.commits = true;
    world.pass_ms(300_000);
    assert_eq!(
        (world.pruned.as_slice(), world.kinds().as_str()),
        ([4, 7].as_slice(), "ssuusuussss")
    );
    world.pass_ms(300_000);
    assert_eq!(world.pruned, [4, 7, 9]);
    assert_eq!(world.kinds(), "ssuusuussss", "nothing has changed since");
}

#[test]
fn cold_state_is_written_down_anew_only_while_other_state_changes() {
    let mut world = World::new();
    world.ask(0, INITIALIZE);
    world.ask(0, write(4, &[batch(10, 12, 4)]));
    world.pass_ms(300_000);
    assert_eq!(world.kinds(), "sus");
    let state = world.state(0);
    assert_eq!(state.batches, [batch(10, 12, 4)]);
    world.ask(1, INITIALIZE);
    world.pass_ms(300_000);
    assert_eq!(world.kinds(), "sussss", "the old and the new");
    world.pass_ms(600_000);
    assert_eq!(world.kinds(), "sussss");
    let (_, last) = world.log.last().unwrap();
    let ShareValue::Snapshot(last) = &last.value else { panic!("{last:?}") };
    assert_eq!((last.snapshot_epoch, last.write_ms - last.create_ms), (1, 300_000));
    assert_eq!(World::over(world.log.split_off(3), world.next).state(0), state);
}

#[test]
fn what_is_deleted_and_topics_that_are_gone_leave_tombstones_alone() {
    let mut world = World::new();
    let other = ShareKey { topic: Uuid([2; 16]), ..key(3) };
    world.ask(0, INITIALIZE);
    world.call(other.clone(), INITIALIZE);
    assert_eq!(world.ask(0, ShareAsk::Delete), DONE);
    assert_eq!(world.ask(0, ShareAsk::Delete), DONE);
    assert_eq!(world.kinds(), "sst");
    assert_eq!(world.ask(0, SUMMARY), ShareReply::Summary(Ok(NOTHING_KEPT)));
    // The topic of the other is not among those that the next coordinator knows.
    let world = World::over(world.log, world.next);
    assert_eq!((world.kinds().as_str(), world.shard.size()), ("sstt", 0));
    let mut world = World::over(world.log, world.next);
    world.pass_ms(300_000);
    assert_eq!(world.pruned, [3]);
    world.ask(2, INITIALIZE);
    let gone = ShareCall::TopicsDeleted(BTreeSet::from([Uuid([1; 16])]));
    world.step(|shard, now, out| shard.handle(77, gone, now, out));
    assert_eq!((world.kinds().as_str(), world.shard.size()), ("ssttst", 0));
}

/// What callers were told of one share partition.
#[derive(Debug, Default, Clone)]
struct Told {
    /// Whether it is there; `None` while that hangs on what was not answered.
    there: Option<bool>,
    /// Records that were acknowledged for certain since it was set.
    certain: BTreeSet<Offset>,
    /// Records of which a write was tried.
    tried: BTreeSet<Offset>,
}

/// Writes, deletions, snapshots, pruning, refused and hanging appends, and crashes that lose what is
/// not committed: what callers were told stays true, from the log as it was pruned.
#[test]
fn what_was_answered_stays_true_through_crashes_and_pruning() {
    use crate::testing::clock::Seeded;
    const KEYS: usize = 4;
    for seed in 0..40 {
        let mut random = Seeded::new(seed);
        let mut world = World::new();
        let mut told: Vec<Told> =
            (0..KEYS).map(|_| Told { there: Some(false), ..Told::default() }).collect();
        let mut asked: BTreeMap<Token, (usize, char, Offset)> = BTreeMap::new();
        for n in 0..200 {
            let (k, offset) = (random.below(KEYS), 10 + n);
            let partition = i32::try_from(k).unwrap();
            match random.below(20) {
                0..10 => {
                    told[k].tried.insert(offset);
                    let token = world.call(key(partition), write(-1, &[batch(offset, offset, 2)]));
                    asked.insert(token, (k, 'w', offset));
                }
                10..12 => {
                    told[k].there = None;
                    told[k].certain.clear();
                    let token = world.call(key(partition), INITIALIZE);
                    asked.insert(token, (k, 'i', offset));
                }
                12 => {
                    told[k].there = None;
                    told[k].certain.clear();
                    let token = world.call(key(partition), ShareAsk::Delete);
                    asked.insert(token, (k, 'd', offset));
                }
                13 => world.commits = random.one_in(2),
                14 => world.refuses = random.one_in(3).then_some(ErrorCode::NotEnoughReplicas),
                15 => world.commit(),
                16 | 17 => world.pass_ms(i64::try_from(random.below(400_000)).unwrap()),
                _ => {
                    // kill -9: another leader has what was committed, and, maybe, more.
                    let (end, mark) = (world.next, world.high_watermark);
                    let spare = usize::try_from(end - mark).unwrap();
                    let kept = mark + i64::try_from(random.below(spare + 1)).unwrap();
                    let start = world.pruned.last().copied().unwrap_or(0);
                    assert!(start <= mark, "{seed}: given up to {start}, committed to {mark}");
                    let mut log = std::mem::take(&mut world.log);
                    log.retain(|(offset, _)| (start..kept).contains(offset));
                    let (now, token) = (world.now, world.next_token);
                    world = World::over(log, kept);
                    (world.now, world.next_token) = (now, token);
                    world.pruned.push(start);
                    asked.clear();
                    world.step(|shard, now, out| shard.loaded(|_| true, now, out));
                }
            }
            let last_pruned = world.pruned.last().copied().unwrap_or(0);
            assert!(world.pruned.iter().all(|p| *p <= last_pruned), "{seed}: {:?}", world.pruned);
            for (token, reply) in std::mem::take(&mut world.replies) {
                let Some((k, kind, offset)) = asked.remove(&token) else { continue };
                // An answer to an older call says nothing if a newer one is under way.
                let newer = asked.values().any(|(other, kind, _)| *other == k && *kind != 'w')
                    || asked
                        .range(..token)
                        .any(|(_, (other, kind, _))| *other == k && *kind != 'w');
                let told = &mut told[k];
                if reply != DONE || newer {
                    continue;
                }
                match kind {
                    'i' => told.there = Some(true),
                    'd' => told.there = Some(false),
                    _ if told.there == Some(true) => _ = told.certain.insert(offset),
                    _ => {}
                }
            }
            // Looked at as the next leader would, were this one to crash now.
            let start = world.pruned.last().copied().unwrap_or(0);
            let mark = world.high_watermark;
            let committed = world.log.iter().filter(|(o, _)| (start..mark).contains(o)).cloned();
            let mut next = World::over(committed.collect(), mark);
            for (k, told) in told.iter().enumerate() {
                let read = next.ask(i32::try_from(k).unwrap(), READ).state();
                let Some(there) = told.there else { continue };
                assert_eq!(read.is_ok(), there, "{seed}.{n}: {k} {told:?} {read:?}");
                let found: BTreeSet<Offset> = read
                    .into_iter()
                    .flat_map(|s| s.batches)
                    .flat_map(|b| b.first..=b.last)
                    .collect();
                assert!(told.certain.is_subset(&found), "{seed}.{n}: {k} {told:?} {found:?}");
                assert!(found.is_subset(&told.tried), "{seed}.{n}: {k} {told:?} {found:?}");
            }
        }
    }
}
