//! A share partition against a model that knows every offset: many members acquire and acknowledge at
//! random, writes succeed and fail, locks end, the log is cut at its start, leaders change.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    acknowledge::{AckBatch, AckType},
    acquire::{Acquire, AcquireMode},
    batches::LogBatch,
    partition::{SharePartition, WriteNo},
    settings::ShareSettings,
};
use crate::{
    base::{Mono, Now, Offset},
    coordinator::share_persister::{ShareState, ShareWrite, StateBatch},
    testing::clock::Seeded,
};

const MEMBERS: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Free,
    /// By whom, and until when.
    Held(usize, Mono),
    /// What the member said, until it is written.
    Limbo(usize, Mono, AckType, WriteNo),
    Finished,
}

/// What the share coordinator would keep.
#[derive(Debug, Default)]
struct Store {
    start: Offset,
    kept: BTreeMap<Offset, (i16, i8)>,
}

impl Store {
    fn write(&mut self, write: &ShareWrite) {
        for b in &write.batches {
            for at in b.first..=b.last {
                let old = self.kept.get(&at).copied().unwrap_or((-1, -1));
                self.kept.insert(at, old.max((b.delivery_count, b.state)));
            }
        }
        self.start = write.start_offset;
        self.kept = self.kept.split_off(&self.start);
    }

    fn state(&self) -> ShareState {
        let mut batches: Vec<StateBatch> = Vec::new();
        for (&at, &(delivery_count, state)) in &self.kept {
            match batches.last_mut() {
                Some(b)
                    if b.last + 1 == at
                        && (b.delivery_count, b.state) == (delivery_count, state) =>
                {
                    b.last = at;
                }
                _ => batches.push(StateBatch { first: at, last: at, state, delivery_count }),
            }
        }
        ShareState { state_epoch: 1, start_offset: self.start, batches }
    }
}

