//! Replication under a limit: a replica that is being made waits, one that is in sync does not.

use std::time::{Duration, Instant};

use vltava::base::ErrorCode;

use crate::cluster::{Cluster, eventually};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const RATES: [&str; 2] =
    ["leader.replication.throttled.rate", "follower.replication.throttled.rate"];
const MIB: usize = 1 << 20;

#[test]
fn a_new_replica_is_throttled_and_one_in_sync_is_not() {
    let cluster = Cluster::new(&[2, 3], "");
    for (name, side) in [("by-leader", 0), ("by-follower", 1)] {
        cluster.create(2, name, &[&[2]]);
        cluster.produce(2, name, 40, MIB / 10);
        // The limit of each side is that of its own broker; the other side knows of none.
        let broker = cluster.node([2, 3][side]);
        let limit = [(RATES[side], "500000")];
        let done = broker.configure((BROKER, &broker.id.to_string()), &limit);
        assert_eq!(done.error_code, ErrorCode::None, "{done:?}");
        let lists = [
            ("leader.replication.throttled.replicas", "0:2"),
            ("follower.replication.throttled.replicas", "0:3"),
        ];
        let done = cluster.node(2).configure((TOPIC, name), &lists[side..=side]);
        assert_eq!(done.error_code, ErrorCode::None, "{done:?}");

        let start = Instant::now();
        cluster.reassign(2, name, &[2, 3]);
        let in_sync = || cluster.partition(2, name, 0).is_some_and(|p| p.isr_nodes.len() == 2);
        eventually("the replica catches up", in_sync);
        // 4 MiB at half a megabyte a second, but for the bytes that came before any was counted.
        assert!(start.elapsed() >= Duration::from_secs(4), "{name}: {:?}", start.elapsed());

        // Nothing may pass, but what is in sync stays so.
        let done = broker.configure((BROKER, &broker.id.to_string()), &[(RATES[side], "1")]);
        assert_eq!(done.error_code, ErrorCode::None, "{done:?}");
        cluster.produce(2, name, 20, 1000);
        assert!(in_sync());
    }
}

#[test]
fn a_limit_that_is_lifted_for_all_brokers_lets_a_replica_catch_up() {
    let cluster = Cluster::new(&[2, 3], "");
    cluster.create(2, "t", &[&[2]]);
    cluster.produce(2, "t", 40, MIB / 10);
    let nothing = RATES.map(|key| (key, "1"));
    assert_eq!(cluster.node(2).configure((BROKER, ""), &nothing).error_code, ErrorCode::None);
    let all = [
        ("leader.replication.throttled.replicas", "*"),
        ("follower.replication.throttled.replicas", "*"),
    ];
    assert_eq!(cluster.node(2).configure((TOPIC, "t"), &all).error_code, ErrorCode::None);
    cluster.reassign(2, "t", &[2, 3]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(cluster.partition(2, "t", 0).unwrap().isr_nodes, [2]);

    let much = RATES.map(|key| (key, "1000000000"));
    assert_eq!(cluster.node(3).configure((BROKER, ""), &much).error_code, ErrorCode::None);
    eventually("the replica catches up", || {
        cluster.partition(2, "t", 0).is_some_and(|p| p.isr_nodes.len() == 2)
    });
    assert_eq!(cluster.keys(3, "t", 40).len(), 40);
}
