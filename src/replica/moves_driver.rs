//! Moves replicas between log directories: copies in parts, tells the controller once a copy has
//! everything, and lets it take the replica's place when the controller knows
//! (`ReplicaAlterLogDirsThread.scala`, KIP-858). One task for all, which moves up to
//! `num.replica.alter.log.dirs.threads` replicas at once; without moves it sleeps.

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    dirs::Misplaced,
    fetch_plan::Key,
    table::{ReplicaTable, Slot},
    upkeep_driver::Work,
};
use crate::{
    base::{PartitionId, Uuid},
    log::LogError,
};

/// A look at moves that wait for records, or for the controller.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A controller that has not taken the new directory over is told again after this.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// In which directory a replica of this broker is, as the metadata has it.
pub type Said = Arc<dyn Fn(Uuid, PartitionId) -> Option<Uuid> + Send + Sync>;

struct Mover {
    table: Arc<ReplicaTable>,
    said: Said,
    misplaced: mpsc::UnboundedSender<Vec<Misplaced>>,
    /// So many replicas are copied at once.
    at_once: usize,
    /// When the controller was last told of a copy that has everything.
    told: BTreeMap<Key, Instant>,
}

/// What became of one look at a move.
enum Step {
    /// Bytes were copied.
    Copied,
    /// It waits.
    Waits,
    /// The copy has everything; the controller is to know that the replica is in this directory.
    Tell(Uuid),
    /// It is given up.
    GivenUp,
    /// The replica is in its new place.
    Done,
}

/// Starts the task; it ends when `stop` turns true. `misplaced` takes what the controller is to be
/// told; `at_once` is how many replicas are copied at the same time, at least one.
pub fn start(
    tasks: &mut JoinSet<()>,
    table: Arc<ReplicaTable>,
    said: Said,
    misplaced: mpsc::UnboundedSender<Vec<Misplaced>>,
    at_once: usize,
    mut stop: watch::Receiver<bool>,
) {
    let mover = Mover { table, said, misplaced, at_once: at_once.max(1), told: BTreeMap::new() };
    tasks.spawn(async move {
        tokio::select! {
            () = mover.run() => {}
            _ = stop.wait_for(|s| *s) => {}
        }
    });
}

impl Mover {
    async fn run(mut self) {
        loop {
            poll_fn(|cx| self.table.moves.poll_any(cx)).await;
            self.tell(self.table.moves.take_reverted());
            let (mut copied, mut done) = (false, false);
            for keys in self.table.moves.all().chunks(self.at_once) {
                let steps = join_all(keys.iter().map(|key| self.step(*key))).await;
                for (key, step) in keys.iter().zip(steps) {
                    copied |= matches!(step, Step::Copied);
                    done |= matches!(step, Step::Done);
                    self.note(*key, &step);
                }
            }
            if done {
                self.write_checkpoints().await;
            }
            let pause = self.table.moves_pause(self.table.clock.now().mono);
            match pause {
                Some(pause) => sleep(pause).await,
                None if !copied => sleep(LOOK_EVERY).await,
                None => {}
            }
        }
    }

    /// Tells the controller what it is to know, once in a while.
    fn note(&mut self, key: Key, step: &Step) {
        match *step {
            Step::Copied | Step::Waits => {}
            Step::Tell(dir) => {
                if self.told.get(&key).is_none_or(|at| at.elapsed() >= TELL_EVERY) {
                    self.told.insert(key, Instant::now());
                    self.tell(vec![Misplaced { topic_id: key.0, partition: key.1, dir }]);
                }
            }
            Step::GivenUp | Step::Done => {
                self.told.remove(&key);
            }
        }
    }

    async fn step(&self, key: Key) -> Step {
        let Some(slot) = self.table.by_id(key.0, key.1) else {
            self.table.moves.end(key);
            return Step::Done;
        };
        match self.try_step(key, &slot).await {
            Ok(step) => step,
            // A full disk may get room.
            Err(e) if e.is_retriable() => {
                tracing::warn!(partition = %slot.id(), "the move waits: {e}");
                Step::Waits
            }
            Err(e) => {
                tracing::error!(partition = %slot.id(), "the move is given up: {e}");
                self.table.abandon_move(&slot, self.table.clock.now());
                Step::GivenUp
            }
        }
    }

    async fn try_step(&self, key: Key, slot: &Arc<Slot>) -> Result<Step, LogError> {
        if self.table.moves_pause(self.table.clock.now().mono).is_some() {
            return Ok(Step::Waits);
        }
        let copied =
            self.work(slot, |table, slot| table.copy_more(slot, table.clock.now())).await?;
        if copied > 0 {
            self.table.quotas.moves.record(copied, self.table.clock.now().mono);
            return Ok(Step::Copied);
        }
        let Some((dir, true)) = self.table.move_of(slot) else { return Ok(Step::Waits) };
        if (self.said)(key.0, key.1) != Some(dir) {
            return Ok(Step::Tell(dir));
        }
        self.work(slot, |table, slot| table.flush_copy(slot, table.clock.now())).await?;
        let done =
            self.work(slot, |table, slot| table.complete_move(slot, table.clock.now())).await?;
        Ok(if done { Step::Done } else { Step::Copied })
    }

    fn tell(&self, misplaced: Vec<Misplaced>) {
        if !misplaced.is_empty() {
            // Nobody takes them when the broker stops.
            let _ = self.misplaced.send(misplaced);
        }
    }

    /// Does what may take long where that is allowed.
    async fn work<T: Send + 'static>(
        &self,
        slot: &Arc<Slot>,
        work: impl FnOnce(&ReplicaTable, &Slot) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let (table, slot) = (Arc::clone(&self.table), Arc::clone(slot));
        let done = tokio::task::spawn_blocking(move || work(&table, &slot)).await;
        done.unwrap_or_else(|e| {
            let context = "moving a replica".to_owned();
            Err(LogError::Io { context, source: std::io::Error::other(e) })
        })
    }

    /// The offsets of a replica that moved are written down in its new directory.
    async fn write_checkpoints(&self) {
        let table = Arc::clone(&self.table);
        let write = move || {
            for work in [Work::LogStarts, Work::RecoveryPoints, Work::HighWatermarks] {
                work.run(&table);
            }
        };
        if let Err(e) = tokio::task::spawn_blocking(write).await {
            tracing::error!("writing checkpoints failed: {e}");
        }
    }
}
