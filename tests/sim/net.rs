//! The network: who may talk to whom, and how late, how often and how broken what they say arrives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use vltava::{
    base::{ErrorCode, LeaderEpoch, Offset, PartitionId, Uuid},
    controller::{Command, Reply},
    coordinator::{calls::EndTxnCall, txn_records::TopicPartition},
    replica::follower::FetchPosition,
    share::{
        acknowledge::AckBatch,
        acquire::{AcquireMode, Acquired},
    },
};

use crate::{
    follow::Given,
    machine::Answer,
    plan::MS,
    txn_serve::{Stable, Wanted, Writer},
    world::{Event, World},
};

/// A partition.
pub type Key = (Uuid, PartitionId);

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Broker(usize),
    /// A controller.
    Seat(usize),
    Client(usize),
}

/// What is said.
#[derive(Debug, Clone)]
pub enum Message {
    Produce {
        req: u64,
        connection: u64,
        key: Key,
        records: Bytes,
        all: bool,
    },
    Produced {
        req: u64,
        result: Result<Offset, ErrorCode>,
    },
    Read {
        req: u64,
        key: Key,
        from: Offset,
        near: bool,
    },
    ReadBack {
        req: u64,
        result: Result<Bytes, ErrorCode>,
    },
    Follow {
        req: u64,
        epoch: i64,
        wanted: Vec<(Key, FetchPosition)>,
    },
    Followed {
        req: u64,
        given: Vec<Given>,
    },
    Bounds {
        req: u64,
        key: Key,
        leader_epoch: LeaderEpoch,
    },
    Bounded {
        req: u64,
        key: Key,
        leader_epoch: LeaderEpoch,
        result: Result<(Offset, Offset), ErrorCode>,
    },
    /// A batch in a transaction, with its first sequence.
    TxnProduce {
        req: u64,
        connection: u64,
        at: (Key, i32),
        writer: Writer,
        records: Bytes,
    },
    ReadStable {
        req: u64,
        key: Key,
        from: Offset,
    },
    StableBack {
        req: u64,
        result: Result<Stable, ErrorCode>,
    },
    /// To a coordinator. Without a connection (0) it may come late and twice.
    Call {
        req: u64,
        connection: u64,
        wanted: Wanted,
    },
    /// From a coordinator, or about a marker.
    Called {
        req: u64,
        answer: Answer,
    },
    /// Without a connection (0) it may come late and twice.
    Mark {
        req: u64,
        connection: u64,
        at: TopicPartition,
        call: EndTxnCall,
    },
    /// A member of a share group wants so many records.
    ShareFetch {
        req: u64,
        connection: u64,
        key: Key,
        member: Arc<str>,
        wants: (i32, AcquireMode),
    },
    ShareFetched {
        req: u64,
        key: Key,
        result: Result<Vec<Acquired>, ErrorCode>,
    },
    /// What a member says of records; it may leave.
    ShareAck {
        req: u64,
        connection: u64,
        key: Key,
        member: Arc<str>,
        acks: Vec<AckBatch>,
        leaves: bool,
    },
    ShareAcked {
        req: u64,
        result: Result<(), ErrorCode>,
    },
    Ask {
        req: u64,
        command: Command,
    },
    Answer {
        req: u64,
        reply: Reply,
    },
}

impl Message {
    /// Whether a retry of the sender's network may bring it twice. Calls to a controller are never
    /// repeated by what carries them.
    fn may_repeat(&self) -> bool {
        match self {
            Self::Call { connection, .. }
            | Self::Mark { connection, .. }
            | Self::TxnProduce { connection, .. } => *connection == 0,
            Self::Produce { .. } | Self::Read { .. } | Self::Follow { .. } => true,
            _ => false,
        }
    }

