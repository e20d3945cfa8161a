//! What a leader asks the coordinators of transactions before a transaction begins in one of its
//! partitions: whether the partition was added to it, or, of clients that leave it to the broker,
//! to add it (KIP-890, `AddPartitionsToTxnManager.java`). One question is under way to a broker at
//! a time; what comes meanwhile goes together in the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::channel::oneshot;

use crate::{
    base::{ErrorCode, NodeId},
    coordinator::partition_for,
    metadata::Image,
    net::{NetError, PeerClient, PeerConfig},
    replica::{partition::Refusal, table::Slot, txn::VerificationGuard},
    server::context::Broker,
    wire::{
        DecodeError, EncodeError,
        api::txn::{
            AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AddPartitionsToTxnTopic,
            AddPartitionsToTxnTopicResult, AddPartitionsToTxnTransaction,
        },
        frame::{decode_response, encode_request},
    },
};

const TXN_TOPIC: &str = "__transaction_state";
/// From this version on TRANSACTION_ABORTABLE is known.
const ADD_PARTITIONS_VERSION: i16 = 5;

/// What a client's request can mean for its transaction (`TransactionSupportedOperation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The client added the partition, and does not know TRANSACTION_ABORTABLE.
    VerifyOld,
    /// The client added the partition.
    Verify,
    /// The broker adds the partition; the client takes a new epoch for each transaction.
    Add,
}

impl Operation {
    /// Of a version of Produce.
    pub(crate) const fn of_produce(version: i16) -> Self {
        match version {
            12.. => Self::Add,
            11 => Self::Verify,
            _ => Self::VerifyOld,
        }
    }

    /// Of a version of TxnOffsetCommit.
    pub(crate) const fn of_offset_commit(version: i16) -> Self {
        match version {
            5.. => Self::Add,
            4 => Self::Verify,
            _ => Self::VerifyOld,
        }
    }
}

/// Who writes into which transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) transactional_id: String,
    /// Id and epoch.
    pub(crate) producer: (i64, i16),
    pub(crate) operation: Operation,
}

/// Whether a batch may be appended, and what it then brings.
pub(crate) type Admission = Result<Option<VerificationGuard>, Refusal>;

/// A partition with the sequence of the first record for it; -1 for a group's.
pub(crate) type Wanted = (Arc<Slot>, i32);

impl Writer {
    /// Looks, without asking anybody, whether the transaction is open in the partitions: a guard
    /// is worth nothing before [`Verifier::ask`].
    pub(crate) fn begin(&self, broker: &Broker, wanted: &[Wanted]) -> Vec<Admission> {
        let adds = self.operation == Operation::Add;
        let now = broker.clock.now();
        let one = |(slot, sequence): &Wanted| {
            let mut partition = slot.lock();
            if !adds && !partition.settings().log.verify_transactions {
                return Ok(None);
            }
            partition.begin_verification(self.producer, *sequence, adds, now)
        };
        wanted.iter().map(one).collect()
    }
}

/// The questions. A cheap handle; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Verifier {
    lines: Arc<Mutex<BTreeMap<NodeId, Line>>>,
}

/// What is to be asked of one broker.
#[derive(Debug, Default)]
struct Line {
    address: (Arc<str>, u16),
    waiting: Vec<Asked>,
    /// Whether somebody asks.
    running: bool,
    /// A connection that nobody uses now.
    peer: Option<PeerClient>,
}

#[derive(Debug)]
struct Asked {
    txn: AddPartitionsToTxnTransaction,
    answer: oneshot::Sender<Answer>,
}

