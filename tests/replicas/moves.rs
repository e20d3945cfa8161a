//! Replicas that move between the log directories of their broker, whatever happens meanwhile.

use std::fs;

use vltava::{
    base::ErrorCode,
    wire::api::cluster::{
        AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
        DescribeLogDirsPartition,
    },
};

use crate::cluster::{Cluster, Node, eventually};

const BROKER: i8 = 4;
const RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
const MIB: usize = 1 << 20;

/// Has partition 0 of `topic` moved to the directory `dir` of the broker.
fn move_to(node: &Node, topic: &str, dir: &str) -> ErrorCode {
    let request = AlterReplicaLogDirsRequest {
        dirs: vec![AlterReplicaLogDir {
            path: node.dir.join(dir).display().to_string(),
            topics: vec![AlterReplicaLogDirTopic { name: topic.to_owned(), partitions: vec![0] }],
        }],
    };
    node.ask(&request, 2).results[0].partitions[0].error_code
}

/// What lies of partition 0 in each directory: `a`, then `b`.
fn lies(node: &Node, topic: &str) -> [Vec<DescribeLogDirsPartition>; 2] {
    let of = |dir: &str| {
        let dir = node.log_dirs().into_iter().filter(|d| d.log_dir.ends_with(&format!("/{dir}")));
        let topics = dir.flat_map(|d| d.topics).filter(|t| t.name == topic);
        topics.flat_map(|t| t.partitions).collect()
    };
    [of("a"), of("b")]
}

/// The directory of the replica, and the other one.
fn home(node: &Node, topic: &str) -> (&'static str, &'static str) {
    match &lies(node, topic) {
        [a, b] if a.len() == 1 && b.is_empty() => ("a", "b"),
        [a, b] if b.len() == 1 && a.is_empty() => ("b", "a"),
        other => panic!("{other:?}"),
    }
}

fn is_there(node: &Node, topic: &str, dir: &str) -> bool {
    let [a, b] = lies(node, topic);
    let (here, there) = if dir == "a" { (a, b) } else { (b, a) };
    there.is_empty() && here.len() == 1 && !here[0].is_future_key
}

/// All records are there in order, as they were written `rounds` times.
fn check(cluster: &Cluster, at: i32, topic: &str, counts: &[usize]) {
    let keys = cluster.keys(at, topic, counts.iter().sum());
    let want: Vec<String> = counts.iter().flat_map(|n| (0..*n).map(|k| k.to_string())).collect();
    assert!(keys == want, "{} keys, {} wanted", keys.len(), want.len());
}

#[test]
fn leader_and_follower_move_while_records_come() {
    let mut cluster =
        Cluster::new(&[2, 3], "log.segment.bytes=1048576\nlog.segment.delete.delay.ms=100\n");
    cluster.create(2, "t", &[&[2, 3]]);
    cluster.produce(2, "t", 60, MIB / 10);
    let mut counts = vec![60];
    for id in [2, 3] {
        let node = cluster.node(id);
        let (from, to) = home(node, "t");
        assert_eq!(move_to(node, "t", from), ErrorCode::None, "it is there");
        assert_eq!(move_to(node, "t", to), ErrorCode::None);
        cluster.produce(2, "t", 40, MIB / 10);
        counts.push(40);
        eventually("the replica moves", || is_there(node, "t", to));
        assert_eq!(node.on_disk(to, "t"), ["t-0"]);
        eventually("the old one goes", || node.on_disk(from, "t").is_empty());
        cluster.produce(2, "t", 10, 100);
        counts.push(10);
    }
    assert_eq!(cluster.partition(2, "t", 0).unwrap().isr_nodes.len(), 2);
    check(&cluster, 2, "t", &counts);
    // The disk has it all, and the metadata knows where.
    let to = home(cluster.node(2), "t").0;
    cluster.node_mut(2).kill_and_restart();
    eventually("broker 2 is back", || {
        cluster.partition(2, "t", 0).is_some_and(|p| p.isr_nodes.len() == 2)
    });
    assert!(is_there(cluster.node(2), "t", to));
    check(&cluster, 3, "t", &counts);
}

