//! Every schema against a second opinion, the `kafka-protocol` crate, and against itself: round
//! trips, every truncation, every flipped byte, unknown tagged fields.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages as theirs,
    protocol::{Decodable, Encodable, Message as TheirMessage},
};
use vltava::wire::{
    DecodeError, Message, Reader, Request, Ver,
    api::{
        cluster, configs, consumer_groups, fetch, group_offsets, groups, metadata, offsets,
        partitions, produce, quorum, share_fetch, share_groups, share_state, topics, txn, versions,
    },
    frame::{self, ApiKey},
    sample::{Sample, Source, Visitor, every_request},
};

const SAMPLES: u64 = 60;

/// Versions of Kafka 4.3.1 that `kafka-protocol` does not know; these make round trips only.
const OURS_ALONE: &[(&str, i16)] = &[
    ("AddRaftVoterRequest", 1),
    ("AddRaftVoterResponse", 1),
    ("DescribeLogDirsRequest", 5),
    ("DescribeLogDirsResponse", 5),
    ("DescribeShareGroupOffsetsRequest", 1),
    ("DescribeShareGroupOffsetsResponse", 1),
    ("ListOffsetsRequest", 11),
    ("ListOffsetsResponse", 11),
    ("OffsetCommitRequest", 10),
    ("OffsetCommitResponse", 10),
    ("OffsetFetchRequest", 10),
    ("OffsetFetchResponse", 10),
    ("ShareAcknowledgeRequest", 2),
    ("ShareAcknowledgeResponse", 2),
    ("ShareFetchRequest", 2),
    ("ShareFetchResponse", 2),
    ("ReadShareGroupStateSummaryRequest", 1),
    ("ReadShareGroupStateSummaryResponse", 1),
    ("WriteShareGroupStateRequest", 1),
    ("WriteShareGroupStateResponse", 1),
    ("WriteTxnMarkersRequest", 2),
    ("WriteTxnMarkersResponse", 2),
];

/// Messages with a nullable field whose default is empty to Kafka and null to us.
const NULL_BY_DEFAULT: &[&str] = &[
    "AddRaftVoterRequest",
    "AddRaftVoterResponse",
    "AlterPartitionReassignmentsResponse",
    "DescribeLogDirsRequest",
    "DescribeQuorumResponse",
    "ElectLeadersRequest",
    "FindCoordinatorResponse",
    "InitProducerIdRequest",
    "JoinGroupResponse",
    "ListPartitionReassignmentsResponse",
    "MetadataRequest",
    "OffsetFetchRequest",
    "RemoveRaftVoterRequest",
    "RemoveRaftVoterResponse",
    "ShareAcknowledgeRequest",
    "ShareFetchRequest",
    "UnregisterBrokerResponse",
    "UpdateFeaturesResponse",
    "UpdateRaftVoterRequest",
];

fn ver<M: Message>(version: i16) -> Ver {
    M::KEY.ver(version).unwrap()
}

fn sample<M: Message + Sample>(version: i16, seed: u64) -> M {
    let seed = seed * 1000 + u64::from(version.unsigned_abs()) * 100;
    M::sample(&mut Source::new(seed + u64::from(M::KEY.code().unsigned_abs())), ver::<M>(version))
}

fn decode<M: Message>(bytes: &Bytes, version: i16) -> Result<M, DecodeError> {
    M::decode(&mut Reader::new(bytes), version)
}

fn name_of<T>() -> &'static str {
    std::any::type_name::<T>().rsplit("::").next().unwrap()
}

fn round_trip<M: Message + Sample>(version: i16, seed: u64) -> (M, Bytes) {
    let ours: M = sample(version, seed);
    let bytes = ours.to_bytes(version).unwrap();
    assert_eq!(decode::<M>(&bytes, version), Ok(ours.clone()), "v{version} of {bytes:02x?}");
    (ours, bytes)
}

