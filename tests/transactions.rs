//! Transactions from end to end, with real nodes: librdkafka as a transactional producer, as a
//! consumer of committed records, and as both in one (consume, transform, produce); zombies; timed
//! out transactions; kill -9 of the coordinator and of leaders in the middle; and raw requests for
//! what librdkafka does not speak yet (an epoch for each transaction, KIP-890).

mod nodes;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use nodes::{Node, PATIENCE};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
};
use vltava::{
    base::ErrorCode,
    net::{PeerClient, PeerConfig},
    testing::batches::Batch,
    wire::{
        Records,
        api::{
            cluster::InitProducerIdRequest,
            groups::FindCoordinatorRequest,
            produce::{PartitionProduceData, ProduceRequest, TopicProduceData},
            txn::{
                DescribeTransactionsRequest, DescribedTransactionState, EndTxnRequest,
                ListTransactionsRequest, ListedTransactionState, TxnOffsetCommitRequest,
                TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
            },
        },
        frame::{decode_response, encode_request},
        message::Request,
    },
};

type Transactional = ThreadedProducer<DefaultProducerContext>;

/// Nodes that end with it.
struct Cluster {
    nodes: Vec<Node>,
}

impl Cluster {
    fn start(count: usize, extra: &str) -> Self {
        let rf = count.min(3);
        let settings = format!(
            "offsets.topic.replication.factor={rf}\noffsets.topic.num.partitions=3\n\
             transaction.state.log.replication.factor={rf}\n\
             transaction.state.log.min.isr={}\ntransaction.state.log.num.partitions=3\n\
             group.initial.rebalance.delay.ms=0\n{extra}",
            rf.min(2),
        );
        Self { nodes: Node::cluster(count, &settings) }
    }

    fn client(&self) -> ClientConfig {
        let servers: Vec<_> = self.nodes.iter().map(|n| format!("127.0.0.1:{}", n.port)).collect();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers.join(","));
        config.set("retry.backoff.ms", "20").set("reconnect.backoff.max.ms", "200");
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    fn create(&self, topic: &str, partitions: i32) {
        let admin: AdminClient<DefaultClientContext> = self.client().create().unwrap();
        let rf = i32::try_from(self.nodes.len().min(3)).unwrap();
        let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(rf))
            .set("min.insync.replicas", if rf > 1 { "2" } else { "1" });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }

    fn producer(&self, id: &str, extra: &[(&str, &str)]) -> Transactional {
        let mut config = self.client();
        config.set("transactional.id", id).set("transaction.timeout.ms", "60000");
        config.set("linger.ms", "0");
        for (key, value) in extra {
            config.set(*key, *value);
        }
        let producer: Transactional = config.create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer
    }

    fn consumer(&self, group: &str, isolation: &str) -> BaseConsumer {
        let mut config = self.client();
        config.set("group.id", group).set("auto.offset.reset", "earliest");
        config.set("enable.auto.commit", "false").set("isolation.level", isolation);
        config.create().unwrap()
    }

    /// All values of `topic` from its beginning that a consumer sees until there are `count`, and
    /// whatever comes shortly after.
    fn values(&self, topic: &str, partitions: i32, isolation: &str, count: usize) -> Vec<String> {
        let consumer = self.consumer("reader", isolation);
        let mut all = TopicPartitionList::new();
        for p in 0..partitions {
            all.add_partition_offset(topic, p, Offset::Beginning).unwrap();
        }
        consumer.assign(&all).unwrap();
        let (mut seen, start) = (Vec::new(), Instant::now());
        while seen.len() < count && start.elapsed() < PATIENCE {
            seen.extend(consumer.poll(Duration::from_millis(100)).and_then(value));
        }
        seen.extend(consumer.poll(Duration::from_millis(500)).and_then(value));
        seen.sort();
        seen
    }
}

fn value(message: Result<rdkafka::message::BorrowedMessage<'_>, KafkaError>) -> Option<String> {
    Some(String::from_utf8(message.ok()?.payload()?.to_vec()).unwrap())
}

fn send(producer: &Transactional, topic: &str, partition: i32, value: &str) {
    let record = BaseRecord::<str, str>::to(topic).partition(partition).payload(value);
    if let Err((error, _)) = producer.send(record) {
        panic!("{error}");
    }
}

