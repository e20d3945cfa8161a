//! A broker without its sockets: the product's log directory, replicas, metadata loader and flush
//! queue over a simulated disk and clock. What drivers do in the product, the world's events do
//! here: registration and heartbeats, following the metadata, upkeep, answering clients.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use vltava::{
    base::{
        ErrorCode, Mono, NodeId, Now, Offset, PartitionId, Uuid,
        ports::{Clock, Entropy, Fs},
    },
    controller::Command,
    log::{FileCache, FlushDriver, LogDir},
    metadata::{Delta, Image, Loader},
    node::loading,
    replica::{
        table::{Dir, ReplicaTable},
        upkeep_driver::Work,
    },
    share::leavers::Leavers,
    testing::{
        clock::{Seeded, SimEntropy},
        fs::SimFs,
    },
};

use crate::{
    cleaner::Cleaner,
    follow::{Following, Proposals},
    machine::Kind,
    net::{Key, Message, Place},
    offices::Coordination,
    plan::{MS, SECOND},
    schema::{self, LAG_MS},
    serve::Parked,
    share_serve::Shares,
    world::{EPOCH_MS, Event, World},
};

pub const DATA: &str = "/data";
const UPKEEP_US: u64 = 500 * MS;

/// What happens to a broker.
#[derive(Debug, Clone)]
pub enum BrokerEvent {
    /// It is time for a heartbeat, or for another try to register.
    Heartbeat,
    /// A question had no answer for long enough.
    Unanswered { req: u64 },
    /// Periodic work on the logs.
    Upkeep { round: u64 },
    /// The metadata up to this offset is here.
    Metadata { offset: i64 },
    /// The disk has synced what one log asked for.
    Flush,
    /// It is time to ask a leader for records.
    Follow { leader: usize, tick: u64 },
    /// A leader has not told where its log begins and ends.
    Unbounded { key: Key, leader_epoch: i32 },
    /// It is time to look at followers that lag.
    Isr,
    /// It is time to send what is to be proposed.
    Propose,
    /// The next step of loading a coordinator's shard.
    Load { kind: Kind, partition: PartitionId },
    /// It is time to look at the deadlines of coordinators.
    Offices,
    /// A share coordinator has not answered.
    ShareUnanswered { req: u64 },
    /// The cleaner of logs goes on.
    Clean,
    /// It is time to send a marker.
    Mark { number: u64, tick: u64 },
}

/// A clock that the world sets.
#[derive(Debug, Default)]
pub struct BrokerClock(Mutex<Now>);

impl BrokerClock {
    fn set(&self, now: Now) {
        *self.0.lock().unwrap() = now;
    }
}

impl Clock for BrokerClock {
    fn now(&self) -> Now {
        *self.0.lock().unwrap()
    }
}

/// What an answer of the controller is to.
#[derive(Debug)]
pub enum Asked {
    Registration,
    Heartbeat,
    /// For the shard of this partition.
    ProducerId {
        partition: PartitionId,
    },
    /// The command is put to one controller after the other until the deadline.
    Isr {
        asked: Proposals,
        command: Command,
        deadline: u64,
    },
}

/// What was last seen of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    pub leads: bool,
    pub epoch: i32,
    pub high_watermark: Offset,
    pub start: Offset,
    pub end: Offset,
    pub flushed: Offset,
    /// Up to where its content was compared with what is known to be committed.
    pub compared: Offset,
}

/// A broker's process.
pub struct Life {
    pub number: u64,
    pub incarnation: Uuid,
    pub table: Arc<ReplicaTable>,
    flusher: Arc<FlushDriver>,
    flushing: bool,
    pub loader: Loader,
    pub epoch: i64,
    pub previous_epoch: i64,
    pub running: bool,
    pub stopping: bool,
    pub seat: usize,
    pub asked: BTreeMap<u64, Asked>,
    pub parked: Vec<Parked>,
    pub following: Following,
    pub seen: BTreeMap<Key, Seen>,
    /// Under which epoch it was last looked at as a leader that serves.
    pub serves: BTreeMap<Key, i32>,
    pub coordination: Coordination,
    pub shares: Shares,
    pub cleaner: Option<Cleaner>,
}

/// A broker's machine.
pub struct Broker {
    pub id: NodeId,
    pub fs: SimFs,
    pub clock: Arc<BrokerClock>,
    entropy: Arc<SimEntropy>,
    pub dir_id: Uuid,
    pub life: Option<Life>,
    lives: u64,
    born: u64,
    pub paused_until: u64,
    drift: i64,
    pub wall_off_ms: i64,
    /// A write or sync of its disk is about to fail.
    pub disk_armed: bool,
    /// It stopped uncleanly, and is not yet back in every ISR.
    pub frail: bool,
    /// What it had published when it ended.
    published: i64,
    /// When the active controller heard its last two heartbeats.
    pub heard_of: [u64; 2],
    /// How much of each log is on its disk, as far as is known.
    pub on_disk: BTreeMap<Key, Option<Offset>>,
}

