//! What a broker and the controllers say to each other: it registers, sends heartbeats, and asks.

use std::path::Path;

use bytes::Bytes;
use vltava::{
    base::{ErrorCode, Uuid, ports::Fs},
    controller::{
        Command, Reply,
        command::{SubmitBody, SubmitCommand},
    },
    metadata::features,
    pb::controller as pb,
    replica::upkeep_driver,
};

use crate::{
    broker::{Asked, BrokerEvent, DATA, End},
    net::{Message, Place},
    plan::{MS, SECOND},
    quorum::SEATS,
    schema::HEARTBEAT_MS,
    world::{Event, World},
};

/// A question to the controller that has no answer after this long is asked again.
const PATIENCE_US: u64 = HEARTBEAT_MS * MS;

impl World {
    pub fn ask(&mut self, b: usize, asked: Asked, command: Command) {
        let req = self.request();
        let Some(life) = self.life(b) else { return };
        life.asked.insert(req, asked);
        let (seat, number) = (life.seat, life.number);
        self.send(Place::Broker(b), Place::Seat(seat), Message::Ask { req, command });
        let event = BrokerEvent::Unanswered { req };
        self.at(PATIENCE_US, Event::Broker { broker: b, life: number, event });
    }

    /// Registers, or sends a heartbeat.
    pub fn speak_up(&mut self, b: usize) {
        let (id, dir) = (self.brokers[b].id.0, self.brokers[b].dir_id);
        let Some(life) = self.life(b) else { return };
        let bytes = |id: &Uuid| Bytes::copy_from_slice(&id.0);
        if life.epoch < 0 {
            let range = |(name, r): (&str, vltava::metadata::VersionRange)| pb::FeatureRange {
                name: name.to_owned(),
                min: r.min.into(),
                max: r.max.into(),
            };
            let command = SubmitCommand::RegisterBroker(pb::RegisterBroker {
                broker_id: id,
                cluster_id: "cluster".to_owned(),
                incarnation_id: bytes(&life.incarnation),
                endpoints: Vec::new(),
                features: features::supported().map(range).collect(),
                rack: None,
                log_dirs: vec![bytes(&dir)],
                previous_broker_epoch: life.previous_epoch,
            });
            self.ask(b, Asked::Registration, Command::Submit(command));
            return;
        }
        let request = pb::HeartbeatRequest {
            broker_id: id,
            broker_epoch: life.epoch,
            metadata_offset: life.loader.image().position.offset,
            want_fence: false,
            want_shut_down: life.stopping,
            ..pb::HeartbeatRequest::default()
        };
        self.ask(b, Asked::Heartbeat, Command::Heartbeat(request));
    }

    fn heartbeat_in(&mut self, b: usize, us: u64) {
        let Some(life) = self.life(b).map(|l| l.number) else { return };
        self.at(us, Event::Broker { broker: b, life, event: BrokerEvent::Heartbeat });
    }

    /// Another controller is asked, after a pause.
    fn moved(&mut self, b: usize, req: u64) {
        let Some(life) = self.life(b).map(|l| l.number) else { return };
        let event = BrokerEvent::Unanswered { req };
        self.at(20 * MS, Event::Broker { broker: b, life, event });
    }

    /// No answer came: another controller is asked.
    pub fn unanswered(&mut self, b: usize, req: u64) {
        let Some(life) = self.life(b) else { return };
        let Some(asked) = life.asked.remove(&req) else { return };
        life.seat = (life.seat + 1) % SEATS;
        match asked {
            Asked::Registration | Asked::Heartbeat => self.heartbeat_in(b, 20 * MS),
            Asked::ProducerId { partition } => {
                self.producer_id(b, partition, Err(ErrorCode::CoordinatorLoadInProgress));
            }
            Asked::Isr { asked, command, deadline } if self.now < deadline => {
                let again = command.clone();
                self.ask(b, Asked::Isr { asked, command, deadline }, again);
            }
            Asked::Isr { asked, .. } => {
                self.isr_answered(b, asked, Err(ErrorCode::RequestTimedOut));
            }
        }
    }

    pub fn answered(&mut self, b: usize, req: u64, reply: Reply) {
        let Some(life) = self.life(b) else { return };
        let Some(asked) = life.asked.remove(&req) else { return };
        if Self::error_of(&reply) == i32::from(ErrorCode::NotController.code()) {
            let hint = match &reply {
                Reply::Submit(r) => r.leader,
                Reply::Heartbeat(r) => r.leader,
                Reply::Nothing => None,
            };
            // One step back, as going on without an answer takes one forward.
            let hint = hint.map(|h| usize::try_from(h - 1000).unwrap() + SEATS - 1);
            life.seat = hint.unwrap_or(life.seat) % SEATS;
            life.asked.insert(req, asked);
            self.moved(b, req);
            return;
        }
        match (asked, reply) {
            (Asked::Registration, Reply::Submit(r)) => {
                if let (0, Some(SubmitBody::RegisterBroker(body))) = (r.error, r.reply)
                    && body.error == 0
                {
                    life.epoch = body.broker_epoch;
                }
                self.heartbeat_in(b, 10 * MS);
            }
            (Asked::Heartbeat, Reply::Heartbeat(r)) => self.take_heartbeat(b, &r),
            (Asked::ProducerId { partition }, reply) => {
                let got = match reply {
                    Reply::Submit(r) => match r.reply {
                        Some(SubmitBody::AllocateProducerIds(r)) if r.error == 0 => Ok(r.first),
                        _ => Err(ErrorCode::CoordinatorLoadInProgress),
                    },
                    _ => Err(ErrorCode::CoordinatorLoadInProgress),
                };
                self.producer_id(b, partition, got);
            }
            (Asked::Isr { asked, .. }, reply) => self.isr_replied(b, asked, reply),
            _ => {}
        }
    }

    fn take_heartbeat(&mut self, b: usize, r: &pb::HeartbeatReply) {
        let Some(life) = self.life(b) else { return };
        if r.error == i32::from(ErrorCode::StaleBrokerEpoch.code()) {
            // Another process has taken its id, or what was left of its last life: it registers anew.
            (life.previous_epoch, life.epoch) = (life.epoch, -1);
            self.heartbeat_in(b, 20 * MS);
        } else if r.error != 0 {
            self.heartbeat_in(b, HEARTBEAT_MS * MS);
        } else if life.stopping && r.should_shut_down {
            self.stop_cleanly(b);
        } else if life.stopping {
            self.heartbeat_in(b, 50 * MS);
        } else {
            let begins = !life.running && !r.is_fenced;
            life.running |= !r.is_fenced;
            let pause = if r.is_fenced { 50 } else { HEARTBEAT_MS };
            self.heartbeat_in(b, pause * MS);
            if begins {
                self.take_offices(b);
            }
        }
    }

    fn stop_cleanly(&mut self, b: usize) {
        if !self.may_stop(b) {
            // A full disk would make it an unclean stop, of which there are enough at this time.
            self.brokers[b].fs.free_disk();
        }
        if let Some(life) = self.life(b) {
            life.cleaner = None;
            let epoch = life.epoch;
            upkeep_driver::close_clean(&life.table, epoch);
        }
        let down = self.between(100 * MS, 2 * SECOND);
        let marker = Path::new(DATA).join(".kafka_cleanshutdown");
        let how = match self.brokers[b].fs.stat(&marker) {
            Ok(Some(_)) => End::Clean,
            _ => self.end_of_disk(),
        };
        self.end_broker(b, how, down);
    }
}
