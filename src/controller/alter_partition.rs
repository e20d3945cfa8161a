//! What leaders and brokers report of partitions: a new ISR, and in which directory a replica lies
//! (`ReplicationControlManager.alterPartition`, `handleAssignReplicasToDirs`).

use std::collections::BTreeSet;

use crate::base::{ErrorCode, NodeId};
use crate::metadata::{LeaderRecoveryState, PartitionRegistration, Record};
use crate::pb::controller as pb;

use super::{
    command::{Outcome, SubmitBody},
    elections::Effect,
    index::PartitionKey,
    partitions::{ChangeBuilder, Election},
    turn::{Turn, uuid_of},
};

impl Turn<'_> {
    pub(super) fn alter_partition(&mut self, c: &pb::AlterPartition) -> Outcome {
        let sender = NodeId(c.broker_id);
        let body = match self.broker_at(sender, c.broker_epoch) {
            Err(e) => pb::AlterPartitionReply { error: e.number(), partitions: Vec::new() },
            Ok(_) => pb::AlterPartitionReply {
                error: 0,
                partitions: c.partitions.iter().map(|p| self.alter_one(sender, p)).collect(),
            },
        };
        Outcome::submit(0, None, SubmitBody::AlterPartition(body))
    }

    fn alter_one(
        &mut self,
        sender: NodeId,
        item: &pb::AlterPartitionItem,
    ) -> pb::AlterPartitionResult {
        let error = |code: ErrorCode| pb::AlterPartitionResult {
            topic_id: item.topic_id.clone(),
            partition: item.partition,
            error: code.code().into(),
            ..pb::AlterPartitionResult::default()
        };
        let key = (uuid_of(&item.topic_id), item.partition);
        let new_leader = match self.try_alter(sender, key, item) {
            Ok(new_leader) => new_leader,
            Err(code) => return error(code),
        };
        if new_leader {
            // A finished reassignment moved the leader: committed, yet the sender must read it.
            return error(ErrorCode::NewLeaderElected);
        }
        let Some(p) = self.image().topics().partition(key.0, key.1) else {
            return error(ErrorCode::UnknownTopicOrPartition);
        };
        pb::AlterPartitionResult {
            topic_id: item.topic_id.clone(),
            partition: item.partition,
            error: 0,
            leader: p.leader.map_or(-1, |l| l.0),
            leader_epoch: p.leader_epoch,
            isr: p.isr.iter().map(|n| n.0).collect(),
            leader_recovery_state: p.recovery.code().into(),
            partition_epoch: p.partition_epoch,
        }
    }

    /// Whether the change gave the partition another leader.
    fn try_alter(
        &mut self,
        sender: NodeId,
        key: PartitionKey,
        item: &pb::AlterPartitionItem,
    ) -> Result<bool, ErrorCode> {
        let topic = self.image().topics().by_id(key.0).ok_or(ErrorCode::UnknownTopicId)?;
        let p = topic.partition(key.1).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        check_epochs(sender, p, item)?;
        let isr: Vec<NodeId> = item.isr.iter().map(|m| NodeId(m.broker_id)).collect();
        let recovery = check_isr(p, &isr, item.leader_recovery_state)?;
        self.check_members(&item.isr)?;
        let rules = self.rules(topic, self.usual_election(&topic.name));
        let may_lead = |n| self.may_lead(p, n, Effect::default());
        let change = ChangeBuilder::new(p, rules, &may_lead, &|n| self.default_dir(n))
            .isr(isr)
            .recovery(recovery)
            .build(key.0, key.1);
        let Some(change) = change else { return Ok(false) };
        let new_leader = change.leader.is_some_and(|l| l != Some(sender));
        self.draft.push(Record::PartitionChange(change));
        Ok(new_leader)
    }

    /// Fenced, stopping or unknown brokers, and other incarnations, may not join an ISR.
    fn check_members(&self, isr: &[pb::IsrMember]) -> Result<(), ErrorCode> {
        let fits = |m: &pb::IsrMember| {
            let b = self.image().brokers().get(NodeId(m.broker_id));
            b.is_some_and(|b| b.is_active() && (m.broker_epoch == -1 || m.broker_epoch == b.epoch))
        };
        if isr.iter().all(fits) { Ok(()) } else { Err(ErrorCode::IneligibleReplica) }
    }

    pub(super) fn assign_replicas_to_dirs(&mut self, c: &pb::AssignReplicasToDirs) -> Outcome {
        let sender = NodeId(c.broker_id);
        let body = match self.broker_at(sender, c.broker_epoch) {
            Err(e) => pb::AssignReplicasToDirsReply { error: e.number(), results: Vec::new() },
            Ok(_) => {
                let mut offline = BTreeSet::new();
                let results = c
                    .assignments
                    .iter()
                    .map(|a| self.assign_one(sender, a, &mut offline))
                    .collect();
                self.affect(offline.into_iter().collect(), Effect::removes(sender));
                pb::AssignReplicasToDirsReply { error: 0, results }
            }
        };
        Outcome::submit(0, None, SubmitBody::AssignReplicasToDirs(body))
    }

    fn assign_one(
        &mut self,
        sender: NodeId,
        a: &pb::DirAssignment,
        offline: &mut BTreeSet<PartitionKey>,
    ) -> pb::DirAssignmentResult {
        let result = self.try_assign(sender, a, offline);
        pb::DirAssignmentResult {
            topic_id: a.topic_id.clone(),
            partition: a.partition,
            directory_id: a.directory_id.clone(),
            error: result.err().map_or(0, |code| code.code().into()),
        }
    }

    fn try_assign(
        &mut self,
        sender: NodeId,
        a: &pb::DirAssignment,
        offline: &mut BTreeSet<PartitionKey>,
    ) -> Result<(), ErrorCode> {
        let (key, dir) = ((uuid_of(&a.topic_id), a.partition), uuid_of(&a.directory_id));
        let topic = self.image().topics().by_id(key.0).ok_or(ErrorCode::UnknownTopicId)?;
        let p = topic.partition(key.1).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        if !p.has_replica(sender) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let may_lead = |n| self.may_lead(p, n, Effect::default());
        let rules = self.rules(topic, Election::Online);
        let change = ChangeBuilder::new(p, rules, &may_lead, &|n| self.default_dir(n))
            .directory(sender, dir)
            .build(key.0, key.1);
        if let Some(change) = change {
            self.draft.push(Record::PartitionChange(change));
        }
        if self.image().brokers().get(sender).is_some_and(|b| !b.has_online_dir(dir)) {
            offline.insert(key);
        }
        Ok(())
    }
}

