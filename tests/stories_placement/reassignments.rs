//! Stories of reassignments (KIP-455): partitions that move, that change their mind, that turn back.

use crate::world::{World, numbers};
use vltava::base::ErrorCode;

const NONE: (ErrorCode, Option<String>) = (ErrorCode::None, None);

fn told(code: ErrorCode, text: &str) -> (ErrorCode, Option<String>) {
    (code, Some(text.to_owned()))
}

/// Replicas, adding, removing.
fn lies(w: &World) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    let p = w.partition("t", 0);
    (numbers(&p.replicas), numbers(p.adding()), numbers(p.removing()))
}

fn world() -> World {
    let mut w = World::with(true, &[1, 2, 3, 4, 5]);
    w.create("t", &[&[1, 2, 3]]);
    w
}

#[test]
fn a_partition_moves_when_its_new_replicas_are_in_sync() {
    let mut w = world();
    assert_eq!(w.reassign("t", 0, Some(&[4, 5, 3])), NONE);
    assert_eq!(lies(&w), (vec![4, 5, 3, 1, 2], vec![4, 5], vec![1, 2]));
    assert_eq!(w.led("t", 0), (1, vec![1, 2, 3], vec![]));
    let under_way = ("t".to_owned(), 0, vec![4, 5, 3, 1, 2], vec![4, 5], vec![1, 2]);
    assert_eq!(w.moves(), [under_way]);
    assert_eq!(w.isr("t", 0, &[1, 2, 3, 4]), ErrorCode::None);
    assert_eq!(lies(&w).1, [4, 5], "5 is still missing");
    assert_eq!(w.isr("t", 0, &[1, 2, 3, 4, 5]), ErrorCode::NewLeaderElected);
    assert_eq!(lies(&w), (vec![4, 5, 3], vec![], vec![]));
    assert_eq!(w.led("t", 0), (4, vec![3, 4, 5], vec![]));
    assert_eq!(w.moves(), []);
}

#[test]
fn only_another_order_takes_effect_at_once() {
    let mut w = world();
    assert_eq!(w.reassign("t", 0, Some(&[3, 2, 1])), NONE);
    assert_eq!(lies(&w), (vec![3, 2, 1], vec![], vec![]));
    assert_eq!(w.led("t", 0).0, 1, "leadership follows with the next preferred election");
    assert_eq!(w.elect(0, Some(("t", &[0]))), [(0, NONE)]);
    assert_eq!(w.led("t", 0).0, 3);
    assert_eq!(w.reassign("t", 0, Some(&[3, 2, 1])), NONE, "nothing to do is no error");
}

#[test]
fn a_smaller_factor_waits_for_every_target() {
    let mut w = world();
    assert_eq!(w.isr("t", 0, &[1, 2]), ErrorCode::None);
    assert_eq!(w.reassign("t", 0, Some(&[2, 3])), NONE);
    assert_eq!(lies(&w), (vec![2, 3, 1], vec![], vec![1]), "3 is not in sync yet");
    assert_eq!(w.isr("t", 0, &[1, 2, 3]), ErrorCode::NewLeaderElected);
    assert_eq!(lies(&w), (vec![2, 3], vec![], vec![]));
    assert_eq!(w.led("t", 0), (2, vec![2, 3], vec![]));
}

#[test]
fn a_move_is_taken_back() {
    let mut w = world();
    let code = ErrorCode::NoReassignmentInProgress;
    let idle = told(code, "No partition reassignment is in progress.");
    assert_eq!(w.reassign("t", 0, None), idle);
    assert_eq!(w.reassign("t", 0, Some(&[4, 2, 3])), NONE);
    assert_eq!(w.isr("t", 0, &[1, 2, 3]), ErrorCode::None);
    assert_eq!(w.reassign("t", 0, None), NONE);
    assert_eq!(lies(&w), (vec![2, 3, 1], vec![], vec![]));
    assert_eq!(w.led("t", 0), (1, vec![1, 2, 3], vec![]));
    assert_eq!(w.reassign("t", 0, None), idle);
}

