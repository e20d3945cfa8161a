//! Real nodes for the tests of share groups, and raw frames to them. Each test uses a part of it.

#![allow(dead_code)]

use std::time::{Duration, Instant};

use vltava::{
    base::{ErrorCode, Uuid},
    net::{NetError, PeerClient, PeerConfig},
    testing::batches::Batch,
    wire::{
        api::{
            groups::FindCoordinatorRequest,
            metadata::{MetadataRequest, MetadataRequestTopic},
            produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
            share_state::{
                InitializeShareGroupStateRequest, InitializeStateData, InitializeStatePartition,
            },
            topics::{CreatableTopic, CreateTopicsRequest},
        },
        frame::{decode_response, encode_request},
        message::Request,
        records::Records,
    },
};

#[path = "../nodes/mod.rs"]
mod nodes;
pub(crate) use nodes::{Node, PATIENCE};

pub(crate) const GROUP: &str = "g";

/// One node with the settings of [`cluster`].
pub(crate) fn start(extra: &str) -> Node {
    cluster(1, extra).remove(0)
}

/// Nodes whose share coordinator has two partitions, on all of them.
pub(crate) fn cluster(count: usize, extra: &str) -> Vec<Node> {
    let settings = format!(
        "share.coordinator.state.topic.replication.factor={count}\n\
         share.coordinator.state.topic.min.isr={}\n\
         share.coordinator.state.topic.num.partitions=2\n\
         transaction.state.log.replication.factor={count}\n\
         transaction.state.log.min.isr=1\n{extra}",
        count.min(2)
    );
    Node::cluster(count, &settings)
}

pub(crate) struct Raw(PeerClient);

impl Raw {
    pub(crate) async fn connect(port: u16) -> Self {
        let config = PeerConfig { request_timeout: PATIENCE, ..PeerConfig::new() };
        Self(PeerClient::connect("127.0.0.1", port, &config).await.unwrap())
    }

    pub(crate) async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let frame = encode_request(1, Some("test"), request, version).unwrap();
        let answer = self.0.call(frame).await.unwrap();
        decode_response(&answer, version).unwrap().1
    }

    /// A connection that may fail, on which an answer is waited for so long.
    pub(crate) async fn dial(port: u16, request_timeout: Duration) -> Result<Self, NetError> {
        let config = PeerConfig { request_timeout, ..PeerConfig::new() };
        Ok(Self(PeerClient::connect("127.0.0.1", port, &config).await?))
    }

    /// The answer, if one comes that can be read.
    pub(crate) async fn try_ask<R: Request>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Option<R::Response> {
        let frame = encode_request(1, Some("test"), request, version).unwrap();
        let answer = self.0.call(frame).await.ok()?;
        Some(decode_response(&answer, version).ok()?.1)
    }

    /// Creates a topic that the group reads from its start.
    pub(crate) async fn create(&mut self, name: &str) -> Uuid {
        self.create_with(name, 1).await
    }

    pub(crate) async fn create_with(&mut self, name: &str, replication_factor: i16) -> Uuid {
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: 1,
            replication_factor,
            ..Default::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let made = self.ask(&request, 7).await;
        assert_eq!(made.topics[0].error_code, ErrorCode::None);
        let topic = made.topics[0].topic_id;
        let start = Instant::now();
        while self.initialize(topic).await != ErrorCode::None {
            assert!(start.elapsed() < PATIENCE, "no coordinator");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        topic
    }

    async fn initialize(&mut self, topic_id: Uuid) -> ErrorCode {
        let coordinator = FindCoordinatorRequest {
            key_type: 2,
            coordinator_keys: vec![format!("{GROUP}:{topic_id}:0")],
            ..Default::default()
        };
        let found = self.ask(&coordinator, 6).await.coordinators.remove(0);
        if found.error_code != ErrorCode::None {
            return found.error_code;
        }
        let mut coordinator = Self::connect(u16::try_from(found.port).unwrap()).await;
        let p = InitializeStatePartition { partition: 0, state_epoch: 1, start_offset: 0 };
        let topic = InitializeStateData { topic_id, partitions: vec![p] };
        let group_id = GROUP.to_owned();
        let request = InitializeShareGroupStateRequest { group_id, topics: vec![topic] };
        coordinator.ask(&request, 0).await.results[0].partitions[0].error_code
    }

    /// The place of the node that leads the topic's partition, once it is another than `not`.
    pub(crate) async fn leader(&mut self, topic: &str, not: Option<usize>) -> usize {
        let named = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![named]), ..Default::default() };
        let start = Instant::now();
        loop {
            let answer = self.ask(&request, 12).await;
            let partition = answer.topics[0].partitions.first();
            let leader = partition.and_then(|p| usize::try_from(p.leader_id - 1).ok());
            match leader.filter(|l| Some(*l) != not) {
                Some(leader) => return leader,
                None => assert!(start.elapsed() < PATIENCE, "{answer:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn append(&mut self, topic: &str, batch: Batch) {
        self.append_as(topic, batch, None).await;
    }

    pub(crate) async fn append_as(
        &mut self,
        topic: &str,
        batch: Batch,
        transactional_id: Option<&str>,
    ) {
        let partition =
            PartitionProduceData { index: 0, records: Records::Bytes(batch.bytes().into()) };
        let topic = TopicProduceData {
            name: topic.to_owned(),
            partition_data: vec![partition],
            ..Default::default()
        };
        let request = ProduceRequest {
            transactional_id: transactional_id.map(str::to_owned),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![topic],
        };
        let done = self.ask(&request, 12).await;
        let code = done.responses[0].partition_responses[0].error_code;
        assert_eq!(code, ErrorCode::None);
    }
}
