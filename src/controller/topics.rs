//! CreateTopics (`ReplicationControlManager.createTopics`). Each topic is one group of records:
//! the topic, its configuration, its partitions.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::limits::PARTITIONS_PER_CREATE_MAX;
use crate::base::{ErrorCode, Mutant, NodeId, PartitionId, Uuid, mutant};
use crate::metadata::configs::Properties;
use crate::metadata::record::Partition;
use crate::metadata::{ConfigResource, PartitionRegistration, Record};
use crate::pb::controller as pb;

use super::{
    command::{Outcome, Refusal, SubmitBody},
    placement::{Placer, Usable},
    topic_names,
    turn::Turn,
};

/// Replicas and in-sync replicas of one new partition.
pub(super) type Placed = (Vec<NodeId>, Vec<NodeId>);

fn assignment_refused(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidReplicaAssignment, text)
}

fn failed(name: &str, e: Refusal) -> pb::CreatableTopicResult {
    pb::CreatableTopicResult {
        name: name.to_owned(),
        topic_id: Bytes::copy_from_slice(&Uuid::ZERO.0),
        error: e.number(),
        error_message: e.message,
        num_partitions: -1,
        replication_factor: -1,
        ..pb::CreatableTopicResult::default()
    }
}

/// How many partitions a request asks for, at most.
fn partitions_asked(c: &pb::CreateTopics, default: i32) -> usize {
    let one = |t: &pb::CreatableTopic| {
        if !t.assignments.is_empty() {
            return t.assignments.len();
        }
        let n = if t.num_partitions == -1 { default } else { t.num_partitions };
        usize::try_from(n).unwrap_or(0)
    };
    c.topics.iter().map(one).fold(0, usize::saturating_add)
}

fn configs_of(t: &pb::CreatableTopic) -> Result<Properties, Refusal> {
    let null = |e: &&pb::ConfigEntry| e.value.is_none();
    let nulls: Vec<&str> = t.configs.iter().filter(null).map(|e| e.name.as_str()).collect();
    if !nulls.is_empty() {
        let text = format!("Null value not supported for topic configs: {}", nulls.join(","));
        return Err(Refusal::new(ErrorCode::InvalidConfig, text));
    }
    let pair = |e: &pb::ConfigEntry| Some((e.name.clone(), e.value.clone()?));
    Ok(t.configs.iter().filter_map(pair).collect())
}

