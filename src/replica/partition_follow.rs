//! A partition as a follower: whom it follows.

use super::{
    follower::Follower,
    partition::{Partition, Role},
};
use crate::{base::Now, metadata::PartitionRegistration};

impl Partition {
    /// Follows the leader of `registration`, if any.
    pub fn follow(&mut self, registration: &PartitionRegistration, _now: Now) {
        if registration.partition_epoch < self.partition_epoch {
            return;
        }
        self.leave_office();
        self.leader_epoch = registration.leader_epoch;
        self.partition_epoch = registration.partition_epoch;
        self.role = Role::Follower(Box::new(Follower { leader: registration.leader }));
    }
}
