//! What is asked of the quorum's member and not of the controller: its description, and changes of
//! its voters. Only the leader answers. Uses `quorum`.

use std::{cmp::Ordering, time::Duration};

use super::{
    command::{Outcome, Refusal, Reply, SubmitBody, SubmitCommand},
    driver::refused,
};
use crate::{
    base::{ErrorCode, LeaderEpoch, NodeId, Uuid},
    metadata::features::KRAFT_VERSION,
    pb::controller as pb,
    quorum::{
        ControllerEndpoint, MetadataSource as _, Quorum, QuorumDescription, ReplicaDescription,
        Voter, VoterChangeError, VoterKey,
    },
};

/// A change of the voters takes no longer, whatever its request says.
const CHANGE_MAX: Duration = Duration::from_secs(60);
/// The level of `kraft.version` at which voters are recorded and may change.
const RECORDED_VOTERS: i32 = 1;

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

/// Has the voters changed. Nothing but what [`answer`] lets through comes here.
async fn change(quorum: &Quorum, command: SubmitCommand) -> Result<(), Refusal> {
    let done = match command {
        SubmitCommand::AddVoter(c) => {
            let within = Duration::from_millis(u64::try_from(c.timeout_ms).unwrap_or(0));
            let key = voter_key(c.id, &c.directory_id);
            quorum.add_voter(key, &endpoints(c.endpoints)?, within.min(CHANGE_MAX)).await
        }
        SubmitCommand::RemoveVoter(c) => {
            quorum.remove_voter(voter_key(c.id, &c.directory_id), CHANGE_MAX).await
        }
        SubmitCommand::UpdateVoter(c) => {
            check_update(&c, quorum.leadership().borrow().epoch)?;
            let key = voter_key(c.id, &c.directory_id);
            quorum.update_voter(key, &endpoints(c.endpoints)?, CHANGE_MAX).await
        }
        _ => return Err(Refusal::bare(ErrorCode::InvalidRequest)),
    };
    done.map_err(|e| Refusal::new(code(&e), e.to_string()))
}

fn voter_key(id: i32, directory_id: &[u8]) -> VoterKey {
    let directory_id = directory_id.try_into().map(Uuid).unwrap_or_default();
    VoterKey { id: NodeId(id), directory_id }
}

fn endpoints(endpoints: Vec<pb::Endpoint>) -> Result<Vec<ControllerEndpoint>, Refusal> {
    let endpoint = |e: pb::Endpoint| {
        let port = u16::try_from(e.port).map_err(|_| {
            let text = format!("Port {} of listener {} is above 65535.", e.port, e.name);
            Refusal::new(ErrorCode::InvalidRequest, text)
        })?;
        Ok(ControllerEndpoint { name: e.name, host: e.host, port })
    };
    endpoints.into_iter().map(endpoint).collect()
}

/// A voter that speaks to the leader of another epoch, or cannot do what the quorum does
/// (`UpdateVoterHandler`).
fn check_update(c: &pb::UpdateVoter, epoch: LeaderEpoch) -> Result<(), Refusal> {
    match c.epoch.cmp(&epoch) {
        Ordering::Less => return Err(Refusal::bare(ErrorCode::FencedLeaderEpoch)),
        Ordering::Greater => return Err(Refusal::bare(ErrorCode::UnknownLeaderEpoch)),
        Ordering::Equal => {}
    }
    let range = c.kraft_version.clone().unwrap_or_default();
    if !(range.min..=range.max).contains(&RECORDED_VOTERS) {
        let text = format!(
            "The voter supports {KRAFT_VERSION} {} to {}, but the quorum has {RECORDED_VOTERS}.",
            range.min, range.max
        );
        return Err(Refusal::new(ErrorCode::InvalidRequest, text));
    }
    Ok(())
}

fn code(e: &VoterChangeError) -> ErrorCode {
    match e {
        // The asker looks for the leader.
        VoterChangeError::NotLeader { .. } => ErrorCode::NotController,
        VoterChangeError::Duplicate(_) => ErrorCode::DuplicateVoter,
        VoterChangeError::NotFound(_) => ErrorCode::VoterNotFound,
        VoterChangeError::TimedOut(_) => ErrorCode::RequestTimedOut,
        VoterChangeError::Invalid(_) => ErrorCode::InvalidRequest,
        VoterChangeError::Static => ErrorCode::UnsupportedVersion,
        VoterChangeError::Fatal(_) => ErrorCode::UnknownServerError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_speaks_to_this_epoch_and_of_this_version() {
        let update = |epoch, min, max| pb::UpdateVoter {
            epoch,
            kraft_version: Some(pb::FeatureRange { name: String::new(), min, max }),
            ..Default::default()
        };
        let checked = |u| check_update(&u, 5).map_err(|e| e.code);
        assert_eq!(checked(update(5, 0, 1)), Ok(()));
        assert_eq!(checked(update(4, 0, 1)), Err(ErrorCode::FencedLeaderEpoch));
        assert_eq!(checked(update(6, 0, 1)), Err(ErrorCode::UnknownLeaderEpoch));
        assert_eq!(checked(update(5, 0, 0)), Err(ErrorCode::InvalidRequest));
        assert_eq!(
            checked(pb::UpdateVoter { epoch: 5, ..Default::default() }).unwrap_err(),
            ErrorCode::InvalidRequest
        );
    }
}
