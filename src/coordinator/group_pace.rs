//! When a member of a consumer group is to come back. Kafka tells every member the same interval;
//! KIP-848 leaves it to the broker, and clients keep to what the last answer said
//! (`HeartbeatRequestState`). So a member that waits comes back when there may be news: for a new
//! target when it may be made, for partitions of others again and again, as these give them back
//! within a heartbeat interval. Pure.

use super::{
    consumer_groups::ConsumerGroups,
    consumer_member::{ConsumerMember, MemberState},
    group_consumer::ConsumerGroup,
    settings::Settings,
};
use crate::base::Now;

/// So often in a heartbeat interval a member looks that waits for others.
const LOOKS: i32 = 10;
/// A wait for others that lasts longer than so many heartbeat intervals will last: they have heard
/// by then, and take their time.
const WAIT_INTERVALS: i64 = 2;
/// Of members that all wait, a broker wants to hear so many in a millisecond at most.
const MEMBERS_A_MS: usize = 4;

/// Where a member and its group stand after a heartbeat.
pub(super) struct Standing<'a> {
    pub(super) group: &'a ConsumerGroup,
    pub(super) member: &'a ConsumerMember,
    /// The group's epoch.
    pub(super) epoch: i32,
    /// The epoch of its target.
    pub(super) target_epoch: i32,
}

impl ConsumerGroups {
    /// Milliseconds until the member's next heartbeat; never more than the group's interval.
    pub(super) fn back_in_ms(&self, at: &Standing<'_>, settings: &Settings, now: Now) -> i32 {
        let id = &at.group.id;
        let interval_ms = self.heartbeat_interval_ms(id, settings);
        let members = i32::try_from(at.group.members.len() / MEMBERS_A_MS).unwrap_or(i32::MAX);
        let window_ms = (interval_ms / LOOKS).max(members).max(1);
        let target_age_ms = match at.target_epoch > at.group.target_epoch {
            true => 0,
            false => now.wall_ms.saturating_sub(at.group.target_ms),
        };
        if at.target_epoch < at.epoch {
            let pause_ms = i64::from(self.assignment_interval_ms(id, settings));
            let rest_ms = pause_ms.saturating_sub(target_age_ms);
            let rest_ms = i32::try_from(rest_ms.max(0)).unwrap_or(i32::MAX);
            return rest_ms.saturating_add(place(&at.member.id, window_ms)).min(interval_ms);
        }
        let waits = at.member.state == MemberState::UnreleasedPartitions;
        let lately =
            (0..WAIT_INTERVALS.saturating_mul(interval_ms.into())).contains(&target_age_ms);
        if waits && lately { window_ms.min(interval_ms) } else { interval_ms }
    }
}

/// A place in a window of `window_ms` that is the member's own, so that not all come at once; from
/// 1 on, as a target may be made when its time has come and not before.
fn place(member: &str, window_ms: i32) -> i32 {
    let sum = member.bytes().fold(0_u32, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let place = sum % u32::try_from(window_ms.max(1)).unwrap_or(1);
    i32::try_from(place).unwrap_or(0).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Mono;

    /// What a member is told `age_ms` after the last target was made, of epoch 4.
    fn told(epoch: i32, state: MemberState, age_ms: i64) -> i32 {
        let mut group = ConsumerGroup::new("g".into());
        (group.epoch, group.target_epoch, group.target_ms) = (epoch, 4, 1_000_000);
        let member = ConsumerMember { epoch: 4, state, ..ConsumerMember::new(Arc::from("m")) };
        let standing = Standing { group: &group, member: &member, epoch, target_epoch: 4 };
        let now = Now { mono: Mono(0), wall_ms: 1_000_000 + age_ms };
        ConsumerGroups::new().back_in_ms(&standing, &Settings::default(), now)
    }

    #[test]
    fn a_member_at_rest_has_the_whole_interval() {
        assert_eq!(told(4, MemberState::Stable, 100), 5000);
        // It speaks up by itself when it has given back what it has to.
        assert_eq!(told(4, MemberState::UnrevokedPartitions, 100), 5000);
    }

    #[test]
    fn a_member_that_waits_for_others_looks_often_but_not_for_ever() {
        assert_eq!(told(4, MemberState::UnreleasedPartitions, 0), 500);
        assert_eq!(told(4, MemberState::UnreleasedPartitions, 9_999), 500);
        assert_eq!(told(4, MemberState::UnreleasedPartitions, 10_000), 5000);
        assert_eq!(told(4, MemberState::UnreleasedPartitions, -1), 5000, "the clock was set back");
    }

    #[test]
    fn a_group_without_its_target_comes_when_that_may_be_made() {
        // The next target may be made a second after the last.
        let soon = told(5, MemberState::Stable, 200);
        assert!((801..=1300).contains(&soon), "{soon}");
        let due = told(5, MemberState::Stable, 2000);
        assert!((1..=500).contains(&due), "{due}");
        assert_eq!(told(5, MemberState::Stable, -60_000), 5000, "the clock was set back");
    }
}
