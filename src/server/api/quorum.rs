//! DescribeQuorum, AddRaftVoter, RemoveRaftVoter, UpdateRaftVoter: put to the member of the quorum
//! that leads. A broker forwards them; a controller that does not lead says so.

use crate::{
    base::ErrorCode,
    pb::controller::{self as pb, submit_reply::Reply, submit_request::Command},
    server::{
        context::{Admin, Caller, Role},
        forward::{Failure, uuid},
    },
    wire::api::quorum::{
        AddRaftVoterRequest, AddRaftVoterResponse, CurrentLeader, DescribeQuorumRequest,
        DescribeQuorumResponse, QuorumListener, QuorumNode, QuorumPartition, QuorumReplica,
        QuorumTopic, QuorumTopicRequest, RemoveRaftVoterRequest, RemoveRaftVoterResponse,
        UpdateRaftVoterRequest, UpdateRaftVoterResponse,
    },
};

const METADATA_TOPIC: &str = "__cluster_metadata";
/// How long an answer may take to requests that carry no time of their own.
const TIMEOUT_MS: i32 = 30_000;

/// DescribeQuorum.
pub(crate) async fn describe_quorum(
    node: &dyn Admin,
    _caller: &Caller,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    if !asks_for_metadata(&request.topics) {
        return of_partitions(&request.topics, ErrorCode::UnknownTopicOrPartition);
    }
    let asked = node.submit(Command::DescribeQuorum(pb::DescribeQuorum {}), TIMEOUT_MS).await;
    match asked {
        Ok(Reply::DescribeQuorum(quorum)) => described(quorum),
        other => {
            let failure = Failure::of(other);
            if failure.code == ErrorCode::NotController {
                return of_partitions(&request.topics, ErrorCode::NotLeaderOrFollower);
            }
            DescribeQuorumResponse {
                error_code: failure.code,
                error_message: failure.message,
                ..Default::default()
            }
        }
    }
}

/// There is but one partition to describe.
fn asks_for_metadata(topics: &[QuorumTopicRequest]) -> bool {
    match topics {
        [t] => {
            t.topic_name == METADATA_TOPIC
                && matches!(&t.partitions[..], [p] if p.partition_index == 0)
        }
        _ => false,
    }
}

/// The same error for all that was asked for.
fn of_partitions(topics: &[QuorumTopicRequest], error_code: ErrorCode) -> DescribeQuorumResponse {
    let topics = topics.iter().map(|t| QuorumTopic {
        topic_name: t.topic_name.clone(),
        partitions: t
            .partitions
            .iter()
            .map(|p| QuorumPartition {
                partition_index: p.partition_index,
                error_code,
                ..Default::default()
            })
            .collect(),
    });
    DescribeQuorumResponse { topics: topics.collect(), ..Default::default() }
}

fn described(quorum: pb::DescribeQuorumReply) -> DescribeQuorumResponse {
    let replicas = |list: Vec<pb::QuorumReplica>| -> Vec<QuorumReplica> {
        list.into_iter()
            .map(|r| QuorumReplica {
                replica_id: r.id,
                replica_directory_id: uuid(&r.directory_id),
                log_end_offset: r.log_end_offset,
                last_fetch_timestamp: r.last_fetch_ms,
                last_caught_up_timestamp: r.last_caught_up_ms,
            })
            .collect()
    };
    let partition = QuorumPartition {
        partition_index: 0,
        leader_id: quorum.leader,
        leader_epoch: quorum.epoch,
        high_watermark: quorum.high_watermark,
        current_voters: replicas(quorum.voters),
        observers: replicas(quorum.observers),
        ..Default::default()
    };
    let nodes = quorum.nodes.into_iter().map(|n| QuorumNode {
        node_id: n.id,
        listeners: n.endpoints.into_iter().map(listener).collect(),
    });
    DescribeQuorumResponse {
        topics: vec![QuorumTopic {
            topic_name: METADATA_TOPIC.to_owned(),
            partitions: vec![partition],
        }],
        nodes: nodes.collect(),
        ..Default::default()
    }
}

fn listener(at: pb::Endpoint) -> QuorumListener {
    let port = u16::try_from(at.port).unwrap_or(0);
    QuorumListener { name: at.name, host: at.host, port }
}

