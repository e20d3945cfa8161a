//! The controller of a story, its log and its clock.

use std::{fmt::Write as _, sync::Arc};

use vltava::base::{Mono, NodeId, Now};
use vltava::controller::command::SubmitCommand;
use vltava::controller::{Command, Core, Draft, Outcome, Settings, TopicDefaults};
use vltava::metadata::record;
use vltava::metadata::{Image, Loader, Position, Record};
use vltava::pb::controller as pb;

use crate::schema::SmallSchema;
use crate::show::{answer, show};
use crate::words::Words;

pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) loader: Loader,
    pub(crate) draft: Option<Draft>,
    owed: Vec<Outcome>,
    pub(crate) now_ms: u64,
    batching: bool,
    pub(crate) out: String,
}

pub(crate) fn settings(node: i32, bootstrap: Vec<Record>) -> Settings {
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
    pub(crate) fn new() -> Self {
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

    pub(crate) fn image(&self) -> &Arc<Image> {
        self.loader.image()
    }

    pub(crate) fn now(&self) -> Now {
        let mono = Mono(0).after_ms(i64::try_from(self.now_ms).unwrap());
        Now { mono, wall_ms: 0 }
    }

    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.out, "  {line}").unwrap();
    }

    pub(crate) fn draft(&mut self) -> Draft {
        self.draft.take().unwrap_or_else(|| Draft::new(self.loader.image()))
    }

    pub(crate) fn command(&mut self, command: Command) {
        let mut draft = self.draft();
        let outcome = self.core.handle(command, &mut draft, self.now());
        self.owed.push(outcome);
        self.draft = Some(draft);
        self.commit_unless_batching();
    }

    pub(crate) fn submit(&mut self, command: SubmitCommand) {
        self.command(Command::Submit(command));
    }

    pub(crate) fn commit_unless_batching(&mut self) {
        if !self.batching {
            self.commit();
        }
    }

    pub(crate) fn commit(&mut self) {
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

    pub(crate) fn run(&mut self, line: &str) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let w = Words::of(rest);
        match verb {
            "activate" => self.activate(&w),
            "resign" => self.core.resigned(),
            "stood-still" => {
                let now = self.now();
                self.core.stood_still(now);
            }
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
}
