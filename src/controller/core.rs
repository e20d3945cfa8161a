//! The core: the active controller as a machine. It is told when it becomes active and what was
//! committed; in between it takes commands, each of which writes records into a draft. One draft is
//! in flight at a time, so that every command is decided on what is committed or drafted before it.

use std::sync::Arc;

use rand::{SeedableRng as _, rngs::StdRng};

use crate::base::{ErrorCode, LeaderEpoch, Mono, Mutant, NodeId, Now, mutant};
use crate::metadata::{ConfigResource, Delta, Image, Record};

use super::{
    backlog::Backlog,
    command::{Command, Outcome, Refusal, Reply, SubmitCommand},
    draft::Draft,
    index::Index,
    schema::ConfigSchema,
    sessions::Sessions,
    turn::Turn,
};

/// Static defaults of topics, from this node's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicDefaults {
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub replication_factor: i16,
    /// `min.insync.replicas`.
    pub min_insync_replicas: usize,
    /// `unclean.leader.election.enable`.
    pub unclean_leader_election: bool,
}

/// What the core is made with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// The cluster's id.
    pub cluster_id: Arc<str>,
    /// All controllers of the quorum where they are configured; where they are not, those that
    /// registered are known by the image.
    pub controllers: Vec<NodeId>,
    /// `broker.session.timeout.ms`.
    pub session_timeout_ms: i64,
    /// How often partitions are given back to their preferred leaders, in milliseconds
    /// (`leader.imbalance.check.interval.seconds`); `None` if `auto.leader.rebalance.enable` is
    /// off.
    pub rebalance_interval_ms: Option<i64>,
    /// `unclean.leader.election.interval.ms`.
    pub unclean_interval_ms: i64,
    /// Static defaults of topics.
    pub defaults: TopicDefaults,
    /// Records of `bootstrap.checkpoint`, written by the first activation of the cluster.
    pub bootstrap: Vec<Record>,
    /// The configuration table.
    pub schema: Arc<dyn ConfigSchema>,
    /// Seeds all that is drawn: topic ids and placements.
    pub seed: [u8; 32],
}

/// What only the active controller has.
#[derive(Debug)]
struct Active {
    epoch: LeaderEpoch,
    sessions: Sessions,
    index: Index,
    backlog: Backlog,
    next_rebalance: Mono,
    next_unclean: Mono,
}

/// See the file's head.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    rng: StdRng,
    active: Option<Active>,
}

