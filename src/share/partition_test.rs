//! Single rules of share partitions, each as a member sees it.

use std::sync::Arc;

use super::{
    acknowledge::{AckBatch, AckType},
    acquire::{Acquire, AcquireMode, Acquired},
    batches::LogBatch,
    partition::SharePartition,
    settings::ShareSettings,
};
use crate::{
    base::{ErrorCode, Mono, Now, Offset},
    coordinator::share_persister::{ShareState, StateBatch},
};

fn at_ms(ms: i64) -> Now {
    Now { mono: Mono(0).after_ms(ms), wall_ms: 0 }
}

fn empty() -> SharePartition {
    let state = ShareState { state_epoch: 7, start_offset: 0, batches: vec![] };
    SharePartition::load(&state, 0, 3).unwrap()
}

fn log(bounds: &[(Offset, Offset)]) -> Vec<LogBatch> {
    let batch = |&(base, last)| LogBatch {
        base,
        last,
        size: 100,
        producer: None,
        transactional: false,
        aborts: false,
    };
    bounds.iter().map(batch).collect()
}

struct Member(Arc<str>, ShareSettings);

impl Member {
    fn new(name: &str) -> Self {
        Self(name.into(), ShareSettings::default())
    }

    fn get(&self, p: &mut SharePartition, log: &[LogBatch], max: i32) -> Vec<(i64, i64, i16)> {
        self.get_as(p, log, max, AcquireMode::BatchOptimized, &[])
    }

    fn get_as(
        &self,
        p: &mut SharePartition,
        log: &[LogBatch],
        max: i32,
        mode: AcquireMode,
        aborted: &[(Offset, Offset)],
    ) -> Vec<(i64, i64, i16)> {
        let fetch_offset = p.next_fetch_offset();
        let batches: Vec<_> = log.iter().filter(|b| b.last >= fetch_offset).copied().collect();
        let (member, batch_size) = (&self.0, 10);
        let max_records = max;
        let ask = Acquire {
            member,
            mode,
            batch_size,
            max_records,
            fetch_offset,
            batches: &batches,
            aborted,
        };
        let got = p.acquire(ask, &self.1, Mono(0));
        got.iter()
            .map(|Acquired { first, last, deliveries }| (*first, *last, *deliveries))
            .collect()
    }

    fn say(
        &self,
        p: &mut SharePartition,
        first: Offset,
        last: Offset,
        kind: AckType,
    ) -> Result<bool, ErrorCode> {
        let ack = AckBatch { first, last, types: vec![kind] };
        p.acknowledge(&self.0, &[ack], &self.1, at_ms(0)).map(|w| w.is_some())
    }
}

fn write(p: &mut SharePartition, succeeds: bool) -> Vec<(i64, i64, i8, i16)> {
    let (no, write) = p.begin_write().unwrap();
    assert_eq!(p.end_write(succeeds, Mono(1)), Some(no));
    write.batches.iter().map(|b| (b.first, b.last, b.state, b.delivery_count)).collect()
}

#[test]
fn batches_are_split_by_size_and_end_where_those_of_the_log_do() {
    let (mut p, a) = (empty(), Member::new("a"));
    let log = log(&[(0, 5), (6, 13), (14, 15), (16, 40), (41, 60)]);
    assert_eq!(a.get(&mut p, &log, 20), [(0, 13, 1), (14, 40, 1)], "a little more than wanted");
    assert_eq!(p.next_fetch_offset(), 41);
    assert_eq!(a.get_as(&mut p, &log, 5, AcquireMode::RecordLimit, &[]), [(41, 45, 1)]);
    assert_eq!(p.next_fetch_offset(), 46, "the rest of the batch is free");
    assert_eq!(Member::new("b").get(&mut p, &log, 5), [(46, 60, 1)]);
    assert_eq!(p.in_flight(), 61);
}

