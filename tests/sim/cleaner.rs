//! The cleaner of a simulated broker: the product's cleaning of one log at a time, in a thread of
//! its own that runs only while the world waits for it. Between two of its steps anything else
//! happens: appends, truncations, elections. A crash can strike at any change that it makes.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use vltava::{
    base::Offset,
    log::{Assignment, CleanError, CleanTerms, Cleaning, LogError, SLOT_BYTES},
    replica::{
        table::{ReplicaTable, Slot},
        upkeep_driver,
    },
};

use crate::{
    broker::{BrokerEvent, End},
    oracle::Sight,
    plan::{Fault, MS, SECOND},
    schema,
    world::{Event, World},
};

/// Where a cleaning stands.
enum Step {
    /// It waits to go on.
    Paused,
    Done(Result<Offset, CleanError>),
}

/// A cleaning under way.
pub struct Cleaner {
    slot: Arc<Slot>,
    work: Assignment,
    /// Whether to go on, or to end.
    go: Option<SyncSender<bool>>,
    stands: Receiver<Step>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    fn begin(slot: Arc<Slot>, work: Assignment, terms: CleanTerms) -> Self {
        let (go, wait) = sync_channel::<bool>(1);
        let (tell, stands) = sync_channel(1);
        let (its_slot, its_work) = (Arc::clone(&slot), work.clone());
        let thread = thread::spawn(move || {
            let mut goes_on = wait.recv().unwrap_or(false);
            let mut pace = |_| {
                // Whoever has stopped listening wants it to end.
                let listens = tell.send(Step::Paused).is_ok();
                goes_on = listens && wait.recv().unwrap_or(false);
                goes_on
            };
            let mut cleaning = Cleaning::new(&*its_slot, &its_work, terms, &mut pace);
            let done = cleaning.index().and_then(|()| cleaning.rewrite());
            let _ = tell.send(Step::Done(done));
        });
        Self { slot, work, go: Some(go), stands, thread: Some(thread) }
    }

