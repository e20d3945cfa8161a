//! How one partition changes: leader election, the in-sync set, eligible leader replicas (KIP-966),
//! the end of a reassignment, epochs. A pure function from a partition and wishes to a record
//! (`PartitionChangeBuilder.java`). Uses `metadata`.

use std::collections::BTreeSet;

use crate::base::{Mutant, NodeId, PartitionId, Uuid, mutant};
use crate::metadata::features::METADATA_VERSION_QUIET_SHRINK;
use crate::metadata::record::PartitionChange;
use crate::metadata::{LeaderRecoveryState, PartitionRegistration};

/// Which leader is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Election {
    /// The preferred one if it is in the ISR, else as `Online`.
    Preferred,
    /// The present one if it will do, else any in the ISR.
    Online,
    /// As `Online`; rather than none, one outside the ISR.
    Unclean,
}

/// The rules that hold for the partition's topic and the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) metadata_version: i16,
    pub(super) min_isr: usize,
    pub(super) elr: bool,
    pub(super) election: Election,
}

/// Wishes for one partition; what is not wished for stays.
pub(super) struct ChangeBuilder<'a> {
    partition: &'a PartitionRegistration,
    rules: Rules,
    /// Whether a replica may lead: its broker is active and its directory online.
    may_lead: &'a dyn Fn(NodeId) -> bool,
    /// The directory of a replica that has none yet.
    default_dir: &'a dyn Fn(NodeId) -> Uuid,
    isr: Vec<NodeId>,
    replicas: Vec<NodeId>,
    adding: Vec<NodeId>,
    removing: Vec<NodeId>,
    elr: Vec<NodeId>,
    recovery: LeaderRecoveryState,
    unclean_shutdown: Option<NodeId>,
    directory: Option<(NodeId, Uuid)>,
}

impl<'a> ChangeBuilder<'a> {
    pub(super) fn new(
        partition: &'a PartitionRegistration,
        rules: Rules,
        may_lead: &'a dyn Fn(NodeId) -> bool,
        default_dir: &'a dyn Fn(NodeId) -> Uuid,
    ) -> Self {
        Self {
            partition,
            rules,
            may_lead,
            default_dir,
            isr: partition.isr.to_vec(),
            replicas: partition.replicas.to_vec(),
            adding: partition.adding().to_vec(),
            removing: partition.removing().to_vec(),
            elr: partition.elr().to_vec(),
            recovery: partition.recovery,
            unclean_shutdown: None,
            directory: None,
        }
    }

    pub(super) fn isr(mut self, isr: Vec<NodeId>) -> Self {
        self.isr = isr;
        self
    }

    /// Other replicas, the preferred leader first.
    pub(super) fn replicas(mut self, replicas: Vec<NodeId>) -> Self {
        self.replicas = replicas;
        self
    }

    /// Which of the replicas a reassignment adds and removes.
    pub(super) fn reassigning(mut self, adding: Vec<NodeId>, removing: Vec<NodeId>) -> Self {
        (self.adding, self.removing) = (adding, removing);
        self
    }

    pub(super) const fn recovery(mut self, state: LeaderRecoveryState) -> Self {
        self.recovery = state;
        self
    }

    /// The broker stopped without a clean shutdown: what it holds is not to be trusted.
    pub(super) const fn unclean_shutdown(mut self, broker: Option<NodeId>) -> Self {
        self.unclean_shutdown = broker;
        self
    }

    pub(super) const fn directory(mut self, broker: NodeId, dir: Uuid) -> Self {
        self.directory = Some((broker, dir));
        self
    }

    /// The record that makes the wishes true; `None` if they are.
    pub(super) fn build(
        mut self,
        topic_id: Uuid,
        partition: PartitionId,
    ) -> Option<PartitionChange> {
        let mut change = PartitionChange::of(topic_id, partition);
        self.complete_reassignment();
        self.populate_elr();
        self.elect(&mut change);
        self.raise_epoch_for_removed_replicas(&mut change);
        self.set_elr(&mut change);
        if change.isr.is_none()
            && (!self.isr.is_empty() || self.rules.elr)
            && *self.isr != *self.partition.isr
        {
            change.isr = Some(std::mem::take(&mut self.isr));
        }
        self.raise_epoch_for_shrunk_isr(&mut change);
        self.set_last_known_leader(&mut change);
        self.set_assignment(&mut change);
        if change.recovery.is_none() && self.recovery != self.partition.recovery {
            change.recovery = Some(self.recovery);
        }
        (!change.is_empty()).then_some(change)
    }

