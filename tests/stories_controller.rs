//! Stories of the controller: each file of `tests/stories/controller` is a list of verbs (`> …`)
//! with what the core answered and wrote after each. `UPDATE=1 cargo test` writes the traces anew.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, sync::Arc};

use vltava::base::{Mono, NodeId, Now, Uuid};
use vltava::controller::command::{SubmitBody, SubmitCommand};
use vltava::controller::{
    Command, ConfigSchema, Core, Draft, EffectiveConfig, Outcome, Reply, Settings, TopicDefaults,
};
use vltava::metadata::configs::Properties;
use vltava::metadata::record::{self, Partition, PartitionChange};
use vltava::metadata::{
    ConfigResource, Image, Loader, PartitionRegistration, Position, Record, ResourceType,
};
use vltava::pb::controller as pb;

/// A configuration table of three keys.
#[derive(Debug)]
struct SmallSchema;

impl ConfigSchema for SmallSchema {
    fn is_list(&self, _: ResourceType, key: &str) -> bool {
        key == "cleanup.policy"
    }

    fn default_value(&self, _: ResourceType, key: &str) -> Option<String> {
        (key == "cleanup.policy").then(|| "delete".to_owned())
    }

    fn validate(
        &self,
        resource: &ConfigResource,
        new: &Properties,
        _: &Properties,
    ) -> Result<(), String> {
        let known = ["cleanup.policy", "min.insync.replicas", "unclean.leader.election.enable"];
        let unknown = new.keys().find(|k| !known.contains(&k.as_str()));
        match unknown {
            Some(k) if resource.kind == ResourceType::Topic => {
                Err(format!("Unknown topic config name: {k}"))
            }
            _ => Ok(()),
        }
    }

    fn effective_topic(&self, topic: &Properties, _: &Properties) -> Vec<EffectiveConfig> {
        topic
            .iter()
            .map(|(name, value)| EffectiveConfig {
                name: name.clone(),
                value: Some(value.clone()),
                source: 1,
                read_only: false,
                sensitive: false,
            })
            .collect()
    }
}

struct World {
    core: Core,
    loader: Loader,
    draft: Option<Draft>,
    owed: Vec<Outcome>,
    now_ms: u64,
    batching: bool,
    out: String,
}

/// The words of a verb: those without `=`, and the others by name.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (named, plain): (Vec<_>, Vec<_>) =
            line.split_whitespace().partition(|w| w.contains('='));
        let named = named.into_iter().filter_map(|w| w.split_once('=')).collect();
        Self { plain, named }
    }

    fn number<T: std::str::FromStr>(&self, at: usize) -> T {
        self.plain
            .get(at)
            .and_then(|w| w.parse().ok())
            .unwrap_or_else(|| panic!("{:?}", self.plain))
    }

    fn named<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.named.get(name).map(|w| w.parse().ok().unwrap())
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    fn list(&self, name: &str) -> Option<Vec<i32>> {
        let text = self.named.get(name)?;
        Some(text.split(',').filter(|t| !t.is_empty()).map(|t| t.parse().unwrap()).collect())
    }

    fn lists(&self, name: &str) -> Option<Vec<Vec<i32>>> {
        let text = self.named.get(name)?;
        let one = |t: &str| t.split(',').map(|n| n.parse().unwrap()).collect();
        Some(text.split(';').map(one).collect())
    }
}

fn uuid(n: i32) -> bytes::Bytes {
    let mut id = [0; 16];
    id[8..12].copy_from_slice(&n.to_be_bytes());
    bytes::Bytes::copy_from_slice(&id)
}

/// Directory `n` of a broker.
fn dir(broker: i32, n: i32) -> bytes::Bytes {
    uuid(broker * 100 + n)
}

fn settings(node: i32, bootstrap: Vec<Record>) -> Settings {
    Settings {
        node: NodeId(node),
        cluster_id: "cluster".into(),
        controllers: vec![NodeId(node)],
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
        schema: Arc::new(SmallSchema),
        seed: [7; 32],
    }
}

impl World {
    fn new() -> Self {
        Self {
            core: Core::new(settings(0, Vec::new())),
            loader: Loader::default(),
            draft: None,
            owed: Vec::new(),
            now_ms: 0,
            batching: false,
            out: String::new(),
        }
    }

    fn image(&self) -> &Arc<Image> {
        self.loader.image()
    }

