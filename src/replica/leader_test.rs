//! The cases of `leader`.

use std::time::Duration;

use super::{
    brokers::Brokers,
    leader::{FollowerAt, IsrAnswer, IsrNext, IsrProposal, Leader, Standing},
};
use crate::{
    base::{ErrorCode, Mono, NodeId, Offset, Uuid},
    metadata::{LeaderRecoveryState, PartitionRegistration},
};

const ME: NodeId = NodeId(1);
const LAG: Duration = Duration::from_secs(30);

fn ids(ids: &[i32]) -> Vec<NodeId> {
    ids.iter().map(|id| NodeId(*id)).collect()
}

fn registered(isr: &[i32], leader_epoch: i32) -> PartitionRegistration {
    let mut p = PartitionRegistration::new(&ids(&[1, 2, 3]), &[Uuid::ZERO; 3], &ids(isr));
    p.leader_epoch = leader_epoch;
    p
}

fn brokers(active: &[(i32, i64)]) -> std::sync::Arc<Brokers> {
    let all = Brokers::new(ME);
    all.set_active(active.iter().map(|(id, epoch)| (NodeId(*id), *epoch)).collect());
    all
}

fn at(secs: u64) -> Mono {
    Mono(0).after(Duration::from_secs(secs))
}

fn when(brokers: &Brokers, end: Offset, high_watermark: Offset, secs: u64) -> Standing<'_> {
    let (own, now) = (end, at(secs));
    Standing { end, own, high_watermark, min_isr: 1, lag_max: LAG, brokers, now }
}

fn fetch(leader: &mut Leader, id: i32, offset: Offset, end: Offset, secs: u64) {
    let (replica, replica_epoch) = (NodeId(id), i64::from(id) * 10);
    let from = FollowerAt { replica, replica_epoch, offset, log_start: 0 };
    leader.fetched(&from, end, at(secs));
}

fn isr(proposal: Option<&IsrProposal>) -> Vec<(i32, i64)> {
    proposal.map_or(vec![], |p| p.isr.iter().map(|(id, epoch)| (id.0, *epoch)).collect())
}

fn committed(isr: &[i32], partition_epoch: i32) -> IsrAnswer {
    IsrAnswer { leader_epoch: 5, partition_epoch, isr: ids(isr) }
}

#[test]
fn a_proposal_widens_what_the_high_watermark_waits_for_until_it_is_answered() {
    let all = brokers(&[(1, 10), (2, 20), (3, 30)]);
    let mut leader = Leader::new(ME, &registered(&[1], 5), 100, at(0));
    assert_eq!(leader.reached(&when(&all, 120, 100, 0)), Some(120), "alone");
    fetch(&mut leader, 2, 99, 100, 1);
    assert_eq!(leader.propose(0, &when(&all, 100, 50, 1)), None, "not in this epoch yet");
    fetch(&mut leader, 2, 100, 110, 2);
    assert!(leader.is_due(&when(&all, 110, 100, 2)));
    let proposal = leader.propose(0, &when(&all, 110, 100, 2));
    assert_eq!(isr(proposal.as_ref()), [(1, 10), (2, 20)]);
    assert_eq!(leader.reached(&when(&all, 130, 100, 900)), Some(100), "KIP-497");
    assert_eq!(leader.propose(0, &when(&all, 110, 100, 2)), None, "one at a time");
    let proposal = proposal.unwrap();
    let busy = leader.answered(&proposal, Err(ErrorCode::RequestTimedOut));
    assert_eq!(busy, IsrNext::AskAgain);
    assert_eq!(leader.reached(&when(&all, 130, 100, 900)), Some(100), "nobody knows");
    assert_eq!(leader.propose(0, &when(&all, 999, 0, 3)), Some(proposal.clone()), "the same");
    let refused = leader.answered(&proposal, Err(ErrorCode::IneligibleReplica));
    assert_eq!(refused, IsrNext::AskAgain);
    assert_eq!(leader.reached(&when(&all, 130, 100, 900)), Some(130));
    let again = leader.propose(0, &when(&all, 110, 100, 4)).unwrap();
    let old =
        leader.answered(&IsrProposal { partition_epoch: 9, ..again.clone() }, Err(ErrorCode::None));
    assert_eq!(old, IsrNext::Wait, "the answer to another question");
    let done = leader.answered(&again, Ok(committed(&[1, 2], 1)));
    assert_eq!((done, leader.isr()), (IsrNext::Committed(1), &ids(&[1, 2])[..]));
    assert_eq!(leader.reached(&when(&all, 130, 100, 900)), Some(100));
}