    /// When the ISR holds all that a reassignment adds, what it removes goes
    /// (`PartitionReassignmentReplicas.maybeCompleteReassignment`).
    fn complete_reassignment(&mut self) {
        if self.adding.is_empty() && self.removing.is_empty() {
            return;
        }
        let without = |v: &[NodeId], gone: &[NodeId]| {
            v.iter().copied().filter(|n| !gone.contains(n)).collect()
        };
        let mut isr: Vec<NodeId> = without(&self.isr, &self.removing);
        let replicas: Vec<NodeId> = without(&self.replicas, &self.removing);
        if mutant(Mutant::DropReplicaEarly) {
            isr.clone_from(&replicas);
        }
        let holds = |all: &[NodeId]| all.iter().all(|n| isr.contains(n));
        if isr.is_empty() || replicas.is_empty() || !holds(&self.adding) {
            return;
        }
        // A smaller replication factor waits for every target, lest the ISR shrink needlessly.
        if self.adding.len() < self.removing.len() && !holds(&replicas) {
            return;
        }
        (self.isr, self.replicas) = (isr, replicas);
        self.adding.clear();
        self.removing.clear();
    }

    /// While the ISR is below its minimum, replicas that leave it stay eligible.
    fn populate_elr(&mut self) {
        if !self.rules.elr {
            return;
        }
        if self.isr.len() >= self.rules.min_isr {
            self.elr.clear();
            return;
        }
        let candidates: BTreeSet<NodeId> =
            self.elr.iter().chain(&self.partition.isr).copied().collect();
        self.elr = candidates
            .into_iter()
            // One that a reassignment took away holds nothing any more.
            .filter(|n| self.replicas.contains(n) && !self.isr.contains(n))
            .filter(|n| Some(*n) != self.unclean_shutdown)
            .collect();
    }

    fn may_be_elected(&self, n: NodeId) -> bool {
        let trusted = self.isr.contains(&n) || (self.isr.is_empty() && self.elr.contains(&n));
        trusted && (self.may_lead)(n)
    }

    /// The leader, and whether choosing it may lose records.
    fn choose(&self) -> (Option<NodeId>, bool) {
        let present = self.partition.leader.filter(|l| self.may_be_elected(*l));
        let preferred = self.replicas.first().copied().filter(|n| self.may_be_elected(*n));
        let any = || self.replicas.iter().copied().find(|n| self.may_be_elected(*n));
        let clean = match self.rules.election {
            Election::Preferred => preferred.or(present).or_else(any),
            Election::Online | Election::Unclean => present.or_else(any),
        };
        if clean.is_some() {
            return (clean, false);
        }
        if let Some(last) = self.last_known_leader() {
            return (Some(last), true);
        }
        if self.rules.election == Election::Unclean {
            let alive = self.replicas.iter().copied().find(|n| (self.may_lead)(*n));
            return (alive, alive.is_some());
        }
        (None, false)
    }

    /// With nobody in sync or eligible, the one leader that was last may lead again.
    fn last_known_leader(&self) -> Option<NodeId> {
        if !self.rules.elr || !self.elr.is_empty() || !self.isr.is_empty() {
            return None;
        }
        match self.partition.last_known_elr() {
            [last] if (self.may_lead)(*last) => Some(*last),
            _ => None,
        }
    }

    fn elect(&mut self, change: &mut PartitionChange) {
        let (leader, unclean) = self.choose();
        if leader == self.partition.leader {
            return;
        }
        change.leader = Some(leader);
        let Some(leader) = leader else { return };
        if self.elr.contains(&leader) {
            self.isr = vec![leader];
            self.elr.retain(|n| *n != leader);
        }
        if unclean {
            // Only its records count from now on.
            change.isr = Some(vec![leader]);
            if self.partition.recovery != LeaderRecoveryState::Recovering {
                change.recovery = Some(LeaderRecoveryState::Recovering);
            }
        }
    }

