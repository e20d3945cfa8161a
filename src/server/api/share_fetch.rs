//! ShareFetch and ShareAcknowledge (KIP-932): members of share groups acquire records of partitions
//! that this broker leads, and say what became of them (`KafkaApis.handleShareFetchRequest`,
//! `handleShareAcknowledgeRequest`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    base::{ErrorCode, Uuid},
    metadata::{Image, features::SHARE_VERSION},
    server::{
        api::produce::endpoint,
        context::{Broker, Caller},
        dispatch::Outcome,
    },
    share::{
        acknowledge::{AckBatch, AckType},
        acquire::AcquireMode,
        fetch_driver::{Got, ShareFetch, ShareFetchAsk},
        session::{FINAL_EPOCH, INITIAL_EPOCH, PartitionKey, SessionKey, Told},
        table_driver::Acked,
    },
    wire::{
        api::{
            produce::NodeEndpoint,
            share_fetch::{
                AcknowledgementBatch, AcquiredRecords, ShareAcknowledgePartitionData,
                ShareAcknowledgeRequest, ShareAcknowledgeResponse, ShareAcknowledgeTopicResponse,
                ShareFetchRequest, ShareFetchResponse, ShareFetchableTopicResponse, ShareLeader,
                SharePartitionData,
            },
        },
        records::Records,
    },
};

/// Longest id of a member, in characters: that of a UUID.
const MEMBER_ID_LEN_MAX: usize = 36;
/// From this version on locks can be renewed (KIP-1222).
const RENEWS_FROM: i16 = 2;

/// ShareFetch.
pub(crate) fn share_fetch(
    broker: &Arc<Broker>,
    caller: Caller,
    request: ShareFetchRequest,
) -> Outcome {
    let refused = |error_code| ShareFetchResponse { error_code, ..Default::default() };
    let (session, mode) = match checked(broker, &request) {
        Ok(checked) => checked,
        Err(code) => return caller.ready(&refused(code)),
    };
    let epoch = request.share_session_epoch;
    let of_topic = |id: Uuid| move |p: i32| (id, p);
    let named: Vec<PartitionKey> = request
        .topics
        .iter()
        .flat_map(|t| t.partitions.iter().map(|p| p.partition_index).map(of_topic(t.topic_id)))
        .collect();
    let forgotten: Vec<PartitionKey> = request
        .forgotten_topics_data
        .iter()
        .flat_map(|t| t.partitions.iter().copied().map(of_topic(t.topic_id)))
        .collect();
    let mut said = request.topics.iter().flat_map(|t| &t.partitions);
    let has_acks = said.any(|p| !p.acknowledgement_batches.is_empty());
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let begun =
        broker.share.sessions().fetch(&session, epoch, has_acks, &named, &forgotten, caller.conn);
    let partitions = match begun {
        Ok(partitions) => partitions,
        // So that the client does not ask again at once.
        Err(code @ ErrorCode::ShareSessionLimitReached) => {
            return Outcome::Later(Box::pin(async move {
                tokio::time::sleep(wait).await;
                caller.chunks(&refused(code))
            }));
        }
        Err(code) => return caller.ready(&refused(code)),
    };
    let image = broker.image();
    let terms = AckTerms { version: caller.version, is_renew: request.is_renew_ack };
    let acks = if has_acks {
        let said = request.topics.iter().flat_map(|t| {
            t.partitions
                .iter()
                .map(|p| ((t.topic_id, p.partition_index), &p.acknowledgement_batches[..]))
        });
        acknowledge(broker, &image, &session, said, terms)
    } else {
        Vec::new()
    };
    let (known, wrong) = sort_out(&image, partitions);
    let renews = caller.version >= RENEWS_FROM && request.is_renew_ack;
    let ask = ask(broker, &request, session.clone(), mode, if renews { vec![] } else { known });
    let wrong = if renews { BTreeMap::new() } else { wrong };
    let mut fetch = broker.share.fetch(ask);
    let enough = fetch.look(false) || (wait.is_zero() && fetch.look(true)) || wait.is_zero();
    let answer = Answer { session, epoch, wrong };
    if enough && acks.is_empty() {
        return caller.ready(&answer.of_fetch(broker, &caller, fetch, BTreeMap::new()));
    }
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        if !enough {
            fetch.wait(wait).await;
        }
        let acked = results(acks).await;
        caller.chunks(&answer.of_fetch(&broker, &caller, fetch, acked))
    }))
}

