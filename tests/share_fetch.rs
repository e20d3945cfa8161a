//! Share fetches and acknowledgements (KIP-932) from end to end, by raw frames to a real node: who gets
//! which records, how often, and what a kill -9, a lost connection or a lock that ends does to them.

mod share_nodes;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use share_nodes::{GROUP, Node, PATIENCE, Raw};
use vltava::{
    base::{ErrorCode, Uuid},
    testing::batches::Batch,
    wire::api::{
        cluster::{InitProducerIdRequest, InitProducerIdResponse},
        configs::{
            IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource,
            IncrementalAlterableConfig,
        },
        groups::FindCoordinatorRequest,
        offsets::{DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic},
        share_fetch::{
            AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch, ShareAcknowledgeRequest,
            ShareFetchPartition, ShareFetchRequest, ShareFetchResponse, ShareFetchTopic,
            SharePartitionData,
        },
        topics::{DeleteTopicState, DeleteTopicsRequest},
        txn::EndTxnRequest,
    },
};

const ACCEPT: i8 = 1;
const RELEASE: i8 = 2;
const REJECT: i8 = 3;
const RENEW: i8 = 4;

struct Member {
    raw: Raw,
    id: String,
    epoch: i32,
}

/// First and last offset, and how often they were handed out.
type Got = Vec<(i64, i64, i16)>;

fn got(data: &SharePartitionData) -> Got {
    let one = data.acquired_records.iter();
    one.map(|a| (a.first_offset, a.last_offset, a.delivery_count)).collect()
}

fn said(acks: &[(i64, i64, &[i8])]) -> Vec<AcknowledgementBatch> {
    let one = |&(first_offset, last_offset, types): &(i64, i64, &[i8])| AcknowledgementBatch {
        first_offset,
        last_offset,
        acknowledge_types: types.to_vec(),
    };
    acks.iter().map(one).collect()
}

impl Member {
    async fn of(node: &Node, id: &str) -> Self {
        Self { raw: Raw::connect(node.port).await, id: id.to_owned(), epoch: 0 }
    }

    fn request(&mut self, topic: Uuid, acks: &[(i64, i64, &[i8])]) -> ShareFetchRequest {
        let p = ShareFetchPartition { partition_index: 0, acknowledgement_batches: said(acks) };
        let topics = vec![ShareFetchTopic { topic_id: topic, partitions: vec![p] }];
        let share_session_epoch = self.epoch;
        self.epoch += 1;
        ShareFetchRequest {
            group_id: Some(GROUP.to_owned()),
            member_id: Some(self.id.clone()),
            share_session_epoch,
            max_wait_ms: 20_000,
            min_bytes: 1,
            max_records: 500,
            batch_size: 500,
            topics,
            ..Default::default()
        }
    }

    /// Acquires up to `max` records, and waits for them.
    async fn fetch(&mut self, topic: Uuid, max: i32) -> Got {
        let request = ShareFetchRequest { max_records: max, ..self.request(topic, &[]) };
        let answer = self.raw.ask(&request, 2).await;
        assert_eq!(answer.error_code, ErrorCode::None);
        let data = only(&answer);
        assert_eq!((data.error_code, data.acknowledge_error_code), Default::default());
        got(data)
    }

    /// Acquires records until it has the one at `last`; gives their offsets.
    async fn fetch_up_to(&mut self, topic: Uuid, last: i64) -> BTreeSet<i64> {
        let mut all = BTreeSet::new();
        while !all.contains(&last) {
            all.extend(self.fetch(topic, 100).await.into_iter().flat_map(|(a, b, _)| a..=b));
        }
        all
    }

    /// Whether there is nothing to acquire now.
    async fn finds_nothing(&mut self, topic: Uuid) -> bool {
        let request = ShareFetchRequest { max_wait_ms: 100, ..self.request(topic, &[]) };
        let answer = self.raw.ask(&request, 2).await;
        assert_eq!(answer.error_code, ErrorCode::None);
        answer.responses.iter().flat_map(|t| &t.partitions).all(|p| p.acquired_records.is_empty())
    }

    /// Says what became of records, outside of a fetch.
    async fn say(&mut self, topic: Uuid, acks: &[(i64, i64, &[i8])]) -> ErrorCode {
        let p = AcknowledgePartition { partition_index: 0, acknowledgement_batches: said(acks) };
        let topics = vec![AcknowledgeTopic { topic_id: topic, partitions: vec![p] }];
        let request = ShareAcknowledgeRequest {
            group_id: Some(GROUP.to_owned()),
            member_id: Some(self.id.clone()),
            share_session_epoch: self.epoch,
            is_renew_ack: acks.iter().any(|(.., types)| types.contains(&RENEW)),
            topics,
        };
        let answer = self.raw.ask(&request, 2).await;
        if answer.error_code != ErrorCode::None {
            return answer.error_code;
        }
        self.epoch += 1;
        answer.responses[0].partitions[0].error_code
    }
}