    fn now(&self) -> Now {
        let mono = Mono(0).after_ms(i64::try_from(self.now_ms).unwrap());
        Now { mono, wall_ms: 0 }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.out, "  {line}").unwrap();
    }

    fn draft(&mut self) -> Draft {
        self.draft.take().unwrap_or_else(|| Draft::new(self.loader.image()))
    }

    fn command(&mut self, command: Command) {
        let mut draft = self.draft();
        let outcome = self.core.handle(command, &mut draft, self.now());
        self.owed.push(outcome);
        self.draft = Some(draft);
        self.commit_unless_batching();
    }

    fn submit(&mut self, command: SubmitCommand) {
        self.command(Command::Submit(command));
    }

    fn commit_unless_batching(&mut self) {
        if !self.batching {
            self.commit();
        }
    }

    fn commit(&mut self) {
        let draft = self.draft();
        let limit = if self.batching { 200 } else { usize::MAX };
        self.batching = false;
        for records in draft.into_entries(limit) {
            let offset = self.image().position.offset + 1;
            let read = record::decode_batch(record::encode_batch(&records)).unwrap();
            assert_eq!(read, records);
            let at = Position { offset, epoch: 1 };
            let update = self.loader.load_batch(at, &records).unwrap().unwrap();
            self.core.committed(&update.delta);
            self.say(&format!("entry {offset}"));
            for r in &records {
                let text = show(r, &update);
                self.say(&format!("  {text}"));
            }
        }
        assert!(self.core.index_is_true_to(self.loader.image()), "the index follows the image");
        for outcome in std::mem::take(&mut self.owed) {
            let text = answer(outcome.settle(self.loader.image()));
            if !text.is_empty() {
                self.say(&text);
            }
        }
    }

    fn run(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let w = Words::of(rest);
        match verb {
            "activate" => self.activate(&w),
            "resign" => self.core.resigned(),
            "begin" => self.batching = true,
            "commit" => self.commit(),
            "wait" => self.wait(w.number(0)),
            "live" => self.live(w.number(0), &w.list("with").unwrap()),
            "register" => self.register(&w),
            "unregister" => {
                self.submit(SubmitCommand::UnregisterBroker(pb::UnregisterBroker {
                    broker_id: w.number(0),
                }));
            }
            "beat" => self.beat(&w),
            "gone" | "disconnected" => {
                let broker = NodeId(w.number(0));
                let epoch = self.image().brokers().get(broker).unwrap().epoch;
                self.command(match verb {
                    "gone" => Command::BrokerGone { broker, epoch },
                    _ => Command::Disconnected { broker, epoch },
                });
            }
            "create" => self.create(&w),
            "delete" => {
                let id = self.topic_id(w.plain[0]);
                self.submit(SubmitCommand::DeleteTopics(pb::DeleteTopics { topic_ids: vec![id] }));
            }
            "grow" => self.grow(&w),
            "isr" => self.isr(&w),
            "assign" => self.assign(&w),
            "config" => self.config(&w, false),
            "replace" => self.config(&w, true),
            "ids" => {
                let broker_id = w.number(0);
                let broker_epoch = self.epoch_of(broker_id);
                self.submit(SubmitCommand::AllocateProducerIds(pb::AllocateProducerIds {
                    broker_id,
                    broker_epoch: w.named("epoch").unwrap_or(broker_epoch),
                }));
            }
            "feature" => {
                self.submit(SubmitCommand::UpdateFeatures(pb::UpdateFeatures {
                    updates: vec![pb::FeatureUpdate {
                        name: w.plain[0].to_owned(),
                        level: w.number(1),
                        upgrade_type: w.named("type").unwrap_or(1),
                    }],
                    validate_only: w.has("validate"),
                }));
            }
            other => panic!("no such verb: {other}"),
        }
    }

    fn epoch_of(&self, broker: i32) -> i64 {
        self.image().brokers().get(NodeId(broker)).map_or(-1, |b| b.epoch)
    }

    fn topic_id(&self, name: &str) -> bytes::Bytes {
        let id = self.image().topics().id_of(name).unwrap_or(Uuid([0xee; 16]));
        bytes::Bytes::copy_from_slice(&id.0)
    }

    fn activate(&mut self, w: &Words<'_>) {
        let mut draft = Draft::new(self.loader.image());
        let mut bootstrap =
            vec![Record::FeatureLevel { name: "metadata.version".into(), level: 30 }];
        if w.has("elr") {
            let name = "eligible.leader.replicas.version".into();
            bootstrap.push(Record::FeatureLevel { name, level: 1 });
        }
        self.core = Core::new(settings(w.named("node").unwrap_or(0), bootstrap));
        self.core.became_active(1, &mut draft, self.now());
        self.draft = Some(draft);
        self.commit();
    }

    /// Lets time pass, and does what falls due on the way.
    fn wait(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        loop {
            let due = self.core.next_deadline();
            let due_ms = due.0 / 1_000_000;
            if due == Mono::NEVER || due_ms > end {
                break;
            }
            self.now_ms = self.now_ms.max(due_ms);
            let mut draft = self.draft();
            self.core.on_deadline(&mut draft, self.now());
            if !draft.is_empty() {
                self.say(&format!("at {} ms", self.now_ms));
            }
            self.draft = Some(draft);
            self.commit();
        }
        self.now_ms = end;
    }

    /// Lets time pass while brokers send heartbeats, of which nothing is told.
    fn live(&mut self, ms: u64, brokers: &[i32]) {
        for _ in 0..ms / 2000 {
            self.wait(2000);
            for id in brokers {
                let told = std::mem::take(&mut self.out);
                self.beat(&Words::of(&id.to_string()));
                self.out = told;
            }
        }
    }

    fn register(&mut self, w: &Words<'_>) {
        let broker_id: i32 = w.number(0);
        let dirs = w.list("dirs").unwrap_or_else(|| vec![1]);
        let range = |name: &str, min, max| pb::FeatureRange { name: name.into(), min, max };
        let elr_max = w.named("elr").unwrap_or(1);
        self.submit(SubmitCommand::RegisterBroker(pb::RegisterBroker {
            broker_id,
            cluster_id: w.named.get("cluster").unwrap_or(&"cluster").to_string(),
            incarnation_id: uuid(1000 + w.named("life").unwrap_or(1)),
            endpoints: vec![pb::Endpoint {
                name: "PLAINTEXT".into(),
                host: format!("host{broker_id}"),
                port: 9092,
                security_protocol: 0,
            }],
            features: vec![
                range("metadata.version", 7, 30),
                range("eligible.leader.replicas.version", 0, elr_max),
            ],
            rack: w.named.get("rack").map(|r| (*r).to_owned()),
            log_dirs: dirs
                .into_iter()
                .map(|d| dir(w.named("owner").unwrap_or(broker_id), d))
                .collect(),
            previous_broker_epoch: w.named("prev").unwrap_or(-1),
        }));
    }

    fn beat(&mut self, w: &Words<'_>) {
        let broker_id = w.number(0);
        self.command(Command::Heartbeat(pb::HeartbeatRequest {
            broker_id,
            broker_epoch: w.named("epoch").unwrap_or_else(|| self.epoch_of(broker_id)),
            metadata_offset: w.named("at").unwrap_or(self.image().position.offset),
            want_fence: w.has("fence"),
            want_shut_down: w.has("stop"),
            offline_log_dirs: w
                .list("offline")
                .unwrap_or_default()
                .into_iter()
                .map(|d| dir(broker_id, d))
                .collect(),
        }));
    }

    fn create(&mut self, w: &Words<'_>) {
        let known = ["p", "r", "assign"];
        let configs = w.named.iter().filter(|(k, _)| !known.contains(k));
        let configs: Vec<_> = configs
            .map(|(k, v)| {
                let value = (*v != "null").then(|| (*v).to_owned());
                pb::ConfigEntry { name: (*k).to_owned(), value }
            })
            .collect();
        let assign = w.lists("assign").unwrap_or_default();
        let names: Vec<&str> = w.plain.iter().filter(|n| **n != "validate").copied().collect();
        let given = |name: &str, default| w.named(name).unwrap_or(default);
        let topic = |name: &&str| pb::CreatableTopic {
            name: (*name).to_owned(),
            num_partitions: given("p", -1),
            replication_factor: given("r", -1),
            assignments: (0..)
                .zip(&assign)
                .map(|(partition, ids)| pb::ReplicaAssignment {
                    partition,
                    broker_ids: ids.clone(),
                })
                .collect(),
            configs: configs.clone(),
        };
        self.submit(SubmitCommand::CreateTopics(pb::CreateTopics {
            topics: names.iter().map(topic).collect(),
            validate_only: w.has("validate"),
            describable: names.iter().map(|n| (*n).to_owned()).collect(),
        }));
    }

    fn grow(&mut self, w: &Words<'_>) {
        let assign = w.lists("assign");
        self.submit(SubmitCommand::CreatePartitions(pb::CreatePartitions {
            topics: vec![pb::CreatePartitionsTopic {
                name: w.plain[0].to_owned(),
                count: w.number(1),
                has_assignments: assign.is_some(),
                assignments: assign
                    .unwrap_or_default()
                    .into_iter()
                    .map(|nodes| pb::NodeList { nodes })
                    .collect(),
            }],
            validate_only: w.has("validate"),
        }));
    }

    /// `isr TOPIC PARTITION SENDER to=1,2 [le= pe= recovering epoch=]`
    fn isr(&mut self, w: &Words<'_>) {
        let (topic, partition) = (w.plain[0], w.number(1));
        let broker_id = w.number(2);
        let id = self.image().topics().id_of(topic).unwrap_or(Uuid([0xee; 16]));
        let p = self.image().topics().partition(id, partition);
        let (le, pe) = p.map_or((0, 0), |p| (p.leader_epoch, p.partition_epoch));
        let member = |id: i32| pb::IsrMember {
            broker_id: id,
            broker_epoch: w.named("epoch").unwrap_or_else(|| self.epoch_of(id)),
        };
        let item = pb::AlterPartitionItem {
            topic_id: self.topic_id(topic),
            partition,
            leader_epoch: w.named("le").unwrap_or(le),
            partition_epoch: w.named("pe").unwrap_or(pe),
            isr: w.list("to").unwrap().into_iter().map(member).collect(),
            leader_recovery_state: i32::from(w.has("recovering")),
        };
        self.submit(SubmitCommand::AlterPartition(pb::AlterPartition {
            broker_id,
            broker_epoch: self.epoch_of(broker_id),
            partitions: vec![item],
        }));
    }

    /// `assign TOPIC PARTITION BROKER DIR`
    fn assign(&mut self, w: &Words<'_>) {
        let broker_id = w.number(2);
        self.submit(SubmitCommand::AssignReplicasToDirs(pb::AssignReplicasToDirs {
            broker_id,
            broker_epoch: self.epoch_of(broker_id),
            assignments: vec![pb::DirAssignment {
                topic_id: self.topic_id(w.plain[0]),
                partition: w.number(1),
                directory_id: dir(broker_id, w.number(3)),
            }],
        }));
    }

    /// `config TYPE NAME key=value key=+value key=-value key=null`, NAME `*` for all brokers.
    fn config(&mut self, w: &Words<'_>, replace: bool) {
        let resource_type = match w.plain[0] {
            "topic" => 2,
            "broker" => 4,
            other => other.parse().unwrap(),
        };
        let resource_name = w.plain[1].replace('*', "");
        let resource = Some(pb::ConfigResource { resource_type, resource_name });
        let validate_only = w.has("validate");
        if replace {
            let entry = |(k, v): (&&str, &&str)| pb::ConfigEntry {
                name: (*k).to_owned(),
                value: Some((*v).to_owned()),
            };
            let configs = w.named.iter().map(entry).collect();
            let resources = vec![pb::AlterConfigsResource { resource, configs }];
            self.submit(SubmitCommand::AlterConfigs(pb::AlterConfigs { resources, validate_only }));
            return;
        }
        let op = |(k, v): (&&str, &&str)| {
            let (operation, value) = match v.chars().next() {
                _ if *v == "null" => (1, None),
                Some('+') => (2, Some(v[1..].to_owned())),
                Some('-') => (3, Some(v[1..].to_owned())),
                _ => (0, Some((*v).to_owned())),
            };
            pb::AlterOp { name: (*k).to_owned(), operation, value }
        };
        let ops = w.named.iter().map(op).collect();
        let resources = vec![pb::IncrementalAlterConfigsResource { resource, ops }];
        let c = pb::IncrementalAlterConfigs { resources, validate_only };
        self.submit(SubmitCommand::IncrementalAlterConfigs(c));
    }
}

