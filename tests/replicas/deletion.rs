//! DeleteRecords is answered when the records are gone on every live replica.

use std::time::{Duration, Instant};

use vltava::{
    base::ErrorCode,
    wire::api::offsets::{
        DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic, ListOffsetsPartition,
        ListOffsetsRequest, ListOffsetsTopic,
    },
};

use crate::cluster::{Cluster, Node, eventually};

fn delete(node: &Node, offset: i64, timeout_ms: i32) -> (ErrorCode, i64) {
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset }];
    let request = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic { name: "t".to_owned(), partitions }],
        timeout_ms,
    };
    let done = node.ask(&request, 2).topics.remove(0).partitions.remove(0);
    (done.error_code, done.low_watermark)
}

fn log_start(node: &Node) -> i64 {
    let partition =
        ListOffsetsPartition { partition_index: 0, current_leader_epoch: -1, timestamp: -2 };
    let request = ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic { name: "t".to_owned(), partitions: vec![partition] }],
        ..ListOffsetsRequest::default()
    };
    node.ask(&request, 7).topics[0].partitions[0].offset
}

#[test]
fn deleted_records_are_gone_everywhere_when_the_answer_comes() {
    let cluster = Cluster::new(&[2, 3], "");
    cluster.create(2, "t", &[&[2, 3]]);
    cluster.produce(2, "t", 100, 10);
    let leader = cluster.node(2);

    assert_eq!(delete(leader, 40, 30_000), (ErrorCode::None, 40));
    assert_eq!(delete(leader, 40, 30_000), (ErrorCode::None, 40), "again");
    assert_eq!(delete(leader, 101, 30_000), (ErrorCode::OffsetOutOfRange, -1));

    // A follower that does not answer is waited for: not longer than the client wishes.
    cluster.node(3).signal("-STOP");
    let start = Instant::now();
    let (code, low) = delete(leader, 70, 1000);
    assert_eq!((code, low), (ErrorCode::RequestTimedOut, 40));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(log_start(leader), 70, "the leader has deleted them");
    cluster.node(3).signal("-CONT");
    assert_eq!(delete(leader, -1, 60_000), (ErrorCode::None, 100));

    // What is no longer alive is not waited for.
    cluster.produce(2, "t", 10, 10);
    cluster.node(3).signal("-KILL");
    eventually("broker 3 is fenced", || {
        cluster.partition(2, "t", 0).is_some_and(|p| p.isr_nodes == [2])
    });
    assert_eq!(delete(leader, 105, 60_000), (ErrorCode::None, 105));
}