impl Turn<'_> {
    pub(super) fn create_topics(&mut self, c: &pb::CreateTopics) -> Outcome {
        let asked = partitions_asked(c, self.settings.defaults.num_partitions);
        let too_many = asked > PARTITIONS_PER_CREATE_MAX;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for t in &c.topics {
            *counts.entry(&t.name).or_default() += 1;
        }
        let describable: BTreeSet<&str> = c.describable.iter().map(String::as_str).collect();
        let (mut seen, mut taken) = (BTreeSet::new(), BTreeSet::new());
        let mut topics = Vec::with_capacity(c.topics.len());
        for t in c.topics.iter().filter(|t| seen.insert(t.name.as_str())) {
            let result = if too_many {
                let text = "Excessively large number of partitions per request.";
                Err(Refusal::new(ErrorCode::PolicyViolation, text))
            } else if counts.get(t.name.as_str()).is_some_and(|n| *n > 1) {
                Err(Refusal::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
            } else {
                let may_show = describable.contains(t.name.as_str());
                self.create_topic(t, c.validate_only, may_show, &mut taken)
            };
            topics.push(result.unwrap_or_else(|e| failed(&t.name, e)));
        }
        Outcome::submit(0, None, SubmitBody::CreateTopics(pb::CreateTopicsReply { topics }))
    }

    fn create_topic(
        &mut self,
        t: &pb::CreatableTopic,
        validate_only: bool,
        may_show: bool,
        taken: &mut BTreeSet<String>,
    ) -> Result<pb::CreatableTopicResult, Refusal> {
        self.check_name(&t.name, taken)?;
        let resource = ConfigResource::topic(t.name.as_str());
        let configs = configs_of(t)?;
        self.check_values(&configs)?;
        self.settings
            .schema
            .validate(&resource, &configs, &Properties::new())
            .map_err(|text| Refusal::new(ErrorCode::InvalidConfig, text))?;
        let placed = if t.assignments.is_empty() { self.placed(t) } else { self.assigned(t) }?;
        let mut id = self.draw_topic_id();
        if mutant(Mutant::TopicIdReused) {
            id = t
                .name
                .bytes()
                .fold(Uuid([1; 16]), |Uuid(id), b| Uuid(id.map(|i| i.rotate_left(3) ^ b)));
        }
        let count = PartitionId::try_from(placed.len()).unwrap_or(PartitionId::MAX);
        let factor = placed.first().map_or(0, |(replicas, _)| replicas.len());
        if !validate_only {
            let mut records = vec![Record::Topic { name: t.name.as_str().into(), id }];
            records.extend(configs.iter().map(|(key, value)| Record::Config {
                resource: resource.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            }));
            records.extend(self.partition_records(id, 0, &placed));
            self.draft.push_group(records)?;
        }
        taken.insert(topic_names::unified(&t.name));
        let mut result = pb::CreatableTopicResult {
            name: t.name.clone(),
            topic_id: Bytes::copy_from_slice(&id.0),
            num_partitions: -1,
            replication_factor: -1,
            topic_config_error: ErrorCode::TopicAuthorizationFailed.code().into(),
            ..pb::CreatableTopicResult::default()
        };
        if may_show {
            result.num_partitions = count;
            result.replication_factor = i32::try_from(factor).unwrap_or(i32::MAX);
            result.topic_config_error = 0;
            result.configs = self.shown_configs(&configs);
        }
        Ok(result)
    }

    fn check_name(&self, name: &str, taken: &BTreeSet<String>) -> Result<(), Refusal> {
        if name == topic_names::CLUSTER_METADATA {
            let text = format!("Creation of internal topic {name} is prohibited.");
            return Err(Refusal::new(ErrorCode::InvalidRequest, text));
        }
        let invalid = |text| Refusal::new(ErrorCode::InvalidTopicException, text);
        topic_names::check(name).map_err(invalid)?;
        let topics = self.image().topics();
        if topics.id_of(name).is_some() {
            let text = format!("Topic '{name}' already exists.");
            return Err(Refusal::new(ErrorCode::TopicAlreadyExists, text));
        }
        let other = topic_names::colliding(topics, name).map(str::to_owned);
        let other = other.or_else(|| taken.get(&topic_names::unified(name)).cloned());
        if let Some(other) = other {
            let text = format!("Topic '{name}' collides with existing topic: {other}");
            return Err(invalid(text));
        }
        Ok(())
    }

    fn shown_configs(&self, configs: &Properties) -> Vec<pb::CreatableTopicConfig> {
        let cluster = self.image().configs().keys_of(&ConfigResource::all_brokers());
        let all = self.settings.schema.effective_topic(configs, &cluster);
        all.into_iter()
            .map(|e| pb::CreatableTopicConfig {
                name: e.name,
                value: e.value.filter(|_| !e.sensitive),
                read_only: e.read_only,
                source: e.source.into(),
                is_sensitive: e.sensitive,
            })
            .collect()
    }

    /// Where the placer puts the partitions of a topic without assignments.
    fn placed(&mut self, t: &pb::CreatableTopic) -> Result<Vec<Placed>, Refusal> {
        if t.replication_factor < -1 || t.replication_factor == 0 {
            let text = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, text));
        }
        if t.num_partitions < -1 || t.num_partitions == 0 {
            let text = "Number of partitions was set to an invalid non-positive value.";
            return Err(Refusal::new(ErrorCode::InvalidPartitions, text));
        }
        let d = &self.settings.defaults;
        let count = if t.num_partitions == -1 { d.num_partitions } else { t.num_partitions };
        let factor = match t.replication_factor {
            -1 => i32::from(d.replication_factor),
            given => given,
        };
        let unable = |e: Refusal| {
            let why = e.message.unwrap_or_default();
            let text = format!("Unable to replicate the partition {factor} time(s): {why}");
            Refusal::new(e.code, text)
        };
        self.place(usize::try_from(count).unwrap_or(0), usize::try_from(factor).unwrap_or(0))
            .map_err(unable)
    }

    /// Places new partitions over the brokers.
    pub(super) fn place(&mut self, count: usize, factor: usize) -> Result<Vec<Placed>, Refusal> {
        let brokers = self.draft.image().brokers();
        // One that is fenced has ended its shutdown, and may come back.
        let usable = brokers.iter().filter(|b| b.fenced || !b.in_controlled_shutdown);
        let usable = usable.filter(|b| b.takes_replicas());
        let usable = usable.map(|b| Usable { id: b.id, rack: b.rack.clone(), fenced: b.fenced });
        let placed = Placer::new(usable, self.rng).place(count, factor)?;
        placed
            .into_iter()
            .map(|replicas| {
                let isr = self.active_of(&replicas);
                if isr.is_empty() {
                    let text = "All brokers are currently fenced or in controlled shutdown.";
                    return Err(Refusal::new(ErrorCode::InvalidReplicationFactor, text));
                }
                Ok((replicas, isr))
            })
            .collect()
    }

    fn active_of(&self, replicas: &[NodeId]) -> Vec<NodeId> {
        let brokers = self.image().brokers();
        replicas.iter().copied().filter(|n| brokers.is_active(*n)).collect()
    }

    /// What the client assigned.
    fn assigned(&self, t: &pb::CreatableTopic) -> Result<Vec<Placed>, Refusal> {
        for (given, what) in
            [(t.replication_factor, "replication factor"), (t.num_partitions, "numPartitions")]
        {
            if given != -1 {
                let text = format!(
                    "A manual partition assignment was specified, but {what} was not set to -1."
                );
                return Err(Refusal::new(ErrorCode::InvalidRequest, text));
            }
        }
        let mut by_partition: BTreeMap<i32, Placed> = BTreeMap::new();
        let mut factor = None;
        for a in &t.assignments {
            let p = a.partition;
            if by_partition.contains_key(&p) {
                let text = format!("Found multiple manual partition assignments for partition {p}");
                return Err(assignment_refused(text));
            }
            let placed = self.check_assignment(p, &a.broker_ids, factor)?;
            factor = Some(a.broker_ids.len());
            by_partition.insert(p, placed);
        }
        if by_partition.keys().zip(0..).any(|(p, i)| *p != i) {
            let text = "partitions should be a consecutive 0-based integer sequence";
            return Err(assignment_refused(text));
        }
        Ok(by_partition.into_values().collect())
    }

    /// Checks the replicas of one assigned partition; with `factor`, there must be so many
    /// (`validateManualPartitionAssignment`).
    pub(super) fn check_replicas(
        &self,
        broker_ids: &[i32],
        factor: Option<usize>,
    ) -> Result<(), Refusal> {
        if broker_ids.is_empty() {
            let text = "The manual partition assignment includes an empty replica list.";
            return Err(assignment_refused(text));
        }
        let mut seen = BTreeSet::new();
        let mut sorted: Vec<NodeId> = broker_ids.iter().map(|id| NodeId(*id)).collect();
        sorted.sort_unstable();
        for id in sorted {
            if self.image().brokers().get(id).is_none() {
                return Err(assignment_refused(format!(
                    "The manual partition assignment includes broker {id}, but no such broker is \
                     registered."
                )));
            }
            if !seen.insert(id) {
                return Err(assignment_refused(format!(
                    "The manual partition assignment includes the broker {id} more than once."
                )));
            }
        }
        if let Some(factor) = factor.filter(|f| *f != broker_ids.len()) {
            return Err(assignment_refused(format!(
                "The manual partition assignment includes a partition with {} replica(s), but \
                 this is not consistent with previous partitions, which have {factor} replica(s).",
                broker_ids.len()
            )));
        }
        Ok(())
    }

    /// Checks one assigned partition; with `factor`, it must have that many replicas.
    pub(super) fn check_assignment(
        &self,
        partition: PartitionId,
        broker_ids: &[i32],
        factor: Option<usize>,
    ) -> Result<Placed, Refusal> {
        self.check_replicas(broker_ids, factor)?;
        let replicas: Vec<NodeId> = broker_ids.iter().map(|id| NodeId(*id)).collect();
        let isr = self.active_of(&replicas);
        if isr.is_empty() {
            return Err(assignment_refused(format!(
                "All brokers specified in the manual partition assignment for partition \
                 {partition} are fenced or in controlled shutdown."
            )));
        }
        Ok((replicas, isr))
    }

    /// Records of new partitions, the first of which has number `first`.
    pub(super) fn partition_records(
        &self,
        topic_id: Uuid,
        first: PartitionId,
        placed: &[Placed],
    ) -> Vec<Record> {
        let record = |(partition, (replicas, isr)): (PartitionId, &Placed)| {
            let dirs: Vec<Uuid> = replicas.iter().map(|n| self.default_dir(*n)).collect();
            let state = PartitionRegistration::new(replicas, &dirs, isr);
            Record::Partition(Partition { topic_id, partition, state })
        };
        (first..).zip(placed).map(record).collect()
    }
}
