//! Takes events in, and finds at once what needs no more than the past: an offset with two values,
//! a consumer that goes back.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::{
    HistoryError, Point, Verdict, Window, cluster,
    event::{Assign, Ends, Event, Poll, Read, Run, Scan, Scanned, Send, Topic, Tp},
    groups::Positions,
    metadata::Metadata,
    offsets::{Seen, Values},
    retention::Cuts,
    share::Shares,
    txns::Txns,
};

/// Numbers for names, in order of appearance.
#[derive(Debug, Default)]
pub(super) struct Names {
    ids: HashMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    pub(super) fn id(&mut self, name: &str) -> Result<u32, HistoryError> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = u32::try_from(self.names.len()).map_err(|_| HistoryError::Names(usize::MAX))?;
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        Ok(id)
    }

    pub(super) fn name(&self, id: u32) -> &str {
        self.names.get(id as usize).map_or("", String::as_str)
    }
}

/// What became of a send.
pub(super) const UNKNOWN: i64 = -1;
pub(super) const FAILED: i64 = -2;
/// Not part of a transaction.
pub(super) const NO_TXN: u32 = u32::MAX;

/// One record that was handed to a producer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) value: u64,
    pub(super) n: u64,
    pub(super) invoked: u64,
    pub(super) completed: u64,
    /// Where it was acknowledged, or `UNKNOWN`, or `FAILED`.
    pub(super) offset: i64,
    /// Of its key; zero: none.
    pub(super) key: u64,
    pub(super) tp: u32,
    pub(super) producer: u32,
    /// Its transaction, or `NO_TXN`.
    pub(super) txn: u32,
    pub(super) tombstone: bool,
}

/// What a final scan of one partition saw.
#[derive(Debug, Default)]
pub(super) struct Scanning {
    pub(super) seen: Seen,
    pub(super) done: Option<(i64, i64)>,
    /// At isolation level read_committed.
    pub(super) committed: bool,
    /// When its start was asked for and all was read, if that is known.
    pub(super) t: Option<(u64, u64)>,
}

/// An answer of ListOffsets.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndsSeen {
    pub(super) t: (u64, u64),
    pub(super) start: i64,
    pub(super) end: i64,
}

/// All about one partition.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) topic: String,
    pub(super) index: i32,
    pub(super) values: Values,
    pub(super) scans: BTreeMap<u32, Scanning>,
    /// When a poll completed, and the offset after its last record.
    pub(super) polled: Vec<(u64, i64)>,
    pub(super) ends: Vec<EndsSeen>,
    pub(super) cluster: cluster::Life,
}

impl Partition {
    pub(super) fn window(&self, offsets: Option<(i64, i64)>) -> Window {
        Window { tp: Some((self.topic.clone(), self.index)), offsets, ..Window::default() }
    }
}

/// What a topic's settings promise.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    pub(super) replicas: u32,
    pub(super) min_isr: u32,
    pub(super) compacted: bool,
    pub(super) retention_ms: Option<u64>,
    pub(super) delete_retention_ms: Option<u64>,
}

/// Offsets that a consumer was moved over.
#[derive(Debug)]
pub(super) struct Gap {
    pub(super) tp: u32,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) consumer: u32,
    /// At isolation level read_committed.
    pub(super) committed: bool,
}

/// What a group delivered and committed of one partition.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub(super) seen: Seen,
    /// The first offset that was delivered.
    pub(super) first: Option<i64>,
    /// The highest commit.
    pub(super) commit: i64,
    /// A member read at isolation level read_committed.
    pub(super) committed: bool,
}

/// The state between lines.
#[derive(Debug, Default)]
pub struct Checker {
    pub(super) run: Run,
    pub(super) verdict: Verdict,
    pub(super) names: Names,
    tps: HashMap<(u32, i32), u32>,
    pub(super) partitions: Vec<Partition>,
    /// By topic.
    pub(super) topics: BTreeMap<String, Promise>,
    pub(super) sends: Vec<Sent>,
    /// By consumer and partition: the next offset.
    positions: HashMap<(u32, u32), i64>,
    pub(super) gaps: Vec<Gap>,
    pub(super) groups: BTreeMap<(u32, u32), Delivered>,
    pub(super) positions_of_groups: Positions,
    pub(super) txns: Txns,
    pub(super) cluster: cluster::Cluster,
    pub(super) cuts: Cuts,
    pub(super) shares: Shares,
    pub(super) metadata: Metadata,
}

