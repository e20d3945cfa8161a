//! How a member of a consumer group gets from what it has to its target
//! (`CurrentAssignmentBuilder`, KIP-848): it gives back first, then goes on to the target's epoch,
//! then takes what nobody holds. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    consumer_member::{ConsumerMember, MemberState},
    consumer_records::{Epochs, Partitions, ResolvedRegex},
};
use crate::{
    base::{Mutant, PartitionId, Uuid, mutant},
    metadata::Image,
};

/// The member is in a state that this release does not know: it must give up all and rejoin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnknownState;

/// What a member is brought in line with.
pub(super) struct Reconciliation<'a> {
    pub(super) image: &'a Image,
    pub(super) target_epoch: i32,
    pub(super) target: &'a Partitions,
    pub(super) subscription_changed: bool,
    /// By regular expression of the group.
    pub(super) resolved: &'a imbl::OrdMap<Arc<str>, Arc<ResolvedRegex>>,
    /// Whether somebody holds a partition.
    pub(super) is_owned: &'a dyn Fn(Uuid, PartitionId) -> bool,
    /// What the member says it has; `None` if it does not say.
    pub(super) owned: Option<&'a Partitions>,
}

impl Reconciliation<'_> {
    /// The member after its next step; the same if there is none.
    ///
    /// # Errors
    /// [`UnknownState`].
    pub(super) fn step(&self, member: &ConsumerMember) -> Result<ConsumerMember, UnknownState> {
        Ok(match member.state {
            MemberState::Stable if member.epoch != self.target_epoch => {
                self.next(member, member.epoch)
            }
            MemberState::Stable => self.drop_unsubscribed(member),
            MemberState::UnrevokedPartitions if self.still_has(&member.revoking) => {
                self.drop_unsubscribed(member)
            }
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                self.next(member, member.epoch)
            }
            MemberState::Unknown => {
                // It has given up everything.
                if self.owned.is_none_or(|owned| !owned.is_empty()) {
                    return Err(UnknownState);
                }
                self.next(member, self.target_epoch)
            }
        })
    }

    /// Whether the member may have some of `revoking` still; so it is while it does not say.
    fn still_has(&self, revoking: &Epochs) -> bool {
        self.owned.is_none_or(|owned| {
            owned.iter().any(|(topic, partitions)| {
                revoking.get(topic).is_some_and(|r| partitions.iter().any(|p| r.contains_key(p)))
            })
        })
    }

    /// Partitions of topics that the member does not read any more are to be given back, without
    /// waiting for a new target.
    fn drop_unsubscribed(&self, member: &ConsumerMember) -> ConsumerMember {
        if !self.subscription_changed {
            return member.clone();
        }
        let topics = self.topics_of(member);
        let (assigned, dropped): (Epochs, Epochs) =
            member.assigned.clone().into_iter().partition(|(topic, _)| topics.contains(topic));
        if dropped.is_empty() {
            return member.clone();
        }
        let mut next = ConsumerMember { assigned, ..member.clone() };
        let mut revoking = member.revoking.clone();
        for (topic, partitions) in dropped {
            revoking.entry(topic).or_default().extend(partitions);
        }
        next.advance(member.epoch);
        if self.still_has(&revoking) {
            next.state = MemberState::UnrevokedPartitions;
            next.revoking = revoking;
        }
        next
    }

    /// The step towards the target, for a member that has given back what it had to.
    fn next(&self, member: &ConsumerMember, epoch: i32) -> ConsumerMember {
        let topics = self.topics_of(member);
        let none = BTreeMap::new();
        let nothing = BTreeSet::new();
        let (mut assigned, mut revoking) = (Epochs::new(), Epochs::new());
        let mut taken = Epochs::new();
        let mut unreleased = false;
        let all: BTreeSet<Uuid> =
            self.target.keys().chain(member.assigned.keys()).copied().collect();
        for topic in all {
            let target = self.target.get(&topic).filter(|_| topics.contains(&topic));
            let target = target.unwrap_or(&nothing);
            let has = member.assigned.get(&topic).unwrap_or(&none);
            let (keeps, gives): (BTreeMap<_, _>, BTreeMap<_, _>) =
                has.iter().map(|(p, e)| (*p, *e)).partition(|(p, _)| target.contains(p));
            // What it gave back itself just now is free for it too.
            let own = member.revoking.get(&topic).unwrap_or(&none);
            let mut takes = BTreeMap::new();
            for p in target.iter().filter(|p| !keeps.contains_key(p)) {
                let owned = (self.is_owned)(topic, *p) && !mutant(Mutant::TwoOwners);
                if owned && !own.contains_key(p) {
                    unreleased = true;
                } else {
                    takes.insert(*p, self.target_epoch);
                }
            }
            let parts = [(&mut assigned, keeps), (&mut revoking, gives), (&mut taken, takes)];
            for (into, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
                into.insert(topic, part);
            }
        }
        let mut next = member.clone();
        if !revoking.is_empty() && self.still_has(&revoking) {
            next.advance(epoch);
            next.state = MemberState::UnrevokedPartitions;
            (next.assigned, next.revoking) = (assigned, revoking);
            return next;
        }
        for (topic, partitions) in taken {
            assigned.entry(topic).or_default().extend(partitions);
        }
        next.advance(self.target_epoch);
        next.state = match unreleased {
            true => MemberState::UnreleasedPartitions,
            false => MemberState::Stable,
        };
        (next.assigned, next.revoking) = (assigned, Epochs::new());
        next
    }

    fn topics_of(&self, member: &ConsumerMember) -> BTreeSet<Uuid> {
        topic_ids(member, self.resolved, self.image)
    }
}

/// The topics that a member reads, by name and by its regular expression, as far as they exist.
pub(super) fn topic_ids(
    member: &ConsumerMember,
    resolved: &imbl::OrdMap<Arc<str>, Arc<ResolvedRegex>>,
    image: &Image,
) -> BTreeSet<Uuid> {
    let by_regex = member.regex().and_then(|r| resolved.get(r)).map(|r| &r.topics);
    let names = member.topics.iter().chain(by_regex.into_iter().flatten());
    names.filter_map(|name| image.topics().id_of(name)).collect()
}
