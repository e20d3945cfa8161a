//! Carries the ends of transactions to the leaders of their partitions by WriteTxnMarkers
//! (`TransactionMarkerChannelManager.scala`). One task finds the leaders; one lane a broker sends,
//! and puts all that waits for that broker into one request. What fails for a passing reason is
//! looked up and sent again, until the shard wants it no longer: it has all of them, or has been
//! unloaded. May wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    transactions_driver::Inner,
    txn_calls::{MarkerAnswer, Markers},
    txn_ports::Leader,
    txn_records::TopicPartition,
};
use crate::{
    base::{ErrorCode, NodeId, PartitionId},
    net::{NetError, PeerClient, PeerConfig},
    wire::{
        DecodeError, EncodeError,
        api::txn::{
            WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest,
            WriteTxnMarkersResponse,
        },
        frame::{decode_response, encode_request},
    },
};

/// The version that brokers of this cluster speak.
const VERSION: i16 = 2;
const CLIENT_ID: &str = "txn-marker-sender";
/// Markers of so many transactions go into one request at most.
const REQUEST_PIECES_MAX: usize = 1000;
/// The pause after the first failure; each further one is twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Markers of one ending, for some of its partitions.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    /// The partition of `__transaction_state` that they come from.
    pub(super) partition: PartitionId,
    pub(super) markers: Markers,
    /// How often they failed.
    failures: u32,
}

impl Piece {
    pub(super) const fn new(partition: PartitionId, markers: Markers) -> Self {
        Self { partition, markers, failures: 0 }
    }

    fn with(&self, partitions: BTreeSet<TopicPartition>) -> Self {
        Self { markers: Markers { partitions, ..self.markers.clone() }, ..self.clone() }
    }

    fn failed(mut self) -> Self {
        self.failures = self.failures.saturating_add(1);
        self
    }

    fn pause(&self) -> Duration {
        let doubled = self.failures.saturating_sub(1).min(16);
        FIRST_PAUSE.saturating_mul(1 << doubled).min(LONGEST_PAUSE)
    }
}

/// A piece, and where it goes.
struct Addressed {
    host: Arc<str>,
    port: u16,
    piece: Piece,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] DecodeError),
    #[error("the request cannot be written: {0}")]
    Unwritable(#[from] EncodeError),
}

/// Finds the leaders of what comes in, until the broker stops.
pub(super) async fn run(inner: Arc<Inner>, mut pieces: mpsc::UnboundedReceiver<Piece>) {
    let mut stopped = inner.stopped.subscribe();
    let mut lanes = Lanes { inner, lanes: BTreeMap::new() };
    // What has failed, by when to try again; the number keeps equal times apart.
    let mut resting: BTreeMap<(Instant, u64), Piece> = BTreeMap::new();
    let mut number = 0;
    while !*stopped.borrow_and_update() {
        let due = resting.keys().next().map(|(at, _)| *at);
        let rest = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let unled = tokio::select! {
            piece = pieces.recv() => match piece {
                Some(piece) if piece.failures > 0 => Some(piece),
                Some(piece) => lanes.route(piece),
                None => return,
            },
            () = rest => resting.pop_first().and_then(|(_, piece)| lanes.route(piece)),
            _ = stopped.changed() => return,
        };
        if let Some(piece) = unled {
            number += 1;
            resting.insert((Instant::now() + piece.pause(), number), piece);
        }
    }
}

struct Lanes {
    inner: Arc<Inner>,
    lanes: BTreeMap<NodeId, mpsc::UnboundedSender<Addressed>>,
}

impl Lanes {
    /// Hands `piece` to the lanes of its partitions' leaders. Gives back what nobody leads.
    fn route(&mut self, piece: Piece) -> Option<Piece> {
        self.inner.marker_epoch(&piece)?;
        let as_of = self.inner.as_of();
        let mut by_leader: BTreeMap<NodeId, (Arc<str>, u16, BTreeSet<_>)> = BTreeMap::new();
        let (mut gone, mut unled) = (Vec::new(), BTreeSet::new());
        for partition in &piece.markers.partitions {
            match self.inner.host.broker.leader_of(partition, as_of) {
                Leader::At { node, host, port } => {
                    let to = by_leader.entry(node).or_insert_with(|| (host, port, BTreeSet::new()));
                    to.2.insert(partition.clone());
                }
                Leader::Unknown => _ = unled.insert(partition.clone()),
                Leader::Gone => gone.push(partition.clone()),
            }
        }
        if !gone.is_empty() {
            let id = &*piece.markers.id;
            tracing::info!(id, ?gone, "partitions are deleted and need no marker");
            self.inner.marked(&piece, &gone);
        }
        for (node, (host, port, partitions)) in by_leader {
            let addressed = Addressed { host, port, piece: piece.with(partitions) };
            let inner = &self.inner;
            let lane = self.lanes.entry(node).or_insert_with(|| {
                let (lane, addressed) = mpsc::unbounded_channel();
                inner.runtime.spawn(send(inner.clone(), node, addressed));
                lane
            });
            // A lane ends after this task alone.
            let _ = lane.send(addressed);
        }
        (!unled.is_empty()).then(|| piece.with(unled).failed())
    }
}

