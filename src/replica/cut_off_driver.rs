//! A leader that is cut off from everybody but its clients. The controller has given its partitions to
//! others by then, and no metadata can tell it; its clients would go on writing to it, and be told of
//! timeouts, which are no reason for them to look for another leader. So once no controller has
//! answered this broker for a session, whoever waits for followers that are silent as well is told
//! that this is not the leader. Where only the controllers are away, followers fetch, and nothing
//! changes. (Kafka's brokers leave such clients to their own `metadata.max.age.ms`.)

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::table::ReplicaTable;
use crate::base::ErrorCode;

/// Followers that have not fetched for so long are silent.
const SILENT: Duration = Duration::from_secs(3);
/// How often those who wait are looked for while no controller answers.
const EVERY: Duration = Duration::from_millis(200);

/// Starts the task; it ends when `stop` turns true. `answered`: when a controller last answered this
/// broker; `session`: `broker.session.timeout.ms`.
pub fn start(
    tasks: &mut JoinSet<()>,
    table: Arc<ReplicaTable>,
    answered: watch::Receiver<Option<Instant>>,
    session: Duration,
    mut stop: watch::Receiver<bool>,
) {
    tasks.spawn(async move {
        tokio::select! {
            () = run(table, answered, session) => {}
            _ = stop.wait_for(|s| *s) => {}
        }
    });
}

async fn run(
    table: Arc<ReplicaTable>,
    mut answered: watch::Receiver<Option<Instant>>,
    session: Duration,
) {
    loop {
        let Ok(Some(last)) = answered.wait_for(Option::is_some).await.map(|at| *at) else { return };
        tokio::time::sleep_until(last + session).await;
        let mut said = false;
        while *answered.borrow() == Some(last) {
            let told = turn_away(&table);
            if told > 0 && !std::mem::replace(&mut said, true) {
                tracing::warn!(
                    partitions = told,
                    "cut off: no controller and no follower answers; producers are sent elsewhere"
                );
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// How many partitions had somebody to tell.
fn turn_away(table: &ReplicaTable) -> usize {
    let now = table.clock.now().mono;
    let mut told = 0;
    for slot in table.all() {
        let mut partition = slot.lock();
        if partition.waits_in_vain(now, SILENT) {
            partition.dismiss(ErrorCode::NotLeaderOrFollower);
            told += 1;
        }
    }
    told
}