#[test]
fn a_leader_whose_knowledge_is_old_waits_for_metadata() {
    let all = brokers(&[(2, 20)]);
    let mut leader = Leader::new(ME, &registered(&[1], 5), 0, at(0));
    fetch(&mut leader, 2, 0, 0, 1);
    let proposal = leader.propose(0, &when(&all, 0, 0, 1)).unwrap();
    let next = leader.answered(&proposal, Err(ErrorCode::InvalidUpdateVersion));
    assert_eq!(next, IsrNext::Wait);
    assert_eq!(leader.propose(0, &when(&all, 0, 0, 2)), None);
    assert_eq!(leader.reached(&when(&all, 9, 0, 2)), Some(0), "it may be committed");
    leader.update(&registered(&[1, 3], 5), 9, at(3));
    fetch(&mut leader, 2, 9, 9, 3);
    assert_eq!(isr(leader.propose(1, &when(&all, 9, 0, 3)).as_ref()).len(), 3);
}

#[test]
fn only_active_brokers_of_the_known_life_join() {
    let mut leader = Leader::new(ME, &registered(&[1], 5), 0, at(0));
    fetch(&mut leader, 2, 0, 0, 1);
    for (active, joins) in [(vec![], false), (vec![(2, 21)], false), (vec![(2, 20)], true)] {
        let all = brokers(&active);
        assert_eq!(leader.is_due(&when(&all, 0, 0, 1)), joins, "{active:?}");
    }
    let check = |epoch, knows| {
        let all = brokers(&[(2, 20)]);
        leader.check_follower(NodeId(2), epoch, knows, &all).err()
    };
    assert_eq!((check(20, true), check(-1, true), check(21, true)), (None, None, None));
    assert_eq!(check(19, true), Some(ErrorCode::NotLeaderOrFollower));
    let stranger = |knows| leader.check_follower(NodeId(9), -1, knows, &brokers(&[])).err();
    assert_eq!(stranger(true), Some(ErrorCode::UnknownLeaderEpoch));
    assert_eq!(stranger(false), Some(ErrorCode::NotLeaderOrFollower));
}

#[test]
fn who_lags_for_too_long_leaves() {
    let all = brokers(&[(2, 20), (3, 30)]);
    let mut leader = Leader::new(ME, &registered(&[1, 2, 3], 5), 0, at(0));
    for id in [2, 3] {
        fetch(&mut leader, id, 0, 0, 1);
    }
    assert_eq!(leader.propose(0, &when(&all, 0, 0, 1000)), None, "an idle partition");
    assert!(!leader.lags(&when(&all, 0, 0, 1000)));
    leader.appended(0, at(1000));
    assert!(leader.lags(&when(&all, 7, 0, 1000)));
    assert_eq!(leader.propose(0, &when(&all, 7, 0, 1030)), None, "caught up 30 s ago");
    // 2 follows what comes, always a little behind; 3 reads, but never all there was.
    fetch(&mut leader, 2, 5, 7, 1005);
    fetch(&mut leader, 2, 7, 12, 1020);
    fetch(&mut leader, 3, 1, 7, 1005);
    fetch(&mut leader, 3, 6, 12, 1020);
    let proposal = leader.propose(0, &when(&all, 12, 0, 1031));
    assert_eq!(isr(proposal.as_ref()), [(1, -1), (2, 20)]);
    assert_eq!(leader.reached(&when(&all, 12, 0, 1031)), Some(6), "not before it is committed");
    let done = leader.answered(&proposal.unwrap(), Ok(committed(&[1, 2], 1)));
    assert_eq!(done, IsrNext::Committed(1));
    assert_eq!(leader.reached(&when(&all, 12, 0, 1031)), Some(7));
}

