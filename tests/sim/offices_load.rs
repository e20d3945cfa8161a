//! How a simulated broker loads the shards of coordinators, step by step.

use std::sync::Arc;

use futures::FutureExt as _;
use vltava::{
    base::{ErrorCode, Offset, PartitionId},
    coordinator::{
        OffsetsLog as _,
        batches::Replay,
        calls_consumer::ChangedTopics,
        machine::{Load, LoadStep, Machine as Loadable},
        shard::Shard,
        share_shard::ShareShard,
        table::Role,
        txn_calls::At,
        txn_shard::TxnShard,
    },
    metadata::Image,
};

use crate::{
    broker::BrokerEvent,
    machine::{Kind, Machine},
    offices::Offices,
    plan::MS,
    world::{Event, World},
};

/// Bytes in one read while a shard loads.
const LOAD_BYTES: usize = 2048;

/// A shard that is being loaded.
pub enum Loading {
    Groups(Box<Shard>, Replay, Offset),
    Txns(Box<Load<TxnShard>>),
    Shares(Box<Load<ShareShard>>),
}

/// A shard that is loaded up to a committed end.
trait Loaded: Machine + Loadable {
    fn fresh(offices: &Offices, run: u64) -> Self;
    fn loading(load: Box<Load<Self>>) -> Loading;
    fn going_on(loading: Loading) -> Option<Box<Load<Self>>>;
    fn begin(&mut self, image: &Image, at: At, out: &mut Vec<<Self as Machine>::Effect>);
}

impl Loaded for TxnShard {
    fn fresh(offices: &Offices, run: u64) -> Self {
        Self::new(Arc::clone(&offices.txn_settings), run)
    }

    fn loading(load: Box<Load<Self>>) -> Loading {
        Loading::Txns(load)
    }

    fn going_on(loading: Loading) -> Option<Box<Load<Self>>> {
        if let Loading::Txns(load) = loading { Some(load) } else { None }
    }

    fn begin(&mut self, _: &Image, at: At, out: &mut Vec<<Self as Machine>::Effect>) {
        self.loaded(at, out);
    }
}

impl Loaded for ShareShard {
    fn fresh(offices: &Offices, _: u64) -> Self {
        Self::new(Arc::clone(&offices.share_settings))
    }

    fn loading(load: Box<Load<Self>>) -> Loading {
        Loading::Shares(load)
    }

    fn going_on(loading: Loading) -> Option<Box<Load<Self>>> {
        if let Loading::Shares(load) = loading { Some(load) } else { None }
    }

    fn begin(&mut self, image: &Image, at: At, out: &mut Vec<<Self as Machine>::Effect>) {
        self.loaded(|topic| image.topics().by_id(topic).is_some(), at.now, out);
    }
}

impl World {
    pub fn load_in(&mut self, b: usize, kind: Kind, partition: PartitionId, us: u64) {
        let Some(life) = self.life(b).map(|l| l.number) else { return };
        let soon = self.between(us / 10, us);
        let event = BrokerEvent::Load { kind, partition };
        self.at(soon, Event::Broker { broker: b, life, event });
    }

    /// The next step of loading.
    pub fn load(&mut self, b: usize, kind: Kind, partition: PartitionId) {
        match kind {
            Kind::Groups => self.load_groups(b, partition),
            Kind::Txns => self.load_shard::<TxnShard>(b, partition),
            Kind::Shares => self.load_shard::<ShareShard>(b, partition),
        }
    }

