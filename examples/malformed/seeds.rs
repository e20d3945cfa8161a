//! Valid frames to mutate: every API a client may send, at every version the kafka-protocol crate
//! knows, with strings, arrays and a record batch filled in.

use bytes::{Bytes, BytesMut};
use kafka_protocol::{
    messages::{
        ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest,
        DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
        DescribeGroupsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
        DescribeTopicPartitionsRequest, FetchRequest, FindCoordinatorRequest, GroupId,
        HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest,
        LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, MetadataRequest,
        OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest,
        ProduceRequest, RequestHeader, SyncGroupRequest, TopicName, UpdateFeaturesRequest,
        create_partitions_request::CreatePartitionsTopic,
        create_topics_request::{CreatableTopic, CreatableTopicConfig},
        delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
        describe_configs_request::DescribeConfigsResource,
        fetch_request::{FetchPartition, FetchTopic},
        incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
        join_group_request::JoinGroupRequestProtocol,
        list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
        metadata_request::MetadataRequestTopic,
        offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
        produce_request::{PartitionProduceData, TopicProduceData},
        sync_group_request::SyncGroupRequestAssignment,
    },
    protocol::{Encodable, HeaderVersion, Message, StrBytes},
};

use crate::batches;

/// The topic that mutated frames name; nobody else uses it.
pub(crate) const TOPIC: &str = "mutated";

fn text(value: &'static str) -> StrBytes {
    StrBytes::from_static_str(value)
}

fn topic() -> TopicName {
    TopicName(text(TOPIC))
}

/// Appends the frames of one request, one a version, without the length prefix.
fn all<T: Encodable + HeaderVersion + Message>(out: &mut Vec<Bytes>, key: i16, request: &T) {
    for version in T::VERSIONS.min..=T::VERSIONS.max {
        let header = RequestHeader::default()
            .with_request_api_key(key)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(Some(text("malformed")));
        let mut frame = BytesMut::new();
        // A value that this version cannot carry: the next one can.
        if header.encode(&mut frame, T::header_version(version)).is_ok()
            && request.encode(&mut frame, version).is_ok()
        {
            out.push(frame.freeze());
        }
    }
}

/// The frames, without length prefixes.
pub(crate) fn frames() -> Vec<Bytes> {
    let mut out = Vec::new();
    data(&mut out);
    topics(&mut out);
    groups(&mut out);
    all(&mut out, 18, &ApiVersionsRequest::default());
    all(&mut out, 60, &DescribeClusterRequest::default());
    all(&mut out, 35, &DescribeLogDirsRequest::default());
    all(&mut out, 57, &UpdateFeaturesRequest::default());
    all(&mut out, 61, &DescribeProducersRequest::default());
    all(&mut out, 75, &DescribeTopicPartitionsRequest::default());
    out
}

fn data(out: &mut Vec<Bytes>) {
    let partition = PartitionProduceData::default().with_records(Some(batches::good().into()));
    let produce =
        TopicProduceData::default().with_name(topic()).with_partition_data(vec![partition]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(100);
    all(out, 0, &request.with_topic_data(vec![produce]));
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let fetch = FetchTopic::default().with_topic(topic()).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_bytes(1 << 20).with_session_id(0);
    all(out, 1, &request.with_session_epoch(-1).with_topics(vec![fetch]));
    let partition = ListOffsetsPartition::default().with_timestamp(-1);
    let list = ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![partition]);
    all(out, 2, &ListOffsetsRequest::default().with_topics(vec![list]));
    let metadata = MetadataRequestTopic::default().with_name(Some(topic()));
    all(out, 3, &MetadataRequest::default().with_topics(Some(vec![metadata])));
    let request = InitProducerIdRequest::default();
    all(out, 22, &request.with_transaction_timeout_ms(1000));
    all(out, 23, &OffsetForLeaderEpochRequest::default());
}

fn topics(out: &mut Vec<Bytes>) {
    let config = CreatableTopicConfig::default()
        .with_name(text("retention.ms"))
        .with_value(Some(text("1000")));
    let create = CreatableTopic::default()
        .with_name(topic())
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(vec![config]);
    all(out, 19, &CreateTopicsRequest::default().with_topics(vec![create]).with_timeout_ms(100));
    all(out, 20, &DeleteTopicsRequest::default().with_topic_names(vec![topic()]));
    let more = CreatePartitionsTopic::default().with_name(topic()).with_count(2);
    all(out, 37, &CreatePartitionsRequest::default().with_topics(vec![more]));
    let partition = DeleteRecordsPartition::default().with_offset(1);
    let delete = DeleteRecordsTopic::default().with_name(topic()).with_partitions(vec![partition]);
    all(out, 21, &DeleteRecordsRequest::default().with_topics(vec![delete]));
    let resource =
        DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text(TOPIC));
    all(out, 32, &DescribeConfigsRequest::default().with_resources(vec![resource]));
    let config =
        AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("1000")));
    let resource = AlterConfigsResource::default()
        .with_resource_type(2)
        .with_resource_name(text(TOPIC))
        .with_configs(vec![config]);
    all(out, 44, &IncrementalAlterConfigsRequest::default().with_resources(vec![resource]));
}

fn groups(out: &mut Vec<Bytes>) {
    let group = || GroupId(text(TOPIC));
    all(out, 10, &FindCoordinatorRequest::default().with_key(text(TOPIC)));
    let keys = vec![text(TOPIC)];
    all(out, 10, &FindCoordinatorRequest::default().with_coordinator_keys(keys));
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 0]));
    let join = JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(6000)
        .with_rebalance_timeout_ms(100)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    all(out, 11, &join);
    all(out, 12, &HeartbeatRequest::default().with_group_id(group()));
    all(out, 13, &LeaveGroupRequest::default().with_group_id(group()));
    let assignment = SyncGroupRequestAssignment::default().with_member_id(text("m"));
    let sync = SyncGroupRequest::default().with_group_id(group());
    all(out, 14, &sync.with_assignments(vec![assignment]));
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(5);
    let commit = OffsetCommitRequestTopic::default().with_name(topic());
    let request = OffsetCommitRequest::default().with_group_id(group());
    let commit = commit.with_partitions(vec![partition]);
    all(out, 8, &request.with_generation_id_or_member_epoch(-1).with_topics(vec![commit]));
    all(out, 9, &OffsetFetchRequest::default().with_group_id(group()));
    all(out, 15, &DescribeGroupsRequest::default().with_groups(vec![group()]));
    all(out, 16, &ListGroupsRequest::default());
    all(out, 42, &DeleteGroupsRequest::default().with_groups_names(vec![group()]));
    all(out, 47, &OffsetDeleteRequest::default().with_group_id(group()));
}
