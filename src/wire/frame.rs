//! The table of APIs, request and response headers, and whole frames. Uses `base`.
//!
//! A frame is a length of 4 bytes, a header and a body. The length is read by `net`; all functions
//! here that decode take a frame without it, all that encode put it in front.

use bytes::Bytes;

use super::{
    codec::{Chunk, DecodeError, EncodeError, Prefix, Reader, Ver, Writer},
    fields::{Field as _, Nullable as _},
    message::{Message, Request},
};

/// Headers carry text with a 16-bit length even where the body is flexible.
const HEADER: Ver = Ver { v: 0, flexible: false };

macro_rules! apis {
    ($($name:ident = $code:literal, $min:literal..=$max:literal, $flexible:expr;)*) => {
        /// An API whose schemas are known, by the names and numbers of `ApiKeys.java`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ApiKey { $($name,)* }

        impl ApiKey {
            /// Every known API, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> i16 {
                match self { $(Self::$name => $code,)* }
            }

            /// The API with this number.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// Kafka's name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The lowest version that has a schema.
            #[must_use]
            pub const fn min_version(self) -> i16 {
                match self { $(Self::$name => $min,)* }
            }

            /// The highest version that has a schema.
            #[must_use]
            pub const fn max_version(self) -> i16 {
                match self { $(Self::$name => $max,)* }
            }

            /// The first flexible version; `None` if none is.
            #[must_use]
            pub const fn first_flexible(self) -> Option<i16> {
                match self { $(Self::$name => $flexible,)* }
            }
        }
    };
}

apis! {
    Produce = 0, 3..=13, Some(9);
    Fetch = 1, 4..=18, Some(12);
    ListOffsets = 2, 1..=11, Some(6);
    Metadata = 3, 0..=13, Some(9);
    OffsetCommit = 8, 2..=10, Some(8);
    OffsetFetch = 9, 1..=10, Some(6);
    FindCoordinator = 10, 0..=6, Some(3);
    JoinGroup = 11, 0..=9, Some(6);
    Heartbeat = 12, 0..=4, Some(4);
    LeaveGroup = 13, 0..=5, Some(4);
    SyncGroup = 14, 0..=5, Some(4);
    DescribeGroups = 15, 0..=6, Some(5);
    ListGroups = 16, 0..=5, Some(3);
    ApiVersions = 18, 0..=4, Some(3);
    CreateTopics = 19, 2..=7, Some(5);
    DeleteTopics = 20, 1..=6, Some(4);
    DeleteRecords = 21, 0..=2, Some(2);
    InitProducerId = 22, 0..=5, Some(2);
    OffsetForLeaderEpoch = 23, 2..=4, Some(4);
    AddPartitionsToTxn = 24, 0..=5, Some(3);
    AddOffsetsToTxn = 25, 0..=4, Some(3);
    EndTxn = 26, 0..=5, Some(3);
    WriteTxnMarkers = 27, 1..=2, Some(1);
    TxnOffsetCommit = 28, 0..=5, Some(3);
    DescribeConfigs = 32, 1..=4, Some(4);
    AlterConfigs = 33, 0..=2, Some(2);
    AlterReplicaLogDirs = 34, 1..=2, Some(2);
    DescribeLogDirs = 35, 1..=5, Some(2);
    CreatePartitions = 37, 0..=3, Some(2);
    DeleteGroups = 42, 0..=2, Some(2);
    ElectLeaders = 43, 0..=2, Some(2);
    IncrementalAlterConfigs = 44, 0..=1, Some(1);
    AlterPartitionReassignments = 45, 0..=1, Some(0);
    ListPartitionReassignments = 46, 0..=0, Some(0);
    OffsetDelete = 47, 0..=0, None;
    DescribeQuorum = 55, 0..=2, Some(0);
    UpdateFeatures = 57, 0..=2, Some(0);
    DescribeCluster = 60, 0..=2, Some(0);
    DescribeProducers = 61, 0..=0, Some(0);
    UnregisterBroker = 64, 0..=0, Some(0);
    DescribeTransactions = 65, 0..=0, Some(0);
    ListTransactions = 66, 0..=2, Some(0);
    ConsumerGroupHeartbeat = 68, 0..=1, Some(0);
    ConsumerGroupDescribe = 69, 0..=1, Some(0);
    ListConfigResources = 74, 0..=1, Some(0);
    DescribeTopicPartitions = 75, 0..=0, Some(0);
    ShareGroupHeartbeat = 76, 1..=1, Some(0);
    ShareGroupDescribe = 77, 1..=1, Some(0);
    ShareFetch = 78, 1..=2, Some(0);
    ShareAcknowledge = 79, 1..=2, Some(0);
    AddRaftVoter = 80, 0..=1, Some(0);
    RemoveRaftVoter = 81, 0..=0, Some(0);
    UpdateRaftVoter = 82, 0..=0, Some(0);
    InitializeShareGroupState = 83, 0..=0, Some(0);
    ReadShareGroupState = 84, 0..=0, Some(0);
    WriteShareGroupState = 85, 0..=1, Some(0);
    DeleteShareGroupState = 86, 0..=0, Some(0);
    ReadShareGroupStateSummary = 87, 0..=1, Some(0);
    DescribeShareGroupOffsets = 90, 0..=1, Some(0);
    AlterShareGroupOffsets = 91, 0..=0, Some(0);
    DeleteShareGroupOffsets = 92, 0..=0, Some(0);
}

