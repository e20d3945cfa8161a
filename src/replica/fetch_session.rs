//! Fetch sessions (KIP-227): what a client asked for last time, so that it may send and receive
//! only differences. A pure machine; the table holds its lock. Rules: `FetchSession.java`,
//! `FetchSessionCacheShard.java`, `FetchManager.java`.
//!
//! Unlike there, a request does not look at every partition of its session: only at those it names,
//! those that rang the session's bell, and those that had something to tell last time. A session of
//! 100,000 idle partitions costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::bell::Bell;
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
type Key = (Uuid, Option<Arc<str>>, PartitionId);

impl PartitionFetch {
    fn key(&self, by_id: bool) -> Key {
        if by_id {
            (self.topic_id, None, self.partition)
        } else {
            (Uuid::ZERO, Some(Arc::clone(&self.topic)), self.partition)
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
    /// Whether there is nothing to look at again before the partition rings.
    pub settled: bool,
    /// The high watermark in the response.
    pub high_watermark: Offset,
    /// The log start offset in the response.
    pub log_start_offset: Offset,
}

/// A partition to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// What it rings with.
    pub id: u64,
    /// What is asked of it.
    pub fetch: PartitionFetch,
}

#[derive(Debug)]
struct Member {
    fetch: PartitionFetch,
    turn: u64,
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
    /// Gives out turns, and ids.
    next: u64,
    members: BTreeMap<u64, Member>,
    places: BTreeMap<Key, u64>,
    /// Members to look at, by turn and id.
    unsettled: BTreeSet<(u64, u64)>,
    bell: Arc<Bell>,
}

impl Session {
    fn new(ask: SessionAsk, now: Mono) -> Self {
        Self {
            by_id: ask.by_id,
            privileged: ask.privileged,
            epoch: 1,
            created: now,
            last_used: now,
            next: 0,
            members: BTreeMap::new(),
            places: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            bell: Bell::new(),
        }
    }

    fn put(&mut self, fetch: PartitionFetch) {
        let key = fetch.key(self.by_id);
        if let Some((id, member)) =
            self.places.get(&key).and_then(|id| Some((*id, self.members.get_mut(id)?)))
        {
            member.fetch = fetch;
            self.unsettled.insert((member.turn, id));
            return;
        }
        let id = self.next;
        self.next += 1;
        self.places.insert(key, id);
        self.unsettled.insert((id, id));
        let member = Member { fetch, turn: id, high_watermark: -1, log_start_offset: -1 };
        self.members.insert(id, member);
    }

    fn forget(&mut self, key: &Key) {
        if let Some(id) = self.places.remove(key)
            && let Some(member) = self.members.remove(&id)
        {
            self.unsettled.remove(&(member.turn, id));
        }
    }

    /// Those of `ids` that are still members are to be looked at.
    fn rang(&mut self, ids: &[u64]) -> Vec<Look> {
        let mut out = Vec::with_capacity(ids.len());
        for id in ids {
            if let Some(member) = self.members.get(id) {
                self.unsettled.insert((member.turn, *id));
                out.push(Look { id: *id, fetch: member.fetch.clone() });
            }
        }
        out
    }

    fn looks(&self) -> Vec<Look> {
        let look = |(_, id): &(u64, u64)| {
            let fetch = self.members.get(id)?.fetch.clone();
            Some(Look { id: *id, fetch })
        };
        self.unsettled.iter().filter_map(look).collect()
    }

