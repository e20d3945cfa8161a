//! Coordinators in a simulated broker: the product's shards of groups and of transactions over its
//! replicas of `__consumer_offsets` and `__transaction_state`. What the coordinators' drivers do in
//! the product, the world's events do here: loading, appending, waiting for the high watermark,
//! deadlines.

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use vltava::{
    base::{ErrorCode, NodeId, Offset, PartitionId},
    controller::{Command, command::SubmitCommand},
    coordinator::{
        ConsumerSettings, OffsetsLog as _, Settings,
        calls::{Effect, Token},
        calls_consumer::ChangedTopics,
        shard::Shard,
        share_ports::PrunedLog as _,
        share_settings::ShareSettings,
        share_shard::ShareShard,
        table::{Role, Table},
        topic_regex,
        txn_calls::At,
        txn_settings::TxnSettings,
        txn_shard::TxnShard,
    },
    metadata::{Delta, Image, features},
    node::offsets_log::{OFFSETS_TOPIC, ReplicaOffsetsLog, SHARE_STATE_TOPIC, TRANSACTIONS_TOPIC},
    pb::controller as pb,
    replica::{publish::Office, table::ReplicaTable},
};

use crate::{
    broker::{Asked, BrokerEvent},
    machine::{Answer, Kind, Machine, Plain, Waiter},
    marks::Marking,
    net::{Message, Place},
    offices_load::Loading,
    plan::MS,
    txn_serve::Verifying,
    world::{Event, World},
};

/// How often deadlines are looked at.
const LOOK_US: u64 = 50 * MS;

/// A broker's shards.
pub struct Offices {
    pub groups: Table<Waiter, Shard>,
    pub txns: Table<Waiter, TxnShard>,
    pub shares: Table<Waiter, ShareShard>,
    pub groups_log: ReplicaOffsetsLog,
    pub txns_log: ReplicaOffsetsLog,
    pub shares_log: ReplicaOffsetsLog,
    pub settings: Arc<Settings>,
    pub txn_settings: Arc<TxnSettings>,
    pub share_settings: Arc<ShareSettings>,
}

/// How long a member may be silent, in milliseconds.
pub const GROUP_SESSION_MS: i32 = 2_000;

impl Offices {
    fn new(table: &Arc<ReplicaTable>) -> Self {
        let consumer = ConsumerSettings {
            session_timeout_ms: GROUP_SESSION_MS,
            min_session_timeout_ms: 1_000,
            heartbeat_interval_ms: 200,
            min_heartbeat_interval_ms: 100,
            assignment_interval_ms: 100,
            ..ConsumerSettings::default()
        };
        let settings = Settings {
            min_session_timeout_ms: 1_000,
            initial_rebalance_delay_ms: 100,
            commit_timeout_ms: 1_500,
            consumer,
            ..Settings::default()
        };
        // Few enough for snapshots, and for what they replace to be given up, in one seed.
        let share_settings = ShareSettings {
            updates_per_snapshot: 5,
            write_timeout_ms: 1_500,
            prune_interval_ms: 1_000,
            cold_snapshot_interval_ms: 2_000,
            ..ShareSettings::default()
        };
        let txn_settings = TxnSettings { abort_interval_ms: 500, ..TxnSettings::default() };
        Self {
            groups: Table::default(),
            txns: Table::default(),
            shares: Table::default(),
            groups_log: ReplicaOffsetsLog(Arc::clone(table), OFFSETS_TOPIC),
            txns_log: ReplicaOffsetsLog(Arc::clone(table), TRANSACTIONS_TOPIC),
            shares_log: ReplicaOffsetsLog(Arc::clone(table), SHARE_STATE_TOPIC),
            settings: Arc::new(settings),
            share_settings: Arc::new(share_settings),
            txn_settings: Arc::new(txn_settings),
        }
    }
}

pub type Passed = BoxFuture<'static, Result<Offset, ErrorCode>>;