/// Ours → theirs → ours, by bytes and by value, in every version that both know.
fn agree<M: Message + Sample, T: Encodable + Decodable + TheirMessage + Default>() {
    for version in M::KEY.min_version()..=M::KEY.max_version() {
        let alone = OURS_ALONE.contains(&(name_of::<M>(), version));
        for seed in 0..SAMPLES {
            let (ours, bytes) = round_trip::<M>(version, seed);
            if alone {
                continue;
            }
            let context = || format!("{} v{version}: {ours:?}", name_of::<M>());
            let mut rest = bytes.clone();
            let t = T::decode(&mut rest, version).unwrap_or_else(|e| panic!("{e}: {}", context()));
            assert!(rest.is_empty(), "{} bytes left: {}", rest.len(), context());
            let mut back = BytesMut::new();
            t.encode(&mut back, version).unwrap_or_else(|e| panic!("{e}: {}", context()));
            assert_eq!(back, bytes, "{}", context());
        }
        let known = T::VERSIONS.min <= version && version <= T::VERSIONS.max;
        assert!(known || alone, "kafka-protocol lacks {} v{version}", name_of::<M>());
        if known {
            same_defaults::<M, T>(version);
        }
    }
}

/// What they write for a message that nobody filled, we read, write back, and write ourselves.
fn same_defaults<M: Message, T: Encodable + Default>(version: i16) {
    let mut bytes = BytesMut::new();
    if T::default().encode(&mut bytes, version).is_err() {
        return;
    }
    let bytes = bytes.freeze();
    let ours: M = decode(&bytes, version).unwrap();
    assert_eq!(ours.to_bytes(version).unwrap(), bytes, "{} v{version}", name_of::<M>());
    if !NULL_BY_DEFAULT.contains(&name_of::<M>()) {
        assert_eq!(M::default().to_bytes(version).unwrap(), bytes, "{} v{version}", name_of::<M>());
    }
}

macro_rules! agree {
    ($($file:ident $request:ident $response:ident;)*) => {
        #[test]
        fn requests_agree_with_kafka_protocol() {
            $( agree::<$file::$request, theirs::$request>(); )*
        }

        #[test]
        fn responses_agree_with_kafka_protocol() {
            $( agree::<$file::$response, theirs::$response>(); )*
        }

        #[test]
        fn no_api_is_left_out() {
            let mut compared = vec![$( <$file::$request as Message>::KEY ),*];
            compared.sort();
            assert_eq!(compared, ApiKey::ALL);
            let mut visited = Visited(Vec::new());
            every_request(&mut visited);
            assert_eq!(visited.0, ApiKey::ALL);
        }
    };
}

struct Visited(Vec<ApiKey>);

impl Visitor for Visited {
    fn visit<M: Request<Response: Sample> + Sample>(&mut self) {
        assert_eq!(M::KEY, <M::Response as Message>::KEY);
        self.0.push(M::KEY);
    }
}

