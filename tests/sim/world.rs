//! The world: its time, its queue of events, and everybody in it. One thing happens at a time, in
//! an order that the seed alone decides.

use std::{collections::BTreeMap, fmt, sync::Arc};

use vltava::{base::NodeId, testing::clock::Seeded};

use crate::{
    broker::{Broker, BrokerEvent},
    clients::{Client, ClientEvent},
    net::{Message, Network, Place},
    oracle::Oracle,
    plan::{MS, Plan, SECOND},
    quorum::Quorum,
    schema,
    trace::Trace,
};

/// Wall time of the world's beginning, in milliseconds.
pub const EPOCH_MS: i64 = 1_700_000_000_000;
/// The cluster has this long after the last fault.
const HEALING_US: u64 = 10 * SECOND;
/// Share groups must be done with what there is within this time.
const DRAIN_US: u64 = 60 * SECOND;

/// Something that will happen.
#[derive(Debug, Clone)]
pub enum Event {
    Deliver {
        from: Place,
        to: Place,
        life: u64,
        message: Message,
    },
    Broker {
        broker: usize,
        life: u64,
        event: BrokerEvent,
    },
    /// A broker's process is started.
    Start {
        broker: usize,
    },
    /// A controller looks at its deadlines.
    Seat {
        seat: usize,
        term: u64,
    },
    /// A controller's proposal is decided upon.
    Commit {
        seat: usize,
        flight: u64,
    },
    /// Another controller becomes active.
    Elect,
    Client {
        client: usize,
        event: ClientEvent,
    },
    /// The next fault strikes.
    Fault,
    /// A fault is over.
    Relief(Relief),
    /// The metadata reaches a broker up to this offset.
    Check,
}

/// The end of a fault.
#[derive(Debug, Clone)]
pub enum Relief {
    Link(Place, Place),
    Place(Place),
    Disk { broker: usize },
}

/// Why a run failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub id: &'static str,
    pub text: String,
}

/// What a run that held came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub hash: u64,
    pub events: u64,
    pub acked: usize,
    pub committed: usize,
    pub elections: usize,
    pub faults: usize,
    /// Transactions that producers saw end, and commits of members of a group.
    pub txns: usize,
    pub commits: usize,
    /// Cleanings that came to their end.
    pub cleanings: usize,
    /// Records that a share group was handed.
    pub deliveries: usize,
    pub healed_in_ms: u64,
}

pub struct World {
    pub plan: Plan,
    pub rng: Seeded,
    /// Microseconds since the beginning.
    pub now: u64,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub trace: Trace,
    pub net: Network,
    pub brokers: Vec<Broker>,
    pub quorum: Quorum,
    pub clients: Vec<Client>,
    pub oracle: Oracle,
    pub settings: Arc<schema::PartitionsSettings>,
    pub next_req: u64,
    pub faults: usize,
    /// When the last fault was over; `None` before.
    pub healing_since: Option<u64>,
    /// When share groups last had something to do, after that.
    drained: u64,
    pub failed: Option<Violation>,
}

impl World {
    pub fn new(plan: Plan, loud: bool) -> Self {
        let mut rng = Seeded::new(plan.seed);
        let brokers = (0..plan.brokers).map(|b| Broker::new(b, &mut rng)).collect();
        let settings = schema::partition_settings(&plan);
        let mut world = Self {
            brokers,
            quorum: Quorum::new(&plan, &mut rng),
            clients: Vec::new(),
            oracle: Oracle::default(),
            settings,
            rng,
            now: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            trace: Trace::new(loud),
            net: Network::default(),
            next_req: 0,
            faults: 0,
            healing_since: None,
            drained: 0,
            failed: None,
            plan,
        };
        world.at(0, Event::Elect);
        for broker in 0..world.brokers.len() {
            world.at(50 * MS + broker as u64, Event::Start { broker });
        }
        world.start_clients();
        let first = SECOND + world.plan.fault_gap_us;
        world.at(first, Event::Fault);
        world.at(200 * MS, Event::Check);
        world
    }

