//! Calls that wait for something of the same transactional id to end: the first partition of a
//! transaction is mostly added within a millisecond of the end of the one before, whose markers are
//! on their way then. Kafka answers CONCURRENT_TRANSACTIONS, and clients rest for 20 to 100
//! milliseconds before they ask again; here they are answered when the end is written. Pure.
//!
//! How long is counted from when the id became busy, not from the call: an end that cannot be
//! written (a partition without a leader) holds nobody up for longer than that, however often he asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{calls::Token, txn_calls::TxnCall};
use crate::base::Mono;

/// So long after an id became busy calls wait for it, in milliseconds.
const PATIENCE_MS: i64 = 100;
/// Of one id at most so many calls wait.
const CALLS_MAX: usize = 16;

type Id = Arc<str>;
type Call = (Token, TxnCall);

/// The calls that wait, by transactional id.
#[derive(Debug, Default)]
pub(super) struct Parked {
    /// Until when those of an id wait, and they themselves, in their order.
    calls: BTreeMap<Id, (Mono, Vec<Call>)>,
    until: BTreeSet<(Mono, Id)>,
}

impl Parked {
    /// Keeps a call for an id that has been busy since `since`. Gives it back if it has to be
    /// answered as things stand.
    pub(super) fn park(&mut self, call: Call, since: Mono, now: Mono) -> Option<Call> {
        let until = since.after_ms(PATIENCE_MS);
        if now >= until {
            return Some(call);
        }
        let id = call.1.id().clone();
        let (until, calls) = self.calls.entry(id.clone()).or_insert((until, Vec::new()));
        if calls.len() >= CALLS_MAX {
            return Some(call);
        }
        self.until.insert((*until, id));
        calls.push(call);
        None
    }

    /// The calls for `id`: it is busy no longer.
    pub(super) fn take(&mut self, id: &Id) -> Vec<Call> {
        let Some((until, calls)) = self.calls.remove(id) else { return Vec::new() };
        self.until.remove(&(until, id.clone()));
        calls
    }

    /// When [`Parked::overdue`] has something to give.
    pub(super) fn next_deadline(&self) -> Mono {
        self.until.first().map_or(Mono::NEVER, |(at, _)| *at)
    }

    /// Calls that have waited long enough.
    pub(super) fn overdue(&mut self, now: Mono) -> Vec<Call> {
        let mut out = Vec::new();
        while self.next_deadline() <= now {
            let Some((_, id)) = self.until.first().cloned() else { break };
            out.extend(self.take(&id));
        }
        out
    }

    /// All of them, for the end.
    pub(super) fn into_all(self) -> impl Iterator<Item = Call> {
        self.calls.into_values().flat_map(|(_, calls)| calls)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::txn_calls::{AddCall, Producer},
        *,
    };

    fn call(token: Token, id: &str) -> Call {
        let add = AddCall {
            id: id.into(),
            producer: Producer::NONE,
            partitions: BTreeSet::new(),
            client_version: 2,
        };
        (token, TxnCall::Add(add))
    }

    fn tokens(calls: Vec<Call>) -> Vec<Token> {
        calls.into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn calls_wait_until_the_id_is_free_or_their_time_is_over() {
        let (mut parked, at) = (Parked::default(), |ms| Mono(0).after_ms(ms));
        assert!(parked.park(call(1, "a"), at(10), at(20)).is_none());
        assert!(parked.park(call(2, "a"), at(10), at(30)).is_none());
        assert!(parked.park(call(3, "b"), at(40), at(40)).is_none());
        assert_eq!(parked.next_deadline(), at(110));
        assert_eq!(tokens(parked.take(&"a".into())), [1, 2]);
        assert_eq!(parked.next_deadline(), at(140));
        assert!(parked.overdue(at(139)).is_empty());
        assert_eq!(tokens(parked.overdue(at(140))), [3]);
        assert_eq!(parked.next_deadline(), Mono::NEVER);
    }

    #[test]
    fn an_id_that_stays_busy_keeps_nobody_waiting_again() {
        let (mut parked, since) = (Parked::default(), Mono(0));
        let late = since.after_ms(PATIENCE_MS);
        assert!(parked.park(call(1, "a"), since, late).is_some());
        for token in 0..CALLS_MAX as Token {
            assert!(parked.park(call(token, "a"), since, since).is_none());
        }
        assert!(parked.park(call(99, "a"), since, since).is_some(), "there are enough");
        assert_eq!(parked.into_all().count(), CALLS_MAX);
    }
}