/// Faults and operations kept for the timeline.
const TIMELINE_MAX: usize = 1000;

/// What stands for a value; never zero.
pub(super) fn fingerprint(value: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish().max(1)
}

pub(super) fn not_negative(field: &'static str, offset: i64) -> Result<i64, HistoryError> {
    if (0..i64::MAX).contains(&offset) {
        return Ok(offset);
    }
    Err(HistoryError::Field { field, value: offset.to_string(), rule: "an offset is 0 or more" })
}

pub(super) fn in_order(field: &'static str, t: (u64, u64)) -> Result<(u64, u64), HistoryError> {
    if t.0 <= t.1 {
        return Ok(t);
    }
    let rule = "completed no sooner than invoked";
    Err(HistoryError::Field { field, value: format!("{t:?}"), rule })
}

impl Checker {
    /// Takes one line; an empty one is nothing.
    ///
    /// # Errors
    /// The line is not an event, or holds what cannot be.
    pub fn line(&mut self, line: &str) -> Result<(), HistoryError> {
        if line.trim().is_empty() {
            return Ok(());
        }
        self.verdict.events += 1;
        match serde_json::from_str(line)? {
            Event::Run(run) => self.run = run,
            Event::Topic(topic) => self.topic(&topic)?,
            Event::Send(send) => self.send(&send)?,
            Event::Fatal(f) => {
                let text = || format!("producer {} ended: {}", f.p, f.error);
                self.verdict.violation(Point::Liveness, Window::default(), text);
            }
            Event::Assign(assign) => self.assign(&assign)?,
            Event::Poll(poll) => self.poll(&poll)?,
            Event::Commit(commit) => self.commit(&commit)?,
            Event::Fetched(fetched) => self.fetched(&fetched)?,
            Event::Owns(owns) => self.owns(&owns)?,
            Event::Init(init) => self.init(&init)?,
            Event::Txn(txn) => self.txn(&txn)?,
            Event::Ends(ends) => self.ends(&ends)?,
            Event::Scan(scan) => self.scan(&scan)?,
            Event::Scanned(scanned) => self.scanned(&scanned)?,
            Event::Admin(admin) => {
                let (_, t) = in_order("admin.t", admin.t)?;
                let error = admin.error.as_deref().unwrap_or("done");
                self.timeline(format!("{t} {}: {error}", admin.op));
            }
            Event::Leader(leader) => {
                let tp = self.tp(&leader.tp)?;
                cluster::leader(&mut self.partitions[tp as usize], &leader, &mut self.verdict);
            }
            Event::Marks(marks) => {
                let tp = self.tp(&marks.tp)?;
                cluster::marks(&mut self.partitions[tp as usize], &marks, &mut self.verdict);
            }
            Event::Segment(segment) => {
                let tp = self.tp(&segment.tp)?;
                cluster::segment(&mut self.partitions[tp as usize], &segment);
            }
            Event::Term(term) => self.cluster.term(&term, &mut self.verdict),
            Event::Voters(voters) => self.cluster.voters(&voters),
            Event::Nemesis(nemesis) => {
                self.timeline(format!("{} {} {:?}", nemesis.t, nemesis.what, nemesis.on));
                self.cluster.nemesis(&nemesis);
                self.cuts.nemesis(&nemesis);
            }
            Event::Live(live) => self.cluster.live(&live),
            Event::Share(share) => self.share(&share)?,
            Event::Acquired(acquired) => self.acquired(&acquired)?,
            Event::Unheard(unheard) => self.unheard(&unheard)?,
            Event::Acked(acked) => self.acked(&acked)?,
            Event::Left(left) => self.left(&left)?,
            Event::Drained(drained) => self.drained(&drained)?,
            Event::DeleteRecords(cut) => self.delete_records(&cut)?,
            Event::Meta(meta) => self.meta(&meta)?,
        }
        Ok(())
    }

