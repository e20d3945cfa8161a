//! A controller core with its log and its brokers, driven by calls: what the stories of placement
//! and leadership are told with.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use vltava::base::{ErrorCode, Mono, NodeId, Now, Uuid};
use vltava::controller::command::{SubmitBody, SubmitCommand};
use vltava::controller::{
    Command, ConfigSchema, Core, Draft, EffectiveConfig, Reply, Settings, TopicDefaults,
};
use vltava::metadata::configs::Properties;
use vltava::metadata::{
    ConfigResource, Image, LeaderRecoveryState, Loader, PartitionRegistration, Position, Record,
    ResourceType,
};
use vltava::pb::controller as pb;

/// A configuration table that accepts everything.
#[derive(Debug)]
struct AnyKey;

impl ConfigSchema for AnyKey {
    fn is_list(&self, _: ResourceType, _: &str) -> bool {
        false
    }

    fn default_value(&self, _: ResourceType, _: &str) -> Option<String> {
        None
    }

    fn validate(&self, _: &ConfigResource, _: &Properties, _: &Properties) -> Result<(), String> {
        Ok(())
    }

    fn effective_topic(&self, _: &Properties, _: &Properties) -> Vec<EffectiveConfig> {
        Vec::new()
    }
}

/// A code and its text, as a test compares them.
pub(crate) type Told = (ErrorCode, Option<String>);

/// Topic, partition, replicas, adding, removing of a move.
type Move = (String, i32, Vec<i32>, Vec<i32>, Vec<i32>);

/// See the file's head.
pub(crate) struct World {
    core: Core,
    loader: Loader,
    now_ms: u64,
    elr: bool,
    /// Records of each entry that was committed.
    pub(crate) entries: Vec<usize>,
    /// The life of each broker.
    lives: BTreeMap<i32, i32>,
}

fn uuid(n: i32) -> Bytes {
    Bytes::copy_from_slice(&id_of(n).0)
}

fn id_of(n: i32) -> Uuid {
    let mut id = [0; 16];
    id[8..12].copy_from_slice(&n.to_be_bytes());
    Uuid(id)
}

/// The id of directory `n` of a broker.
pub(crate) fn dir(broker: i32, n: i32) -> Uuid {
    id_of(broker * 100 + n)
}

fn settings(elr: bool) -> Settings {
    let level = |name: &str, level| Record::FeatureLevel { name: name.into(), level };
    let mut bootstrap = vec![level("metadata.version", 30)];
    bootstrap.extend(elr.then(|| level("eligible.leader.replicas.version", 1)));
    Settings {
        node: NodeId(0),
        cluster_id: "cluster".into(),
        controllers: vec![NodeId(0)],
        session_timeout_ms: 9000,
        rebalance_interval_ms: Some(300_000),
        unclean_interval_ms: 300_000,
        defaults: TopicDefaults {
            num_partitions: 1,
            replication_factor: 1,
            min_insync_replicas: 1,
            unclean_leader_election: false,
        },
        bootstrap,
        schema: Arc::new(AnyKey),
        seed: [7; 32],
    }
}

/// Numbers in a list.
pub(crate) fn numbers(nodes: &[NodeId]) -> Vec<i32> {
    nodes.iter().map(|n| n.0).collect()
}

/// An error code of an answer.
pub(crate) fn code(number: i32) -> ErrorCode {
    ErrorCode::from_code(i16::try_from(number).unwrap())
}

impl World {
    /// An active controller, without brokers; `elr` enables eligible leader replicas.
    pub(crate) fn new(elr: bool) -> Self {
        let mut world = Self {
            core: Core::new(settings(elr)),
            loader: Loader::default(),
            now_ms: 0,
            elr,
            entries: Vec::new(),
            lives: BTreeMap::new(),
        };
        world.activate();
        world
    }

    /// As [`World::new`], with brokers of these numbers.
    pub(crate) fn with(elr: bool, brokers: &[i32]) -> Self {
        let mut world = Self::new(elr);
        for b in brokers {
            world.start(*b);
        }
        world
    }

    /// Another controller takes over with what was committed.
    pub(crate) fn activate(&mut self) {
        let mut draft = Draft::new(self.loader.image());
        self.core = Core::new(settings(self.elr));
        self.core.became_active(1, &mut draft, self.now());
        self.commit(draft);
    }

