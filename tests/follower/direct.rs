//! Replicas that follow each other by direct calls: what they append, cut off and commit.

use std::sync::Arc;

use crate::world::{Node, bounds, bytes_upto, ends, produce, registration};
use vltava::{
    base::{ErrorCode, NodeId},
    metadata::PartitionRegistration,
    replica::{
        follower::{FetchedPartition, Followed},
        table::Slot,
    },
    testing::{batches::Batch, clock::SimClock},
};

/// Three brokers with one replica each; 1 leads in epoch 1.
fn three(durable: bool) -> ([Node; 3], [Arc<Slot>; 3]) {
    let clock = Arc::new(SimClock::new(1_000));
    let nodes = [1, 2, 3].map(|n| Node::new(n, &clock, durable));
    let slots = [0, 1, 2].map(|n| nodes[n].make(0));
    learn(&nodes, &slots, &registration(1, 1));
    (nodes, slots)
}

fn learn(nodes: &[Node; 3], slots: &[Arc<Slot>; 3], registration: &PartitionRegistration) {
    for (node, slot) in nodes.iter().zip(slots) {
        node.learn(slot, registration);
    }
}

#[test]
fn replicas_are_equal_byte_by_byte_and_the_high_watermark_follows() {
    let ([a, b, c], [sa, sb, sc]) = three(false);
    for n in 0..20 {
        produce(&a, &sa, 1 + n % 3, 700, u8::try_from(n).unwrap());
    }
    let end = ends(&sa).2;
    b.catch_up(&sb, &a, &sa);
    assert_eq!(ends(&sa).1, 0, "one of the in-sync replicas has nothing");
    assert_eq!(ends(&sb), (0, 0, end));
    c.catch_up(&sc, &a, &sa);
    assert_eq!(ends(&sa).1, end);
    assert_eq!(ends(&sb).1, 0, "it has not been told yet");
    b.catch_up(&sb, &a, &sa);
    assert_eq!((ends(&sb), ends(&sc)), ((0, end, end), (0, end, end)));
    let want = bytes_upto(&a, &sa, end);
    assert!(want.len() > 20 * 700);
    assert!(bytes_upto(&b, &sb, end) == want);
    assert!(bytes_upto(&c, &sc, end) == want);
}

#[test]
fn a_follower_that_diverged_cuts_off_what_the_new_leader_does_not_have() {
    let (nodes, slots) = three(false);
    let ([a, b, c], [sa, sb, sc]) = (&nodes, &slots);
    produce(a, sa, 5, 10, 1);
    b.catch_up(sb, a, sa);
    c.catch_up(sc, a, sa);
    // 1 goes on alone and takes what nobody else gets; 2 takes over.
    produce(a, sa, 7, 10, 2);
    learn(&nodes, &slots, &registration(2, 2));
    produce(b, sb, 2, 10, 3);
    assert_eq!(ends(sa).2, 12);
    a.catch_up(sa, b, sb);
    c.catch_up(sc, b, sb);
    assert_eq!((ends(sa).2, ends(sc).2), (7, 7));
    a.catch_up(sa, b, sb);
    assert_eq!(ends(sa).1, 7);
    let want = bytes_upto(b, sb, 7);
    assert!(bytes_upto(a, sa, 7) == want && bytes_upto(c, sc, 7) == want);
    let epoch = sa.lock().log.epoch_at(5, a.now()).unwrap();
    assert_eq!(epoch, Some(2), "what was cut left no epoch behind");
}

#[test]
fn logs_that_parted_more_than_once_are_cut_step_by_step() {
    let (nodes, slots) = three(false);
    let ([a, b, _], [sa, sb, sc]) = (&nodes, &slots);
    produce(a, sa, 4, 10, 1);
    b.catch_up(sb, a, sa);
    nodes[2].catch_up(sc, a, sa);
    // Each leads in turn and reaches nobody.
    for epoch in 2..8 {
        let leader = 1 + epoch % 2;
        learn(&nodes, &slots, &registration(leader, epoch));
        let at = usize::try_from(leader - 1).unwrap();
        produce(&nodes[at], &slots[at], 3, 10, u8::try_from(epoch).unwrap());
    }
    let end = ends(sb).2;
    assert_eq!((ends(sa).2, end), (13, 13));
    a.catch_up(sa, b, sb);
    assert!(bytes_upto(a, sa, end) == bytes_upto(b, sb, end));
}

