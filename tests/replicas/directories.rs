//! Log directories that take no new replicas (KIP-1066), changed while brokers run.

use vltava::{
    base::ErrorCode,
    wire::api::topics::{CreatableTopic, CreateTopicsRequest},
};

use crate::cluster::{Cluster, Node, eventually};

const BROKER: i8 = 4;

fn cordon(node: &Node, of: i32, dirs: &str) -> (ErrorCode, String) {
    let done = node.configure((BROKER, &of.to_string()), &[("cordoned.log.dirs", dirs)]);
    (done.error_code, done.error_message.unwrap_or_default())
}

fn is_cordoned(node: &Node) -> Vec<bool> {
    node.log_dirs().iter().map(|d| d.is_cordoned).collect()
}

#[test]
fn cordoned_directories_take_no_new_replicas() {
    let cluster = Cluster::new(&[2, 3], "");
    let node = cluster.node(3);
    let path = |dir: &str| node.dir.join(dir).display().to_string();

    let (code, why) = cordon(node, 3, "/somewhere/else");
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert!(why.ends_with("Missing entries : /somewhere/else"), "{why}");
    let (code, why) = cordon(cluster.node(2), 3, &path("a"));
    assert_eq!(code, ErrorCode::InvalidRequest);
    assert!(why.starts_with("Unexpected broker id, expected 2"), "{why}");

    assert_eq!(cordon(node, 3, &path("a")).0, ErrorCode::None);
    eventually("a is cordoned", || is_cordoned(node) == [true, false]);
    cluster.create(2, "t", &[&[3], &[3], &[3], &[3]]);
    assert_eq!(node.on_disk("b", "t").len(), 0, "an idle partition has no directory");
    let lie =
        |dir: usize| node.log_dirs()[dir].topics.iter().map(|t| t.partitions.len()).sum::<usize>();
    assert_eq!([lie(0), lie(1)], [0, 4]);

    // A broker that takes nothing is passed over where the cluster chooses.
    assert_eq!(cordon(node, 3, "*").0, ErrorCode::None);
    eventually("all are cordoned", || is_cordoned(node) == [true, true]);
    let spread = |name: &str| {
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: 1,
            replication_factor: 2,
            ..CreatableTopic::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, validate_only: true };
        cluster.node(2).ask(&request, 7).topics.remove(0).error_code
    };
    eventually("the controller knows", || spread("u") == ErrorCode::InvalidReplicationFactor);
    assert_eq!(cordon(node, 3, "").0, ErrorCode::None);
    eventually("nothing is cordoned", || is_cordoned(node) == [false, false]);
    eventually("the controller knows", || spread("u") == ErrorCode::None);
}
