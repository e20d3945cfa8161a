//! What one fetcher asks its leader for: which partitions, within which session, and which answers
//! still count (`FetchSessionHandler.java`). Pure: positions are handed in, frames are the driver's.
//!
//! Only what changed costs work: a partition whose position stands is in the leader's session and
//! is not named again. Questions may overlap: an answer counts for a partition only if what was
//! last asked of it was in that question or an earlier one.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    fetch_session::{INITIAL_EPOCH, NO_SESSION},
    follower::FetchPosition,
};
use crate::base::{ErrorCode, Mono, PartitionId, Uuid};

/// A partition: the id of its topic, and its number.
pub type Key = (Uuid, PartitionId);

/// One question to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Its number; questions are counted from 1.
    pub number: u64,
    /// The session's id; 0 for none.
    pub session_id: i32,
    /// Its epoch; 0 opens a session.
    pub session_epoch: i32,
    /// Partitions to read, by topic: all of them, or within a session those that changed.
    pub wanted: Vec<(Key, FetchPosition)>,
    /// Partitions that leave the session.
    pub forgotten: Vec<Key>,
}

/// What an answer means for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Its partitions are to be dealt with.
    Taken,
    /// It answers what no longer matters.
    Void,
    /// The leader does not know the session: ask anew at once.
    NoSession,
    /// The leader refuses: ask anew after a while.
    Refused(ErrorCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    /// There is none; the leader may drop this one.
    None { close: i32 },
    /// The question that opens one is on its way.
    Opening,
    /// The leader knows it.
    Open { id: i32, epoch: i32 },
}

#[derive(Debug, Clone, Default)]
struct Member {
    /// What was last asked and in which question; `None` once that is out of date.
    asked: Option<(FetchPosition, u64)>,
    /// Whether the leader's session names it.
    in_session: bool,
    /// Until when it is not asked for.
    delayed: Option<Mono>,
}

/// The partitions of one fetcher.
#[derive(Debug)]
pub struct FetchPlan {
    session: Session,
    members: BTreeMap<Key, Member>,
    /// Partitions that the leader's session names.
    named: usize,
    /// Partitions whose position is to be looked at before the next question.
    changed: BTreeSet<Key>,
    /// Partitions that the session names and should not.
    forgotten: BTreeSet<Key>,
    delayed: BTreeSet<(Mono, Key)>,
    /// Whether something came that a question on its way does not have to be waited for.
    urgent: bool,
    last_number: u64,
    /// Answers to questions up to this one do not count.
    void_upto: u64,
}

impl Default for FetchPlan {
    fn default() -> Self {
        Self {
            session: Session::None { close: NO_SESSION },
            members: BTreeMap::new(),
            named: 0,
            changed: BTreeSet::new(),
            forgotten: BTreeSet::new(),
            delayed: BTreeSet::new(),
            urgent: false,
            last_number: 0,
            void_upto: 0,
        }
    }
}

impl FetchPlan {
    /// Whether there is no partition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Adds a partition, or begins anew with one that is there: its leader epoch is another.
    pub fn add(&mut self, key: Key) {
        self.end_delay(key);
        self.members.entry(key).or_default();
        self.touch(key);
        self.urgent = true;
    }

    /// Takes a partition out.
    pub fn remove(&mut self, key: Key) {
        self.end_delay(key);
        self.changed.remove(&key);
        if let Some(member) = self.members.remove(&key)
            && member.in_session
        {
            self.named -= 1;
            self.forgotten.insert(key);
            self.urgent = true;
        }
    }

    /// The position of a partition moved: what was asked is out of date.
    pub fn touch(&mut self, key: Key) {
        if let Some(member) = self.members.get_mut(&key) {
            member.asked = None;
            if member.delayed.is_none() {
                self.changed.insert(key);
            }
        }
    }

    /// Lets the next question not wait for the answer to the last.
    pub fn hurry(&mut self) {
        self.urgent = true;
    }

    /// Does not ask for a partition until then.
    pub fn delay(&mut self, key: Key, until: Mono) {
        self.end_delay(key);
        let Some(member) = self.members.get_mut(&key) else { return };
        member.asked = None;
        member.delayed = Some(until);
        self.changed.remove(&key);
        self.delayed.insert((until, key));
        if std::mem::take(&mut member.in_session) {
            self.named -= 1;
            self.forgotten.insert(key);
        }
    }