    fn timeline(&mut self, text: String) {
        if self.verdict.timeline.len() < TIMELINE_MAX {
            self.verdict.timeline.push(text);
        }
    }

    pub(super) fn tp(&mut self, tp: &Tp<'_>) -> Result<u32, HistoryError> {
        let topic = self.names.id(&tp.0)?;
        if let Some(id) = self.tps.get(&(topic, tp.1)) {
            return Ok(*id);
        }
        let id =
            u32::try_from(self.partitions.len()).map_err(|_| HistoryError::Names(usize::MAX))?;
        self.tps.insert((topic, tp.1), id);
        let topic = tp.0.clone().into_owned();
        self.partitions.push(Partition { topic, index: tp.1, ..Partition::default() });
        Ok(id)
    }

    fn topic(&mut self, topic: &Topic<'_>) -> Result<(), HistoryError> {
        if topic.min_isr == 0 || topic.min_isr > topic.replicas {
            let value = topic.min_isr.to_string();
            let rule = "from 1 to the number of replicas";
            return Err(HistoryError::Field { field: "topic.min_isr", value, rule });
        }
        let promise = Promise {
            replicas: topic.replicas,
            min_isr: topic.min_isr,
            compacted: topic.compacted,
            retention_ms: topic.retention_ms,
            delete_retention_ms: topic.delete_retention_ms,
        };
        self.topics.insert(topic.name.clone().into_owned(), promise);
        Ok(())
    }

    fn send(&mut self, send: &Send<'_>) -> Result<(), HistoryError> {
        let tp = self.tp(&send.tp)?;
        let producer = self.names.id(&send.p)?;
        let (invoked, completed) = in_order("send.t", send.t)?;
        let value = fingerprint(&send.v);
        let offset = match (send.ok, &send.fail, &send.info) {
            (Some(offset), None, None) => not_negative("send.ok", offset)?,
            (None, Some(_), None) => FAILED,
            (None, None, _) => UNKNOWN,
            _ => {
                let value = send.v.clone().into_owned();
                let rule = "at most one of ok, fail, info";
                return Err(HistoryError::Field { field: "send", value, rule });
            }
        };
        let txn = send.txn.as_deref().map_or(Ok(NO_TXN), |name| self.txns.named(name))?;
        let (n, tombstone) = (send.n, send.tombstone);
        let key = send.k.as_deref().map_or(0, fingerprint);
        self.sends.push(Sent {
            value,
            n,
            invoked,
            completed,
            offset,
            key,
            tp,
            producer,
            txn,
            tombstone,
        });
        if offset >= 0 {
            self.put(tp, offset, value, &send.v);
        }
        Ok(())
    }

    /// Notes that `value` is at `offset`, for ever.
    fn put(&mut self, tp: u32, offset: i64, value: u64, text: &str) {
        let part = &mut self.partitions[tp as usize];
        self.verdict.saw(Point::Inconsistent, 1);
        if let Err(other) = part.values.put(offset, value) {
            let window =
                Window { values: vec![value, other], ..part.window(Some((offset, offset))) };
            let text =
                || format!("{}-{}@{offset} holds {text:?} and another", part.topic, part.index);
            self.verdict.violation(Point::Inconsistent, window, text);
        }
    }

