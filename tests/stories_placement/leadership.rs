//! Stories of placement and leadership: who gets replicas, who leads when brokers come, go, or lose
//! what they hold.

use std::collections::BTreeSet;

use crate::world::{World, assigned, dir, numbers};
use vltava::base::{ErrorCode, NodeId};
use vltava::pb::controller as pb;

fn told(code: ErrorCode, text: &str) -> (ErrorCode, Option<String>) {
    (code, Some(text.to_owned()))
}

const NONE: (ErrorCode, Option<String>) = (ErrorCode::None, None);

fn placed(name: &str, partitions: i32, factor: i32) -> pb::CreatableTopic {
    pb::CreatableTopic {
        name: name.to_owned(),
        num_partitions: partitions,
        replication_factor: factor,
        ..pb::CreatableTopic::default()
    }
}

#[test]
fn replicas_are_striped_over_racks_and_unfenced_brokers() {
    let mut w = World::new(true);
    for (b, rack) in [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")] {
        w.start_in(b, Some(rack));
    }
    assert_eq!(w.create_with(placed("t", 12, 3)), NONE);
    for p in 0..12 {
        let replicas = numbers(&w.partition("t", p).replicas);
        let racks: BTreeSet<i32> = replicas.iter().map(|b| (b - 1) / 2).collect();
        assert_eq!(racks.len(), 3, "{replicas:?}");
    }
    w.kill(2);
    assert_eq!(w.create_with(placed("u", 6, 3)), NONE);
    for p in 0..6 {
        assert!(!w.partition("u", p).replicas.contains(&NodeId(2)), "2 is fenced");
    }
}

#[test]
fn more_replicas_than_brokers_are_refused() {
    let mut w = World::with(true, &[1, 2]);
    let text = "Unable to replicate the partition 3 time(s): The target replication factor of 3 \
                cannot be reached because only 2 broker(s) are registered or some brokers have all \
                their log directories cordoned.";
    let refused = w.create_with(placed("t", 1, 3));
    assert_eq!(refused, told(ErrorCode::InvalidReplicationFactor, text));
    w.kill(1);
    w.kill(2);
    let refused = w.create_with(placed("t", 1, 1));
    let text = "Unable to replicate the partition 1 time(s): All brokers are currently fenced, or \
                have all their log directories cordoned.";
    assert_eq!(refused, told(ErrorCode::InvalidReplicationFactor, text));
}

#[test]
fn wrong_assignments_are_refused() {
    let mut w = World::with(true, &[1, 2, 3]);
    let mut refused = |to: &[&[i32]]| w.create_with(assigned("t", to, &[]));
    let code = ErrorCode::InvalidReplicaAssignment;
    let unknown = "The manual partition assignment includes broker 9, but no such broker is \
                   registered.";
    assert_eq!(refused(&[&[1, 9]]), told(code, unknown));
    let twice = "The manual partition assignment includes the broker 1 more than once.";
    assert_eq!(refused(&[&[1, 2, 1]]), told(code, twice));
    let uneven = "The manual partition assignment includes a partition with 1 replica(s), but this \
                  is not consistent with previous partitions, which have 2 replica(s).";
    assert_eq!(refused(&[&[1, 2], &[1]]), told(code, uneven));
    let empty = "The manual partition assignment includes an empty replica list.";
    assert_eq!(refused(&[&[]]), told(code, empty));
    w.kill(3);
    let fenced = "All brokers specified in the manual partition assignment for partition 0 are \
                  fenced or in controlled shutdown.";
    assert_eq!(w.create_with(assigned("t", &[&[3]], &[])), told(code, fenced));
    w.create("t", &[&[3, 1]]);
    assert_eq!(w.led("t", 0), (1, vec![1], vec![]), "a fenced replica starts outside the ISR");
}