    pub(crate) fn image(&self) -> &Image {
        self.loader.image()
    }

    fn now(&self) -> Now {
        let mono = Mono(0).after_ms(i64::try_from(self.now_ms).unwrap());
        Now { mono, wall_ms: 0 }
    }

    fn commit(&mut self, draft: Draft) {
        for records in draft.into_entries(1024 * 1024) {
            let offset = self.loader.image().position.offset + 1;
            let at = Position { offset, epoch: 1 };
            let update = self.loader.load_batch(at, &records).unwrap().unwrap();
            self.core.committed(&update.delta);
            self.entries.push(records.len());
        }
        let small = self.image().topics().partition_count() < 1000;
        assert!(!small || self.core.index_is_true_to(self.loader.image()), "the index is true");
    }

    pub(crate) fn command(&mut self, command: Command) -> Reply {
        let mut draft = Draft::new(self.loader.image());
        let outcome = self.core.handle(command, &mut draft, self.now());
        self.commit(draft);
        outcome.settle(self.loader.image())
    }

    pub(crate) fn submit(&mut self, command: SubmitCommand) -> pb::SubmitReply {
        match self.command(Command::Submit(command)) {
            Reply::Submit(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    /// When the core wants to be called, in milliseconds.
    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        let at = self.core.next_deadline();
        (at != Mono::NEVER).then_some(at.0 / 1_000_000)
    }

    /// Does what is due now, once.
    pub(crate) fn tick(&mut self) {
        let mut draft = Draft::new(self.loader.image());
        self.core.on_deadline(&mut draft, self.now());
        self.commit(draft);
    }

    /// Lets time pass while these brokers live.
    pub(crate) fn live(&mut self, ms: u64, brokers: &[i32]) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms = end.min(self.now_ms + 2000);
            for b in brokers {
                self.beat(*b);
            }
            while self.deadline_ms().is_some_and(|at| at <= self.now_ms) {
                self.tick();
            }
        }
    }

    fn epoch_of(&self, broker: i32) -> i64 {
        self.image().brokers().get(NodeId(broker)).map_or(-1, |b| b.epoch)
    }

    /// A new life of the broker registers; the answer's code.
    pub(crate) fn register(&mut self, broker: i32, rack: Option<&str>, previous: i64) -> ErrorCode {
        let life = self.lives.entry(broker).or_default();
        *life += 1;
        let incarnation = broker * 1000 + *life;
        let range = |name: &str, min, max| pb::FeatureRange { name: name.into(), min, max };
        let reply = self.submit(SubmitCommand::RegisterBroker(pb::RegisterBroker {
            broker_id: broker,
            cluster_id: "cluster".into(),
            incarnation_id: uuid(incarnation),
            endpoints: Vec::new(),
            features: vec![
                range("metadata.version", 7, 30),
                range("eligible.leader.replicas.version", 0, 1),
            ],
            rack: rack.map(str::to_owned),
            log_dirs: vec![uuid(broker * 100 + 1), uuid(broker * 100 + 2)],
            previous_broker_epoch: previous,
        }));
        match reply.reply {
            Some(SubmitBody::RegisterBroker(b)) => code(b.error),
            other => panic!("{other:?}"),
        }
    }

    /// The broker registers and is unfenced.
    pub(crate) fn start(&mut self, broker: i32) {
        self.start_in(broker, None);
    }

    pub(crate) fn start_in(&mut self, broker: i32, rack: Option<&str>) {
        assert_eq!(self.register(broker, rack, -1), ErrorCode::None);
        assert!(!self.beat(broker).is_fenced);
    }

    /// The broker comes back as one that stopped cleanly.
    pub(crate) fn restart_clean(&mut self, broker: i32) {
        let previous = self.epoch_of(broker);
        assert_eq!(self.register(broker, None, previous), ErrorCode::None);
        assert!(!self.beat(broker).is_fenced);
    }

    pub(crate) fn heartbeat(&self, broker: i32) -> pb::HeartbeatRequest {
        pb::HeartbeatRequest {
            broker_id: broker,
            broker_epoch: self.epoch_of(broker),
            metadata_offset: self.image().position.offset,
            ..pb::HeartbeatRequest::default()
        }
    }

