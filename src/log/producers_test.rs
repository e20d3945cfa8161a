//! The cases of `producers`.

use super::*;
use crate::testing::batches::Batch;

const CLIENT: Origin = Origin::Client(None);

fn check(p: &Producers, h: &BatchHeader) -> Result<Option<SeenBatch>, LogError> {
    p.check(h, CLIENT, None)
}

fn header(b: &Batch) -> BatchHeader {
    BatchHeader::read(&b.bytes()).unwrap()
}

/// Three records of producer 7 in epoch `epoch`, from `sequence` on.
fn batch(epoch: i16, sequence: i32) -> BatchHeader {
    header(&Batch::of(3, 1, 1000).by(7, epoch, sequence))
}

fn with(batches: &[BatchHeader]) -> Producers {
    let mut p = Producers::default();
    for (n, h) in batches.iter().enumerate() {
        assert_eq!(check(&p, h).unwrap(), None);
        p.apply(h, n as i64 * 3, None);
    }
    p
}

#[test]
fn the_last_five_batches_are_known_again() {
    let all: Vec<_> = (0..7).map(|n| batch(0, n * 3)).collect();
    let p = with(&all);
    for (n, h) in all.iter().enumerate() {
        let seen = check(&p, h);
        if n < 2 {
            assert!(matches!(seen, Err(LogError::OutOfOrderSequence { .. })), "{n}");
        } else {
            let seen = seen.unwrap().unwrap();
            let want = (n as i64 * 3, 1002);
            assert_eq!((seen.first_offset(), seen.timestamp), want, "{n}");
        }
    }
}

#[test]
fn sequences_follow_each_other_and_wrap() {
    let p = with(&[batch(0, 10)]);
    assert_eq!(check(&p, &batch(0, 13)).unwrap(), None, "any first sequence was accepted");
    let gap = check(&p, &batch(0, 14)).unwrap_err();
    assert!(matches!(gap, LogError::OutOfOrderSequence { last: 12, got: 14, .. }));
    let p = with(&[batch(0, i32::MAX - 2)]);
    assert_eq!(check(&p, &batch(0, 0)).unwrap(), None);
    let p = with(&[batch(0, i32::MAX - 1)]);
    assert_eq!(check(&p, &batch(0, 1)).unwrap(), None, "wrapped within a batch");
    assert!(check(&p, &batch(0, i32::MAX - 1)).unwrap().is_some(), "and is known again");
}

#[test]
fn epochs_fence_and_start_at_zero() {
    let p = with(&[batch(4, 0)]);
    let old = check(&p, &batch(3, 3)).unwrap_err();
    assert!(matches!(old, LogError::ProducerFenced { known: 4, got: 3, .. }));
    assert!(matches!(check(&p, &batch(5, 3)), Err(LogError::OutOfOrderSequence { .. })));
    assert_eq!(check(&p, &batch(5, 0)).unwrap(), None);
    assert_eq!(check(&p, &header(&Batch::of(1, 1, 0).by(8, 0, 77))).unwrap(), None);
}

#[test]
fn transactions_hold_the_stable_offset_back() {
    let mut p = Producers::default();
    let data = header(&Batch::of(3, 1, 0).by(7, 0, 0).in_txn());
    let other = header(&Batch::of(1, 1, 0).by(8, 0, 0).in_txn());
    p.apply(&data, 10, None);
    p.apply(&other, 13, None);
    assert_eq!(p.first_unstable_offset(), Some(10));
    assert!(matches!(check(&p, &batch(0, 3)), Err(LogError::InvalidTxnState { .. })));
    let marker = Batch::marker(7, 0, false, 5);
    let (h, bytes) = (header(&marker), marker.bytes());
    let read = Marker::read(&h, &bytes).unwrap();
    assert_eq!(read, Marker { aborted: true, coordinator_epoch: 1 });
    let ended = p.apply(&h, 14, Some(read)).unwrap();
    assert_eq!((ended.first_offset, ended.last_offset), (10, 14));
    assert_eq!((ended.aborted, ended.last_stable_offset), (true, 13));
    assert_eq!(p.first_unstable_offset(), Some(10), "until the marker is replicated");
    p.on_high_watermark(14);
    assert_eq!(p.first_unstable_offset(), Some(10));
    p.on_high_watermark(15);
    assert_eq!(p.first_unstable_offset(), Some(13));
    assert_eq!(p.apply(&h, 15, Some(read)), None, "an empty transaction changes nothing");
    let zombie = Marker { aborted: true, coordinator_epoch: 0 };
    assert!(matches!(
        p.check_marker(&h, zombie, ended_by(0)),
        Err(LogError::CoordinatorFenced { .. })
    ));
}

fn ended_by(transaction_version: i16) -> Origin {
    Origin::Marker { transaction_version }
}

