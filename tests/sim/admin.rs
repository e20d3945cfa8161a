//! The controller's client: it sees to it that the topics are there, and asks for changes.

use std::sync::Arc;

use bytes::Bytes;
use vltava::{
    controller::{Command, command::SubmitCommand},
    node::offsets_log::{OFFSETS_TOPIC, SHARE_STATE_TOPIC, TRANSACTIONS_TOPIC},
    pb::controller as pb,
};

use crate::{
    clients::TOPIC,
    keyed::KEYED_TOPIC,
    net::{Message, Place},
    plan::MS,
    quorum::SEATS,
    txn_clients::{OFFICES, TXN_TOPIC},
    world::World,
};

impl World {
    pub fn administrate(&mut self, client: usize) -> u64 {
        let count = |n: usize| i32::try_from(n).unwrap();
        let (of_topic, of_txns) = (count(self.plan.partitions), count(self.plan.txn_partitions));
        let mut wanted = vec![(TOPIC, of_topic)];
        if self.plan.txn_partitions > 0 {
            wanted.extend([
                (TXN_TOPIC, of_txns),
                (OFFSETS_TOPIC, OFFICES),
                (TRANSACTIONS_TOPIC, OFFICES),
            ]);
        }
        if self.plan.keyed_partitions > 0 {
            wanted.push((KEYED_TOPIC, count(self.plan.keyed_partitions)));
        }
        if self.plan.share_members > 0 {
            wanted.push((SHARE_STATE_TOPIC, OFFICES));
        }
        for (name, num_partitions) in wanted {
            if self.quorum.image().topics().by_name(name).is_some() {
                continue;
            }
            let topic = pb::CreatableTopic {
                name: name.to_owned(),
                num_partitions,
                replication_factor: count(self.plan.factor),
                ..pb::CreatableTopic::default()
            };
            let create = pb::CreateTopics { topics: vec![topic], ..pb::CreateTopics::default() };
            self.command(client, SubmitCommand::CreateTopics(create));
            break;
        }
        if self.plan.churns && self.healing_since.is_none() && self.rng.one_in(8) {
            self.churn_topic(client);
        }
        100 * MS
    }

    fn command(&mut self, client: usize, command: SubmitCommand) {
        let req = self.request();
        let seat = self.quorum.leader.unwrap_or_else(|| self.rng.below(SEATS));
        let command = Command::Submit(command);
        self.note_asked(req, &command);
        self.send(Place::Client(client), Place::Seat(seat), Message::Ask { req, command });
    }

    /// Asks for some change of the cluster.
    pub fn one_asks_for_a_change(&mut self) {
        let (client, n) = (0, self.rng.below(9));
        let image = Arc::clone(self.quorum.image());
        let Some(topic) = image.topics().by_name(TOPIC) else { return };
        match n {
            // Other topics come and go beside the one that matters.
            0 => self.churn_topic(client),
            1 => {
                let elect = pb::ElectLeaders { all: true, ..pb::ElectLeaders::default() };
                self.command(client, SubmitCommand::ElectLeaders(elect));
            }
            3..=5 => {
                let mut topics = vec![TOPIC, TXN_TOPIC, OFFSETS_TOPIC, TRANSACTIONS_TOPIC];
                if self.plan.keyed_partitions > 0 {
                    topics.push(KEYED_TOPIC);
                }
                if self.plan.share_members > 0 {
                    topics.push(SHARE_STATE_TOPIC);
                }
                let name = topics[self.rng.below(topics.len())];
                let Some(topic) = image.topics().by_name(name) else { return };
                let partition = self.rng.below(topic.partitions.len());
                self.reassign(client, &topic.name, i32::try_from(partition).unwrap());
            }
            2 => {
                let count = topic.partition_count() + 1;
                let topic = pb::CreatePartitionsTopic {
                    name: TOPIC.to_owned(),
                    count: count.min(6),
                    ..pb::CreatePartitionsTopic::default()
                };
                let create =
                    pb::CreatePartitions { topics: vec![topic], ..pb::CreatePartitions::default() };
                self.command(client, SubmitCommand::CreatePartitions(create));
            }
            _ => self.delete_records(),
        }
    }

    /// A topic that nobody uses comes or goes.
    fn churn_topic(&mut self, client: usize) {
        let image = Arc::clone(self.quorum.image());
        let name = format!("other-{}", self.rng.below(3));
        if let Some(id) = image.topics().id_of(&name) {
            let topic_ids = vec![Bytes::copy_from_slice(&id.0)];
            let delete = pb::DeleteTopics { topic_ids };
            self.command(client, SubmitCommand::DeleteTopics(delete));
        } else {
            let topic = pb::CreatableTopic {
                name,
                num_partitions: 2,
                replication_factor: i32::try_from(self.plan.factor).unwrap(),
                ..pb::CreatableTopic::default()
            };
            let create = pb::CreateTopics { topics: vec![topic], ..pb::CreateTopics::default() };
            self.command(client, SubmitCommand::CreateTopics(create));
        }
    }

    /// Some records of a partition are deleted, up to the high watermark of its leader.
    fn delete_records(&mut self) {
        let image = Arc::clone(self.quorum.image());
        let Some(topic) = image.topics().by_name(TOPIC) else { return };
        let n = i32::try_from(self.rng.below(topic.partitions.len())).unwrap();
        let Some(leader) = topic.partition(n).and_then(|p| p.leader) else { return };
        let b = self.index_of(leader);
        let Some(life) = self.brokers[b].life.as_ref().filter(|l| l.running) else { return };
        let (now, Some(slot)) = (life.table.clock.now(), life.table.by_id(topic.id, n)) else {
            return;
        };
        let mut partition = slot.lock();
        let (start, end) = (partition.log.log_start_offset(), partition.high_watermark());
        if !partition.leads() || start >= end {
            return;
        }
        let to = start + i64::try_from(self.rng.below((end - start) as usize)).unwrap() + 1;
        let done = partition.delete_records(to, now);
        drop(partition);
        self.note(format_args!("broker {b} {} deletes up to {to}: {done:?}", slot.id()));
        let deleted = self.oracle.deleted.entry((topic.id, n)).or_default();
        *deleted = (*deleted).max(to);
    }

    /// Moves a partition to replicas that are drawn, or takes a move back.
    fn reassign(&mut self, client: usize, topic: &str, partition: i32) {
        let mut brokers: Vec<i32> = self.brokers.iter().map(|b| b.id.0).collect();
        let mut nodes = Vec::new();
        for _ in 0..self.plan.factor {
            nodes.push(brokers.remove(self.rng.below(brokers.len())));
        }
        let replicas = if self.rng.one_in(6) { None } else { Some(pb::NodeList { nodes }) };
        let partitions = vec![pb::ReassignablePartition { partition, replicas }];
        let topics = vec![pb::ReassignableTopic { topic: topic.to_owned(), partitions }];
        let reassign = pb::AlterPartitionReassignments {
            topics,
            ..pb::AlterPartitionReassignments::default()
        };
        self.command(client, SubmitCommand::AlterPartitionReassignments(reassign));
    }
}
