//! Records to and from protobuf. What comes from disk or network is checked here, so that a
//! [`Record`] is always well formed. Uses `base` and `pb`.

use std::sync::Arc;

use bytes::Bytes;
use prost::{Message as _, encoding::encoded_len_varint};

use crate::base::{NodeId, PartitionId, Uuid};
use crate::pb::metadata as pb;
use crate::pb::metadata::record::Kind;

use super::{
    brokers::{Endpoint, VersionRange},
    configs::{ConfigResource, ResourceType},
    record::{
        BrokerRegistrationChange, Partition, PartitionChange, Record, RegisterBroker,
        RegisterController,
    },
    topics::{Exceptional, LeaderRecoveryState, PartitionRegistration},
};

/// Bytes that are not records of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Not protobuf of the batch's shape.
    #[error("metadata batch does not decode: {0}")]
    Malformed(String),
    /// A newer node wrote it.
    #[error(
        "metadata record of a kind that this version does not know: this node is too old for the \
         cluster's metadata.version"
    )]
    UnknownKind,
    /// A field breaks a rule.
    #[error("metadata record {kind}: {field} {rule}")]
    Field {
        /// The record's kind.
        kind: &'static str,
        /// The field.
        field: &'static str,
        /// What it must be.
        rule: &'static str,
    },
}

/// The bytes of one entry that holds `records`.
#[must_use]
pub fn encode_batch(records: &[Record]) -> Bytes {
    pb::RecordBatch { records: records.iter().map(to_pb).collect() }.encode_to_vec().into()
}

/// How many bytes one record takes within a batch.
#[must_use]
pub fn encoded_len(record: &Record) -> usize {
    let len = match record {
        // There may be millions of these: they are measured without being made.
        Record::Partition(p) => 4 + partition_len(p),
        Record::PartitionChange(c) => 4 + change_len(c),
        other => to_pb(other).encoded_len(),
    };
    // Tag, length prefix (at most five bytes below 32 GiB), content.
    len + 6
}

/// The length of an id field.
const UUID_LEN: usize = 18;

/// The length of a number field; at most, where the number is 0 and left out.
fn number_len(v: i32) -> usize {
    1 + encoded_len_varint(i64::from(v).cast_unsigned())
}

fn nodes_len(ids: &[NodeId]) -> usize {
    // Tag, and a length prefix that allows for 3000 nodes.
    3 + ids.iter().map(|id| number_len(id.0) - 1).sum::<usize>()
}

fn partition_len(p: &Partition) -> usize {
    let s = &p.state;
    let lists = [&*s.replicas, &*s.isr, s.adding(), s.removing(), s.elr(), s.last_known_elr()];
    let numbers = [p.partition, leader_to_pb(s.leader), s.leader_epoch, s.partition_epoch, 0];
    UUID_LEN * (1 + s.directories.len())
        + lists.into_iter().map(nodes_len).sum::<usize>()
        + numbers.into_iter().map(number_len).sum::<usize>()
}

fn change_len(c: &PartitionChange) -> usize {
    let lists = [&c.replicas, &c.isr, &c.adding, &c.removing, &c.elr, &c.last_known_elr];
    let lists = lists.into_iter().flatten().map(|ids| 3 + nodes_len(ids));
    let directories = c.directories.as_ref().map_or(0, |d| 4 + UUID_LEN * d.len());
    let leader = c.leader.map_or(0, |l| number_len(leader_to_pb(l)));
    UUID_LEN + number_len(c.partition) + lists.sum::<usize>() + directories + leader + 2
}

/// The records of one entry.
///
/// # Errors
/// See [`RecordError`].
pub fn decode_batch(bytes: impl Into<Bytes>) -> Result<Vec<Record>, RecordError> {
    let batch = pb::RecordBatch::decode(bytes.into());
    let batch = batch.map_err(|e| RecordError::Malformed(e.to_string()))?;
    batch.records.into_iter().map(from_pb).collect()
}

fn uuid_bytes(id: Uuid) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

fn uuids(ids: &[Uuid]) -> Vec<Bytes> {
    ids.iter().map(|id| uuid_bytes(*id)).collect()
}

fn nodes(ids: &[NodeId]) -> Vec<i32> {
    ids.iter().map(|id| id.0).collect()
}

fn node_list(ids: Option<&Vec<NodeId>>) -> Option<pb::NodeList> {
    ids.map(|v| pb::NodeList { nodes: nodes(v) })
}

