//! The metadata quorum as brokers see it: an ordered log that never forgets, and controllers of
//! which one is active at a time. A controller that was deposed may not know it for a while; what
//! it proposes then comes to nothing. The controllers themselves are the product's.

use std::sync::Arc;

use vltava::{
    base::{Mono, Now},
    controller::{Command, Core, Draft, Outcome, Reply},
    metadata::{Image, Loader, Position, Record, record},
    testing::clock::Seeded,
};

use crate::{
    broker::BrokerEvent,
    net::{Message, Place},
    plan::{MS, Plan},
    schema,
    world::{EPOCH_MS, Event, World},
};

/// Controllers.
pub const SEATS: usize = 3;
/// How often the active controller looks at its deadlines, in microseconds.
const LOOK_US: u64 = 50 * MS;

/// One entry of the metadata log.
#[derive(Debug)]
pub struct Entry {
    pub at: Position,
    pub records: Vec<Record>,
}

struct Ask {
    from: Place,
    req: u64,
    command: Command,
}

struct Flight {
    number: u64,
    epoch: i32,
    entries: Vec<Vec<Record>>,
    answers: Vec<(Place, u64, Outcome)>,
}

/// One controller.
pub struct Seat {
    core: Option<Core>,
    loader: Loader,
    asked: Vec<Ask>,
    flight: Option<Flight>,
    term: u64,
    /// How much faster its clock runs than the world's, in millionths.
    drift: i64,
    /// How far its wall clock is off, in milliseconds.
    pub wall_off_ms: i64,
}

/// See the file's head.
pub struct Quorum {
    pub log: Vec<Entry>,
    pub epoch: i32,
    /// Who is active, as the quorum knows it.
    pub leader: Option<usize>,
    pub seats: Vec<Seat>,
    /// Everything that was committed.
    pub truth: Loader,
    next_flight: u64,
    /// When the active controller took office, and each broker last reached it, in microseconds.
    pub active_since: u64,
}

impl Quorum {
    pub fn new(plan: &Plan, rng: &mut Seeded) -> Self {
        let drifts = plan.faults.contains(&crate::plan::Fault::WallJump);
        let seat = |rng: &mut Seeded| Seat {
            core: None,
            loader: Loader::default(),
            asked: Vec::new(),
            flight: None,
            term: 0,
            drift: if drifts { rng.below(100_000) as i64 - 50_000 } else { 0 },
            wall_off_ms: 0,
        };
        Self {
            log: Vec::new(),
            epoch: 0,
            leader: None,
            seats: (0..SEATS).map(|_| seat(rng)).collect(),
            truth: Loader::default(),
            next_flight: 0,
            active_since: 0,
        }
    }

    /// All that was committed.
    pub fn image(&self) -> &Arc<Image> {
        self.truth.image()
    }

    /// The image after the entry at `offset`.
    pub fn image_at(&self, offset: i64) -> Arc<Image> {
        if offset == self.image().position.offset {
            return Arc::clone(self.image());
        }
        let mut loader = Loader::default();
        self.follow(&mut loader, offset);
        Arc::clone(loader.image())
    }

    /// Brings `loader` up to `offset`.
    pub fn follow(&self, loader: &mut Loader, offset: i64) -> Option<vltava::metadata::Update> {
        let from = usize::try_from(loader.image().position.offset + 1).unwrap();
        let to = usize::try_from(offset + 1).unwrap().max(from);
        let batches = self.log[from..to].iter().map(|e| (e.at, e.records.as_slice()));
        loader.load_batches(batches).expect("what was committed can be replayed")
    }
}

impl World {
    fn seat_now(&self, seat: usize) -> Now {
        let s = &self.quorum.seats[seat];
        let us = i128::from(self.now) * i128::from(1_000_000 + s.drift) / 1_000_000;
        let us = u64::try_from(us).unwrap();
        let wall_ms = EPOCH_MS + i64::try_from(us / 1000).unwrap() + s.wall_off_ms;
        Now { mono: Mono(us * 1000), wall_ms }
    }