#[test]
fn leadership_passes_down_the_replicas_in_sync() {
    let mut w = World::with(false, &[1, 2, 3]);
    w.create("t", &[&[1, 2, 3]]);
    assert_eq!(w.isr("t", 0, &[1, 3]), ErrorCode::None);
    w.kill(1);
    assert_eq!(w.led("t", 0), (3, vec![3], vec![]));
    w.kill(3);
    assert_eq!(w.led("t", 0), (-1, vec![3], vec![]), "the last member stays in the ISR");
    w.start(1);
    assert_eq!(w.led("t", 0), (-1, vec![3], vec![]), "1 is not in sync");
    w.restart_clean(3);
    assert_eq!(w.led("t", 0), (3, vec![3], vec![]), "it comes back with its broker");
    assert!(!w.is_recovering("t", 0));
}

#[test]
fn replicas_that_leave_below_the_minimum_stay_eligible() {
    let mut w = World::with(true, &[1, 2, 3]);
    w.create_keys("t", &[&[1, 2, 3]], &[("min.insync.replicas", "2")]);
    w.kill(3);
    assert_eq!(w.led("t", 0), (1, vec![1, 2], vec![]), "the minimum is kept");
    w.kill(1);
    assert_eq!(w.led("t", 0), (2, vec![2], vec![1]));
    w.kill(2);
    assert_eq!(w.led("t", 0), (-1, vec![], vec![1, 2]));
    assert_eq!(numbers(w.partition("t", 0).last_known_elr()), [2]);
    w.start(3);
    assert_eq!(w.led("t", 0).0, -1, "3 left while more went on without it");
    w.restart_clean(1);
    assert_eq!(w.led("t", 0), (1, vec![1], vec![2]));
    assert!(!w.is_recovering("t", 0), "an eligible leader holds everything committed");
    assert!(w.partition("t", 0).last_known_elr().is_empty());
    assert_eq!(w.isr("t", 0, &[1, 3]), ErrorCode::None);
    assert_eq!(w.led("t", 0), (1, vec![1, 3], vec![]));
}

#[test]
fn an_unclean_restart_ends_eligibility() {
    let mut w = World::with(true, &[1, 2]);
    w.create_keys("t", &[&[1, 2]], &[("min.insync.replicas", "2")]);
    w.kill(1);
    w.kill(2);
    assert_eq!(w.led("t", 0), (-1, vec![], vec![1, 2]));
    w.start(1);
    assert_eq!(w.led("t", 0), (-1, vec![], vec![2]), "1 may have lost what it held");
    w.start(2);
    assert_eq!(w.led("t", 0), (2, vec![2], vec![]), "the last leader, as the last resort");
    assert!(w.is_recovering("t", 0));
    assert_eq!(w.isr("t", 0, &[2]), ErrorCode::None);
    assert!(!w.is_recovering("t", 0), "the leader says that it is done");
}

#[test]
fn unclean_election_waits_for_permission() {
    let mut w = World::with(false, &[1, 2]);
    w.create("t", &[&[1, 2]]);
    w.create("u", &[&[1, 2]]);
    assert_eq!((w.isr("t", 0, &[1]), w.isr("u", 0, &[1])), (ErrorCode::None, ErrorCode::None));
    w.kill(1);
    assert_eq!((w.led("t", 0).0, w.led("u", 0).0), (-1, -1));
    w.set("t", "unclean.leader.election.enable", "true");
    assert_eq!(w.led("t", 0), (2, vec![2], vec![]), "at once, not with the next sweep");
    assert!(w.is_recovering("t", 0));
    assert_eq!(w.led("u", 0), (-1, vec![1], vec![]));
    w.set("", "unclean.leader.election.enable", "true");
    assert_eq!(w.led("u", 0), (2, vec![2], vec![]), "the default of all brokers counts too");
    w.kill(2);
    assert_eq!(w.led("u", 0), (-1, vec![2], vec![]), "nobody is alive");
    w.start(1);
    assert_eq!(w.led("u", 0), (1, vec![1], vec![]), "whoever comes first");
}