/// ShareAcknowledge.
pub(crate) fn share_acknowledge(
    broker: &Arc<Broker>,
    caller: Caller,
    request: ShareAcknowledgeRequest,
) -> Outcome {
    let refused = |error_code| ShareAcknowledgeResponse { error_code, ..Default::default() };
    let epoch = request.share_session_epoch;
    let (group, member) = (request.group_id.as_deref(), request.member_id.as_deref());
    let begun = member_of(broker, group, member).and_then(|session| {
        broker.share.sessions().acknowledge(&session, epoch)?;
        Ok(session)
    });
    let session = match begun {
        Ok(session) => session,
        Err(code) => return caller.ready(&refused(code)),
    };
    let said = request.topics.iter().flat_map(|t| {
        t.partitions
            .iter()
            .map(|p| ((t.topic_id, p.partition_index), &p.acknowledgement_batches[..]))
    });
    let terms = AckTerms { version: caller.version, is_renew: request.is_renew_ack };
    let acks = acknowledge(broker, &broker.image(), &session, said, terms);
    let broker = Arc::clone(broker);
    Outcome::Later(Box::pin(async move {
        let acked = results(acks).await;
        let response = acknowledged(&broker, &caller, &session, acked);
        if epoch == FINAL_EPOCH {
            broker.share.end_session(&session);
        }
        caller.chunks(&response)
    }))
}

/// Who asks.
///
/// # Errors
/// `UnsupportedVersion` where share groups are not enabled, `InvalidRequest` without a group or with
/// a member id that is none.
fn member_of(
    broker: &Broker,
    group: Option<&str>,
    member: Option<&str>,
) -> Result<SessionKey, ErrorCode> {
    if broker.image().features().level(SHARE_VERSION) < 1 {
        return Err(ErrorCode::UnsupportedVersion);
    }
    let group = group.ok_or(ErrorCode::InvalidRequest)?;
    let is_valid = |id: &&str| !id.is_empty() && id.encode_utf16().count() <= MEMBER_ID_LEN_MAX;
    let member = member.filter(is_valid).ok_or(ErrorCode::InvalidRequest)?;
    Ok(SessionKey { group: group.into(), member: member.into() })
}

fn checked(
    broker: &Broker,
    request: &ShareFetchRequest,
) -> Result<(SessionKey, AcquireMode), ErrorCode> {
    let (group, member) = (request.group_id.as_deref(), request.member_id.as_deref());
    let session = member_of(broker, group, member)?;
    let wants = [request.max_bytes, request.min_bytes, request.max_records, request.max_wait_ms];
    if request.is_renew_ack && wants != [0; 4] {
        return Err(ErrorCode::InvalidRequest);
    }
    let mode = AcquireMode::from_id(request.share_acquire_mode);
    Ok((session, mode.ok_or(ErrorCode::UnknownServerError)?))
}

/// The partitions that exist, and what is told of the others.
fn sort_out(
    image: &Image,
    partitions: Vec<PartitionKey>,
) -> (Vec<PartitionKey>, BTreeMap<PartitionKey, ErrorCode>) {
    let (mut known, mut wrong) = (Vec::new(), BTreeMap::new());
    for key in partitions {
        match exists(image, key) {
            Ok(()) => known.push(key),
            Err(code) => _ = wrong.insert(key, code),
        }
    }
    (known, wrong)
}

fn exists(image: &Image, (topic, partition): PartitionKey) -> Result<(), ErrorCode> {
    if image.topics().by_id(topic).is_none() {
        return Err(ErrorCode::UnknownTopicId);
    }
    let known = image.topics().partition(topic, partition);
    known.map(|_| ()).ok_or(ErrorCode::UnknownTopicOrPartition)
}

fn ask(
    broker: &Broker,
    request: &ShareFetchRequest,
    session: SessionKey,
    mode: AcquireMode,
    mut partitions: Vec<PartitionKey>,
) -> ShareFetchAsk {
    // Each request of a session begins with another partition (`PartitionRotateStrategy`).
    if let Ok(epoch @ 1..) = usize::try_from(request.share_session_epoch)
        && !partitions.is_empty()
    {
        let by = epoch % partitions.len();
        partitions.rotate_left(by);
    }
    let size = |n: i32| usize::try_from(n).unwrap_or(0);
    let bytes_max =
        size(request.max_bytes).min(size(broker.settings.replica.client_fetch_max_bytes));
    ShareFetchAsk {
        session,
        partitions,
        bytes_min: size(request.min_bytes).min(bytes_max),
        bytes_max,
        records_max: request.max_records,
        batch_size: request.batch_size,
        mode,
    }
}