impl Broker {
    pub fn new(index: usize, rng: &mut Seeded) -> Self {
        let fs = SimFs::new(rng.u64());
        fs.create_dir_all(Path::new(DATA)).unwrap();
        fs.sync_dir(Path::new("/")).unwrap();
        let entropy = Arc::new(SimEntropy::new(rng.u64()));
        Self {
            id: NodeId(i32::try_from(index).unwrap()),
            fs,
            clock: Arc::default(),
            dir_id: entropy.uuid(),
            entropy,
            life: None,
            lives: 0,
            born: 0,
            paused_until: 0,
            drift: rng.below(100_000) as i64 - 50_000,
            wall_off_ms: 0,
            disk_armed: false,
            frail: false,
            published: -1,
            heard_of: [0; 2],
            on_disk: BTreeMap::new(),
        }
    }

    /// The end of its logs as far as a crash leaves them: all that was written, or what is synced.
    fn remember_logs(&mut self, tail_lost: bool, durable: bool) {
        let Some(life) = &self.life else { return };
        for (key, seen) in &life.seen {
            let known = match (tail_lost, durable) {
                (false, _) => Some(seen.end),
                (true, true) => Some(seen.flushed),
                (true, false) => None,
            };
            self.on_disk.insert(*key, known);
        }
    }
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `kill -9`: what was written stays.
    Killed,
    /// Power cut: unsynced bytes are lost or torn.
    PowerCut,
    /// After a controlled shutdown.
    Clean,
}

impl World {
    /// Sets a broker's clock to the present.
    fn wind(&mut self, b: usize) -> Now {
        let broker = &self.brokers[b];
        let lived = i128::from(self.now - broker.born);
        let us = u64::try_from(lived * i128::from(1_000_000 + broker.drift) / 1_000_000).unwrap();
        let wall_ms = EPOCH_MS + i64::try_from(self.now / 1000).unwrap() + broker.wall_off_ms;
        let now = Now { mono: Mono(us * 1000), wall_ms };
        broker.clock.set(now);
        now
    }

    /// Starts a broker's process: opens its directory, loads its logs, takes its part.
    pub fn start_broker(&mut self, b: usize) {
        if self.brokers[b].life.is_some() {
            return;
        }
        if self.quorum.image().features().metadata_version().is_none() || !self.is_fed(b) {
            self.at(200 * MS, Event::Start { broker: b });
            return;
        }
        let end = self.quorum.image().position.offset;
        let oldest = self.brokers[b].published.max(0);
        let at = if self.rng.one_in(2) {
            end
        } else {
            self.between(oldest as u64, end as u64 + 1) as i64
        };
        let mut image = self.quorum.image_at(at);
        if image.features().metadata_version().is_none() {
            image = Arc::clone(self.quorum.image());
        }
        self.brokers[b].born = self.now;
        let now = self.wind(b);
        if let Err(e) = self.open(b, &image, now) {
            self.note(format_args!("broker {b} cannot start: {e}"));
            self.at(SECOND, Event::Start { broker: b });
            return;
        }
        let offset = image.position.offset;
        self.note(format_args!("broker {b} starts with metadata up to {offset}"));
        let life = self.brokers[b].lives;
        let soon = self.between(MS, 20 * MS);
        self.at(soon, Event::Broker { broker: b, life, event: BrokerEvent::Heartbeat });
        let look = self.between(0, LAG_MS / 2 * MS);
        self.at(look, Event::Broker { broker: b, life, event: BrokerEvent::Isr });
        let upkeep = BrokerEvent::Upkeep { round: 0 };
        self.at(UPKEEP_US, Event::Broker { broker: b, life, event: upkeep });
        self.at(UPKEEP_US, Event::Broker { broker: b, life, event: BrokerEvent::Offices });
        if self.plan.keyed_partitions > 0 {
            let first = self.between(UPKEEP_US, 2 * UPKEEP_US);
            self.at(first, Event::Broker { broker: b, life, event: BrokerEvent::Clean });
        }
        self.announce(b, end);
        self.after_broker(b);
    }