    /// Whether the response tells of this partition; notes what it says. A request that was
    /// overtaken by another settles nothing: the position may be another by now.
    fn note(&mut self, id: u64, told: Told, overtaken: bool) -> bool {
        let Some(member) = self.members.get_mut(&id) else { return true };
        let changed = member.high_watermark != told.high_watermark
            || member.log_start_offset != told.log_start_offset;
        member.high_watermark = told.high_watermark;
        member.log_start_offset = told.log_start_offset;
        let was = self.unsettled.remove(&(member.turn, id));
        if told.has_records {
            member.turn = self.next;
            self.next += 1;
        }
        if !told.settled || (overtaken && was) {
            self.unsettled.insert((member.turn, id));
        }
        changed || told.must_tell
    }
}

/// How the answer to one request is to be made.
#[derive(Debug, Clone)]
pub struct FetchContext {
    /// The partitions to look at, in the order of their turns.
    pub looks: Vec<Look>,
    /// Whether there is no partition that could have news.
    pub is_void: bool,
    /// The session id that the response carries; 0 for none.
    pub session_id: i32,
    /// Whether only changed partitions are told.
    pub incremental: bool,
    /// What partitions ring.
    pub bell: Arc<Bell>,
    /// The number to wait with at the bell.
    pub request: u64,
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
        if ask.epoch != INITIAL_EPOCH && ask.epoch != FINAL_EPOCH {
            return self.resume(ask, wanted, forgotten, now);
        }
        if let Some(closed) = self.sessions.remove(&ask.id) {
            // A reader that begins anew does not wait for the answer to what it asked before.
            closed.bell.begin_request();
        }
        let wants = ask.epoch == INITIAL_EPOCH && !wanted.is_empty();
        let has_room = wants
            && (self.sessions.len() < self.slots_max
                || self.evict(ask.privileged, wanted.len(), now));
        if has_room {
            return Ok(self.open(ask, wanted, now, entropy));
        }
        let looks = (0..).zip(wanted).map(|(id, fetch)| Look { id, fetch });
        let looks: Vec<_> = looks.collect();
        let bell = Bell::new();
        Ok(FetchContext {
            is_void: looks.is_empty(),
            looks,
            session_id: NO_SESSION,
            incremental: false,
            request: bell.begin_request(),
            bell,
        })
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
        let request = session.bell.begin_request();
        for fetch in wanted {
            session.put(fetch);
        }
        for fetch in forgotten {
            session.forget(&fetch.key(ask.by_id));
        }
        let rung = session.bell.take();
        session.rang(&rung);
        session.epoch = if session.epoch == i32::MAX { 1 } else { session.epoch + 1 };
        session.last_used = now;
        let context = FetchContext {
            looks: session.looks(),
            is_void: session.members.is_empty(),
            session_id: if session.members.is_empty() { NO_SESSION } else { ask.id },
            incremental: true,
            bell: Arc::clone(&session.bell),
            request,
        };
        if context.is_void {
            self.sessions.remove(&ask.id);
        }
        Ok(context)
    }

    fn open(
        &mut self,
        ask: SessionAsk,
        wanted: Vec<PartitionFetch>,
        now: Mono,
        entropy: u64,
    ) -> FetchContext {
        let mut id = i32::try_from(entropy & 0x7fff_ffff).unwrap_or(1).max(1);
        while self.sessions.contains_key(&id) {
            id = if id == i32::MAX { 1 } else { id + 1 };
        }
        let mut session = Session::new(ask, now);
        for fetch in wanted {
            session.put(fetch);
        }
        let context = FetchContext {
            looks: session.looks(),
            is_void: false,
            session_id: id,
            incremental: false,
            bell: Arc::clone(&session.bell),
            request: session.bell.begin_request(),
        };
        self.sessions.insert(id, session);
        context
    }

    /// What partitions rang while a request waits, to be looked at again. Those of a fetch without
    /// a session are known to who asks: only their ids count.
    pub fn rang(&mut self, context: &FetchContext, ids: &[u64]) -> Vec<Look> {
        let session = self.sessions.get_mut(&context.session_id);
        session.map_or(Vec::new(), |session| session.rang(ids))
    }

    /// Whether the response of `context` tells of `look`, of which it could say `told`. Asked once
    /// for every partition that was looked at, when the response is final.
    pub fn tell(&mut self, context: &FetchContext, look: &Look, told: Told) -> bool {
        let Some(session) = self.sessions.get_mut(&context.session_id) else { return true };
        let overtaken = context.bell.is_superseded(context.request);
        session.note(look.id, told, overtaken) || !context.incremental
    }

    /// Makes room for a newcomer of `size` partitions; `false` if no session may be pushed out.
    fn evict(&mut self, privileged: bool, size: usize, now: Mono) -> bool {
        let idle = |s: &Session| now.since(s.last_used) > EVICTION_IDLE;
        let old = |s: &Session| now.since(s.created) > EVICTION_IDLE;
        let stale = self.sessions.iter().filter(|(_, s)| idle(s)).min_by_key(|(_, s)| s.last_used);
        let victim = stale.or_else(|| {
            let weaker = |s: &Session| !s.privileged || privileged;
            let outranked =
                |s: &Session| (privileged && !s.privileged) || (size > s.members.len() && old(s));
            self.sessions
                .iter()
                .filter(|(_, s)| weaker(s) && outranked(s))
                .min_by_key(|(_, s)| (s.privileged, s.members.len(), s.last_used))
        });
        let Some((&id, _)) = victim else { return false };
        self.sessions.remove(&id);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{super::bell::Listeners, *};

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
        Told {
            must_tell: has_records,
            has_records,
            settled: !has_records,
            high_watermark,
            log_start_offset: 0,
        }
    }