/// How acknowledgements are read.
#[derive(Clone, Copy)]
struct AckTerms {
    version: i16,
    /// Whether the request says that it renews locks.
    is_renew: bool,
}

impl AckTerms {
    /// What a member says of one partition (`KafkaApis.validateAcknowledgementBatches`).
    fn read(self, batches: &[AcknowledgementBatch]) -> Result<Vec<AckBatch>, ErrorCode> {
        let mut spoken_to = -1;
        let read = |b: &AcknowledgementBatch| {
            let types = b.acknowledge_types.iter().map(|id| self.kind(*id));
            let types: Option<Vec<_>> = types.collect();
            let batch = AckBatch { first: b.first_offset, last: b.last_offset, types: types? };
            let in_order = batch.first >= spoken_to;
            spoken_to = batch.last;
            (in_order && batch.is_sound()).then_some(batch)
        };
        let all: Option<Vec<_>> = batches.iter().map(read).collect();
        all.ok_or(ErrorCode::InvalidRequest)
    }

    fn kind(self, id: i8) -> Option<AckType> {
        let renews = self.version >= RENEWS_FROM && self.is_renew;
        AckType::from_id(id).filter(|kind| *kind != AckType::Renew || renews)
    }
}

/// What becomes of the acknowledgements of one partition.
type AckUnderWay = (PartitionKey, Result<Option<oneshot::Receiver<Acked>>, ErrorCode>);

fn acknowledge<'a>(
    broker: &Broker,
    image: &Image,
    session: &SessionKey,
    said: impl Iterator<Item = (PartitionKey, &'a [AcknowledgementBatch])>,
    terms: AckTerms,
) -> Vec<AckUnderWay> {
    let one = |(key, batches): (PartitionKey, &[AcknowledgementBatch])| {
        let begun = match exists(image, key) {
            Err(code @ ErrorCode::UnknownTopicId) => Err(code),
            exists => terms.read(batches).and_then(|acks| {
                exists?;
                let some = !acks.is_empty();
                Ok(some.then(|| broker.share.acknowledge(session, key, &acks)))
            }),
        };
        (key, begun)
    };
    said.map(one).collect()
}

async fn results(acks: Vec<AckUnderWay>) -> BTreeMap<PartitionKey, ErrorCode> {
    let mut out = BTreeMap::new();
    for (key, under_way) in acks {
        let code = match under_way {
            Ok(Some(told)) => told.await.unwrap_or(Err(ErrorCode::NotLeaderOrFollower)),
            Ok(None) => Ok(()),
            Err(code) => Err(code),
        };
        out.insert(key, code.err().unwrap_or(ErrorCode::None));
    }
    out
}

/// How a fetch is answered.
struct Answer {
    session: SessionKey,
    epoch: i32,
    /// Partitions that do not exist.
    wrong: BTreeMap<PartitionKey, ErrorCode>,
}

impl Answer {
    fn of_fetch(
        self,
        broker: &Broker,
        caller: &Caller,
        fetch: ShareFetch,
        acked: BTreeMap<PartitionKey, ErrorCode>,
    ) -> ShareFetchResponse {
        let Self { session, epoch, wrong } = self;
        let mut response = ShareFetchResponse {
            acquisition_lock_timeout_ms: broker.share.settings_of(&session.group).lock_duration_ms,
            ..Default::default()
        };
        let mut data: Vec<(PartitionKey, SharePartitionData)> = fetch
            .done()
            .chain(wrong.into_iter().map(|(key, code)| (key, Err(code))))
            .map(|(key, result)| (key, partition_data(key, result)))
            .collect();
        if epoch != INITIAL_EPOCH && epoch != FINAL_EPOCH {
            let mut sessions = broker.share.sessions();
            if sessions.is_current(&session, epoch) {
                data.retain(|(key, data)| {
                    let records = !data.acquired_records.is_empty();
                    let error = data.error_code != ErrorCode::None;
                    sessions.tell(&session, *key, Told { records, error })
                });
            } else {
                response.error_code = ErrorCode::InvalidShareSessionEpoch;
                data.clear();
            }
        }
        add_acks(&mut data, acked);
        let mut places: BTreeMap<Uuid, usize> = BTreeMap::new();
        let mut leaders = Leaders::new(broker, caller);
        for (key, mut data) in data {
            data.current_leader = leaders.point(key, data.error_code);
            let at = *places.entry(key.0).or_insert_with(|| {
                let topic_id = key.0;
                let topic = ShareFetchableTopicResponse { topic_id, ..Default::default() };
                response.responses.push(topic);
                response.responses.len() - 1
            });
            response.responses[at].partitions.push(data);
        }
        response.node_endpoints = leaders.endpoints;
        if epoch == FINAL_EPOCH {
            broker.share.end_session(&session);
        }
        response
    }
}

