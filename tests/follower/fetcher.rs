//! A fetcher against a leader that is told what to answer, over a real socket.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use vltava::{
    base::{ErrorCode, NodeId, Uuid},
    metadata::{
        Delta, Endpoint, Image, PartitionRegistration, Record, brokers::Brokers,
        record::RegisterBroker,
    },
    net::{
        ConnInfo, ConnectionLimits, ConnectionQuota, Dispatch, Listener, ListenerConfig,
        ListenerHandle, Memory, Response, Service, Shared,
    },
    replica::{
        fetch_driver::{FetchTerms, Fetchers},
        fetch_frames::FetchSize,
        publish::Following,
        table::Slot,
    },
    testing::{batches::Batch, clock::SimClock},
    wire::{
        ApiKey, Message, Reader, Records,
        api::{
            fetch::{
                EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, PartitionData,
            },
            offsets::{
                ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
                ListOffsetsTopicResponse,
            },
        },
        frame::{decode_request_header, encode_response},
    },
};

use crate::world::{Node, TOPIC_ID, ends, registration};

/// What the leader was asked, and the way to answer.
enum Asked {
    Fetch(FetchRequest, oneshot::Sender<FetchResponse>),
    Bounds(ListOffsetsRequest, oneshot::Sender<ListOffsetsResponse>),
}

struct Script(mpsc::UnboundedSender<Asked>);

impl Service for Script {
    type Session = ();

    fn open(&self, _: &ConnInfo) {}

    fn call(&self, _: &ConnInfo, _: &mut (), frame: Bytes) -> Dispatch {
        let mut r = Reader::new(&frame);
        let header = decode_request_header(&mut r).unwrap();
        let (id, version) = (header.correlation_id, header.version);
        assert_eq!(header.client_id.as_deref(), Some("broker-2-fetcher-0"));
        let asked = match header.api() {
            Some(ApiKey::Fetch) => {
                let (sender, pending) = pending(id, version);
                let request = FetchRequest::decode(&mut r, version).unwrap();
                (Asked::Fetch(request, sender), pending)
            }
            Some(ApiKey::ListOffsets) => {
                let (sender, pending) = pending(id, version);
                let request = ListOffsetsRequest::decode(&mut r, version).unwrap();
                (Asked::Bounds(request, sender), pending)
            }
            other => panic!("{other:?}"),
        };
        _ = self.0.send(asked.0);
        asked.1
    }
}

/// An answer that comes from the test; without one the connection ends.
fn pending<M: Message + Send + 'static>(id: i32, version: i16) -> (oneshot::Sender<M>, Dispatch) {
    let (sender, receiver) = oneshot::channel::<M>();
    let answer = Box::pin(async move {
        match receiver.await {
            Ok(m) => Response::from(encode_response(id, &m, version).unwrap()),
            Err(_) => Response { chunks: Vec::new(), close_after: true },
        }
    });
    (sender, Dispatch::Pending(answer))
}

struct World {
    node: Node,
    clock: Arc<SimClock>,
    fetchers: Fetchers,
    listener: ListenerHandle,
    asked: mpsc::UnboundedReceiver<Asked>,
    _epoch: watch::Sender<i64>,
}

impl World {
    async fn new(durable: bool) -> Self {
        let clock = Arc::new(SimClock::new(1_000));
        let node = Node::new(2, &clock, durable);
        let (tell, asked) = mpsc::unbounded_channel();
        let config = ListenerConfig::new("INTERNAL", "127.0.0.1", 0);
        let quota = Arc::new(ConnectionQuota::new(ConnectionLimits::default()));
        let shared = Shared { memory: Arc::new(Memory::new(1 << 20, 1 << 20)), quota };
        let listener = Listener::bind(config).await.unwrap();
        let listener = listener.serve(Arc::new(Script(tell)), shared);
        let (epoch, watch) = watch::channel(55);
        let terms = FetchTerms {
            fetchers: 1,
            listener: "INTERNAL".to_owned(),
            size: FetchSize {
                partition_bytes_max: 1 << 20,
                response_bytes_max: 10 << 20,
                bytes_min: 1,
                wait_ms_max: 500,
            },
            backoff: Duration::from_millis(200),
            socket_timeout: Duration::from_secs(30),
            receive_buffer_bytes: None,
        };
        let fetchers = Fetchers::new(Arc::clone(&node.table), terms, watch, Arc::default());
        Self { node, clock, fetchers, listener, asked, _epoch: epoch }
    }