fn uuid_list(ids: Option<&Vec<Uuid>>) -> Option<pb::UuidList> {
    ids.map(|v| pb::UuidList { ids: uuids(v) })
}

fn endpoints(list: &[Endpoint]) -> Vec<pb::Endpoint> {
    let one = |e: &Endpoint| pb::Endpoint {
        name: e.name.to_string(),
        host: e.host.to_string(),
        port: u32::from(e.port),
        security_protocol: i32::from(e.security_protocol),
    };
    list.iter().map(one).collect()
}

fn ranges(list: &[(Arc<str>, VersionRange)]) -> Vec<pb::FeatureRange> {
    let one = |(name, r): &(Arc<str>, VersionRange)| pb::FeatureRange {
        name: name.to_string(),
        min: i32::from(r.min),
        max: i32::from(r.max),
    };
    list.iter().map(one).collect()
}

fn leader_to_pb(leader: Option<NodeId>) -> i32 {
    leader.map_or(-1, |l| l.0)
}

fn to_pb(record: &Record) -> pb::Record {
    let kind = match record {
        Record::NoOp => Kind::NoOp(pb::NoOp {}),
        Record::FeatureLevel { name, level } => {
            Kind::FeatureLevel(pb::FeatureLevel { name: name.to_string(), level: (*level).into() })
        }
        Record::RegisterBroker(r) => Kind::RegisterBroker(broker_to_pb(r)),
        Record::BrokerRegistrationChange(c) => {
            Kind::BrokerRegistrationChange(pb::BrokerRegistrationChange {
                broker_id: c.id.0,
                broker_epoch: c.epoch,
                fenced: c.fenced,
                in_controlled_shutdown: c.in_controlled_shutdown,
                log_dirs: uuid_list(c.log_dirs.as_ref()),
                cordoned_log_dirs: uuid_list(c.cordoned_dirs.as_ref()),
            })
        }
        Record::UnregisterBroker { broker, epoch } => {
            Kind::UnregisterBroker(pb::UnregisterBroker {
                broker_id: broker.0,
                broker_epoch: *epoch,
            })
        }
        Record::RegisterController(r) => Kind::RegisterController(pb::RegisterController {
            controller_id: r.id.0,
            incarnation_id: uuid_bytes(r.incarnation),
            endpoints: endpoints(&r.endpoints),
            features: ranges(&r.features),
        }),
        Record::Topic { name, id } => {
            Kind::Topic(pb::Topic { name: name.to_string(), topic_id: uuid_bytes(*id) })
        }
        Record::Partition(p) => Kind::Partition(partition_to_pb(p)),
        Record::PartitionChange(c) => Kind::PartitionChange(change_to_pb(c)),
        Record::RemoveTopic { id } => {
            Kind::RemoveTopic(pb::RemoveTopic { topic_id: uuid_bytes(*id) })
        }
        Record::Config { resource, key, value } => Kind::Config(pb::Config {
            resource_type: resource.kind.code().into(),
            resource_name: resource.name.to_string(),
            key: key.clone(),
            value: value.clone(),
        }),
        Record::ClearElr { topic } => {
            Kind::ClearElr(pb::ClearElr { topic_id: topic.map(uuid_bytes) })
        }
        Record::ProducerIds { broker, epoch, next } => Kind::ProducerIds(pb::ProducerIds {
            broker_id: broker.0,
            broker_epoch: *epoch,
            next_producer_id: *next,
        }),
    };
    pb::Record { kind: Some(kind) }
}

fn broker_to_pb(r: &RegisterBroker) -> pb::RegisterBroker {
    pb::RegisterBroker {
        broker_id: r.id.0,
        incarnation_id: uuid_bytes(r.incarnation),
        broker_epoch: r.epoch,
        endpoints: endpoints(&r.endpoints),
        features: ranges(&r.features),
        rack: r.rack.as_ref().map(ToString::to_string),
        log_dirs: uuids(&r.log_dirs),
        fenced: r.fenced,
        in_controlled_shutdown: r.in_controlled_shutdown,
        cordoned_log_dirs: uuid_list(r.cordoned_dirs.as_ref()),
    }
}