fn partition_data(key: PartitionKey, result: Result<Got, ErrorCode>) -> SharePartitionData {
    let partition_index = key.1;
    match result {
        Ok(got) if !got.acquired.is_empty() => SharePartitionData {
            partition_index,
            records: Records::from_slices(got.records),
            acquired_records: got
                .acquired
                .iter()
                .map(|a| AcquiredRecords {
                    first_offset: a.first,
                    last_offset: a.last,
                    delivery_count: a.deliveries,
                })
                .collect(),
            ..Default::default()
        },
        other => SharePartitionData {
            partition_index,
            error_code: other.err().unwrap_or(ErrorCode::None),
            records: Records::EMPTY,
            ..Default::default()
        },
    }
}

/// Tells of each partition what became of its acknowledgements.
fn add_acks(
    data: &mut Vec<(PartitionKey, SharePartitionData)>,
    mut acked: BTreeMap<PartitionKey, ErrorCode>,
) {
    for (key, data) in data.iter_mut() {
        if let Some(code) = acked.remove(key) {
            data.acknowledge_error_code = code;
        }
    }
    data.extend(acked.into_iter().map(|(key, code)| {
        let empty = partition_data(key, Ok(Got::default()));
        (key, SharePartitionData { acknowledge_error_code: code, ..empty })
    }));
}

fn acknowledged(
    broker: &Broker,
    caller: &Caller,
    session: &SessionKey,
    acked: BTreeMap<PartitionKey, ErrorCode>,
) -> ShareAcknowledgeResponse {
    let mut leaders = Leaders::new(broker, caller);
    let mut responses: Vec<ShareAcknowledgeTopicResponse> = Vec::new();
    for (key, error_code) in acked {
        let partition = ShareAcknowledgePartitionData {
            partition_index: key.1,
            error_code,
            error_message: None,
            current_leader: leaders.point(key, error_code),
        };
        match responses.last_mut().filter(|t| t.topic_id == key.0) {
            Some(topic) => topic.partitions.push(partition),
            None => responses.push(ShareAcknowledgeTopicResponse {
                topic_id: key.0,
                partitions: vec![partition],
            }),
        }
    }
    ShareAcknowledgeResponse {
        acquisition_lock_timeout_ms: broker.share.settings_of(&session.group).lock_duration_ms,
        responses,
        node_endpoints: leaders.endpoints,
        ..Default::default()
    }
}

/// Where clients are sent that asked the wrong broker.
struct Leaders<'a> {
    image: Arc<Image>,
    caller: &'a Caller,
    named: BTreeSet<i32>,
    endpoints: Vec<NodeEndpoint>,
}

impl<'a> Leaders<'a> {
    fn new(broker: &Broker, caller: &'a Caller) -> Self {
        let image = broker.image();
        Self { image, caller, named: BTreeSet::new(), endpoints: Vec::new() }
    }

    /// The leader of a partition of which `code` is told; nothing if it is not that.
    fn point(&mut self, (topic, partition): PartitionKey, code: ErrorCode) -> ShareLeader {
        if !matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch) {
            return ShareLeader::default();
        }
        let unknown = ShareLeader { leader_id: -1, leader_epoch: -1 };
        let Some(led) = self.image.topics().partition(topic, partition) else { return unknown };
        let leader_epoch = led.leader_epoch;
        let Some(leader) = led.leader else { return ShareLeader { leader_id: -1, leader_epoch } };
        if self.named.insert(leader.0)
            && let Some(node) = endpoint(&self.image, leader, &self.caller.listener)
        {
            self.endpoints.push(node);
        }
        ShareLeader { leader_id: leader.0, leader_epoch }
    }
}