fn only(answer: &ShareFetchResponse) -> &SharePartitionData {
    let [topic] = &answer.responses[..] else { panic!("{answer:?}") };
    let [partition] = &topic.partitions[..] else { panic!("{answer:?}") };
    partition
}

#[tokio::test]
async fn members_share_records_and_what_they_say_outlives_the_node() {
    let mut node = share_nodes::start("");
    let (mut a, mut b) = (Member::of(&node, "a").await, Member::of(&node, "b").await);
    let topic = a.raw.create("orders").await;
    for n in 0..3 {
        a.raw.append("orders", Batch::of(10, 20, n)).await;
    }
    let request = ShareFetchRequest { max_records: 10, ..a.request(topic, &[]) };
    let answer = a.raw.ask(&request, 2).await;
    let data = only(&answer);
    assert_eq!(got(data), [(0, 9, 1)]);
    assert_eq!(answer.acquisition_lock_timeout_ms, 30_000);
    let bytes = data.records.bytes().unwrap();
    assert_eq!(bytes.len(), Batch::of(10, 20, 0).bytes().len(), "one batch of the three");
    assert_eq!(b.fetch(topic, 15).await, [(10, 29, 1)]);

    // Each says something else, one within its next fetch.
    let types = [ACCEPT, ACCEPT, RELEASE, REJECT, ACCEPT, ACCEPT, ACCEPT, ACCEPT, ACCEPT, ACCEPT];
    assert_eq!(a.say(topic, &[(0, 9, &types)]).await, ErrorCode::None);
    assert_eq!(a.say(topic, &[(0, 9, &types)]).await, ErrorCode::InvalidRecordState);
    let request = b.request(topic, &[(10, 19, &[ACCEPT]), (25, 29, &[RELEASE])]);
    let answer = b.raw.ask(&request, 2).await;
    assert_eq!(only(&answer).acknowledge_error_code, ErrorCode::None);
    let mut again = got(only(&answer));
    // The fetch may have found one before the other was written.
    while again.iter().map(|(from, to, _)| to - from + 1).sum::<i64>() < 6 {
        again.extend(b.fetch(topic, 100).await);
    }
    assert_eq!(again, [(2, 2, 2), (25, 29, 2)]);
    assert_eq!(b.say(topic, &[(2, 2, &[ACCEPT]), (20, 24, &[ACCEPT])]).await, ErrorCode::None);

    // What was not said anything of is handed out anew.
    node.kill_and_restart();
    let mut c = Member::of(&node, "c").await;
    assert_eq!(c.fetch(topic, 100).await, [(25, 29, 2)]);
    assert_eq!(c.say(topic, &[(25, 29, &[ACCEPT])]).await, ErrorCode::None);
    assert!(c.finds_nothing(topic).await);
}

#[tokio::test]
async fn a_share_partition_moves_with_its_leader() {
    let mut nodes = share_nodes::cluster(3, "");
    let mut raw = Raw::connect(nodes[0].port).await;
    let topic = raw.create_with("orders", 3).await;
    let leader = raw.leader("orders", None).await;
    let mut a = Member::of(&nodes[leader], "a").await;
    a.raw.append("orders", Batch::of(20, 20, 0)).await;
    assert_eq!(a.fetch(topic, 20).await, [(0, 19, 1)]);
    assert_eq!(a.say(topic, &[(0, 9, &[ACCEPT]), (10, 14, &[RELEASE])]).await, ErrorCode::None);

    // Another broker says who leads.
    let other = (leader + 1) % 3;
    let mut b = Member::of(&nodes[other], "b").await;
    let request = b.request(topic, &[]);
    let answer = b.raw.ask(&request, 2).await;
    let data = only(&answer);
    assert_eq!(data.error_code, ErrorCode::NotLeaderOrFollower);
    assert_eq!(data.current_leader.leader_id, i32::try_from(leader).unwrap() + 1);
    assert_eq!(answer.node_endpoints[0].port, i32::from(nodes[leader].port));

    nodes[leader].kill();
    let next = b.raw.leader("orders", Some(leader)).await;
    let mut c = Member::of(&nodes[next], "c").await;
    let (start, mut seen) = (Instant::now(), Vec::new());
    while seen.iter().map(|(from, to, _)| to - from + 1).sum::<i64>() < 10 {
        let request = ShareFetchRequest { max_wait_ms: 500, ..c.request(topic, &[]) };
        let answer = c.raw.ask(&request, 2).await;
        assert_eq!(answer.error_code, ErrorCode::None);
        let parts = answer.responses.iter().flat_map(|t| &t.partitions);
        seen.extend(parts.flat_map(got));
        assert!(start.elapsed() < PATIENCE, "{answer:?}");
    }
    assert_eq!(seen, [(10, 14, 2), (15, 19, 1)], "what was not said anything of counts anew");
}