struct World {
    seeded: Seeded,
    now: Now,
    settings: ShareSettings,
    log: Vec<LogBatch>,
    log_start: Offset,
    partition: SharePartition,
    store: Store,
    at: BTreeMap<Offset, (At, i16)>,
    under_way: Option<ShareWrite>,
    acquired: u64,
    finished: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let state = ShareState { state_epoch: 1, start_offset: 0, batches: vec![] };
        let mut seeded = Seeded::new(seed);
        let limit = 2 + seeded.below(5);
        Self {
            now: Now { mono: Mono(1), wall_ms: 0 },
            settings: ShareSettings {
                delivery_count_limit: i16::try_from(limit).unwrap(),
                max_record_locks: 100,
                lock_duration_ms: 1000,
                ..ShareSettings::default()
            },
            seeded,
            log: Vec::new(),
            log_start: 0,
            partition: SharePartition::load(&state, 0, 1).unwrap(),
            store: Store::default(),
            at: BTreeMap::new(),
            under_way: None,
            acquired: 0,
            finished: 0,
        }
    }

    fn below(&mut self, n: usize) -> i64 {
        i64::try_from(self.seeded.below(n)).unwrap()
    }

    fn log_end(&self) -> Offset {
        self.log.last().map_or(self.log_start, |b| b.last + 1)
    }

    fn append(&mut self) {
        let gap = if self.seeded.one_in(6) { self.below(5) } else { 0 };
        let base = self.log_end() + gap;
        let last = base + self.below(20);
        let producer = None;
        self.log.push(LogBatch {
            base,
            last,
            size: 100,
            producer,
            transactional: false,
            aborts: false,
        });
        for at in base..=last {
            self.at.insert(at, (At::Free, 0));
        }
    }

    fn acquire(&mut self) {
        if !self.partition.can_acquire(&self.settings) {
            return;
        }
        let fetch_offset = self.partition.next_fetch_offset();
        if fetch_offset < self.log_start {
            self.partition.log_starts_at(self.log_start);
            return;
        }
        let most = 1 + self.seeded.below(4);
        let batches: Vec<_> =
            self.log.iter().filter(|b| b.last >= fetch_offset).take(most).copied().collect();
        let who = self.seeded.below(MEMBERS.len());
        let exact = self.seeded.one_in(2);
        let ask = Acquire {
            member: &Arc::from(MEMBERS[who]),
            mode: if exact { AcquireMode::RecordLimit } else { AcquireMode::BatchOptimized },
            batch_size: i32::try_from(1 + self.below(30)).unwrap(),
            max_records: i32::try_from(1 + self.below(40)).unwrap(),
            fetch_offset,
            batches: &batches,
            aborted: &[],
        };
        let got = self.partition.acquire(ask, &self.settings, self.now.mono);
        let until = self.now.mono.after_ms(1000);
        let mut count = 0;
        for pair in got.windows(2) {
            assert!(pair[0].last < pair[1].first, "{got:?}");
        }
        for a in &got {
            assert!(a.first <= a.last, "{got:?}");
            count += a.count();
            for at in a.first..=a.last {
                // Gaps of the log are handed out, too; the member says that they are.
                let (state, deliveries) = self.at.entry(at).or_insert((At::Free, 0));
                assert_eq!(*state, At::Free, "{at} of {a:?}");
                *deliveries += 1;
                assert_eq!(*deliveries, a.deliveries, "{at} of {a:?}");
                assert!(*deliveries <= self.settings.delivery_count_limit, "{a:?}");
                *state = At::Held(who, until);
                self.acquired += 1;
            }
        }
        if exact {
            assert!(count <= i64::from(ask.max_records), "{got:?} of {ask:?}");
        }
    }

    fn acknowledge(&mut self) {
        let who = self.seeded.below(MEMBERS.len());
        let held = |at: &(At, i16)| matches!(at.0, At::Held(m, _) if m == who);
        let own: Vec<_> = self.at.iter().filter(|(_, s)| held(s)).map(|(at, _)| *at).collect();
        let end = usize::try_from(self.log_end()).unwrap();
        let first = match self.seeded.below(own.len().max(1)) {
            n if !own.is_empty() && !self.seeded.one_in(20) => own[n],
            _ => self.below(end + 3),
        };
        let mut last = first + self.below(12);
        if !self.seeded.one_in(20) {
            last = (first..=last).take_while(|at| own.contains(at)).last().unwrap_or(last);
        }
        let kinds =
            [AckType::Accept, AckType::Accept, AckType::Release, AckType::Reject, AckType::Renew];
        let mut draw = || kinds[self.seeded.below(kinds.len())];
        let each = first % 3 != 0;
        let types = if each { (first..=last).map(|_| draw()).collect() } else { vec![draw()] };
        let ack = AckBatch { first, last, types };
        let start = self.partition.start_offset();
        // What the log does not have is nobody's, unless it was handed out with its neighbours.
        let named: Vec<_> =
            (first.max(start)..=last).filter(|at| self.at.contains_key(at)).collect();
        let whole = named.len() == usize::try_from(last - first.max(start) + 1).unwrap_or(0);
        let all_own = named.iter().all(|at| own.contains(at));
        let member = MEMBERS[who].into();
        let acks = [ack.clone()];
        let got = self.partition.acknowledge(&member, &acks, &self.settings, self.now);
        let expected = if whole { got.is_ok() == all_own } else { got.is_err() || all_own };
        assert!(expected, "{got:?} of {ack:?}, start {start}");
        let Ok(write) = got else { return };
        for at in named {
            let kind = match ack.types[..] {
                [all] => all,
                _ => ack.types[usize::try_from(at - first).unwrap()],
            };
            let entry = self.at.get_mut(&at).unwrap();
            let At::Held(_, until) = entry.0 else { panic!("{entry:?}") };
            entry.0 = match kind {
                AckType::Renew => At::Held(who, self.now.mono.after_ms(1000)),
                _ => At::Limbo(who, until, kind, write.unwrap()),
            };
        }
    }

    fn begin_write(&mut self) {
        if self.under_way.is_none() {
            self.under_way = self.partition.begin_write().map(|(_, write)| write);
        }
    }

    fn end_write(&mut self, succeeds: bool) {
        let Some(write) = self.under_way.take() else { return };
        if succeeds {
            self.store.write(&write);
        }
        let no = self.partition.end_write(succeeds, self.now.mono).unwrap();
        let (limit, now) = (self.settings.delivery_count_limit, self.now.mono);
        for (state, deliveries) in self.at.values_mut() {
            let At::Limbo(who, until, kind, of) = *state else { continue };
            if of != no {
                continue;
            }
            let spent = *deliveries >= limit;
            *state = match kind {
                AckType::Accept | AckType::Reject if succeeds => At::Finished,
                AckType::Release if succeeds && spent => At::Finished,
                _ if succeeds => At::Free,
                _ if until <= now && spent => At::Finished,
                _ if until <= now => At::Free,
                _ => At::Held(who, until),
            };
            self.finished += u64::from(*state == At::Finished);
        }
    }

    fn pass_time(&mut self) {
        let ms = self.below(700);
        self.now.mono = self.now.mono.after_ms(ms);
        self.partition.on_deadline(&self.settings, self.now.mono);
        let limit = self.settings.delivery_count_limit;
        for (state, deliveries) in self.at.values_mut() {
            if let At::Held(_, until) = *state
                && until <= self.now.mono
            {
                *state = if *deliveries >= limit { At::Finished } else { At::Free };
            }
        }
        assert!(self.partition.next_deadline() > self.now.mono);
    }

    fn end_session(&mut self) {
        let who = self.seeded.below(MEMBERS.len());
        let write = self.partition.release(&MEMBERS[who].into(), &self.settings);
        for (state, _) in self.at.values_mut() {
            if let At::Held(m, until) = *state
                && m == who
            {
                *state = At::Limbo(who, until, AckType::Release, write.unwrap());
            }
        }
    }

    fn cut_log(&mut self) {
        let to = self.log_start + self.below(usize::try_from(self.log_end()).unwrap() + 1) / 8;
        self.log_start = to.min(self.log_end());
        self.log.retain(|b| b.last >= self.log_start);
        self.partition.log_starts_at(self.log_start);
        for (state, _) in self.at.range_mut(..self.log_start).map(|(_, s)| s) {
            *state = At::Finished;
        }
    }

    /// Another leader takes over what was kept.
    fn change_leader(&mut self) {
        self.under_way = None;
        self.partition = SharePartition::load(&self.store.state(), 0, 1).unwrap();
        self.partition.log_starts_at(self.log_start);
        let start = self.partition.start_offset();
        for (at, (state, deliveries)) in &mut self.at {
            let kept = self.store.kept.get(at).copied();
            if *state == At::Finished {
                let finished = *at < start || kept.is_some_and(|(_, s)| s != 0);
                // What was decided without a write may have been forgotten.
                assert!(finished || *deliveries >= self.settings.delivery_count_limit, "{at}");
                if finished {
                    continue;
                }
            }
            *deliveries = kept.map_or(0, |(count, _)| count);
            let finished = *at < start || kept.is_some_and(|(_, s)| s != 0);
            *state = if finished { At::Finished } else { At::Free };
        }
    }

    fn check(&self, start: Offset) {
        for at in start..self.partition.start_offset() {
            let record = self.log.iter().any(|b| b.base <= at && at <= b.last);
            let state = self.at.get(&at).map(|(state, _)| *state);
            assert!(!record || state == Some(At::Finished), "start passed {at}: {state:?}");
        }
        let held = self.at.values().filter(|(s, _)| matches!(s, At::Held(..))).count();
        let counted: i64 = self.partition.held().values().sum();
        assert_eq!(counted, i64::try_from(held).unwrap());
    }

    fn step(&mut self) {
        let start = self.partition.start_offset();
        match self.seeded.below(100) {
            0..10 => self.append(),
            10..45 => self.acquire(),
            45..75 => self.acknowledge(),
            75..83 => self.begin_write(),
            83..92 => {
                let succeeds = !self.seeded.one_in(6);
                self.end_write(succeeds);
            }
            92..97 => self.pass_time(),
            97 => self.end_session(),
            98 => self.cut_log(),
            _ if self.seeded.one_in(5) => return self.change_leader(),
            _ => {}
        }
        self.check(start);
    }

    /// Everything that is left is accepted in the end, and nothing stays behind.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            if self.partition.start_offset() >= self.log_end() {
                return;
            }
            let start = self.partition.start_offset();
            self.acquire();
            for member in MEMBERS {
                let who = MEMBERS.iter().position(|m| *m == member).unwrap();
                let held = |s: &(At, i16)| matches!(s.0, At::Held(m, _) if m == who);
                let own: Vec<_> =
                    self.at.iter().filter(|(_, s)| held(s)).map(|(at, _)| *at).collect();
                for at in own {
                    let ack = AckBatch { first: at, last: at, types: vec![AckType::Accept] };
                    let (settings, now) = (self.settings, self.now);
                    let write = self.partition.acknowledge(&member.into(), &[ack], &settings, now);
                    let write = write.unwrap().unwrap();
                    let entry = self.at.get_mut(&at).unwrap();
                    entry.0 = At::Limbo(who, Mono::NEVER, AckType::Accept, write);
                }
            }
            self.begin_write();
            self.end_write(true);
            self.pass_time();
            self.check(start);
        }
        panic!("stuck at {}: {:?}", self.partition.start_offset(), self.partition);
    }
}

#[test]
fn a_share_partition_does_what_its_model_does() {
    let (mut acquired, mut finished) = (0, 0);
    for seed in 0..150 {
        let mut world = World::new(seed);
        for _ in 0..600 {
            world.step();
        }
        world.finish();
        acquired += world.acquired;
        finished += world.finished;
    }
    assert!(acquired > 100_000 && finished > 30_000, "{acquired} {finished}");
}
