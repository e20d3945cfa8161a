//! Asks the controller for changes of ISRs (AlterPartition): at once where a follower caught up,
//! every half `replica.lag.time.max.ms` where one lags. One request is under way at a time; what
//! comes meanwhile goes together in the next (`DefaultAlterPartitionManager`).

use std::{future::poll_fn, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::Instant};

use super::{
    leader::{IsrAnswer, IsrProposal},
    table::{ReplicaTable, Slot},
};
use crate::{
    base::{ErrorCode, NodeId},
    controller::{
        ControllerClient,
        command::{SubmitBody, SubmitCommand},
    },
    pb::controller as pb,
};

/// Partitions in one request.
const BATCH_MAX: usize = 2000;
/// First pause after a request that has to be made again; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long a request looks for a controller that answers.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What the driver works with.
#[derive(Debug)]
pub struct IsrDriver {
    /// The replicas.
    pub table: Arc<ReplicaTable>,
    /// The way to the controller.
    pub client: ControllerClient,
    /// This broker's epoch; -1 while it is not registered.
    pub epoch: watch::Receiver<i64>,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
}

/// A proposal, and whose it is.
type Asked = (Arc<Slot>, IsrProposal);

impl IsrDriver {
    /// Starts the task; it ends when `stop` turns true.
    pub fn start(self, tasks: &mut JoinSet<()>, mut stop: watch::Receiver<bool>) {
        tasks.spawn(async move {
            tokio::select! {
                () = self.run() => {}
                _ = stop.wait_for(|s| *s) => {}
            }
        });
    }

    async fn run(self) {
        let every = (self.lag_max / 2).max(Duration::from_millis(1));
        let (mut tick, mut retry) = (Instant::now() + every, Instant::now());
        let (mut queue, mut again) = (Vec::new(), Vec::new());
        let mut backoff = BACKOFF_MIN;
        loop {
            tokio::select! {
                due = poll_fn(|cx| self.table.isr.poll_due(cx)) => queue.extend(due),
                () = tokio::time::sleep_until(tick) => {
                    queue.extend(lagging(&self.table));
                    tick = Instant::now() + every;
                }
                () = tokio::time::sleep_until(retry), if !again.is_empty() => {
                    queue.append(&mut again);
                }
            }
            while !queue.is_empty() {
                let failed = self.send(self.collect(&mut queue)).await;
                backoff = if failed.is_empty() {
                    BACKOFF_MIN
                } else {
                    retry = Instant::now() + backoff;
                    (backoff * 2).min(BACKOFF_MAX)
                };
                again.extend(failed);
            }
        }
    }

    /// The proposals of the partitions in `queue`, for one request.
    fn collect(&self, queue: &mut Vec<Arc<Slot>>) -> Vec<Asked> {
        let now = self.table.clock.now();
        let mut asked = Vec::new();
        while asked.len() < BATCH_MAX
            && let Some(slot) = queue.pop()
        {
            let mut partition = slot.lock();
            let before: Vec<i32> = isr_of(partition.leader().map_or(&[], |l| l.isr()));
            let Some(proposal) = partition.isr_proposal(now) else { continue };
            drop(partition);
            let isr: Vec<i32> = proposal.isr.iter().map(|(id, _)| id.0).collect();
            tracing::info!(partition = %slot.id(), ?before, ?isr, "asks for another ISR");
            asked.push((slot, proposal));
        }
        asked
    }

    /// Sends one request; returns the partitions that want to ask again.
    async fn send(&self, asked: Vec<Asked>) -> Vec<Arc<Slot>> {
        if asked.is_empty() {
            return Vec::new();
        }
        let answers = self.ask(&asked).await;
        let now = self.table.clock.now();
        let mut again = Vec::new();
        for (at, (slot, proposal)) in asked.into_iter().enumerate() {
            let answer = match &answers {
                Ok(answers) => answers.get(at).map_or(Err(ErrorCode::UnknownServerError), answer),
                Err(code) => Err(*code),
            };
            if let Err(code) = &answer {
                tracing::info!(partition = %slot.id(), %code, "the ISR was not changed");
            }
            let ask_again = slot.lock().isr_answered(&proposal, answer, now);
            if ask_again {
                again.push(slot);
            }
        }
        again
    }

    async fn ask(&self, asked: &[Asked]) -> Result<Vec<pb::AlterPartitionResult>, ErrorCode> {
        let broker_epoch = *self.epoch.borrow();
        if broker_epoch < 0 {
            return Err(ErrorCode::StaleBrokerEpoch);
        }
        let command = SubmitCommand::AlterPartition(pb::AlterPartition {
            broker_id: self.table.node_id.0,
            broker_epoch,
            partitions: asked.iter().map(item).collect(),
        });
        let reply = self.client.submit(command, REQUEST_TIMEOUT).await;
        let reply = reply.map_err(|e| {
            tracing::warn!("cannot ask the controller for another ISR: {e}");
            ErrorCode::RequestTimedOut
        })?;
        check(reply.error)?;
        match reply.reply {
            Some(SubmitBody::AlterPartition(body)) => {
                check(body.error)?;
                Ok(body.partitions)
            }
            _ => Err(ErrorCode::UnknownServerError),
        }
    }
}

/// Partitions where a follower lags; those that need to be looked at again stay in the queue.
fn lagging(table: &ReplicaTable) -> Vec<Arc<Slot>> {
    let now = table.clock.now();
    let watched = table.isr.take_watched();
    for slot in &watched {
        let lags = slot.lock().look_after(now);
        if lags {
            table.isr.watch(slot);
        }
    }
    watched
}

fn isr_of(isr: &[NodeId]) -> Vec<i32> {
    isr.iter().map(|id| id.0).collect()
}

fn code(number: i32) -> ErrorCode {
    i16::try_from(number).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code)
}

fn check(number: i32) -> Result<(), ErrorCode> {
    if number == 0 { Ok(()) } else { Err(code(number)) }
}

fn item((slot, proposal): &Asked) -> pb::AlterPartitionItem {
    let member =
        |(id, epoch): &(NodeId, i64)| pb::IsrMember { broker_id: id.0, broker_epoch: *epoch };
    pb::AlterPartitionItem {
        topic_id: slot.topic_id.0.to_vec().into(),
        partition: slot.partition,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        isr: proposal.isr.iter().map(member).collect(),
        leader_recovery_state: proposal.recovery.code().into(),
    }
}

fn answer(result: &pb::AlterPartitionResult) -> Result<IsrAnswer, ErrorCode> {
    check(result.error)?;
    Ok(IsrAnswer {
        leader_epoch: result.leader_epoch,
        partition_epoch: result.partition_epoch,
        isr: result.isr.iter().map(|id| NodeId(*id)).collect(),
    })
}
