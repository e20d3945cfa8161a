//! Looks for transactions that stay open for longer than any may: their coordinator has lost them,
//! and they hold the last stable offset of a partition back until an administrator ends them
//! (`kafka-transactions find-hanging`, KIP-664; `ProducerStateManager.hasLateTransaction`). Each is
//! named once. One task for all partitions.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::sleep};

use super::table::ReplicaTable;
use crate::{
    base::{Now, PartitionId, Uuid},
    log::OpenTxn,
};

/// How often it looks.
const LOOK: Duration = Duration::from_secs(60);
/// What a coordinator has, beyond the longest timeout, to end a transaction
/// (`LATE_TRANSACTION_BUFFER_MS`).
const BUFFER_MS: i64 = 5 * 60 * 1000;

/// Starts the task; it ends when `stop` turns true. `timeout_max_ms` is `transaction.max.timeout.ms`.
pub fn start(
    tasks: &mut JoinSet<()>,
    table: Arc<ReplicaTable>,
    timeout_max_ms: i64,
    mut stop: watch::Receiver<bool>,
) {
    tasks.spawn(async move {
        let mut late = LateTxns::new(timeout_max_ms);
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = stop.wait_for(|s| *s) => return,
            }
            let table = Arc::clone(&table);
            let looked = tokio::task::spawn_blocking(move || {
                late.look(&table, table.clock.now());
                late
            });
            match looked.await {
                Ok(back) => late = back,
                Err(e) => return tracing::error!("the look for late transactions failed: {e}"),
            }
        }
    });
}

/// The transactions that are late.
#[derive(Debug)]
pub struct LateTxns {
    after_ms: i64,
    known: BTreeSet<(Uuid, PartitionId, i64, i64)>,
}

impl LateTxns {
    /// None yet; they are late `timeout_max_ms` and five minutes after their last record.
    #[must_use]
    pub fn new(timeout_max_ms: i64) -> Self {
        Self { after_ms: timeout_max_ms.saturating_add(BUFFER_MS), known: BTreeSet::new() }
    }

    /// Looks at all partitions that are led here, and names those that were not late before. Gives
    /// how many it named.
    pub fn look(&mut self, table: &ReplicaTable, now: Now) -> usize {
        let (mut known, mut named) = (BTreeSet::new(), 0);
        for slot in table.all() {
            let partition = slot.lock();
            if !partition.leads() {
                continue;
            }
            let is_late =
                |t: &OpenTxn| now.wall_ms.saturating_sub(t.last_timestamp) > self.after_ms;
            let late: Vec<_> = partition.log.open_transactions().filter(is_late).collect();
            drop(partition);
            for txn in late {
                let key = (slot.topic_id, slot.partition, txn.producer_id, txn.first_offset);
                if !self.known.contains(&key) {
                    named += 1;
                    tracing::warn!(
                        partition = %slot.id(),
                        producer_id = txn.producer_id,
                        producer_epoch = txn.producer_epoch,
                        first_offset = txn.first_offset,
                        last_timestamp = txn.last_timestamp,
                        "a transaction is open for longer than any may: read_committed consumers \
                         wait for it"
                    );
                }
                known.insert(key);
            }
        }
        self.known = known;
        named
    }
}
