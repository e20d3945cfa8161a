//! What a partition knows as its leader: the in-sync replicas (`Partition.scala`).

use crate::base::NodeId;

/// A replica's part in leading.
#[derive(Debug)]
pub struct Leader {
    /// The in-sync replicas.
    pub isr: Box<[NodeId]>,
    /// How many replicas there are.
    pub replicas: usize,
}