    /// The leader as it registered under `epoch`.
    fn brokers(&self, epoch: i64) -> Brokers {
        let endpoint = Endpoint {
            name: "INTERNAL".into(),
            host: "127.0.0.1".into(),
            port: self.listener.address().port(),
            security_protocol: 0,
        };
        let record = Record::RegisterBroker(RegisterBroker {
            id: NodeId(1),
            incarnation: Uuid([3; 16]),
            epoch: Some(epoch),
            endpoints: vec![endpoint],
            features: Vec::new(),
            rack: None,
            log_dirs: Vec::new(),
            cordoned_dirs: None,
            fenced: false,
            in_controlled_shutdown: false,
        });
        let mut delta = Delta::new(&Image::default());
        delta.replay(&record, 0).unwrap();
        delta.apply().brokers().clone()
    }

    /// Lets 1 lead under `leader_epoch`.
    fn follow(&mut self, slots: &[&Arc<Slot>], leader_epoch: i32) {
        self.change(slots, &registration(1, leader_epoch));
    }

    fn change(&mut self, slots: &[&Arc<Slot>], registration: &PartitionRegistration) {
        let brokers = self.brokers(7);
        let changes = slots.iter().map(|slot| {
            self.node.learn(slot, registration);
            Following {
                slot: Arc::clone(slot),
                leader: registration.leader.filter(|l| *l != NodeId(2)),
                leader_epoch: registration.leader_epoch,
            }
        });
        let changes: Vec<_> = changes.collect();
        self.fetchers.update(changes, &brokers);
    }

    async fn next(&mut self) -> Asked {
        let asked = tokio::time::timeout(Duration::from_secs(60), self.asked.recv());
        asked.await.expect("the fetcher asks").unwrap()
    }

    async fn fetch(&mut self) -> (FetchRequest, oneshot::Sender<FetchResponse>) {
        match self.next().await {
            Asked::Fetch(request, answer) => (request, answer),
            Asked::Bounds(request, _) => panic!("{request:?}"),
        }
    }

    async fn bounds(&mut self) -> (i64, oneshot::Sender<ListOffsetsResponse>) {
        match self.next().await {
            Asked::Bounds(request, answer) => {
                assert_eq!((request.replica_id, &*request.topics[0].name), (2, "t"));
                (request.topics[0].partitions[0].timestamp, answer)
            }
            Asked::Fetch(request, _) => panic!("{request:?}"),
        }
    }
}

/// Session, epoch, what is wanted as (partition, offset, last epoch), what is forgotten.
type Plain = (i32, i32, Vec<(i32, i64, i32)>, Vec<i32>);

fn plain(request: &FetchRequest) -> Plain {
    let wanted = request.topics.iter().flat_map(|t| {
        assert_eq!(t.topic_id, TOPIC_ID);
        t.partitions.iter().map(|p| (p.partition, p.fetch_offset, p.last_fetched_epoch))
    });
    let forgotten = request.forgotten_topics_data.iter().flat_map(|t| &t.partitions);
    (request.session_id, request.session_epoch, wanted.collect(), forgotten.copied().collect())
}

fn data(partition: i32, high_watermark: i64, records: Option<&Batch>) -> PartitionData {
    PartitionData {
        partition_index: partition,
        high_watermark,
        log_start_offset: 0,
        records: records.map_or(Records::EMPTY, |b| Records::Bytes(b.bytes().into())),
        ..PartitionData::default()
    }
}

fn failed(partition: i32, error_code: ErrorCode) -> PartitionData {
    PartitionData { error_code, ..data(partition, -1, None) }
}

