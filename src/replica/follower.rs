//! What a partition knows as a follower: whom it follows (`AbstractFetcherThread.scala`).

use crate::base::NodeId;

/// A replica's part in following.
#[derive(Debug)]
pub struct Follower {
    /// The leader; `None` while there is none.
    pub leader: Option<NodeId>,
}
