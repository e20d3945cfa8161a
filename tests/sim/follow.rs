//! What the drivers of replication do in the product, by the world's events: a broker fetches what
//! it follows, serves those who follow it, and asks the controller for other ISRs.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use vltava::{
    base::{ErrorCode, LeaderEpoch, NodeId, Offset},
    controller::{
        Command, Reply,
        command::{SubmitBody, SubmitCommand},
    },
    log::EpochEnd,
    pb::controller as pb,
    replica::{
        follower::{FetchPosition, FetchedPartition, Followed, LeaderBounds},
        leader::{IsrAnswer, IsrProposal},
        partition::Isolation,
        partition_lead::FollowerRead,
        table::Slot,
        upkeep_driver,
    },
};

use crate::{
    broker::{Asked, BrokerEvent},
    net::{Key, Message, Place},
    plan::MS,
    schema::LAG_MS,
    world::{Event, World},
};

/// A question to a leader that has no answer after this long is asked again.
const PATIENCE_US: u64 = 500 * MS;
/// A question that the controller has not answered after this long is given up.
const ISR_PATIENCE_US: u64 = 2_000 * MS;
/// Bytes in one answer to a follower.
const FETCH_BYTES: usize = 2048;

/// One partition in an answer to a follower.
#[derive(Debug, Clone)]
pub struct Given {
    pub key: Key,
    pub asked: FetchPosition,
    pub error: ErrorCode,
    pub high_watermark: Offset,
    pub log_start: Offset,
    pub diverging: Option<EpochEnd>,
    pub records: Bytes,
}

/// Proposals on their way to the controller.
pub type Proposals = Vec<(Arc<Slot>, IsrProposal)>;

/// A broker's fetching from one leader.
#[derive(Debug, Default)]
pub struct Fetching {
    /// The question on its way, and since when.
    waits: Option<(u64, u64)>,
    /// Which look is the next; `None` if there is none.
    tick: Option<u64>,
}

/// What a broker does as a follower, and for its ISRs as a leader.
#[derive(Default)]
pub struct Following {
    leaders: BTreeMap<usize, Fetching>,
    /// Until when a partition is not asked for.
    delayed: BTreeMap<Key, u64>,
    /// Partitions that have something to propose.
    due: Vec<Arc<Slot>>,
    proposing: bool,
}

impl World {
    /// Sees to it that every leader that a broker follows is asked.
    pub fn look_for_leaders(&mut self, b: usize) {
        let Some(life) = &mut self.brokers[b].life else { return };
        let leaders: Vec<NodeId> =
            life.table.all().iter().filter_map(|slot| slot.lock().follows()).collect();
        let mut idle = Vec::new();
        for leader in leaders {
            let leader = usize::try_from(leader.0).unwrap();
            if life.following.leaders.entry(leader).or_default().tick.is_none() {
                idle.push(leader);
            }
        }
        for leader in idle {
            let soon = self.between(100, 2 * MS);
            self.follow_in(b, leader, soon);
        }
    }

    /// The next look at a leader is in so many microseconds; no other is.
    fn follow_in(&mut self, b: usize, leader: usize, us: u64) {
        let tick = self.request();
        let Some(l) = &mut self.brokers[b].life else { return };
        let life = l.number;
        l.following.leaders.entry(leader).or_default().tick = Some(tick);
        let event = BrokerEvent::Follow { leader, tick };
        self.at(us, Event::Broker { broker: b, life, event });
    }