#[test]
fn what_is_accepted_moves_the_start_once_it_is_written() {
    let (mut p, a, b) = (empty(), Member::new("a"), Member::new("b"));
    let log = log(&[(0, 9), (10, 19)]);
    assert_eq!(a.get(&mut p, &log, 10), [(0, 9, 1)]);
    assert_eq!(b.get(&mut p, &log, 10), [(10, 19, 1)]);
    assert_eq!(b.say(&mut p, 10, 14, AckType::Accept), Ok(true));
    assert_eq!(a.say(&mut p, 10, 14, AckType::Accept), Err(ErrorCode::InvalidRecordState));
    assert_eq!(b.say(&mut p, 10, 14, AckType::Accept), Err(ErrorCode::InvalidRecordState), "again");
    assert_eq!(b.say(&mut p, 15, 25, AckType::Accept), Err(ErrorCode::InvalidRequest));
    assert_eq!(a.say(&mut p, 0, 9, AckType::Accept), Ok(true));
    assert_eq!(p.start_offset(), 0);
    assert_eq!(write(&mut p, true), [(0, 14, 2, 1)], "neighbours in one");
    assert_eq!(p.start_offset(), 15);
    assert_eq!(a.say(&mut p, 0, 9, AckType::Accept), Ok(false), "long done");
    assert_eq!(b.say(&mut p, 0, 19, AckType::Reject), Ok(true), "as far as it is not");
    assert_eq!(write(&mut p, true), [(15, 19, 4, 1)]);
    assert_eq!((p.start_offset(), p.in_flight()), (20, 0));
}

#[test]
fn a_failed_write_gives_records_back_to_their_member_or_to_all() {
    let (mut p, a) = (empty(), Member::new("a"));
    let log = log(&[(0, 9)]);
    a.get(&mut p, &log, 10);
    assert_eq!(a.say(&mut p, 0, 4, AckType::Accept), Ok(true));
    write(&mut p, false);
    assert_eq!(a.say(&mut p, 0, 4, AckType::Accept), Ok(true), "it still has them");
    p.begin_write().unwrap();
    let late = at_ms(30_000);
    assert!(p.on_deadline(&a.1, late.mono), "the others go");
    p.end_write(false, late.mono).unwrap();
    assert_eq!(p.next_fetch_offset(), 0, "its lock has ended meanwhile");
    assert_eq!(write(&mut p, true), [(5, 9, 0, 1)]);
}

#[test]
fn renewed_locks_last_longer() {
    let (mut p, mut a) = (empty(), Member::new("a"));
    a.get(&mut p, &log(&[(0, 9)]), 10);
    let renew = AckBatch { first: 0, last: 3, types: vec![AckType::Renew] };
    assert_eq!(p.acknowledge(&a.0, std::slice::from_ref(&renew), &a.1, at_ms(20_000)), Ok(None));
    p.on_deadline(&a.1, at_ms(30_000).mono);
    assert_eq!(p.held().values().sum::<i64>(), 4);
    assert_eq!(p.next_deadline(), at_ms(50_000).mono);
    a.1.renews = false;
    let refused = p.acknowledge(&a.0, &[renew], &a.1, at_ms(0));
    assert_eq!(refused, Err(ErrorCode::InvalidRecordState));
}

#[test]
fn records_that_come_back_are_handed_out_in_smaller_parts_and_not_for_ever() {
    let (mut p, a) = (empty(), Member::new("a"));
    let log = log(&[(0, 99)]);
    let mut parts = Vec::new();
    for _ in 0..5 {
        let got = a.get(&mut p, &log, 100);
        parts.push(got.iter().map(|(from, to, _)| to - from + 1).sum::<i64>());
        let Some((first, last)) = got.first().zip(got.last()).map(|(f, l)| (f.0, l.1)) else {
            break;
        };
        assert_eq!(a.say(&mut p, first, last, AckType::Release), Ok(true));
        write(&mut p, true);
    }
    assert_eq!(parts, [100, 100, 100, 50, 1], "of at most five deliveries");
    assert_eq!(p.start_offset(), 1, "the first was handed out five times");
}

#[test]
fn a_member_that_leaves_gives_all_back() {
    let (mut p, a, b) = (empty(), Member::new("a"), Member::new("b"));
    let log = log(&[(0, 9), (10, 19)]);
    a.get(&mut p, &log, 10);
    b.get(&mut p, &log, 10);
    assert_eq!(p.release(&a.0, &a.1), Some(0));
    assert_eq!(p.release(&a.0, &a.1), None);
    assert_eq!(p.next_fetch_offset(), 20, "not before it is written");
    write(&mut p, true);
    assert_eq!(b.get(&mut p, &log, 10), [(0, 9, 2)]);
}