type Answer = Result<Vec<AddPartitionsToTxnTopicResult>, ErrorCode>;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("the answer cannot be read: {0}")]
    Unreadable(#[from] DecodeError),
    #[error("the question cannot be written: {0}")]
    Unwritable(#[from] EncodeError),
}

impl Verifier {
    /// Asks the transaction's coordinator about those partitions of `wanted` for which `found` has
    /// a guard, and puts errors in place of the guards it refuses.
    pub(crate) async fn ask(
        &self,
        broker: &Broker,
        writer: &Writer,
        wanted: &[Wanted],
        found: &mut [Admission],
    ) {
        let asked: Vec<_> = wanted
            .iter()
            .zip(found)
            .filter(|(_, found)| matches!(found, Ok(Some(_))))
            .map(|((slot, _), found)| (slot, found))
            .collect();
        if asked.is_empty() {
            return;
        }
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (slot, _) in &asked {
            topics.entry(&slot.topic).or_default().push(slot.partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| AddPartitionsToTxnTopic {
            name: name.to_owned(),
            partitions,
        });
        let txn = AddPartitionsToTxnTransaction {
            transactional_id: writer.transactional_id.clone(),
            producer_id: writer.producer.0,
            producer_epoch: writer.producer.1,
            verify_only: writer.operation != Operation::Add,
            topics: topics.collect(),
        };
        let answer = match coordinator(broker, &writer.transactional_id) {
            Some((node, address)) => {
                let answer = self.enqueue(node, address, txn);
                answer.await.unwrap_or(Err(ErrorCode::NetworkException))
            }
            None => Err(ErrorCode::CoordinatorNotAvailable),
        };
        for (slot, found) in asked {
            let code = match &answer {
                Ok(topics) => code_of(topics, &slot.topic, slot.partition, writer.operation),
                Err(code) => *code,
            };
            if code != ErrorCode::None {
                *found = Err(code.into());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(
        &self,
        node: NodeId,
        address: (Arc<str>, u16),
        txn: AddPartitionsToTxnTransaction,
    ) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let mut lines = self.lock();
        let line = lines.entry(node).or_default();
        line.address = address;
        line.waiting.push(Asked { txn, answer });
        if !std::mem::replace(&mut line.running, true) {
            tokio::spawn(self.clone().run(node));
        }
        receiver
    }

    /// Asks until there is nothing to ask.
    async fn run(self, node: NodeId) {
        let mut peer = self.lock().get_mut(&node).and_then(|line| line.peer.take());
        loop {
            let (address, asked) = {
                let mut lines = self.lock();
                let line = lines.entry(node).or_default();
                let asked = next(&mut line.waiting);
                if asked.is_empty() {
                    (line.running, line.peer) = (false, peer);
                    return;
                }
                (line.address.clone(), asked)
            };
            let (txns, answers): (Vec<_>, Vec<_>) =
                asked.into_iter().map(|a| (a.txn, a.answer)).unzip();
            let ids: Vec<_> = txns.iter().map(|t| t.transactional_id.clone()).collect();
            let request = AddPartitionsToTxnRequest { transactions: txns, ..Default::default() };
            let response = converse(&mut peer, &address, &request).await;
            let mut response = response.inspect_err(|e| {
                peer = None;
                tracing::debug!(coordinator = %node, "a transaction cannot be verified: {e}");
            });
            for (id, answer) in ids.into_iter().zip(answers) {
                // The client may have gone.
                let _ = answer.send(answer_for(&id, &mut response));
            }
        }
    }
}

/// Takes what goes into one request: of each transaction one question.
fn next(waiting: &mut Vec<Asked>) -> Vec<Asked> {
    waiting.retain(|a| !a.answer.is_canceled());
    let mut ids = BTreeSet::new();
    let (now, later) = std::mem::take(waiting)
        .into_iter()
        .partition(|asked| ids.insert(asked.txn.transactional_id.clone()));
    *waiting = later;
    now
}

fn answer_for(id: &str, response: &mut Result<AddPartitionsToTxnResponse, Unanswered>) -> Answer {
    let Ok(response) = response else { return Err(ErrorCode::NetworkException) };
    match response.error_code {
        ErrorCode::None => {}
        // Between brokers; no matter of the client's.
        ErrorCode::ClusterAuthorizationFailed => return Err(ErrorCode::InvalidTxnState),
        code => return Err(code),
    }
    let mut results = response.results_by_transaction.iter_mut();
    let found = results.find(|r| r.transactional_id == id);
    let found = found.map(|r| std::mem::take(&mut r.topic_results));
    found.ok_or(ErrorCode::NetworkException)
}

/// What a client is told of a partition.
fn code_of(
    topics: &[AddPartitionsToTxnTopicResult],
    topic: &str,
    partition: i32,
    operation: Operation,
) -> ErrorCode {
    let topic = topics.iter().filter(|t| *t.name == *topic);
    let mut partitions = topic.flat_map(|t| &t.results_by_partition);
    let found = partitions.find(|p| p.partition_index == partition);
    match found.map_or(ErrorCode::NetworkException, |p| p.partition_error_code) {
        // What producers expect of a leader.
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if operation == Operation::VerifyOld => {
            ErrorCode::InvalidTxnState
        }
        code => code,
    }
}

/// Who coordinates the transactions of this id, and where it listens for brokers.
fn coordinator(broker: &Broker, transactional_id: &str) -> Option<(NodeId, (Arc<str>, u16))> {
    let image: Arc<Image> = broker.image();
    let topic = image.topics().by_name(TXN_TOPIC)?;
    let count = i32::try_from(topic.partitions.len()).ok()?;
    let leader = topic.partition(partition_for(transactional_id, count))?.leader?;
    let at = image.brokers().get(leader).filter(|b| !b.fenced)?;
    let endpoint = at.endpoint(&broker.settings.inter_broker_listener)?;
    Some((leader, (Arc::clone(&endpoint.host), endpoint.port)))
}

/// One question and its answer. A connection that was idle may turn out to be closed: then a new
/// one is tried.
async fn converse(
    peer: &mut Option<PeerClient>,
    (host, port): &(Arc<str>, u16),
    request: &AddPartitionsToTxnRequest,
) -> Result<AddPartitionsToTxnResponse, Unanswered> {
    let version = ADD_PARTITIONS_VERSION;
    let frame = || encode_request(0, Some("txn-verifier"), request, version);
    let reused = peer.take().filter(|p| p.address() == format!("{host}:{port}"));
    if let Some(mut reused) = reused
        && let Ok(answer) = reused.call(frame()?).await
    {
        *peer = Some(reused);
        return Ok(decode_response(&answer, version)?.1);
    }
    let mut fresh = PeerClient::connect(host, *port, &PeerConfig::new()).await?;
    let answer = fresh.call(frame()?).await?;
    *peer = Some(fresh);
    Ok(decode_response(&answer, version)?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(id: &str) -> (Asked, oneshot::Receiver<Answer>) {
        let (answer, receiver) = oneshot::channel();
        let txn =
            AddPartitionsToTxnTransaction { transactional_id: id.to_owned(), ..Default::default() };
        (Asked { txn, answer }, receiver)
    }

    #[test]
    fn a_request_has_one_question_of_each_transaction_in_order() {
        let (mut waiting, _receivers): (Vec<_>, Vec<_>) =
            ["a", "b", "a", "c"].map(asked).into_iter().unzip();
        let (gone, receiver) = asked("d");
        waiting.push(gone);
        drop(receiver);
        let ids = |batch: Vec<Asked>| -> String {
            batch.iter().map(|a| a.txn.transactional_id.as_str()).collect()
        };
        assert_eq!(ids(next(&mut waiting)), "abc");
        assert_eq!(ids(next(&mut waiting)), "a");
        assert_eq!(ids(next(&mut waiting)), "");
    }

    /// Answers each request on its own, in order; `None` closes the connection instead.
    async fn coordinator(
        listener: tokio::net::TcpListener,
        mut answer: impl FnMut(AddPartitionsToTxnRequest) -> Option<AddPartitionsToTxnResponse>,
    ) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while let Ok(len) = stream.read_i32().await {
                let mut frame = vec![0; usize::try_from(len).unwrap()];
                stream.read_exact(&mut frame).await.unwrap();
                let frame = bytes::Bytes::from(frame);
                let mut r = crate::wire::codec::Reader::new(&frame);
                let header = crate::wire::frame::decode_request_header(&mut r).unwrap();
                let request = crate::wire::message::Message::decode(&mut r, header.version);
                let Some(response) = answer(request.unwrap()) else { break };
                let (id, version) = (header.correlation_id, header.version);
                let chunks = crate::wire::frame::encode_response(id, &response, version).unwrap();
                for chunk in chunks {
                    let crate::wire::Chunk::Bytes(bytes) = chunk else { unreachable!() };
                    stream.write_all(&bytes).await.unwrap();
                }
            }
        }
    }

    #[tokio::test]
    async fn what_comes_meanwhile_goes_together_and_a_closed_connection_is_opened_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = (Arc::from("127.0.0.1"), listener.local_addr().unwrap().port());
        let (seen, sizes) = std::sync::mpsc::channel();
        let mut closed = false;
        let task = tokio::spawn(coordinator(listener, move |request| {
            let ids: Vec<_> = request.transactions.iter().map(|t| &*t.transactional_id).collect();
            if ids == ["again"] && !std::mem::replace(&mut closed, true) {
                return None;
            }
            seen.send(ids.len()).unwrap();
            let result = |id: &&str| crate::wire::api::txn::AddPartitionsToTxnResult {
                transactional_id: (*id).to_owned(),
                ..Default::default()
            };
            let results_by_transaction =
                ids.iter().filter(|id| **id != "unknown").map(result).collect();
            Some(AddPartitionsToTxnResponse { results_by_transaction, ..Default::default() })
        }));
        let verifier = Verifier::default();
        let ask = |id: &str| {
            let (asked, _) = asked(id);
            verifier.enqueue(NodeId(1), address.clone(), asked.txn)
        };
        let (a, b, c) = (ask("a"), ask("b"), ask("unknown"));
        assert_eq!(a.await.unwrap(), Ok(Vec::new()));
        assert_eq!(b.await.unwrap(), Ok(Vec::new()));
        assert_eq!(c.await.unwrap(), Err(ErrorCode::NetworkException), "without an answer");
        assert_eq!(ask("again").await.unwrap(), Ok(Vec::new()));
        assert_eq!(sizes.try_iter().collect::<Vec<_>>(), [3, 1]);
        task.abort();
        let _ = task.await;
        assert_eq!(ask("gone").await.unwrap(), Err(ErrorCode::NetworkException));
    }

    #[test]
    fn clients_are_told_what_they_know() {
        let topic = |code| AddPartitionsToTxnTopicResult {
            name: "t".to_owned(),
            results_by_partition: vec![crate::wire::api::txn::AddPartitionsToTxnPartitionResult {
                partition_index: 3,
                partition_error_code: code,
            }],
        };
        use ErrorCode as E;
        for (said, operation, told) in [
            (E::None, Operation::Add, E::None),
            (E::ProducerFenced, Operation::Add, E::InvalidProducerEpoch),
            (E::TransactionAbortable, Operation::VerifyOld, E::InvalidTxnState),
            (E::TransactionAbortable, Operation::Verify, E::TransactionAbortable),
            (E::ConcurrentTransactions, Operation::Add, E::ConcurrentTransactions),
        ] {
            assert_eq!(code_of(&[topic(said)], "t", 3, operation), told);
            assert_eq!(code_of(&[topic(said)], "t", 4, operation), E::NetworkException);
        }
    }

    #[test]
    fn operations_come_with_versions() {
        use Operation::{Add, Verify, VerifyOld};
        let produce = [3, 10, 11, 12, 13].map(Operation::of_produce);
        assert_eq!(produce, [VerifyOld, VerifyOld, Verify, Add, Add]);
        let commit = [0, 3, 4, 5].map(Operation::of_offset_commit);
        assert_eq!(commit, [VerifyOld, VerifyOld, Verify, Add]);
    }
}