    pub(crate) fn beat_with(&mut self, request: pb::HeartbeatRequest) -> pb::HeartbeatReply {
        match self.command(Command::Heartbeat(request)) {
            Reply::Heartbeat(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn beat(&mut self, broker: i32) -> pb::HeartbeatReply {
        self.beat_with(self.heartbeat(broker))
    }

    /// The broker's process is known to be dead.
    pub(crate) fn kill(&mut self, broker: i32) {
        let epoch = self.epoch_of(broker);
        self.command(Command::BrokerGone { broker: NodeId(broker), epoch });
    }

    pub(crate) fn create_with(&mut self, topic: pb::CreatableTopic) -> Told {
        let reply = self.submit(SubmitCommand::CreateTopics(pb::CreateTopics {
            topics: vec![topic],
            validate_only: false,
            describable: Vec::new(),
        }));
        match reply.reply {
            Some(SubmitBody::CreateTopics(mut b)) => {
                let t = b.topics.remove(0);
                (code(t.error), t.error_message)
            }
            other => panic!("{other:?}"),
        }
    }

    /// A topic whose partitions lie where `assignments` say.
    pub(crate) fn create(&mut self, name: &str, assignments: &[&[i32]]) {
        self.create_keys(name, assignments, &[]);
    }

    pub(crate) fn create_keys(
        &mut self,
        name: &str,
        assignments: &[&[i32]],
        keys: &[(&str, &str)],
    ) {
        let told = self.create_with(assigned(name, assignments, keys));
        assert_eq!(told, (ErrorCode::None, None));
    }

    pub(crate) fn topic_id(&self, topic: &str) -> Uuid {
        self.image().topics().id_of(topic).unwrap()
    }

    pub(crate) fn partition(&self, topic: &str, p: i32) -> &PartitionRegistration {
        self.image().topics().partition(self.topic_id(topic), p).unwrap()
    }

    /// Leader (-1 for none), ISR and ELR of a partition.
    pub(crate) fn led(&self, topic: &str, p: i32) -> (i32, Vec<i32>, Vec<i32>) {
        let p = self.partition(topic, p);
        (p.leader.map_or(-1, |l| l.0), numbers(&p.isr), numbers(p.elr()))
    }

    pub(crate) fn is_recovering(&self, topic: &str, p: i32) -> bool {
        self.partition(topic, p).recovery == LeaderRecoveryState::Recovering
    }

    /// The leader proposes an ISR.
    pub(crate) fn isr(&mut self, topic: &str, partition: i32, isr: &[i32]) -> ErrorCode {
        let p = self.partition(topic, partition);
        let (leader, le, pe) = (p.leader.unwrap().0, p.leader_epoch, p.partition_epoch);
        let member = |id: &i32| pb::IsrMember { broker_id: *id, broker_epoch: self.epoch_of(*id) };
        let item = pb::AlterPartitionItem {
            topic_id: Bytes::copy_from_slice(&self.topic_id(topic).0),
            partition,
            leader_epoch: le,
            partition_epoch: pe,
            isr: isr.iter().map(member).collect(),
            leader_recovery_state: 0,
        };
        let command = pb::AlterPartition {
            broker_id: leader,
            broker_epoch: self.epoch_of(leader),
            partitions: vec![item],
        };
        match self.submit(SubmitCommand::AlterPartition(command)).reply {
            Some(SubmitBody::AlterPartition(b)) => code(b.partitions[0].error),
            other => panic!("{other:?}"),
        }
    }

    /// The broker says in which directory its replica lies.
    pub(crate) fn assign_dir(&mut self, topic: &str, partition: i32, broker: i32, dir: Uuid) {
        let command = pb::AssignReplicasToDirs {
            broker_id: broker,
            broker_epoch: self.epoch_of(broker),
            assignments: vec![pb::DirAssignment {
                topic_id: Bytes::copy_from_slice(&self.topic_id(topic).0),
                partition,
                directory_id: Bytes::copy_from_slice(&dir.0),
            }],
        };
        match self.submit(SubmitCommand::AssignReplicasToDirs(command)).reply {
            Some(SubmitBody::AssignReplicasToDirs(b)) => assert_eq!(b.results[0].error, 0),
            other => panic!("{other:?}"),
        }
    }

    /// Sets a key of a topic, or of all brokers where `topic` is empty.
    pub(crate) fn set(&mut self, topic: &str, key: &str, value: &str) {
        let resource_type = if topic.is_empty() { 4 } else { 2 };
        let resource = pb::ConfigResource { resource_type, resource_name: topic.to_owned() };
        let op = pb::AlterOp { name: key.to_owned(), operation: 0, value: Some(value.to_owned()) };
        let resources =
            vec![pb::IncrementalAlterConfigsResource { resource: Some(resource), ops: vec![op] }];
        let c = pb::IncrementalAlterConfigs { resources, ..Default::default() };
        match self.submit(SubmitCommand::IncrementalAlterConfigs(c)).reply {
            Some(SubmitBody::AlterConfigs(b)) => assert_eq!(b.resources[0].error, 0, "{b:?}"),
            other => panic!("{other:?}"),
        }
    }

    /// Elects in the partitions named, or everywhere: 0 preferred, 1 unclean.
    pub(crate) fn elect(&mut self, kind: i32, which: Option<(&str, &[i32])>) -> Vec<(i32, Told)> {
        let topics = which.map(|(topic, partitions)| pb::TopicPartitions {
            topic: topic.to_owned(),
            partitions: partitions.to_vec(),
        });
        let command = pb::ElectLeaders {
            election_type: kind,
            all: which.is_none(),
            topics: topics.into_iter().collect(),
        };
        match self.submit(SubmitCommand::ElectLeaders(command)).reply {
            Some(SubmitBody::ElectLeaders(b)) => told_of(b.topics),
            other => panic!("{other:?}"),
        }
    }

    /// Moves a partition to these replicas, or takes the move back.
    pub(crate) fn reassign(&mut self, topic: &str, partition: i32, to: Option<&[i32]>) -> Told {
        self.reassign_keeping(topic, partition, to, false)
    }

    /// As [`World::reassign`]; `keep` forbids another replication factor.
    pub(crate) fn reassign_keeping(
        &mut self,
        topic: &str,
        partition: i32,
        to: Option<&[i32]>,
        keep: bool,
    ) -> Told {
        let replicas = to.map(|nodes| pb::NodeList { nodes: nodes.to_vec() });
        let partitions = vec![pb::ReassignablePartition { partition, replicas }];
        let topics = vec![pb::ReassignableTopic { topic: topic.to_owned(), partitions }];
        let command =
            pb::AlterPartitionReassignments { topics, allow_replication_factor_change: !keep };
        match self.submit(SubmitCommand::AlterPartitionReassignments(command)).reply {
            Some(SubmitBody::AlterPartitionReassignments(b)) => told_of(b.topics).remove(0).1,
            other => panic!("{other:?}"),
        }
    }

    /// Each move under way.
    pub(crate) fn moves(&mut self) -> Vec<Move> {
        let command = pb::ListPartitionReassignments { all: true, topics: Vec::new() };
        let reply = self.submit(SubmitCommand::ListPartitionReassignments(command)).reply;
        let Some(SubmitBody::ListPartitionReassignments(b)) = reply else { panic!("{reply:?}") };
        let of = |t: pb::OngoingTopicReassignment| {
            let name = t.topic;
            t.partitions.into_iter().map(move |p| {
                (name.clone(), p.partition, p.replicas, p.adding_replicas, p.removing_replicas)
            })
        };
        b.topics.into_iter().flat_map(of).collect()
    }
}

fn told_of(topics: Vec<pb::TopicPartitionResults>) -> Vec<(i32, Told)> {
    let all = topics.into_iter().flat_map(|t| t.partitions);
    all.map(|p| (p.partition, (code(p.error), p.error_message))).collect()
}

/// A topic to create with assigned replicas and keys.
pub(crate) fn assigned(name: &str, to: &[&[i32]], keys: &[(&str, &str)]) -> pb::CreatableTopic {
    let entry = |(name, value): &(&str, &str)| pb::ConfigEntry {
        name: (*name).to_owned(),
        value: Some((*value).to_owned()),
    };
    pb::CreatableTopic {
        name: name.to_owned(),
        num_partitions: -1,
        replication_factor: -1,
        assignments: (0..)
            .zip(to)
            .map(|(partition, ids)| pb::ReplicaAssignment { partition, broker_ids: ids.to_vec() })
            .collect(),
        configs: keys.iter().map(entry).collect(),
    }
}
