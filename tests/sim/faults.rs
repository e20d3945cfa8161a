//! What goes wrong, when, and how it ends.

use std::io;

use vltava::testing::fs::Op;

use crate::{
    broker::End,
    net::Place,
    plan::{Fault, MS, SECOND},
    quorum::SEATS,
    world::{Event, Relief, World},
};

impl World {
    /// The next fault.
    pub fn strike(&mut self) {
        if self.healing_since.is_some() {
            return;
        }
        let gap = self.plan.fault_gap_us;
        let next = self.between(gap / 4, gap * 2);
        self.at(next, Event::Fault);
        if self.plan.faults.is_empty() {
            return;
        }
        let fault = self.plan.faults[self.rng.below(self.plan.faults.len())];
        let b = self.rng.below(self.brokers.len());
        self.faults += 1;
        self.note(format_args!("fault {fault:?}"));
        match fault {
            Fault::Kill => self.stop_uncleanly(b, End::Killed),
            Fault::PowerCut => self.stop_uncleanly(b, End::PowerCut),
            Fault::PowerCutAll => {
                for b in 0..self.brokers.len() {
                    self.stop_uncleanly(b, End::PowerCut);
                }
            }
            Fault::Pause => {
                let until = self.now + self.between(50 * MS, 4 * SECOND);
                self.brokers[b].paused_until = until;
            }
            Fault::OneWayCut => {
                let (from, to) = self.some_link();
                self.net.cut.insert((from, to));
                let late = self.between(100 * MS, 4 * SECOND);
                self.at(late, Event::Relief(Relief::Link(from, to)));
            }
            Fault::Isolate => self.isolate(Place::Broker(b)),
            Fault::Clog => {
                let (from, to) = self.some_link();
                let until = self.now + self.between(100 * MS, 3 * SECOND);
                self.net.clogged.insert((from, to), until);
            }
            Fault::DiskFull => {
                let room = self.rng.below(3000) as u64;
                self.brokers[b].fs.set_room(Some(room));
                let late = self.between(100 * MS, 3 * SECOND);
                self.at(late, Event::Relief(Relief::Disk { broker: b }));
            }
            Fault::IoError => self.break_disk(b),
            Fault::WallJump => self.jump(b),
            Fault::Failover => {
                let late = self.between(0, 300 * MS);
                self.at(late, Event::Elect);
            }
            Fault::CleanStop => {
                if let Some(life) = self.brokers[b].life.as_mut().filter(|l| l.running) {
                    life.stopping = true;
                }
            }
            Fault::GiveUp => self.one_gives_up(),
            Fault::Admin => self.one_asks_for_a_change(),
        }
    }

    fn some_place(&mut self) -> Place {
        match self.rng.below(6) {
            0 => Place::Seat(self.rng.below(SEATS)),
            1 => Place::Client(self.rng.below(self.clients.len())),
            _ => Place::Broker(self.rng.below(self.brokers.len())),
        }
    }

    fn some_link(&mut self) -> (Place, Place) {
        let (from, mut to) = (self.some_place(), self.some_place());
        while to == from {
            to = self.some_place();
        }
        (from, to)
    }

    fn isolate(&mut self, place: Place) {
        let others = (0..SEATS).map(Place::Seat);
        let others = others.chain((0..self.brokers.len()).map(Place::Broker));
        for other in others.chain((0..self.clients.len()).map(Place::Client)) {
            if other != place {
                self.net.cut.insert((place, other));
                self.net.cut.insert((other, place));
            }
        }
        let late = self.between(200 * MS, 5 * SECOND);
        self.at(late, Event::Relief(Relief::Place(place)));
    }

    /// Whether one more broker may stop uncleanly now.
    pub fn may_stop(&mut self, b: usize) -> bool {
        self.recount_frail();
        let frail = (0..self.brokers.len()).filter(|o| *o != b && self.brokers[*o].frail).count();
        frail < self.plan.unclean_max()
    }

    /// A broker is no longer frail once it is in every ISR that it belongs to, in this life.
    pub fn recount_frail(&mut self) {
        let image = self.quorum.image().clone();
        for broker in &mut self.brokers {
            let Some(life) = &broker.life else { continue };
            let known = image.brokers().get(broker.id);
            let registered = known.is_some_and(|k| k.epoch == life.epoch && !k.fenced);
            let id = broker.id;
            let mut all = image.topics().iter().flat_map(|t| t.iter());
            if registered && all.all(|(_, p)| !p.has_replica(id) || p.isr.contains(&id)) {
                broker.frail = broker.disk_armed;
            }
        }
    }

    fn stop_uncleanly(&mut self, b: usize, how: End) {
        if self.may_stop(b) {
            let down = self.between(50 * MS, 3 * SECOND);
            self.end_broker(b, how, down);
        }
    }

    /// The next write or sync of some file fails, after which the broker ends.
    fn break_disk(&mut self, b: usize) {
        if !self.may_stop(b) {
            return;
        }
        let mut op = [Op::Write, Op::Sync, Op::Sync, Op::Rename][self.rng.below(4)];
        // What failed to sync is lost for good with the next power cut, which is in the bargain only
        // where power cuts are.
        if self.end_of_disk() == End::Killed && op == Op::Sync {
            op = Op::Write;
        }
        let part = [".log", "checkpoint", "t-"][self.rng.below(3)];
        let broker = &mut self.brokers[b];
        broker.fs.fail_next(op, part, io::ErrorKind::Other);
        (broker.frail, broker.disk_armed) = (true, true);
    }

    /// How a broker ends whose disk failed: where power cuts are in the bargain, by one.
    pub fn end_of_disk(&self) -> End {
        let cuts = self.plan.durable || self.plan.faults.contains(&Fault::PowerCut);
        if cuts { End::PowerCut } else { End::Killed }
    }

    fn jump(&mut self, b: usize) {
        let year = 365 * 86_400_000_i64;
        let far = [1_000, 60_000, 86_400_000, 10 * year][self.rng.below(4)];
        let by = if self.rng.one_in(2) { far } else { -far };
        let seat = self.rng.below(SEATS);
        self.brokers[b].wall_off_ms = by;
        self.quorum.seats[seat].wall_off_ms = -by;
    }

    pub fn relieve(&mut self, relief: Relief) {
        match relief {
            Relief::Link(from, to) => _ = self.net.cut.remove(&(from, to)),
            Relief::Place(p) => self.net.cut.retain(|(from, to)| *from != p && *to != p),
            Relief::Disk { broker } => self.brokers[broker].fs.free_disk(),
        }
    }

    /// All faults are over; the cluster has its time to become whole.
    pub fn heal(&mut self) {
        self.note(format_args!("healing begins"));
        self.healing_since = Some(self.now);
        self.net.heal();
        for b in 0..self.brokers.len() {
            let broker = &mut self.brokers[b];
            broker.paused_until = 0;
            broker.disk_armed = false;
            broker.fs.heal();
            broker.fs.free_disk();
            self.at(100 * MS, Event::Start { broker: b });
        }
    }
}
