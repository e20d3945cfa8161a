//! Where partitions of the cluster end, as their leaders say: what this broker leads it looks up
//! itself, the rest it asks for by ListOffsets, one question a broker
//! (`NetworkPartitionMetadataClient`).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::time::timeout;

use crate::{
    base::{ErrorCode, NodeId, Offset, PartitionId},
    net::{NetError, PeerClient, PeerConfig},
    server::{api::offsets, context::Broker},
    wire::{
        DecodeError, EncodeError,
        api::offsets::{
            ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListOffsetsTopic,
        },
        frame::{decode_response, encode_request},
    },
};

/// The version that brokers of this cluster speak.
const VERSION: i16 = 9;
/// ListOffsets: the high watermark.
const LATEST: i64 = -1;
/// A leader that has not answered by then is taken for dead.
const PATIENCE: Duration = Duration::from_secs(5);

/// The high watermark of a partition, or why it cannot be told.
pub(crate) type Ends = Result<Offset, ErrorCode>;
type Name = (Arc<str>, PartitionId);

#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] DecodeError),
    #[error("the request cannot be written: {0}")]
    Unwritable(#[from] EncodeError),
    #[error("the leader does not answer")]
    Late,
}

/// The high watermarks of `partitions`.
pub(crate) async fn latest(broker: &Broker, partitions: Vec<Name>) -> BTreeMap<Name, Ends> {
    let image = broker.image();
    let mut ends: BTreeMap<Name, Ends> = BTreeMap::new();
    let mut by_leader: BTreeMap<NodeId, Vec<Name>> = BTreeMap::new();
    for (topic, partition) in partitions {
        let known = image.topics().by_name(&topic).and_then(|t| t.partition(partition));
        match known.map(|p| p.leader) {
            None => _ = ends.insert((topic, partition), Err(ErrorCode::UnknownTopicOrPartition)),
            Some(None) => _ = ends.insert((topic, partition), Err(ErrorCode::LeaderNotAvailable)),
            Some(Some(leader)) if leader == broker.node_id => {
                let end = offsets::latest(broker, &topic, partition);
                ends.insert((topic, partition), end);
            }
            Some(Some(leader)) => by_leader.entry(leader).or_default().push((topic, partition)),
        }
    }
    let asked = by_leader.into_iter().map(|(leader, names)| async move {
        let found = ask(broker, leader, &names).await;
        (leader, names, found)
    });
    for (leader, names, found) in join_all(asked).await {
        let found = found.inspect_err(|error| {
            tracing::debug!(leader = leader.0, %error, "ends of partitions are not known");
        });
        for name in names {
            let end = match &found {
                Ok(response) => end_in(response, &name),
                Err(_) => Err(ErrorCode::NetworkException),
            };
            ends.insert(name, end);
        }
    }
    ends
}

async fn ask(
    broker: &Broker,
    leader: NodeId,
    names: &[Name],
) -> Result<ListOffsetsResponse, Unanswered> {
    let image = broker.image();
    let at = image.brokers().get(leader).filter(|b| !b.fenced);
    let endpoint = at.and_then(|b| b.endpoint(&broker.settings.inter_broker_listener));
    let Some(endpoint) = endpoint else { return Err(Unanswered::Late) };
    let mut topics: Vec<ListOffsetsTopic> = Vec::new();
    for (topic, partition) in names {
        let asked = ListOffsetsPartition {
            partition_index: *partition,
            timestamp: LATEST,
            ..Default::default()
        };
        match topics.last_mut() {
            Some(last) if *last.name == **topic => last.partitions.push(asked),
            _ => topics.push(ListOffsetsTopic { name: topic.to_string(), partitions: vec![asked] }),
        }
    }
    let request = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
    let talk = async {
        let (host, port) = (&*endpoint.host, endpoint.port);
        let mut peer = PeerClient::connect(host, port, &PeerConfig::new()).await?;
        let frame = encode_request(0, Some("end-offsets"), &request, VERSION)?;
        let answer = peer.call(frame).await?;
        Ok(decode_response(&answer, VERSION)?.1)
    };
    timeout(PATIENCE, talk).await.unwrap_or(Err(Unanswered::Late))
}

fn end_in(response: &ListOffsetsResponse, (topic, partition): &Name) -> Ends {
    let topics = response.topics.iter().filter(|t| *t.name == **topic);
    let mut partitions = topics.flat_map(|t| &t.partitions);
    let found = partitions.find(|p| p.partition_index == *partition);
    match found {
        Some(p) if p.error_code == ErrorCode::None => Ok(p.offset),
        Some(p) => Err(p.error_code),
        None => Err(ErrorCode::UnknownServerError),
    }
}
