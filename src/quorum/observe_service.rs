//! `Observe`, answered: one stream an observer, of all that is committed after its position; a
//! checkpoint first if the log begins later. Uses `base`, `pb`.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::{
    checkpoint::{CheckpointDir, CheckpointFile},
    doorman::{Doorman, Visitor},
    entry,
    log_store::{LogStore, READ_BYTES_MAX},
    network::PART_BYTES,
    roster::Roster,
    settings::Leadership,
    types::{self, Voters},
    voters::VoterChanges,
};
use crate::{
    base::ports::Clock,
    metadata::Position,
    pb::quorum::{self as pb, observation::What, observers_server},
};

/// An observer hears something at least this often.
const HEARD_EVERY: Duration = Duration::from_millis(500);

/// What the streams read from.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    pub(crate) log: LogStore,
    pub(crate) checkpoints: Arc<CheckpointDir>,
    pub(crate) position: watch::Receiver<Position>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) changes: Arc<VoterChanges>,
}

/// Serves observers.
pub(crate) struct ObserverService {
    pub(crate) doorman: Doorman,
    pub(crate) feed: Feed,
}

type Observations = Pin<Box<dyn Stream<Item = Result<pb::Observation, Status>> + Send>>;

#[tonic::async_trait]
impl observers_server::Observers for ObserverService {
    type ObserveStream = Observations;

    async fn observe(
        &self,
        request: Request<Streaming<pb::ObserverPosition>>,
    ) -> Result<Response<Observations>, Status> {
        let visitor = self.doorman.admit(request.metadata())?;
        let mut reports = request.into_inner();
        let first = reports.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("no position was sent"))?;
        let at = Position { offset: first.offset, epoch: first.epoch };
        let mut feed = self.feed.clone();
        feed.leadership.mark_changed();
        let one = Follower { feed, visitor, reports, at, checkpoint: None, told: None };
        one.report(at);
        let stream = futures::stream::unfold(Some(one), |state| async move {
            let mut follower = state?;
            match follower.next().await {
                Ok(Some(observation)) => Some((Ok(observation), Some(follower))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// One observer.
struct Follower {
    feed: Feed,
    visitor: Visitor,
    reports: Streaming<pb::ObserverPosition>,
    /// The last entry that was sent.
    at: Position,
    /// A checkpoint being sent, and the bytes sent of it.
    checkpoint: Option<(CheckpointFile, u64)>,
    /// The voters that it was told.
    told: Option<Voters>,
}

fn io(e: std::io::Error) -> Status {
    Status::internal(e.to_string())
}

impl Follower {
    fn report(&self, at: Position) {
        let (_, end) = self.feed.log.bounds();
        self.feed.roster.report(
            self.visitor.node_id,
            self.visitor.directory_id,
            at.offset.saturating_add(1),
            i64::try_from(end).unwrap_or(i64::MAX),
            self.feed.clock.now().wall_ms,
        );
    }

    fn observation(&mut self, what: Option<What>) -> pb::Observation {
        let leader = *self.feed.leadership.borrow();
        let members = self.feed.changes.members();
        let changed = self.told.as_ref() != Some(&members);
        let voters = changed.then(|| types::voters_to_pb(&members));
        self.told = Some(members);
        pb::Observation {
            leader: Some(pb::LeaderNews {
                node: leader.leader.map(|id| id.0),
                epoch: leader.epoch,
            }),
            high_watermark: match leader.is_self {
                true => self.feed.position.borrow().offset.saturating_add(1),
                false => -1,
            },
            what,
            voters,
        }
    }

    /// What is to be sent next; waits for it. `None` once the observer hung up.
    async fn next(&mut self) -> Result<Option<pb::Observation>, Status> {
        loop {
            if self.checkpoint.is_some() {
                return self.checkpoint_part().await.map(Some);
            }
            let committed = *self.feed.position.borrow_and_update();
            if self.at.offset > committed.offset && self.feed.leadership.borrow().is_self {
                return Err(Status::out_of_range(format!(
                    "the image at offset {} is ahead of this quorum's, which is at {}",
                    self.at.offset, committed.offset
                )));
            }
            if self.at.offset < committed.offset {
                if let Some(batches) = self.batches(committed).await? {
                    return Ok(Some(self.observation(Some(What::Batches(batches)))));
                }
                continue;
            }
            tokio::select! {
                report = self.reports.message() => match report? {
                    Some(p) => self.report(Position { offset: p.offset, epoch: p.epoch }),
                    None => return Ok(None),
                },
                changed = self.feed.position.changed() => if changed.is_err() { return Ok(None) },
                changed = self.feed.leadership.changed() => {
                    if changed.is_err() {
                        return Ok(None);
                    }
                    return Ok(Some(self.observation(None)));
                }
                () = tokio::time::sleep(HEARD_EVERY) => return Ok(Some(self.observation(None))),
            }
        }
    }

    /// The next run of batches; `None` after a checkpoint was begun instead.
    async fn batches(&mut self, committed: Position) -> Result<Option<Bytes>, Status> {
        let next = u64::try_from(self.at.offset.saturating_add(1)).unwrap_or(0);
        let (purged, _) = self.feed.log.bounds();
        if purged.is_some_and(|p| next <= p.index) {
            let dir = Arc::clone(&self.feed.checkpoints);
            let newest = tokio::task::spawn_blocking(move || dir.newest_file());
            let file = newest.await.map_err(|e| Status::internal(e.to_string()))?.map_err(io)?;
            let file = file.ok_or_else(|| Status::internal("there is no checkpoint"))?;
            self.checkpoint = Some((file, 0));
            return Ok(None);
        }
        let end = u64::try_from(committed.offset.saturating_add(1)).unwrap_or(0);
        let entries = self.feed.log.read(next, end, READ_BYTES_MAX).await.map_err(io)?;
        let mut out = BytesMut::new();
        for e in &entries {
            if e.log_id.index != next && out.is_empty() {
                // Purged since the bounds were asked for.
                return Ok(None);
            }
            let batch = entry::encode(e).map_err(|e| Status::internal(e.to_string()))?;
            out.extend_from_slice(&batch);
            self.at = types::position(Some(&e.log_id));
        }
        Ok((!out.is_empty()).then(|| out.freeze()))
    }

    async fn checkpoint_part(&mut self) -> Result<pb::Observation, Status> {
        let Some((file, pos)) = self.checkpoint.take() else {
            return Err(Status::internal("no checkpoint is being sent"));
        };
        let reading = tokio::task::spawn_blocking(move || {
            let part = file.read_part(pos, PART_BYTES)?;
            Ok((file, part))
        });
        let read: std::io::Result<_> =
            reading.await.map_err(|e| Status::internal(e.to_string()))?;
        let (file, bytes) = read.map_err(io)?;
        let pos = pos + bytes.len() as u64;
        let last = pos >= file.len;
        if last {
            self.at = file.position;
        } else {
            self.checkpoint = Some((file, pos));
        }
        let part = pb::CheckpointBytes { bytes, last };
        Ok(self.observation(Some(What::Checkpoint(part))))
    }
}