/// The sender must know the partition as it is, and lead it. A sender that knows more than this
/// controller has another controller.
fn check_epochs(
    sender: NodeId,
    p: &PartitionRegistration,
    item: &pb::AlterPartitionItem,
) -> Result<(), ErrorCode> {
    if item.leader_epoch > p.leader_epoch || item.partition_epoch > p.partition_epoch {
        return Err(ErrorCode::NotController);
    }
    if item.leader_epoch < p.leader_epoch {
        return Err(ErrorCode::FencedLeaderEpoch);
    }
    if p.leader != Some(sender) {
        return Err(ErrorCode::InvalidRequest);
    }
    if item.partition_epoch < p.partition_epoch {
        return Err(ErrorCode::InvalidUpdateVersion);
    }
    Ok(())
}

fn check_isr(
    p: &PartitionRegistration,
    isr: &[NodeId],
    recovery: i32,
) -> Result<LeaderRecoveryState, ErrorCode> {
    let bad = ErrorCode::InvalidRequest;
    let distinct = isr.iter().collect::<BTreeSet<_>>().len() == isr.len();
    if isr.is_empty() || !distinct || !isr.iter().all(|n| p.has_replica(*n)) {
        return Err(bad);
    }
    if !p.leader.is_some_and(|l| isr.contains(&l)) {
        return Err(bad);
    }
    let recovery = LeaderRecoveryState::from_code(recovery).ok_or(bad)?;
    let recovering = recovery == LeaderRecoveryState::Recovering;
    if recovering && (isr.len() > 1 || p.recovery == LeaderRecoveryState::Recovered) {
        return Err(bad);
    }
    Ok(recovery)
}
