//! Fetch sessions (KIP-227): what a client asked for last time, so that it may send and receive
//! only differences. A pure machine; the table holds its lock. Rules: `FetchSession.java`,
//! `FetchSessionCacheShard.java`, `FetchManager.java`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use super::waiters::Wake;
use crate::base::{ErrorCode, Mono, Offset, PartitionId, Uuid};

/// A session that was idle this long gives way to any newcomer.
const EVICTION_IDLE: Duration = Duration::from_secs(120);
/// The session id of a request without a session.
pub const NO_SESSION: i32 = 0;
/// The epoch of a full request that would like a session.
pub const INITIAL_EPOCH: i32 = 0;
/// The epoch of a full request that closes its session, or wants none.
pub const FINAL_EPOCH: i32 = -1;

/// One partition of a fetch request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionFetch {
    /// The topic's name; empty if the request named an id that is not known here.
    pub topic: Arc<str>,
    /// The topic's id; zero if the request named a topic that is not known here.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: PartitionId,
    /// The first offset wanted.
    pub fetch_offset: Offset,
    /// At most so many bytes of it.
    pub max_bytes: i32,
    /// The leader epoch that the client believes in; -1 for none.
    pub current_leader_epoch: i32,
    /// The epoch of the last record a follower has; -1 for none (KIP-595).
    pub last_fetched_epoch: i32,
    /// A follower's log start offset; -1 from a consumer.
    pub log_start_offset: Offset,
}

/// The partition's key in a session: the id where the request speaks of ids, else the name.
type Key = (Uuid, Arc<str>, PartitionId);

impl PartitionFetch {
    fn key(&self, by_id: bool) -> Key {
        if by_id {
            (self.topic_id, Arc::from(""), self.partition)
        } else {
            (Uuid::ZERO, Arc::clone(&self.topic), self.partition)
        }
    }
}

/// What a response says of a partition, as far as sessions care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Records, an error, a divergence or a preferred replica: always told.
    pub must_tell: bool,
    /// Whether the partition has records, and so goes to the end of the line.
    pub has_records: bool,
    /// The high watermark in the response.
    pub high_watermark: Offset,
    /// The log start offset in the response.
    pub log_start_offset: Offset,
}

#[derive(Debug)]
struct Cached {
    fetch: PartitionFetch,
    high_watermark: Offset,
    log_start_offset: Offset,
}

#[derive(Debug)]
struct Session {
    by_id: bool,
    privileged: bool,
    epoch: i32,
    created: Mono,
    last_used: Mono,
    next_turn: u64,
    turns: BTreeMap<u64, Cached>,
    places: BTreeMap<Key, u64>,
    /// The fetch of this session that waits for news.
    parked: Weak<Wake>,
}

impl Session {
    fn put(&mut self, fetch: PartitionFetch) {
        let key = fetch.key(self.by_id);
        if let Some(cached) = self.places.get(&key).and_then(|t| self.turns.get_mut(t)) {
            cached.fetch = fetch;
            return;
        }
        let turn = self.next_turn;
        self.next_turn += 1;
        self.places.insert(key, turn);
        self.turns.insert(turn, Cached { fetch, high_watermark: -1, log_start_offset: -1 });
    }

    fn wake(&self) {
        if let Some(parked) = self.parked.upgrade() {
            parked.wake();
        }
    }

    fn forget(&mut self, key: &Key) {
        if let Some(turn) = self.places.remove(key) {
            self.turns.remove(&turn);
        }
    }

    /// Whether the response tells of this partition; notes what it says.
    fn note(&mut self, key: &Key, told: Told) -> bool {
        let Some(turn) = self.places.get(key).copied() else { return true };
        let Some(cached) = self.turns.get_mut(&turn) else { return true };
        let changed = cached.high_watermark != told.high_watermark
            || cached.log_start_offset != told.log_start_offset;
        cached.high_watermark = told.high_watermark;
        cached.log_start_offset = told.log_start_offset;
        if told.has_records
            && let Some(cached) = self.turns.remove(&turn)
        {
            self.turns.insert(self.next_turn, cached);
            self.places.insert(key.clone(), self.next_turn);
            self.next_turn += 1;
        }
        changed || told.must_tell
    }
}