    fn end_delay(&mut self, key: Key) {
        if let Some(until) = self.members.get_mut(&key).and_then(|m| m.delayed.take()) {
            self.delayed.remove(&(until, key));
        }
    }

    /// Ends the delays that are over.
    pub fn wake_due(&mut self, now: Mono) {
        while let Some((until, key)) = self.delayed.first().copied() {
            if until > now {
                return;
            }
            self.end_delay(key);
            self.touch(key);
            self.urgent = true;
        }
    }

    /// When the next delay ends.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        self.delayed.first().map(|(until, _)| *until)
    }

    /// The partitions whose position the next question looks at.
    pub fn changed(&self) -> impl ExactSizeIterator<Item = Key> + '_ {
        self.changed.iter().copied()
    }

    /// Whether a question may leave while `in_flight` others are on their way. A second one only
    /// within a session, for what cannot wait: partitions that came, went, or end a delay.
    #[must_use]
    pub fn may_ask(&self, in_flight: usize) -> bool {
        let news = !self.changed.is_empty() || !self.forgotten.is_empty();
        match (self.session, in_flight) {
            (Session::Opening, _) => false,
            (Session::None { .. }, 0) => !self.changed.is_empty(),
            (Session::Open { .. }, 0) => news || self.named > 0,
            (Session::Open { .. }, 1) => news && self.urgent,
            _ => false,
        }
    }

    /// The next question; `position` tells where a partition reads next, `None` if it cannot be
    /// asked for now. `None` if there is nothing to ask.
    pub fn ask(&mut self, position: &mut dyn FnMut(Key) -> Option<FetchPosition>) -> Option<Ask> {
        let number = self.last_number + 1;
        let mut wanted = Vec::with_capacity(self.changed.len());
        for key in std::mem::take(&mut self.changed) {
            let Some(member) = self.members.get_mut(&key) else { continue };
            let Some(position) = position(key) else {
                member.asked = None;
                if std::mem::take(&mut member.in_session) {
                    self.named -= 1;
                    self.forgotten.insert(key);
                }
                continue;
            };
            member.asked = Some((position, number));
            if !std::mem::replace(&mut member.in_session, true) {
                self.named += 1;
            }
            self.forgotten.remove(&key);
            wanted.push((key, position));
        }
        self.urgent = false;
        let forgotten: Vec<_> = std::mem::take(&mut self.forgotten).into_iter().collect();
        let (session_id, session_epoch) = match &mut self.session {
            Session::None { .. } | Session::Opening if wanted.is_empty() => return None,
            Session::None { close } => (*close, INITIAL_EPOCH),
            Session::Opening => (NO_SESSION, INITIAL_EPOCH),
            Session::Open { .. } if self.named == 0 && forgotten.is_empty() => return None,
            Session::Open { id, epoch } => {
                let this = *epoch;
                *epoch = if this == i32::MAX { 1 } else { this + 1 };
                (*id, this)
            }
        };
        if session_epoch == INITIAL_EPOCH {
            self.session = Session::Opening;
        }
        self.last_number = number;
        Some(Ask { number, session_id, session_epoch, wanted, forgotten })
    }

    /// Takes note of the answer to question `number`: its error as a whole, and its session.
    pub fn answered(&mut self, number: u64, error: ErrorCode, session_id: i32) -> Answer {
        if number <= self.void_upto {
            return Answer::Void;
        }
        match error {
            ErrorCode::None => {
                self.note_session(session_id);
                Answer::Taken
            }
            ErrorCode::FetchSessionIdNotFound => {
                self.restart(NO_SESSION);
                Answer::NoSession
            }
            error => {
                let close = match self.session {
                    Session::Open { id, .. } => id,
                    Session::None { .. } | Session::Opening => NO_SESSION,
                };
                self.restart(close);
                match error {
                    ErrorCode::InvalidFetchSessionEpoch => Answer::NoSession,
                    error => Answer::Refused(error),
                }
            }
        }
    }

    fn note_session(&mut self, told: i32) {
        match self.session {
            Session::Opening if told != NO_SESSION => {
                self.session = Session::Open { id: told, epoch: 1 };
            }
            Session::Open { id, .. } if told == id => {}
            // The leader has no room for a session, or dropped it: the next question names all.
            Session::Opening | Session::Open { .. } | Session::None { .. } => {
                self.session = Session::None { close: NO_SESSION };
                self.unname();
            }
        }
    }

    /// What question `number` asked of a partition; `None` if its answer no longer counts.
    #[must_use]
    pub fn asked(&self, key: Key, number: u64) -> Option<FetchPosition> {
        let (position, since) = self.members.get(&key)?.asked?;
        (since <= number).then_some(position)
    }

    /// The connection is gone: no answer comes any more, and everything is asked anew.
    pub fn disconnected(&mut self) {
        self.restart(NO_SESSION);
    }

    fn restart(&mut self, close: i32) {
        self.session = Session::None { close };
        self.void_upto = self.last_number;
        for member in self.members.values_mut() {
            member.asked = None;
        }
        self.unname();
    }

    /// The leader's session names nothing any more: all that may be asked for is looked at.
    fn unname(&mut self) {
        self.named = 0;
        self.forgotten.clear();
        for (key, member) in &mut self.members {
            member.in_session = false;
            if member.delayed.is_none() {
                self.changed.insert(*key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: PartitionId) -> Key {
        (Uuid([7; 16]), partition)
    }

    fn at(offset: i64) -> FetchPosition {
        FetchPosition { offset, last_fetched_epoch: 1, current_leader_epoch: 1, log_start: 0 }
    }

    /// A plan of partitions that all read from `offset`.
    fn plan(partitions: &[PartitionId]) -> FetchPlan {
        let mut plan = FetchPlan::default();
        partitions.iter().for_each(|p| plan.add(key(*p)));
        plan
    }

    fn ask(plan: &mut FetchPlan, offset: i64) -> Ask {
        plan.ask(&mut |_| Some(at(offset))).unwrap()
    }

    fn named(ask: &Ask) -> (i32, i32, Vec<PartitionId>, Vec<PartitionId>) {
        let wanted = ask.wanted.iter().map(|(k, _)| k.1).collect();
        let forgotten = ask.forgotten.iter().map(|k| k.1).collect();
        (ask.session_id, ask.session_epoch, wanted, forgotten)
    }

    #[test]
    fn a_session_names_only_what_changed() {
        let mut plan = plan(&[0, 1, 2]);
        assert!(plan.may_ask(0));
        let first = ask(&mut plan, 5);
        assert_eq!(named(&first), (0, 0, vec![0, 1, 2], vec![]));
        assert!(!plan.may_ask(1), "nothing overlaps the question that opens the session");
        assert_eq!(plan.answered(1, ErrorCode::None, 77), Answer::Taken);
        assert_eq!(plan.asked(key(1), 1), Some(at(5)));
        plan.touch(key(1));
        assert_eq!(plan.asked(key(1), 1), None);
        let second = ask(&mut plan, 9);
        assert_eq!(named(&second), (77, 1, vec![1], vec![]));
        assert_eq!(plan.answered(2, ErrorCode::None, 77), Answer::Taken);
        assert!(plan.may_ask(0), "an idle session waits at the leader");
        assert_eq!(named(&ask(&mut plan, 9)), (77, 2, vec![], vec![]));
    }

    #[test]
    fn what_cannot_be_asked_leaves_the_session_and_comes_back() {
        let mut plan = plan(&[0, 1]);
        ask(&mut plan, 5);
        plan.answered(1, ErrorCode::None, 77);
        plan.delay(key(0), Mono(100));
        plan.touch(key(0));
        plan.touch(key(1));
        let got = plan.ask(&mut |_| None).unwrap();
        assert_eq!(named(&got), (77, 1, vec![], vec![0, 1]));
        assert_eq!(plan.answered(2, ErrorCode::None, 0), Answer::Taken, "the leader dropped it");
        assert_eq!(plan.next_deadline(), Some(Mono(100)));
        plan.wake_due(Mono(99));
        assert_eq!(named(&ask(&mut plan, 5)), (0, 0, vec![1], vec![]));
        plan.answered(3, ErrorCode::None, 78);
        plan.wake_due(Mono(100));
        assert_eq!(plan.next_deadline(), None);
        assert_eq!(named(&ask(&mut plan, 5)), (78, 1, vec![0], vec![]));
        plan.remove(key(1));
        assert_eq!(named(&ask(&mut plan, 5)), (78, 2, vec![], vec![1]));
    }

    #[test]
    fn partitions_that_come_do_not_wait_for_the_answer_on_its_way() {
        let mut plan = plan(&[0]);
        ask(&mut plan, 5);
        plan.answered(1, ErrorCode::None, 77);
        ask(&mut plan, 5);
        assert!(!plan.may_ask(1), "nothing is new");
        plan.add(key(1));
        plan.add(key(0));
        assert!(plan.may_ask(1));
        assert!(!plan.may_ask(2));
        let third = ask(&mut plan, 6);
        assert_eq!(named(&third), (77, 2, vec![0, 1], vec![]));
        assert_eq!(plan.answered(2, ErrorCode::None, 77), Answer::Taken);
        assert_eq!(plan.asked(key(0), 2), None, "asked anew since");
        assert_eq!(plan.asked(key(0), 3), Some(at(6)));
        plan.touch(key(0));
        assert!(!plan.may_ask(1), "what moved waits for the answer that is on its way");
    }

    #[test]
    fn a_lost_session_is_opened_anew() {
        for (error, close) in
            [(ErrorCode::FetchSessionIdNotFound, 0), (ErrorCode::InvalidFetchSessionEpoch, 77)]
        {
            let mut plan = plan(&[0, 1]);
            ask(&mut plan, 5);
            plan.answered(1, ErrorCode::None, 77);
            ask(&mut plan, 5);
            plan.add(key(2));
            ask(&mut plan, 5);
            assert_eq!(plan.answered(2, error, 0), Answer::NoSession);
            assert_eq!(plan.answered(3, error, 0), Answer::Void, "it was asked before");
            assert_eq!(plan.asked(key(0), 3), None);
            assert_eq!(named(&ask(&mut plan, 5)), (close, 0, vec![0, 1, 2], vec![]));
            assert_eq!(plan.answered(4, ErrorCode::None, 78), Answer::Taken);
            assert_eq!(plan.asked(key(0), 4), Some(at(5)));
        }
    }

    #[test]
    fn a_leader_without_room_for_a_session_is_asked_for_all_each_time() {
        let mut plan = plan(&[0, 1]);
        for number in 1..4 {
            assert_eq!(named(&ask(&mut plan, 5)), (0, 0, vec![0, 1], vec![]));
            assert!(!plan.may_ask(1));
            assert_eq!(plan.answered(number, ErrorCode::None, 0), Answer::Taken);
            assert_eq!(plan.asked(key(0), number), Some(at(5)), "its data counts");
        }
    }

    #[test]
    fn refusals_and_broken_connections_begin_anew() {
        let mut plan = plan(&[0]);
        ask(&mut plan, 5);
        let refused = ErrorCode::ClusterAuthorizationFailed;
        assert_eq!(plan.answered(1, refused, 0), Answer::Refused(refused));
        ask(&mut plan, 5);
        plan.answered(2, ErrorCode::None, 9);
        plan.delay(key(0), Mono(50));
        plan.disconnected();
        assert!(!plan.may_ask(0), "its delay goes on");
        plan.wake_due(Mono(50));
        assert_eq!(named(&ask(&mut plan, 5)), (0, 0, vec![0], vec![]));
        plan.remove(key(0));
        assert!(plan.is_empty());
    }

    #[test]
    fn epochs_wrap_to_one() {
        let mut plan = plan(&[0]);
        ask(&mut plan, 5);
        plan.answered(1, ErrorCode::None, 9);
        plan.session = Session::Open { id: 9, epoch: i32::MAX };
        assert_eq!(ask(&mut plan, 5).session_epoch, i32::MAX);
        assert_eq!(ask(&mut plan, 5).session_epoch, 1);
    }
}