    /// What it is sent on, if order matters.
    const fn connection(&self) -> Option<u64> {
        match self {
            Self::Produce { connection, .. }
            | Self::ShareFetch { connection, .. }
            | Self::ShareAck { connection, .. } => Some(*connection),
            Self::Call { connection, .. }
            | Self::Mark { connection, .. }
            | Self::TxnProduce { connection, .. }
                if *connection != 0 =>
            {
                Some(*connection)
            }
            _ => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Produce { req, records, all, .. } => {
                format!("Produce {req} {} bytes all={all}", records.len())
            }
            Self::Produced { req, result } => format!("Produced {req} {result:?}"),
            Self::Read { req, from, .. } => format!("Read {req} from {from}"),
            Self::ReadBack { req, result } => {
                format!("ReadBack {req} {:?}", result.as_ref().map(Bytes::len))
            }
            Self::Follow { req, epoch, wanted } => {
                let at = wanted.iter().map(|(k, p)| (k.1, p.offset, p.last_fetched_epoch));
                format!("Follow {req} epoch {epoch} {:?}", at.collect::<Vec<_>>())
            }
            Self::Followed { req, given } => {
                let got = given
                    .iter()
                    .map(|g| (g.key.1, g.error, g.high_watermark, g.diverging, g.records.len()));
                format!("Followed {req} {:?}", got.collect::<Vec<_>>())
            }
            Self::Bounds { req, key, leader_epoch } => {
                format!("Bounds {req} {} epoch {leader_epoch}", key.1)
            }
            Self::Bounded { req, key, result, .. } => {
                format!("Bounded {req} {} {result:?}", key.1)
            }
            Self::TxnProduce { req, at, writer, .. } => {
                let (id, p) = (&writer.id, writer.producer);
                format!("TxnProduce {req} {} from {} {id} {p:?}", at.0.1, at.1)
            }
            Self::ReadStable { req, key, from } => format!("ReadStable {req} {} {from}", key.1),
            Self::StableBack { req, result } => {
                let got = result.as_ref().map(|s| (s.bytes.len(), &s.aborted));
                format!("StableBack {req} {got:?}")
            }
            Self::Call { req, wanted, .. } => short(format!("Call {req} {wanted:?}")),
            Self::Called { req, answer } => short(format!("Called {req} {answer:?}")),
            Self::Mark { req, at, call, .. } => format!("Mark {req} {at:?} {call:?}"),
            Self::ShareFetch { req, key, member, wants, .. } => {
                format!("ShareFetch {req} {} {member} {wants:?}", key.1)
            }
            Self::ShareFetched { req, key, result } => {
                short(format!("ShareFetched {req} {} {result:?}", key.1))
            }
            Self::ShareAck { req, key, member, acks, leaves, .. } => {
                short(format!("ShareAck {req} {} {member} {acks:?} leaves={leaves}", key.1))
            }
            Self::ShareAcked { req, result } => format!("ShareAcked {req} {result:?}"),
            Self::Ask { req, command } => format!("Ask {req} {}", name_of(command)),
            Self::Answer { req, .. } => format!("Answer {req}"),
        }
    }
}

fn name_of(command: &Command) -> String {
    short(format!("{command:?}"))
}

fn short(text: String) -> String {
    text.chars().take(260).collect()
}

/// What is wrong with the network.
#[derive(Debug, Default)]
pub struct Network {
    /// Connections that lost something: nothing comes through any more.
    broken: BTreeSet<u64>,
    /// Which life of its broker a connection was made to.
    lives: BTreeMap<u64, u64>,
    /// When what was last sent by a connection arrives.
    arrives: BTreeMap<u64, u64>,
    pub cut: BTreeSet<(Place, Place)>,
    /// Until when what goes this way is held up.
    pub clogged: BTreeMap<(Place, Place), u64>,
    /// Whether loss, duplicates and corruption are over.
    pub healed: bool,
}

impl Network {
    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        self.cut.contains(&(from, to))
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.clogged.clear();
        self.healed = true;
    }
}

impl World {
    /// Which life of a broker is reached now; 0 for others.
    fn life_at(&self, to: Place) -> Option<u64> {
        match to {
            Place::Broker(b) => self.brokers[b].life.as_ref().map(|l| l.number),
            Place::Seat(_) | Place::Client(_) => Some(0),
        }
    }

