//! What was done to topics and settings, and what brokers said of them: one order explains all of it,
//! and no topic id is used twice.

use std::collections::{BTreeMap, HashMap};

use super::{
    Checker, HistoryError, Point, Window,
    checker::{fingerprint, in_order},
    event::{Meta, MetaOp},
    orders::{Answer, NOWHERE, Operation, search},
};

/// All operations, by key.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    keys: BTreeMap<u32, Vec<Operation>>,
    /// By topic id: the key that it was first seen at.
    ids: HashMap<u64, u32>,
    /// Ids that answers named as new ones.
    made: HashMap<u64, (u64, u64)>,
}

impl Checker {
    pub(super) fn meta(&mut self, meta: &Meta<'_>) -> Result<(), HistoryError> {
        let t = in_order("meta.t", meta.t)?;
        let needs = meta.op == MetaOp::Set;
        let takes = needs || matches!(meta.op, MetaOp::Create | MetaOp::Read);
        if (needs && meta.v.is_none()) || (!takes && meta.v.is_some()) {
            let rule = "set has a value, and delete and unset have none";
            let value = meta.key.clone().into_owned();
            return Err(HistoryError::Field { field: "meta.v", value, rule });
        }
        // A read without an answer says nothing.
        let silent = meta.op == MetaOp::Read && meta.info.is_some();
        if meta.fail.is_some() || silent {
            return Ok(());
        }
        let key = self.names.id(&meta.key)?;
        let via = meta.via.as_deref().map_or(Ok(NOWHERE), |via| self.names.id(via))?;
        let value = meta.v.as_deref().map_or(0, fingerprint);
        let operation = Operation {
            op: meta.op,
            value,
            invoked: t.0,
            completed: t.1,
            lag: 0,
            via: if meta.op == MetaOp::Read { via } else { NOWHERE },
            already: meta.already,
            open: meta.info.is_some(),
        };
        if meta.op == MetaOp::Create && value != 0 {
            self.made_once(meta, key, value, t);
        }
        self.metadata.keys.entry(key).or_default().push(operation);
        Ok(())
    }

    fn made_once(&mut self, meta: &Meta<'_>, key: u32, value: u64, t: (u64, u64)) {
        if let Some(before) = self.metadata.made.insert(value, t) {
            let window = window(&meta.key, (before.0.min(t.0), before.1.max(t.1)));
            let id = meta.v.as_deref().unwrap_or_default();
            self.verdict.violation(Point::Metadata, window, || {
                format!("{} was made at {t:?} with the id {id}, as one at {before:?}", meta.key)
            });
        }
        self.metadata.ids.entry(value).or_insert(key);
    }

    /// Judges each key.
    pub(super) fn settle_metadata(&mut self) {
        let mut all = std::mem::take(&mut self.metadata);
        for (key, mut ops) in all.keys {
            let name = self.names.name(key).to_owned();
            self.verdict.saw(Point::Metadata, ops.len() as u64);
            ops.iter_mut().for_each(|op| op.lag = self.lag_of(op));
            if ops.iter().any(|op| matches!(op.op, MetaOp::Create | MetaOp::Delete)) {
                for op in ops.iter().filter(|op| op.value != 0) {
                    let first = *all.ids.entry(op.value).or_insert(key);
                    if first != key {
                        let t = (op.invoked, op.completed);
                        let other = self.names.name(first).to_owned();
                        self.verdict.violation(Point::Metadata, window(&name, t), || {
                            format!("{name} has the id of {other} at {t:?}")
                        });
                    }
                }
            }
            match search(&mut ops) {
                Answer::Fits => {}
                Answer::Unknown => self.verdict.undecided.push(name),
                Answer::Stuck(at) => self.no_order(&name, &ops, &at),
            }
        }
    }

    /// How far a read may be behind: as far as the run says, and while brokers may hear nothing,
    /// since then.
    fn lag_of(&self, op: &Operation) -> u64 {
        if op.op != MetaOp::Read {
            return 0;
        }
        let lag = self.run.lag_ms.saturating_mul(1000);
        let cut = self.cluster.blind_from((op.invoked, op.completed), lag);
        cut.map_or(0, |since| op.invoked.saturating_sub(since)).saturating_add(lag)
    }

    fn no_order(&mut self, name: &str, ops: &[Operation], stuck: &[usize]) {
        let concerned: Vec<_> = stuck.iter().map(|at| &ops[*at]).collect();
        let from = concerned.iter().map(|o| o.invoked.saturating_sub(o.lag)).min().unwrap_or(0);
        let to = concerned.iter().map(|o| o.completed).max().unwrap_or(u64::MAX);
        let told: Vec<_> = concerned
            .iter()
            .map(|o| format!("{:?} at {:?}", o.op, (o.invoked, o.completed)))
            .collect();
        self.verdict.violation(Point::Metadata, window(name, (from, to)), || {
            format!("{name}: in no order is there a place for {}", told.join(" or "))
        });
    }
}

fn window(key: &str, t: (u64, u64)) -> Window {
    Window { key: Some(key.to_owned()), times: Some(t), ..Window::default() }
}