agree! {
    cluster AlterReplicaLogDirsRequest AlterReplicaLogDirsResponse;
    cluster DescribeLogDirsRequest DescribeLogDirsResponse;
    cluster InitProducerIdRequest InitProducerIdResponse;
    cluster UnregisterBrokerRequest UnregisterBrokerResponse;
    cluster UpdateFeaturesRequest UpdateFeaturesResponse;
    configs AlterConfigsRequest AlterConfigsResponse;
    configs DescribeConfigsRequest DescribeConfigsResponse;
    configs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse;
    configs ListConfigResourcesRequest ListConfigResourcesResponse;
    consumer_groups ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse;
    consumer_groups ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse;
    fetch FetchRequest FetchResponse;
    group_offsets OffsetCommitRequest OffsetCommitResponse;
    group_offsets OffsetDeleteRequest OffsetDeleteResponse;
    group_offsets OffsetFetchRequest OffsetFetchResponse;
    groups DeleteGroupsRequest DeleteGroupsResponse;
    groups DescribeGroupsRequest DescribeGroupsResponse;
    groups FindCoordinatorRequest FindCoordinatorResponse;
    groups HeartbeatRequest HeartbeatResponse;
    groups JoinGroupRequest JoinGroupResponse;
    groups LeaveGroupRequest LeaveGroupResponse;
    groups ListGroupsRequest ListGroupsResponse;
    groups SyncGroupRequest SyncGroupResponse;
    metadata DescribeClusterRequest DescribeClusterResponse;
    metadata DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse;
    metadata MetadataRequest MetadataResponse;
    offsets DeleteRecordsRequest DeleteRecordsResponse;
    offsets DescribeProducersRequest DescribeProducersResponse;
    offsets ListOffsetsRequest ListOffsetsResponse;
    offsets OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse;
    partitions AlterPartitionReassignmentsRequest AlterPartitionReassignmentsResponse;
    partitions ElectLeadersRequest ElectLeadersResponse;
    partitions ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse;
    produce ProduceRequest ProduceResponse;
    quorum AddRaftVoterRequest AddRaftVoterResponse;
    quorum DescribeQuorumRequest DescribeQuorumResponse;
    quorum RemoveRaftVoterRequest RemoveRaftVoterResponse;
    quorum UpdateRaftVoterRequest UpdateRaftVoterResponse;
    share_fetch ShareAcknowledgeRequest ShareAcknowledgeResponse;
    share_fetch ShareFetchRequest ShareFetchResponse;
    share_groups AlterShareGroupOffsetsRequest AlterShareGroupOffsetsResponse;
    share_groups DeleteShareGroupOffsetsRequest DeleteShareGroupOffsetsResponse;
    share_groups DescribeShareGroupOffsetsRequest DescribeShareGroupOffsetsResponse;
    share_groups ShareGroupDescribeRequest ShareGroupDescribeResponse;
    share_groups ShareGroupHeartbeatRequest ShareGroupHeartbeatResponse;
    share_state DeleteShareGroupStateRequest DeleteShareGroupStateResponse;
    share_state InitializeShareGroupStateRequest InitializeShareGroupStateResponse;
    share_state ReadShareGroupStateRequest ReadShareGroupStateResponse;
    share_state ReadShareGroupStateSummaryRequest ReadShareGroupStateSummaryResponse;
    share_state WriteShareGroupStateRequest WriteShareGroupStateResponse;
    topics CreatePartitionsRequest CreatePartitionsResponse;
    topics CreateTopicsRequest CreateTopicsResponse;
    topics DeleteTopicsRequest DeleteTopicsResponse;
    txn AddOffsetsToTxnRequest AddOffsetsToTxnResponse;
    txn AddPartitionsToTxnRequest AddPartitionsToTxnResponse;
    txn DescribeTransactionsRequest DescribeTransactionsResponse;
    txn EndTxnRequest EndTxnResponse;
    txn ListTransactionsRequest ListTransactionsResponse;
    txn TxnOffsetCommitRequest TxnOffsetCommitResponse;
    txn WriteTxnMarkersRequest WriteTxnMarkersResponse;
    versions ApiVersionsRequest ApiVersionsResponse;
}

/// Runs a check over both directions of every API and version.
macro_rules! everywhere {
    ($name:ident, $check:ident, $seeds:expr) => {
        #[test]
        fn $name() {
            struct Each;
            impl Visitor for Each {
                fn visit<M: Request<Response: Sample> + Sample>(&mut self) {
                    for version in M::KEY.min_version()..=M::KEY.max_version() {
                        for seed in 0..$seeds {
                            $check::<M>(version, seed);
                            $check::<M::Response>(version, seed);
                        }
                    }
                }
            }
            every_request(&mut Each);
        }
    };
}

everywhere!(truncated_messages_are_refused_and_lengthened_ones_read, cut_and_extend, 5);
everywhere!(no_changed_byte_makes_a_panic, flip_each_byte, 3);
everywhere!(unknown_tagged_fields_are_passed_over, add_unknown_tag, 10);
everywhere!(versions_outside_the_range_are_refused, outside, 1);
everywhere!(frames_carry_headers_and_length, framed, 5);

fn cut_and_extend<M: Message + Sample>(version: i16, seed: u64) {
    let (ours, bytes) = round_trip::<M>(version, seed);
    for n in 0..bytes.len() {
        let cut = decode::<M>(&bytes.slice(..n), version);
        assert!(cut.is_err(), "{n} bytes of {} v{version}: {ours:?}", name_of::<M>());
    }
    let longer: Bytes = bytes.iter().copied().chain([0]).collect();
    assert_eq!(decode::<M>(&longer, version), Ok(ours), "Kafka passes over what follows");
}