#[test]
fn a_log_longer_than_its_leaders_is_cut_to_it_after_an_unclean_election() {
    let (nodes, slots) = three(false);
    let ([a, b, c], [sa, sb, sc]) = (&nodes, &slots);
    produce(a, sa, 9, 10, 1);
    b.catch_up(sb, a, sa);
    b.catch_up(sb, a, sa);
    // 3 never had anything, and leads now.
    learn(&nodes, &slots, &registration(3, 2));
    a.catch_up(sa, c, sc);
    assert_eq!(ends(sa), (0, 0, 0), "an empty leader");
    produce(c, sc, 2, 10, 4);
    a.catch_up(sa, c, sc);
    b.catch_up(sb, c, sc);
    assert!(bytes_upto(b, sb, 2) == bytes_upto(c, sc, 2));
    assert_eq!((ends(sa).2, ends(sb).2), (2, 2));
}

#[test]
fn a_new_replica_begins_where_its_leaders_log_does() {
    let ([a, b, _], [sa, sb, _]) = three(false);
    for n in 0..8 {
        produce(&a, &sa, 5, 700, n);
    }
    sa.lock().log.advance_log_start(20, a.now()).unwrap();
    assert_eq!(b.pull(&sb, &a, &sa), Followed::AskBounds);
    assert!(sb.lock().next_fetch(b.now()).is_none(), "the leader's bounds come first");
    let moved = Followed::Moved { bytes: 0 };
    assert_eq!(sb.lock().bounded(bounds(&sa), b.now()), moved);
    assert_eq!(ends(&sb), (20, 20, 20));
    b.catch_up(&sb, &a, &sa);
    assert_eq!(ends(&sb).2, 40);
    assert!(bytes_upto(&b, &sb, 40) == bytes_upto(&a, &sa, 40));
}

#[test]
fn records_deleted_out_of_the_middle_of_a_batch_are_no_hindrance() {
    let ([a, b, c], [sa, sb, sc]) = three(false);
    produce(&a, &sa, 10, 10, 1);
    c.catch_up(&sc, &a, &sa);
    sa.lock().log.advance_log_start(4, a.now()).unwrap();
    assert_eq!(b.pull(&sb, &a, &sa), Followed::AskBounds);
    sb.lock().bounded(bounds(&sa), b.now());
    assert_eq!(ends(&sb), (4, 4, 4));
    let anew = b.pull(&sb, &a, &sa);
    assert_eq!(anew, Followed::Moved { bytes: 0 }, "the log begins with the batch");
    b.catch_up(&sb, &a, &sa);
    assert_eq!(ends(&sb), (4, 10, 10));
    assert!(bytes_upto(&b, &sb, 10) == bytes_upto(&a, &sa, 10));
}

#[test]
fn the_log_start_follows_the_leaders_up_to_the_high_watermark() {
    let ([a, b, c], [sa, sb, sc]) = three(false);
    produce(&a, &sa, 10, 10, 1);
    produce(&a, &sa, 10, 10, 2);
    for _ in 0..2 {
        b.catch_up(&sb, &a, &sa);
        c.catch_up(&sc, &a, &sa);
    }
    let position = sb.lock().next_fetch(b.now()).unwrap();
    let mut answer = b.answer(&a, &sa, &position);
    answer.log_start = 15;
    assert_eq!(sb.lock().fetched(&answer, b.now()), Followed::Same);
    assert_eq!(ends(&sb), (15, 20, 20));
    answer.log_start = 99;
    assert_eq!(sb.lock().fetched(&answer, b.now()), Followed::Same);
    assert_eq!(ends(&sb), (20, 20, 20));
}

#[test]
fn what_cannot_be_appended_is_put_off_and_changes_nothing() {
    let ([a, b, _], [sa, sb, _]) = three(false);
    produce(&a, &sa, 3, 10, 1);
    b.catch_up(&sb, &a, &sa);
    produce(&a, &sa, 3, 10, 1);
    let position = sb.lock().next_fetch(b.now()).unwrap();
    let good = b.answer(&a, &sa, &position);
    let with = |records: Vec<u8>| FetchedPartition { records: records.into(), ..good.clone() };
    let mut flipped = good.records.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [
        flipped,
        Batch::of(1, 10, 0).at(1, 1).bytes(),
        Batch::of(1, 5000, 0).at(3, 1).bytes(),
        vec![0; 100],
    ] {
        let put_off = Followed::BackOff(ErrorCode::CorruptMessage);
        assert_eq!(sb.lock().fetched(&with(bad), b.now()), put_off);
        assert_eq!(ends(&sb).2, 3);
    }
    let newer = with(Batch::of(1, 10, 0).at(3, 2).bytes());
    let put_off = Followed::BackOff(ErrorCode::UnknownLeaderEpoch);
    assert_eq!(sb.lock().fetched(&newer, b.now()), put_off, "an epoch it does not know");
    b.fs.fill_disk();
    let full = sb.lock().fetched(&good, b.now());
    assert_eq!(full, Followed::BackOff(ErrorCode::KafkaStorageError));
    b.fs.free_disk();
    assert!(matches!(sb.lock().fetched(&good, b.now()), Followed::Moved { .. }));
    let stale = sb.lock().fetched(&good, b.now());
    assert_eq!(stale, Followed::Stale, "the same answer a second time");
    assert_eq!(ends(&sb).2, 6);
}