fn code(error: &KafkaError) -> Option<RDKafkaErrorCode> {
    match error {
        KafkaError::Transaction(e) => Some(e.code()),
        e => e.rdkafka_error_code(),
    }
}

#[test]
fn committed_records_are_read_and_aborted_ones_are_not() {
    let cluster = Cluster::start(1, "");
    cluster.create("t", 2);
    let producer = cluster.producer("tx", &[]);
    for (n, commit) in [(0, true), (1, false), (2, true)] {
        producer.begin_transaction().unwrap();
        for partition in 0..2 {
            send(&producer, "t", partition, &format!("{n}-{partition}"));
        }
        if commit {
            producer.commit_transaction(PATIENCE).unwrap();
        } else {
            producer.flush(PATIENCE).unwrap();
            producer.abort_transaction(PATIENCE).unwrap();
        }
    }
    assert_eq!(cluster.values("t", 2, "read_committed", 4), ["0-0", "0-1", "2-0", "2-1"]);
    assert_eq!(cluster.values("t", 2, "read_uncommitted", 6).len(), 6);

    // What is open is not read, nor is anything behind it.
    producer.begin_transaction().unwrap();
    send(&producer, "t", 0, "open");
    producer.flush(PATIENCE).unwrap();
    let behind = cluster.producer("other", &[]);
    behind.begin_transaction().unwrap();
    send(&behind, "t", 0, "behind");
    behind.commit_transaction(PATIENCE).unwrap();
    assert_eq!(cluster.values("t", 1, "read_committed", 2), ["0-0", "2-0"]);
    producer.commit_transaction(PATIENCE).unwrap();
    assert_eq!(cluster.values("t", 1, "read_committed", 4), ["0-0", "2-0", "behind", "open"]);
}

#[test]
fn a_zombie_is_fenced_and_its_transaction_aborted() {
    let cluster = Cluster::start(1, "");
    cluster.create("t", 1);
    let zombie = cluster.producer("tx", &[]);
    zombie.begin_transaction().unwrap();
    send(&zombie, "t", 0, "zombie");
    zombie.flush(PATIENCE).unwrap();
    let next = cluster.producer("tx", &[]);
    next.begin_transaction().unwrap();
    send(&next, "t", 0, "next");
    next.commit_transaction(PATIENCE).unwrap();
    let error = zombie.commit_transaction(PATIENCE).unwrap_err();
    let fenced = [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::InvalidProducerEpoch];
    assert!(code(&error).is_some_and(|c| fenced.contains(&c)), "{error:?}");
    assert_eq!(cluster.values("t", 1, "read_committed", 1), ["next"]);
}

#[test]
fn a_transaction_that_is_open_for_too_long_is_aborted() {
    let cluster =
        Cluster::start(1, "transaction.abort.timed.out.transaction.cleanup.interval.ms=200\n");
    cluster.create("t", 1);
    let slow = cluster.producer("slow", &[("transaction.timeout.ms", "1000")]);
    slow.begin_transaction().unwrap();
    send(&slow, "t", 0, "slow");
    slow.flush(PATIENCE).unwrap();
    let other = cluster.producer("other", &[]);
    other.begin_transaction().unwrap();
    send(&other, "t", 0, "other");
    other.commit_transaction(PATIENCE).unwrap();
    // It is readable only once the one before it is over.
    assert_eq!(cluster.values("t", 1, "read_committed", 1), ["other"]);
    assert!(slow.commit_transaction(PATIENCE).is_err());
}

