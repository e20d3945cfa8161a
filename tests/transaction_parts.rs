//! A real node as the leader of partitions and the coordinator of a group that take part in
//! transactions, by raw requests. First the transactions' coordinator is played by the test: markers,
//! aborted transactions, the last stable offset, pending offsets, and that all of it outlives
//! kill -9. Then with the node's own coordinator, and with librdkafka.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use vltava::{
    base::ErrorCode,
    net::{PeerClient, PeerConfig},
    testing::batches::Batch,
    wire::{
        Records,
        api::{
            cluster::InitProducerIdRequest,
            configs::{
                IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource,
                IncrementalAlterableConfig,
            },
            fetch::{FetchPartition, FetchRequest, FetchTopic, PartitionData},
            group_offsets::{OffsetFetchRequest, OffsetFetchRequestTopic},
            groups::FindCoordinatorRequest,
            offsets::{
                DescribeProducersRequest, DescribeProducersTopic, ListOffsetsPartition,
                ListOffsetsRequest, ListOffsetsTopic, ProducerState,
            },
            produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData},
            topics::{CreatableTopic, CreateTopicsRequest},
            txn::{
                EndTxnRequest, TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition,
                TxnOffsetCommitRequestTopic, WritableTxnMarker, WritableTxnMarkerTopic,
                WriteTxnMarkersRequest,
            },
        },
        frame::{decode_response, encode_request},
        message::Request,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);
const READ_COMMITTED: i8 = 1;
const OFFSETS: &str = "__consumer_offsets";

struct Node {
    config: PathBuf,
    port: u16,
    process: Child,
}