/// How the answer to one request is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchContext {
    /// The partitions to read, in the order of their turns.
    pub partitions: Vec<PartitionFetch>,
    /// The session id that the response carries; 0 for none.
    pub session_id: i32,
    /// Whether only changed partitions are told.
    pub incremental: bool,
    by_id: bool,
    /// The epoch of the session's next request.
    next_epoch: i32,
}

/// What a request says of sessions.
#[derive(Debug, Clone, Copy)]
pub struct SessionAsk {
    /// The session's id; 0 for none.
    pub id: i32,
    /// The request's number in the session; 0 and -1 are full requests.
    pub epoch: i32,
    /// Whether topics are named by id (Fetch v13 and later).
    pub by_id: bool,
    /// Whether a follower asks: followers may push consumers out of the cache.
    pub privileged: bool,
}

/// All sessions of this broker.
#[derive(Debug)]
pub struct FetchSessions {
    slots_max: usize,
    sessions: BTreeMap<i32, Session>,
}

impl FetchSessions {
    /// A cache of at most `slots_max` sessions (`max.incremental.fetch.session.cache.slots`).
    #[must_use]
    pub fn new(slots_max: usize) -> Self {
        Self { slots_max, sessions: BTreeMap::new() }
    }

    /// Sessions held now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Expands a request into the partitions to read. `entropy` gives the id of a new session.
    ///
    /// # Errors
    /// `FetchSessionIdNotFound`, `InvalidFetchSessionEpoch`, `FetchSessionTopicIdError`: errors of
    /// the whole request; the client begins anew.
    pub fn begin(
        &mut self,
        ask: SessionAsk,
        wanted: Vec<PartitionFetch>,
        forgotten: Vec<PartitionFetch>,
        now: Mono,
        entropy: u64,
    ) -> Result<FetchContext, ErrorCode> {
        if ask.epoch == INITIAL_EPOCH || ask.epoch == FINAL_EPOCH {
            if let Some(session) = self.sessions.remove(&ask.id) {
                session.wake();
            }
            let wants = ask.epoch == INITIAL_EPOCH && !wanted.is_empty();
            let id = if wants { self.open(ask, &wanted, now, entropy) } else { NO_SESSION };
            return Ok(FetchContext {
                partitions: wanted,
                session_id: id,
                incremental: false,
                by_id: ask.by_id,
                next_epoch: 1,
            });
        }
        self.resume(ask, wanted, forgotten, now)
    }

