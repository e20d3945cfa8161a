//! Log directories towards the controller: failed ones are reported, and it is told in which one
//! a replica lies where it does not know (`LogDirFailureChannel`, `AssignmentsManager.java`,
//! KIP-858).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    base::{ErrorCode, NodeId, PartitionId, Uuid},
    config::ServerConfig,
    metadata::Image,
    node::identity::Directories,
    pb::controller::{
        self as pb, submit_reply::Reply as SubmitBody, submit_request::Command as SubmitCommand,
    },
    replica::dirs::Misplaced,
    server::{Broker, context},
};

/// How soon a failure is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A broker without any directory tells the controller so, but waits no longer than this.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Assignments in one request (`AssignmentsManager.MAX_ASSIGNMENTS_PER_REQUEST`).
const ASSIGNMENTS_MAX: usize = 2250;
/// Assignments are collected for so long.
const COLLECT: Duration = Duration::from_millis(50);
/// Pauses before assignments that failed are tried again: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The ids of the directories that are cordoned by the configuration under `image`.
pub(crate) fn cordoned(
    settings: &ServerConfig,
    node_id: NodeId,
    image: &Image,
    dirs: &[(String, Uuid)],
) -> Vec<Uuid> {
    let paths = settings.cordoned_under(&context::layers(settings, node_id, image));
    let named = |name: &str| paths.iter().any(|p| p.display().to_string() == name);
    dirs.iter().filter(|(name, _)| named(name)).map(|(_, id)| *id).collect()
}

/// Whether every directory of the configuration was opened.
pub(crate) fn all_opened(config: &ServerConfig, dirs: &Directories) -> bool {
    config.log_dirs.iter().all(|path| dirs.logs.iter().any(|(opened, ..)| opened == path))
}

/// Watches for directories that fail, and has the controller told. Ends with the reason when the
/// broker cannot go on: no directory is left, or the controller cannot be told, so that it would
/// still count on what is lost.
pub(crate) async fn watch(broker: Arc<Broker>, fatal: watch::Sender<Option<String>>) {
    let all = broker.replicas.dirs();
    let timeout = u64::try_from(broker.settings.logs.dir_failure_timeout_ms).unwrap_or(0);
    let told = broker.lifecycle.told_offline_dirs();
    let (mut known, mut since) = (Vec::new(), Instant::now());
    loop {
        let offline: Vec<Uuid> = all
            .iter()
            .filter(|dir| dir.log_dir.offline_reason().is_some())
            .map(|dir| dir.id)
            .collect();
        if offline != known {
            broker.lifecycle.set_offline_dirs(offline.clone());
            (known, since) = (offline, Instant::now());
        }
        let is_told = *told.borrow() == known;
        let none_left = !all.is_empty() && known.len() == all.len();
        let why = if none_left && (is_told || since.elapsed() >= LAST_WORDS) {
            Some("every log directory has failed: see above")
        } else if !is_told && since.elapsed() >= Duration::from_millis(timeout) {
            Some("the controller could not be told of a failed log directory")
        } else {
            None
        };
        if let Some(why) = why {
            fatal.send_replace(Some(why.to_owned()));
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

type Pending = BTreeMap<(Uuid, PartitionId), Uuid>;

/// Tells the controller of the replicas that come in by `found`, in batches, until it knows them.
pub(crate) async fn assign(
    broker: Arc<Broker>,
    mut found: mpsc::UnboundedReceiver<Vec<Misplaced>>,
) {
    let mut pending = Pending::new();
    let mut pause = COLLECT;
    loop {
        if pending.is_empty() {
            let Some(more) = found.recv().await else { return };
            take(&mut pending, more);
        }
        tokio::time::sleep(pause).await;
        while let Ok(more) = found.try_recv() {
            take(&mut pending, more);
        }
        let image = broker.image();
        let me = broker.node_id;
        pending.retain(|(topic, p), dir| {
            let state = image.topics().partition(*topic, *p);
            state.and_then(|p| p.directory(me)).is_some_and(|said| said != *dir)
        });
        pause = match submit(&broker, &mut pending).await {
            Ok(()) => COLLECT,
            Err(why) => {
                tracing::warn!("the controller was not told of replicas' directories: {why}");
                let longer = pause.max(RETRY.0).saturating_mul(2);
                longer.min(RETRY.1)
            }
        };
    }
}

fn take(pending: &mut Pending, more: Vec<Misplaced>) {
    pending.extend(more.into_iter().map(|m| ((m.topic_id, m.partition), m.dir)));
}

/// One request. What was settled by it leaves `pending`.
async fn submit(broker: &Broker, pending: &mut Pending) -> Result<(), String> {
    let mut epoch = broker.lifecycle.watch_epoch();
    let Ok(broker_epoch) = epoch.wait_for(|e| *e >= 0).await.map(|e| *e) else { return Ok(()) };
    let bytes = |id: &Uuid| Bytes::copy_from_slice(&id.0);
    let one = |((topic, partition), dir): (&(Uuid, PartitionId), &Uuid)| pb::DirAssignment {
        topic_id: bytes(topic),
        partition: *partition,
        directory_id: bytes(dir),
    };
    let assignments: Vec<_> = pending.iter().take(ASSIGNMENTS_MAX).map(one).collect();
    if assignments.is_empty() {
        return Ok(());
    }
    let command = SubmitCommand::AssignReplicasToDirs(pb::AssignReplicasToDirs {
        broker_id: broker.node_id.0,
        broker_epoch,
        assignments,
    });
    let reply = broker.controller.submit(command, PATIENCE).await.map_err(|e| e.to_string())?;
    let name = |code: i32| {
        i16::try_from(code).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code).name()
    };
    let body = match reply.reply {
        Some(SubmitBody::AssignReplicasToDirs(body)) if (reply.error, body.error) == (0, 0) => body,
        Some(SubmitBody::AssignReplicasToDirs(body)) if reply.error == 0 => {
            return Err(name(body.error).to_owned());
        }
        _ => return Err(name(reply.error).to_owned()),
    };
    for r in body.results {
        // Refused for good: the partition is gone, or no longer here.
        if let Ok(topic) = <[u8; 16]>::try_from(&r.topic_id[..]) {
            pending.remove(&(Uuid(topic), r.partition));
        }
    }
    Ok(())
}