/// All that a broker's process has to do with coordinators.
pub struct Coordination {
    pub offices: Arc<Offices>,
    pub loading: BTreeMap<(Kind, PartitionId), Loading>,
    /// Who waits for the high watermark, and since which epoch.
    pub watched: BTreeMap<(Kind, PartitionId), (i32, Passed)>,
    /// The last offset that a call had written.
    wrote: BTreeMap<(Kind, PartitionId, Token), Offset>,
    pub loads: u64,
    pub verifying: BTreeMap<u64, Verifying>,
    pub marks: Marking,
    /// Offices that are not taken before the controller knows of this life
    /// (`Coordinators::hold`): in the one before it may have lost what others have.
    held: Vec<Office>,
    /// As new the metadata must be to say that a partition is gone.
    pub as_of: Offset,
}

impl Coordination {
    pub fn new(table: &Arc<ReplicaTable>) -> Self {
        Self {
            offices: Arc::new(Offices::new(table)),
            loading: BTreeMap::new(),
            watched: BTreeMap::new(),
            wrote: BTreeMap::new(),
            loads: 0,
            verifying: BTreeMap::new(),
            marks: Marking::default(),
            held: Vec::new(),
            as_of: 0,
        }
    }
}

impl World {
    pub fn at_of(&self, b: usize) -> Option<At> {
        let life = self.brokers[b].life.as_ref()?;
        let level = life.loader.image().features().level(features::TRANSACTION_VERSION);
        Some(At { now: life.table.clock.now(), transaction_version: level })
    }

    pub fn offices(&self, b: usize) -> Option<Arc<Offices>> {
        self.brokers[b].life.as_ref().map(|l| Arc::clone(&l.coordination.offices))
    }

    /// Runs one step of an active shard and carries out its effects; `token` is the caller's.
    pub fn step<M: Machine>(
        &mut self,
        b: usize,
        partition: PartitionId,
        token: Option<Token>,
        f: impl FnOnce(&mut M, At, &mut Vec<M::Effect>),
    ) {
        let (Some(offices), Some(at)) = (self.offices(b), self.at_of(b)) else { return };
        let (table, log) = M::offices(&offices);
        let Some(shared) = table.get(partition) else { return };
        let mut slot = shared.lock();
        let (mut out, mut later, mut wrote, mut refused) = (Vec::new(), Vec::new(), None, None);
        match slot.shard() {
            Ok(shard) => f(shard, at, &mut out),
            Err(_) => return,
        }
        while !out.is_empty() {
            for effect in std::mem::take(&mut out) {
                match M::plain(effect, at) {
                    Plain::Append(ticket, batch, origin) => {
                        let epoch = slot.epoch;
                        let done =
                            batch.and_then(|b| log.append_in_txn(partition, epoch, b, origin));
                        match done {
                            Ok(at) => wrote = Some(at.last_offset),
                            Err(e) => refused = Some(e),
                        }
                        if let Ok(shard) = slot.shard() {
                            M::appended(shard, ticket, done, at, &mut out);
                        }
                    }
                    Plain::Reply(token, answer) => {
                        if let Some(waiter) = slot.unpark(token) {
                            later.push((Some((token, waiter)), Plain::Reply(token, answer)));
                        }
                    }
                    other => later.push((None, other)),
                }
            }
        }
        drop(slot);
        if let Some(code) = refused {
            self.note(format_args!("broker {b} {} {partition}: {code:?}", M::TOPIC));
        }
        if let (Some(token), Some(offset), Some(life)) = (token, wrote, self.life(b)) {
            life.coordination.wrote.insert((M::KIND, partition, token), offset);
        }
        for (waiter, effect) in later {
            match (waiter, effect) {
                (Some((token, waiter)), Plain::Reply(_, answer)) => {
                    self.reply::<M>(b, partition, token, waiter, answer);
                }
                (_, Plain::Mark(markers)) => self.begin_marks(b, partition, markers),
                (_, Plain::WantProducerId) => self.want_producer_id(b, partition),
                (_, Plain::Resolve(effect)) => self.resolve(b, partition, effect),
                (_, Plain::Prune(offset)) => self.prune(b, partition, offset),
                _ => {}
            }
        }
    }

    /// An answer leaves: what the call had written must be committed if it says so.
    fn reply<M: Machine>(
        &mut self,
        b: usize,
        partition: PartitionId,
        token: Token,
        waiter: Waiter,
        answer: Answer,
    ) {
        let Some(life) = self.life(b) else { return };
        let wrote = life.coordination.wrote.remove(&(M::KIND, partition, token));
        if let (Some(offset), ErrorCode::None) = (wrote, answer.error()) {
            self.observe(b);
            self.check_answered(b, M::TOPIC, partition, offset);
        }
        let message = Message::Called { req: waiter.req, answer };
        self.send(Place::Broker(b), waiter.to, message);
    }