#[tokio::test]
async fn a_fetch_waits_for_records_new_ones_or_such_as_come_back() {
    let node = share_nodes::start("");
    let (mut a, mut b) = (Member::of(&node, "a").await, Member::of(&node, "b").await);
    let topic = a.raw.create("orders").await;
    let mut other = Raw::connect(node.port).await;
    assert!(a.finds_nothing(topic).await);
    let (first, ()) = tokio::join!(a.fetch(topic, 10), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.append("orders", Batch::of(5, 9, 0)).await;
    });
    assert_eq!(first, [(0, 4, 1)]);
    // The connection of a member is lost: what it had goes to the next.
    let (second, ()) = tokio::join!(b.fetch(topic, 10), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(a);
    });
    assert_eq!(second, [(0, 4, 2)]);
    // A member that leaves gives back what it does not speak of.
    let mut c = Member::of(&node, "c").await;
    let leaving =
        ShareFetchRequest { share_session_epoch: -1, ..b.request(topic, &[(0, 1, &[1])]) };
    let (third, answer) = tokio::join!(c.fetch(topic, 10), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        b.raw.ask(&leaving, 1).await
    });
    assert_eq!(only(&answer).acknowledge_error_code, ErrorCode::None);
    assert_eq!(third, [(2, 4, 3)]);
}

#[tokio::test]
async fn sessions_and_requests_are_checked() {
    let node = share_nodes::start("group.share.max.size=2\ngroup.share.max.share.sessions=2\n");
    let mut a = Member::of(&node, "a").await;
    let topic = a.raw.create("orders").await;
    a.raw.append("orders", Batch::of(4, 9, 0)).await;
    let fails = async |m: &mut Member, request: &ShareFetchRequest, code| {
        assert_eq!(m.raw.ask(request, 2).await.error_code, code, "{request:?}");
    };
    let first = a.request(topic, &[]);
    let not_found = ErrorCode::ShareSessionNotFound;
    for (bad, code) in [
        (ShareFetchRequest { group_id: None, ..first.clone() }, ErrorCode::InvalidRequest),
        (
            ShareFetchRequest { member_id: Some(String::new()), ..first.clone() },
            ErrorCode::InvalidRequest,
        ),
        (
            ShareFetchRequest { member_id: Some("x".repeat(37)), ..first.clone() },
            ErrorCode::InvalidRequest,
        ),
        (ShareFetchRequest { share_session_epoch: 1, ..first.clone() }, not_found),
        (ShareFetchRequest { share_session_epoch: -1, ..first.clone() }, not_found),
        (ShareFetchRequest { is_renew_ack: true, ..first.clone() }, ErrorCode::InvalidRequest),
    ] {
        fails(&mut a, &bad, code).await;
    }
    assert_eq!(got(only(&a.raw.ask(&first, 2).await)), [(0, 3, 1)]);
    let wrong = ShareFetchRequest { share_session_epoch: 5, ..first.clone() };
    fails(&mut a, &wrong, ErrorCode::InvalidShareSessionEpoch).await;

    // Acknowledgements that cannot be read, or are of nothing.
    let invalid = ErrorCode::InvalidRequest;
    for (acks, code) in [
        (&[(3_i64, 2_i64, &[1_i8][..])][..], invalid),
        (&[(0, 3, &[])], invalid),
        (&[(0, 3, &[1, 1])], invalid),
        (&[(0, 3, &[5])], invalid),
        (&[(2, 3, &[1]), (0, 1, &[1])], invalid),
        (&[(0, 7, &[1])], invalid),
    ] {
        assert_eq!(a.say(topic, acks).await, code, "{acks:?}");
    }
    assert_eq!(a.say(Uuid::ONE, &[(0, 3, &[1])]).await, ErrorCode::UnknownTopicId);
    let mut b = Member::of(&node, "b").await;
    assert!(b.finds_nothing(topic).await);
    assert_eq!(b.say(topic, &[(0, 3, &[1])]).await, ErrorCode::InvalidRecordState, "not its own");
    assert_eq!(a.say(topic, &[(0, 3, &[RENEW])]).await, ErrorCode::None);

    // One more than there may be waits for its error.
    let mut c = Member::of(&node, "c").await;
    let third = ShareFetchRequest { max_wait_ms: 10, ..c.request(topic, &[]) };
    fails(&mut c, &third, ErrorCode::ShareSessionLimitReached).await;
    assert_eq!(a.say(topic, &[(0, 3, &[1])]).await, ErrorCode::None, "it is as it was");

    // The topic goes, and the log's start before.
    a.raw.append("orders", Batch::of(6, 9, 0)).await;
    let cut = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: "orders".to_owned(),
            partitions: vec![DeleteRecordsPartition { partition_index: 0, offset: 7 }],
        }],
        timeout_ms: 30_000,
    };
    a.raw.ask(&cut, 2).await;
    let fetched = a.fetch(topic, 10).await;
    assert_eq!(fetched, [(7, 9, 1)]);
    let gone = DeleteTopicState { name: Some("orders".to_owned()), ..Default::default() };
    let delete =
        DeleteTopicsRequest { topics: vec![gone], timeout_ms: 30_000, ..Default::default() };
    a.raw.ask(&delete, 6).await;
    let request = a.request(topic, &[]);
    assert_eq!(only(&a.raw.ask(&request, 2).await).error_code, ErrorCode::UnknownTopicId);
}