fn ids(v: &[NodeId]) -> String {
    let all: Vec<String> = v.iter().map(ToString::to_string).collect();
    format!("[{}]", all.join(","))
}

fn short_dir(id: &Uuid) -> String {
    match *id {
        Uuid::ONE => "?".to_owned(),
        Uuid(b) => i32::from_be_bytes([b[8], b[9], b[10], b[11]]).to_string(),
    }
}

fn topic_of(id: Uuid, update: &vltava::metadata::Update) -> String {
    let images = [update.delta.image(), update.delta.base()];
    let name = images.iter().find_map(|i| i.topics().by_id(id).map(|t| t.name.to_string()));
    name.unwrap_or_else(|| "?".to_owned())
}

fn state(p: &PartitionRegistration) -> String {
    let mut s = format!(
        "replicas {} isr {} leader {} epochs {}/{}",
        ids(&p.replicas),
        ids(&p.isr),
        p.leader.map_or_else(|| "none".to_owned(), |l| l.to_string()),
        p.leader_epoch,
        p.partition_epoch
    );
    for (name, list) in [("elr", p.elr()), ("last-elr", p.last_known_elr())] {
        if !list.is_empty() {
            write!(s, " {name} {}", ids(list)).unwrap();
        }
    }
    if p.recovery.code() == 1 {
        s.push_str(" recovering");
    }
    let dirs: Vec<String> = p.directories.iter().map(short_dir).collect();
    write!(s, " dirs [{}]", dirs.join(",")).unwrap();
    s
}

