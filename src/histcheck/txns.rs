//! Transactions: all of one or nothing, never before its commit was asked for, never by a producer
//! that was fenced.

use std::collections::{BTreeMap, HashMap};

use super::{
    Checker, HistoryError, Point, Window,
    checker::{NO_TXN, fingerprint, in_order},
    event::{End, Init, Read, Txn},
    settle::{ByValue, Found},
};

/// What became of a transaction, once everything is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its producer was told so, or a reader of committed data saw a part of it.
    Committed,
    /// Its producer was told so, or never asked for a commit.
    Aborted,
    /// Nobody knows, and nobody saw any of it.
    Unknown,
}

/// One end of a transaction.
#[derive(Debug)]
pub(super) struct Ended {
    producer: u32,
    t: (u64, u64),
    end: End,
    /// Group, partition, offset.
    pub(super) offsets: Vec<(u32, u32, i64)>,
}

impl Ended {
    /// When its end was answered.
    pub(super) fn completed(&self) -> u64 {
        if self.end == End::Commit { self.t.1 } else { u64::MAX }
    }
}

/// A producer, and when it asked for its epoch and had it.
type Got = (u32, (u64, u64));

/// All transactions.
#[derive(Debug, Default)]
pub(super) struct Txns {
    ids: HashMap<String, u32>,
    names: Vec<String>,
    pub(super) ends: BTreeMap<u32, Ended>,
    /// By transactional id: producers and when they got their epoch.
    inits: BTreeMap<u32, Vec<Got>>,
    /// What readers of committed data were given: when first.
    shown: HashMap<u64, u64>,
}

impl Txns {
    /// The number of the transaction `name`.
    pub(super) fn named(&mut self, name: &str) -> Result<u32, HistoryError> {
        if let Some(id) = self.ids.get(name) {
            return Ok(*id);
        }
        let id = u32::try_from(self.names.len()).ok().filter(|id| *id != NO_TXN);
        let id = id.ok_or(HistoryError::Names(NO_TXN as usize))?;
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        Ok(id)
    }

    /// A reader of committed data was given `records` at `t`.
    pub(super) fn read(&mut self, t: u64, records: &[Read<'_>]) {
        for (_, value) in records {
            let first = self.shown.entry(fingerprint(value)).or_insert(t);
            *first = t.min(*first);
        }
    }
}

impl Checker {
    pub(super) fn init(&mut self, init: &Init<'_>) -> Result<(), HistoryError> {
        let t = in_order("init.t", init.t)?;
        let (id, producer) = (self.names.id(&init.id)?, self.names.id(&init.p)?);
        self.txns.inits.entry(id).or_default().push((producer, t));
        Ok(())
    }

    pub(super) fn txn(&mut self, txn: &Txn<'_>) -> Result<(), HistoryError> {
        let t = in_order("txn.t", txn.t)?;
        let (id, producer) = (self.txns.named(&txn.txn)?, self.names.id(&txn.p)?);
        let mut offsets = Vec::with_capacity(txn.offsets.len());
        for (group, tp, offset) in &txn.offsets {
            offsets.push((self.names.id(group)?, self.tp(tp)?, *offset));
        }
        let ended = Ended { producer, t, end: txn.end, offsets };
        if self.txns.ends.insert(id, ended).is_some() {
            let value = txn.txn.clone().into_owned();
            let rule = "a transaction ends once";
            return Err(HistoryError::Field { field: "txn.txn", value, rule });
        }
        Ok(())
    }
}

/// Judges all transactions but for what is missing of committed ones (that is said of each scan),
/// and tells the fate of each.
pub(super) fn settle(checker: &mut Checker, by_value: &ByValue) -> Vec<Fate> {
    let told = |txn: usize| {
        let ended = u32::try_from(txn).ok().and_then(|id| checker.txns.ends.get(&id));
        match ended.map(|e| e.end) {
            Some(End::Commit) => Fate::Committed,
            Some(End::Info) => Fate::Unknown,
            Some(End::Abort) | None => Fate::Aborted,
        }
    };
    let mut fates: Vec<_> = (0..checker.txns.names.len()).map(told).collect();
    let mut found = Vec::new();
    let mut looked = 0;
    for (value, first) in &checker.txns.shown {
        let Some(sent) = by_value.get(value).map(|at| &checker.sends[*at as usize]) else {
            continue;
        };
        let Some(fate) = fates.get_mut(sent.txn as usize) else { continue };
        looked += 1;
        let offset = sent.offset.max(0);
        let name = &checker.txns.names[sent.txn as usize];
        match (*fate, checker.txns.ends.get(&sent.txn)) {
            (Fate::Aborted, Some(_)) => {
                let why = format!("was read as committed, and its transaction {name} aborted");
                found.push((sent.tp, Found::at(Point::Transactions, offset, *value, why)));
            }
            (_, None) => {
                let why = format!("was read as committed, and {name} never asked for a commit");
                found.push((sent.tp, Found::at(Point::Transactions, offset, *value, why)));
            }
            (_, Some(ended)) if *first < ended.t.0 => {
                let why = format!("was read as committed before {name} asked for its commit");
                found.push((sent.tp, Found::at(Point::Transactions, offset, *value, why)));
            }
            (_, Some(_)) => *fate = Fate::Committed,
        }
    }
    let verdict = &mut checker.verdict;
    if looked > 0 {
        verdict.saw(Point::Transactions, looked);
    }
    found.sort_by_key(|(tp, f)| (*tp, f.offset()));
    found.into_iter().for_each(|(tp, f)| f.tell(verdict, &checker.partitions[tp as usize]));
    fenced(checker);
    fates
}

/// Commits that were asked for after another producer had the transactional id.
fn fenced(checker: &mut Checker) {
    let txns = &checker.txns;
    for (id, inits) in &txns.inits {
        for (number, ended) in &txns.ends {
            let own = inits.iter().filter(|(p, t)| *p == ended.producer && t.1 <= ended.t.0);
            let Some(own) = own.map(|(_, t)| *t).max() else { continue };
            let by =
                inits.iter().find(|(p, t)| *p != ended.producer && own.1 <= t.0 && t.1 < ended.t.0);
            let Some((by, t)) = by.filter(|_| ended.end == End::Commit) else { continue };
            let name = &txns.names[*number as usize];
            let window = Window {
                txn: Some(name.clone()),
                times: Some((t.0, ended.t.1)),
                ..Window::default()
            };
            checker.verdict.violation(Point::Transactions, window, || {
                let (id, by) = (checker.names.name(*id), checker.names.name(*by));
                format!("{name} was committed at {:?}, after {by} had {id} at {t:?}", ended.t)
            });
        }
    }
}
