//! What the verbs of a story ask of the controller.

use vltava::base::{Mono, NodeId, Uuid};
use vltava::controller::command::SubmitCommand;
use vltava::controller::{Command, Core, Draft};
use vltava::metadata::Record;
use vltava::pb::controller as pb;

use crate::words::Words;
use crate::world::{World, settings};

fn uuid(n: i32) -> bytes::Bytes {
    let mut id = [0; 16];
    id[8..12].copy_from_slice(&n.to_be_bytes());
    bytes::Bytes::copy_from_slice(&id)
}

/// Directory `n` of a broker.
fn dir(broker: i32, n: i32) -> bytes::Bytes {
    uuid(broker * 100 + n)
}

impl World {
    pub(crate) fn epoch_of(&self, broker: i32) -> i64 {
        self.image().brokers().get(NodeId(broker)).map_or(-1, |b| b.epoch)
    }

    pub(crate) fn topic_id(&self, name: &str) -> bytes::Bytes {
        let id = self.image().topics().id_of(name).unwrap_or(Uuid([0xee; 16]));
        bytes::Bytes::copy_from_slice(&id.0)
    }

    pub(crate) fn activate(&mut self, w: &Words<'_>) {
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
    pub(crate) fn wait(&mut self, ms: u64) {
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
    pub(crate) fn live(&mut self, ms: u64, brokers: &[i32]) {
        for _ in 0..ms / 2000 {
            self.wait(2000);
            for id in brokers {
                let told = std::mem::take(&mut self.out);
                self.beat(&Words::of(&id.to_string()));
                self.out = told;
            }
        }
    }

    pub(crate) fn register(&mut self, w: &Words<'_>) {
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

    pub(crate) fn beat(&mut self, w: &Words<'_>) {
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
            cordoned_log_dirs: w.list("cordoned").map(|dirs| pb::DirList {
                ids: dirs.into_iter().map(|d| dir(broker_id, d)).collect(),
            }),
            force_shut_down: w.has("force"),
        }));
    }

    pub(crate) fn create(&mut self, w: &Words<'_>) {
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

    pub(crate) fn grow(&mut self, w: &Words<'_>) {
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
    pub(crate) fn isr(&mut self, w: &Words<'_>) {
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
    pub(crate) fn assign(&mut self, w: &Words<'_>) {
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
    pub(crate) fn config(&mut self, w: &Words<'_>, replace: bool) {
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
            let c = pb::AlterConfigs { resources, validate_only, ..Default::default() };
            self.submit(SubmitCommand::AlterConfigs(c));
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
        let from_broker = w.has("forwarded");
        let c = pb::IncrementalAlterConfigs { resources, validate_only, from_broker };
        self.submit(SubmitCommand::IncrementalAlterConfigs(c));
    }
}