    /// Puts a call to a shard.
    pub fn submit<M: Machine>(
        &mut self,
        b: usize,
        partition: PartitionId,
        waiter: Waiter,
        f: impl FnOnce(&mut M, Token, At, &mut Vec<M::Effect>),
    ) {
        let Some(offices) = self.offices(b) else { return };
        let shared = M::offices(&offices).0.get(partition);
        let taken = shared.ok_or(ErrorCode::NotCoordinator).and_then(|shared| {
            let mut slot = shared.lock();
            slot.shard()?;
            Ok(slot.park(waiter))
        });
        match taken {
            Ok(token) => {
                self.step::<M>(b, partition, Some(token), |m, at, out| f(m, token, at, out));
            }
            Err(code) => {
                let message = Message::Called { req: waiter.req, answer: Answer::Refused(code) };
                self.send(Place::Broker(b), waiter.to, message);
            }
        }
    }

    // ---- offices come and go

    /// Shards of partitions that a broker now leads are loaded, others unloaded.
    pub fn change_offices(&mut self, b: usize, delta: &Delta, image: &Arc<Image>, new: &[Office]) {
        let created = delta.created_topics().next().is_some();
        let mut changed = ChangedTopics { created, ..ChangedTopics::default() };
        changed.names.extend(delta.created_topics().map(|t| Arc::clone(&t.name)));
        changed.names.extend(delta.deleted_topics().map(|t| Arc::clone(&t.name)));
        changed.names.extend(delta.changed_partitions().map(|p| Arc::clone(p.topic)));
        let Some(offices) = self.offices(b) else { return };
        for (_, slot) in offices.groups.all() {
            if let Ok(shard) = slot.lock().shard() {
                shard.metadata_changed(Arc::clone(image), &changed);
            }
        }
        if let Some(life) = self.life(b) {
            life.coordination.as_of = image.position.offset;
            if !life.running {
                return life.coordination.held.extend(new.iter().cloned());
            }
        }
        self.change_each(b, new);
    }

    /// The controller knows of a broker: it acts for what it leads.
    pub fn take_offices(&mut self, b: usize) {
        let Some(life) = self.life(b) else { return };
        let held = std::mem::take(&mut life.coordination.held);
        self.change_each(b, &held);
    }

    fn change_each(&mut self, b: usize, new: &[Office]) {
        for office in new {
            match &*office.topic {
                OFFSETS_TOPIC => self.change_office::<Shard>(b, office),
                TRANSACTIONS_TOPIC => self.change_office::<TxnShard>(b, office),
                SHARE_STATE_TOPIC => self.change_office::<ShareShard>(b, office),
                _ => {}
            }
        }
    }

    fn change_office<M: Machine>(&mut self, b: usize, office: &Office) {
        let (Some(offices), Some(at)) = (self.offices(b), self.at_of(b)) else { return };
        let (table, _) = M::offices(&offices);
        let (partition, epoch) = (office.partition, office.leader_epoch);
        if office.leads {
            if table.elect(partition, epoch).is_some() {
                self.load_in(b, M::KIND, partition, 20 * MS);
            }
            return;
        }
        let Some(shared) = table.resign(partition, Some(epoch)) else { return };
        if let Some(life) = self.life(b) {
            life.coordination.loading.remove(&(M::KIND, partition));
            life.coordination.watched.remove(&(M::KIND, partition));
        }
        let mut slot = shared.lock();
        let mut out = Vec::new();
        if let Role::Active(shard) = std::mem::replace(&mut slot.role, Role::Gone) {
            shard.leave(at, &mut out);
        }
        self.note(format_args!("broker {b} unloads {} {partition}", M::TOPIC));
        for effect in out {
            if let Plain::Reply(token, answer) = M::plain(effect, at)
                && let Some(waiter) = slot.unpark(token)
            {
                self.reply::<M>(b, partition, token, waiter, answer);
            }
        }
    }

    // ---- time and the high watermark

    /// Tells shards of the high watermark.
    pub fn watch_offices(&mut self, b: usize) {
        self.watch::<Shard>(b);
        self.watch::<TxnShard>(b);
        self.watch::<ShareShard>(b);
    }

