//! Producer ids, for idempotent producers and for transactions: taken from blocks that the controller hands out, so that
//! no id is ever given twice (`RPCProducerIdManager.java`).

use tokio::sync::Mutex;

use crate::{
    base::ErrorCode,
    pb::controller::{AllocateProducerIds, submit_reply::Reply, submit_request::Command},
    server::context::Broker,
};

/// How long a producer waits for a block.
const ALLOCATE_TIMEOUT_MS: i32 = 10_000;

/// The block in use.
#[derive(Debug, Default)]
pub struct ProducerIds {
    /// The next id and the end of the block. Held while a block is fetched: others wait for it.
    block: Mutex<(i64, i64)>,
}

impl ProducerIds {
    /// A fresh id.
    ///
    /// # Errors
    /// `CoordinatorLoadInProgress` if the controller has no block to give now: the client retries.
    pub(crate) async fn next(&self, broker: &Broker) -> Result<i64, ErrorCode> {
        let mut block = self.block.lock().await;
        if block.0 >= block.1 {
            *block = fetch(broker).await?;
        }
        let id = block.0;
        block.0 += 1;
        Ok(id)
    }
}

async fn fetch(broker: &Broker) -> Result<(i64, i64), ErrorCode> {
    let command =
        AllocateProducerIds { broker_id: broker.node_id.0, broker_epoch: broker.lifecycle.epoch() };
    let done = broker.submit(Command::AllocateProducerIds(command), ALLOCATE_TIMEOUT_MS).await;
    match done {
        Ok(Reply::AllocateProducerIds(r)) if r.error == 0 && r.count > 0 => {
            Ok((r.first, r.first.saturating_add(i64::from(r.count))))
        }
        _ => Err(ErrorCode::CoordinatorLoadInProgress),
    }
}