#[test]
fn another_minimum_forgets_eligible_replicas_with_the_same_entry() {
    let mut w = World::with(true, &[1, 2, 3]);
    let two = [("min.insync.replicas", "2")];
    w.create_keys("t", &[&[1, 2, 3]], &two);
    w.create_keys("u", &[&[1, 2, 3]], &two);
    w.kill(3);
    w.kill(2);
    assert_eq!((w.led("t", 0).2, w.led("u", 0).2), (vec![2], vec![2]));
    let epoch = w.partition("t", 0).partition_epoch;
    let entries = w.entries.len();
    w.set("t", "min.insync.replicas", "1");
    assert_eq!((w.led("t", 0).2, w.led("u", 0).2), (vec![], vec![2]));
    assert_eq!(w.partition("t", 0).partition_epoch, epoch + 1);
    assert_eq!(w.entries[entries..], [2], "one entry: the key and the end of the ELR");
    w.set("", "min.insync.replicas", "1");
    assert_eq!(w.led("u", 0).2, Vec::<i32>::new(), "the minimum of all topics may have changed");
}

#[test]
fn operators_elect_preferred_leaders() {
    let mut w = World::with(false, &[1, 2]);
    w.create("t", &[&[1, 2], &[2, 1], &[1, 2]]);
    w.kill(1);
    w.start(1);
    assert_eq!(w.isr("t", 0, &[2, 1]), ErrorCode::None);
    let unavailable =
        told(ErrorCode::PreferredLeaderNotAvailable, "The preferred leader was not available.");
    let unneeded =
        told(ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.");
    let unknown = told(ErrorCode::UnknownTopicOrPartition, "No such partition as t-7");
    assert_eq!(
        w.elect(0, Some(("t", &[0, 1, 2, 7]))),
        [(0, NONE), (1, unneeded), (2, unavailable.clone()), (7, unknown)]
    );
    assert_eq!(w.led("t", 0), (1, vec![2, 1], vec![]));
    let unknown = told(ErrorCode::UnknownTopicOrPartition, "No such topic as x");
    assert_eq!(w.elect(0, Some(("x", &[0]))), [(0, unknown)]);
    assert_eq!(w.elect(0, None), [(2, unavailable)], "only those that need it are told");
}

#[test]
fn operators_elect_uncleanly() {
    let mut w = World::with(false, &[1, 2, 3]);
    w.create("t", &[&[1, 2], &[1, 3]]);
    assert_eq!(w.isr("t", 0, &[1]), ErrorCode::None);
    w.kill(3);
    w.kill(1);
    let none = told(
        ErrorCode::EligibleLeadersNotAvailable,
        "Eligible topic partition leaders are not available.",
    );
    assert_eq!(w.elect(1, None), [(0, NONE), (1, none)]);
    assert_eq!(w.led("t", 0), (2, vec![2], vec![]));
    assert!(w.is_recovering("t", 0));
    let unneeded =
        told(ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.");
    assert_eq!(w.elect(1, Some(("t", &[0]))), [(0, unneeded)]);
}

#[test]
fn preferred_leaders_return_by_themselves() {
    let mut w = World::with(false, &[1, 2]);
    w.create("t", &[&[1, 2], &[2, 1]]);
    w.live(400_000, &[1, 2]);
    assert_eq!(w.deadline_ms(), Some(409_000), "balanced: nothing to wake for but sessions");
    w.kill(1);
    w.start(1);
    assert_eq!(w.isr("t", 0, &[2, 1]), ErrorCode::None);
    assert_eq!(w.led("t", 0).0, 2);
    w.live(300_000, &[1, 2]);
    assert_eq!(w.led("t", 0).0, 1);
}

#[test]
fn leaders_move_off_a_lost_directory() {
    let mut w = World::with(false, &[1, 2]);
    w.create("t", &[&[1, 2], &[1, 2], &[2, 1]]);
    for p in 0..3 {
        w.assign_dir("t", p, 1, dir(1, if p == 1 { 2 } else { 1 }));
    }
    let mut beat = w.heartbeat(1);
    beat.offline_log_dirs = vec![dir(1, 1).0.to_vec().into()];
    assert!(!w.beat_with(beat).is_fenced);
    assert_eq!(w.led("t", 0), (2, vec![2], vec![]));
    assert_eq!(w.led("t", 1), (1, vec![1, 2], vec![]), "it lies in the other directory");
    assert_eq!(w.led("t", 2), (2, vec![2], vec![]));
    let registered = &w.image().brokers().get(NodeId(1)).unwrap().log_dirs;
    assert_eq!(*registered, [dir(1, 2)]);
    w.create("u", &[&[1, 2]]);
    w.assign_dir("u", 0, 1, dir(1, 1));
    assert_eq!(w.led("u", 0), (2, vec![2], vec![]), "a replica that fell into the lost one");
}

#[test]
fn a_broker_of_many_replicas_is_fenced_in_slices() {
    let mut w = large(false, &[]);
    w.kill(1);
    let fenced = |w: &World| w.image().brokers().get(NodeId(1)).unwrap().fenced;
    assert!(fenced(&w) && w.deadline_ms() == Some(0), "more is to be done at once");
    let leads = (0..5000).filter(|p| w.partition("t", *p).leader == Some(NodeId(1)));
    assert_eq!(leads.count(), 0, "partitions that it led come first");
    assert!(in_isr(&w, 1) > 0);
    w.create("between", &[&[1, 2]]);
    assert_eq!(w.led("between", 0), (2, vec![2], vec![]), "other commands are not kept waiting");
    assert!(w.beat(1).is_fenced, "it may not return before it is out of every ISR");
    while w.deadline_ms() == Some(0) {
        w.tick();
    }
    assert_eq!(in_isr(&w, 1), 0);
    assert!(w.entries.iter().all(|records| *records <= 5100), "moderate entries");
    assert!(!w.beat(1).is_fenced);
}

#[test]
fn the_next_controller_goes_on_where_the_last_one_stopped() {
    let mut w = large(true, &[("min.insync.replicas", "3")]);
    w.kill(1);
    assert!(in_isr(&w, 1) > 0);
    w.activate();
    assert_eq!(w.deadline_ms(), Some(0));
    while w.deadline_ms() == Some(0) {
        w.tick();
    }
    assert_eq!(in_isr(&w, 1), 0);
    assert_eq!(w.led("t", 4999).2, [1]);
}

#[test]
fn an_unclean_return_waits_until_every_partition_knows() {
    let mut w = large(true, &[("min.insync.replicas", "3")]);
    w.kill(1);
    assert_eq!(w.register(1, None, -1), ErrorCode::DuplicateBrokerRegistration);
    w.activate();
    let mut refused = 0;
    while w.register(1, None, -1) != ErrorCode::None {
        refused += 1;
        w.tick();
        w.tick();
        assert!(refused < 10);
    }
    assert!(refused > 0);
    assert_eq!(in_isr(&w, 1), 0);
    assert!((0..5000).all(|p| w.partition("t", p).elr().is_empty()), "nothing of it is trusted");
}

#[test]
fn a_stopping_broker_waits_until_others_know_the_last_move() {
    let mut w = large(false, &[]);
    let mut stop = w.heartbeat(1);
    stop.want_shut_down = true;
    assert!(!w.beat_with(stop.clone()).should_shut_down);
    w.beat(2);
    w.beat(3);
    assert!(!w.beat_with(stop.clone()).should_shut_down, "slices are left");
    while w.deadline_ms() == Some(0) {
        w.tick();
    }
    assert_eq!(in_isr(&w, 1), 0);
    w.beat(2);
    w.beat(2);
    w.beat(3);
    assert!(w.beat_with(stop).should_shut_down);
}

/// 5000 partitions on brokers 1, 2 and 3, led by each in turn.
fn large(elr: bool, keys: &[(&str, &str)]) -> World {
    let mut w = World::with(elr, &[1, 2, 3]);
    let all: [&[i32]; 3] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]];
    let to: Vec<&[i32]> = (0..5000).map(|p| all[p % 3]).collect();
    w.create_keys("t", &to, keys);
    w
}

fn in_isr(w: &World, broker: i32) -> usize {
    (0..5000).filter(|p| w.partition("t", *p).isr.contains(&NodeId(broker))).count()
}