    fn resume(
        &mut self,
        ask: SessionAsk,
        wanted: Vec<PartitionFetch>,
        forgotten: Vec<PartitionFetch>,
        now: Mono,
    ) -> Result<FetchContext, ErrorCode> {
        let session = self.sessions.get_mut(&ask.id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != ask.epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.by_id != ask.by_id {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        session.wake();
        for fetch in wanted {
            session.put(fetch);
        }
        for fetch in forgotten {
            session.forget(&fetch.key(ask.by_id));
        }
        session.epoch = if session.epoch == i32::MAX { 1 } else { session.epoch + 1 };
        session.last_used = now;
        let next_epoch = session.epoch;
        let partitions: Vec<_> = session.turns.values().map(|c| c.fetch.clone()).collect();
        let mut session_id = ask.id;
        if partitions.is_empty() {
            self.sessions.remove(&ask.id);
            session_id = NO_SESSION;
        }
        let by_id = ask.by_id;
        Ok(FetchContext { partitions, session_id, incremental: true, by_id, next_epoch })
    }

    /// Lets the fetch of `context` wait until `wake`. The next request of its session wakes it: a
    /// reader that has something new to ask does not wait for an answer to what it asked before.
    /// `false` if that request came already, and the answer must go.
    pub fn park(&mut self, context: &FetchContext, wake: &Arc<Wake>) -> bool {
        let Some(session) = self.sessions.get_mut(&context.session_id) else {
            return context.session_id == NO_SESSION;
        };
        let last = session.epoch == context.next_epoch;
        if last {
            session.parked = Arc::downgrade(wake);
        }
        last
    }

    /// Whether the response of `context` tells of `fetch`, of which it could say `told`. Asked once
    /// for every partition, when the response is final.
    pub fn tell(&mut self, context: &FetchContext, fetch: &PartitionFetch, told: Told) -> bool {
        let Some(session) = self.sessions.get_mut(&context.session_id) else { return true };
        session.note(&fetch.key(context.by_id), told) || !context.incremental
    }

    fn open(&mut self, ask: SessionAsk, wanted: &[PartitionFetch], now: Mono, entropy: u64) -> i32 {
        if self.sessions.len() >= self.slots_max && !self.evict(ask.privileged, wanted.len(), now) {
            return NO_SESSION;
        }
        let mut id = i32::try_from(entropy & 0x7fff_ffff).unwrap_or(1).max(1);
        while self.sessions.contains_key(&id) {
            id = if id == i32::MAX { 1 } else { id + 1 };
        }
        let mut session = Session {
            by_id: ask.by_id,
            privileged: ask.privileged,
            epoch: 1,
            created: now,
            last_used: now,
            next_turn: 0,
            turns: BTreeMap::new(),
            places: BTreeMap::new(),
            parked: Weak::new(),
        };
        for fetch in wanted {
            session.put(fetch.clone());
        }
        self.sessions.insert(id, session);
        id
    }

    /// Makes room for a newcomer of `size` partitions; `false` if no session may be pushed out.
    fn evict(&mut self, privileged: bool, size: usize, now: Mono) -> bool {
        let idle = |s: &Session| now.since(s.last_used) > EVICTION_IDLE;
        let old = |s: &Session| now.since(s.created) > EVICTION_IDLE;
        let stale = self.sessions.iter().filter(|(_, s)| idle(s)).min_by_key(|(_, s)| s.last_used);
        let victim = stale.or_else(|| {
            let weaker = |s: &Session| !s.privileged || privileged;
            let outranked =
                |s: &Session| (privileged && !s.privileged) || (size > s.turns.len() && old(s));
            self.sessions
                .iter()
                .filter(|(_, s)| weaker(s) && outranked(s))
                .min_by_key(|(_, s)| (s.privileged, s.turns.len(), s.last_used))
        });
        let Some((&id, _)) = victim else { return false };
        self.sessions.remove(&id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(topic: &str, partition: i32, fetch_offset: i64) -> PartitionFetch {
        PartitionFetch {
            topic: topic.into(),
            topic_id: Uuid::ZERO,
            partition,
            fetch_offset,
            max_bytes: 1024,
            current_leader_epoch: -1,
            last_fetched_epoch: -1,
            log_start_offset: -1,
        }
    }

    fn ask(id: i32, epoch: i32) -> SessionAsk {
        SessionAsk { id, epoch, by_id: false, privileged: false }
    }

    fn told(high_watermark: i64, has_records: bool) -> Told {
        Told { must_tell: has_records, has_records, high_watermark, log_start_offset: 0 }
    }

    #[test]
    fn a_session_sends_and_tells_differences() {
        let (mut all, now) = (FetchSessions::new(10), Mono(0));
        let both = vec![fetch("a", 0, 5), fetch("b", 0, 0)];
        let first = all.begin(ask(0, 0), both, vec![], now, 77).unwrap();
        assert_eq!((first.session_id, first.incremental), (77, false));
        assert!(all.tell(&first, &fetch("a", 0, 5), told(5, false)), "a full answer tells all");
        assert!(all.tell(&first, &fetch("b", 0, 0), told(9, true)));

        let next = all.begin(ask(77, 1), vec![fetch("b", 0, 9)], vec![], now, 0).unwrap();
        let order: Vec<_> = next.partitions.iter().map(|p| (&*p.topic, p.fetch_offset)).collect();
        assert_eq!(order, [("a", 5), ("b", 9)], "who had records goes last");
        assert!(!all.tell(&next, &fetch("a", 0, 5), told(5, false)), "nothing changed");
        assert!(all.tell(&next, &fetch("b", 0, 9), told(10, false)), "the high watermark moved");

        assert_eq!(
            all.begin(ask(77, 1), vec![], vec![], now, 0),
            Err(ErrorCode::InvalidFetchSessionEpoch)
        );
        let forgotten = vec![fetch("a", 0, 0), fetch("b", 0, 0)];
        let last = all.begin(ask(77, 2), vec![], forgotten, now, 0).unwrap();
        assert_eq!((last.session_id, last.partitions.len()), (0, 0), "an empty session ends");
        assert_eq!(
            all.begin(ask(77, 3), vec![], vec![], now, 0),
            Err(ErrorCode::FetchSessionIdNotFound)
        );
    }

    #[test]
    fn names_and_ids_do_not_mix() {
        let mut all = FetchSessions::new(10);
        all.begin(ask(0, 0), vec![fetch("a", 0, 0)], vec![], Mono(0), 3).unwrap();
        let by_id = SessionAsk { by_id: true, ..ask(3, 1) };
        assert_eq!(
            all.begin(by_id, vec![], vec![], Mono(0), 0),
            Err(ErrorCode::FetchSessionTopicIdError)
        );
    }

    #[test]
    fn a_full_cache_gives_way_only_to_who_ranks_higher() {
        let mut all = FetchSessions::new(1);
        let one = || vec![fetch("a", 0, 0)];
        let two = || vec![fetch("a", 0, 0), fetch("a", 1, 0)];
        all.begin(ask(0, 0), one(), vec![], Mono(0), 1).unwrap();
        let same = all.begin(ask(0, 0), one(), vec![], Mono(1), 2).unwrap();
        assert_eq!(same.session_id, 0, "an equal newcomer goes without");
        let follower = SessionAsk { privileged: true, ..ask(0, 0) };
        let got = all.begin(follower, one(), vec![], Mono(2), 3).unwrap();
        assert_eq!(got.session_id, 3, "a follower pushes a consumer out");
        let bigger = all.begin(ask(0, 0), two(), vec![], Mono(3), 4).unwrap();
        assert_eq!(bigger.session_id, 0, "a consumer never pushes a follower out");
        let later = Mono(3).after(EVICTION_IDLE * 2);
        assert_eq!(all.begin(ask(0, 0), one(), vec![], later, 5).unwrap().session_id, 5);
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn the_next_request_ends_the_wait_of_the_last() {
        let woken = |wake: &Wake| {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            wake.poll_woken(&mut cx).is_ready()
        };
        let (mut all, now) = (FetchSessions::new(10), Mono(0));
        let first = all.begin(ask(0, 0), vec![fetch("a", 0, 5)], vec![], now, 77).unwrap();
        let wake = Wake::new();
        assert!(all.park(&first, &wake) && !woken(&wake));
        let second = all.begin(ask(77, 1), vec![fetch("b", 0, 5)], vec![], now, 0).unwrap();
        assert!(woken(&wake));
        assert!(!all.park(&first, &Wake::new()), "it is not the last any more");
        let wake = Wake::new();
        assert!(all.park(&second, &wake) && !woken(&wake));
        all.begin(ask(77, 0), vec![fetch("a", 0, 5)], vec![], now, 78).unwrap();
        assert!(woken(&wake) && !all.park(&second, &wake), "the session is closed");
        let without = all.begin(ask(0, -1), vec![fetch("a", 0, 5)], vec![], now, 0).unwrap();
        assert!(all.park(&without, &wake));
    }

    #[test]
    fn closing_frees_the_slot() {
        let mut all = FetchSessions::new(1);
        all.begin(ask(0, 0), vec![fetch("a", 0, 0)], vec![], Mono(0), 1).unwrap();
        let bye = all.begin(ask(1, FINAL_EPOCH), vec![fetch("a", 0, 0)], vec![], Mono(0), 2);
        assert_eq!(bye.unwrap().session_id, 0);
        assert!(all.is_empty());
    }
}