    fn step(&mut self) -> Step {
        let asked = self.go.as_ref().is_some_and(|go| go.send(true).is_ok());
        match self.stands.recv() {
            Ok(step) if asked => step,
            _ => panic!("a cleaning panicked"),
        }
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.go = None;
        // It stands at a pause: told to end there, it says how it ended.
        while let Ok(Step::Paused) = self.stands.recv() {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A log of a broker that is worth cleaning, and what of it (`CleanerDriver`).
fn grab(table: &ReplicaTable) -> Option<(Arc<Slot>, Assignment)> {
    let now = table.clock.now();
    let mut best: Option<(f64, Arc<Slot>)> = None;
    for slot in table.all() {
        let mut partition = slot.lock();
        if !partition.log.config().compact {
            continue;
        }
        let high_watermark = partition.high_watermark();
        let dirt = partition.log.dirt(high_watermark, now).ok().flatten();
        drop(partition);
        if let Some(dirt) = dirt
            && best.as_ref().is_none_or(|(b, _)| dirt.ratio() > *b)
        {
            best = Some((dirt.ratio(), slot));
        }
    }
    let (_, slot) = best?;
    let mut partition = slot.lock();
    let high_watermark = partition.high_watermark();
    let dirt = partition.log.dirt(high_watermark, now).ok()??;
    let work = partition.log.begin_cleaning(dirt);
    drop(partition);
    Some((slot, work))
}

impl World {
    /// The cleaner of a broker takes its next step, or looks for a log to clean.
    pub fn clean(&mut self, b: usize) {
        let Some(life) = self.life(b) else { return };
        let number = life.number;
        let busy = match life.cleaner.take() {
            Some(cleaner) => self.step_cleaning(b, cleaner),
            None => self.begin_cleaning(b),
        };
        let pause = if busy { self.between(MS, 30 * MS) } else { self.between(50 * MS, SECOND) };
        self.at(pause, Event::Broker { broker: b, life: number, event: BrokerEvent::Clean });
    }

    fn begin_cleaning(&mut self, b: usize) -> bool {
        let Some(life) = self.life(b) else { return false };
        let (table, now) = (Arc::clone(&life.table), life.table.clock.now());
        let Some((slot, work)) = grab(&table) else { return false };
        // The keys of any one batch must fit, or it is never cleaned.
        let map_bytes = SLOT_BYTES * [256, 1 << 12][self.rng.below(2)];
        let terms = CleanTerms {
            map_bytes,
            map_load: [0.1, 0.9][self.rng.below(2)],
            buffer_bytes: [64, 300, 4096][self.rng.below(3)],
            secret: [self.rng.u64(), self.rng.u64()],
            now,
        };
        self.note(format_args!("broker {b} cleans {}: {:?}", slot.id(), work.dirt));
        self.cleaning_begins((slot.topic_id, slot.partition), work.dirt.upto, now.wall_ms);
        let cleaner = Cleaner::begin(slot, work, terms);
        if let Some(life) = self.life(b) {
            life.cleaner = Some(cleaner);
        }
        true
    }

    /// How the broker is to end in the middle of a step, if it is.
    fn crashes_in_step(&mut self, b: usize) -> Option<End> {
        let faults = &self.plan.faults;
        let ends = [(Fault::Kill, End::Killed), (Fault::PowerCut, End::PowerCut)];
        let ends: Vec<_> = ends.iter().filter(|(f, _)| faults.contains(f)).collect();
        if ends.is_empty() || self.healing_since.is_some() || !self.rng.one_in(16) {
            return None;
        }
        let end = ends[self.rng.below(ends.len())].1;
        self.may_stop(b).then_some(end)
    }

    fn step_cleaning(&mut self, b: usize, mut cleaner: Cleaner) -> bool {
        let crash = self.crashes_in_step(b);
        let at = 1 + self.rng.below(14);
        if crash.is_some() {
            self.brokers[b].fs.keep_after(at);
        }
        let step = cleaner.step();
        let left = crash.and_then(|end| Some((end, self.brokers[b].fs.kept()?)));
        match step {
            Step::Paused => {
                if let Some(life) = self.life(b) {
                    life.cleaner = Some(cleaner);
                }
            }
            Step::Done(done) => self.cleaned(b, &cleaner, done),
        }
        if let Some((end, left)) = left {
            self.note(format_args!("broker {b} is struck in the middle of a cleaning"));
            let down = self.between(50 * MS, 3 * SECOND);
            self.end_broker_with(b, end, down, Some(left));
        }
        true
    }

    fn cleaned(&mut self, b: usize, cleaner: &Cleaner, done: Result<Offset, CleanError>) {
        let Some(life) = self.life(b) else { return };
        let (table, slot) = (Arc::clone(&life.table), Arc::clone(&cleaner.slot));
        let end = done.as_ref().ok().copied();
        slot.lock().log.end_cleaning(&cleaner.work, end);
        self.note(format_args!("broker {b} has cleaned {}: {done:?}", slot.id()));
        match done {
            Ok(_) => {
                self.oracle.compaction.cleanings += 1;
                upkeep_driver::write_cleaner_points(&table);
                upkeep_driver::retention_of(&table, &slot);
            }
            Err(CleanError::Aborted | CleanError::Log(LogError::Offline { .. })) => {}
            Err(CleanError::Damaged { base, pos, why }) => {
                let text = format!("broker {b} {}: {base} at {pos}: {why}", slot.id());
                self.violate("readable", text);
            }
            Err(CleanError::Log(_)) => {}
        }
        self.look_again(b, slot);
    }

    /// Compares all of a log that was cleaned with what is known to be committed.
    fn look_again(&mut self, b: usize, slot: Arc<Slot>) {
        let key = (slot.topic_id, slot.partition);
        let Some(seen) = self.life(b).and_then(|l| l.seen.get_mut(&key)) else { return };
        seen.compared = 0;
        let now = *seen;
        self.compare_committed(b, &Sight { key, slot, before: Some(now), now });
    }

    /// Whether newer records of a key replace older ones in a partition.
    pub fn is_compacted(&self, topic: vltava::base::Uuid) -> bool {
        let topic = self.quorum.image().topics().by_id(topic);
        topic.is_some_and(|t| schema::is_compacted(&self.plan, &t.name))
    }
}