fn partition_to_pb(p: &Partition) -> pb::Partition {
    let s = &p.state;
    pb::Partition {
        topic_id: uuid_bytes(p.topic_id),
        partition: p.partition,
        replicas: nodes(&s.replicas),
        directories: uuids(&s.directories),
        isr: nodes(&s.isr),
        adding_replicas: nodes(s.adding()),
        removing_replicas: nodes(s.removing()),
        leader: leader_to_pb(s.leader),
        leader_epoch: s.leader_epoch,
        partition_epoch: s.partition_epoch,
        leader_recovery_state: s.recovery.code().into(),
        elr: nodes(s.elr()),
        last_known_elr: nodes(s.last_known_elr()),
    }
}

fn change_to_pb(c: &PartitionChange) -> pb::PartitionChange {
    pb::PartitionChange {
        topic_id: uuid_bytes(c.topic_id),
        partition: c.partition,
        replicas: node_list(c.replicas.as_ref()),
        directories: uuid_list(c.directories.as_ref()),
        isr: node_list(c.isr.as_ref()),
        adding_replicas: node_list(c.adding.as_ref()),
        removing_replicas: node_list(c.removing.as_ref()),
        leader: c.leader.map(leader_to_pb),
        leader_recovery_state: c.recovery.map(|r| r.code().into()),
        elr: node_list(c.elr.as_ref()),
        last_known_elr: node_list(c.last_known_elr.as_ref()),
    }
}

