//! A controller of a dynamic quorum makes itself known: until the leader sends it the log, whenever
//! it listens elsewhere than is recorded, and with `controller.quorum.auto.join.enable` until it is
//! a voter. Uses `base`, `pb`.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    network::Caller,
    settings::{DynamicVoters, Leadership, QuorumTimeouts, Voter},
    types,
    voters::VoterChanges,
};
use crate::pb::quorum::{self as pb, raft_client::RaftClient};

/// Pause between attempts.
const EVERY: Duration = Duration::from_millis(500);
/// A member that knows no leader for so long may have been removed while it was away.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// The same trouble is logged again after so long.
const SAID_EVERY: Duration = Duration::from_secs(10);
/// The leader lets a new voter catch up before it answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// See the file's head.
pub(crate) struct Enrolment {
    pub(crate) changes: Arc<VoterChanges>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) settings: DynamicVoters,
    /// This node.
    pub(crate) own: Voter,
    pub(crate) caller: Caller,
    pub(crate) timeouts: QuorumTimeouts,
}

/// Why a call brought nothing.
enum Failed {
    /// Another node leads.
    Elsewhere(Voter),
    /// It was refused, or there was no answer.
    Refused(String),
}

impl Enrolment {
    /// Never ends.
    pub(crate) async fn run(self) {
        let mut led = Instant::now();
        let mut asked = 0;
        let mut said: Option<(String, Instant)> = None;
        loop {
            tokio::time::sleep(EVERY).await;
            if self.leadership.borrow().leader.is_some() {
                led = Instant::now();
            }
            if self.is_known() && led.elapsed() < LOST_AFTER {
                continue;
            }
            let whom = self.whom(asked);
            asked += 1;
            let Some(mut whom) = whom else { continue };
            let mut result = self.ask(&whom).await;
            if let Err(Failed::Elsewhere(leader)) = result {
                whom = leader.authority();
                result = self.ask(&whom).await;
            }
            let why = match result {
                Ok(()) => continue,
                Err(Failed::Elsewhere(leader)) => format!("node {} leads", leader.id),
                Err(Failed::Refused(why)) => why,
            };
            if said.as_ref().is_none_or(|(old, at)| *old != why || at.elapsed() > SAID_EVERY) {
                tracing::info!(controller = whom, "this controller is no member yet: {why}");
                said = Some((why, Instant::now()));
            }
        }
    }

    /// Whether what the log says of this node is as it should be.
    fn is_known(&self) -> bool {
        let members = self.changes.members();
        let recorded = members.get_node(&self.own.id) == Some(&types::peer(&self.own));
        let votes = members.voter_ids().any(|id| id == self.own.id);
        recorded && (votes || !self.settings.auto_join)
    }

    /// The leader if one is known, else each voter and each bootstrap server in turn.
    fn whom(&self, asked: usize) -> Option<String> {
        let voters = self.changes.voters();
        let leader = self.leadership.borrow().leader;
        if let Some(leader) = voters.iter().find(|v| Some(v.id) == leader) {
            return Some(leader.authority());
        }
        let others = voters.iter().filter(|v| v.id != self.own.id).map(Voter::authority);
        let bootstrap = self.settings.bootstrap.iter().map(super::settings::Address::authority);
        let all: Vec<_> = others.chain(bootstrap).collect();
        all.get(asked % all.len().max(1)).cloned()
    }

    async fn ask(&self, whom: &str) -> Result<(), Failed> {
        let refused = |why: String| Failed::Refused(why);
        let channel =
            self.caller.channel(whom, &self.timeouts).map_err(|e| refused(e.to_string()))?;
        let request = self.caller.sign(pb::EnrolRequest {
            node: Some(types::voter_to_pb(&self.own)),
            as_voter: self.settings.auto_join,
        });
        let mut client = RaftClient::new(channel);
        let reply = timeout(ANSWER_TIMEOUT, client.enrol(request)).await;
        let reply = reply.map_err(|_| refused("no answer in time".to_owned()))?;
        let reply = reply.map_err(|status| refused(super::network::said(&status)))?.into_inner();
        if reply.done {
            return Ok(());
        }
        match reply.leader.and_then(|v| types::voter_from_pb(v).ok()) {
            Some(leader) => Err(Failed::Elsewhere(leader)),
            None if reply.refused.is_empty() => Err(refused("no leader is known".to_owned())),
            None => Err(refused(reply.refused)),
        }
    }
}