    fn watch<M: Machine>(&mut self, b: usize) {
        let Some(offices) = self.offices(b) else { return };
        let (table, log) = M::offices(&offices);
        for (partition, shared) in table.all() {
            loop {
                let mut slot = shared.lock();
                let epoch = slot.epoch;
                let offset = slot.shard().ok().and_then(|s| s.uncommitted());
                drop(slot);
                let (Some(offset), Some(life)) = (offset, self.life(b)) else { break };
                let watched = &mut life.coordination.watched;
                let key = (M::KIND, partition);
                let begin = || (epoch, log.committed(partition, epoch, offset));
                let (asked, wait) = watched.entry(key).or_insert_with(begin);
                let Some(passed) = wait.now_or_never() else { break };
                let again = *asked != epoch;
                watched.remove(&key);
                match passed {
                    Ok(hw) => {
                        self.step::<M>(b, partition, None, |m, at, out| m.passed(hw, at, out))
                    }
                    Err(_) if again => {}
                    Err(code) => {
                        self.step::<M>(b, partition, None, |m, at, out| m.lost(code, at, out));
                        break;
                    }
                }
            }
        }
    }

    /// Does what is due.
    pub fn look_after_offices(&mut self, b: usize) {
        self.wake::<Shard>(b);
        self.wake::<TxnShard>(b);
        self.wake::<ShareShard>(b);
        self.look_after_shares(b);
        let Some(life) = self.life(b).map(|l| l.number) else { return };
        let event = BrokerEvent::Offices;
        self.at(LOOK_US, Event::Broker { broker: b, life, event });
    }

    fn wake<M: Machine>(&mut self, b: usize) {
        let (Some(offices), Some(at)) = (self.offices(b), self.at_of(b)) else { return };
        for (partition, shared) in M::offices(&offices).0.all() {
            let due = shared.lock().shard().is_ok_and(|s| s.deadline() <= at.now.mono);
            if due {
                self.step::<M>(b, partition, None, M::due);
            }
        }
    }

    fn resolve(&mut self, b: usize, partition: PartitionId, effect: Effect) {
        let Effect::ResolveRegexes { group, member, regexes, image } = effect else { return };
        self.step::<Shard>(b, partition, None, |shard, at, out| {
            let found = topic_regex::resolve(&image, &regexes, at.now.wall_ms);
            shard.regexes_resolved(&group, &member, found, at.now, out);
        });
    }

    /// The beginning of a log of share state is given up.
    fn prune(&mut self, b: usize, partition: PartitionId, offset: Offset) {
        let Some(offices) = self.offices(b) else { return };
        let Some(shared) = offices.shares.get(partition) else { return };
        let epoch = shared.lock().epoch;
        let done = offices.shares_log.delete_before(partition, epoch, offset);
        self.note(format_args!("broker {b} gives up share state {partition}: {offset} {done:?}"));
        if let (Ok(()), Some(key)) = (done, self.key_in(SHARE_STATE_TOPIC, partition)) {
            let deleted = self.oracle.deleted.entry(key).or_default();
            *deleted = (*deleted).max(offset);
        }
    }

    // ---- producer ids

    fn want_producer_id(&mut self, b: usize, partition: PartitionId) {
        let Some(life) = self.life(b) else { return };
        let (broker_id, broker_epoch) = (life.table.node_id.0, life.epoch);
        let allocate = pb::AllocateProducerIds { broker_id, broker_epoch };
        let command = Command::Submit(SubmitCommand::AllocateProducerIds(allocate));
        self.ask(b, Asked::ProducerId { partition }, command);
    }

    pub fn producer_id(&mut self, b: usize, partition: PartitionId, got: Result<i64, ErrorCode>) {
        self.step::<TxnShard>(b, partition, None, |s, at, out| s.producer_id(got, at, out));
    }

    /// Who leads a partition as far as a broker knows.
    pub fn leader_as_known_by(
        &self,
        b: usize,
        topic: &str,
        partition: PartitionId,
    ) -> Option<usize> {
        let image = self.brokers[b].life.as_ref()?.loader.image();
        let leader: NodeId = image.topics().by_name(topic)?.partition(partition)?.leader?;
        Some(self.index_of(leader))
    }
}
