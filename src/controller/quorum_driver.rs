//! What is asked of the quorum's member and not of the controller: its description, and changes of
//! its voters. Only the leader answers. Uses `quorum`.

use super::{
    command::{Outcome, Refusal, Reply, SubmitBody, SubmitCommand},
    driver::refused,
};
use crate::{
    base::ErrorCode,
    pb::controller as pb,
    quorum::{MetadataSource as _, Quorum, QuorumDescription, ReplicaDescription, Voter},
};

/// The answer to `command`, or `command` itself if it is for the controller.
///
/// # Errors
/// A command for the controller, given back.
pub(super) async fn answer(
    quorum: &Quorum,
    command: SubmitCommand,
) -> Result<pb::SubmitReply, SubmitCommand> {
    match &command {
        SubmitCommand::DescribeQuorum(_)
        | SubmitCommand::AddVoter(_)
        | SubmitCommand::RemoveVoter(_)
        | SubmitCommand::UpdateVoter(_) => {}
        _ => return Err(command),
    }
    let leadership = *quorum.leadership().borrow();
    if !leadership.is_self {
        return Ok(refused(leadership.leader));
    }
    let done = match command {
        SubmitCommand::DescribeQuorum(_) => {
            Ok(SubmitBody::DescribeQuorum(described(quorum.describe())))
        }
        other => {
            change(quorum, other).await.map(|()| SubmitBody::ChangeVoters(pb::ChangeVotersReply {}))
        }
    };
    let reply = match done {
        Ok(body) => Outcome::submit(0, None, body),
        Err(refusal) => Outcome::refused(&refusal),
    };
    Ok(match reply.settle(&quorum.image()) {
        Reply::Submit(reply) => reply,
        Reply::Heartbeat(_) | Reply::Nothing => refused(leadership.leader),
    })
}

fn described(quorum: QuorumDescription) -> pb::DescribeQuorumReply {
    let replica = |r: ReplicaDescription| pb::QuorumReplica {
        id: r.id.0,
        directory_id: r.directory_id.0.to_vec().into(),
        log_end_offset: r.log_end_offset,
        last_fetch_ms: r.last_fetch_ms,
        last_caught_up_ms: r.last_caught_up_ms,
    };
    let name = quorum.listener_name;
    let node = |v: Voter| pb::QuorumNode {
        id: v.id.0,
        endpoints: vec![pb::Endpoint {
            name: name.clone(),
            host: v.host,
            port: u32::from(v.port),
            security_protocol: 0,
        }],
    };
    pb::DescribeQuorumReply {
        leader: quorum.leader.map_or(-1, |id| id.0),
        epoch: quorum.epoch,
        high_watermark: quorum.high_watermark,
        voters: quorum.voters.into_iter().map(replica).collect(),
        observers: quorum.observers.into_iter().map(replica).collect(),
        nodes: quorum.endpoints.into_iter().map(node).collect(),
    }
}

/// The voters are configured and never change.
async fn change(_quorum: &Quorum, _command: SubmitCommand) -> Result<(), Refusal> {
    Err(Refusal::new(
        ErrorCode::UnsupportedVersion,
        "The voters are set by controller.quorum.voters: kraft.version is 0.",
    ))
}
