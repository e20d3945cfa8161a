//! Share sessions (`ShareSessionCache`, `ShareSessionContext`, KIP-932): what each member of a share
//! group fetches from this broker, so that requests name only what changed. Pure; the shell holds
//! the lock.

use std::{collections::BTreeMap, sync::Arc};

use crate::base::{ErrorCode, PartitionId, Uuid};

/// A request with this epoch opens a session.
pub const INITIAL_EPOCH: i32 = 0;
/// A request with this epoch closes the session.
pub const FINAL_EPOCH: i32 = -1;

/// A partition by its topic's id.
pub type PartitionKey = (Uuid, PartitionId);

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionKey {
    /// The group.
    pub group: Arc<str>,
    /// The member.
    pub member: Arc<str>,
}

#[derive(Debug)]
struct Session {
    /// The epoch that the next request must have.
    epoch: i32,
    /// The connection that opened it.
    conn: u64,
    /// Partitions by when their turn comes: those that had records go to the end.
    order: BTreeMap<u64, PartitionKey>,
    members: BTreeMap<PartitionKey, Member>,
    turn: u64,
}

#[derive(Debug, Clone, Copy)]
struct Member {
    turn: u64,
    /// Whether the next answer names it, whatever there is to say.
    must_tell: bool,
}

impl Session {
    fn put(&mut self, key: PartitionKey, must_tell: bool) {
        if !self.members.contains_key(&key) {
            self.members.insert(key, Member { turn: self.turn, must_tell });
            self.order.insert(self.turn, key);
            self.turn += 1;
        }
    }

    fn remove(&mut self, key: &PartitionKey) {
        if let Some(member) = self.members.remove(key) {
            self.order.remove(&member.turn);
        }
    }
}

/// What the answer says of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// Whether there are records.
    pub records: bool,
    /// Whether there is an error.
    pub error: bool,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whose it was.
    pub key: SessionKey,
    /// What it fetched.
    pub partitions: Vec<PartitionKey>,
}

/// What is to be done as a connection ended.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Disconnected {
    /// The session that ended with it.
    pub ended: Option<Ended>,
    /// The group, if no member of it has a session any more.
    pub deserted: Option<Arc<str>>,
}

/// All share sessions of this broker.
#[derive(Debug)]
pub struct ShareSessions {
    max: usize,
    sessions: BTreeMap<SessionKey, Session>,
    /// The session that each connection opened last.
    conns: BTreeMap<u64, SessionKey>,
}

