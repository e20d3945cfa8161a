//! Whether this process may lead yet. An image from before it registered speaks of its broker's last
//! life: the partitions that it led then have other leaders by now or will have, with other ISRs. A
//! leader by such an image would count replicas that are not in sync any longer, or leave out some
//! that are. So nothing is led before the metadata shows this incarnation; registering took the last
//! one out of its partitions (`ReplicationControlManager.handleUncleanBrokerShutdown`). Kafka's
//! brokers publish nothing before they have caught up with the controller.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    base::{NodeId, Uuid},
    metadata::brokers::Brokers,
};

/// See the module. Without an incarnation there was no life before: all may be led at once.
#[derive(Debug, Default)]
pub struct Life {
    incarnation: OnceLock<Uuid>,
    admitted: AtomicBool,
}

impl Life {
    /// This process registers as `incarnation`. To be told before anything is published.
    pub fn begin(&self, incarnation: Uuid) {
        // Said twice, the first counts.
        let _ = self.incarnation.set(incarnation);
    }

    /// Whether partitions may be led.
    pub(super) fn may_lead(&self) -> bool {
        self.incarnation.get().is_none() || self.admitted.load(Ordering::Acquire)
    }

    /// Takes over what the metadata knows of `broker`. True once: when it first shows this life.
    pub(super) fn admit(&self, broker: NodeId, brokers: &Brokers) -> bool {
        let known = brokers.get(broker).map(|b| b.incarnation);
        let here = self.incarnation.get().is_some_and(|mine| known == Some(*mine));
        here && !self.admitted.swap(true, Ordering::AcqRel)
    }
}
