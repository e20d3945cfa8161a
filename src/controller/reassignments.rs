//! AlterPartitionReassignments and ListPartitionReassignments (KIP-455). A partition that moves
//! first gains the replicas of its target; those that it leaves go once the ISR holds all that were
//! added ([`ChangeBuilder`] sees to that on every change). Rules of `ReplicationControlManager`,
//! `PartitionReassignmentReplicas`, `PartitionReassignmentRevert`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{ErrorCode, NodeId, PartitionId};
use crate::metadata::record::PartitionChange;
use crate::metadata::{PartitionRegistration, Record, Topic};
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Refusal, SubmitBody, partition_result},
    elections::Effect,
    index::{PartitionKey, is_reassigning},
    partitions::{ChangeBuilder, Election},
    turn::Turn,
};

/// A partition on its way to other replicas.
#[derive(Debug, PartialEq, Eq)]
struct Move {
    /// The target, followed by what is to be removed.
    replicas: Vec<NodeId>,
    adding: Vec<NodeId>,
    removing: Vec<NodeId>,
}

impl Move {
    /// From where `p` is, or came from if it moves already, to `target`.
    fn to(target: &[NodeId], p: &PartitionRegistration) -> Self {
        let before: BTreeSet<NodeId> = original(p).collect();
        let added: BTreeSet<NodeId> =
            target.iter().copied().filter(|n| !before.contains(n)).collect();
        let removed: BTreeSet<NodeId> =
            p.replicas.iter().copied().filter(|n| !target.contains(n)).collect();
        let replicas = target.iter().chain(&removed).copied().collect();
        Self {
            replicas,
            adding: added.into_iter().collect(),
            removing: removed.into_iter().collect(),
        }
    }
}

/// The replicas before the reassignment under way, if there is one.
fn original(p: &PartitionRegistration) -> impl Iterator<Item = NodeId> + '_ {
    p.replicas.iter().copied().filter(|n| !p.adding().contains(n))
}

/// The replication factor that the partition has, or is on its way to.
fn factor_of(p: &PartitionRegistration) -> usize {
    let all: BTreeSet<NodeId> = p.replicas.iter().chain(p.adding()).copied().collect();
    all.iter().filter(|n| !p.removing().contains(n)).count()
}

fn ids(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|n| n.0).collect()
}

impl Turn<'_> {
    pub(super) fn alter_partition_reassignments(
        &mut self,
        c: &pb::AlterPartitionReassignments,
    ) -> Outcome {
        let allow = c.allow_replication_factor_change;
        let one = |t: &pb::ReassignableTopic| pb::TopicPartitionResults {
            topic: t.topic.clone(),
            partitions: t
                .partitions
                .iter()
                .map(|p| partition_result(p.partition, &self.reassign(&t.topic, p, allow)))
                .collect(),
        };
        let topics = c.topics.iter().map(one).collect();
        let body = pb::AlterPartitionReassignmentsReply { topics };
        Outcome::submit(0, None, SubmitBody::AlterPartitionReassignments(body))
    }

    fn reassign(
        &mut self,
        name: &str,
        wanted: &pb::ReassignablePartition,
        allow_factor_change: bool,
    ) -> Result<(), Refusal> {
        let unknown = |text| Refusal::new(ErrorCode::UnknownTopicOrPartition, text);
        let Some(topic) = self.image().topics().by_name(name) else {
            return Err(unknown(format!("Unable to find a topic named {name}.")));
        };
        let number = wanted.partition;
        let Some(p) = topic.partition(number) else {
            return Err(unknown(format!("Unable to find partition {name}:{number}.")));
        };
        let change = match &wanted.replicas {
            None => self.take_back(topic, number, p),
            Some(target) => self.move_to(topic, number, p, &target.nodes, allow_factor_change),
        }?;
        if let Some(change) = change {
            self.draft.push(Record::PartitionChange(change));
        }
        Ok(())
    }

    fn move_to(
        &self,
        topic: &Topic,
        number: PartitionId,
        p: &PartitionRegistration,
        target: &[i32],
        allow_factor_change: bool,
    ) -> Result<Option<PartitionChange>, Refusal> {
        self.check_replicas(target, None)?;
        let factor = factor_of(p);
        if !allow_factor_change && factor != target.len() {
            let text =
                format!("The replication factor is changed from {factor} to {}", target.len());
            return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, text));
        }
        let target: Vec<NodeId> = target.iter().map(|id| NodeId(*id)).collect();
        let to = Move::to(&target, p);
        let may_lead = |n| self.may_lead(p, n, Effect::default());
        let rules = self.rules(topic, Election::Online);
        Ok(ChangeBuilder::new(p, rules, &may_lead, &|n| self.default_dir(n))
            .replicas(to.replicas)
            .reassigning(to.adding, to.removing)
            .build(topic.id, number))
    }

    /// Undoes the reassignment under way.
    fn take_back(
        &self,
        topic: &Topic,
        number: PartitionId,
        p: &PartitionRegistration,
    ) -> Result<Option<PartitionChange>, Refusal> {
        if !is_reassigning(p) {
            let text = "No partition reassignment is in progress.";
            return Err(Refusal::new(ErrorCode::NoReassignmentInProgress, text));
        }
        let replicas: Vec<NodeId> = original(p).collect();
        let mut isr: Vec<NodeId> = p.isr.iter().copied().filter(|n| replicas.contains(n)).collect();
        if isr.is_empty() {
            let first = replicas.first().filter(|_| self.unclean_election(&topic.name));
            let name = &topic.name;
            isr.push(*first.ok_or_else(|| {
                let text = format!(
                    "Unable to revert partition assignment for {name}:{number} because it would \
                     require an unclean leader election."
                );
                Refusal::new(ErrorCode::InvalidReplicaAssignment, text)
            })?);
        }
        let may_lead = |n| self.may_lead(p, n, Effect::default());
        let rules = self.rules(topic, self.usual_election(&topic.name));
        Ok(ChangeBuilder::new(p, rules, &may_lead, &|n| self.default_dir(n))
            .isr(isr)
            .replicas(replicas)
            .reassigning(Vec::new(), Vec::new())
            .build(topic.id, number))
    }

    pub(super) fn list_partition_reassignments(
        &self,
        c: &pb::ListPartitionReassignments,
    ) -> Outcome {
        let keys: Vec<PartitionKey> = if c.all {
            self.still(self.index.reassigning(), is_reassigning)
        } else {
            let topics = self.image().topics();
            let named = c.topics.iter().filter_map(|t| Some((topics.id_of(&t.topic)?, t)));
            named.flat_map(|(id, t)| t.partitions.iter().map(move |p| (id, *p))).collect()
        };
        let mut topics: BTreeMap<&str, Vec<pb::OngoingReassignment>> = BTreeMap::new();
        for (id, partition) in keys {
            let Some(topic) = self.image().topics().by_id(id) else { continue };
            let Some(p) = topic.partition(partition).filter(|p| is_reassigning(p)) else {
                continue;
            };
            topics.entry(&topic.name).or_default().push(pb::OngoingReassignment {
                partition,
                replicas: ids(&p.replicas),
                adding_replicas: ids(p.adding()),
                removing_replicas: ids(p.removing()),
            });
        }
        let topics = topics
            .into_iter()
            .map(|(topic, partitions)| pb::OngoingTopicReassignment {
                topic: topic.to_owned(),
                partitions,
            })
            .collect();
        let body = pb::ListPartitionReassignmentsReply { topics };
        Outcome::submit(0, None, SubmitBody::ListPartitionReassignments(body))
    }
}