    fn names(context: &FetchContext) -> Vec<(&str, i64)> {
        context.looks.iter().map(|l| (&*l.fetch.topic, l.fetch.fetch_offset)).collect()
    }

    #[test]
    fn a_session_sends_and_tells_differences() {
        let (mut all, now) = (FetchSessions::new(10), Mono(0));
        let both = vec![fetch("a", 0, 5), fetch("b", 0, 0)];
        let first = all.begin(ask(0, 0), both, vec![], now, 77).unwrap();
        assert_eq!((first.session_id, first.incremental), (77, false));
        assert!(all.tell(&first, &first.looks[0], told(5, false)), "a full answer tells all");
        assert!(all.tell(&first, &first.looks[1], told(9, true)));

        let next = all.begin(ask(77, 1), vec![fetch("b", 0, 9)], vec![], now, 0).unwrap();
        assert_eq!(names(&next), [("b", 9)], "nothing new of a");
        assert!(all.tell(&next, &next.looks[0], told(10, false)), "the high watermark moved");
        let next = all.begin(ask(77, 2), vec![fetch("b", 0, 9)], vec![], now, 0).unwrap();
        assert!(!all.tell(&next, &next.looks[0], told(10, false)), "nothing changed");

        assert_eq!(
            all.begin(ask(77, 1), vec![], vec![], now, 0).err(),
            Some(ErrorCode::InvalidFetchSessionEpoch)
        );
        let forgotten = vec![fetch("a", 0, 0), fetch("b", 0, 0)];
        let last = all.begin(ask(77, 3), vec![], forgotten, now, 0).unwrap();
        assert_eq!((last.session_id, last.is_void), (0, true), "an empty session ends");
        assert_eq!(
            all.begin(ask(77, 4), vec![], vec![], now, 0).err(),
            Some(ErrorCode::FetchSessionIdNotFound)
        );
    }

    #[test]
    fn only_what_rang_or_had_something_is_looked_at() {
        let (mut all, now) = (FetchSessions::new(10), Mono(0));
        let three = vec![fetch("a", 0, 0), fetch("b", 0, 0), fetch("c", 0, 0)];
        let first = all.begin(ask(0, 0), three, vec![], now, 5).unwrap();
        let mut listeners = [Listeners::default(), Listeners::default()];
        for look in &first.looks {
            let b = &*look.fetch.topic == "b";
            all.tell(&first, look, told(1, b));
            if let (false, Some(l)) = (b, listeners.get_mut(usize::from(look.id == 2))) {
                l.add(&first.bell, look.id);
            }
        }
        let next = all.begin(ask(5, 1), vec![], vec![], now, 0).unwrap();
        assert_eq!(names(&next), [("b", 0)], "its records were there, and may be wanted again");
        all.tell(&next, &next.looks[0], told(1, false));
        listeners[1].ring();
        let rung = all.rang(&next, &next.bell.take());
        assert_eq!(&*rung[0].fetch.topic, "c");
        // The connection is lost before the answer: nothing was told.
        listeners[0].note();
        let next = all.begin(ask(5, 2), vec![], vec![], now, 0).unwrap();
        assert_eq!(names(&next), [("a", 0), ("c", 0)]);
        let overtaking = all.begin(ask(5, 3), vec![fetch("a", 0, 8)], vec![], now, 0).unwrap();
        for look in overtaking.looks.iter().chain(&next.looks) {
            all.tell(&overtaking, look, told(1, &*look.fetch.topic == "a"));
            all.tell(&next, look, told(1, false));
        }
        let next = all.begin(ask(5, 4), vec![], vec![], now, 0).unwrap();
        assert_eq!(names(&next), [("a", 8)], "an answer that came late settles nothing");
    }

    #[test]
    fn names_and_ids_do_not_mix() {
        let mut all = FetchSessions::new(10);
        all.begin(ask(0, 0), vec![fetch("a", 0, 0)], vec![], Mono(0), 3).unwrap();
        let by_id = SessionAsk { by_id: true, ..ask(3, 1) };
        assert_eq!(
            all.begin(by_id, vec![], vec![], Mono(0), 0).err(),
            Some(ErrorCode::FetchSessionTopicIdError)
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
    fn closing_frees_the_slot() {
        let mut all = FetchSessions::new(1);
        let open = all.begin(ask(0, 0), vec![fetch("a", 0, 0)], vec![], Mono(0), 1).unwrap();
        let bye = all.begin(ask(1, FINAL_EPOCH), vec![fetch("a", 0, 0)], vec![], Mono(0), 2);
        assert_eq!(bye.unwrap().session_id, 0);
        assert!(open.bell.is_superseded(open.request), "it need not wait any longer");
        assert!(all.is_empty());
    }
}