fn vltava(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vltava"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Node {
    async fn start(dir: &Path, verifies: bool) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (port, controller) = (free(), free());
        let config = dir.join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=2\ngroup.initial.rebalance.delay.ms=0\n\
             transaction.partition.verification.enable={verifies}\nvltava.log.file={}\n",
            dir.join("data").display(),
            dir.join("node.log").display(),
        );
        fs::write(&config, text).unwrap();
        let file = config.to_str().unwrap();
        let id = "AAAAAAAAAAAAAAAAAAAABA";
        assert!(vltava(&["storage", "format", "-t", id, "-c", file]).status().unwrap().success());
        let process = vltava(&["server", "start", file]).spawn().unwrap();
        let node = Self { config, port, process };
        node.await_listening().await;
        node
    }

    async fn await_listening(&self) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "the node does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn kill_and_restart(&mut self) -> Client {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let file = self.config.to_str().unwrap();
        self.process = vltava(&["server", "start", file]).spawn().unwrap();
        self.await_listening().await;
        self.client().await
    }

    async fn client(&self) -> Client {
        let config = PeerConfig { request_timeout: PATIENCE, ..PeerConfig::new() };
        Client(PeerClient::connect("127.0.0.1", self.port, &config).await.unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client(PeerClient);

impl Client {
    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let frame = encode_request(1, Some("test"), request, version).unwrap();
        let answer = self.0.call(frame).await.unwrap();
        decode_response(&answer, version).unwrap().1
    }

    /// Code and base offset.
    async fn produce(&mut self, id: Option<&str>, batch: &Batch, version: i16) -> (ErrorCode, i64) {
        let records = Records::Bytes(batch.bytes().into());
        let request = ProduceRequest {
            transactional_id: id.map(str::to_owned),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![TopicProduceData {
                name: "t".to_owned(),
                partition_data: vec![PartitionProduceData { index: 0, records }],
                ..Default::default()
            }],
        };
        let answer = self.ask(&request, version).await;
        let p = &answer.responses[0].partition_responses[0];
        (p.error_code, p.base_offset)
    }

    async fn end_txn(
        &mut self,
        topic: &str,
        (producer_id, producer_epoch): (i64, i16),
        commit: bool,
        coordinator_epoch: i32,
        transaction_version: i8,
    ) -> ErrorCode {
        let topics =
            vec![WritableTxnMarkerTopic { name: topic.to_owned(), partition_indexes: vec![0] }];
        let marker = WritableTxnMarker {
            producer_id,
            producer_epoch,
            transaction_result: commit,
            topics,
            coordinator_epoch,
            transaction_version,
        };
        let request = WriteTxnMarkersRequest { markers: vec![marker] };
        let answer = self.ask(&request, 2).await;
        assert_eq!(answer.markers[0].producer_id, producer_id);
        answer.markers[0].topics[0].partitions[0].error_code
    }

    async fn end_offset(&mut self, isolation_level: i8) -> i64 {
        let partition = ListOffsetsPartition { timestamp: -1, ..Default::default() };
        let topics = vec![ListOffsetsTopic { name: "t".to_owned(), partitions: vec![partition] }];
        let request =
            ListOffsetsRequest { replica_id: -1, isolation_level, topics, ..Default::default() };
        let answer = self.ask(&request, 7).await;
        answer.topics[0].partitions[0].offset
    }

    async fn fetch(&mut self, fetch_offset: i64, max_wait_ms: i32) -> PartitionData {
        let partition =
            FetchPartition { fetch_offset, partition_max_bytes: 1 << 20, ..Default::default() };
        let request = FetchRequest {
            max_wait_ms,
            min_bytes: 1,
            isolation_level: READ_COMMITTED,
            topics: vec![FetchTopic {
                topic: "t".to_owned(),
                partitions: vec![partition],
                ..Default::default()
            }],
            ..Default::default()
        };
        let mut answer = self.ask(&request, 12).await;
        answer.responses.remove(0).partitions.remove(0)
    }

    async fn producers(&mut self) -> Vec<ProducerState> {
        let topic = DescribeProducersTopic { name: "t".to_owned(), partition_indexes: vec![0] };
        let mut answer = self.ask(&DescribeProducersRequest { topics: vec![topic] }, 0).await;
        answer.topics.remove(0).partitions.remove(0).active_producers
    }

    async fn commit_offset(&mut self, producer_id: i64, offset: i64, version: i16) -> ErrorCode {
        self.commit_offset_as((producer_id, 0), offset, version).await
    }

    async fn commit_offset_as(
        &mut self,
        (producer_id, producer_epoch): (i64, i16),
        offset: i64,
        version: i16,
    ) -> ErrorCode {
        let request = TxnOffsetCommitRequest {
            transactional_id: "x".to_owned(),
            group_id: "g".to_owned(),
            producer_id,
            producer_epoch,
            topics: vec![TxnOffsetCommitRequestTopic {
                name: "t".to_owned(),
                partitions: vec![TxnOffsetCommitRequestPartition {
                    partition_index: 0,
                    committed_offset: offset,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let start = Instant::now();
        loop {
            let answer = self.ask(&request, version).await;
            match answer.topics[0].partitions[0].error_code {
                ErrorCode::CoordinatorLoadInProgress | ErrorCode::NotCoordinator
                    if start.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                code => return code,
            }
        }
    }

    async fn committed_offset(&mut self, require_stable: bool) -> (ErrorCode, i64) {
        let topic = OffsetFetchRequestTopic { name: "t".to_owned(), partition_indexes: vec![0] };
        let request = OffsetFetchRequest {
            group_id: "g".to_owned(),
            topics: Some(vec![topic]),
            require_stable,
            ..Default::default()
        };
        let start = Instant::now();
        loop {
            let answer = self.ask(&request, 7).await;
            match answer.error_code {
                ErrorCode::None => {
                    let p = &answer.topics[0].partitions[0];
                    return (p.error_code, p.committed_offset);
                }
                code => assert!(start.elapsed() < PATIENCE, "{code:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Finds the coordinator of transactions, which makes its topic, and begins as "x".
    async fn init_producer(&mut self) -> (i64, i16) {
        let start = Instant::now();
        let find =
            FindCoordinatorRequest { key: "x".to_owned(), key_type: 1, ..Default::default() };
        let init = InitProducerIdRequest {
            transactional_id: Some("x".to_owned()),
            transaction_timeout_ms: 60_000,
            ..Default::default()
        };
        loop {
            let _ = self.ask(&find, 2).await;
            let begun = self.ask(&init, 5).await;
            if begun.error_code == ErrorCode::None {
                return (begun.producer_id, begun.producer_epoch);
            }
            assert!(start.elapsed() < PATIENCE, "{:?}", begun.error_code);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends the transaction of "x": who the producer is from then on.
    async fn finish(&mut self, producer: (i64, i16), committed: bool) -> (ErrorCode, i64, i16) {
        let request = EndTxnRequest {
            transactional_id: "x".to_owned(),
            producer_id: producer.0,
            producer_epoch: producer.1,
            committed,
        };
        let ended = self.ask(&request, 5).await;
        (ended.error_code, ended.producer_id, ended.producer_epoch)
    }

    async fn await_stable(&mut self, offset: i64) {
        let start = Instant::now();
        while self.end_offset(READ_COMMITTED).await != offset {
            assert!(start.elapsed() < PATIENCE, "the last stable offset is not {offset}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn create_topics(&mut self) {
        let topic = CreatableTopic {
            name: "t".to_owned(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        let create =
            CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        assert_eq!(self.ask(&create, 5).await.topics[0].error_code, ErrorCode::None);
        let start = Instant::now();
        let find = FindCoordinatorRequest { key: "g".to_owned(), ..Default::default() };
        while self.ask(&find, 2).await.error_code != ErrorCode::None {
            assert!(start.elapsed() < PATIENCE, "no coordinator");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while self.end_offset(0).await != 0 {
            assert!(start.elapsed() < PATIENCE, "no leader");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn batch(producer: i64, epoch: i16, sequence: i32) -> Batch {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let now = i64::try_from(now.as_millis()).unwrap();
    Batch::of(2, 10, now).by(producer, epoch, sequence)
}

#[tokio::test]
async fn a_leaders_part_in_transactions() {
    use ErrorCode as E;
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), false).await;
    let mut c = node.client().await;
    c.create_topics().await;

    let (first, second) = (batch(7, 0, 0).in_txn(), batch(7, 0, 2).in_txn());
    assert_eq!(c.produce(None, &first, 11).await.0, E::TransactionalIdAuthorizationFailed);
    assert_eq!(c.produce(Some("x"), &first, 11).await, (E::None, 0));
    assert_eq!(c.produce(Some("x"), &second, 11).await, (E::None, 2));
    assert_eq!(c.produce(Some("x"), &first, 11).await, (E::None, 0), "a repeated batch");
    assert_eq!(c.produce(None, &batch(7, 0, 4), 11).await.0, E::InvalidTxnState);
    assert_eq!((c.end_offset(0).await, c.end_offset(READ_COMMITTED).await), (4, 0));

    // A reader that waits is answered when the transaction ends, and told what to leave out.
    let mut reader = node.client().await;
    let parked = tokio::spawn(async move { reader.fetch(0, 50_000).await });
    let now = c.fetch(0, 0).await;
    assert_eq!((now.high_watermark, now.last_stable_offset, now.records.len()), (4, 0, 0));
    assert_eq!(c.end_txn("t", (7, 0), false, 3, 1).await, E::None);
    let got = parked.await.unwrap();
    assert_eq!((got.high_watermark, got.last_stable_offset), (5, 5));
    let aborted = got.aborted_transactions.unwrap();
    assert_eq!((aborted[0].producer_id, aborted[0].first_offset, aborted.len()), (7, 0, 1));
    assert!(!got.records.is_empty());
    assert_eq!(c.end_txn("t", (7, 0), false, 2, 1).await, E::TransactionCoordinatorFenced);
    assert_eq!(c.end_txn("gone", (7, 0), false, 3, 1).await, E::UnknownTopicOrPartition);

    // What is open stays open over a crash, and version 2 ends it with the next epoch.
    assert_eq!(c.produce(Some("x"), &batch(7, 1, 0).in_txn(), 11).await, (E::None, 5));
    let mut c = node.kill_and_restart().await;
    assert_eq!((c.end_offset(0).await, c.end_offset(READ_COMMITTED).await), (7, 5));
    let state = c.producers().await.remove(0);
    assert_eq!((state.producer_id, state.producer_epoch, state.last_sequence), (7, 1, 1));
    assert_eq!((state.coordinator_epoch, state.current_txn_start_offset), (3, 5));
    assert_eq!(c.end_txn("t", (7, 1), true, 3, 2).await, E::InvalidProducerEpoch);
    assert_eq!(c.end_txn("t", (7, 2), true, 3, 2).await, E::None);
    assert_eq!(c.end_offset(READ_COMMITTED).await, 8);
    assert_eq!(c.end_txn("t", (7, 2), true, 3, 2).await, E::None, "its answer may be lost");
    let state = c.producers().await.remove(0);
    assert_eq!((state.producer_epoch, state.current_txn_start_offset), (2, -1));
    assert!(c.fetch(5, 0).await.aborted_transactions.unwrap().is_empty());

    // A transaction that nobody can vouch for does not begin.
    let verify = IncrementalAlterConfigsResource {
        resource_type: 4,
        resource_name: String::new(),
        configs: vec![IncrementalAlterableConfig {
            name: "transaction.partition.verification.enable".to_owned(),
            config_operation: 0,
            value: Some("true".to_owned()),
        }],
    };
    let alter = IncrementalAlterConfigsRequest { resources: vec![verify], validate_only: false };
    assert_eq!(c.ask(&alter, 1).await.responses[0].error_code, E::None);
    let start = Instant::now();
    let unverified = batch(9, 0, 0).in_txn();
    let mut epoch = 0;
    loop {
        let probe = batch(10, epoch, 0).in_txn();
        let (code, _) = c.produce(Some("y"), &probe, 11).await;
        if code == E::NotEnoughReplicas {
            break;
        }
        assert!(code == E::None && start.elapsed() < PATIENCE, "{code:?}");
        epoch += 1;
    }
    assert_eq!(c.produce(Some("y"), &unverified, 12).await.0, E::NotEnoughReplicas);
    assert_eq!(c.commit_offset(9, 1, 3).await, E::CoordinatorNotAvailable);
}

#[tokio::test]
async fn a_groups_part_in_transactions() {
    use ErrorCode as E;
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), false).await;
    let mut c = node.client().await;
    c.create_topics().await;

    assert_eq!(c.commit_offset(7, 5, 3).await, E::None);
    assert_eq!(c.committed_offset(false).await, (E::None, -1));
    assert_eq!(c.committed_offset(true).await, (E::UnstableOffsetCommit, -1));
    let mut c = node.kill_and_restart().await;
    assert_eq!(c.committed_offset(true).await, (E::UnstableOffsetCommit, -1));
    assert_eq!(c.end_txn(OFFSETS, (7, 0), true, 0, 1).await, E::None);
    assert_eq!(c.committed_offset(true).await, (E::None, 5));
    assert_eq!(c.commit_offset(8, 6, 3).await, E::None);
    assert_eq!(c.end_txn(OFFSETS, (8, 1), false, 0, 2).await, E::None);
    assert_eq!(c.commit_offset(8, 7, 3).await, E::InvalidProducerEpoch, "fenced by the marker");
    let mut c = node.kill_and_restart().await;
    assert_eq!(c.committed_offset(true).await, (E::None, 5));
}

/// Version 2 of transactions: the client adds no partition, and takes a new epoch each time.
#[tokio::test]
async fn brokers_add_partitions_of_clients_that_leave_it_to_them() {
    use ErrorCode as E;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), true).await;
    let mut c = node.client().await;
    c.create_topics().await;
    let (id, epoch) = c.init_producer().await;

    // Only to be verified, and never added.
    let first = batch(id, epoch, 0).in_txn();
    assert_eq!(c.produce(Some("x"), &first, 11).await.0, E::TransactionAbortable);
    assert_eq!(c.produce(Some("x"), &first, 10).await.0, E::InvalidTxnState);

    // Two batches on one connection, the second before the first is answered.
    let request = |batch: &Batch| ProduceRequest {
        transactional_id: Some("x".to_owned()),
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: "t".to_owned(),
            partition_data: vec![PartitionProduceData {
                index: 0,
                records: Records::Bytes(batch.bytes().into()),
            }],
            ..Default::default()
        }],
    };
    for sequence in [0, 2, 4] {
        let request = request(&batch(id, epoch, sequence).in_txn());
        c.0.send(encode_request(sequence, Some("test"), &request, 12).unwrap()).await.unwrap();
    }
    for offset in [0, 2, 4] {
        let answer = c.0.receive().await.unwrap();
        let (_, answer) = decode_response::<ProduceResponse>(&answer, 12).unwrap();
        let p = &answer.responses[0].partition_responses[0];
        assert_eq!((p.error_code, p.base_offset), (E::None, offset));
    }
    assert_eq!(c.commit_offset_as((id, epoch), 6, 5).await, E::None);
    assert_eq!(c.committed_offset(true).await, (E::UnstableOffsetCommit, -1));
    assert_eq!(c.end_offset(READ_COMMITTED).await, 0);

    let (error, same, next) = c.finish((id, epoch), true).await;
    assert_eq!((error, same, next), (E::None, id, epoch + 1));
    c.await_stable(7).await;
    // The next transaction follows at once, be the markers of the last written or not.
    assert_eq!(c.produce(Some("x"), &batch(id, next, 0).in_txn(), 12).await, (E::None, 7));
    assert_eq!(
        c.produce(Some("x"), &batch(id, epoch, 6).in_txn(), 12).await.0,
        E::InvalidProducerEpoch
    );
    let start = Instant::now();
    while c.committed_offset(true).await != (E::None, 6) {
        assert!(start.elapsed() < PATIENCE, "the offset is not committed");
    }
    let (error, _, last) = c.finish((id, next), false).await;
    assert_eq!((error, last), (E::None, next + 1));
    c.await_stable(10).await;
    let aborted = c.fetch(0, 0).await.aborted_transactions.unwrap();
    assert_eq!((aborted.len(), aborted[0].first_offset), (1, 7));
}

/// From topic `t` into itself: reads, writes, commits offsets in the transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn librdkafka_reads_what_was_committed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::start(dir.path(), true).await;
    node.client().await.create_topics().await;
    let config = || {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", format!("127.0.0.1:{}", node.port));
        config
    };
    let producer: BaseProducer = config().set("transactional.id", "x").create().unwrap();
    let consumer: BaseConsumer = config()
        .set("group.id", "g")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    let send = |from: i32, to: i32| {
        for n in from..to {
            let value = n.to_string();
            producer.send(BaseRecord::<(), _>::to("t").payload(&value)).unwrap();
        }
    };
    let offsets = |offset: i64| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Offset(offset)).unwrap();
        let of = consumer.group_metadata().unwrap();
        producer.send_offsets_to_transaction(&list, &of, PATIENCE).unwrap();
    };
    for (from, commit) in [(0, true), (100, false), (200, true), (300, false), (400, true)] {
        producer.begin_transaction().unwrap();
        send(from, from + 50);
        if commit {
            offsets(i64::from(from));
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            offsets(i64::from(from));
            producer.flush(PATIENCE).unwrap();
            producer.abort_transaction(PATIENCE).unwrap();
        }
    }
    // One that stays open.
    producer.begin_transaction().unwrap();
    send(500, 550);
    producer.flush(PATIENCE).unwrap();
    drop(consumer);

    let read = |port: u16, want: usize| {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", format!("127.0.0.1:{port}"))
            .set("group.id", "reader")
            .set("isolation.level", "read_committed")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", 0, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let (mut got, start) = (Vec::new(), Instant::now());
        while got.len() < want {
            assert!(start.elapsed() < PATIENCE, "{} of {want}", got.len());
            if let Some(Ok(m)) = consumer.poll(Duration::from_millis(100)) {
                let value = std::str::from_utf8(m.payload().unwrap()).unwrap();
                got.push(value.parse::<i32>().unwrap());
            }
        }
        assert!(consumer.poll(Duration::from_millis(300)).is_none(), "nothing that is open");
        got
    };
    let committed = |starts: &[i32]| starts.iter().flat_map(|s| *s..*s + 50).collect::<Vec<_>>();
    assert_eq!(read(node.port, 150), committed(&[0, 200, 400]));
    let mut c = node.client().await;
    assert_eq!(c.committed_offset(true).await, (ErrorCode::None, 400));

    // A crash in the open transaction: the producer goes on with it, and commits.
    let port = node.port;
    let mut c2 = node.kill_and_restart().await;
    assert_eq!(c2.committed_offset(true).await, (ErrorCode::None, 400));
    producer.commit_transaction(PATIENCE).unwrap();
    assert_eq!(read(port, 200), committed(&[0, 200, 400, 500]));
}