    /// Another controller becomes active; the one before learns of it later.
    pub fn elect(&mut self) {
        let before = self.quorum.leader.take();
        let rest = (0..SEATS).filter(|s| Some(*s) != before).collect::<Vec<_>>();
        let seat = rest[self.rng.below(rest.len())];
        if let Some(old) = before {
            // What was under way may still have reached a majority.
            if self.rng.one_in(2)
                && let Some(flight) = self.quorum.seats[old].flight.take()
            {
                let entries = self.rng.below(flight.entries.len() + 1);
                self.append(flight.epoch, flight.entries.into_iter().take(entries).collect());
            }
            let (term, late) = (self.quorum.seats[old].term, self.between(0, 1_500 * MS));
            self.at(late, Event::Seat { seat: old, term });
        }
        self.quorum.epoch += 1;
        let (epoch, end) = (self.quorum.epoch, self.quorum.image().position.offset);
        self.note(format_args!("controller {seat} is active in epoch {epoch}"));
        let now = self.seat_now(seat);
        self.quorum.leader = Some(seat);
        self.quorum.active_since = self.now;
        let mut loader = std::mem::take(&mut self.quorum.seats[seat].loader);
        self.quorum.follow(&mut loader, end);
        let mut core = Core::new(schema::controller_settings(&self.plan, seat, epoch));
        let mut draft = Draft::new(loader.image());
        core.became_active(epoch, &mut draft, now);
        let s = &mut self.quorum.seats[seat];
        s.loader = loader;
        s.core = Some(core);
        s.flight = None;
        s.term += 1;
        s.asked.clear();
        let term = s.term;
        self.propose(seat, draft, Vec::new());
        self.at(LOOK_US, Event::Seat { seat, term });
    }

    /// A controller looks at its deadlines, or finds out that it is no longer active.
    pub fn seat_due(&mut self, seat: usize, term: u64) {
        if self.quorum.seats[seat].term != term {
            return;
        }
        if self.quorum.leader != Some(seat) {
            self.resign(seat);
            return;
        }
        self.round(seat);
        self.at(LOOK_US, Event::Seat { seat, term });
    }

    fn resign(&mut self, seat: usize) {
        if self.quorum.seats[seat].core.take().is_some() {
            self.note(format_args!("controller {seat} learns that it is deposed"));
        }
        if let Some(flight) = self.quorum.seats[seat].flight.take() {
            self.lose(seat, flight);
        }
        self.round(seat);
    }

    fn lose(&mut self, seat: usize, flight: Flight) {
        for (to, req, outcome) in flight.answers {
            self.send(Place::Seat(seat), to, Message::Answer { req, reply: outcome.lost(None) });
        }
    }

    /// A question arrives.
    pub fn seat_hears(&mut self, seat: usize, from: Place, message: Message) {
        let Message::Ask { req, command } = message else { return };
        if let (Command::Heartbeat(r), true) = (&command, self.quorum.leader == Some(seat)) {
            let b = usize::try_from(r.broker_id).unwrap();
            let [last, before] = self.brokers[b].heard_of;
            // Of several in a row, as after a pause, the one before all of them counts.
            let before = if last + 15 * MS < self.now { last } else { before };
            self.brokers[b].heard_of = [self.now, before];
        }
        self.quorum.seats[seat].asked.push(Ask { from, req, command });
        self.round(seat);
    }

    /// Decides what was asked and what is due, unless a proposal is under way.
    fn round(&mut self, seat: usize) {
        if self.quorum.seats[seat].flight.is_some() {
            return;
        }
        let now = self.seat_now(seat);
        let hint = self.quorum.leader.map(|l| schema::controller_settings(&self.plan, l, 0).node);
        let s = &mut self.quorum.seats[seat];
        let asked = std::mem::take(&mut s.asked);
        let mut draft = Draft::new(s.loader.image());
        let mut answers = Vec::new();
        match &mut s.core {
            Some(core) => {
                for ask in asked {
                    let outcome = core.handle(ask.command, &mut draft, now);
                    answers.push((ask.from, ask.req, outcome));
                }
                if core.next_deadline() <= now.mono {
                    core.on_deadline(&mut draft, now);
                }
                self.propose(seat, draft, answers);
            }
            None => {
                let mut idle = Core::new(schema::controller_settings(&self.plan, seat, 0));
                for ask in asked {
                    let reply = idle.handle(ask.command, &mut draft, now).lost(hint);
                    self.send(Place::Seat(seat), ask.from, Message::Answer { req: ask.req, reply });
                }
            }
        }
    }