    /// Asks a leader for what is followed of it.
    pub fn follow(&mut self, b: usize, leader: usize, tick: u64) {
        let now_us = self.now;
        let req = self.request();
        let Some(life) = &mut self.brokers[b].life else { return };
        let (epoch, now) = (life.epoch, life.table.clock.now());
        let fetching = life.following.leaders.entry(leader).or_default();
        if fetching.tick != Some(tick) {
            return;
        }
        if fetching.waits.is_some_and(|(_, since)| since + PATIENCE_US > now_us) {
            self.follow_in(b, leader, 20 * MS);
            return;
        }
        let mut wanted = Vec::new();
        let mut any = false;
        for slot in life.table.all() {
            let key = (slot.topic_id, slot.partition);
            let mut partition = slot.lock();
            if partition.follows().map(|l| l.0) != i32::try_from(leader).ok() {
                continue;
            }
            any = true;
            if life.following.delayed.get(&key).is_some_and(|until| *until > now_us) {
                continue;
            }
            let position = partition.next_fetch(now);
            let unflushed = position.is_none() && partition.follower_flush().is_some();
            drop(partition);
            if unflushed {
                life.table.flush(&slot);
            }
            wanted.extend(position.map(|p| (key, p)));
        }
        let fetching = life.following.leaders.entry(leader).or_default();
        (fetching.waits, fetching.tick) = (None, None);
        if !any {
            return;
        }
        let pause = if wanted.is_empty() { 5 * MS } else { 20 * MS };
        if !wanted.is_empty() {
            fetching.waits = Some((req, now_us));
            let message = Message::Follow { req, epoch, wanted };
            self.send(Place::Broker(b), Place::Broker(leader), message);
        }
        self.follow_in(b, leader, pause);
    }

    /// A follower asks.
    pub fn serve_follower(
        &mut self,
        b: usize,
        from: Place,
        req: u64,
        epoch: i64,
        wanted: Vec<(Key, FetchPosition)>,
    ) {
        let Place::Broker(follower) = from else { return };
        let Some(life) = self.brokers[b].life.as_ref().filter(|l| l.running) else { return };
        let table = Arc::clone(&life.table);
        let now = table.clock.now();
        let replica = self.brokers[follower].id;
        let mut given = Vec::new();
        for (key, asked) in wanted {
            let read = FollowerRead {
                replica,
                replica_epoch: epoch,
                current_leader_epoch: asked.current_leader_epoch,
                fetch_offset: asked.offset,
                last_fetched_epoch: asked.last_fetched_epoch,
                log_start: asked.log_start,
                max_bytes: FETCH_BYTES,
                at_least_one: true,
            };
            let slot = table.by_id(key.0, key.1);
            let found = slot.ok_or(ErrorCode::UnknownTopicId).and_then(|slot| {
                let mut partition = slot.lock();
                let got = table.fetch_as_follower(&slot, &mut partition, &read, true, now);
                let got = got.map_err(|r| r.code)?;
                let mut bytes = Vec::new();
                for slice in &got.found.slices {
                    let begin = bytes.len();
                    bytes.resize(begin + slice.len, 0);
                    let read = slice.file.read_exact_at(&mut bytes[begin..], slice.pos);
                    read.map_err(|_| ErrorCode::KafkaStorageError)?;
                }
                Ok((got.found.marks, got.diverging, Bytes::from(bytes)))
            });
            given.push(match found {
                Ok((marks, diverging, records)) => Given {
                    key,
                    asked,
                    error: ErrorCode::None,
                    high_watermark: marks.high_watermark,
                    log_start: marks.log_start,
                    diverging,
                    records,
                },
                Err(error) => Given {
                    key,
                    asked,
                    error,
                    high_watermark: -1,
                    log_start: -1,
                    diverging: None,
                    records: Bytes::new(),
                },
            });
        }
        self.send(Place::Broker(b), from, Message::Followed { req, given });
    }

    /// A leader answers.
    pub fn followed(&mut self, b: usize, from: Place, req: u64, given: Vec<Given>) {
        let Place::Broker(leader) = from else { return };
        let Some(life) = &mut self.brokers[b].life else { return };
        let Some(fetching) = life.following.leaders.get_mut(&leader) else { return };
        if fetching.waits.is_none_or(|(waits, _)| waits != req) {
            return;
        }
        fetching.waits = None;
        let mut moved = false;
        for g in given {
            moved |= self.take_given(b, leader, g);
        }
        let pause = if moved { 100 } else { self.between(10 * MS, 60 * MS) };
        self.follow_in(b, leader, pause);
    }

