//! Share groups (KIP-932) from end to end, by raw frames as members and administrators send them, on
//! real nodes: members share partitions through kill -9, offsets are shown, moved and deleted, and on
//! three nodes a group outlives its coordinator.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use vltava::{
    base::{ErrorCode, Uuid},
    net::{PeerClient, PeerConfig},
    wire::{
        api::{
            configs::{
                IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource,
                IncrementalAlterableConfig,
            },
            groups::{DeleteGroupsRequest, FindCoordinatorRequest, ListGroupsRequest},
            share_groups::{
                AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsRequestPartition,
                AlterShareGroupOffsetsRequestTopic, DeleteShareGroupOffsetsRequest,
                DeleteShareGroupOffsetsRequestTopic, DescribeShareGroupOffsetsRequest,
                DescribeShareGroupOffsetsRequestGroup, ShareGroupDescribeRequest,
                ShareGroupDescribed, ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
            },
            topics::{CreatableTopic, CreateTopicsRequest},
        },
        frame::{decode_response, encode_request},
        message::Request,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAABA";
const NONE: ErrorCode = ErrorCode::None;

fn vltava(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

struct Node {
    config: PathBuf,
    port: u16,
    process: Child,
}

impl Node {
    fn run(config: &Path) -> Child {
        vltava(&["server", "start", config.to_str().unwrap()]).spawn().unwrap()
    }

    fn await_listening(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "the node does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Nodes that are brokers and controllers; they end with it.
struct Cluster {
    nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    fn start(count: u16) -> Self {
        // All are held until all are known, so that none is drawn twice.
        let held: Vec<_> =
            (0..count * 2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<u16> = held.iter().map(|l| l.local_addr().unwrap().port()).collect();
        drop(held);
        let dir = tempfile::tempdir().unwrap();
        let voters: Vec<_> = (0..count)
            .map(|n| format!("{}@127.0.0.1:{}", n + 1, ports[usize::from(n) * 2]))
            .collect();
        let mut nodes = Vec::new();
        for n in 0..count {
            let (controller, port) = (ports[usize::from(n) * 2], ports[usize::from(n) * 2 + 1]);
            let config = dir.path().join(format!("{n}.properties"));
            let text = format!(
                "process.roles=broker,controller\nnode.id={}\ncontroller.quorum.voters={}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 controller.listener.names=CONTROLLER\nlog.dirs={at}/data{n}\n\
                 offsets.topic.replication.factor={count}\noffsets.topic.num.partitions=3\n\
                 share.coordinator.state.topic.replication.factor={count}\n\
                 share.coordinator.state.topic.min.isr=1\n\
                 share.coordinator.state.topic.num.partitions=3\n\
                 group.share.assignment.interval.ms=0\n\
                 vltava.log.file={at}/node{n}.log\n",
                n + 1,
                voters.join(","),
                at = dir.path().display(),
            );
            fs::write(&config, text).unwrap();
            let format = ["storage", "format", "-t", CLUSTER_ID, "-c", config.to_str().unwrap()];
            assert!(vltava(&format).status().unwrap().success());
            let process = Node::run(&config);
            nodes.push(Node { config, port, process });
        }
        nodes.iter().for_each(Node::await_listening);
        Self { nodes, _dir: dir }
    }

    async fn create(&self, topic: &str, partitions: i32) {
        let topic = CreatableTopic {
            name: topic.into(),
            num_partitions: partitions,
            replication_factor: 1,
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let start = Instant::now();
        loop {
            let answer = ask(self.nodes[0].port, 7, &request).await;
            match answer.as_ref().and_then(|a| a.topics.first()).map(|t| t.error_code) {
                Some(NONE | ErrorCode::TopicAlreadyExists) => return,
                _ => pause(start, "a topic").await,
            }
        }
    }

    /// The port of the group's coordinator.
    async fn coordinator(&self, group: &str) -> u16 {
        let request = FindCoordinatorRequest {
            key_type: 0,
            coordinator_keys: vec![group.into()],
            ..Default::default()
        };
        let start = Instant::now();
        loop {
            for node in &self.nodes {
                let answer = ask(node.port, 6, &request).await;
                if let Some(found) = answer.and_then(|a| a.coordinators.into_iter().next())
                    && found.error_code == NONE
                    && self.nodes.iter().any(|n| i32::from(n.port) == found.port)
                {
                    return found.port.try_into().unwrap();
                }
            }
            pause(start, "the coordinator").await;
        }
    }

    /// One heartbeat, sent until the coordinator takes it.
    async fn beat(&self, member: &str, epoch: i32) -> ShareGroupHeartbeatResponse {
        let request = ShareGroupHeartbeatRequest {
            group_id: "g".into(),
            member_id: member.into(),
            member_epoch: epoch,
            rack_id: None,
            subscribed_topic_names: (epoch == 0).then(|| vec!["t".into()]),
        };
        let start = Instant::now();
        loop {
            let port = self.coordinator("g").await;
            if let Some(answer) = ask(port, 1, &request).await
                && !answer.error_code.is_retriable()
            {
                return answer;
            }
            pause(start, "a heartbeat").await;
        }
    }

    /// Heartbeats of these members until each has as many partitions as stated.
    async fn until(&self, members: &mut [Member], sizes: &[usize]) {
        let start = Instant::now();
        loop {
            for member in &mut *members {
                let answer = self.beat(member.id, member.epoch).await;
                assert_eq!(answer.error_code, NONE, "{:?}", answer.error_message);
                member.epoch = answer.member_epoch;
                if let Some(assignment) = answer.assignment {
                    let topics = assignment.topic_partitions.into_iter();
                    member.has = topics.flat_map(|t| t.partitions).collect();
                }
            }
            if members.iter().map(|m| m.has.len()).eq(sizes.iter().copied()) {
                return;
            }
            pause(start, "partitions").await;
        }
    }

    async fn describe(&self) -> ShareGroupDescribed {
        let request =
            ShareGroupDescribeRequest { group_ids: vec!["g".into()], ..Default::default() };
        let start = Instant::now();
        loop {
            let port = self.coordinator("g").await;
            let answer = ask(port, 1, &request).await;
            match answer.and_then(|a| a.groups.into_iter().next()) {
                Some(group) if !group.error_code.is_retriable() => return group,
                _ => pause(start, "a description").await,
            }
        }
    }

    /// Partition, start offset and lag of all that the group has.
    async fn offsets(&self) -> Vec<(i32, i64, i64)> {
        let group = DescribeShareGroupOffsetsRequestGroup { group_id: "g".into(), topics: None };
        let request = DescribeShareGroupOffsetsRequest { groups: vec![group] };
        let answer = ask(self.coordinator("g").await, 1, &request).await.unwrap();
        assert_eq!(answer.groups[0].error_code, NONE);
        let topics = answer.groups[0].topics.iter();
        let partitions = topics.flat_map(|t| &t.partitions);
        partitions
            .map(|p| {
                assert_eq!(p.error_code, NONE, "{p:?}");
                (p.partition_index, p.start_offset, p.lag)
            })
            .collect()
    }

    async fn alter(&self, offsets: &[(i32, i64)]) -> Vec<ErrorCode> {
        let partitions = offsets.iter().map(|(partition_index, start_offset)| {
            AlterShareGroupOffsetsRequestPartition {
                partition_index: *partition_index,
                start_offset: *start_offset,
            }
        });
        let topic = AlterShareGroupOffsetsRequestTopic {
            topic_name: "t".into(),
            partitions: partitions.collect(),
        };
        let request = AlterShareGroupOffsetsRequest { group_id: "g".into(), topics: vec![topic] };
        let answer = ask(self.coordinator("g").await, 0, &request).await.unwrap();
        match answer.error_code {
            NONE => answer.responses[0].partitions.iter().map(|p| p.error_code).collect(),
            error => vec![error],
        }
    }

    async fn delete_group(&self) -> ErrorCode {
        let request = DeleteGroupsRequest { groups_names: vec!["g".into()] };
        let answer = ask(self.coordinator("g").await, 2, &request).await.unwrap();
        answer.results[0].error_code
    }
}

struct Member {
    id: &'static str,
    epoch: i32,
    has: Vec<i32>,
}

impl Member {
    const fn new(id: &'static str) -> Self {
        Self { id, epoch: 0, has: Vec::new() }
    }
}

async fn pause(start: Instant, what: &str) {
    assert!(start.elapsed() < PATIENCE, "{what}: not in time");
    sleep(Duration::from_millis(20)).await;
}

/// One request over a connection of its own; nothing if the node does not answer.
async fn ask<R: Request>(port: u16, version: i16, request: &R) -> Option<R::Response> {
    let config = PeerConfig { request_timeout: Duration::from_secs(20), ..PeerConfig::new() };
    let mut peer = PeerClient::connect("127.0.0.1", port, &config).await.ok()?;
    let answer =
        peer.call(encode_request(1, Some("test"), request, version).unwrap()).await.ok()?;
    Some(decode_response(&answer, version).unwrap().1)
}

#[tokio::test]
async fn members_share_partitions_and_administrators_see_and_move_offsets() {
    let mut cluster = Cluster::start(1);
    cluster.create("t", 3).await;
    let mut members = [Member::new("a"), Member::new("b")];
    cluster.until(&mut members[..1], &[3]).await;
    cluster.until(&mut members, &[2, 1]).await;
    let shown = cluster.describe().await;
    assert_eq!((&*shown.group_state, &*shown.assignor_name), ("Stable", "simple"));
    assert_eq!(shown.members.len(), 2);
    assert_eq!(shown.members[0].assignment.topic_partitions[0].topic_name, "t");
    let list = ListGroupsRequest { types_filter: vec!["share".into()], ..Default::default() };
    let listed = ask(cluster.coordinator("g").await, 5, &list).await.unwrap();
    let listed: Vec<_> = listed.groups.iter().map(|g| (&*g.group_id, &*g.protocol_type)).collect();
    assert_eq!(listed, [("g", "share")]);
    let unread: Vec<_> = (0..3).map(|p| (p, -1, -1)).collect();
    assert_eq!(cluster.offsets().await, unread, "nobody has read yet");
    assert_eq!(cluster.alter(&[(0, 5)]).await, [ErrorCode::NonEmptyGroup]);
    assert_eq!(cluster.delete_group().await, ErrorCode::NonEmptyGroup);

    // What the group sets for itself.
    let config = IncrementalAlterableConfig {
        name: "share.heartbeat.interval.ms".into(),
        config_operation: 0,
        value: Some("6000".into()),
    };
    let resource = IncrementalAlterConfigsResource {
        resource_type: 32,
        resource_name: "g".into(),
        configs: vec![config],
    };
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let answer = ask(cluster.nodes[0].port, 1, &request).await.unwrap();
    assert_eq!(answer.responses[0].error_code, NONE, "{:?}", answer.responses[0].error_message);
    let start = Instant::now();
    while cluster.beat("a", members[0].epoch).await.heartbeat_interval_ms != 6_000 {
        pause(start, "the group's own interval").await;
    }

    // Nobody has to rejoin after the coordinator died.
    let node = &mut cluster.nodes[0];
    node.kill();
    node.process = Node::run(&node.config);
    node.await_listening();
    let again = cluster.describe().await;
    assert_eq!(again, shown);
    cluster.until(&mut members, &[2, 1]).await;
    assert_eq!(cluster.describe().await.group_epoch, shown.group_epoch);

    for member in ["a", "b"] {
        assert_eq!(cluster.beat(member, -1).await.error_code, NONE);
    }
    assert_eq!(cluster.describe().await.group_state, "Empty");
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(cluster.alter(&[(0, 0), (3, 0), (2, 0)]).await, [NONE, unknown, NONE]);
    assert_eq!(cluster.offsets().await, [(0, 0, 0), (1, -1, -1), (2, 0, 0)]);
    let topics =
        ["t", "u"].map(|name| DeleteShareGroupOffsetsRequestTopic { topic_name: name.into() });
    let request = DeleteShareGroupOffsetsRequest { group_id: "g".into(), topics: topics.to_vec() };
    let answer = ask(cluster.coordinator("g").await, 0, &request).await.unwrap();
    let codes: Vec<_> = answer.responses.iter().map(|t| (&*t.topic_name, t.error_code)).collect();
    assert_eq!((answer.error_code, codes), (NONE, vec![("t", NONE), ("u", unknown)]));
    assert_ne!(answer.responses[0].topic_id, Uuid::default());
    assert_eq!(cluster.offsets().await, []);

    // It begins anew, and is gone for good once it is deleted.
    let mut member = [Member::new("c")];
    cluster.until(&mut member, &[3]).await;
    assert_eq!(cluster.beat("c", -1).await.error_code, NONE);
    assert_eq!(cluster.delete_group().await, NONE);
    assert_eq!(cluster.describe().await.error_code, ErrorCode::GroupIdNotFound);
    assert_eq!(cluster.beat("c", 4).await.error_code, ErrorCode::GroupIdNotFound);
}

#[tokio::test]
async fn a_group_outlives_its_coordinator_and_its_lag_is_told_by_all_leaders() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 6).await;
    let start = Instant::now();
    while cluster.alter(&[0, 1, 2, 3, 4, 5].map(|p| (p, 0))).await != [NONE; 6] {
        pause(start, "altered offsets").await;
    }
    let all: Vec<_> = (0..6).map(|p| (p, 0, 0)).collect();
    assert_eq!(cluster.offsets().await, all);
    let mut members = [Member::new("a"), Member::new("b")];
    cluster.until(&mut members, &[3, 3]).await;
    let shown = cluster.describe().await;

    let coordinator = cluster.coordinator("g").await;
    cluster.nodes.iter_mut().find(|n| n.port == coordinator).unwrap().kill();
    let start = Instant::now();
    while cluster.coordinator("g").await == coordinator {
        pause(start, "another coordinator").await;
    }
    // What was written last is shown once the new leader knows that it is committed.
    let start = Instant::now();
    while cluster.describe().await.members != shown.members {
        pause(start, "the group as it was").await;
    }
    cluster.until(&mut members, &[3, 3]).await;
    let mut third = [Member::new("c")];
    cluster.until(&mut third, &[2]).await;
}