fn endpoints(listeners: Vec<QuorumListener>) -> Vec<pb::Endpoint> {
    let endpoint = |l: QuorumListener| pb::Endpoint {
        name: l.name,
        host: l.host,
        port: u32::from(l.port),
        security_protocol: 0,
    };
    listeners.into_iter().map(endpoint).collect()
}

/// AddRaftVoter. The answer always waits for the commit, whatever `ack_when_committed` says: a
/// leader that answers earlier may be deposed before the voter is one.
pub(crate) async fn add_raft_voter(
    node: &dyn Admin,
    _caller: &Caller,
    request: AddRaftVoterRequest,
) -> AddRaftVoterResponse {
    let command = Command::AddVoter(pb::AddVoter {
        id: request.voter_id,
        directory_id: request.voter_directory_id.0.to_vec().into(),
        endpoints: endpoints(request.listeners),
        timeout_ms: request.timeout_ms,
    });
    let cluster = request.cluster_id.as_deref();
    let (error_code, error_message) = change(node, cluster, command, request.timeout_ms).await;
    AddRaftVoterResponse { throttle_time_ms: 0, error_code, error_message }
}

/// RemoveRaftVoter.
pub(crate) async fn remove_raft_voter(
    node: &dyn Admin,
    _caller: &Caller,
    request: RemoveRaftVoterRequest,
) -> RemoveRaftVoterResponse {
    let command = Command::RemoveVoter(pb::RemoveVoter {
        id: request.voter_id,
        directory_id: request.voter_directory_id.0.to_vec().into(),
    });
    let cluster = request.cluster_id.as_deref();
    let (error_code, error_message) = change(node, cluster, command, TIMEOUT_MS).await;
    RemoveRaftVoterResponse { throttle_time_ms: 0, error_code, error_message }
}

/// UpdateRaftVoter: the answer names the leader.
pub(crate) async fn update_raft_voter(
    node: &dyn Admin,
    caller: &Caller,
    request: UpdateRaftVoterRequest,
) -> UpdateRaftVoterResponse {
    let feature = request.k_raft_version_feature;
    let command = Command::UpdateVoter(pb::UpdateVoter {
        epoch: request.current_leader_epoch,
        id: request.voter_id,
        directory_id: request.voter_directory_id.0.to_vec().into(),
        endpoints: endpoints(request.listeners),
        kraft_version: Some(pb::FeatureRange {
            name: crate::metadata::features::KRAFT_VERSION.to_owned(),
            min: i32::from(feature.min_supported_version),
            max: i32::from(feature.max_supported_version),
        }),
    });
    let (error_code, _) = change(node, request.cluster_id.as_deref(), command, TIMEOUT_MS).await;
    let id = node.controller_for_clients();
    let at = node.nodes(&caller.listener).into_iter().find(|n| n.id.0 == id);
    let current_leader = match at {
        Some(leader) => CurrentLeader {
            leader_id: id,
            leader_epoch: node.quorum_epoch(),
            host: leader.host,
            port: leader.port,
        },
        None => CurrentLeader::default(),
    };
    UpdateRaftVoterResponse { throttle_time_ms: 0, error_code, current_leader }
}

/// Has the voters changed; the error and its text.
async fn change(
    node: &dyn Admin,
    cluster_id: Option<&str>,
    command: Command,
    timeout_ms: i32,
) -> (ErrorCode, Option<String>) {
    if let Some(given) = cluster_id.filter(|given| *given != node.cluster_id()) {
        let ours = node.cluster_id();
        let text = format!("The given id \"{given}\" doesn't match the cluster id \"{ours}\"");
        return (ErrorCode::InconsistentClusterId, Some(text));
    }
    match node.submit(command, timeout_ms).await {
        Ok(Reply::ChangeVoters(_)) => (ErrorCode::None, None),
        other => {
            let failure = Failure::of(other);
            // The word of the quorum's own APIs for it, by which clients of a controller look for
            // another one.
            let moved = failure.code == ErrorCode::NotController && node.role() == Role::Controller;
            let code = if moved { ErrorCode::NotLeaderOrFollower } else { failure.code };
            (code, failure.message)
        }
    }
}