    /// Takes one partition of an answer; whether the next question need not wait.
    fn take_given(&mut self, b: usize, leader: usize, g: Given) -> bool {
        let Some(life) = &self.brokers[b].life else { return false };
        let table = Arc::clone(&life.table);
        let Some(slot) = table.by_id(g.key.0, g.key.1) else { return false };
        let answer = FetchedPartition {
            fetch_offset: g.asked.offset,
            leader_epoch: g.asked.current_leader_epoch,
            error: g.error,
            high_watermark: g.high_watermark,
            log_start: g.log_start,
            diverging: g.diverging,
            records: g.records,
        };
        let now = table.clock.now();
        let mut partition = slot.lock();
        let followed = partition.fetched(&answer, now);
        let flush = partition.flush_due(now) || partition.follower_flush().is_some();
        let checkpoint = partition.log.checkpoint_due();
        drop(partition);
        if followed != Followed::Same {
            self.note(format_args!("broker {b} {}: {followed:?}", slot.id()));
        }
        if flush {
            table.flush(&slot);
        }
        if checkpoint {
            upkeep_driver::write_recovery_points(&table);
        }
        self.proceed(b, leader, g.key, g.asked.current_leader_epoch, &followed)
    }

    fn proceed(
        &mut self,
        b: usize,
        leader: usize,
        key: Key,
        leader_epoch: LeaderEpoch,
        followed: &Followed,
    ) -> bool {
        match followed {
            Followed::Moved { .. } => return true,
            Followed::AskBounds => {
                let req = self.request();
                let message = Message::Bounds { req, key, leader_epoch };
                self.send(Place::Broker(b), Place::Broker(leader), message);
                let life = self.brokers[b].life.as_ref().map_or(0, |l| l.number);
                let event = BrokerEvent::Unbounded { key, leader_epoch };
                self.at(PATIENCE_US, Event::Broker { broker: b, life, event });
            }
            Followed::BackOff(_) => {
                let until = self.now + self.between(20 * MS, 200 * MS);
                if let Some(life) = &mut self.brokers[b].life {
                    life.following.delayed.insert(key, until);
                }
            }
            Followed::Stale | Followed::Same | Followed::Failed(_) => {}
        }
        false
    }

    /// A follower asks where a log begins and ends.
    pub fn serve_bounds(&mut self, b: usize, from: Place, req: u64, key: Key, epoch: LeaderEpoch) {
        let Some(life) = self.brokers[b].life.as_ref().filter(|l| l.running) else { return };
        let now = life.table.clock.now();
        let slot = life.table.by_id(key.0, key.1).ok_or(ErrorCode::UnknownTopicId);
        let result = slot.and_then(|slot| {
            let mut partition = slot.lock();
            partition.check_leader(epoch)?;
            let at = |p: &mut vltava::replica::partition::Partition, timestamp| {
                p.offset_for(timestamp, Isolation::LogEnd, now).map_err(|r| r.code)
            };
            Ok((at(&mut partition, -2)?.offset, at(&mut partition, -1)?.offset))
        });
        let message = Message::Bounded { req, key, leader_epoch: epoch, result };
        self.send(Place::Broker(b), from, message);
    }

    /// Where a leader's log begins and ends, or that it did not say.
    pub fn bounded(
        &mut self,
        b: usize,
        key: Key,
        leader_epoch: LeaderEpoch,
        result: Result<(Offset, Offset), ErrorCode>,
    ) {
        let Some(life) = &self.brokers[b].life else { return };
        let table = Arc::clone(&life.table);
        let Some(slot) = table.by_id(key.0, key.1) else { return };
        let mut partition = slot.lock();
        let followed = match result {
            Ok((start, end)) => {
                let bounds = LeaderBounds { leader_epoch, start, end };
                partition.bounded(bounds, table.clock.now())
            }
            Err(code) => partition.bounds_refused(leader_epoch, code),
        };
        let (checkpoint, leader) = (partition.log.checkpoint_due(), partition.follows());
        drop(partition);
        if checkpoint {
            upkeep_driver::write_recovery_points(&table);
        }
        if let Some(leader) = leader {
            let leader = self.index_of(leader);
            self.proceed(b, leader, key, leader_epoch, &followed);
        }
    }

    // ---- in-sync replicas

    /// Looks at the partitions where a follower lags.
    pub fn look_after_isr(&mut self, b: usize) {
        let Some(life) = &mut self.brokers[b].life else { return };
        let now = life.table.clock.now();
        let watched = life.table.isr.take_watched();
        for slot in &watched {
            let lags = slot.lock().look_after(now);
            if lags {
                life.table.isr.watch(slot);
            }
        }
        life.following.due.extend(watched);
        let life = life.number;
        let event = BrokerEvent::Isr;
        self.at(LAG_MS / 2 * MS, Event::Broker { broker: b, life, event });
    }