fn told(session_id: i32, partitions: Vec<PartitionData>) -> FetchResponse {
    let topic = FetchableTopicResponse {
        topic_id: TOPIC_ID,
        partitions,
        ..FetchableTopicResponse::default()
    };
    FetchResponse { session_id, responses: vec![topic], ..FetchResponse::default() }
}

fn refused(error_code: ErrorCode) -> FetchResponse {
    FetchResponse { error_code, ..FetchResponse::default() }
}

fn at(offset: i64) -> ListOffsetsResponse {
    let partition = ListOffsetsPartitionResponse {
        partition_index: 0,
        error_code: ErrorCode::None,
        offset,
        ..ListOffsetsPartitionResponse::default()
    };
    let topic = ListOffsetsTopicResponse { name: "t".to_owned(), partitions: vec![partition] };
    ListOffsetsResponse { topics: vec![topic], ..ListOffsetsResponse::default() }
}

#[tokio::test]
async fn only_what_moved_is_named_again() {
    let mut w = World::new(false).await;
    let (s0, s1) = (w.node.make(0), w.node.make(1));
    w.follow(&[&s0, &s1], 4);
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (0, 0, vec![(0, 0, -1), (1, 0, -1)], vec![]));
    let state = &request.replica_state;
    assert_eq!((state.replica_id, state.replica_epoch), (2, 55));
    assert_eq!(request.topics[0].partitions[0].current_leader_epoch, 4);
    let batch = Batch::of(3, 10, 0).at(0, 4);
    answer.send(told(77, vec![data(0, 2, Some(&batch)), data(1, 0, None)])).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (77, 1, vec![(0, 3, 4)], vec![]));
    assert_eq!((ends(&s0), ends(&s1)), ((0, 2, 3), (0, 0, 0)));
    answer.send(told(77, vec![data(0, 3, None)])).unwrap();
    let (request, _answer) = w.fetch().await;
    assert_eq!(plain(&request), (77, 2, vec![], vec![]), "a mark is no new position");
    assert_eq!(ends(&s0), (0, 3, 3));
    w.fetchers.stop().await;
}

#[tokio::test]
async fn partitions_that_come_and_go_do_not_wait_for_an_answer() {
    let mut w = World::new(false).await;
    let (s0, s1) = (w.node.make(0), w.node.make(1));
    w.follow(&[&s0], 4);
    w.fetch().await.1.send(told(77, vec![])).unwrap();
    let (_, parked) = w.fetch().await;
    w.follow(&[&s0, &s1], 5);
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (77, 2, vec![(0, 0, -1), (1, 0, -1)], vec![]));
    // What was asked under the older epoch is of no use any more.
    let old = Batch::of(1, 10, 0).at(0, 4);
    parked.send(told(77, vec![data(0, 0, Some(&old))])).unwrap();
    let new = Batch::of(2, 10, 0).at(0, 5);
    answer.send(told(77, vec![data(0, 0, Some(&new))])).unwrap();
    let (request, parked) = w.fetch().await;
    assert_eq!(plain(&request), (77, 3, vec![(0, 2, 5)], vec![]));
    assert_eq!(w.fetchers.partitions(), 2);
    w.change(&[&s0], &registration(2, 6));
    let (request, _answer) = w.fetch().await;
    assert_eq!(plain(&request), (77, 4, vec![], vec![0]));
    assert_eq!(w.fetchers.partitions(), 1);
    drop(parked);
    w.fetchers.stop().await;
}