#[tokio::test]
async fn locks_end_and_records_are_handed_out_so_often_and_no_more() {
    let node = share_nodes::start(
        "group.share.min.record.lock.duration.ms=1000\ngroup.share.record.lock.duration.ms=1000\n\
         group.share.delivery.count.limit=2\n",
    );
    let (mut a, mut b) = (Member::of(&node, "a").await, Member::of(&node, "b").await);
    let topic = a.raw.create("orders").await;
    a.raw.append("orders", Batch::of(3, 9, 0)).await;
    assert_eq!(a.fetch(topic, 10).await, [(0, 2, 1)]);
    assert_eq!(b.fetch(topic, 10).await, [(0, 2, 2)], "as the lock ended");
    assert_eq!(a.say(topic, &[(0, 2, &[ACCEPT])]).await, ErrorCode::InvalidRecordState);
    a.raw.append("orders", Batch::of(1, 9, 0)).await;
    assert_eq!(b.say(topic, &[(0, 0, &[ACCEPT])]).await, ErrorCode::None);
    let mut seen = b.fetch(topic, 10).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    seen.extend(a.fetch(topic, 10).await);
    assert_eq!(seen, [(3, 3, 1), (3, 3, 2)], "the others are archived");
}

#[tokio::test]
async fn groups_that_read_committed_get_nothing_of_aborted_transactions() {
    let node = share_nodes::start("");
    let mut a = Member::of(&node, "a").await;
    let topic = a.raw.create("orders").await;
    let committed = IncrementalAlterableConfig {
        name: "share.isolation.level".to_owned(),
        config_operation: 0,
        value: Some("read_committed".to_owned()),
    };
    let resource = IncrementalAlterConfigsResource {
        resource_type: 32,
        resource_name: GROUP.to_owned(),
        configs: vec![committed],
    };
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource], validate_only: false };
    let done = a.raw.ask(&request, 1).await;
    assert_eq!(done.responses[0].error_code, ErrorCode::None);
    for (n, commits) in [(0, true), (1, false), (2, true)] {
        let id = format!("t{n}");
        let InitProducerIdResponse { producer_id, producer_epoch, .. } =
            init(&mut a.raw, &id).await;
        let batch = Batch::of(5, 9, n).by(producer_id, producer_epoch, 0).in_txn();
        a.raw.append_as("orders", batch, Some(&id)).await;
        if n == 2 {
            let mut other = Member::of(&node, "b").await;
            let seen = other.fetch_up_to(topic, 11).await;
            let expected: BTreeSet<_> = (0..=5).chain([11]).collect();
            assert_eq!(seen, expected, "nothing aborted, nor what is open");
        }
        let end = EndTxnRequest {
            transactional_id: id.clone(),
            producer_id,
            producer_epoch,
            committed: commits,
        };
        assert_eq!(a.raw.ask(&end, 4).await.error_code, ErrorCode::None);
        // Done once the marker is in the log.
        init(&mut a.raw, &id).await;
    }
    let mut seen = a.fetch_up_to(topic, 17).await;
    if !seen.contains(&11) {
        // What the other had comes as its connection is found closed.
        seen.extend(a.fetch_up_to(topic, 11).await);
    }
    assert_eq!(seen, (0..=5).chain(11..=17).collect());
}

async fn init(raw: &mut Raw, id: &str) -> InitProducerIdResponse {
    let coordinator = FindCoordinatorRequest {
        key_type: 1,
        coordinator_keys: vec![id.to_owned()],
        ..Default::default()
    };
    let request = InitProducerIdRequest {
        transactional_id: Some(id.to_owned()),
        transaction_timeout_ms: 60_000,
        producer_id: -1,
        producer_epoch: -1,
    };
    let start = Instant::now();
    loop {
        raw.ask(&coordinator, 4).await;
        let answer = raw.ask(&request, 4).await;
        if answer.error_code == ErrorCode::None {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