    fn raise_epoch_for_removed_replicas(&self, change: &mut PartitionChange) {
        let removed = self.partition.replicas.iter().any(|n| !self.replicas.contains(n));
        if change.leader.is_none() && removed {
            change.leader = Some(self.partition.leader);
        }
    }

    /// Brokers before 3.6 miss an ISR shrink without a new leader epoch (KAFKA-15021).
    fn raise_epoch_for_shrunk_isr(&self, change: &mut PartitionChange) {
        if self.rules.metadata_version >= METADATA_VERSION_QUIET_SHRINK || change.leader.is_some() {
            return;
        }
        let Some(isr) = &change.isr else { return };
        if self.partition.isr.iter().any(|n| !isr.contains(n)) {
            change.leader = Some(self.partition.leader);
        }
    }

    fn set_elr(&mut self, change: &mut PartitionChange) {
        let unclean = change.isr.is_some();
        if unclean || !self.rules.elr {
            self.elr.clear();
        }
        if self.elr != self.partition.elr() {
            change.elr = Some(self.elr.clone());
        }
    }

    fn set_last_known_leader(&self, change: &mut PartitionChange) {
        if !self.rules.elr {
            return;
        }
        let known = self.partition.last_known_elr();
        match change.leader {
            Some(None) if known.is_empty() => {
                change.last_known_elr = self.partition.leader.map(|l| vec![l]);
            }
            Some(Some(_)) if !known.is_empty() => change.last_known_elr = Some(Vec::new()),
            _ => {}
        }
    }