impl Core {
    /// A core that is not active.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let rng = StdRng::from_seed(settings.seed);
        Self { settings, rng, active: None }
    }

    /// This node became the active controller in `epoch`, and `image` holds all that was committed
    /// before. Whatever must be written first goes into `draft`, made of the same image: the
    /// bootstrap records if the cluster has none yet.
    pub fn became_active(&mut self, epoch: LeaderEpoch, draft: &mut Draft, now: Now) {
        let image = draft.delta().base();
        let every = |ms: Option<i64>| ms.map_or(Mono::NEVER, |ms| now.mono.after_ms(ms));
        self.active = Some(Active {
            epoch,
            sessions: Sessions::of(image, &self.settings, now.mono),
            index: Index::of(image),
            backlog: Backlog::default(),
            next_rebalance: every(self.settings.rebalance_interval_ms),
            next_unclean: every(Some(self.settings.unclean_interval_ms)),
        });
        if image.features().metadata_version().is_none() {
            self.write_bootstrap(draft);
        }
        if let Some(mut turn) = self.turn(draft, now) {
            turn.stragglers();
        }
    }

    /// The process of a broker that this controller's quorum member heard from at `heard`, before
    /// it took office: it may have died or frozen together with the controller that led before.
    pub fn heard_before(&mut self, broker: NodeId, heard: Mono, now: Now) {
        if let Some(active) = &mut self.active {
            active.sessions.heard_before(broker, heard, now.mono);
        }
    }

    /// With eligible leader replicas, `min.insync.replicas` must be known to the whole cluster.
    fn write_bootstrap(&self, draft: &mut Draft) {
        for record in &self.settings.bootstrap {
            draft.push(record.clone());
        }
        if draft.image().elr_enabled() {
            let min = self.settings.defaults.min_insync_replicas;
            draft.push(Record::Config {
                resource: ConfigResource::all_brokers(),
                key: "min.insync.replicas".into(),
                value: Some(min.to_string()),
            });
        }
    }

    /// This node is no longer the active controller. Drafts in flight are lost to it.
    pub fn resigned(&mut self) {
        self.active = None;
    }

    /// The epoch in which this node is active; `None` if it is not.
    #[must_use]
    pub fn active_epoch(&self) -> Option<LeaderEpoch> {
        self.active.as_ref().map(|a| a.epoch)
    }

    /// Takes in what was committed; every delta once, in order. Not active: a no-op.
    pub fn committed(&mut self, delta: &Delta) {
        let Some(active) = &mut self.active else { return };
        active.index.follow(delta);
        let offset = delta.image().position.offset;
        if active.sessions.any_shutting_down() {
            for d in delta.changed_partitions() {
                let leads = d.new.and_then(|p| p.leader);
                if let Some(led) = d.old.and_then(|p| p.leader).filter(|l| Some(*l) != leads) {
                    active.sessions.lost_leadership(led, offset);
                }
            }
        }
        for (id, old, new) in delta.changed_brokers() {
            let Some(new) = new else {
                active.sessions.forget(id);
                continue;
            };
            if old.is_some_and(|old| old.epoch != new.epoch) {
                active.sessions.forget_other(id, new.epoch);
            }
            if new.fenced {
                active.sessions.fenced(id);
            } else if new.in_controlled_shutdown {
                active.sessions.shutting_down(id, offset);
            }
        }
    }

    /// Decides one command. Its records go into `draft`; the answer leaves when they are
    /// committed ([`Outcome::settle`]).
    pub fn handle(&mut self, command: Command, draft: &mut Draft, now: Now) -> Outcome {
        let Some(mut turn) = self.turn(draft, now) else {
            let refused = Outcome::refused(&Refusal::bare(ErrorCode::NotController));
            return match command {
                Command::Submit(_) => refused,
                Command::Heartbeat(_) => {
                    let reply = Reply::Heartbeat(crate::pb::controller::HeartbeatReply::default());
                    Outcome::of(Outcome::of(reply).lost(None))
                }
                Command::Disconnected { .. } | Command::BrokerGone { .. } => {
                    Outcome::of(Reply::Nothing)
                }
            };
        };
        match command {
            Command::Submit(c) => turn.submit(c),
            Command::Heartbeat(r) => turn.heartbeat(&r),
            Command::Disconnected { broker, epoch } => {
                turn.sessions.disconnected(broker, epoch);
                Outcome::of(Reply::Nothing)
            }
            Command::BrokerGone { broker, epoch } => {
                turn.broker_gone(broker, epoch);
                Outcome::of(Reply::Nothing)
            }
        }
    }

    /// The process stood still for a while, so that heartbeats may have come and wait to be read:
    /// every session lasts for its full time from now on.
    pub fn stood_still(&mut self, now: Now) {
        if let Some(active) = &mut self.active {
            active.sessions.renew(now.mono);
        }
    }

    /// When [`Core::on_deadline`] has something to do if nothing happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Mono {
        let Some(a) = &self.active else { return Mono::NEVER };
        if !a.backlog.is_empty() {
            return Mono(0);
        }
        let mut next = a.sessions.next_end();
        if !a.index.imbalanced().is_empty() {
            next = next.min(a.next_rebalance);
        }
        if !a.index.leaderless().is_empty() {
            next = next.min(a.next_unclean);
        }
        next
    }

    /// Does what is due: a slice of the backlog, the end of one session (one a call, so that the
    /// effect of each is seen by the next), giving partitions back to preferred leaders, unclean
    /// elections where they are wanted.
    pub fn on_deadline(&mut self, draft: &mut Draft, now: Now) {
        let (mut rebalance, mut unclean) = (false, false);
        if let Some(a) = &mut self.active {
            rebalance = a.next_rebalance <= now.mono;
            unclean = a.next_unclean <= now.mono;
        }
        let Some(mut turn) = self.turn(draft, now) else { return };
        turn.go_on();
        turn.end_one_session();
        if rebalance {
            turn.elect_preferred();
        }
        if unclean {
            turn.elect_unclean();
        }
        let again = |ms: Option<i64>| ms.map_or(Mono::NEVER, |ms| now.mono.after_ms(ms));
        let every = self.settings.rebalance_interval_ms;
        let unclean_every = Some(self.settings.unclean_interval_ms);
        if let Some(a) = &mut self.active {
            if rebalance {
                a.next_rebalance = again(every);
            }
            if unclean {
                a.next_unclean = again(unclean_every);
            }
        }
    }

    fn turn<'a>(&'a mut self, draft: &'a mut Draft, now: Now) -> Option<Turn<'a>> {
        let active = self.active.as_mut()?;
        let wall = Mono::default().after_ms(now.wall_ms);
        let mono = if mutant(Mutant::WallClockSessions) { wall } else { now.mono };
        let now = Now { mono, ..now };
        Some(Turn {
            settings: &self.settings,
            sessions: &mut active.sessions,
            index: &active.index,
            backlog: &mut active.backlog,
            rng: &mut self.rng,
            draft,
            now,
        })
    }

    /// Whether the index says what the image says: an invariant for tests and simulation.
    #[must_use]
    pub fn index_is_true_to(&self, image: &Image) -> bool {
        self.active.as_ref().is_none_or(|a| a.index == Index::of(image))
    }
}

impl Turn<'_> {
    fn submit(&mut self, command: SubmitCommand) -> Outcome {
        match command {
            SubmitCommand::RegisterBroker(c) => self.register_broker(&c),
            SubmitCommand::UnregisterBroker(c) => self.unregister_broker(&c),
            SubmitCommand::RegisterController(c) => self.register_controller(&c),
            SubmitCommand::CreateTopics(c) => self.create_topics(&c),
            SubmitCommand::DeleteTopics(c) => self.delete_topics(&c),
            SubmitCommand::CreatePartitions(c) => self.create_partitions(&c),
            SubmitCommand::AlterConfigs(c) => self.alter_configs(&c),
            SubmitCommand::IncrementalAlterConfigs(c) => self.incremental_alter_configs(&c),
            SubmitCommand::AllocateProducerIds(c) => self.allocate_producer_ids(&c),
            SubmitCommand::UpdateFeatures(c) => self.update_features(&c),
            SubmitCommand::AlterPartition(c) => self.alter_partition(&c),
            SubmitCommand::AssignReplicasToDirs(c) => self.assign_replicas_to_dirs(&c),
            SubmitCommand::ElectLeaders(c) => self.elect_leaders(&c),
            SubmitCommand::AlterPartitionReassignments(c) => self.alter_partition_reassignments(&c),
            SubmitCommand::ListPartitionReassignments(c) => self.list_partition_reassignments(&c),
            SubmitCommand::DescribeQuorum(_)
            | SubmitCommand::AddVoter(_)
            | SubmitCommand::RemoveVoter(_)
            | SubmitCommand::UpdateVoter(_) => {
                // The quorum's member answers these before they get here.
                Outcome::refused(&Refusal::bare(ErrorCode::InvalidRequest))
            }
        }
    }
}