#[test]
fn offsets_are_committed_with_what_was_made_of_the_records() {
    let mut cluster = Cluster::start(1, "");
    cluster.create("in", 1);
    cluster.create("out", 1);
    let source = cluster.producer("source", &[]);
    source.begin_transaction().unwrap();
    for n in 0..40 {
        send(&source, "in", 0, &n.to_string());
    }
    source.commit_transaction(PATIENCE).unwrap();
    drop(source);

    // One life of the application: it works off what it gets, and dies without notice after so many
    // transactions, in the middle of one.
    let live = |cluster: &Cluster, transactions: usize| {
        let consumer = cluster.consumer("app", "read_committed");
        consumer.subscribe(&["in"]).unwrap();
        let producer = cluster.producer("app", &[]);
        let (mut done, start) = (0, Instant::now());
        while done <= transactions {
            assert!(start.elapsed() < PATIENCE, "the application stands still");
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
            let message = message.unwrap();
            producer.begin_transaction().unwrap();
            let text = String::from_utf8(message.payload().unwrap().to_vec()).unwrap();
            send(&producer, "out", 0, &format!("made of {text:0>2}"));
            let mut at = TopicPartitionList::new();
            at.add_partition_offset("in", 0, Offset::Offset(message.offset() + 1)).unwrap();
            let group = consumer.group_metadata().unwrap();
            producer.send_offsets_to_transaction(&at, &group, PATIENCE).unwrap();
            done += 1;
            match done {
                _ if done > transactions => producer.flush(PATIENCE).unwrap(),
                // Some are given up, and done again.
                _ if done % 5 == 0 => {
                    producer.abort_transaction(PATIENCE).unwrap();
                    consumer.seek("in", 0, Offset::Offset(message.offset()), PATIENCE).unwrap();
                }
                _ => producer.commit_transaction(PATIENCE).unwrap(),
            }
        }
    };
    live(&cluster, 12);
    cluster.nodes[0].kill();
    cluster.nodes[0].restart();
    live(&cluster, 12);
    live(&cluster, 19);
    let expected: Vec<_> = (0..36).map(|n| format!("made of {n:0>2}")).collect();
    let made = cluster.values("out", 1, "read_committed", expected.len());
    assert_eq!(made, expected, "each once");
}

/// Transactions of one record for each of 3 partitions, while nodes are killed.
#[test]
fn transactions_are_whole_when_coordinators_and_leaders_are_killed() {
    let mut cluster = Cluster::start(3, "broker.session.timeout.ms=3000\n");
    cluster.create("t", 3);
    let (mut committed, mut aborted) = (BTreeSet::new(), BTreeSet::new());
    let (mut life, mut unknown) = (0, BTreeSet::new());
    let mut producer = cluster.producer("tx", &[]);
    let mut down: Option<usize> = None;
    for n in 0..60 {
        if n % 10 == 3 {
            // While its transaction may be anywhere.
            cluster.nodes[life % 3].kill();
            down = Some(life % 3);
            life += 1;
        }
        if n % 10 == 8
            && let Some(node) = down.take()
        {
            cluster.nodes[node].restart();
        }
        let done = one_transaction(&producer, n);
        match done {
            Ok(true) => _ = committed.insert(n),
            Ok(false) => _ = aborted.insert(n),
            Err(_) => {
                unknown.insert(n);
                producer = cluster.producer("tx", &[]);
            }
        }
    }
    if let Some(node) = down.take() {
        cluster.nodes[node].restart();
    }
    assert!(committed.len() >= 30, "{} were committed, {unknown:?} unknown", committed.len());
    // Whatever is open is ended by the next life.
    drop(producer);
    drop(cluster.producer("tx", &[]));
    let seen = cluster.values("t", 3, "read_committed", committed.len() * 3);
    let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
    for value in &seen {
        *counts.entry(value.split('-').next().unwrap().parse().unwrap()).or_default() += 1;
    }
    for n in 0..60 {
        match counts.get(&n).copied().unwrap_or(0) {
            3 => assert!(!aborted.contains(&n), "{n} was aborted"),
            0 => assert!(!committed.contains(&n), "{n} was committed"),
            some => panic!("{some} records of transaction {n}"),
        }
    }
}

