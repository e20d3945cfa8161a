//! What the committed logs say of transactions and of offsets: which transaction a record belongs
//! to, how it ended, which offset of a group counts.

use std::collections::BTreeMap;

use vltava::base::Offset;

use crate::{
    net::Key,
    records::{Kind, Rec},
};

/// One log, as far as it is committed.
#[derive(Debug, Default)]
pub struct Scan {
    /// What each producer has written in a transaction without an end.
    pub open: BTreeMap<i64, Vec<(Offset, Rec)>>,
    /// Whether the record at an offset was committed by its transaction.
    pub decided: BTreeMap<Offset, bool>,
    /// What readers were told of records whose marker was not committed yet.
    pub foretold: BTreeMap<Offset, bool>,
    /// The coordinator's epoch in the last marker of each producer.
    epochs: BTreeMap<i64, i32>,
    /// Where the offset that counts lies in the log.
    counts_at: BTreeMap<u64, Offset>,
}

/// All that is known of transactions and offsets.
#[derive(Debug, Default)]
pub struct Histories {
    /// Numbers that were given.
    pub txns: u64,
    /// In which transaction a value was sent.
    pub txn_of: BTreeMap<u64, u64>,
    /// Transactions whose producer asked to commit them.
    pub asked: BTreeMap<u64, bool>,
    /// What producers were told of the end.
    pub told: BTreeMap<u64, bool>,
    /// Values and offsets that were acknowledged in a transaction.
    pub acked: BTreeMap<u64, Vec<(Key, u64)>>,
    pub logs: BTreeMap<Key, Scan>,
    /// How each transaction ended in each partition.
    pub fates: BTreeMap<u64, BTreeMap<Key, bool>>,
    /// How the transaction of a value, or of a group's offset and the transaction, ended.
    pub ends: BTreeMap<(u64, u64), bool>,
    /// The offset that counts, of a group in a partition.
    pub offsets: BTreeMap<u64, Offset>,
    /// Records whose transaction the last marker has committed.
    pub counted: Vec<(Offset, Rec)>,
    /// Who was given which partition of a group in which epoch: group, topic, partition, epoch.
    pub owners: BTreeMap<(String, [u8; 16], i32, i32), String>,
}

type Wrong = (&'static str, String);

impl Histories {
    pub fn begin(&mut self) -> u64 {
        self.txns += 1;
        self.txns
    }

    /// The transaction of a record; 0 if it is in none that a client began.
    fn of(&self, rec: &Rec) -> u64 {
        match rec.kind {
            Kind::Commit { txn, .. } => txn.unwrap_or(0),
            _ => self.txn_of.get(&rec.value).copied().unwrap_or(0),
        }
    }

    /// The next committed record of a log.
    pub fn take_in(&mut self, key: Key, at: Offset, rec: Rec) -> Result<(), Wrong> {
        match rec.kind {
            Kind::InTxn | Kind::Commit { txn: Some(_), .. } => {
                let log = self.logs.entry(key).or_default();
                log.open.entry(rec.producer).or_default().push((at, rec));
            }
            Kind::Commit { of, offset, txn: None } => {
                let log = self.logs.entry(key).or_default();
                log.counts_at.insert(of, at);
                self.counts(of, offset, at)?;
            }
            Kind::Marker { commit, coordinator_epoch } => {
                self.end(key, at, rec.producer, commit, coordinator_epoch)?;
            }
            Kind::Plain | Kind::Other => {}
        }
        Ok(())
    }

    fn counts(&mut self, of: u64, offset: Offset, at: Offset) -> Result<(), Wrong> {
        let before = self.offsets.insert(of, offset);
        if before.is_some_and(|b| b > offset) {
            let text = format!("a group's offset goes from {before:?} to {offset} at {at}");
            return Err(("offset-regress", text));
        }
        Ok(())
    }

    fn end(
        &mut self,
        key: Key,
        at: Offset,
        producer: i64,
        commit: bool,
        epoch: i32,
    ) -> Result<(), Wrong> {
        let log = self.logs.entry(key).or_default();
        let before = log.epochs.insert(producer, epoch);
        if before.is_some_and(|b| b > epoch) {
            let text = format!(
                "{key:?} at {at}: the marker of {producer} is of coordinator epoch {epoch} after \
                 {before:?}"
            );
            return Err(("marker-epoch", text));
        }
        let records = log.open.remove(&producer).unwrap_or_default();
        for (offset, rec) in records {
            let txn = self.of(&rec);
            let log = self.logs.entry(key).or_default();
            log.decided.insert(offset, commit);
            if log.foretold.get(&offset).is_some_and(|told| *told != commit) {
                let text = format!("{key:?} at {offset}: shown {}, committed {commit}", !commit);
                return Err(("read-committed", text));
            }
            if commit {
                self.counted.push((offset, rec));
            }
            if let (Kind::Commit { of, offset: value, .. }, true) = (rec.kind, commit)
                && log.counts_at.get(&of).is_none_or(|counts| *counts < offset)
            {
                log.counts_at.insert(of, offset);
                self.counts(of, value, at)?;
            }
            let name = match rec.kind {
                Kind::Commit { of, .. } => of,
                _ => rec.value,
            };
            self.ends.insert((txn, name), commit);
            let fates = self.fates.entry(txn).or_default();
            fates.insert(key, commit);
            if fates.values().any(|c| *c != commit) {
                let text = format!("transaction {txn} of producer {producer}: {fates:?}");
                return Err(("all-or-nothing", text));
            }
            self.check_told(txn)?;
        }
        Ok(())
    }

    /// A producer is told how its transaction ended.
    pub fn tell(&mut self, txn: u64, commit: bool) -> Result<(), Wrong> {
        self.told.insert(txn, commit);
        self.check_told(txn)
    }

    fn check_told(&self, txn: u64) -> Result<(), Wrong> {
        let Some(fates) = self.fates.get(&txn) else { return Ok(()) };
        let told = self.told.get(&txn);
        if told.is_some_and(|told| fates.values().any(|f| f != told)) {
            let text = format!("transaction {txn}: told commit={told:?}, but {fates:?}");
            return Err(("outcome", text));
        }
        let asked = self.asked.get(&txn).copied().unwrap_or(false);
        if !asked && fates.values().any(|f| *f) {
            let text = format!("transaction {txn} is committed, but nobody asked: {fates:?}");
            return Err(("outcome", text));
        }
        Ok(())
    }

    /// A transaction without an end, if there is one.
    pub fn hanging(&self) -> Option<String> {
        self.logs.iter().find_map(|(key, log)| {
            let (producer, records) = log.open.first_key_value()?;
            Some(format!("{key:?}: {records:?} of producer {producer} hangs"))
        })
    }

    /// What does not hold when all is over and quiet.
    pub fn at_the_end(&self) -> Result<(), Wrong> {
        if let Some(text) = self.hanging() {
            return Err(("hanging", text));
        }
        for (txn, _) in self.told.iter().filter(|(_, commit)| **commit) {
            for (key, value) in self.acked.get(txn).into_iter().flatten() {
                if self.ends.get(&(*txn, *value)) != Some(&true) {
                    let text = format!("transaction {txn} lacks {value} in {key:?}");
                    return Err(("all-or-nothing", text));
                }
            }
        }
        Ok(())
    }
}