    /// Lets `event` happen `after` microseconds from now.
    pub fn at(&mut self, after: u64, event: Event) {
        self.queue.insert((self.now + after, self.next_event), event);
        self.next_event += 1;
    }

    pub fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.note(self.now, what);
    }

    /// An invariant is broken. The first is what counts.
    pub fn violate(&mut self, id: &'static str, text: String) {
        self.note(format_args!("VIOLATION {id}: {text}"));
        self.failed.get_or_insert(Violation { id, text });
    }

    /// A number that no other request has.
    pub fn request(&mut self) -> u64 {
        self.next_req += 1;
        self.next_req
    }

    /// A number of microseconds between the two.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.rng.u64() % (high - low).max(1)
    }

    /// Which broker has that id.
    pub fn index_of(&self, id: NodeId) -> usize {
        usize::try_from(id.0).unwrap()
    }

    /// Runs to the end: faults, then healing.
    pub fn run(mut self) -> Result<Summary, (Violation, String)> {
        while self.failed.is_none() {
            let Some(((at, _), event)) = self.queue.pop_first() else { break };
            self.now = at;
            if self.healing_since.is_none() && at >= self.plan.safety_us {
                self.heal();
            }
            self.handle(event);
            if self.healing_since.is_some_and(|since| self.is_over(since)) {
                break;
            }
        }
        if self.failed.is_none() {
            self.check_at_the_end();
        }
        match self.failed {
            Some(violation) => Err((violation, self.trace.tail())),
            None => Ok(Summary {
                hash: self.trace.hash(),
                events: self.trace.events,
                acked: self.oracle.acked_total,
                committed: self.oracle.committed_total(),
                elections: self.oracle.leaders.len(),
                faults: self.faults,
                txns: self.oracle.txns_told,
                commits: self.oracle.commits,
                deliveries: self.oracle.shares.deliveries,
                cleanings: self.oracle.compaction.cleanings,
                healed_in_ms: self.healing_since.map_or(0, |s| (self.now - s) / MS),
            }),
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, life, message } => {
                if let Some(late) = self.paused(to) {
                    self.at(late, Event::Deliver { from, to, life, message });
                } else {
                    self.deliver(from, to, life, message);
                }
            }
            Event::Broker { broker, life, event } => {
                if let Some(late) = self.paused(Place::Broker(broker)) {
                    self.at(late, Event::Broker { broker, life, event });
                } else {
                    self.broker_event(broker, life, event);
                }
            }
            Event::Start { broker } => self.start_broker(broker),
            Event::Seat { seat, term } => self.seat_due(seat, term),
            Event::Commit { seat, flight } => self.commit(seat, flight),
            Event::Elect => self.elect(),
            Event::Client { client, event } => self.client_event(client, event),
            Event::Fault => self.strike(),
            Event::Relief(relief) => self.relieve(relief),
            Event::Check => {
                self.check_all();
                self.at(500 * MS, Event::Check);
            }
        }
    }

    /// How long whoever is at `place` still stands still, in microseconds.
    fn paused(&self, place: Place) -> Option<u64> {
        match place {
            Place::Broker(b) => {
                self.brokers[b].paused_until.checked_sub(self.now).filter(|d| *d > 0)
            }
            Place::Seat(_) | Place::Client(_) => None,
        }
    }

    /// Whether the cluster is whole again, or had its time.
    fn is_over(&mut self, since: u64) -> bool {
        if self.now < since + SECOND {
            return false;
        }
        // What was piled up for share groups they take at their own pace, writing all the while.
        if self.shares_lack().is_some() && self.now < since + DRAIN_US {
            self.drained = self.now;
            return false;
        }
        match self.what_is_missing() {
            None => true,
            Some(missing) => {
                if self.now > since.max(self.drained) + HEALING_US {
                    self.violate(
                        "progress",
                        format!("{HEALING_US} us after the last fault: {missing}"),
                    );
                }
                false
            }
        }
    }
}