#[test]
fn a_disk_that_fails_ends_it() {
    let ([a, b, _], [sa, sb, _]) = three(false);
    produce(&a, &sa, 3, 10, 1);
    b.fs.fail_next(vltava::testing::fs::Op::Write, ".log", std::io::ErrorKind::Other);
    assert_eq!(b.pull(&sb, &a, &sa), Followed::Failed(ErrorCode::KafkaStorageError));
    assert!(sb.lock().next_fetch(b.now()).is_none());
}

#[test]
fn epochs_that_do_not_fit_wait_for_the_leader_or_for_metadata() {
    let (nodes, slots) = three(false);
    let ([a, b, _], [sa, sb, _]) = (&nodes, &slots);
    b.learn(sb, &registration(1, 2));
    let early = b.pull(sb, a, sa);
    assert_eq!(early, Followed::BackOff(ErrorCode::UnknownLeaderEpoch));
    a.learn(sa, &registration(1, 3));
    assert_eq!(b.pull(sb, a, sa), Followed::Failed(ErrorCode::FencedLeaderEpoch));
    assert!(sb.lock().next_fetch(b.now()).is_none());
    b.learn(sb, &registration(1, 3));
    b.catch_up(sb, a, sa);
    let older = registration(2, 2);
    assert!(!sb.lock().follow(&older), "metadata of the past");
    assert_eq!(sb.lock().follows(), Some(NodeId(1)));
}

#[test]
fn who_becomes_a_follower_sends_those_who_wait_away() {
    let (nodes, slots) = three(false);
    let ([a, ..], [sa, ..]) = (&nodes, &slots);
    let last = produce(a, sa, 1, 10, 1);
    let mut waits = sa.lock().await_committed(last).unwrap();
    a.learn(sa, &registration(2, 2));
    assert_eq!(waits.try_recv(), Ok(Some(Err(ErrorCode::NotLeaderOrFollower))));
    let mut without = registration(2, 3);
    without.leader = None;
    a.learn(sa, &without);
    assert_eq!(sa.lock().follows(), None);
    assert!(sa.lock().next_fetch(a.now()).is_none());
}

#[test]
fn in_the_durable_mode_the_next_question_waits_for_the_disk() {
    let ([a, b, _], [sa, sb, _]) = three(true);
    produce(&a, &sa, 3, 10, 1);
    assert!(matches!(b.pull(&sb, &a, &sa), Followed::Moved { .. }));
    assert!(sb.lock().next_fetch(b.now()).is_none(), "what it has could still be lost");
    let mut flushed = sb.lock().follower_flush().unwrap();
    let mark = sb.lock().begin_flush().unwrap().sync();
    assert_eq!(flushed.try_recv(), Ok(None));
    sb.lock().end_flush(mark, b.now());
    assert_eq!(flushed.try_recv(), Ok(Some(Ok(3))));
    assert!(sb.lock().follower_flush().is_none());
    assert_eq!(sb.lock().next_fetch(b.now()).unwrap().offset, 3);
}

#[test]
fn a_cut_below_the_recovery_point_asks_for_the_checkpoint() {
    let (nodes, slots) = three(false);
    let ([a, b, c], [sa, sb, sc]) = (&nodes, &slots);
    produce(a, sa, 5, 10, 1);
    b.catch_up(sb, a, sa);
    c.catch_up(sc, a, sa);
    produce(a, sa, 5, 10, 2);
    sa.lock().log.flush(a.now()).unwrap();
    sa.lock().log.checkpoint_recovery_point();
    learn(&nodes, &slots, &registration(2, 2));
    assert_eq!(a.pull(sa, b, sb), Followed::Moved { bytes: 0 });
    assert_eq!(ends(sa).2, 5);
    assert!(sa.lock().log.checkpoint_due());
}