    fn set_assignment(&mut self, change: &mut PartitionChange) {
        let p = self.partition;
        let dir = |n: &NodeId| match self.directory {
            Some((broker, dir)) if broker == *n => dir,
            _ => p.directory(*n).unwrap_or_else(|| (self.default_dir)(*n)),
        };
        let directories: Vec<Uuid> = self.replicas.iter().map(dir).collect();
        change.directories = (directories != *p.directories).then_some(directories);
        let changed = |to: &mut Vec<NodeId>, from: &[NodeId]| {
            (to.as_slice() != from).then(|| std::mem::take(to))
        };
        change.replicas = changed(&mut self.replicas, &p.replicas);
        change.removing = changed(&mut self.removing, p.removing());
        change.adding = changed(&mut self.adding, p.adding());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(v: &[i32]) -> Vec<NodeId> {
        v.iter().map(|n| NodeId(*n)).collect()
    }

    fn partition(replicas: &[i32], isr: &[i32]) -> PartitionRegistration {
        let dirs = vec![Uuid::UNASSIGNED_DIR; replicas.len()];
        PartitionRegistration::new(&ids(replicas), &dirs, &ids(isr))
    }

    fn rules(min_isr: usize, elr: bool, election: Election) -> Rules {
        Rules { metadata_version: 30, min_isr, elr, election }
    }

    /// What becomes of `p` if the ISR is to be `isr` and only `alive` may lead.
    fn after(
        p: &PartitionRegistration,
        rules: Rules,
        isr: &[i32],
        alive: &[i32],
    ) -> Option<PartitionRegistration> {
        let alive = ids(alive);
        let change = ChangeBuilder::new(p, rules, &|n| alive.contains(&n), &|_| Uuid::ONE)
            .isr(ids(isr))
            .build(Uuid::ONE, 0)?;
        Some(p.merged(&change).unwrap())
    }

    #[test]
    fn the_first_replica_in_sync_leads() {
        let p = partition(&[1, 2, 3], &[1, 2, 3]);
        let new = after(&p, rules(2, true, Election::Online), &[2, 3], &[3, 2]).unwrap();
        assert_eq!((new.leader, new.leader_epoch, new.partition_epoch), (Some(NodeId(2)), 1, 1));
        assert_eq!(new.elr(), &[], "the ISR is not below its minimum");
        assert_eq!(after(&p, rules(2, true, Election::Online), &[1, 2, 3], &[1]), None);
    }

    #[test]
    fn a_shrink_raises_the_leader_epoch_before_3_6_only() {
        let p = partition(&[1, 2], &[1, 2]);
        let mut r = rules(1, false, Election::Online);
        assert_eq!(after(&p, r, &[1], &[1]).unwrap().leader_epoch, 0);
        r.metadata_version = 11;
        assert_eq!(after(&p, r, &[1], &[1]).unwrap().leader_epoch, 1);
    }

    #[test]
    fn replicas_that_leave_a_small_isr_stay_eligible() {
        let r = rules(2, true, Election::Online);
        let p = partition(&[1, 2, 3], &[1, 2, 3]);
        let p = after(&p, r, &[1], &[1]).unwrap();
        assert_eq!(p.elr(), ids(&[2, 3]));
        let p = after(&p, r, &[], &[]).unwrap();
        assert_eq!((p.leader, &*p.isr, p.elr()), (None, &[][..], &ids(&[1, 2, 3])[..]));
        assert_eq!(p.last_known_elr(), ids(&[1]));
        let p = after(&p, r, &[], &[3]).unwrap();
        assert_eq!((p.leader, &*p.isr), (Some(NodeId(3)), &ids(&[3])[..]));
        assert_eq!((p.elr(), p.last_known_elr()), (&ids(&[1, 2])[..], &[][..]));
        assert_eq!(p.recovery, LeaderRecoveryState::Recovered, "an eligible leader is clean");
        let p = after(&p, r, &[3, 1], &[1, 3]).unwrap();
        assert_eq!(p.elr(), &[], "the minimum is reached again");
    }

    #[test]
    fn without_eligible_replicas_the_last_member_stays_in_the_isr() {
        let r = rules(1, false, Election::Online);
        let p = after(&partition(&[1], &[1]), r, &[], &[]).unwrap();
        assert_eq!((p.leader, &*p.isr), (None, &ids(&[1])[..]));
        let p = after(&p, r, &[1], &[1]).unwrap();
        assert_eq!((p.leader, p.leader_epoch), (Some(NodeId(1)), 2));
    }

    #[test]
    fn an_unclean_leader_is_alone_and_recovers() {
        let r = rules(1, false, Election::Unclean);
        let p = after(&partition(&[1, 2], &[1]), r, &[1], &[2]).unwrap();
        assert_eq!((p.leader, &*p.isr), (Some(NodeId(2)), &ids(&[2])[..]));
        assert_eq!(p.recovery, LeaderRecoveryState::Recovering);
    }

    #[test]
    fn the_last_known_leader_returns_after_an_unclean_stop() {
        let r = rules(1, true, Election::Online);
        let p = partition(&[1], &[1]);
        let change = ChangeBuilder::new(&p, r, &|_| false, &|_| Uuid::ONE)
            .isr(Vec::new())
            .unclean_shutdown(Some(NodeId(1)))
            .build(Uuid::ONE, 0)
            .unwrap();
        let p = p.merged(&change).unwrap();
        assert_eq!((p.elr(), p.last_known_elr()), (&[][..], &ids(&[1])[..]));
        let p = after(&p, r, &[], &[1]).unwrap();
        assert_eq!((p.leader, p.recovery), (Some(NodeId(1)), LeaderRecoveryState::Recovering));
    }

    #[test]
    fn a_reassignment_ends_when_what_it_adds_is_in_sync() {
        let mut p = partition(&[3, 1, 2], &[1, 2]);
        p.set_exceptional(crate::metadata::topics::Exceptional {
            adding: ids(&[3]),
            removing: ids(&[1]),
            ..Default::default()
        });
        let r = rules(1, true, Election::Online);
        let new = after(&p, r, &[1, 2, 3], &[1, 2, 3]).unwrap();
        assert_eq!((&*new.replicas, &*new.isr), (&ids(&[3, 2])[..], &ids(&[2, 3])[..]));
        assert_eq!((new.leader, new.leader_epoch), (Some(NodeId(3)), 1));
        assert_eq!((new.adding(), new.removing()), (&[][..], &[][..]));
    }
}