#[test]
fn markers_of_version_2_have_a_higher_epoch_but_may_be_written_again() {
    let mut p = Producers::default();
    let fenced = |p: &Producers, epoch: i16, version: i16| {
        let (batch, marker) =
            (Batch::marker(7, epoch, true, 5), Marker { aborted: false, coordinator_epoch: 1 });
        let checked = p.check_marker(&header(&batch), marker, ended_by(version));
        checked.is_err_and(|e| matches!(e, LogError::ProducerFenced { .. }))
    };
    assert!(!fenced(&p, 0, 2), "of a producer that nothing is known of");
    p.apply(&header(&Batch::of(1, 1, 0).by(7, 3, 0).in_txn()), 0, None);
    assert_eq!([2, 3, 4].map(|e| fenced(&p, e, 1)), [true, false, false]);
    assert_eq!([2, 3, 4].map(|e| fenced(&p, e, 2)), [true, true, false]);
    let marker = Marker { aborted: false, coordinator_epoch: 1 };
    p.apply(&header(&Batch::marker(7, 4, true, 5)), 1, Some(marker));
    assert_eq!([3, 4, 5].map(|e| fenced(&p, e, 2)), [true, false, false], "again");
    p.apply(&header(&Batch::of(1, 1, 0).by(7, 4, 0).in_txn()), 2, None);
    assert!(fenced(&p, 4, 2), "late: the next transaction is open");
    let mut p = Producers::default();
    p.apply(&header(&Batch::of(1, 1, 0).by(7, i16::MAX, 0).in_txn()), 0, None);
    assert!(!fenced(&p, i16::MAX, 2), "no epoch is above it");
}

#[test]
fn a_transaction_begins_with_the_word_of_its_coordinator() {
    let (mut p, mut asked) = (Producers::default(), Verifications::default());
    let first = header(&Batch::of(1, 1, 0).by(7, 0, 0).in_txn());
    let second = header(&Batch::of(1, 1, 0).by(7, 0, 1).in_txn());
    let unverified = |r: Result<_, _>| matches!(r, Err(LogError::Unverified { .. }));
    assert!(unverified(p.check(&first, CLIENT, Some(&asked))));
    assert_eq!(p.check(&first, CLIENT, None).unwrap(), None, "where nobody asks");
    let guard = Origin::Client(Some(asked.begin(7, 0, 0, false, 0)));
    assert!(unverified(p.check(&first, CLIENT, Some(&asked))));
    let late = p.check(&second, guard, Some(&asked));
    assert!(matches!(late, Err(LogError::OutOfOrderSequence { got: 1, .. })), "0 comes first");
    assert_eq!(p.check(&first, guard, Some(&asked)).unwrap(), None);
    p.apply(&first, 0, None);
    asked.appended(&first);
    assert!(p.has_open(7, 0).unwrap());
    assert_eq!(p.check(&second, CLIENT, Some(&asked)).unwrap(), None);
    let open = OpenTxn { producer_id: 7, producer_epoch: 0, first_offset: 0, last_timestamp: 0 };
    assert_eq!(p.open().collect::<Vec<_>>(), [open]);
    let newer = header(&Batch::of(1, 1, 0).by(7, 1, 0).in_txn());
    assert!(unverified(p.check(&newer, CLIENT, Some(&asked))), "another epoch's is open");
    assert!(p.has_open(7, -1).is_err());
    let marker = Marker { aborted: true, coordinator_epoch: 1 };
    p.apply(&header(&Batch::marker(7, 0, false, 0)), 1, Some(marker));
    assert!(unverified(p.check(&second, guard, Some(&asked))), "the word is used up");
    assert!(p.check(&first, CLIENT, Some(&asked)).unwrap().is_some(), "a repeated batch");
}

#[test]
fn a_producer_of_version_2_begins_with_sequence_0_and_groups_have_none() {
    let (p, mut asked) = (Producers::default(), Verifications::default());
    let batch = header(&Batch::of(1, 1, 0).by(7, 0, 5).in_txn());
    let guard = Origin::Client(Some(asked.begin(7, 5, 0, true, 0)));
    let gap = p.check(&batch, guard, Some(&asked));
    assert!(matches!(gap, Err(LogError::OutOfOrderSequence { last: -1, got: 5, .. })));
    let mut p = Producers::default();
    let offsets = header(&Batch::of(1, 1, 0).by(8, 0, -1).in_txn());
    let guard = Origin::Group(Some(asked.begin(8, -1, 0, true, 0)));
    for at in 0..3 {
        assert_eq!(p.check(&offsets, guard, Some(&asked)).unwrap(), None);
        p.apply(&offsets, at, None);
    }
}

#[test]
fn idle_producers_are_forgotten_but_not_open_transactions() {
    let mut p = Producers::default();
    p.apply(&batch(0, 0), 0, None);
    p.apply(&header(&Batch::of(1, 1, 0).by(8, 0, 0).in_txn()), 3, None);
    p.expire(1_100, 100);
    assert_eq!(p.iter().map(|(id, _)| id).collect::<Vec<_>>(), [7, 8]);
    p.expire(1_102, 100);
    assert_eq!(p.iter().map(|(id, _)| id).collect::<Vec<_>>(), [8]);
}

#[test]
fn bytes_that_are_no_marker() {
    let marker = Batch::marker(7, 0, true, 5);
    let (h, bytes) = (header(&marker), marker.bytes());
    for cut in 0..bytes.len() {
        assert_eq!(Marker::read(&h, &bytes[..cut]), None, "cut at {cut}");
    }
    for at in 61..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0xff;
        _ = Marker::read(&h, &bad);
    }
}
