//! Who follows the metadata log from this member, and how far each got: what DescribeQuorum says
//! of followers. Uses `base`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::settings::ReplicaDescription;
use crate::base::{NodeId, Offset, Uuid};

/// An observer that was silent for so long is listed no more, in milliseconds
/// (`LeaderState.OBSERVER_SESSION_TIMEOUT_MS`).
const FORGOTTEN_AFTER_MS: i64 = 300_000;

/// How far one follower got.
#[derive(Debug, Clone, Copy)]
struct Progress {
    directory_id: Uuid,
    log_end: Offset,
    fetch_ms: i64,
    caught_up_ms: i64,
    /// The leader's end and the time of the report before.
    before: (Offset, i64),
}

/// The followers by id.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    seen: Mutex<BTreeMap<NodeId, Progress>>,
}

impl Roster {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<NodeId, Progress>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `id` reported at `now_ms` that its log ends at `log_end`, when the leader's ended at
    /// `leader_end`. It is caught up as of now if it has all, or as of its report before if it
    /// has all that the leader had then (`LeaderState.ReplicaState.updateFollowerState`).
    pub(crate) fn report(
        &self,
        id: NodeId,
        directory_id: Uuid,
        log_end: Offset,
        leader_end: Offset,
        now_ms: i64,
    ) {
        let mut seen = self.seen();
        let p = seen.entry(id).or_insert(Progress {
            directory_id,
            log_end,
            fetch_ms: now_ms,
            caught_up_ms: -1,
            before: (Offset::MAX, -1),
        });
        if log_end >= leader_end {
            p.caught_up_ms = p.caught_up_ms.max(now_ms);
        } else if log_end >= p.before.0 {
            p.caught_up_ms = p.caught_up_ms.max(p.before.1);
        }
        p.before = (leader_end, now_ms);
        p.directory_id = directory_id;
        p.log_end = log_end;
        p.fetch_ms = p.fetch_ms.max(now_ms);
    }

    /// What is known of `id`.
    pub(crate) fn describe(&self, id: NodeId) -> Option<ReplicaDescription> {
        self.seen().get(&id).map(|p| description(id, p))
    }

    /// All followers that reported lately.
    pub(crate) fn list(&self, now_ms: i64) -> Vec<ReplicaDescription> {
        let mut seen = self.seen();
        seen.retain(|_, p| now_ms.saturating_sub(p.fetch_ms) < FORGOTTEN_AFTER_MS);
        seen.iter().map(|(id, p)| description(*id, p)).collect()
    }
}

fn description(id: NodeId, p: &Progress) -> ReplicaDescription {
    ReplicaDescription {
        id,
        directory_id: p.directory_id,
        log_end_offset: p.log_end,
        last_fetch_ms: p.fetch_ms,
        last_caught_up_ms: p.caught_up_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_up_is_dated_by_the_report_before() {
        let roster = Roster::default();
        let caught_up = |log_end, leader_end, now| {
            roster.report(NodeId(2), Uuid::ONE, log_end, leader_end, now);
            roster.describe(NodeId(2)).unwrap().last_caught_up_ms
        };
        assert_eq!(caught_up(0, 10, 100), -1);
        assert_eq!(caught_up(10, 20, 200), 100, "it has what the leader had at 100");
        assert_eq!(caught_up(20, 20, 300), 300);
        assert_eq!(caught_up(20, 30, 400), 300);
        assert_eq!(roster.list(400).len(), 1);
        assert!(roster.list(400 + FORGOTTEN_AFTER_MS).is_empty());
    }
}