/// One lane: sends what comes in, as much at a time as has come in.
async fn send(inner: Arc<Inner>, node: NodeId, mut pieces: mpsc::UnboundedReceiver<Addressed>) {
    let mut stopped = inner.stopped.subscribe();
    let mut peer: Option<PeerClient> = None;
    let mut correlation_id = 0;
    while let Some(first) = pieces.recv().await {
        let mut batch = vec![first];
        while batch.len() < REQUEST_PIECES_MAX
            && let Ok(more) = pieces.try_recv()
        {
            batch.push(more);
        }
        let Some(Addressed { host, port, .. }) = batch.last() else { continue };
        let (host, port) = (Arc::clone(host), *port);
        let wanted = batch.into_iter().filter_map(|a| {
            let epoch = inner.marker_epoch(&a.piece)?;
            Some((a.piece, epoch))
        });
        let wanted: Vec<(Piece, i32)> = wanted.collect();
        if wanted.is_empty() {
            continue;
        }
        correlation_id += 1;
        let markers = wanted.iter().map(|(piece, epoch)| marker(piece, *epoch)).collect();
        let request = WriteTxnMarkersRequest { markers };
        let answer = tokio::select! {
            answer = call(&inner, &mut peer, &host, port, correlation_id, &request) => answer,
            _ = stopped.changed() => return,
        };
        let pieces = wanted.into_iter().map(|(piece, _)| piece);
        match answer {
            Ok(answer) => settle(&inner, pieces, &answer),
            Err(error) => {
                peer = None;
                tracing::debug!(node = node.0, %error, "markers were not sent");
                for piece in pieces {
                    // The receiver is gone when the broker stops.
                    let _ = inner.host.markers.send(piece.failed());
                }
            }
        }
    }
}

async fn call(
    inner: &Inner,
    peer: &mut Option<PeerClient>,
    host: &str,
    port: u16,
    correlation_id: i32,
    request: &WriteTxnMarkersRequest,
) -> Result<WriteTxnMarkersResponse, Failure> {
    let frame = encode_request(correlation_id, Some(CLIENT_ID), request, VERSION)?;
    let address = format!("{host}:{port}");
    let client = match peer.take().filter(|p| p.address() == address) {
        Some(client) => peer.insert(client),
        None => {
            let ms = u64::try_from(inner.host.settings.request_timeout_ms).unwrap_or(0).max(1);
            let request_timeout = Duration::from_millis(ms);
            let config = PeerConfig { request_timeout, ..PeerConfig::new() };
            peer.insert(PeerClient::connect(host, port, &config).await?)
        }
    };
    let answer = client.call(frame).await?;
    Ok(decode_response(&answer, VERSION)?.1)
}

fn marker(piece: &Piece, coordinator_epoch: i32) -> WritableTxnMarker {
    let m = &piece.markers;
    let mut topics: Vec<WritableTxnMarkerTopic> = Vec::new();
    for (topic, partition) in &m.partitions {
        match topics.last_mut().filter(|t| *t.name == **topic) {
            Some(last) => last.partition_indexes.push(*partition),
            None => topics.push(WritableTxnMarkerTopic {
                name: topic.to_string(),
                partition_indexes: vec![*partition],
            }),
        }
    }
    WritableTxnMarker {
        producer_id: m.producer.id,
        producer_epoch: m.producer.epoch,
        transaction_result: m.commit,
        topics,
        coordinator_epoch,
        transaction_version: i8::try_from(m.transaction_version).unwrap_or(0),
    }
}

fn settle(
    inner: &Arc<Inner>,
    pieces: impl Iterator<Item = Piece>,
    answer: &WriteTxnMarkersResponse,
) {
    let mut codes: BTreeMap<(i64, &str, i32), ErrorCode> = BTreeMap::new();
    for marker in &answer.markers {
        for topic in &marker.topics {
            for p in &topic.partitions {
                let key = (marker.producer_id, topic.name.as_str(), p.partition_index);
                codes.insert(key, p.error_code);
            }
        }
    }
    for piece in pieces {
        let (mut done, mut again, mut fenced) = (Vec::new(), BTreeSet::new(), None);
        for partition in &piece.markers.partitions {
            let key = (piece.markers.producer.id, &*partition.0, partition.1);
            // A leader that says nothing of a partition is asked again.
            let code = codes.get(&key).copied().unwrap_or(ErrorCode::UnknownServerError);
            match MarkerAnswer::of(code) {
                MarkerAnswer::Done => done.push(partition.clone()),
                MarkerAnswer::Again => {
                    let (id, error) = (&*piece.markers.id, code.name());
                    let (topic, number) = (&*partition.0, partition.1);
                    match code.is_retriable() {
                        true => tracing::debug!(id, topic, number, error, "marker refused"),
                        false => tracing::warn!(id, topic, number, error, "marker refused"),
                    }
                    again.insert(partition.clone());
                }
                MarkerAnswer::Fenced => fenced = Some((partition.clone(), code)),
            }
        }
        if !done.is_empty() {
            inner.marked(&piece, &done);
        }
        if let Some(((topic, partition), code)) = fenced {
            let (id, error) = (&*piece.markers.id, code.name());
            tracing::warn!(id, %topic, partition, error, "a transaction's end is fenced off");
        } else if !again.is_empty() {
            let _ = inner.host.markers.send(piece.with(again).failed());
        }
    }
}