    /// Sends `message`; a network that is unkind loses, delays, repeats or breaks it.
    pub fn send(&mut self, from: Place, to: Place, message: Message) {
        let Some(life) = self.life_at(to) else { return };
        let (loss, duplicates, corruption) = if self.net.healed {
            (0, 0, 0)
        } else {
            (self.plan.loss, self.plan.duplicates, self.plan.corruption)
        };
        let lost = self.rng.below(1000) < loss || self.net.is_cut(from, to);
        if !self.holds(&message, life, lost) || lost {
            self.note(format_args!("lost {from:?} {to:?} {}", message.name()));
            return;
        }
        let message = match message {
            Message::Produce { req, connection, key, records, all }
                if self.rng.below(1000) < corruption =>
            {
                let records = self.broken(&records);
                Message::Produce { req, connection, key, records, all }
            }
            whole => whole,
        };
        let twice = message.may_repeat() && self.rng.below(1000) < duplicates;
        if twice {
            let late = self.delay(from, to) + self.rng.below(500) as u64 * MS;
            let message = message.clone();
            self.at(late, Event::Deliver { from, to, life, message });
        }
        let delay = self.delay(from, to);
        let delay = self.in_order(&message, delay);
        self.at(delay, Event::Deliver { from, to, life, message });
    }

    /// Whether the connection of `message` still holds: losing it, or another life at the far end,
    /// breaks it.
    fn holds(&mut self, message: &Message, life: u64, lost: bool) -> bool {
        let Some(connection) = message.connection() else { return true };
        let begun = *self.net.lives.entry(connection).or_insert(life);
        if lost || begun != life {
            self.break_connection(connection);
        }
        !self.net.broken.contains(&connection)
    }

    /// The connection of a client to a broker: another one if that does not hold any more.
    pub fn connect(&mut self, to_each: &mut BTreeMap<usize, u64>, broker: usize) -> u64 {
        let life = self.life_at(Place::Broker(broker));
        if let Some(connection) = to_each.get(&broker) {
            let begun = self.net.lives.get(connection).copied();
            if !self.net.broken.contains(connection) && (begun.is_none() || begun == life) {
                return *connection;
            }
        }
        let connection = self.request();
        to_each.insert(broker, connection);
        connection
    }

    /// Nothing more comes through.
    pub fn break_connection(&mut self, connection: u64) {
        self.net.broken.insert(connection);
    }

    /// The delay of a message that may not overtake what its connection carried before.
    fn in_order(&mut self, message: &Message, delay: u64) -> u64 {
        let Some(connection) = message.connection() else { return delay };
        let before = self.net.arrives.get(&connection).copied().unwrap_or(0);
        let arrives = (self.now + delay).max(before + 1);
        self.net.arrives.insert(connection, arrives);
        arrives - self.now
    }

    /// One bit of what the checksum covers is wrong.
    fn broken(&mut self, records: &Bytes) -> Bytes {
        let mut bytes = records.to_vec();
        let at = 21 + self.rng.below(bytes.len() - 21);
        bytes[at] ^= 1 << self.rng.below(8);
        bytes.into()
    }

    /// How long a message takes that is sent now, in microseconds.
    fn delay(&mut self, from: Place, to: Place) -> u64 {
        let usual = self.plan.delay_us;
        let mut delay = 50 + self.rng.below(usual) as u64;
        if !self.net.healed && self.rng.one_in(50) {
            delay *= 20;
        }
        let clogged = self.net.clogged.get(&(from, to)).copied().unwrap_or(0);
        delay + clogged.saturating_sub(self.now)
    }

    /// A message arrives.
    pub fn deliver(&mut self, from: Place, to: Place, life: u64, message: Message) {
        if self.life_at(to) != Some(life) {
            return;
        }
        if let Some(connection) = message.connection()
            && self.net.broken.contains(&connection)
        {
            return;
        }
        self.note(format_args!("{from:?} {to:?} {}", message.name()));
        match to {
            Place::Broker(b) => self.broker_hears(b, from, message),
            Place::Seat(s) => self.seat_hears(s, from, message),
            Place::Client(c) => self.client_hears(c, message),
        }
    }
}