#[test]
fn a_move_that_only_new_replicas_survive_is_taken_back_uncleanly_or_not_at_all() {
    let mut w = World::with(false, &[1, 2, 4]);
    w.create("t", &[&[1]]);
    assert_eq!(w.reassign("t", 0, Some(&[2, 4])), NONE);
    assert_eq!(w.isr("t", 0, &[1, 2]), ErrorCode::None);
    w.kill(1);
    assert_eq!(w.led("t", 0), (2, vec![2], vec![]));
    assert_eq!(lies(&w).1, [2, 4]);
    let text = "Unable to revert partition assignment for t:0 because it would require an unclean \
                leader election.";
    let refused = told(ErrorCode::InvalidReplicaAssignment, text);
    assert_eq!(w.reassign("t", 0, None), refused);
    w.start(1);
    w.set("t", "unclean.leader.election.enable", "true");
    assert_eq!(w.reassign("t", 0, None), NONE);
    assert_eq!(lies(&w), (vec![1], vec![], vec![]));
    assert_eq!(w.led("t", 0), (1, vec![1], vec![]));
}

#[test]
fn another_target_replaces_the_first() {
    let mut w = world();
    assert_eq!(w.reassign("t", 0, Some(&[4, 2, 3])), NONE);
    assert_eq!(w.reassign("t", 0, Some(&[2, 5, 4])), NONE);
    assert_eq!(lies(&w), (vec![2, 5, 4, 1, 3], vec![4, 5], vec![1, 3]));
    assert_eq!(w.reassign("t", 0, Some(&[1, 2, 3])), NONE, "back by naming where it was");
    assert_eq!(lies(&w), (vec![1, 2, 3], vec![], vec![]));
    assert_eq!(w.led("t", 0), (1, vec![1, 2, 3], vec![]));
}

#[test]
fn wrong_targets_are_refused() {
    let mut w = world();
    let text = "The manual partition assignment includes broker 9, but no such broker is \
                registered.";
    let refused = told(ErrorCode::InvalidReplicaAssignment, text);
    assert_eq!(w.reassign("t", 0, Some(&[1, 9])), refused);
    let text = "The manual partition assignment includes an empty replica list.";
    let refused = told(ErrorCode::InvalidReplicaAssignment, text);
    assert_eq!(w.reassign("t", 0, Some(&[])), refused);
    let code = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(w.reassign("t", 3, Some(&[1])), told(code, "Unable to find partition t:3."));
    assert_eq!(w.reassign("x", 0, Some(&[1])), told(code, "Unable to find a topic named x."));
    let text = "The replication factor is changed from 3 to 2";
    let refused = told(ErrorCode::InvalidReplicationFactor, text);
    assert_eq!(w.reassign_keeping("t", 0, Some(&[1, 2]), true), refused);
    assert_eq!(w.reassign_keeping("t", 0, Some(&[1, 2, 4]), true), NONE);
    let text = "The replication factor is changed from 3 to 4";
    let refused = told(ErrorCode::InvalidReplicationFactor, text);
    assert_eq!(w.reassign_keeping("t", 0, Some(&[1, 2, 4, 5]), true), refused, "while it moves");
    assert_eq!(lies(&w), (vec![1, 2, 4, 3], vec![4], vec![3]));
}

#[test]
fn replicas_that_went_are_not_eligible() {
    let mut w = World::with(true, &[1, 2, 3, 4]);
    w.create_keys("t", &[&[1, 2, 3]], &[("min.insync.replicas", "3")]);
    w.kill(2);
    assert_eq!(w.led("t", 0), (1, vec![1, 3], vec![2]));
    assert_eq!(w.reassign("t", 0, Some(&[1, 3])), NONE);
    assert_eq!(lies(&w), (vec![1, 3], vec![], vec![]));
    assert_eq!(w.led("t", 0), (1, vec![1, 3], vec![]), "2 holds nothing any more");
}