fn flip_each_byte<M: Message + Sample>(version: i16, seed: u64) {
    let (_, bytes) = round_trip::<M>(version, seed);
    let mut changed = bytes.to_vec();
    for i in 0..bytes.len().min(400) {
        for value in [0, 0xff, bytes[i] ^ 1, bytes[i] ^ 0x80] {
            changed[i] = value;
            let _ = decode::<M>(&Bytes::copy_from_slice(&changed), version);
        }
        changed[i] = bytes[i];
    }
}

/// The default message of a flexible version ends in an empty list of tagged fields.
fn add_unknown_tag<M: Message + Sample>(version: i16, seed: u64) {
    if !ver::<M>(version).flexible {
        return;
    }
    let plain = M::default().to_bytes(version).unwrap();
    let (zero, head) = plain.split_last().unwrap();
    assert_eq!(*zero, 0);
    let len = u8::try_from(seed * 9).unwrap();
    let mut bytes = [head, &[1, 0xff, 0x7f, len][..]].concat();
    bytes.extend(std::iter::repeat_n(0xab, usize::from(len)));
    assert_eq!(decode::<M>(&Bytes::from(bytes), version), decode(&plain, version));
}

fn outside<M: Message + Sample>(_: i16, _: u64) {
    for version in [M::KEY.min_version() - 1, M::KEY.max_version() + 1, i16::MIN, i16::MAX] {
        let refused = decode::<M>(&Bytes::new(), version);
        assert_eq!(refused, Err(DecodeError::UnsupportedVersion(version)));
        assert!(M::default().to_bytes(version).is_err());
    }
}

fn framed<M: Message + Sample>(version: i16, seed: u64) {
    let (ours, body) = round_trip::<M>(version, seed);
    let chunks = frame::encode_response(77, &ours, version).unwrap();
    let bytes = vltava::wire::codec::to_bytes(&chunks).unwrap();
    let (len, frame) = bytes.split_first_chunk().unwrap();
    assert_eq!(i32::from_be_bytes(*len), i32::try_from(frame.len()).unwrap());
    assert!(frame.ends_with(&body));
    let frame = bytes.slice(4..);
    assert_eq!(frame::decode_response(&frame, version), Ok((77, ours)));
}

#[test]
fn request_headers_agree_with_kafka_protocol() {
    struct Each;
    impl Visitor for Each {
        fn visit<M: Request<Response: Sample> + Sample>(&mut self) {
            for version in M::KEY.min_version()..=M::KEY.max_version() {
                for client_id in [None, Some(""), Some("a client")] {
                    header::<M>(version, client_id);
                }
                let theirs = theirs::ApiKey::try_from(M::KEY.code()).unwrap();
                let response = theirs.response_header_version(version);
                assert_eq!(M::KEY.response_header_version(version), response);
            }
        }
    }
    every_request(&mut Each);
}

fn header<M: Request + Sample>(version: i16, client_id: Option<&str>) {
    let (ours, body) = round_trip::<M>(version, 1);
    let chunks = frame::encode_request(-5, client_id, &ours, version).unwrap();
    let bytes = vltava::wire::codec::to_bytes(&chunks).unwrap().slice(4..);

    let mut r = Reader::new(&bytes);
    let header = frame::decode_request_header(&mut r).unwrap();
    assert_eq!(header.api(), Some(M::KEY));
    assert_eq!((header.version, header.correlation_id), (version, -5));
    assert_eq!(header.client_id.as_deref(), client_id);
    assert_eq!(r.rest(), body);

    let key = theirs::ApiKey::try_from(M::KEY.code()).unwrap();
    let header_version = key.request_header_version(version);
    assert_eq!(M::KEY.request_header_version(version), header_version);
    let mut rest = bytes.clone();
    let theirs = theirs::RequestHeader::decode(&mut rest, header_version).unwrap();
    assert_eq!(theirs.client_id.as_deref(), client_id);
    assert_eq!((theirs.request_api_version, theirs.correlation_id), (version, -5));
    assert_eq!(rest, body);
}
