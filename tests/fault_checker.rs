//! The checker of the fault rounds, tried on hand-made histories: each kind of damage must be
//! found, and what a Kafka log may do must pass.

#[path = "../examples/fault_load/check.rs"]
mod check;
#[path = "../examples/fault_load/history.rs"]
#[expect(
    dead_code,
    clippy::disallowed_methods,
    reason = "the part that reads files is not tried here"
)]
mod history;

use check::{Checker, Report, Rules};
use history::{Acked, Sends};

const RUN: u64 = 7;

fn text(seq: u64) -> Vec<u8> {
    let mut out = String::new();
    history::value(RUN, 0, seq, &mut out);
    out.into_bytes()
}

/// Ten records sent, the first eight acknowledged at partition 0, offsets 0 to 7.
fn acked() -> Acked {
    let mut sends = Sends { sent: 10, acked: Vec::new() };
    for seq in 0..8 {
        sends.ack(seq, (0, seq.cast_signed()));
    }
    let mut acked = Acked::default();
    acked.producers.insert((RUN, 0), sends);
    acked
}

/// Reads back a log that holds these sequences at these offsets.
fn verdict(log: &[(i64, u64)], rules: Rules) -> Report {
    let mut checker = Checker::new(acked(), rules);
    checker.begin(0, 0);
    for (offset, seq) in log {
        checker.record(0, *offset, Some(&text(*seq)));
    }
    checker.finish()
}

fn whole(count: u64) -> Vec<(i64, u64)> {
    (0..count).map(|seq| (seq.cast_signed(), seq)).collect()
}

#[test]
fn a_log_with_all_that_was_acknowledged_passes() {
    assert_eq!(verdict(&whole(8), Rules::default()).violations, 0);
    let more = verdict(&whole(10), Rules::default());
    assert_eq!((more.violations, more.unanswered_but_there), (0, 2));
}

#[test]
fn each_kind_of_damage_is_found() {
    let strict = Rules::default();
    let damaged: [(&str, Vec<(i64, u64)>); 5] = [
        ("lost at the end", whole(7)),
        ("lost in the middle", [&whole(3)[..], &[(3, 4), (4, 5), (5, 6), (6, 7)]].concat()),
        ("a gap", whole(8).into_iter().map(|(o, s)| (o + i64::from(s > 3), s)).collect()),
        ("twice", [whole(8), vec![(8, 7)]].concat()),
        ("never sent", [whole(8), vec![(8, 11)]].concat()),
    ];
    for (what, log) in damaged {
        assert!(verdict(&log, strict).violations > 0, "{what}");
    }
    let mut swapped = whole(8);
    swapped[4].1 = 5;
    swapped[5].1 = 4;
    assert!(verdict(&swapped, strict).violations > 0, "out of order");
}

#[test]
fn changed_bytes_are_found() {
    let mut checker = Checker::new(acked(), Rules::default());
    checker.begin(0, 0);
    let mut bytes = text(0);
    *bytes.last_mut().unwrap() ^= 1;
    checker.record(0, 0, Some(&bytes));
    let report = checker.finish();
    assert!(report.told[0].contains("never sent"), "{:?}", report.told);
}

#[test]
fn a_lost_tail_is_counted_and_a_hole_is_not_excused() {
    let rules = Rules { tail_may_be_lost: true };
    let report = verdict(&whole(5), rules);
    assert_eq!((report.violations, report.lost_from_the_tail), (0, 3));
    let hole: Vec<_> = whole(8).into_iter().filter(|(_, seq)| *seq != 2).collect();
    assert!(verdict(&hole, rules).violations > 0);
}

#[test]
fn a_producer_that_ended_is_a_violation() {
    let mut acked = acked();
    acked.fatal.push("out of order sequence".to_owned());
    let checker = Checker::new(acked, Rules { tail_may_be_lost: true });
    assert!(checker.finish().violations > 0);
}