    fn propose(&mut self, seat: usize, draft: Draft, answers: Vec<(Place, u64, Outcome)>) {
        if draft.is_empty() && answers.is_empty() {
            return;
        }
        let size = if self.rng.one_in(4) { 200 } else { usize::MAX };
        let entries = draft.into_entries(size);
        let s = &mut self.quorum.seats[seat];
        let epoch = s.core.as_ref().and_then(Core::active_epoch).unwrap_or(-1);
        if entries.is_empty() {
            // Nothing to commit: what was decided rests on what is committed.
            let image = Arc::clone(s.loader.image());
            self.answer(seat, answers, &image);
            return;
        }
        self.quorum.next_flight += 1;
        let number = self.quorum.next_flight;
        s.flight = Some(Flight { number, epoch, entries, answers });
        let takes = self.between(MS, 10 * MS);
        self.at(takes, Event::Commit { seat, flight: number });
    }

    fn answer(&mut self, seat: usize, answers: Vec<(Place, u64, Outcome)>, image: &Image) {
        for (to, req, outcome) in answers {
            let reply = outcome.settle(image);
            // One that was deposed and does not know it tells of its image what was so once: as in
            // Kafka, where nothing is to be written nobody is asked.
            if self.quorum.leader == Some(seat) {
                self.check_reply(req, &reply);
            }
            self.send(Place::Seat(seat), to, Message::Answer { req, reply });
        }
    }

    /// A proposal is decided upon.
    pub fn commit(&mut self, seat: usize, number: u64) {
        let flight = &mut self.quorum.seats[seat].flight;
        let Some(flight) = flight.take_if(|f| f.number == number) else { return };
        if self.quorum.leader != Some(seat) || self.quorum.epoch != flight.epoch {
            self.note(format_args!("controller {seat} is not heard: it was deposed"));
            self.lose(seat, flight);
            self.resign(seat);
            return;
        }
        self.append(flight.epoch, flight.entries);
        let end = self.quorum.image().position.offset;
        let mut loader = std::mem::take(&mut self.quorum.seats[seat].loader);
        let update = self.quorum.follow(&mut loader, end);
        let image = Arc::clone(loader.image());
        let s = &mut self.quorum.seats[seat];
        s.loader = loader;
        if let (Some(core), Some(update)) = (&mut s.core, update) {
            core.committed(&update.delta);
            if !core.index_is_true_to(&update.image) {
                self.violate("index", format!("controller {seat}'s index differs from its image"));
            }
        }
        self.answer(seat, flight.answers, &image);
        self.round(seat);
    }

    /// Entries are committed: every broker will hear of them.
    fn append(&mut self, epoch: i32, entries: Vec<Vec<Record>>) {
        for records in entries {
            let offset = self.quorum.image().position.offset + 1;
            let at = Position { offset, epoch };
            let read = record::decode_batch(record::encode_batch(&records)).unwrap();
            assert_eq!(read, records, "records survive their encoding");
            for record in &records {
                self.note(format_args!("committed {offset} {record:?}"));
            }
            let update = self.quorum.truth.load_batch(at, &records).unwrap().unwrap();
            self.quorum.log.push(Entry { at, records });
            self.check_metadata(&update.delta);
        }
        let end = self.quorum.image().position.offset;
        for broker in 0..self.brokers.len() {
            self.announce(broker, end);
        }
    }

    /// The metadata up to `offset` is on its way to `broker`.
    pub fn announce(&mut self, broker: usize, offset: i64) {
        let Some(life) = self.brokers[broker].life.as_ref().map(|l| l.number) else { return };
        let usual = self.plan.delay_us as u64;
        let mut late = self.between(100, 200 + 2 * usual);
        if !self.net.healed && self.rng.one_in(20) {
            late += self.between(0, 800 * MS);
        }
        self.at(late, Event::Broker { broker, life, event: BrokerEvent::Metadata { offset } });
    }

    /// Whether the metadata can reach a broker: some controller's stream does.
    pub fn is_fed(&self, broker: usize) -> bool {
        let to = Place::Broker(broker);
        (0..SEATS).any(|s| !self.net.is_cut(Place::Seat(s), to))
    }

    /// The answer to a question that is known not to have been heard.
    pub fn error_of(reply: &Reply) -> i32 {
        match reply {
            Reply::Submit(r) => r.error,
            Reply::Heartbeat(r) => r.error,
            Reply::Nothing => 0,
        }
    }
}
