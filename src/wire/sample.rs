//! Random messages for tests, drawn from a seed. Every field that the version carries is filled;
//! the others keep their defaults, so that a message equals itself after a round trip.

use bytes::Bytes;

use super::{api, codec::Ver, message::Request, records::Records};
use crate::base::{ErrorCode, Uuid};

/// A seeded source of numbers (SplitMix64).
#[derive(Debug, Clone)]
pub struct Source(u64);

impl Source {
    /// A source that always yields the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        usize::try_from(self.next_u64().checked_rem(n).unwrap_or_default()).unwrap_or_default()
    }
}

/// A type of which random values can be drawn.
pub trait Sample: Sized {
    /// A random value that `ver` can carry.
    fn sample(g: &mut Source, ver: Ver) -> Self;
}

macro_rules! integers {
    ($($t:ty),*) => { $(
        impl Sample for $t {
            /// Edges as often as anything else.
            fn sample(g: &mut Source, _: Ver) -> Self {
                let bytes = g.next_u64().to_le_bytes();
                match g.below(6) {
                    0 => Self::MIN,
                    1 => Self::MAX,
                    2 => 0,
                    3 => 1,
                    _ => bytes.first_chunk().copied().map_or(0, Self::from_le_bytes),
                }
            }
        }
    )* };
}

integers!(i8, i16, u16, i32, i64);

impl Sample for bool {
    fn sample(g: &mut Source, _: Ver) -> Self {
        g.below(2) == 1
    }
}

impl Sample for ErrorCode {
    fn sample(g: &mut Source, _: Ver) -> Self {
        i16::try_from(g.below(134)).map_or(Self::None, Self::from_code)
    }
}

impl Sample for Uuid {
    fn sample(g: &mut Source, _: Ver) -> Self {
        let mut out = [0; 16];
        if g.below(4) > 0 {
            out.fill_with(|| g.next_u64().to_le_bytes()[0]);
        }
        Self(out)
    }
}

impl Sample for String {
    /// Mostly short; now and then longer than a one-byte length can say.
    fn sample(g: &mut Source, _: Ver) -> Self {
        let len =
            if g.below(40) == 0 { 100_usize.saturating_add(g.below(200)) } else { g.below(9) };
        let letters = ['a', 'Z', '0', '.', '-', '_', 'é', '漢', '🦀', '\0'];
        (0..len).filter_map(|_| letters.get(g.below(letters.len()))).collect()
    }
}

impl Sample for Bytes {
    fn sample(g: &mut Source, _: Ver) -> Self {
        let len = if g.below(40) == 0 { 5000 } else { g.below(20) };
        (0..len).map(|_| g.next_u64().to_le_bytes()[0]).collect()
    }
}

impl Sample for Records {
    fn sample(g: &mut Source, ver: Ver) -> Self {
        if g.below(4) == 0 { Self::Null } else { Self::Bytes(Bytes::sample(g, ver)) }
    }
}

impl<T: Sample> Sample for Vec<T> {
    fn sample(g: &mut Source, ver: Ver) -> Self {
        let len = g.below(4);
        (0..len).map(|_| T::sample(g, ver)).collect()
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(g: &mut Source, ver: Ver) -> Self {
        (g.below(3) > 0).then(|| T::sample(g, ver))
    }
}

/// Does something with every API.
pub trait Visitor {
    /// Called once for each API.
    fn visit<M>(&mut self)
    where
        M: Request<Response: Sample> + Sample;
}

macro_rules! every_request {
    ($($file:ident::$name:ident,)*) => {
        /// Shows every API to `visitor`, in the order of their numbers.
        pub fn every_request(visitor: &mut impl Visitor) {
            $( visitor.visit::<api::$file::$name>(); )*
        }
    };
}

every_request! {
    produce::ProduceRequest,
    fetch::FetchRequest,
    offsets::ListOffsetsRequest,
    metadata::MetadataRequest,
    group_offsets::OffsetCommitRequest,
    group_offsets::OffsetFetchRequest,
    groups::FindCoordinatorRequest,
    groups::JoinGroupRequest,
    groups::HeartbeatRequest,
    groups::LeaveGroupRequest,
    groups::SyncGroupRequest,
    groups::DescribeGroupsRequest,
    groups::ListGroupsRequest,
    versions::ApiVersionsRequest,
    topics::CreateTopicsRequest,
    topics::DeleteTopicsRequest,
    offsets::DeleteRecordsRequest,
    cluster::InitProducerIdRequest,
    offsets::OffsetForLeaderEpochRequest,
    txn::AddPartitionsToTxnRequest,
    txn::AddOffsetsToTxnRequest,
    txn::EndTxnRequest,
    txn::WriteTxnMarkersRequest,
    txn::TxnOffsetCommitRequest,
    configs::DescribeConfigsRequest,
    configs::AlterConfigsRequest,
    cluster::AlterReplicaLogDirsRequest,
    cluster::DescribeLogDirsRequest,
    topics::CreatePartitionsRequest,
    groups::DeleteGroupsRequest,
    partitions::ElectLeadersRequest,
    configs::IncrementalAlterConfigsRequest,
    partitions::AlterPartitionReassignmentsRequest,
    partitions::ListPartitionReassignmentsRequest,
    group_offsets::OffsetDeleteRequest,
    quorum::DescribeQuorumRequest,
    cluster::UpdateFeaturesRequest,
    metadata::DescribeClusterRequest,
    offsets::DescribeProducersRequest,
    cluster::UnregisterBrokerRequest,
    txn::DescribeTransactionsRequest,
    txn::ListTransactionsRequest,
    consumer_groups::ConsumerGroupHeartbeatRequest,
    consumer_groups::ConsumerGroupDescribeRequest,
    configs::ListConfigResourcesRequest,
    metadata::DescribeTopicPartitionsRequest,
    share_groups::ShareGroupHeartbeatRequest,
    share_groups::ShareGroupDescribeRequest,
    share_fetch::ShareFetchRequest,
    share_fetch::ShareAcknowledgeRequest,
    quorum::AddRaftVoterRequest,
    quorum::RemoveRaftVoterRequest,
    quorum::UpdateRaftVoterRequest,
    share_state::InitializeShareGroupStateRequest,
    share_state::ReadShareGroupStateRequest,
    share_state::WriteShareGroupStateRequest,
    share_state::DeleteShareGroupStateRequest,
    share_state::ReadShareGroupStateSummaryRequest,
    share_groups::DescribeShareGroupOffsetsRequest,
    share_groups::AlterShareGroupOffsetsRequest,
    share_groups::DeleteShareGroupOffsetsRequest,
}