#[test]
fn a_move_outlives_a_crash_and_can_be_given_up() {
    let mut cluster = Cluster::new(&[2], "");
    cluster.create(2, "t", &[&[2]]);
    cluster.produce(2, "t", 60, MIB / 10);
    let (from, to) = home(cluster.node(2), "t");
    let limit = |cluster: &Cluster, rate: &str| {
        let done = cluster.node(2).configure((BROKER, "2"), &[(RATE, rate)]);
        assert_eq!(done.error_code, ErrorCode::None, "{done:?}");
    };
    let copy = |cluster: &Cluster| {
        let [a, b] = lies(cluster.node(2), "t");
        [a, b].concat().into_iter().find(|p| p.is_future_key)
    };
    limit(&cluster, "200000");
    assert_eq!(move_to(cluster.node(2), "t", to), ErrorCode::None);
    eventually("a part is copied", || {
        copy(&cluster).is_some_and(|c| c.partition_size > 0 && c.offset_lag > 0)
    });
    assert_eq!(move_to(cluster.node(2), "t", from), ErrorCode::None);
    assert_eq!(copy(&cluster), None, "given up");
    assert!(is_there(cluster.node(2), "t", from));

    assert_eq!(move_to(cluster.node(2), "t", to), ErrorCode::None);
    eventually("a part is copied", || copy(&cluster).is_some_and(|c| c.partition_size > 0));
    cluster.node_mut(2).kill_and_restart();
    eventually("it goes on", || {
        let up = cluster.partition(2, "t", 0).is_some_and(|p| p.leader_id == 2);
        up && copy(&cluster).is_some_and(|c| c.offset_lag > 0)
    });
    limit(&cluster, "1000000000");
    eventually("the replica moves", || is_there(cluster.node(2), "t", to));
    check(&cluster, 2, "t", &[60]);

    // A crash between the two renames left the old one, too; or the copy not yet renamed.
    let dir = cluster.node(2).dir.clone();
    let disk = |name: &str| dir.join(name).join("t-0");
    eventually("the metadata knows", || cluster.node(2).on_disk(to, "t") == ["t-0"]);
    cluster.node_mut(2).kill_and_restart_after(|| {
        fs::create_dir_all(disk(from)).unwrap();
        for file in fs::read_dir(disk(to)).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), disk(from).join(file.file_name())).unwrap();
        }
    });
    let led = |cluster: &Cluster| cluster.partition(2, "t", 0).is_some_and(|p| p.leader_id == 2);
    eventually("it is up", || led(&cluster));
    assert!(is_there(cluster.node(2), "t", to));
    check(&cluster, 2, "t", &[60]);
    cluster.node_mut(2).kill_and_restart_after(|| {
        let name = format!("t-0.{}-future", "ab".repeat(16));
        fs::rename(disk(to), dir.join(to).join(name)).unwrap();
    });
    eventually("it is up", || led(&cluster));
    assert!(is_there(cluster.node(2), "t", to));
    check(&cluster, 2, "t", &[60]);
}

#[test]
fn what_cannot_move_is_refused_and_what_comes_later_is_made_where_it_was_wished() {
    let cluster = Cluster::new(&[2], "");
    cluster.create(2, "t", &[&[2]]);
    let node = cluster.node(2);
    assert_eq!(move_to(node, "t", "c"), ErrorCode::LogDirNotFound);
    for (topic, dir) in [("in-a", "a"), ("in-b", "b"), ("in-b-too", "b")] {
        assert_eq!(move_to(node, topic, dir), ErrorCode::ReplicaNotAvailable);
        cluster.create(2, topic, &[&[2]]);
        assert!(is_there(node, topic, dir), "{topic}");
    }
    // One that holds nothing moves as well.
    let (_, to) = home(node, "t");
    assert_eq!(move_to(node, "t", to), ErrorCode::None);
    eventually("the replica moves", || is_there(node, "t", to));
    cluster.produce(2, "t", 10, 100);
    check(&cluster, 2, "t", &[10]);
    let (_, to) = home(node, "t");
    let path = node.dir.join(to).display().to_string();
    let done = node.configure((BROKER, "2"), &[("cordoned.log.dirs", &path)]);
    assert_eq!(done.error_code, ErrorCode::None);
    eventually("it is cordoned", || node.log_dirs().iter().any(|d| d.is_cordoned));
    assert_eq!(move_to(node, "t", to), ErrorCode::InvalidReplicaAssignment);
}