#[tokio::test]
async fn refused_partitions_are_put_off_and_lost_sessions_opened_anew() {
    let mut w = World::new(false).await;
    let (s0, s1) = (w.node.make(0), w.node.make(1));
    w.follow(&[&s0, &s1], 4);
    let early = failed(0, ErrorCode::UnknownLeaderEpoch);
    w.fetch().await.1.send(told(77, vec![early])).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (77, 1, vec![], vec![0]));
    w.clock.advance_ms(10);
    answer.send(told(77, vec![])).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (77, 2, vec![(0, 0, -1)], vec![]));
    answer.send(refused(ErrorCode::FetchSessionIdNotFound)).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (0, 0, vec![(0, 0, -1), (1, 0, -1)], vec![]));
    answer.send(told(78, vec![failed(1, ErrorCode::FencedLeaderEpoch)])).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (78, 1, vec![], vec![1]));
    answer.send(refused(ErrorCode::InvalidFetchSessionEpoch)).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (78, 0, vec![(0, 0, -1)], vec![]), "1 waits for metadata");
    w.follow(&[&s1], 5);
    answer.send(told(79, vec![])).unwrap();
    let (request, _answer) = w.fetch().await;
    assert_eq!(plain(&request), (79, 1, vec![(1, 0, -1)], vec![]));
    w.fetchers.stop().await;
}

#[tokio::test]
async fn out_of_range_asks_for_the_leaders_bounds() {
    let mut w = World::new(false).await;
    let s0 = w.node.make(0);
    w.follow(&[&s0], 4);
    let out = failed(0, ErrorCode::OffsetOutOfRange);
    w.fetch().await.1.send(told(77, vec![out.clone()])).unwrap();
    let (timestamp, latest) = w.bounds().await;
    assert_eq!(timestamp, -1);
    let (timestamp, earliest) = w.bounds().await;
    assert_eq!(timestamp, -2);
    let (request, forgets) = w.fetch().await;
    assert_eq!(plain(&request), (77, 1, vec![], vec![0]));
    latest.send(at(30)).unwrap();
    earliest.send(at(20)).unwrap();
    forgets.send(told(0, vec![])).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (0, 0, vec![(0, 20, -1)], vec![]));
    assert_eq!(ends(&s0), (20, 20, 20));
    // Logs that part are cut, and the next question tells.
    let batch = Batch::of(5, 10, 0).at(20, 4);
    answer.send(told(78, vec![data(0, 20, Some(&batch))])).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (78, 1, vec![(0, 25, 4)], vec![]));
    let parts = EpochEndOffset { epoch: 4, end_offset: 20 };
    let parted = PartitionData { diverging_epoch: parts, ..data(0, 20, None) };
    answer.send(told(78, vec![parted])).unwrap();
    let (request, _answer) = w.fetch().await;
    assert_eq!(plain(&request), (78, 2, vec![(0, 20, -1)], vec![]));
    w.fetchers.stop().await;
}

#[tokio::test]
async fn a_broken_connection_and_a_restarted_leader_begin_anew() {
    let mut w = World::new(false).await;
    let s0 = w.node.make(0);
    w.follow(&[&s0], 4);
    let batch = Batch::of(3, 10, 0).at(0, 4);
    w.fetch().await.1.send(told(77, vec![data(0, 0, Some(&batch))])).unwrap();
    let (request, answer) = w.fetch().await;
    assert_eq!(plain(&request), (77, 1, vec![(0, 3, 4)], vec![]));
    drop(answer);
    let (request, _parked) = w.fetch().await;
    assert_eq!(plain(&request), (0, 0, vec![(0, 3, 4)], vec![]), "the connection broke");
    let brokers = w.brokers(8);
    w.fetchers.update([], &brokers);
    let (request, _parked) = w.fetch().await;
    assert_eq!(plain(&request), (0, 0, vec![(0, 3, 4)], vec![]), "another life of the leader");
    w.change(&[&s0], &registration(2, 5));
    assert_eq!(w.fetchers.partitions(), 0);
    w.fetchers.stop().await;
}

#[tokio::test]
async fn in_the_durable_mode_what_came_is_flushed_before_it_is_told() {
    let mut w = World::new(true).await;
    let s0 = w.node.make(0);
    w.follow(&[&s0], 4);
    let batch = Batch::of(3, 10, 0).at(0, 4);
    w.fetch().await.1.send(told(77, vec![data(0, 0, Some(&batch))])).unwrap();
    let (request, _parked) = w.fetch().await;
    assert_eq!(plain(&request), (77, 1, vec![(0, 3, 4)], vec![]));
    assert_eq!(s0.lock().log.flushed_offset(), 3);
    w.fetchers.stop().await;
}