/// Whether it was committed; an error if that cannot be known with this producer.
fn one_transaction(producer: &Transactional, n: i32) -> Result<bool, KafkaError> {
    producer.begin_transaction()?;
    for partition in 0..3 {
        send(producer, "t", partition, &format!("{n}-{partition}"));
    }
    let commit = n % 7 != 0;
    let mut ended = if commit { producer.commit_transaction(PATIENCE) } else { abort(producer) };
    loop {
        match ended {
            Ok(()) => return Ok(commit),
            Err(KafkaError::Transaction(ref e)) if e.is_retriable() => {
                ended =
                    if commit { producer.commit_transaction(PATIENCE) } else { abort(producer) };
            }
            Err(KafkaError::Transaction(ref e)) if e.txn_requires_abort() => {
                abort(producer)?;
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
    }
}

fn abort(producer: &Transactional) -> Result<(), KafkaError> {
    loop {
        match producer.abort_transaction(PATIENCE) {
            Err(KafkaError::Transaction(ref e)) if e.is_retriable() => {}
            done => return done,
        }
    }
}

// Raw requests.

struct Raw(PeerClient);

impl Raw {
    async fn connect(node: &Node) -> Self {
        let config = PeerConfig { request_timeout: PATIENCE, ..PeerConfig::new() };
        Self(PeerClient::connect("127.0.0.1", node.port, &config).await.unwrap())
    }

    async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let frame = encode_request(1, Some("test"), request, version).unwrap();
        let answer = self.0.call(frame).await.unwrap();
        decode_response(&answer, version).unwrap().1
    }

    async fn await_coordinator(&mut self, key_type: i8) {
        let request = FindCoordinatorRequest {
            key_type,
            coordinator_keys: vec!["tx".to_owned()],
            ..Default::default()
        };
        let start = Instant::now();
        while self.ask(&request, 6).await.coordinators[0].error_code != ErrorCode::None {
            assert!(start.elapsed() < PATIENCE, "no coordinator");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Retries what is to be retried.
    async fn init(&mut self, version: i16, claim: (i64, i16)) -> (ErrorCode, i64, i16) {
        let request = InitProducerIdRequest {
            transactional_id: Some("tx".to_owned()),
            transaction_timeout_ms: 60_000,
            producer_id: claim.0,
            producer_epoch: claim.1,
        };
        let start = Instant::now();
        loop {
            let r = self.ask(&request, version).await;
            if !r.error_code.is_retriable() {
                return (r.error_code, r.producer_id, r.producer_epoch);
            }
            assert!(start.elapsed() < PATIENCE, "{:?}", r.error_code);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn produce(&mut self, producer: (i64, i16), sequence: i32) -> ErrorCode {
        let batch = Batch::of(1, 10, now_ms()).by(producer.0, producer.1, sequence);
        let records = Records::Bytes(batch.in_txn().bytes().into());
        let request = |name| ProduceRequest {
            transactional_id: Some("tx".to_owned()),
            acks: -1,
            timeout_ms: 30_000,
            topic_data: vec![TopicProduceData {
                name,
                partition_data: vec![PartitionProduceData { index: 0, records: records.clone() }],
                ..Default::default()
            }],
        };
        let start = Instant::now();
        loop {
            let r = self.ask(&request("t".to_owned()), 12).await;
            let code = r.responses[0].partition_responses[0].error_code;
            if !code.is_retriable() || start.elapsed() > PATIENCE {
                return code;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn commit_offset(&mut self, producer: (i64, i16), offset: i64) -> ErrorCode {
        let request = TxnOffsetCommitRequest {
            transactional_id: "tx".to_owned(),
            group_id: "tx".to_owned(),
            producer_id: producer.0,
            producer_epoch: producer.1,
            topics: vec![TxnOffsetCommitRequestTopic {
                name: "t".to_owned(),
                partitions: vec![TxnOffsetCommitRequestPartition {
                    committed_offset: offset,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        let start = Instant::now();
        loop {
            let code = self.ask(&request, 5).await.topics[0].partitions[0].error_code;
            if !code.is_retriable() || start.elapsed() > PATIENCE {
                return code;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(&mut self, producer: (i64, i16), committed: bool) -> (ErrorCode, i64, i16) {
        let request = EndTxnRequest {
            transactional_id: "tx".to_owned(),
            producer_id: producer.0,
            producer_epoch: producer.1,
            committed,
        };
        let start = Instant::now();
        loop {
            let r = self.ask(&request, 5).await;
            if !r.error_code.is_retriable() {
                return (r.error_code, r.producer_id, r.producer_epoch);
            }
            assert!(start.elapsed() < PATIENCE, "{:?}", r.error_code);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn describe(&mut self) -> DescribedTransactionState {
        let request = DescribeTransactionsRequest { transactional_ids: vec!["tx".to_owned()] };
        self.ask(&request, 0).await.transaction_states.remove(0)
    }

    async fn list(&mut self, request: ListTransactionsRequest) -> Vec<ListedTransactionState> {
        self.ask(&request, 2).await.transaction_states
    }
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_transaction_has_an_epoch_and_partitions_are_added_by_brokers() {
    let mut cluster = tokio::task::spawn_blocking(|| Cluster::start(1, "")).await.unwrap();
    let create = |cluster: Cluster| {
        cluster.create("t", 1);
        cluster
    };
    cluster = tokio::task::spawn_blocking(move || create(cluster)).await.unwrap();
    let mut raw = Raw::connect(&cluster.nodes[0]).await;
    raw.await_coordinator(0).await;
    raw.await_coordinator(1).await;
    let (code, id, epoch) = raw.init(5, (-1, -1)).await;
    assert_eq!((code, epoch), (ErrorCode::None, 0));
    assert_eq!(raw.describe().await.transaction_state, "Empty");

    // The producer adds nothing itself.
    assert_eq!(raw.produce((id, 0), 0).await, ErrorCode::None);
    assert_eq!(raw.commit_offset((id, 0), 7).await, ErrorCode::None);
    let open = raw.describe().await;
    assert_eq!((open.transaction_state.as_str(), open.producer_epoch), ("Ongoing", 0));
    let topics: Vec<_> = open.topics.iter().map(|t| t.topic.as_str()).collect();
    assert_eq!(topics, ["__consumer_offsets", "t"]);
    let ongoing = ListTransactionsRequest {
        state_filters: vec!["Ongoing".to_owned()],
        transactional_id_pattern: Some("t.".to_owned()),
        ..Default::default()
    };
    assert_eq!(raw.list(ongoing.clone()).await.len(), 1);
    let none = ListTransactionsRequest { transactional_id_pattern: Some("t".into()), ..ongoing };
    assert_eq!(raw.list(none.clone()).await, []);
    let bad = ListTransactionsRequest { transactional_id_pattern: Some("(".into()), ..none };
    assert_eq!(raw.ask(&bad, 2).await.error_code, ErrorCode::InvalidRegularExpression);

    // The next transaction has the next epoch; the one before is over for good. A repeated end is
    // told the same.
    assert_eq!(raw.end((id, 0), true).await, (ErrorCode::None, id, 1));
    assert_eq!(raw.end((id, 0), true).await, (ErrorCode::None, id, 1));
    assert_eq!(raw.produce((id, 0), 1).await, ErrorCode::InvalidProducerEpoch);
    assert_eq!(raw.end((id, 0), false).await.0, ErrorCode::InvalidTxnState);
    assert_eq!(raw.produce((id, 1), 0).await, ErrorCode::None);

    // The node dies with a transaction open, and another just decided.
    cluster.nodes[0].kill();
    let restart = |mut cluster: Cluster| {
        cluster.nodes[0].restart();
        cluster
    };
    cluster = tokio::task::spawn_blocking(move || restart(cluster)).await.unwrap();
    let mut raw = Raw::connect(&cluster.nodes[0]).await;
    raw.await_coordinator(1).await;
    assert_eq!(raw.end((id, 1), false).await, (ErrorCode::None, id, 2));
    // An abort of nothing takes an epoch too.
    assert_eq!(raw.end((id, 2), false).await, (ErrorCode::None, id, 3));
    assert_eq!(raw.end((id, 3), true).await.0, ErrorCode::InvalidTxnState);
    // A producer that lost its state says what it was.
    assert_eq!(raw.init(5, (id, 3)).await, (ErrorCode::None, id, 4));
    assert_eq!(raw.init(5, (id, 3)).await, (ErrorCode::None, id, 4));
    assert_eq!(raw.init(5, (id, 1)).await.0, ErrorCode::ProducerFenced);
    assert_eq!(raw.init(3, (id, 1)).await.0, ErrorCode::InvalidProducerEpoch);
    assert_eq!(raw.init(5, (-1, 3)).await.0, ErrorCode::InvalidRequest);
    let read = move || {
        let values = cluster.values("t", 1, "read_committed", 1).len();
        (cluster, values)
    };
    let (_cluster, values) = tokio::task::spawn_blocking(read).await.unwrap();
    assert_eq!(values, 1, "the first transaction's record alone");
}