#[test]
fn what_an_earlier_leader_did_not_write_is_handed_out_anew() {
    let batch =
        |first, last, state, delivery_count| StateBatch { first, last, state, delivery_count };
    let batches = vec![batch(5, 9, 2, 1), batch(20, 24, 0, 3), batch(25, 29, 4, 5)];
    let state = ShareState { state_epoch: 1, start_offset: 5, batches };
    let mut p = SharePartition::load(&state, -1, 1).unwrap();
    assert_eq!((p.start_offset(), p.next_fetch_offset(), p.in_flight()), (10, 10, 20));
    let log = log(&[(0, 12), (13, 40)]);
    let a = Member::new("a");
    assert_eq!(a.get(&mut p, &log, 1), [(10, 12, 1)]);
    assert_eq!(a.get(&mut p, &log, 1), [(13, 19, 1)], "not what is known");
    assert_eq!(a.get(&mut p, &log, 100), [(20, 21, 4)], "fewer of what came back often");
    for bad in [batch(4, 9, 2, 1), batch(9, 8, 2, 1), batch(5, 9, 1, 1), batch(5, i64::MAX, 0, 1)] {
        let state = ShareState { state_epoch: 1, start_offset: 5, batches: vec![bad] };
        assert!(SharePartition::load(&state, -1, 1).is_err(), "{bad:?}");
    }
}

#[test]
fn what_the_log_has_no_longer_is_finished() {
    let (mut p, a) = (empty(), Member::new("a"));
    a.get(&mut p, &log(&[(0, 9)]), 10);
    a.get(&mut p, &log(&[(10, 19)]), 10);
    p.log_starts_at(5);
    assert_eq!((p.start_offset(), p.in_flight()), (5, 15));
    assert_eq!(a.say(&mut p, 0, 9, AckType::Release), Ok(true));
    assert_eq!(write(&mut p, true), [(5, 9, 0, 1)]);
    // Compaction took the whole batch meanwhile: the log goes on behind it.
    assert_eq!(p.next_fetch_offset(), 5);
    assert_eq!(a.get(&mut p, &log(&[(10, 19), (30, 39)]), 10), [(30, 39, 1)]);
    assert_eq!(p.start_offset(), 10);
    p.log_starts_at(100);
    assert_eq!((p.start_offset(), p.in_flight(), p.next_fetch_offset()), (100, 0, 100));
}

#[test]
fn locks_are_limited() {
    let (mut p, mut a) = (empty(), Member::new("a"));
    a.1.max_record_locks = 15;
    let log = log(&[(0, 9), (10, 19), (20, 29)]);
    assert_eq!(a.get(&mut p, &log, 10), [(0, 9, 1)]);
    assert!(p.can_acquire(&a.1));
    assert_eq!(a.get(&mut p, &log, 10), [(10, 19, 1)], "to the end of the batch");
    assert!(!p.can_acquire(&a.1));
    assert_eq!(a.get(&mut p, &log, 10), []);
    assert_eq!(a.say(&mut p, 5, 6, AckType::Release), Ok(true));
    write(&mut p, true);
    assert!(p.can_acquire(&a.1));
    assert_eq!(a.get(&mut p, &log, 10), [(5, 6, 2)], "and nothing new");
}

#[test]
fn aborted_batches_are_for_nobody() {
    let (mut p, a) = (empty(), Member::new("a"));
    let log = log(&[(0, 4), (5, 9), (10, 14), (15, 19)]);
    let aborted = [(5, 9), (15, 19)];
    let got = a.get_as(&mut p, &log, 100, AcquireMode::BatchOptimized, &aborted);
    assert_eq!(got, [(0, 4, 1), (10, 14, 1)]);
    assert_eq!(a.say(&mut p, 0, 4, AckType::Accept), Ok(true));
    write(&mut p, true);
    assert_eq!(p.start_offset(), 10);
}