impl ShareSessions {
    /// A cache of at most `max` sessions (`group.share.max.share.sessions`).
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, sessions: BTreeMap::new(), conns: BTreeMap::new() }
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

    /// A ShareFetch of `key` with `epoch` begins, by way of connection `conn`. Returns the partitions
    /// to fetch from, in the order of their turns: none as the session is about to be closed.
    ///
    /// # Errors
    /// `ShareSessionNotFound`, `InvalidShareSessionEpoch`, `ShareSessionLimitReached`;
    /// `InvalidRequest` for acknowledgements as a session is opened.
    pub fn fetch(
        &mut self,
        key: &SessionKey,
        epoch: i32,
        has_acks: bool,
        wanted: &[PartitionKey],
        forgotten: &[PartitionKey],
        conn: u64,
    ) -> Result<Vec<PartitionKey>, ErrorCode> {
        match epoch {
            FINAL_EPOCH if self.sessions.contains_key(key) => Ok(Vec::new()),
            FINAL_EPOCH => Err(ErrorCode::ShareSessionNotFound),
            INITIAL_EPOCH if has_acks => Err(ErrorCode::InvalidRequest),
            INITIAL_EPOCH => self.open(key, wanted, conn),
            _ => {
                let session = self.expect(key, epoch)?;
                for partition in wanted {
                    session.put(*partition, true);
                }
                for partition in forgotten {
                    session.remove(partition);
                }
                Ok(session.order.values().copied().collect())
            }
        }
    }

    /// A ShareAcknowledge of `key` with `epoch` begins.
    ///
    /// # Errors
    /// `ShareSessionNotFound`, `InvalidShareSessionEpoch`.
    pub fn acknowledge(&mut self, key: &SessionKey, epoch: i32) -> Result<(), ErrorCode> {
        match epoch {
            INITIAL_EPOCH => Err(ErrorCode::InvalidShareSessionEpoch),
            FINAL_EPOCH if self.sessions.contains_key(key) => Ok(()),
            FINAL_EPOCH => Err(ErrorCode::ShareSessionNotFound),
            _ => self.expect(key, epoch).map(|_| ()),
        }
    }

    fn open(
        &mut self,
        key: &SessionKey,
        wanted: &[PartitionKey],
        conn: u64,
    ) -> Result<Vec<PartitionKey>, ErrorCode> {
        self.sessions.remove(key);
        if self.sessions.len() >= self.max {
            return Err(ErrorCode::ShareSessionLimitReached);
        }
        let mut session =
            Session { epoch: 1, conn, order: BTreeMap::new(), members: BTreeMap::new(), turn: 0 };
        for partition in wanted {
            session.put(*partition, false);
        }
        let order = session.order.values().copied().collect();
        self.sessions.insert(key.clone(), session);
        self.conns.insert(conn, key.clone());
        Ok(order)
    }

    /// The session, whose turn it is to be asked with `epoch`.
    fn expect(&mut self, key: &SessionKey, epoch: i32) -> Result<&mut Session, ErrorCode> {
        let session = self.sessions.get_mut(key).ok_or(ErrorCode::ShareSessionNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidShareSessionEpoch);
        }
        session.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        Ok(session)
    }

    /// Whether the session is where the answer to the request with `epoch` leaves it: else a later
    /// request has overtaken it.
    #[must_use]
    pub fn is_current(&self, key: &SessionKey, epoch: i32) -> bool {
        let next = if epoch == i32::MAX { 1 } else { epoch.saturating_add(1) };
        self.sessions.get(key).is_some_and(|s| s.epoch == next)
    }

    /// Whether the answer to a request within the session of `key` names `partition`, of which it
    /// could say `told`.
    pub fn tell(&mut self, key: &SessionKey, partition: PartitionKey, told: Told) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return true };
        let Some(member) = session.members.get_mut(&partition) else { return true };
        let tells = told.records || told.error || member.must_tell;
        // An error that is over is worth an answer of its own.
        member.must_tell = told.error;
        if told.records {
            session.order.remove(&member.turn);
            member.turn = session.turn;
            session.order.insert(session.turn, partition);
            session.turn += 1;
        }
        tells
    }

    /// The session of `key` is over. `None` if there is none.
    pub fn end(&mut self, key: &SessionKey) -> Option<Ended> {
        let session = self.sessions.remove(key)?;
        Some(Ended { key: key.clone(), partitions: session.order.into_values().collect() })
    }

    /// Connection `conn` ended: with it ends the session that it opened, if that is still the
    /// member's.
    pub fn disconnected(&mut self, conn: u64) -> Disconnected {
        let Some(key) = self.conns.remove(&conn) else { return Disconnected::default() };
        let own = self.sessions.get(&key).is_some_and(|s| s.conn == conn);
        let ended = if own { self.end(&key) } else { None };
        let deserted = !self.has_group(&key.group);
        Disconnected { ended, deserted: deserted.then_some(key.group) }
    }

    /// Whether some member of `group` has a session.
    #[must_use]
    pub fn has_group(&self, group: &Arc<str>) -> bool {
        let from = SessionKey { group: Arc::clone(group), member: "".into() };
        self.sessions.range(from..).next().is_some_and(|(other, _)| other.group == *group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(member: &str) -> SessionKey {
        SessionKey { group: "g".into(), member: member.into() }
    }

    fn p(n: i32) -> PartitionKey {
        (Uuid::ONE, n)
    }

    const SILENT: Told = Told { records: false, error: false };

    #[test]
    fn requests_name_what_changed_and_answers_what_is_new() {
        let (mut all, a) = (ShareSessions::new(2), key("a"));
        assert_eq!(all.fetch(&a, 0, false, &[p(0), p(1)], &[], 7), Ok(vec![p(0), p(1)]));
        assert_eq!(all.fetch(&a, 1, true, &[p(2)], &[p(0)], 7), Ok(vec![p(1), p(2)]));
        assert!(all.is_current(&a, 1) && !all.is_current(&a, 0));
        assert!(!all.tell(&a, p(1), SILENT));
        assert!(all.tell(&a, p(2), SILENT), "it has just come");
        assert!(all.tell(&a, p(1), Told { records: true, error: false }));
        assert_eq!(all.fetch(&a, 2, false, &[], &[], 7), Ok(vec![p(2), p(1)]), "its turn is over");
        assert!(all.tell(&a, p(2), Told { records: false, error: true }));
        assert!(all.tell(&a, p(2), SILENT), "the error is over");
        assert!(!all.tell(&a, p(2), SILENT));
    }

    #[test]
    fn epochs_are_kept() {
        let (mut all, a) = (ShareSessions::new(2), key("a"));
        let not_found = Err(ErrorCode::ShareSessionNotFound);
        let invalid = Err(ErrorCode::InvalidShareSessionEpoch);
        for epoch in [-1, 1] {
            assert_eq!(all.acknowledge(&a, epoch), not_found);
            assert_eq!(all.fetch(&a, epoch, false, &[], &[], 1).map(|_| ()), not_found);
        }
        assert_eq!(all.acknowledge(&a, 0), invalid);
        assert_eq!(all.fetch(&a, 0, true, &[], &[], 1), Err(ErrorCode::InvalidRequest));
        all.fetch(&a, 0, false, &[p(0)], &[], 1).unwrap();
        assert_eq!(all.acknowledge(&a, 2), invalid);
        assert_eq!(all.acknowledge(&a, 1), Ok(()));
        assert_eq!(all.fetch(&a, 1, false, &[], &[], 1).map(|_| ()), invalid);
        assert_eq!(all.fetch(&a, -1, true, &[p(1)], &[], 1), Ok(vec![]));
        assert_eq!(all.end(&a).unwrap().partitions, [p(0)]);
        assert_eq!(all.end(&a), None);
    }

    #[test]
    fn sessions_are_few_and_end_with_their_connection() {
        let (mut all, a, b) = (ShareSessions::new(1), key("a"), key("b"));
        all.fetch(&a, 0, false, &[p(0)], &[], 1).unwrap();
        let limit = all.fetch(&b, 0, false, &[p(0)], &[], 2);
        assert_eq!(limit, Err(ErrorCode::ShareSessionLimitReached));
        all.fetch(&a, 0, false, &[p(3)], &[], 3).unwrap();
        assert_eq!(all.disconnected(1), Disconnected::default(), "it goes on by another");
        assert_eq!(all.disconnected(2), Disconnected::default(), "it had none");
        let done = all.disconnected(3);
        assert_eq!(done.ended.unwrap().partitions, [p(3)]);
        assert_eq!(done.deserted.as_deref(), Some("g"));
        assert!(all.is_empty());
    }
}