fn show(r: &Record, update: &vltava::metadata::Update) -> String {
    match r {
        Record::NoOp => "no-op".to_owned(),
        Record::FeatureLevel { name, level } => format!("feature {name} {level}"),
        Record::RegisterBroker(b) => {
            let dirs: Vec<String> = b.log_dirs.iter().map(short_dir).collect();
            format!(
                "register broker {} fenced {} dirs [{}]{}",
                b.id,
                b.fenced,
                dirs.join(","),
                b.epoch.map_or(String::new(), |e| format!(" keeps epoch {e}"))
            )
        }
        Record::BrokerRegistrationChange(c) => {
            let mut s = format!("broker {}", c.id);
            for (name, v) in [("fenced", c.fenced), ("stopping", c.in_controlled_shutdown)] {
                if let Some(v) = v {
                    write!(s, " {name} {v}").unwrap();
                }
            }
            if let Some(dirs) = &c.log_dirs {
                let dirs: Vec<String> = dirs.iter().map(short_dir).collect();
                write!(s, " dirs [{}]", dirs.join(",")).unwrap();
            }
            s
        }
        Record::UnregisterBroker { broker, .. } => format!("unregister broker {broker}"),
        Record::RegisterController(c) => format!("register controller {}", c.id),
        Record::Topic { name, .. } => format!("topic {name}"),
        Record::Partition(Partition { topic_id, partition, state: p }) => {
            format!("partition {}-{partition} {}", topic_of(*topic_id, update), state(p))
        }
        Record::PartitionChange(PartitionChange { topic_id, partition, .. }) => {
            let p = update.image.topics().partition(*topic_id, *partition);
            let p = p.map_or_else(|| "gone".to_owned(), |p| state(p));
            format!("change {}-{partition} {p}", topic_of(*topic_id, update))
        }
        Record::RemoveTopic { id } => format!("remove topic {}", topic_of(*id, update)),
        Record::Config { resource, key, value } => {
            let value = value.as_deref().unwrap_or("(none)");
            format!("config {:?} '{}' {key} = {value}", resource.kind, resource.name)
        }
        Record::ClearElr { topic: Some(id) } => format!("clear ELR of {}", topic_of(*id, update)),
        Record::ClearElr { topic: None } => "clear ELR of all topics".to_owned(),
        Record::ProducerIds { broker, next, .. } => {
            format!("producer ids to {broker}, next {next}")
        }
    }
}