    pub(super) fn read(&mut self, tp: u32, records: &[Read<'_>]) -> Result<(), HistoryError> {
        for (offset, value) in records {
            not_negative("r.offset", *offset)?;
            self.put(tp, *offset, fingerprint(value), value);
        }
        Ok(())
    }

    fn assign(&mut self, assign: &Assign<'_>) -> Result<(), HistoryError> {
        let key = (self.names.id(&assign.c)?, self.tp(&assign.tp)?);
        match assign.offset {
            Some(offset) => drop(self.positions.insert(key, not_negative("assign", offset)?)),
            None => drop(self.positions.remove(&key)),
        }
        Ok(())
    }

    fn poll(&mut self, poll: &Poll<'_>) -> Result<(), HistoryError> {
        let (consumer, tp) = (self.names.id(&poll.c)?, self.tp(&poll.tp)?);
        let (_, completed) = in_order("poll.t", poll.t)?;
        self.read(tp, &poll.r)?;
        self.direct(tp, poll);
        if let Some(group) = &poll.group {
            let group = self.names.id(group)?;
            let delivered = self.groups.entry((group, tp)).or_default();
            delivered.committed |= poll.committed;
            for (offset, _) in &poll.r {
                delivered.seen.add(*offset);
                delivered.first = Some(delivered.first.map_or(*offset, |f| f.min(*offset)));
            }
        }
        for (offset, value) in &poll.r {
            self.step((consumer, poll.committed), tp, *offset, value);
        }
        if poll.committed {
            self.txns.read(completed, &poll.r);
        }
        if let Some((last, _)) = poll.r.last() {
            self.partitions[tp as usize].polled.push((completed, last + 1));
        }
        Ok(())
    }

    /// Moves a consumer to behind `offset`.
    fn step(&mut self, (consumer, committed): (u32, bool), tp: u32, offset: i64, value: &str) {
        self.verdict.saw(Point::Delivery, 1);
        let next = self.positions.insert((consumer, tp), offset + 1);
        let Some(next) = next else { return };
        if offset > next {
            self.gaps.push(Gap { tp, from: next, to: offset, consumer, committed });
        }
        if offset < next {
            let part = &self.partitions[tp as usize];
            let (topic, index, who) = (&part.topic, part.index, self.names.name(consumer));
            let window =
                Window { values: vec![fingerprint(value)], ..part.window(Some((offset, next))) };
            self.verdict.violation(Point::Delivery, window, || {
                format!("{who} was given {topic}-{index}@{offset} when {next} was next")
            });
        }
    }

    fn ends(&mut self, ends: &Ends<'_>) -> Result<(), HistoryError> {
        let tp = self.tp(&ends.tp)?;
        let t = in_order("ends.t", ends.t)?;
        let part = &mut self.partitions[tp as usize];
        let lso = ends.lso.unwrap_or(ends.end);
        if ends.start > ends.end || lso > ends.end || ends.start < 0 {
            let window = part.window(Some((ends.start, ends.end)));
            let (topic, index) = (&part.topic, part.index);
            self.verdict.violation(Point::RealTime, window, || {
                format!("{topic}-{index}: start {}, stable {lso}, end {}", ends.start, ends.end)
            });
        }
        part.ends.push(EndsSeen { t, start: ends.start, end: ends.end });
        Ok(())
    }

    fn scan(&mut self, scan: &Scan<'_>) -> Result<(), HistoryError> {
        let (tp, id) = (self.tp(&scan.tp)?, self.names.id(&scan.s)?);
        self.read(tp, &scan.r)?;
        let part = &mut self.partitions[tp as usize];
        let scanning = part.scans.entry(id).or_default();
        scanning.committed |= scan.committed;
        if scan.committed {
            self.txns.read(u64::MAX, &scan.r);
        }
        let again: Vec<_> = scan.r.iter().filter(|(o, _)| !scanning.seen.add(*o)).collect();
        for (offset, value) in again {
            let window = part.window(Some((*offset, *offset)));
            let (topic, index) = (&part.topic, part.index);
            self.verdict.violation(Point::Delivery, window, || {
                format!("scan {} read {topic}-{index}@{offset} ({value:?}) twice", scan.s)
            });
        }
        Ok(())
    }

    fn scanned(&mut self, scanned: &Scanned<'_>) -> Result<(), HistoryError> {
        let (tp, id) = (self.tp(&scanned.tp)?, self.names.id(&scanned.s)?);
        let start = not_negative("scanned.start", scanned.start)?;
        let end = not_negative("scanned.end", scanned.end)?;
        let scanning = self.partitions[tp as usize].scans.entry(id).or_default();
        scanning.done = Some((start, end));
        scanning.t = scanned.t.map(|t| in_order("scanned.t", t)).transpose()?;
        Ok(())
    }
}