/// Checks the fields of one record, and names it where one is wrong.
struct Check(&'static str);

impl Check {
    const fn wrong(&self, field: &'static str, rule: &'static str) -> RecordError {
        RecordError::Field { kind: self.0, field, rule }
    }

    fn uuid(&self, field: &'static str, b: &Bytes) -> Result<Uuid, RecordError> {
        let id = <[u8; 16]>::try_from(b.as_ref());
        id.map(Uuid).map_err(|_| self.wrong(field, "must be 16 bytes"))
    }

    fn uuids(&self, field: &'static str, list: &[Bytes]) -> Result<Vec<Uuid>, RecordError> {
        list.iter().map(|b| self.uuid(field, b)).collect()
    }

    fn node(&self, field: &'static str, id: i32) -> Result<NodeId, RecordError> {
        if id < 0 {
            return Err(self.wrong(field, "must not be negative"));
        }
        Ok(NodeId(id))
    }

    fn nodes(&self, field: &'static str, list: &[i32]) -> Result<Vec<NodeId>, RecordError> {
        list.iter().map(|id| self.node(field, *id)).collect()
    }

    fn node_list(
        &self,
        field: &'static str,
        list: Option<&pb::NodeList>,
    ) -> Result<Option<Vec<NodeId>>, RecordError> {
        list.map(|l| self.nodes(field, &l.nodes)).transpose()
    }

    fn uuid_list(
        &self,
        field: &'static str,
        list: Option<&pb::UuidList>,
    ) -> Result<Option<Vec<Uuid>>, RecordError> {
        list.map(|l| self.uuids(field, &l.ids)).transpose()
    }

    fn partition(&self, p: PartitionId) -> Result<PartitionId, RecordError> {
        if p < 0 {
            return Err(self.wrong("partition", "must not be negative"));
        }
        Ok(p)
    }

    fn leader(&self, id: i32) -> Result<Option<NodeId>, RecordError> {
        if id == -1 { Ok(None) } else { self.node("leader", id).map(Some) }
    }

    fn recovery(&self, code: i32) -> Result<LeaderRecoveryState, RecordError> {
        LeaderRecoveryState::from_code(code)
            .ok_or_else(|| self.wrong("leader_recovery_state", "must be 0 or 1"))
    }

    fn level(&self, field: &'static str, v: i32) -> Result<i16, RecordError> {
        i16::try_from(v).map_err(|_| self.wrong(field, "must fit 16 bits"))
    }

    fn endpoints(&self, list: Vec<pb::Endpoint>) -> Result<Vec<Endpoint>, RecordError> {
        let one = |e: pb::Endpoint| {
            let port = u16::try_from(e.port);
            Ok(Endpoint {
                name: e.name.into(),
                host: e.host.into(),
                port: port.map_err(|_| self.wrong("endpoints.port", "must be below 65536"))?,
                security_protocol: self
                    .level("endpoints.security_protocol", e.security_protocol)?,
            })
        };
        list.into_iter().map(one).collect()
    }

    fn ranges(
        &self,
        list: Vec<pb::FeatureRange>,
    ) -> Result<Vec<(Arc<str>, VersionRange)>, RecordError> {
        let one = |r: pb::FeatureRange| {
            let (min, max) = (self.level("features", r.min)?, self.level("features", r.max)?);
            if min < 0 || max < min {
                return Err(self.wrong("features", "must have 0 <= min <= max"));
            }
            Ok((r.name.into(), VersionRange { min, max }))
        };
        list.into_iter().map(one).collect()
    }
}

fn from_pb(record: pb::Record) -> Result<Record, RecordError> {
    Ok(match record.kind.ok_or(RecordError::UnknownKind)? {
        Kind::NoOp(_) => Record::NoOp,
        Kind::FeatureLevel(r) => {
            let level = Check("FeatureLevel").level("level", r.level)?;
            Record::FeatureLevel { name: r.name.into(), level }
        }
        Kind::RegisterBroker(r) => Record::RegisterBroker(broker_from_pb(r)?),
        Kind::BrokerRegistrationChange(r) => {
            let c = Check("BrokerRegistrationChange");
            let log_dirs = c.uuid_list("log_dirs", r.log_dirs.as_ref())?;
            let cordoned = c.uuid_list("cordoned_log_dirs", r.cordoned_log_dirs.as_ref())?;
            Record::BrokerRegistrationChange(BrokerRegistrationChange {
                id: c.node("broker_id", r.broker_id)?,
                epoch: r.broker_epoch,
                fenced: r.fenced,
                in_controlled_shutdown: r.in_controlled_shutdown,
                log_dirs: log_dirs.map(sorted),
                cordoned_dirs: cordoned.map(sorted),
            })
        }
        Kind::UnregisterBroker(r) => {
            let broker = Check("UnregisterBroker").node("broker_id", r.broker_id)?;
            Record::UnregisterBroker { broker, epoch: r.broker_epoch }
        }
        Kind::RegisterController(r) => {
            let c = Check("RegisterController");
            Record::RegisterController(RegisterController {
                id: c.node("controller_id", r.controller_id)?,
                incarnation: c.uuid("incarnation_id", &r.incarnation_id)?,
                endpoints: c.endpoints(r.endpoints)?,
                features: c.ranges(r.features)?,
            })
        }
        Kind::Topic(r) => {
            let id = Check("Topic").uuid("topic_id", &r.topic_id)?;
            Record::Topic { name: r.name.into(), id }
        }
        Kind::Partition(r) => Record::Partition(partition_from_pb(&r)?),
        Kind::PartitionChange(r) => Record::PartitionChange(change_from_pb(&r)?),
        Kind::RemoveTopic(r) => {
            Record::RemoveTopic { id: Check("RemoveTopic").uuid("topic_id", &r.topic_id)? }
        }
        Kind::Config(r) => {
            let kind = ResourceType::from_code(r.resource_type);
            let known = "must be 2, 4, 16 or 32";
            let kind = kind.ok_or_else(|| Check("Config").wrong("resource_type", known))?;
            let resource = ConfigResource { kind, name: r.resource_name.into() };
            Record::Config { resource, key: r.key, value: r.value }
        }
        Kind::ClearElr(r) => {
            let c = Check("ClearElr");
            let topic = r.topic_id.map(|id| c.uuid("topic_id", &id)).transpose()?;
            Record::ClearElr { topic }
        }
        Kind::ProducerIds(r) => Record::ProducerIds {
            broker: NodeId(r.broker_id),
            epoch: r.broker_epoch,
            next: r.next_producer_id,
        },
    })
}

fn sorted(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort_unstable();
    ids
}

fn broker_from_pb(r: pb::RegisterBroker) -> Result<RegisterBroker, RecordError> {
    let c = Check("RegisterBroker");
    Ok(RegisterBroker {
        id: c.node("broker_id", r.broker_id)?,
        incarnation: c.uuid("incarnation_id", &r.incarnation_id)?,
        epoch: r.broker_epoch,
        endpoints: c.endpoints(r.endpoints)?,
        features: c.ranges(r.features)?,
        rack: r.rack.map(Into::into),
        log_dirs: sorted(c.uuids("log_dirs", &r.log_dirs)?),
        fenced: r.fenced,
        in_controlled_shutdown: r.in_controlled_shutdown,
        cordoned_dirs: c.uuid_list("cordoned_log_dirs", r.cordoned_log_dirs.as_ref())?.map(sorted),
    })
}

fn partition_from_pb(r: &pb::Partition) -> Result<Partition, RecordError> {
    let c = Check("Partition");
    let mut state = PartitionRegistration {
        replicas: c.nodes("replicas", &r.replicas)?.into(),
        directories: c.uuids("directories", &r.directories)?.into(),
        isr: c.nodes("isr", &r.isr)?.into(),
        leader: c.leader(r.leader)?,
        leader_epoch: r.leader_epoch,
        partition_epoch: r.partition_epoch,
        recovery: c.recovery(r.leader_recovery_state)?,
        exceptional: None,
    };
    state.set_exceptional(Exceptional {
        adding: c.nodes("adding_replicas", &r.adding_replicas)?,
        removing: c.nodes("removing_replicas", &r.removing_replicas)?,
        elr: c.nodes("elr", &r.elr)?,
        last_known_elr: c.nodes("last_known_elr", &r.last_known_elr)?,
    });
    Ok(Partition {
        topic_id: c.uuid("topic_id", &r.topic_id)?,
        partition: c.partition(r.partition)?,
        state,
    })
}

fn change_from_pb(r: &pb::PartitionChange) -> Result<PartitionChange, RecordError> {
    let c = Check("PartitionChange");
    Ok(PartitionChange {
        topic_id: c.uuid("topic_id", &r.topic_id)?,
        partition: c.partition(r.partition)?,
        replicas: c.node_list("replicas", r.replicas.as_ref())?,
        directories: c.uuid_list("directories", r.directories.as_ref())?,
        isr: c.node_list("isr", r.isr.as_ref())?,
        adding: c.node_list("adding_replicas", r.adding_replicas.as_ref())?,
        removing: c.node_list("removing_replicas", r.removing_replicas.as_ref())?,
        leader: r.leader.map(|l| c.leader(l)).transpose()?,
        recovery: r.leader_recovery_state.map(|s| c.recovery(s)).transpose()?,
        elr: c.node_list("elr", r.elr.as_ref())?,
        last_known_elr: c.node_list("last_known_elr", r.last_known_elr.as_ref())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_newer_version_is_refused() {
        // Field 1 of the batch, a record of 3 bytes whose member is 99 (wire type 2, length 0).
        let newer = [0x0a, 0x03, 0x9a, 0x06, 0x00];
        assert_eq!(decode_batch(newer.to_vec()), Err(RecordError::UnknownKind));
        assert!(matches!(decode_batch(vec![0x0a, 0x7f]), Err(RecordError::Malformed(_))));
    }

    #[test]
    fn partitions_are_measured_without_being_made() {
        let ids = |n: i32| (0..n).map(|i| NodeId(i * 1000)).collect::<Vec<_>>();
        for n in [1, 3, 500] {
            let dirs = vec![Uuid([7; 16]); usize::try_from(n).unwrap()];
            let mut state = PartitionRegistration::new(&ids(n), &dirs, &ids(n));
            state.set_exceptional(Exceptional { elr: ids(n), ..Exceptional::default() });
            let (topic_id, partition) = (Uuid([9; 16]), 100_000);
            let whole = Record::Partition(Partition { topic_id, partition, state });
            let change = Record::PartitionChange(PartitionChange {
                isr: Some(ids(n)),
                directories: Some(dirs),
                leader: Some(None),
                recovery: Some(LeaderRecoveryState::Recovering),
                ..PartitionChange::of(topic_id, partition)
            });
            let small = Record::PartitionChange(PartitionChange::of(topic_id, 0));
            for record in [whole, change, small] {
                let bytes = encode_batch(std::slice::from_ref(&record)).len();
                let measured = encoded_len(&record);
                assert!((bytes..bytes + 40).contains(&measured), "{bytes} {measured}: {record:?}");
            }
        }
    }

    #[test]
    fn bad_fields_are_named() {
        let bytes = |kind| {
            pb::RecordBatch { records: vec![pb::Record { kind: Some(kind) }] }.encode_to_vec()
        };
        let short = Kind::Topic(pb::Topic { name: "t".into(), topic_id: Bytes::from_static(&[1]) });
        let text = decode_batch(bytes(short)).unwrap_err().to_string();
        assert_eq!(text, "metadata record Topic: topic_id must be 16 bytes");
        let wrong = Kind::Config(pb::Config { resource_type: 8, ..Default::default() });
        let text = decode_batch(bytes(wrong)).unwrap_err().to_string();
        assert_eq!(text, "metadata record Config: resource_type must be 2, 4, 16 or 32");
    }
}