    /// Sends what is to be proposed, unless something is on its way.
    pub fn propose_isr(&mut self, b: usize) {
        let Some(life) = &mut self.brokers[b].life else { return };
        life.following.due.extend(life.table.isr.take_due());
        if life.following.proposing || life.following.due.is_empty() {
            return;
        }
        let now = life.table.clock.now();
        let due = std::mem::take(&mut life.following.due);
        let mut asked: Proposals = Vec::new();
        for slot in due {
            let proposal = slot.lock().isr_proposal(now);
            asked.extend(proposal.map(|p| (slot, p)));
        }
        if asked.is_empty() {
            return;
        }
        life.following.proposing = true;
        if life.epoch < 0 {
            self.isr_answered(b, asked, Err(ErrorCode::StaleBrokerEpoch));
            return;
        }
        let command = SubmitCommand::AlterPartition(pb::AlterPartition {
            broker_id: life.table.node_id.0,
            broker_epoch: life.epoch,
            partitions: asked.iter().map(|(slot, proposal)| item(slot, proposal)).collect(),
        });
        let deadline = self.now + ISR_PATIENCE_US;
        let command = Command::Submit(command);
        self.ask(b, Asked::Isr { asked, command: command.clone(), deadline }, command);
    }

    /// The controller answered a proposal.
    pub fn isr_replied(&mut self, b: usize, asked: Proposals, reply: Reply) {
        let answers = match reply {
            Reply::Submit(r) => match (r.error, r.reply) {
                (0, Some(SubmitBody::AlterPartition(body))) if body.error == 0 => {
                    Ok(body.partitions)
                }
                (0, Some(SubmitBody::AlterPartition(body))) => Err(code(body.error)),
                (error, _) => Err(code(error)),
            },
            Reply::Heartbeat(_) | Reply::Nothing => Err(ErrorCode::UnknownServerError),
        };
        self.isr_answered(b, asked, answers);
    }

    pub fn isr_answered(
        &mut self,
        b: usize,
        asked: Proposals,
        answers: Result<Vec<pb::AlterPartitionResult>, ErrorCode>,
    ) {
        let again_in = self.between(20 * MS, 100 * MS);
        let Some(life) = &mut self.brokers[b].life else { return };
        let number = life.number;
        let now = life.table.clock.now();
        life.following.proposing = false;
        let mut said = Vec::new();
        for (at, (slot, proposal)) in asked.into_iter().enumerate() {
            let answer = match &answers {
                Ok(answers) => answers.get(at).map_or(Err(ErrorCode::UnknownServerError), answer),
                Err(code) => Err(*code),
            };
            said.push(format!("broker {b} {}: {proposal:?} answered {answer:?}", slot.id()));
            let ask_again = slot.lock().isr_answered(&proposal, answer, now);
            if ask_again {
                life.following.due.push(slot);
            }
        }
        for line in said {
            self.note(format_args!("{line}"));
        }
        let event = BrokerEvent::Propose;
        self.at(again_in, Event::Broker { broker: b, life: number, event });
    }
}

fn code(number: i32) -> ErrorCode {
    i16::try_from(number).map_or(ErrorCode::UnknownServerError, ErrorCode::from_code)
}

fn answer(result: &pb::AlterPartitionResult) -> Result<IsrAnswer, ErrorCode> {
    if result.error != 0 {
        return Err(code(result.error));
    }
    Ok(IsrAnswer {
        leader_epoch: result.leader_epoch,
        partition_epoch: result.partition_epoch,
        isr: result.isr.iter().map(|id| NodeId(*id)).collect(),
    })
}

fn item(slot: &Slot, proposal: &IsrProposal) -> pb::AlterPartitionItem {
    let member =
        |(id, epoch): &(NodeId, i64)| pb::IsrMember { broker_id: id.0, broker_epoch: *epoch };
    pb::AlterPartitionItem {
        topic_id: slot.topic_id.0.to_vec().into(),
        partition: slot.partition,
        leader_epoch: proposal.leader_epoch,
        partition_epoch: proposal.partition_epoch,
        isr: proposal.isr.iter().map(member).collect(),
        leader_recovery_state: proposal.recovery.code().into(),
    }
}