    fn open(&mut self, b: usize, image: &Arc<Image>, now: Now) -> Result<(), String> {
        let settings = Arc::clone(&self.settings);
        let broker = &mut self.brokers[b];
        let files = Arc::new(FileCache::new(64));
        let (log_dir, mut state) =
            LogDir::open(Arc::new(broker.fs.clone()), Path::new(DATA), files)
                .map_err(|e| e.to_string())?;
        let flusher = Arc::new(FlushDriver::stepped());
        let dir = Dir {
            log_dir,
            id: broker.dir_id,
            name: DATA.to_owned(),
            flusher: Arc::clone(&flusher),
        };
        let previous_epoch = state.broker_epoch.take().unwrap_or(-1);
        let clock = Arc::clone(&broker.clock);
        let entropy = Arc::clone(&broker.entropy);
        let table = Arc::new(ReplicaTable::new(broker.id, vec![dir], 16, clock, entropy));
        let incarnation = broker.entropy.uuid();
        table.life.begin(incarnation);
        let mut settings = |topic: &str| schema::settings_of(topic, &settings);
        loading::load_all(&table, &[state], image, 0, &mut settings);
        let delta = Delta::between(&Image::default(), image);
        let published = table.publish(&delta, image, &mut settings);
        let coordination = Coordination::new(&table);
        table.settled();
        let _ = now;
        broker.lives += 1;
        broker.life = Some(Life {
            number: broker.lives,
            incarnation,
            table,
            flusher,
            flushing: false,
            loader: Loader::new(Arc::clone(image)),
            epoch: -1,
            previous_epoch,
            running: false,
            stopping: false,
            seat: 0,
            asked: BTreeMap::new(),
            parked: Vec::new(),
            following: Following::default(),
            seen: BTreeMap::new(),
            serves: BTreeMap::new(),
            coordination,
            shares: Shares::default(),
            cleaner: None,
        });
        let delta = Delta::between(&Image::default(), image);
        self.change_offices(b, &delta, image, &published.offices);
        Ok(())
    }

    /// A broker's process ends, and starts again after `down_us`.
    pub fn end_broker(&mut self, b: usize, how: End, down_us: u64) {
        self.end_broker_with(b, how, down_us, None);
    }

    /// The same; `struck` is what was written when it ended, if that was in the middle of something.
    pub fn end_broker_with(&mut self, b: usize, how: End, down_us: u64, struck: Option<SimFs>) {
        let durable = self.plan.durable;
        self.note_disk(b);
        let broker = &mut self.brokers[b];
        if broker.life.is_none() {
            return;
        }
        let tail_lost = how == End::PowerCut;
        broker.remember_logs(tail_lost, durable);
        // What a cleaning does as it ends is not to be seen.
        let life = broker.life.take();
        broker.disk_armed = false;
        broker.frail |= how != End::Clean;
        let left = struck.unwrap_or_else(|| broker.fs.clone());
        broker.fs = match how {
            End::PowerCut => left.crash(),
            // A clean stop has put everything on disk.
            End::Clean if self.rng.one_in(2) => left.crash(),
            End::Killed | End::Clean => left.killed(),
        };
        drop(life);
        broker.paused_until = 0;
        self.note(format_args!("broker {b} ends: {how:?}"));
        self.at(down_us, Event::Start { broker: b });
    }

    /// Something happens to a broker.
    pub fn broker_event(&mut self, b: usize, life: u64, event: BrokerEvent) {
        if self.brokers[b].life.as_ref().is_none_or(|l| l.number != life) {
            return;
        }
        self.wind(b);
        match event {
            BrokerEvent::Heartbeat => self.speak_up(b),
            BrokerEvent::Unanswered { req } => self.unanswered(b, req),
            BrokerEvent::Upkeep { round } => self.upkeep(b, round),
            BrokerEvent::Metadata { offset } => self.publish(b, offset),
            BrokerEvent::Flush => {
                if let Some(l) = &mut self.brokers[b].life {
                    l.flushing = false;
                    l.flusher.step();
                }
                self.note(format_args!("broker {b} flushed"));
            }
            BrokerEvent::Follow { leader, tick } => self.follow(b, leader, tick),
            BrokerEvent::Unbounded { key, leader_epoch } => {
                self.bounded(b, key, leader_epoch, Err(ErrorCode::NetworkException));
            }
            BrokerEvent::Isr => self.look_after_isr(b),
            BrokerEvent::Propose => {}
            BrokerEvent::Load { kind, partition } => self.load(b, kind, partition),
            BrokerEvent::ShareUnanswered { req } => self.share_unanswered(b, req),
            BrokerEvent::Clean => self.clean(b),
            BrokerEvent::Offices => self.look_after_offices(b),
            BrokerEvent::Mark { number, tick } => self.send_mark(b, number, tick),
        }
        self.after_broker(b);
    }

