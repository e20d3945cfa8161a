//! The broker as transactions see it. Transactions start before the broker is put together, so that
//! it is told to them late; until then nothing is known.

use std::sync::{Arc, OnceLock, Weak};

use futures::future::{BoxFuture, FutureExt as _};

use crate::{
    base::{ErrorCode, Offset},
    coordinator::{
        txn_ports::{Leader, TxnBroker},
        txn_records::TopicPartition,
    },
    server::Broker,
};

/// See the file's head.
#[derive(Debug, Default)]
pub(crate) struct LateBroker(OnceLock<Weak<Broker>>);

impl LateBroker {
    /// The broker is put together.
    pub(crate) fn is(&self, broker: &Arc<Broker>) {
        // It is told once.
        let _ = self.0.set(Arc::downgrade(broker));
    }

    pub(super) fn get(&self) -> Option<Arc<Broker>> {
        self.0.get().and_then(Weak::upgrade)
    }
}

impl TxnBroker for LateBroker {
    fn producer_id(&self) -> BoxFuture<'static, Result<i64, ErrorCode>> {
        let broker = self.get();
        async move {
            let broker = broker.ok_or(ErrorCode::CoordinatorLoadInProgress)?;
            broker.producer_ids.next(&broker).await
        }
        .boxed()
    }

    fn leader_of(&self, (topic, partition): &TopicPartition, as_of: Offset) -> Leader {
        let Some(broker) = self.get() else { return Leader::Unknown };
        let image = broker.image();
        let found = image.topics().by_name(topic).and_then(|t| t.partition(*partition));
        let Some(found) = found else {
            return match image.position.offset >= as_of {
                true => Leader::Gone,
                false => Leader::Unknown,
            };
        };
        let node = found.leader.and_then(|l| image.brokers().get(l)).filter(|b| !b.fenced);
        let listener = &broker.settings.inter_broker_listener;
        match node.and_then(|n| Some((n.id, n.endpoint(listener)?))) {
            Some((node, at)) => Leader::At { node, host: Arc::clone(&at.host), port: at.port },
            None => Leader::Unknown,
        }
    }
}