fn error(what: &str, code: i32, message: Option<&String>) -> String {
    let name = vltava::base::ErrorCode::from_code(i16::try_from(code).unwrap()).name();
    format!("{what}: {name}{}", message.map_or(String::new(), |m| format!(" ({m})")))
}

fn answer(reply: Reply) -> String {
    let r = match reply {
        Reply::Nothing => return String::new(),
        Reply::Heartbeat(h) if h.error == 0 => {
            let mut s = "beat:".to_owned();
            for (name, on) in [
                ("caught-up", h.is_caught_up),
                ("fenced", h.is_fenced),
                ("shut-down", h.should_shut_down),
            ] {
                if on {
                    write!(s, " {name}").unwrap();
                }
            }
            return s;
        }
        Reply::Heartbeat(h) => return error("beat", h.error, h.error_message.as_ref()),
        Reply::Submit(r) => r,
    };
    let lines: Vec<String> = match r.reply {
        None => vec![error("refused", r.error, r.error_message.as_ref())],
        Some(SubmitBody::RegisterBroker(b)) => {
            let text = error("registered", b.error, b.error_message.as_ref());
            vec![format!("{text} epoch {}", b.broker_epoch)]
        }
        Some(SubmitBody::UnregisterBroker(b)) => {
            vec![error("unregistered", b.error, b.error_message.as_ref())]
        }
        Some(SubmitBody::RegisterController(b)) => {
            vec![error("registered", b.error, b.error_message.as_ref())]
        }
        Some(SubmitBody::CreateTopics(b)) => b
            .topics
            .iter()
            .map(|t| {
                let text = error(&t.name, t.error, t.error_message.as_ref());
                let configs: Vec<String> =
                    t.configs.iter().map(|c| format!(" {}", c.name)).collect();
                let (p, r) = (t.num_partitions, t.replication_factor);
                format!("{text} partitions {p} factor {r}{}", configs.concat())
            })
            .collect(),
        Some(SubmitBody::DeleteTopics(b)) => {
            b.topics.iter().map(|t| error("deleted", t.error, t.error_message.as_ref())).collect()
        }
        Some(SubmitBody::CreatePartitions(b)) => {
            b.topics.iter().map(|t| error(&t.name, t.error, t.error_message.as_ref())).collect()
        }
        Some(SubmitBody::AlterConfigs(b)) => {
            let one =
                |c: &pb::AlterConfigsResult| error("config", c.error, c.error_message.as_ref());
            b.resources.iter().map(one).collect()
        }
        Some(SubmitBody::AllocateProducerIds(b)) => {
            vec![format!("{} first {} count {}", error("ids", b.error, None), b.first, b.count)]
        }
        Some(SubmitBody::UpdateFeatures(b)) => {
            vec![error("features", b.error, b.error_message.as_ref())]
        }
        Some(SubmitBody::AlterPartition(b)) => {
            let one = |p: &pb::AlterPartitionResult| error("isr", p.error, None);
            let top = (b.error != 0).then(|| error("isr", b.error, None));
            top.into_iter().chain(b.partitions.iter().map(one)).collect()
        }
        Some(SubmitBody::AssignReplicasToDirs(b)) => {
            b.results.iter().map(|d| error("assigned", d.error, None)).collect()
        }
        Some(
            SubmitBody::ElectLeaders(_)
            | SubmitBody::AlterPartitionReassignments(_)
            | SubmitBody::ListPartitionReassignments(_),
        ) => Vec::new(),
    };
    lines.join("\n  ")
}

fn play(text: &str) -> String {
    let mut world = World::new();
    let mut out = String::new();
    for line in text.lines() {
        if let Some(verb) = line.strip_prefix("> ") {
            world.run(verb);
            writeln!(out, "{line}").unwrap();
            out.push_str(&std::mem::take(&mut world.out));
        } else if line.starts_with('#') || line.is_empty() {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

#[test]
fn stories() {
    let mut wrong = Vec::new();
    let mut files: Vec<_> =
        fs::read_dir("tests/stories/controller").unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let now = play(&text);
        if now != text {
            if std::env::var_os("UPDATE").is_some() {
                fs::write(&path, &now).unwrap();
            } else {
                wrong.push(difference(&path, &text, &now));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE=1 writes the traces anew", wrong.join("\n"));
}

fn difference(path: &Path, text: &str, now: &str) -> String {
    let line = text.lines().zip(now.lines()).position(|(a, b)| a != b);
    let at = line.unwrap_or_else(|| text.lines().count().min(now.lines().count()));
    let show = |t: &str| t.lines().nth(at).unwrap_or("(end)").to_owned();
    format!("{}:{}\n- {}\n+ {}", path.display(), at + 1, show(text), show(now))
}