#[test]
fn a_follower_about_to_join_is_waited_for_but_not_below_min_insync_replicas() {
    let all = brokers(&[(2, 20)]);
    let mut leader = Leader::new(ME, &registered(&[1], 5), 50, at(0));
    fetch(&mut leader, 2, 40, 50, 1);
    assert_eq!(leader.reached(&when(&all, 60, 50, 2)), Some(60), "far behind");
    fetch(&mut leader, 2, 50, 60, 2);
    assert_eq!(leader.reached(&when(&all, 60, 50, 2)), Some(50), "it had all a second ago");
    assert_eq!(leader.reached(&when(&brokers(&[]), 60, 50, 2)), Some(60), "it is fenced");
    let two = Standing { min_isr: 2, ..when(&all, 60, 50, 2) };
    assert_eq!(leader.reached(&two), None);
    let many = Standing { min_isr: 9, ..when(&all, 60, 50, 2) };
    assert_eq!(leader.min_isr(many.min_isr), 3);
}

#[test]
fn a_new_epoch_forgets_times_and_a_new_office_forgets_offsets() {
    let all = brokers(&[(2, 20), (3, 30)]);
    let mut leader = Leader::new(ME, &registered(&[1, 2], 5), 10, at(0));
    assert_eq!(leader.reached(&when(&all, 10, 0, 0)), Some(-1), "nobody has fetched");
    fetch(&mut leader, 2, 10, 10, 1);
    fetch(&mut leader, 3, 9, 10, 1);
    leader.update(&registered(&[1, 2], 6), 12, at(100));
    assert_eq!((leader.epoch_start(), leader.remotes()[0].log_end), (12, 10));
    assert_eq!(leader.propose(1, &when(&all, 12, 0, 130)), None, "in sync as of the election");
    assert_eq!(isr(leader.propose(1, &when(&all, 12, 0, 131)).as_ref()), [(1, -1)]);
    let recovering =
        PartitionRegistration { recovery: LeaderRecoveryState::Recovering, ..registered(&[1], 7) };
    leader.update(&recovering, 12, at(200));
    let proposal = leader.propose(2, &when(&all, 12, 0, 200)).unwrap();
    assert_eq!(proposal.recovery, LeaderRecoveryState::Recovered);
    assert_eq!(isr(Some(&proposal)), [(1, -1)]);
    let done = IsrAnswer { leader_epoch: 7, ..committed(&[1], 3) };
    assert_eq!(leader.answered(&proposal, Ok(done)), IsrNext::Committed(3));
    assert_eq!(leader.propose(3, &when(&all, 12, 0, 200)), None);
}

#[test]
fn a_leader_that_hears_none_of_those_it_waits_for() {
    let mut leader = Leader::new(ME, &registered(&[1, 2, 3], 5), 100, at(0));
    let silence = Duration::from_secs(3);
    assert!(!leader.hears_nobody(at(2), silence), "an office begins with everybody heard");
    fetch(&mut leader, 3, 90, 100, 4);
    assert!(!leader.hears_nobody(at(7), silence), "one is enough");
    assert!(leader.hears_nobody(at(8), silence));
    let mut alone = Leader::new(ME, &registered(&[1], 5), 100, at(0));
    fetch(&mut alone, 2, 100, 100, 0);
    assert!(!alone.hears_nobody(at(60), silence), "it waits for nobody");
}