    /// A message reaches a broker.
    pub fn broker_hears(&mut self, b: usize, from: Place, message: Message) {
        self.wind(b);
        match message {
            Message::Produce { req, connection, key, records, all } => {
                if self.life(b).is_none_or(|l| !l.running) {
                    self.break_connection(connection);
                }
                self.serve_produce(b, from, req, key, records, all);
            }
            Message::Read { req, key, from: offset, near } => {
                self.serve_read(b, from, req, (key, offset), near);
            }
            Message::Answer { req, reply } => self.answered(b, req, reply),
            Message::Follow { req, epoch, wanted } => {
                self.serve_follower(b, from, req, epoch, wanted);
            }
            Message::Followed { req, given } => self.followed(b, from, req, given),
            Message::Bounds { req, key, leader_epoch } => {
                self.serve_bounds(b, from, req, key, leader_epoch);
            }
            Message::Bounded { key, leader_epoch, result, .. } => {
                self.bounded(b, key, leader_epoch, result);
            }
            Message::TxnProduce { req, at, writer, records, .. } => {
                self.serve_txn_produce(b, from, req, at, writer, records);
            }
            Message::ReadStable { req, key, from: offset } => {
                self.serve_stable(b, from, req, key, offset);
            }
            Message::Call { req, wanted, .. } => self.serve_call(b, from, req, wanted),
            Message::Called { req, answer } => self.broker_is_answered(b, req, answer),
            Message::Mark { req, at, call, .. } => self.serve_mark(b, from, req, at, call),
            Message::ShareFetch { req, key, member, wants, .. } => {
                self.serve_share_fetch(b, from, req, (key, member), wants);
            }
            Message::ShareAck { req, key, member, acks, leaves, .. } => {
                self.serve_share_ack(b, (from, req), (key, member), &acks, leaves);
            }
            Message::Ask { .. }
            | Message::ShareFetched { .. }
            | Message::ShareAcked { .. }
            | Message::Produced { .. }
            | Message::ReadBack { .. }
            | Message::StableBack { .. } => {}
        }
        self.after_broker(b);
    }

    pub fn life(&mut self, b: usize) -> Option<&mut Life> {
        self.brokers[b].life.as_mut()
    }

    // ---- metadata

    fn publish(&mut self, b: usize, offset: i64) {
        if !self.is_fed(b) {
            self.at(
                100 * MS,
                Event::Broker {
                    broker: b,
                    life: self.brokers[b].life.as_ref().map_or(0, |l| l.number),
                    event: BrokerEvent::Metadata { offset },
                },
            );
            return;
        }
        let settings = Arc::clone(&self.settings);
        let Some(life) = &mut self.brokers[b].life else { return };
        let Some(update) = self.quorum.follow(&mut life.loader, offset) else { return };
        let table = Arc::clone(&life.table);
        let mut settings = |topic: &str| schema::settings_of(topic, &settings);
        let published = table.publish(&update.delta, &update.image, &mut settings);
        self.change_offices(b, &update.delta, &update.image, &published.offices);
        let leavers = Leavers::of(&update.delta, &update.image, &published.offices);
        self.share_partitions_leave(b, &leavers);
        self.brokers[b].published = offset;
        self.note(format_args!("broker {b} has metadata up to {offset}"));
    }

    // ---- what drivers do

    fn upkeep(&mut self, b: usize, round: u64) {
        let Some(life) = self.life(b) else { return };
        let (table, number) = (Arc::clone(&life.table), life.number);
        Work::Tick.run(&table);
        if round % 4 == 3 {
            Work::Retention.run(&table);
            Work::HighWatermarks.run(&table);
            Work::RecoveryPoints.run(&table);
            Work::LogStarts.run(&table);
            Work::Producers.run(&table);
        }
        let event = BrokerEvent::Upkeep { round: round + 1 };
        self.at(UPKEEP_US, Event::Broker { broker: b, life: number, event });
    }

    /// What follows from anything that happened to a broker: answers that can leave now, syncs that
    /// were asked for, a directory that failed, and what is to be checked.
    fn after_broker(&mut self, b: usize) {
        self.propose_isr(b);
        self.look_for_leaders(b);
        self.observe(b);
        self.release_parked(b);
        self.watch_offices(b);
        self.release_marks(b);
        let Some(life) = &mut self.brokers[b].life else { return };
        let number = life.number;
        if life.flusher.is_asked() && !life.flushing {
            life.flushing = true;
            let takes = self.between(200, 8 * MS);
            let event = BrokerEvent::Flush;
            self.at(takes, Event::Broker { broker: b, life: number, event });
        }
        self.note_disk(b);
        let offline = self.brokers[b]
            .life
            .as_ref()
            .is_some_and(|l| l.table.dirs().iter().any(|d| d.log_dir.offline_reason().is_some()));
        if offline {
            // Its only directory is gone: the process ends. A disk that failed to write is not
            // trusted before the machine was started anew.
            let how = self.end_of_disk();
            let down = self.between(SECOND, 2 * SECOND);
            self.end_broker(b, how, down);
        }
    }

    /// What a broker's disk was asked to do.
    fn note_disk(&mut self, b: usize) {
        for line in self.brokers[b].fs.take_trace() {
            self.note(format_args!("broker {b} {line}"));
        }
    }
}