impl ApiKey {
    /// Whether `version` has a schema.
    #[must_use]
    pub const fn supports(self, version: i16) -> bool {
        version >= self.min_version() && version <= self.max_version()
    }

    /// How `version` is read and written; `None` if it has no schema.
    #[must_use]
    pub fn ver(self, version: i16) -> Option<Ver> {
        self.supports(version).then(|| Ver { v: version, flexible: self.is_flexible(version) })
    }

    /// Whether `version` is flexible (KIP-482), be it known or yet to come.
    #[must_use]
    pub fn is_flexible(self, version: i16) -> bool {
        self.first_flexible().is_some_and(|first| version >= first)
    }

    /// The version of the request header: 2 with tagged fields, 1 without.
    #[must_use]
    pub fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// The version of the response header: 1 with tagged fields, 0 without. ApiVersions always
    /// answers with 0, so that a client that guessed too high a version can read the answer.
    #[must_use]
    pub fn response_header_version(self, version: i16) -> i16 {
        i16::from(self != Self::ApiVersions && self.is_flexible(version))
    }
}

impl std::fmt::Display for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What stands before every request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestHeader {
    /// The number of the API, known or not.
    pub api_key: i16,
    /// The version of the API, served or not.
    pub version: i16,
    /// What the client matches the answer by.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<String>,
}

impl RequestHeader {
    /// The API, if it is known.
    #[must_use]
    pub fn api(&self) -> Option<ApiKey> {
        ApiKey::from_code(self.api_key)
    }
}

/// Reads a request header and leaves `r` at the body. Works for every number and version, so that
/// the caller decides: an unknown API or version closes the connection, but for an unknown version
/// of ApiVersions, which is answered in version 0.
///
/// # Errors
/// As the bytes are wrong.
pub fn decode_request_header(r: &mut Reader<'_>) -> Result<RequestHeader, DecodeError> {
    let header = RequestHeader {
        api_key: i16::read(r, HEADER)?,
        version: i16::read(r, HEADER)?,
        correlation_id: i32::read(r, HEADER)?,
        client_id: String::read_nullable(r, HEADER)?,
    };
    if header.api().is_some_and(|api| api.is_flexible(header.version)) {
        r.skip_tagged()?;
    }
    Ok(header)
}

/// A request frame, with the length in front.
///
/// # Errors
/// `UnsupportedVersion`, or `TooLong` if a field has no room in its length prefix.
pub fn encode_request<M: Request>(
    correlation_id: i32,
    client_id: Option<&str>,
    request: &M,
    version: i16,
) -> Result<Vec<Chunk>, EncodeError> {
    let mut w = Writer::with_capacity(256);
    0_i32.write(&mut w, HEADER);
    M::KEY.code().write(&mut w, HEADER);
    version.write(&mut w, HEADER);
    correlation_id.write(&mut w, HEADER);
    w.length(HEADER, Prefix::Short, client_id.map(str::len));
    w.put(client_id.unwrap_or_default().as_bytes());
    if M::KEY.is_flexible(version) {
        w.uvarint(0);
    }
    request.encode(&mut w, version)?;
    w.finish_frame()
}