    fn load_groups(&mut self, b: usize, partition: PartitionId) {
        let (Some(offices), Some(at)) = (self.offices(b), self.at_of(b)) else { return };
        let Some(shared) = offices.groups.get(partition) else { return };
        let mut slot = shared.lock();
        if !matches!(slot.role, Role::Loading) {
            return;
        }
        let (log, epoch, key) = (&offices.groups_log, slot.epoch, (Kind::Groups, partition));
        let Some(life) = self.life(b) else { return };
        let image = Arc::clone(life.loader.image());
        let begun = life.coordination.loading.remove(&key);
        let step = || -> Result<_, ErrorCode> {
            let (mut shard, mut replay, end) = match begun {
                Some(Loading::Groups(shard, replay, end)) => (shard, replay, end),
                _ => {
                    let bounds = log.bounds(partition, epoch)?;
                    let shard = Box::new(Shard::new(Arc::clone(&offices.settings)));
                    (shard, Replay::new(bounds.start), bounds.end)
                }
            };
            if replay.next < end {
                let read = log.read(partition, epoch, replay.next, LOAD_BYTES).now_or_never();
                let chunk = read.unwrap_or(Err(ErrorCode::UnknownServerError))?;
                let taken = replay.chunk(&chunk.bytes, chunk.high_watermark, &mut shard, at.now);
                taken.map_err(|_| ErrorCode::CorruptMessage)?;
            }
            Ok((shard, replay, end))
        };
        match step() {
            Ok((shard, replay, end)) if replay.next < end => {
                let loading = Loading::Groups(shard, replay, end);
                if let Some(life) = self.life(b) {
                    life.coordination.loading.insert(key, loading);
                }
                self.load_in(b, Kind::Groups, partition, 5 * MS);
            }
            Ok((mut shard, replay, end)) => {
                shard.metadata_changed(image, &ChangedTopics::default());
                slot.role = Role::Active(shard);
                drop(slot);
                if replay.damaged > 0 {
                    self.violate("readable", format!("records of offsets: {replay:?}"));
                }
                self.note(format_args!("broker {b} has loaded groups {partition} up to {end}"));
                self.step::<Shard>(b, partition, None, |s, at, out| s.loaded(end, at.now, out));
            }
            Err(code) => {
                slot.role = Role::Failed;
                drop(slot);
                self.note(format_args!("broker {b} cannot load groups {partition}: {code:?}"));
            }
        }
    }

    fn load_shard<M: Loaded>(&mut self, b: usize, partition: PartitionId) {
        let Some(offices) = self.offices(b) else { return };
        let Some(shared) = M::offices(&offices).0.get(partition) else { return };
        let mut slot = shared.lock();
        if !matches!(slot.role, Role::Loading) {
            return;
        }
        let (log, epoch, key) = (M::offices(&offices).1, slot.epoch, (M::KIND, partition));
        let Some(life) = self.life(b) else { return };
        let image = Arc::clone(life.loader.image());
        let coordination = &mut life.coordination;
        let begun = coordination.loading.remove(&key);
        let step = || -> Result<_, ErrorCode> {
            let mut load = match begun {
                Some(loading) => M::going_on(loading).ok_or(ErrorCode::UnknownServerError)?,
                None => {
                    let bounds = log.bounds(partition, epoch)?;
                    coordination.loads += 1;
                    let shard = M::fresh(&offices, coordination.loads << 32);
                    Box::new(Load::new(shard, bounds))
                }
            };
            match load.next() {
                LoadStep::Read(from) => {
                    let read = log.read(partition, epoch, from, LOAD_BYTES).now_or_never();
                    let chunk = read.unwrap_or(Err(ErrorCode::UnknownServerError))?;
                    load.chunk(&chunk.bytes).map_err(|_| ErrorCode::CorruptMessage)?;
                }
                LoadStep::Commit(offset) => {
                    let watch = || (epoch, log.committed(partition, epoch, offset));
                    let (asked, wait) = coordination.watched.entry(key).or_insert_with(watch);
                    let passed = wait.now_or_never();
                    let again = *asked != epoch;
                    if passed.is_some() {
                        coordination.watched.remove(&key);
                    }
                    match passed {
                        Some(Ok(_)) => load.committed(),
                        Some(Err(code)) if !again => return Err(code),
                        _ => {}
                    }
                }
                LoadStep::Done => {}
            }
            Ok(load)
        };
        match step() {
            Ok(load) if load.next() == LoadStep::Done => {
                let (shard, replay) = load.done();
                slot.role = Role::Active(shard);
                drop(slot);
                if replay.damaged > 0 {
                    self.violate("readable", format!("records of {}: {replay:?}", M::TOPIC));
                }
                self.note(format_args!("broker {b} has loaded {} {partition}", M::TOPIC));
                self.observe(b);
                self.check_loaded(b, M::TOPIC, partition, replay.next);
                self.step::<M>(b, partition, None, |m, at, out| m.begin(&image, at, out));
            }
            Ok(load) => {
                life.coordination.loading.insert(key, M::loading(load));
                self.load_in(b, M::KIND, partition, 10 * MS);
            }
            Err(code) => {
                slot.role = Role::Failed;
                drop(slot);
                self.note(format_args!(
                    "broker {b} cannot load {} {partition}: {code:?}",
                    M::TOPIC
                ));
            }
        }
    }
}