/// Reads a response header of `api` and leaves `r` at the body. Returns the correlation id.
///
/// # Errors
/// As the bytes are wrong.
pub fn decode_response_header(
    r: &mut Reader<'_>,
    api: ApiKey,
    version: i16,
) -> Result<i32, DecodeError> {
    let correlation_id = i32::read(r, HEADER)?;
    if api.response_header_version(version) > 0 {
        r.skip_tagged()?;
    }
    Ok(correlation_id)
}

/// A response frame, with the length in front. Record batches that lie in files stay there, as
/// pieces of their own.
///
/// # Errors
/// `UnsupportedVersion`, or `TooLong` if a field has no room in its length prefix.
pub fn encode_response<M: Message>(
    correlation_id: i32,
    response: &M,
    version: i16,
) -> Result<Vec<Chunk>, EncodeError> {
    let mut w = Writer::with_capacity(256);
    0_i32.write(&mut w, HEADER);
    correlation_id.write(&mut w, HEADER);
    if M::KEY.response_header_version(version) > 0 {
        w.uvarint(0);
    }
    response.encode(&mut w, version)?;
    w.finish_frame()
}

/// Reads a whole response frame (without its length): correlation id and body.
///
/// # Errors
/// As the bytes are wrong.
pub fn decode_response<M: Message>(frame: &Bytes, version: i16) -> Result<(i32, M), DecodeError> {
    let mut r = Reader::new(frame);
    let correlation_id = decode_response_header(&mut r, M::KEY, version)?;
    Ok((correlation_id, M::decode(&mut r, version)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::ErrorCode,
        wire::{
            api::{groups::FindCoordinatorRequest, versions::ApiVersionsResponse},
            codec::to_bytes,
        },
    };

    #[test]
    fn numbers_and_versions_are_in_order() {
        assert!(ApiKey::ALL.is_sorted_by_key(|k| k.code()));
        for key in ApiKey::ALL {
            assert_eq!(ApiKey::from_code(key.code()), Some(*key));
            assert!(key.min_version() <= key.max_version());
        }
        assert_eq!(ApiKey::from_code(4), None, "LeaderAndIsr is gone");
        assert_eq!(ApiKey::OffsetDelete.request_header_version(0), 1);
        assert_eq!(ApiKey::ApiVersions.request_header_version(99), 2);
    }

    #[test]
    fn api_versions_is_answered_under_header_0_in_every_version() {
        let response = ApiVersionsResponse {
            error_code: ErrorCode::UnsupportedVersion,
            ..ApiVersionsResponse::default()
        };
        let v3 = to_bytes(&encode_response(9, &response, 3).unwrap()).unwrap();
        assert_eq!(v3[..], [0, 0, 0, 12, 0, 0, 0, 9, 0, 35, 1, 0, 0, 0, 0, 0]);
        let v0 = to_bytes(&encode_response(9, &response, 0).unwrap()).unwrap();
        assert_eq!(v0[..], [0, 0, 0, 10, 0, 0, 0, 9, 0, 35, 0, 0, 0, 0]);
    }

    #[test]
    fn a_flexible_request_has_tags_after_a_client_id_that_is_not_compact() {
        let request = FindCoordinatorRequest {
            coordinator_keys: vec!["g".into()],
            ..FindCoordinatorRequest::default()
        };
        let frame = to_bytes(&encode_request(7, Some("ab"), &request, 4).unwrap()).unwrap();
        let header = [0, 10, 0, 4, 0, 0, 0, 7, 0, 2, b'a', b'b', 0];
        assert_eq!(frame[..4], [0, 0, 0, 18]);
        assert_eq!(frame[4..17], header);
        assert_eq!(frame[17..], [0, 2, 2, b'g', 0]);
    }

    #[test]
    fn headers_of_unknown_apis_and_versions_are_read() {
        let frame = Bytes::from_static(&[0x03, 0xe8, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 1, 2, 3]);
        let mut r = Reader::new(&frame);
        let header = decode_request_header(&mut r).unwrap();
        assert_eq!((header.api_key, header.api(), header.correlation_id), (1000, None, 7));
        assert_eq!(r.remaining(), 3);
        // ApiVersions in a version yet to come: its header has tagged fields, here one of 2 bytes.
        let frame = Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 7, 0, 0, 1, 5, 2, 0xaa, 0xbb, 3]);
        let mut r = Reader::new(&frame);
        assert_eq!(decode_request_header(&mut r).unwrap().version, 99);
        assert_eq!(r.remaining(), 1);
    }
}
